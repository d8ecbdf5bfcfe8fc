//! Control and debug registers, and what hangs on them: mode switches and TLB maintenance (SDM 3A, 2.5, 4.10 and 9.8).

use iced_x86::{Mnemonic as M, Register};
use log::Level;

use super::cpuid::Feature;
use crate::by_width;
use crate::fault::{Fault, Reason, vector};
use crate::flags;
use crate::lower::Lower;
use crate::mmu::PHYSICAL_BITS;
use crate::op::{Dst, Exit, Mem, Op, Place, Source, last, step};
use crate::state::{Cpu, bits, seg};
use crate::table::{Row, row};
use crate::width::Width;

/// Instruction rows; MOV comes here through [`lower_mov`].
pub const ROWS: &[Row] = &[
    row(M::Lmsw, |l| if l.is_mem(0) { l.with(lmsw::<Mem>) } else { l.with(lmsw::<Dst>) }),
    row(M::Smsw, |l| if l.is_mem(0) { l.with(smsw::<Mem, u16>) } else { by_width!(l, l.bits(0), wide smsw::<Dst>) }),
    row(M::Clts, |l| l.with(clts)),
    row(M::Invlpg, |l| l.with(invlpg)),
    row(M::Invpcid, |l| if l.mode.long() { l.with(invpcid::<u64>) } else { l.with(invpcid::<u32>) }),
];

/// Bits of CR0 that exist.
pub(super) const CR0: u64 = bits::CR0_PE
    | bits::CR0_MP
    | bits::CR0_EM
    | bits::CR0_TS
    | bits::CR0_ET
    | bits::CR0_NE
    | bits::CR0_WP
    | bits::CR0_AM
    | bits::CR0_NW
    | bits::CR0_CD
    | bits::CR0_PG;
/// Bits of CR4 that may be set.
const CR4: u64 = bits::CR4_VME
    | bits::CR4_PVI
    | bits::CR4_TSD
    | bits::CR4_DE
    | bits::CR4_PSE
    | bits::CR4_PAE
    | bits::CR4_MCE
    | bits::CR4_PGE
    | bits::CR4_PCE
    | bits::CR4_OSFXSR
    | bits::CR4_OSXMMEXCPT
    | bits::CR4_UMIP
    | bits::CR4_FSGSBASE
    | bits::CR4_PCIDE
    | bits::CR4_OSXSAVE
    | bits::CR4_SMEP
    | bits::CR4_SMAP
    | bits::CR4_PKE
    | bits::CR4_LA57;
/// Bits of CR4 that exist with a feature only.
const CR4_FEATURES: [(u64, Feature); 17] = [
    (bits::CR4_VME | bits::CR4_PVI, Feature::Vme),
    (bits::CR4_TSD, Feature::Tsc),
    (bits::CR4_DE, Feature::De),
    (bits::CR4_PSE, Feature::Pse),
    (bits::CR4_PAE, Feature::Pae),
    (bits::CR4_MCE, Feature::Mce),
    (bits::CR4_PGE, Feature::Pge),
    (bits::CR4_OSFXSR, Feature::Fxsr),
    (bits::CR4_OSXMMEXCPT, Feature::Sse),
    (bits::CR4_UMIP, Feature::Umip),
    (bits::CR4_LA57, Feature::La57),
    (bits::CR4_FSGSBASE, Feature::Fsgsbase),
    (bits::CR4_PCIDE, Feature::Pcid),
    (bits::CR4_OSXSAVE, Feature::Xsave),
    (bits::CR4_SMEP, Feature::Smep),
    (bits::CR4_SMAP, Feature::Smap),
    (bits::CR4_PKE, Feature::Pku),
];
/// CR3 bit 63 as written: keep the translations of the new PCID.
const CR3_KEEP: u64 = 1 << 63;
pub(super) const CR3_RESERVED: u64 = !((1 << PHYSICAL_BITS) - 1);

