//! Bytes of renamed instructions.
//!
//! How the operands of most legacy-encoded instructions lie in their bytes is worked out once for each of iced's codes
//! ([`Form`]); everything else is left to iced's encoder. With debug assertions every instruction is encoded by both.

use iced_x86::{Code, Encoder, EncodingKind, Instruction, MandatoryPrefix, OpCodeOperandKind as Kind, OpCodeTableKind, OpKind, Register};

use super::super::assembler::{Assembler, At, Rm};
use super::super::registers::number;

/// Encodes instructions.
pub struct Coder {
    iced: Encoder,
    /// By code.
    forms: Vec<Known>,
}

/// What is known of a code.
#[derive(Clone, Copy)]
enum Known {
    Nothing,
    /// iced's encoder is needed.
    Other,
    Form(Form),
}

/// How an instruction is encoded.
#[derive(Clone, Copy, Default)]
struct Form {
    /// Prefix 66, for the size of operands, and the mandatory one.
    short: bool,
    mandatory: Option<u8>,
    /// REX.W.
    wide: bool,
    escape: &'static [u8],
    opcode: u8,
    /// What the field of the ModRM byte holds that names no operand.
    digit: u8,
    /// The operands in the fields of the ModRM byte, and in the low bits of the opcode.
    reg: Option<u8>,
    rm: Option<u8>,
    low: Option<u8>,
    /// The operand of the ModRM byte may be in memory.
    memory: bool,
    /// An immediate, and its bytes.
    immediate: Option<(u8, u8)>,
}

impl Form {
    /// That of a code, if it is one of these.
    fn new(code: Code) -> Option<Self> {
        let info = code.op_code();
        let other = info.op_code_len() != 1 || info.is_rm_group() || info.fwait() || info.default_op_size64() || info.force_op_size64();
        if !info.mode64() || info.encoding() != EncodingKind::Legacy || other || info.address_size() != 0 {
            return None;
        }
        let mut form = Self {
            short: info.operand_size() == 16,
            mandatory: match info.mandatory_prefix() {
                MandatoryPrefix::P66 => Some(0x66),
                MandatoryPrefix::PF2 => Some(0xf2),
                MandatoryPrefix::PF3 => Some(0xf3),
                _ => None,
            },
            wide: info.operand_size() == 64,
            escape: match info.table() {
                OpCodeTableKind::Normal => &[],
                OpCodeTableKind::T0F => &[0x0f],
                OpCodeTableKind::T0F38 => &[0x0f, 0x38],
                OpCodeTableKind::T0F3A => &[0x0f, 0x3a],
                _ => return None,
            },
            opcode: info.op_code() as u8,
            digit: if info.is_group() { info.group_index() as u8 } else { 0 },
            ..Self::default()
        };
        for n in 0..info.op_count() {
            let kind = info.op_kind(n);
            form.memory |= matches!(kind, Kind::r8_or_mem | Kind::r16_or_mem | Kind::r32_or_mem | Kind::r64_or_mem);
            form.memory |= matches!(kind, Kind::mem | Kind::xmm_or_mem | Kind::mm_or_mem);
            let (place, immediate) = match kind {
                Kind::r8_reg | Kind::r16_reg | Kind::r32_reg | Kind::r64_reg | Kind::xmm_reg | Kind::mm_reg => (Some(&mut form.reg), None),
                Kind::r8_or_mem | Kind::r16_or_mem | Kind::r32_or_mem | Kind::r64_or_mem => (Some(&mut form.rm), None),
                Kind::r16_rm | Kind::r32_rm | Kind::r64_rm | Kind::xmm_rm | Kind::mm_rm => (Some(&mut form.rm), None),
                Kind::mem | Kind::xmm_or_mem | Kind::mm_or_mem => (Some(&mut form.rm), None),
                Kind::r8_opcode | Kind::r16_opcode | Kind::r32_opcode | Kind::r64_opcode => (Some(&mut form.low), None),
                Kind::al | Kind::cl | Kind::ax | Kind::eax | Kind::rax | Kind::imm8_const_1 => (None, None),
                Kind::imm8 | Kind::imm8sex16 | Kind::imm8sex32 | Kind::imm8sex64 => (None, Some(1)),
                Kind::imm16 => (None, Some(2)),
                Kind::imm32 | Kind::imm32sex64 => (None, Some(4)),
                Kind::imm64 => (None, Some(8)),
                _ => return None,
            };
            if place.as_ref().is_some_and(|p| p.is_some()) || immediate.is_some() && form.immediate.is_some() {
                return None;
            }
            match (place, immediate) {
                (Some(place), _) => *place = Some(n as u8),
                (None, Some(bytes)) => form.immediate = Some((n as u8, bytes)),
                (None, None) => {}
            }
        }
        // An operand of this kind may be the only one, beside a group's number.
        (form.rm.is_some() || form.reg.is_none() && !info.is_group()).then_some(form)
    }

