//! Puts failures back, or forgets them. A message is deleted only after it is where it belongs.

use std::collections::HashSet;
use std::time::Duration;

use aws_sdk_sqs::types::Message;
use serde_json::Value;

use super::boxes::{Boxes, Kind, LetterBox, keys, lost};
use super::letter::{Back, Letter};
use crate::fault::CliFault;

/// How often SQS is asked how far it is.
const GLANCE: Duration = Duration::from_millis(200);

/// Puts back the messages with these ids, or all; how many they were.
pub(super) async fn run(boxes: &Boxes, chosen: &LetterBox, ids: &[String]) -> Result<u64, CliFault> {
    match chosen.kind {
        Kind::DeadLetters if ids.is_empty() => move_all(boxes, chosen).await,
        Kind::Evidence => {
            let mut redriven = 0;
            for key in wanted(keys(&boxes.s3, &chosen.place, usize::MAX).await?, ids)? {
                let letter = Letter::of_object(&chosen.place, &key, &boxes.object(&chosen.place, &key).await?);
                put_back(boxes, chosen, &letter, None).await?;
                boxes.delete_object(&chosen.place, &key).await?;
                redriven += 1;
            }
            Ok(redriven)
        }
        Kind::DeadLetters | Kind::Parked => {
            each(boxes, chosen, ids, async |message: &Message| {
                let letter = boxes.letter(message).await?;
                put_back(boxes, chosen, &letter, message.body.as_deref()).await?;
                forget_evidence(boxes, message).await
            })
            .await
        }
    }
}

/// Forgets the messages with these ids, or all; how many they were.
pub(super) async fn drop(boxes: &Boxes, chosen: &LetterBox, ids: &[String]) -> Result<u64, CliFault> {
    if chosen.kind == Kind::Evidence {
        let keys = wanted(keys(&boxes.s3, &chosen.place, usize::MAX).await?, ids)?;
        for key in &keys {
            boxes.delete_object(&chosen.place, key).await?;
        }
        return Ok(keys.len() as u64);
    }
    each(boxes, chosen, ids, async |message: &Message| forget_evidence(boxes, message).await).await
}

fn wanted(keys: Vec<String>, ids: &[String]) -> Result<Vec<String>, CliFault> {
    if ids.is_empty() {
        return Ok(keys);
    }
    let missing = ids.iter().find(|id| !keys.contains(id));
    missing.map_or_else(|| Ok(ids.to_vec()), |id| Err(CliFault::Argument(format!("there is no message `{id}`"))))
}

/// The object that a message announced is nothing to anybody once the message is gone.
async fn forget_evidence(boxes: &Boxes, message: &Message) -> Result<(), CliFault> {
    match Letter::of_message(message).announces() {
        Some((bucket, key)) => boxes.delete_object(bucket, key).await,
        None => Ok(()),
    }
}

/// Does something about each message, and then deletes it. What failed is shown to others again, and is the error once the rest is done.
async fn each(
    boxes: &Boxes,
    chosen: &LetterBox,
    ids: &[String],
    act: impl AsyncFn(&Message) -> Result<(), CliFault>,
) -> Result<u64, CliFault> {
    let (mut done, mut passed, mut failures) = (0, Vec::new(), Vec::new());
    let mut missing: HashSet<&str> = ids.iter().map(String::as_str).collect();
    let mut seen = HashSet::new();
    while ids.is_empty() || !missing.is_empty() {
        let messages = boxes.receive(chosen, 10).await?;
        // Once they come again, that was all of them.
        let again = messages.iter().all(|message| seen.contains(&message.message_id));
        for message in messages {
            let handle = message.receipt_handle.clone().unwrap_or_default();
            let id = message.message_id.as_deref().unwrap_or_default();
            let known = !seen.insert(message.message_id.clone());
            if known || (!ids.is_empty() && !missing.remove(id)) {
                passed.push(handle);
                continue;
            }
            match act(&message).await {
                Ok(()) => {
                    boxes.delete(chosen, &handle).await?;
                    done += 1;
                }
                Err(fault) => {
                    failures.push(format!("`{id}`: {}", domain::fault::chain(&fault)));
                    passed.push(handle);
                }
            }
        }
        if again {
            break;
        }
    }
    for handle in passed {
        boxes.release(chosen, &handle).await?;
    }
    if !failures.is_empty() {
        return Err(CliFault::Failed(format!("{done} done; these stay: {}", failures.join("; "))));
    }
    match missing.into_iter().next() {
        Some(id) => Err(CliFault::Argument(format!("{done} done; there is no message `{id}` to be had now"))),
        None => Ok(done),
    }
}

