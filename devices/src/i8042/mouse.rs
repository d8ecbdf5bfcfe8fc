//! A PS/2 mouse (IBM PS/2 Technical Reference, "Mouse"): with three buttons; once a driver has knocked, with a wheel
//! (Microsoft IntelliMouse); after another knock with five buttons (IntelliMouse Explorer).
//!
//! Movement comes in counts; the resolution is told but changes none of them.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use softmetal_bus::Time;

/// Bytes that wait to be sent at most.
const QUEUE: usize = 64;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const ERROR: u8 = 0xfc;
const SELF_TEST_PASSED: u8 = 0xaa;
/// The report rates, set one after the other, that switch on the wheel, and then the fourth and fifth button.
const WHEEL: [u8; 3] = [200, 100, 80];
const EXPLORER: [u8; 3] = [200, 200, 80];
/// Counts to the sides, and notches, that are kept until they can be reported; more is lost.
const LIMITS: [i32; 3] = [2000, 2000, 64];

/// What reports look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    /// Three bytes.
    Standard,
    /// A fourth byte for the wheel.
    Wheel,
    /// The fourth byte has two more buttons.
    Explorer,
}

/// A mouse.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Mouse {
    queue: VecDeque<u8>,
    /// The answer or report that was sent last.
    last: Vec<u8>,
    /// The command whose parameter comes next.
    command: Option<u8>,
    /// The last byte was no command.
    wrong: bool,
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
    kind: Kind,
    /// Bit 0 left, 1 right, 2 middle, 3 and 4 at the side.
    buttons: u8,
    /// The buttons have changed since the last report.
    pressed: bool,
    /// Movement since the last report: right, up, wheel towards the user.
    moved: [i32; 3],
    /// No report before this.
    next: Option<Time>,
}

impl Default for Mouse {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            last: Vec::new(),
            command: None,
            wrong: false,
            reporting: false,
            remote: false,
            wrap: false,
            scaling: false,
            resolution: 2,
            rate: 100,
            rates: [0; 3],
            kind: Kind::Standard,
            buttons: 0,
            pressed: false,
            moved: [0; 3],
            next: None,
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

    /// When the next report may be sent, if one was sent a short while ago.
    pub fn next(&self) -> Option<Time> {
        self.next
    }

    fn status(&self) -> u8 {
        let (left, right, middle) = (self.buttons & 1, self.buttons >> 1 & 1, self.buttons >> 2 & 1);
        let buttons = left << 2 | middle << 1 | right;
        buttons | u8::from(self.scaling) << 4 | u8::from(self.reporting) << 5 | u8::from(self.remote) << 6
    }

    /// The buttons that reports can tell of.
    fn known(&self) -> u8 {
        if self.kind == Kind::Explorer { 0x1f } else { 7 }
    }

    /// The mouse was moved, or its buttons are others now.
    pub fn moved(&mut self, [dx, dy]: [i16; 2], wheel: i8, buttons: u8, now: Time) {
        for ((sum, more), limit) in self.moved.iter_mut().zip([i32::from(dx), -i32::from(dy), wheel.into()]).zip(LIMITS) {
            *sum = (*sum + more).clamp(-limit, limit);
        }
        self.pressed |= (buttons ^ self.buttons) & self.known() != 0;
        self.buttons = buttons & 0x1f;
        if self.next.is_none() {
            self.stream(now);
        }
    }

    /// The time of [`Mouse::next`] has come.
    pub fn next_due(&mut self, now: Time) {
        if self.next.is_some_and(|at| at <= now) {
            self.next = None;
            self.stream(now);
        }
    }

    /// Sends a report if there is something to tell, and holds back the one after it for as long as the rate says.
    fn stream(&mut self, now: Time) {
        let moved = self.moved[..2] != [0, 0] || (self.kind != Kind::Standard && self.moved[2] != 0);
        if !self.reporting || self.remote || self.wrap || !(self.pressed || moved) {
            return;
        }
        if self.queue.len() + 4 <= QUEUE {
            let report = self.report(self.scaling);
            self.queue.extend(&report);
            self.last = report;
        }
        self.next = Some(now.plus(1_000_000_000 / u64::from(self.rate.max(1))));
    }

