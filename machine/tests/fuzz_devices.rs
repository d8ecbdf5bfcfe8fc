//! Random accesses to every device of the board: nothing a guest does to them panics, hangs, or is done differently the
//! second time.

use std::sync::Arc;

use softmetal_bus::{Attention, BlockBackend, BlockError, CpuBus, GuestMemory, Input};
use softmetal_firmware::Layout;
use softmetal_firmware::layout::{HPET_BASE, IOAPIC_BASE, LAPIC_BASE};
use softmetal_machine::board::{Board, Disk, Plugs, SharedBoard, chips::id};

const RAM: u64 = 4 << 20;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
    /// A number as drivers and attackers write them.
    fn value(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3 => (1 << self.below(64)) - 1,
            4 | 5 => self.below(256),
            6 => self.below(RAM + 0x2000),
            _ => self.next(),
        }
    }
    /// An address in RAM, at its end, or wild.
    fn address(&mut self) -> u64 {
        match self.below(16) {
            0 => self.next(),
            1 => RAM - self.below(64),
            2 => LAPIC_BASE + self.below(0x1000),
            3 => u64::MAX - self.below(4096),
            _ => self.below(RAM) & !0xf,
        }
    }
}

/// A disk in memory.
struct Bytes(Vec<u8>);

impl Bytes {
    fn at(&mut self, offset: u64, len: usize) -> Result<&mut [u8], BlockError> {
        let start = usize::try_from(offset).map_err(|_| BlockError::OutOfRange)?;
        let end = start.checked_add(len).ok_or(BlockError::OutOfRange)?;
        self.0.get_mut(start..end).ok_or(BlockError::OutOfRange)
    }
}

impl BlockBackend for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        buf.copy_from_slice(self.at(offset, buf.len())?);
        Ok(())
    }
    fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), BlockError> {
        self.at(offset, buf.len())?.copy_from_slice(buf);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        Ok(())
    }
}

/// What was reached, so that a fuzzer that reaches nothing fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reached {
    accesses: u64,
    ports: u64,
    config: u64,
    hpet: u64,
    ioapic: u64,
    lapic: u64,
    cards: u64,
    /// Requests that a virtio device has put into a used ring.
    completions: u64,
    interrupts: u64,
    timers: u64,
    requests: u64,
    output: u64,
}

/// A board, and a guest that means no good.
struct Fuzz {
    memory: Arc<GuestMemory>,
    board: SharedBoard,
    random: Random,
    at: u64,
    /// Where cards answer: physical address, or port.
    windows: Vec<(bool, u64)>,
    reached: Reached,
}

const PORTS: [u16; 46] = [
    0x00, 0x04, 0x08, 0x0b, 0x0c, 0x0f, 0x20, 0x21, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0x81, 0x92, 0xa0, 0xa1,
    0xc0, 0xd0, 0xde, 0xe9, 0xf0, 0xf4, 0x2f8, 0x2f9, 0x2fb, 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff, 0xb2, 0xb3, 0x4d0,
    0x4d1, 0x604, 0xcf9, 0x600,
];

impl Fuzz {
    fn new(seed: u64) -> Self {
        let layout = Layout::new(RAM);
        let memory = Arc::new(GuestMemory::new(layout.ram_bytes()).unwrap());
        let attention = Arc::new(Attention::default());
        let disks = (0..2).map(|n| Disk { backend: Box::new(Bytes(vec![n; 1 << 20])) }).collect();
        let plugs = Plugs { disks, console: true, rtc: 1_000_000_000, seed };
        let board = SharedBoard::new(Board::new(layout, memory.clone(), attention, plugs, true));
        let random = Random(seed | 1);
        Self { memory, board, random, at: 0, windows: Vec::new(), reached: Reached::default() }
    }

    fn port_read(&mut self, port: u16, width: usize) -> u32 {
        self.reached.accesses += 1;
        self.board.port_read(self.at, port, width)
    }

    fn port_write(&mut self, port: u16, width: usize, value: u32) {
        self.reached.accesses += 1;
        self.board.port_write(self.at, port, width, value);
    }

    fn config_read(&mut self, slot: u8, function: u8, register: u8) -> u32 {
        self.select(slot, function, register);
        self.port_read(0xcfc, 4)
    }

    fn config_write(&mut self, slot: u8, function: u8, register: u8, value: u32) {
        self.select(slot, function, register);
        self.port_write(0xcfc, 4, value);
    }

