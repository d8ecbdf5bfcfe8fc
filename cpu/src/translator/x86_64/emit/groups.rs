//! Accesses that share one look at the TLB.
//!
//! Accesses whose addresses differ by constants mostly lie in one page. The first of such a *group* (its leader) checks
//! that all of them do, with all that they need; the others (its members) are so many bytes from what it has found, and check
//! nothing.
//!
//! While groups are open (from a leader to a last member) they count as long as the TLB stays as it is. If a leader's check
//! fails, or whatever misses the TLB meanwhile, the block *strays*: handlers carry out what is left to where no group is open.
//! Traces, and blocks that have strayed often ([`super::Input::copies`]), exist twice there instead: with the groups, and
//! *aside*, where each access looks for itself. The leader goes aside; so does whatever misses, once its handler is done.
//! So nothing is found in the TLB that the interpreter would not find there, and each fault has its exact state.

use iced_x86::{Instruction, Mnemonic as M, OpKind, Register};
use softmetal_bus::PAGE_SIZE;

use super::super::super::backend::Input;
use super::super::policy::{self, Uses, Way};
use super::super::registers::number;

/// Groups that are open at once, at most.
pub const SLOTS: usize = 8;
/// Bytes from a group's first to its last, at most: the wider it is, the more often it lies across two pages.
const WIDEST: i64 = 512;

/// What an access has to do with a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It looks for itself alone.
    Single,
    /// It looks for all of the group.
    Leader(Look),
    /// It is found `by` bytes from where its leader found the group's first byte, which is in a slot.
    Member { slot: usize, by: i32 },
}

/// What a leader looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Where it keeps the host's address of the group's first byte.
    pub slot: usize,
    /// Bytes of the group before the leader's address.
    pub before: i32,
    /// Bytes of the group from there on.
    pub after: i32,
    /// One of the group's accesses is a store.
    pub write: bool,
    /// That of the group's first byte, or 0.
    pub alignment: usize,
    /// The first byte's offset in its page, where that is known: then the others lie in that page, aligned as they must be.
    pub offset: Option<i32>,
}

/// What is shared in a block.
#[derive(Default)]
pub struct Plan {
    roles: Vec<Role>,
    /// Where groups are open: first and last instruction.
    regions: Vec<(usize, usize)>,
}

impl Plan {
    /// The role of the access of instruction `k`.
    pub fn role(&self, k: usize) -> Role {
        self.roles.get(k).copied().unwrap_or(Role::Single)
    }

    /// Whether groups are open at instruction `k`.
    pub fn is_open(&self, k: usize) -> bool {
        self.regions.iter().any(|r| (r.0..=r.1).contains(&k))
    }

    /// Where groups are open when instruction `k` is complete: the last instruction there.
    pub fn open_after(&self, k: usize) -> Option<usize> {
        self.regions.iter().find(|r| (r.0..r.1).contains(&k)).map(|r| r.1)
    }

    /// The regions, in order.
    pub fn regions(&self) -> &[(usize, usize)] {
        &self.regions
    }

    /// Looks for groups; `barred` are instructions that go through their handlers against expectation. The jumps in a trace are
    /// expected to go on with the next instruction.
    pub fn new(input: &Input, ways: &[Way], uses: &[Uses], barred: &[usize]) -> Self {
        let mut planner = Planner { path: !input.turns.is_empty(), known: input.known, ..Planner::default() };
        for (k, (i, &way)) in input.instructions.iter().zip(ways).enumerate() {
            if barred.contains(&k) {
                planner.barrier();
            } else {
                planner.instruction(k, i, way, &uses[k]);
            }
        }
        planner.finish(input.instructions.len())
    }
}

/// A value as one that is not known, and a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Value {
    symbol: u32,
    add: i64,
}

/// Addresses with the same place differ by constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    segment: Register,
    base: Option<u32>,
    index: Option<(u32, u32)>,
    /// Of an address relative to RIP: the page, counted from the block's.
    page: Option<i64>,
    /// The number of the page where it seems to lie.
    part: Option<u64>,
}

struct Access {
    place: Place,
    at: i64,
    bytes: i64,
    write: bool,
    alignment: i64,
}

