//! What the built-in BIOS uses of the board: ports, memory, video memory, drives, at the instruction that called it.

use softmetal_bus::PAGE_SIZE;
use softmetal_devices::pci::PciDevice;
use softmetal_firmware::{Drives, Layout};

use super::{Board, PageKind};

/// The index of the shutdown byte in CMOS.
const SHUTDOWN: u8 = 0x0f;

/// Splits `len` bytes at `addr` where pages end: address, and the range of bytes.
fn by_page(addr: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = addr.wrapping_add(done as u64);
        let n = (PAGE_SIZE - at as usize % PAGE_SIZE).min(len - done);
        done += n;
        (n > 0).then_some((at, done - n..done))
    })
}

impl Board {
    /// IN by the BIOS.
    pub(crate) fn bios_in(&mut self, at: u64, port: u16, width: usize) -> u32 {
        self.port_read(at, port, width)
    }

    /// OUT by the BIOS.
    pub(crate) fn bios_out(&mut self, at: u64, port: u16, width: usize, value: u32) {
        self.port_write(at, port, width, value);
    }

    /// A load at a physical address.
    pub(crate) fn bios_load(&mut self, at: u64, addr: u64, buf: &mut [u8]) {
        for (addr, range) in by_page(addr, buf.len()) {
            let buf = &mut buf[range];
            let inside = addr % PAGE_SIZE as u64;
            match self.page(addr - inside) {
                PageKind::Memory { offset, .. } if self.around.memory.read(offset + inside, buf).is_ok() => {}
                _ => (0..).zip(buf).for_each(|(n, byte)| *byte = self.read(at, addr + n, 1) as u8),
            }
        }
    }

    /// A store at a physical address. Stores to RAM are marked, and retire code, as those of devices do.
    pub(crate) fn bios_store(&mut self, at: u64, addr: u64, bytes: &[u8]) {
        for (addr, range) in by_page(addr, bytes.len()) {
            let bytes = &bytes[range];
            let inside = addr % PAGE_SIZE as u64;
            match self.page(addr - inside) {
                PageKind::Memory { offset, writable: true } if self.around.memory.write(offset + inside, bytes).is_ok() => {}
                _ => (0..).zip(bytes).for_each(|(n, byte)| self.write(at, addr + n, 1, (*byte).into())),
            }
        }
    }

    /// Lets `ns` pass, and the timers that expire meanwhile.
    pub(crate) fn pause(&mut self, at: u64, ns: u64) {
        self.skip(ns);
        self.fire(at);
    }

    /// Byte 0Fh of CMOS: what the next reset of the processor is meant for.
    pub(crate) fn shutdown_code(&self) -> u8 {
        self.chips.rtc.cmos(SHUTDOWN)
    }

    /// The next reset is a start.
    pub(crate) fn clear_shutdown_code(&mut self) {
        self.chips.rtc.set_cmos(SHUTDOWN, 0);
    }

    /// Ends the interrupts that both 8259 have under way, and takes what the keyboard has sent.
    pub(crate) fn end_interrupts(&mut self, at: u64) {
        const EOI: u32 = 0x20;
        self.port_read(at, 0x60, 1);
        for pic in [0xa0, 0x20] {
            self.port_write(at, pic, 1, EOI);
        }
    }

    /// Video memory in guest memory: offset and length; nothing without an adapter.
    pub(crate) fn video_memory(&self) -> (u64, u64) {
        self.vga().map_or((0, 0), softmetal_devices::vga::Vga::video_memory)
    }

    /// The physical address of the linear framebuffer.
    pub(crate) fn framebuffer(&self) -> u32 {
        self.vga().map_or(0, |vga| vga.config().read(0x10, 4) & !0xf)
    }

    /// Guest memory.
    pub(crate) fn memory(&self) -> &softmetal_bus::GuestMemory {
        &self.around.memory
    }

    /// The drives.
    pub(crate) fn drives(&self) -> &Drives {
        &self.drives
    }

    /// The physical map.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }
}
