//! Requests from the platform to an app: encrypted and signed as the app's console settings say.

use std::time::{Duration, Instant};

use bytes::Bytes;
use lark::signature;
use reqwest::header::{CONTENT_TYPE, LOCATION};
use serde_json::{Value, json};

use crate::clock::{SECOND, random_bytes, random_hex};
use crate::model::App;

/// The platform waits this long for an answer to an event or a card click.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// The platform waits this long for the challenge.
const CHALLENGE_LIMIT: Duration = Duration::from_secs(1);

/// An answer larger than this is of no use to the platform.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// One request, ready to be sent.
#[derive(Debug)]
pub(crate) struct Push {
    body: String,
    headers: Vec<(&'static str, String)>,
}

impl Push {
    /// An event or a new card callback: encrypted and signed if the app has an Encrypt Key, plain if not.
    pub(crate) fn event(app: &App, now: i64, payload: &Value) -> Self {
        let mut push = Self::encrypted(app, payload);
        if let Some(key) = app.encrypt_key() {
            push.sign(now, |timestamp, nonce, body| signature::sha256_hex(timestamp, nonce, key, body));
        }
        push
    }

    /// An old card callback: never encrypted, signed with the verification token.
    pub(crate) fn old_card(app: &App, now: i64, payload: &Value, refresh_token: String) -> Self {
        let mut push = Self { body: payload.to_string(), headers: vec![("X-Refresh-Token", refresh_token)] };
        let token = &app.verification_token;
        push.sign(now, |timestamp, nonce, body| signature::sha1_hex(timestamp, nonce, token, body));
        push
    }

    fn encrypted(app: &App, payload: &Value) -> Self {
        let plain = payload.to_string();
        let body = match app.encrypt_key() {
            Some(key) => json!({ "encrypt": signature::encrypt(key, random_bytes(), plain.as_bytes()) }).to_string(),
            None => plain,
        };
        Self { body, headers: Vec::new() }
    }

    fn sign(&mut self, now: i64, signature: impl Fn(&str, &str, &[u8]) -> String) {
        let timestamp = (now / SECOND).to_string();
        let nonce = random_hex::<8>();
        let signature = signature(&timestamp, &nonce, self.body.as_bytes());
        self.headers.extend([
            ("X-Lark-Request-Timestamp", timestamp),
            ("X-Lark-Request-Nonce", nonce),
            ("X-Lark-Signature", signature),
        ]);
    }
}

/// What came back, whatever the status.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
    /// Where a redirect points; the platform does not follow it.
    pub(crate) location: Option<String>,
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("the callback URL could not be reached: {0}")]
    Unreachable(String),
    #[error("the answer broke off or is larger than {MAX_ANSWER_BYTES} bytes")]
    Broken,
}

/// Sends once, follows no redirect, and measures the time to the last byte.
pub(crate) async fn send(
    client: &reqwest::Client,
    url: &str,
    push: Push,
    limit: Duration,
) -> (Result<Answered, PushError>, Duration) {
    let started = Instant::now();
    let answered = tokio::time::timeout(limit, exchange(client, url, push)).await;
    (answered.unwrap_or(Err(PushError::Timeout(limit))), started.elapsed())
}

async fn exchange(client: &reqwest::Client, url: &str, push: Push) -> Result<Answered, PushError> {
    let mut request = client
        .post(url)
        .header(CONTENT_TYPE, "application/json;charset=utf-8")
        .header("X-Request-Id", random_hex::<16>())
        .body(push.body);
    for (name, value) in push.headers {
        request = request.header(name, value);
    }
    let mut response = request.send().await.map_err(|error| PushError::Unreachable(innermost(&error)))?;
    let status = response.status().as_u16();
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|_| PushError::Broken)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER_BYTES {
            return Err(PushError::Broken);
        }
    }
    Ok(Answered { status, body: body.into(), location })
}

/// The last cause names the socket error, the first only the URL.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The console's check of a callback URL: the challenge has to come back within a second.
pub(crate) async fn verify_url(client: &reqwest::Client, app: &App, url: &str) -> Result<(), String> {
    let challenge = random_hex::<16>();
    let payload = json!({ "challenge": challenge, "token": app.verification_token, "type": "url_verification" });
    let (answered, _) = send(client, url, Push::encrypted(app, &payload), CHALLENGE_LIMIT).await;
    let answered = answered.map_err(|error| error.to_string())?;
    if answered.status != 200 {
        return Err(format!("the callback URL answered HTTP {} to the challenge, 200 is needed", answered.status));
    }
    match serde_json::from_slice::<Value>(&answered.body) {
        Ok(body) if body.get("challenge").and_then(Value::as_str) == Some(&challenge) => Ok(()),
        Ok(_) => Err("the answer does not repeat the challenge in `challenge`".to_owned()),
        Err(_) => Err("the answer to the challenge is not JSON".to_owned()),
    }
}
