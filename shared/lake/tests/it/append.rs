//! Batches of events: each counts once, whoever dies when.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use delta_kernel::arrow::array::AsArray as _;
use delta_kernel::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use domain::fault::PortFault;
use domain::lake::batch::{BatchId, Claim, Claimed, Gate};
use domain::lake::quarantine::{Kept, QUARANTINE_PREFIX};
use domain::lake::source::{SourceDirectory, SourceName, SourceStore as _};
use domain::lake::{Intake, Kind};
use domain::oauth::SecretHash;
use lake::append::Appender;
use lake::{Lake, Settings};
use serde_json::json;
use tempfile::TempDir;
use testkit::sample::{self, NOW};
use testkit::{MemoryGate, MemoryIntakes, MemorySources};
use time::{Duration, OffsetDateTime};

/// A gate at which its caller dies: what it was asked for is done, and nobody hears of it.
#[derive(Default)]
struct Deadly {
    gate: MemoryGate,
    at: AtomicU8,
}

const NOWHERE: u8 = 0;
const AT_CLAIMING: u8 = 1;
const AT_ASKING: u8 = 2;
const AT_SETTLING: u8 = 3;
const BEFORE_SETTLING: u8 = 4;

impl Deadly {
    fn dies(&self, at: u8) -> Result<(), PortFault> {
        if self.at.load(Ordering::SeqCst) == at { Err(PortFault::Conflict { operation: "killed" }) } else { Ok(()) }
    }
}

#[async_trait]
impl Gate for Deadly {
    async fn claim(&self, batch: &BatchId, claims: &[Claim], now: OffsetDateTime) -> Result<Vec<Claimed>, PortFault> {
        let claimed = self.gate.claim(batch, claims, now).await?;
        self.dies(AT_CLAIMING).map(|()| claimed)
    }

    async fn is_settled(&self, batch: &BatchId) -> Result<bool, PortFault> {
        self.dies(AT_ASKING)?;
        self.gate.is_settled(batch).await
    }

    async fn settle(&self, batch: &BatchId, now: OffsetDateTime) -> Result<(), PortFault> {
        self.dies(BEFORE_SETTLING)?;
        self.gate.settle(batch, now).await?;
        self.dies(AT_SETTLING)
    }
}

struct World {
    gate: Arc<Deadly>,
    merges: Arc<MemoryIntakes>,
    lake: Arc<Lake>,
    appender: Appender,
    folder: TempDir,
}

async fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let lake = Arc::new(Lake::open(&Settings::folder(folder.path())).unwrap());
    let (gate, merges) = (Arc::<Deadly>::default(), Arc::<MemoryIntakes>::default());
    let sources = Arc::new(MemorySources::default());
    sources.put(&sample::source("wechat", SecretHash("hash".to_owned()))).await.unwrap();
    let appender = Appender::new(lake.clone(), gate.clone(), SourceDirectory::new(sources), merges.clone());
    World { gate, merges, lake, appender, folder }
}

impl World {
    /// Appends, dying there; whether it was acknowledged.
    async fn append(&self, intakes: &[Intake], dies: u8) -> bool {
        self.gate.at.store(dies, Ordering::SeqCst);
        let appended = self.appender.append(intakes.to_vec(), NOW).await;
        self.gate.at.store(NOWHERE, Ordering::SeqCst);
        appended.is_ok()
    }

    /// The ids in a table, as often as they are there.
    async fn ids(&self, kind: Kind) -> Vec<String> {
        let mut ids = Vec::new();
        for file in self.lake.files(kind, |_| true).await.unwrap() {
            let bytes = self.lake.read_file(kind, &file.path).await.unwrap();
            for batch in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
                let batch = batch.unwrap();
                ids.extend(batch.column(0).as_string::<i32>().iter().map(|id| id.unwrap().to_owned()));
            }
        }
        ids.sort();
        ids
    }

    /// The reasons for which events were kept aside.
    async fn aside(&self) -> Vec<Kept> {
        let mut kept = Vec::new();
        for object in self.lake.list_objects(QUARANTINE_PREFIX).await.unwrap() {
            kept.push(serde_json::from_slice(&self.lake.read_object(&object.key).await.unwrap().unwrap()).unwrap());
        }
        kept
    }

    async fn reasons(&self) -> Vec<String> {
        let mut reasons: Vec<String> = self.aside().await.into_iter().map(|kept| kept.reason).collect();
        reasons.sort();
        reasons
    }

    /// Files of tables, those in no version among them.
    fn files(&self) -> usize {
        fn count(folder: &std::path::Path) -> usize {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let count = |path: std::path::PathBuf| match path.is_dir() {
                true => count(&path),
                false => usize::from(path.extension().is_some_and(|end| end == "parquet")),
            };
            entries.map(|entry| count(entry.path())).sum()
        }
        count(&self.folder.path().join("lake"))
    }
}

fn intake(request: u32, body: Vec<u8>) -> Intake {
    Intake {
        source: SourceName::parse("wechat").unwrap(),
        request_id: format!("r-{request}"),
        received_at: NOW + Duration::seconds(request.into()),
        content_type: None,
        content_encoding: None,
        body,
    }
}

