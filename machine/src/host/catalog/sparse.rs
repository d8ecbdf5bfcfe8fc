//! Copies of large files that are mostly holes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use rustix::fs::{SeekFrom as Place, ioctl_ficlone, seek};
use rustix::io::Errno;

/// Copies `from` to the new file `to`, which is removed again when that fails. Where the file system can, the two share
/// their blocks; else what is a hole in one is a hole in the other.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = File::create_new(to)?;
    let copied = data(&mut source, &mut target).and_then(|()| target.sync_all());
    if copied.is_err() {
        let _ = std::fs::remove_file(to);
    }
    copied
}

fn data(source: &mut File, target: &mut File) -> io::Result<()> {
    if ioctl_ficlone(&*target, &*source).is_ok() {
        return Ok(());
    }
    let len = source.metadata()?.len();
    target.set_len(len)?;
    let mut at = 0;
    while at < len {
        let start = match seek(&*source, Place::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            // The file system knows no holes.
            Err(_) => at,
        };
        let end = seek(&*source, Place::Hole(start)).unwrap_or(len);
        source.seek(SeekFrom::Start(start))?;
        target.seek(SeekFrom::Start(start))?;
        let copied = io::copy(&mut (&mut *source).take(end - start), target)?;
        if copied != end - start {
            return Err(io::Error::other("the source has changed meanwhile"));
        }
        at = end;
    }
    target.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn contents_and_holes_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a"), folder.path().join("b"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"one", 5 << 20).unwrap();
        file.write_all_at(b"two", (64 << 20) - 3).unwrap();
        copy(&from, &to).unwrap();
        assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
        assert!(to.metadata().unwrap().blocks() * 512 < 32 << 20);
        let error = copy(&from, &to).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(to.exists());
    }
}
