//! Media as others make them, from power-on to what they boot: each is made here from the distribution's programs.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use softmetal_machine::host::firmware::UEFI;

use crate::firmware::available;
use crate::{NEED, images, lacking, passes, skip, softmetal};

/// What GRUB is told on every medium.
const GRUB_CFG: &str = "serial --unit=0 --speed=115200\nterminal_input console serial\nterminal_output console serial\nset timeout=0\n\
    menuentry Linux {\n  linux /boot/vmlinuz console=ttyS0,115200 poweroff\n  initrd /boot/initrd.gz\n}\n";

/// Whether all of `files` are installed.
pub fn installed(files: &[&str]) -> bool {
    files.iter().find(|f| !Path::new(f).exists()).is_none_or(|f| lacking(NEED, &format!("there is no {f}; .ci/run installs it")))
}

/// Runs a program that must succeed.
pub fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder with a kernel and an initramfs in `boot`, and whatever `more` adds.
fn tree(folder: &Path, more: impl FnOnce(&Path)) -> Option<PathBuf> {
    let linux = images("busybox")?;
    let root = folder.join("tree");
    fs::create_dir_all(root.join("boot/grub")).unwrap();
    fs::copy(linux.kernel, root.join("boot/vmlinuz")).unwrap();
    fs::copy(linux.initrd, root.join("boot/initrd.gz")).unwrap();
    fs::write(root.join("boot/grub/grub.cfg"), GRUB_CFG).unwrap();
    more(&root);
    Some(root)
}

/// An ISO that isolinux boots, and BIOSes too when it is on a disk.
fn isolinux_iso(folder: &Path) -> Option<PathBuf> {
    const FILES: [&str; 4] = [
        "/usr/bin/xorriso",
        "/usr/lib/ISOLINUX/isolinux.bin",
        "/usr/lib/ISOLINUX/isohdpfx.bin",
        "/usr/lib/syslinux/modules/bios/ldlinux.c32",
    ];
    if !installed(&FILES) {
        return None;
    }
    let root = tree(folder, |root| {
        let to = root.join("isolinux");
        fs::create_dir(&to).unwrap();
        fs::copy(FILES[1], to.join("isolinux.bin")).unwrap();
        fs::copy(FILES[3], to.join("ldlinux.c32")).unwrap();
        let config = "SERIAL 0 115200\nDEFAULT linux\nPROMPT 0\nSAY isolinux is up\nLABEL linux\n  KERNEL /boot/vmlinuz\n  \
                      APPEND initrd=/boot/initrd.gz console=ttyS0,115200 poweroff\n";
        fs::write(to.join("isolinux.cfg"), config).unwrap();
    })?;
    let iso = folder.join("isolinux.iso");
    let args = "-as mkisofs -quiet -V ISOLINUX -R -J -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 \
                -boot-info-table -isohybrid-mbr";
    let mut args: Vec<&str> = args.split_whitespace().collect();
    args.extend([FILES[2], "-o", text(&iso), text(&root)]);
    run(FILES[0], &args);
    Some(iso)
}

/// An ISO that GRUB boots by BIOS, and by UEFI where that part of it is installed.
fn grub_iso(folder: &Path) -> Option<PathBuf> {
    if !installed(&["/usr/bin/xorriso", "/usr/bin/grub-mkrescue", "/usr/lib/grub/i386-pc/cdboot.img", "/usr/bin/mformat"]) {
        return None;
    }
    let root = tree(folder, |_| ())?;
    let iso = folder.join("grub.iso");
    run("grub-mkrescue", &["-o", text(&iso), text(&root)]);
    Some(iso)
}

/// A disk of 64 MiB with an MBR, GRUB and one ext2 partition.
fn grub_disk(folder: &Path) -> Option<PathBuf> {
    const FILES: [&str; 3] = ["/usr/bin/grub-mkimage", "/usr/lib/grub/i386-pc/boot.img", "/sbin/mke2fs"];
    const START: u64 = 2048;
    const SECTORS: u32 = 131_072;
    if !installed(&FILES) {
        return None;
    }
    let root = tree(folder, |_| ())?;
    let (disk, core) = (folder.join("disk.img"), folder.join("core.img"));
    let modules = ["biosdisk", "part_msdos", "ext2", "normal", "linux", "serial", "terminal"];
    run(FILES[0], &[&["-O", "i386-pc", "-p", "(,msdos1)/boot/grub", "-o", text(&core)], &modules[..]].concat());
    let mut mbr = fs::read(FILES[1]).unwrap();
    // One active Linux partition.
    mbr[0x1be..0x1fe].fill(0);
    mbr[0x1be] = 0x80;
    mbr[0x1c2] = 0x83;
    mbr[0x1c6..0x1ca].copy_from_slice(&(START as u32).to_le_bytes());
    mbr[0x1ca..0x1ce].copy_from_slice(&(SECTORS - START as u32).to_le_bytes());
    let file = fs::File::create(&disk).unwrap();
    file.set_len(u64::from(SECTORS) * 512).unwrap();
    file.write_all_at(&mbr, 0).unwrap();
    file.write_all_at(&fs::read(&core).unwrap(), 512).unwrap();
    let offset = format!("offset={}", START * 512);
    run(FILES[2], &["-q", "-F", "-t", "ext2", "-E", &offset, "-d", text(&root), text(&disk), "64512"]);
    Some(disk)
}

