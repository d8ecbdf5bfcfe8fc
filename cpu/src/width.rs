//! Operand widths: every integer semantic is written once, generic over [`Width`].

use crate::semantics::simd::{V128, V256};

/// A value that a load or store moves at once (little-endian in memory).
pub trait Value: Copy + Default + 'static {
    /// Size in bytes.
    const BYTES: usize;
    /// From little-endian bytes; `bytes` is [`Value::BYTES`] long.
    fn from_le(bytes: &[u8]) -> Self;
    /// To little-endian bytes, the first [`Value::BYTES`] of the array.
    fn to_le(self) -> [u8; 32];
}

macro_rules! value {
    ($($t:ty),*) => {$(
        impl Value for $t {
            const BYTES: usize = size_of::<$t>();
            #[inline(always)]
            fn from_le(bytes: &[u8]) -> Self {
                let mut b = [0; size_of::<$t>()];
                b.copy_from_slice(&bytes[..size_of::<$t>()]);
                <$t>::from_le_bytes(b)
            }
            #[inline(always)]
            fn to_le(self) -> [u8; 32] {
                let mut b = [0; 32];
                b[..size_of::<$t>()].copy_from_slice(&self.to_le_bytes());
                b
            }
        }
    )*};
}
value!(u8, u16, u32, u64, u128);

/// An XMM operand.
impl Value for V128 {
    const BYTES: usize = 16;
    #[inline(always)]
    fn from_le(bytes: &[u8]) -> Self {
        let mut v = Self::ZERO;
        v.0.copy_from_slice(&bytes[..16]);
        v
    }
    #[inline(always)]
    fn to_le(self) -> [u8; 32] {
        self.resized::<32>().0
    }
}

/// A YMM operand.
impl Value for V256 {
    const BYTES: usize = 32;
    #[inline(always)]
    fn from_le(bytes: &[u8]) -> Self {
        let mut v = Self::ZERO;
        v.0.copy_from_slice(&bytes[..32]);
        v
    }
    #[inline(always)]
    fn to_le(self) -> [u8; 32] {
        self.0
    }
}

/// An 80-bit x87 operand.
impl Value for [u8; 10] {
    const BYTES: usize = 10;
    #[inline(always)]
    fn from_le(bytes: &[u8]) -> Self {
        let mut b = [0; 10];
        b.copy_from_slice(&bytes[..10]);
        b
    }
    #[inline(always)]
    fn to_le(self) -> [u8; 32] {
        let mut b = [0; 32];
        b[..10].copy_from_slice(&self);
        b
    }
}

/// The register numbers of AH, CH, DH and BH as 8-bit operands: `HIGH_BYTE | n` is bits 15:8 of register `n`.
pub const HIGH_BYTE: u8 = 0x20;

/// A general-register operand width: `u8`, `u16`, `u32` or `u64`.
pub trait Width: Value + Eq + Ord {
    /// Size in bits.
    const BITS: u32 = Self::BYTES as u32 * 8;
    /// The low bits of `v`.
    fn of(v: u64) -> Self;
    /// Zero-extended.
    fn zx(self) -> u64;
    /// Sign-extended.
    fn sx(self) -> u64;
    /// Reads general register `r` (see [`HIGH_BYTE`]).
    fn get(regs: &[u64; 32], r: u8) -> Self;
    /// Writes general register `r`: 32-bit writes clear the upper half, 8- and 16-bit writes keep the rest (SDM 1, 3.4.1.1).
    fn set(regs: &mut [u64; 32], r: u8, v: Self);
}

impl Width for u8 {
    #[inline(always)]
    fn of(v: u64) -> Self {
        v as u8
    }
    #[inline(always)]
    fn zx(self) -> u64 {
        u64::from(self)
    }
    #[inline(always)]
    fn sx(self) -> u64 {
        self as i8 as u64
    }
    #[inline(always)]
    fn get(regs: &[u64; 32], r: u8) -> Self {
        // One shift serves both halves: 8 for AH.., 0 otherwise.
        (regs[usize::from(r & 31)] >> ((r & HIGH_BYTE) >> 2)) as u8
    }
    #[inline(always)]
    fn set(regs: &mut [u64; 32], r: u8, v: Self) {
        let shift = (r & HIGH_BYTE) >> 2;
        let reg = &mut regs[usize::from(r & 31)];
        *reg = *reg & !(0xff << shift) | u64::from(v) << shift;
    }
}

macro_rules! width {
    ($t:ty, $signed:ty, $regs:ident, $i:ident, $v:ident, $set:expr) => {
        impl Width for $t {
            #[inline(always)]
            fn of(v: u64) -> Self {
                v as $t
            }
            #[inline(always)]
            fn zx(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn sx(self) -> u64 {
                self as $signed as u64
            }
            #[inline(always)]
            fn get(regs: &[u64; 32], r: u8) -> Self {
                regs[usize::from(r & 31)] as $t
            }
            #[inline(always)]
            fn set($regs: &mut [u64; 32], r: u8, $v: Self) {
                let $i = usize::from(r & 31);
                $set
            }
        }
    };
}
width!(u16, i16, regs, i, v, regs[i] = regs[i] & !0xffff | u64::from(v));
width!(u32, i32, regs, i, v, regs[i] = u64::from(v));
width!(u64, i64, regs, i, v, regs[i] = v);
