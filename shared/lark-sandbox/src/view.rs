//! The sandbox's pages: what people see in their chats, cards to press included, and the index.

use std::fmt::Write;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::Value;

use crate::Sandbox;
use crate::card::{self, Component};
use crate::control::SeenMessage;
use crate::html::{self, Language, escape, markdown, web_url};
use crate::model::{App, Change, User, UserStatus};

/// The endpoints on the index: what the crate's documentation says, in one line each.
const ENDPOINTS: &[(&str, &str)] = &[
    ("POST /sandbox/apps", "create or replace an app; its callback_url has to answer the challenge"),
    ("GET /sandbox/apps", "apps, secrets masked"),
    ("GET, POST /sandbox/users", "people"),
    ("GET, POST /sandbox/chats", "group chats {chat_id?, name, members[], app_ids[]}"),
    ("POST /sandbox/authorize", "{url, open_id, approve} -> {location}"),
    ("POST /sandbox/revoke", "{app_id, open_id}: a person takes back the authorization"),
    ("POST /sandbox/click", "{message_id, open_id, button?, value?, form_value?} -> callback and what came of it"),
    ("POST /sandbox/events", "{app_id, event_type, event, event_id?, schema?} -> delivery"),
    ("POST /sandbox/messages/from", "{app_id, open_id, chat_id?, text}: a person writes to the bot"),
    ("GET /sandbox/deliveries?app_id=", "event deliveries with their attempts"),
    ("GET /sandbox/messages?app_id=&open_id=&limit=", "what people see now, as JSON"),
    ("GET /sandbox/messages.html", "the same, to look at and press"),
    ("GET, POST /sandbox/clock", "{advance_secs}: move sandbox time"),
    (
        "GET, POST, DELETE /sandbox/faults",
        "{path_prefix, kind, times?, percent?}; kind: http_500, http_503, code:<n>, timeout, rate_limit, drop_after_processing, slow:<ms>",
    ),
    ("GET, DELETE /sandbox/calls", "how often each vendor endpoint gave which result"),
];

pub(crate) async fn index(State(sandbox): State<Sandbox>, headers: HeaderMap) -> Response {
    let language = Language::accepted(&headers);
    let title = language.pick("Lark sandbox", "Lark 沙箱");
    let mut rows = String::new();
    for (request, does) in ENDPOINTS {
        put(&mut rows, format_args!("<tr><td><code>{}</code></td><td>{}</td></tr>", escape(request), escape(does)));
    }
    let body = format!(
        "<h1>{title}</h1><p>{} <code>{}</code></p><p><a class=\"button primary\" href=\"/sandbox/messages.html\">{}</a></p>\
         <section class=\"panel\"><table>{rows}</table></section>",
        language.pick("Point the vendor's base URL at", "将开放平台地址指向"),
        escape(sandbox.base_url()),
        language.pick("Open the chats", "查看聊天"),
    );
    html::page(StatusCode::OK, language, title, &body)
}

/// The chats of one person.
pub(crate) struct Screen<'s> {
    pub(crate) language: Language,
    pub(crate) app_id: Option<&'s str>,
    pub(crate) open_id: &'s str,
    pub(crate) apps: &'s [App],
    pub(crate) users: &'s [User],
}

