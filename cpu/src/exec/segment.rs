//! Segment registers and descriptor tables: loads with their checks (SDM 3A, chapters 3 and 5), LAR, LSL, VERR, VERW, ARPL.

use iced_x86::{Mnemonic as M, Register};

use super::control_registers;
use super::descriptor::{Stack, code, null, system};
use crate::by_width;
use crate::fault::{Fault, vector};
use crate::flags;
use crate::lower::Lower;
use crate::op::{Dst, Exit, Mem, Op, Place, Source, Src, last, step};
use crate::state::{Cpu, Segment, TableRegister, bits, seg};
use crate::table::{Row, row};
use crate::width::Width;

/// Instruction rows. MOV, PUSH and POP come here through [`lower_mov`], [`lower_push`] and [`lower_pop`].
pub const ROWS: &[Row] = &[
    row(M::Lds, lower_far_load),
    row(M::Les, lower_far_load),
    row(M::Lfs, lower_far_load),
    row(M::Lgs, lower_far_load),
    row(M::Lss, lower_far_load),
    row(M::Lldt, |l| if l.is_mem(0) { l.with(lldt::<Mem>) } else { l.with(lldt::<Dst>) }),
    row(M::Ltr, |l| if l.is_mem(0) { l.with(ltr::<Mem>) } else { l.with(ltr::<Dst>) }),
    row(M::Sldt, |l| store_selector(l, sldt::<Mem, u16>, [sldt::<Dst, u16>, sldt::<Dst, u32>, sldt::<Dst, u64>])),
    row(M::Str, |l| store_selector(l, str::<Mem, u16>, [str::<Dst, u16>, str::<Dst, u32>, str::<Dst, u64>])),
    row(M::Lar, |l| if l.is_mem(1) { by_width!(l, l.bits(0), wide lar::<Mem>) } else { by_width!(l, l.bits(0), wide lar::<Src>) })
        .modifies("z"),
    row(M::Lsl, |l| if l.is_mem(1) { by_width!(l, l.bits(0), wide lsl::<Mem>) } else { by_width!(l, l.bits(0), wide lsl::<Src>) })
        .modifies("z"),
    row(M::Verr, |l| if l.is_mem(0) { l.with(verify::<Mem, false>) } else { l.with(verify::<Dst, false>) }).modifies("z"),
    row(M::Verw, |l| if l.is_mem(0) { l.with(verify::<Mem, true>) } else { l.with(verify::<Dst, true>) }).modifies("z"),
    row(M::Arpl, |l| if l.is_mem(0) { l.with(arpl::<Mem>) } else { l.with(arpl::<Dst>) }).modifies("z"),
    row(M::Sgdt, |l| if l.mode.long() { l.with(store_table::<u64, false>) } else { l.with(store_table::<u32, false>) }),
    row(M::Sidt, |l| if l.mode.long() { l.with(store_table::<u64, true>) } else { l.with(store_table::<u32, true>) }),
    row(M::Lgdt, lower_load_table::<false>),
    row(M::Lidt, lower_load_table::<true>),
    row(M::Swapgs, |l| l.with(swapgs)),
    row(M::Rdfsbase, |l| by_width!(l, l.bits(0), wide read_base::<Fs>)),
    row(M::Rdgsbase, |l| by_width!(l, l.bits(0), wide read_base::<Gs>)),
    row(M::Wrfsbase, |l| by_width!(l, l.bits(0), wide write_base::<Fs>)),
    row(M::Wrgsbase, |l| by_width!(l, l.bits(0), wide write_base::<Gs>)),
];

/// MOV with a segment, control or debug register.
#[must_use]
pub fn lower_mov(l: &Lower) -> Option<Op> {
    let is = |n: u32, what: fn(Register) -> bool| l.is_reg(n) && what(l.i.op_register(n));
    if is(0, Register::is_segment_register) {
        return if l.is_mem(1) { l.with(mov_to_segment::<Mem>) } else { l.with(mov_to_segment::<Src>) };
    }
    if is(1, Register::is_segment_register) {
        return if l.is_mem(0) { l.with(mov_from_segment::<Mem, u16>) } else { by_width!(l, l.bits(0), wide mov_from_segment::<Dst>) };
    }
    control_registers::lower_mov(l)
}

/// PUSH of a segment register.
#[must_use]
pub fn lower_push(l: &Lower) -> Option<Op> {
    by_width!(l, l.i.stack_pointer_increment().unsigned_abs() * 8, wide push_segment)
}

/// POP of a segment register.
#[must_use]
pub fn lower_pop(l: &Lower) -> Option<Op> {
    by_width!(l, l.i.stack_pointer_increment().unsigned_abs() * 8, wide pop_segment)
}

