//! Jumps and calls from page to page, while what is at their addresses changes.

use super::*;

/// Functions at these places of [`BODIES`]`[0]` go on in the next page, by a call, a jump and conditional ones.
const LEAPS: [u64; 4] = [0x100, 0x200, 0x300, 0x3f0];
/// What they lead to: pages that give 1 and 2 in RAX.
const ENDS: [u64; 2] = [0x30_4000, 0x30_5000];
/// The second address space, and its page table for [`PAGE`].
const SECOND: u64 = 0x31_0000;
const SECOND_TABLE: u64 = 0x31_3000;

/// [`BODIES`]`[0]` twice from [`PAGE`] on, each time with one of [`ENDS`] behind it; in [`SECOND`], with the other one.
fn pages_that_leap(h: &mut Harness) {
    for at in LEAPS {
        let leap = h.assemble(PAGE + at, |a| {
            let next = PAGE + 0x1000;
            match at {
                0x100 => {
                    a.call(next)?;
                    a.ret()
                }
                0x200 => a.jmp(next),
                0x300 => {
                    a.test(ebp, ebp)?;
                    a.jne(next)?;
                    a.ud2()
                }
                _ => {
                    a.test(ebp, ebp)?;
                    a.je(next + 1)?;
                    a.jmp(next)
                }
            }
        });
        h.set_mem(BODIES[0] + at, &leap);
    }
    for (n, end) in ENDS.into_iter().enumerate() {
        let code = h.assemble(PAGE, |a| a.mov(eax, n as i32 + 1).and_then(|()| a.ret()));
        h.set_mem(end, &code);
    }
    for n in 0..3 {
        let mut table = vec![0; 0x1000];
        h.mem(TABLES + 0x1000 * n, &mut table);
        h.set_mem(SECOND + 0x1000 * n, &table);
    }
    for (space, table, ends) in [(TABLES, TABLE, ENDS), (SECOND, SECOND_TABLE, [ENDS[1], ENDS[0]])] {
        if space == SECOND {
            h.set_u64(SECOND, (SECOND + 0x1000) | 7);
            h.set_u64(SECOND + 0x1000, (SECOND + 0x2000) | 7);
        }
        h.set_u64(space + 0x2000 + 8 * (PAGE >> 21), table | 7);
        for (n, page) in [BODIES[0], ends[0], BODIES[0], ends[1]].into_iter().enumerate() {
            h.set_u64(table + 8 * n as u64, page | 7);
        }
    }
}

#[test]
fn one_page_of_code_at_two_addresses() {
    for at in LEAPS {
        // The second address comes into use when the first has long been hot; then either alone, and both.
        let end = agree_at(
            3,
            |a| {
                a.mov(rsi, PAGE + at)?;
                a.mov(rdi, PAGE + 0x2000 + at)?;
                rounds(a, 600, |a| {
                    let [mut one, mut both] = std::array::from_fn(|_| a.create_label());
                    a.xor(ebx, ebx)?;
                    a.cmp(ebp, 300)?;
                    a.ja(one)?;
                    a.call(rdi)?;
                    a.mov(ebx, eax)?;
                    a.test(ebp, 0x40)?;
                    a.jne(both)?;
                    a.set_label(&mut one)?;
                    a.call(rsi)?;
                    a.add(ebx, eax)?;
                    a.set_label(&mut both)?;
                    a.mov(eax, ebx)?;
                    a.ret()
                })
            },
            &pages_that_leap,
        );
        let sum = (1..=600u64).map(|round| if round > 300 { 1 } else { 2 + u64::from(round & 0x40 == 0) }).sum();
        assert_eq!((end.stop, end.regs[usize::from(reg::RDX)]), (Stop::Halted, sum), "{at:#x}");
    }
}

#[test]
fn one_page_of_code_in_two_address_spaces() {
    // Each round, or some of them, in the other space, with and without PCIDs, which make a space come back as it was; at
    // one address of the page, or at another one in the second space.
    for (pcid, mask, other) in [(false, 0u32, 0u64), (false, 0x3f, 0x2000), (true, 0, 0), (true, 0x3f, 0), (true, 7, 0x2000)] {
        for at in LEAPS {
            let end = agree_at(
                3,
                |a| {
                    let [one, two] = if pcid { [1, 1 << 63 | 2] } else { [0, 0] };
                    if pcid {
                        a.mov(rax, cr4)?;
                        a.or(eax, 1 << 17)?;
                        a.mov(cr4, rax)?;
                        a.mov(rax, TABLES | one)?;
                        a.mov(cr3, rax)?;
                    }
                    a.mov(rsi, PAGE + at)?;
                    a.mov(rdi, PAGE + other + at)?;
                    a.mov(r8, TABLES | one | two & 1 << 63)?;
                    a.mov(r9, SECOND | two)?;
                    rounds(a, 600, |a| {
                        let mut stay = a.create_label();
                        a.test(ebp, mask)?;
                        a.jne(stay)?;
                        a.xchg(r8, r9)?;
                        a.mov(cr3, r8)?;
                        a.xchg(rsi, rdi)?;
                        a.set_label(&mut stay)?;
                        a.call(rsi)?;
                        a.ret()
                    })
                },
                &pages_that_leap,
            );
            assert_eq!(end.stop, Stop::Halted);
            let changes = |round: u64| (round..=600).filter(|r| r & u64::from(mask) == 0).count() as u64;
            let number = |round| if changes(round) % 2 == 1 && other == 0 { 2 } else { 1 };
            assert_eq!(end.regs[usize::from(reg::RDX)], (1..=600).map(number).sum(), "{pcid}, {mask:#x}, {other:#x}, {at:#x}");
        }
    }
}

