//! Guest memory: RAM and ROM in one host mapping, with marks of what was written a page and contains-code bits a 64-byte
//! granule. Pages that were never written are all zeros and stay untouched on the host.
//!
//! All access is through raw pointers or atomics, never `&mut [u8]`: other processors may run at the same time.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::{MmapOptions, MmapRaw};

use crate::pages::{Page, PageSet};

/// Bytes in a page, as the guest sees pages (a host's may be larger).
pub const PAGE_SIZE: usize = 4096;
/// Bytes that share one contains-code bit.
pub const CODE_GRANULE: usize = PAGE_SIZE / 64;

/// Why memory could not be had or reached.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host cannot give that much.
    #[error("the host cannot provide {0} MiB of guest memory; choose a smaller --memory")]
    Host(u64),
    /// An access past the end.
    #[error("memory offset {0:#x} is out of range")]
    OutOfRange(u64),
}

/// Guest RAM and ROM: `len` bytes, addressed by offset. The physical map ([`crate::AddressSpace`]) says where they appear.
pub struct GuestMemory {
    map: MmapRaw,
    len: usize,
    marks: Box<[AtomicU8]>,
    code: Box<[AtomicU64]>,
    code_written: AtomicBool,
    code_writes: Mutex<Vec<(u64, u32)>>,
    /// The contents at the last checkpoint; pages without the mark of [`Collector::Checkpoint`] still have them.
    base: Mutex<PageSet>,
}

/// Who asks which pages were written since it last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Collector {
    /// [`GuestMemory::checkpoint`].
    Checkpoint = 1,
    /// Whoever keeps digests of the pages.
    Digest = 2,
    /// Whoever shows the screen.
    Screen = 8,
}

/// The mark of a page that was written at all.
const TOUCHED: u8 = 4;
/// The mark of a page that the host has committed memory for, written or not.
const COMMITTED: u8 = 16;
/// All marks: what a store sets.
const WRITTEN: u8 = Collector::Checkpoint as u8 | Collector::Digest as u8 | Collector::Screen as u8 | TOUCHED | COMMITTED;
/// From so many bytes on the host is asked for large pages: its TLB has entries for 4 to 16 MiB of small ones.
#[cfg(target_os = "linux")]
const LARGE: usize = 32 << 20;
/// Pages that are committed at once at most.
const AHEAD: usize = 32;

impl GuestMemory {
    /// Zeroed memory of `len` bytes (rounded up to pages). Host memory is committed when it is touched.
    ///
    /// # Errors
    /// [`MemoryError::Host`] if the host refuses.
    pub fn new(len: u64) -> Result<Self, MemoryError> {
        let err = || MemoryError::Host(len >> 20);
        let size = usize::try_from(len).map_err(|_| err())?.max(1).checked_next_multiple_of(PAGE_SIZE).ok_or_else(err)?;
        let map: MmapRaw = MmapOptions::new().len(size).no_reserve_swap().map_anon().map_err(|_| err())?.into();
        #[cfg(target_os = "linux")]
        if size >= LARGE {
            // A host without large pages refuses.
            let _ = map.advise(Advice::HugePage);
        }
        let pages = size / PAGE_SIZE;
        Ok(Self {
            map,
            len: size,
            marks: (0..pages).map(|_| AtomicU8::new(0)).collect(),
            code: (0..pages).map(|_| AtomicU64::new(0)).collect(),
            code_written: AtomicBool::new(false),
            code_writes: Mutex::default(),
            base: Mutex::default(),
        })
    }

