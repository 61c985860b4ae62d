//! The lake's gate: one item per line that counted, written once, and one per batch that is in its tables.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem,
};
use domain::fault::PortFault;
use domain::lake::batch::{BatchId, Gate, LineId};
use domain::lake::retention;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use crate::Table;
use crate::item::{self, Item, fault, instant, text};

const OPERATION: &str = "TransactWriteItems gate";

/// The most items of one transaction.
const ITEMS: usize = 100;

/// Each try that meets another claimer tells what they took, so two or three are the rule; the others are for crowds.
const TRIES: u32 = 12;

/// The longest id that is a key as it is.
const PLAIN: usize = 128;

/// A key of its own for each line. An id that is long or strange is known by its hash.
fn key(line: &LineId) -> String {
    let plain = |id: &str| {
        let fits = id.len() <= PLAIN && id.bytes().all(|b| b.is_ascii_graphic());
        if fits { format!("={id}") } else { format!("~{}", hex::encode(Sha256::digest(id.as_bytes()))) }
    };
    match line {
        LineId::Message { msg_id } => format!("LINE#message#{}", plain(msg_id)),
        LineId::Contact { username, delivery } => format!("LINE#contact#{}#{}", plain(delivery), plain(username)),
        LineId::Bad { delivery } => format!("LINE#bad#{}", plain(delivery)),
    }
}

/// What one transaction came to.
enum Try {
    /// All of the items are this batch's.
    Claimed,
    /// Some are somebody else's, by their place in the transaction.
    Found(Vec<(usize, BatchId)>),
    /// It met another transaction.
    Again(PortFault),
}

impl Table {
    async fn claim_once(&self, batch: &BatchId, keys: &[&str], now: OffsetDateTime) -> Result<Try, PortFault> {
        let mut request = self.client.transact_write_items();
        for key in keys {
            let put = Put::builder()
                .table_name(&self.name)
                .item("pk", text(*key))
                .item("sk", text("LINE"))
                .item("entity", text("line"))
                .item("batch", text(batch.as_str()))
                .item("ttl", instant(now + retention::GATE))
                .condition_expression("attribute_not_exists(pk) OR batch = :batch")
                .expression_attribute_values(":batch", text(batch.as_str()))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
                .build()
                .map_err(|cause| item::broken(OPERATION, &cause))?;
            request = request.transact_items(TransactWriteItem::builder().put(put).build());
        }
        let Err(error) = request.send().await else { return Ok(Try::Claimed) };
        let found =
            reasons(&error).iter().enumerate().filter(|(_, reason)| reason.code() == Some("ConditionalCheckFailed"));
        let found: Vec<_> =
            found.map(|(place, reason)| Ok((place, owner(reason.item())?))).collect::<Result<_, PortFault>>()?;
        match item::transaction_fault(OPERATION)(error) {
            PortFault::Conflict { .. } if !found.is_empty() => Ok(Try::Found(found)),
            fault @ PortFault::Broken { .. } => Err(fault),
            fault => Ok(Try::Again(fault)),
        }
    }
}

impl Table {
    /// Claims what is free of one transaction's worth of lines, and tells whose the others are.
    async fn claim_chunk<'k>(
        &self,
        batch: &BatchId,
        keys: &[&'k str],
        now: OffsetDateTime,
    ) -> Result<Vec<(&'k str, BatchId)>, PortFault> {
        let (mut free, mut taken) = (keys.to_vec(), Vec::new());
        let mut pause = Duration::from_millis(20);
        let mut last = PortFault::Conflict { operation: OPERATION };
        for _ in 0..TRIES {
            if free.is_empty() {
                return Ok(taken);
            }
            match self.claim_once(batch, &free, now).await? {
                Try::Claimed => return Ok(taken),
                // From the end, so that the places before stay what they are.
                Try::Found(found) => {
                    taken.extend(found.into_iter().rev().map(|(place, owner)| (free.remove(place), owner)))
                }
                Try::Again(fault) => {
                    last = fault;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        }
        Err(last)
    }
}

fn reasons(error: &SdkError<TransactWriteItemsError>) -> &[CancellationReason] {
    match error.as_service_error() {
        Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => cancelled.cancellation_reasons(),
        _ => &[],
    }
}

fn owner(item: Option<&Item>) -> Result<BatchId, PortFault> {
    let text = item.and_then(|item| item.get("batch")).and_then(|value| value.as_s().ok());
    let missing = || PortFault::Broken { operation: OPERATION, detail: "a claim names no batch".to_owned() };
    BatchId::parse(text.ok_or_else(missing)?.as_str()).map_err(|cause| item::broken(OPERATION, &cause))
}

fn batch_key(batch: &BatchId) -> [(&'static str, AttributeValue); 2] {
    [("pk", text(format!("BATCH#{batch}"))), ("sk", text("BATCH"))]
}

#[async_trait]
impl Gate for Table {
    async fn claim(&self, batch: &BatchId, lines: &[LineId], now: OffsetDateTime) -> Result<Vec<BatchId>, PortFault> {
        let keys: Vec<String> = lines.iter().map(key).collect();
        let mut owners: HashMap<&str, BatchId> = HashMap::with_capacity(keys.len());
        // In one order for all: two batches that share lines then meet at the first of them, instead of each holding what the other wants.
        let mut open: Vec<&str> = keys.iter().map(String::as_str).collect();
        open.sort_unstable();
        open.dedup();
        for chunk in open.chunks(ITEMS) {
            owners.extend(self.claim_chunk(batch, chunk, now).await?);
        }
        Ok(keys.iter().map(|key| owners.get(key.as_str()).unwrap_or(batch).clone()).collect())
    }

    async fn is_settled(&self, batch: &BatchId) -> Result<bool, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.set_key(Some(batch_key(batch).map(|(name, value)| (name.to_owned(), value)).into()));
        let answer = request.send().await.map_err(fault("GetItem batch"))?;
        Ok(answer.item.is_some())
    }

    async fn settle(&self, batch: &BatchId, now: OffsetDateTime) -> Result<(), PortFault> {
        let mut item: Item = batch_key(batch).map(|(name, value)| (name.to_owned(), value)).into();
        item.insert("entity".to_owned(), text("batch"));
        // As long as anybody can find a line that this batch claimed.
        item.insert("ttl".to_owned(), instant(now + retention::RAW_AT_MOST));
        let request = self.client.put_item().table_name(&self.name).set_item(Some(item));
        request.send().await.map_err(fault("PutItem batch"))?;
        Ok(())
    }
}
