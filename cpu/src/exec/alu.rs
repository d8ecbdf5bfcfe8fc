//! Integer arithmetic and logic.

use iced_x86::Mnemonic as M;

use crate::fault::vector;
use crate::flags::{AF, CF, PF, SF, ZF};
use crate::lower::Lower;
use crate::op::{Dst, Exit, Imm, Mem, Op, Place, Source, Src, step};
use crate::semantics::integer::{Adc, Add, And, Binary, Dec, Imul, Inc, Neg, Not, Or, Sbb, Sub, Unary, Xor};
use crate::state::{Cpu, reg};
use crate::table::{Row, row};
use crate::width::{HIGH_BYTE, Width};
use crate::{binary, by_width, unary};

const AH: u8 = HIGH_BYTE;

/// The family's rows.
pub const ROWS: &[Row] = &[
    row(M::Add, |l| binary!(l, binary::<Add>)).modifies("oszapc"),
    row(M::Adc, |l| binary!(l, binary::<Adc>)).modifies("oszapc"),
    row(M::Adcx, add_carry::<false>).modifies("c"),
    row(M::Adox, add_carry::<true>).modifies("o"),
    row(M::Sub, |l| binary!(l, binary::<Sub>)).modifies("oszapc"),
    row(M::Sbb, |l| binary!(l, binary::<Sbb>)).modifies("oszapc"),
    row(M::And, |l| binary!(l, binary::<And>)).modifies("oszapc"),
    row(M::Or, |l| binary!(l, binary::<Or>)).modifies("oszapc"),
    row(M::Xor, |l| binary!(l, binary::<Xor>)).modifies("oszapc"),
    row(M::Cmp, |l| binary!(l, compare::<Sub>)).modifies("oszapc"),
    row(M::Test, |l| binary!(l, compare::<And>)).modifies("oszapc"),
    row(M::Inc, |l| unary!(l, unary_op::<Inc>)).modifies("oszap"),
    row(M::Dec, |l| unary!(l, unary_op::<Dec>)).modifies("oszap"),
    row(M::Neg, |l| unary!(l, unary_op::<Neg>)).modifies("oszapc"),
    row(M::Not, |l| unary!(l, unary_op::<Not>)),
    row(M::Mul, |l| unary!(l, mul)).modifies("oszapc"),
    row(M::Imul, lower_imul).modifies("oszapc"),
    row(M::Div, |l| unary!(l, div)).modifies("oszapc"),
    row(M::Idiv, |l| unary!(l, idiv)).modifies("oszapc"),
    row(M::Xadd, |l| if l.is_mem(0) { by_width!(l, l.bits(0), xadd::<Mem>) } else { by_width!(l, l.bits(0), xadd::<Dst>) })
        .modifies("oszapc"),
    row(M::Cmpxchg, |l| if l.is_mem(0) { by_width!(l, l.bits(0), cmpxchg::<Mem>) } else { by_width!(l, l.bits(0), cmpxchg::<Dst>) })
        .modifies("oszapc"),
    row(M::Cmpxchg8b, |l| l.with(cmpxchg8b)).modifies("z"),
    row(M::Cmpxchg16b, |l| l.with(cmpxchg16b)).modifies("z"),
    row(M::Daa, |l| l.with(|c, o, r| decimal_adjust(c, o, r, false))).modifies("oszapc"),
    row(M::Das, |l| l.with(|c, o, r| decimal_adjust(c, o, r, true))).modifies("oszapc"),
    row(M::Aaa, |l| l.with(|c, o, r| ascii_adjust(c, o, r, false))).modifies("oszapc"),
    row(M::Aas, |l| l.with(|c, o, r| ascii_adjust(c, o, r, true))).modifies("oszapc"),
    row(M::Aam, |l| l.with(aam)).modifies("oszapc"),
    row(M::Aad, |l| l.with(aad)).modifies("oszapc"),
];

fn binary<X: Binary, D: Place, S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = S::get::<W>(cpu, op)?;
        D::update::<W>(cpu, op, |cpu, a| X::apply(&mut cpu.state.lazy, a, b))
    })
}

/// ADCX and ADOX (`OVERFLOW`): the carry goes through one flag; the others stay.
fn add_carry<const OVERFLOW: bool>(l: &Lower) -> Option<Op> {
    macro_rules! pick {
        ($w:ty) => {
            if l.is_mem(1) { l.with(add_with::<OVERFLOW, Mem, $w>) } else { l.with(add_with::<OVERFLOW, Src, $w>) }
        };
    }
    if l.bits(0) == 64 { pick!(u64) } else { pick!(u32) }
}

