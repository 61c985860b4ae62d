//! `/v1/lark/{app_id}/...`: a person is asked by card, what they granted is told, and any Open API call is made with the right token.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::access::{AccessFault, Caller, Scope};
use domain::app::{AppDirectory, AppFault, OpenApp};
use domain::authorize::{Authorization, AuthorizeFault, Vendor, VendorFault};
use domain::clock::Clock;
use domain::fault::{Denial, Fault, PortFault, Refusal, Remedy, chain};
use domain::id::{AppId, IdError, Ids, OpenId, SessionId};
use domain::limit::{Limit, LimitFault};
use domain::seal::Sealer;
use domain::session::{self, CardStyle, Session, SessionFault, SessionRequest, SessionStatus, SessionStore};
use domain::token::{TokenStore, UserToken};
use domain::user_tokens::{Known, TokenFault, UserTokens};
use domain::work::{Doorbell, WorkQueue};
use lambda_kit::http::{
    self, BadRequest, Fields, Gate, HeaderMap, Method, Request, RequestExt as _, Response, StatusCode, header,
};
use lark::client::{Answer, ApiError, Call, Client, Repeat};
use lark::code::{Class, Token};
use lark::proxy::{details, verdict};
use lark::vendor::{AsTenantError, LarkVendor};
use secrecy::SecretString;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::form_urlencoded;

/// How often one person may be asked by card.
const CARDS: Limit = Limit::per_minute(5);

/// How long an answer waits for the vendor to take a card. Whoever hears the bell sends one that takes longer.
const CARD_PATIENCE: Duration = Duration::from_secs(6);

/// How long a call may take, with its token, its retries and their waits.
const PATIENCE: Duration = Duration::from_secs(24);

/// A refresh that is begun later might not end before the function does.
const REFRESH_BY: Duration = Duration::from_secs(10);

/// When a call is given up, whatever it waits for: before the function is stopped and the caller left without an answer.
const LAST_CALL: Duration = Duration::from_secs(27);

/// What Lambda hands to a function at most.
const MAX_BODY: usize = 6 * 1024 * 1024;

/// In whose name a call is made.
const AS: &str = "x-skylark-as";

/// What a person without a token is asked for.
const SCOPES: &str = "x-skylark-scopes";

/// The vendor's own name for its log id, passed on.
const LOG_ID: &str = "x-tt-logid";

/// What requests are answered with.
pub(crate) struct Api {
    authorization: Authorization,
    tokens: Arc<UserTokens>,
    vendor: Arc<LarkVendor>,
    public_url: Option<String>,
}

/// Lets those in who may act for every app and person, and leaves a line of what each did.
pub(crate) async fn answer(gate: &Gate, api: &Api, request: Request, now: OffsetDateTime) -> Result<Response, Stopped> {
    let caller = gate.admit(&request, Scope::Lark, now).await?;
    let path = request.raw_http_path().to_owned();
    let (app_id, rest) = path.strip_prefix("/v1/lark/").and_then(|path| path.split_once('/')).unwrap_or_default();
    let result = match rest.strip_prefix("open-apis/") {
        Some(_) => Ok(api.pass_on(app_id, &request, rest, now).await),
        None => api.route(gate, app_id, &request, rest, now).await,
    };
    audit(&caller, &request, app_id, rest, &result);
    result
}

/// Who did what, for whom, and what came of it: never a body, a query or a token.
fn audit(caller: &Caller, request: &Request, app_id: &str, rest: &str, result: &Result<Response, Stopped>) {
    let (status, log_id) = match result {
        Ok(response) => (response.status(), text(response.headers(), LOG_ID)),
        Err(stopped) => (http::status(stopped), None),
    };
    let name = OnBehalfOf::named(request.headers()).map(|name| name.to_string()).unwrap_or_default();
    tracing::info!(
        client.id = %caller.client_id,
        lark.app_id = app_id,
        lark.on_behalf_of = name,
        http.method = %request.method(),
        http.path = rest,
        http.status = status.as_u16(),
        lark.log_id = log_id,
        "Audit: `{}` {} {rest} of `{app_id}` as {name}: {}", caller.client_id, request.method(), status.as_u16()
    );
}

impl Api {
    pub(crate) fn new<S: SessionStore + TokenStore + 'static>(
        apps: Arc<AppDirectory>,
        store: Arc<S>,
        sealer: Arc<dyn Sealer>,
        vendor: Arc<LarkVendor>,
        work: Arc<dyn WorkQueue>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Self {
        let (sessions, cards): (Arc<dyn SessionStore>, Arc<dyn Vendor>) = (store.clone(), vendor.clone());
        let authorization = Authorization {
            apps: apps.clone(),
            sessions: sessions.clone(),
            tokens: store.clone(),
            sealer: sealer.clone(),
            vendor: cards.clone(),
            work,
        };
        let (renewal, known) = (vendor.clone(), Known::default());
        let tokens = UserTokens { apps, tokens: store, sessions, sealer, vendor: cards, renewal, clock, ids, known };
        Self { authorization, tokens: Arc::new(tokens), vendor, public_url: None }
    }

    /// Where people reach the deployment, if not at the API's own endpoint.
    pub(crate) fn at(self, public_url: Option<String>) -> Self {
        Self { public_url, ..self }
    }

    async fn route(
        &self,
        gate: &Gate,
        app_id: &str,
        request: &Request,
        rest: &str,
        now: OffsetDateTime,
    ) -> Result<Response, Stopped> {
        let app_id = &AppId::parse(app_id)?;
        self.authorization.apps.enabled(app_id, now).await?;
        let segments: Vec<&str> = rest.split('/').collect();
        match (request.method().as_str(), segments.as_slice()) {
            ("POST", ["auth-cards"]) => self.send_card(gate, app_id, request, now).await,
            ("GET", ["sessions", session_id]) => {
                let session = self.authorization.session(app_id, &SessionId::parse(*session_id)?).await?;
                Ok(http::json(StatusCode::OK, &session_view(&session, now)))
            }
            ("GET", ["users", open_id, "token"]) => {
                let open_id = &OpenId::parse(*open_id)?;
                let token = self.tokens.tokens.get(app_id, open_id).await?;
                Ok(http::json(StatusCode::OK, &token_view((app_id, open_id), token.as_ref(), now)))
            }
            ("DELETE", ["users", open_id, "token"]) => {
                let open_id = &OpenId::parse(*open_id)?;
                self.tokens.forget(app_id, open_id).await?;
                Ok(http::json(StatusCode::OK, &token_view((app_id, open_id), None, now)))
            }
            _ => Err(Stopped::NoRoute),
        }
    }

