//! What may differ between processors, and why; each with its source.

use std::sync::LazyLock;

use iced_x86::{Code, Instruction, MemorySize, Mnemonic as M, OpKind, Register, RflagsBits};

use crate::case::{Case, Machine, Outcome, PAGE};
use crate::generate::{self, address};

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

/// What a host may make of an encoding that is none for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// AVX-512: mask registers in VEX encodings, and EVEX. Processors that have it also run some that the manual calls #UD.
    Avx512,
    /// LOCK MOV CR0 is MOV CR8 with AMD (APM 3, MOV CRn).
    Cr8Legacy,
    /// LOCK SLDT and its like are emulated by Linux where UMIP makes them fault, whatever the prefix.
    Umip,
}

/// What an encoding that iced does not know might be to a host.
#[must_use]
pub fn beyond(i: &Instruction, bits: u32, bytes: &[u8]) -> Option<Beyond> {
    if !i.is_invalid() {
        return None;
    }
    let prefix = |b: &u8| matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3) || bits == 64 && b & 0xf0 == 0x40;
    let locked = bytes.iter().take_while(|b| prefix(b)).any(|b| *b == 0xf0);
    let opcode = &bytes[bytes.iter().take_while(|b| prefix(b)).count()..];
    match *opcode {
        [0x0f, 0x20 | 0x22, ..] if locked => Some(Beyond::Cr8Legacy),
        [0x0f, 0 | 1, ..] if locked => Some(Beyond::Umip),
        [0x62, next, ..] if bits == 64 || next >= 0xc0 => Some(Beyond::Avx512),
        [0xc5, _, 0x41..=0x4b | 0x90..=0x93 | 0x98 | 0x99, ..] => Some(Beyond::Avx512),
        [0xc4, map, _, 0x41..=0x4b | 0x90..=0x93 | 0x98 | 0x99, ..] if map & 0x1f == 1 => Some(Beyond::Avx512),
        [0xc4, map, _, 0x30..=0x33, ..] if map & 0x1f == 3 => Some(Beyond::Avx512),
        _ => None,
    }
}

/// Near branches with prefixes that manufacturers understand differently. A 66 prefix in 64-bit mode: Intel's processors
/// ignore it, AMD's cut RIP to 16 bits (SDM 2, CALL: "operand size is forced to 64 bits"; APM 3, 1.2.3).
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

/// Whether the judge is AMD's.
fn host_is_amd() -> bool {
    static AMD: LazyLock<bool> = LazyLock::new(|| std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("AuthenticAMD")));
    *AMD
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

/// A case and what both processors made of it, as the rows of [`ROWS`] look at it.
pub struct Seen<'a> {
    i: &'a Instruction,
    m: M,
    case: &'a Case,
    host: &'a Outcome,
    guest: &'a Outcome,
    /// Where the memory operand is, as an offset in the region.
    operand: Option<u64>,
    /// Its size in bytes.
    size: u64,
}

impl<'a> Seen<'a> {
    /// Brings together what belongs to one case.
    #[must_use]
    pub fn new(i: &'a Instruction, case: &'a Case, host: &'a Outcome, guest: &'a Outcome) -> Self {
        let operand = (0..i.op_count()).find(|n| i.op_kind(*n) == OpKind::Memory).and_then(|n| address(case, i, n));
        Self { i, m: i.mnemonic(), case, host, guest, operand, size: i.memory_size().size() as u64 }
    }

    /// The vectors: the host's, the guest's.
    fn vectors(&self) -> (u32, u32) {
        (self.host.vector, self.guest.vector)
    }

    /// Both vectors are among these.
    fn both(&self, vectors: &[u32]) -> bool {
        vectors.contains(&self.host.vector) && vectors.contains(&self.guest.vector)
    }

    /// Neither came to the INT3 behind the code.
    fn faulted(&self) -> bool {
        self.host.vector != 3 && self.guest.vector != 3
    }

    /// The instruction itself was completed.
    fn completed(&self) -> bool {
        self.host.vector == 3 || self.host.end.rip != self.case.start.rip
    }

    fn is(&self, mnemonics: &[M]) -> bool {
        mnemonics.contains(&self.m)
    }

    /// The memory operand reaches into a second page.
    fn crosses(&self) -> bool {
        self.operand.is_some_and(|at| at % PAGE + self.size > PAGE)
    }

    /// The memory operand is one of these.
    fn memory_is(&self, sizes: &[MemorySize]) -> bool {
        sizes.contains(&self.i.memory_size())
    }

