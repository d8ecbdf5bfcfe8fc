//! The MC146818 real-time clock with its battery-backed RAM (MC146818A datasheet).
//!
//! Region 0 = ports 0x70-0x71 (index and data of the first 128 bytes) and 0x72-0x73 (of the second 128 bytes).
//! Output line 0 is IRQ8.
//!
//! The clock is an integer function of virtual time; while it runs, its registers are computed when read. The update
//! cycle appears to end exactly on the second, with UIP set during the 2.2 ms before.

mod calendar;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use softmetal_bus::{Ctx, Device, Time, device_state, ones};

use crate::lanes::{read_bytes, write_bytes};
use calendar::DateTime;

/// Register numbers.
mod reg {
    pub const SECONDS: u8 = 0x00;
    pub const SECONDS_ALARM: u8 = 0x01;
    pub const MINUTES: u8 = 0x02;
    pub const MINUTES_ALARM: u8 = 0x03;
    pub const HOURS: u8 = 0x04;
    pub const HOURS_ALARM: u8 = 0x05;
    pub const WEEKDAY: u8 = 0x06;
    pub const DAY: u8 = 0x07;
    pub const MONTH: u8 = 0x08;
    pub const YEAR: u8 = 0x09;
    pub const A: u8 = 0x0a;
    pub const B: u8 = 0x0b;
    pub const C: u8 = 0x0c;
    pub const D: u8 = 0x0d;
    pub const CENTURY: u8 = 0x32;
}

/// Register A.
const UIP: u8 = 0x80;
/// Register B.
const SET: u8 = 0x80;
const BINARY: u8 = 0x04;
const HOURS_24: u8 = 0x02;
/// PIE, AIE, UIE of register B, and PF, AF, UF of register C.
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;
const UPDATE: u8 = 0x10;
/// Register C.
const IRQF: u8 = 0x80;
/// Register D: valid RAM and time.
const VRT: u8 = 0x80;
/// The hour is after noon, in the 12-hour mode.
const PM: u8 = 0x80;

/// How long UIP announces an update: 244 us before, and 1984 us of the update cycle itself.
const UPDATE_NS: u64 = 2_228_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    /// The RAM, 32 bytes a row; the time registers in it are valid only while the clock stands.
    cmos: [[u8; 32]; 8],
    /// What port 0x70 and port 0x72 select.
    index: [u8; 2],
    /// Unix time when the divider chain passed its zero.
    epoch: i64,
    /// How far the divider chain was at virtual time 0, in nanoseconds below one second.
    phase: u64,
    /// Added to the weekday, for guests that count it otherwise.
    weekday_shift: u8,
    /// Flags of register C, without IRQF.
    flags: u8,
    /// The virtual time up to which `flags` are complete.
    seen: Time,
    irq: bool,
}

/// The real-time clock.
#[derive(Debug)]
pub struct Rtc {
    state: State,
}

impl Rtc {
    /// A clock that shows Unix time `start_unix_seconds` (UTC) at virtual time 0; BCD, 24 hours.
    #[must_use]
    pub fn new(start_unix_seconds: i64) -> Self {
        let mut state = State {
            cmos: [[0; 32]; 8],
            index: [0; 2],
            // Some 35,000 years either way: the registers show the year modulo 10,000.
            epoch: start_unix_seconds.clamp(-(1 << 40), 1 << 40),
            phase: 0,
            weekday_shift: 0,
            flags: 0,
            seen: Time(0),
            irq: false,
        };
        *state.byte(reg::A) = 0x26;
        *state.byte(reg::B) = HOURS_24;
        Self { state }
    }

    /// A byte of the battery-backed RAM.
    #[must_use]
    pub fn cmos(&self, index: u8) -> u8 {
        self.state.get(index)
    }

    /// Puts a byte into the battery-backed RAM, as the factory set-up would: memory size, boot order.
    pub fn set_cmos(&mut self, index: u8, value: u8) {
        *self.state.byte(index) = value;
    }
}

impl State {
    fn byte(&mut self, index: u8) -> &mut u8 {
        &mut self.cmos[usize::from(index / 32)][usize::from(index % 32)]
    }

    fn get(&self, index: u8) -> u8 {
        self.cmos[usize::from(index / 32)][usize::from(index % 32)]
    }

    /// The divider chain runs (DV = 010).
    fn divider_runs(&self) -> bool {
        self.get(reg::A) & 0x70 == 0x20
    }

    fn clock_runs(&self) -> bool {
        self.divider_runs() && self.get(reg::B) & SET == 0
    }

    /// Time of the divider chain in nanoseconds.
    fn chain(&self, now: Time) -> Time {
        now.plus(self.phase)
    }

    fn seconds(&self, now: Time) -> u64 {
        self.chain(now).0 / Time::SECOND
    }

