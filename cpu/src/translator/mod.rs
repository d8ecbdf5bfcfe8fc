//! The translator: hot blocks are re-emitted as host code.
//!
//! The guest speaks the host's language, so an instruction is emitted as it is, with registers renamed and its memory
//! operand behind an inline look at the TLB; whatever else there is goes through the interpreter's handler, as does an
//! access that misses. So no instruction means anything of its own here.
//!
//! | module | what it holds |
//! |---|---|
//! | [`policy`] | which instructions are re-emitted |
//! | [`emit`] | from a block's instructions to host code |
//! | [`path`] | which way hot loops go |
//! | [`trace`] | traces: hot loops as one piece of code |
//! | [`registers`] | where the guest's registers are meanwhile |
//! | [`context`] | what translated code works with, and where it finds it |
//! | [`thunks`] | the way in and out |
//! | [`assembler`] | bytes of host instructions |
//! | [`x87`] | the x87 registers, in the host's while translated code uses them (unsafe) |
//! | [`arena`] | code memory (unsafe) |
//!
//! * Guest flags are the host's all the time: address checks, the budget and jumps use LEA, PEXT, SHRX and JRCXZ alone.
//! * A translation belongs to one [`crate::block::Block`] and knows its place in the page only; the page's linear address
//!   is in [`Context::page`]. So code that is mapped at several addresses is translated once.
//! * Blocks of one page are chained by patched jumps, which nothing has to undo: a page's blocks are retired together, and
//!   the entry of a retired one leads out. All other ways, those to a block that runs over into a second page included, go through a jump cache that is emptied with the address space.
//! * The budget is counted down where a block is left. Translated code is entered with at least the longest block's worth,
//!   and leaves when less is left: the interpreter runs the rest, to the exact instruction.

mod arena;
#[allow(missing_docs)]
mod assembler;
mod context;
#[allow(missing_docs)]
mod emit;
#[allow(missing_docs)]
mod path;
#[allow(missing_docs)]
mod policy;
mod registers;
mod thunks;
mod trace;
mod undefined;
mod x87;

use std::sync::Arc;

use iced_x86::{Decoder, DecoderOptions, Instruction};
use softmetal_bus::{GuestMemory, PAGE_SIZE};

use self::arena::Arena;
use self::context::Jumps;
pub use self::context::{Context, SPARE};
use self::emit::{Brought, Edge, Emitted, Emitter, Input, Kind, Site, Turn};
use self::path::Recorder;
use self::policy::Host;
use self::thunks::{Thunks, result};
use self::trace::Trace;
use crate::block::{Block, BlockCache};
use crate::flags;
use crate::op::{BLOCK_RIP, Exit, Op};
use crate::state::Cpu;

/// Times that a block is interpreted before it is translated, unless somebody wants it otherwise.
const HOT: u32 = 12;
/// So many translations are expected: the host commits memory only for those that there are, and nothing is moved.
const USUAL: usize = 1 << 16;
/// Times that a loop goes round before it is recorded, or a trace's exits are compared with its rounds.
const HOT_LOOP: u32 = 16384;
/// Room that one block's code may need.
const MOST: usize = 64 << 10;
/// Instructions that translated code may run before the run loop looks around.
const SLICE: u64 = 1 << 20;
const OFFSET: u64 = PAGE_SIZE as u64 - 1;

/// A translated block.
struct Translation {
    near: u64,
    body: u64,
    far: u64,
    gone: u64,
    needs: Brought,
    /// The trace to which its entries lead, or 0.
    trace: u32,
    /// The traces that its block is in.
    parts: Vec<u32>,
    /// How often a trace was made that begins here, ...
    tries: u8,
    /// ... and how often one was dropped because of where its pages are.
    moves: u8,
    /// What its code points to.
    _ops: Arc<[Op]>,
}

impl Translation {
    /// Where its code begins.
    fn entries(&self) -> [u64; 2] {
        [self.near, self.body]
    }
}

/// Bytes of a JMP.
const JUMP: usize = 5;

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

/// The masks of MXCSR: with one of them clear, blocks with vector instructions are interpreted.
const MASKS: u32 = 0x1f80;

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

/// Why translated code came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// RIP is the next block; the number is that of the edge taken, if a jump can be patched.
    Next(u32),
    /// As [`Exit::Fault`].
    Fault,
    /// The block at RIP must be interpreted.
    Interpret,
}

/// Whether this host can run translated code.
///
/// # Errors
/// A sentence about what it lacks.
pub fn available() -> Result<(), String> {
    host_and_memory().map(|_| ())
}

fn host_and_memory() -> Result<(Host, Arena), String> {
    let host = Host::detect().ok_or("the translator needs a processor with AVX2 and BMI2")?;
    let arena = Arena::new().map_err(|e| format!("the translator needs executable memory, which the host does not give: {e}"))?;
    Ok((host, arena))
}

