//! A message, from what its sender asks for to its place in the conversation.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;

use super::{ChatFault, Conversation};
use crate::id::{ChannelName, ChatMessageId, ConversationId, FileId, TenantId, UserId};

/// The most that a text takes as a JSON string, quotation marks included: what a socket takes as one frame of 32 KB, with room for what is
/// around it. For Chinese that is ten thousand characters.
pub const TEXT_BYTES: usize = 31 * 1024;

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Payload {
    Text { text: String },
    File { file_id: FileId },
}

/// How urgent the sender finds it. It is told to readers; the order of a conversation is that of its numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
}

/// A message in its place. The item that holds it is also what says that it has to be delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub conversation_id: ConversationId,
    pub tenant_id: TenantId,
    /// Its place: 1 for the first message, and one more for each.
    pub seq: u64,
    pub message_id: ChatMessageId,
    pub from: UserId,
    pub payload: Payload,
    /// The channels that it is to leave by, each of them the conversation's.
    pub channels: BTreeSet<ChannelName>,
    /// Those of them that will never take it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub refused: BTreeSet<ChannelName>,
    pub priority: Priority,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl Message {
    /// What stands for every channel of the conversation.
    pub const ALL_CHANNELS: &str = "all";
}

/// What somebody wants to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    pub tenant_id: TenantId,
    pub conversation_id: ConversationId,
    /// The sender's own name for it: a second draft with the same one is the same message.
    pub message_id: ChatMessageId,
    pub from: UserId,
    pub payload: Payload,
    /// Every channel of the conversation if nothing is said.
    pub channels: Option<BTreeSet<ChannelName>>,
    pub priority: Priority,
    /// A hash of [`Draft::wording`], which tells a repetition from another message under the same name.
    pub digest: String,
}

impl Draft {
    /// All that a repetition must have in common, as a text: the same for the same draft.
    #[must_use]
    pub fn wording(&self) -> String {
        json!([self.conversation_id, self.payload, self.channels, self.priority]).to_string()
    }

    /// Whether the text is short enough.
    pub fn check(&self) -> Result<(), ChatFault> {
        let Payload::Text { text } = &self.payload else { return Ok(()) };
        if text.is_empty() {
            return Err(ChatFault::Fields(vec![("payload.text", "must not be empty".to_owned())]));
        }
        match serde_json::to_string(text).map_or(usize::MAX, |json| json.len()) {
            bytes if bytes > TEXT_BYTES => Err(ChatFault::TextTooLarge { bytes }),
            _ => Ok(()),
        }
    }

    /// The next message of the conversation, if its sender may say this there.
    pub fn next(&self, conversation: Option<&Conversation>, now: OffsetDateTime) -> Result<Message, ChatFault> {
        let conversation = conversation.filter(|known| known.tenant_id == self.tenant_id);
        let conversation = conversation.ok_or(ChatFault::NoConversation)?;
        if !conversation.members.contains(&self.from) {
            return Err(ChatFault::NotAMember);
        }
        Ok(Message {
            conversation_id: self.conversation_id.clone(),
            tenant_id: self.tenant_id.clone(),
            seq: conversation.seq + 1,
            message_id: self.message_id.clone(),
            from: self.from.clone(),
            payload: self.payload.clone(),
            channels: self.ways_out(conversation)?,
            refused: BTreeSet::new(),
            priority: self.priority,
            created_at: now,
        })
    }

