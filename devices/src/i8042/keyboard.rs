//! The keyboard on its end of the cable.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::scancodes::set2_of;

/// Bytes that wait to be sent at most; what does not fit is lost.
const QUEUE: usize = 1024;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;

/// A keyboard of 101 keys or more, which knows the scan code sets 1 and 2.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Keyboard {
    queue: VecDeque<u8>,
    /// The command whose parameter comes next.
    command: Option<u8>,
    set: u8,
    scanning: bool,
    /// Scroll lock, num lock, caps lock.
    leds: u8,
    last: u8,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self { queue: VecDeque::new(), command: None, set: 2, scanning: true, leds: 0, last: 0 }
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

    /// A byte from the controller. Answers overtake the keys that wait, as they do on the cable.
    pub fn receive(&mut self, value: u8) {
        let answer: &[u8] = match (self.command.take(), value) {
            (Some(0xf0), 0) => &[ACK, self.set],
            (Some(0xf0), 1 | 2) => {
                self.set = value;
                &[ACK]
            }
            (Some(0xf0), _) => &[RESEND],
            (Some(0xed), leds @ 0..8) => {
                self.leds = leds;
                &[ACK]
            }
            (Some(_), 0..0x80) => &[ACK],
            (_, 0xed | 0xf0 | 0xf3) => {
                self.command = Some(value);
                &[ACK]
            }
            (_, 0xee) => &[0xee],
            (_, 0xf2) => &[ACK, 0xab, 0x83],
            (_, 0xf4) => {
                self.scanning = true;
                &[ACK]
            }
            (_, 0xf5 | 0xf6) => {
                *self = Self { scanning: value == 0xf6, ..Self::default() };
                &[ACK]
            }
            // Typematic and make/break settings of scan code set 3.
            (_, 0xf7..=0xfa) => &[ACK],
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

    /// Keys, as set 1 codes.
    pub fn keys(&mut self, codes: &[u8]) {
        if !self.scanning {
            return;
        }
        let mut bytes = Vec::new();
        for &code in codes {
            match code {
                0xe0 | 0xe1 => bytes.push(code),
                _ if self.set == 1 => bytes.push(code),
                0x80.. => bytes.extend([0xf0, set2_of(code & 0x7f)]),
                _ => bytes.push(set2_of(code)),
            }
            if bytes.len() > QUEUE {
                break;
            }
        }
        if self.queue.len() + bytes.len() > QUEUE {
            log::warn!("keyboard: {} scan codes lost", codes.len());
        } else {
            self.queue.extend(bytes);
        }
    }
}
