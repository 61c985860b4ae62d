//! Cards: what the vendor accepts, and what a person can press on them.

use std::collections::HashSet;

use serde_json::Value;

use crate::clock::DAY;

const MAX_ELEMENTS: usize = 200;
const MAX_DEPTH: usize = 5;

const CARD_ATTRIBUTES: &[&str] = &["schema", "config", "card_link", "header", "body", "open_ids"];
const CONFIG_ATTRIBUTES: &[&str] = &[
    "update_multi",
    "enable_forward",
    "enable_forward_interaction",
    "width_mode",
    "summary",
    "streaming_mode",
    "streaming_config",
    "use_custom_translation",
    "locales",
    "style",
];
const HEADER_ATTRIBUTES: &[&str] =
    &["title", "subtitle", "text_tag_list", "i18n_text_tag_list", "template", "icon", "padding"];
const BODY_ATTRIBUTES: &[&str] = &[
    "direction",
    "padding",
    "horizontal_spacing",
    "horizontal_align",
    "vertical_spacing",
    "vertical_align",
    "elements",
];

/// Elements that take part in a click or a form.
const INTERACTIVE: &[&str] = &[
    "button",
    "overflow",
    "select_static",
    "multi_select_static",
    "select_person",
    "multi_select_person",
    "select_img",
    "date_picker",
    "picker_time",
    "picker_datetime",
    "input",
    "checker",
    "interactive_container",
];

/// Where an element keeps the elements inside it.
const CHILDREN: &[&str] = &["elements", "columns", "actions", "fields", "extra"];

pub(crate) fn is_v2(card: &Value) -> bool {
    card.get("schema").and_then(Value::as_str) == Some("2.0")
}

fn is_template(card: &Value) -> bool {
    card.get("type").and_then(Value::as_str) == Some("template")
}

/// One card for everyone, so that it may be updated in place.
pub(crate) fn is_shared(card: &Value) -> bool {
    is_v2(card) || is_template(card) || card.pointer("/config/update_multi").and_then(Value::as_bool) == Some(true)
}

/// How long after sending a click still counts.
pub(crate) fn clickable_for(card: &Value) -> i64 {
    if is_v2(card) { 14 * DAY } else { 30 * DAY }
}

/// Checks a card the way the vendor builds it: JSON 2.0 strictly where its structure is documented, 1.0 leniently.
pub(crate) fn validate(card: &Value) -> Result<(), String> {
    let Some(object) = card.as_object() else { return Err("card is not a JSON object".to_owned()) };
    if is_template(card) {
        let id = card.pointer("/data/template_id").and_then(Value::as_str).unwrap_or_default();
        return if id.is_empty() { Err("template_id is empty".to_owned()) } else { Ok(()) };
    }
    match object.get("schema") {
        None => return validate_v1(card),
        Some(schema) if schema == "1.0" => return validate_v1(card),
        Some(schema) if schema == "2.0" => {}
        Some(schema) => return Err(format!("unsupported schema {schema}")),
    }
    only("card", Some(card), CARD_ATTRIBUTES)?;
    only("config", card.get("config"), CONFIG_ATTRIBUTES)?;
    only("header", card.get("header"), HEADER_ATTRIBUTES)?;
    only("body", card.get("body"), BODY_ATTRIBUTES)?;
    if card.pointer("/config/update_multi").is_some_and(|value| value != true) {
        return Err("config.update_multi can only be true in card JSON 2.0".to_owned());
    }
    let mut checked = Checked::default();
    for element in list(card.pointer("/body/elements"), "body.elements")? {
        checked.element(element, 0, Place::Root)?;
    }
    Ok(())
}

fn validate_v1(card: &Value) -> Result<(), String> {
    list(card.get("elements"), "elements")?;
    if card.get("body").is_some() {
        return Err("body is an attribute of card JSON 2.0: set schema to \"2.0\"".to_owned());
    }
    Ok(())
}

