//! People who chat over a bundle: by HTTP as any client would, and over a real WebSocket.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::bundle::{Bundle, PATIENCE};

/// A user with a client of their own, logged in.
#[derive(Debug, Clone)]
pub struct Person {
    http: Client,
    base: String,
    websocket: String,
    pub user: String,
    pub token: String,
    pub refresh_token: String,
}

impl Person {
    /// Registers a client for the user, with a limit that no test reaches.
    pub async fn join(bundle: &Bundle, user: &str) -> Self {
        let arguments = [
            &["client", "add", "--json", "--name", user, "--user-id", user, "--rate", "100000"][..],
            &["--scope", "chat", "--scope", "files"],
        ];
        let (code, out, err) = bundle.skylark(&arguments.concat());
        assert_eq!(code, 0, "{out}{err}");
        let client: Value = serde_json::from_str(&out).unwrap();
        let http = Client::new();
        let base = bundle.setting("/http").to_owned();
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", client["client_id"].as_str().unwrap()),
            ("client_secret", client["client_secret"].as_str().unwrap()),
        ];
        let answer = http.post(format!("{base}/auth/token")).form(&form).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        let text = |name: &str| answer[name].as_str().unwrap_or_else(|| panic!("{name} in {answer}")).to_owned();
        Self {
            http,
            base,
            websocket: bundle.setting("/websocket").to_owned(),
            user: user.to_owned(),
            token: text("access_token"),
            refresh_token: text("refresh_token"),
        }
    }

    /// Status and body of a request with the person's token.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token);
        let request = if let Some(body) = body { request.json(&body) } else { request };
        match request.send().await {
            Ok(response) => {
                let status = response.status().as_u16();
                (status, response.json().await.unwrap_or(Value::Null))
            }
            Err(_) => (0, Value::Null),
        }
    }

    /// Opens a conversation and says its id.
    pub async fn converse(&self, others: &[&str]) -> String {
        let kind = if others.len() == 1 { "private" } else { "group" };
        let members: Vec<&str> = others.iter().copied().chain([self.user.as_str()]).collect();
        let (status, answer) =
            self.call(Method::POST, "/v1/conversations", Some(json!({ "type": kind, "members": members }))).await;
        assert_eq!(status, 201, "{answer}");
        answer["conversation_id"].as_str().unwrap().to_owned()
    }

    /// Says something until it is accepted, as a client does whose answers get lost, and returns its number.
    pub async fn say(&self, conversation: &str, text: &str) -> u64 {
        let message_id = lambda_kit::random::uuid().to_string();
        let body = json!({
            "message_id": message_id, "conversation_id": conversation, "payload": { "type": "text", "text": text },
        });
        for _ in 0..200 {
            let (status, answer) = self.call(Method::POST, "/v1/messages", Some(body.clone())).await;
            match status {
                200 | 202 => return answer["seq"].as_u64().unwrap(),
                0 | 500..=599 => tokio::time::sleep(Duration::from_millis(50)).await,
                _ => panic!("{status} {answer}"),
            }
        }
        panic!("`{text}` is never accepted")
    }

    pub async fn read(&self, conversation: &str, seq: u64) {
        let path = format!("/v1/conversations/{conversation}/read");
        let (status, answer) = self.call(Method::POST, &path, Some(json!({ "seq": seq }))).await;
        assert_eq!(status, 200, "{answer}");
    }

    pub async fn ticket(&self) -> String {
        let (status, answer) = self.call(Method::POST, "/v1/ws-tickets", Some(json!({}))).await;
        assert_eq!((status, &answer["expires_in"]), (200, &json!(30)), "{answer}");
        answer["ticket"].as_str().unwrap().to_owned()
    }

    /// Opens a socket with a ticket; the status that refuses it.
    pub async fn open(&self) -> Result<Socket, u16> {
        Socket::open(&self.websocket, &self.ticket().await).await
    }

    /// Opens a socket and says hello.
    pub async fn connect(&self, last_seq: &Value) -> Socket {
        let mut socket =
            self.open().await.unwrap_or_else(|status| panic!("{}'s socket is refused: {status}", self.user));
        socket.hello(last_seq).await;
        socket
    }
}

