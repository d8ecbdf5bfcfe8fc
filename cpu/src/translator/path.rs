//! Which way hot code goes: what is recorded, and which part of it becomes a trace.

use std::ops::Range;

use softmetal_bus::PAGE_SIZE;

use super::backend::Turn;
use crate::block::Block;
use crate::state::{Mode, State};

/// Instructions of a trace at most.
pub const MOST: usize = 256;
/// Rounds of a loop in a trace at most.
const ROUNDS: usize = 8;
/// Instructions that are recorded, about.
const WINDOW: u64 = 2 * MOST as u64;
/// Its instructions are at most so many bytes from where it begins.
const FARTHEST: i64 = 1 << 30;
/// A loop is recorded as often as this, if its traces turn out not to be the way that it goes.
pub const TRIES: u8 = 3;

/// A block that was run.
#[derive(Clone, Copy)]
pub struct Step {
    /// Its index in the cache of blocks.
    pub index: u32,
    /// Its serial number: another block at that index has another.
    pub serial: u32,
    /// Its translation.
    pub number: u32,
    /// Its start, counted from [`Recorder::page`].
    pub start: i64,
    /// The instruction count before it.
    pub icount: u64,
    /// The general registers then.
    pub registers: [u64; 16],
}

/// Blocks as they are run, one after the other.
pub struct Recorder {
    /// The trace that it is to replace, or 0.
    pub replaces: u32,
    /// The linear address of the page that it began in.
    pub page: u64,
    /// That of all its blocks.
    mode: Mode,
    /// The epoch of code then.
    pub epoch: u64,
    /// First to last.
    pub steps: Vec<Step>,
}

impl Recorder {
    /// One that begins with `block`, at linear address `linear`, in an epoch.
    pub fn new(replaces: u32, block: &Block, linear: u64, epoch: u64) -> Self {
        Self { replaces, page: linear & !(PAGE_SIZE as u64 - 1), mode: block.mode, epoch, steps: Vec::new() }
    }

    /// Block `index`, at linear address `linear`, whose translation is `number`, is about to run in state `s`; false if that is
    /// enough, or it cannot be in a trace.
    pub fn note(&mut self, index: u32, block: &Block, linear: u64, number: u32, s: &State) -> bool {
        let start = linear.wrapping_sub(self.page) as i64;
        if block.crosses || block.mode != self.mode || start.abs() > FARTHEST {
            return false;
        }
        let registers = std::array::from_fn(|n| s.regs[n]);
        self.steps.push(Step { index, serial: block.serial, number, start, icount: s.icount, registers });
        s.icount - self.steps[0].icount < WINDOW
    }
}

/// A step, and how it led to the next one.
pub struct Visit {
    /// As that of the step.
    pub start: i64,
    /// Instructions that were run.
    pub len: usize,
    /// The turn of the last one, and whether it is a jump backwards; none if a trace cannot go that way.
    pub turn: Option<(Turn, bool)>,
}

/// The steps of a trace. If a loop has room, that is rounds of it: of the outermost, or with `inner` the innermost. Else it is
/// the way to where another trace begins. `free` tells at which steps a trace may begin, `traced` at which one begins.
pub fn choose(visits: &[Visit], inner: bool, free: impl Fn(usize) -> bool, traced: impl Fn(usize) -> bool) -> Option<Range<usize>> {
    let arrives = |n: usize| n == 0 || matches!(visits[n - 1].turn, Some((_, true)));
    let arrivals: Vec<usize> = (0..visits.len()).filter(|&n| arrives(n)).collect();
    let mut heads: Vec<i64> = arrivals.iter().filter(|&&n| free(n)).map(|&n| visits[n].start).collect();
    heads.sort_unstable();
    heads.dedup();
    if inner {
        heads.reverse();
    }
    let rounds = heads.iter().find_map(|&head| {
        let at: Vec<usize> = arrivals.iter().copied().filter(|&n| visits[n].start == head).collect();
        (0..at.len()).find_map(|first| {
            let (mut len, mut end) = (0, None);
            for round in at[first..].windows(2).take(ROUNDS) {
                let [from, to] = [round[0], round[1]];
                len += visits[from..to].iter().map(|v| v.len).sum::<usize>();
                let whole = visits[from..to].iter().all(|v| v.turn.is_some()) && !(from + 1..to).any(&traced);
                if len > MOST || !whole {
                    break;
                }
                end = Some(to);
            }
            end.map(|end| at[first]..end)
        })
    });
    rounds.or_else(|| {
        arrivals.iter().copied().filter(|&n| free(n)).find_map(|first| {
            let lens = visits[first..].iter().scan(0, |len, v| {
                *len += v.len;
                v.turn.filter(|_| *len <= MOST)
            });
            let room = first + lens.count();
            (first + 1..visits.len().min(room + 1)).filter(|&n| traced(n)).min_by_key(|&n| visits[n].start).map(|end| first..end)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visits(list: &[(i64, usize, bool)]) -> Vec<Visit> {
        list.iter().map(|&(start, len, back)| Visit { start, len, turn: Some((Turn::Taken, back)) }).collect()
    }

    fn chosen(visits: &[Visit], inner: bool, traced: &[i64]) -> Option<Range<usize>> {
        let traced = |n: usize| traced.contains(&visits[n].start);
        choose(visits, inner, |n| !traced(n), traced)
    }

    #[test]
    fn an_outer_loop_with_room_goes_first() {
        // Three rounds of 0x40 inside of one that begins at 0x10; recorded from the middle.
        let list = [(0x40, 9, true), (0x40, 9, false), (0x60, 2, true), (0x10, 20, false), (0x40, 9, true), (0x40, 9, true)];
        let again = [(0x40, 9, false), (0x60, 2, true), (0x10, 20, false)];
        let v = visits(&[&list[..], &again[..]].concat());
        assert_eq!(chosen(&v, false, &[]), Some(3..8));
        assert_eq!(chosen(&v, false, &[0x10]), Some(0..1));
        assert_eq!(chosen(&v, true, &[]), Some(0..6));
    }

    #[test]
    fn a_loop_without_room_leads_to_another_one() {
        let list = [(0x10, 30, false), (0x40, 9, true), (0x40, 240, false), (0x70, 9, true), (0x10, 10, true), (0x10, 10, true)];
        assert_eq!(chosen(&visits(&list[..5]), false, &[]), None);
        assert_eq!(chosen(&visits(&list[..5]), false, &[0x40]), Some(0..1));
        assert_eq!(chosen(&visits(&list[..5]), false, &[0x70, 0x40]), Some(0..1));
        assert_eq!(chosen(&visits(&list), false, &[0x70, 0x40]), Some(4..5));
    }

    #[test]
    fn short_rounds_are_repeated() {
        let v = visits(&[(0x10, 7, true); 30]);
        assert_eq!(chosen(&v, false, &[]), Some(0..8));
        let v = visits(&[(0x10, 100, true); 5]);
        assert_eq!(chosen(&v, false, &[]), Some(0..2));
        let v = visits(&[(0x10, 300, true); 3]);
        assert_eq!(chosen(&v, false, &[]), None);
    }

    #[test]
    fn what_cannot_be_followed_is_left_out() {
        let mut v = visits(&[(0x10, 7, true), (0x10, 3, false), (0x20, 4, true), (0x10, 7, true), (0x10, 7, true), (0x10, 7, true)]);
        v[1].turn = None;
        assert_eq!(chosen(&v, false, &[]), Some(0..1));
        v[0].turn = None;
        assert_eq!(chosen(&v, false, &[]), Some(3..5));
    }
}
