//! Chips that are one port each.

use serde::{Deserialize, Serialize};
use softmetal_bus::{Channel, Ctx, Device, Request, device_state, ones};

use crate::lanes::read_bytes;

/// The debug console of emulators: bytes written to port 0xE9 go to [`Channel::Debug`]; a load gives 0xE9, which tells
/// a guest that it is there. Region 0: the port.
#[derive(Debug, Default)]
pub struct DebugCon {
    state: (),
}

impl DebugCon {
    /// A console.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Device for DebugCon {
    fn name(&self) -> &'static str {
        "debugcon"
    }
    fn read(&mut self, _ctx: &mut Ctx, _region: u8, _offset: u64, width: usize) -> u64 {
        ones(width) & !0xff | 0xe9
    }
    fn write(&mut self, ctx: &mut Ctx, _region: u8, _offset: u64, _width: usize, value: u64) {
        ctx.output(Channel::Debug, &[value as u8]);
    }
    fn reset(&mut self, _ctx: &mut Ctx) {}
    device_state!(state, 1);
}

/// What a firmware says while it works (port 0x402 of PC emulators): whole lines go to the log, target
/// `softmetal_firmware`. A load gives 0xE9, which tells the firmware that somebody listens. Region 0: the port.
#[derive(Debug, Default)]
pub struct FirmwareConsole {
    state: FirmwareConsoleState,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct FirmwareConsoleState {
    line: Vec<u8>,
}

/// The longest line of a firmware, in bytes.
const LINE: usize = 1024;

impl FirmwareConsole {
    /// A console.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Device for FirmwareConsole {
    fn name(&self) -> &'static str {
        "firmware-console"
    }
    fn read(&mut self, _ctx: &mut Ctx, _region: u8, _offset: u64, width: usize) -> u64 {
        ones(width) & !0xff | 0xe9
    }
    fn write(&mut self, _ctx: &mut Ctx, _region: u8, _offset: u64, _width: usize, value: u64) {
        let line = &mut self.state.line;
        match value as u8 {
            b'\n' => {
                log::debug!(target: "softmetal_firmware", "{}", String::from_utf8_lossy(line).trim_end());
                line.clear();
            }
            byte if line.len() < LINE => line.push(byte),
            _ => {}
        }
    }
    fn reset(&mut self, _ctx: &mut Ctx) {
        self.state.line.clear();
    }
    device_state!(state, 1);
}

/// The debug-exit port (0xF4): what is written ends the run. Region 0: the port, any width.
#[derive(Debug, Default)]
pub struct DebugExit {
    state: (),
}

impl DebugExit {
    /// A debug-exit port.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Device for DebugExit {
    fn name(&self) -> &'static str {
        "debug-exit"
    }
    fn read(&mut self, _ctx: &mut Ctx, _region: u8, _offset: u64, width: usize) -> u64 {
        ones(width)
    }
    fn write(&mut self, ctx: &mut Ctx, _region: u8, _offset: u64, width: usize, value: u64) {
        ctx.request(Request::DebugExit((value & ones(width)) as u32));
    }
    fn reset(&mut self, _ctx: &mut Ctx) {}
    device_state!(state, 1);
}

const FAST_RESET: u8 = 1 << 0;
const FAST_A20: u8 = 1 << 1;

/// System control port A (0x92, from the PS/2): bit 1 is the A20 gate, a rising bit 0 resets. Region 0: the port.
#[derive(Debug)]
pub struct Port92 {
    state: Port92State,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Port92State {
    value: u8,
}

impl Default for Port92 {
    fn default() -> Self {
        Self::new()
    }
}

impl Port92 {
    /// The port with A20 open.
    #[must_use]
    pub fn new() -> Self {
        Self { state: Port92State { value: FAST_A20 } }
    }
}

impl Device for Port92 {
    fn name(&self) -> &'static str {
        "port92"
    }
    fn read(&mut self, _ctx: &mut Ctx, _region: u8, _offset: u64, width: usize) -> u64 {
        ones(width) & !0xff | u64::from(self.state.value)
    }
    fn write(&mut self, ctx: &mut Ctx, _region: u8, _offset: u64, _width: usize, value: u64) {
        let changed = value as u8 ^ self.state.value;
        self.state.value = value as u8;
        if changed & FAST_A20 != 0 {
            ctx.request(Request::A20(self.state.value & FAST_A20 != 0));
        }
        if changed & self.state.value & FAST_RESET != 0 {
            ctx.request(Request::ResetProcessor);
        }
    }
    fn reset(&mut self, ctx: &mut Ctx) {
        *self = Self::new();
        ctx.request(Request::A20(true));
    }
    device_state!(state, 1);
}

/// The logic between a processor's FERR# and IGNNE# and IRQ 13 (PIIX3 datasheet, coprocessor error register at 0xF0): FERR#
/// requests the interrupt; a store to the port takes the request back and asserts IGNNE# until FERR# falls. Region 0: the
/// port. Line 0: the interrupt.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CoprocessorError {
    state: CoprocessorErrorState,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct CoprocessorErrorState {
    ferr: bool,
    ignne: bool,
}

impl CoprocessorError {
    /// The logic at rest.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The processor drives FERR#; the level of IGNNE#.
    pub fn drive(&mut self, ctx: &mut Ctx, ferr: bool) -> bool {
        self.state.ferr = ferr;
        self.state.ignne &= ferr;
        ctx.line(0, ferr && !self.state.ignne);
        self.state.ignne
    }
}

