//! Instructions and rules that hang on a feature bit: SMAP, protection keys, alignment checks, 5-level paging, MONITOR.

use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, al, cr4, dword_ptr, eax, ecx, edx, es, ptr, qword_ptr, rax, rbx, rcx, rdi, rsi, word_ptr};
use softmetal_bus::attention;
use softmetal_cpu::fault::vector;
use softmetal_cpu::state::{bits, reg, seg};
use softmetal_cpu::testing::{CODE, DESCRIPTORS, Harness, TABLES};
use softmetal_cpu::{Segment, Stop, flags};

/// A page of user data.
const USER_PAGE: u64 = 0x20_0000;

/// Long mode with everything below 2 MiB supervisor, the rest user; SMAP on.
fn smap() -> Harness {
    let mut h = Harness::long();
    h.set_u64(TABLES + 0x2000, 0x83);
    h.p.cpu.state.cr4 |= bits::CR4_SMAP;
    let state = h.p.cpu.state.clone();
    h.p.load(state);
    h
}

fn user(h: &mut Harness) {
    for (n, selector) in [(seg::CS, 0x33), (seg::SS, 0x2b)] {
        h.p.cpu.state.cpl = 3;
        h.p.cpu.set_segment(n, Segment::from_descriptor(selector, DESCRIPTORS[usize::from(selector >> 3)]));
    }
}

fn fault(h: &Harness) -> Option<(u8, Option<u32>)> {
    h.exception().map(|(_, e)| (e.vector, e.error))
}

#[test]
fn smap_keeps_the_system_from_user_pages_unless_ac_is_set() {
    let program = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        a.mov(rbx, USER_PAGE)?;
        a.stac()?;
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(qword_ptr(rbx), rax)?;
        a.clac()?;
        a.mov(rcx, qword_ptr(rbx))
    };
    let mut h = smap().asm(program);
    assert_eq!(h.run(5), Stop::Budget);
    assert_eq!(h.run(1), Stop::Shutdown);
    assert_eq!(fault(&h), Some((vector::PF, Some(1))));
    assert_eq!(h.p.cpu.state.cr2, USER_PAGE);
}

#[test]
fn smap_holds_for_stores_and_ends_with_cr4() {
    let mut h = smap().asm(|a| {
        a.mov(rbx, USER_PAGE)?;
        a.mov(rax, cr4)?;
        a.btr(rax, 21)?;
        a.mov(cr4, rax)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.bts(rax, 21)?;
        a.mov(cr4, rax)?;
        a.mov(qword_ptr(rbx), rax)
    });
    assert_eq!(h.run(7), Stop::Budget);
    h.run(1);
    assert_eq!(fault(&h), Some((vector::PF, Some(3))));
}

#[test]
fn stac_is_for_ring_0() {
    let mut h = Harness::long().asm(|a| a.stac());
    user(&mut h);
    h.run(1);
    assert_eq!(fault(&h), Some((vector::UD, None)));
}

#[test]
fn protection_keys_lock_user_pages() {
    // Key 1 for the user page: access disabled, then write disabled, then open.
    let try_with = |pkru: u32, store: bool| {
        let mut h = Harness::long().asm(|a| {
            a.xor(ecx, ecx)?;
            a.xor(edx, edx)?;
            a.mov(eax, pkru)?;
            a.wrpkru()?;
            a.mov(rbx, USER_PAGE)?;
            if store { a.mov(qword_ptr(rbx), rax) } else { a.mov(rax, qword_ptr(rbx)) }
        });
        h.set_u64(TABLES + 0x2008, USER_PAGE | 0x87 | 1 << 59);
        h.p.cpu.state.cr4 |= bits::CR4_PKE;
        let state = h.p.cpu.state.clone();
        h.p.load(state);
        h.run(6);
        fault(&h)
    };
    assert_eq!(try_with(1 << 2, false), Some((vector::PF, Some(0x21))));
    assert_eq!(try_with(1 << 3, false), None);
    assert_eq!(try_with(1 << 3, true), Some((vector::PF, Some(0x23))));
    assert_eq!(try_with(0b11, true), None);
}

#[test]
fn wrpkru_takes_effect_on_what_the_tlb_holds() {
    let mut h = Harness::long().asm(|a| {
        a.mov(rbx, USER_PAGE)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.xor(ecx, ecx)?;
        a.xor(edx, edx)?;
        a.mov(eax, 2)?;
        a.wrpkru()?;
        a.rdpkru()?;
        a.mov(qword_ptr(rbx), rax)
    });
    h.p.cpu.state.cr4 |= bits::CR4_PKE;
    let state = h.p.cpu.state.clone();
    h.p.load(state);
    assert_eq!(h.run(7), Stop::Budget);
    assert_eq!(h.reg(reg::RAX), 2);
    h.run(1);
    assert_eq!(fault(&h), Some((vector::PF, Some(0x23))));
}

