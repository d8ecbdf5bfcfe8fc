//! The host's processor as the judge of Softmetal's: the same instruction runs on both, and all state is compared.
//!
//! | module | what it holds |
//! |---|---|
//! | [`case`] | a case (code, registers, memory) and its outcome; where things lie |
//! | [`values`] | operands that favour edges |
//! | [`generate`] | a case from a seed, an index and an instruction code |
//! | [`guest`] | runs a case on Softmetal, whatever the engine |
//! | `host` | runs cases on the host's processor, in a process of their own |
//! | [`compare`] | what differs between two outcomes |
//! | [`accepted`] | what may differ, and why |
//! | [`session`] | many cases: batches, counts, the report of a failure |
//! | [`isa`] | the table of docs/isa.md |
//!
//! Only `host` is unsafe, and it exists on x86-64 Linux alone.
#![deny(unsafe_code)]

pub mod accepted;
pub mod case;
pub mod compare;
pub mod generate;
pub mod guest;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[allow(unsafe_code, reason = "the host's processor is reached through its signals")]
pub mod host;
pub mod isa;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod session;
pub mod values;
