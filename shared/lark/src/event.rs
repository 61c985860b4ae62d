//! Events, of schema 1.0 and 2.0 alike, and the few whose content Skylark reads.

use std::borrow::Cow;
use std::fmt;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::callback::CallbackError;
use crate::wire::{self, Raw};

const MESSAGE_RECEIVED: &str = "im.message.receive_v1";
const MESSAGES_READ: &str = "im.message.message_read_v1";
const APP_TICKET: &str = "app_ticket";

/// One event, proved to come from the vendor. Delivered at least once: see [`Event::dedupe_key`].
#[derive(Clone, Serialize, Deserialize)]
pub struct Event {
    /// `header.event_id`, or `uuid` in schema 1.0.
    pub id: String,
    pub event_type: String,
    pub app_id: String,
    pub tenant_key: Option<String>,
    pub created_at_ms: Option<i64>,
    /// The value of `event`, as sent.
    pub body: Box<RawValue>,
}

impl fmt::Debug for Event {
    /// Without the body, which may hold what people wrote, or a ticket.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Event")
            .field("id", &self.id)
            .field("event_type", &self.event_type)
            .field("app_id", &self.app_id)
            .finish_non_exhaustive()
    }
}

/// What an event says, for the types Skylark reads.
#[derive(Debug, Clone)]
pub enum Payload {
    Message(Box<MessageReceived>),
    /// Somebody read messages of the bot's, by their ids.
    MessagesRead(Vec<String>),
    AppTicket(AppTicket),
    Other,
}

/// A person wrote to the bot, or in a chat it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageReceived {
    pub message_id: String,
    pub root_id: Option<String>,
    pub parent_id: Option<String>,
    pub thread_id: Option<String>,
    pub chat_id: String,
    /// `p2p` or `group`.
    pub chat_type: Option<String>,
    /// `text`, `post`, `image`, `file`, ...
    pub message_type: String,
    /// JSON in a string, shaped by `message_type`.
    pub content: String,
    pub created_at_ms: Option<i64>,
    pub updated_at_ms: Option<i64>,
    pub sender: Sender,
    pub mentions: Vec<Mention>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sender {
    pub open_id: Option<String>,
    pub user_id: Option<String>,
    pub union_id: Option<String>,
    pub sender_type: Option<String>,
    pub tenant_key: Option<String>,
}

/// Someone named in a message; the content holds `key` (`@_user_1`) in place of the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    pub key: String,
    pub name: Option<String>,
    pub open_id: Option<String>,
    pub user_id: Option<String>,
    pub union_id: Option<String>,
}

/// What a store app needs to fetch its token; the newest one counts.
#[derive(Debug, Clone)]
pub struct AppTicket {
    pub app_id: String,
    pub ticket: SecretString,
}

impl Event {
    /// What to drop repetitions by, for at least 8 hours: the message id for messages, which the vendor may push twice
    /// under two event ids, else the event id.
    #[must_use]
    pub fn dedupe_key(&self) -> Cow<'_, str> {
        match self.message_id() {
            Some(message_id) => Cow::Owned(message_id),
            None => Cow::Borrowed(&self.id),
        }
    }

    fn message_id(&self) -> Option<String> {
        if self.event_type != MESSAGE_RECEIVED {
            return None;
        }
        let event: MessageEvent<'_> = wire::object("event", self.body.get()).ok()?;
        let message: MessageFields<'_> = wire::required_object("event.message", event.message).ok()?;
        wire::text("event.message.message_id", message.message_id).ok()?
    }

    /// Reads the content.
    ///
    /// # Errors
    /// [`CallbackError::Malformed`] names the field that a known type lacks.
    pub fn payload(&self) -> Result<Payload, CallbackError> {
        match self.event_type.as_str() {
            MESSAGE_RECEIVED => Ok(Payload::Message(Box::new(message(self.body.get())?))),
            MESSAGES_READ => {
                let event: ReadEvent<'_> = wire::object("event", self.body.get())?;
                let ids = wire::optional("event.message_id_list", event.message_id_list)?;
                Ok(Payload::MessagesRead(ids.unwrap_or_default()))
            }
            APP_TICKET => {
                let event: AppTicketEvent<'_> = wire::object("event", self.body.get())?;
                let ticket = wire::required_text("event.app_ticket", event.app_ticket)?.into();
                Ok(Payload::AppTicket(AppTicket { app_id: self.app_id.clone(), ticket }))
            }
            _ => Ok(Payload::Other),
        }
    }
}

