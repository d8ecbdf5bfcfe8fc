//! Checks and repairs of damaged qcow2 images: `qemu-img` and we find the same, and each finds the other's repair sound.

use softmetal_machine::host::disk::tool;

use crate::{Bench, Random, contents, json, same};

/// Where the tables of an image are, in bytes.
struct Tables {
    l1: usize,
    l2: usize,
    refcounts: usize,
    cluster: usize,
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn tables(bytes: &[u8]) -> Tables {
    let entry = |at| (be64(bytes, at) & 0xff_ffff_ffff_fe00) as usize;
    let (l1, reftable) = (entry(40), entry(48));
    let cluster = 1 << bytes[23];
    Tables { l1, l2: entry(l1), refcounts: entry(reftable), cluster }
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

type Damage = fn(&mut Vec<u8>, &Tables);

const DAMAGES: &[(&str, Damage)] = &[
    ("nothing", |_, _| {}),
    ("a lost cluster", |b, t| {
        let end = b.len() / t.cluster;
        b.resize(b.len() + t.cluster, 0);
        b[t.refcounts + end * 2 + 1] = 1;
    }),
    ("a refcount too high", |b, t| b[t.refcounts + 9 * 2 + 1] = 5),
    ("a refcount of 0", |b, t| b[t.refcounts + 8 * 2 + 1] = 0),
    ("a cluster used twice", |b, t| {
        let first = be64(b, t.l2);
        put(b, t.l2 + 8, first);
    }),
    ("no mark of sole use", |b, t| {
        let first = be64(b, t.l2);
        put(b, t.l2, first & !(1 << 63));
    }),
    ("no mark of sole use in L1", |b, t| {
        let first = be64(b, t.l1);
        put(b, t.l1, first & !(1 << 63));
    }),
    ("the dirty bit", |b, _| b[79] |= 1),
    ("reserved bits", |b, t| b[t.l2 + 15] |= 4),
    ("no refcounts at all", |b, _| {
        let reftable = be64(b, 48) as usize;
        put(b, reftable, 0);
    }),
    ("refcounts where data is", |b, t| {
        let (reftable, data) = (be64(b, 48) as usize, be64(b, t.l2) & !(1 << 63));
        put(b, reftable, data);
    }),
];

#[test]
fn both_find_the_same() {
    let Some(bench) = Bench::new() else { return };
    bench.put("base.raw", &contents(31, 2 << 20));
    bench.img(&["convert", "-O", "qcow2", "-o", "cluster_size=4k", "base.raw", "sound.qcow2"]);
    let sound = std::fs::read(bench.path("sound.qcow2")).unwrap();
    let tables = tables(&sound);
    for (what, damage) in DAMAGES {
        let mut bytes = sound.clone();
        damage(&mut bytes, &tables);
        bench.put("damaged.qcow2", &bytes);
        let (code, out, _) = bench.run("qemu-img", &["check", "--output=json", "damaged.qcow2"]);
        let theirs = json(&out);
        let ours = tool::check(&bench.source("damaged.qcow2"), false).unwrap();
        let number = |key: &str| theirs[key].as_u64().unwrap_or(0);
        // Once the refcounts themselves are gone, each counts in its own way.
        if !what.contains("refcounts") {
            assert_eq!((ours.corruptions, ours.leaks), (number("corruptions"), number("leaks")), "{what}: {:?}", ours.messages);
        }
        assert_eq!(code == Some(0), ours.corruptions + ours.leaks == 0, "{what}");
        assert_eq!(std::fs::read(bench.path("damaged.qcow2")).unwrap(), bytes, "{what}: a check changes nothing");

        // A repair leaves what qemu-img finds sound; so the other way round.
        let fixed = tool::check(&bench.source("damaged.qcow2"), true).unwrap();
        assert_eq!((fixed.corruptions, fixed.leaks), (0, 0), "{what}: {:?}", fixed.messages);
        bench.sound("damaged.qcow2");
        same(&bench.bytes("damaged.qcow2"), &mended(&bench, &bytes), what);
    }
}

/// What the disk is after `qemu-img` has repaired it; our check finds that sound.
fn mended(bench: &Bench, damaged: &[u8]) -> Vec<u8> {
    bench.put("theirs.qcow2", damaged);
    bench.run("qemu-img", &["check", "-r", "all", "theirs.qcow2"]);
    // Reserved bits it only tells of.
    if bench.run("qemu-img", &["check", "theirs.qcow2"]).0 == Some(0) {
        let found = tool::check(&bench.source("theirs.qcow2"), false).unwrap();
        assert_eq!((found.corruptions, found.leaks, found.messages), (0, 0, vec![]));
    }
    bench.bytes("theirs.qcow2")
}

/// Whatever a repair makes of random damage, it says itself whether the image is sound now, and `qemu-img` agrees.
#[test]
fn repairs_of_random_damage() {
    let Some(bench) = Bench::new() else { return };
    bench.put("base.raw", &contents(37, 1 << 20));
    bench.img(&["convert", "-O", "qcow2", "-o", "cluster_size=4k", "base.raw", "sound.qcow2"]);
    let sound = std::fs::read(bench.path("sound.qcow2")).unwrap();
    let t = tables(&sound);
    let mut random = Random(5);
    let (mut repaired, mut refused) = (0, 0);
    for n in 0..40 {
        let mut bytes = sound.clone();
        for _ in 0..=random.below(4) {
            let at = random.pick(&[t.l1, t.l2, t.refcounts]) + random.below(t.cluster as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
        }
        bench.put("damaged.qcow2", &bytes);
        let source = bench.source("damaged.qcow2");
        let Ok(_) = tool::check(&source, true) else {
            refused += 1;
            continue;
        };
        let after = tool::check(&source, false).unwrap_or_else(|e| panic!("case {n}: a repaired image cannot be checked: {e}"));
        let (code, out, err) = bench.run("qemu-img", &["check", "damaged.qcow2"]);
        assert_eq!(after.corruptions + after.leaks == 0, code == Some(0), "case {n}: {:?}\n{out}{err}", after.messages);
        repaired += u32::from(code == Some(0));
    }
    println!("40 damaged images: {repaired} sound after a repair, {refused} refused");
    assert!(repaired > 10, "{repaired}");
}
