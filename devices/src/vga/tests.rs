//! Screens that small guests draw, pixel by pixel, and registers under fire.

use proptest::prelude::*;
use softmetal_bus::Time;

use super::render::{Font, Image};
use super::*;
use crate::testing::Rig;

const WINDOW: u8 = region::WINDOW;

/// Mode 13h: 320 by 200 in 256 colours.
const MODE_13: Mode = Mode {
    misc: 0x63,
    seq: [0x03, 0x01, 0x0f, 0x00, 0x0e],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0x00, 0x41, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x9c, 0x8e, 0x8f, 0x28, 0x40, 0x96,
        0xb9, 0xa3, 0xff,
    ],
    gfx: [0, 0, 0, 0, 0, 0x40, 0x05, 0x0f, 0xff],
    attr: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0x41, 0, 0x0f, 0, 0],
};

/// Mode 12h: 640 by 480 in 16 colours.
const MODE_12: Mode = Mode {
    misc: 0xe3,
    seq: [0x03, 0x01, 0x0f, 0x00, 0x06],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xea, 0x8c, 0xdf, 0x28, 0x00, 0xe7,
        0x04, 0xe3, 0xff,
    ],
    gfx: [0, 0, 0, 0, 0, 0, 0x05, 0x0f, 0xff],
    attr: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0x01, 0, 0x0f, 0, 0],
};

struct Bench(Rig, Vga);

impl Bench {
    fn new() -> Self {
        Self(Rig::new(), Vga::new(0, Rig::RAM))
    }
    fn out(&mut self, port: u64, value: u64) {
        self.0.write(&mut self.1, region::PORTS, port - 0x3b0, 1, value);
    }
    fn inp(&mut self, port: u64) -> u8 {
        self.0.read(&mut self.1, region::PORTS, port - 0x3b0, 1) as u8
    }
    /// A register of the sequencer (0x3C4), graphics controller (0x3CE) or CRT controller (0x3D4), by one 16-bit store.
    fn indexed(&mut self, port: u64, index: u64, value: u64) {
        self.0.write(&mut self.1, region::PORTS, port - 0x3b0, 2, value << 8 | index);
    }
    /// Programs a mode through the ports.
    fn mode(&mut self, mode: &Mode) {
        self.out(0x3c2, mode.misc.into());
        for (n, &value) in (0..).zip(&mode.seq) {
            self.indexed(0x3c4, n, value.into());
        }
        self.indexed(0x3d4, 0x11, 0);
        for (n, &value) in (0..).zip(&mode.crtc) {
            self.indexed(0x3d4, n, value.into());
        }
        for (n, &value) in (0..).zip(&mode.gfx) {
            self.indexed(0x3ce, n, value.into());
        }
        self.inp(0x3da);
        for (n, &value) in (0..).zip(&mode.attr) {
            self.out(0x3c0, n);
            self.out(0x3c0, value.into());
        }
        self.out(0x3c0, 0x20);
        self.out(0x3c6, 0xff);
        self.out(0x3c8, 0);
        for n in 0..=255 {
            for value in dac(n) {
                self.out(0x3c9, value.into());
            }
        }
    }
    fn poke(&mut self, addr: u64, value: u64) {
        self.0.write(&mut self.1, WINDOW, addr - 0xa_0000, 1, value);
    }
    fn peek(&mut self, addr: u64) -> u8 {
        self.0.read(&mut self.1, WINDOW, addr - 0xa_0000, 1) as u8
    }
    fn vbe(&mut self, register: u64, value: u64) {
        self.0.write(&mut self.1, region::DISPI, 0, 2, register);
        self.0.write(&mut self.1, region::DISPI, 1, 2, value);
    }
    fn vbe_mode(&mut self, width: u64, height: u64, bpp: u64) {
        for (register, value) in [(4, 0), (1, width), (2, height), (3, bpp), (4, 0x41)] {
            self.vbe(register, value);
        }
    }
    fn image(&self) -> Image {
        self.1.image(&self.0.memory, self.0.now)
    }
    /// The picture is exactly `width` by `height` with the colours that `f` gives.
    fn shows(&self, width: u32, height: u32, f: impl Fn(u32, u32) -> [u8; 3]) {
        let image = self.image();
        assert_eq!((image.width, image.height), (width, height));
        for y in 0..height {
            for x in 0..width {
                assert_eq!(image.pixel(x, y), f(x, y), "at {x}, {y}");
            }
        }
    }
}

