//! The split virtqueue, device side (virtio 1.2, 2.7).

use serde::{Deserialize, Serialize};
use softmetal_bus::{BlockBackend, BlockError, Ctx, Run};

/// The vector number that means "no interrupt".
pub(super) const NO_VECTOR: u16 = 0xffff;
/// Most entries of an indirect table.
const MAX_INDIRECT: usize = 1024;
/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;

mod flags {
    pub const NEXT: u16 = 1;
    pub const WRITE: u16 = 2;
    pub const INDIRECT: u16 = 4;
}
/// In the driver's flags: it wants no interrupts.
const NO_INTERRUPT: u16 = 1;

/// The ring makes no sense; the device stops until the driver resets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("broken virtqueue: {0}")]
pub struct Broken(pub &'static str);

/// A buffer of a chain is not (writable) memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a virtqueue buffer is not in memory")]
pub struct Fault;

/// What moves a disk's bytes, reused from request to request.
pub struct Mover {
    /// For disks that need one between.
    pub buffer: Vec<u8>,
    /// The request's data in guest memory.
    runs: Vec<Run>,
}

impl Mover {
    /// With a buffer of `size` bytes.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self { buffer: vec![0; size], runs: Vec::new() }
    }
}

/// A list of guest buffers, consumed from the front.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Segments {
    list: Vec<(u64, u32)>,
    /// The first entry that is not used up.
    at: usize,
    left: u64,
}

impl Segments {
    fn clear(&mut self) {
        self.list.clear();
        self.at = 0;
        self.left = 0;
    }

    fn push(&mut self, addr: u64, len: u32) {
        if len > 0 {
            self.list.push((addr, len));
            self.left += u64::from(len);
        }
    }

    /// Bytes not consumed yet.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes the last byte off and returns its address.
    pub fn take_last_byte(&mut self) -> Option<u64> {
        let (addr, len) = self.list[self.at..].last_mut()?;
        *len -= 1;
        let at = addr.wrapping_add(u64::from(*len));
        if *len == 0 {
            self.list.pop();
        }
        self.left -= 1;
        Some(at)
    }

    /// Takes the first `len` bytes off; fewer if there are no more.
    pub fn take_front(&mut self, len: usize) -> Self {
        let mut front = Self::default();
        // Nothing is touched, so nothing can fail.
        let _ = self.consume(len, |addr, _, n| {
            front.push(addr, n as u32);
            true
        });
        front
    }

    /// Hands the next `len` guest bytes, as pieces of guest memory, to `transfer` and consumes them if that says true. False
    /// if it does not, or if they are not all memory (of the kind that the device may write, if it is to).
    fn direct<E>(
        &mut self,
        ctx: &Ctx,
        runs: &mut Vec<Run>,
        len: u64,
        write: bool,
        transfer: impl FnOnce(&[Run]) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let moved = ctx.runs(&self.list[self.at..], len, write, runs) && transfer(runs)?;
        if moved {
            // Nothing is touched, so nothing can fail.
            let _ = self.consume(len as usize, |_, _, _| true);
        }
        Ok(moved)
    }

    /// Fills the next `len` guest bytes with what is at `at` on `disk`, straight from the disk if it can do that.
    ///
    /// # Errors
    /// The disk's, as `failed` says it, or [`Fault`] when a buffer is not RAM.
    pub fn fill_from_disk<E: From<Fault>>(
        &mut self,
        ctx: &Ctx,
        mover: &mut Mover,
        len: u64,
        (disk, at): (&mut dyn BlockBackend, u64),
        failed: impl Fn(BlockError) -> E,
    ) -> Result<(), E> {
        if self.direct(ctx, &mut mover.runs, len, true, |runs| disk.read_into(at, ctx.memory, runs)).map_err(&failed)? {
            return Ok(());
        }
        self.fill(ctx, &mut mover.buffer, len, |done, bytes| disk.read_at(at + done, bytes).map_err(&failed))
    }

