//! From linear addresses to host memory: loads and stores with segmentation, the TLB's fast path, and the slow path for
//! page crossings, misses, devices, ROM and writes over code.

mod code;
mod fast;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod low;
mod spaces;
mod tlb;
mod walk;

pub use tlb::{Access, Mmu, Rights, Translation};
pub use walk::PHYSICAL_BITS;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) use {code::same_but_for_the_space, fast::Column, tlb::ENTRIES as TLB_ENTRIES};

use softmetal_bus::{PAGE_SIZE, PageKind};

use crate::fault::{Fault, vector};
use crate::flags;
use crate::op::{FLAT_STACK, Op, addr};
use crate::state::{Cpu, bits, seg};
use crate::width::{Value, Width};

/// From here down, an access of any size (XSAVE has the largest) ends within 4 GiB.
const LAST_WHOLE: u64 = 0xffff_f000;
const OFFSET: u64 = PAGE_SIZE as u64 - 1;

impl Cpu {
    /// The effective address (offset within the segment) of `op`'s memory operand.
    #[inline(always)]
    #[must_use]
    pub fn effective(&self, op: &Op) -> u64 {
        let r = &self.state.regs;
        let base = r[usize::from(op.base & 31)];
        let index = r[usize::from(op.index & 31)];
        let ea = base.wrapping_add(index << (op.scale & 3)).wrapping_add(op.disp as i64 as u64);
        if op.addr == 0 {
            return ea;
        }
        const { assert!((addr::BEYOND as u64) << 29 == 1 << 32) }
        cut(ea.wrapping_add(u64::from(op.addr & addr::BEYOND) << 29), op.addr)
    }

    /// The linear address of `bytes` bytes at segment offset `ea`; segment checks as `how` ([`addr`]) says.
    ///
    /// # Errors
    /// #GP or #SS where the segment forbids the access.
    #[inline(always)]
    pub fn linear(&mut self, segment: u8, ea: u64, bytes: usize, write: bool, how: u8) -> Result<u64, Fault> {
        if how & addr::CHECKED != 0 {
            // Most segments of 32-bit systems: nothing to check but that the access does not go past the end.
            if self.state.segments[usize::from(segment) % 6].is_all() && ea <= LAST_WHOLE {
                return Ok(ea);
            }
            return self.linear_checked(segment, ea, bytes, write);
        }
        Ok(self.state.bases[usize::from(segment & 7)].wrapping_add(ea))
    }

    #[inline(never)]
    fn linear_checked(&mut self, segment: u8, ea: u64, bytes: usize, write: bool) -> Result<u64, Fault> {
        self.admitted(segment, ea, bytes, write).ok_or_else(|| {
            let v = if usize::from(segment) == seg::SS { vector::SS } else { vector::GP };
            self.raise_with(v, 0)
        })
    }

    /// The linear address of `bytes` bytes at offset `ea` of `segment`, if the segment admits the access; outside of 64-bit mode.
    pub(crate) fn admitted(&self, segment: u8, ea: u64, bytes: usize, write: bool) -> Option<u64> {
        let s = self.state.segments[usize::from(segment) % 6];
        (s.permits(self.state.mode.protected(), write) && s.admits(ea, bytes)).then(|| s.base.wrapping_add(ea) & 0xffff_ffff)
    }

    /// Loads `op`'s memory operand.
    ///
    /// # Errors
    /// Segment and page faults.
    #[inline(always)]
    pub fn load<V: Value>(&mut self, op: &Op) -> Result<V, Fault> {
        let ea = self.effective(op);
        self.load_at(op, op.seg, ea)
    }

    /// Stores to `op`'s memory operand.
    ///
    /// # Errors
    /// Segment and page faults.
    #[inline(always)]
    pub fn store<V: Value>(&mut self, op: &Op, v: V) -> Result<(), Fault> {
        let ea = self.effective(op);
        self.store_at(op, op.seg, ea, v)
    }

