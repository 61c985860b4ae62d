//! Lark for a company's own services, through a running bundle: a card by HTTP, token status, calls as the app and as a person, and
//! every way in which a call does not go through.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not run ends the test")]

use reqwest::{Client, Method, Response, redirect};
use serde_json::{Value, json};
use skylark_tests::bundle::{Bundle, until};
use skylark_tests::description;

const HELLO: &str = "{\"text\":\"你好 🙂\"}";

/// A service of the company, logged in.
struct Service<'b> {
    bundle: &'b Bundle,
    http: Client,
    token: String,
}

impl<'b> Service<'b> {
    async fn log_in(bundle: &'b Bundle) -> Self {
        let http = Client::builder().redirect(redirect::Policy::none()).build().unwrap();
        let setting = |name: &str| bundle.setting(&format!("/clients/0/{name}"));
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", setting("client_id")),
            ("client_secret", setting("client_secret")),
            ("scope", "lark"),
        ];
        let url = format!("{}/auth/token", bundle.setting("/http"));
        let answer: Value = http.post(url).form(&form).send().await.unwrap().json().await.unwrap();
        let token = answer["access_token"].as_str().unwrap().to_owned();
        Self { bundle, http, token }
    }

    async fn send(&self, method: Method, path: &str, name: &str, body: Option<&Value>) -> Response {
        let (base, app_id) = (self.bundle.setting("/http"), self.bundle.setting("/lark/app_id"));
        let request = self.http.request(method, format!("{base}/v1/lark/{app_id}/{path}"));
        let request = request.bearer_auth(&self.token).header("x-skylark-as", name);
        let request = if let Some(body) = body { request.json(body) } else { request };
        let response = request.send().await.unwrap();
        assert!(response.headers().contains_key("x-request-id"), "{path}");
        response
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.get_as(path, "tenant").await
    }

    async fn get_as(&self, path: &str, name: &str) -> (u16, Value) {
        self.answer(Method::GET, path, name, None).await
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.answer(Method::POST, path, "tenant", Some(body)).await
    }

    /// An answer that is as `/openapi.json` describes it.
    async fn answer(&self, method: Method, path: &str, name: &str, body: Option<&Value>) -> (u16, Value) {
        let (status, answer) = read(self.send(method.clone(), path, name, body).await).await;
        let path = format!("/v1/lark/{}/{path}", self.bundle.setting("/lark/app_id"));
        description::check(method.as_str(), &path, status, &answer);
        (status, answer)
    }

    async fn sandbox(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}/sandbox/{path}", self.bundle.setting("/lark/sandbox"));
        self.http.post(url).json(body).send().await.unwrap().json().await.unwrap()
    }

    async fn cards(&self, open_id: &str) -> usize {
        let (sandbox, app_id) = (self.bundle.setting("/lark/sandbox"), self.bundle.setting("/lark/app_id"));
        let url = format!("{sandbox}/sandbox/messages?app_id={app_id}&open_id={open_id}");
        let seen: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        seen["items"].as_array().unwrap().len()
    }

    async fn fault(&self, path_prefix: &str, kind: &str) {
        let fault = json!({ "path_prefix": path_prefix, "kind": kind, "times": 1 });
        assert!(self.sandbox("faults", &fault).await["fault_id"].is_string());
    }

    /// The person opens the card's link, approves on the vendor's page and comes back.
    async fn approve(&self, open_id: &str, session_id: &str) {
        let (base, app_id) = (self.bundle.setting("/http"), self.bundle.setting("/lark/app_id"));
        let link = format!("{base}/lark/{app_id}/oauth/start?session_id={session_id}");
        let page = self.http.get(link).send().await.unwrap();
        let page = page.headers()["location"].to_str().unwrap();
        let back = self.sandbox("authorize", &json!({ "url": page, "open_id": open_id, "approve": true })).await;
        let done = self.http.get(back["location"].as_str().unwrap()).send().await.unwrap();
        assert_eq!(done.status().as_u16(), 200);
    }
}

