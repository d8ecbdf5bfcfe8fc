//! Traces: the way that a hot loop goes, as one piece of code.
//!
//! A block ends at each jump that is taken. A trace goes on behind it, the way that was really gone, round after round of
//! a loop: what does not go that way leaves by a side exit, with the state that it has there. So neither a chain of blocks
//! nor a look at the budget stands between its instructions, and one look at the TLB does for accesses of several rounds.
//!
//! Which loops are hot is found by samples ([`Sampler`]): now and then translated code comes back to the run loop, and the
//! block that it has come to is noted. Once that has met a block often enough, the interpreter goes on, and what it runs next
//! is recorded ([`Recorder`]); a loop is chosen from that ([`path::choose`]) and translated, and the entries of the block at
//! its head lead to it. So code carries nothing for being watched, and what a trace costs is little beside the time that was
//! spent there before. It is dropped as soon as one of its blocks is retired, or when samples show that it is left by one
//! side exit more often than the loop goes round; then what is run is recorded anew.
//!
//! Where the pages of a trace over several are depends on the address space: it looks whether that is what it was.

use iced_x86::{FlowControl, Instruction};
use softmetal_bus::splitmix64;

use super::backend::{Backend, Input, Leads, Maker, Target, Turn};
use super::path::{self, Recorder, TRIES, Visit};
use super::{Guest, Image, OFFSET, Translator};
use crate::block::{Block, BlockCache};
use crate::exec;
use crate::state::Cpu;

/// So often, a trace over several pages may be dropped because they are elsewhere, and be made again.
const MOVES: u8 = 4;

/// RSP among the general registers.
const STACK: usize = 4;

/// Samples are so many instructions apart, about: some 50 microseconds, of which one takes 0.3.
const PERIOD: u64 = 1 << 17;
/// So many of one block have it recorded: a trace costs some 8 of them to make, and saves a part of the time spent there.
const ENOUGH: u8 = 32;
/// So many of a trace's side exit have it recorded anew, if the loop did not go round in more of them.
const ENOUGH_EXITS: u8 = 8;

/// When to look where translated code is.
pub(super) struct Sampler {
    /// The instruction count of the next sample.
    next: u64,
    /// Instructions from one to the next, about.
    period: u64,
    enough: u8,
    enough_exits: u8,
}

impl Default for Sampler {
    fn default() -> Self {
        Self { next: 0, period: PERIOD, enough: ENOUGH, enough_exits: ENOUGH_EXITS }
    }
}

impl Sampler {
    /// One that looks all the time, and is content with one sample.
    pub(super) fn eager() -> Self {
        Self { next: 0, period: 64, enough: 1, enough_exits: 1 }
    }

    /// Instructions from count `icount` to the next sample.
    pub(super) fn until(&self, icount: u64) -> u64 {
        let until = self.next.wrapping_sub(icount);
        // What is farther is over, or of a time that the processor has gone back from.
        if until > 2 * self.period { 0 } else { until }
    }

    /// Whether there is a sample at count `icount`; then the next one is elsewhere.
    pub(super) fn is_due(&mut self, icount: u64) -> bool {
        let due = self.until(icount) == 0;
        if due {
            // No loop keeps step with them.
            self.next = icount + self.period / 2 + splitmix64(&mut icount.clone()) % self.period;
        }
        due
    }
}

/// A trace.
pub(super) struct Trace<S> {
    /// The translation of the block at its head, ...
    pub(super) head: u32,
    /// ... and what its entries began with, while the trace is live.
    saved: Option<[S; 2]>,
    /// Its own translation.
    pub(super) number: u32,
    /// There is no better one.
    settled: bool,
    /// How often a sample met it at the end of a round.
    rounds: u8,
}

/// A block that was met while the way was recorded.
struct Source {
    /// As [`super::path::Step::start`].
    start: i64,
    image: Image,
    input: Input,
    leads: Vec<Leads>,
}

