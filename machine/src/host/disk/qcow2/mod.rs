//! qcow2 images, version 2 and 3: reading, writing, checking, making.
//!
//! **Invariant:** the tables in the file never name what is not there: a cluster's refcount and bytes are durable before
//! the L2 table that names it is written, that table before the L1 table, and a cluster is given back only when no
//! durable table names it any more. Whatever moment a run ends at, at worst clusters are lost.

mod check;
mod create;
mod header;
#[cfg(test)]
mod power_loss;
mod refcount;
mod write;

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read};

use softmetal_bus::{BlockBackend, BlockError, GuestMemory, Run};

use super::file::ImageFile;
use super::image::bytes::be64;
use super::image::{Extent, Format, Image, total};
use crate::error::UserError;

pub use check::check;
pub use create::{Layout, create};
pub use header::{Backing, Header, feature};
use refcount::Refcounts;

/// Of L1 and L2 entries: the offset of the table or cluster.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Exactly one entry names this.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Of version 3: the cluster reads as zeros.
const ZERO: u64 = 1;
/// Bytes of L2 tables that are kept in memory.
const L2_CACHE: u64 = 16 << 20;
/// Runs of clusters that wait to be given back before the tables are written for them.
const MAX_RELEASED: usize = 1 << 14;

/// What a guest cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// As in the backing file; without one zeros.
    Backing,
    Zero,
    /// At this offset in the file.
    At(u64),
    Compressed(u64),
}

/// An L2 table in memory.
struct Table {
    entries: Box<[u64]>,
    /// The entries from the first to the last one that the file does not have yet.
    dirty: Option<(usize, usize)>,
    /// When it was last used.
    used: u64,
}

/// Places in the file, and what of guest memory goes to or comes from each.
type Parts = Vec<(u64, Vec<Run>)>;

/// A qcow2 image.
pub struct Qcow2 {
    file: ImageFile,
    header: Header,
    l1: Vec<u64>,
    /// L1 entries that the file does not have yet.
    l1_dirty: BTreeSet<usize>,
    /// By their offsets.
    l2: HashMap<u64, Table>,
    ticks: u64,
    /// Only in writable images.
    refcounts: Option<Refcounts>,
    /// Runs of clusters to be given back when the tables that named them are gone from the file: (first, count).
    released: Vec<(u64, u64)>,
    /// Something was written since the last flush.
    unsynced: bool,
    backing: Option<Box<dyn Image>>,
    /// The last compressed cluster: its entry and its bytes.
    inflated: Option<(u64, Vec<u8>)>,
}

impl Qcow2 {
    /// Takes `file` with its checked header and the opened file below; `internal` is an internal snapshot to read.
    ///
    /// # Errors
    /// A sentence when it is damaged or cannot be written as it is.
    pub fn open(file: ImageFile, mut header: Header, backing: Option<Box<dyn Image>>, internal: Option<&str>) -> Result<Self, UserError> {
        if let Some(wanted) = internal {
            let snapshots = header.snapshots(&file)?;
            let Some(s) = snapshots.iter().find(|s| s.name == wanted || s.id == wanted) else {
                let path = file.path().display();
                return Err(UserError(format!("the image {path} has no snapshot {wanted}; `softmetal disk info {path}` lists them")));
            };
            header.l1_offset = s.l1_offset;
            header.l1_entries = s.l1_entries;
            header.size = s.disk_size.unwrap_or(header.size);
            if header.size > i64::MAX as u64 || u64::from(header.l1_entries) < header.l1_needed(header.size) {
                return Err(file.damaged("the L1 table of the snapshot is too short"));
            }
        }
        if header.size == 0 {
            return Err(UserError(format!(
                "the image {} is empty (0 bytes); make it larger with `softmetal disk resize`",
                file.path().display()
            )));
        }
        if file.writable() && header.incompatible & (feature::DIRTY | feature::CORRUPT) != 0 {
            let path = file.path().display();
            return Err(UserError(format!(
                "the image {path} was not closed properly or is damaged; mend it with `softmetal disk check --repair {path}`"
            )));
        }
        let mut bytes = vec![0; header.l1_entries as usize * 8];
        file.read(header.l1_offset, &mut bytes).map_err(|e| UserError::file("image", file.path(), &e))?;
        let l1 = bytes.chunks_exact(8).map(|e| be64(e, 0)).collect();
        let refcounts = if file.writable() { Some(Refcounts::open(&file, &header)?) } else { None };
        Ok(Self {
            file,
            header,
            l1,
            l1_dirty: BTreeSet::new(),
            l2: HashMap::new(),
            ticks: 0,
            refcounts,
            released: Vec::new(),
            unsynced: false,
            backing,
            inflated: None,
        })
    }

