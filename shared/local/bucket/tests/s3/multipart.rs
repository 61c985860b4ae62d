//! Multipart uploads: what completes, what is refused, and that bytes are never moved.

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart};

use crate::support::{BUCKET, MIB, Server, code, noise};

const PART: usize = 5 * MIB;

async fn create(client: &Client, key: &str) -> String {
    client.create_multipart_upload().bucket(BUCKET).key(key).send().await.unwrap().upload_id.unwrap()
}

async fn upload(client: &Client, key: &str, id: &str, number: i32, body: Vec<u8>) -> CompletedPart {
    let part = client.upload_part().bucket(BUCKET).key(key).upload_id(id).part_number(number).body(body.into());
    CompletedPart::builder().part_number(number).e_tag(part.send().await.unwrap().e_tag.unwrap()).build()
}

fn parts(parts: &[CompletedPart]) -> CompletedMultipartUpload {
    CompletedMultipartUpload::builder().set_parts(Some(parts.to_vec())).build()
}

/// CRC64NVME as clients declare it.
fn crc64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    let value = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes);
    base64::engine::general_purpose::STANDARD.encode(value.to_be_bytes())
}

#[tokio::test]
async fn a_completed_upload_is_checked_against_everything_the_client_declares() {
    let server = Server::start().await;
    let client = server.client();
    let body = noise(1, 2 * PART + 1_234);
    let created = client.create_multipart_upload().bucket(BUCKET).key("big").content_type("video/x");
    let created = created.checksum_algorithm(ChecksumAlgorithm::Crc64Nvme).checksum_type(ChecksumType::FullObject);
    let id = created.send().await.unwrap().upload_id.unwrap();
    let mut done = Vec::new();
    // Out of order, and one of them twice.
    for number in [3, 1, 2, 1] {
        let chunk = body.chunks(PART).nth(number - 1).unwrap().to_vec();
        let (number, sum) = (number as i32, crc64(&chunk));
        let part = || client.upload_part().bucket(BUCKET).key("big").upload_id(&id).part_number(number);
        let wrong = part().checksum_crc64_nvme(crc64(b"x")).body(chunk.clone().into()).send().await;
        assert_eq!(code(wrong), "BadDigest");
        let other = part().checksum_crc32("AAAAAA==").body(chunk.clone().into()).send().await;
        assert_eq!(code(other), "InvalidRequest", "the upload's algorithm is CRC64NVME");
        let etag = part().checksum_crc64_nvme(&sum).body(chunk.into()).send().await.unwrap().e_tag.unwrap();
        done.retain(|part: &CompletedPart| part.part_number() != Some(number));
        done.push(CompletedPart::builder().part_number(number).e_tag(etag).checksum_crc64_nvme(sum).build());
    }
    done.sort_by_key(|part| part.part_number());
    let listed = client.list_parts().bucket(BUCKET).key("big").upload_id(&id).max_parts(2).send().await.unwrap();
    assert_eq!((listed.is_truncated(), listed.next_part_number_marker()), (Some(true), Some("2")));
    assert_eq!(listed.parts()[0].checksum_crc64_nvme(), done[0].checksum_crc64_nvme());
    let rest =
        client.list_parts().bucket(BUCKET).key("big").upload_id(&id).part_number_marker("2").send().await.unwrap();
    assert_eq!((rest.is_truncated(), rest.parts()[0].size()), (Some(false), Some(1_234)));

    let complete = |chosen: &[CompletedPart]| {
        client.complete_multipart_upload().bucket(BUCKET).key("big").upload_id(&id).multipart_upload(parts(chosen))
    };
    let forged = CompletedPart::builder().part_number(1).e_tag("\"00000000000000000000000000000000\"").build();
    let absent = CompletedPart::builder().part_number(9).e_tag(done[0].e_tag().unwrap()).build();
    let size = body.len() as i64;
    for (refused, expected) in [
        (complete(&[done[1].clone(), done[0].clone()]).send().await, "InvalidPartOrder"),
        (complete(&[done[0].clone(), done[0].clone()]).send().await, "InvalidPartOrder"),
        (complete(&[forged]).send().await, "InvalidPart"),
        (complete(&[absent]).send().await, "InvalidPart"),
        (complete(&[done[2].clone(), absent_after(&done[2])]).send().await, "InvalidPart"),
        (complete(&done).mpu_object_size(size + 1).send().await, "InvalidRequest"),
        (complete(&done).checksum_crc64_nvme(crc64(b"other")).send().await, "BadDigest"),
        (complete(&[]).send().await, "InvalidRequest"),
    ] {
        assert_eq!(code(refused), expected);
    }
    assert_eq!(server.buckets.get(BUCKET, "big").await.unwrap(), None, "nothing is visible before");

    let whole = crc64(&body);
    let before = server.bodies();
    let completed =
        complete(&done).mpu_object_size(size).checksum_crc64_nvme(&whole).if_none_match("*").send().await.unwrap();
    assert!(completed.e_tag().unwrap().ends_with("-3\""));
    assert_eq!(completed.checksum_crc64_nvme(), Some(whole.as_str()));
    assert_eq!(server.bodies(), before, "the parts became the object where they lay");
    let head = client.head_object().bucket(BUCKET).key("big").checksum_mode(ChecksumMode::Enabled);
    let head = head.send().await.unwrap();
    assert_eq!((head.content_length(), head.content_type()), (Some(size), Some("video/x")));
    assert_eq!(head.checksum_crc64_nvme(), Some(whole.as_str()));
    assert!(server.buckets.get(BUCKET, "big").await.unwrap().unwrap() == body);
    let range = client.get_object().bucket(BUCKET).key("big").range(format!("bytes={}-{}", PART - 2, PART + 1));
    let range = range.send().await.unwrap().body.collect().await.unwrap().to_vec();
    assert_eq!(range, body[PART - 2..PART + 2], "across two parts");
    assert_eq!(code(complete(&done).send().await), "NoSuchUpload");
    assert_eq!(code(client.list_parts().bucket(BUCKET).key("big").upload_id(&id).send().await), "NoSuchUpload");

    // A copy of a multipart object is one body to its readers: it has a plain MD5 and the same bytes.
    let copied = client.copy_object().bucket(BUCKET).key("copy").copy_source("bucket/big").send().await.unwrap();
    assert!(!copied.copy_object_result().unwrap().e_tag().unwrap().contains('-'));
    client.delete_object().bucket(BUCKET).key("big").send().await.unwrap();
    assert!(server.buckets.get(BUCKET, "copy").await.unwrap().unwrap() == body);
}

