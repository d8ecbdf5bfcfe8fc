//! Traces: the way that a hot loop goes, as one piece of code.
//!
//! A block ends at each jump that is taken. A trace goes on behind it, the way that was really gone, round after round of
//! a loop: what does not go that way leaves by a side exit, with the state that it has there. So neither a chain of blocks
//! nor a look at the budget stands between its instructions, and one look at the TLB does for accesses of several rounds.
//!
//! The ways back of translated blocks count how often they are passed ([`super::backend::Counter`]). When one is hot, the
//! interpreter goes on, and what it runs next is recorded ([`Recorder`]); a loop is chosen from that ([`path::choose`]) and
//! translated, and the entries of the block at its head lead to it. It is dropped as soon as one of its blocks is
//! retired, or when a side exit is taken more often than the loop goes round; then what is run is recorded anew.
//!
//! Where the pages of a trace over several are depends on the address space: it looks whether that is what it was.

use iced_x86::{FlowControl, Instruction};

use super::backend::{Backend, Counting, Leads, Turn};
use super::path::{self, Recorder, TRIES, Visit};
use super::{OFFSET, Source, Translator, decode};
use crate::block::{Block, BlockCache};
use crate::exec;
use crate::state::Cpu;

/// So often, a trace over several pages may be dropped because they are elsewhere, and be made again.
const MOVES: u8 = 4;

/// A trace.
pub(super) struct Trace<S> {
    /// The translation of the block at its head, ...
    pub(super) head: u32,
    /// ... and what its entries began with, while the trace is live.
    saved: Option<[S; 2]>,
    /// Its own translation.
    pub(super) number: u32,
    /// It goes round often enough, or there is no better one.
    settled: bool,
    /// The edge that was hot.
    edge: u32,
}

impl<B: Backend> Translator<B> {
    /// Edge `edge` (from 1) has led to translation `number` of `block`, or an interrupt has come between: patches it to lead
    /// there by itself, and looks at it if it has done that often enough.
    pub(super) fn arrive(&mut self, edge: u32, number: u32, block: &Block, cpu: &mut Cpu) {
        let Some(&e) = self.edges.get((edge as usize).wrapping_sub(1)) else { return };
        if e.target != block.physical || e.mode != block.mode {
            return;
        }
        if e.guards {
            self.drop_trace(e.trace);
            return self.try_again(e.trace, cpu);
        }
        let entry = self.entry(number, &e);
        match e.counter {
            Some(counter) if counter.state != Counting::NoMore => self.backend.link(counter.field, entry),
            _ => return self.backend.link(e.field, entry),
        }
        if e.counter.is_some_and(|c| c.state == Counting::NotYet) {
            return self.count(edge, cpu);
        }
        if let Some(trace) = self.traces.get_mut((e.trace as usize).wrapping_sub(1)) {
            trace.settled |= e.closes.is_some();
            if trace.settled || trace.saved.is_none() {
                return self.straighten(edge, number);
            }
        }
        if self.recorder.is_none() {
            self.recorder = Some(Recorder::new(edge, block, cpu.linear_rip()));
        }
    }

    /// Edge `edge`, whose counter leads to its target, counts from now on.
    fn count(&mut self, edge: u32, cpu: &mut Cpu) {
        let e = &mut self.edges[edge as usize - 1];
        let Some(counter) = &mut e.counter else { return };
        counter.state = Counting::Now;
        let (field, entry) = (e.field, counter.entry);
        self.backend.link(field, entry);
        B::count_passes(cpu, edge, self.loop_heat);
    }

    /// Edge `edge`, which leads to translation `number`, no longer counts.
    fn straighten(&mut self, edge: u32, number: u32) {
        let e = &mut self.edges[edge as usize - 1];
        if let Some(counter) = &mut e.counter {
            counter.state = Counting::NoMore;
        }
        let e = *e;
        self.backend.link(e.field, self.entry(number, &e));
    }

    /// A trace that began where trace `number` did, and has been dropped because the pages are elsewhere, is made when it is
    /// hot again, unless that happens all the time.
    fn try_again(&mut self, number: u32, cpu: &mut Cpu) {
        let Some(trace) = self.traces.get((number as usize).wrapping_sub(1)) else { return };
        let (head, edge) = (&mut self.translations[trace.head as usize - 1], trace.edge);
        head.moves += 1;
        if head.moves < MOVES {
            head.tries -= 1;
            self.count(edge, cpu);
        }
    }

    /// Makes a trace of what was recorded, if it can be.
    pub(super) fn finish_recording(&mut self, cache: &mut BlockCache, cpu: &mut Cpu) {
        let Some(recorder) = self.recorder.take() else { return };
        let made = self.backend.has_room() && self.make_trace(&recorder, cache, cpu).is_some();
        let Some(first) = recorder.steps.first() else { return };
        let Some(counter) = &mut self.edges[recorder.edge as usize - 1].counter else { return };
        counter.failures += u8::from(!made);
        if made || counter.failures == TRIES {
            self.straighten(recorder.edge, first.number);
        } else {
            B::count_passes(cpu, recorder.edge, self.loop_heat);
        }
    }

