//! Times the same programs natively, in Softmetal and in QEMU (TCG), on this host, in one go.
//!
//! `cargo run --release -p softmetal-benches --bin compare -- --scale 0.1` runs guestbench; with `--workloads` it is a
//! distribution's programs at their usual work, and a boot of a whole Debian.
//!
//! A guest's clock is virtual, so all times are the host's, taken as each line of the guest's serial port arrives: the
//! guest prints a marker before each program and the program prints its checksum after it. A time is only shown if its
//! checksum equals the native one.

#![forbid(unsafe_code)]

mod guest;
mod report;
mod watch;
mod workloads;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use report::{Report, Subject};

/// Times the same programs natively, in Softmetal and in QEMU
#[derive(Parser)]
struct Args {
    /// How much work each program does; 1 takes a few seconds natively
    #[arg(long, default_value_t = 0.25)]
    scale: f64,
    /// Run a distribution's programs (sqlite3, openssl, python3, gcc, xz) and boot a Debian disk, instead of guestbench
    #[arg(long)]
    workloads: bool,
    /// Only these programs, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    kernels: Vec<String>,
    /// Do not run QEMU
    #[arg(long)]
    skip_qemu: bool,
    /// How often each is run; the medians are shown
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Also write the figures to this file
    #[arg(long, value_name = "F")]
    json: Option<PathBuf>,
    /// The softmetal program [default: built now from this workspace]
    #[arg(long, value_name = "F")]
    softmetal: Option<PathBuf>,
    /// More options for "softmetal test", such as --engine
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true, default_value = "")]
    softmetal_options: String,
    /// Give up on one run after this many seconds
    #[arg(long, default_value_t = 1800)]
    timeout: u64,
    /// Do not fetch a kernel; use what an earlier run fetched
    #[arg(long)]
    offline: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("compare: {e:#}");
            ExitCode::from(2)
        }
    }
}

/// True if everything ran and all checksums agree.
fn run(args: &Args) -> Result<bool> {
    let work = tempfile::tempdir()?;
    let timeout = Duration::from_secs(args.timeout);
    let mut native = Subject::new("native", format!("gcc -O2 on {}", report::processor()));
    let mut kernels = if args.workloads { workloads::select(&args.kernels)? } else { guest::select(&args.kernels)? };
    let mut disk = None;
    let images = if args.workloads {
        if kernels.last().is_some_and(|k| k == workloads::DEBIAN) {
            kernels.pop();
            disk = Some(workloads::debian(args.offline)?);
        }
        let (images, script) = workloads::prepare(work.path(), &kernels, args.scale, args.offline)?;
        for _ in 0..args.runs {
            workloads::run_natively(&script, timeout, &mut native)?;
        }
        images
    } else {
        let program = guest::compile(work.path())?;
        for kernel in kernels.iter().filter(|_| guest::RUNS_NATIVELY) {
            eprintln!("native: {kernel}");
            for _ in 0..args.runs {
                guest::run_natively(&program, kernel, args.scale, &mut native)?;
            }
        }
        guest::images(&program, work.path(), &kernels, args.scale, args.offline)?
    };

    let mut subjects = Vec::new();
    if args.workloads || guest::RUNS_NATIVELY {
        subjects.push(native);
    }
    let run = Run { images, disk, runs: args.runs, timeout };
    for emulator in [Some(softmetal(args)?), qemu(args)].into_iter().flatten() {
        subjects.push(emulate(&emulator, &run));
    }

    let report = Report::new(args.scale, kernels, subjects);
    print!("{}", report.markdown());
    if let Some(path) = &args.json {
        std::fs::write(path, report.json()?).with_context(|| path.display().to_string())?;
    }
    for line in report.complaints() {
        eprintln!("compare: {line}");
    }
    Ok(report.complaints().is_empty())
}

/// What each emulator does.
struct Run {
    images: guest::Images,
    /// A disk that is booted to its prompt.
    disk: Option<PathBuf>,
    runs: u32,
    timeout: Duration,
}

