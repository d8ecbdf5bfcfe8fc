//! The set-up after power-on: interrupt vectors, data areas, timer, interrupt controllers, video mode 3.

use softmetal_bus::BlockBackend;

use super::rom::{SEGMENT, at, rom};
use super::{Bios, EBDA, data};
use crate::bda;

impl Bios<'_> {
    /// The power-on self-test. The board's own set-up (PCI, chipset) is done.
    pub(super) fn post(&mut self) {
        let rom = rom();
        for vector in 0..=0xFF {
            match vector {
                // Free for programs.
                0x60..=0x67 => self.set_vector(vector, 0, 0),
                _ => self.set_vector(vector, SEGMENT, rom.vectors.get(&vector).copied().unwrap_or(at::IRET)),
            }
        }
        let warm = self.bda16(data::WARM_START);
        self.set(super::BDA, bda::data_area().as_slice());
        self.set_bda16(data::WARM_START, warm);
        self.set(EBDA, &[1; 1]);
        self.set(EBDA + 1, &[0; 0x3FF]);
        self.interrupt_controllers();
        // Channel 0: 65,536 counts a tick; channel 1: what refreshed memory once.
        for (port, value) in [(0x43, 0x36), (0x40, 0), (0x40, 0), (0x43, 0x54), (0x41, 18)] {
            self.out8(port, value);
        }
        self.start_clock();
        self.count_drives();
        if self.host.video_len() > 0 {
            self.regs.a.set_x(3);
            self.video();
            self.print("Softmetal BIOS\r\n\n");
        } else {
            self.set_bda8(data::MODE, 7);
        }
    }

    /// The 8259 pair at vectors 08h and 70h: the timer, the keyboard and floppies may interrupt.
    fn interrupt_controllers(&mut self) {
        const FIRST: [(u16, u8); 4] = [(0x20, 0x11), (0x21, 0x08), (0x21, 4), (0x21, 1)];
        const SECOND: [(u16, u8); 4] = [(0xA0, 0x11), (0xA1, 0x70), (0xA1, 2), (0xA1, 1)];
        for (port, value) in FIRST.into_iter().chain(SECOND).chain([(0x21, 0xB8), (0xA1, 0xFF)]) {
            self.out8(port, value);
        }
    }

    /// Lets an interrupt of the second 8259 through.
    pub(super) fn unmask_second(&mut self, line: u8) {
        let mask = self.in8(0xA1);
        self.out8(0xA1, mask & !(1 << (line - 8)));
    }

    fn count_drives(&mut self) {
        let drives = self.host.drives();
        let disks = drives.disks.len() as u8;
        let floppies = drives.floppies.len().min(2) as u16;
        let largest = drives.disks.first().map_or(0, BlockBackend::size);
        log::info!(target: "bios", "{disks} disks (the first of {} MiB), {floppies} floppy drives", largest >> 20);
        self.set_bda8(data::DISK_COUNT, disks);
        let equipment = self.bda16(data::EQUIPMENT);
        if floppies > 0 {
            self.set_bda16(data::EQUIPMENT, equipment | 1 | (floppies - 1) << 6);
        }
    }
}
