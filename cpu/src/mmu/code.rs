//! The TLB of code, and what the caches of code addresses (links between blocks, jump caches) are valid by.
//!
//! Such a cache keeps the *epoch* of its privilege with what it remembers. The epoch changes whenever the code at a linear
//! address may have become another: when the address space changes (for the system only if code was run that is not in
//! global pages, since global pages are the same in all), and when a page is invalidated on which code was found.

use softmetal_bus::PAGE_SIZE;

use super::spaces::Spaces;
use super::tlb::Translation;

const OFFSET: u64 = PAGE_SIZE as u64 - 1;
const ENTRIES: usize = 512;

#[derive(Clone, Copy, Default)]
struct Entry {
    /// Linear page | generation.
    tag: u64,
    user: bool,
    large: bool,
    global: bool,
    physical: u64,
}

/// A set of pages, which may seem to hold more than were put in.
#[derive(Clone)]
pub struct Pages([u64; 256]);

impl Pages {
    pub const NONE: Self = Self([0; 256]);

    const fn place(page: u64) -> (usize, u64) {
        (page as usize >> 6 & 255, 1 << (page & 63))
    }

    pub fn add(&mut self, page: u64) {
        let (word, bit) = Self::place(page);
        self.0[word] |= bit;
    }

    pub fn may_hold(&self, page: u64) -> bool {
        let (word, bit) = Self::place(page);
        self.0[word] & bit != 0
    }
}

/// Translations of code.
pub struct CodeTlb {
    entries: Box<[Entry; ENTRIES]>,
    /// By privilege (user is 1): changes of the epoch that are not changes of the address space.
    changes: [u64; 2],
    /// By privilege: pages that code was found on since then.
    pages: [Pages; 2],
    /// The system's code was found on a page that is not global, since the address space changed last.
    local: bool,
}

impl CodeTlb {
    pub fn new() -> Self {
        Self { entries: Box::new([Entry::default(); ENTRIES]), changes: [0; 2], pages: [Pages::NONE; 2], local: false }
    }

    fn note(&mut self, lin: u64, user: bool, global: bool) {
        self.pages[usize::from(user)].add(lin >> 12);
        self.local |= !user && !global;
    }

    /// The physical address of the code at `lin`, if it is here.
    pub fn hit(&mut self, lin: u64, user: bool, spaces: &Spaces) -> Option<u64> {
        let e = self.entries[(lin >> 12) as usize & (ENTRIES - 1)];
        if e.user != user || !spaces.hits(e.tag, lin, e.global) {
            return None;
        }
        self.note(lin, user, e.global);
        Some(e.physical | (lin & OFFSET))
    }

    pub fn fill(&mut self, lin: u64, user: bool, t: &Translation, spaces: &Spaces) {
        self.note(lin, user, t.global);
        self.entries[(lin >> 12) as usize & (ENTRIES - 1)] =
            Entry { tag: spaces.tag(lin), user, large: t.is_large(), global: t.global, physical: t.physical & !OFFSET };
    }

    /// What the caches of code addresses at a privilege are valid by; `generation` is that of the address space.
    #[inline(always)]
    pub fn epoch(&self, user: bool, generation: u64) -> u64 {
        self.changes[usize::from(user)] << 16 | if user { generation } else { 0 }
    }

    fn change(&mut self, user: bool) {
        let privilege = usize::from(user);
        self.changes[privilege] += 1;
        self.pages[privilege] = Pages::NONE;
    }

    /// The address space is another one.
    pub fn switched(&mut self) {
        if std::mem::take(&mut self.local) {
            self.change(false);
        }
    }

    /// No translation counts any more, those of global pages included.
    pub fn flushed(&mut self) {
        self.local = false;
        self.change(false);
        self.change(true);
    }

    /// Tags are about to repeat.
    pub fn clear(&mut self) {
        self.entries.fill(Entry::default());
        self.flushed();
    }

    /// Drops the page of `lin`; with `large`, it may be part of a large one.
    pub fn invalidate(&mut self, lin: u64, large: bool) {
        for user in [false, true] {
            if large || self.pages[usize::from(user)].may_hold(lin >> 12) {
                self.change(user);
            }
        }
        self.entries[(lin >> 12) as usize & (ENTRIES - 1)] = Entry::default();
        if large {
            self.entries.iter_mut().filter(|e| e.large && e.tag >> 30 == lin >> 30).for_each(|e| *e = Entry::default());
        }
    }
}
