//! The inbox.

use async_trait::async_trait;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use domain::fault::PortFault;
use domain::id::{AppId, EventId};
use domain::inbox::{Acceptance, CLAIM, Claim, Entry, Inbox, REMEMBERED};
use time::OffsetDateTime;

use crate::Table;
use crate::item::{self, fault, instant, text};

fn pk(app_id: &AppId, event_id: &EventId) -> String {
    format!("INBOX#{app_id}#{event_id}")
}

#[async_trait]
impl Inbox for Table {
    async fn accept(&self, entry: &Entry) -> Result<Acceptance, PortFault> {
        let mut item = item::item("inbox", pk(&entry.app_id, &entry.event_id), entry)?;
        item.insert("state".to_owned(), text("accepted"));
        item.insert("ttl".to_owned(), instant(entry.received_at + REMEMBERED));
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
            .client
            .update_item()
            .table_name(&self.name)
            .key("pk", text(pk(app_id, event_id)))
            .key("sk", text("INBOX"))
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

    async fn finish(&self, app_id: &AppId, event_id: &EventId) -> Result<(), PortFault> {
        self.move_to(app_id, event_id, "done", "SET #state = :next REMOVE claim_until, payload").await
    }

    async fn release(&self, app_id: &AppId, event_id: &EventId) -> Result<(), PortFault> {
        self.move_to(app_id, event_id, "accepted", "SET #state = :next REMOVE claim_until").await
    }
}

impl Table {
    /// Leaves a claim. An entry that nobody claims any more stays as it is.
    async fn move_to(&self, app_id: &AppId, event_id: &EventId, next: &str, update: &str) -> Result<(), PortFault> {
        let result = self
            .client
            .update_item()
            .table_name(&self.name)
            .key("pk", text(pk(app_id, event_id)))
            .key("sk", text("INBOX"))
            .update_expression(update)
            .condition_expression("#state = :claimed")
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":claimed", AttributeValue::S("claimed".to_owned()))
            .expression_attribute_values(":next", text(next))
            .send()
            .await
            .map_err(fault("UpdateItem inbox"));
        match result {
            Ok(_) | Err(PortFault::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
