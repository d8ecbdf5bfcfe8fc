//! Packed and scalar floating point: arithmetic, comparison, rounding.
//!
//! A scalar instruction is the packed one on a vector of one lane: ADDSS is [`addps`] on 4 bytes, ADDSD is [`addpd`] on
//! 8. MXCSR goes in and comes out with its sticky flags; [`Unmasked`] says that the destination must not be written.
//!
//! The definition is the integer arithmetic of [`softfloat`](crate::semantics::softfloat). The host's floating point is
//! asked only where IEEE 754 leaves it no freedom and nothing would be reported: rounding to nearest, no DAZ, no FTZ,
//! everything masked, PE already set, operands and result normal or exactly zero.

use super::{Lane, V128, Vector};
use crate::semantics::softfloat::{self, Class, Env, Exceptions, F32, F64, Format, Ordering4, Rounding};

/// MXCSR after reset.
pub const MXCSR_RESET: u32 = 0x1f80;
/// The bits of MXCSR that exist; others are #GP.
pub const MXCSR_MASK: u32 = 0xffff;

/// An unmasked exception occurred; its flag is set in MXCSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmasked;

/// PE set, no DAZ, all masked, to nearest, no FTZ.
const QUICK: u32 = 0x1fa0;
/// The bits of MXCSR that decide whether arithmetic may be quick: all but IE, DE, ZE, OE and UE.
const QUICK_MASK: u32 = 0xffe0;

/// Whether nothing that normal numbers can do would show in `mxcsr` or depend on it.
#[inline(always)]
pub(super) const fn quick(mxcsr: u32) -> bool {
    mxcsr & QUICK_MASK == QUICK
}

/// Notes what `env` raised in `mxcsr`. Invalid, denormal and divide-by-zero are found before anything is computed, so an
/// unmasked one of them hides the others (SDM 1, 11.5.2.1).
#[inline]
pub(super) fn finish<T>(value: T, env: &Env, mxcsr: &mut u32) -> Result<T, Unmasked> {
    let before = env.raised & (Exceptions::INVALID | Exceptions::DENORMAL | Exceptions::ZERO_DIVIDE);
    let shown = if (before & !env.masked).is_empty() { env.raised } else { before };
    *mxcsr |= u32::from(shown.bits());
    if env.unmasked().is_empty() { Ok(value) } else { Err(Unmasked) }
}

/// A format that the host computes in too.
pub trait Real: Format<Bits: Lane> {
    /// The lane as an integer.
    fn bits(x: Self::Bits) -> u64;
    /// The value.
    fn value(x: Self::Bits) -> f64;
    /// The encoding of a value that the format holds exactly.
    fn exactly(x: f64) -> Self::Bits;
    /// Addition by the host.
    fn add(a: Self::Bits, b: Self::Bits) -> Self::Bits;
    /// Subtraction by the host.
    fn sub(a: Self::Bits, b: Self::Bits) -> Self::Bits;
    /// Multiplication by the host.
    fn mul(a: Self::Bits, b: Self::Bits) -> Self::Bits;
    /// Division by the host.
    fn div(a: Self::Bits, b: Self::Bits) -> Self::Bits;
    /// Square root by the host.
    fn sqrt(a: Self::Bits) -> Self::Bits;
    /// Whether the exponent is so moderate that no operation on two such numbers overflows or gets near the denormals.
    fn moderate(x: Self::Bits) -> bool;
    /// Whether it is zero or finite and above the smallest binade of normal numbers.
    fn plain(x: Self::Bits) -> bool;
    /// Whether it is neither a NaN nor denormal.
    fn ordinary(x: Self::Bits) -> bool;
    /// Whether it is a zero.
    fn is_zero(x: Self::Bits) -> bool;
}