    /// A report of what happened since the last one, as far as it fits.
    fn report(&mut self, scaling: bool) -> Vec<u8> {
        self.pressed = false;
        let mut take = |axis: usize, least: i32, most: i32| {
            let part = self.moved[axis].clamp(least, most);
            self.moved[axis] -= part;
            part
        };
        // With 2:1 scaling small movements become smaller ones, and large ones twice as large.
        let half = if scaling { 2 } else { 1 };
        let (x, y) = (take(0, -256 / half, 255 / half), take(1, -256 / half, 255 / half));
        let scaled = |n: i32| match n.abs() {
            _ if !scaling => n,
            abs @ 0..6 => n.signum() * [0, 1, 1, 3, 6, 9][abs as usize],
            _ => n * 2,
        };
        let (x, y) = (scaled(x), scaled(y));
        let mut bytes = vec![0x08 | self.buttons & 7 | u8::from(x < 0) << 4 | u8::from(y < 0) << 5, x as u8, y as u8];
        match self.kind {
            Kind::Standard => self.moved[2] = 0,
            Kind::Wheel => bytes.push(take(2, -8, 7) as u8),
            Kind::Explorer => {
                let wheel = take(2, -8, 7) as u8 & 0xf;
                bytes.push(wheel | self.buttons >> 3 << 4);
            }
        }
        bytes
    }

    /// What has gathered is told to nobody.
    fn forget(&mut self) {
        (self.moved, self.pressed) = ([0; 3], false);
    }

    fn set_rate(&mut self, rate: u8) {
        self.rate = rate;
        self.rates = [self.rates[1], self.rates[2], rate];
        match (self.kind, self.rates) {
            (Kind::Standard, WHEEL) => self.kind = Kind::Wheel,
            (Kind::Wheel, EXPLORER) => self.kind = Kind::Explorer,
            _ => {}
        }
    }

    /// The settings of after a reset. What kind of mouse it is stays, and so do the buttons.
    fn defaults(&mut self) {
        *self = Self { kind: self.kind, buttons: self.buttons, ..Self::default() };
    }

    /// A byte from the controller. It ends the answer to the command before it.
    pub fn receive(&mut self, value: u8) {
        self.queue.clear();
        let mut answer = vec![ACK];
        let wrong = std::mem::take(&mut self.wrong);
        match (self.command.take(), value) {
            (Some(0xe8), 0..4) => self.resolution = value,
            (Some(0xf3), 1..=200) => self.set_rate(value),
            (_, 0xff) => {
                *self = Self::default();
                answer.extend([SELF_TEST_PASSED, 0]);
            }
            (_, 0xec) => {
                self.wrap = false;
                self.forget();
            }
            _ if self.wrap => answer = vec![value],
            (_, 0xe6 | 0xe7) => self.scaling = value == 0xe7,
            (_, 0xe8 | 0xf3) => self.command = Some(value),
            (_, 0xe9) => answer.extend([self.status(), self.resolution, self.rate]),
            (_, 0xea | 0xf0) => {
                self.remote = value == 0xf0;
                self.forget();
            }
            (_, 0xeb) => answer.extend(self.report(false)),
            (_, 0xee) => {
                self.wrap = true;
                self.forget();
            }
            (_, 0xf2) => answer.push([0, 3, 4][self.kind as usize]),
            (_, 0xf4 | 0xf5) => {
                self.reporting = value == 0xf4;
                self.forget();
            }
            (_, 0xf6) => self.defaults(),
            (_, 0xfe) => answer = self.last.clone(),
            _ => {
                log::debug!("mouse: command {value:#x} is not known");
                self.wrong = true;
                answer = vec![if wrong { ERROR } else { RESEND }];
            }
        }
        self.queue.extend(&answer);
        if value != 0xfe && !self.wrong {
            self.last = answer;
        }
    }
}
