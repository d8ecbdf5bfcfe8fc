//! Task switches by hardware (SDM 3A, chapter 7): JMP, CALL, task gates, IRET, and what goes wrong on the way.

use softmetal_cpu::fault::vector;
use softmetal_cpu::state::{TableRegister, bits, reg, seg};
use softmetal_cpu::testing::{CODE, GDT, Harness};
use softmetal_cpu::{Segment, Stop, flags};

const IDT: u64 = 0x2000;
const OLD: u64 = 0x3000;
const NEW: u64 = 0x3100;
const NARROW: u64 = 0x3200;
const TASK_CODE: u64 = 0x2_0000;
const OLD_SELECTOR: u16 = 0x48;
const NEW_SELECTOR: u16 = 0x50;
const NARROW_SELECTOR: u16 = 0x58;
const GATE_SELECTOR: u16 = 0x60;

fn tss(base: u64, kind: u64) -> u64 {
    0x67 | base << 16 | (0x80 | kind) << 40
}

/// 32-bit protected mode in task `OLD`, with another task at `NEW` whose EBX is 0x1234_5678, and code to run.
fn tasks(code: &[u8]) -> Harness {
    let mut h = Harness::protected32().code(code);
    h.set_u64(GDT + u64::from(OLD_SELECTOR), tss(OLD, 0xb));
    h.set_u64(GDT + u64::from(NEW_SELECTOR), tss(NEW, 9));
    h.set_u64(GDT + u64::from(NARROW_SELECTOR), tss(NARROW, 1));
    h.set_u64(GDT + u64::from(GATE_SELECTOR), u64::from(NEW_SELECTOR) << 16 | 0x85 << 40);
    for (offset, v) in [(0x20, TASK_CODE), (0x24, 2), (0x34, 0x1234_5678), (0x38, 0x7000), (0x48, 0x10), (0x4c, 0x18), (0x50, 0x10)] {
        h.set_mem(NEW + offset, &(v as u32).to_le_bytes());
    }
    for (offset, v) in
        [(0xe, 0x4000_u16), (0x10, 2), (0x18, 0xbeef), (0x1a, 0x7000), (0x22, 0x10), (0x24, 0x18), (0x26, 0x10), (0x28, 0x10)]
    {
        h.set_mem(NARROW + offset, &v.to_le_bytes());
    }
    let s = &mut h.p.cpu.state;
    s.gdtr = TableRegister { base: GDT, limit: 0xfff };
    s.tr = Segment::from_descriptor(OLD_SELECTOR, tss(OLD, 0xb));
    s.regs[usize::from(reg::RBX)] = 0xabcd;
    h
}

fn u32_at(h: &Harness, at: u64) -> u32 {
    h.u64(at) as u32
}

fn kind(h: &Harness, selector: u16) -> u64 {
    h.u64(GDT + u64::from(selector)) >> 40 & 0xf
}

#[test]
fn a_far_jump_to_a_tss_switches_and_does_not_nest() {
    let mut h = tasks(&[0xea, 0, 0, 0, 0, 0x50, 0]);
    assert_eq!(h.run(1), Stop::Budget);
    let s = &h.p.cpu.state;
    assert_eq!((s.rip, s.tr.selector, h.reg(reg::RBX), h.reg(reg::RSP)), (TASK_CODE, NEW_SELECTOR, 0x1234_5678, 0x7000));
    assert_ne!(s.cr0 & bits::CR0_TS, 0);
    assert_eq!(h.flags() & flags::NT, 0);
    assert_eq!((kind(&h, OLD_SELECTOR), kind(&h, NEW_SELECTOR)), (9, 0xb));
    assert_eq!((u32_at(&h, OLD + 0x20), u32_at(&h, OLD + 0x34)), (CODE as u32 + 7, 0xabcd));
    assert_eq!(s.segments[seg::DS].selector, 0);
}

#[test]
fn a_call_nests_and_iret_goes_back() {
    let mut h = tasks(&[0x9a, 0, 0, 0, 0, 0x60, 0, 0x90]);
    // The task changes EBX and returns; the next time it goes on after its IRET.
    h.set_mem(TASK_CODE, &[0x43, 0xcf]);
    assert_eq!(h.run(1), Stop::Budget);
    assert_ne!(h.flags() & flags::NT, 0);
    assert_eq!((kind(&h, OLD_SELECTOR), kind(&h, NEW_SELECTOR)), (0xb, 0xb));
    assert_eq!(u32_at(&h, NEW) as u16, OLD_SELECTOR);
    assert_eq!(h.run(2), Stop::Budget);
    assert_eq!((h.p.cpu.state.rip, h.reg(reg::RBX), h.p.cpu.state.tr.selector), (CODE + 7, 0xabcd, OLD_SELECTOR));
    assert_eq!((kind(&h, OLD_SELECTOR), kind(&h, NEW_SELECTOR)), (0xb, 9));
    assert_eq!((u32_at(&h, NEW + 0x20), u32_at(&h, NEW + 0x34)), (TASK_CODE as u32 + 2, 0x1234_5679));
    assert_eq!(u32_at(&h, NEW + 0x24) & flags::NT as u32, 0);
}

