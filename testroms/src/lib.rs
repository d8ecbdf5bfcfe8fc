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
//!
//! Tests of all crates say by [`skipped`] and [`lacking`] what they leave out.
#![forbid(unsafe_code)]

pub mod console;
mod demo;
pub mod image;
pub mod programs;
pub mod tables;
pub mod userland;

use std::io::Write;

pub use demo::demo;

/// Says on standard error that the test at hand is skipped, and why; false, so that `can() || skipped(&"it cannot")` tells.
///
/// # Panics
/// If standard error is closed.
pub fn skipped(why: &dyn std::fmt::Display) -> bool {
    // What eprintln! says is shown only for tests that fail.
    let line = format!("SKIPPED {}: {why}\n", std::thread::current().name().unwrap_or_default());
    std::io::stderr().write_all(line.as_bytes()).expect("standard error is open");
    false
}

/// As [`skipped`] for want of something that can be installed. Where the environment says by `needed` that it has been, the test
/// fails instead.
///
/// # Panics
/// Then.
pub fn lacking(needed: &str, why: &dyn std::fmt::Display) -> bool {
    assert!(std::env::var_os(needed).is_none(), "{why}");
    skipped(why)
}
