//! Saving and restoring the vector and x87 state (SDM 1, chapters 10.5 and 13), and the hints about memory.

use iced_x86::Mnemonic as M;

use super::cpuid::{Feature, Model};
use crate::fault::{Fault, vector};
use crate::mmu::Access;
use crate::op::{Exit, Op, last, step};
use crate::semantics::simd::V128;
use crate::semantics::simd::float::{MXCSR_MASK, MXCSR_RESET};
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
/// XCR0: PKRU.
pub const XCR0_PKRU: u64 = 1 << 9;

/// Bytes of the legacy area that the processor uses; the rest is software's.
const LEGACY: usize = 416;
const MXCSR_AT: u64 = 24;
const XMM_AT: usize = 160;
/// Bytes of an FXSAVE area.
const FX_AREA: usize = 512;
/// Offset of the XSAVE header.
const HEADER: u64 = 512;
/// Bytes of the legacy area and the header.
const BASE_AREA: usize = 576;
/// The bit of XCOMP_BV that tells the compact format.
const COMPACT: u64 = 1 << 63;
/// XCR0 bits whose components are in the legacy area.
const IN_LEGACY: u64 = XCR0_X87 | XCR0_SSE;

/// A state component after the header (SDM 1, 13.5).
pub struct Component {
    /// Its bit in XCR0.
    pub bit: u64,
    /// Offset in the standard format.
    pub offset: usize,
    /// Bytes.
    pub size: usize,
    feature: Feature,
}

/// All of them. None is aligned in the compact format.
const COMPONENTS: [Component; 2] = [
    Component { bit: XCR0_AVX, offset: 576, size: 256, feature: Feature::Avx },
    Component { bit: XCR0_PKRU, offset: 2688, size: 8, feature: Feature::Pku },
];
/// Bytes of the largest one.
const LARGEST: usize = 256;
/// Bytes of the largest area.
const AREA: usize = 2696;

/// The bits of XCR0 that a model has.
#[must_use]
pub fn supported(model: &Model) -> u64 {
    COMPONENTS.iter().filter(|c| model.has(c.feature)).fold(IN_LEGACY, |all, c| all | c.bit)
}

/// Component number `n`, if the model has it.
#[must_use]
pub fn component(model: &Model, n: u32) -> Option<&'static Component> {
    COMPONENTS.iter().find(|c| c.bit.trailing_zeros() == n && model.has(c.feature))
}

/// Bytes of an area in the standard format for the components `bits`.
#[must_use]
pub fn standard_size(bits: u64) -> u32 {
    COMPONENTS.iter().filter(|c| bits & c.bit != 0).map(|c| c.offset + c.size).fold(BASE_AREA, usize::max) as u32
}

/// Bytes of an area in the compact format for the components `bits`.
#[must_use]
pub fn compact_size(bits: u64) -> u32 {
    places(bits, bits | COMPACT).map(|(c, at)| at + c.size).fold(BASE_AREA, usize::max) as u32
}

/// The components among `bits` with their offsets, in the format that `xcomp_bv` tells.
fn places(bits: u64, xcomp_bv: u64) -> impl Iterator<Item = (&'static Component, usize)> {
    let mut end = BASE_AREA;
    COMPONENTS
        .iter()
        .map(move |c| {
            if xcomp_bv & COMPACT == 0 {
                return (c, c.offset);
            }
            let at = end;
            end += if xcomp_bv & c.bit != 0 { c.size } else { 0 };
            (c, at)
        })
        .filter(move |(c, _)| bits & c.bit != 0)
}

