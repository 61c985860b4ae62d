//! SQS mapping: messages of a queue become batches; what the function accepts is deleted, the rest comes back.

mod concurrency;
mod message;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use local_lambda::Invoker;
use local_queue::pattern::Pattern;
use local_queue::sqs::{QueueError, Queues};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::concurrency::Concurrency;
use self::message::Message;
use crate::error::chain;
use crate::response::{Outcome, outcome};
use crate::{Backoff, Counters, Shutdown, clock, payload};

/// What one `ReceiveMessage` returns at most, and how long it waits.
const RECEIVE_MAX: usize = 10;
const RECEIVE_WAIT: Duration = Duration::from_secs(20);
/// How long a receive that may just have taken messages is waited for after the signal.
const RECEIVE_GRACE: Duration = Duration::from_millis(100);

/// An `AWS::Lambda::EventSourceMapping` on an SQS queue.
#[derive(Debug, Clone)]
pub struct SqsMapping {
    pub function: String,
    /// The queue's name.
    pub queue: String,
    /// What records carry as `eventSourceARN`.
    pub queue_arn: String,
    /// 1 to 10,000 messages; 1 to 10 of a FIFO queue or without a batching window.
    pub batch_size: usize,
    /// Up to 300 s to gather a full batch, counted from its first message; none for a FIFO queue.
    pub batching_window: Duration,
    pub report_batch_item_failures: bool,
    /// 2 to 1,000 batches at once; Lambda's own ceiling by default.
    pub maximum_concurrency: Option<u32>,
    /// A message passes if it matches any of them, or if there are none; others are deleted.
    pub filters: Vec<Pattern>,
    pub fifo: bool,
    /// The queue's: how long a message that was received stays hidden.
    pub visibility_timeout: Duration,
    pub enabled: bool,
}

/// Why a mapping cannot be created.
#[derive(Debug, thiserror::Error)]
#[error("`{field}` is {value}; it must be {allowed}")]
pub struct SqsMappingError {
    pub field: &'static str,
    pub value: u64,
    pub allowed: &'static str,
}

/// Reads one queue and calls one function.
pub struct SqsPoller {
    mapping: SqsMapping,
    queues: Queues,
    invoker: Arc<dyn Invoker>,
    counters: Arc<Counters>,
    backoff: Backoff,
}

impl std::fmt::Debug for SqsPoller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqsPoller").field("mapping", &self.mapping).finish_non_exhaustive()
    }
}

impl SqsPoller {
    pub fn create(mapping: SqsMapping, queues: Queues, invoker: Arc<dyn Invoker>) -> Result<Self, SqsMappingError> {
        check(&mapping)?;
        Ok(Self { mapping, queues, invoker, counters: Arc::default(), backoff: Backoff::default() })
    }

    /// Waits otherwise than by default while the function or the queue cannot be reached.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Runs until the signal. Batches that are with the function are waited for and settled; messages that were received
    /// but not handed to it go back to the queue at once.
    pub async fn run(self, mut shutdown: Shutdown) {
        if !self.mapping.enabled {
            return;
        }
        let poller = Arc::new(self);
        let mut concurrency = Concurrency::new(poller.mapping.maximum_concurrency);
        let mut batches = JoinSet::new();
        let mut failures = 0;
        while !shutdown.is_requested() {
            while let Some(settled) = batches.try_join_next() {
                concurrency.settled(settled.unwrap_or(false));
            }
            if batches.len() >= concurrency.limit() {
                tokio::select! {
                    () = shutdown.requested() => {}
                    Some(settled) = batches.join_next() => concurrency.settled(settled.unwrap_or(false)),
                    () = concurrency.grown() => {}
                }
                continue;
            }
            match poller.gather(&mut shutdown).await {
                Ok(messages) if messages.is_empty() => failures = 0,
                Ok(messages) if shutdown.is_requested() => poller.put_back(&messages).await,
                Ok(messages) => {
                    failures = 0;
                    batches.spawn(process(Arc::clone(&poller), messages, shutdown.clone()));
                }
                Err(error) => {
                    let queue = &poller.mapping.queue;
                    tracing::error!(queue.name = %queue, error = %chain(&error), "Queue `{queue}` not read");
                    shutdown.sleep(poller.backoff.delay(failures)).await;
                    failures += 1;
                }
            }
        }
        while batches.join_next().await.is_some() {}
    }

