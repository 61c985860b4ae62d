//! Clicks and events: what reaches the app, how it is sealed, what its answer does, and what happens when there is none.

use std::collections::HashSet;

use futures_util::future::join_all;
use lark_sandbox::DeliveryStatus;
use reqwest::Method;
use serde_json::{Value, json};

use crate::receiver::{Receiver, Script};
use crate::stage::{ANN, APP, Reply, Stage, XIAOMING};

const KEY: &str = "kudryavka-密钥-🔑";
const TOKEN: &str = "vtok_Example0123456789abcdefgh";
const UPDATE: &str = "/open-apis/interactive/v1/card/update";

fn card(title: &str) -> Value {
    json!({ "schema": "2.0", "header": { "title": { "tag": "plain_text", "content": title } }, "body": { "elements": [
        { "tag": "button", "element_id": "btn_auth", "text": { "tag": "plain_text", "content": "授权" },
          "behaviors": [{ "type": "open_url", "default_url": "https://accounts.example/authorize" }] },
        { "tag": "form", "name": "f", "elements": [
            { "tag": "input", "name": "reason", "required": true },
            { "tag": "column_set", "columns": [{ "tag": "column", "elements": [
                { "tag": "button", "name": "submit", "text": { "tag": "plain_text", "content": "提交 ✅" },
                  "form_action_type": "submit", "behaviors": [{ "type": "callback", "value": { "op": "submit" } }] }] }] }] },
        { "tag": "button", "name": "off", "disabled": true },
    ]}})
}

fn old_card(title: &str) -> Value {
    json!({ "header": { "title": { "tag": "plain_text", "content": title } }, "elements": [{ "tag": "action", "actions": [
        { "tag": "button", "text": { "tag": "plain_text", "content": "Approve" }, "value": { "op": "approve" } }] }] })
}

struct Scene {
    stage: Stage,
    receiver: Receiver,
    token: String,
}

impl Scene {
    async fn new(settings: Value) -> Self {
        let stage = Stage::new().await;
        let receiver = Receiver::start(settings["encrypt_key"].as_str()).await;
        let mut settings = settings;
        settings["callback_url"] = json!(receiver.url);
        stage.app(settings).await;
        let token = stage.tenant_token().await;
        Self { stage, receiver, token }
    }

    async fn sealed() -> Self {
        Self::new(json!({ "encrypt_key": KEY })).await
    }

    async fn send(&self, card: &Value) -> String {
        self.stage.send(&self.token, "interactive", card).await
    }

    async fn click(&self, message_id: &str, more: Value) -> Reply {
        let mut click = json!({ "message_id": message_id, "open_id": ANN });
        for (name, value) in more.as_object().unwrap() {
            click[name] = value.clone();
        }
        self.stage.post("/sandbox/click", click).await
    }

    async fn submit(&self, message_id: &str) -> Reply {
        self.click(message_id, json!({ "button": "submit", "form_value": { "reason": "因为 🌧" } })).await
    }

    async fn update(&self, token: &str, card: Value) -> i64 {
        let body = json!({ "token": token, "card": card });
        self.stage.call(Method::POST, UPDATE, Some(&self.token), Some(body)).await.code()
    }
}

#[tokio::test]
async fn a_click_calls_back_encrypted_and_signed_and_the_answer_replaces_the_card() {
    let scene = Scene::sealed().await;
    let message_id = scene.send(&card("before")).await;
    scene.receiver.answer_json(&json!({
        "toast": { "type": "success", "content": "Done", "i18n": { "zh_cn": "好" } },
        "card": { "type": "raw", "data": card("after 已处理") },
    }));
    let clicked = scene.submit(&message_id).await;
    assert_eq!(clicked.body["status"], 200, "{}", clicked.body);
    assert_eq!(clicked.body["toast"]["i18n"]["zh_cn"], "好");
    assert_eq!((clicked.body["card_replaced"].as_bool(), clicked.body["error"].as_u64()), (Some(true), None));
    assert!(clicked.body["latency_ms"].as_u64().unwrap() < 3_000);

    let pushes = scene.receiver.received();
    let push = &pushes[0];
    assert!(
        push.raw.starts_with(b"{\"encrypt\":\"") && push.is_signed_with_sha256(KEY) && !push.is_signed_with_sha256("x")
    );
    assert_eq!(push.plain["header"]["event_type"], "card.action.trigger");
    assert_eq!(
        (push.plain["header"]["token"].as_str(), push.plain["header"]["app_id"].as_str()),
        (Some(TOKEN), Some(APP))
    );
    let event = &push.plain["event"];
    assert_eq!(event["operator"]["open_id"], ANN);
    assert_eq!(event["context"]["open_message_id"], message_id);
    assert_eq!(event["action"]["value"], json!({ "op": "submit" }));
    assert_eq!(event["action"]["form_value"]["reason"], "因为 🌧");
    assert!(event["token"].as_str().unwrap().starts_with("c-"));

    let seen = scene.stage.seen(ANN).await;
    assert_eq!(seen["card"]["header"]["title"]["content"], "after 已处理");
    assert_eq!(seen["history"][1]["toast"]["content"], "Done");
}

