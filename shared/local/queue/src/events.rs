//! EventBridge: buses, rules, targets and PutEvents.

mod delivery;
mod input;
mod protocol;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use async_trait::async_trait;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::clock::{Clock, SystemClock};
use crate::pattern::{Pattern, PatternError};
use crate::sqs::{MessageAttribute, Outgoing, QueueError, Queues};
use crate::store::{Store, StoreError};
use crate::wire::new_id;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS buses (name TEXT PRIMARY KEY, created_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS rules (
    bus TEXT NOT NULL REFERENCES buses (name) ON DELETE CASCADE,
    name TEXT NOT NULL,
    pattern TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    PRIMARY KEY (bus, name)
);
CREATE TABLE IF NOT EXISTS targets (
    bus TEXT NOT NULL,
    rule TEXT NOT NULL,
    id TEXT NOT NULL,
    definition TEXT NOT NULL,
    PRIMARY KEY (bus, rule, id),
    FOREIGN KEY (bus, rule) REFERENCES rules (bus, name) ON DELETE CASCADE
);
CREATE TABLE IF NOT EXISTS deliveries (
    id INTEGER PRIMARY KEY,
    next_ms INTEGER NOT NULL,
    accepted_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    rule_arn TEXT NOT NULL,
    verdict TEXT, -- why delivery was given up, while the dead-letter queue has not taken the event
    target TEXT NOT NULL,
    event TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS deliveries_by_time ON deliveries (next_ms);
";

/// The bus that exists without being created.
pub const DEFAULT_BUS: &str = "default";
const MAX_ENTRIES: usize = 10;
/// Of all entries of one request together.
const MAX_ENTRY_BYTES: usize = 1_048_576;
const MAX_TARGETS: usize = 5;

/// What events are delivered to.
#[async_trait]
pub trait Targets: Send + Sync {
    /// Hands `event` (already transformed for the target) to the resource `arn`, which is a target of a rule or the
    /// dead-letter queue of one. Called again with the same event after an error and after a crash: at least once.
    async fn deliver(&self, arn: &str, event: &Value, parameters: &TargetParameters) -> Result<(), TargetError>;
}

/// What goes with an event besides its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetParameters {
    /// `SqsParameters.MessageGroupId` of the target.
    pub message_group_id: Option<String>,
    /// For a dead-letter queue: `RULE_ARN`, `TARGET_ARN`, `ERROR_CODE` and so on. Empty for targets.
    pub message_attributes: BTreeMap<String, MessageAttribute>,
}

/// Why a target did not take an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{code}`: {message}")]
pub struct TargetError {
    /// AWS's `ERROR_CODE` of the dead letter, such as `NO_RESOURCE` or `THROTTLING`.
    pub code: String,
    pub message: String,
    /// Nothing is gained by trying again: the event goes to the dead-letter queue at once.
    pub is_permanent: bool,
}

impl TargetError {
    #[must_use]
    pub fn retry(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), is_permanent: false }
    }

    #[must_use]
    pub fn permanent(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), is_permanent: true }
    }
}

/// Sends an event to the queue `arn`: what [`Targets::deliver`] does for SQS.
pub async fn deliver_to_queue(
    queues: &Queues,
    arn: &str,
    event: &Value,
    parameters: &TargetParameters,
) -> Result<(), TargetError> {
    let name = arn.rsplit(':').next().unwrap_or(arn);
    let message = Outgoing {
        body: event.to_string(),
        group_id: parameters.message_group_id.clone(),
        message_attributes: parameters.message_attributes.clone(),
        ..Outgoing::default()
    };
    match queues.send(name, vec![message]).await {
        Ok(_) => Ok(()),
        Err(error @ QueueError::QueueDoesNotExist(_)) => Err(TargetError::permanent("NO_RESOURCE", error.to_string())),
        Err(error) if error.is_sender_fault() => {
            Err(TargetError::permanent("INVALID_PARAMETER", format!("{}: {error}", error.code())))
        }
        Err(error) => Err(TargetError::retry("INTERNAL_ERROR", error.to_string())),
    }
}

