//! The script of `softmetal test`: what the serial port must say, must not say, and is told.

use std::collections::VecDeque;

use regex::bytes::{Regex, RegexBuilder};

use crate::media::{DriveName, MediumEvent};

/// One step, in the order of the command line.
#[derive(Clone, Debug)]
pub enum Step {
    /// Wait until the output after the previous match matches.
    Expect(Regex),
    /// Wait until the text on the screen matches.
    ScreenExpect(Regex),
    /// Type bytes at the serial port.
    Send(Vec<u8>),
    /// Press and release keys: for each one, or for keys held together, the scan codes (set 1).
    Keys(Vec<Vec<u8>>),
    /// Change a medium.
    Medium(DriveName, MediumEvent),
}

/// Compiles a pattern: `^` and `$` match at lines, which may end in CR LF.
///
/// # Errors
/// A sentence when it is no regular expression.
pub fn pattern(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text).multi_line(true).crlf(true).build().map_err(|e| {
        let why = e.to_string();
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_string();
        format!("`{text}` is not a regular expression: {why}")
    })
}

/// The bytes of a text to be typed: as written, with the escapes `\n \r \t \e \0 \\ \xHH`. No newline is added.
///
/// # Errors
/// A sentence when an escape is unknown.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        out.push(match chars.next() {
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some('e') => 0x1b,
            Some('0') => 0,
            Some('\\') => b'\\',
            Some('x') => {
                let hex: String = chars.by_ref().take(2).collect();
                match u8::from_str_radix(&hex, 16) {
                    Ok(b) if hex.len() == 2 => b,
                    _ => {
                        return Err(format!("`\\x{hex}` needs two hexadecimal digits, like \\x03"));
                    }
                }
            }
            other => {
                let it = other.map(String::from).unwrap_or_default();
                return Err(format!("`\\{it}` is unknown; there are \\n \\r \\t \\e \\0 \\\\ \\xHH"));
            }
        });
    }
    Ok(out)
}

/// Where a script stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Steps remain (or there never were any).
    Open,
    /// All steps are done, and the last one was an expectation. (After a last [`Step::Send`] it is for the guest to act.)
    Passed,
    /// A forbidden text appeared.
    Forbidden {
        /// The pattern.
        pattern: String,
        /// What it matched.
        text: String,
    },
}

/// Output that is kept for patterns that match across turns.
const WINDOW: usize = 64 << 10;

/// A script being carried out. A pure function of the output and of where it was cut into turns.
#[derive(Clone, Debug)]
pub struct Script {
    steps: VecDeque<Step>,
    forbidden: Vec<Regex>,
    ends_in_expect: bool,
    /// Output since the last match.
    window: Vec<u8>,
    /// Output for the forbidden patterns.
    guard: Vec<u8>,
    /// What is to be typed at the keyboard.
    keys: Vec<Vec<u8>>,
    /// What is to be done to drives.
    media: Vec<(DriveName, MediumEvent)>,
}

impl Script {
    /// A script of `steps` with `forbidden` patterns.
    #[must_use]
    pub fn new(steps: Vec<Step>, forbidden: Vec<Regex>) -> Self {
        let ends_in_expect = matches!(steps.last(), Some(Step::Expect(_) | Step::ScreenExpect(_)));
        Self { steps: steps.into(), forbidden, ends_in_expect, window: Vec::new(), guard: Vec::new(), keys: Vec::new(), media: Vec::new() }
    }

    /// The pattern that is waited for.
    #[must_use]
    pub fn awaited(&self) -> Option<&str> {
        self.steps.iter().find_map(|s| match s {
            Step::Expect(re) | Step::ScreenExpect(re) => Some(re.as_str()),
            Step::Send(_) | Step::Keys(_) | Step::Medium(..) => None,
        })
    }

    /// Whether the text on the screen is waited for.
    #[must_use]
    pub fn awaits_screen(&self) -> bool {
        matches!(self.steps.front(), Some(Step::ScreenExpect(_)))
    }

    /// Shows the text on the screen. True if that is what was waited for: [`Script::feed`] goes on then. The end of a line
    /// matches with a space as well as without one: nobody sees the difference.
    pub fn show(&mut self, text: &str) -> bool {
        let met = match self.steps.front() {
            Some(Step::ScreenExpect(re)) => re.is_match(text.as_bytes()) || re.is_match(text.replace('\n', " \n").as_bytes()),
            _ => false,
        };
        if met {
            self.steps.pop_front();
        }
        met
    }

