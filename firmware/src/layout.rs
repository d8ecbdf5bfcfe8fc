//! The physical map of the `pc` board, shared by its wiring, its tables and the loaders.
//!
//! ```text
//! 0x0000_0000  RAM (conventional memory up to the EBDA at 0x9_FC00)
//! 0x000A_0000  VGA window (no RAM visible)
//! 0x000C_0000  RAM
//! 0x000E_0000  RAM that holds the firmware's tables
//! 0x0010_0000  RAM up to at most 0xC000_0000
//! 0xC000_0000  PCI memory window
//! 0xFEC0_0000  IOAPIC, 0xFED0_0000 HPET, 0xFEE0_0000 local APICs
//! 4 GiB        the rest of RAM, then the 64-bit PCI window
//! ```

use std::ops::Range;

use softmetal_bus::GuestMemory;

use crate::error::LoadError;
use crate::source::Source;

/// A board's chipset: what differs between boards that are otherwise alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chipset {
    /// 440FX and PIIX: board `pc`.
    #[default]
    I440fx,
    /// Q35 and ICH9: board `q35`.
    Q35,
}

/// The ISA bridge, and how it routes PCI interrupts.
#[derive(Debug)]
pub struct IsaBridge {
    /// Its slot on bus 0.
    pub slot: u8,
    /// The register of each PIRQ, A first.
    pub registers: &'static [u8],
    /// Where the built-in firmware routes each PIRQ.
    pub irqs: &'static [u8],
    /// The first I/O APIC input of the PIRQs, besides those of the ISA interrupts.
    pub apic: Option<u8>,
}

impl Chipset {
    /// The PIRQ (0 = A) that `pin` (0 = INTA) of the PCI device in `slot` of bus 0 is wired to.
    #[must_use]
    pub const fn pirq(self, slot: u8, pin: u8) -> u8 {
        let rotated = slot.wrapping_add(pin) & 3;
        match self {
            Self::I440fx => rotated.wrapping_sub(1) & 3,
            // The chipset's own functions have A to D, all others E to H.
            Self::Q35 if slot >= 25 => rotated,
            Self::Q35 => 4 + rotated,
        }
    }

    /// Its ISA bridge.
    #[must_use]
    pub const fn isa_bridge(self) -> &'static IsaBridge {
        const PIIX: IsaBridge = IsaBridge { slot: 1, registers: &[0x60, 0x61, 0x62, 0x63], irqs: &[ODD, EVEN, ODD, EVEN], apic: None };
        const ICH: IsaBridge = IsaBridge {
            slot: 0x1f,
            registers: &[0x60, 0x61, 0x62, 0x63, 0x68, 0x69, 0x6A, 0x6B],
            irqs: &[EVEN, ODD, EVEN, ODD, EVEN, ODD, EVEN, ODD],
            apic: Some(16),
        };
        const EVEN: u8 = PCI_IRQS[0];
        const ODD: u8 = PCI_IRQS[1];
        match self {
            Self::I440fx => &PIIX,
            Self::Q35 => &ICH,
        }
    }

    /// Where the built-in firmware puts the memory-mapped configuration space, if the board has one.
    #[must_use]
    pub const fn ecam(self) -> Option<u64> {
        match self {
            Self::I440fx => None,
            Self::Q35 => Some(0xE000_0000),
        }
    }

    /// Most RAM below 4 GiB, of `ram` bytes in all. Firmware for Q35 puts the configuration space at 0xB000_0000 or above.
    const fn low_ram(self, ram: u64) -> u64 {
        match self {
            Self::Q35 if ram > 0xB000_0000 => 0x8000_0000,
            _ if ram < LOW_RAM_MAX => ram,
            _ => LOW_RAM_MAX,
        }
    }
}

/// Bytes of the memory-mapped configuration space: 256 buses.
pub const ECAM_LEN: u64 = 256 << 20;

