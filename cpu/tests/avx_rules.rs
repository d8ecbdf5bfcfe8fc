//! When VEX-encoded instructions fault, what they leave alone then, what they do to the upper halves, and XSAVE's formats.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use softmetal_cpu::fault::vector;
use softmetal_cpu::semantics::simd::{V256, Vector};
use softmetal_cpu::state::bits::{CR0_EM, CR0_TS, CR4_OSFXSR, CR4_OSXSAVE};
use softmetal_cpu::state::{State, reg};
use softmetal_cpu::testing::{Harness, RAM};

type Code = fn(&mut CodeAssembler) -> Result<(), IcedError>;
type Change = fn(&mut State);
type Outcome = Option<(u8, Option<u32>)>;

const DATA: u64 = 0x2_0000;
const GP: Outcome = Some((vector::GP, Some(0)));
const UD: Outcome = Some((vector::UD, None));
const NM: Outcome = Some((vector::NM, None));
const XM: Outcome = Some((vector::XM, None));
const PF: Outcome = Some((vector::PF, Some(0)));
const PF_WRITE: Outcome = Some((vector::PF, Some(2)));
/// The first byte that is not mapped.
const END: u64 = RAM;

/// AVX enabled, each byte of register r is r + 1; RAX is [`DATA`], RDX 0.
fn enabled(h: Harness) -> Harness {
    let mut h = h.with_avx();
    let s = &mut h.p.cpu.state;
    for (r, v) in (1u8..).zip(&mut s.ymm.0) {
        *v = Vector([r; 32]);
    }
    h.p.cpu.update_mode();
    h.set_reg(reg::RAX, DATA);
    h.set_reg(reg::RDI, DATA);
    h.set_reg(reg::RSP, 0x9000);
    h
}

fn with(code: Code) -> Harness {
    enabled(Harness::long().asm(code))
}

/// The vector and error code that `h` ends in after `n` instructions.
fn fault_in(h: &mut Harness, n: u64) -> Outcome {
    h.run(n);
    h.exception().map(|(_, e)| (e.vector, e.error))
}

fn ymm(h: &Harness, r: usize) -> V256 {
    h.p.cpu.state.ymm.0[r]
}

fn lanes<const N: usize>(lanes: [u32; N]) -> V256 {
    let mut v = Vector::ZERO;
    for (i, lane) in lanes.into_iter().enumerate() {
        v.set(i, lane);
    }
    v
}

#[test]
fn availability() {
    let vex: [Code; 6] = [
        |a| a.vaddps(ymm0, ymm1, ymm2),
        |a| a.vpxor(xmm0, xmm1, ptr(rax)),
        |a| a.vldmxcsr(ptr(rax)),
        |a| a.vzeroupper(),
        |a| a.vmovd(ecx, xmm1),
        |a| a.vfmadd231sd(xmm0, xmm1, xmm2),
    ];
    let change: [(Change, Outcome); 8] = [
        (|_| {}, None),
        (|s| s.cr4 &= !CR4_OSXSAVE, UD),
        (|s| s.xcr0 = 3, UD),
        (|s| s.xcr0 = 1, UD),
        (|s| s.cr0 |= CR0_TS, NM),
        (|s| (s.cr0, s.xcr0) = (s.cr0 | CR0_TS, 3), UD),
        (|s| s.cr0 |= CR0_EM, None),
        (|s| s.cr4 &= !CR4_OSFXSR, None),
    ];
    for (i, code) in vex.into_iter().enumerate() {
        for (row, (change, expected)) in change.into_iter().enumerate() {
            let mut h = with(code);
            h.set_mem(DATA, &0x1f80u32.to_le_bytes());
            change(&mut h.p.cpu.state);
            h.p.cpu.update_mode();
            assert_eq!(fault_in(&mut h, 1), expected, "instruction {i}, row {row}");
        }
    }
    // In real mode there are none, not even those of general registers (ANDN).
    for bytes in [&[0xc5, 0xf0, 0x58, 0xc2][..], &[0xc4, 0xe2, 0x70, 0xf2, 0xc2]] {
        let mut h = enabled(Harness::real().code(bytes));
        assert_eq!(fault_in(&mut h, 1), UD);
        let mut h = enabled(Harness::protected32().code(bytes));
        assert_eq!(fault_in(&mut h, 1), None);
    }
}

