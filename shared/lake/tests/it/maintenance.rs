//! The jobs: what each leaves alone matters more than what it does.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use domain::clock::Clock;
use domain::lake::batch::{BatchId, Gate as _};
use domain::lake::{Kind, Partition, retention};
use lake::maintain::{Done, Job, Maintenance, Report};
use lake::{Lake, LakeFault};
use lake_rows::Level;
use tempfile::TempDir;
use testkit::{MemoryGate, MemoryIntakes};
use time::{Duration, OffsetDateTime};

use crate::support::{append, append_contact, append_to, batch_id, both, day, ids, ids_of, lake_in, merge, sorted};

const TABLE: Kind = Kind::Messages;

/// The machine's clock, as far ahead as is asked for.
struct Ahead(Duration);

#[async_trait]
impl Clock for Ahead {
    fn now(&self) -> OffsetDateTime {
        now() + self.0
    }

    async fn pause(&self, for_how_long: std::time::Duration) {
        tokio::time::sleep(for_how_long).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "what a store stamps is the machine's time")]
fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

struct World {
    maintenance: Maintenance,
    gate: Arc<MemoryGate>,
    queues: Arc<MemoryIntakes>,
    folder: TempDir,
    _scratch: TempDir,
}

fn world(clock: Duration) -> World {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (gate, queues) = (Arc::new(MemoryGate::default()), Arc::new(MemoryIntakes::default()));
    let maintenance = Maintenance {
        lake: Arc::new(lake_in(folder.path())),
        gate: gate.clone(),
        merges: queues.clone(),
        batches: queues.clone(),
        clock: Arc::new(Ahead(clock)),
        scratch: scratch.path().to_owned(),
        memory_bytes: 64 << 20,
    };
    World { maintenance, gate, queues, folder, _scratch: scratch }
}

impl World {
    fn lake(&self) -> &Lake {
        &self.maintenance.lake
    }

    async fn run(&self, job: Job, dry_run: bool) -> Report {
        let end = self.maintenance.clock.now() + Duration::minutes(10);
        self.maintenance.run(job, end, dry_run).await.unwrap()
    }
}

/// As if a file had been written so long ago.
fn age(path: &Path, by: Duration) {
    let at: SystemTime = (now() - by).into();
    std::fs::File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
}

#[tokio::test]
async fn a_day_is_sealed_once_it_is_over_and_again_when_something_comes_late() {
    // The day's end is two hours and a minute ago.
    let world = world(day().ends_at() + retention::SEAL_AFTER + Duration::MINUTE - now());
    for n in 0..5 {
        append(world.lake(), &format!("{n}"), &[n, n + 100]).await.unwrap();
    }
    let tomorrow = Partition::of(day().ends_at()).unwrap();
    append_to(world.lake(), tomorrow, "tomorrow", &[7]).await.unwrap();

    let planned = world.run(Job::Seal, true).await;
    assert_eq!(world.lake().version(TABLE).await.unwrap(), Some(6), "a dry run changes nothing");
    let Done::Rewritten(planned) = planned.done else { panic!() };
    assert_eq!((planned.len(), planned[0].files_in, planned[0].partition, planned[0].made), (1, 5, day(), None));

    let Done::Rewritten(sealed) = world.run(Job::Seal, false).await.done else { panic!() };
    assert_eq!(sealed[0].made.unwrap().rows, 10);
    let stats = world.lake().stats(TABLE).await.unwrap();
    let days: Vec<_> = stats.days.iter().map(|day| (day.files, day.small_files, day.sealed)).collect();
    assert_eq!(days, [(1, 0, true), (1, 1, false)], "and not the day that is not over");

    let version = world.lake().version(TABLE).await.unwrap();
    assert_eq!(world.run(Job::Seal, false).await.done, Done::Rewritten(vec![]));
    assert_eq!(world.lake().version(TABLE).await.unwrap(), version, "sealed is sealed");

    append(world.lake(), "late", &[500]).await.unwrap();
    let Done::Rewritten(sealed) = world.run(Job::Seal, false).await.done else { panic!() };
    assert_eq!((sealed[0].files_in, sealed[0].made.unwrap().rows), (2, 11));
    assert_eq!(world.lake().stats(TABLE).await.unwrap().rows, 12);
    assert_eq!(std::fs::read_dir(&world.maintenance.scratch).unwrap().count(), 0, "nothing is left lying about");
}

