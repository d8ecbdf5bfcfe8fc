//! Far control transfers: JMP, CALL, RET, IRET (SDM 3A, 5.8), INT n, SYSCALL, SYSENTER and their returns.

use iced_x86::Mnemonic as M;

use super::descriptor::{Descriptor, Stack, code, null, system};
use super::interrupt::Event;
use super::models::Vendor;
use super::segment::changeable_flags;
use super::task::Switch;
use crate::by_width;
use crate::fault::{Fault, vector};
use crate::flags;
use crate::lower::Lower;
use crate::op::{Exit, Op, last};
use crate::state::{Cpu, Segment, bits, reg, seg};
use crate::table::{Row, row};
use crate::width::Width;

/// Instruction rows. Far JMP and CALL come here through [`lower_jmp`] and [`lower_call`].
pub const ROWS: &[Row] = &[
    row(M::Retf, |l| by_width!(l, return_bits(l), wide retf)),
    row(M::Iret, |l| l.with(iret::<u16>)).modifies("oszapcid"),
    row(M::Iretd, |l| l.with(iret::<u32>)).modifies("oszapcid"),
    row(M::Iretq, |l| l.with(iret::<u64>)).modifies("oszapcid"),
    row(M::Int, |l| l.with(int_n)),
    row(M::Int3, |l| l.with(int3)),
    row(M::Int1, |l| l.with(int1)),
    row(M::Into, |l| l.with(into)),
    row(M::Syscall, |l| l.with(syscall)).modifies("oszapcid"),
    row(M::Sysret, |l| l.with(sysret::<u32>)).modifies("oszapcid"),
    row(M::Sysretq, |l| l.with(sysret::<u64>)).modifies("oszapcid"),
    row(M::Sysenter, |l| l.with(sysenter)).modifies("i"),
    row(M::Sysexit, |l| l.with(sysexit::<u32>)),
    row(M::Sysexitq, |l| l.with(sysexit::<u64>)),
];

fn return_bits(l: &Lower) -> u32 {
    use iced_x86::Code;
    match l.i.code() {
        Code::Retfw | Code::Retfw_imm16 => 16,
        Code::Retfd | Code::Retfd_imm16 => 32,
        _ => 64,
    }
}

/// Far JMP.
#[must_use]
pub fn lower_jmp(l: &Lower) -> Option<Op> {
    lower_far::<false>(l)
}

/// Far CALL.
#[must_use]
pub fn lower_call(l: &Lower) -> Option<Op> {
    lower_far::<true>(l)
}

fn lower_far<const CALL: bool>(l: &Lower) -> Option<Op> {
    use iced_x86::OpKind;
    match (l.i.op0_kind(), l.i.memory_size().size()) {
        (OpKind::FarBranch16, _) => l.with(direct::<u16, CALL>),
        (OpKind::FarBranch32, _) => l.with(direct::<u32, CALL>),
        (OpKind::Memory, 4) => l.with(indirect::<u16, CALL>),
        (OpKind::Memory, 6) => l.with(indirect::<u32, CALL>),
        (OpKind::Memory, 10) => l.with(indirect::<u64, CALL>),
        _ => None,
    }
}

fn direct<W: Width, const CALL: bool>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| transfer::<W, CALL>(cpu, (op.imm >> 32) as u16, W::of(op.imm & 0xffff_ffff).zx()))
}

fn indirect<W: Width, const CALL: bool>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        let ea = cpu.effective(op);
        let offset = cpu.load_at::<W>(op, op.seg, ea)?.zx();
        let selector = cpu.load_at::<u16>(op, op.seg, ea.wrapping_add(W::BYTES as u64))?;
        transfer::<W, CALL>(cpu, selector, offset)
    })
}

fn transfer<W: Width, const CALL: bool>(cpu: &mut Cpu, selector: u16, offset: u64) -> Result<(), Fault> {
    if !cpu.state.mode.protected() {
        let cs = cpu.real_segment(seg::CS, selector);
        cpu.check_target(&cs, offset, 0)?;
        if CALL {
            push_return(cpu, W::BYTES, false)?.commit(cpu);
        }
        let cpl = cpu.state.cpl;
        cpu.enter_code(cs, cpl, offset);
        return Ok(());
    }
    if null(selector) {
        return Err(cpu.gp(0));
    }
    let mut d = cpu.descriptor(selector, vector::GP, 0)?;
    if !d.segment.code_or_data() {
        return gate::<CALL>(cpu, selector, &d);
    }
    check_code(cpu, &d, selector & 3, code(selector, 0))?;
    cpu.check_target(&d.segment, offset, 0)?;
    cpu.mark_accessed(&mut d)?;
    if CALL {
        // APM 3, CALL (far): AMD's processors have loaded CS by then, so 64-bit code's stack is all of RSP.
        let whole = amd(cpu) && cpu.lma() && d.segment.long();
        push_return(cpu, W::BYTES, whole)?.commit(cpu);
    }
    let cpl = cpu.state.cpl;
    cpu.enter_code(d.segment, cpl, offset);
    Ok(())
}

