//! Raw images.

use softmetal_bus::{BlockBackend, BlockError, GuestMemory, Run};

use super::file::ImageFile;
use super::image::{Extent, Format, Image, total};
use crate::error::UserError;

/// The disk's bytes as they are.
pub struct Raw {
    file: ImageFile,
    size: u64,
    /// The format was guessed: the guest must not make the image look like another one, or the next run would believe it.
    guessed: bool,
}

impl Raw {
    /// Takes `file` as it is.
    ///
    /// # Errors
    /// A sentence when it is no whole number of sectors.
    pub fn open(file: ImageFile, guessed: bool) -> Result<Self, UserError> {
        let (size, path) = (file.len(), file.path().display());
        if size == 0 {
            return Err(UserError(format!("the image {path} is empty; give an image with contents")));
        }
        if size % 512 != 0 {
            return Err(UserError(format!(
                "the image {path} is {size} bytes, which is no whole number of 512-byte sectors; it may be cut short"
            )));
        }
        Ok(Self { file, size, guessed })
    }

    /// Whether the write would turn the image into another format's.
    fn disguises(&self, offset: u64, buf: &[u8]) -> Result<bool, BlockError> {
        if !self.guessed || offset >= 512 {
            return Ok(false);
        }
        let mut head = [0; 512];
        self.file.read(0, &mut head)?;
        let (at, n) = (offset as usize, buf.len().min(512 - offset as usize));
        head[at..at + n].copy_from_slice(&buf[..n]);
        Ok(Format::of_head(&head) != Format::Raw || Format::foreign(&head).is_some())
    }
}

impl BlockBackend for Raw {
    fn size(&self) -> u64 {
        self.size
    }
    fn read_only(&self) -> bool {
        !self.file.writable()
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.check(offset, buf.len() as u64, false)?;
        Ok(self.file.read_exact(offset, buf)?)
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), BlockError> {
        self.check(offset, buf.len() as u64, true)?;
        if self.disguises(offset, buf)? {
            let what = "the first sector would make the raw image look like another format; name its format with `,format=raw`";
            return Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, what).into());
        }
        Ok(self.file.write(offset, buf)?)
    }
    fn read_into(&mut self, offset: u64, memory: &GuestMemory, runs: &[Run]) -> Result<bool, BlockError> {
        self.check(offset, total(runs), false)?;
        self.file.read_into(offset, memory, runs)?;
        Ok(true)
    }
    fn write_from(&mut self, offset: u64, memory: &GuestMemory, runs: &[Run]) -> Result<bool, BlockError> {
        self.check(offset, total(runs), true)?;
        // The first sector is looked at before it is written.
        if self.guessed && offset < 512 {
            return Ok(false);
        }
        self.file.write_from(offset, memory, runs)?;
        Ok(true)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        Ok(self.file.sync()?)
    }
    fn discard(&mut self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.check(offset, len, true)?;
        // A hint: where there are no holes, the bytes stay.
        if let Err(e) = self.file.punch(offset, len) {
            log::debug!("{}: no hole can be made: {e}", self.file.path().display());
        }
        Ok(())
    }
    fn write_zeroes(&mut self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.check(offset, len, true)?;
        Ok(self.file.zero(offset, len)?)
    }
}

impl Image for Raw {
    fn format(&self) -> Format {
        Format::Raw
    }
    fn extent(&mut self, offset: u64) -> Result<Extent, BlockError> {
        let (data, len) = self.file.run(offset, self.size - offset);
        Ok(Extent { len, zero: !data })
    }
    fn file(&self) -> &ImageFile {
        &self.file
    }
    fn handle(&self) -> Option<std::fs::File> {
        self.file.handle().ok()
    }
    fn resize(&mut self, size: u64) -> Result<(), BlockError> {
        self.file.set_len(size)?;
        self.size = size;
        Ok(self.file.sync()?)
    }
}
