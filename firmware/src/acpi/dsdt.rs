//! The DSDT: the power state of soft off, the processors, the PCI host bridge with its windows and interrupt routing, and
//! the devices that cannot be found by probing.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, Device, EISAName, Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO, If,
    Interrupt, Memory32Fixed, Method, Name, OpRegion, OpRegionSpace, Package, PackageBuilder, Path, ResourceTemplate, Return, Scope, Store,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use super::Config;
use crate::layout::{Chipset, ECAM_LEN, HPET_BASE, IOAPIC_BASE, LAPIC_BASE, Layout, SLP_TYP_S5, SMI_CMD_PORT, VGA_WINDOW};

/// The interrupt link device of a PIRQ: to its ISA interrupt, or to its own I/O APIC input.
fn link_name(apic: bool, pirq: u8) -> String {
    format!("{}{}", if apic { "GSI" } else { "LNK" }, char::from(b'A' + pirq))
}

/// The field of a PIRQ's routing register in the ISA bridge.
fn route_name(pirq: u8) -> [u8; 4] {
    [b'P', b'R', b'Q', b'A' + pirq]
}

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

/// An interrupt link to `irq`, its only choice; to choose it sets the routing register of `pirq`, if there is one. (A static
/// number in `_PRT` would mean active low.)
fn link(name: &str, uid: u8, irq: u8, pirq: Option<u8>) -> Raw {
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0C0F"));
    let uid = Name::new("_UID".into(), &uid);
    let interrupt = Interrupt::new(true, false, false, true, irq.into());
    let resources = ResourceTemplate::new(vec![&interrupt]);
    let prs = Name::new("_PRS".into(), &resources);
    let crs = Name::new("_CRS".into(), &resources);
    let register = pirq.map(|n| Path::new(&format!("\\_SB_.PCI0.ISA_.{}", String::from_utf8_lossy(&route_name(n)))));
    let store = register.as_ref().map(|register| Store::new(register, &irq));
    let srs = Method::new("_SRS".into(), 1, false, store.iter().map(|s| s as &dyn Aml).collect());
    let dis = Method::new("_DIS".into(), 0, false, vec![]);
    encode(&Device::new(name.into(), vec![&hid, &uid, &prs, &crs, &srs, &dis]))
}

/// The links of all PIRQs.
fn links(chipset: Chipset) -> Vec<Raw> {
    let bridge = chipset.isa_bridge();
    let isa = (0u8..).zip(bridge.irqs).map(|(n, &irq)| link(&link_name(false, n), n, irq, Some(n)));
    let inputs = bridge.apic.into_iter().flat_map(|first| (0..bridge.irqs.len() as u8).map(move |n| (n, first + n)));
    isa.chain(inputs.map(|(n, input)| link(&link_name(true, n), 0x10 + n, input, None))).collect()
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

/// Every pin of every slot of bus 0, through the links to ISA interrupts or to I/O APIC inputs.
fn routes(chipset: Chipset, apic: bool) -> PackageBuilder {
    let mut table = PackageBuilder::new();
    for slot in 0..32u8 {
        for pin in 0..4u8 {
            let address = u32::from(slot) << 16 | 0xFFFF;
            let source = Path::new(&format!("\\_SB_.{}", link_name(apic, chipset.pirq(slot, pin))));
            table.add_element(&Package::new(vec![&address, &pin, &source, &0u8]));
        }
    }
    table
}

/// `_PRT`. Where the I/O APIC has inputs of its own for PCI, what the operating system has said with `_PIC` counts.
fn routing(chipset: Chipset) -> Vec<Raw> {
    if chipset.isa_bridge().apic.is_none() {
        return vec![encode(&Name::new("_PRT".into(), &routes(chipset, false)))];
    }
    let mode = Path::new("\\PICF");
    let (apic, pic) = (Path::new("PRTA"), Path::new("PRTP"));
    let by_apic = Return::new(&apic);
    let choice = If::new(&mode, vec![&by_apic as &dyn Aml]);
    vec![
        encode(&Name::new("PRTA".into(), &routes(chipset, true))),
        encode(&Name::new("PRTP".into(), &routes(chipset, false))),
        encode(&Method::new("_PRT".into(), 0, false, vec![&choice, &Return::new(&pic)])),
    ]
}

fn host_bridge(config: &Config, layout: &Layout) -> Raw {
    let express = config.ecam.is_some();
    let hid = Name::new("_HID".into(), &EISAName::new(if express { "PNP0A08" } else { "PNP0A03" }));
    let cid = express.then(|| Name::new("_CID".into(), &EISAName::new("PNP0A03")));
    let uid = Name::new("_UID".into(), &0u8);
    let memory = |cacheable, range: std::ops::Range<u64>| {
        AddressSpace::new_memory(cacheable, true, range.start as u32, (range.end - 1) as u32, None)
    };
    let bus = AddressSpace::new_bus_number(0u16, 0xFF);
    let mechanism = IO::new(0xCF8, 0xCF8, 1, 8);
    let low_ports = AddressSpace::new_io(0u16, 0xCF7, None);
    let high_ports = AddressSpace::new_io(0xD00u16, 0xFFFF, None);
    let vga = memory(AddressSpaceCacheable::Cacheable, VGA_WINDOW);
    // The window, without what the configuration space takes of it.
    let (start, end) = config.window;
    let hole = config.ecam.map_or((end, end), |base| (base.clamp(start, end), (base + ECAM_LEN).clamp(start, end)));
    let windows: Vec<_> = [start..hole.0, hole.1..end]
        .into_iter()
        .filter(|range| !range.is_empty())
        .map(|range| memory(AddressSpaceCacheable::NotCacheable, range))
        .collect();
    let range64 = layout.pci_window64();
    let window64 = (!range64.is_empty())
        .then(|| AddressSpace::new_memory(AddressSpaceCacheable::Cacheable, true, range64.start, range64.end - 1, None));
    let mut resources: Vec<&dyn Aml> = vec![&bus, &mechanism, &low_ports, &high_ports, &vga];
    resources.extend(windows.iter().map(|w| w as &dyn Aml));
    resources.extend(window64.iter().map(|w| w as &dyn Aml));
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(resources));
    let (routing, isa) = (routing(layout.chipset()), isa_bridge(layout.chipset()));
    let mut children: Vec<&dyn Aml> = vec![&hid, &uid, &crs, &isa];
    children.extend(cid.iter().map(|c| c as &dyn Aml));
    children.extend(routing.iter().map(|r| r as &dyn Aml));
    encode(&Device::new("PCI0".into(), children))
}

