//! Which instructions are re-emitted, and which are left to their handlers.
//!
//! An instruction is re-emitted if the host has it, if all that it touches are its operands, and if its result is fixed by
//! the architecture. What neither holds for nor is named here goes through the interpreter's handler.

use iced_x86::{
    Code, CpuidFeature, EncodingKind, FlowControl, Instruction, InstructionInfo, InstructionInfoFactory, Mnemonic as M, OpAccess, OpKind,
    Register, UsedRegister,
};

use super::assembler::Gate;
use super::registers::{home, number};
use crate::state::Mode;

/// How an instruction is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing to do.
    Nothing,
    /// As it is, with registers renamed and memory through the TLB.
    Native,
    /// LEA.
    Address,
    /// DIV and IDIV: as they are, where they cannot fault.
    Divide,
    /// The near transfers and the stack, with operands of the size that [`plain_size`] says.
    Jcc,
    Jmp,
    JmpIndirect,
    Call,
    CallIndirect,
    Ret,
    Push,
    Pop,
    Leave,
    /// RDTSC and RDTSCP, where CR4.TSD is clear.
    TimeStamp,
    /// Through the handler.
    Handler,
    /// Through the handler; then the block ends, since what it changes concerns translated code.
    HandlerLast,
}

/// What the host can do.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Leaves undefined flags as the handlers do.
    amd: bool,
    aes: bool,
    pclmul: bool,
    sha: bool,
    fma: bool,
    f16c: bool,
    /// Its x87 unit leaves the undefined condition codes as the handlers do, and XSAVE moves its registers.
    x87: bool,
}

impl Host {
    /// Looks; none if the host lacks what all translated code needs.
    pub fn detect() -> Option<Self> {
        use std::arch::is_x86_feature_detected as has;
        let needed = has!("avx") && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("popcnt") && has!("movbe");
        (needed && has!("sse4.2")).then(|| Self {
            amd: super::arena::host_is_amd(),
            aes: has!("aes"),
            pclmul: has!("pclmulqdq"),
            sha: has!("sha"),
            fma: has!("fma"),
            f16c: has!("f16c"),
            x87: has!("xsave") && super::arena::host_is_amd(),
        })
    }

    /// This host, as if its maker were not AMD.
    pub fn of_other_maker(self) -> Self {
        Self { amd: false, x87: false, ..self }
    }

    /// What is fast here.
    pub fn gate(&self) -> Gate {
        if self.amd { Gate::Loop } else { Gate::Jrcxz }
    }

    fn has(&self, f: CpuidFeature) -> bool {
        use CpuidFeature as F;
        match f {
            F::SSE | F::SSE2 | F::SSE3 => true,
            F::FPU | F::FPU287 | F::FPU387 | F::CMOV | F::MMX => self.x87,
            F::SSSE3 | F::SSE4_1 | F::SSE4_2 | F::POPCNT | F::LZCNT | F::BMI1 | F::BMI2 | F::MOVBE | F::AVX | F::AVX2 => true,
            F::AES => self.aes,
            F::PCLMULQDQ => self.pclmul,
            F::SHA => self.sha,
            F::FMA => self.fma,
            F::F16C => self.f16c,
            _ => false,
        }
    }
}

/// What an instruction does to its operands and to general registers, of those whose way depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Uses {
    /// By operand.
    operands: [OpAccess; 5],
    /// The general registers that may be written, by number, as bits.
    pub written: u16,
}

impl Default for Uses {
    fn default() -> Self {
        Self { operands: [OpAccess::None; 5], written: 0 }
    }
}

impl Uses {
    fn new(info: &InstructionInfo) -> Self {
        let changed = info.used_registers().iter().filter(|u| u.register().is_gpr() && !only_read(u.access()));
        Self {
            operands: [info.op0_access(), info.op1_access(), info.op2_access(), info.op3_access(), info.op4_access()],
            written: changed.fold(0, |bits, u| bits | 1 << number(u.register())),
        }
    }

