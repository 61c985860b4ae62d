//! Channels through a running bundle: a conversation that leads into a chat of Lark's and to a webhook, each message signed, in order and
//! once; a receiver that is down and comes back; and what people say in the chat, which never comes back to it.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not run ends the test")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Router, serve};
use reqwest::{Client, Method};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use skylark_tests::bundle::{Bundle, until};
use tokio::net::TcpListener;
use webhook::Secret;

/// A receiver of webhooks that can be down, and keeps what it took: each message once, by its id.
#[derive(Default)]
struct Receiver {
    down: AtomicBool,
    refused: AtomicUsize,
    posts: Mutex<Vec<(HeaderMap, Bytes)>>,
}

async fn receive(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if receiver.down.load(Ordering::SeqCst) {
        receiver.refused.fetch_add(1, Ordering::SeqCst);
        return StatusCode::BAD_GATEWAY;
    }
    receiver.posts.lock().unwrap().push((headers, body));
    StatusCode::NO_CONTENT
}

impl Receiver {
    async fn start() -> (Arc<Self>, String) {
        let receiver = Arc::<Self>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks/skylark", listener.local_addr().unwrap());
        let router = Router::new().route("/hooks/skylark", post(receive)).with_state(receiver.clone());
        tokio::spawn(async move { serve(listener, router).await });
        (receiver, url)
    }

    /// The bodies, each with a signature that this secret made.
    fn verified(&self, secret: &str) -> Vec<Value> {
        let secret = Secret::of(Secret::read(secret).unwrap().expose_secret());
        let (posts, mut seen) = (self.posts.lock().unwrap(), BTreeSet::new());
        let mut bodies = Vec::new();
        for (headers, body) in posts.iter() {
            let text = |name: &str| headers[name].to_str().unwrap();
            let (id, at) = (text("webhook-id"), text("webhook-timestamp").parse().unwrap());
            assert!(secret.verifies(id, at, body, text("webhook-signature")), "{headers:?}");
            if seen.insert(id.to_owned()) {
                bodies.push(serde_json::from_slice(body).unwrap());
            }
        }
        bodies
    }
}

/// Ann's client, the sandbox's people, and a conversation that leads outside.
struct World {
    bundle: Bundle,
    http: Client,
    token: String,
    receiver: Arc<Receiver>,
    secret: String,
    chat_id: String,
    conversation_id: String,
}

impl World {
    async fn new() -> Self {
        let (bundle, http) = (Bundle::start(), Client::new());
        let (receiver, url) = Receiver::start().await;
        let run = |arguments: &[&str]| {
            let (code, out, err) = bundle.skylark(arguments);
            assert_eq!(code, 0, "{arguments:?}: {out}{err}");
            serde_json::from_str::<Value>(&out).unwrap_or_default()
        };
        let app_id = bundle.setting("/lark/app_id");
        run(&["connector", "add", "lark", "--type", "lark", "--app-id", app_id]);
        let added = run(&["connector", "add", "erp", "--type", "webhook", "--url", &url, "--json"]);
        let client = run(&[
            "client",
            "add",
            "--json",
            "--name",
            "安",
            "--user-id",
            "ann",
            "--scope",
            "chat",
            "--rate",
            "100000",
        ]);
        let form = [("grant_type", "client_credentials")];
        let login = http.post(format!("{}/auth/token", bundle.setting("/http"))).form(&form);
        let login = login.basic_auth(client["client_id"].as_str().unwrap(), client["client_secret"].as_str());
        let login: Value = login.send().await.unwrap().json().await.unwrap();
        let world = Self {
            http,
            token: login["access_token"].as_str().unwrap().to_owned(),
            receiver,
            secret: added["secret"].as_str().unwrap().to_owned(),
            chat_id: String::new(),
            conversation_id: String::new(),
            bundle,
        };
        let app_id = world.bundle.setting("/lark/app_id");
        let group = json!({ "name": "项目 🚀", "members": ["ou_xiaoming", "ou_lina"], "app_ids": [app_id] });
        let chat_id = world.sandbox("chats", &group).await["chat_id"].as_str().unwrap().to_owned();
        let channels =
            [json!({ "name": "lark", "address": chat_id }), json!({ "name": "erp", "address": "room 7 🏭" })];
        let conversation_id = world.open(&channels).await;
        Self { chat_id, conversation_id, ..world }
    }

