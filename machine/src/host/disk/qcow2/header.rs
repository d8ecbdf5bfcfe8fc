//! The header of a qcow2 image ("qcow2 image format", docs/interop/qcow2 of QEMU).

use crate::error::UserError;
use crate::host::disk::file::ImageFile;
use crate::host::disk::image::bytes::{be16, be32, be64};

/// The first four bytes.
pub const MAGIC: u32 = 0x5146_49fb;
/// The longest L1 table and refcount table that are accepted, in bytes; QEMU's limits.
pub const MAX_L1: u64 = 32 << 20;
pub const MAX_REFTABLE: u64 = 8 << 20;
/// The most internal snapshots, and bytes of their table.
const MAX_SNAPSHOTS: u32 = 65536;
const MAX_SNAPSHOT_TABLE: u64 = 16 << 20;
/// Lengths of the headers of version 2 and 3.
pub const V2_LEN: usize = 72;
pub const V3_LEN: usize = 104;

/// Bits of the incompatible features.
pub mod feature {
    pub const DIRTY: u64 = 1 << 0;
    pub const CORRUPT: u64 = 1 << 1;
    pub const DATA_FILE: u64 = 1 << 2;
    pub const COMPRESSION: u64 = 1 << 3;
    pub const EXTENDED_L2: u64 = 1 << 4;
}

/// Kinds of header extensions.
pub mod extension {
    pub const END: u32 = 0;
    pub const BACKING_FORMAT: u32 = 0xe279_2aca;
    pub const BITMAPS: u32 = 0x2385_2875;
}

/// The file below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// As the header has it.
    pub name: String,
    /// Its format, if the header says.
    pub format: Option<String>,
}

/// What the header says.
#[derive(Clone, Debug)]
pub struct Header {
    pub version: u32,
    pub cluster_bits: u32,
    /// Of the disk, in bytes.
    pub size: u64,
    pub backing: Option<Backing>,
    pub l1_offset: u64,
    pub l1_entries: u32,
    pub reftable_offset: u64,
    pub reftable_clusters: u32,
    pub snapshots: u32,
    pub snapshots_offset: u64,
    pub incompatible: u64,
    pub compatible: u64,
    pub autoclear: u64,
    /// A refcount has 2^this bits.
    pub refcount_order: u32,
    /// Compressed clusters are zstd streams.
    pub zstd: bool,
    /// There are dirty bitmaps, whose clusters are not looked at.
    pub bitmaps: bool,
}

/// An internal snapshot.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub id: String,
    pub name: String,
    pub l1_offset: u64,
    pub l1_entries: u32,
    /// Of the disk at that time, in bytes.
    pub disk_size: Option<u64>,
    pub vm_state: u64,
    pub seconds: u32,
    pub nanoseconds: u32,
    pub vm_clock: u64,
    /// Bytes of its entry in the table.
    pub len: u64,
}

impl Header {
    /// Reads and checks the header of `file`.
    ///
    /// # Errors
    /// A sentence when it is damaged or needs what is not there.
    pub fn parse(file: &ImageFile) -> Result<Self, UserError> {
        let h = file.take("header", 0, V2_LEN as u64)?;
        let (magic, version) = (be32(&h, 0), be32(&h, 4));
        if magic != MAGIC {
            return Err(file.damaged("it is no qcow2 image"));
        }
        if !matches!(version, 2 | 3) {
            return Err(file.unsupported(format_args!("is qcow2 of version {version}")));
        }
        let cluster_bits = be32(&h, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(file.damaged(format_args!("its clusters are of 2^{cluster_bits} bytes")));
        }
        if be32(&h, 32) != 0 {
            return Err(file.unsupported("is encrypted"));
        }
        let cluster = 1u64 << cluster_bits;
        let mut header = Self {
            version,
            cluster_bits,
            size: be64(&h, 24),
            backing: None,
            l1_offset: be64(&h, 40),
            l1_entries: be32(&h, 36),
            reftable_offset: be64(&h, 48),
            reftable_clusters: be32(&h, 56),
            snapshots: be32(&h, 60),
            snapshots_offset: be64(&h, 64),
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: 4,
            zstd: false,
            bitmaps: false,
        };
        let mut len = V2_LEN as u64;
        if version == 3 {
            let h = file.take("header", 0, V3_LEN as u64)?;
            header.incompatible = be64(&h, 72);
            header.compatible = be64(&h, 80);
            header.autoclear = be64(&h, 88);
            header.refcount_order = be32(&h, 96);
            len = be32(&h, 100).into();
            if len < V3_LEN as u64 || len > cluster || len % 8 != 0 {
                return Err(file.damaged(format_args!("its header is of {len} bytes")));
            }
            if len > V3_LEN as u64 {
                header.zstd = match file.take("header", V3_LEN as u64, 1)?[0] {
                    0 => false,
                    1 => true,
                    kind => return Err(file.unsupported(format_args!("is compressed by method {kind}"))),
                };
            }
        }
        header.check(file)?;
        header.names(file, be64(&h, 8), be32(&h, 16), len)?;
        Ok(header)
    }

    /// Bytes of a cluster.
    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// How many L1 entries a disk of `size` bytes needs.
    pub fn l1_needed(&self, size: u64) -> u64 {
        size.div_ceil(self.cluster()).div_ceil(self.cluster() / 8)
    }

