//! What a bus promises: matching, delivery at least once, retries, dead letters, durability.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use local_queue::clock::ManualClock;
use local_queue::events::{
    Buses, DEFAULT_BUS, DeadLetterConfig, EventEntry, EventError, InputTransformer, RetryPolicy, Settings,
    SqsParameters, Target, TargetError, TargetParameters, Targets,
};
use local_queue::sqs::Queues;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::server::ToQueues;
use crate::{ACCOUNT, ENDPOINT, REGION, map};

const TARGET: &str = "arn:aws:sqs:eu-central-1:123456789012:work";
const DEAD: &str = "arn:aws:sqs:eu-central-1:123456789012:dead";
const ALL: &str = r#"{"source": [{"prefix": ""}]}"#;

type Delivered = (String, Value, TargetParameters);

/// Fails as scripted, then accepts everything and reports it.
struct Recorder {
    failures: Mutex<VecDeque<TargetError>>,
    delivered: mpsc::UnboundedSender<Delivered>,
    clock: Arc<ManualClock>,
    /// How much time passes during each call.
    takes: Duration,
}

#[async_trait]
impl Targets for Recorder {
    async fn deliver(&self, arn: &str, event: &Value, parameters: &TargetParameters) -> Result<(), TargetError> {
        self.clock.advance(self.takes);
        if arn == TARGET
            && let Some(failure) = self.failures.lock().unwrap().pop_front()
        {
            return Err(failure);
        }
        self.delivered.send((arn.into(), event.clone(), parameters.clone())).ok();
        Ok(())
    }
}

struct Bus {
    folder: TempDir,
    clock: Arc<ManualClock>,
    buses: Buses,
    delivered: mpsc::UnboundedReceiver<Delivered>,
}

impl Bus {
    fn new(failures: Vec<TargetError>) -> Self {
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        Self::open(tempfile::tempdir().unwrap(), clock, failures, Duration::ZERO)
    }

    fn open(folder: TempDir, clock: Arc<ManualClock>, failures: Vec<TargetError>, takes: Duration) -> Self {
        let (sender, delivered) = mpsc::unbounded_channel();
        let failures = Mutex::new(failures.into());
        let recorder = Recorder { failures, delivered: sender, clock: Arc::clone(&clock), takes };
        let settings = Settings { clock: Arc::clone(&clock) as _, retry_delay_factor: 0.0 };
        let path = folder.path().join("events.db");
        let buses = Buses::open_with(&path, ACCOUNT, REGION, Arc::new(recorder), settings).unwrap();
        Self { folder, clock, buses, delivered }
    }

    /// Drops the buses and opens them again, with targets that take everything.
    fn reopened(self) -> Self {
        let Self { folder, clock, buses, .. } = self;
        drop(buses);
        Self::open(folder, clock, vec![], Duration::ZERO)
    }

    fn rule(&self, pattern: &str, target: Target) {
        self.buses.put_rule("rule", DEFAULT_BUS, pattern, true).unwrap();
        self.buses.put_targets("rule", DEFAULT_BUS, vec![target]).unwrap();
    }

    async fn put(&self, detail: &Value) -> String {
        self.buses.put_events(vec![entry(detail)]).await.unwrap().remove(0).unwrap()
    }

    async fn next(&mut self) -> Delivered {
        tokio::time::timeout(Duration::from_secs(20), self.delivered.recv()).await.expect("nothing delivered").unwrap()
    }
}

fn entry(detail: &Value) -> EventEntry {
    EventEntry {
        source: Some("skylark.upload".into()),
        detail_type: Some("FileUploadCompleted".into()),
        detail: Some(detail.to_string()),
        ..EventEntry::default()
    }
}

fn target() -> Target {
    Target {
        id: "1".into(),
        arn: TARGET.into(),
        dead_letter_config: Some(DeadLetterConfig { arn: Some(DEAD.into()) }),
        ..Target::default()
    }
}

fn attribute(parameters: &TargetParameters, name: &str) -> Option<String> {
    parameters.message_attributes.get(name).and_then(|attribute| attribute.string_value.clone())
}

