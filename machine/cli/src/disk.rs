//! `softmetal disk`: makes, describes, checks, converts, commits and resizes images.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use softmetal_machine::UserError;
use softmetal_machine::host::disk::Format;
use softmetal_machine::host::disk::tool::{self, Info, New, Size, Source};

/// The exit code of a check that leaves something wrong.
const UNSOUND: u8 = 1;

/// What to do with images.
#[derive(Subcommand)]
pub enum DiskCommand {
    /// Make an image in which nothing takes room yet
    Create {
        /// The new file
        file: PathBuf,
        /// Its size, like 10G; a bare number is bytes [default: that of the backing file]
        #[arg(value_parser = bytes)]
        size: Option<u64>,
        /// raw or qcow2 [default: qcow2 if the name ends so or there is a backing file, else raw]
        #[arg(long, value_name = "FORMAT", value_parser = format)]
        format: Option<Format>,
        /// What is not written yet reads as in this image
        #[arg(long, value_name = "FILE")]
        backing_file: Option<PathBuf>,
        /// The format of the backing file [default: told from its contents]
        #[arg(long, value_name = "FORMAT", value_parser = format, requires = "backing_file")]
        backing_format: Option<Format>,
        /// Of qcow2 [default: 64K]
        #[arg(long, value_name = "SIZE", value_parser = bytes)]
        cluster_size: Option<u64>,
        /// Replace an existing file
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Describe an image, which may be in use
    Info {
        #[command(flatten)]
        image: ImageArgs,
        #[command(flatten)]
        common: Common,
    },
    /// Check a qcow2 image: exit code 0 if it is sound, 1 if something is wrong with it
    Check {
        #[command(flatten)]
        image: ImageArgs,
        /// Mend what can be mended
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Copy a disk into an image of another format, with all that is in its backing files
    Convert {
        #[command(flatten)]
        image: ImageArgs,
        /// The new file
        to: PathBuf,
        /// raw or qcow2 [default: qcow2 if the name ends so, else raw]
        #[arg(long, value_name = "FORMAT", value_parser = format)]
        to_format: Option<Format>,
        /// Copy this internal snapshot of a qcow2 image
        #[arg(long, value_name = "NAME")]
        snapshot: Option<String>,
        /// Replace an existing file
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Write what a qcow2 image has over its backing file into that file, and empty the image
    Commit {
        #[command(flatten)]
        image: ImageArgs,
        #[command(flatten)]
        common: Common,
    },
    /// Change the size of a raw or qcow2 image
    Resize {
        #[command(flatten)]
        image: ImageArgs,
        /// Like 20G, +5G or -1G; a bare number is bytes
        #[arg(value_parser = change, allow_hyphen_values = true)]
        size: Size,
        /// Let what is at the end be lost
        #[arg(long)]
        shrink: bool,
        #[command(flatten)]
        common: Common,
    },
}

/// The image.
#[derive(Args)]
pub struct ImageArgs {
    /// The image
    file: PathBuf,
    /// Its format: raw, qcow2, vmdk, vdi, vhd, vhdx [default: told from its contents]
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    format: Option<Format>,
}

/// What all have.
#[derive(Args)]
pub struct Common {
    /// Tell in JSON, with QEMU's names
    #[arg(long)]
    json: bool,
    /// Where backing files may be: `folder` (that of the image, and below it) or `any`
    #[arg(long, value_name = "WHERE", default_value = "folder", value_parser = reach)]
    backing: Reach,
}

/// Where backing files may be.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    anywhere: bool,
}

/// `folder` or `any`.
fn reach(text: &str) -> Result<Reach, String> {
    backing_anywhere(text).map(|anywhere| Reach { anywhere })
}

/// Whether backing files may be anywhere.
pub fn backing_anywhere(text: &str) -> Result<bool, String> {
    match text {
        "folder" => Ok(false),
        "any" => Ok(true),
        _ => Err(format!("`{text}` is no place of backing files; there are folder and any")),
    }
}

/// A format by its name.
pub fn format(text: &str) -> Result<Format, String> {
    Format::by_name(text).ok_or_else(|| format!("there is no format `{text}`; there are raw, qcow2, vmdk, vdi, vhd and vhdx"))
}

/// A size in bytes: `64K`, `10G`, `1.5T`; a bare number is bytes.
fn bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not a size like 512M or 10G");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(bad()),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    let mut size = whole.checked_mul(1 << shift).ok_or_else(bad)?;
    if !part.is_empty() {
        let part: f64 = format!("0.{part}").parse().map_err(|_| bad())?;
        size = size.checked_add((part * (1u64 << shift) as f64) as u64 / 512 * 512).ok_or_else(bad)?;
    }
    Ok(size)
}

/// `20G`, `+5G` or `-1G`.
fn change(text: &str) -> Result<Size, String> {
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(by), _) => bytes(by).map(Size::Grow),
        (_, Some(by)) => bytes(by).map(Size::Shrink),
        _ => bytes(text).map(Size::To),
    }
}

impl ImageArgs {
    fn source(&self, common: &Common) -> Source {
        Source { path: self.file.clone(), format: self.format, backing_anywhere: common.backing.anywhere }
    }
}

fn is_qcow2(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("qcow2"))
}

fn named_format(path: &Path) -> Format {
    if is_qcow2(path) { Format::Qcow2 } else { Format::Raw }
}

/// Writes to stdout; a closed one is the reader's wish.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

fn print_json(value: &impl Serialize) {
    print(&serde_json::to_string_pretty(value).expect("plain data"));
}

