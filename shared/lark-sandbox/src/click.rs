//! A person presses something on a card: the callback, its answer, and what the person then sees.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::card::{self, Component};
use crate::clock::{MINUTE, random_hex};
use crate::message::{self, Update};
use crate::model::{App, CardCallback, CardToken, ClickToken, Message, TENANT_KEY, User};
use crate::push::{self, Answered, Push, PushError};
use crate::store::{StoreError, Tx};
use crate::{Sandbox, SandboxError};

const CARD_TOKEN_LIFE: i64 = 30 * MINUTE;
const CARD_TOKEN_USES: u32 = 2;

/// The numbers Lark shows a person whose click failed.
const NOT_CONFIGURED: u32 = 200_340;
const TIMED_OUT: u32 = 200_341;
const BAD_ANSWER: u32 = 200_343;

/// Which element of the card is pressed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Target {
    /// Position among the card's interactive elements, from 0.
    Index(usize),
    /// Its name, its `element_id` or the text on it.
    Name(String),
}

/// `POST /sandbox/click`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Click {
    pub message_id: String,
    pub open_id: String,
    /// Absent: the first button of the card.
    #[serde(default)]
    pub button: Option<Target>,
    /// Sent instead of the value on the card.
    #[serde(default)]
    pub value: Option<Value>,
    #[serde(default)]
    pub form_value: Option<Value>,
    #[serde(default)]
    pub input_value: Option<String>,
    #[serde(default)]
    pub option: Option<String>,
    #[serde(default)]
    pub options: Option<Vec<String>>,
    #[serde(default)]
    pub checked: Option<bool>,
}

impl Click {
    /// A plain press by `open_id` on the element `button`.
    #[must_use]
    pub fn on(message_id: impl Into<String>, open_id: impl Into<String>, button: Target) -> Self {
        Self {
            message_id: message_id.into(),
            open_id: open_id.into(),
            button: Some(button),
            value: None,
            form_value: None,
            input_value: None,
            option: None,
            options: None,
            checked: None,
        }
    }
}

/// What a click led to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Clicked {
    /// HTTP status of the callback; absent if nothing was called or nothing came back.
    pub status: Option<u16>,
    pub latency_ms: Option<u64>,
    /// The callback's answer, parsed.
    pub answer: Option<Value>,
    pub toast: Option<Value>,
    pub card_replaced: bool,
    /// Where the press leads, if it opens a page.
    pub open_url: Option<String>,
    /// 200340, 200341 or 200343: what the person is shown instead.
    pub error: Option<u32>,
    pub error_message: Option<String>,
}

/// Everything needed to call back, once the click is known to be possible.
struct Prepared {
    app: App,
    token: String,
    payload: Value,
    refresh_token: String,
}

enum Pressed {
    /// The element only opens a page.
    Opens(String),
    CallsBack(Box<Prepared>, Option<String>),
}

impl Sandbox {
    /// Presses an element as `open_id`: opens its URL, or calls the app back and applies the answer within 3 seconds.
    ///
    /// # Errors
    /// [`SandboxError`] if the press is impossible: no such message, person or element, a disabled button, an expired
    /// card, an incomplete form. A callback that fails is no error but is told in [`Clicked::error`].
    pub async fn click(&self, click: Click) -> Result<Clicked, SandboxError> {
        let request = click.clone();
        let pressed = self.blocking(move |sandbox| sandbox.store().transact(|tx| press(tx, &request))).await?;
        let (prepared, open_url) = match pressed {
            Pressed::Opens(url) => return Ok(Clicked { open_url: Some(url), ..Clicked::default() }),
            Pressed::CallsBack(prepared, open_url) => (*prepared, open_url),
        };
        let (answered, latency) = self.call_back(&prepared).await;
        let mut clicked = judge(&prepared.app, answered);
        clicked.open_url = open_url;
        clicked.latency_ms = latency.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        self.blocking(move |sandbox| {
            sandbox.store().transact(|tx| apply(tx, &click, &prepared.token, &mut clicked))?;
            Ok(clicked)
        })
        .await
    }

