//! Instructions a second without memory accesses: what dispatch, chaining and lazy flags cost.

use criterion::{Criterion, Throughput};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use softmetal_cpu::Stop;
use softmetal_cpu::testing::Harness;

/// Instructions in one measurement.
const COUNT: u64 = 1_000_000;

/// Runs an endless loop with this body.
fn endless(c: &mut Criterion, name: &str, body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
    let mut harness = Harness::long().asm(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        body(a)?;
        a.jmp(again)
    });
    let mut group = c.benchmark_group("dispatch");
    group.throughput(Throughput::Elements(COUNT));
    group.bench_function(name, |b| b.iter(|| assert_eq!(harness.run(COUNT), Stop::Budget)));
    group.finish();
}

fn benches(c: &mut Criterion) {
    endless(c, "register to register", |a| {
        for _ in 0..4 {
            a.xor(rax, rcx)?;
            a.imul_2(rax, rdx)?;
            a.rol(rax, 5)?;
            a.inc(rcx)?;
        }
        Ok(())
    });
    endless(c, "compare and branch", |a| {
        for _ in 0..4 {
            let mut over = a.create_label();
            a.add(ecx, 7)?;
            a.cmp(ecx, edx)?;
            a.jb(over)?;
            a.xor(edx, ecx)?;
            a.set_label(&mut over)?;
            a.nop()?;
        }
        Ok(())
    });
    endless(c, "jumps from block to block", |a| {
        for _ in 0..8 {
            let mut next = a.create_label();
            a.jmp(next)?;
            a.set_label(&mut next)?;
            a.inc(eax)?;
        }
        Ok(())
    });
    endless(c, "call and return", |a| {
        let (mut function, mut over) = (a.create_label(), a.create_label());
        a.call(function)?;
        a.call(function)?;
        a.jmp(over)?;
        a.set_label(&mut function)?;
        a.inc(eax)?;
        a.ret()?;
        a.set_label(&mut over)?;
        a.nop()
    });
}

fn main() {
    let mut c = Criterion::default().configure_from_args();
    benches(&mut c);
    c.final_summary();
}
