//! Numbers with 128 significant bits: the intermediate results of the x87's transcendental functions.
//!
//! An operation is off by at most about one unit in the last place, so that dozens of them leave the 64 bits of a result
//! correctly rounded except in cases closer to a tie than about 2^-55 of a unit.

use super::{Env, F80, Format, Unpacked, round_pack};

/// (-1)^sign x significand / 2^127 x 2^exponent; the significand is normalised (bit 127 set) or zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wide {
    /// Set for negative values.
    pub sign: bool,
    /// Exponent of the leading bit.
    pub exponent: i32,
    /// Bit 127 leads; 0 is zero.
    pub significand: u128,
}

/// The upper half of the 256-bit product.
#[inline]
#[must_use]
pub const fn mul_high(a: u128, b: u128) -> u128 {
    let (ah, al) = (a >> 64, a as u64 as u128);
    let (bh, bl) = (b >> 64, b as u64 as u128);
    let low = al * bl;
    let (cross_a, cross_b) = (ah * bl, al * bh);
    let middle = (low >> 64) + (cross_a as u64 as u128) + (cross_b as u64 as u128);
    ah * bh + (cross_a >> 64) + (cross_b >> 64) + (middle >> 64)
}

/// One 64-bit digit of `remainder / divisor` (remainder < divisor, divisor normalised), and what remains.
fn quotient_digit(remainder: u128, divisor: u128) -> (u64, u128) {
    let high = divisor >> 64;
    let low = u128::from(divisor as u64);
    let mut digit = (remainder / high).min(u128::from(u64::MAX));
    let mut rest = remainder - digit * high;
    let mut product = digit * low;
    // The estimate is at most two too large.
    while rest >> 64 == 0 && (rest << 64) < product {
        digit -= 1;
        rest += high;
        product -= low;
    }
    (digit as u64, (rest << 64).wrapping_sub(product))
}

impl Wide {
    /// Zero.
    pub const ZERO: Self = Self { sign: false, exponent: 0, significand: 0 };
    /// One.
    pub const ONE: Self = Self::positive(0, 1 << 127);

    /// The number with this exponent and normalised significand.
    #[must_use]
    pub const fn positive(exponent: i32, significand: u128) -> Self {
        Self { sign: false, exponent, significand }
    }

    /// `significand` / 2^127 x 2^exponent, whatever its leading bit.
    #[must_use]
    pub fn normalised(sign: bool, exponent: i32, significand: u128) -> Self {
        if significand == 0 {
            return Self::ZERO;
        }
        let shift = significand.leading_zeros();
        Self { sign, exponent: exponent - shift as i32, significand: significand << shift }
    }

    /// An integer.
    #[must_use]
    pub fn integer(value: i64) -> Self {
        Self::normalised(value < 0, 127, u128::from(value.unsigned_abs()))
    }

    /// A finite value of a format, exactly.
    #[must_use]
    pub fn exactly(value: &Unpacked) -> Self {
        Self::normalised(value.sign, value.exponent, u128::from(value.significand) << 64)
    }

    /// Zero.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.significand == 0
    }

    /// The value with the other sign.
    #[must_use]
    pub const fn negated(self) -> Self {
        Self { sign: !self.sign, ..self }
    }

    /// The value, negated if `sign`.
    #[must_use]
    pub const fn with_sign(self, sign: bool) -> Self {
        Self { sign, ..self }
    }

    /// The value times 2^count.
    #[must_use]
    pub const fn scaled(self, count: i32) -> Self {
        Self { exponent: self.exponent + count, ..self }
    }

    /// `self + other`.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        if self.is_zero() {
            return other;
        }
        if other.is_zero() {
            return self;
        }
        let (a, b) = if self.exponent >= other.exponent { (self, other) } else { (other, self) };
        let distance = (a.exponent - b.exponent) as u32;
        let aligned = b.significand.checked_shr(distance).unwrap_or(0);
        if a.sign == b.sign {
            let (sum, carry) = a.significand.overflowing_add(aligned);
            return if carry {
                Self { exponent: a.exponent + 1, significand: sum >> 1 | 1 << 127, ..a }
            } else {
                Self { significand: sum, ..a }
            };
        }
        if a.significand >= aligned {
            Self::normalised(a.sign, a.exponent, a.significand - aligned)
        } else {
            Self::normalised(b.sign, a.exponent, aligned - a.significand)
        }
    }

    /// `self - other`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.plus(other.negated())
    }

    /// `self * other`.
    #[must_use]
    pub fn times(self, other: Self) -> Self {
        Self::normalised(self.sign ^ other.sign, self.exponent + other.exponent + 1, mul_high(self.significand, other.significand))
    }

    /// `self / other`; `other` is not zero.
    #[must_use]
    pub fn over(self, other: Self) -> Self {
        let (remainder, exponent) = if self.significand < other.significand {
            (self.significand, self.exponent - other.exponent - 1)
        } else {
            (self.significand >> 1, self.exponent - other.exponent)
        };
        let (high, rest) = quotient_digit(remainder, other.significand);
        let (low, _) = quotient_digit(rest, other.significand);
        Self::normalised(self.sign ^ other.sign, exponent, u128::from(high) << 64 | u128::from(low))
    }

    /// The magnitude of a number below 1 in units of 2^-128.
    #[must_use]
    pub fn fraction(self) -> u128 {
        debug_assert!(self.is_zero() || self.exponent < 0);
        self.significand.checked_shr((-1 - self.exponent) as u32).unwrap_or(0)
    }

    /// The value in the 80-bit format, rounded to all its 64 bits. An inexact number (the usual case) never looks exact.
    pub fn round(self, exact: bool, env: &mut Env) -> F80 {
        if self.is_zero() {
            return F80::zero(self.sign);
        }
        let tail = self.significand as u64 | u64::from(!exact);
        let high = (self.significand >> 64) as u64;
        round_pack::<F80>(self.sign, self.exponent, high, tail, F80::PRECISION, env)
    }
}

/// c\[0\] -+ t (c\[1\] -+ t (c\[2\] ...)): coefficients and result in units of 2^-127, `t` of 2^-128.
#[must_use]
pub fn polynomial(coefficients: &[u128], t: u128, alternating: bool) -> u128 {
    coefficients.iter().rev().fold(0, |sum, &coefficient| {
        let term = mul_high(sum, t);
        if alternating { coefficient - term } else { coefficient + term }
    })
}
