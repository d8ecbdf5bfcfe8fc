//! SSE and AVX floating point: arithmetic, comparison, conversion, MXCSR.

use iced_x86::Mnemonic as M;

use super::vector::{Bank, Mm, Vex, Xmm, in_memory};
use crate::fault::vector;
use crate::flags::{CF, PF, ZF};
use crate::lower::Lower;
use crate::op::{Exit, Index, Mem, Op, Source, Src, step};
use crate::semantics::simd::convert::{self as c, Integer};
use crate::semantics::simd::float::{self as f, MXCSR_MASK, Real, Unmasked};
use crate::semantics::simd::{V64, V128, Vector, estimate};
use crate::semantics::softfloat::{F32, F64, Ordering4};
use crate::state::Cpu;
use crate::table::{Row, row};
use crate::vector_rows;
use crate::width::Width;

/// Instruction rows: `destination = f(sources)` under MXCSR.
pub const ARITHMETIC: &[Row] = vector_rows! {
    whole {
        Addps Vaddps = |a, b, (_, m)| f::addps(a, b, m);
        Addpd Vaddpd = |a, b, (_, m)| f::addpd(a, b, m);
        Subps Vsubps = |a, b, (_, m)| f::subps(a, b, m);
        Subpd Vsubpd = |a, b, (_, m)| f::subpd(a, b, m);
        Mulps Vmulps = |a, b, (_, m)| f::mulps(a, b, m);
        Mulpd Vmulpd = |a, b, (_, m)| f::mulpd(a, b, m);
        Divps Vdivps = |a, b, (_, m)| f::divps(a, b, m);
        Divpd Vdivpd = |a, b, (_, m)| f::divpd(a, b, m);
        Minps Vminps = |a, b, (_, m)| f::minps(a, b, m);
        Minpd Vminpd = |a, b, (_, m)| f::minpd(a, b, m);
        Maxps Vmaxps = |a, b, (_, m)| f::maxps(a, b, m);
        Maxpd Vmaxpd = |a, b, (_, m)| f::maxpd(a, b, m);
        Sqrtps Vsqrtps = |_, b, (_, m)| f::sqrtps(b, m);
        Sqrtpd Vsqrtpd = |_, b, (_, m)| f::sqrtpd(b, m);
        Addsubps Vaddsubps = |a, b, (_, m)| f::addsubps(a, b, m);
        Addsubpd Vaddsubpd = |a, b, (_, m)| f::addsubpd(a, b, m);
        Haddps Vhaddps = |a, b, (_, m)| f::haddps(a, b, m);
        Haddpd Vhaddpd = |a, b, (_, m)| f::haddpd(a, b, m);
        Hsubps Vhsubps = |a, b, (_, m)| f::hsubps(a, b, m);
        Hsubpd Vhsubpd = |a, b, (_, m)| f::hsubpd(a, b, m);
        Cmpps = |a, b, (n, m)| f::cmpps(a, b, n & 7, m);
        Vcmpps = |a, b, (n, m)| f::cmpps(a, b, n & 31, m);
        Cmppd = |a, b, (n, m)| f::cmppd(a, b, n & 7, m);
        Vcmppd = |a, b, (n, m)| f::cmppd(a, b, n & 31, m);
        Roundps Vroundps = |_, b, (n, m)| f::roundps(b, n, m);
        Roundpd Vroundpd = |_, b, (n, m)| f::roundpd(b, n, m);
        Dpps Vdpps = |a, b, (n, m)| f::dpps(a, b, n, m);
        Rcpps Vrcpps = |_, b, _| Ok(b.map(estimate::rcp));
        Rsqrtps Vrsqrtps = |_, b, _| Ok(b.map(estimate::rsqrt));
        Cvtps2dq Vcvtps2dq = |_, b, (_, m)| c::cvtps2dq(b, false, m);
        Cvttps2dq Vcvttps2dq = |_, b, (_, m)| c::cvtps2dq(b, true, m);
        Cvtpd2dq Vcvtpd2dq = |_, b, (_, m)| c::cvtpd2dq(b, false, m);
        Cvttpd2dq Vcvttpd2dq = |_, b, (_, m)| c::cvtpd2dq(b, true, m);
        Cvtdq2ps Vcvtdq2ps = |_, b, (_, m)| c::cvtdq2ps(b, m);
        Cvtpd2ps Vcvtpd2ps = |_, b, (_, m)| c::cvtpd2ps(b, m);
        Dppd Vdppd = |a, b, (n, m)| f::dppd(a, b, n, m);
    }
    half {
        Cvtdq2pd Vcvtdq2pd = |_, b, _| Ok(c::cvtdq2pd(b));
        Cvtps2pd Vcvtps2pd = |_, b, (_, m)| c::cvtps2pd(b, m);
    }
    single {
        Addss Vaddss = |a, b, (_, m)| f::addps(a, b, m);
        Subss Vsubss = |a, b, (_, m)| f::subps(a, b, m);
        Mulss Vmulss = |a, b, (_, m)| f::mulps(a, b, m);
        Divss Vdivss = |a, b, (_, m)| f::divps(a, b, m);
        Minss Vminss = |a, b, (_, m)| f::minps(a, b, m);
        Maxss Vmaxss = |a, b, (_, m)| f::maxps(a, b, m);
        Sqrtss Vsqrtss = |_, b, (_, m)| f::sqrtps(b, m);
        Cmpss = |a, b, (n, m)| f::cmpps(a, b, n & 7, m);
        Vcmpss = |a, b, (n, m)| f::cmpps(a, b, n & 31, m);
        Roundss Vroundss = |_, b, (n, m)| f::roundps(b, n, m);
        Rcpss Vrcpss = |_, b, _| Ok(b.map(estimate::rcp));
        Rsqrtss Vrsqrtss = |_, b, _| Ok(b.map(estimate::rsqrt));
    }
    double {
        Addsd Vaddsd = |a, b, (_, m)| f::addpd(a, b, m);
        Subsd Vsubsd = |a, b, (_, m)| f::subpd(a, b, m);
        Mulsd Vmulsd = |a, b, (_, m)| f::mulpd(a, b, m);
        Divsd Vdivsd = |a, b, (_, m)| f::divpd(a, b, m);
        Minsd Vminsd = |a, b, (_, m)| f::minpd(a, b, m);
        Maxsd Vmaxsd = |a, b, (_, m)| f::maxpd(a, b, m);
        Sqrtsd Vsqrtsd = |_, b, (_, m)| f::sqrtpd(b, m);
        Vcmpsd = |a, b, (n, m)| f::cmppd(a, b, n & 31, m);
        Roundsd Vroundsd = |_, b, (n, m)| f::roundpd(b, n, m);
    }
};

