//! What `softmetal disk` does: make, describe, check, convert, commit and resize images.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};
use softmetal_bus::{BlockBackend, BlockError};

use super::chain::{self, Access, Reach};
use super::file::{ImageFile, Lock};
use super::image::{Format, Image};
use super::qcow2::{self, Backing, Header, Layout, Qcow2, feature};
use super::raw::Raw;
use crate::error::{UserError, why};
use crate::host::files;

/// Bytes copied at a time.
const COPY: u64 = 2 << 20;
/// Zeros in a row from which on a copy leaves them out, in bytes.
const GRAIN: usize = 64 << 10;

/// An existing image.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its file.
    pub path: PathBuf,
    /// Its format, if it is not to be told from the contents.
    pub format: Option<Format>,
    /// It may depend on files outside its folder.
    pub backing_anywhere: bool,
}

impl Source {
    fn open(&self, lock: Lock, internal: Option<&str>) -> Result<Box<dyn Image>, UserError> {
        let reach = Reach::of(&self.path, self.backing_anywhere)?;
        let access = Access { lock, format: self.format, reach, internal: internal.map(Into::into) };
        chain::open(&self.path, &access)
    }

    fn file(&self, lock: Lock) -> Result<(ImageFile, Format), UserError> {
        let file = ImageFile::open(&self.path, lock)?;
        let format = match self.format {
            Some(format) => format,
            None => chain::detect(&file)?,
        };
        Ok((file, format))
    }

    fn failed(&self, what: &str, error: &BlockError) -> UserError {
        failed(&self.path, what, error)
    }
}

fn failed(path: &Path, what: &str, error: &dyn std::fmt::Display) -> UserError {
    UserError(format!("the image {} cannot be {what}: {error}", path.display()))
}

/// A file that appears under its name only when it is complete.
struct Fresh {
    temporary: PathBuf,
    target: PathBuf,
    force: bool,
}

impl Fresh {
    fn new(target: &Path, force: bool) -> Result<(Self, ImageFile), UserError> {
        let p = target.display();
        if target.symlink_metadata().is_ok_and(|m| !m.is_dir()) && !force {
            return Err(UserError(format!("the file {p} is there already; add --force to replace it")));
        }
        files::creatable("file", target)?;
        if target.exists() {
            // Not one that a run uses.
            ImageFile::open(target, Lock::Exclusive)?;
        }
        let name = target.file_name().ok_or_else(|| UserError(format!("{p} is no file name; give one")))?;
        let temporary = target.with_file_name(format!(".{}.{}.partial", name.to_string_lossy(), std::process::id()));
        let file = ImageFile::create(&temporary).map_err(|e| UserError(format!("the file {p} cannot be made: {}", why(&e))))?;
        Ok((Self { temporary, target: target.to_path_buf(), force }, file))
    }

