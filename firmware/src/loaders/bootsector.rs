//! A boot sector, or any flat real-mode program: loaded at 0000:7C00 as a BIOS does.

use crate::bda;
use crate::entry::Entry;
use crate::error::LoadError;
use crate::layout::{EBDA_BASE, PhysWriter};

/// Where boot sectors run.
pub const LOAD_ADDRESS: u64 = 0x7C00;
/// The BIOS number of the first hard disk.
const FIRST_DISK: u8 = 0x80;

/// Loads `image` at 0x7C00. There are no BIOS services: all interrupt vectors return at once.
///
/// # Errors
/// An empty image, or one that does not fit in conventional memory.
pub fn load(image: &[u8], writer: &PhysWriter<'_>) -> Result<Entry, LoadError> {
    if image.is_empty() {
        return Err(LoadError::Empty { what: "boot sector" });
    }
    let len = image.len() as u64;
    if len > EBDA_BASE - LOAD_ADDRESS {
        return Err(LoadError::TooLarge { what: "boot sector image", bytes: len, limit: EBDA_BASE });
    }
    bda::write_vectors(writer)?;
    writer.write(LOAD_ADDRESS, image)?;
    let at = LOAD_ADDRESS as u16;
    Ok(Entry::Real { cs: 0, ip: at, sp: at, dl: FIRST_DISK })
}
