//! 3DNow! arithmetic (AMD 21928; APM 5; APM 1, 5.5.6), of the two singles of an MMX operand.
//!
//! There are normal numbers and zeros only: denormal operands and tiny results are zeros, results that are too large
//! become the largest number. Arithmetic rounds to nearest, conversions toward zero. No exceptions, no control register.
//! What infinities and NaNs do is left open; here they count as the largest number of their sign. Left open too, within
//! the promised precision, are the approximations: here they are exact but for rounding to 16 bits, and the steps that
//! refine them are Newton's, rounded once.

use std::cmp::Ordering;

use super::{V64, Vector, estimate};
use crate::semantics::softfloat::{self, Env, F32, Rounding};

const SIGN: u32 = 1 << 31;
const INFINITY: u32 = 0x7f80_0000;
const LARGEST: u32 = INFINITY - 1;
const SMALLEST: u32 = 1 << 23;
const HALF: u32 = 0x3f00_0000;
const TWO: u32 = 0x4000_0000;
const THREE: u32 = 0x4040_0000;
/// Bits of the approximations; 14 and 15 are promised.
const PRECISION: u32 = 16;

/// `x` as a number that 3DNow! has.
const fn number(x: u32) -> u32 {
    match x & !SIGN {
        0..SMALLEST => x & SIGN,
        INFINITY.. => x & SIGN | LARGEST,
        _ => x,
    }
}

fn environment(rounding: Rounding) -> Env {
    Env { rounding, daz: true, ftz: true, ..Env::default() }
}

/// `operation` on numbers, its result made a number again.
fn arithmetic(operation: impl FnOnce(&mut Env) -> u32) -> u32 {
    number(operation(&mut environment(Rounding::Nearest)))
}

/// The sum of two numbers; a zero that is no sum of zeros has the sign of the larger operand, or of `a` if they are alike.
fn sum(a: u32, b: u32) -> u32 {
    let (a, b) = (number(a), number(b));
    let r = arithmetic(|env| softfloat::add::<F32>(a, b, env));
    let (size_a, size_b) = (a & !SIGN, b & !SIGN);
    if r & !SIGN != 0 || size_a | size_b == 0 {
        return r;
    }
    if size_b > size_a { b & SIGN } else { a & SIGN }
}

fn product(a: u32, b: u32) -> u32 {
    arithmetic(|env| softfloat::mul::<F32>(number(a), number(b), env))
}

/// PFADD.
#[must_use]
pub fn add<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
    a.zip(b, sum)
}

/// PFSUB, and PFSUBR with its operands exchanged.
#[must_use]
pub fn sub<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
    a.zip(b, |a: u32, b: u32| sum(a, b ^ SIGN))
}

/// PFMUL, and PFRCPIT2, which multiplies the correction of the other two steps and the approximation.
#[must_use]
pub fn mul<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
    a.zip(b, product)
}

/// PFACC, PFNACC (`negative` both), PFPNACC: the sum of each operand's two numbers, or the low one less the high one.
#[must_use]
pub fn accumulate(a: V64, b: V64, negative: [bool; 2]) -> V64 {
    V64::build(|i| {
        let v = [a, b][i];
        sum(v.get(0), v.get::<u32>(1) ^ if negative[i] { SIGN } else { 0 })
    })
}

/// How two numbers compare; zeros are equal.
fn order(a: u32, b: u32) -> Ordering {
    let key = |x| {
        let magnitude = (number(x) & !SIGN) as i32;
        if x & SIGN == 0 { magnitude } else { -magnitude }
    };
    key(a).cmp(&key(b))
}

/// PFCMPEQ, PFCMPGE, PFCMPGT: ones where `holds`.
#[must_use]
pub fn compare<const N: usize>(a: Vector<N>, b: Vector<N>, holds: fn(Ordering) -> bool) -> Vector<N> {
    a.zip(b, |a: u32, b: u32| if holds(order(a, b)) { u32::MAX } else { 0 })
}

/// The number of the two that compares as `wanted` with the other; a zero is positive.
fn select<const N: usize>(a: Vector<N>, b: Vector<N>, wanted: Ordering) -> Vector<N> {
    a.zip(b, |a: u32, b: u32| {
        let r = number(if order(a, b) == wanted { a } else { b });
        if r == SIGN { 0 } else { r }
    })
}

