//! The keyboard controller with a keyboard and a mouse (Intel 8042; IBM PS/2 Technical Reference).
//!
//! Region 0: port 0x60. Region 1: port 0x64. Line 0: the keyboard's interrupt (IRQ 1), line 1: the mouse's (IRQ 12).
//! Keys come as [`Input::Scancodes`] in set 1.
//!
//! A byte from a device follows the one before it only after a pause, so that a guest may read a byte more than once.

mod keyboard;
mod mouse;
mod scancodes;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use softmetal_bus::{Ctx, Device, Input, Request, Time, device_state, ones};

use keyboard::Keyboard;
use mouse::Mouse;
use scancodes::Translator;
pub use scancodes::{chord, scancodes_for};

/// Nanoseconds between a read of a byte and the next one from a device.
const PAUSE: u64 = 250_000;
/// The timer of that pause.
const NEXT: u32 = 0;
const LINES: [u8; 2] = [0, 1];

mod status {
    pub const OUTPUT_FULL: u8 = 1 << 0;
    pub const SYSTEM: u8 = 1 << 2;
    pub const COMMAND: u8 = 1 << 3;
    pub const UNLOCKED: u8 = 1 << 4;
    pub const FROM_MOUSE: u8 = 1 << 5;
}
/// Bits of the controller's command byte.
mod config {
    pub const KEYBOARD_IRQ: u8 = 1 << 0;
    pub const MOUSE_IRQ: u8 = 1 << 1;
    pub const SYSTEM: u8 = 1 << 2;
    pub const KEYBOARD_OFF: u8 = 1 << 4;
    pub const MOUSE_OFF: u8 = 1 << 5;
    pub const TRANSLATE: u8 = 1 << 6;
}
/// Bits of the output port.
mod port {
    pub const RUN: u8 = 1 << 0;
    pub const A20: u8 = 1 << 1;
}

/// Who a byte in the output buffer is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Source {
    Controller,
    Keyboard,
    Mouse,
}

/// The controller and what is plugged into it.
#[derive(Debug, Default)]
pub struct I8042 {
    state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    /// The controller's RAM; byte 0 is the command byte.
    ram: [u8; 32],
    /// The output port's A20 and reset bits.
    port: u8,
    /// The controller command whose parameter port 0x60 gets next.
    command: Option<u8>,
    /// The last write went to port 0x64.
    wrote_command: bool,
    /// The output buffer: what port 0x60 reads, whether it is new, and whom it came from.
    output: u8,
    full: bool,
    source: Source,
    /// The controller's own answers that wait.
    answers: VecDeque<(u8, Source)>,
    /// No byte of a device comes before this.
    not_before: Time,
    translator: Translator,
    keyboard: Keyboard,
    mouse: Mouse,
    lines: [bool; 2],
}

impl Default for State {
    fn default() -> Self {
        let mut ram = [0; 32];
        // As the power-on self-test of a BIOS leaves it.
        ram[0] = config::KEYBOARD_IRQ | config::SYSTEM | config::TRANSLATE;
        Self {
            ram,
            port: port::RUN | port::A20,
            command: None,
            wrote_command: false,
            output: 0,
            full: false,
            source: Source::Controller,
            answers: VecDeque::new(),
            not_before: Time(0),
            translator: Translator::default(),
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
            lines: [false; 2],
        }
    }
}

impl State {
    fn config(&self) -> u8 {
        self.ram[0]
    }
    fn on(&self, bit: u8) -> bool {
        self.config() & bit != 0
    }

    fn status(&self) -> u8 {
        let flag = |on, bit| if on { bit } else { 0 };
        status::UNLOCKED
            | flag(self.on(config::SYSTEM), status::SYSTEM)
            | flag(self.wrote_command, status::COMMAND)
            | flag(self.full, status::OUTPUT_FULL)
            | flag(self.full && self.source == Source::Mouse, status::FROM_MOUSE)
    }

