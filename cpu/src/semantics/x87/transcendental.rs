//! FSIN ... FYL2XP1, computed with 128 significant bits and rounded once.
//!
//! The trigonometric instructions reduce their argument with the 66-bit value of pi that the architecture documents
//! (SDM 1, 8.3.8), exactly.

use super::scale::note_denormals;
use super::status::C2;
use super::{Exceptions, Fpu};
use crate::semantics::softfloat::wide::{Wide, polynomial};
use crate::semantics::softfloat::{Class, Env, F80, Format, Unpacked, propagate_nan};

const TERMS: usize = 30;

/// One, in units of 2^-127.
const ONE: u128 = 1 << 127;

/// One, less the least unit: the leading coefficient of series whose sum is below one however small the argument.
const BELOW_ONE: u128 = ONE - 1;

/// 1 / n! in units of 2^-127.
const INVERSE_FACTORIALS: [u128; TERMS] = {
    let mut table = [0; TERMS];
    let (mut n, mut factorial) = (0, 1);
    while n < TERMS {
        table[n] = ONE / factorial;
        n += 1;
        factorial *= n as u128;
    }
    table
};

/// Every second one of the factorials: 1 / (2n + first)!.
const fn every_second(first: usize) -> [u128; 14] {
    let mut table = [0; 14];
    let mut n = 0;
    while n < table.len() {
        table[n] = INVERSE_FACTORIALS[2 * n + first];
        n += 1;
    }
    table[0] = BELOW_ONE;
    table
}

/// 1 - z/3! + z^2/5! ...
const SINE: [u128; 14] = every_second(1);

/// 1 - z/2! + z^2/4! ...
const COSINE: [u128; 14] = every_second(0);

/// 1 + z/3 + z^2/5 ...
const ODD_INVERSES: [u128; 22] = {
    let mut table = [BELOW_ONE; 22];
    let mut n = 1;
    while n < table.len() {
        table[n] = ONE / (2 * n as u128 + 1);
        n += 1;
    }
    table
};

/// 1 + y/2! + y^2/3! ...
const EXPONENTIAL: [u128; 25] = {
    let mut table = [0; 25];
    let mut n = 0;
    while n < table.len() {
        table[n] = INVERSE_FACTORIALS[n + 1];
        n += 1;
    }
    table
};

const LN_2: Wide = Wide::positive(-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af);
const TWO_LOG2_E: Wide = Wide::positive(1, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89);
const PI: Wide = Wide::positive(1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);

/// Pi / 2 in units of 2^-65, as the 66 bits the processor knows.
const HALF_PI_66: u128 = 0x3_243f_6a88_85a3_08d3;

/// The arc tangents of 1/8, 2/8 ... 1.
const ARC_TANGENTS: [Wide; 8] = [
    Wide::positive(-4, 0xfead_d4d5_617b_6e32_c897_989f_3e88_8ef8),
    Wide::positive(-3, 0xfadb_afc9_6406_eb15_6dc7_9ef5_f7a2_17e6),
    Wide::positive(-2, 0xb7b0_ca0f_26f7_8473_8aa3_2122_dcfe_4483),
    Wide::positive(-2, 0xed63_382b_0dda_7b45_6fe4_45ec_bc3a_8d03),
    Wide::positive(-1, 0x8f00_5d5e_f7f5_9f9b_5c83_5e16_65c4_3748),
    Wide::positive(-1, 0xa4bc_7d19_34f7_0924_19a8_7f2a_457d_ac9f),
    Wide::positive(-1, 0xb805_3e2b_c231_9e73_cb2d_a552_10a4_443d),
    Wide::positive(-1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1),
];

/// x times the sum of a series in x^2.
fn odd_series(x: Wide, coefficients: &[u128], alternating: bool) -> Wide {
    let square = x.times(x).fraction();
    let sum = Wide::normalised(false, 0, polynomial(coefficients, square, alternating));
    x.times(sum)
}

