//! All that touches the outside world: files, sockets, terminals, other programs.

pub mod catalog;