/// All translated code.
pub struct Translator {
    arena: Arena,
    thunks: Thunks,
    emitter: Emitter,
    /// By number, from 1.
    translations: Vec<Translation>,
    edges: Vec<Edge>,
    /// By number, from 1.
    traces: Vec<Trace>,
    recorder: Option<Recorder>,
    translated: u64,
    /// Times that a block is interpreted before it is translated.
    heat: u32,
    /// Times that a loop goes round before it is recorded.
    loop_heat: u32,
    /// Is told of what is translated.
    listener: Option<Listener>,
}

impl Translator {
    /// One with no code yet.
    ///
    /// # Errors
    /// A sentence about what the host lacks.
    pub fn new(cpu: &mut Cpu) -> Result<Self, String> {
        let (host, mut arena) = host_and_memory()?;
        let thunks = thunks::make(&mut arena);
        cpu.jit.handle = handle as *const () as u64;
        cpu.jit.jumps.iter_mut().for_each(Jumps::clear);
        let emitter = Emitter::new(host);
        Ok(Self {
            arena,
            thunks,
            emitter,
            translations: Vec::with_capacity(USUAL),
            edges: Vec::with_capacity(2 * USUAL),
            traces: Vec::new(),
            recorder: None,
            translated: 0,
            heat: HOT,
            loop_heat: HOT_LOOP,
            listener: None,
        })
    }

    /// The translation of block `index`, which is about to run; none if it is to be interpreted. `edge` has led here, if it
    /// is not 0.
    pub fn of(&mut self, cache: &mut BlockCache, index: u32, cpu: &mut Cpu, edge: u32) -> Option<u32> {
        let number = self.translation(cache, index, cpu);
        if edge != 0 {
            if let Some(number) = number {
                self.arrive(edge, number, cache.get(index), cpu);
            }
        }
        let Some(recorder) = &mut self.recorder else { return number };
        let goes_on = number.is_some_and(|n| recorder.note(index, cache.get(index), cpu.linear_rip(), n, cpu.state.icount));
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
        let block = cache.get(index);
        if block.mode.bounded() && block.ops.last().is_none_or(|op| cpu.state.rip + op.end() > cpu.jit.code_reach) {
            return None;
        }
        if block.translation.get() != 0 {
            return Some(block.translation.get());
        }
        let offset = block.offset?;
        if block.checked.is_some() || block.serial == 0 {
            return None;
        }
        block.heat.set(block.heat.get() + 1);
        if block.heat.get() <= self.heat {
            return None;
        }
        if !self.arena.has_room(MOST) {
            cache.forget_translations();
            self.clear(cpu);
        }
        let block = cache.get(index);
        let number = self.translate(block, offset, &cpu.memory, cpu.linear_rip())?;
        block.translation.set(number);
        Some(number)
    }

    /// Drops all code. The numbers that blocks know are void.
    fn clear(&mut self, cpu: &mut Cpu) {
        self.arena.truncate(self.thunks.len);
        self.translations.clear();
        self.edges.clear();
        self.traces.clear();
        self.recorder = None;
        cpu.jit.jumps.iter_mut().for_each(context::Jumps::clear);
    }

    /// Translates `block`, whose first byte is at `offset` of guest memory and at linear address `linear`; its number.
    fn translate(&mut self, block: &Block, offset: u64, memory: &GuestMemory, linear: u64) -> Option<u32> {
        let source = decode(block, offset, (block.physical & OFFSET) as i32, memory)?;
        self.make(source, block, linear - (block.physical & OFFSET), true)
    }

