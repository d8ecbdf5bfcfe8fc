//! A parallel NOR flash chip with the Intel command set (Intel StrataFlash P30 datasheet; JEDEC JESD68.01 for its query
//! table), 8 bits wide.
//!
//! Region 0 is the whole chip. Its contents lie in guest memory: while the chip is in read-array mode the board lets loads
//! go there directly ([`Flash::array`]) and only stores, which are commands, come here. Every change is also written to
//! the store behind the chip, if there is one, before the guest can see that it is done.

use serde::{Deserialize, Serialize};
use softmetal_bus::{BlockBackend, Ctx, Device, Request, device_state, ones};

use crate::lanes::{read_bytes, write_bytes};

/// Bytes of an erase block.
pub const BLOCK: u64 = 4096;
/// The most bytes of one buffered program.
const BUFFER: usize = 256;
/// Manufacturer (Intel) and device.
const IDENTITY: [u8; 2] = [0x89, 0x18];

/// Bits of the status register.
mod status {
    pub const READY: u8 = 1 << 7;
    pub const ERASE_ERROR: u8 = 1 << 5;
    pub const PROGRAM_ERROR: u8 = 1 << 4;
}

mod command {
    pub const PROGRAM: [u8; 2] = [0x10, 0x40];
    pub const ERASE: u8 = 0x20;
    pub const CLEAR_STATUS: u8 = 0x50;
    pub const LOCK: u8 = 0x60;
    pub const READ_STATUS: u8 = 0x70;
    pub const READ_IDENTITY: u8 = 0x90;
    pub const QUERY: u8 = 0x98;
    pub const CONFIRM: u8 = 0xd0;
    pub const BUFFERED: u8 = 0xe8;
    pub const READ_ARRAY: u8 = 0xff;
}

/// What loads see, and what the next store means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Mode {
    #[default]
    Array,
    Status,
    Identity,
    Query,
    /// The next store is a byte to program.
    Program,
    /// The next store confirms an erasure.
    Erase,
    /// The next store locks or unlocks a block; there is nothing to lock.
    Lock,
    /// The next store is the number of bytes less one.
    Count,
    /// So many bytes are still to come.
    Fill(u16),
    /// The next store confirms the program of the buffer.
    Confirm,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    mode: Mode,
    status: u8,
    /// Where the buffer goes, and what is in it.
    start: u64,
    buffer: Vec<(u64, u8)>,
}

/// The chip.
pub struct Flash {
    // Configuration.
    base: u64,
    len: u64,
    // Glue.
    store: Option<Box<dyn BlockBackend>>,
    // Volatile.
    state: State,
}

impl Flash {
    /// A chip whose `len` bytes (whole blocks) are those at offset `base` in guest memory; changes also go to `store`.
    #[must_use]
    pub fn new(base: u64, len: u64, store: Option<Box<dyn BlockBackend>>) -> Self {
        Self { base, len, store, state: State::default() }
    }

    /// Its size in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no chip.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where loads go directly, as an offset in guest memory; `None` while the chip answers them.
    #[must_use]
    pub fn array(&self) -> Option<u64> {
        (self.state.mode == Mode::Array).then_some(self.base)
    }

    /// Changes bytes: in the store first, then where the guest sees them. False if either is not possible.
    fn change(&mut self, ctx: &mut Ctx, at: u64, bytes: &[u8]) -> bool {
        if at.checked_add(bytes.len() as u64).is_none_or(|end| end > self.len) {
            return false;
        }
        if let Some(store) = &mut self.store {
            if let Err(e) = store.write_at(at, bytes).and_then(|()| store.flush()) {
                log::error!("flash: its file cannot be written: {e}");
                return false;
            }
        }
        ctx.memory.write(self.base + at, bytes).is_ok()
    }

    /// Programs bytes: a bit can only become 0.
    fn program(&mut self, ctx: &mut Ctx, at: u64, bytes: &[u8]) {
        let mut old = vec![0; bytes.len()];
        let inside = at < self.len && ctx.memory.read(self.base + at, &mut old).is_ok();
        let new: Vec<u8> = old.iter().zip(bytes).map(|(old, new)| old & new).collect();
        let done = inside && self.change(ctx, at, &new);
        self.state.status |= status::READY | if done { 0 } else { status::PROGRAM_ERROR };
    }

    fn erase(&mut self, ctx: &mut Ctx, at: u64) {
        let done = self.change(ctx, at & !(BLOCK - 1), &[0xff; BLOCK as usize]);
        self.state.status |= status::READY | if done { 0 } else { status::ERASE_ERROR };
    }

    /// The buffer, whose bytes may have come in any order; bytes that did not come stay as they are.
    fn program_buffer(&mut self, ctx: &mut Ctx) {
        let start = self.state.start;
        let mut bytes = [0xff; BUFFER];
        for (at, byte) in std::mem::take(&mut self.state.buffer) {
            match at.checked_sub(start).and_then(|i| bytes.get_mut(i as usize)) {
                Some(slot) => *slot = byte,
                None => self.state.status |= status::PROGRAM_ERROR,
            }
        }
        let len = self.len.saturating_sub(start).min(BUFFER as u64) as usize;
        self.program(ctx, start, &bytes[..len]);
    }