    /// Where the stack ends, as an offset in the region.
    fn stack_top(&self, state: &Machine) -> u64 {
        (state.gpr[4] & if self.case.bits == 16 { 0xffff } else { u64::MAX }).wrapping_sub(self.case.code_base())
    }

    fn uses_mmx(&self) -> bool {
        (0..self.i.op_count()).any(|n| self.i.op_kind(n) == OpKind::Register && self.i.op_register(n).is_mm())
    }

    /// The x87 pointers that the host shows are 0, and no exception is pending.
    fn pointers_hidden(&self) -> bool {
        self.host.end.x87[2] & 0x80 == 0 && self.host.end.x87[8..24].iter().all(|b| *b == 0)
    }

    /// The number of operand 0, a general register.
    fn destination(&self) -> usize {
        self.i.op0_register().number()
    }
}

/// One thing that manufacturers do differently, or that the manual leaves open.
pub struct Row {
    /// What, with its source.
    pub what: &'static str,
    /// Whether a case is one of those.
    applies: fn(&Seen) -> bool,
    /// What is not compared then.
    ignore: fn(&Seen, &mut Ignored),
}

const IMAGES: [MemorySize; 6] = [
    MemorySize::FpuEnv14,
    MemorySize::FpuEnv28,
    MemorySize::FpuState94,
    MemorySize::FpuState108,
    MemorySize::Fxsave_512Byte,
    MemorySize::Fxsave64_512Byte,
];
const ESTIMATES: [M; 8] = [M::Rcpps, M::Rcpss, M::Rsqrtps, M::Rsqrtss, M::Vrcpps, M::Vrcpss, M::Vrsqrtps, M::Vrsqrtss];
const TRANSCENDENTAL: [M; 8] = [M::Fsin, M::Fcos, M::Fsincos, M::Fptan, M::Fpatan, M::F2xm1, M::Fyl2x, M::Fyl2xp1];
const MASKED_BYTES: [M; 3] = [M::Maskmovq, M::Maskmovdqu, M::Vmaskmovdqu];
const MASKED_LANES: [M; 4] = [M::Vmaskmovps, M::Vmaskmovpd, M::Vpmaskmovd, M::Vpmaskmovq];
const SHA: [M; 7] = [M::Sha1msg1, M::Sha1msg2, M::Sha1nexte, M::Sha1rnds4, M::Sha256msg1, M::Sha256msg2, M::Sha256rnds2];
const RETURNS: [M; 4] = [M::Iret, M::Iretd, M::Iretq, M::Retf];

