//! Conversations, who is in them, and how far each has read.

use std::collections::BTreeMap;

use async_trait::async_trait;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    AttributeValue, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, builders::PutBuilder,
};
use domain::chat::{
    Conversation, ConversationKind, ConversationStore, Created, Joined, Memberships, Progress, ReadMark, Recent,
    Standing, standing,
};
use domain::fault::PortFault;
use domain::id::{ChannelName, ConversationId, TenantId, UserId};
use domain::push::PushStore;
use futures_util::future::try_join;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::Table;
use crate::batch::BATCH;
use crate::channel::{CHANNEL, mark_key};
use crate::item::{self, Cancelled, Item, TURNS, await_turn, cancelled, fault, number, text};

/// How many items a transaction takes.
const TRANSACTION: usize = 100;

/// Conversations with something unpushed are spread over this many keys of the index: one key takes 500 of them per second, a write each to
/// come and to go.
pub(crate) const UNPUSHED_SHARDS: u32 = 4;

/// The greatest number that a sort key has digits for.
const LAST_SEQ: u64 = 999_999_999_999;

/// How far one member has read.
#[derive(Debug, Serialize, Deserialize)]
struct Membership {
    conversation_id: ConversationId,
    read_seq: u64,
    #[serde(with = "time::serde::rfc3339")]
    joined_at: OffsetDateTime,
}

/// What of a conversation says where it stands.
#[derive(Debug, Deserialize)]
struct Activity {
    conversation_id: ConversationId,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    last_message: Option<LastSaid>,
}

