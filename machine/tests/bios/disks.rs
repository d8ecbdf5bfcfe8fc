//! INT 13h and El Torito.

use super::*;

/// Checks that a drive with `boot` as its only medium ends with these first words of the sectors that it read to 0x8000.
fn reads(plugs: Plugs, expected: &[u32]) {
    let mut machine = machine(plugs);
    finish(&mut machine);
    for (n, want) in expected.iter().enumerate() {
        assert_eq!(dword(&mut machine, 0x8000 + 512 * n as u64), *want, "sector {n} of what was read");
    }
}

/// AX at INT 13h, CX, DX; the buffer is 0000:8000. Carry is stored at RESULT, AX at RESULT + 2.
fn chs(a: &mut CodeAssembler, function: i32, cx_value: i32, dx_value: i32) -> Result<(), IcedError> {
    a.mov(ax, function)?;
    a.mov(cx, cx_value)?;
    a.mov(dx, dx_value)?;
    a.mov(bx, 0x8000)?;
    a.int(0x13)?;
    a.mov(word_ptr(RESULT + 2), ax)?;
    store_flags(a, RESULT)
}

#[test]
fn floppies_by_cylinder_head_and_sector() {
    // Cylinder 1, head 1, sector 17, three sectors: the last is the next cylinder's first.
    let boot = sector(|a| chs(a, 0x0203, 0x0111, 0x0100));
    let floppy = Drive::with(shared(numbered(&boot, 1440 << 10)));
    reads(Plugs { floppies: vec![floppy], ..plugs() }, &[70, 71, 72]);
}

#[test]
fn what_lies_outside_is_an_error() {
    let boot = sector(|a| chs(a, 0x0201, 0x5001, 0x0000));
    let mut machine = machine(Plugs { floppies: vec![Drive::with(shared(numbered(&boot, 1440 << 10)))], ..plugs() });
    finish(&mut machine);
    assert_eq!((word(&mut machine, RESULT) & 1, word(&mut machine, RESULT + 2)), (1, 0x0400));
}

#[test]
fn disks_by_block() {
    let mut machine = run(|a| {
        // A packet: 2 blocks to 0800:0000 from block 0x3000.
        for (n, value) in [0x10, 2, 0, 0x0800, 0x3000, 0, 0, 0].into_iter().enumerate() {
            a.mov(word_ptr(0x500 + 2 * n as u64), value)?;
        }
        a.mov(si, 0x500)?;
        a.mov(ah, 0x42)?;
        a.int(0x13)?;
        store_flags(a, RESULT)?;
        // The parameters, then the extensions.
        a.mov(word_ptr(0x520), 0x1e)?;
        a.mov(si, 0x520)?;
        a.mov(ah, 0x48)?;
        a.int(0x13)?;
        a.mov(ah, 0x41)?;
        a.mov(bx, 0x55aa)?;
        a.int(0x13)?;
        a.mov(word_ptr(RESULT + 2), ax)?;
        a.mov(word_ptr(RESULT + 4), bx)?;
        a.mov(ah, 0x08)?;
        a.int(0x13)?;
        a.mov(word_ptr(RESULT + 6), cx)?;
        a.mov(word_ptr(RESULT + 8), dx)
    });
    assert_eq!([0x8000, 0x8200].map(|at| dword(&mut machine, at)), [0x3000, 0x3001]);
    assert_eq!(word(&mut machine, RESULT) & 1, 0);
    // 16 heads of 63 sectors; 16,384 blocks of 512 bytes.
    assert_eq!((dword(&mut machine, 0x524), dword(&mut machine, 0x528), dword(&mut machine, 0x52c)), (16, 16, 63));
    assert_eq!((dword(&mut machine, 0x530), word(&mut machine, 0x538)), (16_384, 512));
    assert_eq!((word(&mut machine, RESULT + 2) >> 8, word(&mut machine, RESULT + 4)), (0x30, 0xaa55));
    assert_eq!((word(&mut machine, RESULT + 6), word(&mut machine, RESULT + 8)), (0x0f3f, 0x0f01));
}

#[test]
fn writes_reach_the_disk() {
    let boot = sector(|a| {
        a.mov(word_ptr(0x8000), 0x1234)?;
        chs(a, 0x0301, 0x0002, 0x0080)
    });
    let backend = shared(numbered(&boot, 1 << 20));
    let disk = Disk { backend: backend.clone(), interface: Interface::Ide };
    finish(&mut machine(Plugs { disks: vec![disk], ..plugs() }));
    let mut sector = [0; 4];
    softmetal_bus::BlockBackend::read_at(&mut backend.clone(), 512, &mut sector).unwrap();
    assert_eq!(sector, [0x34, 0x12, 0, 0]);
}

