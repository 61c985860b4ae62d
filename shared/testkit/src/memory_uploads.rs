//! The ports of uploads in memory.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use domain::chat::FileCatalog;
use domain::fault::PortFault;
use domain::id::{ConversationId, FileId, TenantId, UploadId, UserId};
use domain::upload::checksum::Crc64;
use domain::upload::file::{Content, FileStore, Keeping, StoredFile};
use domain::upload::merge::{MergeJob, MergeQueue};
use domain::upload::object::{
    ChunkObject, ChunkObjects, Completed, Completion, Copied, Facts, Multipart, Objects, OpenMultipart, OpenMultiparts,
    Part, SignedPart, SignedUrl, UrlSigner,
};
use domain::upload::plan::MIN_CHUNK_BYTES;
use domain::upload::quota::Quota;
use domain::upload::{Origin, Status, Upload, UploadStore};
use time::OffsetDateTime;

use crate::memory::{conflict, unavailable};
use crate::sample::NOW;

/// Loses one answer: what was asked for is done, and whoever asked is told that it was not.
#[derive(Debug, Default)]
pub struct LostAnswer(AtomicU32);

impl LostAnswer {
    /// Of the `n`th change from now on, counted from one.
    pub fn of_change(&self, n: u32) {
        self.0.store(n, Ordering::SeqCst);
    }

    /// Whether the answer is still to be lost.
    #[must_use]
    pub fn is_ahead(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }

    fn answer<T>(&self, answer: T) -> Result<T, PortFault> {
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left == Ok(1) { unavailable("answer") } else { Ok(answer) }
    }
}

#[derive(Debug, Default)]
struct Records {
    uploads: HashMap<UploadId, Upload>,
    quotas: HashMap<(TenantId, UserId), Quota>,
    files: HashMap<FileId, StoredFile>,
    contents: BTreeMap<(TenantId, String), (Content, Option<OffsetDateTime>)>,
}

impl Records {
    fn follows(&self, upload: &Upload) -> bool {
        self.uploads.get(&upload.upload_id).map_or(0, |stored| stored.version) + 1 == upload.version
    }

    fn keep(&mut self, upload: &Upload) {
        if !upload.status.is_open() && matches!(upload.origin, Origin::Client { .. }) {
            let owner = (upload.tenant_id.clone(), upload.user_id.clone());
            let quota = self.quotas.entry(owner.clone()).or_insert_with(|| Quota::new(owner.0, owner.1));
            quota.open.remove(&upload.upload_id);
            quota.version += 1;
        }
        self.uploads.insert(upload.upload_id.clone(), upload.clone());
    }
}

/// Records of uploads and files in memory. While `down`, nothing is kept.
#[derive(Debug, Default)]
pub struct MemoryUploads {
    pub down: AtomicBool,
    pub lost: LostAnswer,
    records: Mutex<Records>,
}

impl MemoryUploads {
    fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().expect("no test panics while it holds the records")
    }

    fn open(&self, operation: &'static str) -> Result<MutexGuard<'_, Records>, PortFault> {
        if self.down.load(Ordering::SeqCst) { unavailable(operation) } else { Ok(self.lock()) }
    }
}

#[async_trait]
impl UploadStore for MemoryUploads {
    async fn upload(&self, upload_id: &UploadId) -> Result<Option<Upload>, PortFault> {
        Ok(self.lock().uploads.get(upload_id).cloned())
    }

    async fn quota(&self, tenant_id: &TenantId, user_id: &UserId) -> Result<Quota, PortFault> {
        let known = self.lock().quotas.get(&(tenant_id.clone(), user_id.clone())).cloned();
        Ok(known.unwrap_or_else(|| Quota::new(tenant_id.clone(), user_id.clone())))
    }

    async fn open(&self, upload: &Upload, quota: Option<&Quota>) -> Result<(), PortFault> {
        let mut records = self.open("open upload")?;
        let owner = (upload.tenant_id.clone(), upload.user_id.clone());
        let stored = records.quotas.get(&owner).map_or(0, |quota| quota.version);
        if !records.follows(upload) || quota.is_some_and(|quota| quota.version != stored + 1) {
            return conflict("open upload");
        }
        if let Some(quota) = quota {
            records.quotas.insert(owner, quota.clone());
        }
        records.uploads.insert(upload.upload_id.clone(), upload.clone());
        self.lost.answer(())
    }

