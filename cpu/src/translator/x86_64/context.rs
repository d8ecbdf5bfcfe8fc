//! What translated code keeps beside the architectural state, and where it finds everything.
//!
//! Translated code reaches all of [`Cpu`] through one register, [`ANCHOR`] bytes into it. The anchor's low six bits are 12,
//! so that the same register serves as the count of a shift by the page size. What is used most lies within 128 bytes of it, so that
//! instructions are short: the end of [`Context`], and the general registers behind it.

use std::mem::offset_of;

use super::super::SPARE;
use super::assembler::{At, host};
use super::emit::SLOTS;
use super::returns::Returns;
use super::x87::Area;
use crate::mmu::{Column, TLB_ENTRIES, same_but_for_the_space};
use crate::op::Op;
use crate::state::{Cpu, Mode, State, bits, seg};

/// From the processor's start to where [`host::RBP`] points: so far into the state that all general registers have a displacement
/// of one byte, as what comes right before the state has.
pub const ANCHOR: i32 = offset_of!(Cpu, state) as i32 + 12;
const _: () = assert!(ANCHOR % 64 == 12, "it counts shifts by the page size");
const _: () = assert!(MASK_PAGE.disp >= -128 && reg(15).disp < 128, "they are not near the anchor");
/// Entries of the jump cache, for each privilege. An address is told by its lowest bits, all of them: a call and where it
/// returns to are five bytes from each other, and neither may push the other out.
pub const JUMPS: usize = 1 << 17;
/// Which bits of an address tell its place: in the first table, and in the second. There are few places in the first for what
/// begins at a multiple of 16, as functions do.
const JUMP_BITS: [u64; 2] = [JUMPS as u64 - 1, (JUMPS as u64 - 1) << 4];
/// Of the 32 bits of a budget that is not used up, the upper 16 are not 0.
const BUDGET_BASE: u64 = 1 << 16;
const _: () = assert!(SPARE < BUDGET_BASE, "a budget would become negative");

/// The tag and the code of an empty entry.
const EMPTY: [u64; 2] = [0, 0];

/// Jump caches kept of other address spaces, for each privilege: those that take turns find their code again.
const KEPT: usize = 3;

/// The jump cache of one privilege: addresses, inverted, and the code for each.
///
/// An empty entry has the tag of the last address of all, whose own entry has that of another place then. So the host commits
/// memory only for what is used.
#[repr(C)]
pub struct Jumps {
    /// By different bits of the address: what another one has pushed out of the first is put into the second.
    tables: [Table; 2],
    /// The epoch and mode that it is for.
    stamp: (u64, Mode),
    /// Those of other epochs and modes, the one used last at the end.
    others: Vec<Self>,
}

/// Addresses, inverted, and the code for each.
#[repr(C)]
struct Table {
    entries: Box<[[u64; 2]; JUMPS]>,
    filled: Vec<u32>,
    /// Which bits of an address tell its place.
    bits: u64,
}

impl Table {
    /// An empty one.
    fn new(bits: u64) -> Self {
        let entries = vec![EMPTY; JUMPS].into_boxed_slice();
        let entries = entries.try_into().unwrap_or_else(|_| unreachable!("the length is JUMPS"));
        let mut table = Self { entries, filled: Vec::new(), bits };
        table.empty_last();
        table
    }

    fn empty_last(&mut self) {
        self.entries[JUMPS - 1] = [1, 0];
    }

    #[inline(always)]
    fn place(&self, linear: u64) -> usize {
        ((linear & self.bits) >> self.bits.trailing_zeros()) as usize
    }

    #[inline(always)]
    fn get(&self, linear: u64) -> Option<u64> {
        let [tag, code] = self.entries[self.place(linear)];
        (tag == !linear).then_some(code)
    }

    #[inline(always)]
    fn set(&mut self, linear: u64, code: u64) {
        let i = self.place(linear);
        if self.entries[i][1] == 0 {
            self.filled.push(i as u32);
        }
        self.entries[i] = [!linear, code];
    }

    fn empty(&mut self) {
        for i in self.filled.drain(..) {
            self.entries[i as usize] = EMPTY;
        }
        self.empty_last();
    }
}

/// So often, a block's handlers may carry out what its code was made for.
const STRAYS: u8 = 64;

/// How often translations have strayed.
#[derive(Default)]
pub struct Strays {
    /// By number.
    times: Vec<u8>,
    /// Those that have done so often, and the linear addresses of their pages.
    pub often: Vec<(u32, u64)>,
}

impl Strays {
    /// Translation `number`, in the page at linear address `page`, has strayed.
    pub fn count(&mut self, number: u32, page: u64) {
        let n = number as usize;
        if n >= self.times.len() {
            self.times.resize((n + 1).next_power_of_two(), 0);
        }
        self.times[n] += 1;
        if self.times[n] == STRAYS {
            self.times[n] = 0;
            self.often.push((number, page));
        }
    }

