//! What becomes of records that are given up: AWS's failure record, and where it goes.

use bytes::Bytes;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::{DestinationError, Destinations, StreamError, StreamMapping};
use crate::arn;
use crate::clock::random_uuid;

const SECONDS: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
const MILLISECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
const KEY: &[BorrowedFormatItem<'_>] =
    format_description!("[year]/[month]/[day]/[year]-[month]-[day]T[hour].[minute].[second]");

/// An `OnFailure` destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    /// By ARN; gets the metadata.
    Queue(String),
    /// By name; gets the metadata and the records.
    Bucket(String),
}

/// Why records are given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    RetryAttemptsExhausted,
    RecordAgeExceeded,
}

/// A batch that is given up.
#[derive(Debug)]
pub(super) struct Discarded<'a> {
    pub(super) mapping: &'a StreamMapping,
    pub(super) uuid: &'a str,
    pub(super) shard: &'a str,
    pub(super) condition: Condition,
    /// How often the function was called with the batch.
    pub(super) invocations: u32,
    /// Whether the last call ended in a function error; `None` if there was none.
    pub(super) function_error: Option<bool>,
    pub(super) first: (&'a str, OffsetDateTime),
    pub(super) last: (&'a str, OffsetDateTime),
    pub(super) count: usize,
    /// The event the function was called with.
    pub(super) event: Bytes,
    pub(super) now: OffsetDateTime,
}

/// A failure record ready to be delivered, as often as it takes.
#[derive(Debug)]
pub(super) enum Delivery {
    Message { queue_arn: String, body: String },
    Object { bucket: String, key: String, body: Bytes },
}

impl Destination {
    pub(super) fn parse(arn: &str) -> Result<Self, StreamError> {
        if let Some(bucket) = arn.strip_prefix("arn:aws:s3:::").filter(|bucket| !bucket.is_empty()) {
            return Ok(Self::Bucket(bucket.into()));
        }
        if arn.starts_with("arn:aws:sqs:") {
            return Ok(Self::Queue(arn.into()));
        }
        Err(StreamError::UnknownDestination(arn.into()))
    }
}

impl Discarded<'_> {
    pub(super) fn delivery(&self, destination: &Destination) -> Delivery {
        let mut record = self.record();
        match destination {
            Destination::Queue(queue_arn) => {
                Delivery::Message { queue_arn: queue_arn.clone(), body: record.to_string() }
            }
            Destination::Bucket(bucket) => {
                if let Value::Object(fields) = &mut record {
                    fields.insert("payload".into(), String::from_utf8_lossy(&self.event).into());
                }
                Delivery::Object { bucket: bucket.clone(), key: self.key(), body: record.to_string().into() }
            }
        }
    }

    fn record(&self) -> Value {
        let StreamMapping { function, stream_arn, .. } = self.mapping;
        let (region, account) = (arn::region(stream_arn), arn::account(stream_arn));
        json!({
            "requestContext": {
                "requestId": random_uuid(),
                "functionArn": format!("arn:aws:lambda:{region}:{account}:function:{function}"),
                "condition": match self.condition {
                    Condition::RetryAttemptsExhausted => "RetryAttemptsExhausted",
                    Condition::RecordAgeExceeded => "RecordAgeExceeded",
                },
                "approximateInvokeCount": self.invocations,
            },
            "responseContext": self.function_error.map(|unhandled| {
                let mut context = json!({"statusCode": 200, "executedVersion": "$LATEST"});
                if let Some(fields) = context.as_object_mut().filter(|_| unhandled) {
                    fields.insert("functionError".into(), "Unhandled".into());
                }
                context
            }),
            "version": "1.0",
            "timestamp": written(self.now, MILLISECONDS),
            "DDBStreamBatchInfo": {
                "shardId": self.shard,
                "startSequenceNumber": self.first.0,
                "endSequenceNumber": self.last.0,
                "approximateArrivalOfFirstRecord": written(self.first.1, SECONDS),
                "approximateArrivalOfLastRecord": written(self.last.1, SECONDS),
                "batchSize": self.count,
                "streamArn": stream_arn,
            },
        })
    }

    /// `aws/lambda/<mapping>/<shard>/YYYY/MM/DD/YYYY-MM-DDTHH.MM.SS-<uuid>`.
    fn key(&self) -> String {
        format!("aws/lambda/{}/{}/{}-{}", self.uuid, self.shard, written(self.now, KEY), random_uuid())
    }
}

impl Delivery {
    pub(super) async fn attempt(&self, destinations: &dyn Destinations) -> Result<(), DestinationError> {
        match self {
            Self::Message { queue_arn, body } => destinations.send_message(queue_arn, body.clone()).await,
            Self::Object { bucket, key, body } => destinations.put_object(bucket, key, body.clone()).await,
        }
    }
}

/// These formats have no part that can fail.
fn written(at: OffsetDateTime, format: &[BorrowedFormatItem<'_>]) -> String {
    at.format(format).unwrap_or_default()
}
