//! Time, for the rules that have to wait.

use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;

/// The clock. In tests it moves when somebody pauses.
#[async_trait]
pub trait Clock: Send + Sync {
    fn now(&self) -> OffsetDateTime;

    async fn pause(&self, for_how_long: Duration);
}