/// CMPSD, whose mnemonic the string instruction has too: `string` hands the XMM form to [`lower_cmpsd`].
const CMPSD: &[Row] = vector_rows! { double { Cmpsd = |a, b, (n, m)| f::cmppd(a, b, n & 7, m); } };

/// The XMM form of CMPSD.
pub(crate) fn lower_cmpsd(l: &Lower) -> Option<Op> {
    (CMPSD[0].lower)(l)
}

/// `scalars!(l, f)` is `f::<bank, memory?>`.
macro_rules! scalars {
    ($l:expr, $f:ident) => {
        match ($l.vex, in_memory($l)) {
            (false, false) => $l.with($f::<Xmm, false>),
            (false, true) => $l.with($f::<Xmm, true>),
            (true, false) => $l.with($f::<Vex, false>),
            (true, true) => $l.with($f::<Vex, true>),
        }
    };
}

/// Instruction rows of other shapes.
pub const ROWS: &[Row] = &[
    row(M::Comiss, lower_compare::<F32, false>).modifies("oszapc").vex(M::Vcomiss),
    row(M::Ucomiss, lower_compare::<F32, true>).modifies("oszapc").vex(M::Vucomiss),
    row(M::Comisd, lower_compare::<F64, false>).modifies("oszapc").vex(M::Vcomisd),
    row(M::Ucomisd, lower_compare::<F64, true>).modifies("oszapc").vex(M::Vucomisd),
    row(M::Cvtsi2ss, lower_from_integer::<4>).vex(M::Vcvtsi2ss),
    row(M::Cvtsi2sd, lower_from_integer::<8>).vex(M::Vcvtsi2sd),
    row(M::Cvtss2si, lower_to_integer::<F32, false>).vex(M::Vcvtss2si),
    row(M::Cvttss2si, lower_to_integer::<F32, true>).vex(M::Vcvttss2si),
    row(M::Cvtsd2si, lower_to_integer::<F64, false>).vex(M::Vcvtsd2si),
    row(M::Cvttsd2si, lower_to_integer::<F64, true>).vex(M::Vcvttsd2si),
    row(M::Cvtss2sd, |l| scalars!(l, cvtss2sd)).vex(M::Vcvtss2sd),
    row(M::Cvtsd2ss, |l| scalars!(l, cvtsd2ss)).vex(M::Vcvtsd2ss),
    row(M::Cvtpi2ps, |l| if l.is_mem(1) { l.with(cvtpi2ps::<true>) } else { l.with(cvtpi2ps::<false>) }),
    row(M::Cvtpi2pd, |l| if l.is_mem(1) { l.with(cvtpi2pd::<true>) } else { l.with(cvtpi2pd::<false>) }),
    row(M::Cvtps2pi, |l| {
        lower_to_mm(l, |cpu, op, rest| to_mm::<8, 0>(cpu, op, rest, ps2pi), |cpu, op, rest| to_mm::<8, 8>(cpu, op, rest, ps2pi))
    }),
    row(M::Cvttps2pi, |l| {
        lower_to_mm(l, |cpu, op, rest| to_mm::<8, 0>(cpu, op, rest, tps2pi), |cpu, op, rest| to_mm::<8, 8>(cpu, op, rest, tps2pi))
    }),
    row(M::Cvtpd2pi, |l| {
        lower_to_mm(l, |cpu, op, rest| to_mm::<16, 0>(cpu, op, rest, pd2pi), |cpu, op, rest| to_mm::<16, 16>(cpu, op, rest, pd2pi))
    }),
    row(M::Cvttpd2pi, |l| {
        lower_to_mm(l, |cpu, op, rest| to_mm::<16, 0>(cpu, op, rest, tpd2pi), |cpu, op, rest| to_mm::<16, 16>(cpu, op, rest, tpd2pi))
    }),
    row(M::Ldmxcsr, |l| l.with(ldmxcsr)).vex(M::Vldmxcsr),
    row(M::Stmxcsr, |l| l.with(stmxcsr)).vex(M::Vstmxcsr),
];

