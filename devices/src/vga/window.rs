//! The legacy window 0xA0000 to 0xBFFFF: four planes of 64 KiB behind the graphics controller. Byte `n` of plane `p` is byte
//! `4 * n + p` of video memory.

use super::registers::{Registers, gfx, seq};

/// A plane's byte that an address in the window means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Offset in the plane.
    pub offset: u16,
    /// The planes that the address selects, a bit each.
    pub planes: u8,
}

/// The four bytes with all bits of plane `p` equal to bit `p` of `bits`.
fn spread(bits: u8) -> u32 {
    (0..4).filter(|p| bits >> p & 1 != 0).map(|p| 0xff << (8 * p)).sum()
}

/// The same byte in all planes.
fn all(byte: u8) -> u32 {
    u32::from(byte) * 0x0101_0101
}

impl Registers {
    /// The address within the window's part that is mapped, for `offset` from 0xA0000.
    pub fn mapped(&self, offset: u64) -> Option<u64> {
        let (start, len) = match self.gfx[gfx::MISC] >> 2 & 3 {
            0 => (0, 0x2_0000),
            1 => (0, 0x1_0000),
            2 => (0x1_0000, 0x8000),
            _ => (0x1_8000, 0x8000),
        };
        offset.checked_sub(start).filter(|&at| at < len && self.misc & 2 != 0)
    }

    /// What `at` (from [`Registers::mapped`]) means to a load or a store.
    pub fn place(&self, at: u64, store: bool) -> Place {
        let memory_mode = self.seq[seq::MEMORY_MODE];
        if memory_mode & 8 != 0 {
            return Place { offset: at as u16 & !3, planes: 1 << (at & 3) };
        }
        let odd_even = if store { memory_mode & 4 == 0 } else { self.gfx[gfx::MODE] & 0x10 != 0 };
        if odd_even {
            let offset = if self.gfx[gfx::MISC] & 2 != 0 { at as u16 & !1 | (at >> 16 & 1) as u16 } else { at as u16 };
            return Place { offset, planes: 0b0101 << (at & 1) };
        }
        Place { offset: at as u16, planes: 15 }
    }

    /// What a load of the latched bytes gives.
    pub fn load(&self, place: Place, latches: u32) -> u8 {
        if self.gfx[gfx::MODE] & 8 != 0 {
            let care = spread(self.gfx[gfx::DONT_CARE]);
            let differs = (latches ^ spread(self.gfx[gfx::COMPARE])) & care;
            return !differs.to_le_bytes().into_iter().fold(0, |a, b| a | b);
        }
        let selected = 1 << (self.gfx[gfx::READ_MAP] & 3);
        let plane = match place.planes {
            15 => selected,
            // Odd and even: bit 0 of the plane comes from the address.
            0b0101 | 0b1010 => place.planes & if selected & 0b1100 != 0 { 0b1100 } else { 0b0011 },
            one => one,
        };
        latches.to_le_bytes()[plane.trailing_zeros() as usize & 3]
    }

    /// What a store makes of the four bytes `old`.
    pub fn store(&self, place: Place, old: u32, latches: u32, value: u8) -> u32 {
        let rotated = value.rotate_right((self.gfx[gfx::ROTATE] & 7).into());
        let set = spread(self.gfx[gfx::SET_RESET]);
        let mut mask = self.gfx[gfx::BIT_MASK];
        let mode = self.gfx[gfx::MODE] & 3;
        let data = match mode {
            0 => {
                let enable = spread(self.gfx[gfx::ENABLE_SET_RESET]);
                all(rotated) & !enable | set & enable
            }
            1 => latches,
            2 => spread(value),
            _ => {
                mask &= rotated;
                set
            }
        };
        let mixed = if mode == 1 {
            data
        } else {
            let result = match self.gfx[gfx::ROTATE] >> 3 & 3 {
                0 => data,
                1 => data & latches,
                2 => data | latches,
                _ => data ^ latches,
            };
            result & all(mask) | latches & !all(mask)
        };
        let planes = spread(self.seq[seq::MAP_MASK] & place.planes);
        mixed & planes | old & !planes
    }
}
