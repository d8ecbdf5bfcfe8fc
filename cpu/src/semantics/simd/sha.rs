//! Steps of SHA-1 and SHA-256 (FIPS 180-4). Words of a state or message stand in the order that the SDM gives them.

use super::{V128, Vector};

fn words(v: V128) -> [u32; 4] {
    std::array::from_fn(|i| v.get(i))
}

fn vector(words: [u32; 4]) -> V128 {
    Vector::build(|i| words[i])
}

const fn choose(x: u32, y: u32, z: u32) -> u32 {
    x & y ^ !x & z
}

const fn majority(x: u32, y: u32, z: u32) -> u32 {
    x & y ^ x & z ^ y & z
}

const fn parity(x: u32, y: u32, z: u32) -> u32 {
    x ^ y ^ z
}

/// Four rounds of SHA-1: the state A to D in `a`, words with E added to the first in `b`, the round function by `imm`.
#[must_use]
pub fn sha1rnds4(a: V128, b: V128, imm: u8) -> V128 {
    let (f, k): (fn(u32, u32, u32) -> u32, u32) = match imm & 3 {
        0 => (choose, 0x5a82_7999),
        1 => (parity, 0x6ed9_eba1),
        2 => (majority, 0x8f1b_bcdc),
        _ => (parity, 0xca62_c1d6),
    };
    let ([mut d, mut c, mut b_, mut a_], mut e) = (words(a), 0u32);
    for w in words(b).into_iter().rev() {
        let next = f(b_, c, d).wrapping_add(a_.rotate_left(5)).wrapping_add(w).wrapping_add(e).wrapping_add(k);
        (e, d, c, b_, a_) = (d, c, b_.rotate_left(30), a_, next);
    }
    vector([d, c, b_, a_])
}

/// The next E, of A in `a`, added to the highest word of `b`.
#[must_use]
pub fn sha1nexte(a: V128, b: V128) -> V128 {
    b.with(3, b.get::<u32>(3).wrapping_add(a.get::<u32>(3).rotate_left(30)))
}

/// The first step of four more SHA-1 message words.
#[must_use]
pub fn sha1msg1(a: V128, b: V128) -> V128 {
    let ([w3, w2, w1, w0], [_, _, w5, w4]) = (words(a), words(b));
    vector([w5 ^ w3, w4 ^ w2, w3 ^ w1, w2 ^ w0])
}

/// The last step of four more SHA-1 message words.
#[must_use]
pub fn sha1msg2(a: V128, b: V128) -> V128 {
    let ([x3, x2, x1, x0], [w15, w14, w13, _]) = (words(a), words(b));
    let w16 = (x0 ^ w13).rotate_left(1);
    vector([(x3 ^ w16).rotate_left(1), (x2 ^ w15).rotate_left(1), (x1 ^ w14).rotate_left(1), w16])
}

/// Two rounds of SHA-256: C, D, G, H in `a`, A, B, E, F in `b`, two words with their constants in `wk`.
#[must_use]
pub fn sha256rnds2(a: V128, b: V128, wk: V128) -> V128 {
    let ([mut h, mut g, mut d, mut c], [mut f, mut e, mut b_, mut a_]) = (words(a), words(b));
    for w in &words(wk)[..2] {
        let sum1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let sum0 = a_.rotate_right(2) ^ a_.rotate_right(13) ^ a_.rotate_right(22);
        let t = choose(e, f, g).wrapping_add(sum1).wrapping_add(*w).wrapping_add(h);
        let next = t.wrapping_add(majority(a_, b_, c)).wrapping_add(sum0);
        (h, g, f, e, d, c, b_, a_) = (g, f, e, t.wrapping_add(d), c, b_, a_, next);
    }
    vector([f, e, b_, a_])
}

/// The first step of four more SHA-256 message words.
#[must_use]
pub fn sha256msg1(a: V128, b: V128) -> V128 {
    let sigma = |w: u32| w.rotate_right(7) ^ w.rotate_right(18) ^ w >> 3;
    let next = |i: usize| if i < 3 { a.get(i + 1) } else { b.get(0) };
    Vector::build(|i| a.get::<u32>(i).wrapping_add(sigma(next(i))))
}

/// The last step of four more SHA-256 message words.
#[must_use]
pub fn sha256msg2(a: V128, b: V128) -> V128 {
    let sigma = |w: u32| w.rotate_right(17) ^ w.rotate_right(19) ^ w >> 10;
    let ([x0, x1, x2, x3], [_, _, w14, w15]) = (words(a), words(b));
    let (w16, w17) = (x0.wrapping_add(sigma(w14)), x1.wrapping_add(sigma(w15)));
    vector([w16, w17, x2.wrapping_add(sigma(w16)), x3.wrapping_add(sigma(w17))])
}
