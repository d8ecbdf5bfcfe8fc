//! The refcounts of a qcow2 image: which clusters of the file are in use.

use std::collections::HashMap;
use std::io;

use super::header::{Header, MAX_REFTABLE};
use crate::error::UserError;
use crate::host::disk::file::ImageFile;
use crate::host::disk::image::bytes::be64;

/// Bytes of refcount blocks that are kept in memory.
const CACHE: u64 = 4 << 20;
/// Refcounts looked at for one allocation before it is made at the end of the file.
const MAX_SCAN: u64 = 1 << 22;
/// The largest offset that an entry can hold.
const MAX_OFFSET: u64 = 1 << 55;

/// The refcounts. Each change is written at once; what must be durable before what is the caller's part.
pub struct Refcounts {
    cluster_bits: u32,
    order: u32,
    /// Offsets of the blocks.
    table: Vec<u64>,
    table_offset: u64,
    table_clusters: u64,
    /// The L1 table, which no allocation may hit: (first cluster, clusters).
    pub l1: (u64, u64),
    blocks: HashMap<u64, Box<[u8]>>,
    /// No cluster before this one is free.
    hint: u64,
}

/// The refcount at `index` of a block whose refcounts have 2^`order` bits.
pub fn get(block: &[u8], order: u32, index: u64) -> u64 {
    let i = index as usize;
    match order {
        0..=2 => {
            let bits = 1 << order;
            let at = i << order;
            (u64::from(block[at / 8]) >> (at % 8)) & ((1 << bits) - 1)
        }
        _ => {
            let n = 1 << (order - 3);
            block[i * n..(i + 1) * n].iter().fold(0, |v, b| v << 8 | u64::from(*b))
        }
    }
}

/// Puts a refcount into a block; returns the range of bytes that changed.
pub fn put(block: &mut [u8], order: u32, index: u64, value: u64) -> std::ops::Range<usize> {
    let i = index as usize;
    if order < 3 {
        let mask = (1u8 << (1 << order)) - 1;
        let (byte, shift) = ((i << order) / 8, (i << order) % 8);
        block[byte] = block[byte] & !(mask << shift) | (value as u8 & mask) << shift;
        return byte..byte + 1;
    }
    let n = 1 << (order - 3);
    block[i * n..(i + 1) * n].copy_from_slice(&value.to_be_bytes()[8 - n..]);
    i * n..(i + 1) * n
}

