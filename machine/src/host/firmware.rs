//! Firmware of others as distributions ship it: installed files, or those of the package that has them.

use std::path::{Path, PathBuf};

use softmetal_bus::SharedDisk;

use super::catalog::Catalog;
use super::disk::{self, DiskMode, Format};
use super::files;
use crate::error::UserError;

/// The most bytes of a firmware file.
const MOST: u64 = 16 << 20;

/// A firmware that is known by name: its files, each with the places where distributions install it, best first.
pub struct Known {
    /// The name, as `--firmware` takes it.
    pub name: &'static str,
    /// The Debian or Ubuntu package.
    package: &'static str,
    /// Sets of files that belong together.
    sets: &'static [&'static [&'static str]],
}

/// SeaBIOS, and the VGA BIOS for the standard adapter.
pub const SEABIOS: Known = Known {
    name: "seabios",
    package: "seabios",
    sets: &[
        &["/usr/share/seabios/bios-256k.bin", "/usr/share/seabios/vgabios-stdvga.bin"],
        &["/usr/share/qemu/bios-256k.bin", "/usr/share/qemu/vgabios-stdvga.bin"],
        &["/usr/share/qemu/bios-256k.bin", "/usr/share/seavgabios/vgabios-stdvga.bin"],
    ],
};

/// OVMF: code, and empty variables.
pub const UEFI: Known = Known {
    name: "uefi",
    package: "ovmf",
    sets: &[
        &["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"],
        &["/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"],
        &["/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"],
        &["/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"],
    ],
};

/// OVMF with Secure Boot: its code trusts system management mode alone, and its variables hold the keys of those who sign loaders.
pub const UEFI_SECURE: Known = Known {
    name: "uefi-secure",
    package: "ovmf",
    sets: &[
        &["/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"],
        &["/usr/share/OVMF/OVMF_CODE.secboot.fd", "/usr/share/OVMF/OVMF_VARS.ms.fd"],
        &["/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd"],
    ],
};

impl Known {
    /// The contents of its files: of the installed ones, else of the package's.
    ///
    /// # Errors
    /// [`UserError`] when it is not installed and cannot be fetched.
    pub fn files(&self, offline: bool, progress: &mut dyn FnMut(&str)) -> Result<Vec<Vec<u8>>, UserError> {
        let installed = self.sets.iter().find(|set| set.iter().all(|f| Path::new(f).is_file()));
        let paths: Vec<PathBuf> = match installed {
            Some(set) => set.iter().map(PathBuf::from).collect(),
            None => {
                let wanted: Vec<&str> = self.sets[0].iter().map(|path| path.trim_start_matches('/')).collect();
                let fetched = Catalog::new(offline).and_then(|catalog| catalog.package_files(self.package, &wanted, progress));
                fetched.map_err(|e| UserError(format!("{}: {e}; or install the package {}", self.name, self.package)))?
            }
        };
        paths.iter().map(|path| read("firmware", path)).collect()
    }
}

/// Reads a firmware file whole.
///
/// # Errors
/// [`UserError`] when it cannot be read or is larger than any firmware.
pub fn read(what: &str, path: &Path) -> Result<Vec<u8>, UserError> {
    if std::fs::metadata(path).is_ok_and(|m| m.len() > MOST) {
        return Err(UserError(format!(
            "the {what} {} is larger than {} MiB; give a file with a PC's firmware",
            path.display(),
            MOST >> 20
        )));
    }
    files::read(what, path, MOST)
}

/// The file that keeps `vars`: made anew from them if it is not there, else they are read from it.
///
/// # Errors
/// [`UserError`] when it cannot be made, is in use, or has another size.
pub fn keep(path: &Path, vars: &mut [u8]) -> Result<SharedDisk, UserError> {
    const WHAT: &str = "file for --firmware-vars";
    files::creatable(WHAT, path)?;
    if !path.exists() {
        files::write(WHAT, path, vars)?;
    }
    let mut store = disk::open(path, &DiskMode { format: Some(Format::Raw), ..DiskMode::default() })?;
    if store.size() != vars.len() as u64 {
        let (has, needs) = (store.size(), vars.len());
        return Err(UserError(format!(
            "the {WHAT} {} has {has} bytes, but this firmware's variables have {needs}; give the file that this firmware made",
            path.display()
        )));
    }
    store.read_at(0, vars).map_err(|e| UserError(format!("the {WHAT} {} cannot be read: {e}", path.display())))?;
    Ok(store.into())
}
