//! System management mode: what the map of the interrupted state says, what the handler is entered with, what it changes, and
//! where SMBASE leads (SDM 3C, 31; APM 2, 10.3). The board is one with the 440FX, whose SMRAM is opened first.

use iced_x86::code_asm::*;

use super::{power_off, start64};
use crate::console::Console;
use crate::image::Image;
use crate::tables::{page_table, paging64, pte};

/// Where firmware may have left SMBASE, and where the handler moves it.
const OLD: [u64; 2] = [0x3_0000, 0xa_0000];
const NEW: u32 = 0x5_0000;
/// From SMBASE on: the handler, and the map (APM 2, table 10-1).
const ENTRY: u64 = 0x8000;
const MAP: u32 = 0xfe00;
const MAP_LEN: u32 = 0x200;
/// The interrupt command register of the local APIC, and SMI to processor 0.
const APIC: u64 = 0xfee0_0000;
const ICR: u64 = APIC + 0x300;
const SMI: i32 = 0x4200;

/// What is shown of the map: name, offset, bytes. Segments by selector, attributes and limit.
const FIELDS: [(&str, u64, u32); 34] = [
    ("ES", 0x00, 2),
    ("ES attributes", 0x02, 2),
    ("ES limit", 0x04, 4),
    ("CS", 0x10, 2),
    ("CS attributes", 0x12, 2),
    ("CS limit", 0x14, 4),
    ("SS", 0x20, 2),
    ("SS attributes", 0x22, 2),
    ("DS attributes", 0x32, 2),
    ("GDTR limit", 0x64, 2),
    ("LDTR", 0x70, 2),
    ("IDTR limit", 0x84, 2),
    ("IDTR base", 0x88, 4),
    ("I/O restart", 0xc8, 1),
    ("HLT restart", 0xc9, 1),
    ("EFER", 0xd0, 4),
    ("revision", 0xfc, 4),
    ("CR4", 0x148, 4),
    ("CR0", 0x158, 4),
    ("DR7", 0x160, 4),
    ("DR6", 0x168, 4),
    ("RFLAGS", 0x170, 4),
    ("R15", 0x180, 4),
    ("R15, upper half", 0x184, 4),
    ("R14", 0x188, 4),
    ("R8", 0x1b8, 4),
    ("RDI", 0x1c0, 4),
    ("RSI", 0x1c8, 4),
    ("RBP", 0x1d0, 4),
    ("RBX", 0x1e0, 4),
    ("RDX", 0x1e8, 4),
    ("RCX", 0x1f0, 4),
    ("RAX", 0x1f8, 4),
    ("RAX, upper half", 0x1fc, 4),
];
/// What the handler tells: CR0, CR4, CS.
const INSIDE: [&str; 3] = ["CR0 inside", "CR4 inside", "CS inside"];

