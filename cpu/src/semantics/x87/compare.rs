//! Comparison and classification.

use super::status::{C0, C1, C2, C3};
use super::{Fpu, Operand};
use crate::semantics::softfloat::{self as soft, Class, F80, Format, Ordering4};

const fn conditions(order: Ordering4) -> u16 {
    match order {
        Ordering4::Less => C0,
        Ordering4::Equal => C3,
        Ordering4::Greater => 0,
        Ordering4::Unordered => C3 | C2 | C0,
    }
}

impl Fpu {
    /// How ST(0) compares, and whether pops follow: not after an unmasked exception. Processors report the order even then.
    fn order(&mut self, other: Option<Operand>, quiet: bool) -> (Ordering4, bool) {
        let Some(other) = other.filter(|_| !self.is_empty(0)) else {
            return (Ordering4::Unordered, self.stack_fault(false));
        };
        let mut env = self.env();
        let value = self.st(0);
        let order = soft::compare::<F80>(value, other.value, quiet, &mut env);
        other.note_denormal(value, &mut env);
        (order, self.commit(&env))
    }

    fn register(&self, i: usize) -> Option<Operand> {
        (!self.is_empty(i)).then(|| Operand::register(self.st(i)))
    }

    /// FCOM, FUCOM (`quiet`) with ST(i), then `pops` pops.
    pub fn compare(&mut self, i: usize, quiet: bool, pops: u32) {
        self.compare_with(self.register(i), quiet, pops);
    }

    /// FCOM m32fp, FICOM m16int, ...
    pub fn compare_memory(&mut self, operand: Operand, pops: u32) {
        self.compare_with(Some(operand), false, pops);
    }

    fn compare_with(&mut self, other: Option<Operand>, quiet: bool, pops: u32) {
        let (order, completes) = self.order(other, quiet);
        self.set_conditions(conditions(order));
        (0..if completes { pops } else { 0 }).for_each(|_| self.pop());
    }

    /// FCOMI, FUCOMI (`quiet`): the result goes to EFLAGS (ZF, PF, CF; the rest of the arithmetic flags cleared). C1 stays
    /// but for a stack fault (APM 5, FCOMI).
    pub fn compare_to_flags(&mut self, i: usize, quiet: bool, pop: bool) -> Ordering4 {
        let c1 = if self.is_empty(0) || self.is_empty(i) { 0 } else { self.status & C1 };
        let (order, completes) = self.order(self.register(i), quiet);
        self.status |= c1;
        self.pop_if(pop && completes);
        order
    }

    /// FTST
    pub fn test(&mut self) {
        self.compare_with(Some(Operand::register(F80::zero(false))), false, 0);
    }

    /// FXAM
    pub fn examine(&mut self) {
        let value = self.st(0);
        let class = match soft::classify::<F80>(value) {
            _ if self.is_empty(0) => C3 | C0,
            Class::Unsupported => 0,
            Class::QuietNan | Class::SignalingNan => C0,
            Class::Normal => C2,
            Class::Infinity => C2 | C0,
            Class::Zero => C3,
            Class::Denormal => C3 | C2,
        };
        self.set_conditions(class);
        self.status &= !C1;
        if value.sign_exponent >> 15 != 0 {
            self.status |= C1;
        }
    }
}
