//! What the vendor tells of an app: its bot, what it was granted, its console's settings, what the authorize page says to it.

use std::time::Instant;

use reqwest::Method;
use reqwest::header::LOCATION;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::auth::lacks;
use super::{ApiError, Call, Client, Repeat, header};
use crate::oauth;

/// No more of a page is read than this; what it says of an error comes early.
const MAX_PAGE_BYTES: usize = 512 * 1024;

/// An app's bot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BotInfo {
    pub open_id: Option<String>,
    pub app_name: Option<String>,
    /// 2 is active; 0 waits to be installed, 1 was stopped, 3 and 4 wait to be enabled, 5 and 6 are a licence or plan that ran out.
    pub activate_status: Option<i64>,
}

/// A scope that an app asked its tenant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantedScope {
    pub name: String,
    pub granted: bool,
}

/// An app's settings in the console.
#[derive(Debug, Clone, Default)]
pub struct Application {
    /// `None` when the vendor does not tell them.
    pub redirect_urls: Option<Vec<String>>,
    /// Where events go.
    pub event: Option<Subscription>,
    /// Where card clicks go.
    pub callback: Option<Subscription>,
    /// Whether the two below were told at all.
    pub encryption_told: bool,
    /// `None` when the console has none.
    pub encrypt_key: Option<SecretString>,
    pub verification_token: Option<SecretString>,
}

/// How pushes of one kind reach the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// `webhook` for requests to [`Subscription::request_url`], `websocket` for the long connection.
    pub kind: Option<String>,
    pub request_url: Option<String>,
}

/// What the authorize page answers to somebody who is not signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizePage {
    pub status: u16,
    /// The vendor's code, where the page or its redirect names one.
    pub code: Option<i64>,
}

impl Client {
    /// Has a store app's ticket pushed again, which also proves its credentials.
    ///
    /// # Errors
    /// See [`Client::call`]; wrong credentials are [`crate::code::Class::Config`].
    pub async fn resend_app_ticket(
        &self,
        app_id: &str,
        app_secret: &SecretString,
        deadline: Instant,
    ) -> Result<(), ApiError> {
        const PATH: &str = "/open-apis/auth/v3/app_ticket/resend";
        let body = json!({ "app_id": app_id, "app_secret": app_secret.expose_secret() });
        self.call(Call::new(Method::POST, PATH, deadline).repeat(Repeat::Safe).body(&body)).await?;
        Ok(())
    }

    /// The app's bot; code 11205 if the app has none.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub async fn bot_info(&self, tenant_token: &SecretString, deadline: Instant) -> Result<BotInfo, ApiError> {
        let call = Call::new(Method::GET, "/open-apis/bot/v3/info", deadline).token(tenant_token);
        let answer = self.call(call).await?;
        let bot = answer.data.get("bot").filter(|bot| bot.is_object()).ok_or_else(|| lacks(&answer, "bot"))?;
        Ok(BotInfo {
            open_id: filled(bot, "open_id"),
            app_name: filled(bot, "app_name"),
            activate_status: number(bot, "activate_status"),
        })
    }

    /// What the app asked for, each name once: granted if it was granted for the app or for people.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub async fn granted_scopes(
        &self,
        tenant_token: &SecretString,
        deadline: Instant,
    ) -> Result<Vec<GrantedScope>, ApiError> {
        let call = Call::new(Method::GET, "/open-apis/application/v6/scopes", deadline).token(tenant_token);
        let answer = self.call(call).await?;
        let told = answer.data.get("scopes").and_then(Value::as_array).ok_or_else(|| lacks(&answer, "scopes"))?;
        let mut scopes: Vec<GrantedScope> = Vec::with_capacity(told.len());
        for scope in told {
            let Some(name) = filled(scope, "scope_name") else { continue };
            let granted = number(scope, "grant_status") == Some(1);
            match scopes.iter_mut().find(|known| known.name == name) {
                Some(known) => known.granted |= granted,
                None => scopes.push(GrantedScope { name, granted }),
            }
        }
        Ok(scopes)
    }

    /// The app's settings. Needs the scope `application:application:self_manage`; without it, code 99991672.
    ///
    /// # Errors
    /// See [`Client::call`].
    pub async fn application(
        &self,
        tenant_token: &SecretString,
        app_id: &str,
        deadline: Instant,
    ) -> Result<Application, ApiError> {
        let path = format!("/open-apis/application/v6/applications/{app_id}");
        let call = Call::new(Method::GET, &path, deadline).token(tenant_token).query(&[("lang", "en_us")]);
        let answer = self.call(call).await?;
        let app = answer.data.get("app").filter(|app| app.is_object()).ok_or_else(|| lacks(&answer, "app"))?;
        let encryption = app.get("encryption").filter(|encryption| encryption.is_object());
        let secret = |name: &str| encryption.and_then(|told| filled(told, name)).map(SecretString::from);
        Ok(Application {
            redirect_urls: app.get("redirect_urls").and_then(Value::as_array).map(|urls| strings(urls)),
            event: subscription(app, &["event"], "subscription_type"),
            callback: subscription(app, &["callback", "callback_info"], "callback_type"),
            encryption_told: encryption.is_some(),
            encrypt_key: secret("encryption_key"),
            verification_token: secret("verification_token"),
        })
    }

    /// Asks for the authorize page as a browser would that nobody is signed in to, and follows no redirect. The client must be
    /// [`Client::at`] the host of the accounts.
    ///
    /// # Errors
    /// [`ApiError::Timeout`] or [`ApiError::Unreachable`]; whatever the page answers is an answer.
    pub async fn authorize_page(
        &self,
        client_id: &str,
        redirect_uri: &str,
        state: &str,
        deadline: Instant,
    ) -> Result<AuthorizePage, ApiError> {
        let url = self.url(oauth::AUTHORIZE_PATH)?;
        let query =
            [("client_id", client_id), ("redirect_uri", redirect_uri), ("response_type", "code"), ("state", state)];
        let left = deadline.saturating_duration_since(Instant::now());
        let request = self.http()?.get(url).query(&query).timeout(self.config.timeout.min(left));
        let mut response = request.send().await.map_err(ApiError::transport)?;
        let status = response.status().as_u16();
        let location = header(response.headers(), LOCATION.as_str());
        let mut page = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(ApiError::transport)? {
            page.extend_from_slice(&chunk);
            if page.len() > MAX_PAGE_BYTES {
                break;
            }
        }
        let code = oauth::page_error(location.as_deref(), &String::from_utf8_lossy(&page));
        Ok(AuthorizePage { status, code })
    }
}

/// A text that says something: not empty, and not blotted out with asterisks.
fn filled(object: &Value, field: &str) -> Option<String> {
    let text = object.get(field).and_then(Value::as_str)?;
    (!text.trim_matches('*').is_empty()).then(|| text.to_owned())
}

fn number(object: &Value, field: &str) -> Option<i64> {
    match object.get(field)? {
        Value::String(digits) => digits.parse().ok(),
        number => number.as_i64(),
    }
}

fn strings(values: &[Value]) -> Vec<String> {
    values.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn subscription(app: &Value, names: &[&str], kind: &str) -> Option<Subscription> {
    let told = names.iter().find_map(|name| app.get(name)).filter(|told| told.is_object())?;
    Some(Subscription { kind: filled(told, kind), request_url: filled(told, "request_url") })
}
