//! The timer: one-shot, periodic and TSC-deadline (SDM 3A 11.5.4).
//!
//! Bus clock and TSC both tick once a nanosecond of virtual time, so that no count is ever converted.

use serde::{Deserialize, Serialize};
use softmetal_bus::{Ctx, Time};

use super::{LVT_MASKED, Lapic, TIMER};

/// The bus clock that the timer divides, and the TSC, in Hz.
pub const LAPIC_HZ: u64 = Time::SECOND;

/// Periodic interrupts do not come faster than this, in nanoseconds; shorter periods merge.
const SHORTEST: u64 = 1000;

/// Bits 18:17 of the timer's entry in the local vector table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    OneShot,
    Periodic,
    Deadline,
}

impl Mode {
    fn of(entry: u32) -> Self {
        match entry >> 17 & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            // 3 is reserved.
            _ => Self::Deadline,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Timer {
    initial: u32,
    /// The divide configuration register.
    divide: u32,
    /// When the count began; wraps.
    start: u64,
    /// The TSC value of IA32_TSC_DEADLINE; 0 when disarmed.
    deadline: u64,
    /// TSC less virtual time.
    pub(super) tsc_offset: u64,
    /// When the armed timer expires.
    expires: Option<Time>,
}

impl Timer {
    pub fn new(tsc_offset: u64) -> Self {
        Self { initial: 0, divide: 0, start: 0, deadline: 0, tsc_offset, expires: None }
    }

    pub fn initial(&self) -> u32 {
        self.initial
    }

    pub fn divide(&self) -> u32 {
        self.divide
    }

    pub fn tsc_offset(&self) -> u64 {
        self.tsc_offset
    }

    /// The logarithm of the divisor: 2, 4, .. 128, 1.
    fn shift(&self) -> u32 {
        ((self.divide & 3 | self.divide >> 1 & 4) + 1) & 7
    }

    /// The whole count in nanoseconds.
    fn span(&self) -> u64 {
        u64::from(self.initial) << self.shift()
    }

    fn elapsed(&self, now: Time) -> u64 {
        now.0.wrapping_sub(self.start)
    }

    fn tsc(&self, now: Time) -> u64 {
        now.0.wrapping_add(self.tsc_offset)
    }
}

impl Lapic {
    /// The TSC is virtual time in nanoseconds plus `offset` (wrapping). A deadline that is armed is kept at its TSC value,
    /// but if the TSC steps forward it is noticed no earlier than it was going to be.
    pub fn set_tsc_offset(&mut self, offset: u64) {
        self.state.timer.tsc_offset = offset;
    }

    fn timer_mode(&self) -> Mode {
        Mode::of(self.state.lvt[TIMER])
    }

    /// The current-count register.
    pub(super) fn timer_count(&self, now: Time) -> u32 {
        let timer = &self.state.timer;
        let (span, elapsed) = (timer.span(), timer.elapsed(now));
        let left = match self.timer_mode() {
            _ if span == 0 => 0,
            Mode::OneShot => span.saturating_sub(elapsed),
            Mode::Periodic => span - elapsed % span,
            Mode::Deadline => 0,
        };
        // Rounded up: a count is left until its last nanosecond is over.
        (left.div_ceil(1 << timer.shift())) as u32
    }

    pub(super) fn set_timer_initial(&mut self, ctx: &mut Ctx, count: u32) {
        self.timer_sync(ctx);
        if self.timer_mode() != Mode::Deadline {
            self.state.timer.initial = count;
            self.state.timer.start = ctx.now.0;
            self.timer_arm(ctx);
        }
    }

    /// The count goes on from where it is, at the new rate.
    pub(super) fn set_timer_divide(&mut self, ctx: &mut Ctx, divide: u32) {
        self.timer_sync(ctx);
        let done = u64::from(self.state.timer.initial - self.timer_count(ctx.now).min(self.state.timer.initial));
        self.state.timer.divide = divide;
        self.state.timer.start = ctx.now.0.wrapping_sub(done << self.state.timer.shift());
        self.timer_arm(ctx);
    }

    /// Stores the timer's entry in the local vector table.
    pub(super) fn set_timer_entry(&mut self, ctx: &mut Ctx, entry: u32) {
        self.timer_sync(ctx);
        let deadline = |mode| mode == Mode::Deadline;
        if deadline(Mode::of(entry)) != deadline(self.timer_mode()) {
            self.state.timer.initial = 0;
            self.state.timer.deadline = 0;
        }
        self.state.lvt[TIMER] = entry;
        self.timer_arm(ctx);
    }

    /// IA32_TSC_DEADLINE: 0 unless armed.
    pub(super) fn timer_deadline(&mut self, ctx: &mut Ctx) -> u64 {
        self.timer_sync(ctx);
        self.state.timer.deadline
    }

    /// Ignored in the other modes.
    pub(super) fn set_timer_deadline(&mut self, ctx: &mut Ctx, tsc: u64) {
        self.timer_sync(ctx);
        if self.timer_mode() == Mode::Deadline {
            self.state.timer.deadline = tsc;
            self.timer_arm(ctx);
            self.timer_sync(ctx);
        }
    }

    /// Carries out an expiry that is due, even if the board has not come to announce it.
    pub(super) fn timer_sync(&mut self, ctx: &mut Ctx) {
        if self.state.timer.expires.is_none_or(|at| at > ctx.now) {
            return;
        }
        self.state.timer.expires = None;
        let timer = &mut self.state.timer;
        if Mode::of(self.state.lvt[TIMER]) == Mode::Deadline {
            if timer.tsc(ctx.now) < timer.deadline {
                // The TSC was set back meanwhile.
                self.timer_arm(ctx);
                return;
            }
            timer.deadline = 0;
        }
        self.local_interrupt(ctx, TIMER);
        self.timer_arm(ctx);
    }

    fn timer_arm(&mut self, ctx: &mut Ctx) {
        let timer = &self.state.timer;
        let (now, span, elapsed) = (ctx.now, timer.span(), timer.elapsed(ctx.now));
        let counts = span != 0 && self.state.lvt[TIMER] & LVT_MASKED == 0;
        let expires = match self.timer_mode() {
            Mode::OneShot => (counts && elapsed < span).then(|| now.plus(span - elapsed)),
            Mode::Periodic => counts.then(|| match span - elapsed % span {
                left if span < SHORTEST => now.plus(left.max(SHORTEST)),
                left => now.plus(left),
            }),
            // Runs although masked: the deadline must read as 0 when it is over.
            Mode::Deadline if timer.deadline != 0 => Some(now.plus(timer.deadline.saturating_sub(timer.tsc(now)))),
            Mode::Deadline => None,
        };
        self.state.timer.expires = expires;
        match expires {
            Some(at) => ctx.arm(0, at),
            None => ctx.cancel(0),
        }
    }
}
