//! Guest programs, assembled when they are asked for: no assembler is needed on any host.
//!
//! | module | what it holds |
//! |---|---|
//! | [`image`] | flat images that start in real mode |
//! | [`tables`] | descriptor and page tables |
//! | [`console`] | printing on the serial port |
//! | `demo` | the demonstration guest, see [`demo()`] |
//! | [`programs`] | guests that try one part of the machine each |
//! | [`userland`] | programs of this host for a guest's root file system |
#![forbid(unsafe_code)]

pub mod console;
mod demo;
pub mod image;
pub mod programs;
pub mod tables;
pub mod userland;

pub use demo::demo;
