//! Code that is written while it runs, beyond the point where its page becomes volatile.

use iced_x86::code_asm::{al, byte_ptr, cl, dword_ptr, eax, ecx, edx, rdi};
use softmetal_cpu::Stop;
use softmetal_cpu::state::reg;
use softmetal_cpu::testing::Harness;

const FUNCTION: u64 = 0x3_0000;
const TIMES: u32 = 20_000;

/// Calls the function at `FUNCTION` `TIMES` times, after `patch`, with the number of calls left in ECX; sums EAX in EDX.
fn calls(function: &[u8], patch: &[u8]) -> Harness {
    let mut h = Harness::long().asm(|a| {
        a.mov(edx, 0)?;
        a.mov(ecx, TIMES)?;
        a.mov(rdi, FUNCTION)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.db(patch)?;
        a.call(rdi)?;
        a.add(edx, eax)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.hlt()
    });
    h.set_mem(FUNCTION, function);
    h
}

fn bytes(f: impl FnOnce(&mut iced_x86::code_asm::CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Vec<u8> {
    Harness::long().assemble(0, f)
}

#[test]
fn constants_opcodes_and_lengths_change() {
    // MOV EAX, imm32; RET: the constant is the count.
    let mut h = calls(&[0xb8, 0, 0, 0, 0, 0xc3], &bytes(|a| a.mov(dword_ptr(rdi + 1), ecx)));
    assert_eq!(h.run(1 << 30), Stop::Halted);
    let sum: u32 = (1..=TIMES).fold(0, u32::wrapping_add);
    assert_eq!(h.reg(reg::RDX) as u32, sum);

    // MOV EAX, ECX; then INC EAX or DEC EAX (FF C0 or FF C8) by the count's lowest bit; RET.
    let flip = bytes(|a| {
        a.mov(al, cl)?;
        a.and(al, 1)?;
        a.shl(al, 3u32)?;
        a.or(al, 0xc0)?;
        a.mov(byte_ptr(rdi + 3), al)
    });
    let mut h = calls(&[0x89, 0xc8, 0xff, 0xc0, 0xc3], &flip);
    assert_eq!(h.run(1 << 30), Stop::Halted);
    // Odd counts are decremented, even ones incremented, and there are as many of each.
    assert_eq!(h.reg(reg::RDX) as u32, sum);
}

#[test]
fn a_volatile_block_sees_its_own_store() {
    // The function patches the constant of its own next instruction: MOV [RDI+6], CL; padding; MOV EAX, imm32; RET.
    let mut function = bytes(|a| a.mov(byte_ptr(rdi + 6), cl));
    function.resize(5, 0x90);
    function.extend([0xb8, 0, 0, 0, 0, 0xc3]);
    let mut h = calls(&function, &[]);
    assert_eq!(h.run(1 << 30), Stop::Halted);
    let sum = (1..=TIMES).fold(0, |s: u32, n| s + (n & 0xff));
    assert_eq!(h.reg(reg::RDX) as u32, sum);
}

#[test]
fn a_page_that_is_left_alone_becomes_ordinary() {
    let mut h = calls(&[0xb8, 0, 0, 0, 0, 0xc3], &bytes(|a| a.mov(dword_ptr(rdi + 1), ecx)));
    h.run(1 << 30);
    let decoded = h.p.blocks_decoded();
    // The same calls without a store, and then the store again: both must be right.
    let quiet = h.assemble(softmetal_cpu::testing::CODE + 0x800, |a| {
        a.mov(edx, 0)?;
        a.mov(ecx, TIMES)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.call(rdi)?;
        a.add(edx, eax)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.mov(dword_ptr(rdi + 1), 77)?;
        a.call(rdi)?;
        a.hlt()
    });
    h.set_mem(softmetal_cpu::testing::CODE + 0x800, &quiet);
    h.p.cpu.state.rip = softmetal_cpu::testing::CODE + 0x800;
    h.p.cpu.state.halted = false;
    assert_eq!(h.run(1 << 30), Stop::Halted);
    assert_eq!(h.reg(reg::RDX) as u32, TIMES, "the last constant written was 1");
    assert_eq!(h.reg(reg::RAX), 77);
    assert!(h.p.blocks_decoded() - decoded < 16, "a steady page must not be decoded again and again");
}
