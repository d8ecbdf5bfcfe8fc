//! Decoded blocks and their cache.
//!
//! A block is a run of instructions that starts at one physical address in one mode and lies within one page (only a
//! block of a single instruction may run over into a second page). It goes on past conditional branches that are not
//! taken and ends with an unconditional transfer, an instruction after which the run loop must look around, the page's
//! end, or [`MAX_OPS`] instructions.
//!
//! **Invariant:** a live block's bytes are marked as code in [`GuestMemory`], and any write to them retires the block;
//! or it is a *checked* block.
//!
//! Bytes whose code is written again and again (self-modifying code, a JIT that patches itself) would cost a trapped
//! store and their blocks each time. Such a granule ([`CODE_GRANULE`]) becomes *volatile*: its stores are not watched, blocks
//! that begin in it or cannot end before it keep a copy of their bytes that is compared at each entry, and end at each
//! instruction that may store. A granule whose blocks pass that check long enough becomes an ordinary one again.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::Arc;

use iced_x86::{Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};
use softmetal_bus::{CODE_GRANULE, GuestMemory, PAGE_SIZE};

use crate::exec::cpuid::Forms;
use crate::exec::{self, vector};
use crate::lower::Lower;
use crate::op::Op;
use crate::state::Mode;
use crate::table;

/// Instructions in a block at most: [`Decoded::plain`] has a bit for each.
pub const MAX_OPS: usize = 64;
/// The longest instruction, in bytes.
pub const MAX_LEN: usize = 15;
/// Blocks in the cache before those that have no translation are dropped.
const MAX_BLOCKS: usize = 1 << 17;
/// So many are expected: the host commits memory only for those that there are, and nothing is moved.
const USUAL_BLOCKS: usize = 1 << 16;
/// A granule becomes volatile when its code is written so often, ...
const CHURN: u32 = 16;
/// ... each time within so many instructions of the time before.
const CHURN_WINDOW: u64 = 50_000;
/// So many entries of a checked block without a change make its granule an ordinary one again.
const STEADY: u32 = 4096;
/// Granules that are remembered to have been written before everything is forgotten.
const MOST_CHURN: usize = 1 << 16;
const GRANULE: u64 = CODE_GRANULE as u64;

/// Where a block went last time from one of its exits.
#[derive(Clone, Copy, Default)]
pub struct Link {
    /// Where the target is, as the run loop tells places apart.
    pub key: u64,
    /// The address space that it was resolved in.
    pub stamp: u64,
    /// The target block's serial number; 0 is no link.
    pub serial: u32,
    /// The target block's index.
    pub index: u32,
}

/// A decoded block: two lines of the host's cache, of which the first holds what each entry looks at.
#[repr(C, align(64))]
pub struct Block {
    /// The operations; never empty in a live block. Its translation has a part in them.
    pub ops: Arc<[Op]>,
    /// Its place in guest memory, if it is there and can be found again.
    pub offset: Option<u64>,
    /// Physical address of the first byte.
    pub physical: u64,
    special: Option<Box<Special>>,
    /// Its number among all ever made; 0 once retired.
    pub serial: u32,
    /// How often it was interpreted, while a translator counts.
    pub heat: Cell<u32>,
    /// The number of its translation, or 0.
    pub translation: Cell<u32>,
    /// The mode that it was decoded for.
    pub mode: Mode,
    /// Runs over into a second page.
    pub crosses: bool,
    /// Successors, by the lowest bit of the ordinal of the operation that leaves it.
    pub links: [Cell<Link>; 2],
    /// By operation, from bit 0 on: [`Decoded::plain`].
    pub plain: u64,
}
const _: () = assert!(size_of::<Block>() == 128, "a block has grown");

/// What few blocks have.
enum Special {
    Checked(Checked),
    Crossing(Crossing),
}

/// Where a block is that runs over into a second page.
#[derive(Clone, Copy)]
pub struct Crossing {
    /// The physical address of its part of the second page.
    pub second: u64,
    /// The pages of guest memory that it is in.
    pub pages: [u64; 2],
}

