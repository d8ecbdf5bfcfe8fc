//! MMX and SSE: packed integers, logic and shuffles (also the bitwise and moving instructions that are named after floats).

use iced_x86::Mnemonic as M;

use super::vector::{Bank, Mm, Xmm, operand};
use crate::flags::{CF, OF, SF, ZF};
use crate::lower::Lower;
use crate::op::{Dst, Exit, Mem, Op, Place, Source, Src, step};
use crate::semantics::simd::string::{self, Found};
use crate::semantics::simd::{V128, Vector, crypto, integer as i, shift as sh, shuffle as s};
use crate::state::{Cpu, reg};
use crate::table::{Row, row};
use crate::vector_rows;
use crate::width::Width;

/// Instruction rows: `destination = f(destination, source)`.
pub const PACKED: &[Row] = vector_rows! {
    both {
        Paddb = |a, b| i::paddb(a, b);
        Paddw = |a, b| i::paddw(a, b);
        Paddd = |a, b| i::paddd(a, b);
        Paddq = |a, b| i::paddq(a, b);
        Paddsb = |a, b| i::paddsb(a, b);
        Paddsw = |a, b| i::paddsw(a, b);
        Paddusb = |a, b| i::paddusb(a, b);
        Paddusw = |a, b| i::paddusw(a, b);
        Psubb = |a, b| i::psubb(a, b);
        Psubw = |a, b| i::psubw(a, b);
        Psubd = |a, b| i::psubd(a, b);
        Psubq = |a, b| i::psubq(a, b);
        Psubsb = |a, b| i::psubsb(a, b);
        Psubsw = |a, b| i::psubsw(a, b);
        Psubusb = |a, b| i::psubusb(a, b);
        Psubusw = |a, b| i::psubusw(a, b);
        Pmullw = |a, b| i::pmullw(a, b);
        Pmulhw = |a, b| i::pmulhw(a, b);
        Pmulhuw = |a, b| i::pmulhuw(a, b);
        Pmulhrsw = |a, b| i::pmulhrsw(a, b);
        Pmuludq = |a, b| i::pmuludq(a, b);
        Pmaddwd = |a, b| i::pmaddwd(a, b);
        Pmaddubsw = |a, b| i::pmaddubsw(a, b);
        Psadbw = |a, b| i::psadbw(a, b);
        Pavgb = |a, b| i::pavgb(a, b);
        Pavgw = |a, b| i::pavgw(a, b);
        Pminub = |a, b| i::pminub(a, b);
        Pminsw = |a, b| i::pminsw(a, b);
        Pmaxub = |a, b| i::pmaxub(a, b);
        Pmaxsw = |a, b| i::pmaxsw(a, b);
        Psignb = |a, b| i::psignb(a, b);
        Psignw = |a, b| i::psignw(a, b);
        Psignd = |a, b| i::psignd(a, b);
        Pabsb = |_, b| i::pabsb(b);
        Pabsw = |_, b| i::pabsw(b);
        Pabsd = |_, b| i::pabsd(b);
        Pcmpeqb = |a, b| i::pcmpeqb(a, b);
        Pcmpeqw = |a, b| i::pcmpeqw(a, b);
        Pcmpeqd = |a, b| i::pcmpeqd(a, b);
        Pcmpgtb = |a, b| i::pcmpgtb(a, b);
        Pcmpgtw = |a, b| i::pcmpgtw(a, b);
        Pcmpgtd = |a, b| i::pcmpgtd(a, b);
        Pand = |a, b| i::pand(a, b);
        Pandn = |a, b| i::pandn(a, b);
        Por = |a, b| i::por(a, b);
        Pxor = |a, b| i::pxor(a, b);
        Phaddw = |a, b| i::phaddw(a, b);
        Phaddd = |a, b| i::phaddd(a, b);
        Phaddsw = |a, b| i::phaddsw(a, b);
        Phsubw = |a, b| i::phsubw(a, b);
        Phsubd = |a, b| i::phsubd(a, b);
        Phsubsw = |a, b| i::phsubsw(a, b);
        Packsswb = |a, b| s::packsswb(a, b);
        Packuswb = |a, b| s::packuswb(a, b);
        Packssdw = |a, b| s::packssdw(a, b);
        Punpcklbw = |a, b| s::punpcklbw(a, b);
        Punpcklwd = |a, b| s::punpcklwd(a, b);
        Punpckldq = |a, b| s::punpckldq(a, b);
        Punpckhbw = |a, b| s::punpckhbw(a, b);
        Punpckhwd = |a, b| s::punpckhwd(a, b);
        Punpckhdq = |a, b| s::punpckhdq(a, b);
        Pshufb = |a, b| s::pshufb(a, b);
        Palignr = |a, b, n| s::palignr(a, b, n);
    }
    mm {
        Pshufw = |_, b, n| s::pshufw(b, n);
    }
    xmm {
        Pmulld = |a, b| i::pmulld(a, b);
        Pmuldq = |a, b| i::pmuldq(a, b);
        Pminsb = |a, b| i::pminsb(a, b);
        Pminuw = |a, b| i::pminuw(a, b);
        Pminud = |a, b| i::pminud(a, b);
        Pminsd = |a, b| i::pminsd(a, b);
        Pmaxsb = |a, b| i::pmaxsb(a, b);
        Pmaxuw = |a, b| i::pmaxuw(a, b);
        Pmaxud = |a, b| i::pmaxud(a, b);
        Pmaxsd = |a, b| i::pmaxsd(a, b);
        Pcmpeqq = |a, b| i::pcmpeqq(a, b);
        Pcmpgtq = |a, b| i::pcmpgtq(a, b);
        Packusdw = |a, b| s::packusdw(a, b);
        Punpcklqdq = |a, b| s::punpcklqdq(a, b);
        Punpckhqdq = |a, b| s::punpckhqdq(a, b);
        Mpsadbw = |a, b, n| i::mpsadbw(a, b, n);
        Phminposuw = |_, b| i::phminposuw(b);
        Pshufd = |_, b, n| s::pshufd(b, n);
        Pshuflw = |_, b, n| s::pshuflw(b, n);
        Pshufhw = |_, b, n| s::pshufhw(b, n);
        Pblendw = |a, b, n| s::pblendw(a, b, n);
        Pmovsxbw = |_, b| s::pmovsxbw(b);
        Pmovsxbd = |_, b| s::pmovsxbd(b);
        Pmovsxbq = |_, b| s::pmovsxbq(b);
        Pmovsxwd = |_, b| s::pmovsxwd(b);
        Pmovsxwq = |_, b| s::pmovsxwq(b);
        Pmovsxdq = |_, b| s::pmovsxdq(b);
        Pmovzxbw = |_, b| s::pmovzxbw(b);
        Pmovzxbd = |_, b| s::pmovzxbd(b);
        Pmovzxbq = |_, b| s::pmovzxbq(b);
        Pmovzxwd = |_, b| s::pmovzxwd(b);
        Pmovzxwq = |_, b| s::pmovzxwq(b);
        Pmovzxdq = |_, b| s::pmovzxdq(b);
        Andps = |a, b| i::pand(a, b);
        Andpd = |a, b| i::pand(a, b);
        Andnps = |a, b| i::pandn(a, b);
        Andnpd = |a, b| i::pandn(a, b);
        Orps = |a, b| i::por(a, b);
        Orpd = |a, b| i::por(a, b);
        Xorps = |a, b| i::pxor(a, b);
        Xorpd = |a, b| i::pxor(a, b);
        Unpcklps = |a, b| s::punpckldq(a, b);
        Unpckhps = |a, b| s::punpckhdq(a, b);
        Unpcklpd = |a, b| s::punpcklqdq(a, b);
        Unpckhpd = |a, b| s::punpckhqdq(a, b);
        Shufps = |a, b, n| s::shufps(a, b, n);
        Shufpd = |a, b, n| s::shufpd(a, b, n);
        Blendps = |a, b, n| s::blendps(a, b, n);
        Blendpd = |a, b, n| s::blendpd(a, b, n);
        Movddup = |_, b| s::punpcklqdq(b, b);
        Movsldup = |_, b| s::movsldup(b);
        Movshdup = |_, b| s::movshdup(b);
    }
    shift {
        Psllw = |a, n| sh::psllw(a, n);
        Pslld = |a, n| sh::pslld(a, n);
        Psllq = |a, n| sh::psllq(a, n);
        Psrlw = |a, n| sh::psrlw(a, n);
        Psrld = |a, n| sh::psrld(a, n);
        Psrlq = |a, n| sh::psrlq(a, n);
        Psraw = |a, n| sh::psraw(a, n);
        Psrad = |a, n| sh::psrad(a, n);
    }
};

