//! What a bucket is configured to do: lifecycle, CORS and notifications, and the rules that decide with them.

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime, Time};

/// A bucket's whole configuration; the default does nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BucketConfig {
    pub lifecycle: Vec<LifecycleRule>,
    pub cors: Vec<CorsRule>,
    pub notifications: Vec<NotificationRule>,
}

/// Expires objects and abandons multipart uploads whose key starts with `prefix`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LifecycleRule {
    pub id: Option<String>,
    pub enabled: bool,
    pub prefix: String,
    pub expiration_days: Option<u16>,
    pub abort_incomplete_multipart_upload_days: Option<u16>,
}

impl LifecycleRule {
    /// Whether something created at `created_at` has lived its `days` by `now`: as S3 counts, to the next midnight UTC.
    pub(crate) fn is_due(days: u16, created_at: OffsetDateTime, now: OffsetDateTime) -> bool {
        let end = created_at.to_offset(time::UtcOffset::UTC) + Duration::days(i64::from(days));
        let midnight =
            if end.time() == Time::MIDNIGHT { end } else { end.replace_time(Time::MIDNIGHT) + Duration::DAY };
        now >= midnight
    }
}

/// Lets pages of some origins call the bucket from a browser.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CorsRule {
    pub id: Option<String>,
    /// Each may hold one `*`.
    pub allowed_origins: Vec<String>,
    pub allowed_methods: Vec<String>,
    /// Each may hold one `*`; compared without regard to case.
    pub allowed_headers: Vec<String>,
    pub expose_headers: Vec<String>,
    pub max_age_seconds: Option<u32>,
}

impl CorsRule {
    pub(crate) fn allows(&self, origin: &str, method: &str, headers: &[String]) -> bool {
        self.allowed_origins.iter().any(|allowed| matches_wildcard(allowed, origin))
            && self.allowed_methods.iter().any(|allowed| allowed == method)
            && headers.iter().all(|header| {
                let header = header.to_ascii_lowercase();
                self.allowed_headers.iter().any(|allowed| matches_wildcard(&allowed.to_ascii_lowercase(), &header))
            })
    }

    pub(crate) fn allows_every_origin(&self) -> bool {
        self.allowed_origins.iter().any(|allowed| allowed == "*")
    }
}

fn matches_wildcard(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end),
    }
}

/// Announces events of objects to one target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NotificationRule {
    /// The `configurationId` of the events.
    pub id: String,
    /// Such as `s3:ObjectCreated:*` or `s3:ObjectRemoved:Delete`.
    pub events: Vec<String>,
    pub prefix: Option<String>,
    pub suffix: Option<String>,
    /// The ARN of a queue, function or topic.
    pub target: String,
}

impl NotificationRule {
    pub(crate) fn matches(&self, event_name: &str, key: &str) -> bool {
        let wanted = self.events.iter().any(|event| {
            event.strip_prefix("s3:").is_some_and(|event| match event.strip_suffix('*') {
                Some(start) => event_name.starts_with(start),
                None => event == event_name,
            })
        });
        wanted
            && self.prefix.as_deref().is_none_or(|prefix| key.starts_with(prefix))
            && self.suffix.as_deref().is_none_or(|suffix| key.ends_with(suffix))
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_day_of_life_ends_at_the_midnight_after_it() {
        let created = datetime!(2026-03-01 10:30 UTC);
        for (now, due) in [
            (datetime!(2026-03-02 10:30 UTC), false),
            (datetime!(2026-03-02 23:59:59 UTC), false),
            (datetime!(2026-03-03 00:00 UTC), true),
        ] {
            assert_eq!(LifecycleRule::is_due(1, created, now), due, "{now}");
        }
        let midnight = datetime!(2026-03-01 00:00 UTC);
        assert!(LifecycleRule::is_due(1, midnight, datetime!(2026-03-02 00:00 UTC)));
    }

    #[test]
    fn wildcards_stand_for_any_run_but_the_ends_may_not_overlap() {
        for (pattern, text, matches) in [
            ("*", "http://x", true),
            ("https://*.example.com", "https://a.example.com", true),
            ("https://*.example.com", "https://example.com", false),
            ("ab*ba", "aba", false),
            ("http://x", "http://x", true),
            ("http://x", "http://x.evil", false),
        ] {
            assert_eq!(matches_wildcard(pattern, text), matches, "{pattern} {text}");
        }
    }

    #[test]
    fn a_notification_rule_matches_by_event_prefix_and_suffix() {
        let rule = NotificationRule {
            events: vec!["s3:ObjectCreated:*".into(), "s3:ObjectRemoved:Delete".into()],
            prefix: Some("in/".into()),
            suffix: Some(".json".into()),
            ..NotificationRule::default()
        };
        for (event, key, matches) in [
            ("ObjectCreated:Put", "in/a.json", true),
            ("ObjectCreated:CompleteMultipartUpload", "in/a.json", true),
            ("ObjectRemoved:Delete", "in/a.json", true),
            ("LifecycleExpiration:Delete", "in/a.json", false),
            ("ObjectCreated:Put", "out/a.json", false),
            ("ObjectCreated:Put", "in/a.csv", false),
        ] {
            assert_eq!(rule.matches(event, key), matches, "{event} {key}");
        }
    }
}
