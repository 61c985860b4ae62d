//! SQS batches with partial failures.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use aws_lambda_events::event::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use domain::fault::{Fault, chain};
use domain::work::{ParkedQueue, Redelivery, redelivery_delay};
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

use crate::clock;
use crate::parking::{Settled, settle};

/// An invocation that has longer holds its messages for itself.
const LONG: Duration = Duration::from_secs(120);

/// So long after its deadline nothing of an invocation is left.
const GONE: Duration = Duration::from_secs(30);

/// How many of a batch's failed messages are parked or called back at once.
const AT_ONCE: usize = 16;

/// One message of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub message_id: String,
    pub body: String,
    /// The message group, on a FIFO queue.
    pub group: Option<String>,
    /// The queue's ARN.
    source: Option<String>,
    receipt_handle: String,
    receives: u32,
}

impl Record {
    /// A message with this body, for tests of what is done with it.
    #[must_use]
    pub fn of(message_id: &str, body: String) -> Self {
        let (message_id, receipt_handle) = (message_id.to_owned(), format!("r-{message_id}"));
        Self { message_id, body, group: None, source: None, receipt_handle, receives: 1 }
    }
}

/// Where what cannot be done goes: to be parked, or to come again.
#[derive(Clone, Copy)]
pub struct Exits<'a> {
    pub parked: &'a dyn ParkedQueue,
    pub again: &'a dyn Redelivery,
}

impl std::fmt::Debug for Exits<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exits").finish_non_exhaustive()
    }
}

