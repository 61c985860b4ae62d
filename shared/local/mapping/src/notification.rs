//! S3 notifications: which target gets the event of an object.

use bytes::Bytes;
use serde_json::Value;

use crate::AsyncInvoker;

/// One entry of a bucket's `NotificationConfiguration`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Notification {
    pub bucket: String,
    /// `s3:ObjectCreated:Put` or `s3:ObjectCreated:*`.
    pub events: Vec<String>,
    pub prefix: Option<String>,
    pub suffix: Option<String>,
    /// The ARN of a function or a queue.
    pub target: String,
}

/// The notifications of all buckets, at most one for each event of an object.
#[derive(Debug, Clone, Default)]
pub struct S3Notifications(Vec<S3Notification>);

/// Why a notification configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum NotificationError {
    #[error("bucket `{bucket}`: `{event}` is not an S3 event type")]
    UnknownEvent { bucket: String, event: String },
    #[error("bucket `{bucket}`: a notification for `{target}` has no events")]
    NoEvents { bucket: String, target: String },
    /// S3's `Configuration is ambiguously defined`.
    #[error(
        "bucket `{bucket}`: the notifications for `{first}` and `{second}` overlap; two rules cannot have overlapping \
         prefixes and overlapping suffixes for the same event type"
    )]
    Ambiguous { bucket: String, first: String, second: String },
}

impl S3Notifications {
    pub fn new(notifications: Vec<S3Notification>) -> Result<Self, NotificationError> {
        for (index, notification) in notifications.iter().enumerate() {
            let S3Notification { bucket, events, target, .. } = notification;
            if events.is_empty() {
                return Err(NotificationError::NoEvents { bucket: bucket.clone(), target: target.clone() });
            }
            if let Some(event) = events.iter().find(|event| !is_event_type(event)) {
                return Err(NotificationError::UnknownEvent { bucket: bucket.clone(), event: event.clone() });
            }
            if let Some(other) = notifications.iter().take(index).find(|other| other.overlaps(notification)) {
                return Err(NotificationError::Ambiguous {
                    bucket: bucket.clone(),
                    first: other.target.clone(),
                    second: target.clone(),
                });
            }
        }
        Ok(Self(notifications))
    }

    /// The target of an event; `event` as a record's `eventName` has it (`ObjectCreated:Put`), `key` not URL-encoded.
    #[must_use]
    pub fn target(&self, bucket: &str, event: &str, key: &str) -> Option<&str> {
        let matching = self.0.iter().find(|it| it.bucket == bucket && it.matches(event, key));
        matching.map(|notification| notification.target.as_str())
    }

    /// The target of an S3 event message, `{"Records": [..]}` with one record, as S3 sends it.
    #[must_use]
    pub fn route(&self, event: &Value) -> Option<&str> {
        let record = event.get("Records")?.get(0)?;
        let bucket = record.pointer("/s3/bucket/name")?.as_str()?;
        let key = decoded(record.pointer("/s3/object/key")?.as_str()?);
        self.target(bucket, record.get("eventName")?.as_str()?, &key)
    }

    /// Hands an S3 event message to its target, if it has one. Returns whether it has.
    pub async fn dispatch(&self, event: &Value, invoker: &dyn AsyncInvoker) -> bool {
        let Some(target) = self.route(event) else { return false };
        invoker.hand_over(target, Bytes::from(event.to_string())).await;
        true
    }
}

impl S3Notification {
    fn matches(&self, event: &str, key: &str) -> bool {
        self.events.iter().any(|wanted| event_matches(wanted, event))
            && key.starts_with(self.prefix())
            && key.ends_with(self.suffix())
    }

