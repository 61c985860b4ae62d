//! An app's callback URL, with its own decryption and signature check, written from the protocol alone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use aes::Aes256;
use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, KeyIvInit};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One push, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) headers: HeaderMap,
    pub(crate) raw: Bytes,
    pub(crate) plain: Value,
}

/// What the app answers to one push.
pub(crate) enum Script {
    Answer(u16, String),
    Redirect(String),
    /// Never answers.
    Hang,
}

pub(crate) struct Receiver {
    pub(crate) url: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    encrypt_key: Option<String>,
    received: Mutex<Vec<Received>>,
    script: Mutex<VecDeque<Script>>,
}

impl Receiver {
    pub(crate) async fn start(encrypt_key: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/callback", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            encrypt_key: encrypt_key.map(str::to_owned),
            received: Mutex::default(),
            script: Mutex::default(),
        });
        let router = Router::new().route("/callback", post(receive)).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, shared, task }
    }

    /// The next pushes are answered like this, in turn; after that with `{}`.
    pub(crate) fn answer(&self, script: impl IntoIterator<Item = Script>) {
        self.shared.script.lock().unwrap().extend(script);
    }

    pub(crate) fn answer_json(&self, body: &Value) {
        self.answer([Script::Answer(200, body.to_string())]);
    }

    /// Every push but challenges, in order.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(State(shared): State<Arc<Shared>>, headers: HeaderMap, raw: Bytes) -> Response {
    let outer: Value = serde_json::from_slice(&raw).unwrap();
    let plain = match (&shared.encrypt_key, outer["encrypt"].as_str()) {
        (Some(key), Some(encrypted)) => serde_json::from_slice(&decrypt(key, encrypted)).unwrap(),
        _ => outer,
    };
    if plain["type"] == "url_verification" {
        assert!(headers.get("x-lark-signature").is_none(), "the challenge is not signed");
        return axum::Json(json!({ "challenge": plain["challenge"] })).into_response();
    }
    shared.received.lock().unwrap().push(Received { headers, raw, plain });
    let script = shared.script.lock().unwrap().pop_front();
    match script.unwrap_or_else(|| Script::Answer(200, "{}".to_owned())) {
        Script::Answer(status, body) => (StatusCode::from_u16(status).unwrap(), body).into_response(),
        Script::Redirect(to) => (StatusCode::FOUND, [("location", to)]).into_response(),
        Script::Hang => std::future::pending().await,
    }
}

/// AES-256-CBC under SHA-256 of the key; the first block is the IV.
pub(crate) fn decrypt(key: &str, encrypted: &str) -> Vec<u8> {
    let bytes = STANDARD.decode(encrypted).unwrap();
    let (iv, body) = bytes.split_at(16);
    let key: [u8; 32] = Sha256::digest(key).into();
    let iv: [u8; 16] = iv.try_into().unwrap();
    cbc::Decryptor::<Aes256>::new(&key.into(), &iv.into()).decrypt_padded_vec::<Pkcs7>(body).unwrap()
}

impl Received {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn signed(&self, secret: &str) -> Vec<u8> {
        let mut signed = Vec::new();
        signed.extend_from_slice(self.header("x-lark-request-timestamp").as_bytes());
        signed.extend_from_slice(self.header("x-lark-request-nonce").as_bytes());
        signed.extend_from_slice(secret.as_bytes());
        signed.extend_from_slice(&self.raw);
        signed
    }

    pub(crate) fn is_signed_with_sha256(&self, encrypt_key: &str) -> bool {
        self.header("x-lark-signature") == hex::encode(Sha256::digest(self.signed(encrypt_key)))
    }

    pub(crate) fn is_signed_with_sha1(&self, verification_token: &str) -> bool {
        self.header("x-lark-signature") == hex::encode(Sha1::digest(self.signed(verification_token)))
    }
}

#[test]
fn the_check_itself_agrees_with_published_values() {
    assert_eq!(decrypt("test key", "P37w+VZImNgPEO1RBhJ6RtKl7n6zymIbEG1pReEzghk="), b"hello world");
    let push = |raw: &'static str, signature: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("x-lark-request-timestamp", "1700000000".parse().unwrap());
        headers.insert("x-lark-request-nonce", "n0nce-abc123".parse().unwrap());
        headers.insert("x-lark-signature", signature.parse().unwrap());
        Received { headers, raw: Bytes::from_static(raw.as_bytes()), plain: Value::Null }
    };
    let old = r#"{"open_id":"ou_o1","user_id":"eu_1","open_message_id":"om_m1","open_chat_id":"oc_c1","tenant_key":"d32004232","token":"c-0001","action":{"value":{"key":"value"},"tag":"button"}}"#;
    assert!(
        push(old, "ea6ccc5af6f244d45ce44e84d1038adcd0239341").is_signed_with_sha1("vtok_Example0123456789abcdefgh")
    );
    assert!(
        !push(old, "ea6ccc5af6f244d45ce44e84d1038adcd0239342").is_signed_with_sha1("vtok_Example0123456789abcdefgh")
    );
}
