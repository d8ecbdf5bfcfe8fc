//! The chips of the Softmetal board.
#![forbid(unsafe_code)]

pub mod acpi_pm;
pub mod ahci;
pub mod ata;
pub mod dma8237;
pub mod fdc82077;
pub mod flash;
pub mod fw_cfg;
pub mod hpet;
pub mod i8042;
pub mod ide;
pub mod ioapic;
mod lanes;
pub mod lapic;
pub mod pci;
pub mod pic8259;
pub mod pit8254;
pub mod ports;
pub mod rtc_mc146818;
pub mod scsi;
#[cfg(test)]
mod testing;
pub mod uart16550;
pub mod vga;
pub mod virtio;
