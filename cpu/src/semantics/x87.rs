//! The x87 floating-point unit: its registers, and one method an instruction (SDM 1, chapter 8).
//!
//! A method does what the instruction does apart from memory and EFLAGS. An exception is recorded in the status word; an
//! unmasked one keeps the destination unchanged where the architecture says so, and makes [`Fpu::pending`] true, which the
//! next waiting instruction turns into #MF or FERR#.

#![forbid(unsafe_code)]

mod compare;
pub mod image;
mod scale;
mod transcendental;

#[cfg(test)]
mod tests;

use super::softfloat::{self as soft, Class, Env, Exceptions, F32, F64, F80, Format, Precision, Rounding, Unpacked};
use serde::{Deserialize, Serialize};

/// Bits of the status word.
pub mod status {
    /// A stack fault (with IE).
    pub const SF: u16 = 1 << 6;
    /// An unmasked exception is pending.
    pub const ES: u16 = 1 << 7;
    /// Condition code 0.
    pub const C0: u16 = 1 << 8;
    /// Condition code 1: rounded up, or the direction of a stack fault.
    pub const C1: u16 = 1 << 9;
    /// Condition code 2.
    pub const C2: u16 = 1 << 10;
    /// The number of the physical register that is ST(0).
    pub const TOP: u16 = 7 << 11;
    /// Condition code 3.
    pub const C3: u16 = 1 << 14;
    /// Busy: a copy of ES.
    pub const B: u16 = 1 << 15;
}

use status::{B, C0, C1, C2, C3, ES, SF, TOP};

/// The control word after FNINIT: everything masked, 64 bits, to nearest.
const CONTROL_INIT: u16 = 0x37f;

/// The packed BCD indefinite.
const BCD_INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];

/// The state of the unit; the MMX registers are the mantissas.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fpu {
    /// The physical registers R0..R7.
    registers: [F80; 8],
    /// The physical register that is ST(0).
    top: u8,
    /// A bit for each physical register that is not tagged empty.
    valid: u8,
    /// Control word.
    control: u16,
    /// Status word without TOP.
    status: u16,
    /// Where the last instruction was, and its operand.
    pub last: LastInstruction,
}

/// The pointers FNSTENV reports: the last x87 instruction that was not a control instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LastInstruction {
    /// The lower 11 bits of its opcode.
    pub opcode: u16,
    /// Its offset.
    pub ip: u64,
    /// Its code segment's selector.
    pub cs: u16,
    /// Its memory operand's offset.
    pub dp: u64,
    /// Its memory operand's selector.
    pub ds: u16,
}

/// The two-operand arithmetic instructions: destination, then source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arith {
    /// FADD
    Add,
    /// FMUL
    Mul,
    /// FSUB
    Sub,
    /// FSUBR
    SubReverse,
    /// FDIV
    Div,
    /// FDIVR
    DivReverse,
}

impl Arith {
    #[inline]
    fn apply(self, a: F80, b: F80, env: &mut Env) -> F80 {
        match self {
            Self::Add => soft::add::<F80>(a, b, env),
            Self::Mul => soft::mul::<F80>(a, b, env),
            Self::Sub => soft::sub::<F80>(a, b, env),
            Self::SubReverse => soft::sub::<F80>(b, a, env),
            Self::Div => soft::div::<F80>(a, b, env),
            Self::DivReverse => soft::div::<F80>(b, a, env),
        }
    }
}

/// A memory operand, widened exactly. A signaling NaN stays one, so that the operation finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operand {
    value: F80,
    /// It was a denormal in its own format, which the wider one no longer shows.
    denormal: bool,
}

impl Operand {
    #[inline]
    fn widened(value: &Unpacked) -> F80 {
        let biased = match value.class {
            Class::Zero => 0,
            Class::Normal | Class::Denormal => value.exponent + F80::BIAS,
            _ => 0x7fff,
        };
        F80::assemble(value.sign, biased as u32, value.significand)
    }

    /// An m32fp operand.
    #[inline]
    #[must_use]
    pub fn single(bits: u32) -> Self {
        let value = F32::unpack(bits);
        Self { value: Self::widened(&value), denormal: value.class == Class::Denormal }
    }

    /// An m64fp operand.
    #[inline]
    #[must_use]
    pub fn double(bits: u64) -> Self {
        let value = F64::unpack(bits);
        Self { value: Self::widened(&value), denormal: value.class == Class::Denormal }
    }