/// The quadrant (modulo 4) of a finite x below 2^63 and what remains of it, at most pi / 4 in magnitude; for x >= 0.
fn reduce(x: &Unpacked) -> (u32, Wide) {
    let shift = x.exponent + 2;
    if shift < 0 {
        return (0, Wide::exactly(x).with_sign(false));
    }
    let units = u128::from(x.significand) << shift;
    let (quadrant, rest) = (units / HALF_PI_66, units % HALF_PI_66);
    let quadrant = quadrant as u32;
    if rest * 2 > HALF_PI_66 {
        let rest = Wide::normalised(true, 62, HALF_PI_66 - rest);
        (quadrant.wrapping_add(1) & 3, rest)
    } else {
        (quadrant & 3, Wide::normalised(false, 62, rest))
    }
}

/// The sine and the cosine of a finite x below 2^63.
fn sine_cosine(x: &Unpacked) -> (Wide, Wide) {
    let (quadrant, r) = reduce(x);
    let sine = odd_series(r, &SINE, true);
    let square = r.times(r).fraction();
    let cosine = Wide::normalised(false, 0, polynomial(&COSINE, square, true));
    let (sine, cosine) = match quadrant {
        0 => (sine, cosine),
        1 => (cosine, sine.negated()),
        2 => (sine.negated(), cosine.negated()),
        _ => (cosine.negated(), sine),
    };
    (sine.with_sign(sine.sign ^ x.sign), cosine)
}

/// 2^x - 1 for a finite x other than zero; beyond -1..1, where the result is undefined, x itself.
fn exponential(x: &Unpacked) -> Option<Wide> {
    if x.exponent >= 0 {
        return None;
    }
    let y = Wide::exactly(x).times(LN_2);
    let sum = polynomial(&EXPONENTIAL, y.fraction(), x.sign);
    Some(y.times(Wide::normalised(false, 0, sum)))
}

/// The binary logarithm of m, from (m - 1) / (m + 1) with m in about 1/sqrt(2) .. sqrt(2).
fn logarithm_from_ratio(ratio: Wide) -> Wide {
    odd_series(ratio, &ODD_INVERSES, false).times(TWO_LOG2_E)
}

/// The binary logarithm of x > 0.
fn logarithm(x: Wide) -> Wide {
    const SQRT_2: u128 = 0xb504_f333_f9de_6484 << 64;
    let adjust = i32::from(x.significand > SQRT_2);
    let exponent = x.exponent + adjust;
    let m = x.scaled(-exponent);
    let ratio = m.minus(Wide::ONE).over(m.plus(Wide::ONE));
    Wide::integer(exponent.into()).plus(logarithm_from_ratio(ratio))
}

/// The arc tangent of y / x for finite y, x > 0.
fn arc_tangent(y: Wide, x: Wide) -> Wide {
    let swap = y.exponent > x.exponent || (y.exponent == x.exponent && y.significand > x.significand);
    let (n, d) = if swap { (x, y) } else { (y, x) };
    // The nearest eighth.
    let eighths = match n.exponent - d.exponent {
        ..-4 => 0,
        _ => {
            let sixteenths = n.scaled(4).over(d);
            ((sixteenths.significand >> (127 - sixteenths.exponent.clamp(0, 4))) as i64 + 1) / 2
        }
    };
    let angle = if eighths == 0 {
        odd_series_below(n.over(d))
    } else {
        let c = Wide::integer(eighths).scaled(-3);
        let ratio = n.minus(c.times(d)).over(d.plus(c.times(n)));
        odd_series_below(ratio).plus(ARC_TANGENTS[eighths as usize - 1])
    };
    if swap { PI.scaled(-1).minus(angle) } else { angle }
}

fn odd_series_below(ratio: Wide) -> Wide {
    if ratio.is_zero() {
        return ratio;
    }
    odd_series(ratio, &ODD_INVERSES, true)
}