    /// The virtual time at which the divider chain shows `chain`.
    fn at_chain(&self, chain: Time) -> Time {
        Time(chain.0.saturating_sub(self.phase))
    }

    /// The rate of the periodic interrupt in Hz.
    fn periodic_hz(&self) -> Option<u64> {
        match self.get(reg::A) & 0x0f {
            0 => None,
            rate @ 1..=2 => Some(256 >> (rate - 1)),
            rate => Some(32_768 >> (rate - 1)),
        }
    }

    fn encode(&self, value: u8) -> u8 {
        if self.get(reg::B) & BINARY != 0 { value } else { (value / 10) << 4 | (value % 10) }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.get(reg::B) & BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0x0f) }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.get(reg::B) & HOURS_24 != 0 {
            return self.encode(hour);
        }
        let half = if hour >= 12 { PM } else { 0 };
        self.encode((hour + 11) % 12 + 1) | half
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.get(reg::B) & HOURS_24 != 0 {
            return self.decode(value);
        }
        self.decode(value & !PM) % 12 + if value & PM != 0 { 12 } else { 0 }
    }

    /// Copies the running clock into the time registers.
    fn freeze(&mut self, now: Time) {
        let seconds = i64::try_from(self.seconds(now)).unwrap_or(i64::MAX);
        let t = DateTime::from_unix(self.epoch.saturating_add(seconds));
        let weekday = (t.weekday + self.weekday_shift) % 7 + 1;
        for (index, value) in [
            (reg::SECONDS, self.encode(t.second)),
            (reg::MINUTES, self.encode(t.minute)),
            (reg::HOURS, self.encode_hour(t.hour)),
            (reg::WEEKDAY, weekday),
            (reg::DAY, self.encode(t.day)),
            (reg::MONTH, self.encode(t.month)),
            (reg::YEAR, self.encode((t.year % 100) as u8)),
            (reg::CENTURY, self.encode((t.year / 100 % 100) as u8)),
        ] {
            *self.byte(index) = value;
        }
    }

    /// Lets the clock run on from the time registers.
    fn thaw(&mut self, now: Time) {
        let year = u16::from(self.decode(self.get(reg::CENTURY))) * 100 + u16::from(self.decode(self.get(reg::YEAR)));
        let unix = DateTime {
            year,
            month: self.decode(self.get(reg::MONTH)),
            day: self.decode(self.get(reg::DAY)),
            hour: self.decode_hour(self.get(reg::HOURS)),
            minute: self.decode(self.get(reg::MINUTES)),
            second: self.decode(self.get(reg::SECONDS)),
            weekday: 0,
        }
        .to_unix();
        let weekday = DateTime::from_unix(unix).weekday;
        self.weekday_shift = (self.get(reg::WEEKDAY) % 7 + 6 + 7 - weekday) % 7;
        self.epoch = unix.saturating_sub(self.seconds(now) as i64);
    }

    /// The first second after chain second `after` that matches the alarm registers, in chain seconds.
    fn next_alarm(&self, after: u64) -> Option<u64> {
        let matches = |alarm: u8, value: u8| alarm >= 0xc0 || alarm == value;
        let start = self.epoch.saturating_add(after as i64).saturating_add(1);
        let mut t = start;
        // At most a day of hours, an hour of minutes and a minute of seconds, each perhaps begun twice.
        for _ in 0..2 * (24 + 60 + 60) + 60 {
            let of_day = t.rem_euclid(86_400);
            let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
            if !matches(self.get(reg::HOURS_ALARM), self.encode_hour(hour as u8)) {
                t += 3600 - of_day % 3600;
            } else if !matches(self.get(reg::MINUTES_ALARM), self.encode(minute as u8)) {
                t += 60 - second;
            } else if !matches(self.get(reg::SECONDS_ALARM), self.encode(second as u8)) {
                t += 1;
            } else {
                return u64::try_from(t - self.epoch).ok();
            }
        }
        None
    }

    /// Sets the flags of everything that happened up to `now`.
    fn sync(&mut self, now: Time) {
        let seen = std::mem::replace(&mut self.seen, now);
        if self.divider_runs() {
            if let Some(hz) = self.periodic_hz() {
                if self.chain(seen).ticks(hz) != self.chain(now).ticks(hz) {
                    self.flags |= PERIODIC;
                }
            }
        }
        let (before, after) = (self.seconds(seen), self.seconds(now));
        if self.clock_runs() && before != after {
            self.flags |= UPDATE;
            if self.flags & ALARM == 0 && self.next_alarm(before).is_some_and(|alarm| alarm <= after) {
                self.flags |= ALARM;
            }
        }
    }

    /// When the next flag rises that is enabled and not set yet.
    fn next_event(&self, now: Time) -> Option<Time> {
        let waiting = self.get(reg::B) & !self.flags;
        let at_second = |second: u64| self.at_chain(Time(second.saturating_mul(Time::SECOND)));
        let second = self.seconds(now);
        let clock = |flag| waiting & flag != 0 && self.clock_runs();
        let periodic = self
            .periodic_hz()
            .filter(|_| waiting & PERIODIC != 0 && self.divider_runs())
            .map(|hz| self.at_chain(Time::of_ticks(self.chain(now).ticks(hz) + 1, hz)));
        let update = clock(UPDATE).then(|| at_second(second + 1));
        let alarm = if clock(ALARM) { self.next_alarm(second).map(at_second) } else { None };
        [periodic, update, alarm].into_iter().flatten().min()
    }

    fn register(&mut self, index: u8, now: Time) -> u8 {
        match index {
            reg::A => {
                let into_second = self.chain(now).0 % Time::SECOND;
                let updating = self.clock_runs() && into_second >= Time::SECOND - UPDATE_NS;
                self.get(reg::A) | if updating { UIP } else { 0 }
            }
            reg::C => {
                let irqf = if self.flags & self.get(reg::B) != 0 { IRQF } else { 0 };
                std::mem::take(&mut self.flags) | irqf
            }
            reg::D => VRT,
            _ => {
                if self.clock_runs() {
                    self.freeze(now);
                }
                self.get(index)
            }
        }
    }

    fn set_register(&mut self, index: u8, value: u8, now: Time) {
        let ran = self.clock_runs();
        if ran {
            self.freeze(now);
        }
        match index {
            reg::A => {
                let divider_ran = self.divider_runs();
                *self.byte(reg::A) = value & !UIP;
                if !divider_ran && self.divider_runs() {
                    // The first update comes half a second after the divider chain is released.
                    self.phase = 3 * Time::SECOND / 2 - now.0 % Time::SECOND;
                    self.phase %= Time::SECOND;
                }
            }
            // SET aborts an update and clears UIE.
            reg::B if value & SET != 0 => *self.byte(reg::B) = value & !UPDATE,
            reg::B => {
                // The format of a running clock changes with the bits that select it.
                *self.byte(reg::B) = value;
                if ran {
                    self.freeze(now);
                }
            }
            reg::C | reg::D => {
                log::debug!("rtc: write {value:#x} to read-only register {index:#x} ignored")
            }
            _ => *self.byte(index) = value,
        }
        let sets_time = matches!(index, reg::A | reg::B | reg::WEEKDAY..=reg::YEAR | reg::CENTURY)
            || matches!(index, reg::SECONDS | reg::MINUTES | reg::HOURS);
        if sets_time && self.clock_runs() {
            self.thaw(now);
        }
    }
}

