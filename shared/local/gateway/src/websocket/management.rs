//! `@connections`: a back end posts to a socket, looks at it or closes it, as a handle and over HTTP.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::connection::{Closing, Connection, MAX_MESSAGE_BYTES};
use crate::{
    server::{self, BodyError},
    source,
};

/// The open connections of one WebSocket API; clones are the same set.
#[derive(Debug, Clone)]
pub struct Connections {
    open: Arc<Mutex<HashMap<String, Arc<Connection>>>>,
    post_wait: Duration,
}

/// `GetConnection`'s answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    pub connected_at: OffsetDateTime,
    pub last_active_at: OffsetDateTime,
    pub identity: Identity,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub source_ip: IpAddr,
    pub user_agent: Option<String>,
}

/// The exceptions of the API Gateway Management API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionsError {
    /// The connection has ended, never was, or its `$connect` has not returned yet.
    #[error("the connection is gone")]
    Gone,
    #[error("the connection id has not the form of one")]
    InvalidConnectionId,
    /// More than 128 KB.
    #[error("the data has more than 131072 bytes")]
    PayloadTooLarge,
    /// The client does not read, and its buffer is full.
    #[error("the client's buffer is full")]
    LimitExceeded,
}

impl ConnectionsError {
    fn answer(self, connection_id: &str) -> Response<Full<Bytes>> {
        let (status, name, message) = match self {
            Self::Gone => (StatusCode::GONE, "GoneException", "Gone".to_owned()),
            Self::InvalidConnectionId => {
                let message = format!("Invalid connectionId: {connection_id}");
                (StatusCode::BAD_REQUEST, "BadRequestException", message)
            }
            Self::PayloadTooLarge => {
                let message = "The data has exceeded the maximum size allowed.".to_owned();
                (StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLargeException", message)
            }
            Self::LimitExceeded => {
                let message = "The WebSocket client side buffer is full.".to_owned();
                (StatusCode::TOO_MANY_REQUESTS, "LimitExceededException", message)
            }
        };
        let mut answer = server::message_answer(status, &message);
        answer.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static(name));
        answer
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConnectionAnswer {
    connected_at: String,
    identity: IdentityAnswer,
    last_active_at: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IdentityAnswer {
    source_ip: IpAddr,
    user_agent: String,
}

impl Connections {
    pub(crate) fn new(post_wait: Duration) -> Self {
        Self { open: Arc::default(), post_wait }
    }

    /// `GetConnection`.
    pub fn get(&self, connection_id: &str) -> Result<ConnectionInfo, ConnectionsError> {
        let connection = self.find(connection_id)?;
        Ok(ConnectionInfo {
            connected_at: connection.connected_at,
            last_active_at: connection.last_active_at(),
            identity: Identity { source_ip: connection.source_ip, user_agent: connection.user_agent.clone() },
        })
    }

    /// `PostToConnection`. UTF-8 is sent as text and anything else as binary. Messages arrive in the order in which
    /// their posts returned; a post that returned may still be lost when the connection breaks.
    pub async fn post(&self, connection_id: &str, data: Bytes) -> Result<(), ConnectionsError> {
        self.find(connection_id)?.send(data, self.post_wait).await
    }

    /// `DeleteConnection`: the connection is gone at once; messages already posted leave before the close frame.
    pub fn delete(&self, connection_id: &str) -> Result<(), ConnectionsError> {
        let connection = self.find(connection_id)?;
        self.remove(connection_id);
        connection.close(Closing::DELETED);
        Ok(())
    }

    /// How many connections are open.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    pub(crate) fn insert(&self, connection: Arc<Connection>) {
        self.lock().insert(connection.id.clone(), connection);
    }

    pub(crate) fn remove(&self, connection_id: &str) {
        self.lock().remove(connection_id);
    }

    fn find(&self, connection_id: &str) -> Result<Arc<Connection>, ConnectionsError> {
        if !source::is_opaque_id(connection_id) {
            return Err(ConnectionsError::InvalidConnectionId);
        }
        self.lock().get(connection_id).cloned().ok_or(ConnectionsError::Gone)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Connection>>> {
        // A map is whole after every call on it, so a panic elsewhere does not spoil it.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn answer<B>(&self, connection_id: &str, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
    {
        let done = match *request.method() {
            Method::GET => self.get(connection_id).map(|info| info.answer()),
            Method::DELETE => self.delete(connection_id).map(|()| empty(StatusCode::NO_CONTENT)),
            Method::POST => match server::whole_body(request.into_body(), MAX_MESSAGE_BYTES).await {
                Ok(data) => self.post(connection_id, data).await.map(|()| empty(StatusCode::OK)),
                Err(BodyError::TooLarge) => Err(ConnectionsError::PayloadTooLarge),
                Err(BodyError::Broken) => return server::message_answer(StatusCode::BAD_REQUEST, "Bad Request"),
            },
            _ => return server::message_answer(StatusCode::FORBIDDEN, "Missing Authentication Token"),
        };
        done.unwrap_or_else(|error| error.answer(connection_id))
    }
}

impl ConnectionInfo {
    fn answer(self) -> Response<Full<Bytes>> {
        let text = |at: OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
        let answer = ConnectionAnswer {
            connected_at: text(self.connected_at),
            identity: IdentityAnswer {
                source_ip: self.identity.source_ip,
                user_agent: self.identity.user_agent.unwrap_or_default(),
            },
            last_active_at: text(self.last_active_at),
        };
        match serde_json::to_string(&answer) {
            Ok(body) => server::json_answer(StatusCode::OK, body),
            Err(_) => server::message_answer(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error"),
        }
    }
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::new()));
    *answer.status_mut() = status;
    answer
}

/// The connection id in `/@connections/{id}` or `/{stage}/@connections/{id}`, decoded.
pub(crate) fn connection_id(path: &str, stage: &str) -> Option<String> {
    let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    let within = path.strip_prefix('/')?;
    let within = within.strip_prefix(stage).and_then(|rest| rest.strip_prefix('/')).unwrap_or(within);
    Some(within.strip_prefix("@connections/")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_id_is_found_with_and_without_the_stage_and_encoded() {
        let cases = [
            ("/@connections/abc=", Some("abc=")),
            ("/prod/@connections/abc%3D", Some("abc=")),
            ("/%40connections/abc%3d", Some("abc=")),
            ("/other/@connections/abc=", None),
            ("/@connections", None),
            ("/prod", None),
        ];
        for (path, expected) in cases {
            assert_eq!(connection_id(path, "prod").as_deref(), expected, "{path}");
        }
    }
}
