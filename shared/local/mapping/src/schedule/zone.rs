//! Local times of a time zone.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use time::OffsetDateTime;

/// An IANA time zone, with its daylight saving rules.
#[derive(Debug, Clone)]
pub(super) struct Zone(TimeZone);

impl Zone {
    pub(super) fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        TimeZone::get(name).ok().map(Self)
    }

    /// What the clocks show at `instant`.
    pub(super) fn local(&self, instant: OffsetDateTime) -> Option<DateTime> {
        let nanosecond = i32::try_from(instant.nanosecond()).ok()?;
        let timestamp = Timestamp::new(instant.unix_timestamp(), nanosecond).ok()?;
        Some(self.0.to_datetime(timestamp))
    }

    /// When the clocks show `local`: the first time if they do twice, `None` if they never do.
    pub(super) fn instant(&self, local: DateTime) -> Option<OffsetDateTime> {
        let offset = match self.0.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset,
            AmbiguousOffset::Fold { before, .. } => before,
            AmbiguousOffset::Gap { .. } => return None,
        };
        let timestamp = offset.to_timestamp(local).ok()?;
        OffsetDateTime::from_unix_timestamp_nanos(timestamp.as_nanosecond()).ok()
    }
}
