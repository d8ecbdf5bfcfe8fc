//! The translator: hot blocks become host code.
//!
//! | module | what it holds |
//! |---|---|
//! | [`backend`] | what makes and runs code on one kind of host |
//! | [`x86_64`] | the back end for x86-64 |
//! | [`links`] | jumps and calls from page to page |
//! | [`path`] | which way hot loops go |
//! | [`trace`] | traces: hot loops as one piece of code |
//!
//! * A translation belongs to one [`crate::block::Block`] and knows its place in the page only; the page's linear address
//!   is in [`Context::page`]. So code that is mapped at several addresses is translated once.
//! * Blocks of one page are chained by patched jumps, which nothing has to undo: a page's blocks are retired together, and
//!   the entry of a retired one leads out. Jumps to other pages, and to a block that runs over into one, are patched as well, and
//!   taken back with the address space. All other ways go through a jump cache that is emptied with it.
//! * The budget is counted down where a block is left, and asked for where one begins. Translated code is entered with at least
//!   the longest block's worth, and leaves when less is left: the interpreter runs the rest, to the exact instruction.

#[allow(missing_docs)]
mod backend;
mod links;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod none;
#[allow(missing_docs)]
mod path;
mod trace;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod x86_64;

use std::sync::Arc;

use iced_x86::{Decoder, DecoderOptions, Instruction};
use softmetal_bus::{GuestMemory, PAGE_SIZE};

pub use self::backend::{Back, Backend};
use self::backend::{Brought, Edge, Input, Made, Turn};
use self::links::Links;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub use self::none::{Context, Native, available, shadow_may_end};
use self::path::Recorder;
use self::trace::{Sampler, Trace};
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use self::x86_64::{Context, Native, available, shadow_may_end};
use crate::block::{Block, BlockCache};
use crate::op::Op;
use crate::state::Cpu;

/// Times that a block is interpreted before it is translated, unless somebody wants it otherwise.
const HOT: u32 = 6;
/// So many translations are expected: the host commits memory only for those that there are, and nothing is moved.
const USUAL: usize = 1 << 16;
/// The longest block or trace, in instructions: translated code is entered only with so much budget left.
pub const SPARE: u64 = path::MOST as u64;
const OFFSET: u64 = PAGE_SIZE as u64 - 1;

/// A translated block.
struct Translation {
    /// The block's index; of a trace, that of its head.
    block: u32,
    near: u64,
    body: u64,
    far: u64,
    gone: u64,
    needs: Brought,
    /// The trace to which its entries lead, or 0.
    trace: u32,
    /// The traces that its block is in.
    parts: Vec<u32>,
    /// How often its block was met by a sample, and how often nothing came of looking where it leads.
    samples: u8,
    failures: u8,
    /// How often a trace was made that begins here, ...
    tries: u8,
    /// ... and how often one was dropped because of where its pages are.
    moves: u8,
    /// The number of its page.
    page: u32,
    /// Edges of other pages that have led to it.
    callers: Vec<u32>,
    /// What its code points to.
    _ops: Arc<[Op]>,
}

impl Translation {
    /// Where its code begins.
    fn entries(&self) -> [u64; 2] {
        [self.near, self.body]
    }
}

/// What a translation is made from.
#[derive(Default)]
struct Source {
    /// Their addresses count from the start of the page.
    instructions: Vec<Instruction>,
    /// The interpreter's handlers do what they say.
    available: Vec<bool>,
    ops: Arc<[Op]>,
    /// The start of each one's block.
    starts: Vec<i32>,
    /// Of a trace, how it goes on after each but the last.
    turns: Vec<Turn>,
    /// The code's places in the page.
    bytes: Vec<(i32, Vec<u8>)>,
    /// Of a trace over several pages: the linear address of the first one's, and the epoch in which the others are where they are.
    pinned: Option<[u64; 2]>,
    /// Of a trace: as [`Input::known`].
    known: [Option<u64>; 16],
}

impl Source {
    /// Appends the first `n` instructions of another one.
    fn extend(&mut self, other: &Self, n: usize) {
        let from = self.ops.len();
        self.instructions.extend(&other.instructions[..n]);
        self.available.extend(&other.available[..n]);
        self.starts.extend(&other.starts[..n]);
        let more = other.ops[..n].iter().enumerate().map(|(k, op)| Op { ordinal: (from + k) as u16, ..*op });
        self.ops = self.ops.iter().copied().chain(more).collect();
        let (start, bytes) = &other.bytes[0];
        self.bytes.push((*start, bytes[..other.ops[n - 1].end() as usize].to_vec()));
    }
}

