//! The byte store behind a disk. Devices see only this; files live in the machine's host part.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::GuestMemory;

/// Why a store could not serve a request; reaches the guest as a device error.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The request lies (partly) past the end.
    #[error("access past the end of the disk")]
    OutOfRange,
    /// A write to a read-only store.
    #[error("the disk is read-only")]
    ReadOnly,
    /// The host could not do it (EIO, ENOSPC, ...).
    #[error("{0}")]
    Host(#[from] std::io::Error),
}

/// A piece of guest memory: what a transfer fills or takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Byte offset in guest memory.
    pub offset: u64,
    /// Bytes.
    pub len: usize,
}

impl Run {
    /// Of the bytes of `runs`, in order, those of `range`.
    #[must_use]
    pub fn part(runs: &[Self], range: Range<u64>) -> Vec<Self> {
        let mut end = 0;
        let clipped = runs.iter().filter_map(|run| {
            let start = end;
            end += run.len as u64;
            let (first, last) = (range.start.max(start), range.end.min(end));
            (first < last).then(|| Self { offset: run.offset + (first - start), len: (last - first) as usize })
        });
        clipped.collect()
    }
}

/// A disk's bytes. Offsets and lengths are in bytes; any alignment is allowed.
pub trait BlockBackend: Send {
    /// Size in bytes.
    fn size(&self) -> u64;
    /// Whether writes are refused.
    fn read_only(&self) -> bool;
    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`BlockError`] when out of range or the host fails.
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError>;
    /// Stores `buf` at `offset`.
    ///
    /// # Errors
    /// [`BlockError`] when out of range, read-only or the host fails.
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), BlockError>;
    /// Fills `runs` of guest memory, in order, from `offset`, without a buffer between. False, and nothing has happened, if
    /// the store cannot do that: [`BlockBackend::read_at`] is the way then.
    ///
    /// # Errors
    /// As of [`BlockBackend::read_at`].
    fn read_into(&mut self, offset: u64, memory: &GuestMemory, runs: &[Run]) -> Result<bool, BlockError> {
        let _ = (offset, memory, runs);
        Ok(false)
    }
    /// Stores the bytes of `runs` of guest memory, in order, at `offset`, without a buffer between. False, and nothing has
    /// happened, if the store cannot do that: [`BlockBackend::write_at`] is the way then.
    ///
    /// # Errors
    /// As of [`BlockBackend::write_at`].
    fn write_from(&mut self, offset: u64, memory: &GuestMemory, runs: &[Run]) -> Result<bool, BlockError> {
        let _ = (offset, memory, runs);
        Ok(false)
    }
    /// Makes all earlier writes durable.
    ///
    /// # Errors
    /// [`BlockError::Host`] when the host fails.
    fn flush(&mut self) -> Result<(), BlockError>;
    /// Begins to make all earlier writes durable beside whatever else happens, if the store can do that. The next
    /// [`BlockBackend::flush`] waits for the end of it.
    fn begin_flush(&mut self) {}
    /// Whether what [`BlockBackend::begin_flush`] has begun still goes on.
    fn flushing(&mut self) -> bool {
        false
    }
    /// Begins to bring bytes near that a read will ask for, beside whatever else happens, if that read would take the host
    /// long now.
    fn begin_read(&mut self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
    /// Whether what [`BlockBackend::begin_read`] has begun still goes on.
    fn reading(&mut self) -> bool {
        false
    }
    /// A hint that the bytes are not needed any more; what they read as afterwards is up to the store.
    ///
    /// # Errors
    /// [`BlockError`] when out of range, read-only or the host fails.
    fn discard(&mut self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.check(offset, len, true)
    }
    /// Makes the bytes read as zeros, without room for them where the store can do that.
    ///
    /// # Errors
    /// [`BlockError`] when out of range, read-only or the host fails.
    fn write_zeroes(&mut self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.check(offset, len, true)?;
        let zeros = vec![0; len.min(ZEROS) as usize];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(ZEROS);
            self.write_at(offset + done, &zeros[..n as usize])?;
            done += n;
        }
        Ok(())
    }
    /// Whether an access may be: it lies within the store and is no write to a read-only one.
    ///
    /// # Errors
    /// [`BlockError::OutOfRange`] or [`BlockError::ReadOnly`].
    fn check(&self, offset: u64, len: u64, write: bool) -> Result<(), BlockError> {
        if write && self.read_only() {
            return Err(BlockError::ReadOnly);
        }
        let end = offset.checked_add(len).ok_or(BlockError::OutOfRange)?;
        if end > self.size() { Err(BlockError::OutOfRange) } else { Ok(()) }
    }
}

/// Bytes of zeros written at a time.
const ZEROS: u64 = 1 << 20;

/// A disk that several share: a controller and the firmware see the same bytes.
#[derive(Clone)]
pub struct SharedDisk(Arc<Mutex<Box<dyn BlockBackend>>>);