macro_rules! real {
    ($format:ty, $float:ty, $bits:ty, $fraction:expr, $moderate:expr) => {
        impl Real for $format {
            #[inline(always)]
            fn bits(x: $bits) -> u64 {
                x.into()
            }
            #[inline(always)]
            fn value(x: $bits) -> f64 {
                <$float>::from_bits(x).into()
            }
            #[inline(always)]
            fn exactly(x: f64) -> $bits {
                (x as $float).to_bits()
            }
            #[inline(always)]
            fn add(a: $bits, b: $bits) -> $bits {
                (<$float>::from_bits(a) + <$float>::from_bits(b)).to_bits()
            }
            #[inline(always)]
            fn sub(a: $bits, b: $bits) -> $bits {
                (<$float>::from_bits(a) - <$float>::from_bits(b)).to_bits()
            }
            #[inline(always)]
            fn mul(a: $bits, b: $bits) -> $bits {
                (<$float>::from_bits(a) * <$float>::from_bits(b)).to_bits()
            }
            #[inline(always)]
            fn div(a: $bits, b: $bits) -> $bits {
                (<$float>::from_bits(a) / <$float>::from_bits(b)).to_bits()
            }
            #[inline(always)]
            fn sqrt(a: $bits) -> $bits {
                <$float>::from_bits(a).sqrt().to_bits()
            }
            #[inline(always)]
            fn moderate(x: $bits) -> bool {
                const LOW: $bits = ((<$format>::BIAS - $moderate) as $bits) << ($fraction + 1);
                const SPAN: $bits = (2 * $moderate) << ($fraction + 1);
                (x << 1).wrapping_sub(LOW) < SPAN
            }
            #[inline(always)]
            fn plain(x: $bits) -> bool {
                const LOW: $bits = 2 << ($fraction + 1);
                const SPAN: $bits = ((2 * <$format>::BIAS + 1) as $bits) << ($fraction + 1);
                (x << 1).wrapping_sub(LOW) < SPAN - LOW || x << 1 == 0
            }
            #[inline(always)]
            fn ordinary(x: $bits) -> bool {
                const LOW: $bits = 1 << ($fraction + 1);
                const INFINITY: $bits = ((2 * <$format>::BIAS + 1) as $bits) << ($fraction + 1);
                (x << 1).wrapping_sub(LOW) <= INFINITY - LOW || x << 1 == 0
            }
            #[inline(always)]
            fn is_zero(x: $bits) -> bool {
                x << 1 == 0
            }
        }
    };
}
real!(F32, f32, u32, 23, 60);
real!(F64, f64, u64, 52, 500);

/// Whether the host's `r` is what two operands `a` and `b` in such a range give, silently.
#[inline(always)]
fn silent<F: Real>(a: F::Bits, b: F::Bits, r: F::Bits) -> bool {
    F::plain(a) & F::plain(b) & F::plain(r) & (!F::is_zero(r) | F::is_zero(a) | F::is_zero(b))
}

/// `host` of each pair of lanes (and lane number) where that is exact enough, else `soft`.
#[inline(always)]
fn arithmetic<F: Real, const N: usize>(
    a: Vector<N>,
    b: Vector<N>,
    mxcsr: &mut u32,
    host: impl Fn(usize, F::Bits, F::Bits) -> F::Bits,
    soft: impl Fn(usize, F::Bits, F::Bits, &mut Env) -> F::Bits,
) -> Result<Vector<N>, Unmasked> {
    if quick(*mxcsr) {
        let r = Vector::<N>::build(|i| host(i, a.get(i), b.get(i)));
        let lanes = 0..Vector::<N>::lanes::<F::Bits>();
        if lanes.clone().fold(true, |ok, i| ok & F::moderate(a.get(i)) & F::moderate(b.get(i)))
            || lanes.fold(true, |ok, i| ok & silent::<F>(a.get(i), b.get(i), r.get(i)))
        {
            return Ok(r);
        }
    }
    exactly::<F, N>(a, b, mxcsr, soft)
}

#[cold]
#[inline(never)]
fn exactly<F: Real, const N: usize>(
    a: Vector<N>,
    b: Vector<N>,
    mxcsr: &mut u32,
    soft: impl Fn(usize, F::Bits, F::Bits, &mut Env) -> F::Bits,
) -> Result<Vector<N>, Unmasked> {
    let mut env = Env::from_mxcsr(*mxcsr);
    let r = Vector::build(|i| soft(i, a.get(i), b.get(i), &mut env));
    finish(r, &env, mxcsr)
}

