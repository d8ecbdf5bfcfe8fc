//! The keyboard controller with a keyboard and a mouse (Intel 8042; IBM PS/2 Technical Reference).
//!
//! Region 0: port 0x60. Region 1: port 0x64. Line 0: the keyboard's interrupt (IRQ 1), line 1: the mouse's (IRQ 12).
//! Keys come as [`Input::Scancodes`] in set 1.
//!
//! A byte from a device follows the one before it only after a pause, so that a guest may read a byte more than once.

mod keyboard;
mod mouse;
mod scancodes;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use softmetal_bus::{Ctx, Device, Input, Request, Time, device_state, ones};

use keyboard::Keyboard;
use mouse::Mouse;
use scancodes::Translator;
pub use scancodes::{chord, scancodes_for};

/// Nanoseconds between a read of a byte and the next one from a device.
const PAUSE: u64 = 250_000;
/// The timers: of that pause, of the key that repeats, of the mouse's next report.
const NEXT: u32 = 0;
const REPEAT: u32 = 1;
const REPORT: u32 = 2;
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

    /// The lights of the keyboard: bit 0 scroll lock, bit 1 num lock, bit 2 caps lock.
    #[must_use]
    pub fn leds(&self) -> u8 {
        self.state.keyboard.leds()
    }

    /// Fills the output buffer if it is empty and something waits, then drives the interrupt lines and sets the timers.
    fn pump(&mut self, ctx: &mut Ctx) {
        let s = &mut self.state;
        for (timer, at) in [(REPEAT, s.keyboard.repeat()), (REPORT, s.mouse.next())] {
            match at {
                Some(at) => ctx.arm(timer, at),
                None => ctx.cancel(timer),
            }
        }
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
            ctx.request(Request::ResetProcessor);
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
                    ctx.request(Request::ResetProcessor);
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
    fn timer(&mut self, ctx: &mut Ctx, timer: u32) {
        match timer {
            REPEAT => self.state.keyboard.repeat_due(ctx.now),
            REPORT => self.state.mouse.next_due(ctx.now),
            _ => {}
        }
        self.pump(ctx);
    }
    fn input(&mut self, ctx: &mut Ctx, input: &Input) {
        match *input {
            Input::Scancodes(ref codes) => self.state.keyboard.keys(codes, ctx.now),
            Input::Mouse { dx, dy, wheel, buttons } => self.state.mouse.moved([dx, dy], wheel, buttons, ctx.now),
            _ => return,
        }
        self.pump(ctx);
    }
    fn input_room(&self) -> usize {
        self.state.keyboard.room()
    }
    fn reset(&mut self, ctx: &mut Ctx) {
        [NEXT, REPEAT, REPORT].into_iter().for_each(|timer| ctx.cancel(timer));
        for line in LINES {
            ctx.line(line, false);
        }
        self.state = State::default();
        ctx.request(Request::A20(true));
    }
    device_state!(state, 3);
}
