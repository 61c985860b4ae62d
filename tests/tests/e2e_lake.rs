//! The lake through a local bundle: whatever is posted is a row, a repetition or kept aside with a reason, once, whoever dies when.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "what does not run ends the test; figures are printed")]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use arrow_array::StringArray;
use arrow_array::cast::AsArray as _;
use domain::lake::compaction::SMALL_FILES;
use domain::lake::{Intake, Kind};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::{self, StreamExt as _};
use lake::{DataFile, Lake};
use lake_sample::{Event, FIRST_LAKE, Plan, What};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use skylark_tests::bundle::{Bundle, aws, binaries, sqs, until, waiting, workspace};
use skylark_tests::chat::Person;
use skylark_tests::lake::lake;

/// What a killed worker held is handed out again after the queue's visibility timeout; then it has to be appended.
const PATIENCE: Duration = Duration::from_secs(500);

/// How many posts are under way at once.
const POSTS: usize = 16;

/// When the first event was said: three days ago, so that none is from the future.
fn from() -> i64 {
    lambda_kit::clock::now().unix_timestamp() - 3 * 86_400
}

fn client() -> Client {
    Client::builder().timeout(Duration::from_secs(60)).build().unwrap()
}

fn webhook(bundle: &Bundle) -> String {
    format!("{}/webhook/wechat", bundle.setting("/http"))
}

async fn post(
    bundle: &Bundle,
    client: &Client,
    body: Vec<u8>,
    headers: &[(&str, &str)],
) -> Result<Response, reqwest::Error> {
    let request = client.post(webhook(bundle)).header("x-webhook-key", bundle.setting("/webhook_key")).body(body);
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await
}

/// Posts all of them and tells, for each, whether it was acknowledged.
async fn post_all(bundle: &Bundle, events: &[Event]) -> Vec<bool> {
    let client = client();
    let posts = events.iter().map(|event| async {
        let answer = post(bundle, &client, event.body.clone(), &[("content-type", "application/json")]).await;
        answer.is_ok_and(|answer| answer.status() == 200)
    });
    stream::iter(posts).buffered(POSTS).collect().await
}

fn skylark(bundle: &Bundle, arguments: &[&str]) -> String {
    let (code, out, err) = bundle.skylark(arguments);
    assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    out
}

fn status(bundle: &Bundle) -> Value {
    serde_json::from_str(&skylark(bundle, &["lake", "status", "--json"])).unwrap()
}

/// Rows of messages, rows of contacts, and events kept aside.
fn counts(bundle: &Bundle) -> [u64; 3] {
    let status = status(bundle);
    ["/messages/rows", "/contacts/rows", "/quarantined"].map(|place| status.pointer(place).unwrap().as_u64().unwrap())
}

/// Waits until the lake holds this.
async fn settles(bundle: &Bundle, what: &str, is: impl Fn([u64; 3]) -> bool) -> [u64; 3] {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let counts = counts(bundle);
        if is(counts) {
            return counts;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}: {counts:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Waits until nothing waits on the lake's queue, and nothing is being worked on.
async fn drained(bundle: &Bundle) {
    let deadline = Instant::now() + PATIENCE;
    while let left @ 1.. = waiting(bundle, "LakeQueue").await {
        assert!(Instant::now() < deadline, "{left} messages are left");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A text column of a table, row by row.
async fn column(bundle: &Bundle, kind: Kind, name: &str) -> Vec<String> {
    let lake = lake(bundle);
    let files = lake.files(kind, |_| true).await.unwrap();
    rows(&lake, kind, &files, &[name]).await.into_iter().flatten().collect()
}

/// Text columns of some files, row by row.
async fn rows(lake: &Lake, kind: Kind, files: &[DataFile], names: &[&str]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for file in files {
        let bytes = lake.read_file(kind, &file.path).await.unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let columns: Vec<_> =
                names.iter().map(|name| batch.column_by_name(name).unwrap().as_string::<i32>()).collect();
            let text = |column: &StringArray, row| column.iter().nth(row).flatten().unwrap_or_default().to_owned();
            rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|column| text(column, row)).collect()));
        }
    }
    rows
}

/// What must come of some events.
#[derive(Debug, Default)]
struct Expected {
    messages: BTreeSet<String>,
    usernames: BTreeSet<String>,
    contacts: u64,
    malformed: u64,
    bytes: u64,
}

