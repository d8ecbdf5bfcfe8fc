//! Debug exceptions: single steps, breakpoints of the debug registers, and what holds them off.

use iced_x86::code_asm::{byte_ptr, cl, dword_ptr, ecx, qword_ptr, rax, rcx};
use softmetal_cpu::Stop;
use softmetal_cpu::fault::vector;
use softmetal_cpu::flags::{RF, TF};
use softmetal_cpu::state::{TableRegister, bits, reg};
use softmetal_cpu::testing::{CODE, Harness, STACK};

const IDT: u64 = 0x2000;
/// The handler of vector `v` is at `HANDLERS + 16 * v`: IRETQ.
const HANDLERS: u64 = 0x2_0000;
const DATA: u64 = 0x9000;
const BS: u64 = 1 << 14;
const DR6: u64 = 0xffff_0ff0;

fn handler(v: u8) -> u64 {
    HANDLERS + 16 * u64::from(v)
}

fn long() -> Harness {
    let mut h = Harness::long();
    for v in 0..=255u8 {
        let at = handler(v);
        h.set_u64(IDT + 16 * u64::from(v), at & 0xffff | 8 << 16 | 0x8e << 40 | (at >> 16) << 48);
        h.set_mem(at, &[0x48, 0xcf]);
    }
    h.p.cpu.state.idtr = TableRegister { base: IDT, limit: 0xfff };
    h
}

fn traced(h: Harness) -> Harness {
    let mut h = h;
    h.p.cpu.state.eflags |= TF;
    h
}

/// Runs one step to `rip`.
#[track_caller]
fn to(h: &mut Harness, rip: u64) {
    let count = h.p.icount();
    assert_eq!(h.run(1), Stop::Budget);
    assert_eq!(h.p.icount(), count + 1);
    assert_eq!(h.p.cpu.state.rip, rip, "RIP {:#x}, not {rip:#x}", h.p.cpu.state.rip);
}

/// The next step delivers a #DB that returns to `rip`, with just `dr6` set; goes on behind it. The pushed flags.
#[track_caller]
fn trap(h: &mut Harness, rip: u64, dr6: u64) -> u64 {
    to(h, handler(vector::DB));
    let sp = h.reg(reg::RSP);
    let s = &mut h.p.cpu.state;
    assert_eq!(s.dr[6], DR6 | dr6);
    s.dr[6] = DR6;
    assert_eq!(h.u64(sp), rip);
    let pushed = h.u64(sp + 16);
    to(h, rip);
    pushed
}

/// Puts values into DR0.. and DR7; `controls` are R/W and LEN.
fn watch(h: &mut Harness, breakpoints: &[(u64, u64)]) {
    let mut state = h.p.cpu.state.clone();
    for (n, (addr, control)) in breakpoints.iter().enumerate() {
        state.dr[n] = *addr;
        state.dr[7] |= 2 << (2 * n) | control << (16 + 4 * n);
    }
    h.p.load(state);
}
const EXECUTE: u64 = 0;
const WRITE_4: u64 = 0b1101;
const ACCESS_1: u64 = 0b0011;
const ACCESS_8: u64 = 0b1011;
const PORT_1: u64 = 0b0010;

#[test]
fn each_instruction_is_followed_by_its_single_step() {
    let mut h = traced(long().code(&[0x90; 8]));
    for i in 1..4 {
        to(&mut h, CODE + i);
        assert_eq!(trap(&mut h, CODE + i, BS) & (TF | RF), TF);
    }
}

#[test]
fn a_software_interrupt_is_not_followed_by_a_single_step() {
    let mut h = traced(long().code(&[0xcd, 0x40, 0x90, 0x90]));
    to(&mut h, handler(0x40));
    // The handler is not traced, and IRET's TF counts from the next instruction on.
    to(&mut h, CODE + 2);
    to(&mut h, CODE + 3);
    trap(&mut h, CODE + 3, BS);
}

#[test]
fn syscall_that_masks_tf_is_not_followed_by_a_single_step() {
    let mut h = traced(long().asm(|a| a.syscall()));
    let m = &mut h.p.cpu.state.msr;
    (m.star, m.lstar, m.fmask) = (0x0020_0008 << 32, DATA, TF);
    h.set_mem(DATA, &[0x90, 0x90]);
    to(&mut h, DATA);
    to(&mut h, DATA + 1);
    to(&mut h, DATA + 2);
}

