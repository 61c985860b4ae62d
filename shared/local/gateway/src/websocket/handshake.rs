//! The handshake: is it an upgrade, does the authorizer allow it, does `$connect` agree.

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use tokio::{sync::oneshot, time::Instant};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    Accepted, CONNECT, Inner, Pending, ProxyAnswer, Started, WebSocketApi, WebSocketConfig,
    connection::{Connection, OutboundQueue},
    event::{self, Handshake},
    failure_message, management,
};
use crate::{
    authorizer::{self, Decision, Gate},
    integration::IntegrationError,
    server::{self, Peer, json_answer, message_answer},
};

impl WebSocketApi {
    /// Answers one HTTP request; a handshake that may still succeed is left in `pending`.
    pub(super) async fn request(
        &self,
        peer: Peer,
        mut request: Request<Incoming>,
        pending: &Pending,
    ) -> Response<Full<Bytes>> {
        if management::connection_id(request.uri().path(), &self.inner.config.stage).is_some() {
            return self.handle_management(request).await;
        }
        let accept = match self.upgrade_key(&request) {
            Ok(accept) => accept,
            Err(answer) => {
                self.report(&Started::now(), None, answer.status());
                return *answer;
            }
        };
        let upgrade = hyper::upgrade::on(&mut request);
        let (parts, _) = request.into_parts();
        let (answered, answer) = oneshot::channel();
        let api = self.clone();
        let handshake = tokio::spawn(async move {
            let (response, opened) = match api.open(&parts, peer.0.ip()).await {
                Ok((connection, queue, protocol)) => {
                    (switching_protocols(&accept, protocol), Some(Accepted { connection, queue, upgrade }))
                }
                Err(refusal) => (refusal, None),
            };
            // Nobody listens when the client has gone; then the upgrade fails, which ends the connection.
            let _ = answered.send(response);
            opened
        });
        *pending.lock().unwrap_or_else(PoisonError::into_inner) = Some(handshake);
        match answer.await {
            Ok(response) => response,
            Err(_) => message_answer(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error"),
        }
    }

    /// The answer to the client's `Sec-WebSocket-Key`; an error for what is not an upgrade of this stage.
    fn upgrade_key(&self, request: &Request<Incoming>) -> Result<String, Box<Response<Full<Bytes>>>> {
        let within = request.uri().path().trim_matches('/');
        if !within.is_empty() && within != self.inner.config.stage {
            return Err(Box::new(message_answer(StatusCode::FORBIDDEN, "Forbidden")));
        }
        accept_key(request).ok_or_else(|| {
            let mut answer = message_answer(StatusCode::UPGRADE_REQUIRED, "Upgrade Required");
            answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            Box::new(answer)
        })
    }

    /// Authorizer and `$connect`. When both agree the connection is open for posts before the client learns of it.
    async fn open(
        &self,
        parts: &Parts,
        source_ip: IpAddr,
    ) -> Result<(Arc<Connection>, OutboundQueue, Option<HeaderValue>), Response<Full<Bytes>>> {
        let started = Started::now();
        let limits = &self.inner.config.limits;
        let (connection, queue) = Connection::new(started.at, source_ip, server::user_agent(&parts.headers), limits);
        let opened = self.admit(parts, connection, &started).await;
        let status = opened.as_ref().map_or_else(Response::status, |_| StatusCode::SWITCHING_PROTOCOLS);
        self.report(&started, Some(CONNECT), status);
        let (connection, protocol) = opened?;
        let connection = Arc::new(connection);
        self.inner.connections.insert(Arc::clone(&connection));
        Ok((connection, queue, protocol))
    }

    async fn admit(
        &self,
        parts: &Parts,
        mut connection: Connection,
        started: &Started,
    ) -> Result<(Connection, Option<HeaderValue>), Response<Full<Bytes>>> {
        let Inner { config, gate, .. } = &*self.inner;
        let handshake = Handshake::new(parts, connection.source_ip, started.at);
        let id = connection.id.clone();
        let refuse = |refusal: Refusal| refusal.answer(&id, &started.request_id);
        if let Some(gate) = gate {
            let context = self.authorize(gate, parts, &handshake, &connection, started).await;
            connection.authorizer = Some(context.map_err(refuse)?);
        }
        let Some(route) = config.routes.get(CONNECT) else { return Ok((connection, None)) };
        let event = self.events(&connection, started).connect(handshake);
        let event = event.map_err(|_| refuse(Refusal::Internal))?;
        let answer = match self.invoke(&route.function, event).await {
            Ok(answer) => answer,
            Err(IntegrationError::TimedOut(_)) => return Err(refuse(Refusal::TimedOut)),
            Err(IntegrationError::Function) => return Err(refuse(Refusal::BadGateway)),
            Err(IntegrationError::Invoke(_) | IntegrationError::CutOff) => return Err(refuse(Refusal::Internal)),
        };
        let answer = ProxyAnswer::parse(&answer).map_err(|error| {
            tracing::warn!(function.name = %route.function, "`{}`: {error}", route.function);
            refuse(Refusal::BadGateway)
        })?;
        if !answer.status.is_success() {
            return Err(answer.refusal());
        }
        Ok((connection, answer.headers.get(header::SEC_WEBSOCKET_PROTOCOL).cloned()))
    }

    async fn authorize(
        &self,
        gate: &Gate,
        parts: &Parts,
        handshake: &Handshake,
        connection: &Connection,
        started: &Started,
    ) -> Result<Map<String, Value>, Refusal> {
        let WebSocketConfig { id, stage, region, account, stage_variables, .. } = &self.inner.config;
        let header = |name: &str| event::header_value(&parts.headers, name);
        let query = |name: &str| handshake.query_string_parameters.get(name).cloned();
        gate.identity(header, query, stage_variables).ok_or(Refusal::Unauthorized)?;
        let arn = format!("arn:aws:execute-api:{region}:{account}:{id}/{stage}/{CONNECT}");
        let event = self.events(connection, started).authorizer(&arn, handshake).map_err(|_| Refusal::Internal)?;
        let since = Instant::now();
        let answer = self.invoke(&gate.function, event).await.map_err(|_| Refusal::Internal)?;
        let decision = authorizer::decide(&answer, &arn).map_err(|error| {
            tracing::warn!(function.name = %gate.function, "`{}`: {error}", gate.function);
            Refusal::Internal
        })?;
        // A WebSocket authorizer answers with a policy, and a policy names its principal.
        let Decision::Allow { principal_id: Some(principal_id), context } = decision else {
            return Err(Refusal::Forbidden);
        };
        let mut handed_on = Map::new();
        for (name, value) in context {
            let text = match value {
                Value::String(text) => text,
                Value::Number(_) | Value::Bool(_) => value.to_string(),
                Value::Null | Value::Array(_) | Value::Object(_) => return Err(Refusal::Internal),
            };
            handed_on.insert(name, Value::String(text));
        }
        handed_on.insert("principalId".to_owned(), Value::String(principal_id));
        handed_on.insert("integrationLatency".to_owned(), json!(since.elapsed().as_millis() as u64));
        Ok(handed_on)
    }
}

/// Why a handshake failed before a function could say so itself.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    Unauthorized,
    Forbidden,
    Internal,
    BadGateway,
    TimedOut,
}

impl Refusal {
    fn answer(self, connection_id: &str, request_id: &str) -> Response<Full<Bytes>> {
        let (status, message) = match self {
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "Unauthorized"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "Forbidden"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "Internal server error"),
            Self::BadGateway => (StatusCode::BAD_GATEWAY, "Internal server error"),
            Self::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "Endpoint request timed out"),
        };
        json_answer(status, failure_message(message, connection_id, request_id))
    }
}

/// `Sec-WebSocket-Accept` for a well-formed upgrade request of version 13.
fn accept_key(request: &Request<Incoming>) -> Option<String> {
    let headers = request.headers();
    let has = |name, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value: &str| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    let well_formed = request.method() == Method::GET
        && has(header::CONNECTION, "upgrade")
        && has(header::UPGRADE, "websocket")
        && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13")
        && STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16);
    well_formed.then(|| derive_accept_key(key.as_bytes()))
}

fn switching_protocols(accept: &str, protocol: Option<HeaderValue>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    answer
}
