//! One open WebSocket: what is known of it, what waits to be sent, and the loop that ends in exactly one `$disconnect`.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as SocketError, Message, Utf8Bytes,
        protocol::{CloseFrame, Role, WebSocketConfig as SocketConfig, frame::coding::CloseCode},
    },
};

use crate::{
    server::Stop,
    source,
    websocket::{ConnectionsError, WebSocketLimits, event::Body},
};

pub(crate) const MAX_MESSAGE_BYTES: usize = 128 * 1024;
const MAX_FRAME_BYTES: usize = 32 * 1024;
/// What a message costs in the outbound buffer besides its own bytes, so that empty ones are bounded too.
const MESSAGE_OVERHEAD: usize = 64;
/// Messages of one client that may wait for the function; behind them its socket is no longer read.
pub(crate) const INBOUND_QUEUE: usize = 32;
/// How long a client may take to answer a close frame.
const LINGER: Duration = Duration::from_secs(2);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A connection from its handshake to its `$disconnect`.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: String,
    pub(crate) connected_at: OffsetDateTime,
    pub(crate) source_ip: IpAddr,
    pub(crate) user_agent: Option<String>,
    /// What the authorizer said, handed on with each event.
    pub(crate) authorizer: Option<Map<String, Value>>,
    last_active: Mutex<(OffsetDateTime, Instant)>,
    outbound: mpsc::UnboundedSender<Outbound>,
    /// Bytes that may still be queued; closed when the connection ends.
    room: Arc<Semaphore>,
    room_bytes: usize,
    closing: watch::Sender<Option<Closing>>,
}

/// The end of a connection that the gateway itself has decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closing {
    code: u16,
    reason: &'static str,
}

impl Closing {
    pub(crate) const DELETED: Self = Self { code: 1000, reason: "Connection Closed Normally" };
    const GOING_AWAY: Self = Self { code: 1001, reason: "Going away" };
    const TOO_BIG: Self = Self { code: 1009, reason: "Message too big" };
    const PROTOCOL_ERROR: Self = Self { code: 1002, reason: "Protocol error" };
    const NOT_UTF8: Self = Self { code: 1007, reason: "Invalid frame payload data" };
}

/// How a connection ended, for `disconnectStatusCode` and `disconnectReason`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: u16,
    pub(crate) reason: String,
}

impl Ended {
    /// The TCP connection went without a close frame.
    pub(crate) fn dropped() -> Self {
        Self { code: 1006, reason: "Connection closed abnormally".to_owned() }
    }
}

#[derive(Debug)]
pub(crate) struct Outbound {
    message: Message,
    /// Gives its room back when the message has been written.
    _room: Option<OwnedSemaphorePermit>,
}

/// The queue that feeds the socket of one connection.
pub(crate) type OutboundQueue = mpsc::UnboundedReceiver<Outbound>;

impl Connection {
    pub(crate) fn new(
        connected_at: OffsetDateTime,
        source_ip: IpAddr,
        user_agent: Option<String>,
        limits: &WebSocketLimits,
    ) -> (Self, OutboundQueue) {
        let (outbound, queue) = mpsc::unbounded_channel();
        let room_bytes = limits.outbound_buffer_bytes.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        let connection = Self {
            id: source::opaque_id(),
            connected_at,
            source_ip,
            user_agent,
            authorizer: None,
            last_active: Mutex::new((connected_at, Instant::now())),
            outbound,
            room: Arc::new(Semaphore::new(room_bytes)),
            room_bytes,
            closing: watch::Sender::new(None),
        };
        (connection, queue)
    }

