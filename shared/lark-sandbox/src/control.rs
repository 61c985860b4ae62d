//! The sandbox's own side: settings, people, clicks, events, time, faults and counters, as JSON and in process.

use std::collections::BTreeMap;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::{Url, form_urlencoded};

use crate::click::{Click, Clicked, Target};
use crate::clock::{SECOND, random_hex, rfc3339};
use crate::html::Language;
use crate::model::{
    App, AppTicket, AppType, Change, Chat, ChatType, ClockOffset, Delivery, Fault, Message, Sender, TENANT_KEY, User,
};
use crate::store::{Call, CallCount, StoreError};
use crate::vendor::{auth, im, oauth};
use crate::{Sandbox, delivery, message, people, push, view};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;
const CALLS_SHOWN: usize = 100;

/// A request to the sandbox's own side that cannot be met.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("`{field}` {message}")]
    Invalid { field: String, message: String },
    #[error("there is no {what} `{id}`")]
    Missing { what: &'static str, id: String },
    /// The sandbox's state does not allow it now.
    #[error("{message}")]
    Refused { code: &'static str, message: String },
    #[error("the callback URL did not pass the challenge: {0}")]
    CallbackUnverified(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SandboxError {
    pub(crate) fn invalid(field: &str, message: &str) -> Self {
        Self::Invalid { field: field.to_owned(), message: message.to_owned() }
    }

    pub(crate) fn missing(what: &'static str, id: &str) -> Self {
        Self::Missing { what, id: id.to_owned() }
    }

    pub(crate) fn refused(code: &'static str, message: &str) -> Self {
        Self::Refused { code, message: message.to_owned() }
    }
}

impl IntoResponse for SandboxError {
    fn into_response(self) -> Response {
        let (status, code) = match &self {
            Self::Invalid { .. } => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::Missing { .. } => (StatusCode::NOT_FOUND, "not_found"),
            Self::Refused { code, .. } => (StatusCode::CONFLICT, *code),
            Self::CallbackUnverified(_) => (StatusCode::UNPROCESSABLE_ENTITY, "callback_url_unverified"),
            Self::Store(error) => {
                tracing::error!(error = ?error, "The sandbox could not use its state file");
                (StatusCode::INTERNAL_SERVER_ERROR, "internal_error")
            }
        };
        (status, Json(json!({ "error": code, "message": self.to_string() }))).into_response()
    }
}

/// An app's settings, and whether to put its callback URL to the challenge.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AppSpec {
    #[serde(flatten)]
    pub app: App,
    /// Absent means yes; without it an unreachable callback URL is saved as it is.
    #[serde(default = "yes")]
    pub verify: bool,
}

fn yes() -> bool {
    true
}

/// `POST /sandbox/authorize`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Consent {
    /// The whole address of the authorize page.
    pub url: String,
    pub open_id: String,
    #[serde(default = "yes")]
    pub approve: bool,
}

/// `POST /sandbox/revoke`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Revocation {
    pub app_id: String,
    pub open_id: String,
}

/// `POST /sandbox/events`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    pub app_id: String,
    pub event_type: String,
    pub event: Value,
    /// Absent: a new one.
    #[serde(default)]
    pub event_id: Option<String>,
    /// `2.0` unless `1.0` is asked for.
    #[serde(default)]
    pub schema: Option<String>,
}

/// `POST /sandbox/messages/from`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FromPerson {
    pub app_id: String,
    pub open_id: String,
    /// Absent: the person's own conversation with the bot.
    #[serde(default)]
    pub chat_id: Option<String>,
    pub text: String,
}

/// A message as a person sees it now, and how it came to that.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SeenMessage {
    pub message_id: String,
    pub app_id: String,
    pub chat_id: String,
    /// The `app_id` or `open_id` that wrote it.
    pub sender: String,
    pub msg_type: String,
    /// The vendor's content string.
    pub content: String,
    /// The card as it is now, for cards.
    pub card: Option<Value>,
    pub root_id: Option<String>,
    pub parent_id: Option<String>,
    pub thread_id: Option<String>,
    pub updated: bool,
    pub deleted: bool,
    pub created_at: String,
    pub updated_at: String,
    /// Oldest first.
    pub history: Vec<Change>,
}