    fn make_trace(&mut self, recorder: &Recorder, cache: &BlockCache, cpu: &Cpu) -> Option<()> {
        let steps = &recorder.steps;
        let mode = cache.get(steps.first()?.index).mode;
        let (mut sources, mut visits): (Vec<(i64, Source, Vec<Leads>)>, _) = (Vec::new(), Vec::new());
        for (step, next) in steps.iter().zip(&steps[1..]) {
            let block = cache.get(step.index);
            if block.serial != step.serial || block.translation.get() != step.number {
                return None;
            }
            let known = sources.iter().position(|s| s.0 == step.start);
            let at = known.unwrap_or(sources.len());
            if known.is_none() {
                let source = decode(block, block.offset?, step.start as i32, &cpu.memory)?;
                let leads = self.backend.leads(&source.instructions, &source.available, mode);
                sources.push((step.start, source, leads));
            }
            let (_, source, leads) = &sources[at];
            let len = (next.icount - step.icount) as usize;
            let turn = source.instructions.get(..len).and_then(|i| turn(i, &leads[..len], next.start));
            visits.push(Visit { start: step.start, len, turn });
        }
        visits.push(Visit { start: steps.last()?.start, len: 0, turn: None });

        let replaced = self.edges[recorder.edge as usize - 1].trace;
        let translation = |n: u32| &self.translations[n as usize - 1];
        let tries = self.traces.get((replaced as usize).wrapping_sub(1)).map_or(0, |t| translation(t.head).tries);
        let traced = |n: usize| ![0, replaced].contains(&translation(steps[n].number).trace);
        let free = |n: usize| !traced(n) && translation(steps[n].number).tries < TRIES;
        let chosen = path::choose(&visits, tries + 1 >= TRIES, free, traced)?;
        let head = steps[chosen.start];
        let page_of = |start: i64| start & !(OFFSET as i64);
        let base = page_of(head.start);
        if base != 0 {
            for (start, source, _) in &mut sources {
                let block = cache.get(steps.iter().find(|s| s.start == *start)?.index);
                *source = decode(block, block.offset?, (*start - base) as i32, &cpu.memory)?;
            }
        }
        let mut source = Source::default();
        for n in chosen.clone() {
            let (_, block, _) = sources.iter().find(|s| s.0 == steps[n].start)?;
            source.extend(block, visits[n].len);
            source.turns.resize(source.ops.len() - 1, Turn::On);
            source.turns.push(visits[n].turn?.0);
        }
        source.turns.pop();
        let page = recorder.page.wrapping_add(base as u64);
        if steps[chosen.clone()].iter().any(|s| page_of(s.start) != base) {
            source.pinned = Some([page, cpu.mmu.code_epoch(mode.user())]);
        }
        let closes = steps[chosen.end].start == head.start;
        let last_try = !closes || translation(head.number).tries + 1 == TRIES;
        let block = cache.get(head.index);
        let first_edge = self.edges.len();
        let number = self.make(source, block, page, !last_try)?;
        let mut parts: Vec<u32> = steps[chosen].iter().map(|s| s.number).collect();
        parts.sort_unstable();
        parts.dedup();
        self.install(Trace { head: head.number, saved: None, number, settled: last_try, edge: recorder.edge }, &parts, first_edge);
        Some(())
    }

    /// `trace`, which is made of the blocks of `parts`, and whose edges begin with `first_edge`, takes the place of its head.
    fn install(&mut self, mut trace: Trace<B::Saved>, parts: &[u32], first_edge: usize) {
        let old = self.translations[trace.head as usize - 1].trace;
        self.drop_trace(old);
        let number = self.traces.len() as u32 + 1;
        self.edges[first_edge..].iter_mut().for_each(|e| e.trace = number);
        for &part in parts {
            self.translations[part as usize - 1].parts.push(number);
        }
        let (t, own) = (&self.translations[trace.head as usize - 1], &self.translations[trace.number as usize - 1]);
        let body = if t.needs.covers(own.needs) { own.body } else { own.near };
        trace.saved = Some([self.backend.divert(t.near, own.near), self.backend.divert(t.body, body)]);
        let t = &mut self.translations[trace.head as usize - 1];
        t.trace = number;
        t.tries += 1;
        self.traces.push(trace);
    }

    /// Trace `number`, if it is live, is no longer entered: the head's own translation is again, by all that led to it.
    pub(super) fn drop_trace(&mut self, number: u32) {
        let Some(trace) = self.traces.get_mut((number as usize).wrapping_sub(1)) else { return };
        let Some(saved) = trace.saved.take() else { return };
        let head = &mut self.translations[trace.head as usize - 1];
        head.trace = 0;
        let plain = head.entries();
        for (entry, saved) in plain.into_iter().zip(saved).rev() {
            self.backend.restore(entry, saved);
        }
        for (entry, to) in self.translations[trace.number as usize - 1].entries().into_iter().zip(plain) {
            self.backend.divert(entry, to);
        }
    }
}

/// How the last of `instructions` led to `next`, counted from the start of the page, and whether it jumped backwards; none if
/// a trace cannot go that way.
fn turn(instructions: &[Instruction], leads: &[Leads], next: i64) -> Option<(Turn, bool)> {
    let last = instructions.last()?;
    let target = match *leads.last()? {
        Leads::To { at, call } => Some((at, !call)),
        Leads::Anywhere => Some((next, false)),
        Leads::On | Leads::Out => None,
    };
    let goes_on = match last.flow_control() {
        FlowControl::Next => !exec::ends_block(last),
        flow => flow == FlowControl::ConditionalBranch,
    };
    if leads.contains(&Leads::Out) {
        None
    } else if goes_on && last.next_ip() as i64 == next {
        Some((Turn::On, false))
    } else {
        target.filter(|t| t.0 == next).map(|(to, loops)| (Turn::Taken, loops && to <= last.ip() as i64))
    }
}
