//! The Lark story through a running bundle: vectors, two apps, repetitions, bad input, and a kill in the middle of a burst.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not run ends the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use domain::id::{AppId, OpenId, SessionId};
use domain::inbox::{KEPT, OpenEntries as _};
use domain::session::{CardStyle, Session, SessionRequest, SessionStatus, SessionStore};
use lambda_kit::clock;
use lark::signature;
use reqwest::Client;
use serde_json::{Value, json};
use skylark_tests::bundle::{Bundle, aws, sqs, until, workspace};
use table::Table;

const KEY: &str = "kudryavka-Encrypt-Key-01";
const TOKEN: &str = "vtok_Example0123456789abcdefgh";
/// The app that the vectors were made for.
const APP: &str = "cli_a1b2c3d4e5f60001";
/// An app without an encrypt key.
const PLAIN_APP: &str = "cli_plain";

fn add_app(bundle: &Bundle, app_id: &str, encrypt_key: Option<&str>, token: &str) {
    let mut arguments = vec!["app", "add", "--app-id", app_id, "--app-secret", "s3cret", "--verification-token", token];
    arguments.extend(["--name", "考勤 🕘"]);
    if let Some(key) = encrypt_key {
        arguments.extend(["--encrypt-key", key]);
    }
    let (code, out, err) = bundle.skylark(&arguments);
    assert_eq!(code, 0, "{out}{err}");
    assert!(!out.contains("s3cret") && !err.contains("s3cret"));
}

struct Push<'a> {
    app_id: &'a str,
    body: String,
    /// Timestamp, nonce and signature.
    signature: Option<(String, String, String)>,
}

impl<'a> Push<'a> {
    fn unsigned(app_id: &'a str, body: impl Into<String>) -> Self {
        Self { app_id, body: body.into(), signature: None }
    }

    /// Encrypted and signed as the vendor does.
    fn sealed(app_id: &'a str, key: &str, plain: &Value) -> Self {
        static NONCE: AtomicU32 = AtomicU32::new(0);
        let nonce = format!("n{}", NONCE.fetch_add(1, Ordering::SeqCst));
        let body = json!({ "encrypt": signature::encrypt(key, [7; 16], plain.to_string().as_bytes()) }).to_string();
        let sum = signature::sha256_hex("1700000000", &nonce, key, body.as_bytes());
        Self { app_id, body, signature: Some(("1700000000".to_owned(), nonce, sum)) }
    }

    fn signed(self, vector: &Value) -> Self {
        let text = |name: &str| vector[name].as_str().unwrap_or_default().to_owned();
        Self { signature: Some((text("timestamp"), text("nonce"), text("x_lark_signature"))), ..self }
    }

    fn request(&self, http: &Client, base: &str) -> reqwest::RequestBuilder {
        let mut request = http.post(format!("{base}/lark/{}/callback", self.app_id)).body(self.body.clone());
        request = request.header("content-type", "application/json;charset=utf-8");
        if let Some((timestamp, nonce, sum)) = &self.signature {
            request = request.header("X-Lark-Request-Timestamp", timestamp).header("X-Lark-Request-Nonce", nonce);
            request = request.header("X-Lark-Signature", sum);
        }
        request
    }

    async fn send(&self, http: &Client, base: &str) -> (u16, Value) {
        let response = self.request(http, base).send().await.unwrap();
        assert!(response.headers().contains_key("x-request-id"));
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or(Value::Null))
    }
}

fn event(app_id: &str, token: &str, event_id: &str) -> Value {
    json!({
        "schema": "2.0",
        "header": { "event_id": event_id, "event_type": "im.chat.updated_v1", "create_time": "1700000000000", "token": token,
                    "app_id": app_id, "tenant_key": "t1" },
        "event": { "chat_id": "oc_1", "name": "周会 🗓" },
    })
}

