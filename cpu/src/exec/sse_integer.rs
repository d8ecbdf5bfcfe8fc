//! MMX, SSE and AVX: packed integers, logic and shuffles (also the bitwise and moving instructions that are named after floats).

use iced_x86::Mnemonic as M;

use super::vector::{Bank, Mm, Packed, Size, Spread, Vex, Xmm, in_memory, lower_avx, lower_spread, operand, size};
use crate::flags::{CF, OF, SF, ZF};
use crate::lower::Lower;
use crate::op::{Dst, Exit, Index, Mem, Op, Place, Source, Src, ZERO, step};
use crate::semantics::simd::string::{self, Found};
use crate::semantics::simd::{V128, Vector, crypto, integer as i, shift as sh, shuffle as s};
use crate::state::{Cpu, reg};
use crate::table::{Row, row};
use crate::width::Width;
use crate::{by_size, vector_rows};

/// Instruction rows: `destination = f(sources)`.
pub const PACKED: &[Row] = vector_rows! {
    both {
        Paddb Vpaddb = |a, b| i::paddb(a, b);
        Paddw Vpaddw = |a, b| i::paddw(a, b);
        Paddd Vpaddd = |a, b| i::paddd(a, b);
        Paddq Vpaddq = |a, b| i::paddq(a, b);
        Paddsb Vpaddsb = |a, b| i::paddsb(a, b);
        Paddsw Vpaddsw = |a, b| i::paddsw(a, b);
        Paddusb Vpaddusb = |a, b| i::paddusb(a, b);
        Paddusw Vpaddusw = |a, b| i::paddusw(a, b);
        Psubb Vpsubb = |a, b| i::psubb(a, b);
        Psubw Vpsubw = |a, b| i::psubw(a, b);
        Psubd Vpsubd = |a, b| i::psubd(a, b);
        Psubq Vpsubq = |a, b| i::psubq(a, b);
        Psubsb Vpsubsb = |a, b| i::psubsb(a, b);
        Psubsw Vpsubsw = |a, b| i::psubsw(a, b);
        Psubusb Vpsubusb = |a, b| i::psubusb(a, b);
        Psubusw Vpsubusw = |a, b| i::psubusw(a, b);
        Pmullw Vpmullw = |a, b| i::pmullw(a, b);
        Pmulhw Vpmulhw = |a, b| i::pmulhw(a, b);
        Pmulhuw Vpmulhuw = |a, b| i::pmulhuw(a, b);
        Pmulhrsw Vpmulhrsw = |a, b| i::pmulhrsw(a, b);
        Pmuludq Vpmuludq = |a, b| i::pmuludq(a, b);
        Pmaddwd Vpmaddwd = |a, b| i::pmaddwd(a, b);
        Pmaddubsw Vpmaddubsw = |a, b| i::pmaddubsw(a, b);
        Psadbw Vpsadbw = |a, b| i::psadbw(a, b);
        Pavgb Vpavgb = |a, b| i::pavgb(a, b);
        Pavgw Vpavgw = |a, b| i::pavgw(a, b);
        Pminub Vpminub = |a, b| i::pminub(a, b);
        Pminsw Vpminsw = |a, b| i::pminsw(a, b);
        Pmaxub Vpmaxub = |a, b| i::pmaxub(a, b);
        Pmaxsw Vpmaxsw = |a, b| i::pmaxsw(a, b);
        Psignb Vpsignb = |a, b| i::psignb(a, b);
        Psignw Vpsignw = |a, b| i::psignw(a, b);
        Psignd Vpsignd = |a, b| i::psignd(a, b);
        Pabsb Vpabsb = |_, b| i::pabsb(b);
        Pabsw Vpabsw = |_, b| i::pabsw(b);
        Pabsd Vpabsd = |_, b| i::pabsd(b);
        Pcmpeqb Vpcmpeqb = |a, b| i::pcmpeqb(a, b);
        Pcmpeqw Vpcmpeqw = |a, b| i::pcmpeqw(a, b);
        Pcmpeqd Vpcmpeqd = |a, b| i::pcmpeqd(a, b);
        Pcmpgtb Vpcmpgtb = |a, b| i::pcmpgtb(a, b);
        Pcmpgtw Vpcmpgtw = |a, b| i::pcmpgtw(a, b);
        Pcmpgtd Vpcmpgtd = |a, b| i::pcmpgtd(a, b);
        Pand Vpand = |a, b| i::pand(a, b);
        Pandn Vpandn = |a, b| i::pandn(a, b);
        Por Vpor = |a, b| i::por(a, b);
        Pxor Vpxor = |a, b| i::pxor(a, b);
        Phaddw Vphaddw = |a, b| i::phaddw(a, b);
        Phaddd Vphaddd = |a, b| i::phaddd(a, b);
        Phaddsw Vphaddsw = |a, b| i::phaddsw(a, b);
        Phsubw Vphsubw = |a, b| i::phsubw(a, b);
        Phsubd Vphsubd = |a, b| i::phsubd(a, b);
        Phsubsw Vphsubsw = |a, b| i::phsubsw(a, b);
        Packsswb Vpacksswb = |a, b| s::packsswb(a, b);
        Packuswb Vpackuswb = |a, b| s::packuswb(a, b);
        Packssdw Vpackssdw = |a, b| s::packssdw(a, b);
        Punpcklbw Vpunpcklbw = |a, b| s::punpcklbw(a, b);
        Punpcklwd Vpunpcklwd = |a, b| s::punpcklwd(a, b);
        Punpckldq Vpunpckldq = |a, b| s::punpckldq(a, b);
        Punpckhbw Vpunpckhbw = |a, b| s::punpckhbw(a, b);
        Punpckhwd Vpunpckhwd = |a, b| s::punpckhwd(a, b);
        Punpckhdq Vpunpckhdq = |a, b| s::punpckhdq(a, b);
        Pshufb Vpshufb = |a, b| s::pshufb(a, b);
        Palignr Vpalignr = |a, b, n| s::palignr(a, b, n);
    }
    mm {
        Pshufw = |_, b, n| s::pshufw(b, n);
    }
    xmm {
        Pmulld Vpmulld = |a, b| i::pmulld(a, b);
        Pmuldq Vpmuldq = |a, b| i::pmuldq(a, b);
        Pminsb Vpminsb = |a, b| i::pminsb(a, b);
        Pminuw Vpminuw = |a, b| i::pminuw(a, b);
        Pminud Vpminud = |a, b| i::pminud(a, b);
        Pminsd Vpminsd = |a, b| i::pminsd(a, b);
        Pmaxsb Vpmaxsb = |a, b| i::pmaxsb(a, b);
        Pmaxuw Vpmaxuw = |a, b| i::pmaxuw(a, b);
        Pmaxud Vpmaxud = |a, b| i::pmaxud(a, b);
        Pmaxsd Vpmaxsd = |a, b| i::pmaxsd(a, b);
        Pcmpeqq Vpcmpeqq = |a, b| i::pcmpeqq(a, b);
        Pcmpgtq Vpcmpgtq = |a, b| i::pcmpgtq(a, b);
        Packusdw Vpackusdw = |a, b| s::packusdw(a, b);
        Punpcklqdq Vpunpcklqdq = |a, b| s::punpcklqdq(a, b);
        Punpckhqdq Vpunpckhqdq = |a, b| s::punpckhqdq(a, b);
        Mpsadbw Vmpsadbw = |a, b, n, lane| i::mpsadbw(a, b, n >> (3 * lane));
        Pshufd Vpshufd = |_, b, n| s::pshufd(b, n);
        Pshuflw Vpshuflw = |_, b, n| s::pshuflw(b, n);
        Pshufhw Vpshufhw = |_, b, n| s::pshufhw(b, n);
        Pblendw Vpblendw = |a, b, n| s::pblendw(a, b, n);
        Andps Vandps = |a, b| i::pand(a, b);
        Andpd Vandpd = |a, b| i::pand(a, b);
        Andnps Vandnps = |a, b| i::pandn(a, b);
        Andnpd Vandnpd = |a, b| i::pandn(a, b);
        Orps Vorps = |a, b| i::por(a, b);
        Orpd Vorpd = |a, b| i::por(a, b);
        Xorps Vxorps = |a, b| i::pxor(a, b);
        Xorpd Vxorpd = |a, b| i::pxor(a, b);
        Unpcklps Vunpcklps = |a, b| s::punpckldq(a, b);
        Unpckhps Vunpckhps = |a, b| s::punpckhdq(a, b);
        Unpcklpd Vunpcklpd = |a, b| s::punpcklqdq(a, b);
        Unpckhpd Vunpckhpd = |a, b| s::punpckhqdq(a, b);
        Shufps Vshufps = |a, b, n| s::shufps(a, b, n);
        Shufpd Vshufpd = |a, b, n, lane| s::shufpd(a, b, n >> (2 * lane));
        Blendps Vblendps = |a, b, n, lane| s::blendps(a, b, n >> (4 * lane));
        Blendpd Vblendpd = |a, b, n, lane| s::blendpd(a, b, n >> (2 * lane));
        Movsldup Vmovsldup = |_, b| s::movsldup(b);
        Movshdup Vmovshdup = |_, b| s::movshdup(b);
        Pslldq Vpslldq = |a, _, n| sh::pslldq(a, n);
        Psrldq Vpsrldq = |a, _, n| sh::psrldq(a, n);
    }
    xmm_only {
        Phminposuw Vphminposuw = |_, b| i::phminposuw(b);
    }
    avx {
        Vpblendd = |a, b, n, lane| s::blendps(a, b, n >> (4 * lane));
        Vpsllvd = |a, b| sh::psllvd(a, b);
        Vpsllvq = |a, b| sh::psllvq(a, b);
        Vpsrlvd = |a, b| sh::psrlvd(a, b);
        Vpsrlvq = |a, b| sh::psrlvq(a, b);
        Vpsravd = |a, b| sh::psravd(a, b);
    }
    spread {
        Pmovsxbw Vpmovsxbw = |_, b| s::pmovsxbw(b);
        Pmovsxbd Vpmovsxbd = |_, b| s::pmovsxbd(b);
        Pmovsxbq Vpmovsxbq = |_, b| s::pmovsxbq(b);
        Pmovsxwd Vpmovsxwd = |_, b| s::pmovsxwd(b);
        Pmovsxwq Vpmovsxwq = |_, b| s::pmovsxwq(b);
        Pmovsxdq Vpmovsxdq = |_, b| s::pmovsxdq(b);
        Pmovzxbw Vpmovzxbw = |_, b| s::pmovzxbw(b);
        Pmovzxbd Vpmovzxbd = |_, b| s::pmovzxbd(b);
        Pmovzxbq Vpmovzxbq = |_, b| s::pmovzxbq(b);
        Pmovzxwd Vpmovzxwd = |_, b| s::pmovzxwd(b);
        Pmovzxwq Vpmovzxwq = |_, b| s::pmovzxwq(b);
        Pmovzxdq Vpmovzxdq = |_, b| s::pmovzxdq(b);
        Vpbroadcastb = |_, b| Vector::splat(b.get::<u8>(0));
        Vpbroadcastw = |_, b| Vector::splat(b.get::<u16>(0));
        Vpbroadcastd = |_, b| Vector::splat(b.get::<u32>(0));
        Vpbroadcastq = |_, b| Vector::splat(b.get::<u64>(0));
        Vbroadcastss = |_, b| Vector::splat(b.get::<u32>(0));
        Vbroadcastsd = |_, b| Vector::splat(b.get::<u64>(0));
        Vbroadcastf128 = |_, b| Vector::splat(u128::from(b));
        Vbroadcasti128 = |_, b| Vector::splat(u128::from(b));
    }
    select {
        Pblendvb Vpblendvb = |a, b, m| s::pblendvb(a, b, m);
        Blendvps Vblendvps = |a, b, m| s::blendvps(a, b, m);
        Blendvpd Vblendvpd = |a, b, m| s::blendvpd(a, b, m);
    }
    shift {
        Psllw Vpsllw = |a, n| sh::psllw(a, n);
        Pslld Vpslld = |a, n| sh::pslld(a, n);
        Psllq Vpsllq = |a, n| sh::psllq(a, n);
        Psrlw Vpsrlw = |a, n| sh::psrlw(a, n);
        Psrld Vpsrld = |a, n| sh::psrld(a, n);
        Psrlq Vpsrlq = |a, n| sh::psrlq(a, n);
        Psraw Vpsraw = |a, n| sh::psraw(a, n);
        Psrad Vpsrad = |a, n| sh::psrad(a, n);
    }
};

