//! Writes that stay in memory.

use std::collections::BTreeMap;

use softmetal_bus::{BlockBackend, BlockError};

use super::image::pieces;

/// Bytes in a cluster.
const CLUSTER: u64 = 64 << 10;

/// A disk whose writes stay in memory, by cluster, and are dropped at the end.
pub struct Overlay {
    base: Box<dyn BlockBackend>,
    clusters: BTreeMap<u64, Box<[u8]>>,
}

impl Overlay {
    /// Over `base`, which is only read.
    pub fn new(base: Box<dyn BlockBackend>) -> Self {
        Self { base, clusters: BTreeMap::new() }
    }
}

impl BlockBackend for Overlay {
    fn size(&self) -> u64 {
        self.base.size()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.check(offset, buf.len() as u64, false)?;
        for (cluster, within, range) in pieces(CLUSTER, offset, buf.len()) {
            let part = &mut buf[range];
            match self.clusters.get(&cluster) {
                Some(bytes) => part.copy_from_slice(&bytes[within as usize..][..part.len()]),
                None => self.base.read_at(cluster * CLUSTER + within, part)?,
            }
        }
        Ok(())
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), BlockError> {
        self.check(offset, buf.len() as u64, true)?;
        for (cluster, within, range) in pieces(CLUSTER, offset, buf.len()) {
            let part = &buf[range];
            if !self.clusters.contains_key(&cluster) {
                let mut bytes = vec![0; CLUSTER as usize].into_boxed_slice();
                let start = cluster * CLUSTER;
                let have = CLUSTER.min(self.base.size() - start) as usize;
                if part.len() < have {
                    self.base.read_at(start, &mut bytes[..have])?;
                }
                self.clusters.insert(cluster, bytes);
            }
            let bytes = self.clusters.get_mut(&cluster).expect("it was inserted above");
            bytes[within as usize..][..part.len()].copy_from_slice(part);
        }
        Ok(())
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        Ok(())
    }
}