fn add_with<const OVERFLOW: bool, S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = S::get::<W>(cpu, op)?;
        let a = Dst::get::<W>(cpu, op)?;
        let f = &mut cpu.state.lazy;
        let carry = if OVERFLOW { f.of() } else { f.cf() };
        let sum = u128::from(a.zx()) + u128::from(b.zx()) + u128::from(carry);
        let carry = sum >> W::BITS != 0;
        if OVERFLOW {
            f.set_of(carry)
        } else {
            f.set_cf(carry)
        }
        Dst::set(cpu, op, W::of(sum as u64))
    })
}

fn compare<X: Binary, D: Place, S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let a = D::get::<W>(cpu, op)?;
        let b = S::get::<W>(cpu, op)?;
        X::apply(&mut cpu.state.lazy, a, b);
        Ok(())
    })
}

fn unary_op<X: Unary, D: Place, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| D::update::<W>(cpu, op, |cpu, a| X::apply(&mut cpu.state.lazy, a)))
}

/// Stores a double-width product or dividend's halves: AX for bytes, else rDX:rAX.
#[inline(always)]
fn set_pair<W: Width>(cpu: &mut Cpu, low: W, high: W) {
    let r = &mut cpu.state.regs;
    W::set(r, reg::RAX, low);
    W::set(r, if W::BITS == 8 { AH } else { reg::RDX }, high);
}

#[inline(always)]
fn pair<W: Width>(cpu: &Cpu) -> u128 {
    let r = &cpu.state.regs;
    let high = W::get(r, if W::BITS == 8 { AH } else { reg::RDX });
    u128::from(high.zx()) << W::BITS | u128::from(W::get(r, reg::RAX).zx())
}

fn mul<D: Place, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = D::get::<W>(cpu, op)?;
        let p = u128::from(W::get(&cpu.state.regs, reg::RAX).zx()) * u128::from(b.zx());
        let (low, high) = (W::of(p as u64), W::of((p >> W::BITS) as u64));
        set_pair(cpu, low, high);
        let over = high.zx() != 0;
        cpu.state.lazy.set_cf_of(over, over);
        Ok(())
    })
}

fn lower_imul(l: &Lower) -> Option<Op> {
    match (l.i.op_count(), l.is_mem(1)) {
        (1, _) => unary!(l, imul_wide),
        (2, false) => by_width!(l, l.bits(0), wide binary::<Imul, Dst, Src>),
        (2, true) => by_width!(l, l.bits(0), wide binary::<Imul, Dst, Mem>),
        (_, false) => by_width!(l, l.bits(0), wide imul3::<Src>),
        (_, true) => by_width!(l, l.bits(0), wide imul3::<Mem>),
    }
}

fn imul_wide<D: Place, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = D::get::<W>(cpu, op)?;
        let p = i128::from(W::get(&cpu.state.regs, reg::RAX).sx() as i64) * i128::from(b.sx() as i64);
        let (low, high) = (W::of(p as u64), W::of((p >> W::BITS) as u64));
        set_pair(cpu, low, high);
        let over = i128::from(low.sx() as i64) != p;
        cpu.state.lazy.set_cf_of(over, over);
        Ok(())
    })
}

fn imul3<S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let a = S::get::<W>(cpu, op)?;
        let b = Imm::get::<W>(cpu, op)?;
        let r = Imul::apply(&mut cpu.state.lazy, a, b);
        Dst::set(cpu, op, r)
    })
}

fn div<D: Place, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = D::get::<W>(cpu, op)?;
        let a = pair::<W>(cpu);
        if b.zx() == 0 || a >> W::BITS >= u128::from(b.zx()) {
            return Err(cpu.raise(vector::DE));
        }
        // The quotient fits, so for all but 64 bits a 64-bit division does.
        let (q, r) = if W::BITS < 64 || a >> 64 == 0 {
            (a as u64 / b.zx(), a as u64 % b.zx())
        } else {
            ((a / u128::from(b.zx())) as u64, (a % u128::from(b.zx())) as u64)
        };
        set_pair(cpu, W::of(q), W::of(r));
        Ok(())
    })
}

fn idiv<D: Place, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = i128::from(D::get::<W>(cpu, op)?.sx() as i64);
        let unused = 128 - 2 * W::BITS;
        let a = (pair::<W>(cpu) << unused) as i128 >> unused;
        let fits = |q: i128| i128::from(W::of(q as u64).sx() as i64) == q;
        match a.checked_div(b) {
            Some(q) if fits(q) => {
                set_pair(cpu, W::of(q as u64), W::of((a % b) as u64));
                Ok(())
            }
            _ => Err(cpu.raise(vector::DE)),
        }
    })
}

fn xadd<D: Place, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = Src::get::<W>(cpu, op)?;
        let mut old = W::default();
        D::update::<W>(cpu, op, |cpu, a| {
            old = a;
            Add::apply(&mut cpu.state.lazy, a, b)
        })?;
        // The destination wins where both are one register.
        if D::IS_MEMORY || op.dst != op.src { Src::set(cpu, op, old) } else { Ok(()) }
    })
}

