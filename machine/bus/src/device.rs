//! The device contract.
//!
//! A device is plain data plus behaviour. It is called with a [`Ctx`] that tells the virtual time, reaches guest RAM for
//! DMA, arms timers, and collects [`Effect`]s (interrupt lines, MSIs, output, requests), which the board carries out after
//! the call has returned, in order. So no device ever runs inside another device's call.
//!
//! **Invariant:** a device uses no host clock, thread, file or socket, and no access by the guest can make it panic,
//! loop or allocate without bound.

use serde::{Deserialize, Serialize};

use crate::block::Run;
use crate::{AddressSpace, GuestMemory, Time, TimerQueue};

/// A device's place on its board; also the order of simultaneous timers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceId(pub u16);

/// A stream between a device and the host, named by the device that owns it; the board tells ports apart by [`DeviceId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Channel {
    /// Bytes of a serial port or console.
    Serial,
    /// Bytes of the debug console (port 0xE9).
    Debug,
}

/// Something from outside that reaches a device, stamped by the machine with the instruction count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Bytes for a serial port or console.
    Bytes(Vec<u8>),
    /// Keyboard scan codes (set 1 make and break codes, E0-prefixed where so).
    Scancodes(Vec<u8>),
    /// The mouse moved (right and down are positive), its wheel turned (towards the user is positive), or the buttons (bit 0
    /// left, 1 right, 2 middle, 3 and 4 at the side) are these now.
    Mouse {
        /// Counts to the right.
        dx: i16,
        /// Counts down.
        dy: i16,
        /// Notches towards the user.
        wheel: i8,
        /// The buttons that are pressed.
        buttons: u8,
    },
    /// A device request of the host: the power button (ACPI) was pressed.
    PowerButton,
    /// What the device waits for on the host has ended; see [`Device::waits_for_host`].
    HostDone,
}

/// What a device asks of the whole machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Soft power-off (ACPI S5).
    PowerOff,
    /// Reset of the whole machine (0xCF9, ACPI reset register).
    Reset,
    /// The value written to the debug-exit port.
    DebugExit(u32),
    /// The A20 gate opened (true) or closed.
    A20(bool),
    /// A device's regions moved or were switched on or off (PCI BAR or command register): ask the device again.
    Remap,
    /// The built-in firmware is called: the instruction before this one wrote its trap port.
    Firmware,
    /// INIT# of the processor (keyboard controller, port 0x92). Firmware decides whether the machine starts anew by it.
    ResetProcessor,
}

/// What a device's call brought about; carried out by the board after it, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The device drives its output line `line` (numbered by the device, wired by the board).
    Line {
        /// The device's own number of the line.
        line: u8,
        /// The level it now has.
        level: bool,
    },
    /// A message-signalled interrupt.
    Msi {
        /// Where it is written (0xFEEx_xxxx).
        addr: u64,
        /// What is written.
        data: u32,
    },
    /// Bytes for the host.
    Output(Channel, Vec<u8>),
    /// A request to the machine.
    Request(Request),
    /// Work on the host has begun whose end comes as [`Input::HostDone`]: whoever runs the machine should soon look for it.
    HostWork,
}

/// Why saved state could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The bytes are not the state of this device, or are cut short.
    #[error("the saved state of {0} does not fit this version: {1}")]
    Corrupt(&'static str, String),
}

/// What a device may use while it is called.
pub struct Ctx<'a> {
    /// The virtual time of the call.
    pub now: Time,
    /// Who is called.
    pub id: DeviceId,
    /// Guest RAM.
    pub memory: &'a GuestMemory,
    /// The physical map, for DMA.
    pub space: &'a AddressSpace,
    /// The armed timers.
    pub timers: &'a mut TimerQueue,
    /// What the call brings about.
    pub effects: &'a mut Vec<Effect>,
    /// Slow work on the host (a flush, a read from a disk) ends for the guest when [`Input::HostDone`] comes, as soon as the
    /// host is ready. Otherwise a flush ends [`HOST_TIME`] after it began, a read at once, and the guest's world stands still
    /// if the host takes longer.
    pub host_paced: bool,
}

