//! authen/v1/authorize: the page on which a person grants an app access, or does not.

use std::collections::HashMap;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use url::{Url, form_urlencoded};

use crate::control::Consent;
use crate::html::{self, Language, escape};
use crate::model::{App, Challenge, User, UserStatus};
use crate::store::{StoreError, Tx};
use crate::vendor::oauth;
use crate::{Sandbox, SandboxError};

const MAX_SCOPES: usize = 50;

/// The query of the page, checked.
struct Request {
    app: App,
    redirect_uri: String,
    scopes: Vec<String>,
    state: Option<String>,
    challenge: Option<Challenge>,
}

/// What the page shows instead of a choice.
enum Denied {
    Page { code: i64, en: String, zh: String },
    Store(StoreError),
}

impl From<StoreError> for Denied {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn denied(code: i64, en: impl Into<String>, zh: impl Into<String>) -> Denied {
    Denied::Page { code, en: en.into(), zh: zh.into() }
}

impl Request {
    fn check(tx: &Tx<'_>, query: &str) -> Result<Self, Denied> {
        let fields: HashMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let field = |name: &str| fields.get(name).filter(|value| !value.is_empty());
        // `app_id` is what the older form of this address used.
        let app_id = field("client_id").or_else(|| field("app_id"));
        let app = app_id.map(|app_id| tx.get::<App>(app_id)).transpose()?.flatten();
        let app = app.ok_or_else(|| {
            denied(20_048, "The app does not exist: check client_id.", "应用不存在：请检查 client_id。")
        })?;
        if !app.enabled {
            return Err(denied(20_069, "The app is not enabled.", "应用未启用。"));
        }
        let redirect_uri = field("redirect_uri").cloned().unwrap_or_default();
        if !app.redirect_uris.contains(&redirect_uri) {
            return Err(denied(
                20_029,
                format!("The redirect_uri `{redirect_uri}` is not in the app's list of redirect URLs."),
                format!("redirect_uri `{redirect_uri}` 不在应用的重定向 URL 列表中。"),
            ));
        }
        let mut scopes: Vec<String> = Vec::new();
        for scope in field("scope").map(String::as_str).unwrap_or_default().split_whitespace() {
            if !scopes.iter().any(|earlier| earlier == scope) {
                scopes.push(scope.to_owned());
            }
        }
        if scopes.len() > MAX_SCOPES {
            return Err(denied(20_001, "More than 50 scopes were requested at once.", "一次最多申请 50 个权限。"));
        }
        if let Some(unknown) = scopes.iter().find(|scope| !app.scopes.contains(scope)) {
            return Err(denied(
                20_027,
                format!("The scope `{unknown}` is not enabled for the app."),
                format!("应用未开通权限 `{unknown}`。"),
            ));
        }
        let challenge = match (field("code_challenge"), field("code_challenge_method").map(String::as_str)) {
            (None, _) => None,
            (Some(value), None | Some("plain")) => Some(Challenge { value: value.clone(), s256: false }),
            (Some(value), Some("S256")) => Some(Challenge { value: value.clone(), s256: true }),
            (Some(_), Some(_)) => {
                return Err(denied(
                    20_001,
                    "code_challenge_method must be S256 or plain.",
                    "code_challenge_method 必须是 S256 或 plain。",
                ));
            }
        };
        Ok(Self { app, redirect_uri, scopes, state: field("state").cloned(), challenge })
    }

    fn approve(self, tx: &Tx<'_>, open_id: &str) -> Result<String, StoreError> {
        let code =
            oauth::approve(tx, &self.app.app_id, open_id, &self.redirect_uri, &self.scopes, self.challenge.clone())?;
        Ok(self.location("code", &code))
    }

    fn deny(&self) -> String {
        self.location("error", "access_denied")
    }

