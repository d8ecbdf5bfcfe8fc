//! Mutated images of all formats: whatever is in a file, opening and using it gives bytes or a sentence. No panic, no hang,
//! bounded memory, and nothing is read from files that were not named.
//!
//! `SOFTMETAL_FUZZ_IMAGES=N` runs N cases (the default is short) from number `SOFTMETAL_FUZZ_FIRST` on; a case is its
//! number, so a failure repeats.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use softmetal_bus::BlockError;
use softmetal_machine::host::disk::tool::{self, Source};
use softmetal_machine::host::disk::{self, DiskMode, Format};

use crate::{Bench, Random, contents};

/// Cases in the suite.
const CASES: u64 = 2_600;
/// The size of the sound images, in bytes; small, because each case copies one.
const BASE: usize = 192 << 10;
/// The most that the process may ever have used, in bytes; other tests of this program run beside.
const MEMORY: u64 = 700 << 20;
/// The most room that a case may take on the host: what is written, in clusters of the largest kind, and tables.
const ROOM: u64 = 256 << 20;
/// What the file holds that no image may reach.
const SECRET: &[u8; 16] = b"not for guests!!";

/// A sound image, and where its tables are.
struct Seed {
    name: &'static str,
    bytes: Vec<u8>,
    hot: Vec<Range<usize>>,
    mend: fn(&mut [u8]),
}

fn be64(bytes: &[u8], at: usize) -> usize {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

fn qcow2_tables(bytes: &[u8]) -> Vec<Range<usize>> {
    let (l1, refs) = (be64(bytes, 40), be64(bytes, 48));
    let mut hot = vec![0..112, l1..l1 + 16, refs..refs + 16];
    for at in [be64(bytes, l1) & 0xff_ffff_ffff_fe00, be64(bytes, refs)] {
        hot.push(at..at + 512);
    }
    let snapshots = be64(bytes, 64);
    if snapshots != 0 {
        hot.push(snapshots..snapshots + 100);
    }
    hot
}

/// The sums of a VHD's footers and header.
fn mend_vhd(bytes: &mut [u8]) {
    let end = bytes.len().saturating_sub(512);
    for (at, len, sum) in [(0, 512, 64), (512, 1024, 36), (end, 512, 64)] {
        let Some(part) = bytes.get_mut(at..at + len) else { continue };
        if part.starts_with(b"conectix") || part.starts_with(b"cxsparse") {
            part[sum..sum + 4].fill(0);
            let sum_of = !part.iter().map(|b| u32::from(*b)).sum::<u32>();
            part[sum..sum + 4].copy_from_slice(&sum_of.to_be_bytes());
        }
    }
}

/// The sums of a VHDX's headers and region tables.
fn mend_vhdx(bytes: &mut [u8]) {
    for (at, len) in [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 64 << 10), (256 << 10, 64 << 10)] {
        let Some(part) = bytes.get_mut(at..at + len) else { continue };
        part[4..8].fill(0);
        let crc = part.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
        });
        part[4..8].copy_from_slice(&(!crc).to_le_bytes());
    }
}

fn seeds(bench: &Bench) -> Vec<Seed> {
    bench.put("base.raw", &contents(53, BASE));
    let nothing: fn(&mut [u8]) = |_| {};
    let mut seeds = Vec::new();
    let mut make = |name: &'static str, format: &str, options: &str, hot: fn(&[u8]) -> Vec<Range<usize>>, mend| {
        let mut args = vec!["convert", "-O", format, "base.raw", name];
        if !options.is_empty() {
            args.extend(options.split(' '));
        }
        bench.img(&args);
        if name.contains("snapshot") {
            bench.img(&["snapshot", "-c", "one", name]);
        }
        let bytes = std::fs::read(bench.path(name)).unwrap();
        let hot = hot(&bytes);
        seeds.push(Seed { name, bytes, hot, mend });
    };
    make("v2.qcow2", "qcow2", "-o compat=0.10,cluster_size=4k", qcow2_tables, nothing);
    make("v3.qcow2", "qcow2", "-o cluster_size=512", qcow2_tables, nothing);
    make("zlib.qcow2", "qcow2", "-c", qcow2_tables, nothing);
    make("zstd.qcow2", "qcow2", "-c -o compression_type=zstd,cluster_size=4k", qcow2_tables, nothing);
    make("snapshot.qcow2", "qcow2", "-o cluster_size=4k,refcount_bits=8", qcow2_tables, nothing);
    make("sparse.vmdk", "vmdk", "", |_| vec![0..80, 512..1600, 10752..11300], nothing);
    make("stream.vmdk", "vmdk", "-o subformat=streamOptimized", |b| vec![0..80, 512..1600, b.len() - 1536..b.len()], nothing);
    make("parts.vmdk", "vmdk", "-o subformat=monolithicFlat", |b| std::iter::once(0..b.len()).collect(), nothing);
    make("disk.vdi", "vdi", "", |_| vec![0x40..0x1a0, 512..560], nothing);
    make("dynamic.vhd", "vpc", "", |_| vec![0..90, 512..580, 1536..1560], mend_vhd);
    make("fixed.vhd", "vpc", "-o subformat=fixed", |b| std::iter::once(b.len() - 512..b.len() - 420).collect(), mend_vhd);
    let vhdx =
        |_: &[u8]| vec![65536..65620, 131_072..131_160, 196_608..196_700, 2 << 20..(2 << 20) + 200, (2 << 20) + 65536..(2 << 20) + 65600];
    make("disk.vhdx", "vhdx", "-o block_size=1M", vhdx, mend_vhdx);

    bench.img(&["create", "-f", "qcow2", "-b", "below.raw", "-F", "raw", "-u", "backed.qcow2", "1M"]);
    let bytes = std::fs::read(bench.path("backed.qcow2")).unwrap();
    let mut hot = qcow2_tables(&bytes);
    let name = be64(&bytes, 8);
    hot.extend([name..name + 9, 104..name, name..name + 9]);
    seeds.push(Seed { name: "backed.qcow2", bytes, hot, mend: nothing });
    seeds
}

