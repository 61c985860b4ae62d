//! The vendor's HTTP API: one table of endpoints, and the rules every call passes before its handler runs.

mod application;
pub(crate) mod auth;
mod contact;
pub(crate) mod im;
pub(crate) mod oauth;

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::Sandbox;
use crate::clock::{happens, log_id, rfc3339};
use crate::limiter::{Exhausted, Limiter, Quota};
use crate::model::{App, Fault, FaultKind, TokenKind};
use crate::store::{Call, StoreError, Tx};

/// Larger request bodies are refused before they are read.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// How long a `timeout` fault keeps a caller waiting who does not hang up.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// 1,000 a minute and 50 a second: the tier of every endpoint here, per app.
const TIER_4: Quota = Quota { per_second: Some(50), per_minute: Some(1_000) };

type Handler = fn(&Tx<'_>, &VendorCall<'_>) -> Result<Value, Failure>;

/// How an endpoint words its refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errors {
    /// The envelope, mostly with HTTP 400.
    Envelope,
    /// The envelope with HTTP 200: token endpoints and user info.
    EnvelopeAs200,
    /// RFC 6749, flat.
    OAuth,
}

struct Endpoint {
    method: &'static str,
    path: &'static str,
    /// Empty: the caller proves itself in the body.
    tokens: &'static [TokenKind],
    /// A user token needs one of these; empty: any user token will do.
    user_scopes: &'static [&'static str],
    errors: Errors,
    /// Rate limiting comes as 429, on some older endpoints as 400.
    throttled: StatusCode,
    handler: Handler,
}

const TENANT: &[TokenKind] = &[TokenKind::Tenant];
const USER: &[TokenKind] = &[TokenKind::User];
const TENANT_OR_USER: &[TokenKind] = &[TokenKind::Tenant, TokenKind::User];
const MESSAGE_SCOPES: &[&str] = &["im:message", "im:message:readonly", "im:message:send_as_bot"];
const CONTACT_SCOPES: &[&str] = &[
    "contact:user.base:readonly",
    "contact:user.basic_profile:readonly",
    "contact:contact.base:readonly",
    "contact:contact:readonly",
];

const fn endpoint(method: &'static str, path: &'static str, handler: Handler) -> Endpoint {
    Endpoint {
        method,
        path,
        tokens: &[],
        user_scopes: &[],
        errors: Errors::Envelope,
        throttled: StatusCode::TOO_MANY_REQUESTS,
        handler,
    }
}

static ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        errors: Errors::EnvelopeAs200,
        ..endpoint("POST", "/open-apis/auth/v3/tenant_access_token/internal", auth::tenant_internal)
    },
    Endpoint {
        errors: Errors::EnvelopeAs200,
        ..endpoint("POST", "/open-apis/auth/v3/app_access_token/internal", auth::app_internal)
    },
    Endpoint {
        errors: Errors::EnvelopeAs200,
        ..endpoint("POST", "/open-apis/auth/v3/app_access_token", auth::app_of_store_app)
    },
    Endpoint {
        errors: Errors::EnvelopeAs200,
        ..endpoint("POST", "/open-apis/auth/v3/tenant_access_token", auth::tenant_of_store_app)
    },
    Endpoint {
        errors: Errors::EnvelopeAs200,
        ..endpoint("POST", "/open-apis/auth/v3/app_ticket/resend", auth::resend_ticket)
    },
    Endpoint { errors: Errors::OAuth, ..endpoint("POST", "/open-apis/authen/v2/oauth/token", oauth::token) },
    Endpoint {
        errors: Errors::EnvelopeAs200,
        tokens: USER,
        ..endpoint("GET", "/open-apis/authen/v1/user_info", contact::user_info)
    },
    Endpoint { tokens: TENANT, ..endpoint("GET", "/open-apis/bot/v3/info", application::bot) },
    Endpoint { tokens: TENANT, ..endpoint("GET", "/open-apis/application/v6/scopes", application::scopes) },
    Endpoint {
        tokens: TENANT,
        ..endpoint("GET", "/open-apis/application/v6/applications/:app_id", application::settings)
    },
    Endpoint {
        tokens: TENANT_OR_USER,
        user_scopes: MESSAGE_SCOPES,
        ..endpoint("POST", "/open-apis/im/v1/messages", im::send)
    },
    Endpoint {
        tokens: TENANT_OR_USER,
        user_scopes: MESSAGE_SCOPES,
        ..endpoint("POST", "/open-apis/im/v1/messages/:message_id/reply", im::reply)
    },
    Endpoint {
        tokens: TENANT_OR_USER,
        user_scopes: MESSAGE_SCOPES,
        ..endpoint("GET", "/open-apis/im/v1/messages/:message_id", im::get)
    },
    Endpoint { tokens: TENANT, ..endpoint("PUT", "/open-apis/im/v1/messages/:message_id", im::edit) },
    Endpoint {
        tokens: TENANT_OR_USER,
        user_scopes: MESSAGE_SCOPES,
        ..endpoint("PATCH", "/open-apis/im/v1/messages/:message_id", im::patch_card)
    },
    Endpoint {
        tokens: TENANT_OR_USER,
        user_scopes: MESSAGE_SCOPES,
        ..endpoint("DELETE", "/open-apis/im/v1/messages/:message_id", im::recall)
    },
    Endpoint {
        tokens: TENANT,
        throttled: StatusCode::BAD_REQUEST,
        ..endpoint("POST", "/open-apis/interactive/v1/card/update", im::delayed_update)
    },
    Endpoint { tokens: TENANT, ..endpoint("POST", "/open-apis/contact/v3/users/batch_get_id", contact::batch_get_id) },
    Endpoint {
        tokens: TENANT_OR_USER,
        user_scopes: CONTACT_SCOPES,
        ..endpoint("GET", "/open-apis/contact/v3/users/batch", contact::batch)
    },
    Endpoint {
        tokens: TENANT_OR_USER,
        user_scopes: CONTACT_SCOPES,
        ..endpoint("GET", "/open-apis/contact/v3/users/find_by_department", contact::find_by_department)
    },
    Endpoint {
        tokens: TENANT_OR_USER,
        user_scopes: CONTACT_SCOPES,
        ..endpoint("GET", "/open-apis/contact/v3/users/:user_id", contact::user)
    },
];

