//! What a callback is answered with, always with HTTP 200.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::callback::CardAction;
use crate::card::{Bilingual, Card};

/// The answer to the URL check. Never encrypted.
#[must_use]
pub fn challenge(challenge: &str) -> Value {
    json!({ "challenge": challenge })
}

/// The answer to an event, known or unknown.
#[must_use]
pub fn received() -> Value {
    json!({ "msg": "success" })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ToastType {
    Info,
    Success,
    Warning,
    Error,
}

/// A short message shown to the person who clicked, and to nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Toast {
    #[serde(rename = "type")]
    kind: ToastType,
    content: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    i18n: BTreeMap<&'static str, String>,
}

impl Toast {
    #[must_use]
    pub fn new(kind: ToastType, content: impl Into<String>) -> Self {
        Self { kind, content: content.into(), i18n: BTreeMap::new() }
    }

    /// In Chinese for people whose client is Chinese, in English for all others.
    #[must_use]
    pub fn bilingual(kind: ToastType, text: &Bilingual) -> Self {
        Self::new(kind, &*text.en_us).translated("zh_cn", &*text.zh_cn).translated("en_us", &*text.en_us)
    }

    /// Adds the text for one of the vendor's locales, such as `zh_cn` or `ja_jp`.
    #[must_use]
    pub fn translated(mut self, locale: &'static str, content: impl Into<String>) -> Self {
        self.i18n.insert(locale, content.into());
        self
    }
}

#[derive(Debug, Clone, PartialEq)]
enum NewCard {
    Raw(Card),
    Template { template_id: String, template_version_name: Option<String>, template_variable: Map<String, Value> },
}

/// The answer to a click. Empty, it leaves the card as it is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CardAnswer {
    toast: Option<Toast>,
    card: Option<NewCard>,
}

impl CardAnswer {
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn toast(mut self, toast: Toast) -> Self {
        self.toast = Some(toast);
        self
    }

    /// Replaces the card that was clicked, for everyone if the card is shared.
    #[must_use]
    pub fn card(mut self, card: Card) -> Self {
        self.card = Some(NewCard::Raw(card));
        self
    }

    /// Replaces the card by a template of the vendor's card builder.
    #[must_use]
    pub fn template(
        mut self,
        template_id: impl Into<String>,
        version_name: Option<String>,
        variables: Map<String, Value>,
    ) -> Self {
        self.card = Some(NewCard::Template {
            template_id: template_id.into(),
            template_version_name: version_name,
            template_variable: variables,
        });
        self
    }

    /// The body to answer this click with. An old callback takes a card or a toast, not both: the card wins. It has no form of
    /// its own for templates, so those keep the new one.
    #[must_use]
    pub fn to_json(&self, action: &CardAction) -> Value {
        match (&self.card, &self.toast) {
            (Some(NewCard::Raw(card)), _) if action.old => card.as_json().clone(),
            (None, Some(toast)) if action.old => {
                let mut answer = json!({ "content": toast.content });
                if !toast.i18n.is_empty() {
                    insert(&mut answer, "i18n", json!(toast.i18n));
                }
                answer
            }
            (card, toast) => {
                let mut answer = json!({});
                if let Some(toast) = toast {
                    insert(&mut answer, "toast", json!(toast));
                }
                if let Some(card) = card {
                    insert(&mut answer, "card", wrapped(card));
                }
                answer
            }
        }
    }
}

fn wrapped(card: &NewCard) -> Value {
    match card {
        NewCard::Raw(card) => json!({ "type": "raw", "data": card.as_json() }),
        NewCard::Template { template_id, template_version_name, template_variable } => {
            let mut data = json!({ "template_id": template_id, "template_variable": template_variable });
            if let Some(version) = template_version_name {
                insert(&mut data, "template_version_name", json!(version));
            }
            json!({ "type": "template", "data": data })
        }
    }
}

fn insert(object: &mut Value, key: &str, value: Value) {
    if let Value::Object(fields) = object {
        fields.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callback::{Action, CardToken, Operator};

    fn click(old: bool) -> CardAction {
        CardAction {
            app_id: "cli_1".to_owned(),
            event_id: "e1".to_owned(),
            operator: Operator { open_id: "ou_1".to_owned(), user_id: None, union_id: None, tenant_key: None },
            update_token: CardToken::new("c-1".to_owned()),
            message_id: None,
            chat_id: None,
            action: Action {
                tag: "button".to_owned(),
                name: None,
                value: Value::Null,
                option: None,
                options: Vec::new(),
                form_value: None,
                input_value: None,
                checked: None,
                timezone: None,
            },
            host: None,
            old,
        }
    }

    fn check(answer: &CardAnswer, new: Value, old: Value) {
        assert_eq!(answer.to_json(&click(false)), new);
        assert_eq!(answer.to_json(&click(true)), old);
    }

    #[test]
    fn an_empty_answer_is_an_empty_object() {
        check(&CardAnswer::empty(), json!({}), json!({}));
    }

    #[test]
    fn a_toast_is_wrapped_for_new_cards_and_bare_for_old_ones() {
        let text = Bilingual { zh_cn: "好 👍".into(), en_us: "Done".into() };
        let i18n = json!({"zh_cn": "好 👍", "en_us": "Done"});
        check(
            &CardAnswer::empty().toast(Toast::bilingual(ToastType::Success, &text)),
            json!({"toast": {"type": "success", "content": "Done", "i18n": i18n}}),
            json!({"content": "Done", "i18n": i18n}),
        );
        check(
            &CardAnswer::empty().toast(Toast::new(ToastType::Warning, "late")),
            json!({"toast": {"type": "warning", "content": "late"}}),
            json!({"content": "late"}),
        );
    }

    #[test]
    fn a_card_is_an_object_never_a_string_and_stands_alone_for_old_callbacks() {
        let card = Card::new(json!({"schema": "2.0", "body": {"elements": []}})).unwrap();
        check(
            &CardAnswer::empty().toast(Toast::new(ToastType::Info, "ok")).card(card.clone()),
            json!({"toast": {"type": "info", "content": "ok"}, "card": {"type": "raw", "data": card.as_json()}}),
            card.as_json().clone(),
        );
    }

    #[test]
    fn a_template_names_its_version_only_when_there_is_one() {
        let variables = Map::from_iter([("k".to_owned(), json!("v"))]);
        let expected = json!({"card": {"type": "template", "data": {"template_id": "AAq1", "template_version_name": "1.0.0", "template_variable": {"k": "v"}}}});
        check(&CardAnswer::empty().template("AAq1", Some("1.0.0".to_owned()), variables), expected.clone(), expected);
        let answer = CardAnswer::empty().template("AAq1", None, Map::new()).to_json(&click(false));
        assert_eq!(
            answer,
            json!({"card": {"type": "template", "data": {"template_id": "AAq1", "template_variable": {}}}})
        );
    }
}