/// MOV with a control or debug register.
#[must_use]
pub fn lower_mov(l: &Lower) -> Option<Op> {
    let is = |n: u32, what: fn(Register) -> bool| l.is_reg(n) && what(l.i.op_register(n));
    if is(0, Register::is_cr) {
        l.with(mov_to_control)
    } else if is(1, Register::is_cr) {
        if l.mode.long() { l.with(mov_from_control::<u64>) } else { l.with(mov_from_control::<u32>) }
    } else if is(0, Register::is_dr) {
        l.with(mov_to_debug)
    } else if is(1, Register::is_dr) {
        if l.mode.long() { l.with(mov_from_debug::<u64>) } else { l.with(mov_from_debug::<u32>) }
    } else {
        None
    }
}

impl Cpu {
    /// Drops all translations, those of code too.
    pub fn flush_translations(&mut self) {
        self.mmu.flush(true);
    }

    /// Writes CR0.
    ///
    /// # Errors
    /// #GP(0) for combinations that SDM 3A, 2.5 and 9.8.5 forbid.
    pub fn set_cr0(&mut self, v: u64) -> Result<(), Fault> {
        let s = &self.state;
        let (old, new) = (s.cr0, v & CR0 | bits::CR0_ET);
        let paging_on = new & !old & bits::CR0_PG != 0;
        let paging_off = old & !new & bits::CR0_PG != 0;
        let long_code = s.segments[seg::CS].long();
        let enters_long = paging_on && s.efer & bits::EFER_LME != 0;
        let bad = v >> 32 != 0
            || (new & bits::CR0_PG != 0 && new & bits::CR0_PE == 0)
            || (new & bits::CR0_NW != 0 && new & bits::CR0_CD == 0)
            || (enters_long && (s.cr4 & bits::CR4_PAE == 0 || long_code))
            || (paging_off && (s.mode.long() || s.cr4 & bits::CR4_PCIDE != 0));
        if bad {
            return Err(self.gp(0));
        }
        let caching = (old ^ new) & (bits::CR0_CD | bits::CR0_NW | bits::CR0_PG) != 0;
        let pae = !self.lma() && !enters_long && self.state.cr4 & bits::CR4_PAE != 0;
        let loads = caching && new & bits::CR0_PG != 0 && pae;
        if loads {
            self.load_directory_pointers(self.state.cr3)?;
        }
        self.state.cr0 = new;
        if enters_long {
            self.state.efer |= bits::EFER_LMA;
        } else if paging_off {
            self.state.efer &= !bits::EFER_LMA;
        }
        // Without paging, before and after, translations are the same in every mode: programs that call a BIOS between two
        // pieces of protected-mode code keep them.
        let paging = (old | new) & bits::CR0_PG != 0;
        if loads || (paging && (old ^ new) & (bits::CR0_PG | bits::CR0_WP | bits::CR0_PE) != 0) {
            self.flush_translations();
        }
        self.update_mode();
        Ok(())
    }

    /// Loads the directory pointers of PAE paging from the table at `cr3`.
    ///
    /// # Errors
    /// #GP(0), and the old ones stay, if a present one has a reserved bit set (SDM 3A, 4.4.1).
    fn load_directory_pointers(&mut self, cr3: u64) -> Result<(), Fault> {
        let Some(pointers) = self.directory_pointers(cr3) else { return Err(self.gp(0)) };
        self.state.directory_pointers = pointers;
        Ok(())
    }

    /// Writes CR3 and switches to the address space `pcid`; its cached translations are kept if `keep`.
    ///
    /// # Errors
    /// #GP(0), and nothing is changed, if PAE paging is on and a directory pointer there has a reserved bit set.
    pub(super) fn load_cr3(&mut self, v: u64, pcid: u16, keep: bool) -> Result<(), Fault> {
        if !self.lma() && self.state.cr0 & bits::CR0_PG != 0 && self.state.cr4 & bits::CR4_PAE != 0 {
            self.load_directory_pointers(v)?;
        }
        self.state.cr3 = v;
        self.switch_space(pcid, keep);
        Ok(())
    }

