//! Lark apps through the command line of a running bundle: their life, what a disabled one may not do, and what the check finds.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not run ends the test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lark::signature;
use reqwest::{Client, redirect};
use serde_json::{Value, json};
use skylark_tests::bundle::{Bundle, binaries, sqs, until, workspace};

const SECRET: &str = "canary-app-secret-0001";
const KEY: &str = "canary-encrypt-key-0001";
const TOKEN: &str = "canary-verification-0001";

/// How long a change may take to reach every warm function.
const REACHES_ALL: Duration = Duration::from_secs(10);

/// What every app of these tests may do.
const SCOPES: [&str; 5] = [
    "offline_access",
    "im:message:send_as_bot",
    "contact:user.base:readonly",
    "application:application:self_manage",
    "task:task:read",
];

/// A command's exit code and what it said.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        self.any_json()
    }

    fn any_json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| unreadable(self))
    }
}

#[expect(clippy::panic, reason = "what does not run ends the test")]
fn unreadable(said: &Said) -> Value {
    panic!("not JSON: {said:?}")
}

/// Runs a command on a data folder with these lines on stdin.
fn skylark_on(data: &Path, arguments: &[&str], stdin: &str) -> Said {
    run(Command::new(binaries().join("skylark")).args(arguments).arg("--data").arg(data), stdin)
}

/// Runs a command. Whatever it does, it shows no canary.
fn run(command: &mut Command, stdin: &str) -> Said {
    let mut process = command
        .current_dir(workspace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads nothing may be gone already.
    let _ = process.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = process.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = Said { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) };
    assert!(!said.out.contains("canary") && !said.err.contains("canary"), "a secret is shown: {command:?}");
    said
}

struct World {
    bundle: Bundle,
    http: Client,
}

impl World {
    fn new() -> Self {
        let http = Client::builder().redirect(redirect::Policy::none()).build().unwrap();
        Self { bundle: Bundle::start(), http }
    }

    fn skylark(&self, arguments: &[&str]) -> Said {
        skylark_on(self.bundle.folder(), arguments, "")
    }

    /// Registers an app whose secrets come through stdin.
    fn add(&self, app_id: &str, extra: &[&str]) -> Value {
        let mut arguments = vec!["app", "add", "--app-id", app_id, "--name", "考勤 🕘", "--json", "--as", "ann"];
        arguments.extend(["--app-secret", "-", "--encrypt-key", "-", "--verification-token", "-"]);
        arguments.extend(extra);
        skylark_on(self.bundle.folder(), &arguments, &format!("{SECRET}\n{KEY}\n{TOKEN}\n")).json()
    }

    /// Makes the vendor's console agree with what is registered, but for `changes`.
    async fn console(&self, app_id: &str, changes: Value) {
        let base = self.bundle.setting("/http");
        let mut app = json!({
            "app_id": app_id, "app_secret": SECRET, "encrypt_key": KEY, "verification_token": TOKEN, "name": "考勤 🕘",
            "scopes": SCOPES, "callback_url": format!("{base}/lark/{app_id}/callback"),
            "redirect_uris": [format!("{base}/lark/oauth/callback")], "verify": false,
        });
        for (name, value) in changes.as_object().unwrap() {
            app[name] = value.clone();
        }
        let url = format!("{}/sandbox/apps", self.bundle.setting("/lark/sandbox"));
        assert_eq!(self.http.post(url).json(&app).send().await.unwrap().status().as_u16(), 200);
    }

    /// Pushes a signed event, as the vendor does.
    async fn push(&self, app_id: &str, key: &str) -> u16 {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let event = json!({
            "schema": "2.0", "event": { "name": "周会 🗓" },
            "header": { "event_id": format!("e{}", COUNT.fetch_add(1, Ordering::SeqCst)), "event_type": "im.chat.updated_v1",
                        "create_time": "1700000000000", "token": TOKEN, "app_id": app_id, "tenant_key": "t1" },
        });
        let body = json!({ "encrypt": signature::encrypt(key, [7; 16], event.to_string().as_bytes()) }).to_string();
        let sum = signature::sha256_hex("1700000000", "n", key, body.as_bytes());
        let url = format!("{}/lark/{app_id}/callback", self.bundle.setting("/http"));
        let request = self.http.post(url).header("content-type", "application/json").header("X-Lark-Signature", sum);
        let request = request.header("X-Lark-Request-Timestamp", "1700000000").header("X-Lark-Request-Nonce", "n");
        request.body(body).send().await.unwrap().status().as_u16()
    }

