//! The monitor (`Ctrl-A c`): looks at the machine while it stands still.

use softmetal_bus::Input;

use crate::board::chips::id;
use crate::crash;
use crate::host::terminal;
use crate::machine::{InputEvent, Machine};
use crate::session::End;

/// What the monitor wants after a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// The next command.
    Prompt,
    /// The guest runs on.
    Continue,
    /// The run ends.
    End(End),
}

const HELP: &str = "\
continue (c)          let the guest run on
info registers (r)    the processor's registers and the code at RIP
info status           instructions and virtual time
memory ADDR [BYTES]   memory at a linear address
powerdown             press the power button
reset                 reset the machine
quit (q)              end the run";

/// Carries out a command.
pub fn command(machine: &mut Machine, line: &str) -> Next {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [] => {}
        ["c" | "cont" | "continue"] => return Next::Continue,
        ["q" | "quit" | "exit"] => return Next::End(End::Quit),
        ["r"] | ["info" | "i", "registers" | "r"] => {
            let p = machine.processor_mut();
            let text = crash::registers(p) + &crash::disassembly(p, 5);
            terminal::say(&text);
        }
        ["info" | "i", "status" | "s"] => {
            let (count, now) = (machine.icount(), machine.now().0 as f64 / 1e9);
            terminal::say(&format!("{count} instructions, {now:.6} s of virtual time"));
        }
        ["memory" | "x", address] => memory(machine, address, "64"),
        ["memory" | "x", address, count] => memory(machine, address, count),
        ["powerdown"] => {
            machine.apply(InputEvent::Device(id::PM, Input::PowerButton));
            return Next::Continue;
        }
        ["reset"] => {
            machine.apply(InputEvent::Reset);
            return Next::Continue;
        }
        ["help" | "h" | "?"] => terminal::say(HELP),
        _ => terminal::say(&format!("there is no command `{line}`; `help` lists them")),
    }
    Next::Prompt
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn memory(machine: &mut Machine, address: &str, count: &str) {
    let (Some(address), Some(count)) = (number(address), number(count)) else {
        terminal::say("memory wants numbers, like: memory 0x7c00 64");
        return;
    };
    let mut bytes = [0; 16];
    for at in (0..count.min(4096)).step_by(16) {
        let line = address.wrapping_add(at);
        if machine.processor_mut().cpu.debug_read(line, &mut bytes) {
            let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
            let text: String = bytes.iter().map(|&b| if (0x20..0x7f).contains(&b) { char::from(b) } else { '.' }).collect();
            terminal::say(&format!("{line:016x}: {}  {text}", hex.join(" ")));
        } else {
            terminal::say(&format!("{line:016x}: not mapped"));
        }
    }
}