/// One call, ready for its handler.
pub(crate) struct VendorCall<'r> {
    endpoint: &'static Endpoint,
    param: Option<String>,
    query: Vec<(String, String)>,
    headers: &'r HeaderMap,
    pub(crate) body: &'r [u8],
    caller: Option<Caller>,
    limiter: &'r Mutex<Limiter>,
}

/// Who calls: an app, and the person it acts for if the token is a user's.
pub(crate) struct Caller {
    pub(crate) app: App,
    pub(crate) open_id: Option<String>,
    pub(crate) scopes: Vec<String>,
    kind: TokenKind,
}

impl VendorCall<'_> {
    /// The variable segment of the path.
    pub(crate) fn param(&self) -> &str {
        self.param.as_deref().unwrap_or_default()
    }

    /// Every value of a parameter that may be repeated.
    pub(crate) fn queries<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.query.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as a JSON object.
    pub(crate) fn json(&self) -> Result<Value, Failure> {
        match serde_json::from_slice(self.body) {
            Ok(body @ Value::Object(_)) => Ok(body),
            _ => Err(refuse(9499, "Bad Request: the body is not a JSON object")),
        }
    }

    /// Present on every endpoint that takes a token.
    pub(crate) fn caller(&self) -> Result<&Caller, Failure> {
        self.caller.as_ref().ok_or_else(|| refuse(99_991_661, "Missing access token for authorization."))
    }

    /// Takes one request out of the app's quota for this endpoint.
    pub(crate) fn count_against(&self, tx: &Tx<'_>, app: &App) -> Result<(), Failure> {
        let key = format!("{}|{}|{}", app.app_id, self.endpoint.method, self.endpoint.path);
        self.take(tx, app, &key, TIER_4)
            .map_err(|exhausted| Refusal::rate_limit(exhausted, self.endpoint.throttled).into())
    }

    /// Takes one request out of a quota of im/v1 itself: five a second to one person, chat or card.
    pub(crate) fn count_message(&self, tx: &Tx<'_>, app: &App, target: &str) -> Result<(), Failure> {
        self.take(tx, app, &format!("im|{target}"), Quota::per_second(5))
            .map_err(|_| refuse(230_020, "This operation triggers the frequency limit."))
    }

    fn take(&self, tx: &Tx<'_>, app: &App, key: &str, quota: Quota) -> Result<(), Exhausted> {
        if !app.rate_limits {
            return Ok(());
        }
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner).take(tx.now, key, quota)
    }
}

