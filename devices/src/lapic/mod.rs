//! A processor's local APIC, in xAPIC and x2APIC mode (SDM 3A chapter 11).
//!
//! Region 0 = its 4 KiB window (at 0xFEE00000). Input lines 0 and 1 are LINT0 and LINT1. Output line 0 is INTR to its
//! processor (a level), line 1 is NMI and line 2 SMI# (pulses). What concerns other APICs (IPIs, ends of level-triggered interrupts)
//! and its processor (INIT, SIPI) waits in queues which the board empties after each call.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | accepting, prioritising and acknowledging interrupts |
//! | `message.rs` | what travels between APICs |
//! | `registers.rs` | the registers, as memory and as MSRs |
//! | `timer.rs` | the timer |

mod message;
mod registers;
#[cfg(test)]
mod tests;
mod timer;

use serde::{Deserialize, Serialize};
use softmetal_bus::{Ctx, Device, device_state, ones};

use crate::lanes::extract;
pub use message::{DeliveryMode, Ipi, Message, Shorthand};
pub use timer::LAPIC_HZ;
use timer::Timer;

/// IA32_APIC_BASE.
const BASE_BSP: u64 = 1 << 8;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;
const DEFAULT_BASE: u64 = 0xfee0_0000;

/// Spurious-interrupt vector register: software enable.
const SVR_ENABLE: u32 = 1 << 8;
/// The I/O APICs are not told of ends of interrupts: software writes their EOI registers (SDM 3A, 11.8.5).
const SVR_SUPPRESS_EOI: u32 = 1 << 12;
/// Local vector table.
const LVT_REMOTE_IRR: u32 = 1 << 14;
const LVT_LEVEL: u32 = 1 << 15;
const LVT_MASKED: u32 = 1 << 16;

/// Indices of the local vector table.
const TIMER: usize = 0;
const LINT0: usize = 3;
const ERROR: usize = 5;

/// Error status register.
const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
const ILLEGAL_REGISTER: u32 = 1 << 7;

/// The queues hold no more than this; the board empties them after each call.
const QUEUE: usize = 64;

/// A bit for each vector, as the registers show them.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Vectors([u32; 8]);

impl Vectors {
    fn set(&mut self, vector: u8, on: bool) {
        let (word, bit) = (&mut self.0[usize::from(vector / 32)], 1 << (vector % 32));
        *word = if on { *word | bit } else { *word & !bit };
    }

    fn has(&self, vector: u8) -> bool {
        self.0[usize::from(vector / 32)] >> (vector % 32) & 1 != 0
    }

    fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|&w| w != 0)?;
        Some((word * 32) as u8 + (31 - self.0[word].leading_zeros()) as u8)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    /// IA32_APIC_BASE.
    base: u64,
    tpr: u8,
    /// Logical destination (bits 31:24) and its model (bits 31:28), in xAPIC mode.
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    /// The error status that reads give, and what the next write will bring there.
    esr: u32,
    esr_pending: u32,
    icr: u64,
    /// Timer, thermal, performance, LINT0, LINT1, error.
    lvt: [u32; 6],
    timer: Timer,
    /// Levels of LINT0 and LINT1.
    lint: [bool; 2],
    /// An ExtINT message opened the way for the 8259.
    extint: bool,
    /// The level of INTR as last driven.
    intr: bool,
    waits_for_sipi: bool,
    init: bool,
    sipi: Option<u8>,
}

impl State {
    /// SDM 3A 11.4.7.
    fn new(base: u64, tsc_offset: u64) -> Self {
        let mut lvt = [LVT_MASKED; 6];
        if base & BASE_BSP != 0 {
            // As firmware leaves it: virtual wire mode, the 8259 reaches the boot processor through LINT0.
            lvt[LINT0] = u32::from(DeliveryMode::ExtInt as u8) << 8;
        }
        Self {
            base,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            esr: 0,
            esr_pending: 0,
            icr: 0,
            lvt,
            timer: Timer::new(tsc_offset),
            lint: [false; 2],
            extint: false,
            intr: false,
            waits_for_sipi: base & BASE_BSP == 0,
            init: false,
            sipi: None,
        }
    }

