//! A SATA host adapter (Serial ATA AHCI 1.3.1) as the ICH9 has it: six ports, 32 command slots, native command queuing.
//!
//! Region 5 is the register block (BAR 5). Timer `n` carries out the commands of port `n`.

mod command;
mod port;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use softmetal_bus::device::{decode, encode};
use softmetal_bus::{Ctx, Device, Input, Request, StateError, ones};

use crate::ata::{Saved, Unit};
use crate::lanes::extract;
use crate::pci::{BarKind, ConfigSpace, Identity, Msi, PciDevice, command as pci_command};
use port::Port;

/// Ports.
pub const PORTS: usize = 6;
/// Where the ports' registers begin, and bytes of each.
const PORT_BASE: u64 = 0x100;
const PORT_LEN: u64 = 0x80;
/// Bytes of the register block.
const BLOCK: u64 = 0x1000;

/// Capabilities: 64-bit addresses, queuing, command list override, 3 Gb/s, AHCI only, 32 slots.
const CAP: u32 = 1 << 31 | 1 << 30 | 1 << 24 | 2 << 20 | 1 << 18 | 31 << 8 | (PORTS as u32 - 1);
const VERSION: u32 = 0x0001_0200;
/// Bits of global host control.
mod ghc {
    pub const RESET: u32 = 1 << 0;
    pub const INTERRUPTS: u32 = 1 << 1;
    pub const AHCI: u32 = 1 << 31;
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    interrupts_on: bool,
    /// Ports that have asked for an interrupt.
    pending: u32,
    ports: [Port; PORTS],
}

/// The devices at the ports.
pub type Places = [Option<Unit>; PORTS];

/// The host adapter.
pub struct Ahci {
    config: ConfigSpace,
    msi: Msi,
    units: Places,
    state: State,
}

impl Ahci {
    /// The adapter with its devices.
    #[must_use]
    pub fn new(units: Places) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x2922,
            class: 0x01_0601,
            revision: 2,
            interrupt_pin: 1,
            ..Identity::default()
        });
        config.add_bar(5, BarKind::Memory32, BLOCK);
        let msi = Msi::new(&mut config);
        let mut ahci = Self { config, msi, units, state: State::default() };
        ahci.power_on();
        ahci
    }

    fn power_on(&mut self) {
        self.state = State::default();
        for (port, unit) in self.state.ports.iter_mut().zip(&mut self.units) {
            port.connect(unit.as_mut(), true);
        }
    }

    /// Host reset by the driver.
    fn host_reset(&mut self, ctx: &mut Ctx) {
        (0..PORTS as u32).for_each(|n| ctx.cancel(n));
        self.state = State::default();
        for (port, unit) in self.state.ports.iter_mut().zip(&mut self.units) {
            port.connect(unit.as_mut(), false);
        }
        self.drive_line(ctx);
    }

    fn drive_line(&mut self, ctx: &mut Ctx) {
        let asserted = self.state.interrupts_on && self.state.pending != 0;
        self.config.set_interrupt_status(asserted);
        let intx = !self.msi.enabled(&self.config) && self.config.command() & pci_command::INTX_DISABLE == 0;
        ctx.line(0, asserted && intx);
    }

    /// Notes which ports ask for an interrupt; a message goes out for those that did not before, or if `again`.
    fn update_interrupt(&mut self, ctx: &mut Ctx, again: bool) {
        let before = self.state.pending;
        for (n, port) in self.state.ports.iter().enumerate() {
            self.state.pending |= u32::from(port.asks()) << n;
        }
        let new = self.state.pending & !before != 0 || (again && self.state.pending != 0);
        if new && self.state.interrupts_on {
            self.msi.notify(ctx, &self.config);
        }
        self.drive_line(ctx);
    }

    fn load_dword(&self, offset: u64) -> u32 {
        if offset >= PORT_BASE {
            let (n, register) = ((offset - PORT_BASE) / PORT_LEN, (offset - PORT_BASE) % PORT_LEN);
            return self.state.ports.get(n as usize).map_or(0, |port| port.load(register));
        }
        match offset {
            0x00 => CAP,
            0x04 => ghc::AHCI | if self.state.interrupts_on { ghc::INTERRUPTS } else { 0 },
            0x08 => self.state.pending,
            0x0c => (1 << PORTS) - 1,
            0x10 => VERSION,
            _ => 0,
        }
    }

    fn store_dword(&mut self, ctx: &mut Ctx, offset: u64, value: u32) {
        if offset >= PORT_BASE {
            let (n, register) = (((offset - PORT_BASE) / PORT_LEN) as usize, (offset - PORT_BASE) % PORT_LEN);
            if n < PORTS {
                self.store_port(ctx, n, register, value);
                self.update_interrupt(ctx, false);
            }
            return;
        }
        match offset {
            0x04 if value & ghc::RESET != 0 => self.host_reset(ctx),
            0x04 => {
                let before = self.state.interrupts_on;
                self.state.interrupts_on = value & ghc::INTERRUPTS != 0;
                self.update_interrupt(ctx, !before);
            }
            0x08 => {
                self.state.pending &= !value;
                self.update_interrupt(ctx, true);
            }
            _ => log::debug!("ahci: a store of {value:#x} to {offset:#x} is ignored"),
        }
    }
}

