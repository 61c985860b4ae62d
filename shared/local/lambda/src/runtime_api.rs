//! The Lambda Runtime API of one execution environment, on a loopback port of its own.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

/// 6 MB and what Lambda adds for its envelope.
pub(crate) const RESPONSE_LIMIT: usize = 6 * 1024 * 1024 + 100;

/// One event for the process, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) request_id: String,
    pub(crate) function_arn: String,
    pub(crate) deadline_ms: i64,
    pub(crate) trace_id: String,
    pub(crate) payload: Bytes,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// What the process made of it.
#[derive(Debug)]
pub(crate) enum Answer {
    Response(Bytes),
    Error(Bytes),
    TooLarge,
}

#[derive(Debug)]
enum State {
    Init,
    InitFailed(Bytes),
    Ready,
    Invoking { request_id: String, answer: oneshot::Sender<Answer> },
    Answered { request_id: String },
}

/// A Runtime API that is being served. Dropping it closes its port and its connections.
#[derive(Debug)]
pub(crate) struct RuntimeApi {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    invocations: mpsc::UnboundedSender<Invocation>,
    ready: watch::Receiver<bool>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    ready: watch::Sender<bool>,
    invocations: tokio::sync::Mutex<mpsc::UnboundedReceiver<Invocation>>,
}

