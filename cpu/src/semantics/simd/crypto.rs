//! CRC32, carry-less multiplication and AES rounds.

use super::integer::pxor;
use super::{V128, Vector, gf2};

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

/// The low 64 bits of the carry-less product: integer products of every fourth bit, whose sums do not reach the next one.
const fn product_low(x: u64, y: u64) -> u64 {
    const EVERY_FOURTH: u64 = 0x1111_1111_1111_1111;
    let mut product = 0;
    let mut class = 0;
    while class < 4 {
        let (mut sum, mut i) = (0, 0);
        while i < 4 {
            let j = (4 + class - i) % 4;
            sum ^= (x & EVERY_FOURTH << i).wrapping_mul(y & EVERY_FOURTH << j);
            i += 1;
        }
        product |= sum & EVERY_FOURTH << class;
        class += 1;
    }
    product
}

/// The carry-less product of one quadword of `a` (imm bit 0) and one of `b` (imm bit 4).
#[must_use]
pub fn pclmulqdq(a: V128, b: V128, imm: u8) -> V128 {
    let x = a.get::<u64>(usize::from(imm & 1));
    let y = b.get::<u64>(usize::from(imm >> 4 & 1));
    // Backwards, the upper half is a lower one, one bit off.
    let high = product_low(x.reverse_bits(), y.reverse_bits()).reverse_bits() >> 1;
    Vector::build(|i| [product_low(x, y), high][i])
}

/// The S-box and its inverse (FIPS 197, 5.1.1).
const fn boxes() -> ([u8; 256], [u8; 256]) {
    let (mut forward, mut inverse) = ([0u8; 256], [0u8; 256]);
    let mut i = 0;
    while i < 256 {
        let q = gf2::INVERSES[i];
        let s = q ^ q.rotate_left(1) ^ q.rotate_left(2) ^ q.rotate_left(3) ^ q.rotate_left(4) ^ 0x63;
        forward[i] = s;
        inverse[s as usize] = i as u8;
        i += 1;
    }
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

/// Multiplication of four bytes by x (FIPS 197, 4.2.1).
const fn times_x(w: u32) -> u32 {
    ((w & 0x7f7f_7f7f) << 1) ^ ((w >> 7 & 0x0101_0101) * 0x1b)
}

/// MixColumns: each column times the circulant matrix of 2, 3, 1, 1.
fn mix(a: V128) -> V128 {
    a.map(|w: u32| times_x(w ^ w.rotate_right(8)) ^ w.rotate_right(8) ^ w.rotate_right(16) ^ w.rotate_right(24))
}

/// One round of encryption.
#[must_use]
pub fn aesenc(a: V128, key: V128) -> V128 {
    pxor(mix(shift_sub(a)), key)
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
    // The matrix of 14, 11, 13, 9 is that of MixColumns times that of 5, 0, 4, 0.
    mix(a.map(|w: u32| w ^ times_x(times_x(w ^ w.rotate_right(16)))))
}

/// Helps with a round key: SubWord and RotWord of the odd doublewords, with the round constant `imm`.
#[must_use]
pub fn aeskeygenassist(a: V128, imm: u8) -> V128 {
    let sub = |i: usize| u32::from_le_bytes(std::array::from_fn(|j| SBOX[usize::from(a.0[4 * i + j])]));
    let rot = |i: usize| sub(i).rotate_right(8) ^ u32::from(imm);
    Vector::build(|i| [sub(1), rot(1), sub(3), rot(3)][i])
}