impl Expected {
    fn of<'a>(events: impl Iterator<Item = &'a Event>) -> Self {
        let mut expected = Self::default();
        for event in events {
            expected.bytes += event.body.len() as u64;
            match &event.what {
                What::Message { msg_id, .. } | What::Repetition { msg_id } => {
                    expected.messages.insert(msg_id.clone());
                }
                What::Contact { username } => {
                    expected.usernames.insert(username.clone());
                    expected.contacts += 1;
                }
                What::Malformed => expected.malformed += 1,
            }
        }
        expected
    }

    /// Of contacts that came in one batch only the last is a row.
    fn is(&self, [messages, contacts, quarantined]: [u64; 3]) -> bool {
        messages == self.messages.len() as u64
            && (self.usernames.len() as u64..=self.contacts).contains(&contacts)
            && quarantined == self.malformed
    }
}

async fn first_lake(events: u64) {
    let plan = Plan { events, ..Plan::first_lake(7, from()) };
    let events: Vec<Event> = plan.events().collect();
    let expected = Expected::of(events.iter());
    let bundle = Bundle::start();
    let begun = Instant::now();
    assert!(post_all(&bundle, &events).await.iter().all(|acknowledged| *acknowledged));
    let posted = begun.elapsed();
    let counts = settles(&bundle, "every event to be accounted for", |counts| expected.is(counts)).await;
    let readable = begun.elapsed();

    let ids = column(&bundle, Kind::Messages, "msg_id").await;
    assert_eq!(ids.len(), expected.messages.len(), "no message is there twice");
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), expected.messages);
    let usernames: BTreeSet<_> = column(&bundle, Kind::Contacts, "username").await.into_iter().collect();
    assert_eq!(usernames, expected.usernames);

    let status = status(&bundle);
    let stored = ["/messages/bytes", "/contacts/bytes"].map(|place| status.pointer(place).unwrap().as_u64().unwrap());
    let stored: u64 = stored.iter().sum();
    println!(
        "{} events, {} bytes of JSON: posted in {:.1} s ({:.0}/s), readable {:.1} s after the first post; {} messages, {} contacts, {} quarantined; \
         {stored} bytes of Parquet, {:.0} % smaller",
        events.len(),
        expected.bytes,
        posted.as_secs_f64(),
        events.len() as f64 / posted.as_secs_f64(),
        readable.as_secs_f64(),
        counts[0],
        counts[1],
        counts[2],
        100.0 - 100.0 * stored as f64 / expected.bytes as f64
    );
    assert!(stored * 2 <= expected.bytes, "{stored} of {} bytes", expected.bytes);
}

#[tokio::test]
async fn every_event_of_a_day_is_in_the_lake_once_or_kept_aside_with_its_reason() {
    let events = lambda_kit::env::process("SKYLARK_FIRST_LAKE").map_or(2_000, |_| FIRST_LAKE);
    first_lake(events).await;
}

