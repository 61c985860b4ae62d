//! A conversation: who takes part, where it leads, and how far its messages have come.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::{ChatFault, Message, Payload};
use crate::channel::Mark;
use crate::id::{ChannelName, ChatMessageId, ConversationId, TenantId, UserId};

/// The most that a conversation's metadata takes as JSON: every message writes it again.
pub const METADATA_BYTES: usize = 4 * 1024;

/// How many members a group has.
const GROUP: std::ops::RangeInclusive<usize> = 3..=100;

/// How many channels a conversation has at most.
const CHANNELS: usize = 10;

/// How long a channel's address is at most, in bytes.
const ADDRESS_BYTES: usize = 512;

/// How many characters of a text are shown in a list.
const EXCERPT_CHARS: usize = 120;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConversationKind {
    /// Two people, who have one such conversation.
    Private,
    Group,
}

/// A way out to people elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    pub name: ChannelName,
    /// Whom to reach, in the words of the channel's connector.
    pub address: String,
}

/// A conversation as it is kept. It is written with every message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    pub conversation_id: ConversationId,
    pub tenant_id: TenantId,
    #[serde(rename = "type")]
    pub kind: ConversationKind,
    pub members: BTreeSet<UserId>,
    /// Whatever its makers like to know of it, as they wrote it.
    #[serde(with = "json_text")]
    pub metadata: Map<String, Value>,
    #[serde(default)]
    pub channels: Vec<Channel>,
    pub created_by: UserId,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// The number of the last message. Numbers 1 to `seq` are there, without a gap.
    pub seq: u64,
    /// The number of the last message that each member sent: who says something has read what was said before.
    pub sent: BTreeMap<UserId, u64>,
    #[serde(default)]
    pub last_message: Option<Preview>,
}

/// The last message, shortened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    pub seq: u64,
    pub message_id: ChatMessageId,
    pub from: UserId,
    pub payload: Payload,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// The place in a list: the latest stands first, and of two at the same time always the same one.
pub type Standing = (Reverse<OffsetDateTime>, ConversationId);

/// Where a conversation stands that was opened then, and in which something was last said then, if anything was.
#[must_use]
pub fn standing(id: ConversationId, created_at: OffsetDateTime, last_said: Option<OffsetDateTime>) -> Standing {
    (Reverse(last_said.unwrap_or(created_at)), id)
}

/// What a new conversation is asked to be.
#[derive(Debug, Clone, PartialEq)]
pub struct NewConversation {
    pub kind: ConversationKind,
    pub members: Vec<UserId>,
    pub metadata: Map<String, Value>,
    pub channels: Vec<Channel>,
}

impl NewConversation {
    /// What is wrong with it, by field.
    #[must_use]
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let members: BTreeSet<&UserId> = self.members.iter().collect();
        if members.len() < self.members.len() {
            faults.push(("members", "must name each member once".to_owned()));
        } else if self.kind == ConversationKind::Private && members.len() != 2 {
            faults.push(("members", "must be two for a private conversation".to_owned()));
        } else if self.kind == ConversationKind::Group && !GROUP.contains(&members.len()) {
            faults.push(("members", "must be 3 to 100 for a group".to_owned()));
        }
        if serde_json::to_string(&self.metadata).map_or(usize::MAX, |text| text.len()) > METADATA_BYTES {
            faults.push(("metadata", format!("must have at most {METADATA_BYTES} bytes as JSON")));
        }
        let names: BTreeSet<&ChannelName> = self.channels.iter().map(|channel| &channel.name).collect();
        if self.channels.len() > CHANNELS {
            faults.push(("channels", format!("must be at most {CHANNELS}")));
        } else if names.len() < self.channels.len() {
            faults.push(("channels", "must name each channel once".to_owned()));
        } else if self.channels.iter().any(|it| it.name.as_str() == Message::ALL_CHANNELS) {
            faults.push(("channels", format!("cannot hold one that is called `{}`", Message::ALL_CHANNELS)));
        } else if self.channels.iter().any(|it| it.address.is_empty() || it.address.len() > ADDRESS_BYTES) {
            faults.push(("channels", format!("must have addresses of 1 to {ADDRESS_BYTES} bytes")));
        }
        faults
    }

    /// The conversation, before its first message.
    #[must_use]
    pub fn open(
        self,
        conversation_id: ConversationId,
        tenant_id: TenantId,
        created_by: UserId,
        now: OffsetDateTime,
    ) -> Conversation {
        Conversation {
            conversation_id,
            tenant_id,
            kind: self.kind,
            members: self.members.into_iter().collect(),
            metadata: self.metadata,
            channels: self.channels,
            created_by,
            created_at: now,
            seq: 0,
            sent: BTreeMap::new(),
            last_message: None,
        }
    }
}

