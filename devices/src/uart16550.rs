//! The serial port: a 16550A with FIFOs (National Semiconductor PC16550D datasheet).
//!
//! Transmission takes no time: the transmitter is always empty, and its interrupt returns as soon as a byte is written.
//! Reception is as fast as the machine feeds bytes; only the FIFO's character timeout is timed. As on a PC, the
//! interrupt output passes the gate OUT2.
//!
//! Region 0: the 8 registers. Line 0: the interrupt. Output on [`Channel::Serial`].

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use softmetal_bus::{Channel, Ctx, Device, Input, Time, device_state};

use crate::lanes::{read_bytes, write_bytes};

/// Bytes in the receive FIFO.
const FIFO: usize = 16;
/// The frequency of the bit clock with divisor 1, times 16 (Hz).
const CLOCK: u64 = 1_843_200;
/// The timer of the FIFO's character timeout.
const TIMEOUT: u32 = 0;

mod ier {
    pub const RDA: u8 = 1 << 0;
    pub const THRE: u8 = 1 << 1;
    pub const RLS: u8 = 1 << 2;
    pub const MSI: u8 = 1 << 3;
}
mod iir {
    pub const NONE: u8 = 0x01;
    pub const RLS: u8 = 0x06;
    pub const RDA: u8 = 0x04;
    pub const TIMEOUT: u8 = 0x0c;
    pub const THRE: u8 = 0x02;
    pub const MODEM: u8 = 0x00;
    pub const FIFOS: u8 = 0xc0;
}
mod fcr {
    pub const ENABLE: u8 = 1 << 0;
    pub const CLEAR_RX: u8 = 1 << 1;
    pub const KEPT: u8 = 0xc9;
}
const LCR_DLAB: u8 = 1 << 7;
mod mcr {
    pub const DTR: u8 = 1 << 0;
    pub const RTS: u8 = 1 << 1;
    pub const OUT1: u8 = 1 << 2;
    pub const OUT2: u8 = 1 << 3;
    pub const LOOP: u8 = 1 << 4;
    pub const KEPT: u8 = 0x1f;
}
mod lsr {
    pub const DR: u8 = 1 << 0;
    pub const OE: u8 = 1 << 1;
    pub const THRE: u8 = 1 << 5;
    pub const TEMT: u8 = 1 << 6;
}
mod msr {
    pub const TERI: u8 = 1 << 2;
    pub const CTS: u8 = 1 << 4;
    pub const DSR: u8 = 1 << 5;
    pub const RI: u8 = 1 << 6;
    pub const DCD: u8 = 1 << 7;
    pub const DELTAS: u8 = 0x0f;
}

/// A 16550A.
#[derive(Debug, Default)]
pub struct Uart16550 {
    state: State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    /// The modem inputs and their deltas.
    msr: u8,
    scratch: u8,
    divisor: u16,
    rx: VecDeque<u8>,
    /// A byte came when there was no room.
    overrun: bool,
    /// The transmitter became empty and nobody has been told.
    thre: bool,
    /// Bytes below the trigger level have waited for four character times.
    timeout: bool,
    /// The level of line 0.
    line: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            msr: msr::CTS | msr::DSR | msr::DCD,
            scratch: 0,
            divisor: 12,
            rx: VecDeque::new(),
            overrun: false,
            thre: false,
            timeout: false,
            line: false,
        }
    }
}

impl State {
    fn fifo(&self) -> bool {
        self.fcr & fcr::ENABLE != 0
    }
    fn capacity(&self) -> usize {
        if self.fifo() { FIFO } else { 1 }
    }
    fn trigger(&self) -> usize {
        if !self.fifo() {
            return 1;
        }
        [1, 4, 8, 14][usize::from(self.fcr >> 6)]
    }
    fn dlab(&self) -> bool {
        self.lcr & LCR_DLAB != 0
    }

    /// The interrupt of the highest priority that is enabled and pending.
    fn cause(&self) -> u8 {
        let on = |bit| self.ier & bit != 0;
        if on(ier::RLS) && self.overrun {
            iir::RLS
        } else if on(ier::RDA) && self.rx.len() >= self.trigger() {
            iir::RDA
        } else if on(ier::RDA) && self.timeout {
            iir::TIMEOUT
        } else if on(ier::THRE) && self.thre {
            iir::THRE
        } else if on(ier::MSI) && self.msr & msr::DELTAS != 0 {
            iir::MODEM
        } else {
            iir::NONE
        }
    }