    /// Loads from offset `ea` of `segment`, with the address size and checks of `op`'s mode.
    ///
    /// # Errors
    /// Segment and page faults.
    #[inline(always)]
    pub fn load_at<V: Value>(&mut self, op: &Op, segment: u8, ea: u64) -> Result<V, Fault> {
        let lin = self.linear(segment, ea, V::BYTES, false, op.addr)?;
        self.read(lin).map_err(|f| self.stack_class(segment, f))
    }

    /// Stores to offset `ea` of `segment`.
    ///
    /// # Errors
    /// Segment and page faults.
    #[inline(always)]
    pub fn store_at<V: Value>(&mut self, op: &Op, segment: u8, ea: u64, v: V) -> Result<(), Fault> {
        let lin = self.linear(segment, ea, V::BYTES, true, op.addr)?;
        self.write(lin, v).map_err(|f| self.stack_class(segment, f))
    }

    /// Replaces `op`'s memory operand by `f` of it; `f` runs only once the store is certain.
    ///
    /// # Errors
    /// Segment and page faults.
    #[inline(always)]
    pub fn update<W: Width>(&mut self, op: &Op, f: impl FnOnce(&mut Self, W) -> W) -> Result<(), Fault> {
        let ea = self.effective(op);
        let lin = self.linear(op.seg, ea, W::BYTES, true, op.addr)?;
        if let Some(p) = self.mmu.hit_write::<W>(lin) {
            let v = f(self, p.load());
            p.store(v);
            return Ok(());
        }
        self.probe_write(lin, W::BYTES).map_err(|f| self.stack_class(op.seg, f))?;
        let old = self.read::<W>(lin)?;
        let v = f(self, old);
        self.write(lin, v)
    }

    /// In 64-bit mode a non-canonical stack address is #SS, not #GP.
    #[cold]
    pub(crate) fn stack_class(&mut self, segment: u8, f: Fault) -> Fault {
        if segment == FLAT_STACK {
            if let crate::fault::Reason::Exception(e) = &mut self.fault {
                if e.vector == vector::GP {
                    e.vector = vector::SS;
                }
            }
        }
        f
    }

    /// Loads from a linear address at the current privilege.
    ///
    /// # Errors
    /// #PF, or #GP(0) if not canonical.
    #[inline(always)]
    pub fn read<V: Value>(&mut self, lin: u64) -> Result<V, Fault> {
        if let Some(p) = self.mmu.hit_read::<V>(lin) {
            return Ok(p.load());
        }
        let mut b = [0; 32];
        self.check_alignment(lin, V::BYTES)?;
        self.read_slow(lin, &mut b[..V::BYTES], self.rights())?;
        Ok(V::from_le(&b))
    }

    /// Stores to a linear address at the current privilege.
    ///
    /// # Errors
    /// #PF, or #GP(0) if not canonical.
    #[inline(always)]
    pub fn write<V: Value>(&mut self, lin: u64, v: V) -> Result<(), Fault> {
        if let Some(p) = self.mmu.hit_write::<V>(lin) {
            p.store(v);
            return Ok(());
        }
        self.check_alignment(lin, V::BYTES)?;
        self.write_slow(lin, &v.to_le()[..V::BYTES], self.rights())
    }

    /// The rights of an access by a program at CPL 3 (`user`) or further in.
    #[must_use]
    pub fn rights_of(&self, user: bool) -> Rights {
        let s = &self.state;
        match (user, s.cr4 & bits::CR4_SMAP != 0, s.eflags & flags::AC != 0) {
            (true, ..) => Rights::User,
            (false, false, _) => Rights::System,
            (false, true, false) => Rights::Guarded,
            (false, true, true) => Rights::Opened,
        }
    }

    /// The rights of what the program accesses now.
    #[must_use]
    pub fn rights(&self) -> Rights {
        self.rights_of(self.state.cpl == 3)
    }

