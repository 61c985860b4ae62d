//! Uploads from the first request to the file, with everything that may go wrong in between.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail the test")]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use domain::access::{Caller, Scope};
use domain::chat::{ChatFault, Conversation, ConversationKind, FileCatalog, Memberships, NewConversation};
use domain::fault::PortFault;
use domain::id::{ClientId, ConversationId, FamilyId, TenantId};
use domain::upload::checksum::{Crc64, Sha256Sum};
use domain::upload::desk::Desk;
use domain::upload::fault::UploadFault;
use domain::upload::file::FileStore;
use domain::upload::import::{self, Manifest};
use domain::upload::merge::{Merge, MergeJob};
use domain::upload::object::{ChunkObjects, Multipart, Objects, SignedUrl};
use domain::upload::plan::{ChunkPlan, MIN_CHUNK_BYTES};
use domain::upload::quota::{NoRoom, OPEN_UPLOADS};
use domain::upload::request::Initiate;
use domain::upload::sweep::{Sweep, Swept};
use domain::upload::{IDLE, MERGE, Origin, Status, Upload, UploadStore};
use testkit::contract_uploads::noise;
use testkit::sample::{self, NOW};
use testkit::{ManualClock, MemoryBucket, MemoryBus, MemoryMergeQueue, MemoryPushQueue, MemoryUploads};
use time::Duration;

/// Everybody's conversations: number 1 is Ann's and Bob's.
struct Members;

#[async_trait]
impl Memberships for Members {
    async fn conversation(&self, conversation_id: &ConversationId) -> Result<Option<Conversation>, PortFault> {
        let known = *conversation_id == sample::conversation_id(1);
        let members = ["ann", "bob"].map(sample::user_id);
        let new = NewConversation {
            kind: ConversationKind::Private,
            members: members.to_vec(),
            metadata: serde_json::Map::new(),
            channels: Vec::new(),
        };
        Ok(known.then(|| new.open(conversation_id.clone(), sample::tenant_id(), sample::user_id("ann"), NOW)))
    }
}

struct World {
    uploads: Arc<MemoryUploads>,
    bucket: Arc<MemoryBucket>,
    queue: Arc<MemoryMergeQueue>,
    bus: Arc<MemoryBus>,
    push: Arc<MemoryPushQueue>,
    clock: Arc<ManualClock>,
    desk: Desk,
    merge: Merge,
    sweep: Sweep,
}

fn world() -> World {
    let (uploads, bucket) = (Arc::<MemoryUploads>::default(), Arc::<MemoryBucket>::default());
    let (queue, clock) = (Arc::<MemoryMergeQueue>::default(), Arc::<ManualClock>::default());
    let (bus, push) = (Arc::<MemoryBus>::default(), Arc::<MemoryPushQueue>::default());
    let desk = Desk {
        uploads: uploads.clone(),
        files: uploads.clone(),
        members: Arc::new(Members),
        multipart: bucket.clone(),
        objects: bucket.clone(),
        urls: bucket.clone(),
        queue: queue.clone(),
    };
    let merge = Merge {
        uploads: uploads.clone(),
        files: uploads.clone(),
        multipart: bucket.clone(),
        objects: bucket.clone(),
        chunks: bucket.clone(),
        bus: bus.clone(),
        push: push.clone(),
        clock: clock.clone(),
    };
    let sweep = Sweep {
        uploads: uploads.clone(),
        files: uploads.clone(),
        multipart: bucket.clone(),
        open: bucket.clone(),
        objects: bucket.clone(),
        queue: queue.clone(),
        clock: clock.clone(),
    };
    World { uploads, bucket, queue, bus, push, clock, desk, merge, sweep }
}

fn caller(user: &str, tenant: &str) -> Caller {
    Caller {
        client_id: ClientId::parse("client").unwrap(),
        user_id: sample::user_id(user),
        tenant_id: TenantId::parse(tenant).unwrap(),
        scopes: [Scope::Files].into(),
        session_id: FamilyId::parse("6f9619ff-8b86-4d01-b42d-00cf4fc964ff").unwrap(),
        expires_at: NOW,
        rate: None,
    }
}

fn ann() -> Caller {
    caller("ann", "acme")
}

