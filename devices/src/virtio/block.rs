//! The virtio block device (virtio 1.2, 5.2).

use serde::{Deserialize, Serialize};
use softmetal_bus::{BlockBackend, BlockError, Ctx};

use super::flush::Flushes;
use super::queue::{Broken, Chain, Fault, Mover, Queue};
use super::{VirtioDevice, plain_state};

const SECTOR: u64 = 512;
const QUEUE_SIZE: u16 = 256;
/// Buffers of data in one request; header and status need one descriptor each.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Bytes moved at a time between the guest and a backend that cannot reach guest memory.
const BUFFER: usize = 256 << 10;
/// Most data in one request. Drivers stay far below; it bounds the time that one request takes.
const MAX_REQUEST: u64 = 32 << 20;
/// Most reads that wait for the host at a time: no driver has more.
const MOST_READS: usize = 1024;
/// The timer of work on the host.
const TIMER: u32 = 0;
/// Length of the ID string.
const ID_LEN: usize = 20;

const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_MQ: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

/// Request queues; a driver takes as many as it has processors.
const QUEUES: usize = 4;
/// Most sectors of one range to discard or to zero, and of all ranges of a request.
const MAX_RANGE_SECTORS: u32 = 1 << 19;
/// Most ranges in a request.
const MAX_RANGES: u32 = 64;
/// What a range to discard should be aligned to, in sectors: the usual cluster of an image.
const DISCARD_ALIGNMENT: u32 = 128;
/// Bytes of a range: sector, number of sectors, flags.
const RANGE: usize = 16;

mod request {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// How a request failed, as its status byte says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Io = 1,
    Unsupported = 2,
}

/// What of a request is done.
enum Done {
    All,
    /// It ends with a flush, which is still to be made.
    Flush,
    /// Nothing: it reads from the disk, which may take the host long.
    Nothing,
}

impl From<Fault> for Failure {
    fn from(_: Fault) -> Self {
        Self::Io
    }
}

impl From<BlockError> for Failure {
    fn from(error: BlockError) -> Self {
        log::debug!("virtio-blk: {error}");
        Self::Io
    }
}

/// A disk over a [`BlockBackend`].
pub struct VirtioBlk {
    id: [u8; ID_LEN],
    read_only: bool,
    backend: Box<dyn BlockBackend>,
    mover: Mover,
    /// Reused from request to request.
    chain: Chain,
    state: State,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The driver has not accepted flush commands: each write must be durable when it completes.
    write_through: bool,
    flushes: Flushes<Held>,
    /// Reads that wait for the host.
    reads: Vec<Reading>,
}

/// A read that waits for the host: its queue, and the descriptor with which it begins.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Reading {
    queue: usize,
    head: u16,
}

/// A flush request that has not ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Held {
    queue: usize,
    head: u16,
    /// Where its status byte goes.
    status: u64,
}

impl VirtioBlk {
    /// The disk `backend`; of `serial` the first 20 bytes count. Read-only if `read_only` or the backend says so.
    #[must_use]
    pub fn new(backend: Box<dyn BlockBackend>, serial: String, read_only: bool) -> Self {
        let mut id = [0; ID_LEN];
        for (byte, &c) in id.iter_mut().zip(serial.as_bytes()) {
            *byte = c;
        }
        Self {
            id,
            read_only: read_only || backend.read_only(),
            backend,
            mover: Mover::new(BUFFER),
            chain: Chain::default(),
            state: State::default(),
        }
    }

    /// The backend, for the host's own needs (flush at exit).
    pub fn backend_mut(&mut self) -> &mut dyn BlockBackend {
        &mut *self.backend
    }

    fn sectors(&self) -> u64 {
        self.backend.size() / SECTOR
    }

    /// The byte offset of a transfer of `len` bytes at `sector`, if it lies on the disk and is of whole sectors.
    fn place(&self, sector: u64, len: u64) -> Result<u64, Failure> {
        let end = sector.checked_add(len / SECTOR);
        if len % SECTOR != 0 || len > MAX_REQUEST || end.is_none_or(|end| end > self.sectors()) {
            log::warn!("virtio-blk: {len} bytes at sector {sector:#x} refused");
            return Err(Failure::Io);
        }
        Ok(sector * SECTOR)
    }

