//! The loop that finds and runs blocks, takes interrupts, and stops at exact counts.

mod code;

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use softmetal_bus::{Attention, CpuBus, GuestMemory, attention};

use self::code::{JUMPS, Jump};
use crate::block::{BlockCache, Decoded};
use crate::debug::{self, Before};
use crate::exec::cpuid::{Forms, Model};
use crate::exec::smm::Smm;
use crate::fault::{Exception, Fault, Reason, vector};
use crate::flags;
use crate::mmu::Mmu;
use crate::op::{BLOCK_RIP, Exit, Op};
use crate::state::{Cpu, State, seg};
use crate::translator::{Back, Context, Listener, SPARE, Translator, shadow_may_end};

/// Why [`Processor::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The instruction count asked for is reached.
    Budget,
    /// HLT, and nothing to wake it yet.
    Halted,
    /// The board or the host asked ([`attention::BOARD`], [`attention::HOST`]).
    Attention,
    /// A triple fault: the processor has shut down.
    Shutdown,
    /// The next instruction is at a breakpoint.
    Breakpoint,
}

/// How many blocks are remembered for the crash report.
pub const HISTORY: usize = 16;

/// A processor: the state, and the blocks decoded for it.
pub struct Processor {
    /// What handlers see.
    pub cpu: Box<Cpu>,
    cache: BlockCache,
    jumps: Box<[Jump]>,
    breakpoints: BTreeSet<u64>,
    /// The breakpoint at this address was reported at this instruction count: go on over it.
    passed: Option<(u64, u64)>,
    /// Exceptions since the last completed instruction, for the crash report.
    chain: Vec<(u64, Exception)>,
    history: [u64; HISTORY],
    history_at: usize,
    /// Exits from blocks to the loop.
    pub exits: u64,
    /// What the decoder works in.
    scratch: Decoded,
    /// Which instructions the model has.
    forms: Forms,
    translator: Option<Box<Translator>>,
}

/// What carries out instructions. All do the same, at different speeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Decoded blocks of handlers.
    Interpreter,
    /// Hot blocks are translated to host code.
    Translator,
}

impl Processor {
    /// A processor at power-on.
    #[must_use]
    pub fn new(memory: Arc<GuestMemory>, bus: Box<dyn CpuBus>, attention: Arc<Attention>, model: Model) -> Self {
        let state = State::power_on(&model);
        let cpu = Box::new(Cpu {
            model,
            mmu: Mmu::new(memory.clone()),
            memory,
            bus,
            attention,
            state,
            fault: Reason::None,
            exit_ordinal: 0,
            block_icount: 0,
            solo: false,
            watch_hits: 0,
            untraced: false,
            repeat_budget: 0,
            repeat_extra: 0,
            time_moved: true,
            told: 0,
            jit: Context::default(),
        });
        let mut p = Self {
            cpu,
            cache: BlockCache::default(),
            jumps: vec![Jump::default(); JUMPS].into(),
            breakpoints: BTreeSet::new(),
            passed: None,
            chain: Vec::new(),
            history: [0; HISTORY],
            history_at: 0,
            exits: 0,
            scratch: Decoded::default(),
            forms: Forms::default(),
            translator: None,
        };
        p.cpu.update_mode();
        p
    }

    /// Chooses the engine.
    ///
    /// # Errors
    /// A sentence about what the host lacks for the translator; the interpreter goes on then.
    pub fn set_engine(&mut self, engine: Engine) -> Result<(), String> {
        self.cache.forget_translations();
        self.translator = None;
        if engine == Engine::Translator {
            self.translator = Some(Box::new(Translator::new(&mut self.cpu)?));
        }
        Ok(())
    }

    /// Makes the translator, if it is in use, translate a block that has been interpreted `times` times.
    pub fn set_heat(&mut self, times: u32) {
        if let Some(t) = &mut self.translator {
            t.set_heat(times);
        }
    }

    /// Makes the translator, if it has just been chosen, translate as it does where the host's processor is not AMD's. For tests.
    pub fn assume_other_maker(&mut self) {
        if let Some(t) = &mut self.translator {
            t.assume_other_maker(&mut self.cpu);
        }
    }

