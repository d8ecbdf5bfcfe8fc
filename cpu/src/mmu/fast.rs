//! The part of the TLB that translated code looks at by itself.
//!
//! **Invariant:** what is here is also in the TLB proper, so a hit here never spares a walk that the interpreter would make.
//!
//! A tag is the page's linear address, negated: adding it to an address of the page leaves the offset. An empty place has
//! the tag of a page that belongs elsewhere.

use super::tlb::ENTRIES;

const OFFSET: u64 = 0xfff;

/// Places by index and privilege (user is 1).
#[repr(C, align(64))]
pub struct Fast {
    /// Pages that loads may hit.
    pub(crate) read: [[u64; ENTRIES]; 2],
    /// Pages that stores may hit.
    pub(crate) write: [[u64; ENTRIES]; 2],
    /// What is added to a linear address to make the host's.
    pub(crate) host: [[u64; ENTRIES]; 2],
    /// Places that may not be empty.
    filled: Vec<(u16, u8)>,
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
        Self { read: tags, write: tags, host: [[0; ENTRIES]; 2], filled: Vec::new(), parts: [0; 2] }
    }

    /// From now on the places of a privilege are from `part` of the TLB proper.
    #[inline(always)]
    pub(super) fn select(&mut self, part: usize, user: bool) {
        if self.parts[usize::from(user)] != part {
            self.replace(part, user);
        }
    }

    #[cold]
    fn replace(&mut self, part: usize, user: bool) {
        self.parts[usize::from(user)] = part;
        let Self { read, write, filled, .. } = self;
        filled.retain(|&(i, h)| {
            let (n, half) = (usize::from(i), usize::from(h));
            let goes = half == usize::from(user);
            if goes {
                (read[half][n], write[half][n]) = (empty(n), empty(n));
            }
            !goes
        });
    }

    /// Enters the page of `lin` for the privilege, whose bytes are at `host`.
    pub(super) fn fill(&mut self, lin: u64, user: bool, host: u64, stores: bool) {
        let (i, h) = (index(lin), usize::from(user));
        let page = lin & !OFFSET;
        if self.read[h][i] == empty(i) {
            self.filled.push((i as u16, h as u8));
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
        for &(i, h) in &self.filled {
            self.write[usize::from(h)][usize::from(i)] = empty(i.into());
        }
    }

    /// Empties all.
    pub(super) fn clear(&mut self) {
        for (i, h) in self.filled.drain(..) {
            let (i, h) = (usize::from(i), usize::from(h));
            (self.read[h][i], self.write[h][i]) = (empty(i), empty(i));
        }
    }
}
