//! The built command, as all tests run it.

use std::process::{Command, Stdio};

/// With `SOFTMETAL_ENGINE` set, every guest runs with that engine, except where a test asks for one itself.
const WITH_ENGINE: &str = "\
case \" $* \" in
*' --engine '*) exec \"$0\" \"$@\" ;;
' run '* | ' test '*) command=$1; shift; exec \"$0\" \"$command\" --engine \"$SOFTMETAL_ENGINE\" \"$@\" ;;
*) exec \"$0\" \"$@\" ;;
esac";

/// A command line of it, to which arguments can be added. It reads no input.
pub fn command() -> Command {
    let binary = env!("CARGO_BIN_EXE_softmetal");
    let mut command = if std::env::var_os("SOFTMETAL_ENGINE").is_some() {
        let mut shell = Command::new("sh");
        shell.args(["-c", WITH_ENGINE, binary]);
        shell
    } else {
        Command::new(binary)
    };
    command.stdin(Stdio::null());
    command
}