/// The ISA bridge and what hangs on it.
fn isa_bridge(chipset: Chipset) -> Raw {
    let bridge = chipset.isa_bridge();
    let adr = Name::new("_ADR".into(), &(u32::from(bridge.slot) << 16));
    let first = bridge.registers[0];
    let (offset, len) = (first, bridge.registers[bridge.registers.len() - 1] - first + 1);
    let region = OpRegion::new("PIRQ".into(), OpRegionSpace::PCIConfig, &offset, &len);
    let mut fields = Vec::new();
    let mut at = first;
    for (n, &register) in (0..).zip(bridge.registers) {
        if register > at {
            fields.push(FieldEntry::Reserved(8 * usize::from(register - at)));
        }
        fields.push(FieldEntry::Named(route_name(n), 8));
        at = register + 1;
    }
    let field = Field::new("PIRQ".into(), FieldAccessType::Byte, FieldLockRule::NoLock, FieldUpdateRule::Preserve, fields);
    let io = |port, len| IO::new(port, port, 1, len);
    let devices = [
        device("RTC_", "PNP0B00", None, vec![&io(0x70, 2), &Irq(8)]),
        device("KBD_", "PNP0303", None, vec![&io(0x60, 1), &io(0x64, 1), &Irq(1)]),
        device("MOU_", "PNP0F13", None, vec![&Irq(12)]),
        device("COM1", "PNP0501", Some(1), vec![&io(0x3F8, 8), &Irq(4)]),
        device("COM2", "PNP0501", Some(2), vec![&io(0x2F8, 8), &Irq(3)]),
    ];
    let mut children: Vec<&dyn Aml> = vec![&adr, &region, &field];
    children.extend(devices.iter().map(|d| d as &dyn Aml));
    encode(&Device::new("ISA_".into(), children))
}

/// What is taken and belongs to no other device.
fn board_resources(config: &Config, chipset: Chipset) -> Raw {
    let pm = if chipset == Chipset::Q35 { 0x80 } else { 0x40 };
    let ports = [(config.pm_base, pm), (SMI_CMD_PORT, 2), (0x4D0, 2)].map(|(port, len)| IO::new(port, port, 1, len));
    let ranges = [(IOAPIC_BASE, 0x1000), (LAPIC_BASE, 0x10_0000)].into_iter().chain(config.ecam.map(|base| (base, ECAM_LEN)));
    let ranges: Vec<_> = ranges.map(|(base, len)| Memory32Fixed::new(true, base as u32, len as u32)).collect();
    let mut resources: Vec<&dyn Aml> = ports.iter().map(|p| p as &dyn Aml).collect();
    resources.extend(ranges.iter().map(|r| r as &dyn Aml));
    device("MBRD", "PNP0C02", None, resources)
}

/// The whole table.
#[must_use]
pub fn build(config: &Config, layout: &Layout) -> Sdt {
    let mut system_bus = processors(config.cpus);
    system_bus.extend(links(layout.chipset()));
    system_bus.push(host_bridge(config, layout));
    system_bus.push(board_resources(config, layout.chipset()));
    system_bus.push(device("HPET", "PNP0103", None, vec![&Memory32Fixed::new(true, HPET_BASE as u32, 0x400)]));

    let off = Package::new(vec![&SLP_TYP_S5, &SLP_TYP_S5, &0u8, &0u8]);
    let mut table = super::sdt(b"DSDT", 2);
    table.append_slice(&super::bytes_of(&Name::new("_S5_".into(), &off)));
    let mode = Path::new("PICF");
    table.append_slice(&super::bytes_of(&Name::new("PICF".into(), &0u8)));
    table.append_slice(&super::bytes_of(&Method::new("_PIC".into(), 1, false, vec![&Store::new(&mode, &Arg(0))])));
    table.append_slice(&scope("\\_SB_", &system_bus).0);
    table
}