    /// Keeps a session and sends its card. Once the session is kept the answer is 202: a card that the vendor does not take now is sent
    /// by whoever hears the bell of the table's stream, and only a card that it will never take is an error.
    async fn send_card(
        &self,
        gate: &Gate,
        app_id: &AppId,
        request: &Request,
        now: OffsetDateTime,
    ) -> Result<Response, Stopped> {
        let asked = session_request(app_id, request)?;
        gate.limiter().take(&format!("card#{app_id}#{}", asked.open_id), CARDS, now).await?;
        let session = Session::open(self.tokens.ids.session_id(), asked, now).map_err(AuthorizeFault::Session)?;
        let sessions = &self.authorization.sessions;
        sessions.create(&session).await?;
        let base = http::base_url(request, self.public_url.as_deref());
        let following = self.authorization.follow(&session.session_id, &base, None, now);
        match tokio::time::timeout(CARD_PATIENCE, following).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) if fault.remedy() != Remedy::Retry => {
                self.authorization.fail(&session, fault.code()).await?;
                return Err(fault.into());
            }
            Ok(Err(fault)) => tracing::warn!(error = %chain(&fault), "A card is sent later"),
            Err(_) => tracing::warn!("A card is sent later: the vendor is slow"),
        }
        let stored = sessions.get(&session.session_id).await.unwrap_or_default();
        let answer = json!({
            "session_id": session.session_id,
            "message_id": stored.and_then(|session| session.message_id),
            "expires_at": instant(session.expires_at),
        });
        Ok(http::json(StatusCode::ACCEPTED, &answer))
    }

    /// Makes a call to the Open API. Whatever comes of it is told in one envelope.
    async fn pass_on(&self, app_id: &str, request: &Request, path: &str, now: OffsetDateTime) -> Response {
        let call = self.call(app_id, request, path, now);
        let result = tokio::time::timeout(LAST_CALL, call).await.unwrap_or(Err(Unpassed::Vendor(ApiError::Timeout)));
        let request_id = request.lambda_context_ref().map(|context| context.request_id.as_str());
        let envelope = Envelope { request_id: request_id.unwrap_or_default() };
        let response = match result {
            Ok(answer) => envelope.success(answer),
            Err(unpassed) => envelope.failure(&unpassed),
        };
        if http::weight(&response) <= http::MAX_ANSWER {
            response
        } else {
            envelope.failure(&Unpassed::Stopped(Stopped::AnswerTooLarge))
        }
    }

    async fn call(&self, app_id: &str, request: &Request, path: &str, now: OffsetDateTime) -> Result<Answer, Unpassed> {
        let app_id = &AppId::parse(app_id).map_err(Stopped::Id)?;
        let outgoing = Outgoing::read(request, path)?;
        let app = self.authorization.apps.enabled(app_id, now).await.map_err(Stopped::App)?;
        let client = &self.vendor.client(&app).map_err(Stopped::Vendor)?;
        match OnBehalfOf::named(request.headers())? {
            OnBehalfOf::Tenant(tenant_key) => Ok(self
                .vendor
                .as_tenant(&app, tenant_key.as_deref(), PATIENCE, async |token, deadline| {
                    outgoing.send(client, &token, deadline).await
                })
                .await?),
            OnBehalfOf::User(open_id) => {
                let scopes = text(request.headers(), SCOPES).unwrap_or_default();
                let scopes: Vec<String> =
                    scopes.split([' ', ',']).filter(|s| !s.is_empty()).map(str::to_owned).collect();
                match self.call_as_user(&app, &open_id, client, &outgoing).await {
                    Err(Unpassed::Stopped(Stopped::Tokens(TokenFault::AuthorizationRequired))) => {
                        Err(self.ask(app_id, open_id, scopes, None).await?)
                    }
                    Err(Unpassed::Vendor(ApiError::Refused(refusal))) if refusal.class == Class::Reauthorize => {
                        let scopes = to_ask_for(scopes, &refusal.missing_scopes);
                        Err(self.ask(app_id, open_id, scopes, Some(ApiError::Refused(refusal))).await?)
                    }
                    result => result,
                }
            }
        }
    }

    /// A token that the vendor rejects is refreshed, and the call made once more.
    async fn call_as_user(
        &self,
        app: &OpenApp,
        open_id: &OpenId,
        client: &Client,
        outgoing: &Outgoing,
    ) -> Result<Answer, Unpassed> {
        let (app_id, started) = (&app.app.app_id, Instant::now());
        let token = self.token(app_id, open_id, None).await?;
        match outgoing.send(client, &token, started + PATIENCE).await {
            Err(error) if error.class() == Class::TokenInvalid(Token::User) && started.elapsed() < REFRESH_BY => {
                let other = self.token(app_id, open_id, Some(token)).await?;
                Ok(outgoing.send(client, &other, started + PATIENCE).await?)
            }
            Err(error) if error.class() == Class::TokenInvalid(Token::User) => Err(ApiError::Timeout.into()),
            result => Ok(result?),
        }
    }

    /// A refresh that has begun is finished, though nobody waits for it any more: half done, it would log the person out.
    async fn token(
        &self,
        app_id: &AppId,
        open_id: &OpenId,
        rejected: Option<SecretString>,
    ) -> Result<SecretString, Stopped> {
        let (tokens, app_id, open_id) = (self.tokens.clone(), app_id.clone(), open_id.clone());
        let getting = tokio::spawn(async move { tokens.get(&app_id, &open_id, rejected.as_ref()).await });
        Ok(getting.await.map_err(|cause| PortFault::Unavailable { operation: "get token", cause: cause.into() })??)
    }

    /// Sends the person a card, unless they have one for the same.
    async fn ask(
        &self,
        app_id: &AppId,
        open_id: OpenId,
        scopes: Vec<String>,
        error: Option<ApiError>,
    ) -> Result<Unpassed, Stopped> {
        let (session_id, new) = self.tokens.ask(app_id, &open_id, None, &scopes).await?;
        if new {
            let bell = Doorbell::Card { session_id: session_id.clone(), version: 1 };
            // The table's stream rings too; this ring only makes it quick.
            if let Err(fault) = self.authorization.work.ring(&bell).await {
                tracing::warn!(session.id = %session_id, error = %chain(&fault), "The bell was not rung; the stream will");
            }
        }
        Ok(Unpassed::Person { open_id, session_id, new, error })
    }
}

/// In whose name a call is made.
#[derive(Debug, PartialEq, Eq)]
enum OnBehalfOf {
    /// The app's own; of a store app, in one of its tenants.
    Tenant(Option<String>),
    User(OpenId),
}

impl OnBehalfOf {
    fn named(headers: &HeaderMap) -> Result<Self, Stopped> {
        const EXPECTED: &str = "must be `tenant`, `tenant:<tenant_key>` or `user:<open_id>`";
        let bad = || Stopped::from(BadRequest::field(AS, EXPECTED));
        let Some(value) = headers.get(AS) else { return Ok(Self::Tenant(None)) };
        let value = value.to_str().map_err(|_| bad())?;
        match value.split_once(':') {
            None if value == "tenant" => Ok(Self::Tenant(None)),
            Some(("tenant", key)) if is_tenant_key(key) => Ok(Self::Tenant(Some(key.to_owned()))),
            Some(("user", open_id)) => OpenId::parse(open_id).map(Self::User).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for OnBehalfOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(None) => f.write_str("tenant"),
            Self::Tenant(Some(key)) => write!(f, "tenant:{key}"),
            Self::User(open_id) => write!(f, "user:{open_id}"),
        }
    }
}

