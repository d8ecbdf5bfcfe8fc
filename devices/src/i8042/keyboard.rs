//! The keyboard on its end of the cable (IBM PS/2 Technical Reference, "Keyboard (101- and 102-Key)").

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use softmetal_bus::Time;

use super::scancodes::{set2_of, set3_of};

/// Bytes that wait to be sent at most; what does not fit is lost.
const QUEUE: usize = 1024;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;
/// After half a second 10.9 times a second.
const TYPEMATIC: u8 = 0x2b;

/// What a key of scan code set 3 does besides its make code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Behaviour {
    /// It repeats while it is held.
    repeats: bool,
    /// Its release is told.
    releases: bool,
}

impl Behaviour {
    /// As the commands 0xF7 to 0xFA (of all keys) and 0xFB to 0xFD (of one) set it.
    fn of_command(command: u8) -> Self {
        Self { repeats: matches!(command, 0xf7 | 0xfa | 0xfb), releases: matches!(command, 0xf8 | 0xfa | 0xfc) }
    }

    /// As it is after a reset.
    fn of_key(code: u8) -> Self {
        // Control, Shift (2), Caps Lock and the left Alt.
        let releases = matches!(code, 0x11 | 0x12 | 0x14 | 0x19 | 0x59);
        // Function keys, the right Control and Alt, what is above the arrows, and the keypad without its plus.
        let makes = matches!(code, 0x07 | 0x08 | 0x0f | 0x17 | 0x1f | 0x27 | 0x2f | 0x37 | 0x39 | 0x3f | 0x47 | 0x4f)
            || matches!(code, 0x56..=0x58 | 0x5e | 0x5f | 0x62 | 0x65 | 0x67 | 0x69 | 0x6b..=0x77 | 0x79 | 0x7a | 0x7d..=0x8d);
        Self { repeats: !releases && !makes, releases }
    }
}

/// The keys of set 3 as they were programmed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Behaviours {
    all: Option<Behaviour>,
    keys: BTreeMap<u8, Behaviour>,
}

/// A keyboard of 101 keys or more, which knows the scan code sets 1 to 3.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Keyboard {
    queue: VecDeque<u8>,
    /// The command whose parameter comes next.
    command: Option<u8>,
    set: u8,
    scanning: bool,
    /// Scroll lock, num lock, caps lock.
    leds: u8,
    typematic: u8,
    behaviours: Behaviours,
    /// The byte that was sent last.
    last: u8,
    /// The prefix of the key that is coming in, if its code is still to come: 0xE0, or 0xE1 and maybe a first code.
    prefix: Vec<u8>,
    /// The key that repeats: its prefix (or 0) and its code in set 1.
    held: Option<(u8, u8)>,
    /// When it does so again.
    repeat: Option<Time>,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            command: None,
            set: 2,
            scanning: true,
            leds: 0,
            typematic: TYPEMATIC,
            behaviours: Behaviours::default(),
            last: 0,
            prefix: Vec::new(),
            held: None,
            repeat: None,
        }
    }
}

