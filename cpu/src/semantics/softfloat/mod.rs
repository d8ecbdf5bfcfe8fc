//! IEEE 754 binary floating point in integers, as x86 defines it: the same code for SSE singles and doubles and for the
//! x87's 80-bit format. The host's floating-point unit is never asked, so a result is the same on every host.
//!
//! A function returns its *masked* result and adds what happened to [`Env::raised`]. Whether an unmasked exception keeps
//! the result from being written is the caller's matter: `env.raised & !env.masked`. (SDM 1, 4.8, 4.9, 8.5 and 11.5.)

#![forbid(unsafe_code)]

mod arithmetic;
mod convert;
mod round;
pub mod wide;

#[cfg(test)]
mod tests;

pub use arithmetic::{add, div, mul, mul_add, sqrt, sub};
pub use convert::{compare, convert, from_i32, from_i64, from_u64, round_to_int, to_i16, to_i32, to_i64};
pub(crate) use round::round_pack;

use serde::{Deserialize, Serialize};

/// The rounding direction, numbered as in MXCSR.RC and the x87 control word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rounding {
    /// To the nearest, ties to even.
    #[default]
    Nearest = 0,
    /// Toward minus infinity.
    Down = 1,
    /// Toward plus infinity.
    Up = 2,
    /// Toward zero.
    Zero = 3,
}

impl Rounding {
    /// The direction that the two bits of an RC field (or of a ROUNDPS immediate) name.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::Nearest,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Zero,
        }
    }
}

bitflags::bitflags! {
    /// The six exceptions, in the bit order of MXCSR and of the x87 status and control words.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Exceptions: u8 {
        /// Invalid operation.
        const INVALID = 1;
        /// Denormal operand.
        const DENORMAL = 2;
        /// Division of a finite number by zero.
        const ZERO_DIVIDE = 4;
        /// The result is too large for the format.
        const OVERFLOW = 8;
        /// The result is tiny.
        const UNDERFLOW = 16;
        /// The result is not exact.
        const PRECISION = 32;
    }
}

/// The x87 precision control: how many significant bits add, subtract, multiply, divide and square root keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Precision {
    /// 24 bits.
    Single,
    /// 53 bits.
    Double,
    /// 64 bits.
    #[default]
    Extended,
}

impl Precision {
    const fn bits(self) -> u32 {
        match self {
            Self::Single => 24,
            Self::Double => 53,
            Self::Extended => 64,
        }
    }
}

/// The control register an operation runs under, and what it reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Env {
    /// Direction of rounding.
    pub rounding: Rounding,
    /// Denormal operands count as zeros (SSE).
    pub daz: bool,
    /// Tiny results become zeros while underflow is masked (SSE).
    pub ftz: bool,
    /// Precision control; it acts on [`F80`] only.
    pub precision: Precision,
    /// The masked exceptions.
    pub masked: Exceptions,
    /// What happened, accumulated.
    pub raised: Exceptions,
    /// The last inexact result was rounded away from zero (x87 C1).
    pub rounded_up: bool,
}

impl Default for Env {
    fn default() -> Self {
        Self {
            rounding: Rounding::Nearest,
            daz: false,
            ftz: false,
            precision: Precision::Extended,
            masked: Exceptions::all(),
            raised: Exceptions::empty(),
            rounded_up: false,
        }
    }
}

impl Env {
    /// The environment that MXCSR describes, with nothing raised yet.
    #[must_use]
    pub const fn from_mxcsr(mxcsr: u32) -> Self {
        Self {
            rounding: Rounding::from_bits(mxcsr >> 13),
            daz: mxcsr & (1 << 6) != 0,
            ftz: mxcsr & (1 << 15) != 0,
            precision: Precision::Extended,
            masked: Exceptions::from_bits_truncate((mxcsr >> 7) as u8 & 0x3f),
            raised: Exceptions::empty(),
            rounded_up: false,
        }
    }

    /// The exceptions that were raised and are not masked.
    #[inline]
    #[must_use]
    pub fn unmasked(&self) -> Exceptions {
        self.raised & !self.masked
    }

    /// What the status register shows: an unmasked exception of the operands keeps those of the result from arising.
    #[inline]
    #[must_use]
    pub fn reported(&self) -> Exceptions {
        let before = Exceptions::INVALID | Exceptions::DENORMAL | Exceptions::ZERO_DIVIDE;
        if self.unmasked().intersects(before) { self.raised & before } else { self.raised }
    }

    #[inline]
    pub(crate) fn raise(&mut self, exceptions: Exceptions) {
        self.raised |= exceptions;
    }
}

/// What a value is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// Plus or minus zero.
    Zero,
    /// A normal number.
    Normal,
    /// A denormal (or an 80-bit pseudo-denormal).
    Denormal,
    /// Plus or minus infinity.
    Infinity,
    /// A quiet NaN.
    QuietNan,
    /// A signaling NaN.
    SignalingNan,
    /// An 80-bit encoding without a meaning: unnormal, pseudo-infinity, pseudo-NaN.
    Unsupported,
}

