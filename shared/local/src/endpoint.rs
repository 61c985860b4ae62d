//! The one AWS endpoint: tells services apart as AWS's own protocols do, and counts what each function asks for.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use local_bucket::Buckets;
use local_gateway::WebSocketApi;
use local_lambda::{Functions, InvokeError, Invoker as _, Reply};
use local_queue::events::Buses;
use local_queue::sqs::Queues;
use serde::Deserialize;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpListener;

use crate::clock::{self, BundleClock, ClockError};
use crate::clockwork::Clockwork;
use crate::names::Names;

/// The largest request that is read whole; DynamoDB's is 16 MB.
const MAX_BODY: usize = 17 * 1024 * 1024;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Everything behind the endpoint.
pub(crate) struct Endpoint {
    pub(crate) tables: SocketAddr,
    pub(crate) queues: Queues,
    pub(crate) buses: Buses,
    pub(crate) buckets: Buckets,
    pub(crate) functions: Functions,
    pub(crate) sockets: Option<WebSocketApi>,
    pub(crate) names: Names,
    pub(crate) clockwork: Clockwork,
    pub(crate) clock: Arc<BundleClock>,
    pub(crate) proxy: Client<HttpConnector, Full<Bytes>>,
    pub(crate) counts: Counts,
}

/// How often each caller asked for each operation.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<BTreeMap<String, BTreeMap<String, u64>>>);

impl Counts {
    fn add(&self, caller: &str, operation: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(caller.to_owned()).or_default().entry(operation.to_owned()).or_default() += 1;
    }

    fn snapshot(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(crate) fn proxy_client() -> Client<HttpConnector, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Serves until the listener's task is dropped.
pub(crate) async fn serve(endpoint: Arc<Endpoint>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Most often no file descriptor is left; trying again at once would only spin.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        // Small answers must not wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        let endpoint = endpoint.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| async { Ok::<_, Infallible>(endpoint.answer(request).await) });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "A client's connection broke");
            }
        });
    }
}