    /// What is done to operand `n`.
    pub fn operand(&self, n: u32) -> OpAccess {
        self.operands[n as usize]
    }

    /// Operand `n` is not written.
    pub fn reads(&self, n: u32) -> bool {
        only_read(self.operand(n))
    }
}

fn only_read(access: OpAccess) -> bool {
    matches!(access, OpAccess::Read | OpAccess::CondRead)
}

/// The way of `i`, which the interpreter has a handler for and which is available in its mode, and what it uses.
pub fn way(i: &Instruction, info: &mut InstructionInfoFactory, host: &Host, mode: Mode) -> (Way, Uses) {
    match plain_way(i, mode) {
        Some(way @ (Way::Address | Way::Divide | Way::TimeStamp)) => (way, Uses::new(info.info(i))),
        Some(way) => (way, Uses::default()),
        None if may_be_native(i, host) => {
            let info = info.info(i);
            let x87 = uses_x87(i);
            let native = if x87 { info.used_memory().len() <= memory_operands(i) } else { implicit(i, info) };
            if native { (Way::Native, Uses::new(info)) } else { (Way::Handler, Uses::default()) }
        }
        None => (Way::Handler, Uses::default()),
    }
}

/// The way of `i`, if it is neither [`Way::Native`] nor [`Way::Handler`] for want of that.
fn plain_way(i: &Instruction, mode: Mode) -> Option<Way> {
    let near = plain_size(near_size(i), mode) && (mode.bits() != 32 || near_size(i) == 4);
    match i.flow_control() {
        FlowControl::Next => {}
        FlowControl::ConditionalBranch if i.is_jcc_short_or_near() && near => return Some(Way::Jcc),
        FlowControl::UnconditionalBranch if i.is_jmp_short_or_near() && near => return Some(Way::Jmp),
        FlowControl::Call if i.is_call_near() && near => return Some(Way::Call),
        FlowControl::IndirectBranch if i.is_jmp_near_indirect() && near => return Some(Way::JmpIndirect),
        // The target of CALL ESP is what it was before.
        FlowControl::IndirectCall if i.is_call_near_indirect() && near && (mode.long() || !uses_stack_pointer(i)) => {
            return Some(Way::CallIndirect);
        }
        FlowControl::Return if near => return Some(Way::Ret),
        _ => return Some(Way::Handler),
    }
    let stack = plain_size(i.stack_pointer_increment().unsigned_abs() as usize, mode);
    Some(match i.mnemonic() {
        M::Nop | M::Endbr64 | M::Endbr32 | M::Lfence | M::Mfence | M::Sfence | M::Pause => Way::Nothing,
        M::Rdtsc | M::Rdtscp => Way::TimeStamp,
        M::Prefetchnta | M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 | M::Prefetchw => Way::Nothing,
        M::Lea if i.op0_register().size() >= 4 || !mode.long() => Way::Address,
        M::Lea => Way::Handler,
        M::Div | M::Idiv if near_size(i) >= 4 => Way::Divide,
        M::Push if stack && !i.op0_register().is_segment_register() => Way::Push,
        // POP SP keeps what the increment has carried.
        M::Pop if stack && i.op0_register().is_gpr() && i.op0_register() != Register::SP => Way::Pop,
        M::Leave if plain_size(near_size(i), mode) => Way::Leave,
        M::Ldmxcsr | M::Vldmxcsr | M::Fxrstor | M::Fxrstor64 | M::Xrstor | M::Xrstor64 => Way::HandlerLast,
        M::Xrstors | M::Xrstors64 => Way::HandlerLast,
        M::Fldcw | M::Fldenv | M::Frstor => Way::HandlerLast,
        // The host clears the registers that 64-bit code alone has, too.
        M::Vzeroupper | M::Vzeroall if !mode.long() => Way::Handler,
        _ => return None,
    })
}

/// Whether `i` can be re-emitted, as far as that can be told without what it uses beside its operands.
fn may_be_native(i: &Instruction, host: &Host) -> bool {
    let native = if uses_x87(i) { native_x87(i, host) } else { native(i, host) };
    native && (0..i.op_count()).all(|n| operand(i, n))
}

