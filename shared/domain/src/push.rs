//! The bodies of the push queue: what is to reach open sockets, one conversation after its own order.
//!
//! A bell names no message: whoever hears it reads the conversation from its watermark on. Lost, doubled and reordered bells do no harm.
//! What is no message of the conversation (a read receipt, a file that is there) is told as a whole frame, and may be lost with its job.

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::fault::PortFault;
use crate::id::{ConversationId, FamilyId, TenantId, UserId};

/// One thing to do for sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PushJob {
    /// The conversation has messages up to `seq`, or more: push what its watermark does not cover.
    Drain { conversation_id: ConversationId, seq: u64 },
    /// Members are to see this frame.
    Tell { conversation_id: ConversationId, to: Audience, frame: Frame },
    /// The login ended: its sockets are closed, and it opens no more of them.
    Close { tenant_id: TenantId, user_id: UserId, session_id: FamilyId },
}

impl PushJob {
    /// The FIFO message group: what must stay in order.
    #[must_use]
    pub fn group(&self) -> &str {
        match self {
            Self::Drain { conversation_id, .. } | Self::Tell { conversation_id, .. } => conversation_id.as_str(),
            Self::Close { session_id, .. } => session_id.as_str(),
        }
    }
}

/// Which members of a conversation a frame is for. Who is no member is told nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    Everyone,
    But(UserId),
    Users(BTreeSet<UserId>),
}

impl Audience {
    #[must_use]
    pub fn holds(&self, user: &UserId) -> bool {
        match self {
            Self::Everyone => true,
            Self::But(other) => user != other,
            Self::Users(users) => users.contains(user),
        }
    }
}

/// What a socket receives.
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
    /// Somebody has read up to `read_seq`.
    #[must_use]
    pub fn conversation_read(
        conversation_id: &ConversationId,
        user_id: &UserId,
        read_seq: u64,
        now: OffsetDateTime,
    ) -> Self {
        let data = json!({ "conversation_id": conversation_id, "user_id": user_id, "read_seq": read_seq });
        Self { kind: FrameKind::ConversationRead, timestamp: now, data }
    }

    /// Every message of the conversation up to `up_to_seq` has this status for `user_id`.
    #[must_use]
    pub fn status_updated(
        conversation_id: &ConversationId,
        user_id: &UserId,
        status: &'static str,
        up_to_seq: u64,
        now: OffsetDateTime,
    ) -> Self {
        let data =
            json!({ "conversation_id": conversation_id, "user_id": user_id, "status": status, "seq": up_to_seq });
        Self { kind: FrameKind::StatusUpdated, timestamp: now, data }
    }

    /// An upload is complete. `file` is an object with what members may know of it, beside the conversation.
    #[must_use]
    pub fn file_completed(conversation_id: &ConversationId, mut file: Value, now: OffsetDateTime) -> Self {
        if let Some(fields) = file.as_object_mut() {
            fields.insert("conversation_id".to_owned(), json!(conversation_id));
        }
        Self { kind: FrameKind::FileCompleted, timestamp: now, data: file }
    }
}

/// The push queue. Jobs of one conversation are done one after the other.
#[async_trait]
pub trait PushQueue: Send + Sync {
    /// Rings for a message that was committed; durable when it returns. A second ring for the same message within five minutes is
    /// dropped by the queue.
    async fn ring(&self, conversation_id: &ConversationId, seq: u64) -> Result<(), PortFault>;

    /// Queues a job that is no bell. The same group and `once` again within five minutes are dropped.
    async fn tell(&self, job: &PushJob, once: &str) -> Result<(), PortFault>;
}

/// The FIFO deduplication id of a bell.
#[must_use]
pub fn bell_id(conversation_id: &ConversationId, seq: u64) -> String {
    format!("{conversation_id}#{seq}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation() -> ConversationId {
        ConversationId::parse("6f9619ff-8b86-4d01-b42d-00cf4fc964ff").unwrap()
    }

    fn user(id: &str) -> UserId {
        UserId::parse(id).unwrap()
    }

    #[test]
    fn a_job_reads_back_as_it_was_written() {
        let now = time::macros::datetime!(2026-11-25 09:00 UTC);
        let frame = Frame::conversation_read(&conversation(), &user("ann"), 7, now);
        for job in [
            PushJob::Drain { conversation_id: conversation(), seq: 3 },
            PushJob::Tell { conversation_id: conversation(), to: Audience::But(user("ann")), frame },
            PushJob::Close {
                tenant_id: TenantId::parse("acme").unwrap(),
                user_id: user("ann"),
                session_id: FamilyId::parse("6f9619ff-8b86-4d01-b42d-00cf4fc964ff").unwrap(),
            },
        ] {
            let text = serde_json::to_string(&job).unwrap();
            assert_eq!(serde_json::from_str::<PushJob>(&text).unwrap(), job, "{text}");
        }
    }

    #[test]
    fn a_frame_is_spelled_as_clients_read_it() {
        let now = time::macros::datetime!(2026-11-25 09:00 UTC);
        let frame = Frame::file_completed(&conversation(), json!({ "file_id": "f1", "filename": "周报 📄.pdf" }), now);
        assert_eq!(
            serde_json::to_value(frame).unwrap(),
            json!({
                "type": "file.completed", "timestamp": "2026-11-25T09:00:00Z",
                "data": { "conversation_id": conversation(), "file_id": "f1", "filename": "周报 📄.pdf" }
            })
        );
    }

    #[test]
    fn an_audience_is_everyone_everyone_but_one_or_a_few() {
        let few = Audience::Users(BTreeSet::from([user("ann")]));
        let holds = |audience: &Audience| [audience.holds(&user("ann")), audience.holds(&user("bob"))];
        assert_eq!(holds(&Audience::Everyone), [true, true]);
        assert_eq!(holds(&Audience::But(user("ann"))), [false, true]);
        assert_eq!(holds(&few), [true, false]);
    }
}
