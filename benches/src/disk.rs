//! Times what a Linux guest reads from and writes to a disk, behind any controller, in Softmetal and in QEMU (TCG), on this host.
//!
//! The guest is the catalogue's busybox with all drivers; the times are the host's, between two lines on the guest's serial port.

mod watch;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use softmetal_machine::host::catalog::Catalog;
use softmetal_machine::host::disk::tool::{self, New};
use softmetal_machine::host::disk::{self, DiskMode, Format};

/// Times reading and writing a disk in Softmetal and in QEMU
#[derive(Parser)]
struct Args {
    /// The softmetal program [default: that beside this one]
    #[arg(long, value_name = "F")]
    softmetal: Option<PathBuf>,
    /// More options for "softmetal test", such as --clock host
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true, default_value = "--clock host")]
    softmetal_options: String,
    /// What the disk is behind, several with commas between them
    #[arg(long, value_enum, value_delimiter = ',', default_value = "virtio,scsi,ahci,ide")]
    interface: Vec<Controller>,
    /// The image's format, raw or qcow2
    #[arg(long, default_value = "raw")]
    format: String,
    /// How often each is run; the best is shown
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Do not run QEMU
    #[arg(long)]
    skip_qemu: bool,
}

/// What a disk is behind, on the board with a 440FX.
#[derive(Clone, Copy, ValueEnum)]
enum Controller {
    Virtio,
    Scsi,
    Ahci,
    Ide,
}

impl Controller {
    /// As `if=` of a `--disk` names it.
    fn name(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::Scsi => "scsi",
            Self::Ahci => "ahci",
            Self::Ide => "ide",
        }
    }
    /// What the guest calls the disk.
    fn device(self) -> &'static str {
        if matches!(self, Self::Virtio) { "/dev/vda" } else { "/dev/sda" }
    }
    /// QEMU's options besides the drive `d`.
    fn qemu(self) -> &'static [&'static str] {
        match self {
            Self::Virtio => &["-device", "virtio-blk-pci,drive=d"],
            Self::Scsi => &["-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=d"],
            Self::Ahci => &["-device", "ahci,id=sata", "-device", "ide-hd,bus=sata.0,drive=d"],
            Self::Ide => &["-device", "ide-hd,bus=ide.0,drive=d"],
        }
    }
}

/// What the guest does with the disk `D`: a name, MiB, and its command.
const WORK: [(&str, u32, &str); 4] = [
    ("400 MiB direct read", 400, "dd if=D of=/dev/null bs=1M count=400 iflag=direct"),
    ("200 MiB direct write, then synced", 200, "dd if=/dev/zero of=D bs=1M count=200 oflag=direct conv=fsync"),
    ("200 MiB buffered write, then synced", 200, "dd if=/dev/zero of=D bs=1M count=200 conv=fsync"),
    (
        "8 MiB written, synced after each 64 KiB",
        8,
        "n=0; while [ $n -lt 128 ]; do dd if=/dev/zero of=D bs=64k seek=$n count=1 oflag=direct conv=fsync; n=$((n+1)); done",
    ),
];
/// The disk, in bytes.
const DISK: u64 = 512 << 20;
/// The catalogue's image.
const GUEST: &str = "busybox-full";
const TIMEOUT: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("disk: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let work = tempfile::tempdir()?;
    let mut progress = |step: &str| eprintln!("disk: {step}");
    let catalog = Catalog::new(false)?;
    let linux = catalog.fetch(GUEST, &mut progress)?.linux().context("the guest boots no kernel")?;
    let overlay = work.path().join("overlay");
    fs::create_dir(&overlay)?;
    let format = Format::by_name(&args.format).context("the format is raw or qcow2")?;
    let disk = work.path().join("disk.img");
    let beside = std::env::current_exe()?.with_file_name("softmetal");
    let softmetal = args.softmetal.as_ref().unwrap_or(&beside);
    ensure!(softmetal.exists(), "{} is not there; build it with cargo build --release -p softmetal", softmetal.display());
    for &controller in &args.interface {
        fs::write(overlay.join("autorun"), script(controller.device()))?;
        fs::set_permissions(overlay.join("autorun"), fs::Permissions::from_mode(0o755))?;
        let initrd = catalog.initrd_with(GUEST, &overlay, &mut progress)?;
        compare(args, controller, format, (&disk, &linux.kernel, &initrd), softmetal)?;
    }
    Ok(())
}

