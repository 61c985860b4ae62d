//! A received message as the function gets it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use local_queue::pattern::Pattern;
use local_queue::sqs::{MessageAttribute, Received};
use md5::{Digest, Md5};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::arn;

#[derive(Debug)]
pub(super) struct Message {
    received: Received,
    received_at: Instant,
    /// The event record.
    record: Value,
    json: String,
}

impl Message {
    pub(super) fn new(received: Received, queue_arn: &str, received_at: Instant) -> Self {
        let record = record(&received, queue_arn);
        Self { json: record.to_string(), record, received, received_at }
    }

    pub(super) fn id(&self) -> &str {
        &self.received.message_id
    }

    pub(super) fn receipt_handle(&self) -> &str {
        &self.received.receipt_handle
    }

    pub(super) fn json(&self) -> &str {
        &self.json
    }

    pub(super) fn bytes(&self) -> usize {
        self.json.len()
    }

    pub(super) fn received_at(&self) -> Instant {
        self.received_at
    }

    /// The message group of a FIFO queue.
    pub(super) fn group(&self) -> Option<&str> {
        // Standard queues carry a group too, for fairness, which orders nothing.
        self.received.attributes.get("SequenceNumber")?;
        self.received.attributes.get("MessageGroupId").map(String::as_str)
    }

    pub(super) fn sent_at(&self) -> OffsetDateTime {
        let sent_ms = self.received.attributes.get("SentTimestamp").and_then(|sent| sent.parse::<i128>().ok());
        let sent_at = sent_ms.and_then(|ms| OffsetDateTime::from_unix_timestamp_nanos(ms * 1_000_000).ok());
        sent_at.unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// Filters see a body that is a JSON object as that object, any other body as a string.
    pub(super) fn passes(&self, filters: &[Pattern]) -> bool {
        if filters.is_empty() {
            return true;
        }
        let mut view = self.record.clone();
        if let (Ok(body @ Value::Object(_)), Some(fields)) =
            (serde_json::from_str(&self.received.body), view.as_object_mut())
        {
            fields.insert("body".into(), body);
        }
        filters.iter().any(|filter| filter.matches(&view))
    }
}

fn record(received: &Received, queue_arn: &str) -> Value {
    let attributes = &received.message_attributes;
    let message_attributes: Map<_, _> =
        attributes.iter().map(|(name, attribute)| (name.clone(), attribute_json(attribute))).collect();
    let mut record = json!({
        "messageId": received.message_id,
        "receiptHandle": received.receipt_handle,
        "body": received.body,
        "attributes": received.attributes,
        "messageAttributes": message_attributes,
        "md5OfBody": received.md5_of_body,
        "eventSource": "aws:sqs",
        "eventSourceARN": queue_arn,
        "awsRegion": arn::region(queue_arn),
    });
    if let Some(fields) = record.as_object_mut().filter(|_| !attributes.is_empty()) {
        fields.insert("md5OfMessageAttributes".into(), md5_of(received).into());
    }
    record
}

fn attribute_json(attribute: &MessageAttribute) -> Value {
    let mut fields = Map::new();
    if let Some(value) = &attribute.string_value {
        fields.insert("stringValue".into(), value.as_str().into());
    }
    if let Some(value) = &attribute.binary_value {
        fields.insert("binaryValue".into(), value.as_str().into());
    }
    fields.insert("stringListValues".into(), json!([]));
    fields.insert("binaryListValues".into(), json!([]));
    fields.insert("dataType".into(), attribute.data_type.as_str().into());
    Value::Object(fields)
}

/// SQS's digest of message attributes: sorted by name, each part behind its length.
fn md5_of(received: &Received) -> String {
    let mut digest = Md5::new();
    let mut put = |bytes: &[u8], kind: Option<u8>| {
        digest.update(kind.as_slice());
        digest.update(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        digest.update(bytes);
    };
    for (name, attribute) in &received.message_attributes {
        put(name.as_bytes(), None);
        put(attribute.data_type.as_bytes(), None);
        match &attribute.binary_value {
            Some(binary) => put(&STANDARD.decode(binary).unwrap_or_default(), Some(2)),
            None => put(attribute.string_value.as_deref().unwrap_or_default().as_bytes(), Some(1)),
        }
    }
    hex::encode(digest.finalize())
}
