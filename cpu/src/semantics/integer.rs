//! Integer semantics: pure functions over values and the lazy flags.
//!
//! Flags that the manual leaves undefined are as AMD's processors leave them, so that the translator need not correct them
//! there.

use crate::flags::Lazy;
use crate::width::Width;

/// A two-operand operation.
pub trait Binary {
    /// The result, with the flags set in `f`.
    fn apply<W: Width>(f: &mut Lazy, a: W, b: W) -> W;
}

/// A one-operand operation.
pub trait Unary {
    /// The result, with the flags set in `f`.
    fn apply<W: Width>(f: &mut Lazy, a: W) -> W;
}

/// A shift or rotate by a count already masked to 5 (6 for 64 bits) bits and not 0.
pub trait Shift {
    /// The result, with the flags set in `f`.
    fn apply<W: Width>(f: &mut Lazy, a: W, count: u32) -> W;
}

#[inline(always)]
fn sum<W: Width>(f: &mut Lazy, a: W, b: W, carry: u64) -> W {
    let (a, b) = (a.zx(), b.zx());
    let r = a.wrapping_add(b).wrapping_add(carry);
    f.arithmetic(W::of(r), W::of((a & b) | ((a | b) & !r)));
    W::of(r)
}

#[inline(always)]
fn difference<W: Width>(f: &mut Lazy, a: W, b: W, borrow: u64) -> W {
    let (a, b) = (a.zx(), b.zx());
    let r = a.wrapping_sub(b).wrapping_sub(borrow);
    f.arithmetic(W::of(r), W::of((!a & b) | ((!a | b) & r)));
    W::of(r)
}

macro_rules! binary_ops {
    ($($(#[$doc:meta])* $name:ident = |$f:ident, $a:ident, $b:ident| $body:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Binary for $name {
            #[inline(always)]
            fn apply<W: Width>($f: &mut Lazy, $a: W, $b: W) -> W {
                $body
            }
        }
    )*};
}

#[inline(always)]
fn logic<W: Width>(f: &mut Lazy, r: u64) -> W {
    f.logic(W::of(r));
    W::of(r)
}

binary_ops! {
    /// ADD
    Add = |f, a, b| sum(f, a, b, 0);
    /// ADC
    Adc = |f, a, b| { let c = u64::from(f.cf()); sum(f, a, b, c) };
    /// SUB, CMP
    Sub = |f, a, b| difference(f, a, b, 0);
    /// SBB
    Sbb = |f, a, b| { let c = u64::from(f.cf()); difference(f, a, b, c) };
    /// AND, TEST
    And = |f, a, b| logic(f, a.zx() & b.zx());
    /// OR
    Or = |f, a, b| logic(f, a.zx() | b.zx());
    /// XOR
    Xor = |f, a, b| logic(f, a.zx() ^ b.zx());
    /// ANDN: the first source is inverted
    Andn = |f, a, b| logic(f, !a.zx() & b.zx());
    /// IMUL of two operands: CF and OF tell that the product was cut; the others are kept
    Imul = |f, a, b| {
        let wide = i128::from(a.sx() as i64) * i128::from(b.sx() as i64);
        let r = W::of(wide as u64);
        let cut = i128::from(r.sx() as i64) != wide;
        f.set_cf_of(cut, cut);
        r
    };
    /// BEXTR: start and length from the low two bytes of the second source
    Bextr = |f, a, b| {
        let (start, len) = (b.zx() & 0xff, b.zx() >> 8 & 0xff);
        let v = if start < 64 { a.zx() >> start } else { 0 };
        let r = W::of(if len < 64 { v & ((1 << len) - 1) } else { v });
        // SF is clear, AF set.
        f.shifted(r, false, false);
        f.sign &= 0xff;
        r
    };
    /// BZHI: clears the bits from the index on; CF tells that the index was too large
    Bzhi = |f, a, b| {
        let n = b.zx() & 0xff;
        let over = n >= u64::from(W::BITS);
        let r = W::of(if over { a.zx() } else { a.zx() & ((1 << n) - 1) });
        f.result(r, over, false);
        r
    };
}

macro_rules! unary_ops {
    ($($(#[$doc:meta])* $name:ident = |$f:ident, $a:ident| $body:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Unary for $name {
            #[inline(always)]
            fn apply<W: Width>($f: &mut Lazy, $a: W) -> W {
                $body
            }
        }
    )*};
}

