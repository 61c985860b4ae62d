//! SQS: standard and FIFO queues on SQLite, with visibility, redrive, deduplication and the JSON protocol.

mod attributes;
mod checksum;
mod error;
mod messages;
mod moves;
mod protocol;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::error::QueueError;

use self::attributes::{Attributes, MAX_VISIBILITY};
use self::messages::{Batch, Checked};
use crate::clock::{Clock, SystemClock};
use crate::store::{Store, StoreError};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS queues (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    attributes TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    modified_ms INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, -- order of arrival; the sequence number of FIFO messages
    queue INTEGER NOT NULL REFERENCES queues (id) ON DELETE CASCADE,
    visible_ms INTEGER NOT NULL,
    sent_ms INTEGER NOT NULL,
    receives INTEGER NOT NULL,
    receipt INTEGER,
    received_ms INTEGER,
    first_received_ms INTEGER,
    source TEXT, -- the ARN of the queue it was dead-lettered from
    message_id TEXT NOT NULL,
    group_id TEXT,
    deduplication_id TEXT,
    trace_header TEXT,
    attributes TEXT NOT NULL,
    md5 TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS messages_by_visibility ON messages (queue, visible_ms);
CREATE INDEX IF NOT EXISTS messages_by_age ON messages (queue, sent_ms);
CREATE INDEX IF NOT EXISTS messages_in_order ON messages (queue, id, group_id, visible_ms, receives)
    WHERE deduplication_id IS NOT NULL;
CREATE TABLE IF NOT EXISTS deduplication (
    queue INTEGER NOT NULL REFERENCES queues (id) ON DELETE CASCADE,
    scope TEXT NOT NULL,
    deduplication_id TEXT NOT NULL,
    expires_ms INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (queue, scope, deduplication_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS deduplication_by_expiry ON deduplication (expires_ms);
CREATE TABLE IF NOT EXISTS message_moves (
    handle TEXT PRIMARY KEY,
    started_ms INTEGER NOT NULL,
    source TEXT NOT NULL,
    destination TEXT,
    per_second INTEGER,
    last_id INTEGER NOT NULL,
    to_move INTEGER NOT NULL,
    moved INTEGER NOT NULL DEFAULT 0,
    status TEXT NOT NULL,
    failure TEXT
);
";

/// A longer wait is as good as none that ends, and would overflow the clock.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 86_400);

/// All queues of one data file. Cheap to clone.
///
/// Whatever a method acknowledges is on disk: the process may be killed at any moment.
/// Methods without `async` read memory or a local file and may block for a few milliseconds.
#[derive(Debug, Clone)]
pub struct Queues(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    clock: Arc<dyn Clock>,
    endpoint: String,
    account: String,
    region: String,
    queues: RwLock<BTreeMap<String, Arc<Queue>>>,
    /// Held while definitions change, so that none is based on what another just replaced.
    definitions: Mutex<()>,
}

/// A queue as it was defined when an operation began.
#[derive(Debug)]
struct Queue {
    id: i64,
    name: String,
    arn: String,
    /// The `SenderId` of every message.
    account: String,
    attributes: Attributes,
    created_ms: i64,
    modified_ms: i64,
    /// Told whenever a message may have become receivable.
    arrivals: Arc<Notify>,
}

/// A message handed to a consumer, as `ReceiveMessage` and an event source mapping see it.
#[derive(Debug, Clone)]
pub struct Received {
    pub message_id: String,
    pub receipt_handle: String,
    pub body: String,
    pub md5_of_body: String,
    /// System attributes: `ApproximateReceiveCount`, `SentTimestamp`, `SenderId`, `ApproximateFirstReceiveTimestamp`,
    /// and for FIFO `MessageGroupId`, `MessageDeduplicationId`, `SequenceNumber`; `AWSTraceHeader` if sent,
    /// `DeadLetterQueueSourceArn` on a dead-letter queue.
    pub attributes: BTreeMap<String, String>,
    pub message_attributes: BTreeMap<String, MessageAttribute>,
}

/// A message attribute: `data_type` is `String`, `Number` or `Binary`, with an optional custom suffix.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MessageAttribute {
    pub data_type: String,
    pub string_value: Option<String>,
    /// Base64, as the JSON protocol carries it.
    pub binary_value: Option<String>,
}

impl MessageAttribute {
    /// An attribute of type `String`.
    #[must_use]
    pub fn string(value: impl Into<String>) -> Self {
        Self { data_type: "String".into(), string_value: Some(value.into()), binary_value: None }
    }
}

/// A message to send.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    pub body: String,
    /// Overrides the queue's `DelaySeconds`; refused by FIFO queues unless zero.
    pub delay: Option<Duration>,
    /// Required by FIFO queues.
    pub group_id: Option<String>,
    /// Required by FIFO queues without `ContentBasedDeduplication`.
    pub deduplication_id: Option<String>,
    pub message_attributes: BTreeMap<String, MessageAttribute>,
    /// Only `AWSTraceHeader` is known.
    pub system_attributes: BTreeMap<String, String>,
}

/// What the sender learns about an accepted message. A duplicate within the deduplication interval
/// gets the answer of the message it repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub message_id: String,
    pub md5_of_body: String,
    /// 20 digits, for FIFO queues.
    pub sequence_number: Option<String>,
}

