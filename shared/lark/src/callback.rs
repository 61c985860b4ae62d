//! What the vendor pushes: proved, decrypted and read in one call, in the one safe order.

use std::borrow::Cow;
use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::event::Event;
use crate::signature::{self, DecryptError};
use crate::wire::{self, Raw};

/// What one app shares with the vendor.
#[derive(Debug, Clone)]
pub struct Keys {
    pub app_id: String,
    /// Without one (or with an empty one) bodies are plain and the verification token is their only proof.
    pub encrypt_key: Option<SecretString>,
    /// Never matches anything while it is empty.
    pub verification_token: SecretString,
}

impl Keys {
    fn encrypt_key(&self) -> Option<&str> {
        self.encrypt_key.as_ref().map(SecretString::expose_secret).filter(|key| !key.is_empty())
    }
}

/// Headers of one push; an empty header counts as absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct SignatureHeaders<'a> {
    /// `X-Lark-Request-Timestamp`
    pub timestamp: Option<&'a str>,
    /// `X-Lark-Request-Nonce`
    pub nonce: Option<&'a str>,
    /// `X-Lark-Signature`
    pub signature: Option<&'a str>,
    /// `X-Refresh-Token`, which old card callbacks carry to tell a repeated click.
    pub refresh_token: Option<&'a str>,
}

/// One push, proved to come from the vendor and meant for this app.
#[derive(Debug, Clone)]
pub enum Callback {
    /// The vendor checks the URL; answer within 1 s with [`crate::answer::challenge`].
    Challenge {
        challenge: String,
    },
    /// A person clicked; the answer to this request is what they see, within 3 s.
    CardAction(Box<CardAction>),
    Event(Event),
}

/// A click on a card, the same for new (`card.action.trigger`) and old callbacks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CardAction {
    pub app_id: String,
    /// The same for each repetition of one click. Old callbacks have none: theirs is made from `X-Refresh-Token` or the body.
    pub event_id: String,
    pub operator: Operator,
    pub update_token: CardToken,
    pub message_id: Option<String>,
    pub chat_id: Option<String>,
    pub action: Action,
    /// Where the card was clicked: `im_message`, `im_top_notice`.
    pub host: Option<String>,
    /// Old callbacks are answered in another form; [`crate::answer::CardAnswer`] knows it.
    pub old: bool,
}

/// Who clicked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    pub open_id: String,
    pub user_id: Option<String>,
    pub union_id: Option<String>,
    pub tenant_key: Option<String>,
}

/// What was clicked or filled in. Only what the component has is set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Action {
    pub tag: String,
    pub name: Option<String>,
    /// Object or string as the card's author wrote it; null if there was none.
    pub value: Value,
    pub option: Option<String>,
    pub options: Vec<String>,
    pub form_value: Option<Value>,
    pub input_value: Option<String>,
    pub checked: Option<bool>,
    pub timezone: Option<String>,
}

/// The `c-` token that updates the clicked card: for 30 minutes, twice at most, after the callback was answered. Not a message id.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CardToken(String);

impl CardToken {
    #[must_use]
    pub fn new(token: String) -> Self {
        Self(token)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for CardToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CardToken([redacted])")
    }
}

/// Why a push is refused. The platform counts any status but 200 as failed delivery.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallbackError {
    /// Not what the vendor sends.
    #[error("`{field}` of the callback {problem}")]
    Malformed { field: &'static str, problem: Problem },
    /// Not proved to come from the vendor.
    #[error("callback is not from Lark: {0}")]
    Forged(Forgery),
    /// From the vendor, for another app.
    #[error("callback is for app `{app_id}`")]
    Forbidden { app_id: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("is not JSON")]
    NotJson,
    #[error("is missing")]
    Missing,
    #[error("has the wrong type")]
    WrongType,
    #[error("is not base64 of an IV and whole blocks")]
    NotCiphertext,
    #[error("was not encrypted with the key it is signed with")]
    Undecryptable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forgery {
    #[error("it is not signed")]
    Unsigned,
    #[error("its signature is wrong")]
    WrongSignature,
    #[error("it is encrypted and the app has no encrypt key")]
    NoEncryptKey,
    #[error("it was encrypted with another key")]
    WrongKey,
    #[error("its verification token is wrong")]
    WrongToken,
}

impl CallbackError {
    /// The HTTP status to answer.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed { .. } => 400,
            Self::Forged(_) => 401,
            Self::Forbidden { .. } => 403,
        }
    }
}

