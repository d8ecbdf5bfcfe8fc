//! Near transfers, and the ways from a block to others.

use iced_x86::{Instruction, OpKind};
use softmetal_bus::PAGE_SIZE;

use super::super::super::backend::{Brought, Edge, Made, Target, Turn};
use super::super::assembler::{Assembler, At, Base, host};
use super::super::policy::{Way, near_size};
use super::super::registers::{STACK, number};
use super::super::{context, thunks};
use super::memory::fits;
use super::{Block, Kind, Out, Slow, To, Unknown};
use crate::block::MAX_LEN;

/// What RET adds to the stack pointer.
fn stack_increment(i: &Instruction) -> i32 {
    near_size(i) as i32 + i32::from(if i.op_count() > 0 { i.immediate16() } else { 0 })
}

/// A place in the page where a block may begin that lies in it: from its last bytes, one may run over into whatever is the
/// next page then.
fn near(at: i64) -> Option<u16> {
    const LAST: u16 = (PAGE_SIZE - MAX_LEN) as u16;
    u16::try_from(at).ok().filter(|&at| at <= LAST)
}

impl Block<'_> {
    /// Near transfers that always end the block.
    pub(super) fn transfer(&mut self, way: Way, k: usize, i: &Instruction) {
        let (back, bytes) = (i.next_ip() as i64, near_size(i));
        match way {
            Way::Jmp => self.branch(k, To::of(i)),
            Way::Call => {
                self.reachable(k, To::of(i));
                self.push_return(k, bytes, back);
                let returns = self.returns_to(bytes, back);
                self.lead(k, To::of(i), self.needs, returns);
            }
            Way::Ret if self.predicts(bytes) => self.predicted_return(k, i),
            Way::Ret => {
                let found = self.at_stack(STACK, 0, bytes, false);
                self.a.load_bytes(bytes, host::R15, found.at);
                self.missed(found, k);
                self.admitted_jump(k, bytes, Some(At::base(STACK, stack_increment(i))));
            }
            Way::JmpIndirect => {
                if self.target(k, i) {
                    self.admitted_jump(k, bytes, None);
                }
            }
            _ => {
                // The target must be safe while the push looks for its page.
                if i.op0_kind() == OpKind::Memory {
                    if self.load_aside(k, i) {
                        self.a.load(host::R15, context::TARGET);
                        self.admitted(k, bytes);
                        self.push_return(k, bytes, back);
                        let returns = self.returns_to(bytes, back);
                        self.a.load(host::R15, context::TARGET);
                        self.indirect(k, returns);
                    }
                    return;
                }
                self.target(k, i);
                self.admitted(k, bytes);
                self.push_return(k, bytes, back);
                let returns = self.returns_to(bytes, back);
                if number(i.op0_register()) == 4 {
                    // CALL RSP: the target is what RSP was before.
                    self.a.lea(host::R15, At::base(STACK, 8));
                } else {
                    self.target(k, i);
                }
                self.indirect(k, returns);
            }
        }
    }

    /// Transfers of so many bytes use the stack of returns.
    fn predicts(&self, bytes: usize) -> bool {
        !self.mode.bounded() && bytes == if self.mode.long() { 8 } else { 4 }
    }

    /// A call that has pushed `back` of RCX: where it returns to, if that is predicted. The address is on the host's stack then.
    fn returns_to(&mut self, bytes: usize, back: i64) -> Option<u16> {
        let returns = near(back).filter(|_| self.predicts(bytes));
        if returns.is_some() {
            self.a.push(host::RCX);
        }
        returns
    }

    /// Behind a call: goes to the block at R15.
    fn return_point(&mut self, to: u16) {
        let from = self.a.jmp();
        self.returns.push((from, self.edges.len()));
        let (target, field) = (Target::Here(self.page + u64::from(to)), self.a.field(from));
        self.edges.push(Edge { returns: true, ..Edge::new(field, target, self.mode, Brought::default()) });
    }

    /// A RET: by the host's, if it leads where the last call came from.
    fn predicted_return(&mut self, k: usize, i: &Instruction) {
        let bytes = near_size(i);
        let found = self.at_stack(STACK, 0, bytes, false);
        self.a.load_bytes(bytes, host::RCX, found.at);
        self.missed(found, k);
        self.a.load(host::R15, At::base(host::RSP, 8));
        self.a.not(host::RCX);
        self.a.lea(host::RCX, At::indexed(host::RCX, host::R15, 0, 1 + self.thunks.gate.key()));
        let from = self.a.pass(self.thunks.gate);
        self.unpaired.push((from, k, self.a.here()));
        self.set_stack(At::base(STACK, stack_increment(i)));
        self.account(k + 1);
        self.a.ret_dropping(8);
    }

    /// Returns that do not lead where the last call came from: RCX is what R15 is beyond the address.
    fn unpaired_returns(&mut self) {
        for n in 0..self.unpaired.len() {
            let (from, k, paired) = self.unpaired[n];
            let here = self.a.here();
            self.a.bind(from, here);
            self.a.not(host::RCX);
            self.a.lea(host::R15, At::indexed(host::R15, host::RCX, 0, 1));
            self.a.load(host::RCX, At::base(host::RSP, 24));
            self.a.not(host::RCX);
            self.a.lea(host::RCX, At::indexed(host::RCX, host::R15, 0, 1 + self.thunks.gate.key()));
            let elsewhere = self.a.pass(self.thunks.gate);
            // By RET, so that the host's predictor is an entry deeper as well.
            let to = self.a.lea_of(host::RCX);
            self.a.bind(to, paired);
            self.a.store(At::base(host::RSP, 0), host::RCX);
            self.a.ret_dropping(8);
            let here = self.a.here();
            self.a.bind(elsewhere, here);
            let i = &self.instructions[k];
            self.admitted_jump(k, near_size(i), Some(At::base(STACK, stack_increment(i))));
        }
    }

    /// An indirect transfer after which the path goes on: looks whether it leads there.
    pub(super) fn expected(&mut self, way: Way, k: usize, i: &Instruction) {
        let bytes = near_size(i);
        let returns = (way == Way::Ret).then(|| {
            let found = self.at_stack(STACK, 0, bytes, false);
            self.a.load_bytes(bytes, host::R15, found.at);
            found
        });
        if returns.is_none() && !self.target(k, i) {
            return;
        }
        // The address expected, negated.
        let next = self.instructions[k + 1].ip() as i32;
        self.a.load(host::RCX, context::PAGE);
        self.a.lea(host::RCX, At::base(host::RCX, next - 1));
        self.a.not(host::RCX);
        self.a.lea(host::RCX, At::indexed(host::RCX, host::R15, 0, self.thunks.gate.key()));
        let elsewhere = self.a.pass(self.thunks.gate);
        self.surprises.push((elsewhere, k, way));
        match returns {
            Some(found) => {
                self.set_stack(At::base(STACK, stack_increment(i)));
                self.missed(found, k);
            }
            None if way == Way::CallIndirect => self.push_return(k, bytes, i.next_ip() as i64),
            None => {}
        }
    }

    /// Goes on if a trace counts here; where the way out for a budget that is used up begins, which nobody passes on the way.
    pub(super) fn guard(&mut self, [page, epoch]: [u64; 2]) -> usize {
        let mut spent = 0;
        for (place, value) in [(context::PAGE, page), (context::epoch(self.user), epoch)] {
            self.a.load(host::RCX, place);
            self.a.mov_imm64(host::R15, value.wrapping_neg());
            self.a.lea(host::RCX, At::indexed(host::RCX, host::R15, 0, 0));
            let fine = self.a.jrcxz();
            let fails = self.a.jmp();
            self.unpinned.push(fails);
            spent = self.leave_if_spent();
            self.a.land(fine);
        }
        spent
    }

    pub(super) fn push_return(&mut self, k: usize, bytes: usize, back: i64) {
        self.push_value(k, bytes, |b| {
            b.a.load(host::RCX, context::PAGE);
            b.a.lea(host::RCX, At::base(host::RCX, back as i32));
            host::RCX
        });
    }

    /// The operand of an indirect JMP, of PUSH or of DIV, to R15, zero-extended; false if the handler does it all.
    pub(super) fn target(&mut self, k: usize, i: &Instruction) -> bool {
        let bytes = near_size(i);
        if i.op0_kind() == OpKind::Register {
            let h = self.value(number(i.op0_register()), host::R15);
            match bytes {
                2 => self.a.zero_extend_word(host::R15, h),
                _ if bytes == 4 || h != host::R15 => self.a.mov_sized(bytes == 8, host::R15, h),
                _ => {}
            }
            return true;
        }
        let start = self.a.here();
        let Some(found) = self.find(i, false, 0) else {
            self.a.rewind(start);
            self.refuse(k);
            self.handler(k);
            return false;
        };
        self.a.load_bytes(bytes, host::R15, found.at);
        self.missed(found, k);
        true
    }

    /// `n` instructions are retired. Whether that was the last of the budget is asked where a block begins.
    fn account(&mut self, n: usize) {
        self.a.load32(host::RCX, context::BUDGET);
        self.a.lea32(host::RCX, At::base(host::RCX, -(n as i32)));
        self.a.store_bytes(4, context::BUDGET, host::RCX);
    }

    /// A jump back to the block's start is a loop, whose way lies straight; others are rare or not known.
    pub(super) fn conditional(&mut self, k: usize, i: &Instruction) {
        let (condition, to) = (i.condition_code() as u8 - 1, To::of(i));
        if let Some(turn) = self.turn(k) {
            let (leaves, to) = if turn == Turn::On { (condition, to) } else { (condition ^ 1, To::after(i)) };
            let jump = self.a.jcc(leaves);
            self.taken.push((jump, k, to));
        } else if to.at == i64::from(self.start) {
            let over = self.a.jcc(condition ^ 1);
            self.edge(k, to, self.needs);
            let here = self.a.here();
            self.a.bind(over, here);
        } else {
            let jump = self.a.jcc(condition);
            self.taken.push((jump, k, to));
        }
    }

    /// A direct transfer, where the handler does not refuse it.
    fn branch(&mut self, k: usize, to: To) {
        self.reachable(k, to);
        self.edge(k, to, self.needs);
    }

    /// To a block that is known by where it is, after instruction `k`.
    pub(super) fn edge(&mut self, k: usize, to: To, brought: Brought) {
        self.lead(k, to, brought, None);
    }

    /// The same; of a call, with where it returns to.
    fn lead(&mut self, k: usize, to: To, brought: Brought, returns: Option<u16>) {
        let target = to.at;
        // What of the page lies within a limit, or before a wrap, has been looked at for this block alone.
        let known = near(target).filter(|_| !self.mode.bounded() || target == i64::from(self.start));
        if let Some(target) = known {
            self.account(k + 1);
            // Of a trace, a sample must tell by which edge it was met.
            let spent = (!self.turns.is_empty()).then(|| {
                self.a.load_bytes(2, host::RCX, context::BUDGET_LEFT);
                self.a.jrcxz()
            });
            let jump = if returns.is_some() { self.a.call() } else { self.a.jmp() };
            if let Some(to) = returns {
                self.return_point(to);
            }
            let spent = spent.map(|spent| {
                self.a.land(spent);
                self.a.jmp()
            });
            let field = self.a.field(jump);
            let closes = k + 1 == self.instructions.len() && target == self.start;
            let closes = closes.then(|| self.a.address(self.first));
            let (call, to) = (returns.is_some(), Target::Here(self.page + u64::from(target)));
            self.outs.push(Out { from: jump, spent, call, edge: self.edges.len(), target: Some(target) });
            self.edges.push(Edge { closes, ..Edge::new(field, to, self.mode, brought) });
            return;
        }
        self.a.load(host::R15, context::PAGE);
        if fits(target) {
            self.a.lea(host::R15, At::base(host::R15, target as i32));
        } else {
            self.a.mov_imm64(host::RCX, target as u64);
            self.a.lea(host::R15, At::indexed(host::R15, host::RCX, 0, 0));
        }
        self.cut(to.bytes);
        if self.mode.bounded() {
            return self.indirect(k, returns);
        }
        self.account(k + 1);
        let from = if returns.is_some() { self.a.call() } else { self.a.jmp() };
        if let Some(to) = returns {
            self.return_point(to);
        }
        let (field, to) = (self.a.field(from), Target::Elsewhere { at: target, leaves: 0 });
        self.outs.push(Out { from, spent: None, call: returns.is_some(), edge: self.edges.len(), target: None });
        self.edges.push(Edge::new(field, to, self.mode, brought));
    }

    /// The handler does it all, and refuses, if the target in R15 is not canonical, or beyond the limit of CS; or where it lies in the other half of
    /// the address space, as no target should.
    pub(super) fn admitted(&mut self, k: usize, bytes: usize) {
        if self.mode.long() {
            self.beyond_half(self.thunks.gate.key());
        } else if !self.beyond_limit(bytes) {
            return;
        } else if self.thunks.gate.key() != 0 {
            self.a.lea(host::RCX, At::base(host::RCX, self.thunks.gate.key()));
        }
        let handled = self.a.pass(self.thunks.gate);
        self.slow.push(Slow { from: handled, k, until: k, kind: Kind::Handler, lin: host::R15, resume: self.a.here() });
    }

    /// To the block at R15, after instruction `k`; of a call, with where it returns to.
    fn indirect(&mut self, k: usize, returns: Option<u16>) {
        self.account(k + 1);
        let bounded = self.mode.bounded();
        if bounded {
            self.aside_for_linear();
        }
        thunks::look_up_target(&mut self.a, self.thunks.gate, self.user, false);
        if bounded {
            self.a.load(host::R15, context::TARGET);
        }
        let unknown = self.a.pass(self.thunks.gate);
        let user = usize::from(self.user);
        let out = match returns {
            // Where code has bounds, no call has pushed anything.
            _ if bounded => self.thunks.leave,
            Some(_) => self.thunks.second_look_of_call[user],
            None => self.thunks.second_look[user],
        };
        self.a.lead_to(unknown, out);
        if let Some(to) = returns {
            self.a.call_indirect(context::jump_code(host::R11));
            self.return_point(to);
        } else {
            self.a.jmp_indirect(context::jump_code(host::R11));
        }
    }

    /// Drops what a call that does not take place has pushed.
    fn drop_half(&mut self) {
        self.a.lea(host::RSP, At::base(host::RSP, 8));
    }

    /// To the block at R15, if that is admitted, by instruction `k`, which sets the stack pointer to `stack`.
    fn admitted_jump(&mut self, k: usize, bytes: usize, stack: Option<At>) {
        if !self.mode.long() {
            self.admitted(k, bytes);
            if let Some(stack) = stack {
                self.set_stack(stack);
            }
            return self.indirect(k, None);
        }
        // What the jump cache knows has been admitted.
        thunks::look_up_target(&mut self.a, self.thunks.gate, self.user, false);
        let from = self.a.pass(self.thunks.gate);
        self.unknown.push(Unknown { from, k, stack });
        if let Some(stack) = stack {
            self.set_stack(stack);
        }
        self.account(k + 1);
        self.a.jmp_indirect(context::jump_code(host::R11));
    }

    /// Targets that the jump cache does not know.
    fn unknown_targets(&mut self) {
        for n in 0..self.unknown.len() {
            let u = self.unknown[n];
            let here = self.a.here();
            self.a.bind(u.from, here);
            self.beyond_half(0);
            let fine = self.a.jrcxz();
            // The handler goes on, or refuses.
            self.call_site(u.k, u.k, Kind::Handler, host::R15);
            self.a.land(fine);
            if let Some(stack) = u.stack {
                self.set_stack(stack);
            }
            self.account(u.k + 1);
            self.a.jmp_to(self.thunks.second_look[usize::from(self.user)]);
        }
    }

    /// Leaves by an edge of this code that is not linked, to offset `target` of the page, or to R15.
    fn leave_by_edge(&mut self, number: usize, target: Option<u16>) {
        if let Some(target) = target {
            self.a.mov_imm64(host::R15, target.into());
        }
        self.a.push_imm(number as i32 + 1);
        self.a.counts_from(Base::Edge);
        self.a.jmp_to(if target.is_some() { self.thunks.leave_by_edge } else { self.thunks.leave_page_by_edge });
    }

    /// RCX is `key` if R15 lies in the half of the address space that the code is in.
    fn beyond_half(&mut self, key: i32) {
        self.a.pext(host::RCX, host::R15, context::MASK_SIGN);
        let add = key - if self.user { 0 } else { 0x1_ffff };
        if add != 0 {
            self.a.lea(host::RCX, At::base(host::RCX, add));
        }
    }

    /// Where conditional branches lead to.
    pub(super) fn taken_branches(&mut self) {
        for n in 0..self.taken.len() {
            let (jump, k, to) = self.taken[n];
            let here = self.a.here();
            self.a.bind(jump, here);
            self.branch(k, to);
        }
        self.taken.clear();
    }

    /// All that does not lie on the straight way.
    pub(super) fn finish(mut self, [far, near, body]: [usize; 3]) -> (Assembler, Made, Vec<Edge>) {
        self.taken_branches();
        for (jump, k, way) in std::mem::take(&mut self.surprises) {
            let here = self.a.here();
            self.a.bind(jump, here);
            self.transfer(way, k, &self.instructions[k]);
        }
        self.unpaired_returns();
        if let Some((from, resume)) = self.vectors_away {
            let here = self.a.here();
            self.a.bind(from, here);
            self.call_for_vectors();
            let back = self.a.jmp();
            self.a.bind(back, resume);
        }
        for n in 0..self.slow.len() {
            let s = self.slow[n];
            let here = self.a.here();
            self.a.bind(s.from, here);
            if self.call_site(s.k, s.until, s.kind, s.lin) {
                self.bring_x87();
                self.bring_vectors();
                let back = self.a.jmp();
                self.a.bind(back, s.resume);
            }
        }
        self.unknown_targets();
        for n in 0..self.outs.len() {
            let out = self.outs[n];
            let mut here = self.a.here();
            if let Some(spent) = out.spent {
                self.a.bind(spent, here);
                if out.call {
                    self.drop_half();
                    here = self.a.here();
                }
            }
            self.a.bind(out.from, here);
            if let Target::Elsewhere { leaves, .. } = &mut self.edges[out.edge].target {
                *leaves = self.a.address(here);
            }
            self.leave_by_edge(out.edge, out.target);
        }
        for n in 0..self.returns.len() {
            let (from, edge) = self.returns[n];
            let here = self.a.here();
            self.a.bind(from, here);
            self.leave_by_edge(edge, None);
        }
        if !self.unpinned.is_empty() {
            let here = self.a.here();
            for j in std::mem::take(&mut self.unpinned) {
                self.a.bind(j, here);
            }
            let target = Target::Here(self.page + u64::from(self.start));
            self.edges.push(Edge { guards: true, ..Edge::new(0, target, self.mode, self.needs) });
            self.leave_by_edge(self.edges.len() - 1, Some(self.start));
        }
        let gone = self.a.here();
        for j in self.spent.drain(..) {
            self.a.bind(j, gone);
        }
        self.a.mov_imm64(host::R15, self.start.into());
        self.a.jmp_to(self.thunks.leave_in_page);
        let strays = !self.stray_calls.is_empty();
        if strays {
            let here = self.a.here();
            for call in self.stray_calls.drain(..) {
                self.a.bind(call, here);
            }
            self.a.store_imm64(context::EDGE, 0);
            self.a.counts_from(Base::Number);
        }
        if strays || !self.calls.is_empty() {
            let here = self.a.here();
            for call in self.calls.drain(..) {
                self.a.bind(call, here);
            }
            self.a.mov_imm64(host::RCX, self.ops.as_ptr() as u64);
            self.a.jmp_to(self.thunks.handle);
        }
        let [far, near, body, gone] = [far, near, body, gone].map(|at| self.a.address(at));
        let made = Made { code: self.a.pieces(), far, near, body, needs: self.needs, gone };
        (self.a, made, self.edges)
    }
}
