//! The picture on the screen, and the text in it: pure functions of registers, video memory and (for what blinks) time.

use std::collections::HashMap;
use std::ops::Range;

use softmetal_bus::{Device, GuestMemory, PAGE_SIZE, Time};

use super::Vga;
use super::registers::{FRAME, attr, crtc, gfx, seq};

/// A font of 256 characters (code page 437) of 8 by 16 pixels; the leftmost pixel is bit 7.
pub type Font = [[u8; 16]; 256];

/// A picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Red, green, blue of each pixel, row by row.
    pub rgb: Vec<u8>,
}

impl Image {
    fn black(width: u32, height: u32) -> Self {
        Self { width, height, rgb: vec![0; width as usize * height as usize * 3] }
    }

    /// A pixel's red, green and blue; black outside.
    #[must_use]
    pub fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        let at = (y as usize * self.width as usize + x as usize) * 3;
        match self.rgb.get(at..at + 3) {
            Some(&[r, g, b]) if x < self.width => [r, g, b],
            _ => [0; 3],
        }
    }

    fn set(&mut self, x: u32, y: u32, color: [u8; 3]) {
        let at = (y as usize * self.width as usize + x as usize) * 3;
        if x < self.width {
            if let Some(pixel) = self.rgb.get_mut(at..at + 3) {
                pixel.copy_from_slice(&color);
            }
        }
    }

    /// The text in cells of 8 by 16 pixels of two colours whose pattern one of the `fonts` has, maybe with a cursor in
    /// it, line by line; other cells are U+FFFD. Lines have no trailing spaces.
    #[must_use]
    pub fn text(&self, fonts: &[&Font]) -> String {
        let mut glyphs = HashMap::new();
        for font in fonts {
            // The printable ones last, so that they win over lookalikes.
            for n in (0..0x20u8).chain(0x7f..=0xff).chain(0x20..0x7f) {
                glyphs.insert(font[usize::from(n)], unicode(n));
            }
        }
        let line = |row: u32| (0..self.width / 8).map(|column| self.cell(&glyphs, column * 8, row * 16)).collect::<String>();
        lines((0..self.height / 16).map(line))
    }

    fn cell(&self, glyphs: &HashMap<[u8; 16], char>, x: u32, y: u32) -> char {
        let back = self.pixel(x, y);
        let mut bits = [0u8; 16];
        let mut front = None;
        for (row, dy) in bits.iter_mut().zip(0..) {
            for dx in 0..8 {
                let color = self.pixel(x + dx, y + dy);
                if color != back {
                    if *front.get_or_insert(color) != color {
                        return char::REPLACEMENT_CHARACTER;
                    }
                    *row |= 0x80 >> dx;
                }
            }
        }
        if front.is_none() {
            return ' ';
        }
        let plain = |bits: &[u8; 16]| glyphs.get(bits).or_else(|| glyphs.get(&bits.map(|row| !row))).copied();
        // A cursor inverts the lowest rows.
        let under_cursor = |rows: usize| {
            let mut bits = bits;
            bits[16 - rows..].iter_mut().for_each(|row| *row = !*row);
            if bits == [0; 16] { Some(' ') } else { plain(&bits) }
        };
        plain(&bits).or_else(|| (1..=4).find_map(under_cursor)).unwrap_or(char::REPLACEMENT_CHARACTER)
    }
}

fn lines(lines: impl Iterator<Item = String>) -> String {
    lines.map(|line| line.trim_end().to_string() + "\n").collect()
}

const LOW: &str = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼";
const HIGH: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
                    αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ";

/// The character of a code of code page 437.
#[must_use]
pub fn unicode(code: u8) -> char {
    let found = match code {
        0..0x20 => LOW.chars().nth(code.into()),
        0x7f => Some('⌂'),
        0x80.. => HIGH.chars().nth(usize::from(code) - 0x80),
        _ => Some(code.into()),
    };
    found.unwrap_or(' ')
}

/// Where the CRT controller fetches.
struct Scan {
    /// Character clocks across.
    columns: u32,
    /// Scan lines down.
    height: u32,
    /// Scan lines of a row.
    row_lines: u32,
    /// How often each line is shown.
    doubled: u32,
    start: u32,
    pitch: u32,
    line_compare: u32,
}

