//! Queue attributes: which exist, which values they take, and what a queue is without them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::QueueError;

/// The largest message and the largest batch, in bytes.
pub(super) const MAX_BYTES: usize = 1_048_576;
pub(super) const MAX_VISIBILITY: Duration = Duration::from_secs(43_200);
pub(super) const MAX_DELAY: Duration = Duration::from_secs(900);

/// Name, smallest value, largest value, default.
const NUMBERS: [(&str, u64, u64, u64); 5] = [
    ("DelaySeconds", 0, 900, 0),
    ("MaximumMessageSize", 1024, 1_048_576, 1_048_576),
    ("MessageRetentionPeriod", 60, 1_209_600, 345_600),
    ("ReceiveMessageWaitTimeSeconds", 0, 20, 0),
    ("VisibilityTimeout", 0, 43_200, 30),
];

/// Name, allowed values, default, whether only FIFO queues have it.
const CHOICES: [(&str, &[&str], Option<&str>, bool); 5] = [
    ("FifoQueue", &["true"], None, true),
    ("ContentBasedDeduplication", &["true", "false"], Some("false"), true),
    ("DeduplicationScope", &["queue", "messageGroup"], Some("queue"), true),
    ("FifoThroughputLimit", &["perQueue", "perMessageGroupId"], Some("perQueue"), true),
    ("SqsManagedSseEnabled", &["true", "false"], Some("true"), false),
];

/// Kept and returned as given: access and encryption have no effect on one machine.
const TEXTS: [&str; 3] = ["KmsDataKeyReusePeriodSeconds", "KmsMasterKeyId", "Policy"];

/// The attributes of one queue, checked.
#[derive(Debug, Clone)]
pub(super) struct Attributes {
    /// Only what was given, in AWS's spelling.
    given: BTreeMap<String, String>,
    pub(super) fifo: bool,
    pub(super) content_based_deduplication: bool,
    pub(super) deduplicates_per_group: bool,
    pub(super) delay: Duration,
    pub(super) max_message_bytes: usize,
    pub(super) retention: Duration,
    pub(super) receive_wait: Duration,
    pub(super) visibility_timeout: Duration,
    pub(super) redrive: Option<Redrive>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Redrive {
    pub(super) target_arn: String,
    pub(super) max_receive_count: i64,
}

impl Attributes {
    pub(super) fn parse(queue: &str, mut given: BTreeMap<String, String>) -> Result<Self, QueueError> {
        let fifo = given.get("FifoQueue").is_some_and(|value| value == "true");
        check_name(queue, fifo)?;
        given.retain(|_, value| !value.is_empty());
        let mut numbers = BTreeMap::new();
        for (name, smallest, largest, default) in NUMBERS {
            let value = match given.get(name) {
                None => default,
                Some(text) => text
                    .parse()
                    .ok()
                    .filter(|value| (smallest..=largest).contains(value))
                    .ok_or_else(|| invalid(name, text))?,
            };
            numbers.insert(name, value);
        }
        for (name, value) in &given {
            if NUMBERS.iter().any(|number| number.0 == name) || TEXTS.contains(&name.as_str()) {
                continue;
            }
            match CHOICES.iter().find(|choice| choice.0 == name) {
                Some((_, _, _, only_fifo)) if *only_fifo && !fifo => {
                    return Err(QueueError::InvalidAttributeName(name.clone()));
                }
                Some((_, allowed, _, _)) if !allowed.contains(&value.as_str()) => return Err(invalid(name, value)),
                Some(_) => {}
                None if name == "RedrivePolicy" || name == "RedriveAllowPolicy" => {}
                None => return Err(QueueError::InvalidAttributeName(name.clone())),
            }
        }
        let redrive = given.get("RedrivePolicy").map(|text| parse_redrive(text)).transpose()?;
        if let Some(redrive) = &redrive {
            let policy =
                json!({"deadLetterTargetArn": redrive.target_arn, "maxReceiveCount": redrive.max_receive_count});
            given.insert("RedrivePolicy".into(), policy.to_string());
        }
        if let Some(text) = given.get("RedriveAllowPolicy") {
            parse_allow(text).ok_or_else(|| invalid("RedriveAllowPolicy", text))?;
        }
        let is = |name: &str, value: &str| given.get(name).is_some_and(|given| given == value);
        let deduplicates_per_group = is("DeduplicationScope", "messageGroup");
        if is("FifoThroughputLimit", "perMessageGroupId") && !deduplicates_per_group {
            return Err(QueueError::invalid(
                "FifoThroughputLimit",
                "`perMessageGroupId` requires DeduplicationScope `messageGroup`.",
            ));
        }
        let number = |name: &str| numbers.get(name).copied().unwrap_or_default();
        Ok(Self {
            fifo,
            content_based_deduplication: is("ContentBasedDeduplication", "true"),
            deduplicates_per_group,
            delay: Duration::from_secs(number("DelaySeconds")),
            max_message_bytes: usize::try_from(number("MaximumMessageSize")).unwrap_or(MAX_BYTES),
            retention: Duration::from_secs(number("MessageRetentionPeriod")),
            receive_wait: Duration::from_secs(number("ReceiveMessageWaitTimeSeconds")),
            visibility_timeout: Duration::from_secs(number("VisibilityTimeout")),
            redrive,
            given,
        })
    }

