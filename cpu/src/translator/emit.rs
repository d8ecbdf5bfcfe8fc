//! From a block's instructions to host code.

use iced_x86::{Encoder, Instruction, InstructionInfo, InstructionInfoFactory, Mnemonic as M, OpAccess, OpKind, Register};

use super::assembler::{Assembler, At, Jump, host};
use super::context::{self};
use super::policy::{self, Host, Way};
use super::registers::{COUNT, FRAME, STACK, home, is_high_byte, named, number};
use super::thunks::{self, Thunks};
use crate::op::Op;
use crate::state::{Mode, seg};

/// Operations as translated code hands them to [`super::handle`].
#[derive(Clone, Copy)]
pub struct Site {
    /// The first; it lies among the translation's own.
    pub op: *const Op,
    /// How many there are.
    pub run: u16,
    /// The block's start in its page.
    pub start: u16,
    /// The access at [`context::LIN`] missed the TLB.
    pub missed: bool,
}

// SAFETY: the operations are read only, and belong to the translation that the site belongs to.
unsafe impl Send for Site {}

/// A direct jump to another block of the page.
#[derive(Clone, Copy, Debug)]
pub struct Edge {
    /// Host address of the displacement of its JMP.
    pub field: u64,
    /// The target's physical address.
    pub target: u64,
    pub mode: Mode,
}

/// What a block became.
pub struct Emitted {
    pub code: Vec<u8>,
    /// Offset of the entry that takes the page over from its predecessor.
    pub near: usize,
    /// Offset of the code that takes the entry's place when the block is retired.
    pub gone: usize,
    pub edges: Vec<Edge>,
}

struct Slow {
    from: Jump,
    site: usize,
    lin: u8,
    resume: usize,
}

struct Out {
    from: Vec<Jump>,
    edge: usize,
    target: u16,
}

/// What makes code; reused for all blocks.
pub struct Emitter {
    encoder: Encoder,
    info: InstructionInfoFactory,
    pub host: Host,
}

struct Block<'a> {
    a: Assembler,
    thunks: Thunks,
    user: bool,
    start: u16,
    sites: &'a [Site],
    vectors: bool,
    slow: Vec<Slow>,
    outs: Vec<Out>,
    taken: Vec<(Jump, usize, i64)>,
    edges: Vec<Edge>,
    origin: u64,
    first_edge: usize,
    /// Physical address of the page.
    page: u64,
    mode: Mode,
}

/// What a block is made from.
pub struct Input<'a> {
    pub instructions: &'a [Instruction],
    /// Two for each instruction: by its handler, and for an access that missed.
    pub sites: &'a mut [Site],
    /// Physical address of the page.
    pub page: u64,
    pub mode: Mode,
    pub thunks: Thunks,
    /// Where the code will be.
    pub origin: u64,
    /// The number of its first edge.
    pub first_edge: usize,
    /// By instruction: the interpreter's handler does what the instruction says (it is neither invalid nor unavailable).
    pub available: &'a [bool],
}

impl Emitter {
    pub fn new(host: Host) -> Self {
        Self { encoder: Encoder::new(64), info: InstructionInfoFactory::new(), host }
    }