    /// The rights of the processor's own accesses to its tables: EFLAGS.AC does not open user pages for them.
    fn system_rights(&self) -> Rights {
        if self.state.cr4 & bits::CR4_SMAP != 0 { Rights::Guarded } else { Rights::System }
    }

    /// Selects the part of the TLB that belongs to CPL, CR4.SMAP, EFLAGS.AC and CR0.AM.
    #[inline]
    pub fn select_rights(&mut self) {
        let rights = self.rights();
        let s = &self.state;
        let check_alignment = rights == Rights::User && s.eflags & flags::AC != 0 && s.cr0 & bits::CR0_AM != 0;
        self.mmu.select(rights, check_alignment);
    }

    /// #GP(0) where an access begins at a canonical address and ends at one that is not.
    fn check_canonical_end(&mut self, lin: u64, bytes: usize) -> Result<(), Fault> {
        if self.canonical(lin.wrapping_add(bytes as u64 - 1)) { Ok(()) } else { Err(self.gp(0)) }
    }

    /// #AC(0) for an access of `bytes` bytes at `lin` that is not naturally aligned, where that is checked (SDM 3A, 6.15).
    #[inline]
    pub(crate) fn check_alignment(&mut self, lin: u64, bytes: usize) -> Result<(), Fault> {
        let natural = if bytes == 10 { 8 } else { bytes.next_power_of_two().min(16) };
        let misaligned = lin & (natural as u64 - 1) != 0;
        // An address that is not canonical faults as such.
        if self.mmu.checks_alignment() && misaligned && self.canonical(lin) {
            return Err(self.raise_with(vector::AC, 0));
        }
        Ok(())
    }

    /// Loads as the processor itself does (descriptor tables, TSS): supervisor, whatever the CPL.
    ///
    /// # Errors
    /// #PF, or #GP(0) if not canonical.
    pub fn read_system<V: Value>(&mut self, lin: u64) -> Result<V, Fault> {
        self.read_with(lin, self.system_rights())
    }

    /// Stores as the processor itself does: supervisor, whatever the CPL.
    ///
    /// # Errors
    /// #PF, or #GP(0) if not canonical.
    pub fn write_system<V: Value>(&mut self, lin: u64, v: V) -> Result<(), Fault> {
        self.write_with(lin, v, self.system_rights())
    }

    /// Loads with the rights of CPL 3 (`user`) or of an inner privilege level.
    ///
    /// # Errors
    /// #PF, or #GP(0) if not canonical.
    pub fn read_as<V: Value>(&mut self, lin: u64, user: bool) -> Result<V, Fault> {
        self.read_with(lin, self.rights_of(user))
    }

    /// Stores with the rights of CPL 3 (`user`) or of an inner privilege level.
    ///
    /// # Errors
    /// #PF, or #GP(0) if not canonical.
    pub fn write_as<V: Value>(&mut self, lin: u64, v: V, user: bool) -> Result<(), Fault> {
        self.write_with(lin, v, self.rights_of(user))
    }

    fn read_with<V: Value>(&mut self, lin: u64, rights: Rights) -> Result<V, Fault> {
        if let Some(p) = self.mmu.hit_as::<V>(lin, rights, false) {
            return Ok(p.load());
        }
        let mut b = [0; 32];
        self.read_slow(lin, &mut b[..V::BYTES], rights)?;
        Ok(V::from_le(&b))
    }

    fn write_with<V: Value>(&mut self, lin: u64, v: V, rights: Rights) -> Result<(), Fault> {
        if let Some(p) = self.mmu.hit_as::<V>(lin, rights, true) {
            p.store(v);
            return Ok(());
        }
        self.write_slow(lin, &v.to_le()[..V::BYTES], rights)
    }

    /// Checks that `bytes` bytes at offset `ea` of `segment` may be written now, so that later stores cannot fault; their linear address.
    ///
    /// # Errors
    /// As [`Cpu::store_at`], but for alignment; or "alone".
    pub(crate) fn probe_at(&mut self, op: &Op, segment: u8, ea: u64, bytes: usize) -> Result<u64, Fault> {
        let lin = self.linear(segment, ea, bytes, true, op.addr)?;
        self.probe(lin, bytes, self.rights()).map_err(|f| self.stack_class(segment, f))?;
        Ok(lin)
    }