/// Instruction rows of other shapes.
pub const ROWS: &[Row] = &[
    row(M::Pslldq, |l| l.with(|cpu, op, rest| shift_bytes(cpu, op, rest, sh::pslldq))),
    row(M::Psrldq, |l| l.with(|cpu, op, rest| shift_bytes(cpu, op, rest, sh::psrldq))),
    row(M::Pmovmskb, |l| if mm(l, 1) { l.with(pmovmskb::<Mm, 8>) } else { l.with(pmovmskb::<Xmm, 16>) }),
    row(M::Movmskps, |l| l.with(|cpu, op, rest| signs(cpu, op, rest, i::movmskps))),
    row(M::Movmskpd, |l| l.with(|cpu, op, rest| signs(cpu, op, rest, i::movmskpd))),
    row(M::Ptest, |l| if l.is_mem(1) { l.with(ptest::<16>) } else { l.with(ptest::<0>) }).modifies("oszapc"),
    row(M::Pblendvb, |l| {
        blend(l, |cpu, op, rest| variable::<0>(cpu, op, rest, s::pblendvb), |cpu, op, rest| variable::<16>(cpu, op, rest, s::pblendvb))
    }),
    row(M::Blendvps, |l| {
        blend(l, |cpu, op, rest| variable::<0>(cpu, op, rest, s::blendvps), |cpu, op, rest| variable::<16>(cpu, op, rest, s::blendvps))
    }),
    row(M::Blendvpd, |l| {
        blend(l, |cpu, op, rest| variable::<0>(cpu, op, rest, s::blendvpd), |cpu, op, rest| variable::<16>(cpu, op, rest, s::blendvpd))
    }),
    row(M::Pinsrb, lower_insert::<u8>),
    row(M::Pinsrw, lower_insert::<u16>),
    row(M::Pinsrd, lower_insert::<u32>),
    row(M::Pinsrq, lower_insert::<u64>),
    row(M::Insertps, |l| if l.is_mem(1) { l.with(insertps::<true>) } else { l.with(insertps::<false>) }),
    row(M::Pextrb, lower_extract::<u8>),
    row(M::Pextrw, lower_extract::<u16>),
    row(M::Pextrd, lower_extract::<u32>),
    row(M::Pextrq, lower_extract::<u64>),
    row(M::Extractps, lower_extract::<u32>),
    row(M::Emms, |l| l.with(emms)),
    row(M::Maskmovq, |l| lower_masked(l, masked::<Mm, 8>)),
    row(M::Maskmovdqu, |l| lower_masked(l, masked::<Xmm, 16>)),
    row(M::Pcmpestri, lower_string::<true, true>).modifies("oszapc"),
    row(M::Pcmpestri64, lower_string::<true, true>).modifies("oszapc"),
    row(M::Pcmpestrm, lower_string::<true, false>).modifies("oszapc"),
    row(M::Pcmpestrm64, lower_string::<true, false>).modifies("oszapc"),
    row(M::Pcmpistri, lower_string::<false, true>).modifies("oszapc"),
    row(M::Pcmpistrm, lower_string::<false, false>).modifies("oszapc"),
    row(M::Crc32, lower_crc32),
];

