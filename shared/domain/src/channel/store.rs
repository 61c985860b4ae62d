//! What is kept of a channel's traffic, and the bells that ring for it.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::fault::PortFault;
use crate::id::{AppId, ChannelName, ConversationId, MessageId};

/// "This conversation has something for this channel." Ringing twice is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelBell {
    pub conversation_id: ConversationId,
    pub channel: ChannelName,
    /// The message that it rings for; 0 for the conversation itself, which may be spoken to from outside before it says anything.
    pub seq: u64,
}

impl ChannelBell {
    /// The FIFO message group: what must stay in order. A channel that is down holds up no other channel of the conversation.
    #[must_use]
    pub fn group(&self) -> String {
        format!("{}.{}", self.conversation_id, self.channel)
    }

    /// The FIFO deduplication id: a second ring for the same message within five minutes is dropped by the queue.
    #[must_use]
    pub fn deduplication_id(&self) -> String {
        format!("{}.{}.{}", self.conversation_id, self.channel, self.seq)
    }
}

/// The queue of bells for channels.
#[async_trait]
pub trait ChannelQueue: Send + Sync {
    /// Rings; durable when it returns.
    async fn ring(&self, bell: &ChannelBell) -> Result<(), PortFault>;

    /// Rings for what one worker had no time for; `once` tells this ring from the one that it heard.
    async fn ring_on(&self, bell: &ChannelBell, once: &str) -> Result<(), PortFault>;
}

/// How far a conversation's messages have come by one channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Everything up to here that was for the channel has left by it, or never will.
    pub sent: u64,
    /// Somebody behind the channel has read up to here.
    #[serde(default)]
    pub read: u64,
}

/// A message of ours as the outside knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    pub app_id: AppId,
    pub message_id: MessageId,
    pub conversation_id: ConversationId,
    pub channel: ChannelName,
    pub seq: u64,
}

/// How long the outside may tell of a message that it got.
pub const TOLD_OF: Duration = Duration::days(30);

/// Where marks are kept.
#[async_trait]
pub trait ChannelMarks: Send + Sync {
    /// With everything that was written before the call; `None` for a channel that nothing is known of yet.
    async fn mark(&self, conversation_id: &ConversationId, channel: &ChannelName) -> Result<Option<Mark>, PortFault>;

    /// Moves `sent` from `from` to `to`; if it is not at `from` any more (0: nothing is known yet), nothing changes and the answer is a
    /// [`PortFault::Conflict`].
    async fn advance(
        &self,
        conversation_id: &ConversationId,
        channel: &ChannelName,
        from: u64,
        to: u64,
    ) -> Result<(), PortFault>;

    /// Notes that somebody behind the channel has read up to `seq`; whether that is further than before.
    async fn read(&self, conversation_id: &ConversationId, channel: &ChannelName, seq: u64) -> Result<bool, PortFault>;

    /// Remembers the outside's name of a message until then.
    async fn remember(&self, outside: &Outside, until: OffsetDateTime) -> Result<(), PortFault>;

    /// The message of ours that the outside calls so.
    async fn outside(&self, app_id: &AppId, message_id: &MessageId) -> Result<Option<Outside>, PortFault>;
}

/// Which conversation a place outside belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub app_id: AppId,
    /// A chat, or a person in their own chat with the app.
    pub address: String,
    pub conversation_id: ConversationId,
    pub channel: ChannelName,
}

/// Where links are kept.
#[async_trait]
pub trait Links: Send + Sync {
    /// Links a place, unless it is linked: the first conversation keeps it. Whether the place is this conversation's now.
    async fn link(&self, link: &Link) -> Result<bool, PortFault>;

    async fn linked(&self, app_id: &AppId, address: &str) -> Result<Option<Link>, PortFault>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bells_of_one_conversation_and_channel_are_in_one_group() {
        let id = ConversationId::parse("6f9619ff-8b86-4d01-b42d-00cf4fc964ff").unwrap();
        let bell = |channel: &str, seq| ChannelBell {
            conversation_id: id.clone(),
            channel: ChannelName::parse(channel).unwrap(),
            seq,
        };
        assert_eq!(bell("lark", 1).group(), bell("lark", 2).group());
        assert_ne!(bell("lark", 1).group(), bell("webhook", 1).group());
        assert_ne!(bell("lark", 1).deduplication_id(), bell("lark", 2).deduplication_id());
        // What SQS takes at most.
        let longest = bell(&"x".repeat(32), u64::MAX);
        assert!(longest.group().len() <= 128 && longest.deduplication_id().len() <= 128);
    }
}