    /// As [`Cpu::probe_at`], for one operand as a whole: it must be aligned where that is checked.
    ///
    /// # Errors
    /// As [`Cpu::store_at`]; or "alone".
    #[inline]
    pub(crate) fn probe_operand(&mut self, op: &Op, segment: u8, ea: u64, bytes: usize) -> Result<u64, Fault> {
        let lin = self.linear(segment, ea, bytes, true, op.addr)?;
        self.check_alignment(lin, bytes)?;
        self.probe_at(op, segment, ea, bytes)
    }

    /// Checks that `bytes` bytes at `lin` may be written now, so that a later store cannot fault.
    ///
    /// # Errors
    /// As [`Cpu::write`]; or "alone".
    #[cold]
    pub fn probe_write(&mut self, lin: u64, bytes: usize) -> Result<(), Fault> {
        if bytes <= 8 {
            self.check_alignment(lin, bytes)?;
        }
        self.probe(lin, bytes, self.rights())
    }

    /// As [`Cpu::probe_write`], for stores by the processor itself.
    ///
    /// # Errors
    /// As [`Cpu::write_system`]; or "alone".
    pub fn probe_system(&mut self, lin: u64, bytes: usize) -> Result<(), Fault> {
        self.probe(lin, bytes, self.system_rights())
    }

    fn probe(&mut self, lin: u64, bytes: usize, rights: Rights) -> Result<(), Fault> {
        self.check_canonical_end(lin, bytes)?;
        let mut done = 0;
        while done < bytes {
            let at = lin.wrapping_add(done as u64);
            let n = (PAGE_SIZE - (at & OFFSET) as usize).min(bytes - done);
            let t = self.translate_data(at, Access { write: true, rights, fetch: false })?;
            self.check_alone(&t, at, n)?;
            done += n;
        }
        Ok(())
    }

    /// A store over code, or to a device, must be alone.
    fn check_alone(&mut self, t: &Translation, lin: u64, n: usize) -> Result<(), Fault> {
        if self.mmu.watches(lin) {
            self.watch(lin, n, true)?;
        }
        if self.solo {
            return Ok(());
        }
        match t.kind {
            PageKind::Memory { offset, writable: true } if self.memory.hits_code(offset + (lin & OFFSET), n) => Err(self.alone()),
            PageKind::Memory { writable: true, .. } => Ok(()),
            PageKind::Device | PageKind::Memory { writable: false, .. } => Err(self.alone()),
        }
    }