    fn cluster(&self) -> u64 {
        self.header.cluster()
    }

    /// Where `offset` is in the tables: index into L1, index into L2.
    fn indices(&self, offset: u64) -> (usize, usize) {
        let per_table = self.cluster() / 8;
        let cluster = offset / self.cluster();
        ((cluster / per_table) as usize, (cluster % per_table) as usize)
    }

    /// The L2 table at `at`.
    fn table(&mut self, at: u64) -> io::Result<&mut Table> {
        self.ticks += 1;
        let ticks = self.ticks;
        if !self.l2.contains_key(&at) {
            if at % self.cluster() != 0
                || at.checked_add(self.cluster()).is_none_or(|end| end > self.file.len().next_multiple_of(self.cluster()))
            {
                return Err(self.file.damage(format_args!("an L2 table at {at:#x}")));
            }
            self.make_room()?;
            let mut bytes = vec![0; self.cluster() as usize];
            self.file.read(at, &mut bytes)?;
            let entries = bytes.chunks_exact(8).map(|e| be64(e, 0)).collect();
            self.l2.insert(at, Table { entries, dirty: None, used: ticks });
        }
        let table = self.l2.get_mut(&at).expect("it was inserted above");
        table.used = ticks;
        Ok(table)
    }

    /// Leaves room for one more L2 table in the cache.
    fn make_room(&mut self) -> io::Result<()> {
        if (self.l2.len() as u64) < (L2_CACHE >> self.header.cluster_bits).max(8) {
            return Ok(());
        }
        let (&oldest, table) = self.l2.iter().min_by_key(|(_, t)| t.used).expect("the cache is full");
        if table.dirty.is_some() {
            self.write_back()?;
        }
        self.l2.remove(&oldest);
        Ok(())
    }

    /// What an L2 entry means.
    fn place(&self, entry: u64) -> io::Result<Place> {
        if entry & COMPRESSED != 0 {
            return Ok(Place::Compressed(entry));
        }
        if self.header.version >= 3 && entry & ZERO != 0 {
            return Ok(Place::Zero);
        }
        match entry & OFFSET {
            0 => Ok(Place::Backing),
            at if at % self.cluster() == 0 && at < self.file.len().max(self.cluster()) => Ok(Place::At(at)),
            at => Err(self.file.damage(format_args!("a cluster at {at:#x}"))),
        }
    }

    /// What is at `offset`, and for how many bytes (at most `max`) it goes on alike and in a row.
    fn map(&mut self, offset: u64, max: u64) -> io::Result<(Place, u64)> {
        let cluster = self.cluster();
        let (i1, i2) = self.indices(offset);
        let within = offset % cluster;
        let at = self.l1[i1] & OFFSET;
        if at == 0 {
            let covered = cluster * (cluster / 8);
            return Ok((Place::Backing, (covered - offset % covered).min(max)));
        }
        let entries = &self.table(at)?.entries;
        let (first, count) = (entries[i2], entries.len());
        let wanted = (within.saturating_add(max)).div_ceil(cluster).min((count - i2) as u64) as usize;
        let run: Vec<u64> = entries[i2..i2 + wanted].to_vec();
        let place = self.place(first)?;
        let mut n = 1;
        while n < wanted {
            let next = self.place(run[n]);
            let alike = match (place, next) {
                (Place::At(at), Ok(Place::At(next))) => next == at + n as u64 * cluster,
                (Place::Compressed(_), _) => false,
                (_, Ok(next)) => next == place,
                _ => false,
            };
            if !alike {
                break;
            }
            n += 1;
        }
        let place = if let Place::At(at) = place { Place::At(at + within) } else { place };
        Ok((place, (n as u64 * cluster - within).min(max)))
    }

