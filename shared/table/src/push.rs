//! How far conversations were pushed, and what of them is not.

use std::collections::HashMap;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use domain::chat::Conversation;
use domain::fault::PortFault;
use domain::id::ConversationId;
use domain::push::{Backlog, Line, PushState, PushStore, Unpushed, UnpushedPage};
use time::OffsetDateTime;

use crate::Table;
use crate::chat::{UNPUSHED_SHARDS, conversation_pk, message_sk, unpushed};
use crate::item::{self, Item, fault, instant, number, text};

#[async_trait]
impl Backlog for Table {
    async fn after(
        &self,
        conversation_id: &ConversationId,
        after_seq: u64,
        limit: u32,
    ) -> Result<Vec<Line>, PortFault> {
        let request = self
            .client
            .query()
            .table_name(&self.name)
            .consistent_read(true)
            .key_condition_expression("pk = :conversation AND sk BETWEEN :first AND :last")
            .expression_attribute_values(":conversation", text(conversation_pk(conversation_id)))
            .expression_attribute_values(":first", text(message_sk(after_seq.saturating_add(1))))
            .expression_attribute_values(":last", text(message_sk(u64::MAX)))
            .limit(i32::try_from(limit).unwrap_or(i32::MAX));
        let page = request.send().await.map_err(fault("Query messages"))?;
        page.items.unwrap_or_default().into_iter().map(line).collect()
    }

    async fn conversations(&self, ids: &[&ConversationId]) -> Result<Vec<Conversation>, PortFault> {
        let key = |id: &&ConversationId| {
            HashMap::from([("pk".to_owned(), text(conversation_pk(id))), ("sk".to_owned(), text("META"))])
        };
        let found = self.batch_get(ids.iter().map(key).collect(), "BatchGetItem conversations").await?;
        found.into_iter().map(item::parse).collect()
    }
}

/// An item that does not parse still has its place in the order.
fn line(item: Item) -> Result<Line, PortFault> {
    let sk = item.get("sk").and_then(|sk| sk.as_s().ok());
    let seq = sk.and_then(|sk| sk.strip_prefix("MSG#")?.parse().ok());
    let seq = seq.ok_or_else(|| PortFault::Broken {
        operation: "Query messages",
        detail: format!("a message has no place: {sk:?}"),
    })?;
    match item::parse(item) {
        Ok(message) => Ok(Line::Message(Box::new(message))),
        Err(error) => {
            tracing::error!(error = %domain::fault::chain(&error), "A message cannot be read");
            Ok(Line::Unrenderable { seq })
        }
    }
}

#[async_trait]
impl PushStore for Table {
    async fn state(&self, conversation_id: &ConversationId) -> Result<PushState, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key("pk", text(conversation_pk(conversation_id))).key("sk", text("PUSH"));
        let answer = request.send().await.map_err(fault("GetItem push"))?;
        Ok(answer.item.map(item::parse).transpose()?.unwrap_or_default())
    }

    async fn advance(&self, conversation_id: &ConversationId, next: &PushState) -> Result<bool, PortFault> {
        let item = item::item("push", conversation_pk(conversation_id), next)?;
        let request = self.client.put_item().table_name(&self.name).set_item(Some(item));
        let request = match next.version {
            1 => request.condition_expression("attribute_not_exists(pk)"),
            later => request
                .condition_expression("version = :before")
                .expression_attribute_values(":before", number(later.saturating_sub(1))),
        };
        match request.send().await.map_err(fault("PutItem push")) {
            Ok(_) => Ok(true),
            Err(PortFault::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn settle(&self, conversation_id: &ConversationId, seq: u64) -> Result<(), PortFault> {
        let update = self
            .client
            .update_item()
            .table_name(&self.name)
            .key("pk", text(conversation_pk(conversation_id)))
            .key("sk", text("META"))
            .update_expression("REMOVE #kind, #at")
            .condition_expression("seq = :seq")
            .expression_attribute_names("#kind", "kind")
            .expression_attribute_names("#at", "at")
            .expression_attribute_values(":seq", number(seq));
        match update.send().await.map_err(fault("UpdateItem settled")) {
            // There is more by now, and the sweep may look at it.
            Ok(_) | Err(PortFault::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Unpushed for Table {
    /// Shard after shard; the place is the shard's number, and of a page within it the key behind which the next one begins.
    async fn unpushed(&self, until: OffsetDateTime, from: Option<&str>, limit: u32) -> Result<UnpushedPage, PortFault> {
        let (shard, start) = from.map(parse_place).transpose()?.unwrap_or_default();
        let page = self
            .client
            .query()
            .table_name(&self.name)
            .index_name("by_time")
            .key_condition_expression("#kind = :unpushed AND #at <= :until")
            .expression_attribute_names("#kind", "kind")
            .expression_attribute_names("#at", "at")
            .expression_attribute_values(":unpushed", text(unpushed(shard)))
            .expression_attribute_values(":until", instant(until))
            .set_exclusive_start_key(start.map(|(pk, at)| start_key(shard, pk, at)))
            .limit(i32::try_from(limit).unwrap_or(i32::MAX))
            .send()
            .await
            .map_err(fault("Query unpushed"))?;
        let next = match page.last_evaluated_key {
            Some(key) => Some(place(shard, &key)?),
            None => Some(shard + 1).filter(|next| *next < UNPUSHED_SHARDS).map(|next| next.to_string()),
        };
        let conversation = |item: Item| {
            let pk = item.get("pk")?.as_s().ok()?.strip_prefix("CONV#")?.to_owned();
            ConversationId::parse(pk).ok()
        };
        Ok(UnpushedPage {
            conversations: page.items.unwrap_or_default().into_iter().filter_map(conversation).collect(),
            next,
        })
    }
}

fn start_key(shard: u32, pk: String, at: String) -> Item {
    let values =
        [("pk", text(pk)), ("sk", text("META")), ("kind", text(unpushed(shard))), ("at", AttributeValue::N(at))];
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn place(shard: u32, key: &Item) -> Result<String, PortFault> {
    let pk = key.get("pk").and_then(|pk| pk.as_s().ok());
    let at = key.get("at").and_then(|at| at.as_n().ok());
    match (pk, at) {
        (Some(pk), Some(at)) => Ok(format!("{shard} {at} {pk}")),
        _ => Err(PortFault::Broken { operation: "Query unpushed", detail: "a page ends without a key".to_owned() }),
    }
}

type Start = (u32, Option<(String, String)>);

fn parse_place(place: &str) -> Result<Start, PortFault> {
    let bad = || PortFault::Broken { operation: "Query unpushed", detail: format!("`{place}` is no place") };
    let mut parts = place.splitn(3, ' ');
    let shard = parts.next().and_then(|shard| shard.parse().ok()).ok_or_else(bad)?;
    match (parts.next(), parts.next()) {
        (None, _) => Ok((shard, None)),
        (Some(at), Some(pk)) => Ok((shard, Some((pk.to_owned(), at.to_owned())))),
        (Some(_), None) => Err(bad()),
    }
}
