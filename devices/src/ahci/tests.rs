use softmetal_bus::device::HOST_TIME;
use softmetal_bus::{BlockBackend, BlockError, Drive, Effect, SharedDisk};

use super::command::COMMAND_TIME;
use super::*;
use crate::testing::{Rig, SlowDisk};

const LIST: u64 = 0x1000;
const FRAMES: u64 = 0x2000;
const TABLES: u64 = 0x4000;
const DATA: u64 = 0x2_0000;
const DISK: usize = 1 << 20;

/// A disk whose last sector cannot be read.
struct Worn(Vec<u8>);

impl BlockBackend for Worn {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        if offset + buf.len() as u64 > DISK as u64 - 512 {
            return Err(std::io::Error::other("worn out").into());
        }
        self.0.read_at(offset, buf)
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), BlockError> {
        self.0.write_at(offset, buf)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        Ok(())
    }
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 5 + i / 512 * 11) as u8).collect()
}

/// A disk at port 0 and a CD-ROM drive at port 1.
struct Host {
    rig: Rig,
    ahci: Ahci,
    disk: SharedDisk,
}

impl Host {
    fn new() -> Self {
        Self::with(SharedDisk::new(Worn(pattern(DISK))))
    }

    fn with(disk: SharedDisk) -> Self {
        let mut units = [const { None }; PORTS];
        units[0] = Some(Unit::disk(disk.clone(), "serial".into(), true));
        units[1] = Some(Unit::cdrom(Drive::with(SharedDisk::new(pattern(64 << 10))), "cd".into(), true));
        let mut h = Self { rig: Rig::new(), ahci: Ahci::new(units), disk };
        h.ahci.config_write(&mut h.rig.ctx(), 4, 2, 6);
        h.set(0x04, 2);
        for n in 0..2 {
            h.set_port(n, 0x00, LIST as u32 + n as u32 * 0x400);
            h.set_port(n, 0x08, FRAMES as u32 + n as u32 * 0x100);
            h.set_port(n, 0x18, 0x10);
            h.set_port(n, 0x14, !0);
            h.set_port(n, 0x30, !0);
            h.set_port(n, 0x10, !0);
            h.set_port(n, 0x18, 0x11);
        }
        h.set(0x08, !0);
        h.rig.take();
        h
    }

    fn set(&mut self, offset: u64, value: u32) {
        self.rig.write(&mut self.ahci, 5, offset, 4, value.into());
    }
    fn get(&mut self, offset: u64) -> u32 {
        self.rig.read(&mut self.ahci, 5, offset, 4) as u32
    }
    fn set_port(&mut self, n: u64, register: u64, value: u32) {
        self.set(0x100 + n * 0x80 + register, value);
    }
    fn port(&mut self, n: u64, register: u64) -> u32 {
        self.get(0x100 + n * 0x80 + register)
    }
    fn ram(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.rig.memory.read(at, &mut bytes).unwrap();
        bytes
    }

    /// Puts a command into a slot: command, features, sector, count, and its regions.
    fn put(&mut self, n: u64, slot: u64, command: (u8, u16, u64, u16), packet: &[u8], regions: &[(u64, u32)]) {
        let (command, features, lba, count) = command;
        let table = TABLES + slot * 0x400;
        let l = lba.to_le_bytes();
        let [fl, fh] = features.to_le_bytes();
        let [cl, ch] = count.to_le_bytes();
        let frame = [0x27, 0x80, command, fl, l[0], l[1], l[2], 0x40, l[3], l[4], l[5], fh, cl, ch, 0, 0];
        self.rig.memory.write(table, &frame).unwrap();
        self.rig.memory.write(table + 0x40, packet).unwrap();
        for (i, (at, len)) in regions.iter().enumerate() {
            let entry = u128::from(*at) | u128::from(len - 1) << 96;
            self.rig.memory.write(table + 0x80 + i as u64 * 16, &entry.to_le_bytes()).unwrap();
        }
        let atapi = if packet.is_empty() { 0 } else { 0x20 };
        let header = u128::from(5 | atapi | (regions.len() as u32) << 16) | u128::from(table) << 64;
        self.rig.memory.write(LIST + n * 0x400 + slot * 32, &header.to_le_bytes()).unwrap();
    }

