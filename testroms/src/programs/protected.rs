//! Protected mode with 32-bit segments: what segments, gates, tasks, virtual-8086 mode, debug registers and 32-bit paging
//! do (SDM 3A, 3 to 7, 4.3, 20; 3B, 17).
//!
//! A case is code that ends with an exception or INT 0x40. The handler prints the vector, the error code, where it came
//! from (CS, and EIP counted from the case's start), the flags, EAX and EBX, and puts everything back for the next case.

mod cases;
mod processors;

use iced_x86::code_asm::*;

use super::{power_off, start32};
use crate::console::Console;
use crate::image::{Emit, Image, ORIGIN};
use crate::tables::{gate32, idt32, pte};

/// The vector that a case ends with if nothing else happens.
const DONE: i32 = 0x40;
/// Gates of the IDT.
const GATES: u32 = 0x44;
/// More than there are cases.
const MOST: u64 = 320;
const CODED: [u32; 8] = [8, 10, 11, 12, 13, 14, 17, 21];
/// A task gate, and a gate of ring 0, in the IDT.
const TASK_GATE: u32 = 0x41;
const INNER_GATE: u32 = 0x42;

/// Selectors.
mod sel {
    pub const CODE: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const CODE3: u16 = 0x1b;
    pub const DATA3: u16 = 0x23;
    pub const TASK: u16 = 0x28;
    pub const OTHER: u16 = 0x30;
    pub const READ_ONLY: u16 = 0x38;
    pub const EXECUTE_ONLY: u16 = 0x40;
    pub const ABSENT: u16 = 0x48;
    /// Bytes 0 to 0xfff of the arena.
    pub const SMALL: u16 = 0x50;
    /// Bytes from 0x1000 on to 64 KiB, of the arena.
    pub const DOWN: u16 = 0x58;
    pub const CONFORMING: u16 = 0x60;
    /// Call gates to ring 0: of ring 3 with two parameters, of ring 0, absent.
    pub const GATE3: u16 = 0x68;
    pub const GATE0: u16 = 0x70;
    pub const GATE_ABSENT: u16 = 0x78;
    /// A task state that is too short.
    pub const BROKEN: u16 = 0x80;
    pub const LDT: u16 = 0x88;
    pub const CODE16: u16 = 0x90;
    pub const DATA16: u16 = 0x98;
    /// Past the end.
    pub const WILD: u16 = 0x200;
}

/// What cases refer to.
struct World {
    /// The address that EIP is counted from.
    start: u64,
    /// 8 KiB for cases to play in.
    arena: u64,
    /// The top of the stack of ring 3.
    user_stack: u64,
    /// The task state.
    task: u64,
    /// A page directory, and the tables of the first 4 MiB, one to one, and of those at 4 MiB.
    directory: u64,
    identity: u64,
    table: u64,
    gdt: u64,
}

/// A descriptor: base, limit, access byte, and the upper half of byte 6 (G, D).
const fn descriptor(base: u64, limit: u64, access: u64, flags: u64) -> u64 {
    limit & 0xffff | (base & 0xff_ffff) << 16 | access << 40 | (limit >> 16 & 15) << 48 | flags << 52 | (base >> 24 & 0xff) << 56
}

/// A call gate (or, with type 5, a task gate).
const fn gate(selector: u16, offset: u64, kind: u64, dpl: u64, present: u64, count: u64) -> u64 {
    offset & 0xffff | (selector as u64) << 16 | count << 32 | (present << 7 | dpl << 5 | kind) << 40 | (offset >> 16 & 0xffff) << 48
}

/// Puts a case together.
type Body<'a> = &'a dyn Fn(&mut CodeAssembler) -> Emit;

pub fn image() -> Vec<u8> {
    with(cases::add_all)
}

/// The program of the same make that tells processors apart.
pub fn processors() -> Vec<u8> {
    with(processors::add_all)
}

