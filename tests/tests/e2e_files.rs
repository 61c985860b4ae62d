//! Files through a running bundle: every size, a bad line, clients and workers that are killed, and everything that is not what it was
//! said to be.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not run ends the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use base64::Engine as _;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use skylark_tests::bundle::{Bundle, aws, binaries, sqs, until, workspace};
use skylark_tests::files::{noise, s3_requests};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

const MIB: usize = 1 << 20;
const CHUNK: usize = 5 * MIB;

/// CRC64NVME as S3 writes it.
fn crc64(bytes: &[u8]) -> String {
    let value = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes);
    base64::engine::general_purpose::STANDARD.encode(value.to_be_bytes())
}

/// Somebody who is logged in, with a client of their own that may come often.
struct Person {
    http: Client,
    base: String,
    client: [String; 2],
    token: String,
}

impl Person {
    async fn new(bundle: &Bundle, user_id: &str) -> Self {
        let added = [
            &["client", "add", "--json", "--name", user_id, "--user-id", user_id, "--rate", "600"][..],
            &["--scope", "files", "--scope", "chat"],
        ];
        let (code, out, err) = bundle.skylark(&added.concat());
        assert_eq!(code, 0, "{err}");
        let added: Value = serde_json::from_str(&out).unwrap();
        let client = ["client_id", "client_secret"].map(|name| added[name].as_str().unwrap().to_owned());
        let (http, base) = (Client::new(), bundle.setting("/http").to_owned());
        let body = json!({
            "grant_type": "client_credentials", "client_id": client[0], "client_secret": client[1], "scope": "files chat",
        });
        let answer: Value =
            http.post(format!("{base}/auth/token")).json(&body).send().await.unwrap().json().await.unwrap();
        let token = answer["access_token"].as_str().unwrap().to_owned();
        Self { http, base, client, token }
    }