    /// Carries out the request of `chain`, from queue `queue`, and returns how many bytes were written to its buffers;
    /// `None` if it has not ended. If it `may_wait`, a read waits for the host where that sets the pace.
    fn request(&mut self, ctx: &mut Ctx, queue: usize, chain: &mut Chain, may_wait: bool) -> Option<u32> {
        let Some(status) = chain.writable.take_last_byte() else {
            log::warn!("virtio-blk: a request without room for its status");
            return Some(0);
        };
        let room = chain.writable.left();
        let may_wait = may_wait && ctx.host_paced && self.state.reads.len() < MOST_READS;
        let result = match self.execute(ctx, chain, may_wait) {
            Ok(Done::Nothing) => {
                self.state.reads.push(Reading { queue, head: chain.head() });
                ctx.arm_host(TIMER);
                return None;
            }
            Ok(Done::Flush) if self.state.flushes.has_room() => {
                let held = Held { queue, head: chain.head(), status };
                self.state.flushes.hold(ctx, held, |_| self.backend.begin_flush());
                return None;
            }
            Ok(Done::Flush) => Err(Failure::Io),
            Ok(Done::All) => Ok(()),
            Err(failure) => Err(failure),
        };
        // Of what was asked for only the part that was written counts; a request over 4 GiB has failed anyway.
        let written = (room - chain.writable.left()) as u32;
        let code = result.map_or_else(|failure| failure as u8, |()| 0);
        Some(if ctx.dma_write(status, &[code]) { written.saturating_add(1) } else { written })
    }

    fn execute(&mut self, ctx: &Ctx, chain: &mut Chain, may_wait: bool) -> Result<Done, Failure> {
        let mut header = [0; 16];
        if chain.readable.read(ctx, &mut header)? < header.len() {
            log::warn!("virtio-blk: a request with a short header");
            return Err(Failure::Io);
        }
        let header = u128::from_le_bytes(header);
        let (kind, sector) = (header as u32, (header >> 64) as u64);
        match kind {
            request::IN => {
                let len = chain.writable.left();
                let at = self.place(sector, len)?;
                if may_wait {
                    self.backend.begin_read(at, len);
                    return Ok(Done::Nothing);
                }
                chain.writable.fill_from_disk(ctx, &mut self.mover, len, (&mut *self.backend, at), Failure::from)?;
            }
            request::OUT => {
                if self.read_only {
                    return Err(BlockError::ReadOnly.into());
                }
                let len = chain.readable.left();
                let at = self.place(sector, len)?;
                chain.readable.drain_to_disk(ctx, &mut self.mover, len, (&mut *self.backend, at), Failure::from)?;
                return Ok(self.written());
            }
            request::FLUSH => return Ok(Done::Flush),
            request::GET_ID => {
                chain.writable.write(ctx, &self.id)?;
            }
            request::DISCARD | request::WRITE_ZEROES => {
                self.ranges(ctx, chain, kind)?;
                return Ok(self.written());
            }
            _ => {
                log::debug!("virtio-blk: request type {kind} is not supported");
                return Err(Failure::Unsupported);
            }
        }
        Ok(Done::All)
    }

    /// Discards or zeroes the ranges that the request lists; all are looked at before the first is touched.
    fn ranges(&mut self, ctx: &Ctx, chain: &mut Chain, kind: u32) -> Result<(), Failure> {
        if self.read_only {
            return Err(BlockError::ReadOnly.into());
        }
        let count = chain.readable.left() / RANGE as u64;
        if chain.readable.left() % RANGE as u64 != 0 || count > MAX_RANGES.into() {
            log::warn!("virtio-blk: a list of {} bytes of ranges refused", chain.readable.left());
            return Err(Failure::Io);
        }
        let mut ranges = Vec::with_capacity(count as usize);
        let mut total = 0;
        for _ in 0..count {
            let mut range = [0; RANGE];
            chain.readable.read(ctx, &mut range)?;
            let range = u128::from_le_bytes(range);
            let (sector, sectors, flags) = (range as u64, (range >> 64) as u32, (range >> 96) as u32);
            // Bit 0 of the flags is "unmap", which only zeroing knows; the other bits are reserved.
            if flags & !u32::from(kind == request::WRITE_ZEROES) != 0 {
                return Err(Failure::Unsupported);
            }
            total += u64::from(sectors);
            let end = sector.checked_add(sectors.into());
            if total > MAX_RANGE_SECTORS.into() || end.is_none_or(|end| end > self.sectors()) {
                log::warn!("virtio-blk: a range of {sectors} sectors at sector {sector:#x} refused");
                return Err(Failure::Io);
            }
            ranges.push((sector * SECTOR, u64::from(sectors) * SECTOR));
        }
        for (at, len) in ranges {
            match kind {
                request::DISCARD => self.backend.discard(at, len)?,
                _ => self.backend.write_zeroes(at, len)?,
            }
        }
        Ok(())
    }

