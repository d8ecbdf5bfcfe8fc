//! Descriptors, the stacks of the TSS, and pushes and pops by the processor itself (SDM 3A, chapters 3, 5 and 7).

use super::cpuid::Feature;
use crate::fault::{Fault, Reason, vector};
use crate::state::{Cpu, Segment, bits, reg, seg};

/// Types of system descriptors (SDM 3A, table 3-2).
#[allow(missing_docs, reason = "named as in the manual")]
pub mod system {
    pub const TSS_16: u8 = 1;
    pub const LDT: u8 = 2;
    pub const TSS_16_BUSY: u8 = 3;
    pub const CALL_GATE_16: u8 = 4;
    pub const TASK_GATE: u8 = 5;
    pub const INTERRUPT_GATE_16: u8 = 6;
    pub const TRAP_GATE_16: u8 = 7;
    pub const TSS: u8 = 9;
    pub const TSS_BUSY: u8 = 11;
    pub const CALL_GATE: u8 = 12;
    pub const INTERRUPT_GATE: u8 = 14;
    pub const TRAP_GATE: u8 = 15;
}

/// A descriptor as it stands in its table.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// The segment it describes, with the selector that it was found by.
    pub segment: Segment,
    /// Its first 8 bytes.
    pub raw: u64,
    /// Its linear address.
    pub at: u64,
}

impl Descriptor {
    /// S is clear and the type is `kind`.
    #[must_use]
    pub fn is_system(&self, kind: u8) -> bool {
        !self.segment.code_or_data() && self.segment.kind() == kind
    }
    /// A gate's target offset, lower 32 bits.
    #[must_use]
    pub fn gate_offset(&self) -> u64 {
        (self.raw & 0xffff) | (self.raw >> 32 & 0xffff_0000)
    }
    /// A gate's target selector.
    #[must_use]
    pub fn gate_selector(&self) -> u16 {
        (self.raw >> 16) as u16
    }
}

/// The selector part of an error code; `ext` is its bit 0.
#[must_use]
pub fn code(selector: u16, ext: u32) -> u32 {
    u32::from(selector & !3) | ext
}

/// A null selector: index 0 of the GDT.
#[must_use]
pub fn null(selector: u16) -> bool {
    selector & !3 == 0
}

/// Bits 63 to `bits` - 1 are all alike.
#[must_use]
pub fn canonical(v: u64, bits: u32) -> bool {
    let unused = 64 - bits;
    (v as i64) << unused >> unused == v as i64
}

impl Cpu {
    /// A canonical address for the paging that is on: of 48 bits, or 57 with CR4.LA57.
    #[must_use]
    pub fn canonical(&self, v: u64) -> bool {
        canonical(v, if self.state.cr4 & bits::CR4_LA57 != 0 { 57 } else { 48 })
    }

    /// An address that registers and MSRs take: canonical for the widest paging of this model.
    #[must_use]
    pub fn canonical_base(&self, v: u64) -> bool {
        canonical(v, if self.model.has(Feature::La57) { 57 } else { 48 })
    }

    /// #UD where the instruction needs protected mode (not virtual-8086).
    ///
    /// # Errors
    /// #UD.
    pub fn need_protected(&mut self) -> Result<(), Fault> {
        if self.state.mode.protected() { Ok(()) } else { Err(self.ud()) }
    }

    /// #GP(0) unless at privilege level 0.
    ///
    /// # Errors
    /// #GP(0).
    pub fn need_cpl0(&mut self) -> Result<(), Fault> {
        if self.state.cpl == 0 { Ok(()) } else { Err(self.gp(0)) }
    }

    /// The descriptor of `selector`, or `None` beyond the table's limit.
    ///
    /// # Errors
    /// #PF on the table.
    pub fn find_descriptor(&mut self, selector: u16) -> Result<Option<Descriptor>, Fault> {
        let Some(at) = self.descriptor_address(selector, 8) else { return Ok(None) };
        let raw = self.read_system::<u64>(at)?;
        Ok(Some(Descriptor { segment: Segment::from_descriptor(selector, raw), raw, at }))
    }

