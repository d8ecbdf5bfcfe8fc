//! Who answers at a physical address or an I/O port.
//!
//! Regions may overlap; the one with the higher priority wins. The flat sorted view is rebuilt when a region changes.

use std::ops::Range;

use crate::cpu::PageKind;
use crate::device::DeviceId;
use crate::memory::PAGE_SIZE;

/// What backs a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Guest memory from this byte offset on, readable and writable.
    Ram(u64),
    /// Guest memory from this byte offset on; stores are ignored.
    Rom(u64),
    /// Guest memory from byte offset `.0` on to loads (and to DMA, read-only); stores go to region `.2` of device `.1`: flash.
    Flash(u64, DeviceId, u8),
    /// Registers: region `.1` of device `.0`.
    Device(DeviceId, u8),
}

/// A range of addresses (or ports) and who answers there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// Length in bytes; 0 maps nothing.
    pub len: u64,
    /// The higher one wins where regions overlap; among equals the later one.
    pub priority: u8,
    /// Who answers.
    pub backing: Backing,
}

/// A disjoint piece of the flat view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    start: u64,
    /// Last address, inclusive.
    last: u64,
    backing: Backing,
    /// `start` minus the start of the region that it came from.
    skip: u64,
}

/// The physical address space.
#[derive(Clone, Debug, Default)]
pub struct AddressSpace {
    regions: Vec<Region>,
    flat: Vec<Piece>,
}

impl AddressSpace {
    /// Replaces all regions at once and rebuilds the flat view.
    pub fn set(&mut self, regions: Vec<Region>) {
        self.regions = regions;
        self.flat = flatten(&self.regions);
    }

    /// The regions as they were set.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    fn piece(&self, addr: u64) -> Option<&Piece> {
        let i = self.flat.partition_point(|p| p.last < addr);
        self.flat.get(i).filter(|p| p.start <= addr)
    }

    /// Who answers at `addr`, and the offset there: in guest memory, or (flash, registers) in the device's region.
    #[must_use]
    pub fn find(&self, addr: u64) -> Option<(Backing, u64)> {
        let p = self.piece(addr)?;
        let into = p.skip + (addr - p.start);
        Some(match p.backing {
            Backing::Ram(o) | Backing::Rom(o) => (p.backing, o + into),
            Backing::Flash(..) | Backing::Device(..) => (p.backing, into),
        })
    }

    /// What backs the whole page at `page`; a page of mixed backing counts as [`PageKind::Device`].
    #[must_use]
    pub fn page(&self, page: u64) -> PageKind {
        let last = page | (PAGE_SIZE as u64 - 1);
        match self.piece(page) {
            Some(p) if p.last >= last => match p.backing {
                Backing::Ram(o) => PageKind::Memory { offset: o + p.skip + (page - p.start), writable: true },
                Backing::Rom(o) | Backing::Flash(o, ..) => PageKind::Memory { offset: o + p.skip + (page - p.start), writable: false },
                Backing::Device(..) => PageKind::Device,
            },
            _ => PageKind::Device,
        }
    }

    /// Walks `addr .. addr + len` in runs of contiguous memory: `f(range within the access, memory offset, writable)`.
    /// False as soon as `f` says so or a byte is not memory.
    pub fn each_run(&self, addr: u64, len: usize, mut f: impl FnMut(Range<usize>, u64, bool) -> bool) -> bool {
        let mut done = 0;
        while done < len {
            let Some(at) = addr.checked_add(done as u64) else { return false };
            let Some(p) = self.piece(at) else { return false };
            let (offset, writable) = match p.backing {
                Backing::Ram(o) => (o + p.skip + (at - p.start), true),
                Backing::Rom(o) | Backing::Flash(o, ..) => (o + p.skip + (at - p.start), false),
                Backing::Device(..) => return false,
            };
            let run = (p.last - at).saturating_add(1).min((len - done) as u64) as usize;
            if !f(done..done + run, offset, writable) {
                return false;
            }
            done += run;
        }
        true
    }
}

/// The I/O port space: 65536 ports, first come first served.
#[derive(Clone, Debug, Default)]
pub struct PortSpace {
    space: AddressSpace,
}

impl PortSpace {
    /// Replaces all port ranges (their backings must be [`Backing::Device`]).
    pub fn set(&mut self, regions: Vec<Region>) {
        self.space.set(regions);
    }
    /// The device region that answers at `port`, and the offset in it.
    #[must_use]
    pub fn find(&self, port: u16) -> Option<(DeviceId, u8, u64)> {
        match self.space.find(u64::from(port))? {
            (Backing::Device(id, region), offset) => Some((id, region, offset)),
            _ => None,
        }
    }
}

fn flatten(regions: &[Region]) -> Vec<Piece> {
    // Lowest priority first; each region then cuts a hole into what lies below it.
    let mut order: Vec<&Region> = regions.iter().filter(|r| r.len > 0).collect();
    order.sort_by_key(|r| r.priority);
    let mut flat: Vec<Piece> = Vec::new();
    for r in order {
        let (start, last) = (r.start, r.start.saturating_add(r.len - 1));
        let mut next = Vec::with_capacity(flat.len() + 2);
        for p in flat {
            if p.last < start || p.start > last {
                next.push(p);
                continue;
            }
            if p.start < start {
                next.push(Piece { last: start - 1, ..p });
            }
            if p.last > last {
                next.push(Piece { start: last + 1, skip: p.skip + (last + 1 - p.start), ..p });
            }
        }
        next.push(Piece { start, last, backing: r.backing, skip: 0 });
        next.sort_by_key(|p| p.start);
        flat = next;
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(start: u64, len: u64, priority: u8, backing: Backing) -> Region {
        Region { start, len, priority, backing }
    }

    #[test]
    fn higher_priority_cuts_a_hole() {
        let dev = Backing::Device(DeviceId(3), 1);
        let mut s = AddressSpace::default();
        s.set(vec![
            region(0xb000, 0x1000, 1, dev),
            region(0, 0x10_0000, 0, Backing::Ram(0x4000)),
            region(0xf_0000, 0x1_0000, 1, Backing::Rom(0x20_0000)),
        ]);
        assert_eq!(s.find(0xafff), Some((Backing::Ram(0x4000), 0xefff)));
        assert_eq!(s.find(0xb010), Some((dev, 0x10)));
        assert_eq!(s.find(0xc000), Some((Backing::Ram(0x4000), 0x1_0000)));
        assert_eq!(s.find(0x10_0000), None);
        assert_eq!(s.page(0xf_f000), PageKind::Memory { offset: 0x20_f000, writable: false });
        assert_eq!(s.page(0xb000), PageKind::Device);
        let mut runs = Vec::new();
        assert!(s.each_run(0xe_fff0, 0x20, |r, o, w| {
            runs.push((r, o, w));
            true
        }));
        assert_eq!(runs, [(0..0x10, 0xf_3ff0, true), (0x10..0x20, 0x20_0000, false)]);
        assert!(!s.each_run(0xaff0, 0x20, |_, _, _| true));
        assert!(!s.each_run(u64::MAX - 1, 4, |_, _, _| true));
    }
}
