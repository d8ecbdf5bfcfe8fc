//! A driver for the tests: rings in the rig's RAM, and the device's registers as a guest uses them.

use super::{VirtioDevice, VirtioPci};
use crate::pci::PciDevice;
use crate::testing::Rig;

/// Descriptor flags.
pub(crate) const READ: u16 = 0;
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;
/// Feature bits.
pub(crate) const INDIRECT_DESC: u64 = 1 << 28;
pub(crate) const EVENT_IDX: u64 = 1 << 29;
pub(crate) const VERSION_1: u64 = 1 << 32;

/// Entries of each ring.
pub(crate) const SIZE: u16 = 8;
const QUEUE_BYTES: u64 = 0x1000;

pub(crate) struct Driver<D> {
    pub rig: Rig,
    pub device: VirtioPci<D>,
    next_desc: u16,
    avail: Vec<u16>,
    seen: Vec<u16>,
}

impl<D: VirtioDevice> Driver<D> {
    /// Resets the device, accepts VERSION_1 and `features`, sets up all queues and starts. Vectors stay off.
    pub fn new(device: VirtioPci<D>, features: u64) -> Self {
        let queues = D::QUEUES.len();
        let mut d = Self { rig: Rig::new(), device, next_desc: 0, avail: vec![0; queues], seen: vec![0; queues] };
        d.start(features);
        d
    }

    pub fn start(&mut self, features: u64) {
        self.next_desc = 0;
        self.avail.fill(0);
        self.seen.fill(0);
        self.device.config_write(&mut self.rig.ctx(), 4, 2, 6);
        self.set(0x14, 1, 0);
        self.set(0x14, 1, 3);
        let features = features | VERSION_1;
        self.set(0x08, 4, 0);
        self.set(0x0c, 4, features & 0xffff_ffff);
        self.set(0x08, 4, 1);
        self.set(0x0c, 4, features >> 32);
        self.set(0x14, 1, 0xb);
        assert_eq!(self.reg(0x14, 1), 0xb);
        for queue in 0..D::QUEUES.len() {
            self.put(Self::base(queue), &[0; QUEUE_BYTES as usize]);
            self.set(0x16, 2, queue as u64);
            self.set(0x18, 2, SIZE.into());
            self.set(0x20, 8, Self::base(queue));
            self.set(0x28, 4, Self::base(queue) + 0x400);
            self.set(0x30, 8, Self::base(queue) + 0x800);
            self.set(0x1c, 2, 1);
        }
        self.set(0x14, 1, 0xf);
    }

    /// Where the rings of `queue` are: the table, at 0x400 the driver's ring, at 0x800 the device's.
    pub fn base(queue: usize) -> u64 {
        0x1_0000 + queue as u64 * QUEUE_BYTES
    }
    pub fn reg(&mut self, offset: u64, width: usize) -> u64 {
        self.rig.read(&mut self.device, 4, offset, width)
    }
    pub fn set(&mut self, offset: u64, width: usize, value: u64) {
        self.rig.write(&mut self.device, 4, offset, width, value);
    }
    pub fn put(&self, addr: u64, bytes: &[u8]) {
        self.rig.memory.write(addr, bytes).unwrap();
    }
    pub fn get(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.rig.memory.read(addr, &mut bytes).unwrap();
        bytes
    }
    pub fn u16_at(&self, addr: u64) -> u16 {
        u16::from_le_bytes(self.get(addr, 2).try_into().unwrap())
    }
    pub fn notify(&mut self, queue: usize) {
        self.set(0x3000 + 4 * queue as u64, 2, queue as u64);
    }

    /// Writes descriptor `index` of the table at `table`.
    pub fn descriptor(&self, table: u64, index: u16, d: (u64, u32, u16), next: u16) {
        let mut bytes = d.0.to_le_bytes().to_vec();
        bytes.extend(d.1.to_le_bytes());
        bytes.extend(d.2.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.put(table + 16 * u64::from(index), &bytes);
    }

    /// Makes the chain that starts at `head` available.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let ring = Self::base(queue) + 0x400;
        let index = self.avail[queue];
        self.put(ring + 4 + 2 * u64::from(index % SIZE), &head.to_le_bytes());
        self.avail[queue] = index.wrapping_add(1);
        self.put(ring + 2, &self.avail[queue].to_le_bytes());
    }

    /// Writes a chain of (address, length, flags) into the table and makes it available; returns its head.
    pub fn chain(&mut self, queue: usize, buffers: &[(u64, u32, u16)]) -> u16 {
        let head = self.next_desc % SIZE;
        for (i, &(addr, len, flags)) in buffers.iter().enumerate() {
            let more = if i + 1 < buffers.len() { NEXT } else { 0 };
            let index = self.next_desc % SIZE;
            self.next_desc = self.next_desc.wrapping_add(1);
            let next = self.next_desc % SIZE;
            self.descriptor(Self::base(queue), index, (addr, len, flags | more), next);
        }
        // A table for each queue: heads are told apart by the order in which chains were made.
        self.offer(queue, head);
        head
    }

    /// The elements (order of use, bytes written) that came into the used ring since the last call.
    pub fn used(&mut self, queue: usize) -> Vec<(u16, u32)> {
        let ring = Self::base(queue) + 0x800;
        let end = self.u16_at(ring + 2);
        let mut elements = Vec::new();
        while self.seen[queue] != end {
            let at = ring + 4 + 8 * u64::from(self.seen[queue] % SIZE);
            let len = u32::from_le_bytes(self.get(at + 4, 4).try_into().unwrap());
            elements.push((self.seen[queue], len));
            self.seen[queue] = self.seen[queue].wrapping_add(1);
        }
        elements
    }
}
