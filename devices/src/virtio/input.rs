//! Virtio input devices (virtio 1.2, 5.8): a keyboard and a mouse. Events are those of Linux's evdev interface.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use softmetal_bus::{Ctx, Input};

use super::queue::{Broken, Chain, Queue};
use super::{VirtioDevice, plain_state};

const EVENTS: usize = 0;
const STATUS: usize = 1;
/// Events that wait for the driver's buffers at most.
const WAITING: usize = 512;
/// The most events of one scan code or movement, the closing one included: room is counted in these.
const MOST: usize = 9;
/// Bytes of an event: type, code, value.
const EVENT: usize = 8;
/// Bytes of what a selection of the configuration shows at most.
const DATA: usize = 128;

/// Event types.
mod ev {
    pub const SYN: u16 = 0;
    pub const KEY: u16 = 1;
    pub const REL: u16 = 2;
    pub const REP: u16 = 20;
}
/// Axes.
mod rel {
    pub const X: u16 = 0;
    pub const Y: u16 = 1;
    pub const WHEEL: u16 = 8;
}
/// What the configuration can be asked for.
mod select {
    pub const NAME: u8 = 1;
    pub const SERIAL: u8 = 2;
    pub const IDS: u8 = 3;
    pub const EVENTS: u8 = 0x11;
}
/// The left button; right, middle and those at the side follow.
const BUTTON: u16 = 0x110;
const BUTTONS: u16 = 5;
const KEY_SYSRQ: u16 = 99;
const KEY_PAUSE: u16 = 119;
/// The bus that the devices say they are on: BUS_VIRTUAL.
const BUS: u16 = 0x06;

/// The key codes of the set 1 codes behind 0xE0; those without a prefix are their own key codes.
#[rustfmt::skip]
const EXTENDED: [(u8, u16); 18] = [
    (0x1c, 96), (0x1d, 97), (0x35, 98), (0x37, KEY_SYSRQ), (0x38, 100), (0x47, 102), (0x48, 103), (0x49, 104), (0x4b, 105),
    (0x4d, 106), (0x4f, 107), (0x50, 108), (0x51, 109), (0x52, 110), (0x53, 111), (0x5b, 125), (0x5c, 126), (0x5d, 127),
];

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Takes [`Input::Scancodes`].
    Keyboard,
    /// Takes [`Input::Mouse`].
    Mouse,
}

/// A keyboard or a mouse.
#[derive(Debug)]
pub struct VirtioInput {
    kind: Kind,
    chain: Chain,
    state: State,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// What the configuration shows.
    select: u8,
    subselect: u8,
    /// Events that the driver has not had yet.
    waiting: VecDeque<(u16, u16, i32)>,
    /// The prefix before the next scan code, and the codes still to come of Pause.
    prefix: u8,
    /// The buttons that are down.
    buttons: u8,
}

