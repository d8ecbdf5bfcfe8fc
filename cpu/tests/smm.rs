//! System management mode (SDM 3C, chapter 31; APM 2, chapter 10).

use iced_x86::code_asm::*;
use softmetal_bus::attention;
use softmetal_cpu::exec::cpuid::Model;
use softmetal_cpu::state::{bits, reg, seg};
use softmetal_cpu::testing::{CODE, Harness};
use softmetal_cpu::{Engine, Stop};

/// SMBASE after RESET.
const SMBASE: u64 = 0x3_0000;
/// The revision's place in the map, from SMBASE on.
const REVISION: u64 = 0xfefc;

fn handler(h: &mut Harness, base: u64, body: impl FnOnce(&mut CodeAssembler)) {
    let mut a = CodeAssembler::new(16).unwrap();
    body(&mut a);
    a.rsm().unwrap();
    h.set_mem(base + 0x8000, &a.assemble(base + 0x8000).unwrap());
}

/// The handler changes nothing: all that is architectural is as before, of every mode.
#[test]
fn what_is_interrupted_goes_on() {
    for h in [Harness::real(), Harness::protected32(), Harness::long()] {
        let mut h = h.asm(|a| {
            a.inc(ecx)?;
            a.inc(ecx)
        });
        handler(&mut h, SMBASE, |a| a.inc(ebx).unwrap());
        h.run(1);
        let before = h.p.cpu.state.clone();
        h.p.cpu.attention.raise(attention::SMI);
        // The delivery, then INC and RSM.
        assert_eq!(h.p.run(before.icount + 1), Stop::Budget);
        let s = &h.p.cpu.state;
        assert!(s.smm.active && s.nmi_blocked && !s.mode.protected());
        assert_eq!((s.rip, s.segments[seg::CS].base, s.cr4, s.efer, s.eflags, s.dr[7]), (0x8000, SMBASE, 0, 0, 2, 0x400));
        assert_eq!(s.cr0, before.cr0 & !(bits::CR0_PE | bits::CR0_PG | bits::CR0_EM | bits::CR0_TS));
        assert_eq!((h.u64(SMBASE + 0xff78), h.u64(SMBASE + 0xff58)), (before.rip, before.cr0));
        assert_eq!(h.u64(SMBASE + REVISION) as u32, 0x2_0064);
        h.p.run(before.icount + 3);
        let s = &h.p.cpu.state;
        assert!(!s.smm.active && !s.nmi_blocked);
        assert_eq!((s.rip, s.cr0, s.cr3, s.cr4, s.efer, s.cpl), (before.rip, before.cr0, before.cr3, before.cr4, before.efer, before.cpl));
        assert_eq!((s.segments, s.gdtr, s.idtr, s.mode, s.dr), (before.segments, before.gdtr, before.idtr, before.mode, before.dr));
        h.p.run(before.icount + 4);
        assert_eq!(h.p.cpu.state.regs[1], before.regs[1] + 1);
    }
}

#[test]
fn smbase_moves_and_an_smi_that_comes_meanwhile_waits() {
    const NEW: u64 = 0x5_0000;
    let mut h = Harness::real().asm(|a| {
        a.nop()?;
        a.nop()
    });
    handler(&mut h, SMBASE, |a| {
        a.mov(ebx, 0xff00u32).unwrap();
        a.mov(dword_ptr(ebx).cs(), NEW as u32).unwrap();
    });
    handler(&mut h, NEW, |a| a.inc(dword_ptr(0x7000)).unwrap());
    h.set_u64(0x7000, 0);
    h.p.cpu.attention.raise(attention::SMI);
    h.run(2);
    h.p.cpu.attention.raise(attention::SMI);
    h.run(2);
    assert_eq!((h.p.cpu.state.smm.active, h.p.cpu.state.smm.base), (false, NEW as u32));
    // The second one is taken before the next instruction.
    h.run(1);
    assert_eq!((h.p.cpu.state.smm.active, h.p.cpu.state.rip), (true, 0x8000));
    h.run(2);
    assert_eq!((h.p.cpu.state.smm.active, h.u64(0x7000)), (false, 1));
}

#[test]
fn hlt_goes_on_unless_the_handler_says_otherwise() {
    for (clear, stop) in [(false, Stop::Halted), (true, Stop::Budget)] {
        let mut h = Harness::long().asm(|a| {
            a.hlt()?;
            a.inc(ecx)
        });
        handler(&mut h, SMBASE, |a| {
            if clear {
                a.mov(ebx, 0xfec9).unwrap();
                a.mov(byte_ptr(ebx).cs(), 0).unwrap();
            }
        });
        assert_eq!(h.run(10), Stop::Halted);
        h.p.cpu.attention.raise(attention::SMI);
        let n = if clear { 4 } else { 10 };
        assert_eq!(h.run(n), stop);
        assert!(!h.p.cpu.state.smm.active);
    }
}