    async fn get(&self, url: &str) -> (u16, Option<String>) {
        let answer = self.http.get(url).send().await.unwrap();
        let location = answer.headers().get("location").map(|it| it.to_str().unwrap().to_owned());
        (answer.status().as_u16(), location)
    }

    /// The checks of `skylark app check`, by name: result, detail and advice.
    fn check(&self, app_id: &str, extra: &[&str]) -> Findings {
        let mut arguments = vec!["app", "check", app_id, "--json"];
        arguments.extend(extra);
        let said = self.skylark(&arguments);
        let report = said.any_json();
        assert_eq!(report["passed"], said.code == 0, "{said:?}");
        Findings(report)
    }

    /// No log line of any function, nor of the runner, holds a canary.
    fn no_canary_in_the_logs(&self) {
        let mut files = vec![self.bundle.folder().join("stderr.log")];
        let logs = self.bundle.folder().join("logs");
        files.extend(std::fs::read_dir(logs).unwrap().map(|entry| entry.unwrap().path()));
        assert!(files.len() > 2, "{files:?}");
        let leaking = |file: &&PathBuf| String::from_utf8_lossy(&std::fs::read(file).unwrap()).contains("canary");
        assert_eq!(files.iter().filter(leaking).collect::<Vec<_>>(), Vec::<&PathBuf>::new());
    }
}

struct Findings(Value);

impl Findings {
    fn one(&self, name: &str) -> &Value {
        self.0["checks"].as_array().unwrap().iter().find(|check| check["check"] == name).unwrap()
    }

    fn result(&self, name: &str) -> &str {
        self.one(name)["result"].as_str().unwrap()
    }

    /// The names of the checks with this result.
    fn with(&self, result: &str) -> Vec<&str> {
        let checks = self.0["checks"].as_array().unwrap().iter().filter(|check| check["result"] == result);
        checks.map(|check| check["check"].as_str().unwrap()).collect()
    }

    /// Whether detail or advice of a check says this.
    fn says(&self, name: &str, words: &str) {
        let check = self.one(name);
        assert!(check.to_string().contains(words), "{words} in {check}");
    }
}

const ALL: [&str; 9] =
    ["registration", "credentials", "bot", "scopes", "keys", "request_url", "callback", "forgery", "redirect_url"];

