//! Softmetal.

pub mod semantics;
