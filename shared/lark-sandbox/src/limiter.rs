//! Request quotas: fixed windows of a second and a minute, per key, kept in memory.

use std::collections::HashMap;

use crate::clock::{MINUTE, SECOND, seconds_left};

/// What one key may do; `None` is no limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quota {
    pub(crate) per_second: Option<u32>,
    pub(crate) per_minute: Option<u32>,
}

impl Quota {
    pub(crate) const fn per_second(count: u32) -> Self {
        Self { per_second: Some(count), per_minute: None }
    }
}

/// The window that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted {
    pub(crate) limit: u32,
    pub(crate) reset_secs: i64,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    ends_at: i64,
    used: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Limiter {
    windows: HashMap<(String, i64), Window>,
}

impl Limiter {
    /// Takes one request out of every window of `key`, or none and says which window is full.
    pub(crate) fn take(&mut self, now: i64, key: &str, quota: Quota) -> Result<(), Exhausted> {
        if self.windows.len() > 10_000 {
            self.windows.retain(|_, window| window.ends_at > now);
        }
        let windows = [(SECOND, quota.per_second), (MINUTE, quota.per_minute)];
        let limits = || windows.iter().filter_map(|(length, limit)| limit.map(|limit| (*length, limit)));
        for (length, limit) in limits() {
            let window = self.window(now, key, length);
            if window.used >= limit {
                return Err(Exhausted { limit, reset_secs: seconds_left(now, window.ends_at).max(1) });
            }
        }
        for (length, _) in limits() {
            self.window(now, key, length).used += 1;
        }
        Ok(())
    }

    fn window(&mut self, now: i64, key: &str, length: i64) -> &mut Window {
        let fresh = Window { ends_at: now + length, used: 0 };
        let window = self.windows.entry((key.to_owned(), length)).or_insert(fresh);
        if window.ends_at <= now {
            *window = fresh;
        }
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { per_second: Some(2), per_minute: Some(3) };

    #[test]
    fn the_full_window_is_named_and_a_refused_request_costs_nothing() {
        let mut limiter = Limiter::default();
        assert_eq!(limiter.take(0, "a", QUOTA), Ok(()));
        assert_eq!(limiter.take(10, "a", QUOTA), Ok(()));
        assert_eq!(limiter.take(20, "a", QUOTA), Err(Exhausted { limit: 2, reset_secs: 1 }));
        assert_eq!(limiter.take(20, "b", QUOTA), Ok(()));
        assert_eq!(limiter.take(1_000, "a", QUOTA), Ok(()));
        assert_eq!(limiter.take(2_500, "a", QUOTA), Err(Exhausted { limit: 3, reset_secs: 58 }));
        assert_eq!(limiter.take(60_000, "a", QUOTA), Ok(()));
    }
}