fn said(request: u32, msg_id: u32, words: &str) -> Intake {
    let event = json!({"guid": "g", "notify_type": 1010, "data": {
        "msg_id": msg_id.to_string(), "msg_type": 1, "create_time": NOW.unix_timestamp() - i64::from(msg_id % 3) * 86_400,
        "from_username": "wxid_a", "to_username": "wxid_b", "chatroom": "", "chatroom_sender": "", "is_chatroom_msg": 0,
        "content": words, "desc": "", "source": "",
    }});
    intake(request, event.to_string().into_bytes())
}

/// Every tenth is malformed, every tenth tells of a contact; every seventh message repeats the one before.
fn event(n: u32) -> Intake {
    match n % 10 {
        3 => intake(n, format!("<xml>{n}</xml>").into_bytes()),
        6 => intake(
            n,
            json!({"guid": "g", "notify_type": 1010, "data": {"username": format!("wxid_{n}"), "alias": "", "sex": 1}})
                .to_string()
                .into_bytes(),
        ),
        _ => {
            let id = if n % 7 == 1 { n - 1 } else { n };
            let id = if matches!(id % 10, 3 | 6) { n } else { id };
            said(n, id, &format!("第 {id} 条 🎉"))
        }
    }
}

/// What a table and the quarantine must hold of the first events.
async fn holds_all(world: &World, events: u32) {
    let all: Vec<Intake> = (0..events).map(event).collect();
    let id = |intake: &Intake, field: &str| {
        let event: serde_json::Value = serde_json::from_slice(&intake.body).ok()?;
        event.get("data")?.get(field)?.as_str().map(str::to_owned)
    };
    let messages: BTreeSet<String> = all.iter().filter_map(|intake| id(intake, "msg_id")).collect();
    let contacts: BTreeSet<String> = all.iter().filter_map(|intake| id(intake, "username")).collect();
    assert_eq!(world.ids(Kind::Messages).await, messages.into_iter().collect::<Vec<_>>());
    assert_eq!(world.ids(Kind::Contacts).await, contacts.into_iter().collect::<Vec<_>>());
    assert_eq!(world.reasons().await.len(), all.iter().filter(|intake| intake.body.starts_with(b"<")).count());
}

#[tokio::test]
async fn a_batch_is_rows_and_comes_again_without_effect() {
    let world = world().await;
    let events: Vec<Intake> = (0..40).map(event).collect();
    assert!(world.append(&events, NOWHERE).await);
    holds_all(&world, 40).await;
    let (files, version) = (world.files(), world.lake.version(Kind::Messages).await.unwrap());

    // In another order, in parts, twice at once, and from its raw object.
    let mut backwards = events.clone();
    backwards.reverse();
    backwards.extend_from_slice(&events[..7]);
    for again in [&backwards[..], &events[10..30], &events[39..]] {
        assert!(world.append(again, NOWHERE).await);
    }
    let raw = world.lake.list_objects("raw/v1/").await.unwrap();
    for object in &raw {
        world.appender.again(&BatchId::of_raw(&object.key).unwrap(), NOW).await.unwrap();
    }
    holds_all(&world, 40).await;
    assert_eq!((world.files(), world.lake.version(Kind::Messages).await.unwrap()), (files, version));
    assert_eq!(raw.len(), 3, "the same events are the same batch");
}

#[tokio::test]
async fn whoever_dies_leaves_its_batch_to_who_finds_its_claims() {
    for dies in [AT_CLAIMING, AT_ASKING, BEFORE_SETTLING, AT_SETTLING] {
        let world = world().await;
        let events: Vec<Intake> = (0..30).map(event).collect();
        assert!(!world.append(&events[..20], dies).await, "{dies}");
        // Nothing of the dead batch comes again but one event, among others.
        assert!(world.append(&events[19..], NOWHERE).await);
        holds_all(&world, 30).await;
        let live: usize = world.lake.stats(Kind::Messages).await.unwrap().files as usize
            + world.lake.stats(Kind::Contacts).await.unwrap().files as usize;
        assert_eq!(world.files(), live, "files that nobody names are discarded ({dies})");
    }
}

#[tokio::test]
async fn a_helper_that_dies_too_is_helped_by_the_next() {
    let world = world().await;
    let events: Vec<Intake> = (0..30).map(event).collect();
    assert!(!world.append(&events[..12], AT_CLAIMING).await);
    assert!(!world.append(&events[10..22], AT_SETTLING).await);
    assert!(!world.append(&events[11..25], BEFORE_SETTLING).await);
    assert!(world.append(&events[..1], NOWHERE).await);
    assert!(world.append(&events[9..], NOWHERE).await);
    holds_all(&world, 30).await;
}