fn is_tenant_key(key: &str) -> bool {
    (1..=64).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// A call as it goes to the vendor, but for its token.
#[derive(Debug)]
struct Outgoing {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    body: Option<Value>,
    repeat: Repeat,
}

impl Outgoing {
    fn read(request: &Request, path: &str) -> Result<Self, Stopped> {
        // As API Gateway took it, so that nothing is left of dot segments which a URL parser would have resolved.
        if path.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err(BadRequest::field("path", "must not hold dot segments").into());
        }
        let query = request.uri().query().unwrap_or_default();
        let query: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let body = http::json_body(request, MAX_BODY)?;
        let method = request.method().clone();
        let safe = method == Method::GET || has_key(&query, body.as_ref());
        let repeat = if safe { Repeat::Safe } else { Repeat::Once };
        Ok(Self { method, path: format!("/{path}"), query, body, repeat })
    }

    async fn send(&self, client: &Client, token: &SecretString, deadline: Instant) -> Result<Answer, ApiError> {
        let query: Vec<(&str, &str)> = self.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let call = Call::new(self.method.clone(), &self.path, deadline).repeat(self.repeat).token(token).query(&query);
        client.call(if let Some(body) = &self.body { call.body(body) } else { call }).await
    }
}

/// The vendor lists every scope of which one would do; a caller that wants one of them says which.
fn to_ask_for(wanted: Vec<String>, missing: &[String]) -> Vec<String> {
    if missing.iter().any(|scope| wanted.contains(scope)) { wanted } else { [&wanted, missing].concat() }
}

/// Whether the vendor knows a repetition of the call by the key that it carries.
fn has_key(query: &[(String, String)], body: Option<&Value>) -> bool {
    ["uuid", "client_token"].into_iter().any(|key| {
        let in_body = body.and_then(|body| body.get(key)).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
        in_body || query.iter().any(|(name, value)| name == key && !value.is_empty())
    })
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn session_request(app_id: &AppId, request: &Request) -> Result<SessionRequest, Stopped> {
    let mut fields = Fields::of_body(request, MAX_BODY)?;
    let open_id = fields
        .need("open_id", "1 to 128 letters, digits, `_`, `-` or `.`", |value| OpenId::parse(value.as_str()?).ok());
    let texts = |value: &Value| value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect();
    let scopes: Vec<String> = fields.need("scopes", "a list of scope names", texts).unwrap_or_default();
    let (reason, template_id) = (fields.text("reason"), fields.text("template_id"));
    let detailed = fields.take("include_detailed_description", "true or false", Value::as_bool).unwrap_or(true);
    let tenant_key = fields.take("tenant_key", "1 to 64 letters, digits, `_` or `-`", |value| {
        value.as_str().filter(|key| is_tenant_key(key)).map(str::to_owned)
    });
    for (field, fault) in session::faults(&scopes, reason.as_deref(), template_id.as_deref()) {
        fields.refuse(field, fault.to_string());
    }
    fields.done()?;
    let open_id = open_id.ok_or_else(|| BadRequest::field("open_id", "is required"))?;
    let style = if detailed { CardStyle::Detailed } else { CardStyle::Concise };
    Ok(SessionRequest { app_id: app_id.clone(), open_id, scopes, reason, style, template_id, tenant_key })
}

fn instant(at: OffsetDateTime) -> Option<String> {
    at.format(&Rfc3339).ok()
}

fn session_view(session: &Session, now: OffsetDateTime) -> Value {
    let overdue = session.must_be_open(now) == Err(SessionFault::Expired);
    json!({
        "session_id": session.session_id,
        "app_id": session.app_id,
        "open_id": session.open_id,
        // The sweep that ends it comes once a minute.
        "status": if overdue { SessionStatus::Expired } else { session.status },
        "failure": session.failure,
        "scopes": session.scopes,
        "reason": session.reason,
        "message_id": session.message_id,
        "created_at": instant(session.created_at),
        "expires_at": instant(session.expires_at),
    })
}

/// What is known of a person's token, but not the token, nor the person's number.
fn token_view((app_id, open_id): (&AppId, &OpenId), token: Option<&UserToken>, now: OffsetDateTime) -> Value {
    let Some(token) = token else {
        return json!({ "app_id": app_id, "open_id": open_id, "status": "authorization_required" });
    };
    let refreshable = token.lapsed.is_none() && token.refresh_expires_at.is_some_and(|until| now < until);
    let profile = &token.profile;
    json!({
        "app_id": app_id,
        "open_id": open_id,
        "status": if token.is_alive(now) || refreshable { "authorized" } else { "authorization_required" },
        "reason": token.lapsed.as_ref().map(|lapse| &lapse.code),
        "scopes": token.scopes,
        "authorized_at": instant(token.authorized_at),
        "access_expires_at": instant(token.access_expires_at),
        "refresh_expires_at": token.refresh_expires_at.and_then(instant),
        "ends_at": token.ends_at().and_then(instant),
        "profile": {
            "tenant_key": profile.tenant_key,
            "union_id": profile.union_id,
            "user_id": profile.user_id,
            "name": profile.name,
            "email": profile.email,
        },
    })
}

/// Why a call was not made, or did not succeed.
enum Unpassed {
    /// It came as far as here.
    Stopped(Stopped),
    Vendor(ApiError),
    /// Only the person can help, and has a card.
    Person {
        open_id: OpenId,
        session_id: SessionId,
        new: bool,
        error: Option<ApiError>,
    },
}

impl From<Stopped> for Unpassed {
    fn from(stopped: Stopped) -> Self {
        Self::Stopped(stopped)
    }
}

impl From<ApiError> for Unpassed {
    fn from(error: ApiError) -> Self {
        Self::Vendor(error)
    }
}

impl From<AsTenantError> for Unpassed {
    fn from(error: AsTenantError) -> Self {
        match error {
            AsTenantError::NoToken(fault) => Self::Stopped(Stopped::Vendor(fault)),
            AsTenantError::Call(error) => Self::Vendor(error),
        }
    }
}

/// What every answer of the Open API comes back in. One that is no success has the fields of our other errors beside.
struct Envelope<'r> {
    request_id: &'r str,
}

