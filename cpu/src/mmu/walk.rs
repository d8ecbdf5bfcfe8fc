//! Page walks: no paging, 32-bit with PSE, PAE, 4-level, 5-level; protection keys (SDM 3A, chapter 4).

use softmetal_bus::{PAGE_SIZE, PageKind};

use super::{Access, Rights, Translation};
use crate::exec::cpuid::Feature;
use crate::fault::Fault;
use crate::state::{Cpu, bits};

const OFFSET: u64 = PAGE_SIZE as u64 - 1;
/// Physical address width, as CPUID leaf 0x8000_0008 tells.
pub const PHYSICAL_BITS: u32 = 40;
/// Address bits of an 8-byte entry.
const ADDRESS: u64 = ((1 << PHYSICAL_BITS) - 1) & !OFFSET;

const P: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
const NX: u64 = 1 << 63;

/// Bits of a PAE page-directory-pointer-table entry that must be 0 (SDM 3A, table 4-8).
const DIRECTORY_POINTER_RESERVED: u64 = !ADDRESS & !0xe19;

/// Page-fault error code bits (SDM 3A, 4.7).
mod code {
    pub const P: u32 = 1;
    pub const W: u32 = 2;
    pub const U: u32 = 4;
    pub const RSVD: u32 = 8;
    pub const I: u32 = 16;
    pub const PK: u32 = 32;
}

/// One level: where its index starts, and whether an entry may map a page itself.
struct Level {
    shift: u32,
    leaf: bool,
}

impl Cpu {
    /// As [`Cpu::translate`], for a load or store; from the TLB, if it has the page.
    pub(super) fn translate_data(&mut self, lin: u64, access: Access) -> Result<Translation, Fault> {
        if let Some(t) = self.mmu.cached(lin, access) {
            return Ok(t);
        }
        self.mmu.misses += 1;
        self.translate(lin, access)
    }

    /// Translates `lin` for `access`, setting accessed and dirty bits.
    ///
    /// # Errors
    /// #PF, or #GP(0) if `lin` is not canonical.
    pub fn translate(&mut self, lin: u64, access: Access) -> Result<Translation, Fault> {
        if self.state.cr0 & bits::CR0_PG == 0 {
            let physical = lin & 0xffff_ffff;
            return Ok(Translation {
                physical,
                kind: self.page_kind(physical & !OFFSET),
                write: true,
                shift: 12,
                global: false,
                user: false,
            });
        }
        if self.lma() && !self.canonical(lin) {
            return Err(self.gp(0));
        }
        match self.walk(lin, access, true) {
            Ok(t) => Ok(t),
            Err(mut error) => {
                if access.write {
                    error |= code::W;
                }
                if access.rights == Rights::User {
                    error |= code::U;
                }
                let nx = self.state.efer & bits::EFER_NXE != 0 && self.state.cr4 & bits::CR4_PAE != 0;
                if access.fetch && (nx || self.state.cr4 & bits::CR4_SMEP != 0) {
                    error |= code::I;
                }
                if error & code::RSVD != 0 {
                    self.log_reserved(lin);
                }
                Err(self.pf(lin, error))
            }
        }
    }

    #[cold]
    fn log_reserved(&mut self, lin: u64) {
        let rip = self.state.rip;
        self.log_unusual(log::Level::Debug, &format!("reserved bit in the page tables for {lin:#x}, met by the block"), rip);
    }

    /// The physical address of `lin` without side effects or rights checks; `None` if not mapped.
    #[must_use]
    pub fn debug_translate(&mut self, lin: u64) -> Option<u64> {
        if self.state.cr0 & bits::CR0_PG == 0 {
            return Some(lin & 0xffff_ffff);
        }
        if self.lma() && !self.canonical(lin) {
            return None;
        }
        let access = Access { write: false, rights: Rights::System, fetch: false };
        self.walk(lin, access, false).ok().map(|t| t.physical)
    }

    /// The physical address of the code at `lin`, cached.
    ///
    /// # Errors
    /// As [`Cpu::translate`].
    pub fn translate_code(&mut self, lin: u64) -> Result<u64, Fault> {
        let user = self.state.cpl == 3;
        if let Some(p) = self.mmu.code_hit(lin, user) {
            return Ok(p);
        }
        let t = self.translate(lin, Access { write: false, rights: if user { Rights::User } else { Rights::System }, fetch: true })?;
        self.mmu.code_fill(lin, user, &t);
        Ok(t.physical)
    }

    /// What backs the physical page `page`.
    pub(crate) fn page_kind(&mut self, page: u64) -> PageKind {
        if let Some(kind) = self.mmu.kind(page) {
            return kind;
        }
        let kind = self.bus.page(page);
        self.mmu.note_kind(page, kind);
        kind
    }

    fn table_entry(&mut self, addr: u64, wide: bool) -> u64 {
        let mut b = [0; 8];
        let n = if wide { 8 } else { 4 };
        match self.page_kind(addr & !OFFSET) {
            PageKind::Memory { offset, .. } if self.memory.read(offset + (addr & OFFSET), &mut b[..n]).is_ok() => u64::from_le_bytes(b),
            _ => {
                log::warn!("page table entry at {addr:#x} is not in memory");
                0
            }
        }
    }

