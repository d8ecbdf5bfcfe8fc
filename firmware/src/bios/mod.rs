//! The built-in BIOS.
//!
//! | module | what it does |
//! |---|---|
//! | [`rom`] | the code in the guest: interrupt entries, waits, calls of other vectors |
//! | `data` | the tables in the ROM and the places of variables in memory |
//! | `registers` | what a service sees of its caller |
//! | `post` | the set-up after power-on |
//! | `boot` | INT 18h and 19h: the way to a boot sector; El Torito |
//! | `video`, `text`, `pixels`, `modes`, `vbe`, `saved` | INT 10h |
//! | `disk` | INT 13h |
//! | `system` | INT 11h, 12h, 15h; `apm`: INT 15h, 53h; `mouse`: INT 15h, C2h |
//! | `keyboard` | INT 09h and 16h |
//! | `clock` | INT 08h, 1Ah, 70h |
//! | `serial` | INT 14h and 17h |
//! | `pci` | INT 1Ah, B1h and the 32-bit PCI BIOS |
//!
//! An interrupt entry writes the trap port. The machine then calls [`serve`] with the caller's registers and a [`Platform`],
//! between two instructions, as if the OUT had done it all. Services use the board's chips through their ports, as code in
//! the guest would, and the disks' bytes directly.
//!
//! **Invariant:** all that services remember is in guest memory (BIOS data area, extended BIOS data area) and in chips, so
//! that it is saved and repeated with them.

mod apm;
mod boot;
mod clock;
mod data;
mod disk;
mod keyboard;
mod modes;
mod mouse;
pub(crate) mod pci;
mod pixels;
mod post;
mod registers;
pub mod rom;
mod saved;
mod serial;
mod system;
#[cfg(test)]
mod tests;
mod text;
mod vbe;
mod vbe_protected;
mod video;

use softmetal_bus::{Drive, SharedDisk};

pub use registers::{Reg, Registers, Seg};

use crate::layout::{EBDA_BASE, Layout};

/// A kind of device to boot from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootDevice {
    /// The disks.
    Disk,
    /// The CD-ROM drives.
    Cdrom,
    /// The floppy drives.
    Floppy,
    /// The network.
    Net,
}

/// The drives of a board, in the order of their BIOS numbers.
#[derive(Clone, Default)]
pub struct Drives {
    /// From 80h on.
    pub disks: Vec<SharedDisk>,
    /// From E0h on.
    pub cdroms: Vec<Drive>,
    /// 00h and 01h.
    pub floppies: Vec<Drive>,
    /// What to boot from, in order.
    pub boot: Vec<BootDevice>,
}

/// What services use of the board. Addresses are linear, as the caller sees them.
pub trait Platform {
    /// IN; `width` is 1, 2 or 4 bytes.
    fn port_in(&mut self, port: u16, width: usize) -> u32;
    /// OUT.
    fn port_out(&mut self, port: u16, width: usize, value: u32);
    /// A load; all ones where nothing answers.
    fn read(&mut self, linear: u32, buf: &mut [u8]);
    /// A store; nothing happens where nothing answers.
    fn write(&mut self, linear: u32, bytes: &[u8]);
    /// A load at a physical address.
    fn read_physical(&mut self, address: u64, buf: &mut [u8]);
    /// A store at a physical address.
    fn write_physical(&mut self, address: u64, bytes: &[u8]);
    /// Bytes of video memory; none without a display adapter.
    fn video_len(&self) -> u64;
    /// A load from video memory: byte `n` of plane `p` is at `4 * n + p`.
    fn read_video(&mut self, at: u64, buf: &mut [u8]);
    /// A store to video memory.
    fn write_video(&mut self, at: u64, bytes: &[u8]);
    /// The physical address of the linear framebuffer.
    fn framebuffer(&self) -> u32;
    /// What the monitor says of itself.
    fn edid(&self) -> [u8; 128];
    /// Lets virtual time pass in which chips do what they are about to do.
    fn pause(&mut self, ns: u64);
    /// The drives.
    fn drives(&self) -> &Drives;
    /// The physical map.
    fn layout(&self) -> &Layout;
}

/// What the guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// The power-on self-test.
    Post,
    /// A software interrupt, or a hardware interrupt that is served alone.
    Int(u8),
    /// That interrupt's caller has waited for an interrupt.
    Resumed(u8),
    /// INT 08h.
    Tick,
    /// INT 09h: a scan code in AL.
    Key,
    /// INT 70h.
    Clock,
    /// INT 74h.
    Mouse,
    /// The BIOS32 service directory.
    Bios32,
    /// The PCI BIOS from 32-bit code.
    Pci32,
    /// The Plug and Play entry.
    Pnp,
    /// The APM interface from protected mode.
    Apm,
}

impl Call {
    /// The caller's flags are on the stack, above its return address, rather than in the flags register.
    #[must_use]
    pub fn flags_on_stack(self) -> bool {
        matches!(self, Self::Int(_) | Self::Resumed(_))
    }
}