/// `GET /sandbox/calls`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CallReport {
    pub total: u64,
    /// Endpoint, then result, then how often.
    pub counts: BTreeMap<String, BTreeMap<String, u64>>,
    /// The last hundred, newest first.
    pub last: Vec<Call>,
}

impl CallReport {
    /// How often `endpoint` (`POST /open-apis/im/v1/messages`) was called, whatever came of it.
    #[must_use]
    pub fn of(&self, endpoint: &str) -> u64 {
        self.counts.get(endpoint).map(|results| results.values().sum()).unwrap_or_default()
    }
}

impl Sandbox {
    /// Creates or replaces an app. A callback URL has to answer the challenge within a second, else nothing is saved.
    ///
    /// # Errors
    /// [`SandboxError::Invalid`] names the field; [`SandboxError::CallbackUnverified`] says what the URL answered.
    pub async fn put_app(&self, spec: AppSpec) -> Result<App, SandboxError> {
        let AppSpec { app, verify } = spec;
        check_app(&app)?;
        if let Some(url) = app.callback_url.as_deref().filter(|_| verify) {
            push::verify_url(&self.inner.http, &app, url).await.map_err(SandboxError::CallbackUnverified)?;
        }
        self.blocking(move |sandbox| {
            sandbox.store().transact(|tx| {
                tx.put(&app)?;
                if app.app_type == AppType::Store && tx.get::<AppTicket>(&app.app_id)?.is_none() {
                    auth::push_ticket(tx, &app)?;
                }
                Ok(masked(app))
            })
        })
        .await
    }

    /// Every app, secrets masked.
    ///
    /// # Errors
    /// [`SandboxError::Store`].
    pub async fn apps(&self) -> Result<Vec<App>, SandboxError> {
        let apps = self.blocking(|sandbox| sandbox.store().transact(|tx| tx.all::<App>())).await?;
        Ok(apps.into_iter().map(masked).collect())
    }

    /// Everyone in the tenant.
    ///
    /// # Errors
    /// [`SandboxError::Store`].
    pub async fn users(&self) -> Result<Vec<User>, SandboxError> {
        Ok(self.blocking(|sandbox| sandbox.store().transact(|tx| tx.all())).await?)
    }

    /// Creates or replaces a person; ids left empty are made up.
    ///
    /// # Errors
    /// [`SandboxError::Invalid`] without a name.
    pub async fn put_user(&self, user: User) -> Result<User, SandboxError> {
        if user.name.is_empty() {
            return Err(SandboxError::invalid("name", "must not be empty"));
        }
        let user = people::complete(user);
        self.blocking(move |sandbox| {
            sandbox.store().transact(|tx| tx.put(&user))?;
            Ok(user)
        })
        .await
    }

    /// Every chat, those between one person and a bot included.
    ///
    /// # Errors
    /// [`SandboxError::Store`].
    pub async fn chats(&self) -> Result<Vec<Chat>, SandboxError> {
        Ok(self.blocking(|sandbox| sandbox.store().transact(|tx| tx.all())).await?)
    }

    /// Creates or replaces a group chat; an empty `chat_id` is made up.
    ///
    /// # Errors
    /// [`SandboxError::Missing`] if a member or a bot is unknown.
    pub async fn put_chat(&self, mut chat: Chat) -> Result<Chat, SandboxError> {
        if chat.chat_id.is_empty() {
            chat.chat_id = format!("oc_{}", random_hex::<16>());
        }
        self.blocking(move |sandbox| {
            sandbox.store().transact(|tx| {
                for open_id in &chat.members {
                    tx.get::<User>(open_id)?.ok_or_else(|| SandboxError::missing("user", open_id))?;
                }
                for app_id in &chat.app_ids {
                    tx.get::<App>(app_id)?.ok_or_else(|| SandboxError::missing("app", app_id))?;
                }
                tx.put(&chat)?;
                Ok(chat)
            })
        })
        .await
    }