    /// Waits for a message, then up to the batching window for more. Fails only while it has none.
    async fn gather(&self, shutdown: &mut Shutdown) -> Result<Vec<Message>, QueueError> {
        let mapping = &self.mapping;
        let mut messages = self.receive(mapping.batch_size, RECEIVE_WAIT, shutdown).await?;
        let deadline = Instant::now() + mapping.batching_window;
        let mut bytes: usize = messages.iter().map(Message::bytes).sum();
        while !messages.is_empty() && messages.len() < mapping.batch_size && bytes < payload::LIMIT_BYTES {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || shutdown.is_requested() {
                break;
            }
            let Ok(more) = self.receive(mapping.batch_size - messages.len(), left, shutdown).await else { break };
            bytes += more.iter().map(Message::bytes).sum::<usize>();
            messages.extend(more);
        }
        Ok(messages)
    }

    /// One `ReceiveMessage`; messages that the filters drop are deleted.
    async fn receive(&self, max: usize, wait: Duration, shutdown: &mut Shutdown) -> Result<Vec<Message>, QueueError> {
        let mapping = &self.mapping;
        let max = u32::try_from(max.min(RECEIVE_MAX)).unwrap_or_default();
        let visibility = Some(mapping.visibility_timeout);
        let mut receive = std::pin::pin!(self.queues.receive(&mapping.queue, max, wait.min(RECEIVE_WAIT), visibility));
        let received = tokio::select! {
            received = &mut receive => received?,
            () = shutdown.requested() => {
                tokio::time::timeout(RECEIVE_GRACE, receive).await.unwrap_or_else(|_| Ok(Vec::new()))?
            }
        };
        let now = Instant::now();
        let messages = received.into_iter().map(|it| Message::new(it, &mapping.queue_arn, now));
        let (passing, dropped): (Vec<_>, Vec<_>) = messages.partition(|message| message.passes(&mapping.filters));
        if !dropped.is_empty() {
            self.counters.filtered(dropped.len());
            self.delete(dropped.iter()).await;
        }
        Ok(passing)
    }

    /// Calls the function with messages that make one batch; returns the indices of those that failed.
    ///
    /// A function that cannot be started is tried again until the messages would be visible anyway, so that waiting for
    /// concurrency costs no receives.
    async fn call(&self, batch: &[&Message], shutdown: &mut Shutdown) -> Called {
        let Some(first) = batch.first() else { return Called::Failed(Vec::new()) };
        let deadline = first.received_at() + self.mapping.visibility_timeout;
        let event = payload::join(batch.iter().map(|message| message.json()));
        let sent_at = batch.iter().map(|message| message.sent_at()).max();
        for delays in 0.. {
            self.counters.batch(sent_at.map_or(0, clock::millis_since));
            let reply = self.invoker.invoke(&self.mapping.function, event.clone()).await;
            let all = || (0..batch.len()).collect();
            match outcome(reply, self.mapping.report_batch_item_failures) {
                Outcome::Succeeded => return Called::Failed(Vec::new()),
                Outcome::Failed(_) => {
                    self.counters.failed();
                    return Called::Failed(all());
                }
                Outcome::Partial(ids) => {
                    self.counters.failed();
                    let position = |id: &String| batch.iter().position(|message| message.id() == id);
                    // An id that is not in the batch says nothing about any message, so all of them failed.
                    return Called::Failed(ids.iter().map(position).collect::<Option<_>>().unwrap_or_else(all));
                }
                Outcome::NotStarted(reason) => {
                    let function = &self.mapping.function;
                    tracing::debug!(function.name = %function, reason, "Function not started; the batch waits");
                    let delay = self.backoff.delay(delays);
                    if Instant::now() + delay >= deadline {
                        break;
                    }
                    shutdown.sleep(delay).await;
                    if shutdown.is_requested() {
                        self.put_back(batch.iter().copied()).await;
                        break;
                    }
                    self.counters.retried();
                }
            }
        }
        Called::NotStarted
    }