/// Why a call did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    Refused(Box<Refusal>),
    Store(StoreError),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The vendor says no, with a code of its own.
#[derive(Debug)]
pub(crate) struct Refusal {
    code: i64,
    msg: String,
    /// The `error` object of the envelope, without the log id.
    error: Option<Value>,
    throttled: Option<(Exhausted, StatusCode)>,
}

impl Refusal {
    fn new(code: i64, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), error: None, throttled: None }
    }

    fn rate_limit(exhausted: Exhausted, status: StatusCode) -> Self {
        Self { throttled: Some((exhausted, status)), ..Self::new(99_991_400, "request trigger frequency limit") }
    }
}

pub(crate) fn refuse(code: i64, msg: impl Into<String>) -> Failure {
    Refusal::new(code, msg).into()
}

pub(crate) fn refuse_with(code: i64, msg: impl Into<String>, error: Value) -> Failure {
    Refusal { error: Some(error), ..Refusal::new(code, msg) }.into()
}

/// The usual success envelope.
pub(crate) fn success(data: Value) -> Value {
    json!({ "code": 0, "msg": "success", "data": data })
}

/// A string field of a body that may be absent; empty counts as absent.
pub(crate) fn text<'v>(body: &'v Value, name: &str) -> Option<&'v str> {
    body.get(name).and_then(Value::as_str).filter(|value| !value.is_empty())
}

/// What a call leads to on the wire.
struct Answer {
    status: StatusCode,
    body: Value,
    throttled: Option<Exhausted>,
}

pub(crate) async fn serve(State(sandbox): State<Sandbox>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let Some((endpoint, param)) = find(&parts.method, &path) else {
        return (StatusCode::NOT_FOUND, "404 page not found").into_response();
    };
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY_BYTES).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let call = Incoming {
        endpoint,
        param,
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
        log_id: log_id(sandbox.now_ms()),
    };
    let log_id = call.log_id.clone();
    let fault = match sandbox.blocking(move |sandbox| sandbox.store().transact(|tx| take_fault(tx, &path))).await {
        Ok(fault) => fault,
        Err(error) => return internal_error(&error, &log_id),
    };
    if let Some(FaultKind::Slow(millis)) = fault {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(millis)) => {}
            () = sandbox.closing() => {}
        }
    }
    let answered = sandbox.blocking(move |sandbox| answer(sandbox, &call, fault)).await;
    match (answered, fault) {
        (Ok(_), Some(FaultKind::Timeout)) => {
            tokio::select! {
                () = tokio::time::sleep(LONGEST_WAIT) => {}
                () = sandbox.closing() => {}
            }
            hang_up()
        }
        (Ok(_), Some(FaultKind::DropAfterProcessing)) => hang_up(),
        (Ok(answer), _) => respond(answer, &log_id),
        (Err(error), _) => internal_error(&error, &log_id),
    }
}

/// The parts of a request that outlive the connection's task.
struct Incoming {
    endpoint: &'static Endpoint,
    param: Option<String>,
    query: String,
    headers: HeaderMap,
    body: Bytes,
    log_id: String,
}

fn find(method: &Method, path: &str) -> Option<(&'static Endpoint, Option<String>)> {
    ENDPOINTS
        .iter()
        .filter(|endpoint| endpoint.method == *method)
        .find_map(|endpoint| Some((endpoint, matches(endpoint.path, path)?)))
}

/// The variable segment if `path` has the form of `pattern`: `Some(None)` when the pattern has none.
fn matches(pattern: &str, path: &str) -> Option<Option<String>> {
    let mut param = None;
    let mut segments = path.trim_end_matches('/').split('/');
    for expected in pattern.split('/') {
        let segment = segments.next()?;
        if expected.starts_with(':') {
            param = Some(
                form_urlencoded::parse(format!("={}", segment.replace('+', "%2B")).as_bytes()).next()?.1.into_owned(),
            );
        } else if expected != segment {
            return None;
        }
    }
    segments.next().is_none().then_some(param)
}

/// The first fault that strikes this call, counted down.
fn take_fault(tx: &Tx<'_>, path: &str) -> Result<Option<FaultKind>, StoreError> {
    for mut fault in tx.all::<Fault>()? {
        if !path.starts_with(&fault.path_prefix) || fault.percent.is_some_and(|percent| !happens(percent)) {
            continue;
        }
        match fault.times {
            Some(..=1) => {
                tx.delete::<Fault>(&fault.fault_id)?;
            }
            Some(times) => {
                fault.times = Some(times - 1);
                tx.put(&fault)?;
            }
            None => {}
        }
        return Ok(Some(fault.kind));
    }
    Ok(None)
}

