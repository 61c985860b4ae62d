//! The inbox: a callback is accepted once, durably, before it is acknowledged, and carried out once.
//!
//! The inbox item is its own outbox. Accepting writes the item and then rings the work queue; the table's stream rings again for
//! every new item, and a sweep for every item that stays open. Whoever hears a ring claims the item, so lost, doubled and reordered
//! rings do no harm.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::fault::PortFault;
use crate::id::{AppId, EventId};
use crate::work::{Doorbell, WorkQueue};

/// How long an event that is done is remembered: the vendor's retries span 7.1 hours.
pub const REMEMBERED: Duration = Duration::hours(12);

/// How long an event that is not done is kept: as long as the dead letters of the work queue, so that a redrive finds it.
pub const KEPT: Duration = Duration::days(14);

/// An entry that is still open at this age is rung for again.
pub const RING_AGAIN: Duration = Duration::minutes(1);

/// How many entries one page of the sweep names.
const PAGE: u32 = 100;

/// How many pages one sweep works through; what is left is due at the next one.
const PAGES: usize = 10;

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
    /// `kind` is the index's word.
    #[serde(rename = "callback")]
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
    /// There is no such entry, or it was forgotten after [`REMEMBERED`] or [`KEPT`].
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
    async fn finish(&self, app_id: &AppId, event_id: &EventId, now: OffsetDateTime) -> Result<(), PortFault>;

    /// Gives a claim back, so that the next ring finds the entry free.
    async fn release(&self, app_id: &AppId, event_id: &EventId) -> Result<(), PortFault>;
}

/// What the sweep sees of the inbox.
#[async_trait]
pub trait OpenEntries: Send + Sync {
    /// Some entries that are not done and were due to be rung for by `now`: [`RING_AGAIN`] after they came, or when they were put off
    /// to. At most `limit`.
    async fn unanswered(&self, now: OffsetDateTime, limit: u32) -> Result<Vec<Entry>, PortFault>;

    /// Says when the entry is due next. One that is done by now stays done.
    async fn put_off(&self, app_id: &AppId, event_id: &EventId, until: OffsetDateTime) -> Result<(), PortFault>;
}

/// Rings for entries whose rings were lost, or led to nothing; says for how many. Each is rung for at a minute's age and then whenever its
/// age has doubled: soon for what was merely lost, rarely for what nobody can do. The queue drops what it heard within five minutes.
pub async fn ring_again(
    inbox: &dyn OpenEntries,
    work: &dyn WorkQueue,
    now: OffsetDateTime,
) -> Result<usize, PortFault> {
    let mut rung = 0;
    for _ in 0..PAGES {
        let page = inbox.unanswered(now, PAGE).await?;
        if page.is_empty() {
            break;
        }
        for entry in page {
            work.ring(&Doorbell::for_entry(&entry)).await?;
            let age = (now - entry.received_at).max(RING_AGAIN);
            inbox.put_off(&entry.app_id, &entry.event_id, now + age).await?;
            rung += 1;
        }
    }
    Ok(rung)
}
