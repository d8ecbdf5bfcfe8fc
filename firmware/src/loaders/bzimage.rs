//! The Linux/x86 boot protocol (Documentation/arch/x86/boot.rst), entered in 64-bit or 32-bit mode, not in real mode.

use std::ops::Range;

use super::{PAGE, c_string, place_high, too_little};
use crate::Boot;
use crate::acpi::RSDP_ADDRESS;
use crate::bytes::{Fields, array, u16_at, u32_at, u64_at};
use crate::entry::{Entry, LowMemory};
use crate::error::LoadError;
use crate::layout::{E820Entry, EXTENDED_BASE, PhysWriter};

/// Offsets of the setup header's fields, in the file and in `boot_params` alike.
mod header {
    pub const SETUP_SECTS: usize = 0x1F1;
    pub const SYSSIZE: usize = 0x1F4;
    pub const BOOT_FLAG: usize = 0x1FE;
    pub const JUMP: usize = 0x200;
    pub const MAGIC: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const LOADFLAGS: usize = 0x211;
    pub const CODE32_START: usize = 0x214;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21C;
    pub const HEAP_END_PTR: usize = 0x224;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const INITRD_ADDR_MAX: usize = 0x22C;
    pub const RELOCATABLE: usize = 0x234;
    pub const XLOADFLAGS: usize = 0x236;
    pub const CMDLINE_SIZE: usize = 0x238;
    pub const PREF_ADDRESS: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
}

/// Offsets of `boot_params` outside the setup header (arch/x86/include/uapi/asm/bootparam.h).
mod params {
    pub const EXT_MEM_K: usize = 0x002;
    pub const VIDEO_MODE: usize = 0x006;
    pub const VIDEO_COLS: usize = 0x007;
    pub const VIDEO_LINES: usize = 0x00E;
    pub const VIDEO_IS_VGA: usize = 0x00F;
    pub const VIDEO_POINTS: usize = 0x010;
    pub const ACPI_RSDP_ADDR: usize = 0x070;
    pub const ALT_MEM_K: usize = 0x1E0;
    pub const E820_ENTRIES: usize = 0x1E8;
    pub const E820_TABLE: usize = 0x2D0;
    pub const E820_MAX: usize = 128;
    pub const SIZE: usize = 0x1000;
}

const LOADED_HIGH: u8 = 1;
const CAN_USE_HEAP: u8 = 0x80;
const XLF_KERNEL_64: u16 = 1;
/// A loader without an assigned number.
const UNDEFINED_LOADER: u8 = 0xFF;
/// From the start of the protected-mode code to its 64-bit entry.
const ENTRY_64: u64 = 0x200;

/// Whether the setup header's two magic numbers are there.
#[must_use]
pub fn is_bzimage(head: &[u8]) -> bool {
    u16_at(head, header::BOOT_FLAG) == Some(0xAA55) && array(head, header::MAGIC) == Some(*b"HdrS")
}

/// Bytes of a file that hold its setup header.
const HEAD: usize = 4096;
const _: () = assert!(HEAD > params::E820_TABLE, "no header is longer");

/// What the loader needs of a setup header.
struct Kernel<'a> {
    /// The setup header, from [`header::SETUP_SECTS`].
    setup: &'a [u8],
    /// Where the protected-mode code is in the file.
    code: Range<u64>,
    loadflags: u8,
    long: bool,
    cmdline_max: u64,
    /// The first address that an initrd must not reach.
    initrd_limit: u64,
    load_address: u64,
    /// How much from `load_address` the kernel uses before it reads the memory map.
    init_size: u64,
}

impl<'a> Kernel<'a> {
    /// From the first [`HEAD`] bytes of a file of `size` bytes.
    fn parse(head: &'a [u8], size: u64) -> Result<Self, LoadError> {
        let bad = |why| LoadError::Malformed { format: "bzImage", why };
        if !is_bzimage(head) {
            return Err(bad("the setup header's magic numbers are missing"));
        }
        let truncated = |needed| LoadError::Truncated { what: "kernel", needed, has: size };
        let version = u16_at(head, header::VERSION).ok_or(truncated(0x208))?;
        if version < 0x206 {
            return Err(LoadError::OldProtocol { version });
        }
        let header_end = header::MAGIC + usize::from(*head.get(header::JUMP + 1).ok_or(truncated(0x202))?);
        let least = if version >= 0x20A { header::INIT_SIZE + 4 } else { header::CMDLINE_SIZE + 4 };
        if header_end < least || header_end > params::E820_TABLE {
            return Err(bad("the setup header's length is wrong"));
        }
        let short = truncated(header_end as u64);
        let setup = head.get(header::SETUP_SECTS..header_end).ok_or(short.clone())?;
        let byte = |at: usize| head.get(at).copied().ok_or(short.clone());
        let dword = |at| u32_at(head, at).ok_or(short.clone());

        let setup_sects = match byte(header::SETUP_SECTS)? {
            0 => 4,
            n => u64::from(n),
        };
        let code_start = (setup_sects + 1) * 512;
        let code_len = u64::from(dword(header::SYSSIZE)?) * 16;
        if code_len <= ENTRY_64 {
            return Err(bad("it has no protected-mode code"));
        }
        // The size is in units of 16 bytes, rounded up.
        let available = size.saturating_sub(code_start);
        if available + 15 < code_len {
            return Err(truncated(code_start + code_len));
        }
        let code = code_start..code_start + code_len.min(available);

        let loadflags = byte(header::LOADFLAGS)?;
        if loadflags & LOADED_HIGH == 0 {
            return Err(bad("it is a zImage, which loads below 1 MiB"));
        }
        let relocatable = version >= 0x20A && byte(header::RELOCATABLE)? != 0;
        let preferred = if version >= 0x20A { u64_at(head, header::PREF_ADDRESS).ok_or(short.clone())? } else { EXTENDED_BASE };
        let init_size = if version >= 0x20A { u64::from(dword(header::INIT_SIZE)?) } else { 0 };
        let xloadflags = if version >= 0x20C { u16_at(head, header::XLOADFLAGS).ok_or(short.clone())? } else { 0 };
        let cmdline_max = match dword(header::CMDLINE_SIZE)? {
            0 => 255,
            n => u64::from(n),
        };
        Ok(Self {
            setup,
            loadflags,
            long: xloadflags & XLF_KERNEL_64 != 0,
            cmdline_max,
            initrd_limit: u64::from(dword(header::INITRD_ADDR_MAX)?) + 1,
            load_address: if relocatable { preferred.max(EXTENDED_BASE) } else { EXTENDED_BASE },
            init_size: init_size.max(code.end - code.start),
            code,
        })
    }
}