/// Runs the call, or the fault in its place, and writes it into the record of calls with its effect, in one commit.
fn answer(sandbox: &Sandbox, call: &Incoming, fault: Option<FaultKind>) -> Result<Answer, StoreError> {
    let mut request = VendorCall {
        endpoint: call.endpoint,
        param: call.param.clone(),
        query: form_urlencoded::parse(call.query.as_bytes()).into_owned().collect(),
        headers: &call.headers,
        body: &call.body,
        caller: None,
        limiter: sandbox.limiter(),
    };
    let store = sandbox.store();
    if let Some(answer) = fault.and_then(|fault| instead(fault, call)) {
        store.transact(|tx| record(tx, call, &request, &answer, fault))?;
        return Ok(answer);
    }
    let done = store.transact(|tx| {
        admit(tx, &mut request)?;
        let body = (call.endpoint.handler)(tx, &request)?;
        let answer = Answer { status: StatusCode::OK, body, throttled: None };
        record(tx, call, &request, &answer, fault)?;
        Ok(answer)
    });
    match done {
        Ok(answer) => Ok(answer),
        Err(Failure::Store(error)) => Err(error),
        Err(Failure::Refused(refusal)) => {
            let answer = refused(*refusal, call);
            store.transact(|tx| record(tx, call, &request, &answer, fault))?;
            Ok(answer)
        }
    }
}

/// The answer of a fault that keeps the call from being processed.
fn instead(fault: FaultKind, call: &Incoming) -> Option<Answer> {
    let oauth = call.endpoint.errors == Errors::OAuth;
    let (code, msg) = match fault {
        FaultKind::DropAfterProcessing | FaultKind::Slow(_) => return None,
        FaultKind::RateLimit => {
            let exhausted = Exhausted { limit: 50, reset_secs: 1 };
            return Some(refused(Refusal::rate_limit(exhausted, call.endpoint.throttled), call));
        }
        FaultKind::Code(code) => (code, "injected fault"),
        FaultKind::Http(503) if oauth => (20_072, "temporarily unavailable"),
        FaultKind::Timeout | FaultKind::Http(_) if oauth => (20_050, "server error"),
        FaultKind::Timeout | FaultKind::Http(_) => (2_200, "internal error"),
    };
    let mut answer = refused(Refusal::new(code, msg), call);
    if let FaultKind::Http(status) = fault {
        answer.status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    }
    Some(answer)
}

/// Token, app, scope and quota: what the vendor's gateway checks before an endpoint sees the call.
fn admit(tx: &Tx<'_>, request: &mut VendorCall<'_>) -> Result<(), Failure> {
    let endpoint = request.endpoint;
    if endpoint.tokens.is_empty() {
        return Ok(());
    }
    let caller = auth::authorize(tx, request.headers, endpoint.tokens).map_err(|failure| match failure {
        Failure::Refused(refusal) if endpoint.tokens == USER && refusal.code == 99_991_668 => {
            refuse(20_005, "The user access token passed is invalid. Please check the value")
        }
        other => other,
    })?;
    let granted = |scope: &&str| caller.scopes.iter().any(|one| one == scope);
    if caller.kind == TokenKind::User && !endpoint.user_scopes.is_empty() && !endpoint.user_scopes.iter().any(granted) {
        let violations: Vec<Value> = endpoint
            .user_scopes
            .iter()
            .map(|scope| json!({ "type": "action_privilege_required", "subject": scope }))
            .collect();
        return Err(refuse_with(
            99_991_679,
            format!(
                "Unauthorized. You do not have permission to perform the requested operation on the resource. \
                 Please request user re-authorization and try again. required one of these privileges under the user \
                 identity: [{}]",
                endpoint.user_scopes.join(", ")
            ),
            json!({ "permission_violations": violations }),
        ));
    }
    let app = caller.app.clone();
    request.caller = Some(caller);
    request.count_against(tx, &app)
}

