//! Calls and returns of translated code, against the interpreter: pairs, and all that comes between them.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod pages;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use softmetal_cpu::state::reg;
use softmetal_cpu::testing::{CODE, Harness, Outcome, TABLES};
use softmetal_cpu::{Engine, Stop};

/// A stack with room.
const TOP: u64 = 0xf0_0000;
const DATA: u64 = 0x20_0000;
const END: u64 = 1 << 20;
const IDT: u64 = 0x3000;
/// A page of its own, its page table, and what it may be.
const PAGE: u64 = 0x40_0000;
const TABLE: u64 = 0x30_0000;
const BODIES: [u64; 2] = [0x30_2000, 0x30_3000];
/// INVLPG, CR3, CR4.
const WAYS: usize = 3;
const USER_CODE: u64 = 0x33;
const USER_DATA: u64 = 0x2b;

type Assembled = Result<(), IcedError>;

fn outcome(h: &Harness, stop: Stop) -> Outcome {
    h.outcome(stop, std::iter::once(TOP - 0x100..TOP))
}

/// A processor of `kind` in front of `code`, with a stack and more.
fn start(kind: fn() -> Harness, engine: Engine, code: &[u8], more: &dyn Fn(&mut Harness)) -> Harness {
    let mut h = kind().code(code);
    h.set_reg(reg::RSP, TOP);
    more(&mut h);
    h.p.set_engine(engine).unwrap();
    h.p.set_heat(2);
    h
}

/// Runs `code` with both engines for `n` instructions, in slices; their outcome.
fn agree_on(kind: fn() -> Harness, code: &[u8], n: u64, slice: u64, more: &dyn Fn(&mut Harness)) -> Outcome {
    let mut h = start(kind, Engine::Interpreter, code, more);
    let stop = h.run(n);
    let right = outcome(&h, stop);
    let mut h = start(kind, Engine::Translator, code, more);
    if n % 2 == 1 {
        h.p.assume_other_maker();
    }
    let stop = h.run_in_slices(n, slice);
    assert_eq!(outcome(&h, stop), right, "{n} instructions in slices of {slice}");
    assert!(h.p.blocks_translated() > 0);
    right
}

/// The same in 64-bit mode, to the end at once, in slices, and to each of `stops` instructions in its middle.
fn agree_at(stops: u64, f: impl FnOnce(&mut CodeAssembler) -> Assembled, more: &dyn Fn(&mut Harness)) -> Outcome {
    let code = Harness::long().assemble(CODE, f);
    let end = agree_on(Harness::long, &code, END, END, more);
    agree_on(Harness::long, &code, END, 700, more);
    let middle = end.icount / 2;
    for n in middle..middle + stops {
        agree_on(Harness::long, &code, n, END, more);
    }
    end
}

/// The same to each instruction of some rounds.
fn agree_with(f: impl FnOnce(&mut CodeAssembler) -> Assembled, more: &dyn Fn(&mut Harness)) -> Outcome {
    agree_at(60, f, more)
}