/// A message as WeChat's gateway sends it, changed a little.
fn message(msg_id: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut event = json!({"guid": "g-1", "notify_type": 1010, "data": {
        "from_username": "wxid_ann", "to_username": "wxid_me", "chatroom": "", "chatroom_sender": "", "msg_id": msg_id, "msg_type": 1,
        "create_time": from(), "is_chatroom_msg": 0, "content": "你好 👋", "desc": "", "source": "<msgsource />",
    }});
    change(&mut event);
    event.to_string().into_bytes()
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that nothing makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8 | 0x80
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[tokio::test]
async fn what_is_strange_is_kept_or_kept_aside_and_what_follows_goes_on() {
    let bundle = Bundle::start();
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("new-field", message("new-field", |event| event["data"]["mood"] = json!({"emoji": "🎉"}))),
        ("integer-source", message("integer-source", |event| event["data"]["source"] = 5.into())),
        ("text-type", message("text-type", |event| event["data"]["msg_type"] = "49".into())),
        ("megabyte", message("megabyte", |event| event["data"]["content"] = "长".repeat(330_000).into())),
        ("gzip", gzip(&message("gzip", |_| ()))),
        ("plain", message("plain", |_| ())),
    ];
    let year = |year: i64| move |event: &mut Value| event["data"]["create_time"] = ((year - 1970) * 31_556_952).into();
    let aside: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("not_utf8", b"\xff\xfe{}".to_vec()),
        ("not_utf8", noise(1024 * 1024)),
        ("packed", gzip(&message("cut", |_| ()))[..40].to_vec()),
        ("not_json", b"<xml>hello</xml>".to_vec()),
        ("bad_time", message("year-1", year(1))),
        ("bad_time", message("year-9999", year(9999))),
    ];
    let client = client();
    for (name, body) in rows.iter().chain(&aside) {
        let answer = post(&bundle, &client, body.clone(), &[("content-encoding", "gzip")]).await.unwrap();
        assert_eq!(answer.status(), 200, "{name}");
        let answer: Value = answer.json().await.unwrap();
        assert!(answer["status"] == "ok" && answer["request_id"].is_string(), "{answer}");
    }
    let expected = [rows.len() as u64, 0, aside.len() as u64];
    settles(&bundle, "strange events", |counts| counts == expected).await;
    let ids: BTreeSet<String> = column(&bundle, Kind::Messages, "msg_id").await.into_iter().collect();
    assert_eq!(ids, rows.iter().map(|(name, _)| (*name).to_owned()).collect());
    let extras = column(&bundle, Kind::Messages, "extras").await;
    assert!(extras.iter().any(|extras| extras.contains(r#""mood":{"emoji":"🎉"}"#)), "{extras:?}");

    let listed: Vec<Value> =
        serde_json::from_str(&skylark(&bundle, &["lake", "quarantine", "list", "--json"])).unwrap();
    let mut reasons: Vec<&str> = listed.iter().map(|one| one["reason"].as_str().unwrap()).collect();
    reasons.sort_unstable();
    let mut wanted: Vec<&str> = aside.iter().map(|(reason, _)| *reason).collect();
    wanted.sort_unstable();
    assert_eq!(reasons, wanted);
    let not_json = listed.iter().find(|one| one["reason"] == "not_json").unwrap()["key"].as_str().unwrap();
    assert_eq!(skylark(&bundle, &["lake", "quarantine", "show", not_json, "--body"]), "<xml>hello</xml>");

    // Sent again they are as bad as before, and still each is there once.
    skylark(&bundle, &["lake", "quarantine", "replay", "--all"]);
    drained(&bundle).await;
    assert_eq!(counts(&bundle), expected);
}

#[tokio::test]
async fn replays_of_a_message_a_raw_object_and_a_day_change_nothing() {
    let events: Vec<Event> = Plan { events: 300, ..Plan::first_lake(11, from()) }.events().collect();
    let expected = Expected::of(events.iter());
    let bundle = Bundle::start();
    assert!(post_all(&bundle, &events).await.iter().all(|acknowledged| *acknowledged));
    let before = settles(&bundle, "every event", |counts| expected.is(counts)).await;

    // Every event once more, as a queue hands out twice what was worked on too long.
    let lake = lake(&bundle);
    let raw = lake.list_objects("raw/v1/").await.unwrap();
    let mut intakes: Vec<Intake> = Vec::new();
    for object in &raw {
        let packed = lake.read_object(&object.key).await.unwrap().unwrap();
        let lines = zstd::decode_all(packed.as_ref()).unwrap();
        intakes.extend(
            lines
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(|line| serde_json::from_slice::<Intake>(line).unwrap()),
        );
    }
    let mut bodies: Vec<&[u8]> = intakes.iter().map(|intake| intake.body.as_slice()).collect();
    let mut sent: Vec<&[u8]> = events.iter().map(|event| event.body.as_slice()).collect();
    bodies.sort_unstable();
    sent.sort_unstable();
    assert!(bodies == sent, "the raw objects have every byte that came");

    let sqs = sqs(&bundle);
    for intake in &intakes {
        let send = sqs.send_message().queue_url(bundle.setting("/queues/LakeQueue"));
        send.message_body(intake.to_message().unwrap()).send().await.unwrap();
    }
    drained(&bundle).await;
    assert_eq!(counts(&bundle), before, "after every message came again");

    let days: BTreeSet<&str> = raw.iter().filter_map(|object| object.key.split(['=', '/']).nth(3)).collect();
    for day in days {
        skylark(&bundle, &["lake", "replay-raw", "--day", day]);
    }
    drained(&bundle).await;
    assert_eq!(counts(&bundle), before, "after whole days came again");
    assert_eq!(column(&bundle, Kind::Messages, "msg_id").await.len(), expected.messages.len());
}

/// The template with something else about resources: of each its name, a text and what takes its place, or that of the next one that has it.
fn template(folder: &Path, changes: &[(&str, &str, &str)]) -> PathBuf {
    let text = fs::read_to_string(workspace().join("template.yaml")).unwrap();
    let changed = changes.iter().fold(text, |text, (resource, from, to)| {
        let (before, of_it) = text.split_once(&format!("\n  {resource}:\n")).unwrap();
        assert!(of_it.contains(from), "{from}");
        format!("{before}\n  {resource}:\n{}", of_it.replacen(from, to, 1))
    });
    let file = folder.join("template.yaml");
    fs::write(&file, changed).unwrap();
    file
}

/// Nobody waits for more events, so that there are many small files soon.
const HASTY: [(&str, &str, &str); 2] = [
    ("LakeAppendFunction", "BatchSize: 1000", "BatchSize: 10"),
    ("LakeAppendFunction", "            MaximumBatchingWindowInSeconds: 10\n", ""),
];

#[tokio::test]
async fn small_files_become_one_while_readers_see_every_message_once() {
    let midnight = (from() / 86_400) * 86_400;
    let plan = Plan { seed: 17, events: 360, from: midnight, spread_secs: 3_600, mixed: false };
    let events: Vec<Event> = plan.events().collect();
    let expected = Expected::of(events.iter());
    let folder = tempfile::tempdir().unwrap();
    let template = template(folder.path(), &HASTY);
    let bundle = Bundle::start_template(tempfile::tempdir().unwrap(), &template, binaries());
    let lake = lake(&bundle);
    let (known, done) = (Cell::new(0), Cell::new(false));
    let appending = async {
        for some in events.chunks(20) {
            assert!(post_all(&bundle, some).await.iter().all(|acknowledged| *acknowledged));
            let wanted = known.get() + some.len() as u64;
            until("what was posted to be readable", || async {
                (lake.stats(Kind::Messages).await.unwrap().rows == wanted).then_some(())
            })
            .await;
            known.set(wanted);
        }
        let merged = until("small files to be merged", || async {
            let table = lake.stats(Kind::Messages).await.unwrap();
            (table.files > table.small_files && table.small_files < SMALL_FILES).then_some(table)
        })
        .await;
        done.set(true);
        merged
    };
    let reading = async {
        let mut reads = 0_u64;
        while !done.get() {
            let before = known.get();
            let ids = column(&bundle, Kind::Messages, "msg_id").await;
            assert!(ids.len() as u64 >= before, "{} of {before} messages", ids.len());
            assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "no message is there twice");
            reads += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        reads
    };
    let (merged, reads) = tokio::join!(appending, reading);
    println!(
        "{reads} reads; {} rows in {} files, {} of them small, at version {}",
        merged.rows, merged.files, merged.small_files, merged.version
    );
    assert_eq!((merged.rows, merged.days.len()), (expected.messages.len() as u64, 1));

    // The version before a merge and the one that it made say the same.
    let mut merges = 0;
    for version in 1..=merged.version {
        let at = async |version| lake.files_at(Kind::Messages, version).await.unwrap();
        let (before, after) = (at(version - 1).await, at(version).await);
        if after.len() < before.len() {
            let texts = async |files: &[DataFile]| {
                let names = ["msg_id", "content", "from_username", "source", "extras", "raw_object"];
                rows(&lake, Kind::Messages, files, &names).await.into_iter().collect::<BTreeSet<_>>()
            };
            assert_eq!(texts(&before).await, texts(&after).await, "version {version}");
            merges += 1;
        }
    }
    assert!(merges > 0);
    let ids: BTreeSet<String> = column(&bundle, Kind::Messages, "msg_id").await.into_iter().collect();
    assert_eq!(ids, expected.messages);
}

#[tokio::test]
async fn what_failed_to_the_end_comes_into_the_lake_with_one_command() {
    let events: Vec<Event> = Plan { events: 120, ..Plan::first_lake(19, from()) }.events().collect();
    let expected = Expected::of(events.iter());
    let folder = tempfile::tempdir().unwrap();
    // The function does not find its table, and an event is given up at once.
    let [patient, hasty] = [10, 1].map(|count| format!("!GetAtt LakeDeadLetters.Arn, maxReceiveCount: {count}"));
    let mistake = [
        ("LakeAppendFunction", "LAKE_TABLE: !Ref LakeTable", "LAKE_TABLE: nowhere"),
        ("LakeQueue", patient.as_str(), hasty.as_str()),
    ];
    let template = template(folder.path(), &mistake);
    let bundle = Bundle::start_template(tempfile::tempdir().unwrap(), &template, binaries());
    assert!(post_all(&bundle, &events).await.iter().all(|acknowledged| *acknowledged));
    let held = |bundle: &Bundle| {
        let all: Value = serde_json::from_str(&skylark(bundle, &["dlq", "list", "--json"])).unwrap();
        let letters = all.as_array().unwrap().iter().find(|one| one["name"] == "LakeDeadLetters").unwrap();
        letters["messages"].as_u64().unwrap()
    };
    let all = events.len() as u64;
    until("every event to be a dead letter", || async { (held(&bundle) == all).then_some(()) }).await;
    assert_eq!(counts(&bundle), [0, 0, 0]);

    let bundle = Bundle::start_on(bundle.kill());
    let redriven: Value =
        serde_json::from_str(&skylark(&bundle, &["dlq", "redrive", "LakeDeadLetters", "--force", "--json"])).unwrap();
    assert_eq!(redriven["redriven"], all);
    let before = settles(&bundle, "every event", |counts| expected.is(counts)).await;
    drained(&bundle).await;
    assert_eq!((counts(&bundle), held(&bundle)), (before, 0));
    assert_eq!(column(&bundle, Kind::Messages, "msg_id").await.len(), expected.messages.len());
}

#[tokio::test]
async fn what_the_stream_gave_up_comes_into_the_lake_with_one_command() {
    let folder = tempfile::tempdir().unwrap();
    // The relay does not find the lake's queue, and a change is given up at once.
    let patient = "            MaximumRetryAttempts: 5\n";
    let mistake = [
        ("OutboxRelayFunction", "LAKE_QUEUE_URL: !Ref LakeQueue", "LAKE_QUEUE_URL: nowhere"),
        ("OutboxRelayFunction", patient, "            MaximumRetryAttempts: 0\n"),
        ("OutboxRelayFunction", patient, "            MaximumRetryAttempts: 0\n"),
    ];
    let template = template(folder.path(), &mistake);
    let bundle = Bundle::start_template(tempfile::tempdir().unwrap(), &template, binaries());
    let ann = Person::join(&bundle, "ann").await;
    let conversation = ann.converse(&["bob"]).await;
    let texts: BTreeSet<String> = (1..=12).map(|number| format!("第 {number} 条 🎉")).collect();
    for text in &texts {
        ann.say(&conversation, text).await;
    }
    // Those of one invocation lie together.
    let kept = until("every message to be given up", || async {
        let kept = evidence(&bundle).await;
        let has = |text: &String| kept.values().any(|object| String::from_utf8_lossy(object).contains(text.as_str()));
        texts.iter().all(has).then_some(kept)
    })
    .await;
    assert_eq!(counts(&bundle), [0, 0, 0]);

    let bundle = Bundle::start_on(bundle.kill());
    let redrive = || {
        let out = skylark(&bundle, &["dlq", "redrive", "EvidenceBucket", "--force", "--json"]);
        serde_json::from_str::<Value>(&out).unwrap()["redriven"].as_u64().unwrap()
    };
    assert_eq!(redrive(), kept.len() as u64);
    let expected = [texts.len() as u64, 0, 0];
    settles(&bundle, "every message", |counts| counts == expected).await;
    assert!(evidence(&bundle).await.is_empty());

    // Once more, as by a command that was killed before it deleted anything.
    for (key, object) in &kept {
        let put = s3(&bundle).put_object().bucket(bundle.setting("/buckets/EvidenceBucket")).key(key);
        put.body(object.clone().into()).send().await.unwrap();
    }
    assert_eq!(redrive(), kept.len() as u64);
    drained(&bundle).await;
    assert_eq!(counts(&bundle), expected);
    let stored: BTreeSet<String> = column(&bundle, Kind::Messages, "content").await.into_iter().collect();
    assert_eq!(stored, texts);
}

fn s3(bundle: &Bundle) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::config::Builder::from(&aws(bundle)).force_path_style(true).build();
    aws_sdk_s3::Client::from_conf(config)
}

/// What the streams gave up, by its key.
async fn evidence(bundle: &Bundle) -> BTreeMap<String, Vec<u8>> {
    let (s3, bucket) = (s3(bundle), bundle.setting("/buckets/EvidenceBucket"));
    let listed = s3.list_objects_v2().bucket(bucket).send().await.unwrap();
    let mut found = BTreeMap::new();
    for key in listed.contents().iter().filter_map(|object| object.key()) {
        let object = s3.get_object().bucket(bucket).key(key).send().await.unwrap();
        found.insert(key.to_owned(), object.body.collect().await.unwrap().to_vec());
    }
    found
}

/// Processes that carry out a function of the bundle.
fn workers(bundle: &Bundle, function: &str) -> Vec<Pid> {
    let of = |pid: &str, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let ours = all.filter(|pid| {
        let parent = of(pid, "stat").rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        let program = of(pid, "cmdline");
        parent == Some(bundle.process_id().as_raw())
            && program.split('\0').next().is_some_and(|it| it.ends_with(function))
    });
    ours.filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

/// How many messages of a queue are being worked on.
async fn in_work(bundle: &Bundle, queue: &str) -> u64 {
    let name = aws_sdk_sqs::types::QueueAttributeName::ApproximateNumberOfMessagesNotVisible;
    let request = sqs(bundle).get_queue_attributes().queue_url(bundle.setting(&format!("/queues/{queue}")));
    let answer = request.attribute_names(name.clone()).send().await.unwrap();
    answer.attributes.unwrap().get(&name).unwrap().parse().unwrap()
}

/// Kills whoever carries out a function a moment after there is work in hand.
async fn kill_in_work(bundle: &Bundle, (function, queue): (&str, &str), after: Duration) {
    until("work to be in hand", || async { (in_work(bundle, queue).await > 0).then_some(()) }).await;
    tokio::time::sleep(after).await;
    for worker in workers(bundle, function) {
        // One that has ended meanwhile is as dead.
        let _ = kill(worker, Signal::SIGKILL);
    }
}

/// How often a function was killed in the middle of an invocation.
fn deaths(bundle: &Bundle, resource: &str) -> usize {
    let log = fs::read_to_string(bundle.folder().join(format!("logs/skylark-{resource}.log"))).unwrap();
    log.matches("signal: killed").count()
}

#[tokio::test]
async fn whoever_is_killed_in_the_middle_readers_see_every_row_once() {
    let midnight = (from() / 86_400) * 86_400;
    let plan = |seed, events, from| Plan { seed, events, from, spread_secs: 3_600, mixed: false };
    // More than one batch.
    let imported: Vec<Event> = plan(31, 60_000, midnight).events().collect();
    let posted: Vec<Event> = plan(37, 400, midnight - 86_400).events().collect();
    let expected = Expected::of(imported.iter().chain(&posted));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("archive.jsonl");
    let lines: Vec<&[u8]> = imported.iter().map(|event| event.body.as_slice()).collect();
    fs::write(&file, lines.join(&b'\n')).unwrap();

    // What a killed worker held is soon handed out again.
    let soon = [
        HASTY[0],
        HASTY[1],
        ("LakeAppendFunction", "Timeout: 60", "Timeout: 10"),
        ("LakeCompactFunction", "Timeout: 300", "Timeout: 15"),
        ("LakeQueue", "VisibilityTimeout: 360", "VisibilityTimeout: 10"),
        ("CompactQueue", "VisibilityTimeout: 1800", "VisibilityTimeout: 15"),
    ];
    let template = template(folder.path(), &soon);
    let bundle = Bundle::start_template(tempfile::tempdir().unwrap(), &template, binaries());
    let lake = lake(&bundle);
    let (append, compact) = (("lake-append", "LakeQueue"), ("lake-compact", "CompactQueue"));
    let done = Cell::new(false);

    let dying = async {
        let mut import = Command::new(binaries().join("skylark"));
        import.args(["lake", "import"]).arg(&file).arg("--data").arg(bundle.folder());
        let mut import = import.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until("the first batch to be there", || async {
            (lake.stats(Kind::Messages).await.unwrap().rows > 0).then_some(())
        })
        .await;
        import.kill().unwrap();
        assert!(!import.wait().unwrap().success(), "it was in the middle");
        let half = lake.stats(Kind::Messages).await.unwrap().rows;
        skylark(&bundle, &["lake", "import", file.to_str().unwrap()]);
        let whole = lake.stats(Kind::Messages).await.unwrap().rows;
        assert!(half < whole && whole == imported.len() as u64, "{half} {whole}");

        let killing = async {
            for after in [10, 40, 90] {
                kill_in_work(&bundle, append, Duration::from_millis(after)).await;
            }
        };
        tokio::join!(killing, async {
            assert!(post_all(&bundle, &posted).await.iter().all(|acknowledged| *acknowledged));
        });
        settles(&bundle, "what was posted", |counts| counts[0] == expected.messages.len() as u64).await;
        drained(&bundle).await;

        // The import's files are few.
        skylark(&bundle, &["lake", "compact"]);
        for after in [50, 400] {
            kill_in_work(&bundle, compact, Duration::from_millis(after)).await;
        }
        let table = until("each day to be one file", || async {
            let table = lake.stats(Kind::Messages).await.unwrap();
            table.days.iter().all(|day| day.open_files == 1).then_some(table)
        })
        .await;
        done.set(true);
        table
    };
    let reading = async {
        let (mut reads, mut seen) = (0_u64, BTreeSet::new());
        while !done.get() {
            let ids = column(&bundle, Kind::Messages, "msg_id").await;
            let now: BTreeSet<String> = ids.iter().cloned().collect();
            assert_eq!(now.len(), ids.len(), "a message is there twice");
            assert!(now.is_superset(&seen), "a message was there and is not");
            (reads, seen) = (reads + 1, now);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        reads
    };
    let (table, reads) = tokio::join!(dying, reading);
    let kills = ["LakeAppendFunction", "LakeCompactFunction"].map(|resource| deaths(&bundle, resource));
    println!(
        "{} rows in {} files at version {}; killed in the middle of their work: 1 import, {} of appending, {} of merging; {reads} reads",
        table.rows, table.files, table.version, kills[0], kills[1]
    );
    assert!(kills[0] > 0 && kills[1] > 0);
    let ids = column(&bundle, Kind::Messages, "msg_id").await;
    assert_eq!(ids.len(), expected.messages.len());
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), expected.messages);
}

#[tokio::test]
async fn a_bundle_that_is_killed_loses_nothing_that_it_acknowledged_and_doubles_nothing() {
    let events: Vec<Event> = Plan { events: 1_200, ..Plan::first_lake(13, from()) }.events().collect();
    let (first, second) = events.split_at(800);
    let mut bundle = Bundle::start();
    let mut acknowledged = post_all(&bundle, first).await;
    // The first batch is on its way into the tables.
    until("something to be appended", || async { (counts(&bundle)[0] > 0).then_some(()) }).await;
    let (cut, ()) = tokio::join!(post_all(&bundle, &second[..200]), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        kill(bundle.process_id(), Signal::SIGKILL).unwrap();
    });
    acknowledged.extend(cut);
    bundle = Bundle::start_on(bundle.kill());
    acknowledged.extend(post_all(&bundle, &second[200..]).await);
    drained(&bundle).await;

    let ids = column(&bundle, Kind::Messages, "msg_id").await;
    println!(
        "{} of {} events acknowledged; {} messages",
        acknowledged.iter().filter(|acknowledged| **acknowledged).count(),
        events.len(),
        ids.len()
    );
    let stored: BTreeSet<&String> = ids.iter().collect();
    assert_eq!(stored.len(), ids.len(), "a message is there twice");
    let safe = Expected::of(
        events.iter().zip(&acknowledged).filter(|(_, acknowledged)| **acknowledged).map(|(event, _)| event),
    );
    let lost: Vec<&String> = safe.messages.iter().filter(|id| !stored.contains(id)).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged messages are lost: {lost:?}", lost.len(), safe.messages.len());
    let sent = Expected::of(events.iter());
    assert!(ids.iter().all(|id| sent.messages.contains(id)), "a message that nobody sent");
    let [_, contacts, quarantined] = counts(&bundle);
    assert!((safe.usernames.len() as u64..=sent.contacts).contains(&contacts));
    assert!((safe.malformed..=sent.malformed).contains(&quarantined), "{quarantined}");
}