    fn select(&mut self, slot: u8, function: u8, register: u8) {
        self.port_write(0xcf8, 4, 1 << 31 | u32::from(slot) << 11 | u32::from(function) << 8 | u32::from(register & 0xfc));
    }

    /// A random load or store in device memory.
    fn touch(&mut self, addr: u64) {
        self.reached.accesses += 1;
        let width = self.random.of(&[1, 2, 4, 4, 4, 8]);
        if self.random.below(3) == 0 {
            self.board.read(self.at, addr, width);
        } else {
            let value = self.random.value();
            self.board.write(self.at, addr, width, value);
        }
    }

    fn touch_port(&mut self, port: u16) {
        let width = self.random.of(&[1, 1, 1, 2, 4]);
        if self.random.below(2) == 0 {
            self.port_read(port, width);
        } else {
            let value = self.random.value() as u32;
            self.port_write(port, width, value);
        }
    }

    /// Finds the cards' windows as a driver does, with decoding switched on.
    fn scan(&mut self) {
        self.windows.clear();
        for slot in 1..8 {
            for function in [0, 1, 3] {
                if self.config_read(slot, function, 0) == !0 {
                    continue;
                }
                let command = self.config_read(slot, function, 4) | 7;
                self.config_write(slot, function, 4, command);
                for bar in 0..6 {
                    let value = self.config_read(slot, function, 0x10 + bar * 4);
                    match value & 1 {
                        0 if value >> 12 != 0 => self.windows.push((false, u64::from(value & !0xf))),
                        1 if value >> 4 != 0 => self.windows.push((true, u64::from(value & !3))),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Sets a virtio device up with its queues in random places full of random descriptors, and notifies it.
    fn drive_virtio(&mut self) {
        let slot = 3 + self.random.below(4) as u8;
        // A place where nothing else is, so that the device really answers.
        let base = 0xe000_0000 + u64::from(slot) * 0x10_0000;
        self.config_write(slot, 0, 4, 0);
        for bar in 0..6 {
            let is_memory = self.config_read(slot, 0, 0x10 + bar * 4) & 1 == 0;
            if is_memory {
                self.config_write(
                    slot,
                    0,
                    0x10 + bar * 4,
                    if bar % 2 == 0 || bar == 1 { base as u32 + u32::from(bar) * 0x1_0000 } else { 0 },
                );
            }
        }
        self.config_write(slot, 0, 4, 7);
        // The capabilities say where the structures are (virtio 1.2, 4.1.4).
        let (mut common, mut notify) = (None, None);
        let mut at = self.config_read(slot, 0, 0x34) as u8;
        for _ in 0..16 {
            if at < 0x40 {
                break;
            }
            let head = self.config_read(slot, 0, at);
            if head as u8 == 9 {
                let bar = self.config_read(slot, 0, at + 4) as u8;
                let offset = u64::from(self.config_read(slot, 0, at + 8));
                let start = u64::from(self.config_read(slot, 0, 0x10 + (bar % 6) * 4) & !0xf) + offset;
                match head >> 24 {
                    1 => common = Some(start),
                    2 => notify = Some((start, u64::from(self.config_read(slot, 0, at + 16)))),
                    _ => {}
                }
            }
            at = (head >> 8) as u8;
        }
        let (Some(common), Some((notify, multiplier))) = (common, notify) else { return };
        let (now, board) = (self.at, &mut self.board);
        board.write(now, common + 0x14, 1, 0);
        for status in [1, 3] {
            board.write(now, common + 0x14, 1, status);
        }
        for half in 0..2 {
            let (mask, accept) = (self.random.next(), self.random.below(4) != 0);
            board.write(now, common, 4, half);
            let offered = board.read(now, common + 4, 4);
            board.write(now, common + 8, 4, half);
            // VIRTIO_F_VERSION_1 must be taken.
            board.write(now, common + 0xc, 4, if accept { offered & (mask | 1) } else { mask });
        }
        board.write(now, common + 0x14, 1, 0xb);
        let queue = self.random.below(3);
        let size = 1 << self.random.below(9);
        let mut rings = [0; 3];
        for ring in &mut rings {
            *ring = self.random.address();
        }
        board.write(now, common + 0x16, 2, queue);
        board.write(now, common + 0x18, 2, size);
        for (n, ring) in rings.iter().enumerate() {
            board.write(now, common + 0x20 + n as u64 * 8, 4, ring & 0xffff_ffff);
            board.write(now, common + 0x24 + n as u64 * 8, 4, ring >> 32);
        }
        board.write(now, common + 0x1c, 2, 1);
        board.write(now, common + 0x14, 1, 0xf);
        let offset = board.read(now, common + 0x1e, 2);
        self.reached.accesses += 24;

        // Descriptors that loop, overlap, end nowhere; now and then one that is right.
        let [descriptors, available, used] = rings;
        let shape = self.random.below(3);
        for n in 0..size.min(64) {
            let mut bytes = [0; 16];
            let (addr, len, flags, next) = if shape == 0 {
                // Header, data, status, as of a block request, or a single buffer.
                let n3 = n % 3;
                let flags = [1, self.random.below(2) << 1 | 1, 2][n3 as usize];
                (0x1000 + n * 0x400, [16, 512, 1][n3 as usize], flags, n + 1)
            } else {
                let len = if self.random.below(4) == 0 { self.random.value() } else { self.random.below(2048) };
                (self.random.address(), len, self.random.below(8), self.random.below(size + 2))
            };
            bytes[..8].copy_from_slice(&addr.to_le_bytes());
            bytes[8..12].copy_from_slice(&(len as u32).to_le_bytes());
            bytes[12..14].copy_from_slice(&(flags as u16).to_le_bytes());
            bytes[14..].copy_from_slice(&(next as u16).to_le_bytes());
            // Rings outside of RAM are the device's problem.
            let _ = self.memory.write(descriptors.wrapping_add(n * 16), &bytes);
        }
        for n in 0..64 {
            let request = [self.random.below(2) as u32, 0, self.random.below(1 << 12) as u32, 0].map(u32::to_le_bytes).concat();
            let _ = self.memory.write(0x1000 + n * 0x400, &request);
        }
        let mut head = [0; 4];
        head[2..].copy_from_slice(&(self.random.below(8) as u16 + 1).to_le_bytes());
        let _ = self.memory.write(available, &head);
        for n in 0..size.min(16) {
            let entry = if shape == 0 { n * 3 % size } else { self.random.below(size + 1) };
            let _ = self.memory.write(available.wrapping_add(4 + n * 2), &(entry as u16).to_le_bytes());
        }
        let _ = self.memory.write(used, &[0; 4]);
        self.reached.accesses += 1;
        self.board.write(self.at, notify + offset * multiplier, 2, queue);
        self.pass();
        let mut index = [0; 2];
        if self.memory.read(used.wrapping_add(2), &mut index).is_ok() {
            self.reached.completions += u64::from(u16::from_le_bytes(index).min(64));
        }
    }

    /// Time passes, and what is due happens.
    fn pass(&mut self) {
        self.at += self.random.below(50_000);
        let mut board = self.board.lock();
        if self.random.below(64) == 0 {
            board.skip(self.random.below(1 << 32));
        }
        if board.next_timer().is_some_and(|t| board.count_at(t) <= self.at) {
            self.reached.timers += 1;
        }
        board.fire(self.at);
        while board.take_request().is_some() {
            self.reached.requests += 1;
        }
        self.reached.output += board.take_output().iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        drop(board);
        if self.board.acknowledge(self.at).is_some() {
            self.reached.interrupts += 1;
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..=29 => {
                let port = self.random.of(&PORTS);
                self.reached.ports += 1;
                self.touch_port(port);
            }
            30..=34 => {
                let port = self.random.next() as u16;
                self.touch_port(port);
            }
            35..=44 => {
                let (slot, function) = (self.random.below(9) as u8, self.random.of(&[0, 0, 0, 1, 3, 7]));
                let register = self.random.below(256) as u8;
                self.reached.config += 1;
                self.select(slot, function, register);
                let port = 0xcfc + u16::from(register & 3);
                self.touch_port(port);
            }
            45..=54 => {
                let offset = self.random.of(&[0, 0x10, 0x20, 0xf0, 0x100, 0x108, 0x110, 0x120, 0x128, 0x140]) + self.random.below(8);
                self.reached.hpet += 1;
                self.touch(HPET_BASE + offset);
            }
            55..=61 => {
                let offset = self.random.of(&[0, 0x10, 0x10, 0x40, 1]);
                self.reached.ioapic += 1;
                self.touch(IOAPIC_BASE + offset);
            }
            62..=73 => {
                let offset = self.random.below(0x40) << 4;
                self.reached.lapic += 1;
                self.touch(LAPIC_BASE + offset);
            }
            74..=75 => {
                let msr = self.random.of(&[0x1b, 0x6e0, 0x800, 0x808, 0x80b, 0x830, 0x832, 0x838]) + self.random.below(16) as u32;
                self.reached.accesses += 1;
                if self.random.below(2) == 0 {
                    self.board.apic_msr_read(self.at, msr);
                } else {
                    let value = self.random.value();
                    self.board.apic_msr_write(self.at, msr, value);
                }
            }
            76..=89 => {
                let n = self.windows.len() as u64;
                if n > 0 {
                    let (is_port, base) = self.windows[self.random.below(n) as usize];
                    let offset = self.random.of(&[self.at & 0x3f, self.at & 0xfff, 0x1000 + (self.at & 0xff), 0x3000]);
                    self.reached.cards += 1;
                    if is_port { self.touch_port((base + (offset & 0x3f)) as u16) } else { self.touch(base + offset) }
                }
            }
            90 => {
                let addr = self.random.value();
                self.touch(addr);
            }
            91 => {
                let device = self.random.of(&[id::COM1, id::COM2, id::KBC, id::PM]);
                let input = match self.random.below(3) {
                    0 => Input::Bytes(vec![self.random.next() as u8; self.random.below(40) as usize]),
                    1 => Input::Scancodes(vec![self.random.next() as u8; self.random.below(40) as usize]),
                    _ => Input::PowerButton,
                };
                let at = self.at;
                self.board.lock().input(at, device, &input);
            }
            92 if self.random.below(8) == 0 => self.scan(),
            93 => self.drive_virtio(),
            94 if self.random.below(200) == 0 => {
                let at = self.at;
                self.board.lock().reset(at);
            }
            95..=96 => {
                let addr = self.random.address();
                let bytes = self.random.next().to_le_bytes();
                let _ = self.memory.write(addr, &bytes);
            }
            _ => self.pass(),
        }
    }

    fn run(&mut self, accesses: u64) {
        let until = self.reached.accesses + accesses;
        while self.reached.accesses < until {
            self.step();
        }
    }

    /// All that there is to know of it.
    fn state(&self) -> (Vec<u8>, Vec<u8>) {
        let mut memory = vec![0; self.memory.len() as usize];
        self.memory.read(0, &mut memory).unwrap();
        (self.board.lock().save(), memory)
    }
}

/// A million accesses. Each seed is a test of its own, so that they run side by side.
fn survives(seed: u64) {
    let mut fuzz = Fuzz::new(seed);
    fuzz.scan();
    fuzz.run(1_000_000);
    let r = fuzz.reached;
    assert!(r.accesses >= 1_000_000, "{r:?}");
    for (what, n) in [("ports", r.ports), ("config", r.config), ("HPET", r.hpet), ("IOAPIC", r.ioapic), ("LAPIC", r.lapic)] {
        assert!(n > 10_000, "{what}: {r:?}");
    }
    assert!(r.cards > 5_000 && r.completions > 100, "{r:?}");
    assert!(r.interrupts > 100 && r.timers > 100 && r.requests > 100 && r.output > 100, "{r:?}");
}

#[test]
fn a_million_accesses_with_one_seed() {
    survives(1);
}

#[test]
fn a_million_accesses_with_a_second_seed() {
    survives(0xdead_beef);
}

#[test]
fn a_million_accesses_with_a_third_seed() {
    survives(0x0123_4567_89ab_cdef);
}

#[test]
fn the_same_accesses_twice_and_from_a_saved_state_end_the_same() {
    let mut first = Fuzz::new(77);
    first.scan();
    first.run(30_000);
    let (board, memory) = first.state();
    let mut second = Fuzz::new(77);
    second.scan();
    second.run(30_000);
    assert!(second.state() == (board.clone(), memory.clone()), "two runs differ");

    // Into a board that has done something else; disks are not part of a board's state.
    let mut other = Fuzz::new(77);
    other.scan();
    other.run(30_000);
    other.board.lock().load(&board).unwrap();
    assert!(other.board.lock().save() == board, "saved, loaded, saved again");
    first.run(30_000);
    other.run(30_000);
    assert_eq!(first.reached, other.reached);
    assert!(first.state() == other.state(), "a loaded board goes on differently");
}