/// Takes what is on the queue that holds every published event, as often as it came.
async fn drain(bundle: &Bundle, sqs: &aws_sdk_sqs::Client, published: &mut Vec<Value>) {
    let queue = bundle.setting("/queues/AppEventsQueue");
    loop {
        let batch = sqs.receive_message().queue_url(queue).max_number_of_messages(10).send().await.unwrap();
        if batch.messages().is_empty() {
            return;
        }
        for message in batch.messages() {
            published.push(serde_json::from_str(message.body().unwrap()).unwrap());
            let receipt = message.receipt_handle().unwrap();
            sqs.delete_message().queue_url(queue).receipt_handle(receipt).send().await.unwrap();
        }
    }
}

/// The ids of vendor events among what was published, as often as they came.
fn event_ids(published: &[Value]) -> Vec<&str> {
    published.iter().filter_map(|fact| fact["detail"]["event_id"].as_str()).collect()
}

fn vectors() -> Value {
    serde_json::from_slice(&std::fs::read(workspace().join("tests/fixtures/lark-vectors.json")).unwrap()).unwrap()
}

#[tokio::test]
async fn every_vector_is_accepted_or_refused_as_the_contract_says() {
    let bundle = Bundle::start();
    add_app(&bundle, APP, Some(KEY), TOKEN);
    add_app(&bundle, PLAIN_APP, None, TOKEN);
    add_app(&bundle, "cli_unicode", Some("密钥-键🔑"), TOKEN);
    add_app(&bundle, "cli_wrong_key", Some("kudryavka-Encrypt-Key-01x"), TOKEN);
    let (http, base, vectors) = (Client::new(), bundle.setting("/http"), vectors());
    let list = |name: &str| vectors[name].as_array().unwrap().clone();

    for vector in list("signature_sha256") {
        let push = Push::unsigned(APP, vector["raw_body"].as_str().unwrap()).signed(&vector);
        let (status, body) = push.send(&http, base).await;
        let good = vector["expect_valid"] == true;
        assert_eq!(status, if good { 200 } else { 401 }, "{}: {body}", vector["name"]);
    }
    for vector in list("signature_sha1_card") {
        let push = Push::unsigned(PLAIN_APP, vector["raw_body"].as_str().unwrap()).signed(&vector);
        let (status, body) = push.send(&http, base).await;
        assert_eq!(status, if vector["expect_valid"] == true { 200 } else { 401 }, "{}: {body}", vector["name"]);
    }
    for vector in list("decrypt") {
        // Unsigned: only the URL check may pass. What does not even decrypt is refused as well.
        let app = match vector["encrypt_key"].as_str().unwrap() {
            "密钥-键🔑" => "cli_unicode",
            "kudryavka-Encrypt-Key-01x" => "cli_wrong_key",
            _ => APP,
        };
        let body = json!({ "encrypt": vector["ciphertext_b64"] }).to_string();
        let (status, answer) = Push::unsigned(app, body).send(&http, base).await;
        let name = vector["name"].as_str().unwrap();
        let plain = vector["expect"]["plaintext"].as_str().unwrap_or_default();
        if plain.contains("url_verification") && !name.starts_with("TAMPERED") {
            assert_eq!((status, &answer["challenge"]), (200, &json!("c1f7a1d2-0d6e-4b6b-9a51-9f5f0f3f7a11")), "{name}");
        } else {
            let malformed = name.starts_with("MALFORMED");
            assert!(if malformed { status == 400 } else { matches!(status, 400 | 401) }, "{name}: {status} {answer}");
        }
    }
    for vector in list("end_to_end") {
        let name = vector["name"].as_str().unwrap();
        let app = if vector["encrypt_key"] == "" { PLAIN_APP } else { APP };
        let mut push = Push::unsigned(app, vector["raw_body"].as_str().unwrap_or_default());
        if vector.get("x_lark_signature").is_some() {
            push = push.signed(&vector);
        }
        if name.contains("WRONG token") {
            // The vector's app expects another token than the body carries.
            add_app(&bundle, "cli_other_token", None, "other");
            push.app_id = "cli_other_token";
        }
        let (status, body) = push.send(&http, base).await;
        let expected = if name.contains("WRONG token") { 401 } else { 200 };
        assert_eq!(status, expected, "{name}: {body}");
    }
}

