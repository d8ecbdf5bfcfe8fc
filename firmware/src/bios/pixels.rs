//! Pixels of graphics modes, and the characters that are drawn with them.

use super::modes::{Layout, mode};
use super::text::Window;
use super::{Bios, data};

/// Where a mode's pixels are in video memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Surface {
    pub width: u32,
    pub height: u32,
    layout: Kind,
    /// Bytes (of a plane, or of memory) from a row to the next, and the first one.
    stride: u64,
    start: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Cga(u8),
    Planar,
    Chained,
    /// Bytes of a pixel.
    Linear(u64),
}

impl Surface {
    /// A linear mode's.
    pub fn linear(width: u32, height: u32, bits: u16, stride: u64) -> Self {
        // No more than the adapter has, even where its registers do not answer.
        let (width, height) = (width.min(2560), height.min(1600));
        Self { width, height, layout: Kind::Linear(u64::from(bits).div_ceil(8).clamp(1, 4)), stride, start: 0 }
    }
}

/// Bytes of video memory that a row is moved through.
type Row = Vec<u8>;

impl Bios<'_> {
    /// How the mode that is set keeps its picture; `None` in a linear mode of the VBE or an unknown one.
    pub(super) fn layout(&mut self) -> Option<Layout> {
        if self.linear_surface().is_some() {
            return None;
        }
        let number = self.bda8(data::MODE) & 0x7F;
        mode(number).map(|mode| mode.layout)
    }

    /// The pixels of the graphics mode that is set, on page `page`.
    pub(super) fn surface(&mut self, page: u8) -> Option<Surface> {
        if let Some(surface) = self.linear_surface() {
            return Some(surface);
        }
        let number = self.bda8(data::MODE) & 0x7F;
        let mode = mode(number)?;
        let (layout, bits) = match mode.layout {
            Layout::Text => return None,
            Layout::Cga(bits) => (Kind::Cga(bits), u64::from(bits)),
            Layout::Planar => (Kind::Planar, 1),
            Layout::Chained => (Kind::Chained, 8),
        };
        let start = if layout == Kind::Planar { u64::from(self.bda16(data::PAGE_BYTES)) * u64::from(page & 7) } else { 0 };
        let height = match mode.number {
            0x0F | 0x10 => 350,
            0x11 | 0x12 => 480,
            _ => 200,
        };
        Some(Surface { width: mode.width().into(), height, layout, stride: u64::from(mode.width()) * bits / 8, start })
    }

    /// The colour of a pixel.
    pub(super) fn pixel(&mut self, s: &Surface, x: u32, y: u32) -> u32 {
        if x >= s.width || y >= s.height {
            return 0;
        }
        let (at, shift) = place(s, x, y);
        let mut bytes = [0; 4];
        match s.layout {
            Kind::Cga(bits) => {
                self.host.read_video(at, &mut bytes[..1]);
                u32::from(bytes[0] >> shift) & ((1 << bits) - 1)
            }
            Kind::Planar => {
                self.host.read_video(at, &mut bytes);
                (0..4).map(|plane| u32::from(bytes[plane] >> shift & 1) << plane).sum()
            }
            Kind::Chained => {
                self.host.read_video(at, &mut bytes[..1]);
                bytes[0].into()
            }
            Kind::Linear(n) => {
                self.host.read_video(at, &mut bytes[..n as usize]);
                u32::from_le_bytes(bytes)
            }
        }
    }

    /// Sets a pixel, or changes it by exclusive or.
    pub(super) fn set_pixel(&mut self, s: &Surface, x: u32, y: u32, color: u32, xor: bool) {
        if x >= s.width || y >= s.height {
            return;
        }
        let color = if xor { self.pixel(s, x, y) ^ color } else { color };
        let (at, shift) = place(s, x, y);
        let mut bytes = [0; 4];
        match s.layout {
            Kind::Cga(bits) => {
                let mask = ((1 << bits) - 1) << shift;
                self.host.read_video(at, &mut bytes[..1]);
                bytes[0] = bytes[0] & !mask | (color as u8) << shift & mask;
                self.host.write_video(at, &bytes[..1]);
            }
            Kind::Planar => {
                self.host.read_video(at, &mut bytes);
                for (plane, byte) in bytes.iter_mut().enumerate() {
                    *byte = *byte & !(1 << shift) | ((color >> plane & 1) as u8) << shift;
                }
                self.host.write_video(at, &bytes);
            }
            Kind::Chained => self.host.write_video(at, &[color as u8]),
            Kind::Linear(n) => self.host.write_video(at, &color.to_le_bytes()[..n as usize]),
        }
    }

    /// The rows of a character, from the font that vector 43h (or 1Fh, for the upper half of the CGA's) points to.
    fn glyph(&mut self, character: u8) -> Vec<u8> {
        let height = u32::from(self.bda16(data::CHARACTER_HEIGHT)).clamp(1, 32);
        let number = self.bda8(data::MODE) & 0x7F;
        let cga = (4..=6).contains(&number);
        let (vector, n) = if cga && character >= 0x80 { (0x1F, character - 0x80) } else { (0x43, character) };
        let font = self.far(vector * 4);
        let mut rows = vec![0; height as usize];
        self.host.read(font.wrapping_add(u32::from(n) * height), &mut rows);
        rows
    }

    /// What a text attribute's colour is in a linear mode.
    fn ink(&self, s: &Surface, attribute: u8) -> u32 {
        let component = |bit: u8| u32::from(attribute >> bit & 1) * 0xAA + u32::from(attribute >> 3 & 1) * 0x55;
        let (r, g, b) = (component(2), component(1), component(0));
        match s.layout {
            Kind::Linear(2) => r >> 3 << 11 | g >> 2 << 5 | b >> 3,
            Kind::Linear(3 | 4) => r << 16 | g << 8 | b,
            _ => attribute.into(),
        }
    }

    /// Draws a character in a cell; bit 7 of the attribute asks for exclusive or, where there are not 256 colours.
    pub(super) fn draw_character(&mut self, column: u16, row: u16, character: u8, attribute: u8) {
        let page = self.bda8(data::PAGE);
        let Some(s) = self.surface(page) else { return };
        let many = matches!(s.layout, Kind::Chained | Kind::Linear(_));
        let xor = !many && attribute & 0x80 != 0;
        let color = self.ink(&s, if many { attribute } else { attribute & 0x0F });
        let rows = self.glyph(character);
        let (left, top) = (u32::from(column) * 8, u32::from(row) * rows.len() as u32);
        for (y, bits) in (top..).zip(&rows) {
            for x in 0..8 {
                let on = bits >> (7 - x) & 1 != 0;
                if on || !xor {
                    self.set_pixel(&s, left + x, y, if on { color } else { 0 }, xor);
                }
            }
        }
    }

    /// The character whose picture is in a cell; 0 if none is.
    pub(super) fn find_character(&mut self, column: u8, row: u8) -> u8 {
        let page = self.bda8(data::PAGE);
        let Some(s) = self.surface(page) else { return 0 };
        let height = u32::from(self.bda16(data::CHARACTER_HEIGHT)).clamp(1, 32);
        let (left, top) = (u32::from(column) * 8, u32::from(row) * height);
        let rows: Vec<u8> =
            (top..top + height).map(|y| (0..8).fold(0, |bits, x| bits << 1 | u8::from(self.pixel(&s, left + x, y) != 0))).collect();
        (0..=0xFF).find(|&character| self.glyph(character) == rows).unwrap_or(0)
    }

    /// Scrolls a window of characters in a graphics mode.
    pub(super) fn scroll_pixels(&mut self, window: Window, lines: u8, up: bool, attribute: u8) {
        let page = self.bda8(data::PAGE);
        let Some(s) = self.surface(page) else { return };
        let height = u32::from(self.bda16(data::CHARACTER_HEIGHT)).clamp(1, 32);
        let (top, bottom) = (u32::from(window.top) * height, (u32::from(window.bottom) + 1) * height);
        let bottom = bottom.min(s.height);
        let (left, right) = (u32::from(window.left) * 8, (u32::from(window.right) + 1) * 8);
        let right = right.min(s.width);
        let shift = u32::from(lines) * height;
        let color = self.ink(&s, attribute);
        if left >= right {
            return;
        }
        // A row that is clear already, to be copied.
        let mut blank: Option<Row> = None;
        for n in 0..bottom.saturating_sub(top) {
            let to = if up { top + n } else { bottom - 1 - n };
            let from = if up { Some(to + shift).filter(|y| *y < bottom) } else { to.checked_sub(shift).filter(|y| *y >= top) };
            let row = match (from, &blank) {
                (Some(from), _) => self.row(&s, left, right, from),
                (None, Some(blank)) => blank.clone(),
                (None, None) => {
                    (left..right).for_each(|x| self.set_pixel(&s, x, to, color, false));
                    blank = Some(self.row(&s, left, right, to));
                    continue;
                }
            };
            self.host.write_video(place(&s, left, to).0, &row);
        }
    }

    /// The bytes of video memory that hold the pixels from `left` up to `right` of a row, both at the edge of a character:
    /// they lie side by side in every layout.
    fn row(&mut self, s: &Surface, left: u32, right: u32, y: u32) -> Row {
        let (at, end) = (place(s, left, y).0, place(s, right, y).0);
        let mut row = vec![0; end.saturating_sub(at) as usize];
        self.host.read_video(at, &mut row);
        row
    }
}

/// The byte of video memory that holds a pixel, and the pixel's lowest bit in it. Byte `n` of plane `p` is byte `4 * n + p`.
fn place(s: &Surface, x: u32, y: u32) -> (u64, u32) {
    let (x, y) = (u64::from(x), u64::from(y));
    match s.layout {
        Kind::Planar => ((s.start + y * s.stride + x / 8) * 4, 7 - (x % 8) as u32),
        Kind::Chained => {
            let at = y * s.stride + x;
            ((at & !3) * 4 + (at & 3), 0)
        }
        Kind::Cga(bits) => {
            let at = (y & 1) * 0x2000 + y / 2 * s.stride + x * u64::from(bits) / 8;
            let shift = 8 - bits - (x * u64::from(bits) % 8) as u8;
            // Two bits: even bytes are in plane 0, odd ones in plane 1; one bit: plane 0 alone.
            (if bits == 2 { (at & !1) * 4 + (at & 1) } else { at * 4 }, shift.into())
        }
        Kind::Linear(n) => (s.start + y * s.stride + x * n, 0),
    }
}
