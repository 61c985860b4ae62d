//! Messages: each takes the next place of its conversation in one transaction, which is also what lets a repetition be known.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use aws_sdk_dynamodb::types::{AttributeValue, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update};
use domain::chat::{
    ChatFault, Committed, Conversation, Draft, Memberships as _, Message, MessageStore, Preview, REPLAYED,
};
use domain::fault::PortFault;
use domain::id::{ChannelName, ConversationId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::Table;
use crate::chat::{conversation_pk, message_sk, unpushed_kind};
use crate::item::{self, Cancelled, TURNS, await_turn, cancelled, fault, instant, number, text};

const OPERATION: &str = "TransactWriteItems message";

/// How many conversations a process remembers.
const REMEMBERED: usize = 512;

/// The table's messages. A process remembers the conversations that it wrote last: while nobody else writes, the next message needs no
/// read, and if somebody did, the failed condition brings back what is there.
#[derive(Debug)]
pub struct TableMessages {
    table: Table,
    seen: Mutex<HashMap<ConversationId, Seen>>,
}

#[derive(Debug, Clone)]
struct Seen {
    conversation: Conversation,
    /// Whether nobody else wrote between the last two messages from here. Otherwise it is read first: a read costs far less than a
    /// transaction that fails.
    alone: bool,
}

/// What makes a repetition known.
#[derive(Debug, Serialize, Deserialize)]
struct Accepted {
    digest: String,
    conversation_id: ConversationId,
    seq: u64,
}

/// What became of one try.
enum Try {
    Committed,
    /// The sender used the name before.
    Accepted(Accepted),
    /// The conversation is not what it was thought to be, but this.
    Found(Box<Option<Conversation>>),
    /// Somebody else was at it.
    Met,
}

fn draft_pk(draft: &Draft) -> String {
    format!("IDEM#{}#{}#{}", draft.tenant_id, draft.from, draft.message_id)
}

impl TableMessages {
    #[must_use]
    pub fn new(table: Table) -> Self {
        Self { table, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<ConversationId, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, conversation: Conversation, alone: bool) {
        let mut seen = self.seen();
        if seen.len() >= REMEMBERED && !seen.contains_key(&conversation.conversation_id) {
            // Forgetting costs a read each, never a wrong answer.
            seen.clear();
        }
        seen.insert(conversation.conversation_id.clone(), Seen { conversation, alone });
    }

    async fn attempt(&self, draft: &Draft, message: &Message) -> Result<Try, PortFault> {
        let request = self
            .table
            .client
            .transact_write_items()
            .transact_items(TransactWriteItem::builder().put(self.accepted(draft, message)?).build())
            .transact_items(TransactWriteItem::builder().update(self.next_place(message)?).build())
            .transact_items(TransactWriteItem::builder().put(self.message(message)?).build());
        let refused = match request.send().await.map_err(cancelled(OPERATION)) {
            Ok(_) => return Ok(Try::Committed),
            Err(Cancelled::Met(_)) => return Ok(Try::Met),
            Err(Cancelled::Fault(fault)) => return Err(fault),
            Err(Cancelled::Refused(refused)) => refused,
        };
        let mut refused = refused.into_iter();
        match (refused.next().flatten(), refused.next().flatten()) {
            (Some(accepted), _) => {
                let lost = || PortFault::Broken { operation: OPERATION, detail: "no old item came back".to_owned() };
                Ok(Try::Accepted(item::parse(accepted.ok_or_else(lost)?)?))
            }
            (None, Some(found)) => Ok(Try::Found(Box::new(found.map(item::parse).transpose()?))),
            (None, None) => {
                let detail = format!("place {} of `{}` is taken", message.seq, message.conversation_id);
                Err(PortFault::Broken { operation: OPERATION, detail })
            }
        }
    }

    fn accepted(&self, draft: &Draft, message: &Message) -> Result<Put, PortFault> {
        let accepted =
            Accepted { digest: draft.digest.clone(), conversation_id: draft.conversation_id.clone(), seq: message.seq };
        let mut item = item::item_at("draft", draft_pk(draft), "IDEM".to_owned(), &accepted)?;
        item.insert("ttl".to_owned(), instant(message.created_at + REPLAYED));
        let put = Put::builder().table_name(&self.table.name).set_item(Some(item));
        let put = put.condition_expression("attribute_not_exists(pk)");
        let put = put.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        put.build().map_err(|cause| item::broken(OPERATION, &cause))
    }

    /// The conversation ends with the message if it ended with the one before, and its sender is a member.
    fn next_place(&self, message: &Message) -> Result<Update, PortFault> {
        let preview = serde_dynamo::to_attribute_value(Preview::of(message));
        let preview = preview.map_err(|cause| item::broken(OPERATION, &cause))?;
        Update::builder()
            .table_name(&self.table.name)
            .key("pk", text(conversation_pk(&message.conversation_id)))
            .key("sk", text("META"))
            .update_expression(
                "SET seq = :seq, sent.#from = :seq, last_message = :preview, \
                 #kind = :unpushed, #at = if_not_exists(#at, :now)",
            )
            .condition_expression("seq = :before AND tenant_id = :tenant AND contains(members, :from)")
            .expression_attribute_names("#from", message.from.as_str())
            .expression_attribute_names("#kind", "kind")
            .expression_attribute_names("#at", "at")
            .expression_attribute_values(":seq", number(message.seq))
            .expression_attribute_values(":before", number(message.seq - 1))
            .expression_attribute_values(":tenant", text(message.tenant_id.as_str()))
            .expression_attribute_values(":from", text(message.from.as_str()))
            .expression_attribute_values(":preview", preview)
            .expression_attribute_values(":unpushed", text(unpushed_kind(&message.conversation_id)))
            .expression_attribute_values(":now", instant(message.created_at))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .map_err(|cause| item::broken(OPERATION, &cause))
    }

    fn message(&self, message: &Message) -> Result<Put, PortFault> {
        let item =
            item::item_at("message", conversation_pk(&message.conversation_id), message_sk(message.seq), message)?;
        let put = Put::builder().table_name(&self.table.name).set_item(Some(item));
        let put = put.condition_expression("attribute_not_exists(pk)");
        put.build().map_err(|cause| item::broken(OPERATION, &cause))
    }

    async fn page(
        &self,
        conversation_id: &ConversationId,
        (first, last): (u64, u64),
        oldest_first: bool,
        limit: u32,
    ) -> Result<Vec<Message>, PortFault> {
        if first > last {
            return Ok(Vec::new());
        }
        // One answer holds a megabyte at most, which is why a page of large messages has fewer of them.
        let request = self.table.client.query().table_name(&self.table.name).consistent_read(true);
        let answer = request
            .key_condition_expression("pk = :conversation AND sk BETWEEN :first AND :last")
            .expression_attribute_values(":conversation", text(conversation_pk(conversation_id)))
            .expression_attribute_values(":first", text(message_sk(first)))
            .expression_attribute_values(":last", text(message_sk(last)))
            .scan_index_forward(oldest_first)
            .limit(i32::try_from(limit).unwrap_or(i32::MAX))
            .send()
            .await
            .map_err(fault("Query messages"))?;
        answer.items.unwrap_or_default().into_iter().map(item::parse::<Message>).collect()
    }
}

#[async_trait]
impl MessageStore for TableMessages {
    async fn commit(&self, draft: &Draft, now: OffsetDateTime) -> Result<Committed, ChatFault> {
        let seen = self.seen().get(&draft.conversation_id).cloned();
        // What a process remembers refuses nobody: it may be old.
        let guess = seen.clone().filter(|seen| seen.alone && draft.next(Some(&seen.conversation), now).is_ok());
        let mut known = guess.map(|seen| Some(seen.conversation));
        let mut alone = true;
        for turn in 0..TURNS {
            await_turn(turn).await;
            let before = match known.take() {
                Some(known) => known,
                None => {
                    let read = self.table.conversation(&draft.conversation_id).await?;
                    let last = read.as_ref().map(|conversation| conversation.seq);
                    alone &= seen.as_ref().is_none_or(|seen| Some(seen.conversation.seq) == last);
                    read
                }
            };
            let message = draft.next(before.as_ref(), now)?;
            match self.attempt(draft, &message).await? {
                Try::Committed => {
                    if let Some(mut conversation) = before {
                        conversation.end_with(&message);
                        self.remember(conversation, alone);
                    }
                    return Ok(Committed::New(Box::new(message)));
                }
                Try::Accepted(before) if before.digest == draft.digest => {
                    return Ok(Committed::Before { seq: before.seq });
                }
                Try::Accepted(_) => return Err(ChatFault::OtherMessage),
                Try::Found(found) => (known, alone) = (Some(*found), false),
                Try::Met => alone = false,
            }
        }
        Err(PortFault::Conflict { operation: OPERATION }.into())
    }

    async fn refuse(&self, conversation_id: &ConversationId, seq: u64, channel: &ChannelName) -> Result<(), PortFault> {
        let request = self
            .table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key("pk", text(conversation_pk(conversation_id)))
            .key("sk", text(message_sk(seq)))
            .update_expression("ADD refused :channel")
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":channel", AttributeValue::Ss(vec![channel.to_string()]));
        request.send().await.map_err(fault("UpdateItem message"))?;
        Ok(())
    }

    async fn range(
        &self,
        conversation_id: &ConversationId,
        after_seq: u64,
        limit: u32,
    ) -> Result<Vec<Message>, PortFault> {
        self.page(conversation_id, (after_seq.saturating_add(1), u64::MAX), true, limit).await
    }

    async fn range_back(
        &self,
        conversation_id: &ConversationId,
        before_seq: u64,
        limit: u32,
    ) -> Result<Vec<Message>, PortFault> {
        self.page(conversation_id, (1, before_seq.saturating_sub(1)), false, limit).await
    }
}
