//! A board with its memory and disks, and a digest of all that it answers.

use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};
use softmetal_bus::{Attention, BlockBackend, BlockError, CpuBus, Drive, GuestMemory, Request, SharedDisk, attention};
use softmetal_firmware::{Chipset, Layout};
use softmetal_machine::board::firmware::Parts;
use softmetal_machine::board::{Board, Disk, Firmware, Interface, Plugs, SharedBoard};

use crate::generate::{CODE, Op, RAM, Rng, VARS};

/// Bytes of a disk.
pub const DISK: usize = 256 << 10;
/// The most bytes that one access may move between a disk and the guest: each of 256 requests moves the whole disk.
const MOST_MOVED: u64 = 256 * DISK as u64;
/// The most output of one access: what a console takes from its ring at once.
const MOST_OUTPUT: usize = 17 << 20;

#[derive(Default)]
struct Store {
    bytes: Vec<u8>,
    reads: u64,
    writes: u64,
    flushes: u64,
    moved: u64,
}

/// A disk in memory that the test can look at.
#[derive(Clone)]
struct TestDisk {
    store: Arc<Mutex<Store>>,
    read_only: bool,
}

impl BlockBackend for TestDisk {
    fn size(&self) -> u64 {
        DISK as u64
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let mut store = self.store.lock().unwrap();
        store.reads += 1;
        store.moved += buf.len() as u64;
        store.bytes.read_at(offset, buf)
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), BlockError> {
        assert!(!self.read_only, "a read-only disk is written");
        let mut store = self.store.lock().unwrap();
        store.writes += 1;
        store.moved += buf.len() as u64;
        store.bytes.write_at(offset, buf)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        self.store.lock().unwrap().flushes += 1;
        Ok(())
    }
}

/// How often something happened.
#[derive(Default)]
pub struct Seen {
    interrupts: u64,
    nmis: u64,
    timers: u64,
    output: u64,
    power_offs: u64,
    resets: u64,
    exits: u64,
    disk_reads: u64,
    disk_writes: u64,
    disk_flushes: u64,
    scsi_reads: u64,
    scsi_writes: u64,
}

impl Seen {
    fn list(&self) -> [(&'static str, u64); 12] {
        let Self {
            interrupts,
            nmis,
            timers,
            output,
            power_offs,
            resets,
            exits,
            disk_reads,
            disk_writes,
            disk_flushes,
            scsi_reads,
            scsi_writes,
        } = *self;
        [
            ("interrupts", interrupts),
            ("NMIs", nmis),
            ("timers", timers),
            ("bytes of output", output),
            ("power-offs", power_offs),
            ("resets", resets),
            ("debug exits", exits),
            ("reads from disk", disk_reads),
            ("writes to disk", disk_writes),
            ("flushes of disks", disk_flushes),
            ("reads from the SCSI disk", scsi_reads),
            ("writes to the SCSI disk", scsi_writes),
        ]
    }

    pub fn add(&mut self, other: &Self) {
        self.interrupts += other.interrupts;
        self.nmis += other.nmis;
        self.timers += other.timers;
        self.output += other.output;
        self.power_offs += other.power_offs;
        self.resets += other.resets;
        self.exits += other.exits;
        self.disk_reads += other.disk_reads;
        self.disk_writes += other.disk_writes;
        self.disk_flushes += other.disk_flushes;
        self.scsi_reads += other.scsi_reads;
        self.scsi_writes += other.scsi_writes;
    }

    /// Checks that each of these things happened.
    pub fn check(&self) {
        for (what, n) in self.list() {
            assert!(n > 0, "no {what} at all");
        }
    }
}

pub struct Rig {
    board: SharedBoard,
    memory: Arc<GuestMemory>,
    attention: Arc<Attention>,
    disks: [Arc<Mutex<Store>>; 3],
    /// The retired-instruction count.
    at: u64,
    /// A digest of all answers so far.
    trace: Sha256,
    pub seen: Seen,
}

impl Rig {
    /// A board (one of three kinds) with a disk, a read-only disk, a disk and a CD-ROM drive on a SCSI host, an entropy source, a console and
    /// a display adapter; memory and disks are random.
    pub fn new(seed: u64) -> Self {
        let rig = Self::empty(seed);
        let mut rng = Rng(seed ^ 0x5eed);
        let mut page = [0; 4096];
        // Not all of it, so that unwritten pages are met too.
        for n in (0..RAM / 4096).step_by(3) {
            rng.fill(&mut page);
            rig.memory.write(n * 4096, &page).unwrap();
        }
        for disk in &rig.disks {
            rng.fill(&mut disk.lock().unwrap().bytes);
        }
        rig
    }

