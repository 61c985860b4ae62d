//! Tenant and app tokens, store apps, the token check, quotas and people.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::oauth::pair;
use crate::receiver::Receiver;
use crate::stage::{APP, SECRET, Stage};

const TENANT: &str = "/open-apis/auth/v3/tenant_access_token/internal";
const MESSAGES: &str = "/open-apis/im/v1/messages?receive_id_type=open_id";
const ANN_PROFILE: &str = "/open-apis/contact/v3/users/ou_ann";

#[tokio::test]
async fn a_tenant_token_is_handed_out_again_until_thirty_minutes_are_left() {
    let stage = Stage::new().await;
    let credentials = json!({ "app_id": APP, "app_secret": SECRET });
    let first = stage.post(TENANT, credentials.clone()).await;
    assert_eq!((first.status, first.code()), (200, 0));
    assert_eq!(first.body["expire"], 7_200);
    let first = first.text("/tenant_access_token");
    assert!(first.starts_with("t-"));

    stage.advance(7_200 - 1_800 - 60).await;
    let same = stage.post(TENANT, credentials.clone()).await;
    assert_eq!(same.text("/tenant_access_token"), first);
    let left = same.body["expire"].as_i64().unwrap();
    assert!((1_800..=1_860).contains(&left), "{left}");

    stage.advance(120).await;
    let second = stage.post(TENANT, credentials).await.text("/tenant_access_token");
    assert_ne!(second, first);
    for token in [&first, &second] {
        assert_eq!(stage.call(Method::GET, ANN_PROFILE, Some(token), None).await.code(), 0, "both stay valid");
    }
    stage.advance(1_800).await;
    assert_eq!(stage.call(Method::GET, ANN_PROFILE, Some(&first), None).await.code(), 99_991_663);
    assert_eq!(stage.call(Method::GET, ANN_PROFILE, Some(&second), None).await.code(), 0);
}

#[tokio::test]
async fn wrong_credentials_are_told_apart_with_http_200() {
    let stage = Stage::new().await;
    for (body, code) in [
        (json!({ "app_id": APP, "app_secret": "wrong" }), 10_015),
        (json!({ "app_id": "cli_nobody", "app_secret": SECRET }), 10_014),
        (json!({ "app_id": APP }), 10_003),
        (json!([]), 10_003),
    ] {
        let reply = stage.post(TENANT, body).await;
        assert_eq!((reply.status, reply.code()), (200, code));
    }
}

#[tokio::test]
async fn each_kind_of_bad_token_has_its_own_code() {
    let stage = Stage::new().await;
    let app_token = stage
        .post("/open-apis/auth/v3/app_access_token/internal", json!({ "app_id": APP, "app_secret": SECRET }))
        .await
        .text("/app_access_token");
    let (user_token, _) = pair(&stage, "").await;
    let tenant_token = stage.tenant_token().await;
    for (path, token, code, status) in [
        (ANN_PROFILE, None, 99_991_661, 400),
        (ANN_PROFILE, Some("x-1"), 99_991_671, 400),
        (ANN_PROFILE, Some(app_token.as_str()), 99_991_671, 400),
        (ANN_PROFILE, Some("t-forged"), 99_991_663, 400),
        (ANN_PROFILE, Some("u-forged"), 99_991_668, 400),
        (ANN_PROFILE, Some(user_token.as_str()), 99_991_679, 400),
        ("/open-apis/authen/v1/user_info", Some(tenant_token.as_str()), 99_991_663, 400),
        ("/open-apis/authen/v1/user_info", Some("u-forged"), 20_005, 200),
    ] {
        let reply = stage.call(Method::GET, path, token, None).await;
        assert_eq!((reply.code(), reply.status), (code, status), "{path} {token:?}: {}", reply.body);
        assert_eq!(reply.body["error"]["log_id"], reply.headers["x-tt-logid"].to_str().unwrap());
    }
    let missing = stage.call(Method::GET, ANN_PROFILE, Some(&user_token), None).await;
    assert_eq!(missing.body["error"]["permission_violations"][0]["subject"], "contact:user.base:readonly");
    let (user_token, _) = pair(&stage, "contact:user.base:readonly").await;
    assert_eq!(stage.call(Method::GET, ANN_PROFILE, Some(&user_token), None).await.code(), 0);
}

#[tokio::test]
async fn the_fifty_first_call_of_a_second_is_told_how_long_to_wait() {
    let stage = Stage::new().await;
    let token = stage.tenant_token().await;
    let calls = (0..120).map(|_| stage.call(Method::GET, ANN_PROFILE, Some(&token), None));
    let replies = join_all(calls).await;
    let limited =
        replies.iter().find(|reply| reply.status != 200).expect("120 calls at once are more than 50 a second");
    assert_eq!((limited.status, limited.code()), (429, 99_991_400));
    let header = |name: &str| limited.headers[name].to_str().unwrap().parse::<u64>().unwrap();
    assert!([50, 1_000].contains(&header("x-ogw-ratelimit-limit")));
    assert!((1..=60).contains(&header("x-ogw-ratelimit-reset")));
    stage.advance(header("x-ogw-ratelimit-reset")).await;
    assert_eq!(stage.call(Method::GET, ANN_PROFILE, Some(&token), None).await.code(), 0);
}

