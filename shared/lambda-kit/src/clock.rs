//! The clock: the one place that reads it.

use std::sync::LazyLock;
use std::time::Duration;

use async_trait::async_trait;
use domain::clock::Clock;
use time::OffsetDateTime;

use crate::env;

/// How far ahead of the machine's clock this process lives. Only the local runner sets it, to travel in time.
const AHEAD: &str = "SKYLARK_CLOCK_AHEAD_SECS";

static AHEAD_BY: LazyLock<time::Duration> = LazyLock::new(|| {
    let secs = env::process(AHEAD).and_then(|text| text.parse().ok());
    time::Duration::seconds(secs.unwrap_or_default())
});

/// Now, in UTC.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the edge where the clock enters")]
pub fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc() + *AHEAD_BY
}

/// Now by the machine's clock, which deadlines are told by.
#[cfg(feature = "queue")]
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the edge where the clock enters")]
pub(crate) fn machine() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

/// The machine's clock, for rules that wait.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        now()
    }

    async fn pause(&self, for_how_long: Duration) {
        tokio::time::sleep(for_how_long).await;
    }
}
