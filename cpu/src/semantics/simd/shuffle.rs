//! Moving lanes about: pack, unpack, shuffle, blend, align, widen.

use super::{Lane, V64, V128, V256, Vector};

/// Narrows the lanes of `a`, then those of `b`.
#[inline(always)]
fn pack<W: Lane, T: Lane, const N: usize>(a: Vector<N>, b: Vector<N>, f: impl Fn(W) -> T) -> Vector<N> {
    let half = Vector::<N>::lanes::<W>();
    Vector::build(|i| f(if i < half { a.get(i) } else { b.get(i - half) }))
}

macro_rules! packs {
    ($(fn $name:ident($w:ty => $t:ty);)*) => {$(
        #[doc = concat!("`", stringify!($name), "`: narrows with saturation, the first operand into the lower half.")]
        #[must_use]
        #[inline(always)]
        pub fn $name<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
            pack(a, b, |v: $w| v.clamp(<$t>::MIN.into(), <$t>::MAX.into()) as $t)
        }
    )*};
}
packs! {
    fn packsswb(i16 => i8);
    fn packuswb(i16 => u8);
    fn packssdw(i32 => i16);
    fn packusdw(i32 => u16);
}

/// Interleaves lanes of `a` and `b` from lane `from` on.
#[inline(always)]
fn unpack<T: Lane, const N: usize>(a: Vector<N>, b: Vector<N>, from: usize) -> Vector<N> {
    Vector::build(|i| if i % 2 == 0 { a.get::<T>(from + i / 2) } else { b.get::<T>(from + i / 2) })
}

