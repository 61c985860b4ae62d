//! Calls to the Open Platform: one envelope, one retry policy, one error. Bodies, tokens and codes are never logged.

use std::hash::BuildHasher as _;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

pub use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};
use url::Url;

pub use self::application::{Application, AuthorizePage, BotInfo, GrantedScope, Subscription};
pub use self::auth::{CodeExchange, TenantToken, UserInfo, UserTokens};
pub use self::contact::DirectoryUser;
pub use self::error::{ApiError, FieldViolation, Refusal};
pub use self::messages::{OutgoingMessage, Receiver, SentMessage};
use crate::code::{Class, Token, classify, of_status};

mod application;
mod auth;
mod contact;
mod error;
mod messages;

const MAX_RETRIES: u32 = 3;

/// Connections older than this may have died while the function was frozen.
const IDLE_CONNECTION: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The brand's host, such as `https://open.feishu.cn`, or a stand-in for it.
    pub open_base: Url,
    pub connect_timeout: Duration,
    /// For one attempt, from connecting to the last byte.
    pub timeout: Duration,
    /// Wait before the first retry, doubled before each further one, plus up to a quarter at random.
    pub backoff: Duration,
}

impl ClientConfig {
    /// 2 s to connect, 10 s for an attempt, retries after 1 s, 2 s and 4 s.
    #[must_use]
    pub fn new(open_base: Url) -> Self {
        Self {
            open_base,
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(10),
            backoff: Duration::from_secs(1),
        }
    }
}

/// Whether sending a request twice does no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It changes nothing, or carries an idempotency key: retried when throttled, failed or unanswered.
    Safe,
    /// Never retried here; the caller knows what a lost answer means.
    Once,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    method: Method,
    path: &'a str,
    deadline: Instant,
    repeat: Repeat,
    /// For one attempt, if not the client's own.
    timeout: Option<Duration>,
    token: Option<&'a SecretString>,
    query: &'a [(&'a str, &'a str)],
    body: Option<&'a Value>,
}

impl<'a> Call<'a> {
    /// `path` begins with `/open-apis/` and is percent-encoded. Waits and attempts end by `deadline`. GET is [`Repeat::Safe`], all else
    /// [`Repeat::Once`] until said otherwise.
    #[must_use]
    pub fn new(method: Method, path: &'a str, deadline: Instant) -> Self {
        let repeat = if method == Method::GET { Repeat::Safe } else { Repeat::Once };
        Self { method, path, deadline, repeat, timeout: None, token: None, query: &[], body: None }
    }

    #[must_use]
    pub fn repeat(mut self, repeat: Repeat) -> Self {
        self.repeat = repeat;
        self
    }

    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    #[must_use]
    pub fn token(mut self, token: &'a SecretString) -> Self {
        self.token = Some(token);
        self
    }

    #[must_use]
    pub fn query(mut self, query: &'a [(&'a str, &'a str)]) -> Self {
        self.query = query;
        self
    }

    #[must_use]
    pub fn body(mut self, body: &'a Value) -> Self {
        self.body = Some(body);
        self
    }
}

/// A successful answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The field `data`; for the calls that answer flat, all fields but `code` and `msg`.
    pub data: Value,
    /// The vendor's support asks for it.
    pub log_id: Option<String>,
}

/// Calls one brand's Open Platform. Cheap to make and to clone; connections open with the first call and are shared by clones.
#[derive(Debug, Clone)]
pub struct Client {
    config: ClientConfig,
    http: Arc<OnceLock<reqwest::Client>>,
}

impl Client {
    #[must_use]
    pub fn new(config: ClientConfig) -> Self {
        Self { config, http: Arc::default() }
    }

    /// The same connections and timeouts for another host: an app of the other brand.
    #[must_use]
    pub fn at(&self, open_base: Url) -> Self {
        Self { config: ClientConfig { open_base, ..self.config.clone() }, http: Arc::clone(&self.http) }
    }

