//! Times the same programs natively, in Softmetal and in QEMU (TCG), on this host, in one go.
//!
//! `cargo run --release -p softmetal-benches --bin compare -- --scale 0.1`
//!
//! A guest's clock is virtual, so all times are the host's, taken as each line of the guest's serial port arrives: the
//! guest prints a marker before each program and the program prints its checksum after it. A time is only shown if its
//! checksum equals the native one.

#![forbid(unsafe_code)]

mod guest;
mod report;
mod watch;

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
    let program = guest::compile(work.path())?;
    let kernels = guest::select(&args.kernels)?;
    let images = guest::images(&program, work.path(), &kernels, args.scale, args.offline)?;
    let timeout = Duration::from_secs(args.timeout);

    let mut subjects = Vec::new();
    if guest::RUNS_NATIVELY {
        let mut subject = Subject::new("native", format!("gcc -O2 on {}", report::processor()));
        for _ in 0..args.runs {
            for kernel in &kernels {
                eprintln!("native: {kernel}");
                guest::run_natively(&program, kernel, args.scale, &mut subject)?;
            }
        }
        subjects.push(subject);
    }

    let softmetal = softmetal(args)?;
    let version = first_line(Command::new(&softmetal).arg("--version")).unwrap_or_default();
    let options: Vec<&str> = args.softmetal_options.split_whitespace().collect();
    subjects.push(emulate("softmetal", format!("{version} {}", options.join(" ")), &images, args.runs, timeout, |initrd| {
        let mut command = Command::new(&softmetal);
        command.arg("test").arg("--kernel").arg(&images.kernel).arg("--initrd").arg(initrd);
        command.args(["--append", guest::CMDLINE, "--memory", "256M"]).args(["--timeout", &args.timeout.to_string()]);
        command.args(&options);
        command
    }));

    if !args.skip_qemu {
        match first_line(Command::new("qemu-system-x86_64").arg("--version")) {
            None => eprintln!(
                "compare: no qemu-system-x86_64 here, so it is left out; install it with testroms/setup-peers.sh \
                 or your system's own means, or pass --skip-qemu"
            ),
            Some(version) => subjects.push(emulate("qemu", version, &images, args.runs, timeout, |initrd| {
                let mut command = Command::new("qemu-system-x86_64");
                command.args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "256M", "-no-reboot", "-nic", "none"]);
                command.args(["-display", "none", "-monitor", "none", "-serial", "stdio"]);
                command.arg("-kernel").arg(&images.kernel).arg("-initrd").arg(initrd).args(["-append", guest::CMDLINE]);
                command
            })),
        }
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

/// Boots the two guests `runs` times each: one that powers off at once, one that runs the programs.
fn emulate(
    name: &'static str,
    version: String,
    images: &guest::Images,
    runs: u32,
    timeout: Duration,
    command: impl Fn(&Path) -> Command,
) -> Subject {
    let mut subject = Subject::new(name, version);
    for _ in 0..runs {
        for (what, initrd) in [("boot", &images.boot), ("programs", &images.programs)] {
            eprintln!("{name}: {what}");
            let result = watch::watch(command(initrd), timeout, |line| {
                if let Some(program) = line.strip_prefix("START ") {
                    eprintln!("{name}: {program}");
                }
            });
            match result {
                Ok(run) => {
                    if what == "boot" {
                        subject.boot.push(run.wall);
                        subject.boot_rss = subject.boot_rss.max(run.peak_rss);
                        subject.ready.extend(run.lines.iter().find(|(_, l)| l.starts_with("GUEST-READY")).map(|l| l.0));
                    }
                    subject.peak_rss = subject.peak_rss.max(run.peak_rss);
                    guest::collect(&run.lines, &mut subject);
                    if !run.ended_well {
                        subject.failures.push(format!("{name}, {what}: {}", run.last_words()));
                    }
                }
                Err(e) => subject.failures.push(format!("{name}, {what}: {e:#}")),
            }
        }
    }
    subject
}

/// The program under test: the one given, or the one that this workspace builds.
fn softmetal(args: &Args) -> Result<PathBuf> {
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
