//! DynamoDB stream batches, in order.

use std::future::Future;

use aws_lambda_events::event::dynamodb::Event;
use aws_lambda_events::event::streams::{DynamoDbBatchItemFailure, DynamoDbEventResponse};
use domain::fault::Fault;
use domain::work::ParkedQueue;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_dynamo::Item;

use crate::parking::{Settled, settle};

/// One change of the table.
#[derive(Debug)]
pub struct Change {
    /// The item before, if there was one.
    pub before: Option<Item>,
    /// The item after, if there is one.
    pub after: Option<Item>,
}

/// Runs a function on a stream. The first record that must come again ends the batch: Lambda starts again from there.
pub async fn run_in_order<H, F, E>(handle: H, parked: &dyn ParkedQueue) -> Result<(), Error>
where
    H: Fn(Change) -> F + Sync,
    F: Future<Output = Result<(), E>> + Send,
    E: Fault + Send,
{
    lambda_runtime::run(service_fn(|event: LambdaEvent<Event>| in_order(event.payload, &handle, parked))).await
}

async fn in_order<H, F, E>(event: Event, handle: &H, parked: &dyn ParkedQueue) -> Result<DynamoDbEventResponse, Error>
where
    H: Fn(Change) -> F + Sync,
    F: Future<Output = Result<(), E>> + Send,
    E: Fault + Send,
{
    let mut response = DynamoDbEventResponse::default();
    for record in event.records {
        // A record without a number cannot be reported; failing the batch brings it back whole.
        let sequence_number = record.change.sequence_number.clone().ok_or("a record has no sequence number")?;
        let evidence = serde_json::to_value(&record)?;
        let image = |image: Item| (!image.is_empty()).then_some(image);
        let change = Change { before: image(record.change.old_image), after: image(record.change.new_image) };
        if settle(handle(change).await, || evidence, parked).await == Settled::Again {
            let mut failure = DynamoDbBatchItemFailure::default();
            failure.item_identifier = Some(sequence_number);
            response.batch_item_failures = vec![failure];
            break;
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use domain::fault::PortFault;
    use serde_json::json;
    use testkit::MemoryQueue;

    use super::*;

    fn event() -> Event {
        let record = |n: u32| {
            json!({
                "awsRegion": "us-east-1", "eventID": n.to_string(), "eventName": "INSERT", "eventSource": "aws:dynamodb",
                "dynamodb": {
                    "ApproximateCreationDateTime": 1_700_000_000, "Keys": {"pk": {"S": n.to_string()}},
                    "NewImage": {"pk": {"S": n.to_string()}}, "SequenceNumber": format!("{n:021}"), "SizeBytes": 10,
                    "StreamViewType": "NEW_AND_OLD_IMAGES"
                }
            })
        };
        serde_json::from_value(json!({"Records": [record(1), record(2), record(3)]})).unwrap()
    }

    #[tokio::test]
    async fn stops_at_the_first_record_that_must_come_again() {
        let seen = Mutex::new(0);
        let handle = async |change: Change| {
            assert!(change.before.is_none() && change.after.is_some());
            let mut seen = seen.lock().unwrap();
            *seen += 1;
            if *seen == 2 { Err(PortFault::Conflict { operation: "x" }) } else { Ok(()) }
        };
        let response = in_order(event(), &handle, &MemoryQueue::default()).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), 2);
        let reported = response.batch_item_failures.first().and_then(|f| f.item_identifier.clone());
        assert_eq!(reported.as_deref(), Some("000000000000000000002"));
    }
}