    async fn call_back(&self, prepared: &Prepared) -> (Option<Result<Answered, PushError>>, Option<Duration>) {
        let app = &prepared.app;
        let Some(url) = app.callback_url.as_deref() else { return (None, None) };
        let push = match app.card_callback {
            CardCallback::New => Push::event(app, self.now_ms(), &prepared.payload),
            CardCallback::Old => Push::old_card(app, self.now_ms(), &prepared.payload, prepared.refresh_token.clone()),
        };
        let (answered, took) = push::send(&self.inner.http, url, push, push::ANSWER_LIMIT).await;
        (Some(answered), Some(took))
    }
}

fn press(tx: &Tx<'_>, click: &Click) -> Result<Pressed, SandboxError> {
    let message =
        tx.get::<Message>(&click.message_id)?.ok_or_else(|| SandboxError::missing("message", &click.message_id))?;
    let user = tx.get::<User>(&click.open_id)?.ok_or_else(|| SandboxError::missing("user", &click.open_id))?;
    let app = tx.get::<App>(&message.app_id)?.ok_or_else(|| SandboxError::missing("app", &message.app_id))?;
    if !message.members.contains(&user.open_id) || message.deleted {
        return Err(SandboxError::refused("message_not_visible", "this person does not see the message"));
    }
    if !message.is_card() {
        return Err(SandboxError::refused("not_a_card", "only cards can be clicked"));
    }
    let card: Value = serde_json::from_str(message.content_for(&user.open_id)).map_err(StoreError::from)?;
    if tx.now - message.created_at > card::clickable_for(&card) {
        return Err(SandboxError::refused("card_expired", "the card is too old to be clicked"));
    }
    let components = card::components(&card, "zh_cn");
    let pressed = find(&components, click.button.as_ref())
        .ok_or_else(|| SandboxError::refused("no_such_button", &format!("the card offers {}", offers(&components))))?;
    if pressed.is_disabled() {
        return Err(SandboxError::refused("button_disabled", "the element is disabled"));
    }
    let missing = pressed.missing_fields(click.form_value.as_ref().unwrap_or(&Value::Null));
    if !missing.is_empty() {
        return Err(SandboxError::refused(
            "form_incomplete",
            &format!("required fields are empty: {}", missing.join(", ")),
        ));
    }
    let value = click.value.clone().or_else(|| pressed.callback_value());
    let (value, open_url) = match (value, pressed.url()) {
        (None, Some(url)) => return Ok(Pressed::Opens(url.to_owned())),
        (value, url) => (value.unwrap_or_else(|| json!({})), url.map(str::to_owned)),
    };
    let token = CardToken {
        token: format!("c-{}", random_hex::<20>()),
        app_id: app.app_id.clone(),
        message_id: message.message_id.clone(),
        open_id: user.open_id.clone(),
        expires_at: tx.now + CARD_TOKEN_LIFE,
        uses_left: CARD_TOKEN_USES,
        answered: false,
    };
    tx.put(&token)?;
    let action = action(pressed, value, click);
    let payload = match app.card_callback {
        CardCallback::New => new_payload(tx.now, &app, &user, &message, &token.token, action),
        CardCallback::Old => old_payload(&user, &message, &token.token, action),
    };
    let refresh_token = refresh_token(tx, &message.message_id, &user.open_id)?;
    Ok(Pressed::CallsBack(Box::new(Prepared { app, token: token.token, payload, refresh_token }), open_url))
}

fn find<'c>(components: &[Component<'c>], target: Option<&Target>) -> Option<Component<'c>> {
    match target {
        Some(Target::Index(index)) => components.get(*index).copied(),
        Some(Target::Name(name)) => components.iter().find(|component| component.is_called(name)).copied(),
        None => components.iter().find(|component| card::tag(component.element) == "button").copied(),
    }
}

