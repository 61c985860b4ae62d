//! An HTTP API: routes, Lambda authorizers, Lambda proxy integrations, CORS and limits.

mod answer;
mod cors;
mod event;
mod route;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, request::Parts};
use http_body_util::Full;
use hyper::{body::Body, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use local_lambda::{InvokeError, Invoker};
use time::OffsetDateTime;
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};

pub(crate) use self::answer::{
    MalformedAnswer, body as answer_body, headers as answer_headers, status as answer_status,
};
pub use self::cors::Cors;
use self::{
    event::{AuthorizerContext, RequestFields, Routed},
    route::{Route, Router},
};
use crate::{
    access::{self, AccessRecord, Observer},
    authorizer::{self, Authorizer, Decision, Gate},
    error::ConfigError,
    integration::{self, IntegrationError},
    server::{self, BodyError, Peer, Stop, message_answer},
    source,
};

const MAX_BODY_BYTES: usize = 10 * 1024 * 1024;
const MAX_HEADER_BYTES: usize = 10_240;
/// Requests that run when the API is told to stop may take this long to finish.
const GRACE: Duration = Duration::from_secs(5);

/// An `AWS::Serverless::HttpApi` or `AWS::ApiGatewayV2::Api` of protocol `HTTP`.
#[derive(Debug, Clone)]
pub struct HttpApiConfig {
    pub id: String,
    /// `$default` is served at `/`, any other stage at `/{stage}`.
    pub stage: String,
    pub stage_variables: BTreeMap<String, String>,
    pub routes: Vec<HttpRoute>,
    pub cors: Option<Cors>,
    pub region: String,
    pub account: String,
    /// `requestContext.domainName`.
    pub domain: String,
    /// How long a client waits for a function; [`HttpApi::INTEGRATION_TIMEOUT`] on AWS.
    pub integration_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRoute {
    /// `GET /pets/{id}`, `ANY /files/{path+}` or `$default`.
    pub route_key: String,
    pub function: String,
    pub authorizer: Option<Authorizer>,
}

impl HttpRoute {
    /// A route that is open to everyone.
    pub fn new(route_key: impl Into<String>, function: impl Into<String>) -> Self {
        Self { route_key: route_key.into(), function: function.into(), authorizer: None }
    }
}

/// A running HTTP API; clones are the same API.
#[derive(Clone)]
pub struct HttpApi {
    inner: Arc<Inner>,
}

struct Inner {
    config: HttpApiConfig,
    router: Router,
    invoker: Arc<dyn Invoker>,
    observer: Option<Observer>,
}

impl fmt::Debug for HttpApi {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HttpApi").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

/// An answer, and the route it came through.
struct Answered {
    route_key: Option<String>,
    response: Response<Full<Bytes>>,
}

impl Answered {
    fn by_gateway(status: StatusCode, message: &str) -> Self {
        Self { route_key: None, response: message_answer(status, message) }
    }
}

impl HttpApi {
    /// AWS's limit for one integration.
    pub const INTEGRATION_TIMEOUT: Duration = Duration::from_secs(30);

    /// Fails when API Gateway would not create such an API.
    pub fn new(config: HttpApiConfig, invoker: Arc<dyn Invoker>) -> Result<Self, ConfigError> {
        Self::with_observer(config, invoker, None)
    }

    /// As [`HttpApi::new`], with a hook that sees every answered request.
    pub fn with_observer(
        config: HttpApiConfig,
        invoker: Arc<dyn Invoker>,
        observer: Option<Observer>,
    ) -> Result<Self, ConfigError> {
        let router = Router::new(&config.routes)?;
        if let Some(cors) = &config.cors {
            cors.check()?;
        }
        Ok(Self { inner: Arc::new(Inner { config, router, invoker, observer }) })
    }

    /// Serves until `shutdown` resolves; then running requests have 5 s to finish.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        server::accept(listener, shutdown, GRACE, |stream, peer, stop| self.clone().connection(stream, peer, stop))
            .await;
    }

    /// Answers one request that another listener has accepted; it may carry a [`Peer`] extension.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
    {
        let (started, at, request_id) = (Instant::now(), source::now(), source::opaque_id());
        let (parts, body) = request.into_parts();
        let Answered { route_key, mut response } = self.answer(&parts, body, &request_id, at).await;
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert("apigw-requestid", value);
        }
        let record = AccessRecord {
            api_id: self.inner.config.id.clone(),
            request_id,
            route_key,
            status: response.status().as_u16(),
            latency: started.elapsed(),
        };
        access::report(self.inner.observer.as_ref(), &record);
        response
    }

