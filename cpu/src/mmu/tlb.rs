//! The software TLB: direct-mapped, a part for each kind of rights, entries hold host pointers.
//!
//! This is one of the few modules with `unsafe`: the fast path reads and writes guest memory through the host pointer of
//! an entry. What makes it sound: entries are only made by [`Mmu::fill`] from [`GuestMemory::host_page`], the mapping
//! lives as long as the `Arc` that [`Mmu`] holds, and an access never crosses the end of its page.

use std::ops::Range;
use std::sync::Arc;

use softmetal_bus::{GuestMemory, PAGE_SIZE, PageKind};

use super::code::{CodeTlb, Pages};
use super::fast::{Fast, Place};
use super::spaces::Spaces;
use crate::debug::NO_PAGE;
use crate::width::Value;

const OFFSET: u64 = PAGE_SIZE as u64 - 1;
/// Entries in each part: for 1 GiB.
pub(crate) const ENTRIES: usize = 1 << 18;
/// One part for the system, one for CPL 3, and one that is always empty (alignment checks); a power of two, so that no
/// index needs a check.
const PARTS: usize = 4;
const SYSTEM_PART: usize = 0;
const USER_PART: usize = ENTRIES;
const EMPTY_PART: usize = 2 * ENTRIES;
const ALL: usize = PARTS * ENTRIES;
/// Entries that are told apart by [`Mmu::in_use`].
const CHUNK: usize = 64;
/// How many user pages the system may reach at a time under SMAP.
const OPEN: usize = 16;
/// How many physical pages it is remembered of what backs them.
const KINDS: usize = 256;
/// Of a page that is written through more linear addresses than are noted.
const MANY: [u64; 2] = [u64::MAX; 2];

/// Whose rights an access has. What decides them (CPL, EFLAGS.AC with SMAP) is looked at when it changes, not at each
/// access: CPL 3 has its own part of the TLB, and the user pages that the system has reached leave its part when AC is
/// cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Rights {
    /// The system's: CPL 0 to 2 without SMAP.
    System,
    /// Those of CPL 3.
    User,
    /// The system's, kept from user pages by SMAP (SDM 3A, 4.6.1).
    Guarded,
    /// The system's under SMAP while EFLAGS.AC is set.
    Opened,
}

impl Rights {
    const fn part(self) -> usize {
        if matches!(self, Self::User) { USER_PART } else { SYSTEM_PART }
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
    /// The page size, as a power of two.
    pub shift: u8,
    /// The same page in all address spaces (CR4.PGE).
    pub global: bool,
    /// A page that CPL 3 may reach.
    pub user: bool,
}

impl Translation {
    /// The page size is larger than 4 KiB.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.shift != 12
    }
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
    /// Offset of the page in guest memory, with [`LARGE`], [`STORES`], [`GLOBAL`] and [`USER`].
    offset: u64,
}

/// Bit of [`Entry::offset`]: part of a large page.
const LARGE: u64 = 1;
/// Bit of [`Entry::offset`]: the guest may store there. `write` may hold stores back nevertheless, for the host's sake.
const STORES: u64 = 2;

/// Bit of [`Entry::offset`]: [`Translation::global`].
const GLOBAL: u64 = 4;
/// Bit of [`Entry::offset`]: [`Translation::user`].
const USER: u64 = 8;

/// All entries, empty; the host commits memory only for what is used.
fn empty_entries() -> Box<[Entry; ALL]> {
    let layout = std::alloc::Layout::new::<[Entry; ALL]>();
    // SAFETY: the layout is not empty; memory of that layout that is all 0 is so many times `EMPTY`.
    unsafe {
        let p = std::alloc::alloc_zeroed(layout);
        if p.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        Box::from_raw(p.cast())
    }
}

const EMPTY: Entry = Entry { read: 0, write: 0, host: std::ptr::null_mut(), offset: 0 };

