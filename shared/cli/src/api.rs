//! The HTTP API, as a client calls it: with a token of its own, again when it must, and with the remedy when it cannot.

use std::time::{Duration, Instant};

use clap::Args;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::args::Place;
use crate::fault::CliFault;
use crate::stack::{Stack, running};

/// How often a call is made that the API could not answer, and how long is waited before it is made again.
const TRIES: u32 = 5;

/// Whoever is told to come back later than this is not waited with.
const LONGEST_WAIT_SECS: u64 = 120;

/// A token is replaced so long before it expires.
const MARGIN: Duration = Duration::from_secs(30);

/// Who calls. A local bundle brings a client of its own.
#[derive(Debug, Clone, Args)]
pub(crate) struct Credentials {
    /// Client of the API (`skylark client add`); a local bundle's own if not given.
    #[arg(long, env = "SKYLARK_CLIENT_ID", requires = "client_secret")]
    client_id: Option<String>,
    /// Its secret; better in the environment than on the command line.
    #[arg(long, env = "SKYLARK_CLIENT_SECRET", hide_env_values = true, requires = "client_id")]
    client_secret: Option<String>,
    /// Base URL of the API, for those who only call it.
    #[arg(long, env = "SKYLARK_URL", requires = "client_id")]
    url: Option<String>,
}

struct Token {
    text: String,
    good_until: Instant,
}

/// The API of one bundle.
pub(crate) struct Api {
    pub(crate) http: Client,
    pub(crate) base: String,
    client: (String, String),
    scope: &'static str,
    token: Mutex<Option<Token>>,
}

impl Api {
    pub(crate) async fn of(place: &Place, credentials: &Credentials, scope: &'static str) -> Result<Self, CliFault> {
        let given = credentials.client_id.clone().zip(credentials.client_secret.clone());
        let (base, client) = match (&credentials.url, given) {
            (Some(url), Some(client)) => (url.trim_end_matches('/').to_owned(), client),
            (_, Some(client)) => (Stack::find(place).await?.public_url, client),
            (_, None) => {
                if place.stack.is_some() {
                    return Err(CliFault::Argument(
                        "a deployed stack needs --client-id and --client-secret".to_owned(),
                    ));
                }
                let settings = running(place)?;
                let client = settings.clients.into_iter().next();
                let client = client.ok_or_else(|| CliFault::Argument("the local bundle has no client".to_owned()))?;
                (settings.http, (client.client_id, client.client_secret))
            }
        };
        Self::with(base, client, scope)
    }

    /// The API at this URL, for the client with this id and secret.
    pub(crate) fn with(base: String, client: (String, String), scope: &'static str) -> Result<Self, CliFault> {
        let http = Client::builder().connect_timeout(Duration::from_secs(10)).read_timeout(Duration::from_secs(60));
        let http = http.build().map_err(|cause| CliFault::storage("no HTTP client", cause))?;
        Ok(Self { http, base, client, scope, token: Mutex::default() })
    }

