//! How often somebody may do something: never more than so many times in any window, however the window lies.

use std::collections::VecDeque;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::fault::{Denial, Fault, PortFault, Remedy};

/// A window is counted in about so many slots: what one record holds, and how late a place becomes free again.
const SLOTS: i64 = 60;

/// At most `count` times in any `window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub count: u32,
    /// Whole seconds, at least one. A key is always used with the same window.
    pub window: Duration,
}

impl Limit {
    #[must_use]
    pub const fn per_minute(count: u32) -> Self {
        Self { count, window: Duration::minutes(1) }
    }

    fn window_secs(self) -> i64 {
        self.window.whole_seconds().max(1)
    }

    fn slot_secs(self) -> i64 {
        (self.window_secs() / SLOTS).max(1)
    }
}

/// What was counted under one key. Within a slot only `count` grows; a new slot begins by moving it to `past`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// When the present slot began, in Unix seconds.
    pub slot: i64,
    /// How often, in the present slot.
    pub count: u32,
    /// Earlier slots of the window, oldest first, and how often in each.
    pub past: VecDeque<(i64, u32)>,
}

/// What counting one more leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    pub usage: Usage,
    /// Whether a slot began: then `past` changed too.
    pub new_slot: bool,
    /// How often at most in this slot, given the past ones: a counter that is below it may grow by one whatever it was when it was read.
    pub room: u32,
}

impl Usage {
    /// Counts one more, or says for how many seconds there is no room.
    pub fn count(before: Option<&Self>, limit: Limit, now: OffsetDateTime) -> Result<Counted, u32> {
        let (width, window) = (limit.slot_secs(), limit.window_secs());
        // Clocks differ a little: time never runs backwards under one key.
        let now_secs = before.map_or(i64::MIN, |usage| usage.slot).max(now.unix_timestamp());
        let slot = now_secs.div_euclid(width) * width;
        // A slot counts until its last moment has left the window.
        let leaves_at = |began: i64| began.saturating_add(width + window);
        let counts = |&(began, _): &(i64, u32)| leaves_at(began) > now_secs;

        let (earlier, present) = match before {
            Some(usage) if usage.slot == slot => (None, usage.count),
            Some(usage) => (Some((usage.slot, usage.count)), 0),
            None => (None, 0),
        };
        let past: VecDeque<(i64, u32)> =
            before.into_iter().flat_map(|usage| usage.past.iter().copied()).chain(earlier).filter(counts).collect();
        let spent = past.iter().fold(0_u32, |sum, (_, count)| sum.saturating_add(*count));
        let room = limit.count.saturating_sub(spent);
        if present < room {
            let new_slot = before.is_none_or(|usage| usage.slot != slot);
            return Ok(Counted { usage: Self { slot, count: present + 1, past }, new_slot, room });
        }
        // There is room again once enough of the oldest have left.
        let mut over = spent.saturating_add(present).saturating_sub(limit.count).saturating_add(1);
        let mut free_at = leaves_at(slot);
        for (began, count) in past {
            if count >= over {
                free_at = leaves_at(began);
                break;
            }
            over -= count;
        }
        Err(u32::try_from(free_at.saturating_sub(now.unix_timestamp()).max(1)).unwrap_or(u32::MAX))
    }

    /// The slots that began at this time or before have left every window that holds `now`.
    #[must_use]
    pub fn forgotten(limit: Limit, now: OffsetDateTime) -> i64 {
        now.unix_timestamp() - limit.slot_secs() - limit.window_secs()
    }
}

/// Counts, for all processes together.
#[async_trait]
pub trait Limiter: Send + Sync {
    /// Counts one more under `key` if there is room. What is refused is not counted; called twice, it counts twice.
    async fn take(&self, key: &str, limit: Limit, now: OffsetDateTime) -> Result<(), LimitFault>;
}

