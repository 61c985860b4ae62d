//! The rules of DynamoDB stream mappings, on a real database and a real checkpoint file.
#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dynoxide::Database;
use local_lambda::{InvokeError, Invoker};
use local_mapping::stream::{
    Checkpoints, DestinationError, Destinations, Pace, StartingPosition, StreamError, StreamMapping, StreamPoller,
    index_records,
};
use local_mapping::{Backoff, Counters, Shutdown, Stop};
use local_queue::pattern::Pattern;
use serde_json::{Value, json};
use support::{Answer, Script, eventually, failed_items, function_error, ok, records, within};
use tempfile::TempDir;
use tokio::sync::Barrier;
use tokio::task::JoinHandle;

const STREAM: &str = "arn:aws:dynamodb:eu-west-1:123456789012:table/Chat/stream/2026-01-01T00:00:00.000";

/// A data folder with a table whose stream is enabled.
struct Folder {
    dir: TempDir,
    database: Database,
    kept: Arc<Kept>,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dynamodb.db");
        let database = Database::new(file.to_str().unwrap()).unwrap();
        index_records(&file).unwrap();
        Self::with(dir, database)
    }

    fn with(dir: TempDir, database: Database) -> Self {
        let table = json!({
            "TableName": "Chat",
            "AttributeDefinitions": [
                {"AttributeName": "pk", "AttributeType": "S"},
                {"AttributeName": "sk", "AttributeType": "S"}
            ],
            "KeySchema": [
                {"AttributeName": "pk", "KeyType": "HASH"},
                {"AttributeName": "sk", "KeyType": "RANGE"}
            ],
            "BillingMode": "PAY_PER_REQUEST",
            "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"}
        });
        database.create_table(serde_json::from_value(table).unwrap()).unwrap();
        Self { dir, database, kept: Arc::default() }
    }

    fn put(&self, pk: &str, sk: &str) {
        self.put_item(json!({"pk": {"S": pk}, "sk": {"S": sk}}));
    }

    fn put_item(&self, item: Value) {
        self.database.put_item(serde_json::from_value(json!({"TableName": "Chat", "Item": item})).unwrap()).unwrap();
    }

    fn checkpoints(&self) -> Checkpoints {
        Checkpoints::open(&self.dir.path().join("checkpoints.db")).unwrap()
    }

    /// The sequence number in the checkpoint file, as another process would see it.
    fn checkpoint(&self) -> Option<String> {
        saved(&self.dir.path().join("checkpoints.db"))
    }

    fn create(&self, mapping: StreamMapping, invoker: Arc<dyn Invoker>) -> StreamPoller {
        let kept: Arc<dyn Destinations> = self.kept.clone();
        let backoff = Backoff { first: Duration::from_millis(1), max: Duration::from_millis(4) };
        StreamPoller::create(mapping, self.database.clone(), self.checkpoints(), invoker, kept)
            .unwrap()
            .with_pace(Pace { poll: Duration::from_millis(5), backoff })
    }

    fn start(&self, mapping: StreamMapping, invoker: Arc<dyn Invoker>) -> Running {
        let poller = self.create(mapping, invoker);
        let counters = poller.counters();
        let (stop, shutdown) = Shutdown::channel();
        Running { counters, stop, task: tokio::spawn(poller.run(shutdown)) }
    }
}

fn saved(path: &Path) -> Option<String> {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.query_row("SELECT sequence_number FROM checkpoints", [], |row| row.get(0)).ok()
}

struct Running {
    counters: Arc<Counters>,
    stop: Stop,
    task: JoinHandle<()>,
}

impl Running {
    async fn stop(self) {
        self.stop.stop();
        within(self.task).await.unwrap();
    }
}

/// Keeps what destinations get; refuses as often as told.
#[derive(Default)]
struct Kept {
    refusals: AtomicUsize,
    objects: Mutex<Vec<(String, String, Value)>>,
    messages: Mutex<Vec<(String, Value)>>,
}

impl Kept {
    fn refuse(&self, destination: &str) -> Result<(), DestinationError> {
        let refused = self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match refused {
            Ok(_) => Err(DestinationError { destination: destination.into(), source: "no space".into() }),
            Err(_) => Ok(()),
        }
    }

    fn objects(&self) -> Vec<(String, String, Value)> {
        self.objects.lock().unwrap().clone()
    }

