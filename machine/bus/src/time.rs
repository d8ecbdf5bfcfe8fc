//! Virtual time and the queue of timers.
//!
//! **Invariant:** nothing reads a host clock; time is a function of the retired-instruction count and the logged skew.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use crate::device::DeviceId;

/// A point in virtual time: nanoseconds since power-on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(pub u64);

impl Time {
    /// One second in nanoseconds.
    pub const SECOND: u64 = 1_000_000_000;

    /// How many whole ticks of a clock of `hz` have passed since power-on.
    #[must_use]
    pub fn ticks(self, hz: u64) -> u64 {
        (u128::from(self.0) * u128::from(hz) / u128::from(Self::SECOND)) as u64
    }

    /// The earliest time at which [`Time::ticks`] of `hz` is at least `ticks`; saturates at the end of time.
    #[must_use]
    pub fn of_ticks(ticks: u64, hz: u64) -> Self {
        let ns = (u128::from(ticks) * u128::from(Self::SECOND)).div_ceil(u128::from(hz));
        Self(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    /// `self + ns`, saturating.
    #[must_use]
    pub fn plus(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }
}

/// The armed timers of all devices, in the order in which they expire. Ties go to the lower device, then the lower timer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TimerQueue {
    order: BTreeSet<(Time, DeviceId, u32)>,
    armed: BTreeMap<(DeviceId, u32), Time>,
}

impl TimerQueue {
    /// Arms (or moves) timer `id` of `device` to `at`.
    pub fn arm(&mut self, device: DeviceId, id: u32, at: Time) {
        self.cancel(device, id);
        self.order.insert((at, device, id));
        self.armed.insert((device, id), at);
    }

    /// Disarms timer `id` of `device`; nothing happens if it was not armed.
    pub fn cancel(&mut self, device: DeviceId, id: u32) {
        if let Some(at) = self.armed.remove(&(device, id)) {
            self.order.remove(&(at, device, id));
        }
    }

    /// When the next timer expires.
    #[must_use]
    pub fn next(&self) -> Option<Time> {
        self.order.first().map(|&(at, _, _)| at)
    }

    /// Takes the first timer that has expired by `now`.
    pub fn pop(&mut self, now: Time) -> Option<(DeviceId, u32)> {
        let &(at, device, id) = self.order.first()?;
        if at > now {
            return None;
        }
        self.cancel(device, id);
        Some((device, id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_back() {
        for hz in [1, 32_768, 1_193_182, 3_579_545, 1_000_000_000] {
            for n in [0, 1, 2, 3, 1000, 123_456_789] {
                let t = Time::of_ticks(n, hz);
                assert_eq!(t.ticks(hz), n);
                assert!(n == 0 || Time(t.0 - 1).ticks(hz) < n);
            }
        }
    }

    #[test]
    fn timers_expire_in_order() {
        let mut q = TimerQueue::default();
        q.arm(DeviceId(2), 0, Time(50));
        q.arm(DeviceId(1), 7, Time(50));
        q.arm(DeviceId(1), 8, Time(10));
        q.arm(DeviceId(1), 8, Time(60));
        assert_eq!(q.next(), Some(Time(50)));
        assert_eq!(q.pop(Time(49)), None);
        assert_eq!(q.pop(Time(100)), Some((DeviceId(1), 7)));
        assert_eq!(q.pop(Time(100)), Some((DeviceId(2), 0)));
        assert_eq!(q.pop(Time(100)), Some((DeviceId(1), 8)));
        assert_eq!(q.next(), None);
    }
}
