//! RCPSS/RCPPS and RSQRTSS/RSQRTPS, defined once so that every host agrees.
//!
//! The SDM promises only a relative error of at most 1.5 x 2^-12. Here the result is the exact value rounded to nearest
//! with 12 fraction bits (relative error at most 2^-13). Denormal operands count as zero and tiny results become
//! zero, as the SDM demands; no exceptions are raised and MXCSR is not looked at.

const SIGN: u32 = 1 << 31;
const INFINITY: u32 = 0x7f80_0000;
const QUIET: u32 = 0x0040_0000;
const DEFAULT_NAN: u32 = 0xffc0_0000;

/// Bits of SSE's estimates.
const PRECISION: u32 = 13;

/// An estimate of `1 / x`.
#[must_use]
pub fn rcp(x: u32) -> u32 {
    let magnitude = x & !SIGN;
    if magnitude > INFINITY { x | QUIET } else { x & SIGN | reciprocal::<PRECISION>(magnitude) }
}

/// `1 / x` rounded to `BITS` bits, for an `x` that is positive and no NaN.
pub(super) fn reciprocal<const BITS: u32>(x: u32) -> u32 {
    if x == INFINITY {
        return 0;
    }
    let exponent = x >> 23;
    if exponent == 0 {
        return INFINITY;
    }
    // 2^59 / M is in (2^35, 2^36]: 1/1.f scaled by 2^36.
    let q = (1u64 << 59) / u64::from(x & 0x7f_ffff | 0x80_0000);
    if q == 1 << 36 {
        return pack::<BITS>(254 - exponent as i32, 1 << (BITS - 1));
    }
    pack::<BITS>(253 - exponent as i32, round::<BITS>(q, 35))
}

/// An estimate of `1 / sqrt(x)`.
#[must_use]
pub fn rsqrt(x: u32) -> u32 {
    let magnitude = x & !SIGN;
    if magnitude > INFINITY {
        return x | QUIET;
    }
    if magnitude >> 23 != 0 && x & SIGN != 0 {
        return DEFAULT_NAN;
    }
    x & SIGN | reciprocal_root::<PRECISION>(magnitude)
}

/// `1 / sqrt(x)` rounded to `BITS` bits, for an `x` that is positive and no NaN.
pub(super) fn reciprocal_root<const BITS: u32>(x: u32) -> u32 {
    let exponent = (x >> 23) as i32;
    if exponent == 0 {
        return INFINITY;
    }
    if x == INFINITY {
        return 0;
    }
    // x = v x 4^half with v in [1, 4), so the root of 1/v is in (1/2, 1].
    let half = (exponent - 127).div_euclid(2);
    let odd = (exponent - 127).rem_euclid(2);
    let v = u128::from(x & 0x7f_ffff | 0x80_0000) << odd;
    // sqrt(2^83 / (v x 2^23)) = 2^30 / sqrt(v).
    let root = ((1u128 << 83) / v).isqrt() as u64;
    if root == 1 << 30 {
        return pack::<BITS>(127 - half, 1 << (BITS - 1));
    }
    pack::<BITS>(126 - half, round::<BITS>(root, 29))
}

/// `q`, whose top bit is bit `top`, rounded to an integer of `BITS` bits.
fn round<const BITS: u32>(q: u64, top: u32) -> u32 {
    ((q >> (top - BITS)) as u32 + 1) >> 1
}

/// The single of biased exponent `exponent` and the significand `m` of `BITS` bits, which may be one too large; tiny is zero.
fn pack<const BITS: u32>(exponent: i32, m: u32) -> u32 {
    let exponent = exponent + (m >> BITS) as i32;
    if exponent <= 0 {
        return 0;
    }
    let fraction = BITS - 1;
    (exponent as u32) << 23 | (m & ((1 << fraction) - 1)) << (23 - fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_close_and_deterministic() {
        assert_eq!(f32::from_bits(rcp(1f32.to_bits())), 1.0);
        assert_eq!(f32::from_bits(rcp((-4f32).to_bits())), -0.25);
        assert_eq!(f32::from_bits(rsqrt(16f32.to_bits())), 0.25);
        assert_eq!(rcp(0x8000_0001), 0xff80_0000);
        assert_eq!(rcp(f32::MAX.to_bits()), 0);
        assert_eq!(rsqrt((-1f32).to_bits()), DEFAULT_NAN);
        assert_eq!(rsqrt(0x8000_0000), 0xff80_0000);
        assert_eq!(rcp(0x7f80_0001), 0x7fc0_0001);
        let mut x = 0x0080_0000u32;
        while x < 0x7e00_0000 {
            let exact = f64::from(f32::from_bits(x));
            for (got, want) in [(rcp(x), 1.0 / exact), (rsqrt(x), 1.0 / exact.sqrt())] {
                let error = f64::from(f32::from_bits(got)) / want - 1.0;
                assert!(error.abs() <= 1.001 / 8192.0, "{x:#x}: {error}");
            }
            x += 0x1_2345;
        }
    }
}
