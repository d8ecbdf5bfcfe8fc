//! Delivery of exceptions and interrupts (SDM 3A, chapter 6).

use log::Level;

use super::descriptor::{Descriptor, Stack, code, null, system};
use super::task::Switch;
use super::vme::Redirection;
use crate::debug;
use crate::fault::{Exception, Fault, Reason, vector};
use crate::flags;
use crate::state::{Cpu, Segment, reg, seg};

/// What is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An exception of the processor.
    Exception,
    /// An external interrupt or NMI.
    External,
    /// INT n: the gate's DPL counts, and virtual-8086 mode needs IOPL 3.
    Software,
    /// INT3 and INTO: the gate's DPL counts.
    SoftwareException,
    /// INT1: nothing is checked.
    Privileged,
}

impl Event {
    /// Bit EXT of error codes while it is delivered.
    fn ext(self) -> u32 {
        u32::from(!matches!(self, Self::Software | Self::SoftwareException))
    }
}

/// Classes of SDM 3A, table 6-4.
fn contributory(v: u8) -> bool {
    matches!(v, vector::DE | vector::TS | vector::NP | vector::SS | vector::GP)
}

/// Whether `second`, raised during the delivery of `first`, makes a double fault (SDM 3A, table 6-5).
fn doubles(first: u8, second: u8) -> bool {
    (contributory(first) && contributory(second)) || (first == vector::PF && (contributory(second) || second == vector::PF))
}

impl Cpu {
    /// Delivers `e`, and what faults on the way (double fault rules); each further exception is appended to `chain`.
    /// False on a triple fault.
    pub fn deliver_exception(&mut self, e: Exception, chain: &mut Vec<(u64, Exception)>) -> bool {
        let mut e = e;
        loop {
            if e.vector == vector::DB {
                self.state.dr[7] &= !(1 << 13);
                self.state.msr.debugctl &= !debug::BTF;
                self.join_debug_traps();
            }
            self.note_page_fault(e);
            if self.interrupt(e.vector, e.error, Event::Exception).is_ok() {
                return true;
            }
            let Some(second) = self.raised(chain) else { return false };
            if e.vector == vector::DF {
                return false;
            }
            e = if doubles(e.vector, second.vector) {
                let double = Exception { vector: vector::DF, error: Some(0), address: 0 };
                chain.push((self.state.rip, double));
                double
            } else {
                second
            };
        }
    }

    /// Delivers an external interrupt or NMI. False on a triple fault.
    pub fn deliver_interrupt(&mut self, vector: u8, chain: &mut Vec<(u64, Exception)>) -> bool {
        if self.interrupt(vector, None, Event::External).is_ok() {
            self.state.nmi_blocked |= vector == vector::NMI;
            return true;
        }
        match self.raised(chain) {
            Some(e) => self.deliver_exception(e, chain),
            None => false,
        }
    }

    /// CR2 is that of the last page fault, even if a double fault is what comes of it (SDM 3A, 6.15, interrupt 14).
    fn note_page_fault(&mut self, e: Exception) {
        if e.vector == vector::PF {
            self.state.cr2 = e.address;
        }
    }

    fn raised(&mut self, chain: &mut Vec<(u64, Exception)>) -> Option<Exception> {
        match std::mem::take(&mut self.fault) {
            Reason::Exception(e) => {
                let before = chain.last().map_or("an interrupt".into(), |(_, first)| format!("exception {}", first.vector));
                let rip = self.state.rip;
                self.log_unusual(Level::Debug, &format!("exception {}, error {:x?}, while {before} was delivered", e.vector, e.error), rip);
                chain.push((rip, e));
                self.note_page_fault(e);
                Some(e)
            }
            reason => {
                debug_assert!(false, "a delivery ended in {reason:?}");
                None
            }
        }
    }

    /// INT n, INT3, INTO, INT1; RIP is the next instruction's.
    ///
    /// # Errors
    /// What the delivery raises; nothing has changed then.
    pub fn software_interrupt(&mut self, vector: u8, event: Event) -> Result<(), Fault> {
        if event == Event::Software {
            if let Redirection::Virtual = self.redirection(vector)? {
                self.interrupt_virtual(vector)?;
                self.untraced = true;
                return Ok(());
            }
        }
        self.interrupt(vector, None, event)?;
        if event == Event::Privileged {
            self.join_debug_traps();
        }
        Ok(())
    }

