//! Two machines that must stay the same: one engine proves the other.
//!
//! Both get the same input and run to the same instruction counts; the processors' states are compared after each piece,
//! RAM and chips now and then. At the first difference both go back to a checkpoint, and bisecting finds the instruction.

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::crash;
use crate::machine::{InputEvent, Machine, Turn};
use softmetal_bus::Time;

/// Instructions between two comparisons of the processors, at most.
const PIECE: u64 = 50_000;
/// Instructions between two comparisons of RAM.
const WHOLE: u64 = 5_000_000;
/// Instructions between two checkpoints.
const WINDOW: u64 = 100_000_000;

/// The other machine, and where both were last the same.
pub(crate) struct Lockstep {
    other: Machine,
    start: Option<[Checkpoint; 2]>,
    /// Both were the same at this instruction count.
    same: u64,
    /// RAM was last compared there.
    whole: u64,
    report: Option<String>,
}

impl Lockstep {
    pub(crate) fn new(other: Machine) -> Self {
        Self { other, start: None, same: 0, whole: 0, report: None }
    }

    pub(crate) fn report(&self) -> Option<&str> {
        self.report.as_deref()
    }

    pub(crate) fn reset(&mut self) {
        self.start = None;
        self.other.reset();
    }

    pub(crate) fn apply(&mut self, event: &InputEvent) {
        self.start = None;
        self.other.apply(event.clone());
    }

    pub(crate) fn other(&mut self) -> &mut Machine {
        &mut self.other
    }

    pub(crate) fn into_other(self) -> Machine {
        self.other
    }

    pub(crate) fn jump(&mut self, time: Time) {
        self.other.jump(time);
    }

    /// A turn of both.
    pub(crate) fn turn(&mut self, main: &mut Machine, limit: u64) -> Turn {
        if self.report.is_some() {
            return Turn::Diverged;
        }
        match self.compared(main, limit) {
            Ok(turn) => turn,
            Err(e) => {
                self.report = Some(format!("the engines differ, and no checkpoint shows where: {e}\n"));
                Turn::Diverged
            }
        }
    }

    fn compared(&mut self, main: &mut Machine, limit: u64) -> Result<Turn, CheckpointError> {
        let now = main.icount();
        if self.start.as_ref().is_none_or(|[c, _]| now - c.icount() > WINDOW) {
            self.start = Some([main.checkpoint()?, self.other.checkpoint()?]);
            self.same = now;
        }
        let piece = limit.min(now + PIECE);
        let turn = main.turn_alone(piece);
        let other = self.other.turn_alone(piece);
        let _ = self.other.take_output();
        let whole = main.icount() - self.whole > WHOLE;
        if whole {
            self.whole = main.icount();
        }
        if turn != other || !same(main, &mut self.other, whole) {
            self.report = Some(self.explain(main)?);
            return Ok(Turn::Diverged);
        }
        if whole {
            self.same = main.icount();
        }
        Ok(if turn == Turn::Limit && piece < limit { Turn::Ran } else { turn })
    }

    /// Runs both from the checkpoint to instruction count `n`; whether they are the same then.
    fn again(&mut self, main: &mut Machine, n: u64) -> Result<bool, CheckpointError> {
        if let Some([a, b]) = &self.start {
            main.restore(a)?;
            self.other.restore(b)?;
        }
        for m in [&mut *main, &mut self.other] {
            // Alone: `main` has given its lockstep away meanwhile.
            m.run_until(n);
        }
        Ok(main.icount() == self.other.icount() && same(main, &mut self.other, true))
    }

    fn explain(&mut self, main: &mut Machine) -> Result<String, CheckpointError> {
        let (mut same, mut different) = (self.same, main.icount().max(self.other.icount()));
        if self.again(main, different)? {
            return Ok(format!("the engines differed before instruction {different}, but not when run again from instruction {same}\n"));
        }
        while different - same > 1 {
            let middle = same + (different - same) / 2;
            if self.again(main, middle)? { same = middle } else { different = middle }
        }
        self.again(main, same)?;
        let code = crash::disassembly(main.processor_mut(), 3);
        let before = crash::registers(main.processor());
        self.again(main, different)?;
        let (a, b) = (crash::registers(main.processor()), crash::registers(self.other.processor()));
        let states = if main.normal_state_bytes() == self.other.normal_state_bytes() { "RAM or chips differ" } else { "registers differ" };
        Ok(format!(
            "the engines differ after instruction {different}: {states}\n{code}before:\n{before}{:?}:\n{a}{:?}:\n{b}",
            main.processor().engine(),
            self.other.processor().engine(),
        ))
    }
}

fn same(a: &mut Machine, b: &mut Machine, whole: bool) -> bool {
    a.normal_state_bytes() == b.normal_state_bytes() && (!whole || a.state_hash() == b.state_hash())
}
