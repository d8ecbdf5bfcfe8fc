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

use std::sync::Arc;

use iced_x86::{Encoder, FlowControl, Instruction, InstructionInfoFactory};

use self::groups::Plan;
pub use self::groups::SLOTS;
pub use self::narrow::To;
use self::shared::Kept;
use super::super::SPARE;
use super::super::backend::{Brought, Edge, Input, Made, Turn};
use super::arena::Origin;
use super::assembler::{Assembler, At, Jump, host};
use super::context;
use super::policy::{self, Host, Way};
use super::thunks::Thunks;
use crate::block::MAX_OPS;
use crate::exec;
use crate::op::Op;
use crate::state::Mode;

/// What [`super::handle`] is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To carry out the operations.
    Handler,
    /// To carry out an operation whose access at [`Site::lin`] missed the TLB. With further ones, it is one of a block that strays,
    /// whose number is in [`super::Context::edge`].
    Missed,
    /// The same, of operations that use the x87 registers.
    MissedX87,
    /// To bring the x87 registers into the host's.
    BringX87,
}

/// What translated code has [`super::handle`] do, with operations of its translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The first of them, ...
    pub first: usize,
    /// ... and how many there are.
    pub run: usize,
    /// The start of their block, counted from the start of the page.
    pub start: i32,
    pub kind: Kind,
    /// The host register with the address that missed.
    pub lin: u8,
}

const _: () = assert!(SPARE <= 1 << 8 && MAX_OPS <= 1 << 6, "a site has so many bits for them");

impl Site {
    /// The block strays.
    pub fn strays(self) -> bool {
        matches!(self.kind, Kind::Missed | Kind::MissedX87) && self.run > 1
    }

    /// As a number, mostly one of 32 bits.
    fn pack(self) -> u64 {
        let number = (self.start as u64) << 20 | u64::from(self.lin) << 16 | (self.kind as u64) << 14;
        number | (self.run as u64 - 1) << 8 | self.first as u64
    }

    /// From such a number.
    pub fn unpack(number: u64) -> Self {
        let field = |at: u32, bits: u32| (number >> at & ((1 << bits) - 1)) as usize;
        let kind = [Kind::Handler, Kind::Missed, Kind::MissedX87, Kind::BringX87][field(14, 2)];
        Self { first: field(0, 8), run: field(8, 6) + 1, start: (number as i64 >> 20) as i32, kind, lin: field(16, 4) as u8 }
    }
}

/// A way through the handlers of the instructions from `k` to `until`.
struct Slow {
    from: Jump,
    k: usize,
    until: usize,
    kind: Kind,
    /// Of an access that missed: the register with its address.
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
    from: Jump,
    /// From where the budget is used up.
    spent: Option<Jump>,
    /// It is a call.
    call: bool,
    edge: usize,
    /// The place in the page where it leads, unless that is in R15.
    target: Option<u16>,
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
    ops: &'a Arc<[Op]>,
    starts: &'a [i32],
    /// By instruction: how many, from it on, are carried out by handlers that hand over by themselves.
    runs: &'a [u8],
    /// Calls of handlers, and those of them that tell which translation this is.
    calls: Vec<Jump>,
    stray_calls: Vec<Jump>,
    number: u32,
    instructions: &'a [Instruction],
    ways: &'a [Way],
    turns: &'a [Turn],
    needs: Brought,
    slow: Vec<Slow>,
    outs: Vec<Out>,
    taken: Vec<(Jump, usize, To)>,
    unknown: Vec<Unknown>,
    /// Where calls return to, and the edges.
    returns: Vec<(Jump, usize)>,
    /// Returns that do not lead where the last call came from: from where, the instruction, and where the others go on.
    unpaired: Vec<(Jump, usize, usize)>,
    /// Indirect transfers that do not go where the path goes.
    surprises: Vec<(Jump, usize, Way)>,
    /// Ways out of a trace that is entered where it does not count.
    unpinned: Vec<Jump>,
    /// Jumps for a budget that is used up.
    spent: Vec<Jump>,
    /// Where the block begins for its own way back.
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
    /// Where groups are open, all is emitted without them as well.
    copies: bool,
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
    pub fn emit(&mut self, mut input: Input, thunks: Thunks, origin: Origin) -> (Assembler, Made) {
        if !input.mode.long() {
            input.instructions.iter_mut().for_each(narrow::widen);
        }
        let ways = self.ways(&input.instructions, input.available, input.mode);
        // Handlers that follow each other hand over by themselves.
        let mut runs = vec![1; ways.len()];
        for k in (1..ways.len()).rev() {
            if joined(k, &ways, input.starts) {
                runs[k - 1] = runs[k] + 1;
            }
        }
        let mut barred = Vec::new();
        loop {
            let plan = if input.mode.long() { Plan::new(&input, &ways, &mut self.info, &barred) } else { Plan::default() };
            match self.attempt(&input, &runs, &ways, plan, (thunks, origin)) {
                Ok(emitted) => return emitted,
                Err(k) => barred.push(k),
            }
        }
    }

