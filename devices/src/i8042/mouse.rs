//! A PS/2 mouse that lies still.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Bytes that wait to be sent at most.
const QUEUE: usize = 64;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;
/// No button, no movement.
const PACKET: [u8; 3] = [0x08, 0, 0];

/// A mouse with two buttons.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Mouse {
    queue: VecDeque<u8>,
    /// The command whose parameter comes next.
    command: Option<u8>,
    reporting: bool,
    remote: bool,
    wrap: bool,
    scaling: bool,
    /// 0 to 3: 1, 2, 4, 8 counts a millimetre.
    resolution: u8,
    /// Reports a second.
    rate: u8,
}

impl Default for Mouse {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            command: None,
            reporting: false,
            remote: false,
            wrap: false,
            scaling: false,
            resolution: 2,
            rate: 100,
        }
    }
}

impl Mouse {
    /// Whether there is something to send.
    pub fn waits(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next byte on the cable.
    pub fn send(&mut self) -> Option<u8> {
        self.queue.pop_front()
    }

    fn status(&self) -> u8 {
        u8::from(self.remote) << 6 | u8::from(self.reporting) << 5 | u8::from(self.scaling) << 4
    }

    /// A byte from the controller. It ends the answer to the command before it.
    pub fn receive(&mut self, value: u8) {
        self.queue.clear();
        let mut answer = vec![ACK];
        match (self.command.take(), value) {
            (Some(0xe8), 0..4) => self.resolution = value,
            (Some(0xf3), 1..) => self.rate = value,
            (Some(_), _) => answer = vec![RESEND],
            (_, 0xec) => self.wrap = false,
            (_, 0xff) => {
                *self = Self::default();
                answer.extend([SELF_TEST_PASSED, 0]);
            }
            _ if self.wrap => answer = vec![value],
            (_, 0xe6 | 0xe7) => self.scaling = value == 0xe7,
            (_, 0xe8 | 0xf3) => self.command = Some(value),
            (_, 0xe9) => answer.extend([self.status(), self.resolution, self.rate]),
            (_, 0xea) => self.remote = false,
            (_, 0xeb) => answer.extend(PACKET),
            (_, 0xee) => self.wrap = true,
            (_, 0xf0) => self.remote = true,
            (_, 0xf2) => answer.push(0),
            (_, 0xf4 | 0xf5) => self.reporting = value == 0xf4,
            (_, 0xf6) => *self = Self::default(),
            _ => {
                log::debug!("mouse: command {value:#x} is not known");
                answer = vec![RESEND];
            }
        }
        self.queue.extend(answer);
        self.queue.truncate(QUEUE);
    }
}