#[tokio::test]
async fn a_matching_event_arrives_in_the_envelope_of_aws() {
    let mut it = Bus::new(vec![]);
    it.rule(r#"{"detail": {"n": [{"numeric": [">", 5]}]}}"#, target());
    it.put(&json!({"n": 1})).await;
    let mut with_time = entry(&json!({"n": 9, "名": "文件😀"}));
    with_time.resources = vec!["arn:file".into()];
    with_time.time = Some(0.5);
    let id = it.buses.put_events(vec![with_time]).await.unwrap().remove(0).unwrap();
    let (arn, event, parameters) = it.next().await;
    assert_eq!(arn, TARGET);
    assert_eq!(parameters, TargetParameters::default());
    assert_eq!(
        event,
        json!({
            "version": "0", "id": id, "detail-type": "FileUploadCompleted", "source": "skylark.upload",
            "account": ACCOUNT, "time": "1970-01-01T00:00:00Z", "region": REGION, "resources": ["arn:file"],
            "detail": {"n": 9, "名": "文件😀"},
        })
    );
    it.put(&json!({"n": 10})).await;
    let (_, event, _) = it.next().await;
    assert_eq!(event["time"], "2023-11-14T22:13:20Z");
}

#[tokio::test]
async fn each_entry_is_accepted_or_refused_by_itself() {
    let mut it = Bus::new(vec![]);
    it.rule(ALL, target());
    let good = || entry(&json!({}));
    let answers = it
        .buses
        .put_events(vec![
            EventEntry { source: None, ..good() },
            EventEntry { detail_type: Some(String::new()), ..good() },
            EventEntry { detail: None, ..good() },
            EventEntry { detail: Some("[]".into()), ..good() },
            EventEntry { detail: Some("{".into()), ..good() },
            EventEntry { source: Some("aws.s3".into()), ..good() },
            EventEntry { event_bus_name: Some("nowhere".into()), ..good() },
            EventEntry { time: Some(f64::MAX), ..good() },
            good(),
        ])
        .await
        .unwrap();
    let codes: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().map(|error| error.code)).collect();
    assert_eq!(
        codes,
        [
            Some("InvalidArgument"),
            Some("InvalidArgument"),
            Some("InvalidArgument"),
            Some("MalformedDetail"),
            Some("MalformedDetail"),
            Some("NotAuthorizedForSourceException"),
            Some("InvalidArgument"),
            Some("InvalidArgument"),
            None
        ]
    );
    let (_, event, _) = it.next().await;
    assert_eq!(Some(&event["id"]), answers[8].as_ref().ok().map(|id| json!(id)).as_ref());
    for entries in [vec![], vec![good(); 11], vec![entry(&json!("x".repeat(600_000))); 2]] {
        assert!(matches!(it.buses.put_events(entries).await, Err(EventError::Validation(_))));
    }
}

