//! Operands of vector instructions, and the shapes that most of them have.
//!
//! A shape is a trait of one function on values ([`Packed`], [`Shift`], [`Float`], ...);
//! [`vector_rows!`](crate::vector_rows) makes a row from the mnemonics (the legacy one and its VEX twin) and an expression,
//! and the lowerings here pick the handler's instance: by register file ([`Bank`]), vector size, and the operand's place
//! and size. So an MMX, SSE, AVX and AVX2 instruction of the same work share one expression.

use iced_x86::{EncodingKind, Instruction, Mnemonic, Register};

use crate::fault::{Fault, vector};
use crate::lower::Lower;
use crate::op::{Exit, Handler, Op, step};
use crate::semantics::simd::float::Unmasked;
use crate::semantics::simd::{V64, V128, V256, Vector};
use crate::state::{Cpu, Mode, bits};
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

    /// The low bytes of an XMM or YMM register.
    #[inline(always)]
    pub(crate) fn xmm<const N: usize>(&self, r: u8) -> Vector<N> {
        let mut v = Vector::ZERO;
        v.0.copy_from_slice(&self.state.ymm.0[usize::from(r & 15)].0[..N]);
        v
    }

    /// Writes the low bytes of an XMM or YMM register; the others stay.
    #[inline(always)]
    pub(crate) fn set_xmm<const N: usize>(&mut self, r: u8, v: Vector<N>) {
        self.state.ymm.0[usize::from(r & 15)].0[..N].copy_from_slice(&v.0);
    }

    /// An MMX register.
    #[inline(always)]
    pub(crate) fn mm(&self, r: u8) -> V64 {
        self.state.fpu.mmx_get(r.into()).into()
    }

    /// Loads `BYTES` (1, 2, 4, 8, 16 or 32) bytes of the memory operand; the rest of the vector is 0.
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
            16 => v = self.load::<V128>(op)?.resized(),
            _ => v = self.load::<V256>(op)?.resized(),
        }
        Ok(v)
    }

    /// The linear address of the memory operand of `bytes` bytes; #GP(0) unless it is a multiple of `alignment`.
    ///
    /// # Errors
    /// #GP(0), or the segment's fault.
    #[inline(always)]
    pub(crate) fn check_aligned(&mut self, op: &Op, alignment: u64, bytes: usize, write: bool) -> Result<u64, Fault> {
        // Alignment comes before the segment's limit.
        let ea = self.effective(op);
        if self.state.bases[usize::from(op.seg & 7)].wrapping_add(ea) & (alignment - 1) != 0 {
            return Err(self.raise_with(vector::GP, 0));
        }
        self.linear(op.seg, ea, bytes, write, op.addr)
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

/// What takes the place of an instruction's handler because of the mode that the block is decoded for: `None` if the
/// mode has the instruction.
#[must_use]
pub(crate) fn unavailable_in(mode: Mode, i: &Instruction) -> Option<Handler> {
    use Mnemonic as M;
    let registers = |f: fn(Register) -> bool| (0..i.op_count()).any(|n| f(i.op_register(n)));
    if i.code().encoding() == EncodingKind::VEX {
        let vectors =
            registers(|r| r.is_xmm() || r.is_ymm()) || matches!(i.mnemonic(), M::Vldmxcsr | M::Vstmxcsr | M::Vzeroall | M::Vzeroupper);
        return match (mode.protected(), vectors) {
            (false, _) => Some(super::invalid),
            (true, true) if !mode.avx() => Some(without_avx),
            _ => None,
        };
    }
    let sse = !mode.sse() && (matches!(i.mnemonic(), M::Ldmxcsr | M::Stmxcsr) || registers(Register::is_xmm));
    sse.then_some(without_sse)
}

/// Takes the place of an SSE instruction while it is not available: #UD where the system has not enabled SSE, #NM where
/// the registers may be another task's (SDM 3A, table 14-1).
pub(crate) fn without_sse(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        let s = &cpu.state;
        let off = s.cr0 & bits::CR0_EM != 0 || s.cr4 & bits::CR4_OSFXSR == 0;
        Err(cpu.raise(if off { vector::UD } else { vector::NM }))
    })
}

/// Takes the place of a VEX-encoded vector instruction: #UD where the system has not enabled AVX, else #NM; CR0.EM and
/// CR4.OSFXSR do not matter (SDM 2, 2.4).
pub(crate) fn without_avx(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        let enabled = cpu.avx_enabled();
        Err(cpu.raise(if enabled { vector::NM } else { vector::UD }))
    })
}

