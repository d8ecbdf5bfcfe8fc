//! The host clock, and dates as the command line writes them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use softmetal_bus::Time;

/// Holds virtual time to host time: says where virtual time ought to be.
#[derive(Clone, Copy, Debug)]
pub struct HostClock {
    anchor: Instant,
    base: Time,
}

impl HostClock {
    /// A clock that agrees with virtual time `now` at this moment.
    #[must_use]
    pub fn starting(now: Time) -> Self {
        Self { anchor: Instant::now(), base: now }
    }

    /// The virtual time that belongs to this moment.
    #[must_use]
    pub fn target(&self) -> Time {
        self.base.plus(u64::try_from(self.anchor.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// How long the host has to wait until virtual time `at`.
    #[must_use]
    pub fn wait_for(&self, at: Time) -> Duration {
        Duration::from_nanos(at.0.saturating_sub(self.target().0))
    }
}

/// Host time since a moment.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// What has passed.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Seconds since 1970 at this moment (UTC).
#[must_use]
pub fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0))
}

/// A fresh seed from the host's random source (or, without one, from its clock).
#[must_use]
pub fn fresh_seed() -> u64 {
    use std::io::Read;
    let mut bytes = [0; 8];
    match std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes)) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64),
    }
}

/// Seconds since 1970 of a date like `2026-01-01T00:00:00Z` (years 1970 to 2099).
///
/// # Errors
/// A sentence when the text is no such date.
pub fn parse_date(text: &str) -> Result<i64, String> {
    let bad = || format!("`{text}` is not a date like 2026-01-01T00:00:00Z");
    let body = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = body.split_once(['T', ' ']).unwrap_or((body, "00:00:00"));
    let numbers = |s: &str, by: char| -> Option<[i64; 3]> {
        let v: Vec<i64> = s.split(by).map(|p| p.parse::<u32>().ok().map(i64::from)).collect::<Option<_>>()?;
        v.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = numbers(date, '-').zip(numbers(time, ':')).ok_or_else(bad)?;
    let leap = year % 4 == 0;
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let in_range = (1970..2100).contains(&year)
        && (1..=12).contains(&month)
        && (1..=lengths[(month as usize).clamp(1, 12) - 1]).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !in_range {
        return Err(bad());
    }
    let days = (year - 1970) * 365 + (year - 1969) / 4 + lengths[..month as usize - 1].iter().sum::<i64>() + day - 1;
    Ok(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(parse_date("1970-01-01T00:00:00Z"), Ok(0));
        assert_eq!(parse_date("2026-01-01T00:00:00Z"), Ok(1_767_225_600));
        assert_eq!(parse_date("2024-02-29T12:34:56Z"), Ok(1_709_210_096));
        assert_eq!(parse_date("2000-03-01"), Ok(951_868_800));
        for bad in ["", "2023-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-01-01T24:00:00Z", "x-1-1", "2026-0-1"] {
            assert!(parse_date(bad).is_err(), "{bad}");
        }
    }
}
