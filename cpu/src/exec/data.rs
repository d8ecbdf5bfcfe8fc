//! Data movement, the stack, conversions, conditional moves and sets.

use iced_x86::{Code, Mnemonic as M, OpKind, Register};

use crate::fault::Fault;
use crate::flags::{AF, CF, PF, SF, ZF};
use crate::lower::Lower;
use crate::op::{Dst, Exit, FLAT_STACK, Imm, Mem, Op, Place, Source, Src, addr, step};
use crate::semantics::integer::Swap;
use crate::state::{Cpu, reg};
use crate::table::{Row, row};
use crate::width::{HIGH_BYTE, Width};
use crate::{binary, by_width};

use super::shift::convert;

/// The family's rows.
pub const ROWS: &[Row] = &[
    row(M::Mov, lower_mov),
    row(M::Movzx, |l| extend(l, false)),
    row(M::Movsx, |l| extend(l, true)),
    row(M::Movsxd, |l| extend(l, true)),
    row(M::Movbe, |l| match (l.is_mem(0), l.bits(0)) {
        (true, bits) => by_width!(l, bits, wide convert::<Swap, Mem, Src>),
        (false, bits) => by_width!(l, bits, wide convert::<Swap, Dst, Mem>),
    }),
    row(M::Bswap, |l| match l.bits(0) {
        // Undefined in the manual; processors clear the register.
        16 => l.with(|cpu, op, rest| step(cpu, op, rest, |cpu, op| Dst::set(cpu, op, 0u16))),
        bits => by_width!(l, bits, wide convert::<Swap, Dst, Dst>),
    }),
    row(M::Lea, |l| by_width!(l, l.bits(0), wide lea)),
    row(M::Xchg, |l| if l.is_mem(0) || l.is_mem(1) { exchange_memory(l) } else { by_width!(l, l.bits(0), exchange) }),
    row(M::Push, lower_push),
    row(M::Pop, lower_pop),
    row(M::Pusha, |l| l.with(push_all::<u16>)),
    row(M::Pushad, |l| l.with(push_all::<u32>)),
    row(M::Popa, |l| l.with(pop_all::<u16>)),
    row(M::Popad, |l| l.with(pop_all::<u32>)),
    row(M::Enter, |l| by_width!(l, frame_operand(l), wide enter)),
    row(M::Leave, |l| by_width!(l, frame_operand(l), wide leave)),
    row(M::Cbw, |l| l.with(widen::<u8, u16>)),
    row(M::Cwde, |l| l.with(widen::<u16, u32>)),
    row(M::Cdqe, |l| l.with(widen::<u32, u64>)),
    row(M::Cwd, |l| l.with(sign_to_dx::<u16>)),
    row(M::Cdq, |l| l.with(sign_to_dx::<u32>)),
    row(M::Cqo, |l| l.with(sign_to_dx::<u64>)),
    row(M::Lahf, |l| l.with(lahf)),
    row(M::Sahf, |l| l.with(sahf)).modifies("szapc"),
    row(M::Salc, |l| l.with(salc)),
    row(M::Clc, |l| l.with(|c, o, r| carry(c, o, r, |_| false))).modifies("c"),
    row(M::Stc, |l| l.with(|c, o, r| carry(c, o, r, |_| true))).modifies("c"),
    row(M::Cmc, |l| l.with(|c, o, r| carry(c, o, r, |cf| !cf))).modifies("c"),
    row(M::Cld, |l| l.with(|c, o, r| direction(c, o, r, false))).modifies("d"),
    row(M::Std, |l| l.with(|c, o, r| direction(c, o, r, true))).modifies("d"),
    row(M::Movdiri, |l| binary!(l, mov)),
    row(M::Movdir64b, |l| by_width!(l, l.bits(0), wide direct_64)),
    row(M::Xlatb, |l| l.with(xlat)),
    row(M::Nop, |l| l.with(nop)),
    row(M::Reservednop, |l| l.with(nop)),
    row(M::Endbr32, |l| l.with(nop)),
    row(M::Endbr64, |l| l.with(nop)),
    row(M::Cmovo, cmov::<0>),
    row(M::Cmovno, cmov::<1>),
    row(M::Cmovb, cmov::<2>),
    row(M::Cmovae, cmov::<3>),
    row(M::Cmove, cmov::<4>),
    row(M::Cmovne, cmov::<5>),
    row(M::Cmovbe, cmov::<6>),
    row(M::Cmova, cmov::<7>),
    row(M::Cmovs, cmov::<8>),
    row(M::Cmovns, cmov::<9>),
    row(M::Cmovp, cmov::<10>),
    row(M::Cmovnp, cmov::<11>),
    row(M::Cmovl, cmov::<12>),
    row(M::Cmovge, cmov::<13>),
    row(M::Cmovle, cmov::<14>),
    row(M::Cmovg, cmov::<15>),
    row(M::Seto, setcc::<0>),
    row(M::Setno, setcc::<1>),
    row(M::Setb, setcc::<2>),
    row(M::Setae, setcc::<3>),
    row(M::Sete, setcc::<4>),
    row(M::Setne, setcc::<5>),
    row(M::Setbe, setcc::<6>),
    row(M::Seta, setcc::<7>),
    row(M::Sets, setcc::<8>),
    row(M::Setns, setcc::<9>),
    row(M::Setp, setcc::<10>),
    row(M::Setnp, setcc::<11>),
    row(M::Setl, setcc::<12>),
    row(M::Setge, setcc::<13>),
    row(M::Setle, setcc::<14>),
    row(M::Setg, setcc::<15>),
];

