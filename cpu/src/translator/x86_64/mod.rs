//! The back end for x86-64: instructions as they are, with registers renamed.
//!
//! The guest speaks the host's language, so an instruction is emitted as it is, with its memory
//! operand behind an inline look at the TLB; whatever else there is goes through the interpreter's handler, as does an
//! access that misses. So no instruction means anything of its own here.
//!
//! | module | what it holds |
//! |---|---|
//! | [`policy`] | which instructions are re-emitted |
//! | [`emit`] | from a block's instructions to host code |
//! | [`registers`] | where the guest's registers are meanwhile |
//! | [`context`] | what translated code works with, and where it finds it |
//! | [`returns`] | the stack that returns are predicted by |
//! | [`thunks`] | the way in and out |
//! | [`assembler`] | bytes of host instructions |
//! | [`code`] | code that may lie anywhere |
//! | [`x87`] | the x87 registers, in the host's while translated code uses them (unsafe) |
//! | [`arena`] | code memory (unsafe) |
//!
//! Guest flags are the host's all the time: address checks, the budget and jumps use LEA, PEXT, SHRX, JRCXZ and LOOP alone.

mod arena;
mod assembler;
mod code;
mod context;
mod emit;
mod policy;
mod registers;
mod returns;
mod thunks;
mod undefined;
mod x87;

use iced_x86::Instruction;
use softmetal_bus::PAGE_SIZE;

use self::arena::{Arena, Origin};
use self::assembler::{Assembler, host};
use self::code::Code;
pub use self::context::Context;
use self::context::Jumps;
use self::emit::{Emitter, Kind, Site, To};
use self::policy::{Host, Way};
use self::returns::{SLICE, Stacks};
use self::thunks::{Thunks, result};
use super::SPARE;
use super::backend::{Back, Backend, Edge, Input, Leads, Made, Maker};
use crate::block::Block;
use crate::flags;
use crate::op::{BLOCK_RIP, Exit, Op};
use crate::state::{Cpu, Mode};

/// Room that one block's code may need, in bytes.
const MOST: usize = 64 << 10;
/// Bytes of a JMP.
const JUMP: usize = 5;
/// The masks of MXCSR: with one of them clear, blocks with vector instructions are interpreted.
const MASKS: u32 = 0x1f80;

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

/// All code.
pub struct Native {
    arena: Arena,
    /// What [`Context::returns`] is about.
    stacks: Stacks,
    thunks: Thunks,
    host: Host,
}

impl Maker for Emitter {
    type Code = Code;

    fn leads(&mut self, instructions: &[Instruction], available: &[bool], mode: Mode) -> Vec<Leads> {
        let leads = |(i, (way, _))| match way {
            Way::Jcc | Way::Jmp | Way::Call => Leads::To { at: To::of(i).at, call: way == Way::Call },
            Way::JmpIndirect | Way::CallIndirect | Way::Ret => Leads::Anywhere,
            Way::HandlerLast => Leads::Out,
            _ => Leads::On,
        };
        instructions.iter().zip(self.ways(instructions, available, mode)).map(leads).collect()
    }

    fn make(&mut self, input: &mut Input, code: &mut Code) -> bool {
        let (a, made, edges) = self.emit(input, code.room());
        code.set(a, made, edges);
        let (straight, aside) = code.parts();
        straight.len().max(aside.len()) <= MOST
    }
}

impl Backend for Native {
    type Maker = Emitter;
    type Saved = [u8; JUMP];

    fn new(cpu: &mut Cpu) -> Result<Self, String> {
        let (host, mut arena) = host_and_memory()?;
        let tables = cpu.mmu.fast.address().ok_or("the translator needs memory below 2 GiB, which the host does not give")?;
        let thunks = thunks::make(&mut arena, tables, host.gate());
        cpu.mmu.fast.expect(thunks.gate.key() as usize);
        let mut stacks =
            Stacks::new().map_err(|e| format!("the translator needs memory for its stack, which the host does not give: {e}"))?;
        cpu.jit.returns = stacks.returns(thunks.leave);
        cpu.jit.handle = handle as *const () as u64;
        cpu.jit.jumps.iter_mut().for_each(Jumps::clear);
        Ok(Self { arena, stacks, thunks, host })
    }

    fn maker(&self) -> Emitter {
        Emitter::new(self.host, self.thunks)
    }

    fn assume_other_maker(&mut self, cpu: &mut Cpu) {
        self.arena.truncate(0);
        self.host = self.host.of_other_maker();
        self.thunks = thunks::make(&mut self.arena, self.thunks.tables, self.host.gate());
        cpu.mmu.fast.expect(self.thunks.gate.key() as usize);
        cpu.jit.returns = self.stacks.returns(self.thunks.leave);
        self.forget_addresses(cpu);
    }

