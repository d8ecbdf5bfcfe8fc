//! The high precision event timer (IA-PC HPET specification 1.0a).
//!
//! Region 0 = 1 KiB of registers (at 0xFED00000). Output lines 0..23 are the I/O APIC's pins, 32 and 33 the legacy
//! replacements of IRQ0 and IRQ8. The counter is 64 bits wide and counts 10 ns.
//!
//! Matches are found when somebody looks (`sync`); a timer is armed only for comparators that may interrupt.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use softmetal_bus::{Ctx, Device, Time, device_state, ones};

use crate::lanes::{extract, insert};

/// The counter's frequency in Hz.
pub const HPET_HZ: u64 = 100_000_000;

/// The output line of timer 0 in legacy replacement mode: IRQ0.
pub const LEGACY_IRQ0: u8 = 32;
/// The output line of timer 1 in legacy replacement mode: IRQ8.
pub const LEGACY_IRQ8: u8 = 33;

const TIMERS: usize = 3;
/// Period 10^7 fs, vendor 0x8086, legacy replacement, 64 bits, three timers, revision 1.
const CAPABILITIES: u64 = 10_000_000 << 32 | 0x8086 << 16 | 1 << 15 | 1 << 13 | (TIMERS as u64 - 1) << 8 | 1;
/// I/O APIC pins to which the timers may be routed.
const ROUTES: u32 = 0x00f0_0000;
/// Interrupts of one comparator do not come faster than this, in counts; shorter periods merge.
const SHORTEST: u64 = 100;

/// General configuration.
const ENABLE: u64 = 1 << 0;
const LEGACY: u64 = 1 << 1;
/// Timer configuration.
const LEVEL: u64 = 1 << 1;
const INTERRUPT: u64 = 1 << 2;
const PERIODIC: u64 = 1 << 3;
const VALUE_SET: u64 = 1 << 6;
const MODE_32: u64 = 1 << 8;
const ROUTE: u64 = 0x1f << 9;
/// Periodic and 64-bit capable, and the routes.
const TIMER_CAPABILITIES: u64 = 1 << 4 | 1 << 5 | (ROUTES as u64) << 32;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Timer {
    config: u64,
    comparator: u64,
    /// What a periodic timer adds at each match.
    period: u64,
    /// The output of an edge-triggered timer has been pulsed and rests high.
    pulsed: bool,
}

impl Timer {
    fn mask(&self) -> u64 {
        if self.config & MODE_32 != 0 { u64::from(u32::MAX) } else { u64::MAX }
    }

    /// Counts after `counter` until the next match; 0 stands for a whole turn.
    fn distance(&self, counter: u64) -> u64 {
        self.comparator.wrapping_sub(counter) & self.mask()
    }

    /// Whether a match lay in the `passed` counts up to `counter`; a periodic comparator moves on.
    fn matched(&mut self, counter: u64, passed: u64) -> bool {
        let distance = self.distance(counter.wrapping_sub(passed));
        if distance == 0 || distance > passed {
            return distance == 0 && passed > self.mask();
        }
        if self.config & PERIODIC != 0 && self.period != 0 {
            let behind = passed - distance;
            let steps = behind / self.period + 1;
            self.comparator = self.comparator.wrapping_add(steps.wrapping_mul(self.period)) & self.mask();
        }
        true
    }

    fn interrupts(&self) -> bool {
        self.config & INTERRUPT != 0
    }

    fn level(&self) -> bool {
        self.config & LEVEL != 0
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    config: u64,
    status: u64,
    /// The counter when it stands; else what the count of virtual time lacks to it.
    counter: u64,
    /// The counter at the last `sync`.
    seen: u64,
    timers: [Timer; TIMERS],
    /// The output lines that are high.
    high: u64,
}

impl State {
    fn enabled(&self) -> bool {
        self.config & ENABLE != 0
    }

    fn legacy(&self) -> bool {
        self.config & (ENABLE | LEGACY) == ENABLE | LEGACY
    }

    fn counter(&self, now: Time) -> u64 {
        if self.enabled() { now.ticks(HPET_HZ).wrapping_add(self.counter) } else { self.counter }
    }

    fn set_counter(&mut self, now: Time, value: u64) {
        self.counter = if self.enabled() { value.wrapping_sub(now.ticks(HPET_HZ)) } else { value };
        self.seen = value;
    }

    fn line(&self, timer: usize) -> Option<u8> {
        match timer {
            0 if self.legacy() => Some(LEGACY_IRQ0),
            1 if self.legacy() => Some(LEGACY_IRQ8),
            _ => {
                let route = ((self.timers[timer].config & ROUTE) >> 9) as u8;
                (ROUTES >> route & 1 != 0).then_some(route)
            }
        }
    }