impl Envelope<'_> {
    fn success(&self, answer: Answer) -> Response {
        let log_id = answer.log_id.as_deref();
        let body = json!({
            "code": 0,
            "message": "success",
            "request_id": self.request_id,
            "lark_log_id": log_id,
            "data": answer.data,
            "retryable": false,
        });
        with_log_id(http::json(StatusCode::OK, &body), log_id)
    }

    fn failure(&self, unpassed: &Unpassed) -> Response {
        match unpassed {
            Unpassed::Stopped(stopped) => {
                let fields = stopped.fields().into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect();
                let fields = Map::from_iter([("fields".to_owned(), Value::Object(fields))]);
                let details = if stopped.fields().is_empty() { Map::new() } else { fields };
                let retryable = matches!(stopped.remedy(), Remedy::Retry | Remedy::Deny(Denial::Throttled { .. }));
                let told = (stopped.code(), stopped.public_message());
                http::refuse(stopped, &self.error(None, told, details, retryable))
            }
            Unpassed::Vendor(error) => {
                let verdict = verdict(error);
                let status = StatusCode::from_u16(verdict.status).unwrap_or(StatusCode::BAD_GATEWAY);
                let message = match error {
                    ApiError::Refused(refusal) => refusal.message.clone(),
                    error => error.to_string(),
                };
                let body = self.error(Some(error), (verdict.error, message), details(error), error.retryable());
                let mut response = with_log_id(http::json(status, &body), error.log_id());
                if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
                    let secs = error.retry_after().map_or(1, |wait| wait.as_secs().max(1));
                    response.headers_mut().insert(header::RETRY_AFTER, secs.into());
                }
                response
            }
            Unpassed::Person { open_id, session_id, new, error } => {
                let mut details = error.as_ref().map(details).unwrap_or_default();
                details.insert("open_id".to_owned(), json!(open_id));
                details.insert("session_id".to_owned(), json!(session_id));
                details.insert("card".to_owned(), if *new { "sent_now" } else { "sent_before" }.into());
                let message = "the person has to authorize the app, and has a card for it".to_owned();
                let body = self.error(error.as_ref(), ("authorization_required", message), details, false);
                with_log_id(http::json(StatusCode::UNAUTHORIZED, &body), error.as_ref().and_then(ApiError::log_id))
            }
        }
    }

    fn error(
        &self,
        error: Option<&ApiError>,
        (name, message): (&str, String),
        details: Map<String, Value>,
        retryable: bool,
    ) -> Value {
        json!({
            "error": name,
            "code": error.and_then(ApiError::code),
            "message": message,
            "request_id": self.request_id,
            "lark_log_id": error.and_then(ApiError::log_id),
            "data": null,
            "retryable": retryable,
            "details": details,
        })
    }
}

fn with_log_id(mut response: Response, log_id: Option<&str>) -> Response {
    if let Some(value) = log_id.and_then(|text| text.parse().ok()) {
        response.headers_mut().insert(LOG_ID, value);
    }
    response
}

