//! The SQLite file behind the sandbox: JSON documents by kind and id, and the record of calls.
//!
//! A commit is in the write-ahead log before it is acknowledged, so a killed process loses nothing it acknowledged;
//! `synchronous = NORMAL` gives up only what a power cut would take, and lets hundreds of requests a second through.

use std::cell::Cell;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::clock::Clock;

/// Raised whenever the tables or the documents change in a way an older build cannot read.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS record (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    owner TEXT NOT NULL,
    due_at INTEGER,
    doc TEXT NOT NULL,
    UNIQUE (kind, id)
);
CREATE INDEX IF NOT EXISTS record_by_owner ON record (kind, owner, seq);
CREATE INDEX IF NOT EXISTS record_by_due ON record (kind, due_at) WHERE due_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS call_count (
    endpoint TEXT NOT NULL,
    result TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (endpoint, result)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS call (seq INTEGER PRIMARY KEY AUTOINCREMENT, doc TEXT NOT NULL);
";

/// How many of the newest calls are kept in full; the counters keep all of them.
const CALLS_KEPT: i64 = 1_000;

/// The state file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the state file could not be read or written")]
    Sqlite(#[from] rusqlite::Error),
    #[error("a record in the state file is not in this version's format")]
    Document(#[from] serde_json::Error),
    #[error("the state file has format `{0}`, this version reads `{SCHEMA_VERSION}`: delete the file to start afresh")]
    Version(i64),
    #[error("the worker that held the state file stopped")]
    Worker(#[from] tokio::task::JoinError),
}

/// A document kept under its kind and id.
pub(crate) trait Record: Serialize + DeserializeOwned {
    const KIND: &'static str;

    fn id(&self) -> String;

    /// What records are listed by: an app for its messages, a message for its changes.
    fn owner(&self) -> &str {
        ""
    }

    /// When the retry worker has to look at the record next, in milliseconds.
    fn due_at(&self) -> Option<i64> {
        None
    }
}

/// One answered vendor call, without its secrets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    pub at: String,
    /// Method and path pattern, for example `POST /open-apis/im/v1/messages`.
    pub endpoint: String,
    /// The `code` of the answer, or the name of the fault that took its place.
    pub result: String,
    /// Absent if the answer was withheld on purpose.
    pub http_status: Option<u16>,
    pub app_id: Option<String>,
    /// `tenant`, `app`, or `user:<open_id>`; absent where no token is needed.
    pub caller: Option<String>,
    pub log_id: String,
}

/// How often one endpoint gave one result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallCount {
    pub endpoint: String,
    pub result: String,
    pub count: u64,
}

#[derive(Debug)]
pub(crate) struct Store {
    connection: Mutex<Connection>,
    pub(crate) clock: Clock,
    /// Told after a commit that left something due, or that moved the clock.
    pub(crate) due: Notify,
}

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version != 0 && version != SCHEMA_VERSION {
            return Err(StoreError::Version(version));
        }
        connection.execute_batch(SCHEMA)?;
        connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(Self { connection: Mutex::new(connection), clock: Clock::default(), due: Notify::new() })
    }

    /// Runs `work` in one transaction. An error, whatever its kind, rolls back everything `work` wrote.
    pub(crate) fn transact<T, E: From<StoreError>>(&self, work: impl FnOnce(&Tx<'_>) -> Result<T, E>) -> Result<T, E> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(StoreError::from)?;
        let tx = Tx { transaction, now: self.clock.now_ms(), left_due: Cell::new(false) };
        let value = work(&tx)?;
        let left_due = tx.left_due.get();
        tx.transaction.commit().map_err(StoreError::from)?;
        if left_due {
            self.due.notify_one();
        }
        Ok(value)
    }
}

/// One transaction at one instant of sandbox time.
#[derive(Debug)]
pub(crate) struct Tx<'c> {
    transaction: Transaction<'c>,
    /// Milliseconds since 1970, the same throughout the transaction.
    pub(crate) now: i64,
    left_due: Cell<bool>,
}

