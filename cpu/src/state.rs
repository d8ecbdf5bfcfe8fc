//! What handlers see of the processor.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use softmetal_bus::{Attention, CpuBus, GuestMemory};

use crate::exec::smm::{SMBASE, Smm};
use crate::exec::xsave::{XCR0_AVX, XCR0_SSE};
use crate::fault::Reason;
use crate::flags::{self, Lazy};
use crate::mmu::Mmu;
use crate::op::{BLOCK_RIP, FLAT, FLAT_STACK, Op};
use crate::semantics::simd::{V128, V256};

/// Segment register numbers as instructions encode them.
#[allow(missing_docs, reason = "named as in the manual")]
pub mod seg {
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
}

/// General register numbers as instructions encode them.
#[allow(missing_docs, reason = "named as in the manual")]
pub mod reg {
    pub const RAX: u8 = 0;
    pub const RCX: u8 = 1;
    pub const RDX: u8 = 2;
    pub const RBX: u8 = 3;
    pub const RSP: u8 = 4;
    pub const RBP: u8 = 5;
    pub const RSI: u8 = 6;
    pub const RDI: u8 = 7;
}

/// Bits of control registers and EFER.
#[allow(missing_docs, reason = "named as in the manual")]
pub mod bits {
    pub const CR0_PE: u64 = 1 << 0;
    pub const CR0_MP: u64 = 1 << 1;
    pub const CR0_EM: u64 = 1 << 2;
    pub const CR0_TS: u64 = 1 << 3;
    pub const CR0_ET: u64 = 1 << 4;
    pub const CR0_NE: u64 = 1 << 5;
    pub const CR0_WP: u64 = 1 << 16;
    pub const CR0_AM: u64 = 1 << 18;
    pub const CR0_NW: u64 = 1 << 29;
    pub const CR0_CD: u64 = 1 << 30;
    pub const CR0_PG: u64 = 1 << 31;
    pub const CR4_VME: u64 = 1 << 0;
    pub const CR4_PVI: u64 = 1 << 1;
    pub const CR4_TSD: u64 = 1 << 2;
    pub const CR4_DE: u64 = 1 << 3;
    pub const CR4_PSE: u64 = 1 << 4;
    pub const CR4_PAE: u64 = 1 << 5;
    pub const CR4_MCE: u64 = 1 << 6;
    pub const CR4_PGE: u64 = 1 << 7;
    pub const CR4_PCE: u64 = 1 << 8;
    pub const CR4_OSFXSR: u64 = 1 << 9;
    pub const CR4_OSXMMEXCPT: u64 = 1 << 10;
    pub const CR4_UMIP: u64 = 1 << 11;
    pub const CR4_LA57: u64 = 1 << 12;
    pub const CR4_FSGSBASE: u64 = 1 << 16;
    pub const CR4_PCIDE: u64 = 1 << 17;
    pub const CR4_OSXSAVE: u64 = 1 << 18;
    pub const CR4_SMEP: u64 = 1 << 20;
    pub const CR4_SMAP: u64 = 1 << 21;
    pub const CR4_PKE: u64 = 1 << 22;
    pub const EFER_SCE: u64 = 1 << 0;
    pub const EFER_LME: u64 = 1 << 8;
    pub const EFER_LMA: u64 = 1 << 10;
    pub const EFER_NXE: u64 = 1 << 11;
}

/// A segment register with its hidden part (SDM 3A, 3.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Visible selector.
    pub selector: u16,
    /// Attributes: descriptor bits 40..47 (type, S, DPL, P) in bits 0..7, bits 52..55 (AVL, L, D/B, G) in bits 12..15;
    /// 0 is an unusable (null) segment.
    pub attributes: u16,
    /// Last valid offset (for expand-down segments: the last invalid one), in bytes.
    pub limit: u32,
    /// Linear address of offset 0.
    pub base: u64,
}

