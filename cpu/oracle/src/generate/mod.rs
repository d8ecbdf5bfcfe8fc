//! Makes a case from a seed, an index and an instruction code.
//!
//! The instruction comes from the operand kinds that iced knows of its code; registers and memory are then set up so that
//! it does something: addresses in the region, counts that end, selectors that are there, stacks that hold return addresses.
//! A few percent of the encodings get another prefix or a flipped bit afterwards.

mod form;
mod operands;
mod start;

use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Instruction, MemorySize, OpCodeInfo, OpCodeOperandKind as K, OpKind, Register as R,
};

use crate::accepted;
use crate::case::{CODE, Case, MAX_CODE, PAGE, REGION, selector};
use crate::values::{Kind, Random};

/// A case and what it was made of.
pub struct Made {
    /// To be run.
    pub case: Case,
    /// Its first instruction, as it decodes.
    pub instruction: Instruction,
}

/// Selectors that segment loads meet.
const SELECTORS: [u16; 18] = [
    0,
    3,
    0x08,
    0x10,
    0x18,
    0x1b,
    selector::CODE_32,
    selector::DATA_FLAT,
    selector::CODE_64,
    selector::CODE_16,
    selector::DATA_16,
    selector::SHORT,
    selector::EXPAND_DOWN,
    selector::READ_ONLY,
    selector::NOT_PRESENT,
    selector::EXECUTE_ONLY,
    selector::READABLE_CODE,
    0xfff8,
];

/// The mode in which `code` exists, one of those that it has.
#[must_use]
pub fn modes(info: &OpCodeInfo) -> Vec<u32> {
    [(16, info.mode16()), (32, info.mode32()), (64, info.mode64())].into_iter().filter(|m| m.1).map(|m| m.0).collect()
}

/// The case `index` of `seed` for `code`; `None` if none could be made (a code that its modes do not encode).
#[must_use]
pub fn make(code: Code, seed: u64, index: u64) -> Option<Made> {
    let mut random = Random::new(seed, index.wrapping_mul(8192).wrapping_add(code as u64));
    let info = code.op_code();
    let modes = modes(info);
    if modes.is_empty() {
        return None;
    }
    // 64-bit mode as often as the others together.
    let bits = if modes.contains(&64) && random.percent(50) { 64 } else { random.pick(&modes) };
    (0..20).find_map(|_| Maker::new(&mut random, bits, info).make())
}

/// Whether a selector is that of 64-bit code, where cases of 16-bit code must not lead: AMD's processors push a far call's
/// return address as the new mode does, at the whole RSP, whose upper half Linux has replaced where the stack is one of the
/// local table; and Linux repeats what faults above 4 GiB in code of the local table without end.
fn leads_to_64_bit(selector: u16) -> bool {
    selector & !3 == selector::CODE_64 & !3
}

struct Maker<'a> {
    r: &'a mut Random,
    bits: u32,
    info: &'a OpCodeInfo,
    case: Case,
    /// Registers that hold addresses, as bits.
    taken: u16,
}

impl<'a> Maker<'a> {
    fn new(r: &'a mut Random, bits: u32, info: &'a OpCodeInfo) -> Self {
        Self { r, bits, info, case: Case::new(bits), taken: 1 << 4 }
    }

    fn make(mut self) -> Option<Made> {
        self.registers();
        let mut instruction = self.instruction()?;
        self.prefixes(&mut instruction);
        self.place_code(&mut instruction)?;
        let bytes = self.encode(&instruction)?;
        let mut bytes = self.mutate(bytes);
        let instruction = self.decode(&bytes);
        if !instruction.is_invalid() {
            bytes.truncate(instruction.len());
        }
        // A flipped bit may have made it another selector.
        let far = matches!(instruction.op0_kind(), OpKind::FarBranch16 | OpKind::FarBranch32);
        if self.bits == 16 && far && leads_to_64_bit(instruction.far_branch_selector()) {
            return None;
        }
        if accepted::excluded(&instruction).is_some() || accepted::differing_branch(&instruction, self.bits, &bytes) {
            return None;
        }
        self.case.len = bytes.len() as u32;
        self.case.code[..bytes.len()].copy_from_slice(&bytes);
        self.operands(&instruction);
        Some(Made { case: self.case, instruction })
    }

    /// The flat offset of the region in the mode's data segments.
    fn base(&self) -> u64 {
        if self.bits == 16 { 0 } else { REGION }
    }

    /// The low bits of a register.
    fn low(&self, register: R, bits: u32) -> u64 {
        self.case.start.gpr[register.number()] & u64::MAX >> (64 - bits)
    }

    /// Sets the low bits of a register, and keeps what is above them; outside of 64-bit mode, 32 bits at most.
    fn set(&mut self, register: R, bits: u32, value: u64) {
        self.taken |= 1 << register.number();
        let mask = u64::MAX >> (64 - bits);
        let slot = &mut self.case.start.gpr[register.number()];
        *slot = *slot & !mask | value & mask;
        if self.bits != 64 {
            *slot &= 0xffff_ffff;
        }
    }

