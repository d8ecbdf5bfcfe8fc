//! Against the host's own arithmetic, and against known cases.

use super::*;

/// A small generator whose values cluster at the edges of a format.
struct Operands(u64);

impl Operands {
    fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn bits(&mut self, width: u32, fraction: u32) -> u64 {
        let choice = self.word();
        let random = self.word();
        let low = (1u64 << fraction) - 1;
        let exponents = (1u64 << (width - fraction - 1)) - 1;
        let exponent = match choice & 7 {
            0 => 0,
            1 => exponents,
            2 => 1 + (random >> 60 & 1),
            3 => exponents - 1,
            4 | 5 => (exponents / 2 + (random >> 56 & 63)).saturating_sub(32),
            _ => random >> 40 & exponents,
        };
        let mantissa = match choice >> 3 & 7 {
            0 => 0,
            1 => low,
            2 => 1,
            3 => 1 << (random >> 58).min(u64::from(fraction) - 1),
            4 => random & low & !(low >> 1 >> (random >> 60)),
            _ => random & low,
        };
        (choice >> 63) << (width - 1) | exponent << fraction | mantissa
    }

    fn f32(&mut self) -> u32 {
        self.bits(32, 23) as u32
    }

    fn f64(&mut self) -> u64 {
        self.bits(64, 52)
    }
}

const ROUNDS: usize = 60_000;

/// The host's result may be any NaN where ours is one: which one is tested elsewhere.
macro_rules! against_host {
    ($name:ident, $format:ident, $host:ident, $operand:ident) => {
        #[test]
        fn $name() {
            let mut source = Operands(0x9e37_79b9_7f4a_7c15);
            for _ in 0..ROUNDS {
                let (a, b, c) = (source.$operand(), source.$operand(), source.$operand());
                let (x, y, z) = ($host::from_bits(a), $host::from_bits(b), $host::from_bits(c));
                let env = &mut Env::default();
                let cases = [
                    ("add", add::<$format>(a, b, env), x + y),
                    ("sub", sub::<$format>(a, b, env), x - y),
                    ("mul", mul::<$format>(a, b, env), x * y),
                    ("div", div::<$format>(a, b, env), x / y),
                    ("sqrt", sqrt::<$format>(a, env), x.sqrt()),
                    ("mul_add", mul_add::<$format>(a, b, c, (false, false), env), x.mul_add(y, z)),
                    ("round", round_to_int::<$format>(a, Rounding::Nearest, false, env), x.round_ties_even()),
                    ("floor", round_to_int::<$format>(a, Rounding::Down, false, env), x.floor()),
                    ("ceil", round_to_int::<$format>(a, Rounding::Up, false, env), x.ceil()),
                    ("trunc", round_to_int::<$format>(a, Rounding::Zero, false, env), x.trunc()),
                ];
                for (name, ours, host) in cases {
                    let same = ours == host.to_bits() || (classify::<$format>(ours).is_nan() && host.is_nan());
                    assert!(same, "{name} {a:x} {b:x} {c:x}: {ours:x}, the host: {:x}", host.to_bits());
                }
                let order = match x.partial_cmp(&y) {
                    None => Ordering4::Unordered,
                    Some(core::cmp::Ordering::Less) => Ordering4::Less,
                    Some(core::cmp::Ordering::Equal) => Ordering4::Equal,
                    Some(core::cmp::Ordering::Greater) => Ordering4::Greater,
                };
                assert_eq!(compare::<$format>(a, b, true, env), order, "{a:x} {b:x}");
                let integer = a as i64;
                assert_eq!(from_i64::<$format>(integer, env), (integer as $host).to_bits());
                if x.is_finite() && x.abs() < 9e18 {
                    assert_eq!(to_i64::<$format>(a, true, env), x as i64, "{a:x}");
                    assert_eq!(to_i64::<$format>(a, false, env), x.round_ties_even() as i64, "{a:x}");
                }
            }
        }
    };
}

against_host!(singles_agree_with_the_host, F32, f32, f32);
against_host!(doubles_agree_with_the_host, F64, f64, f64);

#[test]
fn conversions_agree_with_the_host() {
    let mut source = Operands(77);
    for _ in 0..ROUNDS {
        let (single, double) = (source.f32(), source.f64());
        let env = &mut Env::default();
        let (x, y) = (f32::from_bits(single), f64::from_bits(double));
        if !x.is_nan() {
            assert_eq!(convert::<F32, F64>(single, env), f64::from(x).to_bits());
            let through = convert::<F32, F80>(single, env);
            assert_eq!(convert::<F80, F32>(through, env), single);
        }
        if !y.is_nan() {
            assert_eq!(convert::<F64, F32>(double, env), (y as f32).to_bits());
            let through = convert::<F64, F80>(double, env);
            assert_eq!(convert::<F80, F64>(through, env), double);
        }
    }
}

/// With precision control and exponents away from the ends, the 80-bit operations are those of the narrower format.
#[test]
fn precision_control_rounds_like_the_narrower_format() {
    let mut source = Operands(3);
    let mut env = Env { precision: Precision::Double, ..Env::default() };
    for _ in 0..ROUNDS {
        let (a, b) = (source.f64(), source.f64());
        let middle = |bits: u64| (700..1300).contains(&(bits >> 52 & 0x7ff));
        if !middle(a) || !middle(b) {
            continue;
        }
        let (x, y) = (convert::<F64, F80>(a, &mut env), convert::<F64, F80>(b, &mut env));
        for (wide, narrow) in [
            (add::<F80>(x, y, &mut env), add::<F64>(a, b, &mut env)),
            (mul::<F80>(x, y, &mut env), mul::<F64>(a, b, &mut env)),
            (div::<F80>(x, y, &mut env), div::<F64>(a, b, &mut env)),
        ] {
            if middle(narrow) {
                assert_eq!(wide, convert::<F64, F80>(narrow, &mut env), "{a:x} {b:x}");
            }
        }
    }
}

