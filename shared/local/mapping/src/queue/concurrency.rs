//! How many batches of a queue are with the function at once.

use std::time::Duration;

use tokio::time::Instant;

/// Lambda begins with five batches.
const FIRST: usize = 5;
/// It adds up to 300 a minute while all are busy.
const GROWTH: Duration = Duration::from_millis(200);
/// And ends at this many, unless `MaximumConcurrency` says less.
const CEILING: usize = 1250;
/// It takes some away when batches fail, but not all.
const FLOOR: usize = 2;

#[derive(Debug)]
pub(super) struct Concurrency {
    limit: usize,
    ceiling: usize,
    /// When it last changed.
    changed_at: Instant,
}

impl Concurrency {
    pub(super) fn new(maximum: Option<u32>) -> Self {
        let ceiling = maximum.map_or(CEILING, |maximum| usize::try_from(maximum).unwrap_or(CEILING).min(CEILING));
        Self { limit: FIRST.min(ceiling), ceiling, changed_at: Instant::now() }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Returns when one more batch is allowed, never at the ceiling. To be awaited while the limit is reached.
    pub(super) async fn grown(&mut self) {
        if self.limit >= self.ceiling {
            return std::future::pending().await;
        }
        tokio::time::sleep_until(self.changed_at + GROWTH).await;
        self.limit += 1;
        self.changed_at = Instant::now();
    }

    /// A batch is settled; one that failed halves the limit.
    pub(super) fn settled(&mut self, healthy: bool) {
        if !healthy {
            self.limit = (self.limit / 2).max(FLOOR);
            self.changed_at = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_grows_while_busy_and_shrinks_on_failures() {
        let mut concurrency = Concurrency::new(None);
        assert_eq!(concurrency.limit(), 5);
        concurrency.grown().await;
        assert_eq!(concurrency.limit(), 6);
        concurrency.settled(true);
        assert_eq!(concurrency.limit(), 6);
        for expected in [3, 2, 2] {
            concurrency.settled(false);
            assert_eq!(concurrency.limit(), expected);
        }
    }

    #[tokio::test]
    async fn it_stays_within_the_maximum_concurrency() {
        let mut concurrency = Concurrency::new(Some(2));
        assert_eq!(concurrency.limit(), 2);
        let grown = tokio::time::timeout(GROWTH * 3, concurrency.grown()).await;
        assert!(grown.is_err());
        concurrency.settled(false);
        assert_eq!(concurrency.limit(), 2);
    }
}
