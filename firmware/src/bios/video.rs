//! INT 10h: modes, palette, fonts, and what the adapter tells of itself (IBM PS/2 and PC BIOS Interface Technical Reference).

use super::modes::{Colors, Layout, Mode, mode};
use super::rom::{SEGMENT, at};
use super::text::Window;
use super::{Bios, EBDA, Seg, data, saved};

const ATTRIBUTE: u16 = 0x3C0;
const ATTRIBUTE_READ: u16 = 0x3C1;
pub(super) const SEQUENCER: u16 = 0x3C4;
pub(super) const PEL_MASK: u16 = 0x3C6;
const DAC_READ: u16 = 0x3C7;
pub(super) const DAC_WRITE: u16 = 0x3C8;
pub(super) const DAC: u16 = 0x3C9;
pub(super) const MISC_WRITE: u16 = 0x3C2;
/// In the attribute controller's index: the palette is shown.
const SHOW: u8 = 0x20;
/// The mode register of the attribute controller and its bit that makes bit 7 blink.
const ATTRIBUTE_MODE: u8 = 0x10;
const BLINK: u8 = 0x08;
const PALETTE_SIZE: u8 = 0x80;
const COLOR_SELECT: u8 = 0x14;
const OVERSCAN: u8 = 0x11;
/// VGA with an analog colour monitor.
const VGA_COLOR: u8 = 0x08;
/// Bytes of video memory that text, fonts and planes can be in.
const LEGACY_MEMORY: u64 = 256 << 10;