    /// Appends instruction `i`; false if it is not one for this.
    fn emit(&self, i: &Instruction, a: &mut Assembler) -> bool {
        let register = |n: u8| number(i.op_register(n.into()));
        let in_memory = |n: u8| i.op_kind(n.into()) == OpKind::Memory;
        let prefixed = i.segment_prefix() != Register::None || i.has_lock_prefix() || i.has_rep_prefix() || i.has_repne_prefix();
        if prefixed || [self.reg, self.low].into_iter().flatten().any(in_memory) {
            return false;
        }
        let reg = self.reg.map_or(self.digit, register);
        let rm = match (self.rm, memory(i)) {
            (Some(n), Some(at)) if in_memory(n) && self.memory => Rm::Mem(at),
            (Some(n), _) if in_memory(n) => return false,
            (Some(n), _) => Rm::Reg(register(n)),
            (None, _) => Rm::Reg(self.low.map_or(0, register)),
        };
        // SPL to DIL are not AH to BH.
        let is_low = |r: Register| matches!(r, Register::SPL | Register::BPL | Register::SIL | Register::DIL);
        let named = |n: u8| i.op_kind(n.into()) == OpKind::Register && is_low(i.op_register(n.into()));
        let needed = [self.reg, self.rm, self.low].into_iter().flatten().any(named);
        if self.short {
            a.bytes(&[0x66]);
        }
        if let Some(prefix) = self.mandatory {
            a.bytes(&[prefix]);
        }
        a.rex(self.wide, needed, reg, rm);
        a.bytes(self.escape);
        match self.rm {
            Some(_) => {
                a.bytes(&[self.opcode]);
                a.modrm(reg, rm);
            }
            None => a.bytes(&[self.opcode | self.low.map_or(0, |n| register(n) & 7)]),
        }
        if let Some((n, bytes)) = self.immediate {
            a.bytes(&i.immediate(n.into()).to_le_bytes()[..bytes.into()]);
        }
        true
    }
}

/// The memory operand of a renamed instruction, if it is off a 64-bit register.
fn memory(i: &Instruction) -> Option<At> {
    let (base, index) = (i.memory_base(), i.memory_index());
    let whole = base.is_gpr64() && (index.is_gpr64() || index == Register::None);
    whole.then(|| At {
        base: Some(number(base)),
        index: (index != Register::None).then(|| number(index)),
        scale: i.memory_index_scale().trailing_zeros() as u8,
        disp: i.memory_displacement64() as i32,
    })
}

impl Coder {
    pub fn new() -> Self {
        Self { iced: Encoder::new(64), forms: vec![Known::Nothing; Code::values().len()] }
    }

    /// Appends instruction `i`; none if it cannot be encoded.
    pub fn encode(&mut self, i: &Instruction, a: &mut Assembler) -> Option<()> {
        let known = &mut self.forms[i.code() as usize];
        if matches!(known, Known::Nothing) {
            *known = Form::new(i.code()).map_or(Known::Other, Known::Form);
        }
        let start = a.here();
        match known {
            Known::Form(form) if form.emit(i, a) => {
                debug_assert_eq!(a.code[start..], self.by_iced(i), "{i:?}");
                Some(())
            }
            _ => self.by_other(i, a),
        }
    }

    fn by_other(&mut self, i: &Instruction, a: &mut Assembler) -> Option<()> {
        self.iced.set_buffer(std::mem::take(&mut a.code));
        let ok = self.iced.encode(i, 0).is_ok();
        a.code = self.iced.take_buffer();
        ok.then_some(())
    }

    /// What iced makes of `i`, if anything.
    fn by_iced(&mut self, i: &Instruction) -> Vec<u8> {
        let encoded = self.iced.encode(i, 0);
        let bytes = self.iced.take_buffer();
        if encoded.is_ok() { bytes } else { Vec::new() }
    }
}