fn lower_mov(l: &Lower) -> Option<Op> {
    let system = |r: Register| r.is_segment_register() || r.is_cr() || r.is_dr() || r.is_tr();
    if system(l.i.op0_register()) || system(l.i.op1_register()) {
        return super::segment::lower_mov(l);
    }
    // The only forms with a 64-bit displacement: the address goes to the immediate.
    let op = Op { imm: l.i.memory_displacement64(), ..l.op };
    let absolute = Lower { op, ..*l };
    match l.i.code() {
        Code::Mov_AL_moffs8 | Code::Mov_AX_moffs16 | Code::Mov_EAX_moffs32 | Code::Mov_RAX_moffs64 => {
            return by_width!(absolute, l.bits(0), load_absolute);
        }
        Code::Mov_moffs8_AL | Code::Mov_moffs16_AX | Code::Mov_moffs32_EAX | Code::Mov_moffs64_RAX => {
            return by_width!(absolute, l.bits(1), store_absolute);
        }
        _ => {}
    }
    binary!(l, mov)
}

fn mov<D: Place, S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v = S::get::<W>(cpu, op)?;
        D::set(cpu, op, v)
    })
}

fn load_absolute<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v: W = cpu.load_at(op, op.seg, op.imm)?;
        W::set(&mut cpu.state.regs, reg::RAX, v);
        Ok(())
    })
}

fn store_absolute<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v = W::get(&cpu.state.regs, reg::RAX);
        cpu.store_at(op, op.seg, op.imm, v)
    })
}

fn extend(l: &Lower, signed: bool) -> Option<Op> {
    macro_rules! pick {
        ($from:ty, $to:ty) => {
            match (l.is_mem(1), signed) {
                (false, false) => l.with(zero_extend::<Src, $from, $to>),
                (true, false) => l.with(zero_extend::<Mem, $from, $to>),
                (false, true) => l.with(sign_extend::<Src, $from, $to>),
                (true, true) => l.with(sign_extend::<Mem, $from, $to>),
            }
        };
    }
    match (l.bits(1), l.bits(0)) {
        (8, 16) => pick!(u8, u16),
        (8, 32) => pick!(u8, u32),
        (8, 64) => pick!(u8, u64),
        (16, 16) => pick!(u16, u16),
        (16, 32) => pick!(u16, u32),
        (16, 64) => pick!(u16, u64),
        (32, 16) => pick!(u32, u16),
        (32, 32) => pick!(u32, u32),
        (32, 64) => pick!(u32, u64),
        _ => None,
    }
}

fn zero_extend<S: Source, A: Width, B: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v = S::get::<A>(cpu, op)?;
        Dst::set(cpu, op, B::of(v.zx()))
    })
}