/// A vector register file as one encoding uses it.
pub trait Bank {
    /// Memory operands of 16 bytes must be aligned, unless the instruction says otherwise.
    const ALIGNED: bool = false;
    /// Checks that it may be used; for XMM and YMM registers, the block's mode has seen to it ([`unavailable_in`]).
    ///
    /// # Errors
    /// #UD, #NM, #MF.
    #[inline(always)]
    fn ready(_: &mut Cpu, _: &Op) -> Result<(), Fault> {
        Ok(())
    }
    /// The register of the first source: the destination, except in VEX encodings.
    #[inline(always)]
    fn first(op: &Op) -> u8 {
        op.dst
    }
    /// The register of the second source, where it is not in memory.
    #[inline(always)]
    fn second(op: &Op) -> u8 {
        op.src
    }
    /// The low `N` bytes of a register.
    #[inline(always)]
    fn get<const N: usize>(cpu: &Cpu, r: u8) -> Vector<N> {
        cpu.xmm(r)
    }
    /// Writes a whole register.
    fn set<const N: usize>(cpu: &mut Cpu, r: u8, v: Vector<N>);
    /// Writes the low `N` bytes of the destination; the rest of its lowest 16 bytes is the first source's.
    fn merge<const N: usize>(cpu: &mut Cpu, op: &Op, v: Vector<N>) {
        Self::set(cpu, op.dst, v);
    }
    /// The instruction is certain to complete: what else it does to the file.
    #[inline(always)]
    fn touch(_: &mut Cpu) {}
}

/// The MMX registers.
pub struct Mm;
/// The XMM registers in legacy encodings, which leave the upper halves of the YMM registers alone.
pub struct Xmm;
/// The XMM and YMM registers in VEX encodings, which clear what is above the destination.
pub struct Vex;

impl Bank for Mm {
    #[inline(always)]
    fn ready(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
        cpu.mmx_ready(op)
    }
    #[inline(always)]
    fn get<const N: usize>(cpu: &Cpu, r: u8) -> Vector<N> {
        cpu.mm(r).resized()
    }
    #[inline(always)]
    fn set<const N: usize>(cpu: &mut Cpu, r: u8, v: Vector<N>) {
        cpu.state.fpu.mmx_enter();
        cpu.state.fpu.mmx_set(r.into(), v.resized::<8>().into());
    }
    #[inline(always)]
    fn touch(cpu: &mut Cpu) {
        cpu.state.fpu.mmx_enter();
    }
}

impl Bank for Xmm {
    const ALIGNED: bool = true;
    #[inline(always)]
    fn set<const N: usize>(cpu: &mut Cpu, r: u8, v: Vector<N>) {
        cpu.set_xmm(r, v);
    }
}

impl Bank for Vex {
    #[inline(always)]
    fn first(op: &Op) -> u8 {
        op.src
    }
    #[inline(always)]
    fn second(op: &Op) -> u8 {
        op.index
    }
    #[inline(always)]
    fn set<const N: usize>(cpu: &mut Cpu, r: u8, v: Vector<N>) {
        cpu.state.ymm.0[usize::from(r & 15)] = v.resized();
    }
    #[inline(always)]
    fn merge<const N: usize>(cpu: &mut Cpu, op: &Op, v: Vector<N>) {
        if N >= 16 {
            return Self::set(cpu, op.dst, v);
        }
        let mut whole: V128 = cpu.xmm(op.src);
        whole.0[..N].copy_from_slice(&v.0);
        Self::set(cpu, op.dst, whole);
    }
}

/// The second source: a register where `MEM` is 0, else `MEM` bytes of memory, which must be aligned if they are 16 and
/// the encoding is a legacy one.
#[inline(always)]
pub(crate) fn operand<B: Bank, const N: usize, const MEM: usize>(cpu: &mut Cpu, op: &Op) -> Result<Vector<N>, Fault> {
    if MEM == 0 {
        return Ok(B::get(cpu, B::second(op)));
    }
    if MEM == 16 && B::ALIGNED {
        cpu.check_aligned(op, 16, 16, false)?;
    }
    cpu.load_vector::<N, MEM>(op)
}