/// Instructions of a group, and the bytes that they reach.
struct Group {
    /// With how many bytes each is from the leader.
    members: Vec<(usize, i32)>,
    place: Place,
    leader: i64,
    first: i64,
    last: i64,
    write: bool,
    /// The largest alignment, and an address that has it.
    aligned: Option<(i64, i64)>,
    /// Conditional jumps before the leader.
    jumps: usize,
    slot: usize,
}

struct Planner {
    registers: [Value; 16],
    symbols: u32,
    open: Vec<Group>,
    done: Vec<Group>,
    jumps: usize,
    path: bool,
    /// As [`Input::known`].
    known: [Option<u64>; 16],
}

impl Default for Planner {
    fn default() -> Self {
        let registers = std::array::from_fn(|n| Value { symbol: n as u32, add: 0 });
        Self { registers, symbols: 16, open: Vec::new(), done: Vec::new(), jumps: 0, path: false, known: [None; 16] }
    }
}

const STACK: usize = 4;
const FRAME: usize = 5;

impl Planner {
    fn unknown(&mut self, register: usize) {
        self.registers[register] = Value { symbol: self.symbols, add: 0 };
        self.symbols += 1;
    }

    /// Something may change everything.
    fn barrier(&mut self) {
        self.done.append(&mut self.open);
        (0..16).for_each(|r| self.unknown(r));
    }

    fn instruction(&mut self, k: usize, i: &Instruction, way: Way, uses: &Uses) {
        match way {
            Way::Nothing => {}
            Way::Jcc => self.jumps += usize::from(!self.path),
            Way::Native => {
                if let Some(n) = (0..i.op_count()).find(|&n| i.op_kind(n) == OpKind::Memory) {
                    if let Some(access) = self.operand(i, !uses.reads(n)) {
                        self.access(k, access);
                    }
                }
                self.writes(i, uses);
            }
            Way::Address | Way::Divide | Way::TimeStamp => self.writes(i, uses),
            Way::Push if i.op0_kind() == OpKind::Memory => self.move_stack(-8),
            Way::Push => self.push(k),
            Way::Pop => {
                self.on_stack(k, self.registers[STACK], false);
                self.move_stack(8);
                self.unknown(number(i.op0_register()).into());
            }
            Way::Leave => {
                let frame = self.registers[FRAME];
                self.on_stack(k, frame, false);
                self.registers[STACK] = frame;
                self.move_stack(8);
                self.unknown(FRAME);
            }
            Way::Call => self.push(k),
            Way::CallIndirect if i.op0_kind() == OpKind::Register => self.push(k),
            Way::CallIndirect => self.move_stack(-8),
            Way::Ret => {
                self.on_stack(k, self.registers[STACK], false);
                self.move_stack(8 + if i.op_count() > 0 { i.immediate16().into() } else { 0 });
            }
            Way::Jmp | Way::JmpIndirect => {}
            Way::Handler | Way::HandlerLast => self.barrier(),
        }
    }

    fn move_stack(&mut self, by: i64) {
        let v = &mut self.registers[STACK].add;
        *v = v.wrapping_add(by);
    }

    fn push(&mut self, k: usize) {
        self.move_stack(-8);
        self.on_stack(k, self.registers[STACK], true);
    }

    fn on_stack(&mut self, k: usize, at: Value, write: bool) {
        let place = Place { segment: Register::None, base: Some(at.symbol), index: None, page: None, part: None };
        self.access(k, Access { place, at: at.add, bytes: 8, write, alignment: 0 });
    }

    /// The pages where an access seems to begin and to end, if it is at so many bytes from what a register held at first.
    fn pages(&self, a: &Access) -> Option<[u64; 2]> {
        let Place { segment: Register::None, base: Some(symbol), index: None, .. } = a.place else { return None };
        let first = self.known.get(symbol as usize).copied().flatten()?.wrapping_add(a.at as u64);
        Some([first, first.wrapping_add(a.bytes as u64 - 1)].map(|at| at / PAGE_SIZE as u64))
    }