    /// Four characters' time in nanoseconds.
    fn four_characters(&self) -> u64 {
        let bits = 4 * (2 + 5 + u64::from(self.lcr & 3));
        bits * 16 * u64::from(self.divisor.max(1)) * Time::SECOND / CLOCK
    }

    /// The modem inputs as the pins or, in loopback, the outputs drive them; changes are noted.
    fn update_modem(&mut self) {
        let inputs = if self.mcr & mcr::LOOP == 0 {
            msr::CTS | msr::DSR | msr::DCD
        } else {
            let follow = |out, input| if self.mcr & out != 0 { input } else { 0 };
            follow(mcr::RTS, msr::CTS) | follow(mcr::DTR, msr::DSR) | follow(mcr::OUT1, msr::RI) | follow(mcr::OUT2, msr::DCD)
        };
        let changed = (inputs ^ self.msr) >> 4;
        // The ring indicator counts only when it ends.
        let ended = !(changed & msr::TERI != 0 && inputs & msr::RI != 0);
        let deltas = if ended { changed } else { changed & !msr::TERI };
        self.msr = inputs | (self.msr & msr::DELTAS) | deltas;
    }

    fn lsr(&self) -> u8 {
        lsr::THRE | lsr::TEMT | if self.rx.is_empty() { 0 } else { lsr::DR } | if self.overrun { lsr::OE } else { 0 }
    }
}

impl Uart16550 {
    /// A port in its reset state, with a peer that is always ready (CTS, DSR and DCD asserted).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn update_line(&mut self, ctx: &mut Ctx) {
        let s = &mut self.state;
        let level = s.cause() != iir::NONE && s.mcr & mcr::OUT2 != 0;
        if level != s.line {
            s.line = level;
            ctx.line(0, level);
        }
    }

    /// (Re)starts the character timeout, as every arrival and every read of the FIFO does.
    fn restart_timeout(&mut self, ctx: &mut Ctx) {
        self.state.timeout = false;
        if self.state.fifo() && !self.state.rx.is_empty() {
            ctx.arm(TIMEOUT, ctx.now.plus(self.state.four_characters()));
        } else {
            ctx.cancel(TIMEOUT);
        }
    }

    fn receive(&mut self, ctx: &mut Ctx, bytes: &[u8]) {
        let s = &mut self.state;
        for &byte in bytes {
            if s.rx.len() < s.capacity() {
                s.rx.push_back(byte);
            } else {
                s.overrun = true;
                // With FIFOs the newcomer is lost, without them the old byte is.
                if !s.fifo() {
                    s.rx[0] = byte;
                }
            }
        }
        self.restart_timeout(ctx);
    }

    fn read_register(&mut self, ctx: &mut Ctx, offset: u64) -> u8 {
        let s = &mut self.state;
        let value = match offset {
            0 if s.dlab() => return s.divisor as u8,
            1 if s.dlab() => return (s.divisor >> 8) as u8,
            0 => {
                let byte = s.rx.pop_front().unwrap_or(0);
                self.restart_timeout(ctx);
                byte
            }
            1 => return s.ier,
            2 => {
                let cause = s.cause();
                if cause == iir::THRE {
                    s.thre = false;
                }
                cause | if s.fifo() { iir::FIFOS } else { 0 }
            }
            3 => return s.lcr,
            4 => return s.mcr,
            5 => {
                let value = s.lsr();
                s.overrun = false;
                value
            }
            6 => {
                let value = s.msr;
                s.msr &= !msr::DELTAS;
                value
            }
            7 => return s.scratch,
            _ => return 0xff,
        };
        self.update_line(ctx);
        value
    }

    fn write_register(&mut self, ctx: &mut Ctx, offset: u64, value: u8) {
        let s = &mut self.state;
        match offset {
            0 if s.dlab() => s.divisor = s.divisor & 0xff00 | u16::from(value),
            1 if s.dlab() => s.divisor = s.divisor & 0x00ff | u16::from(value) << 8,
            0 => {
                s.thre = true;
                if s.mcr & mcr::LOOP != 0 {
                    self.receive(ctx, &[value]);
                } else {
                    ctx.output(Channel::Serial, &[value]);
                }
            }
            1 => {
                let value = value & (ier::RDA | ier::THRE | ier::RLS | ier::MSI);
                if value & !s.ier & ier::THRE != 0 {
                    s.thre = true;
                }
                s.ier = value;
            }
            2 => {
                let toggled = (value ^ s.fcr) & fcr::ENABLE != 0;
                s.fcr = if value & fcr::ENABLE != 0 { value & fcr::KEPT } else { 0 };
                if toggled || value & fcr::CLEAR_RX != 0 {
                    s.rx.clear();
                    self.restart_timeout(ctx);
                }
            }
            3 => s.lcr = value,
            4 => {
                s.mcr = value & mcr::KEPT;
                s.update_modem();
            }
            7 => s.scratch = value,
            _ => log::debug!("uart16550: write of {value:#x} to register {offset} ignored"),
        }
        self.update_line(ctx);
    }
}

