//! What a back end is: it makes host code of blocks and traces, for any place; places it, links it, and runs it.
//!
//! Everything else, from what is translated to which way hot loops go, is [`super::Translator`]'s, and the same on every
//! host. Places in code are host addresses.

use std::sync::Arc;

use iced_x86::Instruction;

use crate::block::Block;
use crate::op::Op;
use crate::state::{Cpu, Mode};

/// Makes code, on whatever thread.
pub trait Maker: Send + 'static {
    /// Code that has no place yet.
    type Code: Default + Send;

    /// How code goes on after each of these instructions, of which those that are not `available` raise exceptions.
    fn leads(&mut self, instructions: &[Instruction], available: &[bool], mode: Mode) -> Vec<Leads>;

    /// Makes code, in place of what is in `code`; false if it gets too long. The instructions may be others afterwards.
    fn make(&mut self, input: &mut Input, code: &mut Self::Code) -> bool;
}

/// Has and runs code of one kind of host. What its code works with beside the architectural state is [`Cpu::jit`].
pub trait Backend: Sized {
    /// What makes its code.
    type Maker: Maker;
    /// What [`Backend::divert`] overwrites.
    type Saved: Copy;

    /// One with no code yet.
    ///
    /// # Errors
    /// A sentence about what the host lacks.
    fn new(cpu: &mut Cpu) -> Result<Self, String>;

    /// One more maker. All make the same of the same, and it does not matter what becomes of other code meanwhile.
    fn maker(&self) -> Self::Maker;

    /// Forgets all code, and makes it from now on as on a processor of another maker, if that is different. For tests.
    fn assume_other_maker(&mut self, cpu: &mut Cpu);

    /// Whether there is room for one more block or trace.
    fn has_room(&self) -> bool;

    /// Places code, that of translation `number`, and appends its edges, numbered by their places there. There must be room. It is
    /// placed once.
    fn place(&mut self, code: &mut <Self::Maker as Maker>::Code, number: u32, edges: &mut Vec<Edge>) -> Made;

    /// The bytes of a piece of [`Made::code`].
    fn bytes(&self, piece: (u64, usize)) -> &[u8];

    /// Has the jump whose target is at `field` ([`Edge::field`]) lead to `to`.
    fn link(&mut self, field: u64, to: u64);

    /// Has whoever comes to `entry` of some code go to `to` instead; what [`Backend::restore`] undoes that with.
    fn divert(&mut self, entry: u64, to: u64) -> Self::Saved;

    /// Undoes [`Backend::divert`]; the last comes first, since entries may be one.
    fn restore(&mut self, entry: u64, saved: Self::Saved);

    /// Makes code that goes to the linear address that an edge to another page leads to, by what is known of addresses; leaves where
    /// nothing is. There must be room.
    fn look_up(&mut self, user: bool) -> u64;

    /// Drops all code; places are void.
    fn clear(&mut self, cpu: &mut Cpu);

    /// A translation whose code often goes ways that it was not made for, and the linear address of its page: each is told
    /// about once.
    fn stray(&mut self, cpu: &mut Cpu) -> Option<(u32, u64)>;

    /// Forgets what is known of addresses: code finds only by its own jumps what [`Backend::run`] has not been told of since.
    fn forget_addresses(&mut self, cpu: &mut Cpu);

    /// Whether all of `block`, which begins at RIP, is within the limit of CS.
    fn within_limit(cpu: &Cpu, block: &Block) -> bool;

    /// Runs the code of `block`, which begins at RIP, by [`Made::far`] and [`Made::near`], and what follows, for at most `left`
    /// instructions, of which there must be more than [`super::SPARE`]. Afterwards all state is in [`Cpu`]; the
    /// instruction count is that before the block in which an operation ended the run.
    fn run(&mut self, cpu: &mut Cpu, block: &Block, entries: (u64, u64), left: u64) -> Back;
}