fn absent_after(part: &CompletedPart) -> CompletedPart {
    CompletedPart::builder().part_number(10).e_tag(part.e_tag().unwrap()).build()
}

#[tokio::test]
async fn small_parts_are_refused_unless_last_and_parts_left_out_are_deleted() {
    let server = Server::start().await;
    let client = server.client();
    let id = create(&client, "k").await;
    let small = upload(&client, "k", &id, 1, b"abc".to_vec()).await;
    let last = upload(&client, "k", &id, 10_000, b"def".to_vec()).await;
    let complete = client.complete_multipart_upload().bucket(BUCKET).key("k").upload_id(&id);
    let refused = complete.clone().multipart_upload(parts(&[small.clone(), last.clone()])).send().await;
    assert_eq!(code(refused), "EntityTooSmall");
    complete.multipart_upload(parts(&[last])).send().await.unwrap();
    assert_eq!(server.buckets.get(BUCKET, "k").await.unwrap().unwrap(), "def");
    assert_eq!(server.bodies(), 1);
    for number in [0, 10_001] {
        let part = client.upload_part().bucket(BUCKET).key("k").upload_id(&id).part_number(number).send().await;
        assert_eq!(code(part), "InvalidArgument", "{number}");
    }
}

#[tokio::test]
async fn two_racing_completions_make_one_object_and_an_existing_key_is_kept() {
    let server = Server::start().await;
    let client = server.client();
    let id = create(&client, "k").await;
    let part = upload(&client, "k", &id, 1, b"abc".to_vec()).await;
    let complete = client.complete_multipart_upload().bucket(BUCKET).key("k").upload_id(&id).if_none_match("*");
    let complete = complete.multipart_upload(parts(&[part]));
    let (one, two) = tokio::join!(complete.clone().send(), complete.send());
    let lost = match (one, two) {
        (Ok(_), lost) | (lost, Ok(_)) => lost,
        both => panic!("both failed: {both:?}"),
    };
    assert_eq!(code(lost), "NoSuchUpload");

    let id = create(&client, "k").await;
    let part = upload(&client, "k", &id, 1, b"xyz".to_vec()).await;
    let complete = client.complete_multipart_upload().bucket(BUCKET).key("k").upload_id(&id).if_none_match("*");
    assert_eq!(code(complete.multipart_upload(parts(&[part])).send().await), "PreconditionFailed");
    assert_eq!(server.buckets.get(BUCKET, "k").await.unwrap().unwrap(), "abc");
    client.abort_multipart_upload().bucket(BUCKET).key("k").upload_id(&id).send().await.unwrap();
    let again = client.abort_multipart_upload().bucket(BUCKET).key("k").upload_id(&id).send().await;
    assert_eq!(code(again), "NoSuchUpload");
    assert_eq!(server.bodies(), 1);
}

