//! Packed shifts. A count beyond the lane's width clears the lane, or fills it with its sign.

use super::Vector;

macro_rules! shifts {
    ($(fn $name:ident($t:ty) = $f:expr;)*) => {$(
        #[doc = concat!("`", stringify!($name), "` by a count that holds for all lanes.")]
        #[must_use]
        #[inline(always)]
        pub fn $name<const N: usize>(a: Vector<N>, count: u64) -> Vector<N> {
            let f: fn($t, u32) -> $t = $f;
            a.map::<$t>(|lane| f(lane, count.min(<$t>::BITS.into()) as u32))
        }
    )*};
}
shifts! {
    fn psllw(u16) = |a, n| a.checked_shl(n).unwrap_or(0);
    fn pslld(u32) = |a, n| a.checked_shl(n).unwrap_or(0);
    fn psllq(u64) = |a, n| a.checked_shl(n).unwrap_or(0);
    fn psrlw(u16) = |a, n| a.checked_shr(n).unwrap_or(0);
    fn psrld(u32) = |a, n| a.checked_shr(n).unwrap_or(0);
    fn psrlq(u64) = |a, n| a.checked_shr(n).unwrap_or(0);
    fn psraw(i16) = |a, n| a >> n.min(15);
    fn psrad(i32) = |a, n| a >> n.min(31);
}

macro_rules! variable {
    ($(fn $name:ident($t:ty) = $f:expr;)*) => {$(
        #[doc = concat!("`", stringify!($name), "`: each lane by its own count.")]
        #[must_use]
        #[inline(always)]
        pub fn $name<const N: usize>(a: Vector<N>, counts: Vector<N>) -> Vector<N> {
            a.zip::<$t>(counts, $f)
        }
    )*};
}
variable! {
    fn psllvd(u32) = |a, n| a.checked_shl(n).unwrap_or(0);
    fn psllvq(u64) = |a, n| a.checked_shl(n.min(64) as u32).unwrap_or(0);
    fn psrlvd(u32) = |a, n| a.checked_shr(n).unwrap_or(0);
    fn psrlvq(u64) = |a, n| a.checked_shr(n.min(64) as u32).unwrap_or(0);
    fn psravd(i32) = |a, n| a >> (n as u32).min(31);
}

/// Shifts the whole 16 bytes left by `count` bytes.
#[must_use]
#[inline(always)]
pub fn pslldq(a: Vector<16>, count: u8) -> Vector<16> {
    u128::from(a).checked_shl(u32::from(count) * 8).unwrap_or(0).into()
}

/// Shifts the whole 16 bytes right by `count` bytes.
#[must_use]
#[inline(always)]
pub fn psrldq(a: Vector<16>, count: u8) -> Vector<16> {
    u128::from(a).checked_shr(u32::from(count) * 8).unwrap_or(0).into()
}
