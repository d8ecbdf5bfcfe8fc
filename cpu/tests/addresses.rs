//! Addresses at edges: not canonical, across pages of which one is absent, across the ends of segments; and repeated string
//! instructions that go on where they were stopped. With every engine.

use iced_x86::code_asm::{CodeAssembler, ax, cl, dword_ptr, eax, ptr, qword_ptr, rax, rbx, rcx, rsp, tbyte_ptr, xmm0, xmmword_ptr};
use iced_x86::{Decoder, IcedError};
use softmetal_cpu::fault::vector;
use softmetal_cpu::state::{TableRegister, bits, reg, seg};
use softmetal_cpu::testing::{CODE, Harness, TABLES};
use softmetal_cpu::{Engine, Segment, Stop, flags};

const ENGINES: [Engine; 2] = [Engine::Interpreter, Engine::Translator];
/// A page table for linear addresses from `PAGES` on; where its pages are.
const TABLE: u64 = 0x30_0000;
const PAGES: u64 = 0x40_0000;
const FRAMES: u64 = 0x60_0000;
/// The end of the lower half of the canonical addresses, with 4-level paging.
const EDGE: u64 = 1 << 47;

type Body<'a> = &'a dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// 64-bit mode with the pages from `PAGES` on that are named, one after the other.
fn paged(engine: Engine, present: [bool; 4]) -> Harness {
    let mut h = Harness::long().on(engine);
    h.set_u64(TABLES + 0x2000 + 8 * (PAGES >> 21), TABLE | 7);
    for (n, is) in present.into_iter().enumerate() {
        let n = n as u64;
        h.set_u64(TABLE + 8 * n, (FRAMES + 0x1000 * n) | if is { 7 } else { 0 });
    }
    h
}

fn raised(h: &Harness) -> Option<(u64, u8, Option<u32>)> {
    h.exception().map(|(rip, e)| (rip - CODE, e.vector, e.error))
}

/// SDM 1, 3.3.7.1: #GP(0), or #SS(0) for what goes by the stack segment; by the last instruction of each case.
#[test]
fn addresses_that_are_not_canonical() {
    let (gp, ss) = (Some(vector::GP), Some(vector::SS));
    // RBX is not canonical with 4 levels of tables, RCX with 5, which registers of a processor that can have them allow;
    // RAX is a place in memory.
    let cases: [(&str, Option<u8>, Body); 20] = [
        ("load", gp, &|a| a.mov(rax, qword_ptr(rbx))),
        ("store", gp, &|a| a.mov(qword_ptr(rbx), rax)),
        ("across the edge", gp, &|a| a.mov(rax, qword_ptr(rbx - 4))),
        ("a vector across the edge", gp, &|a| a.movups(xmm0, xmmword_ptr(rbx - 8))),
        ("by RSP", ss, &|a| {
            a.mov(rsp, rbx)?;
            a.mov(rax, qword_ptr(rsp))
        }),
        ("PUSH", ss, &|a| {
            a.lea(rsp, ptr(rbx + 8))?;
            a.push(rax)
        }),
        ("POP", ss, &|a| {
            a.mov(rsp, rbx)?;
            a.pop(rax)
        }),
        ("PUSH of memory: the source comes first", gp, &|a| a.push(qword_ptr(rbx))),
        ("JMP", gp, &|a| a.jmp(rbx)),
        ("CALL", gp, &|a| a.call(rbx)),
        ("RET", gp, &|a| {
            a.push(rbx)?;
            a.ret()
        }),
        ("IRETQ", gp, &|a| {
            for word in [0x10, 0, 2, 8] {
                a.push(word)?;
            }
            a.push(rbx)?;
            a.iretq()
        }),
        ("SYSRET", gp, &|a| {
            a.mov(rcx, rbx)?;
            a.sysretq()
        }),
        ("LGDT", gp, &|a| {
            a.mov(qword_ptr(rax + 2), rcx)?;
            a.lgdt(ptr(rax))
        }),
        ("LIDT", gp, &|a| {
            a.mov(qword_ptr(rax + 2), rcx)?;
            a.lidt(ptr(rax))
        }),
        ("WRFSBASE", gp, &|a| a.wrfsbase(rcx)),
        ("INVLPG is no access", None, &|a| a.invlpg(ptr(rbx))),
        ("nor is a prefetch", None, &|a| a.prefetcht0(ptr(rbx))),
        ("CLFLUSH is one", gp, &|a| a.clflush(ptr(rbx))),
        ("FSTP of 80 bits", gp, &|a| a.fstp(tbyte_ptr(rbx - 6))),
    ];
    for engine in ENGINES {
        for (name, expected, body) in cases {
            let mut h = Harness::long().asm(body).on(engine);
            h.p.cpu.state.cr4 |= bits::CR4_FSGSBASE;
            h.set_reg(reg::RBX, EDGE);
            h.set_reg(reg::RCX, 1 << 62);
            h.set_reg(reg::RAX, 0x9000);
            let code = h.assemble(CODE, body);
            let instructions: Vec<_> = Decoder::with_ip(64, &code, CODE, 0).into_iter().collect();
            h.run(instructions.len() as u64);
            let last = instructions[instructions.len() - 1].ip();
            assert_eq!(raised(&h), expected.map(|v| (last - CODE, v, Some(0))), "{engine:?}: {name}");
        }
        // The last instruction below the edge runs; the fetch of the next one faults. A page at the very end.
        let mut h = Harness::long().on(engine);
        for (at, entry) in [(TABLES + 8 * 255, 0x1_1000 | 7), (0x1_1ff8, 0x1_2007), (0x1_2ff8, 0x1_3007), (0x1_3ff8, FRAMES | 7)] {
            h.set_u64(at, entry);
        }
        h.set_mem(FRAMES + 0xffc, &[0x90; 4]);
        let mut state = h.p.cpu.state.clone();
        state.rip = EDGE - 4;
        h.p.load(state);
        assert_eq!((h.run(4), h.p.icount()), (Stop::Budget, 4), "{engine:?}");
        assert_eq!(h.run(1), Stop::Shutdown);
        assert_eq!(h.exception().map(|(rip, e)| (rip, e.vector, e.error)), Some((EDGE, vector::GP, Some(0))), "{engine:?}");
    }
}

