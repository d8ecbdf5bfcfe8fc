//! The contents of guest memory at one moment, in pages that are shared between moments.

use std::sync::Arc;

use crate::memory::PAGE_SIZE;

/// Pages in a chunk: what two sets share is found (and kept) a chunk at a time.
const CHUNK: usize = 512;

/// A page's bytes.
pub type Page = [u8; PAGE_SIZE];
type Slot = Option<Arc<Page>>;

/// Pages by number; those that are not held are all zeros. A clone costs a pointer a chunk (2 MiB of guest memory).
#[derive(Clone, Default)]
pub struct PageSet {
    chunks: Vec<Option<Arc<[Slot; CHUNK]>>>,
}

impl PageSet {
    fn slot(&self, n: u64) -> Option<&Arc<Page>> {
        let n = n as usize;
        self.chunks.get(n / CHUNK)?.as_ref()?[n % CHUNK].as_ref()
    }

    /// The bytes of page `n`; `None` if it is all zeros.
    #[must_use]
    pub fn page(&self, n: u64) -> Option<&Page> {
        self.slot(n).map(|page| &**page)
    }

    /// Puts `bytes` in as page `n`; what it holds already stays shared.
    pub fn set(&mut self, n: u64, bytes: &Page) {
        let zero = *bytes == [0; PAGE_SIZE];
        match self.page(n) {
            None if zero => return,
            Some(old) if old == bytes => return,
            _ => {}
        }
        let (chunk, slot) = (n as usize / CHUNK, n as usize % CHUNK);
        if chunk >= self.chunks.len() {
            self.chunks.resize(chunk + 1, None);
        }
        let chunk = self.chunks[chunk].get_or_insert_with(|| Arc::new([const { None }; CHUNK]));
        Arc::make_mut(chunk)[slot] = (!zero).then(|| Arc::new(*bytes));
    }

    /// The numbers of the pages that are not shared with `other`, in order.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<u64> {
        let mut pages = Vec::new();
        for i in 0..self.chunks.len().max(other.chunks.len()) {
            let [mine, theirs] = [self, other].map(|set| set.chunks.get(i).and_then(Option::as_ref));
            if mine.map(Arc::as_ptr) == theirs.map(Arc::as_ptr) {
                continue;
            }
            let first = (i * CHUNK) as u64;
            pages.extend((first..first + CHUNK as u64).filter(|&n| self.slot(n).map(Arc::as_ptr) != other.slot(n).map(Arc::as_ptr)));
        }
        pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_equal_stays_shared() {
        let mut a = PageSet::default();
        a.set(3, &[1; PAGE_SIZE]);
        a.set(600, &[2; PAGE_SIZE]);
        a.set(700, &[0; PAGE_SIZE]);
        let mut b = a.clone();
        b.set(3, &[1; PAGE_SIZE]);
        b.set(600, &[0; PAGE_SIZE]);
        b.set(5000, &[3; PAGE_SIZE]);
        assert_eq!(b.differing(&a), [600, 5000]);
        assert_eq!(a.differing(&b), [600, 5000]);
        assert!(b.page(600).is_none() && a.page(700).is_none());
        assert_eq!(a.page(600), Some(&[2; PAGE_SIZE]));
    }
}