#[tokio::test]
async fn in_any_order_of_deaths_and_deliveries_each_event_counts_once() {
    for seed in 1..=12_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut dice = |sides: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % sides
        };
        let world = world().await;
        let mut waiting: BTreeSet<u32> = (0..60).collect();
        let mut acknowledged: Vec<u32> = Vec::new();
        let mut rounds = 0;
        while !waiting.is_empty() {
            rounds += 1;
            let mut batch: Vec<u32> = waiting.iter().copied().filter(|_| dice(3) == 0).collect();
            batch.extend(acknowledged.iter().copied().filter(|_| dice(12) == 0));
            let dies = if rounds < 40 { dice(6) as u8 } else { NOWHERE };
            let intakes: Vec<Intake> = batch.iter().copied().map(event).collect();
            if world.append(&intakes, dies).await {
                for n in batch {
                    waiting.remove(&n);
                    acknowledged.push(n);
                }
                let stored = world.ids(Kind::Messages).await;
                assert_eq!(stored.iter().collect::<BTreeSet<_>>().len(), stored.len(), "doubled, seed {seed}");
            }
        }
        holds_all(&world, 60).await;
    }
}

#[tokio::test]
async fn a_message_that_says_something_else_is_kept_aside_once() {
    let world = world().await;
    let (first, second, third) = (said(1, 7, "三点开会"), said(2, 7, "四点开会"), said(3, 7, "三点开会"));
    assert!(world.append(&[first.clone(), second.clone()], NOWHERE).await);
    assert!(world.append(&[second.clone(), third], NOWHERE).await);
    assert!(world.append(&[said(4, 7, "五点开会")], NOWHERE).await);
    assert!(world.append(&[second.clone(), first], NOWHERE).await);
    assert_eq!(world.ids(Kind::Messages).await, ["7"]);
    let mut aside = world.aside().await;
    aside.sort_by(|a, b| a.intake.request_id.cmp(&b.intake.request_id));
    assert_eq!(aside.iter().map(|kept| kept.intake.request_id.as_str()).collect::<Vec<_>>(), ["r-2", "r-4"]);
    assert!(aside.iter().all(|kept| kept.reason == "conflict") && aside[0].intake == second);

    // Sent again it is as it was, under the name that it was sent by.
    let again = aside[0].again();
    for _ in 0..2 {
        assert!(world.append(std::slice::from_ref(&again), NOWHERE).await);
    }
    assert_eq!((world.ids(Kind::Messages).await.len(), world.aside().await.len()), (1, 3));
}

#[tokio::test]
async fn the_same_words_of_a_contact_count_again_in_a_later_request() {
    let world = world().await;
    let told = |request: u32, alias: &str| {
        intake(request, json!({"data": {"username": "wxid_a", "alias": alias, "sex": 1}}).to_string().into_bytes())
    };
    for (request, alias) in [(1, "old"), (2, "new"), (3, "old")] {
        assert!(world.append(&[told(request, alias)], NOWHERE).await);
        assert!(world.append(&[told(request, alias)], NOWHERE).await);
    }
    assert_eq!(world.ids(Kind::Contacts).await, ["wxid_a", "wxid_a", "wxid_a"], "the last one is the latest");
    // Of one batch only the latest is a row; the others are known all the same.
    assert!(world.append(&[told(4, "a"), told(5, "b")], NOWHERE).await);
    assert!(world.append(&[told(4, "a")], NOWHERE).await);
    assert_eq!(world.ids(Kind::Contacts).await.len(), 4);
}

#[tokio::test]
async fn what_comes_packed_is_unpacked_and_what_does_not_unpack_keeps_its_bytes() {
    use std::io::Write as _;
    let gzip = |body: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    };
    let world = world().await;
    let cut = gzip(&said(2, 2, "x").body)[..30].to_vec();
    let bomb = gzip(&vec![b' '; 64 * 1024 * 1024]);
    let intakes = [intake(1, gzip(&said(1, 1, "压缩").body)), intake(2, cut.clone()), intake(3, bomb.clone())];
    assert!(world.append(&intakes, NOWHERE).await);
    assert_eq!(world.ids(Kind::Messages).await, ["1"]);
    let mut aside = world.aside().await;
    aside.sort_by_key(|kept| kept.raw_line);
    let kept: Vec<(&str, &[u8])> =
        aside.iter().map(|kept| (kept.reason.as_str(), kept.intake.body.as_slice())).collect();
    assert_eq!(kept, [("packed", cut.as_slice()), ("too_long", bomb.as_slice())]);
}

#[tokio::test]
async fn merging_is_asked_for_when_it_is_due_and_appending_does_not_wait_for_it() {
    let world = world().await;
    world.merges.down.store(true, Ordering::SeqCst);
    for n in 0..16 {
        assert!(world.append(&[said(n, n * 3, "x")], NOWHERE).await);
    }
    assert!(world.merges.asked().is_empty());
    world.merges.down.store(false, Ordering::SeqCst);
    assert!(world.append(&[said(16, 48, "x")], NOWHERE).await);
    let asked = world.merges.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].kind, asked[0].partition.date()), (Kind::Messages, NOW.date()));
    assert_eq!(Some(asked[0].version), world.lake.version(Kind::Messages).await.unwrap());
}
