//! Backing files, commit, resize, overlays in a file.

use softmetal_machine::host::disk::tool::{self, Size, Source};
use softmetal_machine::host::disk::{self, DiskMode, Format};

use crate::{Bench, contents, json, only, read_all, same};

const LEN: usize = 3 << 20;

/// `top.qcow2` over `mid.qcow2` over `base.raw`, each with data, zeros and holes of its own and of another length.
fn chain(bench: &Bench) {
    bench.put("base.raw", &contents(23, LEN));
    bench.img(&["create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "mid.qcow2", "5M"]);
    bench.io("mid.qcow2", &["write -P 0x11 100k 300k", "write -z 600k 200k", "write -P 0x12 4M 64k"]);
    bench.img(&["create", "-f", "qcow2", "-o", "cluster_size=4k", "-b", "mid.qcow2", "-F", "qcow2", "top.qcow2", "6M"]);
    bench.io("top.qcow2", &["write -P 0x21 200k 100k", "write -z 0 50k", "discard 4M 32k", "write -P 0x22 5632k 4k"]);
}

#[test]
fn backing_files() {
    let Some(bench) = Bench::new() else { return };
    chain(&bench);
    same(&read_all(&mut *bench.open_to_read("top.qcow2")), &bench.bytes("top.qcow2"), "the chain");
    let info = tool::info(&bench.source("top.qcow2")).unwrap();
    let theirs = json(&bench.img(&["info", "--output=json", "top.qcow2"]));
    assert_eq!(theirs["backing-filename"], info.backing_filename.unwrap());
    assert_eq!(theirs["backing-filename-format"], info.backing_filename_format.unwrap());

    // A size below which the file below has more.
    bench.img(&["create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "short.qcow2", "1M"]);
    same(&read_all(&mut *bench.open_to_read("short.qcow2")), &bench.bytes("short.qcow2"), "a short one");
}

#[test]
fn where_backing_files_may_be() {
    let Some(bench) = Bench::new() else { return };
    std::fs::create_dir(bench.path("in")).unwrap();
    std::fs::create_dir(bench.path("in/below")).unwrap();
    bench.put("secret.raw", &vec![0x5a; 1 << 20]);
    std::fs::copy(bench.path("secret.raw"), bench.path("in/below/ok.raw")).unwrap();
    let absolute = bench.path("secret.raw").display().to_string();
    std::os::unix::fs::symlink("../secret.raw", bench.path("in/link.raw")).unwrap();
    for (n, (name, ok)) in [
        ("below/ok.raw", true),
        ("file:below/ok.raw", true),
        ("../secret.raw", false),
        (&absolute, false),
        ("link.raw", false),
        ("below/../../secret.raw", false),
        ("json:{\"driver\":\"file\",\"filename\":\"../secret.raw\"}", false),
        ("nbd://localhost/x", false),
        ("below", false),
        ("/dev/null", false),
        ("missing.raw", false),
    ]
    .into_iter()
    .enumerate()
    {
        let image = format!("in/{n}.qcow2");
        bench.img(&["create", "-u", "-f", "qcow2", "-b", name, "-F", "raw", &image, "1M"]);
        let open = |anywhere| {
            let mode = DiskMode { read_only: true, backing_anywhere: anywhere, ..DiskMode::default() };
            disk::open(&bench.path(&image), &mode)
        };
        assert_eq!(open(false).is_ok(), ok, "{name}: {:?}", open(false).err());
        if name.ends_with("secret.raw") {
            same(&read_all(&mut *open(true).unwrap()), &vec![0x5a; 1 << 20], name);
            assert!(open(false).err().unwrap().0.contains("backing=any"));
        }
    }
    // A loop, and a chain without end.
    bench.img(&["create", "-u", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", "in/a.qcow2", "1M"]);
    bench.img(&["create", "-u", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "in/b.qcow2", "1M"]);
    assert!(disk::open(&bench.path("in/a.qcow2"), &DiskMode::default()).err().unwrap().0.contains("depends on itself"));
    for n in 0..70 {
        let below = format!("c{}.qcow2", n + 1);
        bench.img(&["create", "-u", "-f", "qcow2", "-b", &below, "-F", "qcow2", &format!("in/c{n}.qcow2"), "1M"]);
    }
    assert!(disk::open(&bench.path("in/c0.qcow2"), &DiskMode::default()).err().unwrap().0.contains("more than 64"));
}

#[test]
fn commit_does_what_qemu_does() {
    let Some(bench) = Bench::new() else { return };
    chain(&bench);
    let expected = bench.bytes("top.qcow2");
    for name in ["mid.qcow2", "top.qcow2"] {
        std::fs::copy(bench.path(name), bench.path(&format!("their-{name}"))).unwrap();
    }
    bench.img(&["rebase", "-u", "-b", "their-mid.qcow2", "-F", "qcow2", "their-top.qcow2"]);
    bench.img(&["commit", "their-top.qcow2"]);
    tool::commit(&bench.source("top.qcow2"), &mut |_, _| {}).unwrap();
    for name in ["mid.qcow2", "top.qcow2"] {
        bench.sound(name);
        same(&bench.bytes(name), &bench.bytes(&format!("their-{name}")), name);
    }
    same(&bench.bytes("top.qcow2"), &expected, "the disk");
    let check = tool::check(&bench.source("top.qcow2"), false).unwrap();
    assert_eq!(check.allocated_clusters, 0);
    // Into a raw file, which grows.
    tool::commit(&bench.source("mid.qcow2"), &mut |_, _| {}).unwrap();
    same(&std::fs::read(bench.path("base.raw")).unwrap(), &expected, "the raw file");
    let e = tool::commit(&bench.source("base.raw"), &mut |_, _| {}).unwrap_err();
    assert!(e.0.contains("no backing file"), "{e}");
}

#[test]
fn resize_does_what_qemu_does() {
    let Some(bench) = Bench::new() else { return };
    chain(&bench);
    std::fs::copy(bench.path("base.raw"), bench.path("plain.raw")).unwrap();
    bench.img(&["convert", "-O", "qcow2", "-o", "cluster_size=512", "base.raw", "small.qcow2"]);
    for name in ["top.qcow2", "plain.raw", "small.qcow2"] {
        let mine: Source = bench.source(name);
        let theirs = format!("their-{name}");
        std::fs::copy(bench.path(name), bench.path(&theirs)).unwrap();
        for size in [3 << 20, 1 << 20, (1 << 20) + 512, 9 << 20, 200 << 20] {
            tool::resize(&mine, Size::To(size), true).unwrap();
            let format = if name.ends_with("raw") { "raw" } else { "qcow2" };
            bench.img(&["resize", "--shrink", "-f", format, &theirs, &size.to_string()]);
            if format == "qcow2" {
                bench.sound(name);
            }
            if size < 100 << 20 {
                same(&bench.bytes(name), &bench.bytes(&theirs), &format!("{name} of {size} bytes"));
            } else {
                bench.img(&["compare", "-s", name, &theirs]);
            }
        }
        let e = tool::resize(&mine, Size::Shrink(1 << 20), false).unwrap_err();
        assert!(e.0.contains("--shrink"), "{e}");
        let e = tool::resize(&mine, Size::To(1), true).unwrap_err();
        assert!(e.0.contains("512"), "{e}");
    }
}

#[test]
fn snapshot_files() {
    let Some(bench) = Bench::new() else { return };
    let base = contents(29, LEN);
    bench.put("base.raw", &base);
    bench.img(&["convert", "-O", "vdi", "base.raw", "base.vdi"]);
    for image in ["base.raw", "base.vdi"] {
        let over = bench.path(&format!("{image}.over"));
        let before = std::fs::read(bench.path(image)).unwrap();
        for round in 0..2u8 {
            let mode = DiskMode { overlay: Some(over.clone()), ..DiskMode::default() };
            let mut disk = disk::open(&bench.path(image), &mode).unwrap();
            let mut byte = [0];
            disk.read_at(4096, &mut byte).unwrap();
            assert_eq!(byte[0], if round == 0 { base[4096] } else { 1 }, "{image}");
            disk.write_at(4096, &[round + 1; 5000]).unwrap();
        }
        assert!(std::fs::read(bench.path(image)).unwrap() == before, "{image} was changed");
        let mut expected = base.clone();
        expected[4096..9096].fill(2);
        let over = format!("{image}.over");
        bench.sound(&over);
        same(&bench.bytes(&over), &expected, image);
        // It belongs to its image.
        bench.put("other.raw", &[0; 512]);
        let mode = DiskMode { overlay: Some(bench.path(&over)), ..DiskMode::default() };
        assert!(disk::open(&bench.path("other.raw"), &mode).err().unwrap().0.contains("no snapshot of"));
    }
    let info = tool::info(&only(&bench.path("base.vdi.over"), Some(Format::Qcow2))).unwrap();
    assert_eq!(info.backing_filename_format.as_deref(), Some("vdi"));
}