/// Loads a bzImage: the kernel where it prefers to be, initrds (one after the other) as high as possible, the rest in
/// conventional memory.
///
/// # Errors
/// A kernel that is truncated, too old or not a bzImage; too little RAM; a command line that is too long.
pub fn load(boot: &Boot<'_>, writer: &PhysWriter<'_>) -> Result<Entry, LoadError> {
    let head = boot.kernel.head(HEAD)?;
    let kernel = Kernel::parse(&head, boot.kernel.size())?;
    let cmdline = c_string(boot.cmdline)?;
    let cmdline_len = cmdline.len() as u64 - 1;
    if cmdline_len > kernel.cmdline_max {
        return Err(LoadError::LongCommandLine { len: cmdline_len, max: kernel.cmdline_max });
    }
    let layout = writer.layout();
    let end = kernel.load_address.saturating_add(kernel.init_size);
    if end > layout.low() {
        return Err(too_little("kernel", end, writer));
    }
    let initrd = place_high(&boot.modules, 4, end, kernel.initrd_limit, writer)?;
    writer.copy(kernel.load_address, boot.kernel, kernel.code)?;

    let mut low = LowMemory::new(&[]);
    let cmdline = low.put(writer, &cmdline, 16)?;
    let mut page = Fields::new(params::SIZE);
    for (i, byte) in kernel.setup.iter().enumerate() {
        page.u8(header::SETUP_SECTS + i, *byte);
    }
    page.u8(header::TYPE_OF_LOADER, UNDEFINED_LOADER)
        .u8(header::LOADFLAGS, kernel.loadflags | CAN_USE_HEAP)
        .u16(header::HEAP_END_PTR, 0xDE00)
        .u32(header::CODE32_START, kernel.load_address as u32)
        .u32(header::CMD_LINE_PTR, cmdline as u32);
    if let (Some(first), Some(last)) = (initrd.first(), initrd.last()) {
        page.u32(header::RAMDISK_IMAGE, first.start as u32).u32(header::RAMDISK_SIZE, (last.end - first.start) as u32);
    }
    describe_board(&mut page, &layout.e820(), boot.vga);
    let page = low.put(writer, page.as_slice(), PAGE)?;

    if kernel.long {
        Ok(Entry::Long {
            rip: kernel.load_address + ENTRY_64,
            rsi: page,
            rsp: low.stack()?,
            cr3: low.identity_map(writer)?,
            gdt: low.gdt(writer, true)?,
        })
    } else {
        Ok(Entry::Protected {
            eip: kernel.load_address as u32,
            eax: 0,
            ebx: 0,
            esi: page as u32,
            esp: low.stack()? as u32,
            gdt: low.gdt(writer, false)?,
        })
    }
}

/// Fills in what the real-mode setup code would have asked the BIOS.
fn describe_board(page: &mut Fields, e820: &[E820Entry], vga: bool) {
    let extended = e820.iter().find(|e| e.base == EXTENDED_BASE).map_or(0, |e| e.len >> 10);
    page.u16(params::EXT_MEM_K, extended.min(0xFC00) as u16).u32(params::ALT_MEM_K, extended as u32);
    if vga {
        page.u8(params::VIDEO_MODE, 3)
            .u8(params::VIDEO_COLS, 80)
            .u8(params::VIDEO_LINES, 25)
            .u8(params::VIDEO_IS_VGA, 1)
            .u16(params::VIDEO_POINTS, 16);
    }
    page.u64(params::ACPI_RSDP_ADDR, RSDP_ADDRESS);
    let e820 = &e820[..e820.len().min(params::E820_MAX)];
    page.u8(params::E820_ENTRIES, e820.len() as u8);
    for (i, entry) in e820.iter().enumerate() {
        let at = params::E820_TABLE + i * 20;
        page.u64(at, entry.base).u64(at + 8, entry.len).u32(at + 16, entry.kind as u32);
    }
}
