//! Traces over hot loops, against the interpreter: faults, stops, changes of code and of direction in the middle of them.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use softmetal_bus::splitmix64;
use softmetal_cpu::state::{bits, reg};
use softmetal_cpu::testing::{CODE, Harness, Outcome, RAM, TABLES};
use softmetal_cpu::{Engine, Stop};

const DATA: u64 = 0x20_0000;
const END: u64 = 1 << 20;

/// A processor in front of `code`, with numbers in its data; and the traces that it makes.
fn start(engine: Engine, code: &[u8]) -> (Harness, Arc<AtomicU64>) {
    let mut h = Harness::long().code(code);
    h.p.set_engine(engine).unwrap();
    h.p.set_heat(2);
    let traces = Arc::new(AtomicU64::new(0));
    let counted = traces.clone();
    h.p.on_translation(Box::new(move |t| {
        counted.fetch_add(t.trace.into(), Ordering::Relaxed);
    }));
    let mut random = 7;
    for at in (DATA..DATA + 0x4000).step_by(8) {
        h.set_u64(at, splitmix64(&mut random) & 0x3fff_ffff_ffff_ffff);
    }
    (h, traces)
}

fn outcome(h: &Harness, stop: Stop) -> Outcome {
    h.outcome(stop, [DATA..DATA + 0x4000, CODE..CODE + 0x1000])
}

fn assemble(f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    Harness::long().assemble(CODE, f)
}

/// Runs `code` with both engines for `n` instructions, in slices; their outcome.
fn agree(code: &[u8], n: u64, slice: u64) -> Outcome {
    agree_with(code, n, slice, |_| {})
}

/// The same, with more in memory.
fn agree_with(code: &[u8], n: u64, slice: u64, more: impl Fn(&mut Harness)) -> Outcome {
    let (mut plain, _) = start(Engine::Interpreter, code);
    more(&mut plain);
    let stop = plain.run(n);
    let right = outcome(&plain, stop);
    let (mut h, traces) = start(Engine::Translator, code);
    more(&mut h);
    let stop = h.run_in_slices(n, slice);
    assert_eq!(outcome(&h, stop), right, "{n} instructions in slices of {slice}");
    assert!(traces.load(Ordering::Relaxed) > 0, "a trace is made");
    right
}

/// Three streams: loads, a store, and a sum.
fn streams() -> Vec<u8> {
    assemble(|a| {
        a.mov(rsi, DATA + 0x17)?;
        a.mov(rdi, DATA + 0x1f31)?;
        a.mov(ecx, 900)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(rax, qword_ptr(rsi))?;
        a.add(rax, qword_ptr(rdi - 8))?;
        a.adc(rdx, rax)?;
        a.movd(xmm1, eax)?;
        a.paddd(xmm2, xmm1)?;
        a.mov(qword_ptr(rdi), rax)?;
        a.add(rsi, 8)?;
        a.lea(rdi, rdi + 8)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.hlt()
    })
}

/// Segment prefixes mean nothing where no operand is in memory, wherever a register is kept meanwhile.
#[test]
fn prefixes_of_segments_do_not_reach_the_host() {
    let mut code = vec![0xb9, 200, 0, 0, 0];
    let start = code.len();
    for prefix in [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65] {
        for register in 0..8 {
            // ADD r8 to r15, RCX; XOR RDX, r8 to r15; BSWAP.
            code.extend([prefix, 0x49, 0x01, 0xc8 | register, prefix, 0x49, 0x33, 0xd0 | register, prefix, 0x49, 0x0f, 0xc8 | register]);
        }
    }
    // DEC ECX; JNE; HLT.
    code.extend([0xff, 0xc9, 0x0f, 0x85]);
    code.extend((start as i32 - code.len() as i32 - 4).to_le_bytes());
    code.push(0xf4);
    assert_eq!(agree(&code, END, END).stop, Stop::Halted);
}

#[test]
fn streams_go_on_over_pages_and_stop_exactly() {
    assert_eq!(agree(&streams(), END, END).stop, Stop::Halted);
    for n in 2000..2300 {
        agree(&streams(), n, END);
    }
    for slice in [700, 1000, 1301] {
        agree(&streams(), END, slice);
    }
}

#[test]
fn a_fault_in_a_later_round_is_exact() {
    for (first, step) in [(RAM - 8 * 200, 8), (RAM - 8 * 203, 8), (RAM - 1000 * 2, 2)] {
        let code = assemble(|a| {
            a.mov(rsi, first)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.mov(rax, qword_ptr(rsi))?;
            a.add(rbx, rax)?;
            a.inc(rdx)?;
            a.add(rsi, step)?;
            a.cmp(rdx, 5000)?;
            a.jne(again)?;
            a.hlt()
        });
        let end = agree(&code, END, END);
        assert_eq!(end.stop, Stop::Shutdown);
        assert_eq!(end.exception.map(|e| e.0), Some(CODE + 10));
        // A division by zero, in the middle of a round.
        let code = assemble(|a| {
            a.mov(ecx, 777)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.mov(eax, 1000)?;
            a.xor(edx, edx)?;
            a.dec(ecx)?;
            a.div(ecx)?;
            a.add(ebx, eax)?;
            a.jmp(again)
        });
        assert_eq!(agree(&code, END, END).stop, Stop::Shutdown);
    }
}

