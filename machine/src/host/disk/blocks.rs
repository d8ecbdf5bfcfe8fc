//! Read-only images that are a table of blocks: VDI, VHD, VHDX.

use softmetal_bus::{BlockBackend, BlockError};

use super::file::ImageFile;
use super::image::bytes::{le32, le64};
use super::image::{Extent, Format, Image, pieces};
use crate::error::UserError;

/// In a table: the block takes no room and reads as zeros.
pub const HOLE: u64 = u64::MAX;

/// An image of equal blocks that are anywhere in the file.
pub struct Blocks {
    file: ImageFile,
    format: Format,
    size: u64,
    block: u64,
    /// Room is taken in blocks.
    unit: Option<u64>,
    /// Offsets in the file.
    table: Vec<u64>,
}

impl Blocks {
    /// Of `size` bytes in blocks of `block` bytes at the offsets of `table`.
    ///
    /// # Errors
    /// A sentence when they do not fit together.
    pub fn open(file: ImageFile, format: Format, size: u64, block: u64, table: Vec<u64>) -> Result<Self, UserError> {
        if size == 0 || size % 512 != 0 || size > i64::MAX as u64 {
            return Err(file.damaged(format_args!("it is of {size} bytes")));
        }
        if size.div_ceil(block) > table.len() as u64 {
            return Err(file.damaged("its table is too short for its size"));
        }
        Ok(Self { file, format, size, block, unit: Some(block), table })
    }

    /// Of one block at the start of the file.
    ///
    /// # Errors
    /// A sentence when it is empty.
    pub fn flat(file: ImageFile, format: Format, size: u64) -> Result<Self, UserError> {
        Ok(Self { unit: None, ..Self::open(file, format, size, size.max(512), vec![0])? })
    }
}

impl BlockBackend for Blocks {
    fn size(&self) -> u64 {
        self.size
    }
    fn read_only(&self) -> bool {
        true
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.check(offset, buf.len() as u64, false)?;
        for (block, within, range) in pieces(self.block, offset, buf.len()) {
            match self.table[block as usize] {
                HOLE => buf[range].fill(0),
                at => {
                    let at = at.checked_add(within).ok_or_else(|| self.file.damage("a block past all ends"))?;
                    self.file.read(at, &mut buf[range])?;
                }
            }
        }
        Ok(())
    }
    fn write_at(&mut self, _offset: u64, _buf: &[u8]) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        Ok(())
    }
}

impl Image for Blocks {
    fn format(&self) -> Format {
        self.format
    }
    fn extent(&mut self, offset: u64) -> Result<Extent, BlockError> {
        let first = (offset / self.block) as usize;
        let left = (self.block - offset % self.block).min(self.size - offset);
        Ok(match self.table[first] {
            HOLE => Extent { len: left, zero: true },
            at => {
                let (data, len) = self.file.run(at.saturating_add(offset % self.block), left);
                Extent { len, zero: !data }
            }
        })
    }
    fn file(&self) -> &ImageFile {
        &self.file
    }
    fn cluster_size(&self) -> Option<u64> {
        self.unit
    }
    fn table_bytes(&self) -> u64 {
        self.table.len() as u64 * 8
    }
}

/// Opens a VirtualBox image (version 1.1 of the format).
///
/// # Errors
/// A sentence.
pub fn open_vdi(file: ImageFile) -> Result<Blocks, UserError> {
    let header = file.take("header", 0, 512)?;
    if le32(&header, 0x40) != 0xbeda_107f {
        return Err(file.damaged("it is no VDI"));
    }
    let version = le32(&header, 0x44);
    if version >> 16 != 1 {
        return Err(file.unsupported(format_args!("is a VDI of version {}.{}", version >> 16, version & 0xffff)));
    }
    let (kind, table, data) = (le32(&header, 0x4c), le32(&header, 0x154), u64::from(le32(&header, 0x158)));
    let (size, block, extra) = (le64(&header, 0x170), le32(&header, 0x178), le32(&header, 0x17c));
    let blocks = u64::from(le32(&header, 0x180));
    if !matches!(kind, 1 | 2) {
        return Err(file.unsupported("is a VDI that depends on another one"));
    }
    if !block.is_power_of_two() || !(4096..=256 << 20).contains(&block) || extra != 0 {
        return Err(file.damaged(format_args!("its blocks are of {block} bytes and {extra} more")));
    }
    let block = u64::from(block);
    let entries = file.take("block table", table.into(), blocks * 4)?;
    // The two largest values: never written, and known to be zero.
    let place = |e: u32| if e >= 0xffff_fffe { HOLE } else { data + u64::from(e) * block };
    let table = entries.chunks_exact(4).map(|e| place(le32(e, 0))).collect();
    Blocks::open(file, Format::Vdi, size.next_multiple_of(512), block, table)
}

