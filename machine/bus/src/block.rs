//! The byte store behind a disk. Devices see only this; files live in the machine's host part.

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
    /// Makes all earlier writes durable.
    ///
    /// # Errors
    /// [`BlockError::Host`] when the host fails.
    fn flush(&mut self) -> Result<(), BlockError>;
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
