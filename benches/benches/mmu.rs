//! Memory accesses: through the TLB, past it, over code.

use criterion::{Criterion, Throughput};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use softmetal_cpu::Stop;
use softmetal_cpu::testing::Harness;

/// Instructions in one measurement.
const COUNT: u64 = 1_000_000;
/// Memory that nothing else uses.
const DATA: u64 = 0x40_0000;

fn run(c: &mut Criterion, name: &str, code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
    let mut harness = Harness::long().asm(code);
    let mut group = c.benchmark_group("mmu");
    group.throughput(Throughput::Elements(COUNT));
    group.bench_function(name, |b| b.iter(|| assert_eq!(harness.run(COUNT), Stop::Budget)));
    group.finish();
}

fn benches(c: &mut Criterion) {
    run(c, "loads and stores in one page", |a| {
        let mut again = a.create_label();
        a.mov(rdi, DATA)?;
        a.set_label(&mut again)?;
        for n in 0..4 {
            a.mov(rax, qword_ptr(rdi + n * 64))?;
            a.add(rax, qword_ptr(rdi + n * 64 + 8))?;
            a.mov(qword_ptr(rdi + n * 64 + 16), rax)?;
        }
        a.jmp(again)
    });
    run(c, "a walk of the page tables each second instruction", |a| {
        let (mut again, mut pages) = (a.create_label(), a.create_label());
        a.set_label(&mut again)?;
        // Forgets all translations that are not global.
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)?;
        a.mov(rdi, DATA)?;
        a.mov(ecx, 256)?;
        a.set_label(&mut pages)?;
        for n in 0..8 {
            a.mov(rax, qword_ptr(rdi + n * 4096))?;
            a.lea(rdx, qword_ptr(rdi + rax))?;
        }
        a.add(rdi, 8 * 4096)?;
        a.sub(ecx, 8)?;
        a.jne(pages)?;
        a.jmp(again)
    });
    run(c, "REP MOVSQ, an element an instruction", |a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(rsi, DATA)?;
        a.mov(rdi, DATA + 0x10_0000)?;
        a.mov(ecx, 0x1_0000)?;
        a.rep().movsq()?;
        a.jmp(again)
    });
    run(c, "stores over the code that runs", |a| {
        let (mut again, mut patched) = (a.create_label(), a.create_label());
        a.set_label(&mut again)?;
        a.inc(ecx)?;
        a.lea(rdi, qword_ptr(patched))?;
        a.mov(dword_ptr(rdi + 1), ecx)?;
        a.set_label(&mut patched)?;
        a.mov(eax, 0x1234_5678)?;
        a.jmp(again)
    });
}

fn main() {
    let mut c = Criterion::default().configure_from_args();
    benches(&mut c);
    c.final_summary();
}