impl Conversation {
    /// The conversation if there is one in this tenant and the user takes part in it.
    pub fn of_member(found: Option<Self>, tenant_id: &TenantId, user_id: &UserId) -> Result<Self, ChatFault> {
        let found = found.filter(|known| known.tenant_id == *tenant_id).ok_or(ChatFault::NoConversation)?;
        if found.members.contains(user_id) { Ok(found) } else { Err(ChatFault::NotAMember) }
    }

    /// Where it stands in the lists of its members: by when anything was last said in it.
    #[must_use]
    pub fn standing(&self) -> Standing {
        standing(self.conversation_id.clone(), self.created_at, self.last_message.as_ref().map(|last| last.created_at))
    }

    /// Lets the conversation end with this message.
    pub fn end_with(&mut self, message: &Message) {
        self.seq = message.seq;
        self.sent.insert(message.from.clone(), message.seq);
        self.last_message = Some(Preview::of(message));
    }

    /// How far this member has read, given how far they say they have.
    #[must_use]
    pub fn read_seq(&self, user: &UserId, marked: u64) -> u64 {
        marked.max(self.sent.get(user).copied().unwrap_or_default())
    }

    /// How many messages this member has not read.
    #[must_use]
    pub fn unread(&self, user: &UserId, marked: u64) -> u64 {
        self.seq.saturating_sub(self.read_seq(user, marked))
    }
}

impl Preview {
    #[must_use]
    pub fn of(message: &Message) -> Self {
        let payload = match &message.payload {
            Payload::Text { text } => Payload::Text { text: excerpt(text) },
            Payload::File { file_id } => Payload::File { file_id: file_id.clone() },
        };
        Self {
            seq: message.seq,
            message_id: message.message_id.clone(),
            from: message.from.clone(),
            payload,
            created_at: message.created_at,
        }
    }
}

/// The beginning of a text. What joins characters into one (a family, a flag in a scarf) does not end it.
fn excerpt(text: &str) -> String {
    const JOINER: char = '\u{200d}';
    match text.char_indices().nth(EXCERPT_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => {
            let beginning = text.get(..end).unwrap_or_default();
            format!("{}…", beginning.trim_end_matches(JOINER))
        }
    }
}

/// What became of a message. The later ones imply the earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageStatus {
    /// It is stored.
    Accepted,
    /// A channel will never take it, and it has not reached anybody else.
    Failed,
    /// A socket or a channel took it.
    Delivered,
    /// Somebody it was sent to has read up to it.
    Read,
}

impl MessageStatus {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Failed => "failed",
            Self::Delivered => "delivered",
            Self::Read => "read",
        }
    }
}

/// How far a conversation's messages have come, per member: the numbers up to which they were delivered and read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    pub delivered: BTreeMap<UserId, u64>,
    pub read: BTreeMap<UserId, u64>,
    /// The same for the people behind channels.
    pub channels: BTreeMap<ChannelName, Mark>,
}

impl Progress {
    /// What became of the message for one member.
    #[must_use]
    pub fn for_member(&self, seq: u64, user: &UserId) -> MessageStatus {
        let reached = |marks: &BTreeMap<UserId, u64>| marks.get(user).is_some_and(|mark| *mark >= seq);
        if reached(&self.read) {
            MessageStatus::Read
        } else if reached(&self.delivered) {
            MessageStatus::Delivered
        } else {
            MessageStatus::Accepted
        }
    }

    /// What became of the message at best, for anybody but its sender.
    #[must_use]
    pub fn status(&self, message: &Message) -> MessageStatus {
        let others = self.delivered.keys().chain(self.read.keys()).filter(|user| **user != message.from);
        let inside = others.map(|user| self.for_member(message.seq, user));
        let outside = message.channels.iter().map(|name| match self.channels.get(name).copied().unwrap_or_default() {
            _ if message.refused.contains(name) => MessageStatus::Failed,
            mark if message.seq <= mark.read => MessageStatus::Read,
            mark if message.seq <= mark.sent => MessageStatus::Delivered,
            _ => MessageStatus::Accepted,
        });
        inside.chain(outside).max().unwrap_or(MessageStatus::Accepted)
    }
}

