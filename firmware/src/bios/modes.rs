//! The VGA's modes: registers, memory layout, colours (IBM VGA Technical Reference).

/// How a mode keeps its picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Characters and attributes.
    Text,
    /// 1 or 2 bits a pixel, even and odd lines apart: modes 4 to 6. The number of bits.
    Cga(u8),
    /// Four planes.
    Planar,
    /// A byte a pixel, spread over the planes: mode 13h.
    Chained,
}

/// Which colours the DAC gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colors {
    /// The 64 of the EGA.
    Ega,
    /// The 16 of the CGA, in the places that its modes' palettes select.
    Cga,
    /// White by intensity.
    Mono,
    /// The 256 of mode 13h.
    Many,
}

/// A mode.
pub struct Mode {
    /// Its number.
    pub number: u8,
    pub layout: Layout,
    pub colors: Colors,
    pub columns: u16,
    pub rows: u8,
    /// Rows of a character.
    pub height: u8,
    /// Bytes of a page, as the BIOS data area has it.
    pub page: u16,
    misc: u8,
    /// Sequencer registers 1 to 4.
    seq: [u8; 4],
    crtc: [u8; 25],
    /// Attribute controller registers 0 to 13h.
    attr: [u8; 20],
    gfx: [u8; 9],
}

impl Mode {
    /// Pixels across.
    pub fn width(&self) -> u16 {
        self.columns * 8
    }

    /// Whether the CRT controller is at 3B4h.
    pub fn mono_port(&self) -> bool {
        self.misc & 1 == 0
    }

    /// The stores that set the mode's registers, in order: port, index, value. The attribute controller's are apart.
    pub fn registers(&self) -> impl Iterator<Item = (u16, u8, u8)> + '_ {
        let crtc = if self.mono_port() { 0x3B4 } else { 0x3D4 };
        let of = |port: u16, first: u8, values: &'static [u8]| (first..).zip(values).map(move |(index, value)| (port, index, *value));
        let seq = (1u8..).zip(self.seq).map(|(index, value)| (0x3C4, index, value));
        let unlock = of(crtc, 0x11, &[0]);
        let rest = (0u8..).zip(self.crtc).map(move |(index, value)| (crtc, index, value));
        let gfx = (0u8..).zip(self.gfx).map(|(index, value)| (0x3CE, index, value));
        seq.chain(unlock).chain(rest).chain(gfx)
    }

    /// The miscellaneous output register.
    pub fn misc(&self) -> u8 {
        self.misc
    }

    /// Attribute controller registers.
    pub fn attributes(&self) -> [u8; 20] {
        self.attr
    }
}

const TEXT_40: [u8; 25] = [
    0x2D, 0x27, 0x28, 0x90, 0x2B, 0xA0, 0xBF, 0x1F, 0x00, 0x4F, 0x0D, 0x0E, 0, 0, 0, 0, 0x9C, 0x8E, 0x8F, 0x14, 0x1F, 0x96, 0xB9, 0xA3,
    0xFF,
];
const TEXT_80: [u8; 25] = [
    0x5F, 0x4F, 0x50, 0x82, 0x55, 0x81, 0xBF, 0x1F, 0x00, 0x4F, 0x0D, 0x0E, 0, 0, 0, 0, 0x9C, 0x8E, 0x8F, 0x28, 0x1F, 0x96, 0xB9, 0xA3,
    0xFF,
];
const TEXT_MONO: [u8; 25] = [
    0x5F, 0x4F, 0x50, 0x82, 0x55, 0x81, 0xBF, 0x1F, 0x00, 0x4F, 0x0D, 0x0E, 0, 0, 0, 0, 0x9C, 0x8E, 0x8F, 0x28, 0x0F, 0x96, 0xB9, 0xA3,
    0xFF,
];

/// CRT controller registers of a graphics mode: `narrow` is 320 pixels, `lines` 200 (shown twice), 350 or 480.
const fn graphics(narrow: bool, lines: u16, max_scan: u8, offset: u8, underline: u8, mode: u8) -> [u8; 25] {
    let mut c = [0; 25];
    let across: [u8; 6] = if narrow { [0x2D, 0x27, 0x28, 0x90, 0x2B, 0x80] } else { [0x5F, 0x4F, 0x50, 0x82, 0x54, 0x80] };
    let mut i = 0;
    while i < across.len() {
        c[i] = across[i];
        i += 1;
    }
    // Total, overflow; retrace start and end, display end; blanking start and end.
    let down: [u8; 7] = match lines {
        480 => [0x0B, 0x3E, 0xEA, 0x8C, 0xDF, 0xE7, 0x04],
        350 => [0xBF, 0x1F, 0x83, 0x85, 0x5D, 0x63, 0xBA],
        _ => [0xBF, 0x1F, 0x9C, 0x8E, 0x8F, 0x96, 0xB9],
    };
    (c[6], c[7], c[0x10], c[0x11], c[0x12], c[0x15], c[0x16]) = (down[0], down[1], down[2], down[3], down[4], down[5], down[6]);
    (c[9], c[0x13], c[0x14], c[0x17], c[0x18]) = (max_scan, offset, underline, mode, 0xFF);
    c
}