impl Screen<'_> {
    pub(crate) fn render(&self, messages: &[SeenMessage]) -> Response {
        let title = self.say("Chats", "聊天");
        let mut body = self.head(title);
        if messages.is_empty() {
            put(&mut body, format_args!("<p class=\"panel\">{}</p>", self.say("Nothing here yet.", "还没有消息。")));
        }
        for message in messages {
            self.message(&mut body, message);
        }
        html::page(StatusCode::OK, self.language, title, &body)
    }

    fn say(&self, en: &'static str, zh: &'static str) -> &'static str {
        self.language.pick(en, zh)
    }

    fn head(&self, title: &str) -> String {
        let apps = self.apps.iter().map(|app| (app.app_id.as_str(), name_of(app)));
        let people: Vec<_> = self.users.iter().map(|user| (user.open_id.as_str(), user.name.as_str())).collect();
        let all = [("", self.say("All apps", "全部应用"))];
        let languages = [("en", "English"), ("zh", "中文")];
        let mut head = format!(
            "<h1>{title}</h1><form class=\"panel row\" method=\"get\" action=\"/sandbox/messages.html\">\
             <label>{} {}</label><label>{} {}</label><label>{} {}</label><button>{}</button></form>",
            self.say("Person", "用户"),
            select("open_id", people.iter().copied(), self.open_id),
            self.say("App", "应用"),
            select("app_id", all.into_iter().chain(apps.clone()), self.app_id.unwrap_or_default()),
            self.say("Language", "语言"),
            select("lang", languages.into_iter(), self.language.code()),
            self.say("Show", "查看"),
        );
        if !self.apps.is_empty() {
            put(
                &mut head,
                format_args!(
                    "<form class=\"panel row\" method=\"post\" action=\"/sandbox/messages.html/from\">{}\
                     <label>{} {}</label><label>{} <input name=\"text\" required></label>\
                     <button class=\"primary\">{}</button></form>",
                    self.hidden(),
                    self.say("Write to", "发给"),
                    select("to", apps, self.app_id.unwrap_or_default()),
                    self.say("Message", "消息"),
                    self.say("Send", "发送"),
                ),
            );
        }
        head
    }

    /// What brings a form's answer back to this very screen.
    fn hidden(&self) -> String {
        [("open_id", self.open_id), ("app_id", self.app_id.unwrap_or_default()), ("lang", self.language.code())]
            .map(|(name, value)| hidden(name, value))
            .concat()
    }

    fn message(&self, body: &mut String, message: &SeenMessage) {
        put(body, format_args!("<article id=\"{}\">", escape(&message.message_id)));
        put(
            body,
            format_args!(
                "<p class=\"small\"><strong>{}</strong> · <time datetime=\"{}\">{}</time>{}</p>",
                escape(self.sender(&message.sender)),
                escape(&message.created_at),
                escape(&to_the_minute(&message.created_at)),
                if message.updated { self.say(" · updated", " · 已更新") } else { "" },
            ),
        );
        if message.deleted {
            put(
                body,
                format_args!("<p class=\"bubble gone\">{}</p>", self.say("This message was recalled", "消息已撤回")),
            );
        } else if let Some(card) = &message.card {
            CardView { screen: self, message, components: card::components(card, "zh_cn"), form: None }
                .render(body, card);
        } else {
            put(body, format_args!("<div class=\"bubble\">{}</div>", self.content(message)));
        }
        if let Some(click) = message.history.iter().rev().find(|change| is_press(change, self.open_id)) {
            self.outcome(body, click);
        }
        body.push_str("</article>");
    }

    fn sender<'a>(&'a self, id: &'a str) -> &'a str {
        let app = self.apps.iter().find(|app| app.app_id == id).map(name_of);
        let user = self.users.iter().find(|user| user.open_id == id).map(|user| user.name.as_str());
        app.or(user).unwrap_or(id)
    }

    /// The newest press by this person: its toast, or what went wrong.
    fn outcome(&self, body: &mut String, press: &Change) {
        if let Some(error) = &press.error {
            put(body, format_args!("<p class=\"toast error\" role=\"alert\">{}</p>", escape(error)));
        } else if let Some(toast) = &press.toast {
            let given = toast.get("type").and_then(Value::as_str);
            let kind = ["success", "error", "warning"].into_iter().find(|kind| given == Some(kind)).unwrap_or("info");
            let text = localized(toast, self.language);
            put(body, format_args!("<p class=\"toast {kind}\" role=\"status\">{}</p>", escape(text)));
        }
    }

    fn content(&self, message: &SeenMessage) -> String {
        let Ok(content) = serde_json::from_str::<Value>(&message.content) else { return escape(&message.content) };
        match message.msg_type.as_str() {
            "text" => markdown(content.get("text").and_then(Value::as_str).unwrap_or_default()),
            "post" => self.post(&content),
            other => format!("<em>[{}]</em>", escape(other)),
        }
    }

    fn post(&self, content: &Value) -> String {
        let localized = content.get(self.language.card_key()).filter(|post| post.get("content").is_some());
        let first = || content.as_object()?.values().find(|post| post.get("content").is_some());
        let Some(post) = localized.or_else(first) else { return String::new() };
        let mut html = format!("<h2>{}</h2>", escape(post.get("title").and_then(Value::as_str).unwrap_or_default()));
        for line in post.get("content").and_then(Value::as_array).into_iter().flatten() {
            html.push_str("<p>");
            for part in line.as_array().into_iter().flatten() {
                let text =
                    ["text", "user_name", "user_id"].iter().find_map(|key| part.get(key)?.as_str()).unwrap_or_default();
                let href = part.get("href").and_then(Value::as_str).and_then(web_url);
                match (card::tag(part), href) {
                    ("a", Some(href)) => html.push_str(&link(href, &escape(text), "")),
                    ("at", _) => put(&mut html, format_args!("<span class=\"at\">@{}</span>", escape(text))),
                    ("md", _) => html.push_str(&markdown(text)),
                    ("img" | "media" | "emotion", _) => html.push_str("<em>[img]</em>"),
                    _ => html.push_str(&escape(text)),
                }
            }
            html.push_str("</p>");
        }
        html
    }
}

