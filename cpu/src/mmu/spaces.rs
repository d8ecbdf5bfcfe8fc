//! Address spaces: the generation that tags of translations carry, and which PCID it belongs to.

use softmetal_bus::PAGE_SIZE;

const OFFSET: u64 = PAGE_SIZE as u64 - 1;
/// Generations before tags repeat: they lie below a page's address.
const GENERATIONS: u16 = OFFSET as u16;

/// Which tags are valid now.
pub struct Spaces {
    current: u64,
    next: u16,
    /// Tags of global pages are valid from this generation on.
    global_since: u64,
    /// The generation that belongs to each PCID, 0 if none.
    by_pcid: Box<[u16; 4096]>,
}

impl Spaces {
    pub fn new() -> Self {
        Self { current: 1, next: 2, global_since: 1, by_pcid: Box::new([0; 4096]) }
    }

    /// The number of the address space, from 1 on.
    #[inline(always)]
    pub fn generation(&self) -> u64 {
        self.current
    }

    /// The tag of a translation of `lin`.
    #[inline(always)]
    pub fn tag(&self, lin: u64) -> u64 {
        (lin & !OFFSET) | self.current
    }

    /// Whether a translation with this tag (0 is none) is one of `lin` now.
    pub fn hits(&self, tag: u64, lin: u64, global: bool) -> bool {
        let generation = tag & OFFSET;
        (tag ^ lin) & !OFFSET == 0 && (generation == self.current || global && generation >= self.global_since)
    }

    /// Goes to the address space of `pcid`, to what is known of it if `keep`. True if numbers repeat from here on.
    #[must_use]
    pub fn switch(&mut self, pcid: u16, keep: bool) -> bool {
        let slot = usize::from(pcid & 0xfff);
        if keep && self.by_pcid[slot] != 0 {
            self.current = u64::from(self.by_pcid[slot]);
            return false;
        }
        let again = self.fresh();
        self.by_pcid[slot] = self.current as u16;
        again
    }

    /// Forgets what is known of `pcid`.
    pub fn forget(&mut self, pcid: u16) {
        self.by_pcid[usize::from(pcid & 0xfff)] = 0;
    }

    /// Forgets all address spaces; of global pages too, if `global`. True if numbers repeat from here on.
    #[must_use]
    pub fn flush(&mut self, global: bool) -> bool {
        self.by_pcid.fill(0);
        let again = self.fresh();
        if global {
            self.global_since = self.current;
        }
        again
    }

    fn fresh(&mut self) -> bool {
        let again = self.next > GENERATIONS;
        if again {
            self.by_pcid.fill(0);
            self.next = 1;
            self.global_since = 1;
        }
        self.current = u64::from(self.next);
        self.next += 1;
        again
    }
}
