//! Whole boots into a small guest memory, and the tables as an operating system would walk them.

use proptest::prelude::*;
use softmetal_bus::GuestMemory;

use crate::bytes::{Fields, sum, u16_at, u32_at, u64_at};
use crate::entry::Gdt;
use crate::layout::{MIN_RAM, TABLES};
use crate::*;

const MIB: u64 = 1 << 20;

struct Guest {
    layout: Layout,
    memory: GuestMemory,
}

impl Guest {
    fn new(ram: u64) -> Self {
        Self { layout: Layout::new(ram), memory: GuestMemory::new(ram).unwrap() }
    }

    fn boot(&self, images: &Boot<'_>) -> Result<Entry, LoadError> {
        boot(images, &self.layout, &self.memory, 2)
    }

    fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        PhysWriter::new(&self.layout, &self.memory).read(address, &mut bytes).unwrap();
        bytes
    }

    fn u64(&self, address: u64) -> u64 {
        u64_at(&self.read(address, 8), 0).unwrap()
    }

    fn u32(&self, address: u64) -> u32 {
        self.u64(address) as u32
    }

    fn c_string(&self, address: u64) -> String {
        let bytes = self.read(address, 256);
        String::from_utf8(bytes.split(|b| *b == 0).next().unwrap().to_vec()).unwrap()
    }

    /// An ACPI table, its checksum verified.
    fn table(&self, address: u64) -> Vec<u8> {
        let table = self.read(address, self.u32(address + 4) as usize);
        assert_eq!(sum(&table), 0, "checksum of {:?}", String::from_utf8_lossy(&table[..4]));
        table
    }
}

/// A kernel with a setup header of protocol 2.15 that prefers 1 MiB and needs 2 MiB.
fn bzimage(version: u16, xloadflags: u16, relocatable: u8) -> Vec<u8> {
    let mut f = Fields::new(512 * 5 + 0x1000);
    f.u8(0x1F1, 4)
        .u32(0x1F4, 0x100)
        .u16(0x1FE, 0xAA55)
        .set(0x200, [0xEB, 0x6A])
        .set(0x202, *b"HdrS")
        .u16(0x206, version)
        .u8(0x211, 1)
        .u32(0x214, 0x10_0000)
        .u32(0x22C, 0x7FFF_FFFF)
        .u32(0x230, 0x20_0000)
        .u8(0x234, relocatable)
        .u16(0x236, xloadflags)
        .u32(0x238, 2047)
        .u64(0x258, 0x20_0000)
        .u32(0x260, 0x20_0000)
        .set(512 * 5, *b"KERNEL32")
        .set(512 * 5 + 0x200, *b"KERNEL64");
    f.as_slice().to_vec()
}

/// A 64-bit ELF file: one segment of 16 bytes (0x1000 in memory) at 1 MiB, virtually far up, and a PVH note.
fn elf() -> Vec<u8> {
    let mut f = Fields::new(0x200);
    f.set(0, [0x7F, b'E', b'L', b'F', 2, 1, 1]).u16(16, 2).u16(18, 62).u64(24, 0xFFFF_8000_0010_0008).u64(32, 64);
    f.u16(54, 56).u16(56, 2);
    f.u32(64, 1).u64(72, 0x100).u64(80, 0xFFFF_8000_0010_0000).u64(88, 0x10_0000).u64(96, 16).u64(104, 0x1000);
    f.u32(120, 4).u64(128, 0x140).u64(152, 20);
    f.set(0x100, *b"SEGMENT-CONTENTS");
    f.u32(0x140, 4).u32(0x144, 4).u32(0x148, 18).set(0x14C, *b"Xen\0").u32(0x150, 0x10_0004);
    f.as_slice().to_vec()
}

fn multiboot(flags: u32) -> Fields {
    let mut f = Fields::new(0x200);
    f.u32(0x40, 0x1BAD_B002).u32(0x44, flags).u32(0x48, 0u32.wrapping_sub(0x1BAD_B002).wrapping_sub(flags));
    f
}

fn module<'a>(content: &'a dyn Source, cmdline: &'a str) -> Module<'a> {
    Module { content, cmdline }
}

