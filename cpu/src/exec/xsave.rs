//! Saving and restoring the vector and x87 state (SDM 1, chapters 10.5 and 13), and the hints about memory.

use iced_x86::Mnemonic as M;

use crate::fault::{Fault, vector};
use crate::mmu::Access;
use crate::op::{Exit, Op, last, step};
use crate::semantics::simd::float::MXCSR_MASK;
use crate::semantics::x87::Fpu;
use crate::semantics::x87::image::FXSAVE_SIZE;
use crate::state::{Cpu, bits, reg};
use crate::table::{Row, row};
use crate::width::Width;

/// XCR0: the x87 state.
pub const XCR0_X87: u64 = 1 << 0;
/// XCR0: the XMM registers and MXCSR.
pub const XCR0_SSE: u64 = 1 << 1;
/// XCR0: the upper halves of the YMM registers.
pub const XCR0_AVX: u64 = 1 << 2;
/// The bits of XCR0 that may be set.
pub const XCR0_SUPPORTED: u64 = XCR0_X87 | XCR0_SSE;

/// Bytes of the legacy area that the processor uses; the rest is software's.
const LEGACY: usize = 416;
const MXCSR_AT: u64 = 24;
const XMM_AT: usize = 160;
/// Bytes of an FXSAVE area.
const FX_AREA: usize = 512;
/// Offset of the XSAVE header.
const HEADER: u64 = 512;
/// Bytes of an XSAVE area: the legacy area and the header.
pub const XSAVE_AREA: usize = 576;

/// Instruction rows.
pub const ROWS: &[Row] = &[
    row(M::Fxsave, |l| l.with(fxsave::<false>)),
    row(M::Fxsave64, |l| l.with(fxsave::<true>)),
    row(M::Fxrstor, |l| l.with(fxrstor::<false>)),
    row(M::Fxrstor64, |l| l.with(fxrstor::<true>)),
    row(M::Xsave, |l| l.with(xsave::<false>)),
    row(M::Xsave64, |l| l.with(xsave::<true>)),
    // No component is known to be unmodified: as XSAVE.
    row(M::Xsaveopt, |l| l.with(xsave::<false>)),
    row(M::Xsaveopt64, |l| l.with(xsave::<true>)),
    row(M::Xrstor, |l| l.with(xrstor::<false>)),
    row(M::Xrstor64, |l| l.with(xrstor::<true>)),
    row(M::Xgetbv, |l| l.with(xgetbv)),
    row(M::Xsetbv, |l| l.with(xsetbv)),
    row(M::Clflush, |l| l.with(clflush)),
    row(M::Clflushopt, |l| l.with(clflush)),
    row(M::Clwb, |l| l.with(clflush)),
    row(M::Lfence, |l| l.with(nothing)),
    row(M::Sfence, |l| l.with(nothing)),
    row(M::Mfence, |l| l.with(nothing)),
    row(M::Prefetchnta, |l| l.with(nothing)),
    row(M::Prefetcht0, |l| l.with(nothing)),
    row(M::Prefetcht1, |l| l.with(nothing)),
    row(M::Prefetcht2, |l| l.with(nothing)),
    row(M::Prefetch, |l| l.with(nothing)),
    row(M::Prefetchw, |l| l.with(nothing)),
];

fn nothing(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |_, _| Ok(()))
}

/// Faults as a load would, and does nothing else: the caches are not modelled.
fn clflush(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let ea = cpu.effective(op);
        let linear = cpu.linear(op.seg, ea, 1, false, op.addr)?;
        cpu.translate(linear, Access { write: false, rights: cpu.rights(), fetch: false })?;
        Ok(())
    })
}

impl Cpu {
    /// How many XMM registers the mode has.
    fn xmm_count(&self) -> usize {
        if self.state.mode.long() { 16 } else { 8 }
    }