    fn answer(&mut self, byte: u8) {
        // A parameterless command asked while the last answer waits replaces nothing; more than that is a guest's mistake.
        if self.answers.len() < 16 {
            self.answers.push_back((byte, Source::Controller));
        }
    }

    /// The next byte of a device that may send.
    fn device_byte(&mut self) -> Option<(u8, Source)> {
        if !self.on(config::KEYBOARD_OFF) {
            while let Some(byte) = self.keyboard.send() {
                let byte = if self.on(config::TRANSLATE) { self.translator.translate(byte) } else { Some(byte) };
                if let Some(byte) = byte {
                    return Some((byte, Source::Keyboard));
                }
            }
        }
        if self.on(config::MOUSE_OFF) {
            return None;
        }
        self.mouse.send().map(|byte| (byte, Source::Mouse))
    }

    fn device_waits(&self) -> bool {
        (!self.on(config::KEYBOARD_OFF) && self.keyboard.waits()) || (!self.on(config::MOUSE_OFF) && self.mouse.waits())
    }
}

impl I8042 {
    /// The controller as a BIOS leaves it: keyboard and mouse on, translation to scan code set 1, A20 open.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Fills the output buffer if it is empty and something waits, then drives the interrupt lines.
    fn pump(&mut self, ctx: &mut Ctx) {
        let s = &mut self.state;
        if !s.full {
            let mut next = s.answers.pop_front();
            if next.is_none() && s.device_waits() {
                if ctx.now < s.not_before {
                    ctx.arm(NEXT, s.not_before);
                } else {
                    next = s.device_byte();
                }
            }
            if let Some((byte, source)) = next {
                (s.output, s.source, s.full) = (byte, source, true);
            }
        }
        let mouse = s.source == Source::Mouse;
        let levels = [s.full && !mouse && s.on(config::KEYBOARD_IRQ), s.full && mouse && s.on(config::MOUSE_IRQ)];
        for (i, line) in LINES.into_iter().enumerate() {
            if levels[i] != s.lines[i] {
                s.lines[i] = levels[i];
                ctx.line(line, levels[i]);
            }
        }
    }

    fn read_data(&mut self, ctx: &mut Ctx) -> u8 {
        let s = &mut self.state;
        let byte = s.output;
        if std::mem::take(&mut s.full) {
            s.not_before = ctx.now.plus(PAUSE);
            // The lines fall even if the controller has the next byte at once: an interrupt is an edge.
            for (i, line) in LINES.into_iter().enumerate() {
                if std::mem::take(&mut s.lines[i]) {
                    ctx.line(line, false);
                }
            }
            self.pump(ctx);
        }
        byte
    }

    fn set_port(&mut self, ctx: &mut Ctx, value: u8) {
        let changed = self.state.port ^ value;
        self.state.port = value;
        if changed & port::A20 != 0 {
            ctx.request(Request::A20(value & port::A20 != 0));
        }
        if value & port::RUN == 0 {
            ctx.request(Request::Reset);
        }
    }

    /// A byte for port 0x60 after controller command `command`, or for the keyboard.
    fn write_data(&mut self, ctx: &mut Ctx, value: u8) {
        let s = &mut self.state;
        s.wrote_command = false;
        match s.command.take() {
            None => {
                s.ram[0] &= !config::KEYBOARD_OFF;
                s.keyboard.receive(value);
            }
            Some(command @ 0x60..=0x7f) => s.ram[usize::from(command & 0x1f)] = value,
            Some(0xd1) => self.set_port(ctx, value),
            Some(0xd2) => s.answers.push_back((value, Source::Keyboard)),
            Some(0xd3) => s.answers.push_back((value, Source::Mouse)),
            Some(0xd4) => {
                s.ram[0] &= !config::MOUSE_OFF;
                s.mouse.receive(value);
            }
            Some(command) => log::debug!("i8042: parameter {value:#x} of {command:#x} ignored"),
        }
        self.state.answers.truncate(16);
        self.pump(ctx);
    }

