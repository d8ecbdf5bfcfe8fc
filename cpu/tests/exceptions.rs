//! Which exception comes, and what of the state it leaves: reserved bits, gates, pages of different rights, segments' ends.

use softmetal_bus::attention;
use softmetal_cpu::exec::cpuid::Model;
use softmetal_cpu::fault::vector;
use softmetal_cpu::flags::{AC, IF, RF, TF};
use softmetal_cpu::state::{Segment, TableRegister, bits, reg, seg};
use softmetal_cpu::testing::{CODE, DESCRIPTORS, Harness, STACK, TABLES};
use softmetal_cpu::{Exception, Stop};

const IDT: u64 = 0x2000;
/// The handler of vector `v` is at `HANDLERS + 16 * v`: IRETQ.
const HANDLERS: u64 = 0x2_0000;
/// A page table for linear addresses from `PAGES` on.
const TABLE: u64 = 0x30_0000;
const PAGES: u64 = 0x40_0000;

/// The exception that `n` instructions end with; where there is no IDT it shuts the processor down.
fn fault_in(h: &mut Harness, n: u64) -> Option<(u8, Option<u32>)> {
    (h.run(n) == Stop::Shutdown).then(|| h.exception().map(|(_, e)| (e.vector, e.error))).flatten()
}

/// The exception of the first instruction.
fn first(h: Harness) -> Option<(u8, Option<u32>)> {
    let mut h = h;
    fault_in(&mut h, 1)
}

const GP: Option<(u8, Option<u32>)> = Some((vector::GP, Some(0)));
const UD: Option<(u8, Option<u32>)> = Some((vector::UD, None));

fn privilege(h: &mut Harness, level: u8) {
    let cpu = &mut h.p.cpu;
    let (cs, ss) = if level == 3 { (0x33, 0x2b) } else { (0x08, 0x10) };
    cpu.state.cpl = level;
    for (n, selector) in [(seg::CS, cs), (seg::SS, ss)] {
        cpu.set_segment(n, Segment::from_descriptor(selector, DESCRIPTORS[usize::from(selector >> 3)]));
    }
}

/// 64-bit mode with a handler for every vector.
fn handled() -> Harness {
    let mut h = Harness::long();
    for v in 0..256 {
        let at = HANDLERS + 16 * v;
        h.set_u64(IDT + 16 * v, at & 0xffff | 8 << 16 | 0x8e << 40 | (at >> 16) << 48);
        h.set_mem(at, &[0x48, 0xcf]);
    }
    h.p.cpu.state.idtr = TableRegister { base: IDT, limit: 0xfff };
    h
}

/// 64-bit mode with pages of 4 KiB from `PAGES` on, those of `entries`.
fn paged(entries: &[u64]) -> Harness {
    let mut h = Harness::long();
    h.set_u64(TABLES + 0x2000 + 8 * (PAGES >> 21), TABLE | 7);
    for (i, e) in entries.iter().enumerate() {
        h.set_u64(TABLE + 8 * i as u64, *e);
    }
    h
}

#[test]
fn control_registers_refuse_reserved_bits() {
    // mov cr0/cr3/cr4/cr8, rax; mov dr6/dr7, rax
    let cases: [(&[u8], u64, bool); 16] = [
        (&[0x0f, 0x22, 0xc0], 1 << 32 | 0x8001_0033, false),
        // PG without PE, NW without CD, PG off in 64-bit code.
        (&[0x0f, 0x22, 0xc0], 0x8001_0032, false),
        (&[0x0f, 0x22, 0xc0], 0xa001_0033, false),
        (&[0x0f, 0x22, 0xc0], 0x0001_0033, false),
        (&[0x0f, 0x22, 0xc0], 0xe001_0033, true),
        // Beyond the physical address width.
        (&[0x0f, 0x22, 0xd8], TABLES | 1 << 40, false),
        (&[0x0f, 0x22, 0xd8], TABLES | 1 << 63, false),
        (&[0x0f, 0x22, 0xd8], TABLES | 0x18, true),
        (&[0x0f, 0x22, 0xe0], 0x620 | 1 << 13, false),
        (&[0x0f, 0x22, 0xe0], 0x620 | 1 << 32, false),
        (&[0x0f, 0x22, 0xe0], 0x600, false),
        (&[0x0f, 0x22, 0xe0], 0x6a0, true),
        (&[0x44, 0x0f, 0x22, 0xc0], 16, false),
        (&[0x44, 0x0f, 0x22, 0xc0], 15, true),
        (&[0x0f, 0x23, 0xf0], 1 << 32, false),
        (&[0x0f, 0x23, 0xf8], 1 << 63 | 0x400, false),
    ];
    for (code, value, admitted) in cases {
        let mut h = Harness::long().code(code);
        h.set_reg(reg::RAX, value);
        let before = h.p.cpu.state.clone();
        let fault = fault_in(&mut h, 1);
        assert_eq!(fault, if admitted { None } else { GP }, "{code:x?} with {value:#x}");
        let s = &h.p.cpu.state;
        if !admitted {
            assert_eq!((s.cr0, s.cr3, s.cr4, s.dr), (before.cr0, before.cr3, before.cr4, before.dr), "{code:x?} with {value:#x}");
        }
    }
}