#[test]
fn popf_counts_from_the_next_instruction_on() {
    let mut h = long().code(&[0x9d, 0x90, 0x9d, 0x90, 0x90]);
    h.set_u64(STACK, TF | 2);
    h.set_u64(STACK + 8, 2);
    to(&mut h, CODE + 1);
    to(&mut h, CODE + 2);
    trap(&mut h, CODE + 2, BS);
    to(&mut h, CODE + 3);
    // TF was set when it began.
    trap(&mut h, CODE + 3, BS);
    // But the handler's IRET has restored what the trap pushed.
    assert_eq!(h.flags() & TF, 0);
    to(&mut h, CODE + 4);
    to(&mut h, CODE + 5);
}

#[test]
fn a_faulting_instruction_has_no_single_step() {
    let mut h = traced(long().code(&[0x0f, 0x0b]));
    to(&mut h, handler(vector::UD));
    assert_eq!(h.u64(h.reg(reg::RSP) + 16) & (TF | RF), TF | RF);
    // It returns to the same instruction.
    to(&mut h, CODE);
    assert_ne!(h.flags() & RF, 0);
    to(&mut h, handler(vector::UD));
}

#[test]
fn mov_ss_holds_back_one_instruction() {
    // mov ss, ax; nop; nop
    let mut h = traced(long().code(&[0x8e, 0xd0, 0x90, 0x90]));
    h.set_reg(reg::RAX, 0x10);
    to(&mut h, CODE + 2);
    to(&mut h, CODE + 3);
    trap(&mut h, CODE + 3, BS);

    // mov ss, [DATA]: its data breakpoint comes after the next instruction, whose own instruction breakpoint is lost.
    let mut h = long().code(&[0x8e, 0x14, 0x25, 0x00, 0x90, 0, 0, 0x90, 0x90]);
    h.set_mem(DATA, &[0x10, 0]);
    watch(&mut h, &[(DATA, ACCESS_1), (CODE + 7, EXECUTE)]);
    to(&mut h, CODE + 7);
    to(&mut h, CODE + 8);
    trap(&mut h, CODE + 8, 1);
}

#[test]
fn an_instruction_breakpoint_is_a_fault_that_rf_holds_off() {
    let mut h = long().code(&[0x90; 8]);
    watch(&mut h, &[(0, EXECUTE), (CODE + 2, EXECUTE)]);
    assert_eq!(h.run(2), Stop::Budget);
    assert_eq!(h.p.cpu.state.rip, CODE + 2);
    assert_eq!(trap(&mut h, CODE + 2, 2) & RF, 0);
    to(&mut h, handler(vector::DB));
    // With RF in the image it is executed, and RF is gone behind it.
    let at = h.reg(reg::RSP) + 16;
    let pushed = h.u64(at);
    h.set_u64(at, pushed | RF);
    h.p.cpu.state.dr[6] = DR6;
    to(&mut h, CODE + 2);
    assert_ne!(h.flags() & RF, 0);
    to(&mut h, CODE + 3);
    assert_eq!(h.flags() & RF, 0);
    h.run(2);
    assert_eq!((h.p.cpu.state.rip, h.p.cpu.state.dr[6]), (CODE + 5, DR6));
}

#[test]
fn data_breakpoints_are_traps() {
    let mut h = long().asm(|a| {
        a.mov(ecx, dword_ptr(DATA + 8))?; // 7 bytes each
        a.mov(dword_ptr(DATA + 12), ecx)?;
        a.mov(dword_ptr(DATA + 4), ecx)?;
        a.mov(byte_ptr(DATA + 11), cl)?;
        a.nop()
    });
    watch(&mut h, &[(0, EXECUTE), (DATA + 8, WRITE_4)]);
    to(&mut h, CODE + 7);
    to(&mut h, CODE + 14);
    to(&mut h, CODE + 21);
    to(&mut h, CODE + 28);
    assert_eq!(trap(&mut h, CODE + 28, 2) & RF, 0);
    to(&mut h, CODE + 29);

    // Reads count for R/W = 3; an access over a page's end that reaches the breakpoint too.
    let mut h = long().asm(|a| {
        a.mov(rcx, qword_ptr(DATA - 4))?; // 8 bytes
        a.add(dword_ptr(DATA), ecx)
    });
    watch(&mut h, &[(DATA + 3, ACCESS_1)]);
    to(&mut h, CODE + 8);
    trap(&mut h, CODE + 8, 1);
    to(&mut h, CODE + 15);
    trap(&mut h, CODE + 15, 1);

    // The delivery pushes onto watched bytes as well: that is met before the handler's first instruction.
    let mut h = long().asm(|a| a.push(rax));
    watch(&mut h, &[(STACK - 8, ACCESS_8)]);
    to(&mut h, CODE + 1);
    h.set_reg(reg::RSP, STACK);
    to(&mut h, handler(vector::DB));
    h.p.cpu.state.dr[6] = DR6;
    to(&mut h, handler(vector::DB));
    assert_eq!((h.p.cpu.state.dr[6], h.u64(h.reg(reg::RSP))), (DR6 | 1, handler(vector::DB)));
}

