//! Moves of vectors and of their parts.

use iced_x86::Mnemonic as M;

use super::vector::{Bank, Mm, Xmm, integer};
use crate::lower::Lower;
use crate::op::{Dst, Exit, Handler, Mem, Op, Place, Source, Src, step};
use crate::semantics::simd::{Lane, V128};
use crate::state::Cpu;
use crate::table::{Row, row};
use crate::width::Width;
use crate::{by_width, op};

/// Instruction rows.
pub const ROWS: &[Row] = &[
    row(M::Movaps, lower_whole::<true>),
    row(M::Movapd, lower_whole::<true>),
    row(M::Movdqa, lower_whole::<true>),
    row(M::Movntps, lower_whole::<true>),
    row(M::Movntpd, lower_whole::<true>),
    row(M::Movntdq, lower_whole::<true>),
    row(M::Movntdqa, lower_whole::<true>),
    row(M::Movups, lower_whole::<false>),
    row(M::Movupd, lower_whole::<false>),
    row(M::Movdqu, lower_whole::<false>),
    row(M::Lddqu, lower_whole::<false>),
    row(M::Movss, lower_scalar::<u32>),
    // MOVSD is in `string`, which hands the XMM forms to `lower_movsd`.
    row(M::Movlps, lower_half::<0>),
    row(M::Movlpd, lower_half::<0>),
    row(M::Movhps, lower_half::<1>),
    row(M::Movhpd, lower_half::<1>),
    row(M::Movhlps, |l| l.with(between::<0, 1>)),
    row(M::Movlhps, |l| l.with(between::<1, 0>)),
    row(M::Movd, lower_integer),
    row(M::Movq, lower_integer),
    row(M::Movntq, lower_integer),
    row(M::Movdq2q, |l| l.with(movdq2q)),
    row(M::Movq2dq, |l| l.with(movq2dq)),
    row(M::Movnti, |l| by_width!(l, l.bits(1), movnti)),
];

/// The XMM forms of MOVSD.
pub(crate) fn lower_movsd(l: &Lower) -> Option<Op> {
    lower_scalar::<u64>(l)
}

fn lower_whole<const ALIGNED: bool>(l: &Lower) -> Option<Op> {
    match (l.is_mem(0), l.is_mem(1)) {
        (true, _) => l.with(store::<ALIGNED>),
        (_, true) => l.with(load::<ALIGNED>),
        _ => l.with(copy),
    }
}

fn load<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        if ALIGNED {
            cpu.check_aligned(op, 16, 16, false)?;
        }
        let v: V128 = cpu.load(op)?;
        cpu.set_xmm(op.dst, v);
        Ok(())
    })
}

fn store<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        if ALIGNED {
            cpu.check_aligned(op, 16, 16, true)?;
        }
        cpu.store::<V128>(op, cpu.xmm(op.src))
    })
}

fn copy(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.set_xmm::<16>(op.dst, cpu.xmm(op.src));
        Ok(())
    })
}

fn lower_scalar<W: Width + Lane>(l: &Lower) -> Option<Op> {
    match (l.is_mem(0), l.is_mem(1)) {
        (true, _) => l.with(store_part::<W, 0>),
        (_, true) => l.with(load_scalar::<W>),
        _ => l.with(merge::<W>),
    }
}

/// Loads the lowest lane; the others become zero.
fn load_scalar<W: Width + Lane>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v: W = cpu.load(op)?;
        cpu.set_xmm::<16>(op.dst, integer(v));
        Ok(())
    })
}

/// Between registers only the lowest lane changes.
fn merge<W: Width + Lane>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v: W = cpu.xmm::<16>(op.src).get(0);
        let r = cpu.xmm::<16>(op.dst).with(0, v);
        cpu.set_xmm(op.dst, r);
        Ok(())
    })
}

fn store_part<W: Width + Lane, const LANE: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v: W = cpu.xmm::<16>(op.src).get(LANE);
        cpu.store(op, v)
    })
}

fn lower_half<const LANE: usize>(l: &Lower) -> Option<Op> {
    l.with(if l.is_mem(0) { store_part::<u64, LANE> } else { load_half::<LANE> })
}

