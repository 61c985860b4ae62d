//! User tokens.

use async_trait::async_trait;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem};
use domain::fault::PortFault;
use domain::id::{AppId, OpenId};
use domain::session::Session;
use domain::token::{Lease, Page, TokenStore, UserToken};
use time::OffsetDateTime;

use crate::Table;
use crate::item::{self, Item, fault, instant, number, text, transact};
use crate::session;

/// The stored record is the one that was read.
const SAME: &str = "session_id = :session AND #version = :version";

pub(crate) fn pk(app_id: &AppId, open_id: &OpenId) -> String {
    format!("USER#{app_id}#{open_id}")
}

pub(crate) fn item(token: &UserToken) -> Result<Item, PortFault> {
    let mut item = item::item("token", pk(&token.app_id, &token.open_id), token)?;
    item.insert("kind".to_owned(), text("token"));
    item.insert("at".to_owned(), instant(token.due_at()));
    Ok(item)
}

#[async_trait]
impl TokenStore for Table {
    async fn get(&self, app_id: &AppId, open_id: &OpenId) -> Result<Option<UserToken>, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key("pk", text(pk(app_id, open_id))).key("sk", text("TOKEN"));
        let answer = request.send().await.map_err(fault("GetItem token"))?;
        answer.item.map(item::parse).transpose()
    }

    async fn lease(
        &self,
        token: &UserToken,
        now: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<Lease<UserToken>, PortFault> {
        let request = self
            .client
            .update_item()
            .table_name(&self.name)
            .key("pk", text(pk(&token.app_id, &token.open_id)))
            .key("sk", text("TOKEN"))
            .update_expression("SET lease_until = :until")
            .condition_expression(format!("{SAME} AND (attribute_not_exists(lease_until) OR lease_until <= :now)"))
            .expression_attribute_names("#version", "version")
            .expression_attribute_values(":session", text(token.session_id.as_str()))
            .expression_attribute_values(":version", number(token.version))
            .expression_attribute_values(":now", instant(now))
            .expression_attribute_values(":until", instant(until))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let error = match request.send().await {
            Ok(_) => return Ok(Lease::Taken),
            Err(error) => error,
        };
        let Some(UpdateItemError::ConditionalCheckFailedException(refused)) = error.as_service_error() else {
            return Err(fault("UpdateItem token lease")(error));
        };
        Ok(match refused.item() {
            Some(item) => Lease::Held(item::parse(item.clone())?),
            None => Lease::Gone,
        })
    }

    async fn replace(&self, before: &UserToken, after: &UserToken, ask: Option<&Session>) -> Result<(), PortFault> {
        const OPERATION: &str = "TransactWriteItems token";
        let put = Put::builder()
            .table_name(&self.name)
            .set_item(Some(item(after)?))
            .condition_expression(SAME)
            .expression_attribute_names("#version", "version")
            .expression_attribute_values(":session", text(before.session_id.as_str()))
            .expression_attribute_values(":version", number(before.version))
            .build()
            .map_err(|cause| item::broken(OPERATION, &cause))?;
        let mut request = self.client.transact_write_items();
        request = request.transact_items(TransactWriteItem::builder().put(put).build());
        if let Some(ask) = ask {
            for put in [session::new_session(&self.name, ask)?, session::new_ask(&self.name, ask)] {
                let put = put.build().map_err(|cause| item::broken(OPERATION, &cause))?;
                request = request.transact_items(TransactWriteItem::builder().put(put).build());
            }
        }
        transact(request, OPERATION).await
    }

    async fn forget(&self, token: &UserToken) -> Result<(), PortFault> {
        let result = self
            .client
            .delete_item()
            .table_name(&self.name)
            .key("pk", text(pk(&token.app_id, &token.open_id)))
            .key("sk", text("TOKEN"))
            .condition_expression(SAME)
            .expression_attribute_names("#version", "version")
            .expression_attribute_values(":session", text(token.session_id.as_str()))
            .expression_attribute_values(":version", number(token.version))
            .send()
            .await
            .map_err(fault("DeleteItem token"));
        match result {
            Ok(_) | Err(PortFault::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn due(&self, now: OffsetDateTime, limit: u32) -> Result<Vec<(AppId, OpenId)>, PortFault> {
        let page = self
            .client
            .query()
            .table_name(&self.name)
            .index_name("by_time")
            .key_condition_expression("#kind = :token AND #at <= :now")
            .expression_attribute_names("#kind", "kind")
            .expression_attribute_names("#at", "at")
            .expression_attribute_values(":token", text("token"))
            .expression_attribute_values(":now", instant(now))
            .limit(i32::try_from(limit).unwrap_or(i32::MAX))
            .send()
            .await
            .map_err(fault("Query due tokens"))?;
        page.items.unwrap_or_default().iter().map(whose).collect()
    }

    async fn page(&self, cursor: Option<String>, limit: u32) -> Result<Page, PortFault> {
        let page = self
            .client
            .query()
            .table_name(&self.name)
            .index_name("by_time")
            .key_condition_expression("#kind = :token")
            .expression_attribute_names("#kind", "kind")
            .expression_attribute_values(":token", text("token"))
            .limit(i32::try_from(limit).unwrap_or(i32::MAX))
            .set_exclusive_start_key(cursor.as_deref().and_then(start_key))
            .send()
            .await
            .map_err(fault("Query tokens"))?;
        let cursor = page.last_evaluated_key.as_ref().and_then(cursor_of);
        let mut tokens = Vec::new();
        let keys = page.items.unwrap_or_default().iter().map(item::primary_key).collect();
        for item in self.batch_get(keys, "BatchGetItem tokens").await? {
            tokens.push(item::parse(item)?);
        }
        Ok(Page { tokens, cursor })
    }
}

/// Whose token a key of the index is.
fn whose(key: &Item) -> Result<(AppId, OpenId), PortFault> {
    const OPERATION: &str = "Query due tokens";
    let broken = || PortFault::Broken { operation: OPERATION, detail: "a key is not a token's".to_owned() };
    let pk = key.get("pk").and_then(|pk| pk.as_s().ok()).ok_or_else(broken)?;
    let (app, person) = pk.strip_prefix("USER#").and_then(|rest| rest.split_once('#')).ok_or_else(broken)?;
    let app = AppId::parse(app).map_err(|cause| item::broken(OPERATION, &cause))?;
    Ok((app, OpenId::parse(person).map_err(|cause| item::broken(OPERATION, &cause))?))
}

/// The place after which the next page of the index begins, as `<at>|<pk>`.
fn cursor_of(key: &Item) -> Option<String> {
    Some(format!("{}|{}", key.get("at")?.as_n().ok()?, key.get("pk")?.as_s().ok()?))
}

fn start_key(cursor: &str) -> Option<Item> {
    let (at, pk) = cursor.split_once('|')?;
    let mut key = Item::from(
        [("pk", pk), ("sk", "TOKEN"), ("kind", "token")].map(|(name, value)| (name.to_owned(), text(value))),
    );
    key.insert("at".to_owned(), AttributeValue::N(at.to_owned()));
    Some(key)
}
