//! Where the guest's general registers are while translated code runs: eleven in fixed host registers, the others, which programs use
//! least, in the state.
//!
//! RBP points to the processor; RCX (for JRCXZ), R11 and R15 are free for address checks; RSP is the host's.

use iced_x86::Register;

use super::assembler::host;

/// (guest, host) of those in host registers; RAX first.
pub const STATIC: [(u8, u8); 11] = [
    (0, host::RAX),
    (1, host::R10),
    (2, host::RDX),
    (3, host::RBX),
    (4, host::R14),
    (5, host::R13),
    (6, host::RSI),
    (7, host::RDI),
    (8, host::R8),
    (12, host::R12),
    (13, host::R9),
];

/// The guest's stack pointer.
pub const STACK: u8 = host::R14;
/// The guest's frame pointer.
pub const FRAME: u8 = host::R13;
/// The guest's RCX.
pub const COUNT: u8 = host::R10;

/// The host register that holds guest register `n`; none: it is in the state.
pub const fn home(n: u8) -> Option<u8> {
    let mut i = 0;
    while i < STATIC.len() {
        if STATIC[i].0 == n {
            return Some(STATIC[i].1);
        }
        i += 1;
    }
    None
}

/// The guest register that is in host register `n`, if one is.
pub fn guest(n: u8) -> Option<u8> {
    STATIC.iter().find(|r| r.1 == n).map(|r| r.0)
}

/// The name of the low `bytes` of host register `n`.
pub fn named(n: u8, bytes: usize) -> Register {
    let n = u32::from(n);
    match bytes {
        1 if n < 4 => Register::AL + n,
        1 => Register::SPL + (n - 4),
        2 => Register::AX + n,
        4 => Register::EAX + n,
        _ => Register::RAX + n,
    }
}

/// AH, CH, DH or BH.
pub const fn is_high_byte(r: Register) -> bool {
    matches!(r, Register::AH | Register::CH | Register::DH | Register::BH)
}

/// The number of a general register's whole.
pub fn number(r: Register) -> u8 {
    r.full_register().number() as u8
}