#[tokio::test]
async fn apps_do_not_answer_for_one_another_and_a_repeated_event_has_one_effect() {
    let bundle = Bundle::start();
    let (http, base, sqs) = (Client::new(), bundle.setting("/http"), sqs(&bundle));
    add_app(&bundle, "cli_a", Some("key of a"), "token-a");
    add_app(&bundle, "cli_b", Some("key of b"), "token-b");

    let for_a = Push::sealed("cli_a", "key of a", &event("cli_a", "token-a", "ev-a"));
    let for_b = Push::sealed("cli_b", "key of b", &event("cli_b", "token-b", "ev-b"));
    assert_eq!(for_a.send(&http, base).await.0, 200);
    assert_eq!(for_b.send(&http, base).await.0, 200);
    let crossed = Push { app_id: "cli_b", ..for_a };
    assert_eq!(crossed.send(&http, base).await.0, 401, "a's signature on b's URL");
    let foreign = Push::sealed("cli_b", "key of b", &event("cli_a", "token-b", "ev-c"));
    assert_eq!(foreign.send(&http, base).await.0, 403, "b's key, but a's event");

    let five = (0..5).map(|_| Push::sealed("cli_a", "key of a", &event("cli_a", "token-a", "ev-five")));
    let five: Vec<_> = five
        .map(|push| {
            let http = http.clone();
            let base = base.to_owned();
            tokio::spawn(async move { push.send(&http, &base).await.0 })
        })
        .collect();
    for answer in five {
        assert_eq!(answer.await.unwrap(), 200);
    }
    let (code, out, err) = bundle.skylark(&["app", "disable", "cli_b", "--force"]);
    assert_eq!(code, 0, "{out}{err}");

    let published = std::sync::Mutex::new(Vec::new());
    until("each event to be published", || async {
        let mut more = Vec::new();
        drain(&bundle, &sqs, &mut more).await;
        let mut published = published.lock().unwrap();
        published.extend(more);
        (published.len() >= 3).then_some(())
    })
    .await;
    // A second effect would come from a second ring, which the stream sends within a second or two.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut published = published.into_inner().unwrap();
    drain(&bundle, &sqs, &mut published).await;
    let mut ids = event_ids(&published);
    ids.sort_unstable();
    assert_eq!(ids, ["ev-a", "ev-b", "ev-five"]);

    until("the disabled app to be refused", || async {
        let push = Push::sealed("cli_b", "key of b", &event("cli_b", "token-b", "ev-late"));
        (push.send(&http, base).await.0 == 403).then_some(())
    })
    .await;
}