fn fpatan(y: F80, x: F80, env: &mut Env) -> F80 {
    let (b, a) = (F80::unpack(y), F80::unpack(x));
    if a.class.is_nan() || b.class.is_nan() {
        return propagate_nan::<F80>(&[b, a], env);
    }
    note_denormals(&[a, b], env);
    let angle = match (b.class, a.class) {
        (Class::Infinity, Class::Infinity) if a.sign => Wide::integer(3).times(PI).scaled(-2),
        (Class::Infinity, Class::Infinity) => PI.scaled(-2),
        (Class::Infinity, _) => PI.scaled(-1),
        (Class::Zero, _) | (_, Class::Infinity) if !a.sign => return F80::zero(b.sign),
        (Class::Zero, _) | (_, Class::Infinity) => PI,
        (_, Class::Zero) => PI.scaled(-1),
        _ => {
            let angle = arc_tangent(Wide::exactly(&b).with_sign(false), Wide::exactly(&a).with_sign(false));
            if a.sign { PI.minus(angle) } else { angle }
        }
    };
    angle.with_sign(b.sign).round(false, env)
}

fn f2xm1(bits: F80, env: &mut Env) -> F80 {
    let x = F80::unpack(bits);
    match x.class {
        class if class.is_nan() => return propagate_nan::<F80>(&[x], env),
        Class::Zero => return bits,
        Class::Infinity if x.sign => return F80::assemble(true, F80::BIAS as u32, 1 << 63),
        Class::Infinity => return bits,
        _ => note_denormals(&[x], env),
    }
    let Some(result) = exponential(&x) else {
        let minus_one = x.sign && x.exponent == 0 && x.significand == 1 << 63;
        return if minus_one { F80::assemble(true, F80::BIAS as u32 - 1, 1 << 63) } else { bits };
    };
    result.round(false, env)
}

/// y times the logarithm of an x that is zero, infinite, or paired with such a y; `sign`: that of the logarithm.
fn logarithm_special(y: &Unpacked, zero: bool, infinite: bool, sign: bool, env: &mut Env) -> F80 {
    let undefined = if zero { Class::Infinity } else { Class::Zero };
    if (zero || infinite) && y.class == undefined {
        env.raised |= Exceptions::INVALID;
        return F80::indefinite();
    }
    if infinite || y.class == Class::Infinity { F80::infinity(y.sign ^ sign) } else { F80::zero(y.sign ^ sign) }
}

fn fyl2x(y: F80, x: F80, env: &mut Env) -> F80 {
    let (b, a) = (F80::unpack(y), F80::unpack(x));
    if a.class.is_nan() || b.class.is_nan() {
        return propagate_nan::<F80>(&[b, a], env);
    }
    if a.sign && a.class != Class::Zero {
        env.raised |= Exceptions::INVALID;
        return F80::indefinite();
    }
    if a.class == Class::Zero {
        if b.class != Class::Zero && b.class != Class::Infinity {
            env.raised |= Exceptions::ZERO_DIVIDE;
        }
        return logarithm_special(&b, false, true, true, env);
    }
    note_denormals(&[a, b], env);
    let power_of_two = a.significand == 1 << 63;
    let is_one = power_of_two && a.exponent == 0 && a.class == Class::Normal;
    if is_one || a.class == Class::Infinity || b.class == Class::Zero || b.class == Class::Infinity {
        return logarithm_special(&b, is_one, a.class == Class::Infinity, a.exponent < 0, env);
    }
    if power_of_two {
        let product = Wide::exactly(&b).times(Wide::integer(a.exponent.into()));
        return product.round(true, env);
    }
    let product = logarithm(Wide::exactly(&a)).times(Wide::exactly(&b));
    product.round(false, env)
}

fn fyl2xp1(y: F80, x: F80, env: &mut Env) -> F80 {
    let (b, a) = (F80::unpack(y), F80::unpack(x));
    if a.class.is_nan() || b.class.is_nan() {
        return propagate_nan::<F80>(&[b, a], env);
    }
    let special = |class| class == Class::Zero || class == Class::Infinity;
    let below = a.sign && a.class != Class::Zero && a.exponent >= 0;
    if below {
        env.raised |= Exceptions::INVALID;
        return F80::indefinite();
    }
    note_denormals(&[a, b], env);
    if special(a.class) || special(b.class) {
        let (zero, infinite) = (a.class == Class::Zero, a.class == Class::Infinity);
        return logarithm_special(&b, zero, infinite, a.sign, env);
    }
    let x = Wide::exactly(&a);
    let logarithm = if a.exponent < -2 { logarithm_from_ratio(x.over(x.plus(Wide::integer(2)))) } else { logarithm(x.plus(Wide::ONE)) };
    logarithm.times(Wide::exactly(&b)).round(false, env)
}

