//! `skylark dlq` against bundles whose functions fail: what failed is listed and shown with its reason, put back in its order, and a
//! command that is killed in the middle loses nothing.
#![expect(clippy::unwrap_used, reason = "what does not run ends the test")]

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use domain::id::{AppId, EventId};
use domain::inbox::{Entry, EntryKind};
use lambda_kit::clock;
use serde_json::{Value, json};
use skylark_tests::bundle::{Bundle, binaries, drill, sqs, until, workspace};

/// The JSON that a command prints.
fn run(bundle: &Bundle, arguments: &[&str]) -> Value {
    let (code, out, err) = bundle.skylark(&[&["dlq"], arguments, &["--json"]].concat());
    assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    serde_json::from_str(&out).unwrap()
}

/// How many messages a place holds.
fn held(bundle: &Bundle, name: &str) -> u64 {
    let all = run(bundle, &["list"]);
    let one = all.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap_or(&Value::Null);
    one["messages"].as_u64().unwrap()
}

async fn holds(bundle: &Bundle, name: &str, count: u64) {
    until(&format!("{count} in {name}"), || async { (held(bundle, name) == count).then_some(()) }).await;
}

#[tokio::test]
async fn dead_letters_go_back_in_their_order_though_the_command_is_killed_in_the_middle() {
    let template = workspace().join("tests/fixtures/faults/template.yaml");
    let bundle = Bundle::start_template(tempfile::tempdir().unwrap(), &template, &drill());
    let (sqs, folder) = (sqs(&bundle), tempfile::tempdir().unwrap());
    let body = |line: &str| format!("mended:{}|{line}", folder.path().display());
    for n in 1..=15 {
        for group in ["a", "b"] {
            let line = format!("{group}{n:02}");
            let send = sqs.send_message().queue_url(bundle.setting("/queues/OrderedQueue")).message_group_id(group);
            send.message_deduplication_id(&line).message_body(body(&line)).send().await.unwrap();
        }
    }
    holds(&bundle, "OrderedDeadLetters", 30).await;
    let all = run(&bundle, &["list"]);
    let told = |name: &str| all.as_array().unwrap().iter().find(|one| one["name"] == name).cloned().unwrap();
    assert_eq!(told("OrderedDeadLetters")["sources"], json!(["OrderedQueue"]));
    assert_eq!((&told("DeadLetters")["messages"], &told("DeadLetters")["kind"]), (&json!(0), &json!("dead_letters")));

    let shown = run(&bundle, &["show", "OrderedDeadLetters", "--limit", "4"]);
    assert_eq!(shown.as_array().unwrap().len(), 4);
    assert!(shown[0]["payload"].as_str().unwrap().starts_with("mended:") && shown[0]["group"].is_string(), "{shown}");
    let (code, out, _) = bundle.skylark(&["dlq", "show", "ordereddeadletters"]);
    assert!(code == 0 && out.contains("a01") && out.contains("b01") && out.contains("failed on it"), "{out}");

    // Nobody said yes.
    let (code, _, err) = bundle.skylark(&["dlq", "redrive", "OrderedDeadLetters"]);
    assert!(code == 1 && err.contains("--force"), "{err}");
    assert_eq!(held(&bundle, "OrderedDeadLetters"), 30);
    let (code, _, err) = bundle.skylark(&["dlq", "show", "WorkQueue"]);
    assert!(code == 1 && err.contains("`OrderedDeadLetters`"), "{err}");

    fs::write(folder.path().join("mended"), "").unwrap();
    let mut killed = Command::new(binaries().join("skylark"));
    killed.args(["dlq", "redrive", "OrderedDeadLetters", "--force", "--data"]).arg(bundle.folder());
    let mut killed = killed.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the first message to be back", || async { folder.path().join("done").exists().then_some(()) }).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    // SQS goes on by itself; a second command finds what is left, or nothing.
    let _ = bundle.skylark(&["dlq", "redrive", "OrderedDeadLetters", "--force"]);
    let done = || fs::read_to_string(folder.path().join("done")).unwrap();
    until("all to be done", || async { (done().lines().count() >= 30).then_some(()) }).await;
    for group in ["a", "b"] {
        let done = done();
        let lines: Vec<&str> = done.lines().filter(|line| line.starts_with(group)).collect();
        let expected: Vec<String> = (1..=15).map(|n| format!("{group}{n:02}")).collect();
        assert_eq!(lines, expected, "in order, each once");
    }
    holds(&bundle, "OrderedDeadLetters", 0).await;
}

