//! Accessed and dirty bits, who may do what to a page, and what a TLB still knows after each way to make it forget (SDM
//! 3A, 4.6 to 4.10), with every engine.

use iced_x86::IcedError;
use iced_x86::code_asm::{
    CodeAssembler, al, byte_ptr, cr3, cr4, dword_ptr, eax, ecx, ptr, qword_ptr, r8, r9, rax, rbx, rcx, rdi, rdx, xmmword_ptr,
};
use softmetal_cpu::fault::vector;
use softmetal_cpu::state::{Segment, TableRegister, bits, reg, seg};
use softmetal_cpu::testing::{CODE, DESCRIPTORS, Harness, TABLES};
use softmetal_cpu::{Engine, Stop, flags};

const ENGINES: [Engine; 2] = [Engine::Interpreter, Engine::Translator];
/// A page table for linear addresses from `PAGES` on, and its entry in the directory.
const TABLE: u64 = 0x30_0000;
const PAGES: u64 = 0x40_0000;
const DIRECTORY_ENTRY: u64 = TABLES + 0x2000 + 8 * (PAGES >> 21);
/// What the pages are by default.
const FRAMES: u64 = 0x60_0000;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const G: u64 = 1 << 8;
const NX: u64 = 1 << 63;

type Body<'a> = &'a dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// 64-bit mode with `entries` for the pages from `PAGES` on; RBX points to the first one.
fn paged(engine: Engine, entries: &[u64]) -> Harness {
    let mut h = Harness::long().on(engine);
    h.set_u64(DIRECTORY_ENTRY, TABLE | 7);
    for (n, entry) in entries.iter().enumerate() {
        h.set_u64(TABLE + 8 * n as u64, *entry);
    }
    h.set_reg(reg::RBX, PAGES);
    h.p.cpu.state.cr4 |= bits::CR4_PGE;
    h
}

/// Runs code from its beginning to its end, and then some more, which is LFENCE.
fn execute(h: &mut Harness, body: Body) -> Stop {
    let mut bytes = h.assemble(CODE, |a| body(a));
    let instructions = iced_x86::Decoder::with_ip(64, &bytes, CODE, 0).into_iter().count() as u64;
    bytes.extend([0x0f, 0xae, 0xe8].repeat(8));
    h.set_mem(CODE, &bytes);
    h.p.cpu.state.rip = CODE;
    h.run(instructions)
}

fn user(h: &mut Harness) {
    h.p.cpu.state.cpl = 3;
    for (n, selector) in [(seg::CS, 0x33_u16), (seg::SS, 0x2b)] {
        h.p.cpu.set_segment(n, Segment::from_descriptor(selector, DESCRIPTORS[usize::from(selector >> 3)]));
    }
}

