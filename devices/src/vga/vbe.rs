//! The Bochs display interface: linear modes of 8 to 32 bits a pixel, and planar ones of 4.

use serde::{Deserialize, Serialize};

/// The widest picture.
const MAX_X: u16 = 2560;
/// The highest picture.
const MAX_Y: u16 = 1600;
/// Version 5 of the interface.
const ID: u16 = 0xb0c5;

/// Register numbers.
mod at {
    pub const ID: u16 = 0;
    pub const XRES: u16 = 1;
    pub const YRES: u16 = 2;
    pub const BPP: u16 = 3;
    pub const ENABLE: u16 = 4;
    pub const BANK: u16 = 5;
    pub const VIRTUAL_WIDTH: u16 = 6;
    pub const VIRTUAL_HEIGHT: u16 = 7;
    pub const X_OFFSET: u16 = 8;
    pub const Y_OFFSET: u16 = 9;
    pub const MEMORY_64K: u16 = 10;
}
const ENABLED: u16 = 1;
const GET_CAPABILITIES: u16 = 2;
const WIDE_DAC: u16 = 0x20;
const KEEP_MEMORY: u16 = 0x80;

/// The interface's registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Vbe {
    pub index: u16,
    id: u16,
    xres: u16,
    yres: u16,
    bpp: u16,
    enable: u16,
    bank: u16,
    virtual_width: u16,
    x_offset: u16,
    y_offset: u16,
}

impl Default for Vbe {
    fn default() -> Self {
        Self { index: 0, id: ID, xres: 0, yres: 0, bpp: 8, enable: 0, bank: 0, virtual_width: 0, x_offset: 0, y_offset: 0 }
    }
}

/// Where a linear mode's pixels are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// 4, 8, 15, 16, 24 or 32.
    pub bpp: u16,
    /// Bytes from a row to the next.
    pub stride: u64,
    /// The first byte.
    pub start: u64,
}

impl Vbe {
    /// A mode of this interface is shown.
    pub fn enabled(&self) -> bool {
        self.enable & ENABLED != 0
    }
    /// The legacy window shows 64 KiB of a linear mode.
    pub fn linear(&self) -> bool {
        self.enabled() && self.bpp != 4
    }
    /// The first byte that the window shows.
    pub fn bank(&self) -> u64 {
        u64::from(self.bank) << 16
    }
    /// Colours of the DAC have 8 bits.
    pub fn wide_dac(&self) -> bool {
        self.enable & WIDE_DAC != 0
    }

    /// What is shown, for `memory` bytes of video memory.
    pub fn geometry(&self, _memory: u64) -> Geometry {
        let width = u64::from(self.xres.clamp(8, MAX_X));
        let across = u64::from(self.virtual_width).max(width);
        let (x, y) = (u64::from(self.x_offset), u64::from(self.y_offset));
        let (stride, skip) = match self.bpp {
            // Four planes side by side.
            4 => (across / 8 * 4, x / 8 * 4),
            15 => (across * 2, x * 2),
            bpp => (across * u64::from(bpp / 8), x * u64::from(bpp / 8)),
        };
        Geometry { width: width as u32, height: self.yres.clamp(1, MAX_Y).into(), bpp: self.bpp, stride, start: y * stride + skip }
    }

    /// A load of `register`.
    pub fn read(&self, register: u16, memory: u64) -> u16 {
        let capabilities = self.enable & GET_CAPABILITIES != 0;
        match register {
            at::ID => self.id,
            at::XRES if capabilities => MAX_X,
            at::YRES if capabilities => MAX_Y,
            at::BPP if capabilities => 32,
            at::XRES => self.xres,
            at::YRES => self.yres,
            at::BPP => self.bpp,
            at::ENABLE => self.enable,
            at::BANK => self.bank,
            at::VIRTUAL_WIDTH => self.virtual_width.max(self.xres),
            at::VIRTUAL_HEIGHT => (memory / self.geometry(memory).stride.max(1)).min(0xffff) as u16,
            at::X_OFFSET => self.x_offset,
            at::Y_OFFSET => self.y_offset,
            at::MEMORY_64K => (memory >> 16).min(0xffff) as u16,
            _ => 0,
        }
    }

    /// A store to `register`. True if a mode was switched on whose memory is to be cleared.
    pub fn write(&mut self, register: u16, value: u16, memory: u64) -> bool {
        match register {
            at::ID if (0xb0c0..=ID).contains(&value) => self.id = value,
            at::XRES if value <= MAX_X => (self.xres, self.virtual_width) = (value & !7, 0),
            at::YRES if value <= MAX_Y => self.yres = value,
            at::BPP if value == 0 => self.bpp = 8,
            at::BPP if matches!(value, 4 | 8 | 15 | 16 | 24 | 32) => self.bpp = value,
            at::BANK if u64::from(value) < memory >> 16 => self.bank = value,
            at::VIRTUAL_WIDTH => self.virtual_width = value & !7,
            at::X_OFFSET => self.x_offset = value,
            at::Y_OFFSET => self.y_offset = value,
            at::ENABLE => {
                let starts = value & ENABLED != 0 && !self.enabled();
                self.enable = value;
                if starts {
                    (self.virtual_width, self.x_offset, self.y_offset, self.bank) = (0, 0, 0, 0);
                    (self.xres, self.yres) = (self.xres.max(8), self.yres.max(1));
                }
                return starts && value & KEEP_MEMORY == 0;
            }
            at::VIRTUAL_HEIGHT | at::MEMORY_64K => {}
            _ => log::debug!("vga: display interface: {value:#x} for register {register} refused"),
        }
        false
    }
}
