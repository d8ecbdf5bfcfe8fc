//! The stack that translated code runs on: a shadow of the guest's, by which returns are predicted.
//!
//! A CALL of the guest is one of the host's, and a RET that leads where its CALL came from is one, so the host's own
//! predictor of returns knows where it goes. An entry is two words: above, the guest's return address; below, the host's, which
//! the host's CALL has pushed. A RET compares the first with what it has loaded. If they differ, it looks one entry
//! deeper (a retpoline, or a trace that holds a RET without its CALL, leaves one behind); then it goes through the jump cache and
//! leaves the stack alone, since a trace that holds a CALL without its RET has pushed nothing.
//!
//! Each privilege has its stack, so that a system call does not disturb that of its caller. It counts as long as the jump cache
//! does, and is empty afterwards. At its bottom are entries for an address where a block may begin, which lead to the run loop.

use memmap2::MmapMut;

/// Instructions that translated code may run before it comes back: each may be a CALL.
pub const SLICE: u64 = 1 << 20;
/// Bytes of an entry.
const ENTRY: u64 = 16;
/// Bytes that a stack may have where translated code is entered; one with more is emptied.
const DEEP: u64 = 64 << 10;
/// Bytes below the deepest entry: handlers run elsewhere, but the host's signals do not.
const RESERVE: u64 = 64 << 10;
/// Bytes of a stack.
const SIZE: u64 = RESERVE + SLICE * ENTRY + DEEP;
/// Entries at the bottom: a RET looks at two.
const BOTTOM: u64 = 2 * ENTRY;

/// Addresses where blocks may begin: of the system, and of users.
const SOME_ADDRESS: [u64; 2] = [0xffff_8000_0000_0000, 0];

/// Memory for the stacks of both privileges.
pub struct Stacks(MmapMut);

/// The stacks, as translated code sees them.
#[derive(Default)]
#[repr(C)]
pub struct Returns {
    /// The top of the stack of the privilege that runs, while translated code does not.
    pub top: u64,
    /// Rust's stack, while translated code runs.
    pub host: u64,
    /// The top of the other privilege's.
    other: u64,
    /// Which one runs.
    user: bool,
    /// By privilege: the bottom.
    bottom: [u64; 2],
}

impl Stacks {
    /// Memory, of which the host commits what is used.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(MmapMut::map_anon(2 * SIZE as usize)?))
    }

    /// Empty stacks, whose bottoms lead to host address `leave`.
    pub fn returns(&mut self, leave: u64) -> Returns {
        let start = self.0.as_ptr() as u64;
        let mut bottom = [0; 2];
        for (privilege, address) in SOME_ADDRESS.into_iter().enumerate() {
            let end = (privilege + 1) * SIZE as usize;
            let words = [leave, address].map(u64::to_le_bytes).concat();
            self.0[end - BOTTOM as usize..end].copy_from_slice(&words.repeat((BOTTOM / ENTRY) as usize));
            bottom[privilege] = start + end as u64 - BOTTOM;
        }
        Returns { top: bottom[0], host: 0, other: bottom[1], user: false, bottom }
    }
}

impl Returns {
    /// Translated code is about to be entered for a slice: there is room for its calls.
    pub fn make_room(&mut self) {
        let own = usize::from(self.user);
        for (top, bottom) in [(&mut self.top, self.bottom[own]), (&mut self.other, self.bottom[1 - own])] {
            // What was taken from the bottom is above it.
            if bottom.wrapping_sub(*top) > DEEP {
                *top = bottom;
            }
        }
    }

    /// Goes to the stack of a privilege.
    #[inline(always)]
    pub fn select(&mut self, user: bool) {
        if self.user != user {
            self.user = user;
            std::mem::swap(&mut self.top, &mut self.other);
        }
    }

    /// Empties the stack of a privilege.
    pub fn forget(&mut self, user: bool) {
        let top = if self.user == user { &mut self.top } else { &mut self.other };
        *top = self.bottom[usize::from(user)];
    }
}
