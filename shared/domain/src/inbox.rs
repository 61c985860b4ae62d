//! The inbox: a callback is accepted once, durably, before it is acknowledged, and carried out once.
//!
//! The inbox item is its own outbox. Accepting writes the item and then rings the work queue; the table's stream rings again for
//! every new item. Whoever hears a ring claims the item, so lost, doubled and reordered rings do no harm.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::fault::PortFault;
use crate::id::{AppId, EventId};

/// How long an event is remembered: the vendor's retries span 7.1 hours.
pub const REMEMBERED: Duration = Duration::hours(12);

/// How long a claim holds. A worker that dies leaves the item to the next ring after this; it is longer than the function's time-out.
pub const CLAIM: Duration = Duration::seconds(35);

/// What kind of callback an entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    CardAction,
    Event,
}

/// An accepted callback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub app_id: AppId,
    pub event_id: EventId,
    pub kind: EntryKind,
    /// What must stay in order: entries of one group are worked on one after the other.
    pub group: String,
    /// The decrypted callback as JSON.
    pub payload: String,
    #[serde(with = "time::serde::rfc3339")]
    pub received_at: OffsetDateTime,
}

/// Whether a callback was seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    New,
    Seen,
}

/// What a worker may do with an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It is this worker's until [`CLAIM`] has passed.
    Taken(Entry),
    /// Somebody finished it.
    Done,
    /// Somebody else is at it.
    Busy,
    /// There is no such entry, or it was forgotten after [`REMEMBERED`].
    Missing,
}

/// Where accepted callbacks are kept.
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Keeps the entry. Durable when it returns; the same `(app_id, event_id)` again is [`Acceptance::Seen`] and changes nothing.
    async fn accept(&self, entry: &Entry) -> Result<Acceptance, PortFault>;

    /// Takes the entry for one worker. One of several callers gets [`Claim::Taken`].
    async fn claim(&self, app_id: &AppId, event_id: &EventId, now: OffsetDateTime) -> Result<Claim, PortFault>;

    /// Marks the entry done. Called twice, the second call changes nothing.
    async fn finish(&self, app_id: &AppId, event_id: &EventId) -> Result<(), PortFault>;

    /// Gives a claim back, so that the next ring finds the entry free.
    async fn release(&self, app_id: &AppId, event_id: &EventId) -> Result<(), PortFault>;
}
