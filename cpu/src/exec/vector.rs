//! Operands of vector instructions, and the shapes that most of them have.
//!
//! A shape is a trait of one function on values ([`Packed`], [`Shift`], [`Float`]); [`rows!`](crate::vector_rows) makes a
//! row from a mnemonic and an expression, and the lowerings here pick the handler's instance: by register file (MMX or
//! XMM) and by the operand's place and size.

use iced_x86::{Instruction, Mnemonic};

use crate::fault::{Fault, vector};
use crate::lower::Lower;
use crate::op::{Exit, Op, step};
use crate::semantics::simd::float::Unmasked;
use crate::semantics::simd::{V64, V128, Vector};
use crate::state::{Cpu, bits};
use crate::width::Width;

impl Cpu {
    /// What instructions with MMX registers check first; a pending x87 exception comes before their own (SDM 1, 9.5.1).
    ///
    /// # Errors
    /// #UD, #NM, #MF.
    #[inline(always)]
    pub(crate) fn mmx_ready(&mut self, op: &Op) -> Result<(), Fault> {
        if self.state.cr0 & (bits::CR0_EM | bits::CR0_TS) != 0 {
            let off = self.state.cr0 & bits::CR0_EM != 0;
            return Err(self.raise(if off { vector::UD } else { vector::NM }));
        }
        self.fpu_wait(op)
    }

    /// The low bytes of an XMM register.
    #[inline(always)]
    pub(crate) fn xmm<const N: usize>(&self, r: u8) -> Vector<N> {
        let mut v = Vector::ZERO;
        v.0.copy_from_slice(&self.state.ymm.0[usize::from(r & 15)].0[..N]);
        v
    }

    /// Writes the low bytes of an XMM register; the others stay.
    #[inline(always)]
    pub(crate) fn set_xmm<const N: usize>(&mut self, r: u8, v: Vector<N>) {
        self.state.ymm.0[usize::from(r & 15)].0[..N].copy_from_slice(&v.0);
    }

    /// An MMX register.
    #[inline(always)]
    pub(crate) fn mm(&self, r: u8) -> V64 {
        self.state.fpu.mmx_get(r.into()).into()
    }

    /// Loads `BYTES` (1, 2, 4, 8 or 16) bytes of the memory operand; the rest of the vector is 0.
    ///
    /// # Errors
    /// Segment and page faults.
    #[inline(always)]
    pub(crate) fn load_vector<const N: usize, const BYTES: usize>(&mut self, op: &Op) -> Result<Vector<N>, Fault> {
        let mut v = Vector::ZERO;
        match BYTES {
            1 => v.set(0, self.load::<u8>(op)?),
            2 => v.set(0, self.load::<u16>(op)?),
            4 => v.set(0, self.load::<u32>(op)?),
            8 => v.set(0, self.load::<u64>(op)?),
            _ => v.0.copy_from_slice(&self.load::<V128>(op)?.0[..N]),
        }
        Ok(v)
    }

    /// The linear address of the memory operand of `bytes` bytes; #GP(0) unless it is a multiple of `alignment`.
    ///
    /// # Errors
    /// #GP(0), or the segment's fault.
    #[inline(always)]
    pub(crate) fn check_aligned(&mut self, op: &Op, alignment: u64, bytes: usize, write: bool) -> Result<u64, Fault> {
        let ea = self.effective(op);
        let linear = self.linear(op.seg, ea, bytes, write, op.addr)?;
        if linear & (alignment - 1) != 0 { Err(self.raise_with(vector::GP, 0)) } else { Ok(linear) }
    }

    /// The fault of an unmasked SIMD floating-point exception (SDM 1, 11.5.1).
    #[cold]
    pub(crate) fn simd_exception(&mut self) -> Fault {
        let enabled = self.state.cr4 & bits::CR4_OSXMMEXCPT != 0;
        self.raise(if enabled { vector::XM } else { vector::UD })
    }

    /// A result of floating-point arithmetic, or its exception.
    ///
    /// # Errors
    /// #XM, or #UD where the system does not take #XM.
    #[inline(always)]
    pub(crate) fn masked<T>(&mut self, result: Result<T, Unmasked>) -> Result<T, Fault> {
        result.map_err(|Unmasked| self.simd_exception())
    }
}