#[tokio::test]
async fn keys_open_a_source_and_nothing_else_does() {
    let bundle = Bundle::start();
    let client = client();
    let status = async |source: &str, key: &str, bytes: usize| {
        let url = format!("{}/webhook/{source}?key={key}", bundle.setting("/http"));
        client.post(url).body(vec![b'x'; bytes]).send().await.unwrap().status().as_u16()
    };
    let first = bundle.setting("/webhook_key").to_owned();
    assert_eq!(status("wechat", &first, 10).await, 200);
    assert_eq!(status("wechat", "wrong", 10).await, 401);
    assert_eq!(status("nobody", &first, 10).await, 401);
    assert_eq!(status("wechat", &first, 1024 * 1024 + 1).await, 413);

    let rotated: Value =
        serde_json::from_str(&skylark(&bundle, &["webhook-key", "rotate", "wechat", "--json"])).unwrap();
    let second = rotated["key"].as_str().unwrap().to_owned();
    until("the second key to open", || async { (status("wechat", &second, 10).await == 200).then_some(()) }).await;
    assert_eq!(status("wechat", &first, 10).await, 200, "both open while rotating");
    let listed: Value = serde_json::from_str(&skylark(&bundle, &["webhook-key", "list", "--json"])).unwrap();
    let keys = listed[0]["keys"].as_array().unwrap();
    assert!(keys.len() == 2 && !listed.to_string().contains(&first) && !listed.to_string().contains(&second));
    let old = keys.iter().find(|key| key["key_id"] != rotated["key_id"]).unwrap()["key_id"].as_str().unwrap();
    skylark(&bundle, &["webhook-key", "revoke", "wechat", old]);
    until("the first key to be forgotten", || async { (status("wechat", &first, 10).await == 401).then_some(()) })
        .await;
    assert_eq!(status("wechat", &second, 10).await, 200);
}