    /// Sends a request and reads the envelope, whatever the HTTP status.
    ///
    /// Retries at most 3 times what [`Repeat`] allows, waiting what the answer says, else the backoff. Where a wait would pass the
    /// deadline the error is returned at once; [`ApiError::retry_after`] then says how long to wait.
    ///
    /// # Errors
    /// [`ApiError::class`] says what to do about it.
    pub async fn call(&self, call: Call<'_>) -> Result<Answer, ApiError> {
        let url = self.url(call.path)?;
        let authorization = call.token.map(bearer).transpose()?;
        let mut attempt = 0;
        loop {
            let error = match self.attempt(&call, &url, authorization.as_ref()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let wait = self.wait(&error, attempt);
            if call.repeat == Repeat::Once
                || attempt == MAX_RETRIES
                || !error.retryable()
                || Instant::now() + wait >= call.deadline
            {
                return Err(error);
            }
            tracing::warn!(
                lark.method = %call.method,
                lark.code = error.code(),
                lark.log_id = error.log_id(),
                wait_ms = wait.as_millis(),
                "Lark is called again: {error}"
            );
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    /// Jitter keeps workers that were throttled together from coming back together. It need not be secret.
    fn wait(&self, error: &ApiError, attempt: u32) -> Duration {
        let jitter = std::hash::RandomState::new().hash_one(attempt) % 1000;
        let base = error.retry_after().unwrap_or(self.config.backoff * 2_u32.pow(attempt));
        base + self.config.backoff / 4 * u32::try_from(jitter).unwrap_or_default() / 1000
    }

    async fn attempt(
        &self,
        call: &Call<'_>,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, ApiError> {
        let remaining = call.deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(ApiError::Timeout);
        }
        let mut request = self
            .http()?
            .request(call.method.clone(), url.clone())
            .timeout(call.timeout.unwrap_or(self.config.timeout).min(remaining))
            .query(call.query);
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(body) = call.body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(ApiError::transport)?;
        let status = response.status().as_u16();
        let log_id = header(response.headers(), "x-tt-logid").or_else(|| header(response.headers(), "x-request-id"));
        let retry_after = ["x-ogw-ratelimit-reset", "retry-after"]
            .into_iter()
            .find_map(|name| header(response.headers(), name)?.parse().ok())
            .map(Duration::from_secs);
        let body = response.bytes().await.map_err(ApiError::transport)?;
        read(status, log_id, retry_after, &body, call.token)
    }

    /// Built with the first call: it loads the trust store, which a function that only receives never needs.
    fn http(&self) -> Result<&reqwest::Client, ApiError> {
        if let Some(http) = self.http.get() {
            return Ok(http);
        }
        let http = reqwest::Client::builder()
            .connect_timeout(self.config.connect_timeout)
            .pool_idle_timeout(IDLE_CONNECTION)
            .redirect(Policy::none())
            .user_agent(concat!("skylark/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(ApiError::Setup)?;
        Ok(self.http.get_or_init(|| http))
    }

    /// The path stays below the base whatever it holds: a token must not leave for another host or another kind of path.
    fn url(&self, path: &str) -> Result<Url, ApiError> {
        const ROOT: &str = "/open-apis/";
        let invalid = ApiError::Input { field: "path", problem: "is not a plain path below `/open-apis/`" };
        if !path.starts_with(ROOT) || path.contains(['?', '#', '\\']) {
            return Err(invalid);
        }
        let mut url = self.config.open_base.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}{path}"));
        let below = url.path().strip_prefix(prefix.as_str()).is_some_and(|path| path.starts_with(ROOT));
        if below { Ok(url) } else { Err(invalid) }
    }
}

fn bearer(token: &SecretString) -> Result<HeaderValue, ApiError> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))
        .map_err(|_| ApiError::Input { field: "token", problem: "holds characters no token has" })?;
    value.set_sensitive(true);
    Ok(value)
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.trim().to_owned())
}

/// An answer counts by the code in its body, not by its status; only an answer without a code counts by its status.
fn read(
    status: u16,
    log_id: Option<String>,
    retry_after: Option<Duration>,
    body: &[u8],
    token: Option<&SecretString>,
) -> Result<Answer, ApiError> {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(body) else {
        return Err(ApiError::NotJson { status, log_id, retry_after });
    };
    let code = code(&fields);
    let oauth_error = fields.get("error").and_then(Value::as_str);
    let succeeded = match code {
        Code::Absent => (200..300).contains(&status),
        Code::Number(code) => code == 0,
        Code::Unreadable => false,
    };
    if succeeded && oauth_error.is_none_or(str::is_empty) {
        fields.remove("code");
        fields.remove("msg");
        let data = match fields.remove("data") {
            Some(Value::Null) => Value::Object(Map::new()),
            Some(data) => data,
            None => Value::Object(fields),
        };
        return Ok(Answer { data, log_id });
    }

    let number = if let Code::Number(code) = code { Some(code) } else { None };
    let class = match (number, oauth_error) {
        (None | Some(0), Some(error)) => of_oauth_error(error, status),
        (None | Some(0), None) => of_status(status),
        (Some(code), _) => classify(code, status),
    };
    let class = match class {
        // By the status alone; which token it was is known here.
        Class::TokenInvalid(_) if !number.is_some_and(crate::code::is_known) => token.map_or(Class::Bug, token_class),
        class => class,
    };
    Err(ApiError::Refused(Box::new(Refusal::new(&fields, status, number, class, log_id, retry_after))))
}