impl<B: Backend> Translator<B> {
    /// Edge `edge` (from 1; 0 is none) has led to translation `number` of `block`, or an interrupt has come between: patches it
    /// to lead there by itself. The edge, if it did lead there.
    pub(super) fn arrive(&mut self, edge: u32, number: u32, block: &Block, cpu: &mut Cpu) -> Option<usize> {
        let edge = (edge as usize).checked_sub(1)?;
        let e = *self.edges.get(edge)?;
        if matches!(e.target, Target::Elsewhere { .. }) {
            self.link_pages(edge, number, block, cpu);
            return None;
        }
        if e.target != Target::Here(block.physical) || e.mode != block.mode {
            return None;
        }
        if e.guards {
            self.give_up(e.trace);
            return None;
        }
        let to = self.entry(number, &e);
        self.backend.link(e.field, to);
        Some(edge)
    }

    /// A sample has met translation `number` of `block`, to which `edge` has led, if any has: is that often enough?
    pub(super) fn sample(&mut self, edge: Option<usize>, number: u32, block: &Block, cpu: &Cpu) {
        if !block.mode.long() || block.crosses {
            return;
        }
        let Sampler { enough, enough_exits, .. } = self.sampler;
        let mut replaces = edge.map_or(0, |e| self.edges[e].trace);
        let hot = match (edge, self.traces.get_mut((replaces as usize).wrapping_sub(1))) {
            (Some(edge), Some(trace)) if trace.saved.is_some() => {
                let e = &mut self.edges[edge];
                let met = if e.closes.is_some() { &mut trace.rounds } else { &mut e.samples };
                *met = met.saturating_add(1);
                !trace.settled && e.samples >= enough_exits && e.samples > trace.rounds
            }
            _ => {
                replaces = 0;
                let t = &mut self.translations[number as usize - 1];
                t.samples = t.samples.saturating_add(1);
                t.failures < TRIES && t.samples >= enough << t.failures
            }
        };
        if hot {
            self.recorder = Some(Recorder::new(replaces, block, cpu.linear_rip(), cpu.mmu.code_epoch(block.mode.user())));
        }
    }

    /// Trace `number` is dropped because its pages are elsewhere; another one may begin where it did, unless that happens all
    /// the time.
    fn give_up(&mut self, number: u32) {
        if !self.drop_trace(number) {
            return;
        }
        let head = &mut self.translations[self.traces[number as usize - 1].head as usize - 1];
        head.moves += 1;
        if head.moves < MOVES {
            head.tries -= 1;
        }
    }

    /// Makes a trace of what was recorded, if it can be.
    pub(super) fn finish_recording(&mut self, cache: &BlockCache, cpu: &Cpu) {
        let Some(recorder) = self.recorder.take() else { return };
        let made = self.backend.has_room() && self.make_trace(&recorder, cache, cpu).is_some();
        let Some(first) = recorder.steps.first() else { return };
        for step in &recorder.steps {
            self.translations[step.number as usize - 1].samples = 0;
        }
        if !made {
            let first = &mut self.translations[first.number as usize - 1];
            first.failures = first.failures.saturating_add(1);
            if let Some(kept) = self.traces.get_mut((recorder.replaces as usize).wrapping_sub(1)) {
                kept.settled = true;
            }
        }
    }