/// Pushes CS and RIP on the current stack, which is at the `whole` of RSP, or at what the mode makes of it.
fn push_return(cpu: &mut Cpu, bytes: usize, whole: bool) -> Result<Stack, Fault> {
    let mut stack = Stack::current(cpu);
    if whole {
        stack = Stack::outer(stack.segment, cpu.state.regs[usize::from(reg::RSP)], true);
        stack.set_user(cpu.state.cpl == 3);
    }
    stack.push(cpu, bytes, u64::from(cpu.state.segments[seg::CS].selector))?;
    stack.push(cpu, bytes, cpu.state.rip)?;
    Ok(stack)
}

/// A code segment for a transfer at the same privilege.
fn check_code(cpu: &mut Cpu, d: &Descriptor, rpl: u16, error: u32) -> Result<(), Fault> {
    let s = d.segment;
    let cpl = cpu.state.cpl;
    let level_ok = if s.conforming() { s.dpl() <= cpl } else { rpl <= u16::from(cpl) && s.dpl() == cpl };
    if !s.code() || !level_ok || (cpu.lma() && s.long() && s.big()) {
        return Err(cpu.gp(error));
    }
    if !s.present() {
        return Err(cpu.raise_with(vector::NP, error));
    }
    Ok(())
}

/// A far transfer through a call gate, or to a task.
fn gate<const CALL: bool>(cpu: &mut Cpu, selector: u16, d: &Descriptor) -> Result<(), Fault> {
    let error = code(selector, 0);
    let long = cpu.lma();
    let gate = d;
    match gate.segment.kind() {
        system::CALL_GATE => {}
        system::CALL_GATE_16 if !long => {}
        kind => {
            let task = !long && matches!(kind, system::TASK_GATE | system::TSS | system::TSS_16);
            if !task || d.segment.dpl() < cpu.state.cpl || u16::from(d.segment.dpl()) < selector & 3 {
                return Err(cpu.gp(error));
            }
            if !d.segment.present() {
                return Err(cpu.raise_with(vector::NP, error));
            }
            let tss = if kind == system::TASK_GATE { d.gate_selector() } else { selector };
            let flags = cpu.eflags();
            return cpu.switch_task(tss, if CALL { Switch::Call } else { Switch::Jump }, flags, 0);
        }
    }
    if gate.segment.dpl() < cpu.state.cpl || u16::from(gate.segment.dpl()) < selector & 3 {
        return Err(cpu.gp(error));
    }
    if !gate.segment.present() {
        return Err(cpu.raise_with(vector::NP, error));
    }
    let narrow = gate.segment.kind() == system::CALL_GATE_16;
    let mut offset = gate.gate_offset();
    if long {
        offset |= cpu.descriptor_upper(selector)? << 32;
    } else if narrow {
        offset &= 0xffff;
    }
    let bytes = if long { 8 } else { 4 >> usize::from(narrow) };
    let target = gate.gate_selector();
    if null(target) {
        return Err(cpu.gp(0));
    }
    let mut d = cpu.descriptor(target, vector::GP, 0)?;
    let (cs, error) = (d.segment, code(target, 0));
    let cpl = cpu.state.cpl;
    let inner = CALL && cs.code() && !cs.conforming() && cs.dpl() < cpl;
    if long && (!cs.long() || cs.big()) {
        return Err(cpu.gp(error));
    }
    if !inner {
        check_code(cpu, &d, 0, error)?;
    } else if !cs.present() {
        return Err(cpu.raise_with(vector::NP, error));
    }
    cpu.mark_accessed(&mut d)?;
    let cs = d.segment;
    if !inner {
        cpu.check_target(&cs, offset, 0)?;
        if CALL {
            push_return(cpu, bytes, false)?.commit(cpu);
        }
        cpu.enter_code(cs, cpl, offset);
        return Ok(());
    }
    let mut stack = cpu.inner_stack(cs.dpl(), 0, 0)?;
    let mut old = Stack::current(cpu);
    let (ss, sp) = (cpu.state.segments[seg::SS].selector, cpu.state.regs[usize::from(reg::RSP)]);
    stack.push(cpu, bytes, u64::from(ss))?;
    stack.push(cpu, bytes, sp)?;
    let count = if long { 0 } else { gate.raw >> 32 & 31 };
    let mut parameters = [0; 31];
    for p in parameters.iter_mut().take(count as usize) {
        *p = old.pop(cpu, bytes)?;
    }
    for p in parameters.iter().take(count as usize).rev() {
        stack.push(cpu, bytes, *p)?;
    }
    stack.push(cpu, bytes, u64::from(cpu.state.segments[seg::CS].selector))?;
    stack.push(cpu, bytes, cpu.state.rip)?;
    cpu.check_target(&cs, offset, 0)?;
    cpu.enter_code(cs, cs.dpl(), offset);
    cpu.enter_stack(&stack);
    Ok(())
}

