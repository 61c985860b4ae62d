//! Limits: one item per key, one request per call, two when another process counted too.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{ReturnValue, ReturnValuesOnConditionCheckFailure};
use domain::fault::PortFault;
use domain::limit::{Counted, Limit, LimitFault, Limiter, Usage};
use time::{Duration, OffsetDateTime};

use crate::Table;
use crate::item::{self, Item, fault, instant, number, text};

const OPERATION: &str = "UpdateItem limit";

/// A try fails when somebody else counted in between; each shows what they left, so a handful is plenty.
const TRIES: u32 = 8;

/// How many keys a process remembers.
const REMEMBERED: usize = 4_096;

/// The table as a limiter. It remembers what it saw: who is over the limit already costs no request, however often they call.
#[derive(Debug)]
pub struct TableLimiter {
    table: Table,
    seen: Mutex<HashMap<String, Usage>>,
}

/// What became of one try to count.
enum Try {
    Counted(Usage),
    /// The item is not what it was thought to be, but this.
    Found(Option<Usage>),
}

impl TableLimiter {
    #[must_use]
    pub fn new(table: Table) -> Self {
        Self { table, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<String, Usage>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, key: &str, usage: Option<Usage>, limit: Limit, now: OffsetDateTime) {
        let mut seen = self.seen();
        match usage {
            Some(usage) => drop(seen.insert(key.to_owned(), usage)),
            None => drop(seen.remove(key)),
        }
        if seen.len() > REMEMBERED {
            seen.retain(|_, usage| usage.slot > Usage::forgotten(limit, now));
        }
        if seen.len() > REMEMBERED {
            // Forgetting costs a request each, never a wrong answer.
            seen.clear();
        }
    }

    /// Counts if the item still is `before`, or, within its slot, if there is still room.
    async fn attempt(
        &self,
        key: &str,
        before: Option<&Usage>,
        counted: Counted,
        limit: Limit,
        now: OffsetDateTime,
    ) -> Result<Try, PortFault> {
        let usage = counted.usage;
        let request = self
            .table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key("pk", text(format!("LIMIT#{key}")))
            .key("sk", text("LIMIT"))
            .expression_attribute_names("#slot", "slot")
            .expression_attribute_names("#count", "count")
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let request = if counted.new_slot {
            let past = serde_dynamo::to_attribute_value(&usage.past);
            let request = request
                .update_expression("SET #slot = :slot, #count = :one, past = :past, entity = :limit, #ttl = :ttl")
                .expression_attribute_names("#ttl", "ttl")
                .expression_attribute_values(":slot", number(usage.slot))
                .expression_attribute_values(":one", number(1))
                .expression_attribute_values(":past", past.map_err(|cause| item::broken(OPERATION, &cause))?)
                .expression_attribute_values(":limit", text("limit"))
                .expression_attribute_values(":ttl", instant(now + limit.window * 2 + Duration::minutes(2)));
            match before {
                Some(before) => request
                    .condition_expression("#slot = :before AND #count = :counted")
                    .expression_attribute_values(":before", number(before.slot))
                    .expression_attribute_values(":counted", number(before.count)),
                // Most keys are used now and then: what is there, if anything, counts no longer.
                None => request
                    .condition_expression("attribute_not_exists(pk) OR #slot <= :forgotten")
                    .expression_attribute_values(":forgotten", number(Usage::forgotten(limit, now))),
            }
        } else {
            request
                .update_expression("SET #count = #count + :one")
                .condition_expression("#slot = :slot AND #count < :room")
                .expression_attribute_values(":slot", number(usage.slot))
                .expression_attribute_values(":one", number(1))
                .expression_attribute_values(":room", number(counted.room))
        };
        let error = match request.send().await {
            // An answer without the item still says that it was counted.
            Ok(answer) => return Ok(Try::Counted(read(answer.attributes)?.unwrap_or(usage))),
            Err(error) => error,
        };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                Ok(Try::Found(read(refused.item().cloned())?))
            }
            _ => Err(fault(OPERATION)(error)),
        }
    }
}

fn read(item: Option<Item>) -> Result<Option<Usage>, PortFault> {
    item.filter(|item| !item.is_empty()).map(item::parse).transpose()
}

fn count(usage: Option<&Usage>, limit: Limit, now: OffsetDateTime) -> Result<Counted, LimitFault> {
    Usage::count(usage, limit, now).map_err(|retry_after_secs| LimitFault::Exhausted { retry_after_secs })
}

#[async_trait]
impl Limiter for TableLimiter {
    async fn take(&self, key: &str, limit: Limit, now: OffsetDateTime) -> Result<(), LimitFault> {
        let mut known = self.seen().get(key).cloned();
        for _ in 0..TRIES {
            let counted = count(known.as_ref(), limit, now)?;
            match self.attempt(key, known.as_ref(), counted, limit, now).await? {
                Try::Counted(usage) => {
                    self.remember(key, Some(usage), limit, now);
                    return Ok(());
                }
                Try::Found(usage) => {
                    self.remember(key, usage.clone(), limit, now);
                    known = usage;
                }
            }
        }
        Err(PortFault::Conflict { operation: OPERATION }.into())
    }
}
