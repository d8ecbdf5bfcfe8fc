//! A function's configuration space: header type 0, base address registers, capabilities (PCI Local Bus 3.0, chapter 6).

use serde::{Deserialize, Serialize};
use softmetal_bus::ones;

/// Bits of the command register (offset 0x04).
pub mod command {
    /// Answers in I/O space.
    pub const IO: u16 = 1 << 0;
    /// Answers in memory space.
    pub const MEMORY: u16 = 1 << 1;
    /// May start transactions.
    pub const MASTER: u16 = 1 << 2;
    /// INTx# is off.
    pub const INTX_DISABLE: u16 = 1 << 10;
    pub(super) const KEPT: u16 = 0x0547;
}

/// Offsets of registers in the header.
mod at {
    pub const COMMAND: usize = 0x04;
    pub const STATUS: usize = 0x06;
    pub const CACHE_LINE: usize = 0x0c;
    pub const LATENCY: usize = 0x0d;
    pub const HEADER_TYPE: usize = 0x0e;
    pub const BARS: usize = 0x10;
    pub const SUBSYSTEM: usize = 0x2c;
    pub const ROM: usize = 0x30;
    pub const CAPABILITIES: usize = 0x34;
    pub const INTERRUPT_LINE: usize = 0x3c;
    pub const INTERRUPT_PIN: usize = 0x3d;
}
const STATUS_INTERRUPT: u8 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;
const FIRST_CAPABILITY: usize = 0x40;
/// The expansion ROM is switched on.
const ROM_ENABLE: u32 = 1;

/// What a function is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device, as the vendor numbers it.
    pub device: u16,
    /// Base class, sub-class and programming interface, 24 bits.
    pub class: u32,
    /// Revision.
    pub revision: u8,
    /// Subsystem vendor and subsystem.
    pub subsystem: (u16, u16),
    /// Function 0 of several.
    pub multifunction: bool,
    /// INTA# = 1 to INTD# = 4; 0 is none.
    pub interrupt_pin: u8,
}

/// The space a base address register lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere, prefetchable; takes the next register too.
    Memory64,
}

/// The space that an enabled base address register answers in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingKind {
    /// I/O ports.
    Io,
    /// Memory.
    Memory,
}

/// The region number of the expansion ROM, after those of the six base address registers.
pub const ROM_BAR: u8 = 6;

/// Where an enabled base address register answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarMapping {
    /// Its index, which is the region number for [`softmetal_bus::Device`].
    pub bar: u8,
    /// Its space.
    pub kind: MappingKind,
    /// First address or port.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bar {
    kind: BarKind,
    len: u64,
}

/// The 256 bytes, as they are saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Registers([u8; 256]);

impl TryFrom<Vec<u8>> for Registers {
    type Error = &'static str;
    fn try_from(bytes: Vec<u8>) -> Result<Self, Self::Error> {
        let bytes = bytes.try_into().map_err(|_| "configuration space is 256 bytes");
        bytes.map(Self)
    }
}

impl From<Registers> for Vec<u8> {
    fn from(registers: Registers) -> Self {
        registers.0.to_vec()
    }
}

/// A function's 256 bytes of configuration space. Each bit is either writable or constant to the guest.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    mask: [u8; 256],
    defaults: [u8; 256],
    bars: [Option<Bar>; 6],
    /// Bytes of the expansion ROM; 0 is none.
    rom: u64,
    /// Where the next capability goes, and the link that will point to it.
    next_capability: usize,
    link: usize,
    registers: Registers,
}

impl ConfigSpace {
    /// A header without base address registers or capabilities.
    #[must_use]
    pub fn new(id: Identity) -> Self {
        let mut c = Self {
            mask: [0; 256],
            defaults: [0; 256],
            bars: [None; 6],
            rom: 0,
            next_capability: FIRST_CAPABILITY,
            link: at::CAPABILITIES,
            registers: Registers([0; 256]),
        };
        c.define(0, &id.vendor.to_le_bytes(), &[]);
        c.define(2, &id.device.to_le_bytes(), &[]);
        c.define(at::COMMAND, &[0; 2], &command::KEPT.to_le_bytes());
        let [interface, sub, base, _] = id.class.to_le_bytes();
        c.define(8, &[id.revision, interface, sub, base], &[]);
        c.define(at::CACHE_LINE, &[0], &[0xff]);
        c.define(at::LATENCY, &[0], &[0xf8]);
        c.define(at::HEADER_TYPE, &[u8::from(id.multifunction) << 7], &[]);
        c.define(at::SUBSYSTEM, &id.subsystem.0.to_le_bytes(), &[]);
        c.define(at::SUBSYSTEM + 2, &id.subsystem.1.to_le_bytes(), &[]);
        c.define(at::INTERRUPT_LINE, &[0], &[0xff]);
        c.define(at::INTERRUPT_PIN, &[id.interrupt_pin], &[]);
        c
    }

