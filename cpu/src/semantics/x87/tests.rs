//! The stack, exceptions and images; results are compared with the host's by the oracle.

use super::image::Layout;
use super::status::{B, C0, C1, C2, C3, ES, SF};
use super::*;

fn integers(values: &[i64]) -> Fpu {
    let mut fpu = Fpu::new();
    for &value in values {
        fpu.load(Operand::integer(value));
    }
    fpu
}

fn integer(fpu: &Fpu, i: usize) -> i64 {
    soft::to_i64::<F80>(fpu.st(i), false, &mut Env::default())
}

#[test]
fn a_full_stack_overflows_and_an_empty_one_underflows() {
    let mut fpu = integers(&[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(integer(&fpu, 7), 1);
    fpu.load_constant(Constant::One);
    assert_eq!(fpu.st(0), F80::indefinite());
    assert_eq!(fpu.status() & (SF | C1 | 1), SF | C1 | 1);

    let mut fpu = Fpu::new();
    assert_eq!(fpu.store_i32(false), Some(i32::MIN));
    assert_eq!(fpu.status() & (SF | C1 | 1), SF | 1);
}

#[test]
fn an_unmasked_exception_keeps_the_operands_and_waits() {
    let mut fpu = integers(&[0, 7]);
    fpu.set_control(CONTROL_INIT & !4);
    fpu.arith(Arith::Div, 0, 1, false);
    assert_eq!(integer(&fpu, 0), 7);
    assert!(fpu.pending());
    assert_eq!(fpu.status() & (ES | B | 0x3f), ES | B | 4);
    fpu.clear_exceptions();
    assert!(!fpu.pending());

    // A store that would overflow its format stays away; FXCH and the like still work.
    let mut fpu = Fpu::new();
    fpu.load(Operand::double(1e300f64.to_bits()));
    fpu.set_control(CONTROL_INIT & !8);
    assert_eq!(fpu.store_single(), None);
    assert!(fpu.pending());
    assert!(!fpu.is_empty(0));
}

#[test]
fn unmasking_a_recorded_exception_makes_it_pending() {
    let mut fpu = integers(&[0, 7]);
    fpu.arith(Arith::Div, 0, 1, false);
    assert!(!fpu.pending());
    fpu.set_control(CONTROL_INIT & !4);
    assert!(fpu.pending());
    fpu.mask_all();
    assert!(!fpu.pending());
}

#[test]
fn denormal_memory_operands_are_noticed_though_the_register_format_holds_them() {
    let mut fpu = integers(&[1]);
    fpu.arith_memory(Arith::Add, Operand::single(1));
    assert_eq!(fpu.status() & 0x3f, 0x22);
    let mut fpu = integers(&[1]);
    fpu.compare_memory(Operand::double(1), 0);
    assert_eq!(fpu.status() & (0x3f | C0 | C2 | C3), 2);
}

#[test]
fn bcd_goes_both_ways() {
    let mut fpu = integers(&[-1_234_567_890_123_456]);
    let bytes = fpu.store_bcd().unwrap();
    assert_eq!(bytes, [0x56, 0x34, 0x12, 0x90, 0x78, 0x56, 0x34, 0x12, 0, 0x80]);
    fpu.load_bcd(bytes);
    assert_eq!(integer(&fpu, 0), -1_234_567_890_123_456);
    let mut fpu = integers(&[1_000_000_000_000_000_000]);
    assert_eq!(fpu.store_bcd(), Some(BCD_INDEFINITE));
    assert_eq!(fpu.status() & 0x3f, 1);
}

#[test]
fn images_restore_what_they_saved() {
    let mut fpu = integers(&[3, 0, -5]);
    fpu.set_control(0x27f);
    fpu.last = LastInstruction { opcode: 0x123, ip: 0x1_2345, cs: 8, dp: 0xabcd, ds: 0x10 };
    for layout in [(true, false), (false, false), (true, true), (false, true)].map(|(wide, real)| Layout { wide, real }) {
        let mut bytes = [0; 108];
        fpu.save(layout, &mut bytes);
        let mut other = Fpu::new();
        other.restore(layout, &bytes);
        assert_eq!((other.st(0), other.st(1), other.st(2)), (fpu.st(0), fpu.st(1), fpu.st(2)));
        assert_eq!((other.control(), other.status(), other.tag_word()), (fpu.control(), fpu.status(), fpu.tag_word()));
        if layout.real && layout.wide {
            assert_eq!((other.last.ip, other.last.dp, other.last.opcode), (0x1_23c5, 0xaccd, 0x123));
        }
        if !layout.real && layout.wide {
            assert_eq!(other, fpu);
        }
    }
    let mut other = Fpu::new();
    other.fxrstor_image(&fpu.fxsave_image(false), false);
    assert_eq!(other, fpu);
    // R5 is ST(0): -5, zero and 3, then five empty ones.
    assert_eq!(fpu.tag_word(), 0b00_01_00_11_11_11_11_11);
}

#[test]
fn mmx_registers_are_the_mantissas() {
    let mut fpu = integers(&[1]);
    fpu.mmx_enter();
    fpu.mmx_set(3, 0x1122_3344_5566_7788);
    assert_eq!(fpu.mmx_get(3), fpu.st(3).mantissa);
    assert_eq!(fpu.st(3).sign_exponent, 0xffff);
    assert!((0..8).all(|i| !fpu.is_empty(i)));
    fpu.mmx_leave();
    assert_eq!(fpu.tag_word(), 0xffff);
}

#[test]
fn remainders_of_distant_operands_take_steps() {
    let mut fpu = integers(&[10]);
    fpu.load(Operand::double(1e40f64.to_bits()));
    let mut steps = 0;
    loop {
        fpu.partial_remainder(false);
        steps += 1;
        if fpu.status() & C2 == 0 {
            break;
        }
    }
    // 1e40 as a double is 10000000000000000303786028427003666890752.
    assert_eq!((integer(&fpu, 0), steps), (2, 3));
}
