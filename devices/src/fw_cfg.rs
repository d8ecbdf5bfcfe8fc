//! The firmware configuration device of PC emulators (QEMU's `docs/specs/fw_cfg`): numbered items and named files by which a
//! firmware learns what board it is on.
//!
//! Region 0 = ports 0x510 (selector, 16 bits) and 0x511 (data); region 1 = ports 0x514 to 0x51B (address of a DMA request,
//! big-endian, high half first; storing the low half starts it). The items are read-only.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use softmetal_bus::{Ctx, Device, device_state, ones};

use crate::lanes::read_bytes;

/// Numbers of items.
pub mod key {
    /// `QEMU`.
    pub const SIGNATURE: u16 = 0x00;
    /// Bit 0: the ports, bit 1: DMA.
    pub const ID: u16 = 0x01;
    /// RAM in bytes, 64 bits.
    pub const RAM_SIZE: u16 = 0x03;
    /// No display, 16 bits.
    pub const NO_GRAPHICS: u16 = 0x04;
    /// Processors at power-on, 16 bits.
    pub const CPUS: u16 = 0x05;
    /// Address of the kernel, 32 bits.
    pub const KERNEL_ADDR: u16 = 0x07;
    /// Size of the kernel, 32 bits.
    pub const KERNEL_SIZE: u16 = 0x08;
    /// Address of the initrd, 32 bits.
    pub const INITRD_ADDR: u16 = 0x0a;
    /// Size of the initrd, 32 bits.
    pub const INITRD_SIZE: u16 = 0x0b;
    /// Boot menu, 16 bits.
    pub const BOOT_MENU: u16 = 0x0e;
    /// Most processors, 16 bits.
    pub const MAX_CPUS: u16 = 0x0f;
    /// The kernel's protected-mode part.
    pub const KERNEL_DATA: u16 = 0x11;
    /// The initrd.
    pub const INITRD_DATA: u16 = 0x12;
    /// Address of the command line, 32 bits.
    pub const CMDLINE_ADDR: u16 = 0x13;
    /// Size of the command line with its NUL, 32 bits.
    pub const CMDLINE_SIZE: u16 = 0x14;
    /// The command line.
    pub const CMDLINE_DATA: u16 = 0x15;
    /// Address of the kernel's real-mode part, 32 bits.
    pub const SETUP_ADDR: u16 = 0x16;
    /// Size of the kernel's real-mode part, 32 bits.
    pub const SETUP_SIZE: u16 = 0x17;
    /// The kernel's real-mode part.
    pub const SETUP_DATA: u16 = 0x18;
    /// The directory of files.
    pub const DIRECTORY: u16 = 0x19;
    /// The first file.
    pub const FIRST_FILE: u16 = 0x20;
}

const SIGNATURE: [u8; 4] = *b"QEMU";
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";
const ID: u32 = 0b11;
/// Bytes of a file's name in the directory, with its NUL.
const NAME: usize = 56;

/// Bits of a DMA request's control word; the high half selects an item.
mod control {
    pub const ERROR: u32 = 1 << 0;
    pub const READ: u32 = 1 << 1;
    pub const SKIP: u32 = 1 << 2;
    pub const SELECT: u32 = 1 << 3;
    pub const WRITE: u32 = 1 << 4;
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    key: u16,
    offset: u32,
    /// The high half of the address of the next DMA request.
    high: u32,
}

/// The device.
pub struct FwCfg {
    items: BTreeMap<u16, Arc<[u8]>>,
    files: BTreeMap<String, u16>,
    state: State,
}

impl Default for FwCfg {
    fn default() -> Self {
        Self::new()
    }
}

impl FwCfg {
    /// A device without files.
    #[must_use]
    pub fn new() -> Self {
        let mut new = Self { items: BTreeMap::new(), files: BTreeMap::new(), state: State::default() };
        new.set(key::SIGNATURE, SIGNATURE);
        new.set(key::ID, ID.to_le_bytes());
        new.directory();
        new
    }

