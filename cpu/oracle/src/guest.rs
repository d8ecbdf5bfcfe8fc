//! Runs cases on Softmetal's processor, set up as Linux sets up the host's: 64-bit kernel, privilege level 3.
//!
//! Every vector has a gate whose handler is a HLT, so an outcome is what a kernel would see: the pushed frame and the
//! registers.

use softmetal_cpu::exec::cpuid::Model;
use softmetal_cpu::state::{Segment, TableRegister, bits, reg, seg};
use softmetal_cpu::testing::{self, Harness};
use softmetal_cpu::{Processor, State, Stop};

use crate::case::{
    CODE, CONSTANTS, Case, Engine, LOCAL, MAX_CODE, Machine, Outcome, PAGE, REGION, WRITABLE_PAGES, X87_IMAGE, constants, event, selector,
};

/// Where the kernel's half of the address space begins; it is RAM from 0 on.
const KERNEL: u64 = 0xffff_8000_0000_0000;
/// Physical addresses.
const GDT: u64 = 0x1000;
const LDT: u64 = 0x2000;
const IDT: u64 = 0x3000;
const HANDLERS: u64 = 0x5000;
const TSS: u64 = 0x7000;
const KERNEL_STACK: u64 = 0x9000;
const TABLES: u64 = 0x20_0000;
const PHYSICAL: u64 = 0x80_0000;
/// The descriptors that Linux has and programs can see, by its selectors.
const DESCRIPTORS: [u64; 16] = [
    0,
    0x00cf_9b00_0000_ffff,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    // The number of the processor, as its limit: that of the first.
    0x0040_f500_0000_0000,
];
const KERNEL_CODE: u16 = 0x10;
/// Instructions after which a case counts as endless.
const BUDGET: u64 = 5000;

/// Softmetal's processor.
pub struct Guest {
    harness: Harness,
    /// The state that all cases begin with.
    base: Box<State>,
    /// The code of the case before, to be wiped.
    dirty: Option<(u64, usize)>,
    /// Nothing has run yet.
    fresh: bool,
}

/// A vector with an error code (SDM 3A, table 7-1).
fn has_error(vector: u64) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21)
}

