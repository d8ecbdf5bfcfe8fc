//! From a block's instructions to host code.
//!
//! | module | what it emits |
//! |---|---|
//! | [`memory`] | addresses, and the look at the TLB |
//! | [`groups`] | which accesses share one look |
//! | [`shared`] | the look that they share |
//! | [`native`] | instructions as they are |
//! | [`narrow`] | what is otherwise in code of 16 and 32 bits |
//! | [`stack`] | PUSH, POP, LEAVE |
//! | [`control`] | jumps, and the ways out of a block |

mod control;
mod groups;
mod memory;
mod narrow;
mod native;
mod shared;
mod stack;

use std::mem::offset_of;

use iced_x86::{Encoder, Instruction, InstructionInfoFactory};

use self::groups::Plan;
pub use self::groups::SLOTS;
pub use self::narrow::To;
use self::shared::Kept;
use super::super::backend::{Brought, Edge, Input, Turn};
use super::arena::Origin;
use super::assembler::{Assembler, At, Jump, host};
use super::context;
use super::policy::{self, Host, Way};
use super::thunks::Thunks;
use crate::op::Op;
use crate::state::Mode;

/// Operations as translated code hands them to [`super::handle`]; a copy lies beside the code.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Site {
    /// The first; it lies among the translation's own.
    pub op: *const Op,
    /// How many there are.
    pub run: u16,
    /// The start of its block, counted from the start of the page.
    pub start: i32,
    pub kind: Kind,
}

/// What [`super::handle`] is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To carry out the operations.
    Handler,
    /// To carry out an operation whose access at [`context::LIN`] missed the TLB.
    Missed,
    /// The same, of an operation that uses the x87 registers.
    MissedX87,
    /// To bring the x87 registers into the host's.
    BringX87,
}

impl Site {
    /// As it lies in memory.
    fn bytes(&self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        bytes[offset_of!(Self, op)..][..8].copy_from_slice(&(self.op as u64).to_le_bytes());
        bytes[offset_of!(Self, run)..][..2].copy_from_slice(&self.run.to_le_bytes());
        bytes[offset_of!(Self, start)..][..4].copy_from_slice(&self.start.to_le_bytes());
        bytes[offset_of!(Self, kind)] = self.kind as u8;
        bytes
    }
}

/// What a block became. Places are host addresses.
pub struct Emitted {
    pub code: Assembler,
    /// Bytes of code aside; what comes behind them is data.
    pub aside: usize,
    /// The entry that takes the page over from its predecessor.
    pub near: u64,
    /// The entry for a predecessor that leaves with all that the block needs.
    pub body: u64,
    pub needs: Brought,
    /// The code that takes the entry's place when the block is retired.
    pub gone: u64,
    pub edges: Vec<Edge>,
}

struct Slow {
    from: Jump,
    site: usize,
    lin: u8,
    resume: usize,
}

/// A jump whose target the jump cache does not know.
struct Unknown {
    from: Jump,
    k: usize,
    /// What the stack pointer becomes.
    stack: Option<At>,
}

struct Out {
    from: [Jump; 2],
    edge: usize,
    target: u16,
}

/// What makes code; reused for all blocks.
pub struct Emitter {
    encoder: Encoder,
    info: InstructionInfoFactory,
    /// Room for code.
    buffer: Vec<u8>,
    pub host: Host,
}

struct Block<'a> {
    a: Assembler,
    thunks: Thunks,
    user: bool,
    start: u16,
    sites: &'a [Site],
    /// References to copies of sites.
    cited: Vec<(Jump, usize)>,
    instructions: &'a [Instruction],
    ways: &'a [Way],
    turns: &'a [Turn],
    needs: Brought,
    slow: Vec<Slow>,
    outs: Vec<Out>,
    taken: Vec<(Jump, usize, To)>,
    unknown: Vec<Unknown>,
    /// Indirect transfers that do not go where the path goes.
    surprises: Vec<(Jump, usize, Way)>,
    /// Ways out of a trace that is entered where it does not count.
    unpinned: Vec<Jump>,
    /// Where the first instruction is.
    first: usize,
    edges: Vec<Edge>,
    first_edge: usize,
    /// Physical address of the page.
    page: u64,
    mode: Mode,
    plan: Plan,
    /// The instruction that is being emitted, ...
    current: usize,
    /// ... without its groups.
    aside: bool,
    /// What the stack pointer is still to be moved by.
    owed: i32,
    /// The group whose find is in R11.
    held: Option<usize>,
    kept: Vec<Kept>,
    /// Leaders whose check fails, and their instructions.
    strays: Vec<(Jump, usize)>,
    /// Which of `slow` go on aside, and where.
    detours: Vec<(usize, usize)>,
    /// An instruction that goes through its handler against expectation, where groups are open.
    refused: Option<usize>,
}

