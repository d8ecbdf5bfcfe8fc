//! Softmetal.

#![forbid(unsafe_code)]

pub mod gdb;
pub mod host;
