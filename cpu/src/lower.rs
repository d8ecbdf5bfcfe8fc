//! From iced's instruction to the compact [`Op`]: operands are resolved once, here.
//!
//! A row's lowering gets a [`Lower`] (the instruction, the mode, and an [`Op`] whose memory operand, registers and
//! immediate are already filled in by position) and names the handler. The macros pick the handler's instance:
//! * [`by_width!`](crate::by_width): by a size in bits;
//! * [`binary!`](crate::binary): by width and by the forms reg,reg / reg,mem / mem,reg / reg,imm / mem,imm;
//! * [`unary!`](crate::unary): by width and reg / mem.

use iced_x86::{EncodingKind, Instruction, OpKind, Register};

use crate::op::{BLOCK_RIP, FLAT, FLAT_STACK, Handler, Op, ZERO, addr};
use crate::state::Mode;
use crate::width::HIGH_BYTE;

/// What a lowering works on.
pub struct Lower<'a> {
    /// The decoded instruction; its IP counts from the block's start.
    pub i: &'a Instruction,
    /// The mode that it is decoded for.
    pub mode: Mode,
    /// The instruction is VEX-encoded.
    pub vex: bool,
    /// The operation, filled in but for the handler.
    pub op: Op,
}

/// A row's lowering: `None` if the form is not implemented (#UD, with a log line).
pub type LowerFn = fn(&Lower) -> Option<Op>;

impl<'a> Lower<'a> {
    /// Resolves the operands of `i`: operand 0's register goes to `dst`, the next register operand's to `src`, a third
    /// one's to the low byte of `imm`; the immediate (or near-branch target) to `imm`; the memory operand to the address fields.
    ///
    /// VEX-encoded vector instructions may have an immediate besides: where no operand is in memory, their third register
    /// operand goes to `index`, and an only one after operand 0 to both `src` and `index`.
    #[must_use]
    pub fn new(i: &'a Instruction, mode: Mode, ordinal: u16, handler: Handler) -> Self {
        let mut op = Op {
            handler,
            imm: 0,
            disp: 0,
            offset: i.ip() as u16,
            ordinal,
            len: i.len() as u8,
            dst: 0,
            src: 0,
            base: ZERO,
            index: ZERO,
            scale: 0,
            seg: if mode.long() { FLAT } else { 3 },
            addr: if mode.long() { 0 } else { addr::CHECKED },
        };
        let mut registers = 0;
        for n in 0..i.op_count() {
            match i.op_kind(n) {
                OpKind::Register => {
                    let r = register(i.op_register(n));
                    // Operand 0 is `dst` only if it is a register itself.
                    if n == 0 {
                        op.dst = r;
                    } else if registers == 0 {
                        op.src = r;
                        registers = 1;
                    } else {
                        op.imm = u64::from(r);
                    }
                }
                OpKind::Immediate8 => op.imm = (op.imm & !0xff) | u64::from(i.immediate8()),
                OpKind::Immediate8_2nd => op.imm |= u64::from(i.immediate8_2nd()) << 16,
                OpKind::Immediate16 => op.imm = u64::from(i.immediate16()),
                OpKind::Immediate32 => op.imm = u64::from(i.immediate32()),
                OpKind::Immediate64 => op.imm = i.immediate64(),
                OpKind::Immediate8to16 => op.imm = i.immediate8to16() as u64,
                OpKind::Immediate8to32 => op.imm = i.immediate8to32() as u64,
                OpKind::Immediate8to64 => op.imm = i.immediate8to64() as u64,
                OpKind::Immediate32to64 => op.imm = i.immediate32to64() as u64,
                OpKind::NearBranch16 => op.imm = i.near_branch16() as i16 as u64,
                OpKind::NearBranch32 => op.imm = i.near_branch32() as i32 as u64,
                OpKind::NearBranch64 => op.imm = i.near_branch64(),
                OpKind::FarBranch16 => op.imm = u64::from(i.far_branch16()) | u64::from(i.far_branch_selector()) << 32,
                OpKind::FarBranch32 => op.imm = u64::from(i.far_branch32()) | u64::from(i.far_branch_selector()) << 32,
                OpKind::Memory => memory(i, mode, &mut op),
                // String instructions: the address size and the overridable segment of the source; handlers know the registers.
                OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => string(i, mode, &mut op, addr::SIZE_16),
                OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => string(i, mode, &mut op, addr::SIZE_32),
                OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => string(i, mode, &mut op, 0),
            }
        }
        let vex = i.code().encoding() == EncodingKind::VEX;
        if vex {
            vector_registers(i, &mut op);
        }
        Self { i, mode, vex, op }
    }

