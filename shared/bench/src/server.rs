//! A small HTTP/1.1 server for the two APIs that a function talks to.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What is served.
pub(crate) trait Api: Send + Sync + 'static {
    fn answer(&self, request: http::Request<Incoming>) -> impl Future<Output = http::Response<Full<Bytes>>> + Send;
}

/// A server that ends, with its connections, when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _connections: JoinSet<()>,
}

impl Server {
    /// Serves on a free port of this machine.
    pub(crate) async fn start(api: Arc<impl Api>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, api));
        Ok(Self { address, _connections: connections })
    }
}

async fn accept(listener: TcpListener, api: Arc<impl Api>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // The answer is small and its writer waits for it: no reason to collect.
        let _ = stream.set_nodelay(true);
        let api = api.clone();
        connections.spawn(async move {
            let answer = service_fn(|request| async { Ok::<_, Infallible>(api.answer(request).await) });
            // A connection that the function cuts when it ends is no failure.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}