fn offers(components: &[Component<'_>]) -> String {
    let names: Vec<String> = components
        .iter()
        .enumerate()
        .map(|(index, component)| {
            let element = component.element;
            let name = [element.get("name"), element.get("element_id"), element.pointer("/text/content")]
                .into_iter()
                .flatten()
                .find_map(Value::as_str)
                .unwrap_or_else(|| card::tag(element));
            format!("{index} `{name}`")
        })
        .collect();
    if names.is_empty() { "nothing to press".to_owned() } else { names.join(", ") }
}

fn action(pressed: Component<'_>, value: Value, click: &Click) -> Value {
    let mut action = Map::new();
    action.insert("value".to_owned(), value);
    action.insert("tag".to_owned(), card::tag(pressed.element).into());
    action.insert("timezone".to_owned(), "Asia/Shanghai".into());
    let optional = [
        ("name", pressed.element.get("name").cloned()),
        ("form_value", click.form_value.clone()),
        ("input_value", click.input_value.clone().map(Value::from)),
        ("option", click.option.clone().map(Value::from)),
        ("options", click.options.clone().map(Value::from)),
        ("checked", click.checked.map(Value::from)),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            action.insert(name.to_owned(), value);
        }
    }
    Value::Object(action)
}

fn new_payload(now: i64, app: &App, user: &User, message: &Message, token: &str, action: Value) -> Value {
    json!({
        "schema": "2.0",
        "header": {
            "event_id": random_hex::<16>(),
            "token": app.verification_token,
            "create_time": now.saturating_mul(1_000).to_string(),
            "event_type": "card.action.trigger",
            "tenant_key": TENANT_KEY,
            "app_id": app.app_id,
        },
        "event": {
            "operator": {
                "tenant_key": TENANT_KEY,
                "user_id": user.user_id,
                "open_id": user.open_id,
                "union_id": user.union_id,
            },
            "token": token,
            "action": action,
            "host": "im_message",
            "context": { "open_message_id": message.message_id, "open_chat_id": message.chat_id },
        },
    })
}

fn old_payload(user: &User, message: &Message, token: &str, action: Value) -> Value {
    json!({
        "open_id": user.open_id,
        "user_id": user.user_id,
        "open_message_id": message.message_id,
        "open_chat_id": message.chat_id,
        "tenant_key": TENANT_KEY,
        "token": token,
        "action": action,
    })
}

fn refresh_token(tx: &Tx<'_>, message_id: &str, open_id: &str) -> Result<String, StoreError> {
    if let Some(known) = tx.get::<ClickToken>(&ClickToken::key(message_id, open_id))? {
        return Ok(known.token);
    }
    let token = random_hex::<16>();
    tx.put(&ClickToken { message_id: message_id.to_owned(), open_id: open_id.to_owned(), token: token.clone() })?;
    Ok(token)
}

/// Turns the callback's answer into what the person sees, before anything is stored.
fn judge(app: &App, answered: Option<Result<Answered, PushError>>) -> Clicked {
    let failed = |error, why: String| Clicked { error: Some(error), error_message: Some(why), ..Clicked::default() };
    let answered = match answered {
        None => return failed(NOT_CONFIGURED, "the app has no callback_url".to_owned()),
        Some(Err(error @ PushError::Timeout(_))) => return failed(TIMED_OUT, error.to_string()),
        Some(Err(error @ PushError::Unreachable(_))) => return failed(NOT_CONFIGURED, error.to_string()),
        Some(Err(error @ PushError::Broken)) => return failed(BAD_ANSWER, error.to_string()),
        Some(Ok(answered)) => answered,
    };
    let status = Some(answered.status);
    if answered.status != 200 {
        let redirect = answered.location.map(|to| format!(" (a redirect to {to} is not followed)")).unwrap_or_default();
        let why = format!("HTTP {}, 200 is needed{redirect}", answered.status);
        return Clicked { status, ..failed(BAD_ANSWER, why) };
    }
    let answer = match answered.body.as_ref() {
        b"" => json!({}),
        body => match serde_json::from_slice::<Value>(body) {
            Ok(answer @ Value::Object(_)) => answer,
            _ => return Clicked { status, ..failed(BAD_ANSWER, "the answer is not a JSON object".to_owned()) },
        },
    };
    let toast = match toast(app, &answer) {
        Ok(toast) => toast,
        Err(why) => return Clicked { status, answer: Some(answer), ..failed(BAD_ANSWER, why) },
    };
    if let Err(why) = replacement(app, &answer) {
        return Clicked { status, answer: Some(answer), ..failed(BAD_ANSWER, why) };
    }
    Clicked { status, toast, answer: Some(answer), ..Clicked::default() }
}

