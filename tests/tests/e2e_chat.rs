//! Chat by HTTP through a running bundle: what is said once is there once, in one order for all, and what is wrong is told.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what does not run ends the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use domain::access::{AccessToken, Caller, Scope, TokenSigner as _};
use domain::id::{ClientId, FamilyId, TenantId, UserId};
use lambda_kit::clock;
use reqwest::{Client, Method, Response};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use skylark_tests::bundle::{Bundle, PATIENCE, until};
use time::Duration;
use tokio::task::JoinSet;
use vault::{AccessTokens, SigningKeyFiles};

/// A client of one user. Its tokens are signed with the bundle's own key, so that a hundred users need no hundred log-ins.
#[derive(Clone)]
struct Person {
    http: Client,
    base: String,
    token: String,
}

impl Person {
    /// Somebody whose client may do as much as it likes.
    async fn of(bundle: &Bundle, user: &str) -> Self {
        Self::with(bundle, user, "default", Some(1_000_000)).await
    }

    async fn with(bundle: &Bundle, user: &str, tenant: &str, rate: Option<u32>) -> Self {
        let keys = SigningKeyFiles::read(&[bundle.folder().join("SigningKey.key")]).unwrap();
        let now = clock::now();
        let caller = Caller {
            client_id: ClientId::parse("e2e").unwrap(),
            user_id: UserId::parse(user).unwrap(),
            tenant_id: TenantId::parse(tenant).unwrap(),
            scopes: [Scope::Chat].into(),
            session_id: FamilyId::parse("6f9619ff-8b86-4d01-b42d-00cf4fc964ff").unwrap(),
            expires_at: now + Duration::minutes(15),
            rate,
        };
        let base = bundle.setting("/http").to_owned();
        let token = AccessToken { issuer: base.clone(), caller, issued_at: now, token_id: "e2e".to_owned() };
        let token = AccessTokens::new(Box::new(keys), None).sign(&token).await.unwrap().expose_secret().to_owned();
        Self { http: Client::new(), base, token }
    }

    async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> reqwest::Result<Response> {
        let request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token);
        let request = if let Some(body) = body { request.json(body) } else { request };
        request.timeout(PATIENCE).send().await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        read(self.request(Method::GET, path, None).await.unwrap()).await
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        read(self.request(Method::POST, path, Some(body)).await.unwrap()).await
    }

    async fn open(&self, kind: &str, members: &[&str]) -> String {
        let (status, body) = self.post("/v1/conversations", &json!({ "type": kind, "members": members })).await;
        assert_eq!(status, 201, "{body}");
        text(&body["conversation_id"]).to_owned()
    }

    /// Says something, and says it again for as long as the answer is that it may go through later.
    async fn say(&self, message: &Value) -> Option<u64> {
        loop {
            let response = self.request(Method::POST, "/v1/messages", Some(message)).await.ok()?;
            match response.status().as_u16() {
                200 | 202 => return response.json::<Value>().await.ok()?["seq"].as_u64(),
                429 | 500..=599 => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                status => panic!("{status}: {}", response.text().await.unwrap()),
            }
        }
    }

    /// All that was said after `after_seq`, page by page.
    async fn all(&self, conversation_id: &str) -> Vec<Value> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let after = all.last().map_or(0, |last| last["seq"].as_u64().unwrap());
            let path = format!("/v1/conversations/{conversation_id}/messages?limit=100&after_seq={after}");
            let (status, page) = self.get(&path).await;
            assert_eq!(status, 200, "{page}");
            all.extend(page["messages"].as_array().unwrap().iter().cloned());
            if page["has_more"] == false {
                assert_eq!(page["total"], json!(all.len()));
                return all;
            }
        }
    }
}

async fn read(response: Response) -> (u16, Value) {
    assert!(response.headers().contains_key("x-request-id"));
    (response.status().as_u16(), response.json().await.unwrap())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn uuid(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012x}")
}

fn message(conversation_id: &str, n: usize, said: &str) -> Value {
    json!({ "message_id": uuid(n), "conversation_id": conversation_id, "payload": { "type": "text", "text": said } })
}

