//! SQS: standard and FIFO queues on SQLite, with visibility, redrive, deduplication and the JSON protocol.

use std::collections::BTreeMap;
use std::time::Duration;

/// All queues of one data folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queues {}

/// A message handed to a consumer, as `ReceiveMessage` and an event source mapping see it.
#[derive(Debug, Clone)]
pub struct Received {
    pub message_id: String,
    pub receipt_handle: String,
    pub body: String,
    pub md5_of_body: String,
    /// System attributes: `ApproximateReceiveCount`, `SentTimestamp`, `SenderId`, `ApproximateFirstReceiveTimestamp`, and for
    /// FIFO `MessageGroupId`, `MessageDeduplicationId`, `SequenceNumber`; `AWSTraceHeader` if sent.
    pub attributes: BTreeMap<String, String>,
    pub message_attributes: BTreeMap<String, MessageAttribute>,
}

/// A message attribute: `data_type` is `String`, `Number` or `Binary`, with an optional custom suffix.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MessageAttribute {
    pub data_type: String,
    pub string_value: Option<String>,
    /// Base64, as the JSON protocol carries it.
    pub binary_value: Option<String>,
}

/// A message to send.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    pub body: String,
    pub delay: Option<Duration>,
    pub group_id: Option<String>,
    pub deduplication_id: Option<String>,
    pub message_attributes: BTreeMap<String, MessageAttribute>,
    pub system_attributes: BTreeMap<String, String>,
}