impl Segment {
    /// A real-mode data segment.
    #[must_use]
    pub const fn real(selector: u16) -> Self {
        Self { selector, attributes: 0x93, limit: 0xffff, base: (selector as u64) << 4 }
    }
    /// From a selector and its 8-byte descriptor.
    #[must_use]
    pub const fn from_descriptor(selector: u16, d: u64) -> Self {
        let raw = (d & 0xffff) | (d >> 32 & 0xf_0000);
        let limit = if d >> 55 & 1 != 0 { raw << 12 | 0xfff } else { raw };
        let base = (d >> 16 & 0xff_ffff) | (d >> 32 & 0xff00_0000);
        Self { selector, attributes: (d >> 40 & 0xf0ff) as u16, limit: limit as u32, base }
    }
    /// Present.
    #[must_use]
    pub const fn present(&self) -> bool {
        self.attributes & 0x80 != 0
    }
    /// Descriptor privilege level.
    #[must_use]
    pub const fn dpl(&self) -> u8 {
        (self.attributes >> 5 & 3) as u8
    }
    /// Code or data (S set), not a system segment.
    #[must_use]
    pub const fn code_or_data(&self) -> bool {
        self.attributes & 0x10 != 0
    }
    /// A code segment.
    #[must_use]
    pub const fn code(&self) -> bool {
        self.attributes & 0x18 == 0x18
    }
    /// Conforming code, or expand-down data.
    #[must_use]
    pub const fn conforming(&self) -> bool {
        self.attributes & 4 != 0
    }
    /// Readable code, or writable data.
    #[must_use]
    pub const fn readable_or_writable(&self) -> bool {
        self.attributes & 2 != 0
    }
    /// L: 64-bit code.
    #[must_use]
    pub const fn long(&self) -> bool {
        self.attributes & 0x2000 != 0
    }
    /// D/B: 32-bit.
    #[must_use]
    pub const fn big(&self) -> bool {
        self.attributes & 0x4000 != 0
    }
    /// A present data segment that is writable and all of 4 GiB from linear address 0 on.
    #[inline(always)]
    #[must_use]
    pub const fn is_all(&self) -> bool {
        // Present, code or data, not code, not expand-down, writable.
        self.attributes & 0x9e == 0x92 && self.limit == u32::MAX && self.base == 0
    }
    /// Its type permits loads, or with `write` stores, in protected mode or else.
    #[must_use]
    pub const fn permits(&self, protected: bool, write: bool) -> bool {
        !protected
            || self.present()
                && if write { !self.code() && self.readable_or_writable() } else { !self.code() || self.readable_or_writable() }
    }
    /// Its limit alone decides which offsets loads, or with `write` stores, may reach: it is the highest one.
    #[must_use]
    pub const fn is_plain(&self, protected: bool, write: bool) -> bool {
        self.permits(protected, write) && !self.expands_down()
    }
    const fn expands_down(&self) -> bool {
        self.code_or_data() && !self.code() && self.conforming()
    }
    /// The limit allows `bytes` bytes from offset `ea` on.
    #[must_use]
    pub const fn admits(&self, ea: u64, bytes: usize) -> bool {
        let last = ea.wrapping_add(bytes as u64 - 1);
        if self.expands_down() {
            let top = if self.big() { 0xffff_ffff } else { 0xffff };
            ea > self.limit as u64 && last <= top && last >= ea
        } else {
            last <= self.limit as u64 && last >= ea
        }
    }
    /// The low four type bits.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        (self.attributes & 0xf) as u8
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRegister {
    /// Linear address.
    pub base: u64,
    /// Last valid byte.
    pub limit: u16,
}

/// What of the mode decides how bytes are decoded and lowered, and what may be fetched: part of a block's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mode(pub u16);

impl Mode {
    /// Code size 16.
    pub const CODE_16: u16 = 0;
    /// Code size 32.
    pub const CODE_32: u16 = 1;
    /// 64-bit mode.
    pub const CODE_64: u16 = 2;
    const STACK_32: u16 = 1 << 2;
    /// See [`Mode::protected`].
    pub const PROTECTED: u16 = 1 << 3;
    const V86: u16 = 1 << 4;
    const USER: u16 = 1 << 5;
    const LIMITED: u16 = 1 << 6;
    /// See [`Mode::sse`].
    pub const SSE: u16 = 1 << 7;
    /// See [`Mode::avx`].
    pub const AVX: u16 = 1 << 8;
    const FLAT: u16 = 1 << 9;
    const SMM: u16 = 1 << 10;

