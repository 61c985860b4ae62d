//! What people say in a linked place becomes a message of the conversation, once, and never comes back to where it was said.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use time::OffsetDateTime;
use uuid::{Builder, Uuid};

use super::{ChannelMarks, ConnectorKind, ConnectorStore, Link, Links};
use crate::chat::{
    ChatFault, Committed, Conversation, Draft, Memberships, MessageStore, Payload, Priority, TEXT_BYTES,
};
use crate::fault::{Denial, Fault, PortFault, Remedy, chain};
use crate::id::{AppId, ChannelName, ChatMessageId, MessageId, OpenId, UserId};
use crate::push::{Audience, Frame, PushJob, PushQueue};

/// What somebody said outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    pub app_id: AppId,
    pub message_id: MessageId,
    /// The chat it was said in.
    pub chat_id: String,
    /// Who said it; nobody if it was no person.
    pub sender: Option<OpenId>,
    pub text: String,
}

/// The use case over its ports.
pub struct Inbound {
    pub conversations: Arc<dyn Memberships>,
    pub messages: Arc<dyn MessageStore>,
    pub connectors: Arc<dyn ConnectorStore>,
    pub marks: Arc<dyn ChannelMarks>,
    pub links: Arc<dyn Links>,
    pub push: Arc<dyn PushQueue>,
    /// SHA-256 in base64url.
    pub hash: fn(&str) -> String,
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound").finish_non_exhaustive()
    }
}

impl Inbound {
    /// Says it in the conversation that the place is linked to, if it is. Called twice, the second call changes nothing.
    pub async fn receive(&self, incoming: &Incoming, now: OffsetDateTime) -> Result<(), InboundFault> {
        // What apps say, this one among them, is nobody's word.
        let Some(sender) = &incoming.sender else { return Ok(()) };
        let Some(link) = self.link_of(incoming, sender).await? else { return Ok(()) };
        if self.marks.outside(&incoming.app_id, &incoming.message_id).await?.is_some() {
            return Ok(());
        }
        let Some(conversation) = self.conversations.conversation(&link.conversation_id).await? else { return Ok(()) };
        let Some(from) = self.speaker(&conversation, &link.channel, sender).await? else {
            return Err(InboundFault::Stranger { sender: sender.clone(), channel: link.channel });
        };
        let draft = self.draft(incoming, &conversation, &link.channel, from);
        if let Committed::New(message) = self.messages.commit(&draft, now).await?
            && let Err(fault) = self.push.ring(&message.conversation_id, message.seq).await
        {
            tracing::warn!(message.id = %message.message_id, error = %chain(&fault), "The bell was not rung; the stream will");
        }
        Ok(())
    }

    /// Somebody outside has read messages of ours. Called twice, the second call changes nothing.
    pub async fn read(&self, app_id: &AppId, ids: &[MessageId], now: OffsetDateTime) -> Result<(), InboundFault> {
        for message_id in ids {
            let Some(outside) = self.marks.outside(app_id, message_id).await? else { continue };
            let (conversation_id, channel) = (&outside.conversation_id, &outside.channel);
            if !self.marks.read(conversation_id, channel, outside.seq).await? {
                continue;
            }
            let frame = Frame::by_channel(conversation_id, channel, "read", outside.seq, now);
            let job = PushJob::Tell { conversation_id: conversation_id.clone(), to: Audience::Everyone, frame };
            if let Err(fault) = self.push.tell(&job, &format!("{channel}.read.{}", outside.seq)).await {
                tracing::warn!(conversation.id = %conversation_id, error = %chain(&fault), "A status was not told");
            }
        }
        Ok(())
    }

    /// A chat is linked by its own name, a person's own chat with the app by the person's.
    async fn link_of(&self, incoming: &Incoming, sender: &OpenId) -> Result<Option<Link>, PortFault> {
        match self.links.linked(&incoming.app_id, &incoming.chat_id).await? {
            Some(link) => Ok(Some(link)),
            None => self.links.linked(&incoming.app_id, sender.as_str()).await,
        }
    }