    fn write_command(&mut self, ctx: &mut Ctx, command: u8) {
        let s = &mut self.state;
        s.wrote_command = true;
        s.command = None;
        match command {
            0x20..=0x3f => s.answer(s.ram[usize::from(command & 0x1f)]),
            0x60..=0x7f | 0xd1..=0xd4 => s.command = Some(command),
            // No password is set.
            0xa4 => s.answer(0xf1),
            0xa7 => s.ram[0] |= config::MOUSE_OFF,
            0xa8 => s.ram[0] &= !config::MOUSE_OFF,
            0xa9 | 0xab => s.answer(0x00),
            0xaa => {
                s.ram[0] |= config::SYSTEM;
                s.answer(0x55);
            }
            0xad => s.ram[0] |= config::KEYBOARD_OFF,
            0xae => s.ram[0] &= !config::KEYBOARD_OFF,
            // The input port: the keyboard is not locked, the rest are jumpers.
            0xc0 => s.answer(0xbf),
            0xd0 => {
                let full = |mouse| s.full && (s.source == Source::Mouse) == mouse;
                let flags = u8::from(full(false)) << 4 | u8::from(full(true)) << 5;
                s.answer(0xcc | s.port & (port::RUN | port::A20) | flags);
            }
            0xdd => self.set_port(ctx, self.state.port & !port::A20),
            0xdf => self.set_port(ctx, self.state.port | port::A20),
            // Test inputs: both clocks idle.
            0xe0 => s.answer(0x00),
            // Pulses of the output port bits that are zero; only the reset line is wired to something that notices.
            0xf0..=0xff => {
                if command & port::RUN == 0 {
                    ctx.request(Request::Reset);
                }
            }
            _ => log::debug!("i8042: command {command:#x} ignored"),
        }
        self.pump(ctx);
    }
}

impl Device for I8042 {
    fn name(&self) -> &'static str {
        "i8042"
    }
    fn read(&mut self, ctx: &mut Ctx, region: u8, _offset: u64, width: usize) -> u64 {
        let byte = if region == 0 { self.read_data(ctx) } else { self.state.status() };
        ones(width) & !0xff | u64::from(byte)
    }
    fn write(&mut self, ctx: &mut Ctx, region: u8, _offset: u64, _width: usize, value: u64) {
        if region == 0 {
            self.write_data(ctx, value as u8);
        } else {
            self.write_command(ctx, value as u8);
        }
    }
    fn timer(&mut self, ctx: &mut Ctx, _timer: u32) {
        self.pump(ctx);
    }
    fn input(&mut self, ctx: &mut Ctx, input: &Input) {
        match *input {
            Input::Scancodes(ref codes) => self.state.keyboard.keys(codes),
            Input::Mouse { dx, dy, wheel, buttons } => self.state.mouse.moved(dx, dy, wheel, buttons),
            _ => return,
        }
        self.pump(ctx);
    }
    fn input_room(&self) -> usize {
        self.state.keyboard.room()
    }
    fn reset(&mut self, ctx: &mut Ctx) {
        ctx.cancel(NEXT);
        for line in LINES {
            ctx.line(line, false);
        }
        self.state = State::default();
        ctx.request(Request::A20(true));
    }
    device_state!(state, 2);
}

#[cfg(test)]
mod tests {
    use softmetal_bus::Effect;

    use super::*;
    use crate::testing::Rig;

    struct Bench(Rig, I8042);