    fn command(&mut self, byte: u8) -> Mode {
        match byte {
            _ if command::PROGRAM.contains(&byte) => Mode::Program,
            command::ERASE => Mode::Erase,
            command::LOCK => Mode::Lock,
            command::READ_STATUS => Mode::Status,
            command::READ_IDENTITY => Mode::Identity,
            command::QUERY => Mode::Query,
            command::BUFFERED => {
                self.state.status |= status::READY;
                Mode::Count
            }
            command::CLEAR_STATUS => {
                self.state.status = 0;
                Mode::Array
            }
            0 | command::READ_ARRAY => Mode::Array,
            _ => {
                log::debug!("flash: command {byte:#04x} does not exist");
                Mode::Array
            }
        }
    }

    fn store_byte(&mut self, ctx: &mut Ctx, at: u64, byte: u8) {
        let before = self.state.mode;
        self.state.mode = match before {
            Mode::Array | Mode::Status | Mode::Identity | Mode::Query => self.command(byte),
            Mode::Program => {
                self.program(ctx, at, &[byte]);
                Mode::Status
            }
            Mode::Erase if byte == command::CONFIRM => {
                self.erase(ctx, at);
                Mode::Status
            }
            Mode::Erase | Mode::Lock if byte == command::READ_ARRAY => Mode::Array,
            Mode::Erase => {
                self.state.status |= status::READY | status::ERASE_ERROR | status::PROGRAM_ERROR;
                Mode::Status
            }
            Mode::Lock => {
                self.state.status |= status::READY;
                Mode::Status
            }
            Mode::Count => {
                self.state.buffer.clear();
                Mode::Fill(u16::from(byte) + 1)
            }
            Mode::Fill(left) => {
                if self.state.buffer.is_empty() {
                    self.state.start = at;
                }
                self.state.buffer.push((at, byte));
                if left > 1 { Mode::Fill(left - 1) } else { Mode::Confirm }
            }
            Mode::Confirm if byte == command::CONFIRM => {
                self.program_buffer(ctx);
                Mode::Status
            }
            Mode::Confirm => {
                self.state.buffer.clear();
                self.state.status |= status::READY | status::PROGRAM_ERROR;
                Mode::Status
            }
        };
        if (before == Mode::Array) != (self.state.mode == Mode::Array) {
            ctx.request(Request::Remap);
        }
    }

    /// The query table (JESD68.01), of which byte 0x10 is the first.
    fn query(&self, at: u64) -> u8 {
        let blocks = (self.len / BLOCK).saturating_sub(1).min(0xffff) as u16;
        let [blocks_low, blocks_high] = blocks.to_le_bytes();
        let size = self.len.next_power_of_two().trailing_zeros() as u8;
        let [block_low, block_high] = ((BLOCK / 256) as u16).to_le_bytes();
        // "QRY", the Intel command set with its extended table at 0x31, no alternative; voltages; times; the geometry.
        let table = [
            b'Q',
            b'R',
            b'Y',
            0x01,
            0x00,
            0x31,
            0x00,
            0x00,
            0x00,
            0x00,
            0x00,
            0x45,
            0x55,
            0x00,
            0x00,
            0x07,
            0x07,
            0x0a,
            0x00,
            0x04,
            0x04,
            0x04,
            0x00,
            size,
            0x00,
            0x00,
            0x08,
            0x00,
            0x01,
            blocks_low,
            blocks_high,
            block_low,
            block_high,
            b'P',
            b'R',
            b'I',
            b'1',
            b'0',
        ];
        at.checked_sub(0x10).and_then(|i| table.get(i as usize)).copied().unwrap_or(0)
    }

    fn load_byte(&self, ctx: &Ctx, at: u64) -> u8 {
        match self.state.mode {
            Mode::Array => {
                let mut byte = [0xff];
                if at < self.len && ctx.memory.read(self.base + at, &mut byte).is_err() {
                    byte = [0xff];
                }
                byte[0]
            }
            Mode::Identity => IDENTITY.get((at & 0xff) as usize).copied().unwrap_or(0),
            Mode::Query => self.query(at & 0xff),
            _ => self.state.status,
        }
    }
}

impl Device for Flash {
    fn name(&self) -> &'static str {
        "flash"
    }
    fn read(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize) -> u64 {
        if region != 0 {
            return ones(width);
        }
        read_bytes(width, |i| self.load_byte(ctx, offset + i))
    }
    fn write(&mut self, ctx: &mut Ctx, _region: u8, offset: u64, width: usize, value: u64) {
        // The chip is 8 bits wide: a wider store is several cycles.
        write_bytes(width, value, |i, byte| self.store_byte(ctx, offset + i, byte));
    }
    fn reset(&mut self, ctx: &mut Ctx) {
        self.state = State::default();
        ctx.request(Request::Remap);
    }
    device_state!(state, 1);
}