    fn enabled(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    fn x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    /// Processor priority.
    fn ppr(&self) -> u8 {
        let serving = self.isr.highest().unwrap_or(0);
        if self.tpr >> 4 >= serving >> 4 { self.tpr } else { serving & 0xf0 }
    }

    /// The vector that can interrupt now.
    fn deliverable(&self) -> Option<u8> {
        let vector = self.irr.highest()?;
        (self.enabled() && vector >> 4 > self.ppr() >> 4).then_some(vector)
    }
}

/// The local APIC.
#[derive(Debug)]
pub struct Lapic {
    id: u32,
    ipis: Vec<Ipi>,
    eois: Vec<u8>,
    state: State,
}

impl Lapic {
    /// The APIC of the processor with APIC ID `apic_id`, enabled in xAPIC mode; number 0 is the boot processor.
    #[must_use]
    pub fn new(apic_id: u32) -> Self {
        let bsp = if apic_id == 0 { BASE_BSP } else { 0 };
        let state = State::new(DEFAULT_BASE | BASE_ENABLE | bsp, 0);
        Self { id: apic_id, ipis: Vec::new(), eois: Vec::new(), state }
    }

    /// The APIC ID.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The physical address of the window, while the APIC answers there (xAPIC mode).
    #[must_use]
    pub fn window(&self) -> Option<u64> {
        (self.state.enabled() && !self.state.x2apic()).then_some(self.state.base & !0xfff)
    }

    /// Whether an interrupt above the processor priority waits.
    #[must_use]
    pub fn pending(&self) -> bool {
        self.state.deliverable().is_some()
    }

    /// Interrupt acknowledge: the vector goes from IRR to ISR. `None` if nothing is above the processor priority. (INTR
    /// falls at once when a request goes, so the spurious vector is never delivered.)
    pub fn acknowledge(&mut self, ctx: &mut Ctx) -> Option<u8> {
        let vector = self.state.deliverable()?;
        self.state.irr.set(vector, false);
        self.state.isr.set(vector, true);
        self.update(ctx);
        Some(vector)
    }

    /// Whether the INTR output of the 8259 reaches the processor: the APIC is disabled, or LINT0 is programmed as ExtINT
    /// and unmasked, or an I/O APIC delivered an ExtINT.
    #[must_use]
    pub fn accepts_extint(&self) -> bool {
        let lint0 = self.state.lvt[LINT0];
        let extint = lint0 & LVT_MASKED == 0 && DeliveryMode::from_bits(lint0 >> 8) == Some(DeliveryMode::ExtInt);
        !self.state.enabled() || extint || self.state.extint
    }

    /// Whether a message to `dest` (in `logical` or physical destination mode) is for this APIC (SDM 3A 11.6.2).
    #[must_use]
    pub fn matches(&self, dest: u32, logical: bool) -> bool {
        if !self.state.enabled() {
            return false;
        }
        // MSIs carry 8 bits, so all ones of them is a broadcast in x2APIC mode too.
        if dest == u32::MAX || dest == 0xff && !(self.state.x2apic() && logical) {
            return true;
        }
        match (logical, self.state.x2apic()) {
            (false, _) => dest == self.id,
            (true, true) => {
                let ldr = self.logical_id();
                ldr >> 16 == dest >> 16 && ldr & dest & 0xffff != 0
            }
            (true, false) => {
                let (ldr, dest) = (self.state.ldr >> 24, dest & 0xff);
                if self.state.dfr >> 28 == 0xf {
                    ldr & dest != 0
                } else {
                    let cluster = dest >> 4 == 0xf || dest >> 4 == ldr >> 4;
                    cluster && ldr & dest & 0x0f != 0
                }
            }
        }
    }

    /// The logical destination register.
    fn logical_id(&self) -> u32 {
        if self.state.x2apic() { self.id >> 4 << 16 | 1 << (self.id & 0xf) } else { self.state.ldr }
    }