impl RuntimeApi {
    pub(crate) async fn serve() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (invocations, queue) = mpsc::unbounded_channel();
        let (ready, is_ready) = watch::channel(false);
        let shared =
            Arc::new(Shared { state: Mutex::new(State::Init), ready, invocations: tokio::sync::Mutex::new(queue) });
        let server = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, invocations, ready: is_ready, server })
    }

    /// Waits until the process asks for the next event.
    pub(crate) async fn ready(&self) {
        let mut ready = self.ready.clone();
        if ready.wait_for(|ready| *ready).await.is_err() {
            // The server lives as long as `self`; were it gone, the process would never become ready.
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn send(&self, invocation: Invocation) {
        // The queue lives as long as `self`.
        let _ = self.invocations.send(invocation);
    }

    /// Whether the process has taken the event of `request_id`.
    pub(crate) fn took(&self, request_id: &str) -> bool {
        match &*self.shared.state() {
            State::Invoking { request_id: taken, .. } | State::Answered { request_id: taken } => taken == request_id,
            State::Init | State::InitFailed(_) | State::Ready => false,
        }
    }

    pub(crate) fn init_error(&self) -> Option<Bytes> {
        match &*self.shared.state() {
            State::InitFailed(body) => Some(body.clone()),
            _ => None,
        }
    }
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                let _ = stream.set_nodelay(true);
                let shared = Arc::clone(&shared);
                let service = service_fn(move |request| {
                    let shared = Arc::clone(&shared);
                    async move { Ok::<_, Infallible>(shared.answer_request(request).await) }
                });
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer_request(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let path: Vec<&str> = parts.uri.path().split('/').skip(1).collect();
        match (&parts.method, path.as_slice()) {
            (&Method::GET, ["2018-06-01", "runtime", "invocation", "next"]) => self.next().await,
            (&Method::POST, ["2018-06-01", "runtime", "invocation", request_id, "response"]) => {
                match read(body).await {
                    Ok(Some(body)) => self.answer(request_id, Answer::Response(body)),
                    Ok(None) => self.answer(request_id, Answer::TooLarge),
                    Err(_) => truncated(),
                }
            }
            (&Method::POST, ["2018-06-01", "runtime", "invocation", request_id, "error"]) => match read(body).await {
                Ok(Some(body)) => self.answer(request_id, Answer::Error(body)),
                Ok(None) => self.answer(request_id, Answer::TooLarge),
                Err(_) => truncated(),
            },
            (&Method::POST, ["2018-06-01", "runtime", "init", "error"]) => match read(body).await {
                Ok(body) => self.init_failed(body.unwrap_or_default()),
                Err(_) => truncated(),
            },
            _ => error(StatusCode::NOT_FOUND, "NotFound", "Not found"),
        }
    }

    async fn next(&self) -> Response<Full<Bytes>> {
        {
            let mut state = self.state();
            if matches!(*state, State::Invoking { .. } | State::InitFailed(_)) {
                return invalid_transition("Ready");
            }
            *state = State::Ready;
        }
        self.ready.send_replace(true);
        let Some(invocation) = self.invocations.lock().await.recv().await else {
            return error(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", "Internal Server Error");
        };
        let response = Response::builder()
            .header(CONTENT_TYPE, "application/json")
            .header("Lambda-Runtime-Aws-Request-Id", &invocation.request_id)
            .header("Lambda-Runtime-Deadline-Ms", invocation.deadline_ms)
            .header("Lambda-Runtime-Invoked-Function-Arn", &invocation.function_arn)
            .header("Lambda-Runtime-Trace-Id", &invocation.trace_id)
            .body(Full::new(invocation.payload));
        self.ready.send_replace(false);
        *self.state() = State::Invoking { request_id: invocation.request_id, answer: invocation.answer };
        response.unwrap_or_else(|_| {
            error(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", "Internal Server Error")
        })
    }

    fn answer(&self, request_id: &str, answer: Answer) -> Response<Full<Bytes>> {
        let mut state = self.state();
        match &*state {
            State::Invoking { request_id: current, .. } if current == request_id => {}
            State::Answered { request_id: current } if current == request_id => {
                return invalid_transition("InvocationResponse");
            }
            _ => return error(StatusCode::BAD_REQUEST, "InvalidRequestID", "Invalid request ID"),
        }
        let too_large = matches!(answer, Answer::TooLarge);
        let answered = State::Answered { request_id: request_id.to_owned() };
        if let State::Invoking { answer: caller, .. } = std::mem::replace(&mut *state, answered) {
            // The caller gave up at the deadline: the process is about to be killed.
            let _ = caller.send(answer);
        }
        if too_large {
            let message = format!("Exceeded maximum allowed payload size ({RESPONSE_LIMIT} bytes).");
            return error(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &message);
        }
        accepted()
    }

    fn init_failed(&self, body: Bytes) -> Response<Full<Bytes>> {
        let mut state = self.state();
        if !matches!(*state, State::Init) {
            return invalid_transition("InitError");
        }
        *state = State::InitFailed(body);
        accepted()
    }
}

/// The whole body, or nothing if it exceeds the limit. It is read to its end in any case: a process that is still sending
/// when its connection closes sees a broken connection, not the answer.
async fn read(mut body: Incoming) -> Result<Option<Bytes>, hyper::Error> {
    let mut whole = BytesMut::new();
    let mut size = 0_usize;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            size = size.saturating_add(data.len());
            if size <= RESPONSE_LIMIT {
                whole.extend_from_slice(&data);
            }
        }
    }
    Ok((size <= RESPONSE_LIMIT).then(|| whole.freeze()))
}

fn accepted() -> Response<Full<Bytes>> {
    json_response(StatusCode::ACCEPTED, json!({ "status": "OK" }))
}

fn truncated() -> Response<Full<Bytes>> {
    error(StatusCode::BAD_REQUEST, "TruncatedHTTPRequest", "HTTP request detected as truncated")
}

fn invalid_transition(target: &str) -> Response<Full<Bytes>> {
    let message = format!("The runtime cannot go to state {target} from its present state");
    error(StatusCode::FORBIDDEN, "InvalidStateTransition", &message)
}

fn error(status: StatusCode, error_type: &str, message: &str) -> Response<Full<Bytes>> {
    json_response(status, json!({ "errorMessage": message, "errorType": error_type }))
}

fn json_response(status: StatusCode, body: serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    struct Client {
        http: reqwest::Client,
        base: String,
    }

    impl Client {
        fn new(api: &RuntimeApi) -> Self {
            Self { http: reqwest::Client::new(), base: format!("http://{}/2018-06-01/runtime", api.address) }
        }

        async fn next(&self) -> reqwest::Response {
            self.http.get(format!("{}/invocation/next", self.base)).send().await.unwrap()
        }

        async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
            let response = self.http.post(format!("{}/{path}", self.base)).body(body).send().await.unwrap();
            (response.status().as_u16(), response.json().await.unwrap())
        }
    }

    fn send(api: &RuntimeApi, request_id: &str) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        api.send(Invocation {
            request_id: request_id.to_owned(),
            function_arn: "arn:aws:lambda:eu-west-1:000000000000:function:f".to_owned(),
            deadline_ms: 1_700_000_000_123,
            trace_id: "Root=1-0-0".to_owned(),
            payload: Bytes::from_static("{\"text\":\"消息\"}".as_bytes()),
            answer,
        });
        answered
    }

    #[tokio::test]
    async fn the_next_event_carries_lambdas_headers() {
        let api = RuntimeApi::serve().await.unwrap();
        let client = Client::new(&api);
        let answered = send(&api, "r-1");
        let next = client.next().await;
        assert_eq!(next.status(), 200);
        let expected = [
            ("lambda-runtime-aws-request-id", "r-1"),
            ("lambda-runtime-deadline-ms", "1700000000123"),
            ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-west-1:000000000000:function:f"),
            ("lambda-runtime-trace-id", "Root=1-0-0"),
        ];
        for (name, value) in expected {
            assert_eq!(next.headers()[name], value);
        }
        assert_eq!(next.text().await.unwrap(), "{\"text\":\"消息\"}");
        assert!(api.took("r-1"));
        assert_eq!(client.post("invocation/r-1/response", "42").await, (202, json!({"status": "OK"})));
        assert!(matches!(answered.await.unwrap(), Answer::Response(body) if body == "42"));
    }

    #[tokio::test]
    async fn answers_that_do_not_fit_the_state_are_refused_and_change_nothing() {
        let api = RuntimeApi::serve().await.unwrap();
        let client = Client::new(&api);
        let refusal = async |path: &str| {
            let (status, body) = client.post(path, "{}").await;
            (status, body["errorType"].as_str().unwrap().to_owned())
        };
        let wrong_id = (400, "InvalidRequestID".to_owned());
        let wrong_state = (403, "InvalidStateTransition".to_owned());
        assert_eq!(refusal("invocation/r-1/response").await, wrong_id);

        let answered = send(&api, "r-1");
        client.next().await;
        assert_eq!(refusal("invocation/r-0/response").await, wrong_id);
        assert_eq!(refusal("init/error").await, wrong_state);
        assert_eq!(client.next().await.status(), 403);

        assert_eq!(client.post("invocation/r-1/error", "{\"errorType\":\"E\"}").await.0, 202);
        assert_eq!(refusal("invocation/r-1/response").await, wrong_state);
        assert!(matches!(answered.await.unwrap(), Answer::Error(body) if body == "{\"errorType\":\"E\"}"));
        assert_eq!(refusal("nowhere").await.0, 404);
    }

    #[tokio::test]
    async fn a_response_over_the_limit_is_refused_and_reported() {
        let api = RuntimeApi::serve().await.unwrap();
        let client = Client::new(&api);
        for (size, status) in [(RESPONSE_LIMIT, 202), (RESPONSE_LIMIT + 1, 413)] {
            let answered = send(&api, "r-1");
            client.next().await;
            assert_eq!(client.post("invocation/r-1/response", vec![b'1'; size]).await.0, status);
            assert_eq!(matches!(answered.await.unwrap(), Answer::TooLarge), status == 413);
        }
    }

    #[tokio::test]
    async fn an_error_of_the_initialisation_is_kept() {
        let api = RuntimeApi::serve().await.unwrap();
        let client = Client::new(&api);
        assert_eq!(client.post("init/error", "{\"errorType\":\"Config\"}").await.0, 202);
        assert_eq!(api.init_error().unwrap(), "{\"errorType\":\"Config\"}");
        assert_eq!(client.next().await.status(), 403);
    }
}