/// Whether the instruction is one that [`Mode::sse`] decides about: it has an XMM register, or moves MXCSR.
#[must_use]
pub(crate) fn needs_sse(i: &Instruction) -> bool {
    matches!(i.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Stmxcsr) || (0..i.op_count()).any(|n| i.op_register(n).is_xmm())
}

/// Takes the place of an SSE instruction while it is not available: #UD where the system has not enabled SSE, #NM where
/// the registers may be another task's (SDM 3A, table 14-1).
pub(crate) fn unavailable(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        let s = &cpu.state;
        let off = s.cr0 & bits::CR0_EM != 0 || s.cr4 & bits::CR4_OSFXSR == 0;
        Err(cpu.raise(if off { vector::UD } else { vector::NM }))
    })
}

/// A vector register file.
pub trait Bank<const N: usize> {
    /// Checks that it may be used; for XMM registers, the block's mode has seen to it ([`needs_sse`]).
    ///
    /// # Errors
    /// #UD, #NM, #MF.
    fn ready(cpu: &mut Cpu, op: &Op) -> Result<(), Fault>;
    /// A register.
    fn get(cpu: &Cpu, r: u8) -> Vector<N>;
    /// Writes a register.
    fn set(cpu: &mut Cpu, r: u8, v: Vector<N>);
    /// The instruction is certain to complete: what else it does to the file.
    fn touch(cpu: &mut Cpu);
}

/// The MMX registers.
pub struct Mm;
/// The XMM registers.
pub struct Xmm;

impl Bank<8> for Mm {
    #[inline(always)]
    fn ready(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
        cpu.mmx_ready(op)
    }
    #[inline(always)]
    fn get(cpu: &Cpu, r: u8) -> V64 {
        cpu.mm(r)
    }
    #[inline(always)]
    fn set(cpu: &mut Cpu, r: u8, v: V64) {
        cpu.state.fpu.mmx_enter();
        cpu.state.fpu.mmx_set(r.into(), v.into());
    }
    #[inline(always)]
    fn touch(cpu: &mut Cpu) {
        cpu.state.fpu.mmx_enter();
    }
}

impl Bank<16> for Xmm {
    #[inline(always)]
    fn ready(_: &mut Cpu, _: &Op) -> Result<(), Fault> {
        Ok(())
    }
    #[inline(always)]
    fn get(cpu: &Cpu, r: u8) -> V128 {
        cpu.xmm(r)
    }
    #[inline(always)]
    fn set(cpu: &mut Cpu, r: u8, v: V128) {
        cpu.set_xmm(r, v);
    }
    #[inline(always)]
    fn touch(_: &mut Cpu) {}
}

/// The source operand: register `op.src` where `MEM` is 0, else `MEM` bytes of memory, which must be aligned if they are 16.
#[inline(always)]
pub(crate) fn operand<B: Bank<N>, const N: usize, const MEM: usize>(cpu: &mut Cpu, op: &Op) -> Result<Vector<N>, Fault> {
    if MEM == 0 {
        return Ok(B::get(cpu, op.src));
    }
    if MEM == 16 {
        cpu.check_aligned(op, 16, 16, false)?;
    }
    cpu.load_vector::<N, MEM>(op)
}

/// `destination = f(destination, source, immediate)`.
pub trait Packed<const N: usize> {
    /// The function.
    fn apply(a: Vector<N>, b: Vector<N>, imm: u8) -> Vector<N>;
}

/// `destination = f(destination, count)`.
pub trait Shift<const N: usize> {
    /// The function.
    fn apply(a: Vector<N>, count: u64) -> Vector<N>;
}

/// `destination = f(destination, source, immediate)` under MXCSR.
pub trait Float<const N: usize> {
    /// The function.
    ///
    /// # Errors
    /// [`Unmasked`].
    fn apply(a: Vector<N>, b: Vector<N>, imm: u8, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked>;
}

fn packed<T: Packed<N>, B: Bank<N>, const N: usize, const MEM: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        B::ready(cpu, op)?;
        let b = operand::<B, N, MEM>(cpu, op)?;
        B::set(cpu, op.dst, T::apply(B::get(cpu, op.dst), b, op.imm as u8));
        Ok(())
    })
}

