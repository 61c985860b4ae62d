//! The wire: what SDKs send and what they must find in the answers.

use std::net::SocketAddr;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::server::serve;

struct Endpoint {
    _folder: TempDir,
    address: SocketAddr,
    client: reqwest::Client,
}

struct Answer {
    status: StatusCode,
    query_error: Option<String>,
    body: Value,
}

impl Endpoint {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = serve(listener, &folder.path().join("aws.db")).await;
        Self { _folder: folder, address, client: reqwest::Client::new() }
    }

    async fn call(&self, target: &str, body: &Value) -> Answer {
        let request = self.client.post(format!("http://{}/", self.address)).header("x-amz-target", target);
        let response = request.body(body.to_string()).send().await.unwrap();
        assert!(response.headers().contains_key("x-amzn-requestid"));
        let query_error = response.headers().get("x-amzn-query-error").map(|it| it.to_str().unwrap().to_owned());
        let status = response.status();
        Answer { status, query_error, body: response.json().await.unwrap() }
    }

    async fn sqs(&self, operation: &str, body: &Value) -> Value {
        let answer = self.call(&format!("AmazonSQS.{operation}"), body).await;
        assert_eq!(answer.status, StatusCode::OK, "{operation} {body}: {}", answer.body);
        answer.body
    }

    async fn create(&self, name: &str, attributes: Value) -> Value {
        self.sqs("CreateQueue", &json!({"QueueName": name, "Attributes": attributes})).await["QueueUrl"].clone()
    }
}

#[tokio::test]
async fn sums_and_names_are_those_that_sdks_verify() {
    let it = Endpoint::new().await;
    let url = it.create("q", json!({})).await;
    let attributes = json!({
        "city": {"DataType": "String", "StringValue": "Any City"},
        "data": {"DataType": "Binary", "BinaryValue": "AAEC/w=="},
        "population": {"DataType": "Number.int", "StringValue": "1250800"},
    });
    let trace = json!({"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-5759e988"}});
    let sent = it
        .sqs(
            "SendMessage",
            &json!({"QueueUrl": url, "MessageBody": "héllo", "MessageAttributes": attributes,
                    "MessageSystemAttributes": trace}),
        )
        .await;
    assert_eq!(sent["MD5OfMessageBody"], "be50e8478cf24ff3595bc7307fb91b50");
    // Worked out apart from this crate, by the documented algorithm: names sorted, lengths as 4 bytes, one byte for the kind.
    assert_eq!(sent["MD5OfMessageAttributes"], "41da18dc123b090ea8f166260878da69");
    assert!(sent["MD5OfMessageSystemAttributes"].is_string());
    assert!(sent.get("SequenceNumber").is_none());

    let request = json!({"QueueUrl": url, "MessageAttributeNames": ["none.*", "population"],
                         "MessageSystemAttributeNames": ["AWSTraceHeader"], "VisibilityTimeout": 0});
    let received = it.sqs("ReceiveMessage", &request).await;
    let message = &received["Messages"][0];
    assert_eq!(message["MD5OfBody"], sent["MD5OfMessageBody"]);
    assert_eq!(message["Attributes"], json!({"AWSTraceHeader": "Root=1-5759e988"}));
    assert_eq!(message["MessageAttributes"], json!({"population": attributes["population"]}));
    let plain = it.sqs("ReceiveMessage", &json!({"QueueUrl": url, "MessageAttributeNames": ["All"]})).await;
    assert_eq!(plain["Messages"][0]["MessageAttributes"], attributes);
    assert_eq!(plain["Messages"][0]["MD5OfMessageAttributes"], sent["MD5OfMessageAttributes"]);
    assert!(plain["Messages"][0].get("Attributes").is_none());
    assert_eq!(it.sqs("ReceiveMessage", &json!({"QueueUrl": url})).await, json!({}));
}