#[tokio::test]
async fn an_app_is_added_shown_changed_disabled_enabled_and_deleted() {
    let world = World::new();
    let base = world.bundle.setting("/http").to_owned();
    let page = "https://example.com/privacy";
    let added = world.add("cli_life", &["--operator-chat", "oc_operators", "--privacy-url", page]);
    let urls = (format!("{base}/lark/cli_life/callback"), format!("{base}/lark/oauth/callback"));
    for (field, value) in [
        ("name", json!("考勤 🕘")),
        ("kind", json!("custom")),
        ("brand", json!("feishu")),
        ("status", json!("enabled")),
        ("operator_chat", json!("oc_operators")),
        ("privacy_url", json!(page)),
        ("callback_url", json!(urls.0)),
        ("redirect_url", json!(urls.1)),
        ("created_by", json!("ann")),
        ("updated_by", json!("ann")),
        ("version", json!(1)),
    ] {
        assert_eq!(added[field], value, "{field}");
    }
    let again = world.skylark(&[
        "app",
        "add",
        "--app-id",
        "cli_life",
        "--name",
        "x",
        "--app-secret",
        "s",
        "--verification-token",
        "t",
    ]);
    assert_eq!(again.code, 1);
    assert!(again.err.contains("`cli_life` is registered already"), "{again:?}");

    let shown = world.skylark(&["app", "show", "cli_life", "--json"]).json();
    let mask = json!("cana****");
    assert_eq!(shown["secrets"], json!({ "app_secret": mask, "encrypt_key": mask, "verification_token": mask }));
    let lines = world.skylark(&["app", "show", "cli_life"]).out;
    assert!(lines.contains("app secret          cana****") && lines.contains(" by ann"), "{lines}");
    let listed = world.skylark(&["app", "list", "--json"]).json();
    assert_eq!(listed[0], added, "the list has the same shape");
    assert_eq!(listed.as_array().unwrap().len(), 2, "the bundle's own is there too");
    let table = world.skylark(&["app", "list"]).out;
    assert!(table.lines().any(|line| line.starts_with("cli_life ") && line.ends_with("考勤 🕘")), "{table}");

    let update = ["app", "update", "cli_life", "--name", "周报 📅", "--brand", "lark", "--no-operator-chat"];
    let updated = world.skylark(&[&update[..], &["--no-privacy-url", "--json", "--as", "bob"]].concat()).json();
    assert_eq!(updated["privacy_url"], Value::Null);
    let script = world.skylark(&["app", "update", "cli_life", "--privacy-url", "javascript:alert(1)"]);
    assert!(script.code == 1 && script.err.contains("`privacy_url`"), "{script:?}");
    assert_eq!((&updated["name"], &updated["brand"]), (&json!("周报 📅"), &json!("lark")));
    assert_eq!((&updated["operator_chat"], &updated["version"]), (&Value::Null, &json!(2)));
    assert_eq!((&updated["created_by"], &updated["updated_by"]), (&json!("ann"), &json!("bob")));
    let keyless = world.skylark(&["app", "update", "cli_life", "--no-encrypt-key"]);
    assert_eq!(keyless.code, 0, "{keyless:?}");
    let shown = world.skylark(&["app", "show", "cli_life", "--json"]).json();
    assert_eq!(shown["secrets"], json!({ "app_secret": mask, "encrypt_key": null, "verification_token": mask }));

    // Of changes at once, each is made whole or told that another was faster.
    let rivals: Vec<_> = (0..8)
        .map(|n| {
            let mut command = Command::new(binaries().join("skylark"));
            command.args(["app", "update", "cli_life", "--name", &format!("rival {n}"), "--data"]);
            command.arg(world.bundle.folder());
            std::thread::spawn(move || run(&mut command, ""))
        })
        .collect();
    let rivals: Vec<Said> = rivals.into_iter().map(|rival| rival.join().unwrap()).collect();
    let made = rivals.iter().filter(|said| said.code == 0).count();
    assert!(made >= 1, "{rivals:?}");
    let told = |said: &&Said| said.code == 2 && said.err.contains("`cli_life` was changed by somebody else");
    assert_eq!(rivals.iter().filter(told).count(), rivals.len() - made, "{rivals:?}");
    assert_eq!(world.skylark(&["app", "show", "cli_life", "--json"]).json()["version"], 3 + made);

    for risky in ["disable", "delete"] {
        let unasked = world.skylark(&["app", risky, "cli_life"]);
        assert_eq!(unasked.code, 1);
        assert!(unasked.err.contains("--force"), "{unasked:?}");
    }
    assert_eq!(world.skylark(&["app", "show", "cli_life", "--json"]).json()["status"], "enabled");
    assert_eq!(world.skylark(&["app", "disable", "cli_life", "--force", "--json"]).json()["status"], "disabled");
    assert_eq!(world.skylark(&["app", "enable", "cli_life", "--json"]).json()["status"], "enabled");
    let deleted = world.skylark(&["app", "delete", "cli_life", "--force", "--json"]).json();
    assert_eq!(deleted, json!({ "app_id": "cli_life", "deleted": true }));
    let gone = world.skylark(&["app", "show", "cli_life"]);
    assert_eq!(gone.code, 1);
    assert!(gone.err.contains("no app `cli_life` is registered; there are `cli_local0000000001`"), "{gone:?}");
    assert_eq!(world.push("cli_life", KEY).await, 404, "never warm, so unknown at once");
    world.no_canary_in_the_logs();
}