fn mm(l: &Lower, n: u32) -> bool {
    l.is_reg(n) && l.i.op_register(n).is_mm()
}

#[inline(always)]
fn shift_bytes(cpu: &mut Cpu, op: &Op, rest: &[Op], f: impl FnOnce(V128, u8) -> V128) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let r = f(cpu.xmm(op.dst), op.imm as u8);
        cpu.set_xmm(op.dst, r);
        Ok(())
    })
}

fn pmovmskb<B: Bank<N>, const N: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        B::ready(cpu, op)?;
        B::touch(cpu);
        let bits = i::pmovmskb(B::get(cpu, op.src));
        u32::set(&mut cpu.state.regs, op.dst, bits);
        Ok(())
    })
}

#[inline(always)]
fn signs(cpu: &mut Cpu, op: &Op, rest: &[Op], f: impl FnOnce(V128) -> u32) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let bits = f(cpu.xmm(op.src));
        u32::set(&mut cpu.state.regs, op.dst, bits);
        Ok(())
    })
}

fn ptest<const MEM: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = operand::<Xmm, 16, MEM>(cpu, op)?;
        let (zero, carry) = i::ptest(cpu.xmm(op.dst), b);
        cpu.state.lazy.set_bits(if zero { ZF } else { 0 } | if carry { CF } else { 0 });
        Ok(())
    })
}