/// Why a request came no further than here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stopped {
    #[error(transparent)]
    Access(#[from] AccessFault),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(transparent)]
    Request(#[from] BadRequest),
    #[error("there is nothing at this path")]
    NoRoute,
    #[error("the vendor's answer is larger than {} bytes; ask for less of it, in pages", http::MAX_ANSWER)]
    AnswerTooLarge,
    #[error(transparent)]
    App(#[from] AppFault),
    #[error(transparent)]
    Limit(#[from] LimitFault),
    #[error("the person cannot be asked")]
    Authorize(#[from] AuthorizeFault),
    #[error("there is no token")]
    Tokens(#[from] TokenFault),
    #[error("there is no token")]
    Vendor(#[source] VendorFault),
    #[error("a store failed")]
    Store(#[from] PortFault),
}

impl Fault for Stopped {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Id(_) => Remedy::Reject(Refusal::Invalid),
            Self::Request(fault) => fault.remedy(),
            Self::NoRoute => Remedy::Reject(Refusal::Unknown),
            Self::AnswerTooLarge => Remedy::Reject(Refusal::Unprocessable),
            Self::Access(fault) => fault.remedy(),
            Self::App(fault) => fault.remedy(),
            Self::Limit(fault) => fault.remedy(),
            Self::Authorize(fault) => fault.remedy(),
            Self::Tokens(fault) => fault.remedy(),
            Self::Vendor(fault) => fault.remedy(),
            Self::Store(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Id(_) => "invalid_request",
            Self::Request(fault) => fault.code(),
            Self::NoRoute => "not_found",
            Self::AnswerTooLarge => "answer_too_large",
            Self::Access(fault) => fault.code(),
            Self::App(fault) => fault.code(),
            Self::Limit(fault) => fault.code(),
            Self::Authorize(fault) => fault.code(),
            Self::Tokens(fault) => fault.code(),
            Self::Vendor(fault) => fault.code(),
            Self::Store(fault) => fault.code(),
        }
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Id(error) => vec![(error.field, format!("must be {}", error.expected))],
            Self::Request(fault) => fault.fields(),
            _ => Vec::new(),
        }
    }

    fn challenge(&self) -> Option<String> {
        if let Self::Access(fault) = self { fault.challenge() } else { None }
    }

    /// The vendor's words help the caller; what is wrong on our side does not.
    fn public_message(&self) -> String {
        match (self.remedy(), self) {
            (Remedy::Retry, _) => "try again in a moment".to_owned(),
            (Remedy::Bug, _) => "internal error".to_owned(),
            (
                _,
                Self::Authorize(AuthorizeFault::Vendor(fault))
                | Self::Tokens(TokenFault::Vendor(fault))
                | Self::Vendor(fault),
            ) => fault.to_string(),
            (_, Self::Authorize(fault)) => fault.to_string(),
            _ => self.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicU32, Ordering};

    use domain::access::{AccessToken, TokenSigner as _};
    use domain::app::{App, AppStatus, AppStore as _};
    use domain::authorize::Approval;
    use domain::id::{ClientId, FamilyId, TenantId, UserId};
    use domain::token::FORGET_AFTER;
    use lark_sandbox::{Consent, Sandbox, SandboxConfig};
    use secrecy::ExposeSecret as _;
    use testkit::sample::{self, NOW};
    use testkit::{CountingIds, ManualClock, MemoryLimiter, MemoryQueue, MemoryTable, MemoryTokens, PlainSealer};
    use tokio::net::TcpListener;

    use super::*;

    const REDIRECT: &str = "http://127.0.0.1:9/back";
    const PRIVACY: &str = "https://app.example/privacy";
    const USER_INFO: &str = "open-apis/authen/v1/user_info";
    const SEND: &str = "open-apis/im/v1/messages?receive_id_type=open_id";

    /// The API over ports in memory, and a vendor that is a server of its own.
    struct World {
        table: Arc<MemoryTable>,
        queue: Arc<MemoryQueue>,
        clock: Arc<ManualClock>,
        sandbox: Sandbox,
        gate: Gate,
        api: Api,
        token: String,
        _folder: tempfile::TempDir,
    }

    async fn world() -> World {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let state = folder.path().join("lark.db");
        let sandbox = Sandbox::open(SandboxConfig { state, base_url: base_url.clone() }).unwrap();
        let serving = sandbox.clone();
        tokio::spawn(async move { serving.serve(listener, std::future::pending()).await });
        let scopes = ["offline_access", "im:message", "contact:user.base:readonly", "contact:user.email:readonly"];
        let mut app = lark_sandbox::App::new("cli_a", "s3cret");
        app.redirect_uris.push(REDIRECT.to_owned());
        app.scopes.extend(scopes.map(str::to_owned));
        sandbox.put_app(lark_sandbox::AppSpec { app, verify: false }).await.unwrap();

        let (table, sealer) = (Arc::<MemoryTable>::default(), Arc::new(PlainSealer));
        let privacy_url = Some(PRIVACY.parse().unwrap());
        table.put(&App { privacy_url, ..sample::openable_app("cli_a").await }).await.unwrap();
        let disabled = App { status: AppStatus::Disabled, ..sample::openable_app("cli_off").await };
        table.put(&disabled).await.unwrap();
        let (queue, clock) = (Arc::<MemoryQueue>::default(), Arc::<ManualClock>::default());
        let vendor = LarkVendor::new(Some(&base_url), table.clone(), sealer.clone(), clock.clone()).unwrap();
        let apps = Arc::new(AppDirectory::new(table.clone(), sealer.clone()));
        let ids = Arc::<CountingIds>::default();
        let api = Api::new(apps, table.clone(), sealer, Arc::new(vendor), queue.clone(), clock.clone(), ids);
        let tokens = Arc::<MemoryTokens>::default();
        let token = access_token(&tokens, [Scope::Lark].into()).await;
        let gate = Gate::new(tokens, Arc::new(MemoryLimiter::default()));
        World { table, queue, clock, sandbox, gate, api, token, _folder: folder }
    }

    async fn access_token(tokens: &MemoryTokens, scopes: BTreeSet<Scope>) -> String {
        let caller = Caller {
            client_id: ClientId::parse("weekly-report").unwrap(),
            user_id: UserId::parse("ann").unwrap(),
            tenant_id: TenantId::parse("t1").unwrap(),
            scopes,
            session_id: FamilyId::parse(sample::session_id(7).as_str()).unwrap(),
            expires_at: NOW + time::Duration::days(1),
            rate: None,
        };
        let token = AccessToken { issuer: String::new(), caller, issued_at: NOW, token_id: String::new() };
        tokens.sign(&token).await.unwrap().expose_secret().to_owned()
    }

    /// An answer: status, headers, body.
    struct Told(u16, HeaderMap, Value);

    impl World {
        async fn send(
            &self,
            method: Method,
            path: &str,
            headers: &[(&'static str, &str)],
            body: impl Into<Vec<u8>>,
        ) -> Told {
            let mut request = Request::new(body.into().into());
            *request.method_mut() = method;
            let path = format!("/v1/lark/{path}");
            *request.uri_mut() = format!("https://api.example{}", path.replace(' ', "%20")).parse().unwrap();
            request.headers_mut().insert(header::HOST, "api.example".parse().unwrap());
            request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {}", self.token).parse().unwrap());
            for (name, value) in headers {
                request.headers_mut().insert(*name, value.parse().unwrap());
            }
            let request = request.with_raw_http_path(path.split('?').next().unwrap());
            match answer(&self.gate, &self.api, request, self.clock.now()).await {
                Ok(response) => {
                    let body = serde_json::from_slice(response.body()).unwrap();
                    Told(response.status().as_u16(), response.headers().clone(), body)
                }
                Err(stopped) => {
                    let details: Map<String, Value> =
                        stopped.fields().into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect();
                    let body =
                        json!({ "error": stopped.code(), "message": stopped.public_message(), "fields": details });
                    Told(http::status(&stopped).as_u16(), HeaderMap::new(), body)
                }
            }
        }

        async fn get(&self, path: &str) -> Told {
            self.send(Method::GET, path, &[], "").await
        }

        async fn post(&self, path: &str, body: &Value) -> Told {
            self.send(Method::POST, path, &[("content-type", "application/json; charset=utf-8")], body.to_string())
                .await
        }

        /// A call in somebody's name.
        async fn call_as(&self, name: &str, path: &str) -> Told {
            self.send(Method::GET, &format!("cli_a/{path}"), &[(AS, name)], "").await
        }

        async fn fault(&self, path_prefix: &str, kind: &str, times: u32) {
            let fault = json!({ "path_prefix": path_prefix, "kind": kind, "times": times });
            self.sandbox.add_fault(serde_json::from_value(fault).unwrap()).await.unwrap();
        }

        /// How often an endpoint was called.
        async fn calls(&self, endpoint: &str) -> u64 {
            self.sandbox.calls().await.unwrap().of(endpoint)
        }

        /// The person approves these scopes.
        async fn authorize(&self, open_id: &str, scope: &str) {
            static NEXT: AtomicU32 = AtomicU32::new(1);
            let url = format!(
                "{}/open-apis/authen/v1/authorize?client_id=cli_a&redirect_uri={REDIRECT}&state=s&scope={}",
                self.sandbox.base_url(),
                scope.replace(' ', "%20")
            );
            let consent = Consent { url, open_id: open_id.to_owned(), approve: true };
            let location = self.sandbox.authorize(consent).await.unwrap();
            let code = location.split(['?', '&']).find_map(|pair| pair.strip_prefix("code=")).unwrap();
            let session_id = sample::session_id(NEXT.fetch_add(1, Ordering::SeqCst));
            let session = Session { session_id, open_id: sample::open_id(open_id), ..sample::session(1) };
            let session =
                Session { created_at: self.clock.now(), expires_at: self.clock.now() + FORGET_AFTER, ..session };
            SessionStore::create(self.table.as_ref(), &session).await.unwrap();
            let approval = Approval { code: code.into(), attempt: None };
            self.api.authorization.complete(&session, &approval, self.clock.now()).await.unwrap();
        }

        async fn cards(&self) -> Vec<lark_sandbox::SeenMessage> {
            self.sandbox.messages(Some("cli_a".to_owned()), None, 100).await.unwrap()
        }
    }

    fn card() -> Value {
        json!({ "open_id": "ou_ann", "scopes": ["im:message"], "reason": "每周五发送周报 📅" })
    }

    #[tokio::test]
    async fn only_a_token_with_the_scope_comes_in() {
        let mut world = world().await;
        let tokens = Arc::<MemoryTokens>::default();
        world.gate = Gate::new(tokens.clone(), Arc::new(MemoryLimiter::default()));
        world.token = access_token(&tokens, [Scope::Chat, Scope::LakeRead].into()).await;
        let Told(status, _, body) = world.call_as("tenant", "open-apis/bot/v3/info").await;
        assert_eq!((status, &body["error"]), (403, &json!("insufficient_scope")));
        world.token = "access-9".to_owned();
        assert_eq!(world.post("cli_a/auth-cards", &card()).await.0, 401);
        assert_eq!(world.sandbox.calls().await.unwrap().total, 0);
    }

    #[tokio::test]
    async fn a_person_is_asked_by_card_and_the_session_can_be_followed() {
        let world = world().await;
        let Told(status, _, body) = world.post("cli_a/auth-cards", &card()).await;
        let message_id = body["message_id"].as_str().unwrap();
        assert_eq!(
            (status, body["expires_at"].as_str()),
            (202, body["expires_at"].as_str().filter(|at| at.starts_with("2026-11-21T09:10:0"))),
            "{body}"
        );
        let cards = world.cards().await;
        assert_eq!((cards.len(), cards[0].message_id.as_str()), (1, message_id));
        let shown = cards[0].card.as_ref().unwrap().to_string();
        let session_id = body["session_id"].as_str().unwrap();
        let link = format!("https://api.example/lark/cli_a/oauth/start?session_id={session_id}");
        assert!(shown.contains(&link) && shown.contains("每周五发送周报 📅"), "{shown}");

        let Told(status, _, session) = world.get(&format!("cli_a/sessions/{session_id}")).await;
        assert_eq!((status, &session["status"], &session["message_id"]), (200, &json!("pending"), &json!(message_id)));
        assert_eq!(session["scopes"], json!(["im:message", "offline_access"]));
        world.clock.advance(time::Duration::minutes(10));
        assert_eq!(world.get(&format!("cli_a/sessions/{session_id}")).await.2["status"], "expired", "before any sweep");
    }

    #[tokio::test]
    async fn a_detailed_card_links_to_the_privacy_page_and_a_concise_one_does_not() {
        let world = world().await;
        for detailed in [true, false] {
            let mut asked = card();
            asked["include_detailed_description"] = detailed.into();
            let Told(status, _, body) = world.post("cli_a/auth-cards", &asked).await;
            assert_eq!(status, 202, "{body}");
            let sent = world.cards().await.into_iter().find(|sent| body["message_id"] == sent.message_id).unwrap();
            let shown = sent.card.unwrap().to_string();
            assert_eq!(shown.contains(PRIVACY), detailed, "{shown}");
        }
    }

    #[tokio::test]
    async fn every_bad_field_is_named() {
        let world = world().await;
        let long = "因".repeat(501);
        for (body, fields) in [
            (json!({}), vec!["open_id", "scopes"]),
            (json!({ "open_id": null, "scopes": null }), vec!["open_id", "scopes"]),
            (json!({ "open_id": 7, "scopes": "im:message" }), vec!["open_id", "scopes"]),
            (json!({ "open_id": "a#b", "scopes": [1] }), vec!["open_id", "scopes"]),
            (
                json!({ "open_id": "ou_ann", "scopes": ["a b"], "reason": long, "template_id": "x" }),
                vec!["reason", "scopes", "template_id"],
            ),
            (
                json!({ "open_id": "ou_ann", "scopes": [], "include_detailed_description": "yes", "tenant_key": "a#b" }),
                vec!["include_detailed_description", "tenant_key"],
            ),
            (json!([1]), vec!["body"]),
        ] {
            let Told(status, _, answer) = world.post("cli_a/auth-cards", &body).await;
            assert_eq!((status, &answer["error"]), (400, &json!("invalid_request")), "{body}");
            let named: Vec<&str> = answer["fields"].as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(named, fields, "{body}: {answer}");
        }
        let json = ("content-type", "application/json");
        for (headers, body, status) in [
            (vec![json], "{".to_owned(), 400),
            (vec![json], String::new(), 400),
            (vec![("content-type", "text/plain")], "{}".to_owned(), 415),
            (vec![json], " ".repeat(MAX_BODY + 1), 413),
        ] {
            assert_eq!(world.send(Method::POST, "cli_a/auth-cards", &headers, body).await.0, status);
        }
        assert!(world.cards().await.is_empty());
    }

    #[tokio::test]
    async fn an_app_or_session_or_path_that_is_not_there_is_told_so() {
        let world = world().await;
        let session_id = world.post("cli_a/auth-cards", &card()).await.2["session_id"].as_str().unwrap().to_owned();
        world.table.put(&sample::openable_app("cli_b").await).await.unwrap();
        for (method, path, status, error) in [
            (Method::POST, "cli_nobody/auth-cards".to_owned(), 404, "unknown_app"),
            (Method::POST, "cli_off/auth-cards".to_owned(), 403, "app_disabled"),
            (Method::GET, "cli_off/open-apis/bot/v3/info".to_owned(), 403, "app_disabled"),
            (Method::GET, "a%23b/open-apis/bot/v3/info".to_owned(), 400, "invalid_request"),
            (Method::GET, format!("cli_b/sessions/{session_id}"), 404, "unknown_session"),
            (Method::GET, format!("cli_a/sessions/{}", sample::session_id(9)), 404, "unknown_session"),
            (Method::GET, "cli_a/sessions/1".to_owned(), 400, "invalid_request"),
            (Method::GET, "cli_a/users/a%23b/token".to_owned(), 400, "invalid_request"),
            (Method::PUT, "cli_a/auth-cards".to_owned(), 404, "not_found"),
            (Method::GET, "cli_a/nothing".to_owned(), 404, "not_found"),
        ] {
            let Told(told, _, body) = world.send(method, &path, &[], "").await;
            assert_eq!((told, &body["error"]), (status, &json!(error)), "{path}");
        }
    }

    #[tokio::test]
    async fn one_person_is_asked_five_times_a_minute_at_most() {
        let world = world().await;
        for n in 0..5 {
            assert_eq!(world.post("cli_a/auth-cards", &card()).await.0, 202, "{n}");
        }
        let Told(status, _, body) = world.post("cli_a/auth-cards", &card()).await;
        assert_eq!((status, &body["error"]), (429, &json!("rate_limited")));
        let lina = json!({ "open_id": "ou_lina", "scopes": [] });
        assert_eq!(world.post("cli_a/auth-cards", &lina).await.0, 202, "others may be asked");
        world.clock.advance(time::Duration::seconds(62));
        assert_eq!(world.post("cli_a/auth-cards", &card()).await.0, 202);
        assert_eq!(world.cards().await.len(), 7);
    }

    #[tokio::test]
    async fn a_card_that_the_vendor_does_not_take_now_is_promised_and_one_that_it_never_takes_is_refused() {
        let world = world().await;
        world.fault("/open-apis/im", "timeout", 1).await;
        let Told(status, _, body) = world.post("cli_a/auth-cards", &card()).await;
        assert_eq!((status, &body["message_id"]), (202, &Value::Null), "{body}");
        let session_id = SessionId::parse(body["session_id"].as_str().unwrap()).unwrap();
        world.api.authorization.follow(&session_id, "https://api.example", None, NOW).await.unwrap();
        assert_eq!(world.cards().await.len(), 1, "as whoever hears the bell does");

        world.fault("/open-apis/im", "code:230013", 1).await;
        let Told(status, _, body) = world.post("cli_a/auth-cards", &card()).await;
        assert_eq!((status, &body["error"]), (409, &json!("vendor_refused")));
        assert!(body["message"].as_str().unwrap().contains("230013"), "{body}");
        let session = SessionStore::get(world.table.as_ref(), &sample::session_id(1001)).await.unwrap().unwrap();
        assert_eq!(session.status, SessionStatus::Failed, "nobody tries again");
    }

    #[tokio::test]
    async fn the_state_of_a_token_is_told_and_neither_the_token_nor_the_number() {
        let world = world().await;
        let Told(status, _, body) = world.get("cli_a/users/ou_ann/token").await;
        assert_eq!((status, &body["status"]), (200, &json!("authorization_required")));
        world.authorize("ou_ann", "offline_access im:message").await;
        let mut stored =
            world.api.tokens.tokens.get(&sample::app_id("cli_a"), &sample::open_id("ou_ann")).await.unwrap().unwrap();
        let before = stored.clone();
        stored.profile.mobile = Some("+8613800000000".to_owned());
        world.api.tokens.tokens.replace(&before, &stored, None).await.unwrap();

        let Told(_, _, body) = world.get("cli_a/users/ou_ann/token").await;
        assert_eq!((&body["status"], &body["profile"]["name"]), (&json!("authorized"), &json!("Ann Carter")));
        assert_eq!(body["scopes"], json!(["auth:user.id:read", "im:message", "offline_access"]), "{body}");
        for field in ["access_expires_at", "refresh_expires_at", "ends_at"] {
            assert!(body[field].is_string(), "{field}");
        }
        let text = body.to_string();
        assert!(
            !text.contains("13800000000") && !text.contains("eyJ") && !text.contains(stored.pair.0.as_str()),
            "{text}"
        );

        world.clock.advance(time::Duration::hours(3));
        assert_eq!(world.get("cli_a/users/ou_ann/token").await.2["status"], "authorized", "it can be refreshed");
        for _ in 0..2 {
            let Told(status, _, body) = world.send(Method::DELETE, "cli_a/users/ou_ann/token", &[], "").await;
            assert_eq!((status, &body["status"]), (200, &json!("authorization_required")));
        }
        assert_eq!(world.call_as("user:ou_ann", USER_INFO).await.0, 401);
    }

    #[tokio::test]
    async fn a_call_is_made_as_the_app_or_as_a_person() {
        let world = world().await;
        let Told(status, headers, body) = world.get("cli_a/open-apis/bot/v3/info").await;
        assert_eq!(
            (status, &body["code"], &body["message"], &body["retryable"]),
            (200, &json!(0), &json!("success"), &json!(false))
        );
        assert_eq!((&body["lark_log_id"], body["data"].is_object()), (&json!(headers[LOG_ID].to_str().unwrap()), true));
        let hello = json!({ "receive_id": "ou_ann", "msg_type": "text", "content": "{\"text\":\"你好 🙂\"}" });
        let Told(status, _, body) = world.post(&format!("cli_a/{SEND}"), &hello).await;
        assert_eq!((status, body["data"]["message_id"].as_str().map(|id| &id[..3])), (200, Some("om_")), "{body}");

        world.authorize("ou_xiaoming", "offline_access im:message").await;
        let Told(status, _, body) = world.call_as("user:ou_xiaoming", USER_INFO).await;
        assert_eq!(
            (status, &body["data"]["open_id"], &body["data"]["name"]),
            (200, &json!("ou_xiaoming"), &json!("王小明"))
        );
        let Told(status, _, body) = world.call_as("tenant:t1", USER_INFO).await;
        assert_eq!((status, &body["error"]), (403, &json!("token_not_accepted")), "{body}");
    }

    #[tokio::test]
    async fn a_call_goes_nowhere_but_below_the_api() {
        let world = world().await;
        for (path, field) in
            [("open-apis/../sandbox/apps", "path"), ("open-apis/im/./v1", "path"), ("open-apis/im/..", "path")]
        {
            let Told(status, _, body) = world.get(&format!("cli_a/{path}")).await;
            assert_eq!(
                (status, &body["error"], body["retryable"].as_bool()),
                (400, &json!("invalid_request"), Some(false)),
                "{path}"
            );
            assert!(body["details"]["fields"][field].is_string(), "{path}: {body}");
        }
        assert_eq!(world.get("cli_a/open-apis\\..\\x").await.0, 404);
        for name in ["", "Tenant", "tenant:", "tenant:a#b", "user", "user:", "user:a b", "app", "user:ou_a,tenant"] {
            let Told(status, _, body) = world.call_as(name, USER_INFO).await;
            assert_eq!((status, body["details"]["fields"][AS].is_string()), (400, true), "{name:?}: {body}");
        }
        let multipart = [("content-type", "multipart/form-data; boundary=x")];
        let Told(status, _, body) = world.send(Method::POST, "cli_a/open-apis/im/v1/images", &multipart, "--x--").await;
        assert_eq!((status, &body["error"]), (415, &json!("unsupported_media_type")));
        assert!(body["message"].as_str().unwrap().contains("not `application/json`"));
        let large = " ".repeat(MAX_BODY + 1);
        assert_eq!(world.send(Method::POST, &format!("cli_a/{SEND}"), &[], large).await.0, 413);
        assert_eq!(world.sandbox.calls().await.unwrap().total, 0);
    }

    #[tokio::test]
    async fn what_the_vendor_says_comes_back_in_the_envelope() {
        let world = world().await;
        let Told(status, headers, body) = world.post(&format!("cli_a/{SEND}"), &json!({ "msg_type": "text" })).await;
        assert_eq!(
            (status, &body["error"], &body["data"]),
            (400, &json!("vendor_invalid_request"), &Value::Null),
            "{body}"
        );
        assert!(body["code"].as_i64().unwrap() > 0 && body["details"]["advice"].is_string(), "{body}");
        assert_eq!(body["lark_log_id"], headers[LOG_ID].to_str().unwrap());
        let Told(status, _, body) = world.get("cli_a/open-apis/nothing/v1").await;
        assert_eq!((status, &body["error"], &body["code"]), (404, &json!("unknown_api"), &Value::Null));

        world.fault("/open-apis/im", "rate_limit", 1).await;
        let hello = json!({ "receive_id": "ou_ann", "msg_type": "text", "content": "{\"text\":\"x\"}" });
        let Told(status, headers, body) = world.post(&format!("cli_a/{SEND}"), &hello).await;
        assert_eq!((status, &body["code"], &body["retryable"]), (429, &json!(99_991_400), &json!(true)));
        assert!(headers[header::RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap() >= 1);
        world.fault("/open-apis/im", "http_500", 1).await;
        let Told(status, headers, body) = world.post(&format!("cli_a/{SEND}"), &hello).await;
        assert_eq!((status, &body["retryable"], headers.contains_key(header::RETRY_AFTER)), (503, &json!(true), true));
    }

    #[tokio::test]
    async fn what_may_be_repeated_is_and_what_may_not_is_not() {
        let world = world().await;
        assert_eq!(world.get("cli_a/open-apis/bot/v3/info").await.0, 200);
        world.fault("/open-apis/", "drop_after_processing", 1).await;
        assert_eq!(world.get("cli_a/open-apis/bot/v3/info").await.0, 200);

        let hello = json!({ "receive_id": "ou_ann", "msg_type": "text", "content": "{\"text\":\"x\"}" });
        let mut with_key = hello.clone();
        with_key["uuid"] = "weekly-report-47".into();
        world.fault("/open-apis/im", "drop_after_processing", 1).await;
        assert_eq!(world.post(&format!("cli_a/{SEND}"), &with_key).await.0, 200);
        assert_eq!(world.cards().await.len(), 1, "the key finds the message");

        world.fault("/open-apis/im", "drop_after_processing", 1).await;
        let Told(status, _, body) = world.post(&format!("cli_a/{SEND}"), &hello).await;
        assert_eq!(
            (status, &body["error"], &body["retryable"]),
            (502, &json!("vendor_unreachable"), &json!(true)),
            "{body}"
        );
        assert_eq!(world.cards().await.len(), 2, "and nobody sent it twice");
    }

    #[tokio::test]
    async fn a_rejected_token_is_renewed_and_the_call_made_once_more() {
        let world = world().await;
        assert_eq!(world.get("cli_a/open-apis/bot/v3/info").await.0, 200);
        world.fault("/open-apis/bot", "code:99991663", 1).await;
        assert_eq!(world.get("cli_a/open-apis/bot/v3/info").await.0, 200);

        world.authorize("ou_ann", "offline_access im:message").await;
        let path = "/open-apis/authen/v2/oauth/token";
        let before = world.calls(&format!("POST {path}")).await;
        world.fault("/open-apis/authen/v1/user_info", "code:99991677", 1).await;
        assert_eq!(world.call_as("user:ou_ann", USER_INFO).await.0, 200);
        assert_eq!(world.calls(&format!("POST {path}")).await, before + 1, "refreshed once");
        // The first call, the profile that comes with a refresh, and the second call.
        world.fault("/open-apis/authen/v1/user_info", "code:99991668", 3).await;
        let Told(status, _, body) = world.call_as("user:ou_ann", USER_INFO).await;
        assert_eq!((status, &body["error"]), (403, &json!("token_not_accepted")), "the API does not take such tokens");
    }

    #[tokio::test]
    async fn a_refresh_that_nobody_waits_for_is_finished() {
        let world = world().await;
        world.authorize("ou_ann", "offline_access im:message").await;
        world.clock.advance(time::Duration::hours(3));
        world.fault("/open-apis/authen/v2/oauth/token", "slow:300", 1).await;
        let called = tokio::time::timeout(Duration::from_millis(100), world.call_as("user:ou_ann", USER_INFO)).await;
        assert!(called.is_err(), "given up in the middle");
        let (app_id, open_id) = (sample::app_id("cli_a"), sample::open_id("ou_ann"));
        let refreshed = async || {
            while world.api.tokens.tokens.get(&app_id, &open_id).await.unwrap().unwrap().version == 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), refreshed()).await.unwrap();
        assert_eq!(world.call_as("user:ou_ann", USER_INFO).await.0, 200);
    }

    #[tokio::test]
    async fn a_person_without_a_token_gets_one_card_and_the_caller_its_session() {
        let world = world().await;
        let wanted = [(AS, "user:ou_lina"), (SCOPES, "im:message, contact:user.base:readonly")];
        let path = format!("cli_a/{USER_INFO}");
        let Told(status, _, body) = world.send(Method::GET, &path, &wanted, "").await;
        assert_eq!((status, &body["error"]), (401, &json!("authorization_required")), "{body}");
        assert_eq!(
            (&body["code"], &body["retryable"], &body["details"]["card"]),
            (&Value::Null, &json!(false), &json!("sent_now"))
        );
        let session_id = body["details"]["session_id"].as_str().unwrap().to_owned();
        let session_id = SessionId::parse(session_id).unwrap();
        assert_eq!(world.queue.rung(), [Doorbell::Card { session_id: session_id.clone(), version: 1 }]);
        let Told(_, _, session) = world.get(&format!("cli_a/sessions/{session_id}")).await;
        assert_eq!(session["scopes"], json!(["contact:user.base:readonly", "im:message", "offline_access"]));

        let Told(status, _, body) = world.send(Method::GET, &path, &wanted, "").await;
        assert_eq!((status, &body["details"]["card"]), (401, &json!("sent_before")));
        assert_eq!((&body["details"]["session_id"], world.queue.rung().len()), (&json!(session_id), 1));
    }

    #[tokio::test]
    async fn a_missing_scope_asks_the_person_for_what_is_missing() {
        let world = world().await;
        world.authorize("ou_ann", "offline_access im:message").await;
        let path = "open-apis/contact/v3/users/ou_xiaoming";
        let Told(status, headers, body) = world.call_as("user:ou_ann", path).await;
        assert_eq!((status, &body["code"]), (401, &json!(99_991_679)), "{body}");
        assert_eq!(
            (body["details"]["missing_scopes"].as_array().unwrap().len(), headers.contains_key(LOG_ID)),
            (4, true)
        );
        let session = world.get(&format!("cli_a/sessions/{}", body["details"]["session_id"].as_str().unwrap())).await.2;
        assert_eq!(session["scopes"].as_array().unwrap().len(), 6, "the missing ones, and what was granted before");

        // Any one of the four will do: the caller may say which.
        let wanted = [(AS, "user:ou_ann"), (SCOPES, "contact:user.base:readonly")];
        let Told(_, _, body) = world.send(Method::GET, &format!("cli_a/{path}"), &wanted, "").await;
        let session = world.get(&format!("cli_a/sessions/{}", body["details"]["session_id"].as_str().unwrap())).await.2;
        assert_eq!(session["scopes"], json!(["contact:user.base:readonly", "im:message", "offline_access"]));
        world.authorize("ou_ann", "offline_access im:message contact:user.base:readonly").await;
        world.clock.advance(time::Duration::minutes(1));
        assert_eq!(world.call_as("user:ou_ann", path).await.0, 200);
    }

    #[test]
    fn an_outgoing_call_is_as_it_came() {
        let mut request = Request::new(r#"{"b": [1, {"文": "字 🈶"}], "a": 12345678901234567890}"#.into());
        *request.method_mut() = Method::PATCH;
        *request.uri_mut() = "https://x/y?id=1&id=2&empty=&q=%E4%BD%A0+%26".parse().unwrap();
        let outgoing = Outgoing::read(&request, "open-apis/im/v1/消息/a:b!c").unwrap();
        let query: Vec<(&str, &str)> =
            outgoing.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(query, [("id", "1"), ("id", "2"), ("empty", ""), ("q", "你 &")]);
        assert_eq!((outgoing.path.as_str(), &outgoing.method), ("/open-apis/im/v1/消息/a:b!c", &Method::PATCH));
        assert_eq!(outgoing.body, Some(json!({ "a": 12_345_678_901_234_567_890_u64, "b": [1, { "文": "字 🈶" }] })));
        assert_eq!(outgoing.repeat, Repeat::Once);
    }

    #[test]
    fn a_key_makes_a_call_repeatable_wherever_it_is() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let keyed = |query: &[(String, String)], body: Value| has_key(query, Some(&body));
        assert!(keyed(&[pair("client_token", "x")], Value::Null) && keyed(&[], json!({ "uuid": "x" })));
        for body in [
            json!({}),
            json!({ "uuid": "" }),
            json!({ "uuid": 7 }),
            json!({ "data": { "uuid": "x" } }),
            json!(["uuid"]),
        ] {
            assert!(!keyed(&[pair("uuid", ""), pair("id", "uuid")], body.clone()), "{body}");
        }
    }
}