fn refused(refusal: Refusal, call: &Incoming) -> Answer {
    let Refusal { code, msg, error, throttled } = refusal;
    let status = match (&throttled, call.endpoint.errors, code) {
        (Some((_, status)), _, _) => *status,
        (None, _, 20_050 | 2_200) => StatusCode::INTERNAL_SERVER_ERROR,
        (None, _, 20_072) => StatusCode::SERVICE_UNAVAILABLE,
        (None, Errors::EnvelopeAs200, ..99_991_000) => StatusCode::OK,
        (None, _, 99_991_400) => call.endpoint.throttled,
        _ => StatusCode::BAD_REQUEST,
    };
    let body = if call.endpoint.errors == Errors::OAuth && throttled.is_none() {
        json!({ "code": code, "error": oauth::error_name(code), "error_description": msg })
    } else {
        let mut details = error.unwrap_or_else(|| json!({}));
        if let Some(details) = details.as_object_mut() {
            details.insert("log_id".to_owned(), call.log_id.clone().into());
        }
        json!({ "code": code, "msg": msg, "error": details })
    };
    Answer { status, body, throttled: throttled.map(|(exhausted, _)| exhausted) }
}

fn record(
    tx: &Tx<'_>,
    call: &Incoming,
    request: &VendorCall<'_>,
    answer: &Answer,
    fault: Option<FaultKind>,
) -> Result<(), StoreError> {
    let caller = request.caller.as_ref();
    let unanswered = matches!(fault, Some(FaultKind::Timeout | FaultKind::DropAfterProcessing));
    let result = match fault {
        Some(fault) if unanswered || matches!(fault, FaultKind::Http(_)) => fault.to_string(),
        _ => answer.body.get("code").map(Value::to_string).unwrap_or_default(),
    };
    tx.record_call(&Call {
        at: rfc3339(tx.now),
        endpoint: format!("{} {}", call.endpoint.method, call.endpoint.path),
        result,
        http_status: (!unanswered).then(|| answer.status.as_u16()),
        app_id: caller.map(|caller| caller.app.app_id.clone()).or_else(|| oauth::claimed_app_id(request)),
        caller: caller.map(|caller| match (caller.kind, &caller.open_id) {
            (TokenKind::User, Some(open_id)) => format!("user:{open_id}"),
            (TokenKind::App, _) => "app".to_owned(),
            _ => "tenant".to_owned(),
        }),
        log_id: call.log_id.clone(),
    })
}

fn respond(answer: Answer, log_id: &str) -> Response {
    let mut response = (answer.status, axum::Json(answer.body)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    if let Ok(log_id) = HeaderValue::from_str(log_id) {
        headers.insert("x-tt-logid", log_id.clone());
        headers.insert("x-request-id", log_id);
    }
    if let Some(Exhausted { limit, reset_secs }) = answer.throttled {
        headers.insert("x-ogw-ratelimit-limit", HeaderValue::from(limit));
        headers.insert("x-ogw-ratelimit-reset", HeaderValue::from(reset_secs));
    }
    response
}

fn internal_error(error: &StoreError, log_id: &str) -> Response {
    tracing::error!(error = ?error, "The sandbox could not use its state file");
    let body = json!({ "code": 2_200, "msg": "internal error", "error": { "log_id": log_id } });
    respond(Answer { status: StatusCode::INTERNAL_SERVER_ERROR, body, throttled: None }, log_id)
}

/// Closes the connection before a byte of the answer is sent: a body that fails at its first read is never flushed.
fn hang_up() -> Response {
    let lost = io::Error::new(io::ErrorKind::ConnectionAborted, "the answer is lost on purpose");
    Body::from_stream(stream::iter([Err::<Bytes, _>(lost)])).into_response()
}

impl Sandbox {
    /// Runs `work`, which uses the state file, away from the threads that serve connections.
    pub(crate) async fn blocking<T, E>(
        &self,
        work: impl FnOnce(&Sandbox) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let sandbox = self.clone();
        tokio::task::spawn_blocking(move || work(&sandbox)).await.map_err(StoreError::from)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_by_segment_and_give_their_variable() {
        let pattern = "/open-apis/im/v1/messages/:message_id";
        assert_eq!(matches(pattern, "/open-apis/im/v1/messages/om_1"), Some(Some("om_1".to_owned())));
        assert_eq!(matches(pattern, "/open-apis/im/v1/messages/a%40b+c"), Some(Some("a@b+c".to_owned())));
        assert_eq!(matches(pattern, "/open-apis/im/v1/messages"), None);
        assert_eq!(matches(pattern, "/open-apis/im/v1/messages/om_1/reply"), None);
        assert_eq!(matches("/open-apis/x", "/open-apis/x/"), Some(None));
    }
}