    /// The person takes back what they granted the app; true if there was something to take back.
    ///
    /// # Errors
    /// [`SandboxError::Store`].
    pub async fn revoke(&self, revocation: Revocation) -> Result<bool, SandboxError> {
        let Revocation { app_id, open_id } = revocation;
        Ok(self.blocking(move |sandbox| sandbox.store().transact(|tx| oauth::revoke(tx, &app_id, &open_id))).await?)
    }

    /// Pushes an event and returns the delivery as its first attempt left it; failed ones are retried by
    /// [`Sandbox::serve`].
    ///
    /// # Errors
    /// [`SandboxError::Missing`] if there is no such app.
    pub async fn push_event(&self, event: Event) -> Result<Delivery, SandboxError> {
        if !event.event.is_object() {
            return Err(SandboxError::invalid("event", "must be an object"));
        }
        let queued = self
            .blocking(move |sandbox| {
                sandbox.store().transact(|tx| {
                    let app =
                        tx.get::<App>(&event.app_id)?.ok_or_else(|| SandboxError::missing("app", &event.app_id))?;
                    let event_id = event.event_id.unwrap_or_else(random_hex::<16>);
                    let delivery = match event.schema.as_deref() {
                        None | Some("2.0") => {
                            delivery::schema_2(tx.now, &app, &event.event_type, event.event, event_id)
                        }
                        Some("1.0") => delivery::schema_1(tx.now, &app, &event.event_type, event.event, event_id),
                        Some(_) => return Err(SandboxError::invalid("schema", "must be \"1.0\" or \"2.0\"")),
                    };
                    tx.put(&delivery)?;
                    Ok(delivery)
                })
            })
            .await?;
        self.first_attempt(queued).await
    }

    /// A person writes to the bot: the message is stored and `im.message.receive_v1` is pushed.
    ///
    /// # Errors
    /// [`SandboxError`] if app, person or chat are unknown or the two are not both in the chat.
    pub async fn message_from(&self, from: FromPerson) -> Result<(SeenMessage, Delivery), SandboxError> {
        let (message, queued) = self
            .blocking(move |sandbox| {
                sandbox.store().transact(|tx| {
                    let app = tx.get::<App>(&from.app_id)?.ok_or_else(|| SandboxError::missing("app", &from.app_id))?;
                    let user =
                        tx.get::<User>(&from.open_id)?.ok_or_else(|| SandboxError::missing("user", &from.open_id))?;
                    let chat = match &from.chat_id {
                        None => im::p2p_chat(tx, &app, &user)?,
                        Some(id) => tx.get::<Chat>(id)?.ok_or_else(|| SandboxError::missing("chat", id))?,
                    };
                    if !chat.members.contains(&user.open_id) || !chat.app_ids.contains(&app.app_id) {
                        return Err(SandboxError::refused(
                            "not_in_chat",
                            "the person and the bot must both be in the chat",
                        ));
                    }
                    let content = json!({ "text": from.text }).to_string();
                    let sender = Sender::User(user.open_id.clone());
                    let message = message::new(tx.now, app.app_id.clone(), sender, &chat, "text".to_owned(), content);
                    message::store_new(tx, &message)?;
                    let delivery = delivery::schema_2(
                        tx.now,
                        &app,
                        "im.message.receive_v1",
                        received(&app, &user, &chat, &message),
                        random_hex::<16>(),
                    );
                    tx.put(&delivery)?;
                    Ok((seen(tx, message, None)?, delivery))
                })
            })
            .await?;
        Ok((message, self.first_attempt(queued).await?))
    }

    async fn first_attempt(&self, queued: Delivery) -> Result<Delivery, SandboxError> {
        self.attempt(&queued.delivery_id).await?;
        let id = queued.delivery_id.clone();
        let attempted = self.blocking(move |sandbox| sandbox.store().transact(|tx| tx.get::<Delivery>(&id))).await?;
        Ok(attempted.unwrap_or(queued))
    }

    /// Deliveries of one app or of all, newest first.
    ///
    /// # Errors
    /// [`SandboxError::Store`].
    pub async fn deliveries(&self, app_id: Option<String>) -> Result<Vec<Delivery>, SandboxError> {
        let newest = self.blocking(move |sandbox| {
            sandbox.store().transact(|tx| tx.newest::<Delivery>(app_id.as_deref(), MAX_LIMIT, |_| true))
        });
        Ok(newest.await?)
    }

