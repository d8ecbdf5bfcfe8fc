//! The registers of a VGA behind the ports 0x3B0 to 0x3DF (IBM VGA Technical Reference; FreeVGA).

use serde::{Deserialize, Serialize};
use softmetal_bus::Time;

/// Nanoseconds in a frame: 60 Hz.
pub(super) const FRAME: u64 = 16_666_667;
/// Nanoseconds in a scan line.
const LINE: u64 = FRAME / 449;

/// Indices of sequencer registers.
pub(super) mod seq {
    pub const CLOCKING: usize = 1;
    pub const MAP_MASK: usize = 2;
    pub const CHARACTER_MAP: usize = 3;
    pub const MEMORY_MODE: usize = 4;
}
/// Indices of graphics controller registers.
pub(super) mod gfx {
    pub const SET_RESET: usize = 0;
    pub const ENABLE_SET_RESET: usize = 1;
    pub const COMPARE: usize = 2;
    pub const ROTATE: usize = 3;
    pub const READ_MAP: usize = 4;
    pub const MODE: usize = 5;
    pub const MISC: usize = 6;
    pub const DONT_CARE: usize = 7;
    pub const BIT_MASK: usize = 8;
}
/// Indices of CRT controller registers.
pub(super) mod crtc {
    pub const H_DISPLAY_END: usize = 0x01;
    pub const OVERFLOW: usize = 0x07;
    pub const PRESET_ROW: usize = 0x08;
    pub const MAX_SCAN: usize = 0x09;
    pub const CURSOR_START: usize = 0x0a;
    pub const CURSOR_END: usize = 0x0b;
    pub const START: usize = 0x0c;
    pub const CURSOR: usize = 0x0e;
    pub const V_RETRACE_END: usize = 0x11;
    pub const V_DISPLAY_END: usize = 0x12;
    pub const OFFSET: usize = 0x13;
    pub const UNDERLINE: usize = 0x14;
    pub const MODE: usize = 0x17;
    pub const LINE_COMPARE: usize = 0x18;
}
/// Indices of attribute controller registers.
pub(super) mod attr {
    pub const MODE: usize = 0x10;
    pub const PLANES: usize = 0x12;
    pub const PANNING: usize = 0x13;
    pub const COLOR_SELECT: usize = 0x14;
    /// In the index register: the palette belongs to the display, not to the processor.
    pub const DISPLAY: u8 = 0x20;
}

/// All of a VGA's registers but its memory and latches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registers {
    pub misc: u8,
    pub feature: u8,
    seq_index: u8,
    pub seq: [u8; 8],
    gfx_index: u8,
    pub gfx: [u8; 16],
    crtc_index: u8,
    pub crtc: [u8; 32],
    pub attr_index: u8,
    /// The next store to 0x3C0 is data.
    attr_data: bool,
    pub attr: [u8; 32],
    /// 256 colours: red, green, blue.
    pub dac: [[[u8; 3]; 16]; 16],
    pub pel_mask: u8,
    dac_read: u8,
    dac_write: u8,
    /// Which of the three colours is next.
    dac_part: u8,
    /// The DAC was last set up for loads.
    dac_reading: bool,
}

impl Registers {
    /// The colour register `n`.
    pub fn color(&self, n: u8) -> [u8; 3] {
        self.dac[usize::from(n >> 4)][usize::from(n & 15)]
    }

    fn color_mut(&mut self, n: u8) -> &mut [u8; 3] {
        &mut self.dac[usize::from(n >> 4)][usize::from(n & 15)]
    }

    /// Whether the CRT controller is at 0x3Dx (rather than 0x3Bx) and `port` is one of those of the other place.
    fn absent(&self, port: u16) -> bool {
        let color = self.misc & 1 != 0;
        match port {
            0x3b0..=0x3bf => color,
            0x3d0..=0x3df => !color,
            _ => false,
        }
    }

