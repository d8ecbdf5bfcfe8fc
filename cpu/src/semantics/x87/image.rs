//! The unit's state in memory: FNSTENV, FNSAVE and FXSAVE (SDM 1, 8.1.10; SDM 1, 10.5.1).

use super::{Class, F80, Fpu, LastInstruction};
use crate::semantics::softfloat as soft;

/// Which of the four layouts an environment has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// 32-bit operand size: 28 bytes; otherwise 14.
    pub wide: bool,
    /// Real-address or virtual-8086 mode: linear pointers instead of selectors.
    pub real: bool,
}

impl Layout {
    /// Bytes of an environment.
    #[must_use]
    pub const fn environment_size(self) -> usize {
        if self.wide { 28 } else { 14 }
    }

    /// Bytes of an environment and the registers.
    #[must_use]
    pub const fn save_size(self) -> usize {
        self.environment_size() + 80
    }

    /// The image's seven fields.
    fn fields(self, bytes: &[u8]) -> [u32; 7] {
        let mut fields = [0; 7];
        for (i, field) in fields.iter_mut().enumerate() {
            let mut word = [0; 4];
            if self.wide {
                word.copy_from_slice(&bytes[i * 4..i * 4 + 4]);
            } else {
                word[..2].copy_from_slice(&bytes[i * 2..i * 2 + 2]);
            }
            *field = u32::from_le_bytes(word);
        }
        fields
    }

    fn put_fields(self, fields: [u32; 7], bytes: &mut [u8]) {
        for (i, field) in fields.iter().enumerate() {
            let word = field.to_le_bytes();
            if self.wide {
                bytes[i * 4..i * 4 + 4].copy_from_slice(&word);
            } else {
                bytes[i * 2..i * 2 + 2].copy_from_slice(&word[..2]);
            }
        }
    }
}

/// The x87 and MMX part of an FXSAVE or XSAVE area: bytes 0..24, and 32..160.
pub const FXSAVE_SIZE: usize = 160;

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

impl Fpu {
    /// The full tag word: 0 valid, 1 zero, 2 special, 3 empty, for R0 (bits 1..0) to R7.
    #[must_use]
    pub fn tag_word(&self) -> u16 {
        (0..8).fold(0, |word, i| {
            let tag = match soft::classify::<F80>(self.registers[i]) {
                _ if self.valid >> i & 1 == 0 => 3,
                Class::Normal => 0,
                Class::Zero => 1,
                _ => 2,
            };
            word | tag << (2 * i)
        })
    }

    fn set_tag_word(&mut self, tags: u16) {
        self.valid = (0..8).fold(0, |valid, i| valid | u8::from(tags >> (2 * i) & 3 != 3) << i);
    }

    /// FNSTENV into the first [`Layout::environment_size`] bytes. The caller then calls [`Fpu::mask_all`].
    pub fn store_environment(&self, layout: Layout, bytes: &mut [u8]) {
        let last = &self.last;
        let (mut ip, mut dp) = (last.ip as u32, last.dp as u32);
        let (mut code, mut data) = (u32::from(last.cs), u32::from(last.ds));
        let opcode = u32::from(last.opcode & 0x7ff);
        let filler = if layout.wide { 0xffff_0000 } else { 0 };
        if layout.real {
            ip = ip.wrapping_add(code << 4);
            dp = dp.wrapping_add(data << 4);
            // The upper part of each linear address sits above bit 11 of the field that follows.
            (code, data) = if layout.wide {
                ((ip >> 16) << 12 | opcode, (dp >> 16) << 12)
            } else {
                ((ip >> 16 & 15) << 12 | opcode, (dp >> 16 & 15) << 12)
            };
            if layout.wide {
                (ip, dp) = (ip & 0xffff | filler, dp & 0xffff | filler);
            }
        } else if layout.wide {
            code |= opcode << 16;
            data |= filler;
        }
        let fields =
            [u32::from(self.control) | filler, u32::from(self.status()) | filler, u32::from(self.tag_word()) | filler, ip, code, dp, data];
        layout.put_fields(fields, bytes);
    }