    /// What is to be typed at the keyboard now.
    pub fn take_keys(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.keys)
    }

    /// What is to be done to drives now.
    pub fn take_media(&mut self) -> Vec<(DriveName, MediumEvent)> {
        std::mem::take(&mut self.media)
    }

    /// Takes in new output; what is to be typed now is appended to `send`.
    pub fn feed(&mut self, output: &[u8], send: &mut Vec<u8>) -> Verdict {
        self.guard.extend_from_slice(output);
        self.window.extend_from_slice(output);
        // Both buffers end at the same byte of output, so places are compared as distances from the end.
        let mut left = self.window.len();
        while let Some(step) = self.steps.front() {
            match step {
                Step::Expect(re) => {
                    let Some(m) = re.find(&self.window) else {
                        break;
                    };
                    let end = m.end();
                    self.window.drain(..end);
                    left = self.window.len();
                }
                Step::ScreenExpect(_) => break,
                Step::Send(bytes) => send.extend_from_slice(bytes),
                Step::Keys(keys) => self.keys.extend_from_slice(keys),
                Step::Medium(drive, event) => self.media.push((*drive, event.clone())),
            }
            self.steps.pop_front();
        }
        let passed = self.ends_in_expect && self.steps.is_empty();
        let hit = self.forbidden.iter().filter_map(|re| re.find(&self.guard).map(|m| (re, m))).min_by_key(|(_, m)| m.end());
        if let Some((re, m)) = hit {
            if !passed || self.guard.len() - m.end() >= left {
                return Verdict::Forbidden { pattern: re.as_str().to_string(), text: String::from_utf8_lossy(m.as_bytes()).into_owned() };
            }
        }
        for buffer in [&mut self.window, &mut self.guard] {
            if buffer.len() > 2 * WINDOW {
                let extra = buffer.len() - WINDOW;
                buffer.drain(..extra);
            }
        }
        if passed { Verdict::Passed } else { Verdict::Open }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(p: &str) -> Step {
        Step::Expect(pattern(p).unwrap())
    }

    #[test]
    fn steps_in_order_across_pieces() {
        let mut s = Script::new(vec![expect("^login: $"), Step::Send(b"root\n".to_vec()), expect("# ")], vec![]);
        let mut send = Vec::new();
        assert_eq!(s.feed(b"# boot\r\nlog", &mut send), Verdict::Open);
        assert!(send.is_empty());
        assert_eq!(s.feed(b"in: ", &mut send), Verdict::Open);
        assert_eq!(send, b"root\n");
        assert_eq!(s.awaited(), Some("# "));
        assert_eq!(s.feed(b"\r\n# ", &mut send), Verdict::Passed);
    }

    #[test]
    fn forbidden_counts_only_before_the_end() {
        let bad = || vec![pattern("panic").unwrap()];
        let mut s = Script::new(vec![expect("done")], bad());
        assert_eq!(s.feed(b"done, then panic", &mut Vec::new()), Verdict::Passed);
        let mut s = Script::new(vec![expect("done")], bad());
        assert!(matches!(s.feed(b"a panic, then done", &mut Vec::new()), Verdict::Forbidden { .. }));
        let mut s = Script::new(vec![], bad());
        assert_eq!(s.feed(b"pan", &mut Vec::new()), Verdict::Open);
        assert!(matches!(s.feed(b"ic", &mut Vec::new()), Verdict::Forbidden { .. }));
    }

    #[test]
    fn a_last_send_leaves_the_end_to_the_guest() {
        let mut s = Script::new(vec![expect("# "), Step::Send(b"poweroff\n".to_vec())], vec![pattern("Oops").unwrap()]);
        let mut send = Vec::new();
        assert_eq!(s.feed(b"# ", &mut send), Verdict::Open);
        assert_eq!((&send[..], s.awaited()), (&b"poweroff\n"[..], None));
        assert!(matches!(s.feed(b"Oops", &mut send), Verdict::Forbidden { .. }));
    }

    #[test]
    fn the_screen_the_keyboard_and_drives() {
        let eject = (DriveName::Cdrom(0), MediumEvent::Eject);
        let steps = vec![
            expect("boot"),
            Step::ScreenExpect(pattern("^menu# $").unwrap()),
            Step::Keys(vec![vec![0x2d, 0xad]]),
            Step::Medium(eject.0, eject.1.clone()),
            expect("end"),
        ];
        let mut s = Script::new(steps, vec![]);
        assert!(!s.awaits_screen() && !s.show("menu#\n"));
        assert_eq!(s.feed(b"boot end", &mut Vec::new()), Verdict::Open);
        assert!(s.awaits_screen() && !s.show("a menu#\n") && s.take_keys().is_empty());
        assert!(s.show("first\nmenu#\n"));
        assert_eq!(s.feed(b"", &mut Vec::new()), Verdict::Passed);
        assert_eq!(s.take_keys(), [[0x2d, 0xad]]);
        assert_eq!((s.take_media(), s.take_media()), (vec![eject], vec![]));
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(r"a\r\n\x03\\é").unwrap(), b"a\r\n\x03\\\xc3\xa9");
        for bad in [r"\q", r"\x1", r"\xzz", "end\\"] {
            assert!(unescape(bad).is_err(), "{bad}");
        }
    }
}
