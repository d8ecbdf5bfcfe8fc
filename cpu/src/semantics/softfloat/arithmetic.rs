//! Addition, multiplication, division, square root and the fused multiply-add.

use super::{Class, Env, Exceptions, Format, Rounding, Unpacked, invalid, operand, propagate_nan, round_pack};

#[inline]
fn note_denormals(operands: &[&Unpacked], env: &mut Env) {
    if operands.iter().any(|o| o.class == Class::Denormal) {
        env.raise(Exceptions::DENORMAL);
    }
}

/// `a + b`.
#[inline]
pub fn add<F: Format>(a: F::Bits, b: F::Bits, env: &mut Env) -> F::Bits {
    add_signed::<F>(a, b, false, env)
}

/// `a - b`.
#[inline]
pub fn sub<F: Format>(a: F::Bits, b: F::Bits, env: &mut Env) -> F::Bits {
    add_signed::<F>(a, b, true, env)
}

fn add_signed<F: Format>(a: F::Bits, b: F::Bits, negate: bool, env: &mut Env) -> F::Bits {
    let a = operand::<F>(a, env);
    let mut b = operand::<F>(b, env);
    if a.class != Class::Normal || b.class != Class::Normal {
        if a.class.is_nan() || b.class.is_nan() {
            return propagate_nan::<F>(&[a, b], env);
        }
        b.sign ^= negate;
        if a.class == Class::Infinity || b.class == Class::Infinity {
            if a.class == b.class && a.sign != b.sign {
                return invalid::<F>(env);
            }
            note_denormals(&[&a, &b], env);
            let infinite = if a.class == Class::Infinity { a } else { b };
            return F::infinity(infinite.sign);
        }
        note_denormals(&[&a, &b], env);
        let precision = F::arithmetic_precision(env);
        match (a.class, b.class) {
            (Class::Zero, Class::Zero) => {
                let sign = if a.sign == b.sign { a.sign } else { env.rounding == Rounding::Down };
                return F::zero(sign);
            }
            (Class::Zero, _) => {
                return round_pack::<F>(b.sign, b.exponent, b.significand, 0, precision, env);
            }
            (_, Class::Zero) => {
                return round_pack::<F>(a.sign, a.exponent, a.significand, 0, precision, env);
            }
            _ => {}
        }
    } else {
        b.sign ^= negate;
    }
    let precision = F::arithmetic_precision(env);
    let sum = sum_wide((a.sign, a.exponent, u128::from(a.significand) << 63), (b.sign, b.exponent, u128::from(b.significand) << 63));
    match sum {
        Some((sign, exponent, s)) => round_pack::<F>(sign, exponent, (s >> 64) as u64, s as u64, precision, env),
        None => F::zero(env.rounding == Rounding::Down),
    }
}

/// The sum of two numbers whose significands lead in bit 126; its own leads in bit 127. `None` is an exact zero.
#[inline]
fn sum_wide(a: (bool, i32, u128), b: (bool, i32, u128)) -> Option<(bool, i32, u128)> {
    let (a, b) = if a.1 >= b.1 { (a, b) } else { (b, a) };
    let distance = (a.1 - b.1) as u32;
    let aligned = if distance < 127 {
        let lost = b.2 & ((1 << distance) - 1) != 0;
        b.2 >> distance | u128::from(lost)
    } else {
        1
    };
    let (sign, sum) = if a.0 == b.0 {
        (a.0, a.2 + aligned)
    } else if a.2 >= aligned {
        (a.0, a.2 - aligned)
    } else {
        (b.0, aligned - a.2)
    };
    if sum == 0 {
        return None;
    }
    let shift = sum.leading_zeros();
    Some((sign, a.1 + 1 - shift as i32, sum << shift))
}

/// `a * b`.
pub fn mul<F: Format>(a: F::Bits, b: F::Bits, env: &mut Env) -> F::Bits {
    let a = operand::<F>(a, env);
    let b = operand::<F>(b, env);
    let sign = a.sign ^ b.sign;
    if a.class != Class::Normal || b.class != Class::Normal {
        if a.class.is_nan() || b.class.is_nan() {
            return propagate_nan::<F>(&[a, b], env);
        }
        if a.class == Class::Infinity || b.class == Class::Infinity {
            if a.class == Class::Zero || b.class == Class::Zero {
                return invalid::<F>(env);
            }
            note_denormals(&[&a, &b], env);
            return F::infinity(sign);
        }
        note_denormals(&[&a, &b], env);
        if a.class == Class::Zero || b.class == Class::Zero {
            return F::zero(sign);
        }
    }
    let product = u128::from(a.significand) * u128::from(b.significand);
    let shift = product.leading_zeros();
    let product = product << shift;
    let precision = F::arithmetic_precision(env);
    let exponent = a.exponent + b.exponent + 1 - shift as i32;
    let (high, low) = ((product >> 64) as u64, product as u64);
    round_pack::<F>(sign, exponent, high, low, precision, env)
}