    fn run(&mut self, n: u64, issue: u32) {
        self.set_port(n, 0x38, issue);
        self.rig.run(&mut self.ahci, COMMAND_TIME);
    }
}

#[test]
fn ports_and_signatures() {
    let mut h = Host::new();
    assert_eq!((h.get(0) & 0x1f, h.get(0x0c), h.get(0x10)), (5, 0x3f, 0x1_0200));
    assert_eq!([0, 1, 2].map(|n| (h.port(n, 0x24), h.port(n, 0x28))), [(0x101, 0x123), (0xeb14_0101, 0x123), (!0, 0)]);
    assert_eq!(h.port(0, 0x20), 0x150);
    assert_eq!(h.port(2, 0x20), 0x7f);
    assert_eq!(h.ram(FRAMES + 0x40, 8), [0x34, 0, 0x50, 1, 1, 0, 0, 0]);
    // COMRESET: the link goes down and comes back, and the device sends its signature again.
    h.set_port(0, 0x18, 0x10);
    h.set_port(0, 0x2c, 1);
    assert_eq!((h.port(0, 0x28), h.port(0, 0x20) & 0x80), (0, 0x80));
    h.set_port(0, 0x2c, 0);
    assert_eq!((h.port(0, 0x28), h.port(0, 0x20), h.port(0, 0x30)), (0x123, 0x150, 1 << 26));
    h.set_port(0, 0x30, !0);
    assert_eq!(h.port(0, 0x10) & interrupt_bits::CONNECT, 0);
    h.set(0x04, 1);
    assert_eq!((h.get(0x04), h.port(0, 0x00), h.port(0, 0x24)), (1 << 31, 0, 0x101));
}

use super::port::interrupt as interrupt_bits;

#[test]
fn pio_and_dma() {
    let mut h = Host::new();
    h.put(0, 3, (0xec, 0, 0, 0), &[], &[(DATA, 512)]);
    h.run(0, 1 << 3);
    assert_eq!((h.port(0, 0x38), h.port(0, 0x10), h.get(0x08)), (0, 2, 1));
    assert_eq!(h.rig.take_line(0).last(), Some(&true));
    assert_eq!(h.ram(FRAMES + 0x20, 18)[15..], [0x50, 0, 2]);
    assert_eq!(h.ram(LIST + 3 * 32 + 4, 4), 512u32.to_le_bytes());
    assert_eq!(h.ram(DATA + 150, 4), [31, 0, 6, 1]);
    h.set_port(0, 0x10, !0);
    h.set(0x08, !0);
    assert_eq!(h.rig.take_line(0).last(), Some(&false));

    h.put(0, 0, (0x25, 0, 5, 8), &[], &[(DATA, 1000), (DATA + 0x2000, 8 * 512 - 1000)]);
    h.run(0, 1);
    assert_eq!((h.port(0, 0x10), h.port(0, 0x20)), (1, 0x50));
    let all = [h.ram(DATA, 1000), h.ram(DATA + 0x2000, 8 * 512 - 1000)].concat();
    assert!(all == pattern(DISK)[5 * 512..13 * 512]);
    assert_eq!(h.ram(FRAMES + 0x40, 3), [0x34, 0x40, 0x50]);

    // A write, and a command for more than the disk has.
    h.rig.memory.write(DATA, &[0x77; 512]).unwrap();
    h.put(0, 1, (0x35, 0, 100, 1), &[], &[(DATA, 512)]);
    h.put(0, 2, (0x25, 0, DISK as u64 / 512, 1), &[], &[(DATA, 512)]);
    h.run(0, 6);
    let mut sector = [0; 512];
    h.disk.read_at(100 * 512, &mut sector).unwrap();
    assert_eq!(sector, [0x77; 512]);
    assert_eq!((h.port(0, 0x38), h.port(0, 0x20), h.port(0, 0x10) >> 30), (4, 0x1051, 1));
    // Stopped until the list is started again.
    // A flush waits for the host.
    h.put(0, 4, (0xe7, 0, 0, 0), &[], &[]);
    h.run(0, 1 << 4);
    assert_eq!(h.port(0, 0x38), 0x14);
    h.set_port(0, 0x18, 0x10);
    assert_eq!(h.port(0, 0x38), 0);
    h.set_port(0, 0x18, 0x11);
    h.put(0, 5, (0x25, 0, 0, 1), &[], &[(DATA, 512)]);
    h.run(0, 0x30);
    assert_eq!((h.port(0, 0x38), h.port(0, 0x20) & 0x80), (0x30, 0x80));
    h.rig.run(&mut h.ahci, HOST_TIME);
    assert_eq!((h.port(0, 0x38), h.port(0, 0x20)), (0, 0x50));
    // Where the host sets the pace, it comes as an event.
    h.rig.host_paced = true;
    h.run(0, 1 << 4);
    h.rig.run(&mut h.ahci, HOST_TIME);
    assert_eq!((h.port(0, 0x38), h.ahci.waits_for_host()), (1 << 4, Some(true)));
    h.ahci.input(&mut h.rig.ctx(), &Input::HostDone);
    assert_eq!((h.port(0, 0x38), h.port(0, 0x20), h.ahci.waits_for_host()), (0, 0x50, None));
    h.rig.host_paced = false;
    // A list that is too short, and one that is not memory.
    for (regions, bit) in [(&[(DATA, 256)][..], 24), (&[(1 << 40, 512)], 29)] {
        h.set_port(0, 0x10, !0);
        h.put(0, 0, (0x25, 0, 0, 1), &[], regions);
        h.run(0, 1);
        assert_eq!(h.port(0, 0x10) >> bit & 1, 1, "{regions:x?}");
        h.set_port(0, 0x18, 0x10);
        h.set_port(0, 0x18, 0x11);
    }
}

