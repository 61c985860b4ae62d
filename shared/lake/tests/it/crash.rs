//! SIGKILL at any instant, between any two requests: the table has every acknowledged batch once, and nothing of half a batch.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::lake::Kind;
use lake::Lake;
use lake_rows::Level;

use crate::support::{Faults, Server, append, ids, ids_of, merge_files, settings, sorted};

/// `<address of the store> <writer> <first batch>`
const ORDERS: &str = "LAKE_CRASH_ORDERS";

const WRITERS: u64 = 3;
const BATCHES: u64 = 12;
const ROUNDS: u64 = 4;
const ROWS: u64 = 4;

fn rows(writer: u64, batch: u64) -> Vec<u64> {
    let first = (writer * BATCHES + batch) * ROWS;
    (first..first + ROWS).collect()
}

async fn write(lake: &Lake, writer: u64, batch: u64) {
    append(lake, &format!("{writer}-{batch}"), &rows(writer, batch)).await.unwrap();
}

/// Runs as the child process of the test below, and merges what it wrote; on its own it does nothing.
#[tokio::test]
async fn child_writer() {
    let Some(orders) = std::env::var_os(ORDERS) else { return };
    let orders = orders.into_string().unwrap();
    let [address, writer, first]: [&str; 3] = orders.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let (lake, writer) = (Lake::open(&settings(address.parse().unwrap())).unwrap(), writer.parse().unwrap());
    println!("\nstarted");
    for batch in first.parse().unwrap()..BATCHES {
        write(&lake, writer, batch).await;
        println!("acknowledged {batch}");
        if (writer + batch) % 3 == 0 {
            let files = lake.files(Kind::Messages, |_| true).await.unwrap();
            // Another's merge may take an input away, which is as good.
            let _ = merge_files(&lake, Level::L1, &files).await;
        }
    }
}

struct Writer {
    child: Child,
    acknowledged: std::thread::JoinHandle<Option<u64>>,
}

impl Writer {
    fn start(server: &Server, writer: u64, first: u64) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_writer", "--nocapture"])
            .env(ORDERS, format!("{} {writer} {first}", server.address))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "started"));
        let told = move || lines.filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok()).last();
        Self { child, acknowledged: std::thread::spawn(told) }
    }

    /// SIGKILL. The last batch that it said is done.
    fn kill(mut self) -> Option<u64> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.acknowledged.join().unwrap()
    }
}

/// Looks at the table again and again: no row twice, and never fewer than before.
async fn read(lake: Lake, done: Arc<AtomicBool>) -> u64 {
    let (mut seen, mut looks) = (BTreeSet::new(), 0);
    while !done.load(Ordering::SeqCst) {
        let files = lake.files(Kind::Messages, |_| true).await.unwrap();
        let rows = ids_of(&lake, &files).await.unwrap();
        let distinct: BTreeSet<_> = rows.iter().copied().collect();
        assert_eq!(distinct.len(), rows.len(), "a row is seen twice");
        assert!(seen.is_subset(&distinct), "rows are gone");
        assert_eq!(distinct.len() as u64 % ROWS, 0, "half a batch is seen");
        (seen, looks) = (distinct, looks + 1);
    }
    looks
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_instant_no_writer_loses_or_repeats_a_row() {
    let server = Server::start(Faults::default()).await;
    // The table is made, or the first reader looks at nothing.
    let lake = server.lake();
    let done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn(read(server.lake(), done.clone()));
    let mut next = [0; WRITERS as usize];
    for round in 0..ROUNDS {
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| Writer::start(&server, writer, next[writer as usize])).collect();
        for (number, writer) in writers.into_iter().enumerate() {
            tokio::time::sleep(Duration::from_millis(120 + 57 * round + 31 * number as u64)).await;
            if let Some(acknowledged) = tokio::task::spawn_blocking(move || writer.kill()).await.unwrap() {
                // The next one begins with what was acknowledged last, as a queue does whose delete was lost.
                next[number] = acknowledged;
            }
        }
    }
    let committed = lake.stats(Kind::Messages).await.unwrap().rows;
    for writer in 0..WRITERS {
        for batch in next[writer as usize]..BATCHES {
            write(&lake, writer, batch).await;
        }
    }
    done.store(true, Ordering::SeqCst);
    let looks = reader.await.unwrap();
    println!("{committed} rows by writers that were killed, the rest by one that was not; {looks} looks");
    assert_eq!(sorted(ids(&lake).await), (0..WRITERS * BATCHES * ROWS).collect::<Vec<_>>());
}