/// How deliveries are paced.
#[derive(Debug, Clone)]
pub struct Settings {
    pub clock: Arc<dyn Clock>,
    /// Multiplies every delay between attempts: 1 waits 1 s, 2 s, 4 s and so on up to 10 min, 0 never waits.
    pub retry_delay_factor: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock::default()), retry_delay_factor: 1.0 }
    }
}

/// A target of a rule, in the shape of the API.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Target {
    pub id: String,
    pub arn: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role_arn: Option<String>,
    /// JSON text sent instead of the event. At most one of the three inputs may be given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// JSON path of the part of the event to send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_transformer: Option<InputTransformer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<RetryPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_config: Option<DeadLetterConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sqs_parameters: Option<SqsParameters>,
}

/// Builds a new input from parts of the event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct InputTransformer {
    #[serde(default)]
    pub input_paths_map: BTreeMap<String, String>,
    pub input_template: String,
}

/// When to give up on a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RetryPolicy {
    /// 0 to 185, which is the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum_retry_attempts: Option<u32>,
    /// 60 to 86,400, which is the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum_event_age_in_seconds: Option<u32>,
}

/// The queue that takes what cannot be delivered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeadLetterConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arn: Option<String>,
}

/// What a FIFO queue needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SqsParameters {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_group_id: Option<String>,
}

/// An event to put, in the shape of the API. `source`, `detail_type` and `detail` are required.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EventEntry {
    pub source: Option<String>,
    pub detail_type: Option<String>,
    /// The text of a JSON object.
    pub detail: Option<String>,
    pub resources: Vec<String>,
    /// Seconds since the Unix epoch; the time of the call if absent.
    pub time: Option<f64>,
    /// Name or ARN; [`DEFAULT_BUS`] if absent.
    pub event_bus_name: Option<String>,
}

/// Why one entry of `PutEvents` was refused while others may have been accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{code}`: {message}")]
pub struct EntryError {
    pub code: &'static str,
    pub message: String,
}

/// Why an operation was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    #[error("{0} does not exist")]
    ResourceNotFound(String),
    #[error("event bus `{0}` already exists")]
    ResourceAlreadyExists(String),
    #[error(transparent)]
    InvalidEventPattern(#[from] PatternError),
    #[error("{0}")]
    Validation(String),
    #[error("rule `{0}` cannot have more than 5 targets")]
    LimitExceeded(String),
    #[error("`{0}` is not an operation of the EventBridge emulation")]
    UnknownOperation(String),
    #[error("the request body is not the expected JSON")]
    Malformed(#[source] serde_json::Error),
    #[error("buses must be opened inside a Tokio runtime")]
    NoRuntime,
    #[error("the event file failed")]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for EventError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(StoreError::from(error))
    }
}

/// All event buses of one data file. Cheap to clone.
///
/// Accepted events are on disk before [`Buses::put_events`] answers, and delivered in the background until a target
/// or its dead-letter queue has taken them; what is left when the process ends is delivered after the next open.
/// Methods without `async` may block for a few milliseconds.
#[derive(Debug, Clone)]
pub struct Buses(Arc<Shared>);

struct Shared {
    store: Store,
    settings: Settings,
    account: String,
    region: String,
    targets: Arc<dyn Targets>,
    rules: RwLock<BTreeMap<String, BTreeMap<String, Arc<Rule>>>>,
    /// Held while definitions change.
    definitions: Mutex<()>,
    /// Told when a delivery was added, and when the buses are dropped.
    work: Arc<Notify>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("store", &self.store).field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.work.notify_one();
    }
}

#[derive(Debug, Clone)]
struct Rule {
    arn: String,
    pattern_text: String,
    pattern: Pattern,
    is_enabled: bool,
    targets: Vec<Target>,
}

