//! What the time-stamp counter shows in each engine and however a run is cut.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use iced_x86::code_asm::*;
use softmetal_cpu::state::reg;
use softmetal_cpu::testing::Harness;
use softmetal_cpu::{Engine, Stop};

const TSC_ADJUST: i32 = 0x3b;
const TSC_AUX: i32 = 0xc000_0103_u32 as i32;
const ROUNDS: u64 = 100;

fn program(a: &mut CodeAssembler) -> Result<(), iced_x86::IcedError> {
    let (mut again, mut all) = (a.create_label(), a.create_label());
    a.mov(r9d, ROUNDS as i32)?;
    a.set_label(&mut again)?;
    a.pause()?;
    a.cmp(r9d, 50)?;
    a.rdtsc()?;
    // The flags of the comparison are still there.
    a.adc(r8, rax)?;
    a.rol(r8, 7)?;
    a.xor(r8, rdx)?;
    a.mov(rcx, -1i64)?;
    a.rdtscp()?;
    a.lea(r8, r8 + rcx)?;
    a.lea(r8, r8 + rax * 2)?;
    a.test(r9d, 7)?;
    a.jne(all)?;
    // The counter jumps, into its upper half at last; and CR4.TSD comes and goes, which is nothing to CPL 0.
    a.mov(ecx, TSC_ADJUST)?;
    a.mov(eax, r9d)?;
    a.shl(eax, 26)?;
    a.mov(edx, r9d)?;
    a.wrmsr()?;
    a.mov(ecx, TSC_AUX)?;
    a.mov(eax, r9d)?;
    a.xor(edx, edx)?;
    a.wrmsr()?;
    a.mov(rax, cr4)?;
    a.xor(eax, 4)?;
    a.mov(cr4, rax)?;
    a.set_label(&mut all)?;
    a.dec(r9d)?;
    a.jne(again)?;
    a.rdtsc()?;
    a.hlt()
}

fn outcome(engine: Engine, slice: u64) -> ([u64; 4], u64) {
    let mut h = Harness::long().asm(program);
    h.p.set_engine(engine).unwrap();
    h.p.set_heat(1);
    while h.run(slice) == Stop::Budget {
        assert!(h.p.icount() < 100_000);
    }
    ([h.reg(reg::RAX), h.reg(reg::RDX), h.reg(8), h.p.icount()], h.p.blocks_translated())
}

#[test]
fn time_is_the_same_in_each_engine() {
    let (right, _) = outcome(Engine::Interpreter, 50_000);
    assert!(right[3] > ROUNDS * 9, "{right:x?}");
    for (engine, slice) in [
        (Engine::Interpreter, 1),
        (Engine::Interpreter, 17),
        (Engine::Translator, 1),
        (Engine::Translator, 700),
        (Engine::Translator, 1009),
        (Engine::Translator, 50_000),
    ] {
        let (got, blocks) = outcome(engine, slice);
        assert_eq!(got, right, "{engine:?} in slices of {slice}");
        assert_eq!(blocks > 3, engine == Engine::Translator && slice > 1, "{engine:?}: {blocks} blocks");
    }
}
