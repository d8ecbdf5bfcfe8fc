//! Files that are read whole, and what the host has of memory.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::UserError;

/// Reads `path` (`-` is stdin) whole. `what` names it in errors: `kernel`, `initrd`.
///
/// # Errors
/// [`UserError`] when it cannot be opened or read, is a directory, is empty, or holds more than `limit` bytes.
pub fn read(what: &str, path: &Path, limit: u64) -> Result<Vec<u8>, UserError> {
    let name = path.display();
    let failed = |e: std::io::Error| UserError::file(what, path, &e);
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        let file = File::open(path).map_err(failed)?;
        if file.metadata().is_ok_and(|m| m.is_dir()) {
            return Err(UserError(format!("the {what} {name} is a directory; give a file")));
        }
        file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.is_empty() {
        return Err(UserError(format!("the {what} {name} is empty (0 bytes); give a complete file")));
    }
    if bytes.len() as u64 > limit {
        return Err(UserError(format!("the {what} {name} is larger than the guest's memory of {} MiB; give more --memory", limit >> 20)));
    }
    Ok(bytes)
}

/// The first `len` bytes of `path`, or as many as there are.
///
/// # Errors
/// [`UserError`] as in [`read`].
pub fn head(what: &str, path: &Path, len: usize) -> Result<Vec<u8>, UserError> {
    let mut bytes = Vec::new();
    let failed = |e: std::io::Error| UserError::file(what, path, &e);
    let file = File::open(path).map_err(failed)?;
    if file.metadata().is_ok_and(|m| m.is_dir()) {
        return Err(UserError(format!("the {what} {} is a directory; give a file", path.display())));
    }
    file.take(len as u64).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Writes a small file whole: beside `path` first, so that no one ever sees half of it.
///
/// # Errors
/// A sentence; `path` is then as it was.
pub fn write(what: &str, path: &Path, bytes: &[u8]) -> Result<(), UserError> {
    let failed = |e: std::io::Error| UserError(format!("cannot write the {what} {}: {e}", path.display()));
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

/// Checks, without writing, that a file could be made at `path`.
///
/// # Errors
/// [`UserError`] when its folder does not exist or it is a directory.
pub fn creatable(what: &str, path: &Path) -> Result<(), UserError> {
    let name = path.display();
    if path.is_dir() {
        return Err(UserError(format!("the {what} {name} is a directory; give a file name")));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(UserError(format!("the {what} {name} cannot be made: the folder {} does not exist", folder.display())));
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
        assert!(creatable("log", &path).is_ok() && creatable("log", &dir.path().join("no/f")).is_err());
    }
}
