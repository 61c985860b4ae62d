//! What the adapter makes of answers, from a server that gives them.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not run ends the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use domain::id::ConnectionId;
use domain::socket::{PostFault, Sockets as _};
use socket::ApiGatewaySockets;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A server that gives one answer after the other, each on a connection of its own; how often it was asked, and what for last.
struct Server {
    address: String,
    asked: Arc<AtomicUsize>,
    last: Arc<std::sync::Mutex<String>>,
}

async fn server(answers: &'static [&'static str]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("ws://{}/live", listener.local_addr().unwrap());
    let (asked, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(std::sync::Mutex::new(String::new())));
    let (count, kept) = (asked.clone(), last.clone());
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 65_536];
            let mut read = 0;
            // Head and body, which may come apart.
            while !String::from_utf8_lossy(&request[..read]).contains("\r\n\r\n") || read < 300 {
                match stream.read(&mut request[read..]).await.unwrap() {
                    0 => break,
                    more => read += more,
                }
            }
            count.fetch_add(1, Ordering::SeqCst);
            *kept.lock().unwrap() = String::from_utf8_lossy(&request[..read]).into_owned();
            let written = async move { stream.write_all(answer.as_bytes()).await };
            // Who is silent keeps the connection and says nothing.
            let silence = std::time::Duration::from_secs(if answer.is_empty() { 30 } else { 0 });
            tokio::spawn(async move {
                tokio::time::sleep(silence).await;
                written.await
            });
        }
    });
    Server { address, asked, last }
}

fn sockets(server: &Server) -> ApiGatewaySockets {
    let config = aws_config::SdkConfig::builder()
        .behavior_version(aws_config::BehaviorVersion::latest())
        .region(aws_config::Region::new("us-east-1"))
        .credentials_provider(aws_sdk_apigatewaymanagement::config::SharedCredentialsProvider::new(
            aws_sdk_apigatewaymanagement::config::Credentials::for_tests(),
        ))
        .http_client(lambda_kit::aws::http_client())
        .build();
    ApiGatewaySockets::new(&config, &server.address).unwrap()
}

fn id() -> ConnectionId {
    ConnectionId::parse("Zx1=").unwrap()
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const GONE: &str =
    "HTTP/1.1 410 Gone\r\nx-amzn-errortype: GoneException\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
const BARE_GONE: &str = "HTTP/1.1 410 Gone\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const THROTTLED: &str = "HTTP/1.1 429 Too Many Requests\r\nx-amzn-errortype: LimitExceededException\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
const BROKEN: &str = "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const BAD_ID: &str = "HTTP/1.1 400 Bad Request\r\nx-amzn-errortype: BadRequestException\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
const SILENT: &str = "";

async fn posted(answers: &'static [&'static str]) -> (Result<(), PostFault>, usize) {
    let server = server(answers).await;
    let result = sockets(&server).post(&id(), r#"{"type":"pong","text":"你好 🙂"}"#).await;
    (result, server.asked.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_frame_is_posted_to_the_stage_and_signed() {
    let server = server(&[OK]).await;
    sockets(&server).post(&id(), r#"{"type":"pong","text":"你好 🙂"}"#).await.unwrap();
    let request = server.last.lock().unwrap().clone();
    assert!(
        request.starts_with("POST /live/%40connections/Zx1%3D")
            || request.starts_with("POST /live/@connections/Zx1%3D"),
        "{request}"
    );
    assert!(
        request.contains("execute-api/aws4_request") && request.ends_with(r#"{"type":"pong","text":"你好 🙂"}"#),
        "{request}"
    );
}

#[tokio::test]
async fn a_connection_that_has_ended_is_not_tried_again() {
    for answers in [&[GONE], &[BARE_GONE], &[BAD_ID]] {
        let (result, asked) = posted(answers).await;
        assert!(matches!(result, Err(PostFault::Gone)), "{result:?}");
        assert_eq!(asked, 1);
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_once_more() {
    for (answers, expected) in
        [(&[THROTTLED, OK], true), (&[BROKEN, OK], true), (&[THROTTLED, THROTTLED], false), (&[SILENT, OK], true)]
    {
        let (result, _) = posted(answers).await;
        assert_eq!(result.is_ok(), expected, "{result:?}");
        assert!(!matches!(result, Err(PostFault::Gone)));
    }
}

#[tokio::test]
async fn closing_what_has_ended_is_no_failure() {
    for (answers, expected) in [(&[OK, OK], true), (&[GONE, OK], true), (&[THROTTLED, THROTTLED], false)] {
        let server = server(answers).await;
        assert_eq!(sockets(&server).close(&id()).await.is_ok(), expected);
    }
}
