//! What manufacturers leave open is defined here once, the same on every host: approximations, transcendental functions,
//! undefined flags and results, pinned by a file. `SOFTMETAL_BLESS=1 cargo test -p softmetal-cpu --test golden` rewrites it.

use std::fmt::Write as _;

use iced_x86::code_asm::*;
use iced_x86::{CpuidFeature, EncodingKind, IcedError, Register};
use softmetal_cpu::semantics::simd::estimate;
use softmetal_cpu::semantics::softfloat::F80;
use softmetal_cpu::semantics::x87::Fpu;
use softmetal_cpu::state::reg;
use softmetal_cpu::testing::Harness;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/open.txt");

/// xorshift64*, whose numbers are the operands in [`FILE`].
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// An 80-bit number around 1, at times far away or special.
    fn extended(&mut self) -> F80 {
        let wide = self.next();
        let exponent = match wide & 15 {
            0 => (wide >> 8 & 0x7fff) as u16,
            1 => 0,
            2 => 0x7fff,
            _ => 0x3fff - 40 + (wide >> 8) as u16 % 80,
        };
        let mantissa = self.next() | u64::from(exponent != 0) << 63;
        F80 { mantissa, sign_exponent: exponent | (wide >> 48) as u16 & 0x8000 }
    }
}

/// FNV-1a.
fn digest(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

const START: u64 = 0xcbf2_9ce4_8422_2325;

fn x87(out: &mut String) {
    let table: [Instruction; 8] = [
        ("fsin", |f| f.sine(false)),
        ("fcos", |f| f.sine(true)),
        ("fsincos", Fpu::sine_and_cosine),
        ("fptan", Fpu::tangent),
        ("fpatan", Fpu::arc_tangent),
        ("f2xm1", Fpu::exponential),
        ("fyl2x", Fpu::logarithm),
        ("fyl2xp1", Fpu::logarithm_plus_one),
    ];
    for (name, run) in table {
        let (mut random, mut hash) = (Random(0x1234_5678), START);
        for n in 0..4000 {
            let (y, x) = (random.extended(), random.extended());
            let mut fpu = Fpu::new();
            fpu.load_extended(y);
            fpu.load_extended(x);
            fpu.set_control(0x37f & !(3 << 10) | (n & 3) << 10);
            run(&mut fpu);
            let image = fpu.fxsave_image(true);
            hash = digest(hash, &image);
            if n % 1000 == 1 {
                let _ = writeln!(out, "{name} st1 {y:x?} st0 {x:x?}: {:x?} {:04x}", fpu.st(0), fpu.status());
            }
        }
        let _ = writeln!(out, "{name} of 4000: {hash:016x}");
    }
}

fn estimates(out: &mut String) {
    for (name, estimate) in [("rcpps", estimate::rcp as fn(u32) -> u32), ("rsqrtps", estimate::rsqrt)] {
        let (mut random, mut hash) = (Random(0x8765_4321), START);
        for n in 0..20_000 {
            let x = random.next() as u32;
            hash = digest(hash, &estimate(x).to_le_bytes());
            if n % 5000 == 1 {
                let _ = writeln!(out, "{name} {x:08x}: {:08x}", estimate(x));
            }
        }
        let _ = writeln!(out, "{name} of 20000: {hash:016x}");
    }
}

type Instruction = (&'static str, fn(&mut Fpu));
type Assembly = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Instructions with undefined flags or results: RAX, RBX, RCX and the flags afterwards.
fn integers(out: &mut String) {
    let table: &[(&str, Assembly)] = &[
        ("and", |a| a.and(eax, ebx)),
        ("or", |a| a.or(rax, rbx)),
        ("xor", |a| a.xor(ax, bx)),
        ("test", |a| a.test(al, bl)),
        ("imul r32", |a| a.imul_2(eax, ebx)),
        ("imul r64", |a| a.imul(rbx)),
        ("mul r16", |a| a.mul(bx)),
        ("mul r8", |a| a.mul(bl)),
        ("shl r32, cl", |a| a.shl(eax, cl)),
        ("shr r16, cl", |a| a.shr(ax, cl)),
        ("sar r8, cl", |a| a.sar(al, cl)),
        ("rol r16, cl", |a| a.rol(ax, cl)),
        ("ror r64, cl", |a| a.ror(rax, cl)),
        ("rcl r8, cl", |a| a.rcl(al, cl)),
        ("rcr r16, cl", |a| a.rcr(ax, cl)),
        ("shld r16, cl", |a| a.shld(ax, bx, cl)),
        ("shrd r16, cl", |a| a.shrd(ax, bx, cl)),
        ("shld r64, cl", |a| a.shld(rax, rbx, cl)),
        ("bsf r32", |a| a.bsf(eax, ebx)),
        ("bsr r64", |a| a.bsr(rax, rbx)),
        ("bsf r16", |a| a.bsf(ax, bx)),
        ("bt", |a| a.bt(eax, ebx)),
        ("btc", |a| a.btc(rax, rbx)),
        ("tzcnt", |a| a.tzcnt(eax, ebx)),
        ("lzcnt", |a| a.lzcnt(rax, rbx)),
        ("bextr", |a| a.bextr(eax, ebx, ecx)),
        ("bzhi", |a| a.bzhi(rax, rbx, rcx)),
        ("blsr", |a| a.blsr(eax, ebx)),
    ];
    const EDGES: [u64; 12] =
        [0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff_ffff, 0x8000_0000, 0x7fff_ffff_ffff_ffff, 0x8000_0000_0000_0000];
    for (name, assemble) in table {
        let mut h = Harness::long().asm(|a| {
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            assemble(a)?;
            a.jmp(top)
        });
        let state = h.p.cpu.state.clone();
        let mut hash = START;
        for a in EDGES {
            for b in EDGES {
                for c in [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 0x1f08] {
                    for flags in [2, 0x8d7] {
                        let mut s = state.clone();
                        s.icount = h.p.icount();
                        (s.regs[0], s.regs[3], s.regs[1], s.regs[2]) = (a, b, c, !a);
                        h.p.load(s);
                        h.p.cpu.set_eflags(flags);
                        h.run(1);
                        for v in [h.reg(0), h.reg(2), h.reg(3), h.flags()] {
                            hash = digest(hash, &v.to_le_bytes());
                        }
                    }
                }
            }
        }
        let _ = writeln!(out, "{name}: {hash:016x}");
    }
}

/// 3DNow!, by the instructions: no processor of today has it, so all of it is pinned.
fn three_d_now(out: &mut String) {
    let edges = [0.0f32, -0.0, 1.0, -1.5, 3.0, 65536.5, -2e9, 1e-38, 1e-39, 3e38, f32::MAX, -f32::MAX, f32::INFINITY, f32::NAN];
    for code in iced_x86::Code::values().filter(|c| c.encoding() == EncodingKind::D3NOW) {
        if code.cpuid_features().contains(&CpuidFeature::CYRIX_D3NOW) {
            continue;
        }
        let mut h = Harness::long().asm(|a| {
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.movq(mm0, rax)?;
            a.movq(mm1, rbx)?;
            a.add_instruction(iced_x86::Instruction::with2(code, Register::MM0, Register::MM1)?)?;
            a.movq(rax, mm0)?;
            a.jmp(top)
        });
        assert!(h.p.cpu.model.set("3dnow", true) && h.p.cpu.model.set("3dnowext", true));
        let state = h.p.cpu.state.clone();
        h.p.load(state);
        let (mut random, mut hash) = (Random(0x3d3d_3d3d), START);
        let mut number = |n: usize| {
            let x = random.next() as u32;
            // Every third one an edge, the others of moderate size.
            if n % 3 == 0 { edges[x as usize % edges.len()].to_bits() } else { x & 0x87ff_ffff | 0x3800_0000 }
        };
        for n in 0..1000 {
            let [a, b, c, d] = [0, 1, 2, 0].map(|k| number(n + k));
            h.set_reg(reg::RAX, u64::from(a) << 32 | u64::from(b));
            h.set_reg(reg::RBX, u64::from(c) << 32 | u64::from(d));
            h.run(4);
            hash = digest(hash, &h.reg(reg::RAX).to_le_bytes());
            h.run(1);
        }
        assert_eq!(h.exception(), None, "{code:?}");
        let _ = writeln!(out, "{:?} of 1000: {hash:016x}", code.mnemonic());
    }
}

#[test]
fn what_is_left_open_is_the_same_everywhere() {
    let mut now = String::new();
    x87(&mut now);
    estimates(&mut now);
    integers(&mut now);
    three_d_now(&mut now);
    if std::env::var_os("SOFTMETAL_BLESS").is_some() {
        std::fs::write(FILE, &now).expect("the golden file can be written");
    }
    let pinned = std::fs::read_to_string(FILE).expect("the golden file is there");
    let changed: Vec<_> = now.lines().zip(pinned.lines()).filter(|(a, b)| a != b).collect();
    assert!(now == pinned, "{} lines differ (now, pinned): {changed:#?}", changed.len());
}
