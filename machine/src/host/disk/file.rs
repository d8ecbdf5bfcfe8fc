//! An image's file on the host: reads and writes at offsets, locks, holes.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use softmetal_bus::{GuestMemory, Run};

use crate::error::UserError;

/// Who else may have the file open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Anybody; for a look at it.
    None,
    /// Readers.
    Shared,
    /// Nobody; the file can be written.
    Exclusive,
}

/// An open image file. The lock lives as long as this.
#[derive(Debug)]
pub struct ImageFile {
    file: File,
    path: PathBuf,
    len: u64,
    writable: bool,
    /// Device and inode, to notice that somebody put another file in its place.
    identity: (u64, u64),
    /// What is done to the file, for tests of power loss.
    #[cfg(test)]
    pub journal: std::cell::RefCell<Vec<Change>>,
}

/// A change of a file, as the host's disk may see it.
#[cfg(test)]
#[derive(Clone, Debug)]
pub enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
    Hole(u64, u64),
    /// All before this is durable.
    Sync,
}

/// The longest table that is read whole, in bytes: enough for images of many TiB.
const MAX_TABLE: u64 = 64 << 20;
/// Bytes of zeros written at a time where the file system knows no better way.
const ZEROS: usize = 1 << 20;

/// Text from an image as a message can hold it.
pub fn shown(text: &str) -> String {
    const MOST: usize = 60;
    let mut chars = text.chars();
    let start: String = chars.by_ref().take(MOST).flat_map(char::escape_debug).collect();
    if chars.next().is_some() { start + "..." } else { start }
}