    /// Size in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// Never: there is at least one page.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn check(&self, offset: u64, len: usize) -> Result<*mut u8, MemoryError> {
        match usize::try_from(offset) {
            Ok(o) if o.checked_add(len).is_some_and(|end| end <= self.len) => {
                // SAFETY: `o + len` lies within the mapping, so the pointer stays in (or one past) it.
                Ok(unsafe { self.map.as_mut_ptr().add(o) })
            }
            _ => Err(MemoryError::OutOfRange(offset)),
        }
    }

    /// The host address of the page that holds `offset`, for a translation cache. Valid as long as `self` lives; the
    /// holder must mark stores with [`GuestMemory::mark_written`] before it makes them.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] past the end.
    pub fn host_page(&self, offset: u64) -> Result<*mut u8, MemoryError> {
        self.check(offset & !(PAGE_SIZE as u64 - 1), PAGE_SIZE)
    }

    /// Copies memory out.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] past the end; nothing is copied then.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let p = self.check(offset, buf.len())?;
        // SAFETY: `check` proved the range; `buf` is the caller's own and cannot overlap the mapping.
        unsafe { std::ptr::copy_nonoverlapping(p, buf.as_mut_ptr(), buf.len()) };
        Ok(())
    }

    /// Copies into memory, with marks and code bookkeeping: writes over code are queued for [`GuestMemory::take_code_writes`].
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] past the end; nothing is copied then.
    pub fn write(&self, offset: u64, buf: &[u8]) -> Result<(), MemoryError> {
        let p = self.check(offset, buf.len())?;
        self.mark_written(offset, buf.len());
        // SAFETY: `check` proved the range; `buf` is the caller's own and cannot overlap the mapping.
        unsafe { std::ptr::copy_nonoverlapping(buf.as_ptr(), p, buf.len()) };
        Ok(())
    }

    /// Notes that `len` bytes at `offset` (in range) are being written: marks, and a queue entry a page where code is hit.
    pub fn mark_written(&self, offset: u64, len: usize) {
        if len == 0 {
            return;
        }
        let end = offset + len as u64;
        let mut at = offset;
        while at < end {
            let page = at / PAGE_SIZE as u64;
            let stop = end.min((page + 1) * PAGE_SIZE as u64);
            let marks = &self.marks[page as usize];
            let had = marks.load(Ordering::Relaxed);
            if had != WRITTEN {
                if had & COMMITTED == 0 {
                    self.commit(page as usize);
                }
                marks.fetch_or(WRITTEN, Ordering::Relaxed);
            }
            let n = (stop - at) as usize;
            if self.code[page as usize].load(Ordering::Acquire) & granules(at as usize % PAGE_SIZE, n) != 0 {
                self.code_writes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((at, n as u32));
                self.code_written.store(true, Ordering::Release);
            }
            at = stop;
        }
    }

    /// Page `page` is about to be written for the first time: has the host commit it together with what probably comes next,
    /// as much as was written right before it in either direction. A fault for each page costs the host several times what the
    /// page itself does.
    #[cold]
    fn commit(&self, page: usize) {
        let written = |m: &&AtomicU8| m.load(Ordering::Relaxed) & TOUCHED != 0;
        let below = self.marks[..page].iter().rev().take(AHEAD).take_while(written).count();
        let above = self.marks[page + 1..].iter().take(AHEAD).take_while(written).count();
        let fresh = |m: &&AtomicU8| m.load(Ordering::Relaxed) & COMMITTED == 0;
        let pages = if below >= above {
            page..page + self.marks[page..].iter().take(below).take_while(fresh).count()
        } else {
            page + 1 - self.marks[..=page].iter().rev().take(above).take_while(fresh).count()..page + 1
        };
        if pages.len() > 1 && self.populate(&pages) {
            for m in &self.marks[pages] {
                m.fetch_or(COMMITTED, Ordering::Relaxed);
            }
        }
    }

    /// Has the host commit `pages` now; false if it does not do that, so that it commits each at its first access.
    #[cfg(target_os = "linux")]
    fn populate(&self, pages: &Range<usize>) -> bool {
        self.map.advise_range(Advice::PopulateWrite, pages.start * PAGE_SIZE, pages.len() * PAGE_SIZE).is_ok()
    }

    #[cfg(not(target_os = "linux"))]
    fn populate(&self, _: &Range<usize>) -> bool {
        false
    }

    /// Whether any code byte of the page at `offset` is known.
    #[must_use]
    pub fn has_code(&self, offset: u64) -> bool {
        self.code[offset as usize / PAGE_SIZE].load(Ordering::Acquire) != 0
    }

    /// Whether the `len` bytes at `offset` (within one page) share a granule with code.
    #[must_use]
    pub fn hits_code(&self, offset: u64, len: usize) -> bool {
        let offset = offset as usize;
        self.code[offset / PAGE_SIZE].load(Ordering::Acquire) & granules(offset % PAGE_SIZE, len) != 0
    }

    /// Marks the `len` bytes at `offset` (within one page) as code. True if the page held none before: translations
    /// through which it could be written unseen must go.
    pub fn mark_code(&self, offset: u64, len: usize) -> bool {
        let offset = offset as usize;
        self.code[offset / PAGE_SIZE].fetch_or(granules(offset % PAGE_SIZE, len), Ordering::AcqRel) == 0
    }

    /// The page at `offset` holds no decoded code any more.
    pub fn clear_code(&self, offset: u64) {
        self.code[offset as usize / PAGE_SIZE].store(0, Ordering::Release);
    }

    /// Whether [`GuestMemory::take_code_writes`] has something.
    #[must_use]
    #[inline]
    pub fn code_written(&self) -> bool {
        self.code_written.load(Ordering::Acquire)
    }

    /// The writes over code since the last call: (offset, length), each within a page.
    pub fn take_code_writes(&self) -> Vec<(u64, u32)> {
        let mut writes = self.code_writes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.code_written.store(false, Ordering::Release);
        std::mem::take(&mut *writes)
    }

    /// Whether a further store to the page at `offset` would set no mark: a translation cache may let stores through
    /// until the next [`GuestMemory::collect`], [`GuestMemory::checkpoint`] or [`GuestMemory::restore`].
    #[must_use]
    pub fn is_marked(&self, offset: u64) -> bool {
        self.marks[offset as usize / PAGE_SIZE].load(Ordering::Relaxed) == WRITTEN
    }

    /// The numbers of the pages that were written at all, in order; the others are all zeros.
    pub fn touched(&self) -> impl Iterator<Item = u64> + '_ {
        self.marks.iter().enumerate().filter(|(_, m)| m.load(Ordering::Relaxed) & TOUCHED != 0).map(|(n, _)| n as u64)
    }

    /// The numbers of the pages written since `by` last asked, in order. Translation caches must drop their permission
    /// to store after this.
    pub fn collect(&self, by: Collector) -> Vec<u64> {
        self.collect_in(by, 0..self.marks.len() as u64)
    }

    /// The same, only of `pages`; those past the end are none.
    pub fn collect_in(&self, by: Collector, pages: Range<u64>) -> Vec<u64> {
        let end = (pages.end as usize).min(self.marks.len());
        let start = (pages.start as usize).min(end);
        let bit = by as u8;
        let taken = |m: &AtomicU8| m.load(Ordering::Relaxed) & bit != 0 && m.fetch_and(!bit, Ordering::Relaxed) & bit != 0;
        self.marks[start..end].iter().zip(start as u64..).filter(|(m, _)| taken(m)).map(|(_, n)| n).collect()
    }

    /// The bytes of page `n`.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] past the end.
    pub fn page(&self, n: u64) -> Result<Page, MemoryError> {
        let mut page = [0; PAGE_SIZE];
        self.read(n.saturating_mul(PAGE_SIZE as u64), &mut page)?;
        Ok(page)
    }

    /// The contents now. Costs the pages written since the last checkpoint; the others are shared with it. Translation
    /// caches must drop their permission to store after this.
    ///
    /// # Errors
    /// None while the marks are of this memory.
    pub fn checkpoint(&self) -> Result<PageSet, MemoryError> {
        let mut base = self.base.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for n in self.collect(Collector::Checkpoint) {
            base.set(n, &self.page(n)?);
        }
        Ok(base.clone())
    }

    /// Puts `pages` back. Costs the pages that were written since or are not shared with the last checkpoint; those that
    /// are equal nevertheless are not written. Translation caches must drop their permission to store after this.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if a page lies past the end; nothing has changed then.
    pub fn restore(&self, pages: &PageSet) -> Result<(), MemoryError> {
        let mut base = self.base.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut suspects = base.differing(pages);
        if let Some(&last) = suspects.last() {
            self.check(last * PAGE_SIZE as u64, PAGE_SIZE)?;
        }
        suspects.extend(self.collect(Collector::Checkpoint));
        suspects.sort_unstable();
        suspects.dedup();
        for n in suspects {
            let page = pages.page(n).unwrap_or(&[0; PAGE_SIZE]);
            if self.page(n)? != *page {
                self.write(n * PAGE_SIZE as u64, page)?;
            }
        }
        *base = pages.clone();
        self.collect(Collector::Checkpoint);
        Ok(())
    }
}

