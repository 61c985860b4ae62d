//! The JavaScript client in a real browser: two pages are two people who chat, while connections rotate, break and miss too much, and who
//! send a file over a line that does the same.
//! Needs `chromium` and `chromedriver` (Debian: packages chromium, chromium-driver).
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "what does not run ends the test")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use domain::upload::checksum::{Crc64, Sha256Sum};
use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Client;
use reqwest::Method;
use serde_json::{Value, json};
use skylark_tests::bundle::{Bundle, aws, until};
use skylark_tests::chat::Person;
use skylark_tests::files::{noise, s3_requests};
use skylark_tests::workspace;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const CHUNK: usize = 5 << 20;

/// What each person's page is: a list of messages, a file that can be picked, and the client.
const PAGE: &str = r##"<!doctype html><meta charset="utf-8"><title>Skylark</title><ol id="messages"></ol><input id="file" type="file">
<script type="module">
  import { Skylark } from "/skylark.js";
  window.log = [];
  window.start = async ({ api, socket, token, conversation, waits }) => {
    const skylark = new Skylark({ api, socket, token: () => token, waits });
    for (const type of ["message", "status", "read", "file", "state"])
      skylark.addEventListener(type, ({ detail }) => window.log.push({ type, detail }));
    skylark.addEventListener("message", ({ detail }) => {
      const item = document.createElement("li");
      item.textContent = detail.payload.text;
      document.querySelector("#messages").append(item);
    });
    skylark.follow(conversation);
    window.skylark = skylark;
    await skylark.connect();
  };
  window.progress = [];
  // Goes on with what was begun before the page was loaded.
  window.upload = (conversation, chunkSize) => {
    window.uploaded = window.skylark.upload(conversation, document.querySelector("#file").files[0], {
      chunkSize,
      uploadId: localStorage.getItem("upload") ?? undefined,
      onBegin: (id) => localStorage.setItem("upload", id),
      onProgress: ({ sent }) => window.progress.push(sent),
    });
  };
  window.failures = 0;
  const { fetch } = window;
  window.fetch = (...request) => fetch(...request).catch((error) => { window.failures += 1; throw error; });
</script>"##;

/// Serves the page and the client on a port of its own.
async fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let client: Arc<str> = workspace::text("clients/js/skylark.js").unwrap().into();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let client = client.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 8_192];
                let read = stream.read(&mut request).await.unwrap_or_default();
                let (kind, body) = match request[..read].starts_with(b"GET /skylark.js ") {
                    true => ("text/javascript", client.as_ref()),
                    false => ("text/html", PAGE),
                };
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: {kind}; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(body.as_bytes()).await;
            });
        }
    });
    origin
}

/// A browser behind its driver, and one session in it.
struct Browser {
    driver: Child,
    http: Client,
    session: String,
    _profile: TempDir,
}

