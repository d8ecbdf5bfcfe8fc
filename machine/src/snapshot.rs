//! The state of a whole machine: its hash, and one versioned text that holds it.
//!
//! Disks are not part of it: they belong to the host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use softmetal_bus::{Collector, GuestMemory, PAGE_SIZE, PageSet};
use softmetal_cpu::State;

use crate::machine::Machine;

/// What a snapshot begins with.
const MAGIC: &[u8; 8] = b"softmetl";
/// The format's version.
const VERSION: u32 = 4;

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

/// The digest of each page of RAM that is not all zeros.
#[derive(Default)]
pub(crate) struct Digests(BTreeMap<u64, [u8; 32]>);

impl Digests {
    /// Digests what was written since the last call, and all of it together.
    pub(crate) fn update(&mut self, memory: &GuestMemory) -> [u8; 32] {
        for n in memory.collect(Collector::Digest) {
            match memory.page(n) {
                Ok(page) if page != [0; PAGE_SIZE] => self.0.insert(n, Sha256::digest(page).into()),
                _ => self.0.remove(&n),
            };
        }
        let mut all = Sha256::new();
        for (n, digest) in &self.0 {
            all.update(n.to_le_bytes());
            all.update(digest);
        }
        all.finalize().into()
    }
}

impl Machine {
    /// A hash of everything that decides what happens next: processor, chips, timers, RAM. Two runs that are the same so
    /// far have the same, whatever the engine.
    #[must_use]
    pub fn state_hash(&mut self) -> String {
        let memory = self.memory_digest();
        let (state, board, _) = self.parts();
        let mut hash = Sha256::new();
        hash.update(postcard::to_stdvec(&state).expect("plain data always serialises"));
        hash.update(&board);
        hash.update(memory);
        let digest = hash.finalize();
        digest[..16].iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The whole state.
    #[must_use]
    pub fn save(&mut self) -> Vec<u8> {
        let memory_bytes = self.memory_bytes();
        let (state, board, memory) = self.parts();
        let page = |n| memory.page(n).ok().filter(|page| *page != [0; PAGE_SIZE]);
        let pages = memory.touched().filter_map(|n| Some((n, page(n)?.to_vec()))).collect();
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
        let mut pages = PageSet::default();
        let pages_in_all = self.parts().2.len() / PAGE_SIZE as u64;
        for (n, bytes) in &saved.pages {
            let page = bytes.as_slice().try_into().map_err(|_| SnapshotError::Damaged("a page has another size".into()))?;
            if *n >= pages_in_all {
                return Err(SnapshotError::Damaged("a page lies outside the memory".into()));
            }
            pages.set(*n, page);
        }
        self.parts().2.restore(&pages).map_err(|e| SnapshotError::Damaged(e.to_string()))?;
        self.set_parts(saved.state, &saved.board).map_err(|e| SnapshotError::Damaged(e.to_string()))
    }
}
