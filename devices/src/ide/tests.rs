use softmetal_bus::device::HOST_TIME;
use softmetal_bus::{BlockBackend, Drive, SharedDisk};

use super::*;
use crate::ata::error as error_bits;
use crate::testing::{Rig, SlowDisk};

const DISK: usize = 4 << 20;
const CD: usize = 64 << 10;

/// A disk as primary master and a CD-ROM drive as secondary master.
struct Host {
    rig: Rig,
    ide: Ide,
    disk: SharedDisk,
    drive: Drive,
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 512 * 13) as u8).collect()
}

impl Host {
    fn new() -> Self {
        let disk = SharedDisk::new(pattern(DISK));
        let drive = Drive::with(SharedDisk::new(pattern(CD)));
        let units =
            [Some(Unit::disk(disk.clone(), "serial".into(), false)), None, Some(Unit::cdrom(drive.clone(), "cd".into(), false)), None];
        let mut host = Self { rig: Rig::new(), ide: Ide::new(units), disk, drive };
        host.ide.config_write(&mut host.rig.ctx(), 4, 2, 5);
        host
    }

    fn out(&mut self, region: u8, register: u64, value: u64) {
        self.rig.write(&mut self.ide, region, register, 1, value);
    }

    fn inp(&mut self, region: u8, register: u64) -> u8 {
        self.rig.read(&mut self.ide, region, register, 1) as u8
    }

    /// Writes features, count, LBA bytes, device and command, and lets the device work.
    fn command(&mut self, region: u8, registers: [u8; 6], command: u8) {
        for (i, value) in registers.into_iter().enumerate() {
            self.out(region, 1 + i as u64, value.into());
        }
        self.out(region, 7, command.into());
        assert_eq!(self.inp(region + 1, 0), status::BSY);
        self.rig.run(&mut self.ide, COMMAND_TIME);
    }

    /// Leaves zeros as the previous contents of count and address, for a 48-bit command.
    fn clear_address(&mut self) {
        (2..6).for_each(|register| self.out(0, register, 0));
    }

    fn words(&mut self, region: u8, n: usize) -> Vec<u8> {
        (0..n).flat_map(|_| (self.rig.read(&mut self.ide, region, 0, 2) as u16).to_le_bytes()).collect()
    }

    fn irq(&mut self, line: u8) -> Option<bool> {
        self.rig.take_line(line).last().copied()
    }

    fn packet(&mut self, features: u8, limit: u16, packet: &[u8]) {
        let [l, h] = limit.to_le_bytes();
        self.command(2, [features, 0, 0, l, h, 0xa0], 0xa0);
        assert_eq!((self.inp(3, 0), self.inp(2, 2)), (0x58, 1));
        let mut whole = [0; 12];
        whole[..packet.len()].copy_from_slice(packet);
        for word in whole.chunks(2) {
            self.rig.write(&mut self.ide, 2, 0, 2, u16::from_le_bytes([word[0], word[1]]).into());
        }
        self.rig.run(&mut self.ide, COMMAND_TIME);
    }

    /// A packet whose data fits in one block.
    fn ask(&mut self, packet: &[u8]) -> Vec<u8> {
        self.packet(0, 0xfffe, packet);
        let mut data = Vec::new();
        while self.inp(3, 0) & status::DRQ != 0 {
            let n = usize::from(self.inp(2, 4)) | usize::from(self.inp(2, 5)) << 8;
            data.extend(self.words(2, n.div_ceil(2)));
        }
        data
    }

    fn sense(&mut self) -> (u8, u8) {
        let data = self.ask(&[3, 0, 0, 0, 18]);
        (data[2], data[12])
    }
}