#[test]
fn rsm_is_invalid_outside_and_shuts_down_on_a_state_that_cannot_be() {
    let mut h = Harness::long().asm(|a| a.rsm());
    assert_eq!(h.run(5), Stop::Shutdown);
    assert_eq!(h.exception().map(|(_, e)| e.vector), Some(6));
    // CR0.PG without PE, a reserved bit of CR4, of DR7.
    for (field, value) in [(0xff58u32, 0x8000_0000u32), (0xff48, 0x8000_0000), (0xff64, 1)] {
        let mut h = Harness::long().asm(|a| a.nop());
        handler(&mut h, SMBASE, |a| {
            a.mov(ebx, field).unwrap();
            a.mov(dword_ptr(ebx).cs(), value).unwrap();
        });
        h.p.cpu.attention.raise(attention::SMI);
        assert_eq!(h.run(10), Stop::Shutdown, "{field:#x}");
    }
}

/// APM 2, 10.3.8; SDM 3C, 31.12: the map tells of the access that has raised the SMI, and with FFh in its restart field the
/// instruction (of a repeated one this iteration) is carried out again.
#[test]
fn io_instructions_are_restarted() {
    const PORT: u16 = 0xb2;
    const TIMES: u64 = 0x7000;
    const SEEN: u64 = 0x7100;
    // Code, the map's bits 0 to 6, and what is added to RCX, RSI and RDI in the end.
    let cases: [(&[u8], u32, [i64; 3]); 7] = [
        // OUT B2h, AL; OUT DX, EAX; IN AL, DX; OUTSB; REP OUTSW; INSB; REP INSD
        (&[0xe6, PORT as u8], 0x12, [0; 3]),
        (&[0xef], 0x42, [0; 3]),
        (&[0xec], 0x13, [0; 3]),
        (&[0x6e], 0x16, [0, 1, 0]),
        (&[0xf3, 0x66, 0x6f], 0x2e, [-3, 6, 0]),
        (&[0x6c], 0x17, [0, 0, 1]),
        (&[0xf3, 0x6d], 0x4f, [-3, 0, 12]),
    ];
    // The places in the map, from SMBASE on, of AMD64 and of the Pentium.
    for (model, io_field, restart_field) in [("max", 0xfec0u32, 0xfec8u32), ("pentium3", 0xff18, 0xff00)] {
        for engine in [Engine::Interpreter, Engine::Translator] {
            for (code, what, change) in cases {
                for restart in [false, true] {
                    let mut h = if model == "max" { Harness::long() } else { Harness::protected32() }.code(code).on(engine);
                    h.p.cpu.model = Model::by_name(model).unwrap();
                    // Counts the SMIs, keeps what the map says, and asks for the instruction again twice.
                    handler(&mut h, SMBASE, |a| {
                        let mut done = a.create_label();
                        a.mov(ebx, io_field).unwrap();
                        a.mov(eax, dword_ptr(ebx).cs()).unwrap();
                        a.mov(dword_ptr(SEEN), eax).unwrap();
                        a.inc(dword_ptr(TIMES)).unwrap();
                        a.cmp(dword_ptr(TIMES), 3).unwrap();
                        a.jae(done).unwrap();
                        a.mov(ebx, restart_field).unwrap();
                        a.mov(byte_ptr(ebx).cs(), if restart { 0xff } else { 0 }).unwrap();
                        a.set_label(&mut done).unwrap();
                        a.nop().unwrap();
                    });
                    let registers = [reg::RCX, reg::RSI, reg::RDI];
                    for (r, v) in registers.into_iter().zip([3, 0x9000, 0x9800]).chain([(reg::RDX, PORT.into())]) {
                        h.set_reg(r, v);
                    }
                    h.set_mem(0x9000, &[1, 2, 3, 4, 5, 6]);
                    {
                        let mut edge = h.edge.lock().unwrap();
                        edge.smi_port = Some(PORT);
                        edge.ins = (1..=9).collect();
                    }
                    let repeated = what & 8 != 0;
                    let end = CODE + code.len() as u64;
                    let mut left = 200;
                    while left > 0
                        && (h.p.cpu.state.smm.active || h.p.cpu.state.rip != end || h.p.cpu.attention.bits() & attention::SMI != 0)
                    {
                        h.run(1);
                        left -= 1;
                    }
                    let name = format!("{model}, {engine:?}: {code:x?}, restart {restart}");
                    assert!(left > 0, "{name}");
                    // Without a restart one SMI for each iteration; with it, two more.
                    let accesses = if repeated { 3 } else { 1 } + if restart { 2 } else { 0 };
                    assert_eq!(h.u64(TIMES) as u32, accesses, "{name}");
                    assert_eq!(h.u64(SEEN) as u32, u32::from(PORT) << 16 | what, "{name}");
                    let changed = registers.into_iter().zip([3, 0x9000, 0x9800]).map(|(r, v)| h.reg(r) as i64 - v);
                    assert_eq!(changed.collect::<Vec<_>>(), change, "{name}");
                    let edge = h.edge.lock().unwrap();
                    if what & 1 == 0 {
                        assert_eq!(edge.outs.len() as u32, accesses, "{name}");
                    } else {
                        assert_eq!(9 - edge.ins.len() as u32, accesses, "{name}");
                    }
                }
            }
        }
    }
}