/// Whether `i` has to do with the XMM or YMM registers, or MXCSR.
pub fn uses_vectors(i: &Instruction) -> bool {
    matches!(i.mnemonic(), M::Vzeroupper | M::Vzeroall | M::Stmxcsr | M::Vstmxcsr)
        || matches!(i.mnemonic(), M::Cvtss2si | M::Cvttss2si | M::Cvtsd2si | M::Cvttsd2si)
        || matches!(i.mnemonic(), M::Vcvtss2si | M::Vcvttss2si | M::Vcvtsd2si | M::Vcvttsd2si)
        || (0..i.op_count()).any(|n| i.op_register(n).is_xmm() || i.op_register(n).is_ymm())
}

/// Whether `i` has to do with the x87 or MMX registers.
pub fn uses_x87(i: &Instruction) -> bool {
    use CpuidFeature as F;
    i.cpuid_features().iter().any(|f| matches!(f, F::FPU | F::FPU287 | F::FPU387 | F::MMX))
        || (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_mm())
}

/// The results of these are fixed, flags included; the others (the transcendental ones) have definitions of their own.
fn native_x87(i: &Instruction, host: &Host) -> bool {
    let fixed = match i.mnemonic() {
        M::Fadd | M::Faddp | M::Fiadd | M::Fsub | M::Fsubp | M::Fisub | M::Fsubr | M::Fsubrp | M::Fisubr => true,
        M::Fmul | M::Fmulp | M::Fimul | M::Fdiv | M::Fdivp | M::Fidiv | M::Fdivr | M::Fdivrp | M::Fidivr | M::Fsqrt => true,
        M::Fcom | M::Fcomp | M::Fcompp | M::Fucom | M::Fucomp | M::Fucompp | M::Ficom | M::Ficomp | M::Ftst | M::Fxam => true,
        M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip => true,
        M::Fcmovb | M::Fcmovnb | M::Fcmove | M::Fcmovne | M::Fcmovbe | M::Fcmovnbe | M::Fcmovu | M::Fcmovnu => true,
        M::Fld | M::Fild | M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp | M::Fxch | M::Fchs | M::Fabs | M::Frndint => true,
        M::Fld1 | M::Fldl2t | M::Fldl2e | M::Fldpi | M::Fldlg2 | M::Fldln2 | M::Fldz => true,
        M::Ffree | M::Fincstp | M::Fdecstp | M::Fnop | M::Fnstcw | M::Fnstsw => true,
        // MMX
        _ => !i.cpuid_features().iter().any(|f| matches!(f, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387)),
    };
    fixed && i.encoding() == EncodingKind::Legacy && i.cpuid_features().iter().all(|&f| host.has(f)) && !reserved(i)
}

fn memory_operands(i: &Instruction) -> usize {
    (0..i.op_count()).filter(|&n| i.op_kind(n) == OpKind::Memory).count()
}

/// Whether near transfers and the stack are translated with operands of `bytes` bytes.
fn plain_size(bytes: usize, mode: Mode) -> bool {
    if mode.long() { bytes == 8 } else { bytes == 2 || bytes == 4 }
}

/// The operand size of a near transfer or LEAVE, or of what has one operand, in bytes; 0 if it is none of these.
pub fn near_size(i: &Instruction) -> usize {
    use iced_x86::Code as C;
    match (i.code(), i.op0_kind()) {
        (C::Retnw | C::Retnw_imm16 | C::Leavew, _) => 2,
        (C::Retnd | C::Retnd_imm16 | C::Leaved, _) => 4,
        (C::Retnq | C::Retnq_imm16 | C::Leaveq, _) => 8,
        (_, OpKind::NearBranch16) => 2,
        (_, OpKind::NearBranch32) => 4,
        (_, OpKind::NearBranch64) => 8,
        (_, OpKind::Register) if i.op_count() > 0 => i.op0_register().size(),
        (_, OpKind::Memory) => i.memory_size().size(),
        _ => 0,
    }
}

