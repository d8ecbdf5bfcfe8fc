//! Packed integer arithmetic, comparison and logic.

use super::{Lane, V128, Vector, lanewise};

lanewise! {
    fn paddb(u8) = u8::wrapping_add;
    fn paddw(u16) = u16::wrapping_add;
    fn paddd(u32) = u32::wrapping_add;
    fn paddq(u64) = u64::wrapping_add;
    fn paddsb(i8) = i8::saturating_add;
    fn paddsw(i16) = i16::saturating_add;
    fn paddusb(u8) = u8::saturating_add;
    fn paddusw(u16) = u16::saturating_add;
    fn psubb(u8) = u8::wrapping_sub;
    fn psubw(u16) = u16::wrapping_sub;
    fn psubd(u32) = u32::wrapping_sub;
    fn psubq(u64) = u64::wrapping_sub;
    fn psubsb(i8) = i8::saturating_sub;
    fn psubsw(i16) = i16::saturating_sub;
    fn psubusb(u8) = u8::saturating_sub;
    fn psubusw(u16) = u16::saturating_sub;

    fn pmullw(i16) = i16::wrapping_mul;
    fn pmulld(i32) = i32::wrapping_mul;
    fn pmulhw(i16) = |a, b| ((i32::from(a) * i32::from(b)) >> 16) as i16;
    fn pmulhuw(u16) = |a, b| ((u32::from(a) * u32::from(b)) >> 16) as u16;
    fn pmulhrsw(i16) = |a, b| ((((i32::from(a) * i32::from(b)) >> 14) + 1) >> 1) as i16;
    fn pmulhrw(i16) = |a, b| ((i32::from(a) * i32::from(b) + 0x8000) >> 16) as i16;
    fn pmuludq(u64) = |a, b| u64::from(a as u32) * u64::from(b as u32);
    fn pmuldq(i64) = |a, b| i64::from(a as i32) * i64::from(b as i32);

    fn pavgb(u8) = |a, b| ((u16::from(a) + u16::from(b) + 1) >> 1) as u8;
    fn pavgw(u16) = |a, b| ((u32::from(a) + u32::from(b) + 1) >> 1) as u16;
    fn pminub(u8) = Ord::min;
    fn pminsb(i8) = Ord::min;
    fn pminuw(u16) = Ord::min;
    fn pminsw(i16) = Ord::min;
    fn pminud(u32) = Ord::min;
    fn pminsd(i32) = Ord::min;
    fn pmaxub(u8) = Ord::max;
    fn pmaxsb(i8) = Ord::max;
    fn pmaxuw(u16) = Ord::max;
    fn pmaxsw(i16) = Ord::max;
    fn pmaxud(u32) = Ord::max;
    fn pmaxsd(i32) = Ord::max;
    fn psignb(i8) = |a, b| a.wrapping_mul(b.signum());
    fn psignw(i16) = |a, b| a.wrapping_mul(b.signum());
    fn psignd(i32) = |a, b| a.wrapping_mul(b.signum());

    fn pcmpeqb(u8) = |a, b| if a == b { !0 } else { 0 };
    fn pcmpeqw(u16) = |a, b| if a == b { !0 } else { 0 };
    fn pcmpeqd(u32) = |a, b| if a == b { !0 } else { 0 };
    fn pcmpeqq(u64) = |a, b| if a == b { !0 } else { 0 };
    fn pcmpgtb(i8) = |a, b| if a > b { !0 } else { 0 };
    fn pcmpgtw(i16) = |a, b| if a > b { !0 } else { 0 };
    fn pcmpgtd(i32) = |a, b| if a > b { !0 } else { 0 };
    fn pcmpgtq(i64) = |a, b| if a > b { !0 } else { 0 };

    /// Also ANDPS and ANDPD.
    fn pand(u64) = |a, b| a & b;
    /// Also ANDNPS and ANDNPD: the first operand is the one inverted.
    fn pandn(u64) = |a, b| !a & b;
    /// Also ORPS and ORPD.
    fn por(u64) = |a, b| a | b;
    /// Also XORPS and XORPD.
    fn pxor(u64) = |a, b| a ^ b;
}

/// Absolute values; the most negative byte stays itself.
#[must_use]
#[inline(always)]
pub fn pabsb<const N: usize>(a: Vector<N>) -> Vector<N> {
    a.map(i8::wrapping_abs)
}

/// Absolute values; the most negative word stays itself.
#[must_use]
#[inline(always)]
pub fn pabsw<const N: usize>(a: Vector<N>) -> Vector<N> {
    a.map(i16::wrapping_abs)
}

/// Absolute values; the most negative doubleword stays itself.
#[must_use]
#[inline(always)]
pub fn pabsd<const N: usize>(a: Vector<N>) -> Vector<N> {
    a.map(i32::wrapping_abs)
}