/// SQS itself moves a whole dead-letter queue, each message to where it came from, and goes on if this command ends.
async fn move_all(boxes: &Boxes, chosen: &LetterBox) -> Result<u64, CliFault> {
    let arn = boxes.queues.iter().find(|(_, url)| **url == chosen.place).map(|(arn, _)| arn.as_str());
    let arn = arn.unwrap_or_default();
    let started = boxes.sqs.start_message_move_task().source_arn(arn).send().await;
    let handle = started.map_err(|cause| lost(&chosen.name, cause))?.task_handle;
    loop {
        let tasks = boxes.sqs.list_message_move_tasks().source_arn(arn).max_results(10).send().await;
        let tasks = tasks.map_err(|cause| lost(&chosen.name, cause))?.results.unwrap_or_default();
        // Only a task that runs is listed with its handle; ours is the newest.
        let running = tasks.iter().any(|task| task.task_handle.is_some() && task.task_handle == handle);
        match tasks.first() {
            Some(_) if running => tokio::time::sleep(GLANCE).await,
            Some(task) if task.status.as_deref() == Some("COMPLETED") => {
                return Ok(u64::try_from(task.approximate_number_of_messages_moved).unwrap_or_default());
            }
            task => {
                let reason = task.and_then(|task| task.failure_reason.clone());
                let reason = reason.unwrap_or_else(|| "SQS does not say why".to_owned());
                return Err(CliFault::storage(format!("`{}` was not moved to its end", chosen.name), reason));
            }
        }
    }
}

/// Durable where it belongs when this returns.
async fn put_back(boxes: &Boxes, chosen: &LetterBox, letter: &Letter, body: Option<&str>) -> Result<(), CliFault> {
    match &letter.back {
        Back::Source => match chosen.source_urls.as_slice() {
            [url] => send(boxes, url, letter, body.unwrap_or_default(), letter.group.as_deref()).await,
            _ => {
                Err(stays("more than one queue gives up to it, and only SQS knows which: put all of them back at once"))
            }
        },
        Back::Queue { arn, body, group } => match boxes.queues.get(arn) {
            Some(url) => send(boxes, url, letter, body, group.as_deref()).await,
            None => Err(stays("the queue that it came from is not part of this bundle")),
        },
        Back::Function { name, event } => {
            let answer = boxes.functions.invoke(name, event.to_string().into_bytes()).await?;
            let told: Value = serde_json::from_str(&answer.body).unwrap_or_default();
            let failures =
                told.get("batchItemFailures").and_then(Value::as_array).is_some_and(|failed| !failed.is_empty());
            if answer.failed || failures {
                return Err(CliFault::Failed(format!("function `{name}` failed on it again: {}", answer.body)));
            }
            Ok(())
        }
        Back::Evidence { .. } => Err(stays("its evidence is not there any more: drop it")),
        Back::Nowhere(reason) => Err(stays(reason)),
    }
}

fn stays(reason: &str) -> CliFault {
    CliFault::Failed(reason.to_owned())
}

/// A command that was killed sends the same message again; within five minutes a FIFO queue knows it by its id.
async fn send(boxes: &Boxes, url: &str, letter: &Letter, body: &str, group: Option<&str>) -> Result<(), CliFault> {
    let request =
        boxes.sqs.send_message().queue_url(url).message_body(body).set_message_group_id(group.map(str::to_owned));
    let known = group.map(|_| format!("redrive.{}", letter.id));
    request.set_message_deduplication_id(known).send().await.map_err(|cause| lost(url, cause))?;
    Ok(())
}