    /// What people see now, newest first: of one app or all, for one person or anyone.
    ///
    /// # Errors
    /// [`SandboxError::Store`].
    pub async fn messages(
        &self,
        app_id: Option<String>,
        open_id: Option<String>,
        limit: usize,
    ) -> Result<Vec<SeenMessage>, SandboxError> {
        self.blocking(move |sandbox| {
            sandbox.store().transact(|tx| {
                let sees = |message: &Message| open_id.as_ref().is_none_or(|open_id| message.members.contains(open_id));
                let messages = tx.newest::<Message>(app_id.as_deref(), limit.min(MAX_LIMIT), sees)?;
                messages.into_iter().map(|message| Ok(seen(tx, message, open_id.as_deref())?)).collect()
            })
        })
        .await
    }

    /// Moves sandbox time forward; returns once the retries that came due were attempted. Yields the new time.
    ///
    /// # Errors
    /// [`SandboxError::Store`].
    pub async fn advance_clock(&self, secs: u32) -> Result<i64, SandboxError> {
        self.blocking(move |sandbox| {
            let offset_ms = sandbox.store().transact(|tx| {
                let before = tx.get::<ClockOffset>(ClockOffset::ID)?.map_or(0, |clock| clock.offset_ms);
                let offset_ms = before.saturating_add(i64::from(secs) * SECOND);
                tx.put(&ClockOffset { offset_ms })?;
                Ok::<_, StoreError>(offset_ms)
            })?;
            sandbox.store().clock.advance_to(offset_ms);
            Ok::<_, StoreError>(())
        })
        .await?;
        self.attempt_due().await?;
        Ok(self.now_ms())
    }

    /// Sets a fault in wait.
    ///
    /// # Errors
    /// [`SandboxError::Invalid`] names the field.
    pub async fn add_fault(&self, mut fault: Fault) -> Result<Fault, SandboxError> {
        if !fault.path_prefix.starts_with('/') {
            return Err(SandboxError::invalid("path_prefix", "must start with `/`"));
        }
        if fault.times == Some(0) {
            return Err(SandboxError::invalid("times", "must be at least 1"));
        }
        if fault.percent.is_some_and(|percent| percent > 100) {
            return Err(SandboxError::invalid("percent", "must be at most 100"));
        }
        fault.fault_id = random_hex::<8>();
        self.blocking(move |sandbox| {
            sandbox.store().transact(|tx| tx.put(&fault))?;
            Ok(fault)
        })
        .await
    }

    /// The faults still in wait.
    ///
    /// # Errors
    /// [`SandboxError::Store`].
    pub async fn faults(&self) -> Result<Vec<Fault>, SandboxError> {
        Ok(self.blocking(|sandbox| sandbox.store().transact(|tx| tx.all())).await?)
    }

    /// Removes every fault.
    ///
    /// # Errors
    /// [`SandboxError::Store`].
    pub async fn clear_faults(&self) -> Result<(), SandboxError> {
        self.blocking(|sandbox| {
            sandbox.store().transact(|tx| {
                for fault in tx.all::<Fault>()? {
                    tx.delete::<Fault>(&fault.fault_id)?;
                }
                Ok::<_, SandboxError>(())
            })
        })
        .await
    }

    /// How often the vendor was called, and with what result.
    ///
    /// # Errors
    /// [`SandboxError::Store`].
    pub async fn calls(&self) -> Result<CallReport, SandboxError> {
        self.blocking(|sandbox| {
            sandbox.store().transact(|tx| {
                let mut report = CallReport { total: 0, counts: BTreeMap::new(), last: tx.calls(CALLS_SHOWN)? };
                for CallCount { endpoint, result, count } in tx.call_counts()? {
                    report.total += count;
                    report.counts.entry(endpoint).or_default().insert(result, count);
                }
                Ok::<_, SandboxError>(report)
            })
        })
        .await
    }

    /// Starts counting afresh.
    ///
    /// # Errors
    /// [`SandboxError::Store`].
    pub async fn clear_calls(&self) -> Result<(), SandboxError> {
        Ok(self.blocking(|sandbox| sandbox.store().transact(|tx| tx.clear_calls())).await?)
    }
}