/// 32-bit mode with PAE switched on, but not yet paging; its directory pointers are at 0x5000.
fn pae(pointer: u64) -> Harness {
    // mov cr0, eax; mov cr3, ebx; nop
    let mut h = Harness::protected32().code(&[0x0f, 0x22, 0xc0, 0x0f, 0x22, 0xdb, 0x90]);
    for i in 0..RAM_2M {
        h.set_u64(0x6000 + 8 * i, i << 21 | 0x83);
    }
    h.set_u64(0x5000, 0x6001);
    h.set_u64(0x5020, 0x6001);
    h.set_u64(0x5028, pointer);
    let s = &mut h.p.cpu.state;
    (s.cr3, s.cr4) = (0x5000, s.cr4 | bits::CR4_PAE);
    h.set_reg(reg::RAX, 0x8000_0011);
    h.set_reg(reg::RBX, 0x5020);
    h
}
const RAM_2M: u64 = 8;

#[test]
fn directory_pointers_are_checked_when_cr3_is_loaded() {
    for (pointer, admitted) in [
        (0x7019, true),
        (0, true),
        (0x7e01, true),
        (0x1e6, true),
        (0x7003, false),
        (0x7081, false),
        (1 << 63 | 1, false),
        (1 << 40 | 1, false),
    ] {
        let mut h = pae(pointer);
        assert_eq!(fault_in(&mut h, 2), if admitted { None } else { GP }, "{pointer:#x}");
        assert_eq!(h.p.cpu.state.cr3, if admitted { 0x5020 } else { 0x5000 });
    }
    // And when paging is switched on.
    let mut h = pae(0);
    h.p.cpu.state.cr3 = 0x5020;
    h.set_u64(0x5038, 0x21);
    assert_eq!(fault_in(&mut h, 1), GP);
    assert_eq!(h.p.cpu.state.cr0 & bits::CR0_PG, 0);
}

/// SDM 3A, 4.4.1: walks do not look at the page-directory-pointer table.
#[test]
fn directory_pointers_are_registers() {
    use iced_x86::code_asm::{cr0, cr3, dword_ptr, eax, ebp, ebx, ecx, edi, edx, esi, ptr};

    const TABLE: u64 = 0x5000;
    const WINDOW: u64 = 0x4000_9000;
    let mut h = pae(0);
    // The second gigabyte is the first one, or begins with the second 2 MiB.
    h.set_u64(TABLE + 8, 0x6001);
    h.set_u64(0x8000, 0x20_0083);
    h.set_u64(0x9000, 0xa);
    h.set_u64(0x20_9000, 0xb);
    h.set_reg(reg::RBX, TABLE);
    let code = h.assemble(CODE, |a| {
        a.mov(cr0, eax)?;
        a.mov(ecx, dword_ptr(WINDOW))?;
        a.mov(dword_ptr(TABLE + 8), 0x8001)?;
        a.invlpg(ptr(WINDOW))?;
        a.mov(edx, dword_ptr(WINDOW))?;
        a.mov(cr3, ebx)?;
        a.mov(esi, dword_ptr(WINDOW))?;
        // A reserved bit.
        a.mov(dword_ptr(TABLE + 8), 0x6003)?;
        a.invlpg(ptr(WINDOW))?;
        a.mov(edi, dword_ptr(WINDOW))?;
        // Not present, and loaded with CR0.CD.
        a.mov(dword_ptr(TABLE + 8), 0)?;
        a.or(eax, bits::CR0_CD as u32)?;
        a.mov(cr0, eax)?;
        a.mov(ebp, dword_ptr(WINDOW))
    });
    h.set_mem(CODE, &code);
    assert_eq!(fault_in(&mut h, 13), None);
    let read = [reg::RCX, reg::RDX, reg::RSI, reg::RDI].map(|r| h.reg(r));
    assert_eq!((read, h.p.cpu.state.directory_pointers), ([0xa, 0xa, 0xb, 0xb], [0x6001, 0, 0, 0]));
    assert_eq!(fault_in(&mut h, 1), Some((vector::PF, Some(0))));
    assert_eq!(h.p.cpu.state.cr2, WINDOW);
}

