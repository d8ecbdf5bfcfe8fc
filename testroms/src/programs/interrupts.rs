//! Interrupts by the 8259, the I/O APIC and the local APIC: sources, priorities, and the instructions after which none is
//! taken. Each interrupt prints its vector in brackets.

use iced_x86::code_asm::*;

use super::{outb, power_off, start64};
use crate::console::Console;
use crate::image::{Emit, Image};
use crate::tables::{gate64, idt64, page_table, paging64, pte};

/// Registers of the local APIC (SDM 3A, table 11-1).
mod apic {
    pub const BASE: u64 = 0xfee0_0000;
    pub const TPR: u64 = BASE + 0x80;
    pub const EOI: u64 = BASE + 0xb0;
    pub const SVR: u64 = BASE + 0xf0;
    pub const ICR: u64 = BASE + 0x300;
    pub const LVT_TIMER: u64 = BASE + 0x320;
    pub const INITIAL: u64 = BASE + 0x380;
    pub const DIVIDE: u64 = BASE + 0x3e0;
    pub const ONE_SHOT: u32 = 0;
    pub const PERIODIC: u32 = 1 << 17;
    pub const DEADLINE: u32 = 2 << 17;
    /// Of the ICR: to the sender itself, asserted.
    pub const SELF: u32 = 1 << 18 | 1 << 14;
}
const IOAPIC: u64 = 0xfec0_0000;
const VECTORS: usize = 0x90;
/// Vectors of the 8259 pair.
const PIC: u8 = 0x20;

struct Program {
    console: Console,
    /// A 64-bit word: interrupts so far.
    count: u64,
}

impl Program {
    /// Emits: sleep until `n` interrupts have come since [`Program::forget`], then forbid them.
    fn wait(&self, a: &mut CodeAssembler, n: i32) -> Emit {
        let (mut again, mut enough) = (a.create_label(), a.create_label());
        a.set_label(&mut again)?;
        a.cli()?;
        a.cmp(qword_ptr(self.count), n)?;
        a.jae(enough)?;
        a.sti()?;
        a.hlt()?;
        a.jmp(again)?;
        a.set_label(&mut enough)?;
        a.nop()
    }

    fn forget(&self, a: &mut CodeAssembler) -> Emit {
        a.mov(qword_ptr(self.count), 0)
    }
}

/// Emits a store to a device register.
fn store(a: &mut CodeAssembler, at: u64, value: u32) -> Emit {
    a.mov(rdi, at)?;
    a.mov(dword_ptr(rdi), value as i32)
}

fn ioapic(a: &mut CodeAssembler, register: u32, value: u32) -> Emit {
    store(a, IOAPIC, register)?;
    store(a, IOAPIC + 0x10, value)
}

/// Emits: the local APIC's own interrupt `vector`.
fn self_ipi(a: &mut CodeAssembler, vector: u32) -> Emit {
    store(a, apic::ICR, apic::SELF | vector)
}