/// How long slow work on the host takes for the guest where the host does not set the pace, in nanoseconds.
pub const HOST_TIME: u64 = 100_000;

impl Ctx<'_> {
    /// Arms this device's timer `timer` to expire at `at`.
    pub fn arm(&mut self, timer: u32, at: Time) {
        self.timers.arm(self.id, timer, at);
    }
    /// Disarms this device's timer `timer`.
    pub fn cancel(&mut self, timer: u32) {
        self.timers.cancel(self.id, timer);
    }
    /// Slow work on the host has begun: unless the host sets the pace, timer `timer` expires when it ends for the guest.
    pub fn arm_host(&mut self, timer: u32) {
        if self.host_paced {
            self.effects.push(Effect::HostWork);
        } else {
            self.arm(timer, self.now.plus(HOST_TIME));
        }
    }
    /// Drives this device's output line `line`.
    pub fn line(&mut self, line: u8, level: bool) {
        self.effects.push(Effect::Line { line, level });
    }
    /// Sends a message-signalled interrupt.
    pub fn msi(&mut self, addr: u64, data: u32) {
        self.effects.push(Effect::Msi { addr, data });
    }
    /// Hands bytes to the host.
    pub fn output(&mut self, channel: Channel, bytes: &[u8]) {
        self.effects.push(Effect::Output(channel, bytes.to_vec()));
    }
    /// Asks something of the machine.
    pub fn request(&mut self, request: Request) {
        self.effects.push(Effect::Request(request));
    }
    /// Collects the pieces of guest memory behind the first `len` bytes of `list` (physical address, bytes), neighbours as one.
    /// False if there are not so many, or if they are not all memory, or not all of the kind that a device may store to
    /// where `stores` asks for that.
    pub fn runs(&self, list: &[(u64, u32)], len: u64, stores: bool, runs: &mut Vec<Run>) -> bool {
        runs.clear();
        let mut left = len;
        for &(addr, room) in list {
            if left == 0 {
                break;
            }
            let n = left.min(room.into());
            let memory = self.space.each_run(addr, n as usize, |range, offset, writable| {
                match runs.last_mut().filter(|last| last.offset + last.len as u64 == offset) {
                    Some(last) => last.len += range.len(),
                    None => runs.push(Run { offset, len: range.len() }),
                }
                writable || !stores
            });
            if !memory {
                return false;
            }
            left -= n;
        }
        left == 0
    }
    /// DMA read of guest RAM or ROM at physical `addr`. False (and `buf` all ones, and a log line) if any byte of it is
    /// not memory: DMA to device registers is refused.
    pub fn dma_read(&self, addr: u64, buf: &mut [u8]) -> bool {
        let ok = self.space.each_run(addr, buf.len(), |at, offset, _| {
            let len = (buf.len() - at.start).min(at.len());
            self.memory.read(offset, &mut buf[at.start..at.start + len]).is_ok()
        });
        if !ok {
            log::warn!("device {}: DMA read of {} bytes at {addr:#x} refused: not all of it is memory", self.id.0, buf.len());
            buf.fill(0xff);
        }
        ok
    }
    /// DMA write to guest RAM at physical `addr`. False (and nothing written, and a log line) if any byte is not RAM.
    pub fn dma_write(&self, addr: u64, buf: &[u8]) -> bool {
        let writable = self.space.each_run(addr, buf.len(), |_, _, writable| writable);
        let ok = writable && self.space.each_run(addr, buf.len(), |at, offset, _| self.memory.write(offset, &buf[at]).is_ok());
        if !ok {
            log::warn!("device {}: DMA write of {} bytes at {addr:#x} refused: not all of it is RAM", self.id.0, buf.len());
        }
        ok
    }
    /// A little-endian integer by DMA; all ones if refused.
    #[must_use]
    pub fn dma_u16(&self, addr: u64) -> u16 {
        let mut b = [0; 2];
        self.dma_read(addr, &mut b);
        u16::from_le_bytes(b)
    }
    /// A little-endian integer by DMA; all ones if refused.
    #[must_use]
    pub fn dma_u32(&self, addr: u64) -> u32 {
        let mut b = [0; 4];
        self.dma_read(addr, &mut b);
        u32::from_le_bytes(b)
    }
    /// A little-endian integer by DMA; all ones if refused.
    #[must_use]
    pub fn dma_u64(&self, addr: u64) -> u64 {
        let mut b = [0; 8];
        self.dma_read(addr, &mut b);
        u64::from_le_bytes(b)
    }
}

