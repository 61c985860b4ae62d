//! What a queue promises: visibility, receipts, redrive, deduplication, limits, durability.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use local_queue::sqs::{Depth, MessageAttribute, Outgoing, QueueError, Received};
use proptest::prelude::*;
use tokio::sync::watch;

use crate::{Fixture, bodies, fifo, handles, map, text};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn redrive_to(fixture: &Fixture, dead_letters: &str, max: u32) -> String {
    format!(r#"{{"deadLetterTargetArn":"{}","maxReceiveCount":{max}}}"#, fixture.queues.arn(dead_letters))
}

#[tokio::test]
async fn a_message_keeps_its_body_and_attributes() {
    let it = Fixture::new();
    it.create("q", &[]);
    let megabyte = "字😀".repeat(1_048_576 / 7);
    for body in ["你好，世界 👋🏽", "{\"a\":1}", " ", "line\r\n\ttab", megabyte.as_str()] {
        let message = Outgoing {
            message_attributes: if body.len() < 100 {
                [("source".to_owned(), MessageAttribute::string("飞书"))].into()
            } else {
                // Nothing but the body fits.
                Default::default()
            },
            system_attributes: map(&[("AWSTraceHeader", "Root=1-5759e988-bd862e3fe1be46a994272793")]),
            ..text(body)
        };
        let sent = it.queues.send("q", vec![message.clone()]).await.unwrap();
        let [received] = <[Received; 1]>::try_from(it.receive("q", 1).await).unwrap();
        assert_eq!(received.body, body);
        assert_eq!(received.message_id, sent[0].message_id);
        assert_eq!(received.md5_of_body, sent[0].md5_of_body);
        assert_eq!(received.message_attributes, message.message_attributes);
        assert_eq!(received.attributes["AWSTraceHeader"], "Root=1-5759e988-bd862e3fe1be46a994272793");
        assert_eq!(received.attributes["ApproximateReceiveCount"], "1");
        it.queues.delete("q", &[received.receipt_handle]).await.unwrap();
    }
    assert_eq!(it.queues.depth("q").unwrap(), Depth::default());
}

#[tokio::test]
async fn messages_that_aws_refuses_are_refused() {
    let it = Fixture::new();
    it.create("q", &[("MaximumMessageSize", "1024")]);
    it.create("q.fifo", &[("FifoQueue", "true")]);
    let attribute = |name: &str, data_type: &str, value: &str| Outgoing {
        message_attributes: [(
            name.to_owned(),
            MessageAttribute { data_type: data_type.into(), ..MessageAttribute::string(value) },
        )]
        .into(),
        ..text("x")
    };
    for (queue, message, code) in [
        ("q", text(""), "MissingParameter"),
        ("q", text("a\u{0}b"), "InvalidMessageContents"),
        ("q", text("\u{FFFE}"), "InvalidMessageContents"),
        ("q", text(&"字".repeat(342)), "InvalidParameterValue"),
        ("q", Outgoing { delay: Some(901 * SECOND), ..text("x") }, "InvalidParameterValue"),
        ("q", Outgoing { deduplication_id: Some("d".into()), ..text("x") }, "InvalidParameterValue"),
        ("q", Outgoing { system_attributes: map(&[("Colour", "red")]), ..text("x") }, "InvalidParameterValue"),
        ("q", attribute("n", "Number", "many"), "InvalidParameterValue"),
        ("q", attribute("n", "Colour", "red"), "InvalidParameterValue"),
        ("q", attribute("n", "String", ""), "InvalidParameterValue"),
        ("q", attribute("aws.n", "String", "x"), "InvalidParameterValue"),
        ("q", attribute("", "String", "x"), "InvalidParameterValue"),
        ("q", attribute("n", "Binary", "x"), "InvalidParameterValue"),
        ("q.fifo", text("x"), "MissingParameter"),
        ("q.fifo", Outgoing { group_id: Some("g".into()), ..text("x") }, "InvalidParameterValue"),
        ("q.fifo", fifo("x", "g with space", "d"), "InvalidParameterValue"),
        ("q.fifo", Outgoing { delay: Some(SECOND), ..fifo("x", "g", "d") }, "InvalidParameterValue"),
        ("nothing", text("x"), "AWS.SimpleQueueService.NonExistentQueue"),
    ] {
        // A good message in front shows that nothing is stored when one is refused.
        let good = if queue == "q.fifo" { fifo("good", "g", "good") } else { text("good") };
        let error = it.queues.send(queue, vec![good, message.clone()]).await.expect_err(&format!("{message:?}"));
        assert_eq!(error.code(), code, "{message:?}: {error}");
    }
    assert_eq!(it.queues.depth("q").unwrap(), Depth::default());
    assert_eq!(it.queues.depth("q.fifo").unwrap(), Depth::default());
}

#[tokio::test]
async fn creating_a_queue_again_asks_for_the_same_attributes() {
    let it = Fixture::new();
    let create = |attributes: &[(&str, &str)]| it.queues.create("q", map(attributes));
    let url = create(&[("VisibilityTimeout", "7")]).unwrap();
    assert_eq!(url, "http://127.0.0.1:3000/123456789012/q");
    assert_eq!(create(&[]).unwrap(), url);
    assert_eq!(create(&[("VisibilityTimeout", "7"), ("DelaySeconds", "0")]).unwrap(), url);
    assert!(matches!(create(&[("VisibilityTimeout", "8")]), Err(QueueError::QueueNameExists { .. })));
    it.queues.set_attributes("q", map(&[("VisibilityTimeout", "8")])).unwrap();
    assert_eq!(create(&[("VisibilityTimeout", "8")]).unwrap(), url);
    let it = it.reopened();
    assert!(it.queues.exists("q") && !it.queues.exists("r"));
    assert!(it.queues.create("q", map(&[("VisibilityTimeout", "7")])).is_err());
}

#[tokio::test]
async fn a_received_message_is_hidden_until_its_visibility_timeout_ends() {
    let it = Fixture::new();
    it.create("q", &[("VisibilityTimeout", "10")]);
    it.send("q", &[text("x")]).await;
    let first = it.receive("q", 1).await;
    assert_eq!(it.queues.depth("q").unwrap(), Depth { in_flight: 1, ..Depth::default() });
    it.clock.advance(9 * SECOND);
    assert!(it.receive("q", 1).await.is_empty());
    it.queues.change_visibility("q", &[(first[0].receipt_handle.clone(), 10 * SECOND)]).await.unwrap();
    it.clock.advance(9 * SECOND);
    assert!(it.receive("q", 1).await.is_empty(), "the timeout counts from the change");
    it.clock.advance(SECOND);
    let second = it.receive("q", 1).await;
    assert_eq!(second[0].attributes["ApproximateReceiveCount"], "2");
    assert_eq!(
        second[0].attributes["ApproximateFirstReceiveTimestamp"],
        first[0].attributes["ApproximateFirstReceiveTimestamp"]
    );
    it.queues.change_visibility("q", &[(second[0].receipt_handle.clone(), Duration::ZERO)]).await.unwrap();
    assert_eq!(it.receive("q", 1).await.len(), 1);
}

#[tokio::test]
async fn visibility_cannot_be_stretched_past_twelve_hours_nor_set_on_a_visible_message() {
    let it = Fixture::new();
    it.create("q", &[]);
    it.send("q", &[text("x")]).await;
    let handle = handles(&it.receive("q", 1).await).remove(0);
    let change = async |seconds: u64| {
        let change = (handle.clone(), Duration::from_secs(seconds));
        it.queues.change_visibility("q", &[change]).await.map_err(|error| error.code())
    };
    assert!(it.queues.receive("q", 1, Duration::ZERO, Some(43_201 * SECOND)).await.is_err());
    assert_eq!(change(43_201).await, Err("InvalidParameterValue"));
    it.clock.advance(SECOND);
    assert_eq!(change(43_200).await, Err("InvalidParameterValue"));
    assert_eq!(change(43_199).await, Ok(()));
    assert_eq!(change(0).await, Ok(()));
    assert_eq!(change(10).await, Err("AWS.SimpleQueueService.MessageNotInflight"));
}

#[tokio::test]
async fn a_stale_receipt_deletes_nothing() {
    let it = Fixture::new();
    it.create("q", &[]);
    it.create("q.fifo", &[("FifoQueue", "true")]);
    it.send("q", &[text("x")]).await;
    it.send("q.fifo", &[fifo("x", "g", "d")]).await;
    for (queue, expected) in [("q", Ok(())), ("q.fifo", Err("InvalidParameterValue"))] {
        let stale = handles(&it.receive(queue, 1).await);
        it.clock.advance(31 * SECOND);
        if queue == "q.fifo" {
            let expired = it.queues.delete(queue, &stale).await.map_err(|error| error.code());
            assert_eq!(expired, Err("InvalidParameterValue"), "expired, though not received again");
        }
        let latest = handles(&it.receive(queue, 1).await);
        assert_eq!(it.queues.delete(queue, &stale).await.map_err(|error| error.code()), expected);
        assert_eq!(it.queues.depth(queue).unwrap().in_flight, 1, "{queue}");
        assert!(it.queues.change_visibility(queue, &[(stale[0].clone(), Duration::ZERO)]).await.is_err());
        assert_eq!(it.queues.depth(queue).unwrap().in_flight, 1, "{queue}");
        it.queues.delete(queue, &latest).await.unwrap();
        it.queues.delete(queue, &latest).await.unwrap();
        assert_eq!(it.queues.depth(queue).unwrap(), Depth::default());
    }
    let foreign = handles(&{
        it.send("q", &[text("y")]).await;
        it.receive("q", 1).await
    });
    for handle in ["", "nonsense", "MS8yLzM=", foreign[0].as_str()] {
        let error = it.queues.delete("q.fifo", &[handle.to_owned()]).await.unwrap_err();
        assert_eq!(error.code(), "ReceiptHandleIsInvalid", "{handle}");
    }
}

#[tokio::test]
async fn a_bad_receipt_does_not_keep_the_others_from_being_deleted() {
    let it = Fixture::new();
    it.create("q", &[]);
    it.send("q", &[text("a"), text("b")]).await;
    let mut receipts = handles(&it.receive("q", 2).await);
    receipts.insert(1, "nonsense".into());
    assert!(it.queues.delete("q", &receipts).await.is_err());
    assert_eq!(it.queues.depth("q").unwrap(), Depth::default());
}

#[tokio::test]
async fn delays_hide_new_messages() {
    let it = Fixture::new();
    it.create("q", &[("DelaySeconds", "5")]);
    it.send("q", &[text("queue"), Outgoing { delay: Some(2 * SECOND), ..text("own") }]).await;
    it.send("q", &[Outgoing { delay: Some(Duration::ZERO), ..text("none") }]).await;
    assert_eq!(it.queues.depth("q").unwrap(), Depth { visible: 1, in_flight: 0, delayed: 2 });
    assert_eq!(bodies(&it.receive("q", 10).await), ["none"]);
    it.clock.advance(2 * SECOND);
    assert_eq!(bodies(&it.receive("q", 10).await), ["own"]);
    it.clock.advance(3 * SECOND);
    assert_eq!(bodies(&it.receive("q", 10).await), ["queue"]);
}

#[tokio::test]
async fn a_group_is_blocked_while_one_of_its_messages_is_in_flight() {
    let it = Fixture::new();
    it.create("q.fifo", &[("FifoQueue", "true"), ("DelaySeconds", "1")]);
    it.send("q.fifo", &[fifo("a1", "a", "1"), fifo("b1", "b", "2"), fifo("a2", "a", "3"), fifo("b2", "b", "4")]).await;
    assert!(it.receive("q.fifo", 10).await.is_empty(), "the queue's delay holds for FIFO too");
    it.clock.advance(SECOND);
    let first = it.receive("q.fifo", 1).await;
    assert_eq!(bodies(&first), ["a1"]);
    let others = it.receive("q.fifo", 10).await;
    assert_eq!(bodies(&others), ["b1", "b2"]);
    assert!(first[0].attributes["SequenceNumber"] < others[0].attributes["SequenceNumber"]);
    assert_eq!(first[0].attributes["SequenceNumber"].len(), 20);
    // Deleted out of order: b1 still blocks its group.
    it.queues.delete("q.fifo", &handles(&others[1..])).await.unwrap();
    it.send("q.fifo", &[fifo("b3", "b", "5")]).await;
    it.clock.advance(SECOND);
    assert!(it.receive("q.fifo", 10).await.is_empty());
    it.queues.delete("q.fifo", &handles(&first)).await.unwrap();
    assert_eq!(bodies(&it.receive("q.fifo", 10).await), ["a2"]);
    it.queues.change_visibility("q.fifo", &[(others[0].receipt_handle.clone(), Duration::ZERO)]).await.unwrap();
    assert_eq!(bodies(&it.receive("q.fifo", 10).await), ["b1", "b3"]);
}

#[tokio::test]
async fn a_delayed_message_is_not_overtaken_by_its_group() {
    let it = Fixture::new();
    it.create("q.fifo", &[("FifoQueue", "true"), ("DelaySeconds", "5")]);
    it.send("q.fifo", &[fifo("first", "g", "1")]).await;
    it.queues.set_attributes("q.fifo", map(&[("DelaySeconds", "0")])).unwrap();
    it.send("q.fifo", &[fifo("second", "g", "2"), fifo("other", "h", "3")]).await;
    assert_eq!(bodies(&it.receive("q.fifo", 10).await), ["other"]);
    it.clock.advance(5 * SECOND);
    assert_eq!(bodies(&it.receive("q.fifo", 10).await), ["first", "second"]);
}

#[tokio::test]
async fn duplicates_are_dropped_for_five_minutes_even_after_the_original_is_gone() {
    let it = Fixture::new();
    it.create("q.fifo", &[("FifoQueue", "true")]);
    let original = it.queues.send("q.fifo", vec![fifo("x", "a", "same")]).await.unwrap();
    it.queues.delete("q.fifo", &handles(&it.receive("q.fifo", 1).await)).await.unwrap();
    it.clock.advance(4 * MINUTE);
    let it = it.reopened();
    let again = it.queues.send("q.fifo", vec![fifo("x", "b", "same")]).await.unwrap();
    assert_eq!(again, original);
    assert!(it.receive("q.fifo", 1).await.is_empty());
    it.clock.advance(MINUTE);
    let anew = it.queues.send("q.fifo", vec![fifo("x", "a", "same")]).await.unwrap();
    assert_ne!(anew[0].message_id, original[0].message_id);
    assert!(anew[0].sequence_number > original[0].sequence_number);
    assert_eq!(it.receive("q.fifo", 1).await.len(), 1);
}

#[tokio::test]
async fn deduplication_is_by_content_or_within_the_group_if_the_queue_says_so() {
    let it = Fixture::new();
    it.create("content.fifo", &[("FifoQueue", "true"), ("ContentBasedDeduplication", "true")]);
    it.create("groups.fifo", &[("FifoQueue", "true"), ("DeduplicationScope", "messageGroup")]);
    let by_content = |body: &str| Outgoing { deduplication_id: None, ..fifo(body, "g", "-") };
    it.send("content.fifo", &[by_content("消息"), by_content("消息"), by_content("else"), fifo("消息", "g", "own")])
        .await;
    assert_eq!(bodies(&it.receive("content.fifo", 10).await), ["消息", "else", "消息"]);
    it.send("groups.fifo", &[fifo("1", "a", "d"), fifo("2", "b", "d"), fifo("3", "a", "d")]).await;
    assert_eq!(bodies(&it.receive("groups.fifo", 10).await), ["1", "2"]);
}

#[tokio::test]
async fn a_poison_message_goes_to_the_dead_letter_queue_under_its_own_id() {
    for (suffix, attributes) in [("", &[][..]), (".fifo", &[("FifoQueue", "true")][..])] {
        let it = Fixture::new();
        let (queue, dead) = (format!("q{suffix}"), format!("dead{suffix}"));
        it.create(&dead, attributes);
        let policy = redrive_to(&it, &dead, 2);
        it.create(&queue, &[attributes, &[("RedrivePolicy", policy.as_str())]].concat());
        let message = |body: &str| if suffix.is_empty() { text(body) } else { fifo(body, "g", body) };
        let ids = it.send(&queue, &[message("poison"), message("next")]).await;
        for _ in 0..2 {
            assert_eq!(bodies(&it.receive(&queue, 1).await), ["poison"]);
            if suffix.is_empty() {
                it.queues.delete(&queue, &handles(&it.receive(&queue, 1).await)).await.unwrap();
            }
            it.clock.advance(MINUTE);
        }
        let left = it.receive(&queue, 1).await;
        assert_eq!(bodies(&left), if suffix.is_empty() { vec![] } else { vec!["next"] });
        let [letter] = <[Received; 1]>::try_from(it.receive(&dead, 10).await).unwrap();
        assert_eq!(letter.message_id, ids[0]);
        assert_eq!(letter.attributes["DeadLetterQueueSourceArn"], it.queues.arn(&queue));
        assert_eq!(letter.attributes.get("MessageGroupId").map(String::as_str), (!suffix.is_empty()).then_some("g"));
    }
}

#[tokio::test]
async fn a_redrive_policy_must_name_a_fitting_queue() {
    let it = Fixture::new();
    it.create("dead", &[("RedriveAllowPolicy", r#"{"redrivePermission":"denyAll"}"#)]);
    it.create("dead.fifo", &[("FifoQueue", "true")]);
    for dead in ["nothing", "dead.fifo", "dead"] {
        let policy = redrive_to(&it, dead, 3);
        let error = it.queues.create("q", map(&[("RedrivePolicy", &policy)])).unwrap_err();
        assert_eq!(error.code(), "InvalidParameterValue", "{dead}: {error}");
    }
    assert!(!it.queues.exists("q"));
}

#[tokio::test]
async fn dead_letters_move_back_in_the_background_as_new_messages() {
    let it = Fixture::new();
    it.create("dead", &[]);
    for queue in ["one", "two"] {
        it.create(queue, &[("RedrivePolicy", redrive_to(&it, "dead", 1).as_str())]);
        it.send(queue, &(0..150).map(|n| text(&format!("{queue}{n}"))).collect::<Vec<_>>()).await;
        assert_eq!(it.receive(queue, 150).await.len(), 150);
    }
    it.clock.advance(MINUTE);
    for queue in ["one", "two"] {
        assert!(it.receive(queue, 1).await.is_empty());
    }
    assert_eq!(it.queues.depth("dead").unwrap().visible, 300);
    it.queues.start_move(&it.queues.arn("dead"), None, None).await.unwrap();
    for queue in ["one", "two"] {
        let mut back = BTreeSet::new();
        while back.len() < 150 {
            let messages = it.queues.receive(queue, 200, 10 * SECOND, None).await.unwrap();
            assert!(!messages.is_empty(), "only {} of 150 came back to {queue}", back.len());
            assert!(messages.iter().all(|message| message.attributes["ApproximateReceiveCount"] == "1"));
            back.extend(messages.into_iter().map(|message| message.body));
        }
        assert!(back.iter().all(|body| body.starts_with(queue)));
    }
    assert_eq!(it.queues.depth("dead").unwrap(), Depth::default());
}

#[tokio::test]
async fn messages_past_the_retention_period_are_gone_and_block_nobody() {
    let it = Fixture::new();
    it.create("q.fifo", &[("FifoQueue", "true"), ("MessageRetentionPeriod", "60"), ("VisibilityTimeout", "600")]);
    it.send("q.fifo", &[fifo("old", "g", "1")]).await;
    assert_eq!(it.receive("q.fifo", 1).await.len(), 1);
    it.clock.advance(59 * SECOND);
    it.send("q.fifo", &[fifo("young", "g", "2")]).await;
    assert!(it.receive("q.fifo", 1).await.is_empty());
    it.clock.advance(SECOND);
    assert_eq!(it.queues.depth("q.fifo").unwrap(), Depth { visible: 1, ..Depth::default() });
    assert_eq!(bodies(&it.queues.peek("q.fifo", 10).await.unwrap()), ["young"]);
    assert_eq!(bodies(&it.receive("q.fifo", 1).await), ["young"]);
}

#[tokio::test]
async fn peeking_changes_nothing_and_purging_removes_all() {
    let it = Fixture::new();
    it.create("q", &[]);
    it.send("q", &[text("a"), Outgoing { delay: Some(MINUTE), ..text("b") }]).await;
    let in_flight = it.receive("q", 1).await;
    let peeked = it.queues.peek("q", 10).await.unwrap();
    assert_eq!(bodies(&peeked), ["a", "b"]);
    assert_eq!(peeked[0].attributes["ApproximateReceiveCount"], "1");
    assert_eq!(it.queues.depth("q").unwrap(), Depth { visible: 0, in_flight: 1, delayed: 1 });
    it.queues.purge("q").await.unwrap();
    assert_eq!(it.queues.depth("q").unwrap(), Depth::default());
    it.queues.delete("q", &handles(&in_flight)).await.unwrap();
}

#[tokio::test]
async fn reopening_keeps_what_was_in_flight_in_flight() {
    let it = Fixture::new();
    it.create("q.fifo", &[("FifoQueue", "true"), ("VisibilityTimeout", "30")]);
    it.send("q.fifo", &[fifo("1", "g", "1"), fifo("2", "g", "2")]).await;
    let first = it.receive("q.fifo", 1).await;
    let it = it.reopened();
    assert!(it.receive("q.fifo", 1).await.is_empty());
    it.queues.delete("q.fifo", &handles(&first)).await.unwrap();
    assert_eq!(bodies(&it.receive("q.fifo", 1).await), ["2"]);
    let it = it.reopened();
    it.clock.advance(30 * SECOND);
    assert_eq!(it.receive("q.fifo", 1).await[0].attributes["ApproximateReceiveCount"], "2");
}

#[tokio::test]
async fn a_long_poll_is_woken_by_whatever_makes_a_message_receivable() {
    let it = Fixture::new();
    it.create("dead.fifo", &[("FifoQueue", "true")]);
    it.create("q.fifo", &[("FifoQueue", "true"), ("RedrivePolicy", redrive_to(&it, "dead.fifo", 1).as_str())]);
    let poll = |queue: &'static str| {
        let queues = it.queues.clone();
        tokio::spawn(async move { queues.receive(queue, 1, MINUTE, None).await })
    };
    let wait = async |poll: tokio::task::JoinHandle<Result<Vec<Received>, QueueError>>| {
        tokio::time::timeout(20 * SECOND, poll).await.expect("the poll was not woken").unwrap()
    };
    let (sent, ()) = (poll("q.fifo"), tokio::task::yield_now().await);
    it.send("q.fifo", &[fifo("1", "g", "1"), fifo("2", "g", "2"), fifo("3", "g", "3")]).await;
    let first = wait(sent).await.unwrap();
    assert_eq!(bodies(&first), ["1"]);

    let (deleted, ()) = (poll("q.fifo"), tokio::task::yield_now().await);
    it.queues.delete("q.fifo", &handles(&first)).await.unwrap();
    let second = wait(deleted).await.unwrap();
    assert_eq!(bodies(&second), ["2"]);

    let (dead, returned) = (poll("dead.fifo"), poll("q.fifo"));
    tokio::task::yield_now().await;
    it.queues.change_visibility("q.fifo", &[(second[0].receipt_handle.clone(), Duration::ZERO)]).await.unwrap();
    assert_eq!(bodies(&wait(dead).await.unwrap()), ["2"]);
    assert_eq!(bodies(&wait(returned).await.unwrap()), ["3"]);

    let (removed, ()) = (poll("q.fifo"), tokio::task::yield_now().await);
    it.queues.remove("q.fifo").unwrap();
    assert!(matches!(wait(removed).await, Err(QueueError::QueueDoesNotExist(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_receivers_lose_no_message_and_get_none_twice() {
    let it = Fixture::new();
    it.create("q", &[]);
    let (count, all_received) = (Arc::<AtomicUsize>::default(), watch::Sender::new(false));
    let receivers: Vec<_> = (0..20)
        .map(|_| {
            let (queues, count, all_received) = (it.queues.clone(), Arc::clone(&count), all_received.clone());
            tokio::spawn(async move {
                let (mut got, mut done) = (Vec::new(), all_received.subscribe());
                loop {
                    let messages = tokio::select! {
                        messages = queues.receive("q", 10, MINUTE, None) => messages.unwrap(),
                        _ = done.wait_for(|done| *done) => return got,
                    };
                    queues.delete("q", &handles(&messages)).await.unwrap();
                    let before = count.fetch_add(messages.len(), Ordering::SeqCst);
                    all_received.send_replace(before + messages.len() >= 800);
                    got.extend(messages.into_iter().map(|message| message.body));
                }
            })
        })
        .collect();
    let senders: Vec<_> = (0..8)
        .map(|sender| {
            let queues = it.queues.clone();
            tokio::spawn(async move {
                for n in 0..100 {
                    queues.send("q", vec![text(&format!("{sender}-{n}"))]).await.unwrap();
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    let mut got = Vec::new();
    for receiver in receivers {
        got.extend(tokio::time::timeout(20 * SECOND, receiver).await.expect("a message is lost").unwrap());
    }
    let distinct: BTreeSet<_> = got.iter().collect();
    assert_eq!((got.len(), distinct.len()), (800, 800));
    assert_eq!(it.queues.depth("q").unwrap(), Depth::default());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_receipt_handle_makes_a_queue_stumble(handle in ".{0,40}") {
        let it = Fixture::new();
        it.create("q", &[]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(it.queues.delete("q", &[handle])).unwrap_err();
        prop_assert_eq!(error.code(), "ReceiptHandleIsInvalid");
    }
}
