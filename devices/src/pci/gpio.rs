//! The general-purpose pins of the ICH9 (ICH9 datasheet, 13.10), none of which is wired: inputs read high, outputs what was
//! stored.

use serde::{Deserialize, Serialize};

/// How many ports there are.
pub(super) const LEN: u16 = 64;

/// Offsets of the registers of pins 0 to 31 and 32 to 60: which pins are inputs, and their levels.
const BANKS: [(usize, usize); 2] = [(0x04, 0x0c), (0x34, 0x38)];
/// The 32-bit registers that hold what is stored: use, direction, level, blinking, inversion, and use, direction and level of
/// the second bank.
const KEPT: [usize; 8] = [0x00, 0x04, 0x0c, 0x18, 0x2c, 0x30, 0x34, 0x38];

/// The registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Gpio([[u8; 32]; 2]);

impl Default for Gpio {
    /// All pins are used as such, and inputs.
    fn default() -> Self {
        let mut new = Self([[0; 32]; 2]);
        for register in [0x00, 0x30].into_iter().chain(BANKS.map(|bank| bank.0)) {
            (register..register + 4).for_each(|n| *new.byte(n) = 0xff);
        }
        new
    }
}

impl Gpio {
    fn byte(&mut self, n: usize) -> &mut u8 {
        &mut self.0[n / 32 % 2][n % 32]
    }

    pub fn read(&self, offset: u64) -> u8 {
        let n = offset as usize;
        let get = |n: usize| self.0.as_flattened().get(n).copied().unwrap_or(0xff);
        match BANKS.into_iter().find(|bank| n & !3 == bank.1) {
            Some((inputs, level)) => get(n) | get(n - level + inputs),
            None => get(n),
        }
    }

    pub fn write(&mut self, offset: u64, value: u8) {
        let n = offset as usize;
        if KEPT.contains(&(n & !3)) {
            *self.byte(n) = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_read_back_and_inputs_are_high() {
        let mut pins = Gpio::default();
        assert_eq!((pins.read(0x0c), pins.read(0x38)), (0xff, 0xff));
        // Pins 0 to 3 become outputs, of which pin 1 is high.
        pins.write(0x04, 0xf0);
        pins.write(0x0c, 0x02);
        pins.write(0x10, 0x55);
        assert_eq!((pins.read(0x0c), pins.read(0x04), pins.read(0x10), pins.read(64)), (0xf2, 0xf0, 0, 0xff));
    }
}
