//! Somebody who uses the API with a client of their own, and their sockets.

use std::sync::Arc;
use std::time::Instant;

use futures_util::{SinkExt as _, StreamExt as _};
use local::Settings;
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::api::{Api, at};
use crate::client::{self, NewClient};
use crate::demo::{PATIENCE, Wrong};
use crate::fault::CliFault;
use crate::stack::Stack;

/// A user of the API.
#[derive(Clone)]
pub(super) struct Person {
    pub(super) user: String,
    pub(super) api: Arc<Api>,
    client_id: String,
    websocket: String,
}

impl Person {
    /// Registers a client for the user.
    pub(super) async fn join(settings: &Settings, stack: &Stack, user: String) -> Result<Self, Wrong> {
        let (client, secret) = client::add(stack, NewClient::demo(&user)?).await?;
        let client_id = client.client_id.to_string();
        let keys = (client_id.clone(), secret.expose_secret().to_owned());
        let api = Api::with(settings.http.clone(), keys, "chat files")?;
        Ok(Self { user, api: Arc::new(api), client_id, websocket: settings.websocket.clone() })
    }

    /// The client gets no more tokens: the bundle may be one that somebody works with.
    pub(super) async fn leave(&self, stack: &Stack) -> Result<(), Wrong> {
        Ok(client::disable(stack, self.client_id.clone()).await?)
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Result<Value, CliFault> {
        Ok(self.api.call(Method::POST, path, Some(&body), &[]).await?.1)
    }

    pub(super) async fn get(&self, path: &str) -> Result<(StatusCode, Value), CliFault> {
        self.api.call(Method::GET, path, None, &[]).await
    }

    /// Opens a private conversation and tells its id.
    pub(super) async fn converse(&self, other: &Self) -> Result<String, Wrong> {
        let wanted = json!({ "type": "private", "members": [self.user, other.user] });
        let opened = self.post("/v1/conversations", wanted).await?;
        let id = at(&opened, "conversation_id").as_str();
        Ok(id.ok_or_else(|| format!("there is no conversation: {opened}"))?.to_owned())
    }

    /// Says something, once however often the request is made, and tells its number.
    pub(super) async fn say(&self, conversation: &str, text: &str) -> Result<u64, Wrong> {
        let message = json!({
            "message_id": lambda_kit::random::uuid(), "conversation_id": conversation,
            "payload": { "type": "text", "text": text },
        });
        // Who speaks in a crowd is told to try again now and then.
        let deadline = Instant::now() + PATIENCE;
        let accepted = loop {
            match self.post("/v1/messages", message.clone()).await {
                Err(CliFault::Storage { .. }) if Instant::now() < deadline => {}
                outcome => break outcome?,
            }
        };
        at(&accepted, "seq").as_u64().ok_or_else(|| format!("it has no number: {accepted}").into())
    }

    /// Opens a socket with a ticket, says hello, and waits for the answer.
    pub(super) async fn connect(&self) -> Result<Socket, Wrong> {
        let given = self.post("/v1/ws-tickets", json!({})).await?;
        let ticket = at(&given, "ticket").as_str().ok_or_else(|| format!("there is no ticket: {given}"))?;
        let (stream, _) = connect_async(format!("{}/live?ticket={ticket}", self.websocket)).await?;
        let mut socket = Socket { stream };
        let hello = json!({ "type": "hello", "last_seq": {} });
        socket.stream.send(Message::text(hello.to_string())).await?;
        socket.until("connection.established").await?;
        Ok(socket)
    }
}

/// An open socket.
pub(super) struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    /// The next frame.
    pub(super) async fn next(&mut self) -> Result<Value, Wrong> {
        loop {
            let frame = timeout(PATIENCE, self.stream.next()).await;
            let frame = frame.map_err(|_| format!("nothing came for {} s", PATIENCE.as_secs()))?;
            match frame.ok_or("the socket ended")?? {
                Message::Text(text) => return Ok(serde_json::from_str(&text)?),
                Message::Close(_) => return Err("the socket was closed".into()),
                _ => {}
            }
        }
    }

    /// What the next frame of a type says; what comes before is passed over.
    pub(super) async fn until(&mut self, kind: &str) -> Result<Value, Wrong> {
        loop {
            let mut frame = self.next().await?;
            match at(&frame, "type").as_str() {
                Some(found) if found == kind => {
                    return Ok(frame.get_mut("data").map(Value::take).unwrap_or_default());
                }
                Some("error") => return Err(format!("instead of `{kind}` came {frame}").into()),
                _ => {}
            }
        }
    }
}
