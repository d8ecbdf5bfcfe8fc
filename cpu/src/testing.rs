//! A processor with RAM and nothing else, ready in one of its modes: for tests and benches of this and other crates.
//!
//! There is no IDT: an exception ends the run in [`Stop::Shutdown`], and [`Harness::exception`] tells which it was.

pub mod operands;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;
use softmetal_bus::{Attention, CpuBus, GuestMemory, PageKind, attention};

use crate::exec::cpuid::Model;
use crate::fault::Exception;
use crate::run::{Engine, Processor, Stop};
use crate::semantics::x87::Fpu;
use crate::state::{Segment, TableRegister, Ymm, bits, reg, seg};

/// Bytes of RAM of a [`Harness`].
pub const RAM: u64 = 16 << 20;
/// Where the code of a [`Harness`] begins (in real mode as well).
pub const CODE: u64 = 0x1_0000;
/// Where its stack begins, downwards.
pub const STACK: u64 = 0x8000;
/// Where its GDT is.
pub const GDT: u64 = 0x1000;
/// Where its 4-level page tables are: identity, 2 MiB pages, user and writable.
pub const TABLES: u64 = 0x10_0000;
/// Its descriptors: null, 64-bit code, data, 32-bit code, 32-bit user code, user data, 64-bit user code, 16-bit code, 16-bit data.
pub const DESCRIPTORS: [u64; 9] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_9b00_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0x0000_9b00_0000_ffff,
    0x0000_9300_0000_ffff,
];

/// What happened at the edge of a [`FlatBus`].
#[derive(Default)]
pub struct Edge {
    /// OUTs: (instruction count, port, width, value).
    pub outs: Vec<(u64, u16, usize, u32)>,
    /// What the next INs give; all ones when empty.
    pub ins: VecDeque<u32>,
    /// Vectors for the next interrupt acknowledges.
    pub vectors: VecDeque<u8>,
    /// CR8.
    pub task_priority: u8,
    /// Levels of FERR#, in order.
    pub float_errors: Vec<bool>,
    /// IGNNE#.
    pub ignore_float_errors: bool,
    /// The port each access to which raises an SMI.
    pub smi_port: Option<u16>,
}

/// A board with [`RAM`] bytes at 0 and no devices; the time-stamp counter is the instruction count.
pub struct FlatBus {
    edge: Arc<Mutex<Edge>>,
    attention: Arc<Attention>,
}

impl FlatBus {
    fn edge(&self) -> std::sync::MutexGuard<'_, Edge> {
        self.edge.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// An access to `port`.
    fn reached(&self, port: u16) -> std::sync::MutexGuard<'_, Edge> {
        let edge = self.edge();
        if edge.smi_port == Some(port) {
            self.attention.raise(attention::SMI);
        }
        edge
    }
}

