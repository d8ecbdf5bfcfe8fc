//! INT 10h, 4Fh: VESA BIOS extensions (VBE Core Functions Standard 3.0) over the Bochs display interface.

use super::modes::Colors;
use super::pixels::Surface;
use super::registers::Seg;
use super::rom::{SEGMENT, at, rom};
use super::{Bios, EBDA, data, saved};

pub(super) const INDEX: u16 = 0x1CE;
pub(super) const DATA: u16 = 0x1CF;

/// Registers of the display interface.
pub(super) mod dispi {
    pub const XRES: u16 = 1;
    pub const YRES: u16 = 2;
    pub const BPP: u16 = 3;
    pub const ENABLE: u16 = 4;
    pub const BANK: u16 = 5;
    pub const VIRTUAL_WIDTH: u16 = 6;
    pub const X_OFFSET: u16 = 8;
    pub const Y_OFFSET: u16 = 9;
    pub const ENABLED: u16 = 1;
    pub const WIDE_DAC: u16 = 0x20;
    pub const LINEAR: u16 = 0x40;
    pub const KEEP: u16 = 0x80;
}

/// Bits of a mode number in BX.
const USE_LINEAR: u16 = 1 << 14;
const KEEP_MEMORY: u16 = 1 << 15;
const NUMBER: u16 = 0x1FF;
/// Answers in AX.
pub(super) const OK: u16 = 0x004F;
pub(super) const FAILED: u16 = 0x014F;

/// A linear mode: number, width, height, bits of a pixel.
type Mode = (u16, u16, u16, u16);

/// All modes: those that VESA has given numbers, then the numbers that Bochs's adapter made known.
#[rustfmt::skip]
const MODES: [Mode; 67] = [
    (0x100, 640, 400, 8), (0x101, 640, 480, 8), (0x103, 800, 600, 8), (0x105, 1024, 768, 8), (0x107, 1280, 1024, 8),
    (0x10D, 320, 200, 15), (0x10E, 320, 200, 16), (0x10F, 320, 200, 24), (0x110, 640, 480, 15), (0x111, 640, 480, 16),
    (0x112, 640, 480, 24), (0x113, 800, 600, 15), (0x114, 800, 600, 16), (0x115, 800, 600, 24), (0x116, 1024, 768, 15),
    (0x117, 1024, 768, 16), (0x118, 1024, 768, 24), (0x119, 1280, 1024, 15), (0x11A, 1280, 1024, 16),
    (0x11B, 1280, 1024, 24), (0x11C, 1600, 1200, 8), (0x11D, 1600, 1200, 15), (0x11E, 1600, 1200, 16),
    (0x11F, 1600, 1200, 24), (0x140, 320, 200, 32), (0x141, 640, 400, 32), (0x142, 640, 480, 32), (0x143, 800, 600, 32),
    (0x144, 1024, 768, 32), (0x145, 1280, 1024, 32), (0x146, 320, 200, 8), (0x147, 1600, 1200, 32), (0x148, 1152, 864, 8),
    (0x149, 1152, 864, 15), (0x14A, 1152, 864, 16), (0x14B, 1152, 864, 24), (0x14C, 1152, 864, 32), (0x175, 1280, 768, 16),
    (0x176, 1280, 768, 24), (0x177, 1280, 768, 32), (0x178, 1280, 800, 16), (0x179, 1280, 800, 24), (0x17A, 1280, 800, 32),
    (0x17B, 1280, 960, 16), (0x17C, 1280, 960, 24), (0x17D, 1280, 960, 32), (0x17E, 1440, 900, 16), (0x17F, 1440, 900, 24),
    (0x180, 1440, 900, 32), (0x181, 1400, 1050, 16), (0x182, 1400, 1050, 24), (0x183, 1400, 1050, 32),
    (0x184, 1680, 1050, 16), (0x185, 1680, 1050, 24), (0x186, 1680, 1050, 32), (0x187, 1920, 1200, 16),
    (0x188, 1920, 1200, 24), (0x189, 1920, 1200, 32), (0x18A, 2560, 1600, 16), (0x18B, 2560, 1600, 24),
    (0x18C, 2560, 1600, 32), (0x18D, 1280, 720, 16), (0x18E, 1280, 720, 24), (0x18F, 1280, 720, 32), (0x190, 1920, 1080, 16),
    (0x191, 1920, 1080, 24), (0x192, 1920, 1080, 32),
];