impl Device for Uart16550 {
    fn name(&self) -> &'static str {
        "uart16550"
    }
    fn read(&mut self, ctx: &mut Ctx, _region: u8, offset: u64, width: usize) -> u64 {
        read_bytes(width, |i| self.read_register(ctx, offset + i))
    }
    fn write(&mut self, ctx: &mut Ctx, _region: u8, offset: u64, width: usize, value: u64) {
        write_bytes(width, value, |i, byte| {
            self.write_register(ctx, offset + i, byte);
        });
    }
    fn timer(&mut self, ctx: &mut Ctx, _timer: u32) {
        self.state.timeout = self.state.fifo() && !self.state.rx.is_empty();
        self.update_line(ctx);
    }
    fn input(&mut self, ctx: &mut Ctx, input: &Input) {
        if let Input::Bytes(bytes) = input {
            self.receive(ctx, bytes);
            self.update_line(ctx);
        }
    }
    fn input_room(&self) -> usize {
        if self.state.mcr & mcr::LOOP != 0 {
            return 0;
        }
        self.state.capacity().saturating_sub(self.state.rx.len())
    }
    fn reset(&mut self, ctx: &mut Ctx) {
        ctx.cancel(TIMEOUT);
        ctx.line(0, false);
        self.state = State::default();
    }
    device_state!(state, 1);
}

#[cfg(test)]
mod tests {
    use softmetal_bus::Effect;

    use super::*;
    use crate::testing::Rig;

    fn out(rig: &mut Rig, uart: &mut Uart16550, register: u64, value: u8) {
        rig.write(uart, 0, register, 1, value.into());
    }
    fn inp(rig: &mut Rig, uart: &mut Uart16550, register: u64) -> u8 {
        rig.read(uart, 0, register, 1) as u8
    }

    #[test]
    fn transmits_and_reraises_thre() {
        let (mut rig, mut u) = (Rig::new(), Uart16550::new());
        out(&mut rig, &mut u, 4, mcr::OUT2);
        // Enabled, read away, enabled again: the interrupt must come back each time.
        for _ in 0..2 {
            out(&mut rig, &mut u, 1, ier::THRE);
            assert_eq!(rig.take_line(0), [true]);
            assert_eq!(inp(&mut rig, &mut u, 2), iir::THRE);
            assert_eq!(inp(&mut rig, &mut u, 2), iir::NONE);
            assert_eq!(rig.take_line(0), [false]);
            out(&mut rig, &mut u, 1, 0);
        }
        out(&mut rig, &mut u, 1, ier::THRE);
        inp(&mut rig, &mut u, 2);
        rig.take();
        out(&mut rig, &mut u, 0, b'x');
        assert_eq!(rig.take(), [Effect::Output(Channel::Serial, b"x".to_vec()), Effect::Line { line: 0, level: true }]);
        assert_eq!(inp(&mut rig, &mut u, 5), lsr::THRE | lsr::TEMT);
    }

    #[test]
    fn receives_by_trigger_and_timeout() {
        let (mut rig, mut u) = (Rig::new(), Uart16550::new());
        assert_eq!(u.input_room(), 1);
        out(&mut rig, &mut u, 2, fcr::ENABLE | 0x40);
        out(&mut rig, &mut u, 1, ier::RDA | ier::THRE);
        out(&mut rig, &mut u, 4, mcr::OUT2);
        assert_eq!(inp(&mut rig, &mut u, 2), iir::FIFOS | iir::THRE);
        rig.take();
        u.input(&mut rig.ctx(), &Input::Bytes(b"abc".to_vec()));
        assert_eq!(u.input_room(), FIFO - 3);
        assert_eq!(inp(&mut rig, &mut u, 2), iir::FIFOS | iir::NONE);
        rig.run(&mut u, 20 * 1_000_000);
        assert_eq!(rig.take_line(0), [true]);
        assert_eq!(inp(&mut rig, &mut u, 2), iir::FIFOS | iir::TIMEOUT);
        assert_eq!(inp(&mut rig, &mut u, 0), b'a');
        assert_eq!(rig.take_line(0), [false]);
        u.input(&mut rig.ctx(), &Input::Bytes(b"de".to_vec()));
        assert_eq!(inp(&mut rig, &mut u, 2), iir::FIFOS | iir::RDA);
        for byte in b"bcde" {
            assert_eq!(inp(&mut rig, &mut u, 5) & lsr::DR, lsr::DR);
            assert_eq!(inp(&mut rig, &mut u, 0), *byte);
        }
        assert_eq!(inp(&mut rig, &mut u, 5) & lsr::DR, 0);
        assert_eq!(rig.timers.next(), None);
    }

