//! Sockets in memory: their places, their other ends, the push queue, and conversations to push.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use domain::chat::{Conversation, ConversationKind, Message, NewConversation, Payload, Priority};
use domain::fault::PortFault;
use domain::id::{ChatMessageId, ConnectionId, ConversationId, FamilyId, TenantId, UserId};
use domain::push::{Backlog, Line, PushJob, PushQueue, PushState, PushStore, Unpushed, UnpushedPage, bell_id};
use domain::socket::{
    Connection, Holder, Place, PostFault, Slot, SlotStore, Slots, Sockets, Ticket, TicketStore, lives_until,
};
use serde_json::Value;
use time::OffsetDateTime;

use crate::memory::unavailable;
use crate::sample;

#[derive(Debug, Default)]
struct Room {
    tickets: HashMap<String, Ticket>,
    slots: HashMap<(TenantId, UserId), Slots>,
    connections: HashMap<ConnectionId, Connection>,
    barred: HashMap<FamilyId, OffsetDateTime>,
    conversations: BTreeMap<ConversationId, Conversation>,
    lines: HashMap<ConversationId, Vec<Line>>,
    states: HashMap<ConversationId, PushState>,
    unpushed: BTreeMap<ConversationId, OffsetDateTime>,
}

/// What sockets need of a table, in memory. While `down`, it answers nothing.
#[derive(Debug, Default)]
pub struct MemoryRoom {
    pub down: AtomicBool,
    room: Mutex<Room>,
}

impl MemoryRoom {
    fn open(&self, operation: &'static str) -> Result<MutexGuard<'_, Room>, PortFault> {
        if self.down.load(Ordering::SeqCst) { unavailable(operation) } else { Ok(self.lock()) }
    }

    fn lock(&self) -> MutexGuard<'_, Room> {
        self.room.lock().expect("no test panics while it holds the room")
    }

    /// Opens a conversation of tenant `t1`.
    pub fn converse(&self, n: u32, members: &[&str]) -> ConversationId {
        let id = conversation_id(n);
        let members: Vec<UserId> = members.iter().map(|user| user_id(user)).collect();
        let (tenant, first) = (sample_tenant(), members[0].clone());
        let new = NewConversation {
            kind: ConversationKind::Group,
            members,
            metadata: serde_json::Map::new(),
            channels: Vec::new(),
        };
        self.lock().conversations.insert(id.clone(), new.open(id.clone(), tenant, first, sample::NOW));
        id
    }

    /// Commits a message, and rings nobody.
    pub fn say(&self, conversation: &ConversationId, from: &str, text: &str, now: OffsetDateTime) -> u64 {
        self.commit(conversation, now, |seq| {
            Line::Message(Box::new(Message {
                conversation_id: conversation.clone(),
                tenant_id: sample_tenant(),
                seq,
                message_id: message_id(seq),
                from: user_id(from),
                payload: Payload::Text { text: text.to_owned() },
                channels: BTreeSet::new(),
                refused: BTreeSet::new(),
                priority: Priority::Normal,
                created_at: now,
            }))
        })
    }

    /// Commits what nobody can read.
    pub fn garble(&self, conversation: &ConversationId, now: OffsetDateTime) -> u64 {
        self.commit(conversation, now, |seq| Line::Unrenderable { seq })
    }

    fn commit(&self, conversation: &ConversationId, now: OffsetDateTime, line: impl FnOnce(u64) -> Line) -> u64 {
        let mut room = self.lock();
        let head = room.conversations.get_mut(conversation).unwrap();
        head.seq += 1;
        let seq = head.seq;
        room.lines.entry(conversation.clone()).or_default().push(line(seq));
        room.unpushed.entry(conversation.clone()).or_insert(now);
        seq
    }

    /// How far a conversation was pushed, and whether the sweep still sees it.
    #[must_use]
    pub fn pushed(&self, conversation: &ConversationId) -> (u64, bool) {
        let room = self.lock();
        let pushed = room.states.get(conversation).map(|state| state.pushed).unwrap_or_default();
        (pushed, room.unpushed.contains_key(conversation))
    }

    /// How many places a user holds.
    #[must_use]
    pub fn held(&self, user: &str, now: OffsetDateTime) -> usize {
        let room = self.lock();
        room.slots.get(&(sample_tenant(), user_id(user))).map_or(0, |slots| slots.held(now).count())
    }

    fn change(&self, place: &Place, change: impl FnOnce(&mut Option<Slot>)) -> Result<bool, PortFault> {
        let mut room = self.open("change a place")?;
        let slots = room.slots.entry((place.tenant_id.clone(), place.user_id.clone())).or_default();
        let slot = &mut slots.0[place.slot];
        let held = slot.as_ref().is_some_and(|slot| slot.connection_id == place.connection_id);
        if held {
            change(slot);
        }
        Ok(held)
    }
}

fn sample_tenant() -> TenantId {
    TenantId::parse("t1").unwrap()
}

