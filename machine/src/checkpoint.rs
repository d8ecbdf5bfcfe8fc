//! A machine's state kept in memory, to go back to: processor, chips, timers, RAM.
//!
//! A checkpoint costs the pages written since the last one; what did not change is shared. The run that goes on from a
//! checkpoint and the one that is restored from it are the same: taking one empties the translation caches, and so does
//! restoring. Disks are not part of it.

use softmetal_bus::{PageSet, StateError};
use softmetal_cpu::State;

use crate::machine::Machine;

/// A state of a machine.
#[derive(Clone)]
pub struct Checkpoint {
    state: State,
    board: Vec<u8>,
    pages: PageSet,
    /// Events in the input log.
    logged: usize,
}

/// Why a checkpoint could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It is of a machine with other devices.
    #[error("the checkpoint is of another machine: {0}")]
    Board(#[from] StateError),
    /// It is of a machine with more memory.
    #[error("the checkpoint is of another machine: {0}")]
    Memory(#[from] softmetal_bus::MemoryError),
}

impl Checkpoint {
    /// The retired-instruction count.
    #[must_use]
    pub fn icount(&self) -> u64 {
        self.state.icount
    }

    /// How many pages it does not share with `other`.
    #[must_use]
    pub fn pages_beside(&self, other: &Self) -> usize {
        self.pages.differing(&other.pages).len()
    }
}

impl Machine {
    /// The state now.
    ///
    /// # Errors
    /// As [`softmetal_bus::GuestMemory::checkpoint`].
    pub fn checkpoint(&mut self) -> Result<Checkpoint, CheckpointError> {
        self.processor_mut().cpu.flush_translations();
        let logged = self.logged();
        let (state, board, memory) = self.parts();
        Ok(Checkpoint { state, board, pages: memory.checkpoint()?, logged })
    }

    /// Goes back to (or over to) a checkpoint of this machine, or of one of the same configuration. Events that were
    /// logged after it are forgotten, and output that was not taken is gone.
    ///
    /// # Errors
    /// [`CheckpointError`]; the machine must not be run then.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
        let Checkpoint { state, board, pages, logged } = checkpoint;
        self.parts().2.restore(pages)?;
        self.set_parts(state.clone(), board)?;
        self.forget_log(*logged);
        Ok(())
    }
}
