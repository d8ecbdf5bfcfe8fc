//! String instructions and their REP forms.
//!
//! Each completed iteration of a REP form retires one instruction; a REP form with a count of 0 retires one. A run that
//! must stop at an exact count leaves the instruction in the middle, with RIP on it, as an interrupt would.

use iced_x86::Mnemonic as M;
use softmetal_bus::PAGE_SIZE;

use crate::fault::Fault;
use crate::flags;
use crate::lower::Lower;
use crate::op::{Exit, Op, addr, next, step};
use crate::semantics::integer::{Binary, Sub};
use crate::state::{Cpu, reg};
use crate::table::{Row, row};
use crate::width::Width;

/// The family's rows.
pub const ROWS: &[Row] = &[
    row(M::Movsb, lower::<Movs, u8>),
    row(M::Movsw, lower::<Movs, u16>),
    row(M::Movsd, |l| {
        if l.i.op0_register().is_xmm() || l.i.op1_register().is_xmm() { super::sse_move::lower_movsd(l) } else { lower::<Movs, u32>(l) }
    }),
    row(M::Movsq, lower::<Movs, u64>),
    row(M::Stosb, lower::<Stos, u8>),
    row(M::Stosw, lower::<Stos, u16>),
    row(M::Stosd, lower::<Stos, u32>),
    row(M::Stosq, lower::<Stos, u64>),
    row(M::Lodsb, lower::<Lods, u8>),
    row(M::Lodsw, lower::<Lods, u16>),
    row(M::Lodsd, lower::<Lods, u32>),
    row(M::Lodsq, lower::<Lods, u64>),
    row(M::Scasb, lower::<Scas, u8>).modifies("oszapc"),
    row(M::Scasw, lower::<Scas, u16>).modifies("oszapc"),
    row(M::Scasd, lower::<Scas, u32>).modifies("oszapc"),
    row(M::Scasq, lower::<Scas, u64>).modifies("oszapc"),
    row(M::Cmpsb, lower::<Cmps, u8>).modifies("oszapc"),
    row(M::Cmpsw, lower::<Cmps, u16>).modifies("oszapc"),
    row(M::Cmpsd, |l| if l.i.op0_register().is_xmm() { super::sse_float::lower_cmpsd(l) } else { lower::<Cmps, u32>(l) })
        .modifies("oszapc"),
    row(M::Cmpsq, lower::<Cmps, u64>).modifies("oszapc"),
];

/// One iteration of a string instruction, and the many that may go at once.
trait StringOp {
    /// Uses rSI.
    const SI: bool;
    /// Uses rDI.
    const DI: bool;
    /// REPE and REPNE look at ZF.
    const COMPARES: bool = false;
    /// One iteration; the registers move on afterwards.
    fn once<W: Width>(cpu: &mut Cpu, op: &Op, si: u64, di: u64) -> Result<(), Fault>;
    /// Tries up to `n` iterations upwards at once with linear addresses; how many were done (0: do one by one).
    fn many<W: Width>(cpu: &mut Cpu, si: u64, di: u64, n: u64) -> u64 {
        let _ = (cpu, si, di, n);
        0
    }
}

const ES: u8 = 0;

fn es(op: &Op) -> u8 {
    if op.addr & addr::CHECKED == 0 { crate::op::FLAT } else { ES }
}

/// Elements of `W` from `lin` to the end of its page.
fn in_page<W: Width>(lin: u64) -> u64 {
    (PAGE_SIZE as u64 - (lin & (PAGE_SIZE as u64 - 1))) / W::BYTES as u64
}

struct Movs;
impl StringOp for Movs {
    const SI: bool = true;
    const DI: bool = true;
    fn once<W: Width>(cpu: &mut Cpu, op: &Op, si: u64, di: u64) -> Result<(), Fault> {
        let v: W = cpu.load_at(op, op.seg, si)?;
        cpu.store_at(op, es(op), di, v)
    }
    fn many<W: Width>(cpu: &mut Cpu, si: u64, di: u64, n: u64) -> u64 {
        let n = n.min(in_page::<W>(si)).min(in_page::<W>(di));
        let len = n * W::BYTES as u64;
        // Forward copying onto itself repeats a pattern, which a block copy would not.
        let repeats = di > si && di - si < len;
        if n > 1 && !repeats && cpu.mmu.copy(si, di, len as usize) { n } else { 0 }
    }
}

struct Stos;
impl StringOp for Stos {
    const SI: bool = false;
    const DI: bool = true;
    fn once<W: Width>(cpu: &mut Cpu, op: &Op, _: u64, di: u64) -> Result<(), Fault> {
        let v = W::get(&cpu.state.regs, reg::RAX);
        cpu.store_at(op, es(op), di, v)
    }
    fn many<W: Width>(cpu: &mut Cpu, _: u64, di: u64, n: u64) -> u64 {
        let n = n.min(in_page::<W>(di));
        let v = W::get(&cpu.state.regs, reg::RAX).to_le();
        if n > 1 && cpu.mmu.fill_bytes(di, &v[..W::BYTES], n as usize * W::BYTES) { n } else { 0 }
    }
}

struct Lods;
impl StringOp for Lods {
    const SI: bool = true;
    const DI: bool = false;
    fn once<W: Width>(cpu: &mut Cpu, op: &Op, si: u64, _: u64) -> Result<(), Fault> {
        let v: W = cpu.load_at(op, op.seg, si)?;
        W::set(&mut cpu.state.regs, reg::RAX, v);
        Ok(())
    }
}

