//! Time and ids that a test controls.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use domain::clock::Clock;
use domain::id::{Ids, SessionId};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::sample;

/// A clock that goes with tokio's, from [`sample::NOW`] on, and jumps when told to. In tests with `start_paused` waiting takes no time.
#[derive(Debug)]
pub struct ManualClock {
    started: Instant,
    jumped: Mutex<time::Duration>,
}

impl Default for ManualClock {
    fn default() -> Self {
        Self { started: Instant::now(), jumped: Mutex::default() }
    }
}

impl ManualClock {
    pub fn advance(&self, by: time::Duration) {
        *self.jumped.lock().unwrap() += by;
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> OffsetDateTime {
        sample::NOW + self.started.elapsed() + *self.jumped.lock().unwrap()
    }

    async fn pause(&self, for_how_long: Duration) {
        tokio::time::sleep(for_how_long).await;
    }
}

/// Ids from 1000 on, one after the other.
#[derive(Debug)]
pub struct CountingIds(AtomicU32);

impl Default for CountingIds {
    fn default() -> Self {
        Self(AtomicU32::new(1000))
    }
}

impl Ids for CountingIds {
    fn session_id(&self) -> SessionId {
        sample::session_id(self.0.fetch_add(1, Ordering::SeqCst))
    }
}
