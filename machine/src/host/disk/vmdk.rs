//! VMware images (Virtual Disk Format 5.0), read only: one sparse file, compressed streams, and descriptors that name
//! several flat or sparse files.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use softmetal_bus::{BlockBackend, BlockError};

use super::chain::Reach;
use super::file::{ImageFile, Lock, shown};
use super::image::bytes::{array, le32, le64};
use super::image::{Extent, Format, Image};
use crate::error::UserError;

const SECTOR: u64 = 512;
const MAGIC: &[u8] = b"KDMV";
/// The longest descriptor, in bytes, and the most files that one may name.
const MAX_DESCRIPTOR: u64 = 1 << 20;
const MAX_PARTS: usize = 1024;
/// Bytes of the grain directories of all files.
const MAX_DIRECTORIES: u64 = 64 << 20;
/// Grain tables that are kept.
const MAX_TABLES: usize = 256;
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;
const ZERO_GRAINS: u32 = 1 << 2;

/// A VMDK.
pub struct Vmdk {
    file: ImageFile,
    size: u64,
    parts: Vec<Part>,
}

/// A piece of the disk.
struct Part {
    start: u64,
    len: u64,
    store: Store,
}

enum Store {
    Zero,
    Flat(ImageFile, u64),
    /// In a file of its own, or in the image itself.
    Sparse(Option<ImageFile>, Box<Sparse>),
}

/// The tables of a sparse file.
struct Sparse {
    capacity: u64,
    grain: u64,
    per_table: u64,
    flags: u32,
    directory: Vec<u32>,
    tables: HashMap<usize, Box<[u32]>>,
    /// The last compressed grain.
    inflated: Option<(u64, Vec<u8>)>,
}

impl Sparse {
    fn parse(file: &ImageFile) -> Result<Self, UserError> {
        let mut header = file.take("header", 0, SECTOR)?;
        if le64(&header, 56) == u64::MAX {
            // Written as a stream: the true header is in the last but one sector.
            header = file.take("footer", file.len().saturating_sub(1024), SECTOR)?;
        }
        let version = le32(&header, 4);
        if !header.starts_with(MAGIC) || !(1..=3).contains(&version) {
            return Err(file.unsupported(format_args!("is a VMDK of version {version}")));
        }
        let (flags, capacity, grain) = (le32(&header, 8), le64(&header, 12), le64(&header, 20));
        let (per_table, directory) = (u64::from(le32(&header, 44)), le64(&header, 56));
        if !grain.is_power_of_two() || !(1..=4096).contains(&grain) || !(1..=4096).contains(&per_table) {
            return Err(file.damaged(format_args!("its grains are of {grain} sectors, {per_table} to a table")));
        }
        if capacity == 0 || capacity > i64::MAX as u64 / SECTOR {
            return Err(file.damaged(format_args!("it is of {capacity} sectors")));
        }
        if flags & COMPRESSED != 0 && u16::from_le_bytes(array(&header, 77)) != 1 {
            return Err(file.unsupported("is a VMDK with an unknown compression"));
        }
        let entries = capacity.div_ceil(grain * per_table);
        let directory = file.take("grain directory", directory.saturating_mul(SECTOR), entries.saturating_mul(4))?;
        Ok(Self {
            capacity: capacity * SECTOR,
            grain: grain * SECTOR,
            per_table,
            flags,
            directory: directory.chunks_exact(4).map(|e| le32(e, 0)).collect(),
            tables: HashMap::new(),
            inflated: None,
        })
    }

    /// Where the grain of `offset` is; `None` if it is all zeros.
    fn place(&mut self, file: &ImageFile, offset: u64) -> std::io::Result<Option<u64>> {
        let grain = offset / self.grain;
        let (table, index) = ((grain / self.per_table) as usize, (grain % self.per_table) as usize);
        let at = self.directory.get(table).copied().unwrap_or(0);
        if at == 0 {
            return Ok(None);
        }
        if !self.tables.contains_key(&table) {
            if self.tables.len() >= MAX_TABLES {
                self.tables.clear();
            }
            let mut bytes = vec![0; self.per_table as usize * 4];
            file.read(u64::from(at) * SECTOR, &mut bytes)?;
            self.tables.insert(table, bytes.chunks_exact(4).map(|e| le32(e, 0)).collect());
        }
        Ok(match self.tables[&table][index] {
            0 => None,
            1 if self.flags & ZERO_GRAINS != 0 => None,
            sector => Some(u64::from(sector) * SECTOR),
        })
    }