unary_ops! {
    /// INC: CF is kept
    Inc = |f, a| { let cf = f.cf(); let r = sum(f, a, W::of(1), 0); f.set_cf(cf); r };
    /// DEC: CF is kept
    Dec = |f, a| { let cf = f.cf(); let r = difference(f, a, W::of(1), 0); f.set_cf(cf); r };
    /// NEG
    Neg = |f, a| difference(f, W::of(0), a, 0);
    /// NOT: no flags
    Not = |_f, a| W::of(!a.zx());
    /// BLSR: CF tells that the source was 0
    Blsr = |f, a| { let r = W::of(a.zx() & a.zx().wrapping_sub(1)); f.result(r, a.zx() == 0, false); r };
    /// BLSMSK: CF tells that the source was 0
    Blsmsk = |f, a| { let r = W::of(a.zx() ^ a.zx().wrapping_sub(1)); f.result(r, a.zx() == 0, false); r };
    /// BLSI: CF tells that the source was not 0
    Blsi = |f, a| { let r = W::of(a.zx() & a.zx().wrapping_neg()); f.result(r, a.zx() != 0, false); r };
    /// POPCNT: ZF from the source, the others clear
    Popcnt = |f, a| { f.set_bits(if a.zx() == 0 { crate::flags::ZF } else { 0 }); W::of(u64::from(a.zx().count_ones())) };
    /// LZCNT: CF tells that the source was 0, ZF that the result is
    Lzcnt = |f, a| { let n = a.zx().leading_zeros() - (64 - W::BITS); f.counted(u64::from(n), a.zx() == 0); W::of(u64::from(n)) };
    /// TZCNT: CF tells that the source was 0, ZF that the result is
    Tzcnt = |f, a| { let n = a.zx().trailing_zeros().min(W::BITS); f.counted(u64::from(n), a.zx() == 0); W::of(u64::from(n)) };
    /// Byte swap (MOVBE, BSWAP): no flags
    Swap = |_f, a| W::of(a.zx().swap_bytes() >> (64 - W::BITS));
}

macro_rules! shifts {
    ($($(#[$doc:meta])* $name:ident = |$f:ident, $a:ident, $n:ident| $body:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl Shift for $name {
            #[inline(always)]
            fn apply<W: Width>($f: &mut Lazy, $a: W, $n: u32) -> W {
                $body
            }
        }
    )*};
}

/// The top bit of a value.
#[inline(always)]
fn top<W: Width>(v: W) -> bool {
    (v.sx() as i64) < 0
}

/// Bit `n` of `v`; 0 from bit 64 on.
#[inline(always)]
fn bit(v: u64, n: u32) -> bool {
    n < 64 && v >> n & 1 != 0
}

shifts! {
    /// SHL; OF is the change of the top bit in the last step, whatever the count
    Shl = |f, a, n| {
        let v = a.zx();
        let r = W::of(if n < 64 { v << n } else { 0 });
        let cf = n <= W::BITS && bit(v, W::BITS - n);
        f.shifted(r, cf, cf != top(r));
        r
    };
    /// SHR; OF as for a count of 1: the top bit of the last step's source
    Shr = |f, a, n| {
        let v = a.zx();
        let r = W::of(if n < 64 { v >> n } else { 0 });
        let cf = bit(v, n - 1);
        f.shifted(r, cf, n == 1 && top(a));
        r
    };
    /// SAR
    Sar = |f, a, n| {
        let v = a.sx() as i64;
        let r = W::of((v >> n.min(63)) as u64);
        f.shifted(r, v >> (n - 1).min(63) & 1 != 0, false);
        r
    };
    /// ROL: CF and OF only
    Rol = |f, a, n| {
        let n = n % W::BITS;
        let v = a.zx();
        let r = W::of(if n == 0 { v } else { v << n | v >> (W::BITS - n) });
        let cf = r.zx() & 1 != 0;
        f.set_cf_of(cf, cf != top(r));
        r
    };
    /// ROR: CF and OF only
    Ror = |f, a, n| {
        let n = n % W::BITS;
        let v = a.zx();
        let r = W::of(if n == 0 { v } else { v >> n | v << (W::BITS - n) });
        f.set_cf_of(top(r), top(r) != bit(r.zx(), W::BITS - 2));
        r
    };
    /// RCL: CF and OF only
    Rcl = |f, a, n| {
        let n = n % (W::BITS + 1);
        let wide = u128::from(a.zx()) | u128::from(f.cf()) << W::BITS;
        let turned = if n == 0 { wide } else { wide << n | wide >> (W::BITS + 1 - n) };
        let r = W::of(turned as u64);
        let cf = turned >> W::BITS & 1 != 0;
        f.set_cf_of(cf, cf != top(r));
        r
    };
    /// RCR: CF and OF only
    Rcr = |f, a, n| {
        let n = n % (W::BITS + 1);
        let wide = u128::from(a.zx()) | u128::from(f.cf()) << W::BITS;
        let turned = if n == 0 { wide } else { wide >> n | wide << (W::BITS + 1 - n) };
        let r = W::of(turned as u64);
        f.set_cf_of(turned >> W::BITS & 1 != 0, top(r) != bit(r.zx(), W::BITS - 2));
        r
    };
}

