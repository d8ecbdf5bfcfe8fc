//! A PS/2 mouse with three buttons and a wheel (IBM PS/2 Technical Reference; Microsoft IntelliMouse).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Bytes that wait to be sent at most.
const QUEUE: usize = 64;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;
/// The report rates, set one after the other, that switch on the wheel.
const KNOCK: [u8; 3] = [200, 100, 80];

/// A mouse.
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
    /// The last three rates that were set.
    rates: [u8; 3],
    /// Reports have a fourth byte, for the wheel.
    wheeled: bool,
    buttons: u8,
    /// The buttons have changed since the last report.
    pressed: bool,
    /// Movement since the last report: right, up, wheel towards the user.
    moved: [i32; 3],
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
            rates: [0; 3],
            wheeled: false,
            buttons: 0,
            pressed: false,
            moved: [0; 3],
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
        let (left, right, middle) = (self.buttons & 1, self.buttons >> 1 & 1, self.buttons >> 2 & 1);
        let buttons = left << 2 | middle << 1 | right;
        buttons | u8::from(self.remote) << 6 | u8::from(self.reporting) << 5 | u8::from(self.scaling) << 4
    }

    /// The mouse was moved, or its buttons are others now.
    pub fn moved(&mut self, dx: i16, dy: i16, wheel: i8, buttons: u8) {
        // More than a few reports' worth of movement is lost.
        for (sum, (more, limit)) in self.moved.iter_mut().zip([(i32::from(dx), 2000), (-i32::from(dy), 2000), (i32::from(wheel), 64)]) {
            *sum = (*sum + more).clamp(-limit, limit);
        }
        self.pressed |= buttons & 7 != self.buttons;
        self.buttons = buttons & 7;
        if !self.reporting || self.remote {
            return;
        }
        let news = |mouse: &Self| mouse.pressed || mouse.moved[..2] != [0, 0] || (mouse.wheeled && mouse.moved[2] != 0);
        while news(self) && self.queue.len() + 4 <= QUEUE {
            let report = self.report();
            self.queue.extend(report);
        }
    }

    /// A report of what happened since the last one, as far as it fits.
    fn report(&mut self) -> Vec<u8> {
        self.pressed = false;
        let mut take = |axis: usize, least: i32, most: i32| {
            let part = self.moved[axis].clamp(least, most);
            self.moved[axis] -= part;
            part
        };
        let (x, y, wheel) = (take(0, -256, 255), take(1, -256, 255), take(2, -8, 7));
        let mut bytes = vec![0x08 | self.buttons | u8::from(x < 0) << 4 | u8::from(y < 0) << 5, x as u8, y as u8];
        if self.wheeled {
            bytes.push(wheel as u8);
        }
        bytes
    }

    /// A byte from the controller. It ends the answer to the command before it.
    pub fn receive(&mut self, value: u8) {
        self.queue.clear();
        let mut answer = vec![ACK];
        match (self.command.take(), value) {
            (Some(0xe8), 0..4) => self.resolution = value,
            (Some(0xf3), 1..) => {
                self.rate = value;
                self.rates = [self.rates[1], self.rates[2], value];
                self.wheeled |= self.rates == KNOCK;
            }
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
            (_, 0xeb) => answer.extend(self.report()),
            (_, 0xee) => self.wrap = true,
            (_, 0xf0) => self.remote = true,
            (_, 0xf2) => answer.push(u8::from(self.wheeled) * 3),
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
