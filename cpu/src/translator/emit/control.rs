//! Near transfers, and the ways from a block to others.

use iced_x86::{Instruction, OpKind};
use softmetal_bus::PAGE_SIZE;

use super::super::assembler::{At, ShortJump, host};
use super::super::context;
use super::super::policy::Way;
use super::super::registers::{STACK, number};
use super::memory::fits;
use super::{Block, Brought, Edge, Emitted, Out, Slow};
use crate::block::MAX_LEN;

impl Block<'_> {
    /// Near transfers that always end the block.
    pub(super) fn transfer(&mut self, way: Way, k: usize, i: &Instruction) {
        let back = i.next_ip() as i64;
        match way {
            Way::Jmp => self.edge(k, i.near_branch64() as i64, self.needs),
            Way::Call => {
                self.push_return(k, back);
                self.edge(k, i.near_branch64() as i64, self.needs);
            }
            Way::Ret => {
                let pop = 8 + i32::from(if i.op_count() > 0 { i.immediate16() } else { 0 });
                let miss = self.check(STACK, 8, false, 0);
                self.a.load(host::R15, At::indexed(STACK, host::R11, 0, 0));
                self.canonical(k);
                self.a.lea(STACK, At::base(STACK, pop));
                self.missed(miss, k, STACK);
                self.indirect(k);
            }
            Way::JmpIndirect => {
                if self.target(k, i) {
                    self.canonical(k);
                    self.indirect(k);
                }
            }
            _ => {
                // The target must be safe while the push looks for its page.
                if i.op0_kind() == OpKind::Memory {
                    if self.load_aside(k, i) {
                        self.a.load(host::R15, context::TARGET);
                        self.canonical(k);
                        self.push_return(k, back);
                        self.a.load(host::R15, context::TARGET);
                        self.indirect(k);
                    }
                    return;
                }
                let to = number(i.op0_register());
                let target = self.value(to, host::R15);
                if target != host::R15 {
                    self.a.mov(host::R15, target);
                }
                self.canonical(k);
                self.push_return(k, back);
                if to == 4 {
                    // CALL RSP: the target is what RSP was before.
                    self.a.lea(host::R15, At::base(STACK, 8));
                } else {
                    let h = self.value(to, host::R15);
                    if h != host::R15 {
                        self.a.mov(host::R15, h);
                    }
                }
                self.indirect(k);
            }
        }
    }

    fn push_return(&mut self, k: usize, back: i64) {
        self.push_value(k, |b| {
            b.a.load(host::RCX, context::PAGE);
            b.a.lea(host::RCX, At::base(host::RCX, back as i32));
            host::RCX
        });
    }

    /// The target of an indirect JMP to R15; false if the handler does it all.
    pub(super) fn target(&mut self, k: usize, i: &Instruction) -> bool {
        if i.op0_kind() == OpKind::Register {
            let h = self.value(number(i.op0_register()), host::R15);
            if h != host::R15 {
                self.a.mov(host::R15, h);
            }
            return true;
        }
        let start = self.a.here();
        let Some(lin) = self.linear(i) else {
            self.a.code.truncate(start);
            self.handler(k);
            return false;
        };
        let miss = self.check(lin, 8, false, 0);
        self.a.load(host::R15, At::indexed(lin, host::R11, 0, 0));
        self.missed(miss, k, lin);
        true
    }

    /// `n` instructions are retired; where to go if that was the last of the budget: near.
    fn account(&mut self, n: usize) -> ShortJump {
        self.a.load(host::RCX, context::BUDGET);
        self.a.lea(host::RCX, At::base(host::RCX, -(n as i32)));
        self.a.store(context::BUDGET, host::RCX);
        // The upper half is 0 or -1; so the jump, which is the rare case, is not taken in the other.
        self.a.rorx(host::RCX, host::RCX, 32);
        self.a.lea(host::RCX, At::base(host::RCX, 1));
        self.a.jecxz()
    }

    /// A jump back to the block's start is a loop, whose way lies straight; others are rare or not known.
    pub(super) fn conditional(&mut self, k: usize, i: &Instruction) {
        let (condition, target) = (i.condition_code() as u8 - 1, i.near_branch64() as i64);
        if target == i64::from(self.start) {
            let over = self.a.jcc(condition ^ 1);
            self.edge(k, target, self.needs);
            let here = self.a.here();
            self.a.bind(over, here);
        } else {
            let jump = self.a.jcc(condition);
            self.taken.push((jump, k, target));
        }
    }

    /// To the block at `target`, counted from the start of the page, after instruction `k`.
    pub(super) fn edge(&mut self, k: usize, target: i64, brought: Brought) {
        // From the last bytes of a page, a block may run over into whatever is the next page then.
        const LAST: i64 = (PAGE_SIZE - MAX_LEN) as i64;
        if let (Ok(target), true) = (u16::try_from(target), (0..=LAST).contains(&target)) {
            let spent = self.account(k + 1);
            let jump = self.a.jmp();
            self.a.land(spent);
            let out = self.a.jmp();
            let edge = self.edges.len();
            let field = self.origin + jump.field() as u64;
            self.edges.push(Edge { field, target: self.page + u64::from(target), mode: self.mode, brought });
            self.outs.push(Out { from: [out, jump], edge, target });
            return;
        }
        self.a.load(host::R15, context::PAGE);
        if fits(target) {
            self.a.lea(host::R15, At::base(host::R15, target as i32));
        } else {
            self.a.mov_imm64(host::RCX, target as u64);
            self.a.lea(host::R15, At::indexed(host::R15, host::RCX, 0, 0));
        }
        self.indirect(k);
    }

    /// The handler does it all, and refuses, if the target in R15 is not canonical; or where it lies in the other half of
    /// the address space, as no target should.
    fn canonical(&mut self, k: usize) {
        self.a.pext(host::RCX, host::R15, context::MASK_SIGN);
        if !self.user {
            self.a.lea(host::RCX, At::base(host::RCX, -0x1_ffff));
        }
        let fine = self.a.jrcxz();
        let handled = self.a.jmp();
        self.a.land(fine);
        self.slow.push(Slow { from: handled, site: 2 * k, lin: host::R15, resume: self.a.here() });
    }

    /// To the block at R15, after instruction `k`.
    fn indirect(&mut self, k: usize) {
        let spent = self.account(k + 1);
        self.a.pext(host::R11, host::R15, context::MASK_JUMP);
        self.a.load(host::RCX, context::jump_tag(self.user, host::R11));
        self.a.lea(host::RCX, At::indexed(host::RCX, host::R15, 0, 0));
        let hit = self.a.jrcxz();
        self.a.land(spent);
        self.a.jmp_to(self.thunks.leave);
        self.a.land(hit);
        self.a.jmp_indirect(context::jump_code(self.user, host::R11));
    }

    /// All that does not lie on the straight way.
    pub(super) fn finish(mut self, near: usize, body: usize) -> Emitted {
        for (jump, k, target) in std::mem::take(&mut self.taken) {
            let here = self.a.here();
            self.a.bind(jump, here);
            self.edge(k, target, self.needs);
        }
        for s in std::mem::take(&mut self.slow) {
            let here = self.a.here();
            self.a.bind(s.from, here);
            if s.lin != host::R15 {
                self.a.mov(host::R15, s.lin);
            }
            self.call_handler(s.site);
            let back = self.a.jmp();
            self.a.bind(back, s.resume);
        }
        for out in std::mem::take(&mut self.outs) {
            let here = self.a.here();
            for j in out.from {
                self.a.bind(j, here);
            }
            self.a.load(host::R15, context::PAGE);
            self.a.lea(host::R15, At::base(host::R15, out.target.into()));
            self.a.store_imm64(context::EDGE, (self.first_edge + out.edge + 1) as i32);
            self.a.jmp_to(self.thunks.leave);
        }
        let gone = self.a.here();
        self.a.load(host::R15, context::PAGE);
        self.a.lea(host::R15, At::base(host::R15, self.start.into()));
        self.a.jmp_to(self.thunks.leave);
        Emitted { code: self.a.code, near, body, needs: self.needs, gone, edges: self.edges }
    }
}