impl Emitter {
    pub fn new(host: Host) -> Self {
        Self { encoder: Encoder::new(64), info: InstructionInfoFactory::new(), buffer: Vec::new(), host }
    }

    /// Takes back what code was in.
    pub fn recycle(&mut self, code: Assembler) {
        self.buffer = code.code;
    }

    /// The ways of instructions, of which those that are not available go through their handlers.
    pub fn ways(&mut self, instructions: &[Instruction], available: &[bool], mode: Mode) -> Vec<Way> {
        let way = |(i, &available)| if available { policy::way(i, self.info.info(i), &self.host, mode) } else { Way::Handler };
        instructions.iter().zip(available).map(way).collect()
    }

    /// Makes code that will be at `origin`; the instructions' addresses count from the start of the page.
    pub fn emit(&mut self, mut input: Input, thunks: Thunks, origin: Origin) -> Emitted {
        if !input.mode.long() {
            input.instructions.iter_mut().for_each(narrow::widen);
        }
        let ways = self.ways(&input.instructions, input.available, input.mode);
        let site = |k: usize, kind| Site { op: &raw const input.ops[k], run: 1, start: input.starts[k], kind };
        let missed = |i: &Instruction| if policy::uses_x87(i) { Kind::MissedX87 } else { Kind::Missed };
        // Two for each instruction: by its handler, and for an access that missed; and one to bring the x87 registers.
        let mut sites = Vec::with_capacity(2 * ways.len() + 1);
        for (k, i) in input.instructions.iter().enumerate() {
            sites.extend([site(k, Kind::Handler), site(k, missed(i))]);
        }
        sites.push(site(0, Kind::BringX87));
        // Handlers that follow each other hand over by themselves.
        for k in (1..ways.len()).rev() {
            if joined(k, &ways, &sites) {
                sites[2 * k - 2].run = sites[2 * k].run + 1;
            }
        }
        let mut barred = Vec::new();
        loop {
            let plan = if input.mode.long() {
                Plan::new(&input.instructions, &ways, &mut self.info, &barred, !input.turns.is_empty())
            } else {
                Plan::default()
            };
            match self.attempt(&input, &sites, &ways, plan, (thunks, origin)) {
                Ok(emitted) => return emitted,
                Err(k) => barred.push(k),
            }
        }
    }

    /// Makes code with these groups, unless instruction `Err` is not as they have it.
    fn attempt(
        &mut self,
        input: &Input,
        sites: &[Site],
        ways: &[Way],
        plan: Plan,
        (thunks, origin): (Thunks, Origin),
    ) -> Result<Emitted, usize> {
        let (start, n) = (sites[0].start as u16, input.instructions.len());
        let mut b = Block {
            a: Assembler::new(origin, std::mem::take(&mut self.buffer)),
            thunks,
            user: input.mode.user(),
            page: input.page,
            mode: input.mode,
            start,
            sites,
            cited: Vec::with_capacity(2 * n),
            instructions: &input.instructions,
            ways,
            turns: input.turns,
            needs: Brought {
                vectors: input.instructions.iter().any(policy::uses_vectors),
                x87: input.instructions.iter().zip(ways).any(|(i, &way)| way == Way::Native && policy::uses_x87(i)),
            },
            slow: Vec::with_capacity(2 * n),
            outs: Vec::with_capacity(n),
            taken: Vec::with_capacity(n),
            unknown: Vec::new(),
            surprises: Vec::new(),
            unpinned: Vec::new(),
            first: 0,
            edges: Vec::with_capacity(n),
            first_edge: input.first_edge,
            plan,
            current: 0,
            aside: false,
            owed: 0,
            held: None,
            kept: Vec::new(),
            strays: Vec::new(),
            detours: Vec::new(),
            refused: None,
        };
        if input.mode.bounded() {
            let end = input.instructions.last().map_or(0, Instruction::next_ip) as i32;
            b.within_reach(end - i32::from(start));
        }
        b.a.lea(host::R15, At::base(host::R15, -i32::from(start)));
        b.a.store(context::PAGE, host::R15);
        let near = b.a.here();
        b.bring_x87();
        b.bring_vectors();
        let body = b.a.here();
        if let Some(pinned) = input.pinned {
            b.guard(pinned);
        }
        b.first = b.a.here();
        let last = input.instructions.len() - 1;
        let mut joins = Vec::with_capacity(last + 2);
        for k in 0..=last {
            joins.push(b.a.here());
            let ended = self.instruction(&mut b, k, input, ways);
            if k == last && !ended {
                joins.push(b.a.here());
                b.edge(k, To::after(&input.instructions[k]), b.needs);
            }
        }
        b.drop_unneeded();
        if input.turns.is_empty() {
            b.taken_branches();
        }
        b.a.turn_aside();
        b.aside = true;
        for (from, to) in b.plan.regions().to_vec() {
            let mut places = Vec::new();
            let mut ended = false;
            for k in from..=to {
                places.push((k, b.a.here()));
                ended = self.instruction(&mut b, k, input, ways);
            }
            if !ended {
                let back = b.a.jmp();
                b.a.bind(back, joins[to + 1]);
            }
            b.lead_aside(&places);
        }
        match b.refused {
            Some(k) => Err(k),
            None => Ok(b.finish(near, body)),
        }
    }