    /// Whether S3 takes the two for ambiguous; it does not ask whether some key really matches both.
    fn overlaps(&self, other: &Self) -> bool {
        let events_overlap = self.events.iter().any(|event| {
            other.events.iter().any(|wanted| event_matches(wanted, event) || event_matches(event, wanted))
        });
        let (p, q) = (self.prefix(), other.prefix());
        let (s, t) = (self.suffix(), other.suffix());
        self.bucket == other.bucket
            && events_overlap
            && (p.starts_with(q) || q.starts_with(p))
            && (s.ends_with(t) || t.ends_with(s))
    }

    fn prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or_default()
    }

    fn suffix(&self) -> &str {
        self.suffix.as_deref().unwrap_or_default()
    }
}

/// `s3:ObjectCreated:*` matches `ObjectCreated:Put`.
fn event_matches(wanted: &str, event: &str) -> bool {
    let wanted = wanted.strip_prefix("s3:").unwrap_or(wanted);
    let event = event.strip_prefix("s3:").unwrap_or(event);
    match wanted.strip_suffix('*') {
        Some(family) => event.starts_with(family),
        None => wanted == event,
    }
}

fn is_event_type(event: &str) -> bool {
    const EVENT_TYPES: [&str; 26] = [
        "s3:TestEvent",
        "s3:ObjectCreated:*",
        "s3:ObjectCreated:Put",
        "s3:ObjectCreated:Post",
        "s3:ObjectCreated:Copy",
        "s3:ObjectCreated:CompleteMultipartUpload",
        "s3:ObjectRemoved:*",
        "s3:ObjectRemoved:Delete",
        "s3:ObjectRemoved:DeleteMarkerCreated",
        "s3:ObjectRestore:*",
        "s3:ObjectRestore:Post",
        "s3:ObjectRestore:Completed",
        "s3:ObjectRestore:Delete",
        "s3:ReducedRedundancyLostObject",
        "s3:Replication:*",
        "s3:Replication:OperationFailedReplication",
        "s3:Replication:OperationMissedThreshold",
        "s3:Replication:OperationReplicatedAfterThreshold",
        "s3:Replication:OperationNotTracked",
        "s3:LifecycleExpiration:*",
        "s3:LifecycleExpiration:Delete",
        "s3:LifecycleExpiration:DeleteMarkerCreated",
        "s3:LifecycleTransition",
        "s3:IntelligentTiering",
        "s3:ObjectAcl:Put",
        "s3:ObjectTagging:*",
    ];
    EVENT_TYPES.contains(&event) || matches!(event, "s3:ObjectTagging:Put" | "s3:ObjectTagging:Delete")
}