    fn descriptor_address(&self, selector: u16, bytes: u64) -> Option<u64> {
        let s = &self.state;
        let (base, limit) = if selector & 4 == 0 {
            (s.gdtr.base, u64::from(s.gdtr.limit))
        } else if s.ldtr.present() {
            (s.ldtr.base, u64::from(s.ldtr.limit))
        } else {
            return None;
        };
        let offset = u64::from(selector & !7);
        (offset + bytes - 1 <= limit).then(|| self.table_address(base, offset))
    }

    fn table_address(&self, base: u64, offset: u64) -> u64 {
        let at = base.wrapping_add(offset);
        if self.lma() { at } else { at & 0xffff_ffff }
    }

    /// The descriptor of `selector`.
    ///
    /// # Errors
    /// Exception `vector` with the selector beyond the table's limit; #PF on the table.
    pub fn descriptor(&mut self, selector: u16, vector: u8, ext: u32) -> Result<Descriptor, Fault> {
        match self.find_descriptor(selector)? {
            Some(d) => Ok(d),
            None => Err(self.raise_with(vector, code(selector, ext))),
        }
    }

    /// The upper 8 bytes of a 16-byte system descriptor or call gate (IA-32e mode).
    ///
    /// # Errors
    /// #GP(selector) beyond the limit or with a type that is not 0; #PF.
    pub fn descriptor_upper(&mut self, selector: u16) -> Result<u64, Fault> {
        let Some(at) = self.descriptor_address(selector, 16) else { return Err(self.gp(code(selector, 0))) };
        let upper = self.read_system::<u64>(at.wrapping_add(8))?;
        if upper >> 40 & 0x1f != 0 { Err(self.gp(code(selector, 0))) } else { Ok(upper) }
    }

    /// Sets the accessed bit of a code or data descriptor, in its table and in `d`.
    ///
    /// # Errors
    /// #PF on the table.
    pub fn mark_accessed(&mut self, d: &mut Descriptor) -> Result<(), Fault> {
        if d.segment.attributes & 1 == 0 {
            d.segment.attributes |= 1;
            d.raw |= 1 << 40;
            self.write_system(d.at.wrapping_add(5), (d.raw >> 40) as u8)?;
        }
        Ok(())
    }

    /// Checks and fetches a stack segment for privilege `level`; `bad` is the vector of a wrong selector (#TS or #GP).
    ///
    /// # Errors
    /// As for MOV SS, with `bad` for #GP.
    pub fn fetch_stack_segment(&mut self, selector: u16, level: u8, bad: u8, ext: u32) -> Result<Segment, Fault> {
        if null(selector) {
            return Err(self.raise_with(bad, ext));
        }
        let mut d = self.descriptor(selector, bad, ext)?;
        let s = d.segment;
        if selector as u8 & 3 != level || s.dpl() != level || !s.code_or_data() || s.code() || !s.readable_or_writable() {
            return Err(self.raise_with(bad, code(selector, ext)));
        }
        if !s.present() {
            return Err(self.raise_with(vector::SS, code(selector, ext)));
        }
        self.mark_accessed(&mut d)?;
        Ok(d.segment)
    }

    /// A field of the current TSS.
    ///
    /// # Errors
    /// #TS beyond its limit; #PF.
    pub(super) fn tss_field(&mut self, offset: u64, bytes: u64, ext: u32) -> Result<u64, Fault> {
        let tr = self.state.tr;
        if offset + bytes - 1 > u64::from(tr.limit) {
            return Err(self.raise_with(vector::TS, code(tr.selector, ext)));
        }
        let at = self.table_address(tr.base, offset);
        match bytes {
            1 => self.read_system::<u8>(at).map(u64::from),
            2 => self.read_system::<u16>(at).map(u64::from),
            4 => self.read_system::<u32>(at).map(u64::from),
            _ => self.read_system::<u64>(at),
        }
    }