impl Vga {
    fn scan(&self) -> Scan {
        let r = &self.state.registers;
        let (overflow, max_scan) = (u32::from(r.crtc[crtc::OVERFLOW]), u32::from(r.crtc[crtc::MAX_SCAN]));
        Scan {
            columns: u32::from(r.crtc[crtc::H_DISPLAY_END]) + 1,
            height: (u32::from(r.crtc[crtc::V_DISPLAY_END]) | (overflow & 2) << 7 | (overflow & 0x40) << 3) + 1,
            row_lines: (max_scan & 0x1f) + 1,
            doubled: 1 + (max_scan >> 7),
            start: r.crtc_word(crtc::START),
            pitch: u32::from(r.crtc[crtc::OFFSET]) * 2,
            line_compare: u32::from(r.crtc[crtc::LINE_COMPARE]) | (overflow & 0x10) << 4 | (max_scan & 0x40) << 3,
        }
    }

    /// The address in the planes of the CRT controller's counter `at` in scan line `line` of a row.
    fn fetch_address(&self, at: u32, line: u32) -> u32 {
        let r = &self.state.registers;
        let mode = r.crtc[crtc::MODE];
        let mut address = if r.crtc[crtc::UNDERLINE] & 0x40 != 0 {
            at << 2 | at >> 14 & 3
        } else if mode & 0x40 == 0 {
            at << 1 | at >> (if mode & 0x20 != 0 { 15 } else { 13 }) & 1
        } else {
            at
        };
        for bit in 0..2 {
            if mode >> bit & 1 == 0 {
                address = address & !(1 << (13 + bit)) | (line >> bit & 1) << (13 + bit);
            }
        }
        address & 0xffff
    }

    /// The colour register `n` through the mask.
    fn dac(&self, n: u8) -> [u8; 3] {
        let color = self.state.registers.color(n & self.state.registers.pel_mask);
        if self.state.vbe.wide_dac() { color } else { color.map(|c| (c & 0x3f) << 2 | c >> 4 & 3) }
    }

    /// A pixel of 4 bits through the attribute controller's palette.
    fn palette(&self, bits: u8) -> [u8; 3] {
        let a = &self.state.registers.attr;
        let color = a[usize::from(bits & 15 & a[attr::PLANES])] & 0x3f;
        let select = a[attr::COLOR_SELECT];
        let low = if a[attr::MODE] & 0x80 != 0 { color & 0xf | select << 4 & 0x30 } else { color };
        self.dac(low | select << 4 & 0xc0)
    }

    fn is_text(&self) -> bool {
        !self.state.vbe.enabled() && self.state.registers.gfx[gfx::MISC] & 1 == 0
    }

    /// The picture at time `now`.
    #[must_use]
    pub fn image(&self, memory: &GuestMemory, now: Time) -> Image {
        if self.state.vbe.enabled() {
            self.linear(memory)
        } else if self.is_text() {
            self.characters(memory, now)
        } else {
            self.graphics(memory)
        }
    }

    /// Where video memory is in guest memory: offset and length in bytes.
    #[must_use]
    pub fn video_memory(&self) -> (u64, u64) {
        (self.base, self.len)
    }

    /// The rows of the picture that may have changed if only the `written` pages of guest memory have: ranges in order that
    /// do not overlap. Outside of the linear modes that is all of them.
    #[must_use]
    pub fn rows_of(&self, written: &[u64]) -> Vec<Range<u32>> {
        let page = PAGE_SIZE as u64;
        if !self.state.vbe.linear() {
            return written.first().map(|_| 0..u32::MAX).into_iter().collect();
        }
        let g = self.state.vbe.geometry(self.len);
        let start = self.base + g.start;
        let mut rows: Vec<Range<u32>> = Vec::new();
        for &n in written {
            let (from, to) = ((n * page).saturating_sub(start), ((n + 1) * page).saturating_sub(start));
            let first = (from / g.stride.max(1)).min(g.height.into()) as u32;
            let last = to.div_ceil(g.stride.max(1)).min(g.height.into()) as u32;
            match rows.last_mut() {
                Some(before) if first <= before.end => before.end = before.end.max(last),
                _ if first < last => rows.push(first..last),
                _ => {}
            }
        }
        rows
    }

