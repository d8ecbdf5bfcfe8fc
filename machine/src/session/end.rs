//! How a session ends, and the exit code of each way.

use std::fmt;
use std::time::Duration;

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reset, and `--no-reboot` holds.
    Reset,
    /// The guest wrote to the debug-exit port.
    DebugExit(u32),
    /// The guest crashed or can do nothing any more; the report.
    Crash(String),
    /// A test's expectations are all met.
    Passed,
    /// The guest ended while a test waited for this pattern.
    Unmet(String),
    /// A forbidden pattern matched this text.
    Forbidden {
        /// The pattern.
        pattern: String,
        /// What it matched.
        text: String,
    },
    /// The host's time limit ran out; the pattern that was waited for.
    Timeout(Duration, Option<String>),
    /// The virtual time limit ran out; the pattern that was waited for.
    GuestTimeout(Duration, Option<String>),
    /// A signal ended the run.
    Signal(i32),
    /// The user quit.
    Quit,
    /// The reader of stdout has gone.
    ReaderGone,
}

impl End {
    /// The exit code of the process.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::PowerOff | Self::Reset | Self::Passed | Self::Quit => 0,
            Self::DebugExit(v) => (v << 1) as u8 | 1,
            Self::Unmet(_) | Self::Forbidden { .. } => 1,
            Self::Crash(_) => 3,
            Self::Timeout(..) | Self::GuestTimeout(..) => 124,
            Self::Signal(n) => 128_u8.wrapping_add(*n as u8),
            // As for a program that SIGPIPE ends.
            Self::ReaderGone => 141,
        }
    }

    /// Whether a test that ends so has failed through the guest, and its log is worth a look.
    #[must_use]
    pub fn failed(&self) -> bool {
        matches!(
            self,
            Self::DebugExit(_) | Self::Crash(_) | Self::Unmet(_) | Self::Forbidden { .. } | Self::Timeout(..) | Self::GuestTimeout(..)
        )
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = |f: &mut fmt::Formatter<'_>, pattern: &Option<String>| match pattern {
            Some(p) => write!(f, ", while waiting for `{p}`"),
            None => Ok(()),
        };
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest asked for a reset (--no-reboot)"),
            Self::DebugExit(v) => write!(f, "the guest wrote {v:#x} to the debug-exit port: exit code {}", self.code()),
            Self::Crash(report) => f.write_str(report.lines().next().unwrap_or_default()),
            Self::Passed => f.write_str("passed"),
            Self::Unmet(pattern) => write!(f, "the guest ended before its output matched `{pattern}`"),
            Self::Forbidden { pattern, text } => write!(f, "the forbidden pattern `{pattern}` matched `{}`", text.trim_end()),
            Self::Timeout(limit, pattern) => {
                write!(f, "the time limit of {} s ran out", limit.as_secs_f64())?;
                waiting(f, pattern)
            }
            Self::GuestTimeout(limit, pattern) => {
                write!(f, "the limit of {} s of virtual time ran out", limit.as_secs_f64())?;
                waiting(f, pattern)
            }
            Self::Signal(n) => write!(f, "ended by signal {n}"),
            Self::Quit => f.write_str("quit"),
            Self::ReaderGone => f.write_str("the reader of the serial output has gone"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        for (end, code) in [
            (End::PowerOff, 0),
            (End::DebugExit(0), 1),
            (End::DebugExit(0x10), 33),
            (End::DebugExit(0x181), 3),
            (End::Unmet(String::new()), 1),
            (End::Crash(String::new()), 3),
            (End::GuestTimeout(Duration::ZERO, None), 124),
            (End::Signal(2), 130),
            (End::Signal(15), 143),
        ] {
            assert_eq!(end.code(), code, "{end:?}");
        }
    }
}
