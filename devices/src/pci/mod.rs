//! The PCI bus: configuration spaces, MSI-X, the host's window into them, and the chipset's own functions.
//!
//! The board keeps the [`PciDevice`]s by slot; [`PciHost`] tells it whom an access to the data port means.

mod chipset;
mod config;
mod gpio;
mod host;
mod msi;
mod msix;
mod smbus;
mod smram;

use softmetal_bus::{Ctx, Device, Request};

use crate::acpi_pm::SmiSwitch;
use crate::vga::Vga;

pub use chipset::ChipsetFunction;
pub use config::{BarKind, BarMapping, ConfigSpace, Identity, MappingKind, ROM_BAR, Registers, command};
pub use host::{Access, PciHost};
pub use msi::Msi;
pub use msix::{MSIX_BAR_LEN, Msix, MsixState};
pub use smram::Smram;

/// Ports at fixed places: first port, how many, region number.
pub type FixedPorts = Vec<(u16, u16, u8)>;

/// A PCI function. The region number of its [`Device::read`] and [`Device::write`] is the index of the BAR; its output
/// line 0 is the INTx# pin that its configuration space names.
pub trait PciDevice: Device {
    /// Its configuration space.
    fn config(&self) -> &ConfigSpace;
    /// Its configuration space.
    fn config_mut(&mut self) -> &mut ConfigSpace;
    /// A configuration load at `offset` (0 to 0xFF), 1, 2 or 4 bytes wide.
    fn config_read(&mut self, ctx: &mut Ctx, offset: u16, width: usize) -> u32 {
        let _ = ctx;
        self.config().read(offset, width)
    }
    /// A configuration store; asks for [`Request::Remap`] when the function's ranges may have changed.
    fn config_write(&mut self, ctx: &mut Ctx, offset: u16, width: usize, value: u32) {
        if self.config_mut().write(offset, width, value) {
            ctx.request(Request::Remap);
        }
    }
    /// Where in guest memory the range of `bar` is, if it is memory that the processor reaches without the device.
    fn bar_memory(&self, bar: u8) -> Option<u64> {
        let _ = bar;
        None
    }
    /// The display adapter, if it is one.
    fn vga(&self) -> Option<&Vga> {
        None
    }
    /// The display adapter, if it is one.
    fn vga_mut(&mut self) -> Option<&mut Vga> {
        None
    }
    /// PAM0 to PAM6, if it is the host bridge: who answers at 0xC0000 to 0xFFFFF.
    fn pam(&self) -> Option<[u8; 7]> {
        None
    }
    /// What of RAM is for system management mode, if it is the host bridge.
    fn smram(&self) -> Option<Smram> {
        None
    }
    /// What it says about SMIs from the command port, if that is its part.
    fn smi_switch(&self) -> Option<SmiSwitch> {
        None
    }
    /// Where in memory the configuration space answers, if it decides that and it does: base and length.
    fn ecam(&self) -> Option<(u64, u64)> {
        None
    }
    /// Where the ACPI registers answer (ports), if it decides that and they are on.
    fn pm_base(&self) -> Option<u16> {
        None
    }
    /// The ISA interrupt of PIRQ `pirq` (0 = A), if it is the bridge that routes them and the route is on.
    fn pirq_route(&self, pirq: usize) -> Option<u8> {
        let _ = pirq;
        None
    }
    /// Ports besides its BARs that it answers at while its I/O space is on.
    fn fixed_ports(&self) -> FixedPorts {
        FixedPorts::new()
    }
    /// The ISA interrupt that its output line leads to, if it is none of the PCI bus.
    fn isa_irq(&self, line: u8) -> Option<u8> {
        let _ = line;
        None
    }
    /// Where its BARs answer now (only those that do).
    fn bars(&self) -> Vec<BarMapping> {
        self.config().bars()
    }
}
