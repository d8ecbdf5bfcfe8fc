//! Ring 3 of long mode: the ways out of it and back, and what it may not do (SDM 3A, 5; 2A, SYSCALL, SYSRET; 3A, 6.14).
//!
//! Each case runs in ring 3 and ends with an exception, INT 0x40, or SYSCALL. The handler prints the vector (or "syscall"),
//! the error code, the ring it came from and the stack it runs on, and goes on in ring 0.

use iced_x86::code_asm::*;

use super::{power_off, start64_with};
use crate::console::Console;
use crate::image::{Emit, Image};
use crate::tables::{gate64, idt64, paging64, pte, selector};

/// The gate that ring 3 may use.
const CALL: usize = 0x40;
/// The vector whose gate names the first stack of the interrupt stack table.
const IST_VECTOR: usize = 6;
const CODED: [usize; 8] = [8, 10, 11, 12, 13, 14, 17, 21];

pub fn image() -> Vec<u8> {
    let mut image = Image::default();
    let c = Console::new(&mut image, 64);
    let (resume, stack) = (image.zeros(8, 8), image.zeros(8, 8));
    let user_stack = image.zeros(0x200, 16) + 0x200;
    let ring0_stack = image.zeros(0x400, 16) + 0x400;
    let ist_stack = image.zeros(0x400, 16) + 0x400;
    let tss = image.zeros(0x68, 16);
    image.poke_u64(tss + 4, ring0_stack);
    image.poke_u64(tss + 36, ist_stack);
    // No I/O permission bitmap: its offset is the segment's limit.
    image.poke(tss + 102, &0x68u16.to_le_bytes());
    // All of the image is the user's as well; what is only the kernel's is one page further up.
    let paging = paging64(&mut image, pte::U);
    image.poke_u64(paging.directory + 8, 0x20_0000 | pte::P | pte::W | pte::PS);

    let (vector, syscall, error, from) = (image.text("vector "), image.text("syscall"), image.text(" error "), image.text(" from ring "));
    let (to, line) = (image.text(" on the stack of "), image.text("\n"));
    let names = [image.text("ring 0"), image.text("the table"), image.text("ring 3")];
    // Prints whose stack R15 is in, then leaves.
    let finish = image.code(64, |a| {
        c.say(a, to)?;
        let (mut table, mut user, mut done) = (a.create_label(), a.create_label(), a.create_label());
        for (top, label) in [(ist_stack, table), (user_stack, user)] {
            let mut other = a.create_label();
            a.mov(rax, top)?;
            a.sub(rax, r15)?;
            a.cmp(rax, 0x200)?;
            a.ja(other)?;
            a.jmp(label)?;
            a.set_label(&mut other)?;
        }
        c.say(a, names[0])?;
        a.jmp(done)?;
        a.set_label(&mut table)?;
        c.say(a, names[1])?;
        a.jmp(done)?;
        a.set_label(&mut user)?;
        c.say(a, names[2])?;
        a.set_label(&mut done)?;
        c.say(a, line)?;
        a.mov(eax, u32::from(selector::DATA))?;
        a.mov(ss, ax)?;
        a.mov(rsp, qword_ptr(stack))?;
        a.push(2)?;
        a.popfq()?;
        a.jmp(qword_ptr(resume))
    });
    let common = image.code(64, |a| {
        a.pop(r12)?;
        a.pop(r13)?;
        a.mov(r14, qword_ptr(rsp + 8))?;
        a.mov(r15, rsp)?;
        c.say(a, vector)?;
        a.mov(ebp, r12d)?;
        a.shl(ebp, 24)?;
        a.mov(cx, 2)?;
        a.call(c.digits)?;
        c.say(a, error)?;
        a.mov(ebp, r13d)?;
        a.call(c.hex)?;
        c.say(a, from)?;
        a.mov(ebp, r14d)?;
        a.and(ebp, 3)?;
        a.call(c.decimal)?;
        a.jmp(finish)
    });
    let mut gates = Vec::new();
    for n in 0..=CALL {
        let handler = image.code(64, |a| {
            if !CODED.contains(&n) {
                a.push(0)?;
            }
            a.push(n as i32)?;
            a.jmp(common)
        });
        gates.push(gate64(handler, u8::from(n == IST_VECTOR), if n == CALL { 3 } else { 0 }));
    }
    let idt = idt64(&mut image, &gates);
    // SYSCALL changes no stack: R15 is still the user's. RCX is where it came from, R11 the flags.
    let entry = image.code(64, |a| {
        a.mov(r15, rsp)?;
        a.mov(rsp, ring0_stack)?;
        c.say(a, syscall)?;
        a.jmp(finish)
    });
    // This one goes back with a number in RAX, as a kernel does.
    let round_trip = image.code(64, |a| {
        a.lea(rax, qword_ptr(rdi + 1))?;
        a.sysretq()
    });

    let mut cases: Vec<u64> = Vec::new();
    let mut case = |image: &mut Image, name: &str, target: u64, flags: i32, body: &dyn Fn(&mut CodeAssembler) -> Emit| {
        let name = image.text(&format!("{name:<34}"));
        let user = image.code(64, |a| {
            body(a)?;
            a.int(CALL as i32)
        });
        cases.push(image.code(64, |a| {
            let mut after = a.create_label();
            c.say(a, name)?;
            a.lea(rax, qword_ptr(after))?;
            a.mov(qword_ptr(resume), rax)?;
            a.mov(qword_ptr(stack), rsp)?;
            a.mov(ecx, 0xc000_0082u32)?;
            a.mov(eax, target as u32)?;
            a.xor(edx, edx)?;
            a.wrmsr()?;
            a.mov(rax, user_stack)?;
            a.push(i32::from(selector::USER_DATA))?;
            a.push(rax)?;
            a.push(flags | 2)?;
            a.push(i32::from(selector::USER64))?;
            a.push(user as i32)?;
            a.iretq()?;
            a.set_label(&mut after)?;
            a.ret()
        }));
    };
    case(&mut image, "INT by a gate of ring 3", entry, 0, &|_| Ok(()));
    case(&mut image, "INT by a gate of ring 0", entry, 0, &|a| a.int(0x20));
    case(&mut image, "INT3 by a gate of ring 0", entry, 0, &|a| a.int3());
    case(&mut image, "SYSCALL", entry, 0, &|a| a.syscall());
    case(&mut image, "SYSCALL and SYSRET, 41 + 1", round_trip, 0, &|a| {
        let mut wrong = a.create_label();
        a.mov(edi, 41)?;
        a.mov(rbx, rsp)?;
        a.syscall()?;
        // Back in ring 3, on the same stack: else #UD below.
        a.cmp(rax, 42)?;
        a.jne(wrong)?;
        a.cmp(rbx, rsp)?;
        a.jne(wrong)?;
        a.mov(eax, cs)?;
        a.cmp(eax, i32::from(selector::USER64))?;
        a.jne(wrong)?;
        a.mov(eax, ss)?;
        a.cmp(eax, i32::from(selector::USER_DATA))?;
        a.jne(wrong)?;
        a.int(CALL as i32)?;
        a.set_label(&mut wrong)?;
        a.ud2()
    });
    case(&mut image, "UD2, with a stack of its own", entry, 0, &|a| a.ud2());
    case(&mut image, "HLT", entry, 0, &|a| a.hlt());
    case(&mut image, "CLI with IOPL 0", entry, 0, &|a| a.cli());
    case(&mut image, "OUT with IOPL 0 and no bitmap", entry, 0, &|a| a.out(0x80, al));
    case(&mut image, "OUT with IOPL 3", entry, 3 << 12, &|a| a.out(0x80, al));
    case(&mut image, "MOV from CR0", entry, 0, &|a| a.mov(rax, cr0));
    case(&mut image, "RDMSR", entry, 0, &|a| a.rdmsr());
    case(&mut image, "a load of a page of the kernel's", entry, 0, &|a| {
        a.mov(ebx, 0x20_0000)?;
        a.mov(eax, dword_ptr(rbx))
    });
    case(&mut image, "a data segment of ring 0", entry, 0, &|a| {
        a.mov(eax, u32::from(selector::DATA))?;
        a.mov(ds, ax)
    });
    let main = image.code(64, |a| {
        a.lidt(ptr(idt.pointer))?;
        a.mov(eax, u32::from(selector::TASK))?;
        a.ltr(ax)?;
        // EFER.SCE; SYSRET's selectors from USER32 on, SYSCALL's from DATA's predecessor on.
        a.mov(ecx, 0xc000_0080u32)?;
        a.rdmsr()?;
        a.or(eax, 1)?;
        a.wrmsr()?;
        a.mov(ecx, 0xc000_0081u32)?;
        a.xor(eax, eax)?;
        a.mov(edx, u32::from(selector::USER32) << 16 | u32::from(selector::DATA))?;
        a.wrmsr()?;
        a.mov(ecx, 0xc000_0084u32)?;
        a.mov(eax, 1 << 9)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        for case in &cases {
            a.call(*case)?;
        }
        power_off(a)
    });
    start64_with(image, paging.pml4, main, Some(tss))
}
