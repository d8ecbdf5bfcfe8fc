//! The distribution's own kernels, as a user boots them: every test runs the built command.
//!
//! The images are fetched through the host's package manager. Where there is none these tests say on stderr that they
//! are skipped; with `SOFTMETAL_NEED_IMAGES` set, that is a failure. `SOFTMETAL_ENGINE=interpreter` runs them with that engine.

#[path = "../binary.rs"]
mod binary;
mod boot;
mod boots;
mod durability;
mod engines;
mod firmware;
mod jits;
mod media;
mod processors;
mod screen;
mod secure_boot;
mod selftests;
mod storage;
mod terminal;
mod userland;

use std::path::PathBuf;
use std::process::Command;

use softmetal_machine::host::catalog::{Catalog, CatalogError, Linux};

use binary::command as softmetal;
use softmetal_testroms::{lacking, skipped as skip};

/// Set where packages can be had, and .ci/run has installed what the tests make media with.
const NEED: &str = "SOFTMETAL_NEED_IMAGES";
/// What no log of a healthy kernel holds.
const TROUBLE: &str = "WARNING:|BUG:|Call Trace|Oops|Kernel panic";

/// The kernel and initramfs of the catalogue's `name`, or `None` where it cannot be had.
fn images(name: &str) -> Option<Linux> {
    let catalog = Catalog::new(false).unwrap();
    match catalog.fetch(name, &mut |_| {}) {
        Ok(fetched) => fetched.linux(),
        Err(e @ CatalogError::NoPackageManager(_)) => {
            lacking(NEED, &e);
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// A file of a package of the distribution, or `None` where there are none.
fn package_file(package: &str, file: &str) -> Option<PathBuf> {
    match Catalog::new(false).and_then(|c| c.package_files(package, &[file], &mut |_| {})) {
        Ok(files) => files.into_iter().next(),
        Err(e @ CatalogError::NoPackageManager(_)) => {
            skip(&e);
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// The end of a test that went well: exit code 0, and a kernel's whole log without trouble.
fn passes(command: &mut Command) -> String {
    let output = command.args(["--memory", "256M", "--forbid", TROUBLE]).output().unwrap();
    let (log, words) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{command:?}\n{log}\n{words}");
    log.into_owned()
}

/// A file of `len` bytes that look random, in a folder that lives as long as the result.
fn disk(len: usize) -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    })
    .take(len)
    .collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    std::fs::write(&path, &bytes).unwrap();
    (dir, path, bytes)
}