/// VHDX: of the region table, little-endian GUIDs.
const BAT: [u8; 16] = *b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08";
const METADATA: [u8; 16] = *b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e";
/// VHDX: of the metadata table.
const PARAMETERS: [u8; 16] = *b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b";
const SIZE: [u8; 16] = *b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8";
const LOGICAL_SECTOR: [u8; 16] = *b"\x1d\xbf\x41\x81\x6f\xa9\x09\x47\xba\x47\xf2\x33\xa8\xfa\xab\x5f";

/// Whether the checksum at byte 4 of a structure is right: CRC-32C over it, with zeros in the place of the sum.
fn crc_is_right(structure: &[u8]) -> bool {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let bytes = structure[..4].iter().chain(&[0; 4]).chain(&structure[8..]);
    let crc = bytes
        .fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 != 0 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 }));
    !crc == le32(structure, 4)
}

/// Opens a Hyper-V image ([MS-VHDX]).
///
/// # Errors
/// A sentence.
pub fn open_vhdx(file: ImageFile) -> Result<Blocks, UserError> {
    // Of the two headers the one with the larger sequence number counts.
    let headers = [file.take("header", 64 << 10, 4096)?, file.take("header", 128 << 10, 4096)?];
    let header = headers.iter().filter(|h| h.starts_with(b"head") && crc_is_right(h)).max_by_key(|h| le64(h, 8));
    let header = header.ok_or_else(|| file.damaged("it has no header"))?;
    if header[48..64] != [0; 16] {
        return Err(UserError(format!(
            "the image {} was not closed properly (its log holds changes); open it once with the program that wrote it",
            file.path().display()
        )));
    }
    // There are two of the region table, too.
    let regions = [192 << 10, 256 << 10].map(|at| file.take("region table", at, 64 << 10));
    let sound = |regions: &Vec<u8>| regions.starts_with(b"regi") && crc_is_right(regions);
    let regions = regions.into_iter().flatten().find(sound).ok_or_else(|| file.damaged("it has no region table"))?;
    let entry = |table: &[u8], first: usize, guid: &[u8; 16]| {
        table[first..].chunks_exact(32).take(2047).find(|e| e[..16] == *guid).map(<[u8]>::to_vec)
    };
    let missing = |what: &str| file.damaged(format_args!("it has no {what}"));
    let metadata = entry(&regions, 16, &METADATA).ok_or_else(|| missing("metadata"))?;
    let bat = entry(&regions, 16, &BAT).ok_or_else(|| missing("block table"))?;
    let base = le64(&metadata, 16);
    let items = file.take("metadata", base, 64 << 10)?;
    let item = |what: &str, guid: &[u8; 16]| {
        let e = entry(&items, 32, guid).ok_or_else(|| missing(what))?;
        file.take(what, base.saturating_add(le32(&e, 16).into()), 8)
    };
    let parameters = item("file parameters", &PARAMETERS)?;
    let size = le64(&item("size", &SIZE)?, 0);
    let sector = u64::from(le32(&item("sector size", &LOGICAL_SECTOR)?, 0));
    let block = u64::from(le32(&parameters, 0));
    if le32(&parameters, 4) & 2 != 0 {
        return Err(file.unsupported("is a VHDX that depends on another one"));
    }
    if !block.is_power_of_two() || !(1 << 20..=256 << 20).contains(&block) || !matches!(sector, 512 | 4096) {
        return Err(file.damaged(format_args!("its blocks are of {block} bytes, its sectors of {sector}")));
    }
    // After each so many blocks there is an entry of a bitmap, which only files with a parent use.
    let chunk = (sector << 23) / block;
    let blocks = size.div_ceil(block);
    let entries = blocks.saturating_add(blocks.saturating_sub(1) / chunk);
    if entries.saturating_mul(8) > u64::from(le32(&bat, 24)) {
        return Err(file.damaged("its table is too short for its size"));
    }
    let entries = file.take("block table", le64(&bat, 16), entries * 8)?;
    let mut table = Vec::with_capacity(blocks as usize);
    for i in 0..blocks {
        let e = le64(&entries, ((i + i / chunk) * 8) as usize);
        table.push(match e & 7 {
            6 => e & !0xf_ffff,
            7 => return Err(file.damaged("a block is partly present")),
            _ => HOLE,
        });
    }
    Blocks::open(file, Format::Vhdx, size, block, table)
}
