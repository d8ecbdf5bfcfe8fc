//! Characters on the screen: cursor, scrolling, teletype, strings; in text modes here, in graphics modes as pixels.

use super::modes::Layout;
use super::{Bios, Seg, data};

/// Bytes of video memory from a cell to the next: character and attribute are bytes 0 and 1 of eight.
const CELL: u64 = 8;
/// Cells that the VGA's 32 KiB of text hold.
const CELLS: u64 = 0x4000;
/// More characters of a string than any screen holds.
const MOST_CHARACTERS: u16 = 0x2000;
const BELL: u8 = 7;
const BACKSPACE: u8 = 8;
const LINE_FEED: u8 = 10;
const RETURN: u8 = 13;

/// A rectangle of characters: first column and row, last column and row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub left: u8,
    pub top: u8,
    pub right: u8,
    pub bottom: u8,
}

impl Bios<'_> {
    pub(super) fn columns(&mut self) -> u16 {
        self.bda16(data::COLUMNS).clamp(1, 512)
    }
    /// The last row.
    pub(super) fn last_row(&mut self) -> u8 {
        self.bda8(data::ROWS).min(0xFE)
    }
    fn page(&mut self) -> u8 {
        self.bda8(data::PAGE) & 7
    }
    /// Column and row of a page's cursor.
    pub(super) fn cursor(&mut self, page: u8) -> (u8, u8) {
        let [column, row] = self.bda16(data::CURSORS + 2 * u32::from(page & 7)).to_le_bytes();
        (column, row)
    }

    fn page_cell(&mut self, page: u8) -> u64 {
        u64::from(self.bda16(data::PAGE_BYTES)) / 2 * u64::from(page & 7)
    }

    fn cell(&mut self, page: u8, column: u8, row: u8) -> u64 {
        self.page_cell(page) + u64::from(row) * u64::from(self.columns()) + u64::from(column)
    }

    /// Writes a register of the CRT controller.
    pub(super) fn crtc(&mut self, index: u8, value: u8) {
        let port = self.bda16(data::CRTC);
        self.out_indexed(port, index, value);
    }

    pub(super) fn set_cursor(&mut self, page: u8, column: u8, row: u8) {
        self.set_bda16(data::CURSORS + 2 * u32::from(page & 7), u16::from_le_bytes([column, row]));
        if page & 7 == self.page() && self.layout() == Some(Layout::Text) {
            let [low, high, ..] = self.cell(page, column, row).to_le_bytes();
            self.crtc(0x0E, high);
            self.crtc(0x0F, low);
        }
    }

    /// 01h. A shape that only makes sense for characters of 8 rows is scaled, as the VGA's emulation does.
    pub(super) fn set_cursor_shape(&mut self, shape: u16) {
        let (mut start, mut end) = ((shape >> 8) as u8, shape as u8);
        self.set_bda16(data::CURSOR_SHAPE, shape);
        let height = self.bda16(data::CHARACTER_HEIGHT) as u8;
        let emulated = self.bda8(data::VIDEO_OPTIONS) & 1 == 0;
        if emulated && height > 8 && end < 8 && start & 0x3F < 32 && start & 0x60 != 0x20 {
            let scale = |row: u8| ((u16::from(row) + 1) * u16::from(height) / 8 - 1) as u8;
            (start, end) = if end == (start & 0x1F) + 1 { (scale(end) - 1, scale(end)) } else { (scale(start & 0x1F), scale(end)) };
        }
        self.crtc(0x0A, start & 0x3F);
        self.crtc(0x0B, end & 0x1F);
    }

    /// 05h: shows a page.
    pub(super) fn show_page(&mut self, page: u8) {
        let bytes = self.bda16(data::PAGE_BYTES);
        let start = bytes.wrapping_mul(u16::from(page & 7));
        let text = self.layout() == Some(Layout::Text);
        self.set_bda8(data::PAGE, page & 7);
        self.set_bda16(data::PAGE_START, start);
        let [low, high] = (if text { start / 2 } else { start }).to_le_bytes();
        self.crtc(0x0C, high);
        self.crtc(0x0D, low);
        let (column, row) = self.cursor(page);
        self.set_cursor(page, column, row);
    }

    fn read_cells(&mut self, first: u64, count: u64) -> Vec<u8> {
        let mut bytes = vec![0; (count.min(CELLS) * CELL) as usize];
        self.host.read_video(first * CELL, &mut bytes);
        bytes
    }

    fn put_cell(&mut self, cell: u64, character: u8, attribute: Option<u8>) {
        match attribute {
            Some(attribute) => self.host.write_video(cell * CELL, &[character, attribute]),
            None => self.host.write_video(cell * CELL, &[character]),
        }
    }

    /// Fills `count` cells without touching what else is in their bytes: the font.
    pub(super) fn fill_cells(&mut self, first: u64, count: u64, character: u8, attribute: u8) {
        let mut bytes = self.read_cells(first, count);
        for cell in bytes.chunks_mut(CELL as usize) {
            cell[..2].copy_from_slice(&[character, attribute]);
        }
        self.host.write_video(first * CELL, &bytes);
    }

    /// 06h and 07h: scrolls a window by `lines` (0 or too many: all), up or down; the new lines have `attribute`.
    pub(super) fn scroll(&mut self, window: Window, lines: u8, up: bool, attribute: u8) {
        let columns = self.columns();
        let last = self.last_row();
        let Window { left, top, right, bottom } = window;
        let (right, bottom) = (right.min((columns - 1).min(255) as u8), bottom.min(last));
        if left > right || top > bottom {
            return;
        }
        let window = Window { left, top, right, bottom };
        let height = bottom - top + 1;
        let lines = if lines == 0 || lines > height { height } else { lines };
        if self.layout() != Some(Layout::Text) {
            return self.scroll_pixels(window, lines, up, attribute);
        }
        let page = self.page();
        let first = self.cell(page, 0, top);
        let row = u64::from(columns);
        if row * u64::from(height) > CELLS {
            log::debug!(target: "bios", "a screen of {columns} by {height} characters is not scrolled");
            return;
        }
        let mut cells = self.read_cells(first, row * u64::from(height));
        // What else is in a cell's bytes stays where it is.
        let at = |row: u8, column: u8| (usize::from(row) * usize::from(columns) + usize::from(column)) * CELL as usize;
        for n in 0..height {
            let to = if up { n } else { height - 1 - n };
            let from = if up { to.checked_add(lines).filter(|r| *r < height) } else { to.checked_sub(lines) };
            for column in left..=right {
                let what = from.map_or([b' ', attribute], |from| [cells[at(from, column)], cells[at(from, column) + 1]]);
                cells[at(to, column)..at(to, column) + 2].copy_from_slice(&what);
            }
        }
        self.host.write_video(first * CELL, &cells);
    }

    /// 08h: character and attribute at the cursor.
    pub(super) fn read_character(&mut self) {
        let page = self.regs.b.h();
        let (column, row) = self.cursor(page);
        let cell = self.cell(page, column, row);
        if self.layout() == Some(Layout::Text) {
            let mut bytes = [0; 2];
            self.host.read_video(cell * CELL, &mut bytes);
            self.regs.a.set_x(u16::from_le_bytes(bytes));
        } else {
            let found = self.find_character(column, row);
            self.regs.a.set_x(found.into());
        }
    }

    /// 09h and 0Ah: `count` times a character at the cursor, which stays.
    pub(super) fn write_characters(&mut self, page: u8, character: u8, attribute: Option<u8>, count: u16) {
        let (column, row) = self.cursor(page);
        let columns = self.columns();
        let text = self.layout() == Some(Layout::Text);
        let first = self.cell(page, column, row);
        let room = (u32::from(columns) * (u32::from(self.last_row()) + 1)).min(CELLS as u32) as u16;
        for n in 0..count.min(room) {
            if text {
                self.put_cell((first + u64::from(n)) % CELLS, character, attribute);
            } else {
                let at = u16::from(column) + n;
                let (column, row) = (at % columns, u16::from(row) + at / columns);
                self.draw_character(column, row, character, attribute.unwrap_or(7));
            }
        }
    }

    /// 0Eh: a character as a teletype prints it. Text keeps the attribute that is there unless `attribute` is given.
    pub(super) fn teletype(&mut self, page: u8, character: u8, attribute: Option<u8>, color: u8) {
        let (mut column, mut row) = self.cursor(page);
        let text = self.layout() == Some(Layout::Text);
        match character {
            BELL => return,
            BACKSPACE => column = column.saturating_sub(1),
            LINE_FEED => row = row.saturating_add(1),
            RETURN => column = 0,
            _ => {
                if text {
                    let cell = self.cell(page, column, row) % CELLS;
                    self.put_cell(cell, character, attribute);
                } else {
                    self.draw_character(column.into(), row.into(), character, attribute.unwrap_or(color));
                }
                column = column.saturating_add(1);
            }
        }
        if u16::from(column) >= self.columns() {
            (column, row) = (0, row.saturating_add(1));
        }
        let last = self.last_row();
        if row > last {
            row = last;
            let attribute = if text {
                let cell = self.cell(page, column, row) % CELLS;
                let [_, attribute] = self.read_cells(cell, 1)[..2] else { return };
                attribute
            } else {
                0
            };
            self.scroll(Window { left: 0, top: 0, right: 0xFF, bottom: last }, 1, true, attribute);
        }
        self.set_cursor(page, column, row);
    }

    /// 13h: the string at ES:BP, of CX characters.
    pub(super) fn write_string(&mut self) {
        let (mode, page, attribute) = (self.regs.a.l(), self.regs.b.h(), self.regs.b.l());
        let (column, row) = (self.regs.d.l(), self.regs.d.h());
        let before = self.cursor(page);
        self.set_cursor(page, column, row);
        let step = if mode & 2 != 0 { 2 } else { 1 };
        for n in 0..self.regs.c.x().min(MOST_CHARACTERS) {
            let at = self.regs.es.at(self.regs.bp.x().wrapping_add(n.wrapping_mul(step)));
            let character = self.get8(at);
            let attribute = if step == 2 { self.get8(at.wrapping_add(1)) } else { attribute };
            self.teletype(page, character, Some(attribute), attribute);
        }
        if mode & 1 == 0 {
            self.set_cursor(page, before.0, before.1);
        }
    }

    /// Prints the BIOS's own words.
    pub(super) fn print(&mut self, text: &str) {
        if self.host.video_len() == 0 {
            return;
        }
        for byte in text.bytes() {
            if byte == b'\n' {
                self.teletype(0, RETURN, None, 7);
            }
            self.teletype(0, byte, None, 7);
        }
    }

    /// A far pointer in memory.
    pub(super) fn far(&mut self, linear: u32) -> u32 {
        let [offset, segment] = [0, 2].map(|at| self.get16(linear.wrapping_add(at)));
        Seg::real(segment).at(offset)
    }
}