impl Rtc {
    /// Drives IRQ8 and arms the timer.
    fn update(&mut self, ctx: &mut Ctx) {
        let irq = self.state.flags & self.state.get(reg::B) & (PERIODIC | ALARM | UPDATE) != 0;
        if irq != self.state.irq {
            self.state.irq = irq;
            ctx.line(0, irq);
        }
        match self.state.next_event(ctx.now) {
            Some(at) => ctx.arm(0, at),
            None => ctx.cancel(0),
        }
    }

    fn selected(&self, port: u64) -> u8 {
        if port == 1 { self.state.index[0] & 0x7f } else { self.state.index[1] | 0x80 }
    }
}

impl Device for Rtc {
    fn name(&self) -> &'static str {
        "rtc"
    }

    fn read(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize) -> u64 {
        if region != 0 {
            return ones(width);
        }
        self.state.sync(ctx.now);
        let value = read_bytes(width, |i| match offset + i {
            port @ (1 | 3) => {
                let index = self.selected(port);
                self.state.register(index, ctx.now)
            }
            _ => 0xff,
        });
        self.update(ctx);
        value
    }

    fn write(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize, value: u64) {
        if region != 0 {
            return;
        }
        self.state.sync(ctx.now);
        write_bytes(width, value, |i, byte| match offset + i {
            port @ (0 | 2) => self.state.index[port as usize / 2] = byte,
            port @ (1 | 3) => {
                let index = self.selected(port);
                self.state.set_register(index, byte, ctx.now);
            }
            _ => {}
        });
        self.update(ctx);
    }

    fn timer(&mut self, ctx: &mut Ctx, _timer: u32) {
        self.state.sync(ctx.now);
        self.update(ctx);
    }

    /// The battery keeps time and RAM; only the interrupts go.
    fn reset(&mut self, ctx: &mut Ctx) {
        self.state.sync(ctx.now);
        self.state.flags = 0;
        *self.state.byte(reg::B) &= SET | BINARY | HOURS_24 | 1;
        self.state.index = [0; 2];
        self.state.irq = false;
        ctx.cancel(0);
        ctx.line(0, false);
    }

    device_state!(state, 1);
}
