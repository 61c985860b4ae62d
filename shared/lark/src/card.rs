//! Cards: the authorization card in all its states, as card JSON 2.0 in Chinese and English.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

/// The vendor refuses a message whose request body is larger.
pub const MAX_BODY_BYTES: usize = 30 * 1024;

/// What a request carries besides the card: receiver, type and idempotency key.
const BODY_RESERVE_BYTES: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    #[error("card is not a JSON object")]
    NotAnObject,
    #[error("card takes {0} bytes of a request, more than {MAX_BODY_BYTES} less {BODY_RESERVE_BYTES}")]
    TooLarge(usize),
    #[error("`{0}` is neither http nor https")]
    NotAWebPage(&'static str),
}

/// A card the vendor's size limit allows.
#[derive(Debug, Clone, PartialEq)]
pub struct Card(Value);

impl Card {
    /// Takes any card JSON, 1.0 or 2.0.
    ///
    /// # Errors
    /// When it is not an object, or too large once it is a string inside a request, as the message calls want it.
    pub fn new(card: Value) -> Result<Self, CardError> {
        if !card.is_object() {
            return Err(CardError::NotAnObject);
        }
        let bytes = Value::String(card.to_string()).to_string().len();
        if bytes > MAX_BODY_BYTES - BODY_RESERVE_BYTES { Err(CardError::TooLarge(bytes)) } else { Ok(Self(card)) }
    }

    #[must_use]
    pub fn as_json(&self) -> &Value {
        &self.0
    }

    /// The card as the `content` of a message.
    #[must_use]
    pub fn to_content(&self) -> String {
        self.0.to_string()
    }
}

/// A text in both languages; people see that of their client, and English where it is neither.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bilingual {
    pub zh_cn: Cow<'static, str>,
    pub en_us: Cow<'static, str>,
}

impl Bilingual {
    #[must_use]
    pub const fn fixed(zh_cn: &'static str, en_us: &'static str) -> Self {
        Self { zh_cn: Cow::Borrowed(zh_cn), en_us: Cow::Borrowed(en_us) }
    }

    fn both(zh_cn: String, en_us: String) -> Self {
        Self { zh_cn: Cow::Owned(zh_cn), en_us: Cow::Owned(en_us) }
    }

    fn plain(&self) -> Value {
        json!({ "tag": "plain_text", "content": self.en_us, "i18n_content": self })
    }

    /// The text is taken as markdown: what comes from outside goes through [`escape_markdown`] first.
    fn markdown(&self) -> Value {
        json!({ "tag": "markdown", "content": self.en_us, "i18n_content": self })
    }

    fn notation(&self) -> Value {
        json!({ "tag": "markdown", "content": self.en_us, "i18n_content": self, "text_size": "notation" })
    }
}

/// Makes text show as it is inside a markdown element: no emphasis, links, mentions, emoji or lists, on one line.
#[must_use]
pub fn escape_markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii_punctuation() {
            escaped.push_str(&format!("&#{};", u32::from(character)));
        } else if character.is_control() || character == '\u{2028}' || character == '\u{2029}' {
            escaped.push(' ');
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// What a button of ours sends back; a custom template's buttons send the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ButtonValue {
    pub skylark: Choice,
    pub session_id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    Authorize,
    Reject,
}

impl ButtonValue {
    /// Reads the `value` of a click, an object or the same as a string. `None` if the button is not one of ours.
    #[must_use]
    pub fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(json) => serde_json::from_str(json).ok(),
            value => Self::deserialize(value).ok(),
        }
    }
}

/// One permission asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// As the vendor names it: `calendar:calendar:readonly`.
    pub name: String,
    /// What it means to the person.
    pub description: Option<Bilingual>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Purpose, every scope, privacy link.
    Detailed,
    /// One sentence and the buttons.
    Concise,
}

/// The card that asks one person to authorize an app.
#[derive(Debug, Clone, Copy)]
pub struct Authorization<'a> {
    pub app_name: &'a str,
    /// Shown in place of "Authorize" and the app's name.
    pub title: Option<&'a str>,
    /// Why the person gets this card now, in place of the usual first sentence.
    pub occasion: Option<&'a Bilingual>,
    /// Why the app asks.
    pub purpose: Option<&'a str>,
    pub scopes: &'a [Scope],
    pub detail: Detail,
    pub privacy_url: Option<&'a Url>,
}