/// Instruction rows.
pub const ROWS: &[Row] = &[
    row(M::Fxsave, |l| l.with(fxsave::<false>)),
    row(M::Fxsave64, |l| l.with(fxsave::<true>)),
    row(M::Fxrstor, |l| l.with(fxrstor::<false>)),
    row(M::Fxrstor64, |l| l.with(fxrstor::<true>)),
    row(M::Xsave, |l| l.with(xsave::<false, PLAIN>)),
    row(M::Xsave64, |l| l.with(xsave::<true, PLAIN>)),
    row(M::Xsaveopt, |l| l.with(xsave::<false, OPTIMISED>)),
    row(M::Xsaveopt64, |l| l.with(xsave::<true, OPTIMISED>)),
    row(M::Xsavec, |l| l.with(xsave::<false, COMPACTED>)),
    row(M::Xsavec64, |l| l.with(xsave::<true, COMPACTED>)),
    row(M::Xsaves, |l| l.with(xsave::<false, SUPERVISOR>)),
    row(M::Xsaves64, |l| l.with(xsave::<true, SUPERVISOR>)),
    row(M::Xrstor, |l| l.with(xrstor::<false, PLAIN>)),
    row(M::Xrstor64, |l| l.with(xrstor::<true, PLAIN>)),
    row(M::Xrstors, |l| l.with(xrstor::<false, SUPERVISOR>)),
    row(M::Xrstors64, |l| l.with(xrstor::<true, SUPERVISOR>)),
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
        cpu.translate(linear, Access { write: false, rights: cpu.rights(), fetch: false }).map_err(|f| cpu.stack_class(op.seg, f))?;
        Ok(())
    })
}

impl Cpu {
    /// How many XMM registers the mode has.
    pub(crate) fn xmm_count(&self) -> usize {
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

/// XSAVE and XRSTOR.
const PLAIN: u8 = 0;
/// XSAVEOPT. No component is tracked as being unmodified: all that is in use is written.
const OPTIMISED: u8 = 1;
/// XSAVEC.
const COMPACTED: u8 = 2;
/// XSAVES and XRSTORS. There are no supervisor components (IA32_XSS is always 0).
const SUPERVISOR: u8 = 3;

impl Cpu {
    /// XINUSE: the components that are not in their initial state (SDM 1, 13.6). MXCSR makes SSE one of them.
    fn in_use(&self) -> u64 {
        let s = &self.state;
        let bit = |bit: u64, used: bool| if used { bit } else { 0 };
        let any = |half: usize| s.ymm.0.iter().any(|v| v.part::<16>(half) != V128::ZERO);
        bit(XCR0_X87, s.fpu != Fpu::default())
            | bit(XCR0_SSE, any(0) || s.mxcsr != MXCSR_RESET)
            | bit(XCR0_AVX, any(1))
            | bit(XCR0_PKRU, s.pkru != 0)
    }

    /// A component as it is stored.
    fn component_image(&self, c: &Component, image: &mut [u8]) {
        if c.bit == XCR0_PKRU {
            image.copy_from_slice(&u64::from(self.state.pkru).to_le_bytes());
            return;
        }
        let count = self.xmm_count();
        for (slot, v) in image.chunks_exact_mut(16).zip(&self.state.ymm.0[..count]) {
            slot.copy_from_slice(&v.0[16..]);
        }
    }

    fn load_component(&mut self, c: &Component, image: &[u8]) {
        if c.bit == XCR0_PKRU {
            let mut pkru = [0; 4];
            pkru.copy_from_slice(&image[..4]);
            self.set_pkru(u32::from_le_bytes(pkru));
            return;
        }
        let count = self.xmm_count();
        for (slot, v) in image.chunks_exact(16).zip(&mut self.state.ymm.0[..count]) {
            v.0[16..].copy_from_slice(slot);
        }
    }
}

fn xsave<const LONG: bool, const KIND: u8>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.xsave_ready()?;
        if KIND == SUPERVISOR && cpu.state.cpl != 0 {
            return Err(cpu.raise_with(vector::GP, 0));
        }
        let linear = cpu.check_aligned(op, 64, BASE_AREA, true)?;
        let (wanted, in_use) = (cpu.requested(), cpu.in_use());
        let compact = KIND >= COMPACTED;
        let header = linear.wrapping_add(HEADER);
        let (stored, present, format) = match KIND {
            PLAIN => (wanted, cpu.read::<u64>(header)? & !wanted | wanted & in_use, 0),
            OPTIMISED => (wanted & in_use, cpu.read::<u64>(header)? & !wanted | wanted & in_use, 0),
            _ => (wanted & in_use, wanted & in_use, wanted | COMPACT),
        };
        // MXCSR goes with AVX too in the standard format, whether it is in use or not.
        let mxcsr = if compact { stored & XCR0_SSE != 0 } else { wanted & (XCR0_SSE | XCR0_AVX) != 0 };
        // All that can fault comes before the first store.
        let end = places(stored, format).map(|(c, at)| at + c.size).fold(HEADER as usize + 16, usize::max);
        cpu.probe_write(linear, end)?;
        let area = cpu.legacy_area(LONG);
        if stored & XCR0_X87 != 0 {
            cpu.store_area(linear, &area[..MXCSR_AT as usize])?;
            cpu.store_area(linear.wrapping_add(32), &area[32..XMM_AT])?;
        }
        if mxcsr {
            cpu.store_area(linear.wrapping_add(MXCSR_AT), &area[24..32])?;
        }
        if stored & XCR0_SSE != 0 {
            let end = XMM_AT + 16 * cpu.xmm_count();
            cpu.store_area(linear.wrapping_add(XMM_AT as u64), &area[XMM_AT..end])?;
        }
        for (c, at) in places(stored, format) {
            let mut image = [0; LARGEST];
            cpu.component_image(c, &mut image[..c.size]);
            // Outside 64-bit mode, the registers that are not there are not written.
            let used = if c.bit == XCR0_AVX { 16 * cpu.xmm_count() } else { c.size };
            cpu.store_area(linear.wrapping_add(at as u64), &image[..used])?;
        }
        cpu.write(header, present)?;
        if compact { cpu.write(header.wrapping_add(8), format) } else { Ok(()) }
    })
}

