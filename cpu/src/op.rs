//! The compact decoded operation and the contract of its handler.
//!
//! A block is a slice of [`Op`]s. A handler carries out one operation and hands over to the next one directly (a call in
//! tail position), so that no central dispatcher stands between two instructions. The slice is also the budget: the run
//! loop passes a shorter one to stop at an exact instruction.
//!
//! How to write a handler: a function of type [`Handler`], generic over [`crate::width::Width`] and operand places
//! ([`Place`], [`Source`]), that calls one of
//! * [`step`]: ordinary instruction; on `Ok` goes on with the next;
//! * [`last`]: always ends the block (port I/O, far transfers, mode changes, STI, HLT, ...): the run loop looks at
//!   interrupts, code writes and the mode afterwards. `cpu.state.rip` is already the next instruction when the body runs;
//!   the body overwrites it to branch;
//! * [`branch`]: a near branch that ends the block without any change of mode.
//!
//! On `Err` nothing of the instruction may have become visible. Memory bodies may run twice: an access to a device or to
//! decoded code fails with "alone" first and is then repeated with `cpu.solo` set.

use crate::fault::Fault;
use crate::state::Cpu;
use crate::width::Width;

/// Carries out `op`, then goes on with `rest`.
pub type Handler = fn(&mut Cpu, &Op, &[Op]) -> Exit;

/// Why a run of operations ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All operations of the slice are done; execution goes on after the last one.
    End,
    /// A near branch: `cpu.state.rip` is the target; `cpu.exit_ordinal` was the last operation done.
    Branch,
    /// As [`Exit::Branch`], and the mode, the interrupt flag or the outside may have changed.
    Leave,
    /// Operation `cpu.exit_ordinal` did not complete: `cpu.fault` says why, `cpu.state.rip` is its address.
    Fault,
}

/// A register number that always reads 0 (no base, no index).
pub const ZERO: u8 = 17;
/// The register number under which the block's own start address is found: the base of RIP-relative operands.
pub const BLOCK_RIP: u8 = 16;
/// Segment number of CS, DS and ES in 64-bit mode: base 0, no limit.
pub const FLAT: u8 = 6;
/// As [`FLAT`], but a non-canonical address is #SS: SS in 64-bit mode.
pub const FLAT_STACK: u8 = 7;

/// Address size and checks of a memory operand, as bits of [`Op::addr`]. 0 is 64-bit, flat.
pub mod addr {
    /// The effective address is cut to 32 bits.
    pub const SIZE_32: u8 = 1;
    /// The effective address is cut to 16 bits.
    pub const SIZE_16: u8 = 2;
    /// Segment limit and rights are checked and the linear address is cut to 32 bits (outside 64-bit mode).
    pub const CHECKED: u8 = 4;
    /// 2^32 is added: a RIP-relative operand's target lies so far beyond the block's start that it does not fit the displacement.
    pub const BEYOND: u8 = 8;
}

/// One operation: 32 bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Op {
    /// What carries it out.
    pub handler: Handler,
    /// Immediate (sign-extended as the instruction does), or a branch target relative to the block's start.
    pub imm: u64,
    /// Displacement of the memory operand.
    pub disp: i32,
    /// Bytes from the block's start to the instruction.
    pub offset: u16,
    /// The instruction's number in the block.
    pub ordinal: u16,
    /// The instruction's length in bytes.
    pub len: u8,
    /// First register operand (see [`crate::width::HIGH_BYTE`] for AH..BH; vectors, x87, segments by their number).
    pub dst: u8,
    /// Second register operand.
    pub src: u8,
    /// Base register of the memory operand, or [`ZERO`] or [`BLOCK_RIP`].
    pub base: u8,
    /// Index register of the memory operand, or [`ZERO`]; without one, the third register of a VEX-encoded instruction.
    pub index: u8,
    /// The index is shifted left by this.
    pub scale: u8,
    /// Segment of the memory operand: 0..5 = ES CS SS DS FS GS, or [`FLAT`], [`FLAT_STACK`].
    pub seg: u8,
    /// See [`addr`].
    pub addr: u8,
}

const _: () = assert!(size_of::<Op>() == 32 || size_of::<Handler>() != 8);

impl Op {
    /// Offset from the block's start to the following instruction.
    #[inline(always)]
    #[must_use]
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.len)
    }
}

/// Goes on with `rest`.
#[inline(always)]
pub fn next(cpu: &mut Cpu, rest: &[Op]) -> Exit {
    match rest {
        [op, rest @ ..] => (op.handler)(cpu, op, rest),
        [] => Exit::End,
    }
}

/// An ordinary instruction: see the module.
#[inline(always)]
pub fn step(cpu: &mut Cpu, op: &Op, rest: &[Op], body: impl FnOnce(&mut Cpu, &Op) -> Result<(), Fault>) -> Exit {
    match body(cpu, op) {
        Ok(()) => next(cpu, rest),
        Err(Fault) => fault(cpu, op),
    }
}

