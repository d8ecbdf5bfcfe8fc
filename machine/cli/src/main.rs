//! The `softmetal` command.
fn main() {}
