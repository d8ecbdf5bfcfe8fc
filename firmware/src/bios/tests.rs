//! Services against a board that answers anything, called with any registers, over any contents of memory.

use proptest::prelude::*;
use softmetal_bus::{Drive, SharedDisk};

use super::*;

const MEMORY: usize = 0x11_0000;
const VIDEO: usize = 1 << 20;
/// More accesses than any service needs, but for those that draw a whole screen.
const MOST_ACCESSES: u64 = 20_000_000;

struct Board {
    memory: Vec<u8>,
    video: Vec<u8>,
    drives: Drives,
    layout: Layout,
    /// The state of a random generator (xorshift), which ports answer from.
    random: u64,
    accesses: u64,
}

impl Board {
    fn new(seed: u64) -> Self {
        let disk = |bytes: usize| SharedDisk::new(vec![0x5A; bytes]);
        let drives = Drives {
            disks: vec![disk(1 << 20), disk(700)],
            cdroms: vec![Drive::new(), Drive::with(disk(64 << 10))],
            floppies: vec![Drive::with(disk(360 << 10)), Drive::new()],
            boot: vec![BootDevice::Net, BootDevice::Cdrom, BootDevice::Floppy, BootDevice::Disk],
        };
        let mut board =
            Self { memory: vec![0; MEMORY], video: vec![0; VIDEO], drives, layout: Layout::new(16 << 20), random: seed | 1, accesses: 0 };
        for at in 0x400..0x600 {
            board.memory[at] = board.next() as u8;
        }
        for at in EBDA as usize..EBDA as usize + 0x400 {
            board.memory[at] = board.next() as u8;
        }
        // Now and then a sane mode, so that drawing is reached.
        if board.next() % 2 == 0 {
            board.memory[0x449] = (board.next() % 0x14) as u8;
        }
        board
    }

    fn next(&mut self) -> u64 {
        self.accesses += 1;
        assert!(self.accesses < MOST_ACCESSES, "a service without end");
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn copy_out(from: &[u8], at: u64, buf: &mut [u8]) {
        for (n, byte) in buf.iter_mut().enumerate() {
            *byte = usize::try_from(at.wrapping_add(n as u64)).ok().and_then(|at| from.get(at)).copied().unwrap_or(0xFF);
        }
    }

    fn copy_in(to: &mut [u8], at: u64, bytes: &[u8]) {
        for (n, byte) in bytes.iter().enumerate() {
            if let Some(place) = usize::try_from(at.wrapping_add(n as u64)).ok().and_then(|at| to.get_mut(at)) {
                *place = *byte;
            }
        }
    }
}

impl Platform for Board {
    fn port_in(&mut self, _: u16, _: usize) -> u32 {
        self.next() as u32
    }
    fn port_out(&mut self, _: u16, _: usize, _: u32) {
        self.next();
    }
    fn read(&mut self, linear: u32, buf: &mut [u8]) {
        self.read_physical(linear.into(), buf);
    }
    fn write(&mut self, linear: u32, bytes: &[u8]) {
        self.write_physical(linear.into(), bytes);
    }
    fn read_physical(&mut self, address: u64, buf: &mut [u8]) {
        self.next();
        Self::copy_out(&self.memory, address, buf);
    }
    fn write_physical(&mut self, address: u64, bytes: &[u8]) {
        self.next();
        Self::copy_in(&mut self.memory, address, bytes);
    }
    fn video_len(&self) -> u64 {
        VIDEO as u64
    }
    fn read_video(&mut self, at: u64, buf: &mut [u8]) {
        self.next();
        Self::copy_out(&self.video, at, buf);
    }
    fn write_video(&mut self, at: u64, bytes: &[u8]) {
        self.next();
        Self::copy_in(&mut self.video, at, bytes);
    }
    fn framebuffer(&self) -> u32 {
        0xE000_0000
    }
    fn edid(&self) -> [u8; 128] {
        [0; 128]
    }
    fn pause(&mut self, _: u64) {}
    fn drives(&self) -> &Drives {
        &self.drives
    }
    fn layout(&self) -> &Layout {
        &self.layout
    }
}

/// Vectors that have services.
const VECTORS: [u8; 14] = [0x10, 0x10, 0x10, 0x11, 0x12, 0x13, 0x13, 0x14, 0x15, 0x16, 0x18, 0x19, 0x1A, 0x40];

fn call(n: u8) -> Call {
    match n {
        0..=13 => Call::Int(VECTORS[usize::from(n)]),
        14 => Call::Tick,
        15 => Call::Key,
        16 => Call::Clock,
        17 => Call::Mouse,
        18 => Call::Pci32,
        19 => Call::Bios32,
        20 => Call::Resumed(0x15),
        21 => Call::Apm,
        _ => Call::Post,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn nothing_a_guest_passes_makes_a_service_fail(
        seed in any::<u64>(),
        calls in prop::collection::vec((0u8..23, any::<[u32; 7]>(), any::<[u32; 2]>()), 1..6),
    ) {
        let mut board = Board::new(seed);
        for (n, [a, b, c, d, si, di, bp], [ds, es]) in calls {
            // Functions are chosen evenly among those that may exist.
            let function = (a >> 8 & 0xFF) % 0x60;
            let a = if n < 3 { a & !0xFF00 | (function % 0x1C) << 8 } else if n < 13 && a & 3 != 0 { a & !0xFF00 | function << 8 } else { a };
            let a = if n == 0 { a & !0xFFFF | 0x4F00 | (a % 0x18) } else { a };
            let seg = |base| Seg { selector: (base >> 4) as u16, base };
            let mut regs = Registers {
                a: Reg(a), b: Reg(b), c: Reg(c), d: Reg(d), si: Reg(si), di: Reg(di), bp: Reg(bp),
                ds: seg(ds), es: seg(es), flags: 2,
            };
            board.accesses = 0;
            serve(&mut board, call(n), &mut regs);
        }
    }
}