    /// A message that is not deleted comes back, which at-least-once delivery allows.
    async fn delete(&self, messages: impl Iterator<Item = &Message>) {
        let handles: Vec<_> = messages.map(|message| message.receipt_handle().to_owned()).collect();
        if handles.is_empty() {
            return;
        }
        if let Err(error) = self.queues.delete(&self.mapping.queue, &handles).await {
            let queue = &self.mapping.queue;
            tracing::warn!(queue.name = %queue, error = %chain(&error), "A message of `{queue}` was not deleted and comes back");
        }
    }

    /// Makes messages visible at once. If that fails they come back after the visibility timeout.
    async fn put_back(&self, messages: impl IntoIterator<Item = &Message>) {
        let changes: Vec<_> =
            messages.into_iter().map(|message| (message.receipt_handle().to_owned(), Duration::ZERO)).collect();
        if let Err(error) = self.queues.change_visibility(&self.mapping.queue, &changes).await {
            tracing::debug!(queue.name = %self.mapping.queue, error = %chain(&error), "A message was not put back");
        }
    }
}

/// What came of the messages of one batch.
enum Called {
    /// The messages with these indices failed, the others were accepted.
    Failed(Vec<usize>),
    NotStarted,
}

/// Calls the function with all messages, in as many batches as the payload limit asks for, one after the other. Returns
/// whether every call succeeded. Failed messages are left alone: they are visible again when their time is over.
async fn process(poller: Arc<SqsPoller>, messages: Vec<Message>, mut shutdown: Shutdown) -> bool {
    // Groups of a FIFO queue in which a message failed: what follows must not overtake it.
    let mut blocked = HashSet::new();
    let mut healthy = true;
    let mut rest = messages.as_slice();
    while !rest.is_empty() {
        if shutdown.is_requested() {
            poller.put_back(rest).await;
            break;
        }
        let count = payload::fitting(rest.iter().map(Message::bytes), poller.mapping.batch_size);
        let (batch, later) = rest.split_at_checked(count).unwrap_or((rest, &[]));
        rest = later;
        let batch: Vec<_> =
            batch.iter().filter(|message| message.group().is_none_or(|group| !blocked.contains(group))).collect();
        if batch.is_empty() {
            continue;
        }
        let failed: HashSet<usize> = match poller.call(&batch, &mut shutdown).await {
            Called::Failed(failed) => failed.into_iter().collect(),
            Called::NotStarted => (0..batch.len()).collect(),
        };
        healthy &= failed.is_empty();
        let outcomes = batch.iter().enumerate();
        let (failed, accepted): (Vec<_>, Vec<_>) = outcomes.partition(|(index, _)| failed.contains(index));
        poller.counters.accepted(accepted.len());
        poller.delete(accepted.into_iter().map(|(_, message)| *message)).await;
        blocked.extend(failed.into_iter().filter_map(|(_, message)| message.group()));
    }
    healthy
}

fn check(mapping: &SqsMapping) -> Result<(), SqsMappingError> {
    let in_range = |field, value: u64, range: std::ops::RangeInclusive<u64>, allowed| {
        if range.contains(&value) { Ok(()) } else { Err(SqsMappingError { field, value, allowed }) }
    };
    let batch_size = u64::try_from(mapping.batch_size).unwrap_or(u64::MAX);
    let window = mapping.batching_window.as_secs();
    if mapping.fifo {
        in_range("BatchSize", batch_size, 1..=10, "1 to 10 for a FIFO queue")?;
        in_range("MaximumBatchingWindowInSeconds", window, 0..=0, "0 for a FIFO queue")?;
    } else if mapping.batching_window.is_zero() {
        in_range("BatchSize", batch_size, 1..=10, "1 to 10 without a batching window")?;
    } else {
        in_range("BatchSize", batch_size, 1..=10_000, "1 to 10000")?;
        in_range("MaximumBatchingWindowInSeconds", window, 0..=300, "0 to 300")?;
    }
    if let Some(concurrency) = mapping.maximum_concurrency {
        in_range("MaximumConcurrency", concurrency.into(), 2..=1000, "2 to 1000")?;
    }
    in_range("VisibilityTimeout", mapping.visibility_timeout.as_secs(), 0..=43_200, "0 to 43200")
}