#[tokio::test]
async fn an_old_callback_is_plain_signed_with_sha1_and_answers_with_a_bare_card() {
    let scene = Scene::new(json!({ "encrypt_key": KEY, "card_callback": "old" })).await;
    let message_id = scene.send(&old_card("before")).await;
    scene.receiver.answer([Script::Answer(500, String::new())]);
    scene.receiver.answer_json(&old_card("after"));
    scene.receiver.answer_json(&json!({ "content": "好的", "i18n": { "en_us": "fine" } }));
    for _ in 0..3 {
        scene.click(&message_id, json!({ "button": "Approve" })).await;
    }
    let pushes = scene.receiver.received();
    assert!(pushes.iter().all(|push| push.is_signed_with_sha1(TOKEN)));
    assert_eq!(pushes[0].plain["action"]["value"], json!({ "op": "approve" }));
    assert_eq!((pushes[0].plain["open_id"].as_str(), pushes[0].plain.get("schema")), (Some(ANN), None));
    let refresh: Vec<_> = pushes.iter().map(|push| push.headers["x-refresh-token"].clone()).collect();
    assert!(refresh[0] == refresh[1] && refresh[1] != refresh[2], "stable until a click was acknowledged");
    let seen = scene.stage.seen(ANN).await;
    assert_eq!(seen["card"]["header"]["title"]["content"], "after");
    assert_eq!(seen["history"].as_array().unwrap().last().unwrap()["toast"]["content"], "好的");
}

#[tokio::test]
async fn a_failed_callback_shows_the_number_a_person_would_see() {
    let scene = Scene::sealed().await;
    let message_id = scene.send(&card("x")).await;
    scene.receiver.answer([
        Script::Answer(500, "{}".to_owned()),
        Script::Redirect("http://127.0.0.1:1/".to_owned()),
        Script::Answer(200, "not json".to_owned()),
        Script::Answer(200, json!({ "toast": { "type": "loud", "content": "x" } }).to_string()),
        Script::Answer(
            200,
            json!({ "card": { "type": "raw", "data": { "schema": "2.0", "elements": [] } } }).to_string(),
        ),
        Script::Hang,
    ]);
    for (error, status) in [
        (200_343, Some(500)),
        (200_343, Some(302)),
        (200_343, Some(200)),
        (200_343, Some(200)),
        (200_343, Some(200)),
        (200_341, None),
    ] {
        let clicked = scene.submit(&message_id).await;
        assert_eq!(
            (clicked.body["error"].as_u64(), clicked.body["status"].as_u64()),
            (Some(error), status),
            "{}",
            clicked.body
        );
    }
    let unreachable = scene.receiver.url.clone();
    drop(scene.receiver);
    scene.stage.app(json!({ "callback_url": unreachable, "verify": false })).await;
    let click =
        json!({ "message_id": message_id, "open_id": ANN, "button": "submit", "form_value": { "reason": "x" } });
    let clicked = scene.stage.post("/sandbox/click", click.clone()).await;
    assert!([200_340, 200_343].contains(&clicked.body["error"].as_u64().unwrap()), "{}", clicked.body);
    scene.stage.app(json!({})).await;
    assert_eq!(scene.stage.post("/sandbox/click", click).await.body["error"], 200_340, "no callback_url at all");
    assert_eq!(scene.stage.seen(ANN).await["card"]["header"]["title"]["content"], "x");
}

#[tokio::test]
async fn presses_that_call_nobody() {
    let scene = Scene::sealed().await;
    let message_id = scene.send(&card("x")).await;
    for button in [json!("btn_auth"), json!("授权"), json!(0), Value::Null] {
        let opened = scene.click(&message_id, json!({ "button": button })).await;
        assert_eq!(opened.body["open_url"], "https://accounts.example/authorize", "{}", opened.body);
    }
    for (click, error) in [
        (json!({ "button": "submit" }), "form_incomplete"),
        (json!({ "button": "off" }), "button_disabled"),
        (json!({ "button": "nowhere" }), "no_such_button"),
        (json!({ "button": "submit", "open_id": XIAOMING }), "message_not_visible"),
        (json!({ "message_id": "om_x" }), "not_found"),
    ] {
        assert_eq!(scene.click(&message_id, click.clone()).await.body["error"], error, "{click}");
    }
    scene.stage.advance(14 * 24 * 3_600 + 1).await;
    assert_eq!(scene.submit(&message_id).await.body["error"], "card_expired");
    assert!(scene.receiver.received().is_empty());
}

