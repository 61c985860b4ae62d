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
    item_at(entity, pk, sort_key(entity), value)
}

/// The same where a partition has several items.
pub(crate) fn item_at(entity: &str, pk: String, sk: String, value: &impl Serialize) -> Result<Item, PortFault> {
    let mut item: Item = serde_dynamo::to_item(value).map_err(|cause| broken("writing an item", &cause))?;
    item.insert("pk".to_owned(), text(pk));
    item.insert("sk".to_owned(), text(sk));
    item.insert("entity".to_owned(), text(entity));
    Ok(item)
}

/// What names an item in its table, of a key of the index.
pub(crate) fn primary_key(key: &Item) -> Item {
    ["pk", "sk"].iter().filter_map(|name| Some(((*name).to_owned(), key.get(*name)?.clone()))).collect()
}

pub(crate) fn key(pk: String, sk: String) -> Item {
    Item::from([("pk".to_owned(), text(pk)), ("sk".to_owned(), text(sk))])
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

/// Why a transaction was not carried out.
pub(crate) enum Cancelled {
    /// Conditions failed. For each item: whether its own did, and then what is there, if anything is and was asked for.
    Refused(Vec<Option<Option<Item>>>),
    /// It met another one, and nothing else is wrong.
    Met(PortFault),
    Fault(PortFault),
}

/// Reads the reasons one by one. A failed condition says more than contention, which says less than a request that is malformed; what is
/// neither is throttling, which is not ours to wait for.
pub(crate) fn cancelled(operation: &'static str) -> impl FnOnce(SdkError<TransactWriteItemsError>) -> Cancelled {
    move |cause| {
        let unavailable = |cause: SdkError<_>| PortFault::Unavailable { operation, cause: Box::new(cause) };
        let reasons = match cause.as_service_error() {
            Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => cancelled.cancellation_reasons(),
            Some(TransactWriteItemsError::TransactionInProgressException(_)) => {
                return Cancelled::Met(unavailable(cause));
            }
            _ => return Cancelled::Fault(fault(operation)(cause)),
        };
        let is = |code: &str| reasons.iter().any(|reason| reason.code() == Some(code));
        if is("ValidationError") {
            return Cancelled::Fault(PortFault::Broken { operation, detail: domain::fault::chain(&cause) });
        }
        if is("ConditionalCheckFailed") {
            let refused = reasons.iter().map(|reason| {
                (reason.code() == Some("ConditionalCheckFailed"))
                    .then(|| reason.item.clone().filter(|item| !item.is_empty()))
            });
            return Cancelled::Refused(refused.collect());
        }
        let harmless = |code: Option<&str>| matches!(code, None | Some("None" | "TransactionConflict"));
        let met = is("TransactionConflict") && reasons.iter().all(|reason| harmless(reason.code()));
        if met { Cancelled::Met(unavailable(cause)) } else { Cancelled::Fault(unavailable(cause)) }
    }
}

/// The same for callers that only need to know what to do next: a failed condition is a conflict, contention and throttling pass.
pub(crate) fn transaction_fault(
    operation: &'static str,
) -> impl FnOnce(SdkError<TransactWriteItemsError>) -> PortFault {
    move |cause| match cancelled(operation)(cause) {
        Cancelled::Refused(_) => PortFault::Conflict { operation },
        Cancelled::Met(fault) | Cancelled::Fault(fault) => fault,
    }
}

/// How often a transaction takes its turn that meets others on the same item.
pub(crate) const TURNS: u32 = 6;

/// Waits before the next turn: nobody before the first, then for a random part of 10 ms, 20 ms, .. so that those who met do not meet again.
pub(crate) async fn await_turn(turn: u32) {
    if turn > 0 {
        let window = Duration::from_millis(10 << turn.saturating_sub(1).min(6));
        tokio::time::sleep(window.mul_f64(fastrand::f64())).await;
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::config::http::HttpResponse;
    use aws_sdk_dynamodb::types::CancellationReason;
    use aws_sdk_dynamodb::types::error::TransactionCanceledException;

    use super::*;

    /// What becomes of a transaction with these reasons.
    fn judged(codes: &[&str]) -> Cancelled {
        let mut exception = TransactionCanceledException::builder();
        for code in codes {
            let reason = CancellationReason::builder().code(*code);
            let reason = if *code == "ConditionalCheckFailed" { reason.item("pk", text("there")) } else { reason };
            exception = exception.cancellation_reasons(reason.build());
        }
        let error = TransactWriteItemsError::TransactionCanceledException(exception.build());
        let response = HttpResponse::new(400.try_into().unwrap(), "".into());
        cancelled("a test")(SdkError::service_error(error, response))
    }

    #[test]
    fn every_reason_of_a_cancellation_is_looked_at() {
        for (codes, expected) in [
            (["None", "TransactionConflict", "None"], "met"),
            (["TransactionConflict", "TransactionConflict", "None"], "met"),
            (["None", "ConditionalCheckFailed", "None"], "refused"),
            (["TransactionConflict", "ConditionalCheckFailed", "None"], "refused"),
            (["ConditionalCheckFailed", "ValidationError", "None"], "broken"),
            (["None", "ThrottlingError", "TransactionConflict"], "unavailable"),
            (["ProvisionedThroughputExceeded", "None", "None"], "unavailable"),
            (["None", "None", "None"], "unavailable"),
        ] {
            let judged = match judged(&codes) {
                Cancelled::Refused(items) => {
                    let failed: Vec<bool> = items.iter().map(Option::is_some).collect();
                    assert_eq!(failed, codes.map(|code| code == "ConditionalCheckFailed"));
                    assert!(items.into_iter().flatten().all(|item| item.is_some()));
                    "refused"
                }
                Cancelled::Met(_) => "met",
                Cancelled::Fault(PortFault::Broken { .. }) => "broken",
                Cancelled::Fault(_) => "unavailable",
            };
            assert_eq!(judged, expected, "{codes:?}");
        }
    }
}
