//! The part of the TLB that translated code looks at by itself.
//!
//! **Invariant:** what is here is also in the TLB proper, so a hit here never spares a walk that the interpreter would make.
//!
//! A tag is the page's linear address, negated: adding it to an address of the page leaves the offset, in the page that code
//! expects the sum in ([`Fast::expect`]). An empty place has the tag of a page that belongs elsewhere: 0, so that the host commits
//! memory only for what is used. But where that would be the tag of the place's own page, or of the next, into which an access may
//! run over, it is the tag of a page far away.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::low::Low;
use super::tlb::ENTRIES;

const OFFSET: u64 = 0xfff;

/// Which of the places of a page.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// For CPL 3.
    pub user: bool,
    /// It stays when the address space changes.
    pub global: bool,
}

/// Bits of [`Fast::listed`].
const LOCAL: u8 = 1;
const GLOBAL: u8 = 2;

/// The tables, of which each privilege has its own.
#[derive(Clone, Copy)]
pub enum Column {
    /// Pages that loads may hit.
    Read,
    /// Pages that stores may hit.
    Write,
    /// What is added to a linear address to make the host's.
    Host,
}

impl Column {
    /// Where that of a privilege begins among all words.
    pub const fn start(self, user: bool) -> usize {
        (2 * self as usize + user as usize) * ENTRIES
    }
}

/// As many pages in use are more than the host's own TLB has entries for.
const MANY: usize = 4096;

/// Words of all tables.
const WORDS: usize = 6 * ENTRIES;

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
type Low = Box<[u64]>;

/// Places by index and privilege (user is 1).
pub struct Fast {
    /// All tables.
    words: Low,
    /// Places that may not be empty: those whose page is not global, ...
    local: Vec<(u32, bool)>,
    /// ... and those whose page is.
    global: Vec<(u32, bool)>,
    /// Which of these lists each place is in.
    listed: [Box<[u8]>; 2],
    /// The part of the TLB proper that each privilege's places are from.
    parts: [usize; 2],
    /// The number of the page that tag and address are expected to give an address of.
    sum: usize,
    /// There have been many pages in use.
    large: bool,
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn words() -> Low {
    Low::new(WORDS)
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn words() -> Low {
    vec![0; WORDS].into()
}

/// Has the host use large pages for tables that are empty.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn renew(words: &mut Low) {
    words.renew();
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn renew(_: &mut Low) {}

fn index(lin: u64) -> usize {
    (lin >> 12) as usize & (ENTRIES - 1)
}

impl Fast {
    pub(super) fn new() -> Self {
        let listed = [(); 2].map(|()| vec![0; ENTRIES].into());
        let mut fast = Self { words: words(), local: Vec::new(), global: Vec::new(), listed, parts: [0; 2], sum: 0, large: false };
        fast.empty_ends();
        fast
    }

    /// Where 0 would be the tag of the place's own page, or of the next.
    const fn ends(&self) -> [usize; 2] {
        [self.sum, self.sum.wrapping_sub(1) & (ENTRIES - 1)]
    }

    /// The tag of place `i` while it is empty.
    const fn empty(&self, i: usize) -> u64 {
        let [this, before] = self.ends();
        if i == this || i == before { (ENTRIES as u64 / 2) << 12 } else { 0 }
    }

    /// Empties the places whose tags are not 0 then.
    fn empty_ends(&mut self) {
        for user in [false, true] {
            self.ends().into_iter().for_each(|i| self.set_tags(i, user, [self.empty(i); 2]));
        }
    }

    /// From now on, code expects the sum of tag and address in page `page`, one of the first few. All is empty.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    pub(crate) fn expect(&mut self, page: usize) {
        self.clear();
        self.ends().into_iter().for_each(|i| [false, true].into_iter().for_each(|user| self.set_tags(i, user, [0; 2])));
        self.sum = page;
        self.empty_ends();
    }

    /// Empties all, for tables that need fewer entries of the host's TLB.
    #[cold]
    fn enlarge(&mut self) {
        self.large = true;
        self.clear();
        renew(&mut self.words);
        self.empty_ends();
    }

    /// Where all tables begin, on the host; none if code cannot reach that by a displacement.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    pub(crate) fn address(&self) -> Option<i32> {
        self.words.address()
    }

    fn word(&mut self, column: Column, i: usize, user: bool) -> &mut u64 {
        &mut self.words[column.start(user) + i]
    }

    /// Sets what loads and stores hit in place `i`.
    fn set_tags(&mut self, i: usize, user: bool, [read, write]: [u64; 2]) {
        *self.word(Column::Read, i, user) = read;
        *self.word(Column::Write, i, user) = write;
    }

    /// From now on the places of a privilege are from `part` of the TLB proper.
    #[inline(always)]
    pub(super) fn select(&mut self, part: usize, user: bool) {
        if self.parts[usize::from(user)] != part {
            self.parts[usize::from(user)] = part;
            self.clear();
        }
    }

    /// Enters the page of `lin`, whose bytes are at `host`.
    pub(super) fn fill(&mut self, lin: u64, place: Place, host: u64, stores: bool) {
        if !self.large && self.local.len() + self.global.len() > MANY {
            self.enlarge();
        }
        let (i, h) = (index(lin), usize::from(place.user));
        let page = lin & !OFFSET;
        let tag = ((self.sum as u64) << 12).wrapping_sub(page);
        let (list, bit) = if place.global { (&mut self.global, GLOBAL) } else { (&mut self.local, LOCAL) };
        if self.listed[h][i] & bit == 0 {
            self.listed[h][i] |= bit;
            list.push((i as u32, place.user));
        }
        self.set_tags(i, place.user, [tag, if stores { tag } else { self.empty(i) }]);
        *self.word(Column::Host, i, place.user) = host.wrapping_sub(page);
    }

    /// Empties the place of `lin` for one privilege.
    pub(super) fn drop_one(&mut self, lin: u64, user: bool) {
        let i = index(lin);
        self.set_tags(i, user, [self.empty(i); 2]);
    }

    /// Stores to the page of `lin` no longer hit.
    pub(super) fn protect(&mut self, lin: u64) {
        let i = index(lin);
        for user in [false, true] {
            *self.word(Column::Write, i, user) = self.empty(i);
        }
    }

    /// No stores hit.
    pub(super) fn protect_all(&mut self) {
        for &(i, user) in self.local.iter().chain(&self.global) {
            self.words[Column::Write.start(user) + i as usize] = self.empty(i as usize);
        }
    }

    /// Empties all but the places of global pages.
    pub(super) fn clear_local(&mut self) {
        let mut local = std::mem::take(&mut self.local);
        self.empty_places(&mut local, LOCAL);
        self.local = local;
    }

    /// Empties all.
    pub(super) fn clear(&mut self) {
        self.clear_local();
        let mut global = std::mem::take(&mut self.global);
        self.empty_places(&mut global, GLOBAL);
        self.global = global;
    }

    fn empty_places(&mut self, list: &mut Vec<(u32, bool)>, bit: u8) {
        for (i, user) in list.drain(..) {
            let i = i as usize;
            self.set_tags(i, user, [self.empty(i); 2]);
            self.listed[usize::from(user)][i] &= !bit;
        }
    }
}
