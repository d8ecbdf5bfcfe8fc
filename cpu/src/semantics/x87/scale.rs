//! FSCALE, FXTRACT and the exact remainders.

use super::Fpu;
use super::status::{C0, C1, C2, C3};
use crate::semantics::softfloat::{self as soft, Class, Env, Exceptions, F80, Format, Unpacked, propagate_nan, round_pack};

/// The three low bits of the quotient where FPREM reports them.
const fn quotient_conditions(quotient: u64) -> u16 {
    (if quotient & 4 != 0 { C0 } else { 0 }) | (if quotient & 2 != 0 { C3 } else { 0 }) | (if quotient & 1 != 0 { C1 } else { 0 })
}

pub(super) fn note_denormals(operands: &[Unpacked], env: &mut Env) {
    if operands.iter().any(|o| o.class == Class::Denormal) {
        env.raised |= Exceptions::DENORMAL;
    }
}

fn scaled(value: F80, by: F80, env: &mut Env) -> F80 {
    let (a, b) = (F80::unpack(value), F80::unpack(by));
    if a.class.is_nan() || b.class.is_nan() {
        return propagate_nan::<F80>(&[a, b], env);
    }
    if b.class == Class::Infinity {
        let undefined = if b.sign { Class::Infinity } else { Class::Zero };
        if a.class == undefined {
            env.raised |= Exceptions::INVALID;
            return F80::indefinite();
        }
        note_denormals(&[a, b], env);
        return if b.sign { F80::zero(a.sign) } else { F80::infinity(a.sign) };
    }
    note_denormals(&[a, b], env);
    if a.class == Class::Infinity || a.class == Class::Zero {
        return value;
    }
    // Any scale beyond this ends in overflow or underflow, even a wrapped one.
    let count = match b.exponent {
        _ if b.class == Class::Zero => 0,
        ..0 => 0,
        0..=16 => (b.significand >> (63 - b.exponent)) as i32,
        _ => 1 << 17,
    };
    let count = if b.sign { -count } else { count };
    round_pack::<F80>(a.sign, a.exponent + count, a.significand, 0, F80::PRECISION, env)
}

/// A remainder, and what goes to the condition codes (`None`: the reduction is not complete).
fn remainder(x: F80, y: F80, nearest: bool, env: &mut Env) -> (F80, Option<u64>) {
    let (a, b) = (F80::unpack(x), F80::unpack(y));
    if a.class.is_nan() || b.class.is_nan() {
        return (propagate_nan::<F80>(&[a, b], env), Some(0));
    }
    if a.class == Class::Infinity || b.class == Class::Zero {
        env.raised |= Exceptions::INVALID;
        return (F80::indefinite(), Some(0));
    }
    note_denormals(&[a, b], env);
    let unchanged = |env: &mut Env| round_pack::<F80>(a.sign, a.exponent, a.significand, 0, F80::PRECISION, env);
    if a.class == Class::Zero {
        return (x, Some(0));
    }
    if b.class == Class::Infinity {
        return (unchanged(env), Some(0));
    }
    let distance = a.exponent - b.exponent;
    if distance < if nearest { -1 } else { 0 } {
        return (unchanged(env), Some(0));
    }
    let complete = distance < 64;
    // An incomplete step takes 32 to 63 off the difference of the exponents.
    let step = if complete { distance } else { distance & 31 | 32 };
    // In units of the divisor's last place (halved where the dividend is the smaller one).
    let (divisor, shift) = if step < 0 { (u128::from(b.significand) << 1, 0) } else { (u128::from(b.significand), step) };
    let dividend = u128::from(a.significand) << shift;
    let (mut quotient, mut rest) = ((dividend / divisor) as u64, dividend % divisor);
    let mut sign = a.sign;
    if nearest && complete {
        let twice = rest << 1;
        if twice > divisor || (twice == divisor && quotient & 1 != 0) {
            rest = divisor - rest;
            quotient = quotient.wrapping_add(1);
            sign = !sign;
        }
    }
    let conditions = complete.then_some(quotient);
    if rest == 0 {
        return (F80::zero(a.sign), conditions);
    }
    let lead = 127 - rest.leading_zeros() as i32;
    let significand = if lead > 63 { (rest >> (lead - 63)) as u64 } else { (rest as u64) << (63 - lead) };
    let exponent = a.exponent - shift + lead - 63;
    let result = round_pack::<F80>(sign, exponent, significand, 0, F80::PRECISION, env);
    (result, conditions)
}

impl Fpu {
    /// FSCALE
    pub fn scale(&mut self) {
        if self.is_empty(1) {
            self.underflow_into(0, false);
            return;
        }
        let by = self.st(1);
        self.unary(|value, env| scaled(value, by, env));
    }

    /// FXTRACT: the exponent replaces ST(0), the significand is pushed.
    pub fn extract(&mut self) {
        if self.is_empty(0) || !self.is_empty(7) {
            let overflow = !self.is_empty(0);
            if self.stack_fault(overflow) {
                self.set_st(0, F80::indefinite());
                self.push(F80::indefinite());
            }
            return;
        }
        let bits = self.st(0);
        let value = F80::unpack(bits);
        let mut env = self.env();
        let (exponent, significand) = match value.class {
            Class::Zero => {
                env.raised |= Exceptions::ZERO_DIVIDE;
                (F80::infinity(true), bits)
            }
            Class::Infinity => (F80::infinity(false), bits),
            class if class.is_nan() => {
                let nan = propagate_nan::<F80>(&[value], &mut env);
                (nan, nan)
            }
            _ => {
                note_denormals(&[value], &mut env);
                let exponent = soft::from_i64::<F80>(value.exponent.into(), &mut env);
                let one_to_two = F80::assemble(value.sign, F80::BIAS as u32, value.significand);
                (exponent, one_to_two)
            }
        };
        if self.commit(&env) {
            self.set_st(0, exponent);
            self.push(significand);
        }
    }

    /// FPREM, FPREM1 (`nearest`)
    pub fn partial_remainder(&mut self, nearest: bool) {
        if self.is_empty(0) || self.is_empty(1) {
            self.status &= !C2;
            self.underflow_into(0, false);
            return;
        }
        let mut env = self.env();
        let (result, quotient) = remainder(self.st(0), self.st(1), nearest, &mut env);
        self.status &= !C2;
        if self.commit(&env) {
            self.set_st(0, result);
            // An invalid operation leaves the quotient's bits as they were.
            if env.raised.contains(Exceptions::INVALID) || F80::unpack(result).class.is_nan() {
                return;
            }
            match quotient {
                Some(quotient) => {
                    let bits = quotient_conditions(quotient);
                    self.set_conditions(bits & !C1);
                    self.status |= bits & C1;
                }
                None => self.set_conditions(C2),
            }
        }
    }
}