    fn messages(&self) -> Vec<(String, Value)> {
        self.messages.lock().unwrap().clone()
    }
}

#[async_trait]
impl Destinations for Kept {
    async fn put_object(&self, bucket: &str, key: &str, body: Bytes) -> Result<(), DestinationError> {
        self.refuse(bucket)?;
        let body = serde_json::from_slice(&body).unwrap();
        self.objects.lock().unwrap().push((bucket.into(), key.into(), body));
        Ok(())
    }

    async fn send_message(&self, queue_arn: &str, body: String) -> Result<(), DestinationError> {
        self.refuse(queue_arn)?;
        self.messages.lock().unwrap().push((queue_arn.into(), serde_json::from_str(&body).unwrap()));
        Ok(())
    }
}

fn mapping() -> StreamMapping {
    StreamMapping {
        function: "outbox-relay".into(),
        table: "Chat".into(),
        stream_arn: STREAM.into(),
        batch_size: 100,
        batching_window: Duration::ZERO,
        starting_position: StartingPosition::TrimHorizon,
        parallelization_factor: 1,
        bisect: false,
        retries: None,
        max_age: None,
        report_batch_item_failures: true,
        on_failure: None,
        filters: Vec::new(),
        enabled: true,
    }
}

fn sk(record: &Value) -> String {
    record["dynamodb"]["Keys"]["sk"]["S"].as_str().unwrap().to_owned()
}

fn sequence(record: &Value) -> &str {
    record["dynamodb"]["SequenceNumber"].as_str().unwrap()
}

/// Names the records whose sort key is among `keys`.
fn fail(event: &Value, keys: &[&str]) -> Answer {
    failed_items(records(event).iter().filter(|record| keys.contains(&sk(record).as_str())).map(sequence))
}

#[tokio::test]
async fn records_have_the_shape_lambda_gives_them() {
    let folder = Folder::new();
    folder.put_item(json!({"pk": {"S": "群聊"}, "sk": {"S": "1"}, "text": {"S": "你好 👋"}, "n": {"N": "1"}}));
    folder.put_item(json!({"pk": {"S": "群聊"}, "sk": {"S": "1"}, "text": {"S": "再见"}, "b": {"B": "AAE="}}));
    let delete = json!({"TableName": "Chat", "Key": {"pk": {"S": "群聊"}, "sk": {"S": "1"}}});
    folder.database.delete_item(serde_json::from_value(delete).unwrap()).unwrap();
    let script = Script::new(|_, _| ok());
    let running = folder.start(mapping(), script.clone());
    script.calls(1).await;
    running.stop().await;

    let events = script.events();
    let records = records(&events[0]);
    assert_eq!(records.len(), 3);
    for (record, name) in records.iter().zip(["INSERT", "MODIFY", "REMOVE"]) {
        assert_eq!(record["eventName"], name);
        assert_eq!(record["eventVersion"], "1.1");
        assert_eq!(record["eventSource"], "aws:dynamodb");
        assert_eq!(record["awsRegion"], "eu-west-1");
        assert_eq!(record["eventSourceARN"], STREAM);
        assert!(record["eventID"].is_string());
        assert!(record.get("userIdentity").is_none());
        let change = &record["dynamodb"];
        assert_eq!(change["Keys"], json!({"pk": {"S": "群聊"}, "sk": {"S": "1"}}));
        assert_eq!(change["StreamViewType"], "NEW_AND_OLD_IMAGES");
        assert!(change["ApproximateCreationDateTime"].is_i64() && change["SizeBytes"].is_i64());
    }
    assert_eq!(records[0]["dynamodb"]["NewImage"]["text"]["S"], "你好 👋");
    assert!(records[0]["dynamodb"].get("OldImage").is_none());
    assert_eq!(records[1]["dynamodb"]["OldImage"]["text"]["S"], "你好 👋");
    assert_eq!(records[1]["dynamodb"]["NewImage"]["b"]["B"], "AAE=");
    assert!(records[2]["dynamodb"].get("NewImage").is_none());
    assert!(sequence(&records[0]) < sequence(&records[1]) && sequence(&records[1]) < sequence(&records[2]));
}