impl CpuBus for FlatBus {
    fn page(&self, page: u64) -> PageKind {
        if page < RAM { PageKind::Memory { offset: page, writable: true } } else { PageKind::Device }
    }
    fn read(&mut self, _: u64, _: u64, _: usize) -> u64 {
        !0
    }
    fn write(&mut self, _: u64, _: u64, _: usize, _: u64) {}
    fn port_read(&mut self, _: u64, port: u16, _: usize) -> u32 {
        self.reached(port).ins.pop_front().unwrap_or(!0)
    }
    fn port_write(&mut self, at: u64, port: u16, width: usize, value: u32) {
        self.reached(port).outs.push((at, port, width, value));
    }
    fn acknowledge(&mut self, _: u64) -> Option<u8> {
        let mut edge = self.edge();
        let vector = edge.vectors.pop_front();
        self.attention.assign(attention::INTR, !edge.vectors.is_empty());
        vector
    }
    fn apic_msr_read(&mut self, _: u64, msr: u32) -> Option<u64> {
        (msr == 0x1b).then_some(0xfee0_0900)
    }
    fn apic_msr_write(&mut self, _: u64, _: u32, _: u64) -> bool {
        true
    }
    fn task_priority(&mut self) -> u8 {
        self.edge().task_priority
    }
    fn set_task_priority(&mut self, _: u64, value: u8) {
        self.edge().task_priority = value;
    }
    fn time_stamp(&mut self, at: u64) -> u64 {
        at
    }
    fn float_error(&mut self, _: u64, pending: bool) -> bool {
        let mut edge = self.edge();
        edge.float_errors.push(pending);
        edge.ignore_float_errors
    }
    fn random(&mut self, at: u64) -> u64 {
        at.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// What a run has come to: all of it must be the same whatever carries the instructions out.
#[derive(Debug, PartialEq)]
#[allow(missing_docs, reason = "named as the state that they are taken from")]
pub struct Outcome {
    pub stop: Stop,
    pub regs: [u64; 16],
    pub rip: u64,
    pub flags: u64,
    pub icount: u64,
    pub mxcsr: u32,
    pub ymm: Ymm,
    pub fpu: Fpu,
    pub exception: Option<(u64, Exception)>,
    /// A digest.
    pub memory: u64,
}

/// A processor on a [`FlatBus`].
pub struct Harness {
    /// The processor.
    pub p: Processor,
    /// The outside of its board.
    pub edge: Arc<Mutex<Edge>>,
    code_bits: u32,
}

impl Harness {
    fn new(model: Model, code_bits: u32) -> Self {
        let memory = Arc::new(GuestMemory::new(RAM).expect("16 MiB can be had"));
        let attention = Arc::new(Attention::default());
        let edge = Arc::new(Mutex::new(Edge::default()));
        let bus = FlatBus { edge: edge.clone(), attention: attention.clone() };
        let mut h = Self { p: Processor::new(memory, Box::new(bus), attention, model), edge, code_bits };
        for (i, d) in DESCRIPTORS.iter().enumerate() {
            h.set_u64(GDT + 8 * i as u64, *d);
        }
        h.set_reg(reg::RSP, STACK);
        h
    }

    fn enter(&mut self, code: u16, data: u16, protected: bool) {
        let s = &mut self.p.cpu.state;
        s.rip = CODE;
        for n in 0..6 {
            let selector = if n == seg::CS { code } else { data };
            let segment = if protected {
                Segment::from_descriptor(selector, DESCRIPTORS[usize::from(selector >> 3)])
            } else if n == seg::CS {
                s.rip = 0;
                Segment { attributes: 0x9b, ..Segment::real((CODE >> 4) as u16) }
            } else {
                Segment::real(selector)
            };
            s.segments[n] = segment;
            s.bases[n] = segment.base;
        }
        if protected {
            s.gdtr = TableRegister { base: GDT, limit: (8 * DESCRIPTORS.len() - 1) as u16 };
        }
        s.idtr = TableRegister::default();
        s.cr4 |= bits::CR4_OSFXSR | bits::CR4_OSXMMEXCPT;
        s.cr0 = bits::CR0_ET | bits::CR0_NE | bits::CR0_MP | if protected { bits::CR0_PE } else { 0 };
        self.p.cpu.update_mode();
    }

    /// In 64-bit mode at CPL 0, RAM identity-mapped.
    #[must_use]
    pub fn long() -> Self {
        let mut h = Self::new(Model::max(), 64);
        h.set_u64(TABLES, (TABLES + 0x1000) | 7);
        h.set_u64(TABLES + 0x1000, (TABLES + 0x2000) | 7);
        for i in 0..RAM >> 21 {
            h.set_u64(TABLES + 0x2000 + 8 * i, i << 21 | 0x87);
        }
        h.enter(0x08, 0x10, true);
        let s = &mut h.p.cpu.state;
        s.cr3 = TABLES;
        s.cr4 |= bits::CR4_PAE;
        s.efer = bits::EFER_LME | bits::EFER_LMA | bits::EFER_NXE | bits::EFER_SCE;
        s.cr0 |= bits::CR0_PG | bits::CR0_WP;
        let state = s.clone();
        h.p.load(state);
        h
    }

    /// In flat 32-bit protected mode at CPL 0, without paging.
    #[must_use]
    pub fn protected32() -> Self {
        let mut h = Self::new(Model::max(), 32);
        h.enter(0x18, 0x10, true);
        h
    }

    /// In 16-bit protected mode at CPL 0, without paging; CS begins at [`CODE`], the other segments at 0.
    #[must_use]
    pub fn protected16() -> Self {
        let mut h = Self::new(Model::max(), 16);
        h.enter(0x38, 0x40, true);
        let s = &mut h.p.cpu.state;
        (s.segments[seg::CS].base, s.bases[seg::CS], s.rip) = (CODE, CODE, 0);
        h.p.cpu.update_mode();
        h
    }

    /// In real mode; CS is [`CODE`] / 16, the other segments 0.
    #[must_use]
    pub fn real() -> Self {
        let mut h = Self::new(Model::max(), 16);
        h.enter(0, 0, false);
        h
    }

    /// Runs with `engine`; a translator translates all it can before it runs for the first time.
    ///
    /// # Panics
    /// If the host has no translator.
    #[must_use]
    pub fn on(mut self, engine: Engine) -> Self {
        self.p.set_engine(engine).expect("the host can translate");
        self.p.set_heat(0);
        self
    }

    /// Puts code where execution begins.
    #[must_use]
    pub fn code(mut self, bytes: &[u8]) -> Self {
        self.set_mem(CODE, bytes);
        self
    }

    /// Assembles code to where execution begins. Addresses in it are linear, so absolute ones need care in real mode.
    ///
    /// # Panics
    /// If it does not assemble.
    #[must_use]
    pub fn asm(self, f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Self {
        let bytes = self.assemble(CODE, f);
        self.code(&bytes)
    }

    /// Assembles code for address `at`.
    ///
    /// # Panics
    /// If it does not assemble.
    pub fn assemble(&self, at: u64, f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
        let mut a = CodeAssembler::new(self.code_bits).expect("16, 32 or 64 bits");
        f(&mut a).expect("the code assembles");
        a.assemble(at).expect("the code assembles")
    }

    /// Runs `n` instructions.
    pub fn run(&mut self, n: u64) -> Stop {
        let until = self.p.icount() + n;
        self.p.run(until)
    }

    /// Runs `n` instructions, at most `slice` in a go, which must not make a difference.
    pub fn run_in_slices(&mut self, n: u64, slice: u64) -> Stop {
        let mut left = n;
        loop {
            let now = left.min(slice);
            left -= now;
            let stop = self.run(now);
            if stop != Stop::Budget || left == 0 {
                return stop;
            }
        }
    }

    /// General register `r` (see [`reg`]).
    #[must_use]
    pub fn reg(&self, r: u8) -> u64 {
        self.p.cpu.state.regs[usize::from(r)]
    }

    /// With AVX enabled, as systems do.
    #[must_use]
    pub fn with_avx(mut self) -> Self {
        let s = &mut self.p.cpu.state;
        (s.cr4, s.xcr0) = (s.cr4 | bits::CR4_OSXSAVE, 7);
        self
    }

    /// Sets general register `r`.
    pub fn set_reg(&mut self, r: u8, v: u64) {
        self.p.cpu.state.regs[usize::from(r)] = v;
    }

    /// RFLAGS.
    #[must_use]
    pub fn flags(&self) -> u64 {
        self.p.cpu.eflags()
    }

    /// Copies physical memory out.
    ///
    /// # Panics
    /// Past [`RAM`].
    pub fn mem(&self, at: u64, buf: &mut [u8]) {
        self.p.cpu.memory.read(at, buf).expect("within RAM");
    }

    /// Copies into physical memory.
    ///
    /// # Panics
    /// Past [`RAM`].
    pub fn set_mem(&mut self, at: u64, bytes: &[u8]) {
        self.p.cpu.memory.write(at, bytes).expect("within RAM");
    }

    /// 8 bytes of physical memory.
    #[must_use]
    pub fn u64(&self, at: u64) -> u64 {
        let mut b = [0; 8];
        self.mem(at, &mut b);
        u64::from_le_bytes(b)
    }

    /// Sets 8 bytes of physical memory.
    pub fn set_u64(&mut self, at: u64, v: u64) {
        self.set_mem(at, &v.to_le_bytes());
    }

    /// The first exception that could not be delivered, with its RIP.
    #[must_use]
    pub fn exception(&self) -> Option<(u64, Exception)> {
        self.p.exception_chain().first().copied()
    }

    /// What the run that ended in `stop` has come to, and the digest of these parts of physical memory.
    ///
    /// # Panics
    /// Past [`RAM`].
    #[must_use]
    pub fn outcome(&self, stop: Stop, memory: impl IntoIterator<Item = Range<u64>>) -> Outcome {
        let digest = |digest: u64, at| (digest ^ self.u64(at)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        let s = &self.p.cpu.state;
        Outcome {
            stop,
            regs: std::array::from_fn(|r| s.regs[r]),
            rip: s.rip,
            flags: self.flags(),
            icount: s.icount,
            mxcsr: s.mxcsr,
            ymm: s.ymm,
            fpu: s.fpu.clone(),
            exception: self.exception(),
            memory: memory.into_iter().flat_map(|part| part.step_by(8)).fold(0, digest),
        }
    }

    /// Requests an external interrupt.
    pub fn interrupt(&mut self, vector: u8) {
        self.edge.lock().unwrap_or_else(std::sync::PoisonError::into_inner).vectors.push_back(vector);
        self.p.cpu.attention.raise(attention::INTR);
    }
}
