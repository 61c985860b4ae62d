//! What happens to messages inside one transaction: send, receive, delete, visibility, redrive.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rusqlite::{Connection, OptionalExtension, Row, params};
use sha2::{Digest, Sha256};

use super::attributes::{MAX_DELAY, MAX_VISIBILITY};
use super::{Depth, MessageAttribute, Outgoing, Queue, QueueError, Received, Sent, checksum};
use crate::wire::new_id;

const DEDUPLICATION_INTERVAL: Duration = Duration::from_secs(300);
const TRACE_HEADER: &str = "AWSTraceHeader";
const WRONG_QUEUE_TYPE: &str = "The request includes a parameter that is not valid for this queue type.";
const MAX_MESSAGE_ATTRIBUTES: usize = 10;

/// A message that the queue accepts.
#[derive(Debug)]
pub(super) struct Checked {
    body: String,
    md5: String,
    delay: Duration,
    group_id: Option<String>,
    /// Always present on FIFO queues, never on standard ones.
    deduplication_id: Option<String>,
    trace_header: Option<String>,
    attributes: String,
    /// What counts towards the size limits: body and attributes.
    pub(super) bytes: usize,
}

pub(super) fn check(queue: &Queue, message: Outgoing) -> Result<Checked, QueueError> {
    if message.body.is_empty() {
        return Err(QueueError::MissingParameter("MessageBody"));
    }
    check_characters(&message.body)?;
    let bytes = message.body.len() + check_attributes(&message.message_attributes)?;
    if bytes > queue.attributes.max_message_bytes {
        return Err(QueueError::invalid(
            "MessageBody",
            format!("Message must be shorter than {} bytes.", queue.attributes.max_message_bytes),
        ));
    }
    if message.delay.is_some_and(|delay| delay > MAX_DELAY) {
        return Err(QueueError::invalid("DelaySeconds", "DelaySeconds must be >= 0 and <= 900."));
    }
    for (name, id) in [("MessageGroupId", &message.group_id), ("MessageDeduplicationId", &message.deduplication_id)] {
        let is_valid = |id: &String| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
        if !id.as_ref().is_none_or(is_valid) {
            return Err(QueueError::invalid(name, "Must be 1 to 128 alphanumeric or punctuation characters."));
        }
    }
    if let Some(unknown) = message.system_attributes.keys().find(|name| *name != TRACE_HEADER) {
        return Err(QueueError::invalid("MessageSystemAttributes", format!("`{unknown}` is not supported.")));
    }
    let deduplication_id = if queue.attributes.fifo {
        if message.delay.is_some_and(|delay| !delay.is_zero()) {
            return Err(QueueError::invalid("DelaySeconds", WRONG_QUEUE_TYPE));
        }
        if message.group_id.is_none() {
            return Err(QueueError::MissingParameter("MessageGroupId"));
        }
        match message.deduplication_id {
            None if queue.attributes.content_based_deduplication => Some(hex::encode(Sha256::digest(&message.body))),
            None => {
                return Err(QueueError::invalid(
                    "MessageDeduplicationId",
                    "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided \
                     explicitly",
                ));
            }
            given => given,
        }
    } else if message.deduplication_id.is_some() {
        return Err(QueueError::invalid("MessageDeduplicationId", WRONG_QUEUE_TYPE));
    } else {
        None
    };
    Ok(Checked {
        md5: checksum::of_body(&message.body),
        body: message.body,
        delay: message.delay.filter(|_| !queue.attributes.fifo).unwrap_or(queue.attributes.delay),
        group_id: message.group_id,
        deduplication_id,
        trace_header: message.system_attributes.into_values().next(),
        attributes: serde_json::to_string(&message.message_attributes).map_err(QueueError::Malformed)?,
        bytes,
    })
}

/// The characters of XML 1.0, which is what SQS accepts.
fn check_characters(text: &str) -> Result<(), QueueError> {
    let is_allowed = |c: &char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{FFFD}' | '\u{10000}'..);
    match text.chars().find(|c| !is_allowed(c)) {
        None => Ok(()),
        Some(c) => Err(QueueError::InvalidMessageContents(c.into())),
    }
}