fn only(name: &str, value: Option<&Value>, known: &[&str]) -> Result<(), String> {
    let Some(value) = value else { return Ok(()) };
    let Some(object) = value.as_object() else { return Err(format!("{name} is not an object")) };
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(format!("unknown property, property: {key}, path: {name}")),
        None => Ok(()),
    }
}

fn list<'v>(value: Option<&'v Value>, name: &str) -> Result<&'v [Value], String> {
    match value {
        None => Ok(&[]),
        Some(value) => value.as_array().map(Vec::as_slice).ok_or_else(|| format!("{name} is not an array")),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Container,
    Form,
}

#[derive(Default)]
struct Checked {
    count: usize,
    element_ids: HashSet<String>,
    form_names: HashSet<String>,
    has_submit: bool,
}

impl Checked {
    fn element(&mut self, element: &Value, depth: usize, place: Place) -> Result<(), String> {
        let tag = element.get("tag").and_then(Value::as_str).ok_or("an element has no tag")?;
        self.count += 1;
        if self.count > MAX_ELEMENTS {
            return Err(format!("more than {MAX_ELEMENTS} elements"));
        }
        if depth > MAX_DEPTH {
            return Err(format!("containers are nested more than {MAX_DEPTH} levels deep"));
        }
        if matches!(tag, "action" | "note") {
            return Err(format!("cards of schema V2 no longer support this capability; unsupported tag {tag}"));
        }
        if matches!(tag, "form" | "table") && place != Place::Root {
            return Err(format!("{tag} can only stand at the root of the card"));
        }
        if let Some(id) = element.get("element_id") {
            let id = id.as_str().unwrap_or_default();
            if !is_element_id(id) {
                return Err(format!("element_id {id:?} must start with a letter and have up to 20 of [A-Za-z0-9_]"));
            }
            if !self.element_ids.insert(id.to_owned()) {
                return Err(format!("element_id {id} is not unique"));
            }
        }
        if tag == "form" || (place == Place::Form && INTERACTIVE.contains(&tag)) {
            let name = element.get("name").and_then(Value::as_str).unwrap_or_default();
            if name.is_empty() {
                return Err(format!("{tag} in a form needs a name"));
            }
            if !self.form_names.insert(name.to_owned()) {
                return Err(format!("the name {name} is used twice in a form"));
            }
        }
        self.has_submit |= is_submit(element);
        let inside = match (tag, place) {
            ("form", _) | (_, Place::Form) => Place::Form,
            _ => Place::Container,
        };
        if tag == "form" {
            self.has_submit = false;
        }
        for children in ["elements", "columns"] {
            // A column is part of its set, not a level of its own.
            let deeper = if tag == "column" { depth } else { depth + 1 };
            for child in list(element.get(children), children)? {
                self.element(child, deeper, inside)?;
            }
        }
        if tag == "form" && !self.has_submit {
            return Err("a form needs a button with form_action_type submit".to_owned());
        }
        Ok(())
    }
}

fn is_element_id(id: &str) -> bool {
    id.len() <= 20
        && id.starts_with(|first: char| first.is_ascii_alphabetic())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

pub(crate) fn is_submit(element: &Value) -> bool {
    element.get("form_action_type").and_then(Value::as_str) == Some("submit")
        || element.get("action_type").and_then(Value::as_str) == Some("form_submit")
}

/// An element that can be pressed or filled in, and the form around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Component<'c> {
    pub(crate) element: &'c Value,
    pub(crate) form: Option<&'c Value>,
}

/// The card's elements as a person of that language sees them.
pub(crate) fn elements<'c>(card: &'c Value, language: &str) -> &'c [Value] {
    let localized = card.get("i18n_elements");
    [
        localized.and_then(|all| all.get(language)),
        localized.and_then(|all| all.as_object()?.values().next()),
        card.pointer("/body/elements"),
        card.get("elements"),
    ]
    .into_iter()
    .flatten()
    .find_map(Value::as_array)
    .map(Vec::as_slice)
    .unwrap_or_default()
}

