//! Disk images against `qemu-img`: what it writes we read, what we write it reads, and both find the same in damaged ones.
//!
//! Without `qemu-img` the tests say on stderr that they are skipped; with `SOFTMETAL_NEED_IMAGES` set, that is a failure.
//!
//! | module | what it tests |
//! |---|---|
//! | `reading` | images of all formats and variants that `qemu-img` makes |
//! | `writing` | random writes to qcow2 images of all variants, against a model |
//! | `chains` | backing files, commit, resize, internal snapshots |
//! | `damage` | checks and repairs of damaged qcow2 images |
//! | `fuzz` | mutated images of all formats |
//! | `faults` | a full disk, a replaced file, a locked one |

mod chains;
mod damage;
mod faults;
mod fuzz;
mod reading;
mod writing;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use softmetal_bus::BlockBackend;
use softmetal_machine::host::disk::tool::Source;
use softmetal_machine::host::disk::{self, DiskMode, Format};

/// A folder with images, and `qemu-img` to make them.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    /// `None` where there is no `qemu-img`.
    fn new() -> Option<Self> {
        if Command::new("qemu-img").arg("--version").output().is_err() {
            softmetal_testroms::lacking("SOFTMETAL_NEED_IMAGES", &"there is no qemu-img; install qemu-utils");
            return None;
        }
        Some(Self { dir: tempfile::tempdir().unwrap() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `qemu-img` (or `qemu-io`) in the folder: exit code and stdout.
    fn run(&self, program: &str, args: &[&str]) -> (Option<i32>, String, String) {
        let out = Command::new(program).current_dir(self.dir.path()).args(args).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned())
    }

    /// Runs `qemu-img`, which must succeed; its stdout.
    fn img(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run("qemu-img", args);
        assert_eq!(code, Some(0), "qemu-img {args:?}\n{out}{err}");
        out
    }

    /// Runs commands of `qemu-io` on an image; each must succeed.
    fn io(&self, image: &str, commands: &[&str]) {
        for command in commands {
            let (code, out, err) = self.run("qemu-io", &["-c", command, image]);
            assert!(code == Some(0) && !out.contains("failed"), "qemu-io {command} {image}\n{out}{err}");
        }
    }

    /// Writes `bytes` to `name`.
    fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// What `qemu-img` reads from `name`.
    fn bytes(&self, name: &str) -> Vec<u8> {
        self.img(&["convert", "-O", "raw", name, "all.bytes"]);
        std::fs::read(self.path("all.bytes")).unwrap()
    }

    fn source(&self, name: &str) -> Source {
        Source { path: self.path(name), format: None, backing_anywhere: false }
    }

    /// `qemu-img check`, which must find the image without any fault.
    fn sound(&self, name: &str) {
        let (code, out, err) = self.run("qemu-img", &["check", name]);
        assert_eq!(code, Some(0), "qemu-img check {name}\n{out}{err}");
    }

    fn open(&self, name: &str) -> Box<dyn BlockBackend> {
        disk::open(&self.path(name), &DiskMode::default()).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn open_to_read(&self, name: &str) -> Box<dyn BlockBackend> {
        let mode = DiskMode { read_only: true, ..DiskMode::default() };
        disk::open(&self.path(name), &mode).unwrap_or_else(|e| panic!("{name}: {e}"))
    }
}

/// A reproducible source of numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        softmetal_bus::splitmix64(&mut self.0)
    }

    /// Less than `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// `len` bytes as disks have them: noise, text, zeros in turn.
fn contents(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = Vec::with_capacity(len + (1 << 18));
    while bytes.len() < len {
        let n = random.below(1 << 18) as usize + 1;
        match random.below(3) {
            0 => bytes.extend(std::iter::repeat_with(|| random.next() as u8).take(n)),
            1 => bytes.extend(b"all work and no play ".iter().cycle().take(n)),
            _ => bytes.resize(bytes.len() + n, 0),
        }
    }
    bytes.truncate(len);
    bytes
}

/// Reads a whole disk in pieces of changing length.
fn read_all(disk: &mut dyn BlockBackend) -> Vec<u8> {
    let mut random = Random(1);
    let mut bytes = vec![0; disk.size() as usize];
    let mut at = 0;
    while at < bytes.len() {
        let n = (random.below(300_000) as usize + 1).min(bytes.len() - at);
        disk.read_at(at as u64, &mut bytes[at..at + n]).unwrap();
        at += n;
    }
    bytes
}

/// The first place where two disks differ.
fn same(a: &[u8], b: &[u8], what: &str) {
    let place = a.iter().zip(b).position(|(a, b)| a != b);
    assert_eq!((place, a.len()), (None, b.len()), "{what}: the first byte that differs, and the lengths");
}

/// Every member of `ours` is in `theirs` and alike.
fn agrees(ours: &Value, theirs: &Value, what: &str) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                // Names of files are given as the user did.
                if !key.contains("filename") {
                    agrees(value, b.get(key).unwrap_or(&Value::Null), &format!("{what}: {key}"));
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{what}");
            a.iter().zip(b).for_each(|(a, b)| agrees(a, b, what));
        }
        _ => assert_eq!(ours, theirs, "{what}"),
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn only(path: &Path, format: Option<Format>) -> Source {
    Source { path: path.into(), format, backing_anywhere: false }
}
