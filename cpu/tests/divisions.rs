//! DIV and IDIV by both engines, at the edges of what has a quotient.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use iced_x86::code_asm::*;
use softmetal_cpu::state::{State, reg};
use softmetal_cpu::testing::Harness;
use softmetal_cpu::{Engine, Stop};

/// Where a divisor in memory is.
const DIVISOR: u64 = 0x20_0000;
const EDGES: [u64; 11] = [0, 1, 2, 7, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, i64::MAX as u64, 1 << 63, !0, 0x1234_5678_9abc_def0];

type Divide = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;

fn outcome(h: &mut Harness, fresh: &State, [high, low, by]: [u64; 3]) -> (Stop, Vec<u64>, u64, u64, Option<u8>) {
    h.p.load(fresh.clone());
    h.set_reg(reg::RDX, high);
    h.set_reg(reg::RAX, low);
    h.set_reg(reg::RCX, by);
    h.set_reg(reg::RSI, DIVISOR);
    h.set_u64(DIVISOR, by);
    let stop = h.run(1000);
    let regs = [reg::RAX, reg::RCX, reg::RDX, reg::RSI].map(|r| h.reg(r)).to_vec();
    (stop, regs, h.flags(), h.p.icount(), h.exception().map(|e| e.1.vector))
}

#[test]
fn divisions_agree() {
    let forms: [(&str, Divide); 10] = [
        ("div ecx", |a| a.div(ecx)),
        ("div rcx", |a| a.div(rcx)),
        ("idiv ecx", |a| a.idiv(ecx)),
        ("idiv rcx", |a| a.idiv(rcx)),
        ("idiv rax", |a| a.idiv(rax)),
        ("div rax", |a| a.div(rax)),
        ("div dword [rsi]", |a| a.div(dword_ptr(rsi))),
        ("div qword [rsi]", |a| a.div(qword_ptr(rsi))),
        ("idiv dword [rsi]", |a| a.idiv(dword_ptr(rsi))),
        ("idiv qword fs:[rsi]", |a| a.idiv(qword_ptr(rsi).fs())),
    ];
    for (name, divide) in forms {
        let mut engines = [Engine::Interpreter, Engine::Translator].map(|engine| {
            let mut h = Harness::long().asm(|a| {
                a.cmp(rax, rcx)?;
                divide(a)?;
                a.hlt()
            });
            h.p.set_engine(engine).unwrap();
            h.p.set_heat(0);
            h
        });
        let fresh = engines[0].p.cpu.state.clone();
        let (mut divided, mut refused) = (0, 0);
        for high in EDGES {
            for low in EDGES {
                for by in EDGES {
                    let case = [high, low, by];
                    let [right, got] = engines.each_mut().map(|h| outcome(h, &fresh, case));
                    assert_eq!(got, right, "{name} of {high:#x}:{low:#x} by {by:#x}");
                    *(if right.0 == Stop::Halted { &mut divided } else { &mut refused }) += 1;
                }
            }
        }
        assert!(divided > 20 && refused > 20, "{name}: {divided} quotients, {refused} exceptions");
        assert!(engines[1].p.blocks_translated() > 0, "{name}");
    }
}
