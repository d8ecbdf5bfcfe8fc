//! Instructions that are emitted as they are, with registers renamed.

use iced_x86::{Instruction, OpAccess, OpKind, Register};

use super::super::assembler::{Assembler, At, Jump, host};
use super::super::policy::{Uses, near_size};
use super::super::registers::{COUNT, home, is_high_byte, named, number};
use super::super::{context, policy, thunks};
use super::encode::Coder;
use super::{Block, Kind, Slow};

impl Block<'_> {
    pub(super) fn native(&mut self, coder: &mut Coder, k: usize, i: &Instruction, uses: &Uses) {
        let (start, slow) = (self.a.here(), self.slow.len());
        if self.try_native(coder, k, i, uses).is_none() {
            self.a.rewind(start);
            self.slow.truncate(slow);
            self.refuse(k);
            self.handler(k);
        }
    }

    fn try_native(&mut self, coder: &mut Coder, k: usize, i: &Instruction, uses: &Uses) -> Option<()> {
        let mut j = *i;
        let memory = (0..i.op_count()).find(|&n| i.op_kind(n) == OpKind::Memory);
        let mut spare = Spare(1 << host::R15 | 1 << host::R11 | 1 << host::RCX);
        let mut access = None;
        if let Some(n) = memory {
            let found = self.find(i, !uses.reads(n), policy::alignment(i))?;
            let (at, lin) = (found.at, found.lin);
            access = Some(found);
            // A further register may be needed: then one holds the whole address.
            let homeless = (0..i.op_count())
                .filter(|&n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_gpr())
                .filter(|&n| is_high_byte(i.op_register(n)) || home(number(i.op_register(n))).is_none())
                .count();
            j.set_segment_prefix(Register::None);
            j.set_memory_displacement64(at.disp as u64);
            j.set_memory_displ_size(match at.disp {
                0 => 0,
                -128..=127 => 1,
                _ => 8,
            });
            j.set_memory_index_scale(1);
            if homeless > 1 || i.op_count() > 2 && homeless > 0 {
                self.held = None;
                self.a.lea(host::R15, at);
                j.set_memory_displacement64(0);
                j.set_memory_displ_size(0);
                j.set_memory_base(Register::R15);
                j.set_memory_index(Register::None);
                spare.keep(host::R15);
            } else {
                let name = |r: Option<u8>| r.map_or(Register::None, |r| named(r, 8));
                j.set_memory_base(name(at.base));
                j.set_memory_index(name(at.index));
                spare.keep(host::R11);
                spare.keep(lin);
            }
        }
        j.set_has_lock_prefix(false);
        j.set_has_xacquire_prefix(false);
        j.set_has_xrelease_prefix(false);
        let shift_count = |n: u32| {
            use iced_x86::Mnemonic as M;
            let last = n == i.op_count() - 1 && n > 0;
            last && i.op_register(n) == Register::CL
                && matches!(i.mnemonic(), M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd)
        };
        let counts = (0..i.op_count()).any(shift_count);
        if counts {
            self.a.mov(host::RCX, COUNT);
            spare.keep(host::RCX);
        }
        if memory.is_none() && !counts && self.in_state(coder, i, uses).is_some() {
            return Some(());
        }
        // (guest register, its stand-in) to be stored after the instruction; high bytes are told by their own name.
        let mut stand_ins: Vec<(Register, u8, bool)> = Vec::new();
        for n in 0..i.op_count() {
            let r = i.op_register(n);
            if i.op_kind(n) != OpKind::Register || !r.is_gpr() || shift_count(n) {
                continue;
            }
            let written = !matches!(uses.operand(n), OpAccess::Read | OpAccess::CondRead | OpAccess::None | OpAccess::NoMemAccess);
            let key = if is_high_byte(r) { r } else { r.full_register() };
            if let (Some(h), false) = (home(number(r)), is_high_byte(r)) {
                j.try_set_op_register(n, named(h, r.size())).ok()?;
                continue;
            }
            let known = stand_ins.iter_mut().find(|s| s.0 == key);
            let s = match known {
                Some(s) => {
                    s.2 |= written;
                    s.1
                }
                None => {
                    let s = spare.take()?;
                    if s == host::R11 {
                        self.held = None;
                    }
                    let again = (n + 1..i.op_count()).any(|m| i.op_register(m).full_register() == key);
                    let whole = r.size() >= 4 && (uses.operand(n) == OpAccess::Write && !again || policy::becomes_zero(i));
                    if is_high_byte(r) {
                        self.a.rorx(s, home(number(r))?, 8);
                    } else if !whole {
                        self.a.load(s, context::reg(number(r)));
                    }
                    stand_ins.push((key, s, written));
                    s
                }
            };
            j.try_set_op_register(n, named(s, r.size())).ok()?;
        }
        coder.encode(&j, &mut self.a)?;
        for (r, s, written) in stand_ins {
            if !written {
                continue;
            }
            if is_high_byte(r) {
                let h = home(number(r))?;
                self.a.rorx(h, h, 8);
                self.a.mov_low_byte(h, s);
                self.a.rorx(h, h, 56);
            } else {
                self.a.store(context::reg(number(r)), s);
            }
        }
        if let Some(found) = access {
            self.missed(found, k);
        }
        Some(())
    }

    /// An instruction with one register that lies in the state, as one with a memory operand.
    fn in_state(&mut self, coder: &mut Coder, i: &Instruction, uses: &Uses) -> Option<()> {
        let registers = || (0..i.op_count()).filter(|&n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_gpr());
        let mut homeless = registers().filter(|&n| home(number(i.op_register(n))).is_none());
        let n = homeless.next()?;
        if homeless.next().is_some() || registers().any(|n| is_high_byte(i.op_register(n))) {
            return None;
        }
        let r = i.op_register(n);
        // A register of 32 bits is written as a whole.
        if !uses.reads(n) && r.size() == 4 {
            return None;
        }
        let mut j = *i;
        j.set_code(policy::with_memory(i, n)?);
        for n in registers() {
            if let Some(h) = home(number(i.op_register(n))) {
                j.try_set_op_register(n, named(h, i.op_register(n).size())).ok()?;
            }
        }
        j.try_set_op_kind(n, OpKind::Memory).ok()?;
        // One that the guest's operand, a register, does not heed.
        j.set_segment_prefix(Register::None);
        let disp = context::reg(number(r)).disp;
        j.set_memory_base(Register::RBP);
        j.set_memory_displacement64(i64::from(disp) as u64);
        j.set_memory_displ_size(1);
        let start = self.a.here();
        let done = coder.encode(&j, &mut self.a);
        if done.is_none() {
            self.a.rewind(start);
        }
        done
    }

    pub(super) fn lea(&mut self, k: usize, i: &Instruction) {
        let start = self.a.here();
        let Some((at, short)) = self.effective(i) else {
            self.a.rewind(start);
            return self.handler(k);
        };
        let guest = number(i.op0_register());
        let to = home(guest).unwrap_or(host::R15);
        if !self.mode.long() {
            self.narrow_lea(to, at, i);
        } else if short || i.op0_register().size() == 4 {
            self.a.lea32(to, at);
        } else {
            self.a.lea(to, at);
        }
        if home(guest).is_none() {
            self.a.store(context::reg(guest), to);
        }
    }

    /// The value of a general register, in the register given back.
    pub(super) fn value(&mut self, guest: u8, spare: u8) -> u8 {
        home(guest).unwrap_or_else(|| {
            self.a.load(spare, context::reg(guest));
            spare
        })
    }

    /// DIV, and IDIV of RDX:RAX where RDX only extends RAX; anything else, and what faults, is the handler's.
    pub(super) fn divide(&mut self, coder: &mut Coder, k: usize, i: &Instruction) {
        let (bytes, signed) = (near_size(i), i.mnemonic() == iced_x86::Mnemonic::Idiv);
        let (wide, first) = (bytes == 8, self.slow.len());
        let by = match i.op0_kind() {
            OpKind::Register => self.value(number(i.op0_register()), host::R15),
            _ if self.target(k, i) => host::R15,
            _ => return,
        };
        self.held = None;
        let mut slow = Vec::new();
        if signed {
            self.a.mov_sized(wide, host::RCX, by);
            slow.push(self.unless_zero());
            self.a.lea_sized(wide, host::RCX, At::base(host::RCX, 1));
            slow.push(self.unless_zero());
            // The sign of RAX, as 0 or 1, and RDX, as 0 or -1, cancel each other.
            self.a.mov_imm64(host::R11, if wide { 63 } else { 31 });
            self.a.mov_sized(wide, host::RCX, host::RAX);
            self.a.shrx(host::RCX, host::RCX, host::R11);
            self.a.lea_sized(wide, host::RCX, At::indexed(host::RCX, host::RDX, 0, 0));
            let fine = self.a.jrcxz();
            slow.push(self.a.jmp());
            self.a.land(fine);
        }
        // The host's flags change; the handler's definition is that they do not.
        self.around_rax(thunks::flags_to_memory);
        if !signed {
            // The quotient has room, and nothing is divided by 0, if the divisor is above the upper half.
            self.a.cmp_sets_flags(wide, host::RDX, by);
            let fine = self.a.jcc(2);
            self.around_rax(thunks::flags_from_memory);
            slow.push(self.a.jmp());
            let here = self.a.here();
            self.a.bind(fine, here);
        }
        let mut j = *i;
        j.set_op0_kind(OpKind::Register);
        j.set_op0_register(named(by, bytes));
        j.set_segment_prefix(Register::None);
        let encoded = coder.encode(&j, &mut self.a);
        debug_assert!(encoded.is_some());
        self.around_rax(thunks::flags_from_memory);
        let resume = self.a.here();
        // The handler of an operand that missed the TLB has divided as well.
        self.slow[first..].iter_mut().for_each(|s| s.resume = resume);
        self.slow.extend(slow.into_iter().map(|from| Slow { from, k, until: k, kind: Kind::Handler, lin: host::R15, resume }));
    }

    /// RDTSC and RDTSCP, from what is left of the budget.
    pub(super) fn time_stamp(&mut self, k: usize, i: &Instruction) {
        self.held = None;
        self.a.load(host::RCX, context::CR4);
        self.a.pext(host::RCX, host::RCX, context::MASK_TSD);
        let fine = self.a.jrcxz();
        let from = self.a.jmp();
        self.a.land(fine);
        self.a.load32(host::RCX, context::BUDGET);
        self.a.not(host::RCX);
        self.a.load(host::R11, context::STAMP);
        self.a.lea(host::R11, At::indexed(host::R11, host::RCX, 0, k as i32 + 1));
        self.a.mov_sized(false, host::RAX, host::R11);
        self.a.rorx(host::RDX, host::R11, 32);
        self.a.mov_sized(false, host::RDX, host::RDX);
        if i.mnemonic() == iced_x86::Mnemonic::Rdtscp {
            self.a.load32(COUNT, context::TSC_AUX);
        }
        self.slow.push(Slow { from, k, until: k, kind: Kind::Handler, lin: host::R15, resume: self.a.here() });
    }

    /// Emits what destroys RAX, which is in R11 meanwhile.
    fn around_rax(&mut self, what: fn(&mut Assembler)) {
        self.a.mov(host::R11, host::RAX);
        what(&mut self.a);
        self.a.mov(host::RAX, host::R11);
    }

    /// Goes on unless RCX is 0.
    fn unless_zero(&mut self) -> Jump {
        let zero = self.a.jrcxz();
        let on = self.a.jmp_short();
        self.a.land(zero);
        let out = self.a.jmp();
        self.a.land(on);
        out
    }
}

/// Host registers that an instruction may use, as bits.
struct Spare(u16);

impl Spare {
    /// A register is in use.
    fn keep(&mut self, r: u8) {
        self.0 &= !(1 << r);
    }

    fn take(&mut self) -> Option<u8> {
        let r = self.0.trailing_zeros() as u8;
        self.0 &= self.0.wrapping_sub(1);
        (r < 16).then_some(r)
    }
}