    /// Queues a message for the client. Messages leave in the order in which this returned. A client that does not read
    /// fills its own buffer only: after `wait` without room this fails.
    pub(crate) async fn send(&self, data: Bytes, wait: Duration) -> Result<(), ConnectionsError> {
        if data.len() > MAX_MESSAGE_BYTES {
            return Err(ConnectionsError::PayloadTooLarge);
        }
        let cost = u32::try_from((data.len() + MESSAGE_OVERHEAD).min(self.room_bytes)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(cost);
        let room = timeout(wait, room).await.map_err(|_| ConnectionsError::LimitExceeded)?;
        let room = room.map_err(|_| ConnectionsError::Gone)?;
        let message = match Utf8Bytes::try_from(data.clone()) {
            Ok(text) => Message::Text(text),
            Err(_) => Message::Binary(data),
        };
        let outbound = Outbound { message, _room: Some(room) };
        self.outbound.send(outbound).map_err(|_| ConnectionsError::Gone)?;
        self.touch();
        Ok(())
    }

    /// Asks the connection to end; the first wish counts.
    pub(crate) fn close(&self, closing: Closing) {
        self.closing.send_if_modified(|wish| {
            let first = wish.is_none();
            wish.get_or_insert(closing);
            first
        });
    }

    pub(crate) fn last_active_at(&self) -> OffsetDateTime {
        self.last_active.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn touch(&self) {
        *self.last_active.lock().unwrap_or_else(PoisonError::into_inner) = (source::now(), Instant::now());
    }

    fn idle_since(&self) -> Instant {
        self.last_active.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Moves messages until the connection ends: the client's go to `inbound` in order, and what is queued goes to the
    /// client. `on_end` is called as soon as no further post may be accepted.
    pub(crate) async fn carry(
        &self,
        upgraded: Upgraded,
        queue: OutboundQueue,
        limits: &WebSocketLimits,
        stop: Stop,
        inbound: mpsc::Sender<Body>,
        on_end: impl FnOnce(),
    ) -> Ended {
        let config =
            SocketConfig::default().max_frame_size(Some(MAX_FRAME_BYTES)).max_message_size(Some(MAX_MESSAGE_BYTES));
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        let (sink, mut stream) = socket.split();
        let write = write_all(sink, queue);
        tokio::pin!(write);
        let end = tokio::select! {
            end = self.read_all(&mut stream, inbound, limits, stop) => end,
            _ = &mut write => End::Dropped,
        };
        on_end();
        self.room.close();
        match end {
            End::Dropped => Ended::dropped(),
            End::ByClient(frame) => {
                // Reading on sends the answer to the client's close frame.
                let _ = timeout(LINGER, async { while stream.next().await.is_some_and(|read| read.is_ok()) {} }).await;
                frame.map_or_else(
                    || Ended { code: 1005, reason: "Client-side close frame status not set".to_owned() },
                    |frame| Ended { code: frame.code.into(), reason: frame.reason.to_string() },
                )
            }
            End::ByGateway(closing) => {
                let frame = CloseFrame { code: CloseCode::from(closing.code), reason: closing.reason.into() };
                let _ = self.outbound.send(Outbound { message: Message::Close(Some(frame)), _room: None });
                let _ = timeout(LINGER, async { part(write.await, stream).await }).await;
                Ended { code: closing.code, reason: closing.reason.to_owned() }
            }
        }
    }

    async fn read_all(
        &self,
        stream: &mut SplitStream<Socket>,
        inbound: mpsc::Sender<Body>,
        limits: &WebSocketLimits,
        mut stop: Stop,
    ) -> End {
        let mut closing = self.closing.subscribe();
        let oldest = Instant::now() + limits.max_duration;
        loop {
            let idle = self.idle_since() + limits.idle_timeout;
            tokio::select! {
                wish = closing.wait_for(Option::is_some) => {
                    return End::ByGateway(wish.ok().and_then(|wish| *wish).unwrap_or(Closing::GOING_AWAY));
                }
                () = stop.requested() => return End::ByGateway(Closing::GOING_AWAY),
                () = sleep_until(oldest) => return End::ByGateway(Closing::GOING_AWAY),
                () = sleep_until(idle) => {
                    if self.idle_since() + limits.idle_timeout <= Instant::now() {
                        return End::ByGateway(Closing::GOING_AWAY);
                    }
                }
                (place, read) = async { (inbound.reserve().await, stream.next().await) } => {
                    let Ok(place) = place else { return End::Dropped };
                    self.touch();
                    match read {
                        Some(Ok(Message::Text(text))) => place.send(Body::Text(text.to_string())),
                        Some(Ok(Message::Binary(bytes))) => place.send(Body::Binary(bytes)),
                        Some(Ok(Message::Close(frame))) => return End::ByClient(frame),
                        // The socket answers pings by itself.
                        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                        Some(Err(error)) => return end_of(&error),
                        None => return End::Dropped,
                    }
                }
            }
        }
    }
}

enum End {
    ByClient(Option<CloseFrame>),
    ByGateway(Closing),
    Dropped,
}

fn end_of(error: &SocketError) -> End {
    use tokio_tungstenite::tungstenite::error::ProtocolError;
    match error {
        SocketError::Capacity(_) => End::ByGateway(Closing::TOO_BIG),
        SocketError::Utf8(_) => End::ByGateway(Closing::NOT_UTF8),
        SocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Dropped,
        SocketError::Protocol(_) => End::ByGateway(Closing::PROTOCOL_ERROR),
        _ => End::Dropped,
    }
}

/// Writes what is queued until a close frame has been written or the socket is broken.
async fn write_all(mut sink: SplitSink<Socket, Message>, mut queue: OutboundQueue) -> SplitSink<Socket, Message> {
    while let Some(Outbound { message, _room }) = queue.recv().await {
        let last = matches!(message, Message::Close(_));
        if sink.send(message).await.is_err() || last {
            break;
        }
    }
    sink
}

/// Lets the client read the close frame: a socket closed with unread bytes would be reset, and the frame be lost.
async fn part(sink: SplitSink<Socket, Message>, stream: SplitStream<Socket>) {
    let Ok(socket) = sink.reunite(stream) else { return };
    let mut raw = socket.into_inner();
    if raw.shutdown().await.is_ok() {
        let mut unread = [0; 4096];
        while raw.read(&mut unread).await.is_ok_and(|count| count > 0) {}
    }
}
