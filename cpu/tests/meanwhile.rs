//! Blocks that a thread translates while the interpreter goes on with them: whatever happens meanwhile, the guest sees nothing of it.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use iced_x86::code_asm::*;
use softmetal_bus::splitmix64;
use softmetal_cpu::state::reg;
use softmetal_cpu::testing::{CODE, Harness};
use softmetal_cpu::{Engine, Stop};

/// Of a run of so many instructions, the translator is asked about the first block alone: less are left than the longest block
/// may have.
const ONCE: u64 = 256 + 2;
const FUNCTIONS: u64 = 0x3_0000;
const TEXTS: u64 = 0x5_0000;

/// A machine whose thread translates what has been interpreted `heat` times.
fn meanwhile(mut h: Harness, heat: u32) -> Harness {
    h.p.set_engine(Engine::Translator).unwrap();
    h.p.set_heat(heat);
    h.p.use_thread(true);
    h
}

/// Adds 1 to RAX for ever.
fn counting() -> Harness {
    Harness::long().asm(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(rax)?;
        a.jmp(again)
    })
}

/// `counting`, with the translation of its loop done but not taken over.
fn with_a_translation_under_way() -> Harness {
    let mut h = meanwhile(counting(), 2);
    for _ in 0..3 {
        assert_eq!((h.run(ONCE), h.p.blocks_translated()), (Stop::Budget, 0));
    }
    h.p.finish_translations();
    assert_eq!(h.p.blocks_translated(), 0);
    h
}

/// Runs `n` instructions of `counting`, at whose first it is.
fn run_on(h: &mut Harness, n: u64) {
    let before = h.reg(reg::RAX);
    assert_eq!((h.p.cpu.state.rip, h.run(n)), (CODE, Stop::Budget));
    assert_eq!(h.reg(reg::RAX), before + n.div_ceil(2));
}

#[test]
fn a_translation_counts_from_the_next_run_on() {
    let mut h = with_a_translation_under_way();
    run_on(&mut h, ONCE);
    assert_eq!(h.p.blocks_translated(), 1);
    run_on(&mut h, 100_000);
}

#[test]
fn the_translation_of_code_that_was_overwritten_is_dropped() {
    let mut h = with_a_translation_under_way();
    let dec = h.assemble(CODE, |a| a.dec(rax));
    h.set_mem(CODE, &dec);
    let before = h.reg(reg::RAX);
    assert_eq!(h.run(ONCE), Stop::Budget);
    assert_eq!((h.reg(reg::RAX), h.p.blocks_translated()), (before - ONCE / 2, 0));
}

#[test]
fn a_translation_outlives_all_other_code_but_not_its_block() {
    // All blocks are forgotten.
    let mut h = with_a_translation_under_way();
    h.p.forget_code();
    run_on(&mut h, ONCE);
    assert_eq!(h.p.blocks_translated(), 0);
    // The processor's state is another; the block is still there.
    let mut h = with_a_translation_under_way();
    h.p.reset();
    h.p.load(counting().p.cpu.state.clone());
    run_on(&mut h, ONCE);
    assert_eq!(h.p.blocks_translated(), 1);
}

#[test]
fn machines_end_and_engines_change_while_translations_are_under_way() {
    for n in 0..50 {
        let mut h = meanwhile(counting(), 0);
        h.run(ONCE + 2 * n);
        if n % 2 == 0 {
            h.p.finish_translations();
        }
        match n % 5 {
            0 => h.p.abandon(),
            1 => drop(h),
            2 => {
                h.p.set_engine(Engine::Interpreter).unwrap();
                run_on(&mut h, 1000);
            }
            3 => {
                h.p.set_engine(Engine::Translator).unwrap();
                run_on(&mut h, 1000);
            }
            _ => {
                h.p.use_thread(false);
                run_on(&mut h, 1000);
                assert!(h.p.blocks_translated() > 0);
            }
        }
    }
}

/// Calls eight functions for ever, and now and then writes one of them anew from one of two texts, by what random bits (of a
/// multiplicative sequence) say.
fn rewriting() -> Harness {
    let mut h = Harness::long().asm(|a| {
        let (mut again, mut on) = (a.create_label(), a.create_label());
        a.mov(r8, 0x9e37_79b9_7f4a_7c15u64)?;
        a.set_label(&mut again)?;
        a.imul_3(r9, r8, 0x3779_b9d1)?;
        a.lea(r8, r9 + 0x1357)?;
        a.mov(rbx, r8)?;
        a.shr(rbx, 40)?;
        a.mov(rdi, rbx)?;
        a.and(edi, 7)?;
        a.shl(edi, 9)?;
        a.add(edi, FUNCTIONS as i32)?;
        a.test(ebx, 0x1f0)?;
        a.jne(on)?;
        a.mov(esi, ebx)?;
        a.and(esi, 0x200)?;
        a.add(esi, TEXTS as i32)?;
        a.mov(ecx, 4)?;
        a.push(rdi)?;
        a.rep().movsq()?;
        a.pop(rdi)?;
        a.set_label(&mut on)?;
        a.call(rdi)?;
        a.jmp(again)
    });
    for n in 0..2u64 {
        let mut text = h.assemble(0, |a| {
            if n == 0 {
                a.add(rax, rbx)?
            } else {
                a.xor(rax, rbx)?
            }
            a.rol(rax, 7)?;
            a.cmp(eax, 0)?;
            let mut over = a.create_label();
            a.js(over)?;
            a.inc(rdx)?;
            a.set_label(&mut over)?;
            a.ret()
        });
        text.resize(32, 0x90);
        h.set_mem(TEXTS + 0x200 * n, &text);
        (0..8).filter(|f| f % 2 == n).for_each(|f| h.set_mem(FUNCTIONS + 0x200 * f, &text));
    }
    h
}

/// The guest writes its code, and so does somebody else; all code is forgotten; runs end anywhere; and translations come at any
/// time.
#[test]
fn code_that_is_rewritten_all_the_time_leaves_the_same_state() {
    let mut translated = 0;
    for seed in 0..40u64 {
        let mut random = seed;
        let mut below = move |n: u64| splitmix64(&mut random) % n;
        let (mut right, mut got) = (rewriting(), meanwhile(rewriting(), below(4) as u32));
        for _ in 0..60 {
            let bits = below(13);
            let n = 1 + below(1 << bits);
            assert_eq!(got.run(n), right.run(n), "seed {seed}");
            if below(3) == 0 {
                got.p.finish_translations();
            }
            let (what, function) = (below(12), FUNCTIONS + 0x200 * below(8));
            for h in [&mut right, &mut got] {
                match what {
                    0 => h.p.forget_code(),
                    1 => {
                        let mut text = [0; 32];
                        h.mem(TEXTS, &mut text);
                        h.set_mem(function, &text);
                    }
                    _ => {}
                }
            }
            let outcome = |h: &Harness| h.outcome(Stop::Budget, [CODE - 0x9000..CODE, FUNCTIONS..FUNCTIONS + 0x1000]);
            assert_eq!(outcome(&got), outcome(&right), "seed {seed}");
        }
        translated += got.p.blocks_translated();
    }
    assert!(translated > 40, "{translated} blocks translated");
}
