//! The places of a bundle where failures are kept, found by what its queues and buckets are for.

use std::collections::BTreeMap;
use std::collections::HashSet;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName, QueueAttributeName};
use lambda_kit::aws::http_client;
use serde::Serialize;
use serde_json::Value;

use super::letter::Letter;
use crate::args::Place;
use crate::fault::CliFault;
use crate::lambda::Functions;
use crate::stack::{local_config, running};

/// What the template calls the place of what can never succeed, and that of stream records.
const PARKED: &str = "ParkedQueue";
const EVIDENCE: &str = "EvidenceBucket";

/// How long messages are hidden from others while they are looked at, in seconds.
const GLANCE: i32 = 60;

/// What a place holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// What a queue gave up on.
    DeadLetters,
    /// What can never succeed, with its reason.
    Parked,
    /// What a table's stream gave up on.
    Evidence,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::DeadLetters => "dead letters",
            Self::Parked => "parked",
            Self::Evidence => "evidence",
        }
    }
}

/// One place.
#[derive(Debug, Serialize)]
pub(super) struct LetterBox {
    /// Its logical id in the template.
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) messages: u64,
    /// Being looked at or moved right now.
    pub(super) in_flight: u64,
    /// The queues it serves, by logical id.
    pub(super) sources: Vec<String>,
    #[serde(skip)]
    pub(super) source_urls: Vec<String>,
    /// The queue's URL, or the bucket's name.
    #[serde(skip)]
    pub(super) place: String,
}

/// All of a bundle's, and the means to look into them.
pub(super) struct Boxes {
    pub(super) all: Vec<LetterBox>,
    pub(super) sqs: aws_sdk_sqs::Client,
    pub(super) s3: aws_sdk_s3::Client,
    pub(super) functions: Functions,
    /// URLs of queues by ARN.
    pub(super) queues: BTreeMap<String, String>,
}

/// The physical names of a bundle's resources by logical id.
#[derive(Default)]
struct Inventory {
    queues: BTreeMap<String, String>,
    buckets: BTreeMap<String, String>,
}

/// What SQS says of one queue.
struct Queue {
    name: String,
    url: String,
    arn: String,
    target: Option<String>,
    messages: u64,
    in_flight: u64,
}

impl Boxes {
    pub(super) async fn find(place: &Place) -> Result<Self, CliFault> {
        let (aws, inventory) = match &place.stack {
            Some(name) => {
                let aws = aws_config::defaults(BehaviorVersion::latest()).http_client(http_client()).load().await;
                let inventory = deployed(&aws, name).await?;
                (aws, inventory)
            }
            None => {
                let settings = running(place)?;
                let aws = local_config(&settings).await;
                (aws, Inventory { queues: settings.queues, buckets: settings.buckets })
            }
        };
        let sqs = aws_sdk_sqs::Client::new(&aws);
        let s3 = aws_sdk_s3::config::Builder::from(&aws).force_path_style(aws.endpoint_url().is_some()).build();
        let s3 = aws_sdk_s3::Client::from_conf(s3);
        let mut queues = Vec::new();
        for (name, url) in inventory.queues {
            queues.push(Queue::ask(&sqs, name, url).await?);
        }
        let mut all = letter_boxes(&queues);
        if let Some(bucket) = inventory.buckets.get(EVIDENCE) {
            let messages = keys(&s3, bucket, usize::MAX).await?.len() as u64;
            let (name, kind, place) = (EVIDENCE.to_owned(), Kind::Evidence, bucket.clone());
            all.push(LetterBox {
                name,
                kind,
                messages,
                in_flight: 0,
                sources: Vec::new(),
                source_urls: Vec::new(),
                place,
            });
        }
        let queues = queues.into_iter().map(|queue| (queue.arn, queue.url)).collect();
        Ok(Self { all, sqs, s3, functions: Functions::new(&aws)?, queues })
    }

    pub(super) fn named(&self, name: &str) -> Result<&LetterBox, CliFault> {
        let known = || self.all.iter().map(|one| format!("`{}`", one.name)).collect::<Vec<_>>().join(", ");
        let found = self.all.iter().find(|one| one.name.eq_ignore_ascii_case(name));
        found.ok_or_else(|| CliFault::Argument(format!("no failures are kept in `{name}`; there are {}", known())))
    }