/// Returns how many bytes the attributes count.
fn check_attributes(attributes: &BTreeMap<String, MessageAttribute>) -> Result<usize, QueueError> {
    let refuse = |reason: String| Err(QueueError::invalid("MessageAttributes", reason));
    if attributes.len() > MAX_MESSAGE_ATTRIBUTES {
        return refuse(format!(
            "Number of message attributes [{}] exceeds the allowed maximum [10].",
            attributes.len()
        ));
    }
    let mut bytes = 0;
    for (name, attribute) in attributes {
        let is_name_character = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let lower = name.to_ascii_lowercase();
        if !(1..=256).contains(&name.len())
            || !name.bytes().all(is_name_character)
            || name.starts_with('.')
            || name.ends_with('.')
            || name.contains("..")
            || lower.starts_with("aws.")
            || lower.starts_with("amazon.")
        {
            return refuse(format!("`{name}` is not a valid name of a message attribute."));
        }
        let kind = attribute.data_type.split('.').next().unwrap_or_default();
        let value_bytes = match (kind, &attribute.string_value, &attribute.binary_value) {
            ("String", Some(value), None) => {
                check_characters(value)?;
                value.len()
            }
            ("Number", Some(value), None) if value.trim().parse::<f64>().is_ok() => value.len(),
            ("Number", Some(value), None) => return refuse(format!("`{value}` of `{name}` is not a number.")),
            ("Binary", None, Some(value)) => match STANDARD.decode(value) {
                Ok(value) => value.len(),
                Err(_) => return refuse(format!("the value of `{name}` is not base64.")),
            },
            ("String" | "Number" | "Binary", _, _) => {
                return refuse(format!("`{name}` must contain a value of type `{}`.", attribute.data_type));
            }
            _ => return refuse(format!("`{name}` has the unknown type `{}`.", attribute.data_type)),
        };
        if value_bytes == 0 {
            return refuse(format!("`{name}` must contain a non-empty value."));
        }
        bytes += name.len() + attribute.data_type.len() + value_bytes;
    }
    Ok(bytes)
}

pub(super) fn insert(
    connection: &Connection,
    queue: &Queue,
    messages: &[Checked],
    now: i64,
) -> Result<Vec<Sent>, QueueError> {
    if queue.attributes.fifo {
        connection.prepare_cached("DELETE FROM deduplication WHERE expires_ms <= ?1")?.execute([now])?;
    }
    messages.iter().map(|message| insert_one(connection, queue, message, now)).collect()
}

fn insert_one(connection: &Connection, queue: &Queue, message: &Checked, now: i64) -> Result<Sent, QueueError> {
    let scope = match &message.group_id {
        Some(group) if queue.attributes.deduplicates_per_group => group.as_str(),
        _ => "",
    };
    if let Some(id) = &message.deduplication_id {
        let original = connection
            .prepare_cached(
                "SELECT message_id, sequence FROM deduplication
                 WHERE queue = ?1 AND scope = ?2 AND deduplication_id = ?3 AND expires_ms > ?4",
            )?
            .query_row(params![queue.id, scope, id, now], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if let Some((message_id, sequence)) = original {
            return Ok(Sent {
                message_id,
                md5_of_body: message.md5.clone(),
                sequence_number: Some(sequence_number(sequence)),
            });
        }
    }
    let message_id = new_id();
    connection
        .prepare_cached(
            "INSERT INTO messages (queue, visible_ms, sent_ms, receives, message_id, group_id, deduplication_id,
                 trace_header, attributes, md5, body)
             VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            queue.id,
            now.saturating_add(milliseconds(message.delay)),
            now,
            message_id,
            message.group_id,
            message.deduplication_id,
            message.trace_header,
            message.attributes,
            message.md5,
            message.body,
        ])?;
    let sequence = connection.last_insert_rowid();
    if let Some(id) = &message.deduplication_id {
        connection
            .prepare_cached(
                "INSERT INTO deduplication (queue, scope, deduplication_id, expires_ms, message_id, sequence)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                queue.id,
                scope,
                id,
                now.saturating_add(milliseconds(DEDUPLICATION_INTERVAL)),
                message_id,
                sequence
            ])?;
    }
    let sequence_number = message.deduplication_id.as_ref().map(|_| sequence_number(sequence));
    Ok(Sent { message_id, md5_of_body: message.md5.clone(), sequence_number })
}

/// One look at a queue.
#[derive(Debug)]
pub(super) struct Receive {
    pub(super) queue: Arc<Queue>,
    pub(super) dead_letters: Option<Arc<Queue>>,
    pub(super) max: u32,
    pub(super) visibility: Duration,
    pub(super) now: i64,
}

#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) messages: Vec<Received>,
    pub(super) dead_lettered: bool,
    /// When an empty batch may have a successor without anything arriving.
    pub(super) next_visible: Option<Duration>,
}