/// `destination = f(first source, second source, immediate, lane)`, of each 16-byte lane alone (of 8 bytes in MMX).
pub trait Packed<const N: usize> {
    /// The function.
    fn apply(a: Vector<N>, b: Vector<N>, imm: u8, lane: usize) -> Vector<N>;
}

/// `destination = f(part of a source)`, of any size.
pub trait Spread {
    /// The function.
    fn apply<const N: usize>(b: V128) -> Vector<N>;
}

/// `destination = f(first source, second source, mask)`: the mask is XMM0, or VEX's fourth operand.
pub trait Select {
    /// The function.
    fn apply<const N: usize>(a: Vector<N>, b: Vector<N>, mask: Vector<N>) -> Vector<N>;
}

/// `destination = f(first source, count)`.
pub trait Shift {
    /// The function.
    fn apply<const N: usize>(a: Vector<N>, count: u64) -> Vector<N>;
}

/// `destination = f(first source, second source, immediate)` under MXCSR.
pub trait Float<const N: usize> {
    /// The function.
    ///
    /// # Errors
    /// [`Unmasked`].
    fn apply(a: Vector<N>, b: Vector<N>, imm: u8, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked>;
}

fn packed<T: Packed<LANE>, B: Bank, const LANE: usize, const N: usize, const MEM: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        B::ready(cpu, op)?;
        let b = operand::<B, N, MEM>(cpu, op)?;
        let a = B::get::<N>(cpu, B::first(op));
        let imm = op.imm as u8;
        B::set(cpu, op.dst, a.zip_parts::<LANE>(b, |a, b, lane| T::apply(a, b, imm, lane)));
        Ok(())
    })
}

fn spread<T: Spread, B: Bank, const N: usize, const MEM: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = operand::<B, 16, MEM>(cpu, op)?;
        B::set(cpu, op.dst, T::apply::<N>(b));
        Ok(())
    })
}

fn select<T: Select, B: Bank, const N: usize, const MEM: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = operand::<B, N, MEM>(cpu, op)?;
        // Legacy encodings have no immediate: 0, for XMM0.
        let mask = B::get(cpu, op.imm as u8);
        B::set(cpu, op.dst, T::apply::<N>(B::get(cpu, B::first(op)), b, mask));
        Ok(())
    })
}

/// Shifts by the low quadword of the second source, or (`MEM` is 1) by the immediate.
fn shift<T: Shift, B: Bank, const N: usize, const MEM: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        B::ready(cpu, op)?;
        let count = match MEM {
            0 => B::get::<8>(cpu, B::second(op)).get(0),
            1 => op.imm & 0xff,
            _ => operand::<B, 16, MEM>(cpu, op)?.get(0),
        };
        B::set(cpu, op.dst, T::apply::<N>(B::get(cpu, B::first(op)), count));
        Ok(())
    })
}

fn float<T: Float<N>, B: Bank, const N: usize, const MEM: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = operand::<B, N, MEM>(cpu, op)?;
        let a = B::get(cpu, B::first(op));
        let result = T::apply(a, b, op.imm as u8, &mut cpu.state.mxcsr);
        let result = cpu.masked(result)?;
        B::merge(cpu, op, result);
        Ok(())
    })
}

/// The vectors that an instruction works on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// XMM registers, legacy encoding.
    Sse,
    /// XMM registers, VEX encoding.
    Avx128,
    /// YMM registers.
    Avx256,
}

/// The size of an instruction's largest vector.
pub(crate) fn size(l: &Lower) -> Size {
    let wide = (0..l.i.op_count()).any(|n| l.is_reg(n) && l.i.op_register(n).is_ymm()) || l.i.memory_size().size() == 32;
    match (l.vex, wide) {
        (false, _) => Size::Sse,
        (true, false) => Size::Avx128,
        (true, true) => Size::Avx256,
    }
}

/// Whether an operand is in memory.
pub(crate) fn in_memory(l: &Lower) -> bool {
    (0..l.i.op_count()).any(|n| l.is_mem(n))
}

