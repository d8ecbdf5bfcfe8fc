//! Systems and tools as they are shipped, from power-on to what a user does with them.
//!
//! What takes minutes runs only with `SOFTMETAL_LONG_BOOTS` set.

use std::fs;
use std::path::Path;

use softmetal_machine::host::catalog::{Catalog, CatalogError};

use crate::{images, package_file, passes, skip, softmetal};

/// Whether what takes minutes is wanted.
pub(crate) fn wanted() -> bool {
    std::env::var_os("SOFTMETAL_LONG_BOOTS").is_some()
}

/// The same, for whole tests; says so if not.
pub(crate) fn long() -> bool {
    wanted() || skip(&"it takes minutes; set SOFTMETAL_LONG_BOOTS=1 to run it")
}

/// The engine for what takes minutes.
fn fast_engine() -> &'static str {
    if softmetal_machine::machine::translator().is_ok() { "translator" } else { "interpreter" }
}

/// Runs `softmetal test` with `args`, whose screen or serial port must go as they say.
pub fn boots(args: &[&str]) {
    let output = softmetal().arg("test").args(args).output().unwrap();
    let (log, words) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{args:?}\n{log}\n{words}");
}

#[test]
fn a_32_bit_kernel_with_pae_boots_to_a_shell() {
    // Its self-tests multiply large numbers: some 3.5 thousand million instructions.
    if !long() {
        return;
    }
    let catalog = Catalog::new(false).unwrap();
    match catalog.fetch("busybox-i386", &mut |_| {}) {
        // Later distributions have no 32-bit kernels.
        Err(e @ CatalogError::Apt { .. }) => _ = skip(&e),
        _ if images("busybox-i386").is_none() => {}
        _ => {
            let script = ["--expect", "guest# ", "--send", "uname -m; grep -ow -m1 pae /proc/cpuinfo; grep -c . /proc/self/maps\\n"];
            let log = passes(softmetal().args(["test", "busybox-i386"]).args(script).args(["--expect", r"i686\s+pae\s+\d+\s+guest# "]));
            assert!(log.contains("NX (Execute Disable) protection: active"), "{log}");
        }
    }
}

#[test]
fn ipxe_is_typed_at() {
    if !Catalog::can_fetch() && !skip(&"no apt-get") {
        return;
    }
    let shell = ["--screen-expect", "Ctrl-B", "--key", "ctrl-b", "--screen-expect", "iPXE> *$"];
    let line = ["--type", "echo works on ${platform}\\n", "--screen-expect", "^works on pcbios"];
    for firmware in ["builtin", "seabios"] {
        boots(&[&["ipxe", "--firmware", firmware, "--memory", "64M"][..], &shell, &line].concat());
    }
}

/// A file of the package with Memtest86+.
fn memtest(file: &str) -> Option<std::path::PathBuf> {
    package_file("memtest86+", file)
}

/// A floppy with Memtest86+, which is its own boot loader.
fn memtest_floppy(folder: &Path) -> Option<std::path::PathBuf> {
    const FLOPPY: usize = 1_474_560;
    let mut image = fs::read(memtest("boot/memtest86+x64.bin")?).unwrap();
    image.resize(FLOPPY, 0);
    let path = folder.join("memtest.img");
    fs::write(&path, image).unwrap();
    Some(path)
}

/// Memtest86+ counts down for some seconds unless a key is pressed.
const MEMTEST_STARTS: [&str; 4] = ["--screen-expect", "<Enter> to start", "--key", "enter"];

#[test]
fn memtest_runs_from_a_floppy() {
    let folder = tempfile::tempdir().unwrap();
    if let Some(image) = memtest_floppy(folder.path()) {
        let image = image.to_str().unwrap();
        for firmware in ["builtin", "seabios"] {
            let machine = ["--floppy", image, "--firmware", firmware, "--memory", "32M"];
            boots(&[&machine[..], &MEMTEST_STARTS, &["--screen-expect", r"Testing: +\d"]].concat());
        }
    }
}

/// The one of 32 bits, on processors that have no more: a 486 without a time-stamp counter, AMD's K6-2, one with PAE.
#[test]
fn memtest_runs_on_old_processors() {
    let Some(kernel) = memtest("boot/memtest86+ia32.bin") else { return };
    for (cpu, name) in [("486", "Intel 486DX4"), ("k6-2", r"AMD-K6\(tm\) 3D processor"), ("pentium3", "Pentium III")] {
        let machine = ["--kernel", kernel.to_str().unwrap(), "--cpu", cpu, "--memory", "16M"];
        boots(&[&machine[..], &["--screen-expect", name], &MEMTEST_STARTS, &["--screen-expect", r"Testing: +\d"]].concat());
    }
}