fn is_press(change: &Change, open_id: &str) -> bool {
    change.what == "clicked" && change.by == open_id
}

/// An RFC 3339 time as people read it.
fn to_the_minute(at: &str) -> String {
    at.get(..16).map_or_else(|| at.to_owned(), |minute| format!("{} UTC", minute.replace('T', " ")))
}

fn name_of(app: &App) -> &str {
    if app.name.is_empty() { &app.app_id } else { &app.name }
}

/// A card as one person sees it; everything interactive becomes a form that clicks.
struct CardView<'v> {
    screen: &'v Screen<'v>,
    message: &'v SeenMessage,
    components: Vec<Component<'v>>,
    /// The HTML form being rendered, if any: forms do not nest.
    form: Option<&'v Value>,
}

impl<'v> CardView<'v> {
    fn render(mut self, html: &mut String, card: &'v Value) {
        let language = self.screen.language;
        html.push_str("<section class=\"card\">");
        if let Some(header) = card.get("header") {
            let color = match header.get("template").and_then(Value::as_str) {
                Some("green") => "head-green",
                Some("red") => "head-red",
                Some("grey") => "head-grey",
                Some(
                    color @ ("blue" | "wathet" | "turquoise" | "yellow" | "orange" | "carmine" | "violet" | "purple"
                    | "indigo"),
                ) => color,
                _ => "default",
            };
            let title = header.get("title").map(|title| localized(title, language)).unwrap_or_default();
            let subtitle = header.get("subtitle").map(|subtitle| localized(subtitle, language)).unwrap_or_default();
            put(
                html,
                format_args!(
                    "<header class=\"card-head {color}\"><h2>{}</h2><span class=\"small\">{}</span></header>",
                    escape(title),
                    escape(subtitle),
                ),
            );
        }
        html.push_str("<div class=\"card-body\">");
        if let Some(id) = card.pointer("/data/template_id").and_then(Value::as_str) {
            put(html, format_args!("<p><em>[template {}]</em></p>", escape(id)));
        }
        for element in card::elements(card, language.card_key()) {
            self.element(html, element);
        }
        html.push_str("</div></section>");
    }