pub fn image() -> Vec<u8> {
    let mut image = Image::default();
    let c = Console::new(&mut image, 64);
    let [count, seen, inside] = [8, u64::from(MAP_LEN), 16].map(|len| image.zeros(len, 16));
    let no_idt = image.data(&[0x23, 0x01, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0]);
    let paging = paging64(&mut image, 0);
    let directory = page_table(&mut image);
    image.poke_u64(paging.pdpt + 3 * 8, directory | pte::P | pte::W);
    image.poke_u64(directory + (APIC >> 21 & 511) * 8, APIC | pte::P | pte::W | pte::PS | 1 << 4);

    // Runs wherever it is put.
    let handler = |a: &mut CodeAssembler| {
        let mut next = a.create_label();
        a.mov(ebx, inside as u32)?;
        a.mov(eax, cr0)?;
        a.mov(dword_ptr(ebx), eax)?;
        a.mov(eax, cr4)?;
        a.mov(dword_ptr(ebx + 4), eax)?;
        a.mov(eax, cs)?;
        a.movzx(eax, ax)?;
        a.mov(dword_ptr(ebx + 8), eax)?;
        a.shl(eax, 4)?;
        a.lea(esi, ptr(eax + MAP))?;
        a.mov(edi, seen as u32)?;
        a.mov(ecx, MAP_LEN / 4)?;
        a.set_label(&mut next)?;
        a.mov(eax, dword_ptr(esi))?;
        a.mov(dword_ptr(edi), eax)?;
        a.add(esi, 4)?;
        a.add(edi, 4)?;
        a.dec(ecx)?;
        a.jne(next)?;
        // Behind the map: RAX, SMBASE.
        a.mov(dword_ptr(esi - 4), 0x0bad_cafe)?;
        a.mov(dword_ptr(esi - 8), 0x1234_5678)?;
        a.mov(dword_ptr(esi - 0x100), NEW as i32)?;
        a.mov(ebx, count as u32)?;
        a.inc(dword_ptr(ebx))?;
        a.rsm()
    };
    let code = image.code(16, handler);
    let len = image.code(16, |a| a.nop()) - code;

    let line = image.text("\n");
    let titles = [image.text("the first SMI\n"), image.text("the second one\n")];
    let labels: Vec<u64> =
        FIELDS.iter().map(|f| f.0).chain(INSIDE).chain(["RAX after it"]).map(|t| image.text(&format!("{t:<18}"))).collect();
    let print = image.code(64, |a| {
        for ((_, at, bytes), label) in FIELDS.iter().zip(&labels) {
            c.say(a, *label)?;
            a.mov(eax, (seen + at) as u32)?;
            match bytes {
                1 => a.movzx(ebp, byte_ptr(rax))?,
                2 => a.movzx(ebp, word_ptr(rax))?,
                _ => a.mov(ebp, dword_ptr(rax))?,
            }
            a.call(c.hex)?;
            c.say(a, line)?;
        }
        for (n, label) in labels[FIELDS.len()..].iter().take(INSIDE.len()).enumerate() {
            c.say(a, *label)?;
            a.mov(ebp, dword_ptr(inside + 4 * n as u64))?;
            a.call(c.hex)?;
            c.say(a, line)?;
        }
        a.ret()
    });
    let main = image.code(64, |a| {
        // SMRAM of the 440FX: open, on, at A0000h.
        a.mov(dx, 0xcf8)?;
        a.mov(eax, 0x8000_0070u32)?;
        a.out(dx, eax)?;
        a.mov(dx, 0xcfe)?;
        a.mov(al, 0x4a)?;
        a.out(dx, al)?;
        for base in OLD.into_iter().chain([u64::from(NEW)]) {
            a.mov(esi, code as u32)?;
            a.mov(edi, (base + ENTRY) as u32)?;
            a.mov(ecx, len as u32)?;
            a.rep().movsb()?;
        }
        a.lidt(ptr(no_idt))?;
        a.mov(rdi, APIC + 0xf0)?;
        a.mov(dword_ptr(rdi), 0x1ff)?;
        for (n, title) in titles.into_iter().enumerate() {
            let mut wait = a.create_label();
            c.say(a, title)?;
            a.mov(rdi, ICR)?;
            a.mov(dword_ptr(rdi + 0x10), 0)?;
            for (r, v) in
                [(r15, 0x1515_1515_2222_2222u64), (r14, 14), (r8, 8), (rsi, 0x51), (rbp, 0xb9), (rbx, 0xb0), (rdx, 0xd0), (rcx, 0xc0)]
            {
                a.mov(r, v)?;
            }
            a.mov(rax, 0xaaaa_aaaa_5555_5555u64)?;
            a.cmp(eax, eax)?;
            a.mov(dword_ptr(rdi), SMI)?;
            // CMP leaves the flags as they are before, but at the end.
            a.set_label(&mut wait)?;
            a.cmp(dword_ptr(count), n as i32)?;
            a.je(wait)?;
            a.push(rax)?;
            if n == 0 {
                // Where SMBASE was is the firmware's choice.
                a.mov(dword_ptr(inside + 8), 0)?;
            }
            a.call(print)?;
            for (shift, text) in [(32u32, labels[FIELDS.len() + INSIDE.len()]), (0, labels[FIELDS.len() + INSIDE.len()])] {
                c.say(a, text)?;
                a.mov(rbp, qword_ptr(rsp))?;
                a.shr(rbp, shift)?;
                a.call(c.hex)?;
                c.say(a, line)?;
            }
            a.pop(rax)?;
        }
        power_off(a)
    });
    start64(image, paging.pml4, main)
}
