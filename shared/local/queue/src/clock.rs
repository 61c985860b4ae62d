//! The clock behind visibility, delays, deduplication and retention.

use std::fmt::Debug;
use std::sync::atomic::{AtomicI64, Ordering};

/// Reads the time in milliseconds since the Unix epoch. Must never go back.
pub trait Clock: Debug + Send + Sync {
    fn now_ms(&self) -> i64;
}

/// The machine's clock, held still while the machine's own time steps back.
#[derive(Debug, Default)]
pub struct SystemClock(AtomicI64);

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        #[expect(clippy::disallowed_methods, reason = "the one place where this crate reads the time")]
        let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        self.0.fetch_max(now, Ordering::Relaxed).max(now)
    }
}

/// A clock that moves only when told to, for tests of windows that last minutes or days.
///
/// A long poll that is already waiting sleeps in real time: advance first, then receive.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    #[must_use]
    pub fn at(now_ms: i64) -> Self {
        Self(AtomicI64::new(now_ms))
    }

    pub fn advance(&self, by: std::time::Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}