    async fn change(&self, upload: &Upload) -> Result<(), PortFault> {
        let mut records = self.open("change upload")?;
        if !records.follows(upload) {
            return conflict("change upload");
        }
        records.keep(upload);
        self.lost.answer(())
    }

    async fn complete(&self, upload: &Upload, file: &StoredFile, keeping: Keeping) -> Result<(), PortFault> {
        let mut records = self.open("complete upload")?;
        let place = (file.tenant_id.clone(), file.content_id.clone());
        let content = records.contents.get(&place).map(|(content, _)| content.clone());
        let content = match (keeping, content) {
            (Keeping::First, None) => Content {
                tenant_id: file.tenant_id.clone(),
                content_id: file.content_id.clone(),
                object_key: file.object_key.clone(),
                checksum_sha256: file.checksum_sha256,
                references: 1,
            },
            (Keeping::Shared, Some(content)) if content.object_key == file.object_key && content.references > 0 => {
                Content { references: content.references + 1, ..content }
            }
            _ => return conflict("complete upload"),
        };
        if !records.follows(upload) || records.files.contains_key(&file.file_id) {
            return conflict("complete upload");
        }
        records.contents.insert(place, (content, None));
        records.files.insert(file.file_id.clone(), file.clone());
        records.keep(upload);
        self.lost.answer(())
    }

    async fn due(&self, status: Status, now: OffsetDateTime, limit: u32) -> Result<Vec<UploadId>, PortFault> {
        let records = self.lock();
        let due = records.uploads.values().filter(|it| it.status == status && it.due_at().is_some_and(|at| at <= now));
        let mut due: Vec<_> = due.map(|upload| (upload.due_at(), upload.upload_id.clone())).collect();
        due.sort();
        Ok(due.into_iter().take(limit as usize).map(|(_, upload_id)| upload_id).collect())
    }
}

#[async_trait]
impl FileStore for MemoryUploads {
    async fn file(&self, file_id: &FileId) -> Result<Option<StoredFile>, PortFault> {
        Ok(self.lock().files.get(file_id).cloned())
    }

    async fn content(&self, tenant_id: &TenantId, content_id: &str) -> Result<Option<Content>, PortFault> {
        let found = self.lock().contents.get(&(tenant_id.clone(), content_id.to_owned())).cloned();
        Ok(found.map(|(content, _)| content))
    }

    async fn remove(&self, file: &StoredFile, now: OffsetDateTime) -> Result<Content, PortFault> {
        let mut records = self.open("remove file")?;
        if records.files.remove(&file.file_id).is_none() {
            return conflict("remove file");
        }
        let content =
            records.contents.get_mut(&(file.tenant_id.clone(), file.content_id.clone())).expect("a file has content");
        content.0.references -= 1;
        content.1 = (content.0.references == 0).then_some(now);
        Ok(content.0.clone())
    }

    async fn forget(&self, content: &Content) -> Result<(), PortFault> {
        let place = (content.tenant_id.clone(), content.content_id.clone());
        let mut records = self.open("forget content")?;
        let same = |(stored, _): &(Content, _)| stored.references == 0 && stored.object_key == content.object_key;
        if records.contents.get(&place).is_some_and(same) {
            records.contents.remove(&place);
        }
        Ok(())
    }

    async fn unreferenced(&self, before: OffsetDateTime, limit: u32) -> Result<Vec<Content>, PortFault> {
        let records = self.lock();
        let due = records.contents.values().filter(|(_, since)| since.is_some_and(|since| since <= before));
        Ok(due.take(limit as usize).map(|(content, _)| content.clone()).collect())
    }
}

#[async_trait]
impl FileCatalog for MemoryUploads {
    async fn ready(
        &self,
        tenant_id: &TenantId,
        conversation_id: &ConversationId,
        file_id: &FileId,
    ) -> Result<bool, PortFault> {
        let file = self.lock().files.get(file_id).cloned();
        Ok(file.is_some_and(|file| file.tenant_id == *tenant_id && file.conversation_id == *conversation_id))
    }
}

/// Parts by their number.
type Parts = BTreeMap<u32, Vec<u8>>;

#[derive(Debug, Default)]
struct Stored {
    objects: BTreeMap<String, Vec<u8>>,
    /// By key and id: when it began, and its parts.
    multiparts: BTreeMap<(String, String), (OffsetDateTime, Parts)>,
}

/// A bucket in memory.
#[derive(Debug, Default)]
pub struct MemoryBucket {
    pub lost: LostAnswer,
    ids: AtomicU32,
    stored: Mutex<Stored>,
}