impl Tx<'_> {
    pub(crate) fn get<R: Record>(&self, id: &str) -> Result<Option<R>, StoreError> {
        let doc: Option<String> = self
            .transaction
            .prepare_cached("SELECT doc FROM record WHERE kind = ?1 AND id = ?2")?
            .query_row(params![R::KIND, id], |row| row.get(0))
            .optional()?;
        Ok(doc.map(|doc| serde_json::from_str(&doc)).transpose()?)
    }

    /// Inserts, or replaces in place: a record keeps its position in listings.
    pub(crate) fn put<R: Record>(&self, record: &R) -> Result<(), StoreError> {
        let due_at = record.due_at();
        if due_at.is_some() {
            self.left_due.set(true);
        }
        self.transaction
            .prepare_cached(
                "INSERT INTO record (kind, id, owner, due_at, doc) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (kind, id) DO UPDATE
                 SET owner = excluded.owner, due_at = excluded.due_at, doc = excluded.doc",
            )?
            .execute(params![R::KIND, record.id(), record.owner(), due_at, serde_json::to_string(record)?])?;
        Ok(())
    }

    pub(crate) fn delete<R: Record>(&self, id: &str) -> Result<bool, StoreError> {
        let deleted = self
            .transaction
            .prepare_cached("DELETE FROM record WHERE kind = ?1 AND id = ?2")?
            .execute(params![R::KIND, id])?;
        Ok(deleted > 0)
    }

    /// Every record of the kind, oldest first.
    pub(crate) fn all<R: Record>(&self) -> Result<Vec<R>, StoreError> {
        let mut statement = self.transaction.prepare_cached("SELECT doc FROM record WHERE kind = ?1 ORDER BY seq")?;
        let docs = statement.query_map(params![R::KIND], |row| row.get::<_, String>(0))?;
        docs.map(|doc| Ok(serde_json::from_str(&doc?)?)).collect()
    }

    /// The newest `limit` records that `keep` accepts, newest first, of one owner or of all.
    pub(crate) fn newest<R: Record>(
        &self,
        owner: Option<&str>,
        limit: usize,
        keep: impl Fn(&R) -> bool,
    ) -> Result<Vec<R>, StoreError> {
        let mut statement = self.transaction.prepare_cached(match owner {
            Some(_) => "SELECT doc FROM record WHERE kind = ?1 AND owner = ?2 ORDER BY seq DESC",
            None => "SELECT doc FROM record WHERE kind = ?1 AND ?2 IS NULL ORDER BY seq DESC",
        })?;
        let docs = statement.query_map(params![R::KIND, owner], |row| row.get::<_, String>(0))?;
        let mut kept = Vec::new();
        for doc in docs {
            if kept.len() >= limit {
                break;
            }
            let record: R = serde_json::from_str(&doc?)?;
            if keep(&record) {
                kept.push(record);
            }
        }
        Ok(kept)
    }

    /// The ids of what is due now, most overdue first.
    pub(crate) fn due<R: Record>(&self) -> Result<Vec<String>, StoreError> {
        let mut statement = self
            .transaction
            .prepare_cached("SELECT id FROM record WHERE kind = ?1 AND due_at <= ?2 ORDER BY due_at LIMIT 64")?;
        let ids = statement.query_map(params![R::KIND, self.now], |row| row.get(0))?;
        Ok(ids.collect::<Result<_, _>>()?)
    }

    /// When the next record of the kind falls due, past or future.
    pub(crate) fn next_due<R: Record>(&self) -> Result<Option<i64>, StoreError> {
        Ok(self
            .transaction
            .prepare_cached("SELECT min(due_at) FROM record WHERE kind = ?1")?
            .query_row(params![R::KIND], |row| row.get(0))?)
    }

    pub(crate) fn record_call(&self, call: &Call) -> Result<(), StoreError> {
        self.transaction
            .prepare_cached(
                "INSERT INTO call_count (endpoint, result, count) VALUES (?1, ?2, 1)
                 ON CONFLICT (endpoint, result) DO UPDATE SET count = count + 1",
            )?
            .execute(params![call.endpoint, call.result])?;
        self.transaction
            .prepare_cached("INSERT INTO call (doc) VALUES (?1)")?
            .execute(params![serde_json::to_string(call)?])?;
        self.transaction
            .prepare_cached("DELETE FROM call WHERE seq <= ?1")?
            .execute(params![self.transaction.last_insert_rowid() - CALLS_KEPT])?;
        Ok(())
    }

    pub(crate) fn call_counts(&self) -> Result<Vec<CallCount>, StoreError> {
        let mut statement = self
            .transaction
            .prepare_cached("SELECT endpoint, result, count FROM call_count ORDER BY endpoint, result")?;
        let counts = statement
            .query_map([], |row| Ok(CallCount { endpoint: row.get(0)?, result: row.get(1)?, count: row.get(2)? }))?;
        Ok(counts.collect::<Result<_, _>>()?)
    }

    /// The calls kept in full, newest first.
    pub(crate) fn calls(&self, limit: usize) -> Result<Vec<Call>, StoreError> {
        let mut statement = self.transaction.prepare_cached("SELECT doc FROM call ORDER BY seq DESC LIMIT ?1")?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let docs = statement.query_map(params![limit], |row| row.get::<_, String>(0))?;
        docs.map(|doc| Ok(serde_json::from_str(&doc?)?)).collect()
    }

    pub(crate) fn clear_calls(&self) -> Result<(), StoreError> {
        self.transaction.execute("DELETE FROM call_count", [])?;
        self.transaction.execute("DELETE FROM call", [])?;
        Ok(())
    }
}
