//! What a BIOS leaves in low memory: the BIOS data area, the EBDA, and inert real-mode interrupt vectors.

use crate::bytes::Fields;
use crate::error::LoadError;
use crate::layout::{EBDA_BASE, PhysWriter};

const BDA_BASE: u64 = 0x400;
/// F000:FF53, where PC BIOSes have their dummy handler: a lone IRET.
const IRET_STUB: u64 = 0xF_FF53;
/// F000:FFF0, where a real-mode guest jumps to restart: it halts there with interrupts off.
const RESET_STUB: u64 = 0xF_FFF0;

/// Writes the data areas and the identification bytes at the end of the BIOS area.
///
/// # Errors
/// [`LoadError::NotRam`] on a board without a megabyte of RAM.
pub fn write(writer: &PhysWriter<'_>) -> Result<(), LoadError> {
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
        .u16(0x80, 0x1E) // keyboard buffer: start, end
        .u16(0x82, 0x3E)
        .u8(0x84, 24) // rows - 1, character height
        .u16(0x85, 16)
        .u8(0x96, 0x10); // enhanced keyboard
    writer.write(BDA_BASE, bda.as_slice())?;
    writer.zero(EBDA_BASE, 0x400)?;
    writer.write(EBDA_BASE, &[1])?; // its size in KiB
    writer.write(IRET_STUB, &[0xCF])?;
    writer.write(RESET_STUB, &[0xFA, 0xF4, 0xEB, 0xFC])?; // cli; hlt; jmp back
    writer.write(0xF_FFF5, b"01/01/26")?;
    writer.write(0xF_FFFE, &[0xFC]) // model: AT
}

/// Points all 256 real-mode vectors at the dummy handler.
///
/// # Errors
/// [`LoadError::NotRam`] on a board without RAM.
pub fn write_vectors(writer: &PhysWriter<'_>) -> Result<(), LoadError> {
    let vector = [(IRET_STUB & 0xFF) as u8, (IRET_STUB >> 8) as u8, 0x00, 0xF0];
    writer.write(0, &vector.repeat(256))
}
