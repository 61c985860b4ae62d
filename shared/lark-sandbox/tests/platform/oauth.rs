//! User authorization: codes, PKCE, refresh rotation, and every way they fail.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::{Url, form_urlencoded};

use crate::stage::{ANN, APP, REDIRECT, Reply, SECRET, Stage, XIAOMING, reply};

const TOKEN: &str = "/open-apis/authen/v2/oauth/token";
const USER_INFO: &str = "/open-apis/authen/v1/user_info";
const VERIFIER: &str = "a-verifier-of-sufficient-length-0123456789._~-";
const DAY: u64 = 24 * 3_600;

pub(crate) fn authorize_url(stage: &Stage, extra: &[(&str, &str)]) -> String {
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("client_id", APP), ("redirect_uri", REDIRECT), ("state", "s&=状态")])
        .extend_pairs(extra)
        .finish();
    format!("{}/open-apis/authen/v1/authorize?{query}", stage.base)
}

fn field(location: &str, name: &str) -> Option<String> {
    Url::parse(location).unwrap().query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

async fn location(stage: &Stage, extra: &[(&str, &str)], open_id: &str, approve: bool) -> Reply {
    stage
        .post(
            "/sandbox/authorize",
            json!({ "url": authorize_url(stage, extra), "open_id": open_id, "approve": approve }),
        )
        .await
}

async fn code(stage: &Stage, extra: &[(&str, &str)]) -> String {
    field(&location(stage, extra, ANN, true).await.text("/location"), "code").unwrap()
}

fn exchange_of(code: &str) -> Value {
    json!({
        "grant_type": "authorization_code", "client_id": APP, "client_secret": SECRET, "code": code, "redirect_uri": REDIRECT,
    })
}

fn refresh_of(token: &str) -> Value {
    json!({ "grant_type": "refresh_token", "client_id": APP, "client_secret": SECRET, "refresh_token": token })
}

/// A fresh pair of tokens with these scopes.
pub(crate) async fn pair(stage: &Stage, scope: &str) -> (String, String) {
    let code = code(stage, &[("scope", scope)]).await;
    let reply = stage.post(TOKEN, exchange_of(&code)).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    (reply.text("/access_token"), reply.body["refresh_token"].as_str().unwrap_or_default().to_owned())
}

async fn user_info(stage: &Stage, token: &str) -> Reply {
    stage.call(Method::GET, USER_INFO, Some(token), None).await
}

#[tokio::test]
async fn a_code_is_exchanged_once_and_the_token_says_who_it_is() {
    let stage = Stage::new().await;
    let consent = location(&stage, &[("scope", "offline_access contact:user.email:readonly")], XIAOMING, true).await;
    let location = consent.text("/location");
    assert!(location.starts_with(&format!("{REDIRECT}&code=")), "{location}");
    assert_eq!(field(&location, "state").as_deref(), Some("s&=状态"));
    let code = field(&location, "code").unwrap();
    assert!(code.len() >= 64);

    let first = stage.post(TOKEN, exchange_of(&code)).await;
    assert_eq!((first.status, first.code()), (200, 0));
    assert!(first.headers.contains_key("x-tt-logid"));
    assert_eq!(first.body["expires_in"], 7_200);
    assert_eq!(first.body["refresh_token_expires_in"], 604_800);
    assert_eq!(first.body["token_type"], "Bearer");
    assert_eq!(first.body["scope"], "auth:user.id:read contact:user.email:readonly offline_access");
    let access = first.text("/access_token");
    assert!(access.starts_with("eyJ") && (1_000..2_048).contains(&access.len()));

    let me = user_info(&stage, &access).await;
    assert_eq!(me.body["data"]["name"], "王小明");
    assert_eq!(me.body["data"]["email"], "xiaoming@example.com");
    assert_eq!(me.body["data"].get("user_id"), None, "needs a scope that was not granted");

    let again = stage.post(TOKEN, exchange_of(&code)).await;
    assert_eq!((again.status, again.code()), (400, 20_065));
    assert_eq!(again.body["error"], "invalid_grant");
}

#[tokio::test]
async fn exchanges_that_cannot_succeed_name_the_reason() {
    let stage = Stage::new().await;
    let other = json!({ "app_id": "cli_other", "app_secret": "other" });
    assert_eq!(stage.post("/sandbox/apps", other).await.status, 200);
    let code = code(&stage, &[("scope", "offline_access")]).await;
    for (change, expected) in [
        (json!({ "grant_type": null }), 20_001),
        (json!({ "grant_type": "password" }), 20_036),
        (json!({ "client_id": "cli_nobody" }), 20_048),
        (json!({ "client_secret": "wrong" }), 20_002),
        (json!({ "client_secret": "" }), 20_001),
        (json!({ "code": "" }), 20_001),
        (json!({ "code": "unknown" }), 20_003),
        (json!({ "client_id": "cli_other", "client_secret": "other" }), 20_024),
        (json!({ "redirect_uri": "http://127.0.0.1:9/other" }), 20_071),
        (json!({ "scope": "offline_access offline_access" }), 20_067),
        (json!({ "scope": "im:message" }), 20_068),
        (json!({ "code": 7 }), 20_063),
    ] {
        let mut body = exchange_of(&code);
        for (name, value) in change.as_object().unwrap() {
            body[name] = value.clone();
        }
        let reply = stage.post(TOKEN, body).await;
        assert_eq!((reply.status, reply.code()), (400, expected), "{change}: {}", reply.body);
        assert!(reply.body["error_description"].is_string());
    }
    let both =
        stage.http.post(format!("{}{TOKEN}", stage.base)).basic_auth(APP, Some(SECRET)).json(&exchange_of(&code));
    assert_eq!(reply(both.send().await.unwrap()).await.code(), 20_070);

    let form: Vec<(String, String)> = exchange_of(&code)
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect();
    let sent = stage.http.post(format!("{}{TOKEN}", stage.base)).form(&form).send().await.unwrap();
    assert_eq!(reply(sent).await.code(), 0, "none of the failures used the code up, and a form is taken too");
}

#[tokio::test]
async fn a_code_expires_after_five_minutes() {
    let stage = Stage::new().await;
    let code = code(&stage, &[]).await;
    stage.advance(301).await;
    assert_eq!(stage.post(TOKEN, exchange_of(&code)).await.code(), 20_004);
}

#[tokio::test]
async fn pkce_is_checked_for_both_methods() {
    let stage = Stage::new().await;
    let hashed = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
    let short = URL_SAFE_NO_PAD.encode(Sha256::digest("short"));
    let s256 = [("code_challenge", hashed.as_str()), ("code_challenge_method", "S256")];
    let plain = [("code_challenge", VERIFIER)];
    let too_short = [("code_challenge", short.as_str()), ("code_challenge_method", "S256")];
    for (challenge, verifier, expected) in [
        (&s256[..], Some(VERIFIER), 0),
        (&s256[..], Some(hashed.as_str()), 20_049),
        (&s256[..], None, 20_049),
        (&plain[..], Some(VERIFIER), 0),
        (&plain[..], Some(hashed.as_str()), 20_049),
        (&too_short[..], Some("short"), 20_049),
    ] {
        let mut body = exchange_of(&code(&stage, challenge).await);
        body["code_verifier"] = json!(verifier);
        assert_eq!(stage.post(TOKEN, body).await.code(), expected, "{challenge:?} {verifier:?}");
    }
}

#[tokio::test]
async fn a_refresh_token_needs_offline_access_and_grants_add_up() {
    let stage = Stage::new().await;
    assert_eq!(pair(&stage, "im:message").await.1, "");
    assert_ne!(pair(&stage, "offline_access").await.1, "");
    let mut narrowed = exchange_of(&code(&stage, &[]).await);
    narrowed["scope"] = json!("im:message");
    let reply = stage.post(TOKEN, narrowed).await;
    assert_eq!((reply.body["scope"].as_str(), reply.body.get("refresh_token")), (Some("im:message"), None));
}

#[tokio::test]
async fn a_refresh_token_works_once_and_the_old_access_token_one_minute_more() {
    let stage = Stage::new().await;
    let (old_access, old_refresh) = pair(&stage, "offline_access").await;
    let first = stage.post(TOKEN, refresh_of(&old_refresh)).await;
    assert_eq!(first.code(), 0);
    let (access, refresh) = (first.text("/access_token"), first.text("/refresh_token"));
    assert_ne!((&access, &refresh), (&old_access, &old_refresh));

    let again = stage.post(TOKEN, refresh_of(&old_refresh)).await;
    assert_eq!((again.status, again.code()), (400, 20_073));
    assert_eq!(user_info(&stage, &old_access).await.code(), 0);
    stage.advance(61).await;
    assert_eq!(user_info(&stage, &old_access).await.code(), 99_991_677);
    assert_eq!(user_info(&stage, &access).await.code(), 0);
    assert_eq!(stage.post(TOKEN, refresh_of(&refresh)).await.code(), 0);
}

#[tokio::test]
async fn a_vendor_that_repeats_itself_gives_a_lost_pair_again_for_as_long_as_it_is_told() {
    let stage = Stage::new().await;
    stage.app(json!({ "refresh_replay_secs": 60 })).await;
    let (_, refresh) = pair(&stage, "offline_access").await;
    let first = stage.post(TOKEN, refresh_of(&refresh)).await;
    assert_eq!(stage.post(TOKEN, refresh_of(&refresh)).await.body, first.body);
    stage.advance(60).await;
    assert_eq!(stage.post(TOKEN, refresh_of(&refresh)).await.code(), 20_073);
}

#[tokio::test]
async fn refreshing_ends_after_seven_days_unused_and_365_days_in_all() {
    let stage = Stage::new().await;
    let (_, unused) = pair(&stage, "offline_access").await;
    let (_, mut refresh) = pair(&stage, "offline_access").await;
    for day in (6..=360).step_by(6) {
        stage.advance(6 * DAY).await;
        let reply = stage.post(TOKEN, refresh_of(&refresh)).await;
        assert_eq!(reply.code(), 0, "day {day}");
        refresh = reply.text("/refresh_token");
        if day == 360 {
            let left = reply.body["refresh_token_expires_in"].as_u64().unwrap();
            assert!((4 * DAY..=5 * DAY).contains(&left), "{left} s left of the 365 days");
        }
    }
    assert_eq!(stage.post(TOKEN, refresh_of(&unused)).await.code(), 20_037);
    stage.advance(5 * DAY).await;
    assert_eq!(stage.post(TOKEN, refresh_of(&refresh)).await.code(), 20_037);
}

#[tokio::test]
async fn refreshes_that_cannot_succeed_name_the_reason() {
    let stage = Stage::new().await;
    let (access, refresh) = pair(&stage, "offline_access").await;
    assert_eq!(stage.post(TOKEN, refresh_of("ur-legacy")).await.code(), 20_026);
    assert_eq!(stage.post(TOKEN, refresh_of("eyJ-unknown")).await.code(), 20_026);
    stage.app(json!({ "refresh_enabled": false })).await;
    assert_eq!(stage.post(TOKEN, refresh_of(&refresh)).await.code(), 20_074);
    stage.app(json!({ "enabled": false })).await;
    assert_eq!(stage.post(TOKEN, refresh_of(&refresh)).await.code(), 20_069);
    assert_eq!(user_info(&stage, &access).await.code(), 99_991_662);
    stage.app(json!({ "available_to": [XIAOMING] })).await;
    assert_eq!(stage.post(TOKEN, refresh_of(&refresh)).await.code(), 20_010);
    stage.app(json!({})).await;
    let revoked = stage.post("/sandbox/revoke", json!({ "app_id": APP, "open_id": ANN })).await;
    assert_eq!(revoked.body["revoked"], true);
    assert_eq!(stage.post(TOKEN, refresh_of(&refresh)).await.code(), 20_064);
    let dead = user_info(&stage, &access).await;
    assert_eq!((dead.status, dead.code()), (200, 20_005));
}

#[tokio::test]
async fn scripts_can_deny_and_learn_what_the_page_would_refuse() {
    let stage = Stage::new().await;
    let denied = location(&stage, &[], ANN, false).await.text("/location");
    assert_eq!(field(&denied, "error").as_deref(), Some("access_denied"));
    assert_eq!(field(&denied, "code"), None);
    let refused = location(&stage, &[("scope", "unknown:scope")], ANN, true).await;
    assert_eq!(refused.status, 409);
    assert!(refused.text("/message").starts_with("20027"), "{}", refused.body);
    assert_eq!(location(&stage, &[], "ou_resigned", true).await.status, 404);
}