#[test]
fn reserved_bits_of_page_tables() {
    // mov al, [rbx]
    let read = |level: u64, bit: u64| {
        let mut h = paged(&[0x9000 | 7]).code(&[0x8a, 0x03]);
        h.set_reg(reg::RBX, PAGES);
        let at = [TABLE, TABLES + 0x2000 + 8 * (PAGES >> 21), TABLES + 0x1000, TABLES][level as usize];
        let entry = h.u64(at) | bit;
        // The code is elsewhere only at the lowest two levels.
        h.run(0);
        h.p.cpu.translate_code(CODE).expect("the code is there");
        h.set_u64(at, entry);
        fault_in(&mut h, 1)
    };
    let reserved = Some((vector::PF, Some(9)));
    for level in 0..4 {
        assert_eq!(read(level, 0), None);
        assert_eq!(read(level, 1 << 40), reserved, "level {level}");
        assert_eq!(read(level, 1 << 51), reserved, "level {level}");
        assert_eq!(read(level, 0x3ff << 52), None, "level {level}: ignored bits");
    }
    // PS in the top level; a large page that is not aligned.
    assert_eq!(read(3, 0x80), reserved);
    assert_eq!(read(1, 0x80 | 1 << 13), reserved);
    // NX without EFER.NXE.
    let mut h = paged(&[0x9000 | 7 | 1 << 63]).code(&[0x8a, 0x03]);
    h.set_reg(reg::RBX, PAGES);
    h.p.cpu.state.efer &= !bits::EFER_NXE;
    assert_eq!(fault_in(&mut h, 1), reserved);
}

#[test]
fn msrs_refuse_what_is_reserved() {
    let write = |msr: u32, v: u64| {
        let mut h = Harness::long().code(&[0x0f, 0x30]);
        h.set_reg(reg::RCX, msr.into());
        h.set_reg(reg::RAX, v & 0xffff_ffff);
        h.set_reg(reg::RDX, v >> 32);
        fault_in(&mut h, 1)
    };
    const NOT_CANONICAL: u64 = 1 << 62;
    // IA32_APIC_BASE, FLUSH_CMD, SYSENTER_ESP, MCG_CAP, MCG_STATUS, PERF_STATUS, PERF_CTL, CLOCK_MODULATION, THERM_*, MISC_ENABLE, ...
    let bad: [(u32, u64); 36] = [
        (0x1b, 1 << 40 | 0xfee0_0900),
        (0x3a, 5),
        (0x48, 1 << 40),
        (0x49, 2),
        (0xce, 0),
        (0xfe, 0),
        (0x10a, 0),
        (0x10b, 2),
        (0x175, NOT_CANONICAL),
        (0x176, NOT_CANONICAL),
        (0x179, 0),
        (0x17a, 16),
        (0x198, 0),
        (0x199, 1 << 20),
        (0x19a, 0x20),
        (0x19b, 1 << 30),
        (0x19c, 1 << 40),
        (0x1a0, 1 << 1),
        (0x1b0, 0x10),
        (0x1d9, 1 << 6),
        (0x200, 2),
        (0x200, 0x106),
        (0x200, 1 << 40),
        (0x201, 0x100),
        (0x201, 1 << 40 | 0x800),
        (0x250, 2),
        (0x277, 2),
        (0x2ff, 0x1006),
        (0xda0, 1),
        (0xc000_0080, 1 << 12),
        (0xc000_0080, 2),
        (0xc000_0082, NOT_CANONICAL),
        (0xc000_0084, 1 << 32),
        (0xc000_0101, NOT_CANONICAL),
        (0xc000_0103, 1 << 32),
        (0x1234_5678, 0),
    ];
    for (msr, v) in bad {
        assert_eq!(write(msr, v), GP, "MSR {msr:#x} with {v:#x}");
    }
    let good: [(u32, u64); 20] = [
        (0x10, !0),
        (0x3b, !0),
        (0x79, 0x1_0000),
        (0x8b, 0),
        (0x10b, 1),
        (0x174, 0xffff),
        (0x17a, 4),
        (0x199, 1 << 32 | 0x800),
        (0x19a, 0x1e),
        (0x19b, 0x0101_0003),
        (0x19c, 0),
        (0x1a0, 0x85_1889 | 1 << 34),
        (0x1b0, 15),
        (0x1d9, 3),
        (0x200, 0xff_ffff_f006),
        (0x201, 0xff_ffff_f800),
        (0x277, 0x0007_0406_0001_0506),
        (0xc000_0081, !0),
        (0xc000_0082, 0xffff_8000_0000_0000),
        (0xc000_0103, 7),
    ];
    for (msr, v) in good {
        assert_eq!(write(msr, v), None, "MSR {msr:#x} with {v:#x}");
    }
}