macro_rules! arithmetic {
    ($(fn $single:ident, fn $double:ident = $op:ident;)*) => {$(
        #[doc = concat!("`", stringify!($single), "` and its scalar form.\n\n# Errors\n[`Unmasked`].")]
        #[inline(always)]
        pub fn $single<const N: usize>(a: Vector<N>, b: Vector<N>, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
            arithmetic::<F32, N>(a, b, mxcsr, |_, a, b| <F32 as Real>::$op(a, b), |_, a, b, env| softfloat::$op::<F32>(a, b, env))
        }
        #[doc = concat!("`", stringify!($double), "` and its scalar form.\n\n# Errors\n[`Unmasked`].")]
        #[inline(always)]
        pub fn $double<const N: usize>(a: Vector<N>, b: Vector<N>, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
            arithmetic::<F64, N>(a, b, mxcsr, |_, a, b| <F64 as Real>::$op(a, b), |_, a, b, env| softfloat::$op::<F64>(a, b, env))
        }
    )*};
}
arithmetic! {
    fn addps, fn addpd = add;
    fn subps, fn subpd = sub;
    fn mulps, fn mulpd = mul;
    fn divps, fn divpd = div;
}

/// Subtracts even lanes, adds odd ones.
#[inline(always)]
fn addsub<F: Real, const N: usize>(a: Vector<N>, b: Vector<N>, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    arithmetic::<F, N>(
        a,
        b,
        mxcsr,
        |i, a, b| if i % 2 == 0 { F::sub(a, b) } else { F::add(a, b) },
        |i, a, b, env| if i % 2 == 0 { softfloat::sub::<F>(a, b, env) } else { softfloat::add::<F>(a, b, env) },
    )
}

/// Subtracts even singles, adds odd ones.
///
/// # Errors
/// [`Unmasked`].
pub fn addsubps<const N: usize>(a: Vector<N>, b: Vector<N>, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    addsub::<F32, N>(a, b, mxcsr)
}

/// Subtracts even doubles, adds odd ones.
///
/// # Errors
/// [`Unmasked`].
pub fn addsubpd<const N: usize>(a: Vector<N>, b: Vector<N>, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    addsub::<F64, N>(a, b, mxcsr)
}

/// The even numbers of `a` then `b`, and the odd ones, in each 16 bytes.
#[inline(always)]
fn neighbours<F: Real, const N: usize>(a: Vector<N>, b: Vector<N>) -> (Vector<N>, Vector<N>) {
    let half = V128::lanes::<F::Bits>() / 2;
    let pick = |odd| {
        a.zip_parts::<16>(b, |a, b, _| V128::build(|i| if i < half { a.get::<F::Bits>(2 * i + odd) } else { b.get(2 * (i - half) + odd) }))
    };
    (pick(0), pick(1))
}

macro_rules! horizontal {
    ($(fn $name:ident($format:ty) = $op:ident;)*) => {$(
        #[doc = concat!("`", stringify!($name), "`: of neighbouring lanes.\n\n# Errors\n[`Unmasked`].")]
        pub fn $name<const N: usize>(a: Vector<N>, b: Vector<N>, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
            let (even, odd) = neighbours::<$format, N>(a, b);
            $op(even, odd, mxcsr)
        }
    )*};
}
horizontal! {
    fn haddps(F32) = addps;
    fn haddpd(F64) = addpd;
    fn hsubps(F32) = subps;
    fn hsubpd(F64) = subpd;
}

/// Square roots of the lanes of `b`.
#[inline(always)]
fn sqrt<F: Real, const N: usize>(b: Vector<N>, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    if quick(*mxcsr) {
        let r = b.map(F::sqrt);
        if b.iter::<F::Bits>().chain(r.iter()).fold(true, |ok, x| ok & F::plain(x)) {
            return Ok(r);
        }
    }
    exactly::<F, N>(b, b, mxcsr, |_, x, _, env| softfloat::sqrt::<F>(x, env))
}

/// Square roots of singles; SQRTSS on a vector of one.
///
/// # Errors
/// [`Unmasked`].
#[inline(always)]
pub fn sqrtps<const N: usize>(b: Vector<N>, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    sqrt::<F32, N>(b, mxcsr)
}

/// Square roots of doubles; SQRTSD on a vector of one.
///
/// # Errors
/// [`Unmasked`].
#[inline(always)]
pub fn sqrtpd<const N: usize>(b: Vector<N>, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    sqrt::<F64, N>(b, mxcsr)
}