/// `lower_signs!(l, f)`: the signs of an XMM or YMM register's lanes, as `f` gathers them.
macro_rules! lower_signs {
    ($l:expr, $f:ident) => {
        if size($l) == Size::Avx256 {
            $l.with(|c, o, r| signs::<Xmm, 32>(c, o, r, i::$f))
        } else {
            $l.with(|c, o, r| signs::<Xmm, 16>(c, o, r, i::$f))
        }
    };
}

/// Instruction rows of other shapes.
pub const ROWS: &[Row] = &[
    row(M::Movddup, lower_movddup).vex(M::Vmovddup),
    row(M::Pmovmskb, |l| if mm(l, 1) { l.with(|c, o, r| signs::<Mm, 8>(c, o, r, i::pmovmskb)) } else { lower_signs!(l, pmovmskb) })
        .vex(M::Vpmovmskb),
    row(M::Movmskps, |l| lower_signs!(l, movmskps)).vex(M::Vmovmskps),
    row(M::Movmskpd, |l| lower_signs!(l, movmskpd)).vex(M::Vmovmskpd),
    row(M::Ptest, |l| by_size!(l, test::<PTest>)).modifies("oszapc").vex(M::Vptest),
    row(M::Vtestps, |l| by_size!(vex l, test::<TestPs>)).modifies("oszapc"),
    row(M::Vtestpd, |l| by_size!(vex l, test::<TestPd>)).modifies("oszapc"),
    row(M::Pinsrb, lower_insert::<u8>).vex(M::Vpinsrb),
    row(M::Pinsrw, lower_insert::<u16>).vex(M::Vpinsrw),
    row(M::Pinsrd, lower_insert::<u32>).vex(M::Vpinsrd),
    row(M::Pinsrq, lower_insert::<u64>).vex(M::Vpinsrq),
    row(M::Insertps, |l| match (l.vex, in_memory(l)) {
        (false, false) => l.with(insertps::<Xmm, false>),
        (false, true) => l.with(insertps::<Xmm, true>),
        (true, false) => l.with(insertps::<Vex, false>),
        (true, true) => l.with(insertps::<Vex, true>),
    })
    .vex(M::Vinsertps),
    row(M::Pextrb, lower_extract::<u8>).vex(M::Vpextrb),
    row(M::Pextrw, lower_extract::<u16>).vex(M::Vpextrw),
    row(M::Pextrd, lower_extract::<u32>).vex(M::Vpextrd),
    row(M::Pextrq, lower_extract::<u64>).vex(M::Vpextrq),
    row(M::Extractps, lower_extract::<u32>).vex(M::Vextractps),
    row(M::Emms, |l| l.with(emms)),
    row(M::Maskmovq, |l| lower_masked(l, masked::<Mm, 8>)),
    row(M::Maskmovdqu, |l| lower_masked(l, masked::<Xmm, 16>)).vex(M::Vmaskmovdqu),
    row(M::Pcmpestri, lower_string::<true, true>).modifies("oszapc").vex(M::Vpcmpestri),
    row(M::Pcmpestri64, lower_string::<true, true>).modifies("oszapc").vex(M::Vpcmpestri64),
    row(M::Pcmpestrm, lower_string::<true, false>).modifies("oszapc").vex(M::Vpcmpestrm),
    row(M::Pcmpestrm64, lower_string::<true, false>).modifies("oszapc").vex(M::Vpcmpestrm64),
    row(M::Pcmpistri, lower_string::<false, true>).modifies("oszapc").vex(M::Vpcmpistri),
    row(M::Pcmpistrm, lower_string::<false, false>).modifies("oszapc").vex(M::Vpcmpistrm),
    row(M::Crc32, lower_crc32),
];

