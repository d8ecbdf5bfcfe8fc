//! Virtual PC images (Virtual Hard Disk Image Format Specification 1.0), read only.

use super::blocks::{Blocks, HOLE};
use super::file::ImageFile;
use super::image::Format;
use super::image::bytes::{be16, be32, be64};
use crate::error::UserError;

const SECTOR: u64 = 512;
const COOKIE: &[u8] = b"conectix";
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
/// The geometry that means "larger than what cylinders, heads and sectors can say".
const MAX_CHS: u64 = 65535 * 16 * 255;
/// Programs whose images are as long as the current size says, not as the geometry does.
const EXACT: [&[u8]; 6] = [b"win ", b"d2v ", b"tap\0", b"vbox", b"wa\0\0", b"qem2"];

/// Whether the sum in a footer or header is right: the complement of the sum of all other bytes.
fn sum_is_right(bytes: &[u8], at: usize) -> bool {
    let all = bytes.iter().fold(0u32, |s, b| s.wrapping_add((*b).into()));
    let own = bytes[at..at + 4].iter().fold(0u32, |s, b| s + u32::from(*b));
    !all.wrapping_sub(own) == be32(bytes, at)
}

/// The size in bytes that a footer tells.
fn size(footer: &[u8]) -> u64 {
    let chs = u64::from(be16(footer, 56)) * u64::from(footer[58]) * u64::from(footer[59]);
    if chs == MAX_CHS || chs == 0 || EXACT.contains(&&footer[28..32]) { be64(footer, 48) / SECTOR * SECTOR } else { chs * SECTOR }
}

/// Whether the file ends as a VHD of fixed size does.
///
/// # Errors
/// The host's.
pub fn has_fixed_footer(file: &ImageFile) -> std::io::Result<bool> {
    let Some(at) = file.len().checked_sub(SECTOR) else {
        return Ok(false);
    };
    let mut footer = [0; SECTOR as usize];
    file.read(at, &mut footer)?;
    Ok(footer.starts_with(COOKIE) && be32(&footer, 60) == FIXED && sum_is_right(&footer, 64) && size(&footer) <= at)
}

/// Opens `file`.
///
/// # Errors
/// A sentence.
pub fn open(file: ImageFile) -> Result<Blocks, UserError> {
    let end = file.len().checked_sub(SECTOR).ok_or_else(|| file.damaged("it is too short"))?;
    let mut footer = file.take("header", 0, SECTOR)?;
    if !footer.starts_with(COOKIE) {
        footer = file.take("footer", end, SECTOR)?;
    }
    if !footer.starts_with(COOKIE) || !sum_is_right(&footer, 64) {
        return Err(file.damaged("its footer has a wrong checksum"));
    }
    let size = size(&footer);
    match be32(&footer, 60) {
        FIXED if size <= end => Blocks::flat(file, Format::Vhd, size),
        FIXED => Err(file.damaged("it is cut short")),
        DYNAMIC => {
            let header = file.take("dynamic header", be64(&footer, 16), 1024)?;
            if !header.starts_with(b"cxsparse") || !sum_is_right(&header, 36) {
                return Err(file.damaged("its dynamic header is wrong"));
            }
            let (entries, block) = (be32(&header, 28), u64::from(be32(&header, 32)));
            if !block.is_power_of_two() || !(SECTOR..=256 << 20).contains(&block) {
                return Err(file.damaged(format_args!("its blocks are of {block} bytes")));
            }
            let table = file.take("block table", be64(&header, 16), u64::from(entries) * 4)?;
            // Each block begins with a bitmap of its sectors, in whole sectors.
            let bitmap = (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
            let place = |e: u32| if e == u32::MAX { HOLE } else { u64::from(e) * SECTOR + bitmap };
            let table = table.chunks_exact(4).map(|e| place(be32(e, 0))).collect();
            Blocks::open(file, Format::Vhd, size, block, table)
        }
        4 => Err(file.unsupported("is a differencing VHD")),
        kind => Err(file.damaged(format_args!("its kind is {kind}"))),
    }
}
