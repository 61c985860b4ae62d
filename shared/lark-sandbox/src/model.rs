//! What the sandbox remembers: apps, people, chats, messages, tokens, deliveries and faults.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::store::Record;

/// The one tenant of the sandbox.
pub const TENANT_KEY: &str = "2ca1d211f64f6438";

/// Tokens and codes are looked up by this digest; only what must be handed out again is kept as it is.
pub(crate) fn digest(secret: &str) -> String {
    hex::encode(Sha256::digest(secret))
}

fn yes() -> bool {
    true
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppType {
    #[default]
    SelfBuilt,
    Store,
}

/// Which card callback the app subscribed to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CardCallback {
    /// `card.action.trigger`: encrypted and signed with the Encrypt Key.
    #[default]
    New,
    /// `card.action.trigger_v1`: plain, signed with the verification token.
    Old,
}

/// An app as its developer console shows it.
#[derive(Clone, Serialize, Deserialize)]
pub struct App {
    pub app_id: String,
    pub app_secret: String,
    #[serde(default)]
    pub name: String,
    #[serde(default, rename = "type")]
    pub app_type: AppType,
    #[serde(default)]
    pub encrypt_key: Option<String>,
    #[serde(default)]
    pub verification_token: String,
    #[serde(default)]
    pub callback_url: Option<String>,
    #[serde(default)]
    pub card_callback: CardCallback,
    #[serde(default)]
    pub redirect_uris: Vec<String>,
    /// What may be asked for on the authorize page, `offline_access` included.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Asked for, and not yet approved by the tenant's administrator.
    #[serde(default)]
    pub pending_scopes: Vec<String>,
    /// The console's bot feature.
    #[serde(default = "yes")]
    pub bot_enabled: bool,
    /// The open_ids that may use the app; empty means everyone.
    #[serde(default)]
    pub available_to: Vec<String>,
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The console's "refresh user_access_token" switch.
    #[serde(default = "yes")]
    pub refresh_enabled: bool,
    /// Off for load tests: the vendor's request quotas no longer apply to this app.
    #[serde(default = "yes")]
    pub rate_limits: bool,
    /// Nothing tells whether the vendor gives the answer to a refresh again to whoever lost it. 0: a used refresh token is used.
    #[serde(default)]
    pub refresh_replay_secs: u32,
}

impl App {
    /// A self-built app for everyone, with nothing configured yet.
    #[must_use]
    pub fn new(app_id: impl Into<String>, app_secret: impl Into<String>) -> Self {
        Self {
            app_id: app_id.into(),
            app_secret: app_secret.into(),
            name: String::new(),
            app_type: AppType::SelfBuilt,
            encrypt_key: None,
            verification_token: String::new(),
            callback_url: None,
            card_callback: CardCallback::New,
            redirect_uris: Vec::new(),
            scopes: Vec::new(),
            pending_scopes: Vec::new(),
            bot_enabled: true,
            available_to: Vec::new(),
            enabled: true,
            refresh_enabled: true,
            rate_limits: true,
            refresh_replay_secs: 0,
        }
    }

    pub(crate) fn is_available_to(&self, open_id: &str) -> bool {
        self.available_to.is_empty() || self.available_to.iter().any(|one| one == open_id)
    }

