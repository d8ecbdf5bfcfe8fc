//! The PVH boot ABI (Xen, docs/misc/pvh.pandoc): an ELF kernel whose note names a 32-bit entry point.

use super::elf::Elf;
use super::{PAGE, c_string, place_high};
use crate::Boot;
use crate::acpi::RSDP_ADDRESS;
use crate::bytes::{Fields, u32_at, u64_at};
use crate::entry::{Entry, LowMemory};
use crate::error::LoadError;
use crate::layout::{HIGH_RAM_BASE, PhysWriter};

/// XEN_ELFNOTE_PHYS32_ENTRY.
const PHYS32_ENTRY: u32 = 18;
/// XEN_HVM_START_MAGIC_VALUE.
const MAGIC: u32 = 0x336E_C578;

/// Loads an ELF kernel with a PVH note; modules go as high as possible.
///
/// # Errors
/// A kernel that is truncated, malformed or has no note; too little RAM.
pub fn load(boot: &Boot<'_>, writer: &PhysWriter<'_>) -> Result<Entry, LoadError> {
    let file = boot.kernel.all()?;
    let elf = Elf::parse(&file)?;
    let note = elf.note(b"Xen\0", PHYS32_ENTRY)?.ok_or(LoadError::NoEntryNote)?;
    let entry = if note.len() >= 8 { u64_at(note, 0) } else { u32_at(note, 0).map(u64::from) };
    let eip = entry
        .and_then(|e| u32::try_from(e).ok())
        .ok_or(LoadError::Malformed { format: "PVH kernel", why: "its entry note holds no 32-bit address" })?;
    let kernel = elf.load(writer)?;
    let end = kernel.iter().filter(|r| r.end <= HIGH_RAM_BASE).map(|r| r.end).max().unwrap_or(0);
    let modules = place_high(&boot.modules, PAGE, end, HIGH_RAM_BASE, writer)?;

    let mut low = LowMemory::new(&kernel);
    let mut list = Vec::new();
    for (module, range) in boot.modules.iter().zip(&modules) {
        let cmdline = match module.cmdline {
            "" => 0,
            text => low.put(writer, &c_string(text)?, 8)?,
        };
        let mut entry = Fields::new(32);
        entry.u64(0, range.start).u64(8, range.end - range.start).u64(16, cmdline);
        list.extend_from_slice(entry.as_slice());
    }
    let list = low.put(writer, &list, 8)?;
    let cmdline = low.put(writer, &c_string(boot.cmdline)?, 8)?;
    let e820 = writer.layout().e820();
    let mut map = Fields::new(24 * e820.len());
    for (i, entry) in e820.iter().enumerate() {
        map.u64(i * 24, entry.base).u64(i * 24 + 8, entry.len).u32(i * 24 + 16, entry.kind as u32);
    }
    let map = low.put(writer, map.as_slice(), 8)?;

    let mut info = Fields::new(56);
    info.u32(0, MAGIC)
        .u32(4, 1)
        .u32(12, modules.len() as u32)
        .u64(16, if modules.is_empty() { 0 } else { list })
        .u64(24, cmdline)
        .u64(32, RSDP_ADDRESS)
        .u64(40, map)
        .u32(48, e820.len() as u32);
    let info = low.put(writer, info.as_slice(), 8)?;
    Ok(Entry::Protected { eip, eax: 0, ebx: info as u32, esi: 0, esp: low.stack()? as u32, gdt: low.gdt(writer, false)? })
}