/// `options` boot by the built-in BIOS to the end of the busybox guest.
fn boots(options: &[&str]) {
    boots_until("builtin", options, "GUEST-READY");
}

/// `options` boot by `firmware` until the serial port says `text`; what it said.
fn boots_until(firmware: &str, options: &[&str], text: &str) -> String {
    let mut command = softmetal();
    command.args(["test", "--firmware", firmware, "--timeout", "300"]).args(options).args(["--expect", text]);
    passes(&mut command)
}

#[test]
fn an_isolinux_cdrom_boots() {
    let folder = tempfile::tempdir().unwrap();
    if let Some(iso) = isolinux_iso(folder.path()) {
        boots(&[text(&iso)]);
        boots_until("builtin", &["--disk", &format!("{},ro", text(&iso))], "Loading /boot/vmlinuz");
        boots_until("seabios", &["--cdrom", text(&iso)], "Loading /boot/vmlinuz");
    }
}

#[test]
fn a_grub_cdrom_boots() {
    let folder = tempfile::tempdir().unwrap();
    if let Some(iso) = grub_iso(folder.path()) {
        boots(&[text(&iso)]);
        boots_until("seabios", &["--cdrom", text(&iso)], "Linux version");
    }
}

/// As a CD-ROM, and as a disk with a GPT: `grub-mkrescue` makes both of one image.
#[test]
fn a_hybrid_grub_image_boots_by_uefi() {
    let folder = tempfile::tempdir().unwrap();
    if !installed(&["/usr/lib/grub/x86_64-efi/moddep.lst"]) || !available(&UEFI) {
        return;
    }
    if let Some(iso) = grub_iso(folder.path()) {
        boots_until("uefi", &["--cdrom", text(&iso)], "Linux version");
        for interface in ["ahci", "scsi"] {
            boots_until("uefi", &["--disk", &format!("{},ro,if={interface}", text(&iso)), "--machine", "q35"], "Linux version");
        }
    }
}

#[test]
fn a_grub_disk_boots_on_ide_and_virtio() {
    /// SeaBIOS of 128 KiB, which leaves real mode with other segment limits than the larger one.
    const SMALL: &str = "/usr/share/seabios/bios.bin";
    let folder = tempfile::tempdir().unwrap();
    if let Some(disk) = grub_disk(folder.path()) {
        let on = |interface| format!("{},snapshot,if={interface}", text(&disk));
        for interface in ["ide", "virtio", "ahci"] {
            boots(&["--disk", &on(interface)]);
        }
        boots_until("builtin", &["--disk", &on("ahci"), "--machine", "q35"], "Linux version");
        for interface in ["ide", "virtio", "scsi"] {
            boots_until("seabios", &["--disk", &on(interface)], "Linux version");
        }
        let log = boots_until("seabios", &["--disk", &on("ahci"), "--machine", "q35"], "ACPI: (Interpreter enabled|Unable)");
        assert!(log.contains("ACPI: Interpreter enabled") && !log.contains("BXPC"), "SeaBIOS does not use the board's tables: {log}");
        if installed(&[SMALL]) {
            for interface in ["virtio", "ahci"] {
                boots_until(SMALL, &["--disk", &on(interface)], "Linux version");
            }
        }
    }
}

/// A floppy whose FAT and boot sector are those of the DOS era: it says that it cannot be booted and waits for a key.
fn dos_floppy(folder: &Path, kib: u32) -> PathBuf {
    let floppy = folder.join(format!("dos{kib}.img"));
    run("mkfs.fat", &["-C", text(&floppy), &kib.to_string()]);
    floppy
}

