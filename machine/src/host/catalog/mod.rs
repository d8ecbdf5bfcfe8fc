//! Guest images that are fetched by name and kept in the user's cache folder.
//!
//! An entry is built from packages of the distribution that the host runs, which `apt-get download` fetches and checks
//! against the archive's signature. It needs no root rights and installs nothing: see [`apt`]. What was built is kept
//! with its SHA-256 sums, which are verified at each use.

mod apt;
mod busybox;
mod cpio;
mod deb;
mod debian;
mod fat;
mod modules;
mod packages;
mod recipes;
mod sparse;
mod vmlinux;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use recipes::{Boots, CDROM, DISK, INITRD, KERNEL, Made, RECIPES, Recipe, recipe};
pub use vmlinux::extract_vmlinux;

use super::files::creatable;
use crate::error::{UserError, why};

/// Files of this size and above are known by size and time, not by their sum, so that a run need not read them whole.
const LARGE: u64 = 64 << 20;

/// Why an entry cannot be had; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// No entry has this name.
    #[error("the catalogue has no {name:?}; it has: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The host has no package manager that serves the entry.
    #[error(
        "{0} is made from Debian or Ubuntu packages and this host has no apt-get; \
         pass a kernel of your own: softmetal run --kernel VMLINUZ --initrd INITRD"
    )]
    NoPackageManager(String),
    /// `--offline`, and the entry is not (or not intact) in the cache.
    #[error("{name} is {what} (looked in {cache}); run once without --offline to fetch it", cache = cache.display())]
    Offline {
        /// The entry.
        name: String,
        /// "not fetched" or "damaged".
        what: &'static str,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// apt-get failed.
    #[error("apt-get could not fetch {what}: {detail}; check the network and the sources in /etc/apt")]
    Apt {
        /// What was to be fetched.
        what: String,
        /// apt's own words.
        detail: String,
    },
    /// Programs that the entry is made with are not installed.
    #[error("{name} is made on this host with programs that it lacks; install them: apt-get install {packages}")]
    Tools {
        /// The entry.
        name: &'static str,
        /// The packages with the programs.
        packages: String,
    },
    /// One of these programs failed.
    #[error("{tool} failed: {detail}; --log debug shows all it said")]
    Tool {
        /// The program.
        tool: String,
        /// Its own words.
        detail: String,
    },
    /// The host's package sources have no Debian.
    #[error("debian is made from the package sources of a Debian host, and this one is another; make a disk image elsewhere and run that")]
    NotDebian,
    /// It has no image of a medium.
    #[error("{0} boots a kernel directly and has no disk image to copy")]
    NoImage(String),
    /// It has no initramfs.
    #[error("{0} has no initramfs")]
    NoInitramfs(String),
    /// A package does not hold what it should.
    #[error("{what}: {detail}")]
    Unpack {
        /// The file.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A file or folder that cannot be used.
    #[error("{}: {detail}", path.display())]
    Path {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Nothing can be made at a place of the user's.
    #[error(transparent)]
    User(#[from] UserError),
    /// There is no place for the cache.
    #[error("no cache folder: set HOME or XDG_CACHE_HOME")]
    NoCache,
    /// A file cannot be read or written.
    #[error("{}: {}", path.display(), why(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, CatalogError>;

/// Turns an [`io::Error`] at `path` into a [`CatalogError`].
fn at(path: &Path) -> impl FnOnce(io::Error) -> CatalogError + '_ {
    move |source| CatalogError::Io { path: path.to_path_buf(), source }
}

/// Whether an entry is in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// Not fetched yet.
    Absent,
    /// In the cache and intact.
    Ready,
    /// In the cache but changed, incomplete, or made by another version: fetched anew at its next use.
    Stale,
}

/// A line of the catalogue.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name to pass as IMAGE.
    pub name: &'static str,
    /// What it is.
    pub description: &'static str,
    /// Bytes in the cache, or about how many are fetched.
    pub bytes: u64,
    /// Whether it is in the cache.
    pub state: EntryState,
}

/// A kernel that is booted directly.
#[derive(Clone, Debug)]
pub struct Linux {
    /// A Linux bzImage.
    pub kernel: PathBuf,
    /// A gzip-compressed cpio archive.
    pub initrd: PathBuf,
    /// The command line that it is meant to be booted with.
    pub cmdline: &'static str,
}

/// What an entry boots from.
#[derive(Clone, Debug)]
pub enum Media {
    /// A kernel.
    Linux(Linux),
    /// A raw disk image, which runs must not write to.
    Disk(PathBuf),
    /// An ISO 9660 image.
    Cdrom(PathBuf),
}

/// An entry's files, verified.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// What it boots from.
    pub media: Media,
    /// The RAM in bytes that it needs, if that is more than the usual.
    pub memory: Option<u64>,
}

impl Fetched {
    /// The kernel that it boots.
    #[must_use]
    pub fn linux(self) -> Option<Linux> {
        match self.media {
            Media::Linux(linux) => Some(linux),
            Media::Disk(_) | Media::Cdrom(_) => None,
        }
    }
}