fn blend(l: &Lower, register: crate::op::Handler, memory: crate::op::Handler) -> Option<Op> {
    l.with(if l.is_mem(1) { memory } else { register })
}

/// A blend by XMM0.
#[inline(always)]
fn variable<const MEM: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op], f: impl FnOnce(V128, V128, V128) -> V128) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = operand::<Xmm, 16, MEM>(cpu, op)?;
        let r = f(cpu.xmm(op.dst), b, cpu.xmm(0));
        cpu.set_xmm(op.dst, r);
        Ok(())
    })
}

fn lower_insert<W: Width + crate::semantics::simd::Lane>(l: &Lower) -> Option<Op> {
    match (mm(l, 0), l.is_mem(1)) {
        (true, true) => l.with(insert::<Mm, 8, Mem, W>),
        (true, false) => l.with(insert::<Mm, 8, Src, W>),
        (false, true) => l.with(insert::<Xmm, 16, Mem, W>),
        (false, false) => l.with(insert::<Xmm, 16, Src, W>),
    }
}

fn insert<B: Bank<N>, const N: usize, S: Source, W: Width + crate::semantics::simd::Lane>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        B::ready(cpu, op)?;
        let v = S::get::<W>(cpu, op)?;
        let at = op.imm as usize & (Vector::<N>::lanes::<W>() - 1);
        let r = B::get(cpu, op.dst).with(at, v);
        B::set(cpu, op.dst, r);
        Ok(())
    })
}

fn insertps<const MEM: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        // Bits 7:6 choose a lane of a register; memory has one.
        let v = if MEM { cpu.load(op)? } else { cpu.xmm::<16>(op.src).get(op.imm as usize >> 6 & 3) };
        let r = s::insertps(cpu.xmm(op.dst), v, op.imm as u8);
        cpu.set_xmm(op.dst, r);
        Ok(())
    })
}

fn lower_extract<W: Width + crate::semantics::simd::Lane>(l: &Lower) -> Option<Op> {
    // Memory first: its register then is the second operand, `src`; as does a register.
    match (mm(l, 1), l.is_mem(0)) {
        (true, _) => l.with(extract::<Mm, 8, Dst, W>),
        (false, true) => l.with(extract::<Xmm, 16, Mem, W>),
        (false, false) => l.with(extract::<Xmm, 16, Dst, W>),
    }
}

fn extract<B: Bank<N>, const N: usize, D: Place, W: Width + crate::semantics::simd::Lane>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        B::ready(cpu, op)?;
        let v: W = B::get(cpu, op.src).get(op.imm as usize & (Vector::<N>::lanes::<W>() - 1));
        if D::IS_MEMORY {
            D::set(cpu, op, v)?;
        } else {
            u64::set(&mut cpu.state.regs, op.dst, v.zx());
        }
        B::touch(cpu);
        Ok(())
    })
}

fn emms(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        cpu.mmx_ready(op)?;
        cpu.state.fpu.mmx_leave();
        Ok(())
    })
}