    /// Sets the reset value of the bytes from `offset` on, and which of their bits the guest may write (`mask`; what is
    /// missing of it is constant). For the builder of a device.
    pub fn define(&mut self, offset: usize, value: &[u8], mask: &[u8]) {
        self.defaults[offset..offset + value.len()].copy_from_slice(value);
        self.registers.0[offset..offset + value.len()].copy_from_slice(value);
        self.mask[offset..offset + mask.len()].copy_from_slice(mask);
    }

    /// Adds base address register `bar` with a range of `len` bytes, a power of two (at least 16 for memory, 4 for I/O).
    pub fn add_bar(&mut self, bar: u8, kind: BarKind, len: u64) {
        assert!(len.is_power_of_two() && len >= if kind == BarKind::Io { 4 } else { 16 });
        let offset = at::BARS + 4 * usize::from(bar);
        let flags: u8 = match kind {
            BarKind::Io => 1,
            BarKind::Memory32 => 0,
            BarKind::Memory64 => 0b1100,
        };
        let mask = (!(len - 1)).to_le_bytes();
        let width = if kind == BarKind::Memory64 { 8 } else { 4 };
        self.define(offset, &[flags], &mask[..width]);
        self.bars[usize::from(bar)] = Some(Bar { kind, len });
    }

    /// Adds the expansion ROM base address register, for a ROM of `len` bytes, a power of two from 2048 on.
    pub fn add_rom(&mut self, len: u64) {
        assert!(len.is_power_of_two() && len >= 2048);
        self.define(at::ROM, &[0; 4], &(!(len as u32 - 1) | ROM_ENABLE).to_le_bytes());
        self.rom = len;
    }

    /// Appends a capability: its ID, then `body` from its third byte on, of which the bits of `mask` are writable.
    /// Returns its offset.
    pub fn add_capability(&mut self, id: u8, body: &[u8], mask: &[u8]) -> u8 {
        let offset = self.next_capability;
        self.define(offset, &[id, 0], &[]);
        self.define(offset + 2, body, mask);
        self.define(self.link, &[offset as u8], &[]);
        self.define(at::STATUS, &[STATUS_CAPABILITIES], &[]);
        self.link = offset + 1;
        self.next_capability = (offset + 2 + body.len()).next_multiple_of(4);
        offset as u8
    }

    /// A load by the guest; bytes past the end read as ones.
    #[must_use]
    pub fn read(&self, offset: u16, width: usize) -> u32 {
        match self.registers.0.get(usize::from(offset)..usize::from(offset) + width) {
            Some(bytes) if width <= 4 => {
                let mut value = [0; 4];
                value[..width].copy_from_slice(bytes);
                u32::from_le_bytes(value)
            }
            _ => ones(width.min(4)) as u32,
        }
    }

    /// A store by the guest: only writable bits change. True if what the function answers to may have changed (command
    /// register or a base address register).
    pub fn write(&mut self, offset: u16, width: usize, value: u32) -> bool {
        let before = self.decoding();
        for (i, byte) in value.to_le_bytes().into_iter().take(width).enumerate() {
            let at = usize::from(offset) + i;
            let (Some(old), Some(&mask)) = (self.registers.0.get_mut(at), self.mask.get(at)) else {
                return false;
            };
            *old = *old & !mask | byte & mask;
        }
        self.decoding() != before
    }

    /// All that decides what the function answers to.
    fn decoding(&self) -> (u16, [u8; 24], u32) {
        let mut bars = [0; 24];
        bars.copy_from_slice(&self.registers.0[at::BARS..at::BARS + 24]);
        (self.command() & (command::IO | command::MEMORY), bars, self.read(at::ROM as u16, 4))
    }

    /// A byte, without side effects.
    #[must_use]
    pub fn byte(&self, offset: u8) -> u8 {
        self.registers.0[usize::from(offset)]
    }

    /// A little-endian word, without side effects.
    #[must_use]
    pub fn word(&self, offset: u8) -> u16 {
        u16::from_le_bytes([self.byte(offset), self.byte(offset.wrapping_add(1))])
    }

    /// Sets those of `bits` in a byte that `value` has, and clears the others.
    pub(super) fn set_bits(&mut self, offset: u8, bits: u8, value: u8) {
        let byte = &mut self.registers.0[usize::from(offset)];
        *byte = *byte & !bits | value & bits;
    }

    /// The command register; see [`command`].
    #[must_use]
    pub fn command(&self) -> u16 {
        self.word(at::COMMAND as u8)
    }

    /// Shows in the status register whether the function wants INTx#.
    pub fn set_interrupt_status(&mut self, pending: bool) {
        let status = &mut self.registers.0[at::STATUS];
        *status = *status & !STATUS_INTERRUPT | if pending { STATUS_INTERRUPT } else { 0 };
    }

    /// The base address registers that are switched on and hold a usable address.
    #[must_use]
    pub fn bars(&self) -> Vec<BarMapping> {
        (0..6u8).filter_map(|bar| self.mapping(bar)).chain(self.rom_mapping()).collect()
    }