fn lower_far_load(l: &Lower) -> Option<Op> {
    let n = match l.i.mnemonic() {
        M::Les => seg::ES,
        M::Lss => seg::SS,
        M::Lds => seg::DS,
        M::Lfs => seg::FS,
        _ => seg::GS,
    };
    by_width!(l, l.bits(0), wide far_load).map(|op| Op { src: n as u8, ..op })
}

fn store_selector(l: &Lower, mem: crate::op::Handler, reg: [crate::op::Handler; 3]) -> Option<Op> {
    if l.is_mem(0) { l.with(mem) } else { l.with(reg[l.bits(0).trailing_zeros() as usize - 4]) }
}

fn lower_load_table<const IDT: bool>(l: &Lower) -> Option<Op> {
    use iced_x86::Code;
    if l.mode.long() {
        return l.with(load_table::<u64, IDT>);
    }
    let narrow = matches!(l.i.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16);
    // In 16-bit forms only 24 bits of the base count.
    l.with(load_table::<u32, IDT>).map(|op| Op { imm: if narrow { 0xff_ffff } else { 0xffff_ffff }, ..op })
}

impl Cpu {
    /// Loads segment register `n` (not CS) as MOV and POP do.
    ///
    /// # Errors
    /// #GP, #SS, #NP, #PF (SDM 2, MOV).
    pub fn load_segment(&mut self, n: usize, selector: u16) -> Result<(), Fault> {
        let segment = if !self.state.mode.protected() {
            self.real_segment(n, selector)
        } else if n == seg::SS {
            let cpl = self.state.cpl;
            if null(selector) && self.state.mode.long() && cpl < 3 && selector as u8 & 3 == cpl {
                Segment { selector, attributes: u16::from(cpl) << 5, limit: 0, base: 0 }
            } else {
                self.fetch_stack_segment(selector, cpl, vector::GP, 0)?
            }
        } else {
            self.data_segment(selector, vector::GP, 0)?
        };
        self.set_segment(n, segment);
        Ok(())
    }

    /// Checks and fetches a segment for DS, ES, FS or GS; `bad` is the vector of a wrong selector (#TS or #GP).
    ///
    /// # Errors
    /// `bad`, #NP, #PF.
    pub(super) fn data_segment(&mut self, selector: u16, bad: u8, ext: u32) -> Result<Segment, Fault> {
        if null(selector) {
            return Ok(Segment { selector, ..Segment::default() });
        }
        let mut d = self.descriptor(selector, bad, ext)?;
        let s = d.segment;
        let readable = s.code_or_data() && (!s.code() || s.readable_or_writable());
        let reachable = (s.code() && s.conforming()) || (selector as u8 & 3).max(self.state.cpl) <= s.dpl();
        if !readable || !reachable {
            return Err(self.raise_with(bad, code(selector, ext)));
        }
        if !s.present() {
            return Err(self.raise_with(vector::NP, code(selector, ext)));
        }
        self.mark_accessed(&mut d)?;
        Ok(d.segment)
    }

    /// Empties the data segment registers that the new, lower privilege may not use (SDM 3A, 5.8.6).
    pub fn drop_inner_segments(&mut self) {
        for n in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let s = self.state.segments[n];
            // A null selector loses its RPL (SDM 2, RET and IRET).
            if null(s.selector) || (s.present() && s.dpl() < self.state.cpl && !(s.code() && s.conforming())) {
                self.set_segment(n, Segment { base: s.base, ..Segment::default() });
            }
        }
    }

    /// #GP(0) for SGDT and the like at CPL > 0 with CR4.UMIP.
    ///
    /// # Errors
    /// #GP(0).
    pub fn check_umip(&mut self) -> Result<(), Fault> {
        if self.state.cpl > 0 && self.state.cr4 & bits::CR4_UMIP != 0 { Err(self.gp(0)) } else { Ok(()) }
    }

    /// A load of SS holds off interrupts and debug exceptions, so that the stack pointer can be loaded too (SDM 3A, 6.8.3).
    fn shadow_after(&mut self, n: usize) {
        self.state.shadow = n == seg::SS;
        self.state.debug_shadow = n == seg::SS;
    }
}

fn mov_to_segment<S: Source>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        let n = usize::from(op.dst);
        if n == seg::CS || n > seg::GS {
            return Err(cpu.ud());
        }
        let selector = S::get::<u16>(cpu, op)?;
        cpu.load_segment(n, selector)?;
        cpu.shadow_after(n);
        Ok(())
    })
}

fn mov_from_segment<D: Place, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let selector = cpu.state.segments[usize::from(op.src) % 6].selector;
        D::set(cpu, op, W::of(u64::from(selector)))
    })
}

