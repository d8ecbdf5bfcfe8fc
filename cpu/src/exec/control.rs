//! Near control transfers.

use iced_x86::Mnemonic as M;

use super::data::stack_operand;
use crate::by_width;
use crate::fault::Fault;
use crate::lower::Lower;
use crate::op::{BLOCK_RIP, Dst, Exit, Mem, Op, Source, branch, next};
use crate::state::{Cpu, reg, seg};
use crate::table::{Row, row};
use crate::width::Width;

/// The family's rows.
pub const ROWS: &[Row] = &[
    row(M::Jmp, lower_jmp),
    row(M::Call, lower_call),
    row(M::Ret, |l| by_width!(l, stack_operand_of_ret(l), wide ret)),
    row(M::Jo, jcc::<0>),
    row(M::Jno, jcc::<1>),
    row(M::Jb, jcc::<2>),
    row(M::Jae, jcc::<3>),
    row(M::Je, jcc::<4>),
    row(M::Jne, jcc::<5>),
    row(M::Jbe, jcc::<6>),
    row(M::Ja, jcc::<7>),
    row(M::Js, jcc::<8>),
    row(M::Jns, jcc::<9>),
    row(M::Jp, jcc::<10>),
    row(M::Jnp, jcc::<11>),
    row(M::Jl, jcc::<12>),
    row(M::Jge, jcc::<13>),
    row(M::Jle, jcc::<14>),
    row(M::Jg, jcc::<15>),
    row(M::Loop, |l| counted(l, 1)),
    row(M::Loope, |l| counted(l, 2)),
    row(M::Loopne, |l| counted(l, 3)),
    row(M::Jcxz, |l| counted(l, 0)),
    row(M::Jecxz, |l| counted(l, 0)),
    row(M::Jrcxz, |l| counted(l, 0)),
];

/// The target of a direct branch, cut to the operand size `W`.
#[inline(always)]
fn target<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<u64, Fault> {
    let to = W::of(cpu.state.regs[usize::from(BLOCK_RIP)].wrapping_add(op.imm));
    // A direct branch of 64 bits does not leave the canonical half it is in by more than the fetch will notice.
    if W::BYTES == 8 { Ok(to.zx()) } else { checked(cpu, to) }
}

/// The operand size of a direct branch.
fn branch_bits(l: &Lower) -> usize {
    match l.i.op0_kind() {
        iced_x86::OpKind::NearBranch16 => 16,
        iced_x86::OpKind::NearBranch32 => 32,
        _ => 64,
    }
}

/// The target of a branch: #GP(0) before anything changes if it is not canonical or beyond the limit of CS (SDM 2, JMP).
#[inline(always)]
fn checked<W: Width>(cpu: &mut Cpu, to: W) -> Result<u64, Fault> {
    let beyond = match W::BYTES {
        8 => !cpu.canonical(to.zx()),
        4 => cpu.state.mode.limited() && to.zx() > u64::from(cpu.state.segments[seg::CS].limit),
        _ => false,
    };
    if beyond { Err(cpu.gp(0)) } else { Ok(to.zx()) }
}

fn lower_jmp(l: &Lower) -> Option<Op> {
    use iced_x86::OpKind as K;
    match l.i.op0_kind() {
        K::NearBranch16 | K::NearBranch32 | K::NearBranch64 => by_width!(l, branch_bits(l), wide jmp),
        K::FarBranch16 | K::FarBranch32 => super::far::lower_jmp(l),
        K::Memory if l.i.is_jmp_far_indirect() => super::far::lower_jmp(l),
        K::Memory => by_width!(l, l.bits(0), wide jmp_indirect::<Mem>),
        _ => by_width!(l, l.bits(0), wide jmp_indirect::<Dst>),
    }
}

fn jmp<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    let _ = rest;
    branch(cpu, op, target::<W>)
}

fn jmp_indirect<S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    let _ = rest;
    branch(cpu, op, |cpu, op| {
        let to = S::get::<W>(cpu, op)?;
        checked(cpu, to)
    })
}