/// SHLD by 1..=W::BITS-1 (or, for 16 bits, up to 31: the filler repeats).
#[inline(always)]
pub fn shld<W: Width>(f: &mut Lazy, a: W, fill: W, n: u32) -> W {
    // For 64 bits a third copy does not fit, nor is it needed: the count is below 64.
    let (wide, width) = match W::BITS {
        64 => (u128::from(a.zx()) << 64 | u128::from(fill.zx()), 128),
        bits => (u128::from(a.zx()) << (2 * bits) | u128::from(fill.zx()) << bits | u128::from(a.zx()), 3 * bits),
    };
    let r = W::of((wide << n >> (width - W::BITS)) as u64);
    let cf = wide >> (width - n) & 1 != 0;
    f.shifted(r, cf, cf != top(r));
    r
}

/// SHRD by 1..=W::BITS-1 (or, for 16 bits, up to 31: the filler repeats).
#[inline(always)]
pub fn shrd<W: Width>(f: &mut Lazy, a: W, fill: W, n: u32) -> W {
    let wide = u128::from(a.zx()) | u128::from(fill.zx()) << W::BITS | if W::BITS == 64 { 0 } else { u128::from(a.zx()) << (2 * W::BITS) };
    let r = W::of((wide >> n) as u64);
    let cf = wide >> (n - 1) & 1 != 0;
    f.shifted(r, cf, top(r) != bit(r.zx(), W::BITS - 2));
    r
}

/// PDEP.
#[must_use]
pub fn pdep(src: u64, mut mask: u64) -> u64 {
    let (mut r, mut k) = (0, 0);
    while mask != 0 {
        let low = mask & mask.wrapping_neg();
        if src >> k & 1 != 0 {
            r |= low;
        }
        mask ^= low;
        k += 1;
    }
    r
}

/// PEXT.
#[must_use]
pub fn pext(src: u64, mut mask: u64) -> u64 {
    let (mut r, mut k) = (0, 0);
    while mask != 0 {
        let low = mask & mask.wrapping_neg();
        if src & low != 0 {
            r |= 1 << k;
        }
        mask ^= low;
        k += 1;
    }
    r
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit: (value, carry).
    fn shifted_left(a: u64, fill: u64, bits: u32, n: u32) -> (u64, bool) {
        let mask = u64::MAX >> (64 - bits);
        let (mut low, mut r, mut carry) = (fill & mask, a & mask, false);
        for i in 0..n {
            // After all bits of the filler, those of the first operand come again.
            if i == bits {
                low = a & mask;
            }
            carry = r >> (bits - 1) & 1 != 0;
            r = (r << 1 | (low >> (bits - 1) & 1)) & mask;
            low = low << 1 & mask;
        }
        (r, carry)
    }

    fn check<W: Width>(most: u32) {
        let (a, fill) = (0x8123_4567_89ab_cdef, 0x0fed_cba9_7654_3210);
        for n in 1..=most {
            let mut f = Lazy::default();
            let r = shld(&mut f, W::of(a), W::of(fill), n).zx();
            assert_eq!((r, f.cf()), shifted_left(a, fill, W::BITS, n), "{} bits by {n}", W::BITS);
        }
    }

    #[test]
    fn double_shifts_of_all_widths() {
        check::<u16>(31);
        check::<u32>(31);
        check::<u64>(63);
    }
}