async fn read(response: Response) -> (u16, Value) {
    (response.status().as_u16(), response.json().await.unwrap())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[tokio::test]
async fn a_service_asks_a_person_by_card_and_then_acts_for_them() {
    let bundle = Bundle::start();
    let service = Service::log_in(&bundle).await;
    let (status, token) = service.get("users/ou_ann/token").await;
    assert_eq!((status, text(&token["status"])), (200, "authorization_required"));

    let card = json!({ "open_id": "ou_ann", "scopes": ["contact:user.base:readonly"], "reason": "每周五发送周报 📅" });
    let (status, asked) = service.post("auth-cards", &card).await;
    assert_eq!(status, 202, "{asked}");
    assert!(text(&asked["message_id"]).starts_with("om_"), "{asked}");
    assert_eq!(service.cards("ou_ann").await, 1);
    let session_id = text(&asked["session_id"]);
    assert_eq!(service.get(&format!("sessions/{session_id}")).await.1["status"], "pending");
    service.approve("ou_ann", session_id).await;
    assert_eq!(service.get(&format!("sessions/{session_id}")).await.1["status"], "completed");

    let (_, token) = service.get("users/ou_ann/token").await;
    assert_eq!((text(&token["status"]), text(&token["profile"]["name"])), ("authorized", "Ann Carter"));
    let (status, info) = service.get_as("open-apis/authen/v1/user_info", "user:ou_ann").await;
    assert_eq!((status, &info["code"], text(&info["data"]["open_id"])), (200, &json!(0), "ou_ann"), "{info}");
    let colleague = "open-apis/contact/v3/users/ou_xiaoming?user_id_type=open_id";
    let (status, person) = service.get_as(colleague, "user:ou_ann").await;
    assert_eq!((status, text(&person["data"]["user"]["name"])), (200, "王小明"), "{person}");

    let message = json!({ "receive_id": "ou_ann", "msg_type": "text", "content": HELLO, "uuid": "weekly-report-47" });
    let send = "open-apis/im/v1/messages?receive_id_type=open_id";
    let (status, sent) = service.post(send, &message).await;
    assert_eq!(status, 200, "{sent}");
    let (_, again) = service.post(send, &message).await;
    assert_eq!(sent["data"]["message_id"], again["data"]["message_id"], "the vendor knows the key");
    let path = format!("open-apis/im/v1/messages/{}", text(&sent["data"]["message_id"]));
    let edited = json!({ "msg_type": "text", "content": "{\"text\":\"again\"}" });
    assert_eq!(service.answer(Method::PUT, &path, "tenant", Some(&edited)).await.0, 200);
    assert_eq!(service.answer(Method::DELETE, &path, "tenant", None).await.0, 200);

    let (status, token) = service.answer(Method::DELETE, "users/ou_ann/token", "tenant", None).await;
    assert_eq!((status, text(&token["status"])), (200, "authorization_required"));

    let log = std::fs::read_to_string(bundle.folder().join("logs/skylark-LarkApiFunction.log")).unwrap();
    let audit = log.lines().find(|line| line.contains("Audit") && line.contains("authen/v1/user_info")).unwrap();
    for part in ["user:ou_ann", bundle.setting("/clients/0/client_id"), bundle.setting("/lark/app_id"), "200"] {
        assert!(audit.contains(part), "{part} in {audit}");
    }
    for secret in ["你好", "user_id_type", "eyJ", &service.token, bundle.setting("/lark/app_secret")] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn what_does_not_go_through_says_why_and_what_to_do() {
    let bundle = Bundle::start();
    let service = Service::log_in(&bundle).await;

    let (status, body) = service.get_as("open-apis/authen/v1/user_info", "user:ou_lina").await;
    assert_eq!(
        (status, text(&body["error"]), text(&body["details"]["card"])),
        (401, "authorization_required", "sent_now")
    );
    until("the card that nobody else asked for", || async { (service.cards("ou_lina").await == 1).then_some(()) })
        .await;
    let (status, again) = service.get_as("open-apis/authen/v1/user_info", "user:ou_lina").await;
    assert_eq!((status, text(&again["details"]["card"])), (401, "sent_before"));
    assert_eq!(body["details"]["session_id"], again["details"]["session_id"]);
    service.approve("ou_lina", text(&body["details"]["session_id"])).await;
    assert_eq!(service.get_as("open-apis/authen/v1/user_info", "user:ou_lina").await.0, 200);
    let path = "open-apis/contact/v3/users/ou_xiaoming";
    let (status, body) = service.get_as(path, "user:ou_lina").await;
    assert_eq!((status, &body["code"]), (401, &json!(99_991_679)), "{body}");
    assert!(text(&body["details"]["missing_scopes"][0]).starts_with("contact:"), "{body}");

    let card = json!({ "open_id": "ou_jose", "scopes": ["task:task:read"] });
    for n in 0..5 {
        assert_eq!(service.post("auth-cards", &card).await.0, 202, "{n}");
    }
    let sixth = service.send(Method::POST, "auth-cards", "tenant", Some(&card)).await;
    let wait: u64 = sixth.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert_eq!((sixth.status().as_u16(), (1..=62).contains(&wait)), (429, true), "{wait}");
    assert_eq!(service.cards("ou_jose").await, 5);
    let (status, body) = service.post("auth-cards", &json!({ "scopes": "x", "reason": 7 })).await;
    let named: Vec<&str> = body["details"]["fields"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!((status, named), (400, vec!["open_id", "reason", "scopes"]));

    let message = json!({ "receive_id": "ou_ann", "msg_type": "text", "content": HELLO });
    let send = "open-apis/im/v1/messages?receive_id_type=open_id";
    service.fault("/open-apis/im", "rate_limit").await;
    let throttled = service.send(Method::POST, send, "tenant", Some(&message)).await;
    assert!(throttled.headers().contains_key("retry-after"));
    let (status, body) = read(throttled).await;
    assert_eq!((status, text(&body["error"]), &body["retryable"]), (429, "vendor_throttled", &json!(true)));
    service.fault("/open-apis/im", "drop_after_processing").await;
    let (status, body) = service.post(send, &message).await;
    assert_eq!((status, &body["retryable"], &body["code"]), (502, &json!(true), &Value::Null), "{body}");
    assert_eq!(service.cards("ou_ann").await, 1, "it was sent, and once");

    let stranger = Service { bundle: &bundle, http: Client::new(), token: "eyJ.e30.x".to_owned() };
    assert_eq!(stranger.get("open-apis/bot/v3/info").await.0, 401);
    let (code, out, err) = bundle.skylark(&["app", "disable", bundle.setting("/lark/app_id"), "--force"]);
    assert_eq!(code, 0, "{out}{err}");
    until("the disabled app to be refused", || async {
        let (status, body) = service.get("open-apis/bot/v3/info").await;
        (status == 403 && body["error"] == "app_disabled" && body["retryable"] == false).then_some(())
    })
    .await;
}
