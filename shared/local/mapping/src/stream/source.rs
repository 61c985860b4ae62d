//! Reads the stream of a table from the embedded database.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use dynoxide::actions::describe_stream::DescribeStreamRequest;
use dynoxide::actions::get_records::{GetRecordsRequest, Record as StoredRecord};
use dynoxide::actions::get_shard_iterator::GetShardIteratorRequest;
use dynoxide::{Database, DynoxideError};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::arn;

/// What `GetRecords` returns at most.
pub(super) const PAGE: usize = 1000;

/// Why a stream could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("the database refused")]
    Database(#[source] DynoxideError),
    #[error("the database gave no shard iterator")]
    NoIterator,
    #[error("a record is not valid JSON")]
    Record(#[source] serde_json::Error),
    #[error("the reader was cancelled")]
    Cancelled,
}

/// A stream.
#[derive(Clone)]
pub(super) struct Source {
    database: Database,
    stream_arn: String,
}

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) id: String,
    /// `None` while the shard is empty.
    pub(super) last_sequence_number: Option<String>,
}

/// A stream record as the function gets it.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) sequence_number: String,
    pub(super) created_at: OffsetDateTime,
    /// Equal for records of one item.
    pub(super) item_hash: u64,
    pub(super) event: Value,
}

#[derive(Debug)]
pub(super) struct Page {
    pub(super) records: Vec<Record>,
    pub(super) next: String,
}

impl Source {
    pub(super) fn new(database: Database, stream_arn: String) -> Self {
        Self { database, stream_arn }
    }

    pub(super) fn shards(&self) -> Result<Vec<Shard>, SourceError> {
        let request = DescribeStreamRequest { stream_arn: self.stream_arn.clone(), ..Default::default() };
        let description = self.database.describe_stream(request).map_err(SourceError::Database)?.stream_description;
        Ok(description
            .shards
            .into_iter()
            .map(|shard| Shard {
                id: shard.shard_id,
                last_sequence_number: shard.sequence_number_range.ending_sequence_number,
            })
            .collect())
    }

    /// The iterator behind `checkpoint`, or at the oldest record.
    pub(super) async fn iterator(&self, shard: &str, checkpoint: Option<String>) -> Result<String, SourceError> {
        let kind = if checkpoint.is_some() { "AFTER_SEQUENCE_NUMBER" } else { "TRIM_HORIZON" };
        let request = GetShardIteratorRequest {
            stream_arn: self.stream_arn.clone(),
            shard_id: shard.to_owned(),
            shard_iterator_type: kind.to_owned(),
            sequence_number: checkpoint,
        };
        let answer = self.blocking(move |source| source.database.get_shard_iterator(request)).await?;
        answer.map_err(SourceError::Database)?.shard_iterator.ok_or(SourceError::NoIterator)
    }

    pub(super) async fn page(&self, iterator: String) -> Result<Page, SourceError> {
        self.blocking(move |source| {
            let request = GetRecordsRequest { shard_iterator: iterator, limit: Some(PAGE) };
            let answer = source.database.get_records(request).map_err(SourceError::Database)?;
            Ok(Page {
                records: answer.records.iter().map(|record| source.record(record)).collect::<Result<_, _>>()?,
                next: answer.next_shard_iterator.ok_or(SourceError::NoIterator)?,
            })
        })
        .await?
    }

    /// The database answers on the calling thread, after a wait for whoever uses it.
    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, SourceError> {
        let source = self.clone();
        tokio::task::spawn_blocking(move || read(&source)).await.map_err(|_| SourceError::Cancelled)
    }

    fn record(&self, stored: &StoredRecord) -> Result<Record, SourceError> {
        let seconds = stored.dynamodb.approximate_creation_date_time;
        #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
        let created_at = OffsetDateTime::from_unix_timestamp(seconds as i64).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let mut event = serde_json::to_value(stored).map_err(SourceError::Record)?;
        if let Value::Object(fields) = &mut event {
            // The database does not know in which region it stands.
            fields.insert("awsRegion".into(), arn::region(&self.stream_arn).into());
            fields.insert("eventSourceARN".into(), self.stream_arn.as_str().into());
            if let Some(change) = fields.get_mut("dynamodb").and_then(Value::as_object_mut) {
                change.insert("ApproximateCreationDateTime".into(), json!(created_at.unix_timestamp()));
            }
        }
        Ok(Record {
            sequence_number: stored.dynamodb.sequence_number.clone(),
            created_at,
            item_hash: item_hash(stored)?,
            event,
        })
    }
}

fn item_hash(stored: &StoredRecord) -> Result<u64, SourceError> {
    let keys: BTreeMap<_, _> = stored.dynamodb.keys.iter().collect();
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(&keys).map_err(SourceError::Record)?.hash(&mut hasher);
    Ok(hasher.finish())
}