#[test]
fn alignment_is_checked_in_ring_3_with_am_and_ac() {
    let try_at = |offset: u64, ring: u8, am: bool| {
        let mut h = Harness::long().asm(|a| {
            a.mov(rbx, USER_PAGE + offset)?;
            a.mov(eax, dword_ptr(rbx))?;
            a.mov(al, ptr(rbx + 1))?;
            a.mov(word_ptr(rbx), eax.into_word())
        });
        h.p.cpu.state.cr0 |= if am { bits::CR0_AM } else { 0 };
        let on = h.flags() | flags::AC;
        h.p.cpu.set_eflags(on);
        if ring == 3 {
            user(&mut h);
        }
        h.run(4);
        fault(&h)
    };
    assert_eq!(try_at(2, 3, true), Some((vector::AC, Some(0))));
    assert_eq!(try_at(4, 3, true), None);
    assert_eq!(try_at(2, 0, true), None);
    assert_eq!(try_at(2, 3, false), None);
}

trait IntoWord {
    fn into_word(self) -> iced_x86::code_asm::AsmRegister16;
}
impl IntoWord for iced_x86::code_asm::AsmRegister32 {
    fn into_word(self) -> iced_x86::code_asm::AsmRegister16 {
        iced_x86::code_asm::ax
    }
}

#[test]
fn five_levels_reach_57_bits() {
    // Level 5 at 0x9000: entry 0 and entry 1 lead to the same level 4.
    let mut h = Harness::long().asm(|a| {
        a.mov(rbx, 1u64 << 48 | USER_PAGE)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(rbx, 1u64 << 56)?;
        a.mov(rax, qword_ptr(rbx))
    });
    h.set_u64(0x9000, TABLES | 7);
    h.set_u64(0x9008, TABLES | 7);
    h.set_u64(USER_PAGE, 0x1234_5678);
    h.p.cpu.state.cr4 |= bits::CR4_LA57;
    h.p.cpu.state.cr3 = 0x9000;
    let state = h.p.cpu.state.clone();
    h.p.load(state);
    assert_eq!(h.run(2), Stop::Budget);
    assert_eq!(h.reg(reg::RAX), 0x1234_5678);
    h.run(2);
    assert_eq!(fault(&h), Some((vector::GP, Some(0))));
}

#[test]
fn la57_cannot_change_in_long_mode() {
    let mut h = Harness::long().asm(|a| {
        a.mov(rax, cr4)?;
        a.bts(rax, 12)?;
        a.mov(cr4, rax)
    });
    h.run(3);
    assert_eq!(fault(&h), Some((vector::GP, Some(0))));
}