    fn interrupt(&mut self, vector: u8, error: Option<u32>, event: Event) -> Result<(), Fault> {
        let is_fault = event == Event::Exception && !matches!(vector, vector::DB | vector::BP | vector::OF | vector::DF);
        let pushed = self.eflags() | if is_fault { flags::RF } else { 0 };
        if !self.pe() {
            self.interrupt_real(vector, pushed, event)?;
        } else if self.lma() {
            self.interrupt_long(vector, error, pushed, event)?;
        } else {
            self.interrupt_protected(vector, error, pushed, event)?;
        }
        self.state.shadow = false;
        self.state.monitor.armed = false;
        self.untraced = true;
        Ok(())
    }

    fn interrupt_real(&mut self, vector: u8, pushed: u64, event: Event) -> Result<(), Fault> {
        let offset = 4 * u64::from(vector);
        if offset + 3 > u64::from(self.state.idtr.limit) {
            return Err(self.gp(u32::from(vector) << 3 | 2 | event.ext()));
        }
        let at = self.state.idtr.base.wrapping_add(offset) & 0xffff_ffff;
        let entry = self.read_system::<u32>(at)?;
        let mut stack = Stack::current(self);
        stack.push(self, 2, pushed)?;
        stack.push(self, 2, u64::from(self.state.segments[seg::CS].selector))?;
        stack.push(self, 2, self.state.rip)?;
        stack.commit(self);
        self.set_eflags(self.eflags() & !(flags::IF | flags::TF | flags::AC | flags::RF));
        let cs = self.real_segment(seg::CS, (entry >> 16) as u16);
        self.enter_code(cs, 0, u64::from(entry & 0xffff));
        Ok(())
    }

    /// The gate of `vector`: its descriptor, checked.
    fn gate(&mut self, vector: u8, bytes: u64, event: Event) -> Result<Descriptor, Fault> {
        let error = u32::from(vector) << 3 | 2 | event.ext();
        let offset = bytes * u64::from(vector);
        if offset + bytes - 1 > u64::from(self.state.idtr.limit) {
            return Err(self.gp(error));
        }
        let at = self.state.idtr.base.wrapping_add(offset);
        let at = if self.lma() { at } else { at & 0xffff_ffff };
        let raw = self.read_system::<u64>(at)?;
        let gate = Descriptor { segment: Segment::from_descriptor(0, raw), raw, at };
        let wide = matches!(gate.segment.kind(), system::INTERRUPT_GATE | system::TRAP_GATE);
        let narrow = matches!(gate.segment.kind(), system::INTERRUPT_GATE_16 | system::TRAP_GATE_16 | system::TASK_GATE);
        if gate.segment.code_or_data() || !(wide || (narrow && bytes == 8)) {
            return Err(self.gp(error));
        }
        if matches!(event, Event::Software | Event::SoftwareException) && gate.segment.dpl() < self.state.cpl {
            return Err(self.gp(error));
        }
        if !gate.segment.present() {
            return Err(self.raise_with(vector::NP, error));
        }
        Ok(gate)
    }

    /// The code segment of a gate and the privilege level it leads to.
    fn gate_target(&mut self, selector: u16, ext: u32) -> Result<(Segment, u8), Fault> {
        if null(selector) {
            return Err(self.gp(ext));
        }
        let mut d = self.descriptor(selector, vector::GP, ext)?;
        let cs = d.segment;
        let cpl = self.state.cpl;
        if !cs.code() || cs.dpl() > cpl || (self.lma() && (!cs.long() || cs.big())) {
            return Err(self.gp(code(selector, ext)));
        }
        if !cs.present() {
            return Err(self.raise_with(vector::NP, code(selector, ext)));
        }
        let level = if cs.conforming() { cpl } else { cs.dpl() };
        if self.state.mode.v86() && level != 0 {
            return Err(self.gp(code(selector, ext)));
        }
        self.mark_accessed(&mut d)?;
        Ok((d.segment, level))
    }

