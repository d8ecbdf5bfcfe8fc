//! The values of options.

use std::path::PathBuf;
use std::time::Duration;

use crate::disk::{backing_anywhere, format};
use softmetal_machine::board::{BootDevice, Interface};
use softmetal_machine::host::disk::DiskMode;
use softmetal_machine::machine::Model;

/// A `--disk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskArg {
    /// The image.
    pub path: PathBuf,
    /// How it is opened.
    pub mode: DiskMode,
    /// What it is attached to.
    pub interface: Interface,
}

/// A `--cpu`.
#[derive(Clone, Debug)]
pub struct Processor(pub Model);

/// A `--log`, as a filter of log targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter {
    /// The module, or all.
    pub target: Option<String>,
    /// The level.
    pub level: log::LevelFilter,
}

/// `FILE[,if=virtio|scsi|ide|ahci][,snapshot][,ro][,format=raw]`. A comma in the file's name is doubled.
pub fn disk(text: &str) -> Result<DiskArg, String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ',' if chars.peek() == Some(&',') => {
                chars.next();
                part.push(',');
            }
            ',' => parts.push(std::mem::take(&mut part)),
            c => part.push(c),
        }
    }
    parts.push(part);
    let mut parts = parts.into_iter();
    let path = parts.next().unwrap_or_default();
    if path.is_empty() {
        return Err("a disk needs a file, like --disk disk.img".into());
    }
    let mut disk = DiskArg { path: path.into(), mode: DiskMode::default(), interface: Interface::default() };
    for part in parts {
        match part.as_str() {
            "ro" => disk.mode.read_only = true,
            "snapshot" => disk.mode.snapshot = true,
            "if=virtio" => disk.interface = Interface::Virtio,
            "if=ide" => disk.interface = Interface::Ide,
            "if=ahci" => disk.interface = Interface::Ahci,
            "if=scsi" => disk.interface = Interface::Scsi,
            "if=nvme" => return Err(format!("`{part}` does not work yet; use if=virtio, if=scsi, if=ide or if=ahci")),
            _ => {
                let (name, value) = part.split_once('=').unwrap_or((&part, ""));
                match name {
                    "snapshot" if !value.is_empty() => disk.mode.overlay = Some(value.into()),
                    "format" => disk.mode.format = Some(format(value)?),
                    "backing" => disk.mode.backing_anywhere = backing_anywhere(value)?,
                    _ => {
                        return Err(format!(
                            "`{part}` is none of ro, snapshot, snapshot=FILE, if=virtio, if=scsi, if=ide, if=ahci, format=FORMAT, \
                             backing=any (write a comma in a file's name twice)"
                        ));
                    }
                }
            }
        }
    }
    if disk.mode.overlay.is_some() && (disk.mode.snapshot || disk.mode.read_only) {
        return Err("of ro, snapshot and snapshot=FILE only one can be; leave the others out".into());
    }
    Ok(disk)
}

/// A device to boot from.
pub fn boot(text: &str) -> Result<BootDevice, String> {
    Ok(match text {
        "disk" => BootDevice::Disk,
        "cdrom" => BootDevice::Cdrom,
        "floppy" => BootDevice::Floppy,
        "net" => BootDevice::Net,
        _ => return Err(format!("there is no boot device `{text}`; there are disk, cdrom, floppy and net")),
    })
}

/// A size in bytes: `512M`, `4G`, `65536K`; a bare number is MiB.
pub fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not a size like 512M or 4G");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => 10,
        "" | "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(bad()),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let bytes = number.checked_mul(1 << shift).ok_or_else(bad)?;
    if bytes < 2 << 20 {
        return Err(format!("`{text}` is too little memory; a PC needs 2M, Linux about 64M"));
    }
    Ok(bytes)
}

/// Seconds, with a fraction if need be.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse::<f64>().ok().filter(|s| *s > 0.0);
    number
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
        .ok_or_else(|| format!("`{text}` is not a number of seconds greater than 0, like 30 or 0.5"))
}

/// A whole number.
pub fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("`{text}` is no whole number from 0 to {}", u64::MAX))
}

/// `MODEL[,+feature][,-feature]`.
pub fn processor(text: &str) -> Result<Processor, String> {
    let mut parts = text.split(',');
    let name = parts.next().unwrap_or_default();
    let mut model = Model::by_name(name).ok_or_else(|| {
        let all = format!("there are {}", Model::NAMES.join(", "));
        format!("there is no processor model `{name}`{}", did_you_mean(nearest(name, Model::NAMES.into_iter()), &all))
    })?;
    for part in parts {
        let (on, feature) = match (part.strip_prefix('+'), part.strip_prefix('-')) {
            (Some(f), _) => (true, f),
            (_, Some(f)) => (false, f),
            _ => return Err(format!("`{part}` is no change of a feature; write +{part} or -{part}")),
        };
        if !model.set(feature, on) {
            let near = nearest(feature, Model::feature_names());
            return Err(format!("there is no processor feature `{feature}`{}", did_you_mean(near, "`softmetal doctor --cpu` lists them")));
        }
    }
    if let Some(&(_, needed)) = model.unmet().first() {
        let dependent: Vec<_> = model.unmet().into_iter().filter(|u| u.1 == needed).map(|u| u.0).collect();
        return Err(format!(
            "without the processor feature `{needed}` there can be no {}: switch {needed} on (+{needed}), or these off too (-{})",
            dependent.join(", "),
            dependent.join(",-"),
        ));
    }
    Ok(Processor(model))
}

