//! The records of buckets, objects, uploads and events in one SQLite database, and the rules each change must pass.
//!
//! Every change is one immediate transaction with `synchronous = FULL`, so a precondition and the write it guards cannot be
//! torn apart, and what was acknowledged survives a kill. All calls block.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};
use s3s::dto::ETagCondition;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use tokio::sync::Notify;

use crate::body::{Bodies, Content, NewBody, Segment, new_id};
use crate::checksum::{self, Algorithm, Checksum, Digests, Kind};
use crate::config::{BucketConfig, LifecycleRule};
use crate::error::BucketError;
use crate::event::QueuedEvent;

const MIN_PART_BYTES: u64 = 5 * 1024 * 1024;
pub(crate) const MAX_PART_NUMBER: i32 = 10_000;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS bucket (
    name TEXT PRIMARY KEY, created_at INTEGER NOT NULL, config TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS object (
    bucket TEXT NOT NULL, key TEXT NOT NULL, content TEXT NOT NULL, size INTEGER NOT NULL, etag TEXT NOT NULL,
    modified_at INTEGER NOT NULL, headers TEXT NOT NULL, checksum TEXT NOT NULL, PRIMARY KEY (bucket, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS upload (
    id TEXT PRIMARY KEY, bucket TEXT NOT NULL, key TEXT NOT NULL, initiated_at INTEGER NOT NULL, headers TEXT NOT NULL,
    algorithm TEXT NOT NULL, kind TEXT NOT NULL, declared INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS upload_by_key ON upload (bucket, key, id);
CREATE TABLE IF NOT EXISTS part (
    upload TEXT NOT NULL, number INTEGER NOT NULL, content TEXT NOT NULL, size INTEGER NOT NULL, etag TEXT NOT NULL,
    modified_at INTEGER NOT NULL, checksum TEXT NOT NULL, PRIMARY KEY (upload, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segment (
    content TEXT NOT NULL, position INTEGER NOT NULL, body TEXT NOT NULL, start INTEGER NOT NULL,
    length INTEGER NOT NULL, PRIMARY KEY (content, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS segment_by_body ON segment (body);
CREATE TABLE IF NOT EXISTS event (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, bucket TEXT NOT NULL, key TEXT NOT NULL, name TEXT NOT NULL,
    configuration TEXT NOT NULL, target TEXT NOT NULL, size INTEGER, etag TEXT, at_ms INTEGER NOT NULL
);
";

/// What is kept of a request's headers and given back with the object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Headers {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache_control: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content_language: Option<String>,
    /// Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) storage_class: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, String>,
}

/// An object without its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) size: u64,
    pub(crate) etag: String,
    pub(crate) modified_at: OffsetDateTime,
    pub(crate) headers: Headers,
    pub(crate) checksum: Checksum,
}

/// Where the bytes of a new object or part are.
pub(crate) enum Source {
    /// A body just written; `None` if it is empty.
    New(Option<NewBody>),
    /// Bytes that other records name as well.
    Shared(Vec<Segment>),
}

impl Source {
    fn segments(&self, size: u64) -> Vec<Segment> {
        match self {
            Self::New(body) => {
                body.iter().map(|body| Segment { body: body.name().to_owned(), start: 0, length: size }).collect()
            }
            Self::Shared(segments) => segments.clone(),
        }
    }

    fn keep(self) {
        if let Self::New(Some(body)) = self {
            body.keep();
        }
    }
}

/// `If-Match` and `If-None-Match` of a write.
#[derive(Debug, Clone, Default)]
pub(crate) struct Precondition {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
}

impl Precondition {
    fn check(&self, key: &str, current: Option<&str>) -> Result<(), BucketError> {
        if let Some(wanted) = &self.if_match {
            let Some(current) = current else { return Err(BucketError::NoSuchKey(key.to_owned())) };
            if !etag_matches(wanted, current) {
                return Err(BucketError::PreconditionFailed);
            }
        }
        match &self.if_none_match {
            None => Ok(()),
            Some(ETagCondition::Any) if current.is_none() => Ok(()),
            Some(ETagCondition::Any) => Err(BucketError::PreconditionFailed),
            Some(ETagCondition::ETag(_)) => {
                Err(BucketError::NotImplemented("`If-None-Match` of a write takes only `*`".to_owned()))
            }
        }
    }
}

pub(crate) fn etag_matches(condition: &ETagCondition, etag: &str) -> bool {
    condition.is_any() || condition.as_etag().is_some_and(|wanted| wanted.value() == etag)
}

/// An object about to be put.
pub(crate) struct NewObject {
    pub(crate) source: Source,
    pub(crate) size: u64,
    pub(crate) etag: String,
    pub(crate) checksum: Checksum,
    pub(crate) headers: Headers,
    pub(crate) precondition: Precondition,
    /// Such as `ObjectCreated:Put`.
    pub(crate) event_name: &'static str,
}

/// A multipart upload in progress.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) initiated_at: OffsetDateTime,
    pub(crate) headers: Headers,
    pub(crate) algorithm: Algorithm,
    pub(crate) kind: Kind,
    /// Whether the client named the algorithm; parts must then use it.
    pub(crate) declared: bool,
}

/// A part of an upload without its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) number: i32,
    pub(crate) size: u64,
    pub(crate) etag: String,
    pub(crate) modified_at: OffsetDateTime,
    pub(crate) checksum: Checksum,
}

/// A part as the client names it to complete an upload.
#[derive(Debug, Clone)]
pub(crate) struct CompletedPart {
    pub(crate) number: i32,
    pub(crate) etag: String,
    pub(crate) checksums: Vec<(Algorithm, String)>,
}

/// What the client says of the object a completed upload must become.
#[derive(Debug, Clone, Default)]
pub(crate) struct Completion {
    pub(crate) parts: Vec<CompletedPart>,
    pub(crate) size: Option<u64>,
    pub(crate) kind: Option<Kind>,
    pub(crate) checksums: Vec<(Algorithm, String)>,
    pub(crate) precondition: Precondition,
}

/// A page of a listing.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) objects: Vec<(String, Object)>,
    pub(crate) common_prefixes: Vec<String>,
    /// The least key the next page may hold; `None` on the last page.
    pub(crate) next: Option<String>,
}

/// The keys of a listing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    pub(crate) prefix: String,
    pub(crate) delimiter: Option<String>,
    /// The least key to list.
    pub(crate) from: String,
    pub(crate) limit: usize,
}

/// What a run of the lifecycle rules did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LifecycleReport {
    pub expired_objects: usize,
    pub aborted_uploads: usize,
}

pub(crate) struct Store {
    writer: Mutex<Connection>,
    pub(crate) bodies: Arc<Bodies>,
    /// Wakes the delivery of events.
    pub(crate) queued: Notify,
    /// Held as long as the store lives: a second process would delete bodies this one is writing.
    _lock: File,
}

/// A transaction, and what is to happen once it is committed.
struct Change<'a> {
    transaction: Transaction<'a>,
    now: OffsetDateTime,
    unused: Vec<String>,
    queued: bool,
}