/// Most RAM below 4 GiB, in bytes; where the PCI memory window starts.
pub const LOW_RAM_MAX: u64 = 0xC000_0000;
/// Where the rest of RAM continues.
pub const HIGH_RAM_BASE: u64 = 1 << 32;
/// The legacy VGA window.
pub const VGA_WINDOW: Range<u64> = 0xA_0000..0xC_0000;
/// The extended BIOS data area: the last KiB of conventional memory.
pub const EBDA_BASE: u64 = 0x9_FC00;
/// The area of the firmware's tables.
pub const TABLES: Range<u64> = 0xE_0000..0x10_0000;
/// Where extended memory starts.
pub const EXTENDED_BASE: u64 = 0x10_0000;
/// The least RAM the board works with, in bytes.
pub const MIN_RAM: u64 = 2 << 20;
/// The 32-bit PCI memory window.
pub const PCI_WINDOW: Range<u64> = 0xC000_0000..0xFEC0_0000;
/// The end of the 64-bit PCI memory window, and of the physical addresses used.
pub const PCI_WINDOW64_END: u64 = 1 << 39;

/// The IOAPIC's registers.
pub const IOAPIC_BASE: u64 = 0xFEC0_0000;
/// The IOAPIC's identifier: what its ID register holds after reset.
pub const IOAPIC_ID: u8 = 0;
/// The HPET's registers.
pub const HPET_BASE: u64 = 0xFED0_0000;
/// The local APICs' registers, and the window of message signalled interrupts.
pub const LAPIC_BASE: u64 = 0xFEE0_0000;

/// PM1a event block: status and enable, 4 bytes.
pub const PM1A_EVT_PORT: u16 = 0x600;
/// PM1a control, 2 bytes.
pub const PM1A_CNT_PORT: u16 = 0x604;
/// The ACPI timer, 4 bytes.
pub const PM_TMR_PORT: u16 = 0x608;
/// General purpose events: 2 bytes of status, 2 of enable.
pub const GPE0_PORT: u16 = 0x620;
/// The size of the GPE0 block in bytes.
pub const GPE0_LEN: u8 = 4;
/// The SMBus host of board `pc`, 16 bytes.
pub const SMBUS_PORT: u16 = 0x700;
/// The general-purpose pins of board `q35`, 64 bytes.
pub const GPIO_PORT: u16 = 0x580;
/// The system control interrupt.
pub const SCI_IRQ: u8 = 9;
/// Where the OS writes to take over (or give back) power management.
pub const SMI_CMD_PORT: u16 = 0xB2;
/// The value that enables ACPI mode.
pub const ACPI_ENABLE: u8 = 0xF1;
/// The value that disables ACPI mode.
pub const ACPI_DISABLE: u8 = 0xF0;
/// The reset control register.
pub const RESET_PORT: u16 = 0xCF9;
/// The value that resets the board.
pub const RESET_VALUE: u8 = 6;
/// SLP_TYP of soft off (S5).
pub const SLP_TYP_S5: u8 = 5;

/// The interrupts that PCI devices share, level triggered and active high, of the PIC and the IOAPIC alike.
pub const PCI_IRQS: [u8; 2] = [10, 11];

/// The interrupt of `pin` (0 = INTA) of the PCI device in `slot` of bus 0.
#[must_use]
pub const fn pci_irq(slot: u8, pin: u8) -> u8 {
    // The same on every chipset: they are wired and routed so.
    PCI_IRQS[(slot.wrapping_add(pin) & 1) as usize]
}

/// What a range of the memory map is (ACPI 6.5 table 15.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum E820Kind {
    /// RAM for the operating system.
    Usable = 1,
    /// Not for use.
    Reserved = 2,
}

/// A range of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// The physical address.
    pub base: u64,
    /// The length in bytes.
    pub len: u64,
    /// What it is.
    pub kind: E820Kind,
}

/// A range of physical addresses where RAM appears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRegion {
    /// The physical address.
    pub base: u64,
    /// The length in bytes.
    pub len: u64,
    /// The offset in [`GuestMemory`].
    pub offset: u64,
}

/// Where a board's RAM appears. Guest memory is the low part followed by the high part, without gaps: the offset of an
/// address below 4 GiB is the address itself (what lies under the VGA window is never seen).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    ram: u64,
    chipset: Chipset,
}

impl Layout {
    /// The layout of a `pc` board with `ram_bytes` of RAM (rounded down to whole pages).
    #[must_use]
    pub const fn new(ram_bytes: u64) -> Self {
        Self::of(Chipset::I440fx, ram_bytes)
    }

    /// The layout of a board with `ram_bytes` of RAM (rounded down to whole pages).
    #[must_use]
    pub const fn of(chipset: Chipset, ram_bytes: u64) -> Self {
        Self { ram: ram_bytes & !0xFFF, chipset }
    }