impl VirtioInput {
    /// A device with nothing pressed.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self { kind, chain: Chain::default(), state: State::default() }
    }

    /// A report: `events` and the one that closes them; all of them or, when there is no room, none.
    fn report(&mut self, events: &[(u16, u16, i32)]) {
        let waiting = &mut self.state.waiting;
        if events.is_empty() {
            return;
        }
        if waiting.len() + events.len() >= WAITING {
            log::warn!("{}: input lost", Self::NAME);
            return;
        }
        waiting.extend(events);
        waiting.push_back((ev::SYN, 0, 0));
    }

    fn scancode(&mut self, code: u8) {
        let prefix = std::mem::replace(&mut self.state.prefix, 0);
        let (key, down) = (code & 0x7f, code & 0x80 == 0);
        let key = match (prefix, code) {
            (0, 0xe0 | 0xe1) => {
                self.state.prefix = code;
                return;
            }
            // Pause is E1 1D 45.
            (0xe1, _) if key == 0x1d => {
                self.state.prefix = 0xe1;
                return;
            }
            (0xe1, _) => Some(KEY_PAUSE),
            (0xe0, _) => EXTENDED.iter().find(|(c, _)| *c == key).map(|&(_, key)| key),
            (_, _) if key == 0x54 => Some(KEY_SYSRQ),
            _ => Some(key.into()),
        };
        if let Some(key) = key.filter(|&key| key != 0) {
            self.report(&[(ev::KEY, key, down.into())]);
        }
    }

    fn moved(&mut self, dx: i16, dy: i16, wheel: i8, buttons: u8) {
        let axes = [(rel::X, i32::from(dx)), (rel::Y, dy.into()), (rel::WHEEL, -i32::from(wheel))];
        let mut events: Vec<_> = axes.into_iter().filter(|(_, v)| *v != 0).map(|(axis, v)| (ev::REL, axis, v)).collect();
        let changed = std::mem::replace(&mut self.state.buttons, buttons) ^ buttons;
        let switched = (0..BUTTONS).filter(|n| changed >> n & 1 != 0);
        events.extend(switched.map(|n| (ev::KEY, BUTTON + n, i32::from(buttons >> n & 1))));
        self.report(&events);
    }

    /// What the configuration shows now.
    fn selected(&self) -> Vec<u8> {
        let bits = |codes: &[u16]| {
            let mut bytes = vec![0; codes.iter().max().map_or(0, |&c| usize::from(c) / 8 + 1)];
            codes.iter().for_each(|&c| bytes[usize::from(c) / 8] |= 1 << (c % 8));
            bytes
        };
        let keyboard = self.kind == Kind::Keyboard;
        match (self.state.select, self.state.subselect) {
            (select::NAME, 0) => if keyboard { "Softmetal keyboard" } else { "Softmetal mouse" }.into(),
            (select::SERIAL, 0) => b"1".to_vec(),
            (select::IDS, 0) => [BUS, 0x1af4, if keyboard { 1 } else { 2 }, 1].map(u16::to_le_bytes).concat(),
            (select::EVENTS, n) => match n.into() {
                ev::KEY if keyboard => {
                    let plain = (1..=83).chain(86..=88);
                    bits(&plain.chain(EXTENDED.map(|(_, key)| key)).chain([KEY_PAUSE]).collect::<Vec<_>>())
                }
                // The driver repeats keys that are held.
                ev::REP if keyboard => bits(&[0, 1]),
                ev::KEY => bits(&(BUTTON..BUTTON + BUTTONS).collect::<Vec<_>>()),
                ev::REL if !keyboard => bits(&[rel::X, rel::Y, rel::WHEEL]),
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }
}

impl VirtioDevice for VirtioInput {
    type State = State;
    const NAME: &'static str = "virtio-input";
    const TYPE: u16 = 18;
    const CLASS: u32 = 0x09_8000;
    const QUEUES: &'static [u16] = &[64, 64];

    fn features(&self) -> u64 {
        0
    }
    fn config(&self) -> Vec<u8> {
        let data = self.selected();
        let mut config = vec![self.state.select, self.state.subselect, data.len() as u8, 0, 0, 0, 0, 0];
        config.extend(data);
        config.resize(8 + DATA, 0);
        config
    }
    fn config_write(&mut self, _: &mut Ctx, offset: u64, bytes: &[u8]) {
        for (at, &byte) in (offset..).zip(bytes) {
            match at {
                0 => self.state.select = byte,
                1 => self.state.subselect = byte,
                _ => log::debug!("{}: write to configuration byte {at} ignored", Self::NAME),
            }
        }
    }
    fn process(&mut self, ctx: &mut Ctx, index: usize, queues: &mut [Queue]) -> Result<(), Broken> {
        let queue = &mut queues[index];
        if index == STATUS {
            // Of the LEDs nothing is shown.
            while queue.pop(ctx, &mut self.chain)? {
                queue.push(ctx, &self.chain, 0)?;
            }
            return Ok(());
        }
        while let Some(&(kind, code, value)) = self.state.waiting.front() {
            let mut bytes = [0; EVENT];
            bytes[..2].copy_from_slice(&kind.to_le_bytes());
            bytes[2..4].copy_from_slice(&code.to_le_bytes());
            bytes[4..].copy_from_slice(&value.to_le_bytes());
            if queue.give(ctx, &mut self.chain, &bytes)?.is_none() {
                break;
            }
            self.state.waiting.pop_front();
        }
        Ok(())
    }
    fn input(&mut self, input: &Input) -> Option<usize> {
        match (self.kind, input) {
            (Kind::Keyboard, Input::Scancodes(codes)) => codes.iter().for_each(|&code| self.scancode(code)),
            (Kind::Mouse, &Input::Mouse { dx, dy, wheel, buttons }) => self.moved(dx, dy, wheel, buttons),
            _ => return None,
        }
        Some(EVENTS)
    }
    fn input_room(&self) -> usize {
        WAITING.saturating_sub(self.state.waiting.len()) / MOST
    }
    fn reset(&mut self, power: bool) {
        // Keys pressed before the driver came are not typed later.
        let State { prefix, buttons, .. } = std::mem::take(&mut self.state);
        if !power {
            (self.state.prefix, self.state.buttons) = (prefix, buttons);
        }
    }
    plain_state!();
}

#[cfg(test)]
mod tests {
    use softmetal_bus::Device;

    use super::*;
    use crate::virtio::VirtioPci;
    use crate::virtio::testing::{Driver, WRITE};

    type Bench = Driver<VirtioInput>;
    /// The device's configuration in the transport's BAR.
    const CONFIG: u64 = 0x2000;

    fn new(kind: Kind) -> Bench {
        Driver::new(VirtioPci::new(VirtioInput::new(kind)), 0)
    }

    fn ask(d: &mut Bench, select: u8, subselect: u8) -> Vec<u8> {
        d.set(CONFIG, 1, select.into());
        d.set(CONFIG + 1, 1, subselect.into());
        let len = d.reg(CONFIG + 2, 1);
        (0..len).map(|n| d.reg(CONFIG + 8 + n, 1) as u8).collect()
    }

    /// Gives it a buffer, and the event that it puts there.
    fn event(d: &mut Bench) -> Option<(u16, u16, i32)> {
        d.chain(EVENTS, &[(0x8000, EVENT as u32, WRITE)]);
        d.notify(EVENTS);
        let used = d.used(EVENTS).pop()?;
        assert_eq!(used.1, EVENT as u32);
        let bytes = d.get(0x8000, EVENT);
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Some((half(0), half(2), i32::from_le_bytes(bytes[4..].try_into().unwrap())))
    }

    fn events(d: &mut Bench, count: usize) -> Vec<(u16, u16, i32)> {
        (0..count).map(|_| event(d).expect("an event")).collect()
    }

    #[test]
    fn it_says_what_it_is() {
        let (mut keyboard, mut mouse) = (new(Kind::Keyboard), new(Kind::Mouse));
        assert_eq!(ask(&mut keyboard, select::NAME, 0), b"Softmetal keyboard");
        assert_eq!(ask(&mut mouse, select::NAME, 0), b"Softmetal mouse");
        assert_eq!(ask(&mut mouse, select::IDS, 0), [6, 0, 0xf4, 0x1a, 2, 0, 1, 0]);
        let keys = ask(&mut keyboard, select::EVENTS, ev::KEY as u8);
        let has = |key: usize| keys[key / 8] >> (key % 8) & 1 != 0;
        // Escape, A, F12, Pause, and the menu key, which is the last one; 84 is no key.
        assert!([1, 30, 88, 119, 127].into_iter().all(has) && !has(84) && keys.len() == 16);
        assert_eq!(ask(&mut keyboard, select::EVENTS, ev::REL as u8), []);
        assert_eq!(ask(&mut mouse, select::EVENTS, ev::REL as u8), [0b11, 1]);
        assert_eq!(ask(&mut mouse, select::EVENTS, ev::KEY as u8)[0x110 / 8], 0x1f);
        assert_eq!(ask(&mut mouse, 0x77, 3), []);
    }

    #[test]
    fn keys_are_pressed_and_released() {
        let mut d = new(Kind::Keyboard);
        const END: (u16, u16, i32) = (ev::SYN, 0, 0);
        // A, the right arrow, Pause; what set 1 puts around some keys is nothing.
        let codes = vec![0x1e, 0x9e, 0xe0, 0x2a, 0xe0, 0x4d, 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5];
        d.device.input(&mut d.rig.ctx(), &Input::Scancodes(codes));
        let a = [(ev::KEY, 30, 1), END, (ev::KEY, 30, 0), END];
        let others = [(ev::KEY, 106, 1), END, (ev::KEY, 119, 1), END, (ev::KEY, 119, 0), END];
        // What is in flight survives a save.
        assert_eq!(events(&mut d, 4), a);
        let saved = d.device.save();
        assert_eq!(events(&mut d, 6), others);
        d.device.load(&saved).unwrap();
        assert_eq!(d.device.input_room(), (WAITING - 6) / MOST);
    }

    #[test]
    fn the_mouse_moves_and_a_flood_is_bounded() {
        let mut d = new(Kind::Mouse);
        d.device.input(&mut d.rig.ctx(), &Input::Mouse { dx: 3, dy: -4, wheel: 1, buttons: 0b101 });
        d.device.input(&mut d.rig.ctx(), &Input::Mouse { dx: 0, dy: 0, wheel: 0, buttons: 0b100 });
        d.device.input(&mut d.rig.ctx(), &Input::Scancodes(vec![0x1e]));
        let first = [(ev::REL, rel::X, 3), (ev::REL, rel::Y, -4), (ev::REL, rel::WHEEL, -1), (ev::KEY, 0x110, 1), (ev::KEY, 0x112, 1)];
        assert_eq!(events(&mut d, 5), first);
        assert_eq!(events(&mut d, 3), [(ev::SYN, 0, 0), (ev::KEY, 0x110, 0), (ev::SYN, 0, 0)]);
        for n in 0..2000 {
            d.device.input(&mut d.rig.ctx(), &Input::Mouse { dx: 1, dy: 0, wheel: 0, buttons: n as u8 & 1 });
        }
        assert_eq!(d.device.input_room(), 0);
        // A whole number of reports waits.
        let left = std::iter::from_fn(|| event(&mut d)).take(WAITING).collect::<Vec<_>>();
        assert!(left.len() < WAITING && left.last() == Some(&(ev::SYN, 0, 0)));
    }
}