    /// A message for this APIC, from another one, the I/O APIC, or an MSI.
    pub fn deliver(&mut self, ctx: &mut Ctx, message: Message) {
        if !message.assert && message.level_triggered {
            // Deassertion means something to buses of old only.
            return;
        }
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                if self.state.enabled() && self.state.svr & SVR_ENABLE != 0 {
                    self.accept(ctx, message.vector, message.level_triggered);
                }
            }
            DeliveryMode::Smi => pulse(ctx, 2),
            DeliveryMode::Nmi => pulse(ctx, 1),
            DeliveryMode::Init => self.init(ctx),
            DeliveryMode::Startup => {
                if std::mem::take(&mut self.state.waits_for_sipi) {
                    self.state.sipi = Some(message.vector);
                }
            }
            DeliveryMode::ExtInt => self.state.extint = true,
        }
    }

    /// A level of LINT0 (`pin` 0) or LINT1 (`pin` 1). The board need not drive LINT0 for the 8259: see
    /// [`Lapic::accepts_extint`].
    pub fn lint(&mut self, ctx: &mut Ctx, pin: usize, level: bool) {
        let Some(line) = self.state.lint.get_mut(pin) else {
            return;
        };
        let rises = !std::mem::replace(line, level) && level;
        if !self.state.enabled() {
            // Then the pins are INTR and NMI.
            if rises && pin == 1 {
                pulse(ctx, 1);
            }
            return;
        }
        if rises || level && self.lint_is_level(pin) {
            self.lint_interrupt(ctx, pin);
        }
    }

    /// Level-triggering exists for the Fixed mode only.
    fn lint_is_level(&self, pin: usize) -> bool {
        self.state.lvt[LINT0 + pin] & (LVT_LEVEL | 7 << 8) == LVT_LEVEL
    }

    fn lint_interrupt(&mut self, ctx: &mut Ctx, pin: usize) {
        let lvt = &mut self.state.lvt[LINT0 + pin];
        if *lvt & (LVT_MASKED | LVT_REMOTE_IRR) != 0 {
            return;
        }
        let entry = *lvt;
        if entry & (LVT_LEVEL | 7 << 8) == LVT_LEVEL {
            *lvt |= LVT_REMOTE_IRR;
        }
        // ExtINT is answered by `accepts_extint`.
        if let Some(mode) = DeliveryMode::from_bits(entry >> 8).filter(|&mode| mode != DeliveryMode::ExtInt) {
            let level_triggered = self.lint_is_level(pin);
            self.deliver(ctx, Message { vector: entry as u8, mode, level_triggered, assert: true });
        }
    }

    /// The interrupt of an entry of the local vector table that is always edge-triggered.
    fn local_interrupt(&mut self, ctx: &mut Ctx, index: usize) {
        let entry = self.state.lvt[index];
        if entry & LVT_MASKED == 0 {
            self.deliver(ctx, Message::fixed(entry as u8));
        }
    }

    fn accept(&mut self, ctx: &mut Ctx, vector: u8, level_triggered: bool) {
        if vector < 16 {
            self.error(ctx, RECEIVE_ILLEGAL_VECTOR);
            return;
        }
        self.state.irr.set(vector, true);
        self.state.tmr.set(vector, level_triggered);
        self.update(ctx);
    }

    fn error(&mut self, ctx: &mut Ctx, bit: u32) {
        // Tested before, for the error's own vector may be illegal.
        if self.state.esr_pending & bit == 0 {
            self.state.esr_pending |= bit;
            self.local_interrupt(ctx, ERROR);
        }
    }

    fn end_of_interrupt(&mut self, ctx: &mut Ctx) {
        let Some(vector) = self.state.isr.highest() else {
            return;
        };
        self.state.isr.set(vector, false);
        if self.state.tmr.has(vector) {
            if self.eois.len() < QUEUE && self.state.svr & SVR_SUPPRESS_EOI == 0 {
                self.eois.push(vector);
            }
            for pin in 0..self.state.lint.len() {
                let lvt = &mut self.state.lvt[LINT0 + pin];
                if *lvt & LVT_REMOTE_IRR != 0 && *lvt as u8 == vector {
                    *lvt &= !LVT_REMOTE_IRR;
                    if self.state.lint[pin] {
                        self.lint_interrupt(ctx, pin);
                    }
                }
            }
        }
        self.update(ctx);
    }

    /// SDM 3A 11.4.7.3: the state after INIT.
    fn init(&mut self, ctx: &mut Ctx) {
        let old = &self.state;
        let (intr, lint) = (old.intr, old.lint);
        self.state = State { intr, lint, init: true, ..State::new(old.base, old.timer.tsc_offset) };
        ctx.cancel(0);
        self.update(ctx);
    }

    /// Sends what the interrupt command register says.
    fn send_ipi(&mut self, ctx: &mut Ctx) {
        let icr = self.state.icr;
        let dest = if self.state.x2apic() { (icr >> 32) as u32 } else { (icr >> 56) as u32 };
        let logical = icr & 1 << 11 != 0;
        let shorthand = Shorthand::from_bits((icr >> 18) as u32);
        let Some(message) = Message::from_bits(icr as u32) else {
            log::debug!("lapic {}: IPI {icr:#x} has no delivery mode", self.id);
            return;
        };
        if !message.assert && message.mode == DeliveryMode::Init {
            // INIT level de-assert: nothing on processors since the Pentium 4.
            return;
        }
        // The trigger mode bit of the ICR has no other meaning either.
        let message = Message { level_triggered: false, assert: true, ..message };
        if matches!(message.mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority) && message.vector < 16 {
            self.error(ctx, SEND_ILLEGAL_VECTOR);
            return;
        }
        let own = !logical && dest == self.id;
        if matches!(shorthand, Shorthand::Itself | Shorthand::AllIncludingSelf) || shorthand == Shorthand::None && own {
            self.deliver(ctx, message);
        }
        let shorthand = match shorthand {
            Shorthand::Itself => return,
            Shorthand::None if own => return,
            Shorthand::None => Shorthand::None,
            Shorthand::AllIncludingSelf | Shorthand::AllExcludingSelf => Shorthand::AllExcludingSelf,
        };
        if self.ipis.len() < QUEUE {
            self.ipis.push(Ipi { dest, shorthand, logical, message });
        }
    }

    /// The IPIs sent since the last call. Those to this APIC itself have been delivered already: what is left has the
    /// shorthand [`Shorthand::None`] (which may match the sender, too) or [`Shorthand::AllExcludingSelf`].
    pub fn take_ipis(&mut self) -> Vec<Ipi> {
        std::mem::take(&mut self.ipis)
    }

    /// The level-triggered vectors that have ended since the last call, for the I/O APIC.
    pub fn take_eois(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.eois)
    }

    /// Whether an INIT arrived since the last call: the processor is to be reset. Other processors than the boot
    /// processor then wait for [`Lapic::take_sipi`].
    pub fn take_init(&mut self) -> bool {
        std::mem::take(&mut self.state.init)
    }

    /// The vector of a start-up IPI that arrived since the last call while the processor waited for it: it starts at
    /// physical address `vector << 12`.
    pub fn take_sipi(&mut self) -> Option<u8> {
        self.state.sipi.take()
    }

    /// Whether the processor stands until a start-up IPI comes: after power-on or INIT, unless it is the boot processor.
    #[must_use]
    pub fn waits_for_sipi(&self) -> bool {
        self.state.waits_for_sipi
    }

    /// The task priority as CR8 shows it.
    #[must_use]
    pub fn cr8(&self) -> u8 {
        self.state.tpr >> 4
    }

    /// MOV to CR8; only bits 3:0 count.
    pub fn set_cr8(&mut self, ctx: &mut Ctx, value: u8) {
        self.state.tpr = value << 4;
        self.update(ctx);
    }

    /// Drives INTR.
    fn update(&mut self, ctx: &mut Ctx) {
        let intr = self.pending();
        if intr != self.state.intr {
            self.state.intr = intr;
            ctx.line(0, intr);
        }
    }
}