/// The numbers are 1..n without a gap, and each message is there once.
fn each_once_in_order(all: &[Value]) -> BTreeMap<String, u64> {
    let numbers: Vec<u64> = all.iter().map(|message| message["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=all.len() as u64).collect::<Vec<_>>());
    let name = |message: &Value| format!("{} {}", text(&message["from"]), text(&message["message_id"]));
    let places: BTreeMap<String, u64> = all.iter().map(name).zip(numbers).collect();
    assert_eq!(places.len(), all.len(), "each once");
    places
}

#[tokio::test]
async fn what_is_said_once_is_there_once_and_what_is_wrong_is_told() {
    let bundle = Bundle::start();
    let [ann, bob, eve] =
        [Person::of(&bundle, "ann").await, Person::of(&bundle, "bob").await, Person::of(&bundle, "eve").await];
    one_pair(&ann, &bob).await;
    let id = ann.open("group", &["ann", "bob", "cy"]).await;
    one_message(&ann, &id).await;
    pages_and_read_marks(&bundle, &ann, &bob).await;
    wrong_conversations(&ann).await;
    wrong_messages(&ann, &eve, &id).await;
    wrong_places(&bundle, &ann, &eve, &id).await;
    too_often(&bundle).await;

    let log = std::fs::read_to_string(bundle.folder().join("logs/skylark-ChatApiFunction.log")).unwrap();
    for secret in ["你好", "密", &ann.token] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

/// Twenty people open the same private conversation at once: it is one.
async fn one_pair(ann: &Person, bob: &Person) {
    let mut racing = JoinSet::new();
    for n in 0..20 {
        let person = if n % 2 == 0 { ann.clone() } else { bob.clone() };
        let members = if n % 3 == 0 { ["ann", "bob"] } else { ["bob", "ann"] };
        let body =
            json!({ "type": "private", "members": members, "metadata": { "题目": "🎂", "n": 1.5e10, "deep": [[{}]] } });
        racing.spawn(async move { person.post("/v1/conversations", &body).await });
    }
    let answers = racing.join_all().await;
    let ids: BTreeSet<&str> = answers.iter().map(|(_, body)| text(&body["conversation_id"])).collect();
    let new = answers.iter().filter(|(status, _)| *status == 201).count();
    assert_eq!((ids.len(), new), (1, 1), "{answers:?}");
    assert!(answers.iter().all(|(status, _)| matches!(status, 200 | 201)), "{answers:?}");
    assert_eq!(answers[0].1["metadata"], json!({ "题目": "🎂", "n": 1.5e10, "deep": [[{}]] }));
}

/// Fifty threads send the same message: it is one, and they are all told the same.
async fn one_message(ann: &Person, id: &str) {
    let said = message(id, 1, "你好 👩‍👩‍👧‍👦 — once");
    let mut racing = JoinSet::new();
    for _ in 0..50 {
        let (ann, said) = (ann.clone(), said.clone());
        racing.spawn(async move {
            loop {
                let response = ann.request(Method::POST, "/v1/messages", Some(&said)).await.unwrap();
                let replayed = response.headers().get("idempotent-replay").is_some_and(|value| value == "true");
                let status = response.status().as_u16();
                if status < 500 {
                    return (status, replayed, response.json::<Value>().await.unwrap());
                }
            }
        });
    }
    let answers = racing.join_all().await;
    let bodies: BTreeSet<String> = answers.iter().map(|(_, _, body)| body.to_string()).collect();
    assert_eq!(bodies, [json!({ "status": "accepted", "message_id": uuid(1), "seq": 1 }).to_string()].into());
    assert_eq!(answers.iter().filter(|(status, replayed, _)| (*status, *replayed) == (202, false)).count(), 1);
    assert_eq!(answers.iter().filter(|(status, replayed, _)| (*status, *replayed) == (200, true)).count(), 49);
    let (status, body) = ann.post("/v1/messages", &message(id, 1, "something else")).await;
    assert_eq!((status, text(&body["error"])), (422, "message_id_reused"));
    let all = ann.all(id).await;
    assert_eq!((all.len(), &all[0]["payload"]), (1, &said["payload"]));
}

async fn pages_and_read_marks(bundle: &Bundle, ann: &Person, bob: &Person) {
    let dee = Person::of(bundle, "dee").await;
    let id = &dee.open("group", &["ann", "bob", "dee"]).await;
    for n in 1..=12 {
        assert_eq!(ann.say(&message(id, 100 + n, &format!("第 {n} 条 🙂"))).await, Some(n as u64));
    }
    let numbers = |page: &Value| -> Vec<u64> {
        page["messages"].as_array().unwrap().iter().map(|it| it["seq"].as_u64().unwrap()).collect()
    };
    let history = format!("/v1/conversations/{id}/messages");
    for (query, seqs, more) in [
        ("", (1..=12).rev().collect::<Vec<u64>>(), false),
        ("?limit=5", vec![12, 11, 10, 9, 8], true),
        ("?limit=5&offset=10", vec![2, 1], false),
        ("?offset=12", vec![], false),
        ("?after_seq=9&limit=2", vec![10, 11], true),
        ("?after_seq=10", vec![11, 12], false),
        ("?after_seq=12", vec![], false),
    ] {
        let (status, page) = bob.get(&format!("{history}{query}")).await;
        assert_eq!((status, numbers(&page), &page["has_more"]), (200, seqs, &json!(more)), "{query}");
        assert_eq!((&page["total"], text(&page["conversation_id"])), (&json!(12), id.as_str()));
    }
    let unread = async |person: &Person| {
        let (_, list) = person.get("/v1/conversations?limit=1").await;
        assert_eq!(text(&list["items"][0]["conversation_id"]), id, "what was said last in comes first");
        list["items"][0]["unread_count"].as_u64().unwrap()
    };
    assert_eq!([unread(ann).await, unread(bob).await], [0, 12], "who said it has read it");
    let read = format!("/v1/conversations/{id}/read");
    for (body, seq, left) in [(json!({ "seq": 7 }), 7, 5), (json!({ "seq": 3 }), 7, 5), (json!({}), 12, 0)] {
        assert_eq!(bob.post(&read, &body).await, (200, json!({ "read_seq": seq, "unread_count": left })), "{body}");
    }
    let (status, body) = bob.post(&read, &json!({ "seq": 13 })).await;
    assert_eq!((status, body["details"]["fields"]["seq"].is_string()), (400, true), "{body}");
    assert_eq!(bob.request(Method::POST, &read, None).await.unwrap().status(), 200, "no body is a read to the end");

    let (_, page) = ann.get(&format!("{history}?limit=1&recipients=true")).await;
    let last = &page["messages"][0];
    assert_eq!((text(&last["status"]), text(&last["from"])), ("read", "ann"));
    let status = |user: &str| {
        let each = last["recipients"].as_array().unwrap();
        each.iter().find(|it| it["user_id"] == user).map(|it| text(&it["status"]).to_owned())
    };
    assert_eq!([status("bob").as_deref(), status("ann").as_deref()], [Some("read"), None]);
    let (_, list) = ann.get("/v1/conversations?limit=1&offset=1").await;
    let total = list["total"].as_u64().unwrap();
    assert_eq!((list["items"].as_array().unwrap().len(), &list["has_more"]), (1, &json!(total > 2)));
    assert_eq!(ann.get("/v1/conversations?offset=1000").await.1["items"], json!([]));
}

async fn wrong_conversations(ann: &Person) {
    let people = |count: usize| -> Vec<String> {
        (0..count).map(|n| if n == 0 { "ann".to_owned() } else { format!("p{n}") }).collect()
    };
    let private = |members: &[&str]| json!({ "type": "private", "members": members });
    let group = |count: usize| json!({ "type": "group", "members": people(count) });
    for (body, field) in [
        (private(&[]), "members"),
        (private(&["ann"]), "members"),
        (private(&["ann", "ann"]), "members"),
        (private(&["ann", "a b"]), "members"),
        (group(0), "members"),
        (group(2), "members"),
        (group(101), "members"),
        (json!({ "type": "group", "members": ["ann", "bob", "bob", "cy"] }), "members"),
        (json!({ "type": "channel", "members": ["ann", "bob"] }), "type"),
        (json!({ "members": ["ann", "bob"] }), "type"),
        (json!({ "type": "private", "members": ["ann", "bob"], "metadata": "x" }), "metadata"),
        (json!({ "type": "private", "members": ["ann", "bob"], "metadata": { "x": "长".repeat(2_000) } }), "metadata"),
        (json!({ "type": "private", "members": ["ann", "bob"], "channels": [{ "name": "lark" }] }), "channels"),
        (json!([]), "body"),
    ] {
        let (status, answer) = ann.post("/v1/conversations", &body).await;
        assert_eq!((status, text(&answer["error"])), (400, "invalid_request"), "{body}");
        assert!(answer["details"]["fields"][field].is_string(), "{body}: {answer}");
    }
    let (status, answer) = ann.post("/v1/conversations", &private(&["bob", "cy"])).await;
    assert_eq!((status, text(&answer["error"])), (403, "not_among_members"));
    let (status, answer) = ann.post("/v1/conversations", &group(100)).await;
    assert_eq!((status, answer["members"].as_array().unwrap().len()), (201, 100));
    let id = text(&answer["conversation_id"]);
    assert_eq!(ann.say(&message(id, 150, "to a hundred")).await, Some(1));
}

async fn wrong_messages(ann: &Person, eve: &Person, id: &str) {
    let with = |name: &str, value: Value| {
        let mut body = message(id, 200, "hi");
        body[name] = value;
        body
    };
    for (body, field) in [
        (json!({}), "message_id"),
        (with("message_id", json!("7")), "message_id"),
        (with("conversation_id", json!(7)), "conversation_id"),
        (with("payload", json!("hi")), "payload"),
        (with("payload", json!({ "type": "sticker" })), "payload.type"),
        (with("payload", json!({ "type": "text" })), "payload.text"),
        (with("payload", json!({ "type": "text", "text": "" })), "payload.text"),
        (with("payload", json!({ "type": "file", "file_id": "x" })), "payload.file_id"),
        (with("channels", json!(["fax"])), "channels"),
        (with("priority", json!("urgent")), "priority"),
    ] {
        let (status, answer) = ann.post("/v1/messages", &body).await;
        assert_eq!((status, text(&answer["error"])), (400, "invalid_request"), "{body}");
        assert!(answer["details"]["fields"][field].is_string(), "{body}: {answer}");
    }
    for (person, body, expected) in [
        (ann, message(id, 201, &"x".repeat(1_000_000)), (413, "text_too_large")),
        (ann, message(id, 201, &"x".repeat(3_000_000)), (413, "payload_too_large")),
        (ann, with("from", json!("bob")), (403, "foreign_sender")),
        (ann, message(&uuid(9), 201, "hi"), (404, "conversation_not_found")),
        (eve, message(id, 201, "hi"), (403, "not_a_member")),
        (ann, with("payload", json!({ "type": "file", "file_id": uuid(1) })), (409, "file_not_ready")),
    ] {
        let (status, answer) = person.post("/v1/messages", &body).await;
        assert_eq!((status, text(&answer["error"])), expected, "{answer}");
    }
    assert_eq!(ann.all(id).await.len(), 1, "nothing of it was kept");
    assert_eq!(ann.say(&with("from", json!("ann"))).await, Some(2), "and the names are still free");
}

async fn wrong_places(bundle: &Bundle, ann: &Person, eve: &Person, id: &str) {
    let elsewhere = Person::with(bundle, "ann", "other", None).await;
    let history = format!("/v1/conversations/{id}/messages");
    for (person, path, expected) in [
        (eve, history.as_str(), (403, "not_a_member")),
        (&elsewhere, history.as_str(), (404, "conversation_not_found")),
        (ann, "/v1/conversations/7c0e9bd2-4f0a-4f0b-9a51-0d0f1f2a3b4c/messages", (404, "conversation_not_found")),
        (ann, "/v1/conversations/7/messages", (400, "invalid_request")),
    ] {
        let (status, answer) = person.get(path).await;
        assert_eq!((status, text(&answer["error"])), expected, "{path}");
    }
    for (query, field) in
        [("?limit=0", "limit"), ("?limit=101", "limit"), ("?offset=-1", "offset"), ("?after_seq=1&offset=1", "offset")]
    {
        let (status, answer) = ann.get(&format!("{history}{query}")).await;
        assert!(status == 400 && answer["details"]["fields"][field].is_string(), "{query}: {answer}");
    }
    assert_eq!(eve.post(&format!("/v1/conversations/{id}/read"), &json!({})).await.0, 403);
    assert_eq!(elsewhere.get("/v1/conversations").await.1["items"], json!([]));
    let stranger = Person { token: "eyJ.e30.x".to_owned(), ..ann.clone() };
    assert_eq!(stranger.get("/v1/conversations").await.0, 401);
}

/// The sixty-first change of a minute is refused, wherever the minute's edge lies, and told when to come back. Looking is free.
async fn too_often(bundle: &Bundle) {
    let fay = Person::with(bundle, "fay", "default", None).await;
    let id = &fay.open("private", &["fay", "gus"]).await;
    let mut racing = JoinSet::new();
    for n in 0..80 {
        let (fay, said) = (fay.clone(), message(id, 300 + n, "again"));
        racing.spawn(async move {
            loop {
                let response = fay.request(Method::POST, "/v1/messages", Some(&said)).await.unwrap();
                if response.status().as_u16() != 503 {
                    let wait = response.headers().get("retry-after").map(|it| it.to_str().unwrap().parse().unwrap());
                    return (response.status().as_u16(), wait);
                }
            }
        });
    }
    let answers: Vec<(u16, Option<u64>)> = racing.join_all().await;
    let said = answers.iter().filter(|(status, _)| *status == 202).count();
    let refused =
        answers.iter().filter(|(status, wait)| *status == 429 && wait.is_some_and(|wait| (1..=62).contains(&wait)));
    assert!(said <= 59 && said + refused.count() == 80, "{answers:?}");
    assert_eq!(fay.get("/v1/conversations").await.0, 200);
    let other_tenant = Person::with(bundle, "fay", "other", None).await;
    other_tenant.open("private", &["fay", "gus"]).await;
}

/// A hundred people in one conversation say twenty things each, all at once.
#[tokio::test]
async fn a_hundred_senders_have_one_order() {
    const SENDERS: usize = 100;
    const EACH: usize = 20;
    let bundle = Bundle::start();
    let names: Vec<String> = (0..SENDERS).map(|n| format!("user-{n:03}")).collect();
    let first = Person::of(&bundle, &names[0]).await;
    let id = first.open("group", &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut talking = JoinSet::new();
    for name in &names {
        let (person, id, name) = (Person::of(&bundle, name).await, id.clone(), name.clone());
        talking.spawn(async move {
            let mut places = Vec::new();
            for n in 0..EACH {
                let seq = person.say(&message(&id, n, &format!("{name} 说第 {n} 句 🗣️"))).await.unwrap();
                places.push((format!("{name} {}", uuid(n)), seq));
            }
            assert!(places.is_sorted_by_key(|(_, seq)| *seq), "what {name} said later stands later");
            places
        });
    }
    let told: BTreeMap<String, u64> = talking.join_all().await.into_iter().flatten().collect();
    let stored = each_once_in_order(&first.all(&id).await);
    assert_eq!((stored.len(), &stored), (SENDERS * EACH, &told));
}

/// The bundle is killed in a burst: what was answered with 202 is there, in its place, and sending the rest again fills up without doubling.
#[tokio::test]
async fn what_was_accepted_before_a_kill_is_there_afterwards_once() {
    const SENDERS: usize = 8;
    const EACH: usize = 60;
    let bundle = Bundle::start();
    let ann = Person::of(&bundle, "ann").await;
    let ids: Vec<String> =
        vec![ann.open("private", &["ann", "bob"]).await, ann.open("group", &["ann", "bob", "cy"]).await];
    let accepted = Arc::new(AtomicUsize::new(0));
    let mut burst = JoinSet::new();
    for sender in 0..SENDERS {
        let (ann, id, accepted) = (ann.clone(), ids[sender % 2].clone(), accepted.clone());
        burst.spawn(async move {
            let mut told = BTreeMap::new();
            for n in 0..EACH {
                let n = sender * EACH + n;
                let Some(seq) = ann.say(&message(&id, n, "🔥 在途")).await else { break };
                accepted.fetch_add(1, Ordering::SeqCst);
                told.insert(n, seq);
            }
            told
        });
    }
    until("a third of the burst", || async { (accepted.load(Ordering::SeqCst) > SENDERS * EACH / 3).then_some(()) })
        .await;
    let folder = bundle.kill();
    let told: BTreeMap<usize, u64> = burst.join_all().await.into_iter().flatten().collect();
    assert!(told.len() < SENDERS * EACH, "killed in the middle: {}", told.len());

    let bundle = Bundle::start_on(folder);
    let ann = Person::of(&bundle, "ann").await;
    let place = |places: &BTreeMap<String, u64>, n: usize| places.get(&format!("ann {}", uuid(n))).copied();
    for (which, id) in ids.iter().enumerate() {
        let kept = each_once_in_order(&ann.all(id).await);
        let own = |n: usize| (n / EACH) % 2 == which;
        for (n, seq) in told.iter().filter(|(n, _)| own(**n)) {
            assert_eq!(place(&kept, *n), Some(*seq), "{n} was accepted");
        }
        let all: Vec<usize> = (0..SENDERS * EACH).filter(|n| own(*n)).collect();
        for n in &all {
            let seq = ann.say(&message(id, *n, "🔥 在途")).await;
            assert!(place(&kept, *n).is_none_or(|before| Some(before) == seq), "{n} keeps its place");
        }
        assert_eq!(each_once_in_order(&ann.all(id).await).len(), all.len());
    }
}
