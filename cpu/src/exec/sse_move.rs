//! Moves of vectors and of their parts.

use iced_x86::Mnemonic as M;

use super::vector::{Bank, Mm, Size, Vex, Xmm, in_memory, integer, size};
use crate::lower::Lower;
use crate::op::{Dst, Exit, Handler, Mem, Op, Place, Source, Src, step};
use crate::semantics::simd::Lane;
use crate::state::Cpu;
use crate::table::{Row, row};
use crate::width::Width;
use crate::{by_width, op};

/// Instruction rows.
pub const ROWS: &[Row] = &[
    row(M::Movaps, lower_whole::<true>).vex(M::Vmovaps),
    row(M::Movapd, lower_whole::<true>).vex(M::Vmovapd),
    row(M::Movdqa, lower_whole::<true>).vex(M::Vmovdqa),
    row(M::Movntps, lower_whole::<true>).vex(M::Vmovntps),
    row(M::Movntpd, lower_whole::<true>).vex(M::Vmovntpd),
    row(M::Movntdq, lower_whole::<true>).vex(M::Vmovntdq),
    row(M::Movntdqa, lower_whole::<true>).vex(M::Vmovntdqa),
    row(M::Movups, lower_whole::<false>).vex(M::Vmovups),
    row(M::Movupd, lower_whole::<false>).vex(M::Vmovupd),
    row(M::Movdqu, lower_whole::<false>).vex(M::Vmovdqu),
    row(M::Lddqu, lower_whole::<false>).vex(M::Vlddqu),
    row(M::Movss, lower_scalar::<u32, 4>).vex(M::Vmovss),
    row(M::Vmovsd, lower_movsd),
    // MOVSD is in `string`, which hands the XMM forms to `lower_movsd`.
    row(M::Movlps, lower_half::<0>).vex(M::Vmovlps),
    row(M::Movlpd, lower_half::<0>).vex(M::Vmovlpd),
    row(M::Movhps, lower_half::<1>).vex(M::Vmovhps),
    row(M::Movhpd, lower_half::<1>).vex(M::Vmovhpd),
    row(M::Movhlps, |l| if l.vex { l.with(between::<Vex, 0, 1>) } else { l.with(between::<Xmm, 0, 1>) }).vex(M::Vmovhlps),
    row(M::Movlhps, |l| if l.vex { l.with(between::<Vex, 1, 0>) } else { l.with(between::<Xmm, 1, 0>) }).vex(M::Vmovlhps),
    row(M::Movd, lower_integer).vex(M::Vmovd),
    row(M::Movq, lower_integer).vex(M::Vmovq),
    row(M::Movntq, lower_integer),
    row(M::Movdq2q, |l| l.with(movdq2q)),
    row(M::Movq2dq, |l| l.with(movq2dq)),
    row(M::Movnti, |l| by_width!(l, l.bits(1), movnti)),
];

/// The XMM forms of MOVSD.
pub(crate) fn lower_movsd(l: &Lower) -> Option<Op> {
    lower_scalar::<u64, 8>(l)
}

fn lower_whole<const ALIGNED: bool>(l: &Lower) -> Option<Op> {
    let stores = l.is_mem(0);
    match (size(l), in_memory(l)) {
        (Size::Sse, false) => l.with(copy::<Xmm, 16>),
        (Size::Sse, true) if stores => l.with(store::<16, ALIGNED>),
        (Size::Sse, true) => l.with(load::<Xmm, 16, ALIGNED>),
        (Size::Avx128, false) => l.with(copy::<Vex, 16>),
        (Size::Avx128, true) if stores => l.with(store::<16, ALIGNED>),
        (Size::Avx128, true) => l.with(load::<Vex, 16, ALIGNED>),
        (Size::Avx256, false) => l.with(copy::<Vex, 32>),
        (Size::Avx256, true) if stores => l.with(store::<32, ALIGNED>),
        (Size::Avx256, true) => l.with(load::<Vex, 32, ALIGNED>),
    }
}

fn load<B: Bank, const N: usize, const ALIGNED: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        if ALIGNED {
            cpu.check_aligned(op, N as u64, N, false)?;
        }
        let v = cpu.load_vector::<N, N>(op)?;
        B::set(cpu, op.dst, v);
        Ok(())
    })
}

