//! SIMD semantics against the host's own instructions, with operands that favour edges.
#![cfg(target_arch = "x86_64")]

use core::arch::asm;

use softmetal_cpu::semantics::simd::{V64, V128, Vector, convert, crypto, float, integer, shift, shuffle, string};
use softmetal_cpu::semantics::softfloat::{F32, F64, Ordering4};

/// A small generator (xorshift64*), so that failures repeat.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[(self.next() >> 33) as usize % from.len()]
    }
    fn integers(&mut self) -> V128 {
        const EDGES: [u16; 10] = [0, 1, 0xff, 0x7f, 0x80, 0xffff, 0x7fff, 0x8000, 0x8080, 0x0100];
        Vector::build(|_| if self.next() >> 62 == 0 { self.next() as u16 } else { self.pick(&EDGES) })
    }
    fn single(&mut self) -> u32 {
        const EDGES: [u32; 24] = [
            0,
            0x8000_0000,
            1,
            0x8000_0001,
            0x007f_ffff,
            0x0080_0000,
            0x8080_0000,
            0x0080_0001,
            0x7f7f_ffff,
            0xff7f_ffff,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0001,
            0xffc1_0000,
            0x7f80_0001,
            0xffa0_0000,
            0x3f80_0000,
            0xbf80_0000,
            0x3f00_0000,
            0x4f00_0000,
            0xcf00_0000,
            0x5f00_0000,
            0x4eff_ffff,
            0x4020_0000,
        ];
        match self.next() >> 61 {
            0 => self.next() as u32,
            1..4 => self.pick(&EDGES),
            _ => (self.next() as i32 as f32 / 65536.0).to_bits(),
        }
    }
    fn double(&mut self) -> u64 {
        const EDGES: [u64; 20] = [
            0,
            1 << 63,
            1,
            1 << 63 | 1,
            0x000f_ffff_ffff_ffff,
            0x0010_0000_0000_0000,
            0x7fef_ffff_ffff_ffff,
            0x7ff0_0000_0000_0000,
            0xfff0_0000_0000_0000,
            0x7ff8_0000_0000_0001,
            0x7ff0_0000_0000_0001,
            0xfff4_0000_0000_0000,
            0x3ff0_0000_0000_0000,
            0xbfe0_0000_0000_0000,
            0x41e0_0000_0000_0000,
            0x41df_ffff_ffff_ffff,
            0x43e0_0000_0000_0000,
            0xc3e0_0000_0000_0000,
            0x47f0_0000_0000_0000,
            0x3690_0000_0000_0000,
        ];
        match self.next() >> 61 {
            0 => self.next(),
            1..4 => self.pick(&EDGES),
            _ => (self.next() as i64 as f64 / 4294967296.0).to_bits(),
        }
    }
    fn singles(&mut self) -> V128 {
        Vector::build(|_| self.single())
    }
    fn doubles(&mut self) -> V128 {
        Vector::build(|_| self.double())
    }
    /// MXCSR with everything masked.
    fn mxcsr(&mut self) -> u32 {
        0x1f80 | self.pick(&[0x20, 0x20, 0x20, 0, 0x2000, 0x4000, 0x6000, 0x40, 0x8000, 0x8040, 0x8060, 0x3f])
    }
}

const ROUNDS: usize = 4000;

/// The host's `xmm0 = $text xmm0, xmm1` under `mxcsr`; gives back the register and MXCSR.
macro_rules! host {
    ($text:expr, $a:expr, $b:expr, $mxcsr:expr) => {{
        let mut a: V128 = $a;
        let b: V128 = $b;
        let mut mxcsr: u32 = $mxcsr;
        let mut saved: u32 = 0;
        // SAFETY: SSE registers and memory named here only; MXCSR is put back.
        unsafe {
            asm!(
                "stmxcsr [{s}]", "ldmxcsr [{m}]", "movups xmm0, [{a}]", "movups xmm1, [{b}]",
                $text,
                "movups [{a}], xmm0", "stmxcsr [{m}]", "ldmxcsr [{s}]",
                a = in(reg) &mut a, b = in(reg) &b, m = in(reg) &mut mxcsr, s = in(reg) &mut saved,
                out("rax") _, out("rcx") _, out("xmm0") _, out("xmm1") _,
            );
        }
        (a, mxcsr)
    }};
}

