//! Interrupts, far transfers, mode switches and privileged instructions, through the run loop.

use iced_x86::code_asm::{cr0, cr3, cr4, dword_ptr, eax, ecx, edx, rax, rbx, rdi};
use softmetal_cpu::Stop;
use softmetal_cpu::fault::vector;
use softmetal_cpu::flags;
use softmetal_cpu::state::{TableRegister, bits, reg, seg};
use softmetal_cpu::testing::{CODE, GDT, Harness, STACK};

const IDT: u64 = 0x2000;
const TSS: u64 = 0x3000;
const HANDLER: u64 = 0x2_0000;
const RSP0: u64 = 0x6000;
const IST1: u64 = 0x7008;
const USER_CODE: u16 = 0x33;
const USER_DATA: u16 = 0x2b;

/// Long mode with an IDT whose gates all lead to `HANDLER` (which halts), and a TSS. DPL 3 for INT3.
fn long() -> Harness {
    let mut h = Harness::long();
    for v in 0..256u64 {
        let dpl = if v == 3 { 3 } else { 0 };
        let ist = u64::from(v == 2);
        h.set_u64(IDT + 16 * v, HANDLER & 0xffff | 8 << 16 | ist << 32 | (0x8e | dpl << 5) << 40 | (HANDLER >> 16) << 48);
        h.set_u64(IDT + 16 * v + 8, 0);
    }
    h.set_mem(HANDLER, &[0xf4]);
    h.set_u64(TSS + 4, RSP0);
    h.set_u64(TSS + 0x24, IST1);
    let s = &mut h.p.cpu.state;
    s.idtr = TableRegister { base: IDT, limit: 0xfff };
    s.tr.base = TSS;
    s.tr.limit = 0x67;
    h
}

/// Goes to CPL 3 at `CODE`.
fn user(h: &mut Harness) {
    let cpu = &mut h.p.cpu;
    let descriptor = |n: u16| softmetal_cpu::testing::DESCRIPTORS[usize::from(n >> 3)];
    cpu.state.cpl = 3;
    cpu.set_segment(seg::CS, softmetal_cpu::Segment::from_descriptor(USER_CODE, descriptor(USER_CODE)));
    cpu.set_segment(seg::SS, softmetal_cpu::Segment::from_descriptor(USER_DATA, descriptor(USER_DATA)));
}

fn frame(h: &Harness) -> [u64; 6] {
    let sp = h.reg(reg::RSP);
    [0, 8, 16, 24, 32, 40].map(|i| h.u64(sp + i))
}

#[test]
fn int3_from_user_mode_switches_stacks_and_iretq_returns() {
    let mut h = long().asm(|a| a.int3());
    user(&mut h);
    h.p.cpu.state.eflags |= flags::IF;
    h.set_mem(HANDLER, &[0x48, 0xcf]);
    assert_eq!(h.run(1), Stop::Budget);
    assert_eq!(h.p.cpu.state.cpl, 0);
    assert_eq!(h.p.cpu.state.rip, HANDLER);
    assert_eq!(h.reg(reg::RSP), RSP0 - 40);
    assert_eq!(frame(&h)[..5], [CODE + 1, USER_CODE.into(), h.flags() | flags::IF, STACK, USER_DATA.into()]);
    assert_eq!(h.flags() & flags::IF, 0);
    assert_eq!(h.run(1), Stop::Budget);
    assert_eq!((h.p.cpu.state.cpl, h.p.cpu.state.rip, h.reg(reg::RSP)), (3, CODE + 1, STACK));
    assert_ne!(h.flags() & flags::IF, 0);
}

#[test]
fn a_fault_pushes_its_own_address_error_code_and_rf() {
    // HLT at CPL 3.
    let mut h = long().code(&[0x90, 0xf4]);
    user(&mut h);
    h.p.cpu.state.rip = CODE + 1;
    h.run(1);
    let [error, rip, cs, pushed, ..] = frame(&h);
    assert_eq!((error, rip, cs), (0, CODE + 1, USER_CODE.into()));
    assert_ne!(pushed & flags::RF, 0);
    assert_eq!(h.flags() & flags::RF, 0);
}

#[test]
fn a_gate_of_a_lower_dpl_refuses_int_n() {
    let mut h = long().code(&[0xcd, 0x40]);
    user(&mut h);
    h.run(1);
    assert_eq!(frame(&h)[..2], [0x40 << 3 | 2, CODE]);
}