fn asked(body: &[u8]) -> Initiate {
    Initiate {
        conversation_id: sample::conversation_id(1),
        filename: "周报 📄.bin".to_owned(),
        mime_type: "application/octet-stream".to_owned(),
        chunks: ChunkPlan { file_size: body.len() as u64, chunk_size: MIN_CHUNK_BYTES },
        checksum_crc64nvme: Some(Crc64::of(body)),
        checksum_sha256: None,
        checksums: std::collections::BTreeMap::from([(
            1,
            Crc64::of(&body[..body.len().min(MIN_CHUNK_BYTES as usize)]),
        )]),
    }
}

fn chunks(body: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    (1..).zip(body.chunks(MIN_CHUNK_BYTES as usize))
}

impl World {
    async fn initiate(&self, n: u32, asked: Initiate) -> Result<(Upload, Vec<(u32, SignedUrl)>), UploadFault> {
        let ids = (sample::upload_id(n), sample::file_id(n));
        self.desk.initiate(&ann(), asked, ids, self.now()).await
    }

    fn now(&self) -> time::OffsetDateTime {
        domain::clock::Clock::now(self.clock.as_ref())
    }

    async fn send(&self, upload: &Upload, number: u32, bytes: &[u8]) {
        let target = (&*upload.key(), &*upload.multipart_id, number);
        self.bucket.put_part(target, bytes.to_vec()).await.unwrap();
    }

    /// An upload whose chunks are all there and whose merge is asked for.
    async fn sent(&self, n: u32, asked: Initiate, body: &[u8]) -> Upload {
        let (upload, _) = self.initiate(n, asked).await.unwrap();
        for (number, bytes) in chunks(body) {
            self.send(&upload, number, bytes).await;
        }
        self.desk.complete(&ann(), &upload.upload_id, self.now()).await.unwrap()
    }

    /// Does the last job of the queue until it succeeds.
    async fn merged(&self) -> Upload {
        let job = self.queue.jobs().pop().unwrap();
        for _ in 0..5 {
            if self.merge.run(&job).await.is_ok() {
                break;
            }
        }
        self.stored(&job.upload_id).await
    }

    async fn stored(&self, upload_id: &domain::id::UploadId) -> Upload {
        self.uploads.upload(upload_id).await.unwrap().unwrap()
    }

    fn facts(&self) -> Vec<String> {
        self.bus.published().into_iter().map(|fact| fact.detail_type).collect()
    }
}

#[tokio::test]
async fn a_file_is_sent_in_chunks_merged_and_there_for_members() {
    let world = world();
    let body = noise(1, MIN_CHUNK_BYTES + 3);
    let (upload, urls) = world.initiate(1, asked(&body)).await.unwrap();
    let lengths: Vec<_> = urls.iter().map(|(number, url)| (*number, url.headers["content-length"].clone())).collect();
    assert_eq!(lengths, [(1, MIN_CHUNK_BYTES.to_string()), (2, "3".to_owned())]);
    let signed: Vec<_> = urls.iter().map(|(_, url)| url.headers.get("x-amz-checksum-crc64nvme").cloned()).collect();
    assert_eq!(signed, [Some(Crc64::of(&body[..MIN_CHUNK_BYTES as usize]).to_string()), None]);

    world.send(&upload, 2, &body[MIN_CHUNK_BYTES as usize..]).await;
    let progress = world.desk.status(&ann(), &upload.upload_id, NOW).await.unwrap();
    assert_eq!((progress.uploaded_chunks, progress.missing_chunks, progress.received_bytes), (1, vec![1], 3));
    let early = world.desk.complete(&ann(), &upload.upload_id, NOW).await;
    assert!(matches!(early, Err(UploadFault::Incomplete(missing)) if missing == [1]));
    world.send(&upload, 1, b"of the wrong length").await;
    let early = world.desk.complete(&ann(), &upload.upload_id, NOW).await;
    assert!(
        matches!(early, Err(UploadFault::Incomplete(missing)) if missing == [1]),
        "a part of another length is none"
    );
    assert!(world.queue.jobs().is_empty());

    world.send(&upload, 1, &body[..MIN_CHUNK_BYTES as usize]).await;
    let merging = world.desk.complete(&ann(), &upload.upload_id, NOW).await.unwrap();
    assert_eq!(merging.status, Status::Merging);
    let (tenant, conversation, file_id) = (sample::tenant_id(), sample::conversation_id(1), sample::file_id(1));
    assert!(!world.uploads.ready(&tenant, &conversation, &file_id).await.unwrap(), "no message may name it yet");
    assert_eq!(world.merged().await.status, Status::Completed);
    assert!(world.uploads.ready(&tenant, &conversation, &file_id).await.unwrap());
    assert!(world.bucket.objects()[&upload.key()] == body);
    assert_eq!((world.bucket.multiparts(), world.facts()), (0, vec!["FileUploadCompleted".to_owned()]));
    assert_eq!(world.push.take().len(), 1);
    let quota = world.uploads.quota(&upload.tenant_id, &upload.user_id).await.unwrap();
    assert_eq!((quota.open.len(), quota.bytes), (0, body.len() as u64));

    let again = world.desk.complete(&ann(), &upload.upload_id, NOW).await.unwrap();
    assert_eq!((again.status, &again.file_id), (Status::Completed, &upload.file_id), "the same answer");
    let (file, url) = world.desk.download(&caller("bob", "acme"), &upload.file_id).await.unwrap();
    assert_eq!((file.file_size, file.checksum_crc64nvme), (body.len() as u64, Crc64::of(&body)));
    assert!(url.url.contains("attachment; filename=\"__ _.bin\""), "{}", url.url);
}