macro_rules! integer {
    ($($module:ident: $($name:ident)*;)*) => {
        #[test]
        fn packed_integers() {
            let mut random = Random(1);
            for _ in 0..ROUNDS {
                let (a, b) = (random.integers(), random.integers());
                $($({
                    let (want, _) = host!(concat!(stringify!($name), " xmm0, xmm1"), a, b, 0x1f80);
                    let got: V128 = $module::$name(a, b);
                    assert_eq!(got, want, "{} {a:x?}, {b:x?}", stringify!($name));
                })*)*
            }
        }
    };
}
integer! {
    integer: paddb paddw paddd paddq paddsb paddsw paddusb paddusw psubb psubw psubd psubq psubsb psubsw psubusb psubusw
        pmullw pmulld pmulhw pmulhuw pmulhrsw pmuludq pmuldq pavgb pavgw pminub pminsb pminuw pminsw pminud pminsd
        pmaxub pmaxsb pmaxuw pmaxsw pmaxud pmaxsd psignb psignw psignd pcmpeqb pcmpeqw pcmpeqd pcmpeqq pcmpgtb pcmpgtw
        pcmpgtd pcmpgtq pand pandn por pxor pmaddwd pmaddubsw psadbw phaddw phaddd phaddsw phsubw phsubd phsubsw;
    shuffle: packsswb packuswb packssdw packusdw punpcklbw punpckhbw punpcklwd punpckhwd punpckldq punpckhdq punpcklqdq
        punpckhqdq pshufb;
    crypto: aesenc aesenclast aesdec aesdeclast;
}

macro_rules! mmx {
    ($($module:ident: $($name:ident)*;)*) => {
        #[test]
        fn mmx() {
            let mut random = Random(2);
            for _ in 0..ROUNDS {
                let (a, b): (u64, u64) = (random.integers().get(0), random.integers().get(0));
                $($({
                    let mut want = a;
                    // SAFETY: MMX registers only, emptied afterwards.
                    unsafe {
                        asm!(
                            "movq mm0, [{a}]", "movq mm1, [{b}]", concat!(stringify!($name), " mm0, mm1"),
                            "movq [{a}], mm0", "emms",
                            a = in(reg) &mut want, b = in(reg) &b, out("mm0") _, out("mm1") _,
                            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                        );
                    }
                    let got: u64 = $module::$name(V64::from(a), V64::from(b)).into();
                    assert_eq!(got, want, "{} {a:x}, {b:x}", stringify!($name));
                })*)*
            }
        }
    };
}
mmx! {
    integer: paddb paddq paddsw psubusb pmulhuw pmulhrsw pmuludq pavgb psignw pcmpgtd pandn pmaddwd pmaddubsw psadbw phaddw
        phaddd phsubsw;
    shuffle: packsswb packuswb packssdw punpcklbw punpckhbw punpcklwd punpckhwd punpckldq punpckhdq pshufb;
}

macro_rules! unary {
    ($($module:ident: $($name:ident)*;)*) => {
        #[test]
        fn one_operand() {
            let mut random = Random(3);
            for _ in 0..ROUNDS {
                let b = random.integers();
                $($({
                    let (want, _) = host!(concat!(stringify!($name), " xmm0, xmm1"), V128::ZERO, b, 0x1f80);
                    assert_eq!($module::$name(b), want, "{} {b:x?}", stringify!($name));
                })*)*
            }
        }
    };
}
unary! {
    integer: pabsb pabsw pabsd phminposuw;
    shuffle: pmovsxbw pmovsxbd pmovsxbq pmovsxwd pmovsxwq pmovsxdq pmovzxbw pmovzxbd pmovzxbq pmovzxwd pmovzxwq pmovzxdq
        movsldup movshdup;
    crypto: aesimc;
}