fn check_app(app: &App) -> Result<(), SandboxError> {
    if app.app_id.is_empty() {
        return Err(SandboxError::invalid("app_id", "must not be empty"));
    }
    if app.app_secret.is_empty() {
        return Err(SandboxError::invalid("app_secret", "must not be empty"));
    }
    let is_web = |url: &str| Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
    if app.callback_url.as_deref().is_some_and(|url| !is_web(url)) {
        return Err(SandboxError::invalid("callback_url", "must be an http or https URL"));
    }
    if !app.redirect_uris.iter().all(|uri| is_web(uri)) {
        return Err(SandboxError::invalid("redirect_uris", "must be http or https URLs"));
    }
    Ok(())
}

fn masked(app: App) -> App {
    let mask = |secret: String| if secret.is_empty() { secret } else { "********".to_owned() };
    App {
        app_secret: mask(app.app_secret),
        encrypt_key: app.encrypt_key.map(mask),
        verification_token: mask(app.verification_token),
        ..app
    }
}

/// The `event` of `im.message.receive_v1`.
fn received(app: &App, user: &User, chat: &Chat, message: &Message) -> Value {
    let mut sender_id = json!({ "open_id": user.open_id, "union_id": user.union_id });
    if app.scopes.iter().any(|scope| scope == "contact:user.employee_id:readonly")
        && let Some(ids) = sender_id.as_object_mut()
    {
        ids.insert("user_id".to_owned(), user.user_id.clone().into());
    }
    json!({
        "sender": { "sender_id": sender_id, "sender_type": "user", "tenant_key": TENANT_KEY },
        "message": {
            "message_id": message.message_id,
            "create_time": message.created_at.to_string(),
            "update_time": message.updated_at.to_string(),
            "chat_id": chat.chat_id,
            "chat_type": match chat.chat_type { ChatType::P2p => "p2p", ChatType::Group => "group" },
            "message_type": message.msg_type,
            "content": message.content,
        },
    })
}

fn seen(tx: &crate::store::Tx<'_>, message: Message, open_id: Option<&str>) -> Result<SeenMessage, StoreError> {
    let mut history = tx.newest::<Change>(Some(&message.message_id), MAX_LIMIT, |_| true)?;
    history.reverse();
    let content = open_id.map_or(&message.content, |open_id| match message.personal.get(open_id) {
        Some(personal) => personal,
        None => &message.content,
    });
    let content = content.clone();
    let card = if message.is_card() { serde_json::from_str(&content).ok() } else { None };
    let sender = match message.sender {
        Sender::App(id) | Sender::User(id) => id,
    };
    Ok(SeenMessage {
        message_id: message.message_id,
        app_id: message.app_id,
        chat_id: message.chat_id,
        sender,
        msg_type: message.msg_type,
        content,
        card,
        root_id: message.root_id,
        parent_id: message.parent_id,
        thread_id: message.thread_id,
        updated: message.updated,
        deleted: message.deleted,
        created_at: rfc3339(message.created_at),
        updated_at: rfc3339(message.updated_at),
        history,
    })
}

pub(crate) fn router() -> Router<Sandbox> {
    Router::new()
        .route("/sandbox", get(view::index))
        .route("/sandbox/apps", get(list_apps).post(put_app))
        .route("/sandbox/users", get(list_users).post(put_user))
        .route("/sandbox/chats", get(list_chats).post(put_chat))
        .route("/sandbox/authorize", post(authorize))
        .route("/sandbox/revoke", post(revoke))
        .route("/sandbox/click", post(click))
        .route("/sandbox/events", post(push_event))
        .route("/sandbox/deliveries", get(deliveries))
        .route("/sandbox/messages", get(messages))
        .route("/sandbox/messages/from", post(message_from))
        .route("/sandbox/messages.html", get(messages_page))
        .route("/sandbox/messages.html/{action}", post(messages_form))
        .route("/sandbox/clock", get(clock).post(advance_clock))
        .route("/sandbox/faults", get(list_faults).post(add_fault).delete(clear_faults))
        .route("/sandbox/calls", get(calls).delete(clear_calls))
}