#[test]
fn acpi_tables_are_found_and_sound() {
    let guest = Guest::new(64 * MIB);
    write_tables(&guest.layout, &guest.memory, 255).unwrap();
    let rsdp = guest.read(acpi::RSDP_ADDRESS, 36);
    assert!(rsdp.starts_with(b"RSD PTR ") && sum(&rsdp[..20]) == 0 && sum(&rsdp) == 0);
    let rsdt = guest.table(u32_at(&rsdp, 16).unwrap().into());
    let xsdt = guest.table(u64_at(&rsdp, 24).unwrap());
    let listed: Vec<u64> = xsdt[36..].chunks(8).map(|c| u64_at(c, 0).unwrap()).collect();
    assert_eq!(listed, rsdt[36..].chunks(4).map(|c| u32_at(c, 0).unwrap().into()).collect::<Vec<u64>>());
    let [fadt, madt, hpet] = [0, 1, 2].map(|i| guest.table(listed[i]));
    assert_eq!([&fadt[..4], &madt[..4], &hpet[..4]], [b"FACP", b"APIC", b"HPET"]);

    let dsdt = u64_at(&fadt, 140).unwrap();
    assert_eq!(u64::from(u32_at(&fadt, 40).unwrap()), dsdt);
    let dsdt_table = guest.table(dsdt);
    assert!(dsdt + (dsdt_table.len() as u64) < smbios::ENTRY_ADDRESS && dsdt >= TABLES.start);
    let facs = u32_at(&fadt, 36).unwrap().into();
    assert_eq!((guest.read(facs, 4), facs % 64), (b"FACS".to_vec(), 0));
    let ports = [56, 64, 76, 80].map(|at| u32_at(&fadt, at).unwrap());
    assert_eq!(ports, [0x600, 0x604, 0x608, 0x620]);
    // The X_ blocks repeat them, as I/O ports.
    assert_eq!([148, 172, 208, 220].map(|at| (fadt[at], u32_at(&fadt, at + 4).unwrap())), ports.map(|p| (1, p)));
    assert_eq!((fadt[116], u32_at(&fadt, 120), fadt[128]), (1, Some(0xCF9), 6));

    assert_eq!(madt.len(), 44 + 255 * 8 + 12 + 5 * 10 + 6);
    let pit_override = &madt[44 + 255 * 8 + 12..][..10];
    assert_eq!(pit_override, [2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
}

#[test]
fn smbios_structures_can_be_walked() {
    let guest = Guest::new(64 * MIB);
    write_tables(&guest.layout, &guest.memory, 4).unwrap();
    let old = guest.read(smbios::ENTRY_ADDRESS, 0x1F);
    let new = guest.read(smbios::ENTRY3_ADDRESS, 0x18);
    assert_eq!([sum(&old), sum(&old[0x10..]), sum(&new)], [0; 3]);
    let len = u16_at(&old, 0x16).unwrap();
    assert_eq!(u32_at(&new, 0x0C), Some(len.into()));
    let table = guest.read(u64_at(&new, 0x10).unwrap(), len.into());
    let (mut at, mut kinds) = (0, Vec::new());
    while at < table.len() {
        kinds.push(table[at]);
        at += usize::from(table[at + 1]);
        at += table[at..].windows(2).position(|w| w == [0, 0]).unwrap() + 2;
    }
    assert_eq!(kinds, [0, 1, 3, 4, 16, 17, 19, 32, 127]);
    assert_eq!(u16_at(&old, 0x1C), Some(kinds.len() as u16));
}

#[test]
fn mp_table_routes_pci_like_acpi() {
    let guest = Guest::new(64 * MIB);
    write_tables(&guest.layout, &guest.memory, 3).unwrap();
    let pointer = guest.read(mptable::POINTER_ADDRESS, 16);
    assert!(pointer.starts_with(b"_MP_") && sum(&pointer) == 0);
    let base = u32_at(&pointer, 4).unwrap().into();
    let table = guest.read(base, u16_at(&guest.read(base, 6), 4).unwrap().into());
    assert_eq!((&table[..4], sum(&table)), (&b"PCMP"[..], 0));
    let (mut at, mut count, mut pci) = (44, 0, 0);
    while at < table.len() {
        let e = &table[at..];
        if e[0] == 3 && e[4] == 0 {
            assert_eq!((e[7], u16_at(e, 2)), (pci_irq(e[5] >> 2, e[5] & 3), Some(0b1101)));
            pci += 1;
        }
        at += if e[0] == 0 { 20 } else { 8 };
        count += 1;
    }
    assert_eq!((pci, Some(count)), (128, u16_at(&table, 34)));
}

#[test]
fn bzimage_64_bit() {
    let guest = Guest::new(16 * MIB);
    let kernel = bzimage(0x20F, 1, 1);
    let images =
        Boot { kernel: &kernel, modules: vec![module(&[1; 5000], ""), module(&[2; 10], "")], cmdline: "console=ttyS0", vga: false };
    let Entry::Long { rip, rsi, cr3, gdt, .. } = guest.boot(&images).unwrap() else {
        panic!("64-bit entry expected");
    };
    assert_eq!(rip, 0x20_0200);
    assert_eq!(guest.read(rip, 8), b"KERNEL64");
    // Page tables: 3 GiB + 2 MiB maps to itself.
    let pdpt = guest.u64(cr3) & !0xFFF;
    let directory = guest.u64(pdpt + 3 * 8) & !0xFFF;
    assert_eq!(guest.u64(directory + 8), 0xC020_0083);
    assert_eq!(guest.u64(gdt.base + 0x10), 0x00AF_9B00_0000_FFFF);
    // boot_params
    assert_eq!(guest.c_string(guest.u32(rsi + 0x228).into()), "console=ttyS0");
    assert_eq!(guest.read(rsi + 0x202, 4), b"HdrS");
    assert_eq!(guest.u64(rsi + 0x70), acpi::RSDP_ADDRESS);
    assert_eq!(guest.read(rsi + 0x1E8, 1), [guest.layout.e820().len() as u8]);
    assert_eq!(guest.u64(rsi + 0x2D0 + 8), 0x9_FC00);
    let initrd = u64::from(guest.u32(rsi + 0x218));
    assert_eq!((initrd % 4096, guest.u32(rsi + 0x21C)), (0, 5010));
    assert!(initrd > 15 * MIB && guest.read(initrd + 4999, 3) == [1, 2, 2]);
}

#[test]
fn bzimage_32_bit() {
    let guest = Guest::new(16 * MIB);
    let kernel = bzimage(0x20A, 1, 0);
    let Entry::Protected { eip, esi, gdt, .. } = guest.boot(&Boot { kernel: &kernel, ..Boot::default() }).unwrap() else {
        panic!("32-bit entry expected");
    };
    assert_eq!(eip, 0x10_0000);
    assert_eq!(guest.read(eip.into(), 8), b"KERNEL32");
    assert_eq!(guest.read(u64::from(esi) + 0x210, 1), [0xFF]);
    assert_eq!(gdt, Gdt { base: gdt.base, limit: 47 });
    assert_eq!(guest.u64(gdt.base + 0x10), 0x00CF_9B00_0000_FFFF);
}

#[test]
fn refusals_say_what_to_do() {
    let guest = Guest::new(4 * MIB);
    let kernel = bzimage(0x20F, 1, 1);
    let refuse = |kernel: &[u8], initrd: Option<&[u8]>, cmdline: &str| {
        let modules = initrd.iter().map(|b| module(b, "")).collect();
        guest.boot(&Boot { kernel: &kernel, modules, cmdline, vga: false }).unwrap_err().to_string()
    };
    assert_eq!(refuse(&[], None, ""), "the kernel is empty (0 bytes); give a complete file");
    assert_eq!(
        refuse(&kernel[..3000], None, ""),
        "the kernel is truncated: its header calls for 6656 bytes but the file has 3000; fetch it again"
    );
    assert_eq!(refuse(&kernel, Some(&[]), ""), "the initrd is empty (0 bytes); give a complete file");
    assert_eq!(refuse(&kernel, Some(&[0; 5000]), ""), "the initrd needs 5 MiB of memory but the guest has 4 MiB; use --memory 5M or more");
    assert!(refuse(&kernel, None, &"x".repeat(2048)).contains("2048 bytes but this kernel takes 2047"));
    assert!(refuse(&bzimage(0x205, 0, 0), None, "").contains("2.05, but 2.06"));
    assert!(refuse(&[0x1F, 0x8B, 8, 0], None, "").contains("gunzip"));
    assert!(refuse(&[7; 600], None, "").contains("no known format"));
    let mut no_note = elf();
    no_note[0x148] = 1;
    assert!(refuse(&no_note, None, "").contains("CONFIG_PVH"));
    let tiny = Guest::new(MIN_RAM);
    let error = tiny.boot(&Boot { kernel: &kernel, ..Boot::default() }).unwrap_err();
    assert_eq!(error, LoadError::TooLittleRam { what: "kernel", needed: 4 * MIB, has: 2 * MIB });
}

#[test]
fn pvh() {
    let guest = Guest::new(16 * MIB);
    let kernel = elf();
    guest.memory.write(0x10_0020, &[0xEE]).unwrap();
    let modules = vec![module(b"initrd", "first")];
    let images = Boot { kernel: &kernel, modules, cmdline: "quiet", vga: false };
    let Entry::Protected { eip, ebx, .. } = guest.boot(&images).unwrap() else { panic!("32-bit entry expected") };
    assert_eq!(eip, 0x10_0004);
    assert_eq!(guest.read(0x10_0000, 33), [&b"SEGMENT-CONTENTS"[..], &[0; 17]].concat());
    let info = u64::from(ebx);
    assert_eq!((guest.u32(info), guest.u32(info + 12)), (0x336E_C578, 1));
    let list = guest.u64(info + 16);
    assert_eq!(guest.read(guest.u64(list), 6), b"initrd");
    assert_eq!((guest.u64(list + 8), guest.c_string(guest.u64(list + 16))), (6, "first".into()));
    assert_eq!(guest.c_string(guest.u64(info + 24)), "quiet");
    assert_eq!(guest.u64(info + 32), acpi::RSDP_ADDRESS);
    assert_eq!(guest.u64(guest.u64(info + 40) + 8), 0x9_FC00);
}

#[test]
fn multiboot_by_addresses() {
    let guest = Guest::new(16 * MIB);
    let mut kernel = multiboot(0x1_0003);
    kernel.u32(0x4C, 0x20_0040).u32(0x50, 0x20_0000).u32(0x54, 0x20_0180).u32(0x58, 0x20_3000).u32(0x5C, 0x20_0010);
    let modules = vec![module(b"one", "a"), module(b"two", "b")];
    let images = Boot { kernel: &kernel.as_slice(), modules, cmdline: "root", vga: false };
    let Entry::Protected { eip, eax, ebx, .. } = guest.boot(&images).unwrap() else {
        panic!("32-bit entry expected");
    };
    assert_eq!((eip, eax), (0x20_0010, 0x2BAD_B002));
    assert_eq!(guest.read(0x20_0000, 0x180), kernel.as_slice()[..0x180]);
    let info = u64::from(ebx);
    assert_eq!(guest.c_string(guest.u32(info + 16).into()), "root");
    assert_eq!(guest.u32(info + 20), 2);
    let second = u64::from(guest.u32(info + 24)) + 16;
    assert_eq!((guest.u32(second), guest.u32(second + 4)), (0x20_4000, 0x20_4003));
    assert_eq!((guest.read(0x20_4000, 3), guest.c_string(guest.u32(second + 8).into())), (b"two".to_vec(), "b".into()));
    assert_eq!((guest.u32(info + 4), guest.u32(info + 8)), (639, 15 * 1024));
    assert_eq!(guest.u32(u64::from(guest.u32(info + 48))), 20);
}

#[test]
fn multiboot_elf_enters_at_the_physical_address() {
    let guest = Guest::new(16 * MIB);
    let mut kernel = elf();
    kernel.truncate(0x160);
    kernel.extend_from_slice(&multiboot(0).as_slice()[0x40..]);
    assert_eq!(detect(&kernel), ImageKind::Multiboot);
    let Entry::Protected { eip, .. } = guest.boot(&Boot { kernel: &kernel, ..Boot::default() }).unwrap() else {
        panic!("32-bit entry expected");
    };
    assert_eq!(eip, 0x10_0008);
}

#[test]
fn boot_sector() {
    let guest = Guest::new(MIN_RAM);
    let mut sector = [0x90; 512];
    sector[446..510].fill(0);
    sector[510..].copy_from_slice(&[0x55, 0xAA]);
    let images = Boot { kernel: &sector, ..Boot::default() };
    assert_eq!(guest.boot(&images).unwrap(), Entry::Real { cs: 0, ip: 0x7C00, sp: 0x7C00, dl: 0x80 });
    assert_eq!(guest.read(0x7C00, 512), sector);
    // Every vector leads to an IRET; the BIOS data area knows the memory size.
    let vector = guest.u32(0x13 * 4);
    assert_eq!(guest.read(u64::from(vector >> 16) * 16 + u64::from(vector & 0xFFFF), 1), [0xCF]);
    assert_eq!(guest.read(0x413, 2), [0x7F, 0x02]);
}

#[test]
fn detection_is_by_content() {
    let with = |len: usize, at: usize, bytes: &[u8]| {
        let mut head = vec![0; len];
        head[at..at + bytes.len()].copy_from_slice(bytes);
        head
    };
    let mut mbr = with(512, 446, &[0x80, 0, 0, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0]);
    mbr[510..].copy_from_slice(&[0x55, 0xAA]);
    let cases: [(Vec<u8>, ImageKind); 12] = [
        (bzimage(0x20F, 1, 1), ImageKind::BzImage),
        (elf(), ImageKind::ElfPvh),
        (multiboot(0).as_slice().to_vec(), ImageKind::Multiboot),
        (with(512, 0, b"QFI\xFB"), ImageKind::Qcow2),
        (with(512, 0, b"KDMV"), ImageKind::Vmdk),
        (with(512, 0x40, &0xBEDA_107Fu32.to_le_bytes()), ImageKind::Vdi),
        (with(512, 0, b"conectix"), ImageKind::Vhd),
        (with(HEAD_LEN, 0x8001, b"CD001"), ImageKind::Iso9660),
        (mbr, ImageKind::RawDisk),
        (with(2048, 1024 + 0x38, &[0x53, 0xEF]), ImageKind::RawDisk),
        (with(512, 510, &[0x55, 0xAA]), ImageKind::BootSector),
        (vec![], ImageKind::Unknown),
    ];
    for (head, kind) in cases {
        assert_eq!(detect(&head), kind);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Headers with random bytes in them, cut anywhere, are loaded or refused.
    #[test]
    fn hostile_images_never_panic(
        kind in 0..4usize,
        edits in proptest::collection::vec((0..0x300usize, prop_oneof![any::<u8>(), Just(0xFF), Just(0)]), 0..24),
        cut in prop_oneof![3 => Just(usize::MAX), 1 => 0..0x1C00usize],
    ) {
        let mut addresses = multiboot(0x1_0003);
        addresses.u32(0x4C, 0x20_0040).u32(0x50, 0x20_0000).u32(0x5C, 0x20_0010);
        let mut image = [bzimage(0x20F, 1, 1), elf(), addresses.as_slice().to_vec(), bzimage(0x206, 0, 0)][kind].clone();
        for (at, byte) in edits {
            // The magic numbers stay, so that the loaders see what they would refuse otherwise.
            if let Some(b) = image.get_mut(at).filter(|_| at > 6 && !(0x1FE..0x208).contains(&at)) {
                *b = byte;
            }
        }
        image.truncate(cut);
        let guest = Guest::new(8 * MIB);
        let images = Boot { kernel: &image, modules: vec![module(&[1; 100], "m")], cmdline: "c", vga: true };
        let _ = guest.boot(&images);
        let writer = PhysWriter::new(&guest.layout, &guest.memory);
        let _ = loaders::bzimage::load(&images, &writer);
        let _ = loaders::pvh::load(&images, &writer);
        let _ = loaders::multiboot::load(&images, &writer);
    }
}
