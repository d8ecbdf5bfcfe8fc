//! The ACPI tables (ACPI 6.5 chapter 5): RSDP, RSDT and XSDT, FADT, FACS, MADT, HPET, and the DSDT in [`dsdt`].

pub mod dsdt;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::sdt::Sdt;

use crate::bytes::Fields;
use crate::error::LoadError;
use crate::layout::{
    ACPI_DISABLE, ACPI_ENABLE, GPE0_LEN, GPE0_PORT, HPET_BASE, IOAPIC_BASE, IOAPIC_ID, LAPIC_BASE, PCI_IRQS, PM_TMR_PORT, PM1A_CNT_PORT,
    PM1A_EVT_PORT, PhysWriter, RESET_PORT, RESET_VALUE, SCI_IRQ, SMI_CMD_PORT, TABLES,
};

/// Where the RSDP is.
pub const RSDP_ADDRESS: u64 = TABLES.start;
/// The room for all ACPI tables.
const END: u64 = TABLES.start + 0x1_0000;

pub(crate) const OEM_ID: [u8; 6] = *b"SOFTMT";
const OEM_TABLE_ID: [u8; 8] = *b"SOFTMTPC";
const OEM_REVISION: u32 = 1;

/// What the tables depend on besides the layout.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Processors; their local APIC identifiers are 0 and up.
    pub cpus: u8,
}

/// An ISA interrupt that reaches the IOAPIC otherwise than by its own number, edge triggered and active high.
pub(crate) struct Override {
    /// The ISA interrupt.
    pub irq: u8,
    /// The IOAPIC input.
    pub gsi: u8,
    /// Polarity and trigger in the encoding that MADT and MP table share (MPS 4.3.4).
    pub flags: u16,
}

/// Active high, level triggered.
pub(crate) const LEVEL_HIGH: u16 = 0b1101;

/// The PIT on input 2, and the interrupts that are levels.
pub(crate) fn overrides() -> Vec<Override> {
    let level = |irq| Override { irq, gsi: irq, flags: LEVEL_HIGH };
    let mut all = vec![Override { irq: 0, gsi: 2, flags: 0 }, level(5), level(SCI_IRQ)];
    all.extend(PCI_IRQS.map(level));
    all
}

