//! The 8254 interval timer (8254 datasheet) and the port 0x61 that goes with it.
//!
//! Regions: 0 = ports 0x40-0x43, 1 = port 0x61. Output line 0 is OUT0 (IRQ0).
//!
//! Every counter is an integer function of the time since it was loaded; the only events are the rising edges of OUT0.
//! In the periodic modes both edges are driven at the instant of the rising one.

mod counter;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use softmetal_bus::{Ctx, Device, Time, device_state, ones};

use crate::lanes::{read_bytes, write_bytes};
use counter::Counter;

/// The input clock in Hz.
pub const PIT_HZ: u64 = 1_193_182;

/// Half a period of the refresh request (port 0x61 bit 4), in input clocks: counter 1 as every BIOS programs it.
const REFRESH_CLOCKS: u64 = 18;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    counters: [Counter; 3],
    /// The level of OUT0 as last driven.
    out0: bool,
    /// The clock of the rising edge of OUT0 for which the timer is armed.
    rise: Option<u64>,
    /// Bits 3:0 of port 0x61: gate of counter 2, speaker data, parity and channel check disable.
    port61: u8,
}

impl State {
    fn new() -> Self {
        let mut state = Self::default();
        // GATE0 and GATE1 are tied high.
        state.counters[0].set_gate(true, 0);
        state.counters[1].set_gate(true, 0);
        state
    }
}

/// The 8254.
#[derive(Debug)]
pub struct Pit8254 {
    state: State,
}

impl Default for Pit8254 {
    fn default() -> Self {
        Self::new()
    }
}

impl Pit8254 {
    /// A timer whose counters are not programmed yet.
    #[must_use]
    pub fn new() -> Self {
        Self { state: State::new() }
    }

    /// The tone that the speaker plays: the reload value of counter 2 in input clocks ([`PIT_HZ`]), while it is heard.
    #[must_use]
    pub fn speaker(&self) -> Option<u32> {
        (self.state.port61 & 3 == 3).then(|| self.state.counters[2].period()).flatten()
    }

    fn control(&mut self, value: u8, tick: u64) {
        let channel = usize::from(value >> 6);
        if let Some(counter) = self.state.counters.get_mut(channel) {
            match value >> 4 & 3 {
                0 => counter.latch_count(tick),
                _ => counter.program(value, tick),
            }
            return;
        }
        for (i, counter) in self.state.counters.iter_mut().enumerate() {
            if value & 2 << i != 0 {
                if value & 0x20 == 0 {
                    counter.latch_count(tick);
                }
                if value & 0x10 == 0 {
                    counter.latch_status(tick);
                }
            }
        }
    }

    /// Gives the edge of OUT0 that is due, even if the board has not come to announce it.
    fn sync(&mut self, ctx: &mut Ctx) {
        let tick = ctx.now.ticks(PIT_HZ);
        for counter in &mut self.state.counters {
            counter.settle(tick);
        }
        if self.state.rise.take_if(|rise| *rise <= tick).is_some() {
            if self.state.out0 {
                ctx.line(0, false);
            }
            self.state.out0 = true;
            ctx.line(0, true);
        }
    }

    /// Drives OUT0 and arms the timer for its next rising edge.
    fn update(&mut self, ctx: &mut Ctx) {
        let tick = ctx.now.ticks(PIT_HZ);
        let counter = &self.state.counters[0];
        // The low half of a periodic output is not driven, see above.
        let out = counter.periodic() || counter.out(tick);
        if out != self.state.out0 {
            self.state.out0 = out;
            ctx.line(0, out);
        }
        self.state.rise = self.state.counters[0].next_rise(tick);
        match self.state.rise {
            Some(rise) => ctx.arm(0, Time::of_ticks(rise, PIT_HZ)),
            None => ctx.cancel(0),
        }
    }

    fn read_port61(&self, tick: u64) -> u8 {
        let refresh = ((tick / REFRESH_CLOCKS) & 1) as u8;
        let out2 = u8::from(self.state.counters[2].out(tick));
        self.state.port61 | refresh << 4 | out2 << 5
    }
}

impl Device for Pit8254 {
    fn name(&self) -> &'static str {
        "pit8254"
    }

    fn read(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize) -> u64 {
        let tick = ctx.now.ticks(PIT_HZ);
        for counter in &mut self.state.counters {
            counter.settle(tick);
        }
        match region {
            0 => read_bytes(width, |i| match offset + i {
                channel @ 0..3 => self.state.counters[channel as usize].read(tick),
                _ => 0xff,
            }),
            1 => read_bytes(width, |i| if offset + i == 0 { self.read_port61(tick) } else { 0xff }),
            _ => ones(width),
        }
    }

    fn write(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize, value: u64) {
        self.sync(ctx);
        let tick = ctx.now.ticks(PIT_HZ);
        write_bytes(width, value, |i, byte| match (region, offset + i) {
            (0, channel @ 0..3) => self.state.counters[channel as usize].write(byte, tick),
            (0, 3) => self.control(byte, tick),
            (1, 0) => {
                self.state.port61 = byte & 0x0f;
                self.state.counters[2].set_gate(byte & 1 != 0, tick);
            }
            (region, offset) => log::debug!("pit8254: write {byte:#x} to region {region} offset {offset:#x} ignored"),
        });
        self.update(ctx);
    }

    fn timer(&mut self, ctx: &mut Ctx, _timer: u32) {
        self.sync(ctx);
        self.update(ctx);
    }

    fn reset(&mut self, ctx: &mut Ctx) {
        self.state = State::new();
        ctx.cancel(0);
        ctx.line(0, false);
    }

    device_state!(state, 1);
}