#[tokio::test]
async fn an_answer_that_is_lost_anywhere_changes_nothing_in_the_end() {
    let body = noise(2, 100);
    let mut lost = 0;
    for n in 1..10 {
        for of_the_bucket in [true, false] {
            let world = world();
            world.sent(1, asked(&body), &body).await;
            let answer = if of_the_bucket { &world.bucket.lost } else { &world.uploads.lost };
            answer.of_change(n);
            assert_eq!(world.merged().await.status, Status::Completed, "{n}");
            lost += u32::from(!answer.is_ahead());
            let objects = world.bucket.objects();
            assert_eq!((objects.len(), world.bucket.multiparts()), (1, 0), "{n}");
            assert!(objects.values().all(|bytes| *bytes == body));
            let content = world.uploads.file(&sample::file_id(1)).await.unwrap().unwrap();
            let content = world.uploads.content(&content.tenant_id, &content.content_id).await.unwrap().unwrap();
            assert_eq!(content.references, 1, "counted once");
            assert!(world.facts().iter().all(|fact| fact == "FileUploadCompleted"));
            assert!(!world.facts().is_empty());
        }
    }
    assert!(lost >= 2, "{lost}");
}

#[tokio::test]
async fn a_worker_that_dies_between_the_object_and_the_record_is_followed_by_one_that_finds_it() {
    let world = world();
    let body = noise(3, 10);
    world.sent(1, asked(&body), &body).await;
    world.uploads.down.store(true, Ordering::SeqCst);
    let job = world.queue.jobs().pop().unwrap();
    assert!(world.merge.run(&job).await.is_err());
    assert_eq!((world.bucket.objects().len(), world.stored(&job.upload_id).await.status), (1, Status::Merging));
    world.uploads.down.store(false, Ordering::SeqCst);
    assert_eq!(world.merged().await.status, Status::Completed);
}

#[tokio::test]
async fn two_workers_and_two_completes_at_once_agree() {
    let world = world();
    let body = noise(4, 10);
    let (upload, _) = world.initiate(1, asked(&body)).await.unwrap();
    world.send(&upload, 1, &body).await;
    let caller = ann();
    let complete = || world.desk.complete(&caller, &upload.upload_id, NOW);
    let (one, two) = tokio::join!(complete(), complete());
    assert_eq!((one.unwrap().file_id, two.unwrap().file_id), (upload.file_id.clone(), upload.file_id.clone()));
    let job = world.queue.jobs()[0].clone();
    let results = tokio::join!(world.merge.run(&job), world.merge.run(&job), world.merge.run(&job));
    assert!(results.0.is_ok() && results.1.is_ok() && results.2.is_ok());
    assert_eq!((world.bucket.objects().len(), world.stored(&upload.upload_id).await.status), (1, Status::Completed));
}