    /// Opens a conversation that leads there, and returns its id.
    async fn open(&self, channels: &[Value]) -> String {
        let opened = json!({ "type": "group", "members": ["ann", "bob", "ou_xiaoming"], "channels": channels });
        let (status, opened) = self.api(Method::POST, "/v1/conversations", Some(&opened)).await;
        assert_eq!(status, 201, "{opened}");
        opened["conversation_id"].as_str().unwrap().to_owned()
    }

    async fn api(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let request = self.http.request(method, format!("{}{path}", self.bundle.setting("/http")));
        let request = request.bearer_auth(&self.token);
        let answer = if let Some(body) = body { request.json(body) } else { request }.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn sandbox(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}/sandbox/{path}", self.bundle.setting("/lark/sandbox"));
        self.http.post(url).json(body).send().await.unwrap().json().await.unwrap()
    }

    async fn say(&self, text: &str) {
        self.say_in(&self.conversation_id, text).await;
    }

    async fn say_in(&self, conversation_id: &str, text: &str) {
        let message = json!({
            "message_id": lambda_kit::random::uuid().to_string(), "conversation_id": conversation_id,
            "payload": { "type": "text", "text": text },
        });
        let (status, answer) = self.api(Method::POST, "/v1/messages", Some(&message)).await;
        assert_eq!(status, 202, "{answer}");
    }

    async fn history(&self) -> Vec<Value> {
        let path = format!("/v1/conversations/{}/messages?limit=100&after_seq=0", self.conversation_id);
        let (status, page) = self.api(Method::GET, &path, None).await;
        assert_eq!(status, 200, "{page}");
        page["messages"].as_array().unwrap().clone()
    }

    /// The messages of the app in the chat, oldest first: their ids and texts.
    async fn in_the_chat(&self) -> Vec<(String, String)> {
        let app_id = self.bundle.setting("/lark/app_id");
        let url = format!("{}/sandbox/messages?app_id={app_id}&limit=1000", self.bundle.setting("/lark/sandbox"));
        let seen: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        let items = seen["items"].as_array().unwrap().iter().rev();
        let ours = items.filter(|item| item["chat_id"] == self.chat_id.as_str() && item["sender"] == app_id);
        ours.map(|item| {
            let content: Value = serde_json::from_str(item["content"].as_str().unwrap()).unwrap();
            (item["message_id"].as_str().unwrap().to_owned(), content["text"].as_str().unwrap().to_owned())
        })
        .collect()
    }

    fn connector(&self, name: &str) -> Value {
        let (code, out, err) = self.bundle.skylark(&["connector", "list", "--json"]);
        assert_eq!(code, 0, "{out}{err}");
        let all: Vec<Value> = serde_json::from_str(&out).unwrap();
        all.into_iter().find(|one| one["name"] == name).unwrap()
    }
}