/// NMI is line 1, SMI# line 2.
fn pulse(ctx: &mut Ctx, line: u8) {
    ctx.line(line, true);
    ctx.line(line, false);
}

impl Device for Lapic {
    fn name(&self) -> &'static str {
        "lapic"
    }

    fn read(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize) -> u64 {
        if region != 0 || self.window().is_none() || offset & 0xf >= 4 {
            return ones(width);
        }
        match self.load_register(ctx.now, (offset >> 4) as u32) {
            Some(value) => extract(value.into(), offset, width),
            None => {
                self.error(ctx, ILLEGAL_REGISTER);
                ones(width)
            }
        }
    }

    fn write(&mut self, ctx: &mut Ctx, region: u8, offset: u64, _width: usize, value: u64) {
        if region != 0 || self.window().is_none() || offset & 0xf != 0 {
            log::debug!("lapic {}: write {value:#x} to offset {offset:#x} ignored", self.id);
            return;
        }
        if !self.store_register(ctx, (offset >> 4) as u32, value as u32) {
            self.error(ctx, ILLEGAL_REGISTER);
        }
    }

    fn timer(&mut self, ctx: &mut Ctx, _timer: u32) {
        self.timer_sync(ctx);
    }

    fn line_in(&mut self, ctx: &mut Ctx, line: u8, level: bool) {
        self.lint(ctx, line.into(), level);
    }

    fn reset(&mut self, ctx: &mut Ctx) {
        self.state = State::new(DEFAULT_BASE | BASE_ENABLE | self.state.base & BASE_BSP, 0);
        self.ipis.clear();
        self.eois.clear();
        ctx.cancel(0);
        ctx.line(0, false);
    }

    device_state!(state, 1);
}