    /// Makes code; the instructions' addresses count from the start of the page.
    pub fn emit(&mut self, input: Input) -> Emitted {
        let start = input.sites[0].start;
        let ways: Vec<Way> = input
            .instructions
            .iter()
            .zip(input.available)
            .map(|(i, &available)| if available { policy::way(i, self.info.info(i), &self.host) } else { Way::Handler })
            .collect();
        // Handlers that follow each other hand over by themselves.
        for k in (1..ways.len()).rev() {
            if ways[k] == Way::Handler && ways[k - 1] == Way::Handler {
                input.sites[2 * k - 2].run = input.sites[2 * k].run + 1;
            }
        }
        let mut b = Block {
            a: Assembler::new(input.origin),
            thunks: input.thunks,
            user: input.mode.user(),
            page: input.page,
            mode: input.mode,
            start,
            sites: input.sites,
            vectors: input.instructions.iter().any(uses_vectors),
            slow: Vec::new(),
            outs: Vec::new(),
            taken: Vec::new(),
            edges: Vec::new(),
            origin: input.origin,
            first_edge: input.first_edge,
        };
        b.a.lea(host::R15, At::base(host::R15, -i32::from(start)));
        b.a.store(context::PAGE, host::R15);
        let near = b.a.here();
        b.bring_vectors();
        let last = input.instructions.len() - 1;
        for (k, i) in input.instructions.iter().enumerate() {
            let way = ways[k];
            let ended = match way {
                Way::Nothing => false,
                Way::Native => {
                    b.native(&mut self.encoder, k, i, self.info.info(i));
                    false
                }
                Way::Handler | Way::HandlerLast => {
                    if k == 0 || way == Way::HandlerLast || ways[k - 1] != Way::Handler {
                        b.handler(k);
                    }
                    way == Way::HandlerLast && {
                        b.edge(k, i.next_ip() as i64);
                        true
                    }
                }
                Way::Address => {
                    b.lea(k, i);
                    false
                }
                Way::Divide => {
                    b.divide(&mut self.encoder, k, i);
                    false
                }
                Way::Jcc => {
                    let j = b.a.jcc(i.condition_code() as u8 - 1);
                    b.taken.push((j, k, i.near_branch64() as i64));
                    false
                }
                Way::Push => {
                    b.push(k, i);
                    false
                }
                Way::Pop => {
                    b.pop(k, i.op0_register());
                    false
                }
                Way::Leave => {
                    b.leave(k);
                    false
                }
                Way::Jmp | Way::JmpIndirect | Way::Call | Way::CallIndirect | Way::Ret => {
                    b.transfer(way, k, i);
                    true
                }
            };
            if k == last && !ended {
                b.edge(k, i.next_ip() as i64);
            }
        }
        b.finish(near)
    }
}

fn fits(v: i64) -> bool {
    i32::try_from(v).is_ok()
}

