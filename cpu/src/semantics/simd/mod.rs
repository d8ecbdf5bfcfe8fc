//! SIMD semantics: pure functions over vectors, one a mnemonic (SDM volume 2).
//!
//! Every function is generic over the vector's size in bytes: 8 is MMX, 16 is SSE, 32 is AVX. Functions that only
//! have 16 bytes, and all packed-integer ones, are applied to each 128-bit lane of a YMM register. Operands come in Intel order: the first is the destination's old value.

pub mod convert;
pub mod crypto;
pub mod estimate;
pub mod float;
pub mod fused;
pub mod gf2;
pub mod integer;
pub mod sha;
pub mod shift;
pub mod shuffle;
pub mod string;
pub mod three_d_now;

use serde::{Deserialize, Serialize};

/// A vector register's or operand's bytes, least significant first. A byte array rather than a wide integer, because
/// compilers turn loops over its lanes into single vector instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(serialize = "[u8; N]: Serialize", deserialize = "[u8; N]: Deserialize<'de>"))]
#[repr(C, align(16))]
pub struct Vector<const N: usize>(pub [u8; N]);

/// An MMX operand.
pub type V64 = Vector<8>;
/// An XMM operand.
pub type V128 = Vector<16>;
/// A YMM operand.
pub type V256 = Vector<32>;

/// A number that vectors are made of.
pub trait Lane: Copy {
    /// Size in bytes.
    const BYTES: usize;
    /// From little-endian bytes; `bytes` is [`Lane::BYTES`] long.
    fn load(bytes: &[u8]) -> Self;
    /// To little-endian bytes; `bytes` is [`Lane::BYTES`] long.
    fn store(self, bytes: &mut [u8]);
}

macro_rules! lane {
    ($($t:ty)*) => {$(
        impl Lane for $t {
            const BYTES: usize = size_of::<$t>();
            #[inline(always)]
            fn load(bytes: &[u8]) -> Self {
                let mut b = [0; size_of::<$t>()];
                b.copy_from_slice(bytes);
                Self::from_le_bytes(b)
            }
            #[inline(always)]
            fn store(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
lane!(u8 i8 u16 i16 u32 i32 u64 i64 u128);

impl<const N: usize> Default for Vector<N> {
    fn default() -> Self {
        Self::ZERO
    }
}

impl<const N: usize> Vector<N> {
    /// All bits clear.
    pub const ZERO: Self = Self([0; N]);

    /// How many lanes of `T` there are.
    #[must_use]
    #[inline(always)]
    pub const fn lanes<T: Lane>() -> usize {
        N / T::BYTES
    }

    /// Lane `i`, which must exist.
    #[must_use]
    #[inline(always)]
    pub fn get<T: Lane>(&self, i: usize) -> T {
        T::load(&self.0[i * T::BYTES..(i + 1) * T::BYTES])
    }

    /// Stores lane `i`, which must exist.
    #[inline(always)]
    pub fn set<T: Lane>(&mut self, i: usize, value: T) {
        value.store(&mut self.0[i * T::BYTES..(i + 1) * T::BYTES]);
    }

    /// The same vector with another lane `i`.
    #[must_use]
    #[inline(always)]
    pub fn with<T: Lane>(mut self, i: usize, value: T) -> Self {
        self.set(i, value);
        self
    }

    /// The vector whose lane `i` is `f(i)`.
    #[must_use]
    #[inline(always)]
    pub fn build<T: Lane>(mut f: impl FnMut(usize) -> T) -> Self {
        let mut v = Self::ZERO;
        for (i, lane) in v.0.chunks_exact_mut(T::BYTES).enumerate() {
            f(i).store(lane);
        }
        v
    }

    /// `f` of each lane.
    #[must_use]
    #[inline(always)]
    pub fn map<T: Lane>(mut self, f: impl Fn(T) -> T) -> Self {
        for lane in self.0.chunks_exact_mut(T::BYTES) {
            f(T::load(lane)).store(lane);
        }
        self
    }

    /// `f` of each pair of lanes.
    #[must_use]
    #[inline(always)]
    pub fn zip<T: Lane>(mut self, other: Self, f: impl Fn(T, T) -> T) -> Self {
        for (a, b) in self.0.chunks_exact_mut(T::BYTES).zip(other.0.chunks_exact(T::BYTES)) {
            f(T::load(a), T::load(b)).store(a);
        }
        self
    }

    /// The lanes, lowest first.
    #[inline(always)]
    pub fn iter<T: Lane>(&self) -> impl DoubleEndedIterator<Item = T> + ExactSizeIterator {
        self.0.chunks_exact(T::BYTES).map(T::load)
    }

    /// The lowest `M` bytes, zero-extended if that is more.
    #[must_use]
    #[inline(always)]
    pub fn resized<const M: usize>(&self) -> Vector<M> {
        let mut v = Vector::ZERO;
        let n = if N < M { N } else { M };
        v.0[..n].copy_from_slice(&self.0[..n]);
        v
    }

    /// Bytes `P x i` and on.
    #[must_use]
    #[inline(always)]
    pub fn part<const P: usize>(&self, i: usize) -> Vector<P> {
        let mut v = Vector::ZERO;
        v.0.copy_from_slice(&self.0[P * i..P * (i + 1)]);
        v
    }

    /// `f` of each pair of parts of `P` bytes, and their number.
    #[must_use]
    #[inline(always)]
    pub fn zip_parts<const P: usize>(self, other: Self, f: impl Fn(Vector<P>, Vector<P>, usize) -> Vector<P>) -> Self {
        let mut v = Self::ZERO;
        for i in 0..N / P {
            v.0[P * i..P * (i + 1)].copy_from_slice(&f(self.part(i), other.part(i), i).0);
        }
        v
    }

    /// `T` in every lane.
    #[must_use]
    #[inline(always)]
    pub fn splat<T: Lane>(value: T) -> Self {
        Self::build(|_| value)
    }
}

impl V256 {
    /// From its 128-bit lanes.
    #[must_use]
    #[inline(always)]
    pub fn join(low: V128, high: V128) -> Self {
        let mut v = Self::ZERO;
        v.0[..16].copy_from_slice(&low.0);
        v.0[16..].copy_from_slice(&high.0);
        v
    }
}

impl From<u64> for V64 {
    #[inline(always)]
    fn from(v: u64) -> Self {
        Self(v.to_le_bytes())
    }
}
impl From<V64> for u64 {
    #[inline(always)]
    fn from(v: V64) -> Self {
        Self::from_le_bytes(v.0)
    }
}
impl From<u128> for V128 {
    #[inline(always)]
    fn from(v: u128) -> Self {
        Self(v.to_le_bytes())
    }
}
impl From<V128> for u128 {
    #[inline(always)]
    fn from(v: V128) -> Self {
        Self::from_le_bytes(v.0)
    }
}

/// Functions of two vectors that act on each pair of lanes alone: `fn name(lane type) = scalar function`.
macro_rules! lanewise {
    ($($(#[$doc:meta])* fn $name:ident($t:ty) = $f:expr;)*) => {$(
        $(#[$doc])*
        #[doc = concat!("`", stringify!($name), "` of each pair of lanes.")]
        #[must_use]
        #[inline(always)]
        pub fn $name<const N: usize>(a: $crate::semantics::simd::Vector<N>, b: $crate::semantics::simd::Vector<N>) -> $crate::semantics::simd::Vector<N> {
            a.zip::<$t>(b, $f)
        }
    )*};
}
use lanewise;
