//! When MMX and SSE instructions fault, what they leave alone then, and the images of FXSAVE and XSAVE.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use softmetal_cpu::fault::vector;
use softmetal_cpu::state::bits::{CR0_EM, CR0_TS, CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_OSXSAVE};
use softmetal_cpu::state::reg;
use softmetal_cpu::testing::{CODE, Harness, RAM};

type Code = fn(&mut CodeAssembler) -> Result<(), IcedError>;

const DATA: u64 = 0x2_0000;
const ONE: u32 = 0x3f80_0000;
const PATTERN: u128 = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;

/// An XMM register.
fn xmm(h: &Harness, r: usize) -> u128 {
    h.p.cpu.state.xmm(r).into()
}

/// Sets an XMM register.
fn set_xmm(h: &mut Harness, r: usize, v: u128) {
    h.p.cpu.state.set_xmm(r, v.into());
}

/// Sets all XMM registers.
fn set_all(h: &mut Harness, v: impl Fn(usize) -> u128) {
    (0..16).for_each(|r| set_xmm(h, r, v(r)));
}

/// A processor about to run `code`, RAX at [`DATA`].
fn with(code: Code) -> Harness {
    let mut h = Harness::long().asm(code);
    h.set_reg(reg::RAX, DATA);
    h
}

/// The vector and error code that `code` ends in after `n` instructions.
fn fault_in(h: &mut Harness, n: u64) -> Option<(u8, Option<u32>)> {
    h.run(n);
    h.exception().map(|(_, e)| (e.vector, e.error))
}

const GP: Option<(u8, Option<u32>)> = Some((vector::GP, Some(0)));
const UD: Option<(u8, Option<u32>)> = Some((vector::UD, None));
const NM: Option<(u8, Option<u32>)> = Some((vector::NM, None));
const XM: Option<(u8, Option<u32>)> = Some((vector::XM, None));

#[test]
fn alignment() {
    let cases: [(Code, bool); 18] = [
        (|a| a.movaps(xmm0, ptr(rax + 8)), true),
        (|a| a.movapd(ptr(rax + 8), xmm0), true),
        (|a| a.movdqa(xmm0, ptr(rax + 1)), true),
        (|a| a.movntps(ptr(rax + 8), xmm0), true),
        (|a| a.movntdqa(xmm0, ptr(rax + 8)), true),
        (|a| a.addps(xmm0, ptr(rax + 4)), true),
        (|a| a.pxor(xmm0, ptr(rax + 4)), true),
        (|a| a.cvttpd2pi(mm0, ptr(rax + 4)), true),
        (|a| a.fxsave(ptr(rax + 8)), true),
        (|a| a.xsave(ptr(rax + 16)), true),
        (|a| a.xrstor(ptr(rax + 32)), true),
        (|a| a.movups(xmm0, ptr(rax + 1)), false),
        (|a| a.lddqu(xmm0, ptr(rax + 1)), false),
        (|a| a.movdqu(ptr(rax + 1), xmm0), false),
        (|a| a.addsd(xmm0, ptr(rax + 1)), false),
        (|a| a.cvtps2pd(xmm0, ptr(rax + 1)), false),
        (|a| a.pmovsxbw(xmm0, ptr(rax + 1)), false),
        (|a| a.pcmpistri(xmm0, ptr(rax + 1), 0), false),
    ];
    for (i, (code, refused)) in cases.into_iter().enumerate() {
        let mut h = with(code);
        h.p.cpu.state.cr4 |= CR4_OSXSAVE;
        h.set_reg(reg::RSP, 0x9000);
        let expected = if refused { GP } else { None };
        assert_eq!(fault_in(&mut h, 1), expected, "case {i}");
    }
    // Alignment comes before the page.
    for (offset, expected) in [(8, vector::GP), (0, vector::PF)] {
        let mut h = with(|a| a.movaps(xmm0, ptr(rax)));
        h.set_reg(reg::RAX, RAM + offset);
        assert_eq!(fault_in(&mut h, 1).map(|(v, _)| v), Some(expected));
    }
}

