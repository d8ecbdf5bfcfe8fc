//! The x87 instructions: operands, exceptions and rows. What they compute is in [`crate::semantics::x87`].
//!
//! An unmasked exception is delivered by the next waiting instruction: #MF where CR0.NE is set. Otherwise it asserts FERR#,
//! from which a PC makes IRQ 13, and freezes until an interrupt comes, unless the board asserts IGNNE#. The instruction and operand pointers are recorded when an exception becomes pending, and only then.

use iced_x86::Mnemonic as M;

use crate::fault::{Fault, Reason, vector};
use crate::flags;
use crate::lower::Lower;
use crate::op::{Dst, Exit, Op, Place, step};
use crate::semantics::softfloat::{F80, Ordering4};
use crate::semantics::x87::image::Layout;
use crate::semantics::x87::{Arith, Constant, Fpu, LastInstruction, Operand};
use crate::state::{Cpu, bits, seg};
use crate::table::{Row, row};
use crate::width::Value;

const MAX_IMAGE: usize = 108;

impl Cpu {
    /// #NM where the unit is switched off or another task's.
    #[inline(always)]
    fn fpu_available(&mut self) -> Result<(), Fault> {
        if self.state.cr0 & (bits::CR0_EM | bits::CR0_TS) != 0 {
            return Err(self.raise(vector::NM));
        }
        Ok(())
    }

    /// Delivers a pending x87 exception: what every waiting instruction does first (MMX instructions, too).
    ///
    /// # Errors
    /// #MF.
    #[inline(always)]
    pub fn fpu_wait(&mut self, op: &Op) -> Result<(), Fault> {
        if self.state.fpu.pending() { self.fpu_exception(op) } else { Ok(()) }
    }

    #[cold]
    fn fpu_exception(&mut self, op: &Op) -> Result<(), Fault> {
        if self.state.cr0 & bits::CR0_NE != 0 {
            return Err(self.raise(vector::MF));
        }
        let at = self.now(op);
        self.state.float_error = true;
        if self.bus.float_error(at, true) {
            return Ok(());
        }
        self.state.halted = true;
        self.fault = Reason::Frozen;
        Err(Fault)
    }

    /// After an instruction that may have cleared exceptions: FERR# falls with the last one.
    #[inline(always)]
    pub fn fpu_settle(&mut self, op: &Op) {
        if self.state.float_error && !self.state.fpu.pending() {
            self.state.float_error = false;
            let at = self.now(op);
            self.bus.float_error(at, false);
        }
    }

    /// Records where the instruction is that made an exception pending.
    #[cold]
    fn fpu_record(&mut self, op: &Op) {
        let ip = self.this_rip(op);
        let mut code = [0; 16];
        let linear = if self.state.mode.long() { ip } else { self.state.segments[seg::CS].base.wrapping_add(ip) & 0xffff_ffff };
        let len = usize::from(op.len).min(15);
        if !self.debug_read(linear, &mut code[..len]) {
            return;
        }
        let Some(at) = code[..len].iter().position(|byte| (0xd8..=0xdf).contains(byte)) else {
            return;
        };
        let mod_rm = code[at + 1];
        let mut last = LastInstruction {
            opcode: u16::from(code[at] & 7) << 8 | u16::from(mod_rm),
            ip,
            cs: self.state.segments[seg::CS].selector,
            ..self.state.fpu.last
        };
        if mod_rm < 0xc0 {
            let segment = if usize::from(op.seg) < 6 { usize::from(op.seg) } else { seg::DS };
            last.dp = self.effective(op);
            last.ds = self.state.segments[segment].selector;
        }
        self.state.fpu.last = last;
    }

    /// As a store to `op`'s memory operand that stores nothing.
    #[cold]
    fn probe_only<V: Value>(&mut self, op: &Op) -> Result<(), Fault> {
        let ea = self.effective(op);
        self.probe_operand(op, op.seg, ea, V::BYTES).map(|_| ())
    }

    fn load_bytes(&mut self, op: &Op, bytes: &mut [u8]) -> Result<(), Fault> {
        let ea = self.effective(op);
        let linear = self.linear(op.seg, ea, bytes.len(), false, op.addr)?;
        self.check_alignment(linear, image_alignment(bytes.len()))?;
        for (i, pair) in bytes.chunks_exact_mut(2).enumerate() {
            let word: u16 = self.read(linear.wrapping_add(2 * i as u64)).map_err(|f| self.stack_class(op.seg, f))?;
            pair.copy_from_slice(&word.to_le_bytes());
        }
        Ok(())
    }