#[derive(Debug, Deserialize)]
struct LastSaid {
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl Activity {
    fn standing(self) -> Standing {
        standing(self.conversation_id, self.created_at, self.last_message.map(|last| last.created_at))
    }
}

fn meta_key(conversation_id: &ConversationId) -> Item {
    item::key(conversation_pk(conversation_id), "META".to_owned())
}

pub(crate) fn conversation_pk(conversation_id: &ConversationId) -> String {
    format!("CONV#{conversation_id}")
}

fn user_pk(tenant_id: &TenantId, user_id: &UserId) -> String {
    format!("USER#{tenant_id}#{user_id}")
}

/// Twelve digits, so that numbers stand in their order.
pub(crate) fn message_sk(seq: u64) -> String {
    format!("MSG#{:012}", seq.min(LAST_SEQ))
}

/// The index key of conversations with something unpushed.
pub(crate) fn unpushed(shard: u32) -> String {
    format!("chat.unpushed.{shard}")
}

/// The index key that a conversation has while something of it may be unpushed.
pub(crate) fn unpushed_kind(conversation_id: &ConversationId) -> String {
    let sum = conversation_id.as_str().bytes().fold(0, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    unpushed(sum % UNPUSHED_SHARDS)
}

#[async_trait]
impl Memberships for Table {
    async fn conversation(&self, conversation_id: &ConversationId) -> Result<Option<Conversation>, PortFault> {
        let request = self.client.get_item().table_name(&self.name).consistent_read(true);
        let request = request.key("pk", text(conversation_pk(conversation_id))).key("sk", text("META"));
        request.send().await.map_err(fault("GetItem conversation"))?.item.map(item::parse).transpose()
    }
}

#[async_trait]
impl ConversationStore for Table {
    /// A membership whose conversation was not written after all is nothing: readers skip it.
    async fn create(&self, conversation: &Conversation) -> Result<Created, PortFault> {
        const OPERATION: &str = "TransactWriteItems conversation";
        let mut puts = vec![self.new_conversation(conversation)?];
        puts.extend(self.new_pair(conversation)?);
        let room = TRANSACTION - puts.len();
        for (n, user_id) in conversation.members.iter().enumerate() {
            let membership = self.new_membership(conversation, user_id)?;
            if n < room {
                puts.push(Put::builder().table_name(&self.name).set_item(Some(membership)));
            } else {
                let request = self.client.put_item().table_name(&self.name).set_item(Some(membership));
                request.send().await.map_err(fault("PutItem membership"))?;
            }
        }
        let mut request = self.client.transact_write_items();
        for put in puts {
            let put = put.build().map_err(|cause| item::broken(OPERATION, &cause))?;
            request = request.transact_items(TransactWriteItem::builder().put(put).build());
        }
        for turn in 0..TURNS {
            await_turn(turn).await;
            let refused = match request.clone().send().await.map_err(cancelled(OPERATION)) {
                Ok(_) => return Ok(Created::New),
                Err(Cancelled::Met(_)) => continue,
                Err(Cancelled::Fault(fault)) => return Err(fault),
                Err(Cancelled::Refused(refused)) => refused,
            };
            // An answer that was lost: what is there is this very conversation.
            let pair = refused.get(1).cloned().flatten().flatten();
            let before = match pair.as_ref().and_then(|pair| pair.get("conversation_id")?.as_s().ok()) {
                Some(id) if *id == conversation.conversation_id.as_str() => return Ok(Created::New),
                Some(id) => ConversationId::parse(id).map_err(|cause| item::broken(OPERATION, &cause))?,
                None => return Err(PortFault::Conflict { operation: OPERATION }),
            };
            let before = self.conversation(&before).await?;
            let lost = || PortFault::Broken { operation: OPERATION, detail: "a pair has no conversation".to_owned() };
            return before.map(|before| Created::Before(Box::new(before))).ok_or_else(lost);
        }
        Err(PortFault::Conflict { operation: OPERATION })
    }

    /// One batch is read as it is. Of more, only where each stands is read, and then the page.
    async fn recent(
        &self,
        tenant_id: &TenantId,
        user_id: &UserId,
        skip: usize,
        take: usize,
    ) -> Result<Recent, PortFault> {
        let marks = self.memberships(tenant_id, user_id).await?;
        if marks.len() <= BATCH {
            return Ok(Recent::of(self.joined(marks.keys(), &marks).await?, skip, take));
        }
        let mut standings = self.standings(marks.keys()).await?;
        standings.sort_unstable();
        let page = standings.iter().skip(skip).take(take).map(|(_, id)| id);
        let page = Recent::of(self.joined(page, &marks).await?, 0, take).page;
        Ok(Recent { page, total: standings.len() })
    }

    async fn progress(&self, conversation: &Conversation) -> Result<Progress, PortFault> {
        let id = &conversation.conversation_id;
        let key = |user: &UserId| item::key(user_pk(&conversation.tenant_id, user), conversation_pk(id));
        let outside = conversation.channels.iter().map(|channel| mark_key(id, &channel.name));
        let keys = conversation.members.iter().map(key).chain(outside.map(|(pk, sk)| item::key(pk, sk)));
        let memberships = self.batch_get(keys.collect(), "BatchGetItem memberships");
        let pushed = PushStore::state(self, id);
        let (memberships, pushed) = try_join(memberships, pushed).await?;
        let (mut read, mut channels) = (BTreeMap::new(), BTreeMap::new());
        let own = format!("USER#{}#", conversation.tenant_id);
        for found in memberships {
            if let Some(channel) = found.get("sk").and_then(|sk| sk.as_s().ok()?.strip_prefix(CHANNEL)) {
                let name = ChannelName::parse(channel).map_err(|cause| item::broken("BatchGetItem marks", &cause))?;
                channels.insert(name, item::parse(found)?);
                continue;
            }
            let user = found.get("pk").and_then(|pk| pk.as_s().ok()?.strip_prefix(&own)).unwrap_or_default();
            let user = UserId::parse(user).map_err(|cause| item::broken("BatchGetItem memberships", &cause))?;
            let membership: Membership = item::parse(found)?;
            let read_seq = conversation.read_seq(&user, membership.read_seq);
            read.insert(user, read_seq);
        }
        Ok(Progress { delivered: pushed.delivered, read, channels })
    }

    async fn mark_read(&self, conversation: &Conversation, user_id: &UserId, seq: u64) -> Result<ReadMark, PortFault> {
        const OPERATION: &str = "UpdateItem membership";
        let request = self
            .client
            .update_item()
            .table_name(&self.name)
            .key("pk", text(user_pk(&conversation.tenant_id, user_id)))
            .key("sk", text(conversation_pk(&conversation.conversation_id)))
            .update_expression("SET read_seq = :seq")
            .condition_expression("read_seq < :seq")
            .expression_attribute_values(":seq", number(seq))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let error = match request.send().await {
            Ok(_) => return Ok(ReadMark { marked: seq, moved: true }),
            Err(error) => error,
        };
        let Some(UpdateItemError::ConditionalCheckFailedException(refused)) = error.as_service_error() else {
            return Err(fault(OPERATION)(error));
        };
        let lost = || PortFault::Broken { operation: OPERATION, detail: "a member has no membership".to_owned() };
        let membership: Membership = item::parse(refused.item.clone().ok_or_else(lost)?)?;
        Ok(ReadMark { marked: membership.read_seq, moved: false })
    }
}

impl Table {
    fn new_conversation(&self, conversation: &Conversation) -> Result<PutBuilder, PortFault> {
        let mut item = item::item_at(
            "conversation",
            conversation_pk(&conversation.conversation_id),
            "META".to_owned(),
            conversation,
        )?;
        let members = conversation.members.iter().map(|user| user.as_str().to_owned()).collect();
        item.insert("members".to_owned(), AttributeValue::Ss(members));
        let put = Put::builder().table_name(&self.name).set_item(Some(item));
        Ok(put.condition_expression("attribute_not_exists(pk)"))
    }

    /// What makes a private conversation the only one of its two people. No name holds the separator.
    fn new_pair(&self, conversation: &Conversation) -> Result<Option<PutBuilder>, PortFault> {
        if conversation.kind != ConversationKind::Private {
            return Ok(None);
        }
        let people: Vec<&str> = conversation.members.iter().map(UserId::as_str).collect();
        let pk = format!("PAIR#{}#{}", conversation.tenant_id, people.join("#"));
        let value = BTreeMap::from([("conversation_id", conversation.conversation_id.as_str())]);
        let put = Put::builder().table_name(&self.name).set_item(Some(item::item("pair", pk, &value)?));
        let put = put.condition_expression("attribute_not_exists(pk)");
        Ok(Some(put.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)))
    }

    fn new_membership(&self, conversation: &Conversation, user_id: &UserId) -> Result<Item, PortFault> {
        let membership = Membership {
            conversation_id: conversation.conversation_id.clone(),
            read_seq: 0,
            joined_at: conversation.created_at,
        };
        let at = (user_pk(&conversation.tenant_id, user_id), conversation_pk(&conversation.conversation_id));
        item::item_at("membership", at.0, at.1, &membership)
    }

    async fn joined(
        &self,
        ids: impl Iterator<Item = &ConversationId>,
        marks: &BTreeMap<ConversationId, u64>,
    ) -> Result<Vec<Joined>, PortFault> {
        let found = self.batch_get(ids.map(meta_key).collect(), "BatchGetItem conversations").await?;
        let joined = found.into_iter().map(|found| {
            let conversation: Conversation = item::parse(found)?;
            let marked = marks.get(&conversation.conversation_id).copied().unwrap_or_default();
            Ok(Joined { conversation, marked })
        });
        joined.collect()
    }

    async fn standings(&self, ids: impl Iterator<Item = &ConversationId>) -> Result<Vec<Standing>, PortFault> {
        const PART: &str = "conversation_id, created_at, last_message.created_at";
        let found = self.batch_get_part(ids.map(meta_key).collect(), Some(PART), "BatchGetItem standings").await?;
        found.into_iter().map(|found| Ok(item::parse::<Activity>(found)?.standing())).collect()
    }

    /// Which conversations somebody is in, and how far they say they have read each.
    async fn memberships(
        &self,
        tenant_id: &TenantId,
        user_id: &UserId,
    ) -> Result<BTreeMap<ConversationId, u64>, PortFault> {
        let mut marks = BTreeMap::new();
        let mut start: Option<Item> = None;
        loop {
            let request = self.client.query().table_name(&self.name).consistent_read(true);
            let page = request
                .key_condition_expression("pk = :user AND begins_with(sk, :conversation)")
                .expression_attribute_values(":user", text(user_pk(tenant_id, user_id)))
                .expression_attribute_values(":conversation", text("CONV#"))
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(fault("Query memberships"))?;
            for found in page.items.unwrap_or_default() {
                let membership: Membership = item::parse(found)?;
                marks.insert(membership.conversation_id, membership.read_seq);
            }
            start = page.last_evaluated_key;
            if start.is_none() {
                return Ok(marks);
            }
        }
    }
}