    fn check(&self, file: &ImageFile) -> Result<(), UserError> {
        let cluster = self.cluster();
        let known = feature::DIRTY | feature::CORRUPT | feature::COMPRESSION;
        if self.incompatible & feature::DATA_FILE != 0 {
            return Err(file.unsupported("keeps its data in another file"));
        }
        if self.incompatible & feature::EXTENDED_L2 != 0 {
            return Err(file.unsupported("has extended L2 entries"));
        }
        if self.incompatible & !known != 0 {
            return Err(file.unsupported(format_args!("uses features {:#x} of qcow2", self.incompatible & !known)));
        }
        if self.zstd != (self.incompatible & feature::COMPRESSION != 0) {
            return Err(file.damaged("its compression method contradicts its features"));
        }
        if self.refcount_order > 6 {
            return Err(file.damaged(format_args!("its refcounts are of 2^{} bits", self.refcount_order)));
        }
        if self.size > i64::MAX as u64 {
            return Err(file.damaged(format_args!("it is of {} bytes", self.size)));
        }
        let l1 = u64::from(self.l1_entries) * 8;
        if l1 > MAX_L1 || self.l1_needed(self.size) * 8 > MAX_L1 {
            return Err(file.damaged(format_args!("its L1 table is of {} entries for {} bytes", self.l1_entries, self.size)));
        }
        if u64::from(self.l1_entries) < self.l1_needed(self.size) {
            return Err(file.damaged("its L1 table is too short for its size"));
        }
        let reftable = u64::from(self.reftable_clusters).saturating_mul(cluster);
        if reftable > MAX_REFTABLE || reftable == 0 {
            return Err(file.damaged(format_args!("its refcount table is of {reftable} bytes")));
        }
        for (what, at, len) in [("L1 table", self.l1_offset, l1), ("refcount table", self.reftable_offset, reftable)] {
            if at % cluster != 0 || (at == 0 && len != 0) {
                return Err(file.damaged(format_args!("its {what} is at {at:#x}")));
            }
            if at.checked_add(len).is_none_or(|end| end > file.len().next_multiple_of(cluster)) {
                return Err(file.damaged(format_args!("its {what} lies past the end of the file")));
            }
        }
        if self.snapshots > MAX_SNAPSHOTS || self.snapshots > 0 && self.snapshots_offset % cluster != 0 {
            return Err(file.damaged(format_args!("it has {} snapshots at {:#x}", self.snapshots, self.snapshots_offset)));
        }
        Ok(())
    }

    /// The header's extensions and the name of the file below.
    fn names(&mut self, file: &ImageFile, at: u64, len: u32, mut next: u64) -> Result<(), UserError> {
        let cluster = self.cluster();
        if at != 0 && (len > 1023 || at.checked_add(len.into()).is_none_or(|end| end > cluster)) {
            return Err(file.damaged("the name of its backing file lies outside its first cluster"));
        }
        let mut format = None;
        let end = if at == 0 { cluster.min(file.len()) } else { at };
        while next + 8 <= end {
            let h = file.take("header extension", next, 8)?;
            let (kind, len) = (be32(&h, 0), u64::from(be32(&h, 4)));
            next += 8;
            if kind == extension::END {
                break;
            }
            if next + len > end {
                return Err(file.damaged("a header extension is too long"));
            }
            match kind {
                extension::BACKING_FORMAT => {
                    format = Some(String::from_utf8_lossy(&file.take("header extension", next, len)?).into_owned())
                }
                extension::BITMAPS => self.bitmaps = true,
                _ => {}
            }
            next += len.next_multiple_of(8);
        }
        if at != 0 && len != 0 {
            let name = String::from_utf8(file.take("backing file's name", at, len.into())?);
            let name = name.ok().filter(|n| !n.contains('\0')).ok_or_else(|| file.damaged("the name of its backing file is no text"))?;
            self.backing = Some(Backing { name, format });
        }
        Ok(())
    }

    /// The internal snapshots.
    ///
    /// # Errors
    /// A sentence when their table is damaged.
    pub fn snapshots(&self, file: &ImageFile) -> Result<Vec<Snapshot>, UserError> {
        let mut all = Vec::new();
        let mut at = self.snapshots_offset;
        for _ in 0..self.snapshots {
            let h = file.take("snapshot table", at, 40)?;
            let (id, name, extra) = (u64::from(be16(&h, 12)), u64::from(be16(&h, 14)), u64::from(be32(&h, 36)));
            let len = 40 + extra + id + name;
            if extra > 1024 || at + len - self.snapshots_offset > MAX_SNAPSHOT_TABLE {
                return Err(file.damaged("its snapshot table is too long"));
            }
            let rest = file.take("snapshot table", at + 40, len - 40)?;
            let text = |from: u64, len: u64| String::from_utf8_lossy(&rest[from as usize..(from + len) as usize]).into_owned();
            let snapshot = Snapshot {
                id: text(extra, id),
                name: text(extra + id, name),
                l1_offset: be64(&h, 0),
                l1_entries: be32(&h, 8),
                disk_size: (extra >= 16).then(|| be64(&rest, 8)),
                vm_state: if extra >= 8 { be64(&rest, 0) } else { be32(&h, 32).into() },
                seconds: be32(&h, 16),
                nanoseconds: be32(&h, 20),
                vm_clock: be64(&h, 24),
                len: len.next_multiple_of(8),
            };
            if snapshot.l1_offset % self.cluster() != 0 || u64::from(snapshot.l1_entries) * 8 > MAX_L1 {
                return Err(file.damaged(format_args!("the L1 table of its snapshot number {}", all.len() + 1)));
            }
            all.push(snapshot);
            at += len.next_multiple_of(8);
        }
        Ok(all)
    }
}
