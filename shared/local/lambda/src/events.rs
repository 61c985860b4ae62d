//! Asynchronous events: kept on disk from acceptance until the function and the destinations are done with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use time::macros::format_description;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use crate::config::{FunctionConfig, Settings};
use crate::function::Function;
use crate::{InvokeError, Reply, origin};

const PAYLOAD_LIMIT: usize = 1024 * 1024;
/// From one second to the five minutes AWS stops at.
const MAX_BACKOFF: u32 = 300;

/// Where the records of finished asynchronous events go.
#[async_trait]
pub trait Destinations: Send + Sync {
    /// Delivers an invocation record to the queue, topic, bus or function `arn`. Repeated with growing delays until it
    /// succeeds; after a crash a record that was delivered may be delivered again.
    async fn deliver(&self, arn: &str, body: Bytes) -> Result<(), DeliveryError>;

    /// Delivers the event itself to a dead-letter queue or topic, under the same terms. Override it to pass on the attributes.
    async fn dead_letter(&self, arn: &str, letter: DeadLetter) -> Result<(), DeliveryError> {
        self.deliver(arn, letter.body).await
    }
}

/// What a dead-letter queue receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The event as it was accepted.
    pub body: Bytes,
    /// Attribute `RequestID`.
    pub request_id: String,
    /// Attribute `ErrorCode`, a status as of HTTP.
    pub error_code: u16,
    /// Attribute `ErrorMessage`, at most 1 KB.
    pub error_message: String,
}

