//! The clock and the random ids of this crate.

use time::OffsetDateTime;

/// The current time, for lag, record age and what is due.
#[expect(clippy::disallowed_methods, reason = "the one place where this crate reads the clock")]
pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// Milliseconds from `earlier` to now; zero if the clock was set back since.
pub(crate) fn millis_since(earlier: OffsetDateTime) -> u64 {
    u64::try_from((now() - earlier).whole_milliseconds()).unwrap_or(0)
}

/// An id that is new for ever: of a mapping, an event, a failure record.
#[expect(clippy::disallowed_methods, reason = "the one place where this crate draws an id")]
pub(crate) fn random_uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}