fn sign_extend<S: Source, A: Width, B: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v = S::get::<A>(cpu, op)?;
        Dst::set(cpu, op, B::of(v.sx()))
    })
}

fn lea<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let ea = cpu.effective(op);
        Dst::set(cpu, op, W::of(ea))
    })
}

fn exchange<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let (a, b) = (Dst::get::<W>(cpu, op)?, Src::get::<W>(cpu, op)?);
        Dst::set(cpu, op, b)?;
        Src::set(cpu, op, a)
    })
}

fn exchange_memory(l: &Lower) -> Option<Op> {
    // Either operand may be the memory one; the register goes to `src`.
    let op = if l.is_mem(0) { l.op } else { Op { src: l.op.dst, ..l.op } };
    let bits = l.bits(if l.is_mem(0) { 1 } else { 0 });
    let l = Lower { op, ..*l };
    by_width!(l, bits, exchange_with_memory)
}

fn exchange_with_memory<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let new = Src::get::<W>(cpu, op)?;
        let mut old = W::default();
        cpu.update::<W>(op, |_, a| {
            old = a;
            new
        })?;
        Src::set(cpu, op, old)
    })
}

// The stack

impl Cpu {
    #[inline(always)]
    fn stack_mask(&self, op: &Op) -> u64 {
        // Outside 64-bit mode every operation is CHECKED.
        if op.addr & addr::CHECKED == 0 {
            !0
        } else if self.state.mode.stack_bits() == 32 {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    #[inline(always)]
    fn stack_segment(op: &Op) -> u8 {
        if op.addr & addr::CHECKED == 0 { FLAT_STACK } else { 2 }
    }

    /// The stack pointer, cut to the stack's size, `by` bytes on.
    #[inline(always)]
    pub(crate) fn stack_at(&self, op: &Op, by: i64) -> u64 {
        self.state.regs[usize::from(reg::RSP)].wrapping_add(by as u64) & self.stack_mask(op)
    }

    /// Moves the stack pointer to `to` (already cut); the bits above the stack's size stay.
    #[inline(always)]
    pub(crate) fn set_stack(&mut self, op: &Op, to: u64) {
        let mask = self.stack_mask(op);
        let rsp = &mut self.state.regs[usize::from(reg::RSP)];
        // A 32-bit stack pointer clears the upper half, as any 32-bit register write; only a 16-bit one merges.
        *rsp = if mask == 0xffff { *rsp & !mask | to } else { to };
    }

    /// PUSH.
    ///
    /// # Errors
    /// Stack and page faults; the stack pointer is then unchanged.
    #[inline(always)]
    pub fn push<W: Width>(&mut self, op: &Op, v: W) -> Result<(), Fault> {
        let to = self.stack_at(op, -(W::BYTES as i64));
        self.store_at(&Op { addr: op.addr & addr::CHECKED, ..*op }, Self::stack_segment(op), to, v)?;
        self.set_stack(op, to);
        Ok(())
    }

    /// The value on top of the stack, which stays there.
    ///
    /// # Errors
    /// Stack and page faults.
    #[inline(always)]
    pub fn peek<W: Width>(&mut self, op: &Op, by: i64) -> Result<W, Fault> {
        let at = self.stack_at(op, by);
        self.load_at(&Op { addr: op.addr & addr::CHECKED, ..*op }, Self::stack_segment(op), at)
    }

    /// POP.
    ///
    /// # Errors
    /// Stack and page faults; the stack pointer is then unchanged.
    #[inline(always)]
    pub fn pop<W: Width>(&mut self, op: &Op) -> Result<W, Fault> {
        let v = self.peek(op, 0)?;
        let to = self.stack_at(op, W::BYTES as i64);
        self.set_stack(op, to);
        Ok(v)
    }
}

/// The operand size of an instruction that uses the stack implicitly.
pub(crate) fn stack_operand(l: &Lower) -> usize {
    l.i.stack_pointer_increment().unsigned_abs() as usize * 8
}

/// The operand size of ENTER and LEAVE, whose stack increment says nothing of it.
fn frame_operand(l: &Lower) -> usize {
    match l.i.code() {
        Code::Enterw_imm16_imm8 | Code::Leavew => 16,
        Code::Enterd_imm16_imm8 | Code::Leaved => 32,
        _ => 64,
    }
}

fn lower_push(l: &Lower) -> Option<Op> {
    if l.i.op0_register().is_segment_register() {
        return super::segment::lower_push(l);
    }
    let bits = stack_operand(l);
    if l.is_mem(0) {
        by_width!(l, bits, wide push::<Mem>)
    } else if l.i.op0_kind() == OpKind::Register {
        by_width!(l, bits, wide push::<Dst>)
    } else {
        by_width!(l, bits, wide push::<Imm>)
    }
}

fn push<S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v = S::get::<W>(cpu, op)?;
        cpu.push(op, v)
    })
}