#[tokio::test]
async fn a_card_token_updates_twice_within_thirty_minutes_after_the_answer() {
    let scene = Scene::sealed().await;
    let message_id = scene.send(&card("0")).await;
    scene.submit(&message_id).await;
    let token = scene.receiver.received()[0].plain["event"]["token"].as_str().unwrap().to_owned();
    assert_eq!(scene.update("d-1", card("x")).await, 300_020);
    assert_eq!(scene.update(&token, json!({ "schema": "2.0", "elements": [] })).await, 11_311);
    assert_eq!(scene.update(&token, card("1")).await, 0);
    assert_eq!(scene.update(&token, card("2")).await, 0);
    assert_eq!(scene.update(&token, card("3")).await, 300_040);
    assert_eq!(scene.stage.seen(ANN).await["card"]["header"]["title"]["content"], "2");

    scene.submit(&message_id).await;
    let token = scene.receiver.received()[1].plain["event"]["token"].as_str().unwrap().to_owned();
    scene.stage.advance(1_801).await;
    assert_eq!(scene.update(&token, card("late")).await, 300_030);

    scene.receiver.answer([Script::Answer(500, String::new())]);
    scene.submit(&message_id).await;
    let token = scene.receiver.received()[2].plain["event"]["token"].as_str().unwrap().to_owned();
    assert_eq!(scene.update(&token, card("unanswered")).await, 10_002);
}

#[tokio::test]
async fn a_card_that_is_not_shared_changes_only_for_the_people_named() {
    let scene = Scene::sealed().await;
    let group = json!({ "chat_id": "oc_g", "name": "g", "members": [ANN, XIAOMING], "app_ids": [APP] });
    scene.stage.post("/sandbox/chats", group).await;
    let body = json!({ "receive_id": "oc_g", "msg_type": "interactive", "content": old_card("before").to_string() });
    let path = "/open-apis/im/v1/messages?receive_id_type=chat_id";
    let message_id =
        scene.stage.call(Method::POST, path, Some(&scene.token), Some(body)).await.text("/data/message_id");
    scene.receiver.answer_json(&json!({ "card": { "type": "raw", "data": old_card("for Ann") } }));
    scene.click(&message_id, json!({})).await;
    let title = async |open_id| scene.stage.seen(open_id).await["card"]["header"]["title"]["content"].clone();
    assert_eq!((title(ANN).await, title(XIAOMING).await), (json!("for Ann"), json!("before")));

    let token = scene.receiver.received()[0].plain["event"]["token"].as_str().unwrap().to_owned();
    let with = |open_ids: Value| {
        let mut card = old_card("for 小明");
        card["open_ids"] = open_ids;
        card
    };
    assert_eq!(scene.update(&token, old_card("x")).await, 300_090);
    assert_eq!(scene.update(&token, with(json!(["ou_stranger"]))).await, 200_320);
    assert_eq!(scene.update(&token, with(json!([XIAOMING]))).await, 0);
    assert_eq!((title(ANN).await, title(XIAOMING).await), (json!("for Ann"), json!("for 小明")));
}