pub(super) fn receive(connection: &Connection, request: &Receive) -> Result<Batch, QueueError> {
    let Receive { queue, now, .. } = request;
    expire(connection, queue, *now)?;
    let mut batch = Batch::default();
    for candidate in candidates(connection, request)? {
        match &request.dead_letters {
            Some(target) if candidate.is_exhausted => {
                dead_letter(connection, candidate.id, queue, target, *now)?;
                batch.dead_lettered = true;
            }
            _ => batch.messages.push(take(connection, candidate.id, request)?),
        }
    }
    if batch.messages.is_empty() {
        let next: Option<i64> = connection
            .prepare_cached("SELECT MIN(visible_ms) FROM messages WHERE queue = ?1 AND visible_ms > ?2")?
            .query_row(params![queue.id, now], |row| row.get(0))?;
        batch.next_visible = next.map(|at| Duration::from_millis(u64::try_from(at - now).unwrap_or_default() + 1));
    }
    Ok(batch)
}

#[derive(Debug)]
struct Candidate {
    id: i64,
    /// Received as often as the redrive policy allows.
    is_exhausted: bool,
}

/// The next messages that nothing hides, oldest first: as many as were asked for, besides the exhausted ones.
fn candidates(connection: &Connection, request: &Receive) -> Result<Vec<Candidate>, QueueError> {
    let Receive { queue, now, .. } = request;
    let max_receives = match (&queue.attributes.redrive, &request.dead_letters) {
        (Some(redrive), Some(_)) => redrive.max_receive_count,
        _ => i64::MAX,
    };
    let mut blocked: HashSet<String> = HashSet::new();
    let mut statement = if queue.attributes.fifo {
        blocked = connection
            .prepare_cached(
                "SELECT DISTINCT group_id FROM messages WHERE queue = ?1 AND visible_ms > ?2 AND receives > 0",
            )?
            .query_map(params![queue.id, now], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        connection.prepare_cached(
            "SELECT id, receives, visible_ms <= ?2, group_id FROM messages INDEXED BY messages_in_order
             WHERE queue = ?1 AND deduplication_id IS NOT NULL ORDER BY id",
        )?
    } else {
        connection.prepare_cached(
            "SELECT id, receives, TRUE, NULL FROM messages WHERE queue = ?1 AND visible_ms <= ?2
             ORDER BY visible_ms, id",
        )?
    };
    let mut rows = statement.query(params![queue.id, now])?;
    let mut candidates = Vec::new();
    let mut wanted = request.max;
    while wanted > 0
        && let Some(row) = rows.next()?
    {
        let group = row.get_ref(3)?.as_str_or_null().map_err(rusqlite::Error::from)?;
        if group.is_some_and(|group| blocked.contains(group)) {
            continue;
        }
        if !row.get::<_, bool>(2)? {
            // Delayed: its successors in the group wait behind it.
            blocked.extend(group.map(str::to_owned));
            continue;
        }
        let is_exhausted = row.get::<_, i64>(1)? >= max_receives;
        wanted -= u32::from(!is_exhausted);
        candidates.push(Candidate { id: row.get(0)?, is_exhausted });
    }
    Ok(candidates)
}

fn take(connection: &Connection, id: i64, request: &Receive) -> Result<Received, QueueError> {
    let Receive { queue, now, visibility, .. } = request;
    let receipt: i64 = rand::random();
    let mut received = connection
        .prepare_cached(&format!(
            "UPDATE messages SET visible_ms = ?2, receives = receives + 1, receipt = ?3, received_ms = ?4,
                 first_received_ms = COALESCE(first_received_ms, ?4)
             WHERE id = ?1 RETURNING {RECEIVED}"
        ))?
        .query_row(params![id, now.saturating_add(milliseconds(*visibility)), receipt, now], |row| {
            read_message(row, queue)
        })?;
    received.receipt_handle = Receipt { queue: queue.id, message: id, receipt }.to_string();
    Ok(received)
}

const RECEIVED: &str = "id, message_id, body, md5, attributes, sent_ms, receives, first_received_ms, group_id,
    deduplication_id, trace_header, source";

/// Reads the columns `RECEIVED`, all but the receipt handle.
fn read_message(row: &Row<'_>, queue: &Queue) -> Result<Received, rusqlite::Error> {
    let id: i64 = row.get(0)?;
    let first_received: Option<i64> = row.get(7)?;
    let deduplication_id: Option<String> = row.get(9)?;
    let sequence_number = deduplication_id.as_ref().map(|_| sequence_number(id));
    let attributes = [
        ("SenderId", Some(queue.account.clone())),
        ("SentTimestamp", Some(row.get::<_, i64>(5)?.to_string())),
        ("ApproximateReceiveCount", Some(row.get::<_, i64>(6)?.to_string())),
        ("ApproximateFirstReceiveTimestamp", first_received.map(|at| at.to_string())),
        ("MessageGroupId", row.get(8)?),
        ("MessageDeduplicationId", deduplication_id),
        ("SequenceNumber", sequence_number),
        (TRACE_HEADER, row.get(10)?),
        ("DeadLetterQueueSourceArn", row.get(11)?),
    ];
    Ok(Received {
        message_id: row.get(1)?,
        receipt_handle: String::new(),
        body: row.get(2)?,
        md5_of_body: row.get(3)?,
        attributes: attributes.into_iter().filter_map(|(name, value)| Some((name.into(), value?))).collect(),
        message_attributes: serde_json::from_str(row.get_ref(4)?.as_str()?).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, Box::new(error))
        })?,
    })
}