#[test]
fn identify_and_pio_read() {
    let mut h = Host::new();
    h.command(0, [0; 6], 0xec);
    assert_eq!((h.irq(0), h.inp(0, 7)), (Some(true), 0x58));
    assert_eq!(h.irq(0), Some(false));
    let id = h.words(0, 256);
    assert_eq!(h.inp(0, 7), 0x50);
    assert_eq!(id.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
    assert_eq!(&id[20..26], b"esirla");
    assert_eq!(u32::from_le_bytes(id[120..124].try_into().unwrap()) as usize, DISK / 512);

    // Two sectors by number, each with an interrupt before it and none after the last.
    h.command(0, [0, 2, 5, 0, 0, 0xe0], 0x20);
    let mut data = Vec::new();
    for _ in 0..2 {
        assert_eq!(h.irq(0), Some(true));
        assert_eq!(h.inp(0, 7), 0x58);
        data.extend(h.words(0, 256));
    }
    assert_eq!(h.inp(0, 7), 0x50);
    assert!(data == pattern(DISK)[5 * 512..7 * 512]);

    // The same by cylinder, head and sector: 63 sectors a track.
    h.command(0, [0, 1, 6, 0, 0, 0xa0], 0x20);
    assert!(h.words(0, 256) == pattern(DISK)[5 * 512..6 * 512]);
    h.command(0, [0, 1, 0, 0, 0, 0xa0], 0x20);
    assert_eq!((h.inp(0, 7), h.inp(0, 1)), (0x51, error_bits::IDNF));
}

#[test]
fn multiple_and_long_addresses() {
    let mut h = Host::new();
    h.command(0, [0, 4, 0, 0, 0, 0xe0], 0xc4);
    assert_eq!((h.inp(0, 7), h.inp(0, 1)), (0x51, error_bits::ABRT));
    h.command(0, [0, 4, 0, 0, 0, 0xe0], 0xc6);
    assert_eq!(h.inp(0, 7), 0x50);
    h.command(0, [0, 3, 0, 0, 0, 0xe0], 0xc6);
    assert_eq!(h.inp(0, 7), 0x51);
    // 6 sectors in blocks of 4, by a 48-bit address.
    for (register, value) in [(2, 0), (3, 0), (4, 0), (5, 0)] {
        h.out(0, register, value);
    }
    let written = vec![0xa5; 6 * 512];
    h.command(0, [0, 6, 9, 0, 0, 0x40], 0x39);
    assert_eq!(h.irq(0), Some(false));
    for (i, word) in written.chunks(2).enumerate() {
        if i == 4 * 256 {
            assert_eq!((h.irq(0), h.inp(0, 7)), (Some(true), 0x58));
        }
        let word = u16::from_le_bytes([word[0], word[1]]);
        h.rig.write(&mut h.ide, 0, 0, 2, word.into());
    }
    assert_eq!((h.irq(0), h.inp(0, 7)), (Some(true), 0x50));
    let mut back = vec![0; 8 * 512];
    h.disk.read_at(8 * 512, &mut back).unwrap();
    assert!(back[512..7 * 512] == written && back[..512] == pattern(DISK)[8 * 512..9 * 512]);
    assert!(back[7 * 512..] == pattern(DISK)[15 * 512..16 * 512]);
    // The registers' previous contents.
    h.out(0, 2, 0x12);
    h.out(0, 2, 0x34);
    assert_eq!(h.inp(0, 2), 0x34);
    h.out(1, 0, 0x80);
    assert_eq!(h.inp(0, 2), 0x12);
    h.out(0, 2, 0);
    assert_eq!(h.inp(0, 2), 0);
    // READ NATIVE MAX ADDRESS EXT, CHECK POWER MODE, an unknown command.
    h.command(0, [0, 0, 0, 0, 0, 0x40], 0x27);
    assert_eq!([h.inp(0, 3), h.inp(0, 4), h.inp(0, 5)], [0xff, 0x1f, 0]);
    h.command(0, [0, 0, 0, 0, 0, 0x40], 0xe0);
    h.command(0, [0, 0, 0, 0, 0, 0x40], 0xe5);
    assert_eq!(h.inp(0, 2), 0);
    h.command(0, [0, 0, 0, 0, 0, 0x40], 0xfe);
    assert_eq!((h.inp(0, 7), h.inp(0, 1)), (0x51, 4));
}

#[test]
fn bus_master() {
    let mut h = Host::new();
    let table = |h: &mut Host, list: &[(u32, u32)]| {
        for (i, (addr, len)) in list.iter().enumerate() {
            h.rig.memory.write(0x1000 + i as u64 * 8, &(u64::from(*addr) | u64::from(*len) << 32).to_le_bytes()).unwrap();
        }
        h.rig.write(&mut h.ide, 4, 4, 4, 0x1000);
        h.rig.write(&mut h.ide, 4, 2, 1, 6);
    };
    table(&mut h, &[(0x2000, 1000), (0x8002, 0x8000_0000 | (8 * 512 - 1000))]);
    h.command(0, [0, 8, 3, 0, 0, 0xe0], 0xc8);
    assert_eq!((h.inp(1, 0), h.irq(0)), (0x58, Some(false)));
    h.rig.write(&mut h.ide, 4, 0, 1, 9);
    assert_eq!((h.inp(4, 2), h.irq(0), h.inp(0, 7)), (4, Some(true), 0x50));
    let (mut a, mut b) = (vec![0; 1000], vec![0; 8 * 512 - 1000]);
    h.rig.memory.read(0x2000, &mut a).unwrap();
    h.rig.memory.read(0x8002, &mut b).unwrap();
    a.extend(b);
    assert!(a == pattern(DISK)[3 * 512..11 * 512]);
    h.rig.write(&mut h.ide, 4, 0, 1, 0);

    // Back to another place; the bus master is started first, and its region is longer than the transfer.
    h.rig.memory.write(0x2_0000, &[0x3c; 512]).unwrap();
    table(&mut h, &[(0x2_0000, 0x8000_1000)]);
    h.rig.write(&mut h.ide, 4, 0, 1, 1);
    h.command(0, [0, 1, 0, 1, 0, 0xe0], 0xca);
    assert_eq!((h.inp(4, 2), h.inp(0, 7)), (5, 0x50));
    h.rig.write(&mut h.ide, 4, 0, 1, 0);
    assert_eq!(h.inp(4, 2), 4);
    let mut back = [0; 512];
    h.disk.read_at(256 * 512, &mut back).unwrap();
    assert_eq!(back, [0x3c; 512]);

    // With FUA, it ends when it is durable; by PIO too.
    table(&mut h, &[(0x2_0000, 0x8000_0200)]);
    h.rig.write(&mut h.ide, 4, 0, 1, 1);
    h.clear_address();
    h.command(0, [0, 1, 0, 2, 0, 0x40], 0x3d);
    assert_eq!((h.inp(4, 2) & 4, h.inp(0, 7)), (0, 0x80));
    h.rig.run(&mut h.ide, HOST_TIME);
    assert_eq!((h.inp(4, 2), h.irq(0), h.inp(0, 7)), (4, Some(true), 0x50));
    h.rig.write(&mut h.ide, 4, 0, 1, 0);
    h.command(0, [0, 1, 0, 0, 0, 0x40], 0xc6);
    h.rig.host_paced = true;
    h.clear_address();
    h.command(0, [0, 1, 0, 3, 0, 0x40], 0xce);
    for _ in 0..256 {
        h.rig.write(&mut h.ide, 0, 0, 2, 0x4d4d);
    }
    // A busy channel takes no other command.
    h.out(0, 7, 0xec);
    assert_eq!((h.inp(0, 7), h.irq(0), h.ide.waits_for_host()), (0x80, Some(false), Some(true)));
    h.ide.input(&mut h.rig.ctx(), &Input::HostDone);
    assert_eq!((h.inp(0, 7), h.ide.waits_for_host()), (0x50, None));
    h.disk.read_at(768 * 512, &mut back).unwrap();
    assert_eq!(back, [0x4d; 512]);
    h.rig.host_paced = false;

    // A region that is not memory.
    table(&mut h, &[(0xf000_0000, 0x8000_0200)]);
    h.command(0, [0, 1, 0, 0, 0, 0xe0], 0xc8);
    h.rig.write(&mut h.ide, 4, 0, 1, 9);
    assert_eq!((h.inp(4, 2), h.inp(0, 7), h.inp(0, 1)), (6, 0x51, 4));
    h.rig.write(&mut h.ide, 4, 0, 1, 0);
    // TRIM; what is discarded reads as whatever, and the command ends well.
    h.rig.memory.write(0x3000, &(40u64 | 8 << 48).to_le_bytes()).unwrap();
    table(&mut h, &[(0x3000, 0x8000_0200)]);
    h.out(0, 2, 0);
    h.command(0, [1, 1, 0, 0, 0, 0x40], 0x06);
    h.rig.write(&mut h.ide, 4, 0, 1, 1);
    assert_eq!((h.inp(4, 2), h.inp(0, 7)), (4, 0x50));
}

/// At the host's pace, a read begins when the host says so, whatever way the data then takes.
#[test]
fn reads_wait_for_the_host() {
    let mut h = Host::new();
    let slow = SlowDisk::new(pattern(DISK));
    h.ide = Ide::new([Some(Unit::disk(SharedDisk::new(slow.clone()), "serial".into(), false)), None, None, None]);
    h.ide.config_write(&mut h.rig.ctx(), 4, 2, 5);
    h.rig.host_paced = true;
    let done = |h: &mut Host| h.ide.input(&mut h.rig.ctx(), &Input::HostDone);
    // READ SECTORS.
    h.command(0, [0, 1, 9, 0, 0, 0xe0], 0x20);
    assert_eq!((h.inp(0, 7), h.ide.waits_for_host(), slow.asked()), (0x80, Some(false), vec![(9 * 512, 512)]));
    let saved = h.ide.save();
    h.ide.load(&saved).unwrap();
    slow.slow().busy = false;
    assert_eq!(h.ide.waits_for_host(), Some(true));
    done(&mut h);
    assert_eq!((h.inp(0, 7), h.ide.waits_for_host()), (0x58, None));
    assert!(h.words(0, 256) == pattern(DISK)[9 * 512..][..512]);
    // READ DMA; the host fails.
    h.rig.memory.write(0x1000, &(0x2_0000u64 | 0x8000_0400 << 32).to_le_bytes()).unwrap();
    h.rig.write(&mut h.ide, 4, 4, 4, 0x1000);
    for (broken, status) in [(false, 0x50), (true, 0x51)] {
        slow.slow().broken = broken;
        h.rig.write(&mut h.ide, 4, 0, 1, 9);
        h.command(0, [0, 2, 4, 0, 0, 0xe0], 0xc8);
        assert_eq!((h.inp(0, 7), slow.asked()), (0x80, vec![(4 * 512, 1024)]));
        done(&mut h);
        assert_eq!(h.inp(0, 7), status);
        h.rig.write(&mut h.ide, 4, 0, 1, 0);
    }
    let mut data = vec![0; 1024];
    h.rig.memory.read(0x2_0000, &mut data).unwrap();
    assert!(data == pattern(DISK)[4 * 512..][..1024]);
    // A reset forgets it.
    h.command(0, [0, 1, 0, 0, 0, 0xe0], 0x20);
    h.out(1, 0, 4);
    h.out(1, 0, 0);
    done(&mut h);
    assert_eq!((h.inp(0, 7), h.ide.waits_for_host()), (0x50, None));
}

#[test]
fn absent_devices_and_reset() {
    let mut h = Host::new();
    h.out(0, 6, 0xb0);
    h.out(0, 2, 0x55);
    assert_eq!((h.inp(0, 7), h.inp(0, 2)), (0, 0xff));
    h.out(0, 7, 0xec);
    h.rig.run(&mut h.ide, COMMAND_TIME);
    assert_eq!(h.irq(0), None);
    h.out(0, 6, 0xa0);
    let mut empty = Ide::new([const { None }; 4]);
    assert_eq!(h.rig.read(&mut empty, 0, 7, 1), 0x7f);

    h.out(1, 0, 6);
    assert_eq!(h.inp(1, 0), status::BSY);
    h.out(1, 0, 2);
    assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(|r| if r == 0 { 0 } else { h.inp(0, r) }), [0, 1, 1, 1, 0, 0, 0xa0, 0x50]);
    h.out(3, 0, 4);
    h.out(3, 0, 0);
    assert_eq!([2, 3, 4, 5, 7].map(|r| h.inp(2, r)), [1, 1, 0x14, 0xeb, 0]);
    // No interrupt while nIEN is set.
    h.rig.take();
    h.command(0, [0, 0, 0, 0, 0, 0xa0], 0x90);
    assert_eq!((h.irq(0), h.inp(0, 1)), (Some(false), 1));
    // IDENTIFY DEVICE of a packet device fails and shows the signature.
    h.command(2, [0; 6], 0xec);
    assert_eq!([1, 4, 5, 7].map(|r| h.inp(2, r)), [4, 0x14, 0xeb, 0x51]);
}