    /// Makes code with these groups, unless instruction `Err` is not as they have it.
    fn attempt(
        &mut self,
        input: &Input,
        runs: &[u8],
        ways: &[Way],
        plan: Plan,
        (thunks, origin): (Thunks, Origin),
    ) -> Result<(Assembler, Made), usize> {
        let (start, n) = (input.starts[0] as u16, input.instructions.len());
        let mut b = Block {
            a: Assembler::new(origin, std::mem::take(&mut self.buffer)),
            thunks,
            user: input.mode.user(),
            page: input.page,
            mode: input.mode,
            start,
            ops: input.ops,
            starts: input.starts,
            runs,
            calls: Vec::with_capacity(2 * n),
            stray_calls: Vec::new(),
            number: input.number,
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
            returns: Vec::new(),
            unpaired: Vec::new(),
            surprises: Vec::new(),
            unpinned: Vec::new(),
            spent: Vec::new(),
            first: 0,
            edges: Vec::with_capacity(n),
            first_edge: input.first_edge,
            plan,
            current: 0,
            aside: false,
            copies: input.copies || !input.turns.is_empty(),
            owed: 0,
            held: None,
            kept: Vec::new(),
            strays: Vec::new(),
            detours: Vec::new(),
            refused: None,
        };
        let mut spent = b.leave_if_spent();
        let far = b.a.here();
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
            spent = b.guard(pinned);
        }
        b.first = b.a.here();
        b.a.load_bytes(2, host::RCX, context::BUDGET_LEFT);
        b.a.jrcxz_back(spent);
        if !input.turns.is_empty() {
            b.first = b.a.here();
        }
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
        if !b.copies {
            let joins: Vec<_> = joins.iter().copied().enumerate().collect();
            b.lead_strays(&joins);
        }
        let copied = if b.copies { b.plan.regions().to_vec() } else { Vec::new() };
        for (from, to) in copied {
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
            b.lead_strays(&places);
        }
        match b.refused {
            Some(k) => Err(k),
            None => Ok(b.finish([far, near, body])),
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
                if k == 0 || !joined(k, ways, b.starts) {
                    b.handler(k);
                }
            }
            Way::HandlerLast => {
                b.call_site(k, k, Kind::Handler, host::R15);
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
fn joined(k: usize, ways: &[Way], starts: &[i32]) -> bool {
    ways[k] == Way::Handler && ways[k - 1] == Way::Handler && starts[k] == starts[k - 1]
}

impl Block<'_> {
    /// How the path goes on after instruction `k`, if there is one that does.
    fn turn(&self, k: usize) -> Option<Turn> {
        self.turns.get(k).copied()
    }

    /// The way out for a budget that is used up; where it begins.
    fn leave_if_spent(&mut self) -> usize {
        let at = self.a.here();
        let jump = self.a.jmp();
        self.spent.push(jump);
        at
    }

    /// Brings the vector registers into the host's, if they are not there.
    fn bring_vectors(&mut self) {
        if self.needs.vectors {
            self.a.load_byte(host::RCX, context::VECTORS_HOME);
            let there = self.a.jrcxz();
            self.a.mov_imm64(host::R15, self.start.into());
            self.a.call_to(self.thunks.vectors);
            self.a.land(there);
        }
    }

    /// Brings the x87 registers into the host's, if they are not there. The vector registers are not afterwards.
    fn bring_x87(&mut self) {
        if self.needs.x87 {
            self.a.load_byte(host::RCX, context::X87_HOME);
            let there = self.a.jrcxz();
            self.call_site(0, 0, Kind::BringX87, host::R15);
            self.a.land(there);
        }
    }

    /// Calls [`super::handle`], for instructions `k` to `until`; `lin` is the register with an address that missed. Whether it may
    /// come back.
    fn call_site(&mut self, k: usize, until: usize, kind: Kind, lin: u8) -> bool {
        self.held = None;
        let site = Site { first: k, run: until - k + 1, start: self.starts[k], kind, lin };
        self.a.mov_imm64(host::R11, site.pack());
        let last = &self.instructions[until];
        let branches = kind != Kind::BringX87 && (exec::ends_block(last) || last.flow_control() != FlowControl::Next);
        let call = if branches {
            // Not by CALL: it does not come back, and the host's predictor of returns would wait for that.
            let resume = self.a.lea_of(host::RCX);
            self.a.push(host::RCX);
            let jump = self.a.jmp();
            let here = self.a.here();
            self.a.bind(resume, here);
            jump
        } else {
            self.a.call()
        };
        if site.strays() { &mut self.stray_calls } else { &mut self.calls }.push(call);
        !(branches && matches!(self.ways[until], Way::Jmp | Way::JmpIndirect | Way::Call | Way::CallIndirect | Way::Ret))
    }

    /// The handler of instruction `k` carries it out, aside.
    fn handler(&mut self, k: usize) {
        self.held = None;
        let from = self.a.jmp();
        let until = k + usize::from(self.runs[k]) - 1;
        self.slow.push(Slow { from, k, until, kind: Kind::Handler, lin: host::R15, resume: self.a.here() });
    }
}