    /// Gives it its name.
    fn finish(self) -> Result<(), UserError> {
        let place = || -> std::io::Result<()> {
            if self.force {
                std::fs::rename(&self.temporary, &self.target)?;
            } else {
                // Unlike a rename, a link never replaces what came there meanwhile.
                std::fs::hard_link(&self.temporary, &self.target)?;
            }
            std::fs::File::open(files::folder(&self.target))?.sync_all()
        };
        place().map_err(|e| UserError(format!("the file {} cannot be made: {}", self.target.display(), why(&e))))
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // After a rename it is not there any more.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What an image is. The names are those of QEMU's `ImageInfo`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Info {
    /// The file.
    pub filename: PathBuf,
    /// The format's name.
    pub format: &'static str,
    /// Of the disk, in bytes.
    pub virtual_size: u64,
    /// Bytes that the file takes on the host.
    pub actual_size: u64,
    /// The unit in which the image takes room, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// It was not closed properly.
    pub dirty_flag: bool,
    /// The file below, as the image names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// The file below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_backing_filename: Option<PathBuf>,
    /// Its format, if the image says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename_format: Option<String>,
    /// Internal snapshots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<Value>,
    /// What only this format has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_specific: Option<Value>,
}

/// Describes an image; it may be in use.
///
/// # Errors
/// [`UserError`] when it cannot be read or is damaged.
pub fn info(source: &Source) -> Result<Info, UserError> {
    let (file, format) = source.file(Lock::None)?;
    let mut info = Info {
        filename: source.path.clone(),
        format: format.name(),
        virtual_size: 0,
        actual_size: file.allocated(),
        cluster_size: None,
        dirty_flag: false,
        backing_filename: None,
        full_backing_filename: None,
        backing_filename_format: None,
        snapshots: Vec::new(),
        format_specific: None,
    };
    if format != Format::Qcow2 {
        drop(file);
        let image = source.open(Lock::None, None)?;
        (info.virtual_size, info.actual_size, info.cluster_size) = (image.size(), image.allocated(), image.cluster_size());
        return Ok(info);
    }
    let header = Header::parse(&file)?;
    let bit = |bit: u64| header.incompatible & bit != 0;
    info.virtual_size = header.size;
    info.cluster_size = Some(header.cluster());
    info.dirty_flag = bit(feature::DIRTY);
    let compression = if header.zstd { "zstd" } else { "zlib" };
    let data = if header.version == 2 {
        json!({ "compat": "0.10", "compression-type": compression, "refcount-bits": 16 })
    } else {
        json!({
            "compat": "1.1",
            "compression-type": compression,
            "lazy-refcounts": header.compatible & 1 != 0,
            "refcount-bits": 1u64 << header.refcount_order,
            "corrupt": bit(feature::CORRUPT),
            "extended-l2": false,
        })
    };
    info.format_specific = Some(json!({ "type": "qcow2", "data": data }));
    for s in header.snapshots(&file)? {
        info.snapshots.push(json!({
            "id": s.id,
            "name": s.name,
            "vm-state-size": s.vm_state,
            "date-sec": s.seconds,
            "date-nsec": s.nanoseconds,
            "vm-clock-sec": s.vm_clock / 1_000_000_000,
            "vm-clock-nsec": s.vm_clock % 1_000_000_000,
        }));
    }
    if let Some(backing) = header.backing {
        info.full_backing_filename = Some(source.path.parent().unwrap_or(Path::new("")).join(&backing.name));
        info.backing_filename = Some(backing.name);
        info.backing_filename_format = backing.format;
    }
    Ok(info)
}

/// What a check found. The names are those of QEMU's `ImageCheck`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Check {
    /// The file.
    pub filename: PathBuf,
    /// The format's name.
    pub format: &'static str,
    /// How often the check itself failed: it would have ended with an error.
    pub check_errors: u64,
    /// Where the last used cluster ends, in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub image_end_offset: u64,
    /// Clusters of the disk.
    #[serde(skip_serializing_if = "is_zero")]
    pub total_clusters: u64,
    /// Of these, those that the image has.
    #[serde(skip_serializing_if = "is_zero")]
    pub allocated_clusters: u64,
    /// Of these, those that do not lie behind the one before.
    #[serde(skip_serializing_if = "is_zero")]
    pub fragmented_clusters: u64,
    /// Of these, compressed ones.
    #[serde(skip_serializing_if = "is_zero")]
    pub compressed_clusters: u64,
    /// Contradictions that are left.
    #[serde(skip_serializing_if = "is_zero")]
    pub corruptions: u64,
    /// Clusters that are still lost.
    #[serde(skip_serializing_if = "is_zero")]
    pub leaks: u64,
    /// Contradictions that were mended.
    #[serde(skip_serializing_if = "is_zero")]
    pub corruptions_fixed: u64,
    /// Clusters that were given back.
    #[serde(skip_serializing_if = "is_zero")]
    pub leaks_fixed: u64,
    /// The first findings in words.
    #[serde(skip)]
    pub messages: Vec<String>,
}

/// Checks a qcow2 image, and mends it if `repair` says so.
///
/// # Errors
/// [`UserError`] when it cannot be read, is no qcow2 image, or is too damaged to be looked at.
pub fn check(source: &Source, repair: bool) -> Result<Check, UserError> {
    let (mut file, format) = source.file(if repair { Lock::Exclusive } else { Lock::Shared })?;
    if format != Format::Qcow2 {
        let path = source.path.display();
        return Err(UserError(format!("the image {path} is {}, in which there is nothing to check; only qcow2 has", format.name())));
    }
    let header = Header::parse(&file)?;
    let found = qcow2::check(&mut file, &header, repair)?;
    Ok(Check {
        filename: source.path.clone(),
        format: format.name(),
        check_errors: 0,
        image_end_offset: found.end,
        total_clusters: found.total,
        allocated_clusters: found.allocated,
        fragmented_clusters: found.fragmented,
        compressed_clusters: found.compressed,
        corruptions: found.corruptions - found.corruptions_fixed,
        leaks: found.leaks - found.leaks_fixed,
        corruptions_fixed: found.corruptions_fixed,
        leaks_fixed: found.leaks_fixed,
        messages: found.messages,
    })
}

/// What [`create`] makes.
#[derive(Clone, Debug)]
pub struct New {
    /// `Raw` or `Qcow2`.
    pub format: Format,
    /// In bytes; with a file below its size if nothing else is said.
    pub size: Option<u64>,
    /// Of qcow2, in bytes; 64 KiB if nothing is said.
    pub cluster_size: Option<u64>,
    /// The file below.
    pub backing: Option<Source>,
    /// An existing file is replaced.
    pub force: bool,
}