    /// An integer operand, sign-extended.
    #[inline]
    #[must_use]
    pub fn integer(value: i64) -> Self {
        Self { value: soft::from_i64::<F80>(value, &mut Env::default()), denormal: false }
    }

    /// A register, as it is.
    #[inline]
    const fn register(value: F80) -> Self {
        Self { value, denormal: false }
    }

    /// Adds the denormal exception, after the operation with `other` has found those that come before it.
    #[inline]
    fn note_denormal(self, other: F80, env: &mut Env) {
        if self.denormal && !env.raised.intersects(Exceptions::INVALID | Exceptions::ZERO_DIVIDE) && !soft::classify::<F80>(other).is_nan()
        {
            env.raised |= Exceptions::DENORMAL;
        }
    }
}

/// The constants that FLD1 ... FLDZ push.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Constant {
    /// 1
    One,
    /// The binary logarithm of 10.
    Log2Ten,
    /// The binary logarithm of e.
    Log2E,
    /// Pi
    Pi,
    /// The decimal logarithm of 2.
    Log10Two,
    /// The natural logarithm of 2.
    LnTwo,
    /// 0
    Zero,
}

impl Default for Fpu {
    fn default() -> Self {
        Self::new()
    }
}

impl Fpu {
    /// The unit as FNINIT leaves it, with zeros in its registers. It also starts like this after RESET, as though a BIOS's
    /// power-on test had run.
    #[must_use]
    pub fn new() -> Self {
        Self { registers: [F80::default(); 8], top: 0, valid: 0, control: CONTROL_INIT, status: 0, last: LastInstruction::default() }
    }

    /// FNINIT
    pub fn init(&mut self) {
        *self = Self { registers: self.registers, ..Self::new() };
    }

    /// FNCLEX
    pub fn clear_exceptions(&mut self) {
        self.status &= !(B | ES | SF | 0x3f);
    }

    /// An unmasked exception waits for delivery.
    #[inline]
    #[must_use]
    pub const fn pending(&self) -> bool {
        self.status & ES != 0
    }

    /// The control word (FNSTCW).
    #[must_use]
    pub const fn control(&self) -> u16 {
        self.control
    }

    /// FLDCW
    pub fn set_control(&mut self, control: u16) {
        self.control = (control & 0x1f7f) | 0x40;
        self.summarise();
    }

