//! Accesses that share one look at the TLB, against the interpreter: many accesses off a few bases that wander over page
//! ends, over pages that are read-only, absent, a device's or the program's own code, and evict each other from the TLB.
//!
//! `SOFTMETAL_FUZZ=n` makes n times as many programs (and `SOFTMETAL_SEED=s` one alone).
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use iced_x86::code_asm::*;
use iced_x86::{Formatter, IntelFormatter};
use softmetal_bus::splitmix64;
use softmetal_cpu::Engine;
use softmetal_cpu::state::reg;
use softmetal_cpu::testing::{CODE, Harness, Outcome, RAM, TABLES};

/// Linear addresses of pages of 4 KiB, ...
const PAGES: u64 = 0x40_0000;
/// ... those that share the places of these in the TLB, ...
const RIVALS: u64 = PAGES + (16 << 20);
/// ... how many there are of each, ...
const COUNT: u64 = 8;
/// ... their page tables, ...
const TABLE: [u64; 2] = [0x30_0000, 0x30_1000];
/// ... and what they map.
const DATA: u64 = 0x60_0000;

fn below(random: &mut u64, n: u64) -> u64 {
    splitmix64(random) % n
}

const BASES: [AsmRegister64; 6] = [rsi, rdi, rbx, r13, rsp, rbp];
const VALUES: [AsmRegister64; 5] = [rax, rcx, rdx, r8, r11];

fn operand(random: &mut u64) -> AsmMemoryOperand {
    let base = BASES[below(random, 6) as usize];
    let disp = below(random, 96) as i32 - 48;
    match below(random, 16) {
        0 => base + r15 * 2 + disp,
        1 => base + r15 + disp,
        2 => base + disp * 16,
        // Absolute: the last bytes of a page, or the first of the next.
        3 => ptr(PAGES + 0x2000 + below(random, 16) - 8),
        _ => base + disp,
    }
}

/// Integer instructions with registers of which the translator keeps few in the host's.
fn state_registers(a: &mut CodeAssembler, random: &mut u64) -> Result<(), iced_x86::IcedError> {
    let (to, from) = ([r10, r11, r8][below(random, 3) as usize], [r10, r14, r15, r9, r13][below(random, 5) as usize]);
    match below(random, 16) {
        0 => a.mov(to, from),
        1 => a.add(to, from),
        2 => a.sbb(r11, from),
        3 => a.cmp(to, from),
        4 => a.xor(r11d, r11d),
        5 => a.sub(r10, r10),
        6 => a.mov(r10d, r9d),
        7 => a.mov(r11w, r9w),
        8 => a.movzx(r9d, r10b),
        9 => a.cmovb(r9, from),
        10 => a.test(r10d, 0x55),
        11 => a.neg(to),
        12 => a.add(r10d, 7),
        13 => a.imul_3(r9, from, 11),
        14 => a.sete(r11b),
        _ => a.rol(r11w, 3),
    }
}

/// An access, or what changes a base, the TLB or the page tables between accesses.
fn item(a: &mut CodeAssembler, random: &mut u64) -> Result<(), iced_x86::IcedError> {
    let (m, v, base) = (operand(random), VALUES[below(random, 5) as usize], BASES[below(random, 5) as usize]);
    let aligned = BASES[below(random, 6) as usize] + (below(random, 6) as i32 * 16 - 48);
    let by = below(random, 40) as i32 - 20;
    match below(random, 50) {
        0..=5 => a.mov(v, qword_ptr(m)),
        6..=9 => a.mov(qword_ptr(m), v),
        10 => a.add(dword_ptr(m), 5),
        11 => a.xor(byte_ptr(m), 0x55),
        12 => a.mov(word_ptr(m), r8w),
        13 => a.cmp(ecx, dword_ptr(m)),
        14 => a.movdqu(xmm1, xmmword_ptr(m)),
        15 => a.movdqu(xmmword_ptr(m), xmm1),
        16 => a.movaps(xmm2, xmmword_ptr(aligned)),
        17 => a.movaps(xmmword_ptr(aligned), xmm1),
        18 => a.paddq(xmm1, xmmword_ptr(aligned)),
        19 => a.vmovaps(ymm1, ymmword_ptr(aligned)),
        20 => a.mulx(r10, r11, qword_ptr(m)),
        21 | 22 => a.push(v),
        23 => a.push(by),
        24 | 25 => a.pop(v),
        26 => a.add(base, by),
        27 => a.sub(base, by),
        28 => a.lea(base, base + by),
        29 => a.inc(rsi),
        30 => a.xchg(rdi, rbx),
        31 => a.mov(rbx, r13),
        32 => {
            // Over one access.
            let mut over = a.create_label();
            a.test(v, 1 << below(random, 4) as i32)?;
            a.jne(over)?;
            a.mov(qword_ptr(m), v)?;
            a.set_label(&mut over)?;
            a.nop()
        }
        33 => {
            let mut on = a.create_label();
            a.call(on)?;
            a.set_label(&mut on)?;
            a.pop(rax)
        }
        34 => {
            // Accessed and dirty bits go; the TLB does not know.
            let table = TABLE[below(random, 2) as usize];
            a.and(dword_ptr(table + 8 * below(random, COUNT)), !0x60)
        }
        35 => {
            a.mov(edx, 0)?;
            a.div(ecx)
        }
        36 => a.cpuid(),
        39 => {
            a.mov(edx, below(random, 2) as i32)?;
            a.div(qword_ptr(m))
        }
        40 => {
            a.cdq()?;
            a.idiv(dword_ptr(m))
        }
        37 => a.push(qword_ptr(m)),
        38 => a.invlpg(byte_ptr(m)),
        41..=44 => {
            // Runs over which the stack pointer moves once, and a pointer that turns round.
            for _ in 0..2 + below(random, 4) {
                match below(random, 8) {
                    0..=2 => a.push([v, r10, r14, r15, rsp][below(random, 5) as usize])?,
                    3 => a.push(by)?,
                    4 => a.pop(base)?,
                    _ => a.pop([v, r10, r11][below(random, 3) as usize])?,
                }
            }
            Ok(())
        }
        45..=48 => state_registers(a, random),
        _ => a.mov(rax, qword_ptr(r12)),
    }
}

