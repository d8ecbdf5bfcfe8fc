//! Disks and CD-ROM drives behind the host adapters that PCs have, with the distribution's own drivers.

use crate::boot::sha256;
use crate::{disk, images, passes, softmetal};

/// The kernel reads a disk on `interface` and a CD-ROM to the last byte, and what it writes is there after power-off.
fn works_on(interface: &str, driver: &str) {
    if images("busybox-full").is_none() {
        return;
    }
    let (_disk_dir, path, bytes) = disk(3 << 20);
    let (_cd_dir, cd, mut contents) = disk(2 << 20);
    contents.reverse();
    std::fs::write(&cd, &contents).unwrap();
    let ask = format!(
        "modprobe {driver}; modprobe sd_mod; modprobe sr_mod; sleep 3; sha256sum /dev/sda /dev/sr0; \
         dd if=/dev/zero of=/dev/sda bs=64k count=1 seek=1 conv=fsync; dmesg | grep -c -E 'Emask|failed command|I/O error'; \
         poweroff -f\\n"
    );
    let given = format!("{},if={interface}", path.display());
    let log = passes(
        softmetal().args(["test", "busybox-full", "--disk", &given, "--cdrom", cd.to_str().unwrap(), "--expect", "guest# "]).args([
            "--send",
            &ask,
            "--expect",
            "Power down",
        ]),
    );
    for (name, contents) in [("/dev/sda", &bytes), ("/dev/sr0", &contents)] {
        let line = format!("{}  {name}", sha256(contents));
        assert!(log.contains(&line), "{name} was not read:\n{log}");
    }
    assert!(log.lines().any(|l| l.trim() == "0"), "the kernel met errors:\n{log}");
    let after = std::fs::read(path).unwrap();
    let zeros = 64 << 10..128 << 10;
    assert!(after[zeros.clone()].iter().all(|b| *b == 0));
    assert!(after[..zeros.start] == bytes[..zeros.start] && after[zeros.end..] == bytes[zeros.end..]);
}

#[test]
fn on_ide() {
    works_on("ide", "ata_piix");
}

#[test]
fn on_ahci() {
    works_on("ahci", "ahci");
}

#[test]
fn on_scsi() {
    works_on("scsi", "virtio_scsi");
}

/// A CD-ROM and a floppy are changed while the kernel runs: by the user's hand, which must wait while the guest holds the
/// medium, and by the guest's command.
#[test]
fn media_are_changed() {
    if images("busybox-full").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let medium = |name: &str, len: usize| {
        let path = dir.path().join(name);
        std::fs::write(&path, name.bytes().cycle().take(len).collect::<Vec<_>>()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let [first, second] = ["cd-one.", "cd-two."].map(|name| medium(name, 1 << 20));
    let [one, two] = ["fd-one.", "fd-two."].map(|name| medium(name, 1440 << 10));
    let read = |device: &str| format!("head -c 6 {device}; echo \" says {device} $?\"\\n");
    let insert = |drive: &str, file: &str| format!("{drive}={file}");
    let put = [insert("cdrom", &second), insert("cdrom", &first), insert("floppy", &two)];
    let [cd, fd] = ["/dev/sr0", "/dev/fd0"].map(read);
    passes(softmetal().args(["test", "busybox-full", "--cdrom", &first, "--floppy", &one]).args([
        "--expect",
        "guest# ",
        "--send",
        "modprobe ata_piix; modprobe sr_mod; modprobe floppy; sleep 3; echo up $?\\n",
        "--expect",
        "up 0",
        "--send",
        &cd,
        "--expect",
        "cd-one says /dev/sr0 0",
        // The guest holds it.
        "--send",
        "exec 3</dev/sr0; echo holds $?\\n",
        "--expect",
        "holds 0",
        "--eject",
        "cdrom",
        "--send",
        "dd bs=2k count=1 skip=9 <&3 | wc -c; exec 3<&-; echo let go $?\\n",
        "--expect",
        "2048[^$]*let go 0",
        // It puts it out when it closes it, and there is none.
        "--send",
        "cd /proc/sys/dev/cdrom; echo 1 > autoeject; head -c 6 /dev/sr0; echo 0 > autoeject; echo out $?\\n",
        "--expect",
        "out 0",
        "--send",
        &cd,
        "--expect",
        "says /dev/sr0 1",
        "--insert",
        &put[0],
        "--send",
        &cd,
        "--expect",
        "cd-two says /dev/sr0 0",
        // By hand.
        "--eject",
        "cdrom",
        "--send",
        &cd,
        "--expect",
        "says /dev/sr0 1",
        "--insert",
        &put[1],
        "--send",
        &cd,
        "--expect",
        "cd-one says /dev/sr0 0",
        "--send",
        &fd,
        "--expect",
        "fd-one says /dev/fd0 0",
        "--insert",
        &put[2],
        "--send",
        &fd,
        "--expect",
        "fd-two says /dev/fd0 0",
        "--send",
        "echo written | dd of=/dev/fd0 conv=notrunc,fsync; poweroff -f\\n",
        "--expect",
        "Power down",
    ]));
    let start = |path: &str| std::fs::read(path).unwrap()[..7].to_vec();
    assert_eq!((start(&one), start(&two)), (b"fd-one.".to_vec(), b"written".to_vec()));
}