#[tokio::test]
async fn ten_seconds_after_it_was_disabled_every_function_refuses_an_app_until_it_is_enabled() {
    let world = World::new();
    world.add("cli_a", &[]);
    world.add("cli_b", &[]);
    world.console("cli_a", json!({})).await;
    assert_eq!((world.push("cli_a", KEY).await, world.push("cli_b", KEY).await), (200, 200));

    // Every function has the app in its hands: the card is out, and Ann is on the vendor's page.
    let card = ["auth-card", "--app-id", "cli_a", "--open-id", "ou_ann", "--scope", "task:task:read"];
    let session = world.skylark(&card).json()["session_id"].as_str().unwrap().to_owned();
    let sandbox = world.bundle.setting("/lark/sandbox");
    until("the card", || async {
        let url = format!("{sandbox}/sandbox/messages?app_id=cli_a&open_id=ou_ann");
        let seen: Value = world.http.get(url).send().await.ok()?.json().await.ok()?;
        (!seen["items"].as_array()?.is_empty()).then_some(())
    })
    .await;
    let base = world.bundle.setting("/http");
    let start = format!("{base}/lark/cli_a/oauth/start?session_id={session}");
    let (status, page) = world.get(&start).await;
    assert_eq!(status, 302);
    let page = page.unwrap();
    let state = page.split(['?', '&']).find_map(|pair| pair.strip_prefix("state=")).unwrap();

    assert_eq!(world.skylark(&["app", "disable", "cli_a", "--force"]).code, 0);
    tokio::time::sleep(REACHES_ALL + Duration::from_millis(200)).await;
    assert_eq!(world.push("cli_a", KEY).await, 403, "lark-callback");
    assert_eq!(world.get(&start).await.0, 403, "lark-oauth");
    assert_eq!(world.push("cli_b", KEY).await, 200, "the other app goes on");
    let refused = world.skylark(&card);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("`cli_a` is disabled"), "{refused:?}");
    // Saying no needs no app; showing it on the card does.
    let declined = format!("{base}/lark/oauth/callback?error=access_denied&state={state}");
    assert_eq!(world.get(&declined).await.0, 200);
    let queues = sqs(&world.bundle);
    let parked = world.bundle.setting("/queues/ParkedQueue");
    let reason = until("lark-work to park the card's bell", || async {
        let batch = queues.receive_message().queue_url(parked).wait_time_seconds(1).send().await.ok()?;
        Some(batch.messages().first()?.body()?.to_owned())
    })
    .await;
    assert!(reason.contains("LarkWorkFunction") && reason.contains("`cli_a` is disabled"), "{reason}");

    assert_eq!(world.skylark(&["app", "enable", "cli_a"]).code, 0);
    until("the enabled app to be served", || async { (world.push("cli_a", KEY).await == 200).then_some(()) }).await;
    assert_eq!(world.skylark(&["app", "delete", "cli_a", "--force"]).code, 0);
    until("the deleted app to be unknown", || async { (world.push("cli_a", KEY).await == 404).then_some(()) }).await;
    world.no_canary_in_the_logs();
}