    async fn connection(self, stream: TcpStream, peer: Peer, mut stop: Stop) {
        let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
            let api = self.clone();
            request.extensions_mut().insert(peer);
            async move { Ok::<_, std::convert::Infallible>(api.handle(request).await) }
        });
        let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.requested() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a client's connection broke");
        }
    }

    async fn answer<B>(&self, parts: &Parts, body: B, request_id: &str, at: OffsetDateTime) -> Answered
    where
        B: Body<Data = Bytes>,
    {
        let cors = self.inner.config.cors.as_ref();
        if let Some(cors) = cors.filter(|_| Cors::is_preflight(&parts.method, &parts.headers)) {
            let response = empty(StatusCode::NO_CONTENT, cors.preflight_headers(&parts.headers));
            return Answered { route_key: None, response };
        }
        let mut answered = self.route(parts, body, request_id, at).await;
        if let Some(cors) = cors {
            cors.apply(&parts.headers, answered.response.headers_mut());
        }
        answered
    }

    async fn route<B>(&self, parts: &Parts, body: B, request_id: &str, at: OffsetDateTime) -> Answered
    where
        B: Body<Data = Bytes>,
    {
        if header_bytes(parts) > MAX_HEADER_BYTES {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return Answered::by_gateway(status, "Request Header Fields Too Large");
        }
        let body = match server::whole_body(body, MAX_BODY_BYTES).await {
            Ok(body) => body,
            Err(BodyError::TooLarge) => {
                return Answered::by_gateway(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large");
            }
            Err(BodyError::Broken) => return Answered::by_gateway(StatusCode::BAD_REQUEST, "Bad Request"),
        };
        let Inner { config, router, .. } = &*self.inner;
        let path = path_in_stage(parts.uri.path(), &config.stage);
        let Some((route, path_parameters)) = path.and_then(|path| router.choose(parts.method.as_str(), path)) else {
            // With CORS configured, every path has an OPTIONS method.
            if config.cors.is_some() && parts.method == Method::OPTIONS {
                return Answered { route_key: None, response: empty(StatusCode::NO_CONTENT, HeaderMap::new()) };
            }
            return Answered::by_gateway(StatusCode::NOT_FOUND, "Not Found");
        };
        let request = RequestFields::new(Routed {
            config,
            parts,
            body_len: body.len(),
            route_key: &route.route_key,
            path_parameters,
            request_id,
            at,
        });
        let response = match self.run(route, parts, request, &body).await {
            Ok(response) => response,
            Err(refusal) => refusal.answer(),
        };
        Answered { route_key: Some(route.route_key.clone()), response }
    }

    async fn run(
        &self,
        route: &Route,
        parts: &Parts,
        mut request: RequestFields,
        body: &Bytes,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        if let Some(gate) = &route.gate {
            request.request_context.authorizer = Some(self.authorize(gate, parts, &request).await?);
        }
        let event = request.integration_event(body).map_err(|_| Refusal::Internal)?;
        let answer = self.invoke(&route.function, event).await?;
        answer::from_function(&answer).map_err(|error| {
            tracing::warn!(function.name = %route.function, "`{}`: {error}", route.function);
            Refusal::Internal
        })
    }

    async fn authorize(
        &self,
        gate: &Gate,
        parts: &Parts,
        request: &RequestFields,
    ) -> Result<AuthorizerContext, Refusal> {
        let HttpApiConfig { id, stage, region, account, stage_variables, .. } = &self.inner.config;
        let header = |name: &str| request.headers.get(name).cloned();
        let query = |name: &str| request.query_string_parameters.get(name).cloned();
        let identity = gate.identity(header, query, stage_variables).ok_or(Refusal::Unauthorized)?;
        let path = path_in_stage(parts.uri.path(), stage).unwrap_or_default();
        let arn = format!("arn:aws:execute-api:{region}:{account}:{id}/{stage}/{}{path}", parts.method);
        let event = request.authorizer_event(&arn, identity).map_err(|_| Refusal::Internal)?;
        // Whatever goes wrong in an authorizer is the API's fault, never "unavailable".
        let answer = self.invoke(&gate.function, event).await.map_err(|_| Refusal::Internal)?;
        match authorizer::decide(&answer, &arn) {
            Ok(Decision::Allow { context, .. }) => Ok(AuthorizerContext { lambda: context }),
            Ok(Decision::Deny) => Err(Refusal::Forbidden),
            Err(error) => {
                tracing::warn!(function.name = %gate.function, "`{}`: {error}", gate.function);
                Err(Refusal::Internal)
            }
        }
    }

    async fn invoke(&self, function: &str, event: Vec<u8>) -> Result<Bytes, Refusal> {
        let limit = self.inner.config.integration_timeout;
        integration::invoke(&self.inner.invoker, function, event, limit).await.map_err(|error| match error {
            IntegrationError::TimedOut(_) | IntegrationError::Invoke(InvokeError::Throttled) => Refusal::Unavailable,
            IntegrationError::Invoke(InvokeError::TooLarge { .. }) => Refusal::TooLarge,
            IntegrationError::Invoke(InvokeError::NotFound(_))
            | IntegrationError::Function
            | IntegrationError::CutOff => Refusal::Internal,
        })
    }
}

/// Why a request with a route did not get an answer of the function's.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    Unauthorized,
    Forbidden,
    TooLarge,
    Internal,
    Unavailable,
}

impl Refusal {
    fn answer(self) -> Response<Full<Bytes>> {
        match self {
            Self::Unauthorized => message_answer(StatusCode::UNAUTHORIZED, "Unauthorized"),
            Self::Forbidden => message_answer(StatusCode::FORBIDDEN, "Forbidden"),
            Self::TooLarge => message_answer(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large"),
            Self::Internal => message_answer(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"),
            Self::Unavailable => message_answer(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable"),
        }
    }
}

fn empty(status: StatusCode, headers: HeaderMap) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The path behind the stage; `None` when the request is for another stage.
fn path_in_stage<'a>(path: &'a str, stage: &str) -> Option<&'a str> {
    if stage == "$default" {
        return Some(path);
    }
    match path.strip_prefix('/')?.strip_prefix(stage)? {
        "" => Some("/"),
        rest => rest.starts_with('/').then_some(rest),
    }
}

/// The request line and the header lines, as they came over the wire.
fn header_bytes(parts: &Parts) -> usize {
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let line = parts.method.as_str().len() + target + " HTTP/1.1\r\n ".len();
    let fields = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    line + fields.sum::<usize>()
}
