//! Messages -> events -> batches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::fault::{Fault, Refusal, Remedy};
use domain::lake::Intake;
use domain::lake::batch::BatchJob;
use domain::lake::intake::INBOX_PREFIX;
use lake::Lake;
use lake::append::{AppendFault, Appender, unpacked_bytes};
use lambda_kit::queue::Record;
use serde::Deserialize;
use time::OffsetDateTime;

/// So much of events, unpacked, is one batch at most: what the function holds in memory follows from it.
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// A batch that is not begun by then comes again: the function has not much longer.
const BEGIN_WITHIN: Duration = Duration::from_secs(15);

/// What the queue brings.
#[derive(Debug)]
enum Message {
    /// An event.
    Event(Box<Intake>),
    /// Events that were too large for a message, by their keys.
    Arrived(Vec<String>),
    /// A batch that was left behind.
    Again(BatchJob),
    /// What S3 sends when it is told of the queue.
    Test,
}

/// What S3 announces.
#[derive(Deserialize)]
struct Announcement {
    #[serde(rename = "Records")]
    records: Vec<Arrival>,
}

#[derive(Deserialize)]
struct Arrival {
    s3: S3,
}

#[derive(Deserialize)]
struct S3 {
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    key: String,
}

#[derive(Deserialize)]
struct TestEvent {
    #[serde(rename = "Event")]
    event: String,
}

impl Message {
    fn read(body: &str) -> Result<Self, Failure> {
        let not_an_event = match serde_json::from_str(body) {
            Ok(intake) => return Ok(Self::Event(Box::new(intake))),
            Err(fault) => fault,
        };
        if let Ok(announcement) = serde_json::from_str::<Announcement>(body) {
            return Ok(Self::Arrived(announcement.records.into_iter().map(|arrival| arrival.s3.object.key).collect()));
        }
        if let Ok(job) = serde_json::from_str(body) {
            return Ok(Self::Again(job));
        }
        match serde_json::from_str::<TestEvent>(body) {
            Ok(test) if test.event == "s3:TestEvent" => Ok(Self::Test),
            _ => Err(Failure::NotAnEvent(not_an_event)),
        }
    }
}

/// A batch that is being filled.
#[derive(Default)]
struct Open {
    records: Vec<Record>,
    intakes: Vec<Intake>,
    bytes: usize,
}

/// Appends what the messages bring, and gives back those that were not.
pub(crate) async fn append(
    lake: &Lake,
    appender: &Appender,
    records: Vec<Record>,
    now: OffsetDateTime,
) -> Vec<(Record, Failure)> {
    let (started, mut failed, mut open, mut left_behind) = (Instant::now(), Vec::new(), Open::default(), Vec::new());
    for record in records {
        if started.elapsed() > BEGIN_WITHIN {
            failed.push((record, Failure::NoTime));
            continue;
        }
        let intakes = match Message::read(&record.body) {
            Ok(Message::Event(intake)) => Ok(vec![*intake]),
            Ok(Message::Arrived(keys)) => fetch(lake, &keys).await,
            Ok(Message::Again(job)) => {
                left_behind.push((record, job));
                continue;
            }
            Ok(Message::Test) => Ok(Vec::new()),
            Err(failure) => Err(failure),
        };
        match intakes {
            Ok(intakes) if intakes.is_empty() => {}
            Ok(intakes) => {
                open.bytes += intakes.iter().map(|intake| unpacked_bytes(&intake.body)).sum::<usize>();
                open.intakes.extend(intakes);
                open.records.push(record);
            }
            Err(failure) => failed.push((record, failure)),
        }
        if open.bytes >= BATCH_BYTES {
            failed.extend(close(appender, std::mem::take(&mut open), now).await);
        }
    }
    failed.extend(close(appender, open, now).await);
    // There may be thousands of these after an incident, and what is said meanwhile does not wait for them.
    for (record, job) in left_behind {
        let in_time = started.elapsed() <= BEGIN_WITHIN;
        let done =
            if in_time { appender.again(&job.batch, now).await.map_err(Failure::of) } else { Err(Failure::NoTime) };
        failed.extend(done.err().map(|failure| (record, failure)));
    }
    failed
}