/// An exit code that the debug-exit port can give.
pub fn exit_code(text: &str) -> Result<u8, String> {
    text.parse::<u8>()
        .ok()
        .filter(|code| code % 2 == 1)
        .ok_or_else(|| format!("`{text}` is no exit code of the debug-exit port, which are odd: a guest that writes V ends with 2*V+1"))
}

/// `LEVEL` or `MODULE=LEVEL`.
pub fn log_filter(text: &str) -> Result<LogFilter, String> {
    let (target, level) = match text.split_once('=') {
        Some((target, level)) => (Some(target), level),
        None => (None, text),
    };
    let level = level.parse().map_err(|_| format!("`{level}` is no log level; there are off, error, warn, info, debug, trace"))?;
    // The crates, by the names of their folders.
    let target = target.map(|t| {
        let head = t.split("::").next().unwrap_or_default();
        if ["bus", "cpu", "devices", "firmware", "machine"].contains(&head) { format!("softmetal_{t}") } else { t.to_string() }
    });
    Ok(LogFilter { target, level })
}

/// The candidate that is most like `name`, if one is like it at all.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|c| (strsim::damerau_levenshtein(name, c), c))
        .filter(|(distance, c)| *distance <= name.len().max(c.len()) / 3)
        .min()
        .map(|(_, c)| c)
}

/// `; did you mean X?`, or, where nothing is near, what to do instead.
pub fn did_you_mean(nearest: Option<&str>, otherwise: &str) -> String {
    nearest.map_or_else(|| format!("; {otherwise}"), |n| format!("; did you mean {n}?"))
}

#[cfg(test)]
mod tests {
    use softmetal_machine::host::disk::Format;

    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("64"), Ok(64 << 20));
        assert_eq!(size("4g"), Ok(4 << 30));
        for bad in ["", "M", "4X", "-1M", "99999999999G", "0", "1.5G", "10K"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn disks() {
        let d = disk("a,,b.img,ro,if=virtio,format=raw").unwrap();
        assert_eq!((d.path, d.mode.read_only, d.mode.snapshot), ("a,b.img".into(), true, false));
        assert_eq!((d.mode.format, d.mode.backing_anywhere), (Some(Format::Raw), false));
        let d = disk("x,snapshot=y,format=vhd,backing=any").unwrap();
        assert_eq!((d.mode.overlay, d.mode.format, d.mode.backing_anywhere), (Some("y".into()), Some(Format::Vhd), true));
        assert_eq!(disk("x,if=ahci").unwrap().interface, Interface::Ahci);
        assert_eq!(disk("x,if=scsi").unwrap().interface, Interface::Scsi);
        for bad in ["", ",ro", "x,if=nvme", "x,if=usb", "x,format=qcow3", "x,backing=some", "x,ro,snapshot=y", "x,snapshot=", "x,rw"] {
            assert!(disk(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn other_values() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("0").is_err() && seconds("-1").is_err() && seconds("inf").is_err() && seconds("nan").is_err());
        assert_eq!(number("7"), Ok(7));
        assert!(number("-1").is_err() && number("0x10").is_err());
        assert_eq!(boot("cdrom"), Ok(BootDevice::Cdrom));
        assert!(boot("tape").is_err());
        assert_eq!(exit_code("33"), Ok(33));
        assert!(exit_code("32").is_err() && exit_code("256").is_err());
        assert!(processor("max,-rdrand").is_ok());
        assert!(processor("max,-rdrnd").unwrap_err().contains("did you mean rdrand"));
        assert!(processor("max,-sse4_1").unwrap_err().contains("no sse4_2"));
        assert!(processor("max,-sse4_1,-sse4_2").unwrap_err().contains("no avx"));
        assert!(processor("x86-64-v2,-sse4_2").is_ok() && processor("zen3,-sha_ni").is_ok());
        assert!(processor("nehalm").unwrap_err().contains("did you mean nehalem"));
        assert!(processor("i486").is_ok() && processor("max,rdrand").is_err());
        assert!(processor("k6-2,-mmx").unwrap_err().contains("no 3dnow"));
        assert_eq!(log_filter("cpu::run=debug").unwrap().target.as_deref(), Some("softmetal_cpu::run"));
        assert!(log_filter("loud").is_err());
    }
}
