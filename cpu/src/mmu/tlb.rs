//! The software TLB: direct-mapped, a part for each kind of rights, entries hold host pointers.
//!
//! This is one of the few modules with `unsafe`: the fast path reads and writes guest memory through the host pointer of
//! an entry. What makes it sound: entries are only made by [`Mmu::fill`] from [`GuestMemory::host_page`], the mapping
//! lives as long as the `Arc` that [`Mmu`] holds, and an access never crosses the end of its page.

use std::sync::Arc;

use softmetal_bus::{GuestMemory, PAGE_SIZE, PageKind};

use super::fast::Fast;
use crate::debug::NO_PAGE;
use crate::width::Value;

const OFFSET: u64 = PAGE_SIZE as u64 - 1;
/// Entries in each part.
pub(crate) const ENTRIES: usize = 2048;
/// One part for each of [`Rights`], and one that is always empty (alignment checks).
const PARTS: usize = 4;
const EMPTY_PART: usize = 3 * ENTRIES;
const ALL: usize = PARTS * ENTRIES;
/// Entries of the code TLB.
const CODE_ENTRIES: usize = 512;
/// Generations before tags repeat.
const GENERATIONS: u16 = 4095;
/// A page that is written through several linear addresses.
const MANY: u64 = u64::MAX;

/// Whose rights an access has. Each has its own part of the TLB, so that what decides a permission (CPL, EFLAGS.AC with
/// SMAP) is looked at when it changes, not at each access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Rights {
    /// The system's: CPL 0 to 2 without SMAP or with EFLAGS.AC set.
    System,
    /// Those of CPL 3.
    User,
    /// The system's, kept from user pages by SMAP (SDM 3A, 4.6.1).
    Guarded,
}

impl Rights {
    const EACH: [Self; 3] = [Self::System, Self::User, Self::Guarded];

    const fn part(self) -> usize {
        self as usize * ENTRIES
    }
}

/// What an access wants.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// A store.
    pub write: bool,
    /// Whose rights it has.
    pub rights: Rights,
    /// An instruction fetch.
    pub fetch: bool,
}

/// The outcome of a page walk.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    /// The physical address of the byte asked for; not known of memory that was found in the TLB.
    pub physical: u64,
    /// What backs its page.
    pub kind: PageKind,
    /// Stores are allowed at the privilege of the walk and the dirty bit is set.
    pub write: bool,
    /// The page size was larger than 4 KiB.
    pub large: bool,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Entry {
    /// Linear page | generation, if loads may hit.
    read: u64,
    /// Linear page | generation, if stores may hit.
    write: u64,
    /// Host address of the page.
    host: *mut u8,
    /// Offset of the page in guest memory, with [`LARGE`] and [`STORES`].
    offset: u64,
}

/// Bit of [`Entry::offset`]: part of a large page.
const LARGE: u64 = 1;
/// Bit of [`Entry::offset`]: the guest may store there. `write` may hold stores back nevertheless, for the host's sake.
const STORES: u64 = 2;

const EMPTY: Entry = Entry { read: 0, write: 0, host: std::ptr::null_mut(), offset: 0 };

#[derive(Clone, Copy, Default)]
struct CodeEntry {
    /// Linear page | generation.
    tag: u64,
    user: bool,
    large: bool,
    physical: u64,
}

/// A checked pointer to guest memory for one access.
pub struct Slot<V>(*mut V);

impl<V: Value> Slot<V> {
    /// Loads.
    #[inline(always)]
    #[must_use]
    pub fn load(&self) -> V {
        // SAFETY: made by `Mmu::hit_*` only: points at V::BYTES bytes within a page of the live guest mapping.
        unsafe { self.0.read_unaligned() }
    }
    /// Stores.
    #[inline(always)]
    pub fn store(&self, v: V) {
        // SAFETY: as for `load`; the page is RAM, marked as written, and holds no decoded code.
        unsafe { self.0.write_unaligned(v) }
    }
}

