//! The machine: a board of chips around a processor, and everything that runs, scripts and judges it.
//!
//! | module | what it is |
//! |---|---|
//! | [`board`] | the chips of board `pc` and their wiring |
//! | [`machine`] | processor, board and memory as one; input events, time |
//! | [`start`] | from a loader's entry to the processor's state |
//! | [`snapshot`] | the whole state as bytes, and its hash |
//! | [`checkpoint`] | the whole state in memory, to go back to |
//! | [`crash`] | what a triple fault tells |
//! | [`screen`] | pictures as PNG, texts as keystrokes |
//! | [`script`] | the expectations of `softmetal test` |
//! | [`session`] | a machine and its user: the loop between them, and how it ends |
//! | [`gdb`] | the remote debugging protocol |
//! | [`host`] | terminal, files, sockets, signals: the only code that touches the outside world |
#![forbid(unsafe_code)]

mod bios;
pub mod board;
pub mod checkpoint;
pub mod crash;
pub mod error;
pub mod gdb;
pub mod host;
pub mod images;
mod lockstep;
pub mod machine;
pub mod media;
mod resume;
pub mod screen;
pub mod script;
pub mod session;
pub mod snapshot;
pub mod start;

pub use error::UserError;