#[tokio::test]
async fn what_is_not_what_it_was_said_to_be_fails_and_leaves_nothing() {
    let zip = b"PK\x03\x04\x14\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0a".to_vec();
    let other = Sha256Sum::default().finish();
    for (wrong, code) in [
        (Initiate { checksum_crc64nvme: Some(Crc64::of(b"other")), ..asked(&zip) }, "checksum_mismatch"),
        (Initiate { mime_type: "image/png".to_owned(), ..asked(&zip) }, "type_mismatch"),
        (Initiate { checksum_sha256: Some(other), ..asked(&zip) }, "checksum_mismatch"),
    ] {
        let world = world();
        world.sent(1, wrong, &zip).await;
        let failed = world.merged().await;
        assert_eq!((failed.status, failed.failure.unwrap().code.as_str()), (Status::Failed, code));
        assert_eq!((world.bucket.objects().len(), world.bucket.multiparts()), (0, 0));
        assert_eq!(world.facts(), ["FileUploadFailed"]);
        assert_eq!(world.uploads.file(&failed.file_id).await.unwrap(), None);
        let again = world.desk.complete(&ann(), &failed.upload_id, NOW).await;
        assert!(matches!(again, Err(UploadFault::Ended(Status::Failed))));
        let quota = world.uploads.quota(&failed.tenant_id, &failed.user_id).await.unwrap();
        assert!(quota.open.is_empty());
    }
}

#[tokio::test]
async fn a_sha256_that_is_right_is_proved_by_reading_all_of_it() {
    let world = world();
    let body = noise(5, 2 * MIN_CHUNK_BYTES);
    let mut sum = Sha256Sum::default();
    sum.add(&body);
    let sha = sum.finish();
    world.sent(1, Initiate { checksum_sha256: Some(sha), ..asked(&body) }, &body).await;
    assert_eq!(world.merged().await.status, Status::Completed);
    assert_eq!(world.uploads.file(&sample::file_id(1)).await.unwrap().unwrap().checksum_sha256, Some(sha));
}

#[tokio::test]
async fn a_chunk_sent_again_after_the_merge_was_asked_for_is_part_of_the_file() {
    let world = world();
    let body = noise(6, 10);
    let asked = Initiate { checksum_crc64nvme: None, ..asked(&body) };
    let upload = world.sent(1, asked, &body).await;
    world.send(&upload, 1, b"0123456789").await;
    assert_eq!(world.merged().await.status, Status::Completed);
    assert_eq!(world.bucket.objects()[&upload.key()], b"0123456789");
}

#[tokio::test]
async fn equal_files_are_stored_once_and_until_the_last_is_removed() {
    let world = world();
    let body = noise(7, 100);
    for n in 1..=2 {
        world.sent(n, asked(&body), &body).await;
        assert_eq!(world.merged().await.status, Status::Completed);
    }
    assert_eq!(world.bucket.objects().len(), 1);
    let removed_by = |user: &str, n| {
        let caller = caller(user, "acme");
        let desk = &world.desk;
        async move { desk.remove(&caller, &sample::file_id(n), NOW).await }
    };
    assert!(matches!(removed_by("bob", 1).await, Err(UploadFault::NoFile)), "it is Ann's");
    removed_by("ann", 1).await.unwrap();
    assert!(matches!(removed_by("ann", 1).await, Err(UploadFault::NoFile)));
    let (file, _) = world.desk.download(&ann(), &sample::file_id(2)).await.unwrap();
    assert!(world.bucket.objects()[&file.object_key] == body, "the other file's bytes");
    removed_by("ann", 2).await.unwrap();
    assert_eq!(world.bucket.objects().len(), 0);
    world.sent(3, asked(&body), &body).await;
    assert_eq!(world.merged().await.status, Status::Completed);
    assert_eq!(world.bucket.objects().len(), 1);
}

#[tokio::test]
async fn a_file_that_was_half_removed_is_no_ones_content() {
    let world = world();
    let body = noise(8, 100);
    world.sent(1, asked(&body), &body).await;
    world.merged().await;
    let file = world.uploads.file(&sample::file_id(1)).await.unwrap().unwrap();
    // Whoever removed it died before its object.
    world.uploads.remove(&file, NOW).await.unwrap();
    world.sent(2, asked(&body), &body).await;
    assert_eq!(world.merged().await.status, Status::Completed);
    let kept = world.uploads.file(&sample::file_id(2)).await.unwrap().unwrap();
    assert_eq!(world.bucket.objects().into_keys().collect::<Vec<_>>(), [kept.object_key]);
}

#[tokio::test]
async fn the_copy_that_a_dead_worker_left_goes_with_its_file() {
    let world = world();
    let body = noise(9, 100);
    let mut sent = Vec::new();
    for n in 1..=2 {
        sent.push(world.sent(n, asked(&body), &body).await);
        world.merged().await;
    }
    // As if the worker had died after the record and before the copy.
    world.bucket.put(&sent[1].key(), body).await.unwrap();
    world.desk.remove(&ann(), &sample::file_id(2), NOW).await.unwrap();
    assert_eq!(world.bucket.objects().into_keys().collect::<Vec<_>>(), [sent[0].key()]);
    world.desk.download(&ann(), &sample::file_id(1)).await.unwrap();
}