/// In the configuration menu, takes test 10 away: it waits for 80 seconds twice, to see whether bits fade.
const MEMTEST_WITHOUT_FADING: [&str; 16] = [
    "--screen-expect",
    "to start testing",
    "--key",
    "f1",
    "--screen-expect",
    "<F1> +Test selection",
    "--key",
    "f1",
    "--screen-expect",
    "<F2> +Remove one test",
    "--key",
    "f2",
    "--screen-expect",
    "Enter test",
    "--type",
    "10\\n",
];

#[test]
fn memtest_finishes_a_pass() {
    if !long() || !Catalog::can_fetch() && !skip(&"no apt-get") {
        return;
    }
    let pass = ["--timeout", "3000", "--screen-expect", r"Pass: +[1-9]\d* .*Errors: +0"];
    for firmware in ["builtin", "seabios"] {
        let machine = ["memtest", "--firmware", firmware, "--memory", "16M", "--engine", fast_engine()];
        boots(&[&machine[..], &MEMTEST_WITHOUT_FADING, &["--key", "f10,f10"], &pass].concat());
    }
}

/// What must hold of a Debian that has just booted: no failed unit, no complaint of the kernel but for one about the 440FX,
/// which has no memory-mapped configuration space (QEMU's has none either, and the kernel says the same there). What the kernel
/// has to say later stays off the serial port.
const HEALTHY: [&str; 10] = [
    "--expect",
    "root@softmetal:~#",
    "--send",
    "dmesg -n 1; systemctl is-system-running --wait; systemctl --failed -q | wc -l; dmesg --level=err,warn | grep -cv 'fail to add MMCONFIG'\\n",
    "--expect",
    r"running\s+0\s+0\s",
    "--send",
    "lspci | wc -l; lsblk -no TYPE,MOUNTPOINTS | grep /\\n",
    "--expect",
    r"[4-9]\s+part +/\s",
];

/// Each line is a boot, whose time is printed. `SOFTMETAL_BOOTS` chooses those whose line has it in it, such as "uefi virtio".
#[test]
fn debian_is_healthy_on_every_firmware_and_controller() {
    if !long() || !Catalog::can_fetch() && !skip(&"no apt-get") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("debian.img");
    let disk = disk.to_str().unwrap();
    let copied = softmetal().args(["catalog", "copy", "debian", disk]).status().unwrap();
    assert!(copied.success());
    let mut machines = Vec::new();
    for firmware in ["builtin", "seabios", "uefi"] {
        machines.extend([("virtio", "pc"), ("ide", "pc"), ("ahci", "q35")].map(|(disk, board)| (firmware, disk, board, fast_engine())));
    }
    machines.extend([("ahci", "pc"), ("ide", "q35")].map(|(disk, board)| ("builtin", disk, board, fast_engine())));
    machines.push(("builtin", "virtio", "pc", "interpreter"));
    let chosen = std::env::var("SOFTMETAL_BOOTS").unwrap_or_default();
    for (firmware, interface, board, engine) in machines {
        let row = format!("{firmware} {interface} {board} {engine}");
        if !row.contains(&chosen) {
            continue;
        }
        let start = std::time::Instant::now();
        let line = format!("{disk},snapshot,if={interface}");
        let machine = ["--disk", &line, "--firmware", firmware, "--machine", board, "--engine", engine, "--memory", "1G"];
        boots(&[&machine[..], &["--timeout", "1200"], &HEALTHY, &["--send", "poweroff\\n"]].concat());
        println!("{row}: {:.0} s to power-off", start.elapsed().as_secs_f64());
    }
}

#[test]
fn debian_reboots_and_powers_off() {
    if !long() || !Catalog::can_fetch() && !skip(&"no apt-get") {
        return;
    }
    // `run` lets a reset of the guest be one.
    let script = "systemctl reboot\n";
    let mut child = softmetal()
        .args(["run", "debian", "--clock", "virtual", "--engine", fast_engine(), "--timeout", "1200"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut log = Vec::new();
    for (boot, text) in [(1, script), (2, "poweroff\n")] {
        // The shell that asks for the reboot may show its prompt again before it goes.
        let found = |log: &[u8]| {
            let log = String::from_utf8_lossy(log);
            log.split("(automatic login)").nth(boot).is_some_and(|log| log.contains("root@softmetal:~# "))
        };
        let mut piece = [0; 4096];
        while !found(&log) {
            let n = std::io::Read::read(&mut output, &mut piece).unwrap();
            assert!(n > 0, "it ended: {}", String::from_utf8_lossy(&log));
            log.extend(&piece[..n]);
        }
        std::io::Write::write_all(&mut input, text.as_bytes()).unwrap();
    }
    std::io::Read::read_to_end(&mut output, &mut log).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{}", String::from_utf8_lossy(&log));
}