    /// The redirect: a fragment of the redirect_uri moves behind the query.
    fn location(&self, name: &str, value: &str) -> String {
        let (address, fragment) = match self.redirect_uri.split_once('#') {
            Some((address, fragment)) => (address, format!("#{fragment}")),
            None => (self.redirect_uri.as_str(), String::new()),
        };
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair(name, value);
        if let Some(state) = &self.state {
            query.append_pair("state", state);
        }
        let joint = if address.contains('?') { '&' } else { '?' };
        format!("{address}{joint}{}{fragment}", query.finish())
    }
}

pub(crate) async fn page(State(sandbox): State<Sandbox>, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    let language = Language::accepted(&headers);
    let query = query.unwrap_or_default();
    let shown = query.clone();
    let checked = sandbox
        .blocking(move |sandbox| {
            sandbox.store().transact(|tx| {
                let request = Request::check(tx, &query)?;
                let users = tx.all::<User>()?;
                Ok((request, users))
            })
        })
        .await;
    match checked {
        Ok((request, users)) => consent_page(language, &shown, &request, &users),
        Err(denied) => denied_page(language, denied),
    }
}

/// The posted form: the query of the page, who decides, and what.
pub(crate) async fn decide(State(sandbox): State<Sandbox>, headers: HeaderMap, body: Bytes) -> Response {
    let language = Language::accepted(&headers);
    let form: HashMap<String, String> = form_urlencoded::parse(&body).into_owned().collect();
    let decided = sandbox
        .blocking(move |sandbox| {
            sandbox.store().transact(|tx| {
                let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
                let request = Request::check(tx, field("query"))?;
                if field("decision") != "approve" {
                    return Ok(request.deny());
                }
                let user = tx.get::<User>(field("open_id"))?.filter(|user| user.status == UserStatus::Active);
                let user = user.ok_or_else(|| denied(20_008, "Choose a person.", "请选择用户。"))?;
                Ok(request.approve(tx, &user.open_id)?)
            })
        })
        .await;
    match decided {
        Ok(location) => match HeaderValue::from_str(&location) {
            Ok(location) => (StatusCode::FOUND, [(header::LOCATION, location)]).into_response(),
            Err(_) => {
                denied_page(language, denied(20_029, "The redirect_uri is not a URL.", "redirect_uri 不是有效的 URL。"))
            }
        },
        Err(denied) => denied_page(language, denied),
    }
}

impl Sandbox {
    /// Decides as `open_id` on an authorize address, and returns where the page would redirect to.
    ///
    /// # Errors
    /// [`SandboxError`] if the page would show an error instead, or nobody active has that `open_id`.
    pub async fn authorize(&self, consent: Consent) -> Result<String, SandboxError> {
        let Ok(url) = Url::parse(&consent.url) else {
            return Err(SandboxError::invalid("url", "must be the whole address of the authorize page"));
        };
        self.blocking(move |sandbox| {
            sandbox.store().transact(|tx| {
                let request = Request::check(tx, url.query().unwrap_or_default()).map_err(|denied| match denied {
                    Denied::Page { code, en, .. } => SandboxError::refused("authorize_page", &format!("{code}: {en}")),
                    Denied::Store(error) => error.into(),
                })?;
                if !consent.approve {
                    return Ok(request.deny());
                }
                let user = tx.get::<User>(&consent.open_id)?.filter(|user| user.status == UserStatus::Active);
                let user = user.ok_or_else(|| SandboxError::missing("user", &consent.open_id))?;
                Ok(request.approve(tx, &user.open_id)?)
            })
        })
        .await
    }
}

fn consent_page(language: Language, query: &str, request: &Request, users: &[User]) -> Response {
    let app = if request.app.name.is_empty() { &request.app.app_id } else { &request.app.name };
    let title = match language {
        Language::En => format!("{app} asks for access to your account"),
        Language::Zh => format!("{app} 申请访问你的账号"),
    };
    let scopes = if request.scopes.is_empty() {
        format!("<li>{}</li>", language.pick("Your identity", "你的身份信息"))
    } else {
        request.scopes.iter().map(|scope| format!("<li><code>{}</code></li>", escape(scope))).collect()
    };
    let mut people = String::new();
    for (index, user) in users.iter().filter(|user| user.status == UserStatus::Active).enumerate() {
        people.push_str(&format!(
            "<label><input type=\"radio\" name=\"open_id\" value=\"{}\"{}>{} <span class=\"small\">{}</span></label>",
            escape(&user.open_id),
            if index == 0 { " checked" } else { "" },
            escape(&user.name),
            escape(&user.open_id),
        ));
    }
    let body = format!(
        "<form class=\"panel\" method=\"post\" action=\"/open-apis/authen/v1/authorize\"><h1>{}</h1>\
         <p class=\"small\">{}</p><h2>{}</h2><ul>{scopes}</ul><fieldset><legend>{}</legend>{people}</fieldset>\
         <input type=\"hidden\" name=\"query\" value=\"{}\">\
         <p class=\"row\"><button class=\"primary\" name=\"decision\" value=\"approve\">{}</button>\
         <button name=\"decision\" value=\"deny\">{}</button></p><p class=\"small\">{} <code>{}</code></p></form>",
        escape(&title),
        language.pick("Lark sandbox: nothing here leaves this machine.", "Lark 沙箱：数据不会离开本机。"),
        language.pick("It will be able to use:", "应用将获得以下权限："),
        language.pick("Continue as", "以谁的身份继续"),
        escape(query),
        language.pick("Approve", "授权"),
        language.pick("Deny", "拒绝"),
        language.pick("You will return to", "之后将返回"),
        escape(&request.redirect_uri),
    );
    html::page(StatusCode::OK, language, &title, &body)
}

fn denied_page(language: Language, denied: Denied) -> Response {
    let (status, code, message) = match denied {
        Denied::Page { code, en, zh } => {
            (StatusCode::BAD_REQUEST, code, if language == Language::En { en } else { zh })
        }
        Denied::Store(error) => {
            tracing::error!(error = ?error, "The sandbox could not use its state file");
            let message = language.pick("The sandbox could not use its state file.", "沙箱无法读写状态文件。");
            (StatusCode::INTERNAL_SERVER_ERROR, 20_050, message.to_owned())
        }
    };
    let title = language.pick("This authorization request is not valid", "授权请求无效");
    let body = format!(
        "<section class=\"panel\" role=\"alert\"><h1>{title}</h1><p>{}</p><p>{} <strong>{code}</strong></p></section>",
        escape(&message),
        language.pick("Error code", "错误码"),
    );
    html::page(status, language, title, &body)
}