/// PFMIN.
#[must_use]
pub fn min<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
    select(a, b, Ordering::Less)
}

/// PFMAX.
#[must_use]
pub fn max<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
    select(a, b, Ordering::Greater)
}

/// PI2FD.
#[must_use]
pub fn from_i32<const N: usize>(b: Vector<N>) -> Vector<N> {
    b.map(|x: u32| softfloat::from_i32::<F32>(x as i32, &mut environment(Rounding::Zero)))
}

/// PI2FW: of the low half of each doubleword.
#[must_use]
pub fn from_i16<const N: usize>(b: Vector<N>) -> Vector<N> {
    b.map(|x: u32| f32::from(x as i16).to_bits())
}

/// PF2ID, which saturates, as Rust's conversion does.
#[must_use]
pub fn to_i32<const N: usize>(b: Vector<N>) -> Vector<N> {
    b.map(|x: u32| f32::from_bits(number(x)) as i32 as u32)
}

/// PF2IW: saturates to 16 bits, sign-extended.
#[must_use]
pub fn to_i16<const N: usize>(b: Vector<N>) -> Vector<N> {
    b.map(|x: u32| i32::from(f32::from_bits(number(x)) as i16) as u32)
}

/// PSWAPD.
#[must_use]
pub fn swap(b: V64) -> V64 {
    V64::build(|i| b.get::<u32>(1 - i))
}

/// The approximation of `f` for the low number, in both places; it has the operand's sign.
fn approximate(b: V64, f: fn(u32) -> u32) -> V64 {
    let x = number(b.get(0));
    let r = number(f(x & !SIGN)) | x & SIGN;
    V64::build(|_| r)
}

/// PFRCP; the reciprocal of zero is the largest number.
#[must_use]
pub fn reciprocal(b: V64) -> V64 {
    approximate(b, estimate::reciprocal::<PRECISION>)
}

/// PFRSQRT: of the magnitude.
#[must_use]
pub fn reciprocal_root(b: V64) -> V64 {
    approximate(b, estimate::reciprocal_root::<PRECISION>)
}

/// `c - a * b`.
fn residue(a: u32, b: u32, c: u32) -> u32 {
    arithmetic(|env| softfloat::mul_add::<F32>(number(a), number(b), c, (true, false), env))
}

/// PFRCPIT1: of a number and the approximation of its reciprocal, what to multiply that with.
#[must_use]
pub fn reciprocal_step<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
    a.zip(b, |a: u32, b: u32| residue(a, b, TWO))
}

