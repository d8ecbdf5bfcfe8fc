//! Implicit operands and memory values that make sense for an instruction: counts that end, selectors that are there,
//! return addresses, floating-point images.

use iced_x86::{Code, Instruction, MemorySize, Mnemonic as M, OpKind, Register as R};

use super::{Maker, SELECTORS, element};
use crate::case::{CODE, Case, PAGE, STACK};
use crate::values::{self, Kind};

impl Maker<'_> {
    /// Gives implicit operands and memory values that make sense for the instruction.
    pub(super) fn operands(&mut self, i: &Instruction) {
        let strings = i.is_string_instruction();
        let mask = self.address_mask(i);
        if strings || matches!(i.mnemonic(), M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu) {
            let size = (i.memory_size().size() as u64).max(1);
            for register in [R::RSI, R::RDI] {
                let target = self.target(size * 4).wrapping_add(self.base());
                self.set(register, mask, target);
            }
            let count = self.r.pick(&[0, 1, 2, 3, 7, 20]);
            if strings {
                self.set(R::RCX, mask, count);
            }
        }
        match i.mnemonic() {
            M::Xlatb => {
                let target = self.target(256).wrapping_add(self.base());
                self.set(R::RBX, mask, target);
            }
            M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz if self.r.percent(60) => {
                let v = self.r.below(3);
                self.set(R::RCX, 32, v);
            }
            M::Leave => {
                let v = self.base() + STACK + self.r.below(PAGE);
                self.set(R::RBP, 32, v);
            }
            M::Enter => {
                let v = self.base() + STACK + 0x400 + self.r.below(0x400);
                self.set(R::RBP, 32, v);
            }
            // The bit offset reaches beyond the operand; mostly not far.
            M::Bt | M::Bts | M::Btr | M::Btc if i.op0_kind() == OpKind::Memory && i.op1_kind() == OpKind::Register => {
                let register = i.op1_register();
                if self.r.percent(85) && self.taken >> register.number() & 1 == 0 {
                    let v = self.r.below(0x2000).wrapping_sub(0x1000);
                    let bits = 8 * register.size() as u32;
                    self.set(register, bits, v);
                }
            }
            // Near the dividend, so that not every quotient overflows.
            M::Div | M::Idiv if self.r.percent(70) => {
                let v = if self.r.percent(50) { 0 } else { u64::MAX };
                self.set(R::RDX, if self.bits == 64 { 64 } else { 32 }, v);
                if i.op0_kind() != OpKind::Memory && i.op0_register().size() == 1 {
                    let v = values::integer(self.r, 8);
                    self.set(R::RAX, 16, v);
                }
            }
            M::Aad | M::Aam | M::Daa | M::Das | M::Aaa | M::Aas => {
                let v = values::integer(self.r, 16);
                self.set(R::RAX, 16, v);
            }
            _ => {}
        }
        // Equal operands matter to these.
        if matches!(i.mnemonic(), M::Cmpxchg | M::Cmpxchg8b | M::Cmpxchg16b) && self.r.percent(50) {
            self.equal_accumulator(i);
        }
        self.selectors(i);
        self.pointers(i);
        self.floats(i);
        self.stack(i);
    }

    /// Bits of the addresses of an instruction.
    fn address_mask(&self, i: &Instruction) -> u32 {
        for n in 0..i.op_count() {
            match i.op_kind(n) {
                OpKind::MemorySegSI | OpKind::MemoryESDI | OpKind::MemorySegDI => return 16,
                OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI => return 32,
                OpKind::MemorySegRSI | OpKind::MemoryESRDI | OpKind::MemorySegRDI => return 64,
                OpKind::Memory => match i.memory_base().size() {
                    2 => return 16,
                    4 => return 32,
                    8 => return 64,
                    _ => {}
                },
                _ => {}
            }
        }
        self.bits
    }

    fn equal_accumulator(&mut self, i: &Instruction) {
        let place = self.effective(i).and_then(crate::case::Machine::place);
        let value = |at: usize, case: &Case| {
            let mut v = [0; 8];
            let slice = case.start.memory.get(at..at + 8)?;
            v.copy_from_slice(slice);
            Some(u64::from_le_bytes(v))
        };
        let wide = if self.bits == 64 { 64 } else { 32 };
        match (i.mnemonic(), place) {
            (M::Cmpxchg, Some(at)) => {
                if let Some(v) = value(at, &self.case).filter(|_| self.taken & 1 == 0) {
                    self.set(R::RAX, wide, v);
                }
            }
            (M::Cmpxchg, None) if i.op0_kind() == OpKind::Register => {
                let v = self.case.start.gpr[i.op0_register().full_register().number()];
                self.set(R::RAX, wide, v);
            }
            (M::Cmpxchg8b, Some(at)) => {
                if let Some(v) = value(at, &self.case).filter(|_| self.taken & 5 == 0) {
                    self.set(R::RAX, 32, v);
                    self.set(R::RDX, 32, v >> 32);
                }
            }
            (M::Cmpxchg16b, Some(at)) => {
                let whole = value(at, &self.case).zip(value(at + 8, &self.case));
                if let Some((low, high)) = whole.filter(|_| self.taken & 5 == 0) {
                    self.set(R::RAX, 64, low);
                    self.set(R::RDX, 64, high);
                }
            }
            _ => {}
        }
    }

    /// Selectors that are there, for whatever takes one.
    fn selectors(&mut self, i: &Instruction) {
        let loads = match i.mnemonic() {
            M::Mov => i.op0_register().is_segment_register(),
            M::Lar | M::Lsl | M::Verr | M::Verw | M::Arpl => true,
            _ => false,
        };
        if !loads {
            return;
        }
        let n = if i.op_count() > 1 && i.mnemonic() != M::Arpl { 1 } else { 0 };
        let selector = self.r.pick(&SELECTORS);
        if i.op_kind(n) == OpKind::Register {
            self.set(i.op_register(n), 16, selector.into());
        } else if let Some(offset) = self.effective(i) {
            self.case.start.put(offset, &selector.to_le_bytes());
        }
    }

    /// Targets of indirect branches.
    fn pointers(&mut self, i: &Instruction) {
        let base = self.case.code_base();
        let target = if self.r.percent(80) { base + CODE + 0x600 + self.r.below(0x100) } else { values::integer(self.r, 64) };
        match i.mnemonic() {
            M::Jmp | M::Call if i.op_count() > 0 => match i.op0_kind() {
                OpKind::Register => {
                    let bits = 8 * i.op0_register().size() as u32;
                    if bits > 8 {
                        self.set(i.op0_register(), bits, target);
                    }
                }
                OpKind::Memory => {
                    let Some(offset) = self.effective(i) else { return };
                    let far = match i.memory_size() {
                        MemorySize::SegPtr16 => 2,
                        MemorySize::SegPtr32 => 4,
                        MemorySize::SegPtr64 => 8,
                        _ => 0,
                    };
                    self.case.start.put(offset, &target.to_le_bytes());
                    if far != 0 {
                        let selector = self.selector();
                        self.case.start.put(offset.wrapping_add(far), &selector.to_le_bytes());
                    }
                }
                _ => {}
            },
            M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss => {
                let Some(offset) = self.effective(i) else { return };
                let selector = self.r.pick(&SELECTORS);
                let size = i.memory_size().size() as u64;
                self.case.start.put(offset.wrapping_add(size - 2), &selector.to_le_bytes());
            }
            _ => {}
        }
    }

    /// Memory operands in formats that random bytes would not give.
    fn floats(&mut self, i: &Instruction) {
        let Some(offset) = self.effective(i) else { return };
        let size = i.memory_size();
        let mut bytes = vec![0; size.size().min(512)];
        match size {
            MemorySize::Float80 => bytes.copy_from_slice(&values::extended(self.r)),
            MemorySize::Bcd => bytes.copy_from_slice(&values::bcd(self.r)),
            MemorySize::FpuEnv14 | MemorySize::FpuEnv28 | MemorySize::FpuState94 | MemorySize::FpuState108 => {
                let image = self.case.start.x87;
                let wide = matches!(size, MemorySize::FpuEnv28 | MemorySize::FpuState108);
                let step = if wide { 4 } else { 2 };
                bytes[..2].copy_from_slice(&image[..2]);
                bytes[step..step + 2].copy_from_slice(&image[2..4]);
                let tags = self.r.next() as u16;
                bytes[2 * step..2 * step + 2].copy_from_slice(&tags.to_le_bytes());
                for byte in &mut bytes[3 * step..7 * step] {
                    *byte = self.r.next() as u8;
                }
                for slot in bytes[7 * step..].chunks_exact_mut(10) {
                    slot.copy_from_slice(&values::extended(self.r));
                }
            }
            MemorySize::Fxsave_512Byte | MemorySize::Fxsave64_512Byte | MemorySize::Xsave | MemorySize::Xsave64 => {
                let mut image = vec![0; 576];
                values::fill(self.r, &mut image[160..416]);
                self.x87_image(&mut image);
                image[24..28].copy_from_slice(&self.case.start.mxcsr.to_le_bytes());
                if self.r.percent(4) {
                    image[26] = 1;
                }
                image[512] = self.r.pick(&[3, 3, 3, 1, 2, 0]);
                bytes = image;
            }
            _ => match element(size) {
                Some(kind @ (Kind::Single | Kind::Double | Kind::Half)) => values::fill_kind(self.r, kind, &mut bytes),
                Some(kind) => values::fill_kind(self.r, kind, &mut bytes),
                _ if i.mnemonic() == M::Ldmxcsr => {
                    let v = self.case.start.mxcsr ^ self.r.next() as u32 & 0x1ffff & self.r.next() as u32;
                    bytes.copy_from_slice(&v.to_le_bytes());
                }
                _ => return,
            },
        }
        self.case.start.put(offset, &bytes);
    }

    fn x87_image(&mut self, image: &mut [u8]) {
        let own = self.case.start.x87;
        image[..24].copy_from_slice(&own[..24]);
        image[32..160].copy_from_slice(&own[32..160]);
        for slot in image[32..160].chunks_mut(16) {
            slot[..10].copy_from_slice(&values::extended(self.r));
        }
    }

    /// Return addresses, frames, selectors and flags for what pops them.
    fn stack(&mut self, i: &Instruction) {
        let base = self.case.code_base();
        let wide = if self.bits == 16 { 2 } else { u64::from(self.bits / 8) };
        let at = (self.case.start.gpr[4] & if self.bits == 16 { 0xffff } else { u64::MAX }).wrapping_sub(self.base());
        let target = base + CODE + 0x500 + self.r.below(0x80);
        let cs = self.selector();
        let flags = self.r.next() & 0x24_7fd5;
        let words: Vec<u64> = match i.mnemonic() {
            M::Ret => vec![target],
            M::Retf => vec![target, cs.into()],
            M::Iret | M::Iretd | M::Iretq => {
                let ss = if self.r.percent(80) { self.case.start.selectors[2] } else { self.r.pick(&SELECTORS) };
                vec![target, cs.into(), flags & !0x100, self.base() + STACK + 0x800, ss.into()]
            }
            M::Popf | M::Popfd | M::Popfq => vec![flags],
            M::Pop if i.op0_register().is_segment_register() => vec![self.r.pick(&SELECTORS).into()],
            _ => return,
        };
        let size = match i.code() {
            Code::Retnw | Code::Retnw_imm16 | Code::Retfw | Code::Retfw_imm16 | Code::Iretw | Code::Popfw => 2,
            Code::Retnd | Code::Retnd_imm16 | Code::Retfd | Code::Retfd_imm16 | Code::Iretd | Code::Popfd => 4,
            Code::Retnq | Code::Retnq_imm16 | Code::Retfq | Code::Retfq_imm16 | Code::Iretq | Code::Popfq => 8,
            _ => wide,
        };
        for (n, word) in words.into_iter().enumerate() {
            self.case.start.put(at.wrapping_add(n as u64 * size), &word.to_le_bytes()[..size as usize]);
        }
    }
}