    fn prefixes(&mut self, i: &mut Instruction) {
        if self.info.can_use_lock_prefix() && self.r.percent(25) {
            i.set_has_lock_prefix(true);
        }
        if self.info.can_use_rep_prefix() && self.r.percent(40) {
            i.set_has_rep_prefix(true);
        } else if self.info.can_use_repne_prefix() && self.r.percent(40) {
            i.set_has_repne_prefix(true);
        }
    }

    /// Chooses where the code is, and resolves what depends on it.
    fn place_code(&mut self, i: &mut Instruction) -> Option<()> {
        let at_end = self.r.percent(3);
        let base = self.case.code_base();
        self.case.start.rip = base + CODE + 0x40 + self.r.below(64);
        self.aim(i, self.case.start.rip);
        let len = self.encode(i)?.len() as u64;
        if at_end {
            // Up to the end of the page, or over it.
            self.case.start.rip = base + CODE + PAGE - len + self.r.pick(&[0, 0, 1]).min(len - 1);
        }
        let near = (0..i.op_count()).any(|n| matches!(i.op_kind(n), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64));
        if near {
            let near = matches!(self.info.op_kind(0), K::br16_1 | K::br32_1 | K::br64_1);
            let rip = self.case.start.rip;
            let target = match self.r.below(10) {
                0 => rip + len,
                1 if !near => base + self.r.below(0x4000),
                _ => rip + 16 + self.r.below(100),
            };
            self.aim(i, target);
        }
        Some(())
    }

    /// Sets the target of a near branch.
    fn aim(&self, i: &mut Instruction, target: u64) {
        match self.info.op_kind(0) {
            K::br16_1 | K::br16_2 => i.set_near_branch16(target as u16),
            K::br32_1 | K::br32_4 => i.set_near_branch32(target as u32),
            K::br64_1 | K::br64_4 => i.set_near_branch64(target),
            _ => {}
        }
    }

    fn encode(&self, i: &Instruction) -> Option<Vec<u8>> {
        let mut encoder = Encoder::new(self.bits);
        encoder.encode(i, self.case.start.rip).ok()?;
        Some(encoder.take_buffer())
    }

    /// Now and then another prefix, or a flipped bit.
    fn mutate(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        if self.r.percent(4) {
            const PREFIXES: [u8; 13] = [0x66, 0x67, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0xf0, 0x48, 0x45];
            for _ in 0..=self.r.below(2) {
                let at = self.r.below(2.min(bytes.len() as u64)) as usize;
                bytes.insert(at, self.r.pick(&PREFIXES));
            }
        } else if self.r.percent(2) {
            let at = self.r.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.r.below(8);
        } else if self.r.percent(1) {
            // Around the longest that is allowed.
            let wanted = 13 + self.r.below(4) as usize;
            let prefix = self.r.pick(&[0x2e, 0x3e, 0x26]);
            while bytes.len() < wanted {
                bytes.insert(0, prefix);
            }
        }
        bytes.truncate(MAX_CODE);
        bytes
    }

    fn decode(&self, bytes: &[u8]) -> Instruction {
        decode(self.bits, bytes, self.case.start.rip)
    }

    /// The offset in the region of the memory operand.
    fn effective(&self, i: &Instruction) -> Option<u64> {
        let n = (0..i.op_count()).find(|n| i.op_kind(*n) == OpKind::Memory)?;
        address(&self.case, i, n)
    }
}

/// The offset in the region of memory operand `n`.
#[must_use]
pub fn address(case: &Case, i: &Instruction, n: u32) -> Option<u64> {
    let start = &case.start;
    let linear = i.virtual_address(n, 0, |register, _, _| {
        Some(match register {
            R::FS => start.fs_base,
            R::GS => start.gs_base,
            _ if register.is_segment_register() => REGION - case.code_base(),
            _ if register.is_gpr() => {
                let v = start.gpr[register.full_register().number()];
                v & u64::MAX >> (64 - 8 * register.size())
            }
            _ => return None,
        })
    })?;
    Some(linear.wrapping_sub(REGION))
}

/// Decodes the first instruction of `bytes`.
#[must_use]
pub fn decode(bits: u32, bytes: &[u8], ip: u64) -> Instruction {
    // What follows is INT3.
    let mut padded = [0xcc; MAX_CODE + 16];
    padded[..bytes.len()].copy_from_slice(bytes);
    Decoder::with_ip(bits, &padded, ip, DecoderOptions::NONE).decode()
}

/// What a memory operand's elements are.
fn element(size: MemorySize) -> Option<Kind> {
    Some(match size.element_type() {
        MemorySize::Unknown => return None,
        MemorySize::Float16 => Kind::Half,
        MemorySize::Float32 => Kind::Single,
        MemorySize::Float64 => Kind::Double,
        MemorySize::Float80 => Kind::Extended,
        other => match other.size() {
            n @ (1 | 2 | 4 | 8) => Kind::Integer(n),
            _ => return None,
        },
    })
}
