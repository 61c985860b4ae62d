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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::Ordering;

    use domain::app::{App, AppStatus, AppStore as _};
    use domain::inbox::Claim;
    use lambda_kit::http::status;
    use lark::signature::{encrypt, sha256_hex};
    use serde_json::{Value, json};
    use testkit::sample::{self, ENCRYPT_KEY, NOW, VERIFICATION_TOKEN};
    use testkit::{MemoryQueue, MemoryTable, PlainSealer};

    use super::*;

    struct World {
        table: Arc<MemoryTable>,
        queue: Arc<MemoryQueue>,
        callbacks: Callbacks,
    }

    /// Two apps, one of them disabled.
    async fn world() -> World {
        let (table, queue) = (Arc::<MemoryTable>::default(), Arc::<MemoryQueue>::default());
        table.put(&sample::openable_app("cli_a").await).await.unwrap();
        let disabled = App { status: AppStatus::Disabled, ..sample::openable_app("cli_off").await };
        table.put(&disabled).await.unwrap();
        let apps = AppDirectory::new(table.clone(), Arc::new(PlainSealer));
        let callbacks = Callbacks::new(apps, table.clone(), queue.clone());
        World { table, queue, callbacks }
    }

    impl World {
        async fn answer(&self, request: Request) -> (u16, Value) {
            let response = callback(&self.callbacks, request, NOW).await.unwrap();
            (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap())
        }

        async fn refusal(&self, request: Request) -> (u16, &'static str) {
            let refused = callback(&self.callbacks, request, NOW).await.unwrap_err();
            (status(&refused).as_u16(), refused.code())
        }

        async fn entry(&self, event_id: &str) -> Option<Entry> {
            let claim = self.table.claim(&sample::app_id("cli_a"), &EventId::parse(event_id).unwrap(), NOW).await;
            match claim.unwrap() {
                Claim::Taken(entry) => Some(entry),
                _ => None,
            }
        }
    }

    fn unsigned(app_id: &str, body: impl Into<String>) -> Request {
        let mut request = Request::new(body.into().into());
        *request.uri_mut() = format!("/lark/{app_id}/callback").parse().unwrap();
        request.headers_mut().insert(header::CONTENT_TYPE, "application/json; charset=utf-8".parse().unwrap());
        request.with_path_parameters(HashMap::from([("app_id".to_owned(), app_id.to_owned())]))
    }

    fn signed(app_id: &str, body: String) -> Request {
        let sum = sha256_hex("1700000000", "nonce", ENCRYPT_KEY, body.as_bytes());
        let mut request = unsigned(app_id, body);
        for (name, value) in [
            ("x-lark-request-timestamp", "1700000000"),
            ("x-lark-request-nonce", "nonce"),
            ("x-lark-signature", sum.as_str()),
        ] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        request
    }

    fn encrypted(plain: &Value) -> String {
        json!({ "encrypt": encrypt(ENCRYPT_KEY, [7; 16], plain.to_string().as_bytes()) }).to_string()
    }

    /// As the vendor pushes it.
    fn push(plain: &Value) -> Request {
        signed("cli_a", encrypted(plain))
    }

    fn pushed(event_type: &str, event_id: &str, event: Value) -> Value {
        json!({
            "schema": "2.0",
            "header": { "event_id": event_id, "event_type": event_type, "token": VERIFICATION_TOKEN, "app_id": "cli_a" },
            "event": event,
        })
    }

    fn click(event_id: &str) -> Value {
        let event = json!({
            "operator": { "open_id": "ou_ann" }, "token": "c-1", "action": { "tag": "button", "value": { "答": "好 🙂" } },
        });
        pushed("card.action.trigger", event_id, event)
    }

    fn message(event_id: &str) -> Value {
        let message =
            json!({ "message_id": "om_7", "chat_id": "oc_9", "message_type": "text", "content": "{\"text\":\"嗨\"}" });
        pushed("im.message.receive_v1", event_id, json!({ "message": message }))
    }

    #[tokio::test]
    async fn the_url_check_is_answered_and_leaves_nothing() {
        let world = world().await;
        let check = json!({ "type": "url_verification", "challenge": "c-42", "token": VERIFICATION_TOKEN });
        let answer = world.answer(unsigned("cli_a", encrypted(&check))).await;
        assert_eq!(answer, (200, json!({ "challenge": "c-42" })));
        assert!(world.queue.rung().is_empty());
    }

    #[tokio::test]
    async fn a_click_is_in_the_inbox_under_its_person_and_rung_for_before_it_is_answered() {
        let world = world().await;
        assert_eq!(world.answer(push(&click("ev1"))).await, (200, json!({})));
        let entry = world.entry("ev1").await.unwrap();
        assert_eq!((entry.kind, entry.group.as_str(), entry.received_at), (EntryKind::CardAction, "ou_ann", NOW));
        assert!(entry.payload.contains("好 🙂"));
        assert_eq!(world.queue.rung(), [Doorbell::for_entry(&entry)]);
    }

    #[tokio::test]
    async fn an_event_of_a_type_that_nobody_knows_is_accepted() {
        let world = world().await;
        let (status, _) = world.answer(push(&pushed("nobody.knows_v9", "ev1", json!({})))).await;
        let entry = world.entry("ev1").await.unwrap();
        assert_eq!((status, entry.kind, entry.group.as_str()), (200, EntryKind::Event, "ev1"));
    }

    #[tokio::test]
    async fn a_message_pushed_under_two_event_ids_is_one_entry_in_the_order_of_its_chat() {
        let world = world().await;
        for event_id in ["ev1", "ev2"] {
            assert_eq!(world.answer(push(&message(event_id))).await.0, 200);
        }
        assert_eq!(world.entry("om_7").await.unwrap().group, "oc_9");
        assert_eq!(world.queue.rung().len(), 1);
    }

    #[tokio::test]
    async fn a_repetition_is_acknowledged_and_changes_nothing() {
        let world = world().await;
        for _ in 0..5 {
            assert_eq!(world.answer(push(&click("ev1"))).await.0, 200);
        }
        assert_eq!(world.queue.rung().len(), 1);
    }

    #[tokio::test]
    async fn what_is_not_durable_is_not_acknowledged() {
        let world = world().await;
        world.table.down.store(true, Ordering::SeqCst);
        assert_eq!(world.refusal(push(&click("ev1"))).await, (503, "unavailable"));
        assert!(world.queue.rung().is_empty(), "no bell for what is not there");
        world.table.down.store(false, Ordering::SeqCst);
        assert_eq!(world.answer(push(&click("ev1"))).await.0, 200, "and the vendor's next try is the first");
        assert_eq!(world.queue.rung().len(), 1);
    }

    #[tokio::test]
    async fn a_bell_that_cannot_be_rung_is_the_streams_to_ring() {
        let world = world().await;
        world.queue.down.store(true, Ordering::SeqCst);
        assert_eq!(world.answer(push(&click("ev1"))).await.0, 200);
        assert!(world.entry("ev1").await.is_some());
    }

    /// The checks, in order: each request is bad for its own reason and for every later one.
    #[tokio::test]
    async fn the_first_check_that_fails_is_the_answer() {
        let world = world().await;
        let huge = "x".repeat(MAX_BODY + 1);
        let text = |mut request: Request| {
            request.headers_mut().insert(header::CONTENT_TYPE, "text/plain".parse().unwrap());
            request
        };
        let mut foreign = click("ev1");
        foreign["header"]["app_id"] = json!("cli_b");
        foreign["header"]["event_id"] = json!("");
        let mut tokenless = foreign.clone();
        tokenless["header"]["token"] = json!("guessed");
        let no_id = pushed("im.chat.updated_v1", "", json!({}));
        for (request, expected) in [
            (text(unsigned("no-id!", huge)), (413, "payload_too_large")),
            (text(unsigned("no-id!", "{")), (415, "unsupported_media_type")),
            (unsigned("no-id!", "{"), (400, "invalid_request")),
            (unsigned("cli_nobody", "{"), (404, "unknown_app")),
            (unsigned("cli_off", "{"), (403, "app_disabled")),
            (unsigned("cli_a", "{"), (400, "invalid_request")),
            (unsigned("cli_a", encrypted(&tokenless)), (401, "forged_callback")),
            (push(&tokenless), (401, "forged_callback")),
            (push(&foreign), (403, "other_app")),
            (push(&no_id), (400, "invalid_request")),
            (push(&pushed("im.chat.updated_v1", "编号", json!({}))), (400, "invalid_request")),
        ] {
            let what = request.uri().path().to_owned();
            assert_eq!(world.refusal(request).await, expected, "{what}");
        }
        assert!(world.queue.rung().is_empty());
    }

    #[tokio::test]
    async fn a_signature_for_one_apps_body_does_not_carry_another() {
        let world = world().await;
        let mut request = push(&click("ev1"));
        *request.body_mut() = encrypted(&click("ev2")).into();
        assert_eq!(world.refusal(request).await, (401, "forged_callback"));
    }

    #[tokio::test]
    async fn a_bad_field_is_named() {
        let world = world().await;
        for (request, field) in [
            (unsigned("no-id!", "{}"), "app_id"),
            (push(&pushed("im.chat.updated_v1", "编号", json!({}))), "event_id"),
            (push(&pushed("im.chat.updated_v1", "", json!({}))), "header.event_id"),
        ] {
            let refused = callback(&world.callbacks, request, NOW).await.unwrap_err();
            assert_eq!(refused.fields().first().map(|(name, _)| *name), Some(field));
        }
    }

    #[tokio::test]
    async fn a_body_without_a_content_type_is_read() {
        let world = world().await;
        let mut request = push(&click("ev1"));
        request.headers_mut().remove(header::CONTENT_TYPE);
        assert_eq!(world.answer(request).await.0, 200);
    }
}
