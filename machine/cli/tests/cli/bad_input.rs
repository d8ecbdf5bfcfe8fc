//! Each wrong input is one sentence on stderr and exit code 2; nothing is written.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{guest, outcome, power_off, softmetal};

/// The command fails with one line that contains all of `words`, and leaves the files of `dir` as they were.
#[track_caller]
pub fn refused(dir: &Path, args: &[&str], words: &[&str]) {
    is_refused(dir, softmetal(args).current_dir(dir), words);
}

#[track_caller]
fn is_refused(dir: &Path, command: &mut Command, words: &[&str]) {
    let list = || {
        let mut all: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).map(|p| (std::fs::read(&p).unwrap_or_default(), p)).collect();
        all.sort();
        all
    };
    let before = list();
    let (code, out, err) = outcome(command);
    assert_eq!((code, out.as_str()), (Some(2), ""), "{command:?}: {err}");
    assert_eq!(err.lines().count(), 1, "{command:?}: {err}");
    for word in words {
        assert!(err.contains(word), "{command:?}: {err} lacks {word}");
    }
    assert!(before == list(), "{command:?} wrote something");
}

#[test]
fn kernels() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    guest(d, power_off);
    std::fs::write(d.join("empty"), "").unwrap();
    std::fs::write(d.join("text"), "not a kernel\n").unwrap();
    // A Linux kernel whose header promises more than there is.
    let mut cut = vec![0; 0x400];
    cut[0x1f1] = 1;
    cut[0x1f4] = 0xff;
    cut[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    cut[0x200] = 0xeb;
    cut[0x201] = 0x6a;
    cut[0x202..0x206].copy_from_slice(b"HdrS");
    cut[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
    std::fs::write(d.join("cut"), cut).unwrap();
    std::fs::write(d.join("elf"), b"\x7fELF\x02\x01\x01").unwrap();
    std::fs::write(d.join("disk.qcow2"), b"QFI\xfb and more").unwrap();
    refused(d, &["run", "--kernel", "missing"], &["missing", "does not exist"]);
    refused(d, &["run", "missing"], &["there is no file missing", "busybox"]);
    refused(d, &["run", "busybx"], &["did you mean busybox?"]);
    refused(d, &["run", "--kernel", "."], &["is a directory"]);
    refused(d, &["run", "--kernel", "empty"], &["empty"]);
    refused(d, &["run", "text"], &["of no known format", "--disk"]);
    refused(d, &["run", "cut"], &["truncated"]);
    refused(d, &["run", "elf"], &["truncated", "64 bytes"]);
    refused(d, &["run", "disk.qcow2"], &["qcow2", "damaged"]);
    refused(d, &["run", "--kernel", "disk.qcow2"], &["qcow2", "--disk"]);
    refused(d, &["run", "guest.bin", "--kernel", "guest.bin"], &["give one of them"]);
    refused(d, &["run", "--initrd", "text"], &["--kernel"]);
    refused(d, &["test"], &["nothing to boot"]);
    refused(d, &["run", "--boot", "cdrom"], &["--boot", "--cdrom"]);
}

#[test]
fn initrds() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    guest(d, power_off);
    std::fs::write(d.join("empty"), "").unwrap();
    refused(d, &["run", "guest.bin", "--initrd", "missing"], &["initrd missing", "does not exist"]);
    refused(d, &["run", "guest.bin", "--initrd", "empty"], &["initrd empty is empty"]);
    refused(d, &["run", "guest.bin", "--initrd", "."], &["is a directory"]);
    refused(d, &["run", "guest.bin", "--initrd", "guest.bin"], &["leave out --initrd"]);
}

#[test]
fn media() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    guest(d, power_off);
    std::fs::write(d.join("cut"), [1; 700]).unwrap();
    refused(d, &["test", "guest.bin", "--insert", "cdrom"], &["DRIVE=FILE"]);
    refused(d, &["test", "guest.bin", "--eject", "tape"], &["no drive `tape`", "cdrom"]);
    refused(d, &["test", "guest.bin", "--cdrom", "none", "--eject", "cdrom1"], &["no drive cdrom1", "--cdrom none"]);
    refused(d, &["test", "guest.bin", "--insert", "floppy=guest.bin"], &["no drive floppy", "--floppy none"]);
    refused(d, &["test", "guest.bin", "--cdrom", "none", "--insert", "cdrom=missing"], &["missing", "does not exist"]);
    refused(d, &["test", "guest.bin", "--cdrom", "none", "--insert", "cdrom=cut"], &["cut", "700 bytes"]);
}