type Reply<T> = Result<Json<T>, SandboxError>;

/// Any content type is read as JSON, and the field that does not fit is named.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, SandboxError> {
    serde_json::from_slice(body)
        .map_err(|error| SandboxError::invalid("body", &format!("is not what is expected: {error}")))
}

async fn put_app(State(sandbox): State<Sandbox>, body: Bytes) -> Reply<App> {
    Ok(Json(sandbox.put_app(parse(&body)?).await?))
}

async fn list_apps(State(sandbox): State<Sandbox>) -> Reply<Value> {
    Ok(Json(json!({ "items": sandbox.apps().await? })))
}

async fn put_user(State(sandbox): State<Sandbox>, body: Bytes) -> Reply<User> {
    Ok(Json(sandbox.put_user(parse(&body)?).await?))
}

async fn list_users(State(sandbox): State<Sandbox>) -> Reply<Value> {
    Ok(Json(json!({ "items": sandbox.users().await? })))
}

#[derive(Deserialize)]
struct GroupChat {
    #[serde(default)]
    chat_id: String,
    name: String,
    members: Vec<String>,
    app_ids: Vec<String>,
}

async fn put_chat(State(sandbox): State<Sandbox>, body: Bytes) -> Reply<Chat> {
    let GroupChat { chat_id, name, members, app_ids } = parse(&body)?;
    Ok(Json(sandbox.put_chat(Chat { chat_id, chat_type: ChatType::Group, name, members, app_ids }).await?))
}

async fn list_chats(State(sandbox): State<Sandbox>) -> Reply<Value> {
    Ok(Json(json!({ "items": sandbox.chats().await? })))
}

async fn authorize(State(sandbox): State<Sandbox>, body: Bytes) -> Reply<Value> {
    Ok(Json(json!({ "location": sandbox.authorize(parse(&body)?).await? })))
}

async fn revoke(State(sandbox): State<Sandbox>, body: Bytes) -> Reply<Value> {
    Ok(Json(json!({ "revoked": sandbox.revoke(parse(&body)?).await? })))
}

async fn click(State(sandbox): State<Sandbox>, body: Bytes) -> Reply<Clicked> {
    Ok(Json(sandbox.click(parse(&body)?).await?))
}

async fn push_event(State(sandbox): State<Sandbox>, body: Bytes) -> Reply<Delivery> {
    Ok(Json(sandbox.push_event(parse(&body)?).await?))
}

async fn message_from(State(sandbox): State<Sandbox>, body: Bytes) -> Reply<Value> {
    let (message, delivery) = sandbox.message_from(parse(&body)?).await?;
    Ok(Json(json!({ "message": message, "delivery": delivery })))
}

/// What listings are narrowed by.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Filter {
    #[serde(default)]
    pub(crate) app_id: Option<String>,
    #[serde(default)]
    pub(crate) open_id: Option<String>,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    lang: Option<String>,
}

impl Filter {
    /// Empty fields of a form mean "any".
    fn tidy(self) -> Self {
        let some = |value: Option<String>| value.filter(|value| !value.is_empty());
        Self { app_id: some(self.app_id), open_id: some(self.open_id), ..self }
    }
}

async fn deliveries(State(sandbox): State<Sandbox>, Query(filter): Query<Filter>) -> Reply<Value> {
    Ok(Json(json!({ "items": sandbox.deliveries(filter.tidy().app_id).await? })))
}

async fn messages(
    state: State<Sandbox>,
    headers: HeaderMap,
    Query(filter): Query<Filter>,
) -> Result<Response, SandboxError> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.split(',').any(|kind| kind.trim().starts_with("text/html")) {
        return messages_page(state, headers, Query(filter)).await;
    }
    let filter = filter.tidy();
    let items = state.messages(filter.app_id, filter.open_id, filter.limit.unwrap_or(DEFAULT_LIMIT)).await?;
    Ok(Json(json!({ "items": items })).into_response())
}