impl MessageReceived {
    /// The words of a text message, `@name` where people are mentioned. `None` for other types.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Text<'a> {
            #[serde(borrow)]
            text: Cow<'a, str>,
        }

        if self.message_type != "text" {
            return None;
        }
        let content: Text<'_> = serde_json::from_str(&self.content).ok()?;
        Some(self.name_mentions(&content.text))
    }

    /// What people would read of it, whatever its type: the words of texts and posts, and of others what they are.
    #[must_use]
    pub fn words(&self) -> String {
        if let Some(text) = self.text() {
            return text;
        }
        let content = serde_json::from_str(&self.content).ok().filter(|_| self.message_type == "post");
        let words = content.map(|content: Value| {
            let title = content.get("title").and_then(Value::as_str).unwrap_or_default();
            let lines = content.get("content").and_then(Value::as_array).into_iter().flatten().map(|line| {
                let parts = line.as_array().into_iter().flatten();
                let parts = parts.filter_map(|part| part.get("text").or_else(|| part.get("user_name"))?.as_str());
                parts.collect::<String>()
            });
            let lines: Vec<String> =
                std::iter::once(title.to_owned()).chain(lines).filter(|line| !line.is_empty()).collect();
            self.name_mentions(&lines.join("\n"))
        });
        words.filter(|words| !words.is_empty()).unwrap_or_else(|| format!("[{}]", self.message_type))
    }

    /// One pass from left to right, the longest key first: `@_user_1` also begins `@_user_10`, and a name may look like a key.
    fn name_mentions(&self, text: &str) -> String {
        let mut named = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, from_at)) = rest.find('@').and_then(|at| rest.split_at_checked(at)) {
            named.push_str(before);
            let mention = self
                .mentions
                .iter()
                .filter(|mention| !mention.key.is_empty() && from_at.starts_with(&mention.key))
                .max_by_key(|mention| mention.key.len());
            match mention {
                Some(Mention { key, name: Some(name), .. }) => {
                    named.push('@');
                    named.push_str(name);
                    rest = from_at.get(key.len()..).unwrap_or_default();
                }
                _ => {
                    named.push('@');
                    rest = from_at.get(1..).unwrap_or_default();
                }
            }
        }
        named.push_str(rest);
        named
    }
}

#[derive(Deserialize)]
struct AppTicketEvent<'a> {
    #[serde(borrow)]
    app_ticket: Raw<'a>,
}

#[derive(Deserialize)]
struct ReadEvent<'a> {
    #[serde(borrow)]
    message_id_list: Raw<'a>,
}

#[derive(Deserialize)]
struct MessageEvent<'a> {
    #[serde(borrow)]
    sender: Raw<'a>,
    #[serde(borrow)]
    message: Raw<'a>,
}

#[derive(Deserialize)]
struct SenderFields<'a> {
    #[serde(borrow)]
    sender_id: Raw<'a>,
    #[serde(borrow)]
    sender_type: Raw<'a>,
    #[serde(borrow)]
    tenant_key: Raw<'a>,
}

#[derive(Deserialize, Default)]
struct Ids<'a> {
    #[serde(borrow)]
    open_id: Raw<'a>,
    #[serde(borrow)]
    user_id: Raw<'a>,
    #[serde(borrow)]
    union_id: Raw<'a>,
}