#[test]
fn shifts() {
    let mut random = Random(4);
    macro_rules! check {
        ($($name:ident)*) => {$(
            for count in [0u64, 1, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 1 << 32, u64::MAX] {
                let a = random.integers();
                let (want, _) = host!(concat!(stringify!($name), " xmm0, xmm1"), a, Vector::ZERO.with(0, count), 0x1f80);
                assert_eq!(shift::$name(a, count), want, "{} {a:x?} by {count}", stringify!($name));
            }
        )*};
    }
    for _ in 0..50 {
        check!(psllw pslld psllq psrlw psrld psrlq psraw psrad);
    }
    let a = random.integers();
    assert_eq!(shift::pslldq(a, 3), host!("pslldq xmm0, 3", a, a, 0x1f80).0);
    assert_eq!(shift::psrldq(a, 15), host!("psrldq xmm0, 15", a, a, 0x1f80).0);
    assert_eq!(shift::psrldq(a, 16), V128::ZERO);
    assert_eq!(shift::pslldq(a, 255), V128::ZERO);
}

#[test]
fn immediates() {
    let mut random = Random(5);
    macro_rules! check {
        ($($text:literal, $imm:literal => $f:expr;)*) => {$({
            let (a, b) = (random.integers(), random.integers());
            let (want, _) = host!(concat!($text, " xmm0, xmm1, ", $imm), a, b, 0x1f80);
            let f: fn(V128, V128, u8) -> V128 = $f;
            assert_eq!(f(a, b, $imm), want, "{} {a:x?}, {b:x?}, {}", $text, $imm);
        })*};
    }
    for _ in 0..ROUNDS {
        check! {
            "pshufd", 0x1b => |_, b, i| shuffle::pshufd(b, i);
            "pshufd", 0xc6 => |_, b, i| shuffle::pshufd(b, i);
            "pshuflw", 0x6c => |_, b, i| shuffle::pshuflw(b, i);
            "pshufhw", 0x93 => |_, b, i| shuffle::pshufhw(b, i);
            "shufps", 0x4e => shuffle::shufps;
            "shufps", 0xd1 => shuffle::shufps;
            "shufpd", 1 => shuffle::shufpd;
            "shufpd", 2 => shuffle::shufpd;
            "palignr", 0 => shuffle::palignr;
            "palignr", 5 => shuffle::palignr;
            "palignr", 21 => shuffle::palignr;
            "palignr", 40 => shuffle::palignr;
            "pblendw", 0xa6 => shuffle::pblendw;
            "blendps", 0x9 => shuffle::blendps;
            "blendpd", 0x2 => shuffle::blendpd;
            "insertps", 0x9d => |a, b, i| shuffle::insertps(a, b.get(usize::from(i >> 6)), i);
            "insertps", 0x60 => |a, b, i| shuffle::insertps(a, b.get(usize::from(i >> 6)), i);
            "mpsadbw", 0 => integer::mpsadbw;
            "mpsadbw", 3 => integer::mpsadbw;
            "mpsadbw", 6 => integer::mpsadbw;
            "pclmulqdq", 0x00 => crypto::pclmulqdq;
            "pclmulqdq", 0x11 => crypto::pclmulqdq;
            "pclmulqdq", 0x10 => crypto::pclmulqdq;
            "aeskeygenassist", 0x36 => |_, b, i| crypto::aeskeygenassist(b, i);
        }
        let (a, b) = (random.integers(), random.integers());
        // XMM0 is the implicit mask; here it is also the destination.
        assert_eq!(shuffle::pblendvb(a, b, a), host!("pblendvb xmm0, xmm1", a, b, 0x1f80).0);
        assert_eq!(shuffle::blendvps(a, b, a), host!("blendvps xmm0, xmm1", a, b, 0x1f80).0);
        assert_eq!(shuffle::blendvpd(a, b, a), host!("blendvpd xmm0, xmm1", a, b, 0x1f80).0);
        let (m, _) = host!("pmovmskb eax, xmm1; movd xmm0, eax", a, b, 0x1f80);
        assert_eq!(integer::pmovmskb(b), m.get::<u32>(0));
        let (m, _) = host!("movmskps eax, xmm1; movd xmm0, eax", a, b, 0x1f80);
        assert_eq!(integer::movmskps(b), m.get::<u32>(0));
        let (m, _) = host!("movmskpd eax, xmm1; movd xmm0, eax", a, b, 0x1f80);
        assert_eq!(integer::movmskpd(b), m.get::<u32>(0));
        let (crc, data) = (a.get::<u32>(0), b.get::<u64>(0));
        let (m, _) = host!("movq rax, xmm0; movq rcx, xmm1; crc32 eax, cx; movd xmm0, eax", a, b, 0x1f80);
        assert_eq!(crypto::crc32(crc, data, 2), m.get::<u32>(0));
        let (m, _) = host!("movd eax, xmm0; movq rcx, xmm1; crc32 rax, rcx; movd xmm0, eax", a, b, 0x1f80);
        assert_eq!(crypto::crc32(crc, data, 8), m.get::<u32>(0));
    }
}