/// `10 GiB (10737418240 bytes)`.
fn human(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (0..units.len()).rev().find(|u| bytes >> (10 * u) > 0).unwrap_or(0);
    if unit == 0 {
        return format!("{bytes} bytes");
    }
    let number = format!("{:.1}", bytes as f64 / (1u64 << (10 * unit)) as f64);
    format!("{} {} ({bytes} bytes)", number.trim_end_matches(".0"), units[unit])
}

fn print_info(info: &Info) {
    let mut lines = vec![
        format!("image: {}", info.filename.display()),
        format!("format: {}", info.format),
        format!("size of the disk: {}", human(info.virtual_size)),
        format!("room on the host: {}", human(info.actual_size)),
    ];
    lines.extend(info.cluster_size.map(|n| format!("clusters: {}", human(n))));
    lines.extend(info.backing_filename.as_ref().map(|name| {
        let format = info.backing_filename_format.as_ref().map_or(String::new(), |f| format!(" ({f})"));
        format!("backing file: {name}{format}")
    }));
    if info.dirty_flag {
        lines.push("it was not closed properly; mend it with `softmetal disk check --repair`".into());
    }
    for s in &info.snapshots {
        lines.push(format!("snapshot: {} (id {})", s["name"].as_str().unwrap_or(""), s["id"].as_str().unwrap_or("")));
    }
    print(&lines.join("\n"));
}

/// Tells how an image is now.
fn result(source: &Source, json: bool, sentence: &str) -> Result<u8, UserError> {
    if json {
        print_json(&tool::info(source)?);
    } else {
        print(sentence);
    }
    Ok(0)
}

/// How far a copy is, on a terminal.
struct Meter {
    shown: Option<u64>,
    on: bool,
}

impl Meter {
    fn new() -> Self {
        Self { shown: None, on: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, done: u64, total: u64) {
        let percent = (u128::from(done) * 100 / u128::from(total.max(1))) as u64;
        if self.on && self.shown != Some(percent) {
            self.shown = Some(percent);
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "\r{percent:3} %").and_then(|()| stderr.flush());
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr().lock(), "\r     \r");
        }
    }
}

/// Carries out `command`; the exit code.
///
/// # Errors
/// [`UserError`] for wrong input or what the host refused.
pub fn disk(command: &DiskCommand) -> Result<u8, UserError> {
    match command {
        DiskCommand::Create { file, size, format, backing_file, backing_format, cluster_size, force, common } => {
            let backing = backing_file.clone().map(|path| Source { path, format: *backing_format, backing_anywhere: true });
            let named = if backing.is_some() { Format::Qcow2 } else { named_format(file) };
            let format = format.unwrap_or(named);
            tool::create(file, &New { format, size: *size, cluster_size: *cluster_size, backing, force: *force })?;
            let made = Source { path: file.clone(), format: Some(format), backing_anywhere: true };
            result(&made, common.json, &format!("made {}", file.display()))
        }
        DiskCommand::Info { image, common } => {
            let info = tool::info(&image.source(common))?;
            if common.json {
                print_json(&info)
            } else {
                print_info(&info)
            }
            Ok(0)
        }
        DiskCommand::Check { image, repair, common } => {
            let check = tool::check(&image.source(common), *repair)?;
            if common.json {
                print_json(&check);
            } else {
                let mut lines = check.messages.clone();
                for (n, what) in [
                    (check.corruptions, "contradictions; do not use it before they are mended with --repair"),
                    (check.leaks, "lost clusters; they do no harm, and --repair gives them back"),
                    (check.corruptions_fixed, "contradictions mended"),
                    (check.leaks_fixed, "lost clusters given back"),
                ] {
                    if n > 0 {
                        lines.push(format!("{n} {what}"));
                    }
                }
                if check.corruptions + check.leaks == 0 {
                    lines.push(format!("{} is sound", image.file.display()));
                }
                lines.push(format!("{} of {} clusters are in the image", check.allocated_clusters, check.total_clusters));
                print(&lines.join("\n"));
            }
            Ok(if check.corruptions + check.leaks == 0 { 0 } else { UNSOUND })
        }
        DiskCommand::Convert { image, to, to_format, snapshot, force, common } => {
            let format = to_format.unwrap_or(named_format(to));
            let mut meter = Meter::new();
            let mut progress = |done, total| meter.show(done, total);
            tool::convert(&image.source(common), snapshot.as_deref(), to, format, *force, &mut progress)?;
            drop(meter);
            let made = Source { path: to.clone(), format: Some(format), backing_anywhere: false };
            result(&made, common.json, &format!("made {}", to.display()))
        }
        DiskCommand::Commit { image, common } => {
            let source = image.source(common);
            let mut meter = Meter::new();
            let below = tool::commit(&source, &mut |done, total| meter.show(done, total))?;
            drop(meter);
            result(&source, common.json, &format!("written to {}", below.display()))
        }
        DiskCommand::Resize { image, size, shrink, common } => {
            let source = image.source(common);
            let size = tool::resize(&source, *size, *shrink)?;
            result(&source, common.json, &format!("{} is of {} now", image.file.display(), human(size)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(bytes("65536"), Ok(65536));
        assert_eq!((bytes("64K"), bytes("1.5G"), bytes("2t")), (Ok(64 << 10), Ok(3 << 29), Ok(2 << 40)));
        for bad in ["", "K", "1X", "-1", "99999999T", ".5G", "1.xG"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!((change("+1K"), change("-1K"), change("1K")), (Ok(Size::Grow(1024)), Ok(Size::Shrink(1024)), Ok(Size::To(1024))));
    }

    #[test]
    fn sizes_in_words() {
        assert_eq!(human(512), "512 bytes");
        assert_eq!(human(10 << 30), "10 GiB (10737418240 bytes)");
        assert_eq!(human(1536), "1.5 KiB (1536 bytes)");
    }
}
