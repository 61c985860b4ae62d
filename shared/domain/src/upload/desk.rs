//! What clients do with uploads and files. Whoever is not meant is told that there is nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use time::{Duration, OffsetDateTime};

use crate::access::Caller;
use crate::chat::{ChatFault, Conversation, Memberships};
use crate::fault::{PortFault, chain};
use crate::id::{ConversationId, FileId, UploadId};
use crate::upload::fault::UploadFault;
use crate::upload::file::{FileStore, StoredFile};
use crate::upload::merge::{MergeJob, MergeQueue};
use crate::upload::object::{Multipart, Objects, Part, SignedPart, SignedUrl, UrlSigner};
use crate::upload::quota::{NoRoom, Quota};
use crate::upload::request::{FIRST_URLS, Initiate, WantedChunk};
use crate::upload::sweep::expire;
use crate::upload::{Origin, Status, Upload, UploadStore, name, object_key};

/// How often a quota is read again that another upload of the same person changed.
const TRIES: usize = 8;

/// A sender that is heard of more often than this is noted once.
const TOUCH: Duration = Duration::minutes(10);

/// What serving clients needs.
pub struct Desk {
    pub uploads: Arc<dyn UploadStore>,
    pub files: Arc<dyn FileStore>,
    pub members: Arc<dyn Memberships>,
    pub multipart: Arc<dyn Multipart>,
    pub objects: Arc<dyn Objects>,
    pub urls: Arc<dyn UrlSigner>,
    pub queue: Arc<dyn MergeQueue>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

/// An upload and what has arrived of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub upload: Upload,
    /// With expiry, whether or not the sweep has come by.
    pub status: Status,
    pub uploaded_chunks: u32,
    pub missing_chunks: Vec<u32>,
    pub received_bytes: u64,
}

/// A chunk and the request that sends it.
pub type SignedChunk = (u32, SignedUrl);

impl Desk {
    /// Begins an upload; its first chunks' URLs.
    pub async fn initiate(
        &self,
        caller: &Caller,
        asked: Initiate,
        (upload_id, file_id): (UploadId, FileId),
        now: OffsetDateTime,
    ) -> Result<(Upload, Vec<SignedChunk>), UploadFault> {
        self.let_in(caller, &asked.conversation_id).await?;
        let mut upload = Upload {
            upload_id,
            file_id,
            tenant_id: caller.tenant_id.clone(),
            user_id: caller.user_id.clone(),
            conversation_id: asked.conversation_id,
            filename: asked.filename,
            mime_type: asked.mime_type,
            file_size: asked.chunks.file_size,
            origin: Origin::Client { chunk_size: asked.chunks.chunk_size },
            total_chunks: asked.chunks.total(),
            checksum_crc64nvme: asked.checksum_crc64nvme,
            checksum_sha256: asked.checksum_sha256,
            multipart_id: String::new(),
            status: Status::Uploading,
            failure: None,
            created_at: now,
            touched_at: now,
            version: 1,
        };
        // Most often there is room or there is none; S3 is not bothered by who has none.
        let quota = self.room(&upload, now).await?;
        upload.multipart_id = self.multipart.begin(&upload.key(), &upload.mime_type).await?;
        if let Err(fault) = self.open(&upload, quota, now).await {
            if let Err(error) = self.multipart.abort(&upload.key(), &upload.multipart_id).await {
                tracing::warn!(upload.id = %upload.upload_id, error = %chain(&error), "An upload without a record is left to the sweep");
            }
            return Err(fault);
        }
        let first =
            (1..=upload.total_chunks.min(FIRST_URLS)).map(|number| (number, asked.checksums.get(&number).copied()));
        let chunks = self.sign(&upload, first.collect()).await?;
        Ok((upload, chunks))
    }

    /// The caller's quota with the upload in it.
    async fn room(&self, upload: &Upload, now: OffsetDateTime) -> Result<Quota, UploadFault> {
        let quota = self.uploads.quota(&upload.tenant_id, &upload.user_id).await?;
        match quota.with(&upload.upload_id, upload.file_size, now) {
            Err(NoRoom::Uploads) => {
                // The sweep that ends what is past its time comes once a day.
                let mut ended = false;
                for open in &quota.open {
                    if let Some(open) = self.uploads.upload(open).await? {
                        ended |= expire(self.uploads.as_ref(), self.multipart.as_ref(), &open, now).await?;
                    }
                }
                let quota = if ended { self.uploads.quota(&upload.tenant_id, &upload.user_id).await? } else { quota };
                Ok(quota.with(&upload.upload_id, upload.file_size, now)?)
            }
            quota => Ok(quota?),
        }
    }

