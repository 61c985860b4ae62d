//! Calls the function with the records of one lane, batch after batch, until each is done or given up.

use std::collections::VecDeque;
use std::sync::Arc;

use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::StreamPoller;
use super::failure::{Condition, Discarded};
use crate::error::chain;
use crate::response::{Failure, Outcome, outcome};
use crate::{Shutdown, clock, payload};

/// A record on its way to the function.
#[derive(Debug)]
pub(super) struct Queued {
    /// Its place in the shard's progress.
    pub(super) number: u64,
    pub(super) sequence_number: String,
    pub(super) created_at: OffsetDateTime,
    pub(super) json: String,
}

/// Records that are invoked together, and what has been tried with them.
#[derive(Debug, Default)]
struct Batch {
    records: Vec<Queued>,
    /// Failures of the first record that count against the retry budget.
    failures: u32,
    invocations: u32,
    /// How often in a row the function could not be started.
    delays: u32,
    /// Whether the last call ended in a function error.
    function_error: Option<bool>,
}

/// What came of one call.
enum Called {
    Accepted,
    /// The records before this one were accepted.
    FailedFrom(usize),
    NotStarted,
}

struct Lane {
    poller: Arc<StreamPoller>,
    shard: String,
    inbox: mpsc::UnboundedReceiver<Vec<Queued>>,
    waiting: VecDeque<Queued>,
    done: mpsc::UnboundedSender<Vec<u64>>,
    shutdown: Shutdown,
}

/// The signal came before the batch was done; its records stay behind the checkpoint.
struct Stopped;

/// Works until the signal. Reports to `done` only what was accepted by the function or by the destination.
pub(super) async fn work(
    poller: Arc<StreamPoller>,
    shard: String,
    inbox: mpsc::UnboundedReceiver<Vec<Queued>>,
    done: mpsc::UnboundedSender<Vec<u64>>,
    shutdown: Shutdown,
) {
    let mut lane = Lane { poller, shard, inbox, waiting: VecDeque::new(), done, shutdown };
    while let Some(records) = lane.next_batch().await {
        if lane.process(Batch { records, ..Batch::default() }).await.is_err() {
            return;
        }
    }
}

impl Lane {
    /// Waits for a record, then up to the batching window for more.
    async fn next_batch(&mut self) -> Option<Vec<Queued>> {
        if self.waiting.is_empty() {
            let records = tokio::select! {
                () = self.shutdown.requested() => return None,
                records = self.inbox.recv() => records?,
            };
            self.waiting.extend(records);
        }
        let deadline = Instant::now() + self.poller.mapping.batching_window;
        loop {
            while let Ok(records) = self.inbox.try_recv() {
                self.waiting.extend(records);
            }
            let count = payload::fitting(self.waiting.iter().map(|it| it.json.len()), self.poller.mapping.batch_size);
            let full = count == self.poller.mapping.batch_size || count < self.waiting.len();
            if self.shutdown.is_requested() {
                return None;
            }
            if full || Instant::now() >= deadline {
                return Some(self.waiting.drain(..count).collect());
            }
            tokio::select! {
                () = self.shutdown.requested() => return None,
                () = tokio::time::sleep_until(deadline) => {}
                records = self.inbox.recv() => self.waiting.extend(records?),
            }
        }
    }

    async fn process(&mut self, batch: Batch) -> Result<(), Stopped> {
        let mut pending = VecDeque::from([batch]);
        while let Some(mut batch) = pending.pop_front() {
            self.discard_expired(&mut batch).await?;
            if batch.records.is_empty() {
                continue;
            }
            if self.shutdown.is_requested() {
                return Err(Stopped);
            }
            match self.invoke(&mut batch).await {
                Called::Accepted => self.accept(&batch.records),
                Called::NotStarted => {
                    let delay = self.poller.pace.backoff.delay(batch.delays);
                    batch.delays += 1;
                    pending.push_front(batch);
                    self.shutdown.sleep(delay).await;
                }
                Called::FailedFrom(first) => {
                    self.poller.counters.failed();
                    let failed = batch.records.split_off(first);
                    self.accept(&batch.records);
                    batch.records = failed;
                    self.retry(batch, first, &mut pending).await?;
                }
            }
        }
        Ok(())
    }