/// What the tests put into the DAC.
fn dac(n: u32) -> [u8; 3] {
    [n as u8 & 0x3f, (n * 3) as u8 & 0x3f, (n * 7) as u8 & 0x3f]
}

/// The colour that is seen of it.
fn seen(n: u32) -> [u8; 3] {
    dac(n).map(|c| c << 2 | c >> 4)
}

fn font() -> Font {
    std::array::from_fn(|n| std::array::from_fn(|row| (n as u8).wrapping_mul(37) ^ (row as u8).wrapping_mul(0x5b)))
}

/// Text mode through the ports: the font by plane 2, the text by 0xB8000.
fn text_mode() -> Bench {
    let mut b = Bench::new();
    b.mode(&MODE_3);
    for (index, value) in [(2, 4), (4, 7)] {
        b.indexed(0x3c4, index, value);
    }
    for (index, value) in [(4, 2), (5, 0), (6, 4)] {
        b.indexed(0x3ce, index, value);
    }
    for (n, glyph) in (0..).zip(&font()) {
        for (row, &bits) in (0..).zip(glyph) {
            b.poke(0xa_0000 + n * 32 + row, bits.into());
        }
    }
    assert_eq!(b.peek(0xa_0000 + 65 * 32 + 3), font()[65][3]);
    for (index, value) in [(2, 3), (4, 2)] {
        b.indexed(0x3c4, index, value);
    }
    for (index, value) in [(4, 0), (5, 0x10), (6, 0x0e)] {
        b.indexed(0x3ce, index, value);
    }
    b
}

#[test]
fn text_with_blink_and_cursor() {
    let mut b = text_mode();
    let (code, attribute) = (|at: u32| (at * 7) as u8, |at: u32| (at * 11) as u8);
    for at in 0..2000 {
        b.0.write(&mut b.1, WINDOW, 0x1_8000 + u64::from(at) * 2, 2, u64::from(code(at)) | u64::from(attribute(at)) << 8);
    }
    assert_eq!((b.peek(0xb_8000 + 20), b.peek(0xb_8000 + 21)), (code(10), attribute(10)));
    // The cursor in row 3, column 5.
    b.indexed(0x3d4, 0x0e, 0);
    b.indexed(0x3d4, 0x0f, 3 * 80 + 5);
    let palette = MODE_3.attr;
    let expected = |x: u32, y: u32, cursor_on: bool, blink_on: bool| {
        let (column, row, dot, line) = (x / 9, y / 16, x % 9, y % 16);
        let at = row * 80 + column;
        let bits = font()[usize::from(code(at))][line as usize];
        let mut set = if dot < 8 { bits >> (7 - dot) & 1 != 0 } else { code(at) >> 5 == 6 && bits & 1 != 0 };
        set &= blink_on || attribute(at) < 0x80;
        set |= cursor_on && at == 3 * 80 + 5 && (13..=14).contains(&line);
        let color = if set { attribute(at) & 15 } else { attribute(at) >> 4 & 7 };
        seen(palette[usize::from(color)].into())
    };
    b.shows(720, 400, |x, y| expected(x, y, true, true));
    b.0.now = Time(150_000_000);
    b.shows(720, 400, |x, y| expected(x, y, false, true));
    b.0.now = Time(280_000_000);
    b.shows(720, 400, |x, y| expected(x, y, true, false));
    // Eight dots a character, and bright backgrounds instead of blinking.
    b.indexed(0x3c4, 1, 1);
    b.inp(0x3da);
    b.out(0x3c0, 0x30);
    b.out(0x3c0, 0x04);
    b.indexed(0x3d4, 0x0a, 0x20);
    b.shows(640, 400, |x, y| {
        let at = y / 16 * 80 + x / 8;
        let set = font()[usize::from(code(at))][y as usize % 16] >> (7 - x % 8) & 1 != 0;
        seen(palette[usize::from(if set { attribute(at) & 15 } else { attribute(at) >> 4 })].into())
    });
}

