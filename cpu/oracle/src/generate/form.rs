//! An instruction of a code, from the operand kinds that iced knows: registers, immediates, and memory that leads to the region.

use iced_x86::{Instruction, Mnemonic as M, OpCodeOperandKind as K, OpKind, Register as R};

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
        Some(match kind {
            K::r8_or_mem | K::r8_reg | K::r8_opcode => self.general(1),
            K::r16_or_mem | K::r16_reg | K::r16_reg_mem | K::r16_rm | K::r16_opcode => self.general(2),
            K::r32_or_mem | K::r32_reg | K::r32_reg_mem | K::r32_rm | K::r32_opcode | K::r32_vvvv => self.general(4),
            K::r64_or_mem | K::r64_reg | K::r64_reg_mem | K::r64_rm | K::r64_opcode | K::r64_vvvv => self.general(8),
            K::seg_reg => self.r.pick(&[R::ES, R::CS, R::SS, R::DS, R::FS, R::GS]),
            K::mm_or_mem | K::mm_reg | K::mm_rm => R::MM0 + self.r.below(8) as u32,
            K::xmm_or_mem | K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 | K::xmm_is5 => R::XMM0 + self.vector(),
            K::ymm_or_mem | K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 | K::ymm_is5 => R::YMM0 + self.vector(),
            K::cr_reg => self.r.pick(&[R::CR0, R::CR2, R::CR3, R::CR4]),
            K::dr_reg => R::DR0 + self.r.below(8) as u32,
            K::sti_opcode => R::ST0 + self.r.below(8) as u32,
            K::al => R::AL,
            K::cl => R::CL,
            K::ax => R::AX,
            K::dx => R::DX,
            K::eax => R::EAX,
            K::rax => R::RAX,
            K::st0 => R::ST0,
            K::es => R::ES,
            K::cs => R::CS,
            K::ss => R::SS,
            K::ds => R::DS,
            K::fs => R::FS,
            K::gs => R::GS,
            _ => return None,
        })
    }

    pub(super) fn instruction(&mut self) -> Option<Instruction> {
        let mut i = Instruction::default();
        i.set_code(self.info.code());
        let memory = self.r.percent(55);
        let by_bits = |kinds: [OpKind; 3], bits: u32| kinds[bits.trailing_zeros() as usize - 4];
        for n in 0..self.info.op_count() {
            let kind = self.info.op_kind(n);
            let maybe =
                matches!(kind, K::r8_or_mem | K::r16_or_mem | K::r32_or_mem | K::r64_or_mem | K::mm_or_mem | K::xmm_or_mem | K::ymm_or_mem);
            let always =
                matches!(kind, K::mem | K::mem_vsib32x | K::mem_vsib32y | K::mem_vsib64x | K::mem_vsib64y | K::sibmem | K::mem_mib);
            if always || maybe && memory {
                i.set_op_kind(n, OpKind::Memory);
                self.memory(&mut i, kind);
                continue;
            }
            if let Some(r) = self.register(kind) {
                i.set_op_kind(n, OpKind::Register);
                i.set_op_register(n, r);
                continue;
            }
            let second = n > 0 && matches!(self.info.op_kind(n - 1), K::imm16 | K::imm8);
            let address = self.address_size();
            let op_kind = match kind {
                K::mem_offs => {
                    let size = self.operand_size();
                    let offset = self.target(size).wrapping_add(self.base());
                    let mask = u64::MAX >> (64 - address);
                    i.set_memory_displ_size(address / 8);
                    i.set_memory_displacement64(offset & mask);
                    OpKind::Memory
                }
                K::farbr2_2 => {
                    i.set_far_branch16((CODE + 0x800 + self.r.below(16)) as u16);
                    i.set_far_branch_selector(self.selector());
                    OpKind::FarBranch16
                }
                K::farbr4_2 => {
                    let base = self.r.pick(&[self.base(), 0]);
                    i.set_far_branch32((base + CODE + 0x800 + self.r.below(16)) as u32);
                    i.set_far_branch_selector(self.selector());
                    OpKind::FarBranch32
                }
                K::seg_rSI => by_bits([OpKind::MemorySegSI, OpKind::MemorySegESI, OpKind::MemorySegRSI], address),
                K::es_rDI => by_bits([OpKind::MemoryESDI, OpKind::MemoryESEDI, OpKind::MemoryESRDI], address),
                K::seg_rDI => by_bits([OpKind::MemorySegDI, OpKind::MemorySegEDI, OpKind::MemorySegRDI], address),
                K::seg_rBX_al => {
                    i.set_memory_base([R::BX, R::EBX, R::RBX][address.trailing_zeros() as usize - 4]);
                    i.set_memory_index(R::AL);
                    OpKind::Memory
                }
                K::imm8_const_1 => {
                    i.set_immediate8(1);
                    OpKind::Immediate8
                }
                K::imm8 if second => {
                    i.set_immediate8_2nd(self.r.below(if self.info.mnemonic() == M::Enter { 34 } else { 256 }) as u8);
                    OpKind::Immediate8_2nd
                }
                K::imm8 => {
                    i.set_immediate8(values::integer(self.r, 8) as u8);
                    OpKind::Immediate8
                }
                K::imm8sex16 | K::imm8sex32 | K::imm8sex64 => {
                    let kind = match kind {
                        K::imm8sex16 => OpKind::Immediate8to16,
                        K::imm8sex32 => OpKind::Immediate8to32,
                        _ => OpKind::Immediate8to64,
                    };
                    i.set_op_kind(n, kind);
                    i.set_immediate_i64(n, i64::from(values::integer(self.r, 8) as i8));
                    kind
                }
                K::imm16 => {
                    let small = matches!(self.info.mnemonic(), M::Enter | M::Ret | M::Retf);
                    i.set_immediate16(if small { self.r.below(0x80) as u16 } else { values::integer(self.r, 16) as u16 });
                    OpKind::Immediate16
                }
                K::imm32 => {
                    i.set_immediate32(values::integer(self.r, 32) as u32);
                    OpKind::Immediate32
                }
                K::imm32sex64 => {
                    i.set_immediate32to64(i64::from(values::integer(self.r, 32) as i32));
                    OpKind::Immediate32to64
                }
                K::imm64 => {
                    i.set_immediate64(values::integer(self.r, 64));
                    OpKind::Immediate64
                }
                K::br16_1 | K::br16_2 => OpKind::NearBranch16,
                K::br32_1 | K::br32_4 => OpKind::NearBranch32,
                K::br64_1 | K::br64_4 => OpKind::NearBranch64,
                _ => return None,
            };
            i.set_op_kind(n, op_kind);
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
        if matches!(kind, K::mem_vsib32x | K::mem_vsib32y | K::mem_vsib64x | K::mem_vsib64y) && address == 16 {
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
        let vsib = match kind {
            K::mem_vsib32x | K::mem_vsib64x => R::XMM0,
            K::mem_vsib32y | K::mem_vsib64y => R::YMM0,
            _ => R::None,
        };
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
