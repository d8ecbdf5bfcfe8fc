//! What is otherwise in code of 16 and 32 bits: segments, and addresses that wrap.
//!
//! All other instructions mean the same in 64-bit mode, where they run: 32-bit operations clear the upper halves of
//! registers, as the interpreter does in every mode.

use iced_x86::{Code, Instruction, OpKind, Register};

use super::super::assembler::{At, host};
use super::super::context;
use super::super::policy::near_size;
use super::super::registers::{home, number};
use super::Block;
use crate::state::seg;

/// Where a direct transfer leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct To {
    /// Counted from the start of the page.
    pub at: i64,
    /// The size of the instruction pointer that it makes.
    pub bytes: usize,
}

impl To {
    /// The target of `i`.
    pub fn of(i: &Instruction) -> Self {
        let at = match i.op0_kind() {
            OpKind::NearBranch16 => i.near_branch16() as i16 as i64,
            OpKind::NearBranch32 => i.near_branch32() as i32 as i64,
            _ => i.near_branch64() as i64,
        };
        Self { at, bytes: near_size(i) }
    }

    /// The instruction after `i`: only a jump wraps at 64 KiB.
    pub fn after(i: &Instruction) -> Self {
        Self { at: i.next_ip() as i64, bytes: if i.code_size() == iced_x86::CodeSize::Code64 { 8 } else { 4 } }
    }
}

/// Gives an instruction the encoding that it has in 64-bit mode, if that is a different one.
pub fn widen(i: &mut Instruction) {
    i.set_code(match i.code() {
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Dec_r32 => Code::Dec_rm32,
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_AX_moffs16 => Code::Mov_r16_rm16,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        Code::Mov_moffs16_AX => Code::Mov_rm16_r16,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        code => code,
    });
}

/// The size of the address of a memory operand, in bytes.
fn address_size(i: &Instruction) -> usize {
    let registers = i.memory_base().size().max(i.memory_index().size());
    if registers != 0 { registers } else { i.memory_displ_size() as usize }
}

impl Block<'_> {
    /// The linear address of a memory operand, in the register given back.
    pub(super) fn segmented(&mut self, i: &Instruction, write: bool) -> Option<u8> {
        let (at, _) = self.effective(i)?;
        self.a.lea32(host::R15, at);
        if address_size(i) == 2 {
            self.a.zero_extend_word(host::R15, host::R15);
        }
        let segment = i.memory_segment() as usize - Register::ES as usize;
        self.add_segment(segment, i.memory_size().size(), write);
        Some(host::R15)
    }

    /// The linear address of `bytes` bytes of the stack, `by` bytes from where `pointer` points, in the register given back.
    pub(super) fn segmented_stack(&mut self, pointer: u8, by: i32, bytes: usize, write: bool) -> u8 {
        self.a.lea32(host::R15, At::base(pointer, by));
        if self.mode.stack_bits() == 16 {
            self.a.zero_extend_word(host::R15, host::R15);
        }
        self.add_segment(seg::SS, bytes, write);
        host::R15
    }

    /// Turns an offset in R15 into a linear address: one that the TLB never holds if the segment does not admit the access, or
    /// if the handler must tell.
    fn add_segment(&mut self, segment: usize, bytes: usize, write: bool) {
        if self.mode.flat() && matches!(segment, seg::DS | seg::SS) {
            return;
        }
        // The highest offset, minus the last one that is accessed: negative if that is beyond.
        self.beyond(context::limit(segment as u8, write), 1 - bytes as i32);
        self.a.rorx(host::RCX, host::RCX, 1);
        self.a.load(host::R11, context::base(segment as u8));
        self.a.lea32(host::R15, At::indexed(host::R15, host::R11, 0, 0));
        self.a.lea(host::R15, At::indexed(host::R15, host::RCX, 0, 0));
    }

    /// RCX is 1 if R15 is not below the value at `end` plus `more`, else 0.
    fn beyond(&mut self, end: At, more: i32) {
        self.a.mov(host::RCX, host::R15);
        self.a.not(host::RCX);
        self.a.load(host::R11, end);
        self.a.lea(host::RCX, At::indexed(host::RCX, host::R11, 0, more));
        self.a.pext(host::RCX, host::RCX, context::MASK_TOP);
    }

    /// RCX is 1 if the target of a jump with operands of `bytes` bytes, in R15, is beyond the limit of CS, else 0; false if
    /// that need not be known: a jump of 16 bits, or what is behind it, faults where it arrives.
    pub(super) fn beyond_limit(&mut self, bytes: usize) -> bool {
        let matters = self.mode.limited() && bytes == 4;
        if matters {
            self.beyond(context::CODE_LIMIT, 0);
        }
        matters
    }

    /// The handler does it all, and refuses, if a direct transfer leads beyond the limit of CS.
    pub(super) fn reachable(&mut self, k: usize, to: To) {
        if self.mode.limited() && to.bytes == 4 {
            self.a.load(host::R15, context::PAGE);
            self.a.lea32(host::R15, At::base(host::R15, to.at as i32));
            self.admitted(k, to.bytes);
        }
    }

    /// Cuts the instruction pointer in R15.
    pub(super) fn cut(&mut self, bytes: usize) {
        match bytes {
            2 => self.a.zero_extend_word(host::R15, host::R15),
            4 => self.a.mov_sized(false, host::R15, host::R15),
            _ => {}
        }
    }

    /// Leaves unless `len` bytes of code at RIP, in R15, lie within the limit of CS and before a wrap.
    pub(super) fn within_reach(&mut self, len: i32) {
        self.beyond(context::CODE_REACH, 1 - len);
        let within = self.a.jrcxz();
        self.a.jmp_to(self.thunks.leave);
        self.a.land(within);
    }

    /// Puts RIP, in R15, aside for its linear address.
    pub(super) fn aside_for_linear(&mut self) {
        self.a.store(context::TARGET, host::R15);
        self.a.load(host::RCX, context::base(seg::CS as u8));
        self.a.lea32(host::R15, At::indexed(host::R15, host::RCX, 0, 0));
    }

    /// LEA to host register `to`, which is home to the guest's.
    pub(super) fn narrow_lea(&mut self, to: u8, at: At, i: &Instruction) {
        debug_assert_eq!(home(number(i.op0_register())), Some(to));
        self.a.lea32(host::R15, at);
        if address_size(i) == 2 {
            self.a.zero_extend_word(host::R15, host::R15);
        }
        if i.op0_register().size() == 2 {
            self.a.mov_low_word(to, host::R15);
        } else {
            self.a.mov(to, host::R15);
        }
    }
}