impl Bios<'_> {
    /// INT 10h.
    pub(super) fn video(&mut self) {
        if self.host.video_len() == 0 {
            return;
        }
        let (a, b) = (self.regs.a, self.regs.b);
        match a.h() {
            0x00 => self.set_mode(a.l()),
            0x01 => self.set_cursor_shape(self.regs.c.x()),
            0x02 => self.set_cursor(b.h(), self.regs.d.l(), self.regs.d.h()),
            0x03 => {
                let (column, row) = self.cursor(b.h());
                let shape = self.bda16(data::CURSOR_SHAPE);
                self.regs.c.set_x(shape);
                self.regs.d.set_x(u16::from_le_bytes([column, row]));
            }
            // There is no light pen.
            0x04 => self.regs.a.set_h(0),
            0x05 => self.show_page(a.l()),
            0x06 | 0x07 => {
                let (c, d) = (self.regs.c, self.regs.d);
                let window = Window { left: c.l(), top: c.h(), right: d.l(), bottom: d.h() };
                self.scroll(window, a.l(), a.h() == 6, b.h());
            }
            0x08 => self.read_character(),
            0x09 => self.write_characters(b.h(), a.l(), Some(b.l()), self.regs.c.x()),
            0x0A => {
                // In graphics modes there is no attribute to keep.
                let attribute = (self.layout() != Some(Layout::Text)).then_some(b.l());
                self.write_characters(b.h(), a.l(), attribute, self.regs.c.x());
            }
            0x0B => self.cga_palette(b.h(), b.l()),
            0x0C | 0x0D => {
                let (x, y) = (self.regs.c.x().into(), self.regs.d.x().into());
                let Some(surface) = self.surface(b.h()) else { return };
                if a.h() == 0x0D {
                    let color = self.pixel(&surface, x, y);
                    self.regs.a.set_l(color as u8);
                } else {
                    let many = self.layout().is_none_or(|layout| layout == Layout::Chained);
                    let color = if many { a.l() } else { a.l() & 0x7F };
                    self.set_pixel(&surface, x, y, color.into(), !many && a.l() & 0x80 != 0);
                }
            }
            0x0E => {
                let page = self.bda8(data::PAGE);
                self.teletype(page, a.l(), None, b.l());
            }
            0x0F => {
                let (number, columns, page) = (self.bda8(data::MODE), self.columns(), self.bda8(data::PAGE));
                let kept = self.bda8(data::VIDEO_OPTIONS) & 0x80;
                self.regs.a.set_x(columns.min(0xFF) << 8 | u16::from(number & 0x7F | kept));
                self.regs.b.set_h(page);
            }
            0x10 => self.palette(),
            0x11 => self.fonts(),
            0x12 => self.alternate(),
            0x13 => self.write_string(),
            0x1A => self.combination(),
            0x1B => self.state_information(),
            0x1C => {
                let known = self.saved_state(a.l(), self.regs.c.x(), saved::LEGACY_PARTS);
                self.regs.a.set_l(if known { 0x1C } else { 0 });
            }
            0x4F => self.vbe(),
            _ => log::debug!(target: "bios", "INT 10h has no function {:02X}h", a.h()),
        }
    }

    /// Sets a mode of the VGA; bit 7 of `number` keeps the memory.
    pub(super) fn set_mode(&mut self, number: u8) {
        let keep = number & 0x80 != 0;
        let Some(mode) = mode(number & 0x7F) else {
            log::debug!(target: "bios", "there is no video mode {number:02X}h");
            return;
        };
        self.leave_linear_mode();
        self.set_mode_registers(mode);
        let palette_kept = self.bda8(data::MODE_OPTIONS) & 8 != 0;
        if !palette_kept {
            self.set_colors(mode.colors);
        }
        self.set_mode_data(mode, keep);
        if mode.layout == Layout::Text {
            if !keep {
                self.fill_cells(0, 0x4000, b' ', 7);
            }
            self.load_rom_font(at::FONT_16, 16, 0);
            self.set_cursor_shape(0x0607);
        } else if !keep {
            self.clear(LEGACY_MEMORY);
        }
        let (font, height) = match mode.height {
            8 => (at::FONT_8, 8),
            14 => (at::FONT_14, 14),
            _ => (at::FONT_16, 16),
        };
        debug_assert_eq!(height, mode.height);
        self.set_vector(0x43, SEGMENT, font);
        self.set_vector(0x1F, SEGMENT, at::FONT_8_HIGH);
        for page in 0..8 {
            self.set_cursor(page, 0, 0);
        }
        self.show_page(0);
        // What the mode was, for programs that look at AL.
        self.regs.a.set_l(match mode.number {
            6 => 0x3F,
            0..=7 => 0x30,
            _ => 0x20,
        });
    }

    pub(super) fn clear(&mut self, bytes: u64) {
        let zeros = vec![0; bytes as usize];
        self.host.write_video(0, &zeros);
    }

    fn set_mode_registers(&mut self, mode: &Mode) {
        self.out8(MISC_WRITE, mode.misc());
        self.out_indexed(SEQUENCER, 0, 1);
        for (port, index, value) in mode.registers() {
            self.out_indexed(port, index, value);
        }
        self.out_indexed(SEQUENCER, 0, 3);
        self.out8(PEL_MASK, 0xFF);
        self.set_attributes(|bios| {
            for (index, value) in (0..).zip(mode.attributes()) {
                bios.attribute(index, value);
            }
            bios.attribute(COLOR_SELECT, 0);
        });
    }

    /// The BIOS data area's view of a mode.
    fn set_mode_data(&mut self, mode: &Mode, keep: bool) {
        self.set_bda8(data::MODE, mode.number);
        self.set_bda16(data::COLUMNS, mode.columns);
        self.set_bda16(data::PAGE_BYTES, mode.page);
        self.set_bda16(data::PAGE_START, 0);
        self.set_bda8(data::PAGE, 0);
        self.set_bda16(data::CRTC, if mode.mono_port() { 0x3B4 } else { 0x3D4 });
        self.set_bda8(data::ROWS, mode.rows - 1);
        self.set_bda16(data::CHARACTER_HEIGHT, mode.height.into());
        // 256 KiB, colour, cursor emulation.
        self.set_bda8(data::VIDEO_OPTIONS, 0x60 | u8::from(keep) << 7);
        self.set_bda8(data::VIDEO_SWITCHES, 0xF9);
        let options = self.bda8(data::MODE_OPTIONS);
        self.set_bda8(data::MODE_OPTIONS, options & 0x0E | 0x51);
        self.set_bda8(data::COMBINATION, VGA_COLOR);
        self.set(EBDA + data::VBE_MODE, &[0, 0]);
    }

    /// Changes registers of the attribute controller, whose palette is not shown meanwhile.
    pub(super) fn set_attributes(&mut self, change: impl FnOnce(&mut Self)) {
        self.attribute_index(0);
        change(self);
        self.attribute_index(SHOW);
    }

    /// Makes the next store to the attribute controller an index, and gives it.
    fn attribute_index(&mut self, index: u8) {
        let status = self.bda16(data::CRTC).wrapping_add(6);
        // One of the two answers.
        for port in [0x3BA, 0x3DA, status] {
            self.in8(port);
        }
        self.out8(ATTRIBUTE, index);
    }

    pub(super) fn attribute(&mut self, index: u8, value: u8) {
        self.attribute_index(index);
        self.out8(ATTRIBUTE, value);
    }

    pub(super) fn read_attribute(&mut self, index: u8) -> u8 {
        self.attribute_index(index);
        let value = self.in8(ATTRIBUTE_READ);
        self.attribute_index(SHOW);
        value
    }

    fn set_attribute(&mut self, index: u8, value: u8) {
        self.set_attributes(|bios| bios.attribute(index, value));
    }

    pub(super) fn set_colors(&mut self, colors: Colors) {
        self.out8(DAC_WRITE, 0);
        for component in colors.table().concat() {
            self.out8(DAC, component);
        }
    }

    pub(super) fn dac(&mut self, n: u8) -> [u8; 3] {
        self.out8(DAC_READ, n);
        [(); 3].map(|()| self.in8(DAC))
    }

    pub(super) fn set_dac(&mut self, n: u8, color: [u8; 3]) {
        self.out8(DAC_WRITE, n);
        color.into_iter().for_each(|component| self.out8(DAC, component));
    }

    /// 0Bh: background and palette of the CGA's modes.
    fn cga_palette(&mut self, what: u8, value: u8) {
        let number = self.bda8(data::MODE);
        if what == 0 {
            let color = value & 7 | (value & 8) << 1;
            self.set_attribute(OVERSCAN, color);
            if number > 3 {
                self.set_attribute(0, color);
            }
        } else {
            for n in 1..4 {
                let old = self.read_attribute(n);
                self.set_attribute(n, old & !1 | value & 1);
            }
        }
    }

    /// 10h: palette and colour registers.
    fn palette(&mut self) {
        let (b, c, d) = (self.regs.b, self.regs.c, self.regs.d);
        let table = self.regs.es.at(d.x());
        match self.regs.a.l() {
            0x00 if b.l() <= COLOR_SELECT => self.set_attribute(b.l(), b.h()),
            0x01 => self.set_attribute(OVERSCAN, b.h()),
            0x02 => {
                let palette: [u8; 17] = self.array(table);
                (0..16).zip(palette).for_each(|(n, value)| self.set_attribute(n, value));
                self.set_attribute(OVERSCAN, palette[16]);
            }
            0x03 => {
                let old = self.read_attribute(ATTRIBUTE_MODE);
                self.set_attribute(ATTRIBUTE_MODE, if b.l() & 1 != 0 { old | BLINK } else { old & !BLINK });
            }
            0x07 if b.l() <= COLOR_SELECT => {
                let value = self.read_attribute(b.l());
                self.regs.b.set_h(value);
            }
            0x08 => {
                let value = self.read_attribute(OVERSCAN);
                self.regs.b.set_h(value);
            }
            0x09 => {
                let mut palette = [0; 17];
                (0..16).for_each(|n: u8| palette[usize::from(n)] = self.read_attribute(n));
                palette[16] = self.read_attribute(OVERSCAN);
                self.set(table, &palette);
            }
            0x10 => self.set_dac(b.l(), [d.h(), c.h(), c.l()]),
            0x12 => {
                for n in 0..c.x().min(256) {
                    let color = self.array(table.wrapping_add(3 * u32::from(n)));
                    self.set_dac((b.x() as u8).wrapping_add(n as u8), color);
                }
            }
            0x13 if b.l() & 1 == 0 => {
                let old = self.read_attribute(ATTRIBUTE_MODE);
                self.set_attribute(ATTRIBUTE_MODE, old & !PALETTE_SIZE | b.h() << 7);
            }
            0x13 => {
                let sixteen = self.read_attribute(ATTRIBUTE_MODE) & PALETTE_SIZE != 0;
                self.set_attribute(COLOR_SELECT, if sixteen { b.h() & 15 } else { (b.h() & 3) << 2 });
            }
            0x15 => {
                let [red, green, blue] = self.dac(b.l());
                self.regs.d.set_h(red);
                self.regs.c.set_x(u16::from(green) << 8 | u16::from(blue));
            }
            0x17 => {
                for n in 0..c.x().min(256) {
                    let color = self.dac((b.x() as u8).wrapping_add(n as u8));
                    self.set(table.wrapping_add(3 * u32::from(n)), &color);
                }
            }
            0x18 => self.out8(PEL_MASK, b.l()),
            0x19 => {
                let mask = self.in8(PEL_MASK);
                self.regs.b.set_l(mask);
            }
            0x1A => {
                let sixteen = self.read_attribute(ATTRIBUTE_MODE) & PALETTE_SIZE != 0;
                let select = self.read_attribute(COLOR_SELECT);
                self.regs.b.set_x(u16::from(if sixteen { select & 15 } else { select >> 2 & 3 }) << 8 | u16::from(sixteen));
            }
            0x1B => {
                for n in 0..c.x().min(256) {
                    let n = (b.x() as u8).wrapping_add(n as u8);
                    let [red, green, blue] = self.dac(n).map(u32::from);
                    // NTSC luminance in 256ths.
                    let grey = ((red * 77 + green * 151 + blue * 28) >> 8) as u8;
                    self.set_dac(n, [grey; 3]);
                }
            }
            other => log::debug!(target: "bios", "INT 10h, 10h has no function {other:02X}h"),
        }
    }

    /// Puts `count` characters of `height` rows, at `from` in memory, into font `block` of plane 2.
    fn load_font(&mut self, from: u32, height: u8, first: u16, count: u16, block: u8) {
        /// Rows that a character has in video memory.
        const ROWS: usize = 32;
        let count = count.min(256u16.saturating_sub(first));
        let height = usize::from(height.min(32));
        let mut glyphs = vec![0; usize::from(count) * height];
        self.host.read(from, &mut glyphs);
        let font = 0x4000 * u64::from(block & 3) + 0x2000 * u64::from(block >> 2 & 1);
        let at = (font + u64::from(first) * ROWS as u64) * 4;
        let mut memory = vec![0; usize::from(count) * ROWS * 4];
        self.host.read_video(at, &mut memory);
        if height > 0 {
            for (n, glyph) in glyphs.chunks(height).enumerate() {
                for (row, bits) in glyph.iter().enumerate() {
                    memory[(n * ROWS + row) * 4 + 2] = *bits;
                }
            }
        }
        self.host.write_video(at, &memory);
    }

    fn load_rom_font(&mut self, font: u16, height: u8, block: u8) {
        self.load_font(Seg::real(SEGMENT).at(font), height, 0, 256, block);
    }

    /// Makes text rows `height` scan lines high.
    fn set_text_height(&mut self, height: u8) {
        let height = height.clamp(1, 32);
        self.set_bda16(data::CHARACTER_HEIGHT, height.into());
        let port = self.bda16(data::CRTC);
        let old = self.in_indexed(port, 9);
        self.crtc(9, old & 0xE0 | (height - 1));
        let lines = 400;
        let rows = (lines / u16::from(height)).max(1);
        self.set_bda8(data::ROWS, (rows - 1) as u8);
        // The last line that is shown.
        let last = rows * u16::from(height) - 1;
        self.crtc(0x12, last as u8);
        let columns = self.columns();
        self.set_bda16(data::PAGE_BYTES, rows.saturating_mul(columns * 2).saturating_add(255) & !255);
        let (start, end) = if height > 8 { (height - 3, height - 2) } else { (height.saturating_sub(2), height - 1) };
        self.crtc(0x0A, start);
        self.crtc(0x0B, end);
        self.set_bda16(data::CURSOR_SHAPE, u16::from(start) << 8 | u16::from(end));
    }

    /// 11h: fonts.
    fn fonts(&mut self) {
        let (b, c, d) = (self.regs.b, self.regs.c, self.regs.d);
        let function = self.regs.a.l();
        let rom = match function & 0x0F {
            1 => Some((at::FONT_14, 14)),
            2 => Some((at::FONT_8, 8)),
            4 => Some((at::FONT_16, 16)),
            _ => None,
        };
        match (function, rom) {
            (0x00 | 0x10, _) => {
                let from = self.regs.es.at(self.regs.bp.x());
                self.load_font(from, b.h(), d.x(), c.x(), b.l());
                if function == 0x10 {
                    self.set_text_height(b.h());
                }
            }
            (0x01..=0x04 | 0x11..=0x14, Some((font, height))) => {
                self.load_rom_font(font, height, b.l());
                if function & 0x10 != 0 {
                    self.set_text_height(height);
                }
            }
            (0x03, _) => self.out_indexed(SEQUENCER, 3, b.l()),
            (0x20, _) => self.set_vector(0x1F, self.regs.es.selector, self.regs.bp.x()),
            (0x21..=0x24, _) => {
                let (segment, offset, height) = match function {
                    0x22 => (SEGMENT, at::FONT_14, 14),
                    0x23 => (SEGMENT, at::FONT_8, 8),
                    0x24 => (SEGMENT, at::FONT_16, 16),
                    _ => (self.regs.es.selector, self.regs.bp.x(), c.x().clamp(1, 32)),
                };
                self.set_vector(0x43, segment, offset);
                self.set_bda16(data::CHARACTER_HEIGHT, height);
                let rows = match b.l() {
                    0 => d.l(),
                    1 => 14,
                    2 => 25,
                    _ => 43,
                };
                self.set_bda8(data::ROWS, rows.saturating_sub(1));
            }
            (0x30, _) => {
                let (segment, offset) = match b.h() {
                    0 | 1 => {
                        let n = if b.h() == 0 { 0x1F } else { 0x43 };
                        let [offset, segment] = [0, 2].map(|at| self.get16(n * 4 + at));
                        (segment, offset)
                    }
                    2 | 5 => (SEGMENT, at::FONT_14),
                    3 => (SEGMENT, at::FONT_8),
                    4 => (SEGMENT, at::FONT_8_HIGH),
                    _ => (SEGMENT, at::FONT_16),
                };
                let (height, rows) = (self.bda16(data::CHARACTER_HEIGHT), self.last_row());
                self.regs.es = Seg::real(segment);
                self.regs.bp.set_x(offset);
                self.regs.c.set_x(height);
                self.regs.d.set_l(rows);
            }
            _ => log::debug!(target: "bios", "INT 10h, 11h has no function {function:02X}h"),
        }
    }

    /// 12h: options. AL = 12h says that one is known.
    fn alternate(&mut self) {
        let (value, what) = (self.regs.a.l(), self.regs.b.l());
        let set_bit = |bios: &mut Self, bit: u8, on: bool| {
            let options = bios.bda8(data::MODE_OPTIONS);
            bios.set_bda8(data::MODE_OPTIONS, if on { options | bit } else { options & !bit });
        };
        match what {
            0x10 => {
                // Colour, 256 KiB; no feature connector; switches.
                let mono = self.bda16(data::CRTC) == 0x3B4;
                self.regs.b.set_x(u16::from(mono) << 8 | 3);
                self.regs.c.set_x(0x0009);
                return;
            }
            // 200, 350 or 400 lines in the next text mode: 400 is all that is made.
            0x30 => {}
            0x31 => set_bit(self, 0x08, value != 0),
            0x32 => {}
            0x33 => set_bit(self, 0x02, value == 0),
            0x34 => {
                let options = self.bda8(data::VIDEO_OPTIONS);
                self.set_bda8(data::VIDEO_OPTIONS, options & !1 | u8::from(value != 0));
            }
            0x36 => {
                let old = self.in_indexed(SEQUENCER, 1);
                self.out_indexed(SEQUENCER, 1, old & !0x20 | (value & 1) << 5);
            }
            _ => {
                log::debug!(target: "bios", "INT 10h, 12h has no function {what:02X}h");
                return;
            }
        }
        self.regs.a.set_l(0x12);
    }

    /// 1Ah: display combination.
    fn combination(&mut self) {
        match self.regs.a.l() {
            0 => {
                let active = self.bda8(data::COMBINATION);
                self.regs.b.set_x(active.into());
            }
            1 => self.set_bda8(data::COMBINATION, self.regs.b.l()),
            _ => return,
        }
        self.regs.a.set_l(0x1A);
    }

    /// 1Bh: 64 bytes of state at ES:DI.
    fn state_information(&mut self) {
        if self.regs.b.x() != 0 {
            return;
        }
        let mut state = [0; 64];
        state[..2].copy_from_slice(&at::STATIC_FUNCTIONS.to_le_bytes());
        state[2..4].copy_from_slice(&SEGMENT.to_le_bytes());
        let mut copied = [0; 30];
        self.host.read(super::BDA + data::MODE, &mut copied);
        state[4..34].copy_from_slice(&copied);
        let (rows, height) = (self.last_row(), self.bda16(data::CHARACTER_HEIGHT));
        state[34] = rows.wrapping_add(1);
        state[35..37].copy_from_slice(&height.to_le_bytes());
        state[37] = VGA_COLOR;
        // 256 colours can be told apart in mode 13h, 16 elsewhere; 400 lines.
        let number = self.bda8(data::MODE);
        state[39..41].copy_from_slice(&(if number == 0x13 { 256u16 } else { 16 }).to_le_bytes());
        state[41] = 8;
        state[42] = 2;
        // 256 KiB.
        state[49] = 3;
        let to = self.regs.es.at(self.regs.di.x());
        self.set(to, &state);
        self.regs.a.set_l(0x1B);
    }
}
