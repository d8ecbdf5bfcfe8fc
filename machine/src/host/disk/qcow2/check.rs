//! Whether a qcow2 image is sound: each cluster's refcount against what the tables name.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;

use super::header::{Header, MAX_L1, MAX_REFTABLE, feature};
use super::refcount::{self, Refcounts};
use super::{COMPRESSED, COPIED, OFFSET, ZERO};
use crate::error::UserError;
use crate::host::disk::file::ImageFile;
use crate::host::disk::image::bytes::be64;

/// Messages that are kept.
const MAX_MESSAGES: usize = 50;
/// Clusters in a chunk of counts, and the most chunks: half a GiB.
const CHUNK: u64 = 4096;
const MAX_CHUNKS: usize = 32768;
/// How often an image is gone through to mend it: what is mended may bring more to light.
const PASSES: usize = 3;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Clusters of the disk.
    pub total: u64,
    /// Of these, those that the image has; those not behind the one before; compressed ones.
    pub allocated: u64,
    pub fragmented: u64,
    pub compressed: u64,
    /// Where the last used cluster ends.
    pub end: u64,
    /// Clusters in use that nothing names.
    pub leaks: u64,
    /// Contradictions.
    pub corruptions: u64,
    /// How many of them were mended.
    pub leaks_fixed: u64,
    pub corruptions_fixed: u64,
    /// The first of them in words.
    pub messages: Vec<String>,
}

/// How often each cluster is named.
#[derive(Default)]
struct Counts(BTreeMap<u64, Box<[u32]>>);

impl Counts {
    fn add(&mut self, cluster: u64, n: u32) -> io::Result<()> {
        if self.0.len() >= MAX_CHUNKS && !self.0.contains_key(&(cluster / CHUNK)) {
            return Err(io::Error::other("its clusters are too scattered to be checked"));
        }
        let chunk = self.0.entry(cluster / CHUNK).or_insert_with(|| vec![0; CHUNK as usize].into());
        let count = &mut chunk[(cluster % CHUNK) as usize];
        *count = count.saturating_add(n);
        Ok(())
    }

    /// The clusters that are named at all, in order.
    fn named(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().flat_map(|(chunk, counts)| (0..).zip(&**counts).filter(|(_, n)| **n > 0).map(move |(i, _)| chunk * CHUNK + i))
    }

    fn get(&self, cluster: u64) -> u64 {
        self.0.get(&(cluster / CHUNK)).map_or(0, |c| c[(cluster % CHUNK) as usize].into())
    }
}

struct Check<'a> {
    file: &'a mut ImageFile,
    header: &'a Header,
    counts: Counts,
    found: Findings,
}

/// Checks `file`, and mends it if `repair` says so and the file can be written.
///
/// # Errors
/// A sentence when it cannot be read or is too damaged to be looked at.
pub fn check(file: &mut ImageFile, header: &Header, repair: bool) -> Result<Findings, UserError> {
    let mut found = pass(file, header, false)?;
    let flags = header.incompatible & (feature::DIRTY | feature::CORRUPT);
    if !repair || found.corruptions + found.leaks + flags == 0 {
        return Ok(found);
    }
    let failed = |file: &ImageFile, e: io::Error| UserError(format!("the image {} cannot be mended: {e}", file.path().display()));
    let mut left = found.clone();
    for _ in 0..PASSES {
        if left.corruptions + left.leaks == 0 {
            break;
        }
        pass(file, &Header::parse(file)?, true)?;
        file.sync().map_err(|e| failed(file, e))?;
        left = pass(file, &Header::parse(file)?, false)?;
    }
    if left.corruptions == 0 && flags != 0 {
        let clean = (header.incompatible & !flags).to_be_bytes();
        file.write(72, &clean).and_then(|()| file.sync()).map_err(|e| failed(file, e))?;
    }
    // Mending one thing may bring another to light.
    found.corruptions = found.corruptions.max(left.corruptions);
    found.leaks = found.leaks.max(left.leaks);
    (found.corruptions_fixed, found.leaks_fixed) = (found.corruptions - left.corruptions, found.leaks - left.leaks);
    found.end = left.end;
    Ok(found)
}

