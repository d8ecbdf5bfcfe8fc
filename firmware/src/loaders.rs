//! The loaders of kernels, one file a format. Each takes bytes, writes guest memory and answers the [`Entry`](crate::Entry).

pub mod bootsector;
pub mod bzimage;
pub mod elf;
pub mod multiboot;
pub mod pvh;

use std::ops::Range;

use crate::error::LoadError;
use crate::layout::{EXTENDED_BASE, PhysWriter};
use crate::source::Source;

/// A file that is loaded along with the kernel.
#[derive(Clone)]
pub struct Module<'a> {
    /// Its content.
    pub content: &'a dyn Source,
    /// Its own command line (multiboot and PVH).
    pub cmdline: &'a str,
}

const PAGE: u64 = 4096;

/// `text` as a C string.
fn c_string(text: &str) -> Result<Vec<u8>, LoadError> {
    if text.contains('\0') {
        return Err(LoadError::NulInCommandLine);
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    Ok(bytes)
}

/// Copies files into RAM one after the other, each on a multiple of `align`, all as high as the end of RAM and `limit` (an
/// address that they must not reach) permit, above `floor`. The ranges they got.
fn place_high(modules: &[Module<'_>], align: u64, floor: u64, limit: u64, writer: &PhysWriter<'_>) -> Result<Vec<Range<u64>>, LoadError> {
    if modules.iter().any(|m| m.content.size() == 0) {
        return Err(LoadError::Empty { what: "initrd" });
    }
    let size: u64 = modules.iter().map(|m| m.content.size().next_multiple_of(align)).sum();
    let floor = floor.max(EXTENDED_BASE).next_multiple_of(PAGE);
    let top = writer.layout().low().min(limit) & !(PAGE - 1);
    let needed = size.next_multiple_of(PAGE).saturating_add(floor);
    if needed > top {
        return Err(if needed > limit {
            LoadError::TooLarge { what: "initrd", bytes: size, limit }
        } else {
            too_little("initrd", needed, writer)
        });
    }
    let mut at = (top - size) & !(PAGE - 1);
    let mut ranges = Vec::new();
    for module in modules {
        let end = at + module.content.size();
        writer.copy(at, module.content, 0..end - at)?;
        ranges.push(at..end);
        at = end.next_multiple_of(align);
    }
    Ok(ranges)
}

/// RAM up to `end` is needed and is not there: more would help if it appears below 4 GiB.
fn too_little(what: &'static str, end: u64, writer: &PhysWriter<'_>) -> LoadError {
    let layout = writer.layout();
    if end > crate::layout::LOW_RAM_MAX {
        LoadError::TooLarge { what, bytes: end, limit: crate::layout::LOW_RAM_MAX }
    } else {
        LoadError::TooLittleRam { what, needed: end, has: layout.ram_bytes() }
    }
}