/// The code bits of `len` bytes from `at` within a page.
fn granules(at: usize, len: usize) -> u64 {
    let first = at / CODE_GRANULE;
    let last = (at + len.max(1) - 1).min(PAGE_SIZE - 1) / CODE_GRANULE;
    (!0u64 << first) & (!0u64 >> (63 - last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let m = GuestMemory::new(8192).unwrap();
        assert!(m.write(8190, &[1, 2]).is_ok());
        assert!(m.write(8191, &[1, 2]).is_err());
        assert!(m.read(u64::MAX, &mut [0]).is_err());
        let mut b = [0; 2];
        m.read(8190, &mut b).unwrap();
        assert_eq!(b, [1, 2]);
        assert_eq!(m.collect(Collector::Digest), [1]);
        assert!(m.collect(Collector::Digest).is_empty() && !m.is_marked(4096));
        assert_eq!(m.collect(Collector::Checkpoint), [1]);
        assert!(m.collect_in(Collector::Screen, 2..u64::MAX).is_empty());
        assert_eq!(m.collect_in(Collector::Screen, 1..2), [1]);
        assert_eq!(m.touched().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn what_is_written_in_order_is_committed_ahead() {
        let m = GuestMemory::new(256 * 4096).unwrap();
        let ahead = |m: &GuestMemory| {
            let marks = m.marks.iter().map(|m| m.load(Ordering::Relaxed));
            marks.filter(|m| m & COMMITTED != 0 && m & TOUCHED == 0).count()
        };
        for n in [100, 200, 202] {
            m.write(n * 4096, &[1]).unwrap();
        }
        assert_eq!(ahead(&m), 0, "these are in no order");
        m.write(4096, &[1; 7 * 4096]).unwrap();
        for n in (130..150).rev().chain([255]) {
            m.write(n * 4096, &[1]).unwrap();
        }
        let host_commits = m.populate(&(0..1));
        assert_eq!(ahead(&m) > 0, host_commits);
        assert!(ahead(&m) <= 7 + 20, "more than was written");
        assert_eq!(m.touched().count(), 3 + 7 + 21);
        assert_eq!(m.collect(Collector::Digest).len(), 3 + 7 + 21, "what is committed is not written");
        assert!(!m.is_marked(129 * 4096) && m.page(129).unwrap() == [0; PAGE_SIZE]);
    }

    #[test]
    fn checkpoints_share_and_restore() {
        let m = GuestMemory::new(64 * 4096).unwrap();
        m.write(4096, &[1]).unwrap();
        m.write(2 * 4096, &[2]).unwrap();
        let a = m.checkpoint().unwrap();
        m.write(2 * 4096, &[3]).unwrap();
        m.write(5 * 4096, &[4]).unwrap();
        let b = m.checkpoint().unwrap();
        assert_eq!(b.differing(&a), [2, 5]);
        m.write(7 * 4096, &[5]).unwrap();
        m.write(4096, &[1]).unwrap();
        m.collect(Collector::Digest);
        m.restore(&a).unwrap();
        assert_eq!(m.collect(Collector::Digest), [2, 5, 7], "only what differs is written");
        let first = |n: u64| m.page(n).unwrap()[0];
        assert_eq!([1, 2, 5, 7].map(first), [1, 2, 0, 0]);
        m.restore(&b).unwrap();
        assert_eq!([1, 2, 5, 7].map(first), [1, 3, 4, 0]);
        assert!(m.checkpoint().unwrap().differing(&b).is_empty());
        let other = GuestMemory::new(64 * 4096).unwrap();
        other.write(9 * 4096, &[1]).unwrap();
        other.restore(&b).unwrap();
        assert_eq!(other.page(9).unwrap()[0], 0);
        assert_eq!(other.page(5).unwrap()[0], 4);
        assert!(GuestMemory::new(4096).unwrap().restore(&b).is_err());
    }

    #[test]
    fn writes_over_code_are_queued_by_granule() {
        let m = GuestMemory::new(3 * 4096).unwrap();
        assert!(m.mark_code(4096 + 100, 10));
        assert!(!m.mark_code(4096 + 200, 1));
        m.write(4096, &[0; 64]).unwrap();
        assert!(!m.code_written());
        m.write(4000, &[0; 300]).unwrap();
        assert!(m.code_written());
        assert_eq!(m.take_code_writes(), [(4096, 204)]);
        m.clear_code(4096);
        m.write(4096 + 100, &[0; 64]).unwrap();
        assert!(m.take_code_writes().is_empty());
    }
}
