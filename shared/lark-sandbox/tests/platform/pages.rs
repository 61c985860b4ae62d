//! The pages people see: the authorize page and the chats, in two languages, with hostile text in every place.

use reqwest::Response;
use serde_json::{Value, json};

use crate::oauth::authorize_url;
use crate::receiver::Receiver;
use crate::stage::{ANN, APP, REDIRECT, Stage};

const HOSTILE: &str = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>";

async fn page(stage: &Stage, path: &str, language: &str) -> (u16, String) {
    let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", stage.base) };
    let response =
        stage.http.get(url).header("accept-language", language).header("accept", "text/html").send().await.unwrap();
    assert!(response.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    (response.status().as_u16(), response.text().await.unwrap())
}

async fn form(stage: &Stage, path: &str, fields: &[(&str, &str)]) -> Response {
    stage.http.post(format!("{}{path}", stage.base)).form(fields).send().await.unwrap()
}

fn location(response: &Response) -> String {
    response.headers()["location"].to_str().unwrap().to_owned()
}

fn assert_inert(html: &str) {
    assert!(html.contains("&lt;script&gt;"), "the text is there: {html}");
    for hot in ["<script", "<img", "onerror=alert(1)>\"", "href=\"javascript:", "src="] {
        let escaped = html.replace("&lt;img src=x onerror=alert(1)&gt;", "");
        assert!(!escaped.contains(hot), "{hot} in {escaped}");
    }
}

#[tokio::test]
async fn the_authorize_page_names_app_people_and_scopes_in_the_readers_language() {
    let stage = Stage::new().await;
    let url = authorize_url(&stage, &[("scope", "offline_access im:message")]);
    let (status, zh) = page(&stage, &url, "zh-CN,zh;q=0.9").await;
    assert_eq!(status, 200);
    for text in [
        "云雀 Skylark 申请访问你的账号",
        "授权",
        "拒绝",
        "李娜 🌸",
        "王小明",
        "im:message",
        "lang=\"zh-CN\"",
        "width=device-width",
    ] {
        assert!(zh.contains(text), "{text} is missing");
    }
    assert!(!zh.contains("赵离职"), "who resigned cannot authorize");
    let (_, en) = page(&stage, &url, "en").await;
    assert!(en.contains("Approve") && en.contains("Deny") && en.contains("lang=\"en\""));
}

#[tokio::test]
async fn approving_and_denying_redirect_back_to_the_app() {
    let stage = Stage::new().await;
    let url = authorize_url(&stage, &[("scope", "offline_access")]);
    let query = url.split_once('?').unwrap().1;
    let path = "/open-apis/authen/v1/authorize";
    let approved = form(&stage, path, &[("query", query), ("open_id", ANN), ("decision", "approve")]).await;
    assert_eq!(approved.status(), 302);
    assert!(location(&approved).starts_with(&format!("{REDIRECT}&code=")));
    let denied = form(&stage, path, &[("query", query), ("open_id", ANN), ("decision", "deny")]).await;
    assert_eq!(location(&denied), format!("{REDIRECT}&error=access_denied&state=s%26%3D%E7%8A%B6%E6%80%81"));
    let nobody = form(&stage, path, &[("query", query), ("open_id", "ou_frozen"), ("decision", "approve")]).await;
    assert_eq!(nobody.status(), 400);
}

#[tokio::test]
async fn a_fragment_of_the_redirect_uri_moves_behind_the_query() {
    let stage = Stage::new().await;
    stage.app(json!({ "redirect_uris": ["http://127.0.0.1:9/app#/home"] })).await;
    let url = authorize_url(&stage, &[("redirect_uri", "http://127.0.0.1:9/app#/home")]);
    let reply = stage.post("/sandbox/authorize", json!({ "url": url, "open_id": ANN, "approve": false })).await;
    assert_eq!(
        reply.text("/location"),
        "http://127.0.0.1:9/app?error=access_denied&state=s%26%3D%E7%8A%B6%E6%80%81#/home"
    );
}

#[tokio::test]
async fn invalid_authorize_requests_get_a_page_with_the_code_and_never_a_redirect() {
    let stage = Stage::new().await;
    let many: String = (0..51).map(|n| format!("s{n} ")).collect();
    for (extra, code) in [
        (("scope", "unknown:scope"), "20027"),
        (("redirect_uri", "https://evil.example/"), "20029"),
        (("client_id", "cli_nobody"), "20048"),
        (("scope", many.as_str()), "20001"),
        (("redirect_uri", HOSTILE), "20029"),
    ] {
        let (status, html) = page(&stage, &authorize_url(&stage, &[extra]), "en").await;
        assert_eq!(status, 400);
        assert!(html.contains(code), "{extra:?}: {html}");
        assert!(!html.contains("<script>alert"));
    }
}

#[tokio::test]
async fn hostile_names_and_cards_are_shown_as_text() {
    let stage = Stage::new().await;
    stage.app(json!({ "name": HOSTILE })).await;
    stage.post("/sandbox/users", json!({ "open_id": "ou_x", "name": HOSTILE })).await;
    assert_inert(&page(&stage, &authorize_url(&stage, &[]), "en").await.1);

    let token = stage.tenant_token().await;
    let text = json!({ "tag": "plain_text", "content": HOSTILE });
    let card = json!({ "config": { "update_multi": true }, "header": { "title": text, "template": HOSTILE }, "elements": [
        { "tag": "markdown", "content": format!("{HOSTILE} [x](javascript:alert(1)) <at id=\"><script>\">{HOSTILE}</at>") },
        { "tag": "div", "text": text, "fields": [{ "text": text }] },
        { "tag": HOSTILE },
        { "tag": "action", "actions": [
            { "tag": "button", "type": HOSTILE, "text": text, "url": "javascript:alert(1)" },
            { "tag": "button", "text": text, "value": {} },
            { "tag": "select_static", "placeholder": text, "options": [{ "text": text, "value": HOSTILE }] }] },
        { "tag": "form", "name": HOSTILE, "elements": [{ "tag": "input", "name": HOSTILE, "label": text }] },
    ]});
    stage.send(&token, "interactive", &card).await;
    stage.send(&token, "text", &json!({ "text": HOSTILE })).await;
    let post = json!({ "en_us": { "title": HOSTILE, "content": [[{ "tag": "a", "href": "javascript:alert(1)", "text": HOSTILE }]] } });
    stage.send(&token, "post", &post).await;
    let (status, html) = page(&stage, &format!("/sandbox/messages?open_id={ANN}"), "en").await;
    assert_eq!(status, 200);
    assert_inert(&html);
}

#[tokio::test]
async fn a_developer_lives_the_story_in_the_browser() {
    let stage = Stage::new().await;
    let receiver = Receiver::start(None).await;
    stage.app(json!({ "callback_url": receiver.url })).await;
    let token = stage.tenant_token().await;
    let card = json!({ "schema": "2.0", "header": { "template": "green", "title": {
        "tag": "plain_text", "content": "Connect", "i18n_content": { "zh_cn": "连接账号", "en_us": "Connect" } } },
        "body": { "elements": [
            { "tag": "markdown", "content": "**需要** 你的授权 🌸" },
            { "tag": "button", "text": { "tag": "plain_text", "content": "Authorize" },
              "behaviors": [{ "type": "open_url", "default_url": authorize_url(&stage, &[]) }] },
            { "tag": "form", "name": "f", "elements": [
                { "tag": "input", "name": "why", "required": true },
                { "tag": "button", "name": "send", "text": { "tag": "plain_text", "content": "Send" }, "form_action_type": "submit" }] }] } });
    let message_id = stage.send(&token, "interactive", &card).await;
    let chats = format!("/sandbox/messages.html?app_id={APP}&open_id={ANN}");
    let (_, zh) = page(&stage, &format!("{chats}&lang=zh"), "en").await;
    assert!(zh.contains("连接账号") && zh.contains("<strong>需要</strong>") && zh.contains("card-head head-green"));
    let (_, en) = page(&stage, &chats, "en").await;
    assert!(en.contains("<h2>Connect</h2>") && en.contains("client_id=cli_sandbox&amp;redirect_uri="));
    let index = en.split("name=\"button\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap().to_owned();

    receiver.answer_json(&json!({ "toast": { "type": "success", "content": "收到 ✅" } }));
    let fields = [
        ("app_id", APP),
        ("open_id", ANN),
        ("lang", "en"),
        ("message_id", &message_id),
        ("button", &index),
        ("form.why", "因为"),
    ];
    let pressed = form(&stage, "/sandbox/messages.html/click", &fields).await;
    assert_eq!(pressed.status(), 303);
    assert_eq!(receiver.received()[0].plain["event"]["action"]["form_value"], json!({ "why": "因为" }));
    let (_, after) = page(&stage, &location(&pressed), "en").await;
    assert!(after.contains("<p class=\"toast success\" role=\"status\">收到 ✅</p>"), "{after}");

    let written =
        form(&stage, "/sandbox/messages.html/from", &[("open_id", ANN), ("to", APP), ("text", "在吗？")]).await;
    assert_eq!(written.status(), 303);
    assert_eq!(receiver.received()[1].plain["event"]["message"]["content"], "{\"text\":\"在吗？\"}");
    let (_, index) = page(&stage, "/sandbox", "zh").await;
    assert!(index.contains("Lark 沙箱") && index.contains("/sandbox/click") && index.contains(&stage.base));
    assert_eq!(stage.get(&chats).await.body, Value::Null, "the page is HTML whoever asks");
}
