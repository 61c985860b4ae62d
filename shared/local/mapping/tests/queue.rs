//! The rules of SQS mappings, on real queues.
#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use local_lambda::{InvokeError, Invoker, Reply};
use local_mapping::queue::{SqsMapping, SqsPoller};
use local_mapping::{Backoff, Counters, Shutdown, Stop};
use local_queue::clock::ManualClock;
use local_queue::pattern::Pattern;
use local_queue::sqs::{MessageAttribute, Outgoing, Queues};
use serde_json::{Value, json};
use support::{Answer, Script, eventually, failed_items, function_error, ok, records, within};
use tempfile::TempDir;
use tokio::sync::Barrier;
use tokio::task::JoinHandle;

const ACCOUNT: &str = "123456789012";
const REGION: &str = "eu-west-1";
const VISIBILITY: Duration = Duration::from_secs(30);

/// A data folder with queues `work` and `dead`, and `work.fifo` and `dead.fifo`. Their time stands still.
struct Folder {
    _dir: TempDir,
    clock: Arc<ManualClock>,
    queues: Queues,
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

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let file = dir.path().join("sqs.db");
        let queues = Queues::open_with_clock(&file, "http://127.0.0.1:1", ACCOUNT, REGION, clock.clone()).unwrap();
        for (suffix, fifo) in [("", "false"), (".fifo", "true")] {
            let fifo = || match fifo {
                "true" => BTreeMap::from([("FifoQueue".to_owned(), "true".to_owned())]),
                _ => BTreeMap::new(),
            };
            let dead = format!("dead{suffix}");
            queues.create(&dead, fifo()).unwrap();
            let redrive = json!({"deadLetterTargetArn": queues.arn(&dead), "maxReceiveCount": 3}).to_string();
            let mut attributes = fifo();
            attributes.insert("RedrivePolicy".into(), redrive);
            queues.create(&format!("work{suffix}"), attributes).unwrap();
        }
        Self { _dir: dir, clock, queues }
    }

    /// Ends the visibility timeout of everything in flight.
    fn come_back(&self) {
        self.clock.advance(VISIBILITY + Duration::from_secs(1));
        for queue in ["work", "work.fifo"] {
            // A change of attributes wakes whoever waits for messages.
            self.queues.set_attributes(queue, BTreeMap::new()).unwrap();
        }
    }

    /// Waits until exactly `count` messages of a queue are in flight, and none can be received.
    async fn in_flight(&self, queue: &str, count: u64) {
        eventually(|| {
            let depth = self.queues.depth(queue).unwrap();
            depth.in_flight == count && depth.visible == 0
        })
        .await;
    }

    async fn send(&self, bodies: &[&str]) {
        let messages = bodies.iter().map(|&body| Outgoing { body: body.into(), ..Outgoing::default() });
        self.queues.send("work", messages.collect()).await.unwrap();
    }

    /// Sends `group:body` messages.
    async fn send_fifo(&self, messages: &[&str]) {
        let messages = messages.iter().map(|&message| Outgoing {
            body: message.into(),
            group_id: Some(message.split(':').next().unwrap().into()),
            deduplication_id: Some(message.replace(':', "-")),
            ..Outgoing::default()
        });
        self.queues.send("work.fifo", messages.collect()).await.unwrap();
    }

    fn mapping(&self) -> SqsMapping {
        SqsMapping {
            function: "lark-work".into(),
            queue: "work".into(),
            queue_arn: self.queues.arn("work"),
            batch_size: 10,
            batching_window: Duration::ZERO,
            report_batch_item_failures: true,
            maximum_concurrency: None,
            filters: Vec::new(),
            fifo: false,
            visibility_timeout: VISIBILITY,
            enabled: true,
        }
    }

    fn fifo_mapping(&self) -> SqsMapping {
        let queue = "work.fifo";
        SqsMapping { queue: queue.into(), queue_arn: self.queues.arn(queue), fifo: true, ..self.mapping() }
    }

    fn start(&self, mapping: SqsMapping, invoker: Arc<dyn Invoker>) -> Running {
        let backoff = Backoff { first: Duration::from_millis(1), max: Duration::from_millis(4) };
        let poller = SqsPoller::create(mapping, self.queues.clone(), invoker).unwrap().with_backoff(backoff);
        let counters = poller.counters();
        let (stop, shutdown) = Shutdown::channel();
        Running { counters, stop, task: tokio::spawn(poller.run(shutdown)) }
    }

    fn is_empty(&self, queue: &str) -> bool {
        let depth = self.queues.depth(queue).unwrap();
        depth.visible + depth.in_flight + depth.delayed == 0
    }
}

