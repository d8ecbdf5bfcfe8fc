//! The floating-point semantics against the host processor: results and exception flags, in every rounding mode.
#![cfg(target_arch = "x86_64")]

use core::arch::asm;
use softmetal_cpu::semantics::softfloat::{self as soft, Env, F32, F64, F80, Precision, Rounding};
use softmetal_cpu::semantics::x87::{Arith, Constant, Fpu, Operand};

/// A small generator whose values cluster at the edges of a format.
struct Operands(u64);

impl Operands {
    fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn parts(&mut self, exponents: u64, fraction: u32) -> (u64, u64) {
        let (choice, random) = (self.word(), self.word());
        let low = (1u64 << fraction) - 1;
        let exponent = match choice & 7 {
            0 => 0,
            1 => exponents,
            2 => 1 + (random >> 60 & 1),
            3 => exponents - 1,
            4 | 5 => (exponents / 2 + (random >> 56 & 127)).saturating_sub(64) & exponents,
            _ => random >> 40 & exponents,
        };
        let mantissa = match choice >> 3 & 7 {
            0 => 0,
            1 => low,
            2 => 1,
            3 => 1 << (random >> 58).min(u64::from(fraction) - 1),
            4 => random & low & !(low >> 1 >> (random >> 59)),
            _ => random & low,
        };
        (exponent, mantissa)
    }

    fn f32(&mut self) -> u32 {
        let (exponent, mantissa) = self.parts(0xff, 23);
        (exponent << 23 | mantissa) as u32 | (self.word() as u32 & 1 << 31)
    }

    fn f64(&mut self) -> u64 {
        let (exponent, mantissa) = self.parts(0x7ff, 52);
        exponent << 52 | mantissa | (self.word() & 1 << 63)
    }

    fn f80(&mut self) -> F80 {
        let (exponent, mantissa) = self.parts(0x7fff, 63);
        // One value in sixteen is a pseudo-denormal or has no meaning.
        let integer = (exponent != 0) != (self.word() >> 60 == 0);
        F80 { mantissa: mantissa | u64::from(integer) << 63, sign_exponent: exponent as u16 | (self.word() as u16 & 0x8000) }
    }
}

const ROUNDS: usize = 150_000;

macro_rules! sse_binary {
    ($instruction:literal) => {
        |a: u64, b: u64, c: u64, mxcsr: u32| {
            let (mut control, result) = (mxcsr, a);
            let mut saved = 0u32;
            let mut value = result;
            // SAFETY: only the named registers and the control word change, and the latter is put back.
            unsafe {
                asm!("stmxcsr [{saved}]", "movq xmm0, {a}", "movq xmm1, {b}", "movq xmm2, {c}", "ldmxcsr [{control}]",
                    $instruction, "stmxcsr [{control}]", "ldmxcsr [{saved}]", "movq {a}, xmm0",
                    saved = in(reg) &mut saved, control = in(reg) &mut control, a = inout(reg) value, b = in(reg) b,
                    c = in(reg) c, out("xmm0") _, out("xmm1") _, out("xmm2") _);
            }
            (value, control & 0x3f)
        }
    };
}

type SseHost = fn(u64, u64, u64, u32) -> (u64, u32);
type SseOurs = fn(u64, u64, u64, &mut Env) -> u64;