/// One of those that are compared.
struct Emulator {
    name: &'static str,
    version: String,
    program: PathBuf,
    /// What goes before all else.
    options: Vec<String>,
    /// The option for the size of the RAM.
    memory: &'static str,
    /// Options that boot a Linux kernel.
    kernel: [&'static str; 3],
    /// Options that boot a disk, whose path stands for `{}`, without changing it.
    disk: [&'static str; 2],
}

impl Emulator {
    fn command(&self, memory: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.options).args([self.memory, memory]);
        command
    }

    fn boot(&self, images: &guest::Images, initrd: &Path) -> Command {
        let mut command = self.command(images.memory);
        for (option, value) in self.kernel.iter().zip([images.kernel.as_os_str(), initrd.as_os_str(), guest::CMDLINE.as_ref()]) {
            command.arg(option).arg(value);
        }
        command
    }

    fn boot_disk(&self, disk: &Path) -> Command {
        let mut command = self.command("1G");
        command.args(self.disk.map(|option| option.replace("{}", &disk.display().to_string())));
        command
    }
}

/// Boots the guests `runs` times each.
fn emulate(emulator: &Emulator, run: &Run) -> Subject {
    let name = emulator.name;
    let mut subject = Subject::new(name, emulator.version.clone());
    for _ in 0..run.runs {
        for (what, initrd) in &run.images.runs {
            eprintln!("{name}: {what}");
            let result = watch::watch(emulator.boot(&run.images, initrd), run.timeout, |line| {
                if let Some(program) = line.strip_prefix("START ") {
                    eprintln!("{name}: {program}");
                }
                false
            });
            let Some(result) = noted(what, result, &mut subject) else { continue };
            if *what == guest::BOOT {
                subject.boot.push(result.wall);
                subject.boot_rss = subject.boot_rss.max(result.peak_rss);
                subject.ready.extend(result.lines.iter().find(|(_, l)| l.starts_with("GUEST-READY")).map(|l| l.0));
            }
            subject.peak_rss = subject.peak_rss.max(result.peak_rss);
            guest::collect(&result.lines, &mut subject);
        }
        if let Some(disk) = &run.disk {
            eprintln!("{name}: {}", workloads::DEBIAN);
            let prompt = |line: &str| line.contains(workloads::DEBIAN_PROMPT);
            let result = watch::watch(emulator.boot_disk(disk), run.timeout, prompt);
            let Some(result) = noted(workloads::DEBIAN, result, &mut subject) else { continue };
            match result.lines.iter().find(|(_, line)| prompt(line)) {
                Some((at, _)) => subject.prompt.push(*at),
                None => subject.failures.push(format!("{name}, {}: {}", workloads::DEBIAN, result.last_words())),
            }
        }
    }
    subject
}

/// A run that has come to some end; what went wrong with it goes to the subject's failures.
fn noted(what: &str, result: Result<watch::Run>, subject: &mut Subject) -> Option<watch::Run> {
    let why = match &result {
        Ok(run) if run.ended_well => None,
        Ok(run) => Some(run.last_words()),
        Err(e) => Some(format!("{e:#}")),
    };
    subject.failures.extend(why.map(|why| format!("{}, {what}: {why}", subject.name)));
    result.ok()
}

/// QEMU, if it is there and wanted.
fn qemu(args: &Args) -> Option<Emulator> {
    if args.skip_qemu {
        return None;
    }
    let program = "qemu-system-x86_64";
    let Some(version) = first_line(Command::new(program).arg("--version")) else {
        eprintln!(
            "compare: no {program} here, so it is left out; install it with testroms/setup-peers.sh \
             or your system's own means, or pass --skip-qemu"
        );
        return None;
    };
    let options = "-accel tcg -cpu max -smp 1 -no-reboot -nic none -display none -monitor none -serial stdio";
    Some(Emulator {
        name: "qemu",
        version,
        program: program.into(),
        options: options.split(' ').map(str::to_string).collect(),
        memory: "-m",
        kernel: ["-kernel", "-initrd", "-append"],
        disk: ["-drive", "file={},format=raw,snapshot=on,if=virtio"],
    })
}

/// The program under test.
fn softmetal(args: &Args) -> Result<Emulator> {
    let program = softmetal_program(args)?;
    let version = first_line(Command::new(&program).arg("--version")).unwrap_or_default();
    let mut options = vec!["test".to_string(), "--timeout".into(), args.timeout.to_string()];
    if args.workloads {
        // The libraries choose by what the processor has, and the other emulator's has all that it can do.
        options.extend(["--cpu".into(), "max".into()]);
    }
    options.extend(args.softmetal_options.split_whitespace().map(str::to_string));
    Ok(Emulator {
        name: "softmetal",
        version: format!("{version} {}", args.softmetal_options),
        program,
        options,
        memory: "--memory",
        kernel: ["--kernel", "--initrd", "--append"],
        disk: ["--disk", "{},snapshot"],
    })
}

/// The one given, or the one that this workspace builds.
fn softmetal_program(args: &Args) -> Result<PathBuf> {
    if let Some(path) = &args.softmetal {
        return Ok(path.clone());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "-p", "softmetal", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
        .status();
    if !status.is_ok_and(|s| s.success()) {
        bail!("softmetal does not build; pass one that is built with --softmetal");
    }
    let beside = std::env::current_exe()?.with_file_name("softmetal");
    if !beside.exists() {
        bail!("{} is not there; run this with cargo run --release, or pass --softmetal", beside.display());
    }
    Ok(beside)
}

/// The first line that a command prints, if it runs.
fn first_line(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok().filter(|o| o.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_string)
}

/// Samples by the name of the program.
type Samples = BTreeMap<String, Vec<Sample>>;

/// One timing.
#[derive(Clone, Debug)]
struct Sample {
    seconds: f64,
    checksum: String,
}
