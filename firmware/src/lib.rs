//! Softmetal's built-in firmware: what a PC's BIOS leaves in memory, and the loaders of kernels.
//!
//! | module | what it does |
//! |---|---|
//! | [`layout`] | the physical map of the `pc` board: RAM, holes, fixed addresses, interrupt routing |
//! | [`acpi`], [`smbios`], [`mptable`], [`bda`] | the tables that describe the board to its operating system |
//! | [`bios`] | the BIOS: a ROM, and services that the machine calls |
//! | [`loaders`] | bzImage, PVH ELF, multiboot, boot sector |
//! | [`mod@detect`] | what a file is, by content |
//! | [`source`] | where its bytes come from |
//! | [`entry`] | the state the first processor starts in |
//!
//! Everything is written into guest memory before the first instruction. A kernel that is loaded directly meets no firmware
//! code at run time; what boots from a drive meets the BIOS.
//!
//! **Invariant:** nothing here reads a file, knows a device's implementation or a processor's; all input is bytes, and
//! bytes from outside never panic.

#![forbid(unsafe_code)]

pub mod acpi;
pub mod bda;
pub mod bios;
pub mod bytes;
pub mod detect;
pub mod entry;
pub mod error;
mod font;
pub mod layout;
pub mod loaders;
pub mod mptable;
pub mod smbios;
pub mod source;

pub use bios::{BootDevice, Drives};
pub use detect::{HEAD_LEN, ImageKind, detect};
pub use entry::Entry;
pub use error::LoadError;
pub use font::FONT;
pub use layout::{Chipset, E820Entry, E820Kind, Layout, PhysWriter, RamRegion, pci_irq};
pub use loaders::Module;
pub use source::Source;

use softmetal_bus::GuestMemory;

/// What to boot.
#[derive(Clone)]
pub struct Boot<'a> {
    /// A kernel: bzImage, PVH or multiboot ELF, or a boot sector.
    pub kernel: &'a dyn Source,
    /// The initial RAM disk(s), or the multiboot modules.
    pub modules: Vec<Module<'a>>,
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// Whether the board has a VGA adapter, left in 80x25 text mode.
    pub vga: bool,
}

impl Default for Boot<'_> {
    fn default() -> Self {
        Self { kernel: &[0; 0], modules: Vec::new(), cmdline: "", vga: false }
    }
}

/// Writes the firmware's tables (BIOS data, ACPI, SMBIOS, MP) for `cpus` processors.
///
/// # Errors
/// [`LoadError::TooLittleRam`] if the layout has less than [`layout::MIN_RAM`].
pub fn write_tables(layout: &Layout, memory: &GuestMemory, cpus: u8) -> Result<(), LoadError> {
    if layout.ram_bytes() < layout::MIN_RAM {
        return Err(LoadError::TooLittleRam { what: "board", needed: layout::MIN_RAM, has: layout.ram_bytes() });
    }
    let writer = PhysWriter::new(layout, memory);
    let cpus = cpus.max(1);
    bda::write(&writer)?;
    acpi::write(&acpi::Config::builtin(cpus, layout), &writer)?;
    smbios::write(cpus, &writer)?;
    mptable::write(cpus, &writer)
}

/// Writes the tables and the BIOS, which the processor enters: it boots from a drive.
///
/// # Errors
/// [`LoadError::TooLittleRam`] if the layout has less than [`layout::MIN_RAM`].
pub fn power_on(layout: &Layout, memory: &GuestMemory, cpus: u8) -> Result<Entry, LoadError> {
    write_tables(layout, memory, cpus)?;
    Ok(Entry::Real { cs: bios::rom::SEGMENT, ip: bios::rom::at::POST, sp: loaders::bootsector::LOAD_ADDRESS as u16, dl: 0 })
}

/// Writes the tables and loads the kernel, choosing the loader by the kernel's content.
///
/// # Errors
/// A [`LoadError`]: one sentence that says what is wrong and what to do. Memory may be partly written then.
pub fn boot(images: &Boot<'_>, layout: &Layout, memory: &GuestMemory, cpus: u8) -> Result<Entry, LoadError> {
    if images.kernel.size() == 0 {
        return Err(LoadError::Empty { what: "kernel" });
    }
    write_tables(layout, memory, cpus)?;
    let writer = PhysWriter::new(layout, memory);
    match detect(&images.kernel.head(HEAD_LEN)?) {
        ImageKind::BzImage => loaders::bzimage::load(images, &writer),
        ImageKind::ElfPvh => loaders::pvh::load(images, &writer),
        ImageKind::Multiboot => loaders::multiboot::load(images, &writer),
        ImageKind::BootSector if !images.modules.is_empty() => Err(LoadError::NoModules),
        ImageKind::BootSector => loaders::bootsector::load(&images.kernel.all()?, &writer),
        kind => Err(LoadError::NotAKernel(kind)),
    }
}

#[cfg(test)]
mod tests;