#[test]
fn disks() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    guest(d, power_off);
    std::fs::write(d.join("empty"), "").unwrap();
    std::fs::write(d.join("cut"), [1; 700]).unwrap();
    std::fs::write(d.join("qcow2"), b"QFI\xfb").unwrap();
    std::fs::write(d.join("good"), [0; 1024]).unwrap();
    let with = |disk: &str, words: &[&str]| refused(d, &["run", "guest.bin", "--disk", disk], words);
    with("missing", &["image missing", "does not exist"]);
    with("empty", &["empty"]);
    with("cut", &["700 bytes", "cut short"]);
    with("qcow2", &["qcow2", "damaged"]);
    with("good,format=vdi", &["only be read", ",ro"]);
    with("good,format=vdi,ro", &["damaged"]);
    with("good,format=what", &["no format", "vhdx"]);
    with("good,ro,snapshot=f", &["only one"]);
    with(".", &["directory"]);
    with("good,snapshot=good", &["the image itself", "another file"]);
    with("good,snapshot=no/f", &["snapshot file", "make it first"]);
    with("good,if=nvme", &["does not work yet"]);
    with("good,cache=none", &["cache=none", "snapshot"]);
    refused(d, &["run", "guest.bin", "--disk", "good", "--disk", "./good"], &["given twice"]);
    for disk in ["good", "good,snapshot=f"] {
        refused(d, &["run", "guest.bin", "--engine", "lockstep", "--disk", disk], &["two machines", ",snapshot", ",ro"]);
    }

    let file = std::fs::File::open(d.join("good")).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    with("good", &["in use by another run"]);
    with("good,ro", &["in use by another run"]);
    drop(file);
    assert_eq!(outcome(softmetal(&["run", "guest.bin", "--disk", "good,ro"]).current_dir(d)).0, Some(0));
}

/// What the host refuses to a user; the superuser, to whom it refuses nothing, has the command run as nobody.
#[test]
fn what_the_host_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let (binary, place) = (dir.path().join("softmetal"), dir.path().join("place"));
    // Where nobody reaches it; were this process to write it, one that it starts meanwhile would keep it busy.
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_softmetal")).arg(&binary).status().unwrap().success());
    std::fs::create_dir(&place).unwrap();
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    for (name, bits) in [("secret", 0), ("fixed", 0o444)] {
        std::fs::write(place.join(name), [0; 1024]).unwrap();
        mode(&place.join(name), bits);
    }
    mode(dir.path(), 0o755);
    mode(&place, 0o555);
    let with = |args: &[&str], words: &[&str]| {
        let mut command = Command::new(&binary);
        command.args(args).current_dir(&place).stdin(Stdio::null());
        if rustix::process::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        is_refused(&place, &mut command, words);
    };
    with(&["run", "secret"], &["secret", "permission denied"]);
    with(&["run", "--disk", "secret"], &["secret", "permission denied"]);
    with(&["run", "--disk", "fixed"], &["cannot be written", ",ro"]);
    with(&["run", "--disk", "fixed,snapshot=new"], &["snapshot file new", "choose another"]);
    with(&["run", "--stats-json", "new"], &["new", "choose another"]);
    with(&["run", "--screenshot", "fixed"], &["fixed", "cannot be written"]);
    with(&["run", "--serial", "file:fixed"], &["fixed", "cannot be written"]);
    with(&["run", "--serial", "unix:new"], &["new", "choose another"]);
    with(&["disk", "create", "new", "1M"], &["new", "choose another"]);
    with(&["disk", "resize", "fixed", "1M"], &["cannot be written", "mode and owner"]);
    with(&["disk", "convert", "fixed", "new"], &["new", "choose another"]);
    mode(&place, 0o755);
}

