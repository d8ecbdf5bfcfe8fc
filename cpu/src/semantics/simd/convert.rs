//! Conversions between integers, singles and doubles. Names are the packed ones; on a vector of one they are the scalar
//! ones. A result wider or narrower than its source has as many lanes as fit both: the rest is zero.

use super::float::{Real, Unmasked, finish, quick};
use super::{V64, V128, Vector};
use crate::semantics::softfloat::{self, Env, Exceptions, F16, F32, F64, Rounding};

/// A signed integer that floats convert to.
pub trait Integer: super::Lane {
    /// 2^(bits - 1) - 1, or just below it, as a double: everything smaller in magnitude fits, however it is rounded.
    const SAFE: f64;
    /// The exact path.
    fn soft<F: Real>(x: F::Bits, truncate: bool, env: &mut Env) -> Self;
    /// From a value that fits.
    fn of(x: f64) -> Self;
    /// To the nearest double; what [`Integer::of`] made comes back unchanged.
    fn value(self) -> f64;
}

impl Integer for i32 {
    const SAFE: f64 = 2_147_483_647.0;
    fn soft<F: Real>(x: F::Bits, truncate: bool, env: &mut Env) -> Self {
        softfloat::to_i32::<F>(x, truncate, env)
    }
    #[inline(always)]
    fn of(x: f64) -> Self {
        x as Self
    }
    #[inline(always)]
    fn value(self) -> f64 {
        self.into()
    }
}

impl Integer for i64 {
    const SAFE: f64 = 9_223_372_036_854_774_784.0;
    fn soft<F: Real>(x: F::Bits, truncate: bool, env: &mut Env) -> Self {
        softfloat::to_i64::<F>(x, truncate, env)
    }
    #[inline(always)]
    fn of(x: f64) -> Self {
        x as Self
    }
    #[inline(always)]
    fn value(self) -> f64 {
        self as f64
    }
}

/// `x` as an integer; what does not fit is the most negative one and INVALID.
#[inline(always)]
fn to_integer<F: Real, I: Integer>(x: F::Bits, truncate: bool, env: &mut Env) -> I {
    let value = F::value(x);
    let truncate = truncate || env.rounding == Rounding::Zero;
    if F::ordinary(x) && value.abs() < I::SAFE && (truncate || env.rounding == Rounding::Nearest) {
        let integer = I::of(if truncate { value } else { value.round_ties_even() });
        if integer.value() != value {
            env.raised |= Exceptions::PRECISION;
        }
        return integer;
    }
    I::soft::<F>(x, truncate, env)
}

/// CVTSS2SI, CVTSD2SI and, with `truncate`, CVTTSS2SI and CVTTSD2SI, to 32 or 64 bits.
///
/// # Errors
/// [`Unmasked`].
#[inline]
pub fn cvtf2si<F: Real, I: Integer>(x: F::Bits, truncate: bool, mxcsr: &mut u32) -> Result<I, Unmasked> {
    let mut env = Env::from_mxcsr(*mxcsr);
    let r = to_integer::<F, I>(x, truncate, &mut env);
    finish(r, &env, mxcsr)
}

/// The lowest `M / 4` or `N / 4` floats as doublewords.
#[inline(always)]
fn to_dq<F: Real, const N: usize, const M: usize>(b: Vector<N>, truncate: bool, mxcsr: &mut u32) -> Result<Vector<M>, Unmasked> {
    let mut env = Env::from_mxcsr(*mxcsr);
    let mut r = Vector::ZERO;
    for (i, x) in b.iter().take(M / 4).enumerate() {
        r.set(i, to_integer::<F, i32>(x, truncate, &mut env));
    }
    finish(r, &env, mxcsr)
}

/// Singles to doublewords; CVTTPS2DQ with `truncate`, CVT(T)PS2PI on 8 bytes.
///
/// # Errors
/// [`Unmasked`].
pub fn cvtps2dq<const N: usize>(b: Vector<N>, truncate: bool, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    to_dq::<F32, N, N>(b, truncate, mxcsr)
}

/// Doubles to doublewords in the lower half, the upper one cleared; CVTTPD2DQ with `truncate`.
///
/// # Errors
/// [`Unmasked`].
pub fn cvtpd2dq<const N: usize>(b: Vector<N>, truncate: bool, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    to_dq::<F64, N, N>(b, truncate, mxcsr)
}

/// Doubles to the doublewords of an MMX register; CVTTPD2PI with `truncate`.
///
/// # Errors
/// [`Unmasked`].
pub fn cvtpd2pi(b: V128, truncate: bool, mxcsr: &mut u32) -> Result<V64, Unmasked> {
    to_dq::<F64, 16, 8>(b, truncate, mxcsr)
}

/// CVTSI2SS from 32 bits, sign-extended, or from 64.
///
/// # Errors
/// [`Unmasked`].
#[inline]
pub fn cvtsi2ss(x: i64, mxcsr: &mut u32) -> Result<u32, Unmasked> {
    if quick(*mxcsr) {
        return Ok((x as f32).to_bits());
    }
    let mut env = Env::from_mxcsr(*mxcsr);
    let r = softfloat::from_i64::<F32>(x, &mut env);
    finish(r, &env, mxcsr)
}

