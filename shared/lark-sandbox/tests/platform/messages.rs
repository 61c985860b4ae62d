//! Messages: sending once, replying, editing, updating, recalling, and the refusals of im/v1.

use reqwest::Method;
use serde_json::{Value, json};

use crate::stage::{ANN, APP, Stage, XIAOMING};

const MESSAGES: &str = "/open-apis/im/v1/messages";
const DAY: u64 = 24 * 3_600;

fn card(title: &str, shared: bool) -> Value {
    json!({
        "config": { "update_multi": shared },
        "header": { "title": { "tag": "plain_text", "content": title } },
        "elements": [{ "tag": "div", "text": { "tag": "lark_md", "content": "**你好** 🌸" } }],
    })
}

async fn patch(stage: &Stage, token: &str, message_id: &str, card: &Value) -> i64 {
    let body = json!({ "content": card.to_string() });
    stage.call(Method::PATCH, &format!("{MESSAGES}/{message_id}"), Some(token), Some(body)).await.code()
}

#[tokio::test]
async fn a_message_with_the_same_uuid_is_sent_once_within_the_hour() {
    let stage = Stage::new().await;
    let token = stage.tenant_token().await;
    let text = json!({ "text": "订单 🧾 <at user_id=\"ou_ann\">Ann</at>" });
    let first = stage.send_to(&token, ANN, "text", &text, Some("order-1")).await;
    assert_eq!(first.code(), 0, "{}", first.body);
    assert!(first.text("/data/message_id").starts_with("om_") && first.text("/data/chat_id").starts_with("oc_"));
    assert_eq!(first.body["data"]["sender"]["id"], APP);
    let again = stage.send_to(&token, ANN, "text", &text, Some("order-1")).await;
    assert_eq!(again.body["data"], first.body["data"]);
    assert_eq!(stage.seen(ANN).await["content"], text.to_string());
    stage.advance(3_601).await;
    let later = stage.send_to(&token, ANN, "text", &text, Some("order-1")).await;
    assert_ne!(later.text("/data/message_id"), first.text("/data/message_id"));
    assert_eq!(later.text("/data/chat_id"), first.text("/data/chat_id"));
}

#[tokio::test]
async fn sends_that_cannot_succeed_name_the_reason() {
    let stage = Stage::new().await;
    let token = stage.tenant_token().await;
    let hello = json!({ "text": "hi" }).to_string();
    let long_card = card(&"长".repeat(11_000), true).to_string();
    let bad_card = json!({ "schema": "2.0", "elements": [] }).to_string();
    for (query, receive_id, msg_type, content, uuid, code) in [
        ("", ANN, "text", hello.as_str(), "", 99_992_402),
        ("?receive_id_type=phone", ANN, "text", &hello, "", 230_001),
        ("?receive_id_type=open_id", "ou_nobody", "text", &hello, "", 99_992_351),
        ("?receive_id_type=open_id", "ou_resigned", "text", &hello, "", 230_029),
        ("?receive_id_type=email", "nobody@example.com", "text", &hello, "", 230_034),
        ("?receive_id_type=chat_id", "oc_nowhere", "text", &hello, "", 230_034),
        ("?receive_id_type=open_id", ANN, "fax", &hello, "", 230_001),
        ("?receive_id_type=open_id", ANN, "text", "hi", "", 230_001),
        ("?receive_id_type=open_id", ANN, "text", "{}", "", 230_001),
        ("?receive_id_type=open_id", ANN, "post", "{\"zh_cn\":{}}", "", 230_001),
        ("?receive_id_type=open_id", ANN, "image", "{}", "", 230_001),
        ("?receive_id_type=open_id", ANN, "text", &hello, &"u".repeat(51), 230_001),
        ("?receive_id_type=open_id", ANN, "interactive", &long_card, "", 230_025),
        ("?receive_id_type=open_id", ANN, "interactive", &bad_card, "", 230_099),
        ("?receive_id_type=open_id", ANN, "interactive", "not json", "", 230_099),
    ] {
        let body = json!({ "receive_id": receive_id, "msg_type": msg_type, "content": content, "uuid": uuid });
        let reply = stage.call(Method::POST, &format!("{MESSAGES}{query}"), Some(&token), Some(body)).await;
        assert_eq!((reply.status, reply.code()), (400, code), "{query} {receive_id} {msg_type}: {}", reply.body);
    }
    let reply = stage.send_to(&token, ANN, "interactive", &json!({ "schema": "2.0", "elements": [] }), None).await;
    assert!(reply.text("/msg").contains("unknown property, property: elements"), "{}", reply.body);
    assert_eq!(stage.get("/sandbox/messages").await.body["items"], json!([]), "nothing was sent");
    let text = json!({ "text": "t".repeat(149 * 1_024) });
    assert_eq!(stage.send_to(&token, ANN, "text", &text, None).await.code(), 0);
}

#[tokio::test]
async fn one_person_gets_five_messages_a_second_from_a_bot() {
    let stage = Stage::new().await;
    let token = stage.tenant_token().await;
    let mut codes = Vec::new();
    while codes.len() < 200 && !codes.contains(&230_020) {
        codes.push(stage.send_to(&token, ANN, "text", &json!({ "text": "x" }), None).await.code());
    }
    assert!(codes.contains(&230_020), "{codes:?}");
    stage.app(json!({ "rate_limits": false })).await;
    for _ in 0..20 {
        assert_eq!(stage.send_to(&token, ANN, "text", &json!({ "text": "x" }), None).await.code(), 0);
    }
}

