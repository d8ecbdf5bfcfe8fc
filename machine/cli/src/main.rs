//! The `softmetal` command.
#![forbid(unsafe_code)]

mod catalog;
mod disk;
mod doctor;
mod errors;
mod firmware;
mod images;
mod options;
mod start;
mod values;

use std::io::Write;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory};
use softmetal_machine::UserError;
use softmetal_machine::host::terminal;

use options::{Cli, Command};
use start::Purpose;
use values::LogFilter;

/// Log lines go to stderr, right on a raw terminal too.
fn log_to_stderr(filters: &[LogFilter]) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(log::LevelFilter::Warn);
    for filter in filters {
        builder.filter(filter.target.as_deref(), filter.level);
    }
    builder.format(|out, record| {
        let end = if terminal::is_raw() { "\r\n" } else { "\n" };
        write!(out, "softmetal: {} {}: {}{end}", record.level().as_str().to_lowercase(), record.target(), record.args())
    });
    builder.init();
}

fn carry_out(command: &Command, matches: &ArgMatches) -> Result<u8, UserError> {
    match command {
        Command::Run(args) => {
            log_to_stderr(&args.machine.log);
            start::start(&args.machine, matches, &Purpose { test: false, success_code: None })
        }
        Command::Test(args) => {
            log_to_stderr(&args.machine.log);
            start::start(&args.machine, matches, &Purpose { test: true, success_code: args.success_code })
        }
        Command::Disk(command) => {
            log_to_stderr(&[]);
            disk::disk(command)
        }
        Command::Catalog(args) => {
            log_to_stderr(&[]);
            catalog::catalog(args).map(|()| 0)
        }
        Command::Doctor { cpu } => {
            if *cpu {
                doctor::processors()
            } else {
                doctor::doctor()
            }
            Ok(0)
        }
    }
}

fn main() -> ExitCode {
    let parsed = Cli::command().try_get_matches().and_then(|m| options::command(&m).map(|c| (m, c)));
    let (matches, command) = match parsed {
        Ok(parsed) => parsed,
        Err(e) if e.exit_code() == 0 || e.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // Help or the version; a closed stdout is the reader's wish.
            let _ = e.print();
            return ExitCode::from(e.exit_code() as u8);
        }
        Err(e) => {
            terminal::say(&format!("softmetal: {}", errors::sentence(&e, std::env::args_os().skip(1))));
            return ExitCode::from(2);
        }
    };
    let arguments = matches.subcommand().map_or(&matches, |(_, sub)| sub);
    match carry_out(&command, arguments) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            terminal::say(&format!("softmetal: {e}"));
            ExitCode::from(2)
        }
    }
}
