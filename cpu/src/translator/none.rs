//! In place of a back end, on hosts that there is none for.

use iced_x86::Instruction;

use super::backend::{Back, Backend, Edge, Input, Leads, Made, Maker};
use crate::block::Block;
use crate::op::Op;
use crate::state::{Cpu, Mode, State};

/// What the run loop looks at.
#[derive(Default)]
pub struct Context {
    /// Always none.
    pub failed: Option<Op>,
    /// Always none.
    pub linked_in: [Option<u64>; 2],
}

impl Context {
    /// Nobody asks.
    pub fn learn(&mut self, _: &State) {}
}

/// Nothing is run by translated code.
pub fn shadow_may_end(_: &Cpu) -> bool {
    false
}

/// Whether this host can run translated code.
///
/// # Errors
/// A sentence about what it lacks.
pub fn available() -> Result<(), String> {
    Err("the translator works on x86-64 Linux hosts only".into())
}

/// There is none.
pub enum Native {}

impl Maker for Native {
    type Code = ();

    fn leads(&mut self, _: &[Instruction], _: &[bool], _: Mode) -> Vec<Leads> {
        match *self {}
    }
    fn make(&mut self, _: &mut Input, (): &mut ()) -> bool {
        match *self {}
    }
}

impl Backend for Native {
    type Maker = Self;
    type Saved = ();

    fn new(_: &mut Cpu) -> Result<Self, String> {
        available()?;
        unreachable!("it is not available")
    }
    fn maker(&self) -> Self {
        match *self {}
    }
    fn assume_other_maker(&mut self, _: &mut Cpu) {
        match *self {}
    }
    fn has_room(&self) -> bool {
        match *self {}
    }
    fn place(&mut self, (): &mut (), _: u32, _: &mut Vec<Edge>) -> Made {
        match *self {}
    }
    fn bytes(&self, _: (u64, usize)) -> &[u8] {
        match *self {}
    }
    fn link(&mut self, _: u64, _: u64) {
        match *self {}
    }
    fn divert(&mut self, _: u64, _: u64) {
        match *self {}
    }
    fn restore(&mut self, _: u64, (): ()) {
        match *self {}
    }
    fn look_up(&mut self, _: bool) -> u64 {
        match *self {}
    }
    fn clear(&mut self, _: &mut Cpu) {
        match *self {}
    }
    fn stray(&mut self, _: &mut Cpu) -> Option<(u32, u64)> {
        match *self {}
    }
    fn forget_addresses(&mut self, _: &mut Cpu) {
        match *self {}
    }
    fn within_limit(_: &Cpu, _: &Block) -> bool {
        false
    }
    fn run(&mut self, _: &mut Cpu, _: &Block, _: (u64, u64), _: u64) -> Back {
        match *self {}
    }
}