struct Scas;
impl StringOp for Scas {
    const SI: bool = false;
    const DI: bool = true;
    const COMPARES: bool = true;
    fn once<W: Width>(cpu: &mut Cpu, op: &Op, _: u64, di: u64) -> Result<(), Fault> {
        let b: W = cpu.load_at(op, es(op), di)?;
        let a = W::get(&cpu.state.regs, reg::RAX);
        Sub::apply(&mut cpu.state.lazy, a, b);
        Ok(())
    }
}

struct Cmps;
impl StringOp for Cmps {
    const SI: bool = true;
    const DI: bool = true;
    const COMPARES: bool = true;
    fn once<W: Width>(cpu: &mut Cpu, op: &Op, si: u64, di: u64) -> Result<(), Fault> {
        let a: W = cpu.load_at(op, op.seg, si)?;
        let b: W = cpu.load_at(op, es(op), di)?;
        Sub::apply(&mut cpu.state.lazy, a, b);
        Ok(())
    }
}

/// The repeat prefix goes to the immediate: 0 none, 1 REP or REPE, 2 REPNE.
fn lower<X: StringOp, W: Width>(l: &Lower) -> Option<Op> {
    let repeat = if l.i.has_repne_prefix() && X::COMPARES { 2 } else { u64::from(l.i.has_rep_prefix() || l.i.has_repne_prefix()) };
    let op = Op { imm: repeat, ..l.op };
    let l = Lower { op, ..*l };
    match (repeat, l.address_bits()) {
        (0, 64) => l.with(single::<X, W, u64>),
        (0, 32) => l.with(single::<X, W, u32>),
        (0, _) => l.with(single::<X, W, u16>),
        (_, 64) => l.with(repeated::<X, W, u64>),
        (_, 32) => l.with(repeated::<X, W, u32>),
        (_, _) => l.with(repeated::<X, W, u16>),
    }
}

#[inline(always)]
fn advance<X: StringOp, A: Width>(cpu: &mut Cpu, bytes: u64) {
    let by = if cpu.state.eflags & flags::DF != 0 { bytes.wrapping_neg() } else { bytes };
    let mut go = |r: u8| {
        let v = A::get(&cpu.state.regs, r).zx().wrapping_add(by);
        A::set(&mut cpu.state.regs, r, A::of(v));
    };
    if X::SI {
        go(reg::RSI);
    }
    if X::DI {
        go(reg::RDI);
    }
}

#[inline(always)]
fn one<X: StringOp, W: Width, A: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    let si = A::get(&cpu.state.regs, reg::RSI).zx();
    let di = A::get(&cpu.state.regs, reg::RDI).zx();
    X::once::<W>(cpu, op, si, di)?;
    advance::<X, A>(cpu, W::BYTES as u64);
    Ok(())
}

fn single<X: StringOp, W: Width, A: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, one::<X, W, A>)
}

fn repeated<X: StringOp, W: Width, A: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    let allowed = cpu.repeat_budget.saturating_add(1);
    let mut done = 0u64;
    let mut finished = A::get(&cpu.state.regs, reg::RCX).zx() == 0;
    let mut fault = None;
    while !finished && done < allowed {
        let left = A::get(&cpu.state.regs, reg::RCX).zx();
        let n = many::<X, W, A>(cpu, op, left.min(allowed - done));
        let n = if n > 0 {
            n
        } else if let Err(f) = one::<X, W, A>(cpu, op) {
            fault = Some(f);
            break;
        } else {
            1
        };
        A::set(&mut cpu.state.regs, reg::RCX, A::of(left - n));
        done += n;
        finished = left == n || X::COMPARES && cpu.state.lazy.zf() != (op.imm == 1);
        // What a device or a store over code has brought about comes before the next iteration.
        if cpu.solo && (cpu.attention.bits() != 0 || cpu.memory.code_written()) {
            break;
        }
    }
    if let Some(f) = fault {
        // The iterations so far stay; the faulting one has not begun.
        cpu.repeat_extra += done;
        cpu.repeat_budget = cpu.repeat_budget.saturating_sub(done);
        return step(cpu, op, rest, |_, _| Err(f));
    }
    let extra = done.saturating_sub(1);
    cpu.repeat_extra += extra;
    cpu.repeat_budget = cpu.repeat_budget.saturating_sub(extra);
    if finished {
        return next(cpu, rest);
    }
    // The breakpoint on it, if there is one, was met before the first iteration (SDM 3B, 18.3.1.1).
    cpu.state.eflags |= flags::RF;
    cpu.state.rip = cpu.this_rip(op);
    cpu.exit_ordinal = op.ordinal;
    Exit::Leave
}

/// Tries several iterations at once: upwards, in 64-bit mode, where no address wraps.
#[inline(always)]
fn many<X: StringOp, W: Width, A: Width>(cpu: &mut Cpu, op: &Op, n: u64) -> u64 {
    if n < 2 || A::BITS != 64 || op.addr != 0 || cpu.state.eflags & flags::DF != 0 {
        return 0;
    }
    let si = cpu.state.regs[usize::from(reg::RSI)].wrapping_add(cpu.state.bases[usize::from(op.seg & 7)]);
    let di = cpu.state.regs[usize::from(reg::RDI)];
    let n = X::many::<W>(cpu, si, di, n);
    if n > 0 {
        advance::<X, A>(cpu, n * W::BYTES as u64);
    }
    n
}