impl Guest {
    /// A processor with all that is implemented, which the interpreter runs.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Self::model(), |_| {})
    }

    /// A processor with all that is implemented, which translates all it can before it runs for the first time.
    ///
    /// # Errors
    /// A sentence about what the host lacks for the translator.
    pub fn translated() -> Result<Self, String> {
        let mut failed = Ok(());
        let guest = Self::with(Self::model(), |p| {
            failed = p.set_engine(softmetal_cpu::Engine::Translator);
            p.set_heat(0);
        });
        failed.map(|()| guest)
    }

    /// All that is implemented, but with addresses of 48 bits, as most hosts have them.
    #[must_use]
    pub fn model() -> Model {
        let mut model = Model::max();
        model.set("la57", false);
        model
    }

    /// A processor of `model`; `engine` says how it runs.
    pub fn with(model: Model, engine: impl FnOnce(&mut Processor)) -> Self {
        let mut h = Harness::long();
        h.p.cpu.model = model;
        engine(&mut h.p);
        for (i, d) in DESCRIPTORS.iter().enumerate() {
            h.set_u64(GDT + 8 * i as u64, *d);
        }
        for (i, d) in LOCAL.iter().enumerate() {
            h.set_u64(LDT + 8 * i as u64, d.descriptor());
        }
        for vector in 0..256 {
            let handler = KERNEL + HANDLERS + 16 * vector;
            let level = if matches!(vector, 3 | 4) { 3 } else { 0 };
            let low = handler & 0xffff | u64::from(KERNEL_CODE) << 16 | (0x8e | level << 5) << 40 | (handler >> 16 & 0xffff) << 48;
            h.set_u64(IDT + 16 * vector, low);
            h.set_u64(IDT + 16 * vector + 8, handler >> 32);
            h.set_mem(HANDLERS + 16 * vector, &[0xf4]);
        }
        h.set_u64(TSS + 4, KERNEL + KERNEL_STACK);
        // No I/O permission bitmap.
        h.set_mem(TSS + 102, &0x68u16.to_le_bytes());
        // User space holds the region and nothing else.
        h.set_u64(TABLES, (TABLES + 0x1000) | 7);
        h.set_u64(TABLES + 8 * 256, (testing::TABLES + 0x1000) | 3);
        h.set_u64(TABLES + 0x1000, (TABLES + 0x2000) | 7);
        h.set_u64(TABLES + 0x2000 + 8 * (REGION >> 21), (TABLES + 0x3000) | 7);
        let no_execute = 1 << 63;
        let pages =
            WRITABLE_PAGES.into_iter().flat_map(|(at, _, len)| (0..len as u64 / PAGE).map(move |n| (at + n * PAGE, no_execute | 7)));
        for (at, rights) in pages.chain([(CODE, 5), (CONSTANTS, no_execute | 5)]) {
            h.set_u64(TABLES + 0x3000 + 8 * (at / PAGE), (PHYSICAL + at) | rights | 0x60);
        }
        h.set_mem(PHYSICAL + CONSTANTS, &constants());
        h.set_mem(PHYSICAL + CODE, &[0xcc; PAGE as usize]);
        let s = &mut h.p.cpu.state;
        s.cr3 = TABLES;
        s.cr0 |= bits::CR0_AM | bits::CR0_WP;
        s.cr4 |= bits::CR4_FSGSBASE | bits::CR4_UMIP | bits::CR4_OSXSAVE | bits::CR4_PGE;
        s.xcr0 = 3;
        if h.p.cpu.model.supports(iced_x86::CpuidFeature::AVX) {
            s.xcr0 |= 4;
        }
        s.cpl = 3;
        s.gdtr = TableRegister { base: KERNEL + GDT, limit: 0x7f };
        s.idtr = TableRegister { base: KERNEL + IDT, limit: 0xfff };
        s.ldtr = Segment { selector: 0x50, attributes: 0x82, limit: 8 * LOCAL.len() as u32 - 1, base: KERNEL + LDT };
        s.tr = Segment { selector: 0x40, attributes: 0x8b, limit: 0x67, base: KERNEL + TSS };
        let base = Box::new(s.clone());
        Self { harness: h, base, dirty: None, fresh: true }
    }

    /// Its processor.
    #[must_use]
    pub fn processor(&mut self) -> &mut Processor {
        &mut self.harness.p
    }

    fn set_memory(&self, offset: u64, bytes: &[u8]) {
        self.harness.p.cpu.memory.write(PHYSICAL + offset, bytes).expect("the region is RAM");
    }

    fn segment(selector: u16, base: u64) -> Segment {
        let index = usize::from(selector >> 3);
        if selector & !3 == 0 {
            return Segment { selector, base, ..Segment::default() };
        }
        let descriptor = if selector & 4 != 0 { LOCAL[index].descriptor() } else { DESCRIPTORS[index] };
        Segment::from_descriptor(selector, descriptor)
    }

    fn load(&mut self, case: &Case) {
        if let Some((at, len)) = self.dirty.take() {
            self.set_memory(at, &[0xcc; MAX_CODE][..len]);
        }
        let start = &case.start;
        self.set_memory(case.code_offset(), case.bytes());
        self.dirty = Some((case.code_offset(), case.bytes().len()));
        for (offset, place, len) in WRITABLE_PAGES {
            self.set_memory(offset, &start.memory[place..place + len]);
        }
        let mut s = (*self.base).clone();
        // Far from the case before, or the page would count as one whose code is written all the time.
        s.icount = self.harness.p.icount() + 100_000;
        s.regs[..16].copy_from_slice(&start.gpr);
        s.rip = start.rip;
        for (n, &selector) in start.selectors[..6].iter().enumerate() {
            let base = match n {
                seg::FS => start.fs_base,
                seg::GS => start.gs_base,
                _ => 0,
            };
            s.segments[n] = Self::segment(selector, base);
            s.bases[n] = s.segments[n].base;
        }
        for (to, (low, high)) in s.ymm.0.iter_mut().zip(start.xmm.iter().zip(&start.ymm)) {
            to.0[..16].copy_from_slice(low);
            to.0[16..].copy_from_slice(high);
        }
        s.mxcsr = start.mxcsr;
        s.fpu.fxrstor_image(&start.x87, true);
        // What the cases before have left in the translation caches is true for this one, too: so accesses that hit are
        // tried as well as those that miss.
        if self.fresh {
            self.harness.p.load(s);
            self.fresh = false;
        } else {
            self.harness.p.cpu.state = s;
        }
        self.harness.p.cpu.set_eflags(start.flags);
    }

    /// The region's pages that can be written.
    fn memory(&self, end: &mut Machine) {
        for (offset, place, len) in WRITABLE_PAGES {
            self.harness.mem(PHYSICAL + offset, &mut end.memory[place..place + len]);
        }
    }

    fn save(&self, vector: u64, outcome: &mut Outcome) {
        let s = &self.harness.p.cpu.state;
        let mut frame = s.regs[usize::from(reg::RSP)] - KERNEL;
        outcome.vector = vector as u32;
        outcome.error = 0;
        if has_error(vector) {
            outcome.error = self.harness.u64(frame) as u32;
            frame += 8;
        }
        outcome.address = if vector == 14 { s.cr2 } else { 0 };
        let end = &mut outcome.end;
        end.gpr.copy_from_slice(&s.regs[..16]);
        end.rip = self.harness.u64(frame);
        end.flags = self.harness.u64(frame + 16);
        end.gpr[usize::from(reg::RSP)] = self.harness.u64(frame + 24);
        end.selectors = [0; 8];
        for (to, from) in end.selectors.iter_mut().zip(&s.segments) {
            *to = from.selector;
        }
        end.selectors[seg::CS] = self.harness.u64(frame + 8) as u16;
        end.selectors[seg::SS] = self.harness.u64(frame + 32) as u16;
        (end.fs_base, end.gs_base) = (s.bases[seg::FS], s.bases[seg::GS]);
        for (from, (low, high)) in s.ymm.0.iter().zip(end.xmm.iter_mut().zip(&mut end.ymm)) {
            low.copy_from_slice(&from.0[..16]);
            high.copy_from_slice(&from.0[16..]);
        }
        end.mxcsr = s.mxcsr;
        end.x87 = s.fpu.fxsave_image(true);
        self.memory(end);
    }
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine for Guest {
    fn run(&mut self, case: &Case, outcome: &mut Outcome) {
        self.load(case);
        let stop = self.harness.run(BUDGET);
        let s = &self.harness.p.cpu.state;
        let at = s.rip.wrapping_sub(KERNEL + HANDLERS);
        match stop {
            Stop::Halted if s.cpl == 0 && at < 0x1000 => self.save(at / 16, outcome),
            _ => outcome.vector = event::ENDLESS,
        }
    }
}

const _: () = assert!(X87_IMAGE == softmetal_cpu::semantics::x87::image::FXSAVE_SIZE && selector::CODE_64 == 0x33);
