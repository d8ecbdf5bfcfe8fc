//! The stack in 64-bit mode.

use iced_x86::{Instruction, OpKind, Register};

use super::super::assembler::{At, host};
use super::super::context;
use super::super::registers::{FRAME, STACK, home, number};
use super::Block;

impl Block<'_> {
    /// A store of 8 bytes below the stack pointer; `value` makes the register to store once the page is known.
    pub(super) fn push_value(&mut self, k: usize, value: impl FnOnce(&mut Self) -> u8) {
        self.a.lea(host::R15, At::base(STACK, -8));
        let miss = self.check(host::R15, 8, true, 0);
        let v = value(self);
        self.a.store(At::indexed(host::R15, host::R11, 0, 0), v);
        self.a.lea(STACK, At::base(STACK, -8));
        self.missed(miss, k, host::R15);
    }

    pub(super) fn push(&mut self, k: usize, i: &Instruction) {
        match i.op0_kind() {
            OpKind::Register => self.push_value(k, |b| b.value(number(i.op0_register()), host::RCX)),
            OpKind::Memory => {
                let first = self.slow.len();
                if self.load_aside(k, i) {
                    self.push_value(k, |b| {
                        b.a.load(host::RCX, context::TARGET);
                        host::RCX
                    });
                    // The handler of an access that missed has pushed as well.
                    let resume = self.a.here();
                    self.slow[first..].iter_mut().for_each(|s| s.resume = resume);
                }
            }
            _ => {
                let v = i.immediate(0);
                self.push_value(k, |b| {
                    b.a.mov_imm64(host::RCX, v);
                    host::RCX
                });
            }
        }
    }

    /// Loads 8 bytes and puts them aside; false if the handler does it all.
    pub(super) fn load_aside(&mut self, k: usize, i: &Instruction) -> bool {
        if !self.target(k, i) {
            return false;
        }
        self.a.store(context::TARGET, host::R15);
        true
    }

    pub(super) fn pop(&mut self, k: usize, to: Register) {
        let miss = self.check(STACK, 8, false, 0);
        let guest = number(to);
        let h = home(guest).unwrap_or(host::RCX);
        let from = At::indexed(STACK, host::R11, 0, 0);
        if h == STACK {
            self.a.load(h, from);
        } else {
            self.a.load(h, from);
            self.a.lea(STACK, At::base(STACK, 8));
        }
        if home(guest).is_none() {
            self.a.store(context::reg(guest), h);
        }
        self.missed(miss, k, STACK);
    }

    pub(super) fn leave(&mut self, k: usize) {
        let miss = self.check(FRAME, 8, false, 0);
        self.a.lea(STACK, At::base(FRAME, 8));
        self.a.load(FRAME, At::indexed(FRAME, host::R11, 0, 0));
        self.missed(miss, k, FRAME);
    }
}
