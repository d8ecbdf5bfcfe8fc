//! Disks in files of the host.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::FlockOperation;
use softmetal_bus::{BlockBackend, BlockError};

use crate::error::UserError;

/// How a disk image is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskMode {
    /// The guest may not write.
    pub read_only: bool,
    /// Writes stay in memory and are dropped at the end.
    pub snapshot: bool,
}

/// Opens a raw image for the guest, locked against other runs.
///
/// # Errors
/// [`UserError`] when the file cannot be opened, is empty, is no whole number of sectors, or is in use.
pub fn open(path: &Path, mode: DiskMode) -> Result<Box<dyn BlockBackend>, UserError> {
    let writes = !mode.read_only && !mode.snapshot;
    let mut file = OpenOptions::new().read(true).write(writes).open(path).map_err(|e| {
        let refused = matches!(e.kind(), std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem);
        if writes && refused && File::open(path).is_ok() {
            let p = path.display();
            UserError(format!("the disk {p} cannot be written; add `,ro` or `,snapshot` to --disk {p}"))
        } else {
            UserError::file("disk", path, &e)
        }
    })?;
    if file.metadata().is_ok_and(|m| m.is_dir()) {
        return Err(UserError(format!("the disk {} is a directory; give an image file", path.display())));
    }
    let size = file.seek(SeekFrom::End(0)).map_err(|e| UserError::file("disk", path, &e))?;
    if size == 0 {
        return Err(UserError(format!("the disk {} is empty; give an image with contents", path.display())));
    }
    if size % 512 != 0 {
        return Err(UserError(format!(
            "the disk {} is {size} bytes, which is no whole number of 512-byte sectors; it may be cut short",
            path.display()
        )));
    }
    let lock = if writes { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
    if let Err(e) = rustix::fs::flock(&file, lock) {
        if e == rustix::io::Errno::WOULDBLOCK {
            return Err(UserError(format!(
                "the disk {} is in use by another run; end that run, or give each its own copy",
                path.display()
            )));
        }
        log::warn!("the disk {} cannot be locked ({e}); take care that no other run writes it", path.display());
    }
    let disk = FileDisk { file, size, read_only: mode.read_only };
    Ok(if mode.snapshot && !mode.read_only { Box::new(Overlay { base: disk, clusters: BTreeMap::new() }) } else { Box::new(disk) })
}

/// A raw image; the lock lives as long as the file is open.
struct FileDisk {
    file: File,
    size: u64,
    read_only: bool,
}

impl FileDisk {
    fn check(&self, offset: u64, len: usize) -> Result<(), BlockError> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(BlockError::OutOfRange),
        }
    }
}

impl BlockBackend for FileDisk {
    fn size(&self) -> u64 {
        self.size
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.check(offset, buf.len())?;
        Ok(self.file.read_exact_at(buf, offset)?)
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), BlockError> {
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        self.check(offset, buf.len())?;
        Ok(self.file.write_all_at(buf, offset)?)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        if !self.read_only {
            self.file.sync_data()?;
        }
        Ok(())
    }
}

impl Drop for FileDisk {
    fn drop(&mut self) {
        if let Err(e) = self.flush() {
            log::error!("a disk could not be flushed: {e}");
        }
    }
}

/// Bytes in a cluster of an [`Overlay`].
const CLUSTER: u64 = 64 << 10;

/// A disk whose writes stay in memory, by cluster.
struct Overlay {
    base: FileDisk,
    clusters: BTreeMap<u64, Box<[u8]>>,
}

impl Overlay {
    /// The pieces of an access, each within one cluster: (cluster, offset in it, range of the buffer).
    fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            if done >= len {
                return None;
            }
            let at = offset + done as u64;
            let within = (at % CLUSTER) as usize;
            let run = (CLUSTER as usize - within).min(len - done);
            let range = done..done + run;
            done += run;
            Some((at / CLUSTER, within, range))
        })
    }
}

impl BlockBackend for Overlay {
    fn size(&self) -> u64 {
        self.base.size
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.base.check(offset, buf.len())?;
        for (cluster, within, range) in Self::pieces(offset, buf.len()) {
            let part = &mut buf[range];
            match self.clusters.get(&cluster) {
                Some(bytes) => part.copy_from_slice(&bytes[within..within + part.len()]),
                None => self.base.read_at(cluster * CLUSTER + within as u64, part)?,
            }
        }
        Ok(())
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), BlockError> {
        self.base.check(offset, buf.len())?;
        for (cluster, within, range) in Self::pieces(offset, buf.len()) {
            let part = &buf[range];
            if !self.clusters.contains_key(&cluster) {
                let mut bytes = vec![0; CLUSTER as usize].into_boxed_slice();
                let start = cluster * CLUSTER;
                let have = CLUSTER.min(self.base.size - start) as usize;
                self.base.read_at(start, &mut bytes[..have])?;
                self.clusters.insert(cluster, bytes);
            }
            let bytes = self.clusters.get_mut(&cluster).expect("it was inserted above");
            bytes[within..within + part.len()].copy_from_slice(part);
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

    fn image(len: usize) -> tempfile::NamedTempFile {
        let f = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(f.path(), (0..len).map(|i| i as u8).collect::<Vec<_>>()).unwrap();
        f
    }

    #[test]
    fn overlay_keeps_the_file() {
        let f = image(100 * 1024);
        let before = std::fs::read(f.path()).unwrap();
        let mut d = open(f.path(), DiskMode { snapshot: true, read_only: false }).unwrap();
        d.write_at(65530, &[0xaa; 20]).unwrap();
        let mut b = [0; 24];
        d.read_at(65528, &mut b).unwrap();
        assert_eq!(b[..2], before[65528..65530]);
        assert_eq!(b[2..22], [0xaa; 20]);
        assert_eq!(b[22..], before[65550..65552]);
        assert!(d.write_at(100 * 1024 - 1, &[0; 2]).is_err());
        assert_eq!(std::fs::read(f.path()).unwrap(), before);
    }

    #[test]
    fn two_runs_cannot_write_one_image() {
        let f = image(1024);
        let first = open(f.path(), DiskMode::default()).unwrap();
        let Err(e) = open(f.path(), DiskMode::default()) else { panic!("the second run got the disk") };
        assert!(e.0.contains("in use"), "{e}");
        drop(first);
        let mut d = open(f.path(), DiskMode::default()).unwrap();
        d.write_at(512, b"hello").unwrap();
        drop(d);
        assert_eq!(&std::fs::read(f.path()).unwrap()[512..517], b"hello");
    }

    #[test]
    fn bad_images_are_refused() {
        for len in [0, 100, 513] {
            assert!(open(image(len).path(), DiskMode::default()).is_err(), "{len}");
        }
        assert!(open(Path::new("/nonexistent/disk"), DiskMode::default()).is_err());
        assert!(open(Path::new("/"), DiskMode { read_only: true, snapshot: false }).is_err());
    }
}
