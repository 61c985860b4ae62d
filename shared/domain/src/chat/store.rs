//! Where conversations and messages are kept.

use async_trait::async_trait;
use time::{Duration, OffsetDateTime};

use super::{ChatFault, Conversation, Draft, Message, Progress};
use crate::fault::PortFault;
use crate::id::{ChannelName, ConversationId, FileId, TenantId, UserId};

/// How long a `message_id` is remembered: somebody who was offline for a weekend sends again what may have arrived.
pub const REPLAYED: Duration = Duration::days(7);

/// Who takes part in what.
#[async_trait]
pub trait Memberships: Send + Sync {
    /// The conversation, with everything that was committed before the call.
    async fn conversation(&self, conversation_id: &ConversationId) -> Result<Option<Conversation>, PortFault>;
}

/// What became of opening a conversation.
#[derive(Debug, Clone, PartialEq)]
pub enum Created {
    New,
    /// The same two people have one already.
    Before(Box<Conversation>),
}

/// A conversation that somebody is in, and how far they say they have read.
#[derive(Debug, Clone, PartialEq)]
pub struct Joined {
    pub conversation: Conversation,
    pub marked: u64,
}

/// A part of somebody's conversations.
#[derive(Debug, Clone, PartialEq)]
pub struct Recent {
    pub page: Vec<Joined>,
    /// How many there are in all.
    pub total: usize,
}

impl Recent {
    /// What is asked for of all that there are.
    #[must_use]
    pub fn of(mut all: Vec<Joined>, skip: usize, take: usize) -> Self {
        all.sort_by_cached_key(|it| it.conversation.standing());
        let total = all.len();
        Self { page: all.into_iter().skip(skip).take(take).collect(), total }
    }
}

/// How far somebody has read, after they said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadMark {
    pub marked: u64,
    /// Whether it is further than before.
    pub moved: bool,
}

/// Where conversations are kept.
#[async_trait]
pub trait ConversationStore: Memberships {
    /// Keeps a conversation whose id is new. Of any number of private ones of the same two people, one is kept, and all callers are told
    /// which. A group is kept once for each call.
    async fn create(&self, conversation: &Conversation) -> Result<Created, PortFault>;

    /// The conversations that somebody is in, by their [`Standing`](super::Standing): `take` of them after `skip`, at most a hundred.
    async fn recent(
        &self,
        tenant_id: &TenantId,
        user_id: &UserId,
        skip: usize,
        take: usize,
    ) -> Result<Recent, PortFault>;

    /// How far each member has read and was reached.
    async fn progress(&self, conversation: &Conversation) -> Result<Progress, PortFault>;

    /// Notes that a member has read up to `seq`. It never goes back; called twice, the second call moves nothing.
    async fn mark_read(&self, conversation: &Conversation, user_id: &UserId, seq: u64) -> Result<ReadMark, PortFault>;
}

/// What became of a draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// It is the conversation's last message.
    New(Box<Message>),
    /// It was committed before, in this place.
    Before { seq: u64 },
}

/// Where messages are kept.
#[async_trait]
pub trait MessageStore: Send + Sync {
    /// Gives the draft the next place of its conversation. Durable when it returns, and then all places before it are taken, too. The
    /// same draft again, within [`REPLAYED`], is told its place and changes nothing.
    async fn commit(&self, draft: &Draft, now: OffsetDateTime) -> Result<Committed, ChatFault>;

    /// Notes that a channel will never take the message in this place. Called twice, the second call changes nothing.
    async fn refuse(&self, conversation_id: &ConversationId, seq: u64, channel: &ChannelName) -> Result<(), PortFault>;

    /// Messages after `after_seq`, oldest first, without a gap, with everything that was committed before the call: at most `limit`,
    /// and fewer where they are large, but at least one if there is one.
    async fn range(
        &self,
        conversation_id: &ConversationId,
        after_seq: u64,
        limit: u32,
    ) -> Result<Vec<Message>, PortFault>;

    /// Messages before `before_seq`, newest first; otherwise as [`MessageStore::range`].
    async fn range_back(
        &self,
        conversation_id: &ConversationId,
        before_seq: u64,
        limit: u32,
    ) -> Result<Vec<Message>, PortFault>;
}

/// What is known of uploaded files.
#[async_trait]
pub trait FileCatalog: Send + Sync {
    /// Whether the file is one of this conversation's and complete.
    async fn ready(
        &self,
        tenant_id: &TenantId,
        conversation_id: &ConversationId,
        file_id: &FileId,
    ) -> Result<bool, PortFault>;
}