    /// Reads within one grain.
    fn read(&mut self, file: &ImageFile, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        let Some(at) = self.place(file, offset)? else {
            buf.fill(0);
            return Ok(());
        };
        let within = offset % self.grain;
        if self.flags & COMPRESSED == 0 {
            return file.read(at + within, buf);
        }
        if self.inflated.as_ref().is_none_or(|(kept, _)| *kept != at) {
            self.inflated = None;
            // With markers: the sector number and the length; without: the length alone.
            let mut marker = [0; 12];
            file.read(at, &mut marker)?;
            let (len, skip) = if self.flags & MARKERS != 0 { (le32(&marker, 8), 12) } else { (le32(&marker, 0), 4) };
            if u64::from(len) > 2 * self.grain + SECTOR {
                return Err(file.damage("a compressed grain is too long"));
            }
            let mut packed = vec![0; len as usize];
            file.read(at + skip, &mut packed)?;
            let mut grain = Vec::with_capacity(self.grain as usize);
            flate2::read::ZlibDecoder::new(&packed[..])
                .take(self.grain)
                .read_to_end(&mut grain)
                .map_err(|e| file.damage(format_args!("a compressed grain: {e}")))?;
            grain.resize(self.grain as usize, 0);
            self.inflated = Some((at, grain));
        }
        let grain = self.inflated.as_ref().map(|(_, g)| g).expect("it was inflated above");
        buf.copy_from_slice(&grain[within as usize..][..buf.len()]);
        Ok(())
    }
}

/// Bytes of the grain directories of `parts`.
fn directories(parts: &[Part]) -> u64 {
    let sparse = parts.iter().filter_map(|part| if let Store::Sparse(_, s) = &part.store { Some(s) } else { None });
    sparse.map(|s| s.directory.len() as u64 * 4).sum()
}

/// The words of a descriptor's line; quoted ones may have spaces.
fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (word, next) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word);
        rest = next.trim_start();
    }
    words
}

impl Vmdk {
    /// Opens `file`; the files that it names must be within `reach`.
    ///
    /// # Errors
    /// A sentence.
    pub fn open(file: ImageFile, reach: &Reach) -> Result<Self, UserError> {
        let mut magic = [0; 4];
        file.read(0, &mut magic).map_err(|e| UserError::file("image", file.path(), &e))?;
        if magic == *b"COWD" {
            return Err(file.unsupported("is a VMDK of an ESX server"));
        }
        if magic == MAGIC {
            let header = file.take("header", 0, SECTOR)?;
            let (at, sectors) = (le64(&header, 28), le64(&header, 36));
            if at != 0 {
                let text = file.take("descriptor", at.saturating_mul(SECTOR), sectors.saturating_mul(SECTOR).min(MAX_DESCRIPTOR))?;
                Self::refuse_parents(&file, &String::from_utf8_lossy(&text))?;
            }
            let sparse = Sparse::parse(&file)?;
            let size = sparse.capacity;
            let parts = vec![Part { start: 0, len: size, store: Store::Sparse(None, Box::new(sparse)) }];
            return Ok(Self { file, size, parts });
        }
        if file.len() > MAX_DESCRIPTOR {
            return Err(file.damaged("its descriptor is too long"));
        }
        let text = file.take("descriptor", 0, file.len())?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Self::refuse_parents(&file, &text)?;
        let mut parts = Vec::new();
        let mut size = 0u64;
        for line in text.lines() {
            let words = words(line);
            if !matches!(words.first(), Some(&("RW" | "RDONLY" | "NOACCESS"))) {
                continue;
            }
            if parts.len() == MAX_PARTS {
                return Err(file.damaged(format_args!("it names more than {MAX_PARTS} files")));
            }
            let bad = || file.damaged(format_args!("the line `{}` of its descriptor", shown(line.trim())));
            let sectors: u64 = words.get(1).and_then(|w| w.parse().ok()).ok_or_else(bad)?;
            let len = sectors.checked_mul(SECTOR).filter(|l| size.checked_add(*l).is_some_and(|s| s <= i64::MAX as u64)).ok_or_else(bad)?;
            let part = |words: &[&str]| {
                words.get(3).ok_or_else(bad).and_then(|n| ImageFile::open(&reach.resolve(&file, Path::new(n))?, Lock::Shared))
            };
            let store = match words.get(2) {
                Some(&"ZERO") => Store::Zero,
                Some(&("FLAT" | "VMFS")) => {
                    let at = words.get(4).map_or(Ok(0), |w| w.parse::<u64>()).map_err(|_| bad())?;
                    Store::Flat(part(&words)?, at.checked_mul(SECTOR).ok_or_else(bad)?)
                }
                Some(&"SPARSE") => {
                    let part = part(&words)?;
                    let sparse = Sparse::parse(&part)?;
                    if sparse.capacity < len {
                        return Err(part.damaged("it is smaller than the descriptor says"));
                    }
                    Store::Sparse(Some(part), Box::new(sparse))
                }
                other => {
                    return Err(file.unsupported(format_args!("has a part of the kind {}", shown(other.unwrap_or(&"nothing")))));
                }
            };
            parts.push(Part { start: size, len, store });
            if directories(&parts) > MAX_DIRECTORIES {
                return Err(file.damaged("its grain directories are too long"));
            }
            size += len;
        }
        if size == 0 {
            return Err(file.damaged("its descriptor names no disk"));
        }
        Ok(Self { file, size, parts })
    }