impl Endpoint {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let caller = caller(request.headers());
        let target = request.headers().get("x-amz-target").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let path = request.uri().path().to_owned();
        if let Some((service, operation)) = target.as_deref().and_then(|target| target.split_once('.')) {
            return self.json_protocol(service, operation, &caller, request).await;
        }
        if let Some(rest) = path.strip_prefix("/2015-03-31/functions/") {
            self.counts.add(&caller, "lambda:Invoke");
            return self.lambda(rest, request).await;
        }
        if let Some(rest) = path.strip_prefix("/_skylark/") {
            return self.own(rest, request).await;
        }
        if path.contains("/@connections/") {
            self.counts.add(&caller, "execute-api:ManageConnections");
            return match &self.sockets {
                Some(sockets) => sockets.handle_management(request).await.map(boxed),
                None => error(StatusCode::NOT_FOUND, "NotFoundException", "the template has no WebSocket API"),
            };
        }
        self.counts.add(&caller, &format!("s3:{}", request.method()));
        self.buckets.handle(request).await.map(|body| body.map_err(Into::into).boxed_unsync())
    }

    async fn json_protocol(
        &self,
        service: &str,
        operation: &str,
        caller: &str,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let Ok(body) = Limited::new(body, MAX_BODY).collect().await.map(http_body_util::Collected::to_bytes) else {
            return error(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", "the request is too large");
        };
        match service {
            "DynamoDB_20120810" | "DynamoDBStreams_20120810" => {
                self.counts.add(caller, &format!("dynamodb:{operation}"));
                self.forward_to_tables(parts, body).await
            }
            "AmazonSQS" => {
                self.counts.add(caller, &format!("sqs:{operation}"));
                self.queues.handle(operation, body).await.map(|bytes| boxed(Full::new(bytes)))
            }
            "AWSEvents" => {
                self.counts.add(caller, &format!("events:{operation}"));
                self.buses.handle(operation, body).await.map(|bytes| boxed(Full::new(bytes)))
            }
            _ => {
                let message = format!("service `{service}` is not part of a local bundle");
                error(StatusCode::BAD_REQUEST, "UnknownOperationException", &message)
            }
        }
    }

    async fn forward_to_tables(&self, parts: http::request::Parts, body: Bytes) -> Response<Body> {
        let uri = Uri::builder().scheme("http").authority(self.tables.to_string()).path_and_query("/").build();
        let request = uri.ok().and_then(|uri| {
            let mut request = Request::builder().method(parts.method).uri(uri).body(Full::new(body)).ok()?;
            *request.headers_mut() = parts.headers;
            request.headers_mut().remove(HOST);
            Some(request)
        });
        let Some(request) = request else {
            return error(StatusCode::BAD_REQUEST, "SerializationException", "the request cannot be forwarded");
        };
        match self.proxy.request(request).await {
            Ok(response) => response.map(|body| body.map_err(Into::into).boxed_unsync()),
            Err(cause) => {
                tracing::error!(error = %cause, "The table engine does not answer");
                error(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", "the table engine does not answer")
            }
        }
    }

    /// `Invoke` in Lambda's own protocol.
    async fn lambda(&self, rest: &str, request: Request<Incoming>) -> Response<Body> {
        let Some((name, "invocations")) = rest.split_once('/') else {
            return error(StatusCode::NOT_FOUND, "UnknownOperationException", "only `Invoke` is served here");
        };
        if request.method() != Method::POST {
            return error(StatusCode::METHOD_NOT_ALLOWED, "UnknownOperationException", "`Invoke` is a POST");
        }
        let name = self.names.function(name).unwrap_or(name).to_owned();
        let is_event = request.headers().get("x-amz-invocation-type").is_some_and(|kind| kind == "Event");
        let Ok(payload) = request.into_body().collect().await.map(http_body_util::Collected::to_bytes) else {
            return error(StatusCode::BAD_REQUEST, "InvalidRequestContentException", "the payload broke off");
        };
        if is_event {
            return match self.functions.invoke_event(&name, payload).await {
                Ok(_) => plain(StatusCode::ACCEPTED, Bytes::new()),
                Err(cause) => error(StatusCode::BAD_REQUEST, "InvalidRequestContentException", &cause.to_string()),
            };
        }
        match self.functions.invoke(&name, payload).await {
            Ok(Reply::Success(body)) => plain(StatusCode::OK, body),
            Ok(Reply::FunctionError(body)) => {
                let mut response = plain(StatusCode::OK, body);
                response.headers_mut().insert("x-amz-function-error", HeaderValue::from_static("Unhandled"));
                response
            }
            Err(cause) => {
                let (status, kind) = match &cause {
                    InvokeError::NotFound(_) => (StatusCode::NOT_FOUND, "ResourceNotFoundException"),
                    InvokeError::Throttled => (StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException"),
                    InvokeError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLargeException"),
                };
                error(status, kind, &cause.to_string())
            }
        }
    }

    /// What AWS has no call for: firing a schedule now, moving time, and the counters.
    async fn own(&self, rest: &str, request: Request<Incoming>) -> Response<Body> {
        match (request.method(), rest.split_once('/')) {
            (&Method::POST, Some(("trigger", name))) => self.trigger(name, request.uri().query()).await,
            (&Method::GET, None) if rest == "clock" => self.reading().await,
            (&Method::POST, None) if rest == "clock" => self.advance(request.into_body()).await,
            (&Method::GET, None) if rest == "status" => {
                let functions: BTreeMap<String, Value> =
                    self.functions.stats().into_iter().map(|(name, stats)| (name, json!(stats))).collect();
                let status = json!({ "requests": self.counts.snapshot(), "s3": self.buckets.requests(), "functions": functions });
                plain(StatusCode::OK, Bytes::from(status.to_string()))
            }
            _ => error(StatusCode::NOT_FOUND, "NotFound", "there is nothing here"),
        }
    }

    /// Fires all schedules of a function, or the one that `?schedule=` names.
    async fn trigger(&self, name: &str, query: Option<&str>) -> Response<Body> {
        let function = self.names.function(name).unwrap_or(name);
        let mut pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let schedule = pairs.find(|(key, _)| key == "schedule").map(|(_, schedule)| schedule);
        let fired = self.clockwork.trigger(function, schedule.as_deref()).await;
        if !fired.is_empty() {
            return plain(StatusCode::OK, Bytes::from(fired.join("\n")));
        }
        let known = self.clockwork.names(function).join("`, `");
        let message = match schedule {
            Some(schedule) if !known.is_empty() => format!("`{name}` has no schedule `{schedule}`; it has `{known}`"),
            _ => format!("`{name}` has no schedule"),
        };
        plain(StatusCode::NOT_FOUND, Bytes::from(message))
    }

    /// How far ahead of the machine's clock the bundle lives, and what time that makes it.
    async fn reading(&self) -> Response<Body> {
        let ahead_secs = self.clock.offset().await.ahead_secs;
        let now = clock::now() + std::time::Duration::from_secs(ahead_secs);
        let now = now.format(&Rfc3339).unwrap_or_default();
        plain(StatusCode::OK, Bytes::from(json!({ "ahead_secs": ahead_secs, "now": now }).to_string()))
    }

    async fn advance(&self, body: Incoming) -> Response<Body> {
        let body = Limited::new(body, MAX_BODY).collect().await.map(http_body_util::Collected::to_bytes);
        let asked = body.ok().and_then(|body| serde_json::from_slice::<Advance>(&body).ok());
        let Some(Advance { advance_secs }) = asked else {
            let message = "`advance_secs` must be a whole number of seconds above 0, such as {\"advance_secs\": 660}";
            return error(StatusCode::BAD_REQUEST, "ValidationException", message);
        };
        let clock = self.clock.clone();
        // A caller that goes away does not leave it half done.
        match tokio::spawn(async move { clock.advance(advance_secs).await }).await {
            Ok(Ok(_)) => self.reading().await,
            Ok(Err(fault @ (ClockError::NotAhead | ClockError::TooFar))) => {
                error(StatusCode::BAD_REQUEST, "ValidationException", &fault.to_string())
            }
            Ok(Err(fault)) => {
                tracing::error!(error = ?fault, "The bundle's time did not move");
                error(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", &fault.to_string())
            }
            Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", "the bundle is stopping"),
        }
    }
}

/// `POST /_skylark/clock`.
#[derive(Deserialize)]
struct Advance {
    advance_secs: u32,
}

/// The access key that signed a request; each function has one of its own.
fn caller(headers: &HeaderMap) -> String {
    let credential = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once("Credential="));
    credential.and_then(|(_, rest)| rest.split('/').next()).unwrap_or("anonymous").to_owned()
}

fn boxed(body: Full<Bytes>) -> Body {
    body.map_err(|never| match never {}).boxed_unsync()
}

fn plain(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(boxed(Full::new(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn error(status: StatusCode, kind: &str, message: &str) -> Response<Body> {
    let mut response =
        plain(status, Bytes::from(json!({ "__type": kind, "message": message, "Message": message }).to_string()));
    if let Ok(kind) = HeaderValue::from_str(kind) {
        response.headers_mut().insert("x-amzn-errortype", kind);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_is_the_access_key_that_signed() {
        let mut headers = HeaderMap::new();
        assert_eq!(caller(&headers), "anonymous");
        let value = "AWS4-HMAC-SHA256 Credential=lark-work/20261121/us-east-1/sqs/aws4_request, SignedHeaders=host";
        headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
        assert_eq!(caller(&headers), "lark-work");
    }
}