#[cfg(test)]
mod tests {
    use softmetal_bus::Effect;

    use super::*;
    use crate::testing::Rig;

    const BASE: u64 = 0x4_0000;

    fn chip() -> (Rig, Flash) {
        let rig = Rig::new();
        rig.memory.write(BASE, &[0xff; 2 * BLOCK as usize]).unwrap();
        (rig, Flash::new(BASE, 2 * BLOCK, Some(Box::new(vec![0xff; 2 * BLOCK as usize]))))
    }

    fn array(rig: &Rig, at: u64) -> u8 {
        let mut byte = [0];
        rig.memory.read(BASE + at, &mut byte).unwrap();
        byte[0]
    }

    #[test]
    fn programs_and_erases() {
        let (mut rig, mut flash) = chip();
        for byte in [0x5a, 0xf0] {
            rig.write(&mut flash, 0, 0x1003, 1, 0x40);
            assert_eq!(flash.array(), None);
            rig.write(&mut flash, 0, 0x1003, 1, byte);
            assert_eq!(rig.read(&mut flash, 0, 0, 1), 0x80);
            rig.write(&mut flash, 0, 0, 1, 0xff);
        }
        assert_eq!(flash.array(), Some(BASE));
        assert_eq!(rig.take(), [const { Effect::Request(Request::Remap) }; 4]);
        assert_eq!(array(&rig, 0x1003), 0x50, "bits only become 0");
        let mut stored = [0];
        flash.store.as_mut().unwrap().read_at(0x1003, &mut stored).unwrap();
        assert_eq!(stored, [0x50]);
        rig.write(&mut flash, 0, 0x1fff, 1, 0x20);
        rig.write(&mut flash, 0, 0x1fff, 1, 0xd0);
        assert_eq!(array(&rig, 0x1003), 0xff);
        rig.write(&mut flash, 0, 0x10, 1, 0x20);
        rig.write(&mut flash, 0, 0x10, 1, 0x00);
        assert_eq!(rig.read(&mut flash, 0, 5, 2), 0xb0b0, "an erasure must be confirmed");
        rig.write(&mut flash, 0, 0, 1, 0x50);
        rig.write(&mut flash, 0, 0, 1, 0x70);
        assert_eq!(rig.read(&mut flash, 0, 0, 1), 0);
    }

    #[test]
    fn programs_a_buffer() {
        let (mut rig, mut flash) = chip();
        rig.write(&mut flash, 0, 0x20, 1, 0xe8);
        assert_eq!(rig.read(&mut flash, 0, 0x20, 1), 0x80);
        rig.write(&mut flash, 0, 0x20, 1, 3);
        rig.write(&mut flash, 0, 0x20, 4, 0x4433_2211);
        rig.write(&mut flash, 0, 0x20, 1, 0xd0);
        assert_eq!(rig.read(&mut flash, 0, 0x20, 1), 0x80);
        assert_eq!([0x1f, 0x20, 0x23, 0x24].map(|at| array(&rig, at)), [0xff, 0x11, 0x44, 0xff]);
        // A buffer that leaves its range, and one that is not confirmed.
        for (second, confirm) in [(0x1020, 0xd0), (0x21, 0)] {
            rig.write(&mut flash, 0, 0, 1, 0x50);
            for (at, byte) in [(0x20, 0xe8), (0x20, 1), (0x20, 0), (second, 0), (0x20, confirm)] {
                rig.write(&mut flash, 0, at, 1, byte);
            }
            assert_eq!(rig.read(&mut flash, 0, 0x20, 1), 0x90);
        }
        assert_eq!(array(&rig, 0x21), 0x22);
    }

    #[test]
    fn identifies_itself() {
        let (mut rig, mut flash) = chip();
        rig.write(&mut flash, 0, 0, 1, 0x90);
        assert_eq!(rig.read(&mut flash, 0, 0, 2), 0x1889);
        rig.write(&mut flash, 0, 0x55, 1, 0x98);
        assert_eq!(rig.read(&mut flash, 0, 0x10, 4), u64::from(u32::from_le_bytes(*b"QRY\x01")));
        assert_eq!(rig.read(&mut flash, 0, 0x27, 1), 13, "8 KiB");
        assert_eq!(rig.read(&mut flash, 0, 0x2d, 4), 0x0010_0001, "two blocks of 16 x 256 bytes");
    }

    #[test]
    fn a_store_that_fails_is_an_error() {
        let (mut rig, mut flash) = chip();
        flash.store = Some(Box::new(Vec::new()));
        rig.write(&mut flash, 0, 0, 1, 0x10);
        rig.write(&mut flash, 0, 0, 1, 0);
        assert_eq!(rig.read(&mut flash, 0, 0, 1), 0x90);
        assert_eq!(array(&rig, 0), 0xff);
    }
}