/// Code that a transfer overwrites is gone, even when it has just run.
#[test]
fn what_is_read_over_code_runs() {
    let mut machine = run(|a| {
        a.mov(byte_ptr(0x8000), 0xc3)?; // ret
        a.call(0x8000)?;
        // Sector 2 begins with its number, 1: add [bx+si], ax; the rest is zeros. So the code is put there first.
        a.mov(word_ptr(0x8004), 0x9090)?;
        chs(a, 0x0201, 0x0002, 0x0080)?;
        a.mov(al, byte_ptr(0x8000))?;
        a.mov(byte_ptr(RESULT + 8), al)?;
        // inc bp; ret, by way of the disk.
        a.mov(dword_ptr(0x8200), 0xc345u32)?;
        a.mov(ax, 0x0301)?;
        a.mov(cx, 3)?;
        a.mov(dx, 0x80)?;
        a.mov(bx, 0x8200)?;
        a.int(0x13)?;
        a.mov(ax, 0x0201)?;
        a.mov(bx, 0x8000)?;
        a.int(0x13)?;
        a.xor(bp, bp)?;
        a.call(0x8000)?;
        a.mov(word_ptr(RESULT + 10), bp)
    });
    assert_eq!((bytes(&mut machine, RESULT + 8), word(&mut machine, RESULT + 10)), ([1], 1));
}

/// A CD-ROM whose boot image is at sector 20: `media` as in the catalogue, `sectors` of it are loaded.
fn cdrom(media: u8, sectors: u16, image: &[u8]) -> Vec<u8> {
    let mut cd = vec![0; 20 * 2048];
    cd[16 * 2048..16 * 2048 + 6].copy_from_slice(b"\x01CD001");
    let record = 17 * 2048;
    cd[record..record + 31].copy_from_slice(b"\0CD001\x01EL TORITO SPECIFICATION\0");
    cd[record + 0x47] = 18;
    let catalogue = 18 * 2048;
    cd[catalogue] = 1;
    cd[catalogue + 28..catalogue + 32].copy_from_slice(&[0xaa, 0x55, 0x55, 0xaa]);
    // The words add up to zero: 1 + 55AA + AA55 = 1_0000 without the checksum.
    cd[catalogue + 28..catalogue + 30].copy_from_slice(&0u16.wrapping_sub(1).wrapping_sub(0xaa55).to_le_bytes());
    let entry = catalogue + 32;
    (cd[entry], cd[entry + 1]) = (0x88, media);
    cd[entry + 6..entry + 8].copy_from_slice(&sectors.to_le_bytes());
    cd[entry + 8] = 20;
    cd.extend(image);
    cd.resize(cd.len().next_multiple_of(2048), 0);
    cd
}

fn with_cdrom(cd: Vec<u8>) -> Plugs {
    Plugs { cdroms: vec![Drive::with(shared(cd))], ..plugs() }
}

#[test]
fn cdroms_without_emulation() {
    let boot = sector(|a| {
        a.mov(byte_ptr(RESULT), dl)?;
        // Sector 18 of the CD-ROM, 2048 bytes.
        for (n, value) in [0x10, 1, 0, 0x0900, 18, 0, 0, 0].into_iter().enumerate() {
            a.mov(word_ptr(0x500 + 2 * n as u64), value)?;
        }
        a.mov(si, 0x500)?;
        a.mov(ah, 0x42)?;
        a.int(0x13)?;
        a.mov(si, 0x540)?;
        a.mov(ax, 0x4b01)?;
        a.int(0x13)
    });
    let mut machine = machine(with_cdrom(cdrom(0, 4, &numbered(&boot, 4096))));
    finish(&mut machine);
    assert_eq!(bytes(&mut machine, RESULT), [0xe0]);
    assert_eq!(bytes(&mut machine, 0x9000), [1, 0]);
    assert_eq!(bytes(&mut machine, 0x9000 + 32), [0x88, 0]);
    // The status packet: length, no emulation, the drive; the image's sector.
    assert_eq!((bytes(&mut machine, 0x540), dword(&mut machine, 0x544)), ([0x13, 0, 0xe0], 20));
    // Four sectors were loaded.
    assert_eq!([1, 3].map(|n| dword(&mut machine, 0x7c00 + n * 512)), [1, 3]);
}

#[test]
fn cdroms_as_floppies() {
    let boot = sector(|a| {
        a.mov(byte_ptr(0x700), dl)?;
        chs(a, 0x0202, 0x0101, 0x0100)
    });
    // A real floppy drive is then B.
    let plugs =
        Plugs { floppies: vec![Drive::new()], boot: vec![BootDevice::Cdrom], ..with_cdrom(cdrom(2, 1, &numbered(&boot, 1440 << 10))) };
    reads(plugs, &[54, 55]);
}

#[test]
fn cdroms_as_hard_disks() {
    let mut image = numbered(&sector(|a| chs(a, 0x0201, 0x0105, 0x0280)), 4 << 20);
    // A partition that ends at cylinder 7, head 15, sector 63.
    image[0x1be + 5..0x1be + 8].copy_from_slice(&[15, 63, 7]);
    let plugs = with_cdrom(cdrom(4, 1, &image));
    reads(plugs, &[(16 + 2) * 63 + 4]);
}
