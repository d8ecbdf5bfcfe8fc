//! Where the BIOS's variables are, and the tables in its ROM.

use super::rom::{BASE, Rom, SEGMENT, at};
use super::vbe;
use crate::bytes::Fields;
use crate::font::FONT;

// Offsets in the BIOS data area (IBM PS/2 and PC BIOS Interface Technical Reference).

/// Equipment.
pub const EQUIPMENT: u32 = 0x10;
/// Memory below the EBDA in KiB.
pub const MEMORY_KIB: u32 = 0x13;
/// State of the shift keys.
pub const SHIFT: u32 = 0x17;
/// More of them: which are down.
pub const SHIFT_DOWN: u32 = 0x18;
/// Digits typed with Alt held.
pub const ALT_DIGITS: u32 = 0x19;
/// Next key out of and into the keyboard buffer.
pub const KEY_HEAD: u32 = 0x1A;
/// Where the next key goes.
pub const KEY_TAIL: u32 = 0x1C;
/// Drives that are recalibrated; bit 7: an interrupt came.
pub const FLOPPY_STATUS: u32 = 0x3E;
/// Motor time-out in ticks.
pub const MOTOR_TICKS: u32 = 0x40;
/// How the last floppy operation ended.
pub const FLOPPY_RESULT: u32 = 0x41;
/// Video mode.
pub const MODE: u32 = 0x49;
/// Columns.
pub const COLUMNS: u32 = 0x4A;
/// Bytes of a page.
pub const PAGE_BYTES: u32 = 0x4C;
/// Where the page shown begins.
pub const PAGE_START: u32 = 0x4E;
/// Cursor of each page: column, row.
pub const CURSORS: u32 = 0x50;
/// Cursor shape.
pub const CURSOR_SHAPE: u32 = 0x60;
/// The page shown.
pub const PAGE: u32 = 0x62;
/// The CRT controller's port.
pub const CRTC: u32 = 0x63;
/// Ticks since midnight.
pub const TICKS: u32 = 0x6C;
/// Midnights that nobody has asked for.
pub const MIDNIGHTS: u32 = 0x70;
/// Bit 7: Ctrl-Break was pressed.
pub const BREAK: u32 = 0x71;
/// 1234h: the guest wants a warm start.
pub const WARM_START: u32 = 0x72;
/// How the last disk operation ended.
pub const DISK_RESULT: u32 = 0x74;
/// Hard disks.
pub const DISK_COUNT: u32 = 0x75;
/// The keyboard buffer's limits.
pub const KEY_START: u32 = 0x80;
/// The end of it.
pub const KEY_END: u32 = 0x82;
/// Rows, less one.
pub const ROWS: u32 = 0x84;
/// Rows of a character.
pub const CHARACTER_HEIGHT: u32 = 0x85;
/// Video options.
pub const VIDEO_OPTIONS: u32 = 0x87;
/// Video switches.
pub const VIDEO_SWITCHES: u32 = 0x88;
/// Mode set options.
pub const MODE_OPTIONS: u32 = 0x89;
/// Display combination code.
pub const COMBINATION: u32 = 0x8A;
/// FFh: a hard disk's interrupt came.
pub const DISK_INTERRUPT: u32 = 0x8E;
/// Keyboard: bit 4 is an enhanced one; bits 0 and 1 are prefixes E1 and E0.
pub const KEYBOARD_MODE: u32 = 0x96;
/// LEDs.
pub const KEYBOARD_LEDS: u32 = 0x97;
/// Where the flag of the wait under way is.
pub const WAIT_FLAG: u32 = 0x98;
/// Microseconds left of it.
pub const WAIT_COUNT: u32 = 0x9C;
/// Bit 0: a wait is under way; bit 7: it is over.
pub const WAIT_ACTIVE: u32 = 0xA0;

// Offsets in the EBDA.

/// The mouse handler of INT 15h, C207h: offset and segment.
pub const MOUSE_HANDLER: u32 = 0x22;
/// Bytes of the mouse packet so far; bit 7: the handler is on.
pub const MOUSE_FLAGS: u32 = 0x26;
/// Bytes of a packet; bit 7: a handler is set.
pub const MOUSE_FLAGS2: u32 = 0x27;
/// The packet.
pub const MOUSE_PACKET: u32 = 0x28;
/// The device that is booted from now: the number of the try.
pub const BOOT_TRY: u32 = 0x100;
/// The emulated drive of a CD-ROM: see `boot`.
pub const EMULATION: u32 = 0x104;
/// The VBE mode that is set.
pub const VBE_MODE: u32 = 0x120;

/// All pieces of the ROM that are no code.
pub fn pieces(rom: &Rom) -> Vec<(u16, Vec<u8>)> {
    let font8 = font_8();
    let mut bios32 = Fields::new(16);
    bios32.set(0, *b"_32_").u32(4, BASE + u32::from(rom.bios32.0)).u8(9, 1).checksum(10, 0..16);
    let mut pnp = Fields::new(33);
    pnp.set(0, *b"$PnP").u8(4, 0x10).u8(5, 33).u16(0x0D, rom.pnp).u16(0x0F, SEGMENT);
    pnp.u16(0x11, rom.pnp).u32(0x13, BASE).u16(0x1B, SEGMENT).u32(0x1D, BASE).checksum(8, 0..33);
    // Model AT, submodel 1, revision 0. Features: second 8259, clock, INT 15h 4Fh, EBDA; INT 16h 09h; data streaming.
    let configuration = [8, 0, 0xFC, 1, 0, 0x74, 0x40, 0, 0, 0];
    // 1.44 MB: step rate and unload time, load time and DMA, motor off, 512-byte sectors, last sector, gap, data length,
    // format gap, fill byte, settle time, motor start.
    let floppy = [0xAF, 0x02, 0x25, 0x02, 18, 0x1B, 0xFF, 0x6C, 0xF6, 0x0F, 0x08];
    // Video modes 0 to 7, 0Dh to 13h; 200, 350 and 400 lines; 2 of 8 fonts; all functions but the light pen.
    let functions = [0xFF, 0xE0, 0x0F, 0, 0, 0, 0, 0x07, 2, 8, 0xFF, 0x0E, 0, 0, 0x3F, 0];
    vec![
        (at::BIOS32, bios32.as_slice().to_vec()),
        (at::PNP, pnp.as_slice().to_vec()),
        (at::FONT_16, FONT.concat()),
        (at::FONT_14, FONT.iter().flat_map(|glyph| glyph[1..15].to_vec()).collect()),
        (at::FONT_8, font8.concat()),
        (at::FONT_8_LOW, font8[..128].concat()),
        (at::VBE, vbe::strings()),
        (at::STATIC_FUNCTIONS, functions.to_vec()),
        (at::DISK_PARAMETERS, vec![0; 16]),
        (at::CONFIGURATION, configuration.to_vec()),
        (at::FLOPPY_PARAMETERS, floppy.to_vec()),
        (at::DATE, b"01/01/26".to_vec()),
        (at::MODEL, vec![0xFC]),
    ]
}

/// The font of 8 rows: letters without the rows that the taller font repeats, lines and blocks with each pair of rows joined.
fn font_8() -> Vec<[u8; 8]> {
    const LETTER_ROWS: [usize; 8] = [2, 3, 5, 6, 8, 9, 11, 13];
    let shrink = |(code, glyph): (usize, &[u8; 16])| match code {
        0xB0..=0xDF => std::array::from_fn(|row| glyph[2 * row] | glyph[2 * row + 1]),
        _ => LETTER_ROWS.map(|row| glyph[row]),
    };
    FONT.iter().enumerate().map(shrink).collect()
}
