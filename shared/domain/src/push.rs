//! The bodies of the push queue: what is to reach open sockets, one conversation after its own order.
//!
//! A bell names no message: whoever hears it reads the conversation from its watermark on. Lost, doubled and reordered bells do no harm.
//! What is no message of the conversation (a read receipt, a file that is there) is told as a whole frame, and may be lost with its job.

mod drain;
mod frame;
mod sweep;

pub use drain::{Backlog, IN_FLIGHT, Line, PushState, PushStore, Pusher};
pub(crate) use drain::{cut, forget};
pub use frame::{Frame, FrameKind};
pub use sweep::{OVERDUE, Unpushed, UnpushedPage, sweep};

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::fault::PortFault;
use crate::id::{ConversationId, UserId};
use crate::socket::Holder;

/// One thing to do for sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PushJob {
    /// The conversation has messages up to `seq`, or more: push what its watermark does not cover.
    Drain { conversation_id: ConversationId, seq: u64 },
    /// The same without a number: somebody came back to the conversation, or nobody knows whether its bells were heard.
    Check { conversation_id: ConversationId },
    /// Members are to see this frame.
    Tell { conversation_id: ConversationId, to: Audience, frame: Frame },
    /// The login ended: its sockets are closed, and it opens no more of them.
    Close(Holder),
}

impl PushJob {
    /// The FIFO message group: what must stay in order.
    #[must_use]
    pub fn group(&self) -> &str {
        match self {
            Self::Drain { conversation_id, .. }
            | Self::Check { conversation_id }
            | Self::Tell { conversation_id, .. } => conversation_id.as_str(),
            Self::Close(login) => login.session_id.as_str(),
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
    use serde_json::json;

    use super::*;
    use crate::id::{FamilyId, TenantId};

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
            PushJob::Check { conversation_id: conversation() },
            PushJob::Tell { conversation_id: conversation(), to: Audience::But(user("ann")), frame },
            PushJob::Close(Holder {
                tenant_id: TenantId::parse("acme").unwrap(),
                user_id: user("ann"),
                session_id: FamilyId::parse("6f9619ff-8b86-4d01-b42d-00cf4fc964ff").unwrap(),
            }),
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