/// The packed operand of a vector of one, put into the lowest lane.
fn low<const N: usize>(v: V128) -> Vector<N> {
    Vector(std::array::from_fn(|i| v.0[i]))
}
fn into_low<const N: usize>(mut a: V128, v: Vector<N>) -> V128 {
    a.0[..N].copy_from_slice(&v.0);
    a
}

type Float = fn(V128, V128, &mut u32) -> Result<V128, float::Unmasked>;

macro_rules! floats {
    ($test:ident, $operand:ident: $($text:literal => $f:expr;)*) => {
        #[test]
        fn $test() {
            let mut random = Random(6);
            for _ in 0..2 * ROUNDS {
                let (a, b) = (random.$operand(), random.$operand());
                let mxcsr = random.mxcsr();
                $({
                    let want = host!($text, a, b, mxcsr);
                    let f: Float = $f;
                    let mut after = mxcsr;
                    let got = f(a, b, &mut after).expect("everything is masked");
                    assert_eq!((got, after), want, "{} {a:x?}, {b:x?}, mxcsr {mxcsr:x}", $text);
                })*
            }
        }
    };
}
macro_rules! scalar {
    ($f:path, $n:literal $(, $imm:expr)*) => {
        |a, b, m| Ok(into_low::<$n>(a, $f(low::<$n>(a), low::<$n>(b) $(, $imm)*, m)?))
    };
}
macro_rules! scalar_unary {
    ($f:path, $n:literal $(, $imm:expr)*) => {
        |a, b, m| Ok(into_low::<$n>(a, $f(low::<$n>(b) $(, $imm)*, m)?))
    };
}
floats! { single_precision, singles:
    "addps xmm0, xmm1" => float::addps;
    "subps xmm0, xmm1" => float::subps;
    "mulps xmm0, xmm1" => float::mulps;
    "divps xmm0, xmm1" => float::divps;
    "addss xmm0, xmm1" => scalar!(float::addps, 4);
    "divss xmm0, xmm1" => scalar!(float::divps, 4);
    "minps xmm0, xmm1" => float::minps;
    "maxps xmm0, xmm1" => float::maxps;
    "minss xmm0, xmm1" => scalar!(float::minps, 4);
    "sqrtps xmm0, xmm1" => |_, b, m| float::sqrtps(b, m);
    "sqrtss xmm0, xmm1" => scalar_unary!(float::sqrtps, 4);
    "addsubps xmm0, xmm1" => float::addsubps;
    "haddps xmm0, xmm1" => float::haddps;
    "hsubps xmm0, xmm1" => float::hsubps;
    "cmpps xmm0, xmm1, 0" => |a, b, m| float::cmpps(a, b, 0, m);
    "cmpps xmm0, xmm1, 1" => |a, b, m| float::cmpps(a, b, 1, m);
    "cmpps xmm0, xmm1, 2" => |a, b, m| float::cmpps(a, b, 2, m);
    "cmpps xmm0, xmm1, 3" => |a, b, m| float::cmpps(a, b, 3, m);
    "cmpps xmm0, xmm1, 4" => |a, b, m| float::cmpps(a, b, 4, m);
    "cmpps xmm0, xmm1, 5" => |a, b, m| float::cmpps(a, b, 5, m);
    "cmpps xmm0, xmm1, 6" => |a, b, m| float::cmpps(a, b, 6, m);
    "cmpps xmm0, xmm1, 7" => |a, b, m| float::cmpps(a, b, 7, m);
    "vcmpps xmm0, xmm0, xmm1, 9" => |a, b, m| float::cmpps(a, b, 9, m);
    "vcmpps xmm0, xmm0, xmm1, 19" => |a, b, m| float::cmpps(a, b, 19, m);
    "vcmpps xmm0, xmm0, xmm1, 30" => |a, b, m| float::cmpps(a, b, 30, m);
    "roundps xmm0, xmm1, 0" => |_, b, m| float::roundps(b, 0, m);
    "roundps xmm0, xmm1, 9" => |_, b, m| float::roundps(b, 9, m);
    "roundps xmm0, xmm1, 2" => |_, b, m| float::roundps(b, 2, m);
    "roundps xmm0, xmm1, 4" => |_, b, m| float::roundps(b, 4, m);
    "roundss xmm0, xmm1, 3" => scalar_unary!(float::roundps, 4, 3);
    "dpps xmm0, xmm1, 0x35" => |a, b, m| float::dpps(a, b, 0x35, m);
    "cvtps2dq xmm0, xmm1" => |_, b, m| convert::cvtps2dq(b, false, m);
    "cvttps2dq xmm0, xmm1" => |_, b, m| convert::cvtps2dq(b, true, m);
    "cvtps2pd xmm0, xmm1" => |_, b, m| convert::cvtps2pd(b, m);
    "cvtss2sd xmm0, xmm1" => |a, b, m| Ok(into_low(a, convert::cvtss2sd(low(b), m)?));
    "cvtdq2ps xmm0, xmm1" => |_, b, m| convert::cvtdq2ps(b, m);
    "cvtdq2pd xmm0, xmm1" => |_, b, _| Ok(convert::cvtdq2pd(b));
    "cvtss2si rax, xmm1; movq xmm0, rax" => |_, b, m| Ok(Vector::ZERO.with(0, convert::cvtf2si::<F32, i64>(b.get(0), false, m)?));
    "cvttss2si eax, xmm1; movd xmm0, eax" => |_, b, m| Ok(Vector::ZERO.with(0, convert::cvtf2si::<F32, i32>(b.get(0), true, m)?));
    "movd eax, xmm1; cvtsi2ss xmm0, eax" => |a, b, m| Ok(a.with(0, convert::cvtsi2ss(b.get::<i32>(0).into(), m)?));
}
floats! { double_precision, doubles:
    "addpd xmm0, xmm1" => float::addpd;
    "subpd xmm0, xmm1" => float::subpd;
    "mulpd xmm0, xmm1" => float::mulpd;
    "divpd xmm0, xmm1" => float::divpd;
    "subsd xmm0, xmm1" => scalar!(float::subpd, 8);
    "mulsd xmm0, xmm1" => scalar!(float::mulpd, 8);
    "minpd xmm0, xmm1" => float::minpd;
    "maxpd xmm0, xmm1" => float::maxpd;
    "maxsd xmm0, xmm1" => scalar!(float::maxpd, 8);
    "sqrtpd xmm0, xmm1" => |_, b, m| float::sqrtpd(b, m);
    "sqrtsd xmm0, xmm1" => scalar_unary!(float::sqrtpd, 8);
    "addsubpd xmm0, xmm1" => float::addsubpd;
    "haddpd xmm0, xmm1" => float::haddpd;
    "hsubpd xmm0, xmm1" => float::hsubpd;
    "cmppd xmm0, xmm1, 1" => |a, b, m| float::cmppd(a, b, 1, m);
    "cmppd xmm0, xmm1, 4" => |a, b, m| float::cmppd(a, b, 4, m);
    "cmpsd xmm0, xmm1, 7" => scalar!(float::cmppd, 8, 7);
    "roundpd xmm0, xmm1, 0" => |_, b, m| float::roundpd(b, 0, m);
    "roundpd xmm0, xmm1, 1" => |_, b, m| float::roundpd(b, 1, m);
    "roundpd xmm0, xmm1, 12" => |_, b, m| float::roundpd(b, 12, m);
    "dppd xmm0, xmm1, 0x31" => |a, b, m| float::dppd(a, b, 0x31, m);
    "cvtpd2dq xmm0, xmm1" => |_, b, m| convert::cvtpd2dq(b, false, m);
    "cvttpd2dq xmm0, xmm1" => |_, b, m| convert::cvtpd2dq(b, true, m);
    "cvtpd2ps xmm0, xmm1" => |_, b, m| convert::cvtpd2ps(b, m);
    "cvtsd2ss xmm0, xmm1" => |a, b, m| Ok(into_low(a, convert::cvtsd2ss(low(b), m)?));
    "cvtsd2si rax, xmm1; movq xmm0, rax" => |_, b, m| Ok(Vector::ZERO.with(0, convert::cvtf2si::<F64, i64>(b.get(0), false, m)?));
    "cvttsd2si rax, xmm1; movq xmm0, rax" => |_, b, m| Ok(Vector::ZERO.with(0, convert::cvtf2si::<F64, i64>(b.get(0), true, m)?));
    "cvtsd2si eax, xmm1; movd xmm0, eax" => |_, b, m| Ok(Vector::ZERO.with(0, convert::cvtf2si::<F64, i32>(b.get(0), false, m)?));
    "movq rax, xmm1; cvtsi2sd xmm0, rax" => |a, b, m| Ok(a.with(0, convert::cvtsi2sd(b.get(0), m)?));
    "movq rax, xmm1; cvtsi2ss xmm0, rax" => |a, b, m| Ok(a.with(0, convert::cvtsi2ss(b.get(0), m)?));
    "comisd xmm0, xmm1; pushfq; pop rax; movq xmm0, rax; pcmpeqd xmm1, xmm1; psrlq xmm1, 63; psllq xmm1, 6; pand xmm0, xmm1"
        => |a, b, m| Ok(Vector::ZERO.with(0, match float::comi::<F64>(a.get(0), b.get(0), false, m)? {
            Ordering4::Equal | Ordering4::Unordered => 0x40u64,
            _ => 0,
        }));
}