    impl Bench {
        fn new() -> Self {
            Self(Rig::new(), I8042::new())
        }
        fn command(&mut self, value: u64) {
            self.0.write(&mut self.1, 1, 0, 1, value);
        }
        fn data(&mut self, value: u64) {
            self.0.write(&mut self.1, 0, 0, 1, value);
        }
        fn status(&mut self) -> u8 {
            self.0.read(&mut self.1, 1, 0, 1) as u8
        }
        /// What port 0x60 gives, byte by byte, until nothing more comes.
        fn drain(&mut self) -> Vec<u8> {
            let mut bytes = Vec::new();
            loop {
                self.0.run(&mut self.1, PAUSE);
                if self.status() & status::OUTPUT_FULL == 0 {
                    return bytes;
                }
                bytes.push(self.0.read(&mut self.1, 0, 0, 1) as u8);
            }
        }
        fn keyboard(&mut self, bytes: &[u64]) -> Vec<u8> {
            bytes.iter().for_each(|&byte| self.data(byte));
            self.drain()
        }
        fn mouse(&mut self, byte: u64) -> Vec<u8> {
            self.command(0xd4);
            self.data(byte);
            self.drain()
        }
        fn keys(&mut self, codes: &[u8]) {
            let input = Input::Scancodes(codes.to_vec());
            self.1.input(&mut self.0.ctx(), &input);
        }
    }

    #[test]
    fn controller() {
        let mut b = Bench::new();
        b.command(0xaa);
        assert_eq!(b.status(), 0x1d);
        assert_eq!(b.drain(), [0x55]);
        b.command(0x60);
        b.data(0x74);
        assert_eq!(b.status() & status::COMMAND, 0);
        b.command(0x20);
        assert_eq!(b.drain(), [0x74]);
        b.command(0xa7);
        b.command(0xae);
        b.command(0x20);
        assert_eq!(b.drain(), [0x64]);
        b.command(0xd3);
        b.data(0x5a);
        assert_eq!(b.status() & status::FROM_MOUSE, status::FROM_MOUSE);
        assert_eq!(b.drain(), [0x5a]);
        b.0.take();
        b.command(0xd1);
        b.data(0x01);
        b.command(0xd1);
        b.data(0x03);
        b.command(0xfe);
        b.command(0xff);
        let requests: Vec<_> = b.0.take().into_iter().collect();
        let expected = [Request::A20(false), Request::A20(true), Request::Reset];
        assert_eq!(requests, expected.map(Effect::Request));
        // Commands without end fill no queue.
        (0..1000).for_each(|_| b.command(0x20));
        assert!(b.drain().len() <= 17);
    }

    #[test]
    fn keyboard_answers() {
        let mut b = Bench::new();
        assert_eq!(b.keyboard(&[0xff]), [0xfa, 0xaa]);
        assert_eq!(b.keyboard(&[0xf2]), [0xfa, 0xab, 0x41], "translated");
        assert_eq!(b.keyboard(&[0xed, 0x07]), [0xfa, 0xfa]);
        assert_eq!(b.keyboard(&[0xee]), [0xee]);
        assert_eq!(b.keyboard(&[0xf3, 0x20]), [0xfa, 0xfa]);
        b.command(0x60);
        b.data(0x05);
        assert_eq!(b.keyboard(&[0xf2]), [0xfa, 0xab, 0x83]);
        assert_eq!(b.keyboard(&[0xf0, 0]), [0xfa, 0xfa, 2]);
        assert_eq!(b.keyboard(&[0xfe]), [2], "resend");
        assert_eq!(b.keyboard(&[0x01]), [0xfe], "not a command");
    }

    #[test]
    fn keys_in_either_set() {
        let mut b = Bench::new();
        // A, right arrow, Pause.
        let codes = [0x1e, 0x9e, 0xe0, 0x4d, 0xe0, 0xcd, 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5];
        b.keys(&codes);
        assert_eq!(b.drain(), codes);
        b.command(0x60);
        b.data(0x05);
        b.keys(&codes[..6]);
        let set2 = [0x1c, 0xf0, 0x1c, 0xe0, 0x74, 0xe0, 0xf0, 0x74];
        assert_eq!(b.drain(), set2);
        b.keyboard(&[0xf0, 1]);
        b.keys(&codes);
        assert_eq!(b.drain(), codes);
        b.keyboard(&[0xf5]);
        b.keys(&codes);
        assert_eq!(b.drain(), []);
        // The scan codes of a flood are bounded.
        b.keyboard(&[0xf4]);
        (0..10_000).for_each(|_| b.keys(&codes));
        assert!(b.drain().len() < 2000);
    }