    /// Has the translator, if it is in use, translate blocks by a thread of its own while the interpreter goes on with them, or, as
    /// at first, in place. What the guest sees is the same; how many blocks are translated, and how often they are left, then
    /// depends on the host.
    pub fn use_thread(&mut self, on: bool) {
        if let Some(t) = &mut self.translator {
            t.use_thread(on);
        }
    }

    /// Waits until the thread of [`Processor::use_thread`] has translated what it was asked for. The processor takes that over when
    /// it runs again.
    pub fn finish_translations(&mut self) {
        if let Some(t) = &mut self.translator {
            t.finish();
        }
    }

    /// The engine in use.
    #[must_use]
    pub fn engine(&self) -> Engine {
        if self.translator.is_some() { Engine::Translator } else { Engine::Interpreter }
    }

    /// Has `listener` told of each block that is translated from now on, if the engine translates.
    pub fn on_translation(&mut self, listener: Listener) {
        if let Some(t) = &mut self.translator {
            t.listen(listener);
        }
    }

    /// Blocks translated so far.
    #[must_use]
    pub fn blocks_translated(&self) -> u64 {
        self.translator.as_ref().map_or(0, |t| t.translated())
    }

    /// Power-on or RESET: the architectural state of SDM 3A, table 9-1. The instruction count goes on.
    pub fn reset(&mut self) {
        let icount = self.cpu.state.icount;
        self.load(State { icount, ..State::power_on(&self.cpu.model) });
    }

    /// INIT: as RESET, but caches, x87, SSE, most MSRs and SMBASE are kept (SDM 3A, 9.1).
    pub fn init(&mut self) {
        let s = &self.cpu.state;
        let kept = State {
            icount: s.icount,
            fpu: s.fpu.clone(),
            ymm: s.ymm,
            mxcsr: s.mxcsr,
            msr: s.msr.clone(),
            smm: Smm::outside(s.smm.base),
            ..State::power_on(&self.cpu.model)
        };
        self.load(kept);
    }

    /// Replaces the architectural state.
    pub fn load(&mut self, state: State) {
        self.cpu.state = state;
        self.cpu.show_smm();
        self.chain.clear();
        self.passed = None;
        self.cpu.update_mode();
        self.cpu.update_watches();
    }

    /// Retired instructions.
    #[must_use]
    pub fn icount(&self) -> u64 {
        self.cpu.state.icount
    }

    /// Linear addresses at which [`Processor::run`] stops before the instruction.
    pub fn breakpoints_mut(&mut self) -> &mut BTreeSet<u64> {
        &mut self.breakpoints
    }

    /// Blocks decoded so far.
    #[must_use]
    pub fn blocks_decoded(&self) -> u64 {
        self.cache.decoded
    }

    /// The exceptions that led to a shutdown, with the RIP of each, first to last.
    #[must_use]
    pub fn exception_chain(&self) -> &[(u64, Exception)] {
        &self.chain
    }

    /// Start addresses of the last blocks, oldest first.
    pub fn last_blocks(&self) -> impl Iterator<Item = u64> {
        (0..HISTORY).map(|i| self.history[(self.history_at + i) % HISTORY]).filter(|&r| r != 0)
    }

    /// Forgets all decoded code (the physical map changed under it).
    pub fn forget_code(&mut self) {
        self.cache.clear(&self.cpu.memory);
        self.cpu.mmu.flush_all();
    }

    /// The end of a processor and soon of the process: of its code, what consists of many pieces is left to that, since to take
    /// it apart takes long.
    pub fn abandon(self) {
        std::mem::forget(self.cache);
        if let Some(translator) = self.translator {
            translator.abandon();
        }
    }