/// An open socket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    pub async fn open(websocket: &str, ticket: &str) -> Result<Self, u16> {
        connect(format!("{websocket}/live?ticket={ticket}").into_client_request().unwrap()).await.map(|it| it.0)
    }

    /// Opens a socket with an access token as its subprotocol; the subprotocol that the server agreed to.
    pub async fn open_with_token(websocket: &str, token: &str) -> Result<(Self, Option<String>), u16> {
        let mut request = websocket.into_client_request().unwrap();
        let protocol = format!("bearer.{token}").parse().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", protocol);
        connect(request).await
    }

    pub async fn send(&mut self, frame: &Value) {
        self.stream.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// Says hello and waits until it is answered.
    pub async fn hello(&mut self, last_seq: &Value) {
        self.send(&json!({ "type": "hello", "last_seq": last_seq })).await;
        self.until("connection.established").await;
    }

    /// The next frame; nothing once the connection has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            let message = timeout(PATIENCE, self.stream.next()).await.expect("a frame in time")?;
            match message {
                Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).unwrap()),
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next frame of a type; what comes before is passed over.
    pub async fn until(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next().await.unwrap_or_else(|| panic!("the socket ended before `{kind}`"));
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    /// Waits until the connection ends.
    pub async fn ended(mut self) {
        while self.next().await.is_some() {}
    }

    /// Drops the connection without a close frame.
    pub fn cut(self) {
        drop(self);
    }
}

async fn connect(
    request: tokio_tungstenite::tungstenite::handshake::client::Request,
) -> Result<(Socket, Option<String>), u16> {
    match connect_async(request).await {
        Ok((stream, response)) => {
            let protocol = response.headers().get("sec-websocket-protocol");
            let protocol = protocol.and_then(|value| value.to_str().ok()).map(str::to_owned);
            Ok((Socket { stream }, protocol))
        }
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(_) => Err(0),
    }
}

/// A reader that does what the contract asks of clients: it ignores what it has, and takes what comes next. It reconnects when its
/// connection ends, and keeps what it has seen.
#[derive(Debug)]
pub struct Reader {
    pub person: Person,
    /// The number of the last message, by conversation.
    pub last: BTreeMap<String, u64>,
    /// Every text, in the order in which it was shown.
    pub shown: Vec<String>,
    pub connections: u32,
    /// How often it missed so much that it had to read the history.
    pub resyncs: u32,
}

impl Reader {
    #[must_use]
    pub fn new(person: Person, conversation: &str) -> Self {
        let last = BTreeMap::from([(conversation.to_owned(), 0)]);
        Self { person, last, shown: Vec::new(), connections: 0, resyncs: 0 }
    }

    /// Reads until `count` messages were shown.
    pub async fn read(mut self, count: usize) -> Self {
        while self.shown.len() < count {
            let Ok(mut socket) = self.person.open().await else {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            };
            self.connections += 1;
            socket.send(&json!({ "type": "hello", "last_seq": self.last })).await;
            while self.shown.len() < count {
                // A client whose hello was not heard comes back by a new connection.
                let Ok(Some(frame)) = timeout(Duration::from_secs(20), socket.next()).await else { break };
                self.take(&frame).await;
            }
        }
        self
    }

    async fn take(&mut self, frame: &Value) {
        let data = &frame["data"];
        let (Some(id), Some(seq)) = (data["conversation_id"].as_str(), data["seq"].as_u64()) else { return };
        match frame["type"].as_str() {
            Some("message.created") => self.show(id, seq, data),
            Some("resync_required") => {
                self.resyncs += 1;
                self.read_history(id, seq).await;
            }
            _ => {}
        }
    }

    fn show(&mut self, id: &str, seq: u64, message: &Value) {
        let last = self.last.get_mut(id).unwrap();
        if seq > *last {
            assert_eq!(seq, *last + 1, "{} sees no gap", self.person.user);
            *last = seq;
            self.shown.push(message["payload"]["text"].as_str().unwrap().to_owned());
        }
    }

    /// Who missed too much reads the history up to there; live frames go on after it.
    async fn read_history(&mut self, id: &str, until: u64) {
        while self.last[id] < until {
            let path = format!("/v1/conversations/{id}/messages?limit=100&after_seq={}", self.last[id]);
            let (status, page) = self.person.call(Method::GET, &path, None).await;
            for message in page["messages"].as_array().into_iter().flatten().filter(|_| status == 200) {
                self.show(id, message["seq"].as_u64().unwrap(), message);
            }
        }
    }
}