#[tokio::test]
async fn a_removal_by_time_to_live_names_its_author() {
    let folder = Folder::new();
    let ttl = json!({"TableName": "Chat", "TimeToLiveSpecification": {"AttributeName": "ttl", "Enabled": true}});
    folder.database.update_time_to_live(serde_json::from_value(ttl).unwrap()).unwrap();
    folder.put_item(json!({"pk": {"S": "a"}, "sk": {"S": "1"}, "ttl": {"N": "1700000000"}}));
    folder.database.sweep_ttl().unwrap();
    let script = Script::new(|_, _| ok());
    let running = folder.start(mapping(), script.clone());
    script.calls(1).await;
    running.stop().await;
    let events = script.events();
    let removal = &records(&events[0])[1];
    assert_eq!(removal["eventName"], "REMOVE");
    assert_eq!(removal["userIdentity"], json!({"type": "Service", "principalId": "dynamodb.amazonaws.com"}));
}

#[tokio::test]
async fn the_lowest_reported_sequence_number_is_the_checkpoint() {
    let folder = Folder::new();
    for sk in ["1", "2", "3", "4", "5"] {
        folder.put("a", sk);
    }
    let script = Script::new(|call, event| if call == 0 { fail(event, &["5", "3"]) } else { ok() });
    let running = folder.start(mapping(), script.clone());
    script.calls(2).await;
    let counters = Arc::clone(&running.counters);
    running.stop().await;
    assert_eq!(script.batches(sk), [vec!["1", "2", "3", "4", "5"], vec!["3", "4", "5"]]);
    let counts = counters.snapshot();
    assert_eq!((counts.batches, counts.records, counts.failures, counts.retries), (2, 5, 1, 1));
}

#[tokio::test]
async fn a_response_that_keeps_naming_the_same_item_consumes_the_retry_budget() {
    let folder = Folder::new();
    for sk in ["1", "2", "3"] {
        folder.put("a", sk);
    }
    let script = Script::new(|_, event| fail(event, &["2"]));
    let mapping = StreamMapping {
        retries: Some(2),
        on_failure: Some("arn:aws:sqs:eu-west-1:123456789012:parked".into()),
        ..mapping()
    };
    let running = folder.start(mapping, script.clone());
    script.calls(3).await;
    eventually(|| folder.kept.messages().len() == 1).await;
    folder.put("a", "4");
    script.calls(4).await;
    running.stop().await;
    assert_eq!(script.batches(sk), [vec!["1", "2", "3"], vec!["2", "3"], vec!["2", "3"], vec!["4"]]);

    let (queue, record) = folder.kept.messages().remove(0);
    assert_eq!(queue, "arn:aws:sqs:eu-west-1:123456789012:parked");
    assert_eq!(record["requestContext"]["condition"], "RetryAttemptsExhausted");
    assert_eq!(record["requestContext"]["approximateInvokeCount"], 3);
    let function = "arn:aws:lambda:eu-west-1:123456789012:function:outbox-relay";
    assert_eq!(record["requestContext"]["functionArn"], function);
    assert_eq!(record["responseContext"], json!({"statusCode": 200, "executedVersion": "$LATEST"}));
    assert_eq!(record["version"], "1.0");
    let info = &record["DDBStreamBatchInfo"];
    let events = script.events();
    assert_eq!(info["startSequenceNumber"], sequence(&records(&events[1])[0]));
    assert_eq!(info["endSequenceNumber"], sequence(&records(&events[1])[1]));
    assert_eq!(info["batchSize"], 2);
    assert_eq!(info["streamArn"], STREAM);
    assert_eq!(info["approximateArrivalOfFirstRecord"].as_str().unwrap().len(), "2026-01-01T00:00:00Z".len());
    assert_eq!(record["timestamp"].as_str().unwrap().len(), "2026-01-01T00:00:00.000Z".len());
    assert!(record.get("payload").is_none(), "a queue gets metadata only");
}

#[tokio::test]
async fn progress_of_the_first_failed_record_starts_a_new_budget() {
    let folder = Folder::new();
    for sk in ["1", "2", "3", "4"] {
        folder.put("a", sk);
    }
    // Each call gets one record further: three failures, never twice of the same record.
    let script = Script::new(|call, event| match call {
        0 => fail(event, &["2"]),
        1 => fail(event, &["3"]),
        2 => fail(event, &["4"]),
        _ => ok(),
    });
    let running = folder.start(StreamMapping { retries: Some(1), ..mapping() }, script.clone());
    script.calls(4).await;
    let counters = Arc::clone(&running.counters);
    running.stop().await;
    assert_eq!(counters.snapshot().discarded, 0);
    assert_eq!(counters.snapshot().records, 4);
}

