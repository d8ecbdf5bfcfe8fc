//! Drivers of the virtio cards, good ones and hostile ones.

use super::{BUFFERS, CARDS, COMMON, Class, Generator, NOTIFY};

/// Indices of the SCSI host and of the console among the cards.
const SCSI: usize = 2;
const CONSOLE: usize = 4;
/// How many queues each card has.
const QUEUES: [u64; CARDS.len()] = [1, 1, 3, 1, 2];
/// The most that any of them has.
const MOST_QUEUES: u64 = 4;
/// Bytes of RAM, away from both ends, for the rings of each queue.
const RINGS: u64 = 0x20_0000;
const RING: u64 = 0x4000;
/// There: the header of a SCSI request, data, the status of any request.
const SCSI_HEADER: u64 = BUFFERS + 0x400;
const DATA: u64 = BUFFERS + 0x1000;
const STATUS: u64 = BUFFERS + 0x8000;

impl Generator {
    /// A driver that sets a card up, fills its rings with good and hostile requests, and notifies it.
    pub(super) fn drive(&mut self, card: usize) {
        let common = self.bars[card][1] + COMMON;
        let class = Class::VirtioCommon;
        let set = |g: &mut Self, at: u64, width, value| g.store(class, common + at, width, value);
        let hostile = self.rng.one_in(3);
        set(self, 0x14, 1, 0);
        set(self, 0x14, 1, 3);
        for half in 0..2 {
            let features = if half == 1 { 1 } else { self.rng.pick(&[0, 1 << 28, 3 << 28, 3 << 28 | 1 << 9]) };
            set(self, 8, 4, half);
            set(self, 0xc, 4, features);
        }
        set(self, 0x14, 1, 0xb);
        for queue in 0..QUEUES[card] {
            let size = self.rng.pick(&[1, 2, 8, 16, 64]);
            let base = RINGS + (card as u64 * MOST_QUEUES + queue) * RING;
            let (mut desc, mut driver, mut device) = (base, base + 0x1000, base + 0x2000);
            if hostile && self.rng.one_in(3) {
                for ring in [&mut desc, &mut driver, &mut device] {
                    if self.rng.one_in(3) {
                        *ring = self.wild() & !15;
                    }
                }
            }
            let vector = self.rng.pick(&[0, 1, queue, 0xffff]);
            for (at, width, value) in
                [(0x16, 2, queue), (0x18, 2, size), (0x1a, 2, vector), (0x20, 8, desc), (0x28, 8, driver), (0x30, 8, device), (0x1c, 2, 1)]
            {
                set(self, at, width, value);
            }
            self.fill_rings(card, queue, size, base, hostile);
        }
        set(self, 0x10, 2, 0);
        set(self, 0x14, 1, 0xf);
        for queue in 0..QUEUES[card] {
            self.store(Class::VirtioNotify, self.bars[card][1] + NOTIFY + 4 * queue, 2, queue);
        }
    }

    fn fill_rings(&mut self, card: usize, queue: u64, size: u64, base: u64, hostile: bool) {
        let mut table = Vec::new();
        let n = size as usize;
        let writes = self.rng.one_in(2);
        for i in 0..size {
            let descriptor = match i % 3 {
                _ if hostile => self.descriptor(base, size),
                step if card == SCSI => self.scsi_descriptor(step, i, writes),
                // Three descriptors are a request of a disk, and as good for the others: header, data, status.
                0 => (BUFFERS, 16, 1, i + 1),
                1 => (DATA, self.rng.pick(&[512, 1024, 4096]), 1 | self.direction(card, queue), i + 1),
                _ => (STATUS, 1, 2, 0),
            };
            let (addr, len, flags, next) = descriptor;
            table.extend(addr.to_le_bytes());
            table.extend((len as u32).to_le_bytes());
            table.extend((flags as u16).to_le_bytes());
            table.extend((next as u16).to_le_bytes());
        }
        self.ram(base, table);
        let kind = if self.rng.one_in(8) { self.rng.number() } else { self.rng.pick(&[0, 0, 1, 1, 4, 8]) };
        let sector = if self.rng.one_in(4) { self.rng.number() } else { self.rng.below(520) };
        let header = [(kind as u32).to_le_bytes(), [0; 4]].concat();
        self.ram(BUFFERS, [header, sector.to_le_bytes().to_vec()].concat());
        if card == SCSI {
            self.scsi_header(writes);
        }
        let waiting = if hostile { self.rng.number() as u16 } else { (n / 3).max(1) as u16 };
        let mut ring = [self.rng.pick(&[0, 0, 1, 0xffff]), waiting].map(u16::to_le_bytes).concat();
        for i in 0..size {
            let head = if hostile { self.rng.number() as u16 } else { (i * 3 % size) as u16 };
            ring.extend(head.to_le_bytes());
        }
        ring.extend((self.rng.number() as u16).to_le_bytes());
        self.ram(base + 0x1000, ring);
    }

