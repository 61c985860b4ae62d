//! The AWS JSON 1.0 protocol of SQS, for every operation the emulation knows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::attributes::MAX_BYTES;
use super::messages::check;
use super::moves::Move;
use super::{MessageAttribute, Outgoing, QueueError, Queues, Received, Sent, checksum};
use crate::store::StoreError;
use crate::wire::{self, chain};

const MAX_ENTRIES: usize = 10;

impl Queues {
    /// Answers one request of the JSON protocol; `operation` is what follows `AmazonSQS.` in `X-Amz-Target`.
    pub async fn handle(&self, operation: &str, body: Bytes) -> Response<Bytes> {
        match self.dispatch(operation, &body).await {
            Ok(answer) => wire::answer("1.0", StatusCode::OK, &answer),
            Err(error) => refuse(operation, &error),
        }
    }

    async fn dispatch(&self, operation: &str, body: &Bytes) -> Result<Value, QueueError> {
        match operation {
            "CreateQueue" => self.create_queue(read(body)?).await,
            "DeleteQueue" => {
                let (this, name) = (self.clone(), read::<ByUrl>(body)?.name()?);
                blocking(move || this.remove(&name)).await?;
                Ok(json!({}))
            }
            "GetQueueUrl" => {
                let request: ByName = read(body)?;
                self.find(&request.queue_name)?;
                Ok(json!({"QueueUrl": self.url(&request.queue_name)}))
            }
            "ListQueues" => self.list_queues(read(body)?),
            "GetQueueAttributes" => self.get_queue_attributes(&read(body)?),
            "SetQueueAttributes" => self.set_queue_attributes(read(body)?).await,
            "PurgeQueue" => {
                self.purge(&read::<ByUrl>(body)?.name()?).await?;
                Ok(json!({}))
            }
            "SendMessage" => self.send_message(read(body)?).await,
            "SendMessageBatch" => self.send_message_batch(read(body)?).await,
            "ReceiveMessage" => self.receive_message(read(body)?).await,
            "DeleteMessage" => {
                let request: DeleteMessage = read(body)?;
                self.delete(&queue_name(&request.queue_url)?, &[required("ReceiptHandle", request.receipt_handle)?])
                    .await?;
                Ok(json!({}))
            }
            "DeleteMessageBatch" => self.delete_message_batch(read(body)?).await,
            "ChangeMessageVisibility" => {
                let request: ChangeMessageVisibility = read(body)?;
                let change = request.change.parse()?;
                self.change_visibility(&queue_name(&request.queue_url)?, &[change]).await?;
                Ok(json!({}))
            }
            "ChangeMessageVisibilityBatch" => self.change_message_visibility_batch(read(body)?).await,
            "ListDeadLetterSourceQueues" => {
                let queue = self.find(&read::<ByUrl>(body)?.name()?)?;
                let urls: Vec<_> = self.sources_of(&queue.arn).iter().map(|source| self.url(&source.name)).collect();
                Ok(json!({"queueUrls": urls}))
            }
            "StartMessageMoveTask" => {
                let request: StartMessageMoveTask = read(body)?;
                let destination = request.destination_arn.as_deref();
                let rate = request.max_number_of_messages_per_second;
                Ok(json!({"TaskHandle": self.start_move(&request.source_arn, destination, rate).await?}))
            }
            "ListMessageMoveTasks" => {
                let request: ListMessageMoveTasks = read(body)?;
                let limit = within("MaxResults", request.max_results, 1..=10, 1)?;
                let moves = self.moves(&request.source_arn, limit)?;
                Ok(json!({"Results": moves.iter().map(move_result).collect::<Vec<_>>()}))
            }
            "CancelMessageMoveTask" => {
                let request: CancelMessageMoveTask = read(body)?;
                let moved = self.cancel_move(request.task_handle).await?;
                Ok(json!({"ApproximateNumberOfMessagesMoved": moved}))
            }
            _ => Err(QueueError::InvalidAction(operation.into())),
        }
    }

    async fn create_queue(&self, request: CreateQueue) -> Result<Value, QueueError> {
        let this = self.clone();
        let url = blocking(move || this.create(&request.queue_name, request.attributes)).await?;
        Ok(json!({"QueueUrl": url}))
    }

    async fn set_queue_attributes(&self, request: SetQueueAttributes) -> Result<Value, QueueError> {
        let (this, name) = (self.clone(), queue_name(&request.queue_url)?);
        blocking(move || this.set_attributes(&name, request.attributes)).await?;
        Ok(json!({}))
    }

