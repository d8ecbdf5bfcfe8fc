//! A standard VGA with the Bochs display interface (PCI 1234:1111).
//!
//! | module | what it holds |
//! |---|---|
//! | `registers` | the VGA's ports |
//! | `window` | the planes behind 0xA0000 |
//! | `edid` | what the monitor says of itself |
//! | `vbe` | the Bochs display interface: linear modes |
//! | [`render`] | the picture, and its text |
//!
//! BAR 0 is video memory, a part of [`GuestMemory`] that the board maps as if it were RAM; BAR 2 is registers: the
//! monitor's EDID from 0 on, the ports 0x3C0 to 0x3DF from 0x400 on, the display interface from 0x500 on, and at 0x600 the size of a block that says which byte
//! order the framebuffer has. The legacy ranges are [`region`]s.

mod edid;
mod registers;
pub mod render;
mod vbe;
mod window;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use softmetal_bus::device::{decode, encode};
use softmetal_bus::{Ctx, Device, GuestMemory, Request, StateError, ones};

use crate::pci::{BarKind, ConfigSpace, Identity, PciDevice, ROM_BAR, Registers as ConfigRegisters};
pub use edid::edid;
use registers::{Registers, attr};
use vbe::Vbe;

/// Numbers of the legacy regions, beside those of the BARs.
pub mod region {
    /// Memory 0xA0000 to 0xBFFFF.
    pub const WINDOW: u8 = 8;
    /// Ports 0x3B0 to 0x3DF.
    pub const PORTS: u8 = 9;
    /// Ports 0x1CE to 0x1D1.
    pub const DISPI: u8 = 10;
}

/// The size of video memory in bytes unless something else is asked for.
pub const VIDEO_MEMORY: u64 = 16 << 20;
const FRAMEBUFFER: u8 = 0;
const MMIO: u8 = 2;
/// What byte-order register reads as: little-endian.
const LITTLE_ENDIAN: u32 = 0x1e1e_1e1e;

/// The volatile state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    registers: Registers,
    vbe: Vbe,
    /// The bytes of the four planes that were last loaded.
    latches: u32,
}

/// The adapter.
pub struct Vga {
    // Configuration.
    /// Video memory in guest memory: offset and length in bytes.
    base: u64,
    len: u64,
    /// Where in guest memory the option ROM is.
    rom: Option<u64>,
    config: ConfigSpace,
    // Volatile.
    state: State,
}

/// A mode's registers, as a BIOS sets them.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    /// Miscellaneous output.
    pub misc: u8,
    /// Sequencer registers 0 to 4.
    pub seq: [u8; 5],
    /// CRT controller registers 0 to 0x18.
    pub crtc: [u8; 25],
    /// Graphics controller registers 0 to 8.
    pub gfx: [u8; 9],
    /// Attribute controller registers 0 to 0x14.
    pub attr: [u8; 21],
}

/// Mode 3: text of 80 columns and 25 rows, characters of 9 by 16.
pub const MODE_3: Mode = Mode {
    misc: 0x67,
    seq: [0x03, 0x00, 0x03, 0x00, 0x02],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0x00, 0x00, 0x00, 0x00, 0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96,
        0xb9, 0xa3, 0xff,
    ],
    gfx: [0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0e, 0x00, 0xff],
    attr: [0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x0c, 0x00, 0x0f, 0x08, 0x00],
};

