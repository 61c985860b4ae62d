//! Between the wire types of `s3s` and ours: configurations, headers, checksums, times.

use s3s::dto::{
    AbortIncompleteMultipartUpload, CORSRule, ChecksumType, ETag, Event, ExpirationStatus, FilterRule, FilterRuleName,
    LambdaFunctionConfiguration, LifecycleExpiration, LifecycleRule as LifecycleRuleDto, LifecycleRuleFilter, Metadata,
    NotificationConfiguration, NotificationConfigurationFilter, QueueConfiguration, S3KeyFilter, Timestamp,
    TopicConfiguration,
};
use time::OffsetDateTime;

use crate::checksum::{Algorithm, Kind};
use crate::config::{CorsRule, LifecycleRule, NotificationRule};
use crate::error::BucketError;
use crate::store::Headers;

/// The checksums a request declares, each with its algorithm.
macro_rules! declared_checksums {
    ($input:expr) => {
        [
            ($crate::checksum::Algorithm::Crc32, &$input.checksum_crc32),
            ($crate::checksum::Algorithm::Crc32c, &$input.checksum_crc32c),
            ($crate::checksum::Algorithm::Crc64Nvme, &$input.checksum_crc64nvme),
            ($crate::checksum::Algorithm::Sha1, &$input.checksum_sha1),
            ($crate::checksum::Algorithm::Sha256, &$input.checksum_sha256),
        ]
        .into_iter()
        .filter_map(|(algorithm, value)| value.clone().map(|value| (algorithm, value)))
        .collect::<Vec<_>>()
    };
}
pub(crate) use declared_checksums;

/// Sets the field of an answer that belongs to the checksum's algorithm.
macro_rules! set_checksum {
    ($output:expr, $checksum:expr) => {{
        let value = Some($checksum.value.clone());
        match $checksum.algorithm {
            $crate::checksum::Algorithm::Crc32 => $output.checksum_crc32 = value,
            $crate::checksum::Algorithm::Crc32c => $output.checksum_crc32c = value,
            $crate::checksum::Algorithm::Crc64Nvme => $output.checksum_crc64nvme = value,
            $crate::checksum::Algorithm::Sha1 => $output.checksum_sha1 = value,
            $crate::checksum::Algorithm::Sha256 => $output.checksum_sha256 = value,
        }
    }};
}
pub(crate) use set_checksum;

/// The headers of a request that are kept with the object.
macro_rules! kept_headers {
    ($input:expr) => {
        $crate::store::Headers {
            content_type: $input.content_type.take(),
            cache_control: $input.cache_control.take(),
            content_disposition: $input.content_disposition.take(),
            content_encoding: $input.content_encoding.take().and_then($crate::dto::without_aws_chunked),
            content_language: $input.content_language.take(),
            expires: $input.expires.take().map(|at| time::OffsetDateTime::from(at).unix_timestamp()),
            storage_class: $input.storage_class.take().map(|class| class.as_str().to_owned()),
            metadata: $input.metadata.take().unwrap_or_default().into_iter().collect(),
        }
    };
}
pub(crate) use kept_headers;

/// Refuses what would otherwise be dropped in silence.
macro_rules! refuse {
    ($input:expr; $($field:ident: $name:literal),+) => {
        $(if $input.$field.is_some() {
            let message = format!("`{}` is not available on this machine", $name);
            return Err($crate::error::BucketError::NotImplemented(message).into());
        })+
    };
}
pub(crate) use refuse;

/// `aws-chunked` names the transfer, not the object.
pub(crate) fn without_aws_chunked(encoding: String) -> Option<String> {
    let kept: Vec<&str> = encoding.split(',').map(str::trim).filter(|name| *name != "aws-chunked").collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

pub(crate) fn etag(etag: &str) -> ETag {
    ETag::Strong(etag.to_owned())
}

/// S3 tells times of objects in whole seconds.
pub(crate) fn timestamp(at: OffsetDateTime) -> Timestamp {
    at.replace_nanosecond(0).unwrap_or(at).into()
}

pub(crate) fn expires(headers: &Headers) -> Option<Timestamp> {
    headers.expires.and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok()).map(Timestamp::from)
}

