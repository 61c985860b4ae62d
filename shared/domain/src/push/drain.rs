//! Pushing: what the watermark of a conversation does not cover goes to the sockets of its members, in order.
//!
//! Every live socket has, or was sent, everything up to the watermark; that is what lets it move. A socket that does not take a frame is
//! closed before the watermark moves, and its client comes back and catches up; so nothing is ever left out in between, and nobody waits
//! for it. A drain that is repeated sends again what clients have, from a place that they have all passed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::future::try_join;
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Audience, Frame, PushJob, PushQueue};
use crate::chat::{Conversation, Message};
use crate::fault::{PortFault, chain};
use crate::id::{ChatMessageId, ConversationId, UserId};
use crate::socket::{Holder, Place, PostFault, REPLAYED, Slot, SlotStore, Sockets, barred_until};

/// How many posts one job has in flight at most.
pub const IN_FLIGHT: usize = 64;

/// How many messages are read and pushed before the watermark moves.
const PAGE: u32 = 100;

/// After so many pages a job hands on to another one, so that none runs for as long as a function may.
const PAGES: usize = 10;

/// How far back it is looked whose messages have now reached somebody.
const TOLD_BACK: u64 = 100;

/// How many watermarks a process remembers.
const REMEMBERED: usize = 10_000;

/// A message of a conversation, or the place of one that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    Message(Box<Message>),
    Unrenderable { seq: u64 },
}

impl Line {
    #[must_use]
    pub fn seq(&self) -> u64 {
        match self {
            Self::Message(message) => message.seq,
            Self::Unrenderable { seq } => *seq,
        }
    }

    pub(crate) fn frame(&self, conversation_id: &ConversationId, now: OffsetDateTime) -> String {
        match self {
            Self::Message(message) => Frame::message(message, now),
            Self::Unrenderable { seq } => Frame::unrenderable(conversation_id, *seq, None, now).text(),
        }
    }
}

/// Conversations as sockets see them.
#[async_trait]
pub trait Backlog: Send + Sync {
    /// What comes after `after_seq`, oldest first, without a gap, with everything that was committed before the call: at most `limit`,
    /// and at least one if there is one.
    async fn after(&self, conversation_id: &ConversationId, after_seq: u64, limit: u32)
    -> Result<Vec<Line>, PortFault>;

    /// Those of the conversations that are there, with everything that was committed before the call.
    async fn conversations(&self, ids: &[&ConversationId]) -> Result<Vec<Conversation>, PortFault>;
}

/// How far a conversation was pushed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushState {
    pub version: u64,
    /// The watermark: every live socket of every member was sent the messages up to this one.
    pub pushed: u64,
    /// Up to which message a socket of each member was reached.
    pub delivered: BTreeMap<UserId, u64>,
}

/// Where it is kept how far conversations were pushed.
#[async_trait]
pub trait PushStore: Send + Sync {
    async fn state(&self, conversation_id: &ConversationId) -> Result<PushState, PortFault>;

    /// Replaces the state of the version before; says whether that was still the version.
    async fn advance(&self, conversation_id: &ConversationId, next: &PushState) -> Result<bool, PortFault>;

    /// Everything up to `seq` was pushed: unless there is more by now, the sweep need not look at the conversation.
    async fn settle(&self, conversation_id: &ConversationId, seq: u64) -> Result<(), PortFault>;
}

/// Carries out the jobs of the push queue.
pub struct Pusher {
    states: Arc<dyn PushStore>,
    backlog: Arc<dyn Backlog>,
    slots: Arc<dyn SlotStore>,
    sockets: Arc<dyn Sockets>,
    queue: Arc<dyn PushQueue>,
    /// Watermarks that were seen. They only grow, so that one which covers a bell says that nothing is to be done.
    seen: Mutex<HashMap<ConversationId, u64>>,
}

impl std::fmt::Debug for Pusher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pusher").finish_non_exhaustive()
    }
}

/// A live socket of a member.
struct Live {
    place: Place,
    slot: Slot,
}

