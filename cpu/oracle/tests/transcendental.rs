//! The transcendental x87 instructions against arbitrary precision: within one unit in the last place of the 80-bit result.
//! `SOFTMETAL_TRANSCENDENTAL_POINTS` chooses how many points per function (the bar is a million).

use astro_float::{BigFloat, Consts, RoundingMode, Sign};
use softmetal_cpu::semantics::softfloat::F80;
use softmetal_cpu::semantics::x87::Fpu;
use softmetal_oracle::values::Random;

/// Bits of the reference.
const BITS: usize = 320;
const NEAREST: RoundingMode = RoundingMode::None;

fn exact(x: F80) -> BigFloat {
    let sign = if x.sign_exponent >> 15 == 0 { Sign::Pos } else { Sign::Neg };
    let exponent = i32::from(x.sign_exponent & 0x7fff).max(1) - 16383;
    // One word in [0.5, 1), whatever its leading zeros: as an integer, scaled.
    scaled(BigFloat::from_words(&[x.mantissa << x.mantissa.leading_zeros()], sign, 0), exponent + 1 - x.mantissa.leading_zeros() as i32)
}

fn scaled(mut x: BigFloat, by: i32) -> BigFloat {
    if let Some(e) = x.exponent() {
        x.set_exponent(e + by);
    }
    x
}

/// Whether `result` is within one unit in its last place of `reference`.
fn near(result: F80, reference: &BigFloat) -> bool {
    let off = exact(result).sub(reference, BITS, NEAREST);
    let unit = i32::from(result.sign_exponent & 0x7fff) - 16383 - 63;
    // |off| <= 2^unit: its mantissa is in [0.5, 1).
    off.is_zero() || off.exponent().is_some_and(|e| e <= unit || e == unit + 1 && off.mantissa_digits().is_some_and(power_of_two))
}

fn power_of_two(words: &[u64]) -> bool {
    words.iter().map(|w| w.count_ones()).sum::<u32>() == 1
}

struct Reference {
    constants: Consts,
    ln_2: BigFloat,
    pi: BigFloat,
    /// Half of the processor's 66-bit pi.
    half_pi: BigFloat,
}

impl Reference {
    fn new() -> Self {
        let mut constants = Consts::new().expect("memory for constants");
        let ln_2 = constants.ln_2(BITS, NEAREST);
        let pi = constants.pi(BITS, NEAREST);
        let units: u128 = 0x3_243f_6a88_85a3_08d3;
        let wide = units << units.leading_zeros();
        let half_pi = BigFloat::from_words(&[wide as u64, (wide >> 64) as u64], Sign::Pos, 1);
        Self { constants, ln_2, pi, half_pi }
    }

    /// Quadrant and rest of an angle.
    fn reduced(&self, x: &BigFloat) -> (u32, BigFloat) {
        let half = BigFloat::from_f64(0.5, BITS);
        let quotient = x.div(&self.half_pi, BITS, NEAREST).add(&half, BITS, NEAREST).floor();
        let rest = x.sub(&quotient.mul(&self.half_pi, BITS, NEAREST), BITS, NEAREST);
        let four = BigFloat::from_f64(4.0, BITS);
        let quarter = quotient.sub(&quotient.div(&four, BITS, NEAREST).floor().mul(&four, BITS, NEAREST), BITS, NEAREST);
        let quadrant = (0..4).find(|n| quarter.cmp(&BigFloat::from_f64(f64::from(*n), BITS)) == Some(0)).expect("one of four");
        (quadrant, rest)
    }

    fn sine_cosine(&mut self, x: F80) -> (BigFloat, BigFloat) {
        let (quadrant, rest) = self.reduced(&exact(x));
        let sine = rest.sin(BITS, NEAREST, &mut self.constants);
        let cosine = rest.cos(BITS, NEAREST, &mut self.constants);
        match quadrant {
            0 => (sine, cosine),
            1 => (cosine, sine.neg()),
            2 => (sine.neg(), cosine.neg()),
            _ => (cosine.neg(), sine),
        }
    }

    fn arc_tangent(&mut self, y: F80, x: F80) -> BigFloat {
        let (y, x) = (exact(y), exact(x));
        let angle = y.abs().div(&x.abs(), BITS, NEAREST).atan(BITS, NEAREST, &mut self.constants);
        let angle = if x.is_negative() { self.pi.sub(&angle, BITS, NEAREST) } else { angle };
        if y.is_negative() { angle.neg() } else { angle }
    }

    fn exponential(&mut self, x: F80) -> BigFloat {
        let y = exact(x).mul(&self.ln_2, BITS, NEAREST);
        if y.exponent().is_some_and(|e| e < -120) {
            // Two terms of the series.
            let square = scaled(y.mul(&y, BITS, NEAREST), -1);
            return y.add(&square, BITS, NEAREST);
        }
        y.exp(BITS, NEAREST, &mut self.constants).sub(&BigFloat::from_f64(1.0, BITS), BITS, NEAREST)
    }