    /// Runs until the instruction count is exactly `until`, or something else comes first.
    pub fn run(&mut self, until: u64) -> Stop {
        // The successor of the last block, if a link knows it; where to record it otherwise.
        let mut follow: Option<u32> = None;
        let mut from: Option<(u32, usize)> = None;
        // The translated jump that led to the next block; and whether that must be interpreted.
        let mut edge = 0;
        let mut interpret = false;
        self.cpu.time_moved = true;
        self.cpu.update_mode();
        loop {
            let wanted = self.cpu.wanted();
            let asleep = u64::from(self.cpu.state.halted);
            if asleep | self.cpu.state.pending_debug | u64::from(wanted) != 0 || self.cpu.memory.code_written() {
                (follow, from) = (None, None);
                if let Some(stop) = self.attend(wanted, until) {
                    return stop;
                }
            }
            if self.cpu.state.icount >= until {
                return Stop::Budget;
            }
            let s = &self.cpu.state;
            let mut left = until - s.icount;
            let shadow = s.shadow;
            let single = s.eflags & (flags::TF | flags::RF) | u64::from(shadow);
            let careful = single | s.dr[7] & debug::ENABLES | self.breakpoints.len() as u64 != 0;
            // RF and the shadow of STI end with the next instruction; it need not run by itself if they hold nothing off.
            let free = careful && self.breakpoints.is_empty() && self.cpu.nothing_held_off();
            let careful = careful && !free;
            let begun = s.icount;
            if careful {
                (follow, from) = (None, None);
                if self.at_breakpoint() {
                    return Stop::Breakpoint;
                }
                if let Err(Fault) = self.cpu.check_code_breakpoints() {
                    if let Some(stop) = self.deliver_fault() {
                        return stop;
                    }
                    continue;
                }
            }
            let index = match follow.take() {
                Some(i) => i,
                None => match self.lookup() {
                    Ok(i) => {
                        if let Some((source, slot)) = from {
                            self.link(source, slot, i);
                        }
                        i
                    }
                    Err(Fault) => {
                        from = None;
                        if let Some(stop) = self.deliver_fault() {
                            return stop;
                        }
                        continue;
                    }
                },
            };
            let mut before = Before::default();
            if careful || free {
                interpret = free && !shadow_may_end(&self.cpu);
                before = self.cpu.begin_careful();
            }
            let mut index = index;
            // Blocks that follow each other by links, while nothing asks for attention: the way that nearly all go.
            let exit = loop {
                if let (Some(t), false) = (&mut self.translator, careful) {
                    if left > SPARE && !interpret {
                        if let Some(number) = t.of(&mut self.cache, index, &mut self.cpu, std::mem::take(&mut edge)) {
                            self.exits += 1;
                            self.history_at = (self.history_at + 1) % HISTORY;
                            self.history[self.history_at] = self.cpu.state.rip;
                            from = None;
                            let back = t.run(&mut self.cpu, number, self.cache.get(index), left);
                            match back {
                                Back::Next(e) => edge = e,
                                Back::Interpret => interpret = true,
                                Back::Fault => self.cpu.retire(u64::from(self.cpu.exit_ordinal)),
                            }
                            break if back == Back::Fault { Exit::Fault } else { Exit::Leave };
                        }
                    }
                    (edge, interpret) = (0, false);
                }
                from = None;
                let block = self.cache.get(index);
                let mut n = block.ops.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                if careful {
                    n = if single != 0 { 1 } else { n };
                    n = self.before_breakpoint(&block.ops[..n]);
                }
                let ops = &block.ops[..n];
                let s = &mut self.cpu.state;
                s.regs[usize::from(BLOCK_RIP)] = s.rip;
                self.history_at = (self.history_at + 1) % HISTORY;
                self.history[self.history_at] = s.rip;
                self.cpu.block_icount = s.icount;
                let stepwise = block.checked().is_some() || careful && (shadow || self.cpu.traced());
                self.cpu.repeat_budget = if stepwise { 0 } else { left.saturating_sub(n as u64) };
                self.exits += 1;
                let exit = crate::op::next(&mut self.cpu, ops);
                let slot = 1 & match exit {
                    Exit::End => {
                        let end = ops[n - 1].end();
                        self.cpu.state.rip = self.cpu.cut_ip(self.cpu.state.regs[usize::from(BLOCK_RIP)].wrapping_add(end));
                        self.cpu.retire(n as u64);
                        if n != block.ops.len() || block.serial == 0 {
                            break exit;
                        }
                        n - 1
                    }
                    Exit::Branch => {
                        let ordinal = self.cpu.exit_ordinal;
                        self.cpu.retire(u64::from(ordinal) + 1);
                        usize::from(ordinal)
                    }
                    Exit::Leave => {
                        self.cpu.retire(u64::from(self.cpu.exit_ordinal) + 1);
                        break exit;
                    }
                    Exit::Fault => {
                        self.cpu.retire(u64::from(self.cpu.exit_ordinal));
                        break exit;
                    }
                };
                from = Some((index, slot));
                let s = &self.cpu.state;
                let itself = s.rip == s.regs[usize::from(BLOCK_RIP)] && block.serial != 0 && block.checked().is_none();
                let next = if itself { Some(index) } else { self.followed(index, slot) };
                left = until.wrapping_sub(s.icount);
                let quiet = self.cpu.wanted() == 0 && !self.cpu.memory.code_written() && !careful && s.icount < until;
                match next {
                    Some(next) if quiet => index = next,
                    next => {
                        follow = next;
                        break exit;
                    }
                }
            };
            if exit == Exit::Fault {
                let failed = self.cpu.jit.failed.take();
                if self.cpu.fault == Reason::Alone {
                    let op = failed.unwrap_or_else(|| self.cache.get(index).ops[usize::from(self.cpu.exit_ordinal)]);
                    self.alone(op, until);
                }
                if self.cpu.fault != Reason::None {
                    if self.cpu.state.icount == begun {
                        self.cpu.state.eflags |= before.rf;
                    }
                    if let Some(stop) = self.deliver_fault() {
                        return stop;
                    }
                    continue;
                }
            }
            if careful || !self.chain.is_empty() {
                self.chain.clear();
                if careful {
                    let len = self.cache.get(index).ops.first().map_or(0, |op| op.len);
                    self.cpu.end_careful(before, len, exit == Exit::Branch);
                }
            }
        }
    }