impl Device for CoprocessorError {
    fn name(&self) -> &'static str {
        "coprocessor-error"
    }
    fn read(&mut self, _ctx: &mut Ctx, _region: u8, _offset: u64, width: usize) -> u64 {
        ones(width)
    }
    fn write(&mut self, ctx: &mut Ctx, _region: u8, _offset: u64, _width: usize, _value: u64) {
        self.state.ignne = self.state.ferr;
        ctx.line(0, false);
    }
    fn reset(&mut self, ctx: &mut Ctx) {
        *self = Self::new();
        ctx.line(0, false);
    }
    device_state!(state, 1);
}

const RESET_CPU: u8 = 1 << 2;
const RESET_KEPT: u8 = 0x0a;

/// The reset control register (0xCF9, PIIX3 datasheet): a rising bit 2 resets the machine. Region 0: the port. On a
/// board with PCI it is part of [`crate::pci::PciHost`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ResetControl {
    state: u8,
}

impl ResetControl {
    /// The register.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Device for ResetControl {
    fn name(&self) -> &'static str {
        "reset-control"
    }
    fn read(&mut self, _ctx: &mut Ctx, _region: u8, _offset: u64, width: usize) -> u64 {
        ones(width) & !0xff | u64::from(self.state)
    }
    fn write(&mut self, ctx: &mut Ctx, _region: u8, _offset: u64, _width: usize, value: u64) {
        // Bit 2 falls back by itself: the reset that it starts clears it.
        self.state = value as u8 & RESET_KEPT;
        if value as u8 & RESET_CPU != 0 {
            ctx.request(Request::Reset);
        }
    }
    fn reset(&mut self, _ctx: &mut Ctx) {
        self.state = 0;
    }
    device_state!(state, 1);
}

/// The power-on self-test's progress code (port 0x80), also used as a delay. Region 0: ports from 0x80 on.
#[derive(Debug, Default)]
pub struct PostCode {
    state: PostState,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct PostState {
    code: u8,
}

impl PostCode {
    /// The port.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// The code written last.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.state.code
    }
}

impl Device for PostCode {
    fn name(&self) -> &'static str {
        "post-code"
    }
    fn read(&mut self, _ctx: &mut Ctx, _region: u8, offset: u64, width: usize) -> u64 {
        read_bytes(width, |i| if offset + i == 0 { self.state.code } else { 0xff })
    }
    fn write(&mut self, _ctx: &mut Ctx, _region: u8, offset: u64, _width: usize, value: u64) {
        if offset == 0 {
            self.state.code = value as u8;
            log::trace!("POST code {:#04x}", self.state.code);
        }
    }
    fn reset(&mut self, _ctx: &mut Ctx) {
        self.state = PostState::default();
    }
    device_state!(state, 1);
}

#[cfg(test)]
mod tests {
    use softmetal_bus::Effect;

    use super::*;
    use crate::testing::Rig;

    #[test]
    fn requests() {
        let mut rig = Rig::new();
        let request = |r| [Effect::Request(r)];
        rig.write(&mut DebugExit::new(), 0, 0, 1, 0x1_2ff);
        assert_eq!(rig.take(), request(Request::DebugExit(0xff)));
        rig.write(&mut DebugExit::new(), 0, 0, 4, 0x1234);
        assert_eq!(rig.take(), request(Request::DebugExit(0x1234)));

        let mut port92 = Port92::new();
        rig.write(&mut port92, 0, 0, 1, 2);
        assert_eq!(rig.take(), []);
        rig.write(&mut port92, 0, 0, 1, 0);
        assert_eq!(rig.take(), request(Request::A20(false)));
        rig.write(&mut port92, 0, 0, 1, 1);
        assert_eq!(rig.take(), request(Request::ResetProcessor));
        rig.write(&mut port92, 0, 0, 1, 1);
        assert_eq!(rig.take(), []);

        let mut control = ResetControl::new();
        rig.write(&mut control, 0, 0, 1, 2);
        assert_eq!(rig.take(), []);
        rig.write(&mut control, 0, 0, 1, 0xe);
        assert_eq!(rig.take(), request(Request::Reset));
        assert_eq!(rig.read(&mut control, 0, 0, 1), 0xa);
    }

    #[test]
    fn coprocessor_error() {
        let mut rig = Rig::new();
        let mut logic = CoprocessorError::new();
        let line = |level| [Effect::Line { line: 0, level }];
        assert!(!logic.drive(&mut rig.ctx(), true));
        assert_eq!(rig.take(), line(true));
        rig.write(&mut logic, 0, 0, 1, 0);
        assert_eq!(rig.take(), line(false));
        assert!(logic.drive(&mut rig.ctx(), true));
        assert_eq!(rig.take(), line(false));
        assert!(!logic.drive(&mut rig.ctx(), false));
        assert_eq!(rig.take(), line(false));
        assert!(!logic.drive(&mut rig.ctx(), true));
        assert_eq!(rig.take(), line(true));
    }

    #[test]
    fn debug_console() {
        let mut rig = Rig::new();
        let mut console = DebugCon::new();
        assert_eq!(rig.read(&mut console, 0, 0, 1), 0xe9);
        rig.write(&mut console, 0, 0, 1, b'!'.into());
        assert_eq!(rig.take(), [Effect::Output(Channel::Debug, b"!".to_vec())]);
    }
}