impl SharedDisk {
    /// Shares `backend`.
    #[must_use]
    pub fn new(backend: impl BlockBackend + 'static) -> Self {
        Self::from(Box::new(backend) as Box<dyn BlockBackend>)
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn BlockBackend>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Box<dyn BlockBackend>> for SharedDisk {
    fn from(backend: Box<dyn BlockBackend>) -> Self {
        Self(Arc::new(Mutex::new(backend)))
    }
}

impl BlockBackend for SharedDisk {
    fn size(&self) -> u64 {
        self.lock().size()
    }
    fn read_only(&self) -> bool {
        self.lock().read_only()
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.lock().read_at(offset, buf)
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), BlockError> {
        self.lock().write_at(offset, buf)
    }
    fn read_into(&mut self, offset: u64, memory: &GuestMemory, runs: &[Run]) -> Result<bool, BlockError> {
        self.lock().read_into(offset, memory, runs)
    }
    fn write_from(&mut self, offset: u64, memory: &GuestMemory, runs: &[Run]) -> Result<bool, BlockError> {
        self.lock().write_from(offset, memory, runs)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        self.lock().flush()
    }
    fn begin_flush(&mut self) {
        self.lock().begin_flush();
    }
    fn flushing(&mut self) -> bool {
        self.lock().flushing()
    }
    fn begin_read(&mut self, offset: u64, len: u64) {
        self.lock().begin_read(offset, len);
    }
    fn reading(&mut self) -> bool {
        self.lock().reading()
    }
    fn discard(&mut self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.lock().discard(offset, len)
    }
    fn write_zeroes(&mut self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.lock().write_zeroes(offset, len)
    }
}

/// A drive for removable media, shared by its controller, the firmware and whoever changes the medium.
#[derive(Clone, Default)]
pub struct Drive(Arc<Mutex<Slot>>);

#[derive(Default)]
struct Slot {
    medium: Option<SharedDisk>,
    /// How often a medium was put in or taken out.
    changes: u64,
    /// The guest prevents removal.
    locked: bool,
    /// The eject button was pressed while it did.
    asked: bool,
}

impl Drive {
    /// An empty drive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A drive with a medium in it from the start.
    #[must_use]
    pub fn with(medium: SharedDisk) -> Self {
        Self(Arc::new(Mutex::new(Slot { medium: Some(medium), ..Slot::default() })))
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The medium that is in it.
    #[must_use]
    pub fn medium(&self) -> Option<SharedDisk> {
        self.slot().medium.clone()
    }

    /// How often a medium was put in or taken out: whoever has seen another number has missed a change.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.slot().changes
    }

    /// Puts a medium in; returns the one that was there.
    pub fn insert(&self, medium: SharedDisk) -> Option<SharedDisk> {
        let mut slot = self.slot();
        slot.changes += 1;
        slot.medium.replace(medium)
    }

    /// The eject button is pressed: the medium comes out, or where the guest prevents that, the guest is asked for it.
    pub fn press_eject(&self) -> Option<SharedDisk> {
        if self.locked() {
            self.slot().asked = true;
            None
        } else {
            self.eject()
        }
    }

    /// Whether the eject button was pressed in vain since the last call.
    #[must_use]
    pub fn take_eject_request(&self) -> bool {
        std::mem::take(&mut self.slot().asked)
    }

    /// Takes the medium out, locked or not: to ask first is the caller's part.
    pub fn eject(&self) -> Option<SharedDisk> {
        let mut slot = self.slot();
        slot.changes += u64::from(slot.medium.is_some());
        slot.medium.take()
    }

    /// Whether the guest prevents removal.
    #[must_use]
    pub fn locked(&self) -> bool {
        self.slot().locked
    }

    /// Prevents or allows removal.
    pub fn set_locked(&self, locked: bool) {
        self.slot().locked = locked;
    }
}

/// A disk in memory, for tests and scratch space.
impl BlockBackend for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let range = range(offset, buf.len(), self.len()).ok_or(BlockError::OutOfRange)?;
        buf.copy_from_slice(&self[range]);
        Ok(())
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), BlockError> {
        let range = range(offset, buf.len(), self.len()).ok_or(BlockError::OutOfRange)?;
        self[range].copy_from_slice(buf);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        Ok(())
    }
}

fn range(offset: u64, len: usize, size: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(len)?;
    (end <= size).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_runs() {
        let run = |offset, len| Run { offset, len };
        let runs = [run(100, 10), run(50, 0), run(200, 5), run(0, 20)];
        assert_eq!(Run::part(&runs, 0..35), [run(100, 10), run(200, 5), run(0, 20)]);
        assert_eq!(Run::part(&runs, 9..16), [run(109, 1), run(200, 5), run(0, 1)]);
        assert_eq!(Run::part(&runs, 12..13), [run(202, 1)]);
        assert_eq!(Run::part(&runs, 40..50), []);
    }

    #[test]
    fn a_drive_is_shared() {
        let drive = Drive::with(SharedDisk::new(vec![1; 512]));
        let other = drive.clone();
        drive.medium().unwrap().write_at(3, &[7]).unwrap();
        let mut byte = [0];
        other.medium().unwrap().read_at(3, &mut byte).unwrap();
        assert_eq!((byte, other.changes()), ([7], 0));
        assert!(other.eject().is_some() && other.eject().is_none());
        assert!(drive.medium().is_none());
        assert!(drive.insert(SharedDisk::new(vec![0; 1024])).is_none());
        other.set_locked(true);
        assert!(drive.press_eject().is_none() && other.take_eject_request() && !drive.take_eject_request());
        assert_eq!((drive.changes(), drive.locked(), other.medium().unwrap().size()), (2, true, 1024));
    }
}