    /// Stores the next `len` guest bytes at `at` on `disk`, straight from guest memory if the disk can do that.
    ///
    /// # Errors
    /// The disk's, as `failed` says it, or [`Fault`] when a buffer is not memory.
    pub fn drain_to_disk<E: From<Fault>>(
        &mut self,
        ctx: &Ctx,
        mover: &mut Mover,
        len: u64,
        (disk, at): (&mut dyn BlockBackend, u64),
        failed: impl Fn(BlockError) -> E,
    ) -> Result<(), E> {
        if self.direct(ctx, &mut mover.runs, len, false, |runs| disk.write_from(at, ctx.memory, runs)).map_err(&failed)? {
            return Ok(());
        }
        self.drain(ctx, &mut mover.buffer, len, |done, bytes| disk.write_at(at + done, bytes).map_err(&failed))
    }

    /// Fills the next `len` guest bytes, a bufferful at a time, with what `read(place within them, buffer)` gives.
    ///
    /// # Errors
    /// That of `read`, or [`Fault`] when a buffer is not RAM.
    pub fn fill<E: From<Fault>>(
        &mut self,
        ctx: &Ctx,
        buffer: &mut [u8],
        len: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut done = 0;
        while done < len {
            let n = (len - done).min(buffer.len() as u64) as usize;
            read(done, &mut buffer[..n])?;
            self.write(ctx, &buffer[..n])?;
            done += n as u64;
        }
        Ok(())
    }

    /// Hands the next `len` guest bytes, a bufferful at a time, to `write(place within them, buffer)`.
    ///
    /// # Errors
    /// That of `write`, or [`Fault`] when a buffer is not memory.
    pub fn drain<E: From<Fault>>(
        &mut self,
        ctx: &Ctx,
        buffer: &mut [u8],
        len: u64,
        mut write: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut done = 0;
        while done < len {
            let n = (len - done).min(buffer.len() as u64) as usize;
            self.read(ctx, &mut buffer[..n])?;
            write(done, &buffer[..n])?;
            done += n as u64;
        }
        Ok(())
    }

    /// Consumes up to `len` bytes, a contiguous piece at a time: `f(address, offset within the whole, length)`.
    fn consume(&mut self, len: usize, mut f: impl FnMut(u64, usize, usize) -> bool) -> Result<usize, Fault> {
        let mut done = 0;
        while done < len {
            let Some((addr, room)) = self.list.get_mut(self.at) else {
                break;
            };
            let n = (len - done).min(*room as usize);
            if !f(*addr, done, n) {
                return Err(Fault);
            }
            *addr = addr.wrapping_add(n as u64);
            *room -= n as u32;
            if *room == 0 {
                self.at += 1;
            }
            done += n;
            self.left -= n as u64;
        }
        Ok(done)
    }

    /// Copies guest buffers to `buf`; returns how many bytes there were.
    ///
    /// # Errors
    /// [`Fault`] when a buffer is not memory.
    pub fn read(&mut self, ctx: &Ctx, buf: &mut [u8]) -> Result<usize, Fault> {
        self.consume(buf.len(), |addr, at, n| ctx.dma_read(addr, &mut buf[at..at + n]))
    }

    /// Copies `buf` to guest buffers; returns how many bytes there was room for.
    ///
    /// # Errors
    /// [`Fault`] when a buffer is not RAM.
    pub fn write(&mut self, ctx: &Ctx, buf: &[u8]) -> Result<usize, Fault> {
        self.consume(buf.len(), |addr, at, n| ctx.dma_write(addr, &buf[at..at + n]))
    }
}

/// The buffers of one request. Reused from request to request.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    head: u16,
    /// What the driver wrote for the device.
    pub readable: Segments,
    /// Where the device may write.
    pub writable: Segments,
}

impl Chain {
    /// The descriptor with which it begins.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }
}

/// The volatile part of a [`Queue`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueState {
    pub(super) size: u16,
    pub(super) enabled: bool,
    pub(super) vector: u16,
    /// Physical addresses of the descriptor table, the driver's ring and the device's ring.
    pub(super) desc: u64,
    pub(super) driver: u64,
    pub(super) device: u64,
    next_avail: u16,
    next_used: u16,
    /// `next_used` when the driver was last considered for an interrupt.
    signalled: u16,
    event_idx: bool,
    indirect: bool,
}

/// A split virtqueue.
#[derive(Clone, Debug)]
pub struct Queue {
    max: u16,
    /// The indirect table at hand.
    table: Vec<u8>,
    pub(super) state: QueueState,
}