impl Block<'_> {
    /// Brings the vector registers into the host's, if they are not there.
    fn bring_vectors(&mut self) {
        if self.vectors {
            self.a.load_byte(host::RCX, context::VECTORS_HOME);
            let there = self.a.jrcxz();
            self.a.load(host::R15, context::PAGE);
            self.a.lea(host::R15, At::base(host::R15, self.start.into()));
            self.a.call_to(self.thunks.vectors);
            self.a.land(there);
        }
    }

    fn call_handler(&mut self, site: usize) {
        self.a.mov_imm64(host::R11, &raw const self.sites[site] as u64);
        self.a.call_to(self.thunks.handle);
        self.bring_vectors();
    }

    fn handler(&mut self, k: usize) {
        // The site of an access that missed differs only in that.
        self.call_handler(2 * k);
    }

    /// The address of a memory operand, without its segment; none if it cannot be had so.
    fn effective(&mut self, i: &Instruction) -> Option<(At, bool)> {
        let disp = i.memory_displacement64() as i64;
        if i.is_ip_rel_memory_operand() {
            if i.memory_base() != Register::RIP || !fits(disp) {
                return None;
            }
            self.a.load(host::R15, context::PAGE);
            return Some((At::base(host::R15, disp as i32), false));
        }
        let (base, index) = (i.memory_base(), i.memory_index());
        let short = base.is_gpr32() || index.is_gpr32();
        // An address without registers may be one of 32 bits.
        let short = short || base == Register::None && index == Register::None && i.memory_displ_size() == 4;
        if !(fits(disp) || short && disp as u64 <= u32::MAX.into()) {
            return None;
        }
        let place = |r: Register, spare: u8, a: &mut Assembler| {
            (r != Register::None).then(|| {
                home(number(r)).unwrap_or_else(|| {
                    a.load(spare, context::reg(number(r)));
                    spare
                })
            })
        };
        let base = place(base, host::R15, &mut self.a);
        let index = place(index, host::R11, &mut self.a);
        Some((At { base, index, scale: i.memory_index_scale().trailing_zeros() as u8, disp: disp as i32 }, short))
    }

    /// The linear address of a memory operand, in the register given back.
    fn linear(&mut self, i: &Instruction) -> Option<u8> {
        let (at, short) = self.effective(i)?;
        let segment = match i.memory_segment() {
            Register::FS => Some(seg::FS),
            Register::GS => Some(seg::GS),
            _ => None,
        };
        match at {
            At { base: Some(base), index: None, disp: 0, .. } if !short && segment.is_none() => return Some(base),
            _ if short => self.a.lea32(host::R15, at),
            _ => self.a.lea(host::R15, at),
        }
        if let Some(n) = segment {
            self.a.load(host::R11, context::base(n as u8));
            self.a.lea(host::R15, At::indexed(host::R15, host::R11, 0, 0));
        }
        Some(host::R15)
    }

    /// Finds the page of linear address `lin` in the TLB; the access is then at `lin` + R11. Afterwards [`Self::missed`].
    fn check(&mut self, lin: u8, bytes: usize, write: bool, alignment: usize) -> Jump {
        self.a.pext(host::R11, lin, context::MASK_PAGE);
        self.a.load(host::RCX, context::tlb_tag(self.user, write, host::R11));
        if alignment == 0 {
            self.a.lea(host::RCX, At::indexed(host::RCX, lin, 0, bytes as i32 - 1));
            self.a.shrx(host::RCX, host::RCX, host::RBP);
        } else {
            self.a.lea(host::RCX, At::indexed(host::RCX, lin, 0, 0));
            let mask = if alignment == 16 { context::MASK_ALIGNED_16 } else { context::MASK_ALIGNED_32 };
            self.a.pext(host::RCX, host::RCX, mask);
        }
        let hit = self.a.jrcxz();
        let miss = self.a.jmp();
        self.a.land(hit);
        self.a.load(host::R11, context::tlb_host(self.user, host::R11));
        miss
    }

    /// The instruction is complete: where its way through the handler comes back.
    fn missed(&mut self, from: Jump, k: usize, lin: u8) {
        let resume = self.a.here();
        self.slow.push(Slow { from, site: 2 * k + 1, lin, resume });
    }

    fn native(&mut self, encoder: &mut Encoder, k: usize, i: &Instruction, info: &InstructionInfo) {
        let (start, slow) = (self.a.here(), self.slow.len());
        if self.try_native(encoder, k, i, info).is_none() {
            self.a.code.truncate(start);
            self.slow.truncate(slow);
            self.handler(k);
        }
    }

    fn try_native(&mut self, encoder: &mut Encoder, k: usize, i: &Instruction, info: &InstructionInfo) -> Option<()> {
        let mut j = *i;
        let memory = (0..i.op_count()).find(|&n| i.op_kind(n) == OpKind::Memory);
        let mut spare = vec![host::R15, host::R11, host::RCX];
        let mut access = None;
        if let Some(n) = memory {
            let write = !matches!(info.op_access(n), OpAccess::Read | OpAccess::CondRead);
            let lin = self.linear(i)?;
            let miss = self.check(lin, i.memory_size().size(), write, policy::alignment(i));
            access = Some((miss, lin));
            // A further register may be needed: then one holds the whole address.
            let homeless = (0..i.op_count())
                .filter(|&n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_gpr())
                .filter(|&n| is_high_byte(i.op_register(n)) || home(number(i.op_register(n))).is_none())
                .count();
            j.set_segment_prefix(Register::None);
            j.set_memory_displacement64(0);
            j.set_memory_displ_size(0);
            j.set_memory_index_scale(1);
            if homeless > 1 || i.op_count() > 2 && homeless > 0 {
                self.a.lea(host::R15, At::indexed(lin, host::R11, 0, 0));
                j.set_memory_base(Register::R15);
                j.set_memory_index(Register::None);
                spare.retain(|&r| r != host::R15);
            } else {
                j.set_memory_base(named(lin, 8));
                j.set_memory_index(Register::R11);
                spare.retain(|&r| r != host::R11 && r != lin);
            }
        }
        j.set_has_lock_prefix(false);
        j.set_has_xacquire_prefix(false);
        j.set_has_xrelease_prefix(false);
        let shift_count = |n: u32| {
            let last = n == i.op_count() - 1 && n > 0;
            last && i.op_register(n) == Register::CL
                && matches!(i.mnemonic(), M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd)
        };
        if (0..i.op_count()).any(shift_count) {
            self.a.mov(host::RCX, COUNT);
            spare.retain(|&r| r != host::RCX);
        }
        // (guest register, its stand-in) to be stored after the instruction; high bytes are told by their own name.
        let mut stand_ins: Vec<(Register, u8, bool)> = Vec::new();
        for n in 0..i.op_count() {
            let r = i.op_register(n);
            if i.op_kind(n) != OpKind::Register || !r.is_gpr() || shift_count(n) {
                continue;
            }
            let written = !matches!(info.op_access(n), OpAccess::Read | OpAccess::CondRead | OpAccess::None | OpAccess::NoMemAccess);
            let key = if is_high_byte(r) { r } else { r.full_register() };
            if let (Some(h), false) = (home(number(r)), is_high_byte(r)) {
                j.try_set_op_register(n, named(h, r.size())).ok()?;
                continue;
            }
            let known = stand_ins.iter_mut().find(|s| s.0 == key);
            let s = match known {
                Some(s) => {
                    s.2 |= written;
                    s.1
                }
                None => {
                    let s = spare.pop()?;
                    let again = (n + 1..i.op_count()).any(|m| i.op_register(m).full_register() == key);
                    let whole = r.size() >= 4 && info.op_access(n) == OpAccess::Write && !again;
                    if is_high_byte(r) {
                        self.a.rorx(s, home(number(r))?, 8);
                    } else if !whole {
                        self.a.load(s, context::reg(number(r)));
                    }
                    stand_ins.push((key, s, written));
                    s
                }
            };
            j.try_set_op_register(n, named(s, r.size())).ok()?;
        }
        encode(encoder, &j, &mut self.a.code)?;
        for (r, s, written) in stand_ins {
            if !written {
                continue;
            }
            if is_high_byte(r) {
                let h = home(number(r))?;
                self.a.rorx(h, h, 8);
                self.a.mov_low_byte(h, s);
                self.a.rorx(h, h, 56);
            } else {
                self.a.store(context::reg(number(r)), s);
            }
        }
        if let Some((miss, lin)) = access {
            self.missed(miss, k, lin);
        }
        Some(())
    }

    fn lea(&mut self, k: usize, i: &Instruction) {
        let start = self.a.here();
        let Some((at, short)) = self.effective(i) else {
            self.a.code.truncate(start);
            return self.handler(k);
        };
        let guest = number(i.op0_register());
        let to = home(guest).unwrap_or(host::R15);
        if short || i.op0_register().size() == 4 {
            self.a.lea32(to, at);
        } else {
            self.a.lea(to, at);
        }
        if home(guest).is_none() {
            self.a.store(context::reg(guest), to);
        }
    }

    /// The value of a general register, in the register given back.
    fn value(&mut self, guest: u8, spare: u8) -> u8 {
        home(guest).unwrap_or_else(|| {
            self.a.load(spare, context::reg(guest));
            spare
        })
    }

    /// DIV and IDIV of RDX:RAX, where RDX only extends RAX; anything else, and what may fault, is the handler's.
    fn divide(&mut self, encoder: &mut Encoder, k: usize, i: &Instruction) {
        let (r, signed) = (i.op0_register(), i.mnemonic() == iced_x86::Mnemonic::Idiv);
        let wide = r.size() == 8;
        let by = self.value(number(r), host::R15);
        let mut slow = Vec::new();
        self.a.mov_sized(wide, host::RCX, by);
        slow.push(self.unless_zero());
        if signed {
            self.a.lea_sized(wide, host::RCX, At::base(host::RCX, 1));
            slow.push(self.unless_zero());
            // The sign of RAX, as 0 or 1, and RDX, as 0 or -1, cancel each other.
            self.a.mov_imm64(host::R11, if wide { 63 } else { 31 });
            self.a.mov_sized(wide, host::RCX, host::RAX);
            self.a.shrx(host::RCX, host::RCX, host::R11);
            self.a.lea_sized(wide, host::RCX, At::indexed(host::RCX, host::RDX, 0, 0));
        } else {
            self.a.mov_sized(wide, host::RCX, host::RDX);
        }
        let fine = self.a.jrcxz();
        slow.push(self.a.jmp());
        self.a.land(fine);
        // The host's flags change; the handler's definition is that they do not.
        self.a.mov(host::R11, host::RAX);
        thunks::flags_to_memory(&mut self.a);
        self.a.mov(host::RAX, host::R11);
        let mut j = *i;
        j.set_op0_register(named(by, r.size()));
        let encoded = encode(encoder, &j, &mut self.a.code);
        debug_assert!(encoded.is_some());
        self.a.mov(host::R11, host::RAX);
        thunks::flags_from_memory(&mut self.a);
        self.a.mov(host::RAX, host::R11);
        let resume = self.a.here();
        self.slow.extend(slow.into_iter().map(|from| Slow { from, site: 2 * k, lin: host::R15, resume }));
    }

    /// Goes on unless RCX is 0.
    fn unless_zero(&mut self) -> Jump {
        let zero = self.a.jrcxz();
        let on = self.a.jmp_short();
        self.a.land(zero);
        let out = self.a.jmp();
        self.a.land(on);
        out
    }

    /// A store of 8 bytes below the stack pointer; `value` makes the register to store once the page is known.
    fn push_value(&mut self, k: usize, value: impl FnOnce(&mut Self) -> u8) {
        self.a.lea(host::R15, At::base(STACK, -8));
        let miss = self.check(host::R15, 8, true, 0);
        let v = value(self);
        self.a.store(At::indexed(host::R15, host::R11, 0, 0), v);
        self.a.lea(STACK, At::base(STACK, -8));
        self.missed(miss, k, host::R15);
    }

    fn push(&mut self, k: usize, i: &Instruction) {
        match i.op0_kind() {
            OpKind::Register => self.push_value(k, |b| b.value(number(i.op0_register()), host::RCX)),
            OpKind::Memory => {
                let first = self.slow.len();
                if self.load_aside(k, i) {
                    self.push_value(k, |b| {
                        b.a.load(host::RCX, context::TARGET);
                        host::RCX
                    });
                    // The handler of an access that missed has pushed as well.
                    let resume = self.a.here();
                    self.slow[first..].iter_mut().for_each(|s| s.resume = resume);
                }
            }
            _ => {
                let v = i.immediate(0);
                self.push_value(k, |b| {
                    b.a.mov_imm64(host::RCX, v);
                    host::RCX
                });
            }
        }
    }

    /// Loads 8 bytes and puts them aside; false if the handler does it all.
    fn load_aside(&mut self, k: usize, i: &Instruction) -> bool {
        if !self.target(k, i) {
            return false;
        }
        self.a.store(context::TARGET, host::R15);
        true
    }

    fn pop(&mut self, k: usize, to: Register) {
        let miss = self.check(STACK, 8, false, 0);
        let guest = number(to);
        let h = home(guest).unwrap_or(host::RCX);
        let from = At::indexed(STACK, host::R11, 0, 0);
        if h == STACK {
            self.a.load(h, from);
        } else {
            self.a.load(h, from);
            self.a.lea(STACK, At::base(STACK, 8));
        }
        if home(guest).is_none() {
            self.a.store(context::reg(guest), h);
        }
        self.missed(miss, k, STACK);
    }

    fn leave(&mut self, k: usize) {
        let miss = self.check(FRAME, 8, false, 0);
        self.a.lea(STACK, At::base(FRAME, 8));
        self.a.load(FRAME, At::indexed(FRAME, host::R11, 0, 0));
        self.missed(miss, k, FRAME);
    }

    /// Near transfers that always end the block.
    fn transfer(&mut self, way: Way, k: usize, i: &Instruction) {
        let back = i.next_ip() as i64;
        match way {
            Way::Jmp => self.edge(k, i.near_branch64() as i64),
            Way::Call => {
                self.push_return(k, back);
                self.edge(k, i.near_branch64() as i64);
            }
            Way::Ret => {
                let pop = 8 + i32::from(if i.op_count() > 0 { i.immediate16() } else { 0 });
                let miss = self.check(STACK, 8, false, 0);
                self.a.load(host::R15, At::indexed(STACK, host::R11, 0, 0));
                self.canonical(k);
                self.a.lea(STACK, At::base(STACK, pop));
                self.missed(miss, k, STACK);
                self.indirect(k);
            }
            Way::JmpIndirect => {
                if self.target(k, i) {
                    self.canonical(k);
                    self.indirect(k);
                }
            }
            _ => {
                // The target must be safe while the push looks for its page.
                if i.op0_kind() == OpKind::Memory {
                    if self.load_aside(k, i) {
                        self.a.load(host::R15, context::TARGET);
                        self.canonical(k);
                        self.push_return(k, back);
                        self.a.load(host::R15, context::TARGET);
                        self.indirect(k);
                    }
                    return;
                }
                let to = number(i.op0_register());
                let target = self.value(to, host::R15);
                if target != host::R15 {
                    self.a.mov(host::R15, target);
                }
                self.canonical(k);
                self.push_return(k, back);
                if to == 4 {
                    // CALL RSP: the target is what RSP was before.
                    self.a.lea(host::R15, At::base(STACK, 8));
                } else {
                    let h = self.value(to, host::R15);
                    if h != host::R15 {
                        self.a.mov(host::R15, h);
                    }
                }
                self.indirect(k);
            }
        }
    }

    fn push_return(&mut self, k: usize, back: i64) {
        self.push_value(k, |b| {
            b.a.load(host::RCX, context::PAGE);
            b.a.lea(host::RCX, At::base(host::RCX, back as i32));
            host::RCX
        });
    }

    /// The target of an indirect JMP to R15; false if the handler does it all.
    fn target(&mut self, k: usize, i: &Instruction) -> bool {
        if i.op0_kind() == OpKind::Register {
            let h = self.value(number(i.op0_register()), host::R15);
            if h != host::R15 {
                self.a.mov(host::R15, h);
            }
            return true;
        }
        let start = self.a.here();
        let Some(lin) = self.linear(i) else {
            self.a.code.truncate(start);
            self.handler(k);
            return false;
        };
        let miss = self.check(lin, 8, false, 0);
        self.a.load(host::R15, At::indexed(lin, host::R11, 0, 0));
        self.missed(miss, k, lin);
        true
    }

    /// `n` instructions are retired; where to go if that was the last of the budget.
    fn account(&mut self, n: usize) -> Jump {
        self.a.load(host::RCX, context::BUDGET);
        self.a.lea(host::RCX, At::base(host::RCX, -(n as i32)));
        self.a.store(context::BUDGET, host::RCX);
        self.a.rorx(host::RCX, host::RCX, 32);
        let more = self.a.jecxz();
        let out = self.a.jmp();
        self.a.land(more);
        out
    }

    /// To the block at `target`, counted from the start of the page, after instruction `k`.
    fn edge(&mut self, k: usize, target: i64) {
        if let (Ok(target), true) = (u16::try_from(target), (0..4096).contains(&target)) {
            let out = self.account(k + 1);
            let jump = self.a.jmp();
            let edge = self.edges.len();
            self.edges.push(Edge { field: self.origin + jump.field() as u64, target: self.page + u64::from(target), mode: self.mode });
            self.outs.push(Out { from: vec![out, jump], edge, target });
            return;
        }
        self.a.load(host::R15, context::PAGE);
        if fits(target) {
            self.a.lea(host::R15, At::base(host::R15, target as i32));
        } else {
            self.a.mov_imm64(host::RCX, target as u64);
            self.a.lea(host::R15, At::indexed(host::R15, host::RCX, 0, 0));
        }
        self.indirect(k);
    }

    /// The handler does it all, and refuses, if the target in R15 is not canonical; or where it lies in the other half of
    /// the address space, as no target should.
    fn canonical(&mut self, k: usize) {
        self.a.pext(host::RCX, host::R15, context::MASK_SIGN);
        if !self.user {
            self.a.lea(host::RCX, At::base(host::RCX, -0x1_ffff));
        }
        let fine = self.a.jrcxz();
        let handled = self.a.jmp();
        self.a.land(fine);
        self.slow.push(Slow { from: handled, site: 2 * k, lin: host::R15, resume: self.a.here() });
    }

    /// To the block at R15, after instruction `k`.
    fn indirect(&mut self, k: usize) {
        let out = self.account(k + 1);
        self.a.bind_to(out, self.thunks.leave);
        self.a.pext(host::R11, host::R15, context::MASK_JUMP);
        self.a.load(host::RCX, context::jump_tag(self.user, host::R11));
        self.a.lea(host::RCX, At::indexed(host::RCX, host::R15, 0, 0));
        let hit = self.a.jrcxz();
        self.a.jmp_to(self.thunks.leave);
        self.a.land(hit);
        self.a.jmp_indirect(context::jump_code(self.user, host::R11));
    }

    /// All that does not lie on the straight way.
    fn finish(mut self, near: usize) -> Emitted {
        for (jump, k, target) in std::mem::take(&mut self.taken) {
            let here = self.a.here();
            self.a.bind(jump, here);
            self.edge(k, target);
        }
        for s in std::mem::take(&mut self.slow) {
            let here = self.a.here();
            self.a.bind(s.from, here);
            if s.lin != host::R15 {
                self.a.mov(host::R15, s.lin);
            }
            self.call_handler(s.site);
            let back = self.a.jmp();
            self.a.bind(back, s.resume);
        }
        for out in std::mem::take(&mut self.outs) {
            let here = self.a.here();
            for j in out.from {
                self.a.bind(j, here);
            }
            self.a.load(host::R15, context::PAGE);
            self.a.lea(host::R15, At::base(host::R15, out.target.into()));
            self.a.store_imm64(context::EDGE, (self.first_edge + out.edge + 1) as i32);
            self.a.jmp_to(self.thunks.leave);
        }
        let gone = self.a.here();
        self.a.load(host::R15, context::PAGE);
        self.a.lea(host::R15, At::base(host::R15, self.start.into()));
        self.a.jmp_to(self.thunks.leave);
        Emitted { code: self.a.code, near, gone, edges: self.edges }
    }
}

/// Whether an instruction works with the vector registers, or with MXCSR: so do conversions from memory to general registers.
fn uses_vectors(i: &Instruction) -> bool {
    (0..i.op_count()).any(|n| i.op_register(n).is_xmm() || i.op_register(n).is_ymm())
        || matches!(i.mnemonic(), M::Vzeroupper | M::Vzeroall)
        || matches!(i.mnemonic(), M::Cvtss2si | M::Cvttss2si | M::Cvtsd2si | M::Cvttsd2si)
        || matches!(i.mnemonic(), M::Vcvtss2si | M::Vcvttss2si | M::Vcvtsd2si | M::Vcvttsd2si)
}

fn encode(encoder: &mut Encoder, i: &Instruction, code: &mut Vec<u8>) -> Option<()> {
    encoder.set_buffer(std::mem::take(code));
    let ok = encoder.encode(i, 0).is_ok();
    *code = encoder.take_buffer();
    ok.then_some(())
}