impl Block {
    /// Of a block in a volatile granule: what it was made from.
    #[inline(always)]
    pub fn checked(&self) -> Option<&Checked> {
        match self.special.as_deref()? {
            Special::Checked(c) => Some(c),
            Special::Crossing(_) => None,
        }
    }

    /// Of a block that runs over into a second page and is kept: where it is.
    pub fn crossing(&self) -> Option<Crossing> {
        match self.special.as_deref()? {
            Special::Checked(_) => None,
            Special::Crossing(c) => Some(*c),
        }
    }

    /// Its bytes in guest memory, if it is there and within a page.
    fn extent(&self) -> Option<Range<u64>> {
        match self.checked() {
            Some(c) => Some(c.offset..c.offset + c.bytes.len() as u64),
            None => self.offset.map(|offset| offset..offset + self.ops.last().map_or(1, Op::end)),
        }
    }
}

/// The bytes of a block in a volatile granule.
pub struct Checked {
    /// Their place in guest memory.
    pub offset: u64,
    bytes: Box<[u8]>,
    constants: Box<[Constant]>,
    /// Entries since they changed last.
    steady: Cell<u32>,
}

/// The immediate of a MOV to a register: what programs that patch themselves patch most.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Constant {
    ordinal: u16,
    /// Offset from the block's start, and size, of its bytes.
    at: u16,
    size: u8,
    signed: bool,
}

impl Constant {
    fn value(self, bytes: &[u8]) -> u64 {
        let field = &bytes[usize::from(self.at)..][..usize::from(self.size)];
        let raw = field.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b));
        let unused = 64 - 8 * u32::from(self.size);
        if self.signed { ((raw << unused) as i64 >> unused) as u64 } else { raw }
    }
}

/// What the decoder makes, and works in.
#[derive(Default)]
pub struct Decoded {
    /// The operations.
    pub ops: Vec<Op>,
    /// A bit for each, from bit 0 on: it does what iced takes its bytes for. What the model does not have, or takes for
    /// something else, does not.
    pub plain: u64,
    constants: Vec<Constant>,
}

/// What a look at a checked block's bytes found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// They are as they were.
    Same,
    /// They have changed: the block must be made anew.
    Changed,
    /// They are as they were, for so long that the granule is an ordinary one.
    Steady,
}

impl Checked {
    /// Reads the bytes anew and takes over constants that have changed; false if anything else has.
    fn patch(&mut self, ops: &mut [Op], memory: &GuestMemory) -> bool {
        let mut now = [0; 64];
        let Some(now) = now.get_mut(..self.bytes.len()) else { return false };
        if self.constants.is_empty() || memory.read(self.offset, now).is_err() {
            return false;
        }
        let mut from = 0;
        for c in &self.constants {
            let at = usize::from(c.at);
            if now[from..at] != self.bytes[from..at] {
                return false;
            }
            from = at + usize::from(c.size);
        }
        if now[from..] != self.bytes[from..] {
            return false;
        }
        for c in &self.constants {
            ops[usize::from(c.ordinal)].imm = c.value(now);
        }
        self.bytes.copy_from_slice(now);
        self.steady.set(0);
        true
    }

    /// Compares with memory.
    pub fn check(&self, memory: &GuestMemory) -> Check {
        let mut now = [0; 32];
        for (i, bytes) in self.bytes.chunks(now.len()).enumerate() {
            let now = &mut now[..bytes.len()];
            if memory.read(self.offset + 32 * i as u64, now).is_err() || now != bytes {
                return Check::Changed;
            }
        }
        self.steady.set(self.steady.get() + 1);
        if self.steady.get() > STEADY { Check::Steady } else { Check::Same }
    }
}