    /// The stack of privilege `level` from the TSS (IA-32e mode: RSP0..2, or IST `ist` if not 0, with a null SS).
    ///
    /// # Errors
    /// #TS, #SS, #PF (SDM 3A, 6.12.1 and 6.14).
    pub fn inner_stack(&mut self, level: u8, ist: u8, ext: u32) -> Result<Stack, Fault> {
        let n = u64::from(level);
        let (segment, sp, mask);
        if self.lma() {
            let offset = if ist == 0 { 4 + 8 * n } else { 0x1c + 8 * u64::from(ist) };
            sp = self.tss_field(offset, 8, ext)?;
            if !self.canonical(sp) {
                return Err(self.raise_with(vector::SS, ext));
            }
            segment = Segment { selector: u16::from(level), attributes: u16::from(level) << 5, limit: 0, base: 0 };
            mask = !0;
        } else {
            let selector;
            if self.state.tr.kind() & 8 != 0 {
                sp = self.tss_field(4 + 8 * n, 4, ext)?;
                selector = self.tss_field(8 + 8 * n, 2, ext)?;
            } else {
                sp = self.tss_field(2 + 4 * n, 2, ext)?;
                selector = self.tss_field(4 + 4 * n, 2, ext)?;
            }
            segment = self.fetch_stack_segment(selector as u16, level, vector::TS, ext)?;
            mask = if segment.big() { 0xffff_ffff } else { 0xffff };
        }
        Ok(Stack { segment, mask, sp, user: level == 3, error: code(segment.selector, ext) })
    }

    /// Whether the I/O permission bitmap or IOPL lets the program use `width` ports from `port` on.
    ///
    /// # Errors
    /// #GP(0) if not; #PF on the TSS.
    pub fn check_port(&mut self, port: u16, width: usize) -> Result<(), Fault> {
        self.port_allowed(port, width)?;
        if self.state.dr[7] & crate::debug::ENABLES != 0 {
            self.watch_port(port, width);
        }
        Ok(())
    }

    fn port_allowed(&mut self, port: u16, width: usize) -> Result<(), Fault> {
        let s = &self.state;
        if !self.pe() || (s.cpl <= self.iopl() && !s.mode.v86()) {
            return Ok(());
        }
        let tr = s.tr;
        let limit = u64::from(tr.limit);
        if tr.present() && tr.kind() & 8 != 0 && limit >= 0x67 {
            let map = u64::from(self.read_system::<u16>(self.table_address(tr.base, 0x66))?);
            let at = map + u64::from(port >> 3);
            if at < limit {
                let bits = self.read_system::<u16>(self.table_address(tr.base, at))?;
                if bits >> (port & 7) & ((1 << width) - 1) == 0 {
                    return Ok(());
                }
            }
        }
        Err(self.gp(0))
    }

    /// A real-mode or virtual-8086 segment: real mode keeps limit and attributes of what register `n` held.
    #[must_use]
    pub fn real_segment(&self, n: usize, selector: u16) -> Segment {
        let base = u64::from(selector) << 4;
        if self.state.mode.v86() {
            return Segment { selector, attributes: 0xf3, limit: 0xffff, base };
        }
        let old = self.state.segments[n];
        Segment { selector, attributes: old.attributes & 0xf000 | 0x93, limit: old.limit, base }
    }

    /// Goes to privilege `level` with code segment `cs` at `rip`; VM must already be as it shall be.
    pub fn enter_code(&mut self, cs: Segment, level: u8, rip: u64) {
        self.state.cpl = level;
        let selector = if self.state.mode.protected() { cs.selector & !3 | u16::from(level) } else { cs.selector };
        self.set_segment(seg::CS, Segment { selector, ..cs });
        self.state.rip = rip;
    }

    /// Sets the stack segment and pointer of a stack switch.
    pub fn enter_stack(&mut self, stack: &Stack) {
        self.set_segment(seg::SS, stack.segment);
        stack.commit(self);
    }

    /// Whether `rip` may be executed in `cs`: within the limit, or canonical in 64-bit code.
    ///
    /// # Errors
    /// #GP(ext).
    pub fn check_target(&mut self, cs: &Segment, rip: u64, ext: u32) -> Result<(), Fault> {
        let long = self.lma() && cs.long();
        let ok = if long { self.canonical(rip) } else { rip <= u64::from(cs.limit) };
        if ok { Ok(()) } else { Err(self.gp(ext)) }
    }
}

/// A stack that the processor itself pushes to or pops from; nothing is committed before [`Stack::commit`].
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    /// SS.
    pub segment: Segment,
    /// Width of the stack pointer.
    mask: u64,
    /// The stack pointer.
    pub sp: u64,
    user: bool,
    /// Error code of #SS.
    error: u32,
}

