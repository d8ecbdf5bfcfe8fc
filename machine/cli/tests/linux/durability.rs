//! The process is killed while its guest writes to a journalling file system: what the guest had flushed is there afterwards,
//! the image is sound, and the file system is clean once its journal is replayed.
//!
//! A guest is booted once and saved at its prompt; each process that is killed goes on from there. `SOFTMETAL_KILLS=100`
//! makes so many kills of each format (the default is short).

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use softmetal_machine::board::{Disk, Interface, Plugs};
use softmetal_machine::host::disk::tool::{self, Check, Source};
use softmetal_machine::host::disk::{self, DiskMode, Format};
use softmetal_machine::host::serial::{Serial, Target};
use softmetal_machine::host::signals;
use softmetal_machine::machine::{Config, Images, Machine, Model};
use softmetal_machine::session::{Clock, Options, Session};

use crate::images;

/// Kills of each format in the suite.
const KILLS: u64 = 4;
/// The guest removes the file that it wrote so many turns ago.
const KEPT: u64 = 40;
/// File numbers of a run.
const RUN: u64 = 10_000;
/// The guest's memory.
const MEMORY: u64 = 128 << 20;
/// The disk's size.
const SIZE: u64 = 64 << 20;
/// What tells the process that is killed what it is to do: the saved guest, the disk, the clock, what to type.
const ORDERS: [&str; 4] = ["SOFTMETAL_KILLED_GUEST", "SOFTMETAL_KILLED_DISK", "SOFTMETAL_KILLED_CLOCK", "SOFTMETAL_KILLED_SCRIPT"];

/// What the guest types into file `n`.
fn contents(n: u64) -> String {
    (n..=n + n * 37 % 1500).map(|i| format!("{i}\n")).collect()
}

fn script(first: u64) -> String {
    format!(
        "mount -t ext4 /dev/vda /mnt; rm -f /mnt/f*; i={first}; while :; do i=$((i+1)); \
         seq $i $((i+i*37%1500)) | dd of=/mnt/t conv=fsync 2>/dev/null; mv /mnt/t /mnt/f$i; rm -f /mnt/f$((i-{KEPT})); \
         sync; echo FLUSHED $i; done\n"
    )
}

fn run(program: &str, args: &[&str]) -> (Option<i32>, String) {
    let path = format!("{}:/sbin:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let out = Command::new(program).args(args).env("PATH", path).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    (out.status.code(), format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
}

fn format_of(disk: &Path) -> Format {
    if disk.extension().is_some_and(|e| e == "qcow2") { Format::Qcow2 } else { Format::Raw }
}

fn machine(disk: &Path, clock: Clock, images: Images) -> Machine {
    let backend = disk::open(disk, &DiskMode { format: Some(format_of(disk)), ..DiskMode::default() }).unwrap();
    let disks = vec![Disk { backend: backend.into(), interface: Interface::Virtio }];
    let plugs = Plugs { disks, host_paced: clock == Clock::Host, ..Plugs::default() };
    Machine::new(Config { memory: MEMORY, model: Model::by_name("x86-64-v3").unwrap(), plugs, images }).unwrap()
}

/// The file with a guest at its prompt that has seen a disk of [`SIZE`] and remembers nothing of what is on it. `None`
/// where it cannot be had.
fn guest() -> Option<&'static Path> {
    static GUEST: OnceLock<Option<PathBuf>> = OnceLock::new();
    let boot = || {
        let linux = images("busybox")?;
        let images = Images {
            kernel: std::fs::read(&linux.kernel).unwrap().into(),
            initrd: Some(std::fs::read(&linux.initrd).unwrap().into()),
            cmdline: linux.cmdline.into(),
            ..Images::default()
        };
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(SIZE).unwrap();
        let mut machine = machine(disk.path(), Clock::Virtual, images);
        for (prompt, line) in [
            ("guest# ", &b"modprobe ext4; mkdir -p /mnt; echo 3 > /proc/sys/vm/drop_caches; echo READY $((6*7))\n"[..]),
            ("READY 42\r\nguest# ", b""),
        ] {
            let mut log = Vec::new();
            while !log.windows(prompt.len()).any(|w| w == prompt.as_bytes()) {
                assert!(machine.icount() < 100_000_000_000, "{}", String::from_utf8_lossy(&log));
                machine.run_until(machine.icount() + 1_000_000);
                log.extend(machine.take_output().into_iter().flat_map(|(_, bytes)| bytes));
            }
            let mut rest = line;
            while !rest.is_empty() {
                let n = machine.type_serial(rest);
                rest = &rest[n..];
                machine.run_until(machine.icount() + 100_000);
            }
        }
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest-to-be-killed");
        std::fs::write(&file, machine.save()).unwrap();
        Some(file)
    };
    GUEST.get_or_init(boot).as_deref()
}

/// The process that is killed.
#[test]
#[ignore = "it is started, and killed, by the tests beside it"]
fn the_killed() {
    let [guest, disk, clock, script] = ORDERS.map(|name| std::env::var(name).expect("it is started by the tests beside it"));
    let clock = if clock == "host" { Clock::Host } else { Clock::Virtual };
    let mut machine = machine(disk.as_ref(), clock, Images::default());
    machine.load(&std::fs::read(guest).unwrap()).unwrap();
    let options = Options {
        clock,
        no_reboot: true,
        timeout: Some(Duration::from_secs(120)),
        guest_timeout: None,
        steps: vec![softmetal_machine::script::Step::Send(script.into_bytes())],
        forbidden: Vec::new(),
        judge: false,
        success_code: None,
        farewell: None,
    };
    let serial = Serial::open(&Target::Stdio, false).unwrap();
    let end = Session::new(machine, serial, signals::catch().unwrap(), options).run();
    panic!("the run ended by itself: {end}");
}