fn toast(app: &App, answer: &Value) -> Result<Option<Value>, String> {
    if let Some(toast) = answer.get("toast").filter(|toast| !toast.is_null()) {
        let kind = toast.get("type").and_then(Value::as_str).unwrap_or("info");
        return match kind {
            "info" | "success" | "error" | "warning" => Ok(Some(toast.clone())),
            _ => Err(format!("toast.type `{kind}` is none of info, success, error, warning")),
        };
    }
    let old = app.card_callback == CardCallback::Old && answer.get("content").is_some_and(Value::is_string);
    Ok(old.then(|| json!({ "type": "info", "content": answer.get("content"), "i18n": answer.get("i18n") })))
}

/// The card that takes the place of the clicked one, if the answer has one.
fn replacement(app: &App, answer: &Value) -> Result<Option<Value>, String> {
    let wrapped = answer.get("card").filter(|card| !card.is_null());
    let card = match wrapped {
        Some(card) => {
            let data = card.get("data").ok_or("card.data is missing")?;
            // Some apps send the card as a string; both forms are seen to work.
            let data = match data {
                Value::String(text) => serde_json::from_str(text).map_err(|_| "card.data is not JSON")?,
                other => other.clone(),
            };
            match card.get("type").and_then(Value::as_str) {
                Some("raw") => data,
                Some("template") => json!({ "type": "template", "data": data }),
                other => return Err(format!("card.type {} is neither raw nor template", json!(other))),
            }
        }
        None => {
            let is_card = ["elements", "i18n_elements", "header", "schema"].iter().any(|key| answer.get(key).is_some());
            if app.card_callback != CardCallback::Old || !is_card {
                return Ok(None);
            }
            answer.clone()
        }
    };
    card::validate(&card).map_err(|why| format!("the card of the answer is refused: {why}"))?;
    Ok(Some(card))
}

/// Stores what the click changed: the card, the history, and that its token may now be used.
fn apply(tx: &Tx<'_>, click: &Click, token: &str, clicked: &mut Clicked) -> Result<(), SandboxError> {
    let error = clicked.error.map(|code| format!("{code} {}", clicked.error_message.as_deref().unwrap_or_default()));
    message::note_click(tx, &click.message_id, &click.open_id, clicked.toast.clone(), error)?;
    if clicked.status == Some(200) {
        if let Some(token) = tx.get::<CardToken>(token)? {
            tx.put(&CardToken { answered: true, ..token })?;
        }
        tx.delete::<ClickToken>(&ClickToken::key(&click.message_id, &click.open_id))?;
    }
    let Some(mut message) = tx.get::<Message>(&click.message_id)? else { return Ok(()) };
    let Some(app) = tx.get::<App>(&message.app_id)? else { return Ok(()) };
    let answer = clicked.answer.as_ref().filter(|_| clicked.error.is_none());
    if let Some(Ok(Some(card))) = answer.map(|answer| replacement(&app, answer)) {
        let shared = serde_json::from_str(&message.content).is_ok_and(|before| card::is_shared(&before));
        let only_for = if shared { Vec::new() } else { vec![click.open_id.clone()] };
        let update = Update { what: "clicked", by: &app.app_id, content: card.to_string(), only_for: &only_for };
        message::apply(tx, &mut message, update)?;
        clicked.card_replaced = true;
    }
    Ok(())
}