impl Fpu {
    /// The operand of a trigonometric instruction; `None`: the instruction is over.
    fn angle(&mut self, env: &mut Env, results: usize) -> Option<Unpacked> {
        self.status &= !C2;
        let full = results == 2 && !self.is_empty(7);
        if self.is_empty(0) || full {
            let overflow = !self.is_empty(0);
            if self.stack_fault(overflow) {
                self.set_st(0, F80::indefinite());
                if results == 2 {
                    self.push(F80::indefinite());
                }
            }
            return None;
        }
        let value = F80::unpack(self.st(0));
        let special = match value.class {
            class if class.is_nan() => propagate_nan::<F80>(&[value], env),
            Class::Infinity => {
                env.raised |= Exceptions::INVALID;
                F80::indefinite()
            }
            _ => {
                note_denormals(&[value], env);
                if value.exponent < 63 {
                    return Some(value);
                }
                self.status |= C2;
                self.commit(env);
                return None;
            }
        };
        if self.commit(env) {
            self.set_st(0, special);
            if results == 2 {
                self.push(special);
            }
        }
        None
    }

    /// FSIN (`cosine` unset), FCOS
    pub fn sine(&mut self, cosine: bool) {
        let mut env = self.env();
        let Some(x) = self.angle(&mut env, 1) else {
            return;
        };
        let result = match (x.class, cosine) {
            (Class::Zero, true) => F80::assemble(false, F80::BIAS as u32, 1 << 63),
            (Class::Zero, false) => self.st(0),
            (_, true) => sine_cosine(&x).1.round(false, &mut env),
            (_, false) => sine_cosine(&x).0.round(false, &mut env),
        };
        if self.commit(&env) {
            self.set_st(0, result);
        }
    }

    /// FSINCOS: the sine replaces ST(0), the cosine is pushed.
    pub fn sine_and_cosine(&mut self) {
        let mut env = self.env();
        let Some(x) = self.angle(&mut env, 2) else {
            return;
        };
        let (sine, cosine) = if x.class == Class::Zero {
            (self.st(0), F80::assemble(false, F80::BIAS as u32, 1 << 63))
        } else {
            let (sine, cosine) = sine_cosine(&x);
            (sine.round(false, &mut env), cosine.round(false, &mut env))
        };
        if self.commit(&env) {
            self.set_st(0, sine);
            self.push(cosine);
        }
    }

    /// FPTAN: the tangent replaces ST(0), 1 is pushed.
    pub fn tangent(&mut self) {
        let mut env = self.env();
        let Some(x) = self.angle(&mut env, 2) else {
            return;
        };
        let tangent = if x.class == Class::Zero {
            self.st(0)
        } else {
            let (sine, cosine) = sine_cosine(&x);
            sine.over(cosine).round(false, &mut env)
        };
        if self.commit(&env) {
            self.set_st(0, tangent);
            self.push(F80::assemble(false, F80::BIAS as u32, 1 << 63));
        }
    }

    /// ST(1) = `operation`(ST(1), ST(0)), then a pop.
    fn binary(&mut self, operation: fn(F80, F80, &mut Env) -> F80) {
        if self.is_empty(0) || self.is_empty(1) {
            self.underflow_into(1, true);
            return;
        }
        let mut env = self.env();
        let result = operation(self.st(1), self.st(0), &mut env);
        if self.commit(&env) {
            self.set_st(1, result);
            self.pop();
        }
    }

    /// FPATAN
    pub fn arc_tangent(&mut self) {
        self.binary(fpatan);
    }

    /// FYL2X
    pub fn logarithm(&mut self) {
        self.binary(fyl2x);
    }

    /// FYL2XP1
    pub fn logarithm_plus_one(&mut self) {
        self.binary(fyl2xp1);
    }

    /// F2XM1
    pub fn exponential(&mut self) {
        self.unary(f2xm1);
    }
}