    /// What is known of registers after an instruction that touches nothing else.
    fn writes(&mut self, i: &Instruction, uses: &Uses) {
        let to = i.op0_register();
        let before = |planner: &Self, r: Register| planner.registers[usize::from(number(r))];
        let moved = |v: Value, by: i64| Some(Value { add: v.add.wrapping_add(by), ..v });
        let immediate = || matches!(i.op1_kind(), OpKind::Immediate8to64 | OpKind::Immediate32to64).then(|| i.immediate(1) as i64);
        let known = if i.op0_kind() != OpKind::Register || !to.is_gpr64() {
            None
        } else {
            match i.mnemonic() {
                M::Mov if i.op1_kind() == OpKind::Register && i.op1_register().is_gpr64() => Some(before(self, i.op1_register())),
                M::Add => immediate().and_then(|v| moved(before(self, to), v)),
                M::Sub => immediate().and_then(|v| moved(before(self, to), v.wrapping_neg())),
                M::Inc => moved(before(self, to), 1),
                M::Dec => moved(before(self, to), -1),
                M::Lea if i.memory_base().is_gpr64() && i.memory_index() == Register::None => {
                    moved(before(self, i.memory_base()), i.memory_displacement64() as i64)
                }
                _ => None,
            }
        };
        (0..16).filter(|r| uses.written >> r & 1 != 0).for_each(|r| self.unknown(r));
        if let Some(v) = known {
            self.registers[usize::from(number(to))] = v;
        }
    }

    /// The access of a memory operand, if its address can be compared with others.
    fn operand(&self, i: &Instruction, write: bool) -> Option<Access> {
        let (base, index) = (i.memory_base(), i.memory_index());
        let disp = i.memory_displacement64() as i64;
        let bytes = i.memory_size().size() as i64;
        let segment = match i.memory_segment() {
            s @ (Register::FS | Register::GS) => s,
            _ => Register::None,
        };
        let alignment = policy::alignment(i) as i64;
        let mut place = Place { segment, base: None, index: None, page: None, part: None };
        let mut at = disp;
        if base == Register::RIP {
            // Within one page wherever the block is mapped; what does not lie in one is no matter of groups.
            let page = disp & !(PAGE_SIZE as i64 - 1);
            let whole = disp + bytes <= page + PAGE_SIZE as i64 && (alignment == 0 || disp % alignment == 0);
            place.page = Some(page);
            return (whole && segment == Register::None).then_some(Access { place, at, bytes, write, alignment: 0 });
        }
        if base.is_gpr64() {
            let v = self.registers[usize::from(number(base))];
            place.base = Some(v.symbol);
            at = at.wrapping_add(v.add);
        } else if base != Register::None {
            return None;
        }
        if index.is_gpr64() {
            let v = self.registers[usize::from(number(index))];
            let scale = i.memory_index_scale();
            place.index = Some((v.symbol, scale));
            at = at.wrapping_add(v.add.wrapping_mul(scale.into()));
        } else if index != Register::None || base == Register::None && i.memory_displ_size() != 8 {
            return None;
        }
        Some(Access { place, at, bytes, write, alignment })
    }

    fn access(&mut self, k: usize, mut a: Access) {
        let jumps = self.jumps;
        // What lies in two pages each time would have the leader fail each time.
        if let Some([first, last]) = self.pages(&a) {
            if first != last {
                return;
            }
            a.place.part = Some(first);
        }
        if let Some(n) = self.open.iter().position(|g| g.place == a.place) {
            if self.open[n].admits(&a, jumps) {
                self.open[n].add(k, &a);
                return;
            }
            let group = self.open.remove(n);
            self.done.push(group);
        }
        if self.open.len() == SLOTS {
            let oldest = self.open.remove(0);
            self.done.push(oldest);
        }
        let free = (0..SLOTS).find(|s| self.open.iter().all(|g| g.slot != *s));
        let Some(slot) = free else { return };
        self.open.push(Group {
            members: vec![(k, 0)],
            place: a.place,
            leader: a.at,
            first: a.at,
            last: a.at.wrapping_add(a.bytes),
            write: a.write,
            aligned: (a.alignment > 0).then_some((a.alignment, a.at)),
            jumps,
            slot,
        });
    }

    fn finish(mut self, instructions: usize) -> Plan {
        self.done.append(&mut self.open);
        self.done.retain(|g| g.members.len() > 1);
        let mut roles = vec![Role::Single; instructions];
        let mut spans: Vec<(usize, usize)> = Vec::new();
        for g in &self.done {
            let (leader, last) = (g.members[0].0, g.members[g.members.len() - 1].0);
            let look = g.look();
            roles[leader] = Role::Leader(look);
            g.members[1..].iter().for_each(|&(k, by)| roles[k] = Role::Member { slot: g.slot, by: by + look.before });
            spans.push((leader, last));
        }
        spans.sort_unstable();
        let mut regions: Vec<(usize, usize)> = Vec::new();
        for (from, to) in spans {
            match regions.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => regions.push((from, to)),
            }
        }
        Plan { roles, regions }
    }
}

