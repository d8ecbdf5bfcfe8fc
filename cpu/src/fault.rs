//! Exceptions. A handler that cannot complete notes why in [`Cpu::fault`] and returns [`Fault`]; the run loop takes over.

use serde::{Deserialize, Serialize};

use crate::state::Cpu;

/// Marker of the `Err` side: the reason is in [`Cpu::fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// Exception vectors (SDM 3A, table 6-1).
#[allow(missing_docs, reason = "named as in the manual")]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
}

/// Why an instruction did not complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Nothing.
    #[default]
    None,
    /// An exception to deliver.
    Exception(Exception),
    /// The instruction touches a device or code: run it again, alone (see [`Cpu::solo`]).
    Alone,
    /// The instruction waits for an interrupt, as HLT does, but RIP stays on it.
    Frozen,
    /// The processor shuts down, as by a triple fault.
    Shutdown,
}

/// An exception.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// Vector number.
    pub vector: u8,
    /// Error code, where the vector has one.
    pub error: Option<u32>,
    /// The faulting linear address of #PF (becomes CR2).
    pub address: u64,
}

impl Cpu {
    /// Notes an exception without an error code.
    #[cold]
    pub fn raise(&mut self, vector: u8) -> Fault {
        self.fault = Reason::Exception(Exception { vector, error: None, address: 0 });
        Fault
    }
    /// Notes an exception with an error code.
    #[cold]
    pub fn raise_with(&mut self, vector: u8, error: u32) -> Fault {
        self.fault = Reason::Exception(Exception { vector, error: Some(error), address: 0 });
        Fault
    }
    /// #GP(error).
    #[cold]
    pub fn gp(&mut self, error: u32) -> Fault {
        self.raise_with(vector::GP, error)
    }
    /// #UD.
    #[cold]
    pub fn ud(&mut self) -> Fault {
        self.raise(vector::UD)
    }
    /// #PF(error) at `address`.
    #[cold]
    pub fn pf(&mut self, address: u64, error: u32) -> Fault {
        self.fault = Reason::Exception(Exception { vector: vector::PF, error: Some(error), address });
        Fault
    }
    /// Asks for the instruction to be run again, alone.
    #[cold]
    pub fn alone(&mut self) -> Fault {
        self.fault = Reason::Alone;
        Fault
    }
}