/// Palette registers, then mode, overscan, planes and panning.
const fn attributes(palette: [u8; 16], mode: u8, planes: u8, panning: u8) -> [u8; 20] {
    let mut a = [0; 20];
    let mut i = 0;
    while i < 16 {
        a[i] = palette[i];
        i += 1;
    }
    (a[16], a[18], a[19]) = (mode, planes, panning);
    a
}

const EGA: [u8; 16] = [0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0x3F];
const CGA: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17];
const CGA_4: [u8; 16] = [0, 0x13, 0x15, 0x17, 2, 4, 6, 7, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17];
const STRAIGHT: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const MONO: [u8; 16] = [0, 8, 8, 8, 8, 8, 8, 8, 0x10, 0x18, 0x18, 0x18, 0x18, 0x18, 0x18, 0x18];
const MONO_GRAPHICS: [u8; 16] = [0, 8, 0, 0, 0x18, 0x18, 0, 0, 0, 8, 0, 0, 0, 0x18, 0, 0];

const fn one_color(color: u8) -> [u8; 16] {
    let mut palette = [color; 16];
    palette[0] = 0;
    palette
}

const COLOR_TEXT: [u8; 20] = attributes(EGA, 0x0C, 0x0F, 8);
const TEXT_GFX: [u8; 9] = [0, 0, 0, 0, 0, 0x10, 0x0E, 0, 0xFF];
const PLANAR_GFX: [u8; 9] = [0, 0, 0, 0, 0, 0, 0x05, 0x0F, 0xFF];

const fn text(number: u8, columns: u16, page: u16, clocking: u8, crtc: [u8; 25]) -> Mode {
    let seq = [clocking, 0x03, 0x00, 0x02];
    Mode {
        number,
        layout: Layout::Text,
        colors: Colors::Ega,
        columns,
        rows: 25,
        height: 16,
        page,
        misc: 0x67,
        seq,
        crtc,
        attr: COLOR_TEXT,
        gfx: TEXT_GFX,
    }
}

#[allow(clippy::too_many_arguments, reason = "a row of the table below")]
const fn planar(number: u8, columns: u16, rows: u8, height: u8, page: u16, misc: u8, crtc: [u8; 25], palette: [u8; 16]) -> Mode {
    let seq = [if columns == 40 { 0x09 } else { 0x01 }, 0x0F, 0x00, 0x06];
    let attr = attributes(palette, 0x01, 0x0F, 0);
    Mode { number, layout: Layout::Planar, colors: Colors::Ega, columns, rows, height, page, misc, seq, crtc, attr, gfx: PLANAR_GFX }
}

/// All modes.
pub static MODES: [Mode; 15] = [
    text(0x00, 40, 0x800, 0x08, TEXT_40),
    text(0x01, 40, 0x800, 0x08, TEXT_40),
    text(0x02, 80, 0x1000, 0x00, TEXT_80),
    text(0x03, 80, 0x1000, 0x00, TEXT_80),
    cga(0x04, 40, 0x09, 0x03, 0x02, graphics(true, 200, 0xC1, 0x14, 0, 0xA2), attributes(CGA_4, 0x01, 0x03, 0), 0x30),
    cga(0x05, 40, 0x09, 0x03, 0x02, graphics(true, 200, 0xC1, 0x14, 0, 0xA2), attributes(CGA_4, 0x01, 0x03, 0), 0x30),
    cga(0x06, 80, 0x01, 0x01, 0x06, graphics(false, 200, 0xC1, 0x28, 0, 0xC2), attributes(one_color(0x17), 0x01, 0x01, 0), 0),
    Mode {
        colors: Colors::Mono,
        misc: 0x66,
        attr: attributes(MONO, 0x0E, 0x0F, 8),
        gfx: [0, 0, 0, 0, 0, 0x10, 0x0A, 0, 0xFF],
        ..text(0x07, 80, 0x1000, 0x00, TEXT_MONO)
    },
    Mode { colors: Colors::Cga, ..planar(0x0D, 40, 25, 8, 0x2000, 0x63, graphics(true, 200, 0xC0, 0x14, 0, 0xE3), CGA) },
    Mode { colors: Colors::Cga, ..planar(0x0E, 80, 25, 8, 0x4000, 0x63, graphics(false, 200, 0xC0, 0x28, 0, 0xE3), CGA) },
    Mode {
        colors: Colors::Mono,
        attr: attributes(MONO_GRAPHICS, 0x0B, 0x05, 0),
        ..planar(0x0F, 80, 25, 14, 0x8000, 0xA3, graphics(false, 350, 0x40, 0x28, 0x0F, 0xE3), MONO_GRAPHICS)
    },
    planar(0x10, 80, 25, 14, 0x8000, 0xA3, graphics(false, 350, 0x40, 0x28, 0x0F, 0xE3), EGA),
    planar(0x11, 80, 30, 16, 0xA000, 0xE3, graphics(false, 480, 0x40, 0x28, 0, 0xC3), one_color(0x3F)),
    planar(0x12, 80, 30, 16, 0xA000, 0xE3, graphics(false, 480, 0x40, 0x28, 0, 0xE3), EGA),
    Mode {
        layout: Layout::Chained,
        colors: Colors::Many,
        seq: [0x01, 0x0F, 0x00, 0x0E],
        attr: attributes(STRAIGHT, 0x41, 0x0F, 0),
        gfx: [0, 0, 0, 0, 0, 0x40, 0x05, 0x0F, 0xFF],
        ..planar(0x13, 40, 25, 8, 0xFA00, 0x63, graphics(false, 200, 0x41, 0x28, 0x40, 0xA3), STRAIGHT)
    },
];

