//! Firmware of others, as distributions ship it, from power-on to what it boots.

use std::path::Path;

use iced_x86::code_asm::*;
use softmetal_machine::host::catalog::Catalog;
use softmetal_machine::host::firmware::{Known, SEABIOS, UEFI};
use softmetal_testroms::image::Emit;

use crate::{images, passes, skip, softmetal};

/// Whether a firmware can be had; where it is not installed, it is fetched.
pub fn available(firmware: &Known) -> bool {
    match firmware.files(false, &mut |_| {}) {
        Ok(_) => true,
        Err(e) if !Catalog::can_fetch() => skip(&e),
        Err(e) => panic!("{e}"),
    }
}

const SECTOR: usize = 512;
const COM1: u32 = 0x3f8;

/// Emits: send the text at SI, which ends with a 0, to the port in DX; then stop, at `end`.
fn send_and_stop(a: &mut CodeAssembler, end: &mut CodeLabel) -> Emit {
    let mut next = a.create_label();
    a.set_label(&mut next)?;
    a.lodsb()?;
    a.test(al, al)?;
    a.je(*end)?;
    a.out(dx, al)?;
    a.jmp(next)?;
    a.set_label(end)?;
    a.hlt()?;
    a.jmp(*end)
}

/// A disk whose boot sector reads the next sector by the BIOS, 64-bit block addresses, and sends the text in it to COM1.
fn bios_disk(text: &str) -> Vec<u8> {
    let mut a = CodeAssembler::new(16).unwrap();
    let mut end = a.create_label();
    a.xor(ax, ax).unwrap();
    a.mov(ds, ax).unwrap();
    a.mov(si, 0x7d00).unwrap();
    a.mov(ah, 0x42).unwrap();
    a.int(0x13).unwrap();
    a.jb(end).unwrap();
    a.mov(si, 0x8000).unwrap();
    a.mov(dx, COM1).unwrap();
    send_and_stop(&mut a, &mut end).unwrap();
    let mut disk = a.assemble(0x7c00).unwrap();
    assert!(disk.len() <= 0x100);
    disk.resize(0x100, 0);
    // The disk address packet: 1 block to 0000:8000, from block 1.
    disk.extend([0x10, 0, 1, 0, 0x00, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    disk.resize(510, 0);
    disk.extend([0x55, 0xaa]);
    disk.extend(text.as_bytes());
    disk.resize(4 << 20, 0);
    disk
}

/// A program for UEFI (PE32+) that sends `text` to COM1.
pub fn uefi_program(text: &str) -> Vec<u8> {
    let mut a = CodeAssembler::new(64).unwrap();
    let (mut data, mut end) = (a.create_label(), a.create_label());
    a.lea(rsi, ptr(data)).unwrap();
    a.mov(edx, COM1).unwrap();
    send_and_stop(&mut a, &mut end).unwrap();
    a.set_label(&mut data).unwrap();
    a.db(text.as_bytes()).unwrap();
    a.db(&[0]).unwrap();
    let code = a.assemble(0).unwrap();
    let mut pe = vec![0; 2 * SECTOR];
    pe[..2].copy_from_slice(b"MZ");
    pe[0x3c] = 0x40;
    let mut set = |at: usize, bytes: &[u8]| pe[at..at + bytes.len()].copy_from_slice(bytes);
    set(0x40, b"PE\0\0\x64\x86\x01\0");
    // The size of the optional header; executable, addresses above 2 GiB.
    set(0x54, &[0xf0, 0, 0x22, 0]);
    // PE32+; entry point, code, alignments, sizes of image and headers; an EFI application with 16 empty directories.
    let words: [(usize, u32); 11] = [
        (0x00, 0x20b),
        (0x04, 0x200),
        (0x10, 0x1000),
        (0x14, 0x1000),
        (0x18, 0x40_0000),
        (0x20, 0x1000),
        (0x24, 0x200),
        (0x38, 0x2000),
        (0x3c, 0x200),
        (0x44, 10),
        (0x6c, 16),
    ];
    for (at, word) in words {
        set(0x58 + at, &word.to_le_bytes());
    }
    set(0x148, b".text");
    for (at, word) in [(8, 0x1000u32), (12, 0x1000), (16, 0x200), (20, 0x200), (36, 0x6000_0020)] {
        set(0x148 + at, &word.to_le_bytes());
    }
    set(SECTOR, &code);
    pe
}

/// A disk with an EFI system partition (FAT16) that holds `program` as \EFI\BOOT\BOOTX64.EFI.
pub fn uefi_disk(program: &[u8]) -> Vec<u8> {
    const START: usize = 2048;
    const SECTORS: usize = 32_768;
    const CLUSTER: usize = 4;
    const FAT: usize = 32;
    const ROOT_ENTRIES: usize = 512;
    let root = 1 + 2 * FAT;
    let data = root + ROOT_ENTRIES * 32 / SECTOR;
    let mut part = vec![0; SECTORS * SECTOR];
    part[..11].copy_from_slice(b"\xeb\x3c\x90SOFTMETL");
    let words: [(usize, usize); 8] =
        [(0x0b, SECTOR), (0x0d, CLUSTER), (0x0e, 1), (0x11, ROOT_ENTRIES), (0x13, SECTORS), (0x16, FAT), (0x18, 63), (0x1a, 255)];
    for (at, word) in words {
        let word = (word as u16).to_le_bytes();
        let len = if at == 0x0d { 1 } else { 2 };
        part[at..at + len].copy_from_slice(&word[..len]);
    }
    part[0x10] = 2;
    part[0x15] = 0xf8;
    part[0x24..0x36].copy_from_slice(b"\x80\0\x29\x01\x02\x03\x04SOFTMETAL  ");
    part[0x36..0x3e].copy_from_slice(b"FAT16   ");
    part[510..512].copy_from_slice(&[0x55, 0xaa]);
    for fat in 0..2 {
        let at = (1 + fat * FAT) * SECTOR;
        // Each file is one cluster.
        let entries = [0xfff8u16, 0xffff, 0xffff, 0xffff, 0xffff].map(u16::to_le_bytes).concat();
        part[at..at + entries.len()].copy_from_slice(&entries);
    }
    assert!(program.len() <= CLUSTER * SECTOR);
    let cluster = |n: usize| (data + (n - 2) * CLUSTER) * SECTOR;
    let mut entry = |at: usize, name: &[u8; 11], attributes: u8, first: u8, len: usize| {
        part[at..at + 11].copy_from_slice(name);
        (part[at + 11], part[at + 26]) = (attributes, first);
        part[at + 28..at + 32].copy_from_slice(&(len as u32).to_le_bytes());
    };
    const FOLDER: u8 = 0x10;
    entry(root * SECTOR, b"EFI        ", FOLDER, 2, 0);
    entry(cluster(2), b".          ", FOLDER, 2, 0);
    entry(cluster(2) + 32, b"..         ", FOLDER, 0, 0);
    entry(cluster(2) + 64, b"BOOT       ", FOLDER, 3, 0);
    entry(cluster(3), b".          ", FOLDER, 3, 0);
    entry(cluster(3) + 32, b"..         ", FOLDER, 2, 0);
    entry(cluster(3) + 64, b"BOOTX64 EFI", 0x20, 4, program.len());
    part[cluster(4)..cluster(4) + program.len()].copy_from_slice(program);

    let mut disk = vec![0; START * SECTOR];
    // One partition of type EF.
    disk[446 + 4] = 0xef;
    disk[446 + 8..446 + 12].copy_from_slice(&(START as u32).to_le_bytes());
    disk[446 + 12..446 + 16].copy_from_slice(&(SECTORS as u32).to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk.extend(part);
    disk
}

/// Boots `disk` with `options` until COM1 says `text`.
fn boots(disk: &Path, options: &[&str], text: &str) {
    let line = format!("{},ro", disk.display());
    passes(softmetal().args(["test", "--disk", &line, "--expect", text, "--timeout", "300"]).args(options));
}

#[test]
fn seabios_boots_a_disk() {
    if !available(&SEABIOS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    std::fs::write(&disk, bios_disk("the boot sector has read a block")).unwrap();
    for board in ["pc", "q35"] {
        boots(&disk, &["--firmware", "seabios", "--machine", board], "has read a block");
    }
}

/// Each of its 32-bit drivers is called from 16-bit code through an SMI, whose handler it has moved to the SMRAM behind the screen.
#[test]
fn seabios_uses_system_management_mode() {
    if !available(&SEABIOS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    std::fs::write(&path, bios_disk("the boot sector has read a block")).unwrap();
    let events = |machine: &str, engine: &str| -> Vec<String> {
        let output = softmetal()
            .args(["test", "--firmware", "seabios", "--machine", machine, "--engine", engine, "--log", "cpu::exec::smm=debug"])
            .args(["--disk", &format!("{},ro", path.display()), "--expect", "has read a block"])
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{machine}, {engine}: {words}");
        words.lines().filter_map(|l| l.strip_prefix("softmetal: debug softmetal_cpu::exec::smm: ")).map(str::to_string).collect()
    };
    for machine in ["pc", "q35"] {
        let told = events(machine, "translator");
        let (first, later) = told.split_at_checked(2).unwrap_or_else(|| panic!("{machine}: {told:?}"));
        let [place, back] = [("SMI at ", "0x30000"), ("RSM to ", "0xa0000")].map(|(what, base)| {
            let line = first.iter().find(|l| l.starts_with(what)).unwrap_or_else(|| panic!("{machine}: {told:?}"));
            line[what.len()..].strip_suffix(&format!(", SMBASE {base}")).unwrap_or_else(|| panic!("{machine}: {told:?}"))
        });
        assert_eq!(place, back, "{machine}");
        assert!(later.len() >= 4, "{machine}: {told:?}");
        for pair in later.chunks(2) {
            let [smi, rsm] = pair else { panic!("{machine}: {told:?}") };
            assert!(smi.starts_with("SMI at ") && rsm.starts_with("RSM to "), "{machine}: {told:?}");
            assert!(pair.iter().all(|l| l.ends_with(", SMBASE 0xa0000")), "{machine}: {told:?}");
        }
        assert_eq!(events(machine, "interpreter"), told, "{machine}");
        // Both engines tell it, and never differ.
        assert_eq!(events(machine, "lockstep").len(), 2 * told.len(), "{machine}");
        assert_eq!(events(&format!("{machine},smm=off"), "translator"), [""; 0], "{machine}");
    }
}

#[test]
fn uefi_boots_a_disk_and_keeps_its_variables() {
    if !available(&UEFI) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (disk, vars) = (folder.path().join("disk.img"), folder.path().join("vars.fd"));
    std::fs::write(&disk, uefi_disk(&uefi_program("the program runs"))).unwrap();
    let mut kept = Vec::new();
    for board in ["pc", "q35"] {
        boots(&disk, &["--firmware", "uefi", "--machine", board, "--firmware-vars", vars.to_str().unwrap()], "the program runs");
        let now = std::fs::read(&vars).unwrap();
        assert_ne!(now, kept, "{board}: the firmware has changed none of its variables");
        kept = now;
    }
    // The boot entry of the disk that the firmware made.
    let name: Vec<u8> = "Boot0001".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(kept.windows(name.len()).any(|w| w == name));
}

#[test]
fn uefi_starts_a_kernel() {
    if !available(&UEFI) || images("busybox").is_none() {
        return;
    }
    let log = passes(softmetal().args(["test", "busybox", "--firmware", "uefi", "--append", "poweroff"]).args([
        "--expect",
        "GUEST-READY",
        "--expect",
        "Power down",
    ]));
    assert!(log.contains("efi: EFI v"), "{log}");
}