/// An access across two pages of which the second is absent: CR2 is the first byte there, and nothing has been written.
#[test]
fn accesses_across_into_an_absent_page() {
    const AT: u64 = 0xffc;
    let cases: [(&str, bool, Body); 18] = [
        ("MOV", true, &|a| a.mov(qword_ptr(rbx), rax)),
        ("a load", false, &|a| a.mov(rax, qword_ptr(rbx))),
        ("ADD", true, &|a| a.add(qword_ptr(rbx), rax)),
        ("LOCK XADD", true, &|a| a.lock().xadd(qword_ptr(rbx), rax)),
        ("XCHG", true, &|a| a.xchg(qword_ptr(rbx), rax)),
        ("CMPXCHG", true, &|a| a.cmpxchg(qword_ptr(rbx), rcx)),
        ("CMPXCHG8B", true, &|a| a.cmpxchg8b(qword_ptr(rbx))),
        ("BTS", true, &|a| a.bts(qword_ptr(rbx), 3)),
        ("SHL", true, &|a| a.shl(qword_ptr(rbx), cl)),
        ("MOVUPS", true, &|a| a.movups(xmmword_ptr(rbx), xmm0)),
        ("FSTP of 80 bits", true, &|a| a.fstp(tbyte_ptr(rbx))),
        ("FNSTENV", true, &|a| a.fnstenv(ptr(rbx))),
        ("SGDT", true, &|a| a.sgdt(ptr(rbx))),
        ("POP", true, &|a| a.pop(qword_ptr(rbx))),
        ("MOVSQ", true, &|a| a.movsq()),
        ("STOSQ", true, &|a| a.stosq()),
        ("MOVBE", true, &|a| a.movbe(qword_ptr(rbx), rax)),
        ("MOVNTI", true, &|a| a.movnti(qword_ptr(rbx), rax)),
    ];
    for engine in ENGINES {
        for (name, store, body) in cases {
            let mut h = paged(engine, [true, false, false, false]);
            let code = h.assemble(CODE, body);
            h.set_mem(CODE, &code);
            let pattern: Vec<u8> = (0..16).map(|n| 0xa0 + n).collect();
            h.set_mem(FRAMES + 0xff0, &pattern);
            h.set_mem(FRAMES + 0x1000, &pattern);
            for (r, v) in [(reg::RBX, PAGES + AT), (reg::RDI, PAGES + AT), (reg::RSI, 0x9000), (reg::RCX, 5), (reg::RAX, !0)] {
                h.set_reg(r, v);
            }
            let before = h.p.cpu.state.regs;
            assert_eq!(h.run(1), Stop::Shutdown, "{engine:?}: {name}");
            assert_eq!(raised(&h), Some((0, vector::PF, Some(if store { 2 } else { 0 }))), "{engine:?}: {name}");
            assert_eq!(h.p.cpu.state.cr2, PAGES + 0x1000, "{engine:?}: {name}");
            let mut left = [0; 16];
            h.mem(FRAMES + 0xff0, &mut left);
            assert_eq!(left.to_vec(), pattern, "{engine:?}: {name}");
            assert_eq!(h.p.cpu.state.regs[..16], before[..16], "{engine:?}: {name}");
        }
    }
}