/// Lets the guest go on with `disk`, and kills its process once it has flushed `turns` files and `pause` has passed; the
/// last file that it said it had flushed.
fn killed_run(guest: &Path, disk: &Path, first: u64, clock: &str, turns: u64, pause: Duration) -> u64 {
    let orders = [guest.to_str().unwrap(), disk.to_str().unwrap(), clock, &script(first)];
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["durability::the_killed", "--exact", "--ignored", "--nocapture"])
        .envs(ORDERS.into_iter().zip(orders))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n');
    let mut last = first;
    let mut log = String::new();
    let mut note = |line: std::io::Result<Vec<u8>>| {
        let line = String::from_utf8_lossy(&line.unwrap()).trim().to_string();
        if let Some(n) = line.strip_prefix("FLUSHED ").and_then(|n| n.parse().ok()) {
            last = n;
        }
        log.push_str(&line);
        log.push('\n');
        last
    };
    while lines.next().map(&mut note).is_some_and(|last| last < first + turns) {}
    std::thread::sleep(pause);
    let ended = child.try_wait().unwrap();
    child.kill().unwrap();
    // What it still said before it was killed counts as well. A last line may be cut short.
    let mut rest: Vec<_> = lines.collect();
    rest.pop();
    rest.into_iter().for_each(|line| _ = note(line));
    child.wait().unwrap();
    assert!(ended.is_none(), "the run ended by itself\n{log}");
    assert!(!log.contains("EXT4-fs error") && !log.contains("I/O error"), "{log}");
    last
}

/// What is wrong with the killed run's disk is a panic; the image's clusters that were lost.
fn verify(dir: &Path, disk: &Path, first: u64, last: u64) -> u64 {
    let copy = dir.join("copy.raw");
    let source = Source { path: disk.into(), format: None, backing_anywhere: false };
    let mut leaks = 0;
    if format_of(disk) == Format::Qcow2 {
        let check: Check = tool::check(&source, false).unwrap();
        assert_eq!(check.corruptions, 0, "{:?}", check.messages);
        leaks = check.leaks;
        let (code, words) = run("qemu-img", &["check", disk.to_str().unwrap()]);
        // 3: no error but lost clusters, which a kill may leave.
        assert_eq!(code, Some(if leaks > 0 { 3 } else { 0 }), "{words}");
        if leaks > 0 {
            let fixed = tool::check(&source, true).unwrap();
            assert_eq!((fixed.corruptions, fixed.leaks, fixed.leaks_fixed), (0, 0, leaks));
        }
    }
    tool::convert(&source, None, &copy, Format::Raw, true, &mut |_, _| {}).unwrap();
    let copy = copy.to_str().unwrap();
    let (code, words) = run("e2fsck", &["-y", "-E", "journal_only", copy]);
    assert!(matches!(code, Some(0 | 1)), "{words}");
    let (code, words) = run("e2fsck", &["-fn", copy]);
    assert_eq!(code, Some(0), "{words}");
    for n in first.max((last + 1).saturating_sub(KEPT - 1)) + 1..=last {
        let (_, found) = run("debugfs", &["-R", &format!("dump /f{n} {}", dir.join("file").display()), copy]);
        let bytes = std::fs::read_to_string(dir.join("file")).unwrap_or_default();
        assert!(bytes == contents(n), "the flushed file {n} of {first} to {last}: {} bytes; {found}", bytes.len());
        let _ = std::fs::remove_file(dir.join("file"));
    }
    leaks
}

fn kills(format: Format, mut random: u64) {
    let Some(guest) = guest() else { return };
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    std::fs::File::create(&raw).unwrap().set_len(SIZE).unwrap();
    let (code, words) = run("mke2fs", &["-q", "-F", "-t", "ext4", raw.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{words}");
    let disk: PathBuf = dir.path().join(format!("disk.{}", format.name()));
    if format != Format::Raw {
        let source = Source { path: raw, format: None, backing_anywhere: false };
        tool::convert(&source, None, &disk, format, false, &mut |_, _| {}).unwrap();
    }
    let count = std::env::var("SOFTMETAL_KILLS").map_or(KILLS, |n| n.parse().unwrap());
    let (mut flushed, mut lost) = (0, 0);
    for n in 1..=count {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let [turns, pause] = [(random >> 33) % 60, (random >> 45) % 150];
        let clock = if n % 2 == 0 { "virtual" } else { "host" };
        let last = killed_run(guest, &disk, n * RUN, clock, turns, Duration::from_millis(pause));
        flushed += last - n * RUN;
        lost += verify(dir.path(), &disk, n * RUN, last);
    }
    println!("{}: {count} kills, {flushed} flushed files, all there; {lost} lost clusters given back", format.name());
    assert!(flushed > count);
}

#[test]
fn killed_with_qcow2() {
    kills(Format::Qcow2, 1);
}

#[test]
fn killed_with_raw() {
    kills(Format::Raw, 2);
}