#[test]
fn availability() {
    let sse: [Code; 7] = [
        |a| a.addps(xmm0, xmm1),
        |a| a.movaps(xmm0, ptr(rax)),
        |a| a.paddb(xmm0, xmm1),
        |a| a.ldmxcsr(ptr(rax)),
        |a| a.cvtsi2sd(xmm0, rax),
        |a| a.movd(xmm0, ecx),
        |a| a.movq2dq(xmm0, mm0),
    ];
    let mmx: [Code; 3] = [|a| a.paddb(mm0, mm1), |a| a.movd(ecx, mm0), |a| a.emms()];
    let neither: [Code; 5] =
        [|a| a.movnti(ptr(rax), ecx), |a| a.sfence(), |a| a.prefetcht0(ptr(rax)), |a| a.crc32(ecx, eax), |a| a.clflush(ptr(rax))];
    let image: [Code; 2] = [|a| a.fxsave(ptr(rax)), |a| a.fxrstor(ptr(rax))];
    let table: [(&[Code], u64, u64, _); 14] = [
        (&sse, 0, 0, None),
        (&sse, CR0_EM, 0, UD),
        (&sse, CR0_TS, 0, NM),
        (&sse, 0, CR4_OSFXSR, UD),
        (&sse, CR0_TS, CR4_OSFXSR, UD),
        (&sse, CR0_TS | CR0_EM, 0, UD),
        (&mmx, 0, CR4_OSFXSR, None),
        (&mmx, CR0_EM | CR0_TS, 0, UD),
        (&mmx, CR0_TS, 0, NM),
        (&neither, CR0_EM | CR0_TS, CR4_OSFXSR, None),
        (&image, 0, CR4_OSFXSR, None),
        (&image, CR0_TS, 0, NM),
        (&image, CR0_EM, 0, NM),
        (&image, CR0_EM | CR0_TS, CR4_OSFXSR, NM),
    ];
    for (row, (codes, set, clear, expected)) in table.into_iter().enumerate() {
        for (i, code) in codes.iter().enumerate() {
            let mut h = with(*code);
            h.p.cpu.state.cr0 |= set;
            h.p.cpu.state.cr4 &= !clear;
            assert_eq!(fault_in(&mut h, 1), expected, "row {row}, instruction {i}");
        }
    }
}

#[test]
fn availability_changes_under_decoded_code() {
    // The ADDPS runs, then TS is set, and the same bytes fault; with TS cleared they run again.
    let mut h = Harness::long().asm(|a| {
        let mut start = a.create_label();
        a.set_label(&mut start)?;
        a.addps(xmm0, xmm1)?;
        a.mov(rax, cr0)?;
        a.xor(rax, 8)?;
        a.mov(cr0, rax)?;
        a.jmp(start)
    });
    assert_eq!(fault_in(&mut h, 6), NM);
    assert_eq!(h.exception().map(|(rip, _)| rip), Some(CODE));
    let mut h = Harness::long().asm(|a| {
        let mut start = a.create_label();
        a.set_label(&mut start)?;
        a.clts()?;
        a.addps(xmm0, xmm1)?;
        a.mov(rax, cr0)?;
        a.or(rax, 8)?;
        a.lmsw(ax)?;
        a.jmp(start)
    });
    assert_eq!(fault_in(&mut h, 60), None);
    let mut h = Harness::long().asm(|a| {
        let mut start = a.create_label();
        a.set_label(&mut start)?;
        a.addps(xmm0, xmm1)?;
        a.mov(rax, cr4)?;
        a.xor(rax, 0x200)?;
        a.mov(cr4, rax)?;
        a.jmp(start)
    });
    assert_eq!(fault_in(&mut h, 6), UD);
}