async fn messages_page(
    State(sandbox): State<Sandbox>,
    headers: HeaderMap,
    Query(filter): Query<Filter>,
) -> Result<Response, SandboxError> {
    let filter = filter.tidy();
    let language = filter.lang.as_deref().and_then(Language::from_code).unwrap_or_else(|| Language::accepted(&headers));
    let (apps, users) = (sandbox.apps().await?, sandbox.users().await?);
    let open_id = filter.open_id.clone().or_else(|| users.first().map(|user| user.open_id.clone())).unwrap_or_default();
    let limit = filter.limit.unwrap_or(DEFAULT_LIMIT);
    let messages = sandbox.messages(filter.app_id.clone(), Some(open_id.clone()), limit).await?;
    let screen =
        view::Screen { language, app_id: filter.app_id.as_deref(), open_id: &open_id, apps: &apps, users: &users };
    Ok(screen.render(&messages))
}

/// The forms on the page: a press on a card, or a line to the bot. Both lead back to the page.
async fn messages_form(
    State(sandbox): State<Sandbox>,
    Path(action): Path<String>,
    body: Bytes,
) -> Result<Response, SandboxError> {
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(&body).into_owned() {
        fields.entry(name).or_default().push(value);
    }
    let field = |name: &str| fields.get(name).and_then(|values| values.first()).cloned().unwrap_or_default();
    let mut anchor = String::new();
    match action.as_str() {
        "click" => {
            anchor = format!("#{}", field("message_id"));
            let index = field("button").parse().map_err(|_| SandboxError::invalid("button", "must be a number"))?;
            let mut click = Click::on(field("message_id"), field("open_id"), Target::Index(index));
            let filled: serde_json::Map<String, Value> = fields
                .iter()
                .filter_map(|(name, values)| Some((name.strip_prefix("form.")?.to_owned(), single_or_list(values))))
                .collect();
            click.form_value = (!filled.is_empty()).then_some(Value::Object(filled));
            click.input_value = fields.get("input_value").and_then(|values| values.first()).cloned();
            click.option = fields.get("option").and_then(|values| values.first()).cloned();
            sandbox.click(click).await?;
        }
        "from" => {
            let chat_id = Some(field("chat_id")).filter(|chat_id| !chat_id.is_empty());
            let from = FromPerson { app_id: field("to"), open_id: field("open_id"), chat_id, text: field("text") };
            sandbox.message_from(from).await?;
        }
        _ => return Err(SandboxError::missing("form", &action)),
    }
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(["app_id", "open_id", "lang"].map(|name| (name, field(name))))
        .finish();
    Ok(Redirect::to(&format!("/sandbox/messages.html?{query}{anchor}")).into_response())
}

fn single_or_list(values: &[String]) -> Value {
    match values {
        [single] => json!(single),
        several => json!(several),
    }
}

async fn clock(State(sandbox): State<Sandbox>) -> Json<Value> {
    Json(clock_reading(&sandbox, sandbox.now_ms()))
}

#[derive(Deserialize)]
struct Advance {
    advance_secs: u32,
}

async fn advance_clock(State(sandbox): State<Sandbox>, body: Bytes) -> Reply<Value> {
    let Advance { advance_secs } = parse(&body)?;
    let now = sandbox.advance_clock(advance_secs).await?;
    Ok(Json(clock_reading(&sandbox, now)))
}

fn clock_reading(sandbox: &Sandbox, now: i64) -> Value {
    json!({ "now": rfc3339(now), "now_ms": now, "offset_secs": sandbox.ahead_secs() })
}

async fn add_fault(State(sandbox): State<Sandbox>, body: Bytes) -> Reply<Fault> {
    Ok(Json(sandbox.add_fault(parse(&body)?).await?))
}

async fn list_faults(State(sandbox): State<Sandbox>) -> Reply<Value> {
    Ok(Json(json!({ "items": sandbox.faults().await? })))
}

async fn clear_faults(State(sandbox): State<Sandbox>) -> Result<StatusCode, SandboxError> {
    sandbox.clear_faults().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn calls(State(sandbox): State<Sandbox>) -> Reply<CallReport> {
    Ok(Json(sandbox.calls().await?))
}

async fn clear_calls(State(sandbox): State<Sandbox>) -> Result<StatusCode, SandboxError> {
    sandbox.clear_calls().await?;
    Ok(StatusCode::NO_CONTENT)
}