    fn list_queues(&self, request: ListQueues) -> Result<Value, QueueError> {
        let prefix = request.queue_name_prefix.unwrap_or_default();
        let limit = within("MaxResults", request.max_results, 1..=1000, 1000)?;
        let after = request.next_token.unwrap_or_default();
        let mut names = self.names();
        names.retain(|name| name.starts_with(&prefix) && *name > after);
        let mut page = names.into_iter();
        let found: Vec<_> = page.by_ref().take(usize::try_from(limit).unwrap_or(usize::MAX)).collect();
        let urls: Vec<_> = found.iter().map(|name| self.url(name)).collect();
        let mut answer = json!({"QueueUrls": urls});
        // As on AWS, pages exist only for callers that ask for them.
        if let (Some(_), Some(last), Some(fields)) = (page.next(), found.last(), answer.as_object_mut())
            && request.max_results.is_some()
        {
            fields.insert("NextToken".into(), json!(last));
        }
        Ok(answer)
    }

    fn get_queue_attributes(&self, request: &GetQueueAttributes) -> Result<Value, QueueError> {
        let queue = self.find(&queue_name(&request.queue_url)?)?;
        let depth = self.depth(&queue.name)?;
        let mut attributes = queue.attributes.all();
        attributes.extend(
            [
                ("QueueArn", queue.arn.clone()),
                ("CreatedTimestamp", (queue.created_ms / 1000).to_string()),
                ("LastModifiedTimestamp", (queue.modified_ms / 1000).to_string()),
                ("ApproximateNumberOfMessages", depth.visible.to_string()),
                ("ApproximateNumberOfMessagesNotVisible", depth.in_flight.to_string()),
                ("ApproximateNumberOfMessagesDelayed", depth.delayed.to_string()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        let wanted = &request.attribute_names;
        if let Some(unknown) = wanted.iter().find(|name| !ATTRIBUTE_NAMES.contains(&name.as_str())) {
            return Err(QueueError::InvalidAttributeName(unknown.clone()));
        }
        attributes.retain(|name, _| wanted.iter().any(|wanted| wanted == "All" || wanted == name));
        Ok(if attributes.is_empty() { json!({}) } else { json!({"Attributes": attributes}) })
    }

    async fn send_message(&self, request: SendMessage) -> Result<Value, QueueError> {
        let queue = queue_name(&request.queue_url)?;
        let (outgoing, sums) = request.message.into_outgoing()?;
        let sent = self.send(&queue, vec![outgoing]).await?;
        Ok(json!(sent.into_iter().next().map(|sent| SendResult::new(sent, sums))))
    }

    async fn send_message_batch(&self, request: Batch<MessageFields>) -> Result<Value, QueueError> {
        let queue = self.find(&queue_name(&request.queue_url)?)?;
        let entries = distinct(request.entries)?;
        let mut failed = Vec::new();
        let (mut accepted, mut messages) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        for Entry { id, fields } in entries {
            bytes += fields.message_body.as_ref().map_or(0, String::len);
            let checked = fields.into_outgoing().and_then(|(outgoing, sums)| {
                let body_bytes = outgoing.body.len();
                let checked = check(&queue, outgoing)?;
                bytes += checked.bytes - body_bytes;
                Ok((checked, sums))
            });
            match checked {
                Ok((checked, sums)) => {
                    messages.push(checked);
                    accepted.push((id, sums));
                }
                Err(error) => failed.push(Failure::new(id, &error)),
            }
        }
        if bytes > MAX_BYTES {
            return Err(QueueError::BatchRequestTooLong(bytes));
        }
        let sent = self.store_checked(&queue, messages).await?;
        let successful = accepted.into_iter().zip(sent);
        let successful: Vec<_> =
            successful.map(|((id, sums), sent)| SendResult { id: Some(id), ..SendResult::new(sent, sums) }).collect();
        Ok(json!({"Successful": successful, "Failed": failed}))
    }

    async fn receive_message(&self, request: ReceiveMessage) -> Result<Value, QueueError> {
        let queue = self.find(&queue_name(&request.queue_url)?)?;
        let max = within("MaxNumberOfMessages", request.max_number_of_messages, 1..=10, 1)?;
        let wait = match request.wait_time_seconds {
            None => queue.attributes.receive_wait,
            given => Duration::from_secs(within("WaitTimeSeconds", given, 0..=20, 0)?.into()),
        };
        let visibility = match request.visibility_timeout {
            None => None,
            given => Some(Duration::from_secs(within("VisibilityTimeout", given, 0..=43_200, 0)?.into())),
        };
        let system: BTreeSet<_> =
            request.attribute_names.into_iter().chain(request.message_system_attribute_names).collect();
        let messages = self.receive(&queue.name, max, wait, visibility).await?;
        if messages.is_empty() {
            return Ok(json!({}));
        }
        let messages: Vec<_> = messages
            .into_iter()
            .map(|message| ReceivedMessage::new(message, &system, &request.message_attribute_names))
            .collect();
        Ok(json!({"Messages": messages}))
    }

    async fn delete_message_batch(&self, request: Batch<ReceiptFields>) -> Result<Value, QueueError> {
        let queue = self.find(&queue_name(&request.queue_url)?)?;
        let entries = distinct(request.entries)?;
        let ids: Vec<_> = entries.iter().map(|entry| entry.id.clone()).collect();
        let handles = entries.into_iter().map(|entry| required("ReceiptHandle", entry.fields.receipt_handle));
        let outcomes = self.delete_each(&queue, handles.collect::<Result<_, _>>()?).await?;
        Ok(batch_answer(ids, outcomes))
    }

    async fn change_message_visibility_batch(&self, request: Batch<ChangeFields>) -> Result<Value, QueueError> {
        let queue = self.find(&queue_name(&request.queue_url)?)?;
        let entries = distinct(request.entries)?;
        let ids: Vec<_> = entries.iter().map(|entry| entry.id.clone()).collect();
        let changes = entries.into_iter().map(|entry| entry.fields.parse()).collect::<Result<_, _>>()?;
        let outcomes = self.change_each(&queue, changes).await?;
        Ok(batch_answer(ids, outcomes))
    }
}

const ATTRIBUTE_NAMES: [&str; 22] = [
    "All",
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
    "ContentBasedDeduplication",
    "CreatedTimestamp",
    "DeduplicationScope",
    "DelaySeconds",
    "FifoQueue",
    "FifoThroughputLimit",
    "KmsDataKeyReusePeriodSeconds",
    "KmsMasterKeyId",
    "LastModifiedTimestamp",
    "MaximumMessageSize",
    "MessageRetentionPeriod",
    "Policy",
    "QueueArn",
    "ReceiveMessageWaitTimeSeconds",
    "RedriveAllowPolicy",
    "RedrivePolicy",
    "SqsManagedSseEnabled",
    "VisibilityTimeout",
];

/// SDKs read the code from the header if it is there and from `__type` otherwise.
fn refuse(operation: &str, error: &QueueError) -> Response<Bytes> {
    let (shape, code) = error.names();
    let (status, fault) = if error.is_sender_fault() {
        (StatusCode::BAD_REQUEST, "Sender")
    } else {
        tracing::error!(error = %chain(error), operation, "SQS operation failed");
        (StatusCode::INTERNAL_SERVER_ERROR, "Receiver")
    };
    let body = json!({"__type": format!("com.amazonaws.sqs#{shape}"), "message": error.to_string()});
    let mut response = wire::answer("1.0", status, &body);
    if let Ok(value) = HeaderValue::from_str(&format!("{code};{fault}")) {
        response.headers_mut().insert("x-amzn-query-error", value);
    }
    response
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, QueueError> {
    wire::read(body).map_err(QueueError::Malformed)
}

fn required<T>(name: &'static str, value: Option<T>) -> Result<T, QueueError> {
    value.ok_or(QueueError::MissingParameter(name))
}

fn within(
    name: &str,
    value: Option<i64>,
    allowed: std::ops::RangeInclusive<u32>,
    default: u32,
) -> Result<u32, QueueError> {
    let Some(value) = value else { return Ok(default) };
    u32::try_from(value).ok().filter(|value| allowed.contains(value)).ok_or_else(|| {
        let reason = format!("Must be between {} and {}, if provided.", allowed.start(), allowed.end());
        QueueError::invalid(name, reason)
    })
}

/// Queue URLs end in account and name; which host they name does not matter on one machine.
fn queue_name(url: &str) -> Result<String, QueueError> {
    if url.is_empty() {
        return Err(QueueError::MissingParameter("QueueUrl"));
    }
    match url.rsplit('/').next() {
        Some(name) if !name.is_empty() => Ok(name.into()),
        _ => Err(QueueError::InvalidAddress(url.into())),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, QueueError> + Send + 'static,
) -> Result<T, QueueError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(QueueError::Store(StoreError::Closed)))
}

fn distinct<T>(entries: Vec<Entry<T>>) -> Result<Vec<Entry<T>>, QueueError> {
    if entries.is_empty() {
        return Err(QueueError::EmptyBatchRequest);
    }
    if entries.len() > MAX_ENTRIES {
        return Err(QueueError::TooManyEntriesInBatchRequest(entries.len()));
    }
    let mut seen = BTreeSet::new();
    for Entry { id, .. } in &entries {
        let is_id_byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !(1..=80).contains(&id.len()) || !id.bytes().all(is_id_byte) {
            return Err(QueueError::InvalidBatchEntryId(id.clone()));
        }
        if !seen.insert(id) {
            return Err(QueueError::BatchEntryIdsNotDistinct(id.clone()));
        }
    }
    Ok(entries)
}

fn batch_answer(ids: Vec<String>, outcomes: Vec<Result<(), QueueError>>) -> Value {
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for (id, outcome) in ids.into_iter().zip(outcomes) {
        match outcome {
            Ok(()) => successful.push(json!({"Id": id})),
            Err(error) => failed.push(Failure::new(id, &error)),
        }
    }
    json!({"Successful": successful, "Failed": failed})
}

fn move_result(task: &Move) -> Value {
    let mut result = json!({
        "Status": task.status,
        "SourceArn": task.source_arn,
        "ApproximateNumberOfMessagesMoved": task.moved,
        "ApproximateNumberOfMessagesToMove": task.to_move,
        "StartedTimestamp": task.started_ms,
    });
    if let Some(fields) = result.as_object_mut() {
        let optional = [
            ("TaskHandle", (task.status == "RUNNING").then(|| json!(task.handle))),
            ("DestinationArn", task.destination_arn.as_ref().map(|arn| json!(arn))),
            ("MaxNumberOfMessagesPerSecond", task.per_second.map(|rate| json!(rate))),
            ("FailureReason", task.failure.as_ref().map(|reason| json!(reason))),
        ];
        fields.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    }
    result
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ByUrl {
    #[serde(default)]
    queue_url: String,
}

impl ByUrl {
    fn name(&self) -> Result<String, QueueError> {
        queue_name(&self.queue_url)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ByName {
    #[serde(default)]
    queue_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateQueue {
    #[serde(default)]
    queue_name: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SetQueueAttributes {
    #[serde(default)]
    queue_url: String,
    attributes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetQueueAttributes {
    #[serde(default)]
    queue_url: String,
    #[serde(default)]
    attribute_names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListQueues {
    queue_name_prefix: Option<String>,
    max_results: Option<i64>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SendMessage {
    #[serde(default)]
    queue_url: String,
    #[serde(flatten)]
    message: MessageFields,
}

/// What `SendMessage` and an entry of `SendMessageBatch` have in common.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MessageFields {
    message_body: Option<String>,
    delay_seconds: Option<i64>,
    message_group_id: Option<String>,
    message_deduplication_id: Option<String>,
    #[serde(default)]
    message_attributes: BTreeMap<String, AttributeValue>,
    #[serde(default)]
    message_system_attributes: BTreeMap<String, AttributeValue>,
}

impl MessageFields {
    fn into_outgoing(self) -> Result<(Outgoing, Sums), QueueError> {
        let to_attributes = |values: BTreeMap<String, AttributeValue>| -> BTreeMap<String, MessageAttribute> {
            values.into_iter().map(|(name, value)| (name, value.into())).collect()
        };
        let message_attributes = to_attributes(self.message_attributes);
        let system_attributes = to_attributes(self.message_system_attributes);
        let sums = Sums {
            attributes: checksum::of_attributes(&message_attributes),
            system_attributes: checksum::of_attributes(&system_attributes),
        };
        let delay = match self.delay_seconds {
            None => None,
            given => Some(Duration::from_secs(within("DelaySeconds", given, 0..=900, 0)?.into())),
        };
        let outgoing = Outgoing {
            body: self.message_body.unwrap_or_default(),
            delay,
            group_id: self.message_group_id,
            deduplication_id: self.message_deduplication_id,
            message_attributes,
            system_attributes: system_attributes
                .into_iter()
                .map(|(name, value)| (name, value.string_value.unwrap_or_default()))
                .collect(),
        };
        Ok((outgoing, sums))
    }
}

#[derive(Default)]
struct Sums {
    attributes: Option<String>,
    system_attributes: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AttributeValue {
    data_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    string_value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    binary_value: Option<String>,
}

impl From<AttributeValue> for MessageAttribute {
    fn from(value: AttributeValue) -> Self {
        Self { data_type: value.data_type, string_value: value.string_value, binary_value: value.binary_value }
    }
}

impl From<MessageAttribute> for AttributeValue {
    fn from(value: MessageAttribute) -> Self {
        Self { data_type: value.data_type, string_value: value.string_value, binary_value: value.binary_value }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SendResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    message_id: String,
    #[serde(rename = "MD5OfMessageBody")]
    md5_of_message_body: String,
    #[serde(rename = "MD5OfMessageAttributes", skip_serializing_if = "Option::is_none")]
    md5_of_message_attributes: Option<String>,
    #[serde(rename = "MD5OfMessageSystemAttributes", skip_serializing_if = "Option::is_none")]
    md5_of_message_system_attributes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence_number: Option<String>,
}

impl SendResult {
    fn new(sent: Sent, sums: Sums) -> Self {
        Self {
            id: None,
            message_id: sent.message_id,
            md5_of_message_body: sent.md5_of_body,
            md5_of_message_attributes: sums.attributes,
            md5_of_message_system_attributes: sums.system_attributes,
            sequence_number: sent.sequence_number,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Batch<T> {
    #[serde(default)]
    queue_url: String,
    #[serde(default = "Vec::new")]
    entries: Vec<Entry<T>>,
}

#[derive(Deserialize)]
struct Entry<T> {
    #[serde(rename = "Id", default)]
    id: String,
    #[serde(flatten)]
    fields: T,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    id: String,
    sender_fault: bool,
    code: &'static str,
    message: String,
}

impl Failure {
    fn new(id: String, error: &QueueError) -> Self {
        Self { id, sender_fault: error.is_sender_fault(), code: error.code(), message: error.to_string() }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReceiveMessage {
    #[serde(default)]
    queue_url: String,
    max_number_of_messages: Option<i64>,
    wait_time_seconds: Option<i64>,
    visibility_timeout: Option<i64>,
    #[serde(default)]
    attribute_names: Vec<String>,
    #[serde(default)]
    message_system_attribute_names: Vec<String>,
    #[serde(default)]
    message_attribute_names: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ReceivedMessage {
    message_id: String,
    receipt_handle: String,
    #[serde(rename = "MD5OfBody")]
    md5_of_body: String,
    body: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<String, String>,
    #[serde(rename = "MD5OfMessageAttributes", skip_serializing_if = "Option::is_none")]
    md5_of_message_attributes: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    message_attributes: BTreeMap<String, AttributeValue>,
}

impl ReceivedMessage {
    /// Keeps the attributes that were asked for.
    fn new(mut message: Received, system: &BTreeSet<String>, names: &[String]) -> Self {
        message.attributes.retain(|name, _| system.contains("All") || system.contains(name));
        message.message_attributes.retain(|name, _| {
            names.iter().any(|wanted| {
                wanted == "All"
                    || wanted == name
                    || wanted.strip_suffix(".*").is_some_and(|prefix| name.starts_with(prefix))
            })
        });
        Self {
            message_id: message.message_id,
            receipt_handle: message.receipt_handle,
            md5_of_body: message.md5_of_body,
            body: message.body,
            attributes: message.attributes,
            md5_of_message_attributes: checksum::of_attributes(&message.message_attributes),
            message_attributes: message.message_attributes.into_iter().map(|(name, it)| (name, it.into())).collect(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteMessage {
    #[serde(default)]
    queue_url: String,
    receipt_handle: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReceiptFields {
    receipt_handle: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeMessageVisibility {
    #[serde(default)]
    queue_url: String,
    #[serde(flatten)]
    change: ChangeFields,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeFields {
    receipt_handle: Option<String>,
    visibility_timeout: Option<i64>,
}

impl ChangeFields {
    fn parse(self) -> Result<(String, Duration), QueueError> {
        let handle = required("ReceiptHandle", self.receipt_handle)?;
        let seconds = Some(required("VisibilityTimeout", self.visibility_timeout)?);
        Ok((handle, Duration::from_secs(within("VisibilityTimeout", seconds, 0..=43_200, 0)?.into())))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StartMessageMoveTask {
    #[serde(default)]
    source_arn: String,
    destination_arn: Option<String>,
    max_number_of_messages_per_second: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListMessageMoveTasks {
    #[serde(default)]
    source_arn: String,
    max_results: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CancelMessageMoveTask {
    #[serde(default)]
    task_handle: String,
}