    #[test]
    fn one_interrupt_a_byte() {
        let mut b = Bench::new();
        b.keys(&[0x1e, 0x9e]);
        assert_eq!(b.0.take_line(0), [true]);
        let read = |b: &mut Bench| b.0.read(&mut b.1, 0, 0, 1);
        assert_eq!(read(&mut b), 0x1e);
        assert_eq!(read(&mut b), 0x1e, "the same byte again");
        assert_eq!(b.0.take_line(0), [false]);
        b.0.run(&mut b.1, PAUSE);
        assert_eq!(b.0.take_line(0), [true]);
        assert_eq!(read(&mut b), 0x9e);
        // Keys wait while the keyboard is off.
        b.command(0xad);
        b.keys(&[0x1e]);
        assert_eq!(b.drain(), []);
        b.command(0xae);
        assert_eq!(b.drain(), [0x1e]);
    }

    #[test]
    fn mouse() {
        let mut b = Bench::new();
        b.command(0x60);
        b.data(0x47);
        b.0.take();
        assert_eq!(b.mouse(0xff), [0xfa, 0xaa, 0x00]);
        assert_eq!(b.0.take_line(1).len(), 6);
        assert_eq!(b.mouse(0xf2), [0xfa, 0x00]);
        assert_eq!(b.mouse(0xf3), [0xfa]);
        assert_eq!(b.mouse(200), [0xfa]);
        assert_eq!(b.mouse(0xf4), [0xfa]);
        assert_eq!(b.mouse(0xe9), [0xfa, 0x20, 2, 200]);
        assert_eq!(b.mouse(0xeb), [0xfa, 0x08, 0, 0]);
        assert_eq!(b.mouse(0x77), [0xfe]);
    }

    #[test]
    fn the_mouse_moves() {
        let mut b = Bench::new();
        let moved = |b: &mut Bench, dx, dy, wheel, buttons| {
            let input = Input::Mouse { dx, dy, wheel, buttons };
            b.1.input(&mut b.0.ctx(), &input);
        };
        moved(&mut b, 5, 5, 0, 1);
        assert_eq!(b.drain(), [], "not before reports are switched on");
        b.mouse(0xf6);
        assert_eq!(b.mouse(0xf4), [0xfa]);
        moved(&mut b, 5, 3, 0, 1);
        assert_eq!(b.drain(), [0x29, 5, 0xfd]);
        moved(&mut b, -300, 0, 1, 4);
        assert_eq!(b.drain(), [0x1c, 0x00, 0, 0x1c, 0xd4, 0], "in two reports, and no wheel");
        for rate in [200, 100, 80] {
            b.mouse(0xf3);
            b.mouse(rate);
        }
        assert_eq!(b.mouse(0xf2), [0xfa, 3], "IntelliMouse");
        b.drain();
        moved(&mut b, 0, -1, -2, 2);
        assert_eq!(b.drain(), [0x0a, 0, 1, 0xfe]);
        // In remote mode the host asks, and gets all that has gathered.
        b.mouse(0xf0);
        moved(&mut b, 7, 0, 0, 0);
        moved(&mut b, 7, 0, 1, 0);
        assert_eq!(b.drain(), []);
        assert_eq!(b.mouse(0xeb), [0xfa, 0x08, 14, 0, 1]);
        // A flood is bounded.
        b.mouse(0xea);
        (0..10_000).for_each(|_| moved(&mut b, i16::MAX, i16::MIN, 127, 7));
        assert!(b.drain().len() < 400);
    }

    #[test]
    fn state_goes_round() {
        let mut a = Bench::new();
        a.keys(&[0x1e, 0x9e, 0xe0]);
        let mut copy = I8042::new();
        copy.load(&a.1.save()).unwrap();
        let mut b = Bench(Rig::new(), copy);
        assert_eq!(a.drain(), b.drain());
    }
}