/// Shifts by the low quadword of the source, or (`MEM` is 1) by the immediate.
fn shift<T: Shift<N>, B: Bank<N>, const N: usize, const MEM: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        B::ready(cpu, op)?;
        let count = if MEM == 1 { op.imm & 0xff } else { operand::<B, N, MEM>(cpu, op)?.get(0) };
        B::set(cpu, op.dst, T::apply(B::get(cpu, op.dst), count));
        Ok(())
    })
}

fn float<T: Float<N>, const N: usize, const MEM: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = match MEM {
            0 => cpu.xmm::<N>(op.src),
            16 => {
                cpu.check_aligned(op, 16, 16, false)?;
                cpu.load_vector::<N, 16>(op)?
            }
            _ => cpu.load_vector::<N, MEM>(op)?,
        };
        let a = cpu.xmm::<N>(op.dst);
        let result = T::apply(a, b, op.imm as u8, &mut cpu.state.mxcsr);
        let result = cpu.masked(result)?;
        cpu.set_xmm(op.dst, result);
        Ok(())
    })
}

/// Lowers a [`Packed`] that only XMM registers have.
pub(crate) fn lower_xmm<T: Packed<16>>(l: &Lower) -> Option<Op> {
    match if l.is_mem(1) { l.bits(1) } else { 0 } {
        0 => l.with(packed::<T, Xmm, 16, 0>),
        16 => l.with(packed::<T, Xmm, 16, 2>),
        32 => l.with(packed::<T, Xmm, 16, 4>),
        64 => l.with(packed::<T, Xmm, 16, 8>),
        128 => l.with(packed::<T, Xmm, 16, 16>),
        _ => None,
    }
}

/// Lowers a [`Packed`] that only MMX registers have.
pub(crate) fn lower_mm<T: Packed<8>>(l: &Lower) -> Option<Op> {
    match if l.is_mem(1) { l.bits(1) } else { 0 } {
        0 => l.with(packed::<T, Mm, 8, 0>),
        32 => l.with(packed::<T, Mm, 8, 4>),
        64 => l.with(packed::<T, Mm, 8, 8>),
        _ => None,
    }
}

/// Lowers a [`Packed`] that both register files have.
pub(crate) fn lower_both<T: Packed<8> + Packed<16>>(l: &Lower) -> Option<Op> {
    if l.i.op0_register().is_mm() { lower_mm::<T>(l) } else { lower_xmm::<T>(l) }
}

/// Lowers a [`Shift`].
pub(crate) fn lower_shift<T: Shift<8> + Shift<16>>(l: &Lower) -> Option<Op> {
    match (l.i.op0_register().is_mm(), l.is_imm(1), l.is_mem(1)) {
        (true, true, _) => l.with(shift::<T, Mm, 8, 1>),
        (true, _, true) => l.with(shift::<T, Mm, 8, 8>),
        (true, _, false) => l.with(shift::<T, Mm, 8, 0>),
        (false, true, _) => l.with(shift::<T, Xmm, 16, 1>),
        (false, _, true) => l.with(shift::<T, Xmm, 16, 16>),
        (false, _, false) => l.with(shift::<T, Xmm, 16, 0>),
    }
}

/// Lowers a [`Float`] on whole registers.
pub(crate) fn lower_float<T: Float<16>>(l: &Lower) -> Option<Op> {
    match if l.is_mem(1) { l.bits(1) } else { 0 } {
        0 => l.with(float::<T, 16, 0>),
        64 => l.with(float::<T, 16, 8>),
        128 => l.with(float::<T, 16, 16>),
        _ => None,
    }
}

/// Lowers a [`Float`] on a single.
pub(crate) fn lower_single<T: Float<4>>(l: &Lower) -> Option<Op> {
    if l.is_mem(1) { l.with(float::<T, 4, 4>) } else { l.with(float::<T, 4, 0>) }
}

/// Lowers a [`Float`] on a double.
pub(crate) fn lower_double<T: Float<8>>(l: &Lower) -> Option<Op> {
    if l.is_mem(1) { l.with(float::<T, 8, 8>) } else { l.with(float::<T, 8, 0>) }
}