/// `a / b`.
pub fn div<F: Format>(a: F::Bits, b: F::Bits, env: &mut Env) -> F::Bits {
    let a = operand::<F>(a, env);
    let b = operand::<F>(b, env);
    let sign = a.sign ^ b.sign;
    if a.class != Class::Normal || b.class != Class::Normal {
        if a.class.is_nan() || b.class.is_nan() {
            return propagate_nan::<F>(&[a, b], env);
        }
        match (a.class, b.class) {
            (Class::Infinity, Class::Infinity) | (Class::Zero, Class::Zero) => {
                return invalid::<F>(env);
            }
            (Class::Infinity, _) => {
                note_denormals(&[&b], env);
                return F::infinity(sign);
            }
            (_, Class::Zero) => {
                env.raise(Exceptions::ZERO_DIVIDE);
                return F::infinity(sign);
            }
            (_, Class::Infinity) | (Class::Zero, _) => {
                note_denormals(&[&a, &b], env);
                return F::zero(sign);
            }
            _ => note_denormals(&[&a, &b], env),
        }
    }
    let (x, y) = (u128::from(a.significand), u128::from(b.significand));
    let (shift, exponent) = if x < y { (64, a.exponent - b.exponent - 1) } else { (63, a.exponent - b.exponent) };
    let dividend = x << shift;
    let quotient = dividend / y;
    let remainder = dividend - quotient * y;
    let tail = match (2 * remainder).cmp(&y) {
        _ if remainder == 0 => 0,
        core::cmp::Ordering::Less => 1,
        core::cmp::Ordering::Equal => 1 << 63,
        core::cmp::Ordering::Greater => (1 << 63) | 1,
    };
    let precision = F::arithmetic_precision(env);
    round_pack::<F>(sign, exponent, quotient as u64, tail, precision, env)
}

/// The square root of `a`.
pub fn sqrt<F: Format>(a: F::Bits, env: &mut Env) -> F::Bits {
    let a = operand::<F>(a, env);
    match a.class {
        Class::Zero => return F::zero(a.sign),
        Class::Infinity if !a.sign => return F::infinity(false),
        class if class.is_nan() => return propagate_nan::<F>(&[a], env),
        _ if a.sign => return invalid::<F>(env),
        _ => note_denormals(&[&a], env),
    }
    // The radicand leads in bit 127 or 126, so that the root has 64 bits; an even exponent halves exactly.
    let radicand = u128::from(a.significand) << if a.exponent & 1 == 0 { 63 } else { 64 };
    let root = radicand.isqrt();
    let remainder = radicand - root * root;
    let tail = if remainder == 0 {
        0
    } else if remainder > root {
        (1 << 63) | 1
    } else {
        1
    };
    let precision = F::arithmetic_precision(env);
    round_pack::<F>(false, a.exponent >> 1, root as u64, tail, precision, env)
}

/// `a * b + c`, rounded once; `negate` tells whether the signs of the product and of `c` are changed. `F` is [`F32`](super::F32) or [`F64`](super::F64): their products fit the intermediate exactly.
pub fn mul_add<F: Format>(a: F::Bits, b: F::Bits, c: F::Bits, negate: (bool, bool), env: &mut Env) -> F::Bits {
    let a = operand::<F>(a, env);
    let b = operand::<F>(b, env);
    let mut c = operand::<F>(c, env);
    let sign = a.sign ^ b.sign ^ negate.0;
    let infinite = a.class == Class::Infinity || b.class == Class::Infinity;
    let zero = a.class == Class::Zero || b.class == Class::Zero;
    if a.class.is_nan() || b.class.is_nan() || c.class.is_nan() {
        return propagate_nan::<F>(&[a, b, c], env);
    }
    c.sign ^= negate.1;
    if infinite && (zero || (c.class == Class::Infinity && c.sign != sign)) {
        return invalid::<F>(env);
    }
    note_denormals(&[&a, &b, &c], env);
    if infinite {
        return F::infinity(sign);
    }
    if c.class == Class::Infinity {
        return F::infinity(c.sign);
    }
    if zero {
        if c.class != Class::Zero {
            return round_pack::<F>(c.sign, c.exponent, c.significand, 0, F::PRECISION, env);
        }
        let exact = if sign == c.sign { sign } else { env.rounding == Rounding::Down };
        return F::zero(exact);
    }
    let product = u128::from(a.significand) * u128::from(b.significand);
    let shift = product.leading_zeros();
    let product = (sign, a.exponent + b.exponent + 1 - shift as i32, (product << shift) >> 1);
    let sum = if c.class == Class::Zero {
        Some((product.0, product.1, product.2 << 1))
    } else {
        sum_wide(product, (c.sign, c.exponent, u128::from(c.significand) << 63))
    };
    match sum {
        Some((sign, exponent, s)) => round_pack::<F>(sign, exponent, (s >> 64) as u64, s as u64, F::PRECISION, env),
        None => F::zero(env.rounding == Rounding::Down),
    }
}
