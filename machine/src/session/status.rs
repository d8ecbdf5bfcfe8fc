//! The status line: shown on a terminal until the guest first says something.

use std::time::Duration;

use crate::host::terminal;

/// How long a guest may be silent before the line appears, and how often it is renewed.
const PERIOD: Duration = Duration::from_millis(400);

/// The status line.
#[derive(Debug)]
pub struct Status {
    wanted: bool,
    shown: bool,
    next: Duration,
}

impl Status {
    /// A line for a run whose stderr is a terminal; otherwise one that never appears.
    #[must_use]
    pub fn new() -> Self {
        Self { wanted: terminal::stderr_is_terminal(), shown: false, next: PERIOD }
    }

    /// Shows the state of affairs after `wall` of host time, if it is time to.
    pub fn update(&mut self, wall: Duration, instructions: u64, virtual_ns: u64) {
        if !self.wanted || wall < self.next {
            return;
        }
        self.next = wall + PERIOD;
        self.shown = true;
        let mips = instructions as f64 / wall.as_secs_f64() / 1e6;
        terminal::status(&format!("starting: {:.1} s of virtual time, {mips:.0} MIPS", virtual_ns as f64 / 1e9));
    }

    /// Takes the line away for good.
    pub fn end(&mut self) {
        self.wanted = false;
        if std::mem::take(&mut self.shown) {
            terminal::status("");
        }
    }
}

impl Default for Status {
    fn default() -> Self {
        Self::new()
    }
}
