//! A user at a terminal: a real pseudo-terminal, keys typed as they come.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use regex::Regex;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OutputModes, tcgetattr};

use crate::boot::sha256;
use crate::{disk, images, softmetal};

/// The longest that anything may take; nothing should come near it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A terminal with `softmetal` in it.
struct Terminal {
    child: Child,
    master: File,
    slave: OwnedFd,
    output: Receiver<Vec<u8>>,
    /// All that appeared.
    seen: String,
    /// How much of it has been waited for.
    read: usize,
}

impl Terminal {
    fn start(args: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = rustix::fs::open(name, rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY, rustix::fs::Mode::empty()).unwrap();
        let end = || slave.try_clone().unwrap();
        let child = softmetal().args(args).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let master = File::from(master);
        let mut reader = master.try_clone().unwrap();
        let (tx, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if tx.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { child, master, slave, output, seen: String::new(), read: 0 }
    }

    /// Whether the terminal is as a shell leaves it: it edits lines and makes its own carriage returns.
    fn is_cooked(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap();
        modes.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
            && modes.output_modes.contains(OutputModes::OPOST)
    }

    fn keys(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for `pattern`; what came until then.
    fn expect(&mut self, pattern: &str) -> String {
        let regex = Regex::new(pattern).unwrap();
        let started = Instant::now();
        loop {
            if let Some(found) = regex.find(&self.seen[self.read..]) {
                let end = self.read + found.end();
                let text = self.seen[self.read..end].to_string();
                self.read = end;
                return text;
            }
            self.more(started, pattern);
        }
    }

    fn more(&mut self, started: Instant, what: &str) {
        match self.output.recv_timeout(PATIENCE.saturating_sub(started.elapsed())) {
            Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
            Err(RecvTimeoutError::Timeout) => panic!("no {what} within {PATIENCE:?}:\n{}", self.seen),
            Err(RecvTimeoutError::Disconnected) => panic!("ended without {what}:\n{}", self.seen),
        }
    }

    /// Types a command line; what it printed until the next prompt.
    fn command(&mut self, line: &str) -> String {
        self.keys(&format!("{line}\n"));
        // The echo of the line itself.
        self.expect("\n");
        self.expect("guest# ")
    }

    /// The exit code.
    fn end(&mut self) -> Option<i32> {
        let code = self.child.wait().unwrap().code();
        assert!(self.is_cooked(), "the terminal is left raw");
        code
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A test that failed leaves no guest behind; one that ended well has nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first figure of the line of /proc/interrupts that ends with `name` or starts with it.
fn interrupts(table: &str, name: &str) -> u64 {
    let line = table.lines().map(str::trim).find(|l| l.ends_with(name) || l.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in:\n{table}"));
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_session_with_linux() {
    if images("busybox").is_none() {
        return;
    }
    let (_dir, path, bytes) = disk(8 << 20);
    let mut terminal = Terminal::start(&["run", "busybox", "--memory", "256M", "--disk", path.to_str().unwrap()]);
    terminal.expect("guest# ");
    assert!(!terminal.is_cooked(), "keys go to the guest as they come");
    let name = terminal.command("uname -a");
    assert!(name.starts_with("Linux ") && name.contains("x86_64"), "{name}");

    let before = terminal.command("cat /proc/interrupts");
    terminal.command("sleep 1");
    let after = terminal.command("cat /proc/interrupts");
    for source in ["LOC:", "ttyS0"] {
        let (before, after) = (interrupts(&before, source), interrupts(&after, source));
        assert!(after > before + 5, "{source} went from {before} to {after}");
    }

    // From the disk, and to it.
    let sum = terminal.command("dd if=/dev/vda bs=1M count=4 2>/dev/null | sha256sum");
    assert!(sum.contains(&sha256(&bytes[..4 << 20])), "{sum}");
    let copied = terminal
        .command("dd if=/dev/urandom of=/tmp/r bs=64k count=20; dd if=/tmp/r of=/dev/vda bs=64k seek=64 conv=fsync; sha256sum /tmp/r");
    let sum = Regex::new("(?m)^[0-9a-f]{64}").unwrap().find(&copied).unwrap().as_str();
    // conv=fsync: it is on the host's disk now, while the guest still runs.
    let now = std::fs::read(&path).unwrap();
    assert_eq!(sha256(&now[4 << 20..][..20 << 16]), sum);

    // Ctrl-C is the guest's. What says that it has started is what is interrupted: between two commands the shell may lose it.
    terminal.keys("sh -c 'echo started; exec sleep 1000'\n");
    terminal.expect("\nstarted");
    terminal.keys("\x03");
    terminal.expect("guest# ");
    assert!(terminal.command("echo code=$?").contains("code=130"));

    // The shell can be left: another one comes.
    terminal.keys("exit\n");
    terminal.expect("guest# ");
    terminal.keys("poweroff\n");
    assert_eq!(terminal.end(), Some(0));
    let end = std::fs::read(&path).unwrap();
    assert_eq!(end.len(), bytes.len());
    assert!(end[..4 << 20] == bytes[..4 << 20], "what was only read is unchanged");
    assert!(end == now);
}

#[test]
fn the_keys_behind_ctrl_a() {
    let mut terminal = Terminal::start(&["run"]);
    terminal.expect("> ");
    terminal.keys("a\x01h");
    terminal.expect("Ctrl-A x +quit");
    terminal.keys("\x01a");
    terminal.expect("\\^A");
    terminal.keys("\x01c");
    terminal.expect("\\(softmetal\\) ");
    assert!(terminal.is_cooked(), "the monitor edits lines");
    terminal.keys("help\n");
    terminal.expect("\\(softmetal\\) ");
    terminal.keys("continue\n");
    let started = Instant::now();
    while terminal.is_cooked() {
        assert!(started.elapsed() < PATIENCE, "the terminal is not made raw again");
        std::thread::sleep(Duration::from_millis(5));
    }
    terminal.keys("b");
    terminal.expect("b");
    terminal.keys("\x01x");
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn a_signal_restores_the_terminal() {
    let mut terminal = Terminal::start(&["run"]);
    terminal.expect("> ");
    assert!(!terminal.is_cooked());
    rustix::process::kill_process(rustix::process::Pid::from_child(&terminal.child), rustix::process::Signal::TERM).unwrap();
    assert_eq!(terminal.end(), Some(143));
}
