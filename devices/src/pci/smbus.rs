//! The SMBus host of the PIIX4 (82371AB datasheet, 11.3), on a bus without devices: every transfer ends at once, and nobody
//! has acknowledged its address.

use serde::{Deserialize, Serialize};

/// How many ports there are.
pub(super) const LEN: u16 = 16;

/// Offsets of registers.
mod at {
    pub const STATUS: usize = 0;
    pub const CONTROL: usize = 2;
    pub const BLOCK: usize = 7;
}
/// Host status: a transfer has ended with an error of the device; what stores of ones clear.
const DEVICE_ERROR: u8 = 1 << 2;
const CLEARED: u8 = 0x1e;
/// Host control: start, which reads as zero.
const START: u8 = 1 << 6;
/// Which bits of each register hold what is stored: status, slave status, control, command, address, data 0 and 1, block
/// data, slave control, shadow command, slave event and data.
const KEPT: [u8; LEN as usize] = [0, 0, 0x1f, 0xff, 0xff, 0xff, 0xff, 0, 0x0f, 0, 0xff, 0xff, 0, 0, 0, 0];

/// The host's registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Smbus([u8; LEN as usize]);

impl Smbus {
    pub fn read(&self, offset: u64) -> u8 {
        self.0.get(offset as usize).copied().unwrap_or(0xff)
    }

    pub fn write(&mut self, offset: u64, value: u8) {
        let n = offset as usize;
        match n {
            at::STATUS => self.0[n] &= !(value & CLEARED),
            // The block buffer: nothing is ever sent from it.
            at::BLOCK => {}
            n if n < KEPT.len() => self.0[n] = value & KEPT[n],
            _ => {}
        }
        if n == at::CONTROL && value & START != 0 {
            log::debug!("smbus: nobody is at address {:#x}", self.0[4] >> 1);
            self.0[at::STATUS] |= DEVICE_ERROR;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_answers() {
        let mut bus = Smbus::default();
        bus.write(4, 0xa1);
        bus.write(2, START | 0x08);
        assert_eq!((bus.read(0), bus.read(2), bus.read(4)), (DEVICE_ERROR, 0x08, 0xa1));
        bus.write(0, 0xff);
        assert_eq!((bus.read(0), bus.read(16)), (0, 0xff));
    }
}
