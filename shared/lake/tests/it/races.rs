//! Eight writers, two who merge and one who reads, over a store that conflicts, refuses, fails and loses its answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use domain::fault::{Fault as _, Remedy};
use domain::lake::Kind;
use lake::{Lake, LakeFault, Merged};
use lake_rows::Level;
use tokio::sync::Mutex;

use crate::support::{Faults, Server, append, ids, ids_of, merge_files, sorted};

const WRITERS: u64 = 8;
const BATCHES: u64 = 20;
const ROWS: u64 = 5;

/// A batch of one of the writers, and its rows: no two have one in common.
fn rows(writer: u64, batch: u64) -> Vec<u64> {
    let first = (writer * BATCHES + batch) * ROWS;
    (first..first + ROWS).collect()
}

/// Asks again for as long as the lake says that it may help, as a queue does. How often it had to.
async fn append_at_last(lake: &Lake, writer: u64, batch: u64) -> u64 {
    for refused in 0..100 {
        match append(lake, &format!("{writer}-{batch}"), &rows(writer, batch)).await {
            Ok(_) => return refused,
            Err(fault) => assert_eq!(fault.remedy(), Remedy::Retry, "{fault:?}"),
        }
    }
    panic!("batch {writer}-{batch} is refused for ever");
}

#[derive(Default)]
struct Progress {
    acknowledged: Mutex<BTreeSet<u64>>,
    written: AtomicBool,
    merged: AtomicU64,
    stale: AtomicU64,
}

async fn write(lake: Lake, writer: u64, progress: Arc<Progress>) {
    for batch in 0..BATCHES {
        append_at_last(&lake, writer, batch).await;
        progress.acknowledged.lock().await.extend(rows(writer, batch));
        // Three in ten are repeated: one's own, or another's, who may be writing it at this moment.
        if (writer + batch) % 10 < 3 {
            append_at_last(&lake, (writer + batch % 2) % WRITERS, batch).await;
        }
    }
}

async fn merge(lake: Lake, progress: Arc<Progress>) {
    while !progress.written.load(Ordering::SeqCst) {
        match merge_what_there_is(&lake).await {
            Ok(Some(merged)) => {
                let count = if merged == Merged::Stale { &progress.stale } else { &progress.merged };
                count.fetch_add(1, Ordering::SeqCst);
            }
            Ok(None) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(fault) => assert_eq!(fault.remedy(), Remedy::Retry, "{fault:?}"),
        }
    }
}

async fn merge_what_there_is(lake: &Lake) -> Result<Option<Merged>, LakeFault> {
    let files = lake.files(Kind::Messages, |_| true).await?;
    if files.len() < 8 {
        return Ok(None);
    }
    merge_files(lake, Level::L1, &files).await.map(Some)
}

/// What a reader sees is what was acknowledged before it looked, and more, each once. How often it looked.
async fn read(lake: Lake, progress: Arc<Progress>) -> u64 {
    let mut looks = 0;
    while !progress.written.load(Ordering::SeqCst) {
        let acknowledged = progress.acknowledged.lock().await.clone();
        let files = match lake.files(Kind::Messages, |_| true).await {
            Ok(files) => files,
            Err(fault) => {
                assert_eq!(fault.remedy(), Remedy::Retry, "{fault:?}");
                continue;
            }
        };
        let seen = ids_of(&lake, &files).await.expect("files of a version stay for those who read it");
        let distinct: BTreeSet<_> = seen.iter().copied().collect();
        assert_eq!(distinct.len(), seen.len(), "a row is seen twice");
        let missing: Vec<_> = acknowledged.difference(&distinct).collect();
        assert!(missing.is_empty(), "acknowledged and not seen: {missing:?}");
        looks += 1;
    }
    looks
}

async fn race(faults: Faults) -> Server {
    let server = Server::start(faults).await;
    let progress = Arc::new(Progress::default());
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write(server.lake(), writer, progress.clone()))).collect();
    let mergers: Vec<_> = (0..2).map(|_| tokio::spawn(merge(server.lake(), progress.clone()))).collect();
    let reader = tokio::spawn(read(server.lake(), progress.clone()));
    for writer in writers {
        writer.await.unwrap();
    }
    progress.written.store(true, Ordering::SeqCst);
    for merger in mergers {
        merger.await.unwrap();
    }
    let looks = reader.await.unwrap();

    let expected: Vec<u64> = (0..WRITERS * BATCHES * ROWS).collect();
    let lake = server.lake();
    assert_eq!(sorted(ids(&lake).await), expected);
    let stats = lake.stats(Kind::Messages).await.unwrap();
    let count = |of: &AtomicU64| of.load(Ordering::SeqCst);
    println!(
        "{} rows in {} files at version {}; {} merges done, {} given up; {looks} looks; {} faults injected",
        stats.rows,
        stats.files,
        stats.version,
        count(&progress.merged),
        count(&progress.stale),
        server.injected(),
    );
    assert_eq!(stats.rows, expected.len() as u64);
    assert!(count(&progress.merged) > 0 && looks > 0, "the race was none");
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_there_once_while_all_race() {
    race(Faults::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_there_once_while_the_store_fails_at_every_turn() {
    let faults = Faults { conflict: 30, precondition: 30, slow_down: 30, failed_after: 50, lost_answer: 50 };
    let server = race(faults).await;
    assert!(server.injected() > 50, "{} faults", server.injected());
}

/// Whoever commits and hears nothing must find out that it did, or the rows are there twice, or it never ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_whose_every_answer_is_lost_writes_each_batch_once() {
    for faults in [Faults { failed_after: 900, ..Faults::default() }, Faults { lost_answer: 500, ..Faults::default() }]
    {
        let server = Server::start(faults).await;
        let lake = server.lake();
        for batch in 0..4 {
            append_at_last(&lake, 0, batch).await;
        }
        assert_eq!(sorted(ids(&lake).await), (0..4 * ROWS).collect::<Vec<_>>());
        assert_eq!(lake.version(Kind::Messages).await.unwrap(), Some(4), "no commit is empty, none is double");
    }
}
