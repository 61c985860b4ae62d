//! The reception: opens sockets, hears what their clients say, and brings those who come back up to date.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt as _, stream};
use time::{Duration, OffsetDateTime};

use super::{ClientFrame, Connection, DRAIN, Holder, PostFault, Slot, SlotStore, Sockets, TicketStore, lives_until};
use crate::access::{AccessFault, AccessTokenVerifier, Scope};
use crate::chat::Conversation;
use crate::fault::{Denial, Fault, PortFault, Remedy, chain};
use crate::id::{ConnectionId, ConversationId};
use crate::push::{Backlog, Frame, PushJob, PushQueue, cut, forget};

/// How often a client is asked to give a sign of life.
pub const PING_EVERY: Duration = Duration::minutes(4);

/// How many missed messages of a conversation are sent again; who missed more reads the history.
pub const REPLAYED: u64 = 500;

/// How many are sent again in answer to one hello: what fits into the time that a function has.
const REPLAYED_IN_ALL: u64 = 2_000;

/// How many messages are read at a time, and how many conversations are caught up with at once.
const PAGE: u32 = 100;
const AT_ONCE: usize = 8;

/// When somebody whose places are all taken may try again: most of them come back when a client that is gone has been silent for long.
const TRY_AGAIN_SECS: u32 = 60;

/// What a client shows at the door.
#[derive(Clone, Copy)]
pub enum Proof<'a> {
    /// The hash of a ticket.
    Ticket(&'a str),
    /// An access token.
    Token(&'a str),
    Nothing,
}

impl std::fmt::Debug for Proof<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ticket(_) => "Ticket",
            Self::Token(_) => "Token",
            Self::Nothing => "Nothing",
        })
    }
}

/// The reception over its ports.
pub struct Reception {
    tickets: Arc<dyn TicketStore>,
    slots: Arc<dyn SlotStore>,
    backlog: Arc<dyn Backlog>,
    verifier: Arc<dyn AccessTokenVerifier>,
    sockets: Arc<dyn Sockets>,
    queue: Arc<dyn PushQueue>,
}

impl std::fmt::Debug for Reception {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reception").finish_non_exhaustive()
    }
}

