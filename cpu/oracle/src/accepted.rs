//! What may differ between processors, and why; each with its source.

use iced_x86::{Code, Instruction, MemorySize, Mnemonic as M, OpKind, Register, RflagsBits};

use crate::case::{Case, Outcome, PAGE};
use crate::generate::address;

/// Instructions that are not compared at all, and why.
#[must_use]
pub fn excluded(i: &Instruction) -> Option<&'static str> {
    Some(match i.mnemonic() {
        M::Rdtsc | M::Rdtscp => "counts time",
        M::Rdrand | M::Rdseed => "random",
        M::Cpuid | M::Xgetbv | M::Rdpid => "tells which processor it is",
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => "Linux emulates them where UMIP makes them fault",
        M::Syscall | M::Sysenter => "calls the host's system",
        M::Int if matches!(i.immediate8(), 0x80 | 3 | 4) => "calls the host's system, or is INT3 or INTO in disguise",
        M::Int1 => "a hypervisor may deliver it as a fault",
        M::Xsave | M::Xsave64 | M::Xsaveopt | M::Xsaveopt64 | M::Xsavec | M::Xsavec64 | M::Xrstor | M::Xrstor64 => {
            "the components are those of the host's XCR0"
        }
        M::Rdpmc => "CR4.PCE is the host's",
        M::Xbegin | M::Xend | M::Xabort | M::Xtest => "transactions end when they like",
        M::Rdpkru | M::Wrpkru => "CR4.PKE is the host's",
        M::Tpause | M::Umwait | M::Umonitor => "they wait, or tell how long the host lets them",
        M::Sysret | M::Sysretq | M::Sysexit | M::Sysexitq => {
            "outside of 64-bit mode, or at level 3, #UD or #GP (SDM 2, SYSRET; APM 3, SYSRET)"
        }
        // APM 3, CALL far, JMP far, LSS: no 64-bit offsets.
        _ if matches!(i.memory_size(), MemorySize::SegPtr64) => "AMD's processors have no far pointers with 64-bit offsets",
        _ => match i.code() {
            Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D | Code::Reservednop_rm64_r64_0F0D => {
                "#UD with AMD (APM 3, PREFETCH)"
            }
            Code::Movsxd_r16_rm16 => "reads 16 bits with Intel (SDM 2, MOVSXD), 32 with AMD",
            Code::Call_m1664 | Code::Jmp_m1664 | Code::Lss_r64_m1664 | Code::Lfs_r64_m1664 | Code::Lgs_r64_m1664 => {
                "AMD's processors have no far pointers with 64-bit offsets"
            }
            _ => return None,
        },
    })
}

/// Near branches with prefixes that manufacturers understand differently. A 66 prefix in 64-bit mode: Intel's processors ignore it, AMD's cut RIP to 16 bits
/// (SDM 2, CALL: "operand size is forced to 64 bits"; APM 3, 1.2.3).
#[must_use]
pub fn differing_branch(i: &Instruction, bits: u32, bytes: &[u8]) -> bool {
    let near = i.is_jmp_short_or_near()
        || i.is_jcc_short_or_near()
        || i.is_call_near()
        || i.is_jmp_near_indirect()
        || i.is_call_near_indirect()
        || i.is_loop()
        || i.is_loopcc()
        || i.is_jcx_short()
        || i.mnemonic() == M::Ret;
    // With a displacement of 16 bits it may fit into 15 bytes, which it does not with one of 32.
    let long = i.is_invalid() && bytes.iter().any(|b| matches!(b, 0xe8 | 0xe9 | 0x80..=0x8f));
    // Repeat prefixes with what is no string instruction are reserved (SDM 2, 2.1.1); AMD's let them choose LOOPE or LOOPNE.
    let repeated = i.is_loopcc() && bytes.iter().any(|b| matches!(b, 0xf2 | 0xf3));
    repeated || bits == 64 && (near || long) && bytes.contains(&0x66)
}

