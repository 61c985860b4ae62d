//! Sessions and attempts.

use async_trait::async_trait;
use aws_sdk_dynamodb::types::builders::PutBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, Put, ReturnValue, TransactWriteItem, Update};
use domain::fault::PortFault;
use domain::id::{MessageId, SessionId};
use domain::session::{ASK_AGAIN, Asked, Attempt, SESSION_REMEMBERED, Session, SessionStatus, SessionStore};
use domain::token::UserToken;
use time::{Duration, OffsetDateTime};

use crate::Table;
use crate::item::{self, Item, fault, instant, number, text, transact};
use crate::token;

const END: &str = "SET #status = :status, failure = :failure, #version = :version REMOVE #kind, #at";
const UNCHANGED: &str = "#version = :before AND #status = :pending";

fn pk(session_id: &SessionId) -> String {
    format!("SESSION#{session_id}")
}

fn status(status: SessionStatus) -> &'static str {
    match status {
        SessionStatus::Pending => "pending",
        SessionStatus::Completed => "completed",
        SessionStatus::Rejected => "rejected",
        SessionStatus::Expired => "expired",
        SessionStatus::Failed => "failed",
    }
}

#[async_trait]
impl SessionStore for Table {
    async fn get(&self, session_id: &SessionId) -> Result<Option<Session>, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key("pk", text(pk(session_id))).key("sk", text("SESSION"));
        let answer = request.send().await.map_err(fault("GetItem session"))?;
        answer.item.map(item::parse).transpose()
    }

    async fn create(&self, session: &Session) -> Result<(), PortFault> {
        let request = self.client.put_item().table_name(&self.name).set_item(Some(new_item(session)?));
        request.condition_expression("attribute_not_exists(pk)").send().await.map_err(fault("PutItem session"))?;
        Ok(())
    }

    async fn end(&self, session: &Session, token: Option<&UserToken>) -> Result<(), PortFault> {
        let failure = session.failure.clone().map_or(AttributeValue::Null(true), text);
        let update = Update::builder()
            .table_name(&self.name)
            .key("pk", text(pk(&session.session_id)))
            .key("sk", text("SESSION"))
            .update_expression(END)
            .condition_expression(UNCHANGED)
            .expression_attribute_names("#status", "status")
            .expression_attribute_names("#version", "version")
            .expression_attribute_names("#kind", "kind")
            .expression_attribute_names("#at", "at")
            .expression_attribute_values(":status", text(status(session.status)))
            .expression_attribute_values(":failure", failure)
            .expression_attribute_values(":version", number(session.version))
            .expression_attribute_values(":before", number(session.version.saturating_sub(1)))
            .expression_attribute_values(":pending", text(status(SessionStatus::Pending)))
            .build()
            .map_err(|cause| item::broken("TransactWriteItems session", &cause))?;
        let mut request =
            self.client.transact_write_items().transact_items(TransactWriteItem::builder().update(update).build());
        if let Some(token) = token {
            let put = Put::builder().table_name(&self.name).set_item(Some(token::item(token)?)).build();
            let put = put.map_err(|cause| item::broken("TransactWriteItems session", &cause))?;
            request = request.transact_items(TransactWriteItem::builder().put(put).build());
        }
        transact(request, "TransactWriteItems session").await
    }

    async fn card_shown(&self, session_id: &SessionId, message_id: &MessageId, version: u64) -> Result<(), PortFault> {
        let result = self
            .client
            .update_item()
            .table_name(&self.name)
            .key("pk", text(pk(session_id)))
            .key("sk", text("SESSION"))
            .update_expression("SET message_id = :message, shown_version = :version")
            .condition_expression("shown_version < :version")
            .expression_attribute_values(":message", text(message_id.as_str()))
            .expression_attribute_values(":version", number(version))
            .send()
            .await
            .map_err(fault("UpdateItem session"));
        match result {
            Ok(_) | Err(PortFault::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn put_attempt(&self, attempt: &Attempt) -> Result<(), PortFault> {
        let mut item = item::item("attempt", attempt_pk(&attempt.state_hash), attempt)?;
        item.insert("ttl".to_owned(), instant(attempt.expires_at + Duration::hours(1)));
        let request = self.client.put_item().table_name(&self.name).set_item(Some(item));
        request.send().await.map_err(fault("PutItem attempt"))?;
        Ok(())
    }

    async fn take_attempt(&self, state_hash: &str) -> Result<Option<Attempt>, PortFault> {
        let request = self.client.delete_item().table_name(&self.name).return_values(ReturnValue::AllOld);
        let request = request.key("pk", text(attempt_pk(state_hash))).key("sk", text(item::sort_key("attempt")));
        let answer = request.send().await.map_err(fault("DeleteItem attempt"))?;
        answer.attributes.map(item::parse).transpose()
    }

    async fn ask(&self, session: &Session) -> Result<Asked, PortFault> {
        const OPERATION: &str = "TransactWriteItems ask";
        let recent = "attribute_not_exists(pk) OR asked_until <= :now OR scopes <> :scopes";
        let ask = new_ask(&self.name, session)
            .condition_expression(recent)
            .expression_attribute_values(":now", instant(session.created_at))
            .expression_attribute_values(":scopes", scopes(session));
        let mut request = self.client.transact_write_items();
        for put in [new_session(&self.name, session)?, ask] {
            let put = put.build().map_err(|cause| item::broken(OPERATION, &cause))?;
            request = request.transact_items(TransactWriteItem::builder().put(put).build());
        }
        match transact(request, OPERATION).await {
            Ok(()) => return Ok(Asked::Now),
            Err(PortFault::Conflict { .. }) => {}
            Err(fault) => return Err(fault),
        }
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key("pk", text(token::pk(&session.app_id, &session.open_id))).key("sk", text("ASK"));
        let answer = request.send().await.map_err(fault("GetItem ask"))?;
        let before = answer.item.and_then(|item| item.get("session_id")?.as_s().ok().cloned());
        let before = before.ok_or(PortFault::Conflict { operation: OPERATION })?;
        SessionId::parse(before).map(Asked::Before).map_err(|cause| item::broken(OPERATION, &cause))
    }

    async fn overdue(&self, now: OffsetDateTime, limit: u32) -> Result<Vec<SessionId>, PortFault> {
        let page = self
            .client
            .query()
            .table_name(&self.name)
            .index_name("by_time")
            .key_condition_expression("#kind = :pending AND #at <= :now")
            .expression_attribute_names("#kind", "kind")
            .expression_attribute_names("#at", "at")
            .expression_attribute_values(":pending", text("session.pending"))
            .expression_attribute_values(":now", instant(now))
            .limit(i32::try_from(limit).unwrap_or(i32::MAX))
            .send()
            .await
            .map_err(fault("Query overdue sessions"))?;
        let keys = page.items.unwrap_or_default();
        let ids = keys.iter().filter_map(|key| key.get("pk")?.as_s().ok()?.strip_prefix("SESSION#"));
        ids.map(|id| SessionId::parse(id).map_err(|cause| item::broken("Query overdue sessions", &cause))).collect()
    }
}

fn new_item(session: &Session) -> Result<Item, PortFault> {
    let mut item = item::item("session", pk(&session.session_id), session)?;
    item.insert("kind".to_owned(), text("session.pending"));
    item.insert("at".to_owned(), instant(session.expires_at));
    item.insert("ttl".to_owned(), instant(session.created_at + SESSION_REMEMBERED));
    Ok(item)
}

/// Keeps a session whose id is new.
pub(crate) fn new_session(table: &str, session: &Session) -> Result<PutBuilder, PortFault> {
    let put = Put::builder().table_name(table).set_item(Some(new_item(session)?));
    Ok(put.condition_expression("attribute_not_exists(pk)"))
}

/// Notes that a person was asked.
pub(crate) fn new_ask(table: &str, session: &Session) -> PutBuilder {
    let until = session.created_at + ASK_AGAIN;
    Put::builder()
        .table_name(table)
        .item("pk", text(token::pk(&session.app_id, &session.open_id)))
        .item("sk", text("ASK"))
        .item("entity", text("ask"))
        .item("session_id", text(session.session_id.as_str()))
        .item("scopes", scopes(session))
        .item("asked_until", instant(until))
        .item("ttl", instant(until))
}

fn scopes(session: &Session) -> AttributeValue {
    AttributeValue::L(session.scopes.iter().map(text).collect())
}

fn attempt_pk(state_hash: &str) -> String {
    format!("STATE#{state_hash}")
}