/// JSON kept as its text, so that every number and every name in it comes back as it was.
mod json_text {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};
    use serde_json::{Map, Value};

    pub(super) fn serialize<S: Serializer>(object: &Map<String, Value>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&serde_json::to_string(object).map_err(serde::ser::Error::custom)?)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
        serde_json::from_str(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    fn user(id: &str) -> UserId {
        UserId::parse(id).unwrap()
    }

    fn of(kind: ConversationKind, members: &[&str]) -> NewConversation {
        let members = members.iter().map(|id| user(id)).collect();
        NewConversation { kind, members, metadata: Map::new(), channels: Vec::new() }
    }

    fn fields(new: &NewConversation) -> Vec<&'static str> {
        new.faults().into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn a_private_conversation_has_two_members_and_a_group_up_to_a_hundred() {
        use ConversationKind::{Group, Private};
        let many = |count: usize| {
            let members: Vec<String> = (0..count).map(|n| format!("u{n}")).collect();
            of(Group, &members.iter().map(String::as_str).collect::<Vec<_>>())
        };
        for good in [of(Private, &["ann", "bob"]), many(3), many(100)] {
            assert_eq!(fields(&good), [""; 0], "{good:?}");
        }
        for bad in [of(Private, &[]), of(Private, &["ann"]), of(Private, &["a", "b", "c"]), many(2), many(101)] {
            assert_eq!(fields(&bad), ["members"], "{bad:?}");
        }
        assert!(of(Group, &["ann", "ann", "bob", "cy"]).faults()[0].1.contains("once"));
    }

    #[test]
    fn metadata_and_channels_are_bounded() {
        let mut new = of(ConversationKind::Private, &["ann", "bob"]);
        let channel = |name: &str, address: &str| Channel {
            name: ChannelName::parse(name).unwrap(),
            address: address.to_owned(),
        };
        new.metadata.insert("k".to_owned(), "x".repeat(METADATA_BYTES).into());
        assert_eq!(fields(&new), ["metadata"]);
        new.metadata.clear();
        for bad in [
            vec![channel("lark", "a"), channel("lark", "b")],
            vec![channel("all", "a")],
            vec![channel("lark", "")],
            vec![channel("lark", &"x".repeat(ADDRESS_BYTES + 1))],
            (0..=CHANNELS).map(|n| channel(&format!("c{n}"), "a")).collect(),
        ] {
            new.channels = bad;
            assert_eq!(fields(&new), ["channels"], "{new:?}");
        }
    }

    #[test]
    fn an_excerpt_is_cut_between_characters() {
        assert_eq!(excerpt("短"), "短");
        let long = "你好🙂".repeat(100);
        assert_eq!(excerpt(&long), format!("{}…", "你好🙂".repeat(40)));
        let family = format!("{}👩\u{200d}👧", "x".repeat(EXCERPT_CHARS - 2));
        assert_eq!(excerpt(&family), format!("{}👩…", "x".repeat(EXCERPT_CHARS - 2)));
    }

    #[test]
    fn who_says_something_has_read_what_was_said_before() {
        let new = of(ConversationKind::Private, &["ann", "bob"]);
        let id = ConversationId::from(uuid::Uuid::nil());
        let now = datetime!(2026-11-25 09:00 UTC);
        let mut conversation = new.open(id, TenantId::parse("acme").unwrap(), user("ann"), now);
        assert_eq!(conversation.standing().0, Reverse(now));
        conversation.seq = 5;
        conversation.sent = BTreeMap::from([(user("ann"), 4)]);
        assert_eq!([conversation.unread(&user("ann"), 0), conversation.unread(&user("ann"), 5)], [1, 0]);
        assert_eq!([conversation.unread(&user("bob"), 2), conversation.unread(&user("bob"), 9)], [3, 0]);
    }

    #[test]
    fn metadata_reads_back_as_it_was_written() {
        let mut new = of(ConversationKind::Private, &["ann", "bob"]);
        let metadata = json!({ "": 1e300, "标题 📦": [null, {"n": 18_446_744_073_709_551_615_u64}] });
        new.metadata = metadata.as_object().unwrap().clone();
        let id = ConversationId::from(uuid::Uuid::nil());
        let conversation = new.open(id, TenantId::parse("acme").unwrap(), user("ann"), datetime!(2026-11-25 09:00 UTC));
        let written = serde_json::to_value(&conversation).unwrap();
        assert!(written["metadata"].is_string());
        assert_eq!(serde_json::from_value::<Conversation>(written).unwrap(), conversation);
    }
}