    /// A byte from `port` at time `now`; `wide` is whether the DAC has 8 bits a colour.
    pub fn read(&mut self, port: u16, now: Time, wide: bool) -> u8 {
        if self.absent(port) {
            return 0xff;
        }
        match port {
            0x3c0 => self.attr_index,
            0x3c1 => self.attr[usize::from(self.attr_index & 0x1f)],
            // Switch sense: a colour monitor.
            0x3c2 => 0x10,
            0x3c4 => self.seq_index,
            0x3c5 => self.seq[usize::from(self.seq_index & 7)],
            0x3c6 => self.pel_mask,
            0x3c7 => u8::from(self.dac_reading) * 3,
            0x3c8 => self.dac_write,
            0x3c9 => {
                let value = self.color(self.dac_read)[usize::from(self.dac_part % 3)];
                self.dac_part = self.dac_part % 3 + 1;
                if self.dac_part >= 3 {
                    self.dac_part = 0;
                    self.dac_read = self.dac_read.wrapping_add(1);
                }
                if wide { value } else { value & 0x3f }
            }
            0x3ca => self.feature,
            0x3cc => self.misc,
            0x3ce => self.gfx_index,
            0x3cf => self.gfx[usize::from(self.gfx_index & 15)],
            0x3b4 | 0x3d4 => self.crtc_index,
            0x3b5 | 0x3d5 => self.crtc[usize::from(self.crtc_index & 0x1f)],
            0x3ba | 0x3da => {
                self.attr_data = false;
                status(now)
            }
            _ => 0xff,
        }
    }

    /// A byte to `port`.
    pub fn write(&mut self, port: u16, value: u8) {
        if self.absent(port) {
            return;
        }
        match port {
            0x3c0 => {
                if self.attr_data {
                    let n = usize::from(self.attr_index & 0x1f);
                    match n {
                        // The palette cannot be changed while it is shown.
                        0..16 if self.attr_index & attr::DISPLAY != 0 => {}
                        0..16 => self.attr[n] = value & 0x3f,
                        16..=0x14 => self.attr[n] = value,
                        _ => {}
                    }
                } else {
                    self.attr_index = value & 0x3f;
                }
                self.attr_data = !self.attr_data;
            }
            0x3c2 => self.misc = value,
            0x3c4 => self.seq_index = value & 7,
            0x3c5 => self.seq[usize::from(self.seq_index & 7)] = value,
            0x3c6 => self.pel_mask = value,
            0x3c7 => {
                self.dac_read = value;
                (self.dac_part, self.dac_reading) = (0, true);
            }
            0x3c8 => {
                self.dac_write = value;
                (self.dac_part, self.dac_reading) = (0, false);
            }
            0x3c9 => {
                let (n, part) = (self.dac_write, usize::from(self.dac_part % 3));
                self.color_mut(n)[part] = value;
                self.dac_part = self.dac_part % 3 + 1;
                if self.dac_part >= 3 {
                    self.dac_part = 0;
                    self.dac_write = n.wrapping_add(1);
                }
            }
            0x3ce => self.gfx_index = value & 15,
            0x3cf => self.gfx[usize::from(self.gfx_index & 15)] = value,
            0x3b4 | 0x3d4 => self.crtc_index = value & 0x1f,
            0x3b5 | 0x3d5 => {
                let n = usize::from(self.crtc_index & 0x1f);
                let protected = self.crtc[crtc::V_RETRACE_END] & 0x80 != 0;
                match n {
                    // Bit 8 of the line compare is not protected.
                    crtc::OVERFLOW if protected => self.crtc[n] = self.crtc[n] & !0x10 | value & 0x10,
                    0..7 if protected => {}
                    0..=0x18 => self.crtc[n] = value,
                    _ => {}
                }
            }
            0x3ba | 0x3da => self.feature = value,
            _ => {}
        }
    }

    /// A 16-bit value in the CRT controller, high byte first.
    pub fn crtc_word(&self, n: usize) -> u32 {
        u32::from(self.crtc[n]) << 8 | u32::from(self.crtc[n + 1])
    }
}

/// Input status register 1: bit 0 outside of the picture, bit 3 in the vertical retrace.
fn status(now: Time) -> u8 {
    let in_frame = now.0 % FRAME;
    let retrace = in_frame / LINE >= 412;
    let blank = in_frame / LINE >= 400 || in_frame % LINE >= LINE * 4 / 5;
    u8::from(blank) | u8::from(retrace) << 3
}