impl Refcounts {
    /// Reads the table.
    ///
    /// # Errors
    /// A sentence.
    pub fn open(file: &ImageFile, header: &Header) -> Result<Self, UserError> {
        let len = u64::from(header.reftable_clusters) << header.cluster_bits;
        let mut bytes = vec![0; len as usize];
        file.read(header.reftable_offset, &mut bytes).map_err(|e| UserError::file("image", file.path(), &e))?;
        // The low nine bits are reserved.
        let table: Vec<u64> = bytes.chunks_exact(8).map(|e| be64(e, 0) & !0x1ff).collect();
        Ok(Self {
            cluster_bits: header.cluster_bits,
            order: header.refcount_order,
            table,
            table_offset: header.reftable_offset,
            table_clusters: header.reftable_clusters.into(),
            l1: (header.l1_offset >> header.cluster_bits, (u64::from(header.l1_entries) * 8).div_ceil(header.cluster())),
            blocks: HashMap::new(),
            hint: 0,
        })
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Refcounts in a block.
    pub fn per_block(&self) -> u64 {
        (self.cluster() * 8) >> self.order
    }

    /// The offsets of all blocks, 0 for none; and where the table itself is: (offset, clusters).
    pub fn table(&self) -> (&[u64], u64, u64) {
        (&self.table, self.table_offset, self.table_clusters)
    }

    /// The block `index`, which the table has.
    fn block(&mut self, file: &ImageFile, index: u64) -> io::Result<&mut Box<[u8]>> {
        let at = self.table[index as usize];
        if at % self.cluster() != 0 || at >= file.len() {
            return Err(file.damage(format_args!("a refcount block at {at:#x}")));
        }
        let most = (CACHE >> self.cluster_bits).max(2);
        if !self.blocks.contains_key(&index) && self.blocks.len() as u64 >= most {
            self.blocks.clear();
        }
        match self.blocks.entry(index) {
            std::collections::hash_map::Entry::Occupied(e) => Ok(e.into_mut()),
            std::collections::hash_map::Entry::Vacant(e) => {
                let mut bytes = vec![0; 1 << self.cluster_bits].into_boxed_slice();
                file.read(at, &mut bytes)?;
                Ok(e.insert(bytes))
            }
        }
    }

    /// The refcount of `cluster`.
    ///
    /// # Errors
    /// The host's, or damage.
    pub fn get(&mut self, file: &ImageFile, cluster: u64) -> io::Result<u64> {
        let (index, order, per) = (cluster / self.per_block(), self.order, self.per_block());
        if self.table.get(index as usize).is_none_or(|at| *at == 0) {
            return Ok(0);
        }
        Ok(get(self.block(file, index)?, order, cluster % per))
    }

    /// Sets the refcounts of `count` clusters, which have a block.
    ///
    /// # Errors
    /// The host's, or damage.
    pub fn set(&mut self, file: &mut ImageFile, cluster: u64, count: u64, value: u64) -> io::Result<()> {
        let (order, per) = (self.order, self.per_block());
        let mut done = 0;
        while done < count {
            let (index, first) = ((cluster + done) / per, (cluster + done) % per);
            let n = (per - first).min(count - done);
            let at = self.table.get(index as usize).copied().unwrap_or(0);
            if at == 0 {
                return Err(file.damage(format_args!("cluster {:#x} has no refcount", cluster + done)));
            }
            let block = self.block(file, index)?;
            let mut changed = put(block, order, first, value);
            for i in first + 1..first + n {
                changed.end = put(block, order, i, value).end;
            }
            if let Err(e) = file.write(at + changed.start as u64, &block[changed]) {
                // What is in the file is true.
                self.blocks.remove(&index);
                return Err(e);
            }
            done += n;
        }
        Ok(())
    }

    /// Whether a cluster holds what the image is described by.
    pub fn is_vital(&self, cluster: u64) -> bool {
        let table = self.table_offset >> self.cluster_bits;
        cluster == 0 || (table..table + self.table_clusters).contains(&cluster) || (self.l1.0..self.l1.0 + self.l1.1).contains(&cluster)
    }

    /// Takes up to `want` free clusters in a row: the first one and how many.
    ///
    /// # Errors
    /// The host's, damage, or an image that cannot grow.
    pub fn allocate(&mut self, file: &mut ImageFile, want: u64) -> io::Result<(u64, u64)> {
        let (order, per) = (self.order, self.per_block());
        let end = file.len().div_ceil(self.cluster());
        let mut i = self.hint;
        let mut scanned = 0;
        loop {
            if i << self.cluster_bits >= MAX_OFFSET {
                return Err(file.damage("no cluster is free"));
            }
            if scanned > MAX_SCAN {
                if i >= end + MAX_SCAN {
                    return Err(file.damage("all clusters past its end are said to be in use"));
                }
                (i, scanned) = (i.max(end), 0);
            }
            let index = i / per;
            if index >= self.table.len() as u64 {
                self.grow(file, i)?;
                continue;
            }
            if self.table[index as usize] == 0 {
                if self.is_vital(i) {
                    return Err(file.damage("its own tables have no refcounts"));
                }
                self.add_block(file, index, i)?;
                i += 1;
                continue;
            }
            let block = self.block(file, index)?;
            let first = i % per;
            let Some(free) = (first..per).find(|n| get(block, order, *n) == 0) else {
                scanned += per - first;
                i = (index + 1) * per;
                continue;
            };
            let got = (free..per.min(free + want)).take_while(|n| get(block, order, *n) == 0).count() as u64;
            let cluster = index * per + free;
            if (cluster..cluster + got).any(|c| self.is_vital(c)) {
                return Err(file.damage("its own tables are said to be free"));
            }
            self.set(file, cluster, got, 1)?;
            self.hint = cluster + got;
            return Ok((cluster, got));
        }
    }

    /// Gives `count` clusters back; returns the runs that nobody uses any more.
    ///
    /// # Errors
    /// The host's, or damage.
    pub fn release(&mut self, file: &mut ImageFile, cluster: u64, count: u64) -> io::Result<Vec<(u64, u64)>> {
        let mut free: Vec<(u64, u64)> = Vec::new();
        for c in cluster..cluster + count {
            let old = self.get(file, c)?;
            if old == 0 || self.is_vital(c) {
                log::warn!("{}: the refcount of cluster {c:#x} is {old}, which cannot be", file.path().display());
                continue;
            }
            self.set(file, c, 1, old - 1)?;
            if old == 1 {
                self.hint = self.hint.min(c);
                match free.last_mut() {
                    Some((at, n)) if *at + *n == c => *n += 1,
                    _ => free.push((c, 1)),
                }
            }
        }
        Ok(free)
    }

    /// Makes the free cluster `i` the block `index`, which covers it.
    fn add_block(&mut self, file: &mut ImageFile, index: u64, i: u64) -> io::Result<()> {
        let mut block = vec![0; self.cluster() as usize].into_boxed_slice();
        put(&mut block, self.order, i % self.per_block(), 1);
        let at = i << self.cluster_bits;
        file.write(at, &block)?;
        file.sync()?;
        file.write(self.table_offset + index * 8, &at.to_be_bytes())?;
        self.table[index as usize] = at;
        self.blocks.remove(&index);
        Ok(())
    }

    /// A longer table, at cluster `base`, past all that the present one covers, with blocks for its own clusters.
    fn grow(&mut self, file: &mut ImageFile, base: u64) -> io::Result<()> {
        let (per, per_cluster) = (self.per_block(), self.cluster() / 8);
        let mut clusters = (self.table.len() as u64 * 3 / 2).max(base / per + 2).div_ceil(per_cluster);
        let (first, blocks) = loop {
            // Blocks for the table and for themselves, however they lie.
            let first = base / per;
            let mut blocks = 1;
            while (base + clusters + blocks - 1) / per - first + 1 > blocks {
                blocks += 1;
            }
            if first + blocks <= clusters * per_cluster {
                break (first, blocks);
            }
            clusters += 1;
        };
        if clusters << self.cluster_bits > MAX_REFTABLE {
            return Err(io::Error::other("the qcow2 image cannot grow any further; convert it to one with larger clusters"));
        }
        let mut table = self.table.clone();
        table.resize((clusters * per_cluster) as usize, 0);
        let place = |n: u64| (base + clusters + n) << self.cluster_bits;
        for n in 0..blocks {
            let mut block = vec![0; self.cluster() as usize];
            let covered = (first + n) * per;
            for c in (base..base + clusters + blocks).filter(|c| (covered..covered + per).contains(c)) {
                put(&mut block, self.order, c - covered, 1);
            }
            file.write(place(n), &block)?;
            table[(first + n) as usize] = place(n);
        }
        let bytes: Vec<u8> = table.iter().flat_map(|e| e.to_be_bytes()).collect();
        let at = base << self.cluster_bits;
        file.write(at, &bytes)?;
        file.sync()?;
        let pointer = [&at.to_be_bytes()[..], &(clusters as u32).to_be_bytes()].concat();
        file.write(48, &pointer)?;
        file.sync()?;
        let old = (self.table_offset >> self.cluster_bits, self.table_clusters);
        (self.table, self.table_offset, self.table_clusters) = (table, at, clusters);
        self.blocks.clear();
        self.release(file, old.0, old.1)?;
        Ok(())
    }
}