#[tokio::test]
async fn what_a_run_has_no_time_for_is_left_for_the_next_and_the_newest_day_comes_first() {
    let world = world(Duration::days(1_000));
    let days = ["2026-11-01", "2026-11-02", "2026-11-03"].map(|day| day.parse::<Partition>().unwrap());
    for (n, day) in (0..).zip(days) {
        append_to(world.lake(), day, &format!("{n}"), &[n]).await.unwrap();
    }
    append_contact(world.lake(), days[0]).await;
    let Done::Rewritten(planned) = world.run(Job::Seal, true).await.done else { panic!() };
    let planned: Vec<_> = planned.iter().map(|day| (day.kind, day.partition)).collect();
    // The tables in turn, though the contacts are of the oldest day.
    let expected = [(TABLE, days[2]), (Kind::Contacts, days[0]), (TABLE, days[1]), (TABLE, days[0])];
    assert_eq!(planned, expected);

    let over = world.maintenance.clock.now() - Duration::SECOND;
    for left in [3, 2, 1, 0] {
        let report = world.maintenance.run(Job::Seal, over, false).await.unwrap();
        assert_eq!(report.unfinished, left > 0, "the first is always begun, or a large day would never be");
        let mut open = Vec::new();
        for kind in Kind::ALL {
            let stats = world.lake().stats(kind).await.unwrap();
            open.extend(stats.days.iter().filter(|day| !day.sealed).map(|day| day.partition));
        }
        assert_eq!(open.len(), left);
        assert!(open.iter().all(|day| *day <= days[left.saturating_sub(2)]), "{open:?}");
    }
}

