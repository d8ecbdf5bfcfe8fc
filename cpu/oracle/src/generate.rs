//! Makes a case from a seed, an index and an instruction code.
//!
//! The instruction comes from the operand kinds that iced knows of its code; registers and memory are then set up so that
//! it does something: addresses in the region, counts that end, selectors that are there, stacks that hold return addresses.
//! A few percent of the encodings get another prefix or a flipped bit afterwards.

use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Instruction, InstructionInfoFactory, MemorySize, Mnemonic as M, OpAccess, OpCodeInfo,
    OpCodeOperandKind as K, OpKind, Register as R,
};

use crate::accepted;
use crate::case::{CODE, CONSTANTS, Case, DATA, MAX_CODE, PAGE, REGION, STACK, selector};
use crate::values::{self, Kind, Random};

/// A case and what it was made of.
pub struct Made {
    /// To be run.
    pub case: Case,
    /// Its first instruction, as it decodes.
    pub instruction: Instruction,
}

/// Selectors that segment loads meet.
const SELECTORS: [u16; 18] = [
    0,
    3,
    0x08,
    0x10,
    0x18,
    0x1b,
    selector::CODE_32,
    selector::DATA_FLAT,
    selector::CODE_64,
    selector::CODE_16,
    selector::DATA_16,
    selector::SHORT,
    selector::EXPAND_DOWN,
    selector::READ_ONLY,
    selector::NOT_PRESENT,
    selector::EXECUTE_ONLY,
    selector::READABLE_CODE,
    0xfff8,
];

/// The mode in which `code` exists, one of those that it has.
#[must_use]
pub fn modes(info: &OpCodeInfo) -> Vec<u32> {
    [(16, info.mode16()), (32, info.mode32()), (64, info.mode64())].into_iter().filter(|m| m.1).map(|m| m.0).collect()
}

/// The case `index` of `seed` for `code`; `None` if none could be made (a code that its modes do not encode).
#[must_use]
pub fn make(code: Code, seed: u64, index: u64) -> Option<Made> {
    let mut random = Random::new(seed, index.wrapping_mul(8192).wrapping_add(code as u64));
    let info = code.op_code();
    let modes = modes(info);
    if modes.is_empty() {
        return None;
    }
    // 64-bit mode as often as the others together.
    let bits = if modes.contains(&64) && random.percent(50) { 64 } else { random.pick(&modes) };
    (0..20).find_map(|_| Maker::new(&mut random, bits, info).make())
}

struct Maker<'a> {
    r: &'a mut Random,
    bits: u32,
    info: &'a OpCodeInfo,
    case: Case,
    /// Registers that hold addresses, as bits.
    taken: u16,
}

impl<'a> Maker<'a> {
    fn new(r: &'a mut Random, bits: u32, info: &'a OpCodeInfo) -> Self {
        Self { r, bits, info, case: Case::new(bits), taken: 1 << 4 }
    }

    fn make(mut self) -> Option<Made> {
        self.registers();
        let mut instruction = self.instruction()?;
        self.prefixes(&mut instruction);
        self.place_code(&mut instruction)?;
        let bytes = self.encode(&instruction)?;
        let mut bytes = self.mutate(bytes);
        let instruction = self.decode(&bytes);
        if !instruction.is_invalid() {
            bytes.truncate(instruction.len());
        }
        if accepted::excluded(&instruction).is_some() || accepted::differing_branch(&instruction, self.bits, &bytes) {
            return None;
        }
        self.case.len = bytes.len() as u32;
        self.case.code[..bytes.len()].copy_from_slice(&bytes);
        self.operands(&instruction);
        Some(Made { case: self.case, instruction })
    }

