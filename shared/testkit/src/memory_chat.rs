//! Conversations and messages in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use domain::chat::{
    ChatFault, Committed, Conversation, ConversationKind, ConversationStore, Created, Draft, FileCatalog, Joined,
    Memberships, Message, MessageStore, Progress, ReadMark, Recent,
};
use domain::fault::PortFault;
use domain::id::{ChannelName, ChatMessageId, ConversationId, FileId, TenantId, UserId};
use time::OffsetDateTime;

use crate::memory::unavailable;

#[derive(Debug, Default)]
struct Chats {
    conversations: HashMap<ConversationId, Conversation>,
    messages: HashMap<ConversationId, Vec<Message>>,
    drafts: HashMap<(TenantId, UserId, ChatMessageId), (String, u64)>,
    pairs: HashMap<(TenantId, BTreeSet<UserId>), ConversationId>,
    marks: HashMap<(ConversationId, UserId), u64>,
    delivered: HashMap<ConversationId, BTreeMap<UserId, u64>>,
    files: BTreeSet<(ConversationId, FileId)>,
}

/// A chat in memory. While `down`, it answers nothing.
#[derive(Debug, Default)]
pub struct MemoryChat {
    pub down: AtomicBool,
    chats: Mutex<Chats>,
}

impl MemoryChat {
    fn open(&self, operation: &'static str) -> Result<MutexGuard<'_, Chats>, PortFault> {
        if self.down.load(Ordering::SeqCst) {
            return unavailable(operation);
        }
        Ok(self.chats.lock().expect("no test panics while it holds the chat"))
    }

    /// Lets a file of a conversation be complete.
    pub fn complete(&self, conversation_id: &ConversationId, file_id: &FileId) {
        self.open("complete").unwrap().files.insert((conversation_id.clone(), file_id.clone()));
    }

    /// Lets everything up to `seq` have reached somebody.
    pub fn deliver(&self, conversation_id: &ConversationId, user_id: &UserId, seq: u64) {
        let mut chats = self.open("deliver").unwrap();
        chats.delivered.entry(conversation_id.clone()).or_default().insert(user_id.clone(), seq);
    }
}

#[async_trait]
impl Memberships for MemoryChat {
    async fn conversation(&self, conversation_id: &ConversationId) -> Result<Option<Conversation>, PortFault> {
        Ok(self.open("conversation")?.conversations.get(conversation_id).cloned())
    }
}

#[async_trait]
impl ConversationStore for MemoryChat {
    async fn create(&self, conversation: &Conversation) -> Result<Created, PortFault> {
        let mut chats = self.open("create")?;
        if conversation.kind == ConversationKind::Private {
            let pair = (conversation.tenant_id.clone(), conversation.members.clone());
            if let Some(before) = chats.pairs.get(&pair) {
                return Ok(Created::Before(Box::new(chats.conversations[before].clone())));
            }
            chats.pairs.insert(pair, conversation.conversation_id.clone());
        }
        chats.conversations.insert(conversation.conversation_id.clone(), conversation.clone());
        Ok(Created::New)
    }

    async fn recent(
        &self,
        tenant_id: &TenantId,
        user_id: &UserId,
        skip: usize,
        take: usize,
    ) -> Result<Recent, PortFault> {
        let chats = self.open("recent")?;
        let own = chats.conversations.values();
        let own = own.filter(|it| it.tenant_id == *tenant_id && it.members.contains(user_id));
        let marked = |it: &Conversation| chats.marks.get(&(it.conversation_id.clone(), user_id.clone())).copied();
        let all = own.map(|it| Joined { marked: marked(it).unwrap_or_default(), conversation: it.clone() });
        Ok(Recent::of(all.collect(), skip, take))
    }

