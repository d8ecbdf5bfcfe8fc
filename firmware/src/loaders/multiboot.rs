//! The Multiboot Specification 0.6.96 (multiboot 1).

use super::elf::{Elf, claim};
use super::{PAGE, c_string, too_little};
use crate::Boot;
use crate::bytes::{Fields, range, u32_at};
use crate::entry::{Entry, LowMemory};
use crate::error::LoadError;
use crate::layout::{EBDA_BASE, EXTENDED_BASE, HIGH_RAM_BASE, LOW_RAM_MAX, PhysWriter};

const HEADER_MAGIC: u32 = 0x1BAD_B002;
const LOADER_MAGIC: u32 = 0x2BAD_B002;
/// The header lies within this many bytes of the file.
const SEARCH: usize = 8192;

/// Header flags: modules on page boundaries, memory information, a video mode (never given), addresses in the header.
const KNOWN_REQUIREMENTS: u32 = 0b111;
const REQUIREMENTS: u32 = 0xFFFF;
const HAS_ADDRESSES: u32 = 1 << 16;

/// Flags of the information structure.
const INFO_MEMORY: u32 = 1 << 0;
const INFO_CMDLINE: u32 = 1 << 2;
const INFO_MODULES: u32 = 1 << 3;
const INFO_MAP: u32 = 1 << 6;
const INFO_LOADER: u32 = 1 << 9;

/// The offset of the header in a file that begins with `head`, if there is one.
#[must_use]
pub fn find_header(head: &[u8]) -> Option<usize> {
    (0..head.len().min(SEARCH)).step_by(4).find(|&at| {
        let field = |i: usize| u32_at(head, at + i * 4);
        field(0) == Some(HEADER_MAGIC)
            && matches!((field(1), field(2)), (Some(flags), Some(sum))
                if HEADER_MAGIC.wrapping_add(flags).wrapping_add(sum) == 0)
    })
}

fn bad(why: &'static str) -> LoadError {
    LoadError::Malformed { format: "multiboot kernel", why }
}

/// Loads a multiboot kernel; modules follow it on page boundaries.
///
/// # Errors
/// A kernel that is truncated, malformed or wants what we do not have; too little RAM.
pub fn load(boot: &Boot<'_>, writer: &PhysWriter<'_>) -> Result<Entry, LoadError> {
    let file = &boot.kernel.all()?;
    let header = find_header(file).ok_or(bad("the header is missing"))?;
    let flags = u32_at(file, header + 4).unwrap_or(0);
    if flags & REQUIREMENTS & !KNOWN_REQUIREMENTS != 0 {
        return Err(bad("its header requires features that no loader has"));
    }
    let (eip, kernel) = if flags & HAS_ADDRESSES != 0 {
        load_flat(file, header, writer)?
    } else {
        let elf = Elf::parse(file)?;
        let ranges = elf.load(writer)?;
        let entry = u32::try_from(elf.physical_entry()).map_err(|_| bad("its entry point is above 4 GiB"))?;
        (entry, ranges)
    };

    let mut at = kernel.iter().map(|r| r.end).filter(|e| *e <= LOW_RAM_MAX).max().unwrap_or(0).max(EXTENDED_BASE);
    let mut low = LowMemory::new(&kernel);
    let mut list = Vec::new();
    for module in &boot.modules {
        if module.content.size() == 0 {
            return Err(LoadError::Empty { what: "module" });
        }
        at = at.next_multiple_of(PAGE);
        let end = at.saturating_add(module.content.size());
        if end > writer.layout().low() {
            return Err(too_little("kernel with its modules", end, writer));
        }
        writer.copy(at, module.content, 0..module.content.size())?;
        let mut entry = Fields::new(16);
        entry.u32(0, at as u32).u32(4, end as u32).u32(8, low.put(writer, &c_string(module.cmdline)?, 4)? as u32);
        list.extend_from_slice(entry.as_slice());
        at = end;
    }
    let info = information(boot, &list, &mut low, writer)?;
    Ok(Entry::Protected { eip, eax: LOADER_MAGIC, ebx: info, esi: 0, esp: low.stack()? as u32, gdt: low.gdt(writer, false)? })
}

/// Loads by the addresses in the header (section 3.1.3); the entry point and the range that the kernel occupies.
fn load_flat(file: &[u8], header: usize, writer: &PhysWriter<'_>) -> Result<(u32, Vec<std::ops::Range<u64>>), LoadError> {
    let truncated = |needed| LoadError::Truncated { what: "kernel", needed, has: file.len() as u64 };
    let field = |i: usize| u32_at(file, header + i * 4).ok_or(truncated(header as u64 + 32));
    let (header_address, load, load_end, bss_end, entry) = (field(3)?, field(4)?, field(5)?, field(6)?, field(7)?);
    let before = header_address.checked_sub(load).ok_or(bad("its header lies before its load address"))?;
    let start = (header as u64).checked_sub(before.into()).ok_or(bad("its load address lies before the file"))?;
    let len = match load_end {
        0 => file.len() as u64 - start,
        end => end.checked_sub(load).ok_or(bad("its load address lies after its end"))?.into(),
    };
    let bytes = range(file, start, len).ok_or(truncated(start + len))?;
    let end = u64::from(load) + len;
    let bss = match bss_end {
        0 => 0,
        bss_end => u64::from(bss_end).checked_sub(end).ok_or(bad("its bss ends before it starts"))?,
    };
    if end + bss > writer.layout().low() && end + bss < HIGH_RAM_BASE {
        return Err(too_little("kernel", end + bss, writer));
    }
    claim(load.into(), len + bss, writer)?;
    writer.write(load.into(), bytes)?;
    writer.zero(end, bss)?;
    let occupied = load.into()..end + bss;
    Ok((entry, vec![occupied]))
}

/// Writes the information structure (section 3.3) and what it points to; its address.
fn information(boot: &Boot<'_>, modules: &[u8], low: &mut LowMemory, writer: &PhysWriter<'_>) -> Result<u32, LoadError> {
    let e820 = writer.layout().e820();
    let upper = e820.iter().find(|e| e.base == EXTENDED_BASE).map_or(0, |e| e.len >> 10);
    let mut map = Fields::new(24 * e820.len());
    for (i, entry) in e820.iter().enumerate() {
        let at = i * 24;
        map.u32(at, 20).u64(at + 4, entry.base).u64(at + 12, entry.len).u32(at + 20, entry.kind as u32);
    }
    let mut flags = INFO_MEMORY | INFO_CMDLINE | INFO_MAP | INFO_LOADER;
    if !modules.is_empty() {
        flags |= INFO_MODULES;
    }
    let mut info = Fields::new(116);
    info.u32(0, flags)
        .u32(4, (EBDA_BASE >> 10) as u32)
        .u32(8, upper as u32)
        .u32(16, low.put(writer, &c_string(boot.cmdline)?, 4)? as u32)
        .u32(20, (modules.len() / 16) as u32)
        .u32(24, low.put(writer, modules, 4)? as u32)
        .u32(44, map.as_slice().len() as u32)
        .u32(48, low.put(writer, map.as_slice(), 4)? as u32)
        .u32(64, low.put(writer, b"Softmetal\0", 4)? as u32);
    Ok(low.put(writer, info.as_slice(), 4)? as u32)
}