fn user_id(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

fn conversation_id(n: u32) -> ConversationId {
    ConversationId::parse(format!("00000000-0000-4000-9000-{n:012x}")).unwrap()
}

fn message_id(n: u64) -> ChatMessageId {
    ChatMessageId::parse(format!("00000000-0000-4000-a000-{n:012x}")).unwrap()
}

#[async_trait]
impl TicketStore for MemoryRoom {
    async fn keep(&self, ticket: &Ticket) -> Result<(), PortFault> {
        self.open("keep ticket")?.tickets.insert(ticket.hash.clone(), ticket.clone());
        Ok(())
    }

    async fn take(&self, hash: &str, now: OffsetDateTime) -> Result<Option<Ticket>, PortFault> {
        Ok(self.open("take ticket")?.tickets.remove(hash).filter(|ticket| ticket.expires_at > now))
    }
}

#[async_trait]
impl SlotStore for MemoryRoom {
    async fn claim(
        &self,
        holder: &Holder,
        connection_id: &ConnectionId,
        now: OffsetDateTime,
    ) -> Result<Option<Connection>, PortFault> {
        let mut room = self.open("claim")?;
        let slots = room.slots.entry((holder.tenant_id.clone(), holder.user_id.clone())).or_default();
        let Some(slot) = slots.place_for(connection_id, now) else { return Ok(None) };
        slots.0[slot] = Some(Slot {
            connection_id: connection_id.clone(),
            session_id: holder.session_id.clone(),
            expires_at: lives_until(now, now),
            live: false,
            positions: BTreeMap::new(),
        });
        let place = Place {
            tenant_id: holder.tenant_id.clone(),
            user_id: holder.user_id.clone(),
            slot,
            connection_id: connection_id.clone(),
        };
        let connection = Connection { place, session_id: holder.session_id.clone(), connected_at: now };
        room.connections.insert(connection_id.clone(), connection.clone());
        Ok(Some(connection))
    }

    async fn connection(&self, connection_id: &ConnectionId) -> Result<Option<Connection>, PortFault> {
        Ok(self.open("connection")?.connections.get(connection_id).cloned())
    }

    async fn of(&self, tenant_id: &TenantId, users: &[&UserId]) -> Result<Vec<Slots>, PortFault> {
        let room = self.open("of")?;
        let slots = |user: &&UserId| room.slots.get(&(tenant_id.clone(), (*user).clone())).cloned();
        Ok(users.iter().map(|user| slots(user).unwrap_or_default()).collect())
    }

    async fn renew(&self, place: &Place, new: &Slot) -> Result<bool, PortFault> {
        self.change(place, |slot| *slot = Some(new.clone()))
    }

    async fn extend(&self, place: &Place, expires_at: OffsetDateTime) -> Result<bool, PortFault> {
        self.change(place, |slot| slot.iter_mut().for_each(|slot| slot.expires_at = expires_at))
    }

    async fn arrived(&self, place: &Place, conversation_id: &ConversationId) -> Result<bool, PortFault> {
        self.change(place, |slot| {
            if let Some(slot) = slot {
                slot.positions.remove(conversation_id);
            }
        })
    }

    async fn release(&self, place: &Place) -> Result<bool, PortFault> {
        let held = self.change(place, |slot| *slot = None)?;
        self.open("release")?.connections.remove(&place.connection_id);
        Ok(held)
    }

    async fn bar(&self, session_id: &FamilyId, until: OffsetDateTime) -> Result<(), PortFault> {
        self.open("bar")?.barred.insert(session_id.clone(), until);
        Ok(())
    }

    async fn is_barred(&self, session_id: &FamilyId, now: OffsetDateTime) -> Result<bool, PortFault> {
        Ok(self.open("is_barred")?.barred.get(session_id).is_some_and(|until| *until > now))
    }
}

#[async_trait]
impl Backlog for MemoryRoom {
    async fn after(&self, conversation_id: &ConversationId, after: u64, limit: u32) -> Result<Vec<Line>, PortFault> {
        let room = self.open("after")?;
        let lines = room.lines.get(conversation_id).map(Vec::as_slice).unwrap_or_default();
        let from = usize::try_from(after).unwrap().min(lines.len());
        Ok(lines[from..].iter().take(limit as usize).cloned().collect())
    }

    async fn conversations(&self, ids: &[&ConversationId]) -> Result<Vec<Conversation>, PortFault> {
        let room = self.open("conversations")?;
        Ok(ids.iter().filter_map(|id| room.conversations.get(*id).cloned()).collect())
    }
}

#[async_trait]
impl PushStore for MemoryRoom {
    async fn state(&self, conversation_id: &ConversationId) -> Result<PushState, PortFault> {
        Ok(self.open("state")?.states.get(conversation_id).cloned().unwrap_or_default())
    }

    async fn advance(&self, conversation_id: &ConversationId, next: &PushState) -> Result<bool, PortFault> {
        let mut room = self.open("advance")?;
        let before = room.states.get(conversation_id).map_or(0, |state| state.version);
        let same = before + 1 == next.version;
        if same {
            room.states.insert(conversation_id.clone(), next.clone());
        }
        Ok(same)
    }

    async fn settle(&self, conversation_id: &ConversationId, seq: u64) -> Result<(), PortFault> {
        let mut room = self.open("settle")?;
        if room.conversations.get(conversation_id).is_some_and(|it| it.seq == seq) {
            room.unpushed.remove(conversation_id);
        }
        Ok(())
    }
}

#[async_trait]
impl Unpushed for MemoryRoom {
    async fn unpushed(&self, until: OffsetDateTime, from: Option<&str>, limit: u32) -> Result<UnpushedPage, PortFault> {
        let room = self.open("unpushed")?;
        let late = room.unpushed.iter().filter(|(id, at)| **at <= until && from.is_none_or(|from| id.as_str() > from));
        let conversations: Vec<ConversationId> = late.take(limit as usize).map(|(id, _)| id.clone()).collect();
        let full = conversations.len() == limit as usize;
        let next = conversations.last().filter(|_| full).map(ToString::to_string);
        Ok(UnpushedPage { conversations, next })
    }
}

/// What one client has received, and how its connection fares.
#[derive(Debug, Default)]
struct End {
    frames: Vec<Value>,
    /// It takes no frame more.
    slow: bool,
    /// After so many frames its connection is gone, without anybody being told.
    breaks_after: Option<usize>,
}

/// The other ends of sockets. A connection that was never [`MemorySockets::connect`]ed is gone.
#[derive(Debug, Default)]
pub struct MemorySockets {
    ends: Mutex<HashMap<ConnectionId, End>>,
    closed: Mutex<Vec<ConnectionId>>,
}

impl MemorySockets {
    fn ends(&self) -> MutexGuard<'_, HashMap<ConnectionId, End>> {
        self.ends.lock().expect("no test panics while it holds the sockets")
    }

    pub fn connect(&self, connection_id: &ConnectionId) {
        self.ends().insert(connection_id.clone(), End::default());
    }

    /// The connection ends and nobody is told.
    pub fn break_off(&self, connection_id: &ConnectionId) {
        self.ends().remove(connection_id);
    }

    #[must_use]
    pub fn is_open(&self, connection_id: &ConnectionId) -> bool {
        self.ends().contains_key(connection_id)
    }

    pub fn break_after(&self, connection_id: &ConnectionId, frames: usize) {
        self.ends().get_mut(connection_id).unwrap().breaks_after = Some(frames);
    }

    pub fn slow_down(&self, connection_id: &ConnectionId) {
        if let Some(end) = self.ends().get_mut(connection_id) {
            end.slow = true;
        }
    }

    /// What a client has received since it was last asked.
    #[must_use]
    pub fn received(&self, connection_id: &ConnectionId) -> Vec<Value> {
        self.ends().get_mut(connection_id).map(|end| std::mem::take(&mut end.frames)).unwrap_or_default()
    }

    /// Which connections were closed from this side.
    #[must_use]
    pub fn closed(&self) -> Vec<ConnectionId> {
        self.closed.lock().unwrap().clone()
    }
}

