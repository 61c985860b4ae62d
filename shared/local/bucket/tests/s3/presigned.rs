//! Presigned URLs: they carry exactly what was signed, for as long as was signed.

use std::time::Duration;

use aws_sdk_s3::presigning::{PresignedRequest, PresigningConfig};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::{BUCKET, MIB, Server, noise};

fn for_secs(seconds: u64) -> PresigningConfig {
    PresigningConfig::expires_in(Duration::from_secs(seconds)).unwrap()
}

fn crc64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    let value = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes);
    base64::engine::general_purpose::STANDARD.encode(value.to_be_bytes())
}

async fn send(signed: &PresignedRequest, url: &str, headers: HeaderMap, body: Vec<u8>) -> Response {
    let method = Method::from_bytes(signed.method().as_bytes()).unwrap();
    reqwest::Client::new().request(method, url).headers(headers).body(body).send().await.unwrap()
}

fn headers(signed: &PresignedRequest) -> HeaderMap {
    let signed = signed.headers().filter(|(name, _)| *name != "content-length");
    signed.map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
}

async fn refusal(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    let code =
        text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code.to_owned());
    (status, code.unwrap_or(text))
}

#[tokio::test]
async fn a_part_is_taken_only_with_the_signed_length_and_checksum() {
    let server = Server::start().await;
    let client = server.client();
    let created = client.create_multipart_upload().bucket(BUCKET).key("up/消息").send().await.unwrap();
    let id = created.upload_id.unwrap();
    let body = noise(7, 10 * MIB);
    let part = client.upload_part().bucket(BUCKET).key("up/消息").upload_id(&id).part_number(1);
    let part = part.content_length(body.len() as i64).checksum_crc64_nvme(crc64(&body));
    let signed = part.presigned(for_secs(900)).await.unwrap();
    let url = signed.uri();
    for name in ["content-length", "x-amz-checksum-crc64nvme"] {
        let names = url.split('&').find(|field| field.starts_with("X-Amz-SignedHeaders=")).unwrap();
        assert!(names.contains(name), "{names}");
    }
    let kept = headers(&signed);

    let mut flipped = body.clone();
    flipped[57] ^= 1;
    assert_eq!(refusal(send(&signed, url, kept.clone(), flipped).await).await, (400, "BadDigest".into()));
    let mut longer = body.clone();
    longer.push(0);
    let mismatch = (403, "SignatureDoesNotMatch".to_owned());
    assert_eq!(refusal(send(&signed, url, kept.clone(), longer).await).await, mismatch);
    assert_eq!(refusal(send(&signed, url, kept.clone(), body[1..].to_vec()).await).await, mismatch);
    assert_eq!(refusal(send(&signed, url, HeaderMap::new(), body.clone()).await).await, mismatch);
    let mut other = kept.clone();
    other.insert("x-amz-checksum-crc64nvme", HeaderValue::from_str(&crc64(b"x")).unwrap());
    assert_eq!(refusal(send(&signed, url, other, b"x".to_vec()).await).await, mismatch);
    let elsewhere = url.replace("partNumber=1", "partNumber=2");
    assert_eq!(refusal(send(&signed, &elsewhere, kept.clone(), body.clone()).await).await, mismatch);
    let none = client.list_parts().bucket(BUCKET).key("up/消息").upload_id(&id).send().await.unwrap();
    assert!(none.parts().is_empty());

    let taken = send(&signed, url, kept, body.clone()).await;
    assert_eq!(taken.status(), 200);
    assert_eq!(taken.headers()["x-amz-checksum-crc64nvme"], crc64(&body).as_str());
    let one = client.list_parts().bucket(BUCKET).key("up/消息").upload_id(&id).send().await.unwrap();
    assert_eq!(one.parts()[0].size(), Some(body.len() as i64));
}

#[tokio::test]
async fn an_expired_or_altered_url_is_refused_and_a_sound_one_may_be_used_again() {
    let server = Server::start().await;
    let client = server.client();
    let put = client.put_object().bucket(BUCKET).key("k").presigned(for_secs(60)).await.unwrap();
    assert_eq!(send(&put, put.uri(), headers(&put), b"data".to_vec()).await.status(), 200);
    let get =
        client.get_object().bucket(BUCKET).key("k").response_content_disposition("attachment; filename=\"x.txt\"");
    let get = get.presigned(for_secs(60)).await.unwrap();
    for _ in 0..2 {
        let answer = send(&get, get.uri(), headers(&get), Vec::new()).await;
        assert_eq!(answer.headers()["content-disposition"], "attachment; filename=\"x.txt\"");
        assert_eq!(answer.bytes().await.unwrap(), "data");
    }
    let mismatch = (403, "SignatureDoesNotMatch".to_owned());
    let (rest, signature) = get.uri().split_once("X-Amz-Signature=").unwrap();
    let other_signature = format!("{rest}X-Amz-Signature={}", signature.chars().rev().collect::<String>());
    for altered in [
        get.uri().replace("/k?", "/other?"),
        get.uri().replace("X-Amz-Expires=60", "X-Amz-Expires=600"),
        get.uri().replace("x.txt", "y.txt"),
        other_signature,
    ] {
        assert_ne!(altered, get.uri(), "{altered}");
        assert_eq!(refusal(send(&get, &altered, headers(&get), Vec::new()).await).await, mismatch, "{altered}");
    }
    let past = PresigningConfig::builder().start_time(std::time::UNIX_EPOCH).expires_in(Duration::from_secs(60));
    let expired = client.get_object().bucket(BUCKET).key("k").presigned(past.build().unwrap()).await.unwrap();
    let refused = send(&expired, expired.uri(), headers(&expired), Vec::new()).await;
    assert_eq!(refusal(refused).await, (403, "AccessDenied".into()));
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_nothing_behind() {
    let server = Server::start().await;
    server.buckets.put(BUCKET, "k", "before").await.unwrap();
    let put = server.client().put_object().bucket(BUCKET).key("k").presigned(for_secs(60)).await.unwrap();
    let (_, target) = put.uri().split_once(&server.address.to_string()).unwrap();
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let head = format!("PUT {target} HTTP/1.1\r\nhost: {}\r\ncontent-length: 5000000\r\n\r\n", server.address);
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&noise(1, 2 * MIB)).await.unwrap();
    while server.bodies() < 2 {
        tokio::task::yield_now().await;
    }
    drop(socket);
    while server.bodies() > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.buckets.get(BUCKET, "k").await.unwrap().unwrap(), "before");
}