/// PFRSQIT1: of a number and the square of the approximation of its root's reciprocal, what to multiply that with.
#[must_use]
pub fn root_step<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
    a.zip(b, |a: u32, b: u32| product(residue(a, b, THREE), HALF))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: f32 = f32::MIN_POSITIVE;
    const MAX: f32 = f32::MAX;

    fn pair(a: f32, b: f32) -> V64 {
        V64::build(|i| [a, b][i].to_bits())
    }

    /// Compares bits, so that the signs of zeros count.
    #[track_caller]
    fn is(v: V64, a: f32, b: f32) {
        assert_eq!(v, pair(a, b), "{} {}", f32::from_bits(v.get(0)), f32::from_bits(v.get(1)));
    }

    #[test]
    fn sums_and_products_saturate_and_flush() {
        is(add(pair(1.5, -2.0), pair(2.25, 0.5)), 3.75, -1.5);
        // To nearest even.
        is(add(pair(1.0, 1.0), pair(2f32.powi(-24), 1.5 * 2f32.powi(-23))), 1.0, 1.0 + 2.0 * 2f32.powi(-23));
        is(add(pair(MAX, -MAX), pair(MAX, -MAX)), MAX, -MAX);
        is(add(pair(0.0, -0.0), pair(-0.0, -0.0)), 0.0, -0.0);
        // The sign of a zero is the larger operand's, or the first one's.
        is(add(pair(-3.0, 3.0), pair(3.0, -3.0)), -0.0, 0.0);
        is(add(pair(1.25 * TINY, -TINY), pair(-1.5 * TINY, 1.5 * TINY)), -0.0, 0.0);
        // Denormals are zeros.
        is(add(pair(TINY / 2.0, -TINY / 2.0), pair(TINY / 2.0, -1.0)), 0.0, -1.0);
        is(sub(pair(1.0, 0.0), pair(3.0, 0.0)), -2.0, 0.0);
        is(sub(pair(-0.0, 5.0), pair(0.0, 5.0)), -0.0, 0.0);
        is(mul(pair(MAX, -MAX), pair(2.0, 2.0)), MAX, -MAX);
        is(mul(pair(TINY, -TINY), pair(0.5, 0.5)), 0.0, -0.0);
        is(mul(pair(0.0, 0.0), pair(-5.0, 5.0)), -0.0, 0.0);
        // Left open by the manual.
        is(mul(pair(f32::INFINITY, f32::NAN), pair(1.0, 0.0)), MAX, 0.0);
    }

    #[test]
    fn accumulation_works_across() {
        let (a, b) = (pair(1.0, 2.0), pair(10.0, 30.0));
        is(accumulate(a, b, [false, false]), 3.0, 40.0);
        is(accumulate(a, b, [true, true]), -1.0, -20.0);
        is(accumulate(a, b, [true, false]), -1.0, 40.0);
        is(swap(a), 2.0, 1.0);
    }

    #[test]
    fn comparisons_take_zeros_for_equal() {
        let ones = |a, b| V64::build(|i| if [a, b][i] { u32::MAX } else { 0 });
        let (a, b) = (pair(0.0, 2.0), pair(-0.0, -3.0));
        assert_eq!(compare(a, b, Ordering::is_eq), ones(true, false));
        assert_eq!(compare(a, b, Ordering::is_ge), ones(true, true));
        assert_eq!(compare(a, b, Ordering::is_gt), ones(false, true));
        is(min(pair(-0.0, 1.0), pair(-0.0, -0.0)), 0.0, 0.0);
        is(max(pair(-0.0, -7.0), pair(-5.0, -6.0)), 0.0, -6.0);
        is(min(pair(-0.0, 4.0), pair(-5.0, 6.0)), -5.0, 4.0);
    }

    #[test]
    fn conversions_truncate_and_saturate() {
        let int = |a: i32, b: i32| V64::build(|i| [a, b][i] as u32);
        assert_eq!(to_i32(pair(2.9, -2.9)), int(2, -2));
        assert_eq!(to_i32(pair(2147483648.0, -3e9)), int(i32::MAX, i32::MIN));
        assert_eq!(to_i16(pair(40000.0, -40000.0)), int(0x7fff, -0x8000));
        assert_eq!(to_i16(pair(-1.5, 99.9)), int(-1, 99));
        // 2^24 + 3 and 2^31 - 1 have a bit too many.
        is(from_i32(int(0x0100_0003, i32::MAX)), 16_777_218.0, 2_147_483_520.0);
        is(from_i32(int(-0x0100_0003, 0)), -16_777_218.0, 0.0);
        is(from_i16(int(0x1234_ffff, 0x0001_7fff)), -1.0, 32767.0);
    }

    #[test]
    fn approximations_refine_to_the_last_place() {
        is(reciprocal(pair(-4.0, 9.0)), -0.25, -0.25);
        is(reciprocal(pair(-0.0, 9.0)), -MAX, -MAX);
        is(reciprocal(pair(MAX, 9.0)), 0.0, 0.0);
        is(reciprocal_root(pair(-16.0, 9.0)), -0.25, -0.25);
        is(reciprocal_root(pair(0.0, 9.0)), MAX, MAX);
        let error = |got: V64, exact: f64| (f64::from(f32::from_bits(got.get(0))) / exact - 1.0).abs();
        for n in 0..100_000u32 {
            let x = f32::from_bits(0x2000_0000 + n * 0x2f3b);
            let wanted = (1.0 / f64::from(x), 1.0 / f64::from(x).sqrt());
            let v = pair(x, x);
            // 21928, the sequences for 1/x and 1/sqrt(x).
            let rough = reciprocal(v);
            assert!(error(rough, wanted.0) < 2f64.powi(-14), "{x}");
            assert!(error(mul(reciprocal_step(v, rough), rough), wanted.0) < 2f64.powi(-23), "{x}");
            let rough = reciprocal_root(v);
            assert!(error(rough, wanted.1) < 2f64.powi(-15), "{x}");
            let refined = mul(root_step(mul(rough, rough), v), rough);
            // Three roundings: a little more than the last place.
            assert!(error(refined, wanted.1) < 1.25 * 2f64.powi(-23), "{x}");
        }
    }
}
