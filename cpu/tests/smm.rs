//! System management mode (SDM 3C, chapter 31; APM 2, chapter 10).

use iced_x86::code_asm::*;
use softmetal_bus::attention;
use softmetal_cpu::Stop;
use softmetal_cpu::state::{bits, seg};
use softmetal_cpu::testing::Harness;

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
