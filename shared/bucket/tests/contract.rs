//! The bucket keeps the contract of its ports, against a real S3 endpoint, and signs URLs that take exactly what was signed.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not run ends the test")]

use std::convert::Infallible;
use std::net::SocketAddr;

use aws_sdk_s3::config::{BehaviorVersion, Builder, Credentials, Region};
use bucket::Bucket;
use domain::fault::PortFault;
use domain::upload::checksum::Crc64;
use domain::upload::object::{Completion, Multipart, Objects, Part, SignedPart, SignedUrl, UrlSigner};
use domain::upload::plan::MIN_CHUNK_BYTES;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use local_bucket::{BucketConfig, Buckets};
use reqwest::{Client, Response};
use tempfile::TempDir;
use testkit::contract_uploads::{self, noise};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const NAME: &str = "files";

/// A server over a folder of its own, which ends with the test.
struct Server {
    bucket: Bucket,
    task: JoinHandle<()>,
    _root: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn config(address: SocketAddr) -> Builder {
    aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(Credentials::for_tests())
        .region(Region::new("us-east-1"))
        .endpoint_url(format!("http://{address}"))
        .http_client(lambda_kit::aws::http_client())
}

async fn server() -> Server {
    let root = tempfile::tempdir().unwrap();
    let test = Credentials::for_tests();
    let keys = [local_bucket::Credentials {
        access_key_id: test.access_key_id().to_owned(),
        secret_access_key: test.secret_access_key().to_owned(),
    }];
    let buckets = Buckets::open(root.path(), "us-east-1", &keys).unwrap();
    buckets.create(NAME, &BucketConfig::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let buckets = buckets.clone();
            let answer = service_fn(move |request| {
                let buckets = buckets.clone();
                async move { Ok::<_, Infallible>(buckets.handle(request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            tokio::spawn(async move { drop(connection.await) });
        }
    });
    Server { bucket: Bucket::new(config(address), NAME), task, _root: root }
}

#[tokio::test]
async fn keeps_the_contract_of_multipart_uploads() {
    contract_uploads::multipart(&server().await.bucket).await;
}

#[tokio::test]
async fn keeps_the_contract_of_chunk_objects() {
    contract_uploads::chunk_objects(&server().await.bucket).await;
}

async fn put(signed: &SignedUrl, body: Vec<u8>) -> Response {
    let mut request = Client::new().put(&signed.url).body(body);
    for (name, value) in signed.headers.iter().filter(|(name, _)| *name != "content-length") {
        request = request.header(name, value);
    }
    request.send().await.unwrap()
}

async fn code(response: Response) -> (u16, String) {
    let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
    let code = text.split("<Code>").nth(1).and_then(|rest| rest.split("</Code>").next());
    (status, code.unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_signed_part_takes_exactly_its_bytes() {
    let server = server().await;
    let (bucket, key) = (&server.bucket, "u/acme/one");
    let body = noise(57, MIN_CHUNK_BYTES);
    let id = bucket.begin(key, "image/png").await.unwrap();
    let part =
        SignedPart { key, multipart_id: &id, number: 57, length: body.len() as u64, crc64nvme: Some(Crc64::of(&body)) };
    let signed = bucket.part(part).await.unwrap();
    let names = signed.url.split(['?', '&']).find_map(|field| field.strip_prefix("X-Amz-SignedHeaders=")).unwrap();
    let names: Vec<&str> = names.split("%3B").collect();
    assert_eq!(names, ["content-length", "host", "x-amz-checksum-crc64nvme"]);
    assert!(
        !signed.url.contains("x-amz-checksum-crc64nvme=") && !signed.url.contains("x-amz-sdk-checksum"),
        "{}",
        signed.url
    );
    assert!(signed.url.contains("X-Amz-Expires=900&"), "{}", signed.url);

    let mut flipped = body.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(code(put(&signed, flipped).await).await, (400, "BadDigest".to_owned()));
    for length in [body.len() - 1, body.len() + 1] {
        let mut other = body.clone();
        other.resize(length, 0);
        assert_eq!(code(put(&signed, other).await).await, (403, "SignatureDoesNotMatch".to_owned()));
    }
    let without = SignedUrl { headers: std::collections::BTreeMap::new(), ..signed.clone() };
    assert_eq!(code(put(&without, body.clone()).await).await, (403, "SignatureDoesNotMatch".to_owned()));
    assert_eq!(bucket.parts(key, &id).await.unwrap(), Some(Vec::new()));
    for _ in 0..2 {
        assert_eq!(put(&signed, body.clone()).await.status(), 200, "as often as it is sent");
    }
    let parts = bucket.parts(key, &id).await.unwrap().unwrap();
    assert_eq!((parts.len(), parts[0].number, parts[0].crc64nvme), (1, 57, Some(Crc64::of(&body))));

    let unknown = bucket.part(SignedPart { crc64nvme: None, ..part }).await.unwrap();
    assert_eq!(put(&unknown, body.clone()).await.status(), 200, "its sender tells no checksum");
    assert_eq!(code(put(&unknown, body[1..].to_vec()).await).await, (403, "SignatureDoesNotMatch".to_owned()));
}

#[tokio::test]
async fn a_download_has_the_name_and_the_type_that_were_signed() {
    let server = server().await;
    server.bucket.put("u/acme/one", b"abc".to_vec()).await.unwrap();
    let disposition = domain::upload::name::disposition("周报 📄 \"a\".pdf");
    let signed = server.bucket.download("u/acme/one", "application/pdf", &disposition).await.unwrap();
    assert!(signed.headers.is_empty(), "a browser follows it as it is: {signed:?}");
    let answer = Client::new().get(&signed.url).send().await.unwrap();
    assert_eq!(answer.headers()["content-disposition"], disposition.as_str());
    assert_eq!(answer.headers()["content-type"], "application/pdf");
    assert_eq!(answer.bytes().await.unwrap(), "abc");
}

/// Answers every request with these bytes.
async fn canned(answer: &'static str) -> (Bucket, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            // The head, and with it the short body that follows at once.
            while !String::from_utf8_lossy(&seen).contains("</CompleteMultipartUpload>") {
                let mut piece = [0; 4096];
                match stream.read(&mut piece).await {
                    Ok(read) if read > 0 => seen.extend_from_slice(&piece[..read]),
                    _ => break,
                }
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
            let _ = stream.write_all(format!("{head}{answer}").as_bytes()).await;
        }
    });
    let retries = aws_sdk_s3::config::retry::RetryConfig::disabled();
    (Bucket::new(config(address).retry_config(retries), NAME), task)
}

#[tokio::test]
async fn a_completion_that_fails_after_its_status_was_sent_is_a_failure() {
    const ERROR: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>InternalError</Code>\
        <Message>We encountered an internal error. Please try again.</Message></Error>";
    let (bucket, task) = canned(ERROR).await;
    let part = Part { number: 1, size: 1, etag: "\"e\"".to_owned(), crc64nvme: None };
    let completion = Completion { key: "u/acme/one", multipart_id: "id", parts: &[part], size: 1, crc64nvme: None };
    let answer = bucket.complete(completion).await;
    assert!(matches!(answer, Err(PortFault::Unavailable { .. })), "{answer:?}");
    task.abort();
}