fn texts(bodies: &[Value]) -> Vec<String> {
    bodies.iter().map(|body| body["data"]["payload"]["text"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn messages_reach_lark_and_a_webhook_in_order_though_the_webhook_was_down() {
    let world = World::new().await;
    world.receiver.down.store(true, Ordering::SeqCst);
    let said: Vec<String> = (1..=12).map(|n| format!("第 {n} 条 🙂")).collect();
    for text in &said {
        world.say(text).await;
    }
    let signed: Vec<String> = said.iter().map(|text| format!("ann: {text}")).collect();
    until("the chat to have all of it", || async {
        let texts: Vec<String> = world.in_the_chat().await.into_iter().map(|(_, text)| text).collect();
        (texts == signed).then_some(())
    })
    .await;
    // Each of the others fails once, after the one before: their failures trip it before the first one has come five times.
    let mut others = 0;
    while world.connector("erp")["state"] != "down" {
        assert!(others < 30, "the breaker never opens: {}", world.connector("erp"));
        let refused = world.receiver.refused.load(Ordering::SeqCst);
        let address = format!("room {others}");
        let other = world.open(&[json!({ "name": "erp", "address": address })]).await;
        world.say_in(&other, "in vain").await;
        others += 1;
        until("one more refusal, or the breaker", || async {
            let more = world.receiver.refused.load(Ordering::SeqCst) > refused;
            (more || world.connector("erp")["state"] == "down").then_some(())
        })
        .await;
    }
    assert_eq!(world.connector("lark")["state"], "works");
    assert!(world.receiver.verified(&world.secret).is_empty());

    world.receiver.down.store(false, Ordering::SeqCst);
    // Past the time that the connector is left alone.
    world.bundle.advance("5m");
    until("the receiver to have all of it", || async {
        (world.receiver.verified(&world.secret).len() == said.len() + others).then_some(())
    })
    .await;
    let mut bodies = world.receiver.verified(&world.secret);
    bodies.retain(|body| body["data"]["conversation_id"] == world.conversation_id.as_str());
    assert_eq!(texts(&bodies), said, "in order, each once");
    let first = &bodies[0];
    assert_eq!((&first["type"], &first["data"]["address"]), (&json!("message.created"), &json!("room 7 🏭")));
    assert_eq!((&first["data"]["seq"], &first["data"]["from"]), (&json!(1), &json!("ann")));
    until("the breaker to close", || async { (world.connector("erp")["state"] == "works").then_some(()) }).await;
}

#[tokio::test]
async fn what_people_say_in_the_chat_is_said_in_the_conversation_and_comes_back_to_nobody() {
    let world = World::new().await;
    let app_id = world.bundle.setting("/lark/app_id").to_owned();
    world.say("你好").await;
    until("the chat to have it", || async { (world.in_the_chat().await.len() == 1).then_some(()) }).await;
    let from = json!({ "app_id": app_id, "open_id": "ou_xiaoming", "chat_id": world.chat_id, "text": "收到 👌" });
    world.sandbox("messages/from", &from).await;
    let said = until("the conversation to have it", || async { world.history().await.get(1).cloned() }).await;
    assert_eq!((&said["from"], &said["payload"]["text"]), (&json!("ou_xiaoming"), &json!("收到 👌")));
    until("the webhook to have it", || async {
        (texts(&world.receiver.verified(&world.secret)) == ["你好", "收到 👌"]).then_some(())
    })
    .await;

    // Lina is in the chat and no member, and nobody stands for her: what she says is kept with the reason.
    let stranger = json!({ "app_id": app_id, "open_id": "ou_lina", "chat_id": world.chat_id, "text": "谁？" });
    world.sandbox("messages/from", &stranger).await;
    until("her words to be parked", || async {
        let (_, out, _) = world.bundle.skylark(&["dlq", "show", "ParkedQueue", "--json"]);
        (out.contains("nobody stands for such people")).then_some(())
    })
    .await;

    world.say("好").await;
    until("the chat to have that, too", || async { (world.in_the_chat().await.len() == 2).then_some(()) }).await;
    let texts: Vec<String> = world.in_the_chat().await.into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["ann: 你好", "ann: 好"], "nothing came back to where it was said");
    assert_eq!(world.history().await.len(), 3);

    // Somebody in the chat reads what the app wrote there.
    let (message_id, _) = world.in_the_chat().await.remove(0);
    let event = json!({ "reader": { "reader_id": { "open_id": "ou_lina" } }, "message_id_list": [message_id] });
    let event = json!({ "app_id": app_id, "event_type": "im.message.message_read_v1", "event": event });
    world.sandbox("events", &event).await;
    until("the message to be read", || async { (world.history().await[0]["status"] == "read").then_some(()) }).await;
    assert_eq!(world.history().await[2]["status"], "delivered");
}