impl Reception {
    #[must_use]
    pub fn new<T: TicketStore + SlotStore + Backlog + 'static>(
        table: Arc<T>,
        verifier: Arc<dyn AccessTokenVerifier>,
        sockets: Arc<dyn Sockets>,
        queue: Arc<dyn PushQueue>,
    ) -> Self {
        Self { tickets: table.clone(), slots: table.clone(), backlog: table, verifier, sockets, queue }
    }

    /// Lets a connection in, or says why not. Nothing is sent to it: it is open only once this was answered.
    pub async fn open(
        &self,
        connection_id: &ConnectionId,
        proof: Proof<'_>,
        now: OffsetDateTime,
    ) -> Result<(), SocketFault> {
        let holder = self.holder(proof, now).await?;
        let claimed = self.slots.claim(&holder, connection_id, now).await?;
        let connection = claimed.ok_or(SocketFault::Full)?;
        // A login that ends now either sees the place that was just taken, or is seen here.
        if self.slots.is_barred(&holder.session_id, now).await? {
            forget(self.slots.as_ref(), &connection.place).await;
            return Err(SocketFault::Ended);
        }
        Ok(())
    }

    async fn holder(&self, proof: Proof<'_>, now: OffsetDateTime) -> Result<Holder, SocketFault> {
        match proof {
            Proof::Ticket(hash) => Ok(self.tickets.take(hash, now).await?.ok_or(SocketFault::Ticket)?.holder),
            Proof::Token(token) => {
                let caller = self.verifier.verify(token, now).await?;
                caller.requires(Scope::Chat)?;
                Ok(Holder::of(&caller))
            }
            Proof::Nothing => Err(SocketFault::Nothing),
        }
    }

    /// Hears a frame. What is wrong with it is told to its client.
    pub async fn hear(&self, connection_id: &ConnectionId, text: &str, now: OffsetDateTime) -> Result<(), PortFault> {
        let heard = match ClientFrame::read(text) {
            Ok(frame) => self.heard(connection_id, frame, now).await,
            Err(fault) => {
                self.complain(connection_id, &Frame::error(&fault, now)).await;
                return Ok(());
            }
        };
        if let Err(fault) = &heard {
            self.complain(connection_id, &Frame::error(fault, now)).await;
        }
        heard
    }

    /// A connection has ended. Called twice, or for one that was never let in, it changes nothing.
    pub async fn leave(&self, connection_id: &ConnectionId) -> Result<(), PortFault> {
        if let Some(connection) = self.slots.connection(connection_id).await? {
            self.slots.release(&connection.place).await?;
        }
        Ok(())
    }

    async fn heard(
        &self,
        connection_id: &ConnectionId,
        frame: ClientFrame,
        now: OffsetDateTime,
    ) -> Result<(), PortFault> {
        let Some(connection) = self.slots.connection(connection_id).await? else {
            return self.turn_away(connection_id).await;
        };
        let welcome = match frame {
            ClientFrame::Ping => {
                let held = self.slots.extend(&connection.place, lives_until(connection.connected_at, now)).await?;
                if held {
                    let pong = Frame::pong(connection.connected_at + DRAIN, now).text();
                    self.send(&connection, &pong).await?;
                }
                held
            }
            ClientFrame::Hello { last_seq } => self.hello(&connection, last_seq, now).await?,
        };
        if welcome { Ok(()) } else { self.turn_away(connection_id).await }
    }

    /// Brings a client up to date and lets its socket live. False: it has no place any more.
    ///
    /// Up to the end of the replay nothing else is sent to the socket. Then it is live; and since what was committed meanwhile may have
    /// been pushed without it, its place holds how far it has come, for the next drain of each conversation to begin there.
    async fn hello(
        &self,
        connection: &Connection,
        last_seq: BTreeMap<ConversationId, u64>,
        now: OffsetDateTime,
    ) -> Result<bool, PortFault> {
        let mut slot = Slot {
            connection_id: connection.place.connection_id.clone(),
            session_id: connection.session_id.clone(),
            expires_at: lives_until(connection.connected_at, now),
            live: false,
            positions: BTreeMap::new(),
        };
        if !last_seq.is_empty() && !self.slots.renew(&connection.place, &slot).await? {
            return Ok(false);
        }
        let heads = self.heads(connection, last_seq.keys()).await?;
        let unknown: Vec<&ConversationId> = last_seq.keys().filter(|id| !heads.contains_key(*id)).collect();
        let told = heads.iter().map(|(id, seq)| (id, *seq)).collect();
        let user = &connection.place.user_id;
        let drain_at = connection.connected_at + DRAIN;
        let established = Frame::established(user, &told, &unknown, PING_EVERY, drain_at, now).text();
        if !self.send(connection, &established).await? {
            return Ok(true);
        }
        let Some((positions, replayed)) = self.replay(connection, &last_seq, &heads, now).await? else {
            return Ok(true);
        };
        slot.live = true;
        slot.positions = positions;
        if !self.slots.renew(&connection.place, &slot).await? {
            return Ok(false);
        }
        self.settle_in(connection, slot, &replayed).await?;
        Ok(true)
    }

    /// Sends what was missed. How far the client has come then, by conversation, and where something was sent; nothing if it did not
    /// take it.
    async fn replay(
        &self,
        connection: &Connection,
        last_seq: &BTreeMap<ConversationId, u64>,
        heads: &BTreeMap<ConversationId, u64>,
        now: OffsetDateTime,
    ) -> Result<Option<(BTreeMap<ConversationId, u64>, BTreeSet<ConversationId>)>, PortFault> {
        let left = AtomicU64::new(REPLAYED_IN_ALL);
        let from = |id, head: u64| last_seq.get(id).copied().unwrap_or_default().min(head);
        let behind: Vec<_> =
            heads.iter().map(|(id, head)| self.catch_up(connection, id, from(id, *head), *head, &left, now)).collect();
        let mut behind = stream::iter(behind).buffer_unordered(AT_ONCE);
        let (mut positions, mut replayed) = (BTreeMap::new(), BTreeSet::new());
        while let Some(reached) = behind.next().await {
            let Some((id, reached)) = reached? else { return Ok(None) };
            if last_seq.get(id).is_none_or(|from| reached > *from) {
                replayed.insert(id.clone());
            }
            positions.insert(id.clone(), reached);
        }
        Ok(Some((positions, replayed)))
    }

    /// One conversation, up to `head`; which, and how far the client has come then.
    async fn catch_up<'c>(
        &self,
        connection: &Connection,
        conversation_id: &'c ConversationId,
        mut from: u64,
        head: u64,
        left: &AtomicU64,
        now: OffsetDateTime,
    ) -> Result<Option<(&'c ConversationId, u64)>, PortFault> {
        let missed = head.saturating_sub(from);
        let affordable = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(missed));
        if missed > REPLAYED || affordable().is_err() {
            let resync = Frame::resync_required(conversation_id, head, now).text();
            return Ok(self.send(connection, &resync).await?.then_some((conversation_id, head)));
        }
        while from < head {
            let lines = self.backlog.after(conversation_id, from, PAGE).await?;
            if lines.is_empty() {
                break;
            }
            for line in lines.iter().take_while(|line| line.seq() <= head) {
                if !self.send(connection, &line.frame(conversation_id, now)).await? {
                    return Ok(None);
                }
                from = line.seq();
            }
        }
        Ok(Some((conversation_id, from)))
    }

    /// Leaves to the push queue what went on before the socket was seen to be live. Where nothing did, the position says nothing more.
    async fn settle_in(
        &self,
        connection: &Connection,
        mut slot: Slot,
        replayed: &BTreeSet<ConversationId>,
    ) -> Result<(), PortFault> {
        if slot.positions.is_empty() {
            return Ok(());
        }
        let heads = self.heads(connection, slot.positions.keys()).await?;
        slot.positions.retain(|id, position| heads.get(id).is_some_and(|head| head > position));
        self.slots.renew(&connection.place, &slot).await?;
        // Where something was sent, its senders are to hear that it arrived.
        for conversation_id in replayed.iter().chain(slot.positions.keys()).collect::<BTreeSet<_>>() {
            let head = heads.get(conversation_id).copied().unwrap_or_default();
            let once = format!("hello.{}.{conversation_id}.{head}", connection.place.connection_id);
            self.queue.tell(&PushJob::Check { conversation_id: conversation_id.clone() }, &once).await?;
        }
        Ok(())
    }

    /// How far those conversations have come that the user is in.
    async fn heads(
        &self,
        connection: &Connection,
        ids: impl Iterator<Item = &ConversationId>,
    ) -> Result<BTreeMap<ConversationId, u64>, PortFault> {
        let ids: Vec<&ConversationId> = ids.collect();
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let place = &connection.place;
        let theirs = |it: &Conversation| it.tenant_id == place.tenant_id && it.members.contains(&place.user_id);
        let found = self.backlog.conversations(&ids).await?;
        Ok(found.into_iter().filter(theirs).map(|it| (it.conversation_id, it.seq)).collect())
    }

    /// Sends a frame. False: it was not taken, and the connection has ended.
    async fn send(&self, connection: &Connection, frame: &str) -> Result<bool, PortFault> {
        match self.sockets.post(&connection.place.connection_id, frame).await {
            Ok(()) => Ok(true),
            Err(PostFault::Gone) => {
                forget(self.slots.as_ref(), &connection.place).await;
                Ok(false)
            }
            Err(fault @ PostFault::Busy(_)) => {
                cut(self.slots.as_ref(), self.sockets.as_ref(), &connection.place, &fault).await?;
                Ok(false)
            }
        }
    }

    /// A connection without a place is told nothing any more: its client comes back by a new one.
    async fn turn_away(&self, connection_id: &ConnectionId) -> Result<(), PortFault> {
        tracing::info!(connection.id = %connection_id, "A socket without a place is closed");
        self.sockets.close(connection_id).await
    }

    async fn complain(&self, connection_id: &ConnectionId, complaint: &Frame) {
        if let Err(fault) = self.sockets.post(connection_id, &complaint.text()).await {
            tracing::info!(connection.id = %connection_id, error = %chain(&fault), "A complaint was not taken");
        }
    }
}

/// Why a socket is not opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketFault {
    #[error("no ticket was sent; connect with `?ticket=..`, or with the subprotocol `bearer.<access token>`")]
    Nothing,
    #[error("the ticket is not valid any more; each is good once, for 30 seconds")]
    Ticket,
    #[error("the login has ended")]
    Ended,
    #[error("five sockets of this user are open already")]
    Full,
    #[error(transparent)]
    Access(#[from] AccessFault),
    #[error("a port failed")]
    Port(#[from] PortFault),
}

impl Fault for SocketFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Nothing | Self::Ticket | Self::Ended => Remedy::Deny(Denial::Unauthenticated),
            Self::Full => Remedy::Deny(Denial::Throttled { retry_after_secs: TRY_AGAIN_SECS }),
            Self::Access(fault) => fault.remedy(),
            Self::Port(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Nothing => "unauthenticated",
            Self::Ticket => "invalid_ticket",
            Self::Ended => "invalid_token",
            Self::Full => "too_many_sockets",
            Self::Access(fault) => fault.code(),
            Self::Port(fault) => fault.code(),
        }
    }

    fn challenge(&self) -> Option<String> {
        match self {
            Self::Access(fault) => fault.challenge(),
            _ => None,
        }
    }
}