#[allow(clippy::too_many_arguments, reason = "a row of the table above")]
const fn cga(number: u8, columns: u16, clocking: u8, planes: u8, memory: u8, crtc: [u8; 25], attr: [u8; 20], mode: u8) -> Mode {
    let bits = if columns == 40 { 2 } else { 1 };
    Mode {
        number,
        layout: Layout::Cga(bits),
        colors: Colors::Cga,
        columns,
        rows: 25,
        height: 8,
        page: 0x4000,
        misc: 0x63,
        seq: [clocking, planes, 0x00, memory],
        crtc,
        attr,
        gfx: [0, 0, 0, 0, 0, mode, if bits == 2 { 0x0F } else { 0x0D }, 0x0F, 0xFF],
    }
}

/// The mode of a number.
pub fn mode(number: u8) -> Option<&'static Mode> {
    MODES.iter().find(|mode| mode.number == number)
}

impl Colors {
    /// The colours of the DAC from 0 on: red, green, blue, 6 bits each.
    pub fn table(self) -> Vec<[u8; 3]> {
        // A third and two thirds of full.
        let part = |low: bool, high: bool| 21 * u8::from(low) + 42 * u8::from(high);
        let bit = |n: u8, bit: u8| n >> bit & 1 != 0;
        match self {
            Self::Ega => (0..64).map(|n| [2, 1, 0].map(|b| part(bit(n, b + 3), bit(n, b)))).collect(),
            Self::Cga => (0..64).map(|n| cga_color(n & 7 | n >> 1 & 8)).collect(),
            Self::Mono => (0..64).map(|n| [part(bit(n, 4), bit(n, 3)); 3]).collect(),
            Self::Many => many(),
        }
    }
}

/// One of the 16 colours of the CGA: bit 3 is intensity, and dark yellow is brown.
fn cga_color(n: u8) -> [u8; 3] {
    if n == 6 {
        return [42, 21, 0];
    }
    let bright = 21 * (n >> 3 & 1);
    [2, 1, 0].map(|bit| 42 * (n >> bit & 1) + bright)
}

/// The colours of mode 13h: the CGA's, greys, then three intensities of three saturations of a circle of 24 hues.
fn many() -> Vec<[u8; 3]> {
    const GREYS: [u8; 16] = [0, 5, 8, 11, 14, 17, 20, 24, 28, 32, 36, 40, 45, 50, 56, 63];
    /// From the least to the most of a colour, by intensity and saturation.
    const LEVELS: [[u8; 5]; 9] = [
        [0x00, 0x10, 0x1F, 0x2F, 0x3F],
        [0x1F, 0x27, 0x2F, 0x37, 0x3F],
        [0x2D, 0x31, 0x36, 0x3A, 0x3F],
        [0x00, 0x07, 0x0E, 0x15, 0x1C],
        [0x0E, 0x11, 0x15, 0x18, 0x1C],
        [0x14, 0x16, 0x18, 0x1A, 0x1C],
        [0x00, 0x04, 0x08, 0x0C, 0x10],
        [0x08, 0x0A, 0x0C, 0x0E, 0x10],
        [0x0B, 0x0C, 0x0D, 0x0F, 0x10],
    ];
    let mut colors: Vec<[u8; 3]> = (0..16).map(cga_color).collect();
    colors.extend(GREYS.map(|grey| [grey; 3]));
    for levels in LEVELS {
        // From blue over magenta, red, yellow, green and cyan: one component changes at a time.
        for hue in 0..24usize {
            let (side, step) = (hue / 4, hue % 4);
            let (up, down) = (levels[step], levels[4 - step]);
            let (low, high) = (levels[0], levels[4]);
            colors.push(match side {
                0 => [up, low, high],
                1 => [high, low, down],
                2 => [high, up, low],
                3 => [down, high, low],
                4 => [low, high, up],
                _ => [low, down, high],
            });
        }
    }
    colors.resize(256, [0; 3]);
    colors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours() {
        let many = Colors::Many.table();
        assert_eq!(
            (many.len(), many[15], many[31], many[32], many[40], many[44]),
            (256, [63; 3], [63; 3], [0, 0, 63], [63, 0, 0], [63, 63, 0])
        );
        assert_eq!(Colors::Ega.table()[0x14], [42, 21, 0]);
        assert_eq!((Colors::Cga.table()[6], Colors::Cga.table()[0x17]), ([42, 21, 0], [63; 3]));
    }
}
