//! What translated code keeps beside the architectural state, and where it finds everything.
//!
//! Translated code reaches all of [`Cpu`] through one register, [`ANCHOR`] bytes into it. The anchor's low six bits are 12,
//! so that the same register serves as the count of a shift by the page size.

use std::mem::offset_of;

use super::assembler::{At, host};
use super::emit::SLOTS;
use super::x87::Area;
use crate::mmu::{Fast, Mmu, TLB_ENTRIES};
use crate::op::Op;
use crate::state::{Cpu, Mode, State, seg};

/// From the processor's start to where [`host::RBP`] points.
pub const ANCHOR: i32 = 12;
/// Entries of the jump cache, for each privilege.
pub const JUMPS: usize = 4096;
/// The address bits below those that choose an entry of the jump cache: functions begin at multiples of 16, returns anywhere.
const SKIPPED: u32 = 3;
const JUMP_BITS: u64 = (JUMPS as u64 - 1) << SKIPPED;

const fn place(linear: u64) -> usize {
    ((linear & JUMP_BITS) >> SKIPPED) as usize
}
/// The longest block, in instructions: translated code is entered only with so much budget left.
pub const SPARE: u64 = crate::block::MAX_OPS as u64;

/// No address that code can have, negated.
const NOWHERE: u64 = 0x0008_0000_0000_0000;

/// The jump cache of one privilege: tags are negated addresses.
#[repr(C)]
pub struct Jumps {
    tags: [u64; JUMPS],
    codes: [u64; JUMPS],
    filled: Vec<u16>,
    /// What an empty entry leads to: the way out.
    home: u64,
    /// The epoch and mode that it is for.
    stamp: (u64, Mode),
}

/// What translated code works with.
#[repr(C, align(64))]
pub struct Context {
    /// How many instructions may be retired beyond [`SPARE`]; below 0, translated code returns.
    pub budget: i64,
    /// The linear address of the code page.
    pub page: u64,
    /// The arithmetic flags as LAHF and SETO have them: OF in bit 0, the others in bits 8 to 15.
    pub flags: u64,
    /// 1: the vector registers are in the state; 0: in the host's.
    pub vectors_home: u64,
    /// 1: the x87 and MMX registers are in the state; 0: in the host's.
    pub x87_home: u64,
    /// The linear address of the access that missed.
    pub lin: u64,
    /// The exit that was taken, or 0.
    pub edge: u64,
    /// Where to go first.
    pub target: u64,
    /// [`super::handle`].
    pub handle: u64,
    /// What groups of accesses have found: what is to be added to their addresses.
    found: [u64; SLOTS],
    mask_page: u64,
    mask_jump: u64,
    mask_aligned_16: u64,
    mask_aligned_32: u64,
    mask_exceptions: u64,
    mask_sign: u64,
    mask_top: u64,
    /// By segment, outside of 64-bit mode: the offset behind the last that loads, or stores, may reach; 0 if it takes more
    /// than that to tell.
    limits: [[u64; 6]; 2],
    /// The offset behind the last one in CS.
    code_limit: u64,
    /// The same, and below 64 KiB in 16-bit code, where an instruction pointer wraps.
    pub code_reach: u64,
    /// The host's MXCSR.
    pub host_mxcsr: u32,
    /// The instruction count at which the budget would be -[`SPARE`].
    pub limit: u64,
    /// The operation that did not complete.
    pub failed: Option<Op>,
    /// By privilege.
    pub jumps: [Jumps; 2],
    /// The x87 state on its way between the host's registers and ours.
    pub x87: Area,
}

impl Default for Context {
    /// Empty caches.
    fn default() -> Self {
        let jumps = || Jumps { tags: [NOWHERE; JUMPS], codes: [0; JUMPS], filled: Vec::new(), home: 0, stamp: (0, Mode(0)) };
        Self {
            budget: 0,
            page: 0,
            flags: 0,
            vectors_home: 1,
            x87_home: 1,
            lin: 0,
            edge: 0,
            target: 0,
            handle: 0,
            found: [0; SLOTS],
            mask_page: (TLB_ENTRIES as u64 - 1) << 12,
            mask_jump: JUMP_BITS,
            mask_aligned_16: !0xfff | 15,
            mask_aligned_32: !0xfff | 31,
            mask_exceptions: 0x1f80,
            mask_sign: !0 << 47,
            mask_top: 1 << 63,
            limits: [[0; 6]; 2],
            code_limit: 0,
            code_reach: 0,
            host_mxcsr: 0x1f80,
            limit: 0,
            failed: None,
            jumps: [jumps(), jumps()],
            x87: Area::default(),
        }
    }
}

impl Context {
    /// Takes over what the segments admit, outside of 64-bit mode.
    pub fn learn(&mut self, s: &State) {
        let end = |limit: u32| u64::from(limit) + 1;
        for (n, segment) in s.segments.iter().enumerate() {
            for write in [false, true] {
                self.limits[usize::from(write)][n] = if segment.is_plain(s.mode.protected(), write) { end(segment.limit) } else { 0 };
            }
        }
        self.code_limit = end(s.segments[seg::CS].limit);
        self.code_reach = if s.mode.bits() == 16 { self.code_limit.min(1 << 16) } else { self.code_limit };
    }
}