/// What the cache says of an entry's files.
#[derive(Serialize, Deserialize)]
struct Manifest {
    recipe: u32,
    /// The packages it was made from.
    packages: Vec<String>,
    /// The [`seal`] of each file.
    files: BTreeMap<String, String>,
}

/// The catalogue and its cache folder.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// Where the files are kept.
    pub cache: PathBuf,
    /// Use only what the cache holds; never run apt-get.
    pub offline: bool,
}

impl Catalog {
    /// The catalogue in the user's cache folder: `$XDG_CACHE_HOME/softmetal` or `~/.cache/softmetal`.
    ///
    /// # Errors
    /// [`CatalogError::NoCache`] when neither variable is set.
    pub fn new(offline: bool) -> Result<Self> {
        let folder = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let base = folder("XDG_CACHE_HOME")
            .filter(|p| p.is_absolute())
            .or_else(|| folder("HOME").map(|home| home.join(".cache")))
            .ok_or(CatalogError::NoCache)?;
        Ok(Self { cache: base.join("softmetal"), offline })
    }

    /// Whether `name` is an entry.
    #[must_use]
    pub fn knows(name: &str) -> bool {
        RECIPES.iter().any(|r| r.name == name)
    }

    /// The names of all entries.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        RECIPES.iter().map(|r| r.name).collect()
    }

    /// Whether this host has what entries are fetched with.
    #[must_use]
    pub fn can_fetch() -> bool {
        apt::available()
    }

    /// Every entry and its state in this cache.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        RECIPES
            .iter()
            .map(|r| {
                let state = self.state(r);
                let bytes = match state {
                    EntryState::Ready => r.files().iter().filter_map(|f| fs::metadata(self.folder(r).join(f)).ok()).map(|m| used(&m)).sum(),
                    EntryState::Absent | EntryState::Stale => u64::from(r.download_mib) << 20,
                };
                Entry { name: r.name, description: r.description, bytes, state }
            })
            .collect()
    }

    /// The files of `name`: from the cache if they are there and intact, else built from freshly downloaded packages.
    /// `progress` is told each step in a few words.
    ///
    /// # Errors
    /// [`CatalogError`]; the cache is then as it was.
    pub fn fetch(&self, name: &str, progress: &mut dyn FnMut(&str)) -> Result<Fetched> {
        let recipe = recipe(name)?;
        let state = self.state(recipe);
        if state != EntryState::Ready {
            if self.offline {
                let what = if state == EntryState::Absent { "not fetched yet" } else { "damaged or of another version" };
                return Err(CatalogError::Offline { name: name.into(), what, cache: self.cache.clone() });
            }
            let _lock = self.lock(progress)?;
            if self.state(recipe) != EntryState::Ready {
                if state == EntryState::Stale {
                    progress(&format!("{name}: the cached copy is damaged or of another version; making it anew"));
                }
                self.build(recipe, progress)?;
            }
        }
        let file = |name: &str| self.folder(recipe).join(name);
        let media = match recipe.boots {
            Boots::Linux { cmdline } => Media::Linux(Linux { kernel: file(KERNEL), initrd: file(INITRD), cmdline }),
            Boots::Disk => Media::Disk(file(DISK)),
            Boots::Cdrom => Media::Cdrom(file(CDROM)),
        };
        Ok(Fetched { media, memory: recipe.memory_mib.map(|mib| u64::from(mib) << 20) })
    }

    /// Removes `name` from the cache; the bytes that this frees, or `None` if it was not there.
    ///
    /// # Errors
    /// [`CatalogError`] when there is no such entry or its files cannot be removed.
    pub fn remove(&self, name: &str) -> Result<Option<u64>> {
        let folder = self.folder(recipe(name)?);
        if !folder.exists() {
            return Ok(None);
        }
        let _lock = self.lock(&mut |_| ())?;
        let files = fs::read_dir(&folder).map_err(at(&folder))?;
        let bytes = files.filter_map(|f| f.ok()?.metadata().ok()).map(|m| used(&m)).sum();
        fs::remove_dir_all(&folder).map_err(at(&folder))?;
        Ok(Some(bytes))
    }

    /// Copies the disk or CD-ROM image of `name` to the new file `to`, which is the user's own then. Holes stay holes.
    ///
    /// # Errors
    /// [`CatalogError`] as of [`fetch`](Self::fetch); when the entry has no such image, or `to` exists.
    pub fn copy(&self, name: &str, to: &Path, progress: &mut dyn FnMut(&str)) -> Result<()> {
        if !matches!(recipe(name)?.boots, Boots::Disk | Boots::Cdrom) {
            return Err(CatalogError::NoImage(name.into()));
        }
        if to.exists() {
            let detail = "it exists already; name a new file".into();
            return Err(CatalogError::Path { path: to.to_path_buf(), detail });
        }
        creatable("file", to)?;
        if let Media::Disk(from) | Media::Cdrom(from) = self.fetch(name, progress)?.media {
            progress(&format!("copying to {}", to.display()));
            sparse::copy(&from, to).map_err(at(to))?;
        }
        Ok(())
    }

    /// The initramfs of `name` with the folder `extra` laid over it. An executable `extra/autorun` is run at boot. The
    /// result is in the cache and the same for the same contents.
    ///
    /// # Errors
    /// [`CatalogError`], also for a file of `extra` that is neither a file, a folder nor a symbolic link.
    pub fn initrd_with(&self, name: &str, extra: &Path, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
        let linux = self.fetch(name, progress)?.linux().ok_or_else(|| CatalogError::NoInitramfs(name.into()))?;
        let mut all = read(&linux.initrd)?;
        let mut overlay = cpio::Archive::default();
        overlay.add_folder(extra)?;
        // The kernel unpacks archives that follow one another; files of a later one win.
        all.extend(gzip(&overlay.finish()));
        let path = self.cache.join("overlays").join(format!("{}.gz", &sha256(&all)[..32]));
        if fs::read(&path).is_ok_and(|old| old == all) {
            return Ok(path);
        }
        write_atomically(&path, &all)?;
        Ok(path)
    }

    fn folder(&self, recipe: &Recipe) -> PathBuf {
        self.cache.join("images").join(recipe.name)
    }

    fn state(&self, recipe: &Recipe) -> EntryState {
        let folder = self.folder(recipe);
        let Ok(text) = fs::read(folder.join("manifest.json")) else {
            return EntryState::Absent;
        };
        let intact = serde_json::from_slice::<Manifest>(&text).is_ok_and(|m| {
            let sealed = |f: &&str| seal(&folder.join(f)).is_ok_and(|seal| m.files.get(*f) == Some(&seal));
            m.recipe == recipe.version && m.files.len() == recipe.files().len() && recipe.files().iter().all(sealed)
        });
        if intact { EntryState::Ready } else { EntryState::Stale }
    }

    /// Holds the cache against other processes until the file is dropped.
    fn lock(&self, progress: &mut dyn FnMut(&str)) -> Result<File> {
        use rustix::fs::{FlockOperation, flock};
        fs::create_dir_all(&self.cache).map_err(at(&self.cache))?;
        let path = self.cache.join("lock");
        let file = File::create(&path).map_err(at(&path))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            progress("waiting for another softmetal that is fetching");
            flock(&file, FlockOperation::LockExclusive).map_err(|e| at(&path)(e.into()))?;
        }
        Ok(file)
    }

    fn build(&self, recipe: &Recipe, progress: &mut dyn FnMut(&str)) -> Result<()> {
        // Held by the lock, so one fixed place will do; what a killed run left there goes.
        let work = self.cache.join("work");
        let _ = fs::remove_dir_all(&work);
        fs::create_dir_all(&work).map_err(at(&work))?;
        let done = self.build_in(&work, recipe, progress);
        let _ = fs::remove_dir_all(&work);
        done
    }

    fn build_in(&self, work: &Path, recipe: &Recipe, progress: &mut dyn FnMut(&str)) -> Result<()> {
        let made = match &recipe.made {
            Made::Busybox { kernels, architecture } => busybox::build(work, recipe.name, kernels, architecture, progress)?,
            Made::Package { packages, files } => packages::build(work, packages, files, progress)?,
            Made::Debian => debian::build(work, progress)?,
        };
        let folder = self.folder(recipe);
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let mut files = BTreeMap::new();
        for name in recipe.files() {
            let (new, kept) = (work.join(name), folder.join(name));
            // Nothing changes it by accident; the copy that somebody may have open stays whole.
            fs::set_permissions(&new, fs::Permissions::from_mode(0o444)).map_err(at(&new))?;
            fs::rename(&new, &kept).map_err(at(&kept))?;
            files.insert((*name).to_string(), seal(&kept)?);
        }
        let manifest = Manifest { recipe: recipe.version, packages: made, files };
        let text = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
        write_atomically(&folder.join("manifest.json"), &text)?;
        progress(&format!("{} is ready in {}", recipe.name, folder.display()));
        Ok(())
    }
}

/// What a file is recognised by: its SHA-256 in hexadecimal, or for a large one its size and the time of its last change.
fn seal(path: &Path) -> Result<String> {
    let meta = fs::metadata(path).map_err(at(path))?;
    if meta.len() < LARGE {
        return Ok(sha256(&read(path)?));
    }
    Ok(format!("{} bytes of {}.{:09}", meta.len(), meta.mtime(), meta.mtime_nsec()))
}

/// The bytes that a file takes on the host.
fn used(meta: &fs::Metadata) -> u64 {
    meta.blocks() * 512
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory can be written to")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(at(path))
}

/// Reads a stream to its end, or fails if it holds more than `limit` bytes.
fn read_limited(stream: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("it holds more than {} MiB", limit >> 20)));
    }
    Ok(bytes)
}

/// Writes beside `path` and renames, so that no one ever sees half a file.
fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(at(folder))?;
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = folder.join(name);
    let written = File::create(&temporary)
        .and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(at(path))
}

#[cfg(test)]
mod tests;
