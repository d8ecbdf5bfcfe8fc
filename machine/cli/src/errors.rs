//! What the user is told of a wrong command line: one sentence that says what to do.

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::options::Cli;
use crate::values::{did_you_mean, nearest};

/// Options that are planned and not there yet.
const PLANNED_OPTIONS: [&str; 13] = [
    "--cdrom",
    "--floppy",
    "--boot",
    "--net",
    "-p",
    "--pcap",
    "--share",
    "--screenshot",
    "--vnc",
    "--screen-expect",
    "--record",
    "--snapshot-on-exit",
    "--trace",
];
/// Commands that are planned and not there yet.
const PLANNED_COMMANDS: [&str; 3] = ["debug", "replay", "snapshot"];

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(s) => Some(s.clone()),
        ContextValue::Strings(all) => all.first().cloned(),
        _ => None,
    }
}

/// The sentence.
pub fn sentence(error: &clap::Error, command: Option<&str>) -> String {
    let argument = text(error, ContextKind::InvalidArg).unwrap_or_default();
    // "--memory <SIZE>" or "--memory=<SIZE>": only the name.
    let option = argument.split([' ', '=']).next().unwrap_or_default();
    let help = command.map_or_else(|| "softmetal --help".into(), |c| format!("softmetal {c} --help"));
    match error.kind() {
        ErrorKind::UnknownArgument if PLANNED_OPTIONS.contains(&option) => {
            format!("{option} does not work yet; {help} lists what does")
        }
        ErrorKind::UnknownArgument if option.starts_with('-') => {
            let cli = Cli::command();
            let known: Vec<String> = command
                .and_then(|c| cli.find_subcommand(c))
                .unwrap_or(&cli)
                .get_arguments()
                .filter_map(|a| a.get_long())
                .map(|long| format!("--{long}"))
                .collect();
            let near = nearest(option, known.iter().map(String::as_str));
            format!(
                "there is no option {option}{}{}",
                did_you_mean(near),
                if near.is_none() { format!("; see {help}") } else { String::new() }
            )
        }
        ErrorKind::UnknownArgument => format!("`{option}` is one argument too many; give one IMAGE, and all else through options ({help})"),
        ErrorKind::InvalidSubcommand => {
            let name = text(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            if PLANNED_COMMANDS.contains(&name.as_str()) {
                return format!("`softmetal {name}` does not work yet; {help} lists what does");
            }
            let cli = Cli::command();
            let near = nearest(&name, cli.get_subcommands().map(clap::Command::get_name));
            match near {
                Some(near) => format!("there is no command `{name}`; did you mean `softmetal {near}`?"),
                None => format!("there is no command `{name}`; to boot an image: softmetal run {name}"),
            }
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
