//! What the monitor says of itself (VESA Enhanced EDID Standard, release A revision 2: EDID 1.4).

/// A detailed timing in pixels and lines: shown, blanked, the front porch and the width of the sync pulse.
struct Timing {
    /// Pixel clock in units of 10 kHz.
    clock: u16,
    across: [u16; 4],
    down: [u16; 4],
}

/// 1024 by 768 at 60 Hz (VESA DMT 10h): what drivers choose if they are not told otherwise.
const PREFERRED: Timing = Timing { clock: 6500, across: [1024, 320, 24, 136], down: [768, 38, 3, 6] };
/// The picture's size in millimetres: 15 inches.
const SIZE: (u16, u16) = (304, 228);

/// Standard timings at 60 Hz: pixels across, the code of the aspect ratio (16:10, 4:3, 5:4, 16:9).
const STANDARD: [(u16, u8); 8] = [(1280, 2), (1280, 1), (1280, 0), (1440, 0), (1600, 1), (1680, 0), (1920, 3), (1920, 0)];

impl Timing {
    /// The 18-byte descriptor (3.10.2).
    fn descriptor(&self) -> [u8; 18] {
        let low = |value: u16| value as u8;
        let high = |shown: u16, blanked: u16| ((shown >> 8) << 4 | blanked >> 8) as u8;
        let [x, x_blank, x_front, x_sync] = self.across;
        let [y, y_blank, y_front, y_sync] = self.down;
        let [c0, c1] = self.clock.to_le_bytes();
        let sync = (x_front >> 8) << 6 | (x_sync >> 8) << 4 | (y_front >> 4) << 2 | y_sync >> 4;
        let (mm_x, mm_y) = SIZE;
        // A digital separate sync, both negative.
        [
            c0,
            c1,
            low(x),
            low(x_blank),
            high(x, x_blank),
            low(y),
            low(y_blank),
            high(y, y_blank),
            low(x_front),
            low(x_sync),
            ((y_front & 15) << 4 | y_sync & 15) as u8,
            low(sync),
            low(mm_x),
            low(mm_y),
            high(mm_x, mm_y),
            0,
            0,
            0x18,
        ]
    }
}

/// A descriptor of text (3.10.3): `tag` says what it is.
fn text(tag: u8, text: &[u8]) -> [u8; 18] {
    let mut d = [b' '; 18];
    d[..5].copy_from_slice(&[0, 0, 0, tag, 0]);
    d[5..5 + text.len()].copy_from_slice(text);
    if let Some(end) = d.get_mut(5 + text.len()) {
        *end = b'\n';
    }
    d
}

/// The base block.
#[must_use]
pub fn edid() -> [u8; 128] {
    let mut e = [0; 128];
    e[..8].copy_from_slice(&[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
    // "SFM" in letters of 5 bits, product 1, serial number 1; made in week 1 of 2026.
    let maker = [b'S', b'F', b'M'].iter().fold(0u16, |all, letter| all << 5 | u16::from(letter - b'@'));
    e[8..10].copy_from_slice(&maker.to_be_bytes());
    e[10..18].copy_from_slice(&[1, 0, 1, 0, 0, 0, 1, (2026 - 1990) as u8]);
    // Version 1.4; a digital input of 8 bits a colour over no particular interface; centimetres; gamma 2.2; RGB, sRGB, and the
    // preferred timing is native.
    e[18..25].copy_from_slice(&[1, 4, 0xa0, 30, 23, 120, 0x06]);
    // Chromaticities of sRGB (3.7).
    e[25..35].copy_from_slice(&[0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54]);
    // Established: 640 by 480, 800 by 600, 1024 by 768 at 60 Hz.
    e[35..38].copy_from_slice(&[0x21, 0x08, 0]);
    for (slot, (width, aspect)) in e[38..54].chunks_exact_mut(2).zip(STANDARD) {
        slot.copy_from_slice(&[(width / 8 - 31) as u8, aspect << 6]);
    }
    e[54..72].copy_from_slice(&PREFERRED.descriptor());
    // Range limits: 50 to 75 Hz, 30 to 100 kHz, 260 MHz, no secondary timing.
    e[72..90].copy_from_slice(&text(0xfd, &[50, 75, 30, 100, 26, 0x01]));
    e[90..108].copy_from_slice(&text(0xfc, b"Softmetal"));
    // A dummy.
    e[108..126].copy_from_slice(&text(0x10, &[0; 13]));
    e[127] = e[..127].iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    e
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_well_formed() {
        let e = edid();
        assert_eq!(e.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        assert_eq!(e[8..10], [0x4c, 0xcd]);
        // 1024 by 768: 65 MHz over 1344 by 806 pixels are 60 Hz.
        let d = &e[54..72];
        let value = |low: usize, high: usize, shift: u32| u32::from(d[low]) | u32::from(d[high] >> shift & 15) << 8;
        let (x, y) = (value(2, 4, 4) + value(3, 4, 0), value(5, 7, 4) + value(6, 7, 0));
        assert_eq!((value(2, 4, 4), value(5, 7, 4), x, y), (1024, 768, 1344, 806));
        assert_eq!(u32::from(u16::from_le_bytes([d[0], d[1]])) * 10_000 / (x * y), 60);
    }
}