#[test]
fn machine_check_banks_are_empty_and_counters_stand_still() {
    let mut h = Harness::long();
    let cpu = &mut h.p.cpu;
    let banks = cpu.read_msr(0x179, 0).unwrap();
    assert_eq!(banks & 0xff, 4);
    assert_eq!(banks >> 8, 0, "no MCG_CTL, no CMCI, no software recovery");
    for bank in 0..4 {
        let first = 0x400 + 4 * bank;
        assert!(cpu.write_msr(first, !0, 0));
        assert_eq!(cpu.read_msr(first, 0), Some(!0));
        for msr in first + 1..first + 4 {
            assert_eq!(cpu.read_msr(msr, 0), Some(0), "{msr:#x}");
            assert!(cpu.write_msr(msr, 0, 0) && !cpu.write_msr(msr, 1, 0), "{msr:#x}");
        }
    }
    assert_eq!((cpu.read_msr(0x410, 0), cpu.read_msr(0x17b, 0), cpu.read_msr(0x280, 0)), (None, None, None));
    for msr in [0xc1, 0xc2, 0x186, 0x187] {
        assert!(cpu.write_msr(msr, 0x53_0076, 0));
        assert_eq!(cpu.read_msr(msr, 0), Some(0), "{msr:#x}");
    }
    // CPUID leaf 0xa tells of none, so there are none of these.
    for msr in [0xc3, 0x188, 0x309, 0x38d, 0x38f, 0x345, 0x4c1, 0xc001_0000] {
        assert_eq!(cpu.read_msr(msr, 0), None, "{msr:#x}");
        assert!(!cpu.write_msr(msr, 0, 0), "{msr:#x}");
    }
    // RDPMC of any counter.
    assert_eq!(first(Harness::long().code(&[0x0f, 0x33])), GP);

    cpu.model = Model::by_name("zen3").expect("a model of AMD's");
    for msr in 0xc001_0000..0xc001_0008 {
        assert!(cpu.write_msr(msr, 0x53_0076, 0));
        assert_eq!(cpu.read_msr(msr, 0), Some(0), "{msr:#x}");
    }
    cpu.model = Model::by_name("486").expect("a model without machine checks");
    assert_eq!(cpu.read_msr(0x400, 0), None);
}

#[test]
fn single_steps_on_branches_alone() {
    // nop; nop; jmp over int3; nop; nop
    let mut h = handled().code(&[0x90, 0x90, 0xeb, 0x01, 0xcc, 0x90, 0x90]);
    h.p.cpu.state.eflags |= TF;
    h.p.cpu.state.msr.debugctl = 2;
    h.run(3);
    assert_eq!(h.p.cpu.state.rip, CODE + 5, "only the jump traps");
    h.run(1);
    let (sp, s) = (h.reg(reg::RSP), &h.p.cpu.state);
    assert_eq!((s.rip, s.dr[6] & 1 << 14, s.msr.debugctl), (HANDLERS + 16, 1 << 14, 0), "the exception clears BTF");
    assert_eq!(h.u64(sp), CODE + 5);
    // From now on each instruction.
    h.run(2);
    assert_eq!(h.p.cpu.state.rip, CODE + 6);
    h.run(1);
    assert_eq!(h.p.cpu.state.rip, HANDLERS + 16);

    // A jump to itself is a branch; an iteration of a repeated instruction (REP STOSB) is none.
    for (code, steps) in [(&[0xeb, 0xfe][..], 1), (&[0xf3, 0xaa, 0xeb, 0xfe], 4)] {
        let mut h = handled().code(code);
        h.set_reg(reg::RCX, 3);
        h.set_reg(reg::RDI, 0x9000);
        h.p.cpu.state.eflags |= TF;
        h.p.cpu.state.msr.debugctl = 2;
        h.run(steps);
        assert_eq!(h.p.cpu.state.rip, CODE + code.len() as u64 - 2);
        h.run(1);
        assert_eq!((h.p.cpu.state.rip, h.u64(h.reg(reg::RSP))), (HANDLERS + 16, CODE + code.len() as u64 - 2));
    }
}