#[tokio::test]
async fn a_failed_batch_is_retried_whole_and_given_up_whole() {
    let folder = Folder::new();
    folder.put("a", "1");
    folder.put("a", "2");
    let script = Script::new(|call, _| if call < 3 { function_error() } else { ok() });
    let bucket = Some("arn:aws:s3:::evidence".into());
    let mapping = StreamMapping { retries: Some(2), on_failure: bucket, ..mapping() };
    let uuid = {
        let running = folder.start(mapping, script.clone());
        eventually(|| folder.kept.objects().len() == 1).await;
        folder.put("a", "3");
        script.calls(4).await;
        running.stop().await;
        let connection = rusqlite::Connection::open(folder.dir.path().join("checkpoints.db")).unwrap();
        connection.query_row("SELECT uuid FROM mappings", [], |row| row.get::<_, String>(0)).unwrap()
    };
    assert_eq!(script.batches(sk), [vec!["1", "2"], vec!["1", "2"], vec!["1", "2"], vec!["3"]]);

    let (bucket, key, record) = folder.kept.objects().remove(0);
    assert_eq!(bucket, "evidence");
    let parts: Vec<_> = key.split('/').collect();
    let shard = record["DDBStreamBatchInfo"]["shardId"].as_str().unwrap();
    assert_eq!(parts[..4], ["aws", "lambda", uuid.as_str(), shard]);
    assert_eq!(parts.len(), 8);
    let day = parts[4..7].join("-");
    assert!(parts[7].starts_with(&format!("{day}T")), "{key}");
    assert_eq!(parts[7].len(), "2026-01-01T00.00.00-".len() + 36);
    assert_eq!(record["responseContext"]["functionError"], "Unhandled");
    let payload: Value = serde_json::from_str(record["payload"].as_str().unwrap()).unwrap();
    assert_eq!(payload, script.events()[0]);
}

#[tokio::test]
async fn bisecting_isolates_the_poison_record_and_costs_no_retries() {
    let queue = || Some("arn:aws:sqs:eu-west-1:123456789012:parked".into());
    for by_function_error in [true, false] {
        let folder = Folder::new();
        let keys: Vec<String> = (10..26).map(|sk| sk.to_string()).collect();
        for sk in &keys {
            folder.put("a", sk);
        }
        let script = Script::new(move |_, event| {
            let poisoned = records(event).iter().any(|record| sk(record) == "17");
            match (poisoned, by_function_error) {
                (false, _) => ok(),
                (true, true) => function_error(),
                (true, false) => fail(event, &["17"]),
            }
        });
        let mapping = StreamMapping { bisect: true, retries: Some(1), on_failure: queue(), ..mapping() };
        let running = folder.start(mapping, script.clone());
        let counters = Arc::clone(&running.counters);
        eventually(|| counters.snapshot().records == 15).await;
        running.stop().await;

        assert_eq!(counters.snapshot().discarded, 1);
        let info = folder.kept.messages().remove(0).1["DDBStreamBatchInfo"].clone();
        assert_eq!(info["batchSize"], 1);
        let batches = script.batches(sk);
        let alone = batches.iter().filter(|batch| **batch == ["17"]).count();
        assert_eq!(alone, 2, "one attempt and one retry: {batches:?}");
        let accepted: Vec<_> =
            batches.iter().filter(|batch| !batch.contains(&"17".to_owned())).flatten().cloned().collect();
        if by_function_error {
            assert_eq!(accepted, keys.iter().filter(|sk| *sk != "17").cloned().collect::<Vec<_>>(), "in order");
        }
    }
}

