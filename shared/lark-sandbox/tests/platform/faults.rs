//! Faults on purpose: each kind, how often they strike, and what they leave behind.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::oauth::pair;
use crate::stage::{ANN, APP, SECRET, Stage};

const TENANT: &str = "/open-apis/auth/v3/tenant_access_token/internal";
const TOKEN: &str = "/open-apis/authen/v2/oauth/token";

async fn fault(stage: &Stage, fault: Value) {
    let reply = stage.post("/sandbox/faults", fault).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
}

fn credentials() -> Value {
    json!({ "app_id": APP, "app_secret": SECRET })
}

#[tokio::test]
async fn each_kind_answers_in_the_endpoints_own_words() {
    let stage = Stage::new().await;
    for (prefix, kind, path, status, code) in [
        ("/open-apis/auth", "http_500", TENANT, 500, 2_200),
        ("/open-apis/auth", "http_503", TENANT, 503, 2_200),
        (TOKEN, "http_500", TOKEN, 500, 20_050),
        (TOKEN, "http_503", TOKEN, 503, 20_072),
        (TOKEN, "code:20050", TOKEN, 500, 20_050),
        (TOKEN, "code:20037", TOKEN, 400, 20_037),
        (TENANT, "rate_limit", TENANT, 429, 99_991_400),
        ("/open-apis/interactive", "rate_limit", "/open-apis/interactive/v1/card/update", 400, 99_991_400),
        ("/", "slow:20", TENANT, 200, 0),
    ] {
        fault(&stage, json!({ "path_prefix": prefix, "kind": kind, "times": 1 })).await;
        let reply = stage.post(path, credentials()).await;
        assert_eq!((reply.status, reply.code()), (status, code), "{kind}: {}", reply.body);
        assert_eq!(reply.headers.contains_key("x-ogw-ratelimit-reset"), code == 99_991_400);
        assert_eq!(reply.body.get("error_description").is_some(), path == TOKEN, "{}", reply.body);
    }
    assert_eq!(stage.get("/sandbox/faults").await.body["items"], json!([]), "each struck once");
    assert_eq!(stage.post(TENANT, credentials()).await.code(), 0);
}

#[tokio::test]
async fn a_lost_answer_leaves_the_refresh_token_used() {
    let stage = Stage::new().await;
    let (_, refresh) = pair(&stage, "offline_access").await;
    let body =
        json!({ "grant_type": "refresh_token", "client_id": APP, "client_secret": SECRET, "refresh_token": refresh });
    fault(&stage, json!({ "path_prefix": TOKEN, "kind": "drop_after_processing", "times": 1 })).await;
    let lost = stage.http.post(format!("{}{TOKEN}", stage.base)).json(&body).send().await;
    assert!(lost.is_err(), "not even a status line may come back");
    assert_eq!(stage.post(TOKEN, body).await.code(), 20_073);
    let counts = stage.get("/sandbox/calls").await.body["counts"][format!("POST {TOKEN}")].clone();
    assert_eq!(counts, json!({ "0": 1, "drop_after_processing": 1, "20073": 1 }));
}

#[tokio::test]
async fn a_lost_send_happened_and_its_uuid_finds_it() {
    let stage = Stage::new().await;
    let token = stage.tenant_token().await;
    let path = "/open-apis/im/v1/messages?receive_id_type=open_id";
    let body = json!({ "receive_id": ANN, "msg_type": "text", "content": "{\"text\":\"once\"}", "uuid": "u1" });
    fault(&stage, json!({ "path_prefix": "/open-apis/im/", "kind": "drop_after_processing", "times": 1 })).await;
    assert!(stage.http.post(format!("{}{path}", stage.base)).bearer_auth(&token).json(&body).send().await.is_err());
    let retried = stage.call(Method::POST, path, Some(&token), Some(body)).await;
    assert_eq!(retried.text("/data/message_id"), stage.seen(ANN).await["message_id"]);
}

#[tokio::test]
async fn a_timeout_does_nothing_and_does_not_hold_up_a_shutdown() {
    let stage = Stage::new().await;
    fault(&stage, json!({ "path_prefix": "/open-apis/auth", "kind": "timeout" })).await;
    let request =
        stage.http.post(format!("{}{TENANT}", stage.base)).json(&credentials()).timeout(Duration::from_millis(100));
    assert!(request.send().await.unwrap_err().is_timeout());
    let url = format!("{}{TENANT}", stage.base);
    let waiting = tokio::spawn(reqwest::Client::new().post(url).json(&credentials()).send());
    while stage.get("/sandbox/calls").await.body["total"] != 2 {
        tokio::task::yield_now().await;
    }
    let stage = tokio::time::timeout(Duration::from_secs(20), stage.reopen()).await.unwrap();
    assert!(waiting.await.unwrap().is_err());
    assert_eq!(stage.get("/sandbox/faults").await.body["items"][0]["kind"], "timeout", "faults survive a restart");
    assert_eq!(stage.call(Method::DELETE, "/sandbox/faults", None, None).await.status, 204);
    assert_eq!(stage.post(TENANT, credentials()).await.code(), 0);
}

#[tokio::test]
async fn a_percentage_strikes_some_and_bad_faults_are_refused() {
    let stage = Stage::new().await;
    for bad in [
        json!({ "path_prefix": "/", "kind": "http_418" }),
        json!({ "path_prefix": "/", "kind": "code:x" }),
        json!({ "path_prefix": "", "kind": "timeout" }),
        json!({ "path_prefix": "/", "kind": "timeout", "percent": 101 }),
        json!({ "path_prefix": "/", "kind": "timeout", "times": 0 }),
        json!([]),
    ] {
        assert_eq!(stage.post("/sandbox/faults", bad.clone()).await.status, 400, "{bad}");
    }
    fault(&stage, json!({ "path_prefix": "/open-apis/unused", "kind": "http_500" })).await;
    fault(&stage, json!({ "path_prefix": "/open-apis/auth", "kind": "http_500", "percent": 0 })).await;
    assert_eq!(stage.post(TENANT, credentials()).await.code(), 0);
    fault(&stage, json!({ "path_prefix": "/open-apis/auth", "kind": "http_500", "percent": 100 })).await;
    assert_eq!(stage.post(TENANT, credentials()).await.status, 500);
}