    fn ways_out(&self, conversation: &Conversation) -> Result<BTreeSet<ChannelName>, ChatFault> {
        let every: BTreeSet<ChannelName> = conversation.channels.iter().map(|channel| channel.name.clone()).collect();
        match &self.channels {
            Some(named) if named.iter().all(|name| name.as_str() != Message::ALL_CHANNELS) => {
                match named.iter().find(|name| !every.contains(*name)) {
                    None => Ok(named.clone()),
                    Some(unknown) => {
                        Err(ChatFault::Fields(vec![("channels", format!("the conversation has no `{unknown}`"))]))
                    }
                }
            }
            _ => Ok(every),
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::chat::{Channel, ConversationKind, NewConversation};
    use crate::fault::{Denial, Fault as _, Refusal, Remedy};

    const NOW: OffsetDateTime = datetime!(2026-11-25 09:00 UTC);

    fn user(id: &str) -> UserId {
        UserId::parse(id).unwrap()
    }

    fn names(names: &[&str]) -> BTreeSet<ChannelName> {
        names.iter().map(|name| ChannelName::parse(*name).unwrap()).collect()
    }

    fn conversation() -> Conversation {
        let channel = |name: &str| Channel { name: ChannelName::parse(name).unwrap(), address: "x".to_owned() };
        let new = NewConversation {
            kind: ConversationKind::Private,
            members: vec![user("ann"), user("bob")],
            metadata: serde_json::Map::new(),
            channels: vec![channel("lark"), channel("webhook")],
        };
        new.open(ConversationId::from(uuid::Uuid::nil()), TenantId::parse("acme").unwrap(), user("ann"), NOW)
    }

    fn draft(text: &str) -> Draft {
        Draft {
            tenant_id: TenantId::parse("acme").unwrap(),
            conversation_id: ConversationId::from(uuid::Uuid::nil()),
            message_id: ChatMessageId::from(uuid::Uuid::nil()),
            from: user("ann"),
            payload: Payload::Text { text: text.to_owned() },
            channels: None,
            priority: Priority::Normal,
            digest: String::new(),
        }
    }

    #[test]
    fn a_message_takes_the_next_place_of_its_conversation() {
        let mut conversation = conversation();
        conversation.seq = 41;
        let message = draft("hi").next(Some(&conversation), NOW).unwrap();
        assert_eq!((message.seq, message.channels), (42, names(&["lark", "webhook"])));
    }

    #[test]
    fn only_members_say_anything_and_other_tenants_see_nothing() {
        let conversation = conversation();
        let remedy = |draft: &Draft, known: Option<&Conversation>| draft.next(known, NOW).unwrap_err().remedy();
        let stranger = Draft { from: user("eve"), ..draft("hi") };
        assert_eq!(remedy(&stranger, Some(&conversation)), Remedy::Deny(Denial::Forbidden));
        let elsewhere = Draft { tenant_id: TenantId::parse("other").unwrap(), ..draft("hi") };
        assert_eq!(remedy(&elsewhere, Some(&conversation)), Remedy::Reject(Refusal::Unknown));
        assert_eq!(remedy(&draft("hi"), None), Remedy::Reject(Refusal::Unknown));
    }

    #[test]
    fn a_message_leaves_by_the_channels_that_it_names() {
        let conversation = conversation();
        let by = |channels: &[&str]| Draft { channels: Some(names(channels)), ..draft("hi") };
        let left = |channels: &[&str]| by(channels).next(Some(&conversation), NOW).unwrap().channels;
        assert_eq!(left(&[]), names(&[]));
        assert_eq!(left(&["lark"]), names(&["lark"]));
        assert_eq!(left(&["all"]), names(&["lark", "webhook"]));
        let fault = by(&["lark", "fax"]).next(Some(&conversation), NOW).unwrap_err();
        assert_eq!(fault.fields(), [("channels", "the conversation has no `fax`".to_owned())]);
    }

    #[test]
    fn a_text_fits_into_a_frame_however_it_is_written() {
        let quotes = |count: usize| draft(&"\"".repeat(count));
        assert!(quotes(TEXT_BYTES / 2 - 1).check().is_ok());
        let fault = quotes(TEXT_BYTES / 2).check().unwrap_err();
        assert_eq!((fault.code(), fault.remedy()), ("text_too_large", Remedy::Reject(Refusal::TooLarge)));
        assert!(draft(&"你".repeat(10_000)).check().is_ok());
        assert_eq!(draft("").check().unwrap_err().fields()[0].0, "payload.text");
        assert!(draft(" ").check().is_ok(), "what people may mean is theirs to know");
    }

    #[test]
    fn a_repetition_is_worded_the_same_and_another_message_is_not() {
        let one = draft("hi");
        let renamed = Draft { message_id: ChatMessageId::from(uuid::Uuid::max()), ..one.clone() };
        assert_eq!(one.wording(), renamed.wording());
        let elsewhere = ConversationId::from(uuid::Uuid::max());
        let file_id = FileId::from(uuid::Uuid::nil());
        for other in [
            draft("ho"),
            Draft { conversation_id: elsewhere, ..one.clone() },
            Draft { channels: Some(names(&[])), ..one.clone() },
            Draft { priority: Priority::High, ..one.clone() },
            Draft { payload: Payload::File { file_id }, ..one.clone() },
        ] {
            assert_ne!(one.wording(), other.wording(), "{other:?}");
        }
    }
}