    /// Translates `source`, which begins with `head`, in the page at linear address `page`; its number. With `counted`,
    /// its ways back, or those out of a trace, count.
    fn make(&mut self, source: Source, head: &Block, page: u64, counted: bool) -> Option<u32> {
        let Source { instructions, available, ops, starts, turns, bytes, pinned } = source;
        let site = |k: usize, kind| Site { op: &raw const ops[k], run: 1, start: starts[k], kind };
        let missed = |i: &Instruction| if policy::uses_x87(i) { Kind::MissedX87 } else { Kind::Missed };
        let mut sites: Vec<Site> =
            instructions.iter().enumerate().flat_map(|(k, i)| [site(k, Kind::Handler), site(k, missed(i))]).collect();
        sites.push(site(0, Kind::BringX87));
        let origin = self.arena.next();
        let input = Input {
            instructions: &instructions,
            turns: &turns,
            counted,
            pinned,
            sites: &mut sites,
            page: head.physical & !OFFSET,
            mode: head.mode,
            thunks: self.thunks,
            origin,
            first_edge: self.edges.len(),
            available: &available,
        };
        let emitted = self.emitter.emit(input);
        let (straight, aside) = emitted.code.parts();
        if straight.len().max(aside.len()) > MOST {
            return None;
        }
        self.arena.append(straight, aside);
        self.edges.extend(emitted.edges);
        let far = origin.straight;
        let Emitted { near, body, gone, needs, .. } = emitted;
        let (trace, parts, tries, moves) = (0, Vec::new(), 0, 0);
        self.translations.push(Translation { near, body, far, gone, needs, trace, parts, tries, moves, _ops: ops });
        self.translated += 1;
        if let Some(listener) = &mut self.listener {
            let at = |start: i32| page.wrapping_add(start as u64);
            let guest: Vec<(u64, &[u8])> = bytes.iter().map(|(start, bytes)| (at(*start), bytes.as_slice())).collect();
            let code = [(origin.straight, straight), (origin.aside, &aside[..emitted.aside])];
            listener(&Translated { rip: guest[0].0, trace: !turns.is_empty(), guest: &guest, code });
        }
        self.emitter.recycle(emitted.code);
        Some(self.translations.len() as u32)
    }

    /// The block of translation `number` is retired: whoever enters it comes back at once.
    fn retire(&mut self, number: u32) {
        let Some(t) = self.translations.get_mut((number as usize).wrapping_sub(1)) else { return };
        for trace in std::mem::take(&mut t.parts) {
            self.drop_trace(trace);
        }
        let t = &self.translations[number as usize - 1];
        for entry in t.entries() {
            self.arena.patch(entry, &jump(entry, t.gone));
        }
    }

    /// Where edge `e` enters translation `number`.
    fn entry(&self, number: u32, e: &Edge) -> u64 {
        let t = &self.translations[number as usize - 1];
        if let (Some(first), true) = (e.closes, t.trace == e.trace) {
            return first;
        }
        let t = if t.trace == 0 { t } else { &self.translations[self.traces[t.trace as usize - 1].number as usize - 1] };
        if e.brought.covers(t.needs) { t.body } else { t.near }
    }

    /// Has the JMP whose displacement is at `field` lead to `to`.
    fn patch_jump(&mut self, field: u64, to: u64) {
        self.arena.patch(field, &(to.wrapping_sub(field + 4) as u32).to_le_bytes());
    }

    /// Runs translation `number` and what follows, for at most `left` instructions, of which there must be more than
    /// [`SPARE`]. Afterwards all state is in [`Cpu`]; the instruction count is that
    /// before the block in which an operation ended the run.
    pub fn run(&mut self, cpu: &mut Cpu, number: u32, block: &Block, left: u64) -> Back {
        let t = &self.translations[number as usize - 1];
        let rip = cpu.state.rip;
        let left = left.min(SLICE);
        learn_time(cpu);
        let s = &mut cpu.state;
        let flags = s.lazy.bits();
        let jit = &mut cpu.jit;
        jit.grant(s.icount, left);
        jit.page = rip.wrapping_sub(block.physical & (PAGE_SIZE as u64 - 1));
        jit.flags = to_host(flags);
        jit.vectors_home = 1;
        jit.edge = 0;
        let linear = cpu.linear_rip();
        Jumps::of(cpu).set(linear, t.far);
        // SAFETY: the code was made for this processor's layout, by `emit` and `thunks`, and lives as long as the arena;
        // it reaches guest memory through the TLB alone.
        let back = unsafe { arena::call(self.thunks.enter, cpu, t.near) };
        x87::take_home(cpu);
        let s = &mut cpu.state;
        s.lazy.set_bits(from_host(cpu.jit.flags));
        // At the start of the block that was left.
        s.icount = cpu.jit.icount();
        match back {
            result::NEXT => Back::Next(cpu.jit.edge as u32),
            result::INTERPRET => Back::Interpret,
            _ => Back::Fault,
        }
    }

