//! The chips of the Softmetal board.
#![forbid(unsafe_code)]

#[cfg(test)]
mod testing;