    /// Code size in bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        16 << (self.0 & 3)
    }
    /// 64-bit mode.
    #[must_use]
    pub const fn long(self) -> bool {
        self.0 & 3 == Self::CODE_64
    }
    /// Stack pointer size in bits.
    #[must_use]
    pub const fn stack_bits(self) -> u32 {
        if self.long() {
            64
        } else if self.0 & Self::STACK_32 != 0 {
            32
        } else {
            16
        }
    }
    /// CR0.PE is set and EFLAGS.VM clear.
    #[must_use]
    pub const fn protected(self) -> bool {
        self.0 & Self::PROTECTED != 0
    }
    /// Virtual-8086 mode.
    #[must_use]
    pub const fn v86(self) -> bool {
        self.0 & Self::V86 != 0
    }
    /// CPL 3.
    #[must_use]
    pub const fn user(self) -> bool {
        self.0 & Self::USER != 0
    }
    /// The code segment is not all of the linear addresses from 0 on: RIP alone does not say where code is, or the limit must be
    /// checked at each fetch.
    #[must_use]
    pub const fn limited(self) -> bool {
        self.0 & Self::LIMITED != 0
    }
    /// Instructions with XMM registers do not fault as such: CR0.EM and CR0.TS are clear and CR4.OSFXSR is set.
    #[must_use]
    pub const fn sse(self) -> bool {
        self.0 & Self::SSE != 0
    }
    /// VEX-encoded instructions with vector registers do not fault as such: protected mode, CR4.OSXSAVE is set, XCR0 has
    /// SSE and AVX, and CR0.TS is clear.
    #[must_use]
    pub const fn avx(self) -> bool {
        self.0 & Self::AVX != 0
    }
    /// DS and SS are all of the linear addresses from 0 on, writable; outside of 64-bit mode only.
    #[must_use]
    pub const fn flat(self) -> bool {
        self.0 & Self::FLAT != 0
    }
    /// An instruction pointer may wrap at 64 KiB, or code lie at another linear address than its offset, or beyond a limit.
    #[must_use]
    pub const fn bounded(self) -> bool {
        self.limited() || self.0 & 3 == Self::CODE_16
    }
}

/// The vector registers: YMM0 to YMM15, whose lower halves are XMM0 to XMM15.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C, align(64))]
pub struct Ymm(pub [V256; 16]);

/// The architectural state. Plain data: saved, loaded and hashed as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[repr(C)]
pub struct State {
    /// General registers 0..15; [`crate::op::BLOCK_RIP`] and [`crate::op::ZERO`] are the interpreter's own.
    pub regs: [u64; 32],
    /// The next instruction; valid between blocks.
    pub rip: u64,
    /// Arithmetic flags.
    pub lazy: Lazy,
    /// All other flags, in their EFLAGS positions (bit 1 included).
    pub eflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [Segment; 6],
    /// Bases for address generation: the six segments', then 0 for [`FLAT`] and [`FLAT_STACK`]. In 64-bit mode only those
    /// of FS and GS count, which is seen to by lowering.
    pub bases: [u64; 8],
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
    /// GDTR.
    pub gdtr: TableRegister,
    /// IDTR.
    pub idtr: TableRegister,
    /// Current privilege level.
    pub cpl: u8,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// The entries of the page-directory-pointer table of PAE paging, as they were when the processor last loaded them
    /// (SDM 3A, 4.4.1).
    pub directory_pointers: [u64; 4],
    /// IA32_EFER.
    pub efer: u64,
    /// XCR0.
    pub xcr0: u64,
    /// PKRU: two bits a protection key.
    pub pkru: u32,
    /// DR0..DR7 (4 and 5 unused).
    pub dr: [u64; 8],
    /// YMM registers.
    pub ymm: Ymm,
    /// MXCSR.
    pub mxcsr: u32,
    /// x87 and MMX.
    pub fpu: crate::semantics::x87::Fpu,
    /// Model-specific registers.
    pub msr: crate::exec::msr::Msrs,
    /// Retired instructions (see the project's ARCHITECTURE.md for what counts as one).
    pub icount: u64,
    /// In HLT or MWAIT.
    pub halted: bool,
    /// What MONITOR watches.
    pub monitor: crate::exec::wait::Monitor,
    /// Interrupts are held off for one instruction (after STI, MOV SS, POP SS).
    pub shadow: bool,
    /// Debug exceptions too are held off for one instruction (after MOV SS, POP SS).
    pub debug_shadow: bool,
    /// Bits of DR6 of the #DB trap that comes before the next instruction.
    pub pending_debug: u64,
    /// FERR# is asserted.
    pub float_error: bool,
    /// NMIs are blocked until IRET.
    pub nmi_blocked: bool,
    /// System management mode.
    pub smm: crate::exec::smm::Smm,
    /// Derived from the above by [`Cpu::update_mode`].
    pub mode: Mode,
}