#[tokio::test]
async fn a_second_source_is_an_entry_and_a_mapping() {
    let bundle = Bundle::start();
    let added = skylark(
        &bundle,
        &[
            "webhook-key",
            "add",
            "dingtalk",
            "--json",
            "--field",
            "msg_id=/msgId",
            "--field",
            "create_time=/createAt",
            "--field",
            "content=/text/content",
            "--field",
            "from_username=/senderId",
        ],
    );
    let added: Value = serde_json::from_str(&added).unwrap();
    let event = json!({"msgId": "ding-1", "createAt": from(), "text": {"content": "下午三点开会"}, "senderId": "u-1", "robotCode": "r"});
    let url = format!("{}?key={}", added["url"].as_str().unwrap(), added["key"].as_str().unwrap());
    assert_eq!(client().post(url).body(event.to_string()).send().await.unwrap().status(), 200);
    settles(&bundle, "the second source's message", |counts| counts == [1, 0, 0]).await;
    let row: BTreeMap<&str, String> =
        futures_util::future::join_all(["msg_id", "source", "content", "from_username", "extras"].map(|name| {
            let bundle = &bundle;
            async move { (name, column(bundle, Kind::Messages, name).await.remove(0)) }
        }))
        .await
        .into_iter()
        .collect();
    assert_eq!(
        (row["msg_id"].as_str(), row["source"].as_str(), row["content"].as_str()),
        ("ding-1", "dingtalk", "下午三点开会")
    );
    assert!(row["from_username"] == "u-1" && row["extras"].contains("robotCode"), "{row:?}");
}