/// A user page that the system had reached before AC was cleared.
#[derive(Clone, Copy, Default)]
struct Closed {
    tag: u64,
    offset: u64,
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
    /// Which chunks of `entries` may not be empty.
    in_use: Box<[bool; ALL / CHUNK]>,
    code: CodeTlb,
    spaces: Spaces,
    /// By page of guest memory: the linear pages through which it is writable in `entries`, or 0, or [`MANY`].
    writers: Box<[[u64; 2]]>,
    /// Where the entries of the current rights begin in `entries`.
    part: usize,
    /// The user pages in the system's part, if there is SMAP; oldest first.
    open: Vec<u64>,
    /// Those that were there, oldest at `closed_at`.
    closed: [Closed; OPEN],
    closed_at: usize,
    /// Regions of 2 MiB with (parts of) large pages, and of 1 GiB with those of that size.
    large: [Pages; 2],
    /// One bit for each page of guest memory: it is RAM at the physical address of the same number.
    plain: Box<[u64]>,
    /// What backs other physical pages: page | 1, and the answer.
    kinds: Box<[(u64, PageKind); KINDS]>,
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
            entries: empty_entries(),
            in_use: Box::new([false; ALL / CHUNK]),
            code: CodeTlb::new(),
            spaces: Spaces::new(),
            writers: vec![[0; 2]; pages].into_boxed_slice(),
            part: SYSTEM_PART,
            open: Vec::with_capacity(OPEN),
            closed: [Closed::default(); OPEN],
            closed_at: 0,
            large: [const { Pages::NONE }; 2],
            plain: vec![0; pages.div_ceil(64)].into_boxed_slice(),
            kinds: Box::new([(0, PageKind::Device); KINDS]),
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
        if rights == Rights::Guarded && !self.open.is_empty() {
            self.close();
        }
    }

    /// The system is kept from user pages again.
    fn close(&mut self) {
        while let Some(lin) = self.open.pop() {
            self.close_one(lin);
        }
    }

    fn close_one(&mut self, lin: u64) {
        let e = &mut self.entries[Self::index(lin) | SYSTEM_PART];
        if e.offset & USER != 0 && (e.read ^ lin) & !OFFSET == 0 {
            self.closed[self.closed_at] = Closed { tag: e.read, offset: e.offset };
            self.closed_at = (self.closed_at + 1) % OPEN;
            *e = EMPTY;
            self.fast.drop_one(lin, false);
        }
    }

    /// The slow path checks alignment.
    #[inline]
    #[must_use]
    pub fn checks_alignment(&self) -> bool {
        self.part == EMPTY_PART
    }

    /// The entries that may not be empty.
    fn entries(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries_in(0..ALL)
    }

    /// Those of them that are at `places`, whole chunks.
    fn entries_in(&mut self, places: Range<usize>) -> impl Iterator<Item = &mut Entry> {
        let in_use = &self.in_use[places.start / CHUNK..places.end / CHUNK];
        let chunks = self.entries[places].chunks_exact_mut(CHUNK).zip(in_use);
        chunks.filter(|(_, in_use)| **in_use).flat_map(|(chunk, _)| chunk)
    }

    #[inline(always)]
    fn index(lin: u64) -> usize {
        (lin >> 12) as usize & (ENTRIES - 1)
    }

    #[inline(always)]
    fn tag(&self, lin: u64) -> u64 {
        self.spaces.tag(lin)
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

    /// The memory of a load, or of a store, with other rights than the program's now, on a hit.
    #[inline]
    #[must_use]
    pub fn hit_as<V: Value>(&self, lin: u64, rights: Rights, write: bool) -> Option<Slot<V>> {
        let e = &self.entries[(Self::index(lin) | rights.part()) & (ALL - 1)];
        let kept = rights == Rights::Guarded && e.offset & USER != 0;
        let tag = if write { e.write } else { e.read };
        if tag == self.tag(lin) && !kept && (lin & OFFSET) <= (PAGE_SIZE - V::BYTES) as u64 {
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
            if !w.contains(&page) {
                match w.iter_mut().find(|w| **w == 0) {
                    Some(free) => *free = page,
                    None => *w = MANY,
                }
            }
        }
        if t.is_large() {
            self.note_large(lin, t.shift);
        }
        let page = lin & !OFFSET;
        if rights == Rights::Opened && t.user && !self.open.contains(&page) {
            if self.open.len() == OPEN {
                let oldest = self.open.remove(0);
                self.close_one(oldest);
            }
            self.open.push(page);
        }
        let flag = |is: bool, bit: u64| if is { bit } else { 0 };
        let i = Self::index(lin) | rights.part();
        self.in_use[i / CHUNK] = true;
        self.entries[i] = Entry {
            read: tag,
            write: if write { tag } else { 0 },
            host,
            offset: offset | flag(t.is_large(), LARGE) | flag(stores, STORES) | flag(t.global, GLOBAL) | flag(t.user, USER),
        };
        self.fast.drop_one(lin, rights == Rights::User);
    }

    fn note_large(&mut self, lin: u64, shift: u8) {
        if shift == 30 {
            self.large[1].add(lin >> 30);
        } else {
            let first = lin >> shift << (shift - 21);
            (0..1 << (shift - 21)).for_each(|n| self.large[0].add(first + n));
        }
    }

    /// Whether the page of `lin` may be part of a large one that is here.
    fn may_be_large(&self, lin: u64) -> bool {
        self.large[0].may_hold(lin >> 21) || self.large[1].may_hold(lin >> 30)
    }

    /// Lets translated code use the entry of `lin` by itself, if there is one.
    pub fn fill_fast(&mut self, lin: u64) {
        let e = &self.entries[(Self::index(lin) | self.part) & (ALL - 1)];
        let tag = self.tag(lin);
        if e.read == tag {
            let place = Place { user: self.part == USER_PART, global: e.offset & GLOBAL != 0 };
            self.fast.fill(lin, place, e.host as u64, e.write == tag);
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
        let writers = std::mem::take(&mut self.writers[page]);
        if writers == MANY {
            self.fast.protect_all();
            self.entries().filter(|e| e.offset >> 12 == page as u64).for_each(|e| e.write = 0);
            return;
        }
        for lin in writers.into_iter().filter(|lin| *lin != 0) {
            self.fast.protect(lin);
            for part in [SYSTEM_PART, USER_PART] {
                let e = &mut self.entries[Self::index(lin) | part];
                if e.offset >> 12 == page as u64 {
                    e.write = 0;
                }
            }
        }
    }

    /// The translation of `lin` for `access`, if it is here: of a page that the fast path holds back for the host's sake.
    /// What the guest sees of its page tables does not depend on that.
    #[must_use]
    pub fn cached(&self, lin: u64, access: Access) -> Option<Translation> {
        let e = &self.entries[Self::index(lin) | access.rights.part()];
        let offset = if self.spaces.hits(e.read, lin, e.offset & GLOBAL != 0) {
            e.offset
        } else if access.rights == Rights::Opened {
            self.closed.iter().find(|c| self.spaces.hits(c.tag, lin, c.offset & GLOBAL != 0))?.offset
        } else {
            return None;
        };
        let (stores, user) = (offset & STORES != 0, offset & USER != 0);
        // The processor's own accesses are guarded whatever AC says.
        let allowed = (stores || !access.write) && !(user && access.rights == Rights::Guarded);
        allowed.then_some(Translation {
            physical: 0,
            kind: PageKind::Memory { offset: offset & !OFFSET, writable: stores },
            write: stores,
            // Which size exactly was noted when it was entered.
            shift: if offset & LARGE != 0 { 21 } else { 12 },
            global: offset & GLOBAL != 0,
            user,
        })
    }

    /// Drops write permission everywhere: marks of written pages were collected.
    pub fn protect_all(&mut self) {
        self.entries().for_each(|e| e.write = 0);
        self.writers.fill([0; 2]);
        self.fast.protect_all();
    }

    /// The physical page of the code at `lin`, if cached.
    #[inline]
    #[must_use]
    pub fn code_hit(&mut self, lin: u64, user: bool) -> Option<u64> {
        self.code.hit(lin, user, &self.spaces)
    }

    /// Enters a code translation.
    pub fn code_fill(&mut self, lin: u64, user: bool, t: &Translation) {
        if t.is_large() {
            self.note_large(lin, t.shift);
        }
        self.code.fill(lin, user, t, &self.spaces);
    }

    /// A number that changes whenever the code at a linear address, as it is run at CPL 3 (`user`) or further in, may have
    /// become another.
    #[inline(always)]
    #[must_use]
    pub fn code_epoch(&self, user: bool) -> u64 {
        self.code.epoch(user, self.spaces.generation())
    }

    /// What remembers code addresses shall look them up anew.
    pub fn renew_code(&mut self) {
        self.code.flushed();
    }

    /// What backs the physical page `page`, if it is known.
    #[inline(always)]
    #[must_use]
    pub fn kind(&self, page: u64) -> Option<PageKind> {
        let number = (page >> 12) as usize;
        if self.plain.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 != 0) {
            return Some(PageKind::Memory { offset: page, writable: true });
        }
        let (tag, kind) = self.kinds[(page >> 12) as usize & (KINDS - 1)];
        (tag == page | 1).then_some(kind)
    }

    /// Remembers what backs a physical page, until all translations are dropped.
    pub fn note_kind(&mut self, page: u64, kind: PageKind) {
        let number = (page >> 12) as usize;
        match self.plain.get_mut(number / 64) {
            Some(word) if kind == (PageKind::Memory { offset: page, writable: true }) => *word |= 1 << (number % 64),
            _ => self.kinds[number & (KINDS - 1)] = (page | 1, kind),
        }
    }

    /// Drops every translation, and what is known of physical pages.
    pub fn flush_all(&mut self) {
        self.plain.fill(0);
        self.kinds.fill((0, PageKind::Device));
        self.flush(true);
    }

    /// Drops every translation of every address space, but those of global pages only if `global`.
    pub fn flush(&mut self, global: bool) {
        let again = self.spaces.flush(global);
        if global {
            self.fast.clear();
            self.code.flushed();
        }
        self.renewed(again);
    }

    /// Switches to the address space `pcid`; its cached translations are kept if `keep`.
    pub fn switch(&mut self, pcid: u16, keep: bool) {
        let again = self.spaces.switch(pcid, keep);
        self.renewed(again);
    }

    /// Forgets the translations of another address space, `pcid`.
    pub fn forget(&mut self, pcid: u16) {
        self.spaces.forget(pcid);
    }

    /// The address space is another one; with `again` its number may be on old entries.
    fn renewed(&mut self, again: bool) {
        self.fast.clear_local();
        self.code.switched();
        if again {
            self.fast.clear();
            self.entries().for_each(|e| *e = EMPTY);
            self.in_use.fill(false);
            self.closed.fill(Closed::default());
            self.code.flushed();
            self.writers.fill([0; 2]);
            self.large = [const { Pages::NONE }; 2];
        }
    }

    /// Drops the translation of one page, of the whole large page if it is (part of) one (SDM 3A, 4.10.4.1).
    pub fn invalidate(&mut self, lin: u64) {
        let large = self.may_be_large(lin);
        self.fast.drop_one(lin, false);
        self.fast.drop_one(lin, true);
        for part in [SYSTEM_PART, USER_PART] {
            let e = &mut self.entries[Self::index(lin) | part];
            (e.read, e.write) = (0, 0);
        }
        for c in self.closed.iter_mut().filter(|c| large || (c.tag ^ lin) & !OFFSET == 0) {
            c.tag = 0;
        }
        self.code.invalidate(lin, large, &self.spaces);
        if large {
            self.fast.clear();
            // Where all of it may be, whichever of the sizes up to 4 MiB it has, or up to 1 GiB.
            let shift = if self.large[1].may_hold(lin >> 30) { 30 } else { 22 };
            let first = Self::index(lin >> shift << shift);
            let places = first..first + ENTRIES.min(1 << (shift - 12));
            for part in [SYSTEM_PART, USER_PART] {
                let places = part + places.start..part + places.end;
                for e in self.entries_in(places).filter(|e| e.offset & LARGE != 0 && e.read >> shift == lin >> shift) {
                    (e.read, e.write) = (0, 0);
                }
            }
        }
    }
}