impl Vga {
    /// An adapter whose video memory is the `len` bytes (a power of two, 256 KiB at least) at `base` in guest memory.
    #[must_use]
    pub fn new(base: u64, len: u64) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x1234,
            device: 0x1111,
            class: 0x03_0000,
            revision: 2,
            subsystem: (0x1af4, 0x1100),
            ..Identity::default()
        });
        config.add_bar(FRAMEBUFFER, BarKind::Memory32, len);
        config.add_bar(MMIO, BarKind::Memory32, 0x1000);
        Self { base, len, rom: None, config, state: State::default() }
    }

    /// Gives the adapter an option ROM: the `len` bytes (a power of two, 2 KiB at least) at `base` in guest memory.
    #[must_use]
    pub fn with_rom(mut self, base: u64, len: u64) -> Self {
        self.config.add_rom(len);
        self.rom = Some(base);
        self
    }

    /// Sets a mode, with the colours of the text modes and of mode 13h, as a BIOS would. Video memory stays as it is.
    pub fn set_mode(&mut self, mode: &Mode) {
        let r = &mut self.state.registers;
        *r = Registers::default();
        (r.misc, r.pel_mask, r.attr_index) = (mode.misc, 0xff, attr::DISPLAY);
        r.seq[..5].copy_from_slice(&mode.seq);
        r.crtc[..25].copy_from_slice(&mode.crtc);
        r.gfx[..9].copy_from_slice(&mode.gfx);
        r.attr[..21].copy_from_slice(&mode.attr);
        for n in 0..64u8 {
            // Bits 0 to 2 are two thirds of blue, green, red; bits 3 to 5 one third.
            r.dac[usize::from(n >> 4)][usize::from(n & 15)] = [2, 1, 0].map(|bit| 42 * (n >> bit & 1) + 21 * (n >> (bit + 3) & 1));
        }
        self.state.vbe = Vbe::default();
    }

    /// Puts a font of 256 characters of 16 rows into plane 2 and blanks the text, as a BIOS's set-up of mode 3 does.
    pub fn set_text(&mut self, memory: &GuestMemory, font: &[[u8; 16]; 256]) {
        for cell in 0..0x4000 {
            self.put(memory, cell * 2, 0x0720, 0xffff);
        }
        for (n, glyph) in (0u32..).zip(font) {
            for (row, &bits) in (0u32..).zip(glyph) {
                self.put(memory, n * 32 + row, u32::from(bits) << 16, 0xff_0000);
            }
        }
        self.set_mode(&MODE_3);
    }

    fn put(&self, memory: &GuestMemory, offset: u32, value: u32, mask: u32) {
        let value = self.planes(memory, offset) & !mask | value;
        self.set_planes(memory, offset, value);
    }

    /// Video memory from `at` on; what lies past its end is zero.
    pub(super) fn video(&self, memory: &GuestMemory, at: u64, bytes: &mut [u8]) {
        bytes.fill(0);
        let len = self.len.saturating_sub(at).min(bytes.len() as u64) as usize;
        if len > 0 && memory.read(self.base + at, &mut bytes[..len]).is_err() {
            bytes.fill(0);
        }
    }

    fn set_video(&self, memory: &GuestMemory, at: u64, bytes: &[u8]) {
        let len = self.len.saturating_sub(at).min(bytes.len() as u64) as usize;
        if len > 0 && memory.write(self.base + at, &bytes[..len]).is_err() {
            log::warn!("vga: video memory lies outside of guest memory");
        }
    }

    /// The bytes of the four planes at `offset` (modulo 64 KiB).
    pub(super) fn planes(&self, memory: &GuestMemory, offset: u32) -> u32 {
        let mut bytes = [0; 4];
        self.video(memory, u64::from(offset & 0xffff) * 4, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn set_planes(&self, memory: &GuestMemory, offset: u32, value: u32) {
        self.set_video(memory, u64::from(offset & 0xffff) * 4, &value.to_le_bytes());
    }

    fn window_read(&mut self, memory: &GuestMemory, offset: u64) -> u8 {
        if self.state.vbe.linear() {
            let mut byte = [0];
            if offset < 0x1_0000 {
                self.video(memory, self.state.vbe.bank() + offset, &mut byte);
            }
            return byte[0];
        }
        let Some(at) = self.state.registers.mapped(offset) else { return 0xff };
        let place = self.state.registers.place(at, false);
        self.state.latches = self.planes(memory, place.offset.into());
        self.state.registers.load(place, self.state.latches)
    }

    fn window_write(&mut self, memory: &GuestMemory, offset: u64, value: u8) {
        if self.state.vbe.linear() {
            if offset < 0x1_0000 {
                self.set_video(memory, self.state.vbe.bank() + offset, &[value]);
            }
            return;
        }
        let Some(at) = self.state.registers.mapped(offset) else { return };
        let place = self.state.registers.place(at, true);
        let old = self.planes(memory, place.offset.into());
        let new = self.state.registers.store(place, old, self.state.latches, value);
        self.set_planes(memory, place.offset.into(), new);
    }

    fn dispi_read(&self, register: u64) -> u16 {
        self.state.vbe.read(register as u16, self.len)
    }

    fn dispi_write(&mut self, memory: &GuestMemory, register: u64, value: u16) {
        if self.state.vbe.write(register as u16, value, self.len) {
            let g = self.state.vbe.geometry(self.len);
            let mut left = (g.stride * u64::from(g.height)).min(self.len);
            let mut at = 0;
            while left > 0 {
                let n = left.min(4096) as usize;
                self.set_video(memory, at, &[0; 4096][..n]);
                (at, left) = (at + n as u64, left - n as u64);
            }
        }
    }

    fn byte_read(&mut self, ctx: &mut Ctx, region: u8, offset: u64) -> u8 {
        let wide = self.state.vbe.wide_dac();
        match (region, offset) {
            (region::WINDOW, _) => self.window_read(ctx.memory, offset),
            (region::PORTS, 0..0x30) => self.state.registers.read(0x3b0 + offset as u16, ctx.now, wide),
            (MMIO, 0x400..0x420) => self.state.registers.read(0x3c0 + (offset - 0x400) as u16, ctx.now, wide),
            (MMIO, 0x500..0x518) => self.dispi_read((offset - 0x500) / 2).to_le_bytes()[offset as usize & 1],
            (MMIO, 0x600..0x604) => 8u32.to_le_bytes()[offset as usize & 3],
            (MMIO, 0x604..0x608) => LITTLE_ENDIAN.to_le_bytes()[offset as usize & 3],
            (MMIO, 0..0x400) => edid().get(offset as usize).copied().unwrap_or(0),
            _ => 0xff,
        }
    }

    fn byte_write(&mut self, ctx: &mut Ctx, region: u8, offset: u64, value: u8) {
        match (region, offset) {
            (region::WINDOW, _) => self.window_write(ctx.memory, offset, value),
            (region::PORTS, 0..0x30) => self.state.registers.write(0x3b0 + offset as u16, value),
            (MMIO, 0x400..0x420) => self.state.registers.write(0x3c0 + (offset - 0x400) as u16, value),
            _ => log::debug!("vga: store of {value:#x} to region {region}, offset {offset:#x} ignored"),
        }
    }
}

impl Device for Vga {
    fn name(&self) -> &'static str {
        "vga"
    }
    fn read(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize) -> u64 {
        if region == region::DISPI {
            let value = if offset == 0 { self.state.vbe.index } else { self.dispi_read(self.state.vbe.index.into()) };
            return ones(width) & (ones(width) << 16 | u64::from(value));
        }
        if region == FRAMEBUFFER {
            let mut bytes = [0; 8];
            self.video(ctx.memory, offset, &mut bytes[..width.min(8)]);
            return u64::from_le_bytes(bytes);
        }
        (0..width.min(8)).map(|i| u64::from(self.byte_read(ctx, region, offset + i as u64)) << (8 * i)).sum()
    }
    fn write(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize, value: u64) {
        match (region, offset) {
            (region::DISPI, 0) => self.state.vbe.index = value as u16,
            (region::DISPI, _) => self.dispi_write(ctx.memory, self.state.vbe.index.into(), value as u16),
            (FRAMEBUFFER, _) => self.set_video(ctx.memory, offset, &value.to_le_bytes()[..width.min(8)]),
            (MMIO, 0x500..0x518) => self.dispi_write(ctx.memory, (offset - 0x500) / 2, value as u16),
            _ => {
                for (i, byte) in value.to_le_bytes().into_iter().take(width).enumerate() {
                    self.byte_write(ctx, region, offset + i as u64, byte);
                }
            }
        }
    }
    fn reset(&mut self, ctx: &mut Ctx) {
        self.config.reset();
        self.state = State::default();
        ctx.request(Request::Remap);
    }
    fn save(&self) -> Vec<u8> {
        encode(1, &(self.config.registers(), &self.state))
    }
    fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let (registers, state): (ConfigRegisters, State) = decode(self.name(), 1, bytes)?;
        self.config.set_registers(registers);
        self.state = state;
        Ok(())
    }
}

impl PciDevice for Vga {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn bar_memory(&self, bar: u8) -> Option<u64> {
        match bar {
            FRAMEBUFFER => Some(self.base),
            ROM_BAR => self.rom,
            _ => None,
        }
    }
    fn vga(&self) -> Option<&Vga> {
        Some(self)
    }
    fn vga_mut(&mut self) -> Option<&mut Vga> {
        Some(self)
    }
}