/// Makes an image.
///
/// # Errors
/// [`UserError`] when what is wanted cannot be or the file is there already.
pub fn create(path: &Path, new: &New) -> Result<(), UserError> {
    let bad = |what: &str| UserError(format!("the image {} cannot be made: {what}", path.display()));
    only_writable(new.format)?;
    if new.backing.is_some() && new.format != Format::Qcow2 {
        return Err(bad("a raw image cannot have a backing file; add --format qcow2"));
    }
    if new.cluster_size.is_some() && new.format != Format::Qcow2 {
        return Err(bad("a raw image has no clusters; leave out --cluster-size, or add --format qcow2"));
    }
    let cluster_size = new.cluster_size.unwrap_or(64 << 10);
    if !cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&cluster_size) {
        return Err(bad("a cluster is of 512 bytes to 2M, a power of two"));
    }
    let mut size = new.size;
    let mut backing = None;
    if let Some(source) = &new.backing {
        let image = source.open(Lock::Shared, None)?;
        size = size.or(Some(image.size()));
        let place = source.path.canonicalize().map_err(|e| UserError::file("image", &source.path, &e))?;
        let folder = files::folder(path);
        let folder = folder.canonicalize().map_err(|e| UserError::file("folder", folder, &e))?;
        let name = place.strip_prefix(&folder).unwrap_or(&place);
        let name = name.to_str().ok_or_else(|| bad("the name of the backing file is no text"))?;
        backing = Some(Backing { name: name.into(), format: Some(image.format().name().into()) });
    }
    let size = size.ok_or_else(|| bad("give its size, like 10G"))?;
    if size == 0 || size % 512 != 0 {
        return Err(bad("its size must be a whole number of 512-byte sectors, at least one"));
    }
    let (fresh, mut file) = Fresh::new(path, new.force)?;
    let made = match new.format {
        Format::Qcow2 => {
            let layout = Layout { size, cluster_bits: cluster_size.trailing_zeros(), backing };
            qcow2::create(&mut file, &layout)
        }
        _ => file.set_len(size).and_then(|()| file.sync()),
    };
    made.map_err(|e| bad(&e.to_string()))?;
    drop(file);
    fresh.finish()
}

fn only_writable(format: Format) -> Result<(), UserError> {
    if format.writable() {
        return Ok(());
    }
    Err(UserError(format!("images of the format {} can only be read; choose raw or qcow2", format.name())))
}

/// How far a copy is: bytes done, bytes in all.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Copies a disk into a new image.
///
/// # Errors
/// [`UserError`] when it cannot be read or the new file cannot be written or is there already.
pub fn convert(
    source: &Source,
    internal: Option<&str>,
    target: &Path,
    format: Format,
    force: bool,
    progress: Progress,
) -> Result<(), UserError> {
    only_writable(format)?;
    let mut from = source.open(Lock::Shared, internal)?;
    if target.canonicalize().is_ok_and(|target| source.path.canonicalize().is_ok_and(|from| from == target)) {
        return Err(UserError(format!("the image {} cannot be converted into itself; name another file", target.display())));
    }
    let size = from.size();
    let (fresh, mut file) = Fresh::new(target, force)?;
    let bad = |e: &dyn std::fmt::Display| failed(target, "written", e);
    let mut to: Box<dyn Image> = match format {
        Format::Qcow2 => {
            qcow2::create(&mut file, &Layout { size, cluster_bits: 16, backing: None }).map_err(|e| bad(&e))?;
            let header = Header::parse(&file)?;
            Box::new(Qcow2::open(file, header, None, None)?)
        }
        _ => {
            file.set_len(size).map_err(|e| bad(&e))?;
            Box::new(Raw::open(file, false)?)
        }
    };
    copy(source, &mut *from, &mut *to, target, progress)?;
    to.flush().map_err(|e| bad(&e))?;
    drop(to);
    fresh.finish()
}

fn copy(source: &Source, from: &mut dyn Image, to: &mut dyn Image, target: &Path, progress: Progress) -> Result<(), UserError> {
    let size = from.size();
    let mut buffer = vec![0; COPY as usize];
    let mut at = 0;
    while at < size {
        progress(at, size);
        let extent = from.extent(at).map_err(|e| source.failed("read", &e))?;
        if extent.zero {
            at = at.saturating_add(extent.len).min(size);
            continue;
        }
        // Up to a boundary of the buffer's size, over what extents there may be.
        let n = (COPY - at % COPY).min(size - at) as usize;
        let bytes = &mut buffer[..n];
        from.read_at(at, bytes).map_err(|e| source.failed("read", &e))?;
        let mut done = 0;
        for piece in runs(bytes) {
            if let Some(data) = piece.data {
                to.write_at(at + done, data).map_err(|e| failed(target, "written", &e))?;
            }
            done += piece.len;
        }
        at += n as u64;
    }
    progress(size, size);
    Ok(())
}