#[test]
fn accessed_and_dirty_bits() {
    let cases: [(&str, u64, Body); 14] = [
        ("a load", A, &|a| a.mov(rax, qword_ptr(rbx))),
        ("TEST", A, &|a| a.test(byte_ptr(rbx), 1)),
        ("a store", A | D, &|a| a.mov(byte_ptr(rbx), al)),
        ("a load, then a store", A | D, &|a| {
            a.mov(rax, qword_ptr(rbx))?;
            a.mov(qword_ptr(rbx), rax)
        }),
        ("an addition of 0", A | D, &|a| a.add(dword_ptr(rbx), 0)),
        ("CMPXCHG that fails", A | D, &|a| a.lock().cmpxchg(qword_ptr(rbx), rcx)),
        ("CMPXCHG16B that fails", A | D, &|a| a.lock().cmpxchg16b(xmmword_ptr(rbx))),
        ("BTS of another page's bit", 0, &|a| {
            a.mov(ecx, 8 * 0x1000)?;
            a.bts(dword_ptr(rbx), ecx)
        }),
        ("a prefetch", 0, &|a| a.prefetcht0(byte_ptr(rbx))),
        ("NOP of memory", 0, &|a| a.nop_1(dword_ptr(rbx))),
        ("LEA", 0, &|a| a.lea(rax, ptr(rbx))),
        ("INVLPG", 0, &|a| a.invlpg(ptr(rbx))),
        ("no iteration", 0, &|a| {
            a.mov(rdi, rbx)?;
            a.xor(ecx, ecx)?;
            a.rep().stosb()
        }),
        ("a call", A, &|a| {
            a.call(rbx)?;
            // What is called runs in its place.
            a.nop()
        }),
    ];
    for engine in ENGINES {
        for (name, expected, body) in cases {
            let mut h = paged(engine, &[FRAMES | 7, (FRAMES + 0x1000) | 7]);
            h.set_u64(FRAMES, 0x1234);
            assert_eq!(execute(&mut h, body), Stop::Budget, "{engine:?}: {name}");
            assert_eq!(h.u64(TABLE) & (A | D), expected, "{engine:?}: {name}");
            let above = [TABLES, TABLES + 0x1000, DIRECTORY_ENTRY].map(|at| h.u64(at) & (A | D));
            // The code's own page shares the two levels at the top.
            assert_eq!(above, [A, A, if expected == 0 && !name.starts_with("BTS") { 0 } else { A }], "{engine:?}: {name}");
        }
        // What faults leaves the page's own bits alone; a store across two pages marks both, or writes neither.
        let mut h = paged(engine, &[FRAMES | 5]);
        assert_eq!(execute(&mut h, &|a| a.mov(qword_ptr(rbx), rax)), Stop::Shutdown);
        assert_eq!(h.u64(TABLE) & (A | D), 0);
        for second in [0, (FRAMES + 0x1000) | 7] {
            let mut h = paged(engine, &[FRAMES | 7, second]);
            h.set_reg(reg::RAX, !0);
            let stop = execute(&mut h, &|a| a.mov(qword_ptr(rbx + 0xffc), rax));
            assert_eq!(stop, if second == 0 { Stop::Shutdown } else { Stop::Budget });
            if second == 0 {
                assert_eq!((h.u64(FRAMES + 0xff8), h.p.cpu.state.cr2), (0, PAGES + 0x1000));
            } else {
                assert_eq!((h.u64(TABLE) & (A | D), h.u64(TABLE + 8) & (A | D)), (A | D, A | D));
            }
        }
        // Both are set before the operand is read: an OR into the entry of its own page finds them.
        let mut h = paged(engine, &[TABLE | 7]);
        execute(&mut h, &|a| a.or(qword_ptr(rbx), 0x400));
        assert_eq!(h.u64(TABLE), TABLE | 0x407 | A | D);
        // A large page has them in its directory.
        let mut h = paged(engine, &[]);
        h.set_u64(DIRECTORY_ENTRY, FRAMES | 0x87);
        execute(&mut h, &|a| a.mov(qword_ptr(rbx), rax));
        assert_eq!(h.u64(DIRECTORY_ENTRY), FRAMES | 0x87 | A | D);
    }
}

/// What a page allows: all combinations of its bits, the rights of the program, WP, SMAP, AC and PKRU (SDM 3A, 4.6, 4.7).
#[test]
fn rights_of_pages() {
    #[derive(Clone, Copy, Debug)]
    enum Do {
        Load,
        Store,
        Fetch,
    }
    const P: u32 = 1;
    const BITS: u32 = 9;
    for (n, case) in [Do::Load, Do::Store, Do::Fetch].into_iter().flat_map(|what| (0..1u32 << BITS).map(move |n| (n, what))) {
        let bit = |i: u32| n >> i & 1 != 0;
        let [us, rw, nx, ring3, wp, smap, ac, ad, wd] = std::array::from_fn(|i| bit(i as u32));
        // By turns, because there are many.
        let engine = ENGINES[(n.count_ones() & 1) as usize];
        let entry = FRAMES | P as u64 | u64::from(rw) << 1 | u64::from(us) << 2 | 1 << 59 | if nx { NX } else { 0 };
        let mut h = paged(engine, &[entry]);
        h.set_mem(FRAMES, &[0x90, 0x90, 0x90, 0x90]);
        h.set_mem(CODE, if matches!(case, Do::Store) { &[0x88, 0x03] } else { &[0x8a, 0x03] });
        // The code and the stack are the system's for it, so that SMEP may always be on.
        h.set_u64(TABLES + 0x2000, if ring3 { 0x87 } else { 0x83 });
        let s = &mut h.p.cpu.state;
        s.cr0 = s.cr0 & !bits::CR0_WP | if wp { bits::CR0_WP } else { 0 };
        s.cr4 |= bits::CR4_PKE | bits::CR4_SMEP | if smap { bits::CR4_SMAP } else { 0 };
        s.eflags |= if ac { flags::AC } else { 0 };
        s.pkru = u32::from(ad) << 2 | u32::from(wd) << 3;
        if ring3 {
            user(&mut h);
        }
        if matches!(case, Do::Fetch) {
            h.p.cpu.state.rip = PAGES;
        }
        let state = h.p.cpu.state.clone();
        h.p.load(state);
        h.run(1);
        let store = matches!(case, Do::Store);
        let (denied, key) = match case {
            Do::Fetch => (nx || if ring3 { !us } else { us }, false),
            _ => {
                let by_rights = if ring3 { !us || (store && !rw) } else { (store && !rw && wp) || (us && smap && !ac) };
                (by_rights, us && (ad || (wd && store && (ring3 || wp))))
            }
        };
        let error = P | u32::from(store) << 1 | u32::from(ring3) << 2 | u32::from(matches!(case, Do::Fetch)) << 4 | u32::from(key) << 5;
        let expected = (denied || key).then_some((vector::PF, Some(error)));
        let got = h.exception().map(|(_, e)| (e.vector, e.error));
        assert_eq!(
            got, expected,
            "{engine:?}: {case:?}, US {us}, RW {rw}, NX {nx}, ring 3 {ring3}, WP {wp}, SMAP {smap}, AC {ac}, AD {ad}, WD {wd}"
        );
    }
}