#[tokio::test]
async fn errors_carry_the_code_where_each_sdk_looks() {
    let it = Endpoint::new().await;
    let url = it.create("q", json!({})).await;
    let entry = |id: &str| json!({"Id": id, "MessageBody": "x"});
    let entries = |count: usize| (0..count).map(|n| entry(&n.to_string())).collect::<Vec<_>>();
    let big = json!({"Id": "a", "MessageBody": "x".repeat(600_000)});
    let other = json!({"Id": "b", "MessageBody": "x".repeat(600_000)});
    for (operation, body, shape, code) in [
        ("GetQueueUrl", json!({"QueueName": "none"}), "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"),
        ("SendMessage", json!({"MessageBody": "x"}), "MissingRequiredParameterException", "MissingParameter"),
        (
            "CreateQueue",
            json!({"QueueName": "q", "Attributes": {"DelaySeconds": "1"}}),
            "QueueNameExists",
            "QueueAlreadyExists",
        ),
        (
            "SendMessageBatch",
            json!({"QueueUrl": url, "Entries": entries(11)}),
            "TooManyEntriesInBatchRequest",
            "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
        ),
        (
            "SendMessageBatch",
            json!({"QueueUrl": url, "Entries": []}),
            "EmptyBatchRequest",
            "AWS.SimpleQueueService.EmptyBatchRequest",
        ),
        (
            "SendMessageBatch",
            json!({"QueueUrl": url, "Entries": [entry("a"), entry("a")]}),
            "BatchEntryIdsNotDistinct",
            "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
        ),
        (
            "SendMessageBatch",
            json!({"QueueUrl": url, "Entries": [entry("a b")]}),
            "InvalidBatchEntryId",
            "AWS.SimpleQueueService.InvalidBatchEntryId",
        ),
        (
            "SendMessageBatch",
            json!({"QueueUrl": url, "Entries": [big, other]}),
            "BatchRequestTooLong",
            "AWS.SimpleQueueService.BatchRequestTooLong",
        ),
        (
            "ReceiveMessage",
            json!({"QueueUrl": url, "MaxNumberOfMessages": 11}),
            "InvalidParameterValueException",
            "InvalidParameterValue",
        ),
        (
            "ReceiveMessage",
            json!({"QueueUrl": url, "WaitTimeSeconds": -1}),
            "InvalidParameterValueException",
            "InvalidParameterValue",
        ),
        (
            "DeleteMessage",
            json!({"QueueUrl": url, "ReceiptHandle": "x"}),
            "ReceiptHandleIsInvalid",
            "ReceiptHandleIsInvalid",
        ),
        (
            "GetQueueAttributes",
            json!({"QueueUrl": url, "AttributeNames": ["Colour"]}),
            "InvalidAttributeName",
            "InvalidAttributeName",
        ),
        (
            "StartMessageMoveTask",
            json!({"SourceArn": "arn:aws:sqs:us-east-1:000000000000:none"}),
            "ResourceNotFoundException",
            "ResourceNotFoundException",
        ),
        ("AddPermission", json!({}), "UnknownOperationException", "InvalidAction"),
        ("SendMessage", json!([]), "SerializationException", "SerializationException"),
    ] {
        let answer = it.call(&format!("AmazonSQS.{operation}"), &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{operation}: {}", answer.body);
        assert_eq!(answer.body["__type"], format!("com.amazonaws.sqs#{shape}"), "{operation}");
        assert_eq!(answer.query_error, Some(format!("{code};Sender")), "{operation}");
        assert!(answer.body["message"].as_str().is_some_and(|text| !text.is_empty()));
    }
}

#[tokio::test]
async fn a_batch_reports_each_entry() {
    let it = Endpoint::new().await;
    let url = it.create("q.fifo", json!({"FifoQueue": "true"})).await;
    let entry = |id: &str, body: &str| json!({"Id": id, "MessageBody": body, "MessageGroupId": "g", "MessageDeduplicationId": id});
    let no_group = json!({"Id": "d", "MessageBody": "x", "MessageDeduplicationId": "d"});
    let entries = json!([entry("a", "1"), entry("b", ""), entry("c", "2"), no_group]);
    let sent = it.sqs("SendMessageBatch", &json!({"QueueUrl": url, "Entries": entries})).await;
    let ids = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|it| it["Id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&sent["Successful"]), ["a", "c"]);
    assert!(sent["Successful"][0]["SequenceNumber"].as_str() < sent["Successful"][1]["SequenceNumber"].as_str());
    assert_eq!(ids(&sent["Failed"]), ["b", "d"]);
    assert_eq!(sent["Failed"][0]["Code"], "MissingParameter");
    assert_eq!(sent["Failed"][0]["SenderFault"], true);

    let received = it.sqs("ReceiveMessage", &json!({"QueueUrl": url, "MaxNumberOfMessages": 10})).await;
    let handle = |n: usize| received["Messages"][n]["ReceiptHandle"].clone();
    let changes = json!([{"Id": "a", "ReceiptHandle": handle(0), "VisibilityTimeout": 60},
                         {"Id": "b", "ReceiptHandle": "x", "VisibilityTimeout": 60}]);
    let changed = it.sqs("ChangeMessageVisibilityBatch", &json!({"QueueUrl": url, "Entries": changes})).await;
    assert_eq!((ids(&changed["Successful"]), ids(&changed["Failed"])), (vec!["a".into()], vec!["b".into()]));
    let deletions = json!([{"Id": "a", "ReceiptHandle": handle(0)}, {"Id": "b", "ReceiptHandle": "x"},
                           {"Id": "c", "ReceiptHandle": handle(1)}]);
    let deleted = it.sqs("DeleteMessageBatch", &json!({"QueueUrl": url, "Entries": deletions})).await;
    assert_eq!(ids(&deleted["Successful"]), ["a", "c"]);
    assert_eq!(deleted["Failed"][0]["Code"], "ReceiptHandleIsInvalid");
}

#[tokio::test]
async fn queues_are_listed_in_pages_and_described() {
    let it = Endpoint::new().await;
    for name in ["b", "a", "c", "other"] {
        it.create(name, json!({})).await;
    }
    let first = it.sqs("ListQueues", &json!({"MaxResults": 2})).await;
    let second = it.sqs("ListQueues", &json!({"MaxResults": 2, "NextToken": first["NextToken"]})).await;
    let names = |page: &Value| -> Vec<String> {
        let urls = page["QueueUrls"].as_array().unwrap();
        urls.iter().map(|url| url.as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
    };
    assert_eq!((names(&first), names(&second)), (vec!["a".into(), "b".into()], vec!["c".into(), "other".into()]));
    assert!(second.get("NextToken").is_none());
    let prefixed = it.sqs("ListQueues", &json!({"QueueNamePrefix": "o"})).await;
    assert_eq!(names(&prefixed), ["other"]);

    let url = &prefixed["QueueUrls"][0];
    let arn = "arn:aws:sqs:us-east-1:000000000000:other";
    let policy = json!({"deadLetterTargetArn": arn, "maxReceiveCount": "5"}).to_string();
    let source = it.create("source", json!({"RedrivePolicy": policy})).await;
    it.sqs("SetQueueAttributes", &json!({"QueueUrl": source, "Attributes": {"VisibilityTimeout": "9"}})).await;
    let request = json!({"QueueUrl": source, "AttributeNames": ["VisibilityTimeout", "RedrivePolicy", "QueueArn"]});
    let described = it.sqs("GetQueueAttributes", &request).await;
    assert_eq!(
        described["Attributes"],
        json!({"VisibilityTimeout": "9", "QueueArn": "arn:aws:sqs:us-east-1:000000000000:source",
               "RedrivePolicy": json!({"deadLetterTargetArn": arn, "maxReceiveCount": 5}).to_string()})
    );
    let sources = it.sqs("ListDeadLetterSourceQueues", &json!({"QueueUrl": url})).await;
    assert_eq!(sources["queueUrls"], json!([source]));
    it.sqs("DeleteQueue", &json!({"QueueUrl": source})).await;
    assert_eq!(names(&it.sqs("ListQueues", &json!({"QueueNamePrefix": "source"})).await), [""; 0]);
}

#[tokio::test]
async fn move_tasks_are_reported_and_can_be_cancelled() {
    let it = Endpoint::new().await;
    let dead = it.create("dead", json!({})).await;
    let arn = |name: &str| format!("arn:aws:sqs:us-east-1:000000000000:{name}");
    let policy = json!({"deadLetterTargetArn": arn("dead"), "maxReceiveCount": 1}).to_string();
    it.create("source", json!({"RedrivePolicy": policy})).await;
    for n in 0..3 {
        it.sqs("SendMessage", &json!({"QueueUrl": dead, "MessageBody": n.to_string()})).await;
    }
    let not_dead = it.call("AmazonSQS.StartMessageMoveTask", &json!({"SourceArn": arn("source")})).await;
    assert_eq!(not_dead.query_error.as_deref(), Some("InvalidParameterValue;Sender"));

    // Sent to the dead-letter queue directly, they have nowhere to go back to.
    it.sqs("StartMessageMoveTask", &json!({"SourceArn": arn("dead")})).await;
    let list = json!({"SourceArn": arn("dead"), "MaxResults": 10});
    let failed = loop {
        let results = it.sqs("ListMessageMoveTasks", &list).await["Results"].clone();
        if results[0]["Status"] != "RUNNING" {
            break results;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(failed[0]["Status"], "FAILED");
    assert_eq!(failed[0]["FailureReason"], "CouldNotDetermineMessageSource");

    let slow = json!({"SourceArn": arn("dead"), "DestinationArn": arn("source"), "MaxNumberOfMessagesPerSecond": 1});
    let handle = it.sqs("StartMessageMoveTask", &slow).await["TaskHandle"].clone();
    let second = it.call("AmazonSQS.StartMessageMoveTask", &slow).await;
    assert_eq!(second.query_error.as_deref(), Some("AWS.SimpleQueueService.UnsupportedOperation;Sender"));
    let cancelled = it.sqs("CancelMessageMoveTask", &json!({"TaskHandle": handle})).await;
    assert!(cancelled["ApproximateNumberOfMessagesMoved"].as_i64().unwrap() < 3);
    let tasks = it.sqs("ListMessageMoveTasks", &list).await;
    assert_eq!(tasks["Results"][0]["Status"], "CANCELLED");
    assert_eq!(tasks["Results"][0]["ApproximateNumberOfMessagesToMove"], 3);
}

#[tokio::test]
async fn events_speak_the_protocol_of_eventbridge() {
    let it = Endpoint::new().await;
    let call = async |operation: &str, body: Value| it.call(&format!("AWSEvents.{operation}"), &body).await;
    let arn = call("CreateEventBus", json!({"Name": "own"})).await.body["EventBusArn"].clone();
    assert_eq!(call("CreateEventBus", json!({"Name": "own"})).await.body["__type"], "ResourceAlreadyExistsException");
    assert_eq!(call("DescribeEventBus", json!({"Name": arn})).await.body["Name"], "own");
    let pattern = json!({"source": ["app"]}).to_string();
    let rule = json!({"Name": "r", "EventBusName": "own", "EventPattern": pattern, "State": "DISABLED"});
    assert_eq!(call("PutRule", rule).await.body["RuleArn"], "arn:aws:events:us-east-1:000000000000:rule/own/r");
    let described = call("DescribeRule", json!({"Name": "r", "EventBusName": arn})).await.body;
    assert_eq!((&described["State"], &described["EventPattern"]), (&json!("DISABLED"), &json!(pattern)));
    let scheduled = call("PutRule", json!({"Name": "s", "ScheduleExpression": "rate(1 minute)"})).await;
    assert_eq!(scheduled.body["__type"], "ValidationException");
    assert!(scheduled.body["message"].as_str().unwrap().contains("rate(1 minute)"));
    let broken = call("PutRule", json!({"Name": "s", "EventPattern": "{\"a\":1}"})).await;
    assert_eq!(broken.body["__type"], "InvalidEventPatternException");

    let target = json!({"Id": "1", "Arn": "arn:aws:sqs:us-east-1:000000000000:q", "InputPath": "$.detail"});
    let put = json!({"Rule": "r", "EventBusName": "own", "Targets": [target]});
    assert_eq!(call("PutTargets", put).await.body["FailedEntryCount"], 0);
    let of_rule = json!({"Rule": "r", "EventBusName": "own"});
    assert_eq!(call("ListTargetsByRule", of_rule.clone()).await.body, json!({"Targets": [target]}));
    let kept = call("DeleteRule", json!({"Name": "r", "EventBusName": "own"})).await;
    assert_eq!((kept.status, &kept.body["__type"]), (StatusCode::BAD_REQUEST, &json!("ValidationException")));
    call("RemoveTargets", json!({"Rule": "r", "EventBusName": "own", "Ids": ["1"]})).await;
    assert_eq!(call("DeleteRule", json!({"Name": "r", "EventBusName": "own"})).await.body, json!({}));
    assert_eq!(call("ListRules", json!({"EventBusName": "own"})).await.body, json!({"Rules": []}));
    assert_eq!(call("ListTargetsByRule", of_rule).await.body["__type"], "ResourceNotFoundException");

    let entries = json!({"Entries": [
        {"Source": "app", "DetailType": "t", "Detail": "{}", "Time": 1_700_000_000.5, "Resources": ["arn:x"]},
        {"Source": "app", "DetailType": "t", "Detail": "not json"},
    ]});
    let answer = call("PutEvents", entries).await.body;
    assert_eq!(answer["FailedEntryCount"], 1);
    assert!(answer["Entries"][0]["EventId"].is_string());
    assert_eq!(answer["Entries"][1]["ErrorCode"], "MalformedDetail");
    let test = json!({"EventPattern": pattern, "Event": json!({"source": "app"}).to_string()});
    assert_eq!(call("TestEventPattern", test).await.body, json!({"Result": true}));
    let buses = call("ListEventBuses", json!({"Limit": 1})).await.body;
    assert_eq!((&buses["EventBuses"][0]["Name"], &buses["NextToken"]), (&json!("default"), &json!("default")));
}