/// A repeated string instruction stops at each element that faults with RCX, RSI and RDI at it, and goes on to the end once
/// the page is there; forwards and backwards, with elements that lie across pages.
#[test]
fn string_instructions_go_on_after_any_fault() {
    const COUNT: u64 = 0x300;
    /// A name, code, bytes of an element, whether RSI is used, the error code of a fault by RDI if that is.
    type Case = (&'static str, &'static [u8], u64, bool, Option<u32>);
    let cases: [Case; 13] = [
        ("movsb", &[0xf3, 0xa4], 1, true, Some(2)),
        ("movsw", &[0x66, 0xf3, 0xa5], 2, true, Some(2)),
        ("movsq", &[0xf3, 0x48, 0xa5], 8, true, Some(2)),
        ("stosb", &[0xf3, 0xaa], 1, false, Some(2)),
        ("stosd", &[0xf3, 0xab], 4, false, Some(2)),
        ("stosq", &[0xf3, 0x48, 0xab], 8, false, Some(2)),
        ("lodsd", &[0xf3, 0xad], 4, true, None),
        ("cmpsb", &[0xf3, 0xa6], 1, true, Some(0)),
        ("cmpsq", &[0xf3, 0x48, 0xa7], 8, true, Some(0)),
        ("scasw", &[0x66, 0xf3, 0xaf], 2, false, Some(0)),
        ("insb", &[0xf3, 0x6c], 1, false, Some(2)),
        ("outsd", &[0xf3, 0x6f], 4, true, None),
        ("outsb", &[0xf3, 0x6e], 1, true, None),
    ];
    for engine in ENGINES {
        for backwards in [false, true] {
            for (name, code, size, source, destination) in cases {
                let what = format!("{engine:?}: {name}, backwards {backwards}");
                let mut h = paged(engine, [false; 4]).code(&[code, &[0xf4]].concat());
                // The source lies across the first two pages, the destination across the other two; some elements do too.
                let off = if size == 1 { 0 } else { 1 };
                let start = |page: u64| PAGES + (page + 1) * 0x1000 - off - size * (COUNT / 2);
                let first = |page: u64| if backwards { start(page) + size * (COUNT - 1) } else { start(page) };
                for n in 0..0x1000_u64 {
                    h.set_mem(FRAMES + n, &[0x77]);
                    h.set_mem(FRAMES + 0x1000 + n, &[0x77]);
                }
                if name.starts_with("cmps") || name.starts_with("scas") {
                    h.set_mem(FRAMES + 0x2000, &[0x77; 0x2000]);
                }
                for (r, v) in
                    [(reg::RSI, first(0)), (reg::RDI, first(2)), (reg::RCX, COUNT), (reg::RAX, 0x7777_7777_7777_7777), (reg::RDX, 0x80)]
                {
                    h.set_reg(r, v);
                }
                h.edge.lock().unwrap().ins = std::iter::repeat_n(0x77, COUNT as usize).collect();
                h.p.cpu.state.eflags |= if backwards { flags::DF } else { 0 };
                let state = h.p.cpu.state.clone();
                h.p.load(state);
                let mut faults = 0;
                while h.run(2 * COUNT) == Stop::Shutdown {
                    faults += 1;
                    let (rip, e) = h.exception().unwrap();
                    let page = (e.address - PAGES) >> 12;
                    let done = COUNT - h.reg(reg::RCX);
                    let step = |v: u64| if backwards { v - size * done } else { v + size * done };
                    assert_eq!((rip, e.vector), (CODE, vector::PF), "{what}");
                    assert_eq!(e.error, if page < 2 { Some(0) } else { destination }, "{what}");
                    assert_eq!(h.reg(reg::RSI), if source { step(first(0)) } else { first(0) }, "{what}");
                    assert_eq!(h.reg(reg::RDI), if destination.is_some() { step(first(2)) } else { first(2) }, "{what}");
                    let at = h.reg(if page < 2 { reg::RSI } else { reg::RDI });
                    assert!((at..at + size).contains(&e.address), "{what}: {:#x} for {at:#x}", e.address);
                    h.set_u64(TABLE + 8 * page, (FRAMES + 0x1000 * page) | 7);
                    let mut state = h.p.cpu.state.clone();
                    state.rip = CODE;
                    h.p.load(state);
                    assert!(faults <= 4, "{what}");
                }
                assert_eq!(faults, 2 * (u32::from(source) + u32::from(destination.is_some())), "{what}");
                assert_eq!(h.reg(reg::RCX), 0, "{what}");
                if destination == Some(2) {
                    let mut bytes = vec![0; (size * COUNT) as usize];
                    h.mem(start(2) - PAGES + FRAMES, &mut bytes);
                    assert!(bytes.iter().all(|b| *b == 0x77), "{what}");
                }
                if name.starts_with("outs") {
                    assert_eq!(h.edge.lock().unwrap().outs.len() as u64, COUNT, "{what}");
                }
            }
        }
    }
}

