//! Guest images that are fetched by name and kept in the user's cache folder.
//!
//! An entry is built from packages of the distribution that the host runs, which `apt-get download` fetches and checks
//! against the archive's signature. It needs no root rights and installs nothing: see [`apt`]. What was built is kept
//! with its SHA-256 sums, which are verified at each use.

mod apt;
mod cpio;
mod deb;
mod modules;
mod packages;
mod vmlinux;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use vmlinux::extract_vmlinux;

/// Raised when the recipe of the entries changes, so that what an older version built is built anew.
const RECIPE: u32 = 4;
/// The programs and scripts of every initramfs; see the script itself for what it does.
const INIT: &[u8] = include_bytes!("init.sh");
/// Drivers for the hardware that Softmetal's boards have, where the kernel has them as modules.
const DRIVERS: [&str; 15] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio-rng",
    "ata_piix",
    "ahci",
    "sd_mod",
    "sr_mod",
    "e1000",
    "8139cp",
    "isofs",
    "vfat",
    "9p",
    "9pnet_virtio",
];

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
    /// There is no place for the cache.
    #[error("no cache folder: set HOME or XDG_CACHE_HOME")]
    NoCache,
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
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

/// What an entry is made of.
struct Recipe {
    name: &'static str,
    description: &'static str,
    /// About how much is fetched.
    download_mib: u32,
    /// The packages that stand for the newest kernel; the first that the distribution has is taken.
    kernels: &'static [&'static str],
}

const RECIPES: [Recipe; 2] = [
    Recipe {
        name: "busybox",
        description: "the distribution's kernel for virtual machines and a busybox shell",
        download_mib: 30,
        kernels: &["linux-image-cloud-amd64", "linux-image-virtual"],
    },
    Recipe {
        name: "busybox-full",
        description: "the distribution's full kernel and a busybox shell",
        download_mib: 70,
        kernels: &["linux-image-amd64", "linux-image-generic"],
    },
];

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

/// The files of an entry, verified.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// A Linux bzImage.
    pub kernel: PathBuf,
    /// A gzip-compressed cpio archive.
    pub initrd: PathBuf,
    /// The command line that it is meant to be booted with.
    pub cmdline: String,
}

/// What the cache says of an entry's files.
#[derive(Serialize, Deserialize)]
struct Manifest {
    recipe: u32,
    /// The file names of the packages it was made from.
    packages: Vec<String>,
    /// SHA-256 of each file, in hexadecimal.
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
                let folder = self.folder(r);
                let state = self.state(r);
                let bytes = match state {
                    EntryState::Ready => {
                        ["vmlinuz", "initrd.gz"].iter().filter_map(|f| fs::metadata(folder.join(f)).ok()).map(|m| m.len()).sum()
                    }
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
        let folder = self.folder(recipe);
        Ok(Fetched { kernel: folder.join("vmlinuz"), initrd: folder.join("initrd.gz"), cmdline: "console=ttyS0".into() })
    }

    /// The initramfs of `name` with the folder `extra` laid over it. An executable `extra/autorun` is run at boot. The
    /// result is in the cache and the same for the same contents.
    ///
    /// # Errors
    /// [`CatalogError`], also for a file of `extra` that is neither a file, a folder nor a symbolic link.
    pub fn initrd_with(&self, name: &str, extra: &Path, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
        let mut all = read(&self.fetch(name, progress)?.initrd)?;
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
            m.recipe == RECIPE
                && m.files.len() == 2
                && ["vmlinuz", "initrd.gz"]
                    .iter()
                    .all(|f| fs::read(folder.join(f)).is_ok_and(|bytes| m.files.get(*f) == Some(&sha256(&bytes))))
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
        let packages = apt::download(work, recipe, progress)?;
        progress("unpacking");
        let mut kernel = None;
        let mut busybox = None;
        let mut tree = modules::Tree::default();
        for package in &packages {
            deb::each_file(package, |path, content| {
                if path.starts_with("boot/vmlinuz-") {
                    kernel = Some(content.read()?);
                } else if matches!(path, "bin/busybox" | "usr/bin/busybox") {
                    busybox = Some(content.read()?);
                } else if modules::Tree::wants(path) {
                    tree.add(path, content.read()?)?;
                }
                Ok(())
            })?;
        }
        let missing =
            |detail: &str| CatalogError::Unpack { what: recipe.kernels[0].into(), detail: format!("the packages hold no {detail}") };
        let kernel = kernel.ok_or_else(|| missing("boot/vmlinuz"))?;
        let busybox = busybox.ok_or_else(|| missing("bin/busybox"))?;

        progress("making the initramfs");
        let mut archive = cpio::Archive::default();
        for folder in ["bin", "dev", "proc", "sys"] {
            archive.folder(folder);
        }
        archive.file("bin/busybox", 0o755, busybox);
        archive.file("init", 0o755, INIT.to_vec());
        for (path, content) in tree.select(&DRIVERS)? {
            archive.file(&path, 0o644, content);
        }
        let initrd = gzip(&archive.finish());

        let folder = self.folder(recipe);
        let manifest = Manifest {
            recipe: RECIPE,
            packages: packages.iter().filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned())).collect(),
            files: [("vmlinuz", &kernel), ("initrd.gz", &initrd)]
                .into_iter()
                .map(|(name, bytes)| (name.to_string(), sha256(bytes)))
                .collect(),
        };
        write_atomically(&folder.join("vmlinuz"), &kernel)?;
        write_atomically(&folder.join("initrd.gz"), &initrd)?;
        let text = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
        write_atomically(&folder.join("manifest.json"), &text)?;
        progress(&format!("{} is ready in {}", recipe.name, folder.display()));
        Ok(())
    }
}

fn recipe(name: &str) -> Result<&'static Recipe> {
    RECIPES
        .iter()
        .find(|r| r.name == name)
        .ok_or_else(|| CatalogError::Unknown { name: name.into(), known: RECIPES.map(|r| r.name).join(", ") })
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
