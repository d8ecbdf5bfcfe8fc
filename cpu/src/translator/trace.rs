//! Traces: the way that a hot loop goes, as one piece of code.
//!
//! A block ends at each jump that is taken. A trace goes on behind it, the way that was really gone, round after round of
//! a loop: what does not go that way leaves by a side exit, with the state that it has there. So neither a chain of blocks
//! nor a look at the budget stands between its instructions, and one look at the TLB does for accesses of several rounds.
//!
//! The ways back of translated blocks count how often they are passed ([`super::emit::Counter`]). When one is hot, the
//! interpreter goes on, and what it runs next is recorded ([`Recorder`]); a loop is chosen from that ([`choose`]) and
//! translated, and the entries of the block at its head lead to it. It is dropped as soon as one of its blocks is
//! retired, or when a side exit is taken more often than the loop goes round; then what is recorded is recorded anew.

use std::ops::Range;

use softmetal_bus::PAGE_SIZE;

use super::emit::Turn;
use crate::block::Block;
use crate::state::Mode;

/// Instructions of a trace at most.
pub const MOST: usize = 128;
/// Rounds of a loop in a trace at most.
const ROUNDS: usize = 8;
/// Instructions that are recorded, about.
const WINDOW: u64 = 2 * MOST as u64;
/// A loop is recorded as often as this, if its traces turn out not to be the way that it goes.
pub const TRIES: u8 = 3;

/// A block that was run.
#[derive(Clone, Copy)]
pub struct Step {
    pub index: u32,
    pub serial: u32,
    /// Its translation.
    pub number: u32,
    /// Its start in the page.
    pub start: u16,
    /// The instruction count before it.
    pub icount: u64,
}

/// Blocks as they are run, one after the other.
pub struct Recorder {
    /// The edge that was hot.
    pub edge: u32,
    /// The linear address of the page.
    pub linear_page: u64,
    page: u64,
    mode: Mode,
    pub steps: Vec<Step>,
}

const fn page(physical: u64) -> u64 {
    physical & !(PAGE_SIZE as u64 - 1)
}

impl Recorder {
    /// One that begins with `block`.
    pub fn new(edge: u32, block: &Block, linear_page: u64) -> Self {
        Self { edge, linear_page, page: page(block.physical), mode: block.mode, steps: Vec::new() }
    }

    /// Block `index`, whose translation is `number`, is about to run; false if that is enough, or it cannot be in a trace.
    pub fn note(&mut self, index: u32, block: &Block, number: u32, icount: u64) -> bool {
        if block.crosses || page(block.physical) != self.page || block.mode != self.mode {
            return false;
        }
        let start = (block.physical - self.page) as u16;
        self.steps.push(Step { index, serial: block.serial, number, start, icount });
        icount - self.steps[0].icount < WINDOW
    }
}

/// A step, and how it led to the next one.
pub struct Visit {
    /// Its start in the page.
    pub start: u16,
    /// Instructions that were run.
    pub len: usize,
    /// The turn of the last one, and whether it is a jump backwards; none if a trace cannot go that way.
    pub turn: Option<(Turn, bool)>,
}

/// The steps of a trace: rounds of the outermost loop of which one has room, or with `inner` of the innermost; only loops
/// whose head is `free`.
pub fn choose(visits: &[Visit], inner: bool, free: impl Fn(usize) -> bool) -> Option<Range<usize>> {
    let arrives = |n: usize| n == 0 || matches!(visits[n - 1].turn, Some((_, true)));
    let arrivals: Vec<usize> = (0..visits.len()).filter(|&n| arrives(n)).collect();
    let mut heads: Vec<u16> = arrivals.iter().filter(|&&n| free(n)).map(|&n| visits[n].start).collect();
    heads.sort_unstable();
    heads.dedup();
    if inner {
        heads.reverse();
    }
    heads.into_iter().find_map(|head| {
        let at: Vec<usize> = arrivals.iter().copied().filter(|&n| visits[n].start == head).collect();
        (0..at.len()).find_map(|first| {
            let (mut len, mut end) = (0, None);
            for round in at[first..].windows(2).take(ROUNDS) {
                let round = &visits[round[0]..round[1]];
                len += round.iter().map(|v| v.len).sum::<usize>();
                if len > MOST || round.iter().any(|v| v.turn.is_none()) {
                    break;
                }
                end = Some(end.unwrap_or(at[first]) + round.len());
            }
            end.map(|end| at[first]..end)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visits(list: &[(u16, usize, bool)]) -> Vec<Visit> {
        list.iter().map(|&(start, len, back)| Visit { start, len, turn: Some((Turn::Taken, back)) }).collect()
    }

    #[test]
    fn an_outer_loop_with_room_goes_first() {
        // Three rounds of 0x40 inside of one that begins at 0x10; recorded from the middle.
        let list = [(0x40, 9, true), (0x40, 9, false), (0x60, 2, true), (0x10, 20, false), (0x40, 9, true), (0x40, 9, true)];
        let again = [(0x40, 9, false), (0x60, 2, true), (0x10, 20, false)];
        let v = visits(&[&list[..], &again[..]].concat());
        assert_eq!(choose(&v, false, |_| true), Some(3..8));
        assert_eq!(choose(&v, false, |n| v[n].start != 0x10), Some(0..6));
        assert_eq!(choose(&v, true, |_| true), Some(0..6));
    }

    #[test]
    fn short_rounds_are_repeated() {
        let v = visits(&[(0x10, 7, true); 30]);
        assert_eq!(choose(&v, false, |_| true), Some(0..8));
        let v = visits(&[(0x10, 50, true); 5]);
        assert_eq!(choose(&v, false, |_| true), Some(0..2));
        let v = visits(&[(0x10, 150, true); 3]);
        assert_eq!(choose(&v, false, |_| true), None);
    }

    #[test]
    fn what_cannot_be_followed_is_left_out() {
        let mut v = visits(&[(0x10, 7, true), (0x10, 3, false), (0x20, 4, true), (0x10, 7, true), (0x10, 7, true), (0x10, 7, true)]);
        v[1].turn = None;
        assert_eq!(choose(&v, false, |_| true), Some(0..1));
        v[0].turn = None;
        assert_eq!(choose(&v, false, |_| true), Some(3..5));
    }
}
