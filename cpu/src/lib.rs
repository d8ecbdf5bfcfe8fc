//! An x86-64 processor in software: decode, block cache, interpreter, MMU, interrupts, CPUID.
//!
//! | module | what it holds |
//! |---|---|
//! | [`fault`] | exceptions, and how handlers tell of them |
//! | [`width`] | operand sizes |
//! | [`op`] | the compact decoded operation, the handler contract, how a handler hands over to the next |
//! | [`table`] | one row a mnemonic: which lowering (and so which handlers) carries it out |
//! | [`lower`] | iced instruction -> [`op::Op`], operands resolved |
//! | [`block`] | decoded blocks, keyed by physical address and mode, chained, invalidated by writes |
//! | [`run`] | [`Processor`]: the loop that finds and runs blocks, takes interrupts, stops at exact counts |
//! | [`state`] | [`Cpu`]: registers, segments, control registers: all that handlers see |
//! | [`debug`] | breakpoints of the debug registers, single steps |
//! | [`flags`] | lazy arithmetic flags |
//! | [`mmu`] | page walks, the software TLB, loads and stores |
//! | [`exec`] | handlers, by instruction family |
//! | [`translator`] | hot blocks re-emitted as host code |
//! | [`semantics`] | pure functions over values |
//! | [`testing`] | a processor on a bare board, for tests |
//!
//! **Invariant:** this crate knows no device; the board is a [`softmetal_bus::CpuBus`].

pub mod block;
pub mod debug;
pub mod exec;
pub mod fault;
pub mod flags;
pub mod lower;
pub mod mmu;
pub mod op;
pub mod run;
pub mod semantics;
pub mod state;
pub mod table;
pub mod testing;
pub mod translator;
pub mod width;

pub use fault::{Exception, Fault};
pub use run::{Engine, Processor, Stop};
pub use state::{Cpu, Mode, Segment, State};
