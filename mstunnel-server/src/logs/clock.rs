//! Wall-clock time as text, in UTC. For people only: nothing is decided by it.

use std::fmt;
use std::time::{Duration, SystemTime};

/// How much of a second is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    Seconds,
    Milliseconds,
}

/// Now, to the millisecond; a clock before 1970 shows 1970.
pub(crate) fn now() -> impl fmt::Display {
    utc(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default(), Precision::Milliseconds)
}

/// The time since 1970 in the form of RFC 3339: `2023-11-14T22:13:20Z`.
///
/// # Source
/// Days to a date by the usual arithmetic of 400-year eras with years from March; the Gregorian
/// calendar repeats after 146,097 days, and 1970-01-01 is day 719,468 of year 0.
pub(crate) fn utc(since_1970: Duration, precision: Precision) -> impl fmt::Display {
    let seconds = since_1970.as_secs();
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let fraction = match precision {
        Precision::Seconds => String::new(),
        Precision::Milliseconds => format!(".{:03}", since_1970.subsec_millis()),
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> String {
        utc(Duration::from_secs(seconds), Precision::Seconds).to_string()
    }

    #[test]
    fn dates_around_leap_days_are_right() {
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn milliseconds_have_three_digits() {
        let shown = utc(Duration::from_millis(7), Precision::Milliseconds).to_string();
        assert_eq!(shown, "1970-01-01T00:00:00.007Z");
    }
}
