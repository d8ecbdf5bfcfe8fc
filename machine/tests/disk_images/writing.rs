//! Random writes to qcow2 images of all variants, against a model in memory.

use softmetal_bus::{BlockBackend, GuestMemory, Run};
use softmetal_machine::host::disk::tool::{self, New};
use softmetal_machine::host::disk::{self, DiskMode, Format};

use crate::{Bench, Random, contents, read_all, same};

const LEN: usize = (3 << 20) + 512;

/// Guest memory, where a request's bytes lie in two pieces.
struct Scattered {
    memory: GuestMemory,
    runs: [Run; 2],
}

impl Scattered {
    fn new(len: u64, cut: u64) -> Self {
        let memory = GuestMemory::new(len + 8192).unwrap();
        let runs = [Run { offset: len - cut + 4096, len: cut as usize }, Run { offset: 100, len: (len - cut) as usize }];
        Self { memory, runs }
    }

    fn put(&self, data: &[u8]) {
        let (first, second) = data.split_at(self.runs[0].len);
        self.memory.write(self.runs[0].offset, first).unwrap();
        self.memory.write(self.runs[1].offset, second).unwrap();
    }

    fn get(&self) -> Vec<u8> {
        let piece = |run: Run| {
            let mut bytes = vec![0; run.len];
            self.memory.read(run.offset, &mut bytes).unwrap();
            bytes
        };
        self.runs.map(piece).concat()
    }
}

/// Carries out `steps` random requests on `disk` and on `model`; how many reads and writes of guest memory needed no buffer.
fn exercise(disk: &mut dyn BlockBackend, model: &mut [u8], seed: u64, steps: u64) -> [u64; 2] {
    let mut random = Random(seed);
    let size = model.len() as u64;
    let mut straight = [0; 2];
    for _ in 0..steps {
        let at = random.below(size / 512) * 512;
        let most = random.pick(&[512, 4096, 65536, 400_000]);
        let len = ((random.below(most) + 1).next_multiple_of(512)).min(size - at);
        let range = at as usize..(at + len) as usize;
        match random.below(10) {
            0..=4 => {
                let byte = random.next() as u8;
                let data: Vec<u8> = (0..len).map(|i| byte.wrapping_add((i / 512) as u8)).collect();
                let guest = Scattered::new(len, random.below(len + 1));
                guest.put(&data);
                if disk.write_from(at, &guest.memory, &guest.runs).unwrap() {
                    straight[1] += 1;
                } else {
                    disk.write_at(at, &data).unwrap();
                }
                model[range].copy_from_slice(&data);
            }
            5 => {
                disk.write_zeroes(at, len).unwrap();
                model[range].fill(0);
            }
            6 => {
                disk.discard(at, len).unwrap();
                // What it reads as now is the store's to say, but it stays so.
                disk.read_at(at, &mut model[range]).unwrap();
            }
            7 => disk.flush().unwrap(),
            _ => {
                let mut data = vec![0; len as usize];
                disk.read_at(at, &mut data).unwrap();
                same(&data, &model[range.clone()], "a read in between");
                let guest = Scattered::new(len, random.below(len + 1));
                if disk.read_into(at, &guest.memory, &guest.runs).unwrap() {
                    straight[0] += 1;
                    same(&guest.get(), &model[range], "a read into guest memory");
                }
            }
        }
    }
    straight
}

/// Writes to `name`, opens it again, writes more; then both programs find what must be there, and nothing else.
fn holds(bench: &Bench, name: &str, seed: u64, what: &str) {
    let mut model = read_all(&mut *bench.open_to_read(name));
    for round in 0..3 {
        let mut disk = bench.open(name);
        let straight = exercise(&mut *disk, &mut model, seed * 8 + round, 150);
        assert!(straight.iter().all(|n| *n > 0), "{what}: {straight:?}");
        same(&read_all(&mut *disk), &model, what);
        drop(disk);
        bench.sound(name);
        let found = tool::check(&bench.source(name), false).unwrap();
        assert_eq!((found.corruptions, found.leaks, found.messages), (0, 0, vec![]), "{what}");
    }
    same(&bench.bytes(name), &model, what);
}