    pub(crate) fn encrypt_key(&self) -> Option<&str> {
        self.encrypt_key.as_deref().filter(|key| !key.is_empty())
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("app_id", &self.app_id).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Record for App {
    const KIND: &'static str = "app";

    fn id(&self) -> String {
        self.app_id.clone()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserStatus {
    #[default]
    Active,
    Frozen,
    Resigned,
}

/// A person of the tenant. The same `open_id` serves every app of the sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct User {
    #[serde(default)]
    pub open_id: String,
    #[serde(default)]
    pub union_id: String,
    #[serde(default)]
    pub user_id: String,
    pub name: String,
    #[serde(default)]
    pub en_name: String,
    #[serde(default)]
    pub email: String,
    #[serde(default)]
    pub mobile: String,
    #[serde(default)]
    pub employee_no: String,
    #[serde(default)]
    pub job_title: String,
    #[serde(default)]
    pub department_ids: Vec<String>,
    #[serde(default)]
    pub status: UserStatus,
}

impl Record for User {
    const KIND: &'static str = "user";

    fn id(&self) -> String {
        self.open_id.clone()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatType {
    P2p,
    Group,
}

/// A conversation between people and bots.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Chat {
    pub chat_id: String,
    pub chat_type: ChatType,
    pub name: String,
    /// The people in it, by `open_id`.
    pub members: Vec<String>,
    /// The bots in it, by `app_id`.
    pub app_ids: Vec<String>,
}

impl Record for Chat {
    const KIND: &'static str = "chat";

    fn id(&self) -> String {
        self.chat_id.clone()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type", content = "id")]
pub(crate) enum Sender {
    App(String),
    User(String),
}

/// A message as the vendor keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) message_id: String,
    /// The app whose bot takes part; the sender too, unless a person wrote it.
    pub(crate) app_id: String,
    pub(crate) chat_id: String,
    pub(crate) members: Vec<String>,
    pub(crate) sender: Sender,
    pub(crate) msg_type: String,
    pub(crate) content: String,
    /// What single people see instead, after an update of a card that is not shared.
    #[serde(default)]
    pub(crate) personal: BTreeMap<String, String>,
    pub(crate) root_id: Option<String>,
    pub(crate) parent_id: Option<String>,
    pub(crate) thread_id: Option<String>,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
    #[serde(default)]
    pub(crate) edits: u32,
    #[serde(default)]
    pub(crate) updated: bool,
    #[serde(default)]
    pub(crate) deleted: bool,
}

impl Message {
    pub(crate) fn content_for(&self, open_id: &str) -> &str {
        self.personal.get(open_id).unwrap_or(&self.content)
    }

    pub(crate) fn is_card(&self) -> bool {
        self.msg_type == "interactive"
    }
}

impl Record for Message {
    const KIND: &'static str = "message";

    fn id(&self) -> String {
        self.message_id.clone()
    }

    fn owner(&self) -> &str {
        &self.app_id
    }
}

/// One thing that happened to a message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    #[serde(skip)]
    pub(crate) message_id: String,
    #[serde(skip)]
    pub(crate) change_id: String,
    pub at: String,
    /// `sent`, `edited`, `patched`, `delayed_update`, `clicked` or `recalled`.
    pub what: String,
    /// Who caused it: an `open_id`, or an `app_id`.
    pub by: String,
    /// The content from then on, where it changed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub toast: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

impl Record for Change {
    const KIND: &'static str = "change";

    fn id(&self) -> String {
        self.change_id.clone()
    }

    fn owner(&self) -> &str {
        &self.message_id
    }
}

/// A `uuid` already used for sending.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SentUuid {
    pub(crate) app_id: String,
    pub(crate) uuid: String,
    pub(crate) message_id: String,
    pub(crate) sent_at: i64,
}

impl SentUuid {
    pub(crate) fn key(app_id: &str, uuid: &str) -> String {
        format!("{app_id}|{uuid}")
    }
}

impl Record for SentUuid {
    const KIND: &'static str = "sent_uuid";

    fn id(&self) -> String {
        Self::key(&self.app_id, &self.uuid)
    }
}

/// What a click leaves behind: the right to update that card twice within 30 minutes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CardToken {
    pub(crate) token: String,
    pub(crate) app_id: String,
    pub(crate) message_id: String,
    pub(crate) open_id: String,
    pub(crate) expires_at: i64,
    pub(crate) uses_left: u32,
    /// The callback was answered with 200; until then the platform accepts no update.
    pub(crate) answered: bool,
}

impl Record for CardToken {
    const KIND: &'static str = "card_token";

    fn id(&self) -> String {
        self.token.clone()
    }
}

/// `X-Refresh-Token` of the old callback: the same until a click on this card by this person was acknowledged.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ClickToken {
    pub(crate) message_id: String,
    pub(crate) open_id: String,
    pub(crate) token: String,
}

impl ClickToken {
    pub(crate) fn key(message_id: &str, open_id: &str) -> String {
        format!("{message_id}|{open_id}")
    }
}

impl Record for ClickToken {
    const KIND: &'static str = "click_token";

    fn id(&self) -> String {
        Self::key(&self.message_id, &self.open_id)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TokenKind {
    Tenant,
    App,
    User,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AccessToken {
    pub(crate) digest: String,
    pub(crate) kind: TokenKind,
    pub(crate) app_id: String,
    /// Whose token it is; empty for tenant and app tokens.
    pub(crate) open_id: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) expires_at: i64,
}

impl Record for AccessToken {
    const KIND: &'static str = "access_token";

    fn id(&self) -> String {
        self.digest.clone()
    }

    fn owner(&self) -> &str {
        &self.open_id
    }
}

/// The tenant or app token that is handed out again while it has half an hour left.
#[derive(Serialize, Deserialize)]
pub(crate) struct CurrentToken {
    pub(crate) kind: TokenKind,
    pub(crate) app_id: String,
    pub(crate) token: String,
    pub(crate) expires_at: i64,
}

impl CurrentToken {
    pub(crate) fn key(kind: TokenKind, app_id: &str) -> String {
        format!("{kind:?}|{app_id}")
    }
}

impl Record for CurrentToken {
    const KIND: &'static str = "current_token";

    fn id(&self) -> String {
        Self::key(self.kind, &self.app_id)
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct AppTicket {
    pub(crate) app_id: String,
    pub(crate) ticket: String,
}

impl Record for AppTicket {
    const KIND: &'static str = "app_ticket";

    fn id(&self) -> String {
        self.app_id.clone()
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AuthorizationCode {
    pub(crate) digest: String,
    pub(crate) app_id: String,
    pub(crate) open_id: String,
    pub(crate) redirect_uri: String,
    pub(crate) challenge: Option<Challenge>,
    pub(crate) expires_at: i64,
    pub(crate) used: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Challenge {
    pub(crate) value: String,
    pub(crate) s256: bool,
}

impl Record for AuthorizationCode {
    const KIND: &'static str = "code";

    fn id(&self) -> String {
        self.digest.clone()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RefreshState {
    Live,
    Used,
    Revoked,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RefreshToken {
    pub(crate) digest: String,
    pub(crate) app_id: String,
    pub(crate) open_id: String,
    pub(crate) scopes: Vec<String>,
    /// The access token issued with it, cut to one minute when this one is used.
    pub(crate) access_digest: String,
    pub(crate) authorized_at: i64,
    pub(crate) expires_at: i64,
    pub(crate) state: RefreshState,
    /// When it was used and what the answer was, for a vendor that repeats itself.
    #[serde(default)]
    pub(crate) answered: Option<(i64, Value)>,
}

impl Record for RefreshToken {
    const KIND: &'static str = "refresh_token";

    fn id(&self) -> String {
        self.digest.clone()
    }

    fn owner(&self) -> &str {
        &self.open_id
    }
}

/// Everything a person ever granted an app.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(crate) app_id: String,
    pub(crate) open_id: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) authorized_at: i64,
}

impl Grant {
    pub(crate) fn key(app_id: &str, open_id: &str) -> String {
        format!("{app_id}|{open_id}")
    }
}

impl Record for Grant {
    const KIND: &'static str = "grant";

    fn id(&self) -> String {
        Self::key(&self.app_id, &self.open_id)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    Pending,
    Delivered,
    /// All five attempts failed.
    Failed,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attempt {
    pub at: String,
    pub http_status: Option<u16>,
    pub error: Option<String>,
    pub latency_ms: u64,
}

/// One event on its way to an app; every attempt carries the same `event_id`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delivery {
    pub delivery_id: String,
    pub app_id: String,
    pub event_id: String,
    pub event_type: String,
    pub status: DeliveryStatus,
    pub attempts: Vec<Attempt>,
    pub created_at: String,
    /// Sandbox time in milliseconds; absent once there is nothing left to try.
    pub next_attempt_at_ms: Option<i64>,
    /// The plain event, before encryption.
    pub payload: Value,
}

impl Record for Delivery {
    const KIND: &'static str = "delivery";

    fn id(&self) -> String {
        self.delivery_id.clone()
    }

    fn owner(&self) -> &str {
        &self.app_id
    }

    fn due_at(&self) -> Option<i64> {
        self.next_attempt_at_ms
    }
}

/// What goes wrong, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FaultKind {
    /// HTTP 500 (or 503) before anything is done.
    Http(u16),
    /// The answer carries this code; nothing is done.
    Code(i64),
    /// No answer at all; nothing is done.
    Timeout,
    /// HTTP 429 with the quota headers.
    RateLimit,
    /// The effect happens, the connection closes without an answer.
    DropAfterProcessing,
    /// The answer comes this many milliseconds late.
    Slow(u64),
}

impl FromStr for FaultKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || {
            format!(
                "`{text}` is none of http_500, http_503, code:<n>, timeout, rate_limit, drop_after_processing, slow:<ms>"
            )
        };
        Ok(match text {
            "http_500" => Self::Http(500),
            "http_503" => Self::Http(503),
            "timeout" => Self::Timeout,
            "rate_limit" => Self::RateLimit,
            "drop_after_processing" => Self::DropAfterProcessing,
            _ => match text.split_once(':') {
                Some(("code", code)) => Self::Code(code.parse().map_err(|_| unknown())?),
                Some(("slow", millis)) => Self::Slow(millis.parse().map_err(|_| unknown())?),
                _ => return Err(unknown()),
            },
        })
    }
}

impl TryFrom<String> for FaultKind {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(status) => write!(f, "http_{status}"),
            Self::Code(code) => write!(f, "code:{code}"),
            Self::Timeout => f.write_str("timeout"),
            Self::RateLimit => f.write_str("rate_limit"),
            Self::DropAfterProcessing => f.write_str("drop_after_processing"),
            Self::Slow(millis) => write!(f, "slow:{millis}"),
        }
    }
}

impl From<FaultKind> for String {
    fn from(kind: FaultKind) -> Self {
        kind.to_string()
    }
}

/// A fault in wait for calls whose path starts with `path_prefix`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    #[serde(default)]
    pub fault_id: String,
    pub path_prefix: String,
    pub kind: FaultKind,
    /// How many more calls it strikes; absent means until it is deleted.
    #[serde(default)]
    pub times: Option<u32>,
    /// How many of 100 matching calls it strikes; absent means all.
    #[serde(default)]
    pub percent: Option<u8>,
}

impl Record for Fault {
    const KIND: &'static str = "fault";

    fn id(&self) -> String {
        self.fault_id.clone()
    }
}

/// How far sandbox time is ahead of the machine's.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ClockOffset {
    pub(crate) offset_ms: i64,
}

impl ClockOffset {
    pub(crate) const ID: &'static str = "offset";
}

impl Record for ClockOffset {
    const KIND: &'static str = "clock";

    fn id(&self) -> String {
        Self::ID.to_owned()
    }
}
