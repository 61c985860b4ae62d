//! Files through a running bundle: everything that is not what it was said to be, what nobody touches any more, and the chunks of another
//! system.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not run ends the test")]

use base64::Engine as _;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use skylark_tests::bundle::{Bundle, aws, until};

const MIB: usize = 1 << 20;
const CHUNK: usize = 5 * MIB;

/// CRC64NVME as S3 writes it.
fn crc64(bytes: &[u8]) -> String {
    let value = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes);
    base64::engine::general_purpose::STANDARD.encode(value.to_be_bytes())
}

/// Bytes that differ from one another, the same every time.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Somebody who is logged in.
struct Person {
    http: Client,
    base: String,
    token: String,
}

impl Person {
    /// The user that a bundle has from the start.
    async fn ann(bundle: &Bundle) -> Self {
        let client =
            ["client_id", "client_secret"].map(|name| bundle.setting(&format!("/clients/0/{name}")).to_owned());
        Self::log_in(bundle, client.into()).await
    }

    async fn log_in(bundle: &Bundle, client: (String, String)) -> Self {
        let (http, base) = (Client::new(), bundle.setting("/http").to_owned());
        let body = json!({
            "grant_type": "client_credentials", "client_id": client.0, "client_secret": client.1, "scope": "files chat",
        });
        let answer: Value =
            http.post(format!("{base}/auth/token")).json(&body).send().await.unwrap().json().await.unwrap();
        let token = answer["access_token"].as_str().unwrap().to_owned();
        Self { http, base, token }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token);
        let request = if let Some(body) = body { request.json(&body) } else { request };
        let answer = request.send().await.unwrap();
        assert!(answer.headers().contains_key("x-request-id"), "{path}");
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.call(Method::POST, path, Some(body)).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.call(Method::GET, path, None).await
    }

    async fn conversation_with(&self, user_id: &str) -> String {
        let (status, opened) =
            self.post("/v1/conversations", json!({ "type": "private", "members": ["ann", user_id] })).await;
        assert!(matches!(status, 200 | 201), "{opened}");
        opened["conversation_id"].as_str().unwrap().to_owned()
    }

    /// Begins an upload of these bytes; what `change` says differs from what they are.
    async fn initiate(&self, conversation: &str, body: &[u8], change: Value) -> (u16, Value) {
        let mut asked = json!({
            "conversation_id": conversation, "filename": "周报 📄.bin", "file_size": body.len(), "chunk_size": CHUNK,
            "mime_type": "application/octet-stream", "checksum_crc64nvme": crc64(body),
        });
        for (name, value) in change.as_object().unwrap() {
            asked[name] = value.clone();
        }
        self.post("/v1/files/initiate", asked).await
    }

    /// A request that sends the chunk, as the API signed it.
    async fn signed(&self, upload_id: &str, number: usize, bytes: &[u8]) -> Value {
        let wanted = json!({ "chunk_numbers": [number], "checksums": [crc64(bytes)] });
        let (status, mut signed) = self.post(&format!("/v1/files/{upload_id}/chunks"), wanted).await;
        assert_eq!(status, 200, "{signed}");
        signed["chunks"][0].take()
    }

    async fn put(&self, chunk: &Value, bytes: &[u8]) -> (StatusCode, String) {
        let mut request = self.http.put(chunk["url"].as_str().unwrap()).body(bytes.to_vec());
        for (name, value) in chunk["headers"].as_object().unwrap().iter().filter(|(name, _)| *name != "content-length")
        {
            request = request.header(name, value.as_str().unwrap());
        }
        let answer = request.send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// Begins an upload and sends all its chunks.
    async fn sent(&self, conversation: &str, body: &[u8], change: Value) -> String {
        let (status, begun) = self.initiate(conversation, body, change).await;
        assert_eq!(status, 201, "{begun}");
        let upload_id = begun["upload_id"].as_str().unwrap().to_owned();
        for (index, bytes) in body.chunks(CHUNK).enumerate() {
            let chunk = self.signed(&upload_id, index + 1, bytes).await;
            assert_eq!(self.put(&chunk, bytes).await.0, 200);
        }
        upload_id
    }

    async fn complete(&self, upload_id: &str) -> (u16, Value) {
        self.call(Method::POST, &format!("/v1/files/{upload_id}/complete"), None).await
    }

    /// What an upload comes to.
    async fn ended(&self, upload_id: &str) -> Value {
        until("the merge", || async {
            let (status, told) = self.get(&format!("/v1/files/{upload_id}/status")).await;
            assert_eq!(status, 200, "{told}");
            (!matches!(told["status"].as_str(), Some("uploading" | "merging"))).then_some(told)
        })
        .await
    }

    async fn bytes(&self, file_id: &str) -> Vec<u8> {
        let (status, file) = self.get(&format!("/v1/files/{file_id}")).await;
        assert_eq!(status, 200, "{file}");
        let answer = self.http.get(file["download_url"].as_str().unwrap()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap().to_vec()
    }
}

fn s3(bundle: &Bundle) -> aws_sdk_s3::Client {
    aws_sdk_s3::Client::new(&aws(bundle))
}

fn files_bucket(bundle: &Bundle) -> &str {
    bundle.setting("/buckets/FilesBucket")
}

async fn keys(bundle: &Bundle, prefix: &str) -> Vec<String> {
    let listed = s3(bundle).list_objects_v2().bucket(files_bucket(bundle)).prefix(prefix).send().await.unwrap();
    listed.contents().iter().map(|object| object.key().unwrap().to_owned()).collect()
}

async fn open_multiparts(bundle: &Bundle) -> usize {
    s3(bundle).list_multipart_uploads().bucket(files_bucket(bundle)).send().await.unwrap().uploads().len()
}

#[tokio::test]
async fn bytes_that_are_not_those_that_were_announced_are_refused_where_they_arrive() {
    let bundle = Bundle::start();
    let ann = Person::ann(&bundle).await;
    let conversation = ann.conversation_with("bob").await;
    let body = noise(40, 60 * 1024);
    let (_, begun) =
        ann.initiate(&conversation, &body, json!({ "file_size": 57 * CHUNK, "checksum_crc64nvme": null })).await;
    let upload_id = begun["upload_id"].as_str().unwrap();
    let part = noise(57, CHUNK);
    let chunk = ann.signed(upload_id, 57, &part).await;
    let names = chunk["url"].as_str().unwrap().split(['?', '&']).find_map(|it| it.strip_prefix("X-Amz-SignedHeaders="));
    assert_eq!(names, Some("content-length%3Bhost%3Bx-amz-checksum-crc64nvme"));
    let mut flipped = part.clone();
    flipped[1_000] ^= 4;
    let (status, text) = ann.put(&chunk, &flipped).await;
    assert_eq!((status.as_u16(), text.contains("<Code>BadDigest</Code>")), (400, true), "{text}");
    for wrong in [part[1..].to_vec(), [part.as_slice(), b"x"].concat()] {
        assert_eq!(ann.put(&chunk, &wrong).await.0, 403, "of another length");
    }
    let (_, told) = ann.get(&format!("/v1/files/{upload_id}/status")).await;
    assert_eq!((&told["uploaded_chunks"], &told["received_bytes"]), (&json!(0), &json!(0)), "{told}");
    assert_eq!(ann.put(&chunk, &part).await.0, 200);
    let (_, told) = ann.get(&format!("/v1/files/{upload_id}/status")).await;
    assert_eq!((&told["uploaded_chunks"], &told["total_chunks"]), (&json!(1), &json!(57)));
    let (status, refused) = ann.complete(upload_id).await;
    assert_eq!((status, &refused["error"]), (409, &json!("incomplete_upload")));
    assert_eq!(refused["details"]["missing_chunks"], json!((1..=56).collect::<Vec<_>>()));

    let zip = b"PK\x03\x04\x14\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0a".to_vec();
    for (change, code) in [
        (json!({ "checksum_crc64nvme": crc64(b"something else") }), "checksum_mismatch"),
        (json!({ "mime_type": "image/png" }), "type_mismatch"),
        (json!({ "checksum_sha256": "0".repeat(64) }), "checksum_mismatch"),
    ] {
        let upload_id = ann.sent(&conversation, &zip, change).await;
        assert_eq!(ann.complete(&upload_id).await.0, 202);
        let told = ann.ended(&upload_id).await;
        assert_eq!((told["status"].as_str(), told["failure"]["code"].as_str()), (Some("failed"), Some(code)), "{told}");
        assert_eq!(ann.complete(&upload_id).await.0, 409);
    }
    assert_eq!(keys(&bundle, "u/").await, Vec::<String>::new(), "nothing is left of them");
    let upload_id = ann.sent(&conversation, &zip, json!({ "mime_type": "application/zip" })).await;
    ann.complete(&upload_id).await;
    assert_eq!(ann.ended(&upload_id).await["status"], "completed");
}

#[tokio::test]
async fn an_upload_that_is_idle_for_a_day_expires_and_leaves_nothing() {
    let bundle = Bundle::start();
    let ann = Person::ann(&bundle).await;
    let conversation = ann.conversation_with("bob").await;
    let body = noise(60, 100);
    let upload_id = ann.sent(&conversation, &body, json!({})).await;
    let orphan = s3(&bundle).create_multipart_upload().bucket(files_bucket(&bundle)).key("u/default/nobody");
    orphan.send().await.unwrap();
    assert_eq!(open_multiparts(&bundle).await, 2);
    for _ in 1..20 {
        assert_eq!(ann.initiate(&conversation, &body, json!({})).await.0, 201);
    }
    let (status, refused) = ann.initiate(&conversation, &body, json!({})).await;
    assert_eq!((status, &refused["error"]), (429, &json!("too_many_uploads")));

    bundle.advance("25h");
    bundle.trigger("upload-sweep", "Daily");
    until("the sweep", || async { (open_multiparts(&bundle).await == 0).then_some(()) }).await;
    let ann = Person::ann(&bundle).await;
    let (_, told) = ann.get(&format!("/v1/files/{upload_id}/status")).await;
    assert_eq!(told["status"], "expired", "{told}");
    let (status, refused) = ann.complete(&upload_id).await;
    assert_eq!((status, &refused["error"]), (410, &json!("upload_expired")));
    assert_eq!(ann.initiate(&conversation, &body, json!({})).await.0, 201, "there is room again");
}

#[tokio::test]
async fn chunks_of_another_system_become_one_file_though_the_power_fails_in_between() {
    const KIB: usize = 1024;
    let bundle = Bundle::start();
    let ann = Person::ann(&bundle).await;
    let conversation = ann.conversation_with("bob").await;
    let sizes = [100, 7_000, 200, 300, 6_000, 9_000, 50, 20_000, 4_000, 4_000, 4_000, 100].map(|size| size * KIB);
    let whole = noise(70, sizes.iter().sum());
    let (client, mut start) = (s3(&bundle), 0);
    for (n, size) in sizes.into_iter().enumerate() {
        let chunk = whole[start..start + size].to_vec();
        start += size;
        let put =
            client.put_object().bucket(files_bucket(&bundle)).key(format!("import/video/chunk-{n}")).body(chunk.into());
        put.send().await.unwrap();
    }
    let import = [
        "upload",
        "import",
        "--prefix",
        "import/video/",
        "--conversation",
        &conversation,
        "--user",
        "ann",
        "--filename",
        "video 🎬.bin",
        "--crc64nvme",
        &crc64(&whole),
        "--json",
    ];
    let (code, _, err) = bundle.skylark(&[&import[..], &["--no-wait"]].concat());
    assert_eq!(code, 0, "{err}");
    let bundle = Bundle::start_on(bundle.kill());
    let (code, out, err) = bundle.skylark(&import);
    assert_eq!(code, 0, "{err}");
    let file: Value = serde_json::from_str(&out).unwrap();
    let ann = Person::ann(&bundle).await;
    assert!(ann.bytes(file["file_id"].as_str().unwrap()).await == whole, "byte for byte");
    until("the chunks to be deleted", || async {
        let left = [keys(&bundle, "import/").await, keys(&bundle, "manifest/").await].concat();
        left.is_empty().then_some(())
    })
    .await;
    let (code, _, err) = bundle.skylark(&[
        "upload",
        "import",
        "--prefix",
        "u/",
        "--conversation",
        &conversation,
        "--user",
        "ann",
        "--filename",
        "x",
    ]);
    assert_eq!(code, 1, "{err}");
}