#[test]
fn unmasked_exceptions() {
    let codes: [Code; 2] = [|a| a.divps(xmm0, xmm1), |a| a.divps(xmm0, ptr(rax))];
    for code in codes {
        for (clear, expected) in [(0, XM), (CR4_OSXMMEXCPT, UD)] {
            let mut h = with(code);
            let s = &mut h.p.cpu.state;
            s.cr4 &= !clear;
            s.mxcsr = 0x1f80 & !0x200;
            s.set_xmm(0, u128::from(ONE).into());
            assert_eq!(fault_in(&mut h, 1), expected);
            assert_eq!(xmm(&h, 0), u128::from(ONE));
            assert_eq!(h.p.cpu.state.mxcsr & 0x3f, 0x5, "0/0 in three lanes, 1/0 in one");
        }
    }
    // Neither the flags nor a general register change.
    let codes: [Code; 2] = [|a| a.comiss(xmm0, xmm1), |a| a.cvtss2si(ecx, xmm0)];
    for code in codes {
        let mut h = with(code);
        h.p.cpu.state.mxcsr = 0x1f80 & !0x80;
        set_xmm(&mut h, 0, 0x7f80_0001);
        h.set_reg(reg::RCX, 7);
        h.p.cpu.set_eflags(0x8d7);
        assert_eq!(fault_in(&mut h, 1), XM);
        assert_eq!((h.flags(), h.reg(reg::RCX), h.p.cpu.state.mxcsr & 0x3f), (0x8d7, 7, 1));
    }
    // A page fault comes before the arithmetic.
    let mut h = with(|a| a.divss(xmm0, ptr(rax)));
    h.p.cpu.state.mxcsr = 0;
    h.set_reg(reg::RAX, RAM - 2);
    assert_eq!(fault_in(&mut h, 1).map(|(v, _)| v), Some(vector::PF));
    assert_eq!(h.p.cpu.state.mxcsr, 0);
}

#[test]
fn mxcsr_has_no_reserved_bits() {
    for (value, expected) in [(0xffffu32, None), (0x1_0000, GP)] {
        let mut h = with(|a| a.ldmxcsr(ptr(rax)));
        h.set_mem(DATA, &value.to_le_bytes());
        assert_eq!(fault_in(&mut h, 1), expected);
        let now = if expected.is_none() { value } else { 0x1f80 };
        assert_eq!(h.p.cpu.state.mxcsr, now);
        let mut h = with(|a| a.fxrstor(ptr(rax)));
        h.set_mem(DATA + 24, &value.to_le_bytes());
        set_xmm(&mut h, 0, PATTERN);
        assert_eq!(fault_in(&mut h, 1), expected);
        assert_eq!(xmm(&h, 0), if expected.is_none() { 0 } else { PATTERN });
    }
}

#[test]
fn across_pages_and_past_memory() {
    let mut h = with(|a| {
        a.movups(ptr(rax), xmm3)?;
        a.movups(xmm4, ptr(rax))
    });
    h.set_reg(reg::RAX, DATA - 5);
    set_xmm(&mut h, 3, PATTERN);
    assert_eq!(fault_in(&mut h, 2), None);
    assert_eq!(xmm(&h, 4), PATTERN);
    // Nothing is stored if the second page is missing.
    let codes: [Code; 3] = [|a| a.movups(ptr(rdi), xmm3), |a| a.fxsave(ptr(rdi - 0xf8)), |a| a.maskmovdqu(xmm3, xmm5)];
    for code in codes {
        let mut h = with(code);
        h.set_reg(reg::RDI, RAM - 8);
        set_xmm(&mut h, 3, PATTERN);
        set_xmm(&mut h, 5, !0);
        assert_eq!(fault_in(&mut h, 1), Some((vector::PF, Some(2))));
        assert_eq!(h.exception().map(|(_, e)| e.address), Some(RAM));
        assert_eq!((h.u64(RAM - 8), h.u64(RAM - 16), h.u64(RAM - 256)), (0, 0, 0));
    }
    // Bytes that the mask leaves out are not touched.
    let mut h = with(|a| a.maskmovdqu(xmm3, xmm5));
    h.set_reg(reg::RDI, RAM - 8);
    set_xmm(&mut h, 3, PATTERN);
    set_xmm(&mut h, 5, 0x80_0080);
    assert_eq!(fault_in(&mut h, 1), None);
    assert_eq!(h.u64(RAM - 8), 0x02_0000);
    // A device answers, here with ones.
    let mut h = Harness::protected32().asm(|a| a.addps(xmm1, xmmword_ptr(0x400_0000)));
    assert_eq!(fault_in(&mut h, 1), None);
    assert_eq!(xmm(&h, 1), !0);
}

