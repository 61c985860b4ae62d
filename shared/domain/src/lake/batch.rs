//! Which batch a line counts for: how every accepted line is in a table once, whoever dies when, and however often it comes again.
//!
//! A batch is a raw object. Its name, [`BatchId`], holds the hash of its content and is never reused. In this order:
//!
//! 1. The raw object is written. From now on the batch can be carried out by anybody, and always to the same end.
//! 2. Each line is **claimed** for the batch under the line's own id ([`LineId`]). A claim is written once and never changed: whoever
//!    finds a line claimed by another batch has a duplicate.
//! 3. The lines that are the batch's own become rows, or quarantined lines, and are committed under the batch's id; the table knows the
//!    id and takes it once.
//! 4. The batch is **settled**.
//!
//! A worker that dies between 2 and 3 leaves claims of a batch that is in no table. Its lines come again in another batch, which finds
//! them claimed, and then carries out the dead worker's batch before it lets go of its own messages: the raw object is there, the claims
//! say which lines are that batch's, the table takes it once even if its worker is alive after all. So nothing waits for a time-out, and
//! no clock decides anything.

use std::collections::HashSet;
use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::fault::PortFault;
use crate::lake::Partition;

/// Where raw objects lie.
pub const RAW_PREFIX: &str = "raw/v1/";

/// Where lines lie that could not become rows.
pub const QUARANTINE_PREFIX: &str = "quarantine/v1/";

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

/// What makes two lines the same line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LineId {
    /// A message, wherever it comes from and however often.
    Message { msg_id: String },
    /// One delivery of a contact. What is new of a person is a line of its own even if it says what an earlier one said: the latest counts.
    Contact { username: String, delivery: String },
    /// One delivery of what could not become a row.
    Bad { delivery: String },
}

/// Who claimed which line, and which batches are in their tables.
#[async_trait]
pub trait Gate: Send + Sync {
    /// Claims each line for `batch` unless it is claimed, and tells whose each is, in order. Asked again it answers the same until
    /// [`crate::lake::retention::GATE`] has passed. A line that is named twice is claimed once.
    async fn claim(&self, batch: &BatchId, lines: &[LineId], now: OffsetDateTime) -> Result<Vec<BatchId>, PortFault>;

    /// Whether the batch is in its tables. "No" may be late.
    async fn is_settled(&self, batch: &BatchId) -> Result<bool, PortFault>;

    /// Says that the batch is in its tables. Called twice, the second call changes nothing.
    async fn settle(&self, batch: &BatchId, now: OffsetDateTime) -> Result<(), PortFault>;
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

/// Of each line whether it is the batch's own: claimed for it, and the first of its id within the batch.
#[must_use]
pub fn own_lines(batch: &BatchId, lines: &[LineId], owners: &[BatchId]) -> Vec<bool> {
    let mut seen = HashSet::with_capacity(lines.len());
    lines.iter().zip(owners).map(|(line, owner)| seen.insert(line) && owner == batch).collect()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn batch(digit: char) -> BatchId {
        BatchId::new(datetime!(2026-11-21 17:59 +8), &digit.to_string().repeat(64)).unwrap()
    }

    #[test]
    fn a_batch_is_named_after_its_content_and_its_hour_and_reads_back() {
        let id = batch('a');
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
    fn the_first_of_a_batchs_own_lines_counts_and_nobody_elses() {
        let line = |n: u8| LineId::Message { msg_id: n.to_string() };
        let (lines, owners) = (vec![line(1), line(2), line(1), line(3)], ['a', 'b', 'a', 'a'].map(batch).to_vec());
        assert_eq!(own_lines(&batch('a'), &lines, &owners), [true, false, false, true]);
    }

    #[test]
    fn what_went_in_is_a_row_a_duplicate_or_quarantined() {
        assert!(Counts { lines_in: 6, rows: 3, duplicates: 2, quarantined: 1 }.balance());
        assert!(!Counts { lines_in: 7, rows: 3, duplicates: 2, quarantined: 1 }.balance());
    }
}