#[test]
fn queued_commands() {
    let mut h = Host::new();
    for slot in 0..32u64 {
        h.put(0, slot, (0x60, 1, slot * 3, (slot << 3) as u16), &[], &[(DATA + slot * 512, 512)]);
    }
    h.set_port(0, 0x34, !0);
    h.run(0, !0);
    h.rig.run(&mut h.ahci, 40 * COMMAND_TIME);
    assert_eq!((h.port(0, 0x34), h.port(0, 0x38), h.port(0, 0x10)), (0, 0, 8));
    for slot in 0..32 {
        assert!(h.ram(DATA + slot as u64 * 512, 512) == pattern(DISK)[slot * 3 * 512..][..512], "{slot}");
    }
    // The worn sector: the log tells which command it was.
    h.set_port(0, 0x10, !0);
    h.put(0, 7, (0x60, 2, DISK as u64 / 512 - 2, 7 << 3), &[], &[(DATA, 1024)]);
    h.set_port(0, 0x34, 1 << 7);
    h.run(0, 1 << 7);
    assert_eq!((h.port(0, 0x34), h.port(0, 0x20), h.port(0, 0x10) >> 30), (1 << 7, 0x4051, 1));
    h.set_port(0, 0x18, 0x10);
    h.set_port(0, 0x18, 0x11);
    h.put(0, 0, (0x2f, 0, 0x10, 1), &[], &[(DATA, 512)]);
    h.run(0, 1);
    let log = h.ram(DATA, 512);
    assert_eq!((&log[..4], &log[4..7]), (&[7, 0, 0x51, 0x40][..], &[0xff, 7, 0][..]));
    assert_eq!(log.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
}

/// Writes with FUA and without a write cache end when they are durable, which the guest need not stand still for.
#[test]
fn durable_writes_end_as_events() {
    let mut h = Host::new();
    h.rig.memory.write(DATA, &[0x2d; 512]).unwrap();
    // WRITE DMA FUA EXT; WRITE MULTIPLE FUA EXT, by PIO, after SET MULTIPLE MODE.
    h.put(0, 0, (0xc6, 0, 0, 8), &[], &[]);
    h.put(0, 1, (0x3d, 0, 9, 1), &[], &[(DATA, 512)]);
    h.put(0, 2, (0xce, 0, 10, 1), &[], &[(DATA, 512)]);
    h.run(0, 1);
    h.run(0, 6);
    assert_eq!((h.port(0, 0x38), h.port(0, 0x20) & 0x80), (6, 0x80));
    // It can be saved in this state.
    let saved = h.ahci.save();
    h.ahci.load(&saved).unwrap();
    h.rig.run(&mut h.ahci, HOST_TIME);
    assert_eq!((h.port(0, 0x38), h.port(0, 0x20) & 0x80), (4, 0x80));
    h.rig.run(&mut h.ahci, HOST_TIME);
    assert_eq!((h.port(0, 0x38), h.port(0, 0x20)), (0, 0x50));
    // Queued, at the host's pace; the read behind it waits its turn.
    h.rig.host_paced = true;
    h.put(0, 3, (0x61, 1, 11, 3 << 3), &[], &[(DATA, 512)]);
    h.rig.memory.write(TABLES + 3 * 0x400 + 7, &[0xc0]).unwrap();
    h.put(0, 4, (0x60, 1, 11, 4 << 3), &[], &[(DATA + 512, 512)]);
    h.set_port(0, 0x34, 0x18);
    h.run(0, 0x18);
    assert_eq!((h.port(0, 0x34), h.port(0, 0x38), h.ahci.waits_for_host()), (0x18, 0x18, Some(true)));
    for (left, waits) in [(0x10, Some(true)), (0, None)] {
        h.ahci.input(&mut h.rig.ctx(), &Input::HostDone);
        assert_eq!((h.port(0, 0x34), h.port(0, 0x38), h.ahci.waits_for_host()), (left, left, waits));
    }
    assert_eq!(h.ram(DATA + 512, 512), [0x2d; 512]);
    // The list is stopped before the end: what it waited for is forgotten.
    h.put(0, 5, (0x3d, 0, 12, 1), &[], &[(DATA, 512)]);
    h.run(0, 1 << 5);
    h.set_port(0, 0x18, 0x10);
    assert_eq!(h.ahci.waits_for_host(), None);
    h.set_port(0, 0x18, 0x11);
    h.put(0, 6, (0x25, 0, 12, 1), &[], &[(DATA + 512, 512)]);
    h.run(0, 1 << 6);
    h.ahci.input(&mut h.rig.ctx(), &Input::HostDone);
    assert_eq!((h.port(0, 0x38), h.port(0, 0x20)), (0, 0x50));
    // SET FEATURES: the write cache off. Each write is durable now.
    h.put(0, 7, (0xef, 0x82, 0, 0), &[], &[]);
    h.put(0, 8, (0x35, 0, 13, 1), &[], &[(DATA, 512)]);
    h.run(0, 0x180);
    for left in [0x100, 0] {
        assert_eq!(h.ahci.waits_for_host(), Some(true));
        h.ahci.input(&mut h.rig.ctx(), &Input::HostDone);
        assert_eq!(h.port(0, 0x38), left);
    }
}

/// At the host's pace, a read begins when the host says so; the guest may change its mind meanwhile.
#[test]
fn reads_wait_for_the_host() {
    let slow = SlowDisk::new(pattern(DISK));
    let mut h = Host::with(SharedDisk::new(slow.clone()));
    h.rig.host_paced = true;
    let done = |h: &mut Host| h.ahci.input(&mut h.rig.ctx(), &Input::HostDone);
    // READ DMA EXT, and READ FPDMA QUEUED behind it.
    h.put(0, 1, (0x25, 0, 3, 2), &[], &[(DATA, 1024)]);
    h.put(0, 2, (0x60, 1, 7, 2 << 3), &[], &[(DATA + 1024, 512)]);
    h.set_port(0, 0x34, 4);
    h.run(0, 6);
    assert_eq!((h.port(0, 0x20), h.ahci.waits_for_host(), slow.asked()), (0x80, Some(false), vec![(3 * 512, 1024)]));
    let saved = h.ahci.save();
    h.ahci.load(&saved).unwrap();
    slow.slow().busy = false;
    done(&mut h);
    assert_eq!((h.port(0, 0x38), h.port(0, 0x34), h.ahci.waits_for_host()), (4, 4, Some(true)));
    assert_eq!((h.port(0, 0x20) & 0x80, slow.asked()), (0, vec![(7 * 512, 512)]));
    done(&mut h);
    assert_eq!((h.port(0, 0x38), h.port(0, 0x34), h.ahci.waits_for_host()), (0, 0, None));
    assert!(h.ram(DATA, 1024) == pattern(DISK)[3 * 512..][..1024] && h.ram(DATA + 1024, 512) == pattern(DISK)[7 * 512..][..512]);
    // The host fails.
    slow.slow().broken = true;
    h.put(0, 3, (0x60, 1, 8, 3 << 3), &[], &[(DATA, 512)]);
    h.set_port(0, 0x34, 8);
    h.run(0, 8);
    done(&mut h);
    assert_eq!((h.port(0, 0x34), h.port(0, 0x20), h.port(0, 0x10) >> 30), (8, 0x4051, 1));
    slow.slow().broken = false;
    // The list is stopped while a read waits: it is forgotten.
    h.set_port(0, 0x18, 0x10);
    h.set_port(0, 0x18, 0x11);
    h.put(0, 4, (0x25, 0, 5, 1), &[], &[(DATA, 512)]);
    h.run(0, 16);
    h.set_port(0, 0x18, 0x10);
    assert_eq!(h.ahci.waits_for_host(), None);
    // It becomes a write while it waits.
    h.set_port(0, 0x18, 0x11);
    h.put(0, 4, (0x25, 0, 5, 1), &[], &[(DATA, 512)]);
    h.run(0, 16);
    h.put(0, 4, (0x35, 0, 6, 1), &[], &[(DATA, 512)]);
    h.rig.memory.write(DATA, &[0x3e; 512]).unwrap();
    done(&mut h);
    assert_eq!((h.port(0, 0x38), h.port(0, 0x20)), (0, 0x50));
    assert_eq!(slow.slow().bytes[6 * 512..][..512], [0x3e; 512]);
}

#[test]
fn packets_and_messages() {
    let mut h = Host::new();
    // MSI: its capability is the first.
    h.ahci.config_write(&mut h.rig.ctx(), 0x44, 4, 0xfee0_0000);
    h.ahci.config_write(&mut h.rig.ctx(), 0x4c, 2, 0x41);
    h.ahci.config_write(&mut h.rig.ctx(), 0x42, 2, 1);
    h.put(1, 0, (0xa0, 1, 0, 0), &[0x28, 0, 0, 0, 0, 5, 0, 0, 2, 0, 0, 0], &[(DATA, 4096)]);
    h.rig.take();
    h.run(1, 1);
    let effects = h.rig.take();
    assert!(effects.contains(&Effect::Msi { addr: 0xfee0_0000, data: 0x41 }));
    assert!(!effects.contains(&Effect::Line { line: 0, level: true }));
    assert_eq!((h.port(1, 0x38), h.port(1, 0x20)), (0, 0x50));
    assert!(h.ram(DATA, 4096) == pattern(64 << 10)[5 * 2048..7 * 2048]);
    // By PIO, and one that fails.
    h.put(1, 0, (0xa0, 0, 0x8_0000, 0), &[0x12, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0], &[(DATA, 36)]);
    h.run(1, 1);
    assert_eq!(h.ram(DATA + 8, 8), *b"SOFTMETA");
    h.put(1, 0, (0xa0, 0, 0, 0), &[0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]);
    h.run(1, 1);
    assert_eq!(h.port(1, 0x20), 0x5451);
    // Software reset: two control frames.
    h.set_port(1, 0x18, 0x10);
    h.set_port(1, 0x18, 0x11);
    for control in [4, 0] {
        h.put(1, 0, (0, 0, 0, 0), &[], &[]);
        h.rig.memory.write(TABLES + 1, &[0]).unwrap();
        h.rig.memory.write(TABLES + 15, &[control]).unwrap();
        h.run(1, 1);
    }
    assert_eq!((h.port(1, 0x38), h.port(1, 0x24), h.port(1, 0x20)), (0, 0xeb14_0101, 0x100));
    let saved = h.ahci.save();
    h.set(0x04, 1);
    h.ahci.load(&saved).unwrap();
    assert_eq!(h.ahci.save(), saved);
}