/// Numbers on which readers of headers stumble.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    511,
    513,
    0xffff,
    1 << 20,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    1 << 50,
    1 << 60,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 511,
    u64::MAX,
];
const NAMES: [&[u8]; 5] = [b"../s.raw\0", b"v.qcow2\0\0", b"nbd:x:1\0\0", b"x.img\0\0\0\0", b"/dev/mem\0"];

fn mutate(random: &mut Random, seed: &Seed) -> (Vec<u8>, u64) {
    let mut bytes = seed.bytes.clone();
    for _ in 0..=random.below(3) {
        let range = seed.hot[random.below(seed.hot.len() as u64) as usize].clone();
        let range = range.start..range.end.min(bytes.len());
        let mut at = range.start + random.below(range.len() as u64) as usize;
        let width = random.pick(&[1, 2, 4, 8]);
        if random.below(4) != 0 {
            at -= at % width;
        }
        let old = bytes[at..].iter().take(8).fold(0, |v, b| v << 8 | u64::from(*b));
        let value = match random.below(5) {
            0 => random.pick(&NUMBERS),
            1 => random.next(),
            2 => bytes.len() as u64 + random.below(3) * 512,
            3 => old.wrapping_add(random.pick(&[1, 512, 65536, u64::MAX])),
            _ => 1 << random.below(64),
        };
        let value = if random.below(2) == 0 { value.to_le_bytes() } else { value.to_be_bytes() };
        match random.below(8) {
            // Anywhere.
            0 => {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
            // One entry over another.
            1 => {
                let from = range.start + random.below(range.len() as u64) as usize;
                let n = 8.min(bytes.len() - from.max(at));
                bytes.copy_within(from..from + n, at);
            }
            2 => {
                let name = random.pick(&NAMES);
                let n = name.len().min(bytes.len() - at);
                bytes[at..at + n].copy_from_slice(&name[..n]);
            }
            _ => {
                let value = if value[0] == 0 && random.below(2) == 0 { &value[8 - width..] } else { &value[..width] };
                for (place, byte) in bytes[at..].iter_mut().zip(value) {
                    *place = *byte;
                }
            }
        }
    }
    if random.below(5) != 0 {
        (seed.mend)(&mut bytes);
    }
    let len = bytes.len() as u64;
    let len = match random.below(12) {
        0 => random.below(len + 1),
        1 => random.below(len / 512 + 1) * 512,
        2 => 1 << random.pick(&[24, 33, 40]),
        _ => len,
    };
    bytes.truncate(len as usize);
    (bytes, len)
}

/// How the cases of a format ended.
#[derive(Clone, Default)]
struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    fn add(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// It succeeded, or failed with a sentence.
    fn judge(&mut self, what: &'static str, result: Result<(), String>) {
        match result {
            Ok(()) => self.add(what),
            Err(e) => sentence(&e),
        }
    }
}

fn sentence(text: &str) {
    let start: String = text.chars().take(200).collect();
    assert!(!text.is_empty() && !text.contains('\n') && text.len() < 2000, "no sentence: {start:?}");
}

/// Makes the file `path` of `len` bytes that begins with `bytes`, with holes where they are zeros.
fn put_sparse(path: &Path, bytes: &[u8], len: u64) {
    use std::os::unix::fs::FileExt;
    const PIECE: usize = 4096;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(len).unwrap();
    for (piece, at) in bytes.chunks(PIECE).zip((0..).step_by(PIECE)) {
        if *piece != [0; PIECE][..piece.len()] {
            file.write_all_at(piece, at).unwrap();
        }
    }
}

/// Uses an image in every way.
fn poke(random: &mut Random, path: &Path, counts: &mut Counts) {
    let source = Source { path: path.into(), format: None, backing_anywhere: false };
    counts.judge("described", tool::info(&source).map(|_| ()).map_err(|e| e.0));
    counts.judge("checked", tool::check(&source, false).map(|_| ()).map_err(|e| e.0));
    let mut buffer = vec![0; 1 << 16];
    match disk::open(path, &DiskMode { read_only: true, ..DiskMode::default() }) {
        Ok(mut disk) => {
            counts.add("opened to read");
            let size = disk.size();
            for n in 0..12 {
                let len = buffer.len().min(size as usize);
                let at = match n {
                    0 => 0,
                    1 => size - len as u64,
                    _ => random.below(size - len as u64 + 1),
                };
                match disk.read_at(at, &mut buffer[..len]) {
                    Ok(()) => assert!(!buffer.windows(16).any(|w| w == SECRET), "read what it may not"),
                    Err(BlockError::Host(e)) => sentence(&e.to_string()),
                    Err(e) => panic!("{e} within the disk"),
                }
            }
            assert!(matches!(disk.read_at(size, &mut [0; 512]), Err(BlockError::OutOfRange)));
            assert!(matches!(disk.read_at(u64::MAX - 100, &mut [0; 512]), Err(BlockError::OutOfRange)));
            if size < 64 << 20 {
                let result = tool::convert(&source, None, &path.with_extension("out"), Format::Qcow2, true, &mut |_, _| {});
                counts.judge("converted", result.map_err(|e| e.0));
            }
        }
        Err(e) => sentence(&e.0),
    }
    match disk::open(path, &DiskMode::default()) {
        Ok(mut disk) => {
            counts.add("opened to write");
            let size = disk.size();
            for _ in 0..12 {
                let len = (random.below(30_000) + 1).min(size);
                let at = random.below(size - len + 1);
                let data = &mut buffer[..len as usize];
                let result = match random.below(5) {
                    0 => disk.write_zeroes(at, len),
                    1 => disk.discard(at, len),
                    2 => disk.flush(),
                    3 => disk.read_at(at, data),
                    _ => disk.write_at(at, data),
                };
                match result {
                    Ok(()) | Err(BlockError::Host(_)) => {}
                    Err(e) => panic!("{e} within the disk"),
                }
            }
        }
        Err(e) => sentence(&e.0),
    }
    match tool::check(&source, true) {
        Ok(check) if check.corruptions == 0 => {
            counts.judge(
                "sound after a repair",
                tool::check(&source, false).map_err(|e| e.0).map(|again| {
                    assert_eq!((again.corruptions, again.leaks), (0, check.leaks), "{:?}", again.messages);
                }),
            );
        }
        Ok(_) => {}
        Err(e) => sentence(&e.0),
    }
}

/// The most memory that this process has used, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn mutated_images() {
    use std::os::unix::fs::MetadataExt;
    let Some(bench) = Bench::new() else { return };
    let cases = std::env::var("SOFTMETAL_FUZZ_IMAGES").map_or(CASES, |n| n.parse().unwrap());
    let first = std::env::var("SOFTMETAL_FUZZ_FIRST").map_or(0, |n| n.parse().unwrap());
    let seeds = seeds(&bench);
    std::fs::create_dir(bench.path("in")).unwrap();
    bench.put("s.raw", &SECRET.repeat(65536));
    std::fs::write(bench.path("in/below.raw"), contents(59, 1 << 20)).unwrap();
    std::fs::copy(bench.path("v3.qcow2"), bench.path("in/v.qcow2")).unwrap();
    std::fs::copy(bench.path("parts-flat.vmdk"), bench.path("in/parts-flat.vmdk")).unwrap();
    let path = bench.path("in/x.img");
    let mut formats = vec![Counts::default(); seeds.len()];
    for n in first..first + cases {
        /// Names the case that fails.
        struct Name(u64, &'static str);
        impl Drop for Name {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("case {} ({}): repeat it with SOFTMETAL_FUZZ_FIRST={} SOFTMETAL_FUZZ_IMAGES=1", self.0, self.1, self.0);
                }
            }
        }
        let mut random = Random(n);
        let kind = (n % seeds.len() as u64) as usize;
        let (seed, counts) = (&seeds[kind], &mut formats[kind]);
        counts.add("cases");
        let name = Name(n, seed.name);
        let (bytes, len) = mutate(&mut random, seed);
        let _ = std::fs::remove_file(&path);
        put_sparse(&path, &bytes, len);
        poke(&mut random, &path, counts);
        let room = std::fs::metadata(&path).unwrap().blocks() * 512;
        assert!(room < ROOM, "the file takes {room} bytes now");
        drop(name);
    }
    println!("{cases} mutated images, peak of memory {} MiB", peak() >> 20);
    for (seed, counts) in seeds.iter().zip(&formats) {
        println!("{:>16}: {:?}", seed.name, counts.0);
    }
    assert!(peak() < MEMORY, "{} MiB of memory", peak() >> 20);
    for what in ["described", "checked", "opened to read", "opened to write", "converted", "sound after a repair"] {
        let total: u64 = formats.iter().map(|counts| counts.of(what)).sum();
        assert!(first > 0 || total > cases / 20, "{what}: {total}");
    }
}