    /// Emits instruction `k`; true if it ends the block.
    fn instruction(&mut self, b: &mut Block, k: usize, input: &Input, ways: &[Way]) -> bool {
        let i = &input.instructions[k];
        b.current = k;
        match ways[k] {
            Way::Nothing => {}
            Way::Native => b.native(&mut self.encoder, k, i, self.info.info(i)),
            Way::Handler => {
                if k == 0 || !joined(k, ways, b.sites) {
                    b.handler(k);
                }
            }
            Way::HandlerLast => {
                b.call_site(2 * k);
                b.edge(k, To::after(i), Brought::default());
                return true;
            }
            Way::Address => b.lea(k, i),
            Way::Divide => b.divide(&mut self.encoder, k, i),
            Way::TimeStamp => b.time_stamp(k, i),
            Way::Jcc => b.conditional(k, i),
            Way::Push => b.push(k, i),
            Way::Pop => b.pop(k, i.op0_register()),
            Way::Leave => b.leave(k, policy::near_size(i)),
            Way::Jmp if b.turn(k).is_some() => {}
            Way::Call if b.turn(k).is_some() => b.push_return(k, policy::near_size(i), i.next_ip() as i64),
            way @ (Way::JmpIndirect | Way::CallIndirect | Way::Ret) if b.turn(k).is_some() => b.expected(way, k, i),
            way @ (Way::Jmp | Way::JmpIndirect | Way::Call | Way::CallIndirect | Way::Ret) => {
                b.transfer(way, k, i);
                return true;
            }
        }
        false
    }
}

/// Whether the handler of instruction `k` follows that of the one before it.
fn joined(k: usize, ways: &[Way], sites: &[Site]) -> bool {
    ways[k] == Way::Handler && ways[k - 1] == Way::Handler && sites[2 * k].start == sites[2 * k - 2].start
}

impl Block<'_> {
    /// How the path goes on after instruction `k`, if there is one that does.
    fn turn(&self, k: usize) -> Option<Turn> {
        self.turns.get(k).copied()
    }

    /// Brings the vector registers into the host's, if they are not there.
    fn bring_vectors(&mut self) {
        if self.needs.vectors {
            self.a.load_byte(host::RCX, context::VECTORS_HOME);
            let there = self.a.jrcxz();
            self.a.load(host::R15, context::PAGE);
            self.a.lea(host::R15, At::base(host::R15, self.start.into()));
            self.a.call_to(self.thunks.vectors);
            self.a.land(there);
        }
    }

    /// Brings the x87 registers into the host's, if they are not there. The vector registers are not afterwards.
    fn bring_x87(&mut self) {
        if self.needs.x87 {
            self.a.load_byte(host::RCX, context::X87_HOME);
            let there = self.a.jrcxz();
            self.call_site(self.sites.len() - 1);
            self.a.land(there);
        }
    }

    fn call_site(&mut self, site: usize) {
        self.held = None;
        let citation = self.a.lea_of(host::R11);
        self.cited.push((citation, site));
        self.a.call_to(self.thunks.handle);
    }

    fn call_handler(&mut self, site: usize) {
        self.call_site(site);
        self.bring_x87();
        self.bring_vectors();
    }

    fn handler(&mut self, k: usize) {
        // The site of an access that missed differs only in that.
        self.call_handler(2 * k);
    }
}
