//! Notifications and lifecycle: what is announced, to whom, and that nothing announced is lost.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Mutex;

use async_trait::async_trait;
use aws_sdk_s3::types::{
    Event, FilterRule, FilterRuleName, NotificationConfiguration, NotificationConfigurationFilter, QueueConfiguration,
    S3KeyFilter,
};
use local_bucket::{BucketConfig, LifecycleReport, LifecycleRule, NotificationRule, Notifications, ObjectEvent};
use time::{Duration, OffsetDateTime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::support::{BUCKET, Server, code, open};

const QUEUE: &str = "arn:aws:sqs:us-east-1:000000000000:q";

/// Refuses the first delivery of every key that contains `flaky`.
struct Receiver {
    taken: UnboundedSender<(String, String, serde_json::Value)>,
    refused: Mutex<HashMap<String, u32>>,
}

#[async_trait]
impl Notifications for Receiver {
    async fn object_event(&self, event: &ObjectEvent) -> Result<(), Box<dyn Error + Send + Sync>> {
        let record = event.message["Records"][0].clone();
        let key = record["s3"]["object"]["key"].as_str().unwrap().to_owned();
        if key.contains("flaky") {
            let mut refused = self.refused.lock().unwrap();
            let count = refused.entry(key.clone()).or_default();
            *count += 1;
            if *count == 1 {
                return Err("not now".into());
            }
        }
        self.taken.send((event.target.clone(), key, record))?;
        Ok(())
    }
}

type Taken = UnboundedReceiver<(String, String, serde_json::Value)>;

fn receiver() -> (Receiver, Taken) {
    let (taken, receiver) = unbounded_channel();
    (Receiver { taken, refused: Mutex::default() }, receiver)
}

fn rule(events: &[&str], prefix: &str) -> NotificationRule {
    NotificationRule {
        id: "rule".into(),
        events: events.iter().map(|event| (*event).to_owned()).collect(),
        prefix: Some(prefix.to_owned()),
        suffix: None,
        target: QUEUE.into(),
    }
}

fn config(rules: Vec<NotificationRule>) -> BucketConfig {
    BucketConfig { notifications: rules, ..BucketConfig::default() }
}

#[tokio::test]
async fn a_configuration_put_over_http_routes_matching_events_in_order() {
    let server = Server::start().await;
    let client = server.client();
    let filter = FilterRule::builder().name(FilterRuleName::Prefix).value("ev/").build();
    let filter = S3KeyFilter::builder().filter_rules(filter).build();
    let queue = QueueConfiguration::builder()
        .id("mine")
        .queue_arn(QUEUE)
        .events(Event::from("s3:ObjectCreated:*"))
        .events(Event::from("s3:ObjectRemoved:*"))
        .filter(NotificationConfigurationFilter::builder().key(filter).build())
        .build()
        .unwrap();
    let configuration = NotificationConfiguration::builder().queue_configurations(queue.clone()).build();
    let put = client.put_bucket_notification_configuration().bucket(BUCKET).notification_configuration(configuration);
    put.send().await.unwrap();
    let read = client.get_bucket_notification_configuration().bucket(BUCKET).send().await.unwrap();
    assert_eq!(read.queue_configurations(), [queue]);

    let (receiver, mut taken) = receiver();
    let buckets = server.buckets.clone();
    let delivery = tokio::spawn(async move { buckets.deliver_events(&receiver).await });
    client.put_object().bucket(BUCKET).key("ev/a b").body(b"xyz".to_vec().into()).send().await.unwrap();
    client.put_object().bucket(BUCKET).key("no/x").send().await.unwrap();
    client.copy_object().bucket(BUCKET).key("ev/copy").copy_source("bucket/ev/a%20b").send().await.unwrap();
    client.delete_object().bucket(BUCKET).key("ev/a b").send().await.unwrap();
    client.delete_object().bucket(BUCKET).key("ev/absent").send().await.unwrap();
    server.buckets.put(BUCKET, "ev/last", "1").await.unwrap();
    let mut sequencers = Vec::new();
    for (name, key) in [
        ("ObjectCreated:Put", "ev/a+b"),
        ("ObjectCreated:Copy", "ev/copy"),
        ("ObjectRemoved:Delete", "ev/a+b"),
        ("ObjectCreated:Put", "ev/last"),
    ] {
        let (target, found, record) = taken.recv().await.unwrap();
        assert_eq!((target.as_str(), found.as_str(), record["eventName"].as_str()), (QUEUE, key, Some(name)));
        assert_eq!(record["s3"]["configurationId"], "mine");
        assert_eq!(record["s3"]["object"].get("size").is_some(), name != "ObjectRemoved:Delete");
        sequencers.push(record["s3"]["object"]["sequencer"].as_str().unwrap().to_owned());
    }
    assert!(sequencers.is_sorted());
    delivery.abort();
}

#[tokio::test]
async fn an_event_survives_refusals_and_restarts_until_it_is_taken() {
    let root = tempfile::tempdir().unwrap();
    let buckets = open(root.path());
    buckets.create(BUCKET, &config(vec![rule(&["s3:ObjectCreated:*"], "")])).unwrap();
    buckets.put(BUCKET, "flaky", "1").await.unwrap();
    buckets.put(BUCKET, "sound", "2").await.unwrap();
    drop(buckets);

    let buckets = open(root.path());
    let (receiver, mut taken) = receiver();
    let delivering = buckets.clone();
    let delivery = tokio::spawn(async move { delivering.deliver_events(&receiver).await });
    assert_eq!(taken.recv().await.unwrap().1, "sound", "what is refused holds up nothing else");
    assert_eq!(taken.recv().await.unwrap().1, "flaky");
    buckets.put(BUCKET, "third", "3").await.unwrap();
    assert_eq!(taken.recv().await.unwrap().1, "third");
    delivery.abort();
}

#[tokio::test]
async fn lifecycle_expires_by_prefix_announces_it_and_aborts_stale_uploads() {
    let server = Server::start().await;
    let client = server.client();
    let lifecycle = LifecycleRule {
        enabled: true,
        prefix: "tmp/".into(),
        expiration_days: Some(1),
        abort_incomplete_multipart_upload_days: Some(2),
        ..LifecycleRule::default()
    };
    let disabled = LifecycleRule { enabled: false, expiration_days: Some(1), ..LifecycleRule::default() };
    let config = BucketConfig {
        lifecycle: vec![disabled, lifecycle],
        notifications: vec![rule(&["s3:LifecycleExpiration:*"], "")],
        ..BucketConfig::default()
    };
    server.buckets.create(BUCKET, &config).unwrap();
    for key in ["tmp/old", "tmp0", "keep"] {
        server.buckets.put(BUCKET, key, "x").await.unwrap();
    }
    let created = client.create_multipart_upload().bucket(BUCKET).key("tmp/up").send().await.unwrap();
    let id = created.upload_id.unwrap();
    let part = client.upload_part().bucket(BUCKET).key("tmp/up").upload_id(&id).part_number(1);
    part.body(b"part".to_vec().into()).send().await.unwrap();

    #[expect(clippy::disallowed_methods, reason = "the rules count from when the objects were really made")]
    let now = OffsetDateTime::now_utc();
    let nothing = LifecycleReport::default();
    assert_eq!(server.buckets.run_lifecycle(now).await.unwrap(), nothing);
    let expired = LifecycleReport { expired_objects: 1, aborted_uploads: 0 };
    assert_eq!(server.buckets.run_lifecycle(now + Duration::days(2)).await.unwrap(), expired);
    let aborted = LifecycleReport { expired_objects: 0, aborted_uploads: 1 };
    assert_eq!(server.buckets.run_lifecycle(now + Duration::days(3)).await.unwrap(), aborted);
    assert_eq!(server.buckets.run_lifecycle(now + Duration::days(3)).await.unwrap(), nothing);

    let left: Vec<String> = server.buckets.list(BUCKET, "").await.unwrap().into_iter().map(|it| it.key).collect();
    assert_eq!(left, ["keep", "tmp0"]);
    assert_eq!(server.bodies(), 2);
    assert_eq!(code(client.list_parts().bucket(BUCKET).key("tmp/up").upload_id(&id).send().await), "NoSuchUpload");
    let (receiver, mut taken) = receiver();
    let buckets = server.buckets.clone();
    let delivery = tokio::spawn(async move { buckets.deliver_events(&receiver).await });
    let (_, key, record) = taken.recv().await.unwrap();
    assert_eq!((key.as_str(), record["eventName"].as_str()), ("tmp/old", Some("LifecycleExpiration:Delete")));
    delivery.abort();
}