    fn element(&mut self, html: &mut String, element: &'v Value) {
        let language = self.screen.language;
        match card::tag(element) {
            "hr" => html.push_str("<hr>"),
            "markdown" | "lark_md" | "plain_text" => {
                let notation = element.get("text_size").is_some_and(|size| size == "notation");
                let class = if notation { " class=\"small\"" } else { "" };
                put(html, format_args!("<p{class}>{}</p>", rich(element, language)));
            }
            "div" => {
                if let Some(text) = element.get("text") {
                    put(html, format_args!("<p>{}</p>", rich(text, language)));
                }
                html.push_str("<div class=\"row\">");
                for field in array(element, "fields") {
                    let text = field.get("text").map(|text| rich(text, language)).unwrap_or_default();
                    put(html, format_args!("<div class=\"column\">{text}</div>"));
                }
                html.push_str("</div>");
                if let Some(extra) = element.get("extra") {
                    self.element(html, extra);
                }
            }
            "note" => self.container(html, element, "elements", "small"),
            "action" => self.container(html, element, "actions", "row"),
            "column_set" => self.container(html, element, "columns", "row"),
            "column" => {
                let narrow = element.get("width").is_some_and(|width| width == "auto");
                self.container(html, element, "elements", if narrow { "column auto" } else { "column" });
            }
            "form" => {
                self.open_form(html, element);
                for child in array(element, "elements") {
                    self.element(html, child);
                }
                self.close_form(html);
            }
            "img" | "image" => {
                let alt = element.get("alt").map(|alt| localized(alt, language)).unwrap_or_default();
                put(html, format_args!("<p><em>[img {}]</em></p>", escape(alt)));
            }
            _ => match self.components.iter().position(|component| std::ptr::eq(component.element, element)) {
                Some(index) => self.component(html, index, element),
                None if element.get("elements").is_some() => self.container(html, element, "elements", ""),
                None => put(html, format_args!("<p class=\"small\">[{}]</p>", escape(card::tag(element)))),
            },
        }
    }

    fn container(&mut self, html: &mut String, element: &'v Value, children: &str, class: &str) {
        put(html, format_args!("<div class=\"{class}\">"));
        for child in array(element, children) {
            self.element(html, child);
        }
        html.push_str("</div>");
    }

    fn open_form(&mut self, html: &mut String, owner: &'v Value) {
        put(
            html,
            format_args!(
                "<form method=\"post\" action=\"/sandbox/messages.html/click\">{}{}",
                self.screen.hidden(),
                hidden("message_id", &self.message.message_id),
            ),
        );
        self.form = Some(owner);
    }

    fn close_form(&mut self, html: &mut String) {
        html.push_str("</form>");
        self.form = None;
    }

    fn component(&mut self, html: &mut String, index: usize, element: &'v Value) {
        let Some(component) = self.components.get(index).copied() else { return };
        let in_form = self.form.is_some();
        match card::tag(element) {
            "button" => self.button(html, index, component),
            "interactive_container" => {
                self.container(html, element, "elements", "panel");
                self.button(html, index, component);
            }
            _ if in_form => self.field(html, element, None),
            _ => {
                self.open_form(html, element);
                self.field(html, element, Some(index));
                self.close_form(html);
            }
        }
    }

    fn button(&mut self, html: &mut String, index: usize, component: Component<'v>) {
        let element = component.element;
        let label =
            element.get("text").map(|text| localized(text, self.screen.language)).filter(|text| !text.is_empty());
        let label = escape(label.unwrap_or(self.screen.say("Open", "打开")));
        let class = match element.get("type").and_then(Value::as_str) {
            Some(kind) if kind.starts_with("primary") => "primary",
            Some(kind) if kind.starts_with("danger") => "danger",
            _ => "",
        };
        if component.callback_value().is_none() {
            match component.url().and_then(web_url) {
                Some(url) => html.push_str(&link(url, &label, &format!("button {class}"))),
                None => put(html, format_args!("<button disabled>{label}</button>")),
            }
            return;
        }
        let disabled = if component.is_disabled() { " disabled" } else { "" };
        let alone = self.form.is_none();
        if alone {
            self.open_form(html, element);
        }
        put(
            html,
            format_args!("<button class=\"{class}\" name=\"button\" value=\"{index}\"{disabled}>{label}</button>"),
        );
        if alone {
            self.close_form(html);
        }
    }