#[tokio::test]
async fn a_store_app_gets_its_tokens_by_the_ticket_that_was_pushed() {
    let stage = Stage::new().await;
    let receiver = Receiver::start(Some("key")).await;
    stage
        .app(json!({ "app_id": "cli_store", "type": "store", "encrypt_key": "key", "callback_url": receiver.url }))
        .await;
    let path = "/open-apis/auth/v3/app_ticket/resend";
    let credentials = json!({ "app_id": "cli_store", "app_secret": SECRET });
    assert_eq!(stage.post(path, credentials.clone()).await.code(), 0);
    stage.advance(0).await;
    while receiver.received().len() < 2 {
        tokio::task::yield_now().await;
    }
    let event = receiver
        .received()
        .into_iter()
        .map(|push| push.plain)
        .max_by(|left, right| left["ts"].as_str().cmp(&right["ts"].as_str()))
        .unwrap();
    assert_eq!((event["type"].as_str(), event["event"]["type"].as_str()), (Some("event_callback"), Some("app_ticket")));
    assert!(event.get("schema").is_none() && event["uuid"].is_string());

    let path = "/open-apis/auth/v3/app_access_token";
    let mut body = credentials;
    body["app_ticket"] = json!("stale");
    assert_eq!(stage.post(path, body.clone()).await.code(), 10_012);
    body["app_ticket"] = event["event"]["app_ticket"].clone();
    let app_token = stage.post(path, body).await.text("/app_access_token");
    let path = "/open-apis/auth/v3/tenant_access_token";
    let mut body = json!({ "app_access_token": app_token, "tenant_key": "elsewhere" });
    assert_eq!(stage.post(path, body.clone()).await.code(), 10_013);
    body["tenant_key"] = json!(lark_sandbox::TENANT_KEY);
    let token = stage.post(path, body).await.text("/tenant_access_token");
    assert_eq!(stage.call(Method::GET, ANN_PROFILE, Some(&token), None).await.code(), 0);
}

#[tokio::test]
async fn people_are_found_by_any_id_by_email_and_by_department() {
    let stage = Stage::new().await;
    let token = stage.tenant_token().await;
    let get = |path: &'static str| stage.call(Method::GET, path, Some(&token), None);
    let lina = get("/open-apis/contact/v3/users/on_lina?user_id_type=union_id").await;
    assert_eq!(lina.body["data"]["user"]["name"], "李娜 🌸");
    assert_eq!(get("/open-apis/contact/v3/users/ou_nobody").await.code(), 99_992_351);

    let batch = get("/open-apis/contact/v3/users/batch?user_id_type=open_id&user_ids=ou_ann&user_ids=ou_nobody&user_ids=ou_resigned").await;
    let listed = batch.body["data"]["items"].as_array().unwrap().clone();
    assert_eq!(
        listed.iter().map(|user| &user["open_id"]).collect::<Vec<_>>(),
        [&json!("ou_ann"), &json!("ou_resigned")]
    );
    assert_eq!(listed[1]["status"]["is_resigned"], true);
    assert_eq!(get("/open-apis/contact/v3/users/batch?user_id_type=open_id").await.code(), 40_001);

    let path = "/open-apis/contact/v3/users/batch_get_id?user_id_type=open_id";
    let emails = json!({ "emails": ["ann@example.com", "nobody@example.com", "resigned@example.com"] });
    let found = stage.call(Method::POST, path, Some(&token), Some(emails)).await;
    let ids: Vec<&Value> =
        found.body["data"]["user_list"].as_array().unwrap().iter().map(|row| &row["user_id"]).collect();
    assert_eq!(ids, [&json!("ou_ann"), &Value::Null, &Value::Null]);

    let mut names = Vec::new();
    let mut page = String::new();
    loop {
        let path = format!("/open-apis/contact/v3/users/find_by_department?department_id=0&page_size=4{page}");
        let reply = stage.call(Method::GET, &path, Some(&token), None).await;
        names.extend(reply.body["data"]["items"].as_array().unwrap().iter().map(|user| user["name"].clone()));
        if reply.body["data"]["has_more"] == false {
            break;
        }
        page = format!("&page_token={}", reply.text("/data/page_token"));
    }
    assert_eq!(names.len(), 6, "everyone but who resigned: {names:?}");
}

#[tokio::test]
async fn calls_are_counted_by_endpoint_and_result_without_secrets() {
    let stage = Stage::new().await;
    let token = stage.tenant_token().await;
    stage.call(Method::POST, MESSAGES, Some(&token), Some(json!({}))).await;
    stage.call(Method::GET, "/open-apis/unknown", Some(&token), None).await;
    let calls = stage.get("/sandbox/calls").await.body;
    assert_eq!(calls["total"], 2);
    assert_eq!(calls["counts"]["POST /open-apis/im/v1/messages"]["99992402"], 1);
    assert_eq!(calls["last"][1]["endpoint"], format!("POST {TENANT}"));
    assert_eq!((calls["last"][0]["caller"].as_str(), calls["last"][1]["app_id"].as_str()), (Some("tenant"), Some(APP)));
    let text = calls.to_string();
    assert!(!text.contains(&token) && !text.contains(SECRET));
    let apps = stage.get("/sandbox/apps").await.body.to_string();
    assert!(apps.contains("云雀 Skylark") && !apps.contains(SECRET) && !apps.contains("vtok_"));
    assert_eq!(stage.call(Method::DELETE, "/sandbox/calls", None, None).await.status, 204);
    assert_eq!(stage.get("/sandbox/calls").await.body["total"], 0);
}
