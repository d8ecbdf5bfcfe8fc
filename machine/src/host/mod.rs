//! Everything that touches the world outside: terminal, files, sockets, signals, other programs, the host clock.
//!
//! **Invariant:** nothing here changes the guest except through the machine's input events and the disks' stores.

mod bell;
pub mod catalog;
pub mod clock;
pub mod disk;
pub mod events;
pub mod files;
pub mod firmware;
pub mod listing;
pub mod serial;
pub mod signals;
pub mod terminal;
