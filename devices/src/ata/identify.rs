//! IDENTIFY DEVICE and IDENTIFY PACKET DEVICE (ATA/ATAPI-7, volume 1, 6.17 and 6.18).

use super::{Media, SECTOR, Unit};

/// The geometry at power-on.
pub(super) const HEADS: u8 = 16;
pub(super) const SECTORS: u8 = 63;
const MAX_CYLINDERS: u64 = 16383;
/// Most sectors in a block of READ and WRITE MULTIPLE.
pub(super) const MAX_MULTIPLE: u8 = 16;
/// Most 512-byte blocks of ranges in one DATA SET MANAGEMENT command.
pub(super) const TRIM_BLOCKS: u16 = 8;

/// Puts a text into words, its first character in the high byte, filled up with spaces.
fn text(words: &mut [u16], text: &str) {
    let mut bytes = text.bytes().chain(std::iter::repeat(b' '));
    for word in words {
        let mut next = || u16::from(bytes.next().unwrap_or(b' '));
        *word = next() << 8 | next();
    }
}

impl Unit {
    /// The 512 bytes.
    pub(super) fn identify(&self) -> Vec<u8> {
        let s = &self.state;
        let mut w = [0u16; 256];
        text(&mut w[10..20], &self.serial);
        text(&mut w[23..27], env!("CARGO_PKG_VERSION"));
        w[49] = 0x0b00;
        // Words 64 to 70 and 88 are valid.
        w[53] = 6;
        let selected = |kind: u8| if s.mode >> 3 == kind { 0x100 << (s.mode & 7) } else { 0 };
        w[63] = 0x07 | selected(4);
        w[64] = 3;
        w[65..69].fill(120);
        w[80] = 0xf0;
        w[88] = 0x3f | selected(8);
        if self.sata {
            // Generations 1 and 2.
            w[76] = 0x0006;
        } else {
            w[93] = 0x6001;
        }
        match &self.media {
            Media::Disk(_) => self.identify_disk(&mut w),
            Media::Cd(_) => {
                // ATAPI, CD-ROM, removable, DRQ within 50 us of PACKET, 12-byte packets.
                w[0] = 0x85c0;
                text(&mut w[27..47], "SOFTMETAL CD-ROM");
                // NOP, DEVICE RESET, packets, power management.
                w[82] = 0x4218;
                w[83] = 0x4000;
                w[85] = 0x4218;
                w[87] = 0x4000;
            }
        }
        let mut bytes: Vec<u8> = w.iter().flat_map(|w| w.to_le_bytes()).collect();
        bytes[510] = 0xa5;
        bytes[511] = bytes.iter().fold(0u8, |sum, b| sum.wrapping_sub(*b));
        bytes
    }

    fn identify_disk(&self, w: &mut [u16; 256]) {
        let Media::Disk(disk) = &self.media else { return };
        let s = &self.state;
        let total = softmetal_bus::BlockBackend::size(disk) / SECTOR;
        let cylinders = |heads: u8, sectors: u8| (total / (u64::from(heads) * u64::from(sectors)).max(1)).min(MAX_CYLINDERS);
        let dwords = |w: &mut [u16], value: u64, n: usize| {
            for (i, word) in w[..n].iter_mut().enumerate() {
                *word = (value >> (16 * i)) as u16;
            }
        };
        w[0] = 0x0040;
        w[1] = cylinders(HEADS, SECTORS) as u16;
        w[3] = HEADS.into();
        w[6] = SECTORS.into();
        text(&mut w[27..47], "SOFTMETAL HARDDISK");
        w[47] = 0x8000 | u16::from(MAX_MULTIPLE);
        w[50] = 0x4000;
        // Word 54 to 58: the geometry in use.
        w[53] |= 1;
        let now = cylinders(s.heads, s.sectors);
        w[54] = now as u16;
        w[55] = s.heads.into();
        w[56] = s.sectors.into();
        dwords(&mut w[57..], now * u64::from(s.heads) * u64::from(s.sectors), 2);
        w[59] = if s.multiple == 0 { 0 } else { 0x100 | u16::from(s.multiple) };
        dwords(&mut w[60..], total.min(0xfff_ffff), 2);
        // NOP, look-ahead, write cache, power management.
        w[82] = 0x4068;
        // FLUSH CACHE (EXT), 48-bit addresses.
        w[83] = 0x7400;
        // WRITE DMA FUA EXT; the logs on a serial link.
        w[84] = 0x4040 | u16::from(self.sata) << 5;
        w[85] = 0x4048 | u16::from(s.write_cache) << 5;
        w[86] = 0x3400;
        w[87] = w[84];
        dwords(&mut w[100..], total, 4);
        w[105] = TRIM_BLOCKS;
        w[106] = 0x4000;
        w[169] = 1;
        // Not rotating.
        w[217] = 1;
        if self.sata {
            // 32 queued commands.
            w[75] = 31;
            w[76] |= 0x0100;
        }
    }
}