/// A chip. `region` is the number under which the board (or the device's own BAR) mapped the range, `offset` the byte
/// within it, `width` 1, 2, 4 or 8. Registers that do not exist read as all ones ([`crate::ones`]) and ignore writes,
/// with a log line.
pub trait Device: Send {
    /// The chip's name in logs and saved state.
    fn name(&self) -> &'static str;
    /// A guest load.
    fn read(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize) -> u64;
    /// A guest store.
    fn write(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize, value: u64);
    /// Timer `timer`, armed by [`Ctx::arm`], has expired (it is disarmed now).
    fn timer(&mut self, ctx: &mut Ctx, timer: u32) {
        let _ = (ctx, timer);
    }
    /// Something from outside; see [`Device::input_room`].
    fn input(&mut self, ctx: &mut Ctx, input: &Input) {
        let _ = (ctx, input);
    }
    /// How many more bytes of [`Input::Bytes`] or [`Input::Scancodes`] the device can take now.
    fn input_room(&self) -> usize {
        0
    }
    /// Whether the device waits for work on the host, and then whether that has ended, so that [`Input::HostDone`] can come.
    fn waits_for_host(&mut self) -> Option<bool> {
        None
    }
    /// One of the device's *input* lines (numbered by the device, wired by the board) changed.
    fn line_in(&mut self, ctx: &mut Ctx, line: u8, level: bool) {
        let _ = (ctx, line, level);
    }
    /// Power-on reset. Timers must be cancelled or re-armed, lines driven low.
    fn reset(&mut self, ctx: &mut Ctx);
    /// The volatile state, versioned.
    fn save(&self) -> Vec<u8>;
    /// Puts saved state back.
    ///
    /// # Errors
    /// [`StateError`] when the bytes do not fit; the device is then unchanged.
    fn load(&mut self, bytes: &[u8]) -> Result<(), StateError>;
}

/// The `save` and `load` of a device whose volatile state is the serde field `self.$field`; `$version` leads the bytes.
#[macro_export]
macro_rules! device_state {
    ($field:ident, $version:expr) => {
        fn save(&self) -> Vec<u8> {
            $crate::device::encode($version, &self.$field)
        }
        fn load(&mut self, bytes: &[u8]) -> Result<(), $crate::StateError> {
            self.$field = $crate::device::decode($crate::Device::name(self), $version, bytes)?;
            Ok(())
        }
    };
}

/// Serialises `state` after its format version.
pub fn encode<S: Serialize>(version: u8, state: &S) -> Vec<u8> {
    postcard::to_stdvec(&(version, state)).expect("plain data always serialises")
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`StateError::Corrupt`] for another version, a truncated or overlong text.
pub fn decode<S: for<'de> Deserialize<'de>>(name: &'static str, version: u8, bytes: &[u8]) -> Result<S, StateError> {
    let corrupt = |e: &dyn std::fmt::Display| StateError::Corrupt(name, e.to_string());
    let (found, rest): (u8, _) = postcard::take_from_bytes(bytes).map_err(|e| corrupt(&e))?;
    if found != version {
        return Err(corrupt(&format!("version {found}, this program reads version {version}")));
    }
    let (state, rest) = postcard::take_from_bytes(rest).map_err(|e| corrupt(&e))?;
    if !rest.is_empty() {
        return Err(corrupt(&format!("{} bytes too many", rest.len())));
    }
    Ok(state)
}
