//! A sandbox served on a free port, and the calls tests make to it.

use std::path::{Path, PathBuf};

use lark_sandbox::{Sandbox, SandboxConfig};
use reqwest::header::HeaderMap;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const APP: &str = "cli_sandbox";
pub(crate) const SECRET: &str = "app-secret";
pub(crate) const REDIRECT: &str = "http://127.0.0.1:9/back?keep=1";
pub(crate) const ANN: &str = "ou_ann";
pub(crate) const XIAOMING: &str = "ou_xiaoming";

pub(crate) struct Stage {
    pub(crate) sandbox: Sandbox,
    pub(crate) base: String,
    pub(crate) http: reqwest::Client,
    stop: oneshot::Sender<()>,
    served: JoinHandle<std::io::Result<()>>,
    folder: TempDir,
}

/// What came back: status, headers and the JSON body.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) fn code(&self) -> i64 {
        self.body["code"].as_i64().unwrap_or_else(|| panic!("no code in {}", self.body))
    }

    pub(crate) fn text(&self, pointer: &str) -> String {
        self.body
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_else(|| panic!("no {pointer} in {}", self.body))
            .to_owned()
    }
}

impl Stage {
    /// With one app whose quotas apply.
    pub(crate) async fn new() -> Self {
        let stage = Self::at(tempfile::tempdir().unwrap()).await;
        stage.app(json!({})).await;
        stage
    }

    async fn at(folder: TempDir) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let state = state_in(folder.path());
        let sandbox = Sandbox::open(SandboxConfig { state, base_url: base.clone() }).unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = sandbox.clone();
        let served = tokio::spawn(async move {
            serving
                .serve(listener, async {
                    stopped.await.ok();
                })
                .await
        });
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
        Self { sandbox, base, http, stop, served, folder }
    }

    /// Stops the server and opens the same state again.
    pub(crate) async fn reopen(self) -> Self {
        drop(self.http);
        self.stop.send(()).unwrap();
        self.served.await.unwrap().unwrap();
        Self::at(self.folder).await
    }

    /// Saves the app with these settings on top of the usual ones.
    pub(crate) async fn app(&self, settings: Value) {
        let mut app = json!({
            "app_id": APP, "app_secret": SECRET, "name": "云雀 Skylark", "verification_token": "vtok_Example0123456789abcdefgh",
            "redirect_uris": [REDIRECT],
            "scopes": ["offline_access", "contact:user.email:readonly", "contact:user.base:readonly", "im:message"],
        });
        for (name, value) in settings.as_object().unwrap() {
            app[name] = value.clone();
        }
        let reply = self.post("/sandbox/apps", app).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
    }

    pub(crate) async fn call(&self, method: Method, path: &str, token: Option<&str>, body: Option<Value>) -> Reply {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        reply(request.send().await.unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.call(Method::POST, path, None, Some(body)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path, None, None).await
    }

    pub(crate) async fn advance(&self, secs: u64) {
        assert_eq!(self.post("/sandbox/clock", json!({ "advance_secs": secs })).await.status, 200);
    }

    pub(crate) async fn tenant_token(&self) -> String {
        let path = "/open-apis/auth/v3/tenant_access_token/internal";
        self.post(path, json!({ "app_id": APP, "app_secret": SECRET })).await.text("/tenant_access_token")
    }

    /// Sends a message to Ann and gives its id.
    pub(crate) async fn send(&self, token: &str, msg_type: &str, content: &Value) -> String {
        self.send_to(token, ANN, msg_type, content, None).await.text("/data/message_id")
    }

    pub(crate) async fn send_to(
        &self,
        token: &str,
        open_id: &str,
        msg_type: &str,
        content: &Value,
        uuid: Option<&str>,
    ) -> Reply {
        let body = json!({ "receive_id": open_id, "msg_type": msg_type, "content": content.to_string(), "uuid": uuid });
        self.call(Method::POST, "/open-apis/im/v1/messages?receive_id_type=open_id", Some(token), Some(body)).await
    }

    /// The one message a person has, as they see it.
    pub(crate) async fn seen(&self, open_id: &str) -> Value {
        let reply = self.get(&format!("/sandbox/messages?app_id={APP}&open_id={open_id}")).await;
        assert_eq!(reply.body["items"].as_array().unwrap().len(), 1, "{}", reply.body);
        reply.body["items"][0].clone()
    }
}

pub(crate) fn state_in(folder: &Path) -> PathBuf {
    folder.join("lark.db")
}

pub(crate) async fn reply(response: Response) -> Reply {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.bytes().await.unwrap();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Reply { status, headers, body }
}