/// `by_size!(l, f::<A, B>)` is `l.with(f::<A, B, bank, size, memory>)`, where `memory` is 0 or the vector's size in bytes.
#[macro_export]
macro_rules! by_size {
    ($l:expr, $f:ident $(::<$($g:ty),*>)?) => {{
        use $crate::exec::vector::{Size, Xmm, in_memory, size};
        match (size($l), in_memory($l)) {
            (Size::Sse, false) => $l.with($f::<$($($g,)*)? Xmm, 16, 0>),
            (Size::Sse, true) => $l.with($f::<$($($g,)*)? Xmm, 16, 16>),
            _ => $crate::by_size!(vex $l, $f $(::<$($g),*>)?),
        }
    }};
    (vex $l:expr, $f:ident $(::<$($g:ty),*>)?) => {{
        use $crate::exec::vector::{Size, Vex, in_memory, size};
        match (size($l), in_memory($l)) {
            (Size::Avx256, false) => $l.with($f::<$($($g,)*)? Vex, 32, 0>),
            (Size::Avx256, true) => $l.with($f::<$($($g,)*)? Vex, 32, 32>),
            (_, false) => $l.with($f::<$($($g,)*)? Vex, 16, 0>),
            (_, true) => $l.with($f::<$($($g,)*)? Vex, 16, 16>),
        }
    }};
}

/// Lowers a [`Packed`] that only XMM and YMM registers have.
pub(crate) fn lower_xmm<T: Packed<16>>(l: &Lower) -> Option<Op> {
    match (size(l), in_memory(l)) {
        (Size::Sse, false) => l.with(packed::<T, Xmm, 16, 16, 0>),
        (Size::Sse, true) => l.with(packed::<T, Xmm, 16, 16, 16>),
        _ => lower_avx::<T>(l),
    }
}

/// Lowers a [`Packed`] that has no legacy encoding.
pub(crate) fn lower_avx<T: Packed<16>>(l: &Lower) -> Option<Op> {
    match (size(l), in_memory(l)) {
        (Size::Avx256, false) => l.with(packed::<T, Vex, 16, 32, 0>),
        (Size::Avx256, true) => l.with(packed::<T, Vex, 16, 32, 32>),
        (_, false) => l.with(packed::<T, Vex, 16, 16, 0>),
        (_, true) => l.with(packed::<T, Vex, 16, 16, 16>),
    }
}

/// Lowers a [`Packed`] of whole YMM registers.
pub(crate) fn lower_cross<T: Packed<32>>(l: &Lower) -> Option<Op> {
    match if in_memory(l) { l.i.memory_size().size() } else { 0 } {
        0 => l.with(packed::<T, Vex, 32, 32, 0>),
        16 => l.with(packed::<T, Vex, 32, 32, 16>),
        _ => l.with(packed::<T, Vex, 32, 32, 32>),
    }
}

/// Lowers a [`Packed`] without a YMM form.
pub(crate) fn lower_xmm_only<T: Packed<16>>(l: &Lower) -> Option<Op> {
    match (l.vex, in_memory(l)) {
        (false, false) => l.with(packed::<T, Xmm, 16, 16, 0>),
        (false, true) => l.with(packed::<T, Xmm, 16, 16, 16>),
        (true, false) => l.with(packed::<T, Vex, 16, 16, 0>),
        (true, true) => l.with(packed::<T, Vex, 16, 16, 16>),
    }
}

/// Lowers a [`Packed`] that only MMX registers have.
pub(crate) fn lower_mm<T: Packed<8>>(l: &Lower) -> Option<Op> {
    match if l.is_mem(1) { l.bits(1) } else { 0 } {
        0 => l.with(packed::<T, Mm, 8, 8, 0>),
        32 => l.with(packed::<T, Mm, 8, 8, 4>),
        64 => l.with(packed::<T, Mm, 8, 8, 8>),
        _ => None,
    }
}

/// Lowers a [`Packed`] that all register files have.
pub(crate) fn lower_both<T: Packed<8> + Packed<16>>(l: &Lower) -> Option<Op> {
    if l.i.op0_register().is_mm() { lower_mm::<T>(l) } else { lower_xmm::<T>(l) }
}

/// Lowers a [`Spread`].
pub(crate) fn lower_spread<T: Spread>(l: &Lower) -> Option<Op> {
    macro_rules! by_memory {
        ($bank:ty, $n:literal) => {
            match if l.is_mem(1) { l.bits(1) } else { 0 } {
                0 => l.with(spread::<T, $bank, $n, 0>),
                8 => l.with(spread::<T, $bank, $n, 1>),
                16 => l.with(spread::<T, $bank, $n, 2>),
                32 => l.with(spread::<T, $bank, $n, 4>),
                64 => l.with(spread::<T, $bank, $n, 8>),
                128 => l.with(spread::<T, $bank, $n, 16>),
                _ => None,
            }
        };
    }
    match size(l) {
        Size::Sse => by_memory!(Xmm, 16),
        Size::Avx128 => by_memory!(Vex, 16),
        Size::Avx256 => by_memory!(Vex, 32),
    }
}