    /// The legacy area as FXSAVE makes it.
    fn legacy_area(&self, long: bool) -> [u8; LEGACY] {
        let mut area = [0; LEGACY];
        area[..FXSAVE_SIZE].copy_from_slice(&self.state.fpu.fxsave_image(long));
        area[24..28].copy_from_slice(&self.state.mxcsr.to_le_bytes());
        area[28..32].copy_from_slice(&MXCSR_MASK.to_le_bytes());
        for (slot, v) in area[XMM_AT..].chunks_exact_mut(16).zip(&self.state.ymm.0) {
            slot.copy_from_slice(&v.0[..16]);
        }
        area
    }

    /// Stores `bytes`, a multiple of 4, by quadwords; nothing is stored if any of it would fault.
    fn store_area(&mut self, linear: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.probe_write(linear, bytes.len())?;
        for (i, chunk) in bytes.chunks(8).enumerate() {
            let at = linear.wrapping_add(8 * i as u64);
            match *chunk {
                [a, b, c, d, e, f, g, h] => self.write(at, u64::from_le_bytes([a, b, c, d, e, f, g, h]))?,
                [a, b, c, d, ..] => self.write(at, u32::from_le_bytes([a, b, c, d]))?,
                _ => {}
            }
        }
        Ok(())
    }

    fn load_area(&mut self, linear: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        for (i, chunk) in bytes.chunks_exact_mut(8).enumerate() {
            let v: u64 = self.read(linear.wrapping_add(8 * i as u64))?;
            chunk.copy_from_slice(&v.to_le_bytes());
        }
        Ok(())
    }

    fn load_mxcsr(&mut self, area: &[u8; LEGACY]) -> Result<u32, Fault> {
        let v = u32::from_le_bytes([area[24], area[25], area[26], area[27]]);
        if v & !MXCSR_MASK != 0 { Err(self.raise_with(vector::GP, 0)) } else { Ok(v) }
    }

    fn load_x87(&mut self, area: &[u8; LEGACY], long: bool) {
        let mut image = [0; FXSAVE_SIZE];
        image.copy_from_slice(&area[..FXSAVE_SIZE]);
        self.state.fpu.fxrstor_image(&image, long);
    }

    fn load_xmm(&mut self, area: &[u8; LEGACY]) {
        let count = self.xmm_count();
        for (slot, v) in area[XMM_AT..].chunks_exact(16).zip(&mut self.state.ymm.0[..count]) {
            v.0[..16].copy_from_slice(slot);
        }
    }

    /// What XSAVE and its like check first.
    fn xsave_ready(&mut self) -> Result<(), Fault> {
        if self.state.cr4 & bits::CR4_OSXSAVE == 0 {
            return Err(self.raise(vector::UD));
        }
        if self.state.cr0 & bits::CR0_TS != 0 {
            return Err(self.raise(vector::NM));
        }
        Ok(())
    }

    /// RFBM: the state components that EDX:EAX ask for and XCR0 has.
    fn requested(&self) -> u64 {
        let r = &self.state.regs;
        self.state.xcr0 & (u64::from(u32::get(r, reg::RAX)) | u64::from(u32::get(r, reg::RDX)) << 32)
    }
}

fn fxsave<const LONG: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        fx_ready(cpu)?;
        let linear = cpu.check_aligned(op, 16, FX_AREA, true)?;
        let area = cpu.legacy_area(LONG);
        let used = XMM_AT + 16 * cpu.xmm_count();
        cpu.store_area(linear, &area[..used])
    })
}

fn fxrstor<const LONG: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        fx_ready(cpu)?;
        let linear = cpu.check_aligned(op, 16, FX_AREA, false)?;
        let mut area = [0; LEGACY];
        cpu.load_area(linear, &mut area)?;
        cpu.state.mxcsr = cpu.load_mxcsr(&area)?;
        cpu.load_x87(&area, LONG);
        cpu.fpu_settle(op);
        cpu.load_xmm(&area);
        Ok(())
    })
}