    fn logarithm(&mut self, y: F80, x: &BigFloat) -> BigFloat {
        x.ln(BITS, NEAREST, &mut self.constants).div(&self.ln_2, BITS, NEAREST).mul(&exact(y), BITS, NEAREST)
    }

    fn logarithm_plus_one(&mut self, y: F80, x: F80) -> BigFloat {
        let x = exact(x);
        if x.exponent().is_some_and(|e| e < -120) {
            let square = scaled(x.mul(&x, BITS, NEAREST), -1);
            return x.sub(&square, BITS, NEAREST).div(&self.ln_2, BITS, NEAREST).mul(&exact(y), BITS, NEAREST);
        }
        self.logarithm(y, &x.add(&BigFloat::from_f64(1.0, BITS), BITS, NEAREST))
    }
}

/// A normal number with an exponent of `low..high` (of its leading bit).
fn number(r: &mut Random, low: i32, high: i32) -> F80 {
    let exponent = low + r.below((high - low) as u64) as i32;
    let mantissa = match r.below(8) {
        0 => 1 << 63,
        1 => !0,
        2 => 1 << 63 | 1,
        3 => 1 << 63 | 1 << r.below(63),
        _ => r.next() | 1 << 63,
    };
    F80 { mantissa, sign_exponent: (exponent + 16383) as u16 | (r.next() as u16 & 0x8000) }
}

fn unit(st1: F80, st0: F80) -> Fpu {
    let mut fpu = Fpu::new();
    fpu.load_extended(st1);
    fpu.load_extended(st0);
    fpu
}

#[test]
fn within_one_ulp() {
    let points = std::env::var("SOFTMETAL_TRANSCENDENTAL_POINTS").ok().and_then(|v| v.parse().ok()).unwrap_or(4000u64);
    let mut reference = Reference::new();
    let mut wrong = Vec::new();
    let mut counts = [0u64; 7];
    for n in 0..points {
        let r = &mut Random::new(7, n);
        let angle = match n % 3 {
            0 => number(r, -70, 3),
            1 => number(r, -6, 63),
            _ => {
                // Near a multiple of pi / 2.
                let size = 1 + r.below(40);
                let k = 1 + r.below(1 << size);
                let near = k as f64 * std::f64::consts::FRAC_PI_2;
                let mut fpu = Fpu::new();
                fpu.load(softmetal_cpu::semantics::x87::Operand::double(near.to_bits()));
                fpu.st(0)
            }
        };
        let (sine, cosine) = reference.sine_cosine(angle);
        let mut check = |name: usize, fpu: &Fpu, at: usize, truth: &BigFloat, inputs: (F80, F80)| {
            let result = fpu.st(at);
            let exponent = result.sign_exponent & 0x7fff;
            // A result that is denormal or infinite has fewer bits, or none.
            if exponent == 0 || exponent == 0x7fff {
                return;
            }
            counts[name] += 1;
            if !near(result, truth) && wrong.len() < 20 {
                wrong.push(format!("{name}: {inputs:x?} gives {result:x?}, not {truth}"));
            }
        };
        let run = |st1: F80, st0: F80, instruction: fn(&mut Fpu)| {
            let mut fpu = unit(st1, st0);
            instruction(&mut fpu);
            fpu
        };
        check(0, &run(angle, angle, |f| f.sine(false)), 0, &sine, (angle, angle));
        check(1, &run(angle, angle, |f| f.sine(true)), 0, &cosine, (angle, angle));
        check(2, &run(angle, angle, Fpu::tangent), 1, &sine.div(&cosine, BITS, NEAREST), (angle, angle));
        let (y, x) = if n % 2 == 0 { (number(r, -40, 40), number(r, -40, 40)) } else { (number(r, -3, 3), number(r, -3, 3)) };
        check(3, &run(y, x, Fpu::arc_tangent), 0, &reference.arc_tangent(y, x), (y, x));
        let x = if n % 2 == 0 { number(r, -10, 0) } else { number(r, -300, 0) };
        check(4, &run(x, x, Fpu::exponential), 0, &reference.exponential(x), (x, x));
        let positive = |v: F80| F80 { sign_exponent: v.sign_exponent & 0x7fff, ..v };
        let x = positive(if n % 2 == 0 { number(r, -2, 2) } else { number(r, -16000, 16000) });
        let truth = reference.logarithm(y, &exact(x));
        if !truth.is_zero() {
            check(5, &run(y, x, Fpu::logarithm), 0, &truth, (y, x));
        }
        let x = if n % 2 == 0 { number(r, -8, -2) } else { number(r, -300, -2) };
        check(6, &run(y, x, Fpu::logarithm_plus_one), 0, &reference.logarithm_plus_one(y, x), (y, x));
    }
    println!("points compared of fsin, fcos, fptan, fpatan, f2xm1, fyl2x, fyl2xp1: {counts:?}");
    assert!(counts.iter().all(|n| *n > points / 2), "{counts:?}");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
