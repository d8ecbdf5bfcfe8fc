//! Every exception that ring 0 of 64-bit mode can cause without a task switch: vector, error code, and whether the saved
//! RIP is that of the instruction or of the next one (SDM 3A, 6.15).

use iced_x86::code_asm::*;

use super::{power_off, start64};
use crate::console::Console;
use crate::image::{Emit, Image};
use crate::tables::{gate64, idt64, page_table, paging64, pte};

/// Pages with nothing there, read-only, not for execution, and with a reserved bit set.
const ABSENT: u64 = 0x4000_0000;
const READ_ONLY: u64 = ABSENT + 0x1000;
const NO_EXECUTE: u64 = ABSENT + 0x2000;
const RESERVED: u64 = ABSENT + 0x3000;
/// No canonical address.
const WILD: u64 = 0x8000_0000_0000_0000;
/// Gates in the IDT; the last one is not present.
const GATES: usize = 0x31;

/// Vectors with an error code.
const CODED: [usize; 8] = [8, 10, 11, 12, 13, 14, 17, 21];

struct Tables {
    console: Console,
    /// Words: the address of the instruction that is tried, where to go on, the stack there.
    start: u64,
    resume: u64,
    stack: u64,
}

pub fn image() -> Vec<u8> {
    let mut image = Image::default();
    let t = Tables { console: Console::new(&mut image, 64), start: image.zeros(8, 8), resume: image.zeros(8, 8), stack: image.zeros(8, 8) };
    let frame = image.zeros(0x1000, 0x1000);
    let paging = paging64(&mut image, 0);
    let (directory, table) = (page_table(&mut image), page_table(&mut image));
    image.poke_u64(paging.pdpt + 8, directory | pte::P | pte::W);
    image.poke_u64(directory, table | pte::P | pte::W);
    // Bit 51 is above every physical address here.
    for (page, entry) in [(1, frame | pte::P), (2, frame | pte::P | pte::W | pte::NX), (3, frame | pte::P | 1 << 51)] {
        image.poke_u64(table + page * 8, entry);
    }

    let (vector, error, rip, address) = (image.text("vector "), image.text(" error "), image.text(" rip +"), image.text(" cr2 "));
    let line = image.text("\n");
    let c = t.console;
    let common = image.code(64, |a| {
        a.pop(r12)?;
        a.pop(r13)?;
        a.pop(r14)?;
        a.mov(rsp, qword_ptr(t.stack))?;
        a.sub(r14, qword_ptr(t.start))?;
        c.say(a, vector)?;
        two_digits(a, &c, r12d)?;
        c.say(a, error)?;
        a.mov(ebp, r13d)?;
        a.call(c.hex)?;
        c.say(a, rip)?;
        two_digits(a, &c, r14d)?;
        let mut other = a.create_label();
        a.cmp(r12d, 14)?;
        a.jne(other)?;
        c.say(a, address)?;
        a.mov(rbp, cr2)?;
        a.call(c.hex)?;
        a.set_label(&mut other)?;
        c.say(a, line)?;
        a.jmp(qword_ptr(t.resume))
    });
    let mut gates = Vec::new();
    for n in 0..GATES {
        let handler = image.code(64, |a| {
            if !CODED.contains(&n) {
                a.push(0)?;
            }
            a.push(n as i32)?;
            a.jmp(common)
        });
        gates.push(gate64(handler, 0, 0));
    }
    gates[GATES - 1][0] &= !(1 << 47);
    let idt = idt64(&mut image, &gates);

    let mut cases: Vec<u64> = Vec::new();
    let mut case =
        |image: &mut Image, name: &str, before: &dyn Fn(&mut CodeAssembler) -> Emit, tried: &dyn Fn(&mut CodeAssembler) -> Emit| {
            let name = image.text(&format!("{name:<34}"));
            cases.push(image.code(64, |a| {
                let (mut start, mut after) = (a.create_label(), a.create_label());
                c.say(a, name)?;
                a.lea(rax, qword_ptr(start))?;
                a.mov(qword_ptr(t.start), rax)?;
                a.lea(rax, qword_ptr(after))?;
                a.mov(qword_ptr(t.resume), rax)?;
                a.mov(qword_ptr(t.stack), rsp)?;
                before(a)?;
                a.set_label(&mut start)?;
                tried(a)?;
                a.set_label(&mut after)?;
                a.ret()
            }));
        };
    let nothing = |_: &mut CodeAssembler| Ok(());
    case(&mut image, "DIV by zero", &|a| a.xor(ecx, ecx), &|a| a.div(ecx));
    case(
        &mut image,
        "DIV, quotient too large",
        &|a| {
            a.mov(edx, 2)?;
            a.mov(ecx, 2)
        },
        &|a| a.div(ecx),
    );
    case(&mut image, "INT1", &nothing, &|a| a.int1());
    case(&mut image, "INT3", &nothing, &|a| a.int3());
    case(&mut image, "INTO in 64-bit mode", &nothing, &|a| a.db(&[0xce]));
    case(&mut image, "UD2", &nothing, &|a| a.ud2());
    case(&mut image, "LOCK on a register", &nothing, &|a| a.db(&[0xf0, 0x01, 0xc8]));
    case(
        &mut image,
        "x87 with CR0.TS",
        &|a| {
            a.mov(rax, cr0)?;
            a.or(rax, 8)?;
            a.mov(cr0, rax)
        },
        &|a| a.fldz(),
    );
    case(&mut image, "SSE with CR0.TS", &nothing, &|a| a.xorps(xmm0, xmm0));
    case(&mut image, "INT through an absent gate", &nothing, &|a| a.int(GATES as i32 - 1));
    case(&mut image, "INT past the end of the IDT", &nothing, &|a| a.int(0x80));
    case(&mut image, "a selector past the end of the GDT", &|a| a.mov(eax, 0x1000), &|a| a.mov(ds, ax));
    case(&mut image, "a null selector for SS in ring 3", &|a| a.mov(eax, 3), &|a| a.mov(ss, ax));
    case(&mut image, "a load, not canonical", &|a| a.mov(rbx, WILD), &|a| a.mov(rax, qword_ptr(rbx)));
    case(&mut image, "a load by RBP, not canonical", &|a| a.mov(rbp, WILD), &|a| a.mov(rax, qword_ptr(rbp)));
    case(&mut image, "an MSR that does not exist", &|a| a.mov(ecx, 0xdead), &|a| a.rdmsr());
    case(
        &mut image,
        "MOVAPS, not aligned",
        &|a| {
            a.clts()?;
            a.mov(rbx, frame + 8)
        },
        &|a| a.movaps(xmm0, xmmword_ptr(rbx)),
    );
    case(&mut image, "a load, page not present", &|a| a.mov(rbx, ABSENT), &|a| a.mov(rax, qword_ptr(rbx + 0x123)));
    case(&mut image, "a store, page not present", &|a| a.mov(rbx, ABSENT), &|a| a.mov(qword_ptr(rbx), rax));
    case(&mut image, "a store, page read-only", &|a| a.mov(rbx, READ_ONLY), &|a| a.mov(qword_ptr(rbx), rax));
    case(&mut image, "a store across into it", &|a| a.mov(rbx, READ_ONLY - 4), &|a| a.mov(qword_ptr(rbx), rax));
    case(&mut image, "a load, reserved bit of the entry", &|a| a.mov(rbx, RESERVED), &|a| a.mov(rax, qword_ptr(rbx)));
    // The jump itself is done; the fetch after it faults.
    case(
        &mut image,
        "a jump, no execution",
        &|a| {
            a.mov(rbx, NO_EXECUTE)?;
            a.mov(qword_ptr(t.start), rbx)
        },
        &|a| a.jmp(rbx),
    );
    case(
        &mut image,
        "x87 division by zero",
        &|a| {
            a.fninit()?;
            a.push(0x37b)?;
            a.fldcw(word_ptr(rsp))?;
            a.pop(rax)?;
            a.fld1()?;
            a.fldz()?;
            a.fdivp(st1, st0)
        },
        &|a| a.wait(),
    );
    case(
        &mut image,
        "SSE division by zero",
        &|a| {
            a.fninit()?;
            a.push(0x1d80)?;
            a.ldmxcsr(dword_ptr(rsp))?;
            a.pop(rax)?;
            a.mov(eax, 0x3f80_0000)?;
            a.movd(xmm0, eax)?;
            a.xorps(xmm1, xmm1)
        },
        &|a| a.divss(xmm0, xmm1),
    );
    // Last, because a processor that lets them pass does not go on well.
    case(
        &mut image,
        "a reserved bit of CR4",
        &|a| {
            a.mov(rax, cr4)?;
            a.bts(rax, 63)
        },
        &|a| a.mov(cr4, rax),
    );
    case(
        &mut image,
        "CR0.PG without CR0.PE",
        &|a| {
            a.mov(rax, cr0)?;
            a.and(rax, -2)
        },
        &|a| a.mov(cr0, rax),
    );
    let main = image.code(64, |a| {
        a.lidt(ptr(idt.pointer))?;
        for case in &cases {
            a.call(*case)?;
        }
        power_off(a)
    });
    start64(image, paging.pml4, main)
}

/// Emits: print the low byte of `register`.
fn two_digits(a: &mut CodeAssembler, console: &Console, register: AsmRegister32) -> Emit {
    a.mov(ebp, register)?;
    a.shl(ebp, 24)?;
    a.mov(cx, 2)?;
    a.call(console.digits)
}