    /// Runs one operation with device and code accesses allowed. Leaves `cpu.fault` as it comes out.
    fn alone(&mut self, op: Op, until: u64) {
        let cpu = &mut self.cpu;
        cpu.fault = Reason::None;
        cpu.solo = true;
        cpu.block_icount = cpu.state.icount;
        cpu.repeat_budget = if cpu.traced() { 0 } else { (until - cpu.state.icount).saturating_sub(1) };
        let op = Op { ordinal: 0, ..op };
        match crate::op::next(cpu, &[op]) {
            Exit::End => {
                cpu.state.rip = cpu.next_rip(&op);
                cpu.state.icount += 1;
            }
            Exit::Branch | Exit::Leave => cpu.state.icount += 1,
            Exit::Fault => debug_assert!(cpu.fault != Reason::Alone, "an access that is alone was refused"),
        }
        cpu.state.icount += std::mem::take(&mut cpu.repeat_extra);
        cpu.time_moved = true;
        cpu.solo = false;
    }

    /// Carries out what was asked of the processor between two instructions.
    #[cold]
    fn attend(&mut self, wanted: u32, until: u64) -> Option<Stop> {
        for (offset, len) in self.cpu.memory.take_code_writes() {
            self.cache.written(offset, len.into(), self.cpu.state.icount, &self.cpu.memory);
        }
        self.cpu.attention.clear(attention::CODE);
        if wanted & attention::REMAP != 0 {
            self.cpu.attention.clear(attention::REMAP);
            self.forget_code();
        }
        if wanted & (attention::BOARD | attention::HOST) != 0 {
            self.cpu.attention.clear(attention::BOARD | attention::HOST);
            return Some(Stop::Attention);
        }
        if self.cpu.state.icount >= until {
            return Some(Stop::Budget);
        }
        // It comes even before the traps of the last instruction (SDM 3A, table 6-2).
        if wanted & attention::SMI != 0 && self.cpu.smi_due() {
            self.cpu.enter_smm();
            self.cpu.state.icount += 1;
            return None;
        }
        if self.cpu.debug_trap_due() {
            return self.deliver_fault();
        }
        if self.cpu.state.monitor.waiting && (wanted & (attention::INTR | attention::NMI) != 0 || self.cpu.monitor_triggered()) {
            self.cpu.wake();
        }
        if wanted & attention::NMI != 0 && !self.cpu.state.nmi_blocked && !self.cpu.state.shadow {
            self.cpu.attention.clear(attention::NMI);
            self.cpu.wake();
            return self.deliver_external(vector::NMI);
        }
        if wanted & attention::INTR != 0 && self.cpu.state.eflags & flags::IF != 0 && !self.cpu.state.shadow {
            self.cpu.wake();
            let at = self.cpu.state.icount;
            if let Some(v) = self.cpu.bus.acknowledge(at) {
                return self.deliver_external(v);
            }
        }
        self.cpu.state.halted.then_some(Stop::Halted)
    }