#[test]
fn page_fault_sets_cr2() {
    let mut h = long().code(&[0xf3, 0x0f, 0xae, 0xd0]);
    h.p.cpu.state.rip = 0x4000_0000;
    h.run(1);
    assert_eq!(h.p.cpu.state.cr2, 0x4000_0000);
    assert_eq!(frame(&h)[..2], [0x10, 0x4000_0000]);
}

#[test]
fn nmi_uses_its_ist_and_blocks_until_iret() {
    let mut h = long().code(&[0x0f, 0xa2, 0x0f, 0xa2]);
    h.set_mem(HANDLER, &[0x48, 0xcf]);
    h.p.cpu.attention.raise(softmetal_bus::attention::NMI);
    h.run(1);
    assert_eq!(h.p.cpu.state.rip, HANDLER);
    assert_eq!(h.reg(reg::RSP), (IST1 & !15) - 40);
    assert!(h.p.cpu.state.nmi_blocked);
    h.run(1);
    assert!(!h.p.cpu.state.nmi_blocked);
    assert_eq!((h.p.cpu.state.rip, h.reg(reg::RSP)), (CODE, STACK));
}

#[test]
fn sti_holds_interrupts_off_for_one_instruction() {
    let mut h = long().asm(|a| {
        a.sti()?;
        a.hlt()
    });
    h.interrupt(0x30);
    h.run(1);
    assert!(h.p.cpu.state.shadow);
    h.run(1);
    assert_eq!(h.p.cpu.state.rip, CODE + 2);
    h.run(1);
    assert_eq!(h.p.cpu.state.rip, HANDLER);
    assert_eq!(frame(&h)[0], CODE + 2);
}

#[test]
fn double_and_triple_faults() {
    // #GP without a present #GP gate: #NP on delivery, so #DF.
    let mut h = long().code(&[0xcd, 0x40]);
    user(&mut h);
    h.set_u64(IDT + 16 * 13, 0);
    h.run(1);
    assert_eq!(frame(&h)[..2], [0, CODE]);
    assert_eq!(h.p.exception_chain().last().unwrap().1.vector, vector::DF);

    let mut h = long().code(&[0xcd, 0x40]);
    user(&mut h);
    h.p.cpu.state.idtr.limit = 0;
    assert_eq!(h.run(1), Stop::Shutdown);
    let chain: Vec<u8> = h.p.exception_chain().iter().map(|e| e.1.vector).collect();
    assert_eq!(chain, [vector::GP, vector::GP, vector::DF, vector::GP]);
    assert_eq!(h.p.cpu.state.rip, CODE);
}

#[test]
fn syscall_and_sysret() {
    let mut h = long().asm(|a| a.syscall());
    user(&mut h);
    h.p.cpu.state.msr.star = 0x0020_0008 << 32;
    h.p.cpu.state.msr.lstar = HANDLER;
    h.p.cpu.state.msr.fmask = flags::IF;
    h.p.cpu.state.eflags |= flags::IF;
    h.set_mem(HANDLER, &[0x48, 0x0f, 0x07]);
    h.run(1);
    let s = &h.p.cpu.state;
    assert_eq!((s.cpl, s.rip, s.segments[seg::CS].selector, s.segments[seg::SS].selector), (0, HANDLER, 8, 16));
    assert_eq!((h.reg(reg::RCX), h.reg(11) & flags::IF, h.flags() & flags::IF), (CODE + 2, flags::IF, 0));
    h.run(1);
    let s = &h.p.cpu.state;
    assert_eq!((s.cpl, s.rip, s.segments[seg::CS].selector, s.segments[seg::SS].selector), (3, CODE + 2, USER_CODE, USER_DATA));
    assert!(s.mode.long() && s.eflags & flags::IF != 0);
}

#[test]
fn real_mode_interrupt_and_iret() {
    let mut h = Harness::real().code(&[0xcd, 0x10]);
    h.p.cpu.state.idtr = TableRegister { base: 0, limit: 0x3ff };
    h.set_mem(0x40, &[0x34, 0x12, 0x00, 0x20]);
    h.set_mem(0x2_1234, &[0xcf]);
    h.run(1);
    let s = &h.p.cpu.state;
    assert_eq!((s.rip, s.segments[seg::CS].base, h.reg(reg::RSP)), (0x1234, 0x2_0000, STACK - 6));
    h.run(1);
    assert_eq!((h.p.cpu.state.rip, h.p.cpu.state.segments[seg::CS].base, h.reg(reg::RSP)), (2, CODE, STACK));
}