fn body(record: &Value) -> String {
    record["body"].as_str().unwrap().to_owned()
}

fn id(record: &Value) -> &str {
    record["messageId"].as_str().unwrap()
}

fn receive_count(record: &Value) -> &str {
    record["attributes"]["ApproximateReceiveCount"].as_str().unwrap()
}

/// Names the messages whose body is among `bodies`.
fn fail(event: &Value, bodies: &[&str]) -> Answer {
    failed_items(records(event).iter().filter(|record| bodies.contains(&body(record).as_str())).map(id))
}

#[tokio::test]
async fn records_have_the_shape_lambda_gives_them() {
    let folder = Folder::new();
    let attributes = BTreeMap::from([
        ("kind".to_owned(), MessageAttribute::string("通知")),
        (
            "raw".to_owned(),
            MessageAttribute { data_type: "Binary.png".into(), string_value: None, binary_value: Some("AAEC".into()) },
        ),
    ]);
    let message = Outgoing { body: "你好 👋".into(), message_attributes: attributes, ..Outgoing::default() };
    let sent = folder.queues.send("work", vec![message]).await.unwrap().remove(0);
    let script = Script::new(|_, _| ok());
    let running = folder.start(folder.mapping(), script.clone());
    script.calls(1).await;
    eventually(|| folder.is_empty("work")).await;
    running.stop().await;

    let events = script.events();
    let record = &records(&events[0])[0];
    let fields: BTreeSet<_> = record.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "messageId",
        "receiptHandle",
        "body",
        "attributes",
        "messageAttributes",
        "md5OfBody",
        "md5OfMessageAttributes",
        "eventSource",
        "eventSourceARN",
        "awsRegion",
    ];
    assert_eq!(fields, BTreeSet::from(expected));
    assert_eq!(record["messageId"], sent.message_id.as_str());
    assert_eq!(record["body"], "你好 👋");
    assert_eq!(record["md5OfBody"], sent.md5_of_body.as_str());
    assert_eq!(record["eventSource"], "aws:sqs");
    assert_eq!(record["eventSourceARN"], folder.queues.arn("work"));
    assert_eq!(record["awsRegion"], REGION);
    assert_eq!(receive_count(record), "1");
    let empty = json!([]);
    assert_eq!(
        record["messageAttributes"],
        json!({
            "kind": {"stringValue": "通知", "stringListValues": empty, "binaryListValues": empty, "dataType": "String"},
            "raw": {"binaryValue": "AAEC", "stringListValues": empty, "binaryListValues": empty, "dataType": "Binary.png"},
        })
    );
    // Computed apart, over: kind, String, 1, 通知, raw, Binary.png, 2, 00 01 02, each behind its length.
    assert_eq!(record["md5OfMessageAttributes"], "6052ff37992cd8b27f3bcb52a9720ce2");
}

