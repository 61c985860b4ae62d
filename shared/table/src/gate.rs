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
use domain::lake::batch::{BatchId, Claim, Claimed, Gate, LineId};
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

/// A claim, with the key that it is kept under.
type Keyed<'c> = (String, &'c Claim);

/// A key of its own for each line. An id that is long or strange is known by its hash.
fn key(line: &LineId) -> String {
    let plain = |id: &str| {
        let fits = id.len() <= PLAIN && id.bytes().all(|b| b.is_ascii_graphic());
        if fits { format!("={id}") } else { format!("~{}", hex::encode(Sha256::digest(id.as_bytes()))) }
    };
    match line {
        LineId::Message { msg_id } => format!("LINE#message#{}", plain(msg_id)),
        LineId::Delivery { source, request_id } => format!("LINE#delivery#{source}#{}", plain(request_id)),
    }
}

/// What one transaction came to.
enum Try {
    /// All of the claims stand.
    Claimed,
    /// Others stand, by their place in the transaction.
    Found(Vec<(usize, Claimed)>),
    /// It met another transaction.
    Again(PortFault),
}

impl Table {
    async fn claim_once(&self, batch: &BatchId, claims: &[&Keyed<'_>], now: OffsetDateTime) -> Result<Try, PortFault> {
        let mut request = self.client.transact_write_items();
        for (key, claim) in claims {
            let put = Put::builder()
                .table_name(&self.name)
                .item("pk", text(key))
                .item("sk", text("LINE"))
                .item("entity", text("line"))
                .item("claimed_by", text(batch.as_str()))
                .item("says", text(&claim.says))
                .item("ttl", instant(now + retention::GATE))
                // What has expired need not be deleted yet.
                .condition_expression("attribute_not_exists(pk) OR claimed_by = :batch OR #ttl < :now")
                .expression_attribute_names("#ttl", "ttl")
                .expression_attribute_values(":batch", text(batch.as_str()))
                .expression_attribute_values(":now", instant(now))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
                .build()
                .map_err(|cause| item::broken(OPERATION, &cause))?;
            request = request.transact_items(TransactWriteItem::builder().put(put).build());
        }
        let Err(error) = request.send().await else { return Ok(Try::Claimed) };
        let refused = |reason: &CancellationReason| reason.code() == Some("ConditionalCheckFailed");
        let found = reasons(&error).iter().enumerate().filter(|(_, reason)| refused(reason));
        let found: Vec<_> =
            found.map(|(place, reason)| Ok((place, read(reason.item())?))).collect::<Result<_, PortFault>>()?;
        match item::transaction_fault(OPERATION)(error) {
            PortFault::Conflict { .. } if !found.is_empty() => Ok(Try::Found(found)),
            fault @ PortFault::Broken { .. } => Err(fault),
            fault => Ok(Try::Again(fault)),
        }
    }

    /// Claims what is free of one transaction's worth of lines, and tells which claims stand on the others.
    async fn claim_chunk<'c>(
        &self,
        batch: &BatchId,
        chunk: &'c [Keyed<'c>],
        now: OffsetDateTime,
    ) -> Result<Vec<(&'c str, Claimed)>, PortFault> {
        let (mut free, mut taken): (Vec<&Keyed<'_>>, _) = (chunk.iter().collect(), Vec::new());
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
                    taken.extend(
                        found.into_iter().rev().map(|(place, claimed)| (free.remove(place).0.as_str(), claimed)),
                    );
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

fn read(item: Option<&Item>) -> Result<Claimed, PortFault> {
    let field = |name: &str| item.and_then(|item| item.get(name)?.as_s().ok()).map(String::as_str);
    let missing = || PortFault::Broken { operation: OPERATION, detail: "a claim names no batch".to_owned() };
    let batch =
        BatchId::parse(field("claimed_by").ok_or_else(missing)?).map_err(|cause| item::broken(OPERATION, &cause))?;
    Ok(Claimed { batch, says: field("says").unwrap_or_default().to_owned() })
}

fn batch_key(batch: &BatchId) -> [(&'static str, AttributeValue); 2] {
    [("pk", text(format!("BATCH#{batch}"))), ("sk", text("BATCH"))]
}

#[async_trait]
impl Gate for Table {
    async fn claim(&self, batch: &BatchId, claims: &[Claim], now: OffsetDateTime) -> Result<Vec<Claimed>, PortFault> {
        let mut keyed: Vec<Keyed<'_>> = claims.iter().map(|claim| (key(&claim.line), claim)).collect();
        // In one order for all: two batches that share lines then meet at the first of them, instead of each holding what the other wants.
        keyed.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut stand: HashMap<&LineId, Claimed> = HashMap::new();
        for chunk in keyed.chunks(ITEMS) {
            let lines: HashMap<&str, &LineId> = chunk.iter().map(|(key, claim)| (key.as_str(), &claim.line)).collect();
            let taken = self.claim_chunk(batch, chunk, now).await?;
            stand.extend(taken.into_iter().filter_map(|(key, claimed)| Some((*lines.get(key)?, claimed))));
        }
        let own = |claim: &Claim| Claimed { batch: batch.clone(), says: claim.says.clone() };
        Ok(claims.iter().map(|claim| stand.remove(&claim.line).unwrap_or_else(|| own(claim))).collect())
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
