//! Tokens through a running bundle: many people at once, one refresh for many callers, a vendor in trouble, and a year in minutes.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not run ends the test")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use domain::id::{AppId, OpenId, SessionId};
use domain::session::{CardStyle, Session, SessionRequest, SessionStatus, SessionStore};
use domain::token::{TokenPair, TokenStore, UserToken};
use reqwest::Client;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use skylark_tests::bundle::{Bundle, PATIENCE, binaries, sqs, until, workspace};
use table::Table;
use tokio::sync::Semaphore;
use vault::Vault;

/// How many people authorize at once.
const CROWD: usize = 1000;

const TOKEN_ENDPOINT: &str = "POST /open-apis/authen/v2/oauth/token";

struct World {
    bundle: Bundle,
    http: Client,
    table: Table,
    app_id: AppId,
}

impl World {
    /// A bundle whose app may do what it likes as often as it likes, with `settings` on top.
    async fn new(settings: Value) -> Self {
        let bundle = Bundle::start();
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("test", bundle.setting("/secret_access_key"), None, None, "test"))
            .endpoint_url(bundle.setting("/aws_endpoint"))
            .http_client(lambda_kit::aws::http_client())
            .build();
        let table = Table::new(aws_sdk_dynamodb::Client::from_conf(config), bundle.setting("/tables/LarkTable"));
        let app_id = AppId::parse(bundle.setting("/lark/app_id")).unwrap();
        let http = Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let world = Self { bundle, http, table, app_id };
        let text = |pointer: &str| world.bundle.setting(pointer).to_owned();
        let base = text("/http");
        let mut app = json!({
            "app_id": text("/lark/app_id"), "app_secret": text("/lark/app_secret"), "name": "云雀 Skylark",
            "encrypt_key": text("/lark/encrypt_key"), "verification_token": text("/lark/verification_token"),
            "callback_url": format!("{base}/lark/{}/callback", text("/lark/app_id")),
            "redirect_uris": [format!("{base}/lark/oauth/callback")],
            "scopes": ["offline_access", "task:task:read", "contact:user.base:readonly", "contact:user.phone:readonly", "im:message"],
            "rate_limits": false,
        });
        for (name, value) in settings.as_object().unwrap() {
            app[name] = value.clone();
        }
        world.sandbox("apps", &app).await;
        world
    }

    async fn sandbox(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}/sandbox/{path}", self.bundle.setting("/lark/sandbox"));
        let answer = self.http.post(url).json(body).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// How often an endpoint was called, and with which results.
    async fn calls(&self, endpoint: &str) -> Value {
        let url = format!("{}/sandbox/calls", self.bundle.setting("/lark/sandbox"));
        let calls: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        calls["counts"][endpoint].clone()
    }

    async fn forget_calls(&self) {
        let url = format!("{}/sandbox/calls", self.bundle.setting("/lark/sandbox"));
        self.http.delete(url).send().await.unwrap();
    }

    async fn clear_faults(&self) {
        let url = format!("{}/sandbox/faults", self.bundle.setting("/lark/sandbox"));
        self.http.delete(url).send().await.unwrap();
    }

    async fn fault(&self, kind: &str, more: Value) {
        let mut fault = json!({ "path_prefix": "/open-apis/authen/v2/oauth/token", "kind": kind });
        fault.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.sandbox("faults", &fault).await;
    }

    async fn person(&self, open_id: &str) {
        self.sandbox(
            "users",
            &json!({ "open_id": open_id, "name": format!("员工 {open_id}"), "mobile": "+8613812345678" }),
        )
        .await;
    }

    /// Cards in a person's chat, newest first: what each says, its message and its link.
    async fn cards(&self, open_id: &str) -> Vec<(String, String)> {
        let query = [("app_id", self.app_id.as_str()), ("open_id", open_id)];
        let url = format!("{}/sandbox/messages", self.bundle.setting("/lark/sandbox"));
        let seen: Value = self.http.get(url).query(&query).send().await.unwrap().json().await.unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let items = seen["items"].as_array().unwrap().iter();
        items
            .map(|message| (text(&message["card"]["header"]["subtitle"]["content"]), text(&message["message_id"])))
            .filter(|(status, _)| !status.is_empty())
            .collect()
    }

    async fn ask(&self, open_id: &str) -> Session {
        let request = SessionRequest {
            app_id: self.app_id.clone(),
            open_id: OpenId::parse(open_id).unwrap(),
            scopes: vec!["task:task:read".to_owned(), "contact:user.phone:readonly".to_owned()],
            reason: Some("周报 📅".to_owned()),
            style: CardStyle::Detailed,
            template_id: None,
            tenant_key: None,
        };
        let id = SessionId::parse(lambda_kit::random::uuid().to_string()).unwrap();
        let session = Session::open(id, request, lambda_kit::clock::now() + self.ahead().await).unwrap();
        self.table.create(&session).await.unwrap();
        session
    }

    /// How far ahead of the machine's clock the bundle lives.
    async fn ahead(&self) -> time::Duration {
        let url = format!("{}/_skylark/clock", self.bundle.setting("/aws_endpoint"));
        let clock: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        time::Duration::seconds(clock["ahead_secs"].as_i64().unwrap())
    }

    async fn pending_card(&self, open_id: &str) -> String {
        let newest = || async {
            let cards = self.cards(open_id).await;
            cards.first().filter(|(status, _)| status == "Pending").map(|(_, message)| message.clone())
        };
        until("a card that asks", newest).await
    }

    /// From the press of the button to the vendor's page, back, and to the card that says so; how long that took.
    async fn approve(&self, open_id: &str, message_id: &str) -> Duration {
        let clicked = Instant::now();
        let click = json!({ "message_id": message_id, "open_id": open_id, "button": "btn_authorize" });
        loop {
            let pressed = self.sandbox("click", &click).await;
            let page = self.location(pressed["open_url"].as_str().unwrap()).await;
            let consent = self.sandbox("authorize", &json!({ "url": page, "open_id": open_id, "approve": true })).await;
            let back = self.http.get(consent["location"].as_str().unwrap()).send().await.unwrap();
            match back.status().as_u16() {
                200 => break,
                // The page says: open the link on the card once more.
                503 => assert!(clicked.elapsed() < PATIENCE, "{open_id} is sent back and forth"),
                status => assert_eq!(status, 200, "what {open_id} is shown"),
            }
        }
        let done = || async {
            let cards = self.cards(open_id).await;
            cards.iter().any(|(status, message)| status == "Authorized" && message == message_id).then_some(())
        };
        until("the card to say so", done).await;
        clicked.elapsed()
    }

    async fn location(&self, url: &str) -> String {
        let answer = self.http.get(url).send().await.unwrap();
        answer.headers()["location"].to_str().unwrap().to_owned()
    }

    async fn authorize(&self, open_id: &str) {
        self.ask(open_id).await;
        let message_id = self.pending_card(open_id).await;
        self.approve(open_id, &message_id).await;
    }

    async fn token(&self, open_id: &str) -> Option<UserToken> {
        TokenStore::get(&self.table, &self.app_id, &OpenId::parse(open_id).unwrap()).await.unwrap()
    }

    fn vault(&self) -> Vault {
        Vault::from_setting(self.bundle.setting("/vault_key"), || unreachable!("a local bundle has no KMS")).unwrap()
    }

    /// Runs the job that the schedule runs, to its end.
    async fn tend(&self) {
        let endpoint = self.bundle.setting("/aws_endpoint");
        let url = format!("{endpoint}/2015-03-31/functions/token-expiry/invocations");
        let answer = self.http.post(url).json(&json!({ "job": "tend_tokens" })).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }

    /// No token, code, secret or mobile number in any log.
    async fn logs_keep_secrets(&self, people: &[&str]) {
        let mut canaries = vec![self.bundle.setting("/lark/app_secret").to_owned(), "13812345678".to_owned()];
        for person in people {
            let Some(token) = self.token(person).await else { continue };
            let pair = TokenPair::open(&token, &self.vault()).await.unwrap();
            canaries.push(pair.access_token.expose_secret().to_owned());
            canaries.extend(pair.refresh_token.map(|token| token.expose_secret().to_owned()));
        }
        let logs = std::fs::read_dir(self.bundle.folder().join("logs")).unwrap().map(|entry| entry.unwrap().path());
        for log in logs.chain([self.bundle.folder().join("stderr.log")]) {
            let text = std::fs::read_to_string(&log).unwrap();
            for canary in &canaries {
                assert!(!text.contains(canary.as_str()), "{} holds {:?}...", log.display(), canary.get(..6));
            }
            // Every token of the vendor's begins like this, whosever it was.
            assert!(!text.contains("eyJhbGciOiJFUzI1NiIs"), "{} holds a token", log.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_people_authorize_at_once_each_once() {
    let world = Arc::new(World::new(json!({})).await);
    let people: Vec<String> = (0..CROWD).map(|n| format!("ou_crowd_{n:04}")).collect();
    let mut sessions = Vec::new();
    for person in &people {
        world.person(person).await;
        sessions.push(world.ask(person).await);
    }
    let browsers = Arc::new(Semaphore::new(32));
    let tasks: Vec<_> = people
        .iter()
        .cloned()
        .map(|person| {
            let (world, browsers) = (world.clone(), browsers.clone());
            tokio::spawn(async move {
                let message_id = world.pending_card(&person).await;
                let _browser = browsers.acquire().await.unwrap();
                world.approve(&person, &message_id).await
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.push(task.await.unwrap());
    }
    took.sort();
    println!(
        "click to card updated, {CROWD} sessions open, 32 at a time: p50 {:?}, p95 {:?}",
        took[CROWD / 2],
        took[CROWD * 95 / 100]
    );

    for (person, session) in people.iter().zip(&sessions) {
        let stored = SessionStore::get(&world.table, &session.session_id).await.unwrap().unwrap();
        assert_eq!((stored.status, stored.version), (SessionStatus::Completed, 2), "{person}");
        assert_eq!(world.token(person).await.unwrap().session_id, session.session_id);
    }
    let calls = world.calls(TOKEN_ENDPOINT).await;
    let exchanges = calls["0"].as_u64().unwrap();
    println!("{exchanges} codes were exchanged for {CROWD} people: {calls}");
    assert!(exchanges < u64::try_from(CROWD + CROWD / 50).unwrap(), "hardly anybody had to press twice: {calls}");
    assert_eq!(world.calls("POST /open-apis/auth/v3/tenant_access_token/internal").await, json!({ "0": 1 }));
    for person in people.iter().step_by(97) {
        assert_eq!(world.cards(person).await.len(), 1, "one card, changed in place");
    }
}

/// Eight processes with 25 callers each, all at once; what each caller got.
async fn callers(world: &World, open_id: &str) -> Vec<String> {
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--profile", "local", "--package", "skylark-tests", "--example", "token_callers"]);
    assert!(build.current_dir(workspace()).status().unwrap().success());
    let ahead = world.ahead().await.whole_seconds();
    let mut processes: Vec<_> = (0..8)
        .map(|_| {
            Command::new(binaries().join("examples/token_callers"))
                .arg(world.bundle.folder().join("local.json"))
                .args([world.app_id.as_str(), open_id, "25"])
                .env("SKYLARK_CLOCK_AHEAD_SECS", ahead.to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for process in &mut processes {
        writeln!(process.stdin.take().unwrap(), "now").unwrap();
    }
    let mut got = Vec::new();
    for mut process in processes {
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(process.wait().unwrap().success());
        got.extend(serde_json::from_str::<Vec<String>>(&line).unwrap());
    }
    assert_eq!(got.len(), 200);
    got
}

#[tokio::test]
async fn two_hundred_callers_in_eight_processes_cause_one_refresh_even_if_its_answer_is_lost() {
    let world = World::new(json!({ "refresh_replay_secs": 60 })).await;
    world.authorize("ou_ann").await;
    for lost in [false, true] {
        world.bundle.advance("3h");
        world.forget_calls().await;
        if lost {
            world.fault("drop_after_processing", json!({ "times": 1 })).await;
        }
        let got = callers(&world, "ou_ann").await;
        let pair = TokenPair::open(&world.token("ou_ann").await.unwrap(), &world.vault()).await.unwrap();
        let stored = lambda_kit::random::hash(pair.access_token.expose_secret());
        assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([stored]), "200 times the stored token");
        // The lost one is asked for once more, and a vendor that repeats itself gives the same pair.
        let calls = world.calls(TOKEN_ENDPOINT).await;
        let total: u64 = calls.as_object().unwrap().values().filter_map(Value::as_u64).sum();
        assert_eq!(total, if lost { 2 } else { 1 }, "{calls}");
        let who = format!("{}/open-apis/authen/v1/user_info", world.bundle.setting("/lark/sandbox"));
        let who: Value = world
            .http
            .get(who)
            .bearer_auth(pair.access_token.expose_secret())
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert_eq!(who["data"]["open_id"], "ou_ann");
    }
    assert_eq!(world.cards("ou_ann").await.len(), 1, "nobody was asked again");
    world.logs_keep_secrets(&["ou_ann"]).await;
}

#[tokio::test]
async fn a_pair_that_is_lost_for_good_asks_the_person_once_and_their_card_mends_it() {
    let world = World::new(json!({})).await;
    world.authorize("ou_lina").await;
    world.bundle.advance("3h");
    world.fault("drop_after_processing", json!({ "times": 1 })).await;
    let got: BTreeSet<String> = callers(&world, "ou_lina").await.into_iter().collect();
    assert_eq!(got, BTreeSet::from(["authorization_required".to_owned()]));
    let message_id = world.pending_card("ou_lina").await;
    assert_eq!(world.cards("ou_lina").await.len(), 2, "the first card, and one more");
    world.approve("ou_lina", &message_id).await;
    let pair = TokenPair::open(&world.token("ou_lina").await.unwrap(), &world.vault()).await.unwrap();
    let stored = lambda_kit::random::hash(pair.access_token.expose_secret());
    assert_eq!(callers(&world, "ou_lina").await.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([stored]));
}

#[tokio::test]
async fn a_vendor_that_throttles_fails_and_times_out_costs_nobody_their_login() {
    const PEOPLE: usize = 60;
    let world = World::new(json!({})).await;
    let people: Vec<String> = (0..PEOPLE).map(|n| format!("ou_storm_{n:02}")).collect();
    for person in &people {
        world.person(person).await;
        world.authorize(person).await;
    }
    world.bundle.advance("109m");
    world.forget_calls().await;
    world.fault("rate_limit", json!({ "times": 10 })).await;
    world.fault("http_503", json!({ "percent": 20 })).await;
    world.fault("timeout", json!({ "percent": 5 })).await;
    let mut left = PEOPLE;
    for _ in 0..10 {
        world.tend().await;
        left = 0;
        for person in &people {
            let token = world.token(person).await.unwrap();
            assert_eq!(token.lapsed, None, "{person} is logged out");
            left += usize::from(token.version == 1 || token.failures > 0);
        }
        if left == 0 {
            break;
        }
        world.bundle.advance("2m");
    }
    assert_eq!(left, 0, "everybody has a new pair");
    let calls = world.calls(TOKEN_ENDPOINT).await;
    println!("refreshing {PEOPLE} people in a storm took {calls}");
    let total: u64 = calls.as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert!(total < 3 * u64::try_from(PEOPLE).unwrap(), "the vendor is not hammered: {calls}");
    world.clear_faults().await;
}

#[tokio::test]
async fn a_card_that_the_app_may_not_change_is_updated_by_the_click() {
    let world = World::new(json!({})).await;
    world.ask("ou_xiaoming").await;
    let message_id = world.pending_card("ou_xiaoming").await;
    world.fault("code:230071", json!({ "path_prefix": "/open-apis/im/v1/messages/" })).await;
    let click = json!({ "message_id": message_id, "open_id": "ou_xiaoming", "button": "btn_reject" });
    assert_eq!(world.sandbox("click", &click).await["error"], Value::Null);
    let declined = || async {
        let cards = world.cards("ou_xiaoming").await;
        (cards == [("Declined".to_owned(), message_id.clone())]).then_some(())
    };
    until("the card to say so", declined).await;
    assert_eq!(world.calls("POST /open-apis/interactive/v1/card/update").await, json!({ "0": 1 }));
}

/// What the bus said, in order: event and reason.
async fn heard(world: &World) -> Vec<String> {
    let (sqs, queue) = (sqs(&world.bundle), world.bundle.setting("/queues/AppEventsQueue").to_owned());
    let mut heard = Vec::new();
    loop {
        let batch =
            sqs.receive_message().queue_url(&queue).max_number_of_messages(10).wait_time_seconds(1).send().await;
        let batch = batch.unwrap();
        if batch.messages().is_empty() {
            return heard;
        }
        for message in batch.messages() {
            let event: Value = serde_json::from_str(message.body().unwrap()).unwrap();
            heard.push(event["detail-type"].as_str().unwrap().to_owned());
            sqs.delete_message()
                .queue_url(&queue)
                .receipt_handle(message.receipt_handle().unwrap())
                .send()
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn a_year_brings_the_warnings_that_are_due_a_card_at_the_end_and_a_clean_table() {
    let world = World::new(json!({})).await;
    world.sandbox("chats", &json!({ "chat_id": "oc_ops", "name": "运维", "chat_type": "group", "members": ["ou_lina"], "app_ids": [world.app_id] })).await;
    let (code, out, err) = world.bundle.skylark(&["app", "update", world.app_id.as_str(), "--operator-chat", "oc_ops"]);
    assert_eq!(code, 0, "{out}{err}");
    world.authorize("ou_hanako").await;
    assert_eq!(heard(&world).await, ["AuthorizationCompleted"]);

    // Ten months in which nothing is due but to stay alive.
    for _ in 0..51 {
        world.bundle.advance("6d");
        world.tend().await;
    }
    assert_eq!(world.cards("ou_hanako").await.len(), 1);
    let kept: BTreeSet<String> = heard(&world).await.into_iter().collect();
    assert_eq!(kept, BTreeSet::from(["TokenRefreshed".to_owned()]));

    // Day 306; sixty-seven more, one by one.
    let mut diary = Vec::new();
    for day in 307..=373 {
        world.bundle.advance("1d");
        let before = world.token("ou_hanako").await;
        world.tend().await;
        world.tend().await;
        let after = world.token("ou_hanako").await;
        let noticed = |token: &Option<UserToken>| token.as_ref().map(|token| (token.noticed, token.lapsed.is_some()));
        if noticed(&before) != noticed(&after) {
            diary.push(day);
        }
    }
    assert_eq!(diary, [335, 358, 362, 365, 372], "30, 7 and 3 days ahead, at the end, and a week after it");
    assert_eq!(world.token("ou_hanako").await, None);

    let mut events = heard(&world).await;
    events.retain(|event| event.starts_with("TokenExp"));
    assert_eq!(events, ["TokenExpiring", "TokenExpiring", "TokenExpiring", "TokenExpired"]);
    until("four more cards", || async { (world.cards("ou_hanako").await.len() == 5).then_some(()) }).await;

    // A week late is not too late: the last card still works.
    let message_id = world.pending_card("ou_hanako").await;
    world.approve("ou_hanako", &message_id).await;
    assert!(world.token("ou_hanako").await.is_some_and(|token| token.lapsed.is_none() && token.noticed.is_none()));
    world.logs_keep_secrets(&["ou_hanako"]).await;
}