    fn interrupt_protected(&mut self, vector: u8, error: Option<u32>, pushed: u64, event: Event) -> Result<(), Fault> {
        let ext = event.ext();
        let gate = self.gate(vector, 8, event)?;
        let kind = gate.segment.kind();
        if kind == system::TASK_GATE {
            return self.switch_task(gate.gate_selector(), Switch::Interrupt(error), pushed, ext);
        }
        let (cs, level) = self.gate_target(gate.gate_selector(), ext)?;
        let (bytes, rip) = if kind & 8 != 0 { (4, gate.gate_offset()) } else { (2, gate.gate_offset() & 0xffff) };
        let s = self.state.segments.map(|s| u64::from(s.selector));
        let v86 = self.state.mode.v86();
        let sp = self.state.regs[usize::from(reg::RSP)];
        let inner = level < self.state.cpl;
        let mut stack = if inner { self.inner_stack(level, 0, ext)? } else { Stack::current(self).ext(ext) };
        if inner {
            if v86 {
                for n in [seg::GS, seg::FS, seg::DS, seg::ES] {
                    stack.push(self, bytes, s[n])?;
                }
            }
            stack.push(self, bytes, s[seg::SS])?;
            stack.push(self, bytes, sp)?;
        }
        stack.push(self, bytes, pushed)?;
        stack.push(self, bytes, s[seg::CS])?;
        stack.push(self, bytes, self.state.rip)?;
        if let Some(e) = error {
            stack.push(self, bytes, u64::from(e))?;
        }
        self.check_target(&cs, rip, ext)?;
        self.enter_gate(kind);
        if v86 {
            for n in [seg::GS, seg::FS, seg::DS, seg::ES] {
                self.set_segment(n, Segment::default());
            }
        }
        self.enter_code(cs, level, rip);
        if inner {
            self.enter_stack(&stack);
        } else {
            stack.commit(self);
        }
        Ok(())
    }

    fn interrupt_long(&mut self, vector: u8, error: Option<u32>, pushed: u64, event: Event) -> Result<(), Fault> {
        let ext = event.ext();
        let gate = self.gate(vector, 16, event)?;
        let upper = self.read_system::<u64>(gate.at.wrapping_add(8))?;
        let rip = gate.gate_offset() | upper << 32;
        let (cs, level) = self.gate_target(gate.gate_selector(), ext)?;
        let ist = (gate.raw >> 32 & 7) as u8;
        let (ss, rsp) = (self.state.segments[seg::SS], self.state.regs[usize::from(reg::RSP)]);
        let inner = level < self.state.cpl;
        let mut stack = if inner || ist != 0 {
            self.inner_stack(level, ist, ext)?
        } else {
            // From compatibility mode the whole of RSP is used.
            let mut stack = Stack::outer(ss, rsp, true).ext(ext);
            if !self.canonical(rsp) {
                return Err(self.raise_with(vector::SS, ext));
            }
            stack.set_user(level == 3);
            stack
        };
        if !inner {
            stack.segment = ss;
        }
        stack.sp &= !15;
        for v in [u64::from(ss.selector), rsp, pushed, u64::from(self.state.segments[seg::CS].selector), self.state.rip] {
            stack.push(self, 8, v)?;
        }
        if let Some(e) = error {
            stack.push(self, 8, u64::from(e))?;
        }
        self.check_target(&cs, rip, ext)?;
        self.enter_gate(gate.segment.kind());
        self.enter_code(cs, level, rip);
        self.enter_stack(&stack);
        Ok(())
    }

    fn enter_gate(&mut self, kind: u8) {
        let interrupt = if kind & 1 == 0 { flags::IF } else { 0 };
        self.set_eflags(self.eflags() & !(flags::TF | flags::NT | flags::RF | flags::VM | interrupt));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SDM 3A, table 6-5, all of it: rows are the first exception, columns the second.
    #[test]
    fn double_fault_table() {
        const CONTRIBUTORY: [u8; 5] = [0, 10, 11, 12, 13];
        for first in 0..32 {
            for second in 0..32 {
                let expected = match (first, second) {
                    (14, 14) => true,
                    (14, s) => CONTRIBUTORY.contains(&s),
                    (f, s) => CONTRIBUTORY.contains(&f) && CONTRIBUTORY.contains(&s),
                };
                assert_eq!(doubles(first, second), expected, "{first} then {second}");
            }
        }
    }
}
