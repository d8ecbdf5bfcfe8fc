//! Guest programs that try one part of the machine each and tell on the first serial port what they saw. They power off at
//! their end. What each must print follows from the manuals and stands beside the tests.

mod exceptions;
mod interrupts;
mod protected;
mod resets;
mod rings;
mod smm;

use iced_x86::code_asm::*;

use crate::image::{Emit, Image, ORIGIN, jump_far, power_off};
use crate::tables::{gdt, selector};

/// A program and a processor that it runs on.
#[derive(Clone, Debug)]
pub struct Run {
    /// What the log is called.
    pub name: String,
    /// The program's name.
    pub program: &'static str,
    /// The model, as `--cpu` names it; none for the usual one.
    pub model: Option<&'static str>,
    /// The image.
    pub image: Vec<u8>,
}

/// The processors that `processors` runs on; the other programs run on the usual one.
const MODELS: [&str; 4] = ["486", "k6-2", "pentium3", "athlon"];

/// All programs on all processors that they are for.
#[must_use]
pub fn runs() -> Vec<Run> {
    let mut runs = Vec::new();
    for (program, image) in programs() {
        let models: &[_] = if program == "processors" { &MODELS.map(Some) } else { &[None] };
        for &model in models {
            let name = model.map_or(program.into(), |m| format!("{program}-{m}"));
            runs.push(Run { name, program, model, image: image.clone() });
        }
    }
    runs
}

/// All programs: name and image.
#[must_use]
pub fn programs() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("exceptions", exceptions::image()),
        ("interrupts", interrupts::image()),
        ("processors", protected::processors()),
        ("protected", protected::image()),
        ("resets", resets::image()),
        ("rings", rings::image()),
        ("smm", smm::image()),
    ]
}

/// Emits `OUT port, value`.
fn outb(a: &mut CodeAssembler, port: i32, value: u8) -> Emit {
    a.mov(al, u32::from(value))?;
    a.out(port, al)
}

/// Emits what a boot sector begins with: no interrupts, DS and SS at 0, a stack below the code.
fn start16(a: &mut CodeAssembler) -> Emit {
    a.cli()?;
    a.xor(ax, ax)?;
    a.mov(ds, ax)?;
    a.mov(ss, ax)?;
    a.mov(sp, ORIGIN as i32)
}

/// Emits a boot sector's way to 32-bit code at `code:main`, with the GDT that is described at `pointer`.
fn start32(a: &mut CodeAssembler, pointer: u64, code: u16, main: u64) -> Emit {
    start16(a)?;
    a.lgdt(ptr(pointer))?;
    a.mov(eax, cr0)?;
    a.or(eax, 1)?;
    a.mov(cr0, eax)?;
    jump_far(a, code, main)
}

/// The way from a boot sector to 64-bit code at `main`, with 4-level tables at `pml4` and no-execute on.
fn start64(image: Image, pml4: u64, main: u64) -> Vec<u8> {
    start64_with(image, pml4, main, None)
}

/// [`start64`] with a task state segment for [`selector::TASK`].
fn start64_with(mut image: Image, pml4: u64, main: u64, tss: Option<u64>) -> Vec<u8> {
    let gdt = gdt(&mut image, tss);
    let enter = image.code(64, |a| {
        a.mov(eax, u32::from(selector::DATA))?;
        a.mov(ds, ax)?;
        a.mov(es, ax)?;
        a.mov(ss, ax)?;
        a.mov(rsp, ORIGIN)?;
        a.jmp(main)
    });
    let protected = image.code(32, |a| {
        // PAE, and SSE with its exceptions; long mode and NX; paging, native x87 errors.
        a.mov(eax, 1 << 5 | 1 << 9 | 1 << 10)?;
        a.mov(cr4, eax)?;
        a.mov(eax, pml4 as u32)?;
        a.mov(cr3, eax)?;
        a.mov(ecx, 0xc000_0080u32)?;
        a.rdmsr()?;
        a.or(eax, 1 << 8 | 1 << 11)?;
        a.wrmsr()?;
        a.mov(eax, 1u32 << 31 | 1 << 16 | 1 << 5 | 1 << 1 | 1)?;
        a.mov(cr0, eax)?;
        jump_far(a, selector::CODE64, enter)
    });
    image.start(|a| start32(a, gdt.pointer, selector::CODE32, protected))
}