#[test]
fn mmx_registers_are_the_mantissas() {
    let mut h = with(|a| {
        a.fninit()?;
        a.fld1()?;
        a.movq(mm3, rax)?;
        a.fnstsw(ax)?;
        a.emms()
    });
    assert_eq!(fault_in(&mut h, 4), None);
    assert_eq!(h.reg(reg::RAX) & 0x3800, 0, "TOP is 0");
    assert!((0..8).all(|i| h.p.cpu.state.fpu.tag_word() >> (2 * i) & 3 != 3), "none is empty");
    assert_eq!(h.p.cpu.state.fpu.mmx_get(3), DATA);
    assert_eq!(h.p.cpu.state.fpu.mmx_get(7), 1 << 63, "what FLD1 left");
    h.run(1);
    assert_eq!(h.p.cpu.state.fpu.tag_word(), 0xffff);
}

#[test]
fn fxsave_outside_64_bit_mode_has_eight_registers() {
    let mut h = Harness::protected32().asm(|a| {
        a.fxsave(ptr(eax))?;
        a.fxrstor(ptr(eax))
    });
    h.set_reg(reg::RAX, DATA);
    h.set_mem(DATA, &[0xaa; 512]);
    set_all(&mut h, |i| PATTERN + i as u128);
    assert_eq!(fault_in(&mut h, 1), None);
    let mut area = [0; 512];
    h.mem(DATA, &mut area);
    let register = |i: usize| u128::from_le_bytes(area[160 + 16 * i..176 + 16 * i].try_into().unwrap());
    assert_eq!((register(0), register(7)), (PATTERN, PATTERN + 7));
    assert_eq!(area[288..], [0xaa; 224]);
    assert_eq!(area[24..32], [0x80, 0x1f, 0, 0, 0xff, 0xff, 0, 0]);
    set_all(&mut h, |_| 0);
    assert_eq!(fault_in(&mut h, 1), None);
    assert_eq!((xmm(&h, 7), xmm(&h, 8)), (PATTERN + 7, 0));
}

/// XSAVE enabled, `xcr0` set; EDX:EAX asks for `wanted`, RDI is [`DATA`].
fn extended(xcr0: u64, wanted: u64, code: Code) -> Harness {
    let mut h = with(code);
    let s = &mut h.p.cpu.state;
    s.cr4 |= CR4_OSXSAVE;
    s.xcr0 = xcr0;
    (0..16).for_each(|i| s.set_xmm(i, (PATTERN + i as u128).into()));
    s.mxcsr = 0x9fc0;
    s.fpu.set_control(0x27f);
    h.set_reg(reg::RAX, wanted);
    h.set_reg(reg::RDX, 0);
    h.set_reg(reg::RDI, DATA);
    h
}

#[test]
fn xsave_stores_what_is_asked_for() {
    let codes: [Code; 2] = [|a| a.xsave64(ptr(rdi)), |a| a.xsaveopt(ptr(rdi))];
    for code in codes {
        for (xcr0, wanted, old, bits) in
            [(3, !0, 0, 3u8), (3, 1, 0, 1), (3, 2, 0, 2), (1, 3, 0, 1), (3, 0, 2, 2), (3, 1, 2, 3), (3, 3, 4, 7)]
        {
            let mut h = extended(xcr0, wanted, code);
            h.set_mem(DATA, &[0xaa; 512]);
            h.set_mem(DATA + 512, &[old; 1]);
            assert_eq!(fault_in(&mut h, 1), None);
            let mut area = [0; 576];
            h.mem(DATA, &mut area);
            let done = xcr0 as u8 & wanted as u8;
            assert_eq!(area[512], bits);
            assert_eq!(area[513..], [0; 63]);
            assert_eq!(area[..2] == [0x7f, 2], done & 1 != 0);
            assert_eq!(area[32..160] != [0xaa; 128], done & 1 != 0);
            assert_eq!(area[24..28] == [0xc0, 0x9f, 0, 0], done & 2 != 0);
            let registers: Vec<u8> = (0..16).flat_map(|i| (PATTERN + i).to_le_bytes()).collect();
            assert_eq!(area[160..416] == registers, done & 2 != 0);
            assert_eq!(area[416..512], [0xaa; 96]);
        }
    }
}

