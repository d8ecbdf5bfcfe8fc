//! One of the three counters. Times are in input clocks since power-on ("ticks").

use serde::{Deserialize, Serialize};

/// A count in the counting element.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Run {
    /// The clock at which it was loaded.
    start: u64,
    count: u32,
}

/// A count that a periodic mode takes over at the end of the present cycle.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Next {
    at: u64,
    count: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Counter {
    /// 0..=5.
    mode: u8,
    bcd: bool,
    /// 1 = low byte only, 2 = high byte only, 3 = low then high.
    access: u8,
    gate: bool,
    /// The count register; `None` until written after a control word.
    reload: Option<u32>,
    /// The low byte of a two-byte write under way.
    low: Option<u8>,
    run: Option<Run>,
    next: Option<Next>,
    /// When the gate stopped the counting.
    stopped: Option<u64>,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
    /// The next read of a two-byte count gives the high byte.
    read_high: bool,
}

impl Counter {
    /// Modes 2 and 3.
    pub fn periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    /// The count register of a counter that runs periodically.
    pub fn period(&self) -> Option<u32> {
        self.run.filter(|_| self.periodic()).map(|run| run.count)
    }

    /// Modes 1 and 5 are started by the gate alone.
    fn triggered(&self) -> bool {
        matches!(self.mode, 1 | 5)
    }

    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    pub fn program(&mut self, control: u8, tick: u64) {
        let mode = match control >> 1 & 7 {
            mode @ 0..6 => mode,
            mode => mode - 4,
        };
        *self = Self {
            mode,
            bcd: control & 1 != 0,
            access: control >> 4 & 3,
            gate: self.gate,
            stopped: (!self.gate).then_some(tick),
            ..Self::default()
        };
    }

    pub fn write(&mut self, byte: u8, tick: u64) {
        let raw = match self.access {
            1 => u16::from(byte),
            2 => u16::from(byte) << 8,
            3 => match self.low.take() {
                Some(low) => u16::from_le_bytes([low, byte]),
                None => {
                    self.low = Some(byte);
                    if self.mode == 0 {
                        self.run = None;
                    }
                    return;
                }
            },
            // No control word yet.
            _ => return,
        };
        let count = match if self.bcd { from_bcd(raw) } else { u32::from(raw) } {
            0 => self.modulus(),
            // A count of 1 is not allowed in the periodic modes (8254 datasheet, figure 22).
            1 if self.periodic() => 2,
            count => count,
        };
        self.reload = Some(count);
        match self.run {
            Some(run) if self.periodic() && self.stopped.is_none() && tick >= run.start => {
                let period = u64::from(run.count);
                let at = run.start + ((tick - run.start) / period + 1) * period;
                self.next = Some(Next { at, count });
            }
            _ if self.triggered() => {}
            _ => {
                self.start(count, tick);
                if self.stopped.is_some() {
                    self.stopped = Some(tick + 1);
                }
            }
        }
    }

    fn start(&mut self, count: u32, tick: u64) {
        self.next = None;
        self.run = Some(Run { start: tick + 1, count });
    }

    pub fn set_gate(&mut self, gate: bool, tick: u64) {
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        match self.mode {
            1 | 5 => {
                if let (true, Some(count)) = (gate, self.reload) {
                    self.start(count, tick);
                }
                self.stopped = None;
            }
            2 | 3 if gate => {
                self.stopped = None;
                if let Some(count) = self.reload {
                    self.start(count, tick);
                }
            }
            _ if gate => {
                if let (Some(stopped), Some(run)) = (self.stopped.take(), &mut self.run) {
                    run.start += tick.saturating_sub(stopped);
                }
            }
            _ => self.stopped = Some(tick),
        }
    }

    /// Takes over a new count whose time has come.
    pub fn settle(&mut self, tick: u64) {
        if let Some(next) = self.next.filter(|n| n.at <= tick) {
            self.next = None;
            self.run = Some(Run { start: next.at, count: next.count });
        }
    }

    /// The run and the clocks that it has counted by `tick`; `None` before it is loaded.
    fn elapsed(&self, tick: u64) -> Option<(Run, u64)> {
        let run = self.run?;
        let until = self.stopped.map_or(tick, |stopped| stopped.min(tick));
        Some((run, until.checked_sub(run.start)?))
    }

    pub fn out(&self, tick: u64) -> bool {
        let Some((run, elapsed)) = self.elapsed(tick) else {
            return self.mode != 0;
        };
        let count = u64::from(run.count);
        match self.mode {
            0 | 1 => elapsed >= count,
            2 | 3 if self.stopped.is_some() => true,
            2 => elapsed % count != count - 1,
            3 => elapsed % count < count.div_ceil(2),
            _ => elapsed != count,
        }
    }

    /// The next clock after `tick` at which OUT rises.
    pub fn next_rise(&self, tick: u64) -> Option<u64> {
        if self.stopped.is_some() {
            return None;
        }
        let run = self.run?;
        let count = u64::from(run.count);
        let rise = match self.mode {
            0 | 1 => run.start + count,
            2 | 3 => run.start + (tick.saturating_sub(run.start) / count + 1) * count,
            _ => run.start + count + 1,
        };
        (rise > tick).then_some(rise)
    }

    /// The counting element, as it is read.
    fn value(&self, tick: u64) -> u16 {
        let Some((run, elapsed)) = self.elapsed(tick) else {
            return self.shown(self.run.map_or(0, |run| run.count));
        };
        let count = u64::from(run.count);
        let modulus = u64::from(self.modulus());
        let value = match self.mode {
            2 => count - elapsed % count,
            3 => {
                let phase = elapsed % count;
                let high = count.div_ceil(2);
                let phase = if phase < high { phase } else { phase - high };
                (count - 2 * phase) & !1
            }
            _ => (modulus + count - elapsed % modulus) % modulus,
        };
        self.shown(value as u32)
    }

    fn shown(&self, value: u32) -> u16 {
        let value = value % self.modulus();
        if self.bcd { to_bcd(value) } else { value as u16 }
    }

    pub fn latch_count(&mut self, tick: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.value(tick));
        }
    }

    pub fn latch_status(&mut self, tick: u64) {
        if self.latched_status.is_none() {
            let null = self.next.is_some() || self.run.is_none_or(|run| tick < run.start);
            let bits = [self.bcd as u8, self.mode << 1, self.access << 4, u8::from(null) << 6];
            self.latched_status = Some(bits.iter().sum::<u8>() | u8::from(self.out(tick)) << 7);
        }
    }

    pub fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.unwrap_or_else(|| self.value(tick)).to_le_bytes();
        let (byte, last) = match (self.access, self.read_high) {
            (1, _) => (low, true),
            (2, _) => (high, true),
            (3, true) => (high, true),
            (3, false) => (low, false),
            _ => (0, true),
        };
        self.read_high = !last;
        if last {
            self.latched_count = None;
        }
        byte
    }
}

fn from_bcd(raw: u16) -> u32 {
    (0..4).rev().fold(0, |value, digit| value * 10 + u32::from(raw >> (4 * digit) & 0xf)) % 10_000
}

fn to_bcd(value: u32) -> u16 {
    [1000, 100, 10, 1].iter().fold(0, |raw, weight| raw << 4 | (value / weight % 10) as u16)
}