#[test]
fn encodings() {
    let cases: [(&[u8], Outcome); 13] = [
        (&[0xc5, 0xf4, 0x58, 0xc2], None),
        // LOCK, 66, F2, F3, REX before VEX.
        (&[0xf0, 0xc5, 0xf4, 0x58, 0xc2], UD),
        (&[0x66, 0xc5, 0xf4, 0x58, 0xc2], UD),
        (&[0xf2, 0xc5, 0xf4, 0x58, 0xc2], UD),
        (&[0xf3, 0xc5, 0xf4, 0x58, 0xc2], UD),
        (&[0x48, 0xc5, 0xf4, 0x58, 0xc2], UD),
        // VPABSB with VEX.vvvv in use and without.
        (&[0xc4, 0xe2, 0x71, 0x1c, 0xc2], UD),
        (&[0xc4, 0xe2, 0x79, 0x1c, 0xc2], None),
        // VADDSS ignores VEX.L, VPINSRB does not.
        (&[0xc5, 0xf6, 0x58, 0xc2], None),
        (&[0xc4, 0xe3, 0x75, 0x20, 0xc2, 0], UD),
        // VPGATHERDD with its index as mask, as destination, and right.
        (&[0xc4, 0xe2, 0x71, 0x90, 0x04, 0x08], UD),
        (&[0xc4, 0xe2, 0x71, 0x90, 0x04, 0x00], UD),
        // EVEX.
        (&[0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2], UD),
    ];
    for (bytes, expected) in cases {
        let mut h = enabled(Harness::long().code(bytes));
        assert_eq!(fault_in(&mut h, 1), expected, "{bytes:x?}");
    }
}

#[test]
fn a_feature_that_is_off() {
    let cases: [(&str, Code, Outcome); 9] = [
        ("avx2", |a| a.vpaddb(ymm0, ymm1, ymm2), UD),
        ("avx2", |a| a.vpaddb(xmm0, xmm1, xmm2), None),
        ("avx", |a| a.vpaddb(xmm0, xmm1, xmm2), UD),
        ("fma", |a| a.vfmadd132ps(xmm0, xmm1, xmm2), UD),
        ("vaes", |a| a.vaesenc(ymm0, ymm1, ymm2), UD),
        ("vaes", |a| a.vaesenc(xmm0, xmm1, xmm2), None),
        ("sha_ni", |a| a.sha256rnds2(xmm1, xmm2), UD),
        ("sse4_2", |a| a.crc32(ecx, eax), UD),
        ("bmi1", |a| a.andn(ecx, eax, edx), UD),
    ];
    for (feature, code, expected) in cases {
        let mut h = with(code);
        assert!(h.p.cpu.model.set(feature, false));
        assert_eq!(fault_in(&mut h, 1), expected, "{feature}");
    }
    // What was something else before: BSR and BSF.
    for (feature, code, expected) in
        [("lzcnt", (|a| a.lzcnt(ecx, eax)) as Code, 17), ("bmi1", |a| a.tzcnt(ecx, eax), 17), ("rdrand", |a| a.lzcnt(ecx, eax), 14)]
    {
        let mut h = with(code);
        assert!(h.p.cpu.model.set(feature, false));
        assert_eq!(fault_in(&mut h, 1), None);
        assert_eq!(h.reg(reg::RCX), expected);
    }
}