#[test]
fn text_is_read() {
    let mut b = text_mode();
    for at in 0..0x4000 {
        b.poke(0xb_8000 + at * 2, 0x20);
    }
    for (column, c) in (0..).zip("login: \u{9}".bytes()) {
        b.poke(0xb_8000 + (80 + column) * 2, c.into());
    }
    let text = b.1.text(&b.0.memory, b.0.now, &[]);
    assert_eq!(text.lines().count(), 25);
    assert_eq!(text.lines().nth(1), Some("login: ○"));
    // Scrolled by a row with the start address, and the same row again below a split at line 32.
    b.indexed(0x3d4, 0x0d, 80);
    b.indexed(0x3d4, 0x18, 31);
    b.indexed(0x3d4, 0x07, 0x0f);
    b.indexed(0x3d4, 0x09, 0x0f);
    let text = b.1.text(&b.0.memory, b.0.now, &[]);
    let rows: Vec<usize> = (0..).zip(text.lines()).filter(|(_, l)| l.starts_with("login")).map(|(n, _)| n).collect();
    assert_eq!(rows, [0, 3]);
}

#[test]
fn mode_13h() {
    let mut b = Bench::new();
    b.mode(&MODE_13);
    let color = |x: u32, y: u32| (x ^ (y * 3)) & 0xff;
    for y in 0..200 {
        for x in 0..320 {
            b.poke(0xa_0000 + u64::from(y * 320 + x), color(x, y).into());
        }
    }
    b.shows(320, 200, |x, y| seen(color(x, y)));
    assert_eq!(u32::from(b.peek(0xa_0000 + 7 * 320 + 9)), color(9, 7));
    // The picture can be switched off.
    b.inp(0x3da);
    b.out(0x3c0, 0);
    b.shows(320, 200, |_, _| [0; 3]);
}

#[test]
fn mode_x() {
    let mut b = Bench::new();
    b.mode(&MODE_13);
    // Unchained, byte mode, 240 lines, and the second page.
    b.indexed(0x3c4, 4, 6);
    for (index, value) in [(0x14, 0), (0x17, 0xe3), (0x12, 0xdf), (0x07, 0x3e), (0x0c, 0x50)] {
        b.indexed(0x3d4, index, value);
    }
    let color = |x: u32, y: u32| (x * 5 + y) & 0xff;
    for x in 0..320 {
        b.indexed(0x3c4, 2, 1 << (x & 3));
        for y in 0..240 {
            b.poke(0xa_5000 + u64::from(y * 80 + x / 4), color(x, y).into());
        }
    }
    b.shows(320, 240, |x, y| seen(color(x, y)));
    b.indexed(0x3ce, 4, 2);
    assert_eq!(u32::from(b.peek(0xa_5000 + 80 * 3 + 1)), color(6, 3));
}

#[test]
fn mode_12h_and_the_write_modes() {
    let mut b = Bench::new();
    b.mode(&MODE_12);
    let row = |y: u64| 0xa_0000 + y * 80;
    // Write mode 2: a colour for the pixels in the bit mask.
    b.indexed(0x3ce, 5, 2);
    for x in 0..640u64 {
        b.indexed(0x3ce, 8, 0x80 >> (x & 7));
        b.peek(row(0) + x / 8);
        b.poke(row(0) + x / 8, x & 15);
    }
    // Write mode 1 copies rows by the latches.
    b.indexed(0x3ce, 5, 1);
    for at in 0..80 {
        b.peek(row(0) + at);
        b.poke(row(1) + at, 0);
    }
    // Write mode 3: colour of set/reset, the data as a mask.
    b.indexed(0x3ce, 5, 3);
    b.indexed(0x3ce, 0, 0x0a);
    b.indexed(0x3ce, 8, 0x7e);
    for at in 0..80 {
        b.peek(row(0) + at);
        b.poke(row(2) + at, 0xf0);
    }
    // Write mode 0: rotated data, XOR with the latches, planes 0 and 1; set/reset for plane 1.
    b.indexed(0x3ce, 5, 0);
    b.indexed(0x3ce, 8, 0xff);
    b.indexed(0x3ce, 0, 2);
    b.indexed(0x3ce, 1, 2);
    b.indexed(0x3ce, 3, 0x18 | 1);
    b.indexed(0x3c4, 2, 3);
    for at in 0..80 {
        b.peek(row(0) + at);
        b.poke(row(3) + at, 0x55);
    }
    b.shows(640, 480, |x, y| {
        seen(match y {
            0 | 1 => x & 15,
            2 if 0x70 >> (7 - x % 8) & 1 != 0 => 0x0a,
            2 => x & 15,
            // 0x55 rotated is 0xAA.
            3 => (x & 3) ^ (0xaa >> (7 - x % 8) & 1) ^ 2,
            _ => 0,
        })
    });
    // Read mode 1: where the colour is 5, by planes 0 and 2 alone.
    b.indexed(0x3ce, 5, 8);
    b.indexed(0x3ce, 2, 5);
    b.indexed(0x3ce, 7, 5);
    assert_eq!([b.peek(row(0)), b.peek(row(0) + 1)], [0b0000_0101; 2]);
}