    fn empty(seed: u64) -> Self {
        let attention = Arc::new(Attention::default());
        let disks = [(); 3].map(|()| Arc::new(Mutex::new(Store { bytes: vec![0; DISK], ..Store::default() })));
        let backend = |n: usize| SharedDisk::new(TestDisk { store: disks[n].clone(), read_only: n == 1 });
        let disk = |n, interface| Disk { backend: backend(n), interface };
        let plugs = Plugs {
            disks: vec![disk(0, Interface::Virtio), disk(1, Interface::Virtio), disk(2, Interface::Scsi)],
            cdroms: vec![Drive::with(backend(1))],
            vga: true,
            console: true,
            virtio_input: true,
            smm: true,
            rtc: 1_767_225_600,
            seed,
            ..Plugs::default()
        };
        // Each third board with the built-in firmware, with another, with another on the other chipset.
        let other = || Firmware::Flash { code: vec![0x90; CODE as usize], vars: vec![0xff; VARS as usize], guarded: false };
        let (chipset, firmware) = match seed % 3 {
            0 => (Chipset::I440fx, Firmware::Builtin),
            1 => (Chipset::I440fx, other()),
            _ => (Chipset::Q35, other()),
        };
        let plugs = Plugs { chipset, vars: Some(SharedDisk::new(vec![0xff; VARS as usize])), vga_rom: vec![0x55; 3000], ..plugs };
        let layout = Layout::of(chipset, RAM);
        let memory = Arc::new(GuestMemory::new(Parts::new(&layout, &plugs, &firmware).end()).unwrap());
        let board = Board::new(layout, memory.clone(), attention.clone(), plugs, true, &firmware);
        Self { board: SharedBoard::new(board), memory, attention, disks, at: 0, trace: Sha256::new(), seen: Seen::default() }
    }

    /// Saves everything and loads it into a board that was made afresh.
    pub fn move_to_another_board(self, seed: u64) -> Self {
        let mut other = Self::empty(seed);
        let pages = self.memory.checkpoint().unwrap();
        other.memory.restore(&pages).unwrap();
        for (to, from) in other.disks.iter().zip(&self.disks) {
            to.lock().unwrap().bytes.clone_from(&from.lock().unwrap().bytes);
        }
        let saved = self.board.lock().save();
        other.board.lock().load(&saved).unwrap();
        assert_eq!(other.board.lock().save(), saved, "seed {seed}: what was loaded is not what was saved");
        other.at = self.at;
        other.trace = self.trace;
        other
    }

    /// A digest of the board, its memory and disks, and of all answers so far.
    pub fn digest(&self) -> Vec<u8> {
        let mut all = self.trace.clone();
        all.update(self.board.lock().save());
        for n in self.memory.touched() {
            let page = self.memory.page(n).unwrap();
            if page != [0; 4096] {
                all.update(n.to_le_bytes());
                all.update(page);
            }
        }
        for disk in &self.disks {
            all.update(&disk.lock().unwrap().bytes);
        }
        all.finalize().to_vec()
    }

    fn note(&mut self, value: u64) {
        self.trace.update(value.to_le_bytes());
    }

