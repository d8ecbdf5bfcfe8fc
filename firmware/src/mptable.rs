//! The MP table (Intel MultiProcessor Specification 1.4), for operating systems that do not read ACPI.

use crate::acpi::{LEVEL_HIGH, OEM_ID, overrides};
use crate::bytes::Fields;
use crate::error::LoadError;
use crate::layout::{IOAPIC_BASE, IOAPIC_ID, LAPIC_BASE, PhysWriter, pci_irq};

/// Where the floating pointer structure is.
pub const POINTER_ADDRESS: u64 = 0xF_0040;
const TABLE: u64 = 0xF_4000;
const PCI_BUS: u8 = 0;
const ISA_BUS: u8 = 1;
/// The destination that means every local APIC.
const ALL: u8 = 0xFF;

/// Interrupt types (MPS table 4-11).
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

/// Writes the floating pointer and the configuration table.
///
/// # Errors
/// [`LoadError::NotRam`] on a board without a megabyte of RAM.
pub fn write(cpus: u8, writer: &PhysWriter<'_>) -> Result<(), LoadError> {
    let entries = entries(cpus);
    let count = entries.len() as u16;
    let body: Vec<u8> = entries.concat();

    let mut header = Fields::new(44);
    header
        .set(0, *b"PCMP")
        .u16(4, 44 + body.len() as u16)
        .u8(6, 4)
        .set(8, [b' '; 20])
        .set(8, OEM_ID)
        .set(16, *b"PC")
        .u16(34, count)
        .u32(36, LAPIC_BASE as u32);
    let mut table = Fields::new(44 + body.len());
    for (at, byte) in header.as_slice().iter().chain(&body).enumerate() {
        table.u8(at, *byte);
    }
    let len = table.as_slice().len();
    table.checksum(7, 0..len);
    writer.write(TABLE, table.as_slice())?;

    let mut pointer = Fields::new(16);
    pointer.set(0, *b"_MP_").u32(4, TABLE as u32).set(8, [1, 4]).checksum(10, 0..16);
    writer.write(POINTER_ADDRESS, pointer.as_slice())
}

/// All entries, in the order of their types.
fn entries(cpus: u8) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for id in 0..cpus {
        let mut cpu = Fields::new(20);
        let flags = if id == 0 { 0b11 } else { 0b01 }; // usable, bootstrap processor
        cpu.set(0, [0, id, 0x14, flags]).u32(4, 0x600).u32(8, 1 | 1 << 9); // FPU, APIC
        all.push(cpu.as_slice().to_vec());
    }
    for (id, name) in [(PCI_BUS, b"PCI   "), (ISA_BUS, b"ISA   ")] {
        all.push([&[1, id][..], name].concat());
    }
    let mut ioapic = Fields::new(8);
    ioapic.set(0, [2, IOAPIC_ID, 0x11, 1]).u32(4, IOAPIC_BASE as u32);
    all.push(ioapic.as_slice().to_vec());

    let mut interrupt = |entry, kind, flags: u16, bus, irq, apic, input| {
        all.push(vec![entry, kind, flags as u8, 0, bus, irq, apic, input]);
    };
    let overrides = overrides();
    for irq in (0..16).filter(|irq| *irq != 2) {
        let (input, flags) = overrides.iter().find(|o| o.irq == irq).map_or((irq, 0), |o| (o.gsi, o.flags));
        interrupt(3, INT, flags, ISA_BUS, irq, IOAPIC_ID, input);
    }
    for slot in 0..32 {
        for pin in 0..4 {
            interrupt(3, INT, LEVEL_HIGH, PCI_BUS, slot << 2 | pin, IOAPIC_ID, pci_irq(slot, pin));
        }
    }
    interrupt(4, EXT_INT, 0, ISA_BUS, 0, ALL, 0);
    interrupt(4, NMI, 0, ISA_BUS, 0, ALL, 1);
    all
}