#[test]
fn alignment() {
    let cases: [(Code, Outcome); 8] = [
        (|a| a.vmovaps(ymm0, ptr(rax + 16)), GP),
        (|a| a.vmovdqa(ptr(rax + 16), ymm0), GP),
        (|a| a.vmovntdqa(ymm0, ptr(rax + 16)), GP),
        (|a| a.vmovaps(xmm0, ptr(rax + 8)), GP),
        (|a| a.vmovaps(xmm0, ptr(rax + 16)), None),
        (|a| a.vmovups(ymm0, ptr(rax + 1)), None),
        (|a| a.vaddps(ymm0, ymm1, ptr(rax + 1)), None),
        (|a| a.vpshufb(xmm0, xmm1, ptr(rax + 1)), None),
    ];
    for (i, (code, expected)) in cases.into_iter().enumerate() {
        assert_eq!(fault_in(&mut with(code), 1), expected, "case {i}");
    }
}

#[test]
fn upper_halves() {
    let kept = |low: u128| {
        let mut v = Vector([1; 32]);
        v.set(0, low);
        v
    };
    // Legacy encodings keep what is above, VEX encodings clear it.
    let mut h = with(|a| a.pxor(xmm0, xmm0));
    assert_eq!(fault_in(&mut h, 1), None);
    assert_eq!(ymm(&h, 0), kept(0));
    let cases: [(Code, V256); 5] = [
        (|a| a.vpxor(xmm0, xmm0, xmm0), V256::ZERO),
        (
            |a| a.vmovss_3(xmm0, xmm1, xmm2),
            Vector(std::array::from_fn(|i| {
                if i < 4 {
                    3
                } else if i < 16 {
                    2
                } else {
                    0
                }
            })),
        ),
        (|a| a.vmovq(xmm0, xmm1), Vector(std::array::from_fn(|i| if i < 8 { 2 } else { 0 }))),
        (|a| a.vinsertf128(ymm0, ymm1, xmm2, 1), Vector(std::array::from_fn(|i| if i < 16 { 2 } else { 3 }))),
        (|a| a.vextractf128(xmm0, ymm1, 1), Vector(std::array::from_fn(|i| if i < 16 { 2 } else { 0 }))),
    ];
    for (i, (code, expected)) in cases.into_iter().enumerate() {
        let mut h = with(code);
        assert_eq!(fault_in(&mut h, 1), None);
        assert_eq!(ymm(&h, 0), expected, "case {i}");
    }
    // Outside 64-bit mode there are eight registers.
    for (harness, count) in [(Harness::long as fn() -> Harness, 16), (Harness::protected32, 8)] {
        for (code, low) in [((|a| a.vzeroupper()) as Code, 1), (|a| a.vzeroall(), 0)] {
            let mut h = enabled(harness().asm(code));
            assert_eq!(fault_in(&mut h, 1), None);
            for r in 0..16u8 {
                let expected = |i| {
                    if r >= count {
                        r + 1
                    } else if i < 16 {
                        low * (r + 1)
                    } else {
                        0
                    }
                };
                assert_eq!(ymm(&h, r.into()), Vector(std::array::from_fn(expected)));
            }
        }
    }
}

#[test]
fn an_exception_in_the_upper_lane_keeps_all_back() {
    let mut h = with(|a| a.vdivps(ymm0, ymm1, ymm2));
    let s = &mut h.p.cpu.state;
    s.mxcsr = 0x1f80 & !0x200;
    s.ymm.0[1] = Vector::splat(1f32.to_bits());
    s.ymm.0[2] = Vector::splat(3f32.to_bits()).with(7, 0u32);
    assert_eq!(fault_in(&mut h, 1), XM);
    assert_eq!(ymm(&h, 0), Vector([1; 32]));
    // The precision of other lanes is not told beside an exception that comes before the computation.
    assert_eq!(h.p.cpu.state.mxcsr & 0x3f, 4);
}