    fn rom_mapping(&self) -> Option<BarMapping> {
        let register = self.read(at::ROM as u16, 4);
        let (addr, len) = (u64::from(register & !(ROM_ENABLE | 0x7fe)), self.rom);
        let on = register & ROM_ENABLE != 0 && self.command() & command::MEMORY != 0;
        let usable = len != 0 && addr != 0 && addr != (1u64 << 32) - len;
        (on && usable).then_some(BarMapping { bar: ROM_BAR, kind: MappingKind::Memory, addr, len })
    }

    fn mapping(&self, bar: u8) -> Option<BarMapping> {
        let Bar { kind, len } = self.bars[usize::from(bar)]?;
        let register = |i: u8| u64::from(self.read(at::BARS as u16 + 4 * u16::from(i), 4));
        let (enable, kind, addr, end) = match kind {
            BarKind::Io => (command::IO, MappingKind::Io, register(bar) & !3, 1 << 16),
            BarKind::Memory32 => {
                let addr = register(bar) & !0xf;
                (command::MEMORY, MappingKind::Memory, addr, 1 << 32)
            }
            BarKind::Memory64 => {
                let addr = register(bar) & !0xf | register(bar + 1) << 32;
                (command::MEMORY, MappingKind::Memory, addr, 1 << 52)
            }
        };
        // Address 0 is "not assigned"; the top of the low 4 GiB is what sizing leaves behind for a moment.
        let sizing = addr == (1u64 << 32).wrapping_sub(len);
        let usable = addr != 0 && !sizing && addr.checked_add(len)? <= end;
        (self.command() & enable != 0 && usable).then_some(BarMapping { bar, kind, addr, len })
    }

    /// Back to the reset values.
    pub fn reset(&mut self) {
        self.registers = Registers(self.defaults);
    }

    /// The volatile part, to save.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// Puts saved registers back.
    pub fn set_registers(&mut self, registers: Registers) {
        self.registers = registers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function() -> ConfigSpace {
        let mut c = ConfigSpace::new(Identity {
            vendor: 0x1234,
            device: 0x5678,
            class: 0x01_0203,
            multifunction: true,
            interrupt_pin: 1,
            ..Identity::default()
        });
        c.add_bar(0, BarKind::Io, 32);
        c.add_bar(1, BarKind::Memory32, 4096);
        c.add_bar(4, BarKind::Memory64, 1 << 33);
        c
    }

    #[test]
    fn constants_stay() {
        let mut c = function();
        for offset in (0..256).step_by(4) {
            c.write(offset, 4, !0);
        }
        assert_eq!(c.read(0, 4), 0x5678_1234);
        assert_eq!(c.read(8, 4), 0x0102_0300);
        assert_eq!(c.read(0x0e, 1), 0x80);
        assert_eq!(c.read(0x3c, 2), 0x01ff);
        assert_eq!(c.read(0x18, 4), 0);
        assert_eq!(c.read(0xfe, 4), !0);
        assert!(!c.write(0xfe, 4, 0));
        c.reset();
        assert_eq!(c.command(), 0);
        assert_eq!(c.read(0x3c, 1), 0);
    }

    #[test]
    fn sizes_and_maps() {
        let mut c = function();
        assert!(c.write(4, 2, 3));
        assert!(!c.write(4, 2, 3));
        assert!(c.write(4, 2, 7 & !1));
        c.write(4, 2, 7);
        for offset in (0x10..0x28).step_by(4) {
            c.write(offset, 4, !0);
        }
        assert_eq!(c.read(0x10, 4), 0xffff_ffe1);
        assert_eq!(c.read(0x14, 4), 0xffff_f000);
        assert_eq!(c.read(0x20, 4), 0x0000_000c);
        assert_eq!(c.read(0x24, 4), 0xffff_fffe);
        assert_eq!(c.bars(), []);
        c.write(0x10, 4, 0xc001);
        c.write(0x14, 4, 0xfeb0_1fff);
        c.write(0x20, 4, 0);
        c.write(0x24, 4, 0x10);
        let memory = MappingKind::Memory;
        let mut expected = vec![(0, MappingKind::Io, 0xc000, 32), (1, memory, 0xfeb0_1000, 4096), (4, memory, 0x10_0000_0000, 1 << 33)];
        let bars = |c: &ConfigSpace| -> Vec<_> {
            let bars = c.bars().into_iter();
            bars.map(|m| (m.bar, m.kind, m.addr, m.len)).collect()
        };
        assert_eq!(bars(&c), expected);
        c.write(4, 1, 2);
        expected.remove(0);
        assert_eq!(bars(&c), expected);
    }

    #[test]
    fn capabilities_are_linked() {
        let mut c = function();
        let a = c.add_capability(9, &[1, 2, 3], &[]);
        let b = c.add_capability(0x11, &[0; 10], &[0, 0xc0]);
        assert_eq!((a, b), (0x40, 0x48));
        assert_eq!(c.read(6, 1), 0x10);
        assert_eq!(c.read(0x34, 1), 0x40);
        assert_eq!(c.read(0x40, 4), 0x0201_4809);
        c.write(b.into(), 4, !0);
        assert_eq!(c.read(b.into(), 4), 0xc000_0011);
    }
}
