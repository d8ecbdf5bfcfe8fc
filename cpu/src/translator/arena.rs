//! Code memory, and the way into and out of it.
//!
//! This is one of the few modules with `unsafe`. The memory is one file that is mapped twice: written through one mapping,
//! executed through the other; no page is ever writable and executable through one mapping.

use std::fs::File;

use memmap2::{Mmap, MmapMut, MmapOptions};

/// Bytes of code that are kept; when they are full, all are dropped.
const SIZE: usize = 64 << 20;

/// Code memory.
pub struct Arena {
    writable: MmapMut,
    executable: Mmap,
    used: usize,
}

impl Arena {
    /// Fresh code memory.
    ///
    /// # Errors
    /// If the host does not allow executable memory.
    pub fn new() -> std::io::Result<Self> {
        let file = File::from(rustix::fs::memfd_create("softmetal-code", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.set_len(SIZE as u64)?;
        // SAFETY: the file is ours alone and stays as long as it is; only `append` and `patch` write to it, through bytes
        // that Rust never holds a reference to while it executes them.
        let (writable, executable) = unsafe { (MmapOptions::new().map_mut(&file)?, MmapOptions::new().map_exec(&file)?) };
        Ok(Self { writable, executable, used: 0 })
    }

    /// The address that the next code will run at.
    pub fn next(&self) -> u64 {
        self.executable.as_ptr() as u64 + self.used as u64
    }

    /// Room for `len` bytes.
    pub fn has_room(&self, len: usize) -> bool {
        SIZE - self.used >= len
    }

    /// Appends code (there must be room) that was made for [`Arena::next`]; its address.
    pub fn append(&mut self, code: &[u8]) -> u64 {
        let at = self.next();
        self.writable[self.used..self.used + code.len()].copy_from_slice(code);
        self.used = (self.used + code.len()).next_multiple_of(16).min(SIZE);
        at
    }

    /// Overwrites code at a host address.
    pub fn patch(&mut self, address: u64, bytes: &[u8]) {
        let at = (address - self.executable.as_ptr() as u64) as usize;
        self.writable[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Drops all code but the first `keep` bytes.
    pub fn truncate(&mut self, keep: usize) {
        self.used = keep;
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
// The oldest compiler supported takes `__cpuid` for unsafe, newer ones do not.
#[allow(unused_unsafe)]
pub fn host_is_amd() -> bool {
    // SAFETY: every 64-bit processor has CPUID.
    let id = unsafe { std::arch::x86_64::__cpuid(0) };
    (id.ebx, id.edx, id.ecx) == (u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"enti"), u32::from_le_bytes(*b"cAMD"))
}