fn with(add_all: fn(&mut Image, &World, cases::Add)) -> Vec<u8> {
    let mut image = Image::default();
    let console = Console::new(&mut image, 32);
    let [start, next, list] = [8, 8, 4 * MOST].map(|len| image.zeros(len, 8));
    let user_stack = image.zeros(0x200, 16) + 0x200;
    let other_stack = image.zeros(0x200, 16) + 0x200;
    let ring0_stack = image.zeros(0x400, 16) + 0x400;
    // With an I/O permission bitmap of ports 0 to 0x7f, and its end.
    let task = image.zeros(0x68 + 17, 16);
    let other = image.zeros(0x68, 16);
    let arena = image.zeros(0x2000, 0x1000);
    let [directory, identity, table] = [0x1000; 3].map(|len| image.zeros(len, 0x1000));
    let gdt = image.zeros(8 * 20, 16);
    let w = World { start, arena, user_stack, task, directory, identity, table, gdt };

    // The next case, on a fresh stack; after the last one, the end.
    let go_on = image.code(32, |a| {
        let mut end = a.create_label();
        a.mov(eax, u32::from(sel::DATA))?;
        a.mov(ss, ax)?;
        a.mov(esp, ORIGIN as u32)?;
        a.mov(esi, dword_ptr(next))?;
        a.add(dword_ptr(next), 4)?;
        a.mov(eax, dword_ptr(esi + list as i32))?;
        a.test(eax, eax)?;
        a.je(end)?;
        a.jmp(eax)?;
        a.set_label(&mut end)?;
        power_off(a)
    });
    let common = common(&mut image, &console, &w, go_on);
    let mut gates: Vec<u64> = (0..GATES)
        .map(|n| {
            let handler = image.code(32, |a| {
                if !CODED.contains(&n) {
                    a.push(0)?;
                }
                a.push(n as i32)?;
                a.jmp(common)
            });
            gate32(handler, sel::CODE, if n == DONE as u32 || n == 3 || n == 4 { 3 } else { 0 })
        })
        .collect();
    gates[TASK_GATE as usize] = gate(sel::OTHER, 0, 5, 3, 1, 0);
    gates[INNER_GATE as usize] &= !(3 << 45);
    let idt = idt32(&mut image, &gates);

    // What runs behind the call gates, and as a conforming segment: it tells of itself.
    let behind = image.code(32, |a| {
        a.mov(eax, cs)?;
        a.mov(ebx, dword_ptr(esp + 8))?;
        a.int(DONE)
    });
    let in_task = image.code(32, |a| {
        // Task register, and the selector of the task before.
        a.str(ax)?;
        a.movzx(eax, ax)?;
        a.mov(bx, word_ptr(other))?;
        a.movzx(ebx, bx)?;
        a.int(DONE)
    });

    let flat = |access, flags| descriptor(0, 0xf_ffff, access, flags);
    let tss = |at, limit| descriptor(at, limit, 0x89, 0);
    let entries = [
        0,
        flat(0x9b, 0xc),
        flat(0x93, 0xc),
        flat(0xfb, 0xc),
        flat(0xf3, 0xc),
        tss(task, 0x68 + 16),
        tss(other, 0x67),
        flat(0x91, 0xc),
        flat(0x99, 0xc),
        flat(0x13, 0xc),
        descriptor(arena, 0xfff, 0x93, 4),
        descriptor(arena, 0xfff, 0x97, 0),
        flat(0x9f, 0xc),
        gate(sel::CODE, behind, 12, 3, 1, 2),
        gate(sel::CODE, behind, 12, 0, 1, 0),
        gate(sel::CODE, behind, 12, 3, 0, 0),
        tss(other, 0x66),
        descriptor(arena, 0x17, 0x82, 0),
        descriptor(0, 0xffff, 0x9b, 0),
        descriptor(0, 0xffff, 0x93, 0),
    ];
    for (n, entry) in entries.iter().enumerate() {
        image.poke_u64(gdt + 8 * n as u64, *entry);
    }
    let mut gdtr = (8 * entries.len() as u16 - 1).to_le_bytes().to_vec();
    gdtr.extend(gdt.to_le_bytes());
    let gdtr = image.data(&gdtr);

    let mut poke32 = |at: u64, v: u64| image.poke(at, &(v as u32).to_le_bytes());
    for n in 0..1024 {
        poke32(identity + 4 * n, n << 12 | pte::P | pte::W | pte::U);
    }
    poke32(task + 4, ring0_stack);
    poke32(task + 8, sel::DATA.into());
    // The bitmap's offset is 0x68; ports 0x40 to 0x47 are open.
    poke32(task + 0x64, 0x68 << 16);
    for at in (0x68..0x78).step_by(4) {
        poke32(task + at, if at == 0x70 { 0xffff_ff00 } else { 0xffff_ffff });
    }
    for (offset, v) in [(0x20, in_task), (0x24, 2), (0x28, 0x1111_1111), (0x38, other_stack), (0x64, 0x68 << 16)] {
        poke32(other + offset, v);
    }
    for (offset, selector) in [sel::DATA, sel::CODE, sel::DATA, sel::DATA, sel::DATA, sel::DATA].into_iter().enumerate() {
        poke32(other + 0x48 + 4 * offset as u64, selector.into());
    }

    image.poke(task + 0x78, &[0xff]);
    let mut addresses = Vec::new();
    let mut add = |image: &mut Image, name: &str, body: Body| {
        let name = image.text(&format!("{name:<40}"));
        addresses.push(image.code(32, |a| {
            console.say(a, name)?;
            let mut here = a.create_label();
            a.call(here)?;
            a.set_label(&mut here)?;
            a.pop(eax)?;
            a.mov(dword_ptr(w.start), eax)?;
            a.xor(eax, eax)?;
            a.xor(ebx, ebx)?;
            body(a)?;
            a.int(DONE)
        }));
    };
    add_all(&mut image, &w, &mut add);

    let main = image.code(32, |a| {
        a.mov(eax, u32::from(sel::DATA))?;
        for segment in [ds, es, ss] {
            a.mov(segment, ax)?;
        }
        a.mov(esp, ORIGIN as u32)?;
        a.lidt(ptr(idt.pointer))?;
        a.mov(eax, u32::from(sel::TASK))?;
        a.ltr(ax)?;
        a.jmp(go_on)
    });
    assert!(addresses.len() < MOST as usize);
    for (n, case) in addresses.iter().enumerate() {
        image.poke(list + 4 * n as u64, &(*case as u32).to_le_bytes());
    }
    image.start(|a| start32(a, gdtr, sel::CODE, main))
}