    /// What else than video memory the picture depends on, at time `now`: equal if nothing of it has changed.
    #[must_use]
    pub fn look(&self, now: Time) -> (Vec<u8>, u64) {
        (self.save(), if self.is_text() { now.0 / FRAME / 8 } else { 0 })
    }

    fn blanked(&self) -> bool {
        let r = &self.state.registers;
        r.attr_index & attr::DISPLAY == 0 || r.seq[seq::CLOCKING] & 0x20 != 0
    }

    fn linear(&self, memory: &GuestMemory) -> Image {
        let g = self.state.vbe.geometry(self.len);
        let mut image = Image::black(g.width, g.height);
        let bytes = usize::from(g.bpp).div_ceil(8);
        let mut row = vec![0; if g.bpp == 4 { g.width as usize / 2 } else { g.width as usize * bytes }];
        let wide = |value: u16, bits: u32| {
            let max = (1u32 << bits) - 1;
            ((u32::from(value) & max) * 255 / max) as u8
        };
        for y in 0..g.height {
            self.video(memory, g.start.saturating_add(u64::from(y) * g.stride), &mut row);
            for x in 0..g.width {
                let color = if g.bpp == 4 {
                    let at = x as usize / 8 * 4;
                    let bit = |p: usize| row.get(at + p).map_or(0, |b| (b >> (7 - x % 8) & 1) << p);
                    self.palette(bit(0) | bit(1) | bit(2) | bit(3))
                } else {
                    let pixel = &row[x as usize * bytes..][..bytes];
                    match *pixel {
                        [index] => self.dac(index),
                        [low, high] => {
                            let value = u16::from_le_bytes([low, high]);
                            if g.bpp == 15 {
                                [wide(value >> 10, 5), wide(value >> 5, 5), wide(value, 5)]
                            } else {
                                [wide(value >> 11, 5), wide(value >> 5, 6), wide(value, 5)]
                            }
                        }
                        [blue, green, red, ..] => [red, green, blue],
                        [] => [0; 3],
                    }
                };
                image.set(x, y, color);
            }
        }
        image
    }

    fn graphics(&self, memory: &GuestMemory) -> Image {
        let r = &self.state.registers;
        let scan = self.scan();
        let shift = r.gfx[gfx::MODE] >> 5 & 3;
        let per_fetch = if shift >= 2 { 4 } else { 8 };
        // Lines of a row that fetch the same are shown once.
        let repeat = scan.doubled * if r.crtc[crtc::MODE] & 3 == 3 { scan.row_lines } else { 1 };
        let mut image = Image::black(scan.columns * per_fetch, (scan.height / repeat).max(1));
        if self.blanked() {
            return image;
        }
        let pan = u32::from(r.attr[attr::PANNING] & 7) / if shift >= 2 { 2 } else { 1 };
        for y in 0..image.height {
            let shown = y * repeat;
            let split = shown > scan.line_compare;
            let line = if split { shown - scan.line_compare - 1 } else { shown } / scan.doubled;
            let start = if split { 0 } else { scan.start };
            let pan = if split && r.attr[attr::MODE] & 0x20 != 0 { 0 } else { pan };
            let first = start.wrapping_add(line / scan.row_lines * scan.pitch);
            for column in 0..=scan.columns {
                let at = first.wrapping_add(column) & 0xffff;
                let planes = self.planes(memory, self.fetch_address(at, line % scan.row_lines)).to_le_bytes();
                for i in 0..per_fetch {
                    let Some(x) = (column * per_fetch + i).checked_sub(pan) else { continue };
                    let bit = |p: usize| (planes[p] >> (7 - i) & 1) << p;
                    let pair = |p: usize| planes[p] >> (6 - 2 * (i & 3)) & 3;
                    let color = match shift {
                        0 => self.palette(bit(0) | bit(1) | bit(2) | bit(3)),
                        1 if i < 4 => self.palette(pair(0) | pair(2) << 2),
                        1 => self.palette(pair(1) | pair(3) << 2),
                        _ => self.dac(planes[i as usize & 3]),
                    };
                    image.set(x, y, color);
                }
            }
        }
        image
    }

    /// The text mode's cell at counter `at`: character and attribute.
    fn character(&self, memory: &GuestMemory, at: u32) -> (u8, u8) {
        let [code, attribute, ..] = self.planes(memory, self.fetch_address(at & 0xffff, 0)).to_le_bytes();
        (code, attribute)
    }