    /// What FNSTENV does after its store: masks every exception.
    pub fn mask_all(&mut self) {
        self.control |= 0x3f;
        self.summarise();
    }

    /// FLDENV from the first [`Layout::environment_size`] bytes.
    pub fn load_environment(&mut self, layout: Layout, bytes: &[u8]) {
        let [control, status, tags, ip, code, dp, data] = layout.fields(bytes);
        self.last = if layout.real {
            let linear = |low: u32, high: u32| u64::from(low & 0xffff | (high >> 12) << 16);
            LastInstruction {
                opcode: (code & 0x7ff) as u16,
                ip: linear(ip, code & 0x0fff_f000),
                dp: linear(dp, data & 0x0fff_f000),
                ..LastInstruction::default()
            }
        } else {
            LastInstruction { opcode: (code >> 16 & 0x7ff) as u16, ip: ip.into(), cs: code as u16, dp: dp.into(), ds: data as u16 }
        };
        self.set_tag_word(tags as u16);
        self.set_status(status as u16);
        self.set_control(control as u16);
    }

    /// FNSAVE into the first [`Layout::save_size`] bytes. The caller then calls [`Fpu::init`].
    pub fn save(&self, layout: Layout, bytes: &mut [u8]) {
        self.store_environment(layout, bytes);
        for i in 0..8 {
            let at = layout.environment_size() + i * 10;
            bytes[at..at + 10].copy_from_slice(&self.st(i).to_le_bytes());
        }
    }

    /// FRSTOR from the first [`Layout::save_size`] bytes.
    pub fn restore(&mut self, layout: Layout, bytes: &[u8]) {
        self.load_environment(layout, bytes);
        self.load_registers(&bytes[layout.environment_size()..], 10);
    }

    /// ST(0) to ST(7), `stride` bytes apart.
    fn load_registers(&mut self, bytes: &[u8], stride: usize) {
        for i in 0..8 {
            let mut value = [0; 10];
            value.copy_from_slice(&bytes[i * stride..i * stride + 10]);
            let physical = self.physical(i);
            self.registers[physical] = F80::from_le_bytes(value);
        }
    }

    /// The x87 part of an FXSAVE area; the MXCSR bytes (24..32) are zero. `long`: REX.W, with 64-bit pointers.
    #[must_use]
    pub fn fxsave_image(&self, long: bool) -> [u8; FXSAVE_SIZE] {
        let mut bytes = [0; FXSAVE_SIZE];
        bytes[0..2].copy_from_slice(&self.control.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.status().to_le_bytes());
        bytes[4] = self.valid;
        bytes[6..8].copy_from_slice(&self.last.opcode.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.last.ip.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.last.dp.to_le_bytes());
        if !long {
            bytes[12..16].copy_from_slice(&u32::from(self.last.cs).to_le_bytes());
            bytes[20..24].copy_from_slice(&u32::from(self.last.ds).to_le_bytes());
        }
        for i in 0..8 {
            let at = 32 + i * 16;
            bytes[at..at + 10].copy_from_slice(&self.st(i).to_le_bytes());
        }
        bytes
    }

    /// Loads what [`Fpu::fxsave_image`] made.
    pub fn fxrstor_image(&mut self, bytes: &[u8; FXSAVE_SIZE], long: bool) {
        let quad = |at: usize| {
            let mut value = [0; 8];
            value.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(value)
        };
        let offset = |at| {
            if long { quad(at) } else { quad(at) & 0xffff_ffff }
        };
        let selector = |at| if long { 0 } else { word(bytes, at) };
        self.last = LastInstruction { opcode: word(bytes, 6) & 0x7ff, ip: offset(8), cs: selector(12), dp: offset(16), ds: selector(20) };
        self.set_status(word(bytes, 2));
        self.set_control(word(bytes, 0));
        self.valid = bytes[4];
        self.load_registers(&bytes[32..], 16);
    }
}