/// The processor as handlers see it: the architectural state, the way to memory and the board, and scratch.
#[repr(C)]
pub struct Cpu {
    // configuration
    /// What CPUID tells.
    pub model: crate::exec::cpuid::Model,
    // glue
    /// RAM.
    pub memory: Arc<GuestMemory>,
    /// The board.
    pub bus: Box<dyn CpuBus>,
    /// The board's way to call.
    pub attention: Arc<Attention>,
    /// Translations.
    pub mmu: Mmu,
    /// What translated code works with.
    pub jit: crate::translator::Context,
    // volatile state
    /// Architectural state; right behind what translated code works with, which reaches the general registers from there.
    pub state: State,
    /// Why the last operation failed.
    pub fault: Reason,
    /// The last operation of an exit.
    pub exit_ordinal: u16,
    /// `icount` of the running block's operation 0.
    pub block_icount: u64,
    /// The one instruction now running is alone: device and code accesses go through.
    pub solo: bool,
    /// How many more iterations a repeated string instruction may retire in this run, beyond its first (exact stop).
    pub repeat_budget: u64,
    /// Iterations retired by repeated instructions beyond one each; the run loop adds it to the count.
    pub repeat_extra: u64,
    /// Bits of DR6 of the data and I/O breakpoints that the running instruction meets.
    pub watch_hits: u64,
    /// The running instruction has entered a handler with TF cleared: its own single step does not come.
    pub untraced: bool,
    /// The time may have moved otherwise than with the instruction count: what is known of it must be learnt anew.
    pub time_moved: bool,
    /// How many instructions that are not implemented were met.
    pub told: u32,
}

impl Cpu {
    /// The instruction count before `op`: the time stamp of its device accesses.
    #[inline]
    #[must_use]
    pub fn now(&self, op: &Op) -> u64 {
        self.block_icount.wrapping_add(u64::from(op.ordinal)).wrapping_add(self.repeat_extra)
    }
    /// Cuts an instruction pointer to the code size.
    #[inline(always)]
    #[must_use]
    pub fn cut_ip(&self, ip: u64) -> u64 {
        match self.state.mode.0 & 3 {
            Mode::CODE_64 => ip,
            Mode::CODE_32 => ip & 0xffff_ffff,
            _ => ip & 0xffff_ffff,
        }
    }
    /// Address of `op` (RIP as a fault pushes it).
    #[inline]
    #[must_use]
    pub fn this_rip(&self, op: &Op) -> u64 {
        self.cut_ip(self.state.regs[usize::from(BLOCK_RIP)].wrapping_add(u64::from(op.offset)))
    }
    /// Address of the instruction after `op`.
    #[inline]
    #[must_use]
    pub fn next_rip(&self, op: &Op) -> u64 {
        self.cut_ip(self.state.regs[usize::from(BLOCK_RIP)].wrapping_add(op.end()))
    }
    /// EFLAGS as PUSHF would store it.
    #[must_use]
    pub fn eflags(&self) -> u64 {
        self.state.eflags | self.state.lazy.bits() | 2
    }
    /// Sets all of EFLAGS; the caller has merged what may not change. Updates the mode (VM).
    pub fn set_eflags(&mut self, v: u64) {
        self.state.lazy.set_bits(v);
        let new = v & !flags::ARITHMETIC | 2;
        let changed = std::mem::replace(&mut self.state.eflags, new) ^ new;
        if changed & flags::VM != 0 {
            self.update_mode();
        } else if changed & flags::AC != 0 {
            self.select_rights();
        }
    }
    /// Loads a segment register's hidden part as it is; no checks. CS and SS change the mode; CPL is the caller's.
    pub fn set_segment(&mut self, n: usize, s: Segment) {
        self.state.segments[n] = s;
        self.state.bases[n] = s.base;
        self.update_mode();
    }
    /// Sets the base of FS or GS alone.
    pub fn set_base(&mut self, n: usize, base: u64) {
        self.state.segments[n].base = base;
        self.state.bases[n] = base;
    }
    /// Protected mode (CR0.PE), virtual-8086 included.
    #[must_use]
    pub fn pe(&self) -> bool {
        self.state.cr0 & bits::CR0_PE != 0
    }
    /// IA-32e mode is active (64-bit or compatibility).
    #[must_use]
    pub fn lma(&self) -> bool {
        self.state.efer & bits::EFER_LMA != 0
    }
    /// Recomputes [`State::mode`] after a change of CS, SS, CPL, CR0, CR4, XCR0, EFER or EFLAGS.VM, or of
    /// system management mode.
    pub fn update_mode(&mut self) {
        let avx = self.avx_enabled();
        let s = &mut self.state;
        let v86 = s.eflags & flags::VM != 0 && s.cr0 & bits::CR0_PE != 0;
        let cs = s.segments[seg::CS];
        let mut m = if s.cr0 & bits::CR0_PE == 0 || v86 {
            if cs.big() && !v86 { Mode::CODE_32 } else { Mode::CODE_16 }
        } else if s.efer & bits::EFER_LMA != 0 && cs.long() {
            Mode::CODE_64
        } else if cs.big() {
            Mode::CODE_32
        } else {
            Mode::CODE_16
        };
        if s.segments[seg::SS].big() && !v86 {
            m |= Mode::STACK_32;
        }
        if s.cr0 & bits::CR0_PE != 0 && !v86 {
            m |= Mode::PROTECTED;
        }
        if v86 {
            m |= Mode::V86;
            s.cpl = 3;
        }
        if s.cpl == 3 {
            m |= Mode::USER;
        }
        if m & 3 != Mode::CODE_64 && (cs.base != 0 || cs.limit != u32::MAX) {
            m |= Mode::LIMITED;
        }
        if m & 3 != Mode::CODE_64 && s.segments[seg::DS].is_all() && s.segments[seg::SS].is_all() {
            m |= Mode::FLAT;
        }
        if s.cr0 & (bits::CR0_EM | bits::CR0_TS) == 0 && s.cr4 & bits::CR4_OSFXSR != 0 {
            m |= Mode::SSE;
        }
        if m & Mode::PROTECTED != 0 && s.cr0 & bits::CR0_TS == 0 && avx {
            m |= Mode::AVX;
        }
        // Other memory may answer at the same physical address.
        if s.smm.active {
            m |= Mode::SMM;
        }
        s.mode = Mode(m);
        s.bases[usize::from(FLAT)] = 0;
        s.bases[usize::from(FLAT_STACK)] = 0;
        if !s.mode.long() {
            self.jit.learn(&self.state);
        }
        self.select_rights();
    }
    /// The system has enabled AVX: CR4.OSXSAVE is set and XCR0 has SSE and AVX.
    #[must_use]
    pub fn avx_enabled(&self) -> bool {
        const AVX: u64 = XCR0_SSE | XCR0_AVX;
        self.state.cr4 & bits::CR4_OSXSAVE != 0 && self.state.xcr0 & AVX == AVX
    }
    /// IOPL.
    #[must_use]
    pub fn iopl(&self) -> u8 {
        (self.state.eflags >> 12 & 3) as u8
    }
}

