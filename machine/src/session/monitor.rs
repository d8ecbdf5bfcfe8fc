//! The monitor (`Ctrl-A c`): looks at the machine while it stands still.

use softmetal_bus::{Drive, Input};

use crate::board::chips::id;
use crate::crash;
use crate::host::{disk, terminal};
use crate::machine::{InputEvent, Machine};
use crate::media::{DriveName, MediumEvent};
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
eject DRIVE           press the eject button of cdrom, cdrom1, floppy or floppy1
eject DRIVE force     take the medium out, even if the guest holds it
insert DRIVE FILE     put the medium FILE in
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
        ["eject", drive] => tell(eject(machine, drive, MediumEvent::Eject)),
        ["eject", drive, "force"] => tell(eject(machine, drive, MediumEvent::Remove)),
        ["insert", drive, ..] => {
            // A file's name may hold blanks.
            let file = line.trim().splitn(3, char::is_whitespace).nth(2).unwrap_or_default();
            tell(insert(machine, drive, file.trim()));
        }
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

fn tell(said: Result<String, String>) {
    terminal::say(&said.unwrap_or_else(|e| e));
}

/// The drive that is called `name`, and that there is.
fn drive(machine: &Machine, name: &str) -> Result<(DriveName, Drive), String> {
    let name: DriveName = name.parse()?;
    let missing = || format!("this machine has no drive {name}; give it one at the start, like: --cdrom none");
    machine.drive(name).map(|drive| (name, drive)).ok_or_else(missing)
}

fn eject(machine: &mut Machine, name: &str, how: MediumEvent) -> Result<String, String> {
    let (name, drive) = drive(machine, name)?;
    if drive.medium().is_none() {
        return Err(format!("there is no medium in {name}"));
    }
    machine.apply(InputEvent::Medium(name, how));
    Ok(match drive.medium() {
        None => format!("{name} is empty"),
        Some(_) => format!("the guest holds the medium and is asked for it; `eject {name} force` takes it out"),
    })
}

fn insert(machine: &mut Machine, name: &str, file: &str) -> Result<String, String> {
    let (name, drive) = drive(machine, name)?;
    if file.is_empty() {
        return Err(format!("what shall be put in? Like: insert {name} FILE"));
    }
    if drive.locked() && drive.medium().is_some() {
        return Err(format!("the guest holds the medium in {name}; `eject {name}` asks for it"));
    }
    let read_only = matches!(name, DriveName::Cdrom(_)) || machine.is_in_lockstep();
    // One that was taken out may have another file behind its name now.
    machine.forget_medium(file);
    let medium = disk::open_medium(file.as_ref(), read_only).map_err(|e| e.0)?;
    machine.offer_medium(file, &medium);
    machine.apply(InputEvent::Medium(name, MediumEvent::Insert(file.into())));
    Ok(format!("{file} is in {name}"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Plugs;
    use crate::machine::{Config, Images};

    #[test]
    fn media_are_changed() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, [name.as_bytes()[0]; 2048]).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (one, two) = (file("a disc"), file("b disc"));
        let plugs = Plugs { cdroms: vec![Drive::new()], ..Plugs::default() };
        let images = Images { kernel: [&[0xf4; 510][..], &[0x55, 0xaa]].concat().into(), ..Images::default() };
        let mut m = Machine::new(Config { memory: 16 << 20, model: Default::default(), plugs, images }).unwrap();
        let log = m.record(true);
        assert!(log.is_empty());
        let first = |m: &Machine| {
            let mut byte = [0];
            use softmetal_bus::BlockBackend;
            m.drive(DriveName::Cdrom(0)).unwrap().medium().map(|mut medium| medium.read_at(0, &mut byte).map(|()| byte[0]).unwrap())
        };
        for (line, holds) in [
            (format!("insert cdrom {one}"), Some(b'a')),
            ("eject floppy".into(), Some(b'a')),
            (format!("insert cdrom {two}"), Some(b'b')),
            ("eject cdrom".into(), None),
            ("eject cdrom".into(), None),
            ("insert cdrom".into(), None),
            ("insert cdrom no such file".into(), None),
            (format!("insert cdrom0 {two}"), Some(b'b')),
        ] {
            assert_eq!((command(&mut m, &line), first(&m)), (Next::Prompt, holds), "{line}");
        }
        // The guest holds it.
        let drive = m.drive(DriveName::Cdrom(0)).unwrap();
        drive.set_locked(true);
        for (line, holds) in
            [(format!("insert cdrom {one}"), Some(b'b')), ("eject cdrom".into(), Some(b'b')), ("eject cdrom force".into(), None)]
        {
            assert_eq!((command(&mut m, &line), first(&m)), (Next::Prompt, holds), "{line}");
        }
        assert!(drive.take_eject_request());
        // Of what was refused nothing is in the log.
        assert_eq!(m.record(false).len(), 6);
    }
}
