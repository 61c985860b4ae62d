//! What a mapping has done since it started.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of one mapping, written by its pollers and read by anyone.
#[derive(Debug, Default)]
pub struct Counters {
    batches: AtomicU64,
    records: AtomicU64,
    failures: AtomicU64,
    retries: AtomicU64,
    filtered: AtomicU64,
    discarded: AtomicU64,
    lag_ms: AtomicU64,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Invocations, retries among them.
    pub batches: u64,
    /// Records the function accepted.
    pub records: u64,
    /// Invocations that failed in whole or in part.
    pub failures: u64,
    /// Invocations that repeated records of an earlier one, and those that the function's concurrency put off.
    /// A queue's redelivery is not counted here: the queue repeats it, not the mapping.
    pub retries: u64,
    /// Records dropped by the filter criteria.
    pub filtered: u64,
    /// Records given up: sent to the on-failure destination, or lost if there is none.
    pub discarded: u64,
    /// The age in milliseconds of the newest record of the last batch, when the function was called.
    pub last_lag_ms: u64,
}

impl Counters {
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            batches: self.batches.load(Ordering::Relaxed),
            records: self.records.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            filtered: self.filtered.load(Ordering::Relaxed),
            discarded: self.discarded.load(Ordering::Relaxed),
            last_lag_ms: self.lag_ms.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn batch(&self, lag_ms: u64) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.lag_ms.store(lag_ms, Ordering::Relaxed);
    }

    pub(crate) fn accepted(&self, records: usize) {
        add(&self.records, records);
    }

    pub(crate) fn failed(&self) {
        add(&self.failures, 1);
    }

    pub(crate) fn retried(&self) {
        add(&self.retries, 1);
    }

    pub(crate) fn filtered(&self, records: usize) {
        add(&self.filtered, records);
    }

    pub(crate) fn discarded(&self, records: usize) {
        add(&self.discarded, records);
    }
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
}
