//! Writing to a qcow2 image.

use std::io;

use softmetal_bus::{BlockBackend, BlockError, GuestMemory, Run};

use super::header::extension;
use super::refcount::Refcounts;
use super::{COMPRESSED, COPIED, MAX_RELEASED, OFFSET, Place, Qcow2, Table, ZERO};

/// The longest L1 table that an image may grow to, in bytes.
const MAX_L1: u64 = super::header::MAX_L1;

/// Whether an L2 entry names a cluster that can be written as it stands: nobody else uses it, and it holds data.
fn stands(entry: u64) -> bool {
    entry & COPIED != 0 && entry & (COMPRESSED | ZERO) == 0 && entry & OFFSET != 0
}

impl Qcow2 {
    fn refcounts(&mut self) -> Result<(&mut Refcounts, &mut crate::host::disk::file::ImageFile), BlockError> {
        match &mut self.refcounts {
            Some(refcounts) => Ok((refcounts, &mut self.file)),
            None => Err(BlockError::ReadOnly),
        }
    }

    /// Before the first change: features that speak of the contents as they were do not hold any longer.
    fn begin(&mut self) -> Result<(), BlockError> {
        if !self.unsynced && self.header.autoclear != 0 {
            self.file.write(88, &[0; 8])?;
            self.header.autoclear = 0;
        }
        self.unsynced = true;
        Ok(())
    }

    fn allocate(&mut self, want: u64) -> Result<(u64, u64), BlockError> {
        let (refcounts, file) = self.refcounts()?;
        let (cluster, got) = refcounts.allocate(file, want)?;
        Ok((cluster << self.header.cluster_bits, got))
    }

    /// Gives back at once what no table ever named.
    fn unallocate(&mut self, at: u64, clusters: u64) {
        let first = at >> self.header.cluster_bits;
        if let Ok((refcounts, file)) = self.refcounts() {
            if let Err(e) = refcounts.release(file, first, clusters) {
                log::warn!("{clusters} clusters of {} are lost: {e}", self.file.path().display());
            }
        }
    }

    /// Gives back what `entry` named, once the file does not name it any more.
    fn release(&mut self, entry: u64) -> Result<(), BlockError> {
        let bits = self.header.cluster_bits;
        let (first, count) = if entry & COMPRESSED != 0 {
            let (at, len) = self.compressed(entry);
            (at >> bits, ((at + len - 1) >> bits) - (at >> bits) + 1)
        } else if entry & OFFSET != 0 {
            ((entry & OFFSET) >> bits, 1)
        } else {
            return Ok(());
        };
        match self.released.last_mut() {
            Some((at, n)) if *at + *n == first => *n += count,
            _ => self.released.push((first, count)),
        }
        Ok(())
    }

    /// The offset of the L2 table `i1`, which only the present state uses: made or copied if need be.
    fn own_table(&mut self, i1: usize) -> Result<u64, BlockError> {
        let old = self.l1[i1];
        if old & COPIED != 0 && old & OFFSET != 0 {
            return Ok(old & OFFSET);
        }
        let entries = match old & OFFSET {
            0 => vec![0; self.cluster() as usize / 8].into_boxed_slice(),
            at => self.table(at)?.entries.clone(),
        };
        self.make_room()?;
        let (at, _) = self.allocate(1)?;
        self.ticks += 1;
        let last = entries.len() - 1;
        self.l2.insert(at, Table { entries, dirty: Some((0, last)), used: self.ticks });
        self.l1[i1] = at | COPIED;
        self.l1_dirty.insert(i1);
        self.release(old & OFFSET)?;
        Ok(at)
    }

    /// Replaces entries of the L2 table at `table`; what they named is given back.
    fn set_entries(&mut self, table: u64, first: usize, new: impl Iterator<Item = u64>) -> Result<(), BlockError> {
        for (i, entry) in (first..).zip(new) {
            let t = self.table(table)?;
            let old = std::mem::replace(&mut t.entries[i], entry);
            if old == entry {
                continue;
            }
            let (low, high) = t.dirty.unwrap_or((i, i));
            t.dirty = Some((low.min(i), high.max(i)));
            if old & COMPRESSED != 0 || old & OFFSET != entry & OFFSET {
                self.release(old)?;
            }
        }
        if self.released.len() > MAX_RELEASED {
            self.write_back()?;
        }
        Ok(())
    }