    pub(super) fn from_json(queue: &str, json: &str) -> Result<Self, QueueError> {
        Self::parse(queue, serde_json::from_str(json).map_err(QueueError::Malformed)?)
    }

    pub(super) fn to_json(&self) -> String {
        json!(self.given).to_string()
    }

    /// These attributes with `changes` laid over them.
    pub(super) fn changed(&self, queue: &str, changes: BTreeMap<String, String>) -> Result<Self, QueueError> {
        if changes.contains_key("FifoQueue") {
            return Err(QueueError::InvalidAttributeName("FifoQueue".into()));
        }
        let mut given = self.given.clone();
        given.extend(changes);
        Self::parse(queue, given)
    }

    /// Creating a queue again succeeds only if every attribute given now has the value it already has.
    pub(super) fn must_agree_with(&self, queue: &str, given: BTreeMap<String, String>) -> Result<(), QueueError> {
        // Without `FifoQueue` the request describes a standard queue, which the name check below refuses.
        let wanted = Self::parse(queue, given)?;
        let existing = self.all();
        match wanted.given.iter().find(|(name, value)| existing.get(*name) != Some(*value)) {
            None => Ok(()),
            Some((attribute, _)) => {
                Err(QueueError::QueueNameExists { queue: queue.into(), attribute: attribute.clone() })
            }
        }
    }

    /// Every settable attribute that has a value, defaults included.
    pub(super) fn all(&self) -> BTreeMap<String, String> {
        let numbers = NUMBERS.iter().map(|(name, _, _, default)| ((*name).to_owned(), default.to_string()));
        let choices = CHOICES.iter().filter(|(_, _, _, only_fifo)| self.fifo || !only_fifo);
        let choices = choices.filter_map(|(name, _, default, _)| Some(((*name).to_owned(), (*default)?.to_owned())));
        numbers.chain(choices).chain(self.given.clone()).collect()
    }

