//! What every adapter of the ports of uploads must do. Each function expects an empty store.

use std::collections::BTreeSet;

use domain::chat::FileCatalog;
use domain::fault::PortFault;
use domain::id::TenantId;
use domain::upload::checksum::Crc64;
use domain::upload::file::{Content, FileStore, Keeping};
use domain::upload::object::{
    ChunkObject, ChunkObjects, Completed, Completion, Copied, Facts, Multipart, Objects, OpenMultiparts,
};
use domain::upload::plan::MIN_CHUNK_BYTES;
use domain::upload::{Failure, IDLE, MERGE, Status, Upload, UploadStore};
use futures_util::future::join_all;
use time::Duration;

use crate::sample::{self, NOW};

fn is_conflict<T>(result: Result<T, PortFault>) -> bool {
    matches!(result, Err(PortFault::Conflict { .. }))
}

/// Uploads and files: each version follows the one before it, quotas follow uploads, and content is counted exactly.
pub async fn uploads<S: UploadStore + FileStore + FileCatalog>(store: &S) {
    let first = sample::upload(1);
    assert_eq!(store.upload(&first.upload_id).await.unwrap(), None);
    let quota = |_: u32| store.quota(&first.tenant_id, &first.user_id);
    let before = quota(0).await.unwrap();
    assert_eq!((before.open.len(), before.bytes, before.version), (0, 0, 0));

    let next = before.with(&first.upload_id, first.file_size, NOW).unwrap();
    store.open(&first, Some(&next)).await.unwrap();
    assert_eq!(store.upload(&first.upload_id).await.unwrap().as_ref(), Some(&first), "whole");
    assert_eq!(quota(1).await.unwrap(), next);
    let second = sample::upload(2);
    let stale = before.with(&second.upload_id, 1, NOW).unwrap();
    assert!(is_conflict(store.open(&second, Some(&stale)).await), "a quota that changed since it was read");
    assert_eq!(store.upload(&second.upload_id).await.unwrap(), None, "neither half is kept");
    let next = quota(2).await.unwrap().with(&second.upload_id, second.file_size, NOW).unwrap();
    store.open(&second, Some(&next)).await.unwrap();
    assert!(is_conflict(store.open(&second, None).await), "opened twice");

    due(store, &first, &second).await;
    ends(store, &second).await;
    racing_changes(store).await;
    contents(store).await;
}

async fn due<S: UploadStore>(store: &S, first: &Upload, second: &Upload) {
    let soon = NOW + IDLE - Duration::seconds(1);
    assert_eq!(store.due(Status::Uploading, soon, 10).await.unwrap(), []);
    let both = store.due(Status::Uploading, NOW + IDLE, 10).await.unwrap();
    let expected = BTreeSet::from([first.upload_id.clone(), second.upload_id.clone()]);
    assert_eq!(both.into_iter().collect::<BTreeSet<_>>(), expected);
    assert_eq!(store.due(Status::Uploading, NOW + IDLE, 1).await.unwrap().len(), 1);

    let merging = first.moved(Status::Merging, NOW + Duration::HOUR);
    store.change(&merging).await.unwrap();
    assert!(is_conflict(store.change(&merging).await), "changed from a stale version");
    assert_eq!(store.upload(&first.upload_id).await.unwrap(), Some(merging));
    assert_eq!(store.due(Status::Uploading, NOW + IDLE, 10).await.unwrap(), std::slice::from_ref(&second.upload_id));
    assert_eq!(store.due(Status::Merging, NOW + Duration::HOUR, 10).await.unwrap(), []);
    let late = NOW + Duration::HOUR + MERGE;
    assert_eq!(store.due(Status::Merging, late, 10).await.unwrap(), std::slice::from_ref(&first.upload_id));
}

async fn ends<S: UploadStore>(store: &S, second: &Upload) {
    let failure = Failure { code: "type_mismatch".to_owned(), message: "不是图片 🖼".to_owned() };
    let failed = second.failed(failure, NOW);
    store.change(&failed).await.unwrap();
    assert_eq!(store.upload(&second.upload_id).await.unwrap(), Some(failed));
    let quota = store.quota(&second.tenant_id, &second.user_id).await.unwrap();
    assert!(!quota.open.contains(&second.upload_id), "what has ended is open no more");
    assert_eq!(quota.bytes, 2 * second.file_size, "and was begun");
    assert_eq!(store.due(Status::Uploading, NOW + IDLE, 10).await.unwrap(), []);
}