    pub(super) fn write_guest(&mut self, offset: u64, buf: &[u8]) -> Result<(), BlockError> {
        self.begin()?;
        let mut done = 0;
        while done < buf.len() {
            done += self.write_some(offset + done as u64, &buf[done..])?;
        }
        Ok(())
    }

    /// Where in the file the clusters are that hold the guest's `len` bytes at `offset`, whose L2 table is at `table`, if they
    /// can be written as they stand, and how many of the bytes are in a row.
    fn standing(&mut self, table: u64, offset: u64, len: u64) -> Result<Option<(u64, u64)>, BlockError> {
        let cluster = self.cluster();
        let within = offset % cluster;
        let (_, i2) = self.indices(offset);
        let entries = &self.table(table)?.entries;
        let entry = entries[i2];
        if !stands(entry) {
            return Ok(None);
        }
        let wanted = (within + len).div_ceil(cluster).min((entries.len() - i2) as u64);
        let alike = |n: u64| {
            let next = entries[i2 + n as usize];
            stands(next) && next & OFFSET == (entry & OFFSET) + n * cluster
        };
        let n = 1 + (1..wanted).take_while(|n| alike(*n)).count() as u64;
        let Place::At(at) = self.place(entry)? else { unreachable!("it has an offset and no flags") };
        // Not where tables are, whatever a damaged entry says.
        let first = at >> self.header.cluster_bits;
        let refcounts = self.refcounts.as_ref().ok_or(BlockError::ReadOnly)?;
        if (0..n).any(|i| refcounts.is_vital(first + i) || self.l2.contains_key(&(at + i * cluster))) {
            return Err(self.file.damage(format_args!("data at {at:#x}, where a table is")).into());
        }
        Ok(Some((at + within, (n * cluster - within).min(len))))
    }

    /// Stores the bytes of `runs` of guest memory at `offset` where all of them can be written as they stand.
    pub(super) fn write_straight(&mut self, offset: u64, memory: &GuestMemory, runs: &[Run]) -> Result<bool, BlockError> {
        let parts = self.straight(offset, runs, |image, at, left| {
            let table = image.l1[image.indices(at).0];
            if table & COPIED == 0 || table & OFFSET == 0 {
                return Ok(None);
            }
            image.standing(table & OFFSET, at, left)
        })?;
        let Some(parts) = parts else { return Ok(false) };
        self.begin()?;
        for (at, runs) in parts {
            self.file.write_from(at, memory, &runs)?;
        }
        Ok(true)
    }

    /// Writes the beginning of `buf`; returns how much.
    fn write_some(&mut self, offset: u64, buf: &[u8]) -> Result<usize, BlockError> {
        let cluster = self.cluster();
        let within = offset % cluster;
        let (i1, i2) = self.indices(offset);
        let table = self.own_table(i1)?;
        if let Some((at, len)) = self.standing(table, offset, buf.len() as u64)? {
            self.file.write(at, &buf[..len as usize])?;
            return Ok(len as usize);
        }
        let entries = &self.table(table)?.entries;
        let wanted = (within + buf.len() as u64).div_ceil(cluster).min((entries.len() - i2) as u64) as usize;
        let n = entries[i2..i2 + wanted].iter().take_while(|e| !stands(**e)).count() as u64;
        let end_of_file = self.file.len();
        let (at, got) = self.allocate(n)?;
        let len = ((got * cluster - within) as usize).min(buf.len());
        if let Err(e) = self.fill(offset - within, at, got, within as usize, &buf[..len], at >= end_of_file) {
            self.unallocate(at, got);
            return Err(e);
        }
        self.set_entries(table, i2, (0..got).map(|i| (at + i * cluster) | COPIED))?;
        Ok(len)
    }