    fn store_bytes(&mut self, op: &Op, bytes: &[u8]) -> Result<(), Fault> {
        let ea = self.effective(op);
        let linear = self.linear(op.seg, ea, bytes.len(), true, op.addr)?;
        self.check_alignment(linear, image_alignment(bytes.len()))?;
        self.probe_at(op, op.seg, ea, bytes.len())?;
        for (i, pair) in bytes.chunks_exact(2).enumerate() {
            self.write(linear.wrapping_add(2 * i as u64), u16::from_le_bytes([pair[0], pair[1]]))?;
        }
        Ok(())
    }
}

/// The alignment of an environment or state image: 4 bytes if it is of the 32-bit kind (SDM 3A, table 7-7).
const fn image_alignment(bytes: usize) -> usize {
    if bytes % 80 == 28 { 4 } else { 2 }
}

/// An instruction that computes.
#[inline(always)]
fn execute(cpu: &mut Cpu, op: &Op, rest: &[Op], body: impl FnOnce(&mut Cpu, &Op) -> Result<(), Fault>) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.fpu_available()?;
        cpu.fpu_wait(op)?;
        body(cpu, op)?;
        if cpu.state.fpu.pending() {
            cpu.fpu_record(op);
        }
        Ok(())
    })
}

/// A control instruction; `waiting` ones deliver a pending exception first.
#[inline(always)]
fn control(cpu: &mut Cpu, op: &Op, rest: &[Op], waiting: bool, body: impl FnOnce(&mut Cpu, &Op) -> Result<(), Fault>) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.fpu_available()?;
        if waiting {
            cpu.fpu_wait(op)?;
        }
        body(cpu, op)?;
        cpu.fpu_settle(op);
        Ok(())
    })
}

/// The lowering of an instruction that needs nothing but the unit (and the operation's register numbers).
macro_rules! registers {
    (|$fpu:ident, $op:ident| $body:expr) => {{
        fn handler(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
            execute(cpu, op, rest, |cpu, $op: &Op| {
                let $fpu: &mut Fpu = &mut cpu.state.fpu;
                $body;
                Ok(())
            })
        }
        |l: &Lower| l.with(handler)
    }};
}

/// The lowering of a control instruction.
macro_rules! control {
    ($waiting:literal, |$cpu:ident, $op:ident| $body:expr) => {{
        fn handler(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
            control(cpu, op, rest, $waiting, |$cpu: &mut Cpu, $op: &Op| {
                $body;
                Ok(())
            })
        }
        |l: &Lower| l.with(handler)
    }};
}

/// A memory format that is widened to the register format exactly.
trait Format {
    /// As it is in memory.
    type Raw: Value;
    /// Widens it.
    fn widen(raw: Self::Raw) -> Operand;
}

macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident($raw:ty) => $widen:expr;)*) => {$(
        $(#[$doc])*
        struct $name;
        impl Format for $name {
            type Raw = $raw;
            #[inline(always)]
            fn widen(raw: $raw) -> Operand {
                ($widen)(raw)
            }
        }
    )*};
}

formats! {
    /// m32fp
    Single(u32) => Operand::single;
    /// m64fp
    Double(u64) => Operand::double;
    /// m16int
    Int16(u16) => |v| Operand::integer(i64::from(v as i16));
    /// m32int
    Int32(u32) => |v| Operand::integer(i64::from(v as i32));
    /// m64int
    Int64(u64) => |v| Operand::integer(v as i64);
}

/// An arithmetic operation as a type.
trait Operation {
    const OP: Arith;
}

macro_rules! operations {
    ($($name:ident)*) => {$(
        struct $name;
        impl Operation for $name {
            const OP: Arith = Arith::$name;
        }
    )*};
}
operations!(Add Mul Sub SubReverse Div DivReverse);

fn arith_registers<O: Operation, const POP: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    execute(cpu, op, rest, |cpu, op| {
        cpu.state.fpu.arith(O::OP, usize::from(op.dst), usize::from(op.src), POP);
        Ok(())
    })
}

fn arith_memory<O: Operation, F: Format>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    execute(cpu, op, rest, |cpu, op| {
        let raw = cpu.load(op)?;
        cpu.state.fpu.arith_memory(O::OP, F::widen(raw));
        Ok(())
    })
}