    /// Numbers are void.
    pub fn clear(&mut self) {
        self.times.clear();
        self.often.clear();
    }
}

/// Begins a line of the host's cache.
#[repr(align(64))]
struct Line;

/// Registers are in the state, ...
pub const HOME: u64 = 1;
/// ... or in the host's. The byte at the key of a gate is the key then, and only then.
pub const AWAY: u64 = 0x100;

/// What translated code works with.
#[repr(C, align(64))]
pub struct Context {
    /// The x87 state on its way between the host's registers and ours.
    pub x87: Area,
    /// The arithmetic flags as LAHF and SETO have them: OF in bit 0, the others in bits 8 to 15.
    pub flags: u64,
    /// Where the x87 and MMX registers are: [`HOME`] or [`AWAY`].
    pub x87_home: u64,
    /// The linear address of the access that missed.
    pub lin: u64,
    /// The exit that was taken, or 0.
    pub edge: u64,
    /// [`super::handle`].
    pub handle: u64,
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
    /// The instruction count at which even [`SPARE`] is used up.
    limit: u64,
    /// What the time-stamp counter has beyond the instruction count.
    ahead: u64,
    /// The time-stamp counter at the start of a block, plus `budget`.
    stamp: u64,
    mask_tsd: u64,
    mask_second: u64,
    /// The operation that did not complete.
    pub failed: Option<Op>,
    /// By privilege.
    pub jumps: [Jumps; 2],
    /// What those are valid by.
    pub epochs: [u64; 2],
    /// Which translations stray.
    pub strays: Strays,
    /// By privilege: the epoch that jumps between pages are patched for, if any are.
    pub linked_in: [Option<u64>; 2],
    /// Where returns lead; valid as long as `jumps` are.
    pub returns: Returns,
    /// What comes next ends where this ends.
    _near: Line,
    _room: [u64; 2],
    mask_page: u64,
    mask_jump: u64,
    /// Where the vector registers are: [`HOME`] or [`AWAY`].
    pub vectors_home: u64,
    /// What groups of accesses have found: the host addresses of their leaders.
    found: [u64; SLOTS],
    /// Where to go first.
    pub target: u64,
    /// The linear address of the code page.
    pub page: u64,
    /// How many instructions may be retired beyond [`SPARE`], plus [`BUDGET_BASE`]; below that, translated code returns.
    budget: u64,
}

const _: () = assert!(offset_of!(Context, budget) + 8 == size_of::<Context>(), "a hole lies before the state");