impl Jumps {
    /// Where empty entries lead to: an address may look like theirs.
    pub fn set_home(&mut self, home: u64) {
        self.home = home;
        self.codes.fill(home);
        self.tags.fill(NOWHERE);
        self.filled.clear();
    }

    /// The jump cache of the processor's privilege, emptied if it is of another epoch or mode.
    pub fn of(cpu: &mut Cpu) -> &mut Self {
        let mode = cpu.state.mode;
        let stamp = (cpu.mmu.code_epoch(mode.user()), mode);
        let jumps = &mut cpu.jit.jumps[usize::from(mode.user())];
        if jumps.stamp != stamp {
            jumps.clear();
            jumps.stamp = stamp;
        }
        jumps
    }

    /// The code for linear address `linear`.
    pub fn get(&self, linear: u64) -> Option<u64> {
        let i = place(linear);
        (self.tags[i] == linear.wrapping_neg() && self.codes[i] != self.home).then_some(self.codes[i])
    }

    /// Enters the code for linear address `linear`.
    pub fn set(&mut self, linear: u64, code: u64) {
        let i = place(linear);
        if self.tags[i] == NOWHERE {
            self.filled.push(i as u16);
        }
        (self.tags[i], self.codes[i]) = (linear.wrapping_neg(), code);
    }

    /// Empties it.
    pub fn clear(&mut self) {
        for i in self.filled.drain(..) {
            self.tags[usize::from(i)] = NOWHERE;
            self.codes[usize::from(i)] = self.home;
        }
    }
}

const fn at(offset: usize) -> At {
    At::base(host::RBP, offset as i32 - ANCHOR)
}

macro_rules! places {
    ($($(#[$doc:meta])* $name:ident = $($path:ident).+;)*) => {$(
        $(#[$doc])*
        pub const $name: At = at(offset_of!(Cpu, $($path).+));
    )*};
}
places! {
    BUDGET = jit.budget;
    PAGE = jit.page;
    FLAGS = jit.flags;
    VECTORS_HOME = jit.vectors_home;
    X87_HOME = jit.x87_home;
    LIN = jit.lin;
    EDGE = jit.edge;
    TARGET = jit.target;
    HANDLE = jit.handle;
    MASK_PAGE = jit.mask_page;
    MASK_JUMP = jit.mask_jump;
    MASK_ALIGNED_16 = jit.mask_aligned_16;
    MASK_ALIGNED_32 = jit.mask_aligned_32;
    MASK_EXCEPTIONS = jit.mask_exceptions;
    MASK_SIGN = jit.mask_sign;
    MASK_TOP = jit.mask_top;
    CODE_LIMIT = jit.code_limit;
    CODE_REACH = jit.code_reach;
    HOST_MXCSR = jit.host_mxcsr;
    MXCSR = state.mxcsr;
    RIP = state.rip;
}

/// General register `n` of the guest.
pub const fn reg(n: u8) -> At {
    at(offset_of!(Cpu, state) + offset_of!(State, regs) + 8 * n as usize)
}

/// YMM register `n` of the guest.
pub const fn ymm(n: u8) -> At {
    at(offset_of!(Cpu, state) + offset_of!(State, ymm) + 32 * n as usize)
}

/// The offset behind the last one of segment `n` that loads or stores may reach.
pub const fn limit(n: u8, write: bool) -> At {
    at(offset_of!(Cpu, jit) + offset_of!(Context, limits) + 8 * (6 * write as usize + n as usize))
}

/// What the group of accesses in `slot` has found.
pub const fn found(slot: usize) -> At {
    at(offset_of!(Cpu, jit) + offset_of!(Context, found) + 8 * slot)
}

/// The base of segment `n`.
pub const fn base(n: u8) -> At {
    at(offset_of!(Cpu, state) + offset_of!(State, bases) + 8 * n as usize)
}

const fn entry(offset: usize, index: u8) -> At {
    At::indexed(host::RBP, index, 3, offset as i32 - ANCHOR)
}

const FAST: usize = offset_of!(Cpu, mmu) + offset_of!(Mmu, fast);

/// The tag in TLB place `index`.
pub const fn tlb_tag(user: bool, write: bool, index: u8) -> At {
    let array = if write { offset_of!(Fast, write) } else { offset_of!(Fast, read) };
    entry(FAST + array + user as usize * 8 * TLB_ENTRIES, index)
}

/// What TLB place `index` adds.
pub const fn tlb_host(user: bool, index: u8) -> At {
    entry(FAST + offset_of!(Fast, host) + user as usize * 8 * TLB_ENTRIES, index)
}

const fn jumps(user: bool) -> usize {
    offset_of!(Cpu, jit) + offset_of!(Context, jumps) + user as usize * size_of::<Jumps>()
}

/// The tag in place `index` of the jump cache.
pub const fn jump_tag(user: bool, index: u8) -> At {
    entry(jumps(user) + offset_of!(Jumps, tags), index)
}

/// The code in place `index` of the jump cache.
pub const fn jump_code(user: bool, index: u8) -> At {
    entry(jumps(user) + offset_of!(Jumps, codes), index)
}
