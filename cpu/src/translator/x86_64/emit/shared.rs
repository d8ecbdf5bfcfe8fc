//! What is emitted for accesses that share one look at the TLB; see [`super::groups`].

use super::super::assembler::{At, Jump, host};
use super::super::context;
use super::Block;
use super::groups::{Look, Role};

/// Where an access goes that does not find its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Miss {
    /// Through its handler.
    Handled(Jump),
    /// To where the instruction looks for itself alone, or the handlers of all that the group is open for.
    Aside(Jump),
    /// Its page is known.
    Never,
}

/// An access that is about to be made.
#[must_use]
pub(super) struct Found {
    /// Where its bytes are on the host.
    pub at: At,
    /// Its linear address, if it looks for itself.
    pub lin: u8,
    pub miss: Miss,
}

/// A group's store of what it has found, which nobody may need.
pub(super) struct Kept {
    slot: usize,
    at: std::ops::Range<usize>,
    needed: bool,
}

impl Block<'_> {
    /// The role of the current instruction's access.
    pub(super) fn role(&self) -> Role {
        if self.aside { Role::Single } else { self.plan.role(self.current) }
    }

    /// The current instruction's access, if its group has found it: what that has found goes to R11.
    pub(super) fn known(&mut self) -> Option<Found> {
        let Role::Member { slot, by } = self.role() else { return None };
        if self.held != Some(slot) {
            self.a.load(host::R11, context::found(slot));
            self.held = Some(slot);
            if let Some(kept) = self.kept.iter_mut().rev().find(|k| k.slot == slot) {
                kept.needed = true;
            }
        }
        Some(Found { at: At::base(host::R11, by), lin: host::R11, miss: Miss::Never })
    }

    /// Bytes that the current instruction's access looks for before its own.
    pub(super) fn before(&self) -> i32 {
        if let Role::Leader(look) = self.role() { look.before } else { 0 }
    }

    /// A group's leader looks for the page of all of them, the first of which is at `first`.
    pub(super) fn look(&mut self, first: u8, look: Look) -> Found {
        self.a.pext(host::R11, first, context::MASK_PAGE);
        self.a.load(host::RCX, context::tlb_tag(self.thunks.tables, self.user, look.write, host::R11));
        // Tag and address give the offset in the page.
        let whole = look.before + look.after;
        let (tail, mask) = match (look.offset, look.alignment) {
            (Some(offset), _) => (-offset, None),
            (None, 0) => (whole - 1, None),
            (None, 16) => (whole - 16, Some(context::MASK_ALIGNED_16)),
            (None, _) => (whole - 32, Some(context::MASK_ALIGNED_32)),
        };
        let shifted = mask.is_none() && look.offset.is_none();
        let key = if shifted { 0 } else { self.thunks.gate.offset() };
        self.a.lea(host::RCX, At::indexed(host::RCX, first, 0, tail + key));
        match mask {
            Some(mask) => self.a.pext(host::RCX, host::RCX, mask),
            None if shifted => self.a.shrx(host::RCX, host::RCX, host::RBP),
            None => {}
        }
        let miss = self.a.pass(self.thunks.gate);
        self.a.load(host::R11, context::tlb_host(self.thunks.tables, self.user, host::R11));
        self.a.lea(host::R11, At::indexed(host::R11, first, 0, 0));
        let from = self.a.here();
        self.a.store(context::found(look.slot), host::R11);
        self.kept.push(Kept { slot: look.slot, at: from..self.a.here(), needed: false });
        self.held = Some(look.slot);
        Found { at: At::base(host::R11, look.before), lin: first, miss: Miss::Aside(miss) }
    }

    /// Whatever strays finds its instruction, or where it goes on, among `places`.
    pub(super) fn lead_strays(&mut self, places: &[(usize, usize)]) {
        let place = |k: usize| places.iter().find(|p| p.0 == k).map(|p| p.1);
        for &(jump, k) in &self.strays {
            if let Some(at) = place(k) {
                self.a.bind(jump, at);
            }
        }
        for &(slow, k) in self.detours.iter() {
            if let Some(at) = place(k) {
                self.slow[slow].resume = at;
            }
        }
    }

    /// The handler carries out instruction `k` against expectation.
    pub(super) fn refuse(&mut self, k: usize) {
        if self.plan.is_open(k) {
            self.refused = Some(k);
        }
    }

    /// Stores that nobody needs become nothing.
    pub(super) fn drop_unneeded(&mut self) {
        for kept in self.kept.drain(..) {
            if !kept.needed {
                self.a.nothing(kept.at);
            }
        }
    }
}
