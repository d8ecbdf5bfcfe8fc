//! Disks in files of the host.

mod ahead;
mod blocks;
mod chain;
mod file;
mod guest;
mod image;
mod overlay;
mod qcow2;
mod raw;
pub mod tool;
mod vhd;
mod vmdk;

use std::path::{Path, PathBuf};

use softmetal_bus::{BlockBackend, SharedDisk};

use self::chain::{Access, Reach};
use self::file::{ImageFile, Lock};
use self::guest::Disk;
pub use self::image::Format;
use self::image::Image;
use self::overlay::Overlay;
use self::qcow2::{Backing, Layout};
use super::files;
use crate::error::{UserError, why};

/// How a disk image is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskMode {
    /// The guest may not write.
    pub read_only: bool,
    /// Writes stay in memory and are dropped at the end.
    pub snapshot: bool,
    /// Writes go to this qcow2 file over the image, which is made if it is not there.
    pub overlay: Option<PathBuf>,
    /// The format, if it is not to be told from the contents.
    pub format: Option<Format>,
    /// The image may depend on files outside its folder.
    pub backing_anywhere: bool,
}

/// Opens an image for the guest, locked against other runs.
///
/// # Errors
/// [`UserError`] when the file cannot be opened, is empty or damaged, is no whole number of sectors, is in use, or
/// depends on files that it may not.
pub fn open(path: &Path, mode: &DiskMode) -> Result<Box<dyn BlockBackend>, UserError> {
    catch_size_limit();
    let writes = !mode.read_only && !mode.snapshot && mode.overlay.is_none();
    if writes && path.is_file() && !files::writable(path) && std::fs::File::open(path).is_ok() {
        let p = path.display();
        return Err(UserError(format!("the image {p} cannot be written; add `,ro` or `,snapshot` to --disk {p}")));
    }
    let lock = if writes { Lock::Exclusive } else { Lock::Shared };
    let access = Access { lock, format: mode.format, reach: Reach::of(path, mode.backing_anywhere)?, internal: None };
    let image = chain::open(path, &access)?;
    let disk = match &mode.overlay {
        Some(overlay) if !mode.read_only => Disk::new(open_overlay(overlay, image)?),
        _ => Disk::new(image),
    };
    Ok(if mode.snapshot && !mode.read_only { Box::new(Overlay::new(Box::new(disk))) } else { Box::new(disk) })
}

/// Opens a raw image as a removable medium. One that cannot be written is write-protected, as is every one if `read_only`.
///
/// # Errors
/// As of [`open`].
pub fn open_medium(path: &Path, read_only: bool) -> Result<SharedDisk, UserError> {
    let read_only = read_only || path.exists() && !files::writable(path);
    open(path, &DiskMode { read_only, format: Some(Format::Raw), ..DiskMode::default() }).map(SharedDisk::from)
}

/// Over the size limit of its files a process is killed unless it says otherwise; a failed write serves better.
fn catch_size_limit() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        if let Err(e) = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, flag) {
            log::warn!("the signal of the size limit cannot be caught: {e}");
        }
    });
}

/// The qcow2 file `path` over `base`: an existing one must have been made for it.
fn open_overlay(path: &Path, base: Box<dyn Image>) -> Result<Box<dyn Image>, UserError> {
    let p = path.display();
    let below = base.file().path().canonicalize().map_err(|e| UserError::file("image", base.file().path(), &e))?;
    if !path.exists() {
        files::creatable("snapshot file", path)?;
        let folder = files::folder(path);
        let folder = folder.canonicalize().map_err(|e| UserError::file("folder", folder, &e))?;
        // Two files that are moved together stay together.
        let name = below.strip_prefix(&folder).unwrap_or(&below);
        let name = name.to_str().ok_or_else(|| UserError(format!("the name of the image {} is no text; rename it", name.display())))?;
        let backing = Backing { name: name.into(), format: Some(base.format().name().into()) };
        let failed = |e: std::io::Error| UserError(format!("the snapshot file {p} cannot be made: {}", why(&e)));
        let mut file = ImageFile::create(path).map_err(failed)?;
        qcow2::create(&mut file, &Layout { size: base.size(), cluster_bits: 16, backing: Some(backing) }).map_err(failed)?;
    }
    if path.canonicalize().is_ok_and(|p| p == below) {
        return Err(UserError(format!("the file {p} is the image itself; give another file with snapshot=FILE")));
    }
    let file = ImageFile::open(path, Lock::Exclusive)?;
    let format = Format::detect(&file).map_err(|e| UserError::file("image", path, &e))?;
    let other = || {
        let base = base.file().path().display();
        UserError(format!("the file {p} is there and is no snapshot of {base}; give another file with snapshot=FILE"))
    };
    if format != Format::Qcow2 {
        return Err(other());
    }
    let header = qcow2::Header::parse(&file)?;
    let named = header.backing.as_ref().and_then(|b| path.parent().unwrap_or(Path::new("")).join(&b.name).canonicalize().ok());
    if named.as_ref() != Some(&below) {
        return Err(other());
    }
    Ok(Box::new(qcow2::Qcow2::open(file, header, Some(base), None)?))
}

#[cfg(test)]
mod tests;
