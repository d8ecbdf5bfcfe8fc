//! Shifts, rotates, bit tests, scans and the BMI instructions.

use iced_x86::Mnemonic as M;

use crate::lower::Lower;
use crate::op::{Dst, Exit, Imm, Mem, Op, Place, Source, Src, step};
use crate::semantics::integer::{
    Andn, Bextr, Binary, Blsi, Blsmsk, Blsr, Bzhi, Lzcnt, Popcnt, Rcl, Rcr, Rol, Ror, Sar, Shift, Shl, Shr, Tzcnt, Unary, pdep, pext, shld,
    shrd,
};
use crate::state::{Cpu, reg};
use crate::table::{Row, row};
use crate::width::Width;
use crate::{by_width, flags};

/// The family's rows.
pub const ROWS: &[Row] = &[
    row(M::Shl, lower_shift::<Shl>).modifies("oszapc"),
    row(M::Sal, lower_shift::<Shl>).modifies("oszapc"),
    row(M::Shr, lower_shift::<Shr>).modifies("oszapc"),
    row(M::Sar, lower_shift::<Sar>).modifies("oszapc"),
    row(M::Rol, lower_shift::<Rol>).modifies("oc"),
    row(M::Ror, lower_shift::<Ror>).modifies("oc"),
    row(M::Rcl, lower_shift::<Rcl>).modifies("oc"),
    row(M::Rcr, lower_shift::<Rcr>).modifies("oc"),
    row(M::Shld, lower_double::<Left>).modifies("oszapc"),
    row(M::Shrd, lower_double::<Right>).modifies("oszapc"),
    row(M::Bt, lower_bit_test::<Test>).modifies("osapc"),
    row(M::Bts, lower_bit_test::<Set>).modifies("osapc"),
    row(M::Btr, lower_bit_test::<Reset>).modifies("osapc"),
    row(M::Btc, lower_bit_test::<Complement>).modifies("osapc"),
    row(M::Bsf, |l| if l.is_mem(1) { by_width!(l, l.bits(0), wide bsf::<Mem>) } else { by_width!(l, l.bits(0), wide bsf::<Src>) })
        .modifies("oszapc"),
    row(M::Bsr, |l| if l.is_mem(1) { by_width!(l, l.bits(0), wide bsr::<Mem>) } else { by_width!(l, l.bits(0), wide bsr::<Src>) })
        .modifies("oszapc"),
    row(M::Popcnt, lower_count::<Popcnt>).modifies("oszapc"),
    row(M::Lzcnt, lower_count::<Lzcnt>).modifies("oszapc"),
    row(M::Tzcnt, lower_count::<Tzcnt>).modifies("oszapc"),
    row(M::Blsr, lower_vex_unary::<Blsr>).modifies("oszapc"),
    row(M::Blsmsk, lower_vex_unary::<Blsmsk>).modifies("oszapc"),
    row(M::Blsi, lower_vex_unary::<Blsi>).modifies("oszapc"),
    row(M::Andn, |l| if l.is_mem(2) { by_width!(l, l.bits(0), wide andn::<Mem>) } else { by_width!(l, l.bits(0), wide andn::<Third>) })
        .modifies("oszapc"),
    row(M::Bextr, lower_index::<Bextr>).modifies("oszapc"),
    row(M::Bzhi, lower_index::<Bzhi>).modifies("oszapc"),
    row(M::Shlx, lower_flagless::<ShlX>),
    row(M::Shrx, lower_flagless::<ShrX>),
    row(M::Sarx, lower_flagless::<SarX>),
    row(M::Rorx, |l| if l.is_mem(1) { by_width!(l, l.bits(0), wide rorx::<Mem>) } else { by_width!(l, l.bits(0), wide rorx::<Src>) }),
    row(M::Mulx, |l| if l.is_mem(2) { by_width!(l, l.bits(0), wide mulx::<Mem>) } else { by_width!(l, l.bits(0), wide mulx::<Third>) }),
    row(M::Pdep, lower_deposit::<Deposit>),
    row(M::Pext, lower_deposit::<Extract>),
];

/// The third register operand, whose number is in [`Op::imm`].
struct Third;
impl Source for Third {
    #[inline(always)]
    fn get<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<W, crate::Fault> {
        Ok(W::get(&cpu.state.regs, op.imm as u8))
    }
}

/// CL.
struct Cl;
impl Source for Cl {
    #[inline(always)]
    fn get<W: Width>(cpu: &mut Cpu, _: &Op) -> Result<W, crate::Fault> {
        Ok(W::of(cpu.state.regs[usize::from(reg::RCX)] & 0xff))
    }
}

/// A count is masked to 6 bits for 64-bit operands and to 5 for all others.
#[inline(always)]
fn masked<W: Width>(count: u8) -> u32 {
    u32::from(count) & if W::BITS == 64 { 63 } else { 31 }
}

