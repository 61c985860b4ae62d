//! SIGKILL at any instant, between any two requests, of eight who write and two who merge, over a store that fails: the table has every
//! acknowledged batch once, and nothing of half a batch.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use domain::fault::{Fault as _, Remedy};
use domain::lake::Kind;
use lake::{Lake, LakeFault};
use lake_rows::Level;

use crate::support::{Faults, Server, append, ids, ids_of, merge_files, settings, sorted};

/// `<address of the store> <number of the process> <first batch>`
const ORDERS: &str = "LAKE_CRASH_ORDERS";

const WRITERS: u64 = 8;
const MERGERS: u64 = 2;
const BATCHES: u64 = 10;
const ROUNDS: u64 = 4;
const ROWS: u64 = 4;

/// So many batches are acknowledged in a round before everybody is killed.
const EACH_ROUND: u64 = 12;

/// No round takes longer, or something is stuck.
const PATIENCE: Duration = Duration::from_secs(120);

fn rows(writer: u64, batch: u64) -> Vec<u64> {
    let first = (writer * BATCHES + batch) * ROWS;
    (first..first + ROWS).collect()
}

/// Asks again for as long as that may help, as a queue does.
async fn at_last<T>(ask: impl AsyncFn() -> Result<T, LakeFault>) -> T {
    loop {
        match ask().await {
            Ok(done) => return done,
            Err(fault) => assert_eq!(fault.remedy(), Remedy::Retry, "{fault:?}"),
        }
    }
}

async fn write(lake: &Lake, writer: u64, batch: u64) {
    at_last(async || append(lake, &format!("{writer}-{batch}"), &rows(writer, batch)).await).await;
}

async fn merge(lake: &Lake) -> Result<(), LakeFault> {
    let files = lake.files(Kind::Messages, |_| true).await?;
    if files.len() > 3 {
        merge_files(lake, Level::L1, &files).await?;
    }
    Ok(())
}

/// Runs as the child processes of the test below; on its own it does nothing.
#[tokio::test]
async fn child() {
    let Some(orders) = std::env::var_os(ORDERS) else { return };
    let orders = orders.into_string().unwrap();
    let [address, number, first]: [&str; 3] = orders.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let (lake, number) = (Lake::open(&settings(address.parse().unwrap())).unwrap(), number.parse::<u64>().unwrap());
    println!("\nstarted");
    if number >= WRITERS {
        loop {
            at_last(async || merge(&lake).await).await;
        }
    }
    for batch in first.parse().unwrap()..BATCHES {
        write(&lake, number, batch).await;
        println!("acknowledged {batch}");
        // Three in ten come again.
        if (number + batch) % 10 < 3 {
            write(&lake, number, batch).await;
        }
    }
}

struct Process {
    child: Child,
    acknowledged: std::thread::JoinHandle<Option<u64>>,
}

impl Process {
    fn start(server: &Server, number: u64, first: u64, count: &Arc<AtomicU64>) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child", "--nocapture"])
            .env(ORDERS, format!("{} {number} {first}", server.address))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let count = count.clone();
        let told = move || {
            let batches = lines.filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
            let counted = batches.inspect(|_| {
                count.fetch_add(1, Ordering::SeqCst);
            });
            counted.last()
        };
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
        let files = match lake.files(Kind::Messages, |_| true).await {
            Ok(files) => files,
            Err(fault) => {
                assert_eq!(fault.remedy(), Remedy::Retry, "{fault:?}");
                continue;
            }
        };
        let rows = ids_of(&lake, &files).await.unwrap();
        let distinct: BTreeSet<_> = rows.iter().copied().collect();
        assert_eq!(distinct.len(), rows.len(), "a row is seen twice");
        assert!(seen.is_subset(&distinct), "rows are gone");
        assert_eq!(distinct.len() as u64 % ROWS, 0, "half a batch is seen");
        (seen, looks) = (distinct, looks + 1);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    looks
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_instant_no_writer_loses_or_repeats_a_row() {
    let faults = Faults { conflict: 30, precondition: 30, slow_down: 30, failed_after: 50, lost_answer: 50 };
    let server = Server::start(faults).await;
    let lake = server.lake();
    let done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn(read(server.lake(), done.clone()));
    let mut next = [0; WRITERS as usize];
    for _ in 0..ROUNDS {
        let count = Arc::new(AtomicU64::new(0));
        let first = |number: u64| next.get(number as usize).copied().unwrap_or_default();
        let processes: Vec<_> =
            (0..WRITERS + MERGERS).map(|number| Process::start(&server, number, first(number), &count)).collect();
        let began = Instant::now();
        let all_done = || next.iter().all(|next| next + 1 >= BATCHES);
        while count.load(Ordering::SeqCst) < EACH_ROUND && !all_done() {
            assert!(began.elapsed() < PATIENCE, "nobody gets anywhere");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let killed = tokio::task::spawn_blocking(|| processes.into_iter().map(Process::kill).collect::<Vec<_>>());
        for (next, acknowledged) in next.iter_mut().zip(killed.await.unwrap()) {
            // The next one begins with what was acknowledged last, as a queue does whose delete was lost.
            *next = acknowledged.unwrap_or(*next);
        }
    }
    let killed = at_last(async || lake.stats(Kind::Messages).await).await;
    for writer in 0..WRITERS {
        for batch in next[writer as usize]..BATCHES {
            write(&lake, writer, batch).await;
        }
    }
    done.store(true, Ordering::SeqCst);
    let looks = reader.await.unwrap();
    println!(
        "{} rows in {} files at version {} by processes that were killed, the rest by one that was not; {looks} looks; {} faults injected",
        killed.rows,
        killed.files,
        killed.version,
        server.injected(),
    );
    assert!(killed.rows >= ROUNDS * EACH_ROUND / 2 * ROWS, "they got somewhere");
    assert_eq!(sorted(ids(&lake).await), (0..WRITERS * BATCHES * ROWS).collect::<Vec<_>>());
}