impl Buses {
    /// Opens or creates the file at `path`, which may be the file of the queues, and starts delivering.
    /// Must be called inside a Tokio runtime.
    pub fn open(path: &Path, account: &str, region: &str, targets: Arc<dyn Targets>) -> Result<Self, EventError> {
        Self::open_with(path, account, region, targets, Settings::default())
    }

    /// As [`Buses::open`], with another pace.
    pub fn open_with(
        path: &Path,
        account: &str,
        region: &str,
        targets: Arc<dyn Targets>,
        settings: Settings,
    ) -> Result<Self, EventError> {
        let runtime = Handle::try_current().map_err(|_| EventError::NoRuntime)?;
        let store = Store::open(path, SCHEMA)?;
        let now = settings.clock.now_ms();
        store.write_blocking(move |connection| {
            connection.execute("INSERT OR IGNORE INTO buses VALUES (?1, ?2)", params![DEFAULT_BUS, now])?;
            Ok::<_, EventError>(())
        })?;
        let rules = store.read(load)?;
        let work = Arc::<Notify>::default();
        let shared = Arc::new(Shared {
            store,
            settings,
            account: account.into(),
            region: region.into(),
            targets,
            rules: RwLock::default(),
            definitions: Mutex::default(),
            work: Arc::clone(&work),
        });
        let buses = Self(shared);
        buses.remember_all(rules)?;
        runtime.spawn(delivery::run(Arc::downgrade(&buses.0), work));
        Ok(buses)
    }

    /// Creates a bus and returns its ARN; a bus that exists is left as it is.
    pub fn create_bus(&self, name: &str) -> Result<String, EventError> {
        check_name("Name", name, 256, "/.-_")?;
        let _changing = self.changing();
        if !self.has_bus(name) {
            let row = (name.to_owned(), self.now());
            self.0.store.write_blocking(move |connection| {
                connection.execute("INSERT OR IGNORE INTO buses VALUES (?1, ?2)", row)?;
                Ok::<_, EventError>(())
            })?;
            self.write_rules().entry(name.into()).or_default();
        }
        Ok(self.bus_arn(name))
    }

    /// Creates a rule or replaces its pattern and state, keeping its targets; returns its ARN.
    /// Rules with a schedule are not known here: schedules are run by what reads the template.
    pub fn put_rule(&self, name: &str, bus: &str, pattern: &str, is_enabled: bool) -> Result<String, EventError> {
        check_name("Name", name, 64, ".-_")?;
        let _changing = self.changing();
        let targets = self.bus_rules(bus)?.get(name).map(|rule| rule.targets.clone()).unwrap_or_default();
        let parsed = Pattern::parse(pattern)?;
        let row = (bus.to_owned(), name.to_owned(), pattern.to_owned(), is_enabled);
        self.0.store.write_blocking(move |connection| {
            connection.execute(
                "INSERT INTO rules VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (bus, name) DO UPDATE SET pattern = excluded.pattern, enabled = excluded.enabled",
                row,
            )?;
            Ok::<_, EventError>(())
        })?;
        let arn = self.rule_arn(bus, name);
        let rule = Rule { arn: arn.clone(), pattern_text: pattern.into(), pattern: parsed, is_enabled, targets };
        self.write_rules().entry(bus.into()).or_default().insert(name.into(), Arc::new(rule));
        Ok(arn)
    }

    /// Deletes a rule, which must have no targets left. A rule that does not exist is no error, as on AWS.
    pub fn delete_rule(&self, name: &str, bus: &str) -> Result<(), EventError> {
        let _changing = self.changing();
        match self.bus_rules(bus)?.get(name) {
            None => return Ok(()),
            Some(rule) if !rule.targets.is_empty() => {
                return Err(EventError::Validation("Rule can't be deleted since it has targets.".into()));
            }
            Some(_) => {}
        }
        let row = (bus.to_owned(), name.to_owned());
        self.0.store.write_blocking(move |connection| {
            connection.execute("DELETE FROM rules WHERE bus = ?1 AND name = ?2", row)?;
            Ok::<_, EventError>(())
        })?;
        if let Some(rules) = self.write_rules().get_mut(bus) {
            rules.remove(name);
        }
        Ok(())
    }