    /// Fills `buf`, which lies on the disk, up to where the disk ends; the rest of a last cluster is zeros.
    fn read_guest(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let left = (buf.len() - done) as u64;
            if at >= self.header.size {
                buf[done..].fill(0);
                break;
            }
            let (place, n) = self.map(at, left)?;
            let part = &mut buf[done..done + n as usize];
            match place {
                Place::Zero => part.fill(0),
                Place::At(host) => self.file.read(host, part)?,
                Place::Backing => match &mut self.backing {
                    None => part.fill(0),
                    Some(backing) => {
                        // The file below may be shorter.
                        let have = backing.size().saturating_sub(at).min(n) as usize;
                        let (below, past) = part.split_at_mut(have);
                        if !below.is_empty() {
                            backing.read_at(at, below)?;
                        }
                        past.fill(0);
                    }
                },
                Place::Compressed(entry) => {
                    let within = (at % self.header.cluster()) as usize;
                    let n = part.len();
                    let cluster = self.inflate(entry)?;
                    buf[done..done + n].copy_from_slice(&cluster[within..within + n]);
                }
            }
            done += n as usize;
        }
        Ok(())
    }

    /// The pieces of the file that are the bytes of `runs` at `offset` (place, what of `runs` it is), as `find(image, offset,
    /// length)` says for the first bytes of each; `None` if it does of any, or if they are not all in the file yet.
    fn straight(
        &mut self,
        offset: u64,
        runs: &[Run],
        find: impl Fn(&mut Self, u64, u64) -> Result<Option<(u64, u64)>, BlockError>,
    ) -> Result<Option<Parts>, BlockError> {
        let (mut done, len) = (0, total(runs));
        let mut parts = Vec::new();
        while done < len {
            match find(self, offset + done, len - done)? {
                Some((at, n)) if at + n <= self.file.len() => {
                    parts.push((at, Run::part(runs, done..done + n)));
                    done += n;
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(parts))
    }

    /// Where the bytes of a compressed cluster are: offset and length.
    fn compressed(&self, entry: u64) -> (u64, u64) {
        let bits = 62 - (self.header.cluster_bits - 8);
        let at = entry & ((1 << bits) - 1);
        let sectors = ((entry & (COMPRESSED - 1)) >> bits) + 1;
        (at, sectors * 512 - at % 512)
    }

    /// The bytes of a compressed cluster.
    fn inflate(&mut self, entry: u64) -> io::Result<&[u8]> {
        if self.inflated.as_ref().is_none_or(|(kept, _)| *kept != entry) {
            self.inflated = None;
            let (at, len) = self.compressed(entry);
            if at >= self.file.len() {
                return Err(self.file.damage(format_args!("a compressed cluster at {at:#x}")));
            }
            let mut packed = vec![0; len as usize];
            self.file.read(at, &mut packed)?;
            let size = self.cluster();
            let mut bytes = Vec::with_capacity(size as usize);
            if self.header.zstd {
                let decoder = ruzstd::decoding::StreamingDecoder::new(&packed[..]).map_err(|e| self.file.damage(e))?;
                decoder.take(size).read_to_end(&mut bytes)
            } else {
                flate2::read::DeflateDecoder::new(&packed[..]).take(size).read_to_end(&mut bytes)
            }
            .map_err(|e| self.file.damage(format_args!("a compressed cluster at {at:#x}: {e}")))?;
            if bytes.len() as u64 != size {
                return Err(self.file.damage(format_args!("the compressed cluster at {at:#x} is too short")));
            }
            self.inflated = Some((entry, bytes));
        }
        Ok(self.inflated.as_ref().map(|(_, bytes)| &bytes[..]).expect("it was inflated above"))
    }

    /// Whether the image itself, not one below, says what is at `offset`, and how far that goes.
    ///
    /// # Errors
    /// The host's, or damage.
    pub fn is_own(&mut self, offset: u64) -> Result<(bool, u64), BlockError> {
        let (place, len) = self.map(offset, self.header.size - offset)?;
        Ok((place != Place::Backing, len))
    }
}

impl BlockBackend for Qcow2 {
    fn size(&self) -> u64 {
        self.header.size / 512 * 512
    }
    fn read_only(&self) -> bool {
        self.refcounts.is_none()
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.check(offset, buf.len() as u64, false)?;
        self.read_guest(offset, buf)
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), BlockError> {
        self.check(offset, buf.len() as u64, true)?;
        self.write_guest(offset, buf)
    }
    fn read_into(&mut self, offset: u64, memory: &GuestMemory, runs: &[Run]) -> Result<bool, BlockError> {
        self.check(offset, total(runs), false)?;
        let parts = self.straight(offset, runs, |image, at, left| match image.map(at, left)? {
            (Place::At(at), n) => Ok(Some((at, n))),
            _ => Ok(None),
        })?;
        let Some(parts) = parts else { return Ok(false) };
        for (at, runs) in parts {
            self.file.read_into(at, memory, &runs)?;
        }
        Ok(true)
    }
    fn write_from(&mut self, offset: u64, memory: &GuestMemory, runs: &[Run]) -> Result<bool, BlockError> {
        self.check(offset, total(runs), true)?;
        self.write_straight(offset, memory, runs)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        Ok(self.write_back()?)
    }
    fn discard(&mut self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.check(offset, len, true)?;
        let cluster = self.cluster();
        // Only whole clusters: it is a hint.
        let last =
            if offset + len == self.size() { self.header.size.next_multiple_of(cluster) } else { (offset + len) / cluster * cluster };
        let first = offset.next_multiple_of(cluster);
        if first < last { self.clear(first, last) } else { Ok(()) }
    }
    fn write_zeroes(&mut self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.check(offset, len, true)?;
        self.zero_guest(offset, len)
    }
}

impl Image for Qcow2 {
    fn format(&self) -> Format {
        Format::Qcow2
    }
    fn extent(&mut self, offset: u64) -> Result<Extent, BlockError> {
        let (place, len) = self.map(offset, self.header.size - offset)?;
        match (place, &mut self.backing) {
            (Place::Zero, _) | (Place::Backing, None) => Ok(Extent { len, zero: true }),
            (Place::Backing, Some(backing)) if offset < backing.size() => {
                let below = backing.extent(offset)?;
                Ok(Extent { len: below.len.min(len), zero: below.zero })
            }
            (Place::Backing, _) => Ok(Extent { len, zero: true }),
            _ => Ok(Extent { len, zero: false }),
        }
    }
    fn file(&self) -> &ImageFile {
        &self.file
    }
    fn cluster_size(&self) -> Option<u64> {
        Some(self.cluster())
    }
    fn table_bytes(&self) -> u64 {
        let refcounts = if self.refcounts.is_some() { self.header.reftable_clusters << self.header.cluster_bits } else { 0 };
        self.l1.len() as u64 * 8 + u64::from(refcounts)
    }
    fn resize(&mut self, size: u64) -> Result<(), BlockError> {
        self.set_size(size)
    }
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        // Whoever wants to know whether this succeeds flushes before.
        let _ = self.write_back();
    }
}