/// FADD and its like: two registers, m32fp or m64fp.
fn arith<O: Operation>(l: &Lower) -> Option<Op> {
    match (l.is_mem(0), l.bits(0)) {
        (true, 32) => l.with(arith_memory::<O, Single>),
        (true, _) => l.with(arith_memory::<O, Double>),
        (false, _) => l.with(arith_registers::<O, false>),
    }
}

/// FADDP and its like.
fn arith_pop<O: Operation>(l: &Lower) -> Option<Op> {
    l.with(arith_registers::<O, true>)
}

/// FIADD and its like.
fn arith_integer<O: Operation>(l: &Lower) -> Option<Op> {
    if l.bits(0) == 16 { l.with(arith_memory::<O, Int16>) } else { l.with(arith_memory::<O, Int32>) }
}

fn compare_registers<const QUIET: bool, const POPS: u32>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    execute(cpu, op, rest, |cpu, op| {
        cpu.state.fpu.compare(usize::from(op.src), QUIET, POPS);
        Ok(())
    })
}

fn compare_memory<F: Format, const POPS: u32>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    execute(cpu, op, rest, |cpu, op| {
        let raw = cpu.load(op)?;
        cpu.state.fpu.compare_memory(F::widen(raw), POPS);
        Ok(())
    })
}

/// FCOM, FCOMP
fn compare<const POPS: u32>(l: &Lower) -> Option<Op> {
    match (l.is_mem(0), l.bits(0)) {
        (true, 32) => l.with(compare_memory::<Single, POPS>),
        (true, _) => l.with(compare_memory::<Double, POPS>),
        (false, _) => l.with(compare_registers::<false, POPS>),
    }
}

/// FICOM, FICOMP
fn compare_integer<const POPS: u32>(l: &Lower) -> Option<Op> {
    if l.bits(0) == 16 { l.with(compare_memory::<Int16, POPS>) } else { l.with(compare_memory::<Int32, POPS>) }
}

/// FUCOM, FUCOMP
fn compare_quiet<const POPS: u32>(l: &Lower) -> Option<Op> {
    l.with(compare_registers::<true, POPS>)
}

/// FCOMPP, FUCOMPP: the other operand is always ST(1).
fn compare_pop_both<const QUIET: bool>(l: &Lower) -> Option<Op> {
    l.with(compare_registers::<QUIET, 2>).map(|op| Op { src: 1, ..op })
}

fn compare_flags_handler<const QUIET: bool, const POP: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    execute(cpu, op, rest, |cpu, op| {
        let order = cpu.state.fpu.compare_to_flags(usize::from(op.src), QUIET, POP);
        cpu.state.lazy.set_bits(match order {
            Ordering4::Less => flags::CF,
            Ordering4::Equal => flags::ZF,
            Ordering4::Greater => 0,
            Ordering4::Unordered => flags::ZF | flags::PF | flags::CF,
        });
        Ok(())
    })
}

/// FCOMI, FCOMIP, FUCOMI, FUCOMIP
fn compare_flags<const QUIET: bool, const POP: bool>(l: &Lower) -> Option<Op> {
    l.with(compare_flags_handler::<QUIET, POP>)
}

fn move_if_handler<const CC: u8>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    execute(cpu, op, rest, |cpu, op| {
        let condition = cpu.state.lazy.condition::<CC>();
        cpu.state.fpu.move_if(condition, usize::from(op.src));
        Ok(())
    })
}

/// FCMOVcc; `CC` as in Jcc.
fn move_if<const CC: u8>(l: &Lower) -> Option<Op> {
    l.with(move_if_handler::<CC>)
}

fn load_format<F: Format>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    execute(cpu, op, rest, |cpu, op| {
        let raw = cpu.load(op)?;
        cpu.state.fpu.load(F::widen(raw));
        Ok(())
    })
}

fn load_extended(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    execute(cpu, op, rest, |cpu, op| {
        let bytes = cpu.load(op)?;
        cpu.state.fpu.load_extended(F80::from_le_bytes(bytes));
        Ok(())
    })
}

fn load_bcd(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    execute(cpu, op, rest, |cpu, op| {
        let bytes = cpu.load(op)?;
        cpu.state.fpu.load_bcd(bytes);
        Ok(())
    })
}

fn load_register(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    execute(cpu, op, rest, |cpu, op| {
        cpu.state.fpu.load_register(usize::from(op.dst));
        Ok(())
    })
}