/// How many messages a queue holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    pub visible: u64,
    pub in_flight: u64,
    pub delayed: u64,
}

impl Queues {
    /// Opens or creates the file at `path`; `endpoint` (`http://127.0.0.1:PORT`) begins every queue URL.
    /// Message move tasks that were running when the process ended go on.
    pub fn open(path: &Path, endpoint: &str, account: &str, region: &str) -> Result<Self, QueueError> {
        Self::open_with_clock(path, endpoint, account, region, Arc::new(SystemClock::default()))
    }

    /// As [`Queues::open`], on a clock that tests can move.
    pub fn open_with_clock(
        path: &Path,
        endpoint: &str,
        account: &str,
        region: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, QueueError> {
        let store = Store::open(path, SCHEMA)?;
        let queues = Self(Arc::new(Shared {
            store,
            clock,
            endpoint: endpoint.trim_end_matches('/').into(),
            account: account.into(),
            region: region.into(),
            queues: RwLock::default(),
            definitions: Mutex::default(),
        }));
        queues.load()?;
        queues.resume_moves()?;
        Ok(queues)
    }

    /// Creates a queue and returns its URL. Repeating it with the same or fewer attributes returns the same URL;
    /// with other values it fails with [`QueueError::QueueNameExists`]. A dead-letter queue must exist before the
    /// queue whose `RedrivePolicy` names it.
    pub fn create(&self, name: &str, attributes: BTreeMap<String, String>) -> Result<String, QueueError> {
        let _changing = self.0.definitions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(existing) = self.find(name) {
            existing.attributes.must_agree_with(name, attributes)?;
            return Ok(self.url(name));
        }
        let attributes = Attributes::parse(name, attributes)?;
        self.check_redrive(name, &attributes)?;
        let now = self.now();
        let row = (name.to_owned(), attributes.to_json(), now);
        let id = self.0.store.write_blocking(move |connection| {
            connection.execute(
                "INSERT INTO queues (name, attributes, created_ms, modified_ms) VALUES (?1, ?2, ?3, ?3)",
                row,
            )?;
            Ok::<_, QueueError>(connection.last_insert_rowid())
        })?;
        self.remember(id, name, attributes, now, now, Arc::default());
        Ok(self.url(name))
    }

    /// Changes some attributes and keeps the others; an empty value restores the default.
    pub fn set_attributes(&self, name: &str, changes: BTreeMap<String, String>) -> Result<(), QueueError> {
        let _changing = self.0.definitions.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = self.find(name)?;
        let attributes = queue.attributes.changed(name, changes)?;
        self.check_redrive(name, &attributes)?;
        let now = self.now();
        let row = (queue.id, attributes.to_json(), now);
        self.0.store.write_blocking(move |connection| {
            connection.execute("UPDATE queues SET attributes = ?2, modified_ms = ?3 WHERE id = ?1", row)?;
            Ok::<_, QueueError>(())
        })?;
        self.remember(queue.id, name, attributes, queue.created_ms, now, Arc::clone(&queue.arrivals));
        queue.arrivals.notify_waiters();
        Ok(())
    }

    /// Deletes a queue and its messages; whoever waits on it is told that it does not exist.
    pub fn remove(&self, name: &str) -> Result<(), QueueError> {
        let _changing = self.0.definitions.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = self.find(name)?;
        let id = queue.id;
        self.0.store.write_blocking(move |connection| {
            connection.execute("DELETE FROM queues WHERE id = ?1", [id])?;
            Ok::<_, QueueError>(())
        })?;
        self.0.queues.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        queue.arrivals.notify_waiters();
        Ok(())
    }

    #[must_use]
    pub fn exists(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// The names of all queues, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.queues.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// The URL a queue of this name has.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("{}/{}/{name}", self.0.endpoint, self.0.account)
    }

    /// The ARN a queue of this name has.
    #[must_use]
    pub fn arn(&self, name: &str) -> String {
        format!("arn:aws:sqs:{}:{}:{name}", self.0.region, self.0.account)
    }

    /// Stores all messages, in order, or none: one that is invalid refuses the rest.
    pub async fn send(&self, queue: &str, messages: Vec<Outgoing>) -> Result<Vec<Sent>, QueueError> {
        let queue = self.find(queue)?;
        let checked =
            messages.into_iter().map(|message| messages::check(&queue, message)).collect::<Result<Vec<_>, _>>()?;
        self.store_checked(&queue, checked).await
    }

    /// Receives up to `max` messages, waiting up to `wait` for the first; `visibility` overrides the queue's timeout.
    /// Messages past the queue's `maxReceiveCount` go to its dead-letter queue instead of the caller.
    /// Dropping the future while it waits takes nothing.
    ///
    /// Calls that wait are woken by arrivals, by deletions that free a FIFO group, and by timeouts that end.
    pub async fn receive(
        &self,
        queue: &str,
        max: u32,
        wait: Duration,
        visibility: Option<Duration>,
    ) -> Result<Vec<Received>, QueueError> {
        if visibility.is_some_and(|timeout| timeout > MAX_VISIBILITY) {
            return Err(QueueError::invalid("VisibilityTimeout", "Must be between 0 and 43200 seconds."));
        }
        let deadline = Instant::now() + wait.min(LONGEST_WAIT);
        loop {
            let current = self.find(queue)?;
            let arrivals = Arc::clone(&current.arrivals);
            let mut arrived = std::pin::pin!(arrivals.notified());
            // Registered before looking, so that an arrival between the look and the wait is not missed.
            arrived.as_mut().enable();
            let batch = self.receive_now(&current, max, visibility).await?;
            if !batch.messages.is_empty() || max == 0 || Instant::now() >= deadline {
                return Ok(batch.messages);
            }
            let wake = batch.next_visible.map_or(deadline, |until| deadline.min(Instant::now() + until));
            tokio::select! {
                () = arrived => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Deletes every message whose receipt handle still stands and reports the first that does not.
    ///
    /// FIFO: a handle is refused once its visibility timeout has passed or the message was received again.
    /// Standard: a handle from an older receive succeeds and deletes nothing, as AWS allows.
    /// A message already deleted succeeds.
    pub async fn delete(&self, queue: &str, receipt_handles: &[String]) -> Result<(), QueueError> {
        let queue = self.find(queue)?;
        self.delete_each(&queue, receipt_handles.to_vec()).await?.into_iter().collect()
    }

    /// Makes messages in flight visible after the given time, counted from now; zero means at once.
    /// Changes every message it can and reports the first that it cannot.
    pub async fn change_visibility(&self, queue: &str, changes: &[(String, Duration)]) -> Result<(), QueueError> {
        let queue = self.find(queue)?;
        self.change_each(&queue, changes.to_vec()).await?.into_iter().collect()
    }

    /// Counts the messages of a queue; unlike on AWS the numbers are exact.
    pub fn depth(&self, queue: &str) -> Result<Depth, QueueError> {
        let queue = self.find(queue)?;
        let now = self.now();
        Ok(self.0.store.read(|connection| messages::depth(connection, &queue, now))?)
    }

    /// Deletes all messages of a queue, in flight or not.
    pub async fn purge(&self, queue: &str) -> Result<(), QueueError> {
        let queue = self.find(queue)?;
        let purged = Arc::clone(&queue);
        self.0.store.write(move |connection| messages::purge(connection, &purged)).await?;
        queue.arrivals.notify_waiters();
        Ok(())
    }

    /// Makes every message in flight visible again, and its receipt stale: for a queue whose only consumers died with the process
    /// that ran them, as event source mappings do here and never do on AWS.
    pub async fn return_in_flight(&self, queue: &str) -> Result<(), QueueError> {
        let queue = self.find(queue)?;
        let (now, returned) = (self.now(), Arc::clone(&queue));
        self.0.store.write(move |connection| messages::return_in_flight(connection, &returned, now)).await?;
        queue.arrivals.notify_waiters();
        Ok(())
    }

    /// The oldest messages of a queue, whatever their state, without receiving them: receipt handles are empty.
    pub async fn peek(&self, queue: &str, limit: u32) -> Result<Vec<Received>, QueueError> {
        let queue = self.find(queue)?;
        let now = self.now();
        self.0.store.write(move |connection| messages::peek(connection, &queue, limit, now)).await
    }

    fn now(&self) -> i64 {
        self.0.clock.now_ms()
    }

    fn find(&self, name: &str) -> Result<Arc<Queue>, QueueError> {
        let queues = self.0.queues.read().unwrap_or_else(PoisonError::into_inner);
        queues.get(name).cloned().ok_or_else(|| QueueError::QueueDoesNotExist(name.into()))
    }

    fn find_by_arn(&self, arn: &str) -> Option<Arc<Queue>> {
        let queue = self.find(arn.rsplit(':').next()?).ok()?;
        (queue.arn == arn).then_some(queue)
    }

    /// The queues whose `RedrivePolicy` names `arn`.
    fn sources_of(&self, arn: &str) -> Vec<Arc<Queue>> {
        let queues = self.0.queues.read().unwrap_or_else(PoisonError::into_inner);
        let names_it = |queue: &&Arc<Queue>| queue.attributes.redrive.as_ref().is_some_and(|it| it.target_arn == arn);
        queues.values().filter(names_it).cloned().collect()
    }

    fn remember(
        &self,
        id: i64,
        name: &str,
        attributes: Attributes,
        created_ms: i64,
        modified_ms: i64,
        arrivals: Arc<Notify>,
    ) {
        let queue = Queue {
            id,
            name: name.into(),
            arn: self.arn(name),
            account: self.0.account.clone(),
            attributes,
            created_ms,
            modified_ms,
            arrivals,
        };
        self.0.queues.write().unwrap_or_else(PoisonError::into_inner).insert(name.into(), Arc::new(queue));
    }

    fn load(&self) -> Result<(), QueueError> {
        let rows = self.0.store.read(|connection| {
            connection
                .prepare("SELECT id, name, attributes, created_ms, modified_ms FROM queues")?
                .query_map([], |row| {
                    Ok((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get(3)?, row.get(4)?))
                })?
                .collect::<Result<Vec<_>, _>>()
        })?;
        for (id, name, attributes, created_ms, modified_ms) in rows {
            let attributes = Attributes::from_json(&name, &attributes)?;
            self.remember(id, &name, attributes, created_ms, modified_ms, Arc::default());
        }
        Ok(())
    }

    fn check_redrive(&self, name: &str, attributes: &Attributes) -> Result<(), QueueError> {
        let Some(redrive) = &attributes.redrive else { return Ok(()) };
        let refuse = |reason: &str| QueueError::invalid("RedrivePolicy", reason);
        let target = self
            .find_by_arn(&redrive.target_arn)
            .ok_or_else(|| refuse(&format!("Dead letter target `{}` does not exist.", redrive.target_arn)))?;
        if target.attributes.fifo != attributes.fifo {
            return Err(refuse("Dead-letter queue must be same type of queue as the source."));
        }
        if !target.attributes.allows_redrive_from(&self.arn(name)) {
            return Err(refuse("Queue does not have permissions to redrive on the dead letter queue."));
        }
        Ok(())
    }

    async fn store_checked(&self, queue: &Arc<Queue>, messages: Vec<Checked>) -> Result<Vec<Sent>, QueueError> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let (into, now) = (Arc::clone(queue), self.now());
        let sent = self
            .0
            .store
            .write(move |connection| {
                exists_still(connection, &into)?;
                messages::insert(connection, &into, &messages, now)
            })
            .await?;
        queue.arrivals.notify_waiters();
        Ok(sent)
    }

    async fn receive_now(
        &self,
        queue: &Arc<Queue>,
        max: u32,
        visibility: Option<Duration>,
    ) -> Result<Batch, QueueError> {
        let dead_letters = queue.attributes.redrive.as_ref().and_then(|redrive| self.find_by_arn(&redrive.target_arn));
        let request = messages::Receive {
            queue: Arc::clone(queue),
            dead_letters: dead_letters.clone(),
            max,
            visibility: visibility.unwrap_or(queue.attributes.visibility_timeout),
            now: self.now(),
        };
        let batch = self.0.store.write(move |connection| messages::receive(connection, &request)).await?;
        if let Some(dead_letters) = dead_letters.filter(|_| batch.dead_lettered) {
            dead_letters.arrivals.notify_waiters();
        }
        Ok(batch)
    }

    async fn delete_each(
        &self,
        queue: &Arc<Queue>,
        receipt_handles: Vec<String>,
    ) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        let (from, now) = (Arc::clone(queue), self.now());
        let outcomes = self
            .0
            .store
            .write(move |connection| each(receipt_handles, |handle| messages::delete(connection, &from, &handle, now)))
            .await?;
        if queue.attributes.fifo {
            queue.arrivals.notify_waiters();
        }
        Ok(outcomes)
    }

    async fn change_each(
        &self,
        queue: &Arc<Queue>,
        changes: Vec<(String, Duration)>,
    ) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        let (of, now) = (Arc::clone(queue), self.now());
        let outcomes = self
            .0
            .store
            .write(move |connection| {
                each(changes, |(handle, timeout)| messages::change_visibility(connection, &of, &handle, timeout, now))
            })
            .await?;
        queue.arrivals.notify_waiters();
        Ok(outcomes)
    }
}

/// Runs `act` on every item and keeps each refusal beside it; only a failing data file stops the rest.
fn each<T>(
    items: Vec<T>,
    mut act: impl FnMut(T) -> Result<(), QueueError>,
) -> Result<Vec<Result<(), QueueError>>, QueueError> {
    items
        .into_iter()
        .map(|item| match act(item) {
            Err(QueueError::Store(error)) => Err(QueueError::Store(error)),
            outcome => Ok(outcome),
        })
        .collect()
}

/// A queue may have been deleted while the operation waited for the writer.
fn exists_still(connection: &Connection, queue: &Queue) -> Result<(), QueueError> {
    connection
        .prepare_cached("SELECT 1 FROM queues WHERE id = ?1")?
        .query_row([queue.id], |_| Ok(()))
        .optional()?
        .ok_or_else(|| QueueError::QueueDoesNotExist(queue.name.clone()))
}

impl From<rusqlite::Error> for QueueError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(StoreError::from(error))
    }
}