impl MemoryBucket {
    fn lock(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().expect("no test panics while it holds the bucket")
    }

    /// What is there, by key.
    #[must_use]
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        self.lock().objects.clone()
    }

    /// How many multipart uploads are open.
    #[must_use]
    pub fn multiparts(&self) -> usize {
        self.lock().multiparts.len()
    }
}

/// An ETag: the same for the same bytes.
fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", Crc64::of(bytes))
}

fn cut(bytes: &[u8], range: Range<u64>) -> Vec<u8> {
    let place = |at: u64| usize::try_from(at).map_or(bytes.len(), |at| at.min(bytes.len()));
    bytes[place(range.start)..place(range.end)].to_vec()
}

fn place(key: &str, multipart_id: &str) -> (String, String) {
    (key.to_owned(), multipart_id.to_owned())
}

fn refused(code: &str) -> Completed {
    Completed::Refused { code: code.to_owned(), message: "not as it was declared".to_owned() }
}

#[async_trait]
impl Multipart for MemoryBucket {
    async fn begin(&self, key: &str, _mime_type: &str) -> Result<String, PortFault> {
        let id = format!("multipart-{}", self.ids.fetch_add(1, Ordering::SeqCst));
        self.lock().multiparts.insert(place(key, &id), (NOW, BTreeMap::new()));
        self.lost.answer(id)
    }

    async fn parts(&self, key: &str, multipart_id: &str) -> Result<Option<Vec<Part>>, PortFault> {
        let stored = self.lock();
        let Some((_, parts)) = stored.multiparts.get(&place(key, multipart_id)) else { return Ok(None) };
        let part = |(number, bytes): (&u32, &Vec<u8>)| Part {
            number: *number,
            size: bytes.len() as u64,
            etag: etag(bytes),
            crc64nvme: Some(Crc64::of(bytes)),
        };
        Ok(Some(parts.iter().map(part).collect()))
    }

    async fn complete(&self, completion: Completion<'_>) -> Result<Completed, PortFault> {
        let mut stored = self.lock();
        let place = place(completion.key, completion.multipart_id);
        let Some((_, parts)) = stored.multiparts.get(&place) else { return Ok(Completed::Ended) };
        if stored.objects.contains_key(completion.key) {
            return Ok(Completed::Ended);
        }
        let mut whole = Vec::new();
        for (index, part) in completion.parts.iter().enumerate() {
            let Some(bytes) = parts.get(&part.number).filter(|bytes| etag(bytes) == part.etag) else {
                return Ok(refused("InvalidPart"));
            };
            if index + 1 < completion.parts.len() && (bytes.len() as u64) < MIN_CHUNK_BYTES {
                return Ok(refused("EntityTooSmall"));
            }
            whole.extend_from_slice(bytes);
        }
        let crc = Crc64::of(&whole);
        if completion.parts.is_empty() || completion.size != whole.len() as u64 {
            return Ok(refused("InvalidRequest"));
        }
        if completion.crc64nvme.is_some_and(|declared| declared != crc) {
            return Ok(refused("BadDigest"));
        }
        stored.multiparts.remove(&place);
        stored.objects.insert(completion.key.to_owned(), whole);
        drop(stored);
        self.lost.answer(Completed::Done(Some(crc)))
    }

    async fn abort(&self, key: &str, multipart_id: &str) -> Result<(), PortFault> {
        self.lock().multiparts.remove(&place(key, multipart_id));
        self.lost.answer(())
    }
}

#[async_trait]
impl OpenMultiparts for MemoryBucket {
    async fn open(&self, prefix: &str, _: Option<String>) -> Result<(Vec<OpenMultipart>, Option<String>), PortFault> {
        let stored = self.lock();
        let open = stored.multiparts.iter().filter(|((key, _), _)| key.starts_with(prefix));
        let open = open.map(|((key, multipart_id), (initiated_at, _))| OpenMultipart {
            key: key.clone(),
            multipart_id: multipart_id.clone(),
            initiated_at: *initiated_at,
        });
        Ok((open.collect(), None))
    }
}

#[async_trait]
impl Objects for MemoryBucket {
    async fn facts(&self, key: &str) -> Result<Option<Facts>, PortFault> {
        let stored = self.lock();
        let facts = |bytes: &Vec<u8>| Facts { size: bytes.len() as u64, crc64nvme: Some(Crc64::of(bytes)) };
        Ok(stored.objects.get(key).map(facts))
    }