#[tokio::test]
async fn one_dead_letter_is_put_back_and_another_one_is_forgotten() {
    let template = workspace().join("tests/fixtures/faults/template.yaml");
    let bundle = Bundle::start_template(tempfile::tempdir().unwrap(), &template, &drill());
    let (sqs, folder) = (sqs(&bundle), tempfile::tempdir().unwrap());
    for line in ["再试 🔁", "forget", "stay"] {
        let body = format!("mended:{}|{line}", folder.path().display());
        sqs.send_message().queue_url(bundle.setting("/queues/WorkQueue")).message_body(body).send().await.unwrap();
    }
    holds(&bundle, "DeadLetters", 3).await;
    let shown = run(&bundle, &["show", "DeadLetters"]);
    let id = |line: &str| {
        let found = shown.as_array().unwrap().iter().find(|one| one["payload"].as_str().unwrap().ends_with(line));
        found.unwrap()["id"].as_str().unwrap().to_owned()
    };
    fs::write(folder.path().join("mended"), "").unwrap();
    let redriven = run(&bundle, &["redrive", "DeadLetters", "--message", &id("再试 🔁"), "--force"]);
    assert_eq!(redriven, json!({ "name": "DeadLetters", "redriven": 1 }));
    let dropped = run(&bundle, &["drop", "DeadLetters", "--message", &id("forget"), "--force"]);
    assert_eq!(dropped["dropped"], 1);
    until("the message to be done", || async {
        (fs::read_to_string(folder.path().join("done")).ok()? == "再试 🔁\n").then_some(())
    })
    .await;
    assert_eq!(run(&bundle, &["show"])[0]["id"], id("stay").as_str(), "and was never hidden from anybody");
    let (code, _, err) = bundle.skylark(&["dlq", "drop", "DeadLetters", "--message", "nobody", "--force"]);
    assert!(code == 1 && err.contains("`nobody`"), "{err}");
    assert_eq!(run(&bundle, &["drop", "DeadLetters", "--force"])["dropped"], 1);
    assert_eq!(held(&bundle, "DeadLetters"), 0);
}

/// A record of the table's stream, as Lambda keeps it when it gives up.
fn evidence(bundle: &Bundle, event_id: &str) -> Value {
    let entry = Entry {
        app_id: AppId::parse(bundle.setting("/lark/app_id")).unwrap(),
        event_id: EventId::parse(event_id).unwrap(),
        kind: EntryKind::Event,
        group: "oc_1".to_owned(),
        payload: "{}".to_owned(),
        received_at: clock::now(),
    };
    let mut image: serde_json::Map<String, Value> = json!(entry)
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.clone(), json!({ "S": value.as_str().unwrap() })))
        .collect();
    image.insert("entity".to_owned(), json!({ "S": "inbox" }));
    let record = json!({
        "eventID": "1", "eventName": "INSERT", "eventVersion": "1.1", "eventSource": "aws:dynamodb", "awsRegion": "us-east-1",
        "dynamodb": {
            "ApproximateCreationDateTime": 1_773_119_783, "Keys": { "pk": { "S": "INBOX#x" }, "sk": { "S": "INBOX" } },
            "NewImage": image, "SequenceNumber": "4421584500000000017450439091", "SizeBytes": 200,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
        "eventSourceARN": "arn:aws:dynamodb:us-east-1:123456789012:table/lark/stream/2026-01-01T00:00:00.000",
    });
    let arn =
        format!("arn:aws:lambda:us-east-1:123456789012:function:{}", bundle.setting("/functions/OutboxRelayFunction"));
    json!({
        "requestContext": { "functionArn": arn, "condition": "RetryAttemptsExhausted", "approximateInvokeCount": 6 },
        "timestamp": "2026-01-02T03:04:05.678Z", "DDBStreamBatchInfo": { "shardId": "s1" },
        "payload": json!({ "Records": [record] }).to_string(),
    })
}

