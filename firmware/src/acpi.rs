//! The ACPI tables (ACPI 6.5 chapter 5): RSDP, RSDT and XSDT, FADT, FACS, MADT, HPET, MCFG, and the DSDT in [`dsdt`]; in
//! memory for the built-in firmware, or as files with instructions ([`linker`]) for another.

pub mod dsdt;
pub mod linker;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::sdt::Sdt;

use crate::bytes::{Fields, sum};
use crate::error::LoadError;
use crate::layout::{
    ACPI_DISABLE, ACPI_ENABLE, GPE0_LEN, GPE0_PORT, HPET_BASE, IOAPIC_BASE, IOAPIC_ID, LAPIC_BASE, Layout, PCI_IRQS, PCI_WINDOW,
    PM_TMR_PORT, PM1A_CNT_PORT, PM1A_EVT_PORT, PhysWriter, RESET_PORT, RESET_VALUE, SCI_IRQ, SMI_CMD_PORT, TABLES,
};

/// Where the RSDP is.
pub const RSDP_ADDRESS: u64 = TABLES.start;
/// The room for all ACPI tables.
const END: u64 = TABLES.start + 0x1_0000;

pub(crate) const OEM_ID: [u8; 6] = *b"SOFTMT";
const OEM_TABLE_ID: [u8; 8] = *b"SOFTMTPC";
const OEM_REVISION: u32 = 1;

/// What the tables depend on besides the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Processors; their local APIC identifiers are 0 and up.
    pub cpus: u8,
    /// The first port of the ACPI registers.
    pub pm_base: u16,
    /// The memory-mapped PCI configuration space, if it is on.
    pub ecam: Option<u64>,
    /// What PCI devices may have of the addresses below 4 GiB.
    pub window: (u64, u64),
}

impl Config {
    /// As the built-in firmware sets the board up.
    #[must_use]
    pub fn builtin(cpus: u8, layout: &Layout) -> Self {
        Self { cpus, pm_base: PM1A_EVT_PORT, ecam: layout.chipset().ecam(), window: (PCI_WINDOW.start, PCI_WINDOW.end) }
    }
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

/// A pointer in a table to another table.
struct Pointer {
    /// The table it is in, by number, and the offset there.
    table: usize,
    at: usize,
    width: usize,
    /// The table it leads to.
    to: usize,
}

/// All tables but the RSDP, which points to the last two: RSDT and XSDT.
struct Tables {
    /// Bytes with all pointers zero, and whether a checksum at offset 9 covers all of it.
    tables: Vec<(Vec<u8>, bool)>,
    pointers: Vec<Pointer>,
}

/// Tables begin at multiples of it.
const ALIGN: usize = 64;
/// The offset of the checksum in every table's header.
const CHECKSUM: usize = 9;
/// Length of the header.
const HEADER: usize = 36;

fn tables(config: &Config, layout: &Layout) -> Tables {
    const FACS: usize = 0;
    const DSDT: usize = 1;
    const FADT: usize = 2;
    let sound = |table: Sdt| (table.as_slice().to_vec(), true);
    let mut tables =
        vec![(bytes_of(&FACS::new()), false), sound(dsdt::build(config, layout)), (fadt(config), true), sound(madt(config)), sound(hpet())];
    if let Some(base) = config.ecam {
        tables.push(sound(mcfg(base)));
    }
    let mut pointers = vec![
        Pointer { table: FADT, at: 36, width: 4, to: FACS },
        Pointer { table: FADT, at: 40, width: 4, to: DSDT },
        Pointer { table: FADT, at: 140, width: 8, to: DSDT },
    ];
    let listed: Vec<usize> = (FADT..tables.len()).collect();
    for (signature, width) in [(b"RSDT", 4), (b"XSDT", 8)] {
        let mut list = sdt(signature, 1);
        list.append_slice(&vec![0; listed.len() * width]);
        let table = tables.len();
        tables.push(sound(list));
        pointers.extend(listed.iter().enumerate().map(|(i, &to)| Pointer { table, at: HEADER + i * width, width, to }));
    }
    Tables { tables, pointers }
}

impl Tables {
    /// Where each table begins, one after the other, and where the last ends.
    fn places(&self) -> (Vec<usize>, usize) {
        let mut end = 0usize;
        let place = |(bytes, _): &(Vec<u8>, bool)| {
            let at = end.next_multiple_of(ALIGN);
            end = at + bytes.len();
            at
        };
        let places = self.tables.iter().map(place).collect();
        (places, end)
    }