#[test]
fn sse_results_and_flags() {
    let table: &[(&str, bool, SseHost, SseOurs)] = &[
        ("addss", true, sse_binary!("addss xmm0, xmm1"), |a, b, _, e| soft::add::<F32>(a as u32, b as u32, e).into()),
        ("subss", true, sse_binary!("subss xmm0, xmm1"), |a, b, _, e| soft::sub::<F32>(a as u32, b as u32, e).into()),
        ("mulss", true, sse_binary!("mulss xmm0, xmm1"), |a, b, _, e| soft::mul::<F32>(a as u32, b as u32, e).into()),
        ("divss", true, sse_binary!("divss xmm0, xmm1"), |a, b, _, e| soft::div::<F32>(a as u32, b as u32, e).into()),
        ("sqrtss", true, sse_binary!("sqrtss xmm0, xmm1"), |_, b, _, e| soft::sqrt::<F32>(b as u32, e).into()),
        ("addsd", false, sse_binary!("addsd xmm0, xmm1"), |a, b, _, e| soft::add::<F64>(a, b, e)),
        ("subsd", false, sse_binary!("subsd xmm0, xmm1"), |a, b, _, e| soft::sub::<F64>(a, b, e)),
        ("mulsd", false, sse_binary!("mulsd xmm0, xmm1"), |a, b, _, e| soft::mul::<F64>(a, b, e)),
        ("divsd", false, sse_binary!("divsd xmm0, xmm1"), |a, b, _, e| soft::div::<F64>(a, b, e)),
        ("sqrtsd", false, sse_binary!("sqrtsd xmm0, xmm1"), |_, b, _, e| soft::sqrt::<F64>(b, e)),
        ("cvtsd2ss", false, sse_binary!("cvtsd2ss xmm1, xmm1; xorps xmm0, xmm0; movss xmm0, xmm1"), |_, b, _, e| {
            soft::convert::<F64, F32>(b, e).into()
        }),
        ("cvtss2sd", true, sse_binary!("cvtss2sd xmm0, xmm1"), |_, b, _, e| soft::convert::<F32, F64>(b as u32, e)),
        ("roundsd", false, sse_binary!("roundsd xmm0, xmm1, 4"), |_, b, _, e| soft::round_to_int::<F64>(b, e.rounding, false, e)),
        ("roundss", true, sse_binary!("roundss xmm0, xmm1, 9"), |_, b, _, e| {
            soft::round_to_int::<F32>(b as u32, Rounding::Down, true, e).into()
        }),
        ("fma213sd", false, sse_binary!("vfmadd213sd xmm0, xmm1, xmm2"), |a, b, c, e| soft::mul_add::<F64>(b, a, c, (false, false), e)),
        ("fma213ss", true, sse_binary!("vfmadd213ss xmm0, xmm1, xmm2"), |a, b, c, e| {
            soft::mul_add::<F32>(b as u32, a as u32, c as u32, (false, false), e).into()
        }),
    ];
    let mut source = Operands(0x1234_5678_9abc);
    for round in 0..ROUNDS {
        let mxcsr = 0x1f80 | (round as u32 & 3) << 13 | (round as u32 >> 2 & 1) << 15 | (round as u32 >> 3 & 1) << 6;
        let (singles, doubles) = ([source.f32(), source.f32(), source.f32()], [source.f64(), source.f64(), source.f64()]);
        for (name, narrow, host, ours) in table {
            if name.starts_with("fma") && !std::is_x86_feature_detected!("fma") {
                continue;
            }
            let [a, b, c] = if *narrow { singles.map(u64::from) } else { doubles };
            let mut env = Env::from_mxcsr(mxcsr);
            let result = ours(a, b, c, &mut env);
            let (expected, flags) = host(a, b, c, mxcsr);
            assert_eq!(
                (result, u32::from(env.raised.bits())),
                (expected, flags),
                "{name} {a:x} {b:x} {c:x} mxcsr {mxcsr:x}: left {result:x}, right {expected:x}"
            );
        }
    }
}

/// Runs instructions with `b` in ST(1) and `a` in ST(0): what ends up in ST(0), and the status word.
macro_rules! x87 {
    ($($instruction:literal),+) => {
        |a: F80, b: F80, control: u16| {
            let (x, y) = (a.to_le_bytes(), b.to_le_bytes());
            let mut result = [0u8; 10];
            let mut status = 0u16;
            // SAFETY: the x87 is left as initialised, which is what the calling convention expects of it.
            unsafe {
                asm!("fninit", "fld tbyte ptr [{y}]", "fld tbyte ptr [{x}]", "fldcw word ptr [{control}]", $($instruction),+,
                    "fnstsw word ptr [{status}]", "fstp tbyte ptr [{result}]", "fninit",
                    x = in(reg) &x, y = in(reg) &y, control = in(reg) &control, status = in(reg) &mut status,
                    result = in(reg) &mut result,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _);
            }
            (F80::from_le_bytes(result), status)
        }
    };
}

