//! A WebSocket API: handshake with authorizer and `$connect`, messages by route, `$disconnect`, `@connections`.

mod connection;
mod event;
mod handshake;
mod management;
mod message;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Body, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::{TokioIo, TokioTimer};
use local_lambda::Invoker;
use serde_json::{Map, Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::Instant,
};

pub use self::management::{ConnectionInfo, Connections, ConnectionsError, Identity};
use self::{
    connection::{Connection, Ended, INBOUND_QUEUE, OutboundQueue},
    event::Events,
    message::parse_selection,
};
use crate::{
    access::{self, AccessRecord, Observer},
    authorizer::{Authorizer, Gate},
    error::ConfigError,
    http_api::{self, MalformedAnswer},
    integration::{self, IntegrationError},
    server::{self, Peer, Stop, message_answer},
    source,
};

/// Time for `$disconnect` when the API is told to stop.
const GRACE: Duration = Duration::from_secs(5);
const CONNECT: &str = "$connect";
const DISCONNECT: &str = "$disconnect";
const DEFAULT: &str = "$default";

/// An `AWS::ApiGatewayV2::Api` of protocol `WEBSOCKET`, with one stage.
#[derive(Debug, Clone)]
pub struct WebSocketConfig {
    pub id: String,
    /// Clients connect to `/{stage}`, or to `/` as behind a custom domain.
    pub stage: String,
    pub stage_variables: BTreeMap<String, String>,
    /// `$request.body.action` or a longer path of fields.
    pub route_selection_expression: String,
    /// Keys are `$connect`, `$disconnect`, `$default` or what the selection yields. All of them are optional.
    pub routes: BTreeMap<String, WebSocketRoute>,
    pub connect_authorizer: Option<Authorizer>,
    pub region: String,
    pub account: String,
    /// `requestContext.domainName`.
    pub domain: String,
    pub limits: WebSocketLimits,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketRoute {
    pub function: String,
    /// With a route response, the `body` of the function's answer is sent to the client.
    pub route_response: bool,
}

impl WebSocketRoute {
    /// A route without a route response.
    pub fn new(function: impl Into<String>) -> Self {
        Self { function: function.into(), route_response: false }
    }
}

/// AWS's limits by default; tests and drills shorten them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebSocketLimits {
    /// 10 minutes without a frame in either direction.
    pub idle_timeout: Duration,
    /// 2 hours.
    pub max_duration: Duration,
    /// 29 seconds.
    pub integration_timeout: Duration,
    /// How long a post to a client whose buffer is full waits before it fails.
    pub post_wait: Duration,
    /// What may wait for one client.
    pub outbound_buffer_bytes: usize,
}

impl Default for WebSocketLimits {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(10 * 60),
            max_duration: Duration::from_secs(2 * 60 * 60),
            integration_timeout: Duration::from_secs(29),
            post_wait: Duration::from_secs(5),
            outbound_buffer_bytes: 1024 * 1024,
        }
    }
}

/// A running WebSocket API; clones are the same API.
#[derive(Clone)]
pub struct WebSocketApi {
    inner: Arc<Inner>,
}

struct Inner {
    config: WebSocketConfig,
    /// The fields that lead to the route key within a message.
    selection: Vec<String>,
    gate: Option<Gate>,
    connections: Connections,
    invoker: Arc<dyn Invoker>,
    observer: Option<Observer>,
}

impl fmt::Debug for WebSocketApi {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WebSocketApi").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

/// A connection whose handshake was answered with 101.
struct Accepted {
    connection: Arc<Connection>,
    queue: OutboundQueue,
    upgrade: OnUpgrade,
}

/// Where an HTTP connection leaves the handshake it is in, so that the socket goes on in the same task.
type Pending = Arc<Mutex<Option<JoinHandle<Option<Accepted>>>>>;

/// One thing that the gateway does for a client, and that is logged as one request.
struct Started {
    request_id: String,
    at: time::OffsetDateTime,
    since: Instant,
}

impl Started {
    fn now() -> Self {
        Self { request_id: source::opaque_id(), at: source::now(), since: Instant::now() }
    }
}

impl WebSocketApi {
    /// Fails when API Gateway would not create such an API.
    pub fn new(config: WebSocketConfig, invoker: Arc<dyn Invoker>) -> Result<Self, ConfigError> {
        Self::with_observer(config, invoker, None)
    }

    /// As [`WebSocketApi::new`], with a hook that sees every handshake, message, `$disconnect` and management request.
    pub fn with_observer(
        config: WebSocketConfig,
        invoker: Arc<dyn Invoker>,
        observer: Option<Observer>,
    ) -> Result<Self, ConfigError> {
        let selection = parse_selection(&config.route_selection_expression)?;
        let gate = config.connect_authorizer.as_ref().map(Gate::new).transpose()?;
        let connections = Connections::new(config.limits.post_wait);
        Ok(Self { inner: Arc::new(Inner { config, selection, gate, connections, invoker, observer }) })
    }

    /// The open connections.
    pub fn connections(&self) -> Connections {
        self.inner.connections.clone()
    }