/// A format's lane of the source: memory, or the lowest of a register.
#[inline(always)]
fn scalar<F: Real, const MEM: bool>(cpu: &mut Cpu, op: &Op) -> Result<F::Bits, crate::fault::Fault> {
    use crate::semantics::simd::Lane;
    Ok(match (MEM, F::Bits::BYTES) {
        (false, _) => cpu.xmm::<16>(op.src).get(0),
        (true, 4) => cpu.load_vector::<16, 4>(op)?.get(0),
        (true, _) => cpu.load_vector::<16, 8>(op)?.get(0),
    })
}

fn lower_compare<F: Real, const QUIET: bool>(l: &Lower) -> Option<Op> {
    if l.is_mem(1) { l.with(compare::<F, QUIET, true>) } else { l.with(compare::<F, QUIET, false>) }
}

fn compare<F: Real, const QUIET: bool, const MEM: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = scalar::<F, MEM>(cpu, op)?;
        let a = cpu.xmm::<16>(op.dst).get(0);
        let order = f::comi::<F>(a, b, QUIET, &mut cpu.state.mxcsr);
        let order = cpu.masked(order)?;
        cpu.state.lazy.set_bits(match order {
            Ordering4::Less => CF,
            Ordering4::Equal => ZF,
            Ordering4::Greater => 0,
            Ordering4::Unordered => ZF | PF | CF,
        });
        Ok(())
    })
}

/// To a single (`N` is 4) or a double (8).
fn lower_from_integer<const N: usize>(l: &Lower) -> Option<Op> {
    macro_rules! by_source {
        ($bank:ty, $register:ty) => {
            match (l.bits(l.i.op_count() - 1), in_memory(l)) {
                (32, false) => l.with(from_integer::<$bank, N, $register, u32>),
                (32, true) => l.with(from_integer::<$bank, N, Mem, u32>),
                (_, false) => l.with(from_integer::<$bank, N, $register, u64>),
                (_, true) => l.with(from_integer::<$bank, N, Mem, u64>),
            }
        };
    }
    if l.vex { by_source!(Vex, Index) } else { by_source!(Xmm, Src) }
}

fn from_integer<B: Bank, const N: usize, S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v = S::get::<W>(cpu, op)?.sx() as i64;
        let m = &mut cpu.state.mxcsr;
        let result = if N == 4 { c::cvtsi2ss(v, m).map(u64::from) } else { c::cvtsi2sd(v, m) };
        let bits = cpu.masked(result)?;
        B::merge(cpu, op, V64::from(bits).resized::<N>());
        Ok(())
    })
}

