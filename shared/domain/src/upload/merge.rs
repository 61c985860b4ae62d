//! The merge: parts become an object, the object is proved, and the record says so.
//!
//! The store decides what is there and the record what is true. Each step may be cut short and is begun again by the next delivery of the
//! job: an object that exists although its multipart upload has ended was made by a run whose answer was lost.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::clock::Clock;
use crate::event::{EventBus, Fact};
use crate::fault::PortFault;
use crate::id::UploadId;
use crate::push::{Audience, Frame, PushJob, PushQueue};
use crate::upload::checksum::{Crc64, Sha256, Sha256Sum};
use crate::upload::fault::UploadFault;
use crate::upload::file::{Content, FileStore, Keeping, StoredFile};
use crate::upload::import::{self, Manifest, Piece};
use crate::upload::object::{ChunkObjects, Completed, Completion, Copied, Multipart, Objects, Part};
use crate::upload::{Failure, Origin, Status, Upload, UploadStore, media};

/// How often a record is read again that somebody else changed.
const TRIES: usize = 4;

/// How much of an object is in memory at once.
const READ_BYTES: u64 = 8 << 20;

/// More than any manifest has.
const MANIFEST_BYTES: u64 = 64 << 20;

/// How many parts S3 copies at once, and how many are joined in memory at once.
const COPIES: usize = 16;
const JOINS: usize = 3;

/// When an import leaves the rest to the next run, well inside the function's time-out.
const RUN: Duration = Duration::seconds(200);

/// "This upload is to be merged." Twice is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeJob {
    pub upload_id: UploadId,
    /// When it was asked for again, in minutes; nothing for the first time.
    #[serde(default)]
    pub turn: i64,
    /// The version at which an import began; 0 for chunks that were sent.
    #[serde(default)]
    pub import: u64,
    /// As they were listed when the merge was asked for; if there are none, or they have changed, they are listed again.
    #[serde(default)]
    pub parts: Vec<Part>,
}

impl MergeJob {
    #[must_use]
    pub fn first(upload_id: &UploadId, parts: Vec<Part>) -> Self {
        Self { upload_id: upload_id.clone(), turn: 0, import: 0, parts }
    }

    /// For an upload that is merging already: the worker may have died, and its message be hidden for as long as the slowest worker takes.
    #[must_use]
    pub fn again(upload_id: &UploadId, now: OffsetDateTime) -> Self {
        Self { upload_id: upload_id.clone(), turn: now.unix_timestamp() / 60, import: 0, parts: Vec::new() }
    }

    /// For an import, whether it begins or is waited for. One that failed and begins again is another version of its record, and is not taken
    /// for the one before.
    #[must_use]
    pub fn import(begun: &Upload, now: OffsetDateTime) -> Self {
        Self { import: begun.version, ..Self::again(&begun.upload_id, now) }
    }

    /// The FIFO deduplication id, and the group: what is asked for twice in a minute is done once, and what is asked for again does not wait
    /// for what may be dead. Two workers at once do no harm.
    #[must_use]
    pub fn deduplication_id(&self) -> String {
        format!("{}.{}.{}", self.upload_id, self.turn, self.import)
    }
}

/// The merge queue.
#[async_trait]
pub trait MergeQueue: Send + Sync {
    /// Durable when it returns. The same within five minutes is dropped.
    async fn send(&self, job: &MergeJob) -> Result<(), PortFault>;
}

/// What merging needs.
pub struct Merge {
    pub uploads: Arc<dyn UploadStore>,
    pub files: Arc<dyn FileStore>,
    pub multipart: Arc<dyn Multipart>,
    pub objects: Arc<dyn Objects>,
    pub chunks: Arc<dyn ChunkObjects>,
    pub bus: Arc<dyn EventBus>,
    pub push: Arc<dyn PushQueue>,
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for Merge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merge").finish_non_exhaustive()
    }
}

/// Why a step stops: for now, or for good.
enum Stop {
    Fault(UploadFault),
    Failed(Failure),
}

