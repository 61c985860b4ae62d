//! The clients that the functions use, against the endpoint that a local run gives them.

use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};
use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::{
    DeleteMessageBatchRequestEntry, MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName,
    SendMessageBatchRequestEntry,
};
use tokio::net::TcpListener;

use crate::server::serve;

#[tokio::test]
async fn the_rust_clients_understand_every_answer() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = serve(listener, &folder.path().join("aws.db")).await;
    let http = aws_smithy_http_client::Builder::new().build_http();
    let credentials = Credentials::new("local", "local", None, None, "test");
    let sqs = aws_sdk_sqs::Client::from_conf(
        aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(credentials.clone())
            .endpoint_url(format!("http://{address}"))
            .http_client(http.clone())
            .retry_config(RetryConfig::disabled())
            .build(),
    );
    let url = sqs
        .create_queue()
        .queue_name("q.fifo")
        .attributes(QueueAttributeName::FifoQueue, "true")
        .send()
        .await
        .unwrap()
        .queue_url
        .unwrap();
    let entry = |id: &str| {
        let binary = MessageAttributeValue::builder().data_type("Binary").binary_value(Blob::new([0, 255]));
        SendMessageBatchRequestEntry::builder()
            .id(id)
            .message_body(format!("消息{id}"))
            .message_group_id("g")
            .message_deduplication_id(id)
            .message_attributes("bytes", binary.build().unwrap())
            .build()
            .unwrap()
    };
    let sent = sqs.send_message_batch().queue_url(&url).entries(entry("a")).entries(entry("b")).send().await.unwrap();
    assert_eq!(sent.successful.len(), 2);
    let received = sqs
        .receive_message()
        .queue_url(&url)
        .max_number_of_messages(10)
        .wait_time_seconds(1)
        .message_system_attribute_names(MessageSystemAttributeName::All)
        .message_attribute_names("All")
        .send()
        .await
        .unwrap()
        .messages
        .unwrap();
    assert_eq!(received[1].body.as_deref(), Some("消息b"));
    let attributes = received[1].attributes.as_ref().unwrap();
    assert_eq!(attributes[&MessageSystemAttributeName::MessageGroupId], "g");
    assert_eq!(received[1].message_attributes.as_ref().unwrap()["bytes"].binary_value, Some(Blob::new([0, 255])));
    let deletions = received.iter().enumerate().map(|(n, message)| {
        let handle = message.receipt_handle.as_deref().unwrap();
        DeleteMessageBatchRequestEntry::builder().id(n.to_string()).receipt_handle(handle).build().unwrap()
    });
    let deleted = sqs.delete_message_batch().queue_url(&url).set_entries(Some(deletions.collect())).send().await;
    assert!(deleted.unwrap().failed.is_empty());
    let again = received[0].receipt_handle.as_deref();
    sqs.delete_message().queue_url(&url).set_receipt_handle(again.map(Into::into)).send().await.unwrap();

    let missing = sqs.get_queue_url().queue_name("none").send().await.unwrap_err().into_service_error();
    assert!(missing.is_queue_does_not_exist(), "{missing:?}");
    let broken =
        sqs.delete_message().queue_url(&url).receipt_handle("x").send().await.unwrap_err().into_service_error();
    assert!(broken.is_receipt_handle_is_invalid(), "{broken:?}");
    let empty = sqs.send_message_batch().queue_url(&url).set_entries(Some(vec![])).send().await;
    let empty = empty.unwrap_err().into_service_error();
    assert!(empty.is_empty_batch_request(), "{empty:?}");
    let no_group = sqs.send_message().queue_url(&url).message_body("x").send().await.unwrap_err().into_service_error();
    assert_eq!(no_group.meta().code(), Some("MissingParameter"));

    let events = aws_sdk_eventbridge::Client::from_conf(
        aws_sdk_eventbridge::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(credentials)
            .endpoint_url(format!("http://{address}"))
            .http_client(http)
            .retry_config(RetryConfig::disabled())
            .build(),
    );
    let event = |detail: &str| {
        PutEventsRequestEntry::builder()
            .source("skylark")
            .detail_type("t")
            .detail(detail)
            .time(aws_sdk_eventbridge::primitives::DateTime::from_secs(1_700_000_000))
            .build()
    };
    let put = events.put_events().entries(event("{}")).entries(event("nonsense")).send().await.unwrap();
    assert_eq!(put.failed_entry_count, 1);
    assert!(put.entries()[0].event_id.is_some());
    assert_eq!(put.entries()[1].error_code.as_deref(), Some("MalformedDetail"));
    let missing = events.describe_rule().name("none").send().await.unwrap_err().into_service_error();
    assert!(missing.is_resource_not_found_exception(), "{missing:?}");
}
