//! The two DMA controllers and their page registers (Intel 8237A datasheet). A device that has a
//! channel moves its data by [`Dma8237::transfer`].
//!
//! Region 0: ports 0x00 to 0x0F (channels 0 to 3). Region 1: 0xC0 to 0xDF (channels 4 to 7, a register every second
//! port). Region 2: the page registers, 0x80 to 0x8F.

use serde::{Deserialize, Serialize};
use softmetal_bus::{Ctx, Device, device_state};

use crate::lanes::{read_bytes, write_bytes};

/// Page registers, of which channels use 0x81-0x83, 0x87, 0x89-0x8B and 0x8F.
const PAGES: usize = 16;

/// Both controllers of a PC/AT.
#[derive(Debug, Default)]
pub struct Dma8237 {
    state: State,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    controllers: [Controller; 2],
    pages: [u8; PAGES],
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Channel {
    /// Base address and count: loaded together with the current ones.
    base: [u16; 2],
    /// Current address and count.
    current: [u16; 2],
    mode: u8,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Controller {
    channels: [Channel; 4],
    command: u8,
    /// Low nibble: terminal counts reached.
    status: u8,
    /// Software requests, one bit a channel.
    request: u8,
    mask: u8,
    temporary: u8,
    /// The next address or count byte is the high one.
    high: bool,
}

impl Default for Controller {
    fn default() -> Self {
        Self { channels: [Channel::default(); 4], command: 0, status: 0, request: 0, mask: 0xf, temporary: 0, high: false }
    }
}

impl Controller {
    /// Which byte of a word is meant now, 0 or 1; the next access means the other one.
    fn next_half(&mut self) -> usize {
        self.high = !self.high;
        usize::from(!self.high)
    }

    fn read(&mut self, register: u64) -> u8 {
        match register {
            0..8 => {
                let half = self.next_half();
                let channel = &self.channels[register as usize / 2];
                channel.current[register as usize % 2].to_le_bytes()[half]
            }
            8 => std::mem::take(&mut self.status) & 0xf | self.request << 4,
            13 => self.temporary,
            15 => 0xf0 | self.mask,
            _ => 0xff,
        }
    }

    fn write(&mut self, register: u64, value: u8) {
        let bit = 1 << (value & 3);
        let assign = |bits: u8, on: bool| if on { bits | bit } else { bits & !bit };
        match register {
            0..8 => {
                let half = self.next_half();
                let channel = &mut self.channels[register as usize / 2];
                let which = register as usize % 2;
                let mut bytes = channel.base[which].to_le_bytes();
                bytes[half] = value;
                channel.base[which] = u16::from_le_bytes(bytes);
                channel.current[which] = channel.base[which];
            }
            8 => self.command = value,
            9 => self.request = assign(self.request, value & 4 != 0),
            10 => self.mask = assign(self.mask, value & 4 != 0),
            11 => self.channels[usize::from(value & 3)].mode = value & !3,
            12 => self.high = false,
            // Master clear: as reset, but addresses, counts and modes stay.
            13 => *self = Self { channels: self.channels, ..Self::default() },
            14 => self.mask = 0,
            _ => self.mask = value & 0xf,
        }
    }
}

impl Dma8237 {
    /// Both controllers with all channels masked.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// The page registers of channels 0 to 3.
const PAGE_OF: [usize; 4] = [7, 3, 1, 2];
/// Command register: the controller is off.
const DISABLED: u8 = 1 << 2;
/// Mode register: addresses go down; start over after the last byte.
const DOWN: u8 = 1 << 5;
const AUTO: u8 = 1 << 4;

impl Dma8237 {
    /// Moves bytes between `data` and memory through `channel` (0 to 3), as its device asks, from the device to memory if
    /// `to_memory`. Tells how many were moved and whether the channel has reached its terminal count. Nothing is moved
    /// while the channel is masked or set up for the other direction.
    pub fn transfer(&mut self, ctx: &Ctx, channel: usize, to_memory: bool, data: &mut [u8]) -> (usize, bool) {
        let page = u64::from(self.state.pages[PAGE_OF[channel & 3]]) << 16;
        let controller = &mut self.state.controllers[0];
        let bit = 1 << (channel & 3);
        let ch = &mut controller.channels[channel & 3];
        // Verify, write to memory, read from memory.
        let kind = ch.mode >> 2 & 3;
        let fits = kind == 0 || (kind == 1) == to_memory;
        if controller.command & DISABLED != 0 || controller.mask & bit != 0 || kind == 3 || !fits || data.is_empty() {
            return (0, false);
        }
        let n = data.len().min(usize::from(ch.current[1]) + 1);
        let at = ch.current[0];
        for (i, byte) in data[..n].iter_mut().enumerate() {
            let offset = if ch.mode & DOWN != 0 { at.wrapping_sub(i as u16) } else { at.wrapping_add(i as u16) };
            let addr = page | u64::from(offset);
            if kind == 1 {
                ctx.dma_write(addr, std::slice::from_ref(byte));
            } else if kind == 2 {
                ctx.dma_read(addr, std::slice::from_mut(byte));
            }
        }
        ch.current[0] = if ch.mode & DOWN != 0 { at.wrapping_sub(n as u16) } else { at.wrapping_add(n as u16) };
        let end = n > usize::from(ch.current[1]);
        ch.current[1] = ch.current[1].wrapping_sub(n as u16);
        if end {
            controller.status |= bit;
            if ch.mode & AUTO != 0 {
                ch.current = ch.base;
            } else {
                controller.mask |= bit;
            }
        }
        (n, end)
    }
}

impl Device for Dma8237 {
    fn name(&self) -> &'static str {
        "dma8237"
    }
    fn read(&mut self, _ctx: &mut Ctx, region: u8, offset: u64, width: usize) -> u64 {
        let s = &mut self.state;
        read_bytes(width, |i| match region {
            0 => s.controllers[0].read((offset + i) & 15),
            1 => s.controllers[1].read(((offset + i) / 2) & 15),
            _ => s.pages[(offset + i) as usize % PAGES],
        })
    }
    fn write(&mut self, _ctx: &mut Ctx, region: u8, offset: u64, width: usize, value: u64) {
        let s = &mut self.state;
        write_bytes(width, value, |i, byte| match region {
            0 => s.controllers[0].write((offset + i) & 15, byte),
            1 => s.controllers[1].write(((offset + i) / 2) & 15, byte),
            _ => s.pages[(offset + i) as usize % PAGES] = byte,
        });
    }
    fn reset(&mut self, _ctx: &mut Ctx) {
        self.state = State::default();
    }
    device_state!(state, 1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rig;

    #[test]
    fn registers() {
        let (mut rig, mut dma) = (Rig::new(), Dma8237::new());
        for (region, step) in [(0, 1), (1, 2)] {
            let mut out = |register: u64, value| {
                rig.write(&mut dma, region, register * step, 1, value);
            };
            out(12, 0);
            out(4, 0x34);
            out(4, 0x12);
            out(5, 0xff);
            out(12, 0);
            let mut inp = |register: u64| rig.read(&mut dma, region, register * step, 1);
            assert_eq!([inp(4), inp(4), inp(4)], [0x34, 0x12, 0x34]);
            assert_eq!(inp(15), 0xff);
            let mut out = |register: u64, value| {
                rig.write(&mut dma, region, register * step, 1, value);
            };
            out(10, 2);
            out(9, 5);
            let mut inp = |register: u64| rig.read(&mut dma, region, register * step, 1);
            assert_eq!([inp(15), inp(8)], [0xfb, 0x20]);
            rig.write(&mut dma, region, 13 * step, 1, 0);
            let mut inp = |register: u64| rig.read(&mut dma, region, register * step, 1);
            assert_eq!([inp(15), inp(8), inp(4)], [0xff, 0, 0x34]);
        }
        rig.write(&mut dma, 2, 7, 1, 0x5a);
        assert_eq!(rig.read(&mut dma, 2, 7, 1), 0x5a);
    }
}