    async fn read(&self, key: &str, range: Range<u64>) -> Result<Option<Vec<u8>>, PortFault> {
        Ok(self.lock().objects.get(key).map(|bytes| cut(bytes, range)))
    }

    async fn put(&self, key: &str, bytes: Vec<u8>) -> Result<(), PortFault> {
        self.lock().objects.insert(key.to_owned(), bytes);
        self.lost.answer(())
    }

    async fn delete(&self, keys: &[String]) -> Result<(), PortFault> {
        let mut stored = self.lock();
        for key in keys {
            stored.objects.remove(key);
        }
        drop(stored);
        self.lost.answer(())
    }
}

impl MemoryBucket {
    fn put(&self, (key, multipart_id, number): (&str, &str, u32), bytes: Vec<u8>) -> Copied {
        match self.lock().multiparts.get_mut(&place(key, multipart_id)) {
            None => Copied::Ended,
            Some((_, parts)) => {
                parts.insert(number, bytes);
                Copied::Done
            }
        }
    }
}

#[async_trait]
impl ChunkObjects for MemoryBucket {
    async fn list(&self, prefix: &str) -> Result<Vec<ChunkObject>, PortFault> {
        let stored = self.lock();
        let chunk = |(key, bytes): (&String, &Vec<u8>)| ChunkObject {
            key: key.clone(),
            size: bytes.len() as u64,
            etag: etag(bytes),
        };
        Ok(stored.objects.iter().filter(|(key, _)| key.starts_with(prefix)).map(chunk).collect())
    }

    async fn copy_part(
        &self,
        target: (&str, &str, u32),
        chunk: &ChunkObject,
        range: Range<u64>,
    ) -> Result<Copied, PortFault> {
        let Some(bytes) = self.read_chunk(chunk, range).await? else { return Ok(Copied::Changed) };
        self.lost.answer(self.put(target, bytes))
    }

    async fn read_chunk(&self, chunk: &ChunkObject, range: Range<u64>) -> Result<Option<Vec<u8>>, PortFault> {
        let stored = self.lock();
        let same = stored.objects.get(&chunk.key).filter(|bytes| etag(bytes) == chunk.etag);
        Ok(same.map(|bytes| cut(bytes, range)))
    }

    async fn put_part(&self, target: (&str, &str, u32), bytes: Vec<u8>) -> Result<Copied, PortFault> {
        self.lost.answer(self.put(target, bytes))
    }
}

#[async_trait]
impl UrlSigner for MemoryBucket {
    async fn part(&self, part: SignedPart<'_>) -> Result<SignedUrl, PortFault> {
        let url = format!("memory:{}?uploadId={}&partNumber={}", part.key, part.multipart_id, part.number);
        let mut headers = BTreeMap::from([("content-length".to_owned(), part.length.to_string())]);
        headers.extend(part.crc64nvme.map(|crc| ("x-amz-checksum-crc64nvme".to_owned(), crc.to_string())));
        Ok(SignedUrl { url, headers })
    }

    async fn download(&self, key: &str, content_type: &str, content_disposition: &str) -> Result<SignedUrl, PortFault> {
        let url = format!("memory:{key}?type={content_type}&disposition={content_disposition}");
        Ok(SignedUrl { url, headers: BTreeMap::new() })
    }
}

/// A merge queue that remembers its jobs. While `down`, nothing goes in.
#[derive(Debug, Default)]
pub struct MemoryMergeQueue {
    pub down: AtomicBool,
    jobs: Mutex<Vec<MergeJob>>,
}

impl MemoryMergeQueue {
    #[must_use]
    pub fn jobs(&self) -> Vec<MergeJob> {
        self.jobs.lock().expect("not poisoned").clone()
    }
}

#[async_trait]
impl MergeQueue for MemoryMergeQueue {
    async fn send(&self, job: &MergeJob) -> Result<(), PortFault> {
        if self.down.load(Ordering::SeqCst) {
            return unavailable("send");
        }
        self.jobs.lock().expect("not poisoned").push(job.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{MemoryBucket, MemoryUploads};
    use crate::contract_uploads;

    #[tokio::test]
    async fn keeps_the_contract_of_uploads() {
        contract_uploads::uploads(&MemoryUploads::default()).await;
    }

    #[tokio::test]
    async fn keeps_the_contract_of_multipart_uploads() {
        contract_uploads::multipart(&MemoryBucket::default()).await;
    }

    #[tokio::test]
    async fn keeps_the_contract_of_chunk_objects() {
        contract_uploads::chunk_objects(&MemoryBucket::default()).await;
    }
}