impl Default for Context {
    /// Empty caches.
    fn default() -> Self {
        Self {
            x87: Area::default(),
            flags: 0,
            x87_home: HOME,
            lin: 0,
            edge: 0,
            handle: 0,
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
            ahead: 0,
            stamp: 0,
            mask_tsd: bits::CR4_TSD,
            mask_second: JUMP_BITS[1],
            failed: None,
            jumps: [Jumps::new(), Jumps::new()],
            epochs: [0; 2],
            strays: Strays::default(),
            linked_in: [None; 2],
            returns: Returns::default(),
            _near: Line,
            _room: [0; 2],
            mask_page: (TLB_ENTRIES as u64 - 1) << 12,
            mask_jump: JUMP_BITS[0],
            vectors_home: HOME,
            found: [0; SLOTS],
            target: 0,
            page: 0,
            budget: BUDGET_BASE,
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

    /// Lets `left` instructions be retired from count `icount` on, more than [`SPARE`] and less than 2^31.
    pub fn grant(&mut self, icount: u64, left: u64) {
        self.budget = BUDGET_BASE + left - SPARE;
        self.limit = icount + left;
        self.learn_time(self.ahead);
    }

    /// Takes over what the time-stamp counter has beyond the instruction count.
    pub fn learn_time(&mut self, ahead: u64) {
        self.ahead = ahead;
        self.stamp = self.icount().wrapping_add(self.budget).wrapping_add(ahead);
    }

    /// How many instructions may still be retired, [`SPARE`] included.
    pub fn left(&self) -> u64 {
        (self.budget + SPARE).wrapping_sub(BUDGET_BASE)
    }

    /// No more than [`SPARE`] may be retired.
    pub fn is_spent(&self) -> bool {
        self.budget < BUDGET_BASE
    }

    /// `n` instructions are retired.
    pub fn retire(&mut self, n: u64) {
        self.budget = self.budget.wrapping_sub(n);
    }

    /// The instruction count, as far as blocks are left.
    pub fn icount(&self) -> u64 {
        self.limit.wrapping_sub(self.left())
    }
}

impl Jumps {
    /// An empty one.
    fn new() -> Self {
        Self { tables: JUMP_BITS.map(Table::new), stamp: (0, Mode(0)), others: Vec::new() }
    }

    /// The jump cache of the processor's privilege, epoch and mode; the stack of returns is that one's, too.
    #[inline(always)]
    pub fn of(cpu: &mut Cpu) -> &mut Self {
        let mode = cpu.state.mode;
        let stamp = (cpu.mmu.code_epoch(mode.user()), mode);
        let jumps = &mut cpu.jit.jumps[usize::from(mode.user())];
        if jumps.stamp != stamp {
            jumps.change(stamp);
            cpu.jit.epochs[usize::from(mode.user())] = stamp.0;
            cpu.jit.returns.forget(mode.user());
        }
        cpu.jit.returns.select(mode.user());
        &mut cpu.jit.jumps[usize::from(mode.user())]
    }

    /// Goes to the cache for `stamp`: one that has been kept, or an empty one.
    #[cold]
    fn change(&mut self, stamp: (u64, Mode)) {
        if !same_but_for_the_space(self.stamp.0, stamp.0) {
            // The epoch that is left never comes back.
            self.empty();
            self.stamp = stamp;
            return;
        }
        let mut other = match self.others.iter().position(|o| o.stamp == stamp) {
            Some(i) => self.others.remove(i),
            None if self.others.len() < KEPT => Self::new(),
            None => self.others.remove(0),
        };
        if other.stamp != stamp {
            other.empty();
            other.stamp = stamp;
        }
        std::mem::swap(&mut other.others, &mut self.others);
        std::mem::swap(&mut other, self);
        self.others.push(other);
    }

    /// The code for linear address `linear`.
    #[inline(always)]
    pub fn get(&self, linear: u64) -> Option<u64> {
        self.tables.iter().find_map(|t| t.get(linear))
    }

    /// Enters the code for linear address `linear`: in the first table, whose entry for another address goes to the second.
    #[inline(always)]
    pub fn set(&mut self, linear: u64, code: u64) {
        let [first, second] = &mut self.tables;
        let [tag, pushed_out] = first.entries[first.place(linear)];
        if pushed_out != 0 && tag != !linear {
            second.set(!tag, pushed_out);
        }
        first.set(linear, code);
    }

    /// Empties it, and those of other epochs.
    pub fn clear(&mut self) {
        self.empty();
        self.others.clear();
    }

    fn empty(&mut self) {
        self.tables.iter_mut().for_each(Table::empty);
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
    STACK_TOP = jit.returns.top;
    HOST_STACK = jit.returns.host;
    MASK_PAGE = jit.mask_page;
    MASK_JUMP = jit.mask_jump;
    MASK_SECOND = jit.mask_second;
    MASK_ALIGNED_16 = jit.mask_aligned_16;
    MASK_ALIGNED_32 = jit.mask_aligned_32;
    MASK_EXCEPTIONS = jit.mask_exceptions;
    MASK_SIGN = jit.mask_sign;
    MASK_TOP = jit.mask_top;
    MASK_TSD = jit.mask_tsd;
    STAMP = jit.stamp;
    CODE_LIMIT = jit.code_limit;
    CODE_REACH = jit.code_reach;
    HOST_MXCSR = jit.host_mxcsr;
    MXCSR = state.mxcsr;
    RIP = state.rip;
    CR4 = state.cr4;
    TSC_AUX = state.msr.tsc_aux;
}

/// What is 0 where the budget is used up: 16 bits.
pub const BUDGET_LEFT: At = At { disp: BUDGET.disp + 2, ..BUDGET };

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

/// What code addresses of a privilege are valid by.
pub const fn epoch(user: bool) -> At {
    at(offset_of!(Cpu, jit) + offset_of!(Context, epochs) + 8 * user as usize)
}

/// The base of segment `n`.
pub const fn base(n: u8) -> At {
    at(offset_of!(Cpu, state) + offset_of!(State, bases) + 8 * n as usize)
}

const fn entry(tables: i32, column: Column, user: bool, index: u8) -> At {
    At { base: None, index: Some(index), scale: 3, disp: tables + 8 * column.start(user) as i32 }
}

/// The tag in TLB place `index`; the tables are at address `tables`.
pub const fn tlb_tag(tables: i32, user: bool, write: bool, index: u8) -> At {
    entry(tables, if write { Column::Write } else { Column::Read }, user, index)
}

/// What TLB place `index` adds.
pub const fn tlb_host(tables: i32, user: bool, index: u8) -> At {
    entry(tables, Column::Host, user, index)
}

/// Where the address of the entries of the jump cache's first table is, or with `second` of its second.
pub const fn jumps(user: bool, second: bool) -> At {
    let table = offset_of!(Jumps, tables) + second as usize * size_of::<Table>() + offset_of!(Table, entries);
    at(offset_of!(Cpu, jit) + offset_of!(Context, jumps) + user as usize * size_of::<Jumps>() + table)
}

/// Entry `index` / 2 of the jump cache at `entries`.
pub const fn jump_place(entries: u8, index: u8) -> At {
    At::indexed(entries, index, 3, 0)
}

/// In the entry of the jump cache at `place`: the tag.
pub const fn jump_tag(place: u8) -> At {
    At::base(place, 0)
}

/// The same: the code.
pub const fn jump_code(place: u8) -> At {
    At::base(place, 8)
}