    /// The operation with `handler`.
    #[must_use]
    pub fn with(&self, handler: Handler) -> Option<Op> {
        Some(Op { handler, ..self.op })
    }

    /// Operand `n` is a register.
    #[must_use]
    pub fn is_reg(&self, n: u32) -> bool {
        self.i.op_kind(n) == OpKind::Register
    }

    /// Operand `n` is the memory operand.
    #[must_use]
    pub fn is_mem(&self, n: u32) -> bool {
        self.i.op_kind(n) == OpKind::Memory
    }

    /// Operand `n` is an immediate.
    #[must_use]
    pub fn is_imm(&self, n: u32) -> bool {
        matches!(
            self.i.op_kind(n),
            OpKind::Immediate8
                | OpKind::Immediate16
                | OpKind::Immediate32
                | OpKind::Immediate64
                | OpKind::Immediate8to16
                | OpKind::Immediate8to32
                | OpKind::Immediate8to64
                | OpKind::Immediate32to64
        )
    }

    /// Size in bits of operand `n`: of the register, or of the memory operand.
    #[must_use]
    pub fn bits(&self, n: u32) -> usize {
        match self.i.op_kind(n) {
            OpKind::Register => self.i.op_register(n).size() * 8,
            OpKind::Memory => self.i.memory_size().size() * 8,
            _ => 0,
        }
    }

    /// Address size in bits of string and LOOP-like instructions, from the operand found by [`Lower::new`].
    #[must_use]
    pub fn address_bits(&self) -> usize {
        match self.op.addr & (addr::SIZE_16 | addr::SIZE_32) {
            0 => 64,
            addr::SIZE_32 => 32,
            _ => 16,
        }
    }
}

/// Where VEX-encoded instructions have their vector registers: see [`Lower::new`].
fn vector_registers(i: &Instruction, op: &mut Op) {
    let is_register = |n: u32| i.op_kind(n) == OpKind::Register;
    let is_vector = |n: u32| is_register(n) && i.op_register(n).is_vector_register();
    if !(0..i.op_count()).any(is_vector) || (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory) {
        return;
    }
    let mut sources = (1..i.op_count()).filter(|&n| is_register(n)).map(|n| register(i.op_register(n)));
    let Some(first) = sources.next() else { return };
    op.src = first;
    op.index = sources.next().unwrap_or(first);
}

fn memory(i: &Instruction, mode: Mode, op: &mut Op) {
    op.base = ZERO;
    let base = i.memory_base();
    let index = i.memory_index();
    op.disp = i.memory_displacement64() as i32;
    op.addr = if mode.long() { 0 } else { addr::CHECKED };
    match base {
        Register::None => {}
        Register::RIP => {
            op.base = BLOCK_RIP;
            // Counted from the block's start it may take 33 bits.
            if i.memory_displacement64() as i64 > i64::from(i32::MAX) {
                op.addr |= addr::BEYOND;
            }
        }
        Register::EIP => {
            op.base = BLOCK_RIP;
            op.addr |= addr::SIZE_32;
        }
        r => op.base = register(r),
    }
    if index != Register::None {
        op.index = register(index);
        op.scale = i.memory_index_scale().trailing_zeros() as u8;
    }
    // A gather's index says nothing about the size of addresses.
    let size = if base.size() != 0 || index.is_vector_register() { base.size() } else { index.size() };
    op.addr |= match if size != 0 { size } else { i.memory_displ_size() as usize } {
        2 => addr::SIZE_16,
        4 if base != Register::EIP => addr::SIZE_32,
        _ => 0,
    };
    // In 64-bit mode, prefixes other than FS and GS do nothing: the base alone tells whether it is the stack.
    op.seg = match (i.memory_segment(), mode.long(), base.full_register()) {
        (Register::FS | Register::GS, ..) | (_, false, _) => segment(i.memory_segment(), mode),
        (_, _, Register::RSP | Register::RBP) => FLAT_STACK,
        _ => FLAT,
    };
}

