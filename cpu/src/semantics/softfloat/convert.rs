//! Comparison, conversion between formats, and integers.

use super::round::rounds_up;
use super::{
    Class, Env, Exceptions, Format, Ordering4, Rounding, Unpacked, operand, propagate_nan,
    round_pack,
};
use core::cmp::Ordering;

/// Compares `a` with `b`. A quiet NaN raises INVALID unless `quiet` (UCOMISS, FUCOM) is set.
pub fn compare<F: Format>(a: F::Bits, b: F::Bits, quiet: bool, env: &mut Env) -> Ordering4 {
    let a = operand::<F>(a, env);
    let b = operand::<F>(b, env);
    if a.class.is_nan() || b.class.is_nan() {
        if !quiet || a.class > Class::QuietNan || b.class > Class::QuietNan {
            env.raise(Exceptions::INVALID);
        }
        return Ordering4::Unordered;
    }
    if a.class == Class::Denormal || b.class == Class::Denormal {
        env.raise(Exceptions::DENORMAL);
    }
    match order_key(&a).cmp(&order_key(&b)) {
        Ordering::Less => Ordering4::Less,
        Ordering::Equal => Ordering4::Equal,
        Ordering::Greater => Ordering4::Greater,
    }
}

/// An integer in the same order as the values.
fn order_key(value: &Unpacked) -> i128 {
    if value.class == Class::Zero {
        return 0;
    }
    // No exponent is below -16445, so the sum is positive.
    let magnitude = i128::from(value.exponent + 0x8000) << 64 | i128::from(value.significand);
    if value.sign { -magnitude } else { magnitude }
}

/// `a` in the format `To`.
pub fn convert<From: Format, To: Format>(a: From::Bits, env: &mut Env) -> To::Bits {
    let a = operand::<From>(a, env);
    match a.class {
        Class::Zero => return To::zero(a.sign),
        Class::Infinity => return To::infinity(a.sign),
        class if class.is_nan() => return propagate_nan::<To>(&[a], env),
        // FST does not report a denormal register, whose single or double is tiny anyway.
        Class::Denormal if !From::X87 => env.raise(Exceptions::DENORMAL),
        _ => {}
    }
    round_pack::<To>(a.sign, a.exponent, a.significand, 0, To::PRECISION, env)
}

/// `a` rounded to an integral value. `suppress_precision`: an inexact result raises nothing (ROUNDPS immediate bit 3).
pub fn round_to_int<F: Format>(
    a: F::Bits,
    rounding: Rounding,
    suppress_precision: bool,
    env: &mut Env,
) -> F::Bits {
    let bits = a;
    let a = operand::<F>(a, env);
    match a.class {
        Class::Zero => return F::zero(a.sign),
        Class::Infinity => return F::infinity(a.sign),
        class if class.is_nan() => return propagate_nan::<F>(&[a], env),
        Class::Denormal if F::X87 => env.raise(Exceptions::DENORMAL),
        _ => {}
    }
    if a.exponent >= F::PRECISION as i32 - 1 {
        return bits;
    }
    let (integer, rest) = integer_part(&a);
    let up = rounds_up(rounding, a.sign, integer & 1 != 0, rest);
    if rest != 0 && !suppress_precision {
        env.raise(Exceptions::PRECISION);
        env.rounded_up = up;
    }
    pack_integer::<F>(a.sign, integer + u64::from(up))
}

/// The integer part of a finite number below 2^64, and the fraction of 2^64 that remains (sticky in bit 0).
fn integer_part(a: &Unpacked) -> (u64, u64) {
    match a.exponent {
        63 => (a.significand, 0),
        0..63 => (
            a.significand >> (63 - a.exponent),
            a.significand << (a.exponent + 1),
        ),
        -1 => (0, a.significand),
        _ => (0, 1),
    }
}

/// An integer that `F` holds exactly.
fn pack_integer<F: Format>(sign: bool, magnitude: u64) -> F::Bits {
    if magnitude == 0 {
        return F::zero(sign);
    }
    let shift = magnitude.leading_zeros() as i32;
    F::assemble(sign, (63 - shift + F::BIAS) as u32, magnitude << shift)
}

/// `a` as a signed integer of `bits` bits, or the most negative one with INVALID where it does not fit.
fn to_int<F: Format>(a: F::Bits, bits: u32, truncate: bool, env: &mut Env) -> i64 {
    let indefinite = i64::MIN >> (64 - bits);
    let a = operand::<F>(a, env);
    if a.class == Class::Zero {
        return 0;
    }
    if a.class >= Class::Infinity || a.exponent > 63 {
        env.raise(Exceptions::INVALID);
        return indefinite;
    }
    let (integer, rest) = integer_part(&a);
    let rounding = if truncate {
        Rounding::Zero
    } else {
        env.rounding
    };
    let up = rounds_up(rounding, a.sign, integer & 1 != 0, rest);
    // Only an integer part below 2^63 has a fraction to round.
    let magnitude = integer + u64::from(up);
    if magnitude > (1 << (bits - 1)) - u64::from(!a.sign) {
        env.raise(Exceptions::INVALID);
        return indefinite;
    }
    if rest != 0 {
        env.raise(Exceptions::PRECISION);
        env.rounded_up = up;
    }
    if a.sign {
        (magnitude as i64).wrapping_neg()
    } else {
        magnitude as i64
    }
}

/// `a` as a 16-bit integer; 0x8000 and INVALID where it does not fit.
pub fn to_i16<F: Format>(a: F::Bits, truncate: bool, env: &mut Env) -> i16 {
    to_int::<F>(a, 16, truncate, env) as i16
}

/// `a` as a 32-bit integer; 0x8000_0000 and INVALID where it does not fit.
pub fn to_i32<F: Format>(a: F::Bits, truncate: bool, env: &mut Env) -> i32 {
    to_int::<F>(a, 32, truncate, env) as i32
}

/// `a` as a 64-bit integer; 0x8000_0000_0000_0000 and INVALID where it does not fit.
pub fn to_i64<F: Format>(a: F::Bits, truncate: bool, env: &mut Env) -> i64 {
    to_int::<F>(a, 64, truncate, env)
}

/// `v` in the format `F`.
pub fn from_i32<F: Format>(v: i32, env: &mut Env) -> F::Bits {
    from_i64::<F>(i64::from(v), env)
}

/// `v` in the format `F`.
pub fn from_i64<F: Format>(v: i64, env: &mut Env) -> F::Bits {
    from_magnitude::<F>(v < 0, v.unsigned_abs(), env)
}

/// `v` in the format `F`.
pub fn from_u64<F: Format>(v: u64, env: &mut Env) -> F::Bits {
    from_magnitude::<F>(false, v, env)
}

fn from_magnitude<F: Format>(sign: bool, magnitude: u64, env: &mut Env) -> F::Bits {
    if magnitude == 0 {
        return F::zero(false);
    }
    let shift = magnitude.leading_zeros();
    round_pack::<F>(
        sign,
        63 - shift as i32,
        magnitude << shift,
        0,
        F::PRECISION,
        env,
    )
}