/// Writes all tables; the address of the RSDP.
///
/// # Errors
/// [`LoadError::NotRam`] on a board without a megabyte of RAM.
pub fn write(config: &Config, writer: &PhysWriter<'_>) -> Result<u64, LoadError> {
    let mut at = RSDP_ADDRESS + 0x40;
    let mut put = |bytes: &[u8]| -> Result<u64, LoadError> {
        let address = at.next_multiple_of(64);
        at = address + bytes.len() as u64;
        debug_assert!(at <= END, "the ACPI tables outgrew their area");
        writer.write(address, bytes)?;
        Ok(address)
    };
    let facs = put(&bytes_of(&FACS::new()))?;
    let dsdt = put(dsdt::build(config, writer.layout()).as_slice())?;
    let tables = [put(&fadt(facs, dsdt))?, put(madt(config).as_slice())?, put(hpet().as_slice())?];

    let mut rsdt = sdt(b"RSDT", 1);
    let mut xsdt = sdt(b"XSDT", 1);
    for address in tables {
        rsdt.append_slice(&(address as u32).to_le_bytes());
        xsdt.append_slice(&address.to_le_bytes());
    }
    let (rsdt, xsdt) = (put(rsdt.as_slice())?, put(xsdt.as_slice())?);

    let mut rsdp = Fields::new(36);
    rsdp.set(0, *b"RSD PTR ")
        .set(9, OEM_ID)
        .u8(15, 2)
        .u32(16, rsdt as u32)
        .u32(20, 36)
        .u64(24, xsdt)
        .checksum(8, 0..20)
        .checksum(32, 0..36);
    writer.write(RSDP_ADDRESS, rsdp.as_slice())?;
    Ok(RSDP_ADDRESS)
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn sdt(signature: &[u8; 4], revision: u8) -> Sdt {
    Sdt::new(*signature, 36, revision, OEM_ID, OEM_TABLE_ID, OEM_REVISION)
}

fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    let io = |port: u16, bits: u8, access| GAS::new(AddressSpace::SystemIo, bits, 0, access, port.into());
    // FIX_RTC and SLP_BUTTON say that the fixed registers have no RTC wake status and no sleep button.
    let mut table = [Flags::Wbinvd, Flags::ProcC1, Flags::SlpButton, Flags::FixRtc, Flags::TmrValExt, Flags::ResetRegSup]
        .into_iter()
        .fold(FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION), FADTBuilder::flag)
        .preferred_pm_profile(PmProfile::Desktop)
        .gpe_info(GPE0_PORT.into(), 0, GPE0_LEN, 0, 0)
        .firmware_ctrl_32(facs as u32)
        .dsdt_32(dsdt as u32);
    table.x_dsdt = dsdt.into();
    table.sci_int = u16::from(SCI_IRQ).into();
    table.smi_cmd = u32::from(SMI_CMD_PORT).into();
    table.acpi_enable = ACPI_ENABLE;
    table.acpi_disable = ACPI_DISABLE;
    table.pm1a_evt_blk = u32::from(PM1A_EVT_PORT).into();
    table.pm1a_cnt_blk = u32::from(PM1A_CNT_PORT).into();
    table.pm_tmr_blk = u32::from(PM_TMR_PORT).into();
    (table.pm1_evt_len, table.pm1_cnt_len, table.pm_tmr_len) = (4, 2, 4);
    // Latencies above 100 and 1000 microseconds: no C2, no C3.
    table.p_lvl2_lat = 0xFFFF.into();
    table.p_lvl3_lat = 0xFFFF.into();
    table.century = 0x32;
    table.iapc_boot_arch = 0b11.into(); // legacy devices, 8042
    table.reset_reg = io(RESET_PORT, 8, AccessSize::ByteAccess);
    table.reset_value = RESET_VALUE;
    table.x_pm1a_evt_blk = io(PM1A_EVT_PORT, 32, AccessSize::WordAccess);
    table.x_pm1a_cnt_blk = io(PM1A_CNT_PORT, 16, AccessSize::WordAccess);
    table.x_pm_tmr_blk = io(PM_TMR_PORT, 32, AccessSize::DwordAccess);
    table.x_gpe0_blk = io(GPE0_PORT, GPE0_LEN * 8, AccessSize::ByteAccess);
    bytes_of(&table.finalize())
}

fn madt(config: &Config) -> Sdt {
    let mut table = sdt(b"APIC", 5);
    table.append_slice(&(LAPIC_BASE as u32).to_le_bytes());
    table.append_slice(&1u32.to_le_bytes()); // PCAT_COMPAT: there are 8259s too
    for id in 0..config.cpus {
        table.append_slice(&[0, 8, id, id, 1, 0, 0, 0]);
    }
    let mut ioapic = Fields::new(12);
    ioapic.set(0, [1, 12, IOAPIC_ID]).u32(4, IOAPIC_BASE as u32);
    table.append_slice(ioapic.as_slice());
    for o in overrides() {
        let mut entry = Fields::new(10);
        entry.set(0, [2, 10, 0, o.irq]).u32(4, o.gsi.into()).u16(8, o.flags);
        table.append_slice(entry.as_slice());
    }
    table.append_slice(&[4, 6, 0xFF, 0, 0, 1]); // NMI on LINT1 of every processor
    table
}

/// IA-PC HPET specification 3.2.4.
fn hpet() -> Sdt {
    let mut body = Fields::new(20);
    // Intel, legacy replacement, 64-bit counter, 3 timers, revision 1.
    body.u32(0, 0x8086_A201).set(4, [0, 64, 0, 0]).u64(8, HPET_BASE);
    let mut table = sdt(b"HPET", 1);
    table.append_slice(body.as_slice());
    table
}