fn lower_pop(l: &Lower) -> Option<Op> {
    if l.i.op0_register().is_segment_register() {
        return super::segment::lower_pop(l);
    }
    let bits = stack_operand(l);
    if l.is_mem(0) { by_width!(l, bits, wide pop::<Mem>) } else { by_width!(l, bits, wide pop::<Dst>) }
}

fn pop<D: Place, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let old = cpu.state.regs[usize::from(reg::RSP)];
        let v: W = cpu.pop(op)?;
        // A memory operand addressed by the stack pointer sees it incremented (SDM 2B, POP).
        D::set(cpu, op, v).inspect_err(|_| cpu.state.regs[usize::from(reg::RSP)] = old)
    })
}

fn push_all<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let regs = cpu.state.regs;
        for r in 0..8 {
            cpu.push(op, W::get(&regs, r)).inspect_err(|_| cpu.state.regs = regs)?;
        }
        Ok(())
    })
}

fn pop_all<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let mut regs = cpu.state.regs;
        for i in 0..8 {
            let v: W = cpu.peek(op, i64::from(i) * W::BYTES as i64)?;
            if 7 - i != reg::RSP {
                W::set(&mut regs, 7 - i, v);
            }
        }
        let to = cpu.stack_at(op, 8 * W::BYTES as i64);
        cpu.state.regs = regs;
        cpu.set_stack(op, to);
        Ok(())
    })
}

/// ENTER (SDM 2A): frame size in the low word of the immediate, nesting level above it.
fn enter<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let (size, level) = (op.imm & 0xffff, op.imm >> 16 & 31);
        let old = cpu.state.regs;
        let body = |cpu: &mut Cpu| {
            cpu.push(op, W::get(&old, reg::RBP))?;
            let frame = cpu.state.regs[usize::from(reg::RSP)];
            if level > 0 {
                let mask = cpu.stack_mask(op);
                for i in 1..level {
                    let at = old[usize::from(reg::RBP)].wrapping_sub(i * W::BYTES as u64) & mask;
                    let v: W = cpu.load_at(op, Cpu::stack_segment(op), at)?;
                    cpu.push(op, v)?;
                }
                cpu.push(op, W::of(frame))?;
            }
            W::set(&mut cpu.state.regs, reg::RBP, W::of(frame));
            let to = cpu.stack_at(op, -(size as i64));
            // The new top must be writable (SDM 2, ENTER).
            cpu.probe_operand(op, Cpu::stack_segment(op), to, W::BYTES)?;
            cpu.set_stack(op, to);
            Ok(())
        };
        body(cpu).inspect_err(|_| cpu.state.regs = old)
    })
}

fn leave<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let old = cpu.state.regs[usize::from(reg::RSP)];
        let frame = cpu.state.regs[usize::from(reg::RBP)] & cpu.stack_mask(op);
        cpu.set_stack(op, frame);
        let v: W = cpu.pop(op).inspect_err(|_| cpu.state.regs[usize::from(reg::RSP)] = old)?;
        W::set(&mut cpu.state.regs, reg::RBP, v);
        Ok(())
    })
}

// Conversions and flags

fn widen<A: Width, B: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        let v = A::get(&cpu.state.regs, reg::RAX);
        B::set(&mut cpu.state.regs, reg::RAX, B::of(v.sx()));
        Ok(())
    })
}