impl State {
    /// An XMM register (`r` below 16).
    #[must_use]
    pub fn xmm(&self, r: usize) -> V128 {
        self.ymm.0[r].resized()
    }
    /// Writes an XMM register (`r` below 16); the upper half of its YMM register stays.
    pub fn set_xmm(&mut self, r: usize, v: V128) {
        self.ymm.0[r].0[..16].copy_from_slice(&v.0);
    }
    /// The state after power-on or RESET (SDM 3A, table 9-1).
    #[must_use]
    pub fn power_on(model: &crate::exec::cpuid::Model) -> Self {
        let mut segments = [Segment::real(0); 6];
        segments[seg::CS] = Segment { selector: 0xf000, attributes: 0x9b, limit: 0xffff, base: 0xffff_0000 };
        let system = |kind: u16| Segment { selector: 0, attributes: 0x80 | kind, limit: 0xffff, base: 0 };
        let mut bases = [0; 8];
        bases[seg::CS] = 0xffff_0000;
        let mut dr = [0; 8];
        dr[6] = 0xffff_0ff0;
        dr[7] = 0x400;
        let mut regs = [0; 32];
        regs[usize::from(reg::RDX)] = model.signature().into();
        Self {
            regs,
            rip: 0xfff0,
            lazy: Lazy { zero: 1, sign: 1, carry: 0 },
            eflags: 2,
            segments,
            bases,
            ldtr: system(2),
            tr: system(0xb),
            gdtr: TableRegister { base: 0, limit: 0xffff },
            idtr: TableRegister { base: 0, limit: 0xffff },
            cpl: 0,
            cr0: bits::CR0_CD | bits::CR0_NW | bits::CR0_ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            directory_pointers: [0; 4],
            efer: 0,
            xcr0: 1,
            pkru: 0,
            dr,
            ymm: Ymm::default(),
            mxcsr: 0x1f80,
            fpu: crate::semantics::x87::Fpu::default(),
            msr: crate::exec::msr::Msrs::default(),
            icount: 0,
            halted: false,
            monitor: crate::exec::wait::Monitor::default(),
            shadow: false,
            debug_shadow: false,
            pending_debug: 0,
            float_error: false,
            nmi_blocked: false,
            smm: Smm::outside(SMBASE),
            mode: Mode(0),
        }
    }
}