/// Looks at everything once; with `repair`, what is wrong is mended as it is found.
fn pass(file: &mut ImageFile, header: &Header, repair: bool) -> Result<Findings, UserError> {
    let path = file.path().to_path_buf();
    let snapshots = header.snapshots(file)?;
    let mut refcounts = Refcounts::open(file, header)?;
    let mut check = Check { file, header, counts: Counts::default(), found: Findings::default() };
    let failed = |e: io::Error| UserError(format!("the image {} cannot be checked: {e}", path.display()));
    let mut l1s = vec![(header.l1_offset, header.l1_entries)];
    l1s.extend(snapshots.iter().map(|s| (s.l1_offset, s.l1_entries)));
    let table_len = snapshots.iter().map(|s| s.len).sum();
    check.run(&mut refcounts, &l1s, table_len, repair).map_err(failed)?;
    Ok(check.found)
}

impl Check<'_> {
    fn corrupt(&mut self, message: impl std::fmt::Display) {
        self.found.corruptions += 1;
        self.say(message);
    }

    fn say(&mut self, message: impl std::fmt::Display) {
        if self.found.messages.len() < MAX_MESSAGES {
            self.found.messages.push(message.to_string());
        }
    }

    fn add(&mut self, at: u64, len: u64, times: u32) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let bits = self.header.cluster_bits;
        for cluster in at >> bits..=(at + len - 1) >> bits {
            self.counts.add(cluster, times)?;
        }
        Ok(())
    }

    /// Whether a table or cluster can be at `at`.
    fn is_place(&self, at: u64) -> bool {
        at % self.header.cluster() == 0 && at < self.file.len()
    }

    fn entries(&self, at: u64, count: u64) -> io::Result<Vec<u64>> {
        let mut bytes = vec![0; count as usize * 8];
        self.file.read(at, &mut bytes)?;
        Ok(bytes.chunks_exact(8).map(|e| be64(e, 0)).collect())
    }

    fn run(&mut self, refcounts: &mut Refcounts, l1s: &[(u64, u32)], snapshot_table: u64, repair: bool) -> io::Result<()> {
        let cluster = self.header.cluster();
        self.found.total = self.header.size.div_ceil(cluster);
        self.add(0, cluster, 1)?;
        self.add(self.header.snapshots_offset, snapshot_table, 1)?;
        // Tables that several name are read once.
        let mut tables: BTreeMap<u64, u32> = BTreeMap::new();
        let mut seen: HashMap<(u64, u32), u32> = HashMap::new();
        l1s.iter().for_each(|l1| *seen.entry(*l1).or_default() += 1);
        if seen.keys().map(|(_, n)| u64::from(*n) * 8).sum::<u64>() > 8 * MAX_L1 {
            return Err(io::Error::other("its L1 tables are too long"));
        }
        for ((at, entries), times) in seen {
            self.add(at, u64::from(entries) * 8, times)?;
            for (i, entry) in (0..).zip(self.entries(at, entries.into())?) {
                self.reserved(at + i * 8, entry, !(OFFSET | COPIED), "L1", repair)?;
                let table = entry & OFFSET;
                if table == 0 {
                    continue;
                }
                if self.is_place(table) {
                    *tables.entry(table).or_default() += times;
                } else {
                    self.corrupt(format_args!("an L2 table is at {table:#x}"));
                }
            }
        }
        for (at, times) in tables {
            self.add(at, cluster, times)?;
            for (i, entry) in (0..).zip(self.entries(at, cluster / 8)?) {
                let zero = if self.header.version >= 3 { ZERO } else { 0 };
                let reserved = if entry & COMPRESSED == 0 { !(OFFSET | COPIED | zero) } else { 0 };
                self.reserved(at + i * 8, entry, reserved, "L2", repair)?;
                self.count_entry(entry & !reserved, times)?;
            }
        }
        if self.refcount_tables(refcounts)? && repair {
            // The marks of sole use are for the next pass.
            return self.rebuild(refcounts);
        }
        self.compare(refcounts, repair)?;
        self.look_at_active(refcounts, repair)?;
        if self.header.incompatible & feature::CORRUPT != 0 && self.found.corruptions == 0 {
            self.say("the image is marked as corrupt");
        }
        self.file.sync()
    }

    /// Counts the clusters of the refcounts themselves. True if they are not where they can be, or a cluster has none.
    fn refcount_tables(&mut self, refcounts: &Refcounts) -> io::Result<bool> {
        let (cluster, bits, per) = (self.header.cluster(), self.header.cluster_bits, refcounts.per_block());
        let before = self.found.corruptions;
        let (blocks, table, clusters) = refcounts.table();
        let places = (0..clusters).map(|n| table + n * cluster).chain(blocks.iter().copied().filter(|at| *at != 0));
        let mut own = HashSet::new();
        for at in places {
            if !self.is_place(at) {
                self.corrupt(format_args!("a refcount block is at {at:#x}"));
            } else if !own.insert(at) || self.counts.get(at >> bits) != 0 {
                self.corrupt(format_args!("refcounts are at {at:#x}, where something else is, too"));
            } else {
                self.add(at, cluster, 1)?;
            }
        }
        let missing: Vec<u64> = self.counts.named().filter(|c| blocks.get((c / per) as usize).is_none_or(|at| *at == 0)).collect();
        for cluster in missing {
            self.corrupt(format_args!("cluster {cluster} has no refcount"));
        }
        Ok(self.found.corruptions != before)
    }

    /// Writes new refcounts behind all clusters in use, and makes the header name them.
    fn rebuild(&mut self, refcounts: &Refcounts) -> io::Result<()> {
        let (cluster, bits, per) = (self.header.cluster(), self.header.cluster_bits, refcounts.per_block());
        let (blocks, table, clusters) = refcounts.table();
        let (old_table, old_blocks) = (table..table + clusters * cluster, blocks.iter().copied().collect::<HashSet<u64>>());
        let is_old = |c: u64| old_table.contains(&(c << bits)) || old_blocks.contains(&(c << bits));
        // What was counted once for the old refcounts alone is free now.
        let named: Vec<(u64, u64)> =
            self.counts.named().map(|c| (c, self.counts.get(c))).filter(|(c, n)| !(is_old(*c) && *n == 1)).collect();
        let base = named.last().map_or(1, |(c, _)| c + 1);
        let mut indices: BTreeSet<u64> = named.iter().map(|(c, _)| c / per).collect();
        let mut table = 1;
        loop {
            let last = (base + table + indices.len() as u64 - 1) / per;
            if (base / per..=last).all(|i| indices.contains(&i)) && (last + 1) * 8 <= table * cluster {
                break;
            }
            indices.extend(base / per..=last);
            table = table.max(((last + 1) * 8).div_ceil(cluster));
        }
        if table * cluster > MAX_REFTABLE {
            return Err(io::Error::other("its clusters are too scattered to be mended"));
        }
        let most = 1u64.checked_shl(1 << self.header.refcount_order).map_or(u64::MAX, |n| n - 1);
        let end = base + table + indices.len() as u64;
        let mut entries = vec![0; (table * cluster) as usize];
        let mut rest = named.as_slice();
        for (n, index) in (0..).zip(&indices) {
            let mut block = vec![0; cluster as usize];
            let covered = index * per..(index + 1) * per;
            let (these, after) = rest.split_at(rest.partition_point(|(c, _)| *c < covered.end));
            rest = after;
            for (c, count) in these {
                refcount::put(&mut block, self.header.refcount_order, c - covered.start, (*count).min(most));
            }
            for c in base.max(covered.start)..end.min(covered.end) {
                refcount::put(&mut block, self.header.refcount_order, c - covered.start, 1);
            }
            let at = (base + table + n) << bits;
            self.file.write(at, &block)?;
            entries[*index as usize * 8..][..8].copy_from_slice(&at.to_be_bytes());
        }
        self.file.write(base << bits, &entries)?;
        self.file.sync()?;
        let pointer = [&(base << bits).to_be_bytes()[..], &(table as u32).to_be_bytes()].concat();
        self.file.write(48, &pointer)?;
        self.file.sync()
    }

    /// The range that an L2 entry names, if it can be.
    fn range(&self, entry: u64) -> Option<(u64, u64)> {
        if entry & COMPRESSED != 0 {
            let bits = 62 - (self.header.cluster_bits - 8);
            let at = entry & ((1 << bits) - 1);
            let len = (((entry & (COMPRESSED - 1)) >> bits) + 1) * 512 - at % 512;
            return (at < self.file.len()).then_some((at, len));
        }
        let at = entry & OFFSET;
        (at != 0 && self.is_place(at)).then_some((at, self.header.cluster()))
    }

    /// Bits of the entry at `place` in the file that must be 0.
    fn reserved(&mut self, place: u64, entry: u64, bits: u64, table: &str, repair: bool) -> io::Result<()> {
        if entry & bits == 0 {
            return Ok(());
        }
        self.corrupt(format_args!("an entry of an {table} table has reserved bits set: {entry:#x}"));
        if repair {
            self.file.write(place, &(entry & !bits).to_be_bytes())?;
        }
        Ok(())
    }

    fn count_entry(&mut self, entry: u64, times: u32) -> io::Result<()> {
        match self.range(entry) {
            Some((at, len)) => self.add(at, len, times),
            None if entry & (OFFSET | COMPRESSED) != 0 => {
                self.corrupt(format_args!("a cluster is at {:#x}", entry & OFFSET));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The refcounts against the counts.
    fn compare(&mut self, refcounts: &mut Refcounts, repair: bool) -> io::Result<()> {
        let (per, bits) = (refcounts.per_block(), self.header.cluster_bits);
        let blocks = refcounts.table().0.to_vec();
        let mut mend = Vec::new();
        for (i, at) in blocks.iter().enumerate() {
            if *at == 0 || !self.is_place(*at) {
                continue;
            }
            let mut block = vec![0; 1 << bits];
            self.file.read(*at, &mut block)?;
            for n in 0..per {
                let cluster = i as u64 * per + n;
                let (has, named) = (refcount::get(&block, self.header.refcount_order, n), self.counts.get(cluster));
                if has != 0 {
                    self.found.end = self.found.end.max((cluster + 1) << bits);
                }
                if has == named || has > named && self.header.bitmaps {
                    continue;
                }
                if has > named {
                    self.found.leaks += 1;
                    self.say(format_args!("leaked cluster {cluster} refcount={has} reference={named}"));
                } else {
                    self.corrupt(format_args!("cluster {cluster} refcount={has} reference={named}"));
                }
                mend.push((cluster, named));
            }
        }
        if repair {
            for (cluster, named) in mend {
                refcounts.set(self.file, cluster, 1, named)?;
            }
        }
        Ok(())
    }

    /// The tables of the present state: figures, and whether the marks of sole use are right.
    fn look_at_active(&mut self, refcounts: &mut Refcounts, repair: bool) -> io::Result<()> {
        let (cluster, bits) = (self.header.cluster(), self.header.cluster_bits);
        let l1 = self.entries(self.header.l1_offset, self.header.l1_entries.into())?;
        let mut read = HashSet::new();
        for (i1, entry) in l1.into_iter().enumerate() {
            let table = entry & OFFSET;
            if table == 0 || !self.is_place(table) {
                continue;
            }
            self.mark(refcounts, entry, table, self.header.l1_offset + i1 as u64 * 8, repair)?;
            if !read.insert(table) {
                continue;
            }
            let mut next = 0;
            for (i2, entry) in self.entries(table, cluster / 8)?.into_iter().enumerate() {
                let Some((at, _)) = self.range(entry) else { continue };
                self.found.allocated += 1;
                if entry & COMPRESSED != 0 {
                    self.found.compressed += 1;
                    self.found.fragmented += 1;
                    if entry & COPIED != 0 {
                        self.corrupt(format_args!("the compressed cluster at {at:#x} is marked as used once"));
                    }
                    continue;
                }
                if entry & ZERO == 0 || self.header.version >= 3 {
                    if next != 0 && at != next {
                        self.found.fragmented += 1;
                    }
                    next = at + (1 << bits);
                    self.mark(refcounts, entry, at, table + i2 as u64 * 8, repair)?;
                }
            }
        }
        Ok(())
    }

    /// The mark of sole use in the entry for `at`, which is itself at `place` in the file.
    fn mark(&mut self, refcounts: &mut Refcounts, entry: u64, at: u64, place: u64, repair: bool) -> io::Result<()> {
        let Ok(count) = refcounts.get(self.file, at >> self.header.cluster_bits) else { return Ok(()) };
        if (count == 1) == (entry & COPIED != 0) {
            return Ok(());
        }
        self.corrupt(format_args!("the mark of sole use of {at:#x} contradicts its refcount of {count}"));
        if repair {
            self.file.write(place, &(entry ^ COPIED).to_be_bytes())?;
        }
        Ok(())
    }
}