/// Products of signed words, added in pairs; only 8000h four times overflows, and wraps.
#[must_use]
#[inline(always)]
pub fn pmaddwd<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
    let product = |i| i32::from(a.get::<i16>(i)) * i32::from(b.get::<i16>(i));
    Vector::build(|i| product(2 * i).wrapping_add(product(2 * i + 1)))
}

/// Products of unsigned (first operand) and signed (second operand) bytes, added in pairs, saturating.
#[must_use]
#[inline(always)]
pub fn pmaddubsw<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
    let product = |i| i32::from(a.get::<u8>(i)) * i32::from(b.get::<i8>(i));
    Vector::build(|i| (product(2 * i) + product(2 * i + 1)).clamp(-0x8000, 0x7fff) as i16)
}

/// Sums of absolute byte differences, one for each 8 bytes.
#[must_use]
#[inline(always)]
pub fn psadbw<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
    Vector::build(|i| (0..8).map(|j| u64::from(a.get::<u8>(8 * i + j).abs_diff(b.get::<u8>(8 * i + j)))).sum::<u64>())
}

/// Eight sums of four absolute byte differences: a window sliding over `a` against one block of `b`; `imm` bit 2 and bits
/// 1:0 choose where they start.
#[must_use]
pub fn mpsadbw(a: V128, b: V128, imm: u8) -> V128 {
    let from = usize::from(imm >> 2 & 1) * 4;
    let block = usize::from(imm & 3) * 4;
    let diff = |i: usize, j: usize| u16::from(a.get::<u8>(from + i + j).abs_diff(b.get::<u8>(block + j)));
    Vector::build(|i| (0..4).map(|j| diff(i, j)).sum::<u16>())
}

/// The smallest unsigned word and, in the next word, where it first stands; the rest is zero.
#[must_use]
pub fn phminposuw(a: V128) -> V128 {
    let (value, at) = a.iter::<u16>().zip(0u16..).min().unwrap_or_default();
    Vector::ZERO.with(0, value).with(1, at)
}

/// `f` of neighbouring lanes: first of `a`, then of `b`. The shape of PHADDx and PHSUBx.
#[inline(always)]
fn horizontal<T: Lane, const N: usize>(a: Vector<N>, b: Vector<N>, f: impl Fn(T, T) -> T) -> Vector<N> {
    let half = Vector::<N>::lanes::<T>() / 2;
    Vector::build(|i| {
        let (v, i) = if i < half { (a, i) } else { (b, i - half) };
        f(v.get(2 * i), v.get(2 * i + 1))
    })
}

macro_rules! horizontal {
    ($(fn $name:ident($t:ty) = $f:expr;)*) => {$(
        #[doc = concat!("`", stringify!($name), "`: of neighbouring lanes, of the first operand, then of the second.")]
        #[must_use]
        #[inline(always)]
        pub fn $name<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
            horizontal::<$t, N>(a, b, $f)
        }
    )*};
}
horizontal! {
    fn phaddw(u16) = u16::wrapping_add;
    fn phaddd(u32) = u32::wrapping_add;
    fn phaddsw(i16) = i16::saturating_add;
    fn phsubw(u16) = u16::wrapping_sub;
    fn phsubd(u32) = u32::wrapping_sub;
    fn phsubsw(i16) = i16::saturating_sub;
}

/// The sign bits of the bytes.
#[must_use]
#[inline(always)]
pub fn pmovmskb<const N: usize>(a: Vector<N>) -> u32 {
    a.iter::<u8>().rev().fold(0, |m, b| m << 1 | u32::from(b >> 7))
}

/// The sign bits of the doublewords.
#[must_use]
#[inline(always)]
pub fn movmskps<const N: usize>(a: Vector<N>) -> u32 {
    a.iter::<u32>().rev().fold(0, |m, b| m << 1 | b >> 31)
}

/// The sign bits of the quadwords.
#[must_use]
#[inline(always)]
pub fn movmskpd<const N: usize>(a: Vector<N>) -> u32 {
    a.iter::<u64>().rev().fold(0, |m, b| m << 1 | (b >> 63) as u32)
}

/// As [`ptest`], of the sign bits of the doublewords alone.
#[must_use]
#[inline(always)]
pub fn testps<const N: usize>(a: Vector<N>, b: Vector<N>) -> (bool, bool) {
    ptest(a, pand(b, Vector::splat(1u32 << 31)))
}

/// As [`ptest`], of the sign bits of the quadwords alone.
#[must_use]
#[inline(always)]
pub fn testpd<const N: usize>(a: Vector<N>, b: Vector<N>) -> (bool, bool) {
    ptest(a, pand(b, Vector::splat(1u64 << 63)))
}

/// (ZF, CF): whether `a & b` is zero, and whether `!a & b` is.
#[must_use]
#[inline(always)]
pub fn ptest<const N: usize>(a: Vector<N>, b: Vector<N>) -> (bool, bool) {
    (pand(a, b) == Vector::ZERO, pandn(a, b) == Vector::ZERO)
}