/// Why a record did not reach its destination this time.
#[derive(Debug, thiserror::Error)]
#[error("could not deliver to `{arn}`")]
pub struct DeliveryError {
    pub arn: String,
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Why an event was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    #[error(transparent)]
    Refused(#[from] InvokeError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The file of accepted events cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("could not use the store of asynchronous events")]
pub struct StoreError(#[from] rusqlite::Error);

/// The events of all functions. The file says what has to be done, the schedules in memory when.
pub(crate) struct EventQueue {
    store: Arc<Store>,
    schedules: BTreeMap<String, Schedule>,
    settings: Arc<Settings>,
    closed: AtomicBool,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

struct Schedule {
    function: Arc<Function>,
    /// When each event that is not being handled is due.
    due: Mutex<BTreeSet<(i64, String)>>,
    changed: Notify,
}

impl EventQueue {
    /// Resumes all events in the file at `path`. Those of functions that are gone stay there.
    pub(crate) fn open(
        path: &Path,
        functions: &BTreeMap<String, Arc<Function>>,
        settings: Arc<Settings>,
    ) -> Result<Arc<Self>, StoreError> {
        let (store, pending) = Store::open(path)?;
        let schedules: BTreeMap<_, _> = functions
            .iter()
            .map(|(name, function)| {
                let schedule =
                    Schedule { function: Arc::clone(function), due: Mutex::default(), changed: Notify::new() };
                (name.clone(), schedule)
            })
            .collect();
        for Pending { function, request_id, due_ms } in pending {
            match schedules.get(&function) {
                Some(schedule) => schedule.add(due_ms, request_id),
                None => tracing::warn!(
                    function.name = %function,
                    "Event `{request_id}` waits for function `{function}`, which is not in the template"
                ),
            }
        }
        let queue = Arc::new(Self {
            store: Arc::new(store),
            schedules,
            settings,
            closed: AtomicBool::new(false),
            workers: Mutex::default(),
        });
        let workers = functions.keys().cloned().map(|name| tokio::spawn(Arc::clone(&queue).work(name))).collect();
        *queue.workers.lock().unwrap_or_else(PoisonError::into_inner) = workers;
        Ok(queue)
    }

    pub(crate) async fn accept(&self, function: &str, payload: Bytes) -> Result<String, EventError> {
        if payload.len() > PAYLOAD_LIMIT {
            return Err(InvokeError::TooLarge { size: payload.len(), limit: PAYLOAD_LIMIT }.into());
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(InvokeError::Throttled.into());
        }
        let schedule = self.schedules.get(function).ok_or_else(|| InvokeError::NotFound(function.to_owned()))?;
        let (request_id, now) = (origin::new_id().to_string(), origin::now_ms());
        let (id, function) = (request_id.clone(), function.to_owned());
        self.store.run(move |store| store.insert(&id, &function, &payload, now)).await?;
        schedule.add(now, request_id.clone());
        Ok(request_id)
    }

    /// No event is begun afterwards.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.schedules.values().for_each(|schedule| schedule.changed.notify_one());
    }

    /// Waits, after [`close`](Self::close), for the events that are being handled.
    pub(crate) async fn finished(&self) {
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        for worker in workers {
            let _ = worker.await;
        }
    }

    async fn work(self: Arc<Self>, name: String) {
        let Some(schedule) = self.schedules.get(&name) else { return };
        let limit = schedule.function.concurrency.max(1);
        let mut handled = JoinSet::new();
        while !self.closed.load(Ordering::Acquire) {
            let has_room = handled.len() < limit;
            let now = origin::now_ms();
            let next_due = schedule.due().first().map(|(due_ms, _)| *due_ms);
            if has_room && next_due.is_some_and(|due_ms| due_ms <= now) {
                let popped = schedule.due().pop_first();
                if let Some((_, request_id)) = popped {
                    handled.spawn(Arc::clone(&self).handle(name.clone(), request_id));
                }
                continue;
            }
            let wait = next_due.map_or(u64::MAX, |due_ms| u64::try_from(due_ms - now).unwrap_or(0));
            tokio::select! {
                () = schedule.changed.notified() => {}
                // An hour at most: the clock may be set meanwhile.
                () = tokio::time::sleep(Duration::from_millis(wait.min(3_600_000))), if has_room => {}
                Some(_) = handled.join_next() => {}
            }
        }
        while handled.join_next().await.is_some() {}
    }

    async fn handle(self: Arc<Self>, function: String, request_id: String) {
        let Some(schedule) = self.schedules.get(&function) else { return };
        if let Err(error) = self.advance(schedule, &request_id).await {
            tracing::error!(
                request.id = %request_id,
                error = %error,
                cause = %error.0,
                "Event `{request_id}` is tried again: its store failed"
            );
            schedule.add(origin::now_ms() + ms(self.backoff(u32::MAX)), request_id);
        }
    }

    /// Takes an event one step on: one invocation, then as soon as its outcome is final, its destinations.
    async fn advance(&self, schedule: &Schedule, request_id: &str) -> Result<(), StoreError> {
        let id = request_id.to_owned();
        let Some(mut event) = self.store.run(move |store| store.load(&id)).await? else { return Ok(()) };
        if event.condition.is_none() {
            let Some(next) = self.invoke(&schedule.function, &mut event).await else {
                // The runner shuts down: this invocation does not count.
                return Ok(());
            };
            event.condition = next.condition;
            if event.condition.is_some() {
                event.delays = 0;
            }
            self.save(&event, next.due_ms).await?;
            if event.condition.is_none() {
                schedule.add(next.due_ms, event.request_id);
                return Ok(());
            }
        }
        let deliveries = deliveries(&schedule.function.config, &event);
        for delivery in deliveries.into_iter().skip(event.delivered) {
            if let Err(error) = self.deliver(delivery).await {
                let delay = self.backoff(event.delays);
                event.delays = event.delays.saturating_add(1);
                tracing::error!(
                    request.id = %event.request_id,
                    error = %error,
                    cause = %error.source,
                    "The record of event `{}` is delivered again in {delay:?}", event.request_id
                );
                let due_ms = origin::now_ms() + ms(delay);
                self.save(&event, due_ms).await?;
                schedule.add(due_ms, event.request_id);
                return Ok(());
            }
            event.delivered += 1;
            self.save(&event, event.accepted_ms).await?;
        }
        self.store.run(move |store| store.delete(&event.request_id)).await
    }

    /// `None` if the invocation failed because the runner shuts down.
    async fn invoke(&self, function: &Arc<Function>, event: &mut Event) -> Option<Next> {
        let expires_ms = event.accepted_ms.saturating_add(ms(function.config.async_max_age));
        let over = |condition| Next { condition: Some(condition), due_ms: event.accepted_ms };
        if origin::now_ms() >= expires_ms {
            return Some(over(Condition::EventAgeExceeded));
        }
        let result = function.invoke(event.request_id.clone(), event.payload.clone()).await;
        if self.closed.load(Ordering::Acquire) && !matches!(result, Ok(Reply::Success(_))) {
            return None;
        }
        let delay = match result {
            Ok(reply) => {
                event.attempts = event.attempts.saturating_add(1);
                event.delays = 0;
                let succeeded = matches!(reply, Reply::Success(_));
                event.reply = Some(reply);
                if succeeded {
                    return Some(over(Condition::Success));
                }
                let retries = function.config.async_retries.min(2);
                if event.attempts > u32::from(retries) {
                    return Some(over(Condition::RetriesExhausted));
                }
                let [first, second] = self.settings.retry_delays;
                if event.attempts == 1 { first } else { second }
            }
            Err(_) => {
                let delay = self.backoff(event.delays);
                event.delays = event.delays.saturating_add(1);
                delay
            }
        };
        let due_ms = origin::now_ms() + ms(delay);
        if due_ms >= expires_ms {
            return Some(over(Condition::EventAgeExceeded));
        }
        Some(Next { condition: None, due_ms })
    }

    async fn deliver(&self, delivery: Delivery) -> Result<(), DeliveryError> {
        match delivery {
            Delivery::Record(arn, body) => self.settings.destinations.deliver(&arn, body).await,
            Delivery::DeadLetter(arn, letter) => self.settings.destinations.dead_letter(&arn, letter).await,
        }
    }

    async fn save(&self, event: &Event, due_ms: i64) -> Result<(), StoreError> {
        let event = event.clone();
        self.store.run(move |store| store.update(&event, due_ms)).await
    }

    fn backoff(&self, delays: u32) -> Duration {
        let factor = 1_u32.checked_shl(delays).unwrap_or(MAX_BACKOFF).clamp(1, MAX_BACKOFF);
        self.settings.throttle_delay.saturating_mul(factor)
    }
}

impl Schedule {
    fn add(&self, due_ms: i64, request_id: String) {
        self.due().insert((due_ms, request_id));
        self.changed.notify_one();
    }

    fn due(&self) -> MutexGuard<'_, BTreeSet<(i64, String)>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be done after an invocation.
struct Next {
    condition: Option<Condition>,
    due_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
enum Condition {
    Success,
    RetriesExhausted,
    EventAgeExceeded,
}

impl Condition {
    const ALL: [Self; 3] = [Self::Success, Self::RetriesExhausted, Self::EventAgeExceeded];

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|condition| condition.to_string() == text)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "Success",
            Self::RetriesExhausted => "RetriesExhausted",
            Self::EventAgeExceeded => "EventAgeExceeded",
        })
    }
}

#[derive(Debug, Clone)]
struct Event {
    request_id: String,
    payload: Bytes,
    accepted_ms: i64,
    /// Invocations that ended.
    attempts: u32,
    /// Throttled invocations, or failed deliveries, since the last that was not.
    delays: u32,
    /// Of the last invocation.
    reply: Option<Reply>,
    /// Set once no invocation follows.
    condition: Option<Condition>,
    /// How many of its deliveries are done.
    delivered: usize,
}

enum Delivery {
    Record(String, Bytes),
    DeadLetter(String, DeadLetter),
}

/// In an order that does not change, since the event counts how many are done.
fn deliveries(config: &FunctionConfig, event: &Event) -> Vec<Delivery> {
    let Some(condition) = event.condition else { return Vec::new() };
    let record = |arn: &String| Delivery::Record(arn.clone(), record(config, event, condition));
    if condition == Condition::Success {
        return config.on_success.iter().map(record).collect();
    }
    let dead_letter = config.dead_letter.iter().map(|arn| Delivery::DeadLetter(arn.clone(), dead_letter(event)));
    config.on_failure.iter().map(record).chain(dead_letter).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InvocationRecord {
    version: &'static str,
    timestamp: String,
    request_context: RequestContext,
    request_payload: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_context: Option<ResponseContext>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_payload: Option<Box<RawValue>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext {
    request_id: String,
    function_arn: String,
    condition: Condition,
    approximate_invoke_count: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResponseContext {
    status_code: u16,
    executed_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_error: Option<&'static str>,
}

fn record(config: &FunctionConfig, event: &Event, condition: Condition) -> Bytes {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let record = InvocationRecord {
        version: "1.0",
        timestamp: origin::now().format(format).unwrap_or_default(),
        request_context: RequestContext {
            request_id: event.request_id.clone(),
            function_arn: format!("{}:$LATEST", config.arn),
            condition,
            approximate_invoke_count: event.attempts,
        },
        request_payload: raw(&event.payload),
        response_context: event.reply.as_ref().map(|reply| ResponseContext {
            status_code: 200,
            executed_version: "$LATEST",
            function_error: matches!(reply, Reply::FunctionError(_)).then_some("Unhandled"),
        }),
        response_payload: event.reply.as_ref().map(|(Reply::Success(body) | Reply::FunctionError(body))| raw(body)),
    };
    Bytes::from(serde_json::to_vec(&record).unwrap_or_default())
}

/// The bytes as they are if they are JSON, otherwise as a string.
fn raw(bytes: &[u8]) -> Box<RawValue> {
    serde_json::from_slice(bytes)
        .or_else(|_| to_raw_value(&String::from_utf8_lossy(bytes)))
        .unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn dead_letter(event: &Event) -> DeadLetter {
    let error = match &event.reply {
        Some(Reply::FunctionError(body)) => serde_json::from_slice::<serde_json::Value>(body).ok(),
        Some(Reply::Success(_)) | None => None,
    };
    let message = error.as_ref().and_then(|error| error.get("errorMessage")).and_then(|message| message.as_str());
    let mut error_message = message.unwrap_or_default().to_owned();
    error_message.truncate(error_message.floor_char_boundary(1024));
    DeadLetter { body: event.payload.clone(), request_id: event.request_id.clone(), error_code: 200, error_message }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 2)
}

/// The file. Each method is one transaction; what it wrote survives the end of the process.
struct Store {
    connection: Mutex<Connection>,
}

struct Pending {
    function: String,
    request_id: String,
    due_ms: i64,
}

impl Store {
    fn open(path: &Path) -> Result<(Self, Vec<Pending>), StoreError> {
        let connection = Connection::open(path)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = NORMAL;
             CREATE TABLE IF NOT EXISTS events (
                 request_id TEXT PRIMARY KEY,
                 function TEXT NOT NULL,
                 payload BLOB NOT NULL,
                 accepted_ms INTEGER NOT NULL,
                 due_ms INTEGER NOT NULL,
                 attempts INTEGER NOT NULL DEFAULT 0,
                 delays INTEGER NOT NULL DEFAULT 0,
                 reply BLOB,
                 is_error INTEGER NOT NULL DEFAULT 0,
                 condition TEXT,
                 delivered INTEGER NOT NULL DEFAULT 0
             ) STRICT;",
        )?;
        let pending = connection
            .prepare("SELECT function, request_id, due_ms FROM events")?
            .query_map([], |row| Ok(Pending { function: row.get(0)?, request_id: row.get(1)?, due_ms: row.get(2)? }))?
            .collect::<Result<_, _>>()?;
        Ok((Self { connection: Mutex::new(connection) }, pending))
    }

    /// Runs `work` where it may block.
    async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or(Err(StoreError(rusqlite::Error::InvalidQuery)))
    }

    fn insert(&self, request_id: &str, function: &str, payload: &[u8], now_ms: i64) -> Result<(), StoreError> {
        let insert =
            "INSERT INTO events (request_id, function, payload, accepted_ms, due_ms) VALUES (?1, ?2, ?3, ?4, ?4)";
        self.connection().prepare_cached(insert)?.execute(params![request_id, function, payload, now_ms])?;
        Ok(())
    }

    fn load(&self, request_id: &str) -> Result<Option<Event>, StoreError> {
        let select = "SELECT payload, accepted_ms, attempts, delays, reply, is_error, condition, delivered
                      FROM events WHERE request_id = ?1";
        let connection = self.connection();
        let mut statement = connection.prepare_cached(select)?;
        let event = statement.query_row([request_id], |row| {
            let body = row.get::<_, Option<Vec<u8>>>(4)?.map(Bytes::from);
            let is_error: bool = row.get(5)?;
            let condition: Option<String> = row.get(6)?;
            Ok(Event {
                request_id: request_id.to_owned(),
                payload: Bytes::from(row.get::<_, Vec<u8>>(0)?),
                accepted_ms: row.get(1)?,
                attempts: row.get(2)?,
                delays: row.get(3)?,
                reply: body.map(|body| if is_error { Reply::FunctionError(body) } else { Reply::Success(body) }),
                condition: condition.as_deref().and_then(Condition::parse),
                delivered: row.get(7)?,
            })
        });
        Ok(event.optional()?)
    }

    fn update(&self, event: &Event, due_ms: i64) -> Result<(), StoreError> {
        let (body, is_error) = match &event.reply {
            Some(Reply::Success(body)) => (Some(body.as_ref()), false),
            Some(Reply::FunctionError(body)) => (Some(body.as_ref()), true),
            None => (None, false),
        };
        let condition = event.condition.map(|condition| condition.to_string());
        let update =
            "UPDATE events SET due_ms = ?2, attempts = ?3, delays = ?4, reply = ?5, is_error = ?6, condition = ?7,
                      delivered = ?8 WHERE request_id = ?1";
        self.connection().prepare_cached(update)?.execute(params![
            event.request_id,
            due_ms,
            event.attempts,
            event.delays,
            body,
            is_error,
            condition,
            event.delivered
        ])?;
        Ok(())
    }

    fn delete(&self, request_id: &str) -> Result<(), StoreError> {
        self.connection().prepare_cached("DELETE FROM events WHERE request_id = ?1")?.execute([request_id])?;
        Ok(())
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