#[test]
fn an_exception_through_a_task_gate_pushes_its_error_code() {
    // A load past the GDT's end: #GP(0x1000).
    let mut h = tasks(&[0xb8, 0, 0x10, 0, 0, 0x8e, 0xd8]);
    h.set_u64(IDT + 8 * u64::from(vector::GP), u64::from(NEW_SELECTOR) << 16 | 0x85 << 40);
    h.p.cpu.state.idtr = TableRegister { base: IDT, limit: 0x7ff };
    assert_eq!(h.run(2), Stop::Budget);
    assert_eq!((h.p.cpu.state.rip, h.reg(reg::RSP)), (TASK_CODE, 0x6ffc));
    assert_eq!(u32_at(&h, 0x6ffc), 0x1000);
    assert_eq!(u32_at(&h, OLD + 0x20), CODE as u32 + 5);
}

#[test]
fn a_16_bit_tss_loads_words() {
    let mut h = tasks(&[0xea, 0, 0, 0, 0, 0x58, 0]);
    assert_eq!(h.run(1), Stop::Budget);
    assert_eq!((h.p.cpu.state.rip, h.reg(reg::RBX), h.reg(reg::RSP)), (0x4000, 0xbeef, 0x7000));
}

#[test]
fn a_busy_or_short_tss_is_refused_in_the_old_task() {
    for (descriptor, expected) in [
        (tss(NEW, 0xb), (vector::GP, 0x50)),
        (tss(NEW, 9) & !0xff | 0x20, (vector::TS, 0x50)),
        (tss(NEW, 9) & !(1 << 47), (vector::NP, 0x50)),
    ] {
        let mut h = tasks(&[0xea, 0, 0, 0, 0, 0x50, 0]);
        h.set_u64(GDT + u64::from(NEW_SELECTOR), descriptor);
        h.run(1);
        let (rip, e) = h.exception().unwrap();
        assert_eq!((rip, e.vector, e.error), (CODE, expected.0, Some(expected.1)));
        assert_eq!(h.p.cpu.state.tr.selector, OLD_SELECTOR);
    }
}

#[test]
fn a_bad_selector_in_the_new_tss_faults_in_the_new_task() {
    let mut h = tasks(&[0xea, 0, 0, 0, 0, 0x50, 0]);
    // DS names a system segment; #TS goes through an interrupt gate.
    h.set_mem(NEW + 0x54, &OLD_SELECTOR.to_le_bytes());
    h.set_u64(IDT + 8 * u64::from(vector::TS), 0x18 << 16 | 0x8e << 40 | 0x5000);
    h.p.cpu.state.idtr = TableRegister { base: IDT, limit: 0x7ff };
    assert_eq!(h.run(1), Stop::Budget);
    assert_eq!((h.p.cpu.state.rip, h.p.cpu.state.tr.selector), (0x5000, NEW_SELECTOR));
    let sp = h.reg(reg::RSP);
    assert_eq!((u32_at(&h, sp), u32_at(&h, sp + 4)), (OLD_SELECTOR.into(), TASK_CODE as u32));
}

#[test]
fn a_task_switch_to_virtual_8086_mode() {
    let mut h = tasks(&[0xea, 0, 0, 0, 0, 0x50, 0]);
    for (offset, v) in [(0x20, 0x12_u32), (0x24, 0x2_0002), (0x4c, 0x2000)] {
        h.set_mem(NEW + offset, &v.to_le_bytes());
    }
    assert_eq!(h.run(1), Stop::Budget);
    let s = &h.p.cpu.state;
    assert!(s.mode.v86());
    assert_eq!((s.cpl, s.rip, s.segments[seg::CS].base), (3, 0x12, 0x2_0000));
}

#[test]
fn the_trap_flag_of_a_tss_makes_a_debug_exception() {
    let mut h = tasks(&[0xea, 0, 0, 0, 0, 0x50, 0]);
    h.set_mem(NEW + 0x64, &[1]);
    h.run(2);
    let (rip, e) = h.exception().unwrap();
    assert_eq!((rip, e.vector), (TASK_CODE, vector::DB));
    assert_ne!(h.p.cpu.state.dr[6] & 1 << 15, 0);
}

/// PAE paging: the new task's directory pointers are loaded, or it begins with #GP(0) where the old one's lead.
#[test]
fn a_switch_loads_the_directory_pointers() {
    const OLD_TABLE: u64 = 0x5000;
    const NEW_TABLE: u64 = 0x5020;
    for (pointer, admitted) in [(0x6001, true), (0x6003, false)] {
        let mut h = tasks(&[0xea, 0, 0, 0, 0, 0x50, 0]);
        h.set_u64(0x6000, 0x83);
        h.set_u64(OLD_TABLE, 0x6001);
        h.set_u64(NEW_TABLE, 0x6001);
        h.set_u64(NEW_TABLE + 8, pointer);
        h.set_mem(NEW + 0x1c, &(NEW_TABLE as u32).to_le_bytes());
        let s = &mut h.p.cpu.state;
        (s.cr0, s.cr3, s.cr4) = (s.cr0 | bits::CR0_PG, OLD_TABLE, s.cr4 | bits::CR4_PAE);
        s.directory_pointers = [0x6001, 0, 0, 0];
        let state = s.clone();
        h.p.load(state);
        // No exception can be delivered.
        assert_eq!(h.run(1), if admitted { Stop::Budget } else { Stop::Shutdown }, "{pointer:#x}");
        let s = &h.p.cpu.state;
        let table = if admitted { NEW_TABLE } else { OLD_TABLE };
        assert_eq!((s.tr.selector, s.cr3), (NEW_SELECTOR, table), "{pointer:#x}");
        assert_eq!(s.directory_pointers, if admitted { [0x6001, 0x6001, 0, 0] } else { [0x6001, 0, 0, 0] });
        assert_eq!(h.exception().map(|(_, e)| (e.vector, e.error)), (!admitted).then_some((vector::GP, Some(0))));
    }
}
