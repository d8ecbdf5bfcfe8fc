//! The user's terminal: raw mode, always restored, and the `Ctrl-A` keys.

use std::io::IsTerminal;
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// The settings to put back; there is one terminal a process.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode of the terminal on stdin, for as long as this lives.
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Makes stdin raw if it is a terminal; `None` if it is not.
    #[must_use]
    pub fn enter() -> Option<Self> {
        static HOOK: Once = Once::new();
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        HOOK.call_once(|| {
            let default = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                default(info);
            }));
        });
        if tcsetattr(stdin, OptionalActions::Now, &raw).is_err() {
            restore();
            return None;
        }
        Some(Self(()))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was; nothing happens if it was never raw. For every way out of the program.
pub fn restore() {
    if let Some(before) = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // Nothing can be done about a terminal that has gone.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &before);
    }
}

/// Whether the terminal is raw now, so that our own lines need a carriage return.
#[must_use]
pub fn is_raw() -> bool {
    SAVED.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// Writes lines of our own to stderr, right on a raw terminal too.
pub fn say(text: &str) {
    use std::io::Write;
    let end = if is_raw() { "\r\n" } else { "\n" };
    let mut out = String::new();
    for line in text.lines() {
        out.push_str(line);
        out.push_str(end);
    }
    // stderr may be gone; there is nobody left to tell.
    let _ = std::io::stderr().write_all(out.as_bytes());
}

/// Shows `text` in place of the last status line on stderr; an empty one takes it away.
pub fn status(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(format!("\r\x1b[K{text}").as_bytes());
}

/// Writes text to stdout, for commands whose answer that is.
pub fn print(text: &str) {
    use std::io::Write;
    // Whoever closes stdout does not want the rest.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Asks for a line on stderr.
pub fn prompt(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Whether stdin and stdout are a terminal that a user sits at.
#[must_use]
pub fn interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Whether stderr is a terminal.
#[must_use]
pub fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// What a key press means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Bytes for the serial port.
    Bytes(Vec<u8>),
    /// `Ctrl-A x`.
    Quit,
    /// `Ctrl-A c`.
    Monitor,
    /// `Ctrl-A h`.
    Help,
}

/// Tells the `Ctrl-A` keys from the bytes for the guest.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    escaped: bool,
}

impl Keys {
    /// The `Ctrl-A` byte.
    const ESCAPE: u8 = 0x01;

    /// Splits typed bytes. `Ctrl-A Ctrl-A` (or `Ctrl-A a`) sends one `Ctrl-A`; `Ctrl-A` with any other key is dropped.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Key> {
        let mut keys = Vec::new();
        let mut plain = Vec::new();
        for &b in bytes {
            if !std::mem::take(&mut self.escaped) {
                if b == Self::ESCAPE {
                    self.escaped = true;
                } else {
                    plain.push(b);
                }
                continue;
            }
            let key = match b {
                b'x' | b'X' => Key::Quit,
                b'c' | b'C' => Key::Monitor,
                b'h' | b'H' | b'?' => Key::Help,
                b'a' | Self::ESCAPE => {
                    plain.push(Self::ESCAPE);
                    continue;
                }
                _ => continue,
            };
            if !plain.is_empty() {
                keys.push(Key::Bytes(std::mem::take(&mut plain)));
            }
            keys.push(key);
        }
        if !plain.is_empty() {
            keys.push(Key::Bytes(plain));
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_keys_across_reads() {
        let mut k = Keys::default();
        assert_eq!(k.feed(b"ls\n\x01"), [Key::Bytes(b"ls\n".to_vec())]);
        assert_eq!(k.feed(b"hq"), [Key::Help, Key::Bytes(b"q".to_vec())]);
        assert_eq!(k.feed(b"\x01\x01\x01zy\x01x"), [Key::Bytes(b"\x01y".to_vec()), Key::Quit]);
    }
}
