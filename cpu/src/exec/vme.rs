//! Virtual-8086 mode extensions and protected-mode virtual interrupts (SDM 3B, chapter 21): IOPL-sensitive instructions
//! that work on EFLAGS.VIF, and INT n that stays in virtual-8086 mode.

use super::descriptor::Stack;
use crate::fault::Fault;
use crate::flags;
use crate::state::{Cpu, bits, seg};

/// Where an INT n of virtual-8086 mode goes (SDM 3B, table 21-2).
pub(super) enum Redirection {
    /// Through the IDT.
    Protected,
    /// Through the interrupt vector table at linear address 0.
    Virtual,
}

impl Cpu {
    /// Virtual-8086 mode with IOPL < 3 and CR4.VME: VIF stands for IF.
    pub(super) fn vme(&self) -> bool {
        self.state.mode.v86() && self.iopl() < 3 && self.state.cr4 & bits::CR4_VME != 0
    }

    /// CLI (`on` false) or STI where they work on VIF: false if they do not.
    ///
    /// # Errors
    /// #GP(0) for STI with VIP set.
    pub(super) fn set_virtual_if(&mut self, on: bool) -> Result<bool, Fault> {
        let s = &self.state;
        let pvi = s.mode.protected() && s.cpl == 3 && self.iopl() < 3 && s.cr4 & bits::CR4_PVI != 0;
        if !pvi && !self.vme() {
            return Ok(false);
        }
        if on && self.state.eflags & flags::VIP != 0 {
            return Err(self.gp(0));
        }
        self.state.eflags = self.state.eflags & !flags::VIF | if on { flags::VIF } else { 0 };
        Ok(true)
    }

    /// The flags as PUSHF and INT n show them with [`Cpu::vme`]: VIF in the place of IF, IOPL 3.
    pub(super) fn virtual_flags(&self) -> u64 {
        let f = self.eflags();
        f & !flags::IF | flags::IOPL | if f & flags::VIF != 0 { flags::IF } else { 0 }
    }

    /// Takes 16-bit flags of POPF and IRET with [`Cpu::vme`].
    ///
    /// # Errors
    /// #GP(0) for TF, or IF while VIP is set.
    pub(super) fn set_virtual_flags(&mut self, popped: u64) -> Result<(), Fault> {
        let old = self.eflags();
        if popped & flags::TF != 0 || (popped & flags::IF != 0 && old & flags::VIP != 0) {
            return Err(self.gp(0));
        }
        let mask = (flags::ARITHMETIC | flags::TF | flags::DF | flags::NT) & 0xffff;
        let vif = if popped & flags::IF != 0 { flags::VIF } else { 0 };
        self.set_eflags(old & !(mask | flags::VIF) | popped & mask | vif);
        Ok(())
    }

    /// Where INT `vector` goes.
    ///
    /// # Errors
    /// #GP(0) where IOPL forbids it; #PF on the TSS.
    pub(super) fn redirection(&mut self, vector: u8) -> Result<Redirection, Fault> {
        if !self.state.mode.v86() {
            return Ok(Redirection::Protected);
        }
        if self.state.cr4 & bits::CR4_VME != 0 {
            let map = self.tss_field(0x66, 2, 0)?;
            let byte = self.tss_field(map.wrapping_sub(32).wrapping_add(u64::from(vector >> 3)) & 0xffff, 1, 0)?;
            if byte >> (vector & 7) & 1 == 0 {
                return Ok(Redirection::Virtual);
            }
        }
        if self.iopl() < 3 { Err(self.gp(0)) } else { Ok(Redirection::Protected) }
    }

    /// INT n through the interrupt vector table at linear address 0.
    ///
    /// # Errors
    /// #SS, #PF, #GP.
    pub(super) fn interrupt_virtual(&mut self, vector: u8) -> Result<(), Fault> {
        let entry = self.read_as::<u32>(4 * u64::from(vector), true)?;
        let (pushed, cleared) = if self.iopl() < 3 {
            (self.virtual_flags(), flags::VIF | flags::TF | flags::NT)
        } else {
            (self.eflags(), flags::IF | flags::TF | flags::NT)
        };
        let mut stack = Stack::current(self);
        stack.push(self, 2, pushed)?;
        stack.push(self, 2, u64::from(self.state.segments[seg::CS].selector))?;
        stack.push(self, 2, self.state.rip)?;
        stack.commit(self);
        self.set_eflags(self.eflags() & !cleared);
        let cs = self.real_segment(seg::CS, (entry >> 16) as u16);
        self.enter_code(cs, 3, u64::from(entry & 0xffff));
        Ok(())
    }
}