/// Which receive of which message: what a receipt handle encodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Receipt {
    queue: i64,
    message: i64,
    receipt: i64,
}

impl Display for Receipt {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(format!("{}/{}/{}", self.queue, self.message, self.receipt)))
    }
}

impl Receipt {
    fn parse(handle: &str, queue: &Queue) -> Result<Self, QueueError> {
        let text = STANDARD.decode(handle).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let numbers: Option<Vec<i64>> =
            text.and_then(|text| text.split('/').map(|number| number.parse().ok()).collect());
        match numbers.as_deref() {
            Some(&[id, message, receipt]) if id == queue.id => Ok(Self { queue: id, message, receipt }),
            _ => Err(QueueError::ReceiptHandleIsInvalid),
        }
    }

    /// What the message is now; `None` if it was deleted or moved.
    fn look_up(self, connection: &Connection) -> Result<Option<InFlight>, QueueError> {
        let found = connection
            .prepare_cached("SELECT receipt, visible_ms, received_ms FROM messages WHERE id = ?1 AND queue = ?2")?
            .query_row([self.message, self.queue], |row| {
                Ok(InFlight {
                    is_latest: row.get::<_, Option<i64>>(0)? == Some(self.receipt),
                    visible_ms: row.get(1)?,
                    received_ms: row.get::<_, Option<i64>>(2)?.unwrap_or_default(),
                })
            })
            .optional()?;
        Ok(found)
    }
}

#[derive(Debug)]
struct InFlight {
    is_latest: bool,
    visible_ms: i64,
    received_ms: i64,
}

pub(super) fn delete(connection: &Connection, queue: &Queue, handle: &str, now: i64) -> Result<(), QueueError> {
    let receipt = Receipt::parse(handle, queue)?;
    match receipt.look_up(connection)? {
        None => Ok(()),
        Some(it) if queue.attributes.fifo && (!it.is_latest || it.visible_ms <= now) => {
            Err(QueueError::invalid("ReceiptHandle", "The receipt handle has expired."))
        }
        Some(it) if !it.is_latest => Ok(()),
        Some(_) => {
            connection.prepare_cached("DELETE FROM messages WHERE id = ?1")?.execute([receipt.message])?;
            Ok(())
        }
    }
}

pub(super) fn change_visibility(
    connection: &Connection,
    queue: &Queue,
    handle: &str,
    timeout: Duration,
    now: i64,
) -> Result<(), QueueError> {
    if timeout > MAX_VISIBILITY {
        return Err(QueueError::invalid("VisibilityTimeout", "VisibilityTimeout must be between 0 and 43200 seconds."));
    }
    let receipt = Receipt::parse(handle, queue)?;
    let gone = "Message does not exist or is not available for visibility timeout change.";
    match receipt.look_up(connection)? {
        None => Err(QueueError::invalid("ReceiptHandle", gone)),
        Some(it) if !it.is_latest => Err(QueueError::invalid("ReceiptHandle", gone)),
        Some(it) if it.visible_ms <= now => Err(QueueError::MessageNotInflight),
        Some(it) if now - it.received_ms + milliseconds(timeout) > milliseconds(MAX_VISIBILITY) => {
            Err(QueueError::invalid(
                "VisibilityTimeout",
                "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]",
            ))
        }
        Some(_) => {
            connection
                .prepare_cached("UPDATE messages SET visible_ms = ?2 WHERE id = ?1")?
                .execute([receipt.message, now.saturating_add(milliseconds(timeout))])?;
            Ok(())
        }
    }
}