    /// The register that holds byte `offset`.
    fn register(&self, offset: u64, now: Time) -> Option<u64> {
        match offset & !7 {
            0x000 => Some(CAPABILITIES),
            0x010 => Some(self.config),
            0x020 => Some(self.status),
            0x0f0 => Some(self.counter(now)),
            timer @ 0x100.. => {
                let t = self.timers.get((timer as usize - 0x100) / 0x20)?;
                match timer & 0x18 {
                    0x00 => Some(t.config | TIMER_CAPABILITIES),
                    0x08 => Some(t.comparator),
                    // FSB delivery is not offered.
                    0x10 => Some(0),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// The HPET.
#[derive(Debug, Default)]
pub struct Hpet {
    state: State,
}

impl Hpet {
    /// A halted HPET.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether timers 0 and 1 replace IRQ0 and IRQ8, so that the outputs of the 8254 and the RTC must not get through.
    #[must_use]
    pub fn legacy(&self) -> bool {
        self.state.legacy()
    }

    /// Carries out the matches since the last call.
    fn sync(&mut self, ctx: &mut Ctx) {
        let counter = self.state.counter(ctx.now);
        let passed = counter.wrapping_sub(self.state.seen);
        self.state.seen = counter;
        if passed == 0 {
            return;
        }
        for i in 0..TIMERS {
            let timer = &mut self.state.timers[i];
            if !timer.matched(counter, passed) {
                continue;
            }
            if timer.level() {
                self.state.status |= 1 << i;
            } else if timer.interrupts() {
                timer.pulsed = true;
                if let Some(line) = self.state.line(i).filter(|line| self.state.high >> line & 1 != 0) {
                    // The edge is the rise that follows in `drive`.
                    self.state.high &= !(1 << line);
                    ctx.line(line, false);
                }
            }
        }
    }

    /// Drives the output lines and arms the timer for the next match that interrupts.
    fn drive(&mut self, ctx: &mut Ctx) {
        let state = &mut self.state;
        let wanted = (0..TIMERS)
            .filter(|&i| {
                let timer = &state.timers[i];
                let active = if timer.level() { state.status >> i & 1 != 0 } else { timer.pulsed };
                timer.interrupts() && active
            })
            .filter_map(|i| state.line(i))
            .fold(0u64, |lines, line| lines | 1 << line);
        for line in 0..=LEGACY_IRQ8 {
            if (wanted ^ state.high) >> line & 1 != 0 {
                ctx.line(line, wanted >> line & 1 != 0);
            }
        }
        state.high = wanted;

        let now = ctx.now.ticks(HPET_HZ);
        let next = (0..TIMERS)
            .filter(|&i| {
                let timer = &state.timers[i];
                let unseen = !timer.level() || state.status >> i & 1 == 0;
                state.config & ENABLE != 0 && timer.interrupts() && unseen && state.line(i).is_some()
            })
            .map(|i| {
                let timer = &state.timers[i];
                match timer.distance(state.seen) {
                    0 => timer.mask().saturating_add(1),
                    distance if timer.config & PERIODIC != 0 && timer.period < SHORTEST => distance.max(SHORTEST),
                    distance => distance,
                }
            })
            .min();
        match next {
            Some(distance) => ctx.arm(0, Time::of_ticks(now.saturating_add(distance), HPET_HZ)),
            None => ctx.cancel(0),
        }
    }

    fn store(&mut self, ctx: &mut Ctx, offset: u64, width: usize, value: u64) {
        let state = &mut self.state;
        let Some(old) = state.register(offset, ctx.now) else {
            log::debug!("hpet: write {value:#x} to offset {offset:#x} ignored");
            return;
        };
        let new = insert(old, offset, width, value);
        match offset & !7 {
            0x010 => {
                let counter = state.counter(ctx.now);
                state.config = new & (ENABLE | LEGACY);
                state.set_counter(ctx.now, counter);
            }
            0x020 => state.status &= !insert(0, offset, width, value),
            0x0f0 => state.set_counter(ctx.now, new),
            register @ 0x100.. => {
                let timer = &mut state.timers[(register as usize - 0x100) / 0x20];
                match register & 0x18 {
                    0x00 => timer.configure(new),
                    0x08 => timer.set_comparator(new),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

impl Timer {
    fn configure(&mut self, new: u64) {
        let writable = LEVEL | INTERRUPT | PERIODIC | VALUE_SET | MODE_32 | ROUTE;
        let mut config = new & writable;
        if ROUTES >> ((config & ROUTE) >> 9) & 1 == 0 {
            // A route that does not exist does not stick.
            config = config & !ROUTE | self.config & ROUTE;
        }
        if (config ^ self.config) & (LEVEL | INTERRUPT | ROUTE) != 0 {
            self.pulsed = false;
        }
        self.config = config;
        self.comparator &= self.mask();
        self.period &= self.mask();
    }

    fn set_comparator(&mut self, value: u64) {
        let value = value & self.mask();
        if self.config & PERIODIC != 0 {
            self.period = value;
        }
        if self.config & (PERIODIC | VALUE_SET) != PERIODIC {
            self.comparator = value;
        }
        self.config &= !VALUE_SET;
    }
}

impl Device for Hpet {
    fn name(&self) -> &'static str {
        "hpet"
    }

    fn read(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize) -> u64 {
        if region != 0 {
            return ones(width);
        }
        // The counter is read far more often than all else, and needs nothing brought up to date.
        if offset & !7 != 0x0f0 {
            self.sync(ctx);
            self.drive(ctx);
        }
        match self.state.register(offset, ctx.now) {
            Some(register) => extract(register, offset, width),
            None => {
                log::debug!("hpet: read of offset {offset:#x}");
                ones(width)
            }
        }
    }

    fn write(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize, value: u64) {
        if region == 0 {
            self.sync(ctx);
            self.store(ctx, offset, width, value);
            self.drive(ctx);
        }
    }

    fn timer(&mut self, ctx: &mut Ctx, _timer: u32) {
        self.sync(ctx);
        self.drive(ctx);
    }

    fn reset(&mut self, ctx: &mut Ctx) {
        let high = std::mem::take(&mut self.state).high;
        for line in (0..=LEGACY_IRQ8).filter(|line| high >> line & 1 != 0) {
            ctx.line(line, false);
        }
        ctx.cancel(0);
    }

    device_state!(state, 1);
}
