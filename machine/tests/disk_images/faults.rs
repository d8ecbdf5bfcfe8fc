//! What the host refuses reaches the guest as a failed request, and the user as a sentence.

use softmetal_bus::BlockError;
use softmetal_machine::host::disk::tool::{self, New};
use softmetal_machine::host::disk::{self, DiskMode, Format};

use crate::{Bench, contents, only, read_all, same};

/// `/dev/full` has no room and is no image; so a limit on the size of files stands for a full host disk, in a process of
/// its own: this test runs itself again under it.
#[test]
fn a_full_host_disk() {
    let Some(bench) = Bench::new() else { return };
    if let Some(path) = std::env::var_os("SOFTMETAL_TEST_FULL") {
        return fill(path.as_ref());
    }
    for format in [Format::Qcow2, Format::Raw] {
        let name = format!("disk.{}", format.name());
        tool::create(&bench.path(&name), &New { format, size: Some(64 << 20), cluster_size: None, backing: None, force: false }).unwrap();
        let own = std::env::current_exe().unwrap();
        let script = "ulimit -f 8192; exec \"$0\" --exact faults::a_full_host_disk --nocapture";
        let out = std::process::Command::new("bash")
            .args(["-c", script, own.to_str().unwrap()])
            .env("SOFTMETAL_TEST_FULL", bench.path(&name))
            .output()
            .unwrap();
        assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        // What was flushed before is there, and the image is sound.
        if format == Format::Qcow2 {
            let found = tool::check(&only(&bench.path(&name), None), false).unwrap();
            assert_eq!(found.corruptions, 0, "{:?}", found.messages);
            let (code, out, err) = bench.run("qemu-img", &["check", &name]);
            assert!(matches!(code, Some(0 | 3)), "{out}{err}");
        }
        let bytes = bench.bytes(&name);
        same(&bytes[..2 << 20], &contents(41, 2 << 20), &name);
    }
}

/// Writes until the host refuses: only then do requests fail, and what was there before can still be read.
fn fill(path: &std::path::Path) {
    let mut disk = disk::open(path, &DiskMode::default()).unwrap();
    let start = contents(41, 2 << 20);
    disk.write_at(0, &start).unwrap();
    disk.flush().unwrap();
    let mut failed = 0;
    for n in 2..64 {
        match disk.write_at(n << 20, &[n as u8; 1 << 20]) {
            Ok(()) => assert!(n < 9 && failed == 0, "MiB {n} was written"),
            Err(BlockError::Host(e)) => {
                assert_eq!(e.kind(), std::io::ErrorKind::FileTooLarge, "{e}");
                failed += 1;
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert!(failed >= 55, "{failed}");
    let mut bytes = vec![0; 2 << 20];
    disk.read_at(0, &mut bytes).unwrap();
    same(&bytes, &start, "what was there before");
    disk.write_at(0, &start).unwrap();
    disk.flush().unwrap();
}

#[test]
fn locks_and_replaced_files() {
    let Some(bench) = Bench::new() else { return };
    bench.img(&["create", "-f", "qcow2", "base.qcow2", "1M"]);
    bench.img(&["create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"]);
    let top = bench.open("top.qcow2");
    for name in ["top.qcow2", "base.qcow2"] {
        let Err(e) = disk::open(&bench.path(name), &DiskMode::default()) else { panic!("{name} was opened twice") };
        assert!(e.0.contains("in use"), "{e}");
        assert!(tool::check(&bench.source(name), true).is_err_and(|e| e.0.contains("in use")), "{name}");
        assert!(tool::resize(&bench.source(name), tool::Size::To(2 << 20), false).is_err_and(|e| e.0.contains("in use")), "{name}");
        assert!(tool::info(&bench.source(name)).is_ok());
    }
    assert!(tool::commit(&bench.source("top.qcow2"), &mut |_, _| {}).is_err_and(|e| e.0.contains("in use")));
    // Readers share what is only read.
    let reader = bench.open_to_read("base.qcow2");
    drop((top, reader));
    drop(bench.open("base.qcow2"));

    // Somebody puts another file in its place: what is open stays what it was.
    let mut disk = bench.open("top.qcow2");
    let other = contents(43, 4096);
    bench.put("new", &other);
    std::fs::rename(bench.path("new"), bench.path("top.qcow2")).unwrap();
    disk.write_at(0, &[7; 4096]).unwrap();
    disk.flush().unwrap();
    assert_eq!(read_all(&mut *disk)[..4096], [7; 4096]);
    drop(disk);
    assert_eq!(std::fs::read(bench.path("top.qcow2")).unwrap(), other);

    // It is cut short: reads fail, or find zeros; nothing else.
    bench.put("cut.raw", &contents(47, 1 << 20));
    let mut disk = bench.open("cut.raw");
    std::fs::File::options().write(true).open(bench.path("cut.raw")).unwrap().set_len(512).unwrap();
    assert!(matches!(disk.read_at(4096, &mut [0; 512]), Err(BlockError::Host(_))));
    disk.read_at(0, &mut [0; 512]).unwrap();
}
