//! From a block's instructions to host code.
//!
//! | module | what it emits |
//! |---|---|
//! | [`memory`] | addresses, and the look at the TLB |
//! | [`groups`] | which accesses share one look |
//! | [`shared`] | the look that they share |
//! | [`native`] | instructions as they are |
//! | [`encode`] | their bytes |
//! | [`narrow`] | what is otherwise in code of 16 and 32 bits |
//! | [`stack`] | PUSH, POP, LEAVE |
//! | [`control`] | jumps, and the ways out of a block |

mod control;
mod encode;
mod groups;
mod memory;
mod narrow;
mod native;
mod shared;
mod stack;

use std::sync::Arc;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory};

use self::encode::Coder;
use self::groups::Plan;
pub use self::groups::SLOTS;
pub use self::narrow::To;
use self::shared::Kept;
use super::super::SPARE;
use super::super::backend::{Brought, Edge, Input, Made, Turn};
use super::assembler::{Assembler, At, Jump, host};
use super::code::{NOWHERE, Room};
use super::context;
use super::policy::{self, Host, Uses, Way};
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
#[derive(Clone, Copy)]
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
#[derive(Clone, Copy)]
struct Unknown {
    from: Jump,
    k: usize,
    /// What the stack pointer becomes.
    stack: Option<At>,
}

#[derive(Clone, Copy)]
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
    coder: Coder,
    info: InstructionInfoFactory,
    thunks: Thunks,
    lists: Lists,
    pub host: Host,
}

/// Room for what is kept of a block meanwhile.
#[derive(Default)]
struct Lists {
    ways: Vec<Way>,
    uses: Vec<Uses>,
    runs: Vec<u8>,
    joins: Vec<usize>,
    calls: Vec<Jump>,
    stray_calls: Vec<Jump>,
    slow: Vec<Slow>,
    outs: Vec<Out>,
    taken: Vec<(Jump, usize, To)>,
    unknown: Vec<Unknown>,
    returns: Vec<(Jump, usize)>,
    unpaired: Vec<(Jump, usize, usize)>,
    spent: Vec<Jump>,
    kept: Vec<Kept>,
    detours: Vec<(usize, usize)>,
}

impl Lists {
    /// Empties those that are of one attempt.
    fn clear(&mut self) {
        self.joins.clear();
        self.calls.clear();
        self.stray_calls.clear();
        self.slow.clear();
        self.outs.clear();
        self.taken.clear();
        self.unknown.clear();
        self.returns.clear();
        self.unpaired.clear();
        self.spent.clear();
        self.kept.clear();
        self.detours.clear();
    }
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
    calls: &'a mut Vec<Jump>,
    stray_calls: &'a mut Vec<Jump>,
    instructions: &'a [Instruction],
    ways: &'a [Way],
    turns: &'a [Turn],
    needs: Brought,
    slow: &'a mut Vec<Slow>,
    outs: &'a mut Vec<Out>,
    taken: &'a mut Vec<(Jump, usize, To)>,
    unknown: &'a mut Vec<Unknown>,
    /// Where calls return to, and the edges.
    returns: &'a mut Vec<(Jump, usize)>,
    /// Returns that do not lead where the last call came from: from where, the instruction, and where the others go on.
    unpaired: &'a mut Vec<(Jump, usize, usize)>,
    /// Indirect transfers that do not go where the path goes.
    surprises: Vec<(Jump, usize, Way)>,
    /// From where the vector registers are to be brought, and where that goes on.
    vectors_away: Option<(Jump, usize)>,
    /// Ways out of a trace that is entered where it does not count.
    unpinned: Vec<Jump>,
    /// Jumps for a budget that is used up.
    spent: &'a mut Vec<Jump>,
    /// Where the block begins for its own way back.
    first: usize,
    edges: Vec<Edge>,
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
    kept: &'a mut Vec<Kept>,
    /// Leaders whose check fails, and their instructions.
    strays: Vec<(Jump, usize)>,
    /// Which of `slow` go on aside, and where.
    detours: &'a mut Vec<(usize, usize)>,
    /// An instruction that goes through its handler against expectation, where groups are open.
    refused: Option<usize>,
}

impl Emitter {
    pub fn new(host: Host, thunks: Thunks) -> Self {
        Self { coder: Coder::new(), info: InstructionInfoFactory::new(), thunks, lists: Lists::default(), host }
    }

    /// The ways of instructions, of which those that are not available go through their handlers, and what they use.
    pub fn ways(&mut self, instructions: &[Instruction], available: &[bool], mode: Mode) -> impl Iterator<Item = (Way, Uses)> {
        let handled = (Way::Handler, Uses::default());
        let way = move |(i, &available)| if available { policy::way(i, &mut self.info, &self.host, mode) } else { handled };
        instructions.iter().zip(available).map(way)
    }

    /// Makes code for [`NOWHERE`] in `room`; the instructions' addresses count from the start of the page.
    pub fn emit(&mut self, input: &mut Input, mut room: Room) -> (Assembler, Made, Vec<Edge>) {
        if !input.mode.long() {
            input.instructions.iter_mut().for_each(narrow::widen);
        }
        let mut lists = std::mem::take(&mut self.lists);
        let Lists { ways, uses, runs, .. } = &mut lists;
        ways.clear();
        uses.clear();
        for (way, used) in self.ways(&input.instructions, &input.available, input.mode) {
            ways.push(way);
            uses.push(used);
        }
        // Handlers that follow each other hand over by themselves.
        runs.clear();
        runs.resize(ways.len(), 1);
        for k in (1..ways.len()).rev() {
            if joined(k, ways, &input.starts) {
                runs[k - 1] = runs[k] + 1;
            }
        }
        let mut barred = Vec::new();
        let emitted = loop {
            let plan = if input.mode.long() { Plan::new(input, &lists.ways, &lists.uses, &barred) } else { Plan::default() };
            match self.attempt(input, &mut lists, plan, &mut room) {
                Ok(emitted) => break emitted,
                Err(k) => barred.push(k),
            }
        };
        self.lists = lists;
        emitted
    }