    /// Makes the reads that have waited for the host.
    fn end_reads(&mut self, ctx: &mut Ctx, queues: &mut [Queue], reads: &[Reading]) -> Result<(), Broken> {
        let mut chain = std::mem::take(&mut self.chain);
        for read in reads {
            // Saved state may name a queue that is not there.
            let Some(queue) = queues.get_mut(read.queue) else { continue };
            queue.again(ctx, read.head, &mut chain)?;
            if let Some(written) = self.request(ctx, read.queue, &mut chain, false) {
                queue.push(ctx, &chain, written)?;
            }
        }
        self.chain = chain;
        Ok(())
    }

    /// What of a request is done once its data has been written.
    fn written(&self) -> Done {
        if self.state.write_through { Done::Flush } else { Done::All }
    }
}

impl VirtioDevice for VirtioBlk {
    type State = State;
    const NAME: &'static str = "virtio-blk";
    const TYPE: u16 = 2;
    const CLASS: u32 = 0x01_0000;
    const QUEUES: &'static [u16] = &[QUEUE_SIZE; QUEUES];

    fn features(&self) -> u64 {
        F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_MQ | if self.read_only { F_RO } else { F_DISCARD | F_WRITE_ZEROES }
    }

    fn config(&self) -> Vec<u8> {
        // Up to and including write_zeroes_may_unmap (offset 56).
        let mut config = vec![0; 60];
        config[..8].copy_from_slice(&self.sectors().to_le_bytes());
        config[12..16].copy_from_slice(&SEG_MAX.to_le_bytes());
        config[20..24].copy_from_slice(&(SECTOR as u32).to_le_bytes());
        config[34] = Self::QUEUES.len() as u8;
        let limits = [MAX_RANGE_SECTORS, MAX_RANGES, DISCARD_ALIGNMENT, MAX_RANGE_SECTORS, MAX_RANGES, 1];
        for (field, limit) in config[36..].chunks_exact_mut(4).zip(limits) {
            field.copy_from_slice(&limit.to_le_bytes());
        }
        config
    }

    fn activate(&mut self, features: u64) {
        self.state.write_through = features & F_FLUSH == 0;
    }

    fn process(&mut self, ctx: &mut Ctx, index: usize, queues: &mut [Queue]) -> Result<(), Broken> {
        let mut chain = std::mem::take(&mut self.chain);
        let result = queues[index].serve(ctx, &mut chain, |ctx, chain| self.request(ctx, index, chain, true));
        self.chain = chain;
        result
    }

    /// Reads end first, and a flush with the next event, unless that comes by the guest's time.
    fn host_done(&mut self, ctx: &mut Ctx, queues: &mut [Queue]) -> Result<(), Broken> {
        let reads = std::mem::take(&mut self.state.reads);
        if !reads.is_empty() {
            self.end_reads(ctx, queues, &reads)?;
            if ctx.host_paced {
                return Ok(());
            }
        }
        if self.state.flushes.running().is_empty() {
            return Ok(());
        }
        let code = self.backend.flush().map_or_else(|e| Failure::from(e) as u8, |()| 0);
        let ended = self.state.flushes.end();
        self.state.flushes.next(ctx, |_| self.backend.begin_flush());
        for held in ended {
            let written = u32::from(ctx.dma_write(held.status, &[code]));
            // Saved state may name a queue that is not there.
            let Some(queue) = queues.get_mut(held.queue) else { continue };
            queue.push_head(ctx, held.head, written)?;
        }
        Ok(())
    }
    fn waits_for_host(&mut self) -> Option<bool> {
        if !self.state.reads.is_empty() {
            return Some(!self.backend.reading());
        }
        (!self.state.flushes.running().is_empty()).then(|| !self.backend.flushing())
    }
    fn reset(&mut self, _power: bool) {
        self.state = State::default();
    }
    plain_state!();
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use softmetal_bus::device::HOST_TIME;
    use softmetal_bus::{Device, GuestMemory, Input, Run};

