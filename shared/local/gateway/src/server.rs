//! What both listeners share: the accept loop, whole bodies, and answers made by the gateway itself.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Extensions, HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

/// Put this into a request's extensions when another listener has accepted it: it becomes the source address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

pub(crate) fn source_ip(extensions: &Extensions) -> IpAddr {
    extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.0.ip())
}

/// Tells a connection that the listener is shutting down.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Resolves once the listener stops, and at once from then on.
    pub(crate) async fn requested(&mut self) {
        // An error means that the listener is gone without a word, which is a stop as well.
        let _ = self.0.wait_for(|stopped| *stopped).await;
    }
}

/// Accepts until `shutdown` resolves, then tells every connection to stop and gives them `grace` to do so.
pub(crate) async fn accept<F, Fut>(
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
    grace: Duration,
    mut serve: F,
) where
    F: FnMut(TcpStream, Peer, Stop) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => log_panic(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    // Small frames and answers must not wait for an acknowledgement.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(serve(stream, Peer(peer), Stop(stopped.clone())));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // Most often no file descriptor is left; trying again at once would only spin.
                    sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    drop(listener);
    stop.send_replace(true);
    let drained = timeout(grace, async {
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!("{} connections were cut off after {grace:?}", connections.len());
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}

#[derive(Debug)]
pub(crate) enum BodyError {
    TooLarge,
    Broken,
}

/// How much of a body that is too large is read all the same. A client that is still writing when the connection closes
/// would see a reset instead of the answer.
const DISCARDED_BYTES: usize = 32 * 1024 * 1024;

/// The whole body, or an error when it has more than `limit` bytes.
pub(crate) async fn whole_body<B>(body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
{
    let mut body = std::pin::pin!(body);
    let mut read = BytesMut::new();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        size += data.len();
        if size <= limit {
            read.extend_from_slice(&data);
        } else if size > limit + DISCARDED_BYTES {
            break;
        }
    }
    if size > limit { Err(BodyError::TooLarge) } else { Ok(read.freeze()) }
}

pub(crate) fn json_answer(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// `{"message": ..}` as the gateway answers when no function does.
pub(crate) fn message_answer(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    json_answer(status, serde_json::json!({ "message": message }).to_string())
}

/// The `X-Amzn-Trace-Id` that the function sees; a client's own is kept behind the gateway's.
pub(crate) fn trace_id(headers: &HeaderMap, root: &str) -> String {
    match headers.get("x-amzn-trace-id").map(HeaderValue::as_bytes) {
        Some(own) if !own.is_empty() => format!("Self={root};{}", String::from_utf8_lossy(own)),
        _ => format!("Root={root}"),
    }
}

/// The `X-Forwarded-For` that the function sees: what the client claims, then where it really is.
pub(crate) fn forwarded_for(headers: &HeaderMap, source: IpAddr) -> String {
    match headers.get("x-forwarded-for").map(HeaderValue::as_bytes) {
        Some(claimed) if !claimed.is_empty() => format!("{}, {source}", String::from_utf8_lossy(claimed)),
        _ => source.to_string(),
    }
}

/// The port a client used, as its `Host` header tells.
pub(crate) fn forwarded_port(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    match host.rsplit_once(':') {
        Some((_, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !port.is_empty() => port.to_owned(),
        _ => "80".to_owned(),
    }
}

pub(crate) fn user_agent(headers: &HeaderMap) -> Option<String> {
    headers.get(header::USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()).into_owned())
}
