//! Images of all formats and variants that `qemu-img` makes.

use softmetal_machine::host::disk::{self, DiskMode, Format, tool};

use crate::{Bench, agrees, contents, json, read_all, same};

/// Of the disk, in bytes: no whole number of clusters of any format.
const LEN: usize = (5 << 20) + 3 * 512;

/// Converts a disk by each of `variants` (format, options, more arguments), and reads it back.
fn all_read_back(variants: &[(&str, &str, &[&str])]) {
    let Some(bench) = Bench::new() else { return };
    let bytes = contents(7, LEN);
    bench.put("base.raw", &bytes);
    for (n, (format, options, more)) in variants.iter().enumerate() {
        let name = format!("{n}.{format}");
        let what = format!("{format} {options} {more:?}");
        let mut args = vec!["convert", "-f", "raw", "-O", format];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend(*more);
        args.extend(["base.raw", &name]);
        bench.img(&args);

        // A VHD may be longer: cylinders, heads and sectors.
        let theirs = json(&bench.img(&["info", "--output=json", "-f", format, &name]));
        let mut expected = bytes.clone();
        expected.resize(theirs["virtual-size"].as_u64().unwrap() as usize, 0);
        same(&read_all(&mut *bench.open_to_read(&name)), &expected, &what);

        let ours = serde_json::to_value(tool::info(&bench.source(&name)).unwrap()).unwrap();
        agrees(&ours, &theirs, &what);
        assert_eq!(ours["cluster-size"], theirs["cluster-size"], "{what}");
        if *format == "qcow2" {
            let ours = serde_json::to_value(tool::check(&bench.source(&name), false).unwrap()).unwrap();
            let theirs = json(&bench.img(&["check", "--output=json", &name]));
            agrees(&ours, &theirs, &what);
            agrees(&theirs, &ours, &what);
        }
        // And from it to our own image, which they read.
        tool::convert(&bench.source(&name), None, &bench.path("ours.qcow2"), Format::Qcow2, true, &mut |_, _| {}).unwrap();
        bench.sound("ours.qcow2");
        bench.img(&["compare", "-f", format, "-F", "qcow2", &name, "ours.qcow2"]);
    }
}

#[test]
fn qcow2() {
    all_read_back(&[
        ("qcow2", "compat=0.10", &[]),
        ("qcow2", "compat=0.10", &["-c"]),
        ("qcow2", "compat=0.10,cluster_size=4k", &[]),
        ("qcow2", "cluster_size=512", &[]),
        ("qcow2", "cluster_size=4k", &["-c"]),
        ("qcow2", "cluster_size=2M", &[]),
        ("qcow2", "cluster_size=2M", &["-c"]),
        ("qcow2", "", &["-c"]),
        ("qcow2", "compression_type=zstd", &["-c"]),
        ("qcow2", "compression_type=zstd,cluster_size=4k", &["-c"]),
        ("qcow2", "compression_type=zstd", &[]),
        ("qcow2", "refcount_bits=1", &[]),
        ("qcow2", "refcount_bits=2", &[]),
        ("qcow2", "refcount_bits=64", &["-c"]),
        ("qcow2", "lazy_refcounts=on", &[]),
        ("qcow2", "preallocation=metadata", &[]),
        ("qcow2", "preallocation=falloc", &[]),
        ("qcow2", "preallocation=full", &[]),
    ]);
}

#[test]
fn vmdk() {
    all_read_back(&[
        ("vmdk", "", &[]),
        ("vmdk", "subformat=monolithicSparse", &[]),
        ("vmdk", "subformat=monolithicFlat", &[]),
        ("vmdk", "subformat=twoGbMaxExtentSparse", &[]),
        ("vmdk", "subformat=twoGbMaxExtentFlat", &[]),
        ("vmdk", "subformat=streamOptimized", &[]),
        ("vmdk", "zeroed_grain=on", &[]),
    ]);
}

#[test]
fn vdi_vhd_and_vhdx() {
    all_read_back(&[
        ("vdi", "", &[]),
        ("vdi", "static=on", &[]),
        ("vpc", "subformat=dynamic", &[]),
        ("vpc", "subformat=fixed", &[]),
        ("vpc", "subformat=dynamic,force_size=on", &[]),
        ("vpc", "subformat=fixed,force_size=on", &[]),
        ("vhdx", "subformat=dynamic", &[]),
        ("vhdx", "subformat=fixed", &[]),
        ("vhdx", "block_size=1M", &[]),
        ("vhdx", "block_size=32M,log_size=2M", &[]),
        ("vhdx", "block_state_zero=off", &[]),
    ]);
}

/// What cannot be read is refused with a sentence, and neither read wrongly nor written.
#[test]
fn what_is_refused() {
    let Some(bench) = Bench::new() else { return };
    bench.put("base.raw", &contents(3, 1 << 20));
    let create = |options: &str, name: &str| bench.img(&["create", "-f", "qcow2", "-o", options, name, "1M"]);
    create("extended_l2=on,cluster_size=128k", "extended.qcow2");
    create("data_file=data.raw", "data.qcow2");
    bench.img(&["create", "-f", "vmdk", "-o", "subformat=monolithicSparse", "parent.vmdk", "1M"]);
    bench.img(&["create", "-f", "vmdk", "-b", "parent.vmdk", "-F", "vmdk", "child.vmdk"]);
    bench.img(&["create", "-f", "qed", "other.qed", "1M"]);
    bench.img(&[
        "create",
        "-f",
        "qcow2",
        "--object",
        "secret,id=s,data=abc",
        "-o",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
        "secret.qcow2",
        "1M",
    ]);
    for (name, why) in [
        ("extended.qcow2", "extended L2"),
        ("data.qcow2", "data in another file"),
        ("child.vmdk", "depends on another one"),
        ("secret.qcow2", "encrypted"),
        ("other.qed", "QED"),
    ] {
        let before = std::fs::read(bench.path(name)).unwrap();
        let mode = DiskMode { read_only: name.ends_with("vmdk"), ..DiskMode::default() };
        let Err(e) = disk::open(&bench.path(name), &mode) else { panic!("{name} was opened") };
        assert!(e.0.contains(why), "{name}: {e}");
        assert!(std::fs::read(bench.path(name)).unwrap() == before, "{name} was changed");
    }
}