/// How the guest goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// After the trap.
    Return,
    /// It waits for an interrupt and calls again.
    Wait,
    /// In real mode at segment and offset, interrupts on, the stack below 0000:7C00, DS and ES zero.
    Jump(u16, u16),
}

/// Serves `call`.
pub fn serve(host: &mut dyn Platform, call: Call, regs: &mut Registers) -> Outcome {
    let mut bios = Bios { host, regs };
    match call {
        Call::Post => bios.post(),
        Call::Int(vector) => return bios.interrupt(vector),
        Call::Resumed(vector) => return bios.resume(vector),
        Call::Tick => bios.tick(),
        Call::Key => bios.key(),
        Call::Clock => bios.clock_interrupt(),
        Call::Mouse => bios.mouse_interrupt(),
        Call::Bios32 => bios.bios32(),
        Call::Pci32 => bios.pci(),
        Call::Apm => bios.apm(),
        // No function of it is supported.
        Call::Pnp => bios.regs.a.set_x(0x82),
    }
    Outcome::Return
}

/// A service under way.
struct Bios<'a> {
    host: &'a mut dyn Platform,
    regs: &'a mut Registers,
}

/// The BIOS data area.
const BDA: u32 = 0x400;
/// The extended BIOS data area.
const EBDA: u32 = EBDA_BASE as u32;

impl Bios<'_> {
    fn interrupt(&mut self, vector: u8) -> Outcome {
        match vector {
            0x10 => self.video(),
            0x11 => self.equipment(),
            0x12 => self.memory_size(),
            0x13 | 0x40 => self.disk(vector == 0x40),
            0x14 => self.serial(),
            0x15 => return self.system(),
            0x16 => return self.keyboard(false),
            0x17 => self.printer(),
            0x18 => return self.boot_next(),
            0x19 => return self.boot_first(),
            0x1A => self.time(),
            _ => self.stray_interrupt(vector),
        }
        Outcome::Return
    }

    fn resume(&mut self, vector: u8) -> Outcome {
        match vector {
            0x15 if self.regs.a.x() == apm::IDLE => {
                self.apm();
                Outcome::Return
            }
            0x15 => self.wait_on(),
            _ => self.keyboard(true),
        }
    }

    /// A hardware interrupt that nobody serves: ends it. Where its chip can be told apart, tells it.
    fn stray_interrupt(&mut self, vector: u8) {
        match vector {
            0x0E => self.set_bda8(data::FLOPPY_STATUS, 0x80),
            // IRQ 9 is what IRQ 2 was on the first PCs; nobody is known to want it.
            0x75 => self.out8(0xF0, 0),
            0x76 => self.set_bda8(data::DISK_INTERRUPT, 0xFF),
            _ => {}
        }
        if vector >= 0x70 {
            self.out8(0xA0, 0x20);
        }
        self.out8(0x20, 0x20);
    }

    fn in8(&mut self, port: u16) -> u8 {
        self.host.port_in(port, 1) as u8
    }
    fn out8(&mut self, port: u16, value: u8) {
        self.host.port_out(port, 1, value.into());
    }
    /// An indexed register: index port, then data port.
    fn in_indexed(&mut self, port: u16, index: u8) -> u8 {
        self.out8(port, index);
        self.in8(port + 1)
    }
    fn out_indexed(&mut self, port: u16, index: u8, value: u8) {
        self.out8(port, index);
        self.out8(port + 1, value);
    }

    fn array<const N: usize>(&mut self, linear: u32) -> [u8; N] {
        let mut bytes = [0; N];
        self.host.read(linear, &mut bytes);
        bytes
    }
    fn get8(&mut self, linear: u32) -> u8 {
        let [byte] = self.array(linear);
        byte
    }
    fn get16(&mut self, linear: u32) -> u16 {
        u16::from_le_bytes(self.array(linear))
    }
    fn get32(&mut self, linear: u32) -> u32 {
        u32::from_le_bytes(self.array(linear))
    }
    fn set(&mut self, linear: u32, bytes: &[u8]) {
        self.host.write(linear, bytes);
    }
    fn bda8(&mut self, at: u32) -> u8 {
        self.get8(BDA + at)
    }
    fn bda16(&mut self, at: u32) -> u16 {
        self.get16(BDA + at)
    }
    fn set_bda8(&mut self, at: u32, value: u8) {
        self.set(BDA + at, &[value]);
    }
    fn set_bda16(&mut self, at: u32, value: u16) {
        self.set(BDA + at, &value.to_le_bytes());
    }
    /// Points an interrupt vector somewhere.
    fn set_vector(&mut self, vector: u8, segment: u16, offset: u16) {
        self.set(u32::from(vector) * 4, &[offset.to_le_bytes(), segment.to_le_bytes()].concat());
    }

    /// A function that does not exist: carry, AH = 86h.
    fn unsupported(&mut self) {
        log::debug!("BIOS: no service for AX {:04X}, BX {:04X}, DX {:04X}", self.regs.a.x(), self.regs.b.x(), self.regs.d.x());
        self.regs.a.set_h(0x86);
        self.regs.set_carry(true);
    }
}
