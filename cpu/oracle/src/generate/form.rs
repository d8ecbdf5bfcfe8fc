//! An instruction of a code, from the operand kinds that iced knows: registers, immediates, and memory that leads to the region.

use iced_x86::{Instruction, Mnemonic as M, OpCodeOperandKind as K, OpKind, Register as R};

use softmetal_cpu::testing::operands::{self, Registers};

use super::{Maker, SELECTORS, leads_to_64_bit};
use crate::case::{CODE, CONSTANTS, DATA, PAGE, REGION, selector};
use crate::values;

impl Maker<'_> {
    /// A general register of `size` bytes by number; without REX, byte registers 4 to 7 are AH to BH.
    fn general(&mut self, size: usize) -> R {
        let n = self.r.below(if self.bits == 64 { 16 } else { 8 }) as u32;
        match size {
            1 if self.bits == 64 && self.r.percent(70) => R::AL + if n < 4 { n } else { n + 4 },
            1 => R::AL + (n & 7),
            2 => R::AX + n,
            4 => R::EAX + n,
            _ => R::RAX + n,
        }
    }

    fn vector(&mut self) -> u32 {
        self.r.below(if self.bits == 64 { 16 } else { 8 }) as u32
    }

    fn register(&mut self, kind: K) -> Option<R> {
        Some(match operands::registers(kind)? {
            Registers::General(size) => self.general(size),
            Registers::Segment => self.r.pick(&[R::ES, R::CS, R::SS, R::DS, R::FS, R::GS]),
            Registers::Control => self.r.pick(&[R::CR0, R::CR2, R::CR3, R::CR4]),
            Registers::One(r) => r,
            all @ (Registers::Xmm | Registers::Ymm) => all.nth(self.vector()),
            all @ (Registers::Mmx | Registers::Debug | Registers::X87) => all.nth(self.r.below(8) as u32),
        })
    }

    pub(super) fn instruction(&mut self) -> Option<Instruction> {
        let mut i = Instruction::default();
        i.set_code(self.info.code());
        let memory = self.r.percent(55);
        for n in 0..self.info.op_count() {
            let kind = self.info.op_kind(n);
            if operands::may_be_memory(kind) && (memory || operands::registers(kind).is_none()) {
                i.set_op_kind(n, OpKind::Memory);
                self.memory(&mut i, kind);
                continue;
            }
            if let Some(r) = self.register(kind) {
                i.set_op_kind(n, OpKind::Register);
                i.set_op_register(n, r);
                continue;
            }
            let address = self.address_size();
            let op_kind = operands::other(self.info, n, address)?;
            i.set_op_kind(n, op_kind);
            match kind {
                K::mem_offs => {
                    let size = self.operand_size();
                    let offset = self.target(size).wrapping_add(self.base());
                    let mask = u64::MAX >> (64 - address);
                    i.set_memory_displ_size(address / 8);
                    i.set_memory_displacement64(offset & mask);
                }
                K::farbr2_2 => {
                    i.set_far_branch16((CODE + 0x800 + self.r.below(16)) as u16);
                    i.set_far_branch_selector(self.selector());
                }
                K::farbr4_2 => {
                    let base = self.r.pick(&[self.base(), 0]);
                    i.set_far_branch32((base + CODE + 0x800 + self.r.below(16)) as u32);
                    i.set_far_branch_selector(self.selector());
                }
                K::seg_rBX_al => {
                    i.set_memory_base([R::BX, R::EBX, R::RBX][address.trailing_zeros() as usize - 4]);
                    i.set_memory_index(R::AL);
                }
                K::imm8_const_1 => i.set_immediate8(1),
                K::imm8 if op_kind == OpKind::Immediate8_2nd => {
                    i.set_immediate8_2nd(self.r.below(if self.info.mnemonic() == M::Enter { 34 } else { 256 }) as u8);
                }
                K::imm8 => i.set_immediate8(values::integer(self.r, 8) as u8),
                K::imm8sex16 | K::imm8sex32 | K::imm8sex64 => i.set_immediate_i64(n, i64::from(values::integer(self.r, 8) as i8)),
                K::imm16 => {
                    let small = matches!(self.info.mnemonic(), M::Enter | M::Ret | M::Retf);
                    i.set_immediate16(if small { self.r.below(0x80) as u16 } else { values::integer(self.r, 16) as u16 });
                }
                K::imm32 => i.set_immediate32(values::integer(self.r, 32) as u32),
                K::imm32sex64 => i.set_immediate32to64(i64::from(values::integer(self.r, 32) as i32)),
                K::imm64 => i.set_immediate64(values::integer(self.r, 64)),
                _ => {}
            }
        }
        Some(i)
    }

    pub(super) fn selector(&mut self) -> u16 {
        let selector = if self.r.percent(50) { self.r.pick(&SELECTORS) } else { self.case.start.selectors[1] };
        if self.bits == 16 && leads_to_64_bit(selector) { selector::CODE_32 } else { selector }
    }

    /// Bits of an address, now and then not those of the mode.
    fn address_size(&mut self) -> u32 {
        if let n @ (16 | 32 | 64) = self.info.address_size() {
            return n;
        }
        let other = self.r.percent(20);
        match (self.bits, other) {
            (64, true) | (32, false) | (16, true) => 32,
            (64, false) => 64,
            _ => 16,
        }
    }

    fn operand_size(&self) -> u64 {
        match self.info.memory_size().size() as u64 {
            0 => 8,
            n => n,
        }
    }

    /// An offset in the region for an operand of `size` bytes.
    pub(super) fn target(&mut self, size: u64) -> u64 {
        let end = DATA + 2 * PAGE;
        let r = &mut *self.r;
        match r.below(100) {
            0..50 => DATA + 64 * r.below(118),
            50..72 => DATA + r.below((2 * PAGE).saturating_sub(size).max(1)),
            72..78 => (DATA + PAGE).wrapping_sub(r.below(size.max(2))),
            78..83 => end.wrapping_sub(size),
            83..88 => end.wrapping_sub(r.below(size + 1)),
            88..91 => DATA.wrapping_sub(1 + r.below(size)),
            91..96 => CONSTANTS + 16 * r.below(0xe0),
            96 => values::integer(r, 64),
            97 => 0x6800,
            _ => values::integer(r, 16),
        }
    }

    /// Base, index, scale, displacement and segment, and the registers so that they lead to a target.
    fn memory(&mut self, i: &mut Instruction, kind: K) {
        let size = self.operand_size();
        let target = self.target(size);
        let mut address = self.address_size();
        if operands::gathered_by(kind).is_some() && address == 16 {
            address = 32;
        }
        let segment = if self.r.percent(15) { self.r.pick(&[R::ES, R::CS, R::SS, R::DS, R::FS, R::GS]) } else { R::None };
        i.set_segment_prefix(segment);
        // What the target is as an offset.
        let base = match (self.bits, segment) {
            (64, R::FS) => REGION.wrapping_sub(self.case.start.fs_base),
            (64, R::GS) => REGION.wrapping_sub(self.case.start.gs_base),
            (64, _) => REGION,
            (_, R::FS | R::GS) => 0,
            _ => self.base(),
        };
        let wanted = target.wrapping_add(base);
        let size_of_displacement = self.r.pick(&[0, 0, 1, 1, 4]);
        let mut displacement = match size_of_displacement {
            0 => 0,
            1 => i64::from(self.r.next() as i8),
            _ => i64::from(values::integer(self.r, 16) as i16),
        };
        let vsib = operands::gathered_by(kind).map_or(R::None, |all| all.nth(0));
        if address == 16 {
            let (base, index) = self.r.pick(&[
                (R::BX, R::SI),
                (R::BX, R::DI),
                (R::BP, R::SI),
                (R::BP, R::DI),
                (R::SI, R::None),
                (R::DI, R::None),
                (R::BP, R::None),
                (R::BX, R::None),
            ]);
            i.set_memory_base(base);
            i.set_memory_index(index);
            let displacement_size = match size_of_displacement {
                0 if base == R::BP && index == R::None => 1,
                4 => 2,
                n => n,
            };
            i.set_memory_displ_size(displacement_size);
            i.set_memory_displacement64(displacement as u16 as u64);
            let other = if index == R::None { 0 } else { self.low(index, 16) };
            self.set(base, 16, wanted.wrapping_sub(other).wrapping_sub(displacement as u64));
            return;
        }
        let width: usize = if address == 64 { 8 } else { 4 };
        if self.bits == 64 && vsib == R::None && self.r.percent(8) && self.info.op_kinds().iter().all(|k| *k != K::sibmem) {
            // Resolved when the code's address is known.
            i.set_memory_base(if address == 64 { R::RIP } else { R::EIP });
            i.set_memory_displ_size(width as u32);
            i.set_memory_displacement64(wanted);
            return;
        }
        let base = if self.r.percent(if vsib == R::None { 90 } else { 100 }) { self.general(width) } else { R::None };
        let index = match vsib {
            R::None if self.r.percent(30) || base == R::None => loop {
                let index = self.general(width);
                if index.number() != 4 && index != base {
                    break index;
                }
            },
            R::None => R::None,
            first => {
                let index = first + self.vector();
                self.small_indices(kind, index.number());
                index
            }
        };
        i.set_memory_base(base);
        i.set_memory_index(index);
        let scale = if index == R::None { 1 } else { self.r.pick(&[1, 2, 4, 8]) };
        i.set_memory_index_scale(scale);
        let mut offset = 0;
        if index != R::None && vsib == R::None {
            if self.r.percent(80) {
                let small = self.r.below(64).wrapping_sub(32);
                self.set(index, address, small);
            }
            offset = self.low(index, address).wrapping_mul(scale.into());
        }
        if base == R::None {
            displacement = i64::from(wanted.wrapping_sub(offset) as i32);
            i.set_memory_displ_size(width as u32);
        } else {
            let bare = size_of_displacement == 0 && matches!(base.number() & 7, 5);
            i.set_memory_displ_size(match size_of_displacement {
                _ if bare => 1,
                4 => width as u32,
                n => n,
            });
            self.set(base, address, wanted.wrapping_sub(offset).wrapping_sub(displacement as u64));
        }
        i.set_memory_displacement64(if address == 32 { u64::from(displacement as u32) } else { displacement as u64 });
    }

    /// A gather's indices near 0.
    fn small_indices(&mut self, kind: K, register: usize) {
        let wide = matches!(kind, K::mem_vsib64x | K::mem_vsib64y);
        let start = &mut self.case.start;
        for half in [&mut start.xmm[register], &mut start.ymm[register]] {
            for slot in half.chunks_mut(if wide { 8 } else { 4 }) {
                let v = (self.r.below(32) as i64 - 4).to_le_bytes();
                slot.copy_from_slice(&v[..slot.len()]);
            }
        }
    }
}
