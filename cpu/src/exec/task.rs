//! Task switches by hardware (SDM 3A, chapter 7).

use super::descriptor::{Stack, code, null, system};
use crate::fault::{Fault, Reason, vector};
use crate::flags;
use crate::state::{Cpu, Segment, bits, seg};

/// What switches tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    /// JMP.
    Jump,
    /// CALL.
    Call,
    /// An interrupt or exception through a task gate, with the error code to push.
    Interrupt(Option<u32>),
    /// IRET with EFLAGS.NT.
    Return,
}

impl Switch {
    /// The new task is nested in the old one, which stays busy.
    fn nests(self) -> bool {
        matches!(self, Self::Call | Self::Interrupt(_))
    }
}

/// Offsets in a TSS, and its size (SDM 3A, figures 7-2 and 7-10).
struct Layout {
    /// Bytes of a field.
    word: u64,
    ip: u64,
    flags: u64,
    /// The general registers in encoding order.
    regs: u64,
    /// ES, CS, SS, DS and, in a 32-bit TSS, FS and GS.
    segments: u64,
    count: usize,
    ldt: u64,
    /// The smallest limit.
    limit: u32,
}

const WIDE: Layout = Layout { word: 4, ip: 0x20, flags: 0x24, regs: 0x28, segments: 0x48, count: 6, ldt: 0x60, limit: 0x67 };
const NARROW: Layout = Layout { word: 2, ip: 0xe, flags: 0x10, regs: 0x12, segments: 0x22, count: 4, ldt: 0x2a, limit: 0x2b };
/// CR3 and the T flag, in a 32-bit TSS.
const CR3: u64 = 0x1c;
const TRAP: u64 = 0x64;
/// DR6.BT.
const BT: u64 = 1 << 15;
/// L0 to L3 and LE of DR7.
const LOCAL_BREAKPOINTS: u64 = 0x155;
/// Bits of EFLAGS that a TSS loads.
const FLAGS: u64 = 0x3f_7fd5;

impl Layout {
    fn of(tss: &Segment) -> &'static Self {
        if tss.kind() & 8 != 0 { &WIDE } else { &NARROW }
    }
}

/// What a TSS holds.
struct Task {
    ip: u64,
    flags: u64,
    regs: [u64; 8],
    segments: [u16; 6],
    ldt: u16,
    cr3: u64,
    trap: bool,
}

impl Cpu {
    fn load_word(&mut self, at: u64, bytes: u64) -> Result<u64, Fault> {
        let at = at & 0xffff_ffff;
        if bytes == 4 { self.read_system::<u32>(at).map(u64::from) } else { self.read_system::<u16>(at).map(u64::from) }
    }

    fn store_word(&mut self, at: u64, bytes: u64, v: u64) -> Result<(), Fault> {
        let at = at & 0xffff_ffff;
        if bytes == 4 { self.write_system(at, v as u32) } else { self.write_system(at, v as u16) }
    }

    fn load_task(&mut self, tss: &Segment) -> Result<Task, Fault> {
        let (l, base) = (Layout::of(tss), tss.base);
        let mut task = Task {
            ip: self.load_word(base + l.ip, l.word)?,
            flags: self.load_word(base + l.flags, l.word)?,
            regs: [0; 8],
            segments: [0; 6],
            ldt: self.load_word(base + l.ldt, 2)? as u16,
            cr3: 0,
            trap: false,
        };
        for (i, r) in (0..).zip(&mut task.regs) {
            *r = self.load_word(base + l.regs + i * l.word, l.word)?;
        }
        for (i, s) in (0..).zip(&mut task.segments[..l.count]) {
            *s = self.load_word(base + l.segments + i * l.word, 2)? as u16;
        }
        if l.word == 4 {
            task.cr3 = self.load_word(base + CR3, 4)?;
            task.trap = self.load_word(base + TRAP, 2)? & 1 != 0;
        }
        Ok(task)
    }

    /// Saves the running task in the current TSS, with `flags` as its EFLAGS. The TSS was probed.
    fn save_task(&mut self, flags: u64) -> Result<(), Fault> {
        let tss = self.state.tr;
        let (l, base) = (Layout::of(&tss), tss.base);
        self.store_word(base + l.ip, l.word, self.state.rip)?;
        self.store_word(base + l.flags, l.word, flags)?;
        for i in 0..8 {
            self.store_word(base + l.regs + i * l.word, l.word, self.state.regs[i as usize])?;
        }
        for i in 0..l.count {
            self.store_word(base + l.segments + i as u64 * l.word, 2, self.state.segments[i].selector.into())?;
        }
        Ok(())
    }