impl Keyboard {
    /// Whether there is something to send.
    pub fn waits(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next byte on the cable.
    pub fn send(&mut self) -> Option<u8> {
        let byte = self.queue.pop_front()?;
        self.last = byte;
        Some(byte)
    }

    /// How many set 1 codes there is room for: each is two bytes at most.
    pub fn room(&self) -> usize {
        (QUEUE - self.queue.len().min(QUEUE)) / 2
    }

    /// The lights: bit 0 scroll lock, bit 1 num lock, bit 2 caps lock.
    pub fn leds(&self) -> u8 {
        self.leds
    }

    /// When a held key repeats.
    pub fn repeat(&self) -> Option<Time> {
        self.repeat
    }

    /// The settings of after a reset; the lights and what waits are not among them.
    fn defaults(&mut self) {
        *self = Self { queue: std::mem::take(&mut self.queue), leds: self.leds, last: self.last, ..Self::default() };
    }

    /// A byte from the controller. Answers overtake the keys that wait, as they do on the cable.
    pub fn receive(&mut self, value: u8) {
        let answer: &[u8] = match (self.command.take(), value) {
            (Some(0xf0), 0) => &[ACK, self.set],
            (Some(0xf0), 1..=3) => {
                self.set = value;
                self.held_up();
                &[ACK]
            }
            (Some(0xed), leds @ 0..8) => {
                self.leds = leds;
                &[ACK]
            }
            (Some(0xf3), 0..0x80) => {
                self.typematic = value;
                &[ACK]
            }
            (Some(command @ 0xfb..=0xfd), 1..0xed) => {
                // A list of keys, up to the next command.
                self.command = Some(command);
                self.behaviours.keys.insert(value, Behaviour::of_command(command));
                &[ACK]
            }
            (_, 0xed | 0xf0 | 0xf3 | 0xfb..=0xfd) => {
                self.command = Some(value);
                &[ACK]
            }
            (_, 0xee) => &[0xee],
            (_, 0xf2) => &[ACK, 0xab, 0x83],
            (_, 0xf4) => {
                self.queue.clear();
                self.scanning = true;
                &[ACK]
            }
            (_, 0xf5 | 0xf6) => {
                self.queue.clear();
                self.defaults();
                self.scanning = value == 0xf6;
                &[ACK]
            }
            (_, 0xf7..=0xfa) => {
                self.behaviours = Behaviours { all: Some(Behaviour::of_command(value)), keys: BTreeMap::new() };
                &[ACK]
            }
            (_, 0xfe) => &[self.last],
            (_, 0xff) => {
                *self = Self::default();
                &[ACK, SELF_TEST_PASSED]
            }
            _ => {
                log::debug!("keyboard: command {value:#x} is not known");
                &[RESEND]
            }
        };
        let mut queue: VecDeque<u8> = answer.iter().copied().collect();
        queue.extend(&self.queue);
        queue.truncate(QUEUE);
        self.queue = queue;
    }

    fn held_up(&mut self) {
        (self.held, self.repeat) = (None, None);
    }

    /// Keys, as set 1 codes.
    pub fn keys(&mut self, codes: &[u8], now: Time) {
        if !self.scanning {
            return;
        }
        for &code in codes {
            match (&self.prefix[..], code) {
                (_, 0xe0 | 0xe1) => self.prefix = vec![code],
                (&[0xe1], _) => self.prefix.push(code),
                (&[0xe1, first, ..], _) => {
                    self.prefix.clear();
                    self.pause(first, code);
                }
                (&[prefix], _) => {
                    self.prefix.clear();
                    self.key(prefix, code, now);
                }
                _ => self.key(0, code, now),
            }
        }
    }

    /// A key goes down or (bit 7) up.
    fn key(&mut self, prefix: u8, code: u8, now: Time) {
        let (key, up) = ((prefix, code & 0x7f), code & 0x80 != 0);
        if up && self.held == Some(key) {
            self.held_up();
        } else if !up && self.held == Some(key) {
            // Somebody else's repetition: there is one already.
            return;
        }
        let bytes = self.bytes(key, up);
        if self.queue.len() + bytes.len() > QUEUE {
            log::warn!("keyboard: a key was lost; nobody reads them");
            return;
        }
        if !up && !bytes.is_empty() {
            // The last key that went down repeats.
            self.held = Some(key);
            let delay = 250 * (1 + u64::from(self.typematic >> 5 & 3));
            self.repeat = self.repeats(key).then(|| now.plus(delay * 1_000_000));
        }
        self.queue.extend(bytes);
    }

    /// The timer of [`Keyboard::repeat`].
    pub fn repeat_due(&mut self, now: Time) {
        let Some(key) = self.held.filter(|_| self.repeat.is_some_and(|at| at <= now)) else { return };
        // (8 + A) * 2^B / 240 seconds.
        let (a, b) = (u64::from(self.typematic & 7), self.typematic >> 3 & 3);
        self.repeat = Some(now.plus(((8 + a) << b) * 1_000_000_000 / 240));
        // A host that does not read gets no more of the same.
        if self.queue.is_empty() {
            let bytes = self.bytes(key, false);
            self.queue.extend(bytes);
        }
    }

    fn behaviour(&self, code: u8) -> Behaviour {
        let programmed = self.behaviours.keys.get(&code).copied().or(self.behaviours.all);
        programmed.unwrap_or_else(|| Behaviour::of_key(code))
    }

    fn repeats(&self, (prefix, code): (u8, u8)) -> bool {
        self.set != 3 || set3_of(prefix, code).is_some_and(|code| self.behaviour(code).repeats)
    }

    /// What a key sends.
    fn bytes(&self, (prefix, code): (u8, u8), up: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.set == 3 {
            if let Some(code) = set3_of(prefix, code).filter(|&code| !up || self.behaviour(code).releases) {
                bytes.extend(up.then_some(0xf0));
                bytes.push(code);
            }
            return bytes;
        }
        bytes.extend((prefix != 0).then_some(prefix));
        if self.set == 1 {
            bytes.push(code | u8::from(up) << 7);
        } else {
            bytes.extend(up.then_some(0xf0));
            bytes.push(set2_of(code));
        }
        bytes
    }

    /// Pause: the two codes behind an 0xE1.
    fn pause(&mut self, first: u8, second: u8) {
        const SET3: u8 = 0x62;
        let up = first & 0x80 != 0;
        let mut bytes = Vec::new();
        match self.set {
            1 => bytes.extend([0xe1, first, second]),
            3 if up && !self.behaviour(SET3).releases => {}
            3 => {
                bytes.extend(up.then_some(0xf0));
                bytes.push(SET3);
            }
            _ => {
                bytes.push(0xe1);
                for code in [first, second] {
                    bytes.extend((code & 0x80 != 0).then_some(0xf0));
                    bytes.push(set2_of(code & 0x7f));
                }
            }
        }
        if self.queue.len() + bytes.len() <= QUEUE {
            self.queue.extend(bytes);
        }
    }
}