impl Class {
    /// A NaN, or an encoding treated as one.
    #[inline]
    #[must_use]
    pub fn is_nan(self) -> bool {
        self >= Self::QuietNan
    }
}

/// The result of a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ordering4 {
    /// The first operand is the smaller one.
    Less,
    /// Equal; zeros are equal whatever their signs.
    Equal,
    /// The first operand is the greater one.
    Greater,
    /// At least one operand is a NaN.
    Unordered,
}

/// A value taken apart: (-1)^sign x significand / 2^63 x 2^exponent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unpacked {
    /// What it is.
    pub class: Class,
    /// Set for negative values.
    pub sign: bool,
    /// The unbiased exponent of the leading bit of a finite value.
    pub exponent: i32,
    /// Bit 63 is the leading bit of a finite value other than zero. Of a NaN: the fraction below a set bit 63.
    pub significand: u64,
}

/// A binary interchange format of x86.
pub trait Format: Copy + 'static {
    /// The encoded value.
    type Bits: Copy + PartialEq + Eq + core::fmt::Debug;
    /// Significant bits, the integer bit included.
    const PRECISION: u32;
    /// Exponent bias, which is also the greatest exponent.
    const BIAS: i32;
    /// The x87's register format: precision control, its NaN rule and its wrapped unmasked results apply.
    const X87: bool;
    /// The least exponent of a normal number.
    const EMIN: i32 = 1 - Self::BIAS;

    /// Takes `bits` apart.
    fn unpack(bits: Self::Bits) -> Unpacked;

    /// The encoding of a biased exponent and a left-aligned significand (bit 63 is the integer bit) without rounding.
    fn assemble(sign: bool, biased: u32, significand: u64) -> Self::Bits;

    /// Significant bits an arithmetic operation keeps.
    #[inline]
    fn arithmetic_precision(_env: &Env) -> u32 {
        Self::PRECISION
    }

    /// A zero.
    #[inline]
    #[must_use]
    fn zero(sign: bool) -> Self::Bits {
        Self::assemble(sign, 0, 0)
    }

    /// An infinity.
    #[inline]
    #[must_use]
    fn infinity(sign: bool) -> Self::Bits {
        Self::assemble(sign, 2 * Self::BIAS as u32 + 1, 1 << 63)
    }

    /// The NaN that a masked invalid operation yields.
    #[inline]
    #[must_use]
    fn indefinite() -> Self::Bits {
        Self::assemble(true, 2 * Self::BIAS as u32 + 1, 3 << 62)
    }

    /// The quiet NaN with the payload of `nan`.
    #[inline]
    #[must_use]
    fn quieted(nan: &Unpacked) -> Self::Bits {
        Self::assemble(nan.sign, 2 * Self::BIAS as u32 + 1, nan.significand | (3 << 62))
    }
}

/// Half precision, of which there are only conversions.
#[derive(Clone, Copy, Debug)]
pub struct F16;

/// Single precision; the bits are those of `f32::to_bits`.
#[derive(Clone, Copy, Debug)]
pub struct F32;

/// Double precision; the bits are those of `f64::to_bits`.
#[derive(Clone, Copy, Debug)]
pub struct F64;

/// The x87's double extended precision.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct F80 {
    /// The significand; bit 63 is the explicit integer bit.
    pub mantissa: u64,
    /// Bit 15: sign. Bits 14..0: exponent, biased by 16383.
    pub sign_exponent: u16,
}

impl F80 {
    /// The value in its ten little-endian bytes.
    #[must_use]
    pub fn from_le_bytes(bytes: [u8; 10]) -> Self {
        let [m @ .., e0, e1] = bytes;
        Self { mantissa: u64::from_le_bytes(m), sign_exponent: u16::from_le_bytes([e0, e1]) }
    }

    /// The ten bytes that FSTP m80 writes.
    #[must_use]
    pub fn to_le_bytes(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.mantissa.to_le_bytes());
        bytes[8..].copy_from_slice(&self.sign_exponent.to_le_bytes());
        bytes
    }
}

#[inline]
const fn finite(sign: bool, exponent: i32, significand: u64, class: Class) -> Unpacked {
    Unpacked { class, sign, exponent, significand }
}

/// Takes apart a format with an implicit integer bit: `fraction` is left-aligned below bit 63.
#[inline]
fn unpack_implicit<F: Format>(sign: bool, biased: i32, fraction: u64) -> Unpacked {
    if biased != 0 && biased != 2 * F::BIAS + 1 {
        return finite(sign, biased - F::BIAS, fraction | 1 << 63, Class::Normal);
    }
    if biased != 0 {
        let class = match (fraction, fraction >> 62) {
            (0, _) => Class::Infinity,
            (_, 0) => Class::SignalingNan,
            _ => Class::QuietNan,
        };
        return finite(sign, F::BIAS + 1, fraction | 1 << 63, class);
    }
    if fraction == 0 {
        return finite(sign, F::EMIN, 0, Class::Zero);
    }
    let shift = fraction.leading_zeros();
    finite(sign, F::EMIN - shift as i32, fraction << shift, Class::Denormal)
}