impl Stack {
    /// The current stack.
    #[must_use]
    pub fn current(cpu: &Cpu) -> Self {
        let s = &cpu.state;
        let mask = match s.mode.stack_bits() {
            64 => !0,
            32 => 0xffff_ffff,
            _ => 0xffff,
        };
        Self { segment: s.segments[seg::SS], mask, sp: s.regs[usize::from(reg::RSP)], user: s.cpl == 3, error: 0 }
    }

    /// A stack for another privilege level; `long` if the code that will use it is 64-bit.
    #[must_use]
    pub fn outer(segment: Segment, sp: u64, long: bool) -> Self {
        let mask = if long {
            !0
        } else if segment.big() {
            0xffff_ffff
        } else {
            0xffff
        };
        Self { segment, mask, sp, user: false, error: 0 }
    }

    /// With the #SS error code bit EXT.
    #[must_use]
    pub fn ext(self, ext: u32) -> Self {
        Self { error: self.error | ext, ..self }
    }

    /// Sets the rights of accesses: those of CPL 3, or of the system.
    pub fn set_user(&mut self, user: bool) {
        self.user = user;
    }

    fn linear(&self, cpu: &mut Cpu, bytes: usize) -> Result<u64, Fault> {
        let ea = self.sp & self.mask;
        if self.mask == !0 {
            return Ok(ea);
        }
        if !self.segment.admits(ea, bytes) {
            return Err(cpu.raise_with(vector::SS, self.error));
        }
        Ok(self.segment.base.wrapping_add(ea) & 0xffff_ffff)
    }

    fn class(&self, cpu: &mut Cpu, f: Fault) -> Fault {
        if let Reason::Exception(e) = &mut cpu.fault {
            if e.vector == vector::GP {
                (e.vector, e.error) = (vector::SS, Some(self.error));
            }
        }
        f
    }

    /// #AC where the two bytes below the top are not the start of an aligned operand of `bytes` bytes.
    ///
    /// # Errors
    /// #SS, #AC.
    pub fn check_room(&self, cpu: &mut Cpu, bytes: usize) -> Result<(), Fault> {
        let top = Self { sp: self.sp.wrapping_sub(2), ..*self };
        let at = top.linear(cpu, 2)?;
        self.check_alignment(cpu, at, bytes)
    }

    fn check_alignment(&self, cpu: &mut Cpu, at: u64, bytes: usize) -> Result<(), Fault> {
        if self.user { cpu.check_alignment(at, bytes) } else { Ok(()) }
    }

    /// Pushes the low `bytes` (2, 4 or 8) bytes of `v`.
    ///
    /// # Errors
    /// #SS, #PF.
    pub fn push(&mut self, cpu: &mut Cpu, bytes: usize, v: u64) -> Result<(), Fault> {
        self.sp = self.sp.wrapping_sub(bytes as u64);
        let at = self.linear(cpu, bytes)?;
        self.check_alignment(cpu, at, bytes)?;
        match bytes {
            2 => cpu.write_as(at, v as u16, self.user),
            4 => cpu.write_as(at, v as u32, self.user),
            _ => cpu.write_as(at, v, self.user),
        }
        .map_err(|f| self.class(cpu, f))
    }

    /// Pops `bytes` (2, 4 or 8) bytes.
    ///
    /// # Errors
    /// #SS, #PF.
    pub fn pop(&mut self, cpu: &mut Cpu, bytes: usize) -> Result<u64, Fault> {
        let at = self.linear(cpu, bytes)?;
        self.check_alignment(cpu, at, bytes)?;
        let v = match bytes {
            2 => cpu.read_as::<u16>(at, self.user).map(u64::from),
            4 => cpu.read_as::<u32>(at, self.user).map(u64::from),
            _ => cpu.read_as::<u64>(at, self.user),
        }
        .map_err(|f| self.class(cpu, f))?;
        self.sp = self.sp.wrapping_add(bytes as u64);
        Ok(v)
    }

    /// Writes the stack pointer back.
    pub fn commit(&self, cpu: &mut Cpu) {
        let sp = &mut cpu.state.regs[usize::from(reg::RSP)];
        *sp = match self.mask {
            0xffff => *sp & !0xffff | self.sp & 0xffff,
            mask => self.sp & mask,
        };
    }
}