/// All that may differ. How often each row was needed is in the session's report: one that never is has no place here.
pub const ROWS: &[Row] = &[
    // Results.
    Row {
        // AMD's condition codes are the guest's: translated code for AMD's processors uses the host's x87 unit.
        what: "flags and condition codes that the manual leaves undefined (SDM 1, A.1; SDM 1, 8.1.3)",
        applies: |s| s.completed() && s.i.rflags_undefined() != 0,
        ignore: |s, x| {
            let undefined = s.i.rflags_undefined();
            x.flags |= flags(undefined);
            for (bit, status) in [(RflagsBits::C0, 8), (RflagsBits::C1, 9), (RflagsBits::C2, 10), (RflagsBits::C3, 14)] {
                x.status |= if undefined & bit != 0 && !host_is_amd() { 1 << status } else { 0 };
            }
        },
    },
    Row {
        what: "transcendental functions are exact to 1 ulp, and their exceptions follow the result (SDM 1, 8.3.10; APM 1, 6.4.5)",
        applies: |s| s.completed() && s.is(&TRANSCENDENTAL),
        ignore: |s, x| {
            x.st = true;
            x.status |= if s.m == M::Fyl2xp1 { 0x23f } else { 0x232 };
            // An operand out of range may be invalid, and an unmasked exception keeps the result away.
            x.x87 = s.case.start.x87[0] & 0x3f != 0x3f;
        },
    },
    Row {
        what: "approximate reciprocals have a relative error of at most 1.5 * 2^-12 (SDM 2, RCPPS, RSQRTPS)",
        applies: |s| s.completed() && s.is(&ESTIMATES) && s.i.op0_kind() == OpKind::Register,
        ignore: |s, x| x.vectors |= 1 << s.destination(),
    },
    Row {
        what: "C1 after a comparison is 0 with Intel, kept with AMD (SDM 2, FCOMI; APM 5, FCOMI)",
        applies: |s| {
            let cleared = s.case.start.x87[3] & 2 != 0 && s.host.end.x87[3] & 2 == 0;
            s.completed() && cleared && s.is(&[M::Fcomi, M::Fcomip, M::Fucomi, M::Fucomip])
        },
        ignore: |_, x| x.status |= 0x200,
    },
    Row {
        what: "the upper half of a 32-bit destination that BSF or BSR of 0 leaves alone (SDM 2, BSF: undefined)",
        applies: |s| s.completed() && s.is(&[M::Bsf, M::Bsr]) && s.host.end.flags & 0x40 != 0 && s.i.op0_register().size() == 4,
        ignore: |s, x| x.gpr[s.destination()] = !0 << 32,
    },
    Row {
        what: "BSWAP of 16 bits is undefined (SDM 2, BSWAP)",
        applies: |s| s.completed() && s.m == M::Bswap && s.i.op0_register().size() == 2,
        ignore: |s, x| x.gpr[s.destination()] = 0xffff,
    },
    Row {
        what: "a double shift of 16 bits by more than 16 is undefined (SDM 2, SHLD)",
        applies: |s| {
            let count = if s.i.op2_kind() == OpKind::Register { s.case.start.gpr[1] as u8 } else { s.i.immediate8() };
            s.completed() && s.is(&[M::Shld, M::Shrd]) && s.i.op_register(1).size() == 2 && count & 31 > 16
        },
        ignore: |s, x| {
            x.flags |= 0x8d5;
            match s.operand {
                Some(at) => x.memory = vec![(at, 2)],
                None => x.gpr[s.destination()] = 0xffff,
            }
        },
    },
    Row {
        what: "the upper half of a 32-bit register that CMPXCHG does not replace: cleared with Intel, kept with AMD (APM 3, CMPXCHG)",
        applies: |s| {
            let register = s.i.op0_kind() == OpKind::Register && s.i.op0_register().size() == 4;
            s.completed() && s.m == M::Cmpxchg && register && s.host.end.flags & 0x40 == 0
        },
        ignore: |s, x| x.gpr[s.destination()] = !0 << 32,
    },
    Row {
        what: "a selector is pushed as 16 bits, the rest of its slot kept, or cleared (SDM 2, PUSH)",
        applies: |s| s.completed() && s.m == M::Push && s.i.op0_register().is_segment_register(),
        ignore: |s, x| x.memory = vec![(s.stack_top(&s.host.end).wrapping_add(2), 6)],
    },
    Row {
        what: "a null selector makes the base of FS or GS 0 with Intel, keeps it with AMD (APM 2, 4.5.3)",
        applies: |s| {
            let loads = [Register::FS, Register::GS].contains(&s.i.op0_register()) || s.is(&[M::Lfs, M::Lgs]);
            s.completed() && loads && s.host.end.selectors[4..6].iter().any(|v| *v < 4)
        },
        ignore: |_, x| x.bases = true,
    },
    Row {
        what: "the limit of selector 0x7b, in which Linux tells programs the number of their processor",
        applies: |s| s.completed() && s.m == M::Lsl && s.guest.end.gpr[s.destination()] & 0xffff == 0,
        ignore: |s, x| x.gpr[s.destination()] = 0xffff,
    },
    // The x87's and MMX's state.
    Row {
        what: "the last x87 pointers are kept, or hidden while no exception is pending (APM 3, FXSAVE)",
        applies: |s| s.pointers_hidden(),
        ignore: |s, x| {
            x.pointers = true;
            let fields = match s.i.memory_size() {
                MemorySize::FpuEnv14 | MemorySize::FpuState94 => (6, 8),
                _ => (12, 16),
            };
            if s.is(&[M::Fnstenv, M::Fnsave]) {
                x.memory = s.operand.map(|at| vec![(at.wrapping_add(fields.0), fields.1)]).unwrap_or_default();
            }
        },
    },
    Row {
        what: "FXSAVE: the pointers as above, and MXCSR_MASK, whose bit 17 is AMD's (APM 1, 4.2.2)",
        applies: |s| s.completed() && s.is(&[M::Fxsave, M::Fxsave64]),
        ignore: |s, x| x.memory = s.operand.map(|at| vec![(at.wrapping_add(6), 18), (at.wrapping_add(28), 4)]).unwrap_or_default(),
    },
    Row {
        what: "CVTPI2PS enters the MMX state even with an operand in memory (SDM 2, CVTPI2PS), not with AMD (APM 5, CVTPI2PS)",
        applies: |s| s.m == M::Cvtpi2ps && s.operand.is_some(),
        ignore: |s, x| {
            x.x87 = true;
            // So a pending x87 exception may come first.
            x.everything = s.guest.vector == 16;
        },
    },
    Row {
        what: "an MMX instruction that faults may have entered the MMX state (SDM 3A, 12.2, names completed instructions only)",
        applies: |s| s.faulted() && s.uses_mmx(),
        ignore: |_, x| x.x87 = true,
    },
    Row {
        what: "DPPS, DPPD: unmasked exceptions of the products come before those of the sums (SDM 2, DPPD); AMD's report all",
        applies: |s| s.faulted() && s.is(&[M::Dppd, M::Dpps]),
        ignore: |_, x| x.mxcsr = 0x3f,
    },
    Row {
        what: "MXCSR bit 17, misaligned exception mask, is AMD's (APM 2, 11.3) and reserved with Intel (SDM 1, 10.2.3)",
        applies: |s| s.host.end.mxcsr & 1 << 17 != 0 && s.guest.vector == 13,
        ignore: |_, x| x.everything = true,
    },
    // Which of two faults.
    Row {
        what: "in which order the parts of a state image are reached (SDM 1, 8.1.10; SDM 1, 10.5.1)",
        applies: |s| s.faulted() && s.memory_is(&IMAGES),
        ignore: |s, x| {
            x.event = s.both(&[12, 13, 14, 17]);
            x.memory = s.operand.map(|at| vec![(at, s.size)]).unwrap_or_default();
        },
    },
    Row {
        what: "whether bytes of an FXSAVE image that are not used are reached (SDM 1, 10.5.1)",
        applies: |s| {
            let differ = s.host.vector != s.guest.vector || s.host.end.rip != s.guest.end.rip;
            differ && s.crosses() && s.is(&[M::Fxsave, M::Fxsave64, M::Fxrstor, M::Fxrstor64])
        },
        ignore: |_, x| x.everything = true,
    },
    Row {
        what: "whether bytes that a masked store leaves out are reached (SDM 2, MASKMOVQ: implementation dependent)",
        applies: |s| s.is(&MASKED_BYTES) && (s.host.vector == 14 || matches!(s.vectors(), (13 | 17, 3))),
        ignore: |s, x| {
            x.everything = s.host.end.rip == s.case.start.rip && s.guest.end.rip != s.case.start.rip;
            x.address = true;
        },
    },
    // Seen once in a million cases of all codes, on a virtual host, and not again in the same case.
    Row {
        what: "whether the rest of a selector's slot on the stack, where it is kept, is reached (SDM 2, PUSH)",
        applies: |s| {
            let rest = s.stack_top(&s.case.start) % PAGE;
            let push = s.m == M::Push && s.i.op0_register().is_segment_register();
            push && s.vectors() == (14, 3) && (1..=6).contains(&rest)
        },
        ignore: |_, x| x.everything = true,
    },
    Row {
        what: "whether the elements that a masked move leaves out are checked for alignment (SDM 2, VMASKMOV)",
        applies: |s| s.is(&MASKED_LANES) && [s.host.vector, s.guest.vector].contains(&17) && s.host.vector != s.guest.vector,
        ignore: |_, x| x.everything = true,
    },
    Row {
        what: "whether the SHA instructions want their operand aligned: exceptions of type 4 (SDM 2, SHA1MSG1), not with AMD",
        applies: |s| s.is(&SHA) && s.guest.vector == 13,
        ignore: |_, x| x.everything = true,
    },
    Row {
        what: "a misaligned vector beyond the limit of SS: #GP or #SS first (SDM 3A, table 7-2: one class)",
        applies: |s| s.size == 16 && s.case.bits != 64 && matches!(s.vectors(), (12, 13) | (13, 12)),
        ignore: |_, x| x.event = true,
    },
    Row {
        what: "an offset that is not canonical while its sum with the base of FS or GS is (SDM 1, 3.3.7.1; APM 2, 4.5.3)",
        applies: |s| {
            let based = [Register::FS, Register::GS].contains(&s.i.memory_segment());
            based && s.vectors() == (13, 14) && s.guest.address >> 47 == 0x1_ffff
        },
        ignore: |_, x| x.event = true,
    },
    Row {
        what: "an operand of ten bytes that is reached in two parts (SDM 3A, 9.1.1: no guarantee)",
        applies: |s| s.size == 10 && matches!(s.vectors(), (14, 12 | 13)),
        ignore: |_, x| x.event = true,
    },
    Row {
        what: "which operand of CMPS is read first (SDM 2, CMPS: says nothing)",
        applies: |s| s.faulted() && s.is(&[M::Cmpsb, M::Cmpsw, M::Cmpsd, M::Cmpsq]),
        ignore: |_, x| x.event = true,
    },
    Row {
        what: "a return's frame is read as a whole or by parts, and checked in an order of its own (SDM 2, IRET, RET)",
        applies: |s| s.faulted() && s.is(&RETURNS),
        ignore: |s, x| {
            let at_end = s.stack_top(&s.case.start) % PAGE > PAGE - 40;
            x.address = matches!(s.host.vector, 13 | 14);
            x.event = matches!(s.vectors(), (13, 12) | (12, 13)) || at_end || s.m == M::Retf && s.i.op_count() > 0;
        },
    },
    Row {
        what: "whether a call checks its target before its stack (SDM 2, CALL: says nothing)",
        applies: |s| s.m == M::Call && s.guest.vector == 13 && matches!(s.host.vector, 12 | 14 | 17),
        ignore: |_, x| x.event = true,
    },
    Row {
        what: "a far call may have written its frame when its target faults (SDM 3A, 7.5: faults restore what programs see but memory)",
        applies: |s| s.faulted() && (s.i.is_call_far() || s.i.is_call_far_indirect()),
        ignore: |s, x| x.memory = vec![(s.stack_top(&s.case.start).wrapping_sub(32), 32)],
    },
    Row {
        what: "how far a POPA that faults has come (SDM 2, POPA: says nothing)",
        applies: |s| s.faulted() && s.is(&[M::Popa, M::Popad]),
        ignore: |_, x| x.gpr = [!0; 16],
    },
    // Encodings.
    Row {
        what: "whether UD0 and UD1 have a ModRM byte (SDM 2, UD: implementation dependent)",
        applies: |s| s.faulted() && s.case.bytes().windows(2).any(|w| matches!(w, [0x0f, 0xb9 | 0xff])),
        ignore: |_, x| x.event = true,
    },
    Row {
        what: "whether the bytes behind an invalid opcode at a page's end are fetched (SDM 3A, table 7-2: fetch faults come first)",
        applies: |s| {
            let end = s.case.code_offset() % PAGE + u64::from(s.case.len) >= PAGE;
            s.i.is_invalid() && end && s.both(&[6, 14])
        },
        ignore: |_, x| x.event = true,
    },
    Row {
        what: "REX.B makes XCHG of PAUSE, or not (SDM 2, PAUSE; APM 3, PAUSE)",
        applies: |s| s.m == M::Pause && s.case.bits == 64 && s.case.bytes().iter().any(|b| b & 0xf1 == 0x41),
        ignore: |_, x| x.everything = true,
    },
    Row {
        what: "VEX.W where the manual wants one value (SDM 2, 2.3.10), which AMD ignores",
        applies: |s| s.i.is_invalid() && s.guest.vector == 6 && other_width(s.case).is_some_and(|i| !i.is_invalid()),
        ignore: |_, x| x.everything = true,
    },
    Row {
        what: "VEX.W of VPINSRD and VPEXTRD outside of 64-bit mode: ignored (SDM 2, PINSRD), #UD with AMD (APM 4, VPINSRD)",
        applies: |s| s.case.bits != 64 && s.is(&[M::Vpinsrd, M::Vpextrd]) && s.host.vector == 6,
        ignore: |_, x| x.everything = true,
    },
];

/// The instruction with the other VEX.W, if it has one.
fn other_width(case: &Case) -> Option<Instruction> {
    let mut bytes = case.bytes().to_vec();
    let vex = bytes.iter().take_while(|b| matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x67)).count();
    if bytes.get(vex) != Some(&0xc4) {
        return None;
    }
    *bytes.get_mut(vex + 2)? ^= 0x80;
    Some(generate::decode(case.bits, &bytes, case.start.rip))
}

/// The numbers of the rows that a case falls under.
#[must_use]
pub fn applying(seen: &Seen) -> Vec<usize> {
    (0..ROWS.len()).filter(|&n| (ROWS[n].applies)(seen)).collect()
}

/// What these rows leave open in a case.
#[must_use]
pub fn ignored(seen: &Seen, rows: &[usize]) -> Ignored {
    let mut ignored = Ignored::default();
    for &n in rows {
        (ROWS[n].ignore)(seen, &mut ignored);
    }
    ignored
}