async fn racing_changes<S: UploadStore>(store: &S) {
    let upload = Upload { user_id: sample::user_id("bob"), ..sample::upload(3) };
    let quota = store.quota(&upload.tenant_id, &upload.user_id).await.unwrap();
    store.open(&upload, Some(&quota.with(&upload.upload_id, 1, NOW).unwrap())).await.unwrap();
    let next = [Status::Merging, Status::Aborted, Status::Expired].map(|status| upload.moved(status, NOW));
    let rivals: Vec<&Upload> = next.iter().cycle().take(12).collect();
    let answers = join_all(rivals.iter().map(|rival| store.change(rival))).await;
    let made: Vec<_> =
        rivals.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()).map(|(rival, _)| *rival).collect();
    assert_eq!(made.len(), 1, "of twelve at once, one: {answers:?}");
    assert_eq!(store.upload(&upload.upload_id).await.unwrap().as_ref(), made.first().copied());
}

async fn contents<S: UploadStore + FileStore + FileCatalog>(store: &S) {
    let sample_files: Vec<_> =
        (10..14).map(|n| (sample::upload(n).moved(Status::Merging, NOW), sample::file(n))).collect();
    for (upload, _) in &sample_files {
        store.open(&Upload { version: 1, ..upload.clone() }, None).await.unwrap();
    }
    let completed: Vec<_> = sample_files
        .iter()
        .map(|(upload, _)| Upload { version: 2, status: Status::Completed, ..upload.clone() })
        .collect();
    let (one, other) = (&sample_files[0].1, &sample_files[1].1);
    let place = (&one.tenant_id, one.content_id.as_str());
    assert_eq!(store.content(place.0, place.1).await.unwrap(), None);
    assert!(is_conflict(store.complete(&completed[0], one, Keeping::Shared).await), "nothing to share");
    assert_eq!(store.file(&one.file_id).await.unwrap(), None);
    assert!(!store.ready(&one.tenant_id, &one.conversation_id, &one.file_id).await.unwrap());
    store.complete(&completed[0], one, Keeping::First).await.unwrap();
    assert_eq!(store.file(&one.file_id).await.unwrap().as_ref(), Some(one));
    assert_eq!(store.upload(&one.upload_id).await.unwrap().as_ref(), Some(&completed[0]));
    assert!(store.ready(&one.tenant_id, &one.conversation_id, &one.file_id).await.unwrap());
    assert!(!store.ready(&TenantId::parse("other").unwrap(), &one.conversation_id, &one.file_id).await.unwrap());
    assert!(!store.ready(&one.tenant_id, &sample::conversation_id(9), &one.file_id).await.unwrap());
    assert!(is_conflict(store.complete(&completed[0], one, Keeping::Shared).await), "completed once");
    assert!(is_conflict(store.complete(&completed[1], other, Keeping::First).await), "the first is there");
    store.complete(&completed[1], other, Keeping::Shared).await.unwrap();
    let content = store.content(place.0, place.1).await.unwrap().unwrap();
    assert_eq!((content.references, &content.object_key), (2, &one.object_key));

    let left = store.remove(one, NOW).await.unwrap();
    assert_eq!((left.references, store.file(&one.file_id).await.unwrap()), (1, None));
    assert!(is_conflict(store.remove(one, NOW).await), "removed once");
    store.forget(&left).await.unwrap();
    assert!(store.content(place.0, place.1).await.unwrap().is_some(), "what is referred to is not forgotten");
    let later = NOW + Duration::MINUTE;
    assert_eq!(store.remove(other, later).await.unwrap().references, 0);
    assert_eq!(store.unreferenced(NOW, 10).await.unwrap(), []);
    let doomed = store.unreferenced(later, 10).await.unwrap();
    assert_eq!(doomed, [Content { references: 0, ..content }]);
    assert!(is_conflict(store.complete(&completed[2], &sample_files[2].1, Keeping::Shared).await), "it is doomed");
    store.forget(&Content { object_key: "u/other".to_owned(), ..doomed[0].clone() }).await.unwrap();
    assert!(store.content(place.0, place.1).await.unwrap().is_some(), "another content's object");
    store.forget(&doomed[0]).await.unwrap();
    store.forget(&doomed[0]).await.unwrap();
    assert_eq!(
        (store.content(place.0, place.1).await.unwrap(), store.unreferenced(later, 10).await.unwrap()),
        (None, vec![])
    );
    store.complete(&completed[2], &sample_files[2].1, Keeping::First).await.unwrap();
}