    /// The four entries of the PAE page-directory-pointer table that `cr3` names; none if one that is present has a
    /// reserved bit set (SDM 3A, 4.4.1).
    pub(crate) fn directory_pointers(&mut self, cr3: u64) -> Option<[u64; 4]> {
        let pointers = [0, 8, 16, 24].map(|at| self.table_entry((cr3 & 0xffff_ffe0) + at, true));
        pointers.iter().all(|p| p & P == 0 || p & DIRECTORY_POINTER_RESERVED == 0).then_some(pointers)
    }

    fn set_table_bits(&mut self, addr: u64, entry: u64) {
        if let PageKind::Memory { offset, writable: true } = self.page_kind(addr & !OFFSET) {
            // Accessed and dirty are in the low byte; only that one is written.
            let _ = self.memory.write(offset + (addr & OFFSET), &[entry as u8]);
        }
    }

    fn walk(&mut self, lin: u64, access: Access, mark: bool) -> Result<Translation, u32> {
        const LONG: &[Level] = &[
            Level { shift: 48, leaf: false },
            Level { shift: 39, leaf: false },
            Level { shift: 30, leaf: true },
            Level { shift: 21, leaf: true },
            Level { shift: 12, leaf: true },
        ];
        // Below the page-directory-pointer table, whose entries are registers.
        const PAE: &[Level] = &[Level { shift: 21, leaf: true }, Level { shift: 12, leaf: true }];
        const LEGACY: &[Level] = &[Level { shift: 22, leaf: true }, Level { shift: 12, leaf: true }];

        let s = &self.state;
        let (cr0, cr4, nxe) = (s.cr0, s.cr4, s.efer & bits::EFER_NXE != 0);
        let wide = cr4 & bits::CR4_PAE != 0;
        let (levels, mut table) = if self.lma() {
            (if cr4 & bits::CR4_LA57 != 0 { LONG } else { &LONG[1..] }, s.cr3 & ADDRESS)
        } else if wide {
            let pointer = s.directory_pointers[(lin >> 30 & 3) as usize];
            if pointer & P == 0 {
                return Err(0);
            }
            (PAE, pointer & ADDRESS)
        } else {
            (LEGACY, s.cr3 & 0xffff_f000)
        };
        let (mut rw, mut us, mut nx) = (true, true, false);
        for level in levels {
            let index_bits = if wide { 9 } else { 10 };
            let index = lin >> level.shift & ((1 << index_bits) - 1);
            let addr = table + index * if wide { 8 } else { 4 };
            let mut e = self.table_entry(addr, wide);
            if e & P == 0 {
                return Err(0);
            }
            let last = level.shift == 12 || (level.leaf && e & PS != 0 && (wide || cr4 & bits::CR4_PSE != 0));
            if wide {
                let mut reserved = !ADDRESS & !OFFSET & !NX & 0x000f_ffff_ffff_ffff;
                if !self.lma() {
                    reserved |= 0x7ff0_0000_0000_0000;
                }
                if !nxe {
                    reserved |= NX;
                }
                if !level.leaf || (level.shift == 30 && !self.model.has(Feature::Pdpe1gb)) {
                    reserved |= PS;
                } else if last && level.shift != 12 {
                    reserved |= ((1 << level.shift) - 1) & !0x1fff;
                }
                if e & reserved != 0 {
                    return Err(code::P | code::RSVD);
                }
            } else if last && level.shift == 22 && e & 1 << 21 != 0 {
                return Err(code::P | code::RSVD);
            }
            rw &= e & RW != 0;
            us &= e & US != 0;
            nx |= wide && e & NX != 0;
            if !last {
                if mark && e & A == 0 {
                    self.set_table_bits(addr, e | A);
                }
                table = if wide { e & ADDRESS } else { e & 0xffff_f000 };
                continue;
            }
            let user = access.rights == Rights::User;
            let denied = if user {
                !us || (access.write && !rw) || (access.fetch && nx)
            } else {
                (access.write && !rw && cr0 & bits::CR0_WP != 0)
                    || (access.fetch && (nx || (us && cr4 & bits::CR4_SMEP != 0)))
                    || (!access.fetch && us && access.rights == Rights::Guarded)
            };
            let keyed = us && cr4 & bits::CR4_PKE != 0 && self.lma() && !access.fetch;
            let key = if keyed { self.state.pkru >> (2 * (e >> 59 & 15)) & 3 } else { 0 };
            // Access disable, write disable (SDM 3A, 4.6.2).
            let locked = key & 1 != 0;
            let unwritable = key & 2 != 0 && (user || cr0 & bits::CR0_WP != 0);
            let forbidden = locked || (unwritable && access.write);
            if (denied || forbidden) && mark {
                return Err(code::P | if forbidden { code::PK } else { 0 });
            }
            if mark && (e & A == 0 || (access.write && e & D == 0)) {
                e |= A | if access.write { D } else { 0 };
                self.set_table_bits(addr, e);
            }
            let size = 1u64 << level.shift;
            let mut page = if wide { e & ADDRESS } else { e & 0xffff_f000 };
            if !wide && level.shift == 22 {
                page |= (e >> 13 & 0xff) << 32;
            }
            let physical = (page & !(size - 1)) | (lin & (size - 1));
            return Ok(Translation {
                physical,
                kind: self.page_kind(physical & !OFFSET),
                write: e & D != 0 && !unwritable && (rw || (!user && cr0 & bits::CR0_WP == 0)),
                shift: level.shift as u8,
                global: cr4 & bits::CR4_PGE != 0 && e & G != 0,
                user: us,
            });
        }
        Err(0)
    }
}