/// Everything interactive, in the order of the card.
pub(crate) fn components<'c>(card: &'c Value, language: &str) -> Vec<Component<'c>> {
    let mut found = Vec::new();
    for element in elements(card, language) {
        collect(element, None, &mut found);
    }
    found
}

fn collect<'c>(element: &'c Value, form: Option<&'c Value>, found: &mut Vec<Component<'c>>) {
    let tag = tag(element);
    if INTERACTIVE.contains(&tag) {
        found.push(Component { element, form });
    }
    let form = if tag == "form" { Some(element) } else { form };
    for children in CHILDREN {
        match element.get(children) {
            Some(Value::Array(children)) => children.iter().for_each(|child| collect(child, form, found)),
            Some(child @ Value::Object(_)) => collect(child, form, found),
            _ => {}
        }
    }
}

pub(crate) fn tag(element: &Value) -> &str {
    element.get("tag").and_then(Value::as_str).unwrap_or_default()
}

impl<'c> Component<'c> {
    /// Whether `wanted` is its name, element_id or the text on it, in any language.
    pub(crate) fn is_called(&self, wanted: &str) -> bool {
        let is = |value: Option<&Value>| value.and_then(Value::as_str) == Some(wanted);
        let text = self.element.get("text");
        is(self.element.get("name"))
            || is(self.element.get("element_id"))
            || is(text.and_then(|text| text.get("content")))
            || ["i18n", "i18n_content"]
                .iter()
                .filter_map(|key| text?.get(key)?.as_object())
                .any(|languages| languages.values().any(|value| is(Some(value))))
    }

    pub(crate) fn is_disabled(&self) -> bool {
        self.element.get("disabled").and_then(Value::as_bool) == Some(true)
    }