/// Bytes that differ from one another, the same every time.
#[must_use]
pub fn noise(seed: u64, length: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(usize::try_from(length).unwrap());
    bytes
}

/// Multipart uploads: they become an object once, checked against what is declared, or nothing.
pub async fn multipart<B: Multipart + OpenMultiparts + Objects + ChunkObjects>(bucket: &B) {
    let key = "u/t/one";
    let body = noise(1, MIN_CHUNK_BYTES + 700);
    let (head, tail) = body.split_at(usize::try_from(MIN_CHUNK_BYTES).unwrap());
    let id = bucket.begin(key, "image/png").await.unwrap();
    assert_eq!(bucket.parts(key, &id).await.unwrap(), Some(Vec::new()));
    assert_eq!(bucket.parts(key, "no-such-upload").await.unwrap(), None);
    for (number, bytes) in [(2, tail), (1, b"stale".as_slice()), (1, head)] {
        assert_eq!(bucket.put_part((key, &id, number), bytes.to_vec()).await.unwrap(), Copied::Done);
    }
    let parts = bucket.parts(key, &id).await.unwrap().unwrap();
    let listed: Vec<_> = parts.iter().map(|part| (part.number, part.size, part.crc64nvme)).collect();
    let expected = [(1, head.len() as u64, Some(Crc64::of(head))), (2, tail.len() as u64, Some(Crc64::of(tail)))];
    assert_eq!(listed, expected, "in order, the last of a number");

    let (whole, size) = (Crc64::of(&body), body.len() as u64);
    let completion = Completion { key, multipart_id: &id, parts: &parts, size, crc64nvme: Some(whole) };
    let mut forged = parts.clone();
    forged[0].etag = "\"00000000000000000000000000000000\"".to_owned();
    for (wrong, code) in [
        (Completion { crc64nvme: Some(Crc64::of(b"other")), ..completion.clone() }, "BadDigest"),
        (Completion { parts: &forged, ..completion.clone() }, "InvalidPart"),
        (Completion { size: size + 1, ..completion.clone() }, "InvalidRequest"),
        (Completion { parts: &[], ..completion.clone() }, "InvalidRequest"),
    ] {
        let answer = bucket.complete(wrong).await.unwrap();
        assert!(matches!(&answer, Completed::Refused { code: found, .. } if found == code), "{code}: {answer:?}");
    }
    assert_eq!(bucket.facts(key).await.unwrap(), None, "nothing is there before");
    assert_eq!(bucket.read(key, 0..10).await.unwrap(), None);
    let answers = join_all((0..3).map(|_| bucket.complete(completion.clone()))).await;
    let answers: Vec<Completed> = answers.into_iter().map(Result::unwrap).collect();
    let done = answers.iter().filter(|answer| **answer == Completed::Done(Some(whole))).count();
    let ended = answers.iter().filter(|answer| **answer == Completed::Ended).count();
    assert_eq!((done, ended), (1, 2), "{answers:?}");
    assert_eq!(bucket.facts(key).await.unwrap(), Some(Facts { size, crc64nvme: Some(whole) }));
    assert_eq!(bucket.read(key, 3..9).await.unwrap().as_deref(), body.get(3..9));
    assert_eq!(bucket.read(key, size - 2..size + 100).await.unwrap().as_deref(), body.get(body.len() - 2..));
    assert_eq!(bucket.parts(key, &id).await.unwrap(), None);
    assert_eq!(bucket.put_part((key, &id, 1), vec![1]).await.unwrap(), Copied::Ended);

    let taken = bucket.begin(key, "image/png").await.unwrap();
    bucket.put_part((key, &taken, 1), vec![1]).await.unwrap();
    let parts = bucket.parts(key, &taken).await.unwrap().unwrap();
    let again = Completion { key, multipart_id: &taken, parts: &parts, size: 1, crc64nvme: None };
    assert_eq!(bucket.complete(again).await.unwrap(), Completed::Ended, "the key is taken");
    open(bucket, key, &taken).await;
    bucket.delete(&[key.to_owned(), "u/t/absent".to_owned()]).await.unwrap();
    bucket.delete(&[key.to_owned()]).await.unwrap();
    bucket.delete(&[]).await.unwrap();
    assert_eq!(bucket.facts(key).await.unwrap(), None);
}

