//! Object events: who takes them, and the shape S3 gives them.

use std::error::Error;
use std::fmt::Write as _;

use async_trait::async_trait;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

/// Takes the events of objects to their targets.
#[async_trait]
pub trait Notifications: Send + Sync {
    /// Takes one event to one target; it is durable in the bucket's own database until this returns `Ok`.
    ///
    /// An event is brought again after an error and after a crash, so a target may see it more than once; events of one
    /// key come in order unless one of them failed. The sequencer in the event tells the order of a key's events.
    async fn object_event(&self, event: &ObjectEvent) -> Result<(), Box<dyn Error + Send + Sync>>;
}

/// One event for one target.
#[derive(Debug, Clone)]
pub struct ObjectEvent {
    /// The ARN of the queue, function or topic that asked for the event.
    pub target: String,
    pub bucket: String,
    /// Without the prefix `s3:`, such as `ObjectCreated:Put`.
    pub event_name: String,
    /// The message as S3 sends it: `{"Records": [...]}`.
    pub message: Value,
}

/// An event as it waits in the database.
#[derive(Debug, Clone)]
pub(crate) struct QueuedEvent {
    pub(crate) sequence: i64,
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) name: String,
    pub(crate) configuration: String,
    pub(crate) target: String,
    /// The size and ETag of what was created.
    pub(crate) created: Option<(u64, String)>,
    pub(crate) at: OffsetDateTime,
}

impl QueuedEvent {
    pub(crate) fn into_event(self, region: &str) -> ObjectEvent {
        let mut object = json!({ "key": encode_key(&self.key), "sequencer": format!("{:016X}", self.sequence) });
        if let (Some((size, etag)), Some(fields)) = (&self.created, object.as_object_mut()) {
            fields.insert("size".into(), json!(size));
            fields.insert("eTag".into(), json!(etag));
        }
        let at =
            self.at.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"));
        let message = json!({ "Records": [{
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": region,
            "eventTime": at.unwrap_or_default(),
            "eventName": self.name,
            "userIdentity": { "principalId": "AWS:LOCAL" },
            "requestParameters": { "sourceIPAddress": "127.0.0.1" },
            "responseElements": { "x-amz-request-id": format!("{:016X}", self.sequence), "x-amz-id-2": "local" },
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": self.configuration,
                "bucket": {
                    "name": self.bucket,
                    "ownerIdentity": { "principalId": "LOCAL" },
                    "arn": format!("arn:aws:s3:::{}", self.bucket),
                },
                "object": object,
            },
        }]});
        ObjectEvent { target: self.target, bucket: self.bucket, event_name: self.name, message }
    }
}

/// As in an HTML form, except that slashes stay: the way keys stand in S3 events.
fn encode_key(key: &str) -> String {
    percent_encode(key, |byte| matches!(byte, b'.' | b'-' | b'_' | b'*' | b'/')).replace("%20", "+")
}

/// Encodes every byte that is neither an ASCII letter or digit nor `kept`.
pub(crate) fn percent_encode(text: &str, kept: impl Fn(u8) -> bool) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || kept(byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn an_event_has_the_shape_and_the_key_encoding_of_s3() {
        let event = QueuedEvent {
            sequence: 255,
            bucket: "b".into(),
            key: "dir/red flower+é 💬.txt".into(),
            name: "ObjectCreated:Put".into(),
            configuration: "c".into(),
            target: "arn:aws:sqs:us-east-1:000000000000:q".into(),
            created: Some((3, "abc".into())),
            at: datetime!(2026-01-02 03:04:05.678 UTC),
        }
        .into_event("us-east-1");
        let record = &event.message["Records"][0];
        assert_eq!(record["eventTime"], "2026-01-02T03:04:05.678Z");
        assert_eq!(record["s3"]["object"]["key"], "dir/red+flower%2B%C3%A9+%F0%9F%92%AC.txt");
        assert_eq!(record["s3"]["object"]["size"], 3);
        assert_eq!(record["s3"]["object"]["sequencer"], "00000000000000FF");
        assert_eq!(record["s3"]["bucket"]["arn"], "arn:aws:s3:::b");
    }
}