    /// The address a press opens.
    pub(crate) fn url(&self) -> Option<&'c str> {
        let behavior = self.behavior("open_url");
        let from = |value: Option<&'c Value>, keys: &[&str]| {
            keys.iter().find_map(|key| value?.get(key)?.as_str().filter(|url| !url.is_empty()))
        };
        from(behavior, &["default_url", "pc_url", "ios_url", "android_url"])
            .or_else(|| from(Some(self.element), &["url"]))
            .or_else(|| from(self.element.get("multi_url"), &["url", "pc_url", "ios_url", "android_url"]))
    }

    /// The value a press sends back, where a press calls back.
    pub(crate) fn callback_value(&self) -> Option<Value> {
        if let Some(behavior) = self.behavior("callback") {
            return Some(behavior.get("value").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new())));
        }
        let value = self.element.get("value").filter(|value| value.is_object() || value.is_string());
        let calls_back = self.url().is_none() && tag(self.element) != "interactive_container";
        match value {
            Some(value) => Some(value.clone()),
            None => calls_back.then(|| Value::Object(serde_json::Map::new())),
        }
    }

    fn behavior(&self, kind: &str) -> Option<&'c Value> {
        let behaviors = self.element.get("behaviors")?.as_array()?;
        behaviors.iter().find(|behavior| behavior.get("type").and_then(Value::as_str) == Some(kind))
    }

    /// The names of required fields of its form that `form_value` leaves empty.
    pub(crate) fn missing_fields(&self, form_value: &Value) -> Vec<String> {
        let Some(form) = self.form.filter(|_| is_submit(self.element)) else { return Vec::new() };
        let mut fields = Vec::new();
        collect(form, None, &mut fields);
        fields
            .iter()
            .filter(|field| field.element.get("required").and_then(Value::as_bool) == Some(true))
            .filter_map(|field| field.element.get("name")?.as_str())
            .filter(|name| match form_value.get(name) {
                None | Some(Value::Null) => true,
                Some(Value::String(value)) => value.is_empty(),
                Some(Value::Array(values)) => values.is_empty(),
                Some(_) => false,
            })
            .map(str::to_owned)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn v2(elements: Value) -> Value {
        json!({ "schema": "2.0", "body": { "elements": elements } })
    }

    fn submit(name: &str) -> Value {
        json!({ "tag": "button", "name": name, "form_action_type": "submit" })
    }

    #[test]
    fn cards_the_vendor_takes() {
        let nested = json!([{ "tag": "column_set", "columns": [{ "tag": "column", "elements": [{ "tag": "hr" }] }] }]);
        for card in [
            json!({}),
            json!({ "unknown": 1, "elements": [{ "tag": "note" }] }),
            json!({ "schema": "2.0" }),
            json!({ "type": "template", "data": { "template_id": "AAq1" } }),
            v2(nested),
            v2(json!([{ "tag": "form", "name": "f", "elements": [{ "tag": "input", "name": "i" }, submit("s")] }])),
        ] {
            assert_eq!(validate(&card), Ok(()), "{card}");
        }
    }

    #[test]
    fn cards_the_vendor_refuses_say_why() {
        let mut deep = json!({ "tag": "hr" });
        for _ in 0..7 {
            deep = json!({ "tag": "interactive_container", "elements": [deep] });
        }
        for (card, why) in [
            (json!([]), "not a JSON object"),
            (json!({ "schema": "3.0" }), "unsupported schema"),
            (json!({ "body": {} }), "card JSON 2.0"),
            (json!({ "schema": "2.0", "elements": [] }), "property: elements"),
            (json!({ "schema": "2.0", "config": { "wide_screen_mode": true } }), "property: wide_screen_mode"),
            (json!({ "schema": "2.0", "config": { "update_multi": false } }), "update_multi"),
            (v2(json!({})), "not an array"),
            (v2(json!([{ "tag": "action" }])), "unsupported tag action"),
            (v2(json!([{ "content": "x" }])), "no tag"),
            (v2(json!([{ "tag": "hr", "element_id": "1a" }])), "element_id"),
            (v2(json!([{ "tag": "hr", "element_id": "a" }, { "tag": "hr", "element_id": "a" }])), "not unique"),
            (v2(json!(vec![json!({ "tag": "hr" }); 201])), "more than 200"),
            (v2(json!([deep])), "nested"),
            (v2(json!([{ "tag": "form", "name": "f", "elements": [{ "tag": "input", "name": "i" }] }])), "submit"),
            (
                v2(json!([{ "tag": "form", "name": "f", "elements": [{ "tag": "input" }, submit("s")] }])),
                "needs a name",
            ),
            (v2(json!([{ "tag": "form", "name": "f", "elements": [submit("f")] }])), "twice"),
            (v2(json!([{ "tag": "interactive_container", "elements": [{ "tag": "table" }] }])), "root"),
            (json!({ "type": "template", "data": {} }), "template_id"),
        ] {
            let refused = validate(&card).expect_err(&card.to_string());
            assert!(refused.contains(why), "{refused:?} does not say {why:?}");
        }
    }

    #[test]
    fn buttons_are_found_wherever_they_stand_and_know_their_form() {
        let card = json!({ "elements": [
            { "tag": "div", "extra": { "tag": "button", "text": { "content": "更多" }, "url": "https://x" } },
            { "tag": "action", "actions": [{ "tag": "button", "name": "ok", "value": { "n": 1 } }] },
            { "tag": "form", "elements": [{ "tag": "input", "name": "why", "required": true }, submit("send")] },
        ]});
        let found = components(&card, "zh_cn");
        assert_eq!(found.len(), 4);
        assert!(found[0].is_called("更多"));
        assert_eq!((found[0].url(), found[0].callback_value()), (Some("https://x"), None));
        assert_eq!(found[1].callback_value(), Some(json!({ "n": 1 })));
        assert_eq!(found[3].missing_fields(&json!({})), ["why"]);
        assert!(found[3].missing_fields(&json!({ "why": "因为🌧" })).is_empty());
    }
}