    fn make_trace(&mut self, recorder: &Recorder, cache: &BlockCache, cpu: &Cpu) -> Option<()> {
        let steps = &recorder.steps;
        let mode = cache.get(steps.first()?.index).mode;
        if cpu.mmu.code_epoch(mode.user()) != recorder.epoch {
            // The steps may be of pages that are elsewhere now.
            return None;
        }
        let (mut sources, mut visits): (Vec<Source>, _) = (Vec::new(), Vec::new());
        for (step, next) in steps.iter().zip(&steps[1..]) {
            let block = cache.get(step.index);
            if block.serial != step.serial || block.translation.get() != step.number {
                return None;
            }
            let known = sources.iter().position(|s| s.start == step.start);
            let at = known.unwrap_or(sources.len());
            if known.is_none() {
                let (image, mut input) = (Image::of(block, step.start as i32, &cpu.memory)?, Input::default());
                image.decode(&mut input);
                let leads = self.workshop.maker.leads(&input.instructions, &input.available, mode);
                sources.push(Source { start: step.start, image, input, leads });
            }
            let Source { input, leads, .. } = &sources[at];
            let len = (next.icount - step.icount) as usize;
            let turn = input.instructions.get(..len).and_then(|i| turn(i, &leads[..len], next.start));
            visits.push(Visit { start: step.start, len, turn });
        }
        visits.push(Visit { start: steps.last()?.start, len: 0, turn: None });

        let replaced = recorder.replaces;
        let translation = |n: u32| &self.translations[n as usize - 1];
        let tries = self.traces.get((replaced as usize).wrapping_sub(1)).map_or(0, |t| translation(t.head).tries);
        let traced = |n: usize| ![0, replaced].contains(&translation(steps[n].number).trace);
        let free = |n: usize| !traced(n) && translation(steps[n].number).tries < TRIES;
        let chosen = path::choose(&visits, tries + 1 >= TRIES, free, traced)?;
        let head = steps[chosen.start];
        let page_of = |start: i64| start & !(OFFSET as i64);
        let base = page_of(head.start);
        if base != 0 {
            for Source { start, image, input, .. } in &mut sources {
                image.start = (*start - base) as i32;
                image.decode(input);
            }
        }
        let (mut input, block) = (Input::default(), cache.get(head.index));
        (input.page, input.mode) = (block.physical & !OFFSET, mode);
        let mut pieces = Vec::new();
        for n in chosen.clone() {
            let Source { image, input: block, .. } = sources.iter().find(|s| s.start == steps[n].start)?;
            input.extend(block, visits[n].len);
            pieces.push((image.start, &image.bytes[..block.ops[visits[n].len - 1].end() as usize]));
            input.turns.resize(input.ops.len() - 1, Turn::On);
            input.turns.push(visits[n].turn?.0);
        }
        input.turns.pop();
        let page = recorder.page.wrapping_add(base as u64);
        if steps[chosen.clone()].iter().any(|s| page_of(s.start) != base) {
            input.pinned = Some([page, cpu.mmu.code_epoch(mode.user())]);
        }
        let end = steps[chosen.end];
        let closes = end.start == head.start;
        // Where its stack lies is no other in each round; what else a loop leaves as it was will hardly be another in the next.
        let stays = |n: usize| if closes { head.registers[n] == end.registers[n] } else { n == STACK };
        input.known = std::array::from_fn(|n| stays(n).then_some(head.registers[n]));
        let settled = !closes || translation(head.number).tries + 1 == TRIES;
        let mut code = Default::default();
        if !self.workshop.maker.make(&mut input, &mut code) {
            return None;
        }
        let (first_edge, number) = (self.edges.len(), self.translations.len() as u32 + 1);
        let guest = Guest { page, pieces: &pieces, trace: true };
        let (made, place) = self.place(&mut code, number, (block.physical, mode), guest);
        self.enter(made, (head.index, place), &input.ops);
        let mut parts: Vec<u32> = steps[chosen].iter().map(|s| s.number).collect();
        parts.sort_unstable();
        parts.dedup();
        self.install(Trace { head: head.number, saved: None, number, settled, rounds: 0 }, &parts, first_edge);
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

    /// Trace `number`, if it is live, is no longer entered: the head's own translation is again, by all that led to it. Whether
    /// it was.
    pub(super) fn drop_trace(&mut self, number: u32) -> bool {
        let Some(trace) = self.traces.get_mut((number as usize).wrapping_sub(1)) else { return false };
        let Some(saved) = trace.saved.take() else { return false };
        let head = &mut self.translations[trace.head as usize - 1];
        head.trace = 0;
        let plain = head.entries();
        for (entry, saved) in plain.into_iter().zip(saved).rev() {
            self.backend.restore(entry, saved);
        }
        for (entry, to) in self.translations[trace.number as usize - 1].entries().into_iter().zip(plain) {
            self.backend.divert(entry, to);
        }
        true
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_about_a_period_apart_wherever_the_count_is() {
        let mut sampler = Sampler::default();
        let mut last = 1000;
        assert!(sampler.is_due(last));
        for _ in 0..1000 {
            let until = sampler.until(last);
            assert!((PERIOD / 2..PERIOD * 3 / 2).contains(&until));
            last += until;
            assert!(!sampler.is_due(last - 1) && sampler.is_due(last));
        }
        // A machine that goes back finds its samples there as well.
        assert!(sampler.is_due(5) && !sampler.is_due(6));
    }
}