    /// Translates blocks once they have been interpreted `times` times, and loops that have gone round about as often.
    pub fn set_heat(&mut self, times: u32) {
        (self.heat, self.loop_heat) = (times, times + 1);
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

/// A JMP at `from` to `to`.
fn jump(from: u64, to: u64) -> [u8; JUMP] {
    let [a, b, c, d] = (to.wrapping_sub(from + JUMP as u64) as u32).to_le_bytes();
    [0xe9, a, b, c, d]
}

/// Decodes `block`, whose first byte is at `offset` of guest memory, and at `start` as its instructions count addresses.
fn decode(block: &Block, offset: u64, start: i32, memory: &GuestMemory) -> Option<Source> {
    let in_page = PAGE_SIZE - (block.physical & OFFSET) as usize;
    let len = block.ops.last()?.end() as usize;
    let mut bytes = vec![0; len];
    let (first, second) = bytes.split_at_mut(len.min(in_page));
    memory.read(offset, first).ok()?;
    if !second.is_empty() {
        memory.read(block.pages[1] * PAGE_SIZE as u64, second).ok()?;
    }
    let mut decoder = Decoder::with_ip(block.mode.bits(), &bytes, start as u64, DecoderOptions::NONE);
    let mut instructions: Vec<_> = block.ops.iter().map(|_| decoder.decode()).collect();
    let available = (0..block.ops.len()).map(|k| block.plain >> k & 1 != 0).collect();
    if !block.mode.long() {
        instructions.iter_mut().for_each(emit::widen);
    }
    let starts = vec![start; instructions.len()];
    Some(Source { instructions, available, ops: block.ops.clone(), starts, turns: Vec::new(), bytes: vec![(start, bytes)], pinned: None })
}

fn to_host(flags: u64) -> u64 {
    (flags & 0xff) << 8 | flags >> 11 & 1
}

fn from_host(flags: u64) -> u64 {
    flags >> 8 & 0xd5 | (flags & 1) << 11
}

/// The shadow of STI ends with the next instruction, which is sure to be run by translated code, and holds nothing off.
pub fn shadow_may_end(cpu: &Cpu) -> bool {
    let s = &cpu.state;
    s.shadow && s.eflags & flags::RF == 0 && cpu.nothing_held_off() && s.mxcsr & MASKS == MASKS && x87::can_be_brought(cpu)
}

/// Takes over what the time-stamp counter has beyond the instruction count, if that may have changed.
fn learn_time(cpu: &mut Cpu) {
    if std::mem::take(&mut cpu.time_moved) {
        let ahead = cpu.time_stamp(0);
        cpu.jit.learn_time(ahead);
    }
}

/// Where a handler's branch leads: to translated code, unless the run loop has something to look at.
fn chain(cpu: &mut Cpu) -> u64 {
    let in_shadow = shadow_may_end(cpu);
    if cpu.jit.is_spent() || cpu.asks(in_shadow) {
        return result::NEXT;
    }
    let linear = cpu.linear_rip();
    let Some(code) = Jumps::of(cpu).get(linear) else { return result::NEXT };
    if in_shadow {
        (cpu.state.shadow, cpu.state.debug_shadow) = (false, false);
    }
    code
}

/// Carries out operations for translated code. The result is one of [`result`], or the host address of code to go on with.
extern "sysv64" fn handle(cpu: *mut Cpu, site: *const Site) -> u64 {
    // SAFETY: translated code passes the processor that it was entered with, which nobody else uses meanwhile, and a site
    // of a translation, which lives, as do its operations, until all code is dropped.
    let (cpu, site, ops) = unsafe { (&mut *cpu, &*site, std::slice::from_raw_parts((*site).op, (*site).run.into())) };
    let start = cpu.jit.page.wrapping_add(site.start as u64);
    match site.kind {
        Kind::BringX87 if x87::bring(cpu) => return result::GO_ON,
        Kind::BringX87 => {
            cpu.state.rip = start;
            return result::INTERPRET;
        }
        // An access has nothing to do with them; whatever else there is may have.
        Kind::Missed => {}
        Kind::MissedX87 | Kind::Handler => x87::take_home(cpu),
    }
    cpu.state.regs[usize::from(BLOCK_RIP)] = start;
    cpu.block_icount = cpu.jit.icount();
    // What the rest of the longest block needs stays; a shorter one may give an iteration back to the interpreter.
    cpu.repeat_budget = cpu.jit.left().saturating_sub(SPARE);
    cpu.state.lazy.set_bits(from_host(cpu.jit.flags));
    let exit = crate::op::next(cpu, ops);
    cpu.jit.flags = to_host(cpu.state.lazy.bits());
    learn_time(cpu);
    // A table of jumps may be reached by nothing but jumps.
    if exit != Exit::Fault && site.kind != Kind::Handler {
        cpu.mmu.fill_fast(cpu.jit.lin);
    }
    match exit {
        Exit::End => {
            cpu.jit.retire(std::mem::take(&mut cpu.repeat_extra));
            result::GO_ON
        }
        Exit::Branch | Exit::Leave => {
            if exit == Exit::Leave {
                x87::take_home(cpu);
            }
            cpu.jit.retire(u64::from(cpu.exit_ordinal) + 1 + std::mem::take(&mut cpu.repeat_extra));
            cpu.jit.edge = 0;
            chain(cpu)
        }
        Exit::Fault => {
            let failed = ops.iter().find(|op| op.ordinal == cpu.exit_ordinal);
            cpu.jit.failed = failed.copied();
            result::FAULT
        }
    }
}
