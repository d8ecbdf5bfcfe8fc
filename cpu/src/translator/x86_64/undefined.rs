//! Flags that the manual leaves undefined.
//!
//! The interpreter defines them as AMD's processors leave them. Where this host does otherwise (or nobody has looked), an
//! instruction goes through its handler.

use iced_x86::{Instruction, Mnemonic as M};

/// Whether the host leaves the undefined flags of `i` as the handler does.
pub fn agrees(i: &Instruction) -> bool {
    matches!(
        i.mnemonic(),
        M::And
            | M::Or
            | M::Xor
            | M::Test
            | M::Andn
            | M::Imul
            | M::Mul
            | M::Bextr
            | M::Bzhi
            | M::Blsr
            | M::Blsi
            | M::Blsmsk
            | M::Popcnt
            | M::Shl
            | M::Sal
            | M::Shr
            | M::Sar
            | M::Shld
            | M::Shrd
            | M::Rol
            | M::Ror
            | M::Rcl
            | M::Rcr
            | M::Bt
            | M::Bts
            | M::Btr
            | M::Btc
            | M::Lzcnt
            | M::Tzcnt
    )
}
