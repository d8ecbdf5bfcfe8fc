//! The machine: a board of chips around a processor, and everything that runs, scripts and judges it.
//!
//! | module | what it is |
//! |---|---|
//! | [`script`] | the expectations of `softmetal test` |
//! | [`host`] | terminal, files, sockets, signals: the only code that touches the outside world |
#![forbid(unsafe_code)]

pub mod error;
pub mod host;
pub mod script;

pub use error::UserError;
