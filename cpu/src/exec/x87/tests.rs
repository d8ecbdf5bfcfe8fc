//! Handlers, pending exceptions and rows of the x87.

use std::sync::Arc;

use iced_x86::code_asm::{CodeAssembler, ax, qword_ptr, st0, st1, tbyte_ptr, word_ptr};
use softmetal_bus::{Attention, CpuBus, GuestMemory, PageKind};

use super::*;
use crate::Processor;
use crate::exec::cpuid::Model;
use crate::fault::Reason;

/// Nothing but memory.
struct Bare;

impl CpuBus for Bare {
    fn page(&self, page: u64) -> PageKind {
        PageKind::Memory { offset: page & 0xf_f000, writable: true }
    }
    fn read(&mut self, _: u64, _: u64, _: usize) -> u64 {
        !0
    }
    fn write(&mut self, _: u64, _: u64, _: usize, _: u64) {}
    fn port_read(&mut self, _: u64, _: u16, _: usize) -> u32 {
        !0
    }
    fn port_write(&mut self, _: u64, _: u16, _: usize, _: u32) {}
    fn acknowledge(&mut self, _: u64) -> Option<u8> {
        None
    }
    fn apic_msr_read(&mut self, _: u64, _: u32) -> Option<u64> {
        None
    }
    fn apic_msr_write(&mut self, _: u64, _: u32, _: u64) -> bool {
        false
    }
    fn task_priority(&mut self) -> u8 {
        0
    }
    fn set_task_priority(&mut self, _: u64, _: u8) {}
    fn time_stamp(&mut self, at: u64) -> u64 {
        at
    }
    fn random(&mut self, at: u64) -> u64 {
        at
    }
}

/// A processor in real mode that has run `code` from 0:0x7000, one instruction after the other.
fn run(count: u64, code: impl FnOnce(&mut CodeAssembler)) -> Processor {
    let memory = Arc::new(GuestMemory::new(1 << 20).unwrap());
    let mut assembler = CodeAssembler::new(16).unwrap();
    code(&mut assembler);
    memory.write(0x7000, &assembler.assemble(0x7000).unwrap()).unwrap();
    let mut p = Processor::new(memory, Box::new(Bare), Arc::new(Attention::default()), Model::default());
    p.cpu.state.segments[seg::CS] = crate::Segment { attributes: 0x9b, ..crate::Segment::real(0) };
    p.cpu.state.bases[seg::CS] = 0;
    p.cpu.state.rip = 0x7000;
    p.cpu.update_mode();
    p.run(count);
    p
}

#[test]
fn stores_what_it_computes_and_sets_the_flags() {
    let p = run(12, |a| {
        a.fninit().unwrap();
        a.fld1().unwrap();
        a.fldpi().unwrap();
        a.fadd_2(st0, st1).unwrap();
        a.fld(st0).unwrap();
        a.fstp(tbyte_ptr(0x1000)).unwrap();
        a.fst(qword_ptr(0x1010)).unwrap();
        a.fistp(word_ptr(0x1020)).unwrap();
        a.fldz().unwrap();
        a.fcomip(st0, st1).unwrap();
        a.fnstsw(ax).unwrap();
        a.fnstcw(word_ptr(0x1030)).unwrap();
    });
    let read = |at: u64, bytes: &mut [u8]| p.cpu.memory.read(at, bytes).unwrap();
    let (mut extended, mut double, mut word) = ([0; 10], [0; 8], [0; 2]);
    read(0x1000, &mut extended);
    read(0x1010, &mut double);
    read(0x1020, &mut word);
    assert_eq!(F80::from_le_bytes(extended), F80 { mantissa: 0x8487_ed51_10b4_611a, sign_exponent: 0x4001 });
    assert_eq!(f64::from_le_bytes(double), 1.0 + std::f64::consts::PI);
    assert_eq!(i16::from_le_bytes(word), 4);
    read(0x1030, &mut word);
    assert_eq!(u16::from_le_bytes(word), 0x37f);
    // 0 is below 1; one value is left.
    assert_eq!(p.cpu.eflags() & flags::ARITHMETIC, flags::CF);
    assert_eq!(p.cpu.state.regs[0] & 0x3800, 0x3800);
}

#[test]
fn an_unmasked_exception_waits_for_the_next_instruction() {
    let mut p = run(5, |a| {
        a.fninit().unwrap();
        a.fldcw(word_ptr(0x7800)).unwrap();
        a.fld1().unwrap();
        a.fldz().unwrap();
        a.fdivp(st1, st0).unwrap();
        a.fld1().unwrap();
    });
    assert!(p.cpu.state.fpu.pending());
    assert_eq!(p.cpu.state.fpu.last.opcode, 0x6f9);
    p.cpu.state.cr0 |= bits::CR0_NE;
    let decoded = iced_x86::Instruction::default();
    let op = Lower::new(&decoded, p.cpu.state.mode, 0, crate::exec::invalid).op;
    assert_eq!(p.cpu.fpu_wait(&op), Err(Fault));
    assert!(matches!(p.cpu.fault, Reason::Exception(e) if e.vector == vector::MF));
}
