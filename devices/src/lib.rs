//! The chips of the Softmetal board.
#![forbid(unsafe_code)]

mod lanes;
pub mod pic8259;
pub mod pit8254;
#[cfg(test)]
mod testing;
