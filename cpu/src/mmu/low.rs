//! Memory in the lowest 2 GiB of the host's address space, where code reaches it by a displacement, without a register.
//!
//! This is one of the few modules with `unsafe`: it maps the memory, and gives it back.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// MAP_32BIT of `mmap(2)`: in the lowest 2 GiB.
const LOWEST: MapFlags = MapFlags::from_bits_retain(0x40);

/// Words that are 0 at first; the host commits memory only for what is used.
pub struct Low {
    words: NonNull<u64>,
    len: usize,
}

// SAFETY: the memory belongs to this value alone.
unsafe impl Send for Low {}

impl Low {
    /// `len` of them; elsewhere if there is no room in the lowest 2 GiB.
    pub fn new(len: usize) -> Self {
        let layout = std::alloc::Layout::array::<u64>(len).unwrap_or_else(|_| unreachable!("the tables are small"));
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the host chooses an address where nothing is.
        let map = |flags| unsafe { mmap_anonymous(std::ptr::null_mut(), layout.size(), access, flags) };
        let mapped = map(MapFlags::PRIVATE | LOWEST).or_else(|_| map(MapFlags::PRIVATE)).ok();
        let words = mapped.and_then(|p| NonNull::new(p.cast()));
        Self { words: words.unwrap_or_else(|| std::alloc::handle_alloc_error(layout)), len }
    }

    /// Gives the memory back and asks the host for large pages of it, which are worth their size where much is used: all words become
    /// 0, or stay as they are if it refuses.
    pub fn renew(&mut self) {
        for advice in [Advice::LinuxDontNeed, Advice::LinuxHugepage] {
            // SAFETY: the mapping is private and of no file, so what is given back is 0 again; nobody else has it meanwhile.
            let _ = unsafe { madvise(self.words.as_ptr().cast(), self.len * size_of::<u64>(), advice) };
        }
    }

    /// Where the first word is, if that is in the lowest 2 GiB.
    pub fn address(&self) -> Option<i32> {
        i32::try_from(self.words.as_ptr() as usize).ok()
    }
}

impl Deref for Low {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        // SAFETY: mapped for so many words, all initialized, until this is dropped.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.len) }
    }
}

impl DerefMut for Low {
    fn deref_mut(&mut self) -> &mut [u64] {
        // SAFETY: as above, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_ptr(), self.len) }
    }
}

impl Drop for Low {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and nobody reaches it any more.
        let _ = unsafe { munmap(self.words.as_ptr().cast(), self.len * size_of::<u64>()) };
    }
}