/// An instruction after which the run loop must look around: see the module.
#[inline(always)]
pub fn last(cpu: &mut Cpu, op: &Op, body: impl FnOnce(&mut Cpu, &Op) -> Result<(), Fault>) -> Exit {
    cpu.state.rip = cpu.next_rip(op);
    match body(cpu, op) {
        Ok(()) => {
            cpu.exit_ordinal = op.ordinal;
            Exit::Leave
        }
        Err(Fault) => fault(cpu, op),
    }
}

/// A near branch: the body returns the target.
#[inline(always)]
pub fn branch(cpu: &mut Cpu, op: &Op, body: impl FnOnce(&mut Cpu, &Op) -> Result<u64, Fault>) -> Exit {
    match body(cpu, op) {
        Ok(target) => {
            cpu.state.rip = target;
            cpu.exit_ordinal = op.ordinal;
            Exit::Branch
        }
        Err(Fault) => fault(cpu, op),
    }
}

#[cold]
#[inline(never)]
fn fault(cpu: &mut Cpu, op: &Op) -> Exit {
    cpu.exit_ordinal = op.ordinal;
    cpu.state.rip = cpu.this_rip(op);
    Exit::Fault
}

/// An operand that can be read.
pub trait Source {
    /// Its value.
    ///
    /// # Errors
    /// A memory operand may fault.
    fn get<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<W, Fault>;
}

/// An operand that can be read and written.
pub trait Place: Source {
    /// It is the memory operand.
    const IS_MEMORY: bool = false;
    /// Stores `v`.
    ///
    /// # Errors
    /// A memory operand may fault.
    fn set<W: Width>(cpu: &mut Cpu, op: &Op, v: W) -> Result<(), Fault>;
    /// Replaces the value by `f` of it; a memory operand is checked for writing before `f` runs.
    ///
    /// # Errors
    /// A memory operand may fault.
    fn update<W: Width>(cpu: &mut Cpu, op: &Op, f: impl FnOnce(&mut Cpu, W) -> W) -> Result<(), Fault>;
}

/// Register [`Op::dst`].
pub struct Dst;
/// Register [`Op::src`].
pub struct Src;
/// Register [`Op::index`]: see [`crate::lower::Lower::new`].
pub struct Index;
/// [`Op::imm`].
pub struct Imm;
/// The memory operand.
pub struct Mem;

impl Source for Dst {
    #[inline(always)]
    fn get<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<W, Fault> {
        Ok(W::get(&cpu.state.regs, op.dst))
    }
}
impl Source for Src {
    #[inline(always)]
    fn get<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<W, Fault> {
        Ok(W::get(&cpu.state.regs, op.src))
    }
}
impl Source for Index {
    #[inline(always)]
    fn get<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<W, Fault> {
        Ok(W::get(&cpu.state.regs, op.index))
    }
}
impl Source for Imm {
    #[inline(always)]
    fn get<W: Width>(_: &mut Cpu, op: &Op) -> Result<W, Fault> {
        Ok(W::of(op.imm))
    }
}
impl Source for Mem {
    #[inline(always)]
    fn get<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<W, Fault> {
        cpu.load(op)
    }
}
impl Place for Dst {
    #[inline(always)]
    fn set<W: Width>(cpu: &mut Cpu, op: &Op, v: W) -> Result<(), Fault> {
        W::set(&mut cpu.state.regs, op.dst, v);
        Ok(())
    }
    #[inline(always)]
    fn update<W: Width>(cpu: &mut Cpu, op: &Op, f: impl FnOnce(&mut Cpu, W) -> W) -> Result<(), Fault> {
        let v = f(cpu, W::get(&cpu.state.regs, op.dst));
        W::set(&mut cpu.state.regs, op.dst, v);
        Ok(())
    }
}
impl Place for Src {
    #[inline(always)]
    fn set<W: Width>(cpu: &mut Cpu, op: &Op, v: W) -> Result<(), Fault> {
        W::set(&mut cpu.state.regs, op.src, v);
        Ok(())
    }
    #[inline(always)]
    fn update<W: Width>(cpu: &mut Cpu, op: &Op, f: impl FnOnce(&mut Cpu, W) -> W) -> Result<(), Fault> {
        let v = f(cpu, W::get(&cpu.state.regs, op.src));
        W::set(&mut cpu.state.regs, op.src, v);
        Ok(())
    }
}
impl Place for Mem {
    const IS_MEMORY: bool = true;
    #[inline(always)]
    fn set<W: Width>(cpu: &mut Cpu, op: &Op, v: W) -> Result<(), Fault> {
        cpu.store(op, v)
    }
    #[inline(always)]
    fn update<W: Width>(cpu: &mut Cpu, op: &Op, f: impl FnOnce(&mut Cpu, W) -> W) -> Result<(), Fault> {
        cpu.update(op, f)
    }
}
