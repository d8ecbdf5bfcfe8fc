//! Rounding: from an exact (or sticky) intermediate result to a format.

use super::{Env, Exceptions, Format, Rounding};

/// Half a unit in the last place, in the scale of the discarded bits.
const HALF: u64 = 1 << 63;

/// How far x87 wraps the exponent of an unmasked overflow or underflow (SDM 1, 8.5.4).
const WRAP: i32 = 24576;

/// Whether the magnitude goes up; `rest` is the discarded part as a fraction of 2^64, `odd` the kept part's last bit.
#[inline]
pub(super) fn rounds_up(rounding: Rounding, sign: bool, odd: bool, rest: u64) -> bool {
    match rounding {
        Rounding::Nearest => rest > HALF || (rest == HALF && odd),
        Rounding::Down => sign && rest != 0,
        Rounding::Up => !sign && rest != 0,
        Rounding::Zero => false,
    }
}

/// (`value`, `tail`) shifted right by `count`, what falls off kept as a sticky bit.
#[inline]
fn shift_right_sticky(value: u64, tail: u64, count: u32) -> (u64, u64) {
    match count {
        0 => (value, tail),
        1..64 => {
            let moved = value << (64 - count) | tail >> count;
            let lost = tail << (64 - count) != 0;
            (value >> count, moved | u64::from(lost))
        }
        64 => (0, value | u64::from(tail != 0)),
        _ => (0, u64::from(value | tail != 0)),
    }
}

/// The significand rounded to `precision` bits (left-aligned): the kept bits, the carry out, and the discarded part.
#[inline]
fn split(significand: u64, tail: u64, precision: u32, sign: bool, rounding: Rounding) -> (u64, bool, u64, bool) {
    let step = 1u64 << (64 - precision);
    let kept = significand & !(step - 1);
    let rest = if precision == 64 { tail } else { significand << precision | u64::from(tail != 0) };
    let up = rounds_up(rounding, sign, kept & step != 0, rest);
    let (kept, carry) = kept.overflowing_add(if up { step } else { 0 });
    (kept, carry, rest, up)
}

/// The encoding of (-1)^sign x (significand + tail / 2^64) / 2^63 x 2^exponent, rounded to `precision` bits.
///
/// `significand` has bit 63 set; `tail` may be any stand-in that is in the same relation to 0 and to one half.
#[inline]
pub(crate) fn round_pack<F: Format>(sign: bool, exponent: i32, significand: u64, tail: u64, precision: u32, env: &mut Env) -> F::Bits {
    debug_assert!(significand >> 63 == 1);
    if exponent < F::EMIN {
        return round_tiny::<F>(sign, exponent, significand, tail, precision, env);
    }
    let (kept, carry, rest, up) = split(significand, tail, precision, sign, env.rounding);
    let (kept, exponent) = if carry { (1 << 63, exponent + 1) } else { (kept, exponent) };
    if exponent > F::BIAS {
        return overflow::<F>(sign, exponent, kept, rest, up, precision, env);
    }
    if rest != 0 {
        env.raise(Exceptions::PRECISION);
        env.rounded_up = up;
    }
    F::assemble(sign, (exponent + F::BIAS) as u32, kept)
}

#[cold]
fn overflow<F: Format>(sign: bool, exponent: i32, kept: u64, rest: u64, up: bool, precision: u32, env: &mut Env) -> F::Bits {
    env.raise(Exceptions::OVERFLOW);
    if !env.masked.contains(Exceptions::OVERFLOW) {
        if rest != 0 {
            env.raise(Exceptions::PRECISION);
            env.rounded_up = up;
        }
        let wrapped = exponent - WRAP;
        if F::X87 && wrapped <= F::BIAS {
            return F::assemble(sign, (wrapped + F::BIAS) as u32, kept);
        }
        // Beyond what wrapping can hold (FSCALE): an infinity, which is not exact.
        if F::X87 {
            env.raise(Exceptions::PRECISION);
            env.rounded_up = true;
        }
        return F::infinity(sign);
    }
    env.raise(Exceptions::PRECISION);
    env.rounded_up = match env.rounding {
        Rounding::Nearest => true,
        Rounding::Down => sign,
        Rounding::Up => !sign,
        Rounding::Zero => false,
    };
    if env.rounded_up {
        F::infinity(sign)
    } else {
        let largest = !((1u64 << (64 - precision)) - 1);
        F::assemble(sign, 2 * F::BIAS as u32, largest)
    }
}

#[cold]
fn round_tiny<F: Format>(sign: bool, exponent: i32, significand: u64, tail: u64, precision: u32, env: &mut Env) -> F::Bits {
    // Tininess is detected after rounding as though the exponent had no bounds.
    let (unbounded, carry, rest, up) = split(significand, tail, precision, sign, env.rounding);
    let tiny = exponent < F::EMIN - 1 || !carry;
    let masked = env.masked.contains(Exceptions::UNDERFLOW);
    if tiny && !masked {
        env.raise(Exceptions::UNDERFLOW);
        if rest != 0 {
            env.raise(Exceptions::PRECISION);
            env.rounded_up = up;
        }
        let (kept, wrapped) = if carry { (1 << 63, exponent + 1 + WRAP) } else { (unbounded, exponent + WRAP) };
        if F::X87 && wrapped >= F::EMIN {
            return F::assemble(sign, (wrapped + F::BIAS) as u32, kept);
        }
        if F::X87 {
            env.raise(Exceptions::PRECISION);
            env.rounded_up = false;
        }
        return F::zero(sign);
    }
    if tiny && env.ftz {
        env.raise(Exceptions::UNDERFLOW | Exceptions::PRECISION);
        return F::zero(sign);
    }
    let shift = F::EMIN.saturating_sub(exponent) as u32;
    let (shifted, tail) = shift_right_sticky(significand, tail, shift);
    let (kept, _, rest, up) = split(shifted, tail, precision, sign, env.rounding);
    if rest != 0 {
        env.raise(Exceptions::PRECISION);
        env.rounded_up = up;
    }
    if tiny && rest != 0 {
        env.raise(Exceptions::UNDERFLOW);
    }
    F::assemble(sign, (kept >> 63) as u32, kept)
}
