//! The stack.

use iced_x86::{Instruction, OpKind, Register};

use super::super::assembler::{At, host};
use super::super::context;
use super::super::policy::Way;
use super::super::registers::{FRAME, STACK, home, number};
use super::Block;
use super::groups::Role;
use super::shared::Found;

impl Block<'_> {
    /// Finds `bytes` bytes of the stack, `by` bytes from where `pointer` points.
    pub(super) fn at_stack(&mut self, pointer: u8, by: i32, bytes: usize, write: bool) -> Found {
        if let Some(found) = self.known() {
            return found;
        }
        let lin = match (self.mode.long(), by - self.before()) {
            (true, 0) => pointer,
            (true, by) => {
                self.a.lea(host::R15, At::base(pointer, by));
                host::R15
            }
            (false, _) => self.segmented_stack(pointer, by, bytes, write),
        };
        self.check(lin, bytes, write, 0)
    }

    /// Moves the stack pointer.
    pub(super) fn set_stack(&mut self, to: At) {
        match self.mode.stack_bits() {
            64 => self.a.lea(STACK, to),
            32 => self.a.lea32(STACK, to),
            _ => {
                self.a.lea32(host::R11, to);
                self.a.mov_low_word(STACK, host::R11);
            }
        }
    }

    /// Moves the stack pointer by `by` after instruction `k`. Pushes and pops that share a look move it together: nothing comes
    /// between them that could see it.
    fn move_stack(&mut self, k: usize, by: i32) {
        self.owed += by;
        let shares = !self.aside && self.plan.role(k) != Role::Single && matches!(self.plan.role(k + 1), Role::Member { .. });
        let next = self.instructions.get(k + 1).filter(|_| shares);
        let goes_on = next.is_some_and(|i| match self.ways[k + 1] {
            Way::Push => i.op0_kind() != OpKind::Memory && i.op0_register() != Register::RSP,
            Way::Pop => i.op0_register() != Register::RSP,
            _ => false,
        });
        if !goes_on {
            let by = std::mem::take(&mut self.owed);
            self.set_stack(At::base(STACK, by));
        }
    }

    /// A store below the stack pointer; `value` makes the register to store once the page is known.
    pub(super) fn push_value(&mut self, k: usize, bytes: usize, value: impl FnOnce(&mut Self) -> u8) {
        let found = self.at_stack(STACK, -(bytes as i32), bytes, true);
        let v = value(self);
        self.a.store_bytes(bytes, found.at, v);
        self.move_stack(k, -(bytes as i32));
        self.missed(found, k);
    }

    pub(super) fn push(&mut self, k: usize, i: &Instruction) {
        let bytes = i.stack_pointer_increment().unsigned_abs() as usize;
        match i.op0_kind() {
            OpKind::Register => self.push_value(k, bytes, |b| b.value(number(i.op0_register()), host::RCX)),
            OpKind::Memory => {
                let first = self.slow.len();
                if self.load_aside(k, i) {
                    self.push_value(k, bytes, |b| {
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
                self.push_value(k, bytes, |b| {
                    b.a.mov_imm64(host::RCX, v);
                    host::RCX
                });
            }
        }
    }

    /// Loads the operand and puts it aside; false if the handler does it all.
    pub(super) fn load_aside(&mut self, k: usize, i: &Instruction) -> bool {
        if !self.target(k, i) {
            return false;
        }
        self.a.store(context::TARGET, host::R15);
        true
    }

    pub(super) fn pop(&mut self, k: usize, to: Register) {
        let (bytes, guest) = (to.size(), number(to));
        let found = self.at_stack(STACK, 0, bytes, false);
        // Two bytes leave the others of the register as they are.
        let h = home(guest).filter(|_| bytes > 2).unwrap_or(host::RCX);
        self.a.load_bytes(bytes, h, found.at);
        if h != STACK {
            self.move_stack(k, bytes as i32);
        }
        match home(guest) {
            Some(h) if bytes == 2 => self.a.mov_low_word(h, host::RCX),
            Some(_) => {}
            None => self.a.store(context::reg(guest), h),
        }
        self.missed(found, k);
    }

    pub(super) fn leave(&mut self, k: usize, bytes: usize) {
        let found = self.at_stack(FRAME, 0, bytes, false);
        self.a.load_bytes(bytes, host::RCX, found.at);
        self.set_stack(At::base(FRAME, bytes as i32));
        if bytes == 2 {
            self.a.mov_low_word(FRAME, host::RCX);
        } else {
            self.a.mov(FRAME, host::RCX);
        }
        self.missed(found, k);
    }
}