#[test]
fn xrstor_restores_or_initialises() {
    for (wanted, present) in [(3u64, 3u8), (3, 1), (3, 2), (3, 0), (1, 3), (2, 3), (0, 3)] {
        let mut h = extended(3, 3, |a| {
            a.xsave(ptr(rdi))?;
            a.xrstor(ptr(rdi))
        });
        assert_eq!(fault_in(&mut h, 1), None);
        h.set_mem(DATA + 512, &[present]);
        let s = &mut h.p.cpu.state;
        (0..16).for_each(|i| s.set_xmm(i, 1.into()));
        s.mxcsr = 0x1f80;
        s.fpu.set_control(0x77f);
        h.set_reg(reg::RAX, wanted);
        assert_eq!(fault_in(&mut h, 1), None);
        let s = &h.p.cpu.state;
        let pick = |bit: u64| (wanted & bit != 0).then_some(u64::from(present) & bit != 0);
        assert_eq!(s.fpu.control(), pick(1).map_or(0x77f, |kept| if kept { 0x27f } else { 0x37f }));
        assert_eq!(u128::from(s.xmm(15)), pick(2).map_or(1, |kept| if kept { PATTERN + 15 } else { 0 }));
        // MXCSR comes from the area even if the registers are initialised.
        assert_eq!(s.mxcsr, if wanted & 2 != 0 { 0x9fc0 } else { 0x1f80 });
    }
}

#[test]
fn xrstor_refuses_a_bad_header() {
    for (offset, value, expected) in [(512, 4, GP), (519, 0x80, GP), (520, 1, GP), (528, 1, GP), (536, 1, None), (26, 1, GP)] {
        let mut h = extended(3, 3, |a| a.xrstor(ptr(rdi)));
        h.set_mem(DATA + offset, &[value]);
        assert_eq!(fault_in(&mut h, 1), expected, "{value:#x} at {offset}");
        assert_eq!(xmm(&h, 1) == PATTERN + 1, expected.is_some());
    }
}

#[test]
fn xcr0() {
    let set: Code = |a| a.xsetbv();
    for (number, low, high, expected) in
        [(0, 3, 0, None), (0, 1, 0, None), (0, 7, 0, None), (0, 2, 0, GP), (0, 5, 0, GP), (0, 11, 0, GP), (0, 3, 1, GP), (1, 3, 0, GP)]
    {
        let mut h = extended(1, low, set);
        h.set_reg(reg::RCX, number);
        h.set_reg(reg::RDX, high);
        assert_eq!(fault_in(&mut h, 1), expected, "XCR{number} = {high:#x}:{low:#x}");
        assert_eq!(h.p.cpu.state.xcr0, if expected.is_none() { low } else { 1 });
    }
    let mut h = extended(3, !0, |a| a.xgetbv());
    h.set_reg(reg::RCX, 0);
    assert_eq!(fault_in(&mut h, 1), None);
    assert_eq!((h.reg(reg::RAX), h.reg(reg::RDX)), (3, 0));
    let codes: [Code; 4] = [|a| a.xgetbv(), |a| a.xsetbv(), |a| a.xsave(ptr(rdi)), |a| a.xrstor(ptr(rdi))];
    for code in codes {
        let mut h = extended(1, 3, code);
        h.p.cpu.state.cr4 &= !CR4_OSXSAVE;
        h.p.cpu.state.cr0 |= CR0_TS;
        assert_eq!(fault_in(&mut h, 1), UD);
    }
    let mut h = extended(1, 3, |a| a.xsave(ptr(rdi)));
    h.p.cpu.state.cr0 |= CR0_TS;
    assert_eq!(fault_in(&mut h, 1), NM);
}
