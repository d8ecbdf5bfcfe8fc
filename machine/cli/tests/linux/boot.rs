//! From power-on to power-off, by every way in and with the kernel's own switches.

use std::path::Path;
use std::process::Command;

use softmetal_firmware::{HEAD_LEN, ImageKind, detect};
use softmetal_machine::host::catalog::extract_vmlinux;

use crate::{disk, images, passes, softmetal};

/// The kernel reaches its first program with `options`, and powers off.
fn boots_with(options: &str) {
    if images("busybox").is_none() {
        return;
    }
    let append = format!("poweroff {options}");
    let log = passes(softmetal().args(["test", "busybox", "--append", &append, "--expect", "GUEST-READY", "--expect", "Power down"]));
    for option in options.split_whitespace() {
        assert!(log.lines().any(|l| l.contains("Command line:") && l.contains(option)), "{option} did not reach the kernel");
    }
}

macro_rules! switches {
    ($($name:ident: $options:literal;)*) => {
        $(#[test] fn $name() { boots_with($options); })*
    };
}

switches! {
    plain: "";
    noapic: "noapic";
    nolapic: "nolapic";
    nopat: "nopat";
    no5lvl: "no5lvl";
    nosmp: "nosmp";
    page_table_isolation: "nokaslr pti=on";
    clocksource_hpet: "clocksource=hpet";
    clocksource_acpi_pm: "clocksource=acpi_pm";
}

#[test]
fn the_clock_source_is_the_one_asked_for() {
    if images("busybox").is_none() {
        return;
    }
    for source in ["hpet", "acpi_pm", "tsc"] {
        let append = format!("clocksource={source}");
        let ask = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource; sleep 1; echo slept\\n";
        let expect = format!("(?m)^{source}\\r?$");
        passes(softmetal().args(["test", "busybox", "--append", &append, "--expect", "guest# ", "--send", ask]).args([
            "--expect",
            &expect,
            "--expect",
            "(?m)^slept",
        ]));
    }
}

/// What the help shows with a catalogue image does what it says.
#[test]
fn the_examples_of_the_help_pass() {
    if images("busybox").is_none() {
        return;
    }
    let help = softmetal().args(["test", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap().replace("\\\n", " ");
    let examples: Vec<&str> = help.lines().filter(|line| line.starts_with("  softmetal test busybox ")).collect();
    assert_eq!(examples.len(), 2, "{help}");
    for example in examples {
        let line = example.replacen("softmetal", "exec \"$0\"", 1) + " --timeout 120 \"$@\"";
        passes(Command::new("sh").args(["-c", &line, env!("CARGO_BIN_EXE_softmetal")]));
    }
}

#[test]
fn without_acpi_a_shell_is_reached() {
    if images("busybox").is_none() {
        return;
    }
    passes(
        softmetal()
            .args(["test", "busybox", "--append", "acpi=off", "--expect", "guest# ", "--send", "echo sum=$((6*7))\\n"])
            .args(["--expect", "sum=42"]),
    );
}

#[test]
fn four_gigabytes() {
    if images("busybox").is_none() {
        return;
    }
    // Not by `passes`, which has a --memory of its own.
    let output = softmetal()
        .args(["test", "busybox", "--memory", "4G", "--forbid", crate::TROUBLE, "--expect", "guest# "])
        .args(["--send", "grep MemTotal /proc/meminfo; dd if=/dev/zero of=/tmp/x bs=1M count=64; sha256sum /tmp/x; poweroff -f\\n"])
        .args(["--expect", "Power down"])
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{log}\n{}", String::from_utf8_lossy(&output.stderr));
    let total = log.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap();
    assert!((3_900_000..4 << 20).contains(&total), "{total} KiB of 4 GiB");
    // SHA-256 of 64 MiB of zeros.
    assert!(log.contains("3b6a07d0d404fab4e23b6d34bc6696a6a312dd92821332385e5af7c01c421351"), "{log}");
}

#[test]
fn through_pvh() {
    let Some(images) = images("busybox") else { return };
    let elf = extract_vmlinux(&std::fs::read(&images.kernel).unwrap()).unwrap();
    assert_eq!(detect(&elf[..HEAD_LEN]), ImageKind::ElfPvh);
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("vmlinux");
    std::fs::write(&kernel, elf).unwrap();
    passes(softmetal().args(["test", "--append", "console=ttyS0 poweroff", "--expect", "GUEST-READY"]).args([
        "--expect".as_ref(),
        "Power down".as_ref(),
        "--kernel".as_ref(),
        kernel.as_os_str(),
        "--initrd".as_ref(),
        images.initrd.as_os_str(),
    ]));
}

#[test]
fn the_full_kernel_loads_its_drivers_as_modules() {
    if images("busybox-full").is_none() {
        return;
    }
    let (_dir, path, bytes) = disk(3 << 20);
    let sum = sha256(&bytes);
    let ask = "lsmod; sha256sum /dev/vda; dd if=/dev/zero of=/dev/vda bs=64k count=1 conv=fsync; poweroff -f\\n";
    let log = passes(
        softmetal()
            .args(["test", "busybox-full", "--disk", path.to_str().unwrap(), "--expect", "guest# ", "--send", ask])
            .args(["--expect", "Power down"]),
    );
    for module in ["virtio_blk", "virtio_pci"] {
        assert!(log.lines().any(|l| l.starts_with(module)), "{module} is not loaded:\n{log}");
    }
    assert!(log.contains(&sum), "{log}");
    let after = std::fs::read(path).unwrap();
    assert!(after[..64 << 10].iter().all(|b| *b == 0) && after[64 << 10..] == bytes[64 << 10..]);
}

#[test]
fn the_same_boot_twice_ends_the_same() {
    if images("busybox").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str| {
        let (_dir, path, _) = disk(1 << 20);
        let figures = dir.path().join(name);
        // Keys, time, disk and random numbers are all in it.
        let ask = "head -c 64 /dev/urandom >/dev/vda; sync; sleep 1; date; sha256sum /dev/vda; poweroff -f\\n";
        let log = passes(
            softmetal()
                .args(["test", "busybox", "--clock", "virtual", "--expect", "guest# ", "--send", ask, "--expect", "Power down"])
                .args(["--disk".as_ref(), path.as_os_str(), "--stats-json".as_ref(), figures.as_os_str()]),
        );
        (log, figures_of(&figures))
    };
    let (first_log, first) = run("first");
    let (second_log, second) = run("second");
    assert_eq!(first_log, second_log);
    assert_eq!(first, second);
    assert!(first.0 > 1_000_000_000, "{first:?}");
}

/// The instruction count and the state's hash.
pub fn figures_of(path: &Path) -> (u64, String) {
    let all: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    (all["instructions"].as_u64().unwrap(), all["state_hash"].as_str().unwrap().to_string())
}

/// As `sha256sum` prints it.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