#[test]
fn a_next_page_that_becomes_another() {
    // Its entry is changed by code in a page of its own, and the page forgotten in one of several ways, or not at all.
    for way in 0..=WAYS {
        for at in LEAPS {
            let end = agree_at(
                3,
                |a| {
                    a.mov(rsi, PAGE + at)?;
                    a.mov(rcx, PAGE + 0x1000)?;
                    a.mov(rdi, TABLE + 8)?;
                    rounds(a, 600, |a| {
                        let mut stay = a.create_label();
                        a.test(ebp, 0x1f)?;
                        a.jne(stay)?;
                        a.xor(qword_ptr(rdi), (ENDS[0] ^ ENDS[1]) as i32)?;
                        if way < WAYS {
                            forget(a, way, rcx)?;
                        }
                        a.set_label(&mut stay)?;
                        a.jmp(rsi)
                    })
                },
                &pages_that_leap,
            );
            assert_eq!(end.stop, Stop::Halted, "{at:#x}, {way}");
        }
    }
}

#[test]
fn a_function_of_another_page_that_is_written() {
    for at in LEAPS {
        let end = agree_at(
            3,
            |a| {
                a.mov(rsi, PAGE + at)?;
                a.mov(rdi, ENDS[0] + 1)?;
                rounds(a, 1000, |a| {
                    let mut plain = a.create_label();
                    a.test(ebp, 0x7f)?;
                    a.jne(plain)?;
                    a.add(byte_ptr(rdi), 1)?;
                    a.set_label(&mut plain)?;
                    a.call(rsi)?;
                    a.ret()
                })
            },
            &pages_that_leap,
        );
        assert_eq!((end.stop, end.regs[usize::from(reg::RDX)]), (Stop::Halted, sum_of_growing()));
    }
}

#[test]
fn more_address_spaces_than_are_remembered() {
    // Without a PCID each load of CR3 is a new one.
    let code = Harness::long().assemble(CODE, |a| {
        a.mov(rsi, PAGE + LEAPS[0])?;
        a.mov(rdi, PAGE + 0x2000 + LEAPS[0])?;
        rounds(a, 40_000, |a| {
            a.mov(rax, cr3)?;
            a.mov(cr3, rax)?;
            a.call(rsi)?;
            a.mov(ebx, eax)?;
            a.call(rdi)?;
            a.add(eax, ebx)?;
            a.ret()
        })
    });
    let end = agree_on(Harness::long, &code, END, END, &pages_that_leap);
    assert_eq!((end.stop, end.regs[usize::from(reg::RDX)]), (Stop::Halted, 120_000));
}

#[test]
fn calls_between_pages_with_faults_and_interrupts_and_in_32_bits() {
    let far = |a: &mut CodeAssembler| {
        rounds(a, 300, |a| {
            let mut f = a.create_label();
            a.call(f)?;
            a.inc(eax)?;
            a.ret()?;
            a.nops_with_size(0x1000)?;
            a.set_label(&mut f)?;
            a.mov(eax, 4)?;
            a.ret()
        })
    };
    assert_eq!(agree(far).regs[usize::from(reg::RDX)], 1500);
    let code = Harness::long().assemble(CODE, far);
    let ends = interrupted_at_each(&code);
    assert!(ends.iter().all(|end| end.regs[usize::from(reg::RDX)] == 1500));
    let code = Harness::protected32().assemble(CODE, |a| {
        let [mut again, mut f, mut g] = std::array::from_fn(|_| a.create_label());
        a.mov(ebp, 600)?;
        a.xor(edx, edx)?;
        a.set_label(&mut again)?;
        a.call(f)?;
        a.add(edx, eax)?;
        a.dec(ebp)?;
        a.jne(again)?;
        a.hlt()?;
        a.nops_with_size(0x1000)?;
        a.set_label(&mut f)?;
        a.test(ebp, 1)?;
        a.jne(g)?;
        a.mov(eax, 4)?;
        a.ret()?;
        a.nops_with_size(0x1000)?;
        a.set_label(&mut g)?;
        a.mov(eax, 6)?;
        a.ret()
    });
    let end = agree_on(Harness::protected32, &code, END, END, &|_| ());
    assert_eq!((end.stop, end.regs[usize::from(reg::RDX)]), (Stop::Halted, 3000));
}