impl Store {
    pub(crate) fn open(root: &Path) -> Result<Self, BucketError> {
        fs::create_dir_all(root).map_err(BucketError::file(root))?;
        let lock_path = root.join("lock");
        let lock = File::create(&lock_path).map_err(BucketError::file(&lock_path))?;
        if let Err(error) = lock.try_lock() {
            return Err(match error {
                fs::TryLockError::WouldBlock => BucketError::InUse { path: root.to_owned() },
                fs::TryLockError::Error(source) => BucketError::File { path: lock_path, source },
            });
        }
        let database = root.join("buckets.sqlite");
        let writer = connect(&database)?;
        writer.execute_batch(SCHEMA)?;
        let bodies = Arc::new(Bodies::open(root.join("bodies"), connect(&database)?)?);
        Ok(Self { writer: Mutex::new(writer), bodies, queued: Notify::new(), _lock: lock })
    }

    /// Commits what `change` does, or nothing.
    fn write<T>(&self, change: impl FnOnce(&mut Change<'_>) -> Result<T, BucketError>) -> Result<T, BucketError> {
        let (done, unused, queued) = {
            let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut open = Change { transaction, now: now(), unused: Vec::new(), queued: false };
            let done = change(&mut open)?;
            let Change { transaction, unused, queued, .. } = open;
            transaction.commit()?;
            (done, unused, queued)
        };
        self.bodies.discard(unused);
        if queued {
            self.queued.notify_one();
        }
        Ok(done)
    }

    pub(crate) fn create_bucket(&self, bucket: &str, config: Option<&BucketConfig>) -> Result<bool, BucketError> {
        if !s3s::path::check_bucket_name(bucket) {
            return Err(BucketError::InvalidBucketName(bucket.to_owned()));
        }
        self.write(|change| {
            let created = change.transaction.execute(
                "INSERT OR IGNORE INTO bucket (name, created_at, config) VALUES (?1, ?2, ?3)",
                params![bucket, change.now.unix_timestamp(), serde_json::to_string(&BucketConfig::default())?],
            )? == 1;
            if let Some(config) = config {
                change.set_config(bucket, config)?;
            }
            Ok(created)
        })
    }

    pub(crate) fn update_config(
        &self,
        bucket: &str,
        update: impl FnOnce(&mut BucketConfig),
    ) -> Result<(), BucketError> {
        self.write(|change| {
            let mut config = config(&change.transaction, bucket)?;
            update(&mut config);
            change.set_config(bucket, &config)
        })
    }

    pub(crate) fn config(&self, bucket: &str) -> Result<BucketConfig, BucketError> {
        self.bodies.query(|connection| config(connection, bucket))
    }

    pub(crate) fn buckets(&self) -> Result<Vec<(String, OffsetDateTime)>, BucketError> {
        self.bodies.query(|connection| {
            let mut statement = connection.prepare_cached("SELECT name, created_at FROM bucket ORDER BY name")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, seconds(row, 1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Aborts the bucket's uploads; refuses while it holds objects.
    pub(crate) fn delete_bucket(&self, bucket: &str) -> Result<(), BucketError> {
        self.write(|change| {
            config(&change.transaction, bucket)?;
            let mut statement = change.transaction.prepare_cached("SELECT 1 FROM object WHERE bucket = ?1 LIMIT 1")?;
            if statement.exists(params![bucket])? {
                return Err(BucketError::BucketNotEmpty(bucket.to_owned()));
            }
            drop(statement);
            for upload in uploads(&change.transaction, bucket, "", None, usize::MAX)? {
                change.remove_upload(&upload.id)?;
            }
            change.transaction.execute("DELETE FROM bucket WHERE name = ?1", params![bucket])?;
            Ok(())
        })
    }

    pub(crate) fn object(&self, bucket: &str, key: &str) -> Result<Object, BucketError> {
        self.bodies.query(|connection| Ok(find_object(connection, bucket, key)?.0))
    }

    pub(crate) fn object_with_content(&self, bucket: &str, key: &str) -> Result<(Object, Content), BucketError> {
        self.bodies.pin(|connection| {
            let (object, content) = find_object(connection, bucket, key)?;
            Ok((object, segments(connection, &content)?))
        })
    }

    /// Makes the object visible, whole, if the precondition holds at that instant.
    pub(crate) fn put_object(&self, bucket: &str, key: &str, new: NewObject) -> Result<Object, BucketError> {
        check_key(key)?;
        let NewObject { source, size, etag, checksum, headers, precondition, event_name } = new;
        let object = self.write(|change| {
            let object = Object { size, etag, modified_at: change.now, headers, checksum };
            change.replace_object(bucket, key, &object, &source.segments(size), &precondition, event_name)?;
            Ok(object)
        })?;
        source.keep();
        Ok(object)
    }

    /// Deletes what exists of the keys, all or nothing; an absent key is no error.
    pub(crate) fn delete_objects(
        &self,
        bucket: &str,
        keys: &[(String, Precondition)],
    ) -> Result<Vec<Result<(), BucketError>>, BucketError> {
        self.write(|change| {
            let config = config(&change.transaction, bucket)?;
            let delete = |(key, precondition): &(String, Precondition)| {
                let current = current_etag(&change.transaction, bucket, key)?;
                precondition.check(key, current.as_deref())
            };
            let outcomes: Vec<_> = keys.iter().map(delete).collect();
            for ((key, _), outcome) in keys.iter().zip(&outcomes) {
                if outcome.is_ok() {
                    change.delete_object(&config, bucket, key, "ObjectRemoved:Delete")?;
                }
            }
            Ok(outcomes)
        })
    }

    pub(crate) fn list(&self, bucket: &str, listing: &Listing) -> Result<Page, BucketError> {
        self.bodies.query(|connection| {
            config(connection, bucket)?;
            list(connection, bucket, listing)
        })
    }

    pub(crate) fn create_upload(
        &self,
        bucket: &str,
        key: &str,
        headers: Headers,
        algorithm: Option<Algorithm>,
        kind: Option<Kind>,
    ) -> Result<Upload, BucketError> {
        check_key(key)?;
        let declared = algorithm.is_some();
        let algorithm = algorithm.unwrap_or(Algorithm::Crc64Nvme);
        let kind = kind.unwrap_or_else(|| algorithm.default_kind());
        if !algorithm.allows(kind) {
            let message =
                format!("The {} checksum type cannot be used with the {} algorithm.", kind.name(), algorithm.name());
            return Err(BucketError::InvalidRequest(message));
        }
        self.write(|change| {
            config(&change.transaction, bucket)?;
            let initiated_at = change.now;
            let upload = Upload { id: new_id(), key: key.to_owned(), initiated_at, headers, algorithm, kind, declared };
            change.transaction.execute(
                "INSERT INTO upload (id, bucket, key, initiated_at, headers, algorithm, kind, declared)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    upload.id,
                    bucket,
                    key,
                    initiated_at.unix_timestamp(),
                    serde_json::to_string(&upload.headers)?,
                    algorithm.name(),
                    kind.name(),
                    declared
                ],
            )?;
            Ok(upload)
        })
    }

    pub(crate) fn upload(&self, bucket: &str, key: &str, id: &str) -> Result<Upload, BucketError> {
        self.bodies.query(|connection| find_upload(connection, bucket, key, id))
    }

    pub(crate) fn uploads(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> Result<Vec<Upload>, BucketError> {
        self.bodies.query(|connection| {
            config(connection, bucket)?;
            uploads(connection, bucket, prefix, after, limit)
        })
    }

    /// Up to `limit` parts of the upload with a number above `after`.
    pub(crate) fn upload_with_parts(
        &self,
        (bucket, key, id): (&str, &str, &str),
        after: i32,
        limit: usize,
    ) -> Result<(Upload, Vec<Part>), BucketError> {
        self.bodies
            .query(|connection| Ok((find_upload(connection, bucket, key, id)?, parts(connection, id, after, limit)?)))
    }

    /// Replaces the part if it was uploaded before; refuses if the upload ended while the part was on its way.
    pub(crate) fn put_part(
        &self,
        (bucket, key, id): (&str, &str, &str),
        number: i32,
        source: Source,
        digests: &Digests,
    ) -> Result<Part, BucketError> {
        let part = self.write(|change| {
            let upload = find_upload(&change.transaction, bucket, key, id)?;
            let checksum = digests.checksum(upload.algorithm).ok_or(BucketError::Checksum { number })?;
            let part = Part { number, size: digests.size, etag: digests.etag(), modified_at: change.now, checksum };
            let replaced: Option<String> = change
                .transaction
                .prepare_cached("SELECT content FROM part WHERE upload = ?1 AND number = ?2")?
                .query_row(params![id, number], |row| row.get(0))
                .optional()?;
            if let Some(content) = replaced {
                change.remove_content(&content)?;
            }
            let content = change.add_content(&source.segments(part.size))?;
            change.transaction.execute(
                "INSERT OR REPLACE INTO part (upload, number, content, size, etag, modified_at, checksum)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    id,
                    number,
                    content,
                    part.size,
                    part.etag,
                    part.modified_at.unix_timestamp(),
                    serde_json::to_string(&part.checksum)?
                ],
            )?;
            Ok(part)
        })?;
        source.keep();
        Ok(part)
    }

    /// Makes one object of the parts without touching their bytes. On an error the upload stays as it was.
    pub(crate) fn complete_upload(
        &self,
        (bucket, key, id): (&str, &str, &str),
        completion: &Completion,
    ) -> Result<Object, BucketError> {
        self.write(|change| {
            let upload = find_upload(&change.transaction, bucket, key, id)?;
            let chosen = choose_parts(&parts(&change.transaction, id, 0, usize::MAX)?, &completion.parts)?;
            let object = completed_object(upload, &chosen, completion, change.now)?;
            let mut whole = Vec::with_capacity(chosen.len());
            let mut content =
                change.transaction.prepare_cached("SELECT content FROM part WHERE upload = ?1 AND number = ?2")?;
            for part in &chosen {
                let content: String = content.query_row(params![id, part.number], |row| row.get(0))?;
                whole.extend(segments(&change.transaction, &content)?);
            }
            drop(content);
            let event_name = "ObjectCreated:CompleteMultipartUpload";
            change.replace_object(bucket, key, &object, &whole, &completion.precondition, event_name)?;
            change.remove_upload(id)?;
            Ok(object)
        })
    }

    pub(crate) fn abort_upload(&self, bucket: &str, key: &str, id: &str) -> Result<(), BucketError> {
        self.write(|change| {
            find_upload(&change.transaction, bucket, key, id)?;
            change.remove_upload(id)
        })
    }

    pub(crate) fn run_lifecycle(&self, now: OffsetDateTime) -> Result<LifecycleReport, BucketError> {
        let mut report = LifecycleReport::default();
        for (bucket, _) in self.buckets()? {
            let done = self.write(|change| {
                let config = config(&change.transaction, &bucket)?;
                let mut report = LifecycleReport::default();
                for rule in config.lifecycle.iter().filter(|rule| rule.enabled) {
                    report.expired_objects += change.expire_objects(&config, &bucket, rule, now)?;
                    report.aborted_uploads += change.abort_uploads(&bucket, rule, now)?;
                }
                Ok(report)
            })?;
            report.expired_objects += done.expired_objects;
            report.aborted_uploads += done.aborted_uploads;
        }
        Ok(report)
    }

    pub(crate) fn events(&self, after: i64, limit: usize) -> Result<Vec<QueuedEvent>, BucketError> {
        self.bodies.query(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT sequence, bucket, key, name, configuration, target, size, etag, at_ms
                 FROM event WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
            )?;
            let rows = statement.query_map(params![after, limit], |row| {
                let size: Option<u64> = row.get(6)?;
                let etag: Option<String> = row.get(7)?;
                let at = OffsetDateTime::UNIX_EPOCH + Duration::milliseconds(row.get(8)?);
                Ok(QueuedEvent {
                    sequence: row.get(0)?,
                    bucket: row.get(1)?,
                    key: row.get(2)?,
                    name: row.get(3)?,
                    configuration: row.get(4)?,
                    target: row.get(5)?,
                    created: size.zip(etag),
                    at,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    pub(crate) fn remove_events(&self, sequences: &[i64]) -> Result<(), BucketError> {
        self.write(|change| {
            let mut statement = change.transaction.prepare_cached("DELETE FROM event WHERE sequence = ?1")?;
            for sequence in sequences {
                statement.execute(params![sequence])?;
            }
            Ok(())
        })
    }
}

impl Change<'_> {
    fn set_config(&self, bucket: &str, config: &BucketConfig) -> Result<(), BucketError> {
        let config = serde_json::to_string(config)?;
        self.transaction.execute("UPDATE bucket SET config = ?2 WHERE name = ?1", params![bucket, config])?;
        Ok(())
    }

    fn replace_object(
        &mut self,
        bucket: &str,
        key: &str,
        object: &Object,
        segments: &[Segment],
        precondition: &Precondition,
        event_name: &str,
    ) -> Result<(), BucketError> {
        let config = config(&self.transaction, bucket)?;
        precondition.check(key, current_etag(&self.transaction, bucket, key)?.as_deref())?;
        // First the new segments, then the old ones: an object copied onto itself keeps its bodies.
        let content = self.add_content(segments)?;
        self.remove_object(bucket, key)?;
        self.transaction.execute(
            "INSERT INTO object (bucket, key, content, size, etag, modified_at, headers, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                bucket,
                key,
                content,
                object.size,
                object.etag,
                object.modified_at.unix_timestamp(),
                serde_json::to_string(&object.headers)?,
                serde_json::to_string(&object.checksum)?
            ],
        )?;
        self.queue_events(&config, bucket, key, event_name, Some(object))
    }

    /// Whether there was one.
    fn delete_object(
        &mut self,
        config: &BucketConfig,
        bucket: &str,
        key: &str,
        event_name: &str,
    ) -> Result<bool, BucketError> {
        let existed = self.remove_object(bucket, key)?;
        if existed {
            self.queue_events(config, bucket, key, event_name, None)?;
        }
        Ok(existed)
    }

    fn remove_object(&mut self, bucket: &str, key: &str) -> Result<bool, BucketError> {
        let content: Option<String> = self
            .transaction
            .prepare_cached("DELETE FROM object WHERE bucket = ?1 AND key = ?2 RETURNING content")?
            .query_row(params![bucket, key], |row| row.get(0))
            .optional()?;
        match content {
            Some(content) => self.remove_content(&content).map(|()| true),
            None => Ok(false),
        }
    }

    fn remove_upload(&mut self, id: &str) -> Result<(), BucketError> {
        let contents = strings(&self.transaction, "DELETE FROM part WHERE upload = ?1 RETURNING content", id)?;
        for content in contents {
            self.remove_content(&content)?;
        }
        self.transaction.execute("DELETE FROM upload WHERE id = ?1", params![id])?;
        Ok(())
    }

    fn add_content(&self, segments: &[Segment]) -> Result<String, BucketError> {
        let content = new_id();
        let mut insert = self.transaction.prepare_cached(
            "INSERT INTO segment (content, position, body, start, length) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        for (position, segment) in segments.iter().enumerate() {
            insert.execute(params![content, position, segment.body, segment.start, segment.length])?;
        }
        Ok(content)
    }

    fn remove_content(&mut self, content: &str) -> Result<(), BucketError> {
        let bodies = strings(&self.transaction, "DELETE FROM segment WHERE content = ?1 RETURNING body", content)?;
        self.unused.extend(bodies);
        Ok(())
    }

    fn queue_events(
        &mut self,
        config: &BucketConfig,
        bucket: &str,
        key: &str,
        name: &str,
        created: Option<&Object>,
    ) -> Result<(), BucketError> {
        let at_ms = i64::try_from(self.now.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        for rule in config.notifications.iter().filter(|rule| rule.matches(name, key)) {
            self.transaction
                .prepare_cached(
                    "INSERT INTO event (bucket, key, name, configuration, target, size, etag, at_ms)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?
                .execute(params![
                    bucket,
                    key,
                    name,
                    rule.id,
                    rule.target,
                    created.map(|object| object.size),
                    created.map(|object| &object.etag),
                    at_ms
                ])?;
            self.queued = true;
        }
        Ok(())
    }

    fn expire_objects(
        &mut self,
        config: &BucketConfig,
        bucket: &str,
        rule: &LifecycleRule,
        now: OffsetDateTime,
    ) -> Result<usize, BucketError> {
        let Some(days) = rule.expiration_days else { return Ok(0) };
        let mut due = Vec::new();
        let mut statement = self.transaction.prepare_cached(
            "SELECT key, modified_at FROM object
             WHERE bucket = ?1 AND key >= ?2 AND (?3 IS NULL OR key < ?3) AND modified_at <= ?4",
        )?;
        let latest = (now - Duration::days(i64::from(days))).unix_timestamp();
        let mut rows = statement.query(params![bucket, rule.prefix, after_prefix(&rule.prefix), latest])?;
        while let Some(row) = rows.next()? {
            if LifecycleRule::is_due(days, seconds(row, 1)?, now) {
                due.push(row.get::<_, String>(0)?);
            }
        }
        drop(rows);
        drop(statement);
        for key in &due {
            self.delete_object(config, bucket, key, "LifecycleExpiration:Delete")?;
        }
        Ok(due.len())
    }

    fn abort_uploads(&mut self, bucket: &str, rule: &LifecycleRule, now: OffsetDateTime) -> Result<usize, BucketError> {
        let Some(days) = rule.abort_incomplete_multipart_upload_days else { return Ok(0) };
        let mut aborted = 0;
        for upload in uploads(&self.transaction, bucket, &rule.prefix, None, usize::MAX)? {
            if LifecycleRule::is_due(days, upload.initiated_at, now) {
                self.remove_upload(&upload.id)?;
                aborted += 1;
            }
        }
        Ok(aborted)
    }
}

/// The wall clock.
fn now() -> OffsetDateTime {
    #[expect(clippy::disallowed_methods, reason = "the one place where the clock is read")]
    let now = OffsetDateTime::now_utc();
    now
}

fn connect(database: &Path) -> Result<Connection, BucketError> {
    let connection = Connection::open(database)?;
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 30000;")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn check_key(key: &str) -> Result<(), BucketError> {
    if (1..=1024).contains(&key.len()) { Ok(()) } else { Err(BucketError::InvalidKey(key.len())) }
}

/// The least string greater than every string that starts with `prefix`; `None` if there is none.
pub(crate) fn after_prefix(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // Character ranges step over the surrogates, as UTF-8's order does.
        if let Some(next) = (last..=char::MAX).nth(1) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// The least string greater than `key`.
pub(crate) fn after_key(key: &str) -> String {
    format!("{key}\0")
}

fn config(connection: &Connection, bucket: &str) -> Result<BucketConfig, BucketError> {
    let config: Option<String> = connection
        .prepare_cached("SELECT config FROM bucket WHERE name = ?1")?
        .query_row(params![bucket], |row| row.get(0))
        .optional()?;
    let config = config.ok_or_else(|| BucketError::NoSuchBucket(bucket.to_owned()))?;
    Ok(serde_json::from_str(&config)?)
}

fn current_etag(connection: &Connection, bucket: &str, key: &str) -> Result<Option<String>, BucketError> {
    let mut statement = connection.prepare_cached("SELECT etag FROM object WHERE bucket = ?1 AND key = ?2")?;
    Ok(statement.query_row(params![bucket, key], |row| row.get(0)).optional()?)
}

const OBJECT_COLUMNS: &str = "key, content, size, etag, modified_at, headers, checksum";

fn object_from(row: &Row<'_>) -> rusqlite::Result<Object> {
    Ok(Object {
        size: row.get(2)?,
        etag: row.get(3)?,
        modified_at: seconds(row, 4)?,
        headers: from_json(row, 5)?,
        checksum: from_json(row, 6)?,
    })
}

fn find_object(connection: &Connection, bucket: &str, key: &str) -> Result<(Object, String), BucketError> {
    let found = connection
        .prepare_cached(&format!("SELECT {OBJECT_COLUMNS} FROM object WHERE bucket = ?1 AND key = ?2"))?
        .query_row(params![bucket, key], |row| Ok((object_from(row)?, row.get(1)?)))
        .optional()?;
    match found {
        Some(found) => Ok(found),
        // A missing bucket is the better answer, and only looked for when the key is missing.
        None => config(connection, bucket).and(Err(BucketError::NoSuchKey(key.to_owned()))),
    }
}

fn segments(connection: &Connection, content: &str) -> Result<Vec<Segment>, BucketError> {
    let mut statement =
        connection.prepare_cached("SELECT body, start, length FROM segment WHERE content = ?1 ORDER BY position")?;
    let rows = statement.query_map(params![content], |row| {
        Ok(Segment { body: row.get(0)?, start: row.get(1)?, length: row.get(2)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn list(connection: &Connection, bucket: &str, listing: &Listing) -> Result<Page, BucketError> {
    let mut page = Page::default();
    if listing.limit == 0 {
        return Ok(page);
    }
    let end = after_prefix(&listing.prefix);
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {OBJECT_COLUMNS} FROM object
         WHERE bucket = ?1 AND key >= ?2 AND (?3 IS NULL OR key < ?3) ORDER BY key"
    ))?;
    let mut from = Some(listing.from.clone().max(listing.prefix.clone()));
    // Each turn starts a new search behind a common prefix, so that what it hides is never read.
    'search: while let Some(least) = from.take() {
        let mut rows = statement.query(params![bucket, least, end])?;
        while let Some(row) = rows.next()? {
            let key: String = row.get(0)?;
            if page.objects.len() + page.common_prefixes.len() == listing.limit {
                page.next = Some(key);
                break 'search;
            }
            match common_prefix(&key, listing) {
                None => page.objects.push((key, object_from(row)?)),
                Some(prefix) => {
                    from = after_prefix(&prefix);
                    page.common_prefixes.push(prefix);
                    continue 'search;
                }
            }
        }
    }
    Ok(page)
}

fn common_prefix(key: &str, listing: &Listing) -> Option<String> {
    let delimiter = listing.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty())?;
    let (start, _) = key.strip_prefix(listing.prefix.as_str())?.split_once(delimiter)?;
    Some(format!("{}{start}{delimiter}", listing.prefix))
}

fn find_upload(connection: &Connection, bucket: &str, key: &str, id: &str) -> Result<Upload, BucketError> {
    connection
        .prepare_cached(&format!("SELECT {UPLOAD_COLUMNS} FROM upload WHERE id = ?1 AND bucket = ?2 AND key = ?3"))?
        .query_row(params![id, bucket, key], upload_from)
        .optional()?
        .ok_or_else(|| BucketError::NoSuchUpload(id.to_owned()))
}

const UPLOAD_COLUMNS: &str = "id, key, initiated_at, headers, algorithm, kind, declared";

fn upload_from(row: &Row<'_>) -> rusqlite::Result<Upload> {
    let unknown = |column, name: String| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, format!("unknown name `{name}`").into())
    };
    let (algorithm, kind): (String, String) = (row.get(4)?, row.get(5)?);
    Ok(Upload {
        id: row.get(0)?,
        key: row.get(1)?,
        initiated_at: seconds(row, 2)?,
        headers: from_json(row, 3)?,
        algorithm: Algorithm::parse(&algorithm).ok_or_else(|| unknown(4, algorithm))?,
        kind: Kind::parse(&kind).ok_or_else(|| unknown(5, kind))?,
        declared: row.get(6)?,
    })
}

fn uploads(
    connection: &Connection,
    bucket: &str,
    prefix: &str,
    after: Option<(&str, &str)>,
    limit: usize,
) -> Result<Vec<Upload>, BucketError> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {UPLOAD_COLUMNS} FROM upload
         WHERE bucket = ?1 AND key >= ?2 AND (?3 IS NULL OR key < ?3) AND (?4 IS NULL OR (key, id) > (?4, ?5))
         ORDER BY key, id LIMIT ?6"
    ))?;
    let (key, id) = after.unzip();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![bucket, prefix, after_prefix(prefix), key, id, limit], upload_from)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn parts(connection: &Connection, upload: &str, after: i32, limit: usize) -> Result<Vec<Part>, BucketError> {
    let mut statement = connection.prepare_cached(
        "SELECT number, size, etag, modified_at, checksum FROM part
         WHERE upload = ?1 AND number > ?2 ORDER BY number LIMIT ?3",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![upload, after, limit], |row| {
        Ok(Part {
            number: row.get(0)?,
            size: row.get(1)?,
            etag: row.get(2)?,
            modified_at: seconds(row, 3)?,
            checksum: from_json(row, 4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The uploaded parts the client names, if they are what it says and may stand where it puts them.
fn choose_parts(uploaded: &[Part], named: &[CompletedPart]) -> Result<Vec<Part>, BucketError> {
    if named.is_empty() {
        return Err(BucketError::InvalidRequest("You must specify at least one part".to_owned()));
    }
    if !named.is_sorted_by(|one, next| one.number < next.number) {
        return Err(BucketError::InvalidPartOrder);
    }
    let uploaded: HashMap<i32, &Part> = uploaded.iter().map(|part| (part.number, part)).collect();
    let mut chosen = Vec::with_capacity(named.len());
    for part in named {
        let is_the_same = |known: &&Part| {
            known.etag == part.etag
                && part
                    .checksums
                    .iter()
                    .all(|(algorithm, value)| *algorithm == known.checksum.algorithm && *value == known.checksum.value)
        };
        let known = uploaded.get(&part.number).copied().filter(is_the_same);
        chosen.push(known.ok_or(BucketError::InvalidPart(part.number))?.clone());
    }
    let (_, but_the_last) = chosen.split_last().unzip();
    for Part { number, size, .. } in but_the_last.unwrap_or_default() {
        if *size < MIN_PART_BYTES {
            return Err(BucketError::PartTooSmall { number: *number, size: *size });
        }
    }
    Ok(chosen)
}

/// The object the parts make, if it is what the client declared.
fn completed_object(
    upload: Upload,
    parts: &[Part],
    completion: &Completion,
    now: OffsetDateTime,
) -> Result<Object, BucketError> {
    let size = parts.iter().map(|part| part.size).sum();
    if let Some(declared) = completion.size.filter(|declared| *declared != size) {
        let message = format!(
            "The provided 'x-amz-mp-object-size' header value {declared} does not match what was computed: {size}"
        );
        return Err(BucketError::InvalidRequest(message));
    }
    if completion.kind.is_some_and(|kind| kind != upload.kind) {
        let message = format!("The upload was created with the {} checksum type", upload.kind.name());
        return Err(BucketError::InvalidRequest(message));
    }
    let sums: Vec<(&str, u64)> = parts.iter().map(|part| (part.checksum.value.as_str(), part.size)).collect();
    let unusable = BucketError::Checksum { number: parts.first().map_or(0, |part| part.number) };
    let Some(checksum) = checksum::of_parts(upload.algorithm, upload.kind, &sums) else { return Err(unusable) };
    let Some(etag) = checksum::etag_of_parts(parts.iter().map(|part| part.etag.as_str())) else {
        return Err(unusable);
    };
    for (algorithm, declared) in &completion.checksums {
        if *algorithm != checksum.algorithm {
            let message = format!("The upload was created with the {} algorithm", checksum.algorithm.name());
            return Err(BucketError::InvalidRequest(message));
        }
        // A composite may be declared with or without its number of parts.
        let computed = checksum.value.as_str();
        let bare = computed.split_once('-').map_or(computed, |(bare, _)| bare);
        if declared != computed && declared != bare {
            let computed = computed.to_owned();
            return Err(BucketError::BadDigest { name: algorithm.name(), declared: declared.clone(), computed });
        }
    }
    Ok(Object { size, etag, modified_at: now, headers: upload.headers, checksum })
}

fn seconds(row: &Row<'_>, column: usize) -> rusqlite::Result<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(row.get(column)?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, error.into()))
}

fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into()))
}

fn strings(connection: &Connection, sql: &str, argument: &str) -> Result<Vec<String>, BucketError> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![argument], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