fn lower_call(l: &Lower) -> Option<Op> {
    use iced_x86::OpKind as K;
    match l.i.op0_kind() {
        K::NearBranch16 | K::NearBranch32 | K::NearBranch64 => by_width!(l, branch_bits(l), wide call),
        K::FarBranch16 | K::FarBranch32 => super::far::lower_call(l),
        K::Memory if l.i.is_call_far_indirect() => super::far::lower_call(l),
        K::Memory => by_width!(l, l.bits(0), wide call_indirect::<Mem>),
        _ => by_width!(l, l.bits(0), wide call_indirect::<Dst>),
    }
}

fn call<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    let _ = rest;
    branch(cpu, op, |cpu, op| {
        let to = target::<W>(cpu, op)?;
        let back = cpu.next_rip(op);
        cpu.push(op, W::of(back))?;
        Ok(to)
    })
}

fn call_indirect<S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    let _ = rest;
    branch(cpu, op, |cpu, op| {
        let to = S::get::<W>(cpu, op)?;
        let to = checked(cpu, to)?;
        let back = cpu.next_rip(op);
        cpu.push(op, W::of(back))?;
        Ok(to)
    })
}

fn stack_operand_of_ret(l: &Lower) -> usize {
    // The pop count of RET imm16 is part of iced's increment.
    stack_operand(l) - usize::from(l.op.imm as u16) * 8
}

fn ret<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    let _ = rest;
    branch(cpu, op, |cpu, op| {
        let old = cpu.state.regs[usize::from(reg::RSP)];
        let to: W = cpu.pop(op)?;
        let to = checked(cpu, to).inspect_err(|_| cpu.state.regs[usize::from(reg::RSP)] = old)?;
        if op.imm != 0 {
            let sp = cpu.stack_at(op, op.imm as i64);
            cpu.set_stack(op, sp);
        }
        Ok(to)
    })
}

fn jcc<const CC: u8>(l: &Lower) -> Option<Op> {
    match branch_bits(l) {
        16 => l.with(jump_if::<CC, u16>),
        32 => l.with(jump_if::<CC, u32>),
        _ => l.with(jump_if::<CC, u64>),
    }
}

/// Jcc: not taken, the block goes on.
fn jump_if<const CC: u8, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    if cpu.state.lazy.condition::<CC>() { branch(cpu, op, target::<W>) } else { next(cpu, rest) }
}

/// LOOPcc and JrCXZ: `kind` 0 is JrCXZ, 1 LOOP, 2 LOOPE, 3 LOOPNE; kept in `dst`, the target's size in `src`.
fn counted(l: &Lower, kind: u8) -> Option<Op> {
    use iced_x86::Code as C;
    let bits = match l.i.code() {
        C::Jcxz_rel8_16 | C::Jcxz_rel8_32 | C::Loop_rel8_16_CX | C::Loop_rel8_32_CX => 16,
        C::Loope_rel8_16_CX | C::Loope_rel8_32_CX | C::Loopne_rel8_16_CX | C::Loopne_rel8_32_CX => 16,
        C::Jrcxz_rel8_16 | C::Jrcxz_rel8_64 | C::Loop_rel8_16_RCX | C::Loop_rel8_64_RCX => 64,
        C::Loope_rel8_16_RCX | C::Loope_rel8_64_RCX | C::Loopne_rel8_16_RCX | C::Loopne_rel8_64_RCX => 64,
        _ => 32,
    };
    let op = Op { dst: kind, src: branch_bits(l) as u8, ..l.op };
    let l = Lower { op, ..*l };
    by_width!(l, bits, wide jump_counted)
}

fn jump_counted<C: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    let old = cpu.state.regs[usize::from(reg::RCX)];
    let mut count = C::get(&cpu.state.regs, reg::RCX);
    let taken = if op.dst == 0 {
        count.zx() == 0
    } else {
        count = C::of(count.zx().wrapping_sub(1));
        C::set(&mut cpu.state.regs, reg::RCX, count);
        let zf = cpu.state.lazy.zf();
        count.zx() != 0 && (op.dst == 1 || zf == (op.dst == 2))
    };
    if !taken {
        return next(cpu, rest);
    }
    branch(cpu, op, |cpu, op| {
        match op.src {
            16 => target::<u16>(cpu, op),
            32 => target::<u32>(cpu, op),
            _ => target::<u64>(cpu, op),
        }
        .inspect_err(|_| cpu.state.regs[usize::from(reg::RCX)] = old)
    })
}