fn mm(l: &Lower, n: u32) -> bool {
    l.is_reg(n) && l.i.op_register(n).is_mm()
}

/// The 128-bit form has one quadword as its source, the 256-bit one whole lanes.
fn lower_movddup(l: &Lower) -> Option<Op> {
    struct Movddup;
    impl Packed<16> for Movddup {
        #[inline(always)]
        fn apply(_: V128, b: V128, _: u8, _: usize) -> V128 {
            s::punpcklqdq(b, b)
        }
    }
    impl Spread for Movddup {
        #[inline(always)]
        fn apply<const N: usize>(b: V128) -> Vector<N> {
            Vector::splat(b.get::<u64>(0))
        }
    }
    if size(l) == Size::Avx256 { lower_avx::<Movddup>(l) } else { lower_spread::<Movddup>(l) }
}

#[inline(always)]
fn signs<B: Bank, const N: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op], f: impl FnOnce(Vector<N>) -> u32) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        B::ready(cpu, op)?;
        B::touch(cpu);
        let bits = f(B::get(cpu, op.src));
        u32::set(&mut cpu.state.regs, op.dst, bits);
        Ok(())
    })
}

/// Tests `a & b` and `!a & b`: (ZF, CF).
trait Test {
    fn test<const N: usize>(a: Vector<N>, b: Vector<N>) -> (bool, bool);
}
macro_rules! tests {
    ($($name:ident = $f:path;)*) => {$(
        struct $name;
        impl Test for $name {
            #[inline(always)]
            fn test<const N: usize>(a: Vector<N>, b: Vector<N>) -> (bool, bool) {
                $f(a, b)
            }
        }
    )*};
}
tests! {
    PTest = i::ptest;
    TestPs = i::testps;
    TestPd = i::testpd;
}