    /// Sets an item.
    pub fn set(&mut self, key: u16, bytes: impl Into<Arc<[u8]>>) {
        self.items.insert(key, bytes.into());
    }

    /// Adds a file, or changes what is in it. A name is at most 55 bytes.
    pub fn set_file(&mut self, name: &str, bytes: impl Into<Arc<[u8]>>) {
        assert!(name.len() < NAME);
        let next = key::FIRST_FILE + self.files.len() as u16;
        let key = *self.files.entry(name.into()).or_insert(next);
        self.set(key, bytes);
        self.directory();
    }

    fn directory(&mut self) {
        let mut bytes = (self.files.len() as u32).to_be_bytes().to_vec();
        for (name, key) in &self.files {
            let len = self.items.get(key).map_or(0, |item| item.len());
            bytes.extend((len as u32).to_be_bytes());
            bytes.extend(key.to_be_bytes());
            bytes.extend([0; 2]);
            let mut padded = [0; NAME];
            padded[..name.len()].copy_from_slice(name.as_bytes());
            bytes.extend(padded);
        }
        self.set(key::DIRECTORY, bytes);
    }

    fn select(&mut self, key: u16) {
        log::trace!("fw_cfg: item {key:#x}");
        self.state.key = key;
        self.state.offset = 0;
    }

    /// What is left of the selected item; past its end there are zeros without end.
    fn rest(&self) -> &[u8] {
        self.items.get(&self.state.key).and_then(|item| item.get(self.state.offset as usize..)).unwrap_or_default()
    }

    fn skip(&mut self, len: u32) {
        self.state.offset = self.state.offset.saturating_add(len);
    }

    fn next_byte(&mut self) -> u8 {
        let byte = self.rest().first().copied().unwrap_or(0);
        self.skip(1);
        byte
    }

    /// Copies `len` bytes to the guest.
    fn copy(&mut self, ctx: &mut Ctx, addr: u64, len: u32) -> bool {
        let rest = self.rest();
        let some = &rest[..rest.len().min(len as usize)];
        let mut done = some.is_empty() || ctx.dma_write(addr, some);
        let mut at = some.len() as u64;
        while done && at < len.into() {
            let zeros = [0; 4096];
            let n = (u64::from(len) - at).min(4096);
            done = addr.checked_add(at).is_some_and(|addr| ctx.dma_write(addr, &zeros[..n as usize]));
            at += n;
        }
        self.skip(len);
        done
    }

    /// Carries out the request at `addr`: control word, length, address, big-endian.
    fn dma(&mut self, ctx: &mut Ctx, addr: u64) {
        let mut request = [0; 16];
        if !ctx.dma_read(addr, &mut request) {
            return;
        }
        let word = |at: usize| u32::from_be_bytes([request[at], request[at + 1], request[at + 2], request[at + 3]]);
        let (control, len, to) = (word(0), word(4), u64::from(word(8)) << 32 | u64::from(word(12)));
        if control & control::SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let done = if control & control::READ != 0 {
            self.copy(ctx, to, len)
        } else if control & control::WRITE != 0 {
            false
        } else {
            if control & control::SKIP != 0 {
                self.skip(len);
            }
            true
        };
        let answer = if done { 0 } else { control::ERROR };
        ctx.dma_write(addr, &answer.to_be_bytes());
    }
}