fn xrstor<const LONG: bool, const KIND: u8>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.xsave_ready()?;
        if KIND == SUPERVISOR && cpu.state.cpl != 0 {
            return Err(cpu.raise_with(vector::GP, 0));
        }
        let linear = cpu.check_aligned(op, 64, BASE_AREA, false)?;
        let wanted = cpu.requested();
        let mut header = [0; 64];
        cpu.load_area(linear.wrapping_add(HEADER), &mut header)?;
        let word = |i: usize| u64::from_le_bytes(std::array::from_fn(|n| header[8 * i + n]));
        let (present, format) = (word(0), word(1));
        let compact = format & COMPACT != 0;
        let reserved = if compact { (2..8).any(|i| word(i) != 0) } else { format | word(2) != 0 };
        let allowed = if compact { format } else { cpu.state.xcr0 };
        let wrong = present & !allowed != 0 || compact && format & !COMPACT & !cpu.state.xcr0 != 0;
        let refused = if compact { !cpu.model.has(Feature::Xsavec) } else { KIND == SUPERVISOR };
        if reserved || wrong || refused {
            return Err(cpu.raise_with(vector::GP, 0));
        }
        // All that can fault comes before anything is loaded.
        let mut area = [0; LEGACY];
        cpu.load_area(linear, &mut area)?;
        let mut images = [0; AREA];
        for (c, at) in places(wanted & present, format) {
            cpu.load_area(linear.wrapping_add(at as u64), &mut images[c.offset..c.offset + c.size])?;
        }
        let mxcsr = match (compact, wanted & XCR0_SSE != 0) {
            (false, sse) if sse || wanted & XCR0_AVX != 0 => cpu.load_mxcsr(&area)?,
            (true, true) if present & XCR0_SSE != 0 => cpu.load_mxcsr(&area)?,
            (true, true) => MXCSR_RESET,
            _ => cpu.state.mxcsr,
        };
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
        for (c, _) in places(wanted, 0) {
            cpu.load_component(c, &images[c.offset..c.offset + c.size]);
        }
        Ok(())
    })
}

fn xgetbv(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, _| {
        if cpu.state.cr4 & bits::CR4_OSXSAVE == 0 {
            return Err(cpu.raise(vector::UD));
        }
        let v = match u32::get(&cpu.state.regs, reg::RCX) {
            0 => cpu.state.xcr0,
            1 if cpu.model.has(Feature::Xgetbv1) => cpu.state.xcr0 & cpu.in_use(),
            _ => return Err(cpu.raise_with(vector::GP, 0)),
        };
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
        // AVX needs SSE.
        let incomplete = v & XCR0_X87 == 0 || v & (XCR0_SSE | XCR0_AVX) == XCR0_AVX;
        if cpu.state.cpl != 0 || u32::get(r, reg::RCX) != 0 || incomplete || v & !supported(&cpu.model) != 0 {
            return Err(cpu.raise_with(vector::GP, 0));
        }
        cpu.state.xcr0 = v;
        cpu.update_mode();
        Ok(())
    })
}
