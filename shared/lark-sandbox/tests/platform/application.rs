//! What an app learns of itself: bot, granted scopes, settings.

use reqwest::Method;
use serde_json::{Value, json};

use crate::oauth::authorize_url;
use crate::stage::{APP, REDIRECT, Stage};

const SELF_MANAGE: &str = "application:application:self_manage";

async fn get(stage: &Stage, path: &str) -> Value {
    let token = stage.tenant_token().await;
    stage.call(Method::GET, path, Some(&token), None).await.body
}

#[tokio::test]
async fn the_bot_is_told_beside_the_code_and_refused_while_the_feature_is_off() {
    let stage = Stage::new().await;
    let told = get(&stage, "/open-apis/bot/v3/info").await;
    assert_eq!((&told["code"], &told["bot"]["activate_status"]), (&json!(0), &json!(2)));
    assert_eq!(told["bot"]["app_name"], "云雀 Skylark");
    assert!(told.get("data").is_none());

    stage.app(json!({ "bot_enabled": false })).await;
    let refused = get(&stage, "/open-apis/bot/v3/info").await;
    assert_eq!((&refused["code"], &refused["msg"]), (&json!(11_205), &json!("app do not have bot")));
}

#[tokio::test]
async fn scopes_are_told_with_their_status_and_whom_they_are_for() {
    let stage = Stage::new().await;
    stage.app(json!({ "scopes": ["offline_access", "im:message"], "pending_scopes": ["task:task:read"] })).await;
    let told = get(&stage, "/open-apis/application/v6/scopes").await;
    let row =
        |name: &str, status: i64, kind: &str| json!({ "scope_name": name, "grant_status": status, "scope_type": kind });
    assert_eq!(
        told["data"]["scopes"],
        json!([
            row("offline_access", 1, "user"),
            row("im:message", 1, "tenant"),
            row("im:message", 1, "user"),
            row("task:task:read", 2, "tenant"),
            row("task:task:read", 2, "user"),
        ])
    );
}

#[tokio::test]
async fn an_app_reads_its_own_settings_with_the_scope_for_it() {
    let stage = Stage::new().await;
    let path = format!("/open-apis/application/v6/applications/{APP}?lang=en_us");
    let refused = get(&stage, &path).await;
    assert_eq!(refused["code"], 99_991_672);
    assert_eq!(refused["error"]["permission_violations"][0]["subject"], SELF_MANAGE);

    let settings = json!({
        "scopes": [SELF_MANAGE], "encrypt_key": "key 🔑", "callback_url": "http://127.0.0.1:9/cb", "verify": false,
    });
    stage.app(settings).await;
    for path in [path.as_str(), "/open-apis/application/v6/applications/me?lang=zh_cn"] {
        let told = get(&stage, path).await;
        let app = &told["data"]["app"];
        assert_eq!((&app["app_id"], &app["redirect_urls"]), (&json!(APP), &json!([REDIRECT])));
        assert_eq!(app["encryption"]["encryption_key"], "key 🔑");
        assert_eq!(app["event"]["request_url"], "http://127.0.0.1:9/cb");
        assert_eq!(app["callback"]["subscribed_callbacks"], json!(["card.action.trigger"]));
    }
    for path in ["/open-apis/application/v6/applications/me", "/open-apis/application/v6/applications/cli_x?lang=en_us"]
    {
        assert_eq!(get(&stage, path).await["code"], 210_001, "{path}");
    }
}

#[tokio::test]
async fn a_wrong_redirect_is_told_by_code_and_not_by_redirecting() {
    let stage = Stage::new().await;
    let url = authorize_url(&stage, &[]).replace("%3Fkeep%3D1", "%3Fkeep%3D2");
    let answer = stage.http.get(url).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 400);
    assert!(!answer.headers().contains_key("location"));
    assert!(answer.text().await.unwrap().contains("20029"));
    assert_eq!(stage.http.get(authorize_url(&stage, &[])).send().await.unwrap().status().as_u16(), 200);
}
