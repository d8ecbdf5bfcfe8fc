//! Addresses of memory operands, and the look at the TLB.

use iced_x86::{Instruction, Register};

use super::super::assembler::{Assembler, At, host};
use super::super::registers::{home, number};
use super::super::thunks::{self, SIZES};
use super::super::{context, policy};
use super::groups::Role;
use super::shared::{Found, Miss};
use super::{Block, Kind, Slow};
use crate::state::seg;

pub(super) fn fits(v: i64) -> bool {
    i32::try_from(v).is_ok()
}

impl Block<'_> {
    /// The address of a memory operand, without its segment; none if it cannot be had so.
    pub(super) fn effective(&mut self, i: &Instruction) -> Option<(At, bool)> {
        let disp = i.memory_displacement64() as i64;
        if i.is_ip_rel_memory_operand() {
            if i.memory_base() != Register::RIP || !fits(disp) {
                return None;
            }
            self.a.load(host::R15, context::PAGE);
            return Some((At::base(host::R15, disp as i32), false));
        }
        let (base, index) = (i.memory_base(), i.memory_index());
        let short = base.is_gpr32() || index.is_gpr32();
        // An address without registers may be one of 32 bits.
        let short = short || base == Register::None && index == Register::None && i.memory_displ_size() == 4;
        if !(fits(disp) || short && disp as u64 <= u32::MAX.into()) {
            return None;
        }
        let place = |r: Register, spare: u8, a: &mut Assembler| {
            (r != Register::None).then(|| {
                home(number(r)).unwrap_or_else(|| {
                    a.load(spare, context::reg(number(r)));
                    spare
                })
            })
        };
        if index != Register::None && home(number(index)).is_none() {
            self.held = None;
        }
        let base = place(base, host::R15, &mut self.a);
        let index = place(index, host::R11, &mut self.a);
        Some((At { base, index, scale: i.memory_index_scale().trailing_zeros() as u8, disp: disp as i32 }, short))
    }

    /// Where a memory operand, loaded or with `write` stored to, has its look begin: the linear address, in the register given back.
    fn linear(&mut self, i: &Instruction, write: bool) -> Option<u8> {
        if !self.mode.long() {
            return self.segmented(i, write);
        }
        let (mut at, short) = self.effective(i)?;
        at.disp = at.disp.checked_sub(self.before())?;
        let segment = match i.memory_segment() {
            Register::FS => Some(seg::FS),
            Register::GS => Some(seg::GS),
            _ => None,
        };
        let Some(n) = segment else {
            match at {
                At { base: Some(base), index: None, disp: 0, .. } if !short => return Some(base),
                _ => self.a.lea_sized(!short, host::R15, at),
            }
            return Some(host::R15);
        };
        self.held = None;
        let with_base = match at {
            _ if short => None,
            At { base: None, index, .. } if index != Some(host::R11) => Some(At { base: Some(host::R11), ..at }),
            At { index: None, .. } => Some(At { index: Some(host::R11), scale: 0, ..at }),
            _ => None,
        };
        if with_base.is_none() {
            self.a.lea_sized(!short, host::R15, at);
        }
        self.a.load(host::R11, context::base(n as u8));
        self.a.lea(host::R15, with_base.unwrap_or(At::indexed(host::R15, host::R11, 0, 0)));
        Some(host::R15)
    }

    /// Finds what a memory operand means, in the TLB or by what its group has found; none as [`Self::linear`].
    pub(super) fn find(&mut self, i: &Instruction, write: bool, alignment: usize) -> Option<Found> {
        if let Some(found) = self.known() {
            return Some(found);
        }
        let lin = self.linear(i, write)?;
        Some(self.check(lin, i.memory_size().size(), write, alignment))
    }

    /// Finds `bytes` bytes at linear address `lin` in the TLB; of a group's leader, all that it looks for.
    pub(super) fn check(&mut self, lin: u8, bytes: usize, write: bool, alignment: usize) -> Found {
        if let Role::Leader(look) = self.role() {
            return self.look(lin, look);
        }
        self.held = None;
        let size = bytes.trailing_zeros() as usize;
        // A hot loop may go there in each round, where what a group shares runs over the end of a page.
        let rare = self.aside && self.turns.is_empty();
        if rare && alignment == 0 && bytes.is_power_of_two() && size < SIZES {
            return self.check_aside(lin, size, write);
        }
        if alignment == 0 {
            thunks::look_for_page(&mut self.a, &self.thunks, self.user, write, lin, bytes);
        } else {
            self.a.pext(host::R11, lin, context::MASK_PAGE);
            self.a.load(host::RCX, context::tlb_tag(self.thunks.tables, self.user, write, host::R11));
            self.a.lea(host::RCX, At::indexed(host::RCX, lin, 0, self.thunks.gate.offset()));
            let mask = if alignment == 16 { context::MASK_ALIGNED_16 } else { context::MASK_ALIGNED_32 };
            self.a.pext(host::RCX, host::RCX, mask);
        }
        let miss = self.a.pass(self.thunks.gate);
        self.a.load(host::R11, context::tlb_host(self.thunks.tables, self.user, host::R11));
        Found { at: At::indexed(lin, host::R11, 0, 0), lin, miss: Miss::Handled(miss) }
    }

    /// The same, in less code.
    fn check_aside(&mut self, lin: u8, size: usize, write: bool) -> Found {
        if lin != host::R15 {
            self.a.mov(host::R15, lin);
        }
        self.a.call_to(self.thunks.find[usize::from(self.user)][usize::from(write)][size]);
        let miss = self.a.pass(self.thunks.gate);
        Found { at: At::indexed(lin, host::R11, 0, 0), lin, miss: Miss::Handled(miss) }
    }

    /// The instruction is complete: where its way through the handler comes back.
    pub(super) fn missed(&mut self, Found { lin, miss, .. }: Found, k: usize) {
        match miss {
            Miss::Handled(from) => {
                let mut until = k;
                if let (Some(end), false) = (self.plan.open_after(k), self.aside) {
                    let next = if self.copies { k + 1 } else { end + 1 };
                    self.detours.push((self.slow.len(), next));
                    until = next - 1;
                }
                let resume = self.a.here();
                let x87 = self.instructions[k..=until].iter().any(policy::uses_x87);
                let kind = if x87 { Kind::MissedX87 } else { Kind::Missed };
                self.slow.push(Slow { from, k, until, kind, lin, resume });
            }
            Miss::Aside(from) if self.copies => self.strays.push((from, k)),
            Miss::Aside(from) => self.missed(Found { at: At::base(lin, 0), lin, miss: Miss::Handled(from) }, k),
            Miss::Never => {}
        }
    }
}