/// Why something may not be done now.
#[derive(Debug, thiserror::Error)]
pub enum LimitFault {
    #[error("too many requests; try again in {retry_after_secs} s")]
    Exhausted { retry_after_secs: u32 },
    #[error("the requests could not be counted")]
    Store(#[from] PortFault),
}

impl Fault for LimitFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Exhausted { retry_after_secs } => {
                Remedy::Deny(Denial::Throttled { retry_after_secs: *retry_after_secs })
            }
            Self::Store(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Exhausted { .. } => "rate_limited",
            Self::Store(fault) => fault.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-21 09:00 UTC);

    /// Counts at each of these times and tells which were admitted; a refusal must hold until just before it said, and end then.
    fn admitted(limit: Limit, times: &[OffsetDateTime]) -> Vec<OffsetDateTime> {
        let mut usage: Option<Usage> = None;
        let mut admitted = Vec::new();
        for now in times {
            match Usage::count(usage.as_ref(), limit, *now) {
                Ok(counted) => {
                    assert!(counted.usage.count <= counted.room);
                    assert!(counted.usage.past.len() as i64 <= SLOTS + 1);
                    usage = Some(counted.usage);
                    admitted.push(*now);
                }
                Err(seconds) => {
                    let wait =
                        |seconds: u32| Usage::count(usage.as_ref(), limit, *now + Duration::seconds(seconds.into()));
                    assert!(wait(seconds).is_ok(), "it said {seconds} s");
                    assert!(wait(seconds - 1).is_err(), "it said {seconds} s");
                }
            }
        }
        admitted
    }

    #[test]
    fn the_edge_of_a_minute_is_no_fresh_start() {
        let limit = Limit::per_minute(60);
        let at = |ms: i64| NOW + Duration::milliseconds(ms);
        let late: Vec<_> = (0..100).map(|n| at(50_000 + n * 100)).collect();
        let early: Vec<_> = (0..100).map(|n| at(60_000 + n * 100)).collect();
        assert_eq!(admitted(limit, &[late.clone(), early].concat()), late[..60]);
        let next: Vec<_> = (0..100).map(|n| at(111_000 + n * 100)).collect();
        assert_eq!(admitted(limit, &[late, next].concat()).len(), 120, "a minute later there is room for all of them");
    }

    #[test]
    fn a_clock_that_lags_counts_into_the_same_slot() {
        let limit = Limit::per_minute(2);
        let first = Usage::count(None, limit, NOW).unwrap();
        assert!(first.new_slot);
        let second = Usage::count(Some(&first.usage), limit, NOW - Duration::seconds(3)).unwrap();
        assert_eq!((second.usage.slot, second.usage.count, second.new_slot), (first.usage.slot, 2, false));
        assert_eq!(Usage::count(Some(&second.usage), limit, NOW - Duration::seconds(3)).unwrap_err(), 64);
    }

    #[test]
    fn a_limit_of_nothing_refuses() {
        assert!(Usage::count(None, Limit::per_minute(0), NOW).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn no_window_holds_more_than_the_limit_and_a_place_comes_back_in_time(
            count in 1_u32..20,
            window in prop::sample::select(vec![1_i64, 7, 60, 90, 3_600]),
            gaps in prop::collection::vec(0_i64..20_000, 1..200),
        ) {
            let limit = Limit { count, window: Duration::seconds(window) };
            let mut now = NOW + Duration::milliseconds(window * 37);
            let mut times = Vec::new();
            for gap in gaps {
                now += Duration::milliseconds(gap * window / 60);
                times.push(now);
            }
            let admitted = admitted(limit, &times);
            let inside = |end: OffsetDateTime, span: Duration| {
                admitted.iter().filter(|at| **at <= end && end - **at < span).count()
            };
            for end in &admitted {
                prop_assert!(inside(*end, limit.window) <= count as usize);
            }
            let longest = limit.window + Duration::seconds(limit.slot_secs() + 1);
            for refused in times.iter().filter(|at| !admitted.contains(at)) {
                prop_assert!(inside(*refused, longest) >= count as usize, "refused with room to spare");
            }
        }
    }
}
