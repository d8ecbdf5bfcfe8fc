//! The part of the TLB that translated code looks at by itself.
//!
//! **Invariant:** what is here is also in the TLB proper, so a hit here never spares a walk that the interpreter would make.
//!
//! A tag is the page's linear address, negated: adding it to an address of the page leaves the offset. An empty place has
//! the tag of a page that belongs elsewhere.

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

/// Places by index and privilege (user is 1).
#[repr(C, align(64))]
pub struct Fast {
    /// Pages that loads may hit.
    pub(crate) read: [[u64; ENTRIES]; 2],
    /// Pages that stores may hit.
    pub(crate) write: [[u64; ENTRIES]; 2],
    /// What is added to a linear address to make the host's.
    pub(crate) host: [[u64; ENTRIES]; 2],
    /// Places that may not be empty: those whose page is not global, ...
    local: Vec<(u16, u8)>,
    /// ... and those whose page is.
    global: Vec<(u16, u8)>,
    /// Which of these lists each place is in.
    listed: Box<[[u8; ENTRIES]; 2]>,
    /// The part of the TLB proper that each privilege's places are from.
    parts: [usize; 2],
}

const fn empty(index: usize) -> u64 {
    (((index ^ (ENTRIES / 2)) as u64) << 12).wrapping_neg()
}

fn index(lin: u64) -> usize {
    (lin >> 12) as usize & (ENTRIES - 1)
}

impl Fast {
    pub(super) fn new() -> Self {
        let tags = [std::array::from_fn(empty), std::array::from_fn(empty)];
        Self {
            read: tags,
            write: tags,
            host: [[0; ENTRIES]; 2],
            local: Vec::new(),
            global: Vec::new(),
            listed: Box::new([[0; ENTRIES]; 2]),
            parts: [0; 2],
        }
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
        let (i, h) = (index(lin), usize::from(place.user));
        let page = lin & !OFFSET;
        let (list, bit) = if place.global { (&mut self.global, GLOBAL) } else { (&mut self.local, LOCAL) };
        if self.listed[h][i] & bit == 0 {
            self.listed[h][i] |= bit;
            list.push((i as u16, h as u8));
        }
        self.read[h][i] = page.wrapping_neg();
        self.write[h][i] = if stores { page.wrapping_neg() } else { empty(i) };
        self.host[h][i] = host.wrapping_sub(page);
    }

    /// Empties the place of `lin` for one privilege.
    pub(super) fn drop_one(&mut self, lin: u64, user: bool) {
        let (i, h) = (index(lin), usize::from(user));
        (self.read[h][i], self.write[h][i]) = (empty(i), empty(i));
    }

    /// Stores to the page of `lin` no longer hit.
    pub(super) fn protect(&mut self, lin: u64) {
        let i = index(lin);
        for h in [0, 1] {
            self.write[h][i] = empty(i);
        }
    }

    /// No stores hit.
    pub(super) fn protect_all(&mut self) {
        for &(i, h) in self.local.iter().chain(&self.global) {
            self.write[usize::from(h)][usize::from(i)] = empty(i.into());
        }
    }

    /// Empties all but the places of global pages.
    pub(super) fn clear_local(&mut self) {
        let mut local = std::mem::take(&mut self.local);
        self.empty(&mut local, LOCAL);
        self.local = local;
    }

    /// Empties all.
    pub(super) fn clear(&mut self) {
        self.clear_local();
        let mut global = std::mem::take(&mut self.global);
        self.empty(&mut global, GLOBAL);
        self.global = global;
    }

    fn empty(&mut self, list: &mut Vec<(u16, u8)>, bit: u8) {
        for (i, h) in list.drain(..) {
            let (i, h) = (usize::from(i), usize::from(h));
            (self.read[h][i], self.write[h][i]) = (empty(i), empty(i));
            self.listed[h][i] &= !bit;
        }
    }
}