    /// Makes code with these groups, unless instruction `Err` is not as they have it.
    fn attempt(&mut self, input: &Input, lists: &mut Lists, plan: Plan, room: &mut Room) -> Result<(Assembler, Made, Vec<Edge>), usize> {
        let start = input.starts[0] as u16;
        lists.clear();
        let Lists { ways, uses, runs, joins, calls, stray_calls, slow, outs, taken, .. } = lists;
        let Lists { unknown, returns, unpaired, spent, kept, detours, .. } = lists;
        let ways = &ways[..];
        let mut b = Block {
            a: Assembler::new(NOWHERE, std::mem::take(&mut room.code)),
            thunks: self.thunks,
            user: input.mode.user(),
            page: input.page,
            mode: input.mode,
            start,
            ops: &input.ops,
            starts: &input.starts,
            runs,
            calls,
            stray_calls,
            instructions: &input.instructions,
            ways,
            turns: &input.turns,
            needs: Brought {
                vectors: input.instructions.iter().any(policy::uses_vectors),
                x87: input.instructions.iter().zip(ways).any(|(i, &way)| way == Way::Native && policy::uses_x87(i)),
            },
            slow,
            outs,
            taken,
            unknown,
            returns,
            unpaired,
            surprises: Vec::new(),
            vectors_away: None,
            unpinned: Vec::new(),
            spent,
            first: 0,
            edges: std::mem::take(&mut room.edges),
            plan,
            current: 0,
            aside: false,
            copies: input.copies || !input.turns.is_empty(),
            owed: 0,
            held: None,
            kept,
            strays: Vec::new(),
            detours,
            refused: None,
        };
        let mut leaves = b.leave_if_spent();
        let far = b.a.here();
        if input.mode.bounded() {
            let end = input.instructions.last().map_or(0, Instruction::next_ip) as i32;
            b.within_reach(end - i32::from(start));
        }
        b.a.lea(host::R15, At::base(host::R15, -i32::from(start)));
        b.a.store(context::PAGE, host::R15);
        let near = b.a.here();
        b.need_registers();
        let body = b.a.here();
        if let Some(pinned) = input.pinned {
            leaves = b.guard(pinned);
        }
        b.first = b.a.here();
        b.a.load_bytes(2, host::RCX, context::BUDGET_LEFT);
        b.a.jrcxz_back(leaves);
        if !input.turns.is_empty() {
            b.first = b.a.here();
        }
        let last = input.instructions.len() - 1;
        for k in 0..=last {
            joins.push(b.a.here());
            let ended = self.instruction(&mut b, k, input, (ways, uses));
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
                ended = self.instruction(&mut b, k, input, (ways, uses));
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
    fn instruction(&mut self, b: &mut Block, k: usize, input: &Input, (ways, uses): (&[Way], &[Uses])) -> bool {
        let i = &input.instructions[k];
        b.current = k;
        match ways[k] {
            Way::Nothing => {}
            Way::Native => b.native(&mut self.coder, k, i, &uses[k]),
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
            Way::Divide => b.divide(&mut self.coder, k, i),
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

    /// Has the registers that the block needs brought into the host's, which are mostly there.
    fn need_registers(&mut self) {
        let gate = self.thunks.gate;
        let there = |home: At| At { disp: home.disp + gate.key(), ..home };
        if self.needs.x87 {
            self.a.load_byte(host::RCX, there(context::X87_HOME));
            let from = self.a.pass(gate);
            self.slow.push(Slow { from, k: 0, until: 0, kind: Kind::BringX87, lin: host::R15, resume: self.a.here() });
        }
        if self.needs.vectors {
            self.a.load_byte(host::RCX, there(context::VECTORS_HOME));
            let from = self.a.pass(gate);
            self.vectors_away = Some((from, self.a.here()));
        }
    }

    /// Brings the vector registers into the host's, if they are not there.
    fn bring_vectors(&mut self) {
        if self.needs.vectors {
            self.a.load_byte(host::RCX, context::VECTORS_HOME);
            let there = self.a.jrcxz();
            self.call_for_vectors();
            self.a.land(there);
        }
    }

    fn call_for_vectors(&mut self) {
        self.a.mov_imm64(host::R15, self.start.into());
        self.a.call_to(self.thunks.vectors);
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
        if site.strays() { &mut *self.stray_calls } else { &mut *self.calls }.push(call);
        !(branches && matches!(self.ways[until], Way::Jmp | Way::JmpIndirect | Way::Call | Way::CallIndirect | Way::Ret))
    }

    /// The handler of instruction `k` carries it out: aside, if registers must be brought again afterwards.
    fn handler(&mut self, k: usize) {
        self.held = None;
        let until = k + usize::from(self.runs[k]) - 1;
        if self.needs == Brought::default() {
            self.call_site(k, until, Kind::Handler, host::R15);
            return;
        }
        let from = self.a.jmp();
        self.slow.push(Slow { from, k, until, kind: Kind::Handler, lin: host::R15, resume: self.a.here() });
    }
}