#[test]
fn unmasked_exceptions_keep_the_result_back() {
    let one = Vector::<4>::splat(1f32.to_bits());
    let three = Vector::<4>::splat(3f32.to_bits());
    // Divide-by-zero and precision unmasked: found before anything is computed.
    let mut mxcsr = 0x0d80;
    assert_eq!(float::divps(one, Vector::ZERO, &mut mxcsr), Err(float::Unmasked));
    assert_eq!(mxcsr, 0x0d84);
    assert_eq!(float::divps(one, three, &mut mxcsr), Err(float::Unmasked));
    assert_eq!(mxcsr, 0x0da4);
    // One lane's precision stays hidden behind the other's invalid operation.
    let a = V128::ZERO.with(0, 1f32.to_bits());
    let b = V128::ZERO.with(0, 3f32.to_bits());
    let mut mxcsr = 0x1f00;
    assert_eq!(float::divps(a, b, &mut mxcsr), Err(float::Unmasked));
    assert_eq!(mxcsr, 0x1f01);
}

/// A word of PCMPxSTRx flags in the order of `found`: OF, SF, ZF, CF.
fn flags(found: string::Found) -> u64 {
    u64::from(found.overflow) << 11 | u64::from(found.sign) << 7 | u64::from(found.zero) << 6 | u64::from(found.carry)
}

