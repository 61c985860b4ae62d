//! Which batch a line counts for: how every accepted line is in a table once, whoever dies when, and however often it comes again.
//!
//! A batch is a raw object. Its name, [`BatchId`], holds the hash of its content and is never reused. In this order:
//!
//! 1. The raw object is written. From now on the batch can be carried out by anybody, and always to the same end.
//! 2. Each line is **claimed** for the batch under its own id ([`LineId`]). A claim is written once and never changed: whoever finds a line
//!    claimed by another batch has a duplicate, or a conflict if it says something else.
//! 3. The lines that are the batch's own become rows, or quarantined lines, and are committed under the batch's id; the table knows the
//!    id and takes it once.
//! 4. The batch is **settled**.
//!
//! A worker that dies between 2 and 3 leaves claims of a batch that is in no table. Its lines come again in another batch, which finds
//! them claimed, and then carries out the dead worker's batch before it lets go of its own messages: the raw object is there, the claims
//! say which lines are that batch's, the table takes it once even if its worker is alive after all. So nothing waits for a time-out, and
//! no clock decides anything.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::fault::PortFault;
use crate::lake::Partition;
use crate::lake::source::SourceName;

/// Where raw objects lie.
pub const RAW_PREFIX: &str = "raw/v1/";

/// A batch, by the place of its raw object: `dt=2026-11-21/hh=09/<sha256>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BatchId(String);

impl BatchId {
    /// The batch of this content (by its SHA-256 in hex), whose first event was received at this time.
    pub fn new(first_received_at: OffsetDateTime, sha256: &str) -> Result<Self, NotABatch> {
        let at = first_received_at.to_offset(time::UtcOffset::UTC);
        let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
        Self::parse(format!("dt={year:04}-{month:02}-{day:02}/hh={:02}/{sha256}", at.hour()))
    }

    pub fn parse(text: impl Into<String>) -> Result<Self, NotABatch> {
        let text = text.into();
        let hour = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        let hash = |part: &str| part.len() == 64 && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let mut parts = text.split('/');
        let valid =
            parts.next().and_then(|dt| dt.strip_prefix("dt=")).is_some_and(|day| day.parse::<Partition>().is_ok())
                && parts.next().and_then(|hh| hh.strip_prefix("hh=")).is_some_and(hour)
                && parts.next().is_some_and(hash)
                && parts.next().is_none();
        if valid { Ok(Self(text)) } else { Err(NotABatch) }
    }

    /// The batch of a raw object.
    pub fn of_raw(key: &str) -> Result<Self, NotABatch> {
        let inner = key.strip_prefix(RAW_PREFIX).and_then(|rest| rest.strip_suffix(".jsonl.zst"));
        Self::parse(inner.ok_or(NotABatch)?)
    }

    #[must_use]
    pub fn raw_key(&self) -> String {
        format!("{RAW_PREFIX}{}.jsonl.zst", self.0)
    }

    /// The hash of its content: short, and its own.
    #[must_use]
    pub fn sha256(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for BatchId {
    type Error = NotABatch;

    fn try_from(text: String) -> Result<Self, NotABatch> {
        Self::parse(text)
    }
}

impl From<BatchId> for String {
    fn from(id: BatchId) -> Self {
        id.0
    }
}

/// A text that names no batch.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a batch is named like `dt=2026-11-21/hh=09/<sha256 in hex>`")]
pub struct NotABatch;

/// What a line is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LineId {
    /// A message, wherever it comes from and however often.
    Message { msg_id: String },
    /// What came with one request: a contact, or what could not become a row. A contact is told of again and again and the latest counts,
    /// so that the same words in a later request are a line of their own; what a queue hands out twice is not.
    Delivery { source: SourceName, request_id: String },
}

/// A line that somebody wants to count for their batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub line: LineId,
    /// A hash of what it says, if that is more than its id.
    pub says: String,
}

/// The claim that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The batch that the line counts for.
    pub batch: BatchId,
    pub says: String,
}

/// Who claimed which line, and which batches are in their tables.
#[async_trait]
pub trait Gate: Send + Sync {
    /// Claims each line for `batch` unless it is claimed, and tells which claim stands, in order. Asked again it answers the same until
    /// [`crate::lake::retention::GATE`] has passed. No line is to be named twice.
    async fn claim(&self, batch: &BatchId, claims: &[Claim], now: OffsetDateTime) -> Result<Vec<Claimed>, PortFault>;

    /// Whether the batch is in its tables. "No" may be late.
    async fn is_settled(&self, batch: &BatchId) -> Result<bool, PortFault>;

    /// Says that the batch is in its tables. Called twice, the second call changes nothing.
    async fn settle(&self, batch: &BatchId, now: OffsetDateTime) -> Result<(), PortFault>;
}

/// "Carry out this batch again", on the queue of events. Its raw object is there; what of it is done stays done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchJob {
    pub batch: BatchId,
}

/// Who carries out batches that were left behind.
#[async_trait]
pub trait BatchQueue: Send + Sync {
    /// Asks; durable when it returns. Asked twice, the batch is in its tables once.
    async fn ask_again(&self, job: &BatchJob) -> Result<(), PortFault>;
}

/// What became of a batch's lines: each is one of the three.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub lines_in: u64,
    pub rows: u64,
    pub duplicates: u64,
    pub quarantined: u64,
}

impl Counts {
    /// The law of conservation.
    #[must_use]
    pub fn balance(self) -> bool {
        self.lines_in == self.rows + self.duplicates + self.quarantined
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_batch_is_named_after_its_content_and_its_hour_and_reads_back() {
        let id = BatchId::new(datetime!(2026-11-21 17:59 +8), &"a".repeat(64)).unwrap();
        assert_eq!(id.raw_key(), format!("raw/v1/dt=2026-11-21/hh=09/{}.jsonl.zst", "a".repeat(64)));
        assert_eq!(BatchId::of_raw(&id.raw_key()), Ok(id.clone()));
        assert_eq!(id.sha256(), "a".repeat(64));
        for text in
            ["", "dt=2026-11-21/hh=09", "dt=2026-11-21/hh=9/a", "../x", &format!("{id}/x"), &id.as_str().to_uppercase()]
        {
            assert_eq!(BatchId::parse(text), Err(NotABatch), "{text}");
        }
    }

    #[test]
    fn what_went_in_is_a_row_a_duplicate_or_quarantined() {
        assert!(Counts { lines_in: 6, rows: 3, duplicates: 2, quarantined: 1 }.balance());
        assert!(!Counts { lines_in: 7, rows: 3, duplicates: 2, quarantined: 1 }.balance());
    }
}