#[tokio::test]
async fn the_check_passes_and_then_names_whatever_is_broken_and_how_to_mend_it() {
    let world = World::new();
    let fresh = world.skylark(&["app", "check"]);
    assert_eq!(fresh.code, 0, "the bundle's own app, which need not be named: {fresh:?}");
    let card = world.skylark(&["auth-card", "--open-id", "ou_ann"]).json();
    assert!(card["session_id"].is_string(), "{card}");

    world.add("cli_a", &[]);
    world.console("cli_a", json!({})).await;
    let fine = world.check("cli_a", &[]);
    assert_eq!(fine.with("ok"), ALL, "{}", fine.0);
    assert!(
        fine.0["checks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|check| check["advice"].is_null() || check["check"] == "callback")
    );

    let base = world.bundle.setting("/http");
    let redirect = format!("{base}/lark/oauth/callback");
    let callback = format!("{base}/lark/cli_a/callback");
    let without = |scope: &str| SCOPES.into_iter().filter(|one| *one != scope).collect::<Vec<_>>();
    for (changes, failed, words) in [
        (json!({ "encrypt_key": "another key" }), "keys", vec!["Encrypt Key", "--encrypt-key -"]),
        (json!({ "encrypt_key": null }), "keys", vec!["the console has none", "--no-encrypt-key"]),
        (json!({ "verification_token": "another" }), "keys", vec!["Verification Token", "--verification-token -"]),
        (
            json!({ "scopes": without("offline_access") }),
            "scopes",
            vec!["missing `offline_access`", "Permissions & Scopes"],
        ),
        (json!({ "scopes": without("im:message:send_as_bot") }), "scopes", vec!["missing `im:message:send_as_bot`"]),
        (
            json!({ "scopes": without("contact:user.base:readonly") }),
            "scopes",
            vec!["missing `contact:user.base:readonly`"],
        ),
        (
            json!({ "scopes": without("offline_access"), "pending_scopes": ["offline_access"] }),
            "scopes",
            vec!["not approved `offline_access`", "administrator"],
        ),
        (
            json!({ "redirect_uris": ["https://elsewhere.example/back"] }),
            "redirect_url",
            vec![&redirect, "Security Settings"],
        ),
        (
            json!({ "callback_url": "https://elsewhere.example/cb" }),
            "request_url",
            vec!["elsewhere.example", &callback],
        ),
        (json!({ "callback_url": null }), "request_url", vec!["no request URL", &callback]),
        (json!({ "bot_enabled": false }), "bot", vec!["no bot", "Add Features"]),
    ] {
        world.console("cli_a", changes.clone()).await;
        let findings = world.check("cli_a", &[]);
        assert_eq!(findings.with("failed"), [failed], "{changes}: {}", findings.0);
        assert_eq!(findings.with("ok").len(), ALL.len() - 1, "{changes}");
        words.iter().for_each(|words| findings.says(failed, words));
    }

    world.console("cli_a", json!({ "app_secret": "rotated" })).await;
    let findings = world.check("cli_a", &[]);
    assert_eq!(findings.with("failed"), ["credentials"]);
    findings.says("credentials", "10015");
    findings.says("credentials", "skylark app update cli_a --app-secret -");
    assert_eq!(findings.with("skipped"), ["bot", "scopes", "keys", "request_url"], "what needs a token");
    assert_eq!(findings.with("ok"), ["registration", "callback", "forgery", "redirect_url"], "what needs none");
    let people = world.skylark(&["app", "check", "cli_a"]);
    assert_eq!(people.code, 1);
    assert!(people.out.contains("FAILED   credentials") && people.out.contains("-> copy the App Secret"), "{people:?}");
    assert!(people.err.contains("5 of 9 checks did not pass"), "{people:?}");

    // The secret is rotated here as well, and the change is known to the functions before they are asked.
    let rotated = skylark_on(world.bundle.folder(), &["app", "update", "cli_a", "--app-secret", "-"], "rotated\n");
    assert_eq!(rotated.code, 0, "{rotated:?}");
    assert_eq!(world.check("cli_a", &[]).with("ok"), ALL);

    let untold = json!({ "app_secret": "rotated", "scopes": without("application:application:self_manage"),
        "redirect_uris": ["https://elsewhere.example/back"] });
    world.console("cli_a", untold).await;
    let findings = world.check("cli_a", &["--allow-skipped"]);
    assert_eq!(findings.with("skipped"), ["keys", "request_url"]);
    findings.says("keys", "application:application:self_manage");
    assert_eq!(findings.with("failed"), ["redirect_url"], "the authorize page says so itself");

    assert_eq!(world.skylark(&["app", "disable", "cli_a", "--force"]).code, 0);
    world.console("cli_a", json!({ "app_secret": "rotated" })).await;
    let findings = world.check("cli_a", &[]);
    assert_eq!(findings.with("failed"), ["registration", "callback"]);
    findings.says("registration", "skylark app enable cli_a");
    world.no_canary_in_the_logs();
}

#[tokio::test]
async fn each_app_is_checked_with_its_own_keys_and_a_store_app_as_far_as_its_own_secret_goes() {
    let world = World::new();
    world.add("cli_a", &[]);
    world.console("cli_a", json!({})).await;
    let other =
        ["--app-secret", "other-secret", "--encrypt-key", "other key 🔑", "--verification-token", "other-token"];
    let added = world.skylark(&[&["app", "add", "--app-id", "cli_b", "--name", "b"][..], &other].concat());
    assert_eq!(added.code, 0, "{added:?}");
    let secrets =
        json!({ "app_secret": "other-secret", "encrypt_key": "other key 🔑", "verification_token": "other-token" });
    world.console("cli_b", secrets).await;
    for app_id in ["cli_a", "cli_b"] {
        assert_eq!(world.check(app_id, &[]).with("ok"), ALL, "{app_id}");
    }
    let unnamed = world.skylark(&["app", "check"]);
    assert_eq!(unnamed.code, 1);
    assert!(unnamed.err.contains("say which app; there are `cli_a` (考勤 🕘), `cli_b` (b), `cli_local"), "{unnamed:?}");

    // The vendor pushes the ticket where nobody listens, then, asked again, where it is kept.
    world.add("cli_store", &["--kind", "store"]);
    let nowhere = format!("{}/nowhere", world.bundle.setting("/http"));
    world.console("cli_store", json!({ "type": "store", "callback_url": nowhere })).await;
    let findings = world.check("cli_store", &[]);
    assert_eq!(findings.result("credentials"), "ok");
    findings.says("credentials", "no app_ticket is stored; the vendor knows id and secret and sends it again");
    world.console("cli_store", json!({ "type": "store" })).await;
    let findings = until("the ticket to be stored", || async {
        let findings = world.check("cli_store", &[]);
        let kept = findings.one("credentials")["detail"] == "the stored app_ticket opens and gives an app token";
        kept.then_some(findings)
    })
    .await;
    assert_eq!(findings.with("failed"), Vec::<&str>::new(), "{}", findings.0);
    assert_eq!(findings.with("skipped"), ["bot", "scopes", "keys", "request_url"]);
    assert_eq!(findings.result("credentials"), "ok");
    assert_eq!(world.check("cli_store", &["--allow-skipped"]).0["passed"], true);
    world.console("cli_store", json!({ "type": "store", "app_secret": "rotated" })).await;
    assert_eq!(world.check("cli_store", &[]).result("credentials"), "failed");
    world.no_canary_in_the_logs();
}

#[tokio::test]
async fn secrets_that_were_sealed_under_a_lost_key_are_named_and_can_be_replaced() {
    let world = World::new();
    world.add("cli_a", &[]);
    let World { bundle, http } = world;
    let folder = bundle.kill();
    std::fs::remove_file(folder.path().join("vault.key")).unwrap();
    let world = World { bundle: Bundle::start_on(folder), http };
    world.console("cli_a", json!({})).await;

    let findings = world.check("cli_a", &[]);
    assert_eq!(findings.with("failed"), ["registration"], "{}", findings.0);
    let all = ["app", "update", "cli_a", "--app-secret", "-", "--encrypt-key", "-", "--verification-token", "-"];
    findings.says("registration", &format!("skylark {}", all.join(" ")));
    let shown = world.skylark(&["app", "show", "cli_a"]);
    assert_eq!(shown.code, 2, "{shown:?}");
    let some = skylark_on(world.bundle.folder(), &all[..5], &format!("{SECRET}\n"));
    assert_eq!(some.code, 2, "the others cannot be kept: {some:?}");
    let replaced = skylark_on(world.bundle.folder(), &all, &format!("{SECRET}\n{KEY}\n{TOKEN}\n"));
    assert_eq!(replaced.code, 0, "{replaced:?}");
    assert_eq!(world.check("cli_a", &[]).with("ok"), ALL);
    world.no_canary_in_the_logs();
}

#[tokio::test]
async fn wrong_arguments_are_named_and_each_kind_of_failure_has_its_exit_code() {
    let world = World::new();
    let own = "cli_local0000000001";
    let add = |changes: &[&'static str]| {
        let usual =
            ["app", "add", "--app-id", "cli_x", "--name", "x", "--app-secret", "s", "--verification-token", "t"];
        let mut arguments = usual.to_vec();
        for change in changes.chunks(2) {
            match arguments.iter().position(|argument| *argument == change[0]) {
                Some(at) => arguments[at + 1] = change[1],
                None => arguments.extend(change),
            }
        }
        arguments
    };
    for (arguments, named) in [
        (vec!["app", "add", "--app-id", "cli_x"], "--app-secret"),
        (add(&["--app-id", "a b"]), "`app_id` must be"),
        (add(&["--name", " "]), "`name` must have"),
        (add(&["--app-secret", ""]), "`app_secret` is empty"),
        (add(&["--app-secret", "-"]), "`app_secret` is empty"),
        (add(&["--verification-token", " t"]), "`verification_token` begins or ends with white space"),
        (add(&["--operator-chat", "ou_1"]), "`chat_id` must be `oc_`"),
        (add(&["--brand", "slack"]), "feishu"),
        (add(&["--kind", "private"]), "custom"),
        (add(&["--as", "a\nb"]), "`as` must have"),
        (vec!["app", "update", own], "--name"),
        (vec!["app", "update", own, "--encrypt-key", "k", "--no-encrypt-key"], "cannot be used with"),
        (vec!["app", "update", "cli_nobody", "--name", "x"], "no app `cli_nobody` is registered; there are `cli_local"),
        (vec!["app", "enable"], "APP_ID"),
        (vec!["app", "enable", "cli_nobody"], "`cli_nobody`"),
        (vec!["app", "delete", "cli_nobody", "--force"], "`cli_nobody`"),
        (vec!["app", "check", own, "--public-url", "nowhere"], "--public-url"),
        (vec!["app", "forget", own], "forget"),
    ] {
        let said = world.skylark(&arguments);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{arguments:?}: {said:?}");
        assert!(said.err.contains(named), "{named} in {said:?}");
    }
    for command in ["add", "list", "show", "update", "delete", "enable", "disable", "check"] {
        let help = world.skylark(&["app", command, "--help"]);
        assert_eq!(help.code, 0, "{help:?}");
        assert!(help.out.contains("Example") && help.out.contains(&format!("skylark app {command}")), "{help:?}");
        assert!(help.out.contains("JSON"), "{command} documents its JSON");
    }

    let from_environment = |arguments: &[&str]| {
        let mut command = Command::new(binaries().join("skylark"));
        command.args(arguments).arg("--data").arg(world.bundle.folder());
        command.env("SKYLARK_APP_SECRET", SECRET).env("SKYLARK_ENCRYPT_KEY", KEY).env("SKYLARK_USER", "安 🌸");
        run(command.env("SKYLARK_VERIFICATION_TOKEN", TOKEN), "")
    };
    assert_eq!(from_environment(&["app", "add", "--help"]).code, 0);
    assert_eq!(from_environment(&["app", "add", "--name", "x"]).code, 1);
    let added = from_environment(&["app", "add", "--app-id", "cli_env", "--name", "x", "--json"]).json();
    assert_eq!(added["created_by"], "安 🌸");
    let renamed = from_environment(&["app", "update", "cli_env", "--verification-token", "t", "--json"]).json();
    assert_eq!(renamed["version"], 2);
    let masks = world.skylark(&["app", "show", "cli_env", "--json"]).json()["secrets"].clone();
    assert_eq!(masks, json!({ "app_secret": "cana****", "encrypt_key": "cana****", "verification_token": "****" }));
    world.no_canary_in_the_logs();

    let folder = tempfile::tempdir().unwrap();
    let none = skylark_on(folder.path(), &["app", "list"], "");
    assert_eq!(none.code, 1);
    assert!(none.err.contains("skylark local"), "{none:?}");
    // A bundle that is there by its file, and does not answer.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut settings = world.bundle.settings.clone();
    settings["pid"] = json!(std::process::id());
    settings["aws_endpoint"] = json!(format!("http://{closed}"));
    std::fs::write(folder.path().join("local.json"), settings.to_string()).unwrap();
    let silent = skylark_on(folder.path(), &["app", "list"], "");
    assert_eq!(silent.code, 2, "{silent:?}");
    std::fs::write(folder.path().join("local.json"), "{").unwrap();
    assert_eq!(skylark_on(folder.path(), &["app", "list"], "").code, 2);
}

/// A CloudFormation that gives one answer to each request, in this order.
fn cloud_formation(answers: Vec<(u16, String)>) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).unwrap() > 2 {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            reader.read_exact(&mut vec![0; length]).unwrap();
            let head = format!("HTTP/1.1 {status} x\r\ncontent-type: text/xml\r\nconnection: close");
            write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    (url, serving)
}

