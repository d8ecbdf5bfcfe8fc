//! What a machine boots, and boots again after a reset.

use std::fmt;
use std::sync::Arc;

pub use softmetal_firmware::Source;

use crate::board::Firmware;

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

/// What a file that is booted contains: held in memory, or, so that a running machine does not pay for it, read at each boot.
#[derive(Clone, Default)]
pub struct Contents(Option<Arc<dyn Source + Send + Sync>>);

impl Contents {
    /// That of a source, which has some.
    pub fn of(source: impl Source + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(source)))
    }

    /// There is nothing to boot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The bytes themselves.
    #[must_use]
    pub fn source(&self) -> &dyn Source {
        match &self.0 {
            Some(source) => &**source,
            None => &[0; 0],
        }
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