/// The code segment that a far return or IRET goes to.
fn return_code(cpu: &mut Cpu, selector: u16) -> Result<Segment, Fault> {
    if null(selector) {
        return Err(cpu.gp(0));
    }
    let mut d = cpu.descriptor(selector, vector::GP, 0)?;
    let (s, rpl, error) = (d.segment, (selector & 3) as u8, code(selector, 0));
    let level_ok = if s.conforming() { s.dpl() <= rpl } else { s.dpl() == rpl };
    if rpl < cpu.state.cpl || !s.code() || !level_ok || (cpu.lma() && s.long() && s.big()) {
        return Err(cpu.gp(error));
    }
    if !s.present() {
        return Err(cpu.raise_with(vector::NP, error));
    }
    cpu.mark_accessed(&mut d)?;
    Ok(d.segment)
}

/// The stack segment that a far return or IRET to code `cs` at `level` goes to.
fn return_stack(cpu: &mut Cpu, selector: u16, level: u8, cs: &Segment) -> Result<Segment, Fault> {
    if null(selector) && cpu.lma() && cs.long() && level != 3 && (selector & 3) as u8 == level {
        return Ok(Segment { selector, attributes: u16::from(level) << 5, limit: 0, base: 0 });
    }
    cpu.fetch_stack_segment(selector, level, vector::GP, 0)
}

fn retf<W: Width>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        let mut stack = Stack::current(cpu);
        let rip = stack.pop(cpu, W::BYTES)?;
        let selector = stack.pop(cpu, W::BYTES)? as u16;
        stack.sp = stack.sp.wrapping_add(op.imm);
        if !cpu.state.mode.protected() {
            let cs = cpu.real_segment(seg::CS, selector);
            cpu.check_target(&cs, rip, 0)?;
            let cpl = cpu.state.cpl;
            cpu.enter_code(cs, cpl, rip);
            stack.commit(cpu);
            return Ok(());
        }
        let cs = return_code(cpu, selector)?;
        let level = (selector & 3) as u8;
        let outer = level > cpu.state.cpl;
        if outer {
            let sp = stack.pop(cpu, W::BYTES)?.wrapping_add(op.imm);
            let ss = stack.pop(cpu, W::BYTES)? as u16;
            let ss = return_stack(cpu, ss, level, &cs)?;
            stack = Stack::outer(ss, sp, cpu.lma() && cs.long());
        }
        cpu.check_target(&cs, rip, 0)?;
        cpu.enter_code(cs, level, rip);
        if outer {
            cpu.enter_stack(&stack);
            cpu.drop_inner_segments();
        } else {
            stack.commit(cpu);
        }
        Ok(())
    })
}