/// What Lark pushes to the bundle's own app, encrypted and signed.
async fn push(bundle: &Bundle, event_id: &str, message_id: &str, said: &str) {
    let (app_id, key) = (bundle.setting("/lark/app_id"), bundle.setting("/lark/encrypt_key"));
    let at = (from() * 1_000).to_string();
    let event = json!({
        "schema": "2.0",
        "header": { "event_id": event_id, "event_type": "im.message.receive_v1", "create_time": at, "app_id": app_id, "tenant_key": "t1",
                    "token": bundle.setting("/lark/verification_token") },
        "event": {
            "sender": { "sender_id": { "open_id": "ou_ann" }, "sender_type": "user", "tenant_key": "t1" },
            "message": { "message_id": message_id, "create_time": at, "chat_id": "oc_1", "chat_type": "group", "message_type": "text",
                         "content": json!({ "text": said }).to_string() },
        },
    });
    let body = json!({ "encrypt": lark::signature::encrypt(key, [7; 16], event.to_string().as_bytes()) }).to_string();
    let (timestamp, nonce) = ("1700000000", "nonce");
    let signature = lark::signature::sha256_hex(timestamp, nonce, key, body.as_bytes());
    let request = client().post(format!("{}/lark/{app_id}/callback", bundle.setting("/http"))).body(body);
    let request = request.header("content-type", "application/json").header("x-lark-request-timestamp", timestamp);
    let answer =
        request.header("x-lark-request-nonce", nonce).header("x-lark-signature", signature).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
}

