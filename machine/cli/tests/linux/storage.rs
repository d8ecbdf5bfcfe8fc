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