/// The address is rDI, which iced tells as a string operand.
fn lower_masked(l: &Lower, handler: crate::op::Handler) -> Option<Op> {
    Some(Op { handler, base: reg::RDI, ..l.op })
}

/// Stores the bytes of `op.src` that the sign bits of the second register (`op.imm`) choose.
fn masked<B: Bank<N>, const N: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        B::ready(cpu, op)?;
        let mask = i::pmovmskb(B::get(cpu, op.imm as u8));
        let data = B::get(cpu, op.src);
        if mask != 0 {
            let (first, last) = (u64::from(mask.trailing_zeros()), u64::from(mask.ilog2()));
            let ea = cpu.effective(op);
            let linear = cpu.linear(op.seg, ea.wrapping_add(first), (last - first + 1) as usize, true, op.addr)?;
            cpu.probe_write(linear, (last - first + 1) as usize)?;
            for n in (first..=last).filter(|n| mask >> n & 1 != 0) {
                cpu.write(linear.wrapping_add(n - first), data.get::<u8>(n as usize))?;
            }
        }
        B::touch(cpu);
        Ok(())
    })
}

fn lower_string<const EXPLICIT: bool, const INDEX: bool>(l: &Lower) -> Option<Op> {
    // With REX.W the explicit lengths are RAX and RDX.
    let wide = matches!(l.i.mnemonic(), M::Pcmpestri64 | M::Pcmpestrm64);
    match (l.is_mem(1), wide) {
        (false, false) => l.with(strings::<EXPLICIT, INDEX, false, false>),
        (false, true) => l.with(strings::<EXPLICIT, INDEX, false, true>),
        (true, false) => l.with(strings::<EXPLICIT, INDEX, true, false>),
        (true, true) => l.with(strings::<EXPLICIT, INDEX, true, true>),
    }
}

fn strings<const EXPLICIT: bool, const INDEX: bool, const MEM: bool, const WIDE: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        // These need no alignment.
        let b = if MEM { cpu.load_vector::<16, 16>(op)? } else { cpu.xmm(op.src) };
        let a = cpu.xmm(op.dst);
        let imm = op.imm as u8;
        let (a_len, b_len) = if EXPLICIT {
            let length = |r: u8| {
                let v = cpu.state.regs[usize::from(r)];
                string::explicit_length(if WIDE { v as i64 } else { i64::from(v as i32) }, imm)
            };
            (length(reg::RAX), length(reg::RDX))
        } else {
            (string::implicit_length(a, imm), string::implicit_length(b, imm))
        };
        let found = string::compare(a, a_len, b, b_len, imm);
        if INDEX {
            u32::set(&mut cpu.state.regs, reg::RCX, string::index(found, imm));
        } else {
            cpu.set_xmm(0, string::mask(found, imm));
        }
        let Found { carry, zero, sign, overflow, .. } = found;
        let flag = |on: bool, bit: u64| if on { bit } else { 0 };
        cpu.state.lazy.set_bits(flag(carry, CF) | flag(zero, ZF) | flag(sign, SF) | flag(overflow, OF));
        Ok(())
    })
}

fn lower_crc32(l: &Lower) -> Option<Op> {
    match (l.is_mem(1), l.bits(1)) {
        (true, 8) => l.with(crc32::<Mem, u8>),
        (true, 16) => l.with(crc32::<Mem, u16>),
        (true, 32) => l.with(crc32::<Mem, u32>),
        (true, _) => l.with(crc32::<Mem, u64>),
        (false, 8) => l.with(crc32::<Src, u8>),
        (false, 16) => l.with(crc32::<Src, u16>),
        (false, 32) => l.with(crc32::<Src, u32>),
        (false, _) => l.with(crc32::<Src, u64>),
    }
}

fn crc32<S: Source, W: Width>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let v = S::get::<W>(cpu, op)?;
        let r = crypto::crc32(u32::get(&cpu.state.regs, op.dst), v.zx(), W::BYTES);
        u32::set(&mut cpu.state.regs, op.dst, r);
        Ok(())
    })
}