/// What one page brings, rendered once for all.
struct Run<'a> {
    conversation_id: &'a ConversationId,
    /// The watermark before.
    pushed: u64,
    /// What clients that have just come back may lack, up to the watermark.
    older: Vec<(u64, String)>,
    newer: Vec<(u64, String)>,
    now: OffsetDateTime,
}

impl Pusher {
    #[must_use]
    pub fn new<T: PushStore + Backlog + SlotStore + 'static>(
        table: Arc<T>,
        sockets: Arc<dyn Sockets>,
        queue: Arc<dyn PushQueue>,
    ) -> Self {
        Self { states: table.clone(), backlog: table.clone(), slots: table, sockets, queue, seen: Mutex::default() }
    }

    /// Does one job. Done again, it sends again.
    pub async fn carry_out(&self, job: &PushJob, now: OffsetDateTime) -> Result<(), PortFault> {
        match job {
            PushJob::Drain { conversation_id, seq } if self.seen(conversation_id) >= *seq => Ok(()),
            PushJob::Drain { conversation_id, .. } | PushJob::Check { conversation_id } => {
                self.drain(conversation_id, now).await
            }
            PushJob::Tell { conversation_id, to, frame } => self.tell(conversation_id, to, frame, now).await,
            PushJob::Close(login) => self.close(login, now).await,
        }
    }

    async fn drain(&self, conversation_id: &ConversationId, now: OffsetDateTime) -> Result<(), PortFault> {
        for _ in 0..PAGES {
            let before = self.states.state(conversation_id).await?;
            let lines = self.backlog.after(conversation_id, before.pushed, PAGE);
            let (lines, conversation) = try_join(lines, self.conversation(conversation_id)).await?;
            let Some(conversation) = conversation else { return Ok(()) };
            // The sockets are looked up after the messages: one that is not live by now finds them when it becomes so.
            let live = self.live(&conversation, now).await?;
            let pushed = lines.last().map_or(before.pushed, Line::seq);
            let run = Run {
                conversation_id,
                pushed: before.pushed,
                older: self.older(conversation_id, before.pushed, &live, now).await?,
                newer: lines.iter().map(|line| (line.seq(), line.frame(conversation_id, now))).collect(),
                now,
            };
            let reached = self.push(&run, &live).await?;
            let mut next = PushState { version: before.version + 1, pushed, delivered: before.delivered.clone() };
            next.delivered.extend(reached.iter().map(|user| (user.clone(), pushed)));
            if (next.pushed, &next.delivered) != (before.pushed, &before.delivered) {
                if !self.states.advance(conversation_id, &next).await? {
                    // Somebody else is at it: what they did not see is seen now.
                    continue;
                }
                self.told(&run, &before, &lines, &reached, &live).await?;
            }
            self.remember(conversation_id, pushed);
            if pushed >= conversation.seq {
                return self.states.settle(conversation_id, pushed).await;
            }
            if lines.is_empty() {
                // It was committed a moment ago: its own bell is on the way.
                return Ok(());
            }
        }
        let once = format!("more.{conversation_id}.{}", self.seen(conversation_id));
        self.queue.tell(&PushJob::Check { conversation_id: conversation_id.clone() }, &once).await
    }

    async fn conversation(&self, conversation_id: &ConversationId) -> Result<Option<Conversation>, PortFault> {
        Ok(self.backlog.conversations(&[conversation_id]).await?.pop())
    }

    /// The live sockets of all members.
    async fn live(&self, conversation: &Conversation, now: OffsetDateTime) -> Result<Vec<Live>, PortFault> {
        let members: Vec<&UserId> = conversation.members.iter().collect();
        let slots = self.slots.of(&conversation.tenant_id, &members).await?;
        let mut live = Vec::new();
        for (user, slots) in members.into_iter().zip(&slots) {
            for (number, slot) in slots.held(now).filter(|(_, slot)| slot.live) {
                let place = Place {
                    tenant_id: conversation.tenant_id.clone(),
                    user_id: user.clone(),
                    slot: number,
                    connection_id: slot.connection_id.clone(),
                };
                live.push(Live { place, slot: slot.clone() });
            }
        }
        Ok(live)
    }

    /// What some of the sockets lack although the watermark covers it.
    async fn older(
        &self,
        conversation_id: &ConversationId,
        pushed: u64,
        live: &[Live],
        now: OffsetDateTime,
    ) -> Result<Vec<(u64, String)>, PortFault> {
        let positions = live.iter().filter_map(|live| live.slot.positions.get(conversation_id).copied());
        let mut from = positions.filter(|from| pushed.saturating_sub(*from) <= REPLAYED).min().unwrap_or(pushed);
        let mut older = Vec::new();
        while from < pushed {
            let lines = self.backlog.after(conversation_id, from, PAGE).await?;
            let Some(last) = lines.last() else { break };
            from = last.seq();
            let covered = lines.iter().filter(|line| line.seq() <= pushed);
            older.extend(covered.map(|line| (line.seq(), line.frame(conversation_id, now))));
        }
        Ok(older)
    }

    /// Sends a page to every socket and says whose were reached.
    async fn push(&self, run: &Run<'_>, live: &[Live]) -> Result<BTreeSet<UserId>, PortFault> {
        let mut reached = BTreeSet::new();
        let posts: Vec<_> = live.iter().map(|live| self.bring(run, live)).collect();
        let mut posts = stream::iter(posts).buffer_unordered(IN_FLIGHT);
        while let Some(user) = posts.next().await {
            reached.extend(user?.cloned());
        }
        Ok(reached)
    }

    /// Sends one socket what it lacks, in order, and says whose it is. Nobody's if it is gone, or was closed because it did not take a
    /// frame.
    async fn bring<'l>(&self, run: &Run<'_>, live: &'l Live) -> Result<Option<&'l UserId>, PortFault> {
        let position = live.slot.positions.get(run.conversation_id).copied();
        let mut from = position.unwrap_or(run.pushed);
        let mut resync = None;
        if run.pushed.saturating_sub(from) > REPLAYED {
            resync = Some(Frame::resync_required(run.conversation_id, run.pushed, run.now).text());
            from = run.pushed;
        }
        let lines = run.older.iter().chain(&run.newer).filter(|(seq, _)| *seq > from).map(|(_, frame)| frame);
        for frame in resync.iter().chain(lines) {
            match self.sockets.post(&live.place.connection_id, frame).await {
                Ok(()) => {}
                Err(PostFault::Gone) => {
                    forget(self.slots.as_ref(), &live.place).await;
                    return Ok(None);
                }
                Err(fault @ PostFault::Busy(_)) => {
                    cut(self.slots.as_ref(), self.sockets.as_ref(), &live.place, &fault).await?;
                    return Ok(None);
                }
            }
        }
        if position.is_some() {
            self.slots.arrived(&live.place, run.conversation_id).await?;
        }
        Ok(Some(&live.place.user_id))
    }

    /// Tells senders whom their messages have reached. What is lost of it is lost: it stands in the history.
    async fn told(
        &self,
        run: &Run<'_>,
        before: &PushState,
        lines: &[Line],
        reached: &BTreeSet<UserId>,
        live: &[Live],
    ) -> Result<(), PortFault> {
        let had = |user: &UserId| before.delivered.get(user).copied().unwrap_or_default();
        let since = reached.iter().map(had).min().unwrap_or(run.pushed).max(run.pushed.saturating_sub(TOLD_BACK));
        let mut latest: BTreeMap<UserId, (u64, ChatMessageId)> = BTreeMap::new();
        if since < run.pushed {
            let covered = self.backlog.after(run.conversation_id, since, PAGE).await?;
            note(&mut latest, covered.iter().filter(|line| line.seq() <= run.pushed));
        }
        note(&mut latest, lines.iter());
        for (sender, (seq, message_id)) in &latest {
            let users: BTreeSet<&UserId> = reached.iter().filter(|user| *user != sender && had(user) < *seq).collect();
            if !users.is_empty() {
                let frame = Frame::delivered(run.conversation_id, *seq, Some(message_id), &users, run.now);
                self.send(&frame.text(), live.iter().filter(|live| live.place.user_id == *sender)).await;
            }
        }
        Ok(())
    }

    async fn tell(
        &self,
        conversation_id: &ConversationId,
        to: &Audience,
        frame: &Frame,
        now: OffsetDateTime,
    ) -> Result<(), PortFault> {
        let Some(conversation) = self.conversation(conversation_id).await? else { return Ok(()) };
        let live = self.live(&conversation, now).await?;
        self.send(&frame.text(), live.iter().filter(|live| to.holds(&live.place.user_id))).await;
        Ok(())
    }

    /// Sends a frame that holds no place in an order: who does not take it does without.
    async fn send(&self, frame: &str, live: impl Iterator<Item = &Live>) {
        let posts: Vec<_> = live.map(|live| self.offer(frame, live)).collect();
        stream::iter(posts).buffer_unordered(IN_FLIGHT).collect::<()>().await;
    }

    async fn offer(&self, frame: &str, live: &Live) {
        match self.sockets.post(&live.place.connection_id, frame).await {
            Ok(()) => {}
            Err(PostFault::Gone) => forget(self.slots.as_ref(), &live.place).await,
            Err(fault) => {
                tracing::info!(connection.id = %live.place.connection_id, error = %chain(&fault), "A frame was not taken");
            }
        }
    }

    /// First the login is barred, then its places are read: a socket that is being opened meanwhile sees the one, or is seen here.
    async fn close(&self, login: &Holder, now: OffsetDateTime) -> Result<(), PortFault> {
        let Holder { tenant_id, user_id, session_id } = login;
        self.slots.bar(session_id, barred_until(now)).await?;
        let Some(slots) = self.slots.of(tenant_id, &[user_id]).await?.pop() else { return Ok(()) };
        for (number, slot) in slots.held(now).filter(|(_, slot)| slot.session_id == *session_id) {
            let place = Place {
                tenant_id: tenant_id.clone(),
                user_id: user_id.clone(),
                slot: number,
                connection_id: slot.connection_id.clone(),
            };
            self.sockets.close(&place.connection_id).await?;
            self.slots.release(&place).await?;
            tracing::info!(target: "audit", audit = "socket.closed", token.family = %session_id, "A socket was closed with its login");
        }
        Ok(())
    }

    fn seen(&self, conversation_id: &ConversationId) -> u64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(conversation_id).copied().unwrap_or_default()
    }

    fn remember(&self, conversation_id: &ConversationId, pushed: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= REMEMBERED {
            // Forgetting costs a request each, never a wrong answer.
            seen.clear();
        }
        seen.insert(conversation_id.clone(), pushed);
    }
}