/// Other bytes with the same CRC64NVME: a multiple of its polynomial is added.
fn forged(body: &[u8]) -> Vec<u8> {
    const POLYNOMIAL: u64 = 0xAD93_D235_94C9_3659;
    let mut forged = body.to_vec();
    forged[0] ^= 1;
    for bit in 0..64 {
        // The lowest bit of a byte comes first.
        let set = POLYNOMIAL >> (63 - bit) & 1;
        forged[(bit + 1) / 8] ^= (set as u8) << ((bit + 1) % 8);
    }
    forged
}

#[tokio::test]
async fn a_forged_checksum_gets_nobody_elses_bytes() {
    let world = world();
    let body = noise(9, 100);
    let other = forged(&body);
    assert!(other != body && Crc64::of(&other) == Crc64::of(&body));
    for (n, bytes) in [(1, &body), (2, &other)] {
        world.sent(n, asked(bytes), bytes).await;
        assert_eq!(world.merged().await.status, Status::Completed);
    }
    for (n, bytes) in [(1, body), (2, other)] {
        let (file, _) = world.desk.download(&ann(), &sample::file_id(n)).await.unwrap();
        assert!(world.bucket.objects()[&file.object_key] == bytes);
        world.desk.remove(&ann(), &sample::file_id(n), NOW).await.unwrap();
    }
    assert!(world.bucket.objects().is_empty());
}

#[tokio::test]
async fn who_is_not_meant_is_told_nothing() {
    let world = world();
    let body = noise(10, 10);
    let upload = world.sent(1, asked(&body), &body).await;
    world.merged().await;
    for stranger in [caller("bob", "acme"), caller("ann", "other")] {
        let id = &upload.upload_id;
        assert!(matches!(world.desk.status(&stranger, id, NOW).await, Err(UploadFault::NoUpload)));
        assert!(matches!(world.desk.chunks(&stranger, id, vec![(1, None)], NOW).await, Err(UploadFault::NoUpload)));
        assert!(matches!(world.desk.complete(&stranger, id, NOW).await, Err(UploadFault::NoUpload)));
        assert!(matches!(world.desk.abort(&stranger, id, NOW).await, Err(UploadFault::NoUpload)));
    }
    let carol = caller("carol", "acme");
    assert!(matches!(world.desk.download(&carol, &upload.file_id).await, Err(UploadFault::NoFile)));
    assert!(matches!(world.desk.download(&caller("bob", "other"), &upload.file_id).await, Err(UploadFault::NoFile)));
    let ids = || (sample::upload_id(2), sample::file_id(2));
    let begun = world.desk.initiate(&carol, asked(&body), ids(), NOW).await;
    assert!(matches!(begun, Err(UploadFault::Chat(ChatFault::NotAMember))));
    let begun = world.desk.initiate(&caller("ann", "other"), asked(&body), ids(), NOW).await;
    assert!(matches!(begun, Err(UploadFault::Chat(ChatFault::NoConversation))));
    assert_eq!(world.bucket.multiparts(), 0);
}

#[tokio::test]
async fn what_is_given_up_is_gone_and_cannot_come_back() {
    let world = world();
    let body = noise(11, 10);
    let (upload, _) = world.initiate(1, asked(&body)).await.unwrap();
    world.send(&upload, 1, &body).await;
    let id = &upload.upload_id;
    for _ in 0..2 {
        assert_eq!(world.desk.abort(&ann(), id, NOW).await.unwrap().status, Status::Aborted);
    }
    assert_eq!(world.bucket.multiparts(), 0);
    assert!(matches!(world.desk.complete(&ann(), id, NOW).await, Err(UploadFault::Ended(Status::Aborted))));
    assert!(matches!(
        world.desk.chunks(&ann(), id, vec![(1, None)], NOW).await,
        Err(UploadFault::Ended(Status::Aborted))
    ));
    world.merge.run(&MergeJob::first(&upload.upload_id, Vec::new())).await.unwrap();
    assert_eq!((world.stored(id).await.status, world.bucket.objects().len()), (Status::Aborted, 0));

    let merging = world.sent(2, asked(&body), &body).await;
    let late = world.desk.abort(&ann(), &merging.upload_id, NOW).await;
    assert!(matches!(late, Err(UploadFault::Ended(Status::Merging))), "too late");
}

