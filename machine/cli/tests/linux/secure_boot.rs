//! Secure Boot as distributions ship it: a chain of signed files is started, whatever is not signed is refused.

use std::fs;
use std::path::{Path, PathBuf};

use softmetal_machine::host::firmware::UEFI_SECURE;

use crate::firmware::{available, uefi_disk, uefi_program};
use crate::media::{installed, run, text};
use crate::{images, package_file, passes, softmetal};

/// What GRUB is told: to try a kernel that somebody has changed, and then to boot the one that is as it was signed.
const GRUB_CFG: &str = "if linux /changed; then echo takes a changed kernel; else echo refuses a changed kernel; fi\n\
    linux /vmlinuz console=ttyS0,115200 poweroff\ninitrd /initrd.gz\nboot\n";
/// What the loader without a signature would say.
const UNSIGNED: &str = "the unsigned program runs";

/// A disk with shim, GRUB and the kernel as Microsoft and Debian have signed them.
fn signed_disk(folder: &Path) -> Option<PathBuf> {
    const SHIM: &str = "usr/lib/shim/shimx64.efi.signed";
    const GRUB: &str = "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed";
    if !installed(&["/usr/bin/mformat", "/usr/bin/mmd", "/usr/bin/mcopy"]) {
        return None;
    }
    let linux = images("busybox")?;
    let [shim, grub] = [("shim-signed", SHIM), ("grub-efi-amd64-signed", GRUB)].map(|(package, file)| package_file(package, file));
    let (disk, config, changed) = (folder.join("signed.img"), folder.join("grub.cfg"), folder.join("changed"));
    fs::write(&config, GRUB_CFG).unwrap();
    let mut kernel = fs::read(&linux.kernel).unwrap();
    let middle = kernel.len() / 2;
    kernel[middle] ^= 1;
    fs::write(&changed, kernel).unwrap();
    fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    let disk_arg = ["-i", text(&disk)];
    run("mformat", &[&disk_arg[..], &["::"]].concat());
    run("mmd", &[&disk_arg[..], &["::EFI", "::EFI/BOOT", "::EFI/debian"]].concat());
    for (file, name) in [
        (&shim?, "EFI/BOOT/BOOTX64.EFI"),
        (&grub?, "EFI/BOOT/grubx64.efi"),
        (&config, "EFI/debian/grub.cfg"),
        (&linux.kernel, "vmlinuz"),
        (&linux.initrd, "initrd.gz"),
        (&changed, "changed"),
    ] {
        run("mcopy", &[&disk_arg[..], &[text(file), &format!("::{name}")]].concat());
    }
    Some(disk)
}

#[test]
fn only_what_is_signed_is_started() {
    if !available(&UEFI_SECURE) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (vars, unsigned) = (folder.path().join("vars.fd"), folder.path().join("unsigned.img"));
    fs::write(&unsigned, uefi_disk(&uefi_program(UNSIGNED))).unwrap();
    let machine = |disk: &Path| {
        let mut command = softmetal();
        command.args(["test", "--firmware", "uefi-secure", "--machine", "q35", "--firmware-vars", text(&vars), "--timeout", "300"]);
        command.args(["--disk", &format!("{},ro", text(disk))]);
        command
    };
    // The keys are in the variables that the first run makes, and stay there.
    for _ in 0..2 {
        passes(machine(&unsigned).args(["--forbid", UNSIGNED, "--expect", "failed to load Boot.*: Access Denied"]));
    }
    let Some(signed) = signed_disk(folder.path()) else { return };
    let log = passes(machine(&signed).args([
        "--expect",
        "refuses a changed kernel",
        "--expect",
        "secureboot: Secure boot enabled",
        "--expect",
        "Loaded X.509 cert 'Microsoft Corporation UEFI CA",
        "--expect",
        "GUEST-READY",
    ]));
    assert!(log.contains("Kernel is locked down from EFI Secure Boot"), "{log}");
}