    /// Fills `clusters` new clusters at `at`, of the guest's `start`: `buf` at `within`, around it what was there before.
    fn fill(&mut self, start: u64, at: u64, clusters: u64, within: usize, buf: &[u8], fresh: bool) -> Result<(), BlockError> {
        let end = (clusters * self.cluster()) as usize;
        let after = within + buf.len();
        for around in [0..within, after..end] {
            if around.is_empty() {
                continue;
            }
            let mut old = vec![0; around.len()];
            self.read_guest(start + around.start as u64, &mut old)?;
            // Past the end of the file there are zeros already.
            if !(fresh && old.iter().all(|b| *b == 0)) {
                self.file.write(at + around.start as u64, &old)?;
            }
        }
        Ok(self.file.write(at + within as u64, buf)?)
    }

    /// Makes the whole clusters from `first` to `last` read as zeros without room, where the version can.
    pub(super) fn clear(&mut self, first: u64, last: u64) -> Result<(), BlockError> {
        self.begin()?;
        let cluster = self.cluster();
        let (has_backing, v3) = (self.backing.is_some(), self.header.version >= 3);
        if has_backing && !v3 {
            return Ok(());
        }
        let entry = if has_backing { ZERO } else { 0 };
        let mut at = first;
        while at < last {
            let (i1, i2) = self.indices(at);
            let n = ((last - at) / cluster).min(cluster / 8 - i2 as u64);
            if self.l1[i1] & OFFSET != 0 || has_backing {
                let table = self.own_table(i1)?;
                self.set_entries(table, i2, (0..n).map(|_| entry))?;
            }
            at += n * cluster;
        }
        Ok(())
    }

    pub(super) fn zero_guest(&mut self, offset: u64, len: u64) -> Result<(), BlockError> {
        let cluster = self.cluster();
        let end = offset + len;
        let whole_end = if end == self.size() { self.header.size.next_multiple_of(cluster) } else { end / cluster * cluster };
        let (first, last) = (offset.next_multiple_of(cluster), whole_end);
        let zeros = vec![0; cluster as usize];
        if first >= last || self.backing.is_some() && self.header.version < 3 {
            let mut at = offset;
            while at < end {
                let n = (cluster - at % cluster).min(end - at);
                self.write_guest(at, &zeros[..n as usize])?;
                at += n;
            }
            return Ok(());
        }
        self.write_guest(offset, &zeros[..(first - offset) as usize])?;
        self.clear(first, last)?;
        if last < end {
            self.write_guest(last, &zeros[..(end - last) as usize])?;
        }
        Ok(())
    }

    /// Brings everything to the file and makes it durable, in an order that leaves the image sound at any moment.
    pub(super) fn write_back(&mut self) -> io::Result<()> {
        if !self.unsynced {
            return Ok(());
        }
        // The data, and the refcounts.
        self.file.sync()?;
        let mut dirty: Vec<u64> = self.l2.iter().filter(|(_, t)| t.dirty.is_some()).map(|(at, _)| *at).collect();
        dirty.sort_unstable();
        for at in &dirty {
            let table = self.l2.get_mut(at).expect("it was found there");
            let (low, high) = table.dirty.expect("it is dirty");
            let bytes: Vec<u8> = table.entries[low..=high].iter().flat_map(|e| e.to_be_bytes()).collect();
            self.file.write(at + low as u64 * 8, &bytes)?;
            table.dirty = None;
        }
        if !self.l1_dirty.is_empty() {
            self.file.sync()?;
            for i in std::mem::take(&mut self.l1_dirty) {
                if let Err(e) = self.file.write(self.header.l1_offset + i as u64 * 8, &self.l1[i].to_be_bytes()) {
                    self.l1_dirty.insert(i);
                    return Err(e);
                }
            }
            self.file.sync()?;
        } else if !dirty.is_empty() {
            self.file.sync()?;
        }
        self.unsynced = false;
        for (first, count) in std::mem::take(&mut self.released) {
            let Some(refcounts) = &mut self.refcounts else { break };
            for (cluster, n) in refcounts.release(&mut self.file, first, count)? {
                let bits = self.header.cluster_bits;
                if let Err(e) = self.file.punch(cluster << bits, n << bits) {
                    log::debug!("{}: no hole can be made: {e}", self.file.path().display());
                }
            }
        }
        Ok(())
    }