impl Browser {
    async fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("chromedriver (Debian: chromium-driver) does not start: {error}"));
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        // What it goes on to print must be read, or it would wait.
        std::thread::spawn(move || lines.for_each(drop));
        let base = format!("http://127.0.0.1:{}", port.unwrap_or_else(|| panic!("chromedriver tells no port")));
        let (http, profile) = (Client::new(), tempfile::tempdir().unwrap());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-background-timer-throttling",
            "--disable-component-update",
            "--disable-dev-shm-usage",
            "--disable-sync",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": { "args": arguments } } } });
        let answer: Value =
            http.post(format!("{base}/session")).json(&wanted).send().await.unwrap().json().await.unwrap();
        let id = answer["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {answer}"));
        let browser = Self { driver, http, session: format!("{base}/session/{id}"), _profile: profile };
        browser.tell("timeouts", json!({ "script": 120_000 })).await;
        browser
    }

    async fn tell(&self, what: &str, body: Value) -> Value {
        let answer = self.http.post(format!("{}/{what}", self.session)).json(&body).send().await.unwrap();
        let (status, answer) = (answer.status(), answer.json::<Value>().await.unwrap());
        assert!(status.is_success(), "{what}: {answer}");
        answer["value"].clone()
    }

    /// Opens a page in a tab of its own.
    async fn open(&self, url: &str) -> Page<'_> {
        let tab = self.tell("window/new", json!({ "type": "tab" })).await["handle"].as_str().unwrap().to_owned();
        let page = Page { browser: self, tab };
        page.turn_to().await;
        self.tell("url", json!({ "url": url })).await;
        page
    }

    async fn quit(mut self) {
        let _ = self.http.delete(&self.session).send().await;
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

impl Drop for Browser {
    /// The driver is asked first: it ends its browsers, which are in no group with it.
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.driver.id().cast_signed()), Signal::SIGTERM);
        for _ in 0..100 {
            if matches!(self.driver.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

struct Page<'b> {
    browser: &'b Browser,
    tab: String,
}

impl Page<'_> {
    async fn turn_to(&self) {
        self.browser.tell("window", json!({ "handle": self.tab })).await;
    }

    /// What the line of this page can do; nothing means all that the machine can.
    async fn line(&self, bytes_a_second: Option<usize>, offline: bool) {
        self.turn_to().await;
        let rate = bytes_a_second.map_or(json!(-1), |rate| json!(rate));
        let conditions =
            json!({ "offline": offline, "latency": 0, "download_throughput": -1, "upload_throughput": rate });
        self.browser.tell("chromium/network_conditions", json!({ "network_conditions": conditions })).await;
    }

    async fn pick(&self, file: &Path) {
        self.turn_to().await;
        let found = self.browser.tell("element", json!({ "using": "css selector", "value": "#file" })).await;
        let id = found.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
        self.browser.tell(&format!("element/{id}/value"), json!({ "text": file })).await;
    }

    /// How many bytes the page was told to have arrived, each time.
    async fn progress(&self) -> Vec<usize> {
        serde_json::from_value(self.run("return window.progress", Value::Null).await).unwrap()
    }

    /// Runs a script in the page, which may await, and returns its value.
    async fn run(&self, script: &str, argument: Value) -> Value {
        self.turn_to().await;
        let script = format!(
            "const [argument, done] = arguments; (async () => {{ {script} }})().then((value) => done({{ value }}), \
             (error) => done({{ error: String(error.stack ?? error) }}));"
        );
        let answer = self.browser.tell("execute/async", json!({ "script": script, "args": [argument] })).await;
        assert!(answer["error"].is_null(), "{answer}");
        answer["value"].clone()
    }

    async fn start(&self, bundle: &Bundle, person: &Person, conversation: &str, waits: Value) {
        let socket = format!("{}/live", bundle.setting("/websocket"));
        let settings = json!({
            "api": bundle.setting("/http"), "socket": socket, "token": person.token, "conversation": conversation, "waits": waits,
        });
        until("the page's script", || async {
            (self.run("return typeof window.start", Value::Null).await == "function").then_some(())
        })
        .await;
        self.run("await window.start(argument)", settings).await;
    }

    async fn send(&self, conversation: &str, text: &str) {
        let script = "await window.skylark.send(argument[0], { type: 'text', text: argument[1] })";
        self.run(script, json!([conversation, text])).await;
    }

    /// The texts that a person sees.
    async fn seen(&self) -> Vec<String> {
        let texts =
            self.run("return [...document.querySelectorAll('#messages li')].map((it) => it.textContent)", Value::Null);
        texts.await.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    }

    async fn sees(&self, texts: &[&str]) {
        until(&format!("{texts:?}"), || async { (self.seen().await == texts).then_some(()) }).await;
    }

    /// Waits for an event that the client told the page of.
    async fn hears(&self, kind: &str, field: &str, value: Value) {
        until(&format!("{kind} with {field} {value}"), || async {
            let log = self.run("return window.log", Value::Null).await;
            let heard = log.as_array().unwrap().iter().any(|it| it["type"] == kind && it["detail"][field] == value);
            heard.then_some(())
        })
        .await;
    }
}

/// Ends every connection of the user's from this side.
async fn cut_off(bundle: &Bundle, user: &str) -> usize {
    let client = aws_sdk_dynamodb::Client::new(&aws(bundle));
    let request = client.get_item().table_name(bundle.setting("/tables/ChatTable")).consistent_read(true);
    let request = request.key("pk", AttributeValue::S(format!("SOCKETS#default#{user}")));
    let item = request.key("sk", AttributeValue::S("SLOTS".to_owned())).send().await.unwrap().item.unwrap();
    let ids = item.values().filter_map(|slot| Some(slot.as_m().ok()?.get("connection_id")?.as_s().ok()?.clone()));
    let ids: Vec<String> = ids.collect();
    for id in &ids {
        let id = id.replace('=', "%3D");
        let url = format!("{}/live/@connections/{id}", bundle.setting("/aws_endpoint"));
        let _ = Client::new().delete(url).send().await.unwrap();
    }
    ids.len()
}