const VENDOR: &[u8] = b"Softmetal\0";
const PRODUCT: &[u8] = b"Softmetal VBE\0";
const REVISION: &[u8] = b"1\0";

/// The strings, then the list of mode numbers.
pub fn strings() -> Vec<u8> {
    let numbers = MODES.iter().flat_map(|mode| mode.0.to_le_bytes());
    [VENDOR, PRODUCT, REVISION].concat().into_iter().chain(numbers).chain([0xFF, 0xFF]).collect()
}

/// The display interface's registers that are a mode's state, in the order in which they are kept.
const STATE_REGISTERS: [u16; 8] =
    [dispi::XRES, dispi::YRES, dispi::BPP, dispi::ENABLE, dispi::VIRTUAL_WIDTH, dispi::X_OFFSET, dispi::Y_OFFSET, dispi::BANK];
/// Bytes of a saved state: those registers and the mode's number.
pub(super) const STATE_LEN: usize = 2 * STATE_REGISTERS.len() + 2;

fn stride(width: u16, bits: u16) -> u32 {
    u32::from(width) * u32::from(bits.div_ceil(8))
}

impl Bios<'_> {
    fn dispi(&mut self, register: u16) -> u16 {
        self.host.port_out(INDEX, 2, register.into());
        self.host.port_in(DATA, 2) as u16
    }
    fn set_dispi(&mut self, register: u16, value: u16) {
        self.host.port_out(INDEX, 2, register.into());
        self.host.port_out(DATA, 2, value.into());
    }

    /// [`STATE_REGISTERS`] as they are.
    pub(super) fn saved_dispi(&mut self) -> [u16; STATE_REGISTERS.len()] {
        STATE_REGISTERS.map(|register| match register {
            // How memory was treated when the mode was set is no part of it.
            dispi::ENABLE => self.dispi(register) & !dispi::KEEP,
            _ => self.dispi(register),
        })
    }

    /// Puts [`STATE_REGISTERS`] back; video memory stays as it is.
    pub(super) fn restore_dispi(&mut self, values: impl Iterator<Item = u16>) {
        self.set_dispi(dispi::ENABLE, 0);
        for (register, value) in STATE_REGISTERS.into_iter().zip(values) {
            self.set_dispi(register, if register == dispi::ENABLE { value | dispi::KEEP } else { value });
        }
    }

    /// The mode that is set; 0 if it is none of these.
    fn linear_mode(&mut self) -> u16 {
        self.get16(EBDA + data::VBE_MODE)
    }

    /// The pixels of the linear mode that is set.
    pub(super) fn linear_surface(&mut self) -> Option<Surface> {
        if self.linear_mode() == 0 {
            return None;
        }
        let [width, height, bits, across] = [dispi::XRES, dispi::YRES, dispi::BPP, dispi::VIRTUAL_WIDTH].map(|r| self.dispi(r));
        Some(Surface::linear(width.into(), height.into(), bits, stride(across, bits).into()))
    }

    /// Back to the VGA.
    pub(super) fn leave_linear_mode(&mut self) {
        self.set_dispi(dispi::ENABLE, 0);
        self.set(EBDA + data::VBE_MODE, &[0, 0]);
    }

    /// INT 10h, 4Fh.
    pub(super) fn vbe(&mut self) {
        let ok = match self.regs.a.l() {
            0x00 => self.vbe_information(),
            0x01 => self.vbe_mode_information(),
            0x02 => self.vbe_set_mode(),
            0x03 => {
                let (linear, legacy) = (self.linear_mode(), self.bda8(data::MODE));
                self.regs.b.set_x(if linear != 0 { linear } else { legacy.into() });
                true
            }
            0x05 => self.vbe_window(),
            0x06 => self.vbe_line_length(),
            0x07 => self.vbe_start(),
            0x08 => self.vbe_dac_width(),
            0x09 => self.vbe_palette(),
            0x04 => {
                let (function, parts) = (self.regs.d.l(), self.regs.c.x());
                self.saved_state(function, parts, saved::ALL_PARTS)
            }
            0x10 => self.vbe_power(),
            0x15 => self.vbe_edid(),
            0x0A if self.regs.b.l() == 0 => {
                let (start, len) = rom().vbe;
                self.regs.es = Seg::real(SEGMENT);
                self.regs.di.set_x(start);
                self.regs.c.set_x(len);
                true
            }
            function => {
                log::debug!(target: "bios", "the VBE has no function {function:02X}h");
                false
            }
        };
        self.regs.a.set_x(if ok { OK } else { FAILED });
    }

    fn memory_blocks(&self) -> u16 {
        (self.host.video_len() >> 16).min(0xFFFF) as u16
    }

    fn vbe_information(&mut self) -> bool {
        let to = self.regs.es.at(self.regs.di.x());
        let second = self.array(to) == *b"VBE2";
        let mut info = [0; 256];
        let far = |offset: usize| u32::from(SEGMENT) << 16 | (u32::from(at::VBE) + offset as u32);
        let (vendor, product, revision) = (0, VENDOR.len(), VENDOR.len() + PRODUCT.len());
        info[..4].copy_from_slice(b"VESA");
        info[4..6].copy_from_slice(&0x0300u16.to_le_bytes());
        info[6..10].copy_from_slice(&far(vendor).to_le_bytes());
        // The DAC can be switched to 8 bits.
        info[10] = 1;
        info[14..18].copy_from_slice(&far(revision + REVISION.len()).to_le_bytes());
        info[18..20].copy_from_slice(&self.memory_blocks().to_le_bytes());
        if second {
            info[20..22].copy_from_slice(&0x0100u16.to_le_bytes());
            for (at, string) in [(22, vendor), (26, product), (30, revision)] {
                info[at..at + 4].copy_from_slice(&far(string).to_le_bytes());
            }
        }
        self.set(to, &info);
        true
    }

    fn fits(&self, (_, width, height, bits): Mode) -> bool {
        u64::from(stride(width, bits)) * u64::from(height) <= self.host.video_len()
    }

    fn find_mode(&self, number: u16) -> Option<Mode> {
        MODES.into_iter().find(|mode| mode.0 == number & NUMBER && self.fits(*mode))
    }

    fn vbe_mode_information(&mut self) -> bool {
        let Some(mode) = self.find_mode(self.regs.c.x()) else { return false };
        let (_, width, height, bits) = mode;
        let line = stride(width, bits);
        let mut info = [0; 256];
        let mut word = |at: usize, value: u16| info[at..at + 2].copy_from_slice(&value.to_le_bytes());
        // Supported, extended information, teletype, colour, graphics, linear framebuffer.
        word(0, 0x9F);
        // A window of 64 KiB at A000 that can be read and written.
        word(2, 0x0007);
        word(4, 64);
        word(6, 64);
        word(8, 0xA000);
        word(16, line as u16);
        word(18, width);
        word(20, height);
        let more_pages = (self.host.video_len() / (u64::from(line) * u64::from(height))).clamp(1, 256) as u16 - 1;
        let (model, masks): (u8, [u8; 8]) = match bits {
            8 => (4, [0; 8]),
            15 => (6, [5, 10, 5, 5, 5, 0, 1, 15]),
            16 => (6, [5, 11, 6, 5, 5, 0, 0, 0]),
            24 => (6, [8, 16, 8, 8, 8, 0, 0, 0]),
            _ => (6, [8, 16, 8, 8, 8, 0, 8, 24]),
        };
        // Characters of 8 by 16; one plane, one bank.
        info[22..31].copy_from_slice(&[8, 16, 1, bits as u8, 1, model, 0, more_pages as u8, 1]);
        info[31..39].copy_from_slice(&masks);
        // Bits 24 to 31 may be used.
        info[39] = if bits == 32 { 2 } else { 0 };
        info[40..44].copy_from_slice(&self.host.framebuffer().to_le_bytes());
        info[50..52].copy_from_slice(&(line as u16).to_le_bytes());
        info[52..54].copy_from_slice(&[more_pages as u8; 2]);
        info[54..62].copy_from_slice(&masks);
        // The pixel clock: 60 Hz with a quarter for blanking.
        let clock = u32::from(width) * u32::from(height) * 75;
        info[62..66].copy_from_slice(&clock.to_le_bytes());
        let to = self.regs.es.at(self.regs.di.x());
        self.set(to, &info);
        true
    }

    fn vbe_set_mode(&mut self) -> bool {
        let wanted = self.regs.b.x();
        if wanted & NUMBER < 0x100 {
            let keep = if wanted & KEEP_MEMORY != 0 { 0x80 } else { 0 };
            self.set_mode(wanted as u8 & 0x7F | keep);
            return true;
        }
        let Some((number, width, height, bits)) = self.find_mode(wanted) else { return false };
        self.set_dispi(dispi::ENABLE, 0);
        if bits == 8 {
            self.set_colors(Colors::Many);
        }
        for (register, value) in [(dispi::XRES, width), (dispi::YRES, height), (dispi::BPP, bits)] {
            self.set_dispi(register, value);
        }
        let keep = if wanted & KEEP_MEMORY != 0 { dispi::KEEP } else { 0 };
        self.set_dispi(dispi::ENABLE, dispi::ENABLED | dispi::LINEAR | keep);
        let flags = wanted & (USE_LINEAR | KEEP_MEMORY);
        self.set(EBDA + data::VBE_MODE, &(number | flags).to_le_bytes());
        // For those who print text in it.
        self.set_bda16(data::COLUMNS, width / 8);
        self.set_bda8(data::ROWS, (height / 16 - 1).min(255) as u8);
        self.set_bda16(data::CHARACTER_HEIGHT, 16);
        self.set_bda8(data::PAGE, 0);
        self.set_bda16(data::PAGE_START, 0);
        self.set_vector(0x43, SEGMENT, at::FONT_16);
        (0..8).for_each(|page| self.set_cursor(page, 0, 0));
        true
    }

    /// 05h: which 64 KiB the window shows.
    fn vbe_window(&mut self) -> bool {
        if self.regs.b.l() != 0 || self.linear_mode() == 0 {
            return false;
        }
        match self.regs.b.h() {
            0 => {
                let bank = self.regs.d.x();
                self.set_dispi(dispi::BANK, bank);
                self.dispi(dispi::BANK) == bank
            }
            1 => {
                let bank = self.dispi(dispi::BANK);
                self.regs.d.set_x(bank);
                true
            }
            _ => false,
        }
    }

    /// 06h: pixels or bytes from a line to the next.
    fn vbe_line_length(&mut self) -> bool {
        if self.linear_mode() == 0 {
            return false;
        }
        let (bits, width) = (self.dispi(dispi::BPP), self.dispi(dispi::XRES));
        let bytes = bits.div_ceil(8).clamp(1, 4);
        let most = ((self.host.video_len() / u64::from(self.dispi(dispi::YRES).max(1)) / u64::from(bytes)).min(0x7FF8)) as u16;
        let wanted = match self.regs.b.l() {
            0 => Some(self.regs.c.x()),
            2 => Some(self.regs.c.x().div_ceil(bytes)),
            1 | 3 => None,
            _ => return false,
        };
        if let Some(pixels) = wanted {
            let pixels = pixels.max(width);
            if pixels > most {
                return false;
            }
            self.set_dispi(dispi::VIRTUAL_WIDTH, pixels.next_multiple_of(8));
        }
        let pixels = if self.regs.b.l() == 3 { most } else { self.dispi(dispi::VIRTUAL_WIDTH) };
        let line = stride(pixels, bits);
        self.regs.b.set_x(line.min(0xFFFF) as u16);
        self.regs.c.set_x(pixels);
        self.regs.d.set_x((self.host.video_len() / u64::from(line.max(1))).min(0xFFFF) as u16);
        true
    }

    /// 07h: the first pixel that is shown.
    fn vbe_start(&mut self) -> bool {
        if self.linear_mode() == 0 {
            return false;
        }
        match self.regs.b.l() {
            0x00 | 0x80 => {
                self.set_dispi(dispi::X_OFFSET, self.regs.c.x());
                self.set_dispi(dispi::Y_OFFSET, self.regs.d.x());
                true
            }
            0x01 => {
                let (x, y) = (self.dispi(dispi::X_OFFSET), self.dispi(dispi::Y_OFFSET));
                self.regs.b.set_h(0);
                self.regs.c.set_x(x);
                self.regs.d.set_x(y);
                true
            }
            _ => false,
        }
    }

    /// 08h: bits of a colour in the DAC.
    fn vbe_dac_width(&mut self) -> bool {
        let enable = self.dispi(dispi::ENABLE);
        if self.linear_mode() == 0 || self.dispi(dispi::BPP) != 8 {
            return false;
        }
        let wide = match self.regs.b.l() {
            0 => {
                let wide = self.regs.b.h() >= 8;
                let bit = if wide { dispi::WIDE_DAC } else { 0 };
                self.set_dispi(dispi::ENABLE, enable & !dispi::WIDE_DAC | bit);
                wide
            }
            1 => enable & dispi::WIDE_DAC != 0,
            _ => return false,
        };
        self.regs.b.set_h(if wide { 8 } else { 6 });
        true
    }

    /// 09h: CX colours from DX on, as blue, green, red and a spare byte at ES:DI.
    fn vbe_palette(&mut self) -> bool {
        let (first, count) = (self.regs.d.x(), self.regs.c.x());
        if first.saturating_add(count) > 256 {
            return false;
        }
        let table = self.regs.es.at(self.regs.di.x());
        for n in 0..count {
            let (at, color) = (table.wrapping_add(4 * u32::from(n)), (first + n) as u8);
            match self.regs.b.l() {
                0x00 | 0x80 => {
                    let [blue, green, red, _] = self.array(at);
                    self.set_dac(color, [red, green, blue]);
                }
                0x01 => {
                    let [red, green, blue] = self.dac(color);
                    self.set(at, &[blue, green, red, 0]);
                }
                _ => return false,
            }
        }
        true
    }

    /// 10h: power management of the display, which knows on alone (VBE/PM 1.0).
    fn vbe_power(&mut self) -> bool {
        const VERSION: u8 = 0x10;
        match self.regs.b.l() {
            0 => self.regs.b.set_x(VERSION.into()),
            1 if self.regs.b.h() == 0 => {}
            2 => self.regs.b.set_h(0),
            _ => return false,
        }
        true
    }

    /// 15h: DDC of the only controller (VBE/DDC 1.1): BL 0 tells of it, BL 1 puts block DX of the EDID at ES:DI.
    fn vbe_edid(&mut self) -> bool {
        /// Seconds that a block takes, at most; DDC2.
        const CAPABILITIES: u16 = 0x0102;
        if self.regs.c.x() != 0 {
            return false;
        }
        match (self.regs.b.l(), self.regs.d.x()) {
            (0, _) => self.regs.b.set_x(CAPABILITIES),
            (1, 0) => {
                let to = self.regs.es.at(self.regs.di.x());
                let edid = self.host.edid();
                self.set(to, &edid);
            }
            _ => return false,
        }
        true
    }
}