#[tokio::test]
async fn parts_are_copied_by_range_and_composite_checksums_cover_the_parts() {
    let server = Server::start().await;
    let client = server.client();
    let source = noise(5, 6 * MIB);
    server.buckets.put(BUCKET, "src", source.clone()).await.unwrap();
    let created = client.create_multipart_upload().bucket(BUCKET).key("dst");
    let created = created.checksum_algorithm(ChecksumAlgorithm::Sha256).send().await.unwrap();
    let id = created.upload_id.unwrap();
    let copy = |number: i32, range: String| {
        let copy = client.upload_part_copy().bucket(BUCKET).key("dst").upload_id(&id).part_number(number);
        copy.copy_source("bucket/src").copy_source_range(range).send()
    };
    let mut done = Vec::new();
    for (number, range) in [(1, format!("bytes=0-{}", PART - 1)), (2, "bytes=100-199".to_owned())] {
        let part = copy(number, range).await.unwrap().copy_part_result.unwrap();
        assert!(part.checksum_sha256().is_some());
        done.push(CompletedPart::builder().part_number(number).e_tag(part.e_tag.unwrap()).build());
    }
    assert_eq!(code(copy(3, format!("bytes=0-{}", source.len())).await), "InvalidArgument");
    let complete = client.complete_multipart_upload().bucket(BUCKET).key("dst").upload_id(&id);
    let completed = complete.multipart_upload(parts(&done)).send().await.unwrap();
    assert!(completed.checksum_sha256().unwrap().ends_with("-2"));
    assert_eq!(server.bodies(), 1, "no byte was copied");
    client.delete_object().bucket(BUCKET).key("src").send().await.unwrap();
    let expected = [&source[..PART], &source[100..200]].concat();
    assert!(server.buckets.get(BUCKET, "dst").await.unwrap().unwrap() == expected);
}

#[tokio::test]
async fn a_part_brings_its_checksum_where_the_whole_is_made_of_those_of_the_parts() {
    let server = Server::start().await;
    let client = server.client();
    for (algorithm, kind, answer) in [
        (ChecksumAlgorithm::Sha256, ChecksumType::Composite, Some("InvalidRequest")),
        (ChecksumAlgorithm::Crc32, ChecksumType::Composite, Some("InvalidRequest")),
        (ChecksumAlgorithm::Crc32, ChecksumType::FullObject, None),
        (ChecksumAlgorithm::Crc64Nvme, ChecksumType::FullObject, None),
    ] {
        let created = client.create_multipart_upload().bucket(BUCKET).key("k").checksum_algorithm(algorithm.clone());
        let id = created.checksum_type(kind).send().await.unwrap().upload_id.unwrap();
        let part = client.upload_part().bucket(BUCKET).key("k").upload_id(&id).part_number(1);
        let sent = part.body(b"abc".to_vec().into()).send().await;
        match answer {
            Some(expected) => assert_eq!(code(sent), expected, "{algorithm}"),
            None => assert!(sent.is_ok(), "{algorithm}"),
        }
    }
}

#[tokio::test]
async fn open_uploads_are_listed_in_pages_by_key_and_id() {
    let server = Server::start().await;
    let client = server.client();
    let mut expected = Vec::new();
    for key in ["b/2", "a", "b/1", "b/1", "c"] {
        expected.push((key.to_owned(), create(&client, key).await));
    }
    expected.sort();
    let (mut found, mut key, mut id) = (Vec::new(), None, None);
    loop {
        let page = client.list_multipart_uploads().bucket(BUCKET).max_uploads(2);
        let page = page.set_key_marker(key).set_upload_id_marker(id).send().await.unwrap();
        found
            .extend(page.uploads().iter().map(|it| (it.key().unwrap().to_owned(), it.upload_id().unwrap().to_owned())));
        (key, id) = (page.next_key_marker, page.next_upload_id_marker);
        if key.is_none() {
            break;
        }
    }
    assert_eq!(found, expected);
    let under = client.list_multipart_uploads().bucket(BUCKET).prefix("b/").send().await.unwrap();
    assert_eq!(under.uploads().len(), 3);
}