/// A loop that jumps about, with an inner one of three rounds; which way it goes changes after 500 rounds.
fn nested() -> Vec<u8> {
    assemble(|a| {
        a.mov(ebp, 1000)?;
        a.mov(rbx, DATA)?;
        let [mut outer, mut inner, mut over, mut low, mut on] = std::array::from_fn(|_| a.create_label());
        a.set_label(&mut outer)?;
        a.xor(eax, eax)?;
        a.mov(rcx, rbx)?;
        a.set_label(&mut inner)?;
        a.inc(eax)?;
        a.movq(xmm0, qword_ptr(rcx + 24))?;
        a.paddq(xmm0, xmmword_ptr(rbx))?;
        a.movq(qword_ptr(rcx + 16), xmm0)?;
        a.cmp(eax, 3)?;
        a.je(over)?;
        a.add(rcx, 8)?;
        a.jmp(inner)?;
        a.set_label(&mut over)?;
        a.cmp(ebp, 500)?;
        a.jb(low)?;
        a.add(rdx, qword_ptr(rcx))?;
        a.jmp(on)?;
        a.set_label(&mut low)?;
        a.sub(rdx, rbp)?;
        a.xchg(r8, rdx)?;
        a.set_label(&mut on)?;
        a.add(rbx, 16)?;
        a.dec(ebp)?;
        a.jne(outer)?;
        a.hlt()
    })
}

#[test]
fn another_direction_is_taken_and_recorded() {
    assert_eq!(agree(&nested(), END, END).stop, Stop::Halted);
    for n in 3000..3150 {
        agree(&nested(), n, END);
    }
    agree(&nested(), END, 700);
}

#[test]
fn code_that_changes_inside_of_a_trace() {
    // Round 400 writes into its own loop: before the store, behind it, and to the head.
    for place in 0..3 {
        let code = assemble(|a| {
            let [mut never, mut head, mut before, mut behind] = std::array::from_fn(|_| a.create_label());
            a.mov(ebp, 1000)?;
            a.lea(r8, ptr(head))?;
            a.lea(r9, ptr(before))?;
            a.lea(r10, ptr(behind))?;
            a.mov(rdi, [r8, r9, r10][place])?;
            a.set_label(&mut head)?;
            a.add(eax, 1)?;
            a.nops_with_size(80)?;
            a.set_label(&mut before)?;
            a.add(eax, 2)?;
            a.cmp(ebp, 400)?;
            a.jne(never)?;
            a.add(byte_ptr(rdi + 1), 3)?;
            a.set_label(&mut never)?;
            a.nops_with_size(80)?;
            a.set_label(&mut behind)?;
            a.add(eax, 4)?;
            a.dec(ebp)?;
            a.jne(head)?;
            a.hlt()
        });
        let end = agree(&code, END, END);
        assert_eq!(end.stop, Stop::Halted);
        // The head's change counts from the next round on, as does that of what lies before the store.
        let changed = if place == 2 { 400 } else { 399 };
        assert_eq!(end.regs[usize::from(reg::RAX)], 7000 + 3 * changed);
    }
}

#[test]
fn breakpoints_and_interrupts_inside_of_a_trace() {
    let (code, warm) = (nested(), 4000);
    let both = |then: &dyn Fn(&mut Harness) -> Stop| {
        let [(right, _), (got, traces)] = [Engine::Interpreter, Engine::Translator].map(|engine| {
            let (mut h, traces) = start(engine, &code);
            assert_eq!(h.run(warm), Stop::Budget);
            let stop = then(&mut h);
            (outcome(&h, stop), traces)
        });
        assert_eq!(got, right);
        assert!(traces.load(Ordering::Relaxed) > 0);
        right.stop
    };
    let inside = |h: &Harness| h.p.cpu.state.rip;
    for further in [0, 3, 17, 40] {
        // The address of some instruction of the loop, from a run of its own.
        let (mut h, _) = start(Engine::Interpreter, &code);
        h.run(warm + further);
        let address = inside(&h);
        let stop = both(&|h| {
            h.p.breakpoints_mut().insert(address);
            let first = h.run(END);
            assert_eq!((first, h.p.cpu.state.rip), (Stop::Breakpoint, address));
            assert_eq!(h.run(END), Stop::Breakpoint);
            h.p.breakpoints_mut().clear();
            h.run(777)
        });
        assert_eq!(stop, Stop::Budget);
        // Without an IDT, an interrupt is the end.
        let stop = both(&|h| {
            h.p.cpu.state.eflags |= 1 << 9;
            h.run(further);
            h.interrupt(0x40);
            h.run(END)
        });
        assert_eq!(stop, Stop::Shutdown);
    }
    // MXCSR unmasks exceptions between two runs: the vector instructions of the trace are interpreted.
    both(&|h| {
        h.p.cpu.state.mxcsr &= !0x1f80;
        h.p.cpu.state.cr4 |= bits::CR4_OSXMMEXCPT;
        h.run(1000)
    });
}