#[test]
fn packets() {
    let mut h = Host::new();
    h.command(2, [0; 6], 0xa1);
    assert_eq!(h.words(2, 256)[..2], [0xc0, 0x85]);
    let inquiry = h.ask(&[0x12, 0, 0, 0, 36]);
    assert_eq!((&inquiry[..2], &inquiry[8..16]), (&[5, 0x80][..], &b"SOFTMETA"[..]));
    assert_eq!(h.inp(2, 2), 3);
    assert_eq!(h.ask(&[0x25]), [0, 0, 0, 31, 0, 0, 8, 0]);
    // Two sectors in blocks of 2048 bytes.
    h.rig.take();
    h.packet(0, 2048, &[0x28, 0, 0, 0, 0, 7, 0, 0, 2]);
    let mut data = Vec::new();
    for _ in 0..2 {
        assert_eq!((h.irq(1), h.inp(2, 7), h.inp(2, 2), h.inp(2, 5)), (Some(true), 0x58, 2, 8));
        data.extend(h.words(2, 1024));
    }
    assert_eq!((h.irq(1), h.inp(2, 7), h.inp(2, 2)), (Some(true), 0x50, 3));
    assert!(data == pattern(CD)[7 * 2048..9 * 2048]);
    // By DMA.
    h.rig.memory.write(0x1000, &(0x4000u64 | 0x8000_1000 << 32).to_le_bytes()).unwrap();
    h.rig.write(&mut h.ide, 4, 12, 4, 0x1000);
    h.packet(1, 0, &[0xa8, 0, 0, 0, 0, 30, 0, 0, 0, 2]);
    h.rig.write(&mut h.ide, 4, 8, 1, 9);
    assert_eq!((h.inp(4, 10), h.inp(2, 7)), (4, 0x50));
    let mut data = vec![0; 4096];
    h.rig.memory.read(0x4000, &mut data).unwrap();
    assert!(data == pattern(CD)[30 * 2048..]);
    // Past the end.
    h.packet(0, 2048, &[0x28, 0, 0, 0, 0, 31, 0, 0, 2]);
    assert_eq!((h.inp(2, 7), h.inp(2, 1) >> 4), (0x51, 5));
    assert_eq!(h.sense(), (5, 0x21));
    // Table of contents; mode pages; a raw sector.
    let toc = h.ask(&[0x43, 0, 0, 0, 0, 0, 0, 0, 20]);
    assert_eq!(toc, [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xaa, 0, 0, 0, 0, 32]);
    let page = h.ask(&[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 128]);
    assert_eq!((usize::from(page[1]) + 2, page[8]), (page.len(), 0x2a));
    let raw = h.ask(&[0xbe, 0, 0, 0, 0, 3, 0, 0, 1, 0xf8]);
    assert_eq!((raw.len(), &raw[12..16]), (2352, &[0, 2, 3, 1][..]));
    assert!(raw[16..2064] == pattern(CD)[3 * 2048..4 * 2048]);
}

