//! HLT, interrupt flag, PUSHF and POPF, BOUND, time stamps, random numbers, caches.

use iced_x86::Mnemonic as M;

use super::descriptor::Stack;
use super::segment::changeable_flags;
use crate::by_width;
use crate::fault::{Fault, vector};
use crate::flags;
use crate::lower::Lower;
use crate::op::{Exit, Op, last, step};
use crate::state::{Cpu, bits, reg};
use crate::table::{Row, row};
use crate::width::Width;

/// Instruction rows.
pub const ROWS: &[Row] = &[
    row(M::Ud0, |l| l.with(super::invalid)),
    row(M::Ud1, |l| l.with(super::invalid)),
    row(M::Ud2, |l| l.with(super::invalid)),
    row(M::Hlt, |l| l.with(hlt)),
    row(M::Cli, |l| l.with(cli)).modifies("i"),
    row(M::Sti, |l| l.with(sti)).modifies("i"),
    row(M::Pushf, |l| l.with(pushf::<u16>)),
    row(M::Pushfd, |l| l.with(pushf::<u32>)),
    row(M::Pushfq, |l| l.with(pushf::<u64>)),
    row(M::Popf, |l| l.with(popf::<u16>)).modifies("oszapcid"),
    row(M::Popfd, |l| l.with(popf::<u32>)).modifies("oszapcid"),
    row(M::Popfq, |l| l.with(popf::<u64>)).modifies("oszapcid"),
    row(M::Rdtsc, |l| l.with(rdtsc)),
    row(M::Rdtscp, |l| l.with(rdtscp)),
    row(M::Rdpmc, |l| l.with(rdpmc)),
    row(M::Rdrand, lower_random).modifies("oszapc"),
    row(M::Rdseed, lower_random).modifies("oszapc"),
    row(M::Bound, |l| by_width!(l, l.bits(0), wide bound)),
    row(M::Pause, |l| l.with(pause)),
    row(M::Invd, |l| l.with(write_back)),
    row(M::Wbinvd, |l| l.with(write_back)),
    row(M::Wbnoinvd, |l| l.with(write_back)),
    row(M::Serialize, |l| l.with(super::data::nop)),
    row(M::Rdpid, |l| l.with(rdpid)),
    row(M::Stac, |l| l.with(access_flag::<true>)),
    row(M::Clac, |l| l.with(access_flag::<false>)),
    row(M::Rdpkru, |l| l.with(rdpkru)),
    row(M::Wrpkru, |l| l.with(wrpkru)),
];

fn lower_random(l: &Lower) -> Option<Op> {
    by_width!(l, l.bits(0), wide random)
}

fn hlt(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, _| {
        cpu.need_cpl0()?;
        cpu.state.halted = true;
        Ok(())
    })
}

/// CLI and STI need CPL <= IOPL (virtual-8086 mode: IOPL 3).
fn need_iopl(cpu: &mut Cpu) -> Result<(), Fault> {
    if cpu.pe() && cpu.state.cpl > cpu.iopl() { Err(cpu.gp(0)) } else { Ok(()) }
}

fn cli(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, _| {
        if cpu.set_virtual_if(false)? {
            return Ok(());
        }
        need_iopl(cpu)?;
        cpu.state.eflags &= !flags::IF;
        Ok(())
    })
}

fn sti(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, _| {
        if cpu.set_virtual_if(true)? {
            return Ok(());
        }
        need_iopl(cpu)?;
        cpu.state.shadow = cpu.state.eflags & flags::IF == 0;
        cpu.state.eflags |= flags::IF;
        Ok(())
    })
}

fn pushf<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        let shown = if cpu.vme() && W::BYTES == 2 { cpu.virtual_flags() } else { cpu.eflags() };
        if cpu.state.mode.v86() && cpu.iopl() < 3 && (!cpu.vme() || W::BYTES != 2) {
            return Err(cpu.gp(0));
        }
        let mut stack = Stack::current(cpu);
        stack.push(cpu, W::BYTES, shown & !(flags::RF | flags::VM))?;
        stack.commit(cpu);
        Ok(())
    })
}

