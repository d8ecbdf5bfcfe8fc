//! Operands that favour edges, from a generator that repeats.

use std::sync::LazyLock;

/// A small generator (xorshift64*).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// One for the `index`th case of `seed`.
    #[must_use]
    pub fn new(seed: u64, index: u64) -> Self {
        // splitmix64: neighbours share nothing.
        let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index.wrapping_mul(0xd1b5_4a32_d192_ed03);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mut random = Self((z ^ z >> 31) | 1);
        random.next();
        random
    }
    /// 64 random bits.
    #[allow(clippy::should_implement_trait, reason = "it never ends, so it is no iterator's")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
    /// True in `percent` of a hundred calls.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    /// One of `from`, which is not empty.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// What vectors and memory are made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Integers of so many bytes.
    Integer(usize),
    /// binary32
    Single,
    /// binary64
    Double,
    /// The x87's format.
    Extended,
    /// binary16
    Half,
}

/// An integer whose `bits` favour the edges.
pub fn integer(r: &mut Random, bits: u32) -> u64 {
    let mask = u64::MAX >> (64 - bits);
    let sign = 1u64 << (bits - 1);
    let value = match r.below(16) {
        0 | 1 => 0,
        2 => 1,
        3 => mask,
        4 => sign,
        5 => sign - 1,
        6 => sign + 1,
        7 => mask - 1,
        8 => 1 << r.below(bits.into()),
        9 => (1 << r.below(bits.into())) - 1,
        10 => !(1 << r.below(bits.into())),
        11 => r.below(64),
        12 => r.next() & r.next() & r.next(),
        _ => r.next(),
    };
    value & mask
}

/// Sign, exponent and fraction of a number with so many exponents and fraction bits.
fn parts(r: &mut Random, exponents: u64, fraction: u32) -> (u64, u64, u64) {
    let low = (1u64 << fraction) - 1;
    let exponent = match r.below(10) {
        0 => 0,
        1 => exponents,
        2 => 1 + r.below(2),
        3 => exponents - 1,
        4 | 5 => (exponents / 2 + r.below(128)).saturating_sub(64) & exponents,
        6 | 7 => exponents / 2 + r.below(4) - 1,
        _ => r.next() & exponents,
    };
    let mantissa = match r.below(9) {
        0 | 1 => 0,
        2 => low,
        3 => 1,
        4 => 1 << r.below(fraction.into()),
        5 => low & !(low >> 1 >> r.below(fraction.into())),
        6 => r.next() & low & !((1 << r.below(fraction.into())) - 1),
        _ => r.next() & low,
    };
    (r.next() >> 63, exponent, mantissa)
}

/// A binary32.
pub fn single(r: &mut Random) -> u32 {
    let (sign, exponent, fraction) = parts(r, 0xff, 23);
    (sign << 31 | exponent << 23 | fraction) as u32
}

/// A binary16.
pub fn half(r: &mut Random) -> u16 {
    let (sign, exponent, fraction) = parts(r, 0x1f, 10);
    (sign << 15 | exponent.min(0x1f) << 10 | fraction) as u16
}

/// A binary64. Some are what a binary32 holds, or near an integer's limit.
pub fn double(r: &mut Random) -> u64 {
    if r.percent(15) {
        let edge = [31, 32, 63, 15, 53][r.below(5) as usize];
        let near = [0u64, 1, 2, 0x3fff_ffff, 0x10_0000_0000][r.below(5) as usize];
        return ((r.next() >> 63 << 63) | (1023 + edge) << 52).wrapping_add(near).wrapping_sub(r.below(3));
    }
    let (sign, exponent, fraction) = parts(r, 0x7ff, 52);
    sign << 63 | exponent << 52 | fraction
}

/// An 80-bit number. One in sixteen is a pseudo-denormal or has no meaning.
pub fn extended(r: &mut Random) -> [u8; 10] {
    let (sign, exponent, fraction) = parts(r, 0x7fff, 63);
    let whole = (exponent != 0) != r.percent(6);
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&(fraction | u64::from(whole) << 63).to_le_bytes());
    bytes[8..].copy_from_slice(&((sign << 15 | exponent) as u16).to_le_bytes());
    bytes
}

/// A packed BCD, mostly of valid digits.
pub fn bcd(r: &mut Random) -> [u8; 10] {
    std::array::from_fn(|i| match i {
        9 => (r.next() as u8) & 0x80,
        _ if r.percent(3) => r.next() as u8,
        _ => (r.below(10) << 4 | r.below(10)) as u8,
    })
}

/// Fills `bytes` with values of `kind`.
pub fn fill_kind(r: &mut Random, kind: Kind, bytes: &mut [u8]) {
    let size = match kind {
        Kind::Integer(n) => n,
        Kind::Single => 4,
        Kind::Double => 8,
        Kind::Extended => 10,
        Kind::Half => 2,
    };
    for slot in bytes.chunks_mut(size) {
        let value: [u8; 16] = match kind {
            Kind::Integer(n) => widen(&integer(r, 8 * n as u32).to_le_bytes()),
            Kind::Single => widen(&single(r).to_le_bytes()),
            Kind::Double => widen(&double(r).to_le_bytes()),
            Kind::Half => widen(&half(r).to_le_bytes()),
            Kind::Extended => widen(&extended(r)),
        };
        slot.copy_from_slice(&value[..slot.len()]);
    }
}

fn widen(bytes: &[u8]) -> [u8; 16] {
    std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0))
}

/// Any kind.
pub fn kind(r: &mut Random) -> Kind {
    r.pick(&[Kind::Integer(1), Kind::Integer(2), Kind::Integer(4), Kind::Integer(8), Kind::Single, Kind::Double])
}

/// Bytes that are made once and copied: a background for the memory of cases.
static POOL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut pool = vec![0; 1 << 18];
    fill(&mut Random::new(0x9001, 0), &mut pool);
    pool
});

/// Fills `bytes`, at most 64 KiB, from a pool of values of changing kinds.
pub fn background(r: &mut Random, bytes: &mut [u8]) {
    let at = 8 * r.below(((1 << 18) - (1 << 16)) / 8) as usize;
    bytes.copy_from_slice(&POOL[at..at + bytes.len()]);
}

/// Fills `bytes` with values of changing kinds.
pub fn fill(r: &mut Random, bytes: &mut [u8]) {
    for slot in bytes.chunks_mut(64) {
        let kind = kind(r);
        fill_kind(r, kind, slot);
    }
}
