//! What may differ between processors, and why; each with its source.

use iced_x86::{Instruction, Mnemonic as M, OpKind, RflagsBits};

use crate::case::Case;

/// Instructions that are not compared at all, and why.
#[must_use]
pub fn excluded(i: &Instruction) -> Option<&'static str> {
    Some(match i.mnemonic() {
        M::Rdtsc | M::Rdtscp => "counts time",
        M::Rdrand | M::Rdseed => "random",
        M::Cpuid | M::Xgetbv | M::Rdpid => "tells which processor it is",
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => "Linux emulates them where UMIP makes them fault (its arch/x86/kernel/umip.c)",
        M::Syscall | M::Sysenter => "calls the host's system",
        M::Int if i.immediate8() == 0x80 => "calls the host's system",
        M::Xsave | M::Xsave64 | M::Xsaveopt | M::Xsaveopt64 | M::Xsavec | M::Xsavec64 | M::Xrstor | M::Xrstor64 => {
            "the components are those of the host's XCR0"
        }
        M::Rdpmc => "CR4.PCE is the host's",
        M::Xbegin | M::Xend | M::Xabort | M::Xtest => "transactions end when they like",
        M::Lsl | M::Lar | M::Verr | M::Verw if false => "",
        _ => return None,
    })
}

/// What is not compared in a case.
#[derive(Clone, Debug)]
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
    pub memory: Option<(u64, u64)>,
    /// Bases of FS and GS.
    pub bases: bool,
    /// The kind of exception.
    pub event: bool,
}

impl Default for Ignored {
    fn default() -> Self {
        Self {
            flags: 0,
            gpr: [0; 16],
            status: 0,
            st: false,
            pointers: false,
            vectors: 0,
            memory: None,
            bases: false,
            event: false,
        }
    }
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

/// What manufacturers leave open of an instruction that completes.
#[must_use]
pub fn ignored(i: &Instruction, case: &Case) -> Ignored {
    let _ = case;
    let mut ignored = Ignored { flags: flags(i.rflags_undefined()), ..Ignored::default() };
    let undefined = i.rflags_undefined();
    for (bit, status) in [(RflagsBits::C0, 8), (RflagsBits::C1, 9), (RflagsBits::C2, 10), (RflagsBits::C3, 14)] {
        if undefined & bit != 0 {
            ignored.status |= 1 << status;
        }
    }
    match i.mnemonic() {
        // SDM 1, 8.3.10: within 1 ulp; APM 1, 6.4.5.
        M::Fsin | M::Fcos | M::Fsincos | M::Fptan | M::Fpatan | M::F2xm1 | M::Fyl2x | M::Fyl2xp1 => {
            ignored.st = true;
            ignored.status |= 0x222;
        }
        // SDM 2, RCPPS, RSQRTPS: a relative error of 1.5 * 2^-12.
        M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss | M::Vrcpps | M::Vrcpss | M::Vrsqrtps | M::Vrsqrtss => {
            if i.op0_kind() == OpKind::Register {
                ignored.vectors |= 1 << i.op0_register().number();
            }
        }
        _ => {}
    }
    ignored
}