impl Group {
    /// Whether `a`, behind `jumps` conditional jumps, may become a member.
    fn admits(&self, a: &Access, jumps: usize) -> bool {
        // A right that is not needed unless a jump is not taken would have the others fail.
        let right = self.write || !a.write || self.jumps == jumps;
        let end = a.at.wrapping_add(a.bytes);
        let first = if a.at.wrapping_sub(self.first) < 0 { a.at } else { self.first };
        let last = if end.wrapping_sub(self.last) > 0 { end } else { self.last };
        let near = a.at.wrapping_sub(self.leader).unsigned_abs() < PAGE_SIZE as u64;
        let narrow = self.place.page.is_some() || (0..=WIDEST).contains(&last.wrapping_sub(first));
        let aligned = match self.aligned {
            Some((alignment, at)) if a.alignment > 0 => a.at.wrapping_sub(at) % alignment.min(a.alignment) == 0,
            _ => true,
        };
        right && near && narrow && aligned
    }

    fn add(&mut self, k: usize, a: &Access) {
        let end = a.at.wrapping_add(a.bytes);
        if a.at.wrapping_sub(self.first) < 0 {
            self.first = a.at;
        }
        if end.wrapping_sub(self.last) > 0 {
            self.last = end;
        }
        self.write |= a.write;
        if a.alignment > self.aligned.map_or(0, |(alignment, _)| alignment) {
            self.aligned = Some((a.alignment, a.at));
        }
        self.members.push((k, a.at.wrapping_sub(self.leader) as i32));
    }

    fn look(&self) -> Look {
        let mut before = self.leader.wrapping_sub(self.first);
        let mut after = self.last.wrapping_sub(self.leader);
        let alignment = self.aligned.map_or(0, |(alignment, _)| alignment);
        if let Some((alignment, at)) = self.aligned {
            // From an aligned address to an aligned one.
            before += self.leader.wrapping_sub(before).wrapping_sub(at).rem_euclid(alignment);
            after += (-(before + after)).rem_euclid(alignment);
        }
        let offset = self.place.page.map(|page| (self.first - page) as i32);
        Look { slot: self.slot, before: before as i32, after: after as i32, write: self.write, alignment: alignment as usize, offset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The roles of loads of 8 bytes at these places, with what registers hold at first.
    fn roles(known: [Option<u64>; 16], at: &[(Place, i64)]) -> Vec<Role> {
        let mut planner = Planner { known, ..Planner::default() };
        for (k, &(place, at)) in at.iter().enumerate() {
            planner.access(k, Access { place, at, bytes: 8, write: false, alignment: 0 });
        }
        planner.finish(at.len()).roles
    }

    const NOWHERE: Place = Place { segment: Register::None, base: None, index: None, page: None, part: None };

    #[test]
    fn a_look_in_a_known_page_begins_with_the_first_byte() {
        let place = Place { page: Some(0x1000), ..NOWHERE };
        let roles = roles([None; 16], &[(place, 0x1060), (place, 0x1020), (place, 0x1068)]);
        let look = Look { slot: 0, before: 0x40, after: 0x10, write: false, alignment: 0, offset: Some(0x20) };
        assert_eq!(roles, [Role::Leader(look), Role::Member { slot: 0, by: 0 }, Role::Member { slot: 0, by: 0x48 }]);
    }

    #[test]
    fn what_seems_to_lie_in_two_pages_is_no_group() {
        let place = Place { base: Some(STACK as u32), ..NOWHERE };
        let at = [-0x10, 0, -8, -4, 8].map(|at| (place, at));
        let group = |roles: &[Role]| roles.iter().filter(|r| matches!(r, Role::Leader(_))).count();
        assert_eq!(group(&roles([None; 16], &at)), 1);
        let mut known = [None; 16];
        known[STACK] = Some(0x7fff_0000);
        let roles = roles(known, &at);
        assert_eq!(group(&roles), 2);
        assert_eq!(roles[3], Role::Single);
        assert!(matches!((roles[2], roles[4]), (Role::Member { slot: 0, .. }, Role::Member { slot: 1, .. })));
    }
}