/// Loads one quadword; the other stays.
fn load_half<const LANE: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v: u64 = cpu.load(op)?;
        let r = cpu.xmm::<16>(op.dst).with(LANE, v);
        cpu.set_xmm(op.dst, r);
        Ok(())
    })
}

fn between<const TO: usize, const FROM: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v: u64 = cpu.xmm::<16>(op.src).get(FROM);
        let r = cpu.xmm::<16>(op.dst).with(TO, v);
        cpu.set_xmm(op.dst, r);
        Ok(())
    })
}

/// MOVD and MOVQ: between a vector register (zero-extended there) and a general register, memory, or its like.
fn lower_integer(l: &Lower) -> Option<Op> {
    let vector = |n: u32| l.is_reg(n) && (l.i.op_register(n).is_mm() || l.i.op_register(n).is_xmm());
    let mm = |n: u32| l.is_reg(n) && l.i.op_register(n).is_mm();
    let handler: Handler = match (vector(0), vector(1)) {
        (true, true) if mm(0) => copy_mm,
        (true, true) => copy_low,
        (true, false) => {
            let wide = l.bits(1) == 64;
            match (mm(0), wide, l.is_mem(1)) {
                (true, true, true) => into_vector::<Mm, 8, Mem, u64>,
                (true, true, false) => into_vector::<Mm, 8, Src, u64>,
                (true, false, true) => into_vector::<Mm, 8, Mem, u32>,
                (true, false, false) => into_vector::<Mm, 8, Src, u32>,
                (false, true, true) => into_vector::<Xmm, 16, Mem, u64>,
                (false, true, false) => into_vector::<Xmm, 16, Src, u64>,
                (false, false, true) => into_vector::<Xmm, 16, Mem, u32>,
                (false, false, false) => into_vector::<Xmm, 16, Src, u32>,
            }
        }
        _ => {
            let wide = l.bits(0) == 64;
            match (mm(1), wide, l.is_mem(0)) {
                (true, true, true) => out_of_vector::<Mm, 8, Mem, u64>,
                (true, true, false) => out_of_vector::<Mm, 8, Dst, u64>,
                (true, false, true) => out_of_vector::<Mm, 8, Mem, u32>,
                (true, false, false) => out_of_vector::<Mm, 8, Dst, u32>,
                (false, true, true) => out_of_vector::<Xmm, 16, Mem, u64>,
                (false, true, false) => out_of_vector::<Xmm, 16, Dst, u64>,
                (false, false, true) => out_of_vector::<Xmm, 16, Mem, u32>,
                (false, false, false) => out_of_vector::<Xmm, 16, Dst, u32>,
            }
        }
    };
    l.with(handler)
}

fn into_vector<B: Bank<N>, const N: usize, S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        B::ready(cpu, op)?;
        let v = S::get::<W>(cpu, op)?;
        B::set(cpu, op.dst, integer(v));
        Ok(())
    })
}

fn out_of_vector<B: Bank<N>, const N: usize, D: Place, W: Width + Lane>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        B::ready(cpu, op)?;
        let v: W = B::get(cpu, op.src).get(0);
        D::set(cpu, op, v)?;
        B::touch(cpu);
        Ok(())
    })
}

fn copy_mm(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        Mm::ready(cpu, op)?;
        Mm::set(cpu, op.dst, Mm::get(cpu, op.src));
        Ok(())
    })
}

fn copy_low(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.set_xmm::<16>(op.dst, integer(cpu.xmm::<8>(op.src).get::<u64>(0)));
        Ok(())
    })
}

fn movdq2q(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.mmx_ready(op)?;
        Mm::set(cpu, op.dst, cpu.xmm(op.src));
        Ok(())
    })
}

fn movq2dq(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.mmx_ready(op)?;
        cpu.set_xmm::<16>(op.dst, integer(u64::from(cpu.mm(op.src))));
        Mm::touch(cpu);
        Ok(())
    })
}

/// A store that needs no vector register.
fn movnti<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v = W::get(&cpu.state.regs, op.src);
        op::Mem::set(cpu, op, v)
    })
}
