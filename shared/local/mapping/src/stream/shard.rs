//! Reads one shard, hands its records to lanes by item, and keeps its checkpoint.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::StreamPoller;
use super::lane::{self, Queued};
use super::progress::Progress;
use super::source::{PAGE, Page, Shard};
use crate::Shutdown;
use crate::error::chain;

/// The shards of the stream, or `None` if the signal came first.
pub(super) async fn list(poller: &StreamPoller, shutdown: &mut Shutdown) -> Option<Vec<Shard>> {
    for failures in 0.. {
        if shutdown.is_requested() {
            return None;
        }
        match poller.source.shards() {
            Ok(shards) => return Some(shards),
            Err(error) => wait_after(poller, &error, failures, shutdown).await,
        }
    }
    None
}

/// Reads `shard` until the signal.
pub(super) async fn read(poller: Arc<StreamPoller>, shard: String, mut shutdown: Shutdown) {
    let Some(mut iterator) = begin(&poller, &shard, &mut shutdown).await else { return };
    let (done, mut finished) = mpsc::unbounded_channel();
    let mut workers = JoinSet::new();
    let lanes: Vec<_> = (0..poller.mapping.parallelization_factor)
        .map(|_| {
            let (lane, inbox) = mpsc::unbounded_channel();
            workers.spawn(lane::work(Arc::clone(&poller), shard.clone(), inbox, done.clone(), shutdown.clone()));
            lane
        })
        .collect();
    drop(done);

    let mut progress = Progress::default();
    let mut next_poll = Instant::now();
    let mut failures = 0;
    loop {
        tokio::select! {
            () = shutdown.requested() => break,
            Some(numbers) = finished.recv() => {
                settle(&poller, &shard, &mut progress, numbers, &mut finished);
            }
            () = tokio::time::sleep_until(next_poll), if !progress.is_full() => {
                match poller.source.page(iterator.clone()).await {
                    Ok(page) => {
                        failures = 0;
                        // A full page means that there is more to read now.
                        let wait = if page.records.len() < PAGE { poller.pace.poll } else { Default::default() };
                        next_poll = Instant::now() + wait;
                        iterator = page.next.clone();
                        distribute(&poller, page, &mut progress, &lanes);
                        save(&poller, &shard, &mut progress);
                    }
                    Err(error) => {
                        wait_after(&poller, &error, failures, &mut shutdown).await;
                        failures += 1;
                    }
                }
            }
        }
    }
    drop(lanes);
    while let Some(numbers) = finished.recv().await {
        settle(&poller, &shard, &mut progress, numbers, &mut finished);
    }
}

/// The iterator to begin with: behind the checkpoint, or at the oldest record of a shard that has none.
async fn begin(poller: &StreamPoller, shard: &str, shutdown: &mut Shutdown) -> Option<String> {
    for failures in 0.. {
        if shutdown.is_requested() {
            return None;
        }
        let error: Box<dyn std::error::Error + Send + Sync> = match poller.checkpoints.load(&poller.uuid, shard) {
            Ok(checkpoint) => match poller.source.iterator(shard, checkpoint).await {
                Ok(iterator) => return Some(iterator),
                Err(error) => error.into(),
            },
            Err(error) => error.into(),
        };
        wait_after(poller, error.as_ref(), failures, shutdown).await;
    }
    None
}

/// Queues the records that pass the filters, those of one item always in the same lane.
fn distribute(
    poller: &StreamPoller,
    page: Page,
    progress: &mut Progress,
    lanes: &[mpsc::UnboundedSender<Vec<Queued>>],
) {
    let filters = &poller.mapping.filters;
    let mut queued: Vec<Vec<Queued>> = lanes.iter().map(|_| Vec::new()).collect();
    let mut dropped = 0;
    for record in page.records {
        let json = record.event.to_string();
        let number = progress.read(record.sequence_number.clone(), json.len());
        if !filters.is_empty() && !filters.iter().any(|filter| filter.matches(&record.event)) {
            progress.done(number);
            dropped += 1;
            continue;
        }
        let lane = usize::try_from(record.item_hash % lanes.len() as u64).unwrap_or_default();
        if let Some(lane) = queued.get_mut(lane) {
            lane.push(Queued { number, sequence_number: record.sequence_number, created_at: record.created_at, json });
        }
    }
    poller.counters.filtered(dropped);
    for (lane, records) in lanes.iter().zip(queued).filter(|(_, records)| !records.is_empty()) {
        // A lane ends only after the shutdown signal; what it does not take stays behind the checkpoint.
        let _ = lane.send(records);
    }
}

fn settle(
    poller: &StreamPoller,
    shard: &str,
    progress: &mut Progress,
    numbers: Vec<u64>,
    finished: &mut mpsc::UnboundedReceiver<Vec<u64>>,
) {
    let waiting = std::iter::from_fn(|| finished.try_recv().ok()).flatten();
    for number in numbers.into_iter().chain(waiting) {
        progress.done(number);
    }
    save(poller, shard, progress);
}

fn save(poller: &StreamPoller, shard: &str, progress: &mut Progress) {
    let Some(sequence_number) = progress.advance() else { return };
    if let Err(error) = poller.checkpoints.save(&poller.uuid, shard, &sequence_number) {
        // The next save covers it; a process that ends before delivers these records again.
        tracing::error!(shard.id = shard, error = %chain(&error), "Checkpoint not saved");
    }
}

async fn wait_after(
    poller: &StreamPoller,
    error: &(dyn std::error::Error + Send + Sync + 'static),
    failures: u32,
    shutdown: &mut Shutdown,
) {
    let table = &poller.mapping.table;
    tracing::error!(table.name = %table, error = %chain(error), "Stream of `{table}` not read");
    shutdown.sleep(poller.pace.backoff.delay(failures)).await;
}
