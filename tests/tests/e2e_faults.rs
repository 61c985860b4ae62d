//! Functions that panic, hang and exit: the caller and the queue see what AWS would show, and others go on.

use reqwest::Client;
use serde_json::{Value, json};
use skylark_tests::bundle::{Bundle, drill, until, workspace};

#[tokio::test]
async fn a_function_that_misbehaves_harms_only_its_own_invocation() {
    let template = workspace().join("tests/fixtures/faults/template.yaml");
    let bundle = Bundle::start_template(tempfile::tempdir().unwrap(), &template, &drill());
    let (http, base) = (Client::new(), bundle.setting("/http"));
    let get = |what: &'static str| {
        let request = http.get(format!("{base}/{what}"));
        async move {
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        }
    };

    let fine = (200, "fine".to_owned());
    let failed = (500, json!({ "message": "Internal Server Error" }).to_string());
    assert_eq!(get("ok").await, fine);
    for what in ["panic", "exit", "fail"] {
        let (status, body) = get(what).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, body.to_string()), failed, "{what}");
        assert_eq!(get("ok").await, fine, "after {what}");
    }
    // One hangs past its time-out; another one is answered meanwhile.
    let (hung, answered) = tokio::join!(get("hang"), get("ok"));
    assert_eq!((hung.0, answered), (500, fine.clone()));
    assert_eq!(get("ok").await, fine);
    let log = std::fs::read_to_string(bundle.folder().join("logs/skylark-DrillFunction.log")).unwrap();
    assert!(log.contains("Task timed out after 1.00 seconds") && log.contains("told to"), "{log}");
}

#[tokio::test]
async fn a_message_that_kills_its_function_ends_in_the_dead_letter_queue_and_the_others_are_done() {
    let template = workspace().join("tests/fixtures/faults/template.yaml");
    let bundle = Bundle::start_template(tempfile::tempdir().unwrap(), &template, &drill());
    let (queue, dead) = (bundle.setting("/queues/WorkQueue"), bundle.setting("/queues/DeadLetters"));
    let sqs = skylark_tests::bundle::sqs(&bundle);
    for body in ["one", "panic", "two", "exit", "three", "hang", "four"] {
        sqs.send_message().queue_url(queue).message_body(body).send().await.unwrap();
    }
    let letters = std::sync::Mutex::new(Vec::new());
    until("three dead letters", || async {
        let batch = sqs
            .receive_message()
            .queue_url(dead)
            .max_number_of_messages(10)
            .visibility_timeout(600)
            .send()
            .await
            .ok()?;
        let mut letters = letters.lock().unwrap();
        letters.extend(batch.messages().iter().map(|message| message.body().unwrap().to_owned()));
        (letters.len() >= 3).then_some(())
    })
    .await;
    let mut letters = letters.into_inner().unwrap();
    letters.sort();
    assert_eq!(letters, ["exit", "hang", "panic"]);
    until("an empty queue", || async {
        use aws_sdk_sqs::types::QueueAttributeName as Name;
        let asked = sqs.get_queue_attributes().queue_url(queue).attribute_names(Name::All).send().await.ok()?;
        let attributes = asked.attributes()?;
        let waiting = [Name::ApproximateNumberOfMessages, Name::ApproximateNumberOfMessagesNotVisible];
        waiting.iter().all(|name| attributes.get(name).is_some_and(|count| count == "0")).then_some(())
    })
    .await;
}
