//! The state in which the first processor starts: plain data, which the machine puts into its processor.

use std::ops::Range;

use crate::error::LoadError;
use crate::layout::{EBDA_BASE, PhysWriter};

/// The code selector of the loaders' descriptor table.
pub const CODE_SELECTOR: u16 = 0x10;
/// The data selector of the loaders' descriptor table: DS, ES, SS (FS and GS too).
pub const DATA_SELECTOR: u16 = 0x18;
/// The task selector of the loaders' descriptor table.
pub const TASK_SELECTOR: u16 = 0x20;

/// A descriptor table in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gdt {
    /// The physical (and linear) address.
    pub base: u64,
    /// The limit in bytes, as GDTR holds it: the size minus one.
    pub limit: u16,
}

/// How to start the first processor. RFLAGS is 2 (interrupts off); registers that are not named are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Real mode, as after reset but for these; the other segments are zero.
    Real {
        /// The code segment (its base is 16 times this).
        cs: u16,
        /// The offset in it.
        ip: u16,
        /// The stack pointer, in segment zero.
        sp: u16,
        /// The BIOS number of the boot drive.
        dl: u8,
    },
    /// Protected mode at ring 0 without paging, CR0 = PE | ET. CS is [`CODE_SELECTOR`], the data segments are
    /// [`DATA_SELECTOR`], all with base 0, limit 4 GiB, 32 bits; TR is [`TASK_SELECTOR`], a busy 32-bit TSS of base 0 and
    /// limit 0x67. IDTR is empty.
    Protected {
        /// Where to start.
        eip: u32,
        /// EAX.
        eax: u32,
        /// EBX.
        ebx: u32,
        /// ESI.
        esi: u32,
        /// ESP: the top of a small stack.
        esp: u32,
        /// The descriptor table in memory.
        gdt: Gdt,
    },
    /// Long mode at ring 0 with the first 4 GiB mapped one to one: CR0 = PG | PE | ET, CR4 = PAE, EFER = LME | LMA. CS is
    /// [`CODE_SELECTOR`] (64-bit), the data segments are [`DATA_SELECTOR`]. IDTR is empty.
    Long {
        /// Where to start.
        rip: u64,
        /// RSI.
        rsi: u64,
        /// RSP: the top of a small stack.
        rsp: u64,
        /// The page tables.
        cr3: u64,
        /// The descriptor table in memory.
        gdt: Gdt,
    },
}

/// Hands out conventional memory (0x1000 to the EBDA), around what the kernel itself occupies.
#[derive(Debug)]
pub struct LowMemory {
    taken: Vec<Range<u64>>,
}

impl LowMemory {
    /// All of it but the ranges in `taken`.
    #[must_use]
    pub fn new(taken: &[Range<u64>]) -> Self {
        Self { taken: taken.to_vec() }
    }

    /// The first free `len` bytes on a multiple of `align` (a power of two).
    ///
    /// # Errors
    /// [`LoadError::NotRam`] if conventional memory is full.
    pub fn take(&mut self, len: u64, align: u64) -> Result<u64, LoadError> {
        let mut at = 0x1000u64;
        loop {
            at = at.next_multiple_of(align);
            let end = at.saturating_add(len);
            if end > EBDA_BASE {
                return Err(LoadError::NotRam { address: at, len });
            }
            match self.taken.iter().find(|t| t.start < end && at < t.end) {
                Some(hit) => at = hit.end.min(EBDA_BASE),
                None => {
                    self.taken.push(at..end);
                    return Ok(at);
                }
            }
        }
    }

    /// Takes room for `bytes` and writes them there; the address.
    ///
    /// # Errors
    /// [`LoadError::NotRam`] if conventional memory is full.
    pub fn put(&mut self, writer: &PhysWriter<'_>, bytes: &[u8], align: u64) -> Result<u64, LoadError> {
        let at = self.take(bytes.len() as u64, align)?;
        writer.write(at, bytes)?;
        Ok(at)
    }

    /// Takes a page for a stack; its top.
    ///
    /// # Errors
    /// [`LoadError::NotRam`] if conventional memory is full.
    pub fn stack(&mut self) -> Result<u64, LoadError> {
        Ok(self.take(0x1000, 0x1000)? + 0x1000)
    }

    /// Writes a descriptor table with flat segments; 64-bit code if `long`.
    ///
    /// # Errors
    /// [`LoadError::NotRam`] if conventional memory is full.
    pub fn gdt(&mut self, writer: &PhysWriter<'_>, long: bool) -> Result<Gdt, LoadError> {
        let code: u64 = if long { 0x00AF_9B00_0000_FFFF } else { 0x00CF_9B00_0000_FFFF };
        let table = [0, 0, code, 0x00CF_9300_0000_FFFF, 0x0000_8B00_0000_0067, 0];
        let bytes: Vec<u8> = table.iter().flat_map(|d: &u64| d.to_le_bytes()).collect();
        Ok(Gdt { base: self.put(writer, &bytes, 16)?, limit: bytes.len() as u16 - 1 })
    }

    /// Writes page tables that map the first 4 GiB one to one with 2 MiB pages; the address for CR3.
    ///
    /// # Errors
    /// [`LoadError::NotRam`] if conventional memory is full.
    pub fn identity_map(&mut self, writer: &PhysWriter<'_>) -> Result<u64, LoadError> {
        const PRESENT_WRITABLE: u64 = 3;
        const LARGE: u64 = 0x80;
        let pml4 = self.take(6 * 0x1000, 0x1000)?;
        let (pdpt, directories) = (pml4 + 0x1000, pml4 + 0x2000);
        writer.zero(pml4, 0x2000)?;
        writer.write(pml4, &(pdpt | PRESENT_WRITABLE).to_le_bytes())?;
        for i in 0..4 {
            let entry = (directories + i * 0x1000) | PRESENT_WRITABLE;
            writer.write(pdpt + i * 8, &entry.to_le_bytes())?;
        }
        let entries: Vec<u8> = (0..2048u64).flat_map(|i| (i << 21 | PRESENT_WRITABLE | LARGE).to_le_bytes()).collect();
        writer.write(directories, &entries)?;
        Ok(pml4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_memory_goes_around_what_is_taken() {
        let mut low = LowMemory::new(&[0x1800..0x2004, 0..0x1100]);
        assert_eq!(low.take(0x100, 0x10).unwrap(), 0x1100);
        assert_eq!(low.take(0x1000, 0x10).unwrap(), 0x2010);
        assert!(low.take(0xA_0000, 1).is_err());
        assert!(low.take(u64::MAX, 1).is_err());
        let everything = 0..u64::MAX;
        assert!(LowMemory::new(&[everything]).take(1, 1).is_err());
    }
}