    use super::*;
    use crate::testing::SlowDisk;
    use crate::virtio::VirtioPci;
    use crate::virtio::testing::{Driver, READ, WRITE};

    const SECTORS: usize = 2048;
    const HEADER: u64 = 0x8000;
    const STATUS: u64 = 0x8100;
    const DATA: u64 = 0x2_0000;

    /// A disk that the test can look into; counts flushes.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl BlockBackend for Disk {
        fn size(&self) -> u64 {
            self.0.lock().unwrap().0.size()
        }
        fn read_only(&self) -> bool {
            false
        }
        fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
            self.0.lock().unwrap().0.read_at(offset, buf)
        }
        fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), BlockError> {
            self.0.lock().unwrap().0.write_at(offset, buf)
        }
        fn flush(&mut self) -> Result<(), BlockError> {
            self.0.lock().unwrap().1 += 1;
            Ok(())
        }
    }

    fn driver(features: u64, read_only: bool) -> (Driver<VirtioBlk>, Disk) {
        let disk = Disk::default();
        let bytes = (0..SECTORS * 512).map(|i| (i * 7 + i / 512) as u8);
        disk.0.lock().unwrap().0 = bytes.collect();
        let blk = VirtioBlk::new(Box::new(disk.clone()), "a serial number".into(), read_only);
        (Driver::new(VirtioPci::new(blk), features), disk)
    }

    /// One request with a header of its own; returns the status byte and the length in the used ring.
    fn request(d: &mut Driver<VirtioBlk>, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> (u8, u32) {
        d.put(HEADER, &kind.to_le_bytes());
        d.put(HEADER + 8, &sector.to_le_bytes());
        d.put(STATUS, &[0xee]);
        let mut chain = vec![(HEADER, 16, READ)];
        chain.extend(data);
        chain.push((STATUS, 1, WRITE));
        d.chain(0, &chain);
        d.notify(0);
        d.rig.run(&mut d.device, HOST_TIME);
        assert_eq!(d.reg(0x14, 1), 0xf, "the device works on");
        (d.get(STATUS, 1)[0], d.used(0).pop().unwrap().1)
    }

    #[test]
    fn reads_and_writes() {
        let (mut d, disk) = driver(F_FLUSH, false);
        assert_eq!(d.reg(0x2000, 8), SECTORS as u64);
        assert_eq!(d.reg(0x2014, 4), 512);
        // More than the buffer holds, scattered without regard to sectors.
        let len = BUFFER + 1024;
        let parts = [(DATA, 100, WRITE), (DATA + 100, len as u32 - 100, WRITE)];
        let result = request(&mut d, request::IN, 3, &parts);
        assert_eq!(result, (0, len as u32 + 1));
        assert!(d.get(DATA, len) == disk.0.lock().unwrap().0[3 * 512..][..len]);

        d.put(DATA, &[0x55; 1024]);
        let parts = [(DATA, 1, READ), (DATA + 1, 1023, READ)];
        assert_eq!(request(&mut d, request::OUT, 2046, &parts), (0, 1));
        assert_eq!(disk.0.lock().unwrap().0[2046 * 512..], [0x55; 1024]);
        assert_eq!(disk.0.lock().unwrap().1, 0);
        assert_eq!(request(&mut d, request::FLUSH, 0, &[]), (0, 1));
        assert_eq!(disk.0.lock().unwrap().1, 1);
        let id = [(DATA, 20, WRITE)];
        assert_eq!(request(&mut d, request::GET_ID, 0, &id), (0, 21));
        assert_eq!(d.get(DATA, 20), b"a serial number\0\0\0\0\0");
    }

    /// A disk that reaches guest memory itself; counts how often it was asked to.
    #[cfg(unix)]
    struct Direct(std::fs::File, Arc<Mutex<Vec<usize>>>);

    #[cfg(unix)]
    impl BlockBackend for Direct {
        fn size(&self) -> u64 {
            self.0.metadata().unwrap().len()
        }
        fn read_only(&self) -> bool {
            false
        }
        fn read_at(&mut self, _: u64, _: &mut [u8]) -> Result<(), BlockError> {
            Err(BlockError::OutOfRange)
        }
        fn write_at(&mut self, _: u64, _: &[u8]) -> Result<(), BlockError> {
            Err(BlockError::OutOfRange)
        }
        fn read_into(&mut self, offset: u64, memory: &GuestMemory, runs: &[Run]) -> Result<bool, BlockError> {
            self.1.lock().unwrap().push(runs.len());
            Ok(memory.read_file(runs, &self.0, offset).map(|()| true)?)
        }
        fn write_from(&mut self, offset: u64, memory: &GuestMemory, runs: &[Run]) -> Result<bool, BlockError> {
            self.1.lock().unwrap().push(runs.len());
            Ok(memory.write_file(runs, &self.0, offset).map(|()| true)?)
        }
        fn flush(&mut self) -> Result<(), BlockError> {
            Ok(())
        }
    }

    #[cfg(unix)]
    #[test]
    fn moves_straight_between_disk_and_guest() {
        use std::os::unix::fs::FileExt;
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..SECTORS * 512).map(|i| (i * 7 + i / 512) as u8).collect();
        file.write_all_at(&bytes, 0).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let disk = Direct(file.try_clone().unwrap(), asked.clone());
        let blk = VirtioBlk::new(Box::new(disk), String::new(), false);
        let mut d = Driver::new(VirtioPci::new(blk), F_FLUSH);
        let calls = || std::mem::take(&mut *asked.lock().unwrap());

        // Neighbours are one piece.
        let parts = [(DATA, 100, WRITE), (DATA + 100, 924, WRITE), (DATA + 0x1_0000, 1024, WRITE)];
        assert_eq!(request(&mut d, request::IN, 3, &parts), (0, 2049));
        assert_eq!(calls(), [2]);
        assert!(d.get(DATA, 1024) == bytes[3 * 512..][..1024] && d.get(DATA + 0x1_0000, 1024) == bytes[5 * 512..][..1024]);

        d.put(DATA, &[0x55; 700]);
        d.put(DATA + 0x2000, &[0x66; 324]);
        assert_eq!(request(&mut d, request::OUT, 2046, &[(DATA, 700, READ), (DATA + 0x2000, 324, READ)]), (0, 1));
        assert_eq!(calls(), [2]);
        let mut end = [0; 1024];
        file.read_exact_at(&mut end, 2046 * 512).unwrap();
        assert!(end[..700] == [0x55; 700] && end[700..] == [0x66; 324]);

        // What is not memory is refused before the disk is asked to reach it.
        let code = request(&mut d, request::IN, 0, &[(DATA, 512, WRITE), (1 << 40, 512, WRITE)]).0;
        assert_eq!((code, calls()), (Failure::Io as u8, vec![]));
    }

    /// A flush ends after a fixed time, or where the host sets the pace, when it says so.
    #[test]
    fn flushes_end_as_events() {
        let (mut d, disk) = driver(F_FLUSH, false);
        d.put(HEADER, &request::FLUSH.to_le_bytes());
        let flush = |d: &mut Driver<VirtioBlk>, status: u64| {
            d.put(status, &[0xee]);
            d.chain(0, &[(HEADER, 16, READ), (status, 1, WRITE)]);
            d.notify(0);
        };
        let flushes = || disk.0.lock().unwrap().1;
        flush(&mut d, STATUS);
        assert_eq!((d.get(STATUS, 1)[0], flushes(), d.used(0).len()), (0xee, 0, 0));
        d.rig.run(&mut d.device, HOST_TIME);
        assert_eq!((d.get(STATUS, 1)[0], flushes(), d.used(0).len()), (0, 1, 1));

        d.rig.host_paced = true;
        flush(&mut d, STATUS);
        // This one came after the first had begun: what was written in between needs another flush.
        flush(&mut d, STATUS + 1);
        d.rig.run(&mut d.device, 10 * HOST_TIME);
        assert_eq!((d.get(STATUS, 2), flushes(), d.device.waits_for_host()), (vec![0xee, 0xee], 1, Some(true)));
        // A device that was saved and loaded goes on from there.
        let saved = d.device.save();
        d.device.load(&saved).unwrap();
        for (seen, total) in [(vec![0, 0xee], 2), (vec![0, 0], 3)] {
            d.device.input(&mut d.rig.ctx(), &Input::HostDone);
            assert_eq!((d.get(STATUS, 2), flushes(), d.used(0).len()), (seen, total, 1));
        }
        assert_eq!(d.device.waits_for_host(), None);
        d.device.input(&mut d.rig.ctx(), &Input::HostDone);
        assert_eq!(flushes(), 3);
    }

    /// Where the host sets the pace, a read ends when it says so; a device that is reset meanwhile has forgotten it.
    #[test]
    fn reads_end_as_events() {
        let disk = SlowDisk::new((0..SECTORS * 512).map(|i| (i * 7 + i / 512) as u8).collect());
        let mut d = Driver::new(VirtioPci::new(VirtioBlk::new(Box::new(disk.clone()), String::new(), false)), F_FLUSH);
        let read = |d: &mut Driver<VirtioBlk>, sector: u64| {
            d.put(HEADER, &u128::from(sector).wrapping_shl(64).to_le_bytes());
            d.put(STATUS, &[0xee]);
            d.put(DATA, &[0; 1024]);
            d.chain(0, &[(HEADER, 16, READ), (DATA, 1024, WRITE), (STATUS, 1, WRITE)]);
            d.notify(0);
        };
        let done = |d: &mut Driver<VirtioBlk>| d.device.input(&mut d.rig.ctx(), &Input::HostDone);
        read(&mut d, 1);
        assert_eq!((d.get(STATUS, 1)[0], disk.asked(), d.device.waits_for_host()), (0, vec![], None));
        d.rig.host_paced = true;
        d.used(0);
        read(&mut d, 3);
        d.rig.run(&mut d.device, 10 * HOST_TIME);
        assert_eq!((d.get(STATUS, 1)[0], disk.asked(), d.device.waits_for_host()), (0xee, vec![(3 * 512, 1024)], Some(false)));
        assert_eq!(d.get(DATA, 1024), [0; 1024]);
        // A device that was saved and loaded goes on from there.
        let saved = d.device.save();
        d.device.load(&saved).unwrap();
        disk.slow().busy = false;
        assert_eq!(d.device.waits_for_host(), Some(true));
        done(&mut d);
        assert_eq!((d.get(STATUS, 1)[0], d.used(0)[0].1, d.device.waits_for_host()), (0, 1025, None));
        assert!(d.get(DATA, 1024) == disk.slow().bytes[3 * 512..][..1024]);

        read(&mut d, 4);
        d.start(F_FLUSH);
        assert_eq!(d.device.waits_for_host(), None);
        done(&mut d);
        assert_eq!((d.get(STATUS, 1)[0], d.used(0)), (0xee, vec![]));

        disk.slow().broken = true;
        read(&mut d, 5);
        done(&mut d);
        assert_eq!((d.get(STATUS, 1)[0], d.used(0)[0].1), (Failure::Io as u8, 1));
        disk.slow().broken = false;

        // A read does not wait for the flush before it.
        let flush = |d: &mut Driver<VirtioBlk>| {
            d.put(HEADER + 16, &request::FLUSH.to_le_bytes());
            d.put(STATUS + 1, &[0xee]);
            d.chain(0, &[(HEADER + 16, 16, READ), (STATUS + 1, 1, WRITE)]);
        };
        flush(&mut d);
        read(&mut d, 6);
        for statuses in [[0, 0xee], [0, 0]] {
            assert_eq!(d.device.waits_for_host(), Some(true));
            done(&mut d);
            assert_eq!(d.get(STATUS, 2), statuses);
        }
        assert_eq!(d.device.waits_for_host(), None);
        // Both end when the host sets the pace no more.
        flush(&mut d);
        read(&mut d, 7);
        d.rig.host_paced = false;
        done(&mut d);
        assert_eq!((d.get(STATUS, 2), d.device.waits_for_host()), (vec![0, 0], None));
    }

    #[test]
    fn writes_through_without_flush() {
        let (mut d, disk) = driver(0, false);
        let result = request(&mut d, request::OUT, 0, &[(DATA, 512, READ)]);
        assert_eq!(result.0, 0);
        assert_eq!(disk.0.lock().unwrap().1, 1);
    }

    #[test]
    fn discards_and_zeroes() {
        let (mut d, disk) = driver(F_FLUSH, false);
        assert_eq!((d.reg(0x2024, 4), d.reg(0x2030, 4), d.reg(0x2038, 1)), (1 << 19, 1 << 19, 1));
        let before = disk.0.lock().unwrap().0.clone();
        let range =
            |sector: u64, sectors: u32, flags: u32| [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat();
        d.put(DATA, &[range(2, 3, 1), range(2047, 1, 0)].concat());
        assert_eq!(request(&mut d, request::WRITE_ZEROES, 0, &[(DATA, 32, READ)]), (0, 1));
        let after = disk.0.lock().unwrap().0.clone();
        assert!(after[1024..2560].iter().all(|b| *b == 0) && after[2047 * 512..].iter().all(|b| *b == 0));
        assert!(after[..1024] == before[..1024] && after[2560..2047 * 512] == before[2560..2047 * 512]);
        d.put(DATA, &range(0, 8, 0));
        assert_eq!(request(&mut d, request::DISCARD, 0, &[(DATA, 16, READ)]), (0, 1));

        let (io, unsupported) = (Failure::Io as u8, Failure::Unsupported as u8);
        for (kind, list, len, status) in [
            (request::DISCARD, range(0, 1, 1), 16, unsupported),
            (request::WRITE_ZEROES, range(0, 1, 2), 16, unsupported),
            (request::WRITE_ZEROES, range(2047, 2, 0), 16, io),
            (request::WRITE_ZEROES, range(u64::MAX, 1, 0), 16, io),
            (request::WRITE_ZEROES, [range(0, 1, 0), range(0, u32::MAX, 0)].concat(), 32, io),
            (request::WRITE_ZEROES, range(0, 1, 0), 15, io),
            (request::WRITE_ZEROES, range(0, 1, 0), 16 * 65, io),
        ] {
            d.put(DATA, &list);
            assert_eq!(request(&mut d, kind, 0, &[(DATA, len, READ)]), (status, 1));
        }
        assert!(disk.0.lock().unwrap().0 == after, "what is refused touches nothing");
    }

    #[test]
    fn refuses() {
        let (mut d, _) = driver(0, false);
        let io = Failure::Io as u8;
        let sector = [(DATA, 512, WRITE)];
        for (kind, at, data, status) in [
            (request::IN, SECTORS as u64, &sector[..], io),
            (request::IN, u64::MAX, &sector, io),
            (request::IN, u64::MAX / 512 + 1, &sector, io),
            (request::IN, 0, &[(DATA, 511, WRITE)], io),
            (request::IN, 0, &[(1 << 40, 512, WRITE)], io),
            (request::IN, 0, &[(DATA, !511, WRITE), (DATA, !511, WRITE)], io),
            (request::OUT, 0, &[(1 << 40, 512, READ)], io),
            (77, 0, &sector, Failure::Unsupported as u8),
        ] {
            assert_eq!(request(&mut d, kind, at, data), (status, 1), "{kind} {at:#x}");
        }
        // No room for the status, a short header, a status in the middle of nowhere: given back all the same.
        d.chain(0, &[(HEADER, 16, READ)]);
        d.chain(0, &[(HEADER, 8, READ), (STATUS, 1, WRITE)]);
        d.chain(0, &[(HEADER, 16, READ), (1 << 40, 1, WRITE)]);
        d.notify(0);
        let lengths: Vec<_> = d.used(0).into_iter().map(|u| u.1).collect();
        assert_eq!(lengths, [0, 1, 0]);
        assert_eq!(d.get(STATUS, 1), [io]);
        assert_eq!(d.device.input_room(), 0);
    }

    #[test]
    fn read_only() {
        let (mut d, disk) = driver(F_RO, true);
        let before = disk.0.lock().unwrap().0.clone();
        let result = request(&mut d, request::OUT, 0, &[(DATA, 512, READ)]);
        assert_eq!(result, (Failure::Io as u8, 1));
        let result = request(&mut d, request::WRITE_ZEROES, 0, &[(DATA, 16, READ)]);
        assert_eq!(result, (Failure::Io as u8, 1));
        assert!(before == disk.0.lock().unwrap().0);
    }
}