/// Keys in events are form-encoded: `+` is a space. An escape that is none stays as it is.
fn decoded(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let digits = tail.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let escaped = digits.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        match (byte, escaped) {
            (b'%', Some(escaped)) => {
                bytes.push(escaped);
                rest = tail.get(2..).unwrap_or_default();
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use serde_json::json;

    use super::*;

    fn notification(events: &[&str], prefix: &str, suffix: &str, target: &str) -> S3Notification {
        let part = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        S3Notification {
            bucket: "files".into(),
            events: events.iter().map(|&event| event.to_owned()).collect(),
            prefix: part(prefix),
            suffix: part(suffix),
            target: target.into(),
        }
    }

    #[test]
    fn an_event_goes_to_the_notification_that_matches_it() {
        let notifications = S3Notifications::new(vec![
            notification(&["s3:ObjectCreated:*"], "图片/", ".png", "thumbnails"),
            notification(&["s3:ObjectCreated:Put", "s3:ObjectCreated:Copy"], "raw/", "", "intake"),
            notification(&["s3:ObjectRemoved:*"], "", "", "cleanup"),
        ])
        .unwrap();
        for (event, key, expected) in [
            ("ObjectCreated:Put", "图片/a b.png", Some("thumbnails")),
            ("ObjectCreated:CompleteMultipartUpload", "图片/a.png", Some("thumbnails")),
            ("ObjectCreated:Put", "图片/a.jpg", None),
            ("ObjectCreated:Put", "raw/x", Some("intake")),
            ("ObjectCreated:Post", "raw/x", None),
            ("ObjectRemoved:Delete", "raw/x", Some("cleanup")),
            ("ObjectTagging:Put", "raw/x", None),
        ] {
            assert_eq!(notifications.target("files", event, key), expected, "{event} {key}");
        }
        assert_eq!(notifications.target("other", "ObjectRemoved:Delete", "raw/x"), None);
    }

    #[test]
    fn overlapping_notifications_are_refused_as_s3_refuses_them() {
        let created = "s3:ObjectCreated:*";
        let put = "s3:ObjectCreated:Put";
        let removed = "s3:ObjectRemoved:*";
        for (first, second, refused) in [
            ((created, "", ""), (put, "", ""), true),
            ((created, "images/", ""), (put, "images/new/", ""), true),
            ((created, "images/", ".jpg"), (put, "images/", ".png"), false),
            ((created, "images/", ""), (put, "logs/", ""), false),
            ((created, "", ".jpg"), (created, "images/", ""), true),
            ((created, "", ""), (removed, "", ""), false),
            ((put, "", ""), ("s3:ObjectCreated:Copy", "", ""), false),
            ((put, "a", "b"), (put, "a", "bb"), true),
        ] {
            let both = vec![
                notification(&[first.0], first.1, first.2, "one"),
                notification(&[second.0], second.1, second.2, "two"),
            ];
            let result = S3Notifications::new(both);
            assert_eq!(matches!(result, Err(NotificationError::Ambiguous { .. })), refused, "{first:?} {second:?}");
        }
    }

    #[test]
    fn the_same_rule_on_two_buckets_is_no_overlap() {
        let mut other = notification(&["s3:ObjectCreated:*"], "", "", "two");
        other.bucket = "lake".into();
        let notifications =
            S3Notifications::new(vec![notification(&["s3:ObjectCreated:*"], "", "", "one"), other]).unwrap();
        assert_eq!(notifications.target("lake", "ObjectCreated:Put", "x"), Some("two"));
    }

    #[test]
    fn unknown_and_missing_events_are_refused() {
        let unknown = S3Notifications::new(vec![notification(&["s3:ObjectCreate:*"], "", "", "t")]).unwrap_err();
        assert!(unknown.to_string().contains("`s3:ObjectCreate:*`"));
        let none = S3Notifications::new(vec![notification(&[], "", "", "t")]).unwrap_err();
        assert!(none.to_string().contains("`t`"));
    }

    /// Keeps what it is handed.
    #[derive(Default)]
    struct Keep(Mutex<Vec<(String, Bytes)>>);

    #[async_trait]
    impl AsyncInvoker for Keep {
        async fn hand_over(&self, target: &str, event: Bytes) {
            self.0.lock().unwrap().push((target.into(), event));
        }
    }

    #[tokio::test]
    async fn keys_are_matched_decoded_and_handed_over_as_they_came() {
        let notifications =
            S3Notifications::new(vec![notification(&["s3:ObjectCreated:*"], "图 片/", "1+1 %+5 50%.png", "t")])
                .unwrap();
        let event = |key: &str| {
            json!({"Records": [{
                "eventName": "ObjectCreated:Put",
                "s3": {"bucket": {"name": "files"}, "object": {"key": key}}
            }]})
        };
        let keep = Keep::default();
        let matching = event("%E5%9B%BE+%E7%89%87/1%2B1+%%2B5+50%.png");
        assert!(notifications.dispatch(&matching, &keep).await);
        assert!(!notifications.dispatch(&event("other/1+1.png"), &keep).await);
        assert!(!notifications.dispatch(&json!({"Event": "s3:TestEvent"}), &keep).await);
        let handed = keep.0.into_inner().unwrap();
        assert_eq!(handed, [("t".to_owned(), Bytes::from(matching.to_string()))]);
    }
}