    /// Makes a call until it is answered: throttled, unavailable and unheard ones are made again. A refusal is an error in the API's words,
    /// but for those with a status in `expected`.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        expected: &[StatusCode],
    ) -> Result<(StatusCode, Value), CliFault> {
        let mut pause = Duration::from_millis(300);
        for attempt in 1.. {
            let outcome = self.attempt(method.clone(), path, body).await;
            // Those who met must not meet again.
            let some_of_it = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            let wait = match &outcome {
                Ok((StatusCode::UNAUTHORIZED, ..)) if attempt < TRIES => {
                    *self.token.lock().await = None;
                    Duration::ZERO
                }
                Ok((StatusCode::TOO_MANY_REQUESTS, _, Some(secs))) if attempt < TRIES && *secs <= LONGEST_WAIT_SECS => {
                    Duration::from_secs(*secs)
                }
                Ok((status, ..)) if attempt < TRIES && status.is_server_error() => some_of_it,
                Err(CliFault::Storage { .. }) if attempt < TRIES => some_of_it,
                _ => {
                    let (status, answer, _) = outcome?;
                    if status.is_success() || expected.contains(&status) {
                        return Ok((status, answer));
                    }
                    return Err(refusal(status, &answer));
                }
            };
            tokio::time::sleep(wait).await;
            pause *= 2;
        }
        Err(CliFault::Failed("the API was not asked".to_owned()))
    }

    async fn attempt(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value, Option<u64>), CliFault> {
        let token = self.token().await?;
        let request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(token);
        let request = if let Some(body) = body { request.json(body) } else { request };
        let answer = request.send().await.map_err(|cause| CliFault::storage("the API does not answer", cause))?;
        let status = answer.status();
        let retry_after = retry_after(&answer);
        Ok((status, answer.json().await.unwrap_or(Value::Null), retry_after))
    }

    /// A token that is good for a while.
    async fn token(&self) -> Result<String, CliFault> {
        let mut token = self.token.lock().await;
        if let Some(token) = token.as_ref().filter(|token| Instant::now() < token.good_until) {
            return Ok(token.text.clone());
        }
        let (client_id, client_secret) = &self.client;
        let body = json!({
            "grant_type": "client_credentials", "client_id": client_id, "client_secret": client_secret, "scope": self.scope,
        });
        let url = format!("{}/auth/token", self.base);
        let unheard = |cause| CliFault::storage("the API does not answer", cause);
        let mut answer = self.http.post(&url).json(&body).send().await.map_err(unheard)?;
        for _ in 1..TRIES {
            // A user gets a few tokens a minute.
            let Some(wait) = (answer.status() == StatusCode::TOO_MANY_REQUESTS).then(|| retry_after(&answer)).flatten()
            else {
                break;
            };
            tokio::time::sleep(Duration::from_secs(wait.min(LONGEST_WAIT_SECS))).await;
            answer = self.http.post(&url).json(&body).send().await.map_err(unheard)?;
        }
        let status = answer.status();
        let answer: Value = answer.json().await.unwrap_or(Value::Null);
        let (Some(text), Some(secs)) = (at(&answer, "access_token").as_str(), at(&answer, "expires_in").as_u64())
        else {
            if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
                return Err(CliFault::storage("no token was given", format!("{status}: {answer}")));
            }
            let problem =
                at(&answer, "error_description").as_str().or(at(&answer, "error").as_str()).unwrap_or(status.as_str());
            return Err(CliFault::Argument(format!("the client gets no token: {problem}")));
        };
        let good_until = Instant::now() + Duration::from_secs(secs).saturating_sub(MARGIN);
        *token = Some(Token { text: text.to_owned(), good_until });
        Ok(text.to_owned())
    }
}

/// A field of an answer; null if it is not there.
pub(crate) fn at<'v>(value: &'v Value, name: &str) -> &'v Value {
    value.get(name).unwrap_or(&Value::Null)
}

fn retry_after(answer: &Response) -> Option<u64> {
    answer.headers().get("retry-after")?.to_str().ok()?.parse().ok()
}

fn refusal(status: StatusCode, answer: &Value) -> CliFault {
    let message = at(answer, "message").as_str().unwrap_or("no reason was given");
    let fields = at(at(answer, "details"), "fields").as_object().into_iter().flatten();
    let fields: Vec<String> =
        fields.map(|(name, why)| format!("{name} {}", why.as_str().unwrap_or_default())).collect();
    let fields = if fields.is_empty() { String::new() } else { format!(" ({})", fields.join("; ")) };
    let text = format!("{message}{fields}");
    match status.as_u16() {
        401 | 403 => CliFault::Permission { context: text, cause: status.to_string().into() },
        429 | 500.. => CliFault::storage(text, status.to_string()),
        _ => CliFault::Argument(text),
    }
}
