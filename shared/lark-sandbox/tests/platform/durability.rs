//! What was acknowledged is still there: after a restart, and after the process was killed.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Method;
use serde_json::{Value, json};

use crate::oauth::pair;
use crate::stage::{ANN, APP, SECRET, Stage, reply, state_in};

#[tokio::test]
async fn a_restart_keeps_apps_tokens_messages_deliveries_and_the_clock() {
    let stage = Stage::new().await;
    stage.advance(3_600).await;
    let token = stage.tenant_token().await;
    let (access, _) = pair(&stage, "offline_access").await;
    let message_id = stage.send(&token, "text", &json!({ "text": "保留 🌸" })).await;
    let event = json!({ "app_id": APP, "event_type": "x", "event": {} });
    assert_eq!(stage.post("/sandbox/events", event).await.text("/status"), "pending", "there is no callback_url yet");
    let before = stage.sandbox.now_ms();

    let stage = stage.reopen().await;
    assert!(stage.sandbox.now_ms() >= before, "the hour is kept");
    assert_eq!(stage.tenant_token().await, token);
    assert_eq!(stage.call(Method::GET, "/open-apis/authen/v1/user_info", Some(&access), None).await.code(), 0);
    assert_eq!(stage.seen(ANN).await["message_id"], message_id);
    assert_eq!(stage.get("/sandbox/deliveries").await.body["items"][0]["status"], "pending");
    assert_eq!(stage.get("/sandbox/users").await.body["items"].as_array().unwrap().len(), 7, "nobody twice");
}

/// The example server as a process of its own; killed when dropped.
struct Server {
    child: Child,
    base: String,
}

impl Server {
    fn start(state: PathBuf) -> Self {
        let here = std::env::current_exe().unwrap();
        let example = here.parent().unwrap().parent().unwrap().join("examples/serve_lark");
        let mut child = Command::new(example).arg(state).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let base = line.trim().strip_prefix("ready ").and_then(|url| url.strip_suffix("/sandbox")).unwrap().to_owned();
        Self { child, base }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL: nothing gets a chance to be written out.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_process_is_killed_under_load() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(state_in(folder.path()));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let app = json!({ "app_id": APP, "app_secret": SECRET, "rate_limits": false });
    assert!(http.post(format!("{}/sandbox/apps", server.base)).json(&app).send().await.unwrap().status().is_success());
    let token = http
        .post(format!("{}/open-apis/auth/v3/tenant_access_token/internal", server.base))
        .json(&json!({ "app_id": APP, "app_secret": SECRET }));
    let token = reply(token.send().await.unwrap()).await.text("/tenant_access_token");

    let acknowledged = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (http, token, acknowledged) = (http.clone(), token.clone(), Arc::clone(&acknowledged));
            let url = format!("{}/open-apis/im/v1/messages?receive_id_type=open_id", server.base);
            tokio::spawn(async move {
                let mut ids = Vec::new();
                loop {
                    let content = json!({ "text": format!("{writer}/{}", ids.len()) }).to_string();
                    let body = json!({ "receive_id": ANN, "msg_type": "text", "content": content });
                    let Ok(sent) = http.post(&url).bearer_auth(&token).json(&body).send().await else { return ids };
                    let Ok(sent) = sent.json::<Value>().await else { return ids };
                    ids.push(sent["data"]["message_id"].as_str().unwrap().to_owned());
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    while acknowledged.load(Ordering::SeqCst) < 200 {
        tokio::task::yield_now().await;
    }
    drop(server);
    let mut ids = Vec::new();
    for writer in writers {
        ids.extend(writer.await.unwrap());
    }

    let server = Server::start(state_in(folder.path()));
    assert!(ids.len() >= 200);
    for id in ids {
        let url = format!("{}/open-apis/im/v1/messages/{id}", server.base);
        let read = reply(http.get(url).bearer_auth(&token).send().await.unwrap()).await;
        assert_eq!(read.code(), 0, "{id} was acknowledged");
    }
}