    /// The chipset.
    #[must_use]
    pub const fn chipset(&self) -> Chipset {
        self.chipset
    }

    /// RAM in bytes; the guest memory must have at least that much.
    #[must_use]
    pub const fn ram_bytes(&self) -> u64 {
        self.ram
    }

    /// The end of RAM below 4 GiB; also its size in bytes.
    #[must_use]
    pub const fn low(&self) -> u64 {
        self.chipset.low_ram(self.ram)
    }

    /// RAM above 4 GiB, in bytes.
    #[must_use]
    pub const fn high(&self) -> u64 {
        self.ram - self.low()
    }

    /// The RAM of the board as the processor sees it, in order of address.
    #[must_use]
    pub fn regions(&self) -> Vec<RamRegion> {
        let low = self.low();
        [
            (0, low.min(VGA_WINDOW.start), 0),
            (VGA_WINDOW.end, low.saturating_sub(VGA_WINDOW.end), VGA_WINDOW.end),
            (HIGH_RAM_BASE, self.high(), low),
        ]
        .into_iter()
        .filter(|r| r.1 > 0)
        .map(|(base, len, offset)| RamRegion { base, len, offset })
        .collect()
    }

    /// The memory map for the operating system, in order of address.
    #[must_use]
    pub fn e820(&self) -> Vec<E820Entry> {
        use E820Kind::{Reserved, Usable};
        let low = self.low();
        [
            (0, low.min(EBDA_BASE), Usable),
            (EBDA_BASE, VGA_WINDOW.start - EBDA_BASE, Reserved),
            (TABLES.start, TABLES.end - TABLES.start, Reserved),
            (EXTENDED_BASE, low.saturating_sub(EXTENDED_BASE), Usable),
            (self.chipset.ecam().unwrap_or(IOAPIC_BASE), if self.chipset.ecam().is_some() { ECAM_LEN } else { 0 }, Reserved),
            (IOAPIC_BASE, HIGH_RAM_BASE - IOAPIC_BASE, Reserved),
            (HIGH_RAM_BASE, self.high(), Usable),
        ]
        .into_iter()
        .filter(|e| e.1 > 0)
        .map(|(base, len, kind)| E820Entry { base, len, kind })
        .collect()
    }

    /// The 64-bit PCI memory window: from the first GiB boundary after high RAM; empty if RAM leaves no room.
    #[must_use]
    pub fn pci_window64(&self) -> Range<u64> {
        let start = (HIGH_RAM_BASE + self.high()).next_multiple_of(1 << 30);
        start..PCI_WINDOW64_END.max(start)
    }

    /// The guest-memory offset of the `len` bytes at `address`, if all of them are RAM of one region.
    #[must_use]
    pub fn offset(&self, address: u64, len: u64) -> Option<u64> {
        let end = address.checked_add(len)?;
        let region = self.regions().into_iter().find(|r| address >= r.base && end <= r.base + r.len)?;
        Some(address - region.base + region.offset)
    }
}

/// Writes guest memory by physical address, through a [`Layout`].
#[derive(Clone, Copy)]
pub struct PhysWriter<'a> {
    layout: &'a Layout,
    memory: &'a GuestMemory,
}

impl<'a> PhysWriter<'a> {
    /// A writer into `memory`, which `layout` describes.
    #[must_use]
    pub fn new(layout: &'a Layout, memory: &'a GuestMemory) -> Self {
        Self { layout, memory }
    }