#[test]
fn masked_moves_touch_only_what_the_mask_chooses() {
    let mask = lanes([!0, 0, 1 << 31, 0x7fff_ffff]);
    let code: Code = |a| {
        a.vmaskmovps(xmm0, xmm1, ptr(rax))?;
        a.vmaskmovps(ptr(rax), xmm1, xmm2)
    };
    let mut h = with(code);
    h.set_reg(reg::RAX, END - 12);
    h.p.cpu.state.ymm.0[1] = mask;
    h.set_mem(END - 12, &[7; 12]);
    assert_eq!(fault_in(&mut h, 2), None, "the last lane is beyond the end");
    assert_eq!(ymm(&h, 0), lanes([0x0707_0707, 0, 0x0707_0707]));
    let mut end = [0; 12];
    h.mem(END - 12, &mut end);
    assert_eq!(end, [3, 3, 3, 3, 7, 7, 7, 7, 3, 3, 3, 3]);
    // A lane that faults keeps all of them from being stored or loaded.
    let mut h = with(|a| a.vmaskmovps(ptr(rax), xmm1, xmm2));
    h.set_reg(reg::RAX, END - 8);
    h.p.cpu.state.ymm.0[1] = mask;
    assert_eq!(fault_in(&mut h, 1), PF_WRITE);
    assert_eq!(h.u64(END - 8), 0);
    let mut h = with(|a| a.vpmaskmovd(xmm0, xmm1, ptr(rax)));
    h.set_reg(reg::RAX, END - 8);
    h.p.cpu.state.ymm.0[1] = mask;
    assert_eq!(fault_in(&mut h, 1), PF);
    assert_eq!(ymm(&h, 0), Vector([1; 32]));
}

#[test]
fn a_gather_goes_on_where_it_faulted() {
    let start = |h: &mut Harness| {
        let s = &mut h.p.cpu.state;
        s.ymm.0[1] = lanes([0, 4, 0x10_0000, 8]);
        s.ymm.0[2] = lanes([!0, 0, 1 << 31, !0]);
        h.set_mem(END - 0x40_0000, &[9; 16]);
        h.set_reg(reg::RAX, END - 0x40_0000);
    };
    let mut h = with(|a| a.vpgatherdd_3(xmm0, dword_ptr(rax + xmm1 * 4), xmm2));
    start(&mut h);
    assert_eq!(fault_in(&mut h, 1), PF);
    // The first lane is done and the second one passed over; the others and what is above them stay.
    let mut expected = Vector([1; 32]);
    expected.set(0, 0x0909_0909u32);
    assert_eq!(ymm(&h, 0), expected);
    assert_eq!(ymm(&h, 2), lanes([0, 0, 1 << 31, !0]));
    let mut h = with(|a| a.vpgatherdd_3(xmm0, dword_ptr(rax + xmm1 * 4), xmm2));
    start(&mut h);
    h.p.cpu.state.ymm.0[1] = lanes([0, 1, 2, 3]);
    assert_eq!(fault_in(&mut h, 1), None);
    assert_eq!(ymm(&h, 0), lanes([0x0909_0909, 0x0101_0101, 0x0909_0909, 0x0909_0909]));
    assert_eq!(ymm(&h, 2), V256::ZERO);
}

/// XSAVE area at [`DATA`].
fn area(h: &Harness) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    h.mem(DATA, &mut bytes);
    bytes
}

fn word(area: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(area[at..at + 8].try_into().unwrap())
}

