//! What a machine boots, and boots again after a reset.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::board::Firmware;
use crate::error::UserError;

/// What is booted; kept for resets.
#[derive(Clone, Debug, Default)]
pub struct Images {
    /// What runs first.
    pub firmware: Firmware,
    /// A kernel: bzImage, PVH or multiboot ELF, or a boot sector. Empty if the firmware is to find something to boot.
    pub kernel: Contents,
    /// The initial RAM disk, or a multiboot module.
    pub initrd: Option<Contents>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// Where bytes come from that are needed at each boot, and always the same ones.
pub trait Source: Send + Sync {
    /// All of them.
    ///
    /// # Errors
    /// They can no longer be had as they were.
    fn bytes(&self) -> Result<Bytes<'_>, UserError>;

    /// The first `len`, or as many as there are.
    ///
    /// # Errors
    /// They cannot be had.
    fn head(&self, len: usize) -> Result<Cow<'_, [u8]>, UserError>;
}

/// Bytes, until nobody looks at them any more.
pub type Bytes<'a> = Box<dyn Deref<Target = [u8]> + 'a>;

impl Source for Vec<u8> {
    fn bytes(&self) -> Result<Bytes<'_>, UserError> {
        Ok(Box::new(self.as_slice()))
    }

    fn head(&self, len: usize) -> Result<Cow<'_, [u8]>, UserError> {
        Ok(self[..len.min(self.len())].into())
    }
}

/// What a file that is booted contains: held in memory, or, so that a running machine does not pay for it, read at each boot.
#[derive(Clone, Default)]
pub struct Contents(Option<Arc<dyn Source>>);

impl Contents {
    /// That of a source, which has some.
    pub fn of(source: impl Source + 'static) -> Self {
        Self(Some(Arc::new(source)))
    }

    /// There is nothing to boot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// All of it.
    ///
    /// # Errors
    /// As [`Source::bytes`].
    pub fn bytes(&self) -> Result<Bytes<'_>, UserError> {
        self.0.as_ref().map_or_else(|| Ok(Box::new([].as_slice()) as Bytes<'_>), |source| source.bytes())
    }

    /// The first `len` bytes of it, or as many as there are.
    ///
    /// # Errors
    /// As [`Source::head`].
    pub fn head(&self, len: usize) -> Result<Cow<'_, [u8]>, UserError> {
        self.0.as_ref().map_or(Ok(Cow::default()), |source| source.head(len))
    }
}

impl From<Vec<u8>> for Contents {
    fn from(bytes: Vec<u8>) -> Self {
        if bytes.is_empty() { Self::default() } else { Self::of(bytes) }
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "nothing" } else { "something" })
    }
}