    /// Another size in bytes; what is beyond a smaller one is lost.
    pub(super) fn set_size(&mut self, size: u64) -> Result<(), BlockError> {
        let old = self.header.size;
        let cluster = self.cluster();
        let needed = self.header.l1_needed(size);
        if needed * 8 > MAX_L1 || size > i64::MAX as u64 {
            return Err(io::Error::other("a qcow2 image with such clusters cannot be that large").into());
        }
        if self.header.snapshots > 0 {
            return Err(io::Error::other("an image with internal snapshots cannot be resized").into());
        }
        self.begin()?;
        if size < old {
            // The rest of the last cluster must read as zeros when it grows again.
            let edge = size.next_multiple_of(cluster).min(old);
            if edge > size {
                self.write_guest(size, &vec![0; (edge - size) as usize])?;
            }
            self.clear(edge, old.next_multiple_of(cluster).max(edge))?;
        } else if self.backing.as_ref().is_some_and(|b| b.size() > old) {
            // What the file below has there must not come to light.
            let below = self.backing.as_ref().map_or(0, |b| b.size().min(size));
            self.grow_l1(needed)?;
            self.header.size = size;
            self.zero_guest(old, below - old)?;
        }
        self.grow_l1(needed)?;
        self.header.size = size;
        self.unsynced = true;
        self.write_back()?;
        self.file.write(24, &size.to_be_bytes())?;
        Ok(self.file.sync()?)
    }

    /// Makes the L1 table at least `entries` long.
    fn grow_l1(&mut self, entries: u64) -> Result<(), BlockError> {
        let old = (self.header.l1_offset >> self.header.cluster_bits, self.l1.len() as u64);
        if entries <= old.1 {
            return Ok(());
        }
        self.write_back()?;
        self.unsynced = true;
        let bits = self.header.cluster_bits;
        let clusters = (entries * 8).div_ceil(self.cluster());
        // Free clusters in a row: what falls short goes back after the search.
        let mut short = Vec::new();
        let at = loop {
            let (at, got) = self.allocate(clusters)?;
            if got == clusters {
                break at;
            }
            short.push((at, got));
        };
        for (at, got) in short {
            self.unallocate(at, got);
        }
        let mut l1 = self.l1.clone();
        l1.resize((clusters << bits) as usize / 8, 0);
        let bytes: Vec<u8> = l1.iter().flat_map(|e| e.to_be_bytes()).collect();
        self.file.write(at, &bytes)?;
        self.file.sync()?;
        // The number of entries and the offset are side by side, so no moment sees one without the other.
        let pointer = [&(entries as u32).to_be_bytes()[..], &at.to_be_bytes()].concat();
        self.file.write(36, &pointer)?;
        self.file.sync()?;
        l1.truncate(entries as usize);
        self.l1 = l1;
        (self.header.l1_offset, self.header.l1_entries) = (at, entries as u32);
        let (refcounts, file) = self.refcounts()?;
        refcounts.l1 = (at >> bits, clusters);
        if old.1 > 0 {
            refcounts.release(file, old.0, (old.1 * 8).div_ceil(1 << bits))?;
        }
        Ok(())
    }

    /// Forgets all that the image itself has, so that it reads as the one below.
    ///
    /// # Errors
    /// The host's, or damage.
    pub fn empty(&mut self) -> Result<(), BlockError> {
        self.begin()?;
        for i1 in 0..self.l1.len() {
            if self.l1[i1] & OFFSET != 0 {
                let table = self.own_table(i1)?;
                let n = self.cluster() / 8;
                self.set_entries(table, 0, (0..n).map(|_| 0))?;
            }
        }
        Ok(self.write_back()?)
    }
}

/// The header extensions of a new image: the format of the file below.
pub(super) fn extensions(backing_format: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(format) = backing_format {
        bytes.extend(extension::BACKING_FORMAT.to_be_bytes());
        bytes.extend((format.len() as u32).to_be_bytes());
        bytes.extend(format.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes.extend([0; 8]);
    bytes
}