/// How `a` compares with `b`; quiet NaNs raise INVALID unless `quiet`.
#[inline(always)]
fn order<F: Real>(a: F::Bits, b: F::Bits, quiet: bool, env: &mut Env) -> Ordering4 {
    if F::ordinary(a) & F::ordinary(b) {
        return match F::value(a).partial_cmp(&F::value(b)) {
            Some(std::cmp::Ordering::Less) => Ordering4::Less,
            Some(std::cmp::Ordering::Equal) => Ordering4::Equal,
            Some(std::cmp::Ordering::Greater) => Ordering4::Greater,
            None => Ordering4::Unordered,
        };
    }
    softfloat::compare::<F>(a, b, quiet, env)
}

/// UCOMISS, COMISS (not `quiet`) and their doubles.
///
/// # Errors
/// [`Unmasked`]: EFLAGS must not change either.
#[inline(always)]
pub fn comi<F: Real>(a: F::Bits, b: F::Bits, quiet: bool, mxcsr: &mut u32) -> Result<Ordering4, Unmasked> {
    if F::ordinary(a) & F::ordinary(b) {
        return Ok(order::<F>(a, b, quiet, &mut Env::default()));
    }
    let mut env = Env::from_mxcsr(*mxcsr);
    let r = softfloat::compare::<F>(a, b, quiet, &mut env);
    finish(r, &env, mxcsr)
}

/// Which of less (1), equal (2), greater (4), unordered (8) make predicate 0..15 true (SDM 2, table 3-1).
const PREDICATES: [u8; 16] = [2, 1, 3, 8, 13, 14, 12, 7, 10, 9, 11, 0, 5, 6, 4, 15];

/// Whether `predicate` (of 32; the first 8 are SSE's) holds for `order`.
const fn holds(predicate: u8, order: Ordering4) -> bool {
    let bit = match order {
        Ordering4::Less => 1,
        Ordering4::Equal => 2,
        Ordering4::Greater => 4,
        Ordering4::Unordered => 8,
    };
    PREDICATES[(predicate & 15) as usize] & bit != 0
}

/// Lanes of ones where `predicate` holds.
#[inline(always)]
fn cmp<F: Real, const N: usize>(a: Vector<N>, b: Vector<N>, predicate: u8, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    let quiet = matches!(predicate & 3, 1 | 2) == (predicate & 16 != 0);
    let mut env = Env::from_mxcsr(*mxcsr);
    let r = Vector::build(|i| {
        let order = order::<F>(a.get(i), b.get(i), quiet, &mut env);
        ones::<F>(holds(predicate, order))
    });
    finish(r, &env, mxcsr)
}

/// A lane of ones, or zero.
#[inline(always)]
fn ones<F: Real>(on: bool) -> F::Bits {
    F::Bits::load(&[if on { 0xff } else { 0 }; 8][..F::Bits::BYTES])
}

/// CMPPS; CMPSS on a vector of one. `predicate` is below 32; SSE has the first 8.
///
/// # Errors
/// [`Unmasked`].
#[inline]
pub fn cmpps<const N: usize>(a: Vector<N>, b: Vector<N>, predicate: u8, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    cmp::<F32, N>(a, b, predicate, mxcsr)
}

/// CMPPD; CMPSD on a vector of one. `predicate` is below 32; SSE has the first 8.
///
/// # Errors
/// [`Unmasked`].
#[inline]
pub fn cmppd<const N: usize>(a: Vector<N>, b: Vector<N>, predicate: u8, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    cmp::<F64, N>(a, b, predicate, mxcsr)
}

/// `a` where it compares as `wanted` with `b`; else, so also for NaNs and for zeros of either sign, `b`.
#[inline(always)]
fn choose<F: Real, const N: usize>(a: Vector<N>, b: Vector<N>, wanted: Ordering4, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    let mut env = Env::from_mxcsr(*mxcsr);
    let r = Vector::build(|i| {
        let (x, y) = (a.get(i), b.get(i));
        let chosen = if order::<F>(x, y, false, &mut env) == wanted { x } else { y };
        if env.daz && softfloat::classify::<F>(chosen) == Class::Denormal { F::zero(F::value(chosen).is_sign_negative()) } else { chosen }
    });
    finish(r, &env, mxcsr)
}

