//! The way of data between a device and scattered guest memory.

use softmetal_bus::Ctx;

use super::{Taskfile, Unit};

/// Bytes moved at a time.
const BUFFER: u64 = 256 << 10;

/// How a DMA transfer went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Bytes that were moved.
    pub bytes: u64,
    /// A part of the list is not memory; the command was aborted.
    pub fault: bool,
    /// The command has ended (well or not): the list was long enough, or the device gave up.
    pub ended: bool,
}

/// Moves what is left of the transfer of `unit` to or from `list` (physical address, bytes), in order, and ends the
/// command when all of it is moved.
pub fn transfer(unit: &mut Unit, ctx: &Ctx, tf: &mut Taskfile, list: &[(u64, u32)]) -> Moved {
    let room: u64 = list.iter().map(|&(_, len)| u64::from(len)).sum();
    let total = unit.left().min(room);
    let write = unit.writes();
    if unit.direct(ctx, list, total) {
        return conclude(unit, tf, total);
    }
    let mut buffer = vec![0; total.min(BUFFER) as usize];
    let mut pieces = Pieces { list, within: 0 };
    let mut bytes = 0;
    while bytes < total {
        let n = (total - bytes).min(BUFFER) as usize;
        let part = &mut buffer[..n];
        if write {
            if !pieces.each(n, |addr, range| ctx.dma_read(addr, &mut part[range])) {
                unit.abort(tf);
                return Moved { bytes, fault: true, ended: true };
            }
            if !unit.drain(tf, part) {
                return Moved { bytes, fault: false, ended: true };
            }
        } else {
            if !unit.fill(tf, part) {
                return Moved { bytes, fault: false, ended: true };
            }
            if !pieces.each(n, |addr, range| ctx.dma_write(addr, &part[range])) {
                unit.abort(tf);
                return Moved { bytes, fault: true, ended: true };
            }
        }
        bytes += n as u64;
    }
    conclude(unit, tf, bytes)
}

/// After `bytes` were moved, without a failure.
fn conclude(unit: &mut Unit, tf: &mut Taskfile, bytes: u64) -> Moved {
    let ended = unit.left() == 0;
    if ended {
        unit.finish(tf);
    }
    Moved { bytes, fault: false, ended }
}

/// What is not yet used of a list.
struct Pieces<'a> {
    list: &'a [(u64, u32)],
    /// Bytes of its first entry that are used.
    within: u32,
}

impl Pieces<'_> {
    /// Takes `len` bytes: `f(address, range of the bytes)` for each contiguous piece, until it says false.
    fn each(&mut self, len: usize, mut f: impl FnMut(u64, std::ops::Range<usize>) -> bool) -> bool {
        let mut done = 0;
        while done < len {
            let Some((&(addr, entry), rest)) = self.list.split_first() else { return false };
            let n = ((entry - self.within) as usize).min(len - done);
            if n > 0 && !f(addr.wrapping_add(self.within.into()), done..done + n) {
                return false;
            }
            done += n;
            self.within += n as u32;
            if self.within == entry {
                (self.list, self.within) = (rest, 0);
            }
        }
        true
    }
}