fn lower_shift<X: Shift>(l: &Lower) -> Option<Op> {
    let bits = l.bits(0);
    match (l.is_mem(0), l.is_reg(1)) {
        (false, false) => by_width!(l, bits, shift::<X, Dst, Imm>),
        (false, true) => by_width!(l, bits, shift::<X, Dst, Cl>),
        (true, false) => by_width!(l, bits, shift::<X, Mem, Imm>),
        (true, true) => by_width!(l, bits, shift::<X, Mem, Cl>),
    }
}

fn shift<X: Shift, D: Place, C: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let n = masked::<W>(C::get::<u8>(cpu, op)?);
        // A count of 0 leaves the flags, but a register destination is still written (32 bits clear the upper half).
        D::update::<W>(cpu, op, |cpu, a| if n == 0 { a } else { X::apply(&mut cpu.state.lazy, a, n) })
    })
}

trait Double {
    fn apply<W: Width>(f: &mut flags::Lazy, a: W, fill: W, n: u32) -> W;
}
struct Left;
struct Right;
impl Double for Left {
    #[inline(always)]
    fn apply<W: Width>(f: &mut flags::Lazy, a: W, fill: W, n: u32) -> W {
        shld(f, a, fill, n)
    }
}
impl Double for Right {
    #[inline(always)]
    fn apply<W: Width>(f: &mut flags::Lazy, a: W, fill: W, n: u32) -> W {
        shrd(f, a, fill, n)
    }
}

fn lower_double<X: Double>(l: &Lower) -> Option<Op> {
    let bits = l.bits(0);
    match (l.is_mem(0), l.is_reg(2)) {
        (false, false) => by_width!(l, bits, wide double::<X, Dst, Imm>),
        (false, true) => by_width!(l, bits, wide double::<X, Dst, Cl>),
        (true, false) => by_width!(l, bits, wide double::<X, Mem, Imm>),
        (true, true) => by_width!(l, bits, wide double::<X, Mem, Cl>),
    }
}

fn double<X: Double, D: Place, C: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let n = masked::<W>(C::get::<u8>(cpu, op)?);
        let fill = Src::get::<W>(cpu, op)?;
        D::update::<W>(cpu, op, |cpu, a| if n == 0 { a } else { X::apply(&mut cpu.state.lazy, a, fill, n) })
    })
}

trait BitOp {
    const WRITES: bool = true;
    fn apply(v: u64, bit: u64) -> u64;
}
struct Test;
struct Set;
struct Reset;
struct Complement;
impl BitOp for Test {
    const WRITES: bool = false;
    fn apply(v: u64, _: u64) -> u64 {
        v
    }
}
impl BitOp for Set {
    fn apply(v: u64, bit: u64) -> u64 {
        v | bit
    }
}
impl BitOp for Reset {
    fn apply(v: u64, bit: u64) -> u64 {
        v & !bit
    }
}
impl BitOp for Complement {
    fn apply(v: u64, bit: u64) -> u64 {
        v ^ bit
    }
}

fn lower_bit_test<X: BitOp>(l: &Lower) -> Option<Op> {
    let bits = l.bits(0);
    match (l.is_mem(0), l.is_imm(1)) {
        (false, false) => by_width!(l, bits, wide bit_test::<X, Dst, Src>),
        (false, true) => by_width!(l, bits, wide bit_test::<X, Dst, Imm>),
        (true, true) => by_width!(l, bits, wide bit_test::<X, Mem, Imm>),
        (true, false) => by_width!(l, bits, wide bit_string::<X>),
    }
}

fn bit_test<X: BitOp, D: Place, S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let n = S::get::<W>(cpu, op)?.zx() & u64::from(W::BITS - 1);
        let mut old = W::default();
        if X::WRITES {
            D::update::<W>(cpu, op, |_, a| {
                old = a;
                W::of(X::apply(a.zx(), 1 << n))
            })?;
        } else {
            old = D::get::<W>(cpu, op)?;
        }
        cpu.state.lazy.set_cf(old.zx() >> n & 1 != 0);
        Ok(())
    })
}

/// A bit string in memory: the register's bit offset reaches beyond the operand, in both directions.
fn bit_string<X: BitOp, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let index = Src::get::<W>(cpu, op)?.sx() as i64;
        let n = index as u64 & u64::from(W::BITS - 1);
        let skip = (index >> W::BITS.trailing_zeros()).wrapping_mul(W::BYTES as i64);
        let ea = crate::mmu::cut(cpu.effective(op).wrapping_add(skip as u64), op.addr);
        if X::WRITES {
            // A page that cannot be written faults as a store.
            let linear = cpu.linear(op.seg, ea, W::BYTES, true, op.addr)?;
            if cpu.mmu.hit_write::<W>(linear).is_none() {
                cpu.probe_operand(op, op.seg, ea, W::BYTES)?;
            }
        }
        let old: W = cpu.load_at(op, op.seg, ea)?;
        if X::WRITES {
            cpu.store_at(op, op.seg, ea, W::of(X::apply(old.zx(), 1 << n)))?;
        }
        cpu.state.lazy.set_cf(old.zx() >> n & 1 != 0);
        Ok(())
    })
}