    /// Looks at what is there, and leaves it.
    pub(super) async fn peek(&self, chosen: &LetterBox, limit: u32) -> Result<Vec<Letter>, CliFault> {
        if chosen.kind == Kind::Evidence {
            let mut letters = Vec::new();
            for key in keys(&self.s3, &chosen.place, limit as usize).await? {
                letters.push(Letter::of_object(&chosen.place, &key, &self.object(&chosen.place, &key).await?));
            }
            return Ok(letters);
        }
        let (mut letters, mut seen) = (Vec::new(), HashSet::new());
        let mut handles = Vec::new();
        while letters.len() < limit as usize {
            let room = i32::try_from(limit as usize - letters.len()).unwrap_or(i32::MAX).min(10);
            let messages = self.receive(chosen, room).await?;
            if messages.is_empty() {
                break;
            }
            for message in messages {
                handles.extend(message.receipt_handle.clone());
                if seen.insert(message.message_id.clone()) {
                    letters.push(self.letter(&message).await?);
                }
            }
        }
        for handle in handles {
            self.release(chosen, &handle).await?;
        }
        letters.sort_by_key(|letter| letter.at);
        Ok(letters)
    }

    /// The next messages, hidden from others for a moment.
    pub(super) async fn receive(&self, chosen: &LetterBox, room: i32) -> Result<Vec<Message>, CliFault> {
        let request = self.sqs.receive_message().queue_url(&chosen.place).max_number_of_messages(room);
        let request =
            request.visibility_timeout(GLANCE).message_system_attribute_names(MessageSystemAttributeName::All);
        let answer = request.send().await.map_err(|cause| lost(&chosen.name, cause))?;
        Ok(answer.messages.unwrap_or_default())
    }

    /// Shows a message to others again.
    pub(super) async fn release(&self, chosen: &LetterBox, handle: &str) -> Result<(), CliFault> {
        let request = self.sqs.change_message_visibility().queue_url(&chosen.place).receipt_handle(handle);
        request.visibility_timeout(0).send().await.map_err(|cause| lost(&chosen.name, cause))?;
        Ok(())
    }

    pub(super) async fn delete(&self, chosen: &LetterBox, handle: &str) -> Result<(), CliFault> {
        let request = self.sqs.delete_message().queue_url(&chosen.place).receipt_handle(handle);
        request.send().await.map_err(|cause| lost(&chosen.name, cause))?;
        Ok(())
    }

    /// What a message tells; the evidence that it announces, too.
    pub(super) async fn letter(&self, message: &Message) -> Result<Letter, CliFault> {
        let letter = Letter::of_message(message);
        match letter.announces() {
            Some((bucket, key)) => {
                let evidence = match self.object(bucket, key).await {
                    Ok(evidence) => evidence,
                    // It was dropped, or is older than the bucket keeps.
                    Err(_) => return Ok(letter),
                };
                let told = Letter::of_object(bucket, key, &evidence);
                Ok(Letter { id: letter.id, at: letter.at, receives: letter.receives, ..told })
            }
            None => Ok(letter),
        }
    }

    pub(super) async fn delete_object(&self, bucket: &str, key: &str) -> Result<(), CliFault> {
        let answer = self.s3.delete_object().bucket(bucket).key(key).send().await;
        answer.map(|_| ()).map_err(|cause| lost(key, cause))
    }

    pub(super) async fn object(&self, bucket: &str, key: &str) -> Result<Value, CliFault> {
        let answer = self.s3.get_object().bucket(bucket).key(key).send().await.map_err(|cause| lost(key, cause))?;
        let bytes = answer.body.collect().await.map_err(|cause| lost(key, cause))?.into_bytes();
        Ok(serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into()))
    }
}

/// The queues that others name as where their failures go, and the one for what is parked.
fn letter_boxes(queues: &[Queue]) -> Vec<LetterBox> {
    let of_queue = |queue: &Queue| {
        let fed = |source: &&Queue| source.target.as_deref() == Some(queue.arn.as_str());
        let (sources, source_urls): (Vec<String>, Vec<String>) =
            queues.iter().filter(fed).map(|source| (source.name.clone(), source.url.clone())).unzip();
        let kind = match (queue.name.as_str(), sources.is_empty()) {
            (PARKED, _) => Kind::Parked,
            (_, false) => Kind::DeadLetters,
            (name, true) if name.ends_with("DeadLetters") => Kind::DeadLetters,
            (_, true) => return None,
        };
        let (messages, in_flight, place) = (queue.messages, queue.in_flight, queue.url.clone());
        Some(LetterBox { name: queue.name.clone(), kind, messages, in_flight, sources, source_urls, place })
    };
    queues.iter().filter_map(of_queue).collect()
}

