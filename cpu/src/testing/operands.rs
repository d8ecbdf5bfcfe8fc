//! What iced's kinds of operands stand for: for tests that make instructions from their codes.

use iced_x86::{OpCodeInfo, OpCodeOperandKind as K, OpKind, Register as R};

/// The registers that an operand can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registers {
    /// General registers of so many bytes.
    General(usize),
    /// ES to GS.
    Segment,
    /// MM0 to MM7.
    Mmx,
    /// XMM0 to XMM15.
    Xmm,
    /// YMM0 to YMM15.
    Ymm,
    /// CR0 to CR15.
    Control,
    /// DR0 to DR15.
    Debug,
    /// ST(0) to ST(7).
    X87,
    /// This one alone.
    One(R),
}

impl Registers {
    /// The register with number `n`, as iced counts them (AH to BH come before SPL).
    #[must_use]
    pub fn nth(self, n: u32) -> R {
        let first = match self {
            Self::General(1) => R::AL,
            Self::General(2) => R::AX,
            Self::General(4) => R::EAX,
            Self::General(_) => R::RAX,
            Self::Segment => R::ES,
            Self::Mmx => R::MM0,
            Self::Xmm => R::XMM0,
            Self::Ymm => R::YMM0,
            Self::Control => R::CR0,
            Self::Debug => R::DR0,
            Self::X87 => R::ST0,
            Self::One(r) => return r,
        };
        first + n
    }
}

/// The registers that an operand of `kind` can be; none if it is never one.
#[must_use]
pub fn registers(kind: K) -> Option<Registers> {
    Some(match kind {
        K::r8_or_mem | K::r8_reg | K::r8_opcode => Registers::General(1),
        K::r16_or_mem | K::r16_reg | K::r16_reg_mem | K::r16_rm | K::r16_opcode => Registers::General(2),
        K::r32_or_mem | K::r32_reg | K::r32_reg_mem | K::r32_rm | K::r32_opcode | K::r32_vvvv => Registers::General(4),
        K::r64_or_mem | K::r64_reg | K::r64_reg_mem | K::r64_rm | K::r64_opcode | K::r64_vvvv => Registers::General(8),
        K::seg_reg => Registers::Segment,
        K::mm_or_mem | K::mm_reg | K::mm_rm => Registers::Mmx,
        K::xmm_or_mem | K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 | K::xmm_is5 => Registers::Xmm,
        K::ymm_or_mem | K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 | K::ymm_is5 => Registers::Ymm,
        K::cr_reg => Registers::Control,
        K::dr_reg => Registers::Debug,
        K::sti_opcode => Registers::X87,
        K::al => Registers::One(R::AL),
        K::cl => Registers::One(R::CL),
        K::ax => Registers::One(R::AX),
        K::dx => Registers::One(R::DX),
        K::eax => Registers::One(R::EAX),
        K::rax => Registers::One(R::RAX),
        K::st0 => Registers::One(R::ST0),
        K::es => Registers::One(R::ES),
        K::cs => Registers::One(R::CS),
        K::ss => Registers::One(R::SS),
        K::ds => Registers::One(R::DS),
        K::fs => Registers::One(R::FS),
        K::gs => Registers::One(R::GS),
        _ => return None,
    })
}

/// Whether an operand of `kind` can be in memory, by ModR/M.
#[must_use]
pub fn may_be_memory(kind: K) -> bool {
    let either = [K::r8_or_mem, K::r16_or_mem, K::r32_or_mem, K::r64_or_mem, K::mm_or_mem, K::xmm_or_mem, K::ymm_or_mem];
    either.contains(&kind) || matches!(kind, K::mem | K::sibmem | K::mem_mib) || gathered_by(kind).is_some()
}

/// The registers that index the memory of a gather's operand.
#[must_use]
pub fn gathered_by(kind: K) -> Option<Registers> {
    match kind {
        K::mem_vsib32x | K::mem_vsib64x => Some(Registers::Xmm),
        K::mem_vsib32y | K::mem_vsib64y => Some(Registers::Ymm),
        _ => None,
    }
}

/// What operand `n` is where it is neither a register nor memory by ModR/M; strings have addresses of `address` bits. The
/// memory operands among these are [`K::mem_offs`] and [`K::seg_rBX_al`].
#[must_use]
pub fn other(info: &OpCodeInfo, n: u32, address: u32) -> Option<OpKind> {
    let by_address = |kinds: [OpKind; 3]| kinds[address.trailing_zeros() as usize - 4];
    Some(match info.op_kind(n) {
        K::mem_offs | K::seg_rBX_al => OpKind::Memory,
        K::farbr2_2 => OpKind::FarBranch16,
        K::farbr4_2 => OpKind::FarBranch32,
        K::seg_rSI => by_address([OpKind::MemorySegSI, OpKind::MemorySegESI, OpKind::MemorySegRSI]),
        K::es_rDI => by_address([OpKind::MemoryESDI, OpKind::MemoryESEDI, OpKind::MemoryESRDI]),
        K::seg_rDI => by_address([OpKind::MemorySegDI, OpKind::MemorySegEDI, OpKind::MemorySegRDI]),
        K::imm8 if n > 0 && matches!(info.op_kind(n - 1), K::imm16 | K::imm8) => OpKind::Immediate8_2nd,
        K::imm8 | K::imm8_const_1 => OpKind::Immediate8,
        K::imm8sex16 => OpKind::Immediate8to16,
        K::imm8sex32 => OpKind::Immediate8to32,
        K::imm8sex64 => OpKind::Immediate8to64,
        K::imm16 => OpKind::Immediate16,
        K::imm32 => OpKind::Immediate32,
        K::imm32sex64 => OpKind::Immediate32to64,
        K::imm64 => OpKind::Immediate64,
        K::br16_1 | K::br16_2 => OpKind::NearBranch16,
        K::br32_1 | K::br32_4 => OpKind::NearBranch32,
        K::br64_1 | K::br64_4 => OpKind::NearBranch64,
        _ => return None,
    })
}
