//! What a BIOS leaves in low memory: the BIOS data area, the EBDA, the ROM, and inert real-mode interrupt vectors.

use crate::bios::pci::routing_table;
use crate::bios::rom::{BASE, at, rom};
use crate::bytes::Fields;
use crate::error::LoadError;
use crate::layout::{EBDA_BASE, PhysWriter};

const BDA_BASE: u64 = 0x400;

/// The BIOS data area.
pub(crate) fn data_area() -> Fields {
    let mut bda = Fields::new(0x100);
    bda.u16(0x00, 0x3F8) // COM1
        .u16(0x02, 0x2F8) // COM2
        .u16(0x0E, (EBDA_BASE >> 4) as u16)
        // Equipment: coprocessor, PS/2 mouse, 80x25 colour, two serial ports.
        .u16(0x10, 0x0002 | 0x0004 | 0x0020 | 2 << 9)
        .u16(0x13, (EBDA_BASE >> 10) as u16)
        .u16(0x1A, 0x1E) // keyboard buffer: head, tail
        .u16(0x1C, 0x1E)
        .u8(0x49, 3) // video mode, columns, page size, CRTC port
        .u16(0x4A, 80)
        .u16(0x4C, 0x1000)
        .u16(0x60, 0x0607) // cursor shape
        .u16(0x63, 0x3D4)
        .u8(0x75, 1) // hard disks
        .set(0x78, [20; 4]) // time-outs of parallel and serial ports
        .set(0x7C, [10; 4])
        .u16(0x80, 0x1E) // keyboard buffer: start, end
        .u16(0x82, 0x3E)
        .u8(0x84, 24) // rows - 1, character height
        .u16(0x85, 16)
        .u8(0x96, 0x10); // enhanced keyboard
    bda
}

/// Writes the data areas and the ROM.
///
/// # Errors
/// [`LoadError::NotRam`] on a board without a megabyte of RAM.
pub fn write(writer: &PhysWriter<'_>) -> Result<(), LoadError> {
    writer.write(BDA_BASE, data_area().as_slice())?;
    writer.zero(EBDA_BASE, 0x400)?;
    writer.write(EBDA_BASE, &[1])?; // its size in KiB
    for (at, bytes) in &rom().pieces {
        writer.write(u64::from(BASE) + u64::from(*at), bytes)?;
    }
    let (at, table) = routing_table(writer.layout());
    writer.write(at, &table)
}

/// Points all 256 real-mode vectors at the dummy handler.
///
/// # Errors
/// [`LoadError::NotRam`] on a board without RAM.
pub fn write_vectors(writer: &PhysWriter<'_>) -> Result<(), LoadError> {
    let [low, high] = at::IRET.to_le_bytes();
    writer.write(0, &[low, high, 0x00, 0xF0].repeat(256))
}