/// The translation caches.
pub struct Mmu {
    // glue
    memory: Arc<GuestMemory>,
    // caches: nothing here is architectural state
    entries: Box<[Entry; ALL]>,
    code: Box<[CodeEntry; CODE_ENTRIES]>,
    /// By page of guest memory: 0, or the one linear page through which it is writable in `entries`, or [`MANY`].
    writers: Box<[u64]>,
    generation: u64,
    /// Where the entries of the current rights begin in `entries`.
    part: usize,
    next_generation: u16,
    /// The generation that belongs to each PCID, 0 if none.
    by_pcid: Box<[u16; 4096]>,
    large_seen: bool,
    /// Linear pages that are never entered: data breakpoints are on them.
    watched: [u64; 4],
    /// What of `entries` translated code may use by itself.
    pub(crate) fast: Fast,
    /// Misses so far.
    pub misses: u64,
}

// SAFETY: the raw pointers point into `memory`, which is Send + Sync; nothing else makes Mmu thread-bound.
unsafe impl Send for Mmu {}

impl Mmu {
    /// Empty caches.
    #[must_use]
    pub fn new(memory: Arc<GuestMemory>) -> Self {
        let pages = (memory.len() / PAGE_SIZE as u64) as usize;
        Self {
            memory,
            entries: vec![EMPTY; ALL].into_boxed_slice().try_into().unwrap_or_else(|_| unreachable!()),
            code: Box::new([CodeEntry::default(); CODE_ENTRIES]),
            writers: vec![0; pages].into_boxed_slice(),
            generation: 1,
            part: 0,
            next_generation: 2,
            by_pcid: Box::new([0; 4096]),
            large_seen: false,
            watched: [NO_PAGE; 4],
            fast: Fast::new(),
            misses: 0,
        }
    }

    /// Selects the part that program accesses use: that of their rights, or the empty one, so that each of them is seen by
    /// the slow path, which checks its alignment.
    #[inline(always)]
    pub fn select(&mut self, rights: Rights, check_alignment: bool) {
        self.part = if check_alignment { EMPTY_PART } else { rights.part() };
        self.fast.select(self.part, rights == Rights::User);
    }

    /// The slow path checks alignment.
    #[inline]
    #[must_use]
    pub fn checks_alignment(&self) -> bool {
        self.part == EMPTY_PART
    }

    #[inline(always)]
    fn index(lin: u64) -> usize {
        (lin >> 12) as usize & (ENTRIES - 1)
    }

    #[inline(always)]
    fn tag(&self, lin: u64) -> u64 {
        (lin & !OFFSET) | self.generation
    }

    /// The memory of a load, on a hit.
    #[inline(always)]
    #[must_use]
    pub fn hit_read<V: Value>(&self, lin: u64) -> Option<Slot<V>> {
        let e = &self.entries[(Self::index(lin) | self.part) & (ALL - 1)];
        if e.read == self.tag(lin) && (lin & OFFSET) <= (PAGE_SIZE - V::BYTES) as u64 {
            // SAFETY: `host` is the start of a live page and the access ends within it.
            return Some(Slot(unsafe { e.host.add((lin & OFFSET) as usize) }.cast()));
        }
        None
    }

    /// The memory of a store (or load and store), on a hit.
    #[inline(always)]
    #[must_use]
    pub fn hit_write<V: Value>(&self, lin: u64) -> Option<Slot<V>> {
        let e = &self.entries[(Self::index(lin) | self.part) & (ALL - 1)];
        if e.write == self.tag(lin) && (lin & OFFSET) <= (PAGE_SIZE - V::BYTES) as u64 {
            // SAFETY: as in `hit_read`.
            return Some(Slot(unsafe { e.host.add((lin & OFFSET) as usize) }.cast()));
        }
        None
    }

