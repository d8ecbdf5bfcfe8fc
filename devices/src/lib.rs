//! The chips of the Softmetal board.
#![forbid(unsafe_code)]

pub mod acpi_pm;
pub mod hpet;
pub mod ioapic;
mod lanes;
pub mod lapic;
pub mod pic8259;
pub mod pit8254;
pub mod rtc_mc146818;
#[cfg(test)]
mod testing;
