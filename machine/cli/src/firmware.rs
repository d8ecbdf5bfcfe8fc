//! `--firmware` and `--firmware-vars`: from a name or a file to what the machine starts with.

use std::path::{Path, PathBuf};

use softmetal_firmware::Chipset;
use softmetal_machine::UserError;
use softmetal_machine::board::SharedDisk;
use softmetal_machine::host::firmware::{SEABIOS, UEFI, UEFI_SECURE, keep, read};
use softmetal_machine::host::terminal;
use softmetal_machine::machine::Firmware;

use crate::options::MachineArgs;

/// A `--firmware`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirmwareArg {
    /// The built-in one.
    Builtin,
    /// SeaBIOS.
    SeaBios,
    /// OVMF.
    Uefi,
    /// OVMF with Secure Boot.
    UefiSecure,
    /// A file.
    File(PathBuf),
}

/// `builtin`, `seabios`, `uefi`, `uefi-secure`, or a file.
pub fn firmware(text: &str) -> Result<FirmwareArg, String> {
    Ok(match text {
        "builtin" => FirmwareArg::Builtin,
        "seabios" => FirmwareArg::SeaBios,
        "uefi" => FirmwareArg::Uefi,
        "uefi-secure" => FirmwareArg::UefiSecure,
        file if Path::new(file).exists() => FirmwareArg::File(file.into()),
        file => return Err(format!("`{file}` is none of builtin, seabios, uefi, uefi-secure, and no file of this name exists")),
    })
}

/// What runs first, and what belongs to it.
#[derive(Default)]
pub struct Loaded {
    /// The firmware.
    pub firmware: Firmware,
    /// The display adapter's option ROM.
    pub vga_rom: Vec<u8>,
}

/// Loads the firmware that `args` name.
///
/// # Errors
/// [`UserError`] when it cannot be found, fetched or read.
pub fn load(args: &MachineArgs) -> Result<Loaded, UserError> {
    let mut progress = |step: &str| terminal::say(&format!("softmetal: {step}"));
    let mut loaded = Loaded::default();
    if args.firmware == FirmwareArg::SeaBios && args.kernel.is_some() {
        return Err(UserError::new("SeaBIOS boots from disks and cannot start a --kernel; leave out --firmware, or use --firmware uefi"));
    }
    let secure = args.firmware == FirmwareArg::UefiSecure;
    if secure && (args.machine.chipset != Chipset::Q35 || !args.machine.smm) {
        return Err(UserError::new("--firmware uefi-secure guards its keys by the system management mode of q35; add --machine q35"));
    }
    // The VGA BIOS is found along with SeaBIOS; a BIOS from a file does without if there is none.
    match &args.firmware {
        FirmwareArg::Builtin => {}
        FirmwareArg::SeaBios => {
            let mut parts = SEABIOS.files(args.offline, &mut progress)?;
            loaded.vga_rom = parts.pop().unwrap_or_default();
            loaded.firmware = Firmware::Rom(parts.pop().unwrap_or_default());
        }
        FirmwareArg::Uefi | FirmwareArg::UefiSecure => {
            let mut parts = if secure { UEFI_SECURE } else { UEFI }.files(args.offline, &mut progress)?;
            let vars = parts.pop().unwrap_or_default();
            loaded.firmware = Firmware::Flash { code: parts.pop().unwrap_or_default(), vars, guarded: secure };
        }
        FirmwareArg::File(path) => {
            let code = read("firmware", path)?;
            loaded.firmware = match &args.firmware_vars {
                Some(vars) if vars.exists() => Firmware::Flash { code, vars: read("file for --firmware-vars", vars)?, guarded: false },
                _ => Firmware::Rom(code),
            };
            loaded.vga_rom = SEABIOS.files(true, &mut progress).ok().and_then(|mut parts| parts.pop()).unwrap_or_default();
        }
    }
    if args.firmware_vars.is_some() && !matches!(loaded.firmware, Firmware::Flash { .. }) {
        return Err(UserError::new(
            "--firmware-vars needs a firmware with variables; add --firmware uefi, or give the file with those of --firmware FILE",
        ));
    }
    loaded.firmware.check().map_err(|e| UserError(format!("--firmware: {e}")))?;
    Ok(loaded)
}

/// Where the variables of `firmware` are kept, which are then those in the file.
///
/// # Errors
/// [`UserError`] when the file cannot be had or belongs to another firmware.
pub fn vars(args: &MachineArgs, firmware: &mut Firmware) -> Result<Option<SharedDisk>, UserError> {
    match (&args.firmware_vars, firmware) {
        (Some(path), Firmware::Flash { vars, .. }) => keep(path, vars).map(Some),
        _ => Ok(None),
    }
}