/// CVTSI2SD from 32 bits, sign-extended, or from 64.
///
/// # Errors
/// [`Unmasked`].
#[inline]
pub fn cvtsi2sd(x: i64, mxcsr: &mut u32) -> Result<u64, Unmasked> {
    if quick(*mxcsr) || i32::try_from(x).is_ok() {
        return Ok((x as f64).to_bits());
    }
    let mut env = Env::from_mxcsr(*mxcsr);
    let r = softfloat::from_i64::<F64>(x, &mut env);
    finish(r, &env, mxcsr)
}

/// Doublewords to singles; CVTPI2PS on 8 bytes.
///
/// # Errors
/// [`Unmasked`].
pub fn cvtdq2ps<const N: usize>(b: Vector<N>, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    if quick(*mxcsr) {
        return Ok(Vector::build(|i| (b.get::<i32>(i) as f32).to_bits()));
    }
    let mut env = Env::from_mxcsr(*mxcsr);
    let r = Vector::build(|i| softfloat::from_i32::<F32>(b.get(i), &mut env));
    finish(r, &env, mxcsr)
}

/// The lowest doublewords to doubles, always exact; also CVTPI2PD.
#[must_use]
#[inline]
pub fn cvtdq2pd<const N: usize, const M: usize>(b: Vector<N>) -> Vector<M> {
    Vector::build(|i| f64::from(b.get::<i32>(i)).to_bits())
}

/// The lowest singles to doubles.
#[inline(always)]
fn widen<const N: usize, const M: usize>(b: Vector<N>, mxcsr: &mut u32) -> Result<Vector<M>, Unmasked> {
    let mut env = Env::from_mxcsr(*mxcsr);
    let r = Vector::build(|i| {
        let x = b.get(i);
        if F32::ordinary(x) { F32::value(x).to_bits() } else { softfloat::convert::<F32, F64>(x, &mut env) }
    });
    finish(r, &env, mxcsr)
}

/// The lower half's singles to doubles.
///
/// # Errors
/// [`Unmasked`].
pub fn cvtps2pd<const N: usize>(b: Vector<N>, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    widen(b, mxcsr)
}

/// A single to a double.
///
/// # Errors
/// [`Unmasked`].
#[inline]
pub fn cvtss2sd(b: Vector<4>, mxcsr: &mut u32) -> Result<Vector<8>, Unmasked> {
    widen(b, mxcsr)
}

/// The lower half's half-precision numbers to singles. Denormals count as what they are, and silently.
///
/// # Errors
/// [`Unmasked`].
pub fn cvtph2ps<const N: usize>(b: Vector<N>, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    let mut env = Env { daz: false, ..Env::from_mxcsr(*mxcsr) };
    let r = Vector::build(|i| softfloat::convert::<F16, F32>(b.get(i), &mut env));
    env.raised -= Exceptions::DENORMAL;
    finish(r, &env, mxcsr)
}

/// Singles to half precision in the lower half, the upper one cleared, rounded as `imm` says; tiny ones are never flushed.
///
/// # Errors
/// [`Unmasked`].
pub fn cvtps2ph<const N: usize>(b: Vector<N>, imm: u8, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    let mut env = Env { ftz: false, ..Env::from_mxcsr(*mxcsr) };
    if imm & 4 == 0 {
        env.rounding = Rounding::from_bits(imm.into());
    }
    let mut r = Vector::ZERO;
    for (i, x) in b.iter::<u32>().enumerate() {
        r.set(i, softfloat::convert::<F32, F16>(x, &mut env));
    }
    finish(r, &env, mxcsr)
}

/// Doubles to singles.
#[inline(always)]
fn narrow<const N: usize, const M: usize>(b: Vector<N>, mxcsr: &mut u32) -> Result<Vector<M>, Unmasked> {
    let mut env = Env::from_mxcsr(*mxcsr);
    let quick = quick(*mxcsr);
    let mut r = Vector::ZERO;
    for (i, x) in b.iter::<u64>().enumerate() {
        let host = (f64::from_bits(x) as f32).to_bits();
        let fits = F32::moderate(host) || F64::is_zero(x);
        r.set(i, if quick && fits { host } else { softfloat::convert::<F64, F32>(x, &mut env) });
    }
    finish(r, &env, mxcsr)
}

/// Doubles to singles in the lower half, the upper one cleared.
///
/// # Errors
/// [`Unmasked`].
pub fn cvtpd2ps<const N: usize>(b: Vector<N>, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    narrow(b, mxcsr)
}

/// A double to a single.
///
/// # Errors
/// [`Unmasked`].
#[inline]
pub fn cvtsd2ss(b: Vector<8>, mxcsr: &mut u32) -> Result<Vector<4>, Unmasked> {
    narrow(b, mxcsr)
}