/// Of keys that are numbers.
#[derive(Default)]
pub(crate) struct KeyHasher(u64);
impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(u64::from(b));
        }
    }
    fn write_u64(&mut self, v: u64) {
        self.0 = (self.0 ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}
pub(crate) type Map<V> = HashMap<u64, V, BuildHasherDefault<KeyHasher>>;

/// All decoded blocks.
#[derive(Default)]
pub struct BlockCache {
    blocks: Vec<Block>,
    free: Vec<u32>,
    by_start: Map<u32>,
    /// Blocks that run over into a second page: whoever finds one here must look whether that is still the next one.
    crossing: Map<u32>,
    by_page: Map<Vec<u32>>,
    /// By granule: how often its code was written in a row, and the instruction count of the last time.
    churn: Map<(u32, u64)>,
    next_serial: u32,
    /// Translations of blocks that have been retired since somebody looked.
    pub retired: Vec<u32>,
    /// All blocks have been retired since somebody looked.
    pub emptied: bool,
    /// Blocks decoded so far.
    pub decoded: u64,
}

/// What the decoder was given and could not finish.
pub enum Undecodable {
    /// The first instruction runs over the page's end: its other bytes are needed.
    CrossesPage,
}

impl BlockCache {
    /// Block number `index`.
    #[must_use]
    #[inline(always)]
    pub fn get(&self, index: u32) -> &Block {
        &self.blocks[index as usize]
    }

    /// Forgets all translations, so that they are made anew.
    pub fn forget_translations(&mut self) {
        self.blocks.iter_mut().for_each(|b| b.translation.set(0));
        self.retired.clear();
    }

    /// The live block that starts at `physical` in `mode`.
    #[must_use]
    #[inline]
    pub fn find(&self, physical: u64, mode: Mode) -> Option<u32> {
        self.by_start.get(&key(physical, mode)).copied()
    }

    /// How many of the `len` bytes at `offset` of guest memory come before the first volatile granule.
    #[must_use]
    pub fn steady(&self, offset: u64, len: usize) -> usize {
        if self.churn.is_empty() {
            return len;
        }
        let granules = offset / GRANULE..=(offset + len as u64 - 1) / GRANULE;
        let first = granules.into_iter().find(|g| self.churn.get(g).is_some_and(|&(n, _)| n >= CHURN));
        first.map_or(len, |g| (g * GRANULE).saturating_sub(offset) as usize)
    }

    /// Enters a block; `offset` is the place of its first byte in guest memory, if it is there.
    pub fn insert(
        &mut self,
        decoded: &Decoded,
        physical: u64,
        mode: Mode,
        crosses: bool,
        memory: &GuestMemory,
        offset: Option<u64>,
    ) -> u32 {
        self.make_room(memory);
        let block = self.make(decoded, physical, mode, crosses, None);
        let index = self.place(block);
        // A block outside memory (code in a device's window) or across pages is used once and never found again.
        if let (Some(offset), false) = (offset, crosses) {
            self.blocks[index as usize].offset = Some(offset);
            self.by_start.insert(key(physical, mode), index);
            self.by_page.entry(offset / PAGE_SIZE as u64).or_default().push(index);
        } else {
            self.blocks[index as usize].serial = 0;
            self.free.push(index);
        }
        index
    }

    /// Enters a block of a volatile granule, made from `bytes` at `offset`, or puts it in the place of an older one.
    pub fn insert_checked(&mut self, decoded: &Decoded, physical: u64, mode: Mode, bytes: &[u8], offset: u64) -> u32 {
        let checked = Checked { offset, bytes: bytes.into(), constants: decoded.constants.as_slice().into(), steady: Cell::new(0) };
        let block = self.make(decoded, physical, mode, false, Some(Special::Checked(checked)));
        if let Some(index) = self.find(physical, mode) {
            self.blocks[index as usize] = block;
            return index;
        }
        let index = self.place(block);
        self.by_start.insert(key(physical, mode), index);
        self.by_page.entry(offset / PAGE_SIZE as u64).or_default().push(index);
        index
    }

    /// Enters a block of one instruction that runs over into the page of `second`; `offsets` are the places of its parts in
    /// guest memory.
    pub fn insert_crossing(
        &mut self,
        decoded: &Decoded,
        (physical, second): (u64, u64),
        mode: Mode,
        offsets: [u64; 2],
        memory: &GuestMemory,
    ) -> u32 {
        self.make_room(memory);
        if let Some(index) = self.crossing.remove(&key(physical, mode)) {
            self.release_crossing(index);
        }
        let pages = offsets.map(|offset| offset / PAGE_SIZE as u64);
        let crossing = Special::Crossing(Crossing { second, pages });
        let block = Block { offset: Some(offsets[0]), ..self.make(decoded, physical, mode, true, Some(crossing)) };
        let index = self.place(block);
        self.crossing.insert(key(physical, mode), index);
        // Two linear pages may be one page of memory.
        for &page in if pages[0] == pages[1] { &pages[..1] } else { &pages[..] } {
            self.by_page.entry(page).or_default().push(index);
        }
        index
    }

    /// The block that starts at `physical` in `mode` and runs over into the page of [`Crossing::second`].
    #[must_use]
    pub fn find_crossing(&self, physical: u64, mode: Mode) -> Option<u32> {
        self.crossing.get(&key(physical, mode)).copied()
    }

    /// Where there are too many blocks, drops those within a page that have not run often enough to be translated; all, if
    /// that does not help.
    fn make_room(&mut self, memory: &GuestMemory) {
        if self.by_start.len() + self.crossing.len() < MAX_BLOCKS {
            return;
        }
        for (i, b) in self.blocks.iter_mut().enumerate() {
            if b.serial != 0 && !b.crosses && b.translation.get() == 0 {
                (b.serial, b.ops) = (0, Arc::default());
                self.free.push(i as u32);
            }
        }
        let blocks = &self.blocks;
        let lives = |i: u32| blocks[i as usize].serial != 0;
        self.by_start.retain(|_, i| lives(*i));
        self.by_page.retain(|page, list| {
            list.retain(|&i| lives(i));
            if list.is_empty() {
                memory.clear_code(page * PAGE_SIZE as u64);
            }
            !list.is_empty()
        });
        if self.by_start.len() + self.crossing.len() > MAX_BLOCKS / 16 * 15 {
            self.clear(memory);
        }
    }

    /// Takes a block across pages out of the lists of both.
    fn release_crossing(&mut self, index: u32) {
        let b = &mut self.blocks[index as usize];
        b.serial = 0;
        let translation = b.translation.take();
        if translation != 0 {
            self.retired.push(translation);
        }
        self.crossing.remove(&key(b.physical, b.mode));
        for page in b.crossing().into_iter().flat_map(|c| c.pages) {
            if let Some(list) = self.by_page.get_mut(&page) {
                list.retain(|&i| i != index);
            }
        }
        self.free.push(index);
    }

    /// Brings a checked block whose bytes have changed up to date, if only constants have; false if it must be made anew.
    pub fn patch(&mut self, index: u32, memory: &GuestMemory) -> bool {
        let block = &mut self.blocks[index as usize];
        let Some(Special::Checked(c)) = block.special.as_deref_mut() else { return false };
        Arc::get_mut(&mut block.ops).is_some_and(|ops| c.patch(ops, memory))
    }

    fn make(&mut self, decoded: &Decoded, physical: u64, mode: Mode, crosses: bool, special: Option<Special>) -> Block {
        self.decoded += 1;
        self.next_serial = self.next_serial.wrapping_add(1).max(1);
        Block {
            ops: decoded.ops.as_slice().into(),
            offset: None,
            physical,
            special: special.map(Box::new),
            serial: self.next_serial,
            heat: Cell::new(0),
            translation: Cell::new(0),
            mode,
            crosses,
            links: Default::default(),
            plain: decoded.plain,
        }
    }

    fn place(&mut self, block: Block) -> u32 {
        if let Some(i) = self.free.pop() {
            self.blocks[i as usize] = block;
            return i;
        }
        if self.blocks.capacity() == 0 {
            self.blocks.reserve(USUAL_BLOCKS);
        }
        self.blocks.push(block);
        (self.blocks.len() - 1) as u32
    }

    /// The `len` bytes at `offset`, within a page, are being written at instruction count `now`: retires their blocks.
    pub fn written(&mut self, offset: u64, len: u64, now: u64, memory: &GuestMemory) {
        let granules = offset / GRANULE..(offset + len.max(1) - 1) / GRANULE + 1;
        for granule in granules.clone().filter(|g| memory.hits_code(g * GRANULE, 1)) {
            let (times, last) = self.churn.entry(granule).or_default();
            *times = if now.wrapping_sub(*last) < CHURN_WINDOW { *times + 1 } else { 1 };
            *last = now;
        }
        self.retire(&granules, memory);
        if self.churn.len() > MOST_CHURN {
            self.clear(memory);
        }
    }

    /// The granules of checked block `index` are ordinary ones again.
    pub fn calm(&mut self, index: u32, memory: &GuestMemory) {
        let Some(bytes) = self.get(index).extent() else { return };
        let granules = bytes.start / GRANULE..(bytes.end - 1) / GRANULE + 1;
        for granule in granules.clone() {
            self.churn.remove(&granule);
        }
        self.retire(&granules, memory);
    }

    /// Retires the blocks that have bytes in some granules of a page.
    fn retire(&mut self, granules: &Range<u64>, memory: &GuestMemory) {
        let hit = granules.start * GRANULE..granules.end * GRANULE;
        let page = hit.start / PAGE_SIZE as u64;
        memory.clear_code(hit.start);
        let mut kept = Vec::new();
        for index in self.by_page.remove(&page).unwrap_or_default() {
            let b = &mut self.blocks[index as usize];
            if b.crosses {
                self.release_crossing(index);
                continue;
            }
            if let Some(bytes) = b.extent().filter(|bytes| bytes.end <= hit.start || hit.end <= bytes.start) {
                if b.checked().is_none() {
                    // The page has been one of code all the time: no translation lets stores through.
                    memory.mark_code(bytes.start, (bytes.end - bytes.start) as usize);
                }
                kept.push(index);
                continue;
            }
            self.by_start.remove(&key(b.physical, b.mode));
            b.serial = 0;
            let translation = b.translation.take();
            if translation != 0 {
                self.retired.push(translation);
            }
            self.free.push(index);
        }
        if !kept.is_empty() {
            self.by_page.insert(page, kept);
        }
    }

    /// Retires everything.
    pub fn clear(&mut self, memory: &GuestMemory) {
        for page in self.by_page.keys() {
            memory.clear_code(page * PAGE_SIZE as u64);
        }
        for b in &mut self.blocks {
            b.serial = 0;
            b.translation.set(0);
        }
        self.retired.clear();
        self.emptied = true;
        self.by_start.clear();
        self.crossing.clear();
        self.by_page.clear();
        self.churn.clear();
        self.free = (0..self.blocks.len() as u32).rev().collect();
    }
}

pub(crate) fn key(physical: u64, mode: Mode) -> u64 {
    const { assert!(crate::mmu::PHYSICAL_BITS <= 48, "the key has room for the mode below the address") };
    physical << 16 | u64::from(mode.0)
}

/// How far a block may go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// As the module says.
    Whole,
    /// To the first instruction that may store: in a volatile granule.
    ToStore,
    /// One instruction.
    Single,
}