#[tokio::test]
async fn records_past_the_maximum_age_go_to_the_destination_uncalled() {
    let dir = tempfile::tempdir().unwrap();
    let clock = dynoxide::storage_backend::ManualClock::new(1_700_000_000);
    let folder = Folder::with(dir, Database::memory_with_clock(clock.arc()).unwrap());
    folder.put("a", "old");
    #[expect(clippy::disallowed_methods, reason = "the record must be young when it is read")]
    clock.set(u64::try_from(time::OffsetDateTime::now_utc().unix_timestamp()).unwrap());
    folder.put("a", "new");
    let script = Script::new(|_, _| ok());
    let mapping = StreamMapping {
        max_age: Some(Duration::from_secs(3600)),
        on_failure: Some("arn:aws:s3:::evidence".into()),
        ..mapping()
    };
    let running = folder.start(mapping, script.clone());
    script.calls(1).await;
    running.stop().await;
    assert_eq!(script.batches(sk), [["new"]]);
    let (_, _, record) = folder.kept.objects().remove(0);
    assert_eq!(record["requestContext"]["condition"], "RecordAgeExceeded");
    assert_eq!(record["requestContext"]["approximateInvokeCount"], 0);
    assert_eq!(record["responseContext"], Value::Null);
    let payload: Value = serde_json::from_str(record["payload"].as_str().unwrap()).unwrap();
    assert_eq!(records(&payload).iter().map(sk).collect::<Vec<_>>(), ["old"]);
}

#[tokio::test]
async fn a_destination_that_fails_is_tried_again_before_the_stream_goes_on() {
    let folder = Folder::new();
    folder.kept.refusals.store(3, Ordering::SeqCst);
    folder.put("a", "1");
    let script = Script::new(|call, _| if call == 0 { function_error() } else { ok() });
    let mapping = StreamMapping { retries: Some(0), on_failure: Some("arn:aws:s3:::evidence".into()), ..mapping() };
    let running = folder.start(mapping, script.clone());
    eventually(|| folder.kept.objects().len() == 1).await;
    running.stop().await;
    assert_eq!(script.events().len(), 1);
    assert!(folder.checkpoint().is_some());
}

#[tokio::test]
async fn the_next_run_goes_on_behind_the_checkpoint() {
    let folder = Folder::new();
    folder.put("a", "1");
    let script = Script::new(|_, _| ok());
    let running = folder.start(mapping(), script.clone());
    script.calls(1).await;
    running.stop().await;
    folder.put("a", "2");
    let running = folder.start(mapping(), script.clone());
    script.calls(2).await;
    running.stop().await;
    assert_eq!(script.batches(sk), [["1"], ["2"]]);
}

#[tokio::test]
async fn a_run_that_is_killed_in_a_batch_delivers_it_again() {
    let folder = Folder::new();
    folder.put("a", "1");
    let hang = Arc::new(Hang { entered: Barrier::new(2) });
    let running = folder.start(mapping(), hang.clone());
    within(hang.entered.wait()).await;
    running.task.abort();
    let _ = running.task.await;
    assert_eq!(folder.checkpoint(), None);

    let script = Script::new(|_, _| ok());
    let running = folder.start(mapping(), script.clone());
    script.calls(1).await;
    running.stop().await;
    assert_eq!(script.batches(sk), [["1"]]);
}

/// Meets the test and never answers.
struct Hang {
    entered: Barrier,
}

#[async_trait]
impl Invoker for Hang {
    async fn invoke(&self, _: &str, _: Bytes) -> Answer {
        self.entered.wait().await;
        std::future::pending().await
    }
}

#[tokio::test]
async fn the_signal_waits_for_the_batch_that_is_with_the_function() {
    let folder = Folder::new();
    folder.put("a", "1");
    let slow = Arc::new(Slow { entered: Barrier::new(2), leave: Barrier::new(2) });
    let running = folder.start(mapping(), slow.clone());
    within(slow.entered.wait()).await;
    running.stop.stop();
    within(slow.leave.wait()).await;
    within(running.task).await.unwrap();
    assert!(folder.checkpoint().is_some());
}

/// Meets the test when it begins and before it answers.
struct Slow {
    entered: Barrier,
    leave: Barrier,
}

#[async_trait]
impl Invoker for Slow {
    async fn invoke(&self, _: &str, _: Bytes) -> Answer {
        self.entered.wait().await;
        self.leave.wait().await;
        ok()
    }
}

#[tokio::test]
async fn latest_begins_when_the_mapping_was_created_whether_it_ran_or_not() {
    let folder = Folder::new();
    folder.put("a", "before");
    let latest = || StreamMapping { starting_position: StartingPosition::Latest, ..mapping() };
    let script = Script::new(|_, _| ok());
    drop(folder.create(latest(), script.clone()));
    folder.put("a", "while it was down");
    let running = folder.start(latest(), script.clone());
    script.calls(1).await;
    running.stop().await;
    assert_eq!(script.batches(sk), [["while it was down"]]);
}