/// FLD
fn load(l: &Lower) -> Option<Op> {
    match (l.is_mem(0), l.bits(0)) {
        (true, 32) => l.with(load_format::<Single>),
        (true, 64) => l.with(load_format::<Double>),
        (true, _) => l.with(load_extended),
        (false, _) => l.with(load_register),
    }
}

/// FILD
fn load_integer(l: &Lower) -> Option<Op> {
    match l.bits(0) {
        16 => l.with(load_format::<Int16>),
        32 => l.with(load_format::<Int32>),
        _ => l.with(load_format::<Int64>),
    }
}

/// A store of what `convert` makes of ST(0), then a pop if asked for; a faulting one leaves no trace.
#[inline(always)]
fn store<V: Value>(cpu: &mut Cpu, op: &Op, rest: &[Op], pop: bool, convert: impl FnOnce(&mut Fpu) -> Option<V>) -> Exit {
    execute(cpu, op, rest, |cpu, op| {
        let before = cpu.state.fpu.flags();
        let value = convert(&mut cpu.state.fpu);
        let stored = match value {
            Some(value) => cpu.store(op, value),
            // The place must be writable even if an exception keeps the value away.
            None => cpu.probe_only::<V>(op),
        };
        if stored.is_err() {
            cpu.state.fpu.restore_flags(before);
        } else if pop && value.is_some() {
            cpu.state.fpu.pop();
        }
        stored
    })
}

fn store_single<const POP: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    store(cpu, op, rest, POP, Fpu::store_single)
}

fn store_double<const POP: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    store(cpu, op, rest, POP, Fpu::store_double)
}

fn store_extended(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    store(cpu, op, rest, true, |fpu| fpu.store_extended().map(F80::to_le_bytes))
}

fn store_bcd(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    store(cpu, op, rest, true, Fpu::store_bcd)
}

fn store_i16<const POP: bool, const TRUNCATE: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    store(cpu, op, rest, POP, |fpu| fpu.store_i16(TRUNCATE).map(|v| v as u16))
}

fn store_i32<const POP: bool, const TRUNCATE: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    store(cpu, op, rest, POP, |fpu| fpu.store_i32(TRUNCATE).map(|v| v as u32))
}

fn store_i64<const TRUNCATE: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    store(cpu, op, rest, true, |fpu| fpu.store_i64(TRUNCATE).map(|v| v as u64))
}

fn store_register<const POP: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    execute(cpu, op, rest, |cpu, op| {
        cpu.state.fpu.store_register(usize::from(op.dst), POP);
        Ok(())
    })
}

/// FST, FSTP
fn store_real<const POP: bool>(l: &Lower) -> Option<Op> {
    match (l.is_mem(0), l.bits(0)) {
        (true, 32) => l.with(store_single::<POP>),
        (true, 64) => l.with(store_double::<POP>),
        (true, _) => l.with(store_extended),
        (false, _) => l.with(store_register::<POP>),
    }
}

/// FIST, FISTP, FISTTP
fn store_integer<const POP: bool, const TRUNCATE: bool>(l: &Lower) -> Option<Op> {
    match l.bits(0) {
        16 => l.with(store_i16::<POP, TRUNCATE>),
        32 => l.with(store_i32::<POP, TRUNCATE>),
        _ => l.with(store_i64::<TRUNCATE>),
    }
}

fn store_status_register(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    control(cpu, op, rest, false, |cpu, op| Dst::set(cpu, op, cpu.state.fpu.status()))
}

fn store_status_memory(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    control(cpu, op, rest, false, |cpu, op| cpu.store(op, cpu.state.fpu.status()))
}

/// FNSTSW
fn store_status(l: &Lower) -> Option<Op> {
    if l.is_mem(0) { l.with(store_status_memory) } else { l.with(store_status_register) }
}

/// FNOP, and without the wait the instructions of older units that do nothing.
fn no_operation<const WAITING: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    control(cpu, op, rest, WAITING, |_, _| Ok(()))
}

/// FWAIT heeds TS only together with MP.
fn wait(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let both = bits::CR0_MP | bits::CR0_TS;
        if cpu.state.cr0 & both == both {
            return Err(cpu.raise(vector::NM));
        }
        cpu.fpu_wait(op)
    })
}

/// The layout of an environment that lowering has left in the immediate.
const fn layout(op: &Op) -> Layout {
    Layout { wide: op.imm & 1 != 0, real: op.imm & 2 != 0 }
}

