//! Finding the block at an address: in the jump cache, in the block cache, or decoded now.

use softmetal_bus::{PAGE_SIZE, PageKind};

use super::Processor;
use crate::block::{self, Check, Decoded, Extent, Link, MAX_LEN, MAX_OPS, Undecodable};
use crate::fault::Fault;
use crate::op::Op;
use crate::state::{Cpu, seg};

/// Entries of the jump cache.
pub(super) const JUMPS: usize = 1 << 16;
/// No block is longer.
const BLOCK_BYTES: u64 = (MAX_OPS * MAX_LEN) as u64;
/// Where a block was found for an address.
#[derive(Clone, Copy, Default)]
pub(super) struct Jump {
    key: u64,
    stamp: u64,
    serial: u32,
    index: u32,
}

impl Processor {
    /// The linked successor for the address now in RIP.
    #[inline(always)]
    pub(super) fn followed(&self, index: u32, slot: usize) -> Option<u32> {
        let link = self.cache.get(index).links[slot].get();
        (link.key == self.cpu.code_key()
            && self.cpu.within_reach()
            && link.stamp == self.stamp()
            && link.serial != 0
            && self.cache.get(link.index).serial == link.serial)
            .then_some(link.index)
    }

    pub(super) fn link(&self, source: u32, slot: usize, target: u32) {
        let t = self.cache.get(target);
        let s = self.cache.get(source);
        if t.serial != 0 && t.checked().is_none() && s.serial != 0 && s.mode == t.mode && self.cpu.within_reach() {
            s.links[slot].set(Link { key: self.cpu.code_key(), stamp: self.stamp(), serial: t.serial, index: target });
        }
    }

    #[inline(always)]
    fn stamp(&self) -> u64 {
        self.cpu.mmu.code_epoch(self.cpu.state.mode.user())
    }

    /// The block at RIP: from the jump cache, the block cache, or decoded now.
    #[inline(always)]
    pub(super) fn lookup(&mut self) -> Result<u32, Fault> {
        let (key, mode) = (self.cpu.code_key(), self.cpu.state.mode);
        let j = &self.jumps[jump_index(key)];
        if j.key == key && j.stamp == self.stamp() && j.serial != 0 {
            let block = self.cache.get(j.index);
            if block.serial == j.serial && block.mode == mode && self.cpu.within_reach() {
                return Ok(j.index);
            }
        }
        self.lookup_slow()
    }

    #[inline(never)]
    fn lookup_slow(&mut self) -> Result<u32, Fault> {
        let (rip, mode) = (self.cpu.state.rip, self.cpu.state.mode);
        let cs = self.cpu.state.segments[seg::CS];
        let linear = if mode.long() {
            rip
        } else {
            if rip > u64::from(cs.limit) {
                return Err(self.cpu.gp(0));
            }
            cs.base.wrapping_add(rip) & 0xffff_ffff
        };
        self.cpu.solo = true;
        let found = self.cpu.translate_code(linear);
        self.cpu.solo = false;
        let physical = found?;
        let index = match self.cache.find(physical, mode) {
            Some(i) => match self.cache.get(i).checked().map(|c| c.check(&self.cpu.memory)) {
                None | Some(Check::Same) => i,
                Some(Check::Changed) if self.cache.patch(i, &self.cpu.memory) => i,
                Some(Check::Changed) => self.decode(linear, physical)?,
                Some(Check::Steady) => {
                    self.cache.calm(i, &self.cpu.memory);
                    self.decode(linear, physical)?
                }
            },
            None => match self.cache.find_crossing(physical, mode) {
                Some(i) if self.goes_on(i, linear)? => i,
                _ => self.decode(linear, physical)?,
            },
        };
        let index = if mode.long() { index } else { self.within_limit(index, physical)? };
        let b = self.cache.get(index);
        if b.serial != 0 && b.checked().is_none() && self.cpu.within_reach() {
            let key = self.cpu.code_key();
            self.jumps[jump_index(key)] = Jump { key, stamp: self.stamp(), serial: b.serial, index };
        }
        Ok(index)
    }

    /// What of a block at RIP lies within the limit of CS: the block itself, or its first instructions. #GP if not even
    /// one does (SDM 3A, 5.3 Limit Checking).
    fn within_limit(&mut self, index: u32, physical: u64) -> Result<u32, Fault> {
        let (rip, limit) = (self.cpu.state.rip, u64::from(self.cpu.state.segments[seg::CS].limit));
        let b = self.cache.get(index);
        let fits = |op: &Op| rip + op.end() - 1 <= limit;
        if b.ops.last().is_none_or(fits) {
            return Ok(index);
        }
        let mut first = Decoded::default();
        first.ops.extend(b.ops.iter().take_while(|op| fits(op)));
        if first.ops.is_empty() {
            return Err(self.cpu.gp(0));
        }
        // As with code that crosses pages: made again each time.
        Ok(self.cache.insert(&first, physical, self.cpu.state.mode, true, &self.cpu.memory, None))
    }

