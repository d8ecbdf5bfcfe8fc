//! The command as a user and a script see it: streams, exit codes, wrong input.

mod bad_input;
#[path = "../binary.rs"]
mod binary;
mod common;
mod disk;
mod house;
mod run;
mod screen;