    /// Adds targets to a rule; one with a known id replaces it. All are stored or none.
    pub fn put_targets(&self, rule: &str, bus: &str, targets: Vec<Target>) -> Result<(), EventError> {
        let _changing = self.changing();
        let mut changed = Rule::clone(&*self.rule(rule, bus)?);
        for target in targets {
            check_target(&target)?;
            changed.targets.retain(|known| known.id != target.id);
            changed.targets.push(target);
        }
        if changed.targets.len() > MAX_TARGETS {
            return Err(EventError::LimitExceeded(rule.into()));
        }
        self.store_targets(rule, bus, changed)
    }

    /// Removes targets from a rule; ids that it does not have are ignored.
    pub fn remove_targets(&self, rule: &str, bus: &str, ids: &[String]) -> Result<(), EventError> {
        let _changing = self.changing();
        let mut changed = Rule::clone(&*self.rule(rule, bus)?);
        changed.targets.retain(|target| !ids.contains(&target.id));
        self.store_targets(rule, bus, changed)
    }

    /// Accepts events: each gets its id, or its own error. Accepted events are durable when this returns.
    pub async fn put_events(&self, entries: Vec<EventEntry>) -> Result<Vec<Result<String, EntryError>>, EventError> {
        if entries.is_empty() || entries.len() > MAX_ENTRIES {
            return Err(EventError::Validation(format!(
                "Value at 'entries' failed to satisfy constraint: Member must have length between 1 and {MAX_ENTRIES}"
            )));
        }
        if entries.iter().map(entry_bytes).sum::<usize>() > MAX_ENTRY_BYTES {
            return Err(EventError::Validation("Total size of the entries in the request is over the limit.".into()));
        }
        let now = self.now();
        let (mut answers, mut deliveries) = (Vec::new(), Vec::new());
        for entry in entries {
            answers.push(self.accept(entry, now).map(|(id, matched)| {
                deliveries.extend(matched);
                id
            }));
        }
        if !deliveries.is_empty() {
            self.0
                .store
                .write(move |connection| {
                    let mut insert = connection.prepare_cached(
                        "INSERT INTO deliveries (next_ms, accepted_ms, rule_arn, target, event)
                         VALUES (?1, ?1, ?2, ?3, ?4)",
                    )?;
                    for (rule_arn, target, event) in &deliveries {
                        insert.execute(params![now, rule_arn, target, event])?;
                    }
                    Ok::<_, EventError>(())
                })
                .await?;
            self.0.work.notify_one();
        }
        Ok(answers)
    }