#[tokio::test]
async fn two_pages_chat_whatever_happens_to_their_connections() {
    let bundle = Bundle::start();
    let (ann, bob) = (Person::join(&bundle, "ann").await, Person::join(&bundle, "bob").await);
    let conversation = ann.converse(&["bob"]).await;
    let (origin, browser) = (serve().await, Browser::start().await);
    let quick = json!({ "firstRetry": 300, "retry": 100 });
    let (a, b) = (browser.open(&origin).await, browser.open(&origin).await);
    a.start(&bundle, &ann, &conversation, quick.clone()).await;
    let restless = json!({ "firstRetry": 300, "retry": 100, "rotateAfter": 1_500, "rotateWithin": 500, "ping": 400, "pingJitter": 100 });
    b.start(&bundle, &bob, &conversation, restless).await;

    a.send(&conversation, "你好，周会改到三点 🙂").await;
    b.sees(&["你好，周会改到三点 🙂"]).await;
    a.hears("status", "status", "delivered".into()).await;
    b.run("await window.skylark.markRead(argument)", json!(conversation)).await;
    a.hears("read", "user_id", "bob".into()).await;
    b.send(&conversation, "好的").await;
    a.sees(&["你好，周会改到三点 🙂", "好的"]).await;

    // Several connections one after the other; none is felt.
    let opened = "return window.log.filter((it) => it.type === 'state' && it.detail === 'open').length";
    until("three connections", || async { (b.run(opened, Value::Null).await.as_u64() >= Some(3)).then_some(()) }).await;
    assert_eq!(b.run("return window.log.filter((it) => it.detail === 'connecting').length", Value::Null).await, 1);
    a.send(&conversation, "三").await;
    b.sees(&["你好，周会改到三点 🙂", "好的", "三"]).await;

    // The network goes, and what is said meanwhile is there when it is back.
    assert!(cut_off(&bundle, "ann").await >= 1);
    b.send(&conversation, "四").await;
    a.sees(&["你好，周会改到三点 🙂", "好的", "三", "四"]).await;
    assert_eq!(b.seen().await, a.seen().await);

    // Whoever missed more than is sent again reads it from the history.
    let long = ann.converse(&["bob", "cy"]).await;
    let texts: Vec<String> = (1..=510).map(|n| n.to_string()).collect();
    for some in texts.chunks(51) {
        join_all(some.iter().map(|text| ann.say(&long, text))).await;
    }
    let c = browser.open(&origin).await;
    c.start(&bundle, &bob, &long, quick).await;
    until("all of it", || async { (c.seen().await.len() >= 510).then_some(()) }).await;
    ann.say(&long, "511").await;
    until("what comes after it", || async { (c.seen().await.len() >= 511).then_some(()) }).await;
    let numbers =
        c.run("return window.log.filter((it) => it.type === 'message').map((it) => it.detail.seq)", Value::Null).await;
    assert_eq!(numbers, json!((1..=511).collect::<Vec<u64>>()), "each once, in order");
    browser.quit().await;
}

