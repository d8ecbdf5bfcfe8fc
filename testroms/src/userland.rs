//! Programs of this host for a guest's root file system, and data for them to work on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

/// The libraries that programs or libraries of this host need.
///
/// # Errors
/// When one is not there, or `ldd` fails.
pub fn libraries(paths: &[&Path]) -> io::Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").args(paths).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("ldd: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let path = |line: &str| line.split_whitespace().find(|w| w.starts_with('/') && !w.ends_with(':')).map(PathBuf::from);
    Ok(text.lines().filter_map(path).collect())
}

/// Copies programs and libraries of this host, and the libraries that they need, to the same paths below `root`.
/// Symbolic links are followed.
///
/// # Errors
/// When one is not there or cannot be copied, or `ldd` fails.
pub fn install(root: &Path, paths: &[&Path]) -> io::Result<()> {
    let mut all = libraries(paths)?;
    all.extend(paths.iter().map(|p| p.to_path_buf()));
    for path in all {
        let to = root.join(path.strip_prefix("/").map_err(io::Error::other)?);
        fs::create_dir_all(to.parent().unwrap_or(root))?;
        fs::copy(&path, to)?;
    }
    Ok(())
}

/// A text of at least `len` bytes that compresses like one.
#[must_use]
pub fn text(len: usize) -> String {
    let words = ["the", "guest", "reads", "pages", "of", "memory", "while", "a", "disk", "waits", "for", "its", "turn"];
    let (mut out, mut x) = (String::new(), 1u32);
    while out.len() < len {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out += words[(x >> 16) as usize % words.len()];
        out += if x >> 29 == 0 { ".\n" } else { " " };
        if x >> 28 == 1 {
            out += &x.to_string();
        }
    }
    out
}