/// A general register's or memory's integer, zero-extended into a vector (MOVD, MOVQ, PINSRx).
pub(crate) fn integer<W: Width, const N: usize>(v: W) -> Vector<N> {
    let mut r = Vector::ZERO;
    r.0[..W::BYTES].copy_from_slice(&v.to_le()[..W::BYTES]);
    r
}

/// Makes rows from mnemonics and expressions of the operands: `lower: M = |a, b, imm| expression;`, where `lower` names the
/// shape's lowering. The third operand of the floating-point shapes is (immediate, MXCSR).
#[macro_export]
macro_rules! vector_rows {
    ($($shape:ident { $($m:ident = |$a:pat_param, $b:pat_param $(, $c:pat_param)?| $e:expr;)* })*) => {
        &[$($($crate::vector_rows!(@$shape $m, $a, $b, ($($c)?), $e),)*)*]
    };
    (@both $m:ident, $a:pat_param, $b:pat_param, ($($c:pat_param)?), $e:expr) => {
        $crate::table::row(iced_x86::Mnemonic::$m, |l| {
            struct T;
            impl<const N: usize> $crate::exec::vector::Packed<N> for T {
                #[inline(always)]
                fn apply($a: Vector<N>, $b: Vector<N>, _imm: u8) -> Vector<N> {
                    $(let $c = _imm;)?
                    $e
                }
            }
            $crate::exec::vector::lower_both::<T>(l)
        })
    };
    (@xmm $m:ident, $a:pat_param, $b:pat_param, ($($c:pat_param)?), $e:expr) => {
        $crate::table::row(iced_x86::Mnemonic::$m, |l| {
            struct T;
            impl $crate::exec::vector::Packed<16> for T {
                #[inline(always)]
                fn apply($a: Vector<16>, $b: Vector<16>, _imm: u8) -> Vector<16> {
                    $(let $c = _imm;)?
                    $e
                }
            }
            $crate::exec::vector::lower_xmm::<T>(l)
        })
    };
    (@mm $m:ident, $a:pat_param, $b:pat_param, ($($c:pat_param)?), $e:expr) => {
        $crate::table::row(iced_x86::Mnemonic::$m, |l| {
            struct T;
            impl $crate::exec::vector::Packed<8> for T {
                #[inline(always)]
                fn apply($a: Vector<8>, $b: Vector<8>, _imm: u8) -> Vector<8> {
                    $(let $c = _imm;)?
                    $e
                }
            }
            $crate::exec::vector::lower_mm::<T>(l)
        })
    };
    (@shift $m:ident, $a:pat_param, $b:pat_param, (), $e:expr) => {
        $crate::table::row(iced_x86::Mnemonic::$m, |l| {
            struct T;
            impl<const N: usize> $crate::exec::vector::Shift<N> for T {
                #[inline(always)]
                fn apply($a: Vector<N>, $b: u64) -> Vector<N> {
                    $e
                }
            }
            $crate::exec::vector::lower_shift::<T>(l)
        })
    };
    (@whole $m:ident, $a:pat_param, $b:pat_param, ($c:pat_param), $e:expr) => {
        $crate::vector_rows!(@float $m, 16, lower_float, $a, $b, $c, $e)
    };
    (@single $m:ident, $a:pat_param, $b:pat_param, ($c:pat_param), $e:expr) => {
        $crate::vector_rows!(@float $m, 4, lower_single, $a, $b, $c, $e)
    };
    (@double $m:ident, $a:pat_param, $b:pat_param, ($c:pat_param), $e:expr) => {
        $crate::vector_rows!(@float $m, 8, lower_double, $a, $b, $c, $e)
    };
    (@float $m:ident, $n:literal, $lower:ident, $a:pat_param, $b:pat_param, $c:pat_param, $e:expr) => {
        $crate::table::row(iced_x86::Mnemonic::$m, |l| {
            struct T;
            impl $crate::exec::vector::Float<$n> for T {
                #[inline(always)]
                fn apply($a: Vector<$n>, $b: Vector<$n>, imm: u8, mxcsr: &mut u32) -> Result<Vector<$n>, Unmasked> {
                    let $c = (imm, mxcsr);
                    $e
                }
            }
            $crate::exec::vector::$lower::<T>(l)
        })
    };
}