/// Times one controller, and prints the figures. `files`: the disk, the kernel and its initramfs.
fn compare(args: &Args, controller: Controller, format: Format, files: (&Path, &Path, &Path), softmetal: &Path) -> Result<()> {
    let (disk, kernel, initrd) = files;
    let ours = || {
        let mut command = Command::new(softmetal);
        command.arg("test").arg("--kernel").arg(kernel).arg("--initrd").arg(initrd);
        command.args(["--append", "console=ttyS0 poweroff", "--memory", "512M", "--disk"]);
        command
            .arg(format!("{},format={},if={}", disk.display(), format.name(), controller.name()))
            .args(args.softmetal_options.split_whitespace());
        command
    };
    let theirs = || {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg", "-cpu", "max", "-m", "512M", "-no-reboot", "-nic", "none", "-display", "none"]);
        command.args(["-monitor", "none", "-serial", "stdio", "-append", "console=ttyS0 poweroff"]);
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
        command.arg("-drive").arg(format!("file={},if=none,id=d,format={}", disk.display(), format.name())).args(controller.qemu());
        command
    };
    let subjects: [(_, &dyn Fn() -> Command); 2] = [("softmetal", &ours), ("qemu", &theirs)];
    let subjects = &subjects[..if args.skip_qemu { 1 } else { 2 }];
    let mut columns: Vec<_> = subjects.iter().map(|(name, _)| (*name, vec![0f64; WORK.len()], 0)).collect();
    // Alternated, because the host's pace changes.
    for _ in 0..args.runs {
        for ((_, command), (_, best, peak)) in subjects.iter().zip(&mut columns) {
            let (rates, resident) = measure(disk, format, command())?;
            best.iter_mut().zip(rates).for_each(|(best, rate)| *best = best.max(rate));
            *peak = resident.max(*peak);
        }
    }
    let head: Vec<&str> = columns.iter().map(|(name, ..)| *name).collect();
    println!(
        "| MB/s, {}, {}, best of {} | {} |\n|---|{}",
        controller.name(),
        format.name(),
        args.runs,
        head.join(" | "),
        "--:|".repeat(head.len())
    );
    for (n, (name, ..)) in WORK.iter().enumerate() {
        let rates: Vec<String> = columns.iter().map(|(_, rates, _)| format!("{:.0}", rates[n])).collect();
        println!("| {name} | {} |", rates.join(" | "));
    }
    let peaks: Vec<String> = columns.iter().map(|(_, _, peak)| format!("{}", peak >> 20)).collect();
    println!("| peak resident memory, MiB | {} |", peaks.join(" | "));
    Ok(())
}

/// The guest's script.
fn script(device: &str) -> String {
    let mut script = String::from(
        "#!/bin/sh\nmodprobe sd_mod\nwhile [ ! -b D ]; do sleep 0.1; done\n\
         dd if=D of=/dev/null bs=1M count=1 iflag=direct 2>/dev/null\necho MARK 0\n",
    );
    for (n, (_, _, command)) in WORK.iter().enumerate() {
        script += &format!("{{ {command}; }} 2>/dev/null || exit 1\necho MARK {}\n", n + 1);
    }
    script.replace("=D ", &format!("={device} ")).replace(" D ]", &format!(" {device} ]"))
}

/// For each piece of work its rate in MB/s, and the most memory, in bytes, of one run, which begins with a disk full of data.
fn measure(path: &Path, format: Format, command: Command) -> Result<(Vec<f64>, u64)> {
    tool::create(path, &New { format, size: Some(DISK), cluster_size: None, backing: None, force: true })?;
    let mut image = disk::open(path, &DiskMode::default())?;
    let data: Vec<u8> = (0..1u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for mib in 0..DISK >> 20 {
        image.write_at(mib << 20, &data)?;
    }
    image.flush()?;
    drop(image);
    let run = watch::watch(command, TIMEOUT, |_| false)?;
    ensure!(run.ended_well, "a run failed after {} s: {}", run.wall.as_secs(), run.last_words());
    let mark = |n: usize| run.lines.iter().find(|(_, line)| *line == format!("MARK {n}")).map(|(at, _)| *at);
    let rate = |(n, (name, mib, _)): (usize, &(&str, u32, &str))| {
        let (from, to) = mark(n).zip(mark(n + 1)).with_context(|| format!("the guest did not get to \"{name}\": {}", run.last_words()))?;
        Ok(f64::from(*mib) * 1.048_576 / (to - from).as_secs_f64())
    };
    Ok((WORK.iter().enumerate().map(rate).collect::<Result<_>>()?, run.peak_rss.unwrap_or(0)))
}