    #[test]
    fn a_pc_driver_recognises_a_16550a() {
        let (mut rig, mut u) = (Rig::new(), Uart16550::new());
        // No bit above 3 of IER sticks, and the scratch register remembers.
        out(&mut rig, &mut u, 1, 0xff);
        assert_eq!(inp(&mut rig, &mut u, 1), 0x0f);
        out(&mut rig, &mut u, 1, 0);
        out(&mut rig, &mut u, 7, 0x5a);
        assert_eq!(inp(&mut rig, &mut u, 7), 0x5a);
        // Loopback shows OUT2 and RTS at DCD and CTS.
        out(&mut rig, &mut u, 4, mcr::LOOP | mcr::OUT2 | mcr::RTS);
        assert_eq!(inp(&mut rig, &mut u, 6) & 0xf0, msr::DCD | msr::CTS);
        // The FIFO's size, measured in loopback: the 17th byte is an overrun, and the first 16 stay.
        out(&mut rig, &mut u, 2, fcr::ENABLE | 0x06);
        assert_eq!(inp(&mut rig, &mut u, 2) >> 6, 3);
        for i in 0..20 {
            out(&mut rig, &mut u, 0, i);
        }
        assert_eq!(u.input_room(), 0);
        assert_eq!(inp(&mut rig, &mut u, 5) & lsr::OE, lsr::OE);
        assert_eq!(inp(&mut rig, &mut u, 5) & lsr::OE, 0);
        for i in 0..16 {
            assert_eq!(inp(&mut rig, &mut u, 0), i);
        }
        assert_eq!(inp(&mut rig, &mut u, 5) & lsr::DR, 0);
        // The divisor latch hides the data and interrupt registers, and only these.
        out(&mut rig, &mut u, 3, 0x83);
        rig.write(&mut u, 0, 0, 2, 0x0102);
        assert_eq!(rig.read(&mut u, 0, 0, 2), 0x0102);
        assert_ne!(inp(&mut rig, &mut u, 2), 0);
        assert!(rig.take().iter().all(|e| !matches!(e, Effect::Output(..))));
    }

    #[test]
    fn interrupts_by_priority() {
        let (mut rig, mut u) = (Rig::new(), Uart16550::new());
        out(&mut rig, &mut u, 1, 0x0f);
        out(&mut rig, &mut u, 4, mcr::LOOP);
        u.input(&mut rig.ctx(), &Input::Bytes(b"xy".to_vec()));
        assert_eq!(rig.take_line(0), [] as [bool; 0], "OUT2 is closed");
        assert_eq!(inp(&mut rig, &mut u, 2), iir::RLS);
        inp(&mut rig, &mut u, 5);
        assert_eq!(inp(&mut rig, &mut u, 2), iir::RDA);
        assert_eq!(inp(&mut rig, &mut u, 0), b'y');
        assert_eq!(inp(&mut rig, &mut u, 2), iir::THRE);
        assert_eq!(inp(&mut rig, &mut u, 2), iir::MODEM);
        assert_eq!(inp(&mut rig, &mut u, 6) & msr::DELTAS, 0b1011);
        assert_eq!(inp(&mut rig, &mut u, 2), iir::NONE);
    }

    #[test]
    fn state_goes_round() {
        let (mut rig, mut a) = (Rig::new(), Uart16550::new());
        out(&mut rig, &mut a, 2, fcr::ENABLE);
        a.input(&mut rig.ctx(), &Input::Bytes(b"abc".to_vec()));
        let mut b = Uart16550::new();
        b.load(&a.save()).unwrap();
        assert_eq!(b.save(), a.save());
        assert_eq!(inp(&mut rig, &mut b, 0), b'a');
        assert!(b.load(&a.save()[1..]).is_err());
    }
}
