//! The translator: hot blocks become host code.
//!
//! | module | what it holds |
//! |---|---|
//! | [`backend`] | what makes and runs code on one kind of host |
//! | [`x86_64`] | the back end for x86-64 |
//! | [`links`] | jumps and calls from page to page |
//! | [`path`] | which way hot loops go |
//! | [`trace`] | traces: hot loops as one piece of code |
//! | [`worker`] | the thread that translates blocks |
//!
//! * A translation belongs to one [`crate::block::Block`] and knows its place in the page only; the page's linear address
//!   is in [`Context::page`]. So code that is mapped at several addresses is translated once.
//! * Blocks of one page are chained by patched jumps, which nothing has to undo: a page's blocks are retired together, and
//!   the entry of a retired one leads out. Jumps to other pages, and to a block that runs over into one, are patched as well, and
//!   taken back with the address space. All other ways go through a jump cache that is emptied with it.
//! * The budget is counted down where a block is left, and asked for where one begins. Translated code is entered with at least
//!   the longest block's worth, and leaves when less is left: the interpreter runs the rest, to the exact instruction.

mod backend;
mod links;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod none;
mod path;
mod trace;
mod worker;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod x86_64;

use std::sync::Arc;

use iced_x86::{Decoder, DecoderOptions};
use softmetal_bus::{GuestMemory, PAGE_SIZE};

pub use self::backend::{Back, Backend};
use self::backend::{Brought, Edge, Input, Made, Maker};
use self::links::Links;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub use self::none::{Context, Native, available, shadow_may_end};
use self::path::Recorder;
use self::trace::{Sampler, Trace};
use self::worker::{Task, When, Worker, Workshop};
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use self::x86_64::{Context, Native, available, shadow_may_end};
use crate::block::{Block, BlockCache};
use crate::op::Op;
use crate::state::{Cpu, Mode};

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
    /// As [`Made::near`], a host address; the others likewise.
    near: u64,
    /// As [`Made::body`].
    body: u64,
    /// As [`Made::far`].
    far: u64,
    /// As [`Made::gone`].
    gone: u64,
    /// What a predecessor must have brought to enter by the body.
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

/// What a block's code is made from.
#[derive(Default)]
struct Image {
    /// As its instructions count addresses.
    start: i32,
    /// Those of its instructions.
    bytes: Vec<u8>,
    /// What the interpreter runs for each.
    ops: Arc<[Op]>,
    /// As [`Block::plain`].
    plain: u64,
    /// Physical address of its page.
    page: u64,
    /// That it was decoded in.
    mode: Mode,
}

impl Image {
    /// That of `block`, whose instructions count addresses from `start`; it must be in guest memory.
    fn of(block: &Block, start: i32, memory: &GuestMemory) -> Option<Self> {
        let mut image = Self::default();
        image.take(block, start, memory)?;
        Some(image)
    }

    /// Becomes that of `block`.
    fn take(&mut self, block: &Block, start: i32, memory: &GuestMemory) -> Option<()> {
        let in_page = PAGE_SIZE - (block.physical & OFFSET) as usize;
        let len = block.ops.last()?.end() as usize;
        self.bytes.resize(len, 0);
        let (first, second) = self.bytes.split_at_mut(len.min(in_page));
        memory.read(block.offset?, first).ok()?;
        if !second.is_empty() {
            memory.read(block.crossing()?.pages[1] * PAGE_SIZE as u64, second).ok()?;
        }
        self.ops.clone_from(&block.ops);
        (self.start, self.plain, self.page, self.mode) = (start, block.plain, block.physical & !OFFSET, block.mode);
        Some(())
    }

    /// Decodes it, in place of what is in `input`.
    fn decode(&self, input: &mut Input) {
        let mut decoder = Decoder::with_ip(self.mode.bits(), &self.bytes, self.start as u64, DecoderOptions::NONE);
        input.instructions.clear();
        input.instructions.extend(self.ops.iter().map(|_| decoder.decode()));
        input.available.clear();
        input.available.extend((0..self.ops.len()).map(|k| self.plain >> k & 1 != 0));
        input.starts.clear();
        input.starts.resize(self.ops.len(), self.start);
        input.ops.clone_from(&self.ops);
        (input.page, input.mode) = (self.page, self.mode);
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

/// The guest's code that is translated.
struct Guest<'a> {
    /// The linear address of the page from whose start addresses count.
    page: u64,
    pieces: &'a [(i32, &'a [u8])],
    trace: bool,
}

/// What a back end's makers make.
type Code<B> = <<B as Backend>::Maker as Maker>::Code;

