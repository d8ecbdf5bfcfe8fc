//! The chips of the `pc` board, by name and by number.

use softmetal_bus::{Device, DeviceId};
use softmetal_devices::acpi_pm::AcpiPm;
use softmetal_devices::dma8237::Dma8237;
use softmetal_devices::fdc82077::Fdc;
use softmetal_devices::flash::Flash;
use softmetal_devices::fw_cfg::FwCfg;
use softmetal_devices::hpet::Hpet;
use softmetal_devices::i8042::I8042;
use softmetal_devices::ioapic::IoApic;
use softmetal_devices::lapic::Lapic;
use softmetal_devices::pci::{PciDevice, PciHost};
use softmetal_devices::pic8259::Pic8259;
use softmetal_devices::pit8254::Pit8254;
use softmetal_devices::ports::{CoprocessorError, DebugCon, DebugExit, FirmwareConsole, Port92, PostCode};
use softmetal_devices::rtc_mc146818::Rtc;
use softmetal_devices::uart16550::Uart16550;

/// The numbers of the chips. They are part of the saved state and of recordings.
pub mod id {
    use softmetal_bus::DeviceId;

    /// The pair of 8259 interrupt controllers.
    pub const PIC: DeviceId = DeviceId(0);
    /// The 8254 timer.
    pub const PIT: DeviceId = DeviceId(1);
    /// The clock and its CMOS memory.
    pub const RTC: DeviceId = DeviceId(2);
    /// The high-precision event timer.
    pub const HPET: DeviceId = DeviceId(3);
    /// The I/O APIC.
    pub const IOAPIC: DeviceId = DeviceId(4);
    /// The local APIC of the first processor.
    pub const LAPIC: DeviceId = DeviceId(5);
    /// ACPI power management.
    pub const PM: DeviceId = DeviceId(6);
    /// The first serial port.
    pub const COM1: DeviceId = DeviceId(7);
    /// The second serial port.
    pub const COM2: DeviceId = DeviceId(8);
    /// The keyboard controller.
    pub const KBC: DeviceId = DeviceId(9);
    /// The DMA controllers.
    pub const DMA: DeviceId = DeviceId(10);
    /// The debug console, port 0xE9.
    pub const DEBUGCON: DeviceId = DeviceId(11);
    /// The debug-exit port, 0xF4.
    pub const DEBUGEXIT: DeviceId = DeviceId(12);
    /// System control port A, 0x92.
    pub const PORT92: DeviceId = DeviceId(13);
    /// The power-on self-test port, 0x80.
    pub const POST: DeviceId = DeviceId(14);
    /// The PCI configuration ports, 0xCF8 to 0xCFF.
    pub const PCIHOST: DeviceId = DeviceId(15);
    /// The logic of coprocessor errors, 0xF0.
    pub const FERR: DeviceId = DeviceId(16);
    /// fw_cfg, 0x510.
    pub const FW_CFG: DeviceId = DeviceId(17);
    /// The firmware's debug port, 0x402.
    pub const FW_CONSOLE: DeviceId = DeviceId(18);
    /// The flash chip with a firmware's variables.
    pub const FLASH: DeviceId = DeviceId(19);
    /// The floppy disk controller.
    pub const FDC: DeviceId = DeviceId(20);
    /// No chip: an address at which nobody answers, whatever else is there.
    pub const NOBODY: DeviceId = DeviceId(u16::MAX - 1);
    /// No chip: the built-in firmware's trap port.
    pub const BIOS: DeviceId = DeviceId(u16::MAX);
    /// The first PCI function; the others follow in the order in which they were plugged in.
    pub const PCI: u16 = 24;
}

/// A function on the PCI bus.
pub struct PciFunction {
    /// Slot, 0 to 31.
    pub slot: u8,
    /// Function in the slot, 0 to 7.
    pub function: u8,
    /// The device.
    pub device: Box<dyn PciDevice>,
}

/// All chips.
pub struct Chips {
    pub(super) pic: Pic8259,
    pub(super) pit: Pit8254,
    pub(super) rtc: Rtc,
    pub(super) hpet: Hpet,
    pub(super) ioapic: IoApic,
    pub(super) lapic: Lapic,
    pub(super) pm: AcpiPm,
    pub(super) com: [Uart16550; 2],
    pub(super) kbc: I8042,
    pub(super) dma: Dma8237,
    pub(super) debugcon: DebugCon,
    pub(super) debugexit: DebugExit,
    pub(super) port92: Port92,
    pub(super) post: PostCode,
    pub(super) pcihost: PciHost,
    pub(super) ferr: CoprocessorError,
    pub(super) fdc: Fdc,
    pub(super) fw_cfg: FwCfg,
    pub(super) fw_console: FirmwareConsole,
    pub(super) flash: Flash,
    /// By number from [`id::PCI`].
    pub(super) pci: Vec<PciFunction>,
}

impl Chips {
    /// The chip of a number.
    pub fn get(&mut self, device: DeviceId) -> Option<&mut dyn Device> {
        Some(match device {
            id::PIC => &mut self.pic,
            id::PIT => &mut self.pit,
            id::RTC => &mut self.rtc,
            id::HPET => &mut self.hpet,
            id::IOAPIC => &mut self.ioapic,
            id::LAPIC => &mut self.lapic,
            id::PM => &mut self.pm,
            id::COM1 => &mut self.com[0],
            id::COM2 => &mut self.com[1],
            id::KBC => &mut self.kbc,
            id::DMA => &mut self.dma,
            id::DEBUGCON => &mut self.debugcon,
            id::DEBUGEXIT => &mut self.debugexit,
            id::PORT92 => &mut self.port92,
            id::POST => &mut self.post,
            id::PCIHOST => &mut self.pcihost,
            id::FERR => &mut self.ferr,
            id::FDC => &mut self.fdc,
            id::FW_CFG => &mut self.fw_cfg,
            id::FW_CONSOLE => &mut self.fw_console,
            id::FLASH => &mut self.flash,
            DeviceId(n) => self.pci.get_mut(usize::from(n.checked_sub(id::PCI)?))?.device.as_mut(),
        })
    }

    /// The numbers of all chips, in order.
    pub fn ids(&self) -> impl Iterator<Item = DeviceId> + use<> {
        let pci = id::PCI..id::PCI + self.pci.len() as u16;
        (id::PIC.0..=id::FDC.0).chain(pci).map(DeviceId)
    }
}
