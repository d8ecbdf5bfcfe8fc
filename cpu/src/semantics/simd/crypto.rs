//! CRC32, carry-less multiplication and AES rounds.

use super::integer::pxor;
use super::{V128, Vector};

/// Folds the lowest `bytes` bytes of `data` into the CRC-32C `crc` (polynomial 11EDC6F41h, bit-reflected).
#[must_use]
pub fn crc32(crc: u32, data: u64, bytes: usize) -> u32 {
    data.to_le_bytes()[..bytes].iter().fold(crc, |crc, b| CRC[usize::from(crc as u8 ^ b)] ^ crc >> 8)
}

static CRC: [u32; 256] = crc_table();

const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
}

/// The carry-less product of one quadword of `a` (imm bit 0) and one of `b` (imm bit 4).
#[must_use]
pub fn pclmulqdq(a: V128, b: V128, imm: u8) -> V128 {
    let x = a.get::<u64>(usize::from(imm & 1));
    let y = u128::from(b.get::<u64>(usize::from(imm >> 4 & 1)));
    (0..64).filter(|i| x >> i & 1 != 0).fold(0u128, |sum, i| sum ^ y << i).into()
}

/// Multiplication by x in AES's field (FIPS 197, 4.2.1).
const fn xtime(a: u8) -> u8 {
    a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 }
}

/// Multiplication in AES's field.
const fn times(a: u8, b: u8) -> u8 {
    let (mut a, mut b, mut product) = (a, b, 0);
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = xtime(a);
        b >>= 1;
    }
    product
}

/// The S-box and its inverse (FIPS 197, 5.1.1): inverses found by walking powers of the generator 3.
const fn boxes() -> ([u8; 256], [u8; 256]) {
    let (mut forward, mut inverse) = ([0u8; 256], [0u8; 256]);
    let (mut p, mut q) = (1u8, 1u8);
    loop {
        p = times(p, 3);
        q = times(q, 0xf6);
        let s = q ^ q.rotate_left(1) ^ q.rotate_left(2) ^ q.rotate_left(3) ^ q.rotate_left(4) ^ 0x63;
        forward[p as usize] = s;
        inverse[s as usize] = p;
        if p == 1 {
            break;
        }
    }
    forward[0] = 0x63;
    inverse[0x63] = 0;
    (forward, inverse)
}

static SBOX: [u8; 256] = boxes().0;
static INVERSE_SBOX: [u8; 256] = boxes().1;

/// ShiftRows and SubBytes (they commute).
fn shift_sub(a: V128) -> V128 {
    Vector(std::array::from_fn(|i| SBOX[usize::from(a.0[(i + (i % 4) * 4) % 16])]))
}

/// InvShiftRows and InvSubBytes.
fn inverse_shift_sub(a: V128) -> V128 {
    Vector(std::array::from_fn(|i| INVERSE_SBOX[usize::from(a.0[(i + 16 - (i % 4) * 4) % 16])]))
}

/// Multiplies each column by the circulant matrix whose first row is `row`.
fn mix(a: V128, row: [u8; 4]) -> V128 {
    Vector(std::array::from_fn(|i| (0..4).fold(0, |sum, j| sum ^ times(a.0[i / 4 * 4 + j], row[(j + 4 - i % 4) % 4]))))
}

/// One round of encryption.
#[must_use]
pub fn aesenc(a: V128, key: V128) -> V128 {
    pxor(mix(shift_sub(a), [2, 3, 1, 1]), key)
}

/// The last round of encryption.
#[must_use]
pub fn aesenclast(a: V128, key: V128) -> V128 {
    pxor(shift_sub(a), key)
}

/// One round of decryption (equivalent inverse cipher).
#[must_use]
pub fn aesdec(a: V128, key: V128) -> V128 {
    pxor(aesimc(inverse_shift_sub(a)), key)
}

/// The last round of decryption.
#[must_use]
pub fn aesdeclast(a: V128, key: V128) -> V128 {
    pxor(inverse_shift_sub(a), key)
}

/// InvMixColumns, for round keys.
#[must_use]
pub fn aesimc(a: V128) -> V128 {
    mix(a, [14, 11, 13, 9])
}

/// Helps with a round key: SubWord and RotWord of the odd doublewords, with the round constant `imm`.
#[must_use]
pub fn aeskeygenassist(a: V128, imm: u8) -> V128 {
    let sub = |i: usize| u32::from_le_bytes(std::array::from_fn(|j| SBOX[usize::from(a.0[4 * i + j])]));
    let rot = |i: usize| sub(i).rotate_right(8) ^ u32::from(imm);
    Vector::build(|i| [sub(1), rot(1), sub(3), rot(3)][i])
}