#[tokio::test]
async fn a_deployed_stack_is_found_by_its_outputs_and_managed_the_same_way() {
    let world = World::new();
    world.add("cli_a", &[]);
    world.console("cli_a", json!({})).await;
    let setting = |pointer: &str| world.bundle.setting(pointer);
    let outputs = [
        ("LarkTable", setting("/tables/LarkTable")),
        ("AuthTable", setting("/tables/AuthTable")),
        ("LakeTable", setting("/tables/LakeTable")),
        ("ChatTable", setting("/tables/ChatTable")),
        ("LarkWorkQueue", setting("/queues/LarkWorkQueue")),
        ("VaultKey", setting("/vault_key")),
        ("HttpApiUrl", setting("/http")),
    ];
    let described = |outputs: &[(&str, &str)]| {
        let member = |(name, value): &(&str, &str)| {
            format!("<member><OutputKey>{name}</OutputKey><OutputValue>{value}</OutputValue></member>")
        };
        let outputs: String = outputs.iter().map(member).collect();
        let body = format!(
            "<DescribeStacksResponse xmlns=\"http://cloudformation.amazonaws.com/doc/2010-05-15/\"><DescribeStacksResult><Stacks><member>\
             <StackName>prod</StackName><CreationTime>2026-01-01T00:00:00Z</CreationTime><StackStatus>CREATE_COMPLETE</StackStatus>\
             <Parameters><member><ParameterKey>PublicUrl</ParameterKey><ParameterValue></ParameterValue></member><member>\
             <ParameterKey>LarkBaseUrl</ParameterKey><ParameterValue>{}</ParameterValue></member></Parameters>\
             <Outputs>{outputs}</Outputs></member></Stacks></DescribeStacksResult></DescribeStacksResponse>",
            setting("/lark/sandbox")
        );
        (200, body)
    };
    let denied = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>not yours</Message></Error></ErrorResponse>";
    let answers = vec![described(&outputs), described(&outputs), described(&outputs[1..]), (403, denied.to_owned())];
    let (url, serving) = cloud_formation(answers);
    let on_stack = |arguments: &[&str]| {
        let mut command = Command::new(binaries().join("skylark"));
        command.args(arguments).args(["--stack", "prod"]).env("SKYLARK_APP_ID", "cli_a");
        command.env("AWS_ENDPOINT_URL_CLOUDFORMATION", &url).env("AWS_ENDPOINT_URL", setting("/aws_endpoint"));
        command.env("AWS_REGION", setting("/region")).env("AWS_ACCESS_KEY_ID", setting("/access_key_id"));
        run(command.env("AWS_SECRET_ACCESS_KEY", setting("/secret_access_key")), "")
    };
    let checked = on_stack(&["app", "check", "--json"]).json();
    assert_eq!((&checked["app_id"], &checked["passed"]), (&json!("cli_a"), &json!(true)), "{checked}");
    let listed = on_stack(&["app", "list", "--json"]).json();
    assert_eq!(listed, world.skylark(&["app", "list", "--json"]).json());
    let foreign = on_stack(&["app", "list"]);
    assert_eq!(foreign.code, 1);
    assert!(foreign.err.contains("stack `prod` has no output `LarkTable`"), "{foreign:?}");
    let forbidden = on_stack(&["app", "list"]);
    assert_eq!(forbidden.code, 3, "{forbidden:?}");
    serving.join().unwrap();
}
