//! The tables as files for a firmware that loads them itself, with the instructions how (QEMU's ACPI linker/loader).

use super::{CHECKSUM, Config, HEADER, rsdp, tables};
use crate::bytes::Fields;
use crate::layout::Layout;

/// The file of the tables.
pub const TABLES_FILE: &str = "etc/acpi/tables";
/// The file of the RSDP.
pub const RSDP_FILE: &str = "etc/acpi/rsdp";
/// The file of the instructions.
pub const SCRIPT_FILE: &str = "etc/table-loader";

/// Bytes of an instruction, and of a file's name in it.
const INSTRUCTION: usize = 128;
const NAME: usize = 56;

/// Where a file is put.
#[derive(Clone, Copy)]
enum Zone {
    High = 1,
    /// 0xF0000 to 0xFFFFF.
    Low = 2,
}

/// Instructions under construction.
#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    fn add(&mut self, command: u32, names: &[&str], fill: impl FnOnce(&mut Fields, usize)) {
        let mut fields = Fields::new(INSTRUCTION);
        fields.u32(0, command);
        for (n, name) in names.iter().enumerate() {
            for (i, byte) in name.bytes().enumerate() {
                fields.u8(4 + n * NAME + i, byte);
            }
        }
        fill(&mut fields, 4 + names.len() * NAME);
        self.0.extend_from_slice(fields.as_slice());
    }

    fn allocate(&mut self, file: &str, align: u32, zone: Zone) {
        self.add(1, &[file], |f, at| {
            f.u32(at, align).u8(at + 4, zone as u8);
        });
    }

    /// Adds the address of `to` to the number of `width` bytes at `offset` of `from`.
    fn pointer(&mut self, from: &str, to: &str, offset: usize, width: usize) {
        self.add(2, &[from, to], |f, at| {
            f.u32(at, offset as u32).u8(at + 4, width as u8);
        });
    }

    /// Sets the byte at `offset` so that `start .. start + len` adds up to zero.
    fn checksum(&mut self, file: &str, offset: usize, start: usize, len: usize) {
        self.add(3, &[file], |f, at| {
            f.u32(at, offset as u32).u32(at + 4, start as u32).u32(at + 8, len as u32);
        });
    }
}

/// The files: name and content.
#[must_use]
pub fn files(config: &Config, layout: &Layout) -> [(&'static str, Vec<u8>); 3] {
    let tables = tables(config, layout);
    let (places, _) = tables.places();
    let mut script = Script::default();
    script.allocate(RSDP_FILE, 16, Zone::Low);
    script.allocate(TABLES_FILE, super::ALIGN as u32, Zone::High);
    for pointer in &tables.pointers {
        script.pointer(TABLES_FILE, TABLES_FILE, places[pointer.table] + pointer.at, pointer.width);
    }
    for (n, (bytes, summed)) in tables.tables.iter().enumerate() {
        if *summed && tables.pointers.iter().any(|p| p.table == n) {
            script.checksum(TABLES_FILE, places[n] + CHECKSUM, places[n], bytes.len().max(HEADER));
        }
    }
    let [.., rsdt, xsdt] = places[..] else { unreachable!("there are always an RSDT and an XSDT") };
    let rsdp = rsdp(rsdt as u64, xsdt as u64);
    script.pointer(RSDP_FILE, TABLES_FILE, 16, 4);
    script.pointer(RSDP_FILE, TABLES_FILE, 24, 8);
    script.checksum(RSDP_FILE, 8, 0, 20);
    script.checksum(RSDP_FILE, 32, 0, 36);
    [(TABLES_FILE, tables.bytes(0, false)), (RSDP_FILE, rsdp.as_slice().to_vec()), (SCRIPT_FILE, script.0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::{sum, u32_at};
    use crate::layout::Chipset;

    /// Carries the instructions out, as a firmware does; the RSDP and the tables, which are at `base`.
    fn link(config: &Config, layout: &Layout, base: u64) -> (Vec<u8>, Vec<u8>) {
        let [(_, mut tables), (_, mut rsdp), (_, script)] = files(config, layout);
        assert_eq!(script.len() % INSTRUCTION, 0);
        for i in script.chunks(INSTRUCTION) {
            let name = |at: usize| String::from_utf8(i[at..at + NAME].iter().copied().take_while(|b| *b != 0).collect()).unwrap();
            let file = if name(4) == RSDP_FILE { &mut rsdp } else { &mut tables };
            let word = |at| u32_at(i, at).unwrap() as usize;
            match word(0) {
                1 => assert!(word(60).is_power_of_two() && matches!(i[64], 1 | 2)),
                2 => {
                    assert_eq!(name(60), TABLES_FILE);
                    let (at, width) = (word(116), usize::from(i[120]));
                    let mut value = [0; 8];
                    value[..width].copy_from_slice(&file[at..at + width]);
                    let value = (u64::from_le_bytes(value) + base).to_le_bytes();
                    file[at..at + width].copy_from_slice(&value[..width]);
                }
                3 => {
                    let (at, start, len) = (word(60), word(64), word(68));
                    assert_eq!(file[at], 0, "some firmware adds to what is there");
                    file[at] = sum(&file[start..start + len]).wrapping_neg();
                }
                other => panic!("instruction {other}"),
            }
        }
        (rsdp, tables)
    }

    #[test]
    fn a_firmware_can_link_the_tables() {
        let layout = Layout::of(Chipset::Q35, 64 << 20);
        let config = Config { cpus: 2, pm_base: 0xB000, ecam: Some(0xB000_0000), window: (0x400_0000, 0xFEC0_0000) };
        let base = 0x3F0_0000u64;
        let (rsdp, all) = link(&config, &layout, base);
        assert_eq!([sum(&rsdp[..20]), sum(&rsdp)], [0; 2]);
        let at = |address: usize| address - base as usize;
        let table = |address: usize| &all[at(address)..at(address) + u32_at(&all, at(address) + 4).unwrap() as usize];
        let rsdt = table(u32_at(&rsdp, 16).unwrap() as usize);
        let listed: Vec<_> = rsdt[36..].chunks(4).map(|c| table(u32_at(c, 0).unwrap() as usize)).collect();
        assert_eq!(listed.iter().map(|t| &t[..4]).collect::<Vec<_>>(), [b"FACP", b"APIC", b"HPET", b"MCFG"]);
        assert!(listed.iter().all(|t| sum(t) == 0) && sum(rsdt) == 0);
        let fadt = listed[0];
        assert_eq!(u32_at(fadt, 56), Some(0xB000));
        assert_eq!(&table(u32_at(fadt, 40).unwrap() as usize)[..4], b"DSDT");
        assert_eq!(sum(table(u32_at(fadt, 140).unwrap() as usize)), 0);
    }
}
