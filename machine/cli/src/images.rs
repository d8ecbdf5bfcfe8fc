//! From IMAGE, `--kernel` and `--initrd` to what the machine boots.

use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;
use softmetal_firmware::{HEAD_LEN, ImageKind, detect};
use softmetal_machine::UserError;
use softmetal_machine::board::{BootDevice, Interface};
use softmetal_machine::host::catalog::{Catalog, Media};
use softmetal_machine::host::disk::{DiskMode, Format};
use softmetal_machine::host::files;
use softmetal_machine::machine::Images;

use crate::catalog::with_progress;
use crate::options::MachineArgs;
use crate::values::{DiskArg, did_you_mean, nearest};

/// What Linux is told when nothing else is asked for: to use the serial port.
const LINUX_CMDLINE: &str = "console=ttyS0";

/// `args` with an IMAGE that is no kernel put into a drive, from which is booted first if nothing else is asked for. What the
/// catalogue has also brings its memory if `args` name none; its image stays as it is: writes are dropped at the end.
pub fn into_drives(args: &MachineArgs, matches: &ArgMatches) -> Result<MachineArgs, UserError> {
    let mut args = args.clone();
    let Some(image) = args.image.clone().filter(|_| args.kernel.is_none()) else { return Ok(args) };
    let mut mode = DiskMode::default();
    let (device, path) = if let Some(name) = catalogue_name(&image) {
        let catalog = Catalog::new(args.offline).map_err(|e| UserError(e.to_string()))?;
        let fetched = with_progress(|progress| catalog.fetch(name, progress))?;
        if matches.value_source("memory") == Some(ValueSource::DefaultValue) {
            args.memory = fetched.memory.unwrap_or(args.memory);
        }
        mode = DiskMode { snapshot: true, format: Some(Format::Raw), ..mode };
        match fetched.media {
            Media::Linux(_) => return Ok(args),
            Media::Disk(path) => (BootDevice::Disk, path),
            Media::Cdrom(path) => (BootDevice::Cdrom, path),
        }
    } else {
        match drive_for(&image)? {
            Some(device) => (device, image.clone()),
            None => return Ok(args),
        }
    };
    for (given, option) in [(args.initrd.is_some(), "--initrd"), (args.append.is_some(), "--append")] {
        if given {
            return Err(UserError(format!("{option} belongs to a kernel, and {} is a drive; add --kernel FILE", image.display())));
        }
    }
    args.image = None;
    match device {
        BootDevice::Disk => args.disk.insert(0, DiskArg { path, mode, interface: Interface::default() }),
        BootDevice::Cdrom => args.cdrom.insert(0, path),
        BootDevice::Floppy | BootDevice::Net => args.floppy.insert(0, path),
    }
    if args.boot.is_empty() {
        args.boot = vec![device];
        args.boot.extend([BootDevice::Disk, BootDevice::Cdrom, BootDevice::Floppy].into_iter().filter(|other| *other != device));
    }
    Ok(args)
}

/// The kind of drive that the file `image` is a medium for; `None` if it is something else, or no file.
fn drive_for(image: &Path) -> Result<Option<BootDevice>, UserError> {
    /// The sizes of floppies in KiB.
    const FLOPPIES: [u64; 9] = [160, 180, 320, 360, 720, 1200, 1440, 1680, 2880];
    /// The most that is loaded as a program where boot sectors are, in bytes.
    const CONVENTIONAL: u64 = 512 << 10;
    if !image.is_file() {
        return Ok(None);
    }
    let size = std::fs::metadata(image).map_or(0, |m| m.len());
    let floppy = size % 1024 == 0 && FLOPPIES.contains(&(size / 1024));
    Ok(match detect(&files::head("image", image, HEAD_LEN)?) {
        ImageKind::Iso9660 => Some(BootDevice::Cdrom),
        ImageKind::RawDisk | ImageKind::BootSector if floppy => Some(BootDevice::Floppy),
        ImageKind::BootSector if size <= CONVENTIONAL => None,
        ImageKind::RawDisk | ImageKind::BootSector => Some(BootDevice::Disk),
        ImageKind::Qcow2 | ImageKind::Vmdk | ImageKind::Vdi | ImageKind::Vhd => Some(BootDevice::Disk),
        ImageKind::BzImage | ImageKind::ElfPvh | ImageKind::Multiboot | ImageKind::GzipKernel | ImageKind::Unknown => None,
    })
}

/// Reads what `args` name. `None` if they name nothing.
pub fn images(args: &MachineArgs) -> Result<Option<Images>, UserError> {
    let mut initrd = args.initrd.clone();
    let mut cmdline = args.append.clone();
    let kernel = match (&args.image, &args.kernel) {
        (Some(image), Some(_)) => {
            return Err(UserError(format!("both IMAGE ({}) and --kernel are given; give one of them", image.display())));
        }
        (None, None) if initrd.is_some() => return Err(UserError::new("--initrd needs a kernel; add --kernel FILE")),
        (None, None) if cmdline.is_some() => return Err(UserError::new("--append needs a kernel; add --kernel FILE")),
        (None, None) => return Ok(None),
        (None, Some(kernel)) => kernel.clone(),
        (Some(image), None) => match catalogue_name(image) {
            Some(name) => {
                let catalog = Catalog::new(args.offline).map_err(|e| UserError(e.to_string()))?;
                let linux = match with_progress(|progress| catalog.fetch(name, progress))?.media {
                    Media::Linux(linux) => linux,
                    Media::Disk(_) | Media::Cdrom(_) => return Ok(None),
                };
                initrd = initrd.or(Some(linux.initrd));
                cmdline = Some(match &args.append {
                    Some(more) => format!("{} {more}", linux.cmdline),
                    None => linux.cmdline.into(),
                });
                linux.kernel
            }
            None => existing(image)?,
        },
    };
    let contents = files::contents("kernel", &kernel, args.memory)?;
    let kind = detect(&contents.source().head(HEAD_LEN).map_err(|e| UserError(e.to_string()))?);
    refuse(&kernel, kind)?;
    let initrd = initrd.map(|path| files::contents("initrd", &path, args.memory)).transpose()?;
    let linux = matches!(kind, ImageKind::BzImage | ImageKind::ElfPvh);
    let cmdline = cmdline.unwrap_or_else(|| if linux { LINUX_CMDLINE.into() } else { String::new() });
    Ok(Some(Images { kernel: contents, initrd, cmdline, ..Images::default() }))
}

/// The name of a catalogue entry, if `image` is one and no path.
fn catalogue_name(image: &Path) -> Option<&str> {
    image.to_str().filter(|name| Catalog::knows(name))
}

fn existing(image: &Path) -> Result<PathBuf, UserError> {
    if image.exists() || image == Path::new("-") {
        return Ok(image.to_path_buf());
    }
    let name = image.display();
    let names = Catalog::names();
    let near = nearest(&image.to_string_lossy(), names.iter().copied());
    Err(UserError(format!(
        "there is no file {name}, and the catalogue has only {}{}",
        names.join(", "),
        did_you_mean(near, "check the path")
    )))
}

/// What is no kernel is refused with what can be done instead.
fn refuse(path: &Path, kind: ImageKind) -> Result<(), UserError> {
    match kind {
        ImageKind::BzImage | ImageKind::ElfPvh | ImageKind::Multiboot | ImageKind::BootSector => Ok(()),
        _ => Err(UserError(format!("{} cannot be booted as a kernel: it is {}; {}", path.display(), kind.name(), kind.advice()))),
    }
}
