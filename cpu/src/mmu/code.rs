//! The TLB of code, and what the caches of code addresses (links between blocks, jump caches) are valid by.
//!
//! Such a cache keeps the *epoch* of its privilege with what it remembers. The epoch changes whenever the code at a linear
//! address may have become another: when the address space changes (for the system only if code was run that is not in
//! global pages, since global pages are the same in all), and when a page is invalidated on which code was found.
//!
//! **Invariant:** whether code is walked for does not depend on those caches, so the guest sees the same of its page tables
//! with every engine: a translation leaves this TLB only together with all that was remembered by it, never to make room
//! for another.

use softmetal_bus::PAGE_SIZE;

use super::spaces::Spaces;
use super::tlb::Translation;
use crate::block::Map;

const OFFSET: u64 = PAGE_SIZE as u64 - 1;
/// Bits of an epoch that tell the address space.
const GENERATION_BITS: u32 = 16;
/// So many translations are kept; then all are dropped.
const MOST: usize = 1 << 15;

#[derive(Clone, Copy)]
struct Entry {
    large: bool,
    physical: u64,
    /// What [`CodeTlb::changes`] was when its page was noted last.
    noted: u64,
}

/// What a translation is found by: a tag in which the generation is 0 if the page is global.
const fn key(tag: u64, global: bool) -> u64 {
    if global { tag & !OFFSET } else { tag }
}

/// A set of pages, which may seem to hold more than were put in.
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

/// Whether two epochs of one privilege differ at most by the address space: then either may come back.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub const fn same_but_for_the_space(a: u64, b: u64) -> bool {
    a >> GENERATION_BITS == b >> GENERATION_BITS
}

/// Translations of code.
pub struct CodeTlb {
    /// By privilege (user is 1).
    entries: [Map<Entry>; 2],
    /// The pages that have been in `entries`.
    known: Pages,
    /// By privilege: changes of the epoch that are not changes of the address space.
    changes: [u64; 2],
    /// By privilege: pages that code was found on since then.
    pages: [Map<()>; 2],
    /// The system's code was found on a page that is not global, since the address space changed last.
    local: bool,
}

impl CodeTlb {
    pub fn new() -> Self {
        Self {
            entries: [Map::default(), Map::default()],
            known: Pages::NONE,
            changes: [0; 2],
            pages: [Map::default(), Map::default()],
            local: false,
        }
    }

    /// The physical address of the code at `lin`, if it is here.
    pub fn hit(&mut self, lin: u64, user: bool, spaces: &Spaces) -> Option<u64> {
        let tag = spaces.tag(lin);
        // The system's pages are global as a rule, others are not.
        for global in [!user, user] {
            if let Some(e) = self.entries[usize::from(user)].get_mut(&key(tag, global)) {
                let physical = e.physical | (lin & OFFSET);
                self.local |= !user && !global;
                let changes = self.changes[usize::from(user)];
                if std::mem::replace(&mut e.noted, changes) != changes {
                    self.pages[usize::from(user)].insert(lin >> 12, ());
                }
                return Some(physical);
            }
        }
        None
    }

    pub fn fill(&mut self, lin: u64, user: bool, t: &Translation, spaces: &Spaces) {
        if self.entries[usize::from(user)].len() >= MOST {
            self.flushed();
        }
        self.local |= !user && !t.global;
        self.pages[usize::from(user)].insert(lin >> 12, ());
        self.known.add(lin >> 12);
        let entry = Entry { large: t.is_large(), physical: t.physical & !OFFSET, noted: self.changes[usize::from(user)] };
        self.entries[usize::from(user)].insert(key(spaces.tag(lin), t.global), entry);
    }

    /// What the caches of code addresses at a privilege are valid by; `generation` is that of the address space.
    #[inline(always)]
    pub fn epoch(&self, user: bool, generation: u64) -> u64 {
        self.changes[usize::from(user)] << GENERATION_BITS | if user { generation } else { 0 }
    }

    fn change(&mut self, user: bool) {
        let privilege = usize::from(user);
        self.changes[privilege] += 1;
        self.pages[privilege].clear();
    }

    /// The address space is another one.
    pub fn switched(&mut self) {
        if std::mem::take(&mut self.local) {
            self.change(false);
        }
    }

    /// No translation counts any more, those of global pages included.
    pub fn flushed(&mut self) {
        self.entries.iter_mut().for_each(Map::clear);
        self.known = Pages::NONE;
        self.local = false;
        self.change(false);
        self.change(true);
    }

    /// Drops the page of `lin`; with `large`, it may be part of a large one.
    pub fn invalidate(&mut self, lin: u64, large: bool, spaces: &Spaces) {
        let page = lin >> 12;
        let known = self.known.may_hold(page);
        for user in [false, true] {
            if large || known && self.pages[usize::from(user)].contains_key(&page) {
                self.change(user);
            }
        }
        for entries in &mut self.entries {
            if known {
                entries.remove(&key(spaces.tag(lin), false));
                entries.remove(&key(spaces.tag(lin), true));
            }
            if large {
                entries.retain(|key, e| !(e.large && key >> 30 == lin >> 30));
            }
        }
    }
}