/// Puts syslinux, a line that it says, and `memdisk` with `inner` into the FAT file system `image`.
fn syslinux(image: &Path, folder: &Path, inner: &Path) {
    let config = folder.join("syslinux.cfg");
    fs::write(&config, "SAY syslinux is up\nPROMPT 0\nDEFAULT disk\nLABEL disk\nKERNEL memdisk\nAPPEND initrd=inner.img floppy\n").unwrap();
    run("mcopy", &["-i", text(image), text(&config), MEMDISK, "::"]);
    run("mcopy", &["-i", text(image), text(inner), "::inner.img"]);
    run("syslinux", &["--install", text(image)]);
}

/// What the DOS boot sector says.
const NOT_BOOTABLE: &str = "not a bootable disk";
const MEMDISK: &str = "/usr/lib/syslinux/memdisk";
const SYSLINUX: [&str; 4] = ["/usr/bin/syslinux", MEMDISK, "/usr/bin/mcopy", "/usr/sbin/mkfs.fat"];

/// Boots `options` until the DOS boot sector is reached.
fn boots_to_dos(options: &[&str]) {
    let mut command = softmetal();
    command.args(["test", "--memory", "32M", "--timeout", "120"]).args(options).args(["--screen-expect", NOT_BOOTABLE]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{options:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn floppies_of_the_dos_era_boot() {
    if !installed(&SYSLINUX) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for kib in [360, 720, 1440] {
        let floppy = dos_floppy(folder.path(), kib);
        // A key, and it boots anew by INT 19h.
        let again = ["--screen-expect", "press any key", "--key", "a", "--screen-expect", "press any key(.*\n)+Booting from floppy"];
        boots_to_dos(&[&["--floppy", text(&floppy)][..], &again].concat());
    }
    // syslinux reads memdisk, which takes INT 13h over for a floppy in memory.
    let outer = dos_floppy(folder.path(), 2880);
    syslinux(&outer, folder.path(), &folder.path().join("dos720.img"));
    boots_to_dos(&["--floppy", text(&outer), "--screen-expect", "syslinux is up"]);
}

/// MBRs that look for the active partition and start its boot sector, by cylinder, head and sector or by block.
#[test]
fn an_active_partition_is_booted_by_an_mbr() {
    const SYSLINUX_MBR: &str = "/usr/lib/syslinux/mbr/mbr.bin";
    const DEBIAN_MBR: &str = "/sbin/install-mbr";
    const START: u32 = 63;
    const HEADS: u32 = 16;
    const CYLINDERS: u32 = 60;
    let sectors = HEADS * 63 * CYLINDERS - START;
    if !installed(&SYSLINUX) || !installed(&[SYSLINUX_MBR, DEBIAN_MBR, "/usr/bin/mformat"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (partition, disk) = (folder.path().join("part.img"), folder.path().join("disk.img"));
    fs::File::create(&partition).unwrap().set_len(u64::from(sectors) * 512).unwrap();
    let geometry = ["-h", "16", "-s", "63", "-H", "63", "-T"];
    run("mformat", &[&["-i", text(&partition)][..], &geometry, &[&sectors.to_string(), "::"]].concat());
    syslinux(&partition, folder.path(), &dos_floppy(folder.path(), 720));
    let mut bytes = fs::read(SYSLINUX_MBR).unwrap();
    bytes.resize(START as usize * 512, 0);
    // Active, from cylinder 0, head 1, sector 1 to the last of cylinder 59; FAT16.
    bytes[0x1be..0x1c6].copy_from_slice(&[0x80, 1, 1, 0, 6, HEADS as u8 - 1, 63, CYLINDERS as u8 - 1]);
    bytes[0x1c6..0x1ca].copy_from_slice(&START.to_le_bytes());
    bytes[0x1ca..0x1ce].copy_from_slice(&sectors.to_le_bytes());
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes.extend(fs::read(&partition).unwrap());
    fs::write(&disk, bytes).unwrap();
    for interface in ["virtio", "ide"] {
        let line = format!("{},ro,if={interface}", text(&disk));
        boots_to_dos(&["--disk", &line, "--screen-expect", "syslinux is up"]);
    }
    run("install-mbr", &["--force", "--partition", "1", "--timeout", "0", text(&disk)]);
    boots_to_dos(&["--disk", &format!("{},ro,if=ide", text(&disk)), "--screen-expect", "syslinux is up"]);
}

#[test]
fn the_catalogues_memtest_boots() {
    if !softmetal_machine::host::catalog::Catalog::can_fetch() && !skip(&"no apt-get") {
        return;
    }
    let mut command = softmetal();
    command.args(["test", "memtest", "--memory", "64M", "--timeout", "300", "--screen-expect", "<Enter> to start", "--key", "enter"]);
    let output = command.args(["--screen-expect", r"Testing: +\d"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