type X87Host = fn(F80, F80, u16) -> (F80, u16);
/// An instruction's name, the host's, ours.
type Row = (&'static str, X87Host, fn(&mut Fpu));
type X87Ours = fn(F80, F80, &mut Env) -> F80;

#[test]
fn x87_results_and_flags() {
    let table: &[(&str, X87Host, X87Ours)] = &[
        ("fadd", x87!("fadd st(0), st(1)"), soft::add::<F80>),
        ("fsub", x87!("fsub st(0), st(1)"), soft::sub::<F80>),
        ("fmul", x87!("fmul st(0), st(1)"), soft::mul::<F80>),
        ("fdiv", x87!("fdiv st(0), st(1)"), soft::div::<F80>),
        ("fsqrt", x87!("fsqrt"), |a, _, e| soft::sqrt::<F80>(a, e)),
        ("frndint", x87!("frndint"), |a, _, e| soft::round_to_int::<F80>(a, e.rounding, false, e)),
    ];
    let mut source = Operands(0xfeed_beef);
    for round in 0..ROUNDS {
        let (rounding, precision) = [(0, 3), (1, 3), (2, 3), (3, 3), (0, 2), (1, 2), (2, 0), (0, 0)][round & 7];
        let control = 0x3f | precision << 8 | rounding << 10;
        let (a, b) = (source.f80(), source.f80());
        for (name, host, ours) in table {
            let mut env = Env {
                rounding: Rounding::from_bits(rounding.into()),
                precision: [Precision::Single, Precision::Single, Precision::Double, Precision::Extended][usize::from(precision)],
                ..Env::default()
            };
            let result = ours(a, b, &mut env);
            let (expected, status) = host(a, b, control);
            let ours = (result, u16::from(env.raised.bits()) | u16::from(env.rounded_up) << 9);
            assert_eq!(ours, (expected, status & 0x23f), "{name} {a:x?} {b:x?} control {control:x}: {result:x?}, the host {expected:x?}");
        }
    }
}

/// The distance of two results in units of the last place, where that makes sense.
fn distance(a: F80, b: F80) -> u64 {
    let order = |x: F80| i128::from(x.sign_exponent & 0x7fff) << 63 | i128::from(x.mantissa & !(1 << 63));
    if a.sign_exponent >> 15 != b.sign_exponent >> 15 {
        return u64::MAX;
    }
    u64::try_from((order(a) - order(b)).abs()).unwrap_or(u64::MAX)
}

/// The unit with `b` in ST(1) and `a` in ST(0).
fn unit(a: F80, b: F80, control: u16) -> Fpu {
    let mut fpu = Fpu::new();
    fpu.load_extended(b);
    fpu.load_extended(a);
    fpu.set_control(control);
    fpu
}

#[test]
fn x87_instructions_leave_what_the_host_leaves() {
    let table: &[Row] = &[
        ("fabs", x87!("fabs"), |f| f.set_sign(false)),
        ("fchs", x87!("fchs"), |f| f.set_sign(true)),
        ("fstp m32fp", x87!("fstp dword ptr [{result}]", "fld dword ptr [{result}]"), |f| {
            let stored = f.store_single().expect("masked");
            f.pop();
            f.load(Operand::single(stored));
        }),
        ("fstp m64fp", x87!("fstp qword ptr [{result}]", "fld qword ptr [{result}]"), |f| {
            let stored = f.store_double().expect("masked");
            f.pop();
            f.load(Operand::double(stored));
        }),
        ("fist m16int", x87!("fist word ptr [{result}]", "ficom word ptr [{result}]"), |f| {
            let stored = f.store_i16(false).expect("masked");
            f.compare_memory(Operand::integer(stored.into()), 0);
        }),
        ("fisttp m32int", x87!("fisttp dword ptr [{result}]", "fild dword ptr [{result}]"), |f| {
            let stored = f.store_i32(true).expect("masked");
            f.pop();
            f.load(Operand::integer(stored.into()));
        }),
        ("fistp m64int", x87!("fistp qword ptr [{result}]", "fild qword ptr [{result}]"), |f| {
            let stored = f.store_i64(false).expect("masked");
            f.pop();
            f.load(Operand::integer(stored));
        }),
        ("fbstp", x87!("fbstp tbyte ptr [{result}]"), |f| {
            f.store_bcd().expect("masked");
            f.pop();
        }),
        ("fxam", x87!("fxam"), Fpu::examine),
        ("ftst", x87!("ftst"), Fpu::test),
        ("fcom", x87!("fcom st(1)"), |f| f.compare(1, false, 0)),
        ("fucomp", x87!("fucomp st(1)"), |f| f.compare(1, true, 1)),
        ("fxch", x87!("fxch st(1)"), |f| f.exchange(1)),
        ("fscale", x87!("fscale"), Fpu::scale),
        ("fxtract", x87!("fxtract"), Fpu::extract),
        ("fxtract exponent", x87!("fxtract", "fstp st(0)"), |f| {
            f.extract();
            f.store_register(0, true);
        }),
        ("fprem", x87!("fprem"), |f| f.partial_remainder(false)),
        ("fprem1", x87!("fprem1"), |f| f.partial_remainder(true)),
        ("fsubrp", x87!("fsubrp st(1), st(0)"), |f| f.arith(Arith::SubReverse, 1, 0, true)),
        ("fdivrp", x87!("fdivrp st(1), st(0)"), |f| f.arith(Arith::DivReverse, 1, 0, true)),
        ("fldpi", x87!("fldpi"), |f| f.load_constant(Constant::Pi)),
        ("fldl2t", x87!("fldl2t"), |f| f.load_constant(Constant::Log2Ten)),
        ("fldl2e", x87!("fldl2e"), |f| f.load_constant(Constant::Log2E)),
        ("fldlg2", x87!("fldlg2"), |f| f.load_constant(Constant::Log10Two)),
        ("fldln2", x87!("fldln2"), |f| f.load_constant(Constant::LnTwo)),
        ("fadd empty", x87!("fadd st(0), st(3)"), |f| f.arith(Arith::Add, 0, 3, false)),
        ("fst empty", x87!("fst st(3)"), |f| f.store_register(3, false)),
        ("fld empty", x87!("fld st(4)"), |f| f.load_register(4)),
    ];
    let mut source = Operands(0xabcd_ef01);
    for round in 0..ROUNDS {
        let control = 0x3f | 3 << 8 | (round as u16 & 3) << 10;
        let (a, b) = (source.f80(), source.f80());
        for (name, host, ours) in table {
            let mut fpu = unit(a, b, control);
            ours(&mut fpu);
            let (expected, status) = host(a, b, control);
            let undefined = match *name {
                "fprem" | "fprem1" if fpu.status() & 0x400 != 0 => continue,
                "fprem" | "fprem1" if status & 1 != 0 => 0x4700,
                "ftst" | "fcom" | "fucomp" | "fxam" | "fprem" | "fprem1" => 0,
                _ => 0x4500,
            };
            let (left, right) = ((fpu.st(0), fpu.status() | undefined), (expected, status | undefined));
            assert_eq!(left, right, "{name} {a:x?} {b:x?} control {control:x}: {left:x?}, the host {right:x?}");
        }
    }
}

#[test]
fn x87_transcendentals_are_near_the_host() {
    let table: &[Row] = &[
        ("fsin", x87!("fsin"), |f| f.sine(false)),
        ("fcos", x87!("fcos"), |f| f.sine(true)),
        ("fsincos", x87!("fsincos"), Fpu::sine_and_cosine),
        ("fptan", x87!("fptan", "fstp st(0)"), |f| {
            f.tangent();
            if f.status() & 0x400 == 0 {
                f.store_register(0, true);
            }
        }),
        ("fpatan", x87!("fpatan"), Fpu::arc_tangent),
        ("f2xm1", x87!("f2xm1"), Fpu::exponential),
        ("fyl2x", x87!("fyl2x"), Fpu::logarithm),
        ("fyl2xp1", x87!("fyl2xp1"), Fpu::logarithm_plus_one),
    ];
    let mut source = Operands(0x1357_9bdf);
    let mut worst = vec![0; table.len()];
    for _ in 0..ROUNDS {
        let (a, b) = (source.f80(), source.f80());
        for (i, (name, host, ours)) in table.iter().enumerate() {
            let exponent = a.sign_exponent & 0x7fff;
            let outside = match *name {
                "fsin" | "fcos" | "fsincos" | "fptan" => exponent >= 0x403e && exponent != 0x7fff,
                "f2xm1" => exponent >= 0x3fff && exponent != 0x7fff,
                "fyl2xp1" => exponent >= 0x3ffd,
                _ => false,
            };
            if outside {
                continue;
            }
            let mut fpu = unit(a, b, 0x37f);
            ours(&mut fpu);
            let (expected, status) = host(a, b, 0x37f);
            let result = fpu.st(0);
            let ulps = distance(result, expected);
            let visible = 0x21f & !0x210;
            if ulps > 1 || (fpu.status() ^ status) & visible != 0 {
                worst[i] += 1;
                if worst[i] < 4 {
                    println!("{name} {a:x?} {b:x?}: {result:x?} {:x}, the host {expected:x?} {status:x}", fpu.status());
                }
            }
        }
    }
    assert_eq!(worst, vec![0; table.len()]);
}