fn store<const N: usize, const ALIGNED: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        if ALIGNED {
            cpu.check_aligned(op, N as u64, N, true)?;
        }
        if N == 32 { cpu.store(op, cpu.xmm::<32>(op.src)) } else { cpu.store(op, cpu.xmm::<16>(op.src)) }
    })
}

fn copy<B: Bank, const N: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        B::set::<N>(cpu, op.dst, cpu.xmm(op.src));
        Ok(())
    })
}

fn lower_scalar<W: Width + Lane, const N: usize>(l: &Lower) -> Option<Op> {
    match (l.vex, l.is_mem(0), l.is_mem(1)) {
        (_, true, _) => l.with(store_part::<W, 0>),
        (false, _, true) => l.with(load_scalar::<Xmm, W>),
        (false, _, false) => l.with(merge::<Xmm, N>),
        (true, _, true) => l.with(load_scalar::<Vex, W>),
        (true, _, false) => l.with(merge::<Vex, N>),
    }
}

/// Loads the lowest lane; the others become zero.
fn load_scalar<B: Bank, W: Width + Lane>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v: W = cpu.load(op)?;
        B::set::<16>(cpu, op.dst, integer(v));
        Ok(())
    })
}

/// Between registers only the lowest lane is the second source's.
fn merge<B: Bank, const N: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v = cpu.xmm::<N>(B::second(op));
        B::merge(cpu, op, v);
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
    match (l.is_mem(0), l.vex) {
        (true, _) => l.with(store_part::<u64, LANE>),
        (_, false) => l.with(load_half::<Xmm, LANE>),
        (_, true) => l.with(load_half::<Vex, LANE>),
    }
}

/// Loads one quadword; the other is the first source's.
fn load_half<B: Bank, const LANE: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v: u64 = cpu.load(op)?;
        let r = cpu.xmm::<16>(B::first(op)).with(LANE, v);
        B::set(cpu, op.dst, r);
        Ok(())
    })
}

fn between<B: Bank, const TO: usize, const FROM: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v: u64 = cpu.xmm::<16>(B::second(op)).get(FROM);
        let r = cpu.xmm::<16>(B::first(op)).with(TO, v);
        B::set(cpu, op.dst, r);
        Ok(())
    })
}

/// MOVD and MOVQ: between a vector register (zero-extended there) and a general register, memory, or its like.
fn lower_integer(l: &Lower) -> Option<Op> {
    let vector = |n: u32| l.is_reg(n) && (l.i.op_register(n).is_mm() || l.i.op_register(n).is_xmm());
    let mm = |n: u32| l.is_reg(n) && l.i.op_register(n).is_mm();
    let handler: Handler = match (vector(0), vector(1)) {
        (true, true) if mm(0) => copy_mm,
        (true, true) if l.vex => copy_low::<Vex>,
        (true, true) => copy_low::<Xmm>,
        (true, false) => {
            let wide = l.bits(1) == 64;
            match (mm(0), wide, l.is_mem(1)) {
                (_, true, true) if l.vex => into_vector::<Vex, 16, Mem, u64>,
                (_, true, false) if l.vex => into_vector::<Vex, 16, Src, u64>,
                (_, false, true) if l.vex => into_vector::<Vex, 16, Mem, u32>,
                (_, false, false) if l.vex => into_vector::<Vex, 16, Src, u32>,
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

fn into_vector<B: Bank, const N: usize, S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        B::ready(cpu, op)?;
        let v = S::get::<W>(cpu, op)?;
        B::set::<N>(cpu, op.dst, integer(v));
        Ok(())
    })
}

fn out_of_vector<B: Bank, const N: usize, D: Place, W: Width + Lane>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        B::ready(cpu, op)?;
        let v: W = B::get::<N>(cpu, op.src).get(0);
        D::set(cpu, op, v)?;
        B::touch(cpu);
        Ok(())
    })
}

fn copy_mm(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        Mm::ready(cpu, op)?;
        Mm::set(cpu, op.dst, cpu.mm(op.src));
        Ok(())
    })
}

fn copy_low<B: Bank>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        B::set(cpu, op.dst, cpu.xmm::<8>(op.src).resized::<16>());
        Ok(())
    })
}

fn movdq2q(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.mmx_ready(op)?;
        Mm::set(cpu, op.dst, cpu.xmm::<8>(op.src));
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