/// Decodes and lowers from `bytes`, which begin at the block's first byte and end at the page's (or, for a single
/// instruction across pages, later), for a model that has `forms`. Replaces what is in `out`; returns how many bytes the operations cover.
///
/// # Errors
/// [`Undecodable::CrossesPage`] if not even the first instruction is complete.
pub fn decode(bytes: &[u8], mode: Mode, forms: &Forms, extent: Extent, out: &mut Decoded) -> Result<usize, Undecodable> {
    let single = extent == Extent::Single;
    let mut decoder = Decoder::with_ip(mode.bits(), bytes, 0, DecoderOptions::NONE);
    let Decoded { ops, plain, constants } = out;
    *plain = 0;
    ops.clear();
    constants.clear();
    let mut covered = 0;
    let mut instruction = Instruction::default();
    while decoder.can_decode() && ops.len() < if single { 1 } else { MAX_OPS } {
        decoder.decode_out(&mut instruction);
        let ordinal = ops.len() as u16;
        if instruction.is_invalid() {
            if decoder.last_error() == DecoderError::NoMoreBytes && bytes.len() - covered < MAX_LEN {
                if ops.is_empty() && !single {
                    return Err(Undecodable::CrossesPage);
                }
                if !ops.is_empty() {
                    break;
                }
            }
            let handler = if too_long(&bytes[covered..], mode) { exec::too_long } else { exec::invalid };
            let mut op = Lower::new(&Instruction::default(), mode, ordinal, handler).op;
            (op.offset, op.len) = (covered as u16, (bytes.len() - covered).min(MAX_LEN) as u8);
            ops.push(op);
            covered += usize::from(op.len);
            break;
        }
        let l = Lower::new(&instruction, mode, ordinal, exec::unimplemented);
        let lowered = match forms.meaning(&instruction) {
            Some(mnemonic) => table::find(mnemonic).and_then(|row| (row.lower)(&l)).map(|op| {
                let unavailable = vector::unavailable_in(mode, &instruction);
                let itself = mnemonic == instruction.mnemonic() && unavailable.is_none() && !exec::is_refusal(op.handler);
                *plain |= u64::from(itself) << ordinal;
                Op { handler: unavailable.unwrap_or(op.handler), ..op }
            }),
            // Quietly, if it is implemented and only this model has not got it.
            None if table::find(instruction.mnemonic()).is_some() => l.with(exec::invalid),
            // An extension of the opcodes that are reserved as NOPs is one where it is not implemented (SDM 2, NOP).
            None if forms.reserved_nops() => reserved_nop(&bytes[covered..], mode, &instruction, ordinal),
            None => l.with(exec::invalid),
        };
        ops.push(lowered.unwrap_or(l.op));
        covered = instruction.ip() as usize + instruction.len();
        if extent == Extent::ToStore && instruction.mnemonic() == Mnemonic::Mov && instruction.op0_kind() == OpKind::Register {
            let offsets = decoder.get_constant_offsets(&instruction);
            if offsets.has_immediate() {
                let at = instruction.ip() as u16 + offsets.immediate_offset() as u16;
                let signed = instruction.op1_kind() == OpKind::Immediate32to64;
                constants.push(Constant { ordinal, at, size: offsets.immediate_size() as u8, signed });
            }
        }
        let ends = match instruction.flow_control() {
            FlowControl::Next | FlowControl::ConditionalBranch => exec::ends_block(&instruction),
            _ => true,
        };
        if ends || lowered.is_none() || extent == Extent::ToStore && may_store(&instruction) {
            break;
        }
    }
    Ok(covered)
}

