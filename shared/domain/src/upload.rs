//! Uploads: a file comes as parts of one native S3 multipart upload, is merged without being copied, and is proved to be what was sent.
//!
//! An upload is **uploading** until its sender asks for the merge, then **merging** until the object is proved (**completed**) or refuted
//! (**failed**). Its sender may give it up (**aborted**), and one that nobody touched for a day is given up for them (**expired**). Every
//! step is a conditional write on the record's version; what S3 holds follows the record, never the other way round, so that whoever comes
//! after a crash reads from the record what is left to be done.

pub mod checksum;
pub mod desk;
pub mod fault;
pub mod file;
pub mod import;
pub mod media;
pub mod merge;
pub mod name;
pub mod object;
pub mod plan;
pub mod quota;
pub mod request;
pub mod sweep;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::fault::PortFault;
use crate::id::{ConversationId, FileId, TenantId, UploadId, UserId};
use crate::upload::checksum::{Crc64, Sha256};
use crate::upload::file::{Keeping, StoredFile};
use crate::upload::plan::ChunkPlan;
use crate::upload::quota::Quota;

/// How long an upload waits for its sender.
pub const IDLE: Duration = Duration::hours(24);

/// How long an upload may take in all, however busy its sender: the bucket's own rule gives up a day later what is older.
pub const LONGEST: Duration = Duration::days(6);

/// How long a merge may take before it is asked for again.
pub const MERGE: Duration = Duration::hours(1);

/// How long an upload that has ended is remembered.
pub const REMEMBERED: Duration = Duration::days(30);

/// Under which every object of an upload lies.
pub const PREFIX: &str = "u/";

/// Where an upload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Uploading,
    Merging,
    Completed,
    Failed,
    Aborted,
    Expired,
}

impl Status {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uploading => "uploading",
            Self::Merging => "merging",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
            Self::Expired => "expired",
        }
    }

    /// Whether something is still to come.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Uploading | Self::Merging)
    }
}

/// Where the bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Origin {
    /// A client sends chunks of this size; the last one is the rest.
    Client { chunk_size: u64 },
    /// Objects that lie in the bucket already, which the manifest under this key names in order.
    Import { manifest: String },
}

/// Why an upload failed, for its sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable, in snake case.
    pub code: String,
    /// For people.
    pub message: String,
}

/// An upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    pub upload_id: UploadId,
    /// Of the file that it will be.
    pub file_id: FileId,
    pub tenant_id: TenantId,
    pub user_id: UserId,
    pub conversation_id: ConversationId,
    pub filename: String,
    pub mime_type: String,
    pub file_size: u64,
    pub origin: Origin,
    pub total_chunks: u32,
    /// What the sender says the whole file's checksums are.
    pub checksum_crc64nvme: Option<Crc64>,
    pub checksum_sha256: Option<Sha256>,
    /// S3's own id of the multipart upload.
    pub multipart_id: String,
    pub status: Status,
    pub failure: Option<Failure>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When its sender was last heard of; once it is merging, since when.
    #[serde(with = "time::serde::rfc3339")]
    pub touched_at: OffsetDateTime,
    /// Grows by one with every change.
    pub version: u64,
}

/// Where the bytes of an upload become an object.
fn object_key(tenant_id: &TenantId, upload_id: &UploadId) -> String {
    format!("{PREFIX}{tenant_id}/{upload_id}")
}

impl Upload {
    /// The key of its object. Never made from a name; it names the record, so that an orphan in the bucket can be traced.
    #[must_use]
    pub fn key(&self) -> String {
        object_key(&self.tenant_id, &self.upload_id)
    }

    /// Whose record an object's or a multipart upload's key names.
    #[must_use]
    pub fn of_key(key: &str) -> Option<UploadId> {
        let (_, upload_id) = key.strip_prefix(PREFIX)?.split_once('/')?;
        UploadId::parse(upload_id).ok()
    }

    /// The chunks that its client sends. An import has none.
    #[must_use]
    pub fn chunks(&self) -> ChunkPlan {
        match self.origin {
            Origin::Client { chunk_size } => ChunkPlan { file_size: self.file_size, chunk_size },
            Origin::Import { .. } => ChunkPlan { file_size: 0, chunk_size: plan::CHUNK_BYTES },
        }
    }

    /// When it is given up unless its sender is heard of.
    #[must_use]
    pub fn expires_at(&self) -> OffsetDateTime {
        (self.touched_at + IDLE).min(self.created_at + LONGEST)
    }

    /// When somebody has to look after it; never, once it has ended.
    #[must_use]
    pub fn due_at(&self) -> Option<OffsetDateTime> {
        match self.status {
            Status::Uploading => Some(self.expires_at()),
            Status::Merging => Some(self.touched_at + MERGE),
            _ => None,
        }
    }

    /// The status as it is to be told: the sweep that writes it comes once a day.
    #[must_use]
    pub fn status_at(&self, now: OffsetDateTime) -> Status {
        if self.status == Status::Uploading && self.expires_at() <= now { Status::Expired } else { self.status }
    }

    /// The next version, in another status.
    #[must_use]
    pub fn moved(&self, status: Status, now: OffsetDateTime) -> Self {
        Self { status, touched_at: now, version: self.version + 1, ..self.clone() }
    }

    /// The next version, which failed.
    #[must_use]
    pub fn failed(&self, failure: Failure, now: OffsetDateTime) -> Self {
        Self { failure: Some(failure), ..self.moved(Status::Failed, now) }
    }
}

/// The records of uploads.
#[async_trait]
pub trait UploadStore: Send + Sync {
    async fn upload(&self, upload_id: &UploadId) -> Result<Option<Upload>, PortFault>;

    async fn quota(&self, tenant_id: &TenantId, user_id: &UserId) -> Result<Quota, PortFault>;

    /// Keeps a new upload. With a quota, which must be the next version of the one that was read, both or neither are kept.
    async fn open(&self, upload: &Upload, quota: Option<&Quota>) -> Result<(), PortFault>;

    /// Keeps the next version; a [`PortFault::Conflict`] if the stored one is not the one before it. One that is open no more leaves its
    /// sender's quota in the same step.
    async fn change(&self, upload: &Upload) -> Result<(), PortFault>;

    /// Keeps the next version, which is completed, with the file that it became and a reference to its content: all or nothing. A
    /// conflict as of [`UploadStore::change`], or because the content is not as `keeping` expects it.
    async fn complete(&self, upload: &Upload, file: &StoredFile, keeping: Keeping) -> Result<(), PortFault>;

    /// Up to `limit` uploads of this open status that are due by [`Upload::due_at`], the longest due first.
    async fn due(&self, status: Status, now: OffsetDateTime, limit: u32) -> Result<Vec<UploadId>, PortFault>;
}
