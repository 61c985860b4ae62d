//! The bodies of the work queue: doorbells that say where to look, never what to do.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fault::PortFault;
use crate::id::{AppId, EventId, SessionId};
use crate::inbox::Entry;
use crate::session::Session;

/// "There is news here." Ringing twice is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Doorbell {
    /// An inbox entry waits.
    Inbox { app_id: AppId, event_id: EventId, group: String },
    /// A session changed, so its card may have to.
    Card { session_id: SessionId, version: u64 },
}

impl Doorbell {
    #[must_use]
    pub fn for_entry(entry: &Entry) -> Self {
        Self::Inbox { app_id: entry.app_id.clone(), event_id: entry.event_id.clone(), group: entry.group.clone() }
    }

    #[must_use]
    pub fn for_session(session: &Session) -> Self {
        Self::Card { session_id: session.session_id.clone(), version: session.version }
    }

    /// The FIFO message group: what must stay in order.
    #[must_use]
    pub fn group(&self) -> String {
        match self {
            Self::Inbox { app_id, group, .. } => format!("{app_id}.{group}"),
            Self::Card { session_id, .. } => format!("card.{session_id}"),
        }
    }

    /// The FIFO deduplication id: a second ring for the same news within five minutes is dropped by the queue.
    #[must_use]
    pub fn deduplication_id(&self) -> String {
        match self {
            Self::Inbox { app_id, event_id, .. } => format!("{app_id}.{event_id}"),
            Self::Card { session_id, version } => format!("{session_id}.{version}"),
        }
    }
}

/// The work queue.
#[async_trait]
pub trait WorkQueue: Send + Sync {
    /// Rings; durable when it returns.
    async fn ring(&self, bell: &Doorbell) -> Result<(), PortFault>;
}

/// How long a message that failed stays hidden before its `receives + 1`th delivery: 5 s, doubling up to three minutes.
#[must_use]
pub fn redelivery_delay(receives: u32) -> Duration {
    let doublings = receives.saturating_sub(1).min(6);
    Duration::from_secs(5 << doublings).min(Duration::from_secs(180))
}

/// Says when a message that failed comes again; otherwise it waits for as long as the slowest worker may take.
#[async_trait]
pub trait Redelivery: Send + Sync {
    /// Called twice, the later delay counts.
    async fn again_in(&self, receipt_handle: &str, delay: Duration) -> Result<(), PortFault>;
}

/// Evidence of an input that can never succeed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parked {
    /// The function that gave up, as Lambda names it.
    pub function: String,
    /// Every cause, outermost first.
    pub reason: String,
    /// The input as it came.
    pub payload: Value,
}

/// Where evidence is kept.
#[async_trait]
pub trait ParkedQueue: Send + Sync {
    async fn park(&self, parked: &Parked) -> Result<(), PortFault>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redelivery_slows_down_and_outlasts_a_dead_workers_claim() {
        let delays: Vec<u64> = (1..=9).map(|receives| redelivery_delay(receives).as_secs()).collect();
        assert_eq!(delays, [5, 10, 20, 40, 80, 160, 180, 180, 180]);
        let before_the_fifth: u64 = delays.iter().take(4).sum();
        assert!(before_the_fifth > crate::inbox::CLAIM.whole_seconds().unsigned_abs());
    }
}
