//! The "newc" archive that the kernel unpacks as its first file system (Documentation/driver-api/early-userspace).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{CatalogError, Result, at, read};

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// The files of an archive by path. All belong to root and carry no time, so equal contents give equal archives.
#[derive(Default)]
pub struct Archive {
    files: BTreeMap<Vec<u8>, (u32, Vec<u8>)>,
}

impl Archive {
    /// Adds the folder `path` and those above it.
    pub fn folder(&mut self, path: &str) {
        self.parents(path.as_bytes());
        self.files.insert(path.into(), (FOLDER | 0o755, Vec::new()));
    }

    /// Adds a file, and the folders above it.
    pub fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.parents(path.as_bytes());
        self.files.insert(path.into(), (FILE | mode, content));
    }

    /// Adds all that is below `folder` on the host, with its permissions.
    ///
    /// # Errors
    /// [`CatalogError`] when something cannot be read, or is no file, folder or symbolic link.
    pub fn add_folder(&mut self, folder: &Path) -> Result<()> {
        let mut pending = vec![(folder.to_path_buf(), Vec::new())];
        while let Some((folder, prefix)) = pending.pop() {
            for entry in fs::read_dir(&folder).map_err(at(&folder))? {
                let path = entry.map_err(at(&folder))?.path();
                let mut name: Vec<u8> = prefix.clone();
                name.extend(path.file_name().unwrap_or_default().as_bytes());
                let meta = fs::symlink_metadata(&path).map_err(at(&path))?;
                let mode = meta.permissions().mode() & 0o7777;
                let kind = meta.file_type();
                let (mode, content) = if kind.is_dir() {
                    pending.push((path, [&name[..], b"/"].concat()));
                    (FOLDER | mode, Vec::new())
                } else if kind.is_symlink() {
                    let target = fs::read_link(&path).map_err(at(&path))?;
                    (LINK | 0o777, target.as_os_str().as_bytes().to_vec())
                } else if kind.is_file() && meta.len() <= u64::from(u32::MAX) {
                    (FILE | mode, read(&path)?)
                } else {
                    let detail = "only files below 4 GiB, folders and symbolic links go into an initramfs".into();
                    return Err(CatalogError::Path { path, detail });
                };
                self.files.insert(name, (mode, content));
            }
        }
        Ok(())
    }

    fn parents(&mut self, path: &[u8]) {
        for (i, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
            self.files.entry(path[..i].to_vec()).or_insert((FOLDER | 0o755, Vec::new()));
        }
    }

    /// The archive's bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let mut out = Vec::new();
        for (i, (name, (mode, content))) in self.files.iter().enumerate() {
            member(&mut out, i as u32 + 1, name, *mode, content);
        }
        member(&mut out, 0, b"TRAILER!!!", 0, &[]);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }
}

fn member(out: &mut Vec<u8>, inode: u32, name: &[u8], mode: u32, content: &[u8]) {
    let links = if mode & 0o170_000 == FOLDER { 2 } else { 1 };
    out.extend(b"070701");
    // Inode, mode, uid, gid, links, mtime, size, device (2), special device (2), length of the name with its NUL, check.
    for field in [inode, mode, 0, 0, links, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0] {
        out.extend(format!("{field:08x}").bytes());
    }
    out.extend(name);
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(content);
    out.resize(out.len().next_multiple_of(4), 0);
}