macro_rules! unpacks {
    ($($(#[$doc:meta])* fn $low:ident, fn $high:ident($t:ty);)*) => {$(
        $(#[$doc])*
        #[doc = concat!("`", stringify!($low), "`: interleaves the lower halves.")]
        #[must_use]
        #[inline(always)]
        pub fn $low<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
            unpack::<$t, N>(a, b, 0)
        }
        $(#[$doc])*
        #[doc = concat!("`", stringify!($high), "`: interleaves the upper halves.")]
        #[must_use]
        #[inline(always)]
        pub fn $high<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
            unpack::<$t, N>(a, b, N / <$t>::BYTES / 2)
        }
    )*};
}
unpacks! {
    fn punpcklbw, fn punpckhbw(u8);
    fn punpcklwd, fn punpckhwd(u16);
    /// Also UNPCKxPS.
    fn punpckldq, fn punpckhdq(u32);
    /// Also UNPCKxPD.
    fn punpcklqdq, fn punpckhqdq(u64);
}

/// Picks bytes of `a` by the low bits of `b`'s bytes; a set bit 7 makes a zero.
#[must_use]
#[inline(always)]
pub fn pshufb<const N: usize>(a: Vector<N>, b: Vector<N>) -> Vector<N> {
    b.map(|i: u8| if i & 0x80 != 0 { 0 } else { a.0[usize::from(i) % N] })
}

/// The `i`th two-bit field of `imm`.
#[inline(always)]
fn field(imm: u8, i: usize) -> usize {
    usize::from(imm >> (2 * i) & 3)
}

/// Picks words.
#[must_use]
#[inline(always)]
pub fn pshufw(b: V64, imm: u8) -> V64 {
    Vector::build(|i| b.get::<u16>(field(imm, i)))
}

/// Picks doublewords.
#[must_use]
#[inline(always)]
pub fn pshufd(b: V128, imm: u8) -> V128 {
    Vector::build(|i| b.get::<u32>(field(imm, i)))
}

/// Picks words within the lower half.
#[must_use]
#[inline(always)]
pub fn pshuflw(b: V128, imm: u8) -> V128 {
    Vector::build(|i| b.get::<u16>(if i < 4 { field(imm, i) } else { i }))
}

/// Picks words within the upper half.
#[must_use]
#[inline(always)]
pub fn pshufhw(b: V128, imm: u8) -> V128 {
    Vector::build(|i| b.get::<u16>(if i < 4 { i } else { 4 + field(imm, i - 4) }))
}

/// Two singles of `a`, then two of `b`.
#[must_use]
#[inline(always)]
pub fn shufps(a: V128, b: V128, imm: u8) -> V128 {
    Vector::build(|i| if i < 2 { &a } else { &b }.get::<u32>(field(imm, i)))
}

/// Picks singles of `a` by the low two bits of `b`'s.
#[must_use]
#[inline(always)]
pub fn permilps(a: V128, b: V128) -> V128 {
    b.map(|i: u32| a.get(i as usize & 3))
}

/// Picks doubles of `a` by bit 1 of `b`'s.
#[must_use]
#[inline(always)]
pub fn permilpd(a: V128, b: V128) -> V128 {
    b.map(|i: u64| a.get(i as usize >> 1 & 1))
}

/// Picks doublewords of `b`, across lanes, by the low three bits of `a`'s; also VPERMPS.
#[must_use]
#[inline(always)]
pub fn permd(a: V256, b: V256) -> V256 {
    a.map(|i: u32| b.get(i as usize & 7))
}

/// Picks quadwords across lanes; also VPERMPD.
#[must_use]
#[inline(always)]
pub fn permq(b: V256, imm: u8) -> V256 {
    Vector::build(|i| b.get::<u64>(field(imm, i)))
}

/// Picks two lanes of the four of `a` and `b` by two fields of four bits, whose bit 3 makes a zero.
#[must_use]
#[inline(always)]
pub fn perm2f128(a: V256, b: V256, imm: u8) -> V256 {
    let lane = |field: u8| match field & 0xb {
        0 => a.part(0),
        1 => a.part(1),
        2 => b.part(0),
        3 => b.part(1),
        _ => V128::ZERO,
    };
    V256::join(lane(imm), lane(imm >> 4))
}

/// `a` with `b` in the lane that `imm` bit 0 names.
#[must_use]
#[inline(always)]
pub fn insertf128(a: V256, b: V128, imm: u8) -> V256 {
    if imm & 1 == 0 { V256::join(b, a.part(1)) } else { V256::join(a.part(0), b) }
}

/// One double of `a`, then one of `b`.
#[must_use]
#[inline(always)]
pub fn shufpd(a: V128, b: V128, imm: u8) -> V128 {
    Vector::build(|i| if i < 1 { &a } else { &b }.get::<u64>(usize::from(imm >> i & 1)))
}

/// `a` above `b`, shifted right by `count` bytes.
#[must_use]
#[inline(always)]
pub fn palignr<const N: usize>(a: Vector<N>, b: Vector<N>, count: u8) -> Vector<N> {
    let from = usize::from(count);
    Vector::build(|i| match from + i {
        j if j < N => b.0[j],
        j if j < 2 * N => a.0[j - N],
        _ => 0,
    })
}

/// The lanes of `b` where `choose(lane number)`, else those of `a`.
#[inline(always)]
fn blend<T: Lane, const N: usize>(a: Vector<N>, b: Vector<N>, choose: impl Fn(usize) -> bool) -> Vector<N> {
    Vector::build(|i| if choose(i) { b.get::<T>(i) } else { a.get::<T>(i) })
}

/// Words of `b` where `imm` has a one.
#[must_use]
#[inline(always)]
pub fn pblendw(a: V128, b: V128, imm: u8) -> V128 {
    blend::<u16, 16>(a, b, |i| imm >> i & 1 != 0)
}

/// Singles of `b` where `imm` has a one.
#[must_use]
#[inline(always)]
pub fn blendps(a: V128, b: V128, imm: u8) -> V128 {
    blend::<u32, 16>(a, b, |i| imm >> i & 1 != 0)
}

/// Doubles of `b` where `imm` has a one.
#[must_use]
#[inline(always)]
pub fn blendpd(a: V128, b: V128, imm: u8) -> V128 {
    blend::<u64, 16>(a, b, |i| imm >> i & 1 != 0)
}

/// Bytes of `b` where `mask` is negative.
#[must_use]
#[inline(always)]
pub fn pblendvb<const N: usize>(a: Vector<N>, b: Vector<N>, mask: Vector<N>) -> Vector<N> {
    blend::<u8, N>(a, b, |i| mask.get::<i8>(i) < 0)
}

/// Singles of `b` where `mask` is negative.
#[must_use]
#[inline(always)]
pub fn blendvps<const N: usize>(a: Vector<N>, b: Vector<N>, mask: Vector<N>) -> Vector<N> {
    blend::<u32, N>(a, b, |i| mask.get::<i32>(i) < 0)
}

/// Doubles of `b` where `mask` is negative.
#[must_use]
#[inline(always)]
pub fn blendvpd<const N: usize>(a: Vector<N>, b: Vector<N>, mask: Vector<N>) -> Vector<N> {
    blend::<u64, N>(a, b, |i| mask.get::<i64>(i) < 0)
}

/// Puts the single `value` into the lane that `imm` bits 5:4 name, and clears the lanes that bits 3:0 name.
#[must_use]
#[inline(always)]
pub fn insertps(a: V128, value: u32, imm: u8) -> V128 {
    let v = a.with(usize::from(imm >> 4 & 3), value);
    blend::<u32, 16>(v, Vector::ZERO, |i| imm >> i & 1 != 0)
}

/// Even singles, each twice.
#[must_use]
#[inline(always)]
pub fn movsldup(b: V128) -> V128 {
    pshufd(b, 0xa0)
}

/// Odd singles, each twice.
#[must_use]
#[inline(always)]
pub fn movshdup(b: V128) -> V128 {
    pshufd(b, 0xf5)
}

macro_rules! widen {
    ($(fn $name:ident($t:ty => $w:ty);)*) => {$(
        #[doc = concat!("`", stringify!($name), "`: widens the lowest lanes.")]
        #[must_use]
        #[inline(always)]
        pub fn $name<const N: usize>(b: V128) -> Vector<N> {
            Vector::build(|i| <$w>::from(b.get::<$t>(i)))
        }
    )*};
}
widen! {
    fn pmovsxbw(i8 => i16);
    fn pmovsxbd(i8 => i32);
    fn pmovsxbq(i8 => i64);
    fn pmovsxwd(i16 => i32);
    fn pmovsxwq(i16 => i64);
    fn pmovsxdq(i32 => i64);
    fn pmovzxbw(u8 => u16);
    fn pmovzxbd(u8 => u32);
    fn pmovzxbq(u8 => u64);
    fn pmovzxwd(u16 => u32);
    fn pmovzxwq(u16 => u64);
    fn pmovzxdq(u32 => u64);
}
