//! PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM (SDM 2, 4.1 "Imm8 control byte operation").

use super::{V128, Vector};

/// What a comparison found: the bits of IntRes2 and the flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// IntRes2, a bit for each element.
    pub bits: u16,
    /// CF: anything found.
    pub carry: bool,
    /// ZF: the second operand ends within the register.
    pub zero: bool,
    /// SF: the first operand ends within the register.
    pub sign: bool,
    /// OF: bit 0 of IntRes2.
    pub overflow: bool,
}

/// How many elements `imm` makes of a register.
#[inline]
const fn elements(imm: u8) -> usize {
    if imm & 1 == 0 { 16 } else { 8 }
}

/// Element `i`, widened as the sign bit of the format says.
#[inline]
fn element(v: &V128, imm: u8, i: usize) -> i32 {
    match imm & 3 {
        0 => v.get::<u8>(i).into(),
        1 => v.get::<u16>(i).into(),
        2 => v.get::<i8>(i).into(),
        _ => v.get::<i16>(i).into(),
    }
}

/// The length of a string that a zero element ends.
#[must_use]
pub fn implicit_length(v: V128, imm: u8) -> usize {
    let n = elements(imm);
    (0..n).find(|&i| element(&v, imm, i) == 0).unwrap_or(n)
}

/// The length of a string as EAX or EDX (RAX or RDX with REX.W), sign-extended, give it: its magnitude, saturated.
#[must_use]
pub fn explicit_length(register: i64, imm: u8) -> usize {
    register.unsigned_abs().min(elements(imm) as u64) as usize
}

/// Compares `a` (a set, ranges, a string, or a needle, of `a_len` elements) with `b` (of `b_len` elements).
#[must_use]
pub fn compare(a: V128, a_len: usize, b: V128, b_len: usize, imm: u8) -> Found {
    let n = elements(imm);
    let at = |v: &V128, i: usize| element(v, imm, i);
    let hit = |j: usize| -> bool {
        match imm >> 2 & 3 {
            // Equal any.
            0 => j < b_len && (0..a_len).any(|i| at(&a, i) == at(&b, j)),
            // Ranges: an odd last bound has no partner and matches nothing.
            1 => j < b_len && (0..a_len / 2).any(|i| (at(&a, 2 * i)..=at(&a, 2 * i + 1)).contains(&at(&b, j))),
            // Equal each: beyond both ends counts as equal.
            2 => match (j < a_len, j < b_len) {
                (true, true) => at(&a, j) == at(&b, j),
                (false, false) => true,
                _ => false,
            },
            // Equal ordered: the needle may run off the end of the register, not off the end of the string.
            _ => (0..a_len.min(n - j)).all(|i| i + j < b_len && at(&a, i) == at(&b, i + j)),
        }
    };
    let all = (0..n).fold(0u16, |bits, j| bits | u16::from(hit(j)) << j);
    let bits = match imm >> 4 & 3 {
        1 => !all & ones(n),
        3 => all ^ ones(b_len),
        _ => all,
    };
    Found { bits, carry: bits != 0, zero: b_len < n, sign: a_len < n, overflow: bits & 1 != 0 }
}

/// The lowest `n` bits set.
const fn ones(n: usize) -> u16 {
    ((1u32 << n) - 1) as u16
}

/// PCMPxSTRI's ECX: the lowest or (imm bit 6) the highest found element, or the number of elements.
#[must_use]
pub fn index(found: Found, imm: u8) -> u32 {
    match (found.bits, imm & 0x40 != 0) {
        (0, _) => elements(imm) as u32,
        (bits, false) => bits.trailing_zeros(),
        (bits, true) => 15 - bits.leading_zeros(),
    }
}

/// PCMPxSTRM's XMM0: the bits, or (imm bit 6) a whole element for each.
#[must_use]
pub fn mask(found: Found, imm: u8) -> V128 {
    let bit = |i: usize| found.bits >> i & 1 != 0;
    match (imm & 0x40 != 0, imm & 1 != 0) {
        (false, _) => Vector::ZERO.with(0, found.bits),
        (true, false) => Vector::build(|i| if bit(i) { !0u8 } else { 0 }),
        (true, true) => Vector::build(|i| if bit(i) { !0u16 } else { 0 }),
    }
}