/// Is told of each block that is translated.
pub type Listener = Box<dyn FnMut(&Translated<'_>) + Send>;

/// All translated code.
pub struct Translator<B: Backend = Native> {
    backend: B,
    workshop: Workshop<B::Maker>,
    worker: Worker<B::Maker>,
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
        let backend = B::new(cpu)?;
        Ok(Self {
            workshop: Workshop::new(backend.maker()),
            worker: Worker::new(),
            backend,
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

    /// The translation of block `index`, which is about to run: counts, and has it made when the block is hot.
    fn translation(&mut self, cache: &mut BlockCache, index: u32, cpu: &mut Cpu) -> Option<u32> {
        if std::mem::take(&mut cache.emptied) {
            self.clear(cpu);
        }
        for number in cache.retired.drain(..) {
            self.retire(number);
        }
        self.translate_strays(cache, cpu);
        if self.worker.calls() {
            self.meet_worker(cache, cpu);
        }
        let block = cache.get(index);
        if !B::within_limit(cpu, block) {
            return None;
        }
        if block.translation.get() != 0 {
            return Some(block.translation.get());
        }
        if block.offset.is_none() || block.checked().is_some() || block.serial == 0 {
            return None;
        }
        let heat = block.heat.get().saturating_add(1);
        block.heat.set(heat);
        let when = self.worker.when(heat, self.heat);
        if when == When::Later {
            return None;
        }
        let mut task = self.worker.task();
        task.take(index, block, cpu.linear_rip() & !OFFSET, &cpu.memory)?;
        if when == When::Meanwhile {
            self.worker.ask(task);
            return None;
        }
        self.workshop.carry_out(&mut task, false);
        let number = self.adopt(&mut task, cache, cpu);
        self.worker.recycle(task);
        number
    }

    /// Gives the worker what there is to do, and takes what it has done.
    #[inline(never)]
    fn meet_worker(&mut self, cache: &mut BlockCache, cpu: &mut Cpu) {
        self.worker.hand_over(|| Workshop::new(self.backend.maker()));
        while let Some(mut task) = self.worker.done() {
            self.adopt(&mut task, cache, cpu);
            self.worker.recycle(task);
        }
    }

    /// The number of the translation that was made, if its block is still there.
    fn adopt(&mut self, task: &mut Task<Code<B>>, cache: &mut BlockCache, cpu: &mut Cpu) -> Option<u32> {
        let block = cache.get(task.index);
        if !task.fits || block.serial != task.serial || block.translation.get() != 0 {
            return None;
        }
        if !self.backend.has_room() {
            cache.forget_translations();
            self.clear(cpu);
        }
        let number = self.translations.len() as u32 + 1;
        let (made, page) = self.place_block(task, number);
        self.enter(made, (task.index, page), &task.image.ops);
        let block = cache.get(task.index);
        block.translation.set(number);
        // When all code has been dropped, it is asked for at once.
        block.heat.set(self.heat);
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
            let (index, mut task) = (t.block, self.worker.task());
            if task.take(index, block, page, &cpu.memory).is_some() && self.workshop.carry_out(&mut task, true) {
                let (made, _) = self.place_block(&mut task, number);
                let t = &mut self.translations[number as usize - 1];
                let old = t.entries();
                (t.near, t.body, t.far, t.gone) = (made.near, made.body, made.far, made.gone);
                for (entry, to) in old.into_iter().zip(t.entries()) {
                    self.backend.divert(entry, to);
                }
            }
            self.worker.recycle(task);
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

    /// Enters a translation, of code in page `page`, which begins with block `index`; its number.
    fn enter(&mut self, made: Made, (index, page): (u32, u32), ops: &Arc<[Op]>) -> u32 {
        let Made { far, near, body, gone, needs, .. } = made;
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
            page,
            callers: Vec::new(),
            _ops: ops.clone(),
        });
        self.translations.len() as u32
    }

    /// Places code for translation `number`, made from `guest`, which begins at physical address `start` in a mode. There must be
    /// room. The number of its page, too.
    fn place(&mut self, code: &mut Code<B>, number: u32, (start, mode): (u64, Mode), guest: Guest) -> (Made, u32) {
        let (first, page) = (self.edges.len(), self.links.page(start, mode));
        let made = self.backend.place(code, number, &mut self.edges);
        self.edges[first..].iter_mut().for_each(|e| e.page = page);
        self.translated += 1;
        if let Some(listener) = &mut self.listener {
            let at = |start: i32| guest.page.wrapping_add(start as u64);
            let pieces: Vec<(u64, &[u8])> = guest.pieces.iter().map(|&(start, bytes)| (at(start), bytes)).collect();
            let code = made.code.map(|piece| (piece.0, self.backend.bytes(piece)));
            listener(&Translated { rip: pieces[0].0, trace: guest.trace, guest: &pieces, code });
        }
        (made, page)
    }

    /// Places the code of a block for translation `number`, as [`Translator::place`].
    fn place_block(&mut self, task: &mut Task<Code<B>>, number: u32) -> (Made, u32) {
        let Task { code, image, page, .. } = task;
        let pieces = [(image.start, &image.bytes[..])];
        self.place(code, number, (image.page, image.mode), Guest { page: *page, pieces: &pieces, trace: false })
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

    /// As [`crate::Processor::assume_other_maker`]; nothing has been translated yet.
    pub fn assume_other_maker(&mut self, cpu: &mut Cpu) {
        self.backend.assume_other_maker(cpu);
        self.workshop = Workshop::new(self.backend.maker());
    }

    /// Has blocks translated by a thread of its own while the interpreter goes on with them, or in the run loop.
    pub fn use_thread(&mut self, on: bool) {
        self.worker.set_on(on);
    }

    /// As [`crate::Processor::finish_translations`].
    pub fn finish(&mut self) {
        self.worker.finish(|| Workshop::new(self.backend.maker()));
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