impl Device for FwCfg {
    fn name(&self) -> &'static str {
        "fw_cfg"
    }
    fn read(&mut self, _ctx: &mut Ctx, region: u8, offset: u64, width: usize) -> u64 {
        match (region, offset) {
            (0, 1) => read_bytes(width, |_| self.next_byte()),
            (1, _) => read_bytes(width, |i| DMA_SIGNATURE.get((offset + i) as usize).copied().unwrap_or(0xff)),
            _ => ones(width),
        }
    }
    fn write(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize, value: u64) {
        match (region, offset, width) {
            (0, 0, 2..) => self.select(value as u16),
            (1, 0, 4) => self.state.high = (value as u32).swap_bytes(),
            (1, 4, 4) => {
                let addr = u64::from(std::mem::take(&mut self.state.high)) << 32 | u64::from((value as u32).swap_bytes());
                self.dma(ctx, addr);
            }
            _ => log::debug!("fw_cfg: {width}-byte store of {value:#x} to region {region}, offset {offset:#x} ignored"),
        }
    }
    fn reset(&mut self, _ctx: &mut Ctx) {
        self.state = State::default();
    }
    device_state!(state, 1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rig;

    #[test]
    fn items_by_port() {
        let (mut rig, mut cfg) = (Rig::new(), FwCfg::new());
        cfg.set_file("etc/b", *b"second");
        cfg.set_file("etc/a", *b"first");
        rig.write(&mut cfg, 0, 0, 2, 0);
        let text: Vec<u8> = (0..6).map(|_| rig.read(&mut cfg, 0, 1, 1) as u8).collect();
        assert_eq!(text, b"QEMU\0\0");
        rig.write(&mut cfg, 0, 0, 2, key::DIRECTORY.into());
        let directory: Vec<u8> = (0..132).map(|_| rig.read(&mut cfg, 0, 1, 1) as u8).collect();
        assert_eq!(directory[..18], *b"\0\0\0\x02\0\0\0\x05\0\x21\0\0etc/a\0");
        assert_eq!(directory[68..82], *b"\0\0\0\x06\0\x20\0\0etc/b\0");
        rig.write(&mut cfg, 0, 0, 2, 0x21);
        assert_eq!(rig.read(&mut cfg, 0, 1, 4), u64::from(u32::from_le_bytes(*b"firs")));
    }

    #[test]
    fn items_by_dma() {
        let (mut rig, mut cfg) = (Rig::new(), FwCfg::new());
        cfg.set_file("etc/file", (1..=200).collect::<Vec<u8>>());
        assert_eq!(rig.read(&mut cfg, 1, 0, 4), u64::from(u32::from_le_bytes(*b"QEMU")));
        let request = |rig: &mut Rig, cfg: &mut FwCfg, control: u32, len: u32, to: u64| {
            let bytes = [control.to_be_bytes().to_vec(), len.to_be_bytes().to_vec(), to.to_be_bytes().to_vec()].concat();
            rig.memory.write(0x1000, &bytes).unwrap();
            rig.write(cfg, 1, 0, 4, 0);
            rig.write(cfg, 1, 4, 4, u64::from(0x1000u32.swap_bytes()));
            let mut answer = [0; 4];
            rig.memory.read(0x1000, &mut answer).unwrap();
            u32::from_be_bytes(answer)
        };
        assert_eq!(request(&mut rig, &mut cfg, 0x20 << 16 | control::SELECT | control::SKIP, 100, 0), 0);
        assert_eq!(request(&mut rig, &mut cfg, control::READ, 102, 0x2000), 0);
        let mut bytes = [9; 103];
        rig.memory.read(0x2000, &mut bytes).unwrap();
        assert_eq!([bytes[0], bytes[99], bytes[100], bytes[101]], [101, 200, 0, 0]);
        assert_eq!(request(&mut rig, &mut cfg, control::WRITE, 1, 0x2000), control::ERROR);
        // Past the end of RAM; without end.
        assert_eq!(request(&mut rig, &mut cfg, 0x20 << 16 | control::SELECT | control::READ, 100, Rig::RAM - 1), control::ERROR);
        assert_eq!(request(&mut rig, &mut cfg, control::READ, !0, 0x2000), control::ERROR);
        assert_eq!(request(&mut rig, &mut cfg, control::READ, 4, !1), control::ERROR);
    }
}
