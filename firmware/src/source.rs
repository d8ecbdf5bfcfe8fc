//! Where what is booted comes from: bytes in memory, or of a file that only goes through it.

use crate::error::LoadError;

/// Bytes that are read by pieces, and always the same ones.
pub trait Source {
    /// How many there are.
    fn size(&self) -> u64;

    /// Fills `buf` with those from `offset` on.
    ///
    /// # Errors
    /// [`LoadError::Unreadable`]: there are not so many, or they can no longer be had as they were.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), LoadError>;

    /// The first `len`, or as many as there are.
    ///
    /// # Errors
    /// As [`Source::read_at`].
    fn head(&self, len: usize) -> Result<Vec<u8>, LoadError> {
        let mut head = vec![0; usize::try_from(self.size()).map_or(len, |size| size.min(len))];
        self.read_at(0, &mut head)?;
        Ok(head)
    }

    /// All.
    ///
    /// # Errors
    /// As [`Source::read_at`].
    fn all(&self) -> Result<Vec<u8>, LoadError> {
        self.head(usize::MAX)
    }
}

impl<T: AsRef<[u8]>> Source for T {
    fn size(&self) -> u64 {
        self.as_ref().len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), LoadError> {
        let there = usize::try_from(offset).ok().and_then(|offset| self.as_ref().get(offset..)?.get(..buf.len()));
        buf.copy_from_slice(there.ok_or(LoadError::Unreadable { why: "a file ends too early; fetch it again".into() })?);
        Ok(())
    }
}