impl Format for F16 {
    type Bits = u16;
    const PRECISION: u32 = 11;
    const BIAS: i32 = 15;
    const X87: bool = false;

    #[inline]
    fn unpack(bits: u16) -> Unpacked {
        let fraction = u64::from(bits & 0x3ff) << 53;
        unpack_implicit::<Self>(bits >> 15 != 0, i32::from(bits >> 10 & 0x1f), fraction)
    }

    #[inline]
    fn assemble(sign: bool, biased: u32, significand: u64) -> u16 {
        u16::from(sign) << 15 | (biased as u16) << 10 | (significand >> 53) as u16 & 0x3ff
    }
}

impl Format for F32 {
    type Bits = u32;
    const PRECISION: u32 = 24;
    const BIAS: i32 = 127;
    const X87: bool = false;

    #[inline]
    fn unpack(bits: u32) -> Unpacked {
        let fraction = u64::from(bits & 0x7f_ffff) << 40;
        unpack_implicit::<Self>(bits >> 31 != 0, (bits >> 23 & 0xff) as i32, fraction)
    }

    #[inline]
    fn assemble(sign: bool, biased: u32, significand: u64) -> u32 {
        u32::from(sign) << 31 | biased << 23 | (significand >> 40) as u32 & 0x7f_ffff
    }
}

impl Format for F64 {
    type Bits = u64;
    const PRECISION: u32 = 53;
    const BIAS: i32 = 1023;
    const X87: bool = false;

    #[inline]
    fn unpack(bits: u64) -> Unpacked {
        let fraction = (bits << 12) >> 1;
        unpack_implicit::<Self>(bits >> 63 != 0, (bits >> 52 & 0x7ff) as i32, fraction)
    }

    #[inline]
    fn assemble(sign: bool, biased: u32, significand: u64) -> u64 {
        u64::from(sign) << 63 | u64::from(biased) << 52 | (significand >> 11) & ((1 << 52) - 1)
    }
}

impl Format for F80 {
    type Bits = Self;
    const PRECISION: u32 = 64;
    const BIAS: i32 = 16383;
    const X87: bool = true;

    #[inline]
    fn unpack(bits: Self) -> Unpacked {
        let sign = bits.sign_exponent >> 15 != 0;
        let biased = i32::from(bits.sign_exponent & 0x7fff);
        let m = bits.mantissa;
        if m >> 63 != 0 && biased != 0 && biased != 0x7fff {
            return finite(sign, biased - Self::BIAS, m, Class::Normal);
        }
        if biased == 0 {
            if m == 0 {
                return finite(sign, Self::EMIN, 0, Class::Zero);
            }
            let shift = m.leading_zeros();
            return finite(sign, Self::EMIN - shift as i32, m << shift, Class::Denormal);
        }
        let class = match (m >> 62, m << 1) {
            (0 | 1, _) => Class::Unsupported,
            (2, 0) => Class::Infinity,
            (2, _) => Class::SignalingNan,
            _ => Class::QuietNan,
        };
        finite(sign, Self::BIAS + 1, m, class)
    }

    #[inline]
    fn assemble(sign: bool, biased: u32, significand: u64) -> Self {
        Self { mantissa: significand, sign_exponent: u16::from(sign) << 15 | biased as u16 }
    }

    #[inline]
    fn arithmetic_precision(env: &Env) -> u32 {
        env.precision.bits()
    }
}

/// What `bits` is.
#[inline]
#[must_use]
pub fn classify<F: Format>(bits: F::Bits) -> Class {
    F::unpack(bits).class
}

/// The operand `bits`, a denormal as a zero where the environment says so.
#[inline]
fn operand<F: Format>(bits: F::Bits, env: &Env) -> Unpacked {
    let mut value = F::unpack(bits);
    if env.daz && value.class == Class::Denormal {
        value.class = Class::Zero;
        value.significand = 0;
    }
    value
}

/// The result of an operation of which at least one operand is a NaN (or unsupported).
#[cold]
pub(crate) fn propagate_nan<F: Format>(operands: &[Unpacked], env: &mut Env) -> F::Bits {
    let any = |class| operands.iter().any(|o| o.class == class);
    if any(Class::SignalingNan) || any(Class::Unsupported) {
        env.raise(Exceptions::INVALID);
    }
    if any(Class::Unsupported) {
        return F::indefinite();
    }
    let nans = operands.iter().filter(|o| o.class.is_nan());
    let chosen = if F::X87 {
        // A quiet NaN wins over a signaling one, then the larger significand, then the positive one (SDM 1, table 4-7).
        nans.max_by_key(|o| (o.class == Class::QuietNan, o.significand, !o.sign))
    } else {
        nans.into_iter().next()
    };
    chosen.map_or_else(F::indefinite, F::quieted)
}

#[cold]
fn invalid<F: Format>(env: &mut Env) -> F::Bits {
    env.raise(Exceptions::INVALID);
    F::indefinite()
}