#[tokio::test]
async fn bad_input_gets_the_right_status_and_a_reason_that_names_it() {
    let bundle = Bundle::start();
    let (http, base) = (Client::new(), bundle.setting("/http"));
    add_app(&bundle, APP, Some(KEY), TOKEN);
    let url = |app: &str| format!("{base}/lark/{app}/callback");
    let json = ("content-type", "application/json");
    let post = |app: &str| http.post(url(app)).header(json.0, json.1);

    let cases = [
        ("broken JSON", post(APP).body("{"), 400, "invalid_request"),
        ("no body", post(APP), 400, "invalid_request"),
        ("not an object", post(APP).body("[1]"), 400, "invalid_request"),
        ("wrong type of a field", post(APP).body(r#"{"encrypt": 7}"#), 400, "invalid_request"),
        ("not UTF-8", post(APP).body(vec![0xff, 0xfe]), 400, "invalid_request"),
        (
            "wrong content type",
            http.post(url(APP)).header("content-type", "text/xml").body("<a/>"),
            415,
            "unsupported_media_type",
        ),
        ("2 MB", post(APP).body("x".repeat(2 << 20)), 413, "payload_too_large"),
        ("unknown app", post("cli_nobody").body("{}"), 404, "unknown_app"),
        ("an app id that is none", post("a%23b").body("{}"), 400, "invalid_request"),
        ("plain where encryption is due", post(APP).body(event(APP, TOKEN, "e").to_string()), 401, "forged_callback"),
        (
            "empty signature headers",
            post(APP).header("X-Lark-Signature", "").body(event(APP, TOKEN, "e").to_string()),
            401,
            "forged_callback",
        ),
    ];
    for (name, request, status, code) in cases {
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{name}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"], code, "{name}: {body}");
        assert!(body["message"].is_string() && body["details"].is_object(), "{name}: {body}");
        if status == 400 {
            assert!(!body["details"]["fields"].as_object().unwrap().is_empty(), "{name} names the field: {body}");
        }
        assert!(!body.to_string().contains("panicked"), "{name}");
    }

    let too_old = Push::sealed(APP, KEY, &event(APP, TOKEN, "old"));
    assert_eq!(
        too_old.send(&http, base).await.0,
        200,
        "the vendor retries for 7 hours; a timestamp alone refuses nothing"
    );
    let unknown = json!({"schema": "2.0", "header": {"event_id": "u1", "event_type": "nobody.knows_v9", "token": TOKEN, "app_id": APP}, "event": {}});
    assert_eq!(Push::sealed(APP, KEY, &unknown).send(&http, base).await.0, 200, "an unknown event type is no failure");
    for (path, status) in [("/nowhere", 404), ("/health", 200), ("/ready", 200)] {
        assert_eq!(http.get(format!("{base}{path}")).send().await.unwrap().status().as_u16(), status, "{path}");
    }
}

/// The sandbox's app, and sessions that wait for one person each.
struct Burst {
    app_id: String,
    key: String,
    token: String,
    sessions: Vec<Session>,
}

impl Burst {
    /// Callbacks in one burst; every tenth is a press on Decline.
    const SIZE: usize = 500;

    async fn prepare(bundle: &Bundle, http: &Client) -> Self {
        let text = |name: &str| bundle.setting(&format!("/lark/{name}")).to_owned();
        let table = table_of(bundle);
        let mut sessions = Vec::new();
        for n in 0..Self::SIZE / 10 {
            let person = json!({ "open_id": format!("ou_burst{n}"), "name": format!("第 {n} 位 🙂") });
            let created = http.post(format!("{}/sandbox/users", text("sandbox"))).json(&person).send().await.unwrap();
            assert!(created.status().is_success());
            let request = SessionRequest {
                app_id: AppId::parse(text("app_id")).unwrap(),
                open_id: OpenId::parse(format!("ou_burst{n}")).unwrap(),
                scopes: vec!["task:task:read".to_owned()],
                reason: None,
                style: CardStyle::Concise,
                template_id: None,
                tenant_key: None,
            };
            let id = SessionId::parse(format!("00000000-0000-4000-8000-{n:012x}")).unwrap();
            let session = Session::open(id, request, clock::now()).unwrap();
            table.create(&session).await.unwrap();
            sessions.push(session);
        }
        for session in &sessions {
            until("each card to be sent", || async {
                (stored(&table, session).await.shown_version == 1).then_some(())
            })
            .await;
        }
        Self { app_id: text("app_id"), key: text("encrypt_key"), token: text("verification_token"), sessions }
    }

    fn push(&self, n: usize) -> Push<'_> {
        let mut plain = event(&self.app_id, &self.token, &burst_id(n));
        if let Some(session) = self.clicked(n) {
            plain["header"]["event_type"] = json!("card.action.trigger");
            plain["event"] = json!({
                "operator": { "open_id": session.open_id }, "token": "c-1",
                "action": { "tag": "button", "value": { "skylark": "reject", "session_id": session.session_id } },
            });
        }
        Push::sealed(&self.app_id, &self.key, &plain)
    }

    fn clicked(&self, n: usize) -> Option<&Session> {
        if n.is_multiple_of(10) { self.sessions.get(n / 10) } else { None }
    }

    /// Ten callers at once push until they are done or the bundle is gone; says what was acknowledged.
    async fn run(self: std::sync::Arc<Self>, http: Client, base: String) -> BTreeSet<usize> {
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..10 {
            let (burst, http, base) = (self.clone(), http.clone(), base.clone());
            callers.spawn(async move {
                let mut acknowledged = Vec::new();
                for n in (caller * Self::SIZE / 10)..((caller + 1) * Self::SIZE / 10) {
                    match burst.push(n).request(&http, &base).send().await {
                        Ok(response) if response.status().is_success() => acknowledged.push(n),
                        // The bundle is gone, or going.
                        _ => break,
                    }
                }
                acknowledged
            });
        }
        callers.join_all().await.into_iter().flatten().collect()
    }
}

fn burst_id(n: usize) -> String {
    format!("burst-{n}")
}

fn table_of(bundle: &Bundle) -> Table {
    Table::new(aws_sdk_dynamodb::Client::new(&aws(bundle)), bundle.setting("/tables/LarkTable"))
}

async fn stored(table: &Table, session: &Session) -> Session {
    SessionStore::get(table, &session.session_id).await.unwrap().unwrap()
}

/// Inbox entries that a worker holds.
async fn claimed(bundle: &Bundle) -> BTreeSet<String> {
    let client = aws_sdk_dynamodb::Client::new(&aws(bundle));
    let pages = client
        .scan()
        .table_name(bundle.setting("/tables/LarkTable"))
        .filter_expression("attribute_exists(claim_until)");
    let items = pages.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await.unwrap();
    items.iter().map(|item| item["event_id"].as_s().unwrap().clone()).collect()
}

#[tokio::test]
async fn what_was_acknowledged_before_a_kill_has_its_effect_once_after_the_restart() {
    let (bundle, http) = (Bundle::start(), Client::new());
    let burst = std::sync::Arc::new(Burst::prepare(&bundle, &http).await);
    let running = tokio::spawn(burst.clone().run(http.clone(), bundle.setting("/http").to_owned()));
    // In the middle of the burst, whenever that is on this machine.
    until("half of the burst", || async {
        let url = format!("{}/_skylark/status", bundle.setting("/aws_endpoint"));
        let status: Value = http.get(url).send().await.ok()?.json().await.ok()?;
        let functions = status["functions"].as_object()?;
        let callbacks = functions.iter().find(|(name, _)| name.contains("LarkCallback"))?.1["invocations"].as_u64()?;
        (callbacks as usize > Burst::SIZE / 2).then_some(())
    })
    .await;
    let folder = bundle.kill();
    let acknowledged = running.await.unwrap();
    let count = acknowledged.len();
    assert!(count > Burst::SIZE / 4 && count < Burst::SIZE, "killed in the middle: {count}");

    let bundle = Bundle::start_on(folder);
    let in_flight = claimed(&bundle).await;
    let (table, sqs) = (table_of(&bundle), sqs(&bundle));
    let published = std::sync::Mutex::new(Vec::new());
    until("every entry to be done, and every card to follow", || async {
        let mut more = Vec::new();
        drain(&bundle, &sqs, &mut more).await;
        published.lock().unwrap().extend(more);
        if !table.unanswered(clock::now() + KEPT, 1).await.unwrap().is_empty() {
            return None;
        }
        let published = published.lock().unwrap().clone();
        for session in &burst.sessions {
            let now = stored(&table, session).await;
            let told = now.status == SessionStatus::Pending
                || published.iter().any(|fact| fact["detail"]["session_id"] == json!(session.session_id));
            if now.card_is_behind() || !told {
                return None;
            }
        }
        Some(())
    })
    .await;
    let mut published = published.into_inner().unwrap();
    drain(&bundle, &sqs, &mut published).await;

    // On the bus: each acknowledged event, at least once and under its own id; again only what a worker held when it was killed.
    let mut times = BTreeMap::<&str, usize>::new();
    for id in event_ids(&published) {
        *times.entry(id).or_default() += 1;
    }
    for n in acknowledged.iter().filter(|n| burst.clicked(**n).is_none()) {
        assert!(times.contains_key(burst_id(*n).as_str()), "acknowledged and never published: {n}");
    }
    for (id, times) in times {
        assert!(id.starts_with("burst-") && (times == 1 || in_flight.contains(id)), "{id} was published {times} times");
    }
    // In the table and in the chats: exactly once.
    for n in (0..Burst::SIZE).step_by(10) {
        let before = burst.clicked(n).unwrap();
        let after = stored(&table, before).await;
        let expected = match after.status {
            SessionStatus::Pending if !acknowledged.contains(&n) => ("Pending", 1),
            _ => ("Declined", 2),
        };
        let url = format!("{}/sandbox/messages", bundle.setting("/lark/sandbox"));
        let seen = http.get(url).query(&[("open_id", before.open_id.as_str())]).send().await.unwrap();
        let seen: Value = seen.json().await.unwrap();
        let shown: Vec<_> = seen["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| &message["card"]["header"]["subtitle"]["content"])
            .collect();
        assert_eq!(shown, [expected.0], "one card each, and it says so");
        assert_eq!((after.version, after.shown_version), (expected.1, expected.1));
        let outcomes: BTreeSet<_> = published
            .iter()
            .filter(|fact| fact["detail"]["session_id"] == json!(before.session_id))
            .map(|fact| fact["detail-type"].as_str().unwrap())
            .collect();
        let outcome = if expected.1 == 2 { BTreeSet::from(["AuthorizationRejected"]) } else { BTreeSet::new() };
        assert_eq!(outcomes, outcome);
    }
}

#[tokio::test]
async fn a_callback_that_no_bell_told_of_is_found_by_the_schedule() {
    use aws_sdk_dynamodb::types::AttributeValue::{N, S};
    let bundle = Bundle::start();
    let (client, sqs) = (aws_sdk_dynamodb::Client::new(&aws(&bundle)), sqs(&bundle));
    let event = json!({ "id": "ev-lost", "event_type": "im.chat.updated_v1", "app_id": "cli_a", "tenant_key": "t1", "created_at_ms": 1, "body": {} });
    let text = |text: &str| S(text.to_owned());
    let entry = [
        ("pk", text("INBOX#cli_a#ev-lost")),
        ("sk", text("INBOX")),
        ("app_id", text("cli_a")),
        ("event_id", text("ev-lost")),
        ("callback", text("event")),
        ("group", text("ev-lost")),
        ("payload", S(event.to_string())),
        ("received_at", text("2026-01-01T00:00:00Z")),
        ("state", text("accepted")),
        ("kind", text("inbox.open.0")),
        ("at", N("1767225660".to_owned())),
        // The stream's filter does not know this word, and lets no change of an entry through: no bell will ring.
        ("entity", text("unheard")),
    ];
    let entry = entry.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    client.put_item().table_name(bundle.setting("/tables/LarkTable")).set_item(Some(entry)).send().await.unwrap();

    let (code, out, err) = bundle.skylark(&["local", "trigger", "token-expiry"]);
    assert_eq!(code, 0, "{out}{err}");
    let published = until("the event to be published", || async {
        let mut published = Vec::new();
        drain(&bundle, &sqs, &mut published).await;
        (!published.is_empty()).then_some(published)
    })
    .await;
    assert_eq!(event_ids(&published), ["ev-lost"]);
    until("the entry to be done", || async {
        let open = table_of(&bundle).unanswered(clock::now() + KEPT, 10).await.unwrap();
        open.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_demo_passes_and_ctrl_c_leaves_nothing_behind() {
    let mut bundle = Bundle::start();
    let (code, out, err) = bundle.skylark(&["demo"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("the same card says so") && !out.contains("FAIL"));
    let (code, out, _) = bundle.skylark(&["local", "trigger", "token-expiry"]);
    assert_eq!(code, 0, "{out}");
    let (code, out, err) = bundle.skylark(&["invoke", "health-check", "--event", "events/health-check/health.json"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains(r#""statusCode":200"#), "{out}");

    let folder = bundle.folder().to_string_lossy().into_owned();
    assert!(bundle.terminate(), "it stops by itself");
    let left: Vec<String> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("environ")).ok())
        .filter(|environment| environment.contains(&folder))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "no process of the bundle is left");
}
