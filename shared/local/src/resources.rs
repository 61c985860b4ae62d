//! Makes the template's queues, buckets, buses and rules as it declares them; what it no longer declares stays untouched.

use std::collections::BTreeMap;

use local_bucket::{BucketConfig, BucketError, Buckets, CorsRule, LifecycleRule, NotificationRule};
use local_queue::events::{self, Buses, DeadLetterConfig, EventError, InputTransformer, RetryPolicy, SqsParameters};
use local_queue::sqs::{QueueError, Queues};
use local_template::{Bucket, Bundle, Delivery, Input, Queue, RuleTarget, Target};
use serde_json::json;

use crate::arn;

/// Why a resource was not made.
#[derive(Debug, thiserror::Error)]
pub enum ResourceError {
    #[error("queue `{name}` cannot be made")]
    Queue {
        name: String,
        #[source]
        cause: QueueError,
    },
    #[error("bucket `{name}` cannot be made")]
    Bucket {
        name: String,
        #[source]
        cause: BucketError,
    },
    #[error("bus or rule `{name}` cannot be made")]
    Event {
        name: String,
        #[source]
        cause: EventError,
    },
}

pub(crate) fn make_queues(queues: &Queues, bundle: &Bundle) -> Result<(), ResourceError> {
    // Dead-letter queues first: a redrive policy must name a queue that exists.
    let (with_redrive, without): (Vec<_>, Vec<_>) = bundle.queues.iter().partition(|queue| queue.redrive.is_some());
    for queue in without.into_iter().chain(with_redrive) {
        let attributes = queue_attributes(queue);
        let made = if queues.exists(&queue.name) {
            queues.set_attributes(&queue.name, changeable(attributes))
        } else {
            queues.create(&queue.name, attributes).map(|_| ())
        };
        made.map_err(|cause| ResourceError::Queue { name: queue.name.clone(), cause })?;
    }
    Ok(())
}

fn queue_attributes(queue: &Queue) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::from([
        ("VisibilityTimeout", queue.visibility_timeout_secs.to_string()),
        ("DelaySeconds", queue.delay_secs.to_string()),
        ("MessageRetentionPeriod", queue.retention_secs.to_string()),
        ("ReceiveMessageWaitTimeSeconds", queue.receive_wait_secs.to_string()),
        ("MaximumMessageSize", queue.maximum_message_bytes.to_string()),
    ]);
    if let Some(fifo) = queue.fifo {
        attributes.insert("FifoQueue", "true".to_owned());
        attributes.insert("ContentBasedDeduplication", fifo.content_based_deduplication.to_string());
        let scope = if fifo.deduplicates_per_group { "messageGroup" } else { "queue" };
        attributes.insert("DeduplicationScope", scope.to_owned());
        let limit = if fifo.limits_throughput_per_group { "perMessageGroupId" } else { "perQueue" };
        attributes.insert("FifoThroughputLimit", limit.to_owned());
    }
    if let Some(redrive) = &queue.redrive {
        let policy = json!({
            "deadLetterTargetArn": arn::queue(&redrive.dead_letter_queue),
            "maxReceiveCount": redrive.maximum_receive_count,
        });
        attributes.insert("RedrivePolicy", policy.to_string());
    }
    attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// `FifoQueue` is fixed when a queue is made.
fn changeable(mut attributes: BTreeMap<String, String>) -> BTreeMap<String, String> {
    attributes.remove("FifoQueue");
    attributes
}

pub(crate) fn make_buckets(buckets: &Buckets, bundle: &Bundle) -> Result<(), ResourceError> {
    for bucket in &bundle.buckets {
        let made = buckets.create(&bucket.name, &bucket_config(bucket));
        made.map_err(|cause| ResourceError::Bucket { name: bucket.name.clone(), cause })?;
    }
    Ok(())
}

fn bucket_config(bucket: &Bucket) -> BucketConfig {
    let days = |days: Option<u32>| days.and_then(|days| u16::try_from(days).ok());
    BucketConfig {
        lifecycle: bucket
            .lifecycle
            .iter()
            .map(|rule| LifecycleRule {
                id: rule.id.clone(),
                enabled: true,
                prefix: rule.prefix.clone(),
                expiration_days: days(rule.expiration_days),
                abort_incomplete_multipart_upload_days: days(rule.abort_incomplete_upload_days),
            })
            .collect(),
        cors: bucket
            .cors
            .iter()
            .map(|rule| CorsRule {
                id: None,
                allowed_origins: rule.allowed_origins.clone(),
                allowed_methods: rule.allowed_methods.clone(),
                allowed_headers: rule.allowed_headers.clone(),
                expose_headers: rule.exposed_headers.clone(),
                max_age_seconds: rule.max_age_secs,
            })
            .collect(),
        notifications: bucket
            .notifications
            .iter()
            .enumerate()
            .map(|(index, notification)| NotificationRule {
                id: format!("{}-{index}", bucket.logical_id),
                events: notification.events.clone(),
                prefix: Some(notification.prefix.clone()).filter(|prefix| !prefix.is_empty()),
                suffix: Some(notification.suffix.clone()).filter(|suffix| !suffix.is_empty()),
                target: target_arn(&notification.target),
            })
            .collect(),
    }
}

pub(crate) fn make_rules(buses: &Buses, bundle: &Bundle) -> Result<(), ResourceError> {
    let fault = |name: &str| {
        let name = name.to_owned();
        move |cause| ResourceError::Event { name, cause }
    };
    for bus in &bundle.buses {
        buses.create_bus(&bus.name).map_err(fault(&bus.name))?;
    }
    for rule in &bundle.rules {
        buses.put_rule(&rule.name, &rule.bus, &rule.pattern, rule.enabled).map_err(fault(&rule.name))?;
        let targets = rule.targets.iter().map(event_target).collect();
        buses.put_targets(&rule.name, &rule.bus, targets).map_err(fault(&rule.name))?;
    }
    Ok(())
}

fn event_target(target: &RuleTarget) -> events::Target {
    let Delivery { maximum_retry_attempts, maximum_event_age_secs, dead_letter_queue } = &target.delivery;
    let mut made = events::Target {
        id: target.id.clone(),
        arn: target_arn(&target.target),
        retry_policy: Some(RetryPolicy {
            maximum_retry_attempts: Some(*maximum_retry_attempts),
            maximum_event_age_in_seconds: Some(*maximum_event_age_secs),
        }),
        dead_letter_config: dead_letter_queue.as_deref().map(|name| DeadLetterConfig { arn: Some(arn::queue(name)) }),
        ..events::Target::default()
    };
    if let Target::Queue { message_group_id: Some(group), .. } = &target.target {
        made.sqs_parameters = Some(SqsParameters { message_group_id: Some(group.clone()) });
    }
    match &target.input {
        Input::Event => {}
        Input::Constant(json) => made.input = Some(json.clone()),
        Input::Path(path) => made.input_path = Some(path.clone()),
        Input::Transformer { paths, template } => {
            made.input_transformer =
                Some(InputTransformer { input_paths_map: paths.clone(), input_template: template.clone() });
        }
    }
    made
}

pub(crate) fn target_arn(target: &Target) -> String {
    match target {
        Target::Function(name) => arn::function(name),
        Target::Queue { name, .. } => arn::queue(name),
        Target::Bus(name) => arn::bus(name),
    }
}