#[test]
fn linear_modes() {
    let mut b = Bench::new();
    for (bpp, bytes) in [(8u64, 1u64), (15, 2), (16, 2), (24, 3), (32, 4)] {
        b.vbe_mode(64, 48, bpp);
        b.vbe(6, 80);
        b.vbe(8, 3);
        b.vbe(9, 2);
        let value = |x: u64, y: u64| (x * 0x10_3057 + y * 0x0007_1d31) & ((1 << (8 * bytes)) - 1);
        for y in 0..48 {
            for x in 0..64 {
                let at = ((y + 2) * 80 + x + 3) * bytes;
                b.0.memory.write(at, &value(x, y).to_le_bytes()[..bytes as usize]).unwrap();
            }
        }
        b.out(0x3c2, 0x63);
        b.out(0x3c6, 0xff);
        b.out(0x3c8, 0);
        (0..256).flat_map(dac).for_each(|v| b.out(0x3c9, v.into()));
        b.shows(64, 48, |x, y| {
            let v = value(x.into(), y.into()) as u32;
            let part = |shift: u32, bits: u32| ((v >> shift & ((1 << bits) - 1)) * 255 / ((1 << bits) - 1)) as u8;
            match bpp {
                8 => seen(v),
                15 => [part(10, 5), part(5, 5), part(0, 5)],
                16 => [part(11, 5), part(5, 6), part(0, 5)],
                _ => [part(16, 8), part(8, 8), part(0, 8)],
            }
        });
    }
    // The window shows a bank, the other registers are read back.
    b.vbe(5, 1);
    b.poke(0xa_0004, 0x5a);
    let mut byte = [0];
    b.0.memory.read(0x1_0004, &mut byte).unwrap();
    assert_eq!((byte[0], b.peek(0xa_0004)), (0x5a, 0x5a));
    let mut read = |register: u64| {
        b.0.write(&mut b.1, region::DISPI, 0, 2, register);
        b.0.read(&mut b.1, region::DISPI, 2, 2)
    };
    assert_eq!([0, 1, 2, 3, 6, 10].map(&mut read), [0xb0c5, 64, 48, 32, 80, Rig::RAM >> 16]);
    assert_eq!(b.0.read(&mut b.1, 2, 0x502, 2), 64);
    assert_eq!(b.0.read(&mut b.1, 2, 0x604, 4), 0x1e1e_1e1e);
    // Switching on clears the picture unless told otherwise.
    b.vbe(4, 0);
    b.vbe(4, 0xc1);
    assert_ne!(b.image().rgb.iter().max(), Some(&0));
    b.vbe(4, 0);
    b.vbe(4, 0x41);
    assert_eq!(b.image().rgb.iter().max(), Some(&0));
}

#[test]
fn rows_of_written_pages() {
    let mut b = Bench::new();
    assert_eq!(b.1.rows_of(&[]), []);
    assert_eq!(b.1.rows_of(&[3]), std::slice::from_ref(&(0..u32::MAX)), "planes: anywhere");
    // Rows of 1600 bytes, shown from row 10 on.
    b.vbe_mode(400, 100, 32);
    b.vbe(9, 10);
    // Byte 16000 is the first one shown: page 3 has 384 bytes of row 0; page 4 goes on to row 2.
    assert_eq!(b.1.rows_of(&[0, 1, 2]), [], "above the picture");
    assert_eq!(b.1.rows_of(&[3]), std::slice::from_ref(&(0..1)));
    assert_eq!(b.1.rows_of(&[3, 4, 9]), [0..3, 13..16]);
    assert_eq!(b.1.rows_of(&[40, 60]), std::slice::from_ref(&(92..95)), "page 60 lies below");
    let before = b.1.look(b.0.now);
    assert_eq!(before, b.1.look(b.0.now));
    b.vbe(9, 11);
    assert_ne!(before, b.1.look(b.0.now));
}

