//! The registers that a case begins with, before anything is known of its instruction.

use iced_x86::Mnemonic as M;

use super::{Maker, element};
use crate::case::{DATA, PAGE, REGION, STACK};
use crate::values;

impl Maker<'_> {
    /// General registers, flags, vectors, the x87 and the stack, before anything is known of the instruction.
    pub(super) fn registers(&mut self) {
        for register in &mut self.case.start.gpr {
            let width = self.r.pick(&[8, 16, 32, 64, 64]);
            let v = values::integer(self.r, width);
            *register = if self.bits == 64 { v } else { v & 0xffff_ffff };
        }
        let mut flags = 0x202 | self.r.next() & 0x8d5;
        if self.r.percent(20) {
            flags |= 0x400;
        }
        if self.r.percent(4) {
            flags |= 0x4_0000;
        }
        self.case.start.flags = flags;
        let stack = match self.r.below(40) {
            0 => self.r.below(16),
            1 => PAGE - self.r.below(16),
            2 => self.r.below(PAGE),
            _ => 0x400 + 8 * self.r.below(0x100),
        };
        self.case.start.gpr[4] = self.base() + STACK + stack;
        if self.bits == 16 {
            self.case.start.gpr[4] |= self.r.next() & 0xffff_0000;
        }
        if self.bits == 64 {
            self.case.start.fs_base = REGION + self.r.pick(&[0, DATA, 0x10]);
            self.case.start.gs_base = REGION.wrapping_sub(self.r.pick(&[0, 0x1000, 8]));
        }
        self.x87();
        let start = &mut self.case.start;
        let kind = self.info.memory_size();
        let kind = element(kind);
        for half in start.xmm.iter_mut().chain(&mut start.ymm) {
            match kind {
                Some(kind) if self.r.percent(70) => values::fill_kind(self.r, kind, half),
                _ => {
                    let kind = values::kind(self.r);
                    values::fill_kind(self.r, kind, half);
                }
            }
        }
        start.mxcsr = 0x1f80 | self.r.pick(&[0, 0, 0x20, 0x3f]);
        start.mxcsr |= self.r.pick(&[0, 0, 0, 0x2000, 0x4000, 0x6000]) | self.r.pick(&[0, 0, 0, 0x40]) | self.r.pick(&[0, 0, 0x8000]);
        if self.r.percent(20) {
            start.mxcsr &= !((self.r.next() as u32 & 0x3f) << 7);
        }
        values::background(self.r, &mut start.memory);
    }

    fn x87(&mut self) {
        let r = &mut *self.r;
        let mut control = 0x7f | r.pick(&[3, 3, 3, 2, 0, 1]) << 8 | (r.below(4) as u16) << 10;
        if r.percent(20) {
            control &= !(r.next() as u16 & 0x3f);
        }
        let mut status = (r.below(8) as u16) << 11 | r.next() as u16 & 0x4700;
        if r.percent(15) {
            status |= r.next() as u16 & 0x7f;
            if status & 0x41 == 0x40 {
                status |= 1;
            }
        }
        // Pending exceptions are rare.
        if status & !control & 0x3f != 0 {
            if r.percent(50) {
                control |= 0x3f;
            } else {
                status |= 0x8080;
            }
        }
        let valid = match r.below(8) {
            0 => r.next() as u8,
            1 => 0,
            // Empty from ST(6) on, or all in use.
            2 => 0xff,
            _ => 0x3fu8.rotate_left(u32::from(status >> 11 & 7)),
        };
        let image = &mut self.case.start.x87;
        image[..2].copy_from_slice(&control.to_le_bytes());
        image[2..4].copy_from_slice(&status.to_le_bytes());
        image[4] = valid;
        for slot in image[32..].chunks_mut(16) {
            slot[..10].copy_from_slice(&values::extended(r));
        }
        // Now and then the two operands are close, or equal.
        if r.percent(10) {
            let near = [r.below(3) as u8, r.pick(&[0, 0x80])];
            image.copy_within(32..42, 48);
            image[48] = image[48].wrapping_add(near[0]);
            image[57] ^= near[1];
        }
        if r.percent(8) && matches!(self.info.mnemonic(), M::Fscale | M::Fprem | M::Fprem1) {
            let small = (r.below(0x200) as i64 - 0x100) << 53;
            let exponent = 0x4009u16 | if small < 0 { 0x8000 } else { 0 };
            image[48..56].copy_from_slice(&(small.unsigned_abs() | 1 << 63).to_le_bytes());
            image[56..58].copy_from_slice(&exponent.to_le_bytes());
        }
    }
}