/// The last message of each sender.
fn note<'l>(latest: &mut BTreeMap<UserId, (u64, ChatMessageId)>, lines: impl Iterator<Item = &'l Line>) {
    for line in lines {
        if let Line::Message(message) = line {
            latest.insert(message.from.clone(), (message.seq, message.message_id.clone()));
        }
    }
}

/// Gives back the place of a connection that has ended. If that fails, the place ends by itself.
pub(crate) async fn forget(slots: &dyn SlotStore, place: &Place) {
    if let Err(fault) = slots.release(place).await {
        tracing::warn!(connection.id = %place.connection_id, error = %chain(&fault), "A place was not given back");
    }
}

/// Ends a connection that did not take a frame, so that its client comes back and catches up. Once its place is given back nothing more
/// is sent to it; if it cannot be closed as well, its next ping finds out.
pub(crate) async fn cut(
    slots: &dyn SlotStore,
    sockets: &dyn Sockets,
    place: &Place,
    why: &PostFault,
) -> Result<(), PortFault> {
    slots.release(place).await?;
    tracing::warn!(connection.id = %place.connection_id, error = %chain(why), "A socket that took no frame is closed");
    if let Err(fault) = sockets.close(&place.connection_id).await {
        tracing::warn!(connection.id = %place.connection_id, error = %chain(&fault), "A socket was not closed");
    }
    Ok(())
}
