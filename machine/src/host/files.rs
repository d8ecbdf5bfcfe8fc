//! Files that are read whole, and what the host has of memory.

use std::fs::{File, Metadata};
use std::io::{Error, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use softmetal_firmware::LoadError;

use crate::error::{UserError, why};
use crate::images::{Contents, Source};

/// Reads `path` (`-` is stdin) whole. `what` names it in errors: `kernel`, `initrd`.
///
/// # Errors
/// [`UserError`] when it cannot be opened or read, is a directory, is empty, or holds more than `limit` bytes.
pub fn read(what: &str, path: &Path, limit: u64) -> Result<Vec<u8>, UserError> {
    let failed = |e: Error| UserError::file(what, path, &e);
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        open(what, path)?.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    check_size(what, path, bytes.len() as u64, limit)?;
    Ok(bytes)
}

/// What `path` (`-` is stdin) contains, read at each boot if it is a file that can be read again.
///
/// # Errors
/// As [`read`].
pub fn contents(what: &'static str, path: &Path, limit: u64) -> Result<Contents, UserError> {
    if path != Path::new("-") {
        let file = open(what, path)?;
        let metadata = file.metadata().map_err(|e| UserError::file(what, path, &e))?;
        if metadata.is_file() {
            check_size(what, path, metadata.len(), limit)?;
            return Ok(Contents::of(Unchanged { what, path: path.into(), stamp: stamp(&metadata), file }));
        }
    }
    read(what, path, limit).map(Contents::from)
}

fn open(what: &str, path: &Path) -> Result<File, UserError> {
    let file = File::open(path).map_err(|e| UserError::file(what, path, &e))?;
    if file.metadata().is_ok_and(|m| m.is_dir()) {
        return Err(UserError(format!("the {what} {} is a directory; give a file", path.display())));
    }
    Ok(file)
}

fn check_size(what: &str, path: &Path, size: u64, limit: u64) -> Result<(), UserError> {
    let name = path.display();
    if size == 0 {
        return Err(UserError(format!("the {what} {name} is empty (0 bytes); give a complete file")));
    }
    if size > limit {
        return Err(UserError(format!("the {what} {name} is larger than the guest's memory of {} MiB; give more --memory", limit >> 20)));
    }
    Ok(())
}

/// A file that must stay as it is.
struct Unchanged {
    what: &'static str,
    path: PathBuf,
    file: File,
    stamp: (u64, Option<SystemTime>),
}

/// What tells that a file has changed: its size, and when it was written last.
fn stamp(metadata: &Metadata) -> (u64, Option<SystemTime>) {
    (metadata.len(), metadata.modified().ok())
}

impl Source for Unchanged {
    fn size(&self) -> u64 {
        self.stamp.0
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), LoadError> {
        let mut file = &self.file;
        let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(buf));
        let wrong = match self.file.metadata() {
            Ok(m) if stamp(&m) != self.stamp => {
                format!("the {} {} was changed while the machine ran; start the machine anew", self.what, self.path.display())
            }
            Ok(_) => match read {
                Ok(()) => return Ok(()),
                Err(e) => UserError::file(self.what, &self.path, &e).0,
            },
            Err(e) => UserError::file(self.what, &self.path, &e).0,
        };
        Err(LoadError::Unreadable { why: wrong })
    }
}

/// The first `len` bytes of `path`, or as many as there are.
///
/// # Errors
/// [`UserError`] as in [`read`].
pub fn head(what: &str, path: &Path, len: usize) -> Result<Vec<u8>, UserError> {
    let mut bytes = Vec::new();
    open(what, path)?.take(len as u64).read_to_end(&mut bytes).map_err(|e| UserError::file(what, path, &e))?;
    Ok(bytes)
}

/// Writes a small file whole: beside `path` first, so that no one ever sees half of it.
///
/// # Errors
/// A sentence; `path` is then as it was.
pub fn write(what: &str, path: &Path, bytes: &[u8]) -> Result<(), UserError> {
    let failed = |e: Error| UserError(format!("cannot write the {what} {}: {}", path.display(), why(&e)));
    // A device or a pipe can only be written to.
    if path.exists() && !path.is_file() {
        return std::fs::write(path, bytes).map_err(failed);
    }
    // A link stays one.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|e| {
        // It may not even have been made.
        let _ = std::fs::remove_file(&temporary);
        failed(e)
    })
}

/// The folder that `path` is in.
#[must_use]
pub fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether the host lets this process write the file or folder `path`, which exists.
#[must_use]
pub fn writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Checks, without writing, that a file could be made at `path`, or written if it is there.
///
/// # Errors
/// [`UserError`] when it is a directory, its folder does not exist, or the host would refuse it.
pub fn creatable(what: &str, path: &Path) -> Result<(), UserError> {
    let name = path.display();
    let refused = |why: &str| Err(UserError(format!("the {what} {name} cannot be made: {why}")));
    if path.is_dir() {
        return Err(UserError(format!("the {what} {name} is a directory; give a file name")));
    }
    let folder = folder(path);
    if !folder.is_dir() {
        return refused(&format!("the folder {} does not exist; make it first", folder.display()));
    }
    if !path.exists() && !writable(folder) {
        return refused(&format!("the folder {} cannot be written; choose another", folder.display()));
    }
    if path.exists() && !writable(path) {
        return Err(UserError(format!("the {what} {name} is there already and cannot be written; choose another name")));
    }
    Ok(())
}

/// The RAM that this process may use in bytes, if the host tells: that of the machine, or the smaller limit of its
/// control group (Linux).
#[must_use]
pub fn host_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let total = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10;
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|s| s.trim().parse::<u64>().ok());
    Some(limit.map_or(total, |l| l.min(total)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_files_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert!(read("kernel", &path, 10).unwrap_err().0.contains("does not exist"));
        assert!(read("kernel", dir.path(), 10).unwrap_err().0.contains("directory"));
        std::fs::write(&path, "").unwrap();
        assert!(read("kernel", &path, 10).unwrap_err().0.contains("empty"));
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(read("kernel", &path, 10).unwrap(), b"0123456789");
        assert!(read("kernel", &path, 9).unwrap_err().0.contains("larger"));
        assert!(creatable("log", &path).is_ok() && creatable("log", &dir.path().join("new")).is_ok());
        assert!(creatable("log", &dir.path().join("no/f")).unwrap_err().0.contains("make it first"));
        assert!(creatable("log", dir.path()).unwrap_err().0.contains("directory"));
    }

    #[test]
    fn contents_are_read_again_as_long_as_they_are_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "0123456789").unwrap();
        assert!(contents("kernel", dir.path(), 10).unwrap_err().0.contains("directory"));
        assert!(contents("kernel", &path, 9).unwrap_err().0.contains("larger"));
        let c = contents("kernel", &path, 10).unwrap();
        assert_eq!(c.source().head(3).unwrap(), b"012");
        for _ in 0..2 {
            assert_eq!(c.source().all().unwrap(), b"0123456789");
        }
        // Another file of that name is none of ours; the same one with other bytes is.
        std::fs::rename(&path, dir.path().join("g")).unwrap();
        std::fs::write(&path, "other").unwrap();
        assert_eq!(c.source().all().unwrap(), b"0123456789");
        std::fs::write(dir.path().join("g"), "shorter").unwrap();
        let why = c.source().all().unwrap_err().to_string();
        assert!(why.contains("changed"), "{why}");
    }
}
