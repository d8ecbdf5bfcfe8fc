//! The field with 256 elements, reduced by x^8 + x^4 + x^3 + x + 1 as AES does, and affine maps of its bits (GFNI).

use super::{V128, Vector};

/// Multiplication by x (FIPS 197, 4.2.1).
const fn times_x(a: u8) -> u8 {
    a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 }
}

/// Multiplication.
#[must_use]
pub const fn times(a: u8, b: u8) -> u8 {
    let (mut a, mut b, mut product) = (a, b, 0);
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = times_x(a);
        b >>= 1;
    }
    product
}

/// Inverses; 0 is its own. Found by walking the powers of the generator 3 and of its inverse.
const fn inverses() -> [u8; 256] {
    let mut inverse = [0u8; 256];
    let (mut p, mut q) = (1u8, 1u8);
    loop {
        p = times(p, 3);
        q = times(q, 0xf6);
        inverse[p as usize] = q;
        if p == 1 {
            return inverse;
        }
    }
}

/// The inverse of each element.
pub const INVERSES: [u8; 256] = inverses();
static INVERSE: [u8; 256] = INVERSES;

/// Products of bytes.
#[must_use]
pub fn gf2p8mulb(a: V128, b: V128) -> V128 {
    a.zip(b, |mut x: u8, y: u8| {
        let mut product = 0;
        for i in 0..8 {
            product ^= x & (y >> i & 1).wrapping_neg();
            x = x << 1 ^ 0x1b & (x >> 7).wrapping_neg();
        }
        product
    })
}

/// `matrix` (its first row is the highest byte) times the bits of `x`, plus `b`.
fn affine(matrix: u64, x: u8, b: u8) -> u8 {
    let rows = matrix.swap_bytes();
    (0..8).fold(b, |r, i| r ^ (((rows >> (8 * i)) as u8 & x).count_ones() as u8 & 1) << i)
}

/// The affine map of each byte of `a` by the matrix of its quadword in `b`.
#[must_use]
pub fn gf2p8affineqb(a: V128, b: V128, imm: u8) -> V128 {
    Vector(std::array::from_fn(|i| affine(b.get(i / 8), a.0[i], imm)))
}

/// As [`gf2p8affineqb`], of the bytes' inverses.
#[must_use]
pub fn gf2p8affineinvqb(a: V128, b: V128, imm: u8) -> V128 {
    gf2p8affineqb(a.map(|x: u8| INVERSE[usize::from(x)]), b, imm)
}
