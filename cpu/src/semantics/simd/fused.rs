//! The fused multiply-add.

use super::Vector;
use super::float::{Real, Unmasked, finish, quick};
use crate::semantics::softfloat::{self, Env, F32, F64};

/// Which signs change in `x * y + z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Negate {
    /// That of the product.
    pub product: bool,
    /// That of `z` in even lanes.
    pub even: bool,
    /// That of `z` in odd lanes.
    pub odd: bool,
}

impl Negate {
    const fn new(product: bool, even: bool, odd: bool) -> Self {
        Self { product, even, odd }
    }
    /// VFMADD.
    pub const ADD: Self = Self::new(false, false, false);
    /// VFMSUB.
    pub const SUB: Self = Self::new(false, true, true);
    /// VFNMADD.
    pub const NEGATIVE_ADD: Self = Self::new(true, false, false);
    /// VFNMSUB.
    pub const NEGATIVE_SUB: Self = Self::new(true, true, true);
    /// VFMADDSUB: subtracts in even lanes.
    pub const ADD_SUB: Self = Self::new(false, true, false);
    /// VFMSUBADD: subtracts in odd lanes.
    pub const SUB_ADD: Self = Self::new(false, false, true);

    #[inline(always)]
    const fn addend(self, lane: usize) -> bool {
        if lane % 2 == 0 { self.even } else { self.odd }
    }
}

/// A format in which the host can fuse.
pub trait Fused: Real {
    /// The number with the other sign.
    fn negated(x: Self::Bits) -> Self::Bits;
    /// `x * y + z` rounded to nearest once, and whether it is known to be right and silent but for PE.
    fn host(x: Self::Bits, y: Self::Bits, z: Self::Bits) -> (Self::Bits, bool);
}

impl Fused for F32 {
    #[inline(always)]
    fn negated(x: u32) -> u32 {
        x ^ 1 << 31
    }

    /// In double precision the product is exact, and rounding the sum once more is harmless unless it lies right between
    /// two singles.
    #[inline(always)]
    fn host(x: u32, y: u32, z: u32) -> (u32, bool) {
        let sum = Self::value(x) * Self::value(y) + Self::value(z);
        let r = (sum as f32).to_bits();
        let between = sum.to_bits() & 0x1fff_ffff == 0x1000_0000;
        let vanished = Self::is_zero(r) & (sum != 0.0);
        (r, Self::plain(x) & Self::plain(y) & Self::plain(z) & Self::plain(r) & !between & !vanished)
    }
}

impl Fused for F64 {
    #[inline(always)]
    fn negated(x: u64) -> u64 {
        x ^ 1 << 63
    }

    #[inline(always)]
    fn host(x: u64, y: u64, z: u64) -> (u64, bool) {
        let r = f64::from_bits(x).mul_add(f64::from_bits(y), f64::from_bits(z)).to_bits();
        let plain = Self::plain(x) & Self::plain(y) & Self::plain(z) & Self::plain(r);
        (r, plain & (!Self::is_zero(r) | Self::is_zero(x) | Self::is_zero(y)))
    }
}

/// `x * y + z` of each lane, rounded once, with signs changed.
///
/// # Errors
/// [`Unmasked`].
#[inline(always)]
pub fn fma<F: Fused, const N: usize>(
    x: Vector<N>,
    y: Vector<N>,
    z: Vector<N>,
    negate: Negate,
    mxcsr: &mut u32,
) -> Result<Vector<N>, Unmasked> {
    if quick(*mxcsr) {
        let mut sure = true;
        let r = Vector::build(|i| {
            let (mut x, mut z) = (x.get(i), z.get(i));
            if negate.product {
                x = F::negated(x);
            }
            if negate.addend(i) {
                z = F::negated(z);
            }
            let (r, ok) = F::host(x, y.get(i), z);
            sure &= ok;
            r
        });
        if sure {
            return Ok(r);
        }
    }
    exactly::<F, N>(x, y, z, negate, mxcsr)
}

#[cold]
#[inline(never)]
fn exactly<F: Fused, const N: usize>(
    x: Vector<N>,
    y: Vector<N>,
    z: Vector<N>,
    negate: Negate,
    mxcsr: &mut u32,
) -> Result<Vector<N>, Unmasked> {
    let mut env = Env::from_mxcsr(*mxcsr);
    let r = Vector::build(|i| softfloat::mul_add::<F>(x.get(i), y.get(i), z.get(i), (negate.product, negate.addend(i)), &mut env));
    finish(r, &env, mxcsr)
}