/// The lowering of an instruction that moves an environment: its layout follows from the operand size and the mode.
fn with_layout(l: &Lower, op: Option<Op>) -> Option<Op> {
    let wide = matches!(l.i.memory_size().size(), 28 | 108);
    let real = !l.mode.long() && !l.mode.protected();
    op.map(|op| Op { imm: u64::from(wide) | u64::from(real) << 1, ..op })
}

fn store_environment(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    control(cpu, op, rest, false, |cpu, op| {
        let mut bytes = [0; MAX_IMAGE];
        let layout = layout(op);
        cpu.state.fpu.store_environment(layout, &mut bytes);
        cpu.store_bytes(op, &bytes[..layout.environment_size()])?;
        cpu.state.fpu.mask_all();
        Ok(())
    })
}

fn load_environment(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    control(cpu, op, rest, true, |cpu, op| {
        let mut bytes = [0; MAX_IMAGE];
        let layout = layout(op);
        cpu.load_bytes(op, &mut bytes[..layout.environment_size()])?;
        cpu.state.fpu.load_environment(layout, &bytes);
        Ok(())
    })
}

fn save(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    control(cpu, op, rest, false, |cpu, op| {
        let mut bytes = [0; MAX_IMAGE];
        let layout = layout(op);
        cpu.state.fpu.save(layout, &mut bytes);
        cpu.store_bytes(op, &bytes[..layout.save_size()])?;
        cpu.state.fpu.init();
        Ok(())
    })
}

fn restore(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    control(cpu, op, rest, true, |cpu, op| {
        let mut bytes = [0; MAX_IMAGE];
        let layout = layout(op);
        cpu.load_bytes(op, &mut bytes[..layout.save_size()])?;
        cpu.state.fpu.restore(layout, &bytes);
        Ok(())
    })
}

const ALL_ARITHMETIC: &str = "oszapc";