    fn decode(&mut self, linear: u64, physical: u64) -> Result<u32, Fault> {
        let mode = self.cpu.state.mode;
        let in_page = PAGE_SIZE - (physical as usize & (PAGE_SIZE - 1));
        let mut buf = [0; 512];
        let whole = in_page.min(buf.len());
        let offset = self.memory_offset(physical);
        let steady = offset.map_or(whole, |offset| self.cache.steady(offset, whole));
        let mut volatile = steady == 0;
        let mut out = std::mem::take(&mut self.scratch);
        if !self.forms.are_of(&self.cpu.model) {
            self.forms = self.cpu.model.forms();
        }
        let decoded = loop {
            let (n, extent) = if volatile { (whole.min(64), Extent::ToStore) } else { (steady, Extent::Whole) };
            self.fetch(physical, offset, &mut buf[..n]);
            match block::decode(&buf[..n], mode, &self.forms, extent, &mut out) {
                // The first instruction reaches into a volatile granule.
                Err(Undecodable::CrossesPage) if !volatile && n < whole => volatile = true,
                decoded => break decoded,
            }
        };
        let index = match (decoded, offset) {
            (Ok(covered), Some(offset)) if volatile => Ok(self.cache.insert_checked(&out, physical, mode, &buf[..covered], offset)),
            (Ok(covered), offset) => {
                if let Some(offset) = offset {
                    if self.cpu.memory.mark_code(offset, covered) {
                        self.cpu.mmu.protect(offset);
                    }
                }
                Ok(self.cache.insert(&out, physical, mode, false, &self.cpu.memory, offset))
            }
            (Err(Undecodable::CrossesPage), _) => self.decode_crossing(linear, physical, &buf[..in_page], &mut out),
        };
        self.scratch = out;
        index
    }

    /// One instruction whose first bytes are the last of a page.
    fn decode_crossing(&mut self, linear: u64, physical: u64, first: &[u8], out: &mut Decoded) -> Result<u32, Fault> {
        let mode = self.cpu.state.mode;
        let next = linear.wrapping_add(first.len() as u64);
        let next = if mode.long() { next } else { next & 0xffff_ffff };
        if !mode.long() && self.cpu.state.rip + first.len() as u64 > u64::from(self.cpu.state.segments[seg::CS].limit) {
            return Err(self.cpu.gp(0));
        }
        let second = self.cpu.translate_code(next)?;
        let mut bytes = [0; MAX_LEN];
        bytes[..first.len()].copy_from_slice(first);
        let offset = self.memory_offset(second);
        self.fetch(second, offset, &mut bytes[first.len()..]);
        if block::decode(&bytes, mode, &self.forms, Extent::Single, out).is_err() {
            return Err(self.cpu.ud());
        }
        let parts = [(physical, first.len()), (second, MAX_LEN - first.len())];
        let offsets = parts.map(|(at, _)| self.memory_offset(at));
        // A store over it, even its own, is noticed.
        for (offset, (_, len)) in offsets.iter().zip(parts) {
            if let &Some(offset) = offset {
                if self.cpu.memory.mark_code(offset, len) {
                    self.cpu.mmu.protect(offset);
                }
            }
        }
        Ok(match offsets {
            [Some(a), Some(b)] => self.cache.insert_crossing(out, (physical, second), mode, [a, b], &self.cpu.memory),
            // Used once and made again each time.
            _ => self.cache.insert(out, physical, mode, true, &self.cpu.memory, None),
        })
    }

    /// Whether block `index`, found at `linear`, still goes on in the page that is next to it now.
    fn goes_on(&mut self, index: u32, linear: u64) -> Result<bool, Fault> {
        let next = (linear | (PAGE_SIZE as u64 - 1)).wrapping_add(1);
        let long = self.cpu.state.mode.long();
        // With a limit, decoding finds out what is to be done.
        if !long && self.cpu.state.mode.limited() {
            return Ok(false);
        }
        let second = self.cpu.translate_code(if long { next } else { next & 0xffff_ffff })?;
        Ok(self.cache.get(index).crossing().is_some_and(|c| c.second == second))
    }

    /// The place of a physical address in guest memory, if that is what is there.
    fn memory_offset(&mut self, physical: u64) -> Option<u64> {
        let mask = PAGE_SIZE as u64 - 1;
        match self.cpu.page_kind(physical & !mask) {
            PageKind::Memory { offset, .. } => Some(offset + (physical & mask)),
            PageKind::Device => None,
        }
    }

    /// Fetches code bytes within a page, from `offset` of guest memory if they are there.
    fn fetch(&self, physical: u64, offset: Option<u64>, buf: &mut [u8]) {
        if offset.is_none_or(|offset| self.cpu.memory.read(offset, buf).is_err()) {
            log::warn!("code fetched from a device or nothing at physical {physical:#x}");
            buf.fill(0xff);
        }
    }
}

impl Cpu {
    /// What tells apart, within a mode and a stamp, where code is: the linear address, to which 2^32 may have been added.
    #[inline(always)]
    fn code_key(&self) -> u64 {
        let s = &self.state;
        if s.mode.limited() { s.rip.wrapping_add(s.segments[seg::CS].base) } else { s.rip }
    }

    /// Whether any block from RIP on lies within the limit of CS.
    #[inline(always)]
    fn within_reach(&self) -> bool {
        let s = &self.state;
        !s.mode.limited() || s.rip + BLOCK_BYTES <= u64::from(s.segments[seg::CS].limit)
    }
}

#[inline(always)]
fn jump_index(key: u64) -> usize {
    (key ^ key >> 12) as usize & (JUMPS - 1)
}
