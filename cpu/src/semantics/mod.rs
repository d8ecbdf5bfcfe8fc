//! Pure functions over values, named by mnemonic; they know no registers and no memory.

pub mod integer;
pub mod simd;
pub mod softfloat;
pub mod x87;