#[test]
fn syscall_outside_of_64_bit_mode_is_amds() {
    let compatible = |model: &str| {
        let mut h = Harness::long().code(&[0x0f, 0x05]);
        h.p.cpu.model = Model::by_name(model).expect("a model");
        let m = &mut h.p.cpu.state.msr;
        (m.star, m.lstar, m.cstar, m.fmask) = (0x0020_0008 << 32, 0x1_8000, 0x1_9000, IF);
        // 32-bit user code.
        h.p.cpu.state.cpl = 3;
        for (n, selector) in [(seg::CS, 0x23), (seg::SS, 0x2b)] {
            h.p.cpu.set_segment(n, Segment::from_descriptor(selector, DESCRIPTORS[usize::from(selector >> 3)]));
        }
        h.set_mem(0x1_9000, &[0x90]);
        let fault = fault_in(&mut h, 1);
        (fault, h.p.cpu.state.rip, h.reg(reg::RCX), h.p.cpu.state.cpl)
    };
    assert_eq!(compatible("x86-64-v3").0, UD);
    assert_eq!(compatible("zen3"), (None, 0x1_9000, CODE + 2, 0));
    // Legacy mode: STAR has the address.
    let mut h = Harness::protected32().code(&[0x0f, 0x05]);
    h.p.cpu.model = Model::by_name("zen3").expect("a model");
    h.p.cpu.state.efer |= bits::EFER_SCE;
    h.p.cpu.state.msr.star = 0x0018 << 32 | 0x1_9000;
    h.p.cpu.state.eflags |= IF;
    assert_eq!(fault_in(&mut h, 1), None);
    assert_eq!((h.p.cpu.state.rip, h.reg(reg::RCX), h.flags() & IF), (0x1_9000, CODE + 2, 0));
    // SYSENTER in long mode is Intel's.
    for (model, fault) in [("x86-64-v3", None), ("zen3", UD)] {
        let mut h = Harness::long().code(&[0x0f, 0x34]);
        h.p.cpu.model = Model::by_name(model).expect("a model");
        (h.p.cpu.state.msr.sysenter_cs, h.p.cpu.state.msr.sysenter_eip) = (8, 0x1_9000);
        assert_eq!(fault_in(&mut h, 1), fault, "{model}");
    }
}

#[test]
fn fxsave_wants_16_bytes() {
    // fxsave [rbx]; fxrstor [rbx]
    for code in [[0x0f, 0xae, 0x03], [0x0f, 0xae, 0x0b]] {
        for (at, flag, fault) in [(0x9000, 0, None), (0x9008, 0, GP), (0x9008, AC, GP), (0x9001, AC, GP)] {
            let mut h = Harness::long().code(&code);
            privilege(&mut h, 3);
            h.p.cpu.state.cr0 |= bits::CR0_AM;
            let flags = h.flags() | flag;
            h.p.cpu.set_eflags(flags);
            h.set_reg(reg::RBX, at);
            assert_eq!(fault_in(&mut h, 1), fault, "{code:x?} at {at:#x}");
        }
    }
}