    /// The member who said it: the person, or whoever stands for people who are no members.
    async fn speaker(
        &self,
        conversation: &Conversation,
        channel: &ChannelName,
        sender: &OpenId,
    ) -> Result<Option<UserId>, PortFault> {
        let person = UserId::parse(sender.as_str()).ok().filter(|user| conversation.members.contains(user));
        if person.is_some() {
            return Ok(person);
        }
        let view = self.connectors.view(&conversation.tenant_id, channel).await?;
        let speaker = view.and_then(|view| match view.connector.connects {
            ConnectorKind::Lark { speaker, .. } => speaker,
            ConnectorKind::Webhook { .. } => None,
        });
        Ok(speaker.filter(|user| conversation.members.contains(user)))
    }

    fn draft(&self, incoming: &Incoming, conversation: &Conversation, by: &ChannelName, from: UserId) -> Draft {
        let others: BTreeSet<ChannelName> =
            conversation.channels.iter().map(|channel| channel.name.clone()).filter(|name| name != by).collect();
        let draft = Draft {
            tenant_id: conversation.tenant_id.clone(),
            conversation_id: conversation.conversation_id.clone(),
            message_id: self.message_id(incoming),
            from,
            payload: Payload::Text { text: fitting(&incoming.text) },
            channels: Some(others),
            priority: Priority::Normal,
            digest: String::new(),
        };
        Draft { digest: (self.hash)(&draft.wording()), ..draft }
    }

    /// The same message has the same name, however often the vendor tells of it.
    fn message_id(&self, incoming: &Incoming) -> ChatMessageId {
        let name = json!(["lark", incoming.app_id, incoming.message_id]).to_string();
        let hash = URL_SAFE_NO_PAD.decode((self.hash)(&name)).unwrap_or_default();
        let bytes: Option<[u8; 16]> = hash.first_chunk().copied();
        ChatMessageId::from(bytes.map_or(Uuid::nil(), |bytes| Builder::from_custom_bytes(bytes).into_uuid()))
    }
}

/// As much of a text as a message takes.
fn fitting(text: &str) -> String {
    const ROOM: usize = TEXT_BYTES - "\"…\"".len();
    let mut bytes = 0;
    let end = text.char_indices().find_map(|(at, c)| {
        bytes += match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            '\0'..='\u{1f}' => 6,
            c => c.len_utf8(),
        };
        (bytes > ROOM).then_some(at)
    });
    match end.and_then(|end| text.get(..end)) {
        Some(beginning) => format!("{beginning}…"),
        None => text.to_owned(),
    }
}

/// Why something was not said in its conversation.
#[derive(Debug, thiserror::Error)]
pub enum InboundFault {
    #[error("`{sender}` is no member of the conversation, and nobody stands for such people on channel `{channel}`")]
    Stranger { sender: OpenId, channel: ChannelName },
    #[error("it cannot be said there")]
    Chat(#[from] ChatFault),
    #[error("a port failed")]
    Port(#[from] PortFault),
}

impl Fault for InboundFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Stranger { .. } => Remedy::Deny(Denial::Forbidden),
            Self::Chat(fault) => fault.remedy(),
            Self::Port(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Stranger { .. } => "not_a_member",
            Self::Chat(fault) => fault.code(),
            Self::Port(fault) => fault.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_to_what_a_message_takes() {
        assert_eq!(fitting("短"), "短");
        for long in ["你🙂".repeat(20_000), "\"\n\u{1}x".repeat(20_000), "x".repeat(TEXT_BYTES)] {
            let cut = fitting(&long);
            let bytes = serde_json::to_string(&cut).unwrap().len();
            assert!((TEXT_BYTES - 12..=TEXT_BYTES).contains(&bytes), "{bytes}");
            assert!(cut.ends_with('…') && long.starts_with(cut.trim_end_matches('…')));
        }
    }
}