    /// The flag of a request's data.
    fn direction(&mut self, card: usize, queue: u64) -> u64 {
        match (card, queue) {
            (0 | 1, _) => self.rng.pick(&[0, 2]),
            (CONSOLE, 1) => 0,
            _ => 2,
        }
    }

    /// Descriptor `i` of a good SCSI request, the header first: data to be written comes before the response, and data that is
    /// read after it.
    fn scsi_descriptor(&mut self, step: u64, i: u64, writes: bool) -> (u64, u64, u64, u64) {
        const HEADER: u64 = 51;
        const RESPONSE: u64 = 108;
        let data = self.rng.pick(&[512, 2048, 4096]);
        match (step, writes) {
            (0, _) => (SCSI_HEADER, HEADER, 1, i + 1),
            (1, true) => (DATA, data, 1, i + 1),
            (1, false) => (STATUS, RESPONSE, 3, i + 1),
            (_, true) => (STATUS, RESPONSE, 2, 0),
            (_, false) => (DATA, data, 2, 0),
        }
    }

    /// The header of SCSI requests: a unit that is mostly there, and a packet.
    fn scsi_header(&mut self, writes: bool) {
        // Not START STOP UNIT: whether a medium is in its drive is not part of a board's state.
        let commands = if writes {
            &[0x2a, 0x2a, 0x8a, 0x35, 0x42, 0x15, 0x0a, 0x41][..]
        } else {
            &[0x28, 0x28, 0x88, 0x12, 0xa0, 0x1a, 0x9e, 0x43, 0x25]
        };
        let target = if self.rng.one_in(8) { self.rng.number() as u8 } else { 0 };
        let unit = if self.rng.one_in(8) { self.rng.number() as u8 } else { u8::from(self.rng.one_in(4)) };
        let mut header = vec![0; 51];
        header[..4].copy_from_slice(&[1, target, 0x40, unit]);
        let block = if self.rng.one_in(8) { self.rng.number() } else { self.rng.below(520) };
        let count = self.rng.pick(&[1, 1, 2, 4, 8, 0xffff]);
        let packet = &mut header[19..35];
        packet[0] = self.rng.pick(commands);
        if packet[0] >= 0x80 && packet[0] != 0xa0 {
            packet[2..10].copy_from_slice(&block.to_be_bytes());
            packet[10..14].copy_from_slice(&u32::from(count).to_be_bytes());
        } else {
            packet[2..6].copy_from_slice(&(block as u32).to_be_bytes());
            packet[7..9].copy_from_slice(&u16::to_be_bytes(count));
        }
        if self.rng.one_in(4) {
            let at = 1 + self.rng.below(15) as usize;
            packet[at] = self.rng.number() as u8;
        }
        self.ram(SCSI_HEADER, header);
    }

    /// A descriptor that may point anywhere: to itself, into the rings, to an indirect table that holds indirect tables.
    fn descriptor(&mut self, base: u64, size: u64) -> (u64, u64, u64, u64) {
        let addr = match self.rng.below(4) {
            0 => base,
            1 => base + 0x1000 + self.rng.below(0x2000),
            2 => self.wild(),
            _ => BUFFERS + self.rng.below(0x1_0000),
        };
        let len = match self.rng.below(4) {
            0 => self.rng.number(),
            1 => 16 * self.rng.pick(&[1, 2, size, 1024, 1025]),
            2 => 0xffff_ffff,
            _ => self.rng.below(8192),
        };
        let flags = if self.rng.one_in(8) { self.rng.number() } else { self.rng.pick(&[0, 1, 1, 2, 3, 3, 4, 5]) };
        let next = if self.rng.one_in(4) { self.rng.number() } else { self.rng.below(size) };
        (addr, len, flags, next)
    }
}