#[tokio::test]
async fn latest_on_an_empty_stream_misses_nothing() {
    let folder = Folder::new();
    let latest = || StreamMapping { starting_position: StartingPosition::Latest, ..mapping() };
    let script = Script::new(|_, _| ok());
    drop(folder.create(latest(), script.clone()));
    folder.put("a", "first");
    let running = folder.start(latest(), script.clone());
    script.calls(1).await;
    running.stop().await;
    assert_eq!(script.batches(sk), [["first"]]);
}

/// Lets the first calls go on only when four are in flight, and keeps the order of each item.
struct Meeting {
    four: Barrier,
    calls: AtomicUsize,
    seen: Mutex<BTreeMap<String, Vec<usize>>>,
}

#[async_trait]
impl Invoker for Meeting {
    async fn invoke(&self, _: &str, payload: Bytes) -> Answer {
        let event: Value = serde_json::from_slice(&payload).unwrap();
        if self.calls.fetch_add(1, Ordering::SeqCst) < 4 {
            self.four.wait().await;
        }
        for record in records(&event) {
            let version = record["dynamodb"]["NewImage"]["v"]["N"].as_str().unwrap().parse().unwrap();
            self.seen.lock().unwrap().entry(sk(record)).or_default().push(version);
        }
        ok()
    }
}

#[tokio::test]
async fn parallel_batches_of_a_shard_keep_the_order_of_each_item() {
    let folder = Folder::new();
    for version in 0..6 {
        for item in 0..32 {
            let item = format!("项目-{item}");
            folder.put_item(json!({"pk": {"S": "a"}, "sk": {"S": item}, "v": {"N": version.to_string()}}));
        }
    }
    let meeting = Arc::new(Meeting { four: Barrier::new(4), calls: AtomicUsize::new(0), seen: Mutex::default() });
    let mapping = StreamMapping { parallelization_factor: 4, batch_size: 5, ..mapping() };
    let running = folder.start(mapping, meeting.clone());
    let counters = Arc::clone(&running.counters);
    eventually(|| counters.snapshot().records == 6 * 32).await;
    running.stop().await;
    let seen = meeting.seen.lock().unwrap();
    assert_eq!(seen.len(), 32);
    for (item, versions) in seen.iter() {
        assert_eq!(*versions, [0, 1, 2, 3, 4, 5], "{item}");
    }
}

#[tokio::test]
async fn a_stuck_item_holds_the_checkpoint_but_not_the_other_lanes() {
    let folder = Folder::new();
    folder.put("a", "stuck");
    for item in 0..20 {
        folder.put("a", &item.to_string());
    }
    let released = Arc::new(AtomicBool::new(false));
    let script = {
        let released = Arc::clone(&released);
        Script::new(move |_, event| {
            let stuck = records(event).iter().any(|record| sk(record) == "stuck");
            if stuck && !released.load(Ordering::SeqCst) { fail(event, &["stuck"]) } else { ok() }
        })
    };
    // One record in a batch, so that the stuck lane's other records show how far it got.
    let mapping = StreamMapping { parallelization_factor: 10, batch_size: 1, ..mapping() };
    let running = folder.start(mapping, script.clone());
    let counters = Arc::clone(&running.counters);
    eventually(|| counters.snapshot().records >= 10).await;
    assert_eq!(folder.checkpoint(), None);
    released.store(true, Ordering::SeqCst);
    eventually(|| counters.snapshot().records == 21).await;
    running.stop().await;
    assert!(folder.checkpoint().is_some());
}

#[tokio::test]
async fn a_throttled_function_costs_no_retries() {
    let folder = Folder::new();
    folder.put("a", "1");
    let script = Script::new(|call, _| if call < 4 { Err(InvokeError::Throttled) } else { ok() });
    let running = folder.start(StreamMapping { retries: Some(0), ..mapping() }, script.clone());
    script.calls(5).await;
    let counters = Arc::clone(&running.counters);
    running.stop().await;
    let counts = counters.snapshot();
    assert_eq!((counts.records, counts.discarded, counts.failures, counts.retries), (1, 0, 0, 4));
}