    fn characters(&self, memory: &GuestMemory, now: Time) -> Image {
        let r = &self.state.registers;
        let scan = self.scan();
        let dots = if r.seq[seq::CLOCKING] & 1 != 0 { 8 } else { 9 };
        let mut image = Image::black(scan.columns * dots, scan.height);
        if self.blanked() {
            return image;
        }
        let frame = now.0 / FRAME;
        let (cursor_on, blink_on) = (frame / 8 % 2 == 0, frame / 16 % 2 == 0);
        let mode = r.attr[attr::MODE];
        let maps = r.seq[seq::CHARACTER_MAP];
        let font = |n: u8| u32::from(n & 3) << 14 | u32::from(n >> 2 & 1) << 13;
        let fonts = [font(maps & 3 | maps >> 2 & 4), font(maps >> 2 & 3 | maps >> 3 & 4)];
        let cursor = r.crtc_word(crtc::CURSOR);
        let (top, bottom) = (r.crtc[crtc::CURSOR_START], r.crtc[crtc::CURSOR_END] & 0x1f);
        let preset = u32::from(r.crtc[crtc::PRESET_ROW] & 0x1f);
        for y in 0..scan.height {
            let split = y > scan.line_compare;
            let line = if split { y - scan.line_compare - 1 } else { y + preset };
            let first = if split { 0 } else { scan.start }.wrapping_add(line / scan.row_lines * scan.pitch);
            let line = line % scan.row_lines;
            for column in 0..scan.columns {
                let at = first.wrapping_add(column) & 0xffff;
                let (code, attribute) = self.character(memory, at);
                let glyph = fonts[usize::from(attribute >> 3 & 1)] + u32::from(code) * 32 + line;
                let mut bits = u16::from(self.planes(memory, glyph).to_le_bytes()[2]) << 1;
                if mode & 4 != 0 && (0xc0..0xe0).contains(&code) {
                    bits |= bits >> 1 & 1;
                }
                let mut back = attribute >> 4;
                if mode & 8 != 0 {
                    back &= 7;
                    if attribute & 0x80 != 0 && !blink_on {
                        bits = 0;
                    }
                }
                if mode & 2 != 0 && attribute & 7 == 1 && line == u32::from(r.crtc[crtc::UNDERLINE] & 0x1f) {
                    bits = 0x1ff;
                }
                let in_cursor = (u32::from(top & 0x1f)..=bottom.into()).contains(&line);
                if at == cursor && cursor_on && top & 0x20 == 0 && in_cursor {
                    bits = 0x1ff;
                }
                for dot in 0..dots {
                    let color = if bits >> (8 - dot) & 1 != 0 { attribute & 15 } else { back };
                    image.set(column * dots + dot, y, self.palette(color));
                }
            }
        }
        image
    }

    /// The text on the screen, line by line: of a text mode its characters, of a graphics mode what of the `fonts` is
    /// found in it.
    #[must_use]
    pub fn text(&self, memory: &GuestMemory, now: Time, fonts: &[&Font]) -> String {
        if !self.is_text() {
            return self.image(memory, now).text(fonts);
        }
        let scan = self.scan();
        let rows = (scan.height / scan.row_lines).max(1);
        let line = |row: u32| {
            let shown = row * scan.row_lines;
            let first = match shown.checked_sub(scan.line_compare + 1) {
                Some(line) => line / scan.row_lines * scan.pitch,
                None => scan.start + row * scan.pitch,
            };
            (0..scan.columns).map(|column| unicode(self.character(memory, first + column).0)).collect::<String>()
        };
        lines((0..rows).map(line))
    }

    /// The font in plane 2 that characters are drawn with, for [`Image::text`] later on.
    #[must_use]
    pub fn font(&self, memory: &GuestMemory) -> Box<Font> {
        let maps = self.state.registers.seq[seq::CHARACTER_MAP];
        let base = u32::from(maps & 3) << 14 | u32::from(maps >> 4 & 1) << 13;
        let glyph = |n: usize| std::array::from_fn(|row| self.planes(memory, base + n as u32 * 32 + row as u32).to_le_bytes()[2]);
        Box::new(std::array::from_fn(glyph))
    }
}