#[tokio::test]
async fn a_card_is_updated_in_place_for_fourteen_days_if_it_is_shared() {
    let stage = Stage::new().await;
    let token = stage.tenant_token().await;
    let shared = stage.send(&token, "interactive", &card("before", true)).await;
    assert_eq!(patch(&stage, &token, &shared, &card("after ✅", true)).await, 0);
    let seen = stage.seen(ANN).await;
    assert_eq!(seen["card"]["header"]["title"]["content"], "after ✅");
    assert_eq!(
        seen["history"].as_array().unwrap().iter().map(|change| &change["what"]).collect::<Vec<_>>(),
        ["sent", "patched"]
    );
    assert_eq!(patch(&stage, &token, &shared, &card("x", false)).await, 230_001);
    assert_eq!(patch(&stage, &token, &shared, &json!([])).await, 230_099);
    assert_eq!(patch(&stage, &token, "om_unknown", &card("x", true)).await, 99_992_354);
    assert_eq!(patch(&stage, &token, "c-token", &card("x", true)).await, 99_992_354);

    let alone = stage.send(&token, "interactive", &card("mine", false)).await;
    assert_eq!(patch(&stage, &token, &alone, &card("x", true)).await, 230_001);
    let text = stage.send(&token, "text", &json!({ "text": "x" })).await;
    assert_eq!(patch(&stage, &token, &text, &card("x", true)).await, 230_001);
    let v2 = stage.send(&token, "interactive", &json!({ "schema": "2.0", "body": { "elements": [] } })).await;
    assert_eq!(patch(&stage, &token, &v2, &json!({ "schema": "2.0" })).await, 0, "2.0 cards are always shared");

    stage.advance(14 * DAY + 1).await;
    let token = stage.tenant_token().await;
    assert_eq!(patch(&stage, &token, &shared, &card("late", true)).await, 230_031);
}

#[tokio::test]
async fn one_card_takes_five_updates_a_second() {
    let stage = Stage::new().await;
    let token = stage.tenant_token().await;
    let message_id = stage.send(&token, "interactive", &card("n", true)).await;
    let mut codes = Vec::new();
    while codes.len() < 200 && !codes.contains(&230_020) {
        codes.push(patch(&stage, &token, &message_id, &card(&codes.len().to_string(), true)).await);
    }
    assert!(codes.iter().take(5).all(|code| *code == 0) && codes.contains(&230_020), "{codes:?}");
}

#[tokio::test]
async fn texts_are_edited_twenty_times_replied_to_and_recalled() {
    let stage = Stage::new().await;
    stage.app(json!({ "rate_limits": false })).await;
    let token = stage.tenant_token().await;
    let message_id = stage.send(&token, "text", &json!({ "text": "v0" })).await;
    let path = format!("{MESSAGES}/{message_id}");
    for edit in 1..=20 {
        let body = json!({ "msg_type": "text", "content": json!({ "text": format!("v{edit}") }).to_string() });
        assert_eq!(stage.call(Method::PUT, &path, Some(&token), Some(body)).await.code(), 0);
    }
    let body = json!({ "msg_type": "text", "content": "{\"text\":\"v21\"}" });
    assert_eq!(stage.call(Method::PUT, &path, Some(&token), Some(body)).await.code(), 230_072);

    let body = json!({ "msg_type": "text", "content": "{\"text\":\"回复\"}", "reply_in_thread": true, "uuid": "r1" });
    let reply = stage.call(Method::POST, &format!("{path}/reply"), Some(&token), Some(body.clone())).await;
    assert_eq!((reply.text("/data/root_id"), reply.text("/data/parent_id")), (message_id.clone(), message_id));
    assert!(reply.text("/data/thread_id").starts_with("omt_"));
    let again = stage.call(Method::POST, &format!("{path}/reply"), Some(&token), Some(body.clone())).await;
    assert_eq!(again.text("/data/message_id"), reply.text("/data/message_id"));

    let read = stage.call(Method::GET, &path, Some(&token), None).await;
    assert_eq!(read.body["data"]["items"][0]["body"]["content"], "{\"text\":\"v20\"}");
    assert_eq!(read.body["data"]["items"][0]["updated"], true);
    assert_eq!(stage.call(Method::DELETE, &path, Some(&token), None).await.code(), 0);
    assert_eq!(stage.call(Method::DELETE, &path, Some(&token), None).await.code(), 230_011);
    let read = stage.call(Method::GET, &path, Some(&token), None).await;
    assert_eq!(read.body["data"]["items"][0]["deleted"], true);
    let fresh = json!({ "msg_type": "text", "content": "{\"text\":\"x\"}" });
    assert_eq!(stage.call(Method::POST, &format!("{path}/reply"), Some(&token), Some(fresh)).await.code(), 230_011);
}

#[tokio::test]
async fn a_group_is_open_to_its_own_bots_only() {
    let stage = Stage::new().await;
    stage.app(json!({ "app_id": "cli_outside" })).await;
    let group = json!({ "chat_id": "oc_team", "name": "团队", "members": [ANN, XIAOMING], "app_ids": [APP] });
    assert_eq!(stage.post("/sandbox/chats", group).await.status, 200);
    let body = json!({ "receive_id": "oc_team", "msg_type": "text", "content": "{\"text\":\"大家好\"}" });
    let path = format!("{MESSAGES}?receive_id_type=chat_id");
    let token = stage.tenant_token().await;
    assert_eq!(stage.call(Method::POST, &path, Some(&token), Some(body.clone())).await.code(), 0);
    assert_eq!(stage.seen(XIAOMING).await["content"], "{\"text\":\"大家好\"}");
    let credentials = json!({ "app_id": "cli_outside", "app_secret": "app-secret" });
    let outside =
        stage.post("/open-apis/auth/v3/tenant_access_token/internal", credentials).await.text("/tenant_access_token");
    assert_eq!(stage.call(Method::POST, &path, Some(&outside), Some(body)).await.code(), 230_002);
}