#[test]
fn gates_check_who_calls() {
    // int 0x40; int3; into (in 32-bit mode); int1: only the last goes through a gate of DPL 0 from CPL 3.
    let run = |code: &[u8], dpl: u64| {
        let mut h = Harness::protected32().code(code);
        for v in 0..0x41 {
            h.set_u64(IDT + 8 * v, HANDLERS & 0xffff | 0x18 << 16 | (0x8e | dpl << 5) << 40 | HANDLERS >> 16 << 48);
        }
        h.set_mem(HANDLERS, &[0xf4]);
        // A TSS with a stack for CPL 0.
        h.set_u64(0x3000 + 4, STACK | 0x10 << 32);
        let cpu = &mut h.p.cpu;
        cpu.state.idtr = TableRegister { base: IDT, limit: 0x7ff };
        cpu.state.tr = Segment { selector: 0x40, attributes: 0x8b, limit: 0x67, base: 0x3000 };
        cpu.state.cpl = 3;
        for (n, selector) in [(seg::CS, 0x23), (seg::SS, 0x2b)] {
            cpu.set_segment(n, Segment::from_descriptor(selector, DESCRIPTORS[usize::from(selector >> 3)]));
        }
        cpu.set_eflags(1 << 11 | 2);
        h.run(1);
        let sp = h.reg(reg::RSP);
        let mut words = [0; 16];
        h.mem(sp, &mut words);
        let word = |n: usize| u32::from_le_bytes([words[4 * n], words[4 * n + 1], words[4 * n + 2], words[4 * n + 3]]);
        assert_eq!(h.p.cpu.state.cpl, 0);
        (word(0), word(1))
    };
    let code = CODE as u32;
    for (bytes, v) in [(&[0xcd_u8, 0x40][..], 0x40), (&[0xcc][..], 3), (&[0xce][..], 4)] {
        assert_eq!(run(bytes, 0), (v << 3 | 2, code), "#GP with IDT, not EXT, at the instruction itself");
        assert_eq!(run(bytes, 3), (code + bytes.len() as u32, 0x23));
    }
    assert_eq!(run(&[0xf1], 0), (code + 1, 0x23));
}

#[test]
fn into_code_of_other_rights() {
    // mov eax, imm32 with its first two bytes at a page's end
    let across = |second: u64, level: u8, smep: bool| {
        let mut h = paged(&[0x9000 | 7, second]);
        h.set_mem(0x9ffe, &[0xb8, 1]);
        h.set_mem(0xa000, &[2, 3, 4, 0x90]);
        privilege(&mut h, level);
        if smep {
            h.p.cpu.state.cr4 |= bits::CR4_SMEP;
        }
        let mut s = h.p.cpu.state.clone();
        s.rip = PAGES + 0xffe;
        h.p.load(s);
        h.run(1);
        match h.exception() {
            None => Ok(h.reg(reg::RAX)),
            Some((rip, Exception { vector, error, address })) => Err((rip - PAGES, vector, error, address - PAGES)),
        }
    };
    assert_eq!(across(0xa000 | 7, 3, false), Ok(0x0403_0201));
    // Not present, no execution, the system's.
    assert_eq!(across(0, 3, false), Err((0xffe, vector::PF, Some(0x14), 0x1000)));
    assert_eq!(across(0xa000 | 7 | 1 << 63, 3, false), Err((0xffe, vector::PF, Some(0x15), 0x1000)));
    assert_eq!(across(0xa000 | 3, 3, false), Err((0xffe, vector::PF, Some(0x15), 0x1000)));
    assert_eq!(across(0xa000 | 3, 0, false), Ok(0x0403_0201));
    // SMEP: the first page is the user's, so even its own bytes may not be fetched.
    assert_eq!(across(0xa000 | 7, 0, true), Err((0xffe, vector::PF, Some(0x11), 0xffe)));
}

#[test]
fn segments_end() {
    // mov ax, [0xffff]; mov al, [0xffff]; push at SP = 1; mov eax, ss:[bp]
    let real = |code: &[u8]| {
        let mut h = Harness::real().code(code);
        h.set_reg(reg::RSP, 1);
        h.set_reg(reg::RBP, 0xfffd);
        h.set_reg(reg::RSI, 0xffff);
        h.set_reg(reg::RDI, 0x9000);
        h.p.cpu.state.idtr.limit = 0;
        first(h).map(|(v, _)| v)
    };
    assert_eq!(real(&[0xa1, 0xff, 0xff]), Some(vector::GP));
    assert_eq!(real(&[0xa0, 0xff, 0xff]), None);
    assert_eq!(real(&[0x50]), Some(vector::SS));
    assert_eq!(real(&[0x66, 0x8b, 0x46, 0x00]), Some(vector::SS));
    assert_eq!(real(&[0x66, 0x8b, 0x46, 0xff]), None);
    // LODSB at the last byte, and LODSW.
    assert_eq!(real(&[0xac]), None);
    assert_eq!(real(&[0xad]), Some(vector::GP));
}

