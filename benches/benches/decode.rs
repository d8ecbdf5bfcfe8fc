//! Bytes to lowered blocks.

use criterion::{Criterion, Throughput};
use iced_x86::code_asm::*;
use softmetal_cpu::block::{Decoded, Extent, decode};
use softmetal_cpu::testing::Harness;

/// A stretch of what compilers emit: 14 instructions.
fn code(a: &mut CodeAssembler) -> Result<(), iced_x86::IcedError> {
    a.push(rbp)?;
    a.mov(rbp, rsp)?;
    a.sub(rsp, 0x20)?;
    a.mov(qword_ptr(rbp - 8), rdi)?;
    a.lea(rax, qword_ptr(rdi + rsi * 8 + 0x10))?;
    a.movzx(ecx, byte_ptr(rax))?;
    a.test(cl, cl)?;
    a.add(rcx, qword_ptr(rbp - 8))?;
    a.imul_3(rdx, rcx, 31)?;
    a.xor(edx, 0x5555)?;
    a.movdqu(xmm0, xmmword_ptr(rax))?;
    a.paddd(xmm0, xmm1)?;
    a.leave()?;
    a.ret()
}

fn benches(c: &mut Criterion) {
    let harness = Harness::long();
    let bytes = harness.assemble(0x1000, code);
    let mode = harness.p.cpu.state.mode;
    let forms = harness.p.cpu.model.forms();
    let mut out = Decoded::default();
    decode(&bytes, mode, &forms, Extent::Whole, &mut out).unwrap_or_else(|_| panic!("it lies within a page"));
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(out.ops.len() as u64));
    group.bench_function("a function's body", |b| {
        b.iter(|| decode(std::hint::black_box(&bytes), mode, &forms, Extent::Whole, &mut out).is_ok())
    });
    group.finish();
}

fn main() {
    let mut c = Criterion::default().configure_from_args();
    benches(&mut c);
    c.final_summary();
}