fn cmpxchg<D: Place, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let new = Src::get::<W>(cpu, op)?;
        let expected = W::get(&cpu.state.regs, reg::RAX);
        let mut old = W::default();
        // The destination is written either way (SDM 2A, CMPXCHG).
        D::update::<W>(cpu, op, |cpu, a| {
            old = a;
            Sub::apply(&mut cpu.state.lazy, expected, a);
            if a == expected { new } else { a }
        })?;
        if old != expected {
            W::set(&mut cpu.state.regs, reg::RAX, old);
        }
        Ok(())
    })
}

fn cmpxchg8b(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let r = cpu.state.regs;
        let half = |n: u8| r[usize::from(n)] & 0xffff_ffff;
        let expected = half(reg::RDX) << 32 | half(reg::RAX);
        let new = half(reg::RCX) << 32 | half(reg::RBX);
        let mut old = 0u64;
        cpu.update::<u64>(op, |_, a| {
            old = a;
            if a == expected { new } else { a }
        })?;
        cpu.state.lazy.set_zf(old == expected);
        if old != expected {
            u32::set(&mut cpu.state.regs, reg::RAX, old as u32);
            u32::set(&mut cpu.state.regs, reg::RDX, (old >> 32) as u32);
        }
        Ok(())
    })
}

fn cmpxchg16b(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        if cpu.effective(op).wrapping_add(cpu.state.bases[usize::from(op.seg & 7)]) & 15 != 0 {
            return Err(cpu.gp(0));
        }
        let r = cpu.state.regs;
        let wide = |high: u8, low: u8| u128::from(r[usize::from(high)]) << 64 | u128::from(r[usize::from(low)]);
        let (expected, new) = (wide(reg::RDX, reg::RAX), wide(reg::RCX, reg::RBX));
        let ea = cpu.effective(op);
        cpu.probe_at(op, op.seg, ea, 16)?;
        let old: u128 = cpu.load(op)?;
        cpu.store(op, if old == expected { new } else { old })?;
        cpu.state.lazy.set_zf(old == expected);
        if old != expected {
            cpu.state.regs[usize::from(reg::RAX)] = old as u64;
            cpu.state.regs[usize::from(reg::RDX)] = (old >> 64) as u64;
        }
        Ok(())
    })
}

/// DAA and DAS (SDM 2A).
fn decimal_adjust(cpu: &mut Cpu, op: &Op, rest: &[Op], subtract: bool) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        let old = u8::get(&cpu.state.regs, reg::RAX);
        let (old_cf, old_af) = (cpu.state.lazy.cf(), cpu.state.lazy.af());
        let low = old & 15 > 9 || old_af;
        let high = old > 0x99 || old_cf;
        let adjust = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
        let al = if subtract { old.wrapping_sub(adjust) } else { old.wrapping_add(adjust) };
        let cf = high || subtract && low && old < 6 || !subtract && low && old > 0xf9;
        u8::set(&mut cpu.state.regs, reg::RAX, al);
        cpu.state.lazy.logic(al);
        let bits = cpu.state.lazy.bits() & (SF | ZF | PF) | if cf { CF } else { 0 } | if low { AF } else { 0 };
        cpu.state.lazy.set_bits(bits);
        Ok(())
    })
}

/// AAA and AAS (SDM 2A).
fn ascii_adjust(cpu: &mut Cpu, op: &Op, rest: &[Op], subtract: bool) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        let ax = u16::get(&cpu.state.regs, reg::RAX);
        let adjust = ax & 15 > 9 || cpu.state.lazy.af();
        let ax = match (adjust, subtract) {
            (false, _) => ax,
            (true, false) => ax.wrapping_add(0x106),
            (true, true) => ax.wrapping_sub(0x106),
        } & 0xff0f;
        u16::set(&mut cpu.state.regs, reg::RAX, ax);
        cpu.state.lazy.logic(ax as u8);
        let bits = cpu.state.lazy.bits() & (SF | ZF | PF) | if adjust { CF | AF } else { 0 };
        cpu.state.lazy.set_bits(bits);
        Ok(())
    })
}

fn aam(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let (base, al) = (op.imm as u8, u8::get(&cpu.state.regs, reg::RAX));
        if base == 0 {
            return Err(cpu.raise(vector::DE));
        }
        u16::set(&mut cpu.state.regs, reg::RAX, u16::from(al / base) << 8 | u16::from(al % base));
        cpu.state.lazy.logic(al % base);
        Ok(())
    })
}

fn aad(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let ax = u16::get(&cpu.state.regs, reg::RAX);
        let al = (ax as u8).wrapping_add(((ax >> 8) as u8).wrapping_mul(op.imm as u8));
        u16::set(&mut cpu.state.regs, reg::RAX, u16::from(al));
        cpu.state.lazy.logic(al);
        Ok(())
    })
}
