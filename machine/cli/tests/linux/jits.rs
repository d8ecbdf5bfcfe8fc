//! Code that writes code: just-in-time compilers give in a guest what they give on this host with both
//! engines.
//!
//! `SOFTMETAL_LONG_BOOTS=1 cargo test --release -p softmetal --test linux jits -- --nocapture` has more rounds, and PyPy.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::boots::wanted;
use crate::images;
use crate::userland::{Guest, able, run};

const LUA: &str = include_str!("userland/jit.lua");
const PYTHON: &str = include_str!("userland/jit.py");

/// The fast engine of this host, and the one that every host has.
fn engines() -> [&'static str; 2] {
    ["auto", "interpreter"]
}

/// Unpacks packages of the distribution below `root`.
fn unpack(root: &Path, packages: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    run(Command::new("apt-get").current_dir(folder.path()).args(["download", "-q"]).args(packages));
    for package in std::fs::read_dir(folder.path()).unwrap() {
        run(Command::new("dpkg-deb").arg("-x").arg(package.unwrap().path()).arg(root));
    }
}

#[test]
fn luajit_gives_what_it_gives_here() {
    if images("busybox").is_none() || !able(&["apt-get", "dpkg-deb", "ldd"]) {
        return;
    }
    let guest = Guest::new();
    unpack(&guest.here(""), &["luajit"]);
    let luajit: PathBuf = guest.here("usr/bin/luajit");
    guest.install_libraries_of(&luajit);
    std::fs::write(guest.here("jit.lua"), LUA).unwrap();
    let rounds = if wanted() { 200 } else { 3 };
    guest.agrees(&format!("/userland/usr/bin/luajit jit.lua {rounds}"), "256M", &engines().map(Some));
}

#[test]
fn pypy_gives_what_it_gives_here() {
    if !crate::boots::long() || images("busybox").is_none() || !able(&["apt-get", "dpkg-deb", "ldd"]) {
        return;
    }
    let guest = Guest::new();
    unpack(&guest.here(""), &["pypy3", "pypy3-lib", "libffi8", "libexpat1"]);
    let library = guest.here("usr/lib/x86_64-linux-gnu/libpypy3.9-c.so");
    guest.install_libraries_of(&library);
    std::fs::write(guest.here("jit.py"), PYTHON).unwrap();
    let python = "LD_LIBRARY_PATH=/userland/usr/lib/x86_64-linux-gnu /userland/usr/bin/pypy3";
    guest.agrees(&format!("{python} -S jit.py 4"), "1G", &engines().map(Some));
}