/// MONITOR on `USER_PAGE`, `between`, MWAIT, NOP.
fn waiting(between: fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Harness {
    Harness::long().asm(|a| {
        a.mov(rax, USER_PAGE)?;
        a.xor(ecx, ecx)?;
        a.xor(edx, edx)?;
        a.monitor()?;
        between(a)?;
        a.mwait()?;
        a.nop()
    })
}

#[test]
fn mwait_waits_until_an_interrupt_or_a_store() {
    let mut h = waiting(|_| Ok(()));
    assert_eq!(h.run(9), Stop::Halted);
    assert_eq!(h.run(9), Stop::Halted);
    // Interrupts are off: it ends the wait but is not delivered.
    h.p.cpu.attention.raise(attention::INTR);
    assert_eq!(h.run(1), Stop::Budget);
    assert!(!h.p.cpu.state.halted);

    let mut h = waiting(|_| Ok(()));
    assert_eq!(h.run(9), Stop::Halted);
    h.set_u64(USER_PAGE + 56, 1);
    assert_eq!(h.run(1), Stop::Budget);
}

#[test]
fn mwait_does_not_wait_after_a_store_or_without_monitor() {
    let mut h = waiting(|a| a.mov(dword_ptr(USER_PAGE), 7));
    assert_eq!(h.run(7), Stop::Budget);
    let mut h = Harness::long().asm(|a| {
        a.xor(ecx, ecx)?;
        a.mwait()?;
        a.nop()
    });
    assert_eq!(h.run(3), Stop::Budget);
}

#[test]
fn movdir64b_copies_a_line_and_wants_it_aligned() {
    let mut h = Harness::long().asm(|a| {
        a.mov(rsi, 0x5001u64)?;
        a.mov(rdi, 0x6000u64)?;
        a.movdir64b(rdi, ptr(rsi))?;
        a.add(rdi, 8)?;
        a.movdir64b(rdi, ptr(rsi))
    });
    let line: Vec<u8> = (0..64).collect();
    h.set_mem(0x5001, &line);
    assert_eq!(h.run(3), Stop::Budget);
    let mut copy = [0; 64];
    h.mem(0x6000, &mut copy);
    assert_eq!(copy[..], line[..]);
    h.run(2);
    assert_eq!(fault(&h), Some((vector::GP, Some(0))));
}

#[test]
fn adcx_and_adox_use_one_flag_each() {
    let mut h = Harness::long().asm(|a| {
        a.mov(rax, -1i64)?;
        a.mov(rcx, 1u64)?;
        a.adcx(rax, rcx)?;
        a.adox(rax, rcx)?;
        a.adcx(rax, rcx)
    });
    h.run(3);
    assert_eq!((h.reg(reg::RAX), h.flags() & (flags::CF | flags::OF | flags::ZF)), (0, flags::CF));
    h.run(1);
    assert_eq!((h.reg(reg::RAX), h.flags() & (flags::CF | flags::OF)), (1, flags::CF));
    h.run(1);
    assert_eq!((h.reg(reg::RAX), h.flags() & (flags::CF | flags::OF)), (3, 0));
}

/// Virtual-8086 mode at 0x1000:0 with IOPL 0, CR4.VME, and a TSS at 0x3000 whose redirection bitmap is all 0.
fn vme(code: &[u8]) -> Harness {
    let mut h = Harness::protected32();
    h.set_mem(CODE, code);
    h.set_u64(0x3060, 0x0088_0000_0000_0000);
    let cpu = &mut h.p.cpu;
    cpu.state.tr = Segment { selector: 0x40, attributes: 0x8b, limit: 0x2100, base: 0x3000 };
    cpu.state.cr4 |= bits::CR4_VME;
    cpu.state.cpl = 3;
    cpu.state.rip = 0;
    cpu.set_eflags(flags::VM);
    for n in 0..6 {
        let selector = if n == seg::CS { (CODE >> 4) as u16 } else { 0 };
        let segment = cpu.real_segment(n, selector);
        cpu.set_segment(n, segment);
    }
    h
}

#[test]
fn vme_gives_a_virtual_interrupt_flag() {
    // STI; PUSHF; POP AX; CLI; PUSHF; POP BX
    let mut h = vme(&[0xfb, 0x9c, 0x58, 0xfa, 0x9c, 0x5b]);
    assert_eq!(h.run(6), Stop::Budget);
    assert_eq!(h.reg(reg::RAX) & 0x3200, 0x3200);
    assert_eq!(h.reg(reg::RBX) & 0x3200, 0x3000);
    assert_eq!(h.flags() & (flags::IF | flags::VIF), 0);
    // With an interrupt pending, STI faults.
    let mut h = vme(&[0xfb]);
    let pending = h.flags() | flags::VIP;
    h.p.cpu.set_eflags(pending);
    h.run(1);
    assert_eq!(fault(&h), Some((vector::GP, Some(0))));
}

#[test]
fn vme_redirects_int_n_to_the_vector_table() {
    // STI; INT 0x21, whose handler is an IRET at 0x1000:0x100; PUSHF; POP AX.
    let mut h = vme(&[0xfb, 0xcd, 0x21, 0x9c, 0x58]);
    h.set_mem(CODE + 0x100, &[0xcf]);
    h.set_mem(4 * 0x21, &[0, 1, 0, 0x10]);
    assert_eq!(h.run(2), Stop::Budget);
    assert_eq!((h.p.cpu.state.rip, h.flags() & flags::VIF), (0x100, 0));
    assert_eq!(h.run(3), Stop::Budget);
    assert_eq!(h.reg(reg::RAX) & 0x3200, 0x3200);
    // A set bit sends it to the monitor.
    let mut h = vme(&[0xcd, 0x21]);
    h.set_mem(0x3068 + 4, &[2]);
    h.run(1);
    assert_eq!(fault(&h), Some((vector::GP, Some(0))));
}

#[test]
fn es_is_used_by_movdir64b_outside_long_mode() {
    let mut h = Harness::protected32().asm(|a| {
        a.mov(eax, 0)?;
        a.mov(es, eax)?;
        a.mov(eax, 0x6000)?;
        a.movdir64b(eax, dword_ptr(0x5000))
    });
    h.run(4);
    assert_eq!(fault(&h), Some((vector::GP, Some(0))));
}