macro_rules! choices {
    ($(fn $name:ident($format:ty) = $wanted:ident;)*) => {$(
        #[doc = concat!("`", stringify!($name), "` and its scalar form.\n\n# Errors\n[`Unmasked`].")]
        #[inline]
        pub fn $name<const N: usize>(a: Vector<N>, b: Vector<N>, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
            choose::<$format, N>(a, b, Ordering4::$wanted, mxcsr)
        }
    )*};
}
choices! {
    fn minps(F32) = Less;
    fn minpd(F64) = Less;
    fn maxps(F32) = Greater;
    fn maxpd(F64) = Greater;
}

/// Rounds the lanes of `b` to integral values as `imm` says.
#[inline(always)]
fn round<F: Real, const N: usize>(b: Vector<N>, imm: u8, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    let mut env = Env::from_mxcsr(*mxcsr);
    let rounding = if imm & 4 != 0 { env.rounding } else { Rounding::from_bits(imm.into()) };
    let suppress = imm & 8 != 0;
    let r = Vector::build(|i| {
        let x = b.get(i);
        if !F::ordinary(x) {
            return softfloat::round_to_int::<F>(x, rounding, suppress, &mut env);
        }
        let value = F::value(x);
        let r = match rounding {
            Rounding::Nearest => value.round_ties_even(),
            Rounding::Down => value.floor(),
            Rounding::Up => value.ceil(),
            Rounding::Zero => value.trunc(),
        };
        if r != value && !suppress {
            env.raised |= Exceptions::PRECISION;
        }
        F::exactly(r)
    });
    finish(r, &env, mxcsr)
}

/// ROUNDPS; ROUNDSS on a vector of one.
///
/// # Errors
/// [`Unmasked`].
pub fn roundps<const N: usize>(b: Vector<N>, imm: u8, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    round::<F32, N>(b, imm, mxcsr)
}

/// ROUNDPD; ROUNDSD on a vector of one.
///
/// # Errors
/// [`Unmasked`].
pub fn roundpd<const N: usize>(b: Vector<N>, imm: u8, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    round::<F64, N>(b, imm, mxcsr)
}

/// The dot product of each 16 bytes: products that `imm`'s upper half chooses, added pairwise, into the lanes that its
/// lower half chooses. Each step is one instruction of its own as far as exceptions go.
#[inline(always)]
fn dot<F: Real, const N: usize>(
    a: Vector<N>,
    b: Vector<N>,
    imm: u8,
    mxcsr: &mut u32,
    mul: impl Fn(Vector<N>, Vector<N>, &mut u32) -> Result<Vector<N>, Unmasked>,
    add: impl Fn(Vector<N>, Vector<N>, &mut u32) -> Result<Vector<N>, Unmasked>,
) -> Result<Vector<N>, Unmasked> {
    let lanes = V128::lanes::<F::Bits>();
    let keep = |v: Vector<N>, bits: u8| Vector::build(|i| if bits >> (i % lanes) & 1 != 0 { v.get(i) } else { F::zero(false) });
    let mut sum = mul(keep(a, imm >> 4), keep(b, imm >> 4), mxcsr)?;
    let mut distance = 1;
    while distance < lanes {
        let other = Vector::build(|i| sum.get::<F::Bits>(i ^ distance));
        sum = add(sum, other, mxcsr)?;
        distance *= 2;
    }
    // All lanes get the first one's sum: where NaNs meet, theirs could differ.
    Ok(Vector::build(|i| if imm >> (i % lanes) & 1 != 0 { sum.get(i - i % lanes) } else { F::zero(false) }))
}

/// Dot products of singles.
///
/// # Errors
/// [`Unmasked`].
pub fn dpps<const N: usize>(a: Vector<N>, b: Vector<N>, imm: u8, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    dot::<F32, N>(a, b, imm, mxcsr, mulps, addps)
}

/// Dot products of doubles.
///
/// # Errors
/// [`Unmasked`].
pub fn dppd<const N: usize>(a: Vector<N>, b: Vector<N>, imm: u8, mxcsr: &mut u32) -> Result<Vector<N>, Unmasked> {
    dot::<F64, N>(a, b, imm, mxcsr, mulpd, addpd)
}