async fn close(appender: &Appender, open: Open, now: OffsetDateTime) -> Vec<(Record, Failure)> {
    let Err(fault) = appender.append(open.intakes, now).await else { return Vec::new() };
    let fault = Arc::new(fault);
    open.records.into_iter().map(|record| (record, Failure::Append(fault.clone()))).collect()
}

/// Reads events from the inbox. The objects stay: a message that names one may come again, and the bucket forgets them in time.
async fn fetch(lake: &Lake, keys: &[String]) -> Result<Vec<Intake>, Failure> {
    let mut intakes = Vec::with_capacity(keys.len());
    for key in keys {
        if !key.starts_with(INBOX_PREFIX) {
            return Err(Failure::NotInInbox(key.clone()));
        }
        let object = lake.read_object(key).await.map_err(|fault| Failure::of(fault.into()))?;
        let object = object.ok_or_else(|| Failure::NotInInbox(key.clone()))?;
        intakes.push(serde_json::from_slice(&object).map_err(Failure::NotAnEvent)?);
    }
    Ok(intakes)
}

/// Why a message is not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the message is no accepted event")]
    NotAnEvent(#[source] serde_json::Error),
    #[error("`{0}` is not in the inbox")]
    NotInInbox(String),
    #[error("there was no time left for it")]
    NoTime,
    /// All of a batch's messages fail for one reason.
    #[error("its batch was not appended")]
    Append(#[source] Arc<AppendFault>),
}

impl Failure {
    fn of(fault: AppendFault) -> Self {
        Self::Append(Arc::new(fault))
    }
}

impl Fault for Failure {
    fn remedy(&self) -> Remedy {
        match self {
            Self::NotAnEvent(_) | Self::NotInInbox(_) => Remedy::Reject(Refusal::Invalid),
            Self::NoTime => Remedy::Retry,
            Self::Append(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotAnEvent(_) => "not_an_event",
            Self::NotInInbox(_) => "not_in_inbox",
            Self::NoTime => "no_time",
            Self::Append(fault) => fault.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::atomic::Ordering;

    use domain::lake::Kind;
    use domain::lake::batch::BatchId;
    use domain::lake::source::{SourceDirectory, SourceName};
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use lake::Settings;
    use serde_json::json;
    use tempfile::TempDir;
    use testkit::sample::NOW;
    use testkit::{MemoryGate, MemoryIntakes, MemorySources};

    use super::*;

    struct World {
        lake: Arc<Lake>,
        gate: Arc<MemoryGate>,
        appender: Appender,
        _folder: TempDir,
    }

    fn world() -> World {
        let folder = tempfile::tempdir().unwrap();
        let lake = Arc::new(Lake::open(&Settings::folder(folder.path())).unwrap());
        let gate = Arc::<MemoryGate>::default();
        let sources = SourceDirectory::new(Arc::<MemorySources>::default());
        let appender = Appender::new(lake.clone(), gate.clone(), sources, Arc::<MemoryIntakes>::default());
        World { lake, gate, appender, _folder: folder }
    }

    impl World {
        /// The messages that were given back, with what is to be done with each.
        async fn append(&self, bodies: &[String]) -> Vec<(String, Remedy)> {
            let records = bodies.iter().enumerate().map(|(n, body)| Record::of(&n.to_string(), body.clone())).collect();
            let failed = append(&self.lake, &self.appender, records, NOW).await;
            failed.into_iter().map(|(record, failure)| (record.message_id, failure.remedy())).collect()
        }

        async fn rows(&self) -> u64 {
            self.lake.stats(Kind::Messages).await.unwrap().rows
        }
    }

    fn intake(n: u32) -> Intake {
        let said = json!({ "data": { "msg_id": format!("m-{n}"), "msg_type": 1, "create_time": NOW.unix_timestamp(), "content": "早 ☀️" } });
        Intake {
            source: SourceName::parse("wechat").unwrap(),
            request_id: format!("r-{n}"),
            received_at: NOW,
            content_type: None,
            content_encoding: None,
            body: said.to_string().into_bytes(),
        }
    }

    fn message(n: u32) -> String {
        intake(n).to_message().unwrap()
    }

    fn announced(key: &str) -> String {
        json!({ "Records": [{ "eventName": "ObjectCreated:Put", "s3": { "bucket": { "name": "b" }, "object": { "key": key, "size": 1 } } }] }).to_string()
    }

    #[tokio::test]
    async fn events_come_as_messages_and_from_the_inbox_and_poison_goes_aside() {
        let world = world();
        let large = intake(2);
        world.lake.write_object(&large.inbox_key(), large.to_message().unwrap().into()).await.unwrap();
        let test = json!({ "Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b" }).to_string();
        let bodies = [
            message(1),
            announced(&large.inbox_key()),
            test,
            "{\"hello\": \"world\"}".to_owned(),
            announced("inbox/v1/wechat/gone.json"),
            announced("raw/v1/x"),
            String::new(),
            message(3),
        ];
        let invalid = Remedy::Reject(Refusal::Invalid);
        let refused = ["3", "4", "5", "6"].map(|id| (id.to_owned(), invalid));
        for _ in 0..2 {
            assert_eq!(world.append(&bodies).await, refused);
            assert_eq!(world.rows().await, 3);
        }
    }

    /// A history that comes at once.
    #[tokio::test]
    async fn messages_of_hundreds_of_days_are_one_batch() {
        let world = world();
        let said =
            |n: i64| json!({ "data": { "msg_id": n.to_string(), "create_time": NOW.unix_timestamp() - n * 86_400 } });
        let bodies: Vec<String> = (0..400_u32)
            .map(|n| Intake { body: said(n.into()).to_string().into_bytes(), ..intake(n) }.to_message().unwrap())
            .collect();
        assert_eq!(world.append(&bodies).await, []);
        assert_eq!(world.lake.stats(Kind::Messages).await.unwrap().days.len(), 400);
        assert_eq!((world.rows().await, world.lake.list_objects("raw/v1/").await.unwrap().len()), (400, 1));
    }

    #[tokio::test]
    async fn a_batch_is_no_larger_for_being_compressed() {
        let world = world();
        let packed = |n: u32| {
            let said = json!({ "data": { "msg_id": n.to_string(), "create_time": NOW.unix_timestamp(), "content": "好".repeat(350_000) } });
            let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
            packed.write_all(said.to_string().as_bytes()).unwrap();
            Intake { body: packed.finish().unwrap(), ..intake(n) }
        };
        let intakes: Vec<Intake> = (0..40).map(packed).collect();
        assert!(intakes.iter().map(|intake| intake.body.len()).sum::<usize>() < 1 << 20);
        let bodies: Vec<String> = intakes.iter().map(|intake| intake.to_message().unwrap()).collect();
        assert_eq!(world.append(&bodies).await, []);
        let batches = world.lake.list_objects("raw/v1/").await.unwrap().len();
        assert_eq!((world.rows().await, batches), (40, 3), "16 MB each, of 42");
    }

    #[tokio::test]
    async fn a_batch_that_was_left_behind_is_carried_out_by_its_name() {
        let world = world();
        world.gate.down.store(true, Ordering::SeqCst);
        let bodies = [message(1), "poison".to_owned(), message(2)];
        let mut failed = world.append(&bodies).await;
        failed.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [("0", Remedy::Retry), ("1", Remedy::Reject(Refusal::Invalid)), ("2", Remedy::Retry)];
        assert_eq!(failed, expected.map(|(id, remedy)| (id.to_owned(), remedy)));
        assert_eq!(world.rows().await, 0);

        world.gate.down.store(false, Ordering::SeqCst);
        let raw = world.lake.list_objects("raw/v1/").await.unwrap();
        let job = BatchJob { batch: BatchId::of_raw(&raw[0].key).unwrap() };
        assert_eq!((raw.len(), world.append(&[serde_json::to_string(&job).unwrap()]).await), (1, Vec::new()));
        assert_eq!(world.rows().await, 2);
    }
}