/// An opcode that is reserved as a NOP, lowered as one.
#[cold]
fn reserved_nop(bytes: &[u8], mode: Mode, instruction: &Instruction, ordinal: u16) -> Option<Op> {
    let nop = Decoder::with_ip(mode.bits(), bytes, instruction.ip(), DecoderOptions::FORCE_RESERVED_NOP).decode();
    let row = table::find(nop.mnemonic())?;
    (row.lower)(&Lower::new(&nop, mode, ordinal, exec::unimplemented))
}

/// Whether bytes that do not decode are an instruction of more than 15 bytes: prefixes make it so long.
#[cold]
fn too_long(bytes: &[u8], mode: Mode) -> bool {
    let prefix =
        |b: u8| matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3) || mode.long() && (0x40..=0x4f).contains(&b);
    if bytes.len() < MAX_LEN {
        return false;
    }
    for taken in 1..MAX_LEN {
        if !prefix(bytes[taken - 1]) {
            return false;
        }
        // What is #UD for its operands (MOV to CS) has a length all the same, and is too long first.
        let mut decoder = Decoder::with_ip(mode.bits(), &bytes[taken..], 0, DecoderOptions::NO_INVALID_CHECK);
        let rest = decoder.decode();
        if !rest.is_invalid() {
            return taken + rest.len() > MAX_LEN;
        }
        if decoder.last_error() == DecoderError::NoMoreBytes {
            return true;
        }
    }
    true
}

/// Whether an instruction may write memory: all that do have it as their first operand, or use the stack.
fn may_store(i: &Instruction) -> bool {
    i.is_stack_instruction() || i.op_count() > 0 && !matches!(i.op0_kind(), OpKind::Register)
}