#[tokio::test]
async fn filtered_records_are_done_without_a_call() {
    let folder = Folder::new();
    for (sk, entity) in [("1", "inbox"), ("2", "token"), ("3", "session"), ("4", "token")] {
        folder.put_item(json!({"pk": {"S": "a"}, "sk": {"S": sk}, "entity": {"S": entity}}));
    }
    let pattern = r#"{"eventName": ["INSERT"], "dynamodb": {"NewImage": {"entity": {"S": ["inbox", "session"]}}}}"#;
    let script = Script::new(|_, _| ok());
    let mapping = || StreamMapping { filters: vec![Pattern::parse(pattern).unwrap()], ..mapping() };
    let running = folder.start(mapping(), script.clone());
    script.calls(1).await;
    let counters = Arc::clone(&running.counters);
    running.stop().await;
    assert_eq!(script.batches(sk), [["1", "3"]]);
    assert_eq!(counters.snapshot().filtered, 2);

    let running = folder.start(mapping(), script.clone());
    folder.put_item(json!({"pk": {"S": "a"}, "sk": {"S": "5"}, "entity": {"S": "inbox"}}));
    script.calls(2).await;
    running.stop().await;
    assert_eq!(script.batches(sk)[1], ["5"], "the checkpoint is behind what was filtered");
}

#[tokio::test]
async fn a_batch_stays_within_six_megabytes() {
    let folder = Folder::new();
    for item in 0..20 {
        let text = "字".repeat(120_000);
        folder.put_item(json!({"pk": {"S": "a"}, "sk": {"S": format!("{item:02}")}, "text": {"S": text}}));
    }
    let script = Script::new(|_, _| ok());
    let running = folder.start(mapping(), script.clone());
    let counters = Arc::clone(&running.counters);
    eventually(|| counters.snapshot().records == 20).await;
    running.stop().await;
    assert!(script.sizes().iter().all(|&size| size <= 6 * 1024 * 1024), "{:?}", script.sizes());
    assert_eq!(script.sizes().len(), 2);
    let keys: Vec<String> = (0..20).map(|item| format!("{item:02}")).collect();
    assert_eq!(script.batches(sk).concat(), keys);
}

#[tokio::test]
async fn a_batching_window_gathers_until_the_batch_is_full() {
    let folder = Folder::new();
    let script = Script::new(|_, _| ok());
    let mapping = StreamMapping { batch_size: 3, batching_window: Duration::from_secs(300), ..mapping() };
    let running = folder.start(mapping, script.clone());
    for sk in ["1", "2", "3", "4"] {
        folder.put("a", sk);
        tokio::task::yield_now().await;
    }
    script.calls(1).await;
    running.stop().await;
    assert_eq!(script.batches(sk), [["1", "2", "3"]], "the fourth waits for its window");
}

#[tokio::test]
async fn impossible_settings_are_refused_by_name() {
    let folder = Folder::new();
    let refused = |mapping: StreamMapping| {
        let script = Script::new(|_, _| ok());
        let kept: Arc<dyn Destinations> = folder.kept.clone();
        let created = StreamPoller::create(mapping, folder.database.clone(), folder.checkpoints(), script, kept);
        created.unwrap_err().to_string()
    };
    for (mapping, field) in [
        (StreamMapping { batch_size: 0, ..mapping() }, "BatchSize"),
        (StreamMapping { batch_size: 10_001, ..mapping() }, "BatchSize"),
        (StreamMapping { parallelization_factor: 11, ..mapping() }, "ParallelizationFactor"),
        (StreamMapping { max_age: Some(Duration::from_secs(59)), ..mapping() }, "MaximumRecordAgeInSeconds"),
        (StreamMapping { retries: Some(10_001), ..mapping() }, "MaximumRetryAttempts"),
        (StreamMapping { batching_window: Duration::from_secs(301), ..mapping() }, "MaximumBatchingWindowInSeconds"),
        (StreamMapping { on_failure: Some("arn:aws:sns:eu-west-1:1:topic".into()), ..mapping() }, "OnFailure"),
    ] {
        let message = refused(mapping);
        assert!(message.contains(field), "{message}");
    }
    let missing = StreamMapping {
        stream_arn: "arn:aws:dynamodb:eu-west-1:1:table/Missing/stream/1".into(),
        table: "Missing".into(),
        ..mapping()
    };
    let kept: Arc<dyn Destinations> = folder.kept.clone();
    let created =
        StreamPoller::create(missing, folder.database.clone(), folder.checkpoints(), Script::new(|_, _| ok()), kept);
    assert!(matches!(created, Err(StreamError::Source { table, .. }) if table == "Missing"));
}