fn push_segment<W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let selector = cpu.state.segments[usize::from(op.dst) % 6].selector;
        let mut stack = Stack::current(cpu);
        // The whole operand's room is taken, but only the selector is written.
        stack.sp = stack.sp.wrapping_sub(W::BYTES as u64 - 2);
        stack.check_room(cpu, W::BYTES)?;
        stack.push(cpu, 2, u64::from(selector))?;
        stack.commit(cpu);
        Ok(())
    })
}

fn pop_segment<W: Width>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        let mut stack = Stack::current(cpu);
        let selector = stack.pop(cpu, W::BYTES)? as u16;
        let n = usize::from(op.dst) % 6;
        cpu.load_segment(n, selector)?;
        stack.commit(cpu);
        cpu.shadow_after(n);
        Ok(())
    })
}

fn far_load<W: Width>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        let ea = cpu.effective(op);
        let offset = cpu.load_at::<W>(op, op.seg, ea)?;
        let selector = cpu.load_at::<u16>(op, op.seg, ea.wrapping_add(W::BYTES as u64))?;
        cpu.load_segment(usize::from(op.src), selector)?;
        W::set(&mut cpu.state.regs, op.dst, offset);
        Ok(())
    })
}

/// Base and limit of an LDT or TSS descriptor, with its upper half in IA-32e mode.
fn system_segment(cpu: &mut Cpu, selector: u16, kinds: &[u8]) -> Result<(Segment, u64), Fault> {
    if selector & 4 != 0 {
        return Err(cpu.gp(code(selector, 0)));
    }
    let d = cpu.descriptor(selector, vector::GP, 0)?;
    if !kinds.iter().any(|&k| d.is_system(k)) {
        return Err(cpu.gp(code(selector, 0)));
    }
    if !d.segment.present() {
        return Err(cpu.raise_with(vector::NP, code(selector, 0)));
    }
    let mut segment = d.segment;
    if cpu.lma() {
        segment.base |= cpu.descriptor_upper(selector)? << 32;
        if !cpu.canonical_base(segment.base) {
            return Err(cpu.gp(code(selector, 0)));
        }
    }
    Ok((segment, d.at))
}

fn lldt<S: Source>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        cpu.need_protected()?;
        cpu.need_cpl0()?;
        let selector = S::get::<u16>(cpu, op)?;
        cpu.state.ldtr = if null(selector) && selector & 4 == 0 {
            Segment { selector, ..Segment::default() }
        } else {
            system_segment(cpu, selector, &[system::LDT])?.0
        };
        Ok(())
    })
}

fn ltr<S: Source>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        cpu.need_protected()?;
        cpu.need_cpl0()?;
        let selector = S::get::<u16>(cpu, op)?;
        if null(selector) {
            return Err(cpu.gp(0));
        }
        let kinds: &[u8] = if cpu.lma() { &[system::TSS] } else { &[system::TSS, system::TSS_16] };
        let (mut segment, at) = system_segment(cpu, selector, kinds)?;
        segment.attributes |= 2;
        cpu.write_system(at.wrapping_add(5), segment.attributes as u8)?;
        cpu.state.tr = segment;
        Ok(())
    })
}

fn sldt<D: Place, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.need_protected()?;
        cpu.check_umip()?;
        let v = W::of(u64::from(cpu.state.ldtr.selector));
        D::set(cpu, op, v)
    })
}

fn str<D: Place, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.need_protected()?;
        cpu.check_umip()?;
        let v = W::of(u64::from(cpu.state.tr.selector));
        D::set(cpu, op, v)
    })
}

/// The descriptor as LAR and LSL see it: `None` if they may not.
fn visible(cpu: &mut Cpu, selector: u16, systems: &[u8]) -> Result<Option<(Segment, u64)>, Fault> {
    if null(selector) && selector & 4 == 0 {
        return Ok(None);
    }
    let Some(d) = cpu.find_descriptor(selector)? else { return Ok(None) };
    let s = d.segment;
    let kind_ok = s.code_or_data() || systems.contains(&s.kind());
    let reachable = (s.code() && s.conforming()) || (selector as u8 & 3).max(cpu.state.cpl) <= s.dpl();
    Ok((kind_ok && reachable).then_some((s, d.raw)))
}

fn lar<S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.need_protected()?;
        let selector = S::get::<u16>(cpu, op)?;
        let systems: &[u8] = if cpu.lma() {
            &[system::LDT, system::TSS, system::TSS_BUSY, system::CALL_GATE]
        } else {
            &[
                system::TSS_16,
                system::LDT,
                system::TSS_16_BUSY,
                system::CALL_GATE_16,
                system::TASK_GATE,
                system::TSS,
                system::TSS_BUSY,
                system::CALL_GATE,
            ]
        };
        let found = visible(cpu, selector, systems)?;
        if let Some((_, raw)) = found {
            W::set(&mut cpu.state.regs, op.dst, W::of(raw >> 32 & 0x00ff_ff00));
        }
        cpu.state.lazy.set_zf(found.is_some());
        Ok(())
    })
}