/// Lowers a [`Select`].
pub(crate) fn lower_select<T: Select>(l: &Lower) -> Option<Op> {
    by_size!(l, select::<T>)
}

/// Lowers a [`Shift`].
pub(crate) fn lower_shift<T: Shift>(l: &Lower) -> Option<Op> {
    let immediate = l.is_imm(l.i.op_count() - 1);
    macro_rules! by_count {
        ($bank:ty, $n:literal, $bytes:literal) => {
            match (immediate, in_memory(l)) {
                (true, _) => l.with(shift::<T, $bank, $n, 1>),
                (_, true) => l.with(shift::<T, $bank, $n, $bytes>),
                (_, false) => l.with(shift::<T, $bank, $n, 0>),
            }
        };
    }
    match size(l) {
        Size::Sse if l.i.op0_register().is_mm() => by_count!(Mm, 8, 8),
        Size::Sse => by_count!(Xmm, 16, 16),
        Size::Avx128 => by_count!(Vex, 16, 16),
        Size::Avx256 => by_count!(Vex, 32, 16),
    }
}

/// Lowers a [`Float`] on whole registers.
pub(crate) fn lower_float<T: Float<16> + Float<32>>(l: &Lower) -> Option<Op> {
    by_size!(l, float::<T>)
}

/// Lowers a [`Float`] whose source is the lower half of a register, or as much memory.
pub(crate) fn lower_half<T: Float<16> + Float<32>>(l: &Lower) -> Option<Op> {
    match (size(l), in_memory(l)) {
        (Size::Sse, false) => l.with(float::<T, Xmm, 16, 0>),
        (Size::Sse, true) => l.with(float::<T, Xmm, 16, 8>),
        (Size::Avx128, false) => l.with(float::<T, Vex, 16, 0>),
        (Size::Avx128, true) => l.with(float::<T, Vex, 16, 8>),
        (Size::Avx256, false) => l.with(float::<T, Vex, 32, 0>),
        (Size::Avx256, true) => l.with(float::<T, Vex, 32, 16>),
    }
}

/// Lowers a [`Float`] on a single.
pub(crate) fn lower_single<T: Float<4>>(l: &Lower) -> Option<Op> {
    match (l.vex, in_memory(l)) {
        (false, false) => l.with(float::<T, Xmm, 4, 0>),
        (false, true) => l.with(float::<T, Xmm, 4, 4>),
        (true, false) => l.with(float::<T, Vex, 4, 0>),
        (true, true) => l.with(float::<T, Vex, 4, 4>),
    }
}

/// Lowers a [`Float`] on a double.
pub(crate) fn lower_double<T: Float<8>>(l: &Lower) -> Option<Op> {
    match (l.vex, in_memory(l)) {
        (false, false) => l.with(float::<T, Xmm, 8, 0>),
        (false, true) => l.with(float::<T, Xmm, 8, 8>),
        (true, false) => l.with(float::<T, Vex, 8, 0>),
        (true, true) => l.with(float::<T, Vex, 8, 8>),
    }
}

/// A general register's or memory's integer, zero-extended into a vector (MOVD, MOVQ, PINSRx).
pub(crate) fn integer<W: Width, const N: usize>(v: W) -> Vector<N> {
    let mut r = Vector::ZERO;
    r.0[..W::BYTES].copy_from_slice(&v.to_le()[..W::BYTES]);
    r
}