fn token_class(token: &SecretString) -> Class {
    Class::TokenInvalid(match token.expose_secret().get(..2) {
        Some("t-") => Token::Tenant,
        Some("a-") => Token::App,
        _ => Token::User,
    })
}

/// The list in `field`; entries of a shape that nobody documented are left out.
fn lenient<T: serde::de::DeserializeOwned>(answer: &Answer, field: &str) -> Vec<T> {
    let items = answer.data.get(field).and_then(Value::as_array);
    items.into_iter().flatten().filter_map(|item| T::deserialize(item).ok()).collect()
}

/// The names of RFC 6749, for answers without a code of the vendor's.
fn of_oauth_error(error: &str, status: u16) -> Class {
    match error {
        "invalid_grant" => Class::Reauthorize,
        "server_error" | "temporarily_unavailable" => Class::Transient,
        "invalid_client" | "unauthorized_client" => Class::Config,
        "invalid_request" | "invalid_scope" | "unsupported_grant_type" => Class::Bug,
        _ => of_status(status),
    }
}

enum Code {
    Absent,
    Number(i64),
    Unreadable,
}

/// The OAuth endpoints send the code as text, and now and then none at all.
fn code(fields: &Map<String, Value>) -> Code {
    match fields.get("code") {
        None | Some(Value::Null) => Code::Absent,
        Some(Value::String(text)) if text.is_empty() => Code::Absent,
        Some(Value::String(text)) => text.parse().map_or(Code::Unreadable, Code::Number),
        Some(number) => number.as_i64().map_or(Code::Unreadable, Code::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(base: &str) -> Client {
        Client::new(ClientConfig::new(base.parse().unwrap()))
    }

    #[test]
    fn a_path_cannot_leave_the_api_or_the_host() {
        for path in [
            "",
            "open-apis/x",
            "/open-apis",
            "/other",
            "//evil.example/open-apis/",
            "/open-apis/../admin",
            "/open-apis/%2e%2E/admin",
            "/open-apis/a/../../b",
            "/open-apis/x?y=1",
            "/open-apis/x#y",
            "/open-apis\\..\\x",
            "https://evil.example/open-apis/x",
        ] {
            assert!(client("https://open.feishu.cn").url(path).is_err(), "{path}");
            assert!(client("https://proxy.example/lark/").url(path).is_err(), "{path}");
        }
        for (base, url) in [
            ("https://open.feishu.cn", "https://open.feishu.cn/open-apis/im/v1/messages/a%2Fb"),
            ("https://proxy.example/lark/", "https://proxy.example/lark/open-apis/im/v1/messages/a%2Fb"),
        ] {
            assert_eq!(client(base).url("/open-apis/im/v1/messages/a%2Fb").unwrap().as_str(), url);
        }
    }

    #[test]
    fn waits_double_and_the_answers_own_wait_comes_first() {
        let client = client("https://open.feishu.cn");
        for (attempt, seconds) in [(0, 1), (1, 2), (2, 4)] {
            let wait = client.wait(&ApiError::Timeout, attempt);
            let least = Duration::from_secs(seconds);
            assert!(wait >= least && wait <= least + Duration::from_millis(250), "{attempt}: {wait:?}");
        }
        let told = ApiError::NotJson { status: 429, log_id: None, retry_after: Some(Duration::from_secs(52)) };
        assert!(client.wait(&told, 2) >= Duration::from_secs(52));
        assert!(client.wait(&told, 2) < Duration::from_secs(53));
    }

    #[test]
    fn a_token_is_not_shown_by_debug() {
        let token = SecretString::from("u-secret");
        let call = Call::new(Method::GET, "/open-apis/x", Instant::now()).token(&token);
        assert!(!format!("{call:?} {:?}", bearer(&token)).contains("u-secret"));
    }
}