    #[cold]
    #[inline(never)]
    fn read_slow(&mut self, lin: u64, buf: &mut [u8], rights: Rights) -> Result<(), Fault> {
        self.check_canonical_end(lin, buf.len())?;
        let mut done = 0;
        while done < buf.len() {
            let at = lin.wrapping_add(done as u64);
            let n = (PAGE_SIZE - (at & OFFSET) as usize).min(buf.len() - done);
            let t = self.translate_data(at, Access { write: false, rights, fetch: false })?;
            if self.mmu.watches(at) {
                self.watch(at, n, false)?;
            }
            let part = &mut buf[done..done + n];
            match t.kind {
                PageKind::Memory { offset, .. } => {
                    if self.memory.read(offset + (at & OFFSET), part).is_err() {
                        part.fill(0xff);
                    }
                    self.mmu.fill(at, &t, rights);
                }
                PageKind::Device => {
                    if !self.solo {
                        return Err(self.alone());
                    }
                    self.device_read(t.physical, part);
                }
            }
            done += n;
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn write_slow(&mut self, lin: u64, buf: &[u8], rights: Rights) -> Result<(), Fault> {
        self.check_canonical_end(lin, buf.len())?;
        let n = (PAGE_SIZE - (lin & OFFSET) as usize).min(buf.len());
        let access = Access { write: true, rights, fetch: false };
        let first = self.translate_data(lin, access)?;
        self.check_alone(&first, lin, n)?;
        if n < buf.len() {
            // Both pages are checked before either is written.
            let at = lin.wrapping_add(n as u64);
            let second = self.translate_data(at, access)?;
            self.check_alone(&second, at, buf.len() - n)?;
            self.write_page(lin, &first, &buf[..n], rights);
            self.write_page(at, &second, &buf[n..], rights);
        } else {
            self.write_page(lin, &first, buf, rights);
        }
        Ok(())
    }

    fn write_page(&mut self, lin: u64, t: &Translation, buf: &[u8], rights: Rights) {
        match t.kind {
            PageKind::Memory { offset, writable: true } => {
                // A page that the map calls memory lies within it.
                if self.memory.write(offset + (lin & OFFSET), buf).is_ok() {
                    self.mmu.fill(lin, t, rights);
                }
            }
            PageKind::Device | PageKind::Memory { writable: false, .. } => {
                let at = self.block_icount;
                for (addr, width, i) in pieces(t.physical, buf.len()) {
                    let mut b = [0; 8];
                    b[..width].copy_from_slice(&buf[i..i + width]);
                    self.bus.write(at, addr, width, u64::from_le_bytes(b));
                }
            }
        }
    }

    fn device_read(&mut self, physical: u64, buf: &mut [u8]) {
        let at = self.block_icount;
        for (addr, width, i) in pieces(physical, buf.len()) {
            let v = self.bus.read(at, addr, width);
            buf[i..i + width].copy_from_slice(&v.to_le_bytes()[..width]);
        }
    }

    /// Reads memory at a linear address for a debugger: no side effects, no devices, privilege ignored. False if any byte
    /// is not mapped memory.
    pub fn debug_read(&mut self, lin: u64, buf: &mut [u8]) -> bool {
        let mut done = 0;
        while done < buf.len() {
            let at = lin.wrapping_add(done as u64);
            let n = (PAGE_SIZE - (at & OFFSET) as usize).min(buf.len() - done);
            let Some(PageKind::Memory { offset, .. }) = self.debug_translate(at).map(|p| self.bus.page(p & !OFFSET)) else {
                return false;
            };
            if self.memory.read(offset + (at & OFFSET), &mut buf[done..done + n]).is_err() {
                return false;
            }
            done += n;
        }
        true
    }

    /// Writes memory at a linear address for a debugger; false if any byte is not mapped RAM.
    pub fn debug_write(&mut self, lin: u64, buf: &[u8]) -> bool {
        let mut done = 0;
        while done < buf.len() {
            let at = lin.wrapping_add(done as u64);
            let n = (PAGE_SIZE - (at & OFFSET) as usize).min(buf.len() - done);
            let Some(PageKind::Memory { offset, writable: true }) = self.debug_translate(at).map(|p| self.bus.page(p & !OFFSET)) else {
                return false;
            };
            if self.memory.write(offset + (at & OFFSET), &buf[done..done + n]).is_err() {
                return false;
            }
            done += n;
        }
        true
    }
}

/// Splits an access within a page into naturally sized ones: (address, width, index).
fn pieces(addr: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut i = 0;
    std::iter::from_fn(move || {
        let left = len - i;
        let width = [8, 4, 2, 1].into_iter().find(|&w| w <= left)?;
        let piece = (addr + i as u64, width, i);
        i += width;
        Some(piece)
    })
}

#[inline(always)]
/// An effective address cut to the address size of `how` ([`addr`]).
pub(crate) fn cut(ea: u64, how: u8) -> u64 {
    if how & addr::SIZE_16 != 0 {
        ea & 0xffff
    } else if how & addr::SIZE_32 != 0 {
        ea & 0xffff_ffff
    } else {
        ea
    }
}
