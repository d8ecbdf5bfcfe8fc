//! SMBIOS tables (DMTF DSP0134): a 2.8 and a 3.0 entry point to the same structures.

use crate::bytes::Fields;
use crate::error::LoadError;
use crate::layout::{HIGH_RAM_BASE, Layout, PhysWriter};

/// Where the 2.8 entry point is.
pub const ENTRY_ADDRESS: u64 = 0xF_0000;
/// Where the 3.0 entry point is.
pub const ENTRY3_ADDRESS: u64 = 0xF_0020;
const STRUCTURES: u64 = 0xF_0100;

const MANUFACTURER: &str = "Softmetal";

/// Structures under construction, of which handle numbers count up.
#[derive(Default)]
struct Table {
    bytes: Vec<u8>,
    count: u16,
    largest: u16,
}

impl Table {
    /// Adds a structure of `len` formatted bytes, whose fields `fill` sets, and its strings; the handle.
    fn add(&mut self, kind: u8, len: u8, strings: &[&str], fill: impl FnOnce(&mut Fields)) -> u16 {
        let handle = self.count;
        let mut fields = Fields::new(len.into());
        fields.set(0, [kind, len]).u16(2, handle);
        fill(&mut fields);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(fields.as_slice());
        for s in strings {
            self.bytes.extend_from_slice(s.as_bytes());
            self.bytes.push(0);
        }
        if strings.is_empty() {
            self.bytes.push(0);
        }
        self.bytes.push(0);
        self.largest = self.largest.max((self.bytes.len() - start) as u16);
        self.count += 1;
        handle
    }
}

/// Writes entry points and structures for a board with one socket of `cpus` cores.
///
/// # Errors
/// [`LoadError::NotRam`] on a board without a megabyte of RAM.
pub fn write(cpus: u8, writer: &PhysWriter<'_>) -> Result<(), LoadError> {
    let table = structures(cpus, writer.layout());
    writer.write(STRUCTURES, &table.bytes)?;
    writer.write(ENTRY_ADDRESS, entry(&table, STRUCTURES as u32).as_slice())?;

    let mut entry = Fields::new(0x18);
    entry.set(0, *b"_SM3_").set(6, [0x18, 3, 0, 0, 1]).u32(0x0C, table.bytes.len() as u32).u64(0x10, STRUCTURES).checksum(0x05, 0..0x18);
    writer.write(ENTRY3_ADDRESS, entry.as_slice())
}

/// The files of a firmware that places the structures itself: name and content.
#[must_use]
pub fn files(cpus: u8, layout: &Layout) -> [(&'static str, Vec<u8>); 2] {
    let table = structures(cpus, layout);
    let entry = entry(&table, 0).as_slice().to_vec();
    [("etc/smbios/smbios-tables", table.bytes), ("etc/smbios/smbios-anchor", entry)]
}

/// The 2.8 entry point to structures at `address`.
fn entry(table: &Table, address: u32) -> Fields {
    let mut entry = Fields::new(0x1F);
    entry
        .set(0, *b"_SM_")
        .set(5, [0x1F, 2, 8])
        .u16(8, table.largest)
        .set(0x10, *b"_DMI_")
        .u16(0x16, table.bytes.len() as u16)
        .u32(0x18, address)
        .u16(0x1C, table.count)
        .u8(0x1E, 0x28)
        .checksum(0x15, 0x10..0x1F)
        .checksum(0x04, 0..0x1F);
    entry
}

fn structures(cpus: u8, layout: &Layout) -> Table {
    let mut t = Table::default();
    // BIOS information
    t.add(0, 0x18, &[MANUFACTURER, env!("CARGO_PKG_VERSION"), "01/01/2026"], |f| {
        f.set(4, [1, 2]).u16(6, 0xE000).set(8, [3, 1]);
        f.u64(0x0A, 1 << 4 | 1 << 7); // ISA and PCI are supported
        f.set(0x12, [0x01, 0x10]); // ACPI; a virtual machine
        f.set(0x14, [0xFF; 4]); // release numbers: none
    });
    // System information
    t.add(1, 0x1B, &[MANUFACTURER, "Softmetal PC", "1.0", "0", "pc", MANUFACTURER], |f| {
        f.set(4, [1, 2, 3, 4]);
        f.set(8, *b"\x53\x6f\x66\x74\x6d\x65\x74\x40\x80\x6c\x50\x43\x00\x00\x00\x01");
        f.set(0x18, [6, 5, 6]); // woken by the power switch
    });
    // Chassis: other; safe
    t.add(3, 0x16, &[MANUFACTURER, "1.0", "0"], |f| {
        f.set(4, [1, 1, 2, 3, 0]).set(9, [3, 3, 3, 2]).u8(0x15, 0);
    });
    // Processor
    t.add(4, 0x2A, &["CPU 0", MANUFACTURER, "Softmetal x86-64", "0"], |f| {
        f.set(4, [1, 3, 0x01, 2]); // socket, central processor, family "other"
        f.u8(0x10, 3).u16(0x14, 2000).u16(0x16, 2000);
        f.set(0x18, [0x41, 0x01]); // populated and enabled; upgrade "other"
        f.u16(0x1A, 0xFFFF).u16(0x1C, 0xFFFF).u16(0x1E, 0xFFFF); // no cache structures
        f.u8(0x20, 4).set(0x23, [cpus, cpus, cpus]);
        f.u16(0x26, 1 << 2 | 1 << 3); // 64-bit, multi-core
        f.u16(0x28, 0x01);
    });
    // Physical memory array: system board, system memory, no error correction
    let kib = layout.ram_bytes() >> 10;
    let array = t.add(16, 0x17, &[], |f| {
        f.set(4, [3, 3, 3]);
        if kib < 0x8000_0000 {
            f.u32(7, kib as u32);
        } else {
            f.u32(7, 0x8000_0000).u64(0x0F, kib << 10);
        }
        f.u16(0x0B, 0xFFFE).u16(0x0D, 1);
    });
    // Memory device
    let mib = layout.ram_bytes() >> 20;
    t.add(17, 0x28, &["DIMM 0", MANUFACTURER], |f| {
        f.u16(4, array).u16(6, 0xFFFE).u16(8, 64).u16(0x0A, 64);
        if mib < 0x7FFF {
            f.u16(0x0C, mib as u16);
        } else {
            f.u16(0x0C, 0x7FFF).u32(0x1C, mib.min(0x7FFF_FFFF) as u32);
        }
        f.u8(0x0E, 0x09).u8(0x10, 1).u8(0x12, 0x07).u16(0x13, 1 << 1).u8(0x17, 2);
    });
    // Where the array appears
    for (base, len) in [(0, layout.low()), (HIGH_RAM_BASE, layout.high())] {
        if len > 0 {
            t.add(19, 0x1F, &[], |f| {
                let last = base + len - 1;
                if last >> 10 < 0xFFFF_FFFF {
                    f.u32(4, (base >> 10) as u32).u32(8, (last >> 10) as u32);
                } else {
                    f.u32(4, !0).u32(8, !0).u64(0x0F, base).u64(0x17, last);
                }
                f.u16(0x0C, array).u8(0x0E, 1);
            });
        }
    }
    t.add(32, 0x0B, &[], |_| ()); // no boot errors
    t.add(127, 4, &[], |_| ());
    t
}