/// Where an authorization stands; each state is a card, and one replaces the other in place.
#[derive(Debug, Clone, Copy)]
pub enum State<'a> {
    Pending { session_id: &'a str, authorize_url: &'a Url, valid_minutes: u32 },
    Completed { user_name: Option<&'a str> },
    Rejected,
    Expired,
    Failed { reason: &'a Bilingual },
}

const AUTHORIZE: Bilingual = Bilingual::fixed("授权", "Authorize");
const DECLINE: Bilingual = Bilingual::fixed("拒绝", "Decline");
const PRIVACY: Bilingual = Bilingual::fixed("隐私政策", "Privacy policy");

impl Authorization<'_> {
    /// # Errors
    /// When the card is too large (too many scopes, a long purpose) or a link is not one to a web page.
    pub fn card(&self, state: &State<'_>) -> Result<Card, CardError> {
        let app = escape_markdown(self.app_name);
        let (color, status, elements) = match state {
            State::Pending { session_id, authorize_url, valid_minutes } => (
                "wathet",
                Bilingual::fixed("待授权", "Pending"),
                self.pending(&app, session_id, authorize_url, *valid_minutes)?,
            ),
            State::Completed { user_name } => {
                let text = match user_name.map(escape_markdown) {
                    Some(name) => Bilingual::both(
                        format!("**{name}** 已授权 **{app}**，无需其他操作。"),
                        format!("**{name}** authorized **{app}**. Nothing more to do."),
                    ),
                    None => Bilingual::both(
                        format!("已授权 **{app}**，无需其他操作。"),
                        format!("**{app}** is authorized. Nothing more to do."),
                    ),
                };
                ("green", Bilingual::fixed("已授权", "Authorized"), vec![text.markdown()])
            }
            State::Rejected => {
                let text = Bilingual::both(
                    format!("您已拒绝授权 **{app}**，它不会代表您访问任何内容。"),
                    format!("You declined. **{app}** will not act on your behalf."),
                );
                ("grey", Bilingual::fixed("已拒绝", "Declined"), vec![text.markdown()])
            }
            State::Expired => {
                let text = Bilingual::both(
                    format!("此授权请求已过期。如仍需使用 **{app}**，请重新发起。"),
                    format!("This request expired. Ask **{app}** for a new one if you still need it."),
                );
                ("grey", Bilingual::fixed("已过期", "Expired"), vec![text.markdown()])
            }
            State::Failed { reason } => {
                let text = Bilingual::both(
                    format!("授权 **{app}** 未完成：{}", escape_markdown(&reason.zh_cn)),
                    format!("**{app}** could not be authorized: {}", escape_markdown(&reason.en_us)),
                );
                ("red", Bilingual::fixed("授权失败", "Failed"), vec![text.markdown()])
            }
        };
        let title = self.title.map_or_else(
            || Bilingual::both(format!("授权 {}", self.app_name), format!("Authorize {}", self.app_name)),
            |title| Bilingual::both(title.to_owned(), title.to_owned()),
        );
        Card::new(json!({
            "schema": "2.0",
            // The card is for one person: forwarded, its link would bind the wrong account.
            "config": { "update_multi": true, "enable_forward": false },
            "header": { "title": title.plain(), "subtitle": status.plain(), "template": color },
            "body": { "elements": elements },
        }))
    }

    fn pending(
        &self,
        app: &str,
        session_id: &str,
        authorize_url: &Url,
        valid_minutes: u32,
    ) -> Result<Vec<Value>, CardError> {
        let request = self.occasion.map_or_else(
            || {
                Bilingual::both(
                    format!("**{app}** 需要您的授权，才能代表您操作。"),
                    format!("**{app}** needs your permission to act on your behalf."),
                )
            },
            |occasion| Bilingual::both(escape_markdown(&occasion.zh_cn), escape_markdown(&occasion.en_us)),
        );
        let mut elements = vec![request.markdown()];
        if self.detail == Detail::Detailed {
            elements.extend(self.purpose.map(purpose));
            elements.extend((!self.scopes.is_empty()).then(|| scope_list(self.scopes)));
        }
        elements.push(buttons(session_id, authorize_url)?);
        let validity = match valid_minutes / (24 * 60) {
            0 => Bilingual::both(
                format!("链接 {valid_minutes} 分钟内有效。"),
                format!("The link is valid for {valid_minutes} minutes."),
            ),
            days => Bilingual::both(format!("链接 {days} 天内有效。"), format!("The link is valid for {days} days.")),
        };
        elements.push(validity.notation());
        if let (Detail::Detailed, Some(url)) = (self.detail, self.privacy_url) {
            elements.push(link_button("btn_privacy", "text", &PRIVACY, "privacy_url", url)?);
        }
        Ok(elements)
    }
}

fn purpose(text: &str) -> Value {
    let text = escape_markdown(text);
    Bilingual::both(format!("**用途**：{text}"), format!("**Purpose**: {text}")).markdown()
}

fn scope_list(scopes: &[Scope]) -> Value {
    let lines = |heading: &str, description: fn(&Bilingual) -> &str| {
        scopes.iter().fold(format!("**{heading}**"), |mut lines, scope| {
            lines.push_str("\n- ");
            lines.push_str(&escape_markdown(&scope.name));
            if let Some(text) = &scope.description {
                lines.push_str(" — ");
                lines.push_str(&escape_markdown(description(text)));
            }
            lines
        })
    };
    Bilingual::both(lines("权限", |text| &text.zh_cn), lines("Permissions", |text| &text.en_us)).markdown()
}

fn buttons(session_id: &str, authorize_url: &Url) -> Result<Value, CardError> {
    let value = ButtonValue { skylark: Choice::Reject, session_id: session_id.to_owned() };
    let decline = json!({
        "tag": "button",
        "element_id": "btn_reject",
        "type": "default",
        "text": DECLINE.plain(),
        "behaviors": [{ "type": "callback", "value": value }],
    });
    let authorize = link_button("btn_authorize", "primary", &AUTHORIZE, "authorize_url", authorize_url)?;
    let column = |button: Value| json!({ "tag": "column", "width": "auto", "elements": [button] });
    Ok(json!({ "tag": "column_set", "columns": [column(authorize), column(decline)] }))
}

fn link_button(id: &str, kind: &str, text: &Bilingual, field: &'static str, url: &Url) -> Result<Value, CardError> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(CardError::NotAWebPage(field));
    }
    Ok(json!({
        "tag": "button",
        "element_id": id,
        "type": kind,
        "text": text.plain(),
        "behaviors": [{ "type": "open_url", "default_url": url }],
    }))
}
