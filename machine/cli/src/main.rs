//! The `softmetal` command.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use softmetal_machine::UserError;
use softmetal_machine::board::Plugs;
use softmetal_machine::machine::{Config, Images, Machine, Turn};

/// An x86-64 PC made of software.
#[derive(Parser)]
#[command(name = "softmetal", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boots a kernel on the virtual clock; its serial output goes to stdout
    Run(Run),
}

#[derive(clap::Args)]
struct Run {
    /// A bzImage, a PVH or multiboot ELF, or a boot sector
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// The initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT", default_value = "")]
    append: String,
    /// RAM in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(16..=65536))]
    memory: u64,
}

fn read(what: &str, path: &Path) -> Result<Vec<u8>, UserError> {
    std::fs::read(path).map_err(|e| UserError::file(what, path, &e))
}

fn run(args: &Run) -> Result<u8, UserError> {
    let images = Images {
        kernel: read("kernel", &args.kernel)?,
        initrd: args.initrd.as_deref().map(|p| read("initrd", p)).transpose()?,
        cmdline: args.append.clone(),
    };
    let plugs = Plugs { disks: Vec::new(), console: false, rtc: 1_767_225_600, seed: 0 };
    let mut machine = Machine::new(Config { memory: args.memory << 20, model: Default::default(), plugs, images })?;
    let mut stdout = std::io::stdout().lock();
    loop {
        let limit = machine.icount() + 1_000_000;
        let turn = machine.turn(limit);
        for (_, bytes) in machine.take_output() {
            if stdout.write_all(&bytes).and_then(|()| stdout.flush()).is_err() {
                return Ok(141);
            }
        }
        match turn {
            Turn::Idle(Some(time)) => machine.jump(time),
            Turn::Request(softmetal_bus::Request::PowerOff) => return Ok(0),
            Turn::Request(softmetal_bus::Request::DebugExit(v)) => return Ok((v << 1) as u8 | 1),
            Turn::Request(softmetal_bus::Request::Reset) => machine.reset(),
            Turn::Shutdown | Turn::Dead | Turn::Idle(None) => {
                eprintln!("softmetal: the guest stopped for good ({turn:?}) at {:#x}", machine.processor().cpu.state.rip);
                for (rip, e) in machine.processor().exception_chain() {
                    eprintln!("  exception {} (error {:x?}, address {:#x}) at {rip:#x}", e.vector, e.error, e.address);
                }
                return Ok(3);
            }
            Turn::Limit | Turn::Ran | Turn::Request(_) | Turn::Breakpoint => {}
        }
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let Command::Run(args) = Cli::parse().command;
    match run(&args) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("softmetal: {e}");
            ExitCode::from(2)
        }
    }
}
