//! What the user is told of a wrong command line: one sentence that says what to do.

use std::ffi::OsString;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::options::Cli;
use crate::values::{did_you_mean, nearest};

/// Options that are planned and not there yet.
const PLANNED_OPTIONS: [&str; 8] = ["--net", "-p", "--pcap", "--share", "--vnc", "--record", "--snapshot-on-exit", "--trace"];
/// Commands that are planned and not there yet.
const PLANNED_COMMANDS: [&str; 3] = ["debug", "replay", "snapshot"];

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(s) => Some(s.clone()),
        ContextValue::Strings(all) => all.first().cloned(),
        _ => None,
    }
}

/// The command that `words` begin with, and its name with those of the commands that it belongs to: `softmetal disk info`.
fn command(words: impl Iterator<Item = OsString>) -> (clap::Command, String) {
    let (mut command, mut name) = (Cli::command(), String::from("softmetal"));
    for word in words {
        let Some(inner) = command.find_subcommand(&word).cloned() else { break };
        (command, name) = (inner, format!("{name} {}", word.to_string_lossy()));
    }
    (command, name)
}

/// The sentence for what is wrong with `words`, the arguments of the program.
pub fn sentence(error: &clap::Error, words: impl Iterator<Item = OsString>) -> String {
    let (command, name) = command(words);
    let argument = text(error, ContextKind::InvalidArg).unwrap_or_default();
    // "--memory <SIZE>" or "--memory=<SIZE>": only the name; "[SIZE]": the word.
    let option = argument.split([' ', '=']).next().unwrap_or_default().trim_matches(['[', ']', '<', '>', '.']);
    let help = format!("{name} --help");
    match error.kind() {
        ErrorKind::UnknownArgument if PLANNED_OPTIONS.contains(&option) => {
            format!("{option} does not work yet; {help} lists what does")
        }
        ErrorKind::UnknownArgument if option.starts_with('-') => {
            let known = command.get_arguments().filter_map(clap::Arg::get_long);
            let near = nearest(option.trim_start_matches('-'), known).map(|long| format!("--{long}"));
            format!("there is no option {option}{}", did_you_mean(near.as_deref(), &format!("see {help}")))
        }
        ErrorKind::UnknownArgument if command.get_positionals().any(|a| a.get_id() == "image") => {
            format!("`{option}` is one argument too many; give one IMAGE, and all else through options ({help})")
        }
        ErrorKind::UnknownArgument => format!("`{option}` is one argument too many; see {help}"),
        ErrorKind::InvalidSubcommand => {
            let wanted = text(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            let top = name == "softmetal";
            if top && PLANNED_COMMANDS.contains(&wanted.as_str()) {
                return format!("`softmetal {wanted}` does not work yet; {help} lists what does");
            }
            let near = nearest(&wanted, command.get_subcommands().map(clap::Command::get_name)).map(|near| format!("`{name} {near}`"));
            let otherwise = if top { format!("to boot an image: softmetal run {wanted}") } else { format!("see {help}") };
            format!("there is no command `{name} {wanted}`{}", did_you_mean(near.as_deref(), &otherwise))
        }
        ErrorKind::MissingRequiredArgument => {
            format!("{option} is missing; see {help}")
        }
        ErrorKind::ArgumentConflict if option == "--serial" => {
            "--serial is given twice; there is one serial port, and it leads to one place".into()
        }
        ErrorKind::ArgumentConflict => format!("{option} is given twice; give it once"),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let value = text(error, ContextKind::InvalidValue).unwrap_or_default();
            match (std::error::Error::source(error), error.get(ContextKind::ValidValue)) {
                (Some(source), _) => format!("{option}: {source}"),
                _ if value.is_empty() => format!("{option} needs a value; see {help}"),
                (_, Some(ContextValue::Strings(valid))) => format!("{option}: `{value}` is none of {}", valid.join(", ")),
                _ => format!("{option}: `{value}` is no value for it; see {help}"),
            }
        }
        _ => {
            let rendered = error.to_string();
            let first = rendered.split("\n\n").next().unwrap_or_default();
            first.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ")
        }
    }
}