    /// Switches to the task whose TSS `selector` names; `flags` is the EFLAGS to save for the old one. RIP is what the old
    /// task goes on with.
    ///
    /// # Errors
    /// What is wrong before the switch is committed. What is wrong afterwards (#TS, #NP, #SS, #PF on the way) is delivered
    /// in the new task at once.
    pub(super) fn switch_task(&mut self, selector: u16, how: Switch, flags: u64, ext: u32) -> Result<(), Fault> {
        // Many stores follow each other, and none may be repeated.
        if !self.solo {
            return Err(self.alone());
        }
        let bad = if how == Switch::Return { vector::TS } else { vector::GP };
        let error = code(selector, ext);
        if null(selector) || selector & 4 != 0 {
            return Err(self.raise_with(bad, error));
        }
        let d = self.descriptor(selector, bad, ext)?;
        let busy = if how == Switch::Return { 2 } else { 0 };
        if !d.is_system(system::TSS | busy) && !d.is_system(system::TSS_16 | busy) {
            return Err(self.raise_with(bad, error));
        }
        if !d.segment.present() {
            return Err(self.raise_with(vector::NP, error));
        }
        let (old, mut new) = (self.state.tr, d.segment);
        let layout = Layout::of(&new);
        if new.limit < layout.limit || old.limit < Layout::of(&old).limit {
            return Err(self.raise_with(vector::TS, error));
        }
        // Everything that is read or written up to the commit.
        let old_at = u64::from(old.selector & !7) + self.state.gdtr.base;
        self.probe_system(old.base, Layout::of(&old).limit as usize + 1)?;
        self.probe_system(new.base, layout.limit as usize + 1)?;
        self.probe_system((old_at + 5) & 0xffff_ffff, 1)?;
        self.probe_system(d.at.wrapping_add(5) & 0xffff_ffff, 1)?;
        let task = self.load_task(&new)?;

        let saved = if how == Switch::Return { flags & !flags::NT } else { flags };
        self.save_task(saved)?;
        if !how.nests() {
            self.write_system((old_at + 5) & 0xffff_ffff, (old.attributes & !2) as u8)?;
        } else {
            self.store_word(new.base, 2, old.selector.into())?;
        }
        new.attributes |= 2;
        if how != Switch::Return {
            self.write_system(d.at.wrapping_add(5) & 0xffff_ffff, new.attributes as u8)?;
        }
        self.state.tr = new;
        let entered = self.enter_task(&task, layout, how);
        let checked = entered.and_then(|()| self.load_task_segments(&task, ext)).and_then(|()| match how {
            Switch::Interrupt(Some(e)) => {
                let mut stack = Stack::current(self).ext(ext);
                stack.push(self, layout.word as usize, e.into())?;
                stack.commit(self);
                Ok(())
            }
            _ => Ok(()),
        });
        let checked = checked.and_then(|()| {
            let cs = self.state.segments[seg::CS];
            self.check_target(&cs, task.ip, ext)
        });
        if task.trap {
            self.state.pending_debug |= BT;
        }
        if let Err(Fault) = checked {
            let Reason::Exception(e) = std::mem::take(&mut self.fault) else { return Ok(()) };
            if !self.deliver_exception(e, &mut Vec::new()) {
                // Delivered once more by the caller, which finds the triple fault.
                self.fault = Reason::Exception(e);
                return Err(Fault);
            }
        }
        Ok(())
    }

    /// Registers, and selectors without their descriptors. All of it is done, but CR3 where the directory pointers of PAE
    /// paging that it names are refused: then the new task begins with #GP(0), in the old address space.
    fn enter_task(&mut self, task: &Task, layout: &Layout, how: Switch) -> Result<(), Fault> {
        let translated = layout.word == 4 && self.state.cr0 & bits::CR0_PG != 0;
        let loaded = if translated { self.load_cr3(task.cr3, 0, false) } else { Ok(()) };
        self.state.cr0 |= bits::CR0_TS;
        self.state.dr[7] &= !LOCAL_BREAKPOINTS;
        self.update_watches();
        for (r, v) in self.state.regs.iter_mut().zip(task.regs) {
            *r = if layout.word == 4 { v } else { *r & 0xffff_0000 | v };
        }
        self.state.rip = task.ip;
        self.state.ldtr = Segment { selector: task.ldt, ..Segment::default() };
        for (n, selector) in task.segments.into_iter().enumerate() {
            self.set_segment(n, Segment { selector, ..Segment::default() });
        }
        let nested = if how.nests() { flags::NT } else { 0 };
        self.state.cpl = (task.segments[seg::CS] & 3) as u8;
        self.set_eflags(task.flags & FLAGS | nested);
        loaded
    }

    /// Loads what the selectors of a new task name (SDM 3A, table 7-1).
    fn load_task_segments(&mut self, task: &Task, ext: u32) -> Result<(), Fault> {
        let ldt = task.ldt;
        if !null(ldt) {
            let found = if ldt & 4 == 0 { self.find_descriptor(ldt)? } else { None };
            match found {
                Some(d) if d.is_system(system::LDT) && d.segment.present() => self.state.ldtr = d.segment,
                _ => return Err(self.raise_with(vector::TS, code(ldt, ext))),
            }
        }
        if self.state.mode.v86() {
            for (n, selector) in task.segments.into_iter().enumerate() {
                let segment = self.real_segment(n, selector);
                self.set_segment(n, segment);
            }
            return Ok(());
        }
        let cs = task.segments[seg::CS];
        let cpl = (cs & 3) as u8;
        if null(cs) {
            return Err(self.raise_with(vector::TS, code(cs, ext)));
        }
        let mut d = self.descriptor(cs, vector::TS, ext)?;
        let s = d.segment;
        if !s.code() || (if s.conforming() { s.dpl() > cpl } else { s.dpl() != cpl }) {
            return Err(self.raise_with(vector::TS, code(cs, ext)));
        }
        if !s.present() {
            return Err(self.raise_with(vector::NP, code(cs, ext)));
        }
        self.mark_accessed(&mut d)?;
        self.set_segment(seg::CS, d.segment);
        let ss = self.fetch_stack_segment(task.segments[seg::SS], cpl, vector::TS, ext)?;
        self.set_segment(seg::SS, ss);
        for n in [seg::DS, seg::ES, seg::FS, seg::GS] {
            let segment = self.data_segment(task.segments[n], vector::TS, ext)?;
            self.set_segment(n, segment);
        }
        Ok(())
    }

    /// IRET with EFLAGS.NT: back to the task that the current TSS links to.
    ///
    /// # Errors
    /// As [`Cpu::switch_task`].
    pub(super) fn return_from_task(&mut self) -> Result<(), Fault> {
        let link = self.tss_field(0, 2, 0)? as u16;
        let flags = self.eflags();
        self.switch_task(link, Switch::Return, flags, 0)
    }
}
