//! The inbox.

use async_trait::async_trait;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{ReturnValue, ReturnValuesOnConditionCheckFailure};
use domain::fault::PortFault;
use domain::id::{AppId, EventId};
use domain::inbox::{Acceptance, CLAIM, Claim, Entry, Inbox, KEPT, OpenEntries, REMEMBERED, RING_AGAIN};
use time::OffsetDateTime;

use crate::Table;
use crate::item::{self, Item, fault, instant, text};

/// Open entries are spread over this many keys of the index. One key takes 500 entries per second, a write each to open and to close;
/// what it cannot take would hold back the table itself, and so the answer to a click.
const SHARDS: u32 = 4;

fn pk(app_id: &AppId, event_id: &EventId) -> String {
    format!("INBOX#{app_id}#{event_id}")
}

/// The index key of open entries like this one.
fn open(event_id: &EventId) -> String {
    let sum = event_id.as_str().bytes().fold(0, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    shard(sum % SHARDS)
}

fn shard(number: u32) -> String {
    format!("inbox.open.{number}")
}

#[async_trait]
impl Inbox for Table {
    async fn accept(&self, entry: &Entry) -> Result<Acceptance, PortFault> {
        let mut item = item::item("inbox", pk(&entry.app_id, &entry.event_id), entry)?;
        item.insert("state".to_owned(), text("accepted"));
        item.insert("kind".to_owned(), text(open(&entry.event_id)));
        item.insert("at".to_owned(), instant(entry.received_at + RING_AGAIN));
        item.insert("ttl".to_owned(), instant(entry.received_at + KEPT));
        let request = self.client.put_item().table_name(&self.name).set_item(Some(item));
        match request.condition_expression("attribute_not_exists(pk)").send().await {
            Ok(_) => Ok(Acceptance::New),
            Err(error)
                if matches!(error.as_service_error(), Some(PutItemError::ConditionalCheckFailedException(_))) =>
            {
                Ok(Acceptance::Seen)
            }
            Err(error) => Err(fault("PutItem inbox")(error)),
        }
    }

    async fn claim(&self, app_id: &AppId, event_id: &EventId, now: OffsetDateTime) -> Result<Claim, PortFault> {
        let request = self
            .update(app_id, event_id)
            .update_expression("SET #state = :claimed, claim_until = :until")
            .condition_expression("#state = :accepted OR (#state = :claimed AND claim_until <= :now)")
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":accepted", text("accepted"))
            .expression_attribute_values(":claimed", text("claimed"))
            .expression_attribute_values(":until", instant(now + CLAIM))
            .expression_attribute_values(":now", instant(now))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let error = match request.send().await {
            Ok(answer) => return Ok(Claim::Taken(item::parse(answer.attributes.unwrap_or_default())?)),
            Err(error) => error,
        };
        let Some(UpdateItemError::ConditionalCheckFailedException(refused)) = error.as_service_error() else {
            return Err(fault("UpdateItem inbox claim")(error));
        };
        let state = refused.item().and_then(|item| item.get("state"));
        Ok(match state.and_then(|state| state.as_s().ok()).map(String::as_str) {
            None => Claim::Missing,
            Some("done") => Claim::Done,
            Some(_) => Claim::Busy,
        })
    }

    async fn finish(&self, app_id: &AppId, event_id: &EventId, now: OffsetDateTime) -> Result<(), PortFault> {
        let update = self
            .leave(app_id, event_id, "done")
            .update_expression("SET #state = :next, #ttl = :forgotten REMOVE claim_until, payload, #kind, #at")
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_names("#kind", "kind")
            .expression_attribute_names("#at", "at")
            .expression_attribute_values(":forgotten", instant(now + REMEMBERED));
        unless_changed(update.send().await.map_err(fault("UpdateItem inbox")))
    }

    async fn release(&self, app_id: &AppId, event_id: &EventId) -> Result<(), PortFault> {
        let update = self.leave(app_id, event_id, "accepted");
        let update = update.update_expression("SET #state = :next REMOVE claim_until");
        unless_changed(update.send().await.map_err(fault("UpdateItem inbox")))
    }
}

#[async_trait]
impl OpenEntries for Table {
    async fn unanswered(&self, now: OffsetDateTime, limit: u32) -> Result<Vec<Entry>, PortFault> {
        let mut entries = Vec::new();
        for number in 0..SHARDS {
            let page = self
                .client
                .query()
                .table_name(&self.name)
                .index_name("by_time")
                .key_condition_expression("#kind = :open AND #at <= :now")
                .expression_attribute_names("#kind", "kind")
                .expression_attribute_names("#at", "at")
                .expression_attribute_values(":open", text(shard(number)))
                .expression_attribute_values(":now", instant(now))
                .limit(i32::try_from(limit.div_ceil(SHARDS)).unwrap_or(i32::MAX))
                .send()
                .await
                .map_err(fault("Query open inbox"))?;
            for key in page.items.unwrap_or_default() {
                entries.extend(self.if_open(key, now).await?);
            }
        }
        entries.truncate(limit as usize);
        Ok(entries)
    }

    async fn put_off(&self, app_id: &AppId, event_id: &EventId, until: OffsetDateTime) -> Result<(), PortFault> {
        let update = self
            .update(app_id, event_id)
            .update_expression("SET #at = :until")
            .condition_expression("attribute_exists(#at)")
            .expression_attribute_names("#at", "at")
            .expression_attribute_values(":until", instant(until));
        unless_changed(update.send().await.map_err(fault("UpdateItem inbox")))
    }
}

impl Table {
    fn update(&self, app_id: &AppId, event_id: &EventId) -> UpdateItemFluentBuilder {
        let update = self.client.update_item().table_name(&self.name);
        update.key("pk", text(pk(app_id, event_id))).key("sk", text("INBOX"))
    }

    /// Leaves a claim. An entry that nobody claims any more stays as it is.
    fn leave(&self, app_id: &AppId, event_id: &EventId, next: &str) -> UpdateItemFluentBuilder {
        self.update(app_id, event_id)
            .condition_expression("#state = :claimed")
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":claimed", text("claimed"))
            .expression_attribute_values(":next", text(next))
    }

    /// The entry that the index names, if it is still due: an index is always a little behind.
    async fn if_open(&self, index: Item, now: OffsetDateTime) -> Result<Option<Entry>, PortFault> {
        let key = index.into_iter().filter(|(name, _)| matches!(name.as_str(), "pk" | "sk")).collect();
        let request = self.client.get_item().table_name(&self.name).set_key(Some(key)).consistent_read(true);
        let item = request.send().await.map_err(fault("GetItem inbox"))?.item;
        let due = |item: &Item| item.get("at")?.as_n().ok()?.parse().ok().map(|at: i64| at <= now.unix_timestamp());
        item.filter(|item| due(item).unwrap_or_default()).map(item::parse).transpose()
    }
}

/// A condition that no longer holds means that somebody else was faster, and right.
fn unless_changed<T>(result: Result<T, PortFault>) -> Result<(), PortFault> {
    match result {
        Ok(_) | Err(PortFault::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
