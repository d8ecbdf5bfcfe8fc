//! From a file's name to an open image with the images that it depends on.

use std::path::{Path, PathBuf};

use super::blocks::{open_vdi, open_vhdx};
use super::file::{ImageFile, Lock, shown};
use super::image::{Format, Image};
use super::qcow2::{Header, Qcow2};
use super::raw::Raw;
use super::vhd;
use super::vmdk::Vmdk;
use crate::error::UserError;

/// The longest chain of backing files.
const MAX_DEPTH: usize = 64;
/// Bytes of memory that the tables of all files of a chain may take.
const MAX_TABLES: u64 = 192 << 20;

/// What has been opened on the way down a chain.
#[derive(Default)]
struct Walk {
    seen: Vec<PathBuf>,
    tables: u64,
}

/// Where files may be that an image names.
#[derive(Clone, Debug)]
pub struct Reach {
    /// The folder of the image that the user named; `None`: anywhere.
    folder: Option<PathBuf>,
}

impl Reach {
    /// The folder of `image` and what is below it, or anywhere.
    ///
    /// # Errors
    /// A sentence when there is no such file.
    pub fn of(image: &Path, anywhere: bool) -> Result<Self, UserError> {
        let folder = image.canonicalize().map_err(|e| UserError::file("image", image, &e))?;
        Ok(Self { folder: if anywhere { None } else { folder.parent().map(Path::to_path_buf) } })
    }

    /// The file that `image` calls `name`. Nothing is opened.
    ///
    /// # Errors
    /// A sentence when it does not exist or is out of reach.
    pub fn resolve(&self, image: &ImageFile, name: &Path) -> Result<PathBuf, UserError> {
        let from = image.path().display();
        let text = name.to_string_lossy();
        let called = shown(&text);
        let protocol = text.split_once(':').is_some_and(|(p, _)| !p.is_empty() && !p.contains('/'));
        if protocol && !text.starts_with("file:") {
            return Err(UserError(format!(
                "the image {from} depends on `{called}`, which is no file; convert it with qemu-img convert -O qcow2 OLD NEW"
            )));
        }
        let name = text.strip_prefix("file:").map_or(name, Path::new);
        let path = image.path().parent().unwrap_or(Path::new("")).join(name);
        let place = path.canonicalize().map_err(|e| {
            UserError(format!("the image {from} depends on {called}, which cannot be opened ({e}); put that file where it was"))
        })?;
        match &self.folder {
            Some(folder) if !place.starts_with(folder) => Err(UserError(format!(
                "the image {from} depends on {called}, which is outside its folder; if that is intended, add `,backing=any` to --disk (--backing any to `softmetal disk`)"
            ))),
            _ => Ok(path),
        }
    }
}

/// How an image is opened.
#[derive(Clone, Debug)]
pub struct Access {
    /// Who else may have it open; its backing files are never written.
    pub lock: Lock,
    /// The format, if it is not to be guessed.
    pub format: Option<Format>,
    /// Where its backing files may be.
    pub reach: Reach,
    /// Of qcow2: read this internal snapshot instead of the current state.
    pub internal: Option<String>,
}

/// Opens an image with all that it depends on.
///
/// # Errors
/// [`UserError`] when a file cannot be opened, is damaged, in use or out of reach.
pub fn open(path: &Path, access: &Access) -> Result<Box<dyn Image>, UserError> {
    let image = link(path, access, &mut Walk::default())?;
    if access.internal.is_some() && image.format() != Format::Qcow2 {
        return Err(UserError(format!("the image {} is {}, which has no internal snapshots", path.display(), image.format().name())));
    }
    Ok(image)
}

/// The format of a file, by its contents.
///
/// # Errors
/// A sentence when it cannot be read or is of a format that does not work.
pub fn detect(file: &ImageFile) -> Result<Format, UserError> {
    let failed = |e| UserError::file("image", file.path(), &e);
    let format = Format::detect(file).map_err(failed)?;
    let mut head = [0; 32];
    file.read(0, &mut head).map_err(failed)?;
    match Format::foreign(&head) {
        Some(name) if format == Format::Raw => {
            let path = file.path().display();
            Err(UserError(format!(
                "the image {path} is a {name} image, which does not work; convert it with qemu-img convert -O qcow2 OLD NEW, or name its format if it is raw"
            )))
        }
        _ => Ok(format),
    }
}

fn link(path: &Path, access: &Access, walk: &mut Walk) -> Result<Box<dyn Image>, UserError> {
    let place = path.canonicalize().map_err(|e| UserError::file("image", path, &e))?;
    if walk.seen.contains(&place) {
        return Err(UserError(format!("the image {} depends on itself; use a sound copy of it", path.display())));
    }
    if walk.seen.len() == MAX_DEPTH {
        return Err(UserError(format!(
            "the image {} depends on more than {MAX_DEPTH} others; join some with `softmetal disk commit`",
            walk.seen[0].display()
        )));
    }
    walk.seen.push(place);
    let file = ImageFile::open(path, access.lock)?;
    let format = match access.format {
        Some(format) => format,
        None => detect(&file)?,
    };
    if file.writable() && !format.writable() {
        return Err(UserError(format!(
            "the image {} is {}, which can only be read; add `,ro` or `,snapshot` to --disk, or convert it with `softmetal disk convert`",
            path.display(),
            format.name()
        )));
    }
    let image: Box<dyn Image> = match format {
        Format::Raw => Box::new(Raw::open(file, access.format.is_none())?),
        Format::Vmdk => Box::new(Vmdk::open(file, &access.reach)?),
        Format::Vdi => Box::new(open_vdi(file)?),
        Format::Vhd => Box::new(vhd::open(file)?),
        Format::Vhdx => Box::new(open_vhdx(file)?),
        Format::Qcow2 => {
            let header = Header::parse(&file)?;
            let backing = match &header.backing {
                None => None,
                Some(backing) => {
                    let path = access.reach.resolve(&file, Path::new(&backing.name))?;
                    let format = match &backing.format {
                        None => None,
                        Some(name) => Some(
                            Format::by_name(name)
                                .ok_or_else(|| file.unsupported(format_args!("depends on one of the format `{}`", shown(name))))?,
                        ),
                    };
                    let lock = if access.lock == Lock::None { Lock::None } else { Lock::Shared };
                    let below = Access { lock, format, reach: access.reach.clone(), internal: None };
                    Some(link(&path, &below, walk)?)
                }
            };
            Box::new(Qcow2::open(file, header, backing, access.internal.as_deref())?)
        }
    };
    walk.tables += image.table_bytes();
    if walk.tables > MAX_TABLES {
        return Err(image.file().damaged("its tables and those of its backing files are too long"));
    }
    Ok(image)
}