#[test]
fn repeated_stores_go_on_where_a_page_was_missing() {
    // rep stosb over the end of the one page that is there
    let mut h = paged(&[0x9000 | 7]).code(&[0xf3, 0xaa, 0x90]);
    h.set_reg(reg::RAX, 0x5a);
    h.set_reg(reg::RDI, PAGES + 0xffd);
    h.set_reg(reg::RCX, 8);
    assert_eq!(fault_in(&mut h, 8), Some((vector::PF, Some(2))));
    assert_eq!(h.exception().map(|(rip, e)| (rip, e.address)), Some((CODE, PAGES + 0x1000)));
    assert_eq!((h.reg(reg::RDI), h.reg(reg::RCX)), (PAGES + 0x1000, 5));
    // The page comes, and the instruction ends.
    h.set_u64(TABLE + 8, 0xa000 | 7);
    let mut s = h.p.cpu.state.clone();
    s.rip = CODE;
    h.p.load(s);
    h.run(5);
    assert_eq!((h.reg(reg::RDI), h.reg(reg::RCX), h.p.cpu.state.rip), (PAGES + 0x1005, 0, CODE + 2));
    assert_eq!((h.u64(0x9ff8) >> 40, h.u64(0xa000)), (0x5a_5a5a, 0x5a_5a5a_5a5a));
}

#[test]
fn a_store_one_byte_ahead_is_seen() {
    // mov byte [rip], 0x90 over the HLT right behind it
    let mut h = Harness::long().code(&[0xc6, 0x05, 0, 0, 0, 0, 0x90, 0xf4, 0x90]);
    h.set_reg(reg::RAX, 1);
    assert_eq!(h.run(3), Stop::Budget);
    assert_eq!(h.p.cpu.state.rip, CODE + 9);
    // Into the instruction's own page's next block, and across the page's end.
    let mut h = Harness::long();
    let at = CODE + 0xff9;
    h.set_mem(at, &[0xc6, 0x05, 0, 0, 0, 0, 0x90, 0xf4, 0x90]);
    let mut s = h.p.cpu.state.clone();
    s.rip = at;
    h.p.load(s);
    assert_eq!(h.run(3), Stop::Budget);
    assert_eq!(h.p.cpu.state.rip, at + 9);
}

#[test]
fn nmi_comes_before_intr_and_not_again_before_iret() {
    let mut h = handled().code(&[0x90, 0x90, 0x90, 0x90]);
    h.p.cpu.state.eflags |= IF;
    h.interrupt(0x50);
    h.p.cpu.attention.raise(attention::NMI);
    h.run(1);
    assert_eq!(h.p.cpu.state.rip, HANDLERS + 16 * 2);
    // A second one waits for IRET, while a nested exception's IRET would let it in (SDM 3A, 6.7.1).
    h.p.cpu.attention.raise(attention::NMI);
    h.run(1);
    assert_eq!(h.p.cpu.state.rip, CODE, "IRET ran");
    h.run(1);
    assert_eq!(h.p.cpu.state.rip, HANDLERS + 16 * 2);
    h.run(1);
    h.run(1);
    assert_eq!(h.p.cpu.state.rip, HANDLERS + 16 * 0x50);
}

#[test]
fn invalid_opcodes_come_before_privilege() {
    // lock hlt; lock mov cr0, rax: #UD, not #GP, at CPL 3
    for code in [&[0xf0, 0xf4][..], &[0xf0, 0x0f, 0x22, 0xc0][..]] {
        let mut h = Harness::long().code(code);
        privilege(&mut h, 3);
        assert_eq!(fault_in(&mut h, 1), UD, "{code:x?}");
    }
    // What is too long is that first, be it an instruction or not: MOV to CS.
    let mut bytes = vec![0x2e; 12];
    bytes.extend([0x8e, 0x0c, 0x25, 0, 0, 0, 0]);
    assert_eq!(first(Harness::long().code(&bytes)), GP);
    // x87 with CR0.EM: #NM before anything of its operand.
    let mut h = Harness::long().code(&[0xd9, 0x04, 0x25, 0, 0, 0, 0x7f]);
    h.p.cpu.state.cr0 |= bits::CR0_EM;
    assert_eq!(fault_in(&mut h, 1), Some((vector::NM, None)));
}