fn iret<W: Width>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, _| {
        let mode = cpu.state.mode;
        let vme = cpu.vme() && W::BYTES == 2;
        if mode.v86() && cpu.iopl() < 3 && !vme {
            return Err(cpu.gp(0));
        }
        if mode.protected() && cpu.state.eflags & flags::NT != 0 {
            if cpu.lma() {
                return Err(cpu.gp(0));
            }
            cpu.return_from_task()?;
            cpu.state.nmi_blocked = false;
            return Ok(());
        }
        let mut stack = Stack::current(cpu);
        let rip = stack.pop(cpu, W::BYTES)?;
        let selector = stack.pop(cpu, W::BYTES)? as u16;
        let popped = stack.pop(cpu, W::BYTES)?;
        let (cpl, iopl) = (cpu.state.cpl, cpu.iopl());
        let mask = if mode.v86() { changeable_flags(0, 0) & !flags::IOPL } else { changeable_flags(cpl, iopl) };
        let virtual_flags = if cpl == 0 { flags::VIF | flags::VIP } else { 0 };
        let mask = if W::BYTES == 2 { mask & 0xffff } else { mask | flags::RF | virtual_flags };
        let new_flags = cpu.eflags() & !mask | popped & mask;
        if !mode.protected() {
            let cs = cpu.real_segment(seg::CS, selector);
            cpu.check_target(&cs, rip, 0)?;
            if vme {
                cpu.set_virtual_flags(popped)?;
            } else {
                cpu.set_eflags(new_flags);
            }
            cpu.enter_code(cs, cpl, rip);
            stack.commit(cpu);
        } else if W::BYTES == 4 && popped & flags::VM != 0 && cpl == 0 && !cpu.lma() {
            iret_to_v86(cpu, stack, rip, selector, popped)?;
        } else {
            let cs = return_code(cpu, selector)?;
            let level = (selector & 3) as u8;
            let outer = level > cpl;
            if outer || mode.long() {
                let sp = stack.pop(cpu, W::BYTES)?;
                let ss = stack.pop(cpu, W::BYTES)? as u16;
                let ss = return_stack(cpu, ss, level, &cs)?;
                stack = Stack::outer(ss, sp, cpu.lma() && cs.long());
            }
            cpu.check_target(&cs, rip, 0)?;
            cpu.set_eflags(new_flags);
            cpu.enter_code(cs, level, rip);
            cpu.enter_stack(&stack);
            if outer {
                cpu.drop_inner_segments();
            }
        }
        cpu.state.nmi_blocked = false;
        Ok(())
    })
}

fn iret_to_v86(cpu: &mut Cpu, mut stack: Stack, rip: u64, selector: u16, popped: u64) -> Result<(), Fault> {
    let mut v = [0; 6];
    for v in &mut v {
        *v = stack.pop(cpu, 4)?;
    }
    if rip > 0xffff {
        return Err(cpu.gp(0));
    }
    let mask = changeable_flags(0, 3) | flags::RF | flags::VM | flags::VIF | flags::VIP;
    cpu.set_eflags(cpu.eflags() & !mask | popped & mask);
    let [sp, ss, es, ds, fs, gs] = v;
    for (n, s) in [(seg::SS, ss), (seg::ES, es), (seg::DS, ds), (seg::FS, fs), (seg::GS, gs)] {
        let segment = cpu.real_segment(n, s as u16);
        cpu.set_segment(n, segment);
    }
    let cs = cpu.real_segment(seg::CS, selector);
    cpu.enter_code(cs, 3, rip);
    cpu.state.regs[usize::from(reg::RSP)] = sp;
    Ok(())
}

fn int_n(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| cpu.software_interrupt(op.imm as u8, Event::Software))
}

fn int3(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, _| cpu.software_interrupt(vector::BP, Event::SoftwareException))
}

fn int1(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, _| cpu.software_interrupt(vector::DB, Event::Privileged))
}

fn into(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, _| if cpu.state.lazy.of() { cpu.software_interrupt(vector::OF, Event::SoftwareException) } else { Ok(()) })
}

/// A flat segment as SYSCALL and SYSENTER load it, whatever its descriptor says.
fn flat(selector: u16, is_code: bool, long: bool, level: u8) -> Segment {
    let kind = if is_code { 0x9b } else { 0x93 };
    let size = if is_code && long { 0xa000 } else { 0xc000 };
    Segment { selector: selector & !3 | u16::from(level), attributes: size | kind | u16::from(level) << 5, limit: 0xffff_ffff, base: 0 }
}

/// Goes to flat code `selector` (and stack `selector + 8`) at `level`.
fn enter_flat(cpu: &mut Cpu, selector: u16, stack: u16, long: bool, level: u8, rip: u64) {
    cpu.enter_code(flat(selector, true, long, level), level, rip);
    cpu.set_segment(seg::SS, flat(stack, false, false, level));
}