#[tokio::test]
async fn a_page_on_a_bad_line_sends_a_file_and_after_a_reload_what_is_missing() {
    const CHUNKS: usize = 12;
    let bundle = Bundle::start();
    let (ann, bob) = (Person::join(&bundle, "ann").await, Person::join(&bundle, "bob").await);
    let conversation = ann.converse(&["bob"]).await;
    let (origin, browser) = (serve().await, Browser::start().await);
    let (a, b) = (browser.open(&origin).await, browser.open(&origin).await);
    let waits = json!({ "firstRetry": 300, "retry": 100 });
    a.start(&bundle, &ann, &conversation, waits.clone()).await;
    b.start(&bundle, &bob, &conversation, waits.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let (path, body) = (folder.path().join("周报 📄.bin"), noise(80, (CHUNKS - 1) * CHUNK + 1_234));
    std::fs::write(&path, &body).unwrap();

    // Four seconds for three chunks at once, and then nothing goes at all for a while.
    a.line(Some(4 << 20), false).await;
    a.pick(&path).await;
    let upload = "window.upload(...argument)";
    a.run(upload, json!([conversation, CHUNK])).await;
    until("a chunk", || async { (a.progress().await.len() > 1).then_some(()) }).await;
    a.line(None, true).await;
    until("failures", || async { (a.run("return window.failures", Value::Null).await != 0).then_some(()) }).await;
    a.line(Some(4 << 20), false).await;
    let before = a.progress().await.len();
    until("another chunk", || async { (a.progress().await.len() > before).then_some(()) }).await;

    // Somebody reloads the page, which picks the same file and goes on.
    a.browser.tell("refresh", json!({})).await;
    a.line(None, false).await;
    a.start(&bundle, &ann, &conversation, waits).await;
    a.pick(&path).await;
    let put = s3_requests(&bundle).await["UploadPart"];
    a.run(upload, json!([conversation, CHUNK])).await;
    let file = a.run("return await window.uploaded", Value::Null).await;
    assert_eq!((&file["file_size"], &file["filename"]), (&json!(body.len()), &json!("周报 📄.bin")), "{file}");
    assert_eq!(file["checksum_crc64nvme"], Crc64::of(&body).to_string());
    let progress = a.progress().await;
    let missing = (body.len() - progress[0]).div_ceil(CHUNK);
    assert!((1..CHUNKS - 1).contains(&missing), "it was reloaded in the middle: {progress:?}");
    assert_eq!((progress.last(), progress.len()), (Some(&body.len()), 1 + missing), "{progress:?}");
    assert_eq!(s3_requests(&bundle).await["UploadPart"] - put, missing as u64, "only what was missing");

    b.hears("file", "file_id", file["file_id"].clone()).await;
    let fetched = b.run(
        "const answer = await fetch((await window.skylark.file(argument)).download_url);
         const sum = new Uint8Array(await crypto.subtle.digest('SHA-256', await answer.arrayBuffer()));
         return [answer.headers.get('content-disposition'), [...sum].map((byte) => byte.toString(16).padStart(2, '0')).join('')];",
        file["file_id"].clone(),
    );
    let fetched = fetched.await;
    let mut sum = Sha256Sum::default();
    sum.add(&body);
    assert_eq!(fetched[1], sum.finish().to_string(), "byte for byte");
    assert!(fetched[0].as_str().unwrap().starts_with("attachment; filename="), "{fetched}");
    browser.quit().await;
}

#[tokio::test]
async fn a_page_cannot_send_other_bytes_than_it_announced() {
    let bundle = Bundle::start();
    let ann = Person::join(&bundle, "ann").await;
    let conversation = ann.converse(&["bob"]).await;
    let (origin, browser) = (serve().await, Browser::start().await);
    let page = browser.open(&origin).await;
    page.start(&bundle, &ann, &conversation, json!({})).await;

    // S3 itself refuses what is not as its URL was signed for: the checksum, and the length that the browser writes.
    let begun = json!({
        "conversation_id": conversation, "filename": "a", "file_size": 3, "mime_type": "text/plain",
        "checksums": [Crc64::of(b"abc").to_string()],
    });
    let (_, begun) = ann.call(Method::POST, "/v1/files/initiate", Some(begun)).await;
    let put = "const { url, headers: { 'content-length': _, ...headers } } = argument[0];
               const answer = await fetch(url, { method: 'PUT', headers, body: argument[1] });
               return [answer.status, answer.headers.get('x-amz-checksum-crc64nvme')];";
    let sum = Crc64::of(b"abc").to_string();
    for (body, expected) in [("abd", json!([400, null])), ("abcd", json!([403, null])), ("abc", json!([200, sum]))] {
        assert_eq!(page.run(put, json!([begun["chunks"][0], body])).await, expected, "{body}");
    }

    // Whoever goes on with another file of the same size has sent none of the two.
    let stopped = "const stop = new AbortController();
        const bytes = new Uint8Array(argument[1] + 1_000);
        const begin = (more) => window.skylark.upload(argument[0], new Blob([bytes]), { chunkSize: argument[1], parallel: 1, ...more });
        let uploadId;
        const onBegin = (id) => (uploadId = id);
        const onProgress = ({ sent }) => sent > 0 && stop.abort();
        const end = [await begin({ onBegin, onProgress, signal: stop.signal }).catch((error) => error.name)];";
    let other = format!(
        "{stopped} bytes[bytes.length - 1] = 1; end.push(await begin({{ uploadId }}).catch((error) => error.code)); return end;"
    );
    let argument = json!([conversation, CHUNK]);
    assert_eq!(page.run(&other, argument.clone()).await, json!(["AbortError", "checksum_mismatch"]));
    let given_up = format!(
        "{stopped} end.push((await window.skylark.remove(uploadId)).status); end.push(await begin({{ uploadId }}).catch((error) => error.code)); return end;"
    );
    assert_eq!(page.run(&given_up, argument).await, json!(["AbortError", "aborted", "upload_aborted"]));
    browser.quit().await;
}