#[tokio::test]
async fn a_failed_event_is_retried_on_schedule_with_the_same_event_id() {
    let scene = Scene::sealed().await;
    scene.receiver.answer((0..4).map(|_| Script::Answer(500, String::new())));
    let event =
        json!({ "app_id": APP, "event_type": "contact.user.created_v3", "event": { "object": { "name": "新人 🎉" } } });
    let first = scene.stage.post("/sandbox/events", event).await;
    assert_eq!(
        (first.text("/status"), first.body["attempts"][0]["http_status"].as_u64()),
        ("pending".to_owned(), Some(500))
    );
    for (wait, attempts) in [(5, 1), (10, 2), (300, 3), (3_000, 3), (600, 4), (6 * 3_600, 5), (24 * 3_600, 5)] {
        scene.stage.advance(wait).await;
        assert_eq!(scene.receiver.received().len(), attempts, "after {wait} s more");
    }
    let pushes = scene.receiver.received();
    assert!(pushes.iter().all(|push| push.is_signed_with_sha256(KEY) && push.plain == pushes[0].plain));
    assert_eq!(pushes[0].plain["header"]["event_id"], first.text("/event_id"));
    assert_eq!(pushes[0].plain["event"]["object"]["name"], "新人 🎉");
    let deliveries = scene.stage.sandbox.deliveries(Some(APP.to_owned())).await.unwrap();
    assert_eq!((deliveries[0].status, deliveries[0].attempts.len()), (DeliveryStatus::Delivered, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_event_is_pushed_once_and_its_first_attempt_is_reported() {
    let scene = Scene::sealed().await;
    let events = (0..40).map(|number| {
        let event = json!({ "app_id": APP, "event_type": "x", "event": {}, "event_id": format!("e{number}") });
        scene.stage.post("/sandbox/events", event)
    });
    for reply in join_all(events).await {
        assert_eq!(reply.text("/status"), "delivered", "{}", reply.body);
    }
    let pushes = scene.receiver.received();
    let ids: HashSet<_> = pushes.iter().map(|push| push.plain["header"]["event_id"].to_string()).collect();
    assert_eq!((pushes.len(), ids.len()), (40, 40));
}

#[tokio::test]
async fn an_event_without_an_encrypt_key_is_plain_and_schema_1_has_its_own_shape() {
    let scene = Scene::new(json!({})).await;
    for (schema, event_id) in [("2.0", "e2"), ("1.0", "e1")] {
        let event = json!({ "app_id": APP, "event_type": "p2p_chat_create", "event": { "chat_id": "oc_1" }, "event_id": event_id, "schema": schema });
        assert_eq!(scene.stage.post("/sandbox/events", event).await.text("/status"), "delivered");
    }
    let pushes = scene.receiver.received();
    assert!(pushes.iter().all(|push| !push.headers.contains_key("x-lark-signature")));
    assert_eq!(
        (pushes[0].plain["schema"].as_str(), pushes[0].plain["header"]["event_id"].as_str()),
        (Some("2.0"), Some("e2"))
    );
    assert_eq!(
        (pushes[1].plain["uuid"].as_str(), pushes[1].plain["event"]["type"].as_str()),
        (Some("e1"), Some("p2p_chat_create"))
    );
    assert_eq!(pushes[1].plain["token"], TOKEN);
}

#[tokio::test]
async fn a_person_writing_to_the_bot_becomes_a_message_event() {
    let scene = Scene::sealed().await;
    let said = json!({ "app_id": APP, "open_id": XIAOMING, "text": "你好 {brace} } 👋" });
    let written = scene.stage.post("/sandbox/messages/from", said).await;
    assert_eq!(written.text("/delivery/status"), "delivered");
    let event = scene.receiver.received()[0].plain["event"].clone();
    assert_eq!(event["message"]["content"], json!({ "text": "你好 {brace} } 👋" }).to_string());
    assert_eq!(
        (event["message"]["chat_type"].as_str(), event["sender"]["sender_type"].as_str()),
        (Some("p2p"), Some("user"))
    );
    assert_eq!(event["sender"]["sender_id"].get("user_id"), None, "needs a scope");
    let path = format!("/open-apis/im/v1/messages/{}/reply", written.text("/message/message_id"));
    let reply = json!({ "msg_type": "text", "content": "{\"text\":\"收到\"}" });
    let reply = scene.stage.call(Method::POST, &path, Some(&scene.token), Some(reply)).await;
    assert_eq!(reply.text("/data/chat_id"), event["message"]["chat_id"].as_str().unwrap());
}

#[tokio::test]
async fn a_callback_url_is_only_saved_if_it_answers_the_challenge() {
    let stage = Stage::new().await;
    let receiver = Receiver::start(Some("another key")).await;
    let app = |url: &str| json!({ "app_id": APP, "app_secret": "s", "callback_url": url });
    for (url, why) in [
        (format!("{}/sandbox/nothing", stage.base), "HTTP 404"),
        ("http://127.0.0.1:1/".to_owned(), "could not be reached"),
        (format!("{}/sandbox/clock", stage.base), "HTTP 400"),
    ] {
        let refused = stage.post("/sandbox/apps", app(&url)).await;
        assert_eq!((refused.status, refused.text("/error")), (422, "callback_url_unverified".to_owned()));
        assert!(refused.text("/message").contains(why), "{} does not say {why}", refused.body);
    }
    assert_eq!(stage.get("/sandbox/apps").await.body["items"][0]["callback_url"], Value::Null);
    assert_eq!(stage.post("/sandbox/apps", app("ftp://x/")).await.text("/error"), "invalid_request");
    assert_eq!(stage.post("/sandbox/apps", app(&receiver.url)).await.status, 200);
}
