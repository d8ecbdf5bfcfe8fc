//! The I/O APIC (82093AA datasheet, with the EOI register of version 0x20).
//!
//! Region 0 = its window (at 0xFEC00000). Input lines 0..23 are its pins; interrupts leave as MSIs.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use softmetal_bus::{Ctx, Device, device_state, ones};

use crate::lanes::{extract, insert};

/// Number of pins.
pub const IOAPIC_PINS: u8 = 24;

const VERSION: u32 = (IOAPIC_PINS as u32 - 1) << 16 | 0x20;
/// Where local APICs listen (SDM 3A 11.11.1).
const MSI_BASE: u64 = 0xfee0_0000;

/// Redirection table entries.
const LOGICAL: u64 = 1 << 11;
const DELIVERY_PENDING: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// What software can write.
const WRITABLE: u64 = 0xff << 56 | 0x1_ffff & !(DELIVERY_PENDING | REMOTE_IRR);
const LOWEST_PRIORITY: u64 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    id: u8,
    select: u8,
    /// The redirection table.
    entries: [u64; IOAPIC_PINS as usize],
    /// Levels of the pins.
    lines: u32,
}

/// The I/O APIC.
#[derive(Debug)]
pub struct IoApic {
    id: u8,
    state: State,
}

impl State {
    fn new(id: u8) -> Self {
        Self { id: id & 0x0f, select: 0, entries: [MASKED; IOAPIC_PINS as usize], lines: 0 }
    }

    fn register(&self, index: u8) -> u32 {
        match index {
            0 | 2 => u32::from(self.id) << 24,
            1 => VERSION,
            0x10..=0x3f => (self.entries[usize::from(index - 0x10) / 2] >> (32 * u32::from(index & 1))) as u32,
            _ => u32::MAX,
        }
    }
}

impl IoApic {
    /// An I/O APIC with all pins masked and APIC ID `id` (4 bits).
    #[must_use]
    pub fn new(id: u8) -> Self {
        Self { id, state: State::new(id) }
    }

    /// A local APIC has ended the level-triggered interrupt `vector`: its pins may interrupt again, and do so at once if
    /// they are still asserted.
    pub fn end_of_interrupt(&mut self, ctx: &mut Ctx, vector: u8) {
        for pin in 0..usize::from(IOAPIC_PINS) {
            let entry = &mut self.state.entries[pin];
            if *entry & REMOTE_IRR != 0 && *entry as u8 == vector {
                *entry &= !REMOTE_IRR;
                self.service_level(ctx, pin);
            }
        }
    }

    /// Delivers a level-triggered pin that is asserted, unmasked and not in service.
    fn service_level(&mut self, ctx: &mut Ctx, pin: usize) {
        let entry = &mut self.state.entries[pin];
        let asserted = self.state.lines >> pin & 1 != 0;
        if asserted && *entry & (LEVEL | MASKED | REMOTE_IRR) == LEVEL {
            // Only Fixed and Lowest Priority are ended by an EOI.
            if *entry >> 8 & 7 <= LOWEST_PRIORITY {
                *entry |= REMOTE_IRR;
            }
            send(ctx, *entry);
        }
    }

    fn store(&mut self, ctx: &mut Ctx, index: u8, value: u32) {
        match index {
            0 => self.state.id = (value >> 24 & 0x0f) as u8,
            0x10..=0x3f => {
                let pin = usize::from(index - 0x10) / 2;
                let old = self.state.entries[pin];
                let new = insert(old, u64::from(index & 1) * 4, 4, value.into());
                let mut entry = new & WRITABLE | old & REMOTE_IRR;
                if entry & LEVEL == 0 {
                    entry &= !REMOTE_IRR;
                }
                self.state.entries[pin] = entry;
                self.service_level(ctx, pin);
            }
            _ => log::debug!("ioapic: write {value:#x} to register {index:#x} ignored"),
        }
    }
}

/// Sends the interrupt that `entry` describes, as an MSI (SDM 3A 11.11).
fn send(ctx: &mut Ctx, entry: u64) {
    let destination = entry >> 56;
    let mode = entry >> 8 & 7;
    let hint = u64::from(mode == LOWEST_PRIORITY) << 3;
    let logical = u64::from(entry & LOGICAL != 0) << 2;
    let level = if entry & LEVEL != 0 { 1 << 15 | 1 << 14 } else { 0 };
    ctx.msi(MSI_BASE | destination << 12 | hint | logical, level | (entry & 0x7ff) as u32);
}

impl Device for IoApic {
    fn name(&self) -> &'static str {
        "ioapic"
    }

    fn read(&mut self, _ctx: &mut Ctx, region: u8, offset: u64, width: usize) -> u64 {
        let register = match (region, offset & !0xf) {
            (0, 0x00) => u32::from(self.state.select),
            (0, 0x10) => self.state.register(self.state.select),
            _ => return ones(width),
        };
        extract(register.into(), offset, width)
    }

    fn write(&mut self, ctx: &mut Ctx, region: u8, offset: u64, _width: usize, value: u64) {
        match (region, offset) {
            (0, 0x00) => self.state.select = value as u8,
            (0, 0x10) => self.store(ctx, self.state.select, value as u32),
            (0, 0x40) => self.end_of_interrupt(ctx, value as u8),
            _ => log::debug!("ioapic: write {value:#x} to offset {offset:#x} ignored"),
        }
    }

    fn line_in(&mut self, ctx: &mut Ctx, line: u8, level: bool) {
        if line >= IOAPIC_PINS {
            log::debug!("ioapic: no pin {line}");
            return;
        }
        let (pin, bit) = (usize::from(line), 1 << line);
        let was = self.state.lines & bit != 0;
        self.state.lines = if level { self.state.lines | bit } else { self.state.lines & !bit };
        let entry = self.state.entries[pin];
        if entry & LEVEL != 0 {
            self.service_level(ctx, pin);
        } else if level && !was && entry & MASKED == 0 {
            // An edge on a masked pin is lost (82093AA 3.2.4).
            send(ctx, entry);
        }
    }

    fn reset(&mut self, _ctx: &mut Ctx) {
        self.state = State { lines: self.state.lines, ..State::new(self.id) };
    }

    device_state!(state, 1);
}
