//! In place of the translator, on hosts that it has no back end for.

use crate::block::{Block, BlockCache};
use crate::op::Op;
use crate::state::{Cpu, State};

/// Nothing is left to the interpreter, as nothing is translated.
pub const SPARE: u64 = 0;

/// What the run loop looks at.
#[derive(Default)]
pub struct Context {
    /// Always none.
    pub failed: Option<Op>,
}

impl Context {
    /// Nobody asks.
    pub fn learn(&mut self, _: &State) {}
}

/// A block that has been translated.
#[allow(missing_docs)]
pub struct Translated<'a> {
    pub rip: u64,
    pub trace: bool,
    pub guest: &'a [(u64, &'a [u8])],
    pub code: [(u64, &'a [u8]); 2],
}

/// Would be told of each block that is translated.
pub type Listener = Box<dyn FnMut(&Translated<'_>) + Send>;

/// Why translated code came back.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    Next(u32),
    Fault,
    Interpret,
}

/// Nothing is run by translated code.
pub fn shadow_may_end(_: &Cpu) -> bool {
    false
}

/// There is none.
pub enum Translator {}

/// Whether this host can run translated code.
///
/// # Errors
/// A sentence about what it lacks.
pub fn available() -> Result<(), String> {
    Err("the translator works on x86-64 Linux hosts only".into())
}

#[allow(missing_docs, clippy::missing_errors_doc)]
impl Translator {
    pub fn new(_: &mut Cpu) -> Result<Self, String> {
        available()?;
        unreachable!("it is not available")
    }
    pub fn listen(&mut self, _: Listener) {}
    #[must_use]
    pub fn translated(&self) -> u64 {
        match *self {}
    }
    pub fn set_heat(&mut self, _: u32) {
        match *self {}
    }
    pub fn of(&mut self, _: &mut BlockCache, _: u32, _: &mut Cpu, _: u32) -> Option<u32> {
        match *self {}
    }
    pub fn run(&mut self, _: &mut Cpu, _: u32, _: &Block, _: u64) -> Back {
        match *self {}
    }
}