/// Proves, decrypts and reads one push. The body must be the bytes as received, never re-serialised.
///
/// With an encrypt key every push must be signed, except the URL check, which the vendor sends unsigned; its token proves it. An old card
/// callback carries no token, so it must be signed always. There is no age limit: whether the vendor's retries, up to
/// 7.1 hours later, are signed anew is not documented. Drop repetitions by `event_id` and [`Event::dedupe_key`].
///
/// # Errors
/// [`CallbackError::status`] is the answer. Never panics, whatever the bytes.
pub fn open(keys: &Keys, headers: &SignatureHeaders<'_>, raw_body: &[u8]) -> Result<Callback, CallbackError> {
    let body = json_text(raw_body)?;
    let outer: Envelope<'_> = wire::object("body", body)?;
    let proof = Proof::of(keys, headers, raw_body)?;
    if outer.encrypt.is_none() {
        return read(keys, headers, &outer, body, proof);
    }

    let ciphertext = wire::borrowed("encrypt", outer.encrypt)?.unwrap_or_default();
    let key = keys.encrypt_key().ok_or(CallbackError::Forged(Forgery::NoEncryptKey))?;
    decrypt(key, &ciphertext)
        .and_then(|plaintext| {
            let body = json_text(&plaintext)?;
            read(keys, headers, &wire::object("body", body)?, body, proof)
        })
        .map_err(|error| match error {
            // Noise from a wrong key or a changed IV; its shape is nobody's business without a signature.
            CallbackError::Malformed { problem, .. } if proof == Proof::None && problem != Problem::NotCiphertext => {
                CallbackError::Forged(Forgery::WrongKey)
            }
            error => error,
        })
}

fn json_text(bytes: &[u8]) -> Result<&str, CallbackError> {
    str::from_utf8(bytes).map_err(|_| CallbackError::Malformed { field: "body", problem: Problem::NotJson })
}

fn decrypt(key: &str, ciphertext: &str) -> Result<Vec<u8>, CallbackError> {
    signature::decrypt(key, ciphertext).map_err(|error| CallbackError::Malformed {
        field: "encrypt",
        problem: match error {
            DecryptError::Base64 | DecryptError::Length => Problem::NotCiphertext,
            DecryptError::Padding => Problem::Undecryptable,
        },
    })
}

/// Which secret the sender of the raw bytes was shown to know.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Proof {
    None,
    EncryptKey,
    VerificationToken,
}

impl Proof {
    /// A signature that is there must be right. Its length tells SHA-256 from the SHA-1 of old cards.
    fn of(keys: &Keys, headers: &SignatureHeaders<'_>, raw_body: &[u8]) -> Result<Self, CallbackError> {
        const SHA1_HEX: usize = 40;
        let present = |header: Option<&'_ str>| header.is_some_and(|value| !value.is_empty());
        let (Some(signature), true) = (headers.signature, present(headers.signature)) else { return Ok(Self::None) };
        let timestamp = headers.timestamp.unwrap_or_default();
        let nonce = headers.nonce.unwrap_or_default();
        let complete = !timestamp.is_empty() && !nonce.is_empty();

        let token = keys.verification_token.expose_secret();
        let (proof, valid) = match keys.encrypt_key() {
            _ if signature.len() == SHA1_HEX => {
                let valid = !token.is_empty() && signature::verify_sha1(signature, timestamp, nonce, token, raw_body);
                (Self::VerificationToken, valid)
            }
            Some(key) => (Self::EncryptKey, signature::verify_sha256(signature, timestamp, nonce, key, raw_body)),
            None => return Ok(Self::None),
        };
        if complete && valid { Ok(proof) } else { Err(CallbackError::Forged(Forgery::WrongSignature)) }
    }
}

/// Every shape of body at once: encrypted, URL check, schema 1.0, schema 2.0, old card.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    encrypt: Raw<'a>,
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    challenge: Raw<'a>,
    #[serde(borrow)]
    token: Raw<'a>,
    #[serde(borrow)]
    schema: Raw<'a>,
    #[serde(borrow)]
    header: Raw<'a>,
    #[serde(borrow)]
    event: Raw<'a>,
    #[serde(borrow)]
    uuid: Raw<'a>,
    #[serde(borrow)]
    ts: Raw<'a>,
    #[serde(borrow)]
    action: Raw<'a>,
    #[serde(borrow)]
    open_id: Raw<'a>,
    #[serde(borrow)]
    user_id: Raw<'a>,
    #[serde(borrow)]
    union_id: Raw<'a>,
    #[serde(borrow)]
    tenant_key: Raw<'a>,
    #[serde(borrow)]
    open_message_id: Raw<'a>,
    #[serde(borrow)]
    open_chat_id: Raw<'a>,
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    event_id: Raw<'a>,
    #[serde(borrow)]
    event_type: Raw<'a>,
    #[serde(borrow)]
    token: Raw<'a>,
    #[serde(borrow)]
    app_id: Raw<'a>,
    #[serde(borrow)]
    tenant_key: Raw<'a>,
    #[serde(borrow)]
    create_time: Raw<'a>,
}