/// A piece of a buffer: data, or zeros.
struct Piece<'a> {
    len: u64,
    data: Option<&'a [u8]>,
}

/// Splits `bytes` into data and zeros, by grains.
fn runs(bytes: &[u8]) -> Vec<Piece<'_>> {
    let zero = |grain: &[u8]| grain.iter().all(|b| *b == 0);
    let grains: Vec<&[u8]> = bytes.chunks(GRAIN).collect();
    let mut at = 0;
    (grains.chunk_by(|a, b| zero(a) == zero(b)))
        .map(|run| {
            let len = run.iter().map(|g| g.len()).sum::<usize>();
            let piece = &bytes[at..at + len];
            at += len;
            Piece { len: len as u64, data: (!zero(piece)).then_some(piece) }
        })
        .collect()
}

/// Writes what a qcow2 image has over its backing file into that file, and empties the image.
///
/// # Errors
/// [`UserError`] when there is none, or either cannot be written.
pub fn commit(source: &Source, progress: Progress) -> Result<PathBuf, UserError> {
    let path = source.path.display();
    let (file, format) = source.file(Lock::Exclusive)?;
    let none = || UserError(format!("the image {path} has no backing file to commit to"));
    if format != Format::Qcow2 {
        return Err(none());
    }
    let header = Header::parse(&file)?;
    if header.snapshots > 0 {
        return Err(UserError(format!("the image {path} has internal snapshots, which a commit would break; convert it instead")));
    }
    let backing = header.backing.clone().ok_or_else(none)?;
    let reach = Reach::of(&source.path, source.backing_anywhere)?;
    let below = reach.resolve(&file, Path::new(&backing.name))?;
    let format = backing.format.as_deref().and_then(Format::by_name);
    let mut base = chain::open(&below, &Access { lock: Lock::Exclusive, format, reach, internal: None })?;
    let bad = |e: &BlockError| failed(&below, "written", e);
    // Only what it has itself is read, so it needs nothing below.
    let mut top = Qcow2::open(file, header, None, None)?;
    let size = top.size();
    if base.size() < size {
        base.resize(size).map_err(|e| bad(&e))?;
    }
    let mut buffer = vec![0; COPY as usize];
    let mut at = 0;
    while at < size {
        progress(at, size);
        let (own, len) = top.is_own(at).map_err(|e| source.failed("read", &e))?;
        let len = len.min(size - at);
        if own && top.extent(at).map_err(|e| source.failed("read", &e))?.zero {
            base.write_zeroes(at, len).map_err(|e| bad(&e))?;
        } else if own {
            let mut done = 0;
            while done < len {
                let n = (len - done).min(COPY);
                let bytes = &mut buffer[..n as usize];
                top.read_at(at + done, bytes).map_err(|e| source.failed("read", &e))?;
                base.write_at(at + done, bytes).map_err(|e| bad(&e))?;
                done += n;
            }
        }
        at += len;
    }
    base.flush().map_err(|e| bad(&e))?;
    top.empty().map_err(|e| source.failed("emptied", &e))?;
    progress(size, size);
    Ok(below)
}

/// A change of size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// To so many bytes.
    To(u64),
    /// By so many more.
    Grow(u64),
    /// By so many less.
    Shrink(u64),
}

/// Changes the size of a raw or qcow2 image; returns the new one in bytes.
///
/// # Errors
/// [`UserError`] when it cannot be written, or would shrink and `shrink` does not say so.
pub fn resize(source: &Source, size: Size, shrink: bool) -> Result<u64, UserError> {
    let path = source.path.display();
    let (file, format) = source.file(Lock::Exclusive)?;
    only_writable(format)?;
    drop(file);
    let mut image = source.open(Lock::Exclusive, None)?;
    let old = image.size();
    let new = match size {
        Size::To(new) => Some(new),
        Size::Grow(by) => old.checked_add(by),
        Size::Shrink(by) => old.checked_sub(by),
    };
    let new = new.filter(|n| *n > 0 && n % 512 == 0 && *n <= i64::MAX as u64).ok_or_else(|| {
        UserError(format!("the image {path} has {old} bytes; give a new size of whole 512-byte sectors, at least one of them"))
    })?;
    if new < old && !shrink {
        return Err(UserError(format!("the image {path} would lose its last {} bytes; add --shrink if that is intended", old - new)));
    }
    image.resize(new).map_err(|e| source.failed("resized", &e))?;
    Ok(new)
}