    fn has_room(&self) -> bool {
        self.arena.has_room(MOST)
    }

    fn place(&mut self, code: &mut Code, number: u32, edges: &mut Vec<Edge>) -> Made {
        code.move_to(self.arena.next(), edges.len(), number);
        let (straight, aside) = code.parts();
        self.arena.append(straight, aside);
        edges.extend_from_slice(&code.edges);
        code.made
    }

    fn bytes(&self, (at, len): (u64, usize)) -> &[u8] {
        self.arena.bytes(at, len)
    }

    fn link(&mut self, field: u64, to: u64) {
        self.arena.patch(field, &(to.wrapping_sub(field + 4) as u32).to_le_bytes());
    }

    fn divert(&mut self, entry: u64, to: u64) -> [u8; JUMP] {
        let saved = self.arena.bytes(entry, JUMP).try_into().unwrap_or_else(|_| unreachable!("the length is JUMP"));
        let [a, b, c, d] = (to.wrapping_sub(entry + JUMP as u64) as u32).to_le_bytes();
        self.arena.patch(entry, &[0xe9, a, b, c, d]);
        saved
    }

    fn restore(&mut self, entry: u64, saved: [u8; JUMP]) {
        self.arena.patch(entry, &saved);
    }

    fn look_up(&mut self, user: bool) -> u64 {
        let at = self.arena.next();
        let mut a = Assembler::new(Origin { straight: at.aside, ..at }, Default::default());
        let Thunks { gate, second_look, .. } = self.thunks;
        thunks::look_up_target(&mut a, gate, user, false);
        let unknown = a.pass(gate);
        a.lead_to(unknown, second_look[usize::from(user)]);
        a.jmp_indirect(context::jump_code(host::R11));
        self.arena.append(&[], &a.code);
        at.aside
    }

    fn clear(&mut self, cpu: &mut Cpu) {
        self.arena.truncate(self.thunks.len);
        self.forget_addresses(cpu);
    }

    fn forget_addresses(&mut self, cpu: &mut Cpu) {
        cpu.jit.jumps.iter_mut().for_each(Jumps::clear);
        cpu.jit.returns.forget(false);
        cpu.jit.returns.forget(true);
        cpu.jit.strays.clear();
    }

    fn stray(&mut self, cpu: &mut Cpu) -> Option<(u32, u64)> {
        cpu.jit.strays.often.pop()
    }

    fn within_limit(cpu: &Cpu, block: &Block) -> bool {
        !block.mode.bounded() || block.ops.last().is_some_and(|op| cpu.state.rip + op.end() <= cpu.jit.code_reach)
    }

    fn run(&mut self, cpu: &mut Cpu, block: &Block, (far, near): (u64, u64), left: u64) -> Back {
        let rip = cpu.state.rip;
        learn_time(cpu);
        let s = &mut cpu.state;
        let flags = s.lazy.bits();
        let jit = &mut cpu.jit;
        jit.grant(s.icount, left.min(SLICE));
        jit.page = rip.wrapping_sub(block.physical & (PAGE_SIZE as u64 - 1));
        jit.flags = to_host(flags);
        jit.vectors_home = context::HOME;
        jit.edge = 0;
        jit.returns.make_room();
        let linear = cpu.linear_rip();
        Jumps::of(cpu).set(linear, far);
        // SAFETY: the code was made for this processor's layout, by `emit` and `thunks`, and lives as long as the arena;
        // it reaches guest memory through the TLB alone.
        let back = unsafe { arena::call(self.thunks.enter, cpu, near) };
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
    let user = cpu.state.mode.user();
    if cpu.jit.linked_in[usize::from(user)].is_some_and(|e| e != cpu.mmu.code_epoch(user)) {
        return result::NEXT;
    }
    let Some(code) = Jumps::of(cpu).get(linear) else { return result::NEXT };
    if in_shadow {
        (cpu.state.shadow, cpu.state.debug_shadow) = (false, false);
    }
    code
}

/// Carries out operations for translated code. The result is one of [`result`], or the host address of code to go on with.
extern "sysv64" fn handle(cpu: *mut Cpu, ops: *const Op, site: u64) -> u64 {
    let site = Site::unpack(site);
    // SAFETY: translated code passes the processor that it was entered with, which nobody else uses meanwhile, and the
    // operations of a translation, which live until all code is dropped; its sites name such as there are.
    let (cpu, ops) = unsafe { (&mut *cpu, std::slice::from_raw_parts(ops.add(site.first), site.run)) };
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
    if site.strays() {
        let number = std::mem::take(&mut cpu.jit.edge) as u32;
        cpu.jit.strays.count(number, cpu.jit.page);
    }
    let lin = registers::guest(site.lin).map_or(cpu.jit.lin, |n| cpu.state.regs[usize::from(n)]);
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
        cpu.mmu.fill_fast(lin);
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