    /// A command as the person runs it who knows the API and no more of the bundle.
    fn command(&self, bundle: &Bundle, arguments: &[&str]) -> Command {
        let mut command = Command::new(binaries().join("skylark"));
        command.args(arguments).arg("--data").arg(bundle.folder());
        command.env("SKYLARK_URL", &self.base).env("SKYLARK_CLIENT_ID", &self.client[0]);
        command.env("SKYLARK_CLIENT_SECRET", &self.client[1]);
        command.current_dir(workspace()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    /// What a command printed that succeeds.
    async fn skylark(&self, bundle: &Bundle, arguments: &[&str]) -> String {
        let output = self.command(bundle, arguments).output().await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
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

fn file_of(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[tokio::test]
async fn a_file_of_any_size_is_there_for_members_once_it_is_proved() {
    let bundle = Bundle::start();
    let ann = Person::new(&bundle, "ann").await;
    let (bob, carol) = (Person::new(&bundle, "bob").await, Person::new(&bundle, "carol").await);
    let conversation = ann.conversation_with("bob").await;
    let folder = tempfile::tempdir().unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();

    for (n, size) in [1, CHUNK - 1, 10 * MIB + 1].into_iter().enumerate() {
        let body = noise(n as u64, size);
        let path = text(&file_of(&folder, &format!("Bericht {n} – 周报 📄.bin"), &body));
        let upload = ["upload", &path, "--conversation", &conversation, "--json", "--sha256"];
        let file: Value = serde_json::from_str(&ann.skylark(&bundle, &upload).await).unwrap();
        assert_eq!((&file["file_size"], &file["checksum_crc64nvme"]), (&json!(size), &json!(crc64(&body))));
        assert!(file["checksum_sha256"].is_string(), "{file}");
        let file_id = file["file_id"].as_str().unwrap();
        assert!(bob.bytes(file_id).await == body, "{size}: byte for byte");

        let message = json!({
            "message_id": format!("6f9619ff-8b86-4d01-b42d-00cf4fc9000{n}"), "conversation_id": conversation,
            "payload": { "type": "file", "file_id": file_id },
        });
        assert_eq!(ann.post("/v1/messages", message).await.0, 202);
        let got = text(&folder.path().join(format!("got {n}")));
        bob.skylark(&bundle, &["download", file_id, "--output", &got]).await;
        assert!(std::fs::read(&got).unwrap() == body);
        assert_eq!(carol.get(&format!("/v1/files/{file_id}")).await.0, 404, "no member");
    }

    let nothing = json!({ "file_size": 0 });
    let (status, refused) = ann.initiate(&conversation, b"a", nothing).await;
    assert_eq!((status, refused["details"]["fields"]["file_size"].is_string()), (400, true), "{refused}");
    let (status, refused) = ann.initiate(&conversation, b"a", json!({ "file_size": (2_u64 << 30) + 1 })).await;
    assert_eq!((status, &refused["error"]), (413, &json!("file_too_large")));
    let (status, begun) =
        ann.initiate(&conversation, b"a", json!({ "file_size": 2_u64 << 30, "chunk_size": null })).await;
    assert_eq!((status, &begun["total_chunks"], begun["chunks"].as_array().unwrap().len()), (201, &json!(205), 20));
    assert_eq!(carol.initiate(&conversation, b"a", json!({})).await.0, 403);

    let (upload_id, file_id) = (begun["upload_id"].as_str().unwrap(), begun["file_id"].as_str().unwrap());
    for (method, path) in [
        (Method::GET, format!("/v1/files/{upload_id}/status")),
        (Method::POST, format!("/v1/files/{upload_id}/complete")),
        (Method::DELETE, format!("/v1/files/{upload_id}")),
        (Method::GET, format!("/v1/files/{file_id}")),
        (Method::GET, "/v1/files/no-id/status".to_owned()),
    ] {
        assert_eq!(bob.call(method, &path, None).await.0, 404, "{path}: somebody else's");
    }
    let chunks = bob.post(&format!("/v1/files/{upload_id}/chunks"), json!({ "chunk_numbers": [1] })).await;
    assert_eq!(chunks.0, 404);
    let early = json!({
        "message_id": "6f9619ff-8b86-4d01-b42d-00cf4fc90009", "conversation_id": conversation,
        "payload": { "type": "file", "file_id": file_id },
    });
    assert_eq!(ann.post("/v1/messages", early).await.0, 409, "it is not there yet");
    assert_eq!(ann.call(Method::DELETE, &format!("/v1/files/{upload_id}"), None).await.1["status"], "aborted");
    assert_eq!(ann.complete(upload_id).await.0, 410);
    assert_eq!(open_multiparts(&bundle).await, 0);

    let told = until("three facts", || async {
        let queue = bundle.setting("/queues/AppEventsQueue");
        let request = sqs(&bundle).receive_message().queue_url(queue).max_number_of_messages(10).visibility_timeout(0);
        let messages = request.send().await.unwrap().messages.unwrap_or_default();
        let facts: std::collections::BTreeSet<String> = messages
            .iter()
            .filter_map(|message| {
                let fact: Value = serde_json::from_str(message.body()?).ok()?;
                (fact["detail-type"] == "FileUploadCompleted").then(|| fact["detail"]["file_id"].to_string())
            })
            .collect();
        (facts.len() == 3).then_some(facts)
    })
    .await;
    assert_eq!(told.len(), 3);
}

#[tokio::test]
async fn an_upload_costs_its_chunks_and_three_requests_to_s3() {
    let bundle = Bundle::start();
    let ann = Person::new(&bundle, "ann").await;
    let conversation = ann.conversation_with("bob").await;
    let folder = tempfile::tempdir().unwrap();
    let path = file_of(&folder, "data.bin", &noise(20, 5 * CHUNK));
    let before = s3_requests(&bundle).await;
    let chunk_size = CHUNK.to_string();
    let path = path.to_str().unwrap();
    let upload = ["upload", path, "--conversation", &conversation, "--json", "--chunk-size", &chunk_size];
    let file: Value = serde_json::from_str(&ann.skylark(&bundle, &upload).await).unwrap();
    assert_eq!(file["sent_chunks"], 5, "{file}");
    let mut requests = s3_requests(&bundle).await;
    requests.retain(|operation, count| {
        *count -= before.get(operation).copied().unwrap_or_default();
        *count > 0
    });
    let expected = [("CreateMultipartUpload", 1), ("UploadPart", 5), ("ListParts", 1), ("CompleteMultipartUpload", 1)];
    assert_eq!(requests, expected.map(|(operation, count)| (operation.to_owned(), count)).into());
}

/// A proxy that cuts three of ten parts off in the middle, and everything once enough have arrived.
struct BadLine {
    address: String,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// How often each part was stored.
    arrived: BTreeMap<String, usize>,
    enough: usize,
    cut: usize,
    /// Connections.
    open: usize,
    draws: u64,
}

impl Seen {
    fn is_cut(&mut self) -> bool {
        self.draws = self.draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let is_cut = (self.draws >> 33) % 10 < 3 || self.arrived.len() >= self.enough;
        self.cut += usize::from(is_cut);
        is_cut
    }
}

impl Drop for BadLine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl BadLine {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::<Mutex<Seen>>::default();
        let known = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let known = known.clone();
                known.lock().unwrap().open += 1;
                tokio::spawn(async move {
                    let part = pass_on(stream, &known).await;
                    let mut known = known.lock().unwrap();
                    known.open -= 1;
                    if let Some(part) = part {
                        *known.arrived.entry(part).or_default() += 1;
                    }
                });
            }
        });
        Self { address, seen, task }
    }

    fn arrived(&self) -> usize {
        self.seen.lock().unwrap().arrived.len()
    }

    /// Until nothing is on its way any more.
    async fn still(&self) {
        until("the line to be still", || async { (self.seen.lock().unwrap().open == 0).then_some(()) }).await;
    }
}

/// Carries one request and its answer; the part that it stored. The connection ends with it.
async fn pass_on(mut client: TcpStream, line: &Mutex<Seen>) -> Option<String> {
    let mut seen = Vec::new();
    let end = loop {
        if let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        let mut piece = [0; 4096];
        match client.read(&mut piece).await {
            Ok(read) if read > 0 => seen.extend_from_slice(&piece[..read]),
            _ => return None,
        }
    };
    let head = String::from_utf8_lossy(&seen[..end]).into_owned();
    let (first, headers) = head.split_once("\r\n")?;
    let (method, rest) = first.split_once(' ')?;
    let (target, _) = rest.split_once(' ')?;
    let (host, path) = target.strip_prefix("http://")?.split_once('/')?;
    let length = headers.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let mut left = length.unwrap_or_default() - (seen.len() - end);
    let part = path.split(['?', '&']).find_map(|field| field.strip_prefix("partNumber=")).filter(|_| method == "PUT");
    let mut server = TcpStream::connect(host).await.ok()?;
    let head = format!("{method} /{path} HTTP/1.1\r\nconnection: close\r\n{headers}");
    server.write_all(head.as_bytes()).await.ok()?;
    server.write_all(&seen[end..]).await.ok()?;
    let stop_at = if part.is_some() && line.lock().unwrap().is_cut() { left / 2 } else { 0 };
    let mut piece = vec![0; 64 * 1024];
    while left > 0 {
        if left <= stop_at {
            return None;
        }
        let read = client.read(&mut piece).await.ok().filter(|read| *read > 0)?;
        server.write_all(&piece[..read]).await.ok()?;
        left -= read;
    }
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await.ok()?;
    // Whether or not there is still somebody to hear it.
    let _ = client.write_all(&answer).await;
    part.filter(|_| answer.starts_with(b"HTTP/1.1 200")).map(str::to_owned)
}

fn upload_through(line: &BadLine, bundle: &Bundle, ann: &Person, path: &Path, conversation: &str) -> Child {
    let (path, chunk_size) = (path.to_str().unwrap(), CHUNK.to_string());
    let upload = ["upload", path, "--conversation", conversation, "--json", "--chunk-size", &chunk_size];
    let mut command = ann.command(bundle, &upload);
    command.env("HTTP_PROXY", &line.address).env_remove("NO_PROXY").env_remove("no_proxy");
    command.spawn().unwrap()
}

#[tokio::test]
async fn a_client_on_a_bad_line_that_is_killed_twice_sends_only_what_is_missing() {
    let bundle = Bundle::start();
    let ann = Person::new(&bundle, "ann").await;
    let conversation = ann.conversation_with("bob").await;
    let folder = tempfile::tempdir().unwrap();
    let body = noise(30, 16 * CHUNK + 1_234);
    let path = file_of(&folder, "video.bin", &body);
    let line = BadLine::start().await;

    for enough in [3, 8] {
        line.seen.lock().unwrap().enough = enough;
        let mut child = upload_through(&line, &bundle, &ann, &path, &conversation);
        until("some parts", || async { (line.arrived() >= enough).then_some(()) }).await;
        child.kill().await.unwrap();
        line.still().await;
    }
    let before = line.arrived();
    assert!(before < 17, "it was killed in the middle: {before}");
    line.seen.lock().unwrap().enough = usize::MAX;
    let child = upload_through(&line, &bundle, &ann, &path, &conversation);
    let output = child.wait_with_output().await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    let file: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(file["sent_chunks"], 17 - before, "{file}");

    line.still().await;
    {
        let seen = line.seen.lock().unwrap();
        assert_eq!(seen.arrived.len(), 17);
        assert!(seen.arrived.values().all(|times| *times == 1), "each part was stored once: {:?}", seen.arrived);
        assert!(seen.cut > 2, "the line was bad");
    }
    assert_eq!(file["checksum_crc64nvme"], crc64(&body));
    assert!(ann.bytes(file["file_id"].as_str().unwrap()).await == body);
    let left = std::fs::read_dir(bundle.folder().join("uploads")).unwrap();
    assert_eq!(left.count(), 0, "nothing is left to go on with");
}

#[tokio::test]
async fn bytes_that_are_not_those_that_were_announced_are_refused_where_they_arrive() {
    let bundle = Bundle::start();
    let ann = Person::new(&bundle, "ann").await;
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
async fn two_completes_and_a_worker_that_was_killed_make_one_file() {
    let bundle = Bundle::start();
    let ann = Person::new(&bundle, "ann").await;
    let conversation = ann.conversation_with("bob").await;
    let body = noise(50, CHUNK + 9);

    let upload_id = ann.sent(&conversation, &body, json!({})).await;
    let (one, two) = tokio::join!(ann.complete(&upload_id), ann.complete(&upload_id));
    assert_eq!((one.0, two.0, &one.1["file_id"]), (202, 202, &two.1["file_id"]), "{one:?} {two:?}");
    let told = ann.ended(&upload_id).await;
    assert_eq!((&told["status"], &told["file_id"]), (&json!("completed"), &one.1["file_id"]), "{told}");
    assert_eq!(keys(&bundle, "u/").await.len(), 1);
    assert_eq!(ann.complete(&upload_id).await.1["status"], "completed", "and once more");

    // As a worker leaves it that dies after S3 has made the object and before the record says so.
    let body = noise(51, CHUNK + 9);
    let upload_id = ann.sent(&conversation, &body, json!({})).await;
    let key = format!("u/default/{upload_id}");
    let (s3, name) = (s3(&bundle), files_bucket(&bundle));
    let open = s3.list_multipart_uploads().bucket(name).prefix(&key).send().await.unwrap();
    let multipart = open.uploads()[0].upload_id().unwrap().to_owned();
    let parts = s3.list_parts().bucket(name).key(&key).upload_id(&multipart).send().await.unwrap();
    let parts = parts.parts().iter().map(|part| {
        let (number, etag) = (part.part_number().unwrap(), part.e_tag().unwrap());
        CompletedPart::builder().part_number(number).e_tag(etag).build()
    });
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
    let completion =
        s3.complete_multipart_upload().bucket(name).key(&key).upload_id(&multipart).multipart_upload(parts);
    completion.send().await.unwrap();
    let merging = aws_sdk_dynamodb::Client::new(&aws(&bundle))
        .update_item()
        .table_name(bundle.setting("/tables/FilesTable"))
        .key("pk", AttributeValue::S(format!("UPLOAD#{upload_id}")))
        .key("sk", AttributeValue::S("UPLOAD".to_owned()))
        .update_expression("SET #status = :merging ADD #version :one")
        .expression_attribute_names("#status", "status")
        .expression_attribute_names("#version", "version")
        .expression_attribute_values(":merging", AttributeValue::S("merging".to_owned()))
        .expression_attribute_values(":one", AttributeValue::N("1".to_owned()));
    merging.send().await.unwrap();
    assert_eq!(ann.complete(&upload_id).await.0, 202);
    let told = ann.ended(&upload_id).await;
    assert_eq!(told["status"], "completed", "{told}");
    assert!(ann.bytes(told["file_id"].as_str().unwrap()).await == body);

    // And as the power fails.
    let body = noise(52, CHUNK + 9);
    let upload_id = ann.sent(&conversation, &body, json!({})).await;
    assert_eq!(ann.complete(&upload_id).await.0, 202);
    let bundle = Bundle::start_on(bundle.kill());
    let ann = Person::new(&bundle, "ann").await;
    // The job may be hidden for as long as the slowest worker takes; whoever asks again does not wait for that.
    assert_eq!(ann.complete(&upload_id).await.0, 202);
    let told = ann.ended(&upload_id).await;
    assert_eq!(told["status"], "completed", "{told}");
    assert!(ann.bytes(told["file_id"].as_str().unwrap()).await == body);

    // Equal bytes are stored once, and until nobody refers to them.
    let again = ann.sent(&conversation, &body, json!({})).await;
    ann.complete(&again).await;
    let again = ann.ended(&again).await;
    // The record comes first, then the second copy goes.
    until("the second copy to go", || async { (keys(&bundle, "u/").await.len() == 3).then_some(()) }).await;
    for file in [&told, &again] {
        let path = format!("/v1/files/{}", file["file_id"].as_str().unwrap());
        assert!(ann.bytes(file["file_id"].as_str().unwrap()).await == body);
        assert_eq!(ann.call(Method::DELETE, &path, None).await.1["status"], "removed");
        assert_eq!(ann.get(&path).await.0, 404);
    }
    assert_eq!(keys(&bundle, "u/").await.len(), 2);
}

#[tokio::test]
async fn an_upload_that_is_idle_for_a_day_expires_and_leaves_nothing() {
    let bundle = Bundle::start();
    let ann = Person::new(&bundle, "ann").await;
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
    let ann = Person::new(&bundle, "ann").await;
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
    let ann = Person::new(&bundle, "ann").await;
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
    let ann = Person::new(&bundle, "ann").await;
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