fn fx_ready(cpu: &mut Cpu) -> Result<(), Fault> {
    if cpu.state.cr0 & (bits::CR0_EM | bits::CR0_TS) != 0 { Err(cpu.raise(vector::NM)) } else { Ok(()) }
}

fn xsave<const LONG: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.xsave_ready()?;
        let linear = cpu.check_aligned(op, 64, XSAVE_AREA, true)?;
        let wanted = cpu.requested();
        let header = linear.wrapping_add(HEADER);
        let old: u64 = cpu.read(header)?;
        // All that can fault comes before the first store.
        cpu.probe_write(linear, HEADER as usize + 8)?;
        let area = cpu.legacy_area(LONG);
        if wanted & XCR0_X87 != 0 {
            cpu.store_area(linear, &area[..MXCSR_AT as usize])?;
            cpu.store_area(linear.wrapping_add(32), &area[32..XMM_AT])?;
        }
        if wanted & XCR0_SSE != 0 {
            cpu.store_area(linear.wrapping_add(MXCSR_AT), &area[24..32])?;
            let end = XMM_AT + 16 * cpu.xmm_count();
            cpu.store_area(linear.wrapping_add(XMM_AT as u64), &area[XMM_AT..end])?;
        }
        // No component is tracked as being in its initial state.
        cpu.write(header, old & !wanted | wanted)
    })
}

fn xrstor<const LONG: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.xsave_ready()?;
        let linear = cpu.check_aligned(op, 64, XSAVE_AREA, false)?;
        let wanted = cpu.requested();
        let mut header = [0; 24];
        cpu.load_area(linear.wrapping_add(HEADER), &mut header)?;
        let word = |i: usize| u64::from_le_bytes(std::array::from_fn(|n| header[8 * i + n]));
        let (present, rest) = (word(0), word(1) | word(2));
        if present & !cpu.state.xcr0 != 0 || rest != 0 {
            return Err(cpu.raise_with(vector::GP, 0));
        }
        let mut area = [0; LEGACY];
        cpu.load_area(linear, &mut area)?;
        let mxcsr = if wanted & XCR0_SSE != 0 { cpu.load_mxcsr(&area)? } else { cpu.state.mxcsr };
        cpu.state.mxcsr = mxcsr;
        if wanted & XCR0_X87 != 0 {
            if present & XCR0_X87 != 0 {
                cpu.load_x87(&area, LONG);
            } else {
                cpu.state.fpu = Fpu::default();
            }
            cpu.fpu_settle(op);
        }
        if wanted & XCR0_SSE != 0 {
            if present & XCR0_SSE == 0 {
                area.fill(0);
            }
            cpu.load_xmm(&area);
        }
        Ok(())
    })
}

fn xgetbv(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        if cpu.state.cr4 & bits::CR4_OSXSAVE == 0 {
            return Err(cpu.raise(vector::UD));
        }
        if u32::get(&cpu.state.regs, reg::RCX) != 0 {
            return Err(cpu.raise_with(vector::GP, 0));
        }
        let v = cpu.state.xcr0;
        u32::set(&mut cpu.state.regs, reg::RAX, v as u32);
        u32::set(&mut cpu.state.regs, reg::RDX, (v >> 32) as u32);
        Ok(())
    })
}

fn xsetbv(cpu: &mut Cpu, op: &Op, _: &[Op]) -> Exit {
    last(cpu, op, |cpu, _| {
        if cpu.state.cr4 & bits::CR4_OSXSAVE == 0 {
            return Err(cpu.raise(vector::UD));
        }
        let r = &cpu.state.regs;
        let v = u64::from(u32::get(r, reg::RAX)) | u64::from(u32::get(r, reg::RDX)) << 32;
        let wrong = u32::get(r, reg::RCX) != 0 || v & XCR0_X87 == 0 || v & !XCR0_SUPPORTED != 0;
        if cpu.state.cpl != 0 || wrong {
            return Err(cpu.raise_with(vector::GP, 0));
        }
        cpu.state.xcr0 = v;
        cpu.update_mode();
        Ok(())
    })
}