fn string(i: &Instruction, mode: Mode, op: &mut Op, size: u8) {
    op.seg = segment(i.memory_segment(), mode);
    op.addr = size | if mode.long() { 0 } else { addr::CHECKED };
}

/// The number of a segment register for address generation.
#[must_use]
pub fn segment(r: Register, mode: Mode) -> u8 {
    match (r, mode.long()) {
        (Register::FS, _) => 4,
        (Register::GS, _) => 5,
        // The prefixes of the others do nothing (SDM 1, 3.3.7.1).
        (_, true) => FLAT,
        (Register::ES, _) => 0,
        (Register::CS, _) => 1,
        (Register::SS, _) => 2,
        _ => 3,
    }
}

/// The number that handlers know a register by (see [`HIGH_BYTE`]).
#[must_use]
pub fn register(r: Register) -> u8 {
    match r {
        Register::AH | Register::CH | Register::DH | Register::BH => HIGH_BYTE | (r as u8 - Register::AH as u8),
        // `number` of an 8-bit register counts AH..BH too; `full_register` does not.
        _ if r.is_gpr8() => r.full_register().number() as u8,
        _ => r.number() as u8,
    }
}

/// `by_width!(l, bits, f::<A, B>)` is `l.with(f::<A, B, u8|u16|u32|u64>)`; also with an explicit list of allowed sizes.
#[macro_export]
macro_rules! by_width {
    ($l:expr, $bits:expr, $f:ident $(::<$($g:ty),*>)?) => {
        match $bits {
            8 => $l.with($f::<$($($g,)*)? u8>),
            16 => $l.with($f::<$($($g,)*)? u16>),
            32 => $l.with($f::<$($($g,)*)? u32>),
            64 => $l.with($f::<$($($g,)*)? u64>),
            _ => None,
        }
    };
    ($l:expr, $bits:expr, wide $f:ident $(::<$($g:ty),*>)?) => {
        match $bits {
            16 => $l.with($f::<$($($g,)*)? u16>),
            32 => $l.with($f::<$($($g,)*)? u32>),
            64 => $l.with($f::<$($($g,)*)? u64>),
            _ => None,
        }
    };
}

/// Two-operand integer forms: `binary!(l, f::<X>)` picks `f::<X, D, S, W>` with the places and the width of operand 0.
#[macro_export]
macro_rules! binary {
    ($l:expr, $f:ident $(::<$($g:ty),*>)?) => {{
        use $crate::op::{Dst, Imm, Mem, Src};
        let bits = $l.bits(0);
        match ($l.is_mem(0), $l.is_mem(1), $l.is_imm(1)) {
            (false, false, false) => $crate::by_width!($l, bits, $f::<$($($g,)*)? Dst, Src>),
            (false, true, _) => $crate::by_width!($l, bits, $f::<$($($g,)*)? Dst, Mem>),
            (true, _, false) => $crate::by_width!($l, bits, $f::<$($($g,)*)? Mem, Src>),
            (false, false, true) => $crate::by_width!($l, bits, $f::<$($($g,)*)? Dst, Imm>),
            (true, _, true) => $crate::by_width!($l, bits, $f::<$($($g,)*)? Mem, Imm>),
        }
    }};
}

/// One-operand integer forms: `unary!(l, f::<X>)` picks `f::<X, Dst|Mem, W>`.
#[macro_export]
macro_rules! unary {
    ($l:expr, $f:ident $(::<$($g:ty),*>)?) => {{
        use $crate::op::{Dst, Mem};
        let bits = $l.bits(0);
        if $l.is_mem(0) { $crate::by_width!($l, bits, $f::<$($($g,)*)? Mem>) } else { $crate::by_width!($l, bits, $f::<$($($g,)*)? Dst>) }
    }};
}
