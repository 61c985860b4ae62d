//! A circuit breaker: a connector that keeps failing is left alone for a while, longer each time, and then tried by one message.

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

/// So many failures in a row, and the connector counts as down.
pub const TRIPS_AFTER: u32 = 5;

/// How long it is left alone at first, and at most.
const FIRST_PAUSE: Duration = Duration::seconds(10);
const LONGEST_PAUSE: Duration = Duration::minutes(5);

/// How long whoever tries it has, before another one may. Longer than a delivery takes.
pub const PROBE: Duration = Duration::seconds(30);

/// How a connector has been doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// Failures since the last success.
    pub failures: u32,
    /// Until then nobody uses it.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub open_until: Option<OffsetDateTime>,
    /// Grows by one with each change.
    pub version: u64,
}

/// Whether a connector may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Free,
    /// By one, to see whether it works again: whoever stores [`Breaker::probed`] first.
    ToTry,
    /// By nobody before then.
    Closed {
        until: OffsetDateTime,
    },
}

impl Breaker {
    #[must_use]
    pub fn admission(&self, now: OffsetDateTime) -> Admission {
        match self.open_until {
            None => Admission::Free,
            Some(until) if now < until => Admission::Closed { until },
            Some(_) => Admission::ToTry,
        }
    }

    /// While somebody tries it, nobody else does.
    #[must_use]
    pub fn probed(&self, now: OffsetDateTime) -> Self {
        Self { open_until: Some(now + PROBE), version: self.version + 1, ..*self }
    }

    /// After one more failure.
    #[must_use]
    pub fn failed(&self, now: OffsetDateTime) -> Self {
        let failures = self.failures.saturating_add(1);
        let trips = failures.checked_sub(TRIPS_AFTER);
        let open_until = trips.map(|trips| now + (FIRST_PAUSE * 2_i32.pow(trips.min(5))).min(LONGEST_PAUSE));
        Self { failures, open_until, version: self.version + 1 }
    }

    /// After a success; `None` if there is nothing to note.
    #[must_use]
    pub fn mended(&self) -> Option<Self> {
        (self.failures > 0).then(|| Self { failures: 0, open_until: None, version: self.version + 1 })
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-25 09:00 UTC);

    fn after(failures: u32) -> Breaker {
        (0..failures).fold(Breaker::default(), |breaker, _| breaker.failed(NOW))
    }

    #[test]
    fn a_few_failures_are_no_reason_and_many_are() {
        assert_eq!(after(TRIPS_AFTER - 1).admission(NOW), Admission::Free);
        let tripped = after(TRIPS_AFTER);
        assert_eq!(tripped.admission(NOW), Admission::Closed { until: NOW + FIRST_PAUSE });
        assert_eq!(tripped.admission(NOW + FIRST_PAUSE), Admission::ToTry);
    }

    #[test]
    fn one_tries_and_the_others_wait_for_it_no_longer_than_a_delivery_takes() {
        let later = NOW + FIRST_PAUSE;
        let probed = after(TRIPS_AFTER).probed(later);
        assert_eq!(probed.admission(later), Admission::Closed { until: later + PROBE });
        assert_eq!(probed.admission(later + PROBE), Admission::ToTry, "who tried it died");
        assert_eq!(probed.mended().unwrap().admission(later), Admission::Free);
        let again = probed.failed(later);
        assert_eq!(again.admission(later), Admission::Closed { until: later + FIRST_PAUSE * 2 });
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let pauses: Vec<i64> = (TRIPS_AFTER..TRIPS_AFTER + 9)
            .map(|failures| (after(failures).open_until.unwrap() - NOW).whole_seconds())
            .collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300, 300, 300]);
        assert!(after(10_000).open_until.unwrap() - NOW <= LONGEST_PAUSE);
    }

    #[test]
    fn a_success_where_nothing_failed_is_not_worth_a_write() {
        assert_eq!(Breaker::default().mended(), None);
        let mended = after(1).mended().unwrap();
        assert_eq!((mended.failures, mended.version), (0, 2));
    }
}