    fn set_cr3(&mut self, v: u64) -> Result<(), Fault> {
        let pcide = self.state.cr4 & bits::CR4_PCIDE != 0;
        let keep = pcide && v & CR3_KEEP != 0;
        let v = if pcide { v & !CR3_KEEP } else { v };
        if self.lma() && v & CR3_RESERVED != 0 {
            return Err(self.gp(0));
        }
        self.load_cr3(v, if pcide { v as u16 & 0xfff } else { 0 }, keep)
    }

    /// Switches to the address space `pcid`; its cached translations are kept if `keep`.
    pub(super) fn switch_space(&mut self, pcid: u16, keep: bool) {
        self.mmu.switch(pcid, keep);
    }

    /// Bits of CR4 that this model has not.
    pub(super) fn absent_in_cr4(&self) -> u64 {
        CR4_FEATURES.iter().filter(|(_, f)| !self.model.has(*f)).fold(!CR4, |absent, (bits, _)| absent | bits)
    }

    fn set_cr4(&mut self, v: u64) -> Result<(), Fault> {
        let s = &self.state;
        let old = s.cr4;
        let pcid_on = v & !old & bits::CR4_PCIDE != 0;
        let bad = v & self.absent_in_cr4() != 0
            || (self.lma() && (v & bits::CR4_PAE == 0 || (v ^ old) & bits::CR4_LA57 != 0))
            || (pcid_on && (!self.lma() || s.cr3 & 0xfff != 0));
        if bad {
            return Err(self.gp(0));
        }
        const LOADS: u64 = bits::CR4_PAE | bits::CR4_PGE | bits::CR4_PSE | bits::CR4_SMEP;
        let paging = self.state.cr0 & bits::CR0_PG != 0 && !self.lma();
        if paging && v & bits::CR4_PAE != 0 && (old ^ v) & LOADS != 0 {
            self.load_directory_pointers(self.state.cr3)?;
        }
        self.state.cr4 = v;
        self.update_mode();
        const PAGING: u64 = bits::CR4_PSE
            | bits::CR4_PAE
            | bits::CR4_PGE
            | bits::CR4_PCIDE
            | bits::CR4_SMEP
            | bits::CR4_SMAP
            | bits::CR4_PKE
            | bits::CR4_LA57;
        if (old ^ v) & PAGING != 0 {
            self.flush_translations();
        }
        Ok(())
    }

    /// DR4 and DR5 are DR6 and DR7, or nothing with CR4.DE; no debug register is free for use with DR7.GD.
    fn debug_register(&mut self, n: u8) -> Result<usize, Fault> {
        if n > 7 || (matches!(n, 4 | 5) && self.state.cr4 & bits::CR4_DE != 0) {
            return Err(self.ud());
        }
        self.need_cpl0()?;
        if self.state.dr[7] & 1 << 13 != 0 {
            self.state.dr[6] |= 1 << 13;
            // As other faults, and unlike an instruction breakpoint, it pushes RF.
            self.state.eflags |= flags::RF;
            return Err(self.raise(vector::DB));
        }
        Ok(usize::from(if matches!(n, 4 | 5) { n + 2 } else { n }))
    }
}

fn mov_to_control(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        if !matches!(op.dst, 0 | 2 | 3 | 4 | 8) {
            return Err(cpu.ud());
        }
        cpu.need_cpl0()?;
        let v = u64::get(&cpu.state.regs, op.src);
        let v = if cpu.state.mode.long() { v } else { v & 0xffff_ffff };
        let done = match op.dst {
            0 => cpu.set_cr0(v),
            2 => {
                cpu.state.cr2 = v;
                Ok(())
            }
            3 => cpu.set_cr3(v),
            4 => cpu.set_cr4(v),
            _ if v > 15 => Err(cpu.gp(0)),
            _ => {
                let at = cpu.now(op);
                cpu.bus.set_task_priority(at, v as u8);
                Ok(())
            }
        };
        if done.is_err() && cpu.fault != Reason::Alone {
            let rip = cpu.this_rip(op);
            cpu.log_unusual(Level::Debug, &format!("CR{} does not admit {v:#x}: #GP", op.dst), rip);
        }
        done
    })
}

