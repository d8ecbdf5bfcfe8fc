//! The vocabulary that the processor, the devices, the firmware and the machine share.
//!
//! | module | what it names |
//! |---|---|
//! | [`memory`] | guest RAM and ROM: one host mapping, dirty and contains-code bits |
//! | [`pages`] | contents of memory at one moment, in shared pages |
//! | [`space`] | which physical address (or port) belongs to whom |
//! | [`time`] | virtual time and the queue of timers |
//! | [`device`] | what a chip is: reads, writes, timers, input, reset, state |
//! | [`cpu`] | what a processor asks of its board, and how the board calls its attention |
//! | [`block`] | the byte store behind a disk |
//! | `transfer` | bytes from a file of the host to guest memory and back (Unix) |
//!
//! **Invariant:** nothing here knows a particular chip or a processor; of the host it knows a mapping and a file's bytes.

pub mod block;
pub mod cpu;
pub mod device;
pub mod memory;
pub mod pages;
pub mod space;
pub mod time;
#[cfg(unix)]
mod transfer;

pub use block::{BlockBackend, BlockError, Drive, Run, SharedDisk};
pub use cpu::{Attention, CpuBus, PageKind, attention};
pub use device::{Channel, Ctx, Device, DeviceId, Effect, Input, Request, StateError};
pub use memory::{CODE_GRANULE, Collector, GuestMemory, MemoryError, PAGE_SIZE};
pub use pages::PageSet;
pub use space::{AddressSpace, Backing, PortSpace, Region};
pub use time::{Time, TimerQueue};

/// All ones of a register `width` bytes wide: what an unclaimed read returns.
#[must_use]
pub const fn ones(width: usize) -> u64 {
    if width >= 8 { !0 } else { (1 << (width * 8)) - 1 }
}

/// The next 64 bits of a source that is wholly its `state`: SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom
/// Number Generators, 2014).
#[must_use]
pub const fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
