//! What AVX and AVX2 have and SSE has not: moves between lanes, masked moves, gathers.

use iced_x86::{Mnemonic as M, Register};

use super::vector::{Bank, Vex, in_memory};
use crate::by_size;
use crate::fault::Fault;
use crate::lower::Lower;
use crate::mmu::cut;
use crate::op::{Exit, Op, ZERO, step};
use crate::semantics::simd::{Lane, V128, V256, Vector, shuffle as s};
use crate::state::Cpu;
use crate::table::{Row, row};
use crate::vector_rows;
use crate::width::{Value, Width};

/// Instruction rows: `destination = f(sources)` across the lanes of YMM registers.
pub const CROSSING: &[Row] = vector_rows! {
    cross {
        Vpermd = |a, b| s::permd(a, b);
        Vpermps = |a, b| s::permd(a, b);
        Vpermq = |_, b, n| s::permq(b, n);
        Vpermpd = |_, b, n| s::permq(b, n);
        Vperm2f128 = |a, b, n| s::perm2f128(a, b, n);
        Vperm2i128 = |a, b, n| s::perm2f128(a, b, n);
        Vinsertf128 = |a, b, n| s::insertf128(a, b.part(0), n);
        Vinserti128 = |a, b, n| s::insertf128(a, b.part(0), n);
    }
};

/// VPERMILPS and VPERMILPD by a vector, and by an immediate: the same mnemonics.
const PERMIL: [&[Row]; 2] = [
    vector_rows! {
        avx {
            Vpermilps = |a, b| s::permilps(a, b);
            Vpermilpd = |a, b| s::permilpd(a, b);
        }
    },
    vector_rows! {
        avx {
            Vpermilps = |_, b, n| s::pshufd(b, n);
            Vpermilpd = |_, b, n, lane| s::shufpd(b, b, n >> (2 * lane));
        }
    },
];

/// Instruction rows of other shapes.
pub const ROWS: &[Row] = &[
    row(M::Vpermilps, |l| (PERMIL[usize::from(l.is_imm(2))][0].lower)(l)),
    row(M::Vpermilpd, |l| (PERMIL[usize::from(l.is_imm(2))][1].lower)(l)),
    row(M::Vextractf128, lower_extract),
    row(M::Vextracti128, lower_extract),
    row(M::Vmaskmovps, lower_masked::<u32>),
    row(M::Vmaskmovpd, lower_masked::<u64>),
    row(M::Vpmaskmovd, lower_masked::<u32>),
    row(M::Vpmaskmovq, lower_masked::<u64>),
    row(M::Vpgatherdd, lower_gather::<i32, u32>),
    row(M::Vpgatherdq, lower_gather::<i32, u64>),
    row(M::Vpgatherqd, lower_gather::<i64, u32>),
    row(M::Vpgatherqq, lower_gather::<i64, u64>),
    row(M::Vgatherdps, lower_gather::<i32, u32>),
    row(M::Vgatherdpd, lower_gather::<i32, u64>),
    row(M::Vgatherqps, lower_gather::<i64, u32>),
    row(M::Vgatherqpd, lower_gather::<i64, u64>),
    row(M::Vzeroupper, |l| l.with(zero_upper)),
    row(M::Vzeroall, |l| l.with(zero_all)),
];

fn lower_extract(l: &Lower) -> Option<Op> {
    if l.is_mem(0) { l.with(extract::<true>) } else { l.with(extract::<false>) }
}

fn extract<const MEM: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v: V128 = cpu.xmm::<32>(op.src).part(op.imm as usize & 1);
        if MEM {
            cpu.store(op, v)
        } else {
            Vex::set(cpu, op.dst, v);
            Ok(())
        }
    })
}

fn zero_upper(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        let count = cpu.xmm_count();
        for v in &mut cpu.state.ymm.0[..count] {
            v.0[16..].fill(0);
        }
        Ok(())
    })
}

fn zero_all(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        let count = cpu.xmm_count();
        cpu.state.ymm.0[..count].fill(V256::ZERO);
        Ok(())
    })
}

fn lower_masked<W: Width + Lane>(l: &Lower) -> Option<Op> {
    if l.is_mem(0) { by_size!(vex l, store_masked::<W>) } else { by_size!(vex l, load_masked::<W>) }
}

/// Whether the sign bit of lane `i` is set.
#[inline(always)]
fn chosen<W: Width + Lane, const N: usize>(mask: &Vector<N>, i: usize) -> bool {
    mask.get::<W>(i).zx() >> (W::BITS - 1) != 0
}