    fn at_breakpoint(&mut self) -> bool {
        let here = (self.cpu.linear_rip(), self.cpu.state.icount);
        let stops = self.breakpoints.contains(&here.0) && self.passed != Some(here);
        self.passed = stops.then_some(here);
        stops
    }

    /// Delivers the exception in `cpu.fault`; the delivery counts as one retired instruction.
    #[cold]
    fn deliver_fault(&mut self) -> Option<Stop> {
        let e = match std::mem::take(&mut self.cpu.fault) {
            Reason::Exception(e) => e,
            Reason::Shutdown => return Some(Stop::Shutdown),
            _ => return None,
        };
        self.chain.push((self.cpu.state.rip, e));
        if self.chain.len() > HISTORY {
            self.chain.remove(0);
        }
        self.cpu.watch_hits = 0;
        self.delivery(|cpu, chain| cpu.deliver_exception(e, chain))
    }

    fn deliver_external(&mut self, vector: u8) -> Option<Stop> {
        self.delivery(|cpu, chain| cpu.deliver_interrupt(vector, chain))
    }

    fn delivery(&mut self, deliver: impl FnOnce(&mut Cpu, &mut Vec<(u64, Exception)>) -> bool) -> Option<Stop> {
        self.cpu.state.icount += 1;
        self.cpu.solo = true;
        let alive = deliver(&mut self.cpu, &mut self.chain);
        self.cpu.solo = false;
        self.cpu.collect_watch_hits();
        if alive { None } else { Some(Stop::Shutdown) }
    }

    /// How many of `ops`, from RIP on, come before the next breakpoint after the first.
    #[cold]
    fn before_breakpoint(&self, ops: &[Op]) -> usize {
        let start = self.cpu.linear_rip();
        let Some(end) = ops.last().and_then(|op| start.checked_add(op.offset.into())) else { return ops.len() };
        let own = self.breakpoints.range((Bound::Excluded(start), Bound::Included(end))).copied();
        let guest = self.cpu.state.code_breakpoints().map(|(_, linear)| linear).filter(|&a| start < a && a <= end);
        let hits = own.chain(guest).filter_map(|a| ops.iter().position(|op| start + u64::from(op.offset) == a));
        hits.min().unwrap_or(ops.len())
    }
}

impl Cpu {
    /// What asks for attention now: all but an interrupt request that IF holds off from a processor that runs (one that
    /// sleeps in MWAIT may be woken by it). Instructions that change IF end their block, so that a request which waits is
    /// met right after them.
    #[inline(always)]
    pub(crate) fn wanted(&self) -> u32 {
        let held_off = if self.state.eflags & flags::IF == 0 && !self.state.halted { attention::INTR } else { 0 };
        self.attention.bits() & !held_off
    }

    /// The run loop has something to look at before the next instruction; with `in_shadow`, a shadow does not count.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    pub(crate) fn asks(&self, in_shadow: bool) -> bool {
        let s = &self.state;
        let careful = s.eflags & (flags::TF | flags::RF) | u64::from(s.shadow && !in_shadow) | s.dr[7] & debug::ENABLES;
        careful | u64::from(s.halted) | s.pending_debug | u64::from(self.wanted()) != 0 || self.memory.code_written()
    }

    #[inline(always)]
    fn retire(&mut self, n: u64) {
        self.state.icount += n + std::mem::take(&mut self.repeat_extra);
    }

    /// The linear address of the next instruction.
    #[must_use]
    pub fn linear_rip(&self) -> u64 {
        let s = &self.state;
        if s.mode.long() { s.rip } else { s.segments[seg::CS].base.wrapping_add(s.rip) & 0xffff_ffff }
    }
}