    /// The status word (FNSTSW).
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status | (self.top as u16) << 11
    }

    fn set_status(&mut self, status: u16) {
        self.top = (status >> 11 & 7) as u8;
        self.status = status & !TOP;
        self.summarise();
    }

    /// Brings ES and B in line with the exceptions and their masks.
    fn summarise(&mut self) {
        self.status &= !(ES | B);
        if self.status & !self.control & 0x3f != 0 {
            self.status |= ES | B;
        }
    }

    #[inline]
    const fn physical(&self, i: usize) -> usize {
        (self.top as usize + i) & 7
    }

    /// ST(i), whether it is empty or not.
    #[inline]
    #[must_use]
    pub const fn st(&self, i: usize) -> F80 {
        self.registers[self.physical(i)]
    }

    /// ST(i) is tagged empty.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self, i: usize) -> bool {
        self.valid >> self.physical(i) & 1 == 0
    }

    #[inline]
    const fn set_st(&mut self, i: usize, value: F80) {
        let physical = self.physical(i);
        self.registers[physical] = value;
        self.valid |= 1 << physical;
    }

    /// Tags ST(0) empty and increments TOP.
    #[inline]
    pub const fn pop(&mut self) {
        self.valid &= !(1 << self.top);
        self.top = (self.top + 1) & 7;
    }

    #[inline]
    const fn push(&mut self, value: F80) {
        self.top = self.top.wrapping_sub(1) & 7;
        self.set_st(0, value);
    }

    #[inline]
    const fn pop_if(&mut self, pop: bool) {
        if pop {
            self.pop();
        }
    }

    #[inline]
    fn env(&self) -> Env {
        Env {
            rounding: Rounding::from_bits(u32::from(self.control >> 10)),
            daz: false,
            ftz: false,
            precision: match self.control >> 8 & 3 {
                0 => Precision::Single,
                2 => Precision::Double,
                _ => Precision::Extended,
            },
            masked: Exceptions::from_bits_truncate(self.control as u8 & 0x3f),
            raised: Exceptions::empty(),
            rounded_up: false,
        }
    }

    /// Records what an operation raised, and C1. Returns whether its result is to be written.
    #[inline]
    fn commit(&mut self, env: &Env) -> bool {
        self.status &= !C1;
        if env.raised.is_empty() {
            return true;
        }
        let reported = env.reported();
        self.status |= u16::from(reported.bits());
        if env.rounded_up && reported.contains(Exceptions::PRECISION) {
            self.status |= C1;
        }
        let unmasked = reported & !env.masked;
        if unmasked.is_empty() {
            return true;
        }
        self.status |= ES | B;
        !unmasked.intersects(Exceptions::INVALID | Exceptions::DENORMAL | Exceptions::ZERO_DIVIDE)
    }

    /// Records a stack fault. Returns whether the masked response follows.
    #[cold]
    fn stack_fault(&mut self, overflow: bool) -> bool {
        self.status &= !C1;
        self.status |= SF | u16::from(Exceptions::INVALID.bits());
        if overflow {
            self.status |= C1;
        }
        let masked = self.control & u16::from(Exceptions::INVALID.bits()) != 0;
        if !masked {
            self.status |= ES | B;
        }
        masked
    }

    /// A stack underflow whose masked response is an indefinite in ST(i).
    #[cold]
    fn underflow_into(&mut self, i: usize, pop: bool) {
        if self.stack_fault(false) {
            self.set_st(i, F80::indefinite());
            self.pop_if(pop);
        }
    }

    /// Pushes a value, or the response to a full stack.
    #[inline]
    fn push_checked(&mut self, value: F80) {
        if self.is_empty(7) {
            self.status &= !C1;
            self.push(value);
        } else if self.stack_fault(true) {
            self.push(F80::indefinite());
        }
    }

    /// ST(dst) = ST(dst) op ST(src), then a pop if asked for.
    #[inline]
    pub fn arith(&mut self, op: Arith, dst: usize, src: usize, pop: bool) {
        if self.is_empty(dst) || self.is_empty(src) {
            self.underflow_into(dst, pop);
            return;
        }
        let mut env = self.env();
        let result = op.apply(self.st(dst), self.st(src), &mut env);
        if self.commit(&env) {
            self.set_st(dst, result);
            self.pop_if(pop);
        }
    }

    /// ST(0) = ST(0) op a memory operand (FADD m32fp, FIADD m16int, ...).
    #[inline]
    pub fn arith_memory(&mut self, op: Arith, operand: Operand) {
        if self.is_empty(0) {
            self.underflow_into(0, false);
            return;
        }
        let mut env = self.env();
        let value = self.st(0);
        let result = op.apply(value, operand.value, &mut env);
        operand.note_denormal(value, &mut env);
        if self.commit(&env) {
            self.set_st(0, result);
        }
    }

    /// FLD ST(i)
    pub fn load_register(&mut self, i: usize) {
        if self.is_empty(i) {
            if self.stack_fault(false) {
                self.push(F80::indefinite());
            }
            return;
        }
        self.push_checked(self.st(i));
    }

    /// FLD m80fp (and FBLD): any encoding is taken as it is.
    pub fn load_extended(&mut self, value: F80) {
        self.push_checked(value);
    }

    /// FLD m32fp, FLD m64fp, FILD
    pub fn load(&mut self, operand: Operand) {
        if !self.is_empty(7) {
            if self.stack_fault(true) {
                self.push(F80::indefinite());
            }
            return;
        }
        let mut env = self.env();
        if operand.denormal {
            env.raised |= Exceptions::DENORMAL;
        }
        let mut value = operand.value;
        if value.sign_exponent & 0x7fff == 0x7fff && soft::classify::<F80>(value) == Class::SignalingNan {
            env.raised |= Exceptions::INVALID;
            value.mantissa |= 1 << 62;
        }
        // A denormal is loaded even if its exception is not masked.
        if self.commit(&env) || !env.unmasked().contains(Exceptions::INVALID) {
            self.push(value);
        }
    }

    /// FLD1, FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2, FLDZ
    pub fn load_constant(&mut self, constant: Constant) {
        // The significand cut off after 64 bits, and whether the nearest one is the next.
        let (exponent, mantissa, nearest_is_next) = match constant {
            Constant::Zero => (0, 0, false),
            Constant::One => (0x3fff, 1 << 63, false),
            Constant::Log2Ten => (0x4000, 0xd49a_784b_cd1b_8afe, false),
            Constant::Log2E => (0x3fff, 0xb8aa_3b29_5c17_f0bb, true),
            Constant::Pi => (0x4000, 0xc90f_daa2_2168_c234, true),
            Constant::Log10Two => (0x3ffd, 0x9a20_9a84_fbcf_f798, true),
            Constant::LnTwo => (0x3ffe, 0xb172_17f7_d1cf_79ab, true),
        };
        let next = match self.env().rounding {
            Rounding::Nearest => nearest_is_next,
            Rounding::Up => exponent != 0 && constant != Constant::One,
            Rounding::Down | Rounding::Zero => false,
        };
        self.push_checked(F80 { mantissa: mantissa + u64::from(next), sign_exponent: exponent });
    }

    /// FST ST(i), FSTP ST(i)
    pub fn store_register(&mut self, i: usize, pop: bool) {
        if self.is_empty(0) {
            self.underflow_into(i, pop);
            return;
        }
        self.status &= !C1;
        self.set_st(i, self.st(0));
        self.pop_if(pop);
    }

    /// FSTP ST(i) as the alias D9 D8+i does it: an empty ST(0) is no fault, and is popped.
    pub fn store_register_unchecked(&mut self, i: usize) {
        if !self.is_empty(0) {
            self.set_st(i, self.st(0));
        }
        self.status &= !C1;
        self.pop();
    }

    /// What a store of ST(0) that `convert` computes puts into memory; `None`: an unmasked exception keeps it away.
    ///
    /// The caller writes it, then pops. Where the write faults, it puts [`Fpu::flags`] back first.
    fn store_with<T>(&mut self, indefinite: T, convert: impl FnOnce(F80, &mut Env) -> T) -> Option<T> {
        if self.is_empty(0) {
            return self.stack_fault(false).then_some(indefinite);
        }
        let mut env = self.env();
        let result = convert(self.st(0), &mut env);
        let in_range = !env.unmasked().intersects(Exceptions::OVERFLOW | Exceptions::UNDERFLOW);
        if !in_range {
            // Nothing is rounded, so nothing is inexact (SDM 1, 8.5.4 and 8.5.5).
            env.raised -= Exceptions::PRECISION;
        }
        (self.commit(&env) && in_range).then_some(result)
    }

    /// FST m32fp, FSTP m32fp
    pub fn store_single(&mut self) -> Option<u32> {
        self.store_with(F32::indefinite(), soft::convert::<F80, F32>)
    }

    /// FST m64fp, FSTP m64fp
    pub fn store_double(&mut self) -> Option<u64> {
        self.store_with(F64::indefinite(), soft::convert::<F80, F64>)
    }

    /// FSTP m80fp
    pub fn store_extended(&mut self) -> Option<F80> {
        self.store_with(F80::indefinite(), |value, _| value)
    }

    /// FIST(P) m16int, FISTTP m16int (`truncate`)
    pub fn store_i16(&mut self, truncate: bool) -> Option<i16> {
        self.store_with(i16::MIN, |v, env| soft::to_i16::<F80>(v, truncate, env))
    }

    /// FIST(P) m32int, FISTTP m32int (`truncate`)
    pub fn store_i32(&mut self, truncate: bool) -> Option<i32> {
        self.store_with(i32::MIN, |v, env| soft::to_i32::<F80>(v, truncate, env))
    }

    /// FISTP m64int, FISTTP m64int (`truncate`)
    pub fn store_i64(&mut self, truncate: bool) -> Option<i64> {
        self.store_with(i64::MIN, |v, env| soft::to_i64::<F80>(v, truncate, env))
    }

    /// FBSTP
    pub fn store_bcd(&mut self) -> Option<[u8; 10]> {
        self.store_with(BCD_INDEFINITE, |value, env| {
            let integer = soft::to_i64::<F80>(value, false, env);
            let mut digits = integer.unsigned_abs();
            if env.raised.contains(Exceptions::INVALID) || digits > 999_999_999_999_999_999 {
                env.raised = Exceptions::INVALID;
                return BCD_INDEFINITE;
            }
            let mut bytes = [0; 10];
            for byte in &mut bytes[..9] {
                *byte = (digits % 10 + (digits / 10 % 10) * 16) as u8;
                digits /= 100;
            }
            bytes[9] = (value.sign_exponent >> 8) as u8 & 0x80;
            bytes
        })
    }

    /// FBLD; a digit above 9 counts as its value.
    pub fn load_bcd(&mut self, bytes: [u8; 10]) {
        let digits = bytes[..9].iter().rev().fold(0i64, |sum, byte| sum * 100 + i64::from(byte >> 4) * 10 + i64::from(byte & 15));
        let mut value = Operand::integer(digits).value;
        value.sign_exponent |= u16::from(bytes[9] & 0x80) << 8;
        self.load_extended(value);
    }

    /// The status word, to be put back with [`Fpu::restore_flags`] where a store's write faults.
    #[must_use]
    pub const fn flags(&self) -> u16 {
        self.status
    }

    /// Undoes what a store reported.
    pub const fn restore_flags(&mut self, flags: u16) {
        self.status = flags;
    }

    /// FXCH ST(i)
    pub fn exchange(&mut self, i: usize) {
        if self.is_empty(0) || self.is_empty(i) {
            if !self.stack_fault(false) {
                return;
            }
            for empty in [0, i] {
                if self.is_empty(empty) {
                    self.set_st(empty, F80::indefinite());
                }
            }
        } else {
            self.status &= !C1;
        }
        let (first, second) = (self.physical(0), self.physical(i));
        self.registers.swap(first, second);
    }

    /// FCMOVcc ST(0), ST(i)
    pub fn move_if(&mut self, condition: bool, i: usize) {
        if self.is_empty(0) || self.is_empty(i) {
            self.underflow_into(0, false);
        } else if condition {
            self.set_st(0, self.st(i));
        }
    }

    /// FFREE ST(i); with `pop`, FFREEP. C1, undefined by the manual, is 0 afterwards, as AMD's processors have it.
    pub const fn free(&mut self, i: usize, pop: bool) {
        self.status &= !C1;
        self.valid &= !(1 << self.physical(i));
        if pop {
            self.pop();
        }
    }

    /// FINCSTP (1), FDECSTP (-1)
    pub const fn rotate(&mut self, by: i8) {
        self.status &= !C1;
        self.top = self.top.wrapping_add_signed(by) & 7;
    }

    /// FABS (`negate` unset), FCHS
    pub fn set_sign(&mut self, negate: bool) {
        if self.is_empty(0) {
            self.underflow_into(0, false);
            return;
        }
        self.status &= !C1;
        let sign_exponent = &mut self.registers[usize::from(self.top)].sign_exponent;
        *sign_exponent = if negate { *sign_exponent ^ 0x8000 } else { *sign_exponent & 0x7fff };
    }

    /// ST(0) = `operation`(ST(0))
    #[inline]
    fn unary(&mut self, operation: impl FnOnce(F80, &mut Env) -> F80) {
        if self.is_empty(0) {
            self.underflow_into(0, false);
            return;
        }
        let mut env = self.env();
        let result = operation(self.st(0), &mut env);
        if self.commit(&env) {
            self.set_st(0, result);
        }
    }

    /// FSQRT
    pub fn square_root(&mut self) {
        self.unary(soft::sqrt::<F80>);
    }

    /// FRNDINT
    pub fn round_to_integer(&mut self) {
        self.unary(|value, env| soft::round_to_int::<F80>(value, env.rounding, false, env));
    }

    /// The MMX register `i`.
    #[inline]
    #[must_use]
    pub const fn mmx_get(&self, i: usize) -> u64 {
        self.registers[i & 7].mantissa
    }

    /// Writes the MMX register `i`; its exponent becomes all ones.
    #[inline]
    pub const fn mmx_set(&mut self, i: usize, value: u64) {
        self.registers[i & 7] = F80 { mantissa: value, sign_exponent: 0xffff };
    }

    /// What every MMX instruction but EMMS does: TOP becomes 0, every register valid.
    #[inline]
    pub const fn mmx_enter(&mut self) {
        self.top = 0;
        self.valid = 0xff;
    }

    /// EMMS: every register becomes empty.
    pub const fn mmx_leave(&mut self) {
        self.top = 0;
        self.valid = 0;
    }

    /// Sets C3, C2 and C0, leaving the others.
    const fn set_conditions(&mut self, conditions: u16) {
        self.status = (self.status & !(C3 | C2 | C0)) | conditions;
    }
}
