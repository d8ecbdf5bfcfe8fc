//! The proleptic Gregorian calendar.

/// A moment in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DateTime {
    /// 0..=9999.
    pub year: u16,
    /// 1..=12.
    pub month: u8,
    /// 1..=31.
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
    /// 0 = Sunday.
    pub weekday: u8,
}

/// Days before each month of a year that begins in March.
const BEFORE_MONTH: [i64; 12] = [0, 31, 61, 92, 122, 153, 184, 214, 245, 275, 306, 337];
/// Days from 1 March of year 0 to 1 January 1970.
const UNIX_EPOCH: i64 = 719_468;
const DAYS_400_YEARS: i64 = 146_097;

impl DateTime {
    /// Years outside 0..=9999 wrap.
    pub fn from_unix(seconds: i64) -> Self {
        let days = seconds.div_euclid(86_400);
        let of_day = seconds.rem_euclid(86_400);
        let since = days + UNIX_EPOCH;
        let of_era = since.rem_euclid(DAYS_400_YEARS);
        // The leap day is the last of its (March to February) year, century and era.
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let index = BEFORE_MONTH.iter().rposition(|&before| before <= of_year).unwrap_or(0);
        let year = since.div_euclid(DAYS_400_YEARS) * 400 + year_of_era + i64::from(index >= 10);
        Self {
            year: year.rem_euclid(10_000) as u16,
            month: (index + 2) as u8 % 12 + 1,
            day: (of_year - BEFORE_MONTH[index] + 1) as u8,
            hour: (of_day / 3600) as u8,
            minute: (of_day / 60 % 60) as u8,
            second: (of_day % 60) as u8,
            weekday: (days + 4).rem_euclid(7) as u8,
        }
    }

    /// The weekday is ignored; fields beyond their range count on into the next larger one.
    pub fn to_unix(self) -> i64 {
        let month = i64::from(self.month.max(1)) - 1;
        let (year, month) = (i64::from(self.year) + month / 12, month % 12);
        let (year, index) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
        let before = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        let days = before + BEFORE_MONTH[index as usize] + i64::from(self.day) - 1 - UNIX_EPOCH;
        days * 86_400 + i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days() {
        for (unix, year, month, day, weekday) in [
            (0, 1970, 1, 1, 4),
            (951_782_400, 2000, 2, 29, 2),
            (951_868_800, 2000, 3, 1, 3),
            (4_107_542_400, 2100, 3, 1, 1),
            (-1, 1969, 12, 31, 3),
            (1_735_689_599, 2024, 12, 31, 2),
        ] {
            let t = DateTime::from_unix(unix);
            assert_eq!((t.year, t.month, t.day, t.weekday), (year, month, day, weekday), "{unix}");
            assert_eq!(t.to_unix(), unix);
        }
    }

    #[test]
    fn every_day_of_eight_centuries_round_trips() {
        for day in -40_000..253_000 {
            assert_eq!(DateTime::from_unix(day * 86_400 + 4711).to_unix(), day * 86_400 + 4711);
        }
    }
}