fn popf<W: Width>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, _| {
        let vme = cpu.vme() && W::BYTES == 2;
        if cpu.state.mode.v86() && cpu.iopl() < 3 && !vme {
            return Err(cpu.gp(0));
        }
        let mut stack = Stack::current(cpu);
        let popped = stack.pop(cpu, W::BYTES)?;
        if vme {
            cpu.set_virtual_flags(popped)?;
            stack.commit(cpu);
            return Ok(());
        }
        stack.commit(cpu);
        let mask = changeable_flags(if cpu.pe() { cpu.state.cpl } else { 0 }, cpu.iopl());
        let mask = if W::BYTES == 2 { mask & 0xffff } else { mask };
        let new = cpu.eflags() & !mask | popped & mask;
        cpu.set_eflags(new);
        Ok(())
    })
}

/// RDTSC: #GP(0) with CR4.TSD above CPL 0.
fn time_stamp(cpu: &mut Cpu, op: &Op) -> Result<(), Fault> {
    if cpu.state.cr4 & bits::CR4_TSD != 0 && cpu.state.cpl > 0 {
        return Err(cpu.gp(0));
    }
    let at = cpu.now(op);
    let v = cpu.time_stamp(at);
    u32::set(&mut cpu.state.regs, reg::RAX, v as u32);
    u32::set(&mut cpu.state.regs, reg::RDX, (v >> 32) as u32);
    Ok(())
}

fn rdtsc(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, time_stamp)
}

fn rdtscp(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        time_stamp(cpu, op)?;
        let aux = cpu.state.msr.tsc_aux;
        u32::set(&mut cpu.state.regs, reg::RCX, aux as u32);
        Ok(())
    })
}

fn rdpid(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        u64::set(&mut cpu.state.regs, op.dst, cpu.state.msr.tsc_aux);
        Ok(())
    })
}

/// STAC and CLAC.
fn access_flag<const SET: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        if cpu.state.cpl != 0 {
            return Err(cpu.ud());
        }
        cpu.state.eflags = cpu.state.eflags & !flags::AC | if SET { flags::AC } else { 0 };
        cpu.select_rights();
        Ok(())
    })
}

/// RDPKRU and WRPKRU: #UD without CR4.PKE, #GP(0) if ECX is not 0.
fn need_pkru(cpu: &mut Cpu) -> Result<(), Fault> {
    if cpu.state.cr4 & bits::CR4_PKE == 0 {
        return Err(cpu.ud());
    }
    if u32::get(&cpu.state.regs, reg::RCX) != 0 { Err(cpu.gp(0)) } else { Ok(()) }
}

fn rdpkru(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        need_pkru(cpu)?;
        u32::set(&mut cpu.state.regs, reg::RAX, cpu.state.pkru);
        u32::set(&mut cpu.state.regs, reg::RDX, 0);
        Ok(())
    })
}

fn wrpkru(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, _| {
        need_pkru(cpu)?;
        if u32::get(&cpu.state.regs, reg::RDX) != 0 {
            return Err(cpu.gp(0));
        }
        let v = u32::get(&cpu.state.regs, reg::RAX);
        cpu.set_pkru(v);
        Ok(())
    })
}

impl Cpu {
    /// Sets PKRU. What the TLB lets through was decided with the old value.
    pub fn set_pkru(&mut self, v: u32) {
        if std::mem::replace(&mut self.state.pkru, v) != v && self.state.cr4 & bits::CR4_PKE != 0 {
            self.flush_translations();
        }
    }
}

fn rdpmc(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    // There are no counters, so every counter number is wrong.
    step(cpu, op, rest, |cpu, _| Err(cpu.gp(0)))
}

fn random<W: Width>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        let at = cpu.now(op);
        let v = cpu.bus.random(at);
        W::set(&mut cpu.state.regs, op.dst, W::of(v));
        cpu.state.lazy.set_bits(flags::CF);
        Ok(())
    })
}

fn bound<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let ea = cpu.effective(op);
        let low = cpu.load_at::<W>(op, op.seg, ea)?.sx() as i64;
        let high = cpu.load_at::<W>(op, op.seg, ea.wrapping_add(W::BYTES as u64))?.sx() as i64;
        let index = W::get(&cpu.state.regs, op.dst).sx() as i64;
        if (low..=high).contains(&index) { Ok(()) } else { Err(cpu.raise(vector::BR)) }
    })
}

fn pause(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |_, _| Ok(()))
}

/// INVD and WBINVD: there are no caches.
fn write_back(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, _| cpu.need_cpl0())
}