pub fn image() -> Vec<u8> {
    let mut image = Image::default();
    let console = Console::new(&mut image, 64);
    let p = Program { console, count: image.zeros(8, 8) };
    let paging = paging64(&mut image, 0);
    // The APICs' registers, one to one: uncacheable 2 MiB pages of the fourth GiB.
    let directory = page_table(&mut image);
    image.poke_u64(paging.pdpt + 3 * 8, directory | pte::P | pte::W);
    for base in [IOAPIC, apic::BASE] {
        image.poke_u64(directory + (base >> 21 & 511) * 8, base | pte::P | pte::W | pte::PS | 1 << 4);
    }

    let (open, close) = (image.text(" ["), image.text("]"));
    let common = image.code(64, |a| {
        // The vector is on the stack; the routines of the console change these.
        for register in [rax, rbx, rcx, rdx, rsi, rdi, rbp] {
            a.push(register)?;
        }
        console.say(a, open)?;
        a.mov(rbp, qword_ptr(rsp + 7 * 8))?;
        a.shl(ebp, 24)?;
        a.mov(cx, 2)?;
        a.call(console.digits)?;
        console.say(a, close)?;
        a.inc(qword_ptr(p.count))?;
        let (mut local, mut done) = (a.create_label(), a.create_label());
        a.cmp(qword_ptr(rsp + 7 * 8), i32::from(PIC) + 16)?;
        a.jae(local)?;
        outb(a, 0x20, 0x20)?;
        a.jmp(done)?;
        a.set_label(&mut local)?;
        store(a, apic::EOI, 0)?;
        a.set_label(&mut done)?;
        for register in [rbp, rdi, rsi, rdx, rcx, rbx, rax] {
            a.pop(register)?;
        }
        a.add(rsp, 8)?;
        a.iretq()
    });
    let mut gates = Vec::new();
    for vector in 0..VECTORS {
        let handler = image.code(64, |a| {
            a.push(vector as i32)?;
            a.jmp(common)
        });
        gates.push(gate64(handler, 0, 0));
    }
    let idt = idt64(&mut image, &gates);

    let mut parts: Vec<u64> = Vec::new();
    let mut part = |image: &mut Image, name: &str, body: &dyn Fn(&mut CodeAssembler) -> Emit| {
        let (name, line) = (image.text(&format!("{name}:")), image.text("\n"));
        parts.push(image.code(64, |a| {
            p.forget(a)?;
            console.say(a, name)?;
            body(a)?;
            console.say(a, line)?;
            a.ret()
        }));
    };
    part(&mut image, "8254 by the 8259, twice", &|a| {
        for (port, value) in [(0x20, 0x11), (0xa0, 0x11), (0x21, PIC), (0xa1, PIC + 8), (0x21, 4), (0xa1, 2), (0x21, 1), (0xa1, 1)] {
            outb(a, port, value)?;
        }
        for (port, value) in [(0x21, 0xfe), (0xa1, 0xff), (0x43, 0x34), (0x40, 0), (0x40, 0x10)] {
            outb(a, port, value)?;
        }
        p.wait(a, 2)?;
        outb(a, 0x21, 0xff)
    });
    part(&mut image, "8254 by the I/O APIC, input 2", &|a| {
        store(a, apic::SVR, 0x1ff)?;
        ioapic(a, 0x10 + 2 * 2 + 1, 0)?;
        ioapic(a, 0x10 + 2 * 2, 0x50)?;
        p.wait(a, 2)?;
        ioapic(a, 0x10 + 2 * 2, 1 << 16)
    });
    part(&mut image, "local APIC timer, one shot", &|a| {
        store(a, apic::DIVIDE, 0xb)?;
        store(a, apic::LVT_TIMER, apic::ONE_SHOT | 0x60)?;
        store(a, apic::INITIAL, 50_000)?;
        p.wait(a, 1)
    });
    part(&mut image, "local APIC timer, periodic", &|a| {
        store(a, apic::LVT_TIMER, apic::PERIODIC | 0x61)?;
        store(a, apic::INITIAL, 50_000)?;
        p.wait(a, 3)?;
        store(a, apic::INITIAL, 0)
    });
    part(&mut image, "local APIC timer, TSC deadline", &|a| {
        store(a, apic::LVT_TIMER, apic::DEADLINE | 0x62)?;
        a.mfence()?;
        a.rdtsc()?;
        a.add(eax, 100_000)?;
        a.adc(edx, 0)?;
        a.mov(ecx, 0x6e0)?;
        a.wrmsr()?;
        p.wait(a, 1)
    });
    part(&mut image, "priorities: 71 81 85 sent, 85 81 71 come", &|a| {
        for vector in [0x71, 0x81, 0x85] {
            self_ipi(a, vector)?;
        }
        // One instruction with interrupts is enough: each handler's end lets the next one in.
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.cli()
    });
    part(&mut image, "task priority 7: 71 waits, 81 comes, then 71", &|a| {
        a.mov(eax, 7)?;
        a.mov(cr8, rax)?;
        for vector in [0x71, 0x81] {
            self_ipi(a, vector)?;
        }
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.cli()?;
        say(a, &p.console, b'|')?;
        store(a, apic::TPR, 0)?;
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.cli()
    });
    part(&mut image, "STI then CLI: nothing comes between", &|a| {
        self_ipi(a, 0x70)?;
        for _ in 0..3 {
            a.sti()?;
            a.cli()?;
        }
        say(a, &p.console, b'|')?;
        p.wait(a, 1)
    });
    part(&mut image, "MOV SS holds an interrupt back by one", &|a| {
        self_ipi(a, 0x72)?;
        a.mov(ebx, ss)?;
        a.pushfq()?;
        a.or(qword_ptr(rsp), 1 << 9)?;
        // POPF permits the interrupt at once: it comes before MOV SS.
        a.popfq()?;
        a.mov(ss, ebx)?;
        a.cli()?;
        say(a, &p.console, b'|')
    });
    part(&mut image, "INT needs no permission", &|a| a.int(0x33));
    let main = image.code(64, |a| {
        a.lidt(ptr(idt.pointer))?;
        for part in &parts {
            a.call(*part)?;
        }
        power_off(a)
    });
    start64(image, paging.pml4, main)
}

/// Emits: print one character after a space.
fn say(a: &mut CodeAssembler, console: &Console, character: u8) -> Emit {
    for c in [b' ', character] {
        a.mov(al, u32::from(c))?;
        a.call(console.put)?;
    }
    Ok(())
}