fn test<T: Test, B: Bank, const N: usize, const MEM: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        let b = operand::<B, N, MEM>(cpu, op)?;
        let (zero, carry) = T::test(B::get::<N>(cpu, op.dst), b);
        cpu.state.lazy.set_bits(if zero { ZF } else { 0 } | if carry { CF } else { 0 });
        Ok(())
    })
}

fn lower_insert<W: Width + crate::semantics::simd::Lane>(l: &Lower) -> Option<Op> {
    match (mm(l, 0), l.vex, in_memory(l)) {
        (true, _, true) => l.with(insert::<Mm, 8, Mem, W>),
        (true, _, false) => l.with(insert::<Mm, 8, Src, W>),
        (_, false, true) => l.with(insert::<Xmm, 16, Mem, W>),
        (_, false, false) => l.with(insert::<Xmm, 16, Src, W>),
        (_, true, true) => l.with(insert::<Vex, 16, Mem, W>),
        (_, true, false) => l.with(insert::<Vex, 16, Index, W>),
    }
}

fn insert<B: Bank, const N: usize, S: Source, W: Width + crate::semantics::simd::Lane>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        B::ready(cpu, op)?;
        let v = S::get::<W>(cpu, op)?;
        let at = op.imm as usize & (Vector::<N>::lanes::<W>() - 1);
        let r = B::get::<N>(cpu, B::first(op)).with(at, v);
        B::set(cpu, op.dst, r);
        Ok(())
    })
}