impl From<UploadFault> for Stop {
    fn from(fault: UploadFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<PortFault> for Stop {
    fn from(fault: PortFault) -> Self {
        Self::Fault(fault.into())
    }
}

fn failed(code: &str, message: impl Into<String>) -> Stop {
    Stop::Failed(Failure { code: code.to_owned(), message: message.into() })
}

/// What was proved of an object.
struct Proved {
    crc64nvme: Crc64,
    sha256: Option<Sha256>,
}

impl Merge {
    /// Does one job. Done before, or for an upload that is no more, it tidies up.
    pub async fn run(&self, job: &MergeJob) -> Result<(), UploadFault> {
        for _ in 0..TRIES {
            let Some(upload) = self.uploads.upload(&job.upload_id).await? else {
                tracing::warn!(upload.id = %job.upload_id, "A merge of an upload that is unknown");
                return Ok(());
            };
            let merged = match upload.status {
                Status::Uploading => {
                    self.uploads.change(&upload.moved(Status::Merging, self.clock.now())).await.map(|()| false)
                }
                Status::Merging => match self.merge(&upload, &job.parts).await {
                    Ok(()) => Ok(true),
                    Err(UploadFault::Port(fault @ PortFault::Conflict { .. })) => Err(fault),
                    Err(fault) => return Err(fault),
                },
                Status::Completed => {
                    match self.files.file(&upload.file_id).await? {
                        Some(file) => self.after(&upload, &file).await?,
                        // Removed since, with its object. What it was made of is still to be deleted.
                        None => self.delete_chunks(&upload).await?,
                    }
                    Ok(true)
                }
                Status::Failed | Status::Aborted | Status::Expired => {
                    self.discard(&upload).await?;
                    Ok(true)
                }
            };
            match merged {
                Ok(true) => return Ok(()),
                // Moved on, or somebody else was quicker: the record says what is to be done now.
                Ok(false) | Err(PortFault::Conflict { .. }) => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        Err(PortFault::Conflict { operation: "merge upload" }.into())
    }

    async fn merge(&self, upload: &Upload, parts: &[Part]) -> Result<(), UploadFault> {
        let proved = match self.assemble(upload, parts).await {
            Ok(crc) => self.prove(upload, crc).await,
            Err(stop) => Err(stop),
        };
        match proved {
            Ok(proved) => {
                let file = self.keep(upload, &proved).await?;
                self.after(upload, &file).await
            }
            Err(Stop::Failed(failure)) => {
                tracing::warn!(upload.id = %upload.upload_id, failure.code = failure.code, "An upload failed: {}", failure.message);
                let failed = upload.failed(failure, self.clock.now());
                // First the record: whoever finds the object gone must find why.
                self.uploads.change(&failed).await?;
                self.discard(&failed).await?;
                Ok(self.bus.publish(&[Fact::of_failed_upload(&failed)]).await?)
            }
            Err(Stop::Fault(fault)) => Err(fault),
        }
    }

    /// Makes the object, or finds it made; the checksum that the store computed.
    async fn assemble(&self, upload: &Upload, told: &[Part]) -> Result<Crc64, Stop> {
        let key = upload.key();
        if !told.is_empty() && matches!(upload.origin, Origin::Client { .. }) {
            match self.complete(upload, &key, told).await? {
                // One of them was sent again since they were listed.
                Completed::Refused { code, .. } if code == "InvalidPart" => {}
                completed => return self.completed(upload, &key, completed).await,
            }
        }
        let parts = match &upload.origin {
            Origin::Client { .. } => self.multipart.parts(&key, &upload.multipart_id).await?,
            Origin::Import { manifest } => self.import(upload, &key, manifest).await?,
        };
        let completed = match parts {
            Some(parts) => self.complete(upload, &key, &parts).await?,
            None => Completed::Ended,
        };
        self.completed(upload, &key, completed).await
    }

    async fn complete(&self, upload: &Upload, key: &str, parts: &[Part]) -> Result<Completed, Stop> {
        let size: u64 = parts.iter().map(|part| part.size).sum();
        if size != upload.file_size {
            return Err(failed("size_mismatch", format!("the chunks have {size} bytes, not {}", upload.file_size)));
        }
        let sum = |sum: Crc64, part: &Part| Some(sum.followed_by(part.crc64nvme?, part.size));
        let combined = parts.iter().try_fold(Crc64::empty(), sum);
        if let (Some(declared), Some(combined)) = (upload.checksum_crc64nvme, combined) {
            same_crc(declared, combined)?;
        }
        let crc64nvme = combined.or(upload.checksum_crc64nvme);
        let completion = Completion { key, multipart_id: &upload.multipart_id, parts, size, crc64nvme };
        match self.multipart.complete(completion).await? {
            Completed::Done(crc) => Ok(Completed::Done(crc.or(combined))),
            other => Ok(other),
        }
    }

    /// What came of completing. After a lost answer, the object decides.
    async fn completed(&self, upload: &Upload, key: &str, completed: Completed) -> Result<Crc64, Stop> {
        match completed {
            Completed::Done(Some(crc)) => return Ok(crc),
            Completed::Done(None) | Completed::Ended => {}
            Completed::Refused { code, message } if code == "BadDigest" => {
                return Err(failed("checksum_mismatch", message));
            }
            Completed::Refused { code, message } => return Err(failed("refused", format!("{code}: {message}"))),
        }
        let Some(facts) = self.objects.facts(key).await? else {
            return Err(failed("chunks_lost", "the chunks are no longer there"));
        };
        if facts.size != upload.file_size {
            return Err(failed(
                "size_mismatch",
                format!("the file has {} bytes, not {}", facts.size, upload.file_size),
            ));
        }
        let unproved = || PortFault::Broken { operation: "HeadObject", detail: format!("`{key}` has no CRC64NVME") };
        Ok(facts.crc64nvme.ok_or_else(unproved)?)
    }

    /// Whether the object is what its sender said it is.
    async fn prove(&self, upload: &Upload, crc64nvme: Crc64) -> Result<Proved, Stop> {
        if let Some(declared) = upload.checksum_crc64nvme {
            same_crc(declared, crc64nvme)?;
        }
        // A request to the store is saved where it could tell nothing.
        if media::says_something(&upload.mime_type) {
            let head = self.objects.read(&upload.key(), 0..media::HEAD_BYTES).await?;
            let head = head.ok_or_else(|| failed("chunks_lost", "the file is no longer there"))?;
            if let Some(found) = media::contradiction(&upload.mime_type, &head) {
                let message = format!("the file is called `{}` and is {found}", upload.mime_type);
                return Err(failed("type_mismatch", message));
            }
        }
        let Some(declared) = upload.checksum_sha256 else { return Ok(Proved { crc64nvme, sha256: None }) };
        let computed = self.sha256(&upload.key(), upload.file_size).await?;
        if computed != declared {
            let message = format!("the file's SHA-256 is {computed}, not {declared}");
            return Err(failed("checksum_mismatch", message));
        }
        Ok(Proved { crc64nvme, sha256: Some(computed) })
    }

    async fn sha256(&self, key: &str, size: u64) -> Result<Sha256, PortFault> {
        let (mut sum, mut start) = (Sha256Sum::default(), 0);
        while start < size {
            let piece = self.objects.read(key, start..(start + READ_BYTES).min(size)).await?.unwrap_or_default();
            if piece.is_empty() {
                return Err(ended_early(key));
            }
            sum.add(&piece);
            start += piece.len() as u64;
        }
        Ok(sum.finish())
    }

    /// Records the file. Equal bytes that the tenant has already are shared.
    async fn keep(&self, upload: &Upload, proved: &Proved) -> Result<StoredFile, UploadFault> {
        let completed = upload.moved(Status::Completed, self.clock.now());
        let content_id = Content::id_of(proved.crc64nvme, upload.file_size);
        let mut file = StoredFile {
            file_id: upload.file_id.clone(),
            upload_id: upload.upload_id.clone(),
            tenant_id: upload.tenant_id.clone(),
            user_id: upload.user_id.clone(),
            conversation_id: upload.conversation_id.clone(),
            filename: upload.filename.clone(),
            mime_type: upload.mime_type.clone(),
            file_size: upload.file_size,
            checksum_crc64nvme: proved.crc64nvme,
            checksum_sha256: proved.sha256,
            content_id,
            object_key: upload.key(),
            completed_at: completed.touched_at,
        };
        let keeping = match self.files.content(&upload.tenant_id, &file.content_id).await? {
            None => Keeping::First,
            Some(content) if content.references == 0 => {
                // Whoever removed the last file that referred to it did not come as far as this.
                self.objects.delete(std::slice::from_ref(&content.object_key)).await?;
                self.files.forget(&content).await?;
                Keeping::First
            }
            Some(content) if self.is_equal(upload, proved, &content).await? => {
                file.object_key = content.object_key;
                Keeping::Shared
            }
            Some(_) => {
                file.content_id = Content::own_id(upload);
                Keeping::First
            }
        };
        self.uploads.complete(&completed, &file, keeping).await?;
        Ok(file)
    }

    /// Whether content of the same checksum and size holds the same bytes: proved by SHA-256 of both, or by reading both.
    async fn is_equal(&self, upload: &Upload, proved: &Proved, content: &Content) -> Result<bool, PortFault> {
        if let (Some(one), Some(other)) = (proved.sha256, content.checksum_sha256) {
            return Ok(one == other);
        }
        let (key, mut start) = (upload.key(), 0);
        while start < upload.file_size {
            let range = start..(start + READ_BYTES).min(upload.file_size);
            let here = self.objects.read(&key, range.clone()).await?.unwrap_or_default();
            let there = self.objects.read(&content.object_key, range).await?.unwrap_or_default();
            if here.is_empty() {
                return Err(ended_early(&key));
            }
            if here != there {
                return Ok(false);
            }
            start += here.len() as u64;
        }
        Ok(true)
    }

    /// Tells of the file, and deletes what it does not need.
    async fn after(&self, upload: &Upload, file: &StoredFile) -> Result<(), UploadFault> {
        self.bus.publish(&[Fact::of_file(file)]).await?;
        let frame = Frame::file_completed(&file.conversation_id, public(file), file.completed_at);
        let job = PushJob::Tell { conversation_id: file.conversation_id.clone(), to: Audience::Everyone, frame };
        self.push.tell(&job, &format!("file#{}", file.file_id)).await?;
        if file.object_key != upload.key() {
            self.objects.delete(&[upload.key()]).await?;
        }
        self.delete_chunks(upload).await
    }

    /// Deletes the chunks that an import has made a file of, and their list.
    async fn delete_chunks(&self, upload: &Upload) -> Result<(), UploadFault> {
        let Origin::Import { manifest } = &upload.origin else { return Ok(()) };
        let Some(read) = self.manifest(manifest).await? else { return Ok(()) };
        let chunks: Vec<String> = read.chunks.into_iter().map(|chunk| chunk.key).collect();
        self.objects.delete(&chunks).await?;
        // Last, so that a run that is cut short finds it again.
        Ok(self.objects.delete(std::slice::from_ref(manifest)).await?)
    }

    /// Leaves nothing of an upload that came to nothing. The chunks of an import are somebody else's, and stay.
    async fn discard(&self, upload: &Upload) -> Result<(), PortFault> {
        let mut unneeded = vec![upload.key()];
        if let Origin::Import { manifest } = &upload.origin {
            unneeded.push(manifest.clone());
        }
        self.multipart.abort(&upload.key(), &upload.multipart_id).await?;
        self.objects.delete(&unneeded).await
    }

    async fn manifest(&self, key: &str) -> Result<Option<Manifest>, UploadFault> {
        let Some(bytes) = self.objects.read(key, 0..MANIFEST_BYTES).await? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(UploadFault::Manifest)
    }

    /// Makes the parts that are not there yet, of chunk objects. Nothing if the multipart upload has ended.
    async fn import(&self, upload: &Upload, key: &str, manifest: &str) -> Result<Option<Vec<Part>>, Stop> {
        let began = self.clock.now();
        let lost = || failed("chunks_lost", "the list of the chunks is no longer there");
        let manifest = self.manifest(manifest).await?;
        let Some(here) = self.multipart.parts(key, &upload.multipart_id).await? else { return Ok(None) };
        let manifest = &manifest.ok_or_else(lost)?;
        let sizes: Vec<u64> = manifest.chunks.iter().map(|chunk| chunk.size).collect();
        let pieces = import::pieces(&sizes).map_err(|fault| failed("unmergeable", fault.to_string()))?;
        let is_here = |number: u32, piece: &Piece| {
            here.binary_search_by_key(&number, |part| part.number)
                .is_ok_and(|index| here.get(index).is_some_and(|part| part.size == piece.length()))
        };
        let todo = (1_u32..).zip(&pieces).filter(|(number, piece)| !is_here(*number, piece));
        let (copies, joins): (Vec<_>, Vec<_>) = todo.partition(|(_, piece)| matches!(piece, Piece::Copied(_)));
        if copies.is_empty() && joins.is_empty() {
            return Ok(Some(here));
        }
        for (todo, at_once) in [(copies, COPIES), (joins, JOINS)] {
            let (mut waiting, mut under_way) = (todo.into_iter(), FuturesUnordered::new());
            loop {
                while under_way.len() < at_once
                    && let Some((number, piece)) = waiting.next()
                {
                    if self.clock.now() >= began + RUN {
                        return Err(Stop::Fault(UploadFault::Unfinished));
                    }
                    under_way.push(self.make_part((key, &upload.multipart_id, number), manifest, piece));
                }
                match under_way.next().await {
                    None => break,
                    Some(copied) => match copied? {
                        Copied::Done => {}
                        Copied::Changed => return Err(failed("chunk_changed", "a chunk is gone, or not what it was")),
                        Copied::Ended => return Ok(None),
                    },
                }
            }
        }
        Ok(self.multipart.parts(key, &upload.multipart_id).await?)
    }

    async fn make_part(
        &self,
        target: (&str, &str, u32),
        manifest: &Manifest,
        piece: &Piece,
    ) -> Result<Copied, PortFault> {
        let broken = || PortFault::Broken { operation: "import", detail: "a piece is of no chunk".to_owned() };
        match piece {
            Piece::Copied(slice) => {
                let chunk = manifest.chunks.get(slice.chunk).ok_or_else(broken)?;
                self.chunks.copy_part(target, chunk, slice.range.clone()).await
            }
            Piece::Joined(slices) => {
                let mut bytes = Vec::with_capacity(usize::try_from(piece.length()).unwrap_or_default());
                for slice in slices {
                    let chunk = manifest.chunks.get(slice.chunk).ok_or_else(broken)?;
                    match self.chunks.read_chunk(chunk, slice.range.clone()).await? {
                        Some(read) => bytes.extend_from_slice(&read),
                        None => return Ok(Copied::Changed),
                    }
                }
                self.chunks.put_part(target, bytes).await
            }
        }
    }
}

fn same_crc(declared: Crc64, computed: Crc64) -> Result<(), Stop> {
    if declared == computed {
        return Ok(());
    }
    Err(failed("checksum_mismatch", format!("the file's CRC64NVME is {computed}, not {declared}")))
}

fn ended_early(key: &str) -> PortFault {
    PortFault::Unavailable { operation: "GetObject", cause: format!("`{key}` ended early").into() }
}

/// What members, and the rest of the company, may know of a file.
#[must_use]
pub fn public(file: &StoredFile) -> serde_json::Value {
    serde_json::json!({
        "file_id": file.file_id,
        "upload_id": file.upload_id,
        "user_id": file.user_id,
        "filename": file.filename,
        "file_size": file.file_size,
        "mime_type": file.mime_type,
        "checksum_crc64nvme": file.checksum_crc64nvme,
        "checksum_sha256": file.checksum_sha256,
    })
}

/// A time as every answer writes it.
#[must_use]
pub fn rfc3339(at: OffsetDateTime) -> Option<String> {
    at.format(&time::format_description::well_known::Rfc3339).ok()
}