    /// Copies `len` bytes forward between two places of one page each, if both hit; for REP MOVS at host speed.
    /// The ranges may overlap only so that a forward byte copy equals `memmove`.
    #[must_use]
    pub fn copy(&self, from: u64, to: u64, len: usize) -> bool {
        let s = &self.entries[(Self::index(from) | self.part) & (ALL - 1)];
        let d = &self.entries[(Self::index(to) | self.part) & (ALL - 1)];
        let fits = |a: u64| (a & OFFSET) as usize + len <= PAGE_SIZE;
        if s.read != self.tag(from) || d.write != self.tag(to) || !fits(from) || !fits(to) {
            return false;
        }
        // SAFETY: both ranges lie within live pages; `copy` allows overlap.
        unsafe { std::ptr::copy(s.host.add((from & OFFSET) as usize), d.host.add((to & OFFSET) as usize), len) };
        true
    }

    /// Fills `len` bytes within one page with the repeated little-endian `pattern` (`len` a multiple of its length), if it hits.
    #[must_use]
    pub fn fill_bytes(&self, to: u64, pattern: &[u8], len: usize) -> bool {
        let d = &self.entries[(Self::index(to) | self.part) & (ALL - 1)];
        if d.write != self.tag(to) || (to & OFFSET) as usize + len > PAGE_SIZE || pattern.is_empty() {
            return false;
        }
        // SAFETY: the range lies within a live page.
        unsafe {
            let p = d.host.add((to & OFFSET) as usize);
            if pattern.iter().all(|&b| b == pattern[0]) {
                std::ptr::write_bytes(p, pattern[0], len);
            } else {
                for i in (0..len).step_by(pattern.len()) {
                    std::ptr::copy_nonoverlapping(pattern.as_ptr(), p.add(i), pattern.len().min(len - i));
                }
            }
        }
        true
    }

    /// Enters a translation of a memory page for `rights`.
    pub fn fill(&mut self, lin: u64, t: &Translation, rights: Rights) {
        let PageKind::Memory { offset, writable } = t.kind else { return };
        let Ok(host) = self.memory.host_page(offset) else { return };
        if self.watches(lin) {
            return;
        }
        let tag = self.tag(lin);
        let stores = t.write && writable;
        let write = stores && self.memory.is_marked(offset) && !self.memory.has_code(offset);
        if write {
            let w = &mut self.writers[(offset >> 12) as usize];
            let page = (lin & !OFFSET) | 1;
            *w = if *w == 0 || *w == page { page } else { MANY };
        }
        self.large_seen |= t.large;
        self.entries[Self::index(lin) | rights.part()] = Entry {
            read: tag,
            write: if write { tag } else { 0 },
            host,
            offset: offset | if t.large { LARGE } else { 0 } | if stores { STORES } else { 0 },
        };
        self.fast.drop_one(lin, rights == Rights::User);
    }

    /// Lets translated code use the entry of `lin` by itself, if there is one.
    pub fn fill_fast(&mut self, lin: u64) {
        let e = &self.entries[(Self::index(lin) | self.part) & (ALL - 1)];
        let tag = self.tag(lin);
        if e.read == tag {
            self.fast.fill(lin, self.part == Rights::User.part(), e.host as u64, e.write == tag);
        }
    }

    /// Keeps the linear pages numbered `pages` out of the caches for data.
    pub fn watch(&mut self, pages: [u64; 4]) {
        if self.watched != pages {
            self.watched = pages;
            self.flush_all();
        }
    }

    /// Whether data breakpoints are on the page of `lin`.
    #[must_use]
    pub fn watches(&self, lin: u64) -> bool {
        self.watched.contains(&(lin >> 12))
    }

    /// Drops write permission to the memory page at `offset`: it holds code from now on.
    pub fn protect(&mut self, offset: u64) {
        let page = (offset >> 12) as usize;
        match std::mem::take(&mut self.writers[page]) {
            0 => {}
            MANY => {
                self.fast.protect_all();
                for e in self.entries.iter_mut().filter(|e| e.offset >> 12 == page as u64) {
                    e.write = 0;
                }
            }
            lin => {
                self.fast.protect(lin);
                for rights in Rights::EACH {
                    let e = &mut self.entries[Self::index(lin) | rights.part()];
                    if e.offset >> 12 == page as u64 {
                        e.write = 0;
                    }
                }
            }
        }
    }

