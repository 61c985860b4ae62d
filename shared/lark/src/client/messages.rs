//! Messages and cards: send, reply, update in place.

use std::time::Instant;

use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::auth::{lacks, text};
use super::{Answer, ApiError, Call, Client, Repeat};
use crate::callback::CardToken;
use crate::card::{Card, MAX_BODY_BYTES};

const MAX_TEXT_BYTES: usize = 150 * 1024;
const MAX_UUID_CHARS: usize = 50;

/// Who gets a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiver<'a> {
    OpenId(&'a str),
    UserId(&'a str),
    UnionId(&'a str),
    Email(&'a str),
    ChatId(&'a str),
}

impl<'a> Receiver<'a> {
    fn type_and_id(self) -> (&'static str, &'a str) {
        match self {
            Self::OpenId(id) => ("open_id", id),
            Self::UserId(id) => ("user_id", id),
            Self::UnionId(id) => ("union_id", id),
            Self::Email(id) => ("email", id),
            Self::ChatId(id) => ("chat_id", id),
        }
    }
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingMessage {
    msg_type: String,
    content: String,
}

impl OutgoingMessage {
    /// Text that people see as it is: what looks like a tag mentions nobody, not even `<at user_id="all">`.
    #[must_use]
    pub fn text(text: &str) -> Self {
        // A zero-width space after `<` is invisible and ends the tag.
        Self::new("text", &json!({ "text": text.replace('<', "<\u{200b}") }))
    }

    #[must_use]
    pub fn card(card: &Card) -> Self {
        Self { msg_type: "interactive".to_owned(), content: card.to_content() }
    }

    /// A card made in the vendor's card builder.
    #[must_use]
    pub fn template(template_id: &str, variables: &Value) -> Self {
        let data = json!({ "template_id": template_id, "template_variable": variables });
        Self::new("interactive", &json!({ "type": "template", "data": data }))
    }

    /// Any other type, with its content as the vendor documents it. Tags in it work.
    #[must_use]
    pub fn new(msg_type: impl Into<String>, content: &Value) -> Self {
        Self { msg_type: msg_type.into(), content: content.to_string() }
    }

    fn request(&self, more: Value) -> Result<Value, ApiError> {
        let mut body = json!({ "msg_type": self.msg_type, "content": self.content });
        if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        let (limit, problem) = match self.msg_type.as_str() {
            "text" => (MAX_TEXT_BYTES, "is longer than the 150 KB a text may have"),
            _ => (MAX_BODY_BYTES, "is longer than the 30 KB a card or post may have"),
        };
        if body.to_string().len() > limit {
            return Err(ApiError::Input { field: "content", problem });
        }
        Ok(body)
    }
}

/// A message that is there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentMessage {
    pub message_id: String,
    pub chat_id: Option<String>,
    pub thread_id: Option<String>,
    pub log_id: Option<String>,
}

impl Client {
    /// Sends a message with a tenant token. The same `uuid` sends at most one message within an hour, so this is retried.
    ///
    /// # Errors
    /// See [`Client::call`]; [`ApiError::Input`] for a `uuid` that is empty or over 50 characters and for content over the limit.
    pub async fn send_message(
        &self,
        tenant_token: &SecretString,
        receiver: Receiver<'_>,
        message: &OutgoingMessage,
        uuid: &str,
        deadline: Instant,
    ) -> Result<SentMessage, ApiError> {
        let (receive_id_type, receive_id) = receiver.type_and_id();
        let body = message.request(json!({ "receive_id": receive_id, "uuid": idempotency_key(uuid)? }))?;
        let answer = self
            .call(
                Call::new(Method::POST, "/open-apis/im/v1/messages", deadline)
                    .repeat(Repeat::Safe)
                    .token(tenant_token)
                    .query(&[("receive_id_type", receive_id_type)])
                    .body(&body),
            )
            .await?;
        sent(&answer)
    }

    /// Replies to a message, in its thread if `in_thread`. Idempotent by `uuid` as [`Client::send_message`].
    ///
    /// # Errors
    /// As [`Client::send_message`].
    pub async fn reply(
        &self,
        tenant_token: &SecretString,
        message_id: &str,
        message: &OutgoingMessage,
        in_thread: bool,
        uuid: &str,
        deadline: Instant,
    ) -> Result<SentMessage, ApiError> {
        let path = format!("{}/reply", message_path(message_id)?);
        let body = message.request(json!({ "reply_in_thread": in_thread, "uuid": idempotency_key(uuid)? }))?;
        let call = Call::new(Method::POST, &path, deadline).repeat(Repeat::Safe).token(tenant_token).body(&body);
        sent(&self.call(call).await?)
    }

    /// Replaces a card for everyone, for 14 days after it was sent, at most 5 times a second.
    ///
    /// # Errors
    /// See [`Client::call`]; code 230031 says the 14 days are over.
    pub async fn patch_card(
        &self,
        token: &SecretString,
        message_id: &str,
        card: &Card,
        deadline: Instant,
    ) -> Result<(), ApiError> {
        let path = message_path(message_id)?;
        let body = json!({ "content": card.to_content() });
        self.call(Call::new(Method::PATCH, &path, deadline).repeat(Repeat::Safe).token(token).body(&body)).await?;
        Ok(())
    }

    /// Replaces the card that was clicked, once the click has been answered. Never retried: each try may use up one of the token's two
    /// uses. `open_ids` says whose copy changes; leave it empty for shared cards, which all of ours are.
    ///
    /// # Errors
    /// See [`Client::call`]; codes 300030 and 300040 say the token is over, and [`Client::patch_card`] is the way.
    pub async fn delayed_card_update(
        &self,
        tenant_token: &SecretString,
        update_token: &CardToken,
        card: &Card,
        open_ids: &[&str],
        deadline: Instant,
    ) -> Result<(), ApiError> {
        const PATH: &str = "/open-apis/interactive/v1/card/update";
        let mut card = card.as_json().clone();
        if let (Value::Object(card), false) = (&mut card, open_ids.is_empty()) {
            card.insert("open_ids".to_owned(), json!(open_ids));
        }
        let body = json!({ "token": update_token.as_str(), "card": card });
        self.call(Call::new(Method::POST, PATH, deadline).token(tenant_token).body(&body)).await?;
        Ok(())
    }
}

fn sent(answer: &Answer) -> Result<SentMessage, ApiError> {
    Ok(SentMessage {
        message_id: text(answer, "message_id").ok_or_else(|| lacks(answer, "message_id"))?,
        chat_id: text(answer, "chat_id"),
        thread_id: text(answer, "thread_id"),
        log_id: answer.log_id.clone(),
    })
}

fn idempotency_key(uuid: &str) -> Result<&str, ApiError> {
    if uuid.is_empty() || uuid.chars().count() > MAX_UUID_CHARS {
        return Err(ApiError::Input { field: "uuid", problem: "must have 1 to 50 characters" });
    }
    Ok(uuid)
}

fn message_path(message_id: &str) -> Result<String, ApiError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if message_id.is_empty() || !message_id.bytes().all(plain) {
        return Err(ApiError::Input { field: "message_id", problem: "is not a message id" });
    }
    if message_id.starts_with("c-") {
        return Err(ApiError::Input { field: "message_id", problem: "is a card token, not a message id" });
    }
    Ok(format!("/open-apis/im/v1/messages/{message_id}"))
}
