//! Writes that are dropped at the end: in memory, and when they are many, in a file without a name.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use softmetal_bus::{BlockBackend, BlockError};

use super::image::pieces;

/// Bytes in a cluster.
const CLUSTER: u64 = 64 << 10;
/// Clusters that stay in memory: 64 MiB.
const IN_MEMORY: usize = 1024;

/// Where a cluster that was written is.
enum Place {
    Memory(Box<[u8]>),
    /// In the file, at so many clusters.
    File(u64),
}

/// A disk whose writes are kept by cluster, and are dropped at the end.
pub struct Overlay {
    base: Box<dyn BlockBackend>,
    clusters: BTreeMap<u64, Place>,
    /// How many more go into memory.
    room: usize,
    /// What does not: the file, and how many clusters it holds.
    file: Option<(File, u64)>,
    /// The user knows that the file cannot be written.
    told: bool,
}

/// A file that is gone when it is closed. `/var/tmp` is on a disk where `/tmp` may be memory.
fn nameless() -> io::Result<File> {
    let folder = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    tempfile::tempfile_in(folder).or_else(|_| tempfile::tempfile())
}

impl Overlay {
    /// Over `base`, which is only read.
    pub fn new(base: Box<dyn BlockBackend>) -> Self {
        Self::with_room(base, IN_MEMORY)
    }

    /// The same, with so many clusters in memory.
    fn with_room(base: Box<dyn BlockBackend>, room: usize) -> Self {
        Self { base, clusters: BTreeMap::new(), room, file: None, told: false }
    }

    /// The bytes of a cluster that was not written yet; those past the end of the disk are zeros.
    fn unwritten(&mut self, cluster: u64) -> Result<Box<[u8]>, BlockError> {
        let mut bytes = vec![0; CLUSTER as usize].into_boxed_slice();
        let start = cluster * CLUSTER;
        let have = CLUSTER.min(self.base.size() - start) as usize;
        self.base.read_at(start, &mut bytes[..have])?;
        Ok(bytes)
    }

    /// Keeps a cluster that was not written yet.
    fn keep(&mut self, cluster: u64, bytes: Box<[u8]>) -> io::Result<()> {
        if self.room > 0 {
            self.room -= 1;
            self.clusters.insert(cluster, Place::Memory(bytes));
            return Ok(());
        }
        if self.file.is_none() {
            self.file = Some((nameless()?, 0));
        }
        if let Some((file, count)) = &mut self.file {
            file.write_all_at(&bytes, *count * CLUSTER)?;
            self.clusters.insert(cluster, Place::File(*count));
            *count += 1;
        }
        Ok(())
    }

    fn write_piece(&mut self, cluster: u64, within: u64, part: &[u8]) -> Result<(), BlockError> {
        match (self.clusters.get_mut(&cluster), &self.file) {
            (Some(Place::Memory(bytes)), _) => bytes[within as usize..][..part.len()].copy_from_slice(part),
            (Some(Place::File(at)), Some((file, _))) => file.write_all_at(part, *at * CLUSTER + within)?,
            _ => {
                let mut bytes = self.unwritten(cluster)?;
                bytes[within as usize..][..part.len()].copy_from_slice(part);
                self.keep(cluster, bytes)?;
            }
        }
        Ok(())
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
            match (self.clusters.get(&cluster), &self.file) {
                (Some(Place::Memory(bytes)), _) => part.copy_from_slice(&bytes[within as usize..][..part.len()]),
                (Some(Place::File(at)), Some((file, _))) => file.read_exact_at(part, *at * CLUSTER + within)?,
                _ => self.base.read_at(cluster * CLUSTER + within, part)?,
            }
        }
        Ok(())
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), BlockError> {
        self.check(offset, buf.len() as u64, true)?;
        for (cluster, within, range) in pieces(CLUSTER, offset, buf.len()) {
            if let Err(e) = self.write_piece(cluster, within, &buf[range]) {
                if !std::mem::replace(&mut self.told, true) {
                    log::error!(
                        "what is written to a disk with `snapshot` finds no room in a temporary file: {e}; set TMPDIR to a folder with more"
                    );
                }
                return Err(e);
            }
        }
        Ok(())
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_in_memory_is_in_a_file() {
        const SIZE: u64 = 10 * CLUSTER + 512;
        let base: Vec<u8> = (0..SIZE).map(|n| (n % 251) as u8).collect();
        let mut expected = base.clone();
        let mut disk = Overlay::with_room(Box::new(base), 2);
        let mut x = 1u64;
        for n in 0..200u64 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (x >> 20) % SIZE;
            let len = (x >> 45) % (2 * CLUSTER).min(SIZE - at);
            let bytes = vec![n as u8; len as usize];
            disk.write_at(at, &bytes).unwrap();
            expected[at as usize..(at + len) as usize].copy_from_slice(&bytes);
        }
        disk.write_at(SIZE - 5, &[7; 5]).unwrap();
        expected[SIZE as usize - 5..].fill(7);
        let mut all = vec![0; SIZE as usize];
        disk.read_at(0, &mut all).unwrap();
        assert!(all == expected);
        let in_file = disk.clusters.values().filter(|place| matches!(place, Place::File(_))).count() as u64;
        assert_eq!((disk.room, disk.file.as_ref().map(|f| f.1)), (0, Some(in_file)));
        assert!(in_file > 5 && disk.write_at(SIZE, &[0]).is_err());
    }
}