#[async_trait]
impl Sockets for MemorySockets {
    async fn post(&self, connection_id: &ConnectionId, frame: &str) -> Result<(), PostFault> {
        let mut ends = self.ends();
        let Some(end) = ends.get_mut(connection_id) else { return Err(PostFault::Gone) };
        if end.slow {
            return Err(PostFault::Busy("the client's buffer is full".into()));
        }
        if end.breaks_after == Some(0) {
            ends.remove(connection_id);
            return Err(PostFault::Gone);
        }
        end.breaks_after = end.breaks_after.map(|left| left - 1);
        end.frames.push(serde_json::from_str(frame).unwrap());
        Ok(())
    }

    async fn close(&self, connection_id: &ConnectionId) -> Result<(), PortFault> {
        self.ends().remove(connection_id);
        self.closed.lock().unwrap().push(connection_id.clone());
        Ok(())
    }
}

/// A push queue that remembers its jobs, each once. While `down`, nothing goes in.
#[derive(Debug, Default)]
pub struct MemoryPushQueue {
    pub down: AtomicBool,
    jobs: Mutex<Vec<(String, PushJob)>>,
}

impl MemoryPushQueue {
    /// The jobs that came since it was last asked.
    #[must_use]
    pub fn take(&self) -> Vec<PushJob> {
        std::mem::take(&mut *self.jobs.lock().unwrap()).into_iter().map(|(_, job)| job).collect()
    }
}

#[async_trait]
impl PushQueue for MemoryPushQueue {
    async fn ring(&self, conversation_id: &ConversationId, seq: u64) -> Result<(), PortFault> {
        let bell = PushJob::Drain { conversation_id: conversation_id.clone(), seq };
        self.tell(&bell, &bell_id(conversation_id, seq)).await
    }

    async fn tell(&self, job: &PushJob, once: &str) -> Result<(), PortFault> {
        if self.down.load(Ordering::SeqCst) {
            return unavailable("tell");
        }
        let mut jobs = self.jobs.lock().unwrap();
        if !jobs.iter().any(|(known, _)| known == once) {
            jobs.push((once.to_owned(), job.clone()));
        }
        Ok(())
    }
}