fn sign_to_dx<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        let sign = (W::get(&cpu.state.regs, reg::RAX).sx() as i64 >> 63) as u64;
        W::set(&mut cpu.state.regs, reg::RDX, W::of(sign));
        Ok(())
    })
}

fn lahf(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        let f = cpu.state.lazy.bits() as u8 & (SF | ZF | AF | PF | CF) as u8 | 2;
        u8::set(&mut cpu.state.regs, HIGH_BYTE, f);
        Ok(())
    })
}

fn sahf(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        let mask = SF | ZF | AF | PF | CF;
        let new = u64::from(u8::get(&cpu.state.regs, HIGH_BYTE)) & mask;
        let bits = cpu.state.lazy.bits() & !mask | new;
        cpu.state.lazy.set_bits(bits);
        Ok(())
    })
}

fn salc(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        let v = if cpu.state.lazy.cf() { 0xff } else { 0 };
        u8::set(&mut cpu.state.regs, reg::RAX, v);
        Ok(())
    })
}

#[inline(always)]
fn carry(cpu: &mut Cpu, op: &Op, rest: &[Op], f: impl Fn(bool) -> bool) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        let cf = f(cpu.state.lazy.cf());
        cpu.state.lazy.set_cf(cf);
        Ok(())
    })
}

fn direction(cpu: &mut Cpu, op: &Op, rest: &[Op], down: bool) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        cpu.state.eflags = cpu.state.eflags & !crate::flags::DF | if down { crate::flags::DF } else { 0 };
        Ok(())
    })
}

fn xlat(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let at = crate::mmu::cut(cpu.state.regs[usize::from(reg::RBX)].wrapping_add(cpu.state.regs[usize::from(reg::RAX)] & 0xff), op.addr);
        let v: u8 = cpu.load_at(op, op.seg, at)?;
        u8::set(&mut cpu.state.regs, reg::RAX, v);
        Ok(())
    })
}

/// MOVDIR64B: 64 bytes to the aligned place in ES that the first operand, of address size `A`, tells.
fn direct_64<A: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let to = A::get(&cpu.state.regs, op.dst).zx();
        let es = if op.addr & addr::CHECKED == 0 { crate::op::FLAT } else { 0 };
        let from = cpu.effective(op);
        let to = cpu.linear(es, to, 64, true, op.addr)?;
        if to % 64 != 0 {
            return Err(cpu.gp(0));
        }
        let mut line = [0u64; 8];
        for (i, v) in line.iter_mut().enumerate() {
            *v = cpu.load_at(op, op.seg, from.wrapping_add(8 * i as u64))?;
        }
        cpu.probe_write(to, 64)?;
        for (i, v) in line.into_iter().enumerate() {
            cpu.write(to.wrapping_add(8 * i as u64), v)?;
        }
        Ok(())
    })
}

/// NOP and its reserved kin: nothing.
pub fn nop(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |_, _| Ok(()))
}

fn cmov<const CC: u8>(l: &Lower) -> Option<Op> {
    macro_rules! pick {
        ($w:ty) => {
            if l.is_mem(1) { l.with(conditional_move::<CC, Mem, $w>) } else { l.with(conditional_move::<CC, Src, $w>) }
        };
    }
    match l.bits(0) {
        16 => pick!(u16),
        32 => pick!(u32),
        64 => pick!(u64),
        _ => None,
    }
}

/// CMOVcc: the source is read, and a 32-bit destination zero-extended, whatever the condition.
fn conditional_move<const CC: u8, S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v = S::get::<W>(cpu, op)?;
        let old = Dst::get::<W>(cpu, op)?;
        let v = if cpu.state.lazy.condition::<CC>() { v } else { old };
        Dst::set(cpu, op, v)
    })
}

fn setcc<const CC: u8>(l: &Lower) -> Option<Op> {
    if l.is_mem(0) { l.with(set_if::<CC, Mem>) } else { l.with(set_if::<CC, Dst>) }
}

fn set_if<const CC: u8, D: Place>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v = u8::from(cpu.state.lazy.condition::<CC>());
        D::set(cpu, op, v)
    })
}