#[test]
fn formats_of_xsave() {
    let cases: [(Code, u64, u64); 5] = [
        (|a| a.xsave64(ptr(rdi)), 7, 0),
        (|a| a.xsaveopt64(ptr(rdi)), 7, 0),
        (|a| a.xsavec64(ptr(rdi)), 6, 1 << 63 | 7),
        (|a| a.xsaves64(ptr(rdi)), 6, 1 << 63 | 7),
        (|a| a.xsavec(ptr(rdi)), 6, 1 << 63 | 7),
    ];
    for (i, (code, in_use, format)) in cases.into_iter().enumerate() {
        let mut h = with(code);
        h.set_mem(DATA, &[0xaa; 512]);
        h.set_mem(DATA + 512, &[0; 512]);
        h.set_reg(reg::RAX, 7);
        if in_use & 1 != 0 {
            h.p.cpu.state.fpu.set_control(0x27f);
        }
        assert_eq!(fault_in(&mut h, 1), None);
        let area = area(&h);
        assert_eq!((word(&area, 512), word(&area, 520)), (in_use, format), "case {i}");
        assert_eq!(area[..2] == [0x7f, 2], in_use & 1 != 0);
        assert_eq!((area[160], area[415]), (1, 16));
        assert_eq!((area[576], area[831], area[832]), (1, 16, 0));
    }
    // What is in its initial state is not written, except by XSAVE.
    for (code, written) in [((|a| a.xsaveopt(ptr(rdi))) as Code, false), (|a| a.xsave(ptr(rdi)), true), (|a| a.xsavec(ptr(rdi)), false)] {
        let mut h = with(|a| a.vzeroall());
        assert_eq!(fault_in(&mut h, 1), None);
        let bytes = h.assemble(h.p.cpu.state.rip, code);
        h.set_mem(h.p.cpu.state.rip, &bytes);
        h.set_mem(DATA, &[0xaa; 512]);
        h.set_mem(DATA + 512, &[0; 64]);
        h.set_mem(DATA + 576, &[0xaa; 256]);
        h.set_reg(reg::RAX, 7);
        assert_eq!(fault_in(&mut h, 1), None);
        let area = area(&h);
        assert_eq!(word(&area, 512), 0);
        assert_eq!((area[160], area[576]), if written { (0, 0) } else { (0xaa, 0xaa) });
    }
    // An area for AVX alone is compact.
    let mut h = with(|a| {
        a.xsavec(ptr(rdi))?;
        a.vzeroall()?;
        a.xrstor(ptr(rdi))
    });
    h.set_mem(DATA + 512, &[0; 64]);
    h.set_reg(reg::RAX, 4);
    assert_eq!(fault_in(&mut h, 3), None);
    assert_eq!(word(&area(&h), 520), 1 << 63 | 4);
    assert_eq!(ymm(&h, 3), Vector(std::array::from_fn(|i| if i < 16 { 0 } else { 4 })));
}

#[test]
fn xrstor_of_compact_areas() {
    let code: Code = |a| {
        a.xsavec64(ptr(rdi))?;
        a.vzeroall()?;
        a.xrstor64(ptr(rdi))
    };
    let cases: [(u64, u64, u64, Outcome); 7] = [
        // XSTATE_BV, XCOMP_BV, the word after.
        (6, 1 << 63 | 7, 0, None),
        (2, 1 << 63 | 7, 0, None),
        (6, 1 << 63 | 3, 0, GP),
        (6, 1 << 63 | 0x207, 0, GP),
        (6, 1 << 63 | 7, 1, GP),
        (6, 7, 0, GP),
        (6, 0, 0, None),
    ];
    for (present, format, after, expected) in cases {
        let mut h = with(code);
        h.set_mem(DATA + 512, &[0; 64]);
        h.set_reg(reg::RAX, 7);
        assert_eq!(fault_in(&mut h, 2), None);
        for (at, v) in [(512, present), (520, format), (528, after)] {
            h.set_u64(DATA + at, v);
        }
        assert_eq!(fault_in(&mut h, 1), expected, "{present:x} {format:x} {after}");
        let upper = if present & 4 != 0 { 3 } else { 0 };
        let whole = Vector(std::array::from_fn(|i| if i < 16 { 3 } else { upper }));
        assert_eq!(ymm(&h, 2), if expected.is_none() { whole } else { V256::ZERO });
    }
    // XRSTORS takes compact areas only, XSAVES and XRSTORS are for CPL 0, IA32_XSS has no bits.
    let mut h = with(|a| a.xrstors(ptr(rdi)));
    assert_eq!(fault_in(&mut h, 1), GP);
    let mut h = with(|a| a.wrmsr());
    h.set_reg(reg::RCX, 0xda0);
    h.set_reg(reg::RAX, 0x100);
    h.set_reg(reg::RDX, 0);
    assert_eq!(fault_in(&mut h, 1), GP);
}