fn lower_to_integer<F: Real, const TRUNCATE: bool>(l: &Lower) -> Option<Op> {
    match (l.bits(0), l.is_mem(1)) {
        (32, false) => l.with(to_integer::<F, i32, TRUNCATE, false>),
        (32, true) => l.with(to_integer::<F, i32, TRUNCATE, true>),
        (_, false) => l.with(to_integer::<F, i64, TRUNCATE, false>),
        (_, true) => l.with(to_integer::<F, i64, TRUNCATE, true>),
    }
}

fn to_integer<F: Real, I: Integer, const TRUNCATE: bool, const MEM: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let x = scalar::<F, MEM>(cpu, op)?;
        let result = c::cvtf2si::<F, I>(x, TRUNCATE, &mut cpu.state.mxcsr);
        let v = cpu.masked(result)?;
        let v = V64::ZERO.with(0, v);
        u64::set(&mut cpu.state.regs, op.dst, v.into());
        Ok(())
    })
}

fn cvtss2sd<B: Bank, const MEM: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = if MEM { cpu.load_vector::<4, 4>(op)? } else { cpu.xmm(B::second(op)) };
        let result = c::cvtss2sd(b, &mut cpu.state.mxcsr);
        let result = cpu.masked(result)?;
        B::merge(cpu, op, result);
        Ok(())
    })
}

fn cvtsd2ss<B: Bank, const MEM: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = if MEM { cpu.load_vector::<8, 8>(op)? } else { cpu.xmm(B::second(op)) };
        let result = c::cvtsd2ss(b, &mut cpu.state.mxcsr);
        let result = cpu.masked(result)?;
        B::merge(cpu, op, result);
        Ok(())
    })
}

/// The memory form, too, makes the x87 state MMX state (SDM 2A, CVTPI2PS; AMD's processors differ).
fn cvtpi2ps<const MEM: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.mmx_ready(op)?;
        let b = if MEM { cpu.load_vector::<8, 8>(op)? } else { cpu.mm(op.src) };
        let result = c::cvtdq2ps(b, &mut cpu.state.mxcsr);
        let result = cpu.masked(result)?;
        cpu.set_xmm(op.dst, result);
        Mm::touch(cpu);
        Ok(())
    })
}

/// With a memory operand no MMX state is touched (SDM 2A, CVTPI2PD).
fn cvtpi2pd<const MEM: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = if MEM {
            cpu.load_vector::<8, 8>(op)?
        } else {
            cpu.mmx_ready(op)?;
            Mm::touch(cpu);
            cpu.mm(op.src)
        };
        cpu.set_xmm::<16>(op.dst, c::cvtdq2pd(b));
        Ok(())
    })
}

type ToMm<const N: usize> = fn(Vector<N>, &mut u32) -> Result<V64, Unmasked>;

fn ps2pi(b: V64, m: &mut u32) -> Result<V64, Unmasked> {
    c::cvtps2dq(b, false, m)
}
fn tps2pi(b: V64, m: &mut u32) -> Result<V64, Unmasked> {
    c::cvtps2dq(b, true, m)
}
fn pd2pi(b: V128, m: &mut u32) -> Result<V64, Unmasked> {
    c::cvtpd2pi(b, false, m)
}
fn tpd2pi(b: V128, m: &mut u32) -> Result<V64, Unmasked> {
    c::cvtpd2pi(b, true, m)
}

fn lower_to_mm(l: &Lower, register: crate::op::Handler, memory: crate::op::Handler) -> Option<Op> {
    l.with(if l.is_mem(1) { memory } else { register })
}

#[inline(always)]
fn to_mm<const N: usize, const MEM: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op], convert: ToMm<N>) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.mmx_ready(op)?;
        if MEM == 16 {
            cpu.check_aligned(op, 16, 16, false)?;
        }
        let b = if MEM == 0 { cpu.xmm::<N>(op.src) } else { cpu.load_vector::<N, MEM>(op)? };
        let result = convert(b, &mut cpu.state.mxcsr);
        let result = cpu.masked(result)?;
        Mm::set(cpu, op.dst, result);
        Ok(())
    })
}

fn ldmxcsr(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v: u32 = cpu.load(op)?;
        if v & !MXCSR_MASK != 0 {
            return Err(cpu.raise_with(vector::GP, 0));
        }
        cpu.state.mxcsr = v;
        Ok(())
    })
}

fn stmxcsr(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| cpu.store(op, cpu.state.mxcsr))
}
