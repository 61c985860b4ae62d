//! Single objects: keys, ranges, conditions, checksums, copies, CORS, addressing.

use std::sync::Arc;

use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, Delete, MetadataDirective, ObjectIdentifier};
use local_bucket::{BucketConfig, BucketError, Buckets, CorsRule};

use crate::support::{BUCKET, MIB, Server, client, code, noise};

async fn read(server: &Server, key: &str) -> Vec<u8> {
    let object = server.client().get_object().bucket(BUCKET).key(key).send().await.unwrap();
    object.body.collect().await.unwrap().to_vec()
}

#[tokio::test]
async fn of_two_hundred_racing_conditional_puts_exactly_one_wins() {
    let server = Server::start().await;
    let client = server.client();
    let puts = (0..200).map(|number: u32| {
        let put = client.put_object().bucket(BUCKET).key("once").if_none_match("*");
        tokio::spawn(put.body(number.to_le_bytes().to_vec().into()).send())
    });
    let mut winners = Vec::new();
    for (number, put) in puts.collect::<Vec<_>>().into_iter().enumerate() {
        match put.await.unwrap() {
            Ok(_) => winners.push(number as u32),
            lost => assert_eq!(code(lost), "PreconditionFailed"),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(read(&server, "once").await, winners[0].to_le_bytes());
    assert_eq!(server.bodies(), 1, "the losers' bodies are gone");
}

#[tokio::test]
async fn compare_and_set_by_etag_loses_no_update() {
    let server = Arc::new(Server::start().await);
    server.buckets.put(BUCKET, "counter", "0").await.unwrap();
    let workers = (0..8).map(|_| {
        let server = server.clone();
        tokio::spawn(async move {
            let client = server.client();
            let mut accepted = 0;
            while accepted < 10 {
                let object = client.get_object().bucket(BUCKET).key("counter").send().await.unwrap();
                let etag = object.e_tag.unwrap();
                let count = String::from_utf8(object.body.collect().await.unwrap().to_vec()).unwrap();
                let next = (count.parse::<u32>().unwrap() + 1).to_string();
                let put =
                    client.put_object().bucket(BUCKET).key("counter").if_match(etag).body(next.into_bytes().into());
                match put.send().await {
                    Ok(_) => accepted += 1,
                    lost => assert_eq!(code(lost), "PreconditionFailed"),
                }
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    assert_eq!(read(&server, "counter").await, b"80");
    let absent = server.client().put_object().bucket(BUCKET).key("absent").if_match("\"x\"").send().await;
    assert_eq!(code(absent), "NoSuchKey");
}

#[tokio::test]
async fn any_key_is_kept_apart_from_any_other_and_from_the_file_system() {
    let server = Server::start().await;
    let client = server.client();
    let long = "长".repeat(341) + "x";
    let keys =
        ["../../etc/passwd", "..", "a/", "a", "a//b", "a b+c", "消息/💬.json", "%2e%2e/x", "A", "k?x=1&y#z", &long];
    for key in keys {
        client.put_object().bucket(BUCKET).key(key).body(key.as_bytes().to_vec().into()).send().await.unwrap();
    }
    for key in keys {
        assert_eq!(read(&server, key).await, key.as_bytes(), "{key}");
    }
    let listed = client.list_objects_v2().bucket(BUCKET).send().await.unwrap();
    let mut expected = keys.to_vec();
    expected.sort_unstable();
    assert_eq!(listed.contents().iter().map(|object| object.key().unwrap()).collect::<Vec<_>>(), expected);
    let too_long = client.put_object().bucket(BUCKET).key("长".repeat(342)).send().await;
    assert_eq!(code(too_long), "KeyTooLongError");
    assert!(matches!(server.buckets.put(BUCKET, "", "x").await, Err(BucketError::InvalidKey(0))));
}

#[tokio::test]
async fn an_empty_object_has_no_body_and_no_ranges() {
    let server = Server::start().await;
    let client = server.client();
    let put = client.put_object().bucket(BUCKET).key("empty").send().await.unwrap();
    assert_eq!(put.e_tag(), Some("\"d41d8cd98f00b204e9800998ecf8427e\""));
    assert_eq!(read(&server, "empty").await, b"");
    assert_eq!(server.bodies(), 0);
    let range = client.get_object().bucket(BUCKET).key("empty").range("bytes=0-0").send().await;
    assert_eq!(code(range), "InvalidRange");
}

#[tokio::test]
async fn ranges_are_cut_exactly_and_impossible_ones_refused() {
    let server = Server::start().await;
    let body = noise(1, 2 * MIB + 17);
    server.buckets.put(BUCKET, "r", body.clone()).await.unwrap();
    let size = body.len();
    for (range, expected) in [
        ("bytes=0-0".to_owned(), 0..1),
        ("bytes=524287-524288".to_owned(), 524_287..524_289),
        (format!("bytes={}-", size - 3), size - 3..size),
        ("bytes=-5".to_owned(), size - 5..size),
        (format!("bytes=10-{}", size * 2), 10..size),
        (format!("bytes=-{}", size * 2), 0..size),
    ] {
        let object = server.client().get_object().bucket(BUCKET).key("r").range(&range).send().await.unwrap();
        let told = format!("bytes {}-{}/{size}", expected.start, expected.end - 1);
        assert_eq!(object.content_range(), Some(told.as_str()), "{range}");
        assert_eq!(object.content_length(), Some(expected.len() as i64), "{range}");
        assert_eq!(object.body.collect().await.unwrap().to_vec(), body[expected], "{range}");
    }
    let beyond = server.client().get_object().bucket(BUCKET).key("r").range(format!("bytes={size}-")).send().await;
    assert_eq!(code(beyond), "InvalidRange");
}

#[tokio::test]
async fn every_checksum_is_verified_in_headers_and_in_trailers() {
    let server = Server::start().await;
    let body = noise(2, 3 * MIB);
    for algorithm in ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"].map(ChecksumAlgorithm::from) {
        // The SDK sends the value of a streaming body as a trailer of an aws-chunked transfer.
        let client = client(server.address, RequestChecksumCalculation::WhenSupported);
        let file = server.root.path().join("upload");
        std::fs::write(&file, &body).unwrap();
        let stream = ByteStream::from_path(&file).await.unwrap();
        let put = client.put_object().bucket(BUCKET).key("c").checksum_algorithm(algorithm.clone());
        put.body(stream).send().await.unwrap();
        let object =
            client.get_object().bucket(BUCKET).key("c").checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
        let values = [
            object.checksum_crc32(),
            object.checksum_crc32_c(),
            object.checksum_crc64_nvme(),
            object.checksum_sha1(),
            object.checksum_sha256(),
        ];
        assert_eq!(values.iter().flatten().count(), 1, "{algorithm}");
        assert_eq!(object.content_encoding(), None, "aws-chunked is not an encoding of the object");
        assert_eq!(object.body.collect().await.unwrap().to_vec(), body);
    }
    let client = server.client();
    let put = || client.put_object().bucket(BUCKET).key("bad").body(b"abc".to_vec().into());
    for refused in [
        put().checksum_crc32("AAAAAA==").send().await,
        put().checksum_crc32_c("AAAAAA==").send().await,
        put().checksum_crc64_nvme("AAAAAAAAAAA=").send().await,
        put().checksum_sha1("AAAAAAAAAAAAAAAAAAAAAAAAAAA=").send().await,
        put().checksum_sha256("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").send().await,
        put().content_md5("AAAAAAAAAAAAAAAAAAAAAA==").send().await,
    ] {
        assert_eq!(code(refused), "BadDigest");
    }
    let both = put().checksum_crc32("NSRBwg==").checksum_sha256("x").send().await;
    assert_eq!(code(both), "InvalidRequest");
    assert_eq!(server.buckets.get(BUCKET, "bad").await.unwrap(), None);
    assert_eq!(server.bodies(), 1, "refused bodies are gone");
}

#[tokio::test]
async fn reads_obey_their_conditions_and_overrides() {
    let server = Server::start().await;
    let client = server.client();
    let put = client.put_object().bucket(BUCKET).key("k").body(b"abc".to_vec().into()).content_type("text/x");
    let etag = put.metadata("who", "me").send().await.unwrap().e_tag.unwrap();
    let get = || client.get_object().bucket(BUCKET).key("k");
    let fresh = get().if_none_match(&etag).send().await.unwrap_err();
    assert_eq!(fresh.raw_response().unwrap().status().as_u16(), 304);
    assert_eq!(fresh.raw_response().unwrap().headers().get("etag"), Some(etag.as_str()));
    assert_eq!(code(get().if_match("\"other\"").send().await), "PreconditionFailed");
    let object = get().if_match(&etag).response_content_type("text/y").response_content_disposition("attachment");
    let object = object.send().await.unwrap();
    assert_eq!((object.content_type(), object.content_disposition()), (Some("text/y"), Some("attachment")));
    let head = client.head_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!((head.content_length(), head.content_type()), (Some(3), Some("text/x")));
    assert_eq!(head.metadata().unwrap()["who"], "me");
    let tagged = client.put_object().bucket(BUCKET).key("t").tagging("a=b").send().await;
    assert_eq!(code(tagged), "NotImplemented");
    let version = get().version_id("3").send().await;
    assert_eq!(code(version), "NoSuchVersion");
}

#[tokio::test]
async fn a_copy_shares_bytes_obeys_conditions_and_outlives_its_source() {
    let server = Server::start().await;
    let client = server.client();
    let body = noise(3, MIB);
    let put = client.put_object().bucket(BUCKET).key("from 💬").body(body.clone().into()).content_type("a/b");
    let etag = put.send().await.unwrap().e_tag.unwrap();
    let source = "bucket/from%20%F0%9F%92%AC";
    let copy = || client.copy_object().bucket(BUCKET).copy_source(source);
    assert_eq!(code(copy().key("to").copy_source_if_match("\"no\"").send().await), "PreconditionFailed");
    assert_eq!(code(copy().key("to").copy_source_if_none_match(&etag).send().await), "PreconditionFailed");
    let copied = copy().key("to").copy_source_if_match(&etag).send().await.unwrap();
    assert_eq!(copied.copy_object_result().unwrap().e_tag(), Some(etag.as_str()));
    assert_eq!(server.bodies(), 1);
    let again = copy().key("to").customize().mutate_request(|request| {
        request.headers_mut().insert("if-none-match", "*");
    });
    assert_eq!(code(again.send().await), "PreconditionFailed");
    let itself = copy().key("from 💬").send().await;
    assert_eq!(code(itself), "InvalidRequest");
    let replace = copy().key("from 💬").metadata_directive(MetadataDirective::Replace).content_type("c/d");
    replace.send().await.unwrap();
    assert_eq!(client.head_object().bucket(BUCKET).key("to").send().await.unwrap().content_type(), Some("a/b"));
    assert_eq!(client.head_object().bucket(BUCKET).key("from 💬").send().await.unwrap().content_type(), Some("c/d"));

    client.delete_object().bucket(BUCKET).key("from 💬").send().await.unwrap();
    assert_eq!(read(&server, "to").await, body);
    client.delete_object().bucket(BUCKET).key("to").send().await.unwrap();
    assert_eq!(server.bodies(), 0);
}

#[tokio::test]
async fn a_reader_keeps_its_object_while_it_is_overwritten_and_deleted() {
    let server = Server::start().await;
    let client = server.client();
    let old = noise(4, 8 * MIB);
    server.buckets.put(BUCKET, "k", old.clone()).await.unwrap();
    let mut reading = client.get_object().bucket(BUCKET).key("k").send().await.unwrap().body;
    let mut read = reading.try_next().await.unwrap().unwrap().to_vec();
    server.buckets.put(BUCKET, "k", "new").await.unwrap();
    client.delete_object().bucket(BUCKET).key("k").send().await.unwrap();
    while let Some(piece) = reading.try_next().await.unwrap() {
        read.extend_from_slice(&piece);
    }
    assert!(read == old);
    drop(reading);
    while server.bodies() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn deleting_many_reports_each_key_and_absent_keys_are_no_error() {
    let server = Server::start().await;
    let client = server.client();
    server.buckets.put(BUCKET, "a", "1").await.unwrap();
    server.buckets.put(BUCKET, "b", "2").await.unwrap();
    let objects = [("a", None), ("b", Some("\"no\"")), ("absent", None)]
        .map(|(key, etag)| ObjectIdentifier::builder().key(key).set_e_tag(etag.map(str::to_owned)).build().unwrap());
    let delete = Delete::builder().set_objects(Some(objects.to_vec())).build().unwrap();
    let done = client.delete_objects().bucket(BUCKET).delete(delete).send().await.unwrap();
    assert_eq!(done.deleted().iter().filter_map(|it| it.key()).collect::<Vec<_>>(), ["a", "absent"]);
    assert_eq!(done.errors()[0].code(), Some("PreconditionFailed"));
    assert_eq!(server.buckets.list(BUCKET, "").await.unwrap().len(), 1);
    assert_eq!(code(client.delete_bucket().bucket(BUCKET).send().await), "BucketNotEmpty");
    client.delete_object().bucket(BUCKET).key("b").send().await.unwrap();
    client.delete_bucket().bucket(BUCKET).send().await.unwrap();
    assert_eq!(code(client.get_object().bucket(BUCKET).key("b").send().await), "NoSuchBucket");
}

#[tokio::test]
async fn preflights_and_answers_carry_what_the_first_matching_rule_allows() {
    let server = Server::start().await;
    let rule = CorsRule {
        allowed_origins: vec!["https://*.example.com".into()],
        allowed_methods: vec!["PUT".into(), "GET".into()],
        allowed_headers: vec!["x-amz-*".into(), "Content-Type".into()],
        expose_headers: vec!["ETag".into(), "x-amz-checksum-crc64nvme".into()],
        max_age_seconds: Some(600),
        ..CorsRule::default()
    };
    server.buckets.create(BUCKET, &BucketConfig { cors: vec![rule], ..BucketConfig::default() }).unwrap();
    let http = reqwest::Client::new();
    let preflight = |origin: &'static str, method: &'static str, headers: &'static str| {
        http.request(reqwest::Method::OPTIONS, server.url("bucket/k"))
            .header("origin", origin)
            .header("access-control-request-method", method)
            .header("access-control-request-headers", headers)
            .send()
    };
    let allowed = preflight("https://a.example.com", "PUT", "content-type, X-Amz-Checksum-Crc64nvme").await.unwrap();
    assert_eq!(allowed.status(), 200);
    for (name, value) in [
        ("access-control-allow-origin", "https://a.example.com"),
        ("access-control-allow-methods", "PUT, GET"),
        ("access-control-allow-headers", "content-type, X-Amz-Checksum-Crc64nvme"),
        ("access-control-expose-headers", "ETag, x-amz-checksum-crc64nvme"),
        ("access-control-max-age", "600"),
    ] {
        assert_eq!(allowed.headers()[name], value, "{name}");
    }
    for (origin, method, headers) in [
        ("https://example.com", "PUT", ""),
        ("https://a.example.com", "DELETE", ""),
        ("https://a.example.com", "PUT", "authorization"),
    ] {
        assert_eq!(preflight(origin, method, headers).await.unwrap().status(), 403, "{origin} {method} {headers}");
    }
    // A page may read refusals as well.
    let refused = http.get(server.url("bucket/k")).header("origin", "https://a.example.com").send().await.unwrap();
    assert_eq!(refused.status(), 403);
    assert_eq!(refused.headers()["access-control-allow-origin"], "https://a.example.com");
    assert_eq!(server.buckets.requests()["PreflightRequest"], 4);
}

#[tokio::test]
async fn unsigned_and_unknown_callers_are_refused_and_host_names_name_buckets() {
    let server = Server::start().await;
    server.buckets.put(BUCKET, "k", "v").await.unwrap();
    let http = reqwest::Client::new();
    let unsigned = http.get(server.url("bucket/k")).send().await.unwrap();
    assert_eq!(unsigned.status(), 403);
    for host in ["bucket.localhost", "bucket.s3.localhost:9000"] {
        let text = http.get(server.url("k")).header("host", host).send().await.unwrap().text().await.unwrap();
        assert!(text.contains("AccessDenied"), "{text}");
    }
    assert_eq!(server.buckets.requests()["GetObject"], 3);
}

#[test]
fn a_folder_serves_one_process_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    let first = Buckets::open(root.path(), "us-east-1", &[]).unwrap();
    assert!(matches!(Buckets::open(root.path(), "us-east-1", &[]), Err(BucketError::InUse { .. })));
    drop(first);
    Buckets::open(root.path(), "us-east-1", &[]).unwrap();
}
