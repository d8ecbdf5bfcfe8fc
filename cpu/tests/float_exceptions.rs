//! Which exception of an x87 or MMX instruction comes first, and the way around CR0.NE.

use softmetal_cpu::Stop;
use softmetal_cpu::fault::vector;
use softmetal_cpu::state::bits::{CR0_EM, CR0_MP, CR0_NE, CR0_TS};
use softmetal_cpu::testing::{CODE, Harness};

/// Leaves a division by zero pending, then runs `code` with CR0 changed. The vector that it ends in.
fn after_division(set: u64, clear: u64, code: &[u8]) -> (Option<u8>, Harness) {
    // fninit; fldcw [0x9000]; fld1; fldz; fdivp
    let mut all = vec![0xdb, 0xe3, 0xd9, 0x2c, 0x25, 0x00, 0x90, 0, 0, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9];
    let start = all.len() as u64;
    all.extend(code);
    let mut h = Harness::long().code(&all);
    h.set_mem(0x9000, &[0x7b, 0x03]);
    assert_eq!(h.run(5), Stop::Budget);
    assert_eq!(h.p.cpu.state.rip, CODE + start);
    let cr0 = &mut h.p.cpu.state.cr0;
    *cr0 = *cr0 & !clear | set;
    h.run(1);
    (h.exception().map(|(_, e)| e.vector), h)
}

#[test]
fn order_of_exceptions() {
    let not_mapped = [0xdd, 0x04, 0x25, 0, 0, 0, 0x40]; // fld qword [0x40000000]
    let wait = [0x9b];
    let movq = [0x0f, 0x6f, 0xc1];
    let clear = [0xdb, 0xe2]; // fnclex
    let store_status = [0xdf, 0xe0];
    for (set, unset, code, expected) in [
        (0, 0, &not_mapped[..], Some(vector::MF)),
        (CR0_TS, 0, &not_mapped, Some(vector::NM)),
        (CR0_EM, 0, &not_mapped, Some(vector::NM)),
        (0, 0, &wait, Some(vector::MF)),
        // WAIT heeds TS only with MP, and EM not at all.
        (CR0_TS, 0, &wait, Some(vector::NM)),
        (CR0_TS, CR0_MP, &wait, Some(vector::MF)),
        (CR0_EM, 0, &wait, Some(vector::MF)),
        (0, 0, &movq, Some(vector::MF)),
        (CR0_TS, 0, &movq, Some(vector::NM)),
        (CR0_TS | CR0_EM, 0, &movq, Some(vector::UD)),
        // These do not wait.
        (0, 0, &clear, None),
        (CR0_TS, 0, &clear, Some(vector::NM)),
        (0, 0, &store_status, None),
    ] {
        assert_eq!(after_division(set, unset, code).0, expected, "{code:02x?} with {set:#x}");
    }
}

#[test]
fn without_ne_the_instruction_freezes_until_an_interrupt() {
    // fld1; fnclex
    let (exception, mut h) = after_division(0, CR0_NE, &[0xd9, 0xe8, 0xdb, 0xe2]);
    assert_eq!(exception, None);
    let (count, rip) = (h.p.icount(), h.p.cpu.state.rip);
    assert!(h.p.cpu.state.halted);
    assert_eq!(h.run(10), Stop::Halted);
    assert_eq!((h.p.icount(), h.p.cpu.state.rip), (count, rip));
    assert_eq!(h.edge.lock().unwrap().float_errors, [true]);
    // IGNNE#: it goes on, and FERR# falls with the exception.
    h.edge.lock().unwrap().ignore_float_errors = true;
    h.p.cpu.state.halted = false;
    assert_eq!(h.run(2), Stop::Budget);
    assert_eq!((h.p.icount(), h.p.cpu.state.rip), (count + 2, rip + 4));
    assert_eq!(h.edge.lock().unwrap().float_errors, [true, true, false]);
}