/// Loads from segment offset `ea`, never checking alignment: masked moves and gathers do not (SDM 2, 2.4, Type 6).
#[inline(always)]
fn load_part<V: Value>(cpu: &mut Cpu, op: &Op, ea: u64) -> Result<V, Fault> {
    let linear = cpu.linear(op.seg, ea, V::BYTES, false, op.addr)?;
    match cpu.mmu.hit_read::<V>(linear) {
        Some(slot) => Ok(slot.load()),
        None => cpu.read_as(linear, cpu.state.cpl == 3).map_err(|f| cpu.stack_class(op.seg, f)),
    }
}

/// Loads the lanes that the mask (`op.src`) chooses; the others are 0 and touch no memory.
fn load_masked<W: Width + Lane, B: Bank, const N: usize, const MEM: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let mask = cpu.xmm::<N>(op.src);
        let lanes = Vector::<N>::lanes::<W>();
        let ea = cpu.effective(op);
        let mut v = Vector::<N>::ZERO;
        match (N, (0..lanes).all(|i| chosen::<W, N>(&mask, i))) {
            (32, true) => v = load_part::<V256>(cpu, op, ea)?.resized(),
            (_, true) => v = load_part::<V128>(cpu, op, ea)?.resized(),
            _ => {
                for i in (0..lanes).filter(|&i| chosen::<W, N>(&mask, i)) {
                    v.set::<W>(i, load_part(cpu, op, lane_address::<W>(op, ea, i))?);
                }
            }
        }
        B::set(cpu, op.dst, v);
        Ok(())
    })
}

/// Stores the lanes of `op.imm`'s register that the mask (`op.src`) chooses: all of them, or none if any faults.
fn store_masked<W: Width + Lane, B: Bank, const N: usize, const MEM: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let mask = cpu.xmm::<N>(op.src);
        let data = B::get::<N>(cpu, op.imm as u8);
        let ea = cpu.effective(op);
        let lanes = (0..Vector::<N>::lanes::<W>()).filter(|&i| chosen::<W, N>(&mask, i));
        for i in lanes.clone() {
            let at = lane_address::<W>(op, ea, i);
            let linear = cpu.linear(op.seg, at, size_of::<W>(), true, op.addr)?;
            if cpu.mmu.hit_write::<W>(linear).is_none() {
                cpu.probe_at(op, op.seg, at, size_of::<W>())?;
            }
        }
        for i in lanes {
            let linear = cpu.linear(op.seg, lane_address::<W>(op, ea, i), size_of::<W>(), true, op.addr)?;
            match cpu.mmu.hit_write::<W>(linear) {
                Some(slot) => slot.store(data.get::<W>(i)),
                None => cpu.write_as(linear, data.get::<W>(i), cpu.state.cpl == 3)?,
            }
        }
        Ok(())
    })
}

/// The effective address of lane `i` of a vector at `ea`.
#[inline(always)]
fn lane_address<W: Width>(op: &Op, ea: u64, i: usize) -> u64 {
    cut(ea.wrapping_add((i * W::BYTES) as u64), op.addr)
}

/// `I` is an index, `W` a lane of the destination.
fn lower_gather<I: Lane + Into<i64>, W: Width + Lane>(l: &Lower) -> Option<Op> {
    let ymm = |r: Register| r.is_ymm();
    if !in_memory(l) {
        return None;
    }
    if ymm(l.i.op0_register()) || ymm(l.i.memory_index()) { l.with(gather::<I, W, 32>) } else { l.with(gather::<I, W, 16>) }
}

/// Loads the lanes that the mask (`op.src`) chooses, each from an address of its own. What is done stays done when a lane
/// faults: its mask is clear then, so that the instruction goes on where it stopped (SDM 2, VPGATHERDD).
fn gather<I: Lane + Into<i64>, W: Width + Lane, const N: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let lanes = N / size_of::<I>().max(size_of::<W>());
        let (mut v, mut mask, index) = (cpu.xmm::<32>(op.dst), cpu.xmm::<32>(op.src), cpu.xmm::<32>(op.index));
        let base = cpu.effective(&Op { index: ZERO, ..*op });
        for i in 0..lanes {
            if chosen::<W, 32>(&mask, i) {
                let offset: i64 = index.get::<I>(i).into();
                let ea = cut(base.wrapping_add((offset as u64) << (op.scale & 3)), op.addr);
                match load_part::<W>(cpu, op, ea) {
                    Ok(lane) => v.set(i, lane),
                    Err(fault) => {
                        Vex::set(cpu, op.dst, v);
                        Vex::set(cpu, op.src, mask);
                        return Err(fault);
                    }
                }
            }
            mask.set::<W>(i, W::of(0));
        }
        let used = lanes * size_of::<W>();
        v.0[used..].fill(0);
        Vex::set(cpu, op.dst, v);
        Vex::set(cpu, op.src, V256::ZERO);
        Ok(())
    })
}
