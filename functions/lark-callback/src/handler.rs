//! Vendor's push -> inbox -> answer.

use std::sync::Arc;

use domain::app::{AppDirectory, AppFault, OpenApp};
use domain::fault::{Denial, Fault, PortFault, Refusal, Remedy, chain};
use domain::id::{AppId, EventId, IdError};
use domain::inbox::{Acceptance, Entry, EntryKind, Inbox};
use domain::work::{Doorbell, WorkQueue};
use lambda_kit::http::{HeaderMap, Request, RequestExt as _, Response, StatusCode, header, json};
use lark::answer::{self, CardAnswer};
use lark::callback::{Callback, CallbackError, Keys, SignatureHeaders};
use time::OffsetDateTime;

/// The largest body that is read; the vendor's own are below 150 KB.
const MAX_BODY: usize = 256 * 1024;

/// What a callback needs.
pub(crate) struct Callbacks {
    apps: AppDirectory,
    inbox: Arc<dyn Inbox>,
    work: Arc<dyn WorkQueue>,
}

impl Callbacks {
    pub(crate) fn new(apps: AppDirectory, inbox: Arc<dyn Inbox>, work: Arc<dyn WorkQueue>) -> Self {
        Self { apps, inbox, work }
    }
}

/// Answers one push. What it acknowledges is in the inbox; a repetition is acknowledged and changes nothing.
pub(crate) async fn callback(deps: &Callbacks, request: Request, now: OffsetDateTime) -> Result<Response, Refused> {
    let body: &[u8] = request.body();
    if body.len() > MAX_BODY {
        return Err(Refused::TooLarge(body.len()));
    }
    must_be_json(request.headers())?;
    let path = request.path_parameters();
    let app_id = AppId::parse(path.first("app_id").unwrap_or_default())?;
    let app = deps.apps.enabled(&app_id, now).await?;

    match lark::callback::open(&keys(&app), &signature(request.headers()), body)? {
        Callback::Challenge { challenge } => Ok(json(StatusCode::OK, &answer::challenge(&challenge))),
        Callback::CardAction(action) => {
            let answer = CardAnswer::empty().to_json(&action);
            let payload = serde_json::to_string(&action).map_err(Refused::Payload)?;
            let group = action.operator.open_id;
            deps.accept(entry(app_id, action.event_id, EntryKind::CardAction, group, payload, now)?).await?;
            Ok(json(StatusCode::OK, &answer))
        }
        Callback::Event(event) => {
            let payload = serde_json::to_string(&event).map_err(Refused::Payload)?;
            let key = event.dedupe_key().into_owned();
            let group = chat_of(&event).unwrap_or_else(|| key.clone());
            deps.accept(entry(app_id, key, EntryKind::Event, group, payload, now)?).await?;
            Ok(json(StatusCode::OK, &answer::received()))
        }
    }
}

impl Callbacks {
    async fn accept(&self, entry: Entry) -> Result<(), Refused> {
        if self.inbox.accept(&entry).await? == Acceptance::Seen {
            return Ok(());
        }
        // The entry is durable and the table's stream rings for it too; this ring only makes it quick.
        if let Err(fault) = self.work.ring(&Doorbell::for_entry(&entry)).await {
            tracing::warn!(event.id = %entry.event_id, error = %chain(&fault), "The bell was not rung; the stream will");
        }
        Ok(())
    }
}

fn entry(
    app_id: AppId,
    event_id: String,
    kind: EntryKind,
    group: String,
    payload: String,
    now: OffsetDateTime,
) -> Result<Entry, IdError> {
    Ok(Entry { app_id, event_id: EventId::parse(event_id)?, kind, group, payload, received_at: now })
}

/// Messages of one chat stay in order; other events have none to keep.
fn chat_of(event: &lark::event::Event) -> Option<String> {
    match event.payload() {
        Ok(lark::event::Payload::Message(message)) => Some(message.chat_id),
        _ => None,
    }
}

fn keys(app: &OpenApp) -> Keys {
    Keys {
        app_id: app.app.app_id.to_string(),
        encrypt_key: app.secrets.encrypt_key.clone(),
        verification_token: app.secrets.verification_token.clone(),
    }
}

fn signature(headers: &HeaderMap) -> SignatureHeaders<'_> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    SignatureHeaders {
        timestamp: text("x-lark-request-timestamp"),
        nonce: text("x-lark-request-nonce"),
        signature: text("x-lark-signature"),
        refresh_token: text("x-refresh-token"),
    }
}

fn must_be_json(headers: &HeaderMap) -> Result<(), Refused> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" { Ok(()) } else { Err(Refused::MediaType(essence)) }
}

/// Why a push was not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the body has {0} bytes; the limit is {MAX_BODY}")]
    TooLarge(usize),
    #[error("`content-type` is `{0}`, not `application/json`")]
    MediaType(String),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(transparent)]
    App(#[from] AppFault),
    #[error(transparent)]
    Callback(#[from] CallbackError),
    #[error("the callback cannot be kept")]
    Payload(#[source] serde_json::Error),
    #[error("the inbox failed")]
    Inbox(#[from] PortFault),
}

impl Fault for Refused {
    fn remedy(&self) -> Remedy {
        match self {
            Self::TooLarge(_) => Remedy::Reject(Refusal::TooLarge),
            Self::MediaType(_) => Remedy::Reject(Refusal::UnsupportedType),
            Self::Id(_) | Self::Callback(CallbackError::Malformed { .. }) => Remedy::Reject(Refusal::Invalid),
            Self::App(fault) => fault.remedy(),
            Self::Callback(CallbackError::Forged(_)) => Remedy::Deny(Denial::Unauthenticated),
            Self::Callback(CallbackError::Forbidden { .. }) => Remedy::Deny(Denial::Forbidden),
            Self::Payload(_) => Remedy::Bug,
            Self::Inbox(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "payload_too_large",
            Self::MediaType(_) => "unsupported_media_type",
            Self::Id(_) | Self::Callback(CallbackError::Malformed { .. }) => "invalid_request",
            Self::App(fault) => fault.code(),
            Self::Callback(CallbackError::Forged(_)) => "forged_callback",
            Self::Callback(CallbackError::Forbidden { .. }) => "other_app",
            Self::Payload(_) => "internal_error",
            Self::Inbox(fault) => fault.code(),
        }
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Id(error) => vec![(error.field, format!("must be {}", error.expected))],
            Self::Callback(CallbackError::Malformed { field, problem }) => vec![(field, problem.to_string())],
            _ => Vec::new(),
        }
    }
}
