//! Sandbox time and randomness: the one place where either enters the crate.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

pub(crate) const SECOND: i64 = 1_000;
pub(crate) const MINUTE: i64 = 60 * SECOND;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

/// The machine's clock plus an offset that `POST /sandbox/clock` moves forward.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    offset_ms: AtomicI64,
}

impl Clock {
    pub(crate) fn now_ms(&self) -> i64 {
        #[expect(
            clippy::disallowed_methods,
            reason = "the sandbox is the edge: it owns the clock it plays the vendor by"
        )]
        let since_epoch = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX).saturating_add(self.offset_ms())
    }

    pub(crate) fn offset_ms(&self) -> i64 {
        self.offset_ms.load(Ordering::SeqCst)
    }

    /// Sets the offset unless it is further ahead already: sandbox time never runs backwards.
    pub(crate) fn advance_to(&self, offset_ms: i64) {
        self.offset_ms.fetch_max(offset_ms, Ordering::SeqCst);
    }
}

/// Whole seconds left from `now` to `until`, rounded up, never negative.
pub(crate) fn seconds_left(now_ms: i64, until_ms: i64) -> i64 {
    until_ms.saturating_sub(now_ms).max(0).saturating_add(SECOND - 1) / SECOND
}

/// RFC 3339 in UTC, as every time on the sandbox side is written.
pub(crate) fn rfc3339(at_ms: i64) -> String {
    instant(at_ms).format(&Rfc3339).unwrap_or_default()
}

/// The vendor's request id: the second it was made, then something unique.
pub(crate) fn log_id(at_ms: i64) -> String {
    let second =
        instant(at_ms).format(format_description!("[year][month][day][hour][minute][second]")).unwrap_or_default();
    format!("{second}{}", random_hex::<10>().to_uppercase())
}

fn instant(at_ms: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::RngCore::fill_bytes(&mut rand::rng(), &mut bytes);
    bytes
}

/// `2 * N` lower-case hexadecimal digits.
pub(crate) fn random_hex<const N: usize>() -> String {
    hex::encode(random_bytes::<N>())
}

pub(crate) fn random_base64url<const N: usize>() -> String {
    URL_SAFE_NO_PAD.encode(random_bytes::<N>())
}

/// True in `percent` of 100 calls.
pub(crate) fn happens(percent: u8) -> bool {
    rand::random_range(0..100_u8) < percent
}