/// What AMD's processors do outside of 64-bit mode, and Intel's do not.
fn amd(cpu: &Cpu) -> bool {
    cpu.model.vendor() == Vendor::Amd
}

/// #UD where SYSCALL and SYSRET are not: outside of 64-bit mode only AMD has them (SDM 2, SYSCALL; APM 3, SYSCALL).
fn fast_call_ready(cpu: &mut Cpu) -> Result<(), Fault> {
    let s = &cpu.state;
    let here = s.mode.long() || amd(cpu) && cpu.pe();
    if s.efer & bits::EFER_SCE != 0 && here { Ok(()) } else { Err(cpu.ud()) }
}

/// SDM 2, SYSCALL; APM 3, SYSCALL: from compatibility mode to CSTAR, from legacy mode to what STAR holds.
fn syscall(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, _| {
        fast_call_ready(cpu)?;
        let (long, lma) = (cpu.state.mode.long(), cpu.lma());
        let eflags = cpu.eflags() & !flags::RF;
        let m = &cpu.state.msr;
        let star = (m.star >> 32) as u16;
        let (target, mask) = match (long, lma) {
            (true, _) => (m.lstar, m.fmask),
            (_, true) => (m.cstar, m.fmask),
            _ => (m.star & 0xffff_ffff, flags::VM | flags::IF),
        };
        cpu.state.regs[usize::from(reg::RCX)] = cpu.state.rip;
        if lma {
            cpu.state.regs[11] = eflags;
        }
        cpu.set_eflags(eflags & !mask);
        cpu.untraced = mask & flags::TF != 0;
        enter_flat(cpu, star, (star & !3).wrapping_add(8), lma, 0, target);
        Ok(())
    })
}

fn sysret<W: Width>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, _| {
        fast_call_ready(cpu)?;
        cpu.need_cpl0()?;
        let long = W::BYTES == 8;
        let target = W::get(&cpu.state.regs, reg::RCX).zx();
        // With AMD the fault is the program's, at its first instruction (APM 3, SYSRET).
        if !cpu.canonical(target) && !amd(cpu) {
            return Err(cpu.gp(0));
        }
        let star = (cpu.state.msr.star >> 48) as u16;
        let eflags = if cpu.state.mode.long() { cpu.state.regs[11] & 0x3c_7fd7 | 2 } else { cpu.eflags() | flags::IF };
        cpu.set_eflags(eflags);
        enter_flat(cpu, star.wrapping_add(if long { 16 } else { 0 }), star.wrapping_add(8), long, 3, target);
        Ok(())
    })
}

/// #UD where SYSENTER and SYSEXIT are not: AMD has none in long mode (APM 3, SYSENTER); #GP(0) where they lead nowhere.
fn system_enter_ready(cpu: &mut Cpu, cs: u16) -> Result<(), Fault> {
    if amd(cpu) && cpu.lma() {
        return Err(cpu.ud());
    }
    if !cpu.pe() || cs == 0 { Err(cpu.gp(0)) } else { Ok(()) }
}

fn sysenter(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, _| {
        let m = &cpu.state.msr;
        let (cs, sp, ip) = (m.sysenter_cs as u16 & !3, m.sysenter_esp, m.sysenter_eip);
        system_enter_ready(cpu, cs)?;
        let long = cpu.lma();
        let cut = |v: u64| if long { v } else { v & 0xffff_ffff };
        cpu.set_eflags(cpu.eflags() & !(flags::VM | flags::IF | flags::RF));
        enter_flat(cpu, cs, cs.wrapping_add(8), long, 0, cut(ip));
        cpu.state.regs[usize::from(reg::RSP)] = cut(sp);
        Ok(())
    })
}

fn sysexit<W: Width>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, _| {
        let cs = cpu.state.msr.sysenter_cs as u16 & !3;
        system_enter_ready(cpu, cs)?;
        cpu.need_cpl0()?;
        let (ip, sp) = (W::get(&cpu.state.regs, reg::RDX).zx(), W::get(&cpu.state.regs, reg::RCX).zx());
        if !cpu.canonical(ip) || !cpu.canonical(sp) {
            return Err(cpu.gp(0));
        }
        let long = W::BYTES == 8;
        let cs = cs.wrapping_add(if long { 32 } else { 16 });
        enter_flat(cpu, cs, cs.wrapping_add(8), long, 3, ip);
        cpu.state.regs[usize::from(reg::RSP)] = sp;
        Ok(())
    })
}