#[test]
fn from_real_mode_to_64_bit_mode() {
    let mut h = Harness::real();
    let tables = softmetal_cpu::testing::TABLES;
    h.set_u64(tables, (tables + 0x1000) | 3);
    h.set_u64(tables + 0x1000, 0x83);
    // The GDT pseudo-descriptor.
    h.set_mem(0x500, &[0x47, 0]);
    h.set_u64(0x502, GDT);
    let code = h.assemble(CODE, |a| {
        a.lgdt(dword_ptr(0x500))?;
        a.mov(eax, cr4)?;
        a.or(eax, bits::CR4_PAE as u32)?;
        a.mov(cr4, eax)?;
        a.mov(eax, tables as u32)?;
        a.mov(cr3, eax)?;
        a.mov(ecx, 0xc000_0080u32)?;
        a.mov(eax, bits::EFER_LME as u32)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mov(eax, cr0)?;
        a.or(eax, (bits::CR0_PG | bits::CR0_PE) as u32)?;
        a.mov(cr0, eax)?;
        a.db(&[0x66, 0xea])?;
        a.dd(&[HANDLER as u32])?;
        a.dw(&[8])
    });
    h.set_mem(CODE, &code);
    // mov ax, 0x10; mov ss, ax; mov ds, ax; hlt
    h.set_mem(HANDLER, &[0x66, 0xb8, 0x10, 0, 0x8e, 0xd0, 0x8e, 0xd8, 0xf4]);
    assert_eq!(h.run(18), Stop::Budget, "{:?}", h.exception());
    let s = &h.p.cpu.state;
    assert_eq!(h.exception(), None);
    assert!(s.mode.long() && s.halted && s.efer & bits::EFER_LMA != 0);
    assert_eq!((s.segments[seg::SS].selector, s.rip), (0x10, HANDLER + 9));
}

#[test]
fn loading_a_user_segment_checks_and_marks_it() {
    // mov ds, cx with a code segment that is not readable: #GP(selector).
    let mut h = long().code(&[0x8e, 0xd9]);
    h.set_u64(GDT + 8 * 4, 0x00cf_f800_0000_ffff);
    h.set_reg(reg::RCX, 0x23);
    h.run(1);
    assert_eq!(frame(&h)[..2], [0x20, CODE]);
    let mut h = long().code(&[0x8e, 0xd9]);
    h.set_u64(GDT + 8 * 5, 0x00cf_f200_0000_ffff);
    h.set_reg(reg::RCX, 0x2b);
    h.run(1);
    assert_eq!(h.p.cpu.state.segments[seg::DS].selector, 0x2b);
    assert_eq!(h.u64(GDT + 8 * 5), 0x00cf_f300_0000_ffff);
}

#[test]
fn rep_outsb_counts_each_iteration_and_stops_exactly() {
    let mut h = long().code(&[0xf3, 0x6e, 0xf4]);
    h.set_reg(reg::RCX, 10);
    h.set_reg(reg::RSI, 0x9000);
    h.set_reg(reg::RDX, 0xe9);
    h.set_mem(0x9000, b"0123456789");
    assert_eq!(h.run(4), Stop::Budget);
    assert_eq!((h.p.icount(), h.reg(reg::RCX), h.p.cpu.state.rip), (4, 6, CODE));
    h.run(6);
    assert_eq!((h.p.icount(), h.reg(reg::RCX), h.p.cpu.state.rip), (10, 0, CODE + 2));
    let edge = h.edge.lock().unwrap();
    let sent: Vec<_> = edge.outs.iter().map(|o| (o.0, o.3 as u8)).collect();
    assert_eq!(sent, (0..10).map(|i| (i, b'0' + i as u8)).collect::<Vec<_>>());
}

#[test]
fn port_permission_bitmap() {
    let mut h = long().code(&[0xe6, 0x80, 0xe6, 0x81]);
    user(&mut h);
    h.p.cpu.state.tr.limit = 0x100;
    h.set_mem(TSS + 0x66, &[0x68, 0]);
    h.set_mem(TSS + 0x68 + 0x10, &[0xfe, 0xff]);
    h.run(1);
    assert_eq!(h.edge.lock().unwrap().outs.len(), 1);
    h.run(1);
    assert_eq!(frame(&h)[..2], [0, CODE + 2]);
}