    /// The event's id and what must be delivered because of it: rule, target, event.
    #[expect(clippy::type_complexity, reason = "three columns of one table, on their way into it")]
    fn accept(&self, entry: EventEntry, now: i64) -> Result<(String, Vec<(String, String, String)>), EntryError> {
        let refuse = |code, message: String| EntryError { code, message };
        let required = |name: &str, value: Option<String>| {
            value.filter(|value| !value.is_empty()).ok_or_else(|| {
                let message = format!("Parameter {name} is not valid. Reason: {name} is a required argument.");
                refuse("InvalidArgument", message)
            })
        };
        let source = required("Source", entry.source)?;
        let detail_type = required("DetailType", entry.detail_type)?;
        let detail = required("Detail", entry.detail)?;
        if source.starts_with("aws.") {
            return Err(refuse("NotAuthorizedForSourceException", "Not authorized for the source.".into()));
        }
        let detail: Value = serde_json::from_str(&detail)
            .ok()
            .filter(Value::is_object)
            .ok_or_else(|| refuse("MalformedDetail", "Detail is malformed.".into()))?;
        let bus = bus_name(entry.event_bus_name.as_deref());
        // AWS drops such an event without a word; here the mistake shows at once.
        let rules = self.bus_rules(bus).map_err(|error| refuse("InvalidArgument", error.to_string()))?;
        let time = match entry.time {
            None => OffsetDateTime::from_unix_timestamp(now / 1000),
            #[expect(clippy::cast_possible_truncation, reason = "out of range saturates and is refused below")]
            Some(seconds) => OffsetDateTime::from_unix_timestamp(seconds as i64),
        };
        let time = time.ok().and_then(|time| time.format(&Rfc3339).ok()).ok_or_else(|| {
            refuse("InvalidArgument", "Parameter Time is not valid. Reason: Time is out of range.".into())
        })?;
        let id = new_id();
        let event = json!({
            "version": "0",
            "id": id,
            "detail-type": detail_type,
            "source": source,
            "account": self.0.account,
            "time": time,
            "region": self.0.region,
            "resources": entry.resources,
            "detail": detail,
        });
        let matching = rules.values().filter(|rule| rule.is_enabled && rule.pattern.matches(&event));
        let deliveries = matching
            .flat_map(|rule| {
                rule.targets.iter().map(|target| (rule.arn.clone(), json!(target).to_string(), event.to_string()))
            })
            .collect();
        Ok((id, deliveries))
    }

    fn store_targets(&self, name: &str, bus: &str, rule: Rule) -> Result<(), EventError> {
        let definitions: Vec<_> =
            rule.targets.iter().map(|target| (target.id.clone(), json!(target).to_string())).collect();
        let key = (bus.to_owned(), name.to_owned());
        self.0.store.write_blocking(move |connection| {
            connection.execute("DELETE FROM targets WHERE bus = ?1 AND rule = ?2", [&key.0, &key.1])?;
            for (id, definition) in definitions {
                connection
                    .execute("INSERT INTO targets VALUES (?1, ?2, ?3, ?4)", params![key.0, key.1, id, definition])?;
            }
            Ok::<_, EventError>(())
        })?;
        self.write_rules().entry(bus.into()).or_default().insert(name.into(), Arc::new(rule));
        Ok(())
    }

    fn remember_all(&self, stored: Stored) -> Result<(), EventError> {
        let mut all = BTreeMap::new();
        for bus in stored.buses {
            all.insert(bus, BTreeMap::new());
        }
        for (bus, name, pattern_text, is_enabled) in stored.rules {
            let pattern = Pattern::parse(&pattern_text)?;
            let arn = self.rule_arn(&bus, &name);
            let rule = Rule { arn, pattern_text, pattern, is_enabled, targets: Vec::new() };
            all.entry(bus).or_default().insert(name, rule);
        }
        for (bus, rule, definition) in stored.targets {
            let target = serde_json::from_str(&definition).map_err(EventError::Malformed)?;
            if let Some(rule) = all.get_mut(&bus).and_then(|rules| rules.get_mut(&rule)) {
                rule.targets.push(target);
            }
        }
        *self.write_rules() = all
            .into_iter()
            .map(|(bus, rules)| (bus, rules.into_iter().map(|(name, rule)| (name, Arc::new(rule))).collect()))
            .collect();
        Ok(())
    }