/// The envelope fields that schema 1.0 keeps inside `event`.
#[derive(Deserialize)]
struct EventV1<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    app_id: Raw<'a>,
    #[serde(borrow)]
    tenant_key: Raw<'a>,
}

#[derive(Deserialize)]
struct CardEvent<'a> {
    #[serde(borrow)]
    operator: Raw<'a>,
    #[serde(borrow)]
    token: Raw<'a>,
    #[serde(borrow)]
    action: Raw<'a>,
    #[serde(borrow)]
    host: Raw<'a>,
    #[serde(borrow)]
    context: Raw<'a>,
}

#[derive(Deserialize)]
struct OperatorFields<'a> {
    #[serde(borrow)]
    open_id: Raw<'a>,
    #[serde(borrow)]
    user_id: Raw<'a>,
    #[serde(borrow)]
    union_id: Raw<'a>,
    #[serde(borrow)]
    tenant_key: Raw<'a>,
}

#[derive(Deserialize)]
struct Context<'a> {
    #[serde(borrow)]
    open_message_id: Raw<'a>,
    #[serde(borrow)]
    open_chat_id: Raw<'a>,
}

#[derive(Deserialize)]
struct ActionFields<'a> {
    #[serde(borrow)]
    tag: Raw<'a>,
    #[serde(borrow)]
    name: Raw<'a>,
    #[serde(borrow)]
    value: Raw<'a>,
    #[serde(borrow)]
    option: Raw<'a>,
    #[serde(borrow)]
    options: Raw<'a>,
    #[serde(borrow)]
    form_value: Raw<'a>,
    #[serde(borrow)]
    input_value: Raw<'a>,
    #[serde(borrow)]
    checked: Raw<'a>,
    #[serde(borrow)]
    timezone: Raw<'a>,
}

/// Reads a plain body: its proof first, its app next, its content last.
fn read(
    keys: &Keys,
    headers: &SignatureHeaders<'_>,
    envelope: &Envelope<'_>,
    body: &str,
    proof: Proof,
) -> Result<Callback, CallbackError> {
    if wire::borrowed("type", envelope.kind)?.as_deref() == Some("url_verification") {
        check_token(keys, wire::borrowed("token", envelope.token)?)?;
        let challenge = wire::required_text("challenge", envelope.challenge)?;
        return Ok(Callback::Challenge { challenge });
    }
    let enveloped = envelope.schema.is_some() || envelope.header.is_some() || envelope.event.is_some();
    if !enveloped && envelope.action.is_some() {
        return if proof == Proof::None {
            Err(CallbackError::Forged(Forgery::Unsigned))
        } else {
            old_card(keys, headers, envelope, body).map(|action| Callback::CardAction(Box::new(action)))
        };
    }
    if keys.encrypt_key().is_some() && proof != Proof::EncryptKey {
        return Err(CallbackError::Forged(Forgery::Unsigned));
    }
    if envelope.schema.is_some() || envelope.header.is_some() {
        schema_2(keys, envelope)
    } else {
        schema_1(keys, envelope)
    }
}

fn schema_2(keys: &Keys, envelope: &Envelope<'_>) -> Result<Callback, CallbackError> {
    let header: Header<'_> = wire::required_object("header", envelope.header)?;
    check_token(keys, wire::borrowed("header.token", header.token)?)?;
    let app_id = wire::required_text("header.app_id", header.app_id)?;
    check_app(keys, &app_id)?;
    let id = wire::required_text("header.event_id", header.event_id)?;
    let event_type = wire::required_text("header.event_type", header.event_type)?;
    let tenant_key = wire::text("header.tenant_key", header.tenant_key)?;
    if event_type == "card.action.trigger" {
        let event = wire::required_object("event", envelope.event)?;
        return Ok(Callback::CardAction(Box::new(new_card(app_id, id, tenant_key, &event)?)));
    }
    let created_at_ms = wire::milliseconds(header.create_time);
    let body = wire::required("event", envelope.event)?.to_owned();
    Ok(Callback::Event(Event { id, event_type, app_id, tenant_key, created_at_ms, body }))
}