impl Device for Ahci {
    fn name(&self) -> &'static str {
        "ahci"
    }
    fn read(&mut self, _ctx: &mut Ctx, region: u8, offset: u64, width: usize) -> u64 {
        if region != 5 || offset + width as u64 > BLOCK {
            return ones(width);
        }
        match width {
            8 => u64::from(self.load_dword(offset & !3)) | u64::from(self.load_dword((offset & !3) + 4)) << 32,
            _ => extract(self.load_dword(offset & !3).into(), offset & 3, width),
        }
    }
    fn write(&mut self, ctx: &mut Ctx, region: u8, offset: u64, width: usize, value: u64) {
        match width {
            4 if region == 5 && offset % 4 == 0 => self.store_dword(ctx, offset, value as u32),
            8 if region == 5 && offset % 4 == 0 => {
                self.store_dword(ctx, offset, value as u32);
                self.store_dword(ctx, offset + 4, (value >> 32) as u32);
            }
            _ => log::debug!("ahci: a store of {width} bytes to {offset:#x} is ignored"),
        }
    }
    fn timer(&mut self, ctx: &mut Ctx, timer: u32) {
        if (timer as usize) < PORTS {
            self.work(ctx, timer as usize);
            self.update_interrupt(ctx, false);
        }
    }
    fn input(&mut self, ctx: &mut Ctx, input: &Input) {
        if *input == Input::HostDone {
            self.host_done(ctx);
            self.update_interrupt(ctx, false);
        }
    }
    fn waits_for_host(&mut self) -> Option<bool> {
        let on_host = |(port, _): &(&Port, _)| port.on_host;
        let mut waiting = self.state.ports.iter().zip(&mut self.units).filter(on_host).peekable();
        // One that has ended waits for the others that are flushed at the same time.
        waiting.peek().is_some().then(|| waiting.all(|(_, unit)| unit.as_mut().is_none_or(|unit| !unit.on_host())))
    }
    fn reset(&mut self, ctx: &mut Ctx) {
        (0..PORTS as u32).for_each(|n| ctx.cancel(n));
        self.config.reset();
        self.power_on();
        ctx.line(0, false);
        ctx.request(Request::Remap);
    }
    fn save(&self) -> Vec<u8> {
        encode(3, &Saved::of(&self.config, &self.state, &self.units))
    }
    fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let saved: Saved<State> = decode(self.name(), 3, bytes)?;
        saved.restore(self.name(), &mut self.config, &mut self.state, &mut self.units)
    }
}

impl PciDevice for Ahci {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn config_write(&mut self, ctx: &mut Ctx, offset: u16, width: usize, value: u32) {
        if self.config.write(offset, width, value) {
            ctx.request(Request::Remap);
        }
        self.drive_line(ctx);
    }
}