#[tokio::test]
async fn only_enabled_rules_of_the_bus_deliver_and_each_to_its_targets() {
    let mut it = Bus::new(vec![]);
    assert_eq!(it.buses.create_bus("own").unwrap(), "arn:aws:events:eu-central-1:123456789012:event-bus/own");
    for (rule, bus, is_enabled) in [("on", "own", true), ("off", "own", false), ("other", DEFAULT_BUS, true)] {
        it.buses.put_rule(rule, bus, ALL, is_enabled).unwrap();
        let transformer = |id: &str| Target {
            id: id.into(),
            input_transformer: Some(InputTransformer {
                input_paths_map: [("source".to_owned(), "$.source".to_owned())].into(),
                input_template: format!(r#"{{"target": "{id} of <aws.events.rule-name> from <source>"}}"#),
            }),
            ..target()
        };
        it.buses.put_targets(rule, bus, vec![transformer("a"), transformer("b")]).unwrap();
    }
    it.buses.remove_targets("on", "own", &["b".into()]).unwrap();
    let bus_arn = "arn:aws:events:eu-central-1:123456789012:event-bus/own";
    it.buses.put_events(vec![EventEntry { event_bus_name: Some(bus_arn.into()), ..entry(&json!({})) }]).await.unwrap();
    let (_, event, _) = it.next().await;
    assert_eq!(event, json!({"target": "a of on from skylark.upload"}));
    it.put(&json!({})).await;
    let mut both = [it.next().await.1, it.next().await.1];
    both.sort_by_key(Value::to_string);
    assert_eq!(both[0], json!({"target": "a of other from skylark.upload"}));
    assert_eq!(both[1], json!({"target": "b of other from skylark.upload"}));
}

#[tokio::test]
async fn a_failing_target_is_tried_again_until_it_takes_the_event() {
    let mut it = Bus::new(vec![TargetError::retry("THROTTLING", "slow down"); 5]);
    it.rule(ALL, Target { sqs_parameters: Some(SqsParameters { message_group_id: Some("g".into()) }), ..target() });
    it.put(&json!({"n": 1})).await;
    let (arn, event, parameters) = it.next().await;
    assert_eq!((arn.as_str(), &event["detail"]["n"]), (TARGET, &json!(1)));
    assert_eq!(parameters.message_group_id.as_deref(), Some("g"));
}

#[tokio::test]
async fn an_event_goes_to_the_dead_letter_queue_when_its_retries_are_exhausted() {
    let retry = || TargetError::retry("THROTTLING", "slow down");
    for (failures, condition, retries, takes) in [
        (vec![retry(); 3], Some("MaximumRetryAttempts"), "2", Duration::ZERO),
        (vec![TargetError::permanent("NO_RESOURCE", "gone")], None, "0", Duration::ZERO),
        (vec![retry(); 3], Some("MaximumEventAgeInSeconds"), "1", Duration::from_secs(31)),
    ] {
        let code = failures[0].code.clone();
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let mut it = Bus::open(tempfile::tempdir().unwrap(), clock, failures, takes);
        let retry_policy =
            Some(RetryPolicy { maximum_retry_attempts: Some(2), maximum_event_age_in_seconds: Some(60) });
        it.rule(ALL, Target { retry_policy, ..target() });
        it.put(&json!({"n": 7})).await;
        let (arn, event, parameters) = it.next().await;
        assert_eq!((arn.as_str(), &event["detail"]["n"]), (DEAD, &json!(7)));
        assert_eq!(attribute(&parameters, "EXHAUSTED_RETRY_CONDITION").as_deref(), condition);
        assert_eq!(attribute(&parameters, "RETRY_ATTEMPTS").as_deref(), Some(retries));
        assert_eq!(attribute(&parameters, "ERROR_CODE"), Some(code));
        assert_eq!(attribute(&parameters, "TARGET_ARN").as_deref(), Some(TARGET));
        assert_eq!(
            attribute(&parameters, "RULE_ARN").as_deref(),
            Some("arn:aws:events:eu-central-1:123456789012:rule/rule")
        );
        assert!(attribute(&parameters, "ERROR_MESSAGE").is_some());
    }
}

#[tokio::test]
async fn an_accepted_event_survives_a_restart_before_its_delivery() {
    let it = Bus::new(vec![TargetError::retry("X", "not yet"); 10_000]);
    it.rule(ALL, target());
    let id = it.put(&json!({"n": 1})).await;
    let mut it = it.reopened();
    let (_, event, _) = it.next().await;
    assert_eq!(event["id"], json!(id));
}

#[tokio::test]
async fn rules_are_checked_before_they_are_stored() {
    let it = Bus::new(vec![]);
    let refused = |result: Result<(), EventError>| result.unwrap_err().to_string();
    assert!(refused(it.buses.put_rule("r", DEFAULT_BUS, r#"{"a": 1}"#, true).map(drop)).contains("`a`"));
    assert!(refused(it.buses.put_rule("r", "nowhere", ALL, true).map(drop)).contains("nowhere"));
    assert!(refused(it.buses.put_rule("规则", DEFAULT_BUS, ALL, true).map(drop)).contains("规则"));
    it.buses.put_rule("r", DEFAULT_BUS, ALL, true).unwrap();
    let put = |target: Target| it.buses.put_targets("r", DEFAULT_BUS, vec![target]);
    for bad in [
        Target { arn: "work".into(), ..target() },
        Target { id: String::new(), ..target() },
        Target { arn: format!("{TARGET}.fifo"), ..target() },
        Target { input: Some("ping".into()), ..target() },
        Target { input: Some("{}".into()), input_path: Some("$".into()), ..target() },
        Target {
            retry_policy: Some(RetryPolicy { maximum_retry_attempts: Some(186), ..RetryPolicy::default() }),
            ..target()
        },
    ] {
        assert!(matches!(put(bad.clone()), Err(EventError::Validation(_))), "{bad:?}");
    }
    for n in 0..5 {
        put(Target { id: n.to_string(), ..target() }).unwrap();
    }
    assert!(matches!(put(Target { id: "5".into(), ..target() }), Err(EventError::LimitExceeded(_))));
    put(Target { id: "4".into(), input: Some("{}".into()), ..target() }).unwrap();
    assert!(matches!(it.buses.delete_rule("r", DEFAULT_BUS), Err(EventError::Validation(_))));
    it.buses.remove_targets("r", DEFAULT_BUS, &(0..5).map(|n| n.to_string()).collect::<Vec<_>>()).unwrap();
    it.buses.delete_rule("r", DEFAULT_BUS).unwrap();
    assert!(matches!(put(target()), Err(EventError::ResourceNotFound(_))));
}

#[tokio::test]
async fn queues_and_buses_share_one_file_and_undeliverable_events_become_dead_letters() {
    let folder = tempfile::tempdir().unwrap();
    let path: &Path = &folder.path().join("skylark.db");
    let queues = Queues::open(path, ENDPOINT, ACCOUNT, REGION).unwrap();
    queues.create("dead", map(&[])).unwrap();
    let buses = Buses::open(path, ACCOUNT, REGION, Arc::new(ToQueues(queues.clone()))).unwrap();
    buses.put_rule("rule", DEFAULT_BUS, ALL, true).unwrap();
    buses.put_targets("rule", DEFAULT_BUS, vec![target()]).unwrap();
    buses.put_events(vec![entry(&json!({"n": 1}))]).await.unwrap().remove(0).unwrap();
    let letter = queues.receive("dead", 1, Duration::from_secs(20), None).await.unwrap().remove(0);
    let body: Value = serde_json::from_str(&letter.body).unwrap();
    assert_eq!(body["detail"], json!({"n": 1}));
    assert_eq!(letter.message_attributes["ERROR_CODE"].string_value.as_deref(), Some("NO_RESOURCE"));
    queues.create("work", map(&[])).unwrap();
    buses.put_events(vec![entry(&json!({"n": 2}))]).await.unwrap().remove(0).unwrap();
    let message = queues.receive("work", 1, Duration::from_secs(20), None).await.unwrap().remove(0);
    assert_eq!(serde_json::from_str::<Value>(&message.body).unwrap()["detail"], json!({"n": 2}));
}