impl ImageFile {
    /// Opens `path`.
    ///
    /// # Errors
    /// [`UserError`] when it cannot be opened, is no regular file or block device, or is in use.
    pub fn open(path: &Path, lock: Lock) -> Result<Self, UserError> {
        let p = path.display();
        let failed = |e: io::Error| UserError::file("image", path, &e);
        // Opening a FIFO would wait for its other end, so the kind comes first.
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if kind.is_dir() {
            return Err(UserError(format!("the image {p} is a directory; give an image file")));
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Err(UserError(format!("the image {p} is no regular file or block device; give an image file")));
        }
        let writable = lock == Lock::Exclusive;
        let mut file = OpenOptions::new().read(true).write(writable).open(path).map_err(|e| {
            let refused = matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem);
            if writable && refused && File::open(path).is_ok() {
                UserError(format!("the image {p} cannot be written; check its mode and owner"))
            } else {
                failed(e)
            }
        })?;
        let operation = match lock {
            Lock::None => None,
            Lock::Shared => Some(FlockOperation::NonBlockingLockShared),
            Lock::Exclusive => Some(FlockOperation::NonBlockingLockExclusive),
        };
        if let Some(Err(e)) = operation.map(|o| rustix::fs::flock(&file, o)) {
            if e == rustix::io::Errno::WOULDBLOCK {
                return Err(UserError(format!("the image {p} is in use by another run; end that run, or give each its own copy")));
            }
            log::warn!("the image {p} cannot be locked ({e}); take care that no other run writes it");
        }
        let len = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let identity = file.metadata().map(|m| (m.dev(), m.ino())).map_err(failed)?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
            len,
            writable,
            identity,
            #[cfg(test)]
            journal: Default::default(),
        })
    }

    /// An own, new file that nobody else knows yet.
    ///
    /// # Errors
    /// The host's.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let identity = file.metadata().map(|m| (m.dev(), m.ino()))?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
            len: 0,
            writable: true,
            identity,
            #[cfg(test)]
            journal: Default::default(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it was opened for writing.
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// Bytes that it takes on the host.
    pub fn allocated(&self) -> u64 {
        self.file.metadata().map_or(0, |m| m.blocks() * 512)
    }

    /// The error for a file whose contents contradict themselves.
    pub fn damaged(&self, what: impl std::fmt::Display) -> UserError {
        UserError(format!("the image {} is damaged ({what}); use a sound copy of it", self.path.display()))
    }

    /// The error for a file that uses what is not there.
    pub fn unsupported(&self, what: impl std::fmt::Display) -> UserError {
        UserError(format!(
            "the image {} {what}, which does not work; convert it with qemu-img convert -O qcow2 OLD NEW",
            self.path.display()
        ))
    }

    /// The error of a request that met contradictory contents.
    pub fn damage(&self, what: impl std::fmt::Display) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("the image is damaged ({what})"))
    }

    /// Fills `buf` from `offset`; what lies past the end reads as zeros.
    ///
    /// # Errors
    /// The host's.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset.saturating_add(done as u64)) {
                Ok(0) => {
                    buf[done..].fill(0);
                    break;
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// The host's, or an unexpected end.
    pub fn read_exact(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    /// Fills `runs` of guest memory from `offset`.
    ///
    /// # Errors
    /// The host's, or an unexpected end.
    pub fn read_into(&self, offset: u64, memory: &GuestMemory, runs: &[Run]) -> io::Result<()> {
        memory.read_file(runs, &self.file, offset)
    }

    /// Stores `runs` of guest memory at `offset`, within the file's length.
    ///
    /// # Errors
    /// The host's.
    pub fn write_from(&mut self, offset: u64, memory: &GuestMemory, runs: &[Run]) -> io::Result<()> {
        memory.write_file(runs, &self.file, offset)
    }

    /// The `len` bytes at `offset`, which must be in the file.
    ///
    /// # Errors
    /// A sentence; `what` is missing.
    pub fn take(&self, what: &str, offset: u64, len: u64) -> Result<Vec<u8>, UserError> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(self.damaged(format_args!("its {what} lies past the end of the file")));
        }
        if len > MAX_TABLE {
            return Err(self.damaged(format_args!("its {what} is of {len} bytes")));
        }
        let mut bytes = vec![0; len as usize];
        self.read_exact(offset, &mut bytes).map_err(|e| UserError::file("image", &self.path, &e))?;
        Ok(bytes)
    }

    /// Stores `buf` at `offset`.
    ///
    /// # Errors
    /// The host's.
    pub fn write(&mut self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.file.write_all_at(buf, offset)?;
        #[cfg(test)]
        self.journal.borrow_mut().push(Change::Write(offset, buf.to_vec()));
        self.len = self.len.max(offset + buf.len() as u64);
        Ok(())
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// The host's.
    pub fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        self.journal.borrow_mut().push(Change::Sync);
        if self.writable { self.file.sync_data() } else { Ok(()) }
    }

    /// Another handle to the open file.
    ///
    /// # Errors
    /// The host's.
    pub fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Makes it `len` bytes long; what is new reads as zeros.
    ///
    /// # Errors
    /// The host's.
    pub fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        #[cfg(test)]
        self.journal.borrow_mut().push(Change::Length(len));
        self.len = len;
        Ok(())
    }

    /// Gives the room of a range back to the host; it reads as zeros if this succeeds.
    ///
    /// # Errors
    /// The host's; many file systems cannot do it.
    #[cfg(target_os = "linux")]
    pub fn punch(&mut self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::FallocateFlags as F;
        if len > 0 && offset < self.len {
            rustix::fs::fallocate(&self.file, F::PUNCH_HOLE | F::KEEP_SIZE, offset, len.min(self.len - offset))?;
            #[cfg(test)]
            self.journal.borrow_mut().push(Change::Hole(offset, len.min(self.len - offset)));
        }
        Ok(())
    }

    /// Other hosts have no common call for it.
    #[cfg(not(target_os = "linux"))]
    pub fn punch(&mut self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes a range read as zeros, as a hole where the file system has them.
    ///
    /// # Errors
    /// The host's.
    pub fn zero(&mut self, offset: u64, len: u64) -> io::Result<()> {
        if self.punch(offset, len).is_ok() {
            if offset + len > self.len {
                self.set_len(offset + len)?;
            }
            return Ok(());
        }
        let zeros = vec![0; len.min(ZEROS as u64) as usize];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(ZEROS as u64);
            self.write(offset + done, &zeros[..n as usize])?;
            done += n;
        }
        Ok(())
    }

    /// Whether there is data at `offset` or a hole, and how far it goes (at most `max` bytes).
    #[cfg(target_os = "linux")]
    pub fn run(&self, offset: u64, max: u64) -> (bool, u64) {
        use rustix::fs::SeekFrom;
        let reach = |end: u64| end.saturating_sub(offset).clamp(1, max);
        match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) if data > offset => (false, reach(data)),
            Ok(_) => (true, rustix::fs::seek(&self.file, SeekFrom::Hole(offset)).map_or(max, reach)),
            // There is no data up to the end.
            Err(rustix::io::Errno::NXIO) => (false, max),
            Err(_) => (true, max),
        }
    }

    /// Other hosts do not tell.
    #[cfg(not(target_os = "linux"))]
    pub fn run(&self, _offset: u64, max: u64) -> (bool, u64) {
        (true, max)
    }
}

impl Drop for ImageFile {
    fn drop(&mut self) {
        // A process that is being started at this moment holds a copy of the file for a while, and with it the lock.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        if !self.writable {
            return;
        }
        match std::fs::metadata(&self.path) {
            Ok(m) if (m.dev(), m.ino()) == self.identity => {}
            _ => log::warn!(
                "the file {} was replaced or removed while it was in use; what was written went to the old one",
                self.path.display()
            ),
        }
    }
}