/// The flags that the log shows: AC, VM, RF, NT, IOPL, OF, DF, IF, TF, SF, ZF, AF, PF, CF.
const SHOWN: u32 = 0x0007_7fd5;

/// What all exceptions lead to. On the stack: vector, error code, EIP, CS, EFLAGS.
fn common(image: &mut Image, c: &Console, w: &World, go_on: u64) -> u64 {
    let texts = ["vector ", " error ", " at ", ":", " flags ", " eax ", " ebx "].map(|t| image.text(t));
    let (address, status, line) = (image.text(" cr2 "), image.text(" dr6 "), image.text("\n"));
    image.code(32, |a| {
        a.pushad()?;
        a.mov(eax, u32::from(sel::DATA))?;
        a.mov(ds, ax)?;
        a.mov(es, ax)?;
        // As a task that was switched to may have left them.
        a.clts()?;
        a.mov(ebx, dword_ptr(w.start))?;
        a.sub(dword_ptr(esp + 40), ebx)?;
        a.and(dword_ptr(esp + 48), SHOWN)?;
        // Places above ESP, in the order of the texts, and hexadecimal digits.
        for (text, (at, digits)) in texts.into_iter().zip([(32, 2), (36, 8), (44, 4), (40, 8), (48, 8), (28, 8), (16, 8)]) {
            c.say(a, text)?;
            a.mov(ebp, dword_ptr(esp + at))?;
            a.shl(ebp, 4 * (8 - digits))?;
            a.mov(cx, digits)?;
            a.call(c.digits)?;
        }
        for (vector, text) in [(14, address), (1, status)] {
            let mut other = a.create_label();
            a.cmp(dword_ptr(esp + 32), vector)?;
            a.jne(other)?;
            c.say(a, text)?;
            if vector == 1 { a.mov(ebp, dr6) } else { a.mov(ebp, cr2) }?;
            a.call(c.hex)?;
            a.set_label(&mut other)?;
        }
        c.say(a, line)?;
        // Everything as it was: no paging, no debug registers, the first task, no nested task.
        a.mov(eax, cr0)?;
        a.and(eax, 0x7ffa_fff1u32)?;
        a.mov(cr0, eax)?;
        a.xor(eax, eax)?;
        a.mov(dr7, eax)?;
        a.mov(dr6, eax)?;
        a.lldt(ax)?;
        for task in [sel::TASK, sel::OTHER, sel::BROKEN] {
            a.mov(byte_ptr(w.gdt + u64::from(task) + 5), 0x89)?;
        }
        a.mov(eax, u32::from(sel::TASK))?;
        a.ltr(ax)?;
        a.push(2)?;
        a.popfd()?;
        a.jmp(go_on)
    })
}