impl Queue {
    /// A disabled queue of at most `max` entries, a power of two.
    #[must_use]
    pub fn new(max: u16) -> Self {
        assert!(max.is_power_of_two());
        let state = QueueState {
            size: max,
            enabled: false,
            vector: NO_VECTOR,
            desc: 0,
            driver: 0,
            device: 0,
            next_avail: 0,
            next_used: 0,
            signalled: 0,
            event_idx: false,
            indirect: false,
        };
        Self { max, table: Vec::new(), state }
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.max);
    }

    /// Whether `size` is one that the driver may choose.
    pub(super) fn allows(&self, size: u16) -> bool {
        size.is_power_of_two() && size <= self.max
    }

    /// Whether saved state may be put into this queue.
    pub(super) fn accepts(&self, state: &QueueState) -> bool {
        self.allows(state.size)
    }

    pub(super) fn negotiate(&mut self, event_idx: bool, indirect: bool) {
        self.state.event_idx = event_idx;
        self.state.indirect = indirect;
    }

    /// Switches the queue on; false if its addresses are not aligned as they must be.
    pub(super) fn enable(&mut self) -> bool {
        let s = &mut self.state;
        s.enabled = s.desc % 16 == 0 && s.driver % 2 == 0 && s.device % 4 == 0;
        s.enabled
    }

    fn ring_u16(ctx: &Ctx, addr: u64) -> Result<u16, Broken> {
        let mut bytes = [0; 2];
        let ok = ctx.dma_read(addr, &mut bytes);
        ok.then(|| u16::from_le_bytes(bytes)).ok_or(Broken("a ring is not in memory"))
    }

    /// Takes the next available chain. False when there is none; the driver will then notify about the next one.
    ///
    /// # Errors
    /// [`Broken`] when the ring makes no sense.
    pub fn pop(&mut self, ctx: &Ctx, chain: &mut Chain) -> Result<bool, Broken> {
        if !self.state.enabled {
            return Ok(false);
        }
        let (size, next) = (self.state.size, self.state.next_avail);
        let index = self.state.driver.wrapping_add(2);
        let mut waiting = Self::ring_u16(ctx, index)?.wrapping_sub(next);
        if waiting == 0 && self.state.event_idx {
            let event = self.state.device.wrapping_add(4 + 8 * u64::from(size));
            if !ctx.dma_write(event, &next.to_le_bytes()) {
                return Err(Broken("the used ring is not in memory"));
            }
            // Another processor may have added one before it could see the new event index.
            waiting = Self::ring_u16(ctx, index)?.wrapping_sub(next);
        }
        if waiting == 0 {
            return Ok(false);
        }
        if waiting > size {
            return Err(Broken("more chains available than the ring has entries"));
        }
        let entry = 4 + 2 * u64::from(next & (size - 1));
        chain.head = Self::ring_u16(ctx, self.state.driver.wrapping_add(entry))?;
        self.walk(ctx, chain)?;
        self.state.next_avail = next.wrapping_add(1);
        Ok(true)
    }

    /// Takes the chain that begins at descriptor `head`, which was taken and not given back, once more.
    ///
    /// # Errors
    /// [`Broken`] when it makes no sense any more.
    pub fn again(&mut self, ctx: &Ctx, head: u16, chain: &mut Chain) -> Result<(), Broken> {
        chain.head = head;
        self.walk(ctx, chain)
    }

    fn walk(&mut self, ctx: &Ctx, chain: &mut Chain) -> Result<(), Broken> {
        chain.readable.clear();
        chain.writable.clear();
        let mut count = usize::from(self.state.size);
        let mut in_table = false;
        let mut index = usize::from(chain.head);
        let mut steps = 0;
        loop {
            if index >= count {
                return Err(Broken("a descriptor's index is out of range"));
            }
            if steps == count {
                return Err(Broken("a chain of descriptors has a loop"));
            }
            steps += 1;
            let mut d = [0; DESCRIPTOR];
            if in_table {
                d.copy_from_slice(&self.table[index * DESCRIPTOR..][..DESCRIPTOR]);
            } else {
                let addr = self.state.desc.wrapping_add((index * DESCRIPTOR) as u64);
                if !ctx.dma_read(addr, &mut d) {
                    return Err(Broken("the descriptor table is not in memory"));
                }
            }
            let d = u128::from_le_bytes(d);
            let (addr, len) = (d as u64, (d >> 64) as u32);
            let (flags, next) = ((d >> 96) as u16, (d >> 112) as u16);
            if flags & flags::INDIRECT != 0 {
                if !self.state.indirect || in_table || flags & flags::NEXT != 0 {
                    return Err(Broken("an indirect descriptor where none may be"));
                }
                let bytes = len as usize;
                if bytes == 0 || bytes % DESCRIPTOR != 0 || bytes > MAX_INDIRECT * DESCRIPTOR {
                    return Err(Broken("an indirect table of a wrong size"));
                }
                self.table.resize(bytes, 0);
                if !ctx.dma_read(addr, &mut self.table) {
                    return Err(Broken("an indirect table is not in memory"));
                }
                (in_table, count, index, steps) = (true, bytes / DESCRIPTOR, 0, 0);
                continue;
            }
            if flags & flags::WRITE != 0 {
                chain.writable.push(addr, len);
            } else if chain.writable.list.is_empty() {
                chain.readable.push(addr, len);
            } else {
                return Err(Broken("a readable buffer after a writable one"));
            }
            if flags & flags::NEXT == 0 {
                return Ok(());
            }
            index = usize::from(next);
        }
    }

    /// Gives `chain` back to the driver; `written` is how many bytes of its writable buffers were filled.
    ///
    /// # Errors
    /// [`Broken`] when the ring is not RAM.
    pub fn push(&mut self, ctx: &Ctx, chain: &Chain, written: u32) -> Result<(), Broken> {
        self.push_head(ctx, chain.head, written)
    }

    /// Takes all chains that wait. Each is handed to `request`, and given back if that says how many bytes it wrote.
    ///
    /// # Errors
    /// [`Broken`] when the ring makes no sense.
    pub fn serve(
        &mut self,
        ctx: &mut Ctx,
        chain: &mut Chain,
        mut request: impl FnMut(&mut Ctx, &mut Chain) -> Option<u32>,
    ) -> Result<(), Broken> {
        while self.pop(ctx, chain)? {
            if let Some(written) = request(ctx, chain) {
                self.push(ctx, chain, written)?;
            }
        }
        Ok(())
    }

    /// Gives the driver as much of `bytes` as its next chain takes; how much, or `None` if no chain waits.
    ///
    /// # Errors
    /// [`Broken`] when the ring makes no sense.
    pub fn give(&mut self, ctx: &Ctx, chain: &mut Chain, bytes: &[u8]) -> Result<Option<usize>, Broken> {
        if !self.pop(ctx, chain)? {
            return Ok(None);
        }
        let written = chain.writable.write(ctx, bytes).unwrap_or_else(|fault| {
            log::warn!("{fault}");
            0
        });
        self.push(ctx, chain, written as u32)?;
        Ok(Some(written))
    }

    /// Gives the chain that begins at descriptor `head` back to the driver, as [`Queue::push`] does.
    ///
    /// # Errors
    /// [`Broken`] when the ring is not RAM.
    pub fn push_head(&mut self, ctx: &Ctx, head: u16, written: u32) -> Result<(), Broken> {
        let s = &mut self.state;
        let mut element = [0; 8];
        element[..2].copy_from_slice(&head.to_le_bytes());
        element[4..].copy_from_slice(&written.to_le_bytes());
        let at = s.device.wrapping_add(4 + 8 * u64::from(s.next_used & (s.size - 1)));
        s.next_used = s.next_used.wrapping_add(1);
        let index = s.next_used.to_le_bytes();
        if ctx.dma_write(at, &element) && ctx.dma_write(s.device.wrapping_add(2), &index) {
            Ok(())
        } else {
            Err(Broken("the used ring is not in memory"))
        }
    }

    /// Whether the driver wants an interrupt for what was pushed since the last call.
    ///
    /// # Errors
    /// [`Broken`] when the ring is not memory.
    pub(super) fn take_interrupt(&mut self, ctx: &Ctx) -> Result<bool, Broken> {
        let s = &mut self.state;
        let (new, old) = (s.next_used, s.signalled);
        if new == old {
            return Ok(false);
        }
        s.signalled = new;
        if s.event_idx {
            let event = s.driver.wrapping_add(4 + 2 * u64::from(s.size));
            let event = Self::ring_u16(ctx, event)?;
            Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old))
        } else {
            Ok(Self::ring_u16(ctx, s.driver)? & NO_INTERRUPT == 0)
        }
    }
}
