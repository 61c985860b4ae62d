//! The day that a row belongs to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::{Date, Month, OffsetDateTime, UtcOffset};

/// The years that a message can be from. A clock that says otherwise is wrong, and one folder for each year from 1 to 9999 would be
/// somebody's afternoon.
pub const YEARS: std::ops::RangeInclusive<i32> = 2000..=2099;

/// The partition of a row: the day of its `create_time` in UTC.
///
/// A pure function of the row, so that a row that comes again lands where it was and is found there. UTC, because it is the zone of the
/// times inside the files: a reader who asks for a range of `create_time` prunes days without knowing anything else. People who think
/// in days of Shanghai ask for two days and a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Partition(Date);

impl Partition {
    /// The day of `create_time`, or nothing if its year is none of [`YEARS`].
    #[must_use]
    pub fn of(create_time: OffsetDateTime) -> Option<Self> {
        Self::on(create_time.to_offset(UtcOffset::UTC).date())
    }

    /// The day of a time in Unix seconds.
    #[must_use]
    pub fn of_unix(secs: i64) -> Option<Self> {
        Self::of(OffsetDateTime::from_unix_timestamp(secs).ok()?)
    }

    /// A day, or nothing if its year is none of [`YEARS`].
    #[must_use]
    pub fn on(date: Date) -> Option<Self> {
        YEARS.contains(&date.year()).then_some(Self(date))
    }

    #[must_use]
    pub fn date(self) -> Date {
        self.0
    }

    #[must_use]
    pub fn year(self) -> i32 {
        self.0.year()
    }

    #[must_use]
    pub fn month(self) -> u8 {
        self.0.month().into()
    }

    #[must_use]
    pub fn day(self) -> u8 {
        self.0.day()
    }

    /// The folder of its files in a table: `year=2026/month=11/day=5`.
    #[must_use]
    pub fn folder(self) -> String {
        format!("year={}/month={}/day={}", self.year(), self.month(), self.day())
    }

    /// From the three values that a table's log keeps.
    #[must_use]
    pub fn from_parts(year: i32, month: u8, day: u8) -> Option<Self> {
        Self::on(Date::from_calendar_date(year, Month::try_from(month).ok()?, day).ok()?)
    }

    /// When the day is over.
    #[must_use]
    pub fn ends_at(self) -> OffsetDateTime {
        let next = self.0.next_day().unwrap_or(Date::MAX);
        next.midnight().assume_utc()
    }
}

/// `2026-11-05`.
impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year(), self.month(), self.day())
    }
}

/// A text that is no day of [`YEARS`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a day must be like 2026-11-05, of a year from 2000 to 2099")]
pub struct NotADay;

impl FromStr for Partition {
    type Err = NotADay;

    fn from_str(text: &str) -> Result<Self, NotADay> {
        let mut parts = text.splitn(3, '-');
        let mut next = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits && part.bytes().all(|b| b.is_ascii_digit()));
            part.and_then(|part| part.parse::<u16>().ok())
        };
        let parse = |year: Option<u16>, month: Option<u16>, day: Option<u16>| {
            Self::from_parts(year?.into(), u8::try_from(month?).ok()?, u8::try_from(day?).ok()?)
        };
        parse(next(4), next(2), next(2)).ok_or(NotADay)
    }
}

impl TryFrom<String> for Partition {
    type Error = NotADay;

    fn try_from(text: String) -> Result<Self, NotADay> {
        text.parse()
    }
}

impl From<Partition> for String {
    fn from(partition: Partition) -> Self {
        partition.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::{date, datetime};

    use super::*;

    #[test]
    fn a_day_is_utc_whatever_zone_the_time_is_told_in() {
        let evening = datetime!(2026-11-06 00:30 +8);
        let partition = Partition::of(evening).unwrap();
        assert_eq!(
            (partition.date(), partition.folder().as_str()),
            (date!(2026 - 11 - 05), "year=2026/month=11/day=5")
        );
        assert_eq!(partition.ends_at(), datetime!(2026-11-06 00:00 UTC));
    }

    #[test]
    fn a_year_that_no_message_is_from_has_no_partition() {
        for secs in [-62_135_596_800, 946_684_799, 4_102_444_800, 253_402_300_799, i64::MIN, i64::MAX] {
            assert_eq!(Partition::of_unix(secs), None, "{secs}");
        }
        assert!(Partition::of_unix(946_684_800).is_some() && Partition::of_unix(4_102_444_799).is_some());
    }

    #[test]
    fn a_text_that_is_no_day_is_refused() {
        for text in [
            "",
            "2026",
            "2026-1-05",
            "2026-02-30",
            "1999-12-31",
            "2100-01-01",
            "2026-11-05x",
            "2026-11-+5",
            "２026-11-05",
        ] {
            assert_eq!(text.parse::<Partition>(), Err(NotADay), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_day_reads_back_from_every_form(secs in 946_684_800_i64..4_102_444_800) {
            let partition = Partition::of_unix(secs).unwrap();
            prop_assert_eq!(partition.to_string().parse(), Ok(partition));
            prop_assert_eq!(Partition::from_parts(partition.year(), partition.month(), partition.day()), Some(partition));
            prop_assert!(partition.ends_at().unix_timestamp() > secs && partition.ends_at().unix_timestamp() - secs <= 86_400);
        }
    }
}
