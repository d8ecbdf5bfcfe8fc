//! Port I/O: IN, OUT, INS, OUTS.

use iced_x86::{Mnemonic as M, OpKind, Register};

use crate::fault::Fault;
use crate::flags;
use crate::lower::Lower;
use crate::op::{Exit, Handler, Op, addr, last};
use crate::state::{Cpu, reg, seg};
use crate::table::{Row, row};
use crate::width::Width;

/// Instruction rows.
pub const ROWS: &[Row] = &[
    row(M::In, lower_in),
    row(M::Out, lower_out),
    row(M::Insb, |l| lower_string(l, string::<u8, true>)),
    row(M::Insw, |l| lower_string(l, string::<u16, true>)),
    row(M::Insd, |l| lower_string(l, string::<u32, true>)),
    row(M::Outsb, |l| lower_string(l, string::<u8, false>)),
    row(M::Outsw, |l| lower_string(l, string::<u16, false>)),
    row(M::Outsd, |l| lower_string(l, string::<u32, false>)),
];

/// Bits of what SMM is told of an access: see [`Cpu::note_io`].
const INPUT: u64 = 1 << 0;
const STRING: u64 = 1 << 2;
const REPEATED: u64 = 1 << 3;

/// Iterations of a repeated instruction between two looks at the interrupts.
const SLICE: u64 = 4096;

fn lower_in(l: &Lower) -> Option<Op> {
    let dx = l.i.op1_register() == Register::DX;
    match (l.bits(0), dx) {
        (8, false) => l.with(input::<u8, false>),
        (16, false) => l.with(input::<u16, false>),
        (32, false) => l.with(input::<u32, false>),
        (8, true) => l.with(input::<u8, true>),
        (16, true) => l.with(input::<u16, true>),
        (32, true) => l.with(input::<u32, true>),
        _ => None,
    }
}

fn lower_out(l: &Lower) -> Option<Op> {
    let dx = l.i.op0_kind() == OpKind::Register;
    match (l.bits(1), dx) {
        (8, false) => l.with(output::<u8, false>),
        (16, false) => l.with(output::<u16, false>),
        (32, false) => l.with(output::<u32, false>),
        (8, true) => l.with(output::<u8, true>),
        (16, true) => l.with(output::<u16, true>),
        (32, true) => l.with(output::<u32, true>),
        _ => None,
    }
}

/// `imm` is 1 for a repeated instruction.
fn lower_string(l: &Lower, handler: Handler) -> Option<Op> {
    let repeated = l.i.has_rep_prefix() || l.i.has_repne_prefix();
    l.with(handler).map(|op| Op { imm: u64::from(repeated), ..op })
}

fn port<const DX: bool>(cpu: &Cpu, op: &Op) -> u16 {
    if DX { cpu.state.regs[usize::from(reg::RDX)] as u16 } else { op.imm as u16 & 0xff }
}

fn input<W: Width, const DX: bool>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        let port = port::<DX>(cpu, op);
        cpu.check_port(port, W::BYTES)?;
        let at = cpu.now(op);
        let v = cpu.port_read(at, port, W::BYTES);
        cpu.note_io(op, at, port, W::BYTES, INPUT);
        W::set(&mut cpu.state.regs, reg::RAX, W::of(u64::from(v)));
        Ok(())
    })
}

fn output<W: Width, const DX: bool>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        let port = port::<DX>(cpu, op);
        cpu.check_port(port, W::BYTES)?;
        let at = cpu.now(op);
        let v = W::get(&cpu.state.regs, reg::RAX).zx();
        cpu.bus.port_write(at, port, W::BYTES, v as u32);
        cpu.note_io(op, at, port, W::BYTES, 0);
        Ok(())
    })
}

impl Cpu {
    /// A load from a port, which may take time.
    fn port_read(&mut self, at: u64, port: u16, width: usize) -> u32 {
        self.time_moved = true;
        self.bus.port_read(at, port, width)
    }
}

/// A register of address size.
fn get(cpu: &Cpu, op: &Op, r: u8) -> u64 {
    let v = cpu.state.regs[usize::from(r)];
    match op.addr & (addr::SIZE_16 | addr::SIZE_32) {
        0 => v,
        addr::SIZE_32 => v & 0xffff_ffff,
        _ => v & 0xffff,
    }
}

fn set(cpu: &mut Cpu, op: &Op, r: u8, v: u64) {
    let regs = &mut cpu.state.regs;
    match op.addr & (addr::SIZE_16 | addr::SIZE_32) {
        0 => u64::set(regs, r, v),
        addr::SIZE_32 => u32::set(regs, r, v as u32),
        _ => u16::set(regs, r, v as u16),
    }
}

/// One INS (`IN`) or OUTS; `at` is its instruction count.
fn transfer<W: Width, const IN: bool>(cpu: &mut Cpu, op: &Op, at: u64) -> Result<(), Fault> {
    let port = cpu.state.regs[usize::from(reg::RDX)] as u16;
    let (pointer, segment) =
        if IN { (reg::RDI, if op.addr & addr::CHECKED == 0 { op.seg } else { seg::ES as u8 }) } else { (reg::RSI, op.seg) };
    let ea = get(cpu, op, pointer);
    if IN {
        // The store must be certain before the port is read.
        let lin = cpu.probe_operand(op, segment, ea, W::BYTES)?;
        let v = cpu.port_read(at, port, W::BYTES);
        cpu.write(lin, W::of(u64::from(v)))?;
    } else {
        let v = cpu.load_at::<W>(op, segment, ea)?;
        cpu.bus.port_write(at, port, W::BYTES, v.zx() as u32);
    }
    let repeated = if op.imm == 0 { 0 } else { REPEATED };
    cpu.note_io(op, at, port, W::BYTES, STRING | repeated | if IN { INPUT } else { 0 });
    let size = W::BYTES as u64;
    let by = if cpu.state.eflags & flags::DF != 0 { size.wrapping_neg() } else { size };
    set(cpu, op, pointer, ea.wrapping_add(by));
    Ok(())
}

fn string<W: Width, const IN: bool>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        let port = cpu.state.regs[usize::from(reg::RDX)] as u16;
        cpu.check_port(port, W::BYTES)?;
        let start = cpu.now(op);
        if op.imm == 0 {
            return transfer::<W, IN>(cpu, op, start);
        }
        let most = cpu.repeat_budget.saturating_add(1).min(SLICE);
        let mut done = 0;
        let mut left = get(cpu, op, reg::RCX);
        while left != 0 && done < most {
            if let Err(f) = transfer::<W, IN>(cpu, op, start.wrapping_add(done)) {
                cpu.repeat_extra += done;
                return Err(f);
            }
            left -= 1;
            done += 1;
            set(cpu, op, reg::RCX, left);
            // What the device or a store over code has brought about comes before the next iteration.
            if cpu.wanted() != 0 || cpu.memory.code_written() {
                break;
            }
        }
        cpu.repeat_extra += done.saturating_sub(1);
        if left != 0 {
            cpu.state.eflags |= flags::RF;
            cpu.state.rip = cpu.this_rip(op);
        }
        Ok(())
    })
}