/// EFLAGS.AC opens user pages to the system's programs, whatever sets it, and not to the processor's own look at its tables.
#[test]
fn windows_of_smap() {
    for engine in ENGINES {
        let open = |body: Body| {
            let mut h = paged(engine, &[FRAMES | 7]);
            h.set_u64(TABLES + 0x2000, 0x83);
            h.p.cpu.state.cr4 |= bits::CR4_SMAP;
            execute(&mut h, body);
            h.exception().map(|(_, e)| (e.vector, e.error))
        };
        let closed = Some((vector::PF, Some(1)));
        assert_eq!(open(&|a| a.mov(rax, qword_ptr(rbx))), closed);
        let set_ac = |a: &mut CodeAssembler| -> Result<(), IcedError> {
            a.push(flags::AC as i32 | 2)?;
            a.popfq()
        };
        assert_eq!(
            open(&|a| {
                set_ac(a)?;
                a.mov(rax, qword_ptr(rbx))
            }),
            None
        );
        assert_eq!(
            open(&|a| {
                set_ac(a)?;
                a.mov(rax, qword_ptr(rbx))?;
                a.push(2)?;
                a.popfq()?;
                a.mov(rax, qword_ptr(rbx))
            }),
            closed
        );
        // A descriptor, and a gate, in a user page.
        for table in [true, false] {
            let mut h = paged(engine, &[FRAMES | 7]);
            h.set_u64(TABLES + 0x2000, 0x83);
            h.set_u64(FRAMES + 0x10, DESCRIPTORS[2]);
            let s = &mut h.p.cpu.state;
            s.cr4 |= bits::CR4_SMAP;
            s.eflags |= flags::AC;
            *(if table { &mut s.gdtr } else { &mut s.idtr }) = TableRegister { base: PAGES, limit: 0xfff };
            execute(&mut h, &|a| {
                a.mov(rax, qword_ptr(rbx))?;
                a.mov(eax, 0x10)?;
                if table { a.mov(iced_x86::code_asm::ds, eax) } else { a.int3() }
            });
            assert_eq!(h.exception().map(|(_, e)| (e.vector, e.error)), closed);
        }
    }
}