#[derive(Deserialize)]
struct MessageFields<'a> {
    #[serde(borrow)]
    message_id: Raw<'a>,
    #[serde(borrow)]
    root_id: Raw<'a>,
    #[serde(borrow)]
    parent_id: Raw<'a>,
    #[serde(borrow)]
    thread_id: Raw<'a>,
    #[serde(borrow)]
    chat_id: Raw<'a>,
    #[serde(borrow)]
    chat_type: Raw<'a>,
    #[serde(borrow)]
    message_type: Raw<'a>,
    #[serde(borrow)]
    content: Raw<'a>,
    #[serde(borrow)]
    create_time: Raw<'a>,
    #[serde(borrow)]
    update_time: Raw<'a>,
    #[serde(borrow)]
    mentions: Raw<'a>,
}

#[derive(Deserialize)]
struct MentionFields<'a> {
    #[serde(borrow)]
    key: Raw<'a>,
    #[serde(borrow)]
    name: Raw<'a>,
    #[serde(borrow)]
    id: Raw<'a>,
}

fn message(body: &str) -> Result<MessageReceived, CallbackError> {
    let event: MessageEvent<'_> = wire::object("event", body)?;
    let message: MessageFields<'_> = wire::required_object("event.message", event.message)?;
    let mentions: Vec<&RawValue> = wire::optional("event.message.mentions", message.mentions)?.unwrap_or_default();
    Ok(MessageReceived {
        message_id: wire::required_text("event.message.message_id", message.message_id)?,
        root_id: wire::text("event.message.root_id", message.root_id)?,
        parent_id: wire::text("event.message.parent_id", message.parent_id)?,
        thread_id: wire::text("event.message.thread_id", message.thread_id)?,
        chat_id: wire::required_text("event.message.chat_id", message.chat_id)?,
        chat_type: wire::text("event.message.chat_type", message.chat_type)?,
        message_type: wire::required_text("event.message.message_type", message.message_type)?,
        content: wire::text("event.message.content", message.content)?.unwrap_or_default(),
        created_at_ms: wire::milliseconds(message.create_time),
        updated_at_ms: wire::milliseconds(message.update_time),
        sender: sender(event.sender)?,
        mentions: mentions.into_iter().map(mention).collect::<Result<_, _>>()?,
    })
}

fn sender(raw: Raw<'_>) -> Result<Sender, CallbackError> {
    if raw.is_none() {
        return Ok(Sender::default());
    }
    let sender: SenderFields<'_> = wire::required_object("event.sender", raw)?;
    let ids: Ids<'_> = match sender.sender_id {
        None => Ids::default(),
        ids => wire::required_object("event.sender.sender_id", ids)?,
    };
    Ok(Sender {
        open_id: wire::text("event.sender.sender_id.open_id", ids.open_id)?,
        user_id: wire::text("event.sender.sender_id.user_id", ids.user_id)?,
        union_id: wire::text("event.sender.sender_id.union_id", ids.union_id)?,
        sender_type: wire::text("event.sender.sender_type", sender.sender_type)?,
        tenant_key: wire::text("event.sender.tenant_key", sender.tenant_key)?,
    })
}

fn mention(raw: &RawValue) -> Result<Mention, CallbackError> {
    let mention: MentionFields<'_> = wire::required_object("event.message.mentions", Some(raw))?;
    let ids: Ids<'_> = match mention.id {
        None => Ids::default(),
        ids => wire::required_object("event.message.mentions.id", ids)?,
    };
    Ok(Mention {
        key: wire::required_text("event.message.mentions.key", mention.key)?,
        name: wire::text("event.message.mentions.name", mention.name)?,
        open_id: wire::text("event.message.mentions.id.open_id", ids.open_id)?,
        user_id: wire::text("event.message.mentions.id.user_id", ids.user_id)?,
        union_id: wire::text("event.message.mentions.id.union_id", ids.union_id)?,
    })
}