#[tokio::test]
async fn old_days_are_archived_once_and_say_the_same() {
    let world = world(day().ends_at() + retention::ARCHIVE_AFTER + Duration::MINUTE - now());
    append(world.lake(), "1", &(0..2_000).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(world.run(Job::Archive, false).await.done, Done::Rewritten(vec![]), "first it is sealed");
    world.run(Job::Seal, false).await;
    let before = world.lake().files(TABLE, |_| true).await.unwrap();

    let Done::Rewritten(planned) = world.run(Job::Archive, true).await.done else { panic!() };
    assert_eq!((planned.len(), planned[0].made), (1, None));
    let Done::Rewritten(archived) = world.run(Job::Archive, false).await.done else { panic!() };
    assert_eq!(archived[0].made.unwrap().rows, 2_000);
    let after = world.lake().files(TABLE, |_| true).await.unwrap();
    assert_eq!(Level::of(&after[0].path), Some(Level::Archive));
    assert_eq!(
        ids_of(world.lake(), &before).await,
        ids_of(world.lake(), &after).await,
        "the same rows in the same order"
    );
    assert_eq!(world.run(Job::Archive, false).await.done, Done::Rewritten(vec![]));
    assert_eq!(world.run(Job::Seal, false).await.done, Done::Rewritten(vec![]), "archived is sealed");
}

#[tokio::test]
async fn merges_that_nobody_asked_for_are_asked_for() {
    let world = world(Duration::ZERO);
    for n in 0..16 {
        append(world.lake(), &format!("{n}"), &[n]).await.unwrap();
    }
    let tomorrow = Partition::of(day().ends_at()).unwrap();
    append_to(world.lake(), tomorrow, "tomorrow", &[100]).await.unwrap();
    let Done::Asked(planned) = world.run(Job::Sweep, true).await.done else { panic!() };
    assert_eq!((planned.len(), planned[0].partition, planned[0].version), (1, day(), 17));
    assert!(world.queues.asked().is_empty());
    world.run(Job::Sweep, false).await;
    assert_eq!(world.queues.asked(), planned);
}

/// A raw object of this age, and whether its batch is settled.
async fn raw(world: &World, name: &str, by: Duration, settled: bool) -> BatchId {
    let batch = BatchId::new(now() - by, batch_id(name).sha256()).unwrap();
    world.lake().write_object(&batch.raw_key(), "{}".into()).await.unwrap();
    age(&world.folder.path().join(batch.raw_key()), by);
    if settled {
        world.gate.settle(&batch, now()).await.unwrap();
    }
    batch
}

#[tokio::test]
async fn raw_objects_go_when_they_are_in_the_tables_and_old_and_not_before() {
    let world = world(Duration::ZERO);
    let hour = Duration::HOUR;
    let gone = raw(&world, "old", retention::RAW + hour, true).await;
    raw(&world, "young", retention::RAW - hour, true).await;
    raw(&world, "lost", retention::RAW + hour, false).await;
    let Done::Deleted(planned) = world.run(Job::Raw, true).await.done else { panic!() };
    assert_eq!((planned.keys.as_slice(), planned.bytes), ([gone.raw_key()].as_slice(), 2));
    assert_eq!(world.lake().list_objects("raw").await.unwrap().len(), 3);
    for expected in [vec![gone.raw_key()], vec![]] {
        let Done::Deleted(deleted) = world.run(Job::Raw, false).await.done else { panic!() };
        assert_eq!(deleted.keys, expected);
        assert_eq!(world.lake().list_objects("raw").await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn a_raw_object_that_is_in_no_table_is_carried_out() {
    let world = world(Duration::ZERO);
    let hour = Duration::HOUR;
    let lost = raw(&world, "lost", retention::RECONCILE_AFTER + hour, false).await;
    raw(&world, "settled", retention::RECONCILE_AFTER + hour, true).await;
    raw(&world, "on its way", retention::RECONCILE_AFTER - hour, false).await;
    let Done::Replayed(planned) = world.run(Job::Reconcile, true).await.done else { panic!() };
    assert_eq!(planned, std::slice::from_ref(&lost));
    assert!(world.queues.again().is_empty());
    world.run(Job::Reconcile, false).await;
    assert_eq!(world.queues.again(), std::slice::from_ref(&lost));
    world.gate.settle(&lost, now()).await.unwrap();
    assert_eq!(world.run(Job::Reconcile, false).await.done, Done::Replayed(vec![]));
}

/// Files of the table's folder, but for its log.
async fn data(lake: &Lake) -> usize {
    let objects = lake.list_objects("lake/messages").await.unwrap();
    objects.iter().filter(|object| !object.key.contains("/_delta_log/")).count()
}

#[tokio::test]
async fn a_vacuum_takes_what_is_old_and_named_by_no_version_and_nothing_else() {
    let (_server, _folder, lakes) = both().await;
    for (place, lake) in lakes {
        for n in 0..3 {
            append(&lake, &format!("{n}"), &[n]).await.unwrap();
        }
        merge(&lake, Level::L1).await;
        // Somebody wrote a file and died.
        let written = lake_rows::write_parquet(TABLE, &crate::support::messages(&[9]), Level::L0).unwrap();
        let orphan = lake.write_batch_file(TABLE, day(), &batch_id("dead"), &written).await.unwrap();
        assert_eq!(data(&lake).await, 5, "{place}");

        let minute = Duration::MINUTE;
        for (later, orphans, removed) in [
            (Duration::ZERO, 0, 0),
            (retention::ORPHANS - minute, 0, 0),
            (retention::ORPHANS + minute, 1, 0),
            (retention::TOMBSTONES - minute, 1, 0),
            (retention::TOMBSTONES + minute, 1, 3),
        ] {
            let would = lake.vacuum(TABLE, now() + later, true).await.unwrap();
            assert_eq!((would.orphans.len(), would.removed.len()), (orphans, removed), "{place} after {later}");
        }
        assert_eq!(data(&lake).await, 5, "{place}: dry runs delete nothing");

        let taken = lake.vacuum(TABLE, now() + retention::ORPHANS + minute, false).await.unwrap();
        assert!(taken.orphans[0].ends_with(&orphan.path), "{place}: {taken:?}");
        assert_eq!(sorted(ids_of(&lake, &lake.files_at(TABLE, 3).await.unwrap()).await.unwrap()), [0, 1, 2], "{place}");

        lake.vacuum(TABLE, now() + retention::TOMBSTONES + minute, false).await.unwrap();
        assert_eq!((data(&lake).await, sorted(ids(&lake).await)), (1, vec![0, 1, 2]), "{place}");
        let again = append(&lake, "1", &[1]).await.unwrap();
        assert!(again.already_there, "{place}: a batch is known for longer than its file is kept");
    }
}

#[tokio::test]
async fn a_clock_that_is_ahead_makes_nothing_old() {
    let world = world(Duration::days(365));
    append(world.lake(), "1", &[1]).await.unwrap();
    append(world.lake(), "2", &[2]).await.unwrap();
    merge(world.lake(), Level::L1).await;
    let Done::Vacuumed(vacuumed) = world.run(Job::Vacuum, false).await.done else { panic!() };
    let (files, log) = &vacuumed[&TABLE];
    assert!(files.removed.is_empty() && files.orphans.is_empty() && log.objects.is_empty(), "{vacuumed:?}");
}

#[tokio::test]
async fn the_log_is_cut_before_an_old_checkpoint_and_reads_on() -> Result<(), LakeFault> {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake_in(folder.path());
    for n in 0..10 {
        append(&lake, &format!("{n}"), &[n]).await?;
        if n == 4 || n == 7 {
            lake.checkpoint(TABLE, 1).await?;
        }
    }
    let log = folder.path().join("lake/messages/_delta_log");
    let cleaned = lake.clean_log(TABLE, now(), false).await?;
    assert_eq!((cleaned.oldest_version, cleaned.objects.len()), (0, 0), "nothing is old");

    // Versions 0 to 6 are old, the checkpoint at 5 among them.
    for entry in std::fs::read_dir(&log).unwrap().map(Result::unwrap) {
        let version = entry.file_name().to_str().unwrap().get(..20).and_then(|it| it.parse::<u64>().ok());
        if version.is_some_and(|version| version <= 6) {
            age(&entry.path(), retention::LOG + Duration::HOUR);
        }
    }
    let would = lake.clean_log(TABLE, now(), true).await?;
    assert_eq!((would.oldest_version, would.objects.len()), (5, 5), "{would:?}");
    assert_eq!(lake.files_at(TABLE, 2).await?.len(), 2);
    lake.clean_log(TABLE, now(), false).await?;
    assert!(matches!(lake.files_at(TABLE, 2).await, Err(LakeFault::NoVersion(2))));

    let other = lake_in(folder.path());
    for (version, files) in [(5, 5), (6, 6), (10, 10)] {
        assert_eq!(other.files_at(TABLE, version).await?.len(), files);
    }
    // Who knew the log from before the cut goes on too.
    assert!(append(&lake, "3", &[3]).await?.already_there);
    append(&lake, "10", &[10]).await?;
    assert_eq!(sorted(ids(&other).await), (0..=10).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn a_checkpoint_is_written_when_it_is_due() {
    let world = world(Duration::ZERO);
    append(world.lake(), "1", &[1]).await.unwrap();
    for dry_run in [true, false] {
        assert_eq!(world.run(Job::Checkpoint, dry_run).await.done, Done::Checkpointed([].into()));
    }
    for n in 2..=lake::CHECKPOINT_EVERY {
        append(world.lake(), &format!("{n}"), &[n]).await.unwrap();
    }
    for dry_run in [true, false] {
        let expected = Done::Checkpointed([(TABLE, lake::CHECKPOINT_EVERY)].into());
        assert_eq!(world.run(Job::Checkpoint, dry_run).await.done, expected);
    }
    assert_eq!(world.run(Job::Checkpoint, false).await.done, Done::Checkpointed([].into()));
}

#[tokio::test]
async fn figures_come_from_the_log_alone() {
    let (server, _folder, [(_, lake), _]) = both().await;
    for n in 0..3 {
        append(&lake, &format!("{n}"), &[n]).await.unwrap();
    }
    let before = server.buckets.requests();
    let stats = lake.stats(TABLE).await.unwrap();
    assert_eq!((stats.rows, stats.files, stats.small_files, stats.version), (3, 3, 3, 3));
    assert!(stats.bytes > 0 && stats.days[0].small_bytes == stats.bytes);
    let after = server.buckets.requests();
    let asked: Vec<_> = after.iter().filter(|(name, count)| before.get(*name) != Some(count)).collect();
    assert_eq!(asked.len(), 1, "one look at what is new in the log: {asked:?}");
}