fn raised(operation: impl FnOnce(&mut Env)) -> Exceptions {
    let mut env = Env::default();
    operation(&mut env);
    env.raised
}

#[test]
fn operations_raise_what_they_should() {
    let f = f32::to_bits;
    let denormal = 1u32;
    let signaling = 0x7f80_0001u32;
    let (invalid, precision) = (Exceptions::INVALID, Exceptions::PRECISION);
    let none = Exceptions::empty();
    type Binary = fn(u32, u32, &mut Env) -> u32;
    let cases: [(Exceptions, Binary, u32, u32); 12] = [
        (none, add::<F32>, f(1.0), f(2.0)),
        (precision, add::<F32>, f(1.0), f(1e-10)),
        (invalid, sub::<F32>, f(f32::INFINITY), f(f32::INFINITY)),
        (Exceptions::DENORMAL, add::<F32>, denormal, denormal),
        (invalid, add::<F32>, signaling, denormal),
        (none, add::<F32>, f(f32::NAN), denormal),
        (Exceptions::ZERO_DIVIDE, div::<F32>, f(1.0), 0),
        (invalid, div::<F32>, 0, 0),
        (invalid, mul::<F32>, f(f32::INFINITY), 0),
        (Exceptions::OVERFLOW | precision, mul::<F32>, f(f32::MAX), f(2.0)),
        (Exceptions::UNDERFLOW | precision, mul::<F32>, f(1.2e-38), f(0.3)),
        // Half the least normal number is a denormal, but exact.
        (none, mul::<F32>, f(f32::MIN_POSITIVE), f(0.5)),
    ];
    for (expected, operation, a, b) in cases {
        let actual = raised(|env| {
            operation(a, b, env);
        });
        assert_eq!(actual, expected, "{a:x} {b:x}");
    }
}

#[test]
fn the_first_nan_wins_for_sse_and_the_larger_for_x87() {
    let env = &mut Env::default();
    assert_eq!(add::<F32>(0x7f80_0001, 0x7fff_ffff, env), 0x7fc0_0001);
    assert_eq!(add::<F32>(0x3f80_0000, 0xff80_0001, env), 0xffc0_0001);
    let nan = |mantissa| F80 { mantissa, sign_exponent: 0x7fff };
    let (quiet, larger, signaling) = (nan(0xc << 60 | 1), nan(0xc << 60 | 2), nan(0xb << 60));
    assert_eq!(add::<F80>(quiet, larger, env), larger);
    assert_eq!(add::<F80>(signaling, quiet, env), quiet);
    assert_eq!(env.raised, Exceptions::INVALID);
    assert_eq!(add::<F80>(nan(1), quiet, env), F80::indefinite());
}

#[test]
fn directed_rounding_and_the_flush_modes() {
    let one_third = |rounding| {
        let mut env = Env { rounding, ..Env::default() };
        div::<F64>(1f64.to_bits(), 3f64.to_bits(), &mut env)
    };
    assert_eq!(one_third(Rounding::Down), 0x3fd5_5555_5555_5555);
    assert_eq!(one_third(Rounding::Zero), 0x3fd5_5555_5555_5555);
    assert_eq!(one_third(Rounding::Up), 0x3fd5_5555_5555_5556);

    let mut env = Env { ftz: true, daz: true, ..Env::default() };
    let tiny = f64::MIN_POSITIVE.to_bits();
    assert_eq!(mul::<F64>(tiny, (-0.5f64).to_bits(), &mut env), 1 << 63);
    assert_eq!(env.raised, Exceptions::UNDERFLOW | Exceptions::PRECISION);
    env.raised = Exceptions::empty();
    assert_eq!(mul::<F64>(1, 1f64.to_bits(), &mut env), 0);
    assert_eq!(env.raised, Exceptions::empty());
}

#[test]
fn integers_that_do_not_fit_are_indefinite() {
    let to = |value: f64| {
        let mut env = Env::default();
        let integer = to_i32::<F64>(value.to_bits(), false, &mut env);
        (integer, env.raised)
    };
    assert_eq!(to(2_147_483_647.0), (i32::MAX, Exceptions::empty()));
    assert_eq!(to(-2_147_483_648.5), (i32::MIN, Exceptions::PRECISION));
    assert_eq!(to(2_147_483_647.5), (i32::MIN, Exceptions::INVALID));
    assert_eq!(to(f64::NAN), (i32::MIN, Exceptions::INVALID));
    assert_eq!(to(2.5), (2, Exceptions::PRECISION));
}

#[test]
fn unmasked_x87_overflow_wraps_the_exponent() {
    let large = F80 { mantissa: 1 << 63, sign_exponent: 0x7ffe };
    let mut env = Env { masked: Exceptions::empty(), ..Env::default() };
    let product = mul::<F80>(large, large, &mut env);
    assert_eq!(env.raised, Exceptions::OVERFLOW);
    assert_eq!(i32::from(product.sign_exponent), 0x7ffe + 16383 - 24576);
}