    /// General registers, flags, vectors, the x87 and the stack, before anything is known of the instruction.
    fn registers(&mut self) {
        for n in 0..16 {
            let width = self.r.pick(&[8, 16, 32, 64, 64]);
            let v = values::integer(self.r, width);
            self.case.start.gpr[n] = if self.bits == 64 { v } else { v & 0xffff_ffff };
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

    /// The flat offset of the region in the mode's data segments.
    fn base(&self) -> u64 {
        if self.bits == 16 { 0 } else { REGION }
    }

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

    fn instruction(&mut self) -> Option<Instruction> {
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

    fn selector(&mut self) -> u16 {
        let selector = if self.r.percent(50) { self.r.pick(&SELECTORS) } else { self.case.start.selectors[1] };
        // With a 16-bit stack in 64-bit mode Linux does not deliver signals.
        if self.bits == 16 && selector == selector::CODE_64 { selector::CODE_32 } else { selector }
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
    fn target(&mut self, size: u64) -> u64 {
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

    /// The low bits of a register.
    fn low(&self, register: R, bits: u32) -> u64 {
        self.case.start.gpr[register.number()] & u64::MAX >> (64 - bits)
    }

    /// Sets the low bits of a register, and keeps what is above them; outside of 64-bit mode, 32 bits at most.
    fn set(&mut self, register: R, bits: u32, value: u64) {
        self.taken |= 1 << register.number();
        let mask = u64::MAX >> (64 - bits);
        let slot = &mut self.case.start.gpr[register.number()];
        *slot = *slot & !mask | value & mask;
        if self.bits != 64 {
            *slot &= 0xffff_ffff;
        }
    }

    fn prefixes(&mut self, i: &mut Instruction) {
        if self.info.can_use_lock_prefix() && self.r.percent(25) {
            i.set_has_lock_prefix(true);
        }
        if self.info.can_use_rep_prefix() && self.r.percent(40) {
            i.set_has_rep_prefix(true);
        } else if self.info.can_use_repne_prefix() && self.r.percent(40) {
            i.set_has_repne_prefix(true);
        }
    }

    /// Chooses where the code is, and resolves what depends on it.
    fn place_code(&mut self, i: &mut Instruction) -> Option<()> {
        let at_end = self.r.percent(3);
        let base = self.case.code_base();
        self.case.start.rip = base + CODE + 0x40 + self.r.below(64);
        self.aim(i, self.case.start.rip);
        let len = self.encode(i)?.len() as u64;
        if at_end {
            // Up to the end of the page, or over it.
            self.case.start.rip = base + CODE + PAGE - len + self.r.pick(&[0, 0, 1]).min(len - 1);
        }
        let near = (0..i.op_count()).any(|n| matches!(i.op_kind(n), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64));
        if near {
            let near = matches!(self.info.op_kind(0), K::br16_1 | K::br32_1 | K::br64_1);
            let rip = self.case.start.rip;
            let target = match self.r.below(10) {
                0 => rip + len,
                1 if !near => base + self.r.below(0x4000),
                _ => rip + 16 + self.r.below(100),
            };
            self.aim(i, target);
        }
        Some(())
    }

    /// Sets the target of a near branch.
    fn aim(&self, i: &mut Instruction, target: u64) {
        match self.info.op_kind(0) {
            K::br16_1 | K::br16_2 => i.set_near_branch16(target as u16),
            K::br32_1 | K::br32_4 => i.set_near_branch32(target as u32),
            K::br64_1 | K::br64_4 => i.set_near_branch64(target),
            _ => {}
        }
    }

    fn encode(&self, i: &Instruction) -> Option<Vec<u8>> {
        let mut encoder = Encoder::new(self.bits);
        encoder.encode(i, self.case.start.rip).ok()?;
        Some(encoder.take_buffer())
    }

    /// Now and then another prefix, or a flipped bit.
    fn mutate(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        if self.r.percent(4) {
            const PREFIXES: [u8; 13] = [0x66, 0x67, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0xf0, 0x48, 0x45];
            for _ in 0..=self.r.below(2) {
                let at = self.r.below(2.min(bytes.len() as u64)) as usize;
                bytes.insert(at, self.r.pick(&PREFIXES));
            }
        } else if self.r.percent(2) {
            let at = self.r.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.r.below(8);
        } else if self.r.percent(1) {
            // Around the longest that is allowed.
            let wanted = 13 + self.r.below(4) as usize;
            let prefix = self.r.pick(&[0x2e, 0x3e, 0x26]);
            while bytes.len() < wanted {
                bytes.insert(0, prefix);
            }
        }
        bytes.truncate(MAX_CODE);
        bytes
    }

    fn decode(&self, bytes: &[u8]) -> Instruction {
        decode(self.bits, bytes, self.case.start.rip)
    }

    /// Gives implicit operands and memory values that make sense for the instruction.
    fn operands(&mut self, i: &Instruction) {
        let mut factory = InstructionInfoFactory::new();
        let strings = i.is_string_instruction();
        let mask = self.address_mask(i);
        if strings || matches!(i.mnemonic(), M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu) {
            let size = (i.memory_size().size() as u64).max(1);
            for register in [R::RSI, R::RDI] {
                let target = self.target(size * 4).wrapping_add(self.base());
                self.set(register, mask, target);
            }
            let count = self.r.pick(&[0, 1, 2, 3, 7, 20]);
            if strings {
                self.set(R::RCX, mask, count);
            }
        }
        match i.mnemonic() {
            M::Xlatb => {
                let target = self.target(256).wrapping_add(self.base());
                self.set(R::RBX, mask, target);
            }
            M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz if self.r.percent(60) => {
                let v = self.r.below(3);
                self.set(R::RCX, 32, v);
            }
            M::Leave => {
                let v = self.base() + STACK + self.r.below(PAGE);
                self.set(R::RBP, 32, v);
            }
            M::Enter => {
                let v = self.base() + STACK + 0x400 + self.r.below(0x400);
                self.set(R::RBP, 32, v);
            }
            // The bit offset reaches beyond the operand; mostly not far.
            M::Bt | M::Bts | M::Btr | M::Btc if i.op0_kind() == OpKind::Memory && i.op1_kind() == OpKind::Register => {
                let register = i.op1_register();
                if self.r.percent(85) && self.taken >> register.number() & 1 == 0 {
                    let v = self.r.below(0x2000).wrapping_sub(0x1000);
                    let bits = 8 * register.size() as u32;
                    self.set(register, bits, v);
                }
            }
            // Near the dividend, so that not every quotient overflows.
            M::Div | M::Idiv if self.r.percent(70) => {
                let v = if self.r.percent(50) { 0 } else { u64::MAX };
                self.set(R::RDX, if self.bits == 64 { 64 } else { 32 }, v);
                if i.op0_kind() != OpKind::Memory && i.op0_register().size() == 1 {
                    let v = values::integer(self.r, 8);
                    self.set(R::RAX, 16, v);
                }
            }
            M::Aad | M::Aam | M::Daa | M::Das | M::Aaa | M::Aas => {
                let v = values::integer(self.r, 16);
                self.set(R::RAX, 16, v);
            }
            _ => {}
        }
        // Equal operands matter to these.
        if matches!(i.mnemonic(), M::Cmpxchg | M::Cmpxchg8b | M::Cmpxchg16b) && self.r.percent(50) {
            self.equal_accumulator(i);
        }
        self.selectors(i);
        self.pointers(i, &mut factory);
        self.floats(i);
        self.stack(i);
    }

    /// Bits of the addresses of an instruction.
    fn address_mask(&self, i: &Instruction) -> u32 {
        for n in 0..i.op_count() {
            match i.op_kind(n) {
                OpKind::MemorySegSI | OpKind::MemoryESDI | OpKind::MemorySegDI => return 16,
                OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI => return 32,
                OpKind::MemorySegRSI | OpKind::MemoryESRDI | OpKind::MemorySegRDI => return 64,
                OpKind::Memory => match i.memory_base().size() {
                    2 => return 16,
                    4 => return 32,
                    8 => return 64,
                    _ => {}
                },
                _ => {}
            }
        }
        self.bits
    }

    /// The offset in the region of the memory operand.
    fn effective(&self, i: &Instruction) -> Option<u64> {
        let n = (0..i.op_count()).find(|n| i.op_kind(*n) == OpKind::Memory)?;
        address(&self.case, i, n)
    }

    fn equal_accumulator(&mut self, i: &Instruction) {
        let place = self.effective(i).and_then(crate::case::Machine::place);
        let value = |at: usize, case: &Case| {
            let mut v = [0; 8];
            let slice = case.start.memory.get(at..at + 8)?;
            v.copy_from_slice(slice);
            Some(u64::from_le_bytes(v))
        };
        let wide = if self.bits == 64 { 64 } else { 32 };
        match (i.mnemonic(), place) {
            (M::Cmpxchg, Some(at)) => {
                if let Some(v) = value(at, &self.case) {
                    if self.taken & 1 == 0 {
                        self.set(R::RAX, wide, v);
                    }
                }
            }
            (M::Cmpxchg, None) if i.op0_kind() == OpKind::Register => {
                let v = self.case.start.gpr[i.op0_register().full_register().number()];
                self.set(R::RAX, wide, v);
            }
            (M::Cmpxchg8b, Some(at)) => {
                if let Some(v) = value(at, &self.case) {
                    if self.taken & 5 == 0 {
                        self.set(R::RAX, 32, v);
                        self.set(R::RDX, 32, v >> 32);
                    }
                }
            }
            (M::Cmpxchg16b, Some(at)) => {
                if let (Some(low), Some(high)) = (value(at, &self.case), value(at + 8, &self.case)) {
                    if self.taken & 5 == 0 {
                        self.set(R::RAX, 64, low);
                        self.set(R::RDX, 64, high);
                    }
                }
            }
            _ => {}
        }
    }

    /// Selectors that are there, for whatever takes one.
    fn selectors(&mut self, i: &Instruction) {
        let loads = match i.mnemonic() {
            M::Mov => i.op0_register().is_segment_register(),
            M::Lar | M::Lsl | M::Verr | M::Verw | M::Arpl => true,
            _ => false,
        };
        if !loads {
            return;
        }
        let n = if i.op_count() > 1 && i.mnemonic() != M::Arpl { 1 } else { 0 };
        let selector = self.r.pick(&SELECTORS);
        if i.op_kind(n) == OpKind::Register {
            self.set(i.op_register(n), 16, selector.into());
        } else if let Some(offset) = self.effective(i) {
            self.case.start.put(offset, &selector.to_le_bytes());
        }
    }

    /// Targets of indirect branches.
    fn pointers(&mut self, i: &Instruction, _: &mut InstructionInfoFactory) {
        let base = self.case.code_base();
        let target = if self.r.percent(80) { base + CODE + 0x600 + self.r.below(0x100) } else { values::integer(self.r, 64) };
        match i.mnemonic() {
            M::Jmp | M::Call if i.op_count() > 0 => match i.op0_kind() {
                OpKind::Register => {
                    let bits = 8 * i.op0_register().size() as u32;
                    if bits > 8 {
                        self.set(i.op0_register(), bits, target);
                    }
                }
                OpKind::Memory => {
                    let Some(offset) = self.effective(i) else { return };
                    let far = match i.memory_size() {
                        MemorySize::SegPtr16 => 2,
                        MemorySize::SegPtr32 => 4,
                        MemorySize::SegPtr64 => 8,
                        _ => 0,
                    };
                    self.case.start.put(offset, &target.to_le_bytes());
                    if far != 0 {
                        let selector = self.selector();
                        self.case.start.put(offset.wrapping_add(far), &selector.to_le_bytes());
                    }
                }
                _ => {}
            },
            M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss => {
                let Some(offset) = self.effective(i) else { return };
                let selector = self.r.pick(&SELECTORS);
                let size = i.memory_size().size() as u64;
                self.case.start.put(offset.wrapping_add(size - 2), &selector.to_le_bytes());
            }
            _ => {}
        }
    }

    /// Memory operands in formats that random bytes would not give.
    fn floats(&mut self, i: &Instruction) {
        let Some(offset) = self.effective(i) else { return };
        let size = i.memory_size();
        let mut bytes = vec![0; size.size().min(512)];
        match size {
            MemorySize::Float80 => bytes.copy_from_slice(&values::extended(self.r)),
            MemorySize::Bcd => bytes.copy_from_slice(&values::bcd(self.r)),
            MemorySize::FpuEnv14 | MemorySize::FpuEnv28 | MemorySize::FpuState94 | MemorySize::FpuState108 => {
                let image = self.case.start.x87;
                let wide = matches!(size, MemorySize::FpuEnv28 | MemorySize::FpuState108);
                let step = if wide { 4 } else { 2 };
                bytes[..2].copy_from_slice(&image[..2]);
                bytes[step..step + 2].copy_from_slice(&image[2..4]);
                let tags = self.r.next() as u16;
                bytes[2 * step..2 * step + 2].copy_from_slice(&tags.to_le_bytes());
                for byte in &mut bytes[3 * step..7 * step] {
                    *byte = self.r.next() as u8;
                }
                for slot in bytes[7 * step..].chunks_exact_mut(10) {
                    slot.copy_from_slice(&values::extended(self.r));
                }
            }
            MemorySize::Fxsave_512Byte | MemorySize::Fxsave64_512Byte | MemorySize::Xsave | MemorySize::Xsave64 => {
                let mut image = vec![0; 576];
                values::fill(self.r, &mut image[160..416]);
                self.x87_image(&mut image);
                image[24..28].copy_from_slice(&self.case.start.mxcsr.to_le_bytes());
                if self.r.percent(4) {
                    image[26] = 1;
                }
                image[512] = self.r.pick(&[3, 3, 3, 1, 2, 0]);
                bytes = image;
            }
            _ => match element(size) {
                Some(kind @ (Kind::Single | Kind::Double | Kind::Half)) => values::fill_kind(self.r, kind, &mut bytes),
                Some(kind) => values::fill_kind(self.r, kind, &mut bytes),
                _ if i.mnemonic() == M::Ldmxcsr => {
                    let v = self.case.start.mxcsr ^ self.r.next() as u32 & 0x1ffff & self.r.next() as u32;
                    bytes.copy_from_slice(&v.to_le_bytes());
                }
                _ => return,
            },
        }
        self.case.start.put(offset, &bytes);
    }

    fn x87_image(&mut self, image: &mut [u8]) {
        let own = self.case.start.x87;
        image[..24].copy_from_slice(&own[..24]);
        image[32..160].copy_from_slice(&own[32..160]);
        for slot in image[32..160].chunks_mut(16) {
            slot[..10].copy_from_slice(&values::extended(self.r));
        }
    }

    /// Return addresses, frames, selectors and flags for what pops them.
    fn stack(&mut self, i: &Instruction) {
        let base = self.case.code_base();
        let wide = if self.bits == 16 { 2 } else { u64::from(self.bits / 8) };
        let at = (self.case.start.gpr[4] & if self.bits == 16 { 0xffff } else { u64::MAX }).wrapping_sub(self.base());
        let target = base + CODE + 0x500 + self.r.below(0x80);
        let cs = self.selector();
        let flags = self.r.next() & 0x24_7fd5;
        let words: Vec<u64> = match i.mnemonic() {
            M::Ret => vec![target],
            M::Retf => vec![target, cs.into()],
            M::Iret | M::Iretd | M::Iretq => {
                let ss = if self.r.percent(80) { self.case.start.selectors[2] } else { self.r.pick(&SELECTORS) };
                vec![target, cs.into(), flags & !0x100, self.base() + STACK + 0x800, ss.into()]
            }
            M::Popf | M::Popfd | M::Popfq => vec![flags],
            M::Pop if i.op0_register().is_segment_register() => vec![self.r.pick(&SELECTORS).into()],
            _ => return,
        };
        let size = match i.code() {
            Code::Retnw | Code::Retnw_imm16 | Code::Retfw | Code::Retfw_imm16 | Code::Iretw | Code::Popfw => 2,
            Code::Retnd | Code::Retnd_imm16 | Code::Retfd | Code::Retfd_imm16 | Code::Iretd | Code::Popfd => 4,
            Code::Retnq | Code::Retnq_imm16 | Code::Retfq | Code::Retfq_imm16 | Code::Iretq | Code::Popfq => 8,
            _ => wide,
        };
        for (n, word) in words.into_iter().enumerate() {
            self.case.start.put(at.wrapping_add(n as u64 * size), &word.to_le_bytes()[..size as usize]);
        }
    }
}

/// The offset in the region of memory operand `n`.
#[must_use]
pub fn address(case: &Case, i: &Instruction, n: u32) -> Option<u64> {
    let start = &case.start;
    let linear = i.virtual_address(n, 0, |register, _, _| {
        Some(match register {
            R::FS => start.fs_base,
            R::GS => start.gs_base,
            _ if register.is_segment_register() => REGION - case.code_base(),
            _ if register.is_gpr() => {
                let v = start.gpr[register.full_register().number()];
                v & u64::MAX >> (64 - 8 * register.size())
            }
            _ => return None,
        })
    })?;
    Some(linear.wrapping_sub(REGION))
}

/// Decodes the first instruction of `bytes`.
#[must_use]
pub fn decode(bits: u32, bytes: &[u8], ip: u64) -> Instruction {
    // What follows is INT3.
    let mut padded = [0xcc; MAX_CODE + 16];
    padded[..bytes.len()].copy_from_slice(bytes);
    Decoder::with_ip(bits, &padded, ip, DecoderOptions::NONE).decode()
}

/// What a memory operand's elements are.
fn element(size: MemorySize) -> Option<Kind> {
    Some(match size.element_type() {
        MemorySize::Unknown => return None,
        MemorySize::Float16 => Kind::Half,
        MemorySize::Float32 => Kind::Single,
        MemorySize::Float64 => Kind::Double,
        MemorySize::Float80 => Kind::Extended,
        other => match other.size() {
            n @ (1 | 2 | 4 | 8) => Kind::Integer(n),
            _ => return None,
        },
    })
}

/// Whether an operand of `i` reads or writes memory.
#[must_use]
pub fn touches_memory(i: &Instruction) -> bool {
    InstructionInfoFactory::new().info(i).used_memory().iter().any(|m| m.access() != OpAccess::NoMemAccess)
}
