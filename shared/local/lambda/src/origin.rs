//! The clock and the randomness of this crate: the only place that reads either.

use time::OffsetDateTime;
use uuid::Uuid;

#[expect(
    clippy::disallowed_methods,
    reason = "a runner of real processes lives by the real clock; this is its one reading"
)]
pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

pub(crate) fn now_ms() -> i64 {
    to_ms(now())
}

pub(crate) fn to_ms(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

#[expect(
    clippy::disallowed_methods,
    reason = "request and environment ids are random, as Lambda's are; made here alone"
)]
pub(crate) fn new_id() -> Uuid {
    Uuid::new_v4()
}
