//! The state of a whole machine: its hash, and one versioned text that holds it.
//!
//! Disks are not part of it: they belong to the host.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use softmetal_bus::{GuestMemory, PAGE_SIZE};
use softmetal_cpu::State;

use crate::machine::Machine;

/// What a snapshot begins with.
const MAGIC: &[u8; 8] = b"softmetl";
/// The format's version.
const VERSION: u32 = 1;

/// Why a snapshot could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is something else.
    #[error("this is no snapshot")]
    Foreign,
    /// It was written by another version.
    #[error("the snapshot has format version {0}; this program reads version {VERSION}")]
    Version(u32),
    /// It is cut short or was changed.
    #[error("the snapshot is damaged: {0}")]
    Damaged(String),
    /// It was taken of another machine.
    #[error("the snapshot is of a machine with {0} MiB of memory, this one has {1} MiB")]
    OtherMachine(u64, u64),
}

#[derive(Serialize, Deserialize)]
struct Saved {
    memory_bytes: u64,
    state: State,
    board: Vec<u8>,
    /// The pages of RAM that are not all zeros: number and contents.
    pages: Vec<(u64, Vec<u8>)>,
}

/// Calls `f` with the number and contents of every page that is not all zeros, in order.
fn each_page(memory: &GuestMemory, mut f: impl FnMut(u64, &[u8])) {
    let mut page = [0; PAGE_SIZE];
    for n in 0..memory.len() / PAGE_SIZE as u64 {
        if memory.read(n * PAGE_SIZE as u64, &mut page).is_ok() && page != [0; PAGE_SIZE] {
            f(n, &page);
        }
    }
}

impl Machine {
    /// A hash of everything that decides what happens next: processor, chips, timers, RAM. Two runs that are the same so
    /// far have the same, whatever the engine.
    #[must_use]
    pub fn state_hash(&mut self) -> String {
        let (state, board, memory) = self.parts();
        let mut hash = Sha256::new();
        hash.update(postcard::to_stdvec(&state).expect("plain data always serialises"));
        hash.update(&board);
        each_page(memory, |n, bytes| {
            hash.update(n.to_le_bytes());
            hash.update(bytes);
        });
        let digest = hash.finalize();
        digest[..16].iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The whole state.
    #[must_use]
    pub fn save(&mut self) -> Vec<u8> {
        let memory_bytes = self.memory_bytes();
        let (state, board, memory) = self.parts();
        let mut pages = Vec::new();
        each_page(memory, |n, bytes| pages.push((n, bytes.to_vec())));
        let body = postcard::to_stdvec(&Saved { memory_bytes, state, board, pages }).expect("plain data serialises");
        let digest = Sha256::digest(&body);
        [&MAGIC[..], &VERSION.to_le_bytes(), &digest, &body].concat()
    }

    /// Puts a saved state back, into a machine of the same configuration.
    ///
    /// # Errors
    /// [`SnapshotError`]; unless it is about the board, the machine is unchanged then.
    pub fn load(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(SnapshotError::Foreign)?;
        let short = || SnapshotError::Damaged("it is cut short".into());
        let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        match u32::from_le_bytes(*version) {
            VERSION => {}
            other => return Err(SnapshotError::Version(other)),
        }
        let (digest, body) = rest.split_first_chunk::<32>().ok_or_else(short)?;
        if Sha256::digest(body)[..] != digest[..] {
            return Err(SnapshotError::Damaged("its checksum does not fit its contents".into()));
        }
        let saved: Saved = postcard::from_bytes(body).map_err(|e| SnapshotError::Damaged(e.to_string()))?;
        if saved.memory_bytes != self.memory_bytes() {
            return Err(SnapshotError::OtherMachine(saved.memory_bytes >> 20, self.memory_bytes() >> 20));
        }
        let mut pages = saved.pages.into_iter().peekable();
        let memory = self.parts().2;
        let mut old = [0; PAGE_SIZE];
        for n in 0..memory.len() / PAGE_SIZE as u64 {
            let at = n * PAGE_SIZE as u64;
            let new = pages.next_if(|(m, _)| *m == n).map_or_else(|| vec![0; PAGE_SIZE], |(_, bytes)| bytes);
            if new.len() != PAGE_SIZE {
                return Err(SnapshotError::Damaged("a page has another size".into()));
            }
            if memory.read(at, &mut old).is_ok() && old[..] != new[..] {
                memory.write(at, &new).map_err(|e| SnapshotError::Damaged(e.to_string()))?;
            }
        }
        self.set_parts(saved.state, &saved.board).map_err(|e| SnapshotError::Damaged(e.to_string()))
    }
}