#[tokio::test]
async fn only_the_messages_that_were_named_come_back() {
    let folder = Folder::new();
    folder.send(&["a", "b", "c"]).await;
    let script = Script::new(|call, event| if call == 0 { fail(event, &["b"]) } else { ok() });
    let running = folder.start(folder.mapping(), script.clone());
    script.calls(1).await;
    folder.in_flight("work", 1).await;
    folder.come_back();
    script.calls(2).await;
    eventually(|| folder.is_empty("work")).await;
    let counters = Arc::clone(&running.counters);
    running.stop().await;
    assert_eq!(script.batches(body), [vec!["a", "b", "c"], vec!["b"]]);
    assert_eq!(receive_count(&records(&script.events()[1])[0]), "2");
    let counts = counters.snapshot();
    assert_eq!((counts.batches, counts.records, counts.failures), (2, 3, 1));
    assert!(folder.is_empty("dead"));
}

#[tokio::test]
async fn a_whole_batch_comes_back_when_the_answer_cannot_be_trusted() {
    for answer in [
        function_error as fn() -> Answer,
        || failed_items(["not-a-message-of-this-batch"]),
        || failed_items([""]),
        || Ok(Reply::Success(Bytes::from(r#"{"batchItemFailures":[{"id":"x"}]}"#))),
        || Ok(Reply::Success(Bytes::from("not json"))),
    ] {
        let folder = Folder::new();
        folder.send(&["a", "b"]).await;
        let script = Script::new(move |call, _| if call == 0 { answer() } else { ok() });
        let running = folder.start(folder.mapping(), script.clone());
        eventually(|| running.counters.snapshot().failures == 1).await;
        folder.in_flight("work", 2).await;
        folder.come_back();
        eventually(|| folder.is_empty("work")).await;
        running.stop().await;
        let mut delivered = script.batches(body).concat();
        delivered.sort_unstable();
        assert_eq!(delivered, ["a", "a", "b", "b"]);
    }
}

#[tokio::test]
async fn without_batch_item_failures_the_answer_says_nothing() {
    let folder = Folder::new();
    folder.send(&["a"]).await;
    let script = Script::new(|_, event| fail(event, &["a"]));
    let mapping = SqsMapping { report_batch_item_failures: false, ..folder.mapping() };
    let running = folder.start(mapping, script.clone());
    eventually(|| folder.is_empty("work")).await;
    running.stop().await;
    assert_eq!(script.events().len(), 1);
}

#[tokio::test]
async fn a_poison_message_ends_in_the_dead_letter_queue_while_others_pass() {
    let folder = Folder::new();
    folder.send(&["a", "毒", "b"]).await;
    let script = Script::new(|_, event| fail(event, &["毒"]));
    let running = folder.start(folder.mapping(), script.clone());
    for receives in 1..=3 {
        eventually(|| running.counters.snapshot().failures == receives).await;
        folder.in_flight("work", 1).await;
        folder.come_back();
    }
    eventually(|| folder.queues.depth("dead").unwrap().visible == 1).await;
    running.stop().await;
    assert!(folder.is_empty("work"));
    let delivered = script.batches(body).concat();
    assert_eq!(delivered.iter().filter(|body| *body == "毒").count(), 3, "maxReceiveCount");
    assert_eq!(delivered.iter().filter(|body| *body != "毒").count(), 2);
}

#[tokio::test]
async fn waiting_for_a_throttled_function_costs_no_receives() {
    let folder = Folder::new();
    folder.send(&["a"]).await;
    let script = Script::new(|call, _| if call < 5 { Err(InvokeError::Throttled) } else { ok() });
    let running = folder.start(folder.mapping(), script.clone());
    script.calls(6).await;
    eventually(|| folder.is_empty("work")).await;
    let counters = Arc::clone(&running.counters);
    running.stop().await;
    assert!(script.events().iter().all(|event| receive_count(&records(event)[0]) == "1"));
    assert_eq!((counters.snapshot().retries, counters.snapshot().failures), (5, 0));
}

#[tokio::test]
async fn a_function_that_stays_throttled_lets_messages_go_back() {
    let folder = Folder::new();
    folder.send(&["a"]).await;
    let script = Script::new(|_, event| match receive_count(&records(event)[0]) {
        "1" => Err(InvokeError::Throttled),
        _ => ok(),
    });
    let mapping = SqsMapping { visibility_timeout: Duration::from_millis(50), ..folder.mapping() };
    let running = folder.start(mapping, script.clone());
    script.calls(2).await;
    folder.come_back();
    eventually(|| folder.is_empty("work")).await;
    // Ends only because the first batch gave up when its time was over.
    running.stop().await;
    assert!(script.events().iter().any(|event| receive_count(&records(event)[0]) == "2"));
}

#[tokio::test]
async fn a_group_keeps_its_order_under_failures_while_others_go_on() {
    let folder = Folder::new();
    folder.send_fifo(&["A:0", "A:1", "A:2", "B:0", "B:1", "C:0"]).await;
    // A:1 fails at first, and what follows it in its batch is reported with it, as a function must.
    let script = Script::new(|call, event| if call == 0 { fail(event, &["A:1", "A:2"]) } else { ok() });
    let running = folder.start(folder.fifo_mapping(), script.clone());
    folder.in_flight("work.fifo", 2).await;
    folder.send_fifo(&["A:3", "B:2"]).await;
    eventually(|| running.counters.snapshot().records == 5).await;
    eventually(|| folder.queues.depth("work.fifo").unwrap().in_flight == 2).await;
    folder.come_back();
    eventually(|| folder.is_empty("work.fifo")).await;
    running.stop().await;

    let mut accepted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (call, batch) in script.batches(body).into_iter().enumerate() {
        for body in batch.into_iter().filter(|body| call > 0 || (body != "A:1" && body != "A:2")) {
            accepted.entry(body[..1].to_owned()).or_default().push(body);
        }
    }
    assert_eq!(accepted["A"], ["A:0", "A:1", "A:2", "A:3"]);
    assert_eq!(accepted["B"], ["B:0", "B:1", "B:2"]);
    assert_eq!(accepted["C"], ["C:0"]);
}

#[tokio::test]
async fn what_a_payload_limit_splits_off_does_not_overtake_its_group() {
    let folder = Folder::new();
    let large = "x".repeat(1_000_000);
    let messages: Vec<_> = (0..8).map(|index| format!("A:{index}{large}")).collect();
    for message in &messages {
        folder
            .queues
            .send(
                "work.fifo",
                vec![Outgoing {
                    body: message.clone(),
                    group_id: Some("A".into()),
                    deduplication_id: Some(message[..3].replace(':', "-")),
                    ..Outgoing::default()
                }],
            )
            .await
            .unwrap();
    }
    let script = Script::new(|call, _| if call == 0 { function_error() } else { ok() });
    let running = folder.start(folder.fifo_mapping(), script.clone());
    eventually(|| running.counters.snapshot().failures == 1).await;
    folder.in_flight("work.fifo", 8).await;
    folder.come_back();
    eventually(|| folder.is_empty("work.fifo")).await;
    running.stop().await;
    let batches = script.batches(|record| body(record)[..3].to_owned());
    let order: Vec<_> = (0..8).map(|index| format!("A:{index}")).collect();
    assert_eq!(batches[0], order[..6]);
    assert_eq!(batches[1..].concat(), order, "nothing ran before what failed ran again");
    assert!(script.sizes().iter().all(|&size| size <= 6 * 1024 * 1024));
}

#[tokio::test]
async fn a_standard_batch_is_split_at_six_megabytes() {
    let folder = Folder::new();
    let large = "x".repeat(1_000_000);
    for _ in 0..10 {
        folder.send(&[&large]).await;
    }
    let script = Script::new(|_, _| ok());
    let running = folder.start(folder.mapping(), script.clone());
    eventually(|| folder.is_empty("work")).await;
    running.stop().await;
    assert!(script.sizes().iter().all(|&size| size <= 6 * 1024 * 1024));
    assert_eq!(script.batches(body).iter().map(Vec::len).collect::<Vec<_>>(), [6, 4]);
}

#[tokio::test]
async fn a_batching_window_gathers_more_than_one_receive() {
    let folder = Folder::new();
    let script = Script::new(|_, _| ok());
    let mapping = SqsMapping { batch_size: 25, batching_window: Duration::from_secs(300), ..folder.mapping() };
    let running = folder.start(mapping, script.clone());
    let bodies: Vec<_> = (0..25).map(|index| index.to_string()).collect();
    for body in &bodies {
        folder.send(&[body]).await;
    }
    script.calls(1).await;
    eventually(|| folder.is_empty("work")).await;
    running.stop().await;
    assert_eq!(script.batches(body).iter().map(Vec::len).collect::<Vec<_>>(), [25]);
}

#[tokio::test]
async fn messages_that_no_filter_matches_are_deleted() {
    let folder = Folder::new();
    let bodies = [
        r#"{"kind": "卡片", "n": 1}"#,
        r#"{"kind": "other"}"#,
        "plain",
        "ping",
        r#"["ping"]"#,
        r#"{"kind": ["卡片"]}"#,
    ];
    folder.send(&bodies).await;
    let filters = [r#"{"body": {"kind": ["卡片"]}}"#, r#"{"body": ["ping"]}"#];
    let filters = filters.iter().map(|filter| Pattern::parse(filter).unwrap()).collect();
    let script = Script::new(|_, _| ok());
    let running = folder.start(SqsMapping { filters, ..folder.mapping() }, script.clone());
    eventually(|| folder.is_empty("work")).await;
    let counters = Arc::clone(&running.counters);
    running.stop().await;
    let mut delivered = script.batches(body).concat();
    delivered.sort_unstable();
    let mut expected = vec![bodies[0], "ping", bodies[5]];
    expected.sort_unstable();
    assert_eq!(delivered, expected);
    assert_eq!(counters.snapshot().filtered, 3);
}

/// Counts the batches that are with the function at once; each waits for the others.
struct Crowd {
    together: Barrier,
    inside: AtomicUsize,
    most: AtomicUsize,
}

impl Crowd {
    fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { together: Barrier::new(count), inside: AtomicUsize::new(0), most: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl Invoker for Crowd {
    async fn invoke(&self, _: &str, _: Bytes) -> Answer {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        self.together.wait().await;
        self.inside.fetch_sub(1, Ordering::SeqCst);
        ok()
    }
}

#[tokio::test]
async fn a_busy_queue_gets_more_than_the_first_five_batches() {
    let folder = Folder::new();
    folder.send(&["1", "2", "3", "4", "5", "6", "7"]).await;
    let crowd = Crowd::new(7);
    let mapping = SqsMapping { batch_size: 1, ..folder.mapping() };
    let running = folder.start(mapping, crowd.clone());
    eventually(|| folder.is_empty("work")).await;
    running.stop().await;
    assert_eq!(crowd.most.load(Ordering::SeqCst), 7);
}

#[tokio::test]
async fn maximum_concurrency_holds() {
    let folder = Folder::new();
    folder.send(&["1", "2", "3", "4", "5", "6", "7", "8"]).await;
    let crowd = Crowd::new(2);
    let maximum_concurrency = Some(2);
    let mapping = SqsMapping { batch_size: 1, maximum_concurrency, ..folder.mapping() };
    let running = folder.start(mapping, crowd.clone());
    eventually(|| folder.is_empty("work")).await;
    running.stop().await;
    assert_eq!(crowd.most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn groups_run_in_parallel_but_one_batch_at_a_time() {
    let folder = Folder::new();
    folder.send_fifo(&["A:0", "B:0", "C:0", "A:1", "B:1", "C:1"]).await;
    let groups = Arc::new(Groups { three: Barrier::new(3), running: Mutex::default() });
    let mapping = SqsMapping { batch_size: 1, ..folder.fifo_mapping() };
    let running = folder.start(mapping, groups.clone());
    eventually(|| folder.is_empty("work.fifo")).await;
    running.stop().await;
}

/// Meets two other groups and refuses to run a group twice at once.
struct Groups {
    three: Barrier,
    running: Mutex<Vec<String>>,
}

#[async_trait]
impl Invoker for Groups {
    async fn invoke(&self, _: &str, payload: Bytes) -> Answer {
        let event: Value = serde_json::from_slice(&payload).unwrap();
        let group = body(&records(&event)[0])[..1].to_owned();
        {
            let mut running = self.running.lock().unwrap();
            assert!(!running.contains(&group), "two batches of group {group}");
            running.push(group.clone());
        }
        self.three.wait().await;
        self.running.lock().unwrap().retain(|other| *other != group);
        ok()
    }
}

#[tokio::test]
async fn the_signal_waits_for_the_batch_that_is_with_the_function() {
    let folder = Folder::new();
    folder.send(&["a"]).await;
    let crowd = Crowd::new(2);
    let running = folder.start(folder.mapping(), crowd.clone());
    eventually(|| crowd.inside.load(Ordering::SeqCst) == 1).await;
    running.stop.stop();
    within(crowd.together.wait()).await;
    within(running.task).await.unwrap();
    assert!(folder.is_empty("work"));
}

#[tokio::test]
async fn messages_that_wait_for_a_full_batch_go_back_at_the_signal() {
    let folder = Folder::new();
    folder.send(&["a"]).await;
    let script = Script::new(|_, _| ok());
    let mapping = SqsMapping { batching_window: Duration::from_secs(300), ..folder.mapping() };
    let running = folder.start(mapping, script.clone());
    eventually(|| folder.queues.depth("work").unwrap().in_flight == 1).await;
    running.stop().await;
    assert_eq!(script.events().len(), 0);
    assert_eq!(folder.queues.depth("work").unwrap().visible, 1);
}

#[tokio::test]
async fn a_disabled_mapping_leaves_the_queue_alone() {
    let folder = Folder::new();
    folder.send(&["a"]).await;
    let running = folder.start(SqsMapping { enabled: false, ..folder.mapping() }, Script::new(|_, _| ok()));
    within(running.task).await.unwrap();
    assert_eq!(folder.queues.depth("work").unwrap().visible, 1);
}

#[tokio::test]
async fn impossible_settings_are_refused_by_name() {
    let folder = Folder::new();
    let window = Duration::from_secs(1);
    let standard = || folder.mapping();
    let fifo = || folder.fifo_mapping();
    for (mapping, field) in [
        (SqsMapping { batch_size: 0, ..standard() }, "BatchSize"),
        (SqsMapping { batch_size: 11, ..standard() }, "BatchSize"),
        (SqsMapping { batch_size: 10_001, batching_window: window, ..standard() }, "BatchSize"),
        (SqsMapping { batch_size: 11, ..fifo() }, "BatchSize"),
        (SqsMapping { batching_window: window, ..fifo() }, "MaximumBatchingWindowInSeconds"),
        (SqsMapping { batching_window: Duration::from_secs(301), ..standard() }, "MaximumBatchingWindowInSeconds"),
        (SqsMapping { maximum_concurrency: Some(1), ..standard() }, "MaximumConcurrency"),
        (SqsMapping { maximum_concurrency: Some(1001), ..standard() }, "MaximumConcurrency"),
        (SqsMapping { visibility_timeout: Duration::from_secs(43_201), ..standard() }, "VisibilityTimeout"),
    ] {
        let error = SqsPoller::create(mapping, folder.queues.clone(), Script::new(|_, _| ok())).unwrap_err();
        assert_eq!(error.field, field, "{error}");
    }
}
