//! Both engines run the distribution's kernels to the same end: side by side, and one after the other.
//!
//! `SOFTMETAL_LONG_BOOTS=1 cargo test -p softmetal --test linux engines` runs the long ones too.

use softmetal_machine::host::catalog::Catalog;

use crate::boot::figures_of;
use crate::{boots, disk, images, passes, skip, softmetal};

/// Lockstep exits with 0 only if the engines never differed.
const LOCKSTEP: [&str; 4] = ["--engine", "lockstep", "--cpu", "max"];

#[test]
fn the_interpreter_and_the_translator_end_the_same() {
    if images("busybox").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let run = |engine: &str| {
        let (_dir, path, _) = disk(1 << 20);
        let figures = dir.path().join(engine);
        // Processes, pipes, signals, page faults, vector instructions, a disk and the clocks are all in it.
        let ask = "seq 3000 | sort -n | tail -1; sha256sum /dev/vda; sleep 1; (sleep 9 & kill $!); date; poweroff -f\\n";
        let log = passes(
            softmetal()
                .args(["test", "busybox", "--engine", engine, "--expect", "guest# ", "--send", ask, "--expect", "Power down"])
                .args(["--disk".as_ref(), path.as_os_str(), "--stats-json".as_ref(), figures.as_os_str()]),
        );
        (log, figures_of(&figures))
    };
    assert_eq!(run("interpreter"), run("translator"));
}

#[test]
fn the_cloud_kernel_in_lockstep() {
    if images("busybox").is_none() {
        return;
    }
    passes(softmetal().args(["test", "busybox", "--append", "poweroff", "--expect", "Power down"]).args(LOCKSTEP));
}

#[test]
fn the_full_kernel_and_its_modules_in_lockstep() {
    if !boots::long() || images("busybox-full").is_none() {
        return;
    }
    let (_dir, path, _) = disk(3 << 20);
    let disk = format!("{},snapshot", path.display());
    let ask = "lsmod; sha256sum /dev/vda; poweroff -f\\n";
    passes(
        softmetal()
            .args(["test", "busybox-full", "--disk", &disk, "--expect", "guest# ", "--send", ask])
            .args(["--expect", "Power down"])
            .args(LOCKSTEP),
    );
}

#[test]
fn a_distribution_in_lockstep() {
    if !boots::long() || !Catalog::can_fetch() && !skip(&"no apt-get") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("debian.img");
    let image = image.to_str().unwrap();
    assert!(softmetal().args(["catalog", "copy", "debian", image]).status().unwrap().success());
    for firmware in ["seabios", "builtin"] {
        let drive = format!("{image},snapshot");
        let machine = ["--disk", &drive, "--firmware", firmware, "--memory", "256M", "--timeout", "3600"];
        let script = ["--expect", "root@softmetal:~# ", "--send", "poweroff\\n", "--expect", "Power down"];
        boots::boots(&[&machine[..], &script, &LOCKSTEP].concat());
    }
}
