//! The bodies of the work queue: doorbells that say where to look, never what to do.

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

/// Evidence of an input that can never succeed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parked {
    /// The function that gave up.
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