fn mov_from_control<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        if !matches!(op.src, 0 | 2 | 3 | 4 | 8) {
            return Err(cpu.ud());
        }
        cpu.need_cpl0()?;
        let v = match op.src {
            0 => cpu.state.cr0,
            2 => cpu.state.cr2,
            3 => cpu.state.cr3,
            4 => cpu.state.cr4,
            _ => u64::from(cpu.bus.task_priority()),
        };
        W::set(&mut cpu.state.regs, op.dst, W::of(v));
        Ok(())
    })
}

fn mov_to_debug(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        let n = cpu.debug_register(op.dst)?;
        let v = u64::get(&cpu.state.regs, op.src);
        let v = if cpu.state.mode.long() { v } else { v & 0xffff_ffff };
        if n >= 6 && v >> 32 != 0 {
            return Err(cpu.gp(0));
        }
        cpu.state.dr[n] = match n {
            6 => v & 0xe00f | 0xffff_0ff0,
            7 => v & 0xffff_23ff | 0x400,
            _ => v,
        };
        cpu.update_watches();
        Ok(())
    })
}

fn mov_from_debug<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let n = cpu.debug_register(op.src)?;
        let v = cpu.state.dr[n];
        W::set(&mut cpu.state.regs, op.dst, W::of(v));
        Ok(())
    })
}

fn lmsw<S: Source>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        cpu.need_cpl0()?;
        let v = u64::from(S::get::<u16>(cpu, op)?) & 0xf;
        let old = cpu.state.cr0;
        // PE can be set but not cleared.
        cpu.set_cr0(old & !0xe | v)
    })
}

fn smsw<D: Place, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.check_umip()?;
        let v = W::of(cpu.state.cr0);
        D::set(cpu, op, v)
    })
}

fn clts(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, _| {
        cpu.need_cpl0()?;
        cpu.state.cr0 &= !bits::CR0_TS;
        cpu.update_mode();
        Ok(())
    })
}

fn invlpg(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        cpu.need_cpl0()?;
        let lin = cpu.state.bases[usize::from(op.seg & 7)].wrapping_add(cpu.effective(op));
        let long = cpu.state.mode.long();
        // SDM 2, INVLPG: nothing, if it is not canonical.
        if !long || cpu.canonical(lin) {
            cpu.mmu.invalidate(if long { lin } else { lin & 0xffff_ffff });
        }
        Ok(())
    })
}

fn invpcid<W: Width>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        if !cpu.pe() || cpu.state.mode.v86() {
            return Err(if cpu.pe() { cpu.gp(0) } else { cpu.ud() });
        }
        cpu.need_cpl0()?;
        let descriptor = cpu.load::<u128>(op)?;
        let (pcid, lin) = (descriptor as u64, (descriptor >> 64) as u64);
        let kind = W::get(&cpu.state.regs, op.dst).zx();
        let pcide = cpu.state.cr4 & bits::CR4_PCIDE != 0;
        let bad = kind > 3 || (kind < 2 && (pcid >> 12 != 0 || (!pcide && pcid != 0))) || (kind == 0 && !cpu.canonical(lin));
        if bad {
            return Err(cpu.gp(0));
        }
        let pcid = pcid as u16;
        let current = if pcide { cpu.state.cr3 as u16 & 0xfff } else { 0 };
        match kind {
            0 if pcid == current => cpu.mmu.invalidate(lin),
            1 if pcid == current => cpu.switch_space(pcid, false),
            0 | 1 => cpu.mmu.forget(pcid),
            // Kind 2 drops global translations too.
            _ => cpu.mmu.flush(kind == 2),
        }
        Ok(())
    })
}