fn lsl<S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.need_protected()?;
        let selector = S::get::<u16>(cpu, op)?;
        let systems: &[u8] = if cpu.lma() {
            &[system::LDT, system::TSS, system::TSS_BUSY]
        } else {
            &[system::TSS_16, system::LDT, system::TSS_16_BUSY, system::TSS, system::TSS_BUSY]
        };
        let found = visible(cpu, selector, systems)?;
        if let Some((s, _)) = found {
            W::set(&mut cpu.state.regs, op.dst, W::of(u64::from(s.limit)));
        }
        cpu.state.lazy.set_zf(found.is_some());
        Ok(())
    })
}

fn verify<S: Source, const WRITE: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.need_protected()?;
        let selector = S::get::<u16>(cpu, op)?;
        let ok = visible(cpu, selector, &[])?
            .is_some_and(|(s, _)| if WRITE { !s.code() && s.readable_or_writable() } else { !s.code() || s.readable_or_writable() });
        cpu.state.lazy.set_zf(ok);
        Ok(())
    })
}

fn arpl<D: Place>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.need_protected()?;
        let rpl = Src::get::<u16>(cpu, op)? & 3;
        // The destination is written only where it changes.
        let raised = D::get::<u16>(cpu, op)? & 3 < rpl;
        if raised {
            D::update::<u16>(cpu, op, |_, old| old & !3 | rpl)?;
        }
        cpu.state.lazy.set_zf(raised);
        Ok(())
    })
}

fn store_table<W: Width, const IDT: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.check_umip()?;
        let t = if IDT { cpu.state.idtr } else { cpu.state.gdtr };
        let ea = cpu.effective(op);
        // All or nothing.
        cpu.probe_at(op, op.seg, ea, 2 + W::BYTES)?;
        cpu.store_at(op, op.seg, ea, t.limit)?;
        cpu.store_at(op, op.seg, ea.wrapping_add(2), W::of(t.base))
    })
}

fn load_table<W: Width, const IDT: bool>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        cpu.need_cpl0()?;
        let ea = cpu.effective(op);
        let limit = cpu.load_at::<u16>(op, op.seg, ea)?;
        let base = cpu.load_at::<W>(op, op.seg, ea.wrapping_add(2))?.zx();
        let base = if W::BYTES == 8 { base } else { base & op.imm };
        if !cpu.canonical_base(base) {
            return Err(cpu.gp(0));
        }
        let t = TableRegister { base, limit };
        if IDT {
            cpu.state.idtr = t;
        } else {
            cpu.state.gdtr = t;
        }
        Ok(())
    })
}

fn swapgs(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, _| {
        cpu.need_cpl0()?;
        let base = cpu.state.segments[seg::GS].base;
        let kernel = std::mem::replace(&mut cpu.state.msr.kernel_gs_base, base);
        cpu.set_base(seg::GS, kernel);
        Ok(())
    })
}

trait BaseOf {
    const N: usize;
}
struct Fs;
struct Gs;
impl BaseOf for Fs {
    const N: usize = seg::FS;
}
impl BaseOf for Gs {
    const N: usize = seg::GS;
}

fn read_base<B: BaseOf, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        need_fsgsbase(cpu)?;
        let base = cpu.state.segments[B::N].base;
        W::set(&mut cpu.state.regs, op.dst, W::of(base));
        Ok(())
    })
}

fn write_base<B: BaseOf, W: Width>(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, op| {
        need_fsgsbase(cpu)?;
        let base = W::get(&cpu.state.regs, op.dst).zx();
        if !cpu.canonical_base(base) {
            return Err(cpu.gp(0));
        }
        cpu.set_base(B::N, base);
        Ok(())
    })
}

fn need_fsgsbase(cpu: &mut Cpu) -> Result<(), Fault> {
    if cpu.state.cr4 & bits::CR4_FSGSBASE == 0 { Err(cpu.ud()) } else { Ok(()) }
}

/// The flags that IRET and POPF may change at privilege `cpl` with I/O privilege `iopl`; IRET also restores RF.
#[must_use]
pub fn changeable_flags(cpl: u8, iopl: u8) -> u64 {
    let mut mask = flags::ARITHMETIC | flags::TF | flags::DF | flags::NT | flags::AC | flags::ID;
    if cpl <= iopl {
        mask |= flags::IF;
    }
    if cpl == 0 {
        mask |= flags::IOPL;
    }
    mask
}