/// BSF of 0 sets ZF and leaves the destination as it is.
fn bsf<S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v = S::get::<W>(cpu, op)?.zx();
        cpu.state.lazy.set_zf(v == 0);
        if v == 0 { Ok(()) } else { Dst::set(cpu, op, W::of(u64::from(v.trailing_zeros()))) }
    })
}

/// BSR of 0 sets ZF and leaves the destination as it is.
fn bsr<S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v = S::get::<W>(cpu, op)?.zx();
        cpu.state.lazy.set_zf(v == 0);
        if v == 0 { Ok(()) } else { Dst::set(cpu, op, W::of(u64::from(63 - v.leading_zeros()))) }
    })
}

fn lower_count<X: Unary>(l: &Lower) -> Option<Op> {
    if l.is_mem(1) { by_width!(l, l.bits(0), wide convert::<X, Dst, Mem>) } else { by_width!(l, l.bits(0), wide convert::<X, Dst, Src>) }
}

/// BLSR and its kin: the destination is encoded in VEX.vvvv, which iced lists first.
fn lower_vex_unary<X: Unary>(l: &Lower) -> Option<Op> {
    lower_count::<X>(l)
}

/// Destination register from one source.
pub(super) fn convert<X: Unary, D: Place, S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let a = S::get::<W>(cpu, op)?;
        let r = X::apply(&mut cpu.state.lazy, a);
        D::set(cpu, op, r)
    })
}

fn andn<S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = S::get::<W>(cpu, op)?;
        let a = Src::get::<W>(cpu, op)?;
        let r = Andn::apply(&mut cpu.state.lazy, a, b);
        Dst::set(cpu, op, r)
    })
}

/// BEXTR and BZHI: operand 1 is register or memory, operand 2 a register.
fn lower_index<X: Binary>(l: &Lower) -> Option<Op> {
    if l.is_mem(1) { by_width!(l, l.bits(0), wide indexed::<X, Mem, Src>) } else { by_width!(l, l.bits(0), wide indexed::<X, Src, Third>) }
}

fn indexed<X: Binary, A: Source, B: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let a = A::get::<W>(cpu, op)?;
        let b = B::get::<W>(cpu, op)?;
        let r = X::apply(&mut cpu.state.lazy, a, b);
        Dst::set(cpu, op, r)
    })
}

trait Flagless {
    fn apply<W: Width>(a: W, n: u32) -> W;
}
struct ShlX;
struct ShrX;
struct SarX;
impl Flagless for ShlX {
    fn apply<W: Width>(a: W, n: u32) -> W {
        W::of(a.zx() << n)
    }
}
impl Flagless for ShrX {
    fn apply<W: Width>(a: W, n: u32) -> W {
        W::of(a.zx() >> n)
    }
}
impl Flagless for SarX {
    fn apply<W: Width>(a: W, n: u32) -> W {
        W::of((a.sx() as i64 >> n) as u64)
    }
}

fn lower_flagless<X: Flagless>(l: &Lower) -> Option<Op> {
    if l.is_mem(1) {
        by_width!(l, l.bits(0), wide flagless::<X, Mem, Src>)
    } else {
        by_width!(l, l.bits(0), wide flagless::<X, Src, Third>)
    }
}

fn flagless<X: Flagless, A: Source, C: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let a = A::get::<W>(cpu, op)?;
        let n = masked::<W>(C::get::<W>(cpu, op)?.zx() as u8);
        Dst::set(cpu, op, X::apply(a, n))
    })
}

fn rorx<S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v = S::get::<W>(cpu, op)?.zx();
        let n = masked::<W>(op.imm as u8);
        Dst::set(cpu, op, W::of(if n == 0 { v } else { v >> n | v << (W::BITS - n) }))
    })
}

/// MULX: rDX times the third operand; the low half to operand 1, then the high one to operand 0.
fn mulx<S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = S::get::<W>(cpu, op)?;
        let p = u128::from(W::get(&cpu.state.regs, reg::RDX).zx()) * u128::from(b.zx());
        Src::set(cpu, op, W::of(p as u64))?;
        Dst::set(cpu, op, W::of((p >> W::BITS) as u64))
    })
}

trait DepositOp {
    fn apply(a: u64, mask: u64) -> u64;
}
struct Deposit;
struct Extract;
impl DepositOp for Deposit {
    fn apply(a: u64, mask: u64) -> u64 {
        pdep(a, mask)
    }
}
impl DepositOp for Extract {
    fn apply(a: u64, mask: u64) -> u64 {
        pext(a, mask)
    }
}

fn lower_deposit<X: DepositOp>(l: &Lower) -> Option<Op> {
    if l.is_mem(2) { by_width!(l, l.bits(0), wide deposit::<X, Mem>) } else { by_width!(l, l.bits(0), wide deposit::<X, Third>) }
}

fn deposit<X: DepositOp, S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let mask = S::get::<W>(cpu, op)?;
        let a = Src::get::<W>(cpu, op)?;
        Dst::set(cpu, op, W::of(X::apply(a.zx(), mask.zx())))
    })
}