/// Moves a message to the dead-letter queue under its own `MessageId`.
/// A standard queue keeps the time it was sent, from which retention counts; a FIFO queue starts it anew.
fn dead_letter(connection: &Connection, id: i64, from: &Queue, to: &Queue, now: i64) -> Result<(), QueueError> {
    connection
        .prepare_cached(
            "INSERT INTO messages (queue, visible_ms, sent_ms, receives, source, message_id, group_id,
                 deduplication_id, trace_header, attributes, md5, body)
             SELECT ?2, ?3, CASE WHEN ?4 THEN ?3 ELSE sent_ms END, 0, ?5, message_id, group_id,
                 deduplication_id, trace_header, attributes, md5, body
             FROM messages WHERE id = ?1",
        )?
        .execute(params![id, to.id, now, to.attributes.fifo, from.arn])?;
    connection.prepare_cached("DELETE FROM messages WHERE id = ?1")?.execute([id])?;
    Ok(())
}

/// Moves a message out of a dead-letter queue: as on AWS it arrives as a new message.
pub(super) fn redrive(connection: &Connection, id: i64, to: &Queue, now: i64) -> Result<(), QueueError> {
    connection
        .prepare_cached(
            "INSERT INTO messages (queue, visible_ms, sent_ms, receives, message_id, group_id, deduplication_id,
                 trace_header, attributes, md5, body)
             SELECT ?2, ?3, ?3, 0, ?4, group_id, deduplication_id, trace_header, attributes, md5, body
             FROM messages WHERE id = ?1",
        )?
        .execute(params![id, to.id, now, new_id()])?;
    connection.prepare_cached("DELETE FROM messages WHERE id = ?1")?.execute([id])?;
    Ok(())
}

/// Drops what is older than the retention period, in flight or not.
fn expire(connection: &Connection, queue: &Queue, now: i64) -> Result<(), QueueError> {
    connection
        .prepare_cached("DELETE FROM messages WHERE queue = ?1 AND sent_ms <= ?2")?
        .execute([queue.id, oldest_kept(queue, now)])?;
    Ok(())
}

pub(super) fn purge(connection: &Connection, queue: &Queue) -> Result<(), QueueError> {
    connection.execute("DELETE FROM messages WHERE queue = ?1", [queue.id])?;
    Ok(())
}

pub(super) fn return_in_flight(connection: &Connection, queue: &Queue, now: i64) -> Result<(), QueueError> {
    connection.execute(
        "UPDATE messages SET visible_ms = ?2, receipt = NULL WHERE queue = ?1 AND visible_ms > ?2 AND receives > 0",
        [queue.id, now],
    )?;
    Ok(())
}

pub(super) fn depth(connection: &Connection, queue: &Queue, now: i64) -> Result<Depth, rusqlite::Error> {
    connection
        .prepare_cached(
            "SELECT COUNT(*) FILTER (WHERE visible_ms <= ?2),
                    COUNT(*) FILTER (WHERE visible_ms > ?2 AND receives > 0),
                    COUNT(*) FILTER (WHERE visible_ms > ?2 AND receives = 0)
             FROM messages WHERE queue = ?1 AND sent_ms > ?3",
        )?
        .query_row([queue.id, now, oldest_kept(queue, now)], |row| {
            Ok(Depth { visible: row.get(0)?, in_flight: row.get(1)?, delayed: row.get(2)? })
        })
}

pub(super) fn peek(connection: &Connection, queue: &Queue, limit: u32, now: i64) -> Result<Vec<Received>, QueueError> {
    let messages = connection
        .prepare_cached(&format!(
            "SELECT {RECEIVED} FROM messages WHERE queue = ?1 AND sent_ms > ?2 ORDER BY id LIMIT ?3"
        ))?
        .query_map(params![queue.id, oldest_kept(queue, now), limit], |row| read_message(row, queue))?
        .collect::<Result<_, _>>()?;
    Ok(messages)
}

fn oldest_kept(queue: &Queue, now: i64) -> i64 {
    now.saturating_sub(milliseconds(queue.attributes.retention))
}

/// 20 digits, so that sorting as text is sorting by number.
fn sequence_number(id: i64) -> String {
    (18_000_000_000_000_000_000_u64 + id.unsigned_abs()).to_string()
}

pub(super) fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