fn schema_1(keys: &Keys, envelope: &Envelope<'_>) -> Result<Callback, CallbackError> {
    check_token(keys, wire::borrowed("token", envelope.token)?)?;
    let event: EventV1<'_> = wire::required_object("event", envelope.event)?;
    let app_id = wire::text("event.app_id", event.app_id)?.unwrap_or_else(|| keys.app_id.clone());
    check_app(keys, &app_id)?;
    Ok(Callback::Event(Event {
        id: wire::required_text("uuid", envelope.uuid)?,
        event_type: wire::required_text("event.type", event.kind)?,
        app_id,
        tenant_key: wire::text("event.tenant_key", event.tenant_key)?,
        created_at_ms: wire::milliseconds(envelope.ts),
        body: wire::required("event", envelope.event)?.to_owned(),
    }))
}

fn new_card(
    app_id: String,
    event_id: String,
    tenant_key: Option<String>,
    event: &CardEvent<'_>,
) -> Result<CardAction, CallbackError> {
    let operator: OperatorFields<'_> = wire::required_object("event.operator", event.operator)?;
    let (message_id, chat_id) = match event.context {
        None => (None, None),
        context => {
            let context: Context<'_> = wire::required_object("event.context", context)?;
            (
                wire::text("event.context.open_message_id", context.open_message_id)?,
                wire::text("event.context.open_chat_id", context.open_chat_id)?,
            )
        }
    };
    Ok(CardAction {
        app_id,
        event_id,
        operator: Operator {
            open_id: wire::required_text("event.operator.open_id", operator.open_id)?,
            user_id: wire::text("event.operator.user_id", operator.user_id)?,
            union_id: wire::text("event.operator.union_id", operator.union_id)?,
            tenant_key: wire::text("event.operator.tenant_key", operator.tenant_key)?.or(tenant_key),
        },
        update_token: CardToken(wire::required_text("event.token", event.token)?),
        message_id,
        chat_id,
        action: action(event.action)?,
        host: wire::text("event.host", event.host)?,
        old: false,
    })
}

fn old_card(
    keys: &Keys,
    headers: &SignatureHeaders<'_>,
    card: &Envelope<'_>,
    body: &str,
) -> Result<CardAction, CallbackError> {
    let same_for_each_repetition = headers.refresh_token.filter(|token| !token.is_empty()).unwrap_or(body);
    Ok(CardAction {
        app_id: keys.app_id.clone(),
        event_id: hex::encode(Sha256::digest(same_for_each_repetition.as_bytes())),
        operator: Operator {
            open_id: wire::required_text("open_id", card.open_id)?,
            user_id: wire::text("user_id", card.user_id)?,
            union_id: wire::text("union_id", card.union_id)?,
            tenant_key: wire::text("tenant_key", card.tenant_key)?,
        },
        update_token: CardToken(wire::required_text("token", card.token)?),
        message_id: wire::text("open_message_id", card.open_message_id)?,
        chat_id: wire::text("open_chat_id", card.open_chat_id)?,
        action: action(card.action)?,
        host: None,
        old: true,
    })
}

fn action(raw: Raw<'_>) -> Result<Action, CallbackError> {
    let fields: ActionFields<'_> = wire::required_object("action", raw)?;
    Ok(Action {
        tag: wire::required_text("action.tag", fields.tag)?,
        name: wire::text("action.name", fields.name)?,
        value: wire::optional("action.value", fields.value)?.unwrap_or_default(),
        option: wire::text("action.option", fields.option)?,
        options: wire::optional("action.options", fields.options)?.unwrap_or_default(),
        form_value: wire::optional("action.form_value", fields.form_value)?,
        input_value: wire::optional("action.input_value", fields.input_value)?,
        checked: wire::optional("action.checked", fields.checked)?,
        timezone: wire::text("action.timezone", fields.timezone)?,
    })
}

fn check_token(keys: &Keys, given: Option<Cow<'_, str>>) -> Result<(), CallbackError> {
    let expected = keys.verification_token.expose_secret();
    match given {
        Some(given) if !expected.is_empty() && signature::same(&given, expected.as_bytes()) => Ok(()),
        _ => Err(CallbackError::Forged(Forgery::WrongToken)),
    }
}

fn check_app(keys: &Keys, app_id: &str) -> Result<(), CallbackError> {
    if app_id == keys.app_id { Ok(()) } else { Err(CallbackError::Forbidden { app_id: app_id.to_owned() }) }
}