#[test]
fn msrs() {
    let mut h = long().code(&[0x0f, 0x30, 0x0f, 0x32, 0x0f, 0x30]);
    h.set_reg(reg::RCX, 0xc000_0102);
    h.set_reg(reg::RAX, 0x1234);
    h.set_reg(reg::RDX, 0xffff_8000);
    h.run(1);
    assert_eq!(h.p.cpu.state.msr.kernel_gs_base, 0xffff_8000_0000_1234);
    h.set_reg(reg::RAX, 0);
    h.run(1);
    assert_eq!(h.reg(reg::RAX), 0x1234);
    // Not canonical: #GP.
    h.set_reg(reg::RDX, 0x8000_0000);
    h.run(1);
    assert_eq!(frame(&h)[..2], [0, CODE + 4]);
}

#[test]
fn popf_above_iopl_keeps_if_and_iopl() {
    let mut h = long().code(&[0x9d]);
    user(&mut h);
    h.set_u64(STACK, flags::IF | flags::IOPL | flags::CF | flags::DF | 2);
    h.run(1);
    assert_eq!(h.flags(), flags::CF | flags::DF | 2);
}

#[test]
fn code_of_two_segments_without_a_limit_is_told_apart_by_its_base() {
    // Real mode with the limit that a descriptor has left behind: the same offset in two segments.
    let mut h = Harness::real();
    // mov bl, 1; jmp 2000:0100 at 0000:0100, mov bh, 2; jmp 0000:0100 at 2000:0100.
    h.set_mem(0x100, &[0xb3, 1, 0xea, 0x00, 0x01, 0x00, 0x20]);
    h.set_mem(0x2_0100, &[0xb7, 2, 0xea, 0x00, 0x01, 0x00, 0x00]);
    let s = &mut h.p.cpu.state;
    s.segments[seg::CS] = softmetal_cpu::Segment { limit: u32::MAX, ..s.segments[seg::CS] };
    (s.segments[seg::CS].selector, s.segments[seg::CS].base, s.rip) = (0, 0, 0x100);
    h.p.cpu.update_mode();
    // The first round fills every cache of what is where.
    for _ in 0..3 {
        h.set_reg(reg::RBX, 0);
        h.run(4);
        assert_eq!((h.reg(reg::RBX), h.p.cpu.state.segments[seg::CS].limit, h.exception()), (0x0201, u32::MAX, None));
    }
}

#[test]
fn code_is_found_anew_in_an_address_space_however_many_there_were_before() {
    const OTHER: u64 = softmetal_cpu::testing::TABLES + 0x1_0000;
    const FUNCTION: u64 = 0x40_0000;
    // Caches number the address spaces, and begin again after some thousand of them.
    for switches in 4085..4100u32 {
        let mut h = Harness::long().asm(|a| {
            a.call(rdi)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.mov(cr3, rax)?;
            a.dec(ecx)?;
            a.jne(again)?;
            a.mov(cr3, rbx)?;
            a.call(rdi)?;
            a.hlt()
        });
        for level in 0..3 {
            let table = level * 0x1000;
            let mut bytes = [0; 4096];
            h.mem(softmetal_cpu::testing::TABLES + table, &mut bytes);
            h.set_mem(OTHER + table, &bytes);
        }
        h.set_u64(OTHER, (OTHER + 0x1000) | 7);
        h.set_u64(OTHER + 0x1000, (OTHER + 0x2000) | 7);
        h.set_u64(OTHER + 0x2010, 0x60_0087);
        // MOV EDX, 1 or 2; RET.
        h.set_mem(FUNCTION, &[0xba, 1, 0, 0, 0, 0xc3]);
        h.set_mem(0x60_0000, &[0xba, 2, 0, 0, 0, 0xc3]);
        for (r, value) in [(reg::RDI, FUNCTION), (reg::RAX, softmetal_cpu::testing::TABLES), (reg::RBX, OTHER), (reg::RCX, switches.into())]
        {
            h.set_reg(r, value);
        }
        assert_eq!(h.run(1 << 20), Stop::Halted);
        assert_eq!(h.reg(reg::RDX), 2, "after {switches}");
    }
}
