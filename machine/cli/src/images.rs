//! From IMAGE, `--kernel` and `--initrd` to what the machine boots.

use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;
use softmetal_firmware::{HEAD_LEN, ImageKind, detect};
use softmetal_machine::UserError;
use softmetal_machine::board::Interface;
use softmetal_machine::host::catalog::{Catalog, Media};
use softmetal_machine::host::disk::{DiskMode, Format};
use softmetal_machine::host::files;
use softmetal_machine::machine::Images;

use crate::catalog::with_progress;
use crate::firmware::FirmwareArg;
use crate::options::MachineArgs;
use crate::values::{DiskArg, did_you_mean, nearest};

/// What Linux is told when nothing else is asked for: to use the serial port.
const LINUX_CMDLINE: &str = "console=ttyS0";

/// `args` with what the catalogue says of their IMAGE: the drive that it is, and its memory if they name none. A drive's
/// image stays as it is: writes are dropped at the end.
pub fn from_catalogue(args: &MachineArgs, matches: &ArgMatches) -> Result<MachineArgs, UserError> {
    let mut args = args.clone();
    let Some(name) = args.image.as_deref().and_then(catalogue_name).filter(|_| args.kernel.is_none()) else {
        return Ok(args);
    };
    let catalog = Catalog::new(args.offline).map_err(|e| UserError(e.to_string()))?;
    let fetched = with_progress(|progress| catalog.fetch(name, progress))?;
    if matches.value_source("memory") == Some(ValueSource::DefaultValue) {
        args.memory = fetched.memory.unwrap_or(args.memory);
    }
    let drive = !matches!(fetched.media, Media::Linux(_));
    if drive && args.firmware == FirmwareArg::Builtin {
        return Err(UserError(format!("{name} boots by a BIOS, which the built-in firmware is not yet; add --firmware seabios")));
    }
    match fetched.media {
        Media::Linux(_) => {}
        Media::Disk(path) => {
            let mode = DiskMode { snapshot: true, format: Some(Format::Raw), ..DiskMode::default() };
            args.disk.insert(0, DiskArg { path, mode, interface: Interface::default() });
        }
        Media::Cdrom(path) => args.cdrom.insert(0, path),
    }
    if drive {
        args.image = None;
    }
    Ok(args)
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
    let bytes = files::read("kernel", &kernel, args.memory)?;
    let kind = detect(&bytes[..bytes.len().min(HEAD_LEN)]);
    refuse(&kernel, kind, bytes.len())?;
    let initrd = initrd.map(|path| files::read("initrd", &path, args.memory)).transpose()?;
    let linux = matches!(kind, ImageKind::BzImage | ImageKind::ElfPvh);
    let cmdline = cmdline.unwrap_or_else(|| if linux { LINUX_CMDLINE.into() } else { String::new() });
    Ok(Some(Images { kernel: bytes, initrd, cmdline, ..Images::default() }))
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
        near.map_or_else(|| "; check the path".into(), |n| did_you_mean(Some(n)))
    )))
}

/// What cannot be booted (yet) is refused with what can be done instead.
fn refuse(path: &Path, kind: ImageKind, len: usize) -> Result<(), UserError> {
    /// The most that fits where boot sectors are loaded, in bytes.
    const CONVENTIONAL: usize = 512 << 10;
    let (name, what) = (path.display(), kind.name());
    let not_yet = match kind {
        ImageKind::BzImage | ImageKind::ElfPvh | ImageKind::Multiboot => return Ok(()),
        ImageKind::BootSector if len <= CONVENTIONAL => return Ok(()),
        ImageKind::RawDisk | ImageKind::BootSector => {
            format!("attach it to a kernel: softmetal run --kernel VMLINUZ --disk {name}")
        }
        ImageKind::Qcow2 | ImageKind::Vmdk | ImageKind::Vdi | ImageKind::Vhd => {
            "convert it with `qemu-img convert -O raw OLD NEW` and attach it to a kernel with --disk NEW".into()
        }
        ImageKind::Iso9660 => "unpack the kernel and the initrd in it and give them with --kernel and --initrd".into(),
        ImageKind::GzipKernel | ImageKind::Unknown => return Err(UserError(format!("{name} is {what}, not a kernel; {}", kind.advice()))),
    };
    let what = if kind == ImageKind::BootSector { "a disk image with a boot sector" } else { what };
    Err(UserError(format!("{name} is {what}, and booting from disks does not work yet; {not_yet}")))
}
