//! The clock: the one place that reads it.

use time::OffsetDateTime;

/// Now, in UTC.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the edge where the clock enters")]
pub fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