    async fn open(&self, upload: &Upload, mut quota: Quota, now: OffsetDateTime) -> Result<(), UploadFault> {
        for _ in 0..TRIES {
            match self.uploads.open(upload, Some(&quota)).await {
                Err(PortFault::Conflict { .. }) => {}
                result => return Ok(result?),
            }
            let stored = self.uploads.quota(&upload.tenant_id, &upload.user_id).await?;
            if stored.open.contains(&upload.upload_id) {
                // It was kept, and only the answer was lost.
                return Ok(());
            }
            quota = stored.with(&upload.upload_id, upload.file_size, now)?;
        }
        Err(PortFault::Conflict { operation: "open upload" }.into())
    }

    /// URLs for chunks of an upload that is still coming.
    pub async fn chunks(
        &self,
        caller: &Caller,
        upload_id: &UploadId,
        wanted: Vec<WantedChunk>,
        now: OffsetDateTime,
    ) -> Result<Vec<SignedChunk>, UploadFault> {
        let upload = self.own(caller, upload_id).await?;
        if wanted.iter().any(|(number, _)| !(1..=upload.total_chunks).contains(number)) {
            let expected = format!("must be numbers from 1 to {}", upload.total_chunks);
            return Err(UploadFault::Invalid(vec![("chunk_numbers", expected)]));
        }
        must_be_coming(&upload, now)?;
        if now - upload.touched_at >= TOUCH {
            match self.uploads.change(&upload.moved(Status::Uploading, now)).await {
                // Another request of the same sender, or the end of the upload, which the next request tells.
                Ok(()) | Err(PortFault::Conflict { .. }) => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        self.sign(&upload, wanted).await
    }

    async fn sign(&self, upload: &Upload, wanted: Vec<WantedChunk>) -> Result<Vec<SignedChunk>, UploadFault> {
        let (key, plan) = (upload.key(), upload.chunks());
        let mut signed = Vec::with_capacity(wanted.len());
        for (number, crc64nvme) in wanted {
            let Some(length) = plan.length(number) else { continue };
            let part = SignedPart { key: &key, multipart_id: &upload.multipart_id, number, length, crc64nvme };
            signed.push((number, self.urls.part(part).await?));
        }
        Ok(signed)
    }

    /// What has arrived, as the store tells it.
    pub async fn status(
        &self,
        caller: &Caller,
        upload_id: &UploadId,
        now: OffsetDateTime,
    ) -> Result<Progress, UploadFault> {
        let upload = self.own(caller, upload_id).await?;
        let status = upload.status_at(now);
        let total = upload.total_chunks;
        let (uploaded_chunks, missing_chunks, received_bytes) = match status {
            Status::Uploading => {
                let parts = self.multipart.parts(&upload.key(), &upload.multipart_id).await?.unwrap_or_default();
                let (parts, missing) = arrived(&upload, parts);
                (
                    total - u32::try_from(missing.len()).unwrap_or(total),
                    missing,
                    parts.iter().map(|part| part.size).sum(),
                )
            }
            Status::Merging | Status::Completed => (total, Vec::new(), upload.file_size),
            Status::Failed | Status::Aborted | Status::Expired => (0, Vec::new(), 0),
        };
        Ok(Progress { upload, status, uploaded_chunks, missing_chunks, received_bytes })
    }

    /// Asks for the merge. Asked twice, the answer is the same.
    pub async fn complete(
        &self,
        caller: &Caller,
        upload_id: &UploadId,
        now: OffsetDateTime,
    ) -> Result<Upload, UploadFault> {
        let upload = self.own(caller, upload_id).await?;
        match upload.status_at(now) {
            Status::Uploading => {}
            Status::Merging => {
                self.queue.send(&MergeJob::again(upload_id, now)).await?;
                return Ok(upload);
            }
            Status::Completed => return Ok(upload),
            ended => return Err(UploadFault::Ended(ended)),
        }
        let Some(parts) = self.multipart.parts(&upload.key(), &upload.multipart_id).await? else {
            return self.settled(caller, &upload, now).await;
        };
        let (parts, missing) = arrived(&upload, parts);
        if !missing.is_empty() {
            return Err(UploadFault::Incomplete(missing));
        }
        // First the job: the worker moves the record on if this function dies before it does.
        self.queue.send(&MergeJob::first(upload_id, parts)).await?;
        let merging = upload.moved(Status::Merging, now);
        match self.uploads.change(&merging).await {
            Ok(()) => Ok(merging),
            Err(PortFault::Conflict { .. }) => self.settled(caller, &upload, now).await,
            Err(fault) => Err(fault.into()),
        }
    }

    /// The upload as somebody else left it, if they merge it too.
    async fn settled(&self, caller: &Caller, before: &Upload, now: OffsetDateTime) -> Result<Upload, UploadFault> {
        let upload = self.own(caller, &before.upload_id).await?;
        match upload.status_at(now) {
            Status::Merging | Status::Completed => Ok(upload),
            // The store has given up what the record still waits for, or a chunk was asked for at the same time.
            Status::Uploading if upload.version == before.version => {
                self.uploads.change(&upload.moved(Status::Expired, now)).await?;
                Err(UploadFault::Ended(Status::Expired))
            }
            Status::Uploading => Err(PortFault::Conflict { operation: "complete upload" }.into()),
            ended => Err(UploadFault::Ended(ended)),
        }
    }

    /// Gives an upload up. Once it is merging it is too late.
    pub async fn abort(
        &self,
        caller: &Caller,
        upload_id: &UploadId,
        now: OffsetDateTime,
    ) -> Result<Upload, UploadFault> {
        let upload = self.own(caller, upload_id).await?;
        let aborted = match upload.status_at(now) {
            Status::Uploading => {
                let aborted = upload.moved(Status::Aborted, now);
                self.uploads.change(&aborted).await?;
                aborted
            }
            Status::Aborted => upload,
            ended => return Err(UploadFault::Ended(ended)),
        };
        // Twice, because a part on its way may arrive after the first.
        for _ in 0..2 {
            self.multipart.abort(&aborted.key(), &aborted.multipart_id).await?;
        }
        Ok(aborted)
    }

    /// A file, and where its bytes are for a while.
    pub async fn download(&self, caller: &Caller, file_id: &FileId) -> Result<(StoredFile, SignedUrl), UploadFault> {
        let file = self.files.file(file_id).await?.filter(|file| file.tenant_id == caller.tenant_id);
        let file = file.ok_or(UploadFault::NoFile)?;
        match self.let_in(caller, &file.conversation_id).await {
            Ok(()) => {}
            Err(ChatFault::Store(fault)) => return Err(fault.into()),
            // Whoever is no member is not told that there is a file.
            Err(_) => return Err(UploadFault::NoFile),
        }
        let url = self.urls.download(&file.object_key, &file.mime_type, &name::disposition(&file.filename)).await?;
        Ok((file, url))
    }

    /// Removes a file of the caller's own; its bytes too, unless other files share them.
    pub async fn remove(
        &self,
        caller: &Caller,
        file_id: &FileId,
        now: OffsetDateTime,
    ) -> Result<StoredFile, UploadFault> {
        let own = |file: &StoredFile| file.tenant_id == caller.tenant_id && file.user_id == caller.user_id;
        let file = self.files.file(file_id).await?.filter(own).ok_or(UploadFault::NoFile)?;
        let sent = object_key(&file.tenant_id, &file.upload_id);
        if file.object_key != sent {
            // Its own copy of what it shares: a worker that died left it, and once the file is forgotten nobody looks for it.
            self.objects.delete(&[sent]).await?;
        }
        let content = self.files.remove(&file, now).await?;
        if content.references == 0 {
            // Cut short here, the sweep does the rest.
            self.objects.delete(std::slice::from_ref(&content.object_key)).await?;
            self.files.forget(&content).await?;
        }
        Ok(file)
    }

    async fn own(&self, caller: &Caller, upload_id: &UploadId) -> Result<Upload, UploadFault> {
        let own = |upload: &Upload| upload.tenant_id == caller.tenant_id && upload.user_id == caller.user_id;
        self.uploads.upload(upload_id).await?.filter(own).ok_or(UploadFault::NoUpload)
    }

    /// Lets members of the conversation in.
    async fn let_in(&self, caller: &Caller, conversation_id: &ConversationId) -> Result<(), ChatFault> {
        let found = self.members.conversation(conversation_id).await?;
        Conversation::of_member(found, &caller.tenant_id, &caller.user_id).map(drop)
    }
}

fn must_be_coming(upload: &Upload, now: OffsetDateTime) -> Result<(), UploadFault> {
    match upload.status_at(now) {
        Status::Uploading => Ok(()),
        other => Err(UploadFault::Ended(other)),
    }
}

/// The parts that are chunks of the upload, and the numbers of those that are not there.
fn arrived(upload: &Upload, parts: Vec<Part>) -> (Vec<Part>, Vec<u32>) {
    let plan = upload.chunks();
    let mut by_number: BTreeMap<u32, Part> = parts.into_iter().map(|part| (part.number, part)).collect();
    by_number.retain(|number, part| plan.length(*number) == Some(part.size));
    let missing = plan.chunks().map(|(number, _)| number).filter(|number| !by_number.contains_key(number)).collect();
    (by_number.into_values().collect(), missing)
}
