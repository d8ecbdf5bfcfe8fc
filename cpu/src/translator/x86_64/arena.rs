//! Code memory, and the way into and out of it.
//!
//! This is one of the few modules with `unsafe`. The memory is one file that is mapped twice: written through one mapping,
//! executed through the other; no page is ever writable and executable through one mapping.
//!
//! The first half is for the straight ways through blocks, the second for what is rare, so that code which runs lies close
//! together.

use std::fs::File;

use memmap2::{Advice, Mmap, MmapMut, MmapOptions, UncheckedAdvice};

/// Bytes of code that are kept of each kind; when either is full, all are dropped.
const SIZE: usize = 64 << 20;

/// The size of the host's large pages.
const CHUNK: usize = 2 << 20;

/// So much is committed at once: a fault for each page, in either mapping, would cost the host several times as much.
const STEP: usize = 128 << 10;
const _: () = assert!(SIZE % STEP == 0 && CHUNK % STEP == 0, "what is committed lies within a half, and a large page");

/// Code memory.
pub struct Arena {
    writable: MmapMut,
    executable: Mmap,
    /// Bytes in use of the first half, ...
    used: usize,
    /// ... and of the second.
    used_aside: usize,
}

/// Host addresses of the next code of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Of the straight ways.
    pub straight: u64,
    /// Of what is rare.
    pub aside: u64,
}

impl Arena {
    /// Fresh code memory.
    ///
    /// # Errors
    /// If the host does not allow executable memory.
    pub fn new() -> std::io::Result<Self> {
        let file = File::from(rustix::fs::memfd_create("softmetal-code", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.set_len(2 * SIZE as u64)?;
        // SAFETY: the file is ours alone and stays as long as it is; only `append` and `patch` write to it, through bytes
        // that Rust never holds a reference to while it executes them.
        let (writable, executable) = unsafe { (MmapOptions::new().map_mut(&file)?, MmapOptions::new().map_exec(&file)?) };
        // Programs with much code miss the host's instruction TLB less. It is a hint: a host that has no large pages goes on.
        let _ = executable.advise(Advice::HugePage);
        Ok(Self { writable, executable, used: 0, used_aside: 0 })
    }

    /// The addresses that the next code will run at.
    pub fn next(&self) -> Origin {
        let start = self.executable.as_ptr() as u64;
        Origin { straight: start + self.used as u64, aside: start + (SIZE + self.used_aside) as u64 }
    }

    /// Room for `len` bytes of each kind.
    pub fn has_room(&self, len: usize) -> bool {
        SIZE - self.used.max(self.used_aside) >= len
    }

    /// Appends code (there must be room) that was made for [`Arena::next`].
    pub fn append(&mut self, straight: &[u8], aside: &[u8]) {
        let before = (self.used / CHUNK, self.used_aside / CHUNK);
        for (code, start, used) in [(straight, 0, &mut self.used), (aside, SIZE, &mut self.used_aside)] {
            let at = start + *used;
            *used += code.len();
            let end = (start + *used).next_multiple_of(STEP);
            for step in (at.next_multiple_of(STEP)..end).step_by(STEP) {
                // The first who touches a large page decides that it is one. These are hints: each page is there at its first access.
                let _ = self.executable.advise_range(Advice::PopulateRead, step, STEP);
                let _ = self.writable.advise_range(Advice::PopulateWrite, step, STEP);
            }
            self.writable[at..][..code.len()].copy_from_slice(code);
        }
        if before != (self.used / CHUNK, self.used_aside / CHUNK) {
            self.let_go();
        }
    }

    /// What is written need not be mapped a second time until it is patched.
    fn let_go(&mut self) {
        // SAFETY: the pages are those of a file that stays, so their bytes do; nobody has a reference into the mapping.
        let _ = unsafe { self.writable.unchecked_advise(UncheckedAdvice::DontNeed) };
    }

    /// `len` bytes of code.
    pub fn bytes(&self, address: u64, len: usize) -> &[u8] {
        &self.writable[(address - self.executable.as_ptr() as u64) as usize..][..len]
    }

    /// Overwrites code at a host address.
    pub fn patch(&mut self, address: u64, bytes: &[u8]) {
        let at = (address - self.executable.as_ptr() as u64) as usize;
        self.writable[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Drops all code but the first `keep` bytes.
    pub fn truncate(&mut self, keep: usize) {
        (self.used, self.used_aside) = (keep, 0);
    }
}

/// Calls the code at `entry` (made by [`super::thunks`], for this signature) with the processor's address and where to go.
///
/// # Safety
/// `entry` and `target` are code of a live [`Arena`]; `cpu` is exclusively the caller's and what the code was made for.
pub unsafe fn call(entry: u64, cpu: *mut crate::Cpu, target: u64) -> u64 {
    // SAFETY: the caller's promise; the function keeps to the System V calling convention.
    let f = unsafe { std::mem::transmute::<usize, extern "sysv64" fn(*mut crate::Cpu, u64) -> u64>(entry as usize) };
    f(cpu, target)
}

/// Whether the host's processor is AMD's.
#[allow(unused_unsafe, reason = "the oldest compiler supported takes `__cpuid` for unsafe, newer ones do not")]
pub fn host_is_amd() -> bool {
    // SAFETY: every 64-bit processor has CPUID.
    let id = unsafe { std::arch::x86_64::__cpuid(0) };
    (id.ebx, id.edx, id.ecx) == (u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"enti"), u32::from_le_bytes(*b"cAMD"))
}
