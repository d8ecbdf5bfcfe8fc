//! A kernel of the distribution with an initramfs of busybox and the drivers of Softmetal's boards.

use std::fs;
use std::path::Path;

use super::recipes::{INITRD, KERNEL};
use super::{CatalogError, Result, apt, at, cpio, deb, gzip, modules};

/// The programs and scripts of every initramfs; see the script itself for what it does.
const INIT: &[u8] = include_bytes!("init.sh");
/// Drivers for the hardware that Softmetal's boards have, where the kernel has them as modules.
const DRIVERS: [&str; 22] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "virtio_net",
    "virtio_console",
    "virtio-rng",
    "ata_piix",
    "ahci",
    "ext4",
    "sd_mod",
    "sr_mod",
    "floppy",
    "e1000",
    "8139cp",
    "isofs",
    "vfat",
    "9p",
    "9pnet_virtio",
    "bochs",
    "psmouse",
    "virtio_input",
    "evdev",
];

/// Makes the files of the entry `name` in `work`; the packages that they are from.
pub fn build(work: &Path, name: &str, kernels: &[&str], architecture: &str, progress: &mut dyn FnMut(&str)) -> Result<Vec<String>> {
    let packages = apt::download(work, name, kernels, architecture, progress)?;
    progress("unpacking");
    let mut kernel = None;
    let mut busybox = None;
    let mut tree = modules::Tree::default();
    for package in &packages {
        deb::each_file(package, |path, content| {
            if path.starts_with("boot/vmlinuz-") {
                kernel = Some(content.read()?);
            } else if matches!(path, "bin/busybox" | "usr/bin/busybox") {
                busybox = Some(content.read()?);
            } else if modules::Tree::wants(path) {
                tree.add(path, content.read()?)?;
            }
            Ok(())
        })?;
    }
    let missing = |detail: &str| CatalogError::Unpack { what: kernels[0].into(), detail: format!("the packages hold no {detail}") };
    let kernel = kernel.ok_or_else(|| missing("boot/vmlinuz"))?;
    let busybox = busybox.ok_or_else(|| missing("bin/busybox"))?;

    progress("making the initramfs");
    let mut archive = cpio::Archive::default();
    for folder in ["bin", "dev", "proc", "sys"] {
        archive.folder(folder);
    }
    archive.file("bin/busybox", 0o755, busybox);
    archive.file("init", 0o755, INIT.to_vec());
    for (path, content) in tree.select(&DRIVERS)? {
        archive.file(&path, 0o644, content);
    }
    for (name, bytes) in [(KERNEL, kernel), (INITRD, gzip(&archive.finish()))] {
        let path = work.join(name);
        fs::write(&path, bytes).map_err(at(&path))?;
    }
    Ok(packages.iter().filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned())).collect())
}