    /// An input; outside a form (`press`) it has a button of its own that sends it.
    fn field(&self, html: &mut String, element: &Value, press: Option<usize>) {
        let language = self.screen.language;
        let own_name = element.get("name").and_then(Value::as_str).unwrap_or_default();
        let tag = card::tag(element);
        let name = match press {
            Some(_) if tag == "input" => "input_value".to_owned(),
            Some(_) => "option".to_owned(),
            None => format!("form.{own_name}"),
        };
        let label = ["label", "placeholder", "text"]
            .iter()
            .find_map(|key| element.get(key))
            .map(|text| localized(text, language));
        let required = if element.get("required").and_then(Value::as_bool) == Some(true) { " required" } else { "" };
        let multiple = if tag.starts_with("multi_") { " multiple" } else { "" };
        let options = if tag.ends_with("select_person") && array(element, "options").is_empty() {
            self.people().map(|user| option(&user.open_id, &user.name)).collect()
        } else {
            array(element, "options").iter().map(|choice| self.option(choice)).collect::<String>()
        };
        put(html, format_args!("<label>{} ", escape(label.unwrap_or(own_name))));
        match tag {
            "input" => put(html, format_args!("<input name=\"{}\"{required}>", escape(&name))),
            "checker" => put(html, format_args!("<input type=\"checkbox\" name=\"{}\" value=\"true\">", escape(&name))),
            "date_picker" => put(html, format_args!("<input type=\"date\" name=\"{}\"{required}>", escape(&name))),
            "picker_time" => put(html, format_args!("<input type=\"time\" name=\"{}\"{required}>", escape(&name))),
            "picker_datetime" => {
                put(html, format_args!("<input type=\"datetime-local\" name=\"{}\"{required}>", escape(&name)));
            }
            _ => put(html, format_args!("<select name=\"{}\"{required}{multiple}>{options}</select>", escape(&name))),
        }
        html.push_str("</label>");
        if let Some(index) = press {
            put(
                html,
                format_args!("<button name=\"button\" value=\"{index}\">{}</button>", self.screen.say("Send", "提交")),
            );
        }
    }

    /// Who can be picked.
    fn people(&self) -> impl Iterator<Item = &User> {
        self.screen.users.iter().filter(|user| user.status != UserStatus::Resigned)
    }

    fn option(&self, choice: &Value) -> String {
        let value = choice.get("value").and_then(Value::as_str).unwrap_or_default();
        let text = choice.get("text").map(|text| localized(text, self.screen.language)).unwrap_or(value);
        option(value, text)
    }
}

/// A text object, or a string, in that language.
fn localized(text: &Value, language: Language) -> &str {
    if let Some(text) = text.as_str() {
        return text;
    }
    ["i18n_content", "i18n"]
        .iter()
        .find_map(|key| text.get(key)?.get(language.card_key())?.as_str())
        .or_else(|| text.get("content")?.as_str())
        .unwrap_or_default()
}

fn rich(text: &Value, language: Language) -> String {
    if card::tag(text) == "plain_text" {
        escape(localized(text, language))
    } else {
        markdown(localized(text, language))
    }
}

fn array<'v>(element: &'v Value, name: &str) -> &'v [Value] {
    element.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// `label` is HTML already, `url` is not.
fn link(url: &str, label: &str, class: &str) -> String {
    format!("<a class=\"{class}\" href=\"{}\" target=\"_blank\" rel=\"noopener noreferrer\">{label}</a>", escape(url))
}

fn hidden(name: &str, value: &str) -> String {
    format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\">", escape(value))
}

fn option(value: &str, text: &str) -> String {
    format!("<option value=\"{}\">{}</option>", escape(value), escape(text))
}

fn select<'s>(name: &str, options: impl Iterator<Item = (&'s str, &'s str)>, selected: &str) -> String {
    let mut html = format!("<select name=\"{name}\">");
    for (value, text) in options {
        let mark = if value == selected { " selected" } else { "" };
        put(&mut html, format_args!("<option value=\"{}\"{mark}>{}</option>", escape(value), escape(text)));
    }
    html.push_str("</select>");
    html
}

/// Appends; writing to a string cannot fail.
fn put(html: &mut String, piece: std::fmt::Arguments<'_>) {
    let _ = html.write_fmt(piece);
}