macro_rules! strings {
    ($($imm:literal)*) => {
        #[test]
        fn strings() {
            let mut random = Random(7);
            const FLAGS: u64 = 0x8c1;
            for _ in 0..ROUNDS {
                let letters = [0u8, b'a', b'b', b'b', b'c', 0x80, 0xff, b'a', b'a', b'a'];
                let limit = 3 + random.next() as usize % 8;
                let mut text = || Vector(std::array::from_fn(|_| letters[1..][random.next() as usize % limit.min(9)] * u8::from(random.next() >> 60 != 0)));
                let (a, b): (V128, V128) = (text(), text());
                let lengths = (random.next() as i8 as i64 / 4, random.next() as i8 as i64 / 4);
                $({
                    let (mut index, mut eflags): (u64, u64);
                    let mut mask = V128::ZERO;
                    // SAFETY: registers named here only.
                    unsafe {
                        asm!(
                            "movups xmm1, [{a}]", "movups xmm2, [{b}]",
                            concat!("pcmpistrm xmm1, xmm2, ", $imm), "movups [{m}], xmm0",
                            concat!("pcmpistri xmm1, xmm2, ", $imm), "pushfq", "pop {f}",
                            a = in(reg) &a, b = in(reg) &b, m = in(reg) &mut mask, f = out(reg) eflags, out("rcx") index,
                            out("xmm0") _, out("xmm1") _, out("xmm2") _,
                        );
                    }
                    let found = string::compare(a, string::implicit_length(a, $imm), b, string::implicit_length(b, $imm), $imm);
                    let got = (u64::from(string::index(found, $imm)), flags(found), string::mask(found, $imm));
                    assert_eq!(got, (index, eflags & FLAGS, mask), "pcmpistri {a:x?}, {b:x?}, {:#x}", $imm);
                    // SAFETY: registers named here only.
                    unsafe {
                        asm!(
                            "movups xmm1, [{a}]", "movups xmm2, [{b}]",
                            concat!("pcmpestrm xmm1, xmm2, ", $imm), "movups [{m}], xmm0",
                            concat!("pcmpestri xmm1, xmm2, ", $imm), "pushfq", "pop {f}",
                            a = in(reg) &a, b = in(reg) &b, m = in(reg) &mut mask, f = out(reg) eflags, out("rcx") index,
                            in("rax") lengths.0, in("rdx") lengths.1,
                            out("xmm0") _, out("xmm1") _, out("xmm2") _,
                        );
                    }
                    let length = |l: i64| string::explicit_length((l as i32).into(), $imm);
                    let found = string::compare(a, length(lengths.0), b, length(lengths.1), $imm);
                    let got = (u64::from(string::index(found, $imm)), flags(found), string::mask(found, $imm));
                    assert_eq!(got, (index, eflags & FLAGS, mask), "pcmpestri {a:x?}, {b:x?}, {lengths:?}, {:#x}", $imm);
                })*
            }
        }
    };
}
strings! {
    0x00 0x01 0x02 0x03 0x04 0x05 0x06 0x07 0x08 0x09 0x0a 0x0b 0x0c 0x0d 0x0e 0x0f
    0x10 0x15 0x1a 0x1f 0x30 0x31 0x34 0x35 0x38 0x39 0x3a 0x3c 0x3d
    0x40 0x41 0x44 0x45 0x48 0x49 0x4c 0x4d 0x50 0x5d 0x70 0x71 0x74 0x7a 0x7c 0x7d
}