#[test]
fn text_in_pixels_is_read_by_its_font() {
    let mut b = Bench::new();
    b.vbe_mode(80, 32, 32);
    let font: Font = std::array::from_fn(|n| std::array::from_fn(|row| if row == 0 || n == 32 { 0 } else { n as u8 }));
    for (column, c) in (0..).zip(b"Linux 6.1") {
        for row in 0..16 {
            for dot in 0..8 {
                if font[usize::from(*c)][row as usize] >> (7 - dot) & 1 != 0 {
                    let at = ((row + 16) * 80 + column * 8 + dot) * 4;
                    b.0.memory.write(at, &[0xaa; 3]).unwrap();
                }
            }
        }
    }
    assert_eq!(b.1.text(&b.0.memory, b.0.now, &[&font]), "\nLinux 6.1\n");
}

#[test]
fn the_set_up_of_a_bios() {
    let mut b = Bench::new();
    b.1.set_text(&b.0.memory, &font());
    let text = b.1.text(&b.0.memory, b.0.now, &[]);
    assert_eq!(text, "\n".repeat(25));
    assert_eq!(*b.1.font(&b.0.memory), font());
    assert_eq!((b.peek(0xb_8000), b.peek(0xb_8f9f)), (0x20, 0x07));
    b.out(0x3c7, 7);
    assert_eq!([b.inp(0x3c9), b.inp(0x3c9), b.inp(0x3c9)], [42; 3]);
}

#[test]
fn state_goes_round() {
    let mut a = text_mode();
    a.poke(0xb_8000, 0x41);
    a.peek(0xb_8000);
    let mut copy = Vga::new(0, Rig::RAM);
    copy.load(&a.1.save()).unwrap();
    assert_eq!(copy.save(), a.1.save());
    assert_eq!(copy.image(&a.0.memory, a.0.now), a.image());
    assert!(copy.load(&a.1.save()[1..]).is_err());
}

#[test]
fn the_retrace_comes_and_goes() {
    let mut b = Bench::new();
    b.mode(&MODE_3);
    let mut seen = [false; 2];
    for _ in 0..200 {
        b.0.now = b.0.now.plus(100_000);
        seen[usize::from(b.inp(0x3da) >> 3 & 1)] = true;
    }
    assert_eq!(seen, [true; 2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn nothing_panics(stores in prop::collection::vec((0u8..12, 0u64..0x2_0100, 0usize..4, any::<u64>()), 1..400)) {
        let mut b = Bench::new();
        b.mode(&MODE_12);
        for (region, offset, width, value) in stores {
            let offset = match region { region::WINDOW => offset, region::PORTS => offset % 48, region::DISPI => offset % 4, _ => offset % 0x1000 };
            b.0.write(&mut b.1, region, offset, 1 << width, value);
            b.0.read(&mut b.1, region, offset, 1 << width);
        }
        prop_assert!(b.1.text(&b.0.memory, b.0.now, &[]).len() < 1 << 21);
        // The same registers with either kind of mode.
        for enable in [0, 1] {
            b.vbe(4, enable);
            b.image();
        }
    }

    #[test]
    fn any_linear_geometry(registers in prop::collection::vec(any::<u16>(), 10), bpp in prop::sample::select(vec![4u64, 8, 15, 16, 24, 32])) {
        let mut b = Bench::new();
        b.vbe(3, bpp);
        for (n, value) in registers.iter().enumerate().filter(|(n, _)| *n != 3 && *n != 4) {
            b.vbe(n as u64, (value >> (value & 15)).into());
        }
        b.vbe(4, 1);
        for (n, value) in registers.iter().enumerate().filter(|(n, _)| *n > 5) {
            b.vbe(n as u64, (*value).into());
        }
        let image = b.image();
        prop_assert_eq!(image.rgb.len(), image.width as usize * image.height as usize * 3);
    }
}