/// Offsets of 16 and 32 bits wrap at the end of the address, not of the segment, which the limit guards.
#[test]
fn what_wraps_and_what_does_not() {
    for engine in ENGINES {
        // A word at FFFF, 16-bit addresses: #GP, whatever the limit's reach; with a limit of 4 GiB it is read across 64 KiB.
        let word = |limit: u32, code: &[u8]| {
            let mut h = Harness::real().code(code).on(engine);
            h.p.cpu.set_segment(seg::DS, Segment { limit, ..Segment::real(0x2000) });
            h.p.cpu.state.idtr.limit = 0;
            h.set_mem(0x2_ffff, &[0x34, 0x12]);
            h.set_reg(reg::RBX, 0xfff0);
            h.set_reg(reg::RSI, 0x1f);
            h.run(1);
            (h.exception().map(|(_, e)| e.vector), h.reg(reg::RAX) as u16)
        };
        // MOV AX, [FFFF]; MOV AX, [BX + F]; MOV AL, [BX + SI], which is [F].
        assert_eq!(word(0xffff, &[0xa1, 0xff, 0xff]), (Some(vector::GP), 0), "{engine:?}");
        assert_eq!(word(0xffff, &[0x8b, 0x47, 0x0f]), (Some(vector::GP), 0), "{engine:?}");
        assert_eq!(word(u32::MAX, &[0x8b, 0x47, 0x0f]), (None, 0x1234), "{engine:?}");
        assert_eq!(word(0xffff, &[0x8a, 0x00]), (None, 0), "{engine:?}");

        // 32-bit code: [EAX + 8] wraps at 4 GiB; an access across it does so with a segment of 4 GiB, as there is no limit.
        let flat = |base: u32, displacement: u8| {
            let mut h = Harness::protected32().code(&[0x8b, 0x48, displacement]).on(engine);
            h.set_u64(0, 0x8877_6655_4433_2211);
            h.set_reg(reg::RAX, base.into());
            h.run(1);
            (h.exception().map(|(_, e)| e.vector), h.reg(reg::RCX) as u32)
        };
        assert_eq!(flat(0xffff_fff9, 8), (None, 0x5544_3322), "{engine:?}");

        // A segment whose base is not 0: linear addresses wrap at 4 GiB.
        let mut h = Harness::protected32().asm(|a| a.mov(eax, dword_ptr(0x2000).es())).on(engine);
        let es = Segment { base: 0xffff_f000, ..h.p.cpu.state.segments[seg::ES] };
        h.p.cpu.set_segment(seg::ES, es);
        h.set_u64(0x1000, 0x1234_5678);
        h.run(1);
        assert_eq!(h.reg(reg::RAX), 0x1234_5678, "{engine:?}");

        // IP: a jump from the end of the segment leads to its beginning; what runs over the end is #GP.
        let mut h = Harness::real().on(engine);
        h.set_mem(CODE + 0xfffe, &[0xeb, 0x02]);
        h.set_mem(CODE + 2, &[0x90]);
        h.p.cpu.state.rip = 0xfffe;
        assert_eq!((h.run(2), h.p.cpu.state.rip), (Stop::Budget, 3), "{engine:?}");
        let mut h = Harness::real().on(engine);
        h.set_mem(CODE + 0xfffe, &[0x90, 0xb8, 1, 2]);
        h.p.cpu.state.rip = 0xfffe;
        h.p.cpu.state.idtr = TableRegister { base: 0, limit: 0 };
        assert_eq!(h.run(2), Stop::Shutdown, "{engine:?}");
        assert_eq!(h.exception().map(|(rip, e)| (rip, e.vector)), Some((0xffff, vector::GP)), "{engine:?}");

        // A stack of 16 bits: SP wraps, the upper half of ESP stays.
        let mut h = Harness::protected16().asm(|a| a.push(ax)).on(engine);
        h.set_reg(reg::RSP, 0x1234_0000);
        h.set_reg(reg::RAX, 0xbeef);
        h.run(1);
        assert_eq!((h.reg(reg::RSP), h.u64(0xfff8) >> 48), (0x1234_fffe, 0xbeef), "{engine:?}");
    }
}