/// What is not compared in a case.
#[derive(Clone, Debug, Default)]
pub struct Ignored {
    /// Flags.
    pub flags: u64,
    /// Bits of general registers.
    pub gpr: [u64; 16],
    /// Bits of the x87 status word.
    pub status: u16,
    /// The contents of ST(0) and ST(1).
    pub st: bool,
    /// Last instruction and data pointers and opcode.
    pub pointers: bool,
    /// Vector registers, as bits.
    pub vectors: u16,
    /// Memory: from this offset in the region, so many bytes.
    pub memory: Vec<(u64, u64)>,
    /// Bases of FS and GS.
    pub bases: bool,
    /// The kind of exception.
    pub event: bool,
    /// Its error code and address.
    pub address: bool,
    /// The instruction pointer.
    pub rip: bool,
    /// The whole x87 state.
    pub x87: bool,
    /// Bits of MXCSR.
    pub mxcsr: u32,
    /// All.
    pub everything: bool,
}

/// RFLAGS bits of iced's.
fn flags(iced: u32) -> u64 {
    let pairs = [
        (RflagsBits::CF, 0),
        (RflagsBits::PF, 2),
        (RflagsBits::AF, 4),
        (RflagsBits::ZF, 6),
        (RflagsBits::SF, 7),
        (RflagsBits::DF, 10),
        (RflagsBits::OF, 11),
    ];
    pairs.iter().filter(|(f, _)| iced & f != 0).map(|(_, bit)| 1u64 << bit).sum()
}

/// The processor that Linux runs on lets the x87 pointers be 0 while no exception is pending (APM 3, FXSAVE).
fn pointers_hidden(host: &Outcome) -> bool {
    host.end.x87[2] & 0x80 == 0 && host.end.x87[8..24].iter().all(|b| *b == 0)
}