#[test]
fn options() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    guest(d, power_off);
    let with = |args: &[&str], words: &[&str]| refused(d, &[&["run", "guest.bin"], args].concat(), words);
    with(&["--memroy", "1G"], &["no option --memroy", "did you mean --memory?"]);
    with(&["--memory", "lots"], &["--memory", "512M"]);
    with(&["--memory", "-1"], &["--memory", "512M"]);
    with(&["--seed", "lucky"], &["--seed", "`lucky` is no whole number"]);
    with(&["--memory", "900000G"], &["more than this host has"]);
    with(&["--cpus", "2"], &["does not work yet"]);
    with(&["--cpu", "haswel"], &["haswell"]);
    with(&["--cpu", "x86-64-v3,-avx"], &["avx2"]);
    with(&["--engine", "kvm"], &["auto, interpreter, translator or lockstep"]);
    with(&["--machine", "microvm"], &["does not work yet"]);
    with(&["--firmware", "uefi-secure"], &["system management mode", "--machine q35"]);
    with(&["--firmware", "uefi-secure", "--machine", "q35,smm=off"], &["--machine q35"]);
    with(&["--machine", "q35,smm=maybe"], &["smm=maybe", "smm=on and smm=off"]);
    with(&["--vnc", ":1"], &["--vnc does not work yet"]);
    with(&["--record", "f"], &["--record does not work yet"]);
    with(&["--serial", "stdio", "--serial", "stdio"], &["--serial is given twice"]);
    with(&["--initrd", "-"], &["stdin", "--serial null"]);
    with(&["--serial", "com1"], &["file:F"]);
    with(&["--serial", "file:no/such/log"], &["does not exist"]);
    with(&["--serial", "unix:no/such/socket"], &["make it first"]);
    with(&["--serial", "unix:guest.bin"], &["no socket", "another name"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    with(&["--serial", &format!("tcp:127.0.0.1:{port}")], &["already in use;", "free port"]);
    with(&["--gdb", &port], &["already in use;", "free port"]);
    let listener = std::os::unix::net::UnixListener::bind(d.join("socket")).unwrap();
    with(&["--serial", "unix:socket"], &["another program listens"]);
    drop((taken, listener));
    with(&["--stats-json", "no/such/file"], &["does not exist"]);
    with(&["--expect", "("], &["not a regular expression"]);
    with(&["--send", "\\q"], &["\\q"]);
    with(&["--screen-expect", "["], &["not a regular expression"]);
    with(&["--type", "\\q"], &["\\q"]);
    with(&["--type", "na\u{ef}ve"], &["--type", "US keyboard", "'\u{ef}'"]);
    with(&["--key", "ctrl-hop"], &["--key", "\"hop\"", "ctrl-alt-del"]);
    with(&["--screenshot", "no/such/picture.png"], &["does not exist"]);
    with(&["--screenshot", "."], &["directory"]);
    with(&["--screenshot", "x.png", "--vga", "none"], &["--vga none"]);
    with(&["--screen-expect", "x", "--vga", "none"], &["--vga none"]);
    with(&["--rtc", "yesterday"], &["2026-01-01T00:00:00Z"]);
    with(&["--timeout", "soon"], &["seconds"]);
    with(&["--wait"], &["--gdb is missing"]);
    with(&["--gdb", "nowhere.invalid:x"], &["--gdb"]);
    with(&["--log", "loud"], &["level"]);
    with(&["second.bin"], &["one argument too many", "one IMAGE"]);
    with(&["--zzz"], &["no option --zzz; see softmetal run --help"]);
    refused(d, &["test", "guest.bin", "--success-code", "2"], &["odd"]);
    refused(d, &["snapshot"], &["does not work yet"]);
    refused(d, &["disk", "crate"], &["did you mean `softmetal disk create`?"]);
    refused(d, &["disk", "info", "a", "b"], &["one argument too many; see softmetal disk info --help"]);
    refused(d, &["disk", "info"], &["FILE is missing; see softmetal disk info --help"]);
    refused(d, &["catalog", "burn"], &["no command `softmetal catalog burn`"]);
    refused(d, &["rnu"], &["did you mean `softmetal run`?"]);
}

#[test]
fn help_names_only_what_works() {
    for command in ["run", "test"] {
        let (code, out, _) = outcome(&mut softmetal(&[command, "--help"]));
        assert_eq!(code, Some(0));
        for planned in ["--net", "--vnc", "--record"] {
            assert!(!out.contains(planned), "{planned}");
        }
        for there in ["--kernel", "--disk", "--cdrom", "--expect", "--screen-expect", "--screenshot", "--gdb", "Examples:"] {
            assert!(out.contains(there), "{there}");
        }
    }
}

#[test]
fn the_catalogue() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    std::fs::write(d.join("there"), "mine").unwrap();
    refused(d, &["catalog", "fetch", "debain"], &["\"debain\"", "debian", "memtest"]);
    refused(d, &["catalog", "remove", "busybox", "nothing"], &["\"nothing\""]);
    refused(d, &["catalog", "copy", "debian", "there"], &["there", "exists already"]);
    refused(d, &["catalog", "copy", "busybox", "new.img"], &["busybox", "no disk image"]);
    refused(d, &["run", "--offline", "debian", "--initrd", "x"], &["debian"]);
}
