//! The client against a server that answers as the vendor does, well and badly.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method as HttpMethod, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use lark::callback::CardToken;
use lark::card::Card;
use lark::client::{
    Answer, ApiError, Call, Client, ClientConfig, CodeExchange, FieldViolation, Method, OutgoingMessage, Receiver,
    Refusal, Repeat,
};
use lark::code::{Class, Token};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One scripted answer; the last one repeats.
#[derive(Clone)]
enum Reply {
    Json(u16, Value),
    Headers(u16, Vec<(&'static str, &'static str)>, String),
    /// Never, as far as a client is concerned.
    Silence,
}

#[derive(Clone, Debug)]
struct Seen {
    method: HttpMethod,
    uri: Uri,
    headers: HeaderMap,
    body: Value,
}

#[derive(Clone)]
struct Script {
    replies: Arc<Vec<Reply>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

struct Vendor {
    address: SocketAddr,
    script: Script,
    server: JoinHandle<()>,
}

impl Drop for Vendor {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(
    State(script): State<Script>,
    method: HttpMethod,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let turn = {
        let mut seen = script.seen.lock().unwrap();
        seen.push(Seen { method, uri, headers, body: serde_json::from_slice(&body).unwrap_or_default() });
        seen.len() - 1
    };
    match script.replies[turn.min(script.replies.len() - 1)].clone() {
        Reply::Json(status, body) => {
            let headers = [("content-type", "application/json"), ("x-tt-logid", "log-1")];
            (StatusCode::from_u16(status).unwrap(), headers, body.to_string()).into_response()
        }
        Reply::Headers(status, headers, body) => {
            let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
        Reply::Silence => std::future::pending().await,
    }
}

impl Vendor {
    async fn start(replies: Vec<Reply>) -> Self {
        let script = Script { replies: Arc::new(replies), seen: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(answer).with_state(script.clone());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, script, server }
    }

    fn client(&self) -> Client {
        Client::new(ClientConfig {
            open_base: format!("http://{}", self.address).parse().unwrap(),
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_millis(300),
            backoff: Duration::from_millis(4),
        })
    }

    fn seen(&self) -> Vec<Seen> {
        self.script.seen.lock().unwrap().clone()
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

async fn get(vendor: &Vendor) -> Result<Answer, ApiError> {
    vendor.client().call(Call::new(Method::GET, "/open-apis/x", soon())).await
}

async fn get_once(vendor: &Vendor) -> Result<Answer, ApiError> {
    vendor.client().call(Call::new(Method::GET, "/open-apis/x", soon()).repeat(Repeat::Once)).await
}

fn refusal(error: ApiError) -> Refusal {
    match error {
        ApiError::Refused(refusal) => *refusal,
        other => panic!("not a refusal: {other:?}"),
    }
}

fn ok(data: Value) -> Reply {
    Reply::Json(200, json!({ "code": 0, "msg": "success", "data": data }))
}

fn tenant_token() -> SecretString {
    "t-g1044secret".into()
}

// ---- envelope ----

#[tokio::test]
async fn data_is_unwrapped_and_flat_answers_keep_their_fields() {
    for (body, data) in [
        (json!({"code": 0, "msg": "ok", "data": {"a": 1}}), json!({"a": 1})),
        (json!({"code": 0, "msg": "ok", "data": [1]}), json!([1])),
        (json!({"code": 0, "msg": "ok", "data": null}), json!({})),
        (json!({"code": 0, "msg": "ok"}), json!({})),
        (json!({"code": "0", "b": 2}), json!({"b": 2})),
        (json!({"code": "", "b": 2, "error": ""}), json!({"b": 2, "error": ""})),
        (json!({"b": 2}), json!({"b": 2})),
    ] {
        let vendor = Vendor::start(vec![Reply::Json(200, body)]).await;
        assert_eq!(get(&vendor).await.unwrap(), Answer { data, log_id: Some("log-1".to_owned()) });
    }
}

#[tokio::test]
async fn a_code_decides_whatever_the_status() {
    for (status, body, class) in [
        (200, json!({"code": 99991663, "msg": "m"}), Class::TokenInvalid(Token::Tenant)),
        (400, json!({"code": 99991663, "msg": "m"}), Class::TokenInvalid(Token::Tenant)),
        (200, json!({"code": "20005", "msg": "m"}), Class::TokenInvalid(Token::User)),
        (400, json!({"code": 230031, "msg": "m"}), Class::Terminal),
        (400, json!({"code": 123456789, "msg": "m"}), Class::Terminal),
        (200, json!({"code": "what", "msg": "m"}), Class::Terminal),
        (200, json!({"code": 0, "error": "invalid_grant", "error_description": "m"}), Class::Reauthorize),
        (400, json!({"error": "invalid_client", "error_description": "m"}), Class::Config),
        (404, json!({"message": "m"}), Class::Terminal),
    ] {
        let vendor = Vendor::start(vec![Reply::Json(status, body.clone())]).await;
        let refusal = refusal(get(&vendor).await.unwrap_err());
        assert_eq!((refusal.class, refusal.message.as_str(), refusal.status), (class, "m", status), "{body}");
        assert_eq!(refusal.log_id.as_deref(), Some("log-1"));
        assert_eq!(vendor.seen().len(), 1, "{body} is not tried again");
    }
}

#[tokio::test]
async fn an_unknown_401_blames_the_token_that_was_sent() {
    let vendor = Vendor::start(vec![Reply::Json(401, json!({"code": 1, "msg": "m"}))]).await;
    for (token, class) in [
        (Some("t-1"), Class::TokenInvalid(Token::Tenant)),
        (Some("a-1"), Class::TokenInvalid(Token::App)),
        (Some("eyJ1"), Class::TokenInvalid(Token::User)),
        (Some("u"), Class::TokenInvalid(Token::User)),
        (None, Class::Bug),
    ] {
        let token = token.map(SecretString::from);
        let call = Call::new(Method::GET, "/open-apis/x", soon());
        let call = if let Some(token) = &token { call.token(token) } else { call };
        assert_eq!(vendor.client().call(call).await.unwrap_err().class(), class);
    }
}

#[tokio::test]
async fn an_error_carries_what_a_person_needs_to_mend_it() {
    let body = json!({"code": 99991679, "msg": "Unauthorized ".repeat(100), "error": {"log_id": "log-in-body",
        "permission_violations": [{"type": "action_privilege_required", "subject": "task:task:read"}, {"subject": 1}],
        "field_violations": [{"field": "receive_id", "value": "private", "description": "bad id"}]}});
    let vendor = Vendor::start(vec![Reply::Headers(400, vec![], body.to_string())]).await;
    let error = get(&vendor).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("private"), "values sent are not repeated");
    assert_eq!((error.code(), error.log_id(), error.retryable()), (Some(99991679), Some("log-in-body"), false));
    let refusal = refusal(error);
    assert_eq!(refusal.missing_scopes, ["task:task:read"]);
    let violation = FieldViolation { field: "receive_id".to_owned(), description: "bad id".to_owned() };
    assert_eq!(refusal.fields, [violation]);
    assert!(refusal.advice.contains("grant the missing scopes"));
    assert_eq!(refusal.message.chars().count(), 500);
}

#[tokio::test]
async fn an_answer_that_is_not_json_is_judged_by_its_status() {
    for (status, class) in
        [(200, Class::Terminal), (404, Class::Terminal), (401, Class::Terminal), (502, Class::Transient)]
    {
        for body in ["<html>busy</html>", "", "[1]", "null"] {
            let reply = Reply::Headers(status, vec![("x-request-id", "r-1")], body.to_owned());
            let vendor = Vendor::start(vec![reply]).await;
            let error = get_once(&vendor).await.unwrap_err();
            assert_eq!((error.class(), error.log_id(), error.code()), (class, Some("r-1"), None), "{status} {body}");
        }
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_with_the_token() {
    let target = Vendor::start(vec![ok(json!({}))]).await;
    let location: &'static str = format!("http://{}/open-apis/x", target.address).leak();
    let vendor = Vendor::start(vec![Reply::Headers(302, vec![("location", location)], String::new())]).await;
    let token = tenant_token();
    let call = Call::new(Method::GET, "/open-apis/x", soon()).token(&token);
    assert!(vendor.client().call(call).await.is_err());
    assert!(target.seen().is_empty());
}

// ---- retries ----

#[tokio::test]
async fn what_passes_is_tried_again_until_it_has_passed() {
    let throttled = json!({"code": 99991400, "msg": "request trigger frequency limit"}).to_string();
    for failure in [
        Reply::Json(503, json!({"code": 20072, "msg": "m"})),
        Reply::Json(500, json!({"msg": "m"})),
        Reply::Json(400, json!({"code": 99991400, "msg": "m"})),
        Reply::Json(400, json!({"code": 230020, "msg": "m"})),
        Reply::Headers(429, vec![("x-ogw-ratelimit-reset", "0")], throttled),
        Reply::Headers(502, vec![], "<html>".to_owned()),
        Reply::Silence,
    ] {
        let vendor = Vendor::start(vec![failure.clone(), failure, ok(json!({"a": 1}))]).await;
        assert_eq!(get(&vendor).await.unwrap().data, json!({"a": 1}));
        assert_eq!(vendor.seen().len(), 3);
    }
}

#[tokio::test]
async fn a_call_is_tried_at_most_four_times() {
    let vendor = Vendor::start(vec![Reply::Json(503, json!({"code": 20072, "msg": "m"}))]).await;
    assert_eq!(get(&vendor).await.unwrap_err().code(), Some(20072));
    assert_eq!(vendor.seen().len(), 4);
}

#[tokio::test]
async fn a_call_that_may_not_be_repeated_is_not() {
    for reply in [Reply::Silence, Reply::Json(503, json!({"code": 20072})), Reply::Json(429, json!({"code": 99991400}))]
    {
        let vendor = Vendor::start(vec![reply]).await;
        let call = Call::new(Method::POST, "/open-apis/x", soon());
        assert!(vendor.client().call(call).await.unwrap_err().retryable());
        assert_eq!(vendor.seen().len(), 1);
    }
}

#[tokio::test]
async fn the_answers_own_wait_is_kept() {
    let throttled = json!({"code": 99991400, "msg": "m"}).to_string();
    let reply = Reply::Headers(400, vec![("x-ogw-ratelimit-reset", "1"), ("x-ogw-ratelimit-limit", "100")], throttled);
    let vendor = Vendor::start(vec![reply, ok(json!({}))]).await;
    let start = Instant::now();
    get(&vendor).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_wait_past_the_deadline_is_handed_to_the_caller() {
    for header in ["x-ogw-ratelimit-reset", "retry-after"] {
        let throttled = json!({"code": 99991400, "msg": "m"}).to_string();
        let vendor = Vendor::start(vec![Reply::Headers(429, vec![(header, "52")], throttled)]).await;
        let start = Instant::now();
        let error = get(&vendor).await.unwrap_err();
        assert_eq!((error.class(), error.retry_after()), (Class::RateLimited, Some(Duration::from_secs(52))));
        assert_eq!(vendor.seen().len(), 1);
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn the_deadline_ends_an_attempt_and_forbids_a_late_one() {
    let vendor = Vendor::start(vec![Reply::Silence]).await;
    let client = Client::new(ClientConfig {
        timeout: Duration::from_secs(60),
        ..ClientConfig::new(format!("http://{}", vendor.address).parse().unwrap())
    });
    let start = Instant::now();
    let call = Call::new(Method::GET, "/open-apis/x", start + Duration::from_millis(100));
    assert!(matches!(client.call(call).await, Err(ApiError::Timeout)));
    assert!(start.elapsed() < Duration::from_secs(10));
    let call = Call::new(Method::GET, "/open-apis/x", start);
    assert!(matches!(client.call(call).await, Err(ApiError::Timeout)));
    assert_eq!(vendor.seen().len(), 1, "nothing is sent after the deadline");
}

#[tokio::test]
async fn a_vendor_that_is_away_is_transient_and_its_error_has_no_address() {
    let vendor = Vendor::start(vec![ok(json!({}))]).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let client = vendor.client().at(format!("http://{address}").parse().unwrap());
    let call = Call::new(Method::GET, "/open-apis/secret", soon()).repeat(Repeat::Once);
    let error = client.call(call).await.unwrap_err();
    assert!(matches!(error, ApiError::Unreachable(_)) && error.class() == Class::Transient);
    assert!(!format!("{error:?}").contains("/open-apis/secret"));
}

// ---- typed calls ----

#[tokio::test]
async fn a_tenant_token_is_fetched_with_the_apps_credentials() {
    let flat = json!({"code": 0, "msg": "ok", "tenant_access_token": "t-abc", "expire": 7140});
    let vendor = Vendor::start(vec![Reply::Json(503, json!({})), Reply::Json(200, flat)]).await;
    let token = vendor.client().tenant_access_token("cli_1", &"s3cret".into(), soon()).await.unwrap();
    assert_eq!((token.token.expose_secret(), token.expires_in_secs), ("t-abc", 7140));
    assert!(!format!("{token:?}").contains("t-abc"));
    let seen = &vendor.seen()[1];
    assert_eq!((seen.method.as_str(), seen.uri.path()), ("POST", "/open-apis/auth/v3/tenant_access_token/internal"));
    assert_eq!(seen.body, json!({"app_id": "cli_1", "app_secret": "s3cret"}));
    assert!(!seen.headers.contains_key("authorization"));
}

#[tokio::test]
async fn wrong_credentials_are_a_matter_of_configuration() {
    let vendor = Vendor::start(vec![Reply::Json(200, json!({"code": 10015, "msg": "app secret invalid"}))]).await;
    let error = vendor.client().tenant_access_token("cli_1", &"s3cret".into(), soon()).await.unwrap_err();
    assert_eq!((error.class(), vendor.seen().len()), (Class::Config, 1));
    assert!(!format!("{error} {error:?}").contains("s3cret"));
}

#[tokio::test]
async fn a_code_is_exchanged_and_the_answer_may_call_its_code_text() {
    let vendor = Vendor::start(vec![Reply::Json(
        200,
        json!({"code": "0", "access_token": "eyJa", "expires_in": "7200", "refresh_token": "eyJr", "refresh_token_expires_in": 604800,
               "token_type": "Bearer", "scope": "auth:user.id:read offline_access"}),
    )])
    .await;
    let exchange = CodeExchange {
        client_id: "cli_1",
        client_secret: &"s3cret".into(),
        code: &"c0de".into(),
        redirect_uri: Some("https://app.example/cb"),
        code_verifier: Some(&"v".repeat(43).into()),
    };
    let tokens = vendor.client().exchange_code(exchange, soon()).await.unwrap();
    assert_eq!((tokens.access_token.expose_secret(), tokens.expires_in_secs), ("eyJa", 7200));
    assert_eq!(tokens.refresh_token.as_ref().unwrap().expose_secret(), "eyJr");
    assert_eq!(tokens.refresh_token_expires_in_secs, Some(604_800));
    assert_eq!(tokens.scopes, ["auth:user.id:read", "offline_access"]);
    assert!(!format!("{tokens:?} {exchange:?}").contains("eyJ"));
    assert!(!format!("{exchange:?}").contains("c0de"));
    let seen = &vendor.seen()[0];
    assert_eq!(seen.uri.path(), "/open-apis/authen/v2/oauth/token");
    let expected = json!({"grant_type": "authorization_code", "client_id": "cli_1", "client_secret": "s3cret", "code": "c0de",
                          "redirect_uri": "https://app.example/cb", "code_verifier": "v".repeat(43)});
    assert_eq!(seen.body, expected);

    let bare = CodeExchange { redirect_uri: None, code_verifier: None, ..exchange };
    vendor.client().exchange_code(bare, soon()).await.unwrap();
    let expected =
        json!({"grant_type": "authorization_code", "client_id": "cli_1", "client_secret": "s3cret", "code": "c0de"});
    assert_eq!(vendor.seen()[1].body, expected);
}

#[tokio::test]
async fn a_refresh_is_sent_again_only_when_nobody_answered_it() {
    let body = json!({"code": 0, "access_token": "eyJa", "expires_in": 7200, "token_type": "Bearer"});
    let vendor = Vendor::start(vec![Reply::Json(200, body)]).await;
    let tokens = vendor.client().refresh("cli_1", &"s".into(), &"eyJr".into(), soon()).await.unwrap();
    assert!(tokens.refresh_token.is_none() && tokens.scopes.is_empty());
    let expected =
        json!({"grant_type": "refresh_token", "client_id": "cli_1", "client_secret": "s", "refresh_token": "eyJr"});
    assert_eq!(vendor.seen()[0].body, expected);

    for (reply, class, code, sent) in [
        (Reply::Json(500, json!({"code": 20050, "error": "server_error"})), Class::Transient, Some(20050), 4),
        (Reply::Json(400, json!({"code": 20073, "error": "invalid_grant"})), Class::Reauthorize, Some(20073), 1),
        (Reply::Silence, Class::Transient, None, 4),
    ] {
        let vendor = Vendor::start(vec![reply]).await;
        let error = vendor.client().refresh("cli_1", &"s".into(), &"eyJr".into(), soon()).await.unwrap_err();
        assert_eq!((error.class(), error.code(), vendor.seen().len()), (class, code, sent));
    }
}

#[tokio::test]
async fn an_answer_without_its_token_names_what_is_missing() {
    let vendor = Vendor::start(vec![Reply::Json(200, json!({"code": 0, "access_token": "", "expires_in": 1}))]).await;
    let error = vendor.client().refresh("cli_1", &"s".into(), &"r".into(), soon()).await.unwrap_err();
    assert!(matches!(error, ApiError::Incomplete { field: "access_token", .. }) && error.log_id() == Some("log-1"));
}

#[tokio::test]
async fn a_persons_details_are_read_and_not_printed() {
    let data = json!({"open_id": "ou_1", "union_id": "on_1", "name": "韩梅梅", "mobile": "+8613800000000", "email": "", "tenant_key": "t"});
    let vendor = Vendor::start(vec![ok(data)]).await;
    let user = vendor.client().user_info(&"eyJu".into(), soon()).await.unwrap();
    assert_eq!((user.open_id.as_str(), user.name.as_deref(), &user.email), ("ou_1", Some("韩梅梅"), &None));
    assert!(!format!("{user:?}").contains("+86"));
    assert_eq!(vendor.seen()[0].headers["authorization"], "Bearer eyJu");
}

#[tokio::test]
async fn a_message_is_sent_with_its_idempotency_key_however_often() {
    let sent = json!({"message_id": "om_1", "chat_id": "oc_1", "create_time": "1"});
    let vendor = Vendor::start(vec![Reply::Silence, ok(sent)]).await;
    let message = OutgoingMessage::text("hi <at user_id=\"all\"></at> 你好 👋");
    let sent = vendor
        .client()
        .send_message(&tenant_token(), Receiver::ChatId("oc_1"), &message, "key-1", soon())
        .await
        .unwrap();
    assert_eq!((sent.message_id.as_str(), sent.chat_id.as_deref()), ("om_1", Some("oc_1")));
    let seen = vendor.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].body, seen[1].body);
    assert_eq!(seen[1].uri.query(), Some("receive_id_type=chat_id"));
    assert_eq!(seen[1].headers["authorization"], "Bearer t-g1044secret");
    let body = &seen[1].body;
    assert_eq!(
        (&body["uuid"], &body["receive_id"], &body["msg_type"]),
        (&json!("key-1"), &json!("oc_1"), &json!("text"))
    );
    let content: Value = serde_json::from_str(body["content"].as_str().unwrap()).unwrap();
    assert_eq!(content, json!({"text": "hi <\u{200b}at user_id=\"all\"><\u{200b}/at> 你好 👋"}));
}

#[tokio::test]
async fn cards_are_sent_replied_with_and_updated() {
    let card = Card::new(json!({"schema": "2.0", "body": {"elements": []}})).unwrap();
    let vendor = Vendor::start(vec![ok(json!({"message_id": "om_2"}))]).await;
    let (client, token, message) = (vendor.client(), tenant_token(), OutgoingMessage::card(&card));
    client.send_message(&token, Receiver::OpenId("ou_1"), &message, "k", soon()).await.unwrap();
    client.reply(&token, "om_1", &message, true, "k", soon()).await.unwrap();
    client.patch_card(&token, "om_1", &card, soon()).await.unwrap();
    let update_token = CardToken::new("c-1".to_owned());
    client.delayed_card_update(&token, &update_token, &card, &[], soon()).await.unwrap();
    client.delayed_card_update(&token, &update_token, &card, &["ou_1"], soon()).await.unwrap();

    let seen = vendor.seen();
    let calls: Vec<_> = seen.iter().map(|seen| (seen.method.as_str(), seen.uri.path())).collect();
    assert_eq!(
        calls,
        [
            ("POST", "/open-apis/im/v1/messages"),
            ("POST", "/open-apis/im/v1/messages/om_1/reply"),
            ("PATCH", "/open-apis/im/v1/messages/om_1"),
            ("POST", "/open-apis/interactive/v1/card/update"),
            ("POST", "/open-apis/interactive/v1/card/update"),
        ]
    );
    assert_eq!(seen[1].body["reply_in_thread"], json!(true));
    assert_eq!(seen[2].body, json!({ "content": card.to_content() }));
    assert_eq!(seen[3].body, json!({"token": "c-1", "card": card.as_json()}));
    assert_eq!(seen[4].body["card"]["open_ids"], json!(["ou_1"]));
}

#[tokio::test]
async fn what_the_vendor_would_refuse_is_not_sent() {
    let vendor = Vendor::start(vec![ok(json!({}))]).await;
    let (client, token) = (vendor.client(), tenant_token());
    let card = Card::new(json!({})).unwrap();
    for message_id in ["", "c-295ee", "om_1/../x", "om_1?x", ".."] {
        let error = client.patch_card(&token, message_id, &card, soon()).await.unwrap_err();
        assert!(matches!(error, ApiError::Input { field: "message_id", .. }), "{message_id}");
    }
    let text = OutgoingMessage::text("x");
    for uuid in ["", &"k".repeat(51)] {
        let error = client.send_message(&token, Receiver::OpenId("ou_1"), &text, uuid, soon()).await.unwrap_err();
        assert!(matches!(error, ApiError::Input { field: "uuid", .. }));
    }
    for message in [
        OutgoingMessage::text(&"语".repeat(52_000)),
        OutgoingMessage::new("post", &json!({"zh_cn": "x".repeat(31_000)})),
    ] {
        let error = client.send_message(&token, Receiver::OpenId("ou_1"), &message, "k", soon()).await.unwrap_err();
        assert!(matches!(error, ApiError::Input { field: "content", .. }));
    }
    let broken: SecretString = "t-1\r\nx: y".into();
    let call = Call::new(Method::GET, "/open-apis/x", soon()).token(&broken);
    assert!(matches!(client.call(call).await, Err(ApiError::Input { field: "token", .. })));
    assert!(vendor.seen().is_empty());
}

#[tokio::test]
async fn a_used_up_card_token_is_not_tried_again() {
    let vendor = Vendor::start(vec![Reply::Json(200, json!({"code": 300040, "msg": "used up"}))]).await;
    let card = Card::new(json!({})).unwrap();
    let update_token = CardToken::new("c-1".to_owned());
    let error =
        vendor.client().delayed_card_update(&tenant_token(), &update_token, &card, &[], soon()).await.unwrap_err();
    assert_eq!((error.class(), vendor.seen().len()), (Class::Terminal, 1));
}

// ---- applications ----

#[tokio::test]
async fn a_bot_is_told_flat_and_says_whether_it_is_active() {
    let bot = json!({"activate_status": 2, "app_name": "云雀", "open_id": "ou_bot", "avatar_url": ""});
    let vendor = Vendor::start(vec![Reply::Json(200, json!({"code": 0, "msg": "ok", "bot": bot}))]).await;
    let told = vendor.client().bot_info(&tenant_token(), soon()).await.unwrap();
    assert_eq!((told.app_name.as_deref(), told.activate_status), (Some("云雀"), Some(2)));
    assert_eq!(vendor.seen()[0].uri.path(), "/open-apis/bot/v3/info");

    let vendor = Vendor::start(vec![Reply::Json(200, json!({"code": 0, "msg": "ok"}))]).await;
    let error = vendor.client().bot_info(&tenant_token(), soon()).await.unwrap_err();
    assert!(matches!(error, ApiError::Incomplete { field: "bot", .. }), "{error}");
}

#[tokio::test]
async fn a_scope_is_granted_if_it_is_for_the_app_or_for_people() {
    let scopes = json!({"scopes": [
        {"scope_name": "im:message", "grant_status": 2, "scope_type": "user"},
        {"scope_name": "im:message", "grant_status": 1, "scope_type": "tenant"},
        {"scope_name": "offline_access", "grant_status": "1"},
        {"scope_name": "task:task:read", "grant_status": 2},
        {"grant_status": 1}, "odd", {"scope_name": "new:kind"},
    ]});
    let vendor = Vendor::start(vec![ok(scopes)]).await;
    let told = vendor.client().granted_scopes(&tenant_token(), soon()).await.unwrap();
    let told: Vec<_> = told.iter().map(|scope| (scope.name.as_str(), scope.granted)).collect();
    assert_eq!(told, [("im:message", true), ("offline_access", true), ("task:task:read", false), ("new:kind", false)]);
}

#[tokio::test]
async fn an_application_tells_its_settings_and_never_shows_its_keys() {
    let app = json!({"app_id": "cli_1", "redirect_urls": ["https://a.example/back"],
        "event": {"subscription_type": "webhook", "request_url": "https://a.example/cb", "subscribed_events": []},
        "callback_info": {"callback_type": "websocket", "request_url": ""},
        "encryption": {"encryption_key": "canary-key", "verification_token": "canary-token"}});
    let vendor = Vendor::start(vec![ok(json!({ "app": app }))]).await;
    let told = vendor.client().application(&tenant_token(), "cli_1", soon()).await.unwrap();
    assert_eq!(vendor.seen()[0].uri.to_string(), "/open-apis/application/v6/applications/cli_1?lang=en_us");
    assert_eq!(told.redirect_urls.as_deref(), Some(&["https://a.example/back".to_owned()][..]));
    assert_eq!(told.event.as_ref().unwrap().request_url.as_deref(), Some("https://a.example/cb"));
    let callback = told.callback.as_ref().unwrap();
    assert_eq!((callback.kind.as_deref(), callback.request_url.as_deref()), (Some("websocket"), None));
    assert_eq!(told.encrypt_key.as_ref().unwrap().expose_secret(), "canary-key");
    assert!(!format!("{told:?}").contains("canary"));

    let blotted = json!({"app": {"encryption": {"encryption_key": "******", "verification_token": ""}}});
    let vendor = Vendor::start(vec![ok(blotted)]).await;
    let told = vendor.client().application(&tenant_token(), "cli_1", soon()).await.unwrap();
    assert!(told.encryption_told && told.encrypt_key.is_none() && told.verification_token.is_none());
    assert!(told.event.is_none() && told.redirect_urls.is_none());
}

#[tokio::test]
async fn an_authorize_page_is_asked_for_once_and_no_redirect_is_followed() {
    let login = Reply::Headers(302, vec![("location", "https://login.example/?app_id=7")], String::new());
    let vendor = Vendor::start(vec![login]).await;
    let page = vendor.client().authorize_page("cli_1", "https://a.example/b?c=d&e", "st", soon()).await.unwrap();
    assert_eq!((page.status, page.code), (302, None));
    let query = "client_id=cli_1&redirect_uri=https%3A%2F%2Fa.example%2Fb%3Fc%3Dd%26e&response_type=code&state=st";
    assert_eq!(vendor.seen()[0].uri.to_string(), format!("/open-apis/authen/v1/authorize?{query}"));
    assert_eq!(vendor.seen().len(), 1);

    let refused = Reply::Headers(400, vec![("content-type", "text/html")], "<b>错误码 20029</b>".to_owned());
    let page = Vendor::start(vec![refused]).await.client().authorize_page("cli_1", "x", "st", soon()).await.unwrap();
    assert_eq!((page.status, page.code), (400, Some(20_029)));
}

#[tokio::test]
async fn having_a_ticket_resent_proves_the_credentials() {
    let vendor = Vendor::start(vec![Reply::Json(200, json!({"code": 0, "msg": "ok"}))]).await;
    vendor.client().resend_app_ticket("cli_1", &"s3cret".into(), soon()).await.unwrap();
    assert_eq!(vendor.seen()[0].body, json!({"app_id": "cli_1", "app_secret": "s3cret"}));
    let vendor = Vendor::start(vec![Reply::Json(200, json!({"code": 10015, "msg": "app secret invalid"}))]).await;
    let error = vendor.client().resend_app_ticket("cli_1", &"wrong".into(), soon()).await.unwrap_err();
    assert_eq!((error.code(), error.class()), (Some(10_015), Class::Config));
}