/// What manufacturers leave open in a case.
#[must_use]
pub fn ignored(i: &Instruction, case: &Case, host: &Outcome, guest: &Outcome) -> Ignored {
    let mut ignored = Ignored { pointers: pointers_hidden(host), ..Ignored::default() };
    let m = i.mnemonic();
    let operand = (0..i.op_count()).find(|n| i.op_kind(*n) == OpKind::Memory).and_then(|n| address(case, i, n));
    let size = i.memory_size().size() as u64;
    let image = matches!(
        i.memory_size(),
        MemorySize::FpuEnv14
            | MemorySize::FpuEnv28
            | MemorySize::FpuState94
            | MemorySize::FpuState108
            | MemorySize::Fxsave_512Byte
            | MemorySize::Fxsave64_512Byte
    );
    // Whether a masked store that stores nothing faults (SDM 2, MASKMOVQ), and whether bytes of an image that are not used
    // are reached (SDM 1, 10.5.1).
    let crosses = operand.is_some_and(|at| at % PAGE + size > PAGE);
    let unstored = matches!(m, M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu);
    // Whether the elements that a masked move leaves out are checked for alignment (SDM 2, VMASKMOV).
    let masked = matches!(m, M::Vmaskmovps | M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq) && (host.vector == 17 || guest.vector == 17);
    // What the host has beyond the guest (AVX-512's VEX forms), or counts as too long with such a prefix.
    let beyond = i.is_invalid() && case.bytes().iter().any(|b| matches!(b, 0xc4 | 0xc5 | 0x62 | 0x8f));
    // Linux emulates SLDT and its like even with LOCK.
    ignored.everything = i.is_invalid() && case.bytes().contains(&0xf0) && case.bytes().windows(2).any(|w| matches!(w, [0x0f, 0 | 1]));
    if (unstored || masked || beyond || crosses && matches!(m, M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64))
        && host.vector != guest.vector
    {
        ignored.everything = true;
    }
    // SDM 2, CVTPI2PS: a pending x87 exception comes first; with AMD and an operand in memory there is no MMX state to enter.
    if m == M::Cvtpi2ps && operand.is_some() && guest.vector == 16 {
        ignored.everything = true;
    }
    // A vector that is not aligned and beyond the limit of SS: #GP or #SS.
    if size == 16 && case.bits != 64 && matches!((host.vector, guest.vector), (12, 13) | (13, 12)) {
        ignored.event = true;
    }
    // REX.B makes XCHG of PAUSE, or not.
    if m == M::Pause && case.bits == 64 && case.bytes().iter().any(|b| matches!(b, 0x41 | 0x43 | 0x45 | 0x47 | 0x49 | 0x4b | 0x4d | 0x4f)) {
        ignored.everything = true;
    }
    let faulted = host.vector != 3 && guest.vector != 3;
    if faulted {
        // In which order the parts of an image are reached is not defined, nor which part faults first.
        if image {
            (ignored.event, ignored.memory) = (true, operand.map(|at| vec![(at, size)]).unwrap_or_default());
        }
        // AMD's processors write the frame of a far call before they check its target (APM 2, 8.2.14, says nothing of it).
        if m == M::Call && (i.is_call_far() || i.is_call_far_indirect()) {
            ignored.memory = vec![(stack_top(case).wrapping_sub(32), 32)];
        }
        // An offset that is not canonical while its sum with the base of FS or GS is; an operand of ten bytes, reached in two
        // parts; UD0 and UD1, which have a ModRM byte or not where the length is counted.
        let undefined = i.is_invalid() && case.bytes().windows(2).any(|w| matches!(w, [0x0f, 0xb9 | 0xff]));
        let halves = size == 10 && matches!((host.vector, guest.vector), (14, 12 | 13));
        ignored.event |= undefined || halves || host.vector == 13 && guest.vector == 14 && guest.address >> 47 == 0x1_ffff;
        // Which of the two operands of CMPS is read first; which byte of a masked store faults; whether an interrupted
        // POPA or a return shows how far it has come.
        match m {
            M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => ignored.event = true,
            M::Maskmovdqu | M::Vmaskmovdqu | M::Maskmovq => ignored.address = host.vector == 14,
            M::Iret | M::Iretd | M::Iretq | M::Retf => {
                ignored.address = host.vector == 14;
                ignored.address |= host.vector == 13;
                // The frame may be read as a whole, and in which order its parts are checked differs; with an immediate,
                // what lies beyond it as well.
                ignored.event = matches!((host.vector, guest.vector), (13, 12) | (12, 13))
                    || stack_top(case) % PAGE > PAGE - 40
                    || m == M::Retf && i.op_count() > 0;
            }
            // Whether the stack or the target is checked first.
            M::Call => ignored.event |= guest.vector == 13 && matches!(host.vector, 12 | 14 | 17),
            M::Popa | M::Popad => ignored.gpr = [!0; 16],
            // SDM 2, DPPD: the exceptions of the multiplications come first; AMD's report all.
            M::Dppd | M::Dpps => ignored.mxcsr = 0x3f,
            _ => {}
        }
        // An instruction with MMX registers that faults may have left the x87 state already.
        if (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_mm()) {
            ignored.x87 = true;
        }
        // An opcode that is none, at the end of a page: whether the next byte is fetched first.
        let end = case.code_offset() % PAGE + u64::from(case.len) >= PAGE;
        if (i.is_invalid() || matches!(m, M::Ud0 | M::Ud1)) && end && [host.vector, guest.vector].iter().all(|v| matches!(v, 6 | 14)) {
            ignored.event = true;
        }
    }
    // MXCSR.MM, misaligned vectors, is AMD's (APM 2, 11.3).
    ignored.everything |= host.end.mxcsr & 1 << 17 != 0;
    if host.vector != 3 && host.end.rip == case.start.rip && host.vector != 14 {
        return ignored;
    }
    let undefined = i.rflags_undefined();
    ignored.flags |= flags(undefined);
    for (bit, status) in [(RflagsBits::C0, 8), (RflagsBits::C1, 9), (RflagsBits::C2, 10), (RflagsBits::C3, 14)] {
        if undefined & bit != 0 {
            ignored.status |= 1 << status;
        }
    }
    match m {
        // SDM 1, 8.3.10: within 1 ulp; APM 1, 6.4.5. Precision exceptions follow the result.
        M::Fsin | M::Fcos | M::Fsincos | M::Fptan | M::Fpatan | M::F2xm1 | M::Fyl2x | M::Fyl2xp1 => {
            ignored.st = true;
            ignored.status |= 0x232;
            // An operand out of range may be invalid, and an unmasked exception keeps the result away.
            ignored.x87 = case.start.x87[0] & 0x3f != 0x3f;
            ignored.status |= if m == M::Fyl2xp1 { 0x3f } else { 0 };
        }
        // SDM 2, RCPPS, RSQRTPS: a relative error of 1.5 * 2^-12.
        M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss | M::Vrcpps | M::Vrcpss | M::Vrsqrtps | M::Vrsqrtss => {
            if i.op0_kind() == OpKind::Register {
                ignored.vectors |= 1 << i.op0_register().number();
            }
        }
        // SDM 2, BSF, BSR: with a source of 0 the destination is undefined; AMD's leave it. BSWAP of 16 bits is undefined.
        M::Bsf | M::Bsr if host.end.flags & 0x40 != 0 => {
            if i.op0_register().size() != 8 {
                ignored.gpr[i.op0_register().number()] = !0 << 32;
            }
        }
        M::Bswap if i.op0_register().size() == 2 => ignored.gpr[i.op0_register().number()] = 0xffff,
        // A count beyond 16 bits leaves result and flags undefined (SDM 2, SHLD).
        M::Shld | M::Shrd if i.op_register(1).size() == 2 => wide_count(i, case, &mut ignored, operand),
        // SDM 2, CVTPI2PS: becomes MMX state; AMD's do not with an operand in memory (APM 5, CVTPI2PS).
        M::Cvtpi2ps if operand.is_some() => ignored.x87 = true,
        // A register that CMPXCHG does not replace: its upper half is cleared with Intel, kept with AMD.
        M::Cmpxchg if i.op0_kind() == OpKind::Register && i.op0_register().size() == 4 && host.end.flags & 0x40 == 0 => {
            ignored.gpr[i.op0_register().number()] = !0 << 32;
        }
        // SDM 2, PUSH: a selector may be written as 16 bits, the rest of the slot is kept.
        M::Push if i.op0_register().is_segment_register() => {
            let top = (host.end.gpr[4] & if case.bits == 16 { 0xffff } else { u64::MAX }).wrapping_sub(case.code_base());
            ignored.memory = vec![(top.wrapping_add(2), 6)];
        }
        // MXCSR_MASK has bit 17 with AMD (APM 1, 4.2.2); the pointers are those of the register.
        M::Fxsave | M::Fxsave64 => {
            ignored.memory = operand.map(|at| vec![(at.wrapping_add(6), 18), (at.wrapping_add(28), 4)]).unwrap_or_default()
        }
        M::Fnstenv | M::Fnsave if ignored.pointers => {
            let fields = match i.memory_size() {
                MemorySize::FpuEnv14 | MemorySize::FpuState94 => (6, 8),
                _ => (12, 16),
            };
            ignored.memory = operand.map(|at| vec![(at.wrapping_add(fields.0), fields.1)]).unwrap_or_default();
        }
        _ => {}
    }
    // A null selector makes the base 0 with Intel and keeps it with AMD (APM 2, 4.5.3).
    if i.op0_register() == Register::FS || i.op0_register() == Register::GS || matches!(m, M::Lfs | M::Lgs) {
        ignored.bases = host.end.selectors[4] < 4 || host.end.selectors[5] < 4;
    }
    ignored
}

/// Where the stack ends, as an offset in the region.
fn stack_top(case: &Case) -> u64 {
    (case.start.gpr[4] & if case.bits == 16 { 0xffff } else { u64::MAX }).wrapping_sub(case.code_base())
}

fn wide_count(i: &Instruction, case: &Case, ignored: &mut Ignored, operand: Option<u64>) {
    let count = if i.op2_kind() == OpKind::Register { case.start.gpr[1] as u8 } else { i.immediate8() } & 31;
    if count > 16 {
        ignored.flags |= 0x8d5;
        match operand {
            Some(at) => ignored.memory = vec![(at, 2)],
            None => ignored.gpr[i.op0_register().number()] = 0xffff,
        }
    }
}