async fn open<B: Multipart + OpenMultiparts>(bucket: &B, key: &str, id: &str) {
    let other = bucket.begin("elsewhere/two", "image/png").await.unwrap();
    let (found, next) = bucket.open("u/", None).await.unwrap();
    let found: Vec<_> = found.iter().map(|open| (open.key.as_str(), open.multipart_id.as_str())).collect();
    assert_eq!((found, next), (vec![(key, id)], None));
    for _ in 0..2 {
        bucket.abort(key, id).await.unwrap();
    }
    bucket.abort("elsewhere/two", &other).await.unwrap();
    assert_eq!(bucket.open("", None).await.unwrap(), (Vec::new(), None));
}

/// Chunk objects become parts while they are what they were.
pub async fn chunk_objects<B: Multipart + Objects + ChunkObjects>(bucket: &B) {
    let (large, small) = (noise(2, MIN_CHUNK_BYTES + 100), noise(3, 50));
    bucket.put("import/周报 +%&?#/2", small.clone()).await.unwrap();
    bucket.put("import/周报 +%&?#/1", large.clone()).await.unwrap();
    bucket.put("import/other", vec![9]).await.unwrap();
    let chunks = bucket.list("import/周报 +%&?#/").await.unwrap();
    let listed: Vec<_> = chunks.iter().map(|chunk| (chunk.key.as_str(), chunk.size)).collect();
    assert_eq!(listed, [("import/周报 +%&?#/1", large.len() as u64), ("import/周报 +%&?#/2", 50)]);
    assert_eq!(bucket.list("nothing/").await.unwrap(), []);

    let (key, range) = ("u/t/two", 100..MIN_CHUNK_BYTES + 100);
    let id = bucket.begin(key, "application/octet-stream").await.unwrap();
    let target = |number| (key, id.as_str(), number);
    for _ in 0..2 {
        assert_eq!(bucket.copy_part(target(1), &chunks[0], range.clone()).await.unwrap(), Copied::Done);
    }
    assert_eq!(
        bucket.copy_part(target(2), &chunks[1], 0..50).await.unwrap(),
        Copied::Done,
        "whole, though it is small"
    );
    assert_eq!(bucket.read_chunk(&chunks[1], 10..20).await.unwrap().as_deref(), small.get(10..20));
    let changed = ChunkObject { etag: "\"00000000000000000000000000000000\"".to_owned(), ..chunks[1].clone() };
    let gone = ChunkObject { key: "import/gone".to_owned(), ..chunks[1].clone() };
    for chunk in [changed, gone] {
        assert_eq!(bucket.copy_part(target(3), &chunk, 0..50).await.unwrap(), Copied::Changed);
        assert_eq!(bucket.read_chunk(&chunk, 0..50).await.unwrap(), None);
    }
    let parts = bucket.parts(key, &id).await.unwrap().unwrap();
    let expected = [large.get(100..).unwrap(), &small].concat();
    let size = expected.len() as u64;
    let completion = Completion { key, multipart_id: &id, parts: &parts, size, crc64nvme: Some(Crc64::of(&expected)) };
    assert_eq!(bucket.complete(completion).await.unwrap(), Completed::Done(Some(Crc64::of(&expected))));
    assert!(bucket.read(key, 0..size).await.unwrap().unwrap() == expected, "byte for byte");
    assert_eq!(bucket.copy_part(target(1), &chunks[0], range).await.unwrap(), Copied::Ended);
    let keys: Vec<String> = chunks.into_iter().map(|chunk| chunk.key).collect();
    bucket.delete(&keys).await.unwrap();
    assert_eq!(bucket.list("import/").await.unwrap().len(), 1);
}