#[test]
fn media_change() {
    let mut h = Host::new();
    assert!(h.ask(&[0]).is_empty() && h.inp(2, 7) == 0x50);
    // Prevented, then allowed removal.
    h.ask(&[0x1e, 0, 0, 0, 1]);
    h.ask(&[0x1b, 0, 0, 0, 2]);
    assert_eq!((h.inp(2, 7), h.sense(), h.drive.locked()), (0x51, (5, 0x53), true));
    h.ask(&[0x1e]);
    h.ask(&[0x1b, 0, 0, 0, 2]);
    assert_eq!((h.inp(2, 7), h.drive.medium().is_none()), (0x50, true));
    h.ask(&[0]);
    assert_eq!(h.sense(), (2, 0x3a));
    let event = [0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8];
    assert_eq!(h.ask(&event)[4..6], [3, 1]);
    h.drive.insert(SharedDisk::new(vec![1; 4096]));
    assert_eq!(h.ask(&event)[4..6], [2, 2]);
    h.ask(&[0]);
    assert_eq!((h.inp(2, 7), h.sense()), (0x51, (6, 0x28)));
    assert_eq!(h.ask(&[0x25])[3], 1);
    // The state goes over to another function in the midst of a block.
    h.packet(0, 0xfffe, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(h.words(2, 10), [1; 20]);
    let saved = h.ide.save();
    h.words(2, 5);
    h.ide.load(&saved).unwrap();
    assert_eq!(h.words(2, 1014), [1; 2028]);
    assert_eq!(h.inp(2, 7), 0x50);
    assert!(Ide::new([const { None }; 4]).load(&saved).is_err());
}