/// SDM 2, 2.1.1 and 2.2.1: REX counts only right before the opcode, and W more than 66.
#[test]
fn the_order_of_prefixes() {
    for (code, rax) in [
        // MOV with an immediate: REX.W before 66, after it, alone; REX twice.
        (&[0x48, 0x66, 0xb8, 0x34, 0x12][..], 0x1111_1111_1111_1234),
        (&[0x66, 0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8], 0x0807_0605_0403_0201),
        (&[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8], 0x0807_0605_0403_0201),
        (&[0x48, 0x40, 0xb8, 1, 2, 3, 4], 0x0403_0201),
        // ADD AH, 1 and, by any REX, ADD SPL, 1.
        (&[0x80, 0xc4, 1], 0x1111_1111_1111_1211),
        (&[0x40, 0x80, 0xc4, 1], 0x1111_1111_1111_1111),
        // POPCNT: of 66, F2 and F3 one is mandatory, F3; 66 is the size. BSWAP has none of these.
        (&[0x66, 0xf3, 0x0f, 0xb8, 0xc0], 0x1111_1111_1111_0004),
        (&[0xf3, 0x66, 0x48, 0x0f, 0xb8, 0xc0], 0x10),
        (&[0xf2, 0xf3, 0x0f, 0xc8], 0x1111_1111),
    ] {
        let mut h = Harness::long().code(code);
        h.set_reg(reg::RAX, 0x1111_1111_1111_1111);
        assert_eq!((h.run(1), h.p.cpu.state.rip), (Stop::Budget, CODE + code.len() as u64), "{code:x?}");
        assert_eq!(h.reg(reg::RAX), rax, "{code:x?}");
    }
}

#[test]
fn an_instruction_breakpoint_comes_before_the_fetch() {
    let mut h = handled();
    let mut s = h.p.cpu.state.clone();
    s.rip = PAGES;
    (s.dr[0], s.dr[7]) = (PAGES, 2);
    h.set_u64(TABLES + 0x2000 + 8 * (PAGES >> 21), 0);
    h.p.load(s);
    h.run(1);
    assert_eq!(h.p.cpu.state.rip, HANDLERS + 16);
    // The handler sets RF, and then the fetch faults.
    let pushed = h.reg(reg::RSP) + 16;
    h.set_u64(pushed, h.u64(pushed) | RF);
    h.run(2);
    assert_eq!((h.p.cpu.state.rip, h.p.cpu.state.cr2), (HANDLERS + 16 * 14, PAGES));
}

#[test]
fn far_rip_relative_operands() {
    // mov rax, [rip + 0x7fffffff], at the end of a block, 2 GiB below what it names
    let mut h = Harness::long().code(&[0x90, 0x90, 0x48, 0x8b, 0x05, 0xff, 0xff, 0xff, 0x7f]);
    h.run(3);
    let (_, e) = h.exception().expect("there is nothing");
    assert_eq!((e.vector, e.address), (vector::PF, CODE + 9 + 0x7fff_ffff));
    // And below: 2 GiB less, which is not canonical only for code at 0.
    let mut h = Harness::long().code(&[0x48, 0x8b, 0x05, 0, 0, 0, 0x80]);
    h.run(1);
    let (_, e) = h.exception().expect("there is nothing");
    assert_eq!((e.vector, e.address), (vector::PF, (CODE + 7).wrapping_sub(0x8000_0000)));
}

#[test]
fn the_port_bitmap_ends_with_a_byte_of_ones() {
    // in ax, dx at CPL 3, IOPL 0; the bitmap begins behind the TSS
    let read = |port: u64, limit: u32, bits: u64| {
        let mut h = Harness::long().code(&[0x66, 0xed]);
        privilege(&mut h, 3);
        h.set_mem(0x3066, &0x68u16.to_le_bytes());
        h.set_u64(0x3068, bits);
        h.p.cpu.state.tr = Segment { selector: 0x40, attributes: 0x8b, limit, base: 0x3000 };
        h.set_reg(reg::RDX, port);
        fault_in(&mut h, 1)
    };
    let open = 0xff_0000;
    assert_eq!(read(0, 0x6a, open), None);
    assert_eq!(read(14, 0x6a, open), None);
    // Ports 15 and 16: the second is in the byte of ones.
    assert_eq!(read(15, 0x6a, open), GP);
    // Two bytes are read, so the last one must be there.
    assert_eq!(read(8, 0x69, open), GP);
    assert_eq!(read(7, 0x69, open), None);
    // One of the two bits, on either side of a byte's end.
    assert_eq!(read(7, 0x6a, open | 0x80), GP);
    assert_eq!(read(7, 0x6a, open | 0x100), GP);
    assert_eq!(read(6, 0x6a, open | 0x100), None);
}