    fn changing(&self) -> std::sync::MutexGuard<'_, ()> {
        self.0.definitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_rules(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<String, BTreeMap<String, Arc<Rule>>>> {
        self.0.rules.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_bus(&self, bus: &str) -> bool {
        self.bus_rules(bus).is_ok()
    }

    fn bus_names(&self) -> Vec<String> {
        self.0.rules.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    fn bus_rules(&self, bus: &str) -> Result<BTreeMap<String, Arc<Rule>>, EventError> {
        let rules = self.0.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.get(bus).cloned().ok_or_else(|| EventError::ResourceNotFound(format!("Event bus `{bus}`")))
    }

    fn rule(&self, name: &str, bus: &str) -> Result<Arc<Rule>, EventError> {
        let missing = || EventError::ResourceNotFound(format!("Rule `{name}` on event bus `{bus}`"));
        self.bus_rules(bus)?.get(name).cloned().ok_or_else(missing)
    }

    fn bus_arn(&self, bus: &str) -> String {
        format!("arn:aws:events:{}:{}:event-bus/{bus}", self.0.region, self.0.account)
    }

    fn rule_arn(&self, bus: &str, rule: &str) -> String {
        let path = if bus == DEFAULT_BUS { rule.to_owned() } else { format!("{bus}/{rule}") };
        format!("arn:aws:events:{}:{}:rule/{path}", self.0.region, self.0.account)
    }

    fn now(&self) -> i64 {
        self.0.settings.clock.now_ms()
    }
}

/// A bus is named by its name or its ARN.
fn bus_name(name: Option<&str>) -> &str {
    match name {
        None | Some("") => DEFAULT_BUS,
        Some(arn) if arn.starts_with("arn:") => arn.split_once(":event-bus/").map_or(arn, |(_, name)| name),
        Some(name) => name,
    }
}

fn check_name(parameter: &str, name: &str, max: usize, punctuation: &str) -> Result<(), EventError> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || punctuation.contains(c);
    if (1..=max).contains(&name.len()) && name.chars().all(is_allowed) {
        return Ok(());
    }
    Err(EventError::Validation(format!(
        "`{parameter}` must be 1 to {max} letters, digits or any of `{punctuation}`, not `{name}`"
    )))
}

fn check_target(target: &Target) -> Result<(), EventError> {
    check_name("Id", &target.id, 64, ".-_")?;
    let refuse = |reason: String| Err(EventError::Validation(format!("target `{}`: {reason}", target.id)));
    if !target.arn.starts_with("arn:") {
        return refuse(format!("`Arn` is not an ARN: `{}`", target.arn));
    }
    let inputs = [target.input.is_some(), target.input_path.is_some(), target.input_transformer.is_some()];
    if inputs.into_iter().filter(|given| *given).count() > 1 {
        return refuse("only one of `Input`, `InputPath` and `InputTransformer` may be given".into());
    }
    if let Err(reason) = input::check(target) {
        return refuse(reason);
    }
    let policy = target.retry_policy.unwrap_or_default();
    if policy.maximum_retry_attempts.is_some_and(|attempts| attempts > 185) {
        return refuse("`MaximumRetryAttempts` must be between 0 and 185".into());
    }
    if policy.maximum_event_age_in_seconds.is_some_and(|age| !(60..=86_400).contains(&age)) {
        return refuse("`MaximumEventAgeInSeconds` must be between 60 and 86400".into());
    }
    let group = target.sqs_parameters.as_ref().and_then(|parameters| parameters.message_group_id.as_ref());
    if target.arn.starts_with("arn:aws:sqs:") && target.arn.ends_with(".fifo") && group.is_none() {
        return refuse("`SqsParameters` must name a `MessageGroupId` for a FIFO queue".into());
    }
    Ok(())
}

/// What AWS counts towards the size limit.
fn entry_bytes(entry: &EventEntry) -> usize {
    let texts = [&entry.source, &entry.detail_type, &entry.detail].into_iter().flatten();
    let time = if entry.time.is_some() { 14 } else { 0 };
    time + texts.chain(&entry.resources).map(String::len).sum::<usize>()
}

/// Definitions as they lie in the file.
struct Stored {
    buses: BTreeSet<String>,
    rules: Vec<(String, String, String, bool)>,
    targets: Vec<(String, String, String)>,
}

fn load(connection: &Connection) -> Result<Stored, rusqlite::Error> {
    let buses =
        connection.prepare("SELECT name FROM buses")?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let rules = connection
        .prepare("SELECT bus, name, pattern, enabled FROM rules")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect::<Result<_, _>>()?;
    let targets = connection
        .prepare("SELECT bus, rule, definition FROM targets ORDER BY rowid")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    Ok(Stored { buses, rules, targets })
}
