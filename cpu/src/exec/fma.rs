//! FMA (fused multiply-add) and F16C (half precision).

use iced_x86::Mnemonic as M;

use super::vector::{Bank, Size, Vex, in_memory, operand, size};
use crate::fault::Fault;
use crate::lower::Lower;
use crate::op::{Exit, Op, step};
use crate::semantics::simd::convert as c;
use crate::semantics::simd::float::Unmasked;
use crate::semantics::simd::fused::{Fused, Negate, fma};
use crate::semantics::simd::{V128, Vector};
use crate::semantics::softfloat::{F32, F64};
use crate::state::Cpu;
use crate::table::{Row, row};
use crate::vector_rows;

/// Instruction rows of conversions from half precision.
pub const WIDENING: &[Row] = vector_rows! {
    half {
        Vcvtph2ps = |_, b, (_, m)| c::cvtph2ps(b, m);
    }
};

/// An operation of the FMA family: `x * y + z` of some format, with signs changed.
trait Operation {
    type Format: Fused;
    const NEGATE: Negate;
}

/// Rows of one operation in its three orders: `name: lowering(format, signs) = 132 213 231;`.
macro_rules! fused_rows {
    ($($lower:ident $format:ident { $($negate:ident = $m132:ident $m213:ident $m231:ident;)* })*) => {
        &[$($(
            row(M::$m132, |l| { fused_rows!(@operation $format $negate); $lower::<T, 132>(l) }),
            row(M::$m213, |l| { fused_rows!(@operation $format $negate); $lower::<T, 213>(l) }),
            row(M::$m231, |l| { fused_rows!(@operation $format $negate); $lower::<T, 231>(l) }),
        )*)*]
    };
    (@operation $format:ident $negate:ident) => {
        struct T;
        impl Operation for T {
            type Format = $format;
            const NEGATE: Negate = Negate::$negate;
        }
    };
}

/// Instruction rows of FMA.
pub const FUSED: &[Row] = fused_rows! {
    lower_whole F32 {
        ADD = Vfmadd132ps Vfmadd213ps Vfmadd231ps;
        SUB = Vfmsub132ps Vfmsub213ps Vfmsub231ps;
        NEGATIVE_ADD = Vfnmadd132ps Vfnmadd213ps Vfnmadd231ps;
        NEGATIVE_SUB = Vfnmsub132ps Vfnmsub213ps Vfnmsub231ps;
        ADD_SUB = Vfmaddsub132ps Vfmaddsub213ps Vfmaddsub231ps;
        SUB_ADD = Vfmsubadd132ps Vfmsubadd213ps Vfmsubadd231ps;
    }
    lower_whole F64 {
        ADD = Vfmadd132pd Vfmadd213pd Vfmadd231pd;
        SUB = Vfmsub132pd Vfmsub213pd Vfmsub231pd;
        NEGATIVE_ADD = Vfnmadd132pd Vfnmadd213pd Vfnmadd231pd;
        NEGATIVE_SUB = Vfnmsub132pd Vfnmsub213pd Vfnmsub231pd;
        ADD_SUB = Vfmaddsub132pd Vfmaddsub213pd Vfmaddsub231pd;
        SUB_ADD = Vfmsubadd132pd Vfmsubadd213pd Vfmsubadd231pd;
    }
    lower_single F32 {
        ADD = Vfmadd132ss Vfmadd213ss Vfmadd231ss;
        SUB = Vfmsub132ss Vfmsub213ss Vfmsub231ss;
        NEGATIVE_ADD = Vfnmadd132ss Vfnmadd213ss Vfnmadd231ss;
        NEGATIVE_SUB = Vfnmsub132ss Vfnmsub213ss Vfnmsub231ss;
    }
    lower_double F64 {
        ADD = Vfmadd132sd Vfmadd213sd Vfmadd231sd;
        SUB = Vfmsub132sd Vfmsub213sd Vfmsub231sd;
        NEGATIVE_ADD = Vfnmadd132sd Vfnmadd213sd Vfnmadd231sd;
        NEGATIVE_SUB = Vfnmsub132sd Vfnmsub213sd Vfnmsub231sd;
    }
};

/// Instruction rows of other shapes.
pub const ROWS: &[Row] = &[row(M::Vcvtps2ph, lower_narrow)];

fn lower_whole<T: Operation, const ORDER: u32>(l: &Lower) -> Option<Op> {
    match (size(l), in_memory(l)) {
        (Size::Avx256, false) => l.with(fused::<T, ORDER, 32, 0>),
        (Size::Avx256, true) => l.with(fused::<T, ORDER, 32, 32>),
        (_, false) => l.with(fused::<T, ORDER, 16, 0>),
        (_, true) => l.with(fused::<T, ORDER, 16, 16>),
    }
}

fn lower_single<T: Operation, const ORDER: u32>(l: &Lower) -> Option<Op> {
    if in_memory(l) { l.with(fused::<T, ORDER, 4, 4>) } else { l.with(fused::<T, ORDER, 4, 0>) }
}

fn lower_double<T: Operation, const ORDER: u32>(l: &Lower) -> Option<Op> {
    if in_memory(l) { l.with(fused::<T, ORDER, 8, 8>) } else { l.with(fused::<T, ORDER, 8, 0>) }
}

/// `ORDER` tells which operands are multiplied, in order, and which is added: 1 is the destination.
fn fused<T: Operation, const ORDER: u32, const N: usize, const MEM: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let third = operand::<Vex, N, MEM>(cpu, op)?;
        let (first, second) = (cpu.xmm::<N>(op.dst), cpu.xmm::<N>(op.src));
        let (x, y, z) = match ORDER {
            132 => (first, third, second),
            213 => (second, first, third),
            _ => (second, third, first),
        };
        let result = fma::<T::Format, N>(x, y, z, T::NEGATE, &mut cpu.state.mxcsr);
        let result = cpu.masked(result)?;
        if N < 16 {
            // The rest of the lane stays, whatever the order of the operands.
            let mut whole: V128 = cpu.xmm(op.dst);
            whole.0[..N].copy_from_slice(&result.0);
            Vex::set(cpu, op.dst, whole);
        } else {
            Vex::set(cpu, op.dst, result);
        }
        Ok(())
    })
}

fn lower_narrow(l: &Lower) -> Option<Op> {
    match (size(l), l.is_mem(0)) {
        (Size::Avx256, true) => l.with(narrow::<32, true>),
        (Size::Avx256, false) => l.with(narrow::<32, false>),
        (_, true) => l.with(narrow::<16, true>),
        (_, false) => l.with(narrow::<16, false>),
    }
}

/// Stores half of the vector's size.
fn narrow<const N: usize, const MEM: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let mut mxcsr = cpu.state.mxcsr;
        let result = c::cvtps2ph(cpu.xmm::<N>(op.src), op.imm as u8, &mut mxcsr);
        // Faults of the store come before those of the arithmetic.
        match &result {
            Ok(v) if MEM => store_half(cpu, op, v)?,
            Err(Unmasked) if MEM => {
                let ea = cpu.effective(op);
                cpu.probe_operand(op, op.seg, ea, N / 2)?;
            }
            _ => {}
        }
        cpu.state.mxcsr = mxcsr;
        let v = cpu.masked(result)?;
        if !MEM {
            Vex::set::<16>(cpu, op.dst, v.resized());
        }
        Ok(())
    })
}

fn store_half<const N: usize>(cpu: &mut Cpu, op: &Op, v: &Vector<N>) -> Result<(), Fault> {
    if N == 32 { cpu.store::<V128>(op, v.part(0)) } else { cpu.store::<u64>(op, v.get(0)) }
}