fn program(seed: u64) -> Vec<u8> {
    let mut random = seed;
    let random = &mut random;
    let mut a = CodeAssembler::new(64).unwrap();
    let near_end = |random: &mut u64| {
        let region = if below(random, 4) == 0 { RIVALS } else { PAGES };
        let align = if below(random, 4) == 0 { 0 } else { 15 };
        region + 0x1000 * (1 + below(random, COUNT - 1)) + (below(random, 160) & !align) - 80
    };
    // RCX is a divisor sometimes; R14 wanders on with each round.
    let mut make = || {
        for base in BASES {
            a.mov(base, near_end(random))?;
            let step = [r14 * 8, r14 * 8, r14 * 4, r14 * 1][below(random, 4) as usize];
            if below(random, 3) > 0 {
                a.lea(base, base + step)?;
            }
        }
        a.mov(r12, RIVALS + 0x1000 * below(random, COUNT))?;
        a.add(r14, 2)?;
        for _ in 0..3 + below(random, 24) {
            item(&mut a, random)?;
        }
        a.jmp(CODE)
    };
    make().unwrap();
    a.assemble(CODE).unwrap()
}

fn run(engine: Engine, seed: u64, code: &[u8], n: u64, slice: u64) -> (Outcome, u64) {
    let mut h = Harness::long().code(code);
    h.p.set_engine(engine).unwrap();
    h.p.set_heat(1);
    if seed % 4 == 2 {
        h.p.assume_other_maker();
    }
    let mut random = seed ^ 0x5555;
    let random = &mut random;
    for (table, linear) in TABLE.into_iter().zip([PAGES, RIVALS]) {
        h.set_u64(TABLES + 0x2000 + 8 * (linear >> 21), table | 7);
        for i in 0..COUNT {
            let page = DATA + 0x1000 * below(random, 2 * COUNT);
            let entry = match below(random, 40) {
                0 => page | 1,
                1 => page,
                2 => RAM | 3,
                3 => CODE | 3,
                4 => (RAM - 0x1000) | 3,
                _ => page | 3,
            };
            h.set_u64(table + 8 * i, entry);
        }
    }
    for at in (DATA..DATA + 0x1000 * 2 * COUNT).step_by(8) {
        h.set_u64(at, splitmix64(random));
    }
    for r in [reg::RAX, reg::RCX, reg::RDX, 8, 9, 10, 11] {
        h.set_reg(r, splitmix64(random));
    }
    h.set_reg(15, below(random, 40));
    h.set_reg(14, 0);
    let stop = h.run_in_slices(n, slice);
    let kept = [DATA..DATA + 0x1000 * 2 * COUNT, TABLE[0]..TABLE[1] + 0x1000, CODE..CODE + 0x1000, RAM - 0x1000..RAM];
    (h.outcome(stop, kept), h.p.blocks_translated())
}

fn listing(code: &[u8]) -> String {
    let mut formatter = IntelFormatter::new();
    let line = |i: iced_x86::Instruction| {
        let mut line = format!("{:#x} ", i.ip());
        formatter.format(&i, &mut line);
        line + "\n"
    };
    iced_x86::Decoder::with_ip(64, code, CODE, 0).into_iter().map(line).collect()
}

#[test]
fn shared_checks_change_nothing() {
    let times = std::env::var("SOFTMETAL_FUZZ").ok().and_then(|v| v.parse().ok()).unwrap_or(1);
    let alone = std::env::var("SOFTMETAL_SEED").ok().and_then(|v| v.parse().ok());
    let seeds = alone.map_or(0..800 * times, |s| s..s + 1);
    let (mut translated, mut long) = (0, 0);
    for seed in seeds {
        let code = program(seed);
        let slice = if seed % 4 == 0 { 300 } else { u64::MAX };
        let same = |n| {
            let (right, got) = (run(Engine::Interpreter, seed, &code, n, u64::MAX).0, run(Engine::Translator, seed, &code, n, slice));
            (right.icount, right == got.0, got.1)
        };
        let (icount, equal, blocks) = same(3000);
        if !equal {
            let mut first = 3000;
            let mut step = 2048;
            while step > 0 {
                first -= if first > step && !same(first - step).1 { step } else { 0 };
                step /= 2;
            }
            let before = run(Engine::Interpreter, seed, &code, first - 1, u64::MAX).0;
            let right = run(Engine::Interpreter, seed, &code, first, u64::MAX).0;
            let wrong = run(Engine::Translator, seed, &code, first, slice).0;
            panic!("seed {seed}, instruction {first} at {:#x}: {right:x?}\nand not {wrong:x?}\n{}", before.rip, listing(&code));
        }
        translated += blocks;
        long += u64::from(icount > 1000);
    }
    assert!(translated > 400 && long > 100 || alone.is_some(), "{translated} blocks, {long} long programs");
}