#[test]
fn images_that_qemu_made() {
    let Some(bench) = Bench::new() else { return };
    bench.put("base.raw", &contents(11, LEN));
    let variants: &[(&str, &[&str])] = &[
        ("compat=0.10", &[]),
        ("compat=0.10,cluster_size=1k", &["-c"]),
        ("cluster_size=512", &[]),
        ("cluster_size=4k,refcount_bits=1", &[]),
        ("cluster_size=2M", &[]),
        ("", &["-c"]),
        ("compression_type=zstd", &["-c"]),
        ("refcount_bits=2", &["-c"]),
        ("refcount_bits=64", &[]),
        ("lazy_refcounts=on", &[]),
        ("preallocation=metadata", &[]),
    ];
    for (n, (options, more)) in variants.iter().enumerate() {
        let name = format!("{n}.qcow2");
        let mut args = vec!["convert", "-O", "qcow2"];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend(*more);
        args.extend(["base.raw", &name]);
        bench.img(&args);
        holds(&bench, &name, n as u64, options);
    }
}

#[test]
fn images_that_we_made() {
    let Some(bench) = Bench::new() else { return };
    bench.put("base.raw", &contents(13, LEN));
    bench.img(&["convert", "-O", "vmdk", "base.raw", "base.vmdk"]);
    for (n, (cluster_size, base)) in
        [(512, None), (4096, Some("base.raw")), (65536, None), (65536, Some("base.vmdk")), (2 << 20, Some("base.raw"))]
            .into_iter()
            .enumerate()
    {
        let name = format!("{n}.qcow2");
        // Longer than the one below.
        let size = Some(LEN as u64 + (1 << 20));
        let backing = base.map(|name| bench.source(name));
        tool::create(&bench.path(&name), &New { format: Format::Qcow2, size, cluster_size: Some(cluster_size), backing, force: false })
            .unwrap();
        bench.sound(&name);
        holds(&bench, &name, 100 + n as u64, &format!("{cluster_size} {base:?}"));
    }
    same(&std::fs::read(bench.path("base.raw")).unwrap(), &contents(13, LEN), "the file below");
}

#[test]
fn snapshots_keep_their_state() {
    let Some(bench) = Bench::new() else { return };
    bench.put("base.raw", &contents(17, LEN));
    bench.img(&["convert", "-c", "-O", "qcow2", "base.raw", "disk.qcow2"]);
    let mut model = contents(17, LEN);
    let mut states = vec![];
    for (n, name) in ["first", "second"].iter().enumerate() {
        bench.img(&["snapshot", "-c", name, "disk.qcow2"]);
        states.push((*name, model.clone()));
        let mut disk = bench.open("disk.qcow2");
        exercise(&mut *disk, &mut model, 500 + n as u64, 120);
        drop(disk);
        bench.sound("disk.qcow2");
    }
    same(&bench.bytes("disk.qcow2"), &model, "the present");
    for (name, state) in &states {
        tool::convert(&bench.source("disk.qcow2"), Some(name), &bench.path("was.raw"), Format::Raw, true, &mut |_, _| {}).unwrap();
        same(&std::fs::read(bench.path("was.raw")).unwrap(), state, name);
        bench.img(&["convert", "-l", name, "-O", "raw", "disk.qcow2", "theirs.raw"]);
        same(&std::fs::read(bench.path("theirs.raw")).unwrap(), state, name);
    }
    let e = tool::convert(&bench.source("disk.qcow2"), Some("third"), &bench.path("x.raw"), Format::Raw, true, &mut |_, _| {}).unwrap_err();
    assert!(e.0.contains("no snapshot third"), "{e}");
    assert!(!bench.path("x.raw").exists());
}

#[test]
fn raw_keeps_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    tool::create(&path, &New { format: Format::Raw, size: Some(64 << 20), cluster_size: None, backing: None, force: false }).unwrap();
    let mut disk = disk::open(&path, &DiskMode::default()).unwrap();
    let mut model = vec![0; 64 << 20];
    exercise(&mut *disk, &mut model, 9, 60);
    same(&read_all(&mut *disk), &model, "raw");
    disk.discard(0, 64 << 20).unwrap();
    drop(disk);
    let info = tool::info(&tool::Source { path: path.clone(), format: None, backing_anywhere: false }).unwrap();
    assert_eq!((info.virtual_size, info.actual_size), (64 << 20, 0));
}