/// Makes rows from mnemonics and expressions of the operands: `shape { M V = |a, b, imm| expression; }`, where `shape`
/// names the lowering, and `V` is M's VEX twin, if there is one.
/// * `both` (MMX registers too), `xmm`, `xmm_only` (no YMM form), `avx` (VEX alone), `mm`: [`Packed`]; after the immediate,
///   the number of the 16-byte lane; `cross`: of a whole YMM register;
/// * `spread`: [`Spread`]; `select`: [`Select`], the third operand is the mask; `shift`: [`Shift`];
/// * `whole`, `half`, `single`, `double`: [`Float`]; the third operand is (immediate, MXCSR).
#[macro_export]
macro_rules! vector_rows {
    ($($shape:ident { $($m:ident $($v:ident)? = |$a:pat_param, $b:pat_param $(, $c:pat_param $(, $d:pat_param)?)?| $e:expr;)* })*) => {
        &[$($($crate::vector_rows!(@row $m ($($v)?), $crate::vector_rows!(@$shape $a, $b, ($($c)?), ($($($d)?)?), $e)),)*)*]
    };
    (@row $m:ident (), $lower:expr) => {
        $crate::table::row(iced_x86::Mnemonic::$m, $lower)
    };
    (@row $m:ident ($v:ident), $lower:expr) => {
        $crate::table::row(iced_x86::Mnemonic::$m, $lower).vex(iced_x86::Mnemonic::$v)
    };
    (@packed ($($n:tt)*), $size:tt, $lower:ident, $a:pat_param, $b:pat_param, ($($c:pat_param)?), ($($d:pat_param)?), $e:expr) => {
        |l| {
            struct T;
            impl<$($n)*> $crate::exec::vector::Packed<$size> for T {
                #[inline(always)]
                fn apply($a: Vector<$size>, $b: Vector<$size>, _imm: u8, _lane: usize) -> Vector<$size> {
                    $(let $c = _imm;)?
                    $(let $d = _lane;)?
                    $e
                }
            }
            $crate::exec::vector::$lower::<T>(l)
        }
    };
    (@both $($rest:tt)*) => { $crate::vector_rows!(@packed (const N: usize), N, lower_both, $($rest)*) };
    (@xmm $($rest:tt)*) => { $crate::vector_rows!(@packed (), 16, lower_xmm, $($rest)*) };
    (@xmm_only $($rest:tt)*) => { $crate::vector_rows!(@packed (), 16, lower_xmm_only, $($rest)*) };
    (@avx $($rest:tt)*) => { $crate::vector_rows!(@packed (), 16, lower_avx, $($rest)*) };
    (@cross $($rest:tt)*) => { $crate::vector_rows!(@packed (), 32, lower_cross, $($rest)*) };
    (@mm $($rest:tt)*) => { $crate::vector_rows!(@packed (), 8, lower_mm, $($rest)*) };
    (@spread $a:pat_param, $b:pat_param, (), (), $e:expr) => {
        |l| {
            struct T;
            impl $crate::exec::vector::Spread for T {
                #[inline(always)]
                fn apply<const N: usize>($b: V128) -> Vector<N> {
                    $e
                }
            }
            $crate::exec::vector::lower_spread::<T>(l)
        }
    };
    (@select $a:pat_param, $b:pat_param, ($c:pat_param), (), $e:expr) => {
        |l| {
            struct T;
            impl $crate::exec::vector::Select for T {
                #[inline(always)]
                fn apply<const N: usize>($a: Vector<N>, $b: Vector<N>, $c: Vector<N>) -> Vector<N> {
                    $e
                }
            }
            $crate::exec::vector::lower_select::<T>(l)
        }
    };
    (@shift $a:pat_param, $b:pat_param, (), (), $e:expr) => {
        |l| {
            struct T;
            impl $crate::exec::vector::Shift for T {
                #[inline(always)]
                fn apply<const N: usize>($a: Vector<N>, $b: u64) -> Vector<N> {
                    $e
                }
            }
            $crate::exec::vector::lower_shift::<T>(l)
        }
    };
    (@float ($($n:tt)*), $size:tt, $lower:ident, $a:pat_param, $b:pat_param, ($c:pat_param), (), $e:expr) => {
        |l| {
            struct T;
            impl<$($n)*> $crate::exec::vector::Float<$size> for T {
                #[inline(always)]
                fn apply($a: Vector<$size>, $b: Vector<$size>, imm: u8, mxcsr: &mut u32) -> Result<Vector<$size>, Unmasked> {
                    let $c = (imm, mxcsr);
                    $e
                }
            }
            $crate::exec::vector::$lower::<T>(l)
        }
    };
    (@whole $($rest:tt)*) => { $crate::vector_rows!(@float (const N: usize), N, lower_float, $($rest)*) };
    (@half $($rest:tt)*) => { $crate::vector_rows!(@float (const N: usize), N, lower_half, $($rest)*) };
    (@single $($rest:tt)*) => { $crate::vector_rows!(@float (), 4, lower_single, $($rest)*) };
    (@double $($rest:tt)*) => { $crate::vector_rows!(@float (), 8, lower_double, $($rest)*) };
}