pub(crate) fn metadata(headers: &Headers) -> Option<Metadata> {
    let metadata = &headers.metadata;
    (!metadata.is_empty()).then(|| metadata.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

pub(crate) fn length(bytes: u64) -> Option<i64> {
    i64::try_from(bytes).ok()
}

pub(crate) fn checksum_type(kind: Kind) -> ChecksumType {
    ChecksumType::from_static(kind.name())
}

pub(crate) fn parse_algorithm(name: &str) -> Result<Algorithm, BucketError> {
    Algorithm::parse(name)
        .ok_or_else(|| BucketError::InvalidRequest(format!("`{name}` is not a checksum algorithm of this service")))
}

pub(crate) fn parse_kind(name: &str) -> Result<Kind, BucketError> {
    Kind::parse(name).ok_or_else(|| BucketError::InvalidRequest(format!("`{name}` is not a checksum type")))
}

pub(crate) fn cors_from(rule: CORSRule) -> CorsRule {
    CorsRule {
        id: rule.id,
        allowed_origins: rule.allowed_origins,
        allowed_methods: rule.allowed_methods,
        allowed_headers: rule.allowed_headers.unwrap_or_default(),
        expose_headers: rule.expose_headers.unwrap_or_default(),
        max_age_seconds: rule.max_age_seconds.and_then(|seconds| u32::try_from(seconds).ok()),
    }
}

pub(crate) fn cors_to(rule: CorsRule) -> CORSRule {
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    CORSRule {
        id: rule.id,
        allowed_origins: rule.allowed_origins,
        allowed_methods: rule.allowed_methods,
        allowed_headers: some(rule.allowed_headers),
        expose_headers: some(rule.expose_headers),
        max_age_seconds: rule.max_age_seconds.and_then(|seconds| i32::try_from(seconds).ok()),
    }
}

/// Refuses what this service would not carry out.
pub(crate) fn lifecycle_from(rule: LifecycleRuleDto) -> Result<LifecycleRule, BucketError> {
    let unsupported = |what: &str| Err(BucketError::NotImplemented(format!("lifecycle rules with {what}")));
    if rule.transitions.is_some() || rule.noncurrent_version_transitions.is_some() {
        return unsupported("transitions");
    }
    if rule.noncurrent_version_expiration.is_some() {
        return unsupported("noncurrent versions");
    }
    let mut prefix = rule.prefix;
    if let Some(filter) = rule.filter {
        let of_size = filter.object_size_greater_than.is_some() || filter.object_size_less_than.is_some();
        if of_size || filter.tag.is_some() || filter.and.is_some() {
            return unsupported("filters other than a prefix");
        }
        prefix = prefix.or(filter.prefix);
    }
    if let Some(expiration) = &rule.expiration
        && (expiration.date.is_some() || expiration.expired_object_delete_marker.is_some())
    {
        return unsupported("an expiration other than in days");
    }
    let days = |days: Option<i32>| match days {
        None => Ok(None),
        Some(days) => match u16::try_from(days) {
            Ok(days) if days > 0 => Ok(Some(days)),
            _ => Err(BucketError::InvalidArgument(format!("`{days}` is not a number of days from 1 to 65535"))),
        },
    };
    Ok(LifecycleRule {
        id: rule.id,
        enabled: rule.status.as_str() == ExpirationStatus::ENABLED,
        prefix: prefix.unwrap_or_default(),
        expiration_days: days(rule.expiration.and_then(|expiration| expiration.days))?,
        abort_incomplete_multipart_upload_days: days(
            rule.abort_incomplete_multipart_upload.and_then(|abort| abort.days_after_initiation),
        )?,
    })
}

pub(crate) fn lifecycle_to(rule: LifecycleRule) -> LifecycleRuleDto {
    let status = if rule.enabled { ExpirationStatus::ENABLED } else { ExpirationStatus::DISABLED };
    LifecycleRuleDto {
        abort_incomplete_multipart_upload: rule
            .abort_incomplete_multipart_upload_days
            .map(|days| AbortIncompleteMultipartUpload { days_after_initiation: Some(i32::from(days)) }),
        expiration: rule
            .expiration_days
            .map(|days| LifecycleExpiration { days: Some(i32::from(days)), ..LifecycleExpiration::default() }),
        filter: Some(LifecycleRuleFilter { prefix: Some(rule.prefix), ..LifecycleRuleFilter::default() }),
        id: rule.id,
        noncurrent_version_expiration: None,
        noncurrent_version_transitions: None,
        prefix: None,
        status: ExpirationStatus::from_static(status),
        transitions: None,
    }
}

pub(crate) fn notifications_from(
    configuration: NotificationConfiguration,
) -> Result<Vec<NotificationRule>, BucketError> {
    if configuration.event_bridge_configuration.is_some() {
        return Err(BucketError::NotImplemented("notifications to EventBridge".to_owned()));
    }
    let queues = configuration.queue_configurations.unwrap_or_default().into_iter();
    let functions = configuration.lambda_function_configurations.unwrap_or_default().into_iter();
    let topics = configuration.topic_configurations.unwrap_or_default().into_iter();
    queues
        .map(|queue| (queue.id, queue.events, queue.filter, queue.queue_arn))
        .chain(functions.map(|function| (function.id, function.events, function.filter, function.lambda_function_arn)))
        .chain(topics.map(|topic| (topic.id, topic.events, topic.filter, topic.topic_arn)))
        .map(|(id, events, filter, target)| {
            let mut rule = NotificationRule {
                id: id.unwrap_or_else(crate::body::new_id),
                events: events.into_iter().map(String::from).collect(),
                target,
                ..NotificationRule::default()
            };
            for filter in filter.and_then(|filter| filter.key).and_then(|key| key.filter_rules).unwrap_or_default() {
                let name = filter.name.as_ref().map(FilterRuleName::as_str).unwrap_or_default();
                // The console writes `Prefix`, the API reference `prefix`.
                match name.to_ascii_lowercase().as_str() {
                    FilterRuleName::PREFIX => rule.prefix = filter.value,
                    FilterRuleName::SUFFIX => rule.suffix = filter.value,
                    _ => {
                        let message = format!("a filter rule is named `prefix` or `suffix`, not `{name}`");
                        return Err(BucketError::InvalidArgument(message));
                    }
                }
            }
            Ok(rule)
        })
        .collect()
}

pub(crate) fn notifications_to(rules: Vec<NotificationRule>) -> NotificationConfiguration {
    let (mut queues, mut functions, mut topics) = (Vec::new(), Vec::new(), Vec::new());
    for rule in rules {
        let (id, filter) = (Some(rule.id), key_filter(rule.prefix, rule.suffix));
        let events: Vec<Event> = rule.events.into_iter().map(Event::from).collect();
        // arn:aws:<service>:...
        match rule.target.split(':').nth(2) {
            Some("lambda") => {
                functions.push(LambdaFunctionConfiguration { events, filter, id, lambda_function_arn: rule.target })
            }
            Some("sns") => topics.push(TopicConfiguration { events, filter, id, topic_arn: rule.target }),
            _ => queues.push(QueueConfiguration { events, filter, id, queue_arn: rule.target }),
        }
    }
    NotificationConfiguration {
        event_bridge_configuration: None,
        lambda_function_configurations: (!functions.is_empty()).then_some(functions),
        queue_configurations: (!queues.is_empty()).then_some(queues),
        topic_configurations: (!topics.is_empty()).then_some(topics),
    }
}

fn key_filter(prefix: Option<String>, suffix: Option<String>) -> Option<NotificationConfigurationFilter> {
    let rules: Vec<FilterRule> = [(FilterRuleName::PREFIX, prefix), (FilterRuleName::SUFFIX, suffix)]
        .into_iter()
        .filter(|(_, value)| value.is_some())
        .map(|(name, value)| FilterRule { name: Some(FilterRuleName::from_static(name)), value })
        .collect();
    (!rules.is_empty())
        .then_some(NotificationConfigurationFilter { key: Some(S3KeyFilter { filter_rules: Some(rules) }) })
}