fn agree(f: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Outcome {
    agree_with(f, &|_| ())
}

/// `rounds` rounds (in RBP) of a call of what `function` is, which gives in RAX what is added up in RDX.
fn rounds(a: &mut CodeAssembler, rounds: u64, function: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Assembled {
    let [mut again, mut callee] = std::array::from_fn(|_| a.create_label());
    a.mov(rbp, rounds)?;
    a.xor(edx, edx)?;
    a.set_label(&mut again)?;
    a.call(callee)?;
    a.add(rdx, rax)?;
    a.dec(rbp)?;
    a.jne(again)?;
    a.hlt()?;
    a.set_label(&mut callee)?;
    function(a)
}

/// `rcx` deep recursion.
fn recursion(a: &mut CodeAssembler, depth: u32) -> Assembled {
    let [mut f, mut out] = std::array::from_fn(|_| a.create_label());
    a.mov(ebx, 3)?;
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    a.mov(ecx, depth)?;
    a.call(f)?;
    a.dec(ebx)?;
    a.jne(again)?;
    a.hlt()?;
    a.set_label(&mut f)?;
    a.inc(eax)?;
    a.dec(ecx)?;
    a.je(out)?;
    a.call(f)?;
    a.add(edx, eax)?;
    a.set_label(&mut out)?;
    a.ret()
}

#[test]
fn recursion_of_any_depth() {
    for depth in [5, 1000, 100_000] {
        let code = Harness::long().assemble(CODE, |a| recursion(a, depth));
        for slice in [2 * END, 7000] {
            let end = agree_on(Harness::long, &code, 3 * END, slice, &|_| ());
            assert_eq!((end.stop, end.regs[usize::from(reg::RAX)]), (Stop::Halted, 3 * u64::from(depth)));
        }
        let code = Harness::protected32().assemble(CODE, |a| recursion(a, depth));
        assert_eq!(agree_on(Harness::protected32, &code, 3 * END, 2 * END, &|_| ()).stop, Stop::Halted);
    }
}

#[test]
fn calls_without_returns_and_returns_without_calls() {
    // CALL and POP; the callee of the callee is left by a jump.
    let end = agree(|a| {
        rounds(a, 500, |a| {
            let [mut here, mut inner] = std::array::from_fn(|_| a.create_label());
            a.call(here)?;
            a.set_label(&mut here)?;
            a.pop(rax)?;
            a.and(eax, 0xff)?;
            a.mov(rdi, rsp)?;
            a.call(inner)?;
            a.set_label(&mut inner)?;
            a.mov(rsp, rdi)?;
            a.ret()
        })
    });
    assert_eq!(end.stop, Stop::Halted);
    // Out of five frames at once, and into a frame that nothing has called.
    let end = agree(|a| {
        rounds(a, 500, |a| {
            let [mut deeper, mut on, mut out, mut first] = std::array::from_fn(|_| a.create_label());
            a.mov(rdi, rsp)?;
            a.mov(ecx, 5)?;
            a.set_label(&mut deeper)?;
            a.dec(ecx)?;
            a.je(on)?;
            a.call(deeper)?;
            a.ud2()?;
            a.set_label(&mut on)?;
            a.mov(rsp, rdi)?;
            a.lea(rax, ptr(out))?;
            a.push(rax)?;
            a.lea(rax, ptr(first))?;
            a.push(rax)?;
            a.ret()?;
            a.set_label(&mut first)?;
            a.inc(r8)?;
            a.ret()?;
            a.set_label(&mut out)?;
            a.mov(eax, 3)?;
            a.ret()
        })
    });
    assert_eq!(end.regs[usize::from(reg::RDX)], 1500);
}

#[test]
fn a_return_address_that_is_changed() {
    // Every fourth round returns over the ADD; each drops an argument's worth.
    let end = agree(|a| {
        rounds(a, 1000, |a| {
            let mut plain = a.create_label();
            a.mov(eax, 1)?;
            a.test(ebp, 3)?;
            a.jne(plain)?;
            a.add(qword_ptr(rsp), 3)?;
            a.set_label(&mut plain)?;
            a.pop(rcx)?;
            a.sub(rsp, 0x18)?;
            a.push(rcx)?;
            a.ret_1(0x18)
        })
    });
    assert_eq!((end.stop, end.regs[usize::from(reg::RDX)], end.regs[usize::from(reg::RSP)]), (Stop::Halted, 750, TOP));
}

#[test]
fn retpolines_and_calls_by_register_and_memory() {
    for way in 0..3 {
        let end = agree(|a| {
            let [mut callee, mut start, mut thunk, mut inner, mut trap] = std::array::from_fn(|_| a.create_label());
            a.lea(rbx, ptr(callee))?;
            a.mov(rsi, DATA)?;
            a.mov(qword_ptr(rsi), rbx)?;
            a.jmp(start)?;
            a.set_label(&mut callee)?;
            a.mov(eax, 5)?;
            a.ret()?;
            a.set_label(&mut thunk)?;
            a.call(inner)?;
            a.set_label(&mut trap)?;
            a.pause()?;
            a.jmp(trap)?;
            a.set_label(&mut inner)?;
            a.mov(qword_ptr(rsp), rbx)?;
            a.ret()?;
            a.set_label(&mut start)?;
            rounds(a, 1000, |a| {
                match way {
                    0 => a.call(thunk)?,
                    1 => a.call(rbx)?,
                    _ => a.call(qword_ptr(rsi))?,
                }
                a.inc(eax)?;
                a.ret()
            })
        });
        assert_eq!((end.stop, end.regs[usize::from(reg::RDX)]), (Stop::Halted, 6000));
    }
}

#[test]
fn addresses_where_nothing_may_return_to() {
    // Where the canonical halves end, and what an empty stack may hold.
    for address in [0xffff_8000_0000_0000_u64, 0x8000_0000_0000, 0x7fff_ffff_ffff, 0, !0, 1 << 63] {
        let end = agree(|a| {
            rounds(a, 200, |a| {
                let mut plain = a.create_label();
                a.pop(rax)?;
                a.pop(r9)?;
                a.push(r9)?;
                a.cmp(ebp, 20)?;
                a.jne(plain)?;
                a.mov(rax, address)?;
                a.set_label(&mut plain)?;
                a.push(rax)?;
                a.ret()
            })
        });
        assert_eq!(end.stop, Stop::Shutdown, "{address:#x}");
    }
}

#[test]
fn code_behind_a_call_that_the_callee_changes() {
    // Between a CALL and its RET, what is behind the CALL becomes another instruction, in a loop that has long been hot.
    let end = agree(|a| {
        let [mut again, mut callee, mut behind, mut plain] = std::array::from_fn(|_| a.create_label());
        a.mov(rbp, 1000u64)?;
        a.xor(edx, edx)?;
        a.lea(rdi, ptr(behind))?;
        a.jmp(again)?;
        a.nops_with_size(100)?;
        a.set_label(&mut again)?;
        a.call(callee)?;
        a.set_label(&mut behind)?;
        a.add(edx, 1)?;
        a.dec(rbp)?;
        a.jne(again)?;
        a.hlt()?;
        a.nops_with_size(200)?;
        a.set_label(&mut callee)?;
        a.test(ebp, 0x7f)?;
        a.jne(plain)?;
        a.add(byte_ptr(rdi + 2), 1)?;
        a.set_label(&mut plain)?;
        a.ret()
    });
    assert_eq!(end.stop, Stop::Halted);
    assert_eq!(end.regs[usize::from(reg::RDX)], sum_of_growing());
}

/// Has the TLB forget the page that `page` points to, in one of [`WAYS`].
fn forget(a: &mut CodeAssembler, way: usize, page: AsmRegister64) -> Assembled {
    match way {
        0 => a.invlpg(byte_ptr(page)),
        1 => a.mov(rax, cr3).and_then(|()| a.mov(cr3, rax)),
        _ => {
            a.mov(rax, cr4)?;
            a.xor(eax, 0x80)?;
            a.mov(cr4, rax)
        }
    }
}

/// What 1000 [`rounds`] add up of a number that is 1 at first, and grows by 1 in each whose number, counted down, is a multiple
/// of 128.
fn sum_of_growing() -> u64 {
    (1..=1000).map(|round| 1 + (1000 / 128 - (round - 1) / 128)).sum()
}

/// A function at `at` of [`PAGE`] that calls what RBX holds and gives a number of its own.
fn page_of_callers(h: &mut Harness, at: u64) {
    h.set_u64(TABLES + 0x2000 + 8 * (PAGE >> 21), TABLE | 7);
    h.set_u64(TABLE, BODIES[0] | 7);
    h.set_u64(TABLE + 8, (BODIES[1] + 0x1000) | 7);
    for (n, body) in BODIES.into_iter().enumerate() {
        let caller = h.assemble(PAGE + at, |a| {
            a.call(rbx)?;
            a.mov(eax, n as i32 + 1)?;
            a.ret()
        });
        let (first, second) = caller.split_at(caller.len().min((0x1000 - at) as usize));
        h.set_mem(body + at, first);
        h.set_mem(BODIES[1] + 0x1000, second);
    }
}

#[test]
fn a_page_that_becomes_another_before_the_return() {
    // In its middle, and where what is behind the CALL begins near the end of the page, or in the next one.
    for at in [0x100, 0xfed, 0xff8, 0xffd, 0xffe, 0xfff] {
        for way in 0..WAYS {
            let code = |a: &mut CodeAssembler| {
                let [mut callee, mut start, mut plain] = std::array::from_fn(|_| a.create_label());
                a.lea(rbx, ptr(callee))?;
                a.mov(rsi, PAGE + at)?;
                a.mov(rdi, TABLE)?;
                a.jmp(start)?;
                a.set_label(&mut callee)?;
                a.test(ebp, 0x3f)?;
                a.jne(plain)?;
                a.xor(qword_ptr(rdi), (BODIES[0] ^ BODIES[1]) as i32)?;
                forget(a, way, rsi)?;
                a.set_label(&mut plain)?;
                a.ret()?;
                a.set_label(&mut start)?;
                rounds(a, 400, |a| {
                    a.call(rsi)?;
                    a.ret()
                })
            };
            let end = agree_with(code, &|h| page_of_callers(h, at));
            assert_eq!(end.stop, Stop::Halted, "{at:#x}, {way}");
        }
    }
}

/// Vectors 6 (#UD) and 0x30: the first goes on behind UD2, the second counts in R9.
fn handlers(h: &mut Harness) {
    for (vector, at) in [(6, 0x5000), (0x30, 0x5100)] {
        let code = h.assemble(at, |a| {
            if vector == 6 {
                a.add(qword_ptr(rsp), 2)?;
            }
            let [mut f, mut on] = std::array::from_fn(|_| a.create_label());
            a.call(f)?;
            a.jmp(on)?;
            a.set_label(&mut f)?;
            a.inc(r9)?;
            a.ret()?;
            a.set_label(&mut on)?;
            a.iretq()
        });
        h.set_mem(at, &code);
        h.set_u64(IDT + 16 * vector, at & 0xffff | 8 << 16 | 0x8e00 << 32 | at >> 16 << 48);
        h.set_u64(IDT + 16 * vector + 8, 0);
    }
    let idtr = &mut h.p.cpu.state.idtr;
    (idtr.base, idtr.limit) = (IDT, 0xfff);
}

/// Runs `code` with an interrupt from outside after 600 to 639 instructions; what each run has come to.
fn interrupted_at_each(code: &[u8]) -> Vec<Outcome> {
    let outcomes = (600..640).map(|at| {
        let [right, got] = [Engine::Interpreter, Engine::Translator].map(|engine| {
            let mut h = start(Harness::long, engine, code, &handlers);
            h.p.cpu.state.eflags |= 1 << 9;
            h.run(at);
            h.interrupt(0x30);
            let stop = h.run(END);
            outcome(&h, stop)
        });
        assert_eq!(got, right);
        assert_eq!((right.stop, right.regs[9]), (Stop::Halted, 1));
        right
    });
    outcomes.collect()
}

#[test]
fn faults_and_interrupts_before_the_return() {
    let end = agree_with(
        |a| {
            rounds(a, 300, |a| {
                a.ud2()?;
                a.int(0x30)?;
                a.mov(eax, 1)?;
                a.ret()
            })
        },
        &handlers,
    );
    assert_eq!((end.stop, end.regs[usize::from(reg::RDX)], end.regs[9]), (Stop::Halted, 300, 600));
    // From outside, at each instruction of a round.
    let code = Harness::long().assemble(CODE, |a| {
        rounds(a, 300, |a| {
            let mut f = a.create_label();
            a.call(f)?;
            a.set_label(&mut f)?;
            a.mov(eax, 1)?;
            a.ret()
        })
    });
    interrupted_at_each(&code);
}

#[test]
fn far_returns_and_iret_in_the_place_of_ret() {
    let end = agree(|a| {
        rounds(a, 300, |a| {
            let mut far = a.create_label();
            a.mov(eax, 1)?;
            a.pop(rcx)?;
            a.test(ebp, 1)?;
            a.jne(far)?;
            a.mov(rdi, rsp)?;
            a.push(0x10)?;
            a.push(rdi)?;
            a.pushfq()?;
            a.push(8)?;
            a.push(rcx)?;
            a.iretq()?;
            a.set_label(&mut far)?;
            a.push(8)?;
            a.push(rcx)?;
            a.db(&[0x48, 0xcb])
        })
    });
    assert_eq!((end.stop, end.regs[usize::from(reg::RDX)]), (Stop::Halted, 300));
}

#[test]
fn users_do_not_return_by_what_the_system_has_called() {
    // Round 100 goes on as a user's, from the same addresses, until HLT.
    let end = agree(|a| {
        rounds(a, 300, |a| {
            let mut plain = a.create_label();
            a.mov(eax, 1)?;
            a.cmp(ebp, 200)?;
            a.jne(plain)?;
            a.mov(rdi, rsp)?;
            a.push(USER_DATA as i32)?;
            a.push(rdi)?;
            a.pushfq()?;
            a.push(USER_CODE as i32)?;
            a.lea(rcx, ptr(plain))?;
            a.push(rcx)?;
            a.iretq()?;
            a.set_label(&mut plain)?;
            a.ret()
        })
    });
    assert_eq!((end.stop, end.regs[usize::from(reg::RDX)]), (Stop::Shutdown, 300));
}