fn uses_stack_pointer(i: &Instruction) -> bool {
    [i.op0_register(), i.memory_base()].iter().any(|r| r.full_register() == Register::RSP)
}

fn native(i: &Instruction, host: &Host) -> bool {
    let plain = matches!(i.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
        && (integer(i) || i.cpuid_features().iter().all(|&f| host.has(f)))
        && !i.is_privileged()
        && !i.is_stack_instruction()
        && !i.is_string_instruction()
        && !i.is_vsib();
    plain && !reserved(i) && flags_agree(i, host)
}

/// The integer instructions from before CPUID told of features.
fn integer(i: &Instruction) -> bool {
    match i.mnemonic() {
        M::Mov | M::Movzx | M::Movsx | M::Movsxd | M::Xchg | M::Xadd | M::Cmpxchg | M::Bswap => true,
        M::Add | M::Adc | M::Sub | M::Sbb | M::And | M::Or | M::Xor | M::Cmp | M::Test => true,
        M::Inc | M::Dec | M::Neg | M::Not | M::Mul | M::Imul => true,
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd => true,
        M::Bt | M::Bts | M::Btr | M::Btc | M::Bsf | M::Bsr => true,
        M::Cbw | M::Cwde | M::Cdqe | M::Cwd | M::Cdq | M::Cqo | M::Lahf | M::Sahf | M::Clc | M::Stc | M::Cmc => true,
        _ => i.condition_code() != iced_x86::ConditionCode::None,
    }
}

/// The integer instruction `i` with its register operand `n` in memory, if it means the same then.
pub fn with_memory(i: &Instruction, n: u32) -> Option<Code> {
    // Of each, the forms that load follow the four that store.
    const BOTH_WAYS: [Code; 9] = [
        Code::Mov_rm8_r8,
        Code::Add_rm8_r8,
        Code::Or_rm8_r8,
        Code::Adc_rm8_r8,
        Code::Sbb_rm8_r8,
        Code::And_rm8_r8,
        Code::Sub_rm8_r8,
        Code::Xor_rm8_r8,
        Code::Cmp_rm8_r8,
    ];
    let code = i.code() as usize;
    if let Some(first) = BOTH_WAYS.iter().map(|&c| c as usize).find(|&c| (c..c + 8).contains(&code)) {
        return Code::try_from(first + 4 * n as usize + (code - first) % 4).ok();
    }
    let fits = match i.mnemonic() {
        M::Mov | M::Add | M::Adc | M::Sub | M::Sbb | M::And | M::Or | M::Xor | M::Cmp | M::Test => n == 0,
        M::Inc | M::Dec | M::Neg | M::Not | M::Mul | M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror => true,
        M::Movzx | M::Movsx | M::Movsxd => n == 1,
        M::Imul => n == 1 || i.op_count() == 1,
        _ => i.condition_code() != iced_x86::ConditionCode::None && n + 1 == i.op_count(),
    };
    fits.then(|| i.code())
}

/// Whatever its operands are, the result is 0.
pub fn becomes_zero(i: &Instruction) -> bool {
    matches!(i.mnemonic(), M::Xor | M::Sub) && i.op_kind(1) == OpKind::Register && i.op0_register() == i.op1_register()
}

/// Results that are not fixed, operands that are not listed, or more than registers and flags.
fn reserved(i: &Instruction) -> bool {
    use iced_x86::Code as C;
    match i.mnemonic() {
        M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss | M::Vrcpps | M::Vrcpss | M::Vrsqrtps | M::Vrsqrtss => true,
        M::Maskmovdqu | M::Maskmovq | M::Vmaskmovdqu | M::Vmaskmovps | M::Vmaskmovpd => true,
        M::Vpmaskmovd | M::Vpmaskmovq | M::Cpuid | M::Xgetbv | M::Cld | M::Std | M::Xlatb | M::Div | M::Idiv | M::Clflush => true,
        M::Clflushopt | M::Clwb | M::Rdpmc | M::Rdtsc | M::Cmpxchg8b | M::Cmpxchg16b | M::Rdpid | M::Int3 | M::Wait | M::Salc => true,
        M::Bt | M::Bts | M::Btr | M::Btc => i.op0_kind() == OpKind::Memory && i.op1_kind() == OpKind::Register,
        // Undefined; and the host reads 32 bits for MOVSXD of 16, maybe beyond the end of RAM.
        M::Bswap | M::Movsxd => i.op0_register().size() == 2,
        // Counts above 16 are undefined.
        M::Shld | M::Shrd => i.op1_register().size() == 2,
        // They touch the MMX registers, even with a memory operand.
        M::Cvtpi2ps | M::Cvtpi2pd => true,
        // They depend on MXCSR, though none of their operands may be a vector register.
        M::Cvtps2pi | M::Cvttps2pi | M::Cvtpd2pi | M::Cvttpd2pi => true,
        M::Mov => matches!(
            i.code(),
            C::Mov_AL_moffs8
                | C::Mov_AX_moffs16
                | C::Mov_EAX_moffs32
                | C::Mov_RAX_moffs64
                | C::Mov_moffs8_AL
                | C::Mov_moffs16_AX
                | C::Mov_moffs32_EAX
                | C::Mov_moffs64_RAX
        ),
        _ => false,
    }
}

/// The flags that the manual leaves undefined are on this host what the handler makes of them.
fn flags_agree(i: &Instruction, host: &Host) -> bool {
    i.rflags_undefined() == 0 || host.amd && super::undefined::agrees(i)
}

/// The operand is one that can be renamed.
fn operand(i: &Instruction, n: u32) -> bool {
    match i.op_kind(n) {
        OpKind::Register => {
            let r = i.op_register(n);
            r.is_gpr() || r.is_xmm() || r.is_ymm() || r.is_st() || r.is_mm()
        }
        OpKind::Memory => i.memory_size().size() > 0,
        OpKind::Immediate8 | OpKind::Immediate8_2nd | OpKind::Immediate16 | OpKind::Immediate32 | OpKind::Immediate64 => true,
        OpKind::Immediate8to16 | OpKind::Immediate8to32 | OpKind::Immediate8to64 | OpKind::Immediate32to64 => true,
        _ => false,
    }
}

/// Registers used beside the operands are at home in host registers of the same name.
fn implicit(i: &Instruction, info: &InstructionInfo) -> bool {
    let same_name = |r: Register| home(number(r)) == Some(number(r));
    let same = |a: Register, b: Register| a.full_register() == b.full_register();
    let listed = |r: Register| (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && same(i.op_register(n), r));
    let addresses = |r: Register| same(i.memory_base(), r) || same(i.memory_index(), r);
    // A register of the address that is written besides (RCX by PCMPISTRI) would be renamed in one of the places only.
    let fits = |u: &UsedRegister| {
        let r = u.register();
        !r.is_gpr() || same_name(r) || listed(r) || only_read(u.access()) && addresses(r)
    };
    info.used_memory().len() <= memory_operands(i)
        && info.used_registers().iter().all(fits)
        && !info.used_registers().iter().any(|r| r.register().is_mm() || r.register().is_st())
}

/// The alignment that the memory operand must have, or 0.
pub fn alignment(i: &Instruction) -> usize {
    let size = i.memory_size().size();
    let legacy = i.encoding() == EncodingKind::Legacy;
    let vector = (0..i.op_count()).any(|n| i.op_register(n).is_xmm() || i.op_register(n).is_ymm());
    match i.mnemonic() {
        _ if !vector || size < 16 => 0,
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => 0,
        M::Pcmpestri | M::Pcmpestrm | M::Pcmpistri | M::Pcmpistrm => 0,
        M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovntps | M::Vmovntpd | M::Vmovntdq | M::Vmovntdqa => size,
        _ if legacy => size,
        _ => 0,
    }
}