    async fn progress(&self, conversation: &Conversation) -> Result<Progress, PortFault> {
        let chats = self.open("progress")?;
        let id = &conversation.conversation_id;
        let mark = |user: &UserId| chats.marks.get(&(id.clone(), user.clone())).copied().unwrap_or_default();
        let read = |user: &UserId| (user.clone(), conversation.read_seq(user, mark(user)));
        Ok(Progress {
            delivered: chats.delivered.get(id).cloned().unwrap_or_default(),
            read: conversation.members.iter().map(read).collect(),
            channels: BTreeMap::new(),
        })
    }

    async fn mark_read(&self, conversation: &Conversation, user_id: &UserId, seq: u64) -> Result<ReadMark, PortFault> {
        let mut chats = self.open("mark_read")?;
        let mark = chats.marks.entry((conversation.conversation_id.clone(), user_id.clone())).or_default();
        let moved = seq > *mark;
        *mark = seq.max(*mark);
        Ok(ReadMark { marked: *mark, moved })
    }
}

#[async_trait]
impl MessageStore for MemoryChat {
    async fn commit(&self, draft: &Draft, now: OffsetDateTime) -> Result<Committed, ChatFault> {
        let mut chats = self.open("commit")?;
        let name = (draft.tenant_id.clone(), draft.from.clone(), draft.message_id.clone());
        match chats.drafts.get(&name) {
            Some((digest, seq)) if *digest == draft.digest => return Ok(Committed::Before { seq: *seq }),
            Some(_) => return Err(ChatFault::OtherMessage),
            None => {}
        }
        let message = draft.next(chats.conversations.get(&draft.conversation_id), now)?;
        if let Some(conversation) = chats.conversations.get_mut(&draft.conversation_id) {
            conversation.end_with(&message);
        }
        chats.drafts.insert(name, (draft.digest.clone(), message.seq));
        chats.messages.entry(draft.conversation_id.clone()).or_default().push(message.clone());
        Ok(Committed::New(Box::new(message)))
    }

    async fn refuse(&self, conversation_id: &ConversationId, seq: u64, channel: &ChannelName) -> Result<(), PortFault> {
        let mut chats = self.open("refuse")?;
        let messages = chats.messages.get_mut(conversation_id);
        match messages.and_then(|messages| messages.iter_mut().find(|message| message.seq == seq)) {
            Some(message) => drop(message.refused.insert(channel.clone())),
            None => return Err(PortFault::Conflict { operation: "refuse" }),
        }
        Ok(())
    }

    async fn range(
        &self,
        conversation_id: &ConversationId,
        after_seq: u64,
        limit: u32,
    ) -> Result<Vec<Message>, PortFault> {
        let chats = self.open("range")?;
        let messages = chats.messages.get(conversation_id).into_iter().flatten();
        Ok(messages.filter(|it| it.seq > after_seq).take(limit as usize).cloned().collect())
    }

    async fn range_back(
        &self,
        conversation_id: &ConversationId,
        before_seq: u64,
        limit: u32,
    ) -> Result<Vec<Message>, PortFault> {
        let chats = self.open("range_back")?;
        let messages = chats.messages.get(conversation_id).into_iter().flatten().rev();
        Ok(messages.filter(|it| it.seq < before_seq).take(limit as usize).cloned().collect())
    }
}

#[async_trait]
impl FileCatalog for MemoryChat {
    async fn ready(&self, _: &TenantId, conversation_id: &ConversationId, file_id: &FileId) -> Result<bool, PortFault> {
        Ok(self.open("ready")?.files.contains(&(conversation_id.clone(), file_id.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryChat;
    use crate::contract_chat;

    #[tokio::test]
    async fn keeps_the_contract_of_conversations() {
        contract_chat::conversations(&MemoryChat::default()).await;
    }

    #[tokio::test]
    async fn keeps_the_contract_of_messages() {
        let chat = MemoryChat::default();
        contract_chat::messages(&chat, &[&chat, &chat]).await;
    }

    #[tokio::test]
    async fn keeps_the_contract_of_reading() {
        let chat = MemoryChat::default();
        contract_chat::reading(&chat, &chat).await;
    }
}