#[tokio::test]
async fn what_nobody_touches_for_a_day_expires_and_what_nobody_knows_of_is_aborted() {
    let world = world();
    let body = noise(12, 10);
    let (idle, _) = world.initiate(1, asked(&body)).await.unwrap();
    let (busy, _) = world.initiate(2, asked(&body)).await.unwrap();
    world.send(&idle, 1, &body).await;
    world.bucket.begin("u/acme/no-upload", "image/png").await.unwrap();
    world.bucket.begin(&sample::upload(3).key(), "image/png").await.unwrap();
    world.bucket.begin(&busy.key(), "image/png").await.unwrap();
    assert_eq!(world.sweep.run().await.unwrap(), Swept::default(), "too young to be orphans");

    world.clock.advance(Duration::hours(1));
    assert_eq!(world.sweep.run().await.unwrap(), Swept { orphans: 3, ..Swept::default() });
    world.clock.advance(IDLE - Duration::hours(2));
    world.desk.chunks(&ann(), &busy.upload_id, vec![(1, None)], world.now()).await.unwrap();
    world.clock.advance(Duration::hours(2));
    let progress = world.desk.status(&ann(), &idle.upload_id, world.now()).await.unwrap();
    assert_eq!(progress.status, Status::Expired, "told before the sweep writes it");
    assert!(matches!(
        world.desk.complete(&ann(), &idle.upload_id, world.now()).await,
        Err(UploadFault::Ended(Status::Expired))
    ));
    assert_eq!(world.sweep.run().await.unwrap(), Swept { expired: 1, ..Swept::default() });
    assert_eq!(world.bucket.multiparts(), 1);
    assert_eq!(world.stored(&busy.upload_id).await.status, Status::Uploading, "its sender was heard of");
    world.clock.advance(Duration::days(7));
    assert_eq!(world.sweep.run().await.unwrap().expired, 1);
    assert_eq!(world.bucket.multiparts(), 0);
}

#[tokio::test]
async fn a_merge_that_was_given_up_is_asked_for_again() {
    let world = world();
    let body = noise(13, 10);
    let upload = world.sent(1, asked(&body), &body).await;
    world.clock.advance(MERGE);
    assert_eq!(world.sweep.run().await.unwrap(), Swept { resumed: 1, ..Swept::default() });
    assert_eq!(world.queue.jobs()[1], MergeJob::again(&upload.upload_id, world.now()));
    assert_eq!(world.merged().await.status, Status::Completed);
}

#[tokio::test]
async fn there_is_room_for_twenty_and_an_expired_one_takes_none() {
    let world = world();
    let body = noise(14, 10);
    for n in 0..OPEN_UPLOADS as u32 {
        world.initiate(n, asked(&body)).await.unwrap();
    }
    let full = world.initiate(100, asked(&body)).await;
    assert!(matches!(full, Err(UploadFault::NoRoom(NoRoom::Uploads))));
    assert_eq!(world.bucket.multiparts(), OPEN_UPLOADS);
    world.clock.advance(IDLE);
    world.initiate(101, asked(&body)).await.unwrap();
    assert_eq!(world.bucket.multiparts(), 1);
}

#[tokio::test]
async fn uploads_that_begin_at_once_are_all_counted() {
    let world = world();
    let body = noise(15, 10);
    let begun = futures_util::future::join_all((0..6).map(|n| world.initiate(n, asked(&body)))).await;
    assert!(begun.iter().all(Result::is_ok));
    let quota = world.uploads.quota(&sample::tenant_id(), &sample::user_id("ann")).await.unwrap();
    assert_eq!((quota.open.len(), quota.bytes), (6, 60));
}

#[tokio::test]
async fn a_record_that_cannot_be_written_leaves_no_multipart_upload() {
    let world = world();
    world.uploads.down.store(true, Ordering::SeqCst);
    assert!(world.initiate(1, asked(b"abc")).await.is_err());
    assert_eq!(world.bucket.multiparts(), 0);
}