#[test]
fn repeated_instructions_stop_behind_the_iteration() {
    // rep stosb
    let mut h = long().code(&[0xf3, 0xaa, 0x90]);
    h.set_reg(reg::RCX, 8);
    h.set_reg(reg::RDI, DATA);
    watch(&mut h, &[(DATA + 2, ACCESS_1), (CODE, EXECUTE)]);
    h.p.cpu.state.eflags |= RF;
    assert_eq!(h.run(3), Stop::Budget);
    assert_eq!((h.reg(reg::RCX), h.p.cpu.state.rip), (5, CODE));
    // RF is pushed, so that the instruction breakpoint is not met again.
    assert_eq!(trap(&mut h, CODE, 1) & RF, RF);
    assert_eq!(h.run(5), Stop::Budget);
    assert_eq!((h.reg(reg::RCX), h.p.cpu.state.rip, h.flags() & RF), (0, CODE + 2, 0));

    let mut h = traced(long().code(&[0xf3, 0xaa, 0x90]));
    h.set_reg(reg::RCX, 2);
    h.set_reg(reg::RDI, DATA);
    to(&mut h, CODE);
    trap(&mut h, CODE, BS);
    to(&mut h, CODE + 2);
    trap(&mut h, CODE + 2, BS);
}

#[test]
fn port_breakpoints_need_debug_extensions() {
    // out 0x80, eax; in al, 0x84
    for (de, dr6) in [(0, 0), (bits::CR4_DE, 1)] {
        let mut h = long().code(&[0xe7, 0x80, 0xe4, 0x84]);
        h.p.cpu.state.cr4 |= de;
        watch(&mut h, &[(0x82, PORT_1)]);
        to(&mut h, CODE + 2);
        if dr6 != 0 {
            trap(&mut h, CODE + 2, dr6);
        }
        to(&mut h, CODE + 4);
        assert_eq!(h.p.cpu.state.dr[6], DR6);
        assert_eq!(h.edge.lock().unwrap().outs.len(), 1);
    }
}

#[test]
fn int1_and_general_detect() {
    let mut h = long().code(&[0xf1, 0x90]);
    to(&mut h, handler(vector::DB));
    assert_eq!((h.u64(h.reg(reg::RSP)), h.p.cpu.state.dr[6]), (CODE + 1, DR6));

    // mov rax, dr0
    let mut h = long().code(&[0x0f, 0x21, 0xc0]);
    h.p.cpu.state.dr[7] |= 1 << 13;
    assert_eq!(trap(&mut h, CODE, 1 << 13) & RF, RF);
    // Delivery has cleared GD.
    to(&mut h, CODE + 3);
}

#[test]
fn a_debug_trap_comes_before_an_interrupt_and_wakes_from_hlt() {
    let mut h = traced(long().code(&[0xf4, 0x90]));
    to(&mut h, CODE + 1);
    assert!(h.p.cpu.state.halted);
    h.interrupt(0x50);
    trap(&mut h, CODE + 1, BS);
    assert!(!h.p.cpu.state.halted);
}

#[test]
fn the_host_debugger_stops_within_a_block() {
    let mut h = long().code(&[0x90; 64]);
    h.p.breakpoints_mut().extend([CODE + 5, CODE + 6]);
    assert_eq!(h.run(40), Stop::Breakpoint);
    assert_eq!((h.p.icount(), h.p.cpu.state.rip), (5, CODE + 5));
    assert_eq!(h.run(40), Stop::Breakpoint);
    assert_eq!((h.p.icount(), h.p.cpu.state.rip), (6, CODE + 6));
    assert_eq!(h.run(40), Stop::Budget);
    assert_eq!(h.p.icount(), 46);
}