    pub(super) fn allows_redrive_from(&self, source_arn: &str) -> bool {
        match self.given.get("RedriveAllowPolicy").and_then(|text| parse_allow(text)) {
            None => true,
            Some(policy) => match policy.redrive_permission {
                Permission::AllowAll => true,
                Permission::DenyAll => false,
                Permission::ByQueue => policy.source_queue_arns.iter().any(|arn| arn == source_arn),
            },
        }
    }
}

fn check_name(name: &str, fifo: bool) -> Result<(), QueueError> {
    let stem = if fifo { name.strip_suffix(".fifo") } else { Some(name) };
    let is_valid = |stem: &str| {
        !stem.is_empty() && stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if name.len() <= 80 && stem.is_some_and(is_valid) {
        return Ok(());
    }
    Err(QueueError::invalid(
        "QueueName",
        if fifo {
            "The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores, must end with \
             .fifo suffix and be 1 to 80 in length."
        } else {
            "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length."
        },
    ))
}

fn invalid(attribute: &str, value: &str) -> QueueError {
    QueueError::InvalidAttributeValue { attribute: attribute.into(), value: value.into() }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RedrivePolicy {
    dead_letter_target_arn: String,
    /// Templates write a number, console users a string.
    max_receive_count: Value,
}

fn parse_redrive(text: &str) -> Result<Redrive, QueueError> {
    let policy: RedrivePolicy = serde_json::from_str(text).map_err(|_| invalid("RedrivePolicy", text))?;
    let count = match &policy.max_receive_count {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let max_receive_count = count.filter(|count| (1..=1000).contains(count)).ok_or_else(|| {
        QueueError::invalid("RedrivePolicy", "Invalid value for maxReceiveCount, must be between 1 and 1000.")
    })?;
    Ok(Redrive { target_arn: policy.dead_letter_target_arn, max_receive_count })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RedriveAllowPolicy {
    redrive_permission: Permission,
    #[serde(default)]
    source_queue_arns: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Permission {
    AllowAll,
    DenyAll,
    ByQueue,
}

fn parse_allow(text: &str) -> Option<RedriveAllowPolicy> {
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(queue: &str, given: &[(&str, &str)]) -> Result<Attributes, QueueError> {
        Attributes::parse(queue, given.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
    }

    #[test]
    fn a_queue_without_attributes_has_the_defaults_of_aws() {
        let attributes = parse("orders", &[]).unwrap();
        assert_eq!(attributes.visibility_timeout, Duration::from_secs(30));
        assert_eq!(attributes.retention, Duration::from_secs(345_600));
        assert_eq!(attributes.max_message_bytes, MAX_BYTES);
        assert_eq!(attributes.all().get("FifoQueue"), None);
    }

    #[test]
    fn attributes_that_aws_refuses_are_refused() {
        for (queue, name, value, code) in [
            ("orders", "VisibilityTimeout", "43201", "InvalidAttributeValue"),
            ("orders", "VisibilityTimeout", "soon", "InvalidAttributeValue"),
            ("orders", "MaximumMessageSize", "1023", "InvalidAttributeValue"),
            ("orders", "Colour", "red", "InvalidAttributeName"),
            ("orders", "FifoQueue", "false", "InvalidAttributeName"),
            ("orders", "ContentBasedDeduplication", "true", "InvalidAttributeName"),
            ("orders", "FifoQueue", "true", "InvalidParameterValue"),
            ("orders.fifo", "DelaySeconds", "1", "InvalidParameterValue"),
            ("", "DelaySeconds", "1", "InvalidParameterValue"),
            ("订单", "DelaySeconds", "1", "InvalidParameterValue"),
            ("orders", "RedrivePolicy", "{}", "InvalidAttributeValue"),
            ("orders", "RedrivePolicy", r#"{"deadLetterTargetArn":"a","maxReceiveCount":0}"#, "InvalidParameterValue"),
            ("orders", "RedriveAllowPolicy", r#"{"redrivePermission":"some"}"#, "InvalidAttributeValue"),
        ] {
            let error = parse(queue, &[(name, value)]).expect_err(&format!("{queue} {name}={value}"));
            assert_eq!(error.code(), code, "{queue} {name}={value}: {error}");
        }
    }

    #[test]
    fn a_redrive_policy_means_the_same_with_its_count_as_text_or_number() {
        let text = parse("q", &[("RedrivePolicy", r#"{"deadLetterTargetArn":"a","maxReceiveCount":"3"}"#)]).unwrap();
        let number = parse("q", &[("RedrivePolicy", r#"{"maxReceiveCount":3,"deadLetterTargetArn":"a"}"#)]).unwrap();
        assert_eq!(text.redrive, number.redrive);
        assert!(text.must_agree_with("q", number.all()).is_ok());
    }

    #[test]
    fn an_empty_value_restores_the_default() {
        let queue = parse("q", &[("VisibilityTimeout", "5")]).unwrap();
        let changed = queue.changed("q", [("VisibilityTimeout".to_owned(), String::new())].into()).unwrap();
        assert_eq!(changed.visibility_timeout, Duration::from_secs(30));
    }
}
