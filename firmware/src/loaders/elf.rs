//! ELF executables, 32 and 64 bits wide (System V ABI): program headers, segments and notes.

use std::ops::Range;

use super::too_little;
use crate::bytes::{array, range, u16_at, u32_at, u64_at};
use crate::error::LoadError;
use crate::layout::{LOW_RAM_MAX, PhysWriter};

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// More than any linker makes.
const MAX_SEGMENTS: u16 = 1024;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;

/// A program header.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    kind: u32,
    offset: u64,
    virtual_address: u64,
    physical_address: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

/// An ELF file whose headers have been read.
#[derive(Debug)]
pub struct Elf<'a> {
    file: &'a [u8],
    /// The entry point, as a virtual address.
    pub entry: u64,
    segments: Vec<Segment>,
}

fn bad(why: &'static str) -> LoadError {
    LoadError::Malformed { format: "ELF kernel", why }
}

impl<'a> Elf<'a> {
    /// Reads the headers.
    ///
    /// # Errors
    /// A file that is truncated, no ELF, or not for x86.
    pub fn parse(file: &'a [u8]) -> Result<Self, LoadError> {
        let truncated = |needed| LoadError::Truncated { what: "kernel", needed, has: file.len() as u64 };
        let Some([0x7F, b'E', b'L', b'F', class, 1]) = array(file, 0) else {
            return Err(bad("the magic number is missing, or it is big-endian"));
        };
        let wide = match class {
            1 => false,
            2 => true,
            _ => return Err(bad("it is neither 32 nor 64 bits wide")),
        };
        let short = truncated(if wide { 64 } else { 52 });
        let word = |at| u16_at(file, at).ok_or(short.clone());
        let address = |at32, at64| if wide { u64_at(file, at64) } else { u32_at(file, at32).map(u64::from) }.ok_or(short.clone());
        if !matches!(word(18)?, EM_386 | EM_X86_64) {
            return Err(bad("it is for another processor, not x86"));
        }
        let entry = address(24, 24)?;
        let table = address(28, 32)?;
        let (size, count) = if wide { (word(54)?, word(56)?) } else { (word(42)?, word(44)?) };
        if count == 0 {
            return Err(bad("it has no program headers"));
        }
        if count > MAX_SEGMENTS {
            return Err(bad("it has too many program headers"));
        }
        if size < if wide { 56 } else { 32 } {
            return Err(bad("its program headers are too small"));
        }
        let len = u64::from(size) * u64::from(count);
        let headers = range(file, table, len).ok_or(truncated(table.saturating_add(len)))?;
        let segments = headers
            .chunks_exact(size.into())
            .map(|h| if wide { Segment::wide(h) } else { Segment::narrow(h) })
            .collect::<Option<_>>()
            .ok_or(short)?;
        Ok(Self { file, entry, segments })
    }

    /// Copies the loadable segments to their physical addresses and clears the rest of them; the ranges they occupy.
    ///
    /// # Errors
    /// A file that is truncated, or segments where there is no RAM.
    pub fn load(&self, writer: &PhysWriter<'_>) -> Result<Vec<Range<u64>>, LoadError> {
        let mut ranges = Vec::new();
        for s in self.segments.iter().filter(|s| s.kind == PT_LOAD && s.memory_size > 0) {
            if s.memory_size < s.file_size {
                return Err(bad("a segment is larger in the file than in memory"));
            }
            let end = s.physical_address.checked_add(s.memory_size).ok_or(bad("a segment wraps around"))?;
            let bytes = self.bytes(s)?;
            if end > writer.layout().low() && end <= LOW_RAM_MAX {
                return Err(too_little("kernel", end, writer));
            }
            claim(s.physical_address, s.memory_size, writer)?;
            if ranges.iter().any(|r: &Range<u64>| r.start < end && s.physical_address < r.end) {
                return Err(bad("its segments overlap"));
            }
            writer.write(s.physical_address, bytes)?;
            writer.zero(s.physical_address + s.file_size, s.memory_size - s.file_size)?;
            ranges.push(s.physical_address..end);
        }
        if ranges.is_empty() {
            return Err(bad("it has nothing to load"));
        }
        Ok(ranges)
    }

    /// The physical address of the entry point, if a segment holds it; else the entry point as it is.
    #[must_use]
    pub fn physical_entry(&self) -> u64 {
        self.segments
            .iter()
            .filter(|s| s.kind == PT_LOAD)
            .find(|s| self.entry.wrapping_sub(s.virtual_address) < s.memory_size)
            .map_or(self.entry, |s| s.physical_address.wrapping_add(self.entry.wrapping_sub(s.virtual_address)))
    }

    /// The content of the first note of this owner and type.
    ///
    /// # Errors
    /// A file that is truncated.
    pub fn note(&self, owner: &[u8], kind: u32) -> Result<Option<&'a [u8]>, LoadError> {
        for s in self.segments.iter().filter(|s| s.kind == PT_NOTE) {
            let align = if s.align == 8 { 8 } else { 4 };
            if let Some(found) = find_note(self.bytes(s)?, align, owner, kind) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn bytes(&self, s: &Segment) -> Result<&'a [u8], LoadError> {
        range(self.file, s.offset, s.file_size).ok_or(LoadError::Truncated {
            what: "kernel",
            needed: s.offset.saturating_add(s.file_size),
            has: self.file.len() as u64,
        })
    }
}

impl Segment {
    fn wide(h: &[u8]) -> Option<Self> {
        Some(Self {
            kind: u32_at(h, 0)?,
            offset: u64_at(h, 8)?,
            virtual_address: u64_at(h, 16)?,
            physical_address: u64_at(h, 24)?,
            file_size: u64_at(h, 32)?,
            memory_size: u64_at(h, 40)?,
            align: u64_at(h, 48)?,
        })
    }

    fn narrow(h: &[u8]) -> Option<Self> {
        let field = |i: usize| u32_at(h, i * 4).map(u64::from);
        Some(Self {
            kind: u32_at(h, 0)?,
            offset: field(1)?,
            virtual_address: field(2)?,
            physical_address: field(3)?,
            file_size: field(4)?,
            memory_size: field(5)?,
            align: field(7)?,
        })
    }
}

fn find_note<'a>(mut notes: &'a [u8], align: usize, owner: &[u8], kind: u32) -> Option<&'a [u8]> {
    loop {
        let (name_len, desc_len) = (u32_at(notes, 0)? as usize, u32_at(notes, 4)? as usize);
        let desc_at = 12usize.checked_add(name_len)?.checked_next_multiple_of(align)?;
        let end = desc_at.checked_add(desc_len)?;
        let name = notes.get(12..12usize.checked_add(name_len)?)?;
        let desc = notes.get(desc_at..end)?;
        if name == owner && u32_at(notes, 8)? == kind {
            return Some(desc);
        }
        notes = notes.get(end.checked_next_multiple_of(align)?..)?;
    }
}

/// Checks that a kernel may be put at `address`: RAM, and neither the BIOS data nor the firmware's tables.
///
/// # Errors
/// [`LoadError::NotRam`] if not.
pub fn claim(address: u64, len: u64, writer: &PhysWriter<'_>) -> Result<(), LoadError> {
    use crate::layout::{EBDA_BASE, TABLES};
    let end = address.saturating_add(len);
    let ours = [0..0x1000, EBDA_BASE..TABLES.end];
    if writer.layout().offset(address, len).is_none() || ours.iter().any(|r| address < r.end && r.start < end) {
        return Err(LoadError::NotRam { address, len });
    }
    Ok(())
}