    /// The translation of `lin` for `access`, if it is here: of a page that the fast path holds back for the host's sake.
    /// What the guest sees of its page tables does not depend on that.
    #[must_use]
    pub fn cached(&self, lin: u64, access: Access) -> Option<Translation> {
        let e = &self.entries[Self::index(lin) | access.rights.part()];
        let stores = e.offset & STORES != 0;
        (e.read == self.tag(lin) && (stores || !access.write)).then_some(Translation {
            physical: 0,
            kind: PageKind::Memory { offset: e.offset & !OFFSET, writable: stores },
            write: stores,
            large: e.offset & LARGE != 0,
        })
    }

    /// Drops write permission everywhere: marks of written pages were collected.
    pub fn protect_all(&mut self) {
        for e in self.entries.iter_mut() {
            e.write = 0;
        }
        self.writers.fill(0);
        self.fast.protect_all();
    }

    /// The physical page of the code at `lin`, if cached.
    #[inline]
    #[must_use]
    pub fn code_hit(&self, lin: u64, user: bool) -> Option<u64> {
        let e = &self.code[(lin >> 12) as usize & (CODE_ENTRIES - 1)];
        (e.tag == self.tag(lin) && e.user == user).then_some(e.physical | (lin & OFFSET))
    }

    /// Enters a code translation.
    pub fn code_fill(&mut self, lin: u64, user: bool, t: &Translation) {
        self.large_seen |= t.large;
        self.code[(lin >> 12) as usize & (CODE_ENTRIES - 1)] =
            CodeEntry { tag: self.tag(lin), user, large: t.large, physical: t.physical & !OFFSET };
    }

    /// A number that changes whenever the address space does.
    #[must_use]
    pub fn generation(&self) -> u16 {
        self.generation as u16
    }

    /// Drops every translation.
    pub fn flush_all(&mut self) {
        self.by_pcid.fill(0);
        self.fresh();
    }

    /// Switches to the address space `pcid`; its cached translations are kept if `keep`. True if generations repeat from here on.
    #[must_use]
    pub fn switch(&mut self, pcid: u16, keep: bool) -> bool {
        let slot = usize::from(pcid & 0xfff);
        self.fast.clear();
        if keep && self.by_pcid[slot] != 0 {
            self.generation = u64::from(self.by_pcid[slot]);
            false
        } else {
            let again = self.fresh();
            self.by_pcid[slot] = self.generation as u16;
            again
        }
    }

    /// Forgets the translations of another address space, `pcid`.
    pub fn forget(&mut self, pcid: u16) {
        self.by_pcid[usize::from(pcid & 0xfff)] = 0;
    }

    /// Begins a generation that no entry has; true if it is a number that was there before.
    fn fresh(&mut self) -> bool {
        self.fast.clear();
        let again = self.next_generation > GENERATIONS;
        if again {
            self.entries.fill(EMPTY);
            self.code.fill(CodeEntry::default());
            self.writers.fill(0);
            self.by_pcid.fill(0);
            self.large_seen = false;
            self.next_generation = 1;
        }
        self.generation = u64::from(self.next_generation);
        self.next_generation += 1;
        again
    }

    /// Drops the translation of one page, of the whole large page if it is (part of) one (SDM 3A, 4.10.4.1).
    pub fn invalidate(&mut self, lin: u64) {
        self.fast.drop_one(lin, false);
        self.fast.drop_one(lin, true);
        if self.large_seen {
            self.fast.clear();
        }
        for rights in Rights::EACH {
            let e = &mut self.entries[Self::index(lin) | rights.part()];
            (e.read, e.write) = (0, 0);
        }
        self.code[(lin >> 12) as usize & (CODE_ENTRIES - 1)] = CodeEntry::default();
        if self.large_seen {
            let near = |tag: u64| tag >> 30 == lin >> 30;
            for e in self.entries.iter_mut().filter(|e| e.offset & LARGE != 0 && near(e.read)) {
                (e.read, e.write) = (0, 0);
            }
            for e in self.code.iter_mut().filter(|e| e.large && near(e.tag)) {
                *e = CodeEntry::default();
            }
        }
    }
}