/// A block, or trace, that has been translated.
pub struct Translated<'a> {
    /// Its linear address.
    pub rip: u64,
    /// It is a trace.
    pub trace: bool,
    /// Its bytes: of a trace, in the order of their execution, each piece with its linear address.
    pub guest: &'a [(u64, &'a [u8])],
    /// The code: the straight way, and what is rare, each with its host address.
    pub code: [(u64, &'a [u8]); 2],
}

/// Is told of each block that is translated.
pub type Listener = Box<dyn FnMut(&Translated<'_>) + Send>;

/// All translated code.
pub struct Translator<B: Backend = Native> {
    backend: B,
    /// By number, from 1.
    translations: Vec<Translation>,
    edges: Vec<Edge>,
    /// By number, from 1.
    traces: Vec<Trace<B::Saved>>,
    recorder: Option<Recorder>,
    sampler: Sampler,
    links: Links,
    translated: u64,
    /// Times that a block is interpreted before it is translated.
    heat: u32,
    /// Is told of what is translated.
    listener: Option<Listener>,
}

impl<B: Backend> Translator<B> {
    /// One with no code yet.
    ///
    /// # Errors
    /// A sentence about what the host lacks.
    pub fn new(cpu: &mut Cpu) -> Result<Self, String> {
        Ok(Self {
            backend: B::new(cpu)?,
            translations: Vec::with_capacity(USUAL),
            edges: Vec::with_capacity(2 * USUAL),
            traces: Vec::new(),
            recorder: None,
            sampler: Sampler::default(),
            links: Links::default(),
            translated: 0,
            heat: HOT,
            listener: None,
        })
    }

    /// The translation of block `index`, which is about to run; none if it is to be interpreted. `edge` has led here, if it
    /// is not 0.
    pub fn of(&mut self, cache: &mut BlockCache, index: u32, cpu: &mut Cpu, edge: u32) -> Option<u32> {
        let number = self.translation(cache, index, cpu);
        if let Some(number) = number {
            let block = cache.get(index);
            let edge = self.arrive(edge, number, block, cpu);
            if self.recorder.is_none() && self.sampler.is_due(cpu.state.icount) {
                self.sample(edge, number, block, cpu);
            }
        }
        let Some(recorder) = &mut self.recorder else { return number };
        let goes_on = number.is_some_and(|n| recorder.note(index, cache.get(index), cpu.linear_rip(), n, &cpu.state));
        if goes_on {
            return None;
        }
        self.finish_recording(cache, cpu);
        number
    }

    /// The translation of block `index`, which is about to run: counts, and makes it when the block is hot.
    fn translation(&mut self, cache: &mut BlockCache, index: u32, cpu: &mut Cpu) -> Option<u32> {
        if std::mem::take(&mut cache.emptied) {
            self.clear(cpu);
        }
        for number in cache.retired.drain(..) {
            self.retire(number);
        }
        self.translate_strays(cache, cpu);
        let block = cache.get(index);
        if !B::within_limit(cpu, block) {
            return None;
        }
        if block.translation.get() != 0 {
            return Some(block.translation.get());
        }
        let offset = block.offset?;
        if block.checked().is_some() || block.serial == 0 {
            return None;
        }
        block.heat.set(block.heat.get() + 1);
        if block.heat.get() <= self.heat {
            return None;
        }
        if !self.backend.has_room() {
            cache.forget_translations();
            self.clear(cpu);
        }
        let block = cache.get(index);
        let page = cpu.linear_rip() - (block.physical & OFFSET);
        let source = decode(block, offset, (block.physical & OFFSET) as i32, &cpu.memory)?;
        let number = self.make(source, (index, block), page)?;
        block.translation.set(number);
        Some(number)
    }

    /// Translates anew what strays often.
    fn translate_strays(&mut self, cache: &BlockCache, cpu: &mut Cpu) {
        while let Some((number, page)) = self.backend.stray(cpu) {
            let Some(t) = self.translations.get(number as usize - 1) else { continue };
            let block = cache.get(t.block);
            // The entries of a trace's head are the trace's.
            if block.translation.get() != number || t.trace != 0 || !self.backend.has_room() {
                continue;
            }
            let source = block.offset.and_then(|offset| decode(block, offset, (block.physical & OFFSET) as i32, &cpu.memory));
            let Some(made) = source.and_then(|source| self.code(source, block, page, Some(number))) else { continue };
            let t = &mut self.translations[number as usize - 1];
            let old = t.entries();
            (t.near, t.body, t.far, t.gone) = (made.near, made.body, made.far, made.gone);
            for (entry, to) in old.into_iter().zip(t.entries()) {
                self.backend.divert(entry, to);
            }
        }
    }

    /// As [`crate::Processor::abandon`].
    pub fn abandon(self) {
        std::mem::forget((self.translations, self.edges, self.traces));
    }

    /// Drops all code. The numbers that blocks know are void.
    fn clear(&mut self, cpu: &mut Cpu) {
        self.backend.clear(cpu);
        self.translations.clear();
        self.edges.clear();
        self.traces.clear();
        self.links = Links::default();
        cpu.jit.linked_in = [None; 2];
        self.recorder = None;
    }

    /// Translates `source`, which begins with block `index`, `head`, in the page at linear address `page`; its number.
    fn make(&mut self, source: Source, (index, head): (u32, &Block), page: u64) -> Option<u32> {
        let ops = source.ops.clone();
        let Made { far, near, body, gone, needs, .. } = self.code(source, head, page, None)?;
        let (trace, parts, [samples, failures, tries, moves]) = (0, Vec::new(), [0; 4]);
        self.translations.push(Translation {
            block: index,
            near,
            body,
            far,
            gone,
            needs,
            trace,
            parts,
            samples,
            failures,
            tries,
            moves,
            page: self.links.page(head.physical, head.mode),
            callers: Vec::new(),
            _ops: ops,
        });
        Some(self.translations.len() as u32)
    }

    /// Makes the code of `source`: of a new translation, or of `strays`.
    fn code(&mut self, source: Source, head: &Block, page: u64, strays: Option<u32>) -> Option<Made> {
        let Source { instructions, available, ops, starts, turns, bytes, pinned, known } = source;
        let made = self.backend.make(Input {
            instructions,
            ops: &ops,
            starts: &starts,
            available: &available,
            turns: &turns,
            pinned,
            known,
            page: head.physical & !OFFSET,
            mode: head.mode,
            first_edge: self.edges.len(),
            number: strays.unwrap_or(self.translations.len() as u32 + 1),
            copies: strays.is_some(),
        })?;
        if let Some(listener) = &mut self.listener {
            let at = |start: i32| page.wrapping_add(start as u64);
            let guest: Vec<(u64, &[u8])> = bytes.iter().map(|(start, bytes)| (at(*start), bytes.as_slice())).collect();
            let code = made.code.map(|piece| (piece.0, self.backend.bytes(piece)));
            listener(&Translated { rip: guest[0].0, trace: !turns.is_empty(), guest: &guest, code });
        }
        let page = self.links.page(head.physical, head.mode);
        self.edges.extend(made.edges.iter().map(|e| Edge { page, ..*e }));
        self.translated += 1;
        Some(made)
    }

    /// The block of translation `number` is retired: whoever enters it comes back at once.
    fn retire(&mut self, number: u32) {
        let Some(t) = self.translations.get_mut((number as usize).wrapping_sub(1)) else { return };
        for trace in std::mem::take(&mut t.parts) {
            self.drop_trace(trace);
        }
        self.unlink_callers(number);
        let t = &self.translations[number as usize - 1];
        for entry in t.entries() {
            self.backend.divert(entry, t.gone);
        }
    }

    /// Where edge `e` enters translation `number`.
    fn entry(&self, number: u32, e: &Edge) -> u64 {
        let t = &self.translations[number as usize - 1];
        if e.returns {
            return t.far;
        }
        if let (Some(first), true) = (e.closes, t.trace == e.trace) {
            return first;
        }
        let t = if t.trace == 0 { t } else { &self.translations[self.traces[t.trace as usize - 1].number as usize - 1] };
        if e.brought.covers(t.needs) { t.body } else { t.near }
    }

    /// Runs translation `number`, of `block`, as [`Backend::run`].
    pub fn run(&mut self, cpu: &mut Cpu, number: u32, block: &Block, left: u64) -> Back {
        self.enter_page(cpu, self.translations[number as usize - 1].page, block);
        let t = &self.translations[number as usize - 1];
        let left = left.min(self.sampler.until(cpu.state.icount) + SPARE);
        self.backend.run(cpu, block, (t.far, t.near), left)
    }

    /// Translates blocks once they have been interpreted `times` times, and makes traces of loops wherever one is met.
    pub fn set_heat(&mut self, times: u32) {
        self.heat = times;
        self.sampler = Sampler::eager();
    }

    /// Has `listener` told of what is translated from now on.
    pub fn listen(&mut self, listener: Listener) {
        self.listener = Some(listener);
    }

    /// Blocks translated so far.
    #[must_use]
    pub fn translated(&self) -> u64 {
        self.translated
    }
}

/// Decodes `block`, whose first byte is at `offset` of guest memory, and at `start` as its instructions count addresses.
fn decode(block: &Block, offset: u64, start: i32, memory: &GuestMemory) -> Option<Source> {
    let in_page = PAGE_SIZE - (block.physical & OFFSET) as usize;
    let len = block.ops.last()?.end() as usize;
    let mut bytes = vec![0; len];
    let (first, second) = bytes.split_at_mut(len.min(in_page));
    memory.read(offset, first).ok()?;
    if !second.is_empty() {
        memory.read(block.crossing()?.pages[1] * PAGE_SIZE as u64, second).ok()?;
    }
    let mut decoder = Decoder::with_ip(block.mode.bits(), &bytes, start as u64, DecoderOptions::NONE);
    let instructions: Vec<_> = block.ops.iter().map(|_| decoder.decode()).collect();
    let available = (0..block.ops.len()).map(|k| block.plain >> k & 1 != 0).collect();
    let starts = vec![start; instructions.len()];
    Some(Source { instructions, available, ops: block.ops.clone(), starts, bytes: vec![(start, bytes)], ..Source::default() })
}