    /// Decides what follows a failure whose first failed record is now the first of `batch`; `first` records before it
    /// were accepted.
    ///
    /// With bisecting a failed batch of several records costs no retry: what was accepted is cut off, or, if nothing was,
    /// the batch is halved. So the record that fails ends up alone, and only alone does it spend its retries.
    async fn retry(&mut self, mut batch: Batch, first: usize, pending: &mut VecDeque<Batch>) -> Result<(), Stopped> {
        let mapping = &self.poller.mapping;
        if mapping.bisect && batch.records.len() > 1 {
            batch.failures = 0;
            if first == 0 {
                let records = batch.records.split_off(batch.records.len() / 2);
                pending.push_front(Batch { records, ..batch });
            }
        } else {
            batch.failures = if first > 0 { 1 } else { batch.failures + 1 };
        }
        if mapping.retries.is_some_and(|retries| batch.failures > retries) {
            return self.discard(&batch, batch.records.len(), Condition::RetryAttemptsExhausted).await;
        }
        let delay = self.poller.pace.backoff.delay(batch.failures.saturating_sub(1));
        pending.push_front(batch);
        self.shutdown.sleep(delay).await;
        Ok(())
    }

    async fn invoke(&self, batch: &mut Batch) -> Called {
        let poller = &self.poller;
        if batch.invocations > 0 || batch.delays > 0 {
            poller.counters.retried();
        }
        let newest = batch.records.last().map_or(OffsetDateTime::UNIX_EPOCH, |record| record.created_at);
        poller.counters.batch(clock::millis_since(newest));
        let reply = poller.invoker.invoke(&poller.mapping.function, event(&batch.records)).await;
        let outcome = outcome(reply, poller.mapping.report_batch_item_failures);
        if let Outcome::NotStarted(reason) = outcome {
            tracing::debug!(function.name = %poller.mapping.function, reason, "Function not started; the batch waits");
            return Called::NotStarted;
        }
        batch.invocations += 1;
        batch.delays = 0;
        batch.function_error = Some(outcome == Outcome::Failed(Failure::FunctionError));
        match outcome {
            Outcome::Succeeded => Called::Accepted,
            Outcome::Partial(named) => {
                let position = |id: &String| batch.records.iter().position(|record| record.sequence_number == *id);
                let positions = named.iter().map(position).collect::<Option<Vec<_>>>();
                // A name that is not in the batch says nothing about any record, so all of them failed.
                Called::FailedFrom(positions.into_iter().flatten().min().unwrap_or(0))
            }
            Outcome::Failed(_) | Outcome::NotStarted(_) => Called::FailedFrom(0),
        }
    }

    async fn discard_expired(&mut self, batch: &mut Batch) -> Result<(), Stopped> {
        let Some(max_age) = self.poller.mapping.max_age else { return Ok(()) };
        let oldest = clock::now() - max_age;
        let expired = batch.records.iter().take_while(|record| record.created_at < oldest).count();
        if expired > 0 {
            self.discard(batch, expired, Condition::RecordAgeExceeded).await?;
            batch.records.drain(..expired);
        }
        Ok(())
    }

    /// Gives up the first `count` records: delivers them to the destination, however long that takes, then goes on.
    async fn discard(&mut self, batch: &Batch, count: usize, condition: Condition) -> Result<(), Stopped> {
        let records = batch.records.get(..count).unwrap_or_default();
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(()) };
        let mapping = &self.poller.mapping;
        tracing::warn!(
            function.name = %mapping.function,
            record.count = count,
            "Gave up {count} records of `{}` from `{}` on: {condition:?}",
            mapping.table,
            first.sequence_number,
        );
        if let Some(destination) = &self.poller.destination {
            let delivery = Discarded {
                mapping,
                uuid: &self.poller.uuid,
                shard: &self.shard,
                condition,
                invocations: batch.invocations,
                function_error: batch.function_error,
                first: (&first.sequence_number, first.created_at),
                last: (&last.sequence_number, last.created_at),
                count,
                event: event(records),
                now: clock::now(),
            }
            .delivery(destination);
            let mut failures = 0;
            while let Err(error) = delivery.attempt(self.poller.destinations.as_ref()).await {
                tracing::error!(error = %chain(&error), "Failure record not delivered");
                if self.shutdown.is_requested() {
                    return Err(Stopped);
                }
                self.shutdown.sleep(self.poller.pace.backoff.delay(failures)).await;
                failures += 1;
            }
        }
        self.poller.counters.discarded(count);
        self.report(records);
        Ok(())
    }

    fn accept(&self, records: &[Queued]) {
        self.poller.counters.accepted(records.len());
        self.report(records);
    }

    fn report(&self, records: &[Queued]) {
        // The reader listens until every lane has ended.
        let _ = self.done.send(records.iter().map(|record| record.number).collect());
    }
}

fn event(records: &[Queued]) -> bytes::Bytes {
    payload::join(records.iter().map(|record| record.json.as_str()))
}
