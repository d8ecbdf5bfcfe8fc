//! The PCI BIOS (PCI BIOS Specification 2.1), the BIOS32 directory, and the interrupt routing table.

use super::Bios;
use super::rom::{BASE, at, rom};
use crate::bytes::Fields;
use crate::layout::{Layout, PCI_IRQS};

const ADDRESS: u16 = 0xCF8;
const DATA: u16 = 0xCFC;
const ENABLE: u32 = 1 << 31;
/// "PCI " and "$PCI".
const SIGNATURE: u32 = 0x2049_4350;
const SERVICE: u32 = 0x4943_5024;

mod code {
    pub const OK: u8 = 0x00;
    pub const UNSUPPORTED: u8 = 0x81;
    pub const BAD_VENDOR: u8 = 0x83;
    pub const NOT_FOUND: u8 = 0x86;
    pub const BAD_REGISTER: u8 = 0x87;
    pub const BUFFER_TOO_SMALL: u8 = 0x89;
}

/// The interrupts that PCI functions may have, a bit each.
fn interrupts() -> u16 {
    PCI_IRQS.iter().map(|irq| 1 << irq).sum()
}

/// The routing of each slot: bus, device, then link and possible interrupts of each pin, slot number.
fn routes(layout: &Layout) -> Vec<[u8; 16]> {
    let (chipset, irqs) = (layout.chipset(), interrupts().to_le_bytes());
    let links = chipset.isa_bridge().registers;
    let slot = |slot: u8| {
        let mut entry = [0; 16];
        entry[1] = slot << 3;
        for pin in 0..4u8 {
            let at = 2 + 3 * usize::from(pin);
            entry[at] = links[usize::from(chipset.pirq(slot, pin))];
            entry[at + 1..at + 3].copy_from_slice(&irqs);
        }
        entry
    };
    (1..32).map(slot).collect()
}

/// The table `$PIR` (Microsoft PCI IRQ Routing Table Specification).
pub fn routing_table(layout: &Layout) -> (u64, Vec<u8>) {
    let routes = routes(layout).concat();
    let len = 32 + routes.len();
    let mut table = Fields::new(len);
    table.set(0, *b"$PIR").u16(4, 0x100).u16(6, len as u16).u8(9, layout.chipset().isa_bridge().slot << 3);
    // No interrupt is for PCI alone. The bridge is compatible with Intel's PIIX.
    table.u32(12, 0x7000_8086);
    for (at, byte) in routes.iter().enumerate() {
        table.u8(32 + at, *byte);
    }
    table.checksum(31, 0..len);
    (u64::from(BASE) + u64::from(at::PIR), table.as_slice().to_vec())
}

impl Bios<'_> {
    fn select(&mut self, function: u16, register: u16) {
        self.host.port_out(ADDRESS, 4, ENABLE | u32::from(function) << 8 | u32::from(register & 0xFC));
    }

    /// A load from configuration space; `function` is bus, device and function as PCI BIOS callers have them in BX.
    fn config(&mut self, function: u16, register: u16, width: usize) -> u32 {
        self.select(function, register);
        self.host.port_in(DATA + (register & 3), width)
    }

    /// The function of number `index` among those of bus 0 that satisfy `wanted`, which sees the registers 0 and 8.
    fn find_function(&mut self, index: u16, wanted: impl Fn(u32, u32) -> bool) -> Option<u16> {
        let mut left = index;
        for slot in 0..32 {
            for function in (slot << 3)..(slot << 3) + 8 {
                let id = self.config(function, 0, 4);
                if id & 0xFFFF == 0xFFFF {
                    // Without function 0 there are no others.
                    if function & 7 == 0 {
                        break;
                    }
                    continue;
                }
                let class = self.config(function, 8, 4);
                if wanted(id, class) {
                    match left.checked_sub(1) {
                        Some(n) => left = n,
                        None => return Some(function),
                    }
                }
                if function & 7 == 0 && self.config(function, 0x0E, 1) & 0x80 == 0 {
                    break;
                }
            }
        }
        None
    }

    /// INT 1Ah, B1h, and the same from 32-bit code.
    pub(super) fn pci(&mut self) {
        let result = self.pci_function(self.regs.a.l() & 0x7F);
        self.regs.a.set_h(result);
        self.regs.set_carry(result != code::OK);
    }

    fn pci_function(&mut self, function: u8) -> u8 {
        let (device, register) = (self.regs.b.x(), self.regs.di.x());
        match function {
            0x01 => {
                self.regs.d.0 = SIGNATURE;
                self.regs.di.0 = BASE + u32::from(rom().bios32.1);
                // Configuration mechanism 1; version 2.10; the last bus.
                self.regs.a.set_l(1);
                self.regs.b.set_x(0x0210);
                self.regs.c.set_l(0);
                code::OK
            }
            0x02 => {
                let id = u32::from(self.regs.c.x()) << 16 | u32::from(self.regs.d.x());
                if self.regs.d.x() == 0xFFFF {
                    return code::BAD_VENDOR;
                }
                self.found(|found, _| found == id)
            }
            0x03 => {
                let wanted = self.regs.c.0 & 0xFF_FFFF;
                self.found(|_, class| class >> 8 == wanted)
            }
            0x08..=0x0D => {
                let width = 1 << ((function - 8) % 3);
                if usize::from(register) % width != 0 || register > 0xFF {
                    return code::BAD_REGISTER;
                }
                match (function, width) {
                    (0x08, _) => {
                        let value = self.config(device, register, 1);
                        self.regs.c.set_l(value as u8);
                    }
                    (0x09, _) => {
                        let value = self.config(device, register, 2);
                        self.regs.c.set_x(value as u16);
                    }
                    (0x0A, _) => self.regs.c.0 = self.config(device, register, 4),
                    _ => {
                        self.select(device, register);
                        self.host.port_out(DATA + (register & 3), width, self.regs.c.0);
                    }
                }
                code::OK
            }
            0x0E => self.give_routes(),
            _ => code::UNSUPPORTED,
        }
    }

    fn found(&mut self, wanted: impl Fn(u32, u32) -> bool) -> u8 {
        match self.find_function(self.regs.si.x(), wanted) {
            Some(function) => {
                self.regs.b.set_x(function);
                code::OK
            }
            None => code::NOT_FOUND,
        }
    }

    /// B10Eh: the routes into the buffer whose length and far address ES:DI has.
    fn give_routes(&mut self) -> u8 {
        let routes = routes(self.host.layout()).concat();
        let buffer = self.regs.es.at(self.regs.di.x());
        let (room, offset, segment) = (self.get16(buffer), self.get16(buffer.wrapping_add(2)), self.get16(buffer.wrapping_add(4)));
        self.set(buffer, &(routes.len() as u16).to_le_bytes());
        if usize::from(room) < routes.len() {
            return code::BUFFER_TOO_SMALL;
        }
        self.set(super::Seg::real(segment).at(offset), &routes);
        self.regs.b.set_x(interrupts());
        code::OK
    }

    /// The BIOS32 service directory: where the service in EAX is.
    pub(super) fn bios32(&mut self) {
        if self.regs.b.l() != 0 {
            self.regs.a.set_l(0x81);
        } else if self.regs.a.0 == SERVICE {
            self.regs.a.set_l(0);
            self.regs.b.0 = BASE;
            self.regs.c.0 = 0x1_0000;
            self.regs.d.0 = rom().bios32.1.into();
        } else {
            self.regs.a.set_l(0x80);
        }
    }
}