    /// Serves sockets and `@connections` until `shutdown` resolves. Then every socket is closed with 1001, and their
    /// `$disconnect` invocations have 5 s.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        server::accept(listener, shutdown, GRACE, |stream, peer, stop| self.clone().connection(stream, peer, stop))
            .await;
    }

    /// `/@connections/{id}` and `/{stage}/@connections/{id}`; any other path is refused with 403.
    pub async fn handle_management<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
    {
        let started = Started::now();
        let mut answer = match management::connection_id(request.uri().path(), &self.inner.config.stage) {
            Some(id) => self.inner.connections.answer(&id, request).await,
            None => message_answer(StatusCode::FORBIDDEN, "Forbidden"),
        };
        if let Ok(id) = HeaderValue::from_str(&started.request_id) {
            answer.headers_mut().insert("x-amzn-requestid", id);
        }
        self.report(&started, None, answer.status());
        answer
    }

    async fn connection(self, stream: TcpStream, peer: Peer, mut stop: Stop) {
        let pending = Pending::default();
        {
            let service = service_fn(|request| {
                let (api, pending) = (self.clone(), Arc::clone(&pending));
                async move { Ok::<_, std::convert::Infallible>(api.request(peer, request, &pending).await) }
            });
            let connection =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            let connection = connection.with_upgrades();
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
        // The client may have gone while `$connect` was running: its answer is still waited for, because what the
        // function has written down must be undone by `$disconnect`.
        let handshake = pending.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(handshake) = handshake
            && let Ok(Some(accepted)) = handshake.await
        {
            self.run(accepted, stop).await;
        }
    }

    /// The life of an accepted connection; its `$disconnect` is invoked here and nowhere else.
    async fn run(&self, accepted: Accepted, stop: Stop) {
        let Accepted { connection, queue, upgrade } = accepted;
        let gone = || self.inner.connections.remove(&connection.id);
        let ended = match upgrade.await {
            Ok(upgraded) => {
                let (inbound, mut received) = mpsc::channel(INBOUND_QUEUE);
                let dispatch = async {
                    while let Some(body) = received.recv().await {
                        self.message(&connection, body).await;
                    }
                };
                let carry = connection.carry(upgraded, queue, &self.inner.config.limits, stop, inbound, gone);
                // Messages that came before the end are still worked on, so that `$disconnect` is the last event.
                tokio::join!(carry, dispatch).0
            }
            Err(_) => {
                gone();
                Ended::dropped()
            }
        };
        self.disconnect(&connection, &ended).await;
    }

    async fn disconnect(&self, connection: &Connection, ended: &Ended) {
        let Some(route) = self.inner.config.routes.get(DISCONNECT) else { return };
        let started = Started::now();
        let Ok(event) = self.events(connection, &started).disconnect(ended.code, &ended.reason) else { return };
        // Nobody is left who could be told of a failure; it has been logged.
        let status = match self.invoke(&route.function, event).await {
            Ok(_) => StatusCode::OK,
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        self.report(&started, Some(DISCONNECT), status);
    }

    fn events<'a>(&'a self, connection: &'a Connection, started: &'a Started) -> Events<'a> {
        Events { config: &self.inner.config, connection, request_id: &started.request_id, at: started.at }
    }

    async fn invoke(&self, function: &str, event: Vec<u8>) -> Result<Bytes, IntegrationError> {
        integration::invoke(&self.inner.invoker, function, event, self.inner.config.limits.integration_timeout).await
    }

    fn report(&self, started: &Started, route_key: Option<&str>, status: StatusCode) {
        let record = AccessRecord {
            api_id: self.inner.config.id.clone(),
            request_id: started.request_id.clone(),
            route_key: route_key.map(ToOwned::to_owned),
            status: status.as_u16(),
            latency: started.since.elapsed(),
        };
        access::report(self.inner.observer.as_ref(), &record);
    }
}

/// A function's answer in the form that Lambda proxy integrations demand, `{"statusCode": 200, ..}`.
struct ProxyAnswer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl ProxyAnswer {
    fn parse(payload: &[u8]) -> Result<Self, MalformedAnswer> {
        let mut fields: Map<String, Value> = serde_json::from_slice(payload).map_err(|_| MalformedAnswer::Json)?;
        let mut field = |name| fields.remove(name).unwrap_or(Value::Null);
        Ok(Self {
            status: http_api::answer_status(&field("statusCode"))?,
            headers: http_api::answer_headers(field("headers"))?,
            body: http_api::answer_body(field("body"), &field("isBase64Encoded"))?,
        })
    }

    fn refusal(self) -> Response<Full<Bytes>> {
        let mut answer = Response::new(Full::new(self.body));
        *answer.status_mut() = self.status;
        *answer.headers_mut() = self.headers;
        answer
    }
}

/// What a client is told when no function answers it.
fn failure_message(message: &str, connection_id: &str, request_id: &str) -> String {
    json!({ "message": message, "connectionId": connection_id, "requestId": request_id }).to_string()
}
