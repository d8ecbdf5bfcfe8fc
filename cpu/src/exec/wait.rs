//! MONITOR and MWAIT, UMONITOR, UMWAIT and TPAUSE (SDM 2; SDM 3A, 8.10).
//!
//! The manual lets the processor leave such a wait at any time; what it does here is fixed, so that runs repeat. MWAIT
//! waits until an interrupt or NMI is requested (whatever EFLAGS.IF says) or the monitored line has other contents than at
//! MONITOR; if that is so already, or an interrupt was taken since, it does not wait. UMWAIT and TPAUSE never wait.

use iced_x86::{Code, Mnemonic as M, Register};
use serde::{Deserialize, Serialize};
use softmetal_bus::{PAGE_SIZE, PageKind};

use crate::fault::Fault;
use crate::lower::{Lower, segment as segment_number};
use crate::mmu::{Access, cut};
use crate::op::{Exit, Handler, Op, addr, last, step};
use crate::state::{Cpu, bits, reg};
use crate::table::{Row, row};
use crate::width::Width;

/// Instruction rows.
pub const ROWS: &[Row] = &[
    row(M::Monitor, |l| lower(l, [Code::Monitorw, Code::Monitord, Code::Monitorq], reg::RAX, monitor)),
    row(M::Mwait, |l| l.with(mwait)),
    row(M::Umonitor, |l| lower(l, [Code::Umonitor_r16, Code::Umonitor_r32, Code::Umonitor_r64], l.op.dst, umonitor)),
    row(M::Umwait, |l| l.with(user_wait)).modifies("oszapc"),
    row(M::Tpause, |l| l.with(user_wait)).modifies("oszapc"),
];

/// The address is in register `base`; `forms` are those of address size 16, 32 and 64.
fn lower(l: &Lower, forms: [Code; 3], base: u8, handler: Handler) -> Option<Op> {
    let size = forms.iter().position(|&f| f == l.i.code())?;
    let segment = match l.i.segment_prefix() {
        Register::None => Register::DS,
        s => s,
    };
    let checked = if l.mode.long() { 0 } else { addr::CHECKED };
    Some(Op { handler, base, addr: [addr::SIZE_16, addr::SIZE_32, 0][size] | checked, seg: segment_number(segment, l.mode), ..l.op })
}

/// Bytes that a monitor watches, as CPUID leaf 5 tells.
pub const LINE: u64 = 64;

/// The monitor hardware.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Monitor {
    /// MONITOR has set it up.
    pub armed: bool,
    /// MWAIT waits.
    pub waiting: bool,
    /// Physical address of the line.
    physical: u64,
    /// Of its contents then.
    digest: u64,
}

impl Cpu {
    /// Arms the monitor with the line of the byte at `op`'s operand.
    fn arm(&mut self, op: &Op) -> Result<(), Fault> {
        let ea = cut(self.state.regs[usize::from(op.base & 15)], op.addr);
        let linear = self.linear(op.seg, ea, 1, false, op.addr)?;
        let physical = self.translate(linear, Access { write: false, rights: self.rights(), fetch: false })?.physical & !(LINE - 1);
        let digest = self.line(physical);
        self.state.monitor = Monitor { armed: digest.is_some(), waiting: false, physical, digest: digest.unwrap_or(0) };
        Ok(())
    }

    /// A digest of the line at `physical`; none if it is not memory.
    fn line(&self, physical: u64) -> Option<u64> {
        let page = PAGE_SIZE as u64 - 1;
        let PageKind::Memory { offset, .. } = self.bus.page(physical & !page) else { return None };
        let mut bytes = [0; LINE as usize];
        self.memory.read(offset + (physical & page), &mut bytes).ok()?;
        Some(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)))
    }

    /// The monitored line has changed.
    pub(crate) fn monitor_triggered(&self) -> bool {
        let m = self.state.monitor;
        self.line(m.physical) != Some(m.digest)
    }

    /// Ends HLT and MWAIT.
    pub(crate) fn wake(&mut self) {
        self.state.halted = false;
        self.state.monitor = Monitor::default();
    }
}

fn monitor(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        if cpu.state.cpl != 0 {
            return Err(cpu.ud());
        }
        // No extensions.
        if cpu.state.regs[usize::from(reg::RCX)] & 0xffff_ffff != 0 {
            return Err(cpu.gp(0));
        }
        cpu.arm(op)
    })
}

fn mwait(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, _| {
        if cpu.state.cpl != 0 {
            return Err(cpu.ud());
        }
        // Bit 0: interrupts end the wait even if masked, as they do anyway.
        if cpu.state.regs[usize::from(reg::RCX)] & 0xffff_fffe != 0 {
            return Err(cpu.gp(0));
        }
        if cpu.state.monitor.armed && !cpu.monitor_triggered() {
            cpu.state.monitor.waiting = true;
            cpu.state.halted = true;
        } else {
            cpu.state.monitor = Monitor::default();
        }
        Ok(())
    })
}

fn umonitor(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, Cpu::arm)
}

/// UMWAIT and TPAUSE: CF tells whether the system's time limit ended the wait, which it never does here.
fn user_wait(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        let refused = cpu.state.cr4 & bits::CR4_TSD != 0 && cpu.state.cpl != 0;
        if refused || u32::get(&cpu.state.regs, op.dst) & !1 != 0 {
            return Err(cpu.gp(0));
        }
        cpu.state.monitor = Monitor::default();
        cpu.state.lazy.set_bits(0);
        Ok(())
    })
}
