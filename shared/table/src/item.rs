//! Items and faults: the one place that knows how values and errors of the SDK look.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::transact_write_items::builders::TransactWriteItemsFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use domain::fault::PortFault;
use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;

pub(crate) type Item = HashMap<String, AttributeValue>;

pub(crate) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(crate) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(crate) fn instant(value: OffsetDateTime) -> AttributeValue {
    number(value.unix_timestamp())
}

/// An entity with its keys and the `entity` attribute that stream filters look at.
pub(crate) fn item(entity: &str, pk: String, value: &impl Serialize) -> Result<Item, PortFault> {
    let mut item: Item = serde_dynamo::to_item(value).map_err(|cause| broken("writing an item", &cause))?;
    item.insert("pk".to_owned(), text(pk));
    item.insert("sk".to_owned(), text(sort_key(entity)));
    item.insert("entity".to_owned(), text(entity));
    Ok(item)
}

pub(crate) fn parse<T: DeserializeOwned>(item: Item) -> Result<T, PortFault> {
    serde_dynamo::from_item(item).map_err(|cause| broken("reading an item", &cause))
}

pub(crate) fn sort_key(entity: &str) -> String {
    match entity {
        "attempt" => "STATE".to_owned(),
        entity => entity.to_ascii_uppercase(),
    }
}

pub(crate) fn broken(operation: &'static str, cause: &dyn Error) -> PortFault {
    PortFault::Broken { operation, detail: cause.to_string() }
}

/// What a failed call means. A request that DynamoDB will never take is ours to mend; everything else may pass.
pub(crate) fn fault<E>(operation: &'static str) -> impl FnOnce(SdkError<E>) -> PortFault
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    move |cause| match cause.as_service_error().and_then(|e| e.code()) {
        Some("ConditionalCheckFailedException") => PortFault::Conflict { operation },
        Some("ValidationException" | "ResourceNotFoundException" | "AccessDeniedException") => {
            PortFault::Broken { operation, detail: domain::fault::chain(&cause) }
        }
        _ => PortFault::Unavailable { operation, cause: Box::new(cause) },
    }
}

/// How often a transaction is tried that met another one, or a store that is down for a moment, before its caller is bothered: what it
/// brings (a code that was exchanged, a pair that was refreshed) cannot be had twice.
const TRIES: u32 = 5;

/// Sends a transaction. One that was carried out although its answer was lost comes back as a [`PortFault::Conflict`].
pub(crate) async fn transact(
    request: TransactWriteItemsFluentBuilder,
    operation: &'static str,
) -> Result<(), PortFault> {
    let mut pause = Duration::from_millis(25);
    for _ in 1..TRIES {
        match request.clone().send().await.map_err(transaction_fault(operation)) {
            Err(PortFault::Unavailable { .. }) => {}
            result => return result.map(drop),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    request.send().await.map(drop).map_err(transaction_fault(operation))
}

/// The same for a transaction, whose reasons are read one by one: a failed condition is a conflict, contention and throttling pass.
pub(crate) fn transaction_fault(
    operation: &'static str,
) -> impl FnOnce(SdkError<TransactWriteItemsError>) -> PortFault {
    move |cause| {
        let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) = cause.as_service_error() else {
            return fault(operation)(cause);
        };
        let mut codes = cancelled.cancellation_reasons().iter().filter_map(|reason| reason.code());
        if codes.clone().any(|code| code == "ValidationError") {
            PortFault::Broken { operation, detail: domain::fault::chain(&cause) }
        } else if codes.any(|code| code == "ConditionalCheckFailed") {
            PortFault::Conflict { operation }
        } else {
            PortFault::Unavailable { operation, cause: Box::new(cause) }
        }
    }
}