/// Functions on pages of their own.
const FUNCTIONS: u64 = 0x40_0000;
/// Their page table, ...
const TABLE: u64 = 0x30_0000;
/// ... and memory.
const BODIES: [u64; 2] = [0x30_2000, 0x30_3000];

/// A loop of 1000 rounds that calls a function, in three ways by turns; `change` comes into round 300.
fn caller(change: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    assemble(|a| {
        let [mut again, mut on, mut indirect, mut stored, mut called] = std::array::from_fn(|_| a.create_label());
        a.mov(ebp, 1000)?;
        a.xor(edx, edx)?;
        a.mov(rbx, FUNCTIONS)?;
        a.mov(rsi, DATA)?;
        a.mov(qword_ptr(rsi), rbx)?;
        a.set_label(&mut again)?;
        a.cmp(ebp, 700)?;
        a.jne(on)?;
        change(a)?;
        a.set_label(&mut on)?;
        a.cmp(ebp, 600)?;
        a.ja(indirect)?;
        a.cmp(ebp, 300)?;
        a.ja(stored)?;
        a.call(FUNCTIONS)?;
        a.jmp(called)?;
        a.set_label(&mut indirect)?;
        a.call(rbx)?;
        a.jmp(called)?;
        a.set_label(&mut stored)?;
        a.call(qword_ptr(rsi))?;
        a.set_label(&mut called)?;
        a.add(rdx, rax)?;
        a.dec(ebp)?;
        a.jne(again)?;
        a.hlt()
    })
}

/// Maps the functions: each gives its number, by way of a jump that it looks up on its stack.
fn functions(h: &mut Harness) {
    h.set_u64(TABLES + 0x2000 + 8 * (FUNCTIONS >> 21), TABLE | 7);
    h.set_u64(TABLE, BODIES[0] | 3);
    for (n, body) in BODIES.into_iter().enumerate() {
        let function = h.assemble(FUNCTIONS, |a| {
            let mut out = a.create_label();
            a.lea(rcx, ptr(out))?;
            a.push(rcx)?;
            a.mov(eax, n as i32 + 1)?;
            a.pop(rcx)?;
            a.jmp(rcx)?;
            a.nops_with_size(40)?;
            a.set_label(&mut out)?;
            a.test(ebp, 0x100)?;
            if n == 0 { a.ret() } else { a.ret_1(8).and_then(|()| a.nop()) }
        });
        h.set_mem(body, &function);
    }
}

#[test]
fn calls_and_returns_over_pages() {
    let code = caller(|_| Ok(()));
    let end = agree_with(&code, END, END, functions);
    assert_eq!((end.stop, end.regs[usize::from(reg::RDX)]), (Stop::Halted, 1000));
    for n in (6000..6400).step_by(3) {
        agree_with(&code, n, END, functions);
    }
    agree_with(&code, END, 700, functions);
}

#[test]
fn a_page_of_a_trace_becomes_another() {
    let remap = |a: &mut CodeAssembler| {
        a.mov(rax, BODIES[1] | 3)?;
        a.mov(qword_ptr(TABLE), rax)?;
        a.invlpg(byte_ptr(rbx))
    };
    let end = agree_with(&caller(remap), END, END, functions);
    assert_eq!((end.stop, end.regs[usize::from(reg::RDX)]), (Stop::Halted, 300 + 2 * 700));
    // The same by another address space.
    let switch = |a: &mut CodeAssembler| {
        a.mov(rax, BODIES[1] | 3)?;
        a.mov(qword_ptr(TABLE), rax)?;
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)
    };
    let end = agree_with(&caller(switch), END, END, functions);
    assert_eq!(end.regs[usize::from(reg::RDX)], 300 + 2 * 700);
    // The memory behind it is written: the function gives 9 then.
    let write = |a: &mut CodeAssembler| a.mov(byte_ptr(BODIES[0] + 9), 9);
    let end = agree_with(&caller(write), END, END, functions);
    assert_eq!(end.regs[usize::from(reg::RDX)], 300 + 9 * 700);
}