    /// The layout.
    #[must_use]
    pub fn layout(&self) -> &'a Layout {
        self.layout
    }

    /// Writes `bytes` at `address`.
    ///
    /// # Errors
    /// [`LoadError::NotRam`] if not all of it is RAM; nothing is written then.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), LoadError> {
        let len = bytes.len() as u64;
        let error = LoadError::NotRam { address, len };
        let Some(offset) = self.layout.offset(address, len) else {
            return Err(error);
        };
        self.memory.write(offset, bytes).map_err(|_| error)
    }

    /// Copies the `range` of `source` to `address`.
    ///
    /// # Errors
    /// [`LoadError::NotRam`] if not all of it goes to RAM, and nothing is written then; as [`Source::read_at`].
    pub fn copy(&self, address: u64, source: &dyn Source, range: Range<u64>) -> Result<(), LoadError> {
        let len = range.end - range.start;
        if self.layout.offset(address, len).is_none() {
            return Err(LoadError::NotRam { address, len });
        }
        let mut piece = vec![0; len.min(1 << 16) as usize];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(piece.len() as u64);
            let piece = &mut piece[..n as usize];
            source.read_at(range.start + done, piece)?;
            self.write(address + done, piece)?;
            done += n;
        }
        Ok(())
    }

    /// Writes `len` zero bytes at `address`.
    ///
    /// # Errors
    /// [`LoadError::NotRam`] if not all of it is RAM; nothing is written then.
    pub fn zero(&self, address: u64, len: u64) -> Result<(), LoadError> {
        if self.layout.offset(address, len).is_none() {
            return Err(LoadError::NotRam { address, len });
        }
        let zeros = vec![0; len.min(1 << 16) as usize];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(zeros.len() as u64);
            self.write(address + done, &zeros[..n as usize])?;
            done += n;
        }
        Ok(())
    }

    /// Reads `buf.len()` bytes at `address`.
    ///
    /// # Errors
    /// [`LoadError::NotRam`] if not all of it is RAM.
    pub fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), LoadError> {
        let len = buf.len() as u64;
        let error = LoadError::NotRam { address, len };
        let Some(offset) = self.layout.offset(address, len) else {
            return Err(error);
        };
        self.memory.read(offset, buf).map_err(|_| error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_boards() {
        let small = Layout::new(512 << 20);
        assert_eq!((small.low(), small.high()), (512 << 20, 0));
        assert_eq!(small.regions().len(), 2);
        let usable: u64 = small.e820().iter().filter(|e| e.kind == E820Kind::Usable).map(|e| e.len).sum();
        assert_eq!(usable, (512 << 20) - EXTENDED_BASE + EBDA_BASE);

        let large = Layout::new(8 << 30);
        assert_eq!((large.low(), large.high()), (3 << 30, 5 << 30));
        assert_eq!(large.offset(HIGH_RAM_BASE, 5 << 30), Some(3 << 30));
        assert_eq!(large.offset(HIGH_RAM_BASE, (5 << 30) + 1), None);
        assert_eq!(large.offset(LOW_RAM_MAX - 1, 2), None);
        assert_eq!(large.pci_window64(), 9 << 30..1 << 39);
        assert_eq!(large.offset(u64::MAX, 2), None);
    }

    #[test]
    fn the_map_is_sorted_and_disjoint() {
        for ram in [MIN_RAM, 64 << 20, 3 << 30, (3 << 30) + 4096, 64 << 30] {
            for pair in Layout::new(ram).e820().windows(2) {
                assert!(pair[0].base + pair[0].len <= pair[1].base, "{ram:#x}: {pair:x?}");
            }
        }
    }

    #[test]
    fn the_vga_window_is_not_ram() {
        let layout = Layout::new(4 << 20);
        let memory = GuestMemory::new(layout.ram_bytes()).unwrap();
        let writer = PhysWriter::new(&layout, &memory);
        assert!(writer.write(0xA_0000 - 1, &[1, 2]).is_err());
        assert!(writer.write(0xC_0000, &[1, 2]).is_ok());
        assert!(writer.zero(0x10_0000, 3 << 20).is_ok());
        assert!(writer.zero(0x10_0000, (3 << 20) + 1).is_err());
    }

    #[test]
    fn the_built_in_routes_agree() {
        for chipset in [Chipset::I440fx, Chipset::Q35] {
            let bridge = chipset.isa_bridge();
            assert_eq!(bridge.irqs.len(), bridge.registers.len());
            for (slot, pin) in (0..32).flat_map(|slot| (0..4).map(move |pin| (slot, pin))) {
                assert_eq!(bridge.irqs[usize::from(chipset.pirq(slot, pin))], pci_irq(slot, pin), "{chipset:?} {slot} {pin}");
            }
        }
        let q35 = Layout::of(Chipset::Q35, 4 << 30);
        assert_eq!((q35.low(), q35.high()), (2 << 30, 2 << 30));
    }

    #[test]
    fn pci_pins_alternate() {
        assert_eq!([(0, 0), (0, 1), (1, 0), (3, 3)].map(|(d, p)| pci_irq(d, p)), [10, 11, 11, 10]);
    }
}