/// Runs a function on a FIFO queue. Groups are worked on at the same time, the messages of one group one after the other; after a
/// failure the rest of that group is reported too, so that its order holds, and no other group is. What failed comes again after
/// [`redelivery_delay`], not after the queue's whole visibility timeout; and if the worker dies in work that may take minutes, soon after the
/// invocation would have ended.
pub async fn run_fifo<H, F, E>(handle: H, exits: Exits<'_>) -> Result<(), Error>
where
    H: Fn(Record) -> F + Sync,
    F: Future<Output = Result<(), E>> + Send,
    E: Fault + Send,
{
    let handle = &handle;
    let invoked = service_fn(|event: LambdaEvent<SqsEvent>| async move {
        let left = event.context.deadline().duration_since(clock::machine()).unwrap_or_default();
        fifo(event.payload, left, handle, exits).await
    });
    lambda_runtime::run(invoked).await
}

async fn fifo<H, F, E>(event: SqsEvent, left: Duration, handle: &H, exits: Exits<'_>) -> Result<SqsBatchResponse, Error>
where
    H: Fn(Record) -> F + Sync,
    F: Future<Output = Result<(), E>> + Send,
    E: Fault + Send,
{
    let records = records(event)?;
    if left > LONG {
        join_all(records.iter().map(|record| postpone(record, left + GONE, exits.again))).await;
    }
    let mut groups: BTreeMap<Option<String>, Vec<Record>> = BTreeMap::new();
    for record in records {
        groups.entry(record.group.clone()).or_default().push(record);
    }
    let failed = join_all(groups.into_values().map(|records| in_turn(records, handle, exits))).await;
    Ok(reported(failed.into_iter().flatten()))
}

/// Runs a function on a queue whose messages are worked on together. It gets a batch whole and gives back what it could not do, each
/// with the reason; that is parked, or comes again after [`redelivery_delay`].
pub async fn run_batch<H, F, E>(handle: H, exits: Exits<'_>) -> Result<(), Error>
where
    H: Fn(Vec<Record>) -> F + Sync,
    F: Future<Output = Vec<(Record, E)>> + Send,
    E: Fault + Send,
{
    lambda_runtime::run(service_fn(|event: LambdaEvent<SqsEvent>| batch(event.payload, &handle, exits))).await
}

async fn batch<H, F, E>(event: SqsEvent, handle: &H, exits: Exits<'_>) -> Result<SqsBatchResponse, Error>
where
    H: Fn(Vec<Record>) -> F + Sync,
    F: Future<Output = Vec<(Record, E)>> + Send,
    E: Fault + Send,
{
    let undone = stream::iter(handle(records(event)?).await);
    let settled = undone.map(|(record, fault)| async move {
        let again = settle(Err(fault), || evidence(&record), exits.parked).await == Settled::Again;
        if again {
            postpone(&record, redelivery_delay(record.receives), exits.again).await;
        }
        again.then_some(record.message_id)
    });
    let failed: Vec<Option<String>> = settled.buffer_unordered(AT_ONCE).collect().await;
    Ok(reported(failed.into_iter().flatten()))
}

fn records(event: SqsEvent) -> Result<Vec<Record>, Error> {
    let record = |message: SqsMessage| {
        // A message without an id cannot be reported; failing the batch brings it back whole.
        let message_id = message.message_id.ok_or("a message has no id")?;
        let receives = message.attributes.get("ApproximateReceiveCount").and_then(|count| count.parse().ok());
        Ok(Record {
            message_id,
            body: message.body.unwrap_or_default(),
            group: message.attributes.get("MessageGroupId").cloned(),
            source: message.event_source_arn,
            receipt_handle: message.receipt_handle.unwrap_or_default(),
            receives: receives.unwrap_or(1),
        })
    };
    event.records.into_iter().map(record).collect()
}

/// The answer that brings these messages back, and no others.
fn reported(message_ids: impl Iterator<Item = String>) -> SqsBatchResponse {
    let failure = |message_id| {
        let mut failure = BatchItemFailure::default();
        failure.item_identifier = message_id;
        failure
    };
    let mut response = SqsBatchResponse::default();
    response.batch_item_failures = message_ids.map(failure).collect();
    response
}

/// Works through one group and names what must come again.
async fn in_turn<H, F, E>(records: Vec<Record>, handle: &H, exits: Exits<'_>) -> Vec<String>
where
    H: Fn(Record) -> F,
    F: Future<Output = Result<(), E>>,
    E: Fault,
{
    let mut records = records.into_iter();
    for record in records.by_ref() {
        let tried = record.clone();
        if settle(handle(record).await, || evidence(&tried), exits.parked).await == Settled::Again {
            let delay = redelivery_delay(tried.receives);
            let held: Vec<Record> = std::iter::once(tried).chain(records).collect();
            join_all(held.iter().map(|record| postpone(record, delay, exits.again))).await;
            return held.into_iter().map(|record| record.message_id).collect();
        }
    }
    Vec::new()
}

/// If this fails, the message comes back all the same, after the queue's visibility timeout.
async fn postpone(record: &Record, delay: Duration, again: &dyn Redelivery) {
    if let Err(fault) = again.again_in(&record.receipt_handle, delay).await {
        tracing::warn!(message.id = %record.message_id, error = %chain(&fault), "A message could not be called back early");
    }
}

fn evidence(record: &Record) -> Value {
    json!({
        "message_id": record.message_id, "body": record.body, "group": record.group, "source": record.source,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use domain::fault::{PortFault, Refusal, Remedy};
    use testkit::MemoryQueue;

    use super::*;

    /// What an invocation has left whose messages stay hidden by themselves for long enough.
    const SHORT: Duration = Duration::from_secs(60);

    #[derive(Debug, thiserror::Error)]
    #[error("made to fail")]
    struct Made(Remedy);

    impl Fault for Made {
        fn remedy(&self) -> Remedy {
            self.0
        }
        fn code(&self) -> &'static str {
            "made"
        }
    }

    fn exits(queue: &MemoryQueue) -> Exits<'_> {
        Exits { parked: queue, again: queue }
    }

    fn event(messages: &[(&str, &str)]) -> SqsEvent {
        let records: Vec<Value> = messages
            .iter()
            .map(|(id, group)| {
                json!({"messageId": id, "receiptHandle": format!("r-{id}"), "body": id,
                "attributes": {"MessageGroupId": group, "ApproximateReceiveCount": "2"}})
            })
            .collect();
        serde_json::from_value(json!({ "Records": records })).unwrap()
    }

    async fn check(messages: &[(&str, &str)], fails: &[(&str, Remedy)], done: &[&str], again: &[&str], kept: usize) {
        let seen = Mutex::new(Vec::new());
        let queue = MemoryQueue::default();
        let handle = async |record: Record| match fails.iter().find(|(id, _)| *id == record.message_id) {
            Some((_, remedy)) => Err(Made(*remedy)),
            None => {
                seen.lock().unwrap().push(record.message_id);
                Ok(())
            }
        };
        let response = fifo(event(messages), SHORT, &handle, exits(&queue)).await.unwrap();
        let mut reported: Vec<String> = response.batch_item_failures.into_iter().map(|f| f.item_identifier).collect();
        reported.sort();
        let mut called_back: Vec<String> = queue
            .again()
            .into_iter()
            .map(|(receipt, delay)| {
                assert_eq!(delay, redelivery_delay(2));
                receipt.trim_start_matches("r-").to_owned()
            })
            .collect();
        called_back.sort();
        assert_eq!(called_back, reported, "what is reported is called back early");
        let mut seen = seen.into_inner().unwrap();
        seen.sort();
        assert_eq!(
            (seen, reported, queue.parked().len()),
            (done.iter().map(|s| (*s).to_owned()).collect(), again.iter().map(|s| (*s).to_owned()).collect(), kept,)
        );
    }

    #[tokio::test]
    async fn a_failure_holds_back_the_rest_of_its_group_and_no_other() {
        let messages = [("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b"), ("a3", "a")];
        check(&messages, &[("a2", Remedy::Retry)], &["a1", "b1", "b2"], &["a2", "a3"], 0).await;
    }

    #[tokio::test]
    async fn poison_is_parked_with_its_evidence_and_blocks_nobody() {
        let messages = [("a1", "a"), ("a2", "a")];
        check(&messages, &[("a1", Remedy::Reject(Refusal::Invalid))], &["a2"], &[], 1).await;
    }

    #[tokio::test]
    async fn what_cannot_be_parked_comes_again() {
        let queue = MemoryQueue::default();
        queue.down.store(true, std::sync::atomic::Ordering::SeqCst);
        let handle = async |_: Record| Err::<(), _>(Made(Remedy::Reject(Refusal::Invalid)));
        let response = fifo(event(&[("a1", "a")]), SHORT, &handle, exits(&queue)).await.unwrap();
        assert_eq!(response.batch_item_failures.len(), 1);
    }

    #[tokio::test]
    async fn work_of_minutes_holds_its_messages_no_longer_than_it_may_take() {
        let queue = MemoryQueue::default();
        let handle = async |_: Record| {
            assert_eq!(queue.again(), [("r-a1".to_owned(), Duration::from_secs(330))], "held before it is worked on");
            Ok::<(), Made>(())
        };
        let response = fifo(event(&[("a1", "a")]), Duration::from_secs(300), &handle, exits(&queue)).await.unwrap();
        assert_eq!((response.batch_item_failures.len(), queue.again().len()), (0, 1));

        // What failed comes again in time all the same.
        let handle = async |_: Record| Err::<(), _>(Made(Remedy::Retry));
        fifo(event(&[("a2", "a")]), Duration::from_secs(300), &handle, exits(&queue)).await.unwrap();
        assert_eq!(queue.again().last(), Some(&("r-a2".to_owned(), redelivery_delay(2))));
    }

    #[tokio::test]
    async fn a_port_fault_is_tried_again() {
        let handle = async |_: Record| Err::<(), _>(PortFault::Conflict { operation: "x" });
        let response = fifo(event(&[("a1", "a")]), SHORT, &handle, exits(&MemoryQueue::default())).await.unwrap();
        assert_eq!(response.batch_item_failures.len(), 1);
    }

    #[tokio::test]
    async fn of_a_batch_that_is_worked_on_together_each_message_has_its_own_end() {
        let remedies = [("park", Remedy::Reject(Refusal::Invalid)), ("again", Remedy::Retry), ("bug", Remedy::Bug)];
        let handle = async |records: Vec<Record>| {
            assert_eq!(records.len(), 4);
            let failed = records.into_iter().filter_map(|record| {
                let (_, remedy) = remedies.iter().find(|(id, _)| *id == record.message_id)?;
                Some((record, Made(*remedy)))
            });
            failed.collect()
        };
        let queue = MemoryQueue::default();
        let messages = [("done", "a"), ("park", "a"), ("again", "a"), ("bug", "a")];
        let response = batch(event(&messages), &handle, exits(&queue)).await.unwrap();
        let mut reported: Vec<String> = response.batch_item_failures.into_iter().map(|f| f.item_identifier).collect();
        reported.sort();
        let called_back: Vec<String> = queue.again().into_iter().map(|(receipt, _)| receipt).collect();
        assert_eq!(
            (reported, called_back.len(), queue.parked().len()),
            (vec!["again".to_owned(), "bug".to_owned()], 2, 1)
        );
        assert_eq!(queue.parked()[0].payload["message_id"], "park");
    }
}