#[tokio::test]
async fn what_was_parked_says_why_and_goes_back_to_its_queue_or_function() {
    let bundle = Bundle::start();
    let sqs = sqs(&bundle);
    let nonsense = sqs.send_message().queue_url(bundle.setting("/queues/LarkWorkQueue")).message_body("胡说 🤪");
    nonsense.message_group_id("g").message_deduplication_id("1").send().await.unwrap();
    holds(&bundle, "ParkedQueue", 1).await;
    let parked = &run(&bundle, &["show", "ParkedQueue"])[0];
    let source = parked["payload"]["source"].as_str().unwrap();
    assert!(parked["reason"].as_str().unwrap().contains("not a doorbell"), "{parked}");
    assert!(source.starts_with("arn:aws:sqs:") && source.ends_with(".fifo"), "{parked}");
    assert_eq!((&parked["payload"]["body"], &parked["payload"]["group"]), (&json!("胡说 🤪"), &json!("g")));
    assert_eq!(parked["function"], bundle.setting("/functions/LarkWorkFunction"));

    // It is as wrong as before, and comes back as a message of its own.
    let first = parked["id"].as_str().unwrap();
    assert_eq!(run(&bundle, &["redrive", "ParkedQueue", "--message", first, "--force"])["redriven"], 1);
    until("it to be parked again", || async {
        let shown = run(&bundle, &["show", "ParkedQueue"]);
        (shown.as_array().unwrap().len() == 1 && shown[0]["id"] != first).then_some(())
    })
    .await;
    assert_eq!(run(&bundle, &["drop", "ParkedQueue", "--force"])["dropped"], 1);

    let s3 = aws_sdk_s3::config::Builder::from(&skylark_tests::bundle::aws(&bundle)).force_path_style(true).build();
    let s3 = aws_sdk_s3::Client::from_conf(s3);
    for (key, event_id) in [("aws/lambda/m/s/2026:1", "kept-1"), ("aws/lambda/m/s/2", "kept-2")] {
        let body = evidence(&bundle, event_id).to_string().into_bytes();
        s3.put_object()
            .bucket(bundle.setting("/buckets/EvidenceBucket"))
            .key(key)
            .body(body.into())
            .send()
            .await
            .unwrap();
    }
    holds(&bundle, "ParkedQueue", 2).await;
    assert_eq!(held(&bundle, "EvidenceBucket"), 2);
    let shown = run(&bundle, &["show", "ParkedQueue"]);
    let told: BTreeSet<&str> = shown
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.pointer("/payload/Records/0/dynamodb/NewImage/event_id/S").unwrap().as_str().unwrap())
        .collect();
    assert_eq!(told, ["kept-1", "kept-2"].into());
    assert!(shown[0]["reason"].as_str().unwrap().contains("RetryAttemptsExhausted after 6 calls"), "{shown}");

    assert_eq!(run(&bundle, &["redrive", "ParkedQueue", "--force"])["redriven"], 2);
    assert_eq!((held(&bundle, "ParkedQueue"), held(&bundle, "EvidenceBucket")), (0, 0));
    let log = fs::read_to_string(bundle.folder().join("logs/skylark-OutboxRelayFunction.log")).unwrap();
    assert!(!log.contains("parked"), "{log}");
}
