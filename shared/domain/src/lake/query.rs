//! What a question to the lake may say, by HTTP and on the command line.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::lake::Partition;

/// How many rows a page has if nothing is said.
pub const PAGE_ROWS: usize = 100;

/// The most that a page has.
pub const MAX_PAGE_ROWS: usize = 10_000;

/// A time, or a day, which stands for its beginning in UTC.
#[must_use]
pub fn instant(text: &str) -> Option<OffsetDateTime> {
    let day = text.parse::<Partition>().ok().map(|day| day.date().midnight().assume_utc());
    day.or_else(|| OffsetDateTime::parse(text, &Rfc3339).ok())
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_time_is_told_to_the_microsecond_or_by_the_day() {
        assert_eq!(instant("2026-11-05"), Some(datetime!(2026-11-05 00:00 UTC)));
        assert_eq!(instant("2026-11-05T08:00:00.000001+08:00"), Some(datetime!(2026-11-05 00:00:00.000001 UTC)));
        for bad in ["", "2026-11-5", "2026-02-30", "2026-11-05T08:00", "2026-11-05T08:00:00", "1793836800", "today"] {
            assert_eq!(instant(bad), None, "{bad}");
        }
    }
}