/// What code is made from: the instructions of a block or trace. Their addresses count from the start of the page.
#[derive(Default)]
pub struct Input {
    /// All of them, one after the other as they are run.
    pub instructions: Vec<Instruction>,
    /// What the interpreter runs for each.
    pub ops: Arc<[Op]>,
    /// The start of each one's block.
    pub starts: Vec<i32>,
    /// By instruction: the interpreter's handler does what the instruction says (it is neither invalid nor unavailable).
    pub available: Vec<bool>,
    /// Of a trace: how it goes on after each instruction but the last; of a block: nothing.
    pub turns: Vec<Turn>,
    /// A trace over several pages counts only where the first one's is at this linear address, and code is what it is in this
    /// epoch.
    pub pinned: Option<[u64; 2]>,
    /// Of a trace: what general registers seem to hold whenever it begins.
    pub known: [Option<u64>; 16],
    /// Physical address of the page.
    pub page: u64,
    /// That the instructions were decoded in.
    pub mode: Mode,
    /// It has strayed often: what is made for that is worth its room.
    pub copies: bool,
}

impl Input {
    /// Appends the first `n` instructions of another one.
    pub fn extend(&mut self, other: &Self, n: usize) {
        let from = self.ops.len();
        self.instructions.extend(&other.instructions[..n]);
        self.available.extend(&other.available[..n]);
        self.starts.extend(&other.starts[..n]);
        let more = other.ops[..n].iter().enumerate().map(|(k, op)| Op { ordinal: (from + k) as u16, ..*op });
        self.ops = self.ops.iter().copied().chain(more).collect();
    }
}

/// What code was made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Made {
    /// The straight way, and what is rare: the host address and the length of each.
    pub code: [(u64, usize); 2],
    /// The entry for somebody who knows the linear address alone.
    pub far: u64,
    /// The entry for a predecessor in the same page.
    pub near: u64,
    /// The entry for a predecessor in the same page that leaves with all that is needed.
    pub body: u64,
    /// All that is needed there.
    pub needs: Brought,
    /// The code that takes the entries' place when the block is retired.
    pub gone: u64,
}

/// How code goes on after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leads {
    /// With the next one, if with any.
    On,
    /// There (`at`, counted from the start of the page), or with the next one if that depends on a condition. A `call` comes back.
    To { at: i64, call: bool },
    /// To an address that is computed.
    Anywhere,
    /// Not at all: what it changes concerns translated code.
    Out,
}

/// How a path goes on after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// With the next one.
    On,
    /// Where its jump leads.
    Taken,
}

/// Where an edge leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// To a physical address in the same page.
    Here(u64),
    /// To a linear address counted from the start of the page. `leaves` is the code that comes back to find it.
    Elsewhere { at: i64, leaves: u64 },
}

/// A direct jump to another block.
#[derive(Clone, Copy, Debug)]
pub struct Edge {
    /// Where its target is written.
    pub field: u64,
    /// Where it leads in the guest.
    pub target: Target,
    /// That of the code on either side.
    pub mode: Mode,
    /// What is in the host's registers where it is taken.
    pub brought: Brought,
    /// Of the last instruction's way back to the first: where that is, behind all that must be looked at first.
    pub closes: Option<u64>,
    /// A trace is entered where it does not count.
    pub guards: bool,
    /// The trace that it leaves, or 0.
    pub trace: u32,
    /// How often it was met by a sample.
    pub samples: u8,
    /// A call returns here, as to any address that is looked up: it leads to [`Made::far`].
    pub returns: bool,
    /// The number of the page that it lies in.
    pub page: u32,
    /// To another page: the translation that it leads to now, or 0.
    pub leads_to: u32,
    /// It is in the list of those that are to be taken back.
    pub listed: bool,
    /// How often it was taken back too soon.
    pub taken_back: u8,
}

impl Edge {
    /// One whose target is written at `field`, of code of `mode`.
    pub fn new(field: u64, target: Target, mode: Mode, brought: Brought) -> Self {
        Self {
            field,
            target,
            mode,
            brought,
            closes: None,
            guards: false,
            trace: 0,
            samples: 0,
            returns: false,
            page: 0,
            leads_to: 0,
            listed: false,
            taken_back: 0,
        }
    }
}

/// Register files that are in the host's where a block is entered or left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Brought {
    /// The vector registers.
    pub vectors: bool,
    /// Those of x87 and MMX.
    pub x87: bool,
}

impl Brought {
    /// Whether nothing that `needs` names must still be brought.
    pub fn covers(self, needs: Self) -> bool {
        (self.vectors || !needs.vectors) && (self.x87 || !needs.x87)
    }
}

/// Why translated code came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// RIP is the next block; the number is that of the edge taken, if a jump can be patched.
    Next(u32),
    /// As [`crate::op::Exit::Fault`].
    Fault,
    /// The block at RIP must be interpreted.
    Interpret,
}