fn insertps<B: Bank, const MEM: bool>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        // Bits 7:6 choose a lane of a register; memory has one.
        let v = if MEM { cpu.load(op)? } else { cpu.xmm::<16>(B::second(op)).get(op.imm as usize >> 6 & 3) };
        let r = s::insertps(cpu.xmm(B::first(op)), v, op.imm as u8);
        B::set(cpu, op.dst, r);
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

fn extract<B: Bank, const N: usize, D: Place, W: Width + crate::semantics::simd::Lane>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        B::ready(cpu, op)?;
        let v: W = B::get::<N>(cpu, op.src).get(op.imm as usize & (Vector::<N>::lanes::<W>() - 1));
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
    Some(Op { handler, base: reg::RDI, index: ZERO, ..l.op })
}

/// Stores the bytes of `op.src` that the sign bits of the second register (`op.imm`) choose.
fn masked<B: Bank, const N: usize>(cpu: &mut Cpu, op: &Op, rest: &[Op]) -> Exit {
    step(cpu, op, rest, |cpu, op| {
        B::ready(cpu, op)?;
        let mask = i::pmovmskb(B::get::<N>(cpu, op.imm as u8));
        let data = B::get::<N>(cpu, op.src);
        if mask != 0 {
            let (first, last) = (u64::from(mask.trailing_zeros()), u64::from(mask.ilog2()));
            let ea = cpu.effective(op);
            // The operand as a whole is aligned or not, by quadwords, whatever of it is stored.
            let whole = cpu.linear(op.seg, ea.wrapping_add(first), 1, true, op.addr)?.wrapping_sub(first);
            cpu.check_alignment(whole, N.min(8))?;
            let linear = cpu.probe_at(op, op.seg, ea.wrapping_add(first), (last - first + 1) as usize)?;
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
    let wide = matches!(l.i.mnemonic(), M::Pcmpestri64 | M::Pcmpestrm64 | M::Vpcmpestri64 | M::Vpcmpestrm64);
    macro_rules! pick {
        ($bank:ty) => {
            match (l.is_mem(1), wide) {
                (false, false) => l.with(strings::<$bank, EXPLICIT, INDEX, false, false>),
                (false, true) => l.with(strings::<$bank, EXPLICIT, INDEX, false, true>),
                (true, false) => l.with(strings::<$bank, EXPLICIT, INDEX, true, false>),
                (true, true) => l.with(strings::<$bank, EXPLICIT, INDEX, true, true>),
            }
        };
    }
    if l.vex { pick!(Vex) } else { pick!(Xmm) }
}

fn strings<B: Bank, const EXPLICIT: bool, const INDEX: bool, const MEM: bool, const WIDE: bool>(
    cpu: &mut Cpu,
    op: &Op,
    rest: &[Op],
) -> Exit {
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
            B::set(cpu, 0, string::mask(found, imm));
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