/// A page in each of two address spaces and a global one are read, or run; then their entries change, and one of these is done
/// in the second space. Which of them is seen anew: the second space's page, the global one, then the first space's, and
/// the global one from there. Where the manual demands nothing (SDM 3A, 4.10.4), the old one stays, in every engine.
#[test]
fn what_a_tlb_forgets() {
    const KEEP: u64 = 1 << 63;
    const DESCRIPTOR: u64 = 0x9000;
    let invpcid = |kind: u64| {
        move |a: &mut CodeAssembler| -> Result<(), IcedError> {
            a.mov(rax, kind)?;
            a.invpcid(rax, xmmword_ptr(DESCRIPTOR))
        }
    };
    let [one_address, one_space, all, all_but_global] = [0, 1, 2, 3].map(invpcid);
    let cases: [(&str, [bool; 4], Body); 12] = [
        ("nothing", [false; 4], &|a| a.nop()),
        ("CR3, kept", [false; 4], &|a| {
            a.mov(rax, TABLES | 2 | KEEP)?;
            a.mov(cr3, rax)
        }),
        ("CR3", [true, false, false, false], &|a| {
            a.mov(rax, TABLES | 2)?;
            a.mov(cr3, rax)
        }),
        ("INVLPG of the page here", [true, false, false, false], &|a| a.invlpg(ptr(rbx + 0x1123))),
        ("INVLPG of the global page", [false, true, false, true], &|a| a.invlpg(ptr(rbx + 0x2fff))),
        ("INVLPG of an address that is not canonical", [false; 4], &|a| {
            a.mov(rax, 1u64 << 62 | PAGES)?;
            a.invlpg(ptr(rax))
        }),
        ("INVPCID, one address", [false, false, true, false], &one_address),
        ("INVPCID, one space", [false, false, true, false], &one_space),
        ("INVPCID, all", [true; 4], &all),
        ("INVPCID, all but global", [true, false, true, false], &all_but_global),
        ("CR4.PGE off and on", [true; 4], &|a| {
            a.mov(rax, cr4)?;
            a.btr(rax, 7)?;
            a.mov(cr4, rax)?;
            a.bts(rax, 7)?;
            a.mov(cr4, rax)
        }),
        ("CR4.SMEP on", [true; 4], &|a| {
            a.mov(rax, cr4)?;
            a.bts(rax, 20)?;
            a.mov(cr4, rax)
        }),
    ];
    for engine in ENGINES {
        for code in [false, true] {
            for (name, expected, body) in cases {
                let entries = [FRAMES | 3, (FRAMES + 0x1000) | 3, (FRAMES + 0x2000) | 3 | G];
                let mut h = paged(engine, &entries);
                h.set_u64(TABLES + 0x2000, 0x183);
                // MOV EAX, imm32; RET: 1 in the pages that are there first, 2 in the others.
                for n in 0..6 {
                    h.set_mem(FRAMES + 0x1000 * n, &[0xb8, 1 + (n / 3) as u8, 0, 0, 0, 0xc3]);
                }
                h.set_u64(DESCRIPTOR, 1);
                h.set_u64(DESCRIPTOR + 8, PAGES);
                h.p.cpu.state.cr4 |= bits::CR4_PCIDE;
                h.p.cpu.state.cr3 = TABLES;
                let look = |h: &mut Harness, space: u64| {
                    let stop = execute(h, &|a| {
                        a.mov(rcx, TABLES | space | KEEP)?;
                        a.mov(cr3, rcx)?;
                        for (offset, to) in [(0x1000 * (space as i32 - 1), r8), (0x2000, r9)] {
                            if code {
                                a.lea(rdx, ptr(rbx + offset))?;
                                a.call(rdx)?;
                                a.mov(to, rax)?;
                            } else {
                                a.mov(to, qword_ptr(rbx + offset + 1))?;
                                a.and(to, 0xff)?;
                            }
                        }
                        // The four instructions there are not counted.
                        for _ in 0..4 {
                            a.nop()?;
                        }
                        Ok(())
                    });
                    assert_eq!(stop, Stop::Budget, "{engine:?}, code {code}: {name}: {:?}", h.exception());
                    [h.reg(8) == 2, h.reg(9) == 2]
                };
                assert_eq!([look(&mut h, 1), look(&mut h, 2)], [[false; 2]; 2]);
                for (n, entry) in entries.iter().enumerate() {
                    h.set_u64(TABLE + 8 * n as u64, entry + 0x3000);
                }
                assert_eq!(execute(&mut h, body), Stop::Budget, "{engine:?}, code {code}: {name}: {:?}", h.exception());
                let seen = [look(&mut h, 2), look(&mut h, 1)].concat();
                assert_eq!(seen, expected, "{engine:?}, code {code}: {name}");
            }
        }
    }
}

/// Of a large page any INVLPG forgets all, however far from each other what was looked at lies (SDM 3A, 4.10.4.1).
#[test]
fn a_large_page_is_forgotten_as_a_whole() {
    // Where it is, the entry for it, and what is looked at: the first page and the last that are RAM.
    let two_mib = (PAGES, DIRECTORY_ENTRY, FRAMES, 0x1f_f000);
    let one_gib = (1 << 30, TABLES + 0x1000 + 8, 0, FRAMES + 0x1f_f000);
    for engine in ENGINES {
        for (start, entry, frame, last) in [two_mib, one_gib] {
            for forgets in [None, Some(last), Some(0x3000), Some(0x10_0fff)] {
                let mut h = Harness::long().on(engine);
                h.set_u64(entry, frame | 0x83);
                h.set_reg(reg::RBX, start);
                let look = |h: &mut Harness, offset: u64| {
                    h.set_reg(reg::RDX, start + offset);
                    execute(h, &|a| a.mov(rax, qword_ptr(rdx))) == Stop::Budget
                };
                assert!([0, last].into_iter().all(|offset| look(&mut h, offset)), "{engine:?}: {:?}", h.exception());
                h.set_u64(entry, 0);
                if let Some(offset) = forgets {
                    h.set_reg(reg::RDX, start + offset);
                    assert_eq!(execute(&mut h, &|a| a.invlpg(ptr(rdx))), Stop::Budget);
                }
                for offset in [last, 0] {
                    assert_eq!(look(&mut h, offset), forgets.is_none(), "{engine:?}, {start:#x} + {offset:#x}: {forgets:x?}");
                    h.p.cpu.state.rip = CODE;
                }
            }
        }
    }
}
