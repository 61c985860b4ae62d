//! What a socket receives.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::chat::{Message, MessageStatus};
use crate::fault::Fault;
use crate::id::{ChannelName, ChatMessageId, ConversationId, UserId};

/// The most that one post takes.
const FRAME_BYTES: usize = 128 * 1024;

/// A frame, in the form in which it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    #[serde(rename = "type")]
    pub kind: FrameKind,
    #[serde(with = "time::serde::rfc3339")]
    pub timestamp: OffsetDateTime,
    pub data: Value,
}

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FrameKind {
    #[serde(rename = "message.created")]
    MessageCreated,
    /// A message that cannot be shown holds its place in the order.
    #[serde(rename = "unrenderable")]
    Unrenderable,
    #[serde(rename = "message.status_updated")]
    StatusUpdated,
    #[serde(rename = "conversation.read")]
    ConversationRead,
    #[serde(rename = "file.completed")]
    FileCompleted,
    #[serde(rename = "connection.established")]
    Established,
    #[serde(rename = "resync_required")]
    ResyncRequired,
    #[serde(rename = "pong")]
    Pong,
    #[serde(rename = "error")]
    Error,
}

impl Frame {
    /// The frame of a message, or of the place that it holds if it is too large to be sent.
    #[must_use]
    pub fn message(message: &Message, now: OffsetDateTime) -> String {
        let data = json!({
            "conversation_id": message.conversation_id,
            "seq": message.seq,
            "message_id": message.message_id,
            "from": message.from,
            "payload": message.payload,
            "priority": message.priority,
            "status": MessageStatus::Accepted.as_str(),
            "created_at": rfc3339(message.created_at),
        });
        let text = Self { kind: FrameKind::MessageCreated, timestamp: now, data }.text();
        if text.len() <= FRAME_BYTES {
            return text;
        }
        Self::unrenderable(&message.conversation_id, message.seq, Some(&message.message_id), now).text()
    }

    /// A place in the order whose message cannot be shown.
    #[must_use]
    pub fn unrenderable(
        conversation_id: &ConversationId,
        seq: u64,
        message_id: Option<&ChatMessageId>,
        now: OffsetDateTime,
    ) -> Self {
        let data = json!({ "conversation_id": conversation_id, "seq": seq, "message_id": message_id });
        Self { kind: FrameKind::Unrenderable, timestamp: now, data }
    }

    /// Sockets of `users` have every message of the conversation up to `seq`. Told to who sent the one at `seq`.
    #[must_use]
    pub fn delivered(
        conversation_id: &ConversationId,
        seq: u64,
        message_id: Option<&ChatMessageId>,
        users: &BTreeSet<&UserId>,
        now: OffsetDateTime,
    ) -> Self {
        let status = MessageStatus::Delivered.as_str();
        let data = json!({
            "conversation_id": conversation_id, "seq": seq, "message_id": message_id, "status": status, "user_ids": users,
        });
        Self { kind: FrameKind::StatusUpdated, timestamp: now, data }
    }

    /// What became of messages by a channel: all of them up to `seq` were delivered or read, or the one at `seq` failed.
    #[must_use]
    pub fn by_channel(
        conversation_id: &ConversationId,
        channel: &ChannelName,
        status: &'static str,
        seq: u64,
        now: OffsetDateTime,
    ) -> Self {
        let data = json!({ "conversation_id": conversation_id, "seq": seq, "status": status, "channel": channel });
        Self { kind: FrameKind::StatusUpdated, timestamp: now, data }
    }

    /// Somebody has read up to `read_seq`.
    #[must_use]
    pub fn conversation_read(
        conversation_id: &ConversationId,
        user_id: &UserId,
        read_seq: u64,
        now: OffsetDateTime,
    ) -> Self {
        let data =
            json!({ "conversation_id": conversation_id, "user_id": user_id, "read_seq": read_seq, "seq": read_seq });
        Self { kind: FrameKind::ConversationRead, timestamp: now, data }
    }

    /// An upload is complete. `file` is an object with what members may know of it, beside the conversation.
    #[must_use]
    pub fn file_completed(conversation_id: &ConversationId, mut file: Value, now: OffsetDateTime) -> Self {
        if let Some(fields) = file.as_object_mut() {
            fields.insert("conversation_id".to_owned(), json!(conversation_id));
        }
        Self { kind: FrameKind::FileCompleted, timestamp: now, data: file }
    }

    /// The answer to a hello: how far its conversations have come, and which of them the user is not in.
    #[must_use]
    pub fn established(
        user_id: &UserId,
        heads: &BTreeMap<&ConversationId, u64>,
        unknown: &[&ConversationId],
        ping_every: Duration,
        drain_at: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Self {
        let data = json!({
            "user_id": user_id,
            "last_seq": heads,
            "unknown": unknown,
            "ping_every_secs": ping_every.whole_seconds(),
            "drain_at": rfc3339(drain_at),
            "server_time": rfc3339(now),
        });
        Self { kind: FrameKind::Established, timestamp: now, data }
    }

    /// Too much was missed to be sent again: the client reads the history up to `seq`, and goes on from there.
    #[must_use]
    pub fn resync_required(conversation_id: &ConversationId, seq: u64, now: OffsetDateTime) -> Self {
        let data = json!({ "conversation_id": conversation_id, "seq": seq });
        Self { kind: FrameKind::ResyncRequired, timestamp: now, data }
    }

    #[must_use]
    pub fn pong(drain_at: OffsetDateTime, now: OffsetDateTime) -> Self {
        let data = json!({ "server_time": rfc3339(now), "drain_at": rfc3339(drain_at) });
        Self { kind: FrameKind::Pong, timestamp: now, data }
    }

    /// What is wrong with a client's frame.
    #[must_use]
    pub fn error(fault: &dyn Fault, now: OffsetDateTime) -> Self {
        let fields: BTreeMap<&str, String> = fault.fields().into_iter().collect();
        let data = json!({ "error": fault.code(), "message": fault.public_message(), "details": { "fields": fields } });
        Self { kind: FrameKind::Error, timestamp: now, data }
    }

    /// The frame as JSON.
    #[must_use]
    pub fn text(&self) -> String {
        // A frame is made of texts and numbers: writing it cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}