/// The rows of the x87.
pub const ROWS: &[Row] = &[
    row(M::Fadd, arith::<Add>),
    row(M::Fmul, arith::<Mul>),
    row(M::Fsub, arith::<Sub>),
    row(M::Fsubr, arith::<SubReverse>),
    row(M::Fdiv, arith::<Div>),
    row(M::Fdivr, arith::<DivReverse>),
    row(M::Faddp, arith_pop::<Add>),
    row(M::Fmulp, arith_pop::<Mul>),
    row(M::Fsubp, arith_pop::<Sub>),
    row(M::Fsubrp, arith_pop::<SubReverse>),
    row(M::Fdivp, arith_pop::<Div>),
    row(M::Fdivrp, arith_pop::<DivReverse>),
    row(M::Fiadd, arith_integer::<Add>),
    row(M::Fimul, arith_integer::<Mul>),
    row(M::Fisub, arith_integer::<Sub>),
    row(M::Fisubr, arith_integer::<SubReverse>),
    row(M::Fidiv, arith_integer::<Div>),
    row(M::Fidivr, arith_integer::<DivReverse>),
    row(M::Fcom, compare::<0>),
    row(M::Fcomp, compare::<1>),
    row(M::Fcompp, compare_pop_both::<false>),
    row(M::Ficom, compare_integer::<0>),
    row(M::Ficomp, compare_integer::<1>),
    row(M::Fucom, compare_quiet::<0>),
    row(M::Fucomp, compare_quiet::<1>),
    row(M::Fucompp, compare_pop_both::<true>),
    row(M::Fcomi, compare_flags::<false, false>).modifies(ALL_ARITHMETIC),
    row(M::Fcomip, compare_flags::<false, true>).modifies(ALL_ARITHMETIC),
    row(M::Fucomi, compare_flags::<true, false>).modifies(ALL_ARITHMETIC),
    row(M::Fucomip, compare_flags::<true, true>).modifies(ALL_ARITHMETIC),
    row(M::Ftst, registers!(|fpu, _op| fpu.test())),
    row(M::Fxam, registers!(|fpu, _op| fpu.examine())),
    row(M::Fcmovb, move_if::<2>),
    row(M::Fcmovnb, move_if::<3>),
    row(M::Fcmove, move_if::<4>),
    row(M::Fcmovne, move_if::<5>),
    row(M::Fcmovbe, move_if::<6>),
    row(M::Fcmovnbe, move_if::<7>),
    row(M::Fcmovu, move_if::<10>),
    row(M::Fcmovnu, move_if::<11>),
    row(M::Fld, load),
    row(M::Fild, load_integer),
    row(M::Fbld, |l| l.with(load_bcd)),
    row(M::Fst, store_real::<false>),
    row(M::Fstp, store_real::<true>),
    row(M::Fstpnce, registers!(|fpu, op| fpu.store_register_unchecked(usize::from(op.dst)))),
    row(M::Fist, store_integer::<false, false>),
    row(M::Fistp, store_integer::<true, false>),
    row(M::Fisttp, store_integer::<true, true>),
    row(M::Fbstp, |l| l.with(store_bcd)),
    row(M::Fld1, registers!(|fpu, _op| fpu.load_constant(Constant::One))),
    row(M::Fldl2t, registers!(|fpu, _op| fpu.load_constant(Constant::Log2Ten))),
    row(M::Fldl2e, registers!(|fpu, _op| fpu.load_constant(Constant::Log2E))),
    row(M::Fldpi, registers!(|fpu, _op| fpu.load_constant(Constant::Pi))),
    row(M::Fldlg2, registers!(|fpu, _op| fpu.load_constant(Constant::Log10Two))),
    row(M::Fldln2, registers!(|fpu, _op| fpu.load_constant(Constant::LnTwo))),
    row(M::Fldz, registers!(|fpu, _op| fpu.load_constant(Constant::Zero))),
    row(M::Fxch, registers!(|fpu, op| fpu.exchange(usize::from(op.src)))),
    row(M::Fchs, registers!(|fpu, _op| fpu.set_sign(true))),
    row(M::Fabs, registers!(|fpu, _op| fpu.set_sign(false))),
    row(M::Fsqrt, registers!(|fpu, _op| fpu.square_root())),
    row(M::Frndint, registers!(|fpu, _op| fpu.round_to_integer())),
    row(M::Fscale, registers!(|fpu, _op| fpu.scale())),
    row(M::Fxtract, registers!(|fpu, _op| fpu.extract())),
    row(M::Fprem, registers!(|fpu, _op| fpu.partial_remainder(false))),
    row(M::Fprem1, registers!(|fpu, _op| fpu.partial_remainder(true))),
    row(M::Fsin, registers!(|fpu, _op| fpu.sine(false))),
    row(M::Fcos, registers!(|fpu, _op| fpu.sine(true))),
    row(M::Fsincos, registers!(|fpu, _op| fpu.sine_and_cosine())),
    row(M::Fptan, registers!(|fpu, _op| fpu.tangent())),
    row(M::Fpatan, registers!(|fpu, _op| fpu.arc_tangent())),
    row(M::F2xm1, registers!(|fpu, _op| fpu.exponential())),
    row(M::Fyl2x, registers!(|fpu, _op| fpu.logarithm())),
    row(M::Fyl2xp1, registers!(|fpu, _op| fpu.logarithm_plus_one())),
    row(M::Fnop, |l| l.with(no_operation::<true>)),
    row(M::Ffree, registers!(|fpu, op| fpu.free(usize::from(op.dst), false))),
    row(M::Ffreep, registers!(|fpu, op| fpu.free(usize::from(op.dst), true))),
    row(M::Fincstp, registers!(|fpu, _op| fpu.rotate(1))),
    row(M::Fdecstp, registers!(|fpu, _op| fpu.rotate(-1))),
    row(M::Wait, |l| l.with(wait)),
    row(M::Fninit, control!(false, |cpu, _op| cpu.state.fpu.init())),
    row(M::Fnclex, control!(false, |cpu, _op| cpu.state.fpu.clear_exceptions())),
    // Of the 8087 and the 80287; the 387 and its successors ignore them.
    row(M::Fneni, |l| l.with(no_operation::<false>)),
    row(M::Fndisi, |l| l.with(no_operation::<false>)),
    row(M::Fnsetpm, |l| l.with(no_operation::<false>)),
    row(
        M::Fldcw,
        control!(true, |cpu, op| {
            let word = cpu.load(op)?;
            cpu.state.fpu.set_control(word);
        }),
    ),
    row(M::Fnstcw, control!(false, |cpu, op| cpu.store(op, cpu.state.fpu.control())?)),
    row(M::Fnstsw, store_status),
    row(M::Fnstenv, |l| with_layout(l, l.with(store_environment))),
    row(M::Fldenv, |l| with_layout(l, l.with(load_environment))),
    row(M::Fnsave, |l| with_layout(l, l.with(save))),
    row(M::Frstor, |l| with_layout(l, l.with(restore))),
];

#[cfg(test)]
mod tests;