    fn refuse_parents(file: &ImageFile, descriptor: &str) -> Result<(), UserError> {
        if descriptor.lines().any(|l| l.trim_start().starts_with("parentFileNameHint")) {
            return Err(file.unsupported("is a VMDK that depends on another one"));
        }
        Ok(())
    }

    fn part(&self, offset: u64) -> usize {
        self.parts.partition_point(|p| p.start + p.len <= offset)
    }
}

impl BlockBackend for Vmdk {
    fn size(&self) -> u64 {
        self.size
    }
    fn read_only(&self) -> bool {
        true
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.check(offset, buf.len() as u64, false)?;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let index = self.part(at);
            let part = &mut self.parts[index];
            let within = at - part.start;
            let mut n = (part.len - within).min((buf.len() - done) as u64);
            if let Store::Sparse(_, s) = &part.store {
                n = n.min(s.grain - within % s.grain);
            }
            let piece = &mut buf[done..done + n as usize];
            match &mut part.store {
                Store::Zero => piece.fill(0),
                Store::Flat(file, start) => {
                    let at = start.checked_add(within).ok_or_else(|| file.damage("a part past all ends"))?;
                    file.read(at, piece)?;
                }
                Store::Sparse(own, s) => s.read(own.as_ref().unwrap_or(&self.file), within, piece)?,
            }
            done += n as usize;
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

impl Image for Vmdk {
    fn format(&self) -> Format {
        Format::Vmdk
    }
    fn extent(&mut self, offset: u64) -> Result<Extent, BlockError> {
        let index = self.part(offset);
        let part = &mut self.parts[index];
        let within = offset - part.start;
        let left = part.len - within;
        Ok(match &mut part.store {
            Store::Zero => Extent { len: left, zero: true },
            Store::Flat(file, start) => {
                let (data, len) = file.run(start.saturating_add(within), left);
                Extent { len, zero: !data }
            }
            Store::Sparse(own, s) => {
                let zero = s.place(own.as_ref().unwrap_or(&self.file), within)?.is_none();
                // Where there is no table, all that it would cover is alike.
                let covered = s.grain * s.per_table;
                let alike = if zero && s.directory.get((within / covered) as usize).is_none_or(|at| *at == 0) { covered } else { s.grain };
                Extent { len: left.min(alike - within % alike), zero }
            }
        })
    }
    fn file(&self) -> &ImageFile {
        &self.file
    }
    fn cluster_size(&self) -> Option<u64> {
        self.parts.iter().find_map(|part| if let Store::Sparse(_, s) = &part.store { Some(s.grain) } else { None })
    }
    fn allocated(&self) -> u64 {
        let parts = self.parts.iter().filter_map(|part| match &part.store {
            Store::Flat(file, _) | Store::Sparse(Some(file), _) => Some(file.allocated()),
            _ => None,
        });
        self.file.allocated() + parts.sum::<u64>()
    }
    fn table_bytes(&self) -> u64 {
        directories(&self.parts)
    }
}