    /// The bytes of all tables when the first is at `base`; with right checksums if `sums`, else those that depend on pointers
    /// are zero.
    fn bytes(mut self, base: u64, sums: bool) -> Vec<u8> {
        let (places, end) = self.places();
        for pointer in &self.pointers {
            let value = (base + places[pointer.to] as u64).to_le_bytes();
            let table = &mut self.tables[pointer.table].0;
            table[pointer.at..pointer.at + pointer.width].copy_from_slice(&value[..pointer.width]);
            table[CHECKSUM] = 0;
        }
        let mut all = vec![0; end];
        for (&at, (bytes, summed)) in places.iter().zip(&mut self.tables) {
            if *summed && sums {
                bytes[CHECKSUM] = 0;
                bytes[CHECKSUM] = sum(bytes).wrapping_neg();
            }
            all[at..at + bytes.len()].copy_from_slice(bytes);
        }
        all
    }
}

/// The RSDP of tables at these addresses.
fn rsdp(rsdt: u64, xsdt: u64) -> Fields {
    let mut rsdp = Fields::new(36);
    rsdp.set(0, *b"RSD PTR ").set(9, OEM_ID).u8(15, 2).u32(16, rsdt as u32).u32(20, 36).u64(24, xsdt);
    rsdp
}

/// Writes all tables; the address of the RSDP.
///
/// # Errors
/// [`LoadError::NotRam`] on a board without a megabyte of RAM.
pub fn write(config: &Config, writer: &PhysWriter<'_>) -> Result<u64, LoadError> {
    let base = RSDP_ADDRESS + ALIGN as u64;
    let tables = tables(config, writer.layout());
    let (places, end) = tables.places();
    debug_assert!(base + end as u64 <= END, "the ACPI tables outgrew their area");
    let address = |from_end: usize| base + places[places.len() - from_end] as u64;
    let mut rsdp = rsdp(address(2), address(1));
    rsdp.checksum(8, 0..20).checksum(32, 0..36);
    writer.write(base, &tables.bytes(base, true))?;
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

fn fadt(config: &Config) -> Vec<u8> {
    // The ports of the layout, moved to where the ACPI registers are.
    let moved = |port: u16| port - PM1A_EVT_PORT + config.pm_base;
    let io = |port: u16, bits: u8, access| GAS::new(AddressSpace::SystemIo, bits, 0, access, port.into());
    // FIX_RTC and SLP_BUTTON say that the fixed registers have no RTC wake status and no sleep button.
    let mut table = [Flags::Wbinvd, Flags::ProcC1, Flags::SlpButton, Flags::FixRtc, Flags::TmrValExt, Flags::ResetRegSup]
        .into_iter()
        .fold(FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION), FADTBuilder::flag)
        .preferred_pm_profile(PmProfile::Desktop)
        .gpe_info(moved(GPE0_PORT).into(), 0, GPE0_LEN, 0, 0);
    table.sci_int = u16::from(SCI_IRQ).into();
    table.smi_cmd = u32::from(SMI_CMD_PORT).into();
    table.acpi_enable = ACPI_ENABLE;
    table.acpi_disable = ACPI_DISABLE;
    table.pm1a_evt_blk = u32::from(moved(PM1A_EVT_PORT)).into();
    table.pm1a_cnt_blk = u32::from(moved(PM1A_CNT_PORT)).into();
    table.pm_tmr_blk = u32::from(moved(PM_TMR_PORT)).into();
    (table.pm1_evt_len, table.pm1_cnt_len, table.pm_tmr_len) = (4, 2, 4);
    // Latencies above 100 and 1000 microseconds: no C2, no C3.
    table.p_lvl2_lat = 0xFFFF.into();
    table.p_lvl3_lat = 0xFFFF.into();
    table.century = 0x32;
    table.iapc_boot_arch = 0b11.into(); // legacy devices, 8042
    table.reset_reg = io(RESET_PORT, 8, AccessSize::ByteAccess);
    table.reset_value = RESET_VALUE;
    table.x_pm1a_evt_blk = io(moved(PM1A_EVT_PORT), 32, AccessSize::WordAccess);
    table.x_pm1a_cnt_blk = io(moved(PM1A_CNT_PORT), 16, AccessSize::WordAccess);
    table.x_pm_tmr_blk = io(moved(PM_TMR_PORT), 32, AccessSize::DwordAccess);
    table.x_gpe0_blk = io(moved(GPE0_PORT), GPE0_LEN * 8, AccessSize::ByteAccess);
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

/// The memory-mapped configuration space at `base` (PCI Firmware specification 3.3, 4.1.2).
fn mcfg(base: u64) -> Sdt {
    let mut body = Fields::new(24);
    body.u64(8, base).u8(19, 0xFF);
    let mut table = sdt(b"MCFG", 1);
    table.append_slice(body.as_slice());
    table
}