    pub fn step(&mut self, op: &Op) {
        let before: Vec<u64> = self.disks.iter().map(|d| d.lock().unwrap().moved).collect();
        let at = self.at;
        match op {
            Op::In { port, width, .. } => {
                let value = self.board.port_read(at, *port, *width);
                assert_eq!(u64::from(value) & !softmetal_bus::ones(*width), 0, "more bits than were asked for");
                self.note(value.into());
            }
            Op::Out { port, width, value, .. } => self.board.port_write(at, *port, *width, *value),
            Op::Load { addr, width, .. } => {
                let value = self.board.read(at, *addr, *width);
                assert_eq!(value & !softmetal_bus::ones(*width), 0, "more bits than were asked for");
                self.note(value);
            }
            Op::Store { addr, width, value, .. } => self.board.write(at, *addr, *width, *value),
            Op::Rdmsr { msr } => {
                let value = self.board.apic_msr_read(at, *msr);
                self.note(value.map_or(!0, |v| v ^ 1));
            }
            Op::Wrmsr { msr, value } => {
                let ok = self.board.apic_msr_write(at, *msr, *value);
                self.note(ok.into());
            }
            Op::Priority { value } => {
                self.board.set_task_priority(at, *value);
                let now = self.board.task_priority();
                self.note(now.into());
            }
            Op::Ferr { level } => {
                let ignore = self.board.float_error(at, *level);
                self.note(ignore.into());
            }
            Op::Ram { addr, bytes } => self.memory.write(*addr, bytes).unwrap(),
            Op::Pass { count } => self.at += count,
            Op::Skip { ns } => self.board.lock().skip(*ns),
            Op::Input { device, input } => self.board.lock().input(at, *device, input),
        }
        self.settle(op.acknowledges());
        for (n, (disk, before)) in self.disks.iter().zip(before).enumerate() {
            let mut store = disk.lock().unwrap();
            assert!(store.moved - before <= MOST_MOVED, "one access moves {} bytes of a disk", store.moved - before);
            let (reads, writes) = (std::mem::take(&mut store.reads), std::mem::take(&mut store.writes));
            if n == 2 {
                self.seen.scsi_reads += reads;
                self.seen.scsi_writes += writes;
            } else {
                self.seen.disk_reads += reads;
                self.seen.disk_writes += writes;
            }
            self.seen.disk_flushes += std::mem::take(&mut store.flushes);
        }
    }

    /// What a machine does between two instructions.
    fn settle(&mut self, acknowledge: bool) {
        self.at += 1;
        let mut board = self.board.lock();
        let now = board.now(self.at);
        if board.next_timer().is_some_and(|t| t <= now) {
            self.seen.timers += 1;
            board.fire(self.at);
        }
        let mut requests = 0;
        while let Some(request) = board.take_request() {
            requests += 1;
            assert!(requests <= 32, "requests without end");
            match request {
                Request::PowerOff => self.seen.power_offs += 1,
                Request::DebugExit(_) => self.seen.exits += 1,
                Request::Reset | Request::ResetProcessor => {
                    self.seen.resets += 1;
                    board.reset(self.at);
                }
                Request::A20(_) | Request::Remap | Request::Firmware => {}
            }
            self.trace.update(format!("{request:?}"));
        }
        let mut output = 0;
        for (device, bytes) in board.take_output() {
            output += bytes.len();
            self.trace.update(device.0.to_le_bytes());
            self.trace.update(bytes);
        }
        self.seen.output += output as u64;
        assert!(output <= MOST_OUTPUT, "one access puts out {output} bytes");
        drop(board);
        let bits = self.attention.bits();
        self.attention.clear(attention::BOARD | attention::REMAP | attention::CODE);
        self.trace.update((bits & (attention::INTR | attention::NMI)).to_le_bytes());
        if bits & attention::NMI != 0 {
            self.attention.clear(attention::NMI);
            self.seen.nmis += 1;
        }
        if acknowledge && bits & attention::INTR != 0 {
            let vector = self.board.acknowledge(self.at);
            self.seen.interrupts += 1;
            self.note(vector.map_or(!0, u64::from));
        }
    }
}
