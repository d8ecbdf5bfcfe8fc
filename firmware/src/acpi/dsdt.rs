//! The DSDT: the power state of soft off, the processors, the PCI host bridge with its windows and interrupt routing, and
//! the devices that cannot be found by probing.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Method, Name, Package, PackageBuilder, Path,
    ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use super::Config;
use crate::layout::{
    HPET_BASE, IOAPIC_BASE, LAPIC_BASE, Layout, PCI_IRQS, PCI_WINDOW, PM1A_EVT_PORT, SLP_TYP_S5, SMI_CMD_PORT, VGA_WINDOW, pci_irq,
};

/// The interrupt link devices, one for each of [`PCI_IRQS`].
const LINKS: [&str; PCI_IRQS.len()] = ["LNKA", "LNKB"];

/// AML already encoded.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

/// IRQ descriptor without flags (ACPI 6.5 section 6.4.2.1): edge triggered, active high, exclusive.
struct Irq(u8);

impl Aml for Irq {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x22);
        sink.word(1 << self.0);
    }
}

/// A device with `hid`, an optional unique identifier, and resources.
fn device(name: &str, hid: &str, uid: Option<u8>, resources: Vec<&dyn Aml>) -> Raw {
    let hid = Name::new("_HID".into(), &EISAName::new(hid));
    let uid = uid.map(|uid| Name::new("_UID".into(), &uid));
    let crs = (!resources.is_empty()).then(|| Name::new("_CRS".into(), &ResourceTemplate::new(resources)));
    let mut children: Vec<&dyn Aml> = vec![&hid];
    children.extend(uid.iter().map(|n| n as &dyn Aml));
    children.extend(crs.iter().map(|n| n as &dyn Aml));
    encode(&Device::new(name.into(), children))
}

fn encode(aml: &dyn Aml) -> Raw {
    Raw(super::bytes_of(aml))
}

fn scope(path: &str, children: &[Raw]) -> Raw {
    encode(&Scope::new(path.into(), children.iter().map(|c| c as &dyn Aml).collect()))
}

/// An interrupt link that is wired to `irq` for good. A static number in `_PRT` would mean active low.
fn link(name: &str, uid: u8, irq: u8) -> Raw {
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0C0F"));
    let uid = Name::new("_UID".into(), &uid);
    let irq = Interrupt::new(true, false, false, true, irq.into());
    let resources = ResourceTemplate::new(vec![&irq]);
    let prs = Name::new("_PRS".into(), &resources);
    let crs = Name::new("_CRS".into(), &resources);
    let srs = Method::new("_SRS".into(), 1, false, vec![]);
    let dis = Method::new("_DIS".into(), 0, false, vec![]);
    encode(&Device::new(name.into(), vec![&hid, &uid, &prs, &crs, &srs, &dis]))
}

fn processors(cpus: u8) -> Vec<Raw> {
    (0..cpus)
        .map(|id| {
            let hid = Name::new("_HID".into(), &"ACPI0007");
            let uid = Name::new("_UID".into(), &id);
            encode(&Device::new(Path::new(&format!("C{id:03X}")), vec![&hid, &uid]))
        })
        .collect()
}

/// `_PRT`: every pin of every slot of bus 0.
fn routing() -> Raw {
    let mut table = PackageBuilder::new();
    for slot in 0..32u8 {
        for pin in 0..4u8 {
            let address = u32::from(slot) << 16 | 0xFFFF;
            let index = usize::from(pci_irq(slot, pin) != PCI_IRQS[0]);
            let source = Path::new(&format!("\\_SB_.{}", LINKS[index]));
            table.add_element(&Package::new(vec![&address, &pin, &source, &0u8]));
        }
    }
    encode(&Name::new("_PRT".into(), &table))
}

fn host_bridge(layout: &Layout) -> Raw {
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0A03"));
    let uid = Name::new("_UID".into(), &0u8);
    let memory = |cacheable, range: std::ops::Range<u64>| {
        AddressSpace::new_memory(cacheable, true, range.start as u32, (range.end - 1) as u32, None)
    };
    let bus = AddressSpace::new_bus_number(0u16, 0xFF);
    let config = IO::new(0xCF8, 0xCF8, 1, 8);
    let low_ports = AddressSpace::new_io(0u16, 0xCF7, None);
    let high_ports = AddressSpace::new_io(0xD00u16, 0xFFFF, None);
    let vga = memory(AddressSpaceCacheable::Cacheable, VGA_WINDOW);
    let window = memory(AddressSpaceCacheable::NotCacheable, PCI_WINDOW);
    let range64 = layout.pci_window64();
    let window64 = (!range64.is_empty())
        .then(|| AddressSpace::new_memory(AddressSpaceCacheable::Cacheable, true, range64.start, range64.end - 1, None));
    let mut resources: Vec<&dyn Aml> = vec![&bus, &config, &low_ports, &high_ports, &vga, &window];
    resources.extend(window64.iter().map(|w| w as &dyn Aml));
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(resources));
    encode(&Device::new("PCI0".into(), vec![&hid, &uid, &crs, &routing(), &isa_bridge()]))
}

/// The PIIX bridge in slot 1 and what hangs on it.
fn isa_bridge() -> Raw {
    let adr = Name::new("_ADR".into(), &0x0001_0000u32);
    let io = |port, len| IO::new(port, port, 1, len);
    let devices = [
        device("RTC_", "PNP0B00", None, vec![&io(0x70, 2), &Irq(8)]),
        device("KBD_", "PNP0303", None, vec![&io(0x60, 1), &io(0x64, 1), &Irq(1)]),
        device("MOU_", "PNP0F13", None, vec![&Irq(12)]),
        device("COM1", "PNP0501", Some(1), vec![&io(0x3F8, 8), &Irq(4)]),
        device("COM2", "PNP0501", Some(2), vec![&io(0x2F8, 8), &Irq(3)]),
    ];
    let mut children: Vec<&dyn Aml> = vec![&adr];
    children.extend(devices.iter().map(|d| d as &dyn Aml));
    encode(&Device::new("ISA_".into(), children))
}

/// What is taken and belongs to no other device.
fn board_resources() -> Raw {
    device(
        "MBRD",
        "PNP0C02",
        None,
        vec![
            &IO::new(PM1A_EVT_PORT, PM1A_EVT_PORT, 1, 0x40),
            &IO::new(SMI_CMD_PORT, SMI_CMD_PORT, 1, 2),
            &IO::new(0x4D0, 0x4D0, 1, 2),
            &Memory32Fixed::new(true, IOAPIC_BASE as u32, 0x1000),
            &Memory32Fixed::new(true, LAPIC_BASE as u32, 0x10_0000),
        ],
    )
}

/// The whole table.
#[must_use]
pub fn build(config: &Config, layout: &Layout) -> Sdt {
    let mut system_bus = processors(config.cpus);
    system_bus.extend(LINKS.iter().zip(PCI_IRQS).zip(1..).map(|((name, irq), uid)| link(name, uid, irq)));
    system_bus.push(host_bridge(layout));
    system_bus.push(board_resources());
    system_bus.push(device("HPET", "PNP0103", None, vec![&Memory32Fixed::new(true, HPET_BASE as u32, 0x400)]));

    let off = Package::new(vec![&SLP_TYP_S5, &SLP_TYP_S5, &0u8, &0u8]);
    let mut table = super::sdt(b"DSDT", 2);
    table.append_slice(&super::bytes_of(&Name::new("_S5_".into(), &off)));
    table.append_slice(&scope("\\_SB_", &system_bus).0);
    table
}
