//! Debug registers at work (SDM 3B, chapter 18): instruction, data and I/O breakpoints, single steps.
//!
//! Nothing of this costs anything while neither DR7 nor TF asks for it. Instruction breakpoints cut blocks short. A page
//! with a data breakpoint stays out of the TLB; an access that meets the breakpoint there runs alone. What is met becomes
//! [`State::pending_debug`], from which the run loop makes a #DB before the next instruction.

use crate::fault::{Fault, vector};
use crate::flags;
use crate::state::{Cpu, State, bits};

/// L0 to G3 of DR7: a breakpoint is on.
pub const ENABLES: u64 = 0xff;
/// DR6.BS: a single step.
pub const BS: u64 = 1 << 14;

/// IA32_DEBUGCTL.BTF: single steps follow branches alone.
pub const BTF: u64 = 1 << 1;

/// R/W of DR7.
mod kind {
    pub const EXECUTE: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const PORT: u64 = 2;
}

/// The number of no page.
pub const NO_PAGE: u64 = !0;

/// What counted when an instruction began.
#[derive(Clone, Copy, Default)]
pub struct Before {
    /// RF, which holds off instruction breakpoints until an instruction completes.
    pub rf: u64,
    /// TF was set.
    trap: bool,
    /// Where the instruction was.
    rip: u64,
}

/// A breakpoint of DR0 to DR3 that is on.
struct Breakpoint {
    /// Its bit of DR6.
    bit: u64,
    kind: u64,
    /// First byte or port, aligned as the length demands.
    start: u64,
    len: u64,
}

impl Breakpoint {
    fn meets(&self, at: u64, len: usize) -> bool {
        at < self.start.saturating_add(self.len) && self.start < at.saturating_add(len as u64)
    }
}

impl State {
    fn breakpoints(&self) -> impl Iterator<Item = Breakpoint> + '_ {
        let dr7 = self.dr[7];
        (0..4usize).filter(move |n| dr7 >> (2 * n) & 3 != 0).map(move |n| {
            let control = dr7 >> (16 + 4 * n) & 15;
            let len = [1, 2, 8, 4][(control >> 2) as usize];
            Breakpoint { bit: 1 << n, kind: control & 3, start: self.dr[n] & !(len - 1), len }
        })
    }

    /// The instruction breakpoints that are on: bit of DR6 and linear address.
    pub fn code_breakpoints(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.breakpoints().filter(|b| b.kind == kind::EXECUTE).map(|b| (b.bit, b.start))
    }
}

impl Cpu {
    /// The next instruction runs by itself: a single step, or a data breakpoint, may follow each iteration.
    #[must_use]
    pub fn traced(&self) -> bool {
        self.state.eflags & flags::TF != 0 || self.state.dr[7] & ENABLES != 0
    }

    /// RF or the shadow of the last instruction may be on, but there is nothing that they hold off: so they may as well go
    /// when the next instruction begins, which needs not run by itself.
    #[must_use]
    pub fn nothing_held_off(&self) -> bool {
        !self.traced() && self.state.pending_debug == 0 && self.wanted() == 0
    }

    /// Looks for an instruction breakpoint at RIP.
    ///
    /// # Errors
    /// #DB, if there is one and neither RF nor a MOV SS before holds it off.
    #[cold]
    pub fn check_code_breakpoints(&mut self) -> Result<(), Fault> {
        let linear = self.linear_rip();
        let s = &mut self.state;
        let met = s.code_breakpoints().filter(|&(_, a)| a == linear).fold(0, |met, (bit, _)| met | bit);
        if met == 0 || s.eflags & flags::RF != 0 || s.debug_shadow {
            return Ok(());
        }
        s.dr[6] |= met;
        Err(self.raise(vector::DB))
    }

    /// Before a block that is not run at full speed: notes TF, and takes RF and the shadow of the instruction before.
    #[cold]
    pub fn begin_careful(&mut self) -> Before {
        self.untraced = false;
        let s = &mut self.state;
        let before = Before { rf: s.eflags & flags::RF, trap: s.eflags & flags::TF != 0, rip: s.rip };
        s.eflags &= !flags::RF;
        (s.shadow, s.debug_shadow) = (false, false);
        if self.traced() {
            self.repeat_budget = 0;
        }
        before
    }

    /// After it has completed, its last instruction being of `len` bytes, and perhaps a near branch (`near`): what it met, and
    /// its single step. A MOV SS holds back the one and swallows the other. With DEBUGCTL.BTF only branches are followed by a
    /// single step (SDM 3B, 18.4.3).
    #[cold]
    pub fn end_careful(&mut self, before: Before, len: u8, near: bool) {
        self.collect_watch_hits();
        // An iteration of a repeated instruction stays where it is, and is no branch, as a jump to itself is.
        let stays = self.state.rip == before.rip && !near;
        let branched = || !stays && self.state.rip != self.cut_ip(before.rip.wrapping_add(len.into()));
        let counts = self.state.msr.debugctl & BTF == 0 || branched();
        if before.trap && counts && !self.untraced && !self.state.debug_shadow {
            self.state.pending_debug |= BS;
        }
    }

    /// Makes what was met pending.
    pub fn collect_watch_hits(&mut self) {
        self.state.pending_debug |= std::mem::take(&mut self.watch_hits);
    }

    /// Raises the #DB that is pending, if nothing holds it off.
    pub fn debug_trap_due(&mut self) -> bool {
        let s = &mut self.state;
        if s.pending_debug == 0 || s.debug_shadow {
            return false;
        }
        s.dr[6] |= std::mem::take(&mut s.pending_debug);
        self.wake();
        let _ = self.raise(vector::DB);
        true
    }

    /// A #DB is delivered for another reason: what a MOV SS has held back comes with it, or the handler would be interrupted
    /// at its first instruction, on its own stack.
    pub(crate) fn join_debug_traps(&mut self) {
        self.state.dr[6] |= std::mem::take(&mut self.state.pending_debug);
    }

    /// After a change of DR0 to DR3 or DR7: keeps the pages with data breakpoints out of the TLB.
    pub fn update_watches(&mut self) {
        let mut pages = [NO_PAGE; 4];
        for (page, b) in pages.iter_mut().zip(self.state.breakpoints().filter(|b| b.kind & 1 != 0)) {
            *page = b.start >> 12;
        }
        self.mmu.watch(pages);
        self.mmu.renew_code();
    }

    /// Notes the data breakpoints that an access of `len` bytes at `lin` meets.
    ///
    /// # Errors
    /// "Alone", if it meets one and is not.
    #[cold]
    pub(crate) fn watch(&mut self, lin: u64, len: usize, write: bool) -> Result<(), Fault> {
        let counts = |b: &Breakpoint| b.kind & 1 != 0 && (write || b.kind != kind::WRITE) && b.meets(lin, len);
        let met = self.state.breakpoints().filter(counts).fold(0, |met, b| met | b.bit);
        if met != 0 && !self.solo {
            return Err(self.alone());
        }
        self.watch_hits |= met;
        Ok(())
    }

    /// Notes the I/O breakpoints that an access to `width` ports from `port` on meets.
    #[cold]
    pub(crate) fn watch_port(&mut self, port: u16, width: usize) {
        if self.state.cr4 & bits::CR4_DE != 0 {
            let counts = |b: &Breakpoint| b.kind == kind::PORT && b.meets(port.into(), width);
            self.watch_hits |= self.state.breakpoints().filter(counts).fold(0, |met, b| met | b.bit);
        }
    }
}