impl Queue {
    async fn ask(sqs: &aws_sdk_sqs::Client, name: String, url: String) -> Result<Self, CliFault> {
        let request = sqs.get_queue_attributes().queue_url(&url).attribute_names(QueueAttributeName::All);
        let answer = request.send().await.map_err(|cause| lost(&name, cause))?;
        let told = answer.attributes.unwrap_or_default();
        let text = |attribute: QueueAttributeName| told.get(&attribute).cloned().unwrap_or_default();
        let number = |attribute| text(attribute).parse().unwrap_or_default();
        let policy: Value = serde_json::from_str(&text(QueueAttributeName::RedrivePolicy)).unwrap_or_default();
        Ok(Self {
            name,
            url,
            arn: text(QueueAttributeName::QueueArn),
            target: policy.get("deadLetterTargetArn").and_then(Value::as_str).map(str::to_owned),
            messages: number(QueueAttributeName::ApproximateNumberOfMessages),
            in_flight: number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
        })
    }
}

/// The keys of a bucket, in order, `limit` at most.
pub(super) async fn keys(s3: &aws_sdk_s3::Client, bucket: &str, limit: usize) -> Result<Vec<String>, CliFault> {
    let (mut keys, mut next) = (Vec::new(), None);
    loop {
        let request = s3.list_objects_v2().bucket(bucket).set_continuation_token(next);
        let answer = request.send().await.map_err(|cause| lost(bucket, cause))?;
        keys.extend(answer.contents.unwrap_or_default().into_iter().filter_map(|object| object.key));
        next = answer.next_continuation_token;
        if keys.len() >= limit || next.is_none() {
            keys.truncate(limit);
            return Ok(keys);
        }
    }
}

async fn deployed(aws: &SdkConfig, stack: &str) -> Result<Inventory, CliFault> {
    let client = aws_sdk_cloudformation::Client::new(aws);
    let (mut inventory, mut next) = (Inventory::default(), None);
    loop {
        let request = client.list_stack_resources().stack_name(stack).set_next_token(next);
        let answer = request.send().await;
        let answer = answer.map_err(|cause| CliFault::storage(format!("stack `{stack}` cannot be read"), cause))?;
        for resource in answer.stack_resource_summaries.unwrap_or_default() {
            let Some((name, id)) = resource.logical_resource_id.zip(resource.physical_resource_id) else { continue };
            match resource.resource_type.as_deref() {
                Some("AWS::SQS::Queue") => drop(inventory.queues.insert(name, id)),
                Some("AWS::S3::Bucket") => drop(inventory.buckets.insert(name, id)),
                _ => {}
            }
        }
        next = answer.next_token;
        if next.is_none() {
            return Ok(inventory);
        }
    }
}

pub(super) fn lost(name: &str, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CliFault {
    CliFault::storage(format!("`{name}` cannot be used"), cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_others_give_up_to_keeps_failures_and_so_does_the_parked_queue() {
        let queue = |name: &str, target: Option<&str>| Queue {
            name: name.to_owned(),
            url: format!("http://x/{name}"),
            arn: format!("arn:{name}"),
            target: target.map(|target| format!("arn:{target}")),
            messages: 1,
            in_flight: 0,
        };
        let queues = [
            queue("Work", Some("Failed")),
            queue("Other", Some("Failed")),
            queue("Failed", None),
            queue("RuleDeadLetters", None),
            queue("ParkedQueue", None),
            queue("Events", None),
        ];
        let boxes = letter_boxes(&queues);
        let told: Vec<_> = boxes.iter().map(|one| (one.name.as_str(), one.kind, one.sources.len())).collect();
        assert_eq!(
            told,
            [
                ("Failed", Kind::DeadLetters, 2),
                ("RuleDeadLetters", Kind::DeadLetters, 0),
                ("ParkedQueue", Kind::Parked, 0)
            ]
        );
    }
}