#[tokio::test]
async fn events_of_lark_and_messages_of_conversations_come_by_themselves() {
    let bundle = Bundle::start();
    for _ in 0..2 {
        push(&bundle, "ev-1", "om_1", "早上好 ☀️").await;
    }
    let http = client();
    let ask = async |path: &str, token: &str, body: Value| -> Value {
        let request = http.post(format!("{}{path}", bundle.setting("/http"))).json(&body);
        let request = if token.is_empty() { request } else { request.bearer_auth(token) };
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
        answer.json().await.unwrap()
    };
    let (id, secret) = (bundle.setting("/clients/0/client_id"), bundle.setting("/clients/0/client_secret"));
    let login = json!({ "grant_type": "client_credentials", "client_id": id, "client_secret": secret });
    let token = ask("/auth/token", "", login).await["access_token"].as_str().unwrap().to_owned();
    let conversation = ask("/v1/conversations", &token, json!({ "type": "private", "members": ["ann", "bob"] })).await;
    let conversation_id = conversation["conversation_id"].as_str().unwrap();
    let message_id = "00000000-0000-4000-8000-000000000001";
    let payload = json!({ "type": "text", "text": "下午见 🎉" });
    let said = json!({ "message_id": message_id, "conversation_id": conversation_id, "payload": payload });
    for _ in 0..2 {
        ask("/v1/messages", &token, said.clone()).await;
    }

    settles(&bundle, "one message of each", |counts| counts == [2, 0, 0]).await;
    drained(&bundle).await;
    assert_eq!(counts(&bundle), [2, 0, 0]);
    let mut rows = Vec::new();
    for name in ["source", "msg_id", "content", "chatroom", "from_username"] {
        rows.push(column(&bundle, Kind::Messages, name).await);
    }
    let mut rows: Vec<Vec<&str>> = (0..2).map(|row| rows.iter().map(|column| column[row].as_str()).collect()).collect();
    rows.sort_unstable();
    let chat = vec!["chat", message_id, "下午见 🎉", conversation_id, "ann"];
    assert_eq!(rows, [chat, vec!["lark", "om_1", "早上好 ☀️", "oc_1", "ou_ann"]]);
}