/// Chunks of another system, and the import of them.
async fn import(world: &World, sizes: &[u64]) -> (Vec<u8>, Upload) {
    let mut whole = Vec::new();
    for (n, size) in sizes.iter().enumerate() {
        let chunk = noise(n as u64, *size);
        Objects::put(world.bucket.as_ref(), &format!("import/a/{n}"), chunk.clone()).await.unwrap();
        whole.extend(chunk);
    }
    let mut chunks = world.bucket.list("import/a/").await.unwrap();
    chunks.sort_by(|a, b| import::natural(&a.key, &b.key));
    let manifest = format!("{}1.json", import::MANIFESTS);
    let text = serde_json::to_vec(&Manifest { chunks }).unwrap();
    Objects::put(world.bucket.as_ref(), &manifest, text).await.unwrap();
    let upload = Upload {
        file_size: whole.len() as u64,
        mime_type: "application/octet-stream".to_owned(),
        origin: Origin::Import { manifest },
        checksum_crc64nvme: None,
        status: Status::Merging,
        ..sample::upload(1)
    };
    let multipart_id = world.bucket.begin(&upload.key(), &upload.mime_type).await.unwrap();
    let upload = Upload { multipart_id, ..upload };
    world.uploads.open(&upload, None).await.unwrap();
    (whole, upload)
}

const MIXED: &[u64] = &[100_000, 6 << 20, 0, 3 << 20, 3 << 20, 200, 12 << 20, 1];

#[tokio::test]
async fn chunks_of_any_size_become_one_file_whatever_is_lost_on_the_way() {
    let mut lost = 0;
    for n in 0..12 {
        let world = world();
        let (whole, upload) = import(&world, MIXED).await;
        world.bucket.lost.of_change(n);
        let mut runs = 0;
        while world.merge.run(&MergeJob::first(&upload.upload_id, Vec::new())).await.is_err() {
            runs += 1;
            assert!(runs < 3, "{n}");
        }
        assert_eq!(runs, u32::from(n > 0 && !world.bucket.lost.is_ahead()), "{n}");
        lost += runs;
        assert_eq!(world.stored(&upload.upload_id).await.status, Status::Completed, "{n}");
        let objects = world.bucket.objects();
        assert_eq!(objects.keys().collect::<Vec<_>>(), [&upload.key()], "the chunks and their list are gone");
        assert!(objects[&upload.key()] == whole, "byte for byte");
    }
    assert!(lost >= 6, "each part, the object and what is deleted: {lost}");
}

#[tokio::test]
async fn a_chunk_that_changed_fails_the_import_and_stays() {
    let world = world();
    let (_, upload) = import(&world, &[100_000, 6 << 20]).await;
    Objects::put(world.bucket.as_ref(), "import/a/1", vec![1]).await.unwrap();
    world.merge.run(&MergeJob::first(&upload.upload_id, Vec::new())).await.unwrap();
    let failed = world.stored(&upload.upload_id).await;
    assert_eq!((failed.status, failed.failure.unwrap().code.as_str()), (Status::Failed, "chunk_changed"));
    assert_eq!(world.bucket.objects().into_keys().collect::<Vec<_>>(), ["import/a/0", "import/a/1"]);
    assert_eq!(world.bucket.multiparts(), 0);
}

#[test]
fn an_import_that_begins_again_is_another_job_and_asking_twice_is_not() {
    let (begun, now) = (sample::upload(1), sample::NOW);
    let job = |version, now| MergeJob::import(&Upload { version, ..begun.clone() }, now).deduplication_id();
    assert_eq!(job(1, now), job(1, now + Duration::seconds(1)));
    assert_ne!(job(1, now), job(2, now), "it failed, and was begun again within the minute");
    assert_ne!(job(1, now), job(1, now + Duration::minutes(1)), "its worker may be dead");
}

#[tokio::test]
async fn the_chunks_of_an_import_go_though_its_file_went_first() {
    let world = world();
    let (_, upload) = import(&world, MIXED).await;
    let job = MergeJob::first(&upload.upload_id, Vec::new());
    // The worker has recorded the file and dies before it deletes the chunks.
    world.bus.down.store(true, Ordering::SeqCst);
    assert!(world.merge.run(&job).await.is_err());
    world.bus.down.store(false, Ordering::SeqCst);
    let left = world.bucket.list("import/").await.unwrap().len();
    world.desk.remove(&ann(), &upload.file_id, NOW).await.unwrap();
    world.merge.run(&job).await.unwrap();
    assert_eq!((left, world.bucket.objects().len()), (MIXED.len(), 0));
    assert_eq!(world.facts(), Vec::<String>::new(), "of a file that is gone nothing is told");
}
