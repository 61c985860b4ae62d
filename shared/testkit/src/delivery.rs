//! A day of deliveries in a moment: senders, sockets that come and go, and workers that are killed, with a queue that loses, doubles and
//! reorders. The rules are the real ones; the ports are in memory and let others go first at every call, so that everything meets
//! everything. One seed gives one run.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use domain::chat::Conversation;
use domain::fault::PortFault;
use domain::id::{ConnectionId, ConversationId, FamilyId, TenantId, UserId};
use domain::push::{Backlog, Line, PushJob, PushQueue, PushState, PushStore, Pusher, sweep};
use domain::socket::{
    Connection, Holder, Place, PostFault, Proof, Reception, Slot, SlotStore, Slots, Sockets, Ticket, TicketStore,
};
use futures_util::future::join_all;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use crate::memory::unavailable;
use crate::sample::{self, NOW};
use crate::{MemoryRoom, MemorySockets, MemoryTable, MemoryTokens};

/// What to simulate.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub conversations: u32,
    /// Each is in every conversation, and reads with one client.
    pub users: u32,
    /// In all conversations together.
    pub messages: u64,
    /// How many in a hundred: jobs that come twice, jobs that overtake others, jobs whose worker is killed, bells that are never rung.
    pub doubled: u64,
    pub reordered: u64,
    pub killed: u64,
    pub lost: u64,
    /// In how many of ten thousand turns a client loses its connection, or its connection takes no frame more.
    pub broken: u64,
}

impl Plan {
    /// As the design's budget has it.
    #[must_use]
    pub fn of(seed: u64, messages: u64) -> Self {
        Self { seed, conversations: 20, users: 5, messages, doubled: 10, reordered: 10, killed: 1, lost: 5, broken: 10 }
    }
}

/// When a run ends in any case.
const GIVE_UP_MS: i64 = 2 * 86_400_000;

/// What came of it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Messages committed, frames with a message sent to sockets, and messages shown to readers.
    pub committed: u64,
    pub delivered: u64,
    pub shown: u64,
    /// Jobs done, workers killed, connections made.
    pub jobs: u64,
    pub kills: u64,
    pub connections: u64,
    /// Messages that a reader saw out of turn, and readers that did not see all.
    pub violations: Vec<String>,
}

/// A sequence of numbers that looks random (splitmix64).
#[derive(Debug)]
struct Dice(AtomicU64);

impl Dice {
    fn next(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&self, n: u64) -> u64 {
        self.next() % n
    }

    fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A process: it dies after so many calls of its ports, before or after the last of them took effect.
struct Process {
    world: Arc<World>,
    left: AtomicI64,
}

impl Process {
    async fn call<T>(&self, call: impl Future<Output = Result<T, PortFault>>) -> Result<T, PortFault> {
        if self.world.dice.chance(30) {
            tokio::task::yield_now().await;
        }
        match self.left.fetch_sub(1, Ordering::Relaxed) {
            1 if self.world.dice.chance(50) => {
                call.await?;
                unavailable("killed")
            }
            left if left <= 1 => unavailable("killed"),
            _ => call.await,
        }
    }
}

#[async_trait]
impl TicketStore for Process {
    async fn keep(&self, ticket: &Ticket) -> Result<(), PortFault> {
        self.call(self.world.room.keep(ticket)).await
    }

    async fn take(&self, hash: &str, now: OffsetDateTime) -> Result<Option<Ticket>, PortFault> {
        self.call(self.world.room.take(hash, now)).await
    }
}

#[async_trait]
impl SlotStore for Process {
    async fn claim(
        &self,
        holder: &Holder,
        connection_id: &ConnectionId,
        now: OffsetDateTime,
    ) -> Result<Option<Connection>, PortFault> {
        self.call(self.world.room.claim(holder, connection_id, now)).await
    }

    async fn connection(&self, connection_id: &ConnectionId) -> Result<Option<Connection>, PortFault> {
        self.call(self.world.room.connection(connection_id)).await
    }

    async fn of(&self, tenant_id: &TenantId, users: &[&UserId]) -> Result<Vec<Slots>, PortFault> {
        self.call(self.world.room.of(tenant_id, users)).await
    }

    async fn renew(&self, place: &Place, slot: &Slot) -> Result<bool, PortFault> {
        self.call(self.world.room.renew(place, slot)).await
    }

    async fn extend(&self, place: &Place, expires_at: OffsetDateTime) -> Result<bool, PortFault> {
        self.call(self.world.room.extend(place, expires_at)).await
    }

    async fn arrived(&self, place: &Place, conversation_id: &ConversationId) -> Result<bool, PortFault> {
        self.call(self.world.room.arrived(place, conversation_id)).await
    }

    async fn release(&self, place: &Place) -> Result<bool, PortFault> {
        self.call(self.world.room.release(place)).await
    }

    async fn bar(&self, session_id: &FamilyId, until: OffsetDateTime) -> Result<(), PortFault> {
        self.call(self.world.room.bar(session_id, until)).await
    }

    async fn is_barred(&self, session_id: &FamilyId, now: OffsetDateTime) -> Result<bool, PortFault> {
        self.call(self.world.room.is_barred(session_id, now)).await
    }
}

#[async_trait]
impl Backlog for Process {
    async fn after(&self, conversation_id: &ConversationId, after: u64, limit: u32) -> Result<Vec<Line>, PortFault> {
        self.call(self.world.room.after(conversation_id, after, limit)).await
    }

    async fn conversations(&self, ids: &[&ConversationId]) -> Result<Vec<Conversation>, PortFault> {
        self.call(self.world.room.conversations(ids)).await
    }
}

#[async_trait]
impl PushStore for Process {
    async fn state(&self, conversation_id: &ConversationId) -> Result<PushState, PortFault> {
        self.call(self.world.room.state(conversation_id)).await
    }

    async fn advance(&self, conversation_id: &ConversationId, next: &PushState) -> Result<bool, PortFault> {
        self.call(self.world.room.advance(conversation_id, next)).await
    }

    async fn settle(&self, conversation_id: &ConversationId, seq: u64) -> Result<(), PortFault> {
        self.call(self.world.room.settle(conversation_id, seq)).await
    }
}

#[async_trait]
impl Sockets for Process {
    async fn post(&self, connection_id: &ConnectionId, frame: &str) -> Result<(), PostFault> {
        let posted = async { Ok(self.world.sockets.post(connection_id, frame).await) };
        match self.call(posted).await {
            Ok(answer) => answer,
            Err(fault) => Err(PostFault::Busy(fault.into())),
        }
    }

    async fn close(&self, connection_id: &ConnectionId) -> Result<(), PortFault> {
        self.call(self.world.sockets.close(connection_id)).await
    }
}

#[async_trait]
impl PushQueue for Process {
    async fn ring(&self, conversation_id: &ConversationId, seq: u64) -> Result<(), PortFault> {
        self.tell(&PushJob::Drain { conversation_id: conversation_id.clone(), seq }, "").await
    }

    async fn tell(&self, job: &PushJob, _once: &str) -> Result<(), PortFault> {
        let put = async {
            self.world.put(job.clone());
            Ok(())
        };
        self.call(put).await
    }
}

/// The jobs of one group, and whether a worker has one of them.
#[derive(Debug, Default)]
struct Group {
    jobs: VecDeque<PushJob>,
    busy: bool,
}

struct World {
    plan: Plan,
    dice: Dice,
    room: MemoryRoom,
    sockets: MemorySockets,
    table: MemoryTable,
    queue: Mutex<BTreeMap<String, Group>>,
    clock: AtomicI64,
    conversations: Vec<ConversationId>,
    outcome: Mutex<Outcome>,
    /// How many clients have seen everything.
    content: AtomicU64,
}

impl World {
    fn now(&self) -> OffsetDateTime {
        NOW + Duration::milliseconds(self.clock.load(Ordering::Relaxed))
    }

    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().expect("no simulation panics while it holds the outcome")
    }

    fn queue(&self) -> MutexGuard<'_, BTreeMap<String, Group>> {
        self.queue.lock().expect("no simulation panics while it holds the queue")
    }

    fn done(&self) -> bool {
        self.clock.load(Ordering::Relaxed) > GIVE_UP_MS
            || self.content.load(Ordering::Relaxed) == u64::from(self.plan.users)
    }

    /// Queues a job: sometimes twice, sometimes ahead of those that came before.
    fn put(&self, job: PushJob) {
        let mut queue = self.queue();
        let group = queue.entry(job.group().to_owned()).or_default();
        if self.dice.chance(self.plan.doubled) {
            group.jobs.push_back(job.clone());
        }
        if self.dice.chance(self.plan.reordered) {
            group.jobs.push_front(job);
        } else {
            group.jobs.push_back(job);
        }
    }

    /// A job of a group that nobody is at; now and then of one that somebody is at, as when a worker outlives its time.
    fn take(&self) -> Option<(PushJob, String)> {
        let mut queue = self.queue();
        let overrun = self.dice.chance(2);
        let ready: Vec<&String> =
            queue.iter().filter(|(_, it)| !it.jobs.is_empty() && (overrun || !it.busy)).map(|(name, _)| name).collect();
        let name = (*ready.get(usize::try_from(self.dice.below(ready.len().max(1) as u64)).ok()?)?).clone();
        let group = queue.get_mut(&name)?;
        group.busy = true;
        Some((group.jobs.pop_front()?, name))
    }

    fn put_back(&self, name: &str, failed: Option<PushJob>) {
        let mut queue = self.queue();
        let group = queue.entry(name.to_owned()).or_default();
        group.busy = false;
        if let Some(job) = failed {
            group.jobs.push_front(job);
        }
    }

    fn process(self: &Arc<Self>, calls: i64) -> Arc<Process> {
        Arc::new(Process { world: self.clone(), left: AtomicI64::new(calls) })
    }

    fn pusher(self: &Arc<Self>, calls: i64) -> Pusher {
        let process = self.process(calls);
        Pusher::new(process.clone(), process.clone(), process)
    }

    /// A worker: takes jobs until all is seen. When it is killed another one begins where the queue says.
    async fn work(self: Arc<Self>) {
        let mut pusher = self.pusher(i64::MAX);
        while !self.done() {
            if let Some((job, group)) = self.take() {
                let doomed = self.dice.chance(self.plan.killed);
                if doomed {
                    pusher = self.pusher(i64::try_from(self.dice.below(30)).unwrap_or_default());
                }
                let failed = pusher.carry_out(&job, self.now()).await.is_err();
                self.outcome().jobs += 1;
                self.put_back(&group, failed.then_some(job));
                if doomed || failed {
                    self.outcome().kills += u64::from(failed);
                    pusher = self.pusher(i64::MAX);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Commits messages, and rings for most of them.
    async fn send(self: Arc<Self>) {
        for n in 0..self.plan.messages {
            let conversation =
                &self.conversations[usize::try_from(self.dice.below(self.conversations.len() as u64)).unwrap()];
            let sender = format!("u{}", self.dice.below(self.plan.users.into()));
            let seq = self.room.say(conversation, &sender, &format!("第 {n} 条 🙂"), self.now());
            self.outcome().committed += 1;
            if !self.dice.chance(self.plan.lost) {
                self.put(PushJob::Drain { conversation_id: conversation.clone(), seq });
            }
            if self.dice.chance(40) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Time goes on, and once a minute the sweep rings.
    async fn go_on(self: Arc<Self>) {
        let mut minute = 0;
        while !self.done() {
            let now = self.clock.fetch_add(100, Ordering::Relaxed);
            if now / 60_000 > minute {
                minute = now / 60_000;
                let queue = self.process(i64::MAX);
                sweep(&self.room, queue.as_ref(), &self.table, self.now()).await.unwrap();
            }
            tokio::task::yield_now().await;
        }
    }

    fn violation(&self, what: String) {
        self.outcome().violations.push(what);
    }
}

/// A client that does what the contract asks of it and no more: it ignores what it has, and takes what comes next.
struct Client {
    world: Arc<World>,
    user: String,
    number: u32,
    connections: u32,
    connection: Option<ConnectionId>,
    last: BTreeMap<ConversationId, u64>,
    content: bool,
}

impl Client {
    async fn live(mut self) {
        while !self.world.done() {
            if self.connection.is_none() {
                self.connect().await;
            }
            self.read();
            self.notice();
            if let Some(connection) = self.connection.clone() {
                let broken = self.world.plan.broken;
                match self.world.dice.below(10_000) {
                    turn if turn < broken / 2 => self.world.sockets.slow_down(&connection),
                    // The network is gone, and the server learns of it or does not.
                    turn if turn < broken => {
                        self.world.sockets.break_off(&connection);
                        self.connection = None;
                        if self.world.dice.chance(50) {
                            let _ = self.reception().leave(&connection).await;
                        }
                    }
                    turn if turn < broken + 200 => {
                        let _ = self.reception().hear(&connection, r#"{"type":"ping"}"#, self.world.now()).await;
                    }
                    _ if self.world.sockets.is_open(&connection) => {}
                    _ => self.connection = None,
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn reception(&self) -> Reception {
        let doomed = self.world.dice.chance(self.world.plan.killed);
        let calls = if doomed { i64::try_from(self.world.dice.below(20)).unwrap_or_default() } else { i64::MAX };
        let process = self.world.process(calls);
        Reception::new(process.clone(), Arc::new(MemoryTokens::default()), process.clone(), process)
    }

    async fn connect(&mut self) {
        self.connections += 1;
        let id = ConnectionId::parse(format!("{}-{}", self.number, self.connections)).unwrap();
        let holder = Holder {
            tenant_id: TenantId::parse("t1").unwrap(),
            user_id: UserId::parse(self.user.as_str()).unwrap(),
            session_id: sample::family_id(self.number),
        };
        let now = self.world.now();
        self.world.room.keep(&Ticket::issue(id.to_string(), holder, now)).await.unwrap();
        let reception = self.reception();
        if reception.open(&id, Proof::Ticket(id.as_str()), now).await.is_err() {
            return;
        }
        self.world.outcome().connections += 1;
        self.world.sockets.connect(&id);
        let hello = json!({ "type": "hello", "last_seq": self.last }).to_string();
        // A client whose hello fails is not told so, and tries again by a new connection.
        if reception.hear(&id, &hello, now).await.is_ok() {
            self.connection = Some(id);
        } else {
            self.world.sockets.break_off(&id);
        }
    }

    fn read(&mut self) {
        let Some(connection) = &self.connection else { return };
        for frame in self.world.sockets.received(connection) {
            match frame["type"].as_str() {
                Some("message.created") => self.show(&frame["data"]),
                Some("resync_required") => {
                    let id = ConversationId::parse(frame["data"]["conversation_id"].as_str().unwrap()).unwrap();
                    let read = frame["data"]["seq"].as_u64().unwrap();
                    self.world.outcome().shown += read.saturating_sub(self.last[&id]);
                    self.last.insert(id, read);
                }
                _ => {}
            }
        }
    }

    fn show(&mut self, data: &Value) {
        self.world.outcome().delivered += 1;
        let id = ConversationId::parse(data["conversation_id"].as_str().unwrap()).unwrap();
        let seq = data["seq"].as_u64().unwrap();
        let last = self.last.entry(id.clone()).or_default();
        if seq <= *last {
            return;
        }
        if seq != *last + 1 {
            let what = format!("{} saw {seq} of {id} after {last}", self.user);
            self.world.violation(what);
        }
        *last = seq;
        self.world.outcome().shown += 1;
    }

    /// Says so, once, when it has seen everything that there will be.
    fn notice(&mut self) {
        let committed = self.world.outcome().committed;
        if !self.content && committed == self.world.plan.messages && self.last.values().sum::<u64>() >= committed {
            self.content = true;
            self.world.content.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Runs it to its end: until every reader has seen everything, or for two days of its own time.
pub async fn simulate(plan: Plan) -> Outcome {
    let room = MemoryRoom::default();
    let users: Vec<String> = (0..plan.users).map(|n| format!("u{n}")).collect();
    let members: Vec<&str> = users.iter().map(String::as_str).collect();
    let conversations: Vec<ConversationId> = (0..plan.conversations).map(|n| room.converse(n, &members)).collect();
    let world = Arc::new(World {
        plan,
        dice: Dice(AtomicU64::new(plan.seed)),
        room,
        sockets: MemorySockets::default(),
        table: MemoryTable::default(),
        queue: Mutex::default(),
        clock: AtomicI64::new(0),
        conversations,
        outcome: Mutex::default(),
        content: AtomicU64::new(0),
    });
    let clients = users.into_iter().zip(0..).map(|(user, number)| {
        let last = world.conversations.iter().map(|id| (id.clone(), 0)).collect();
        let world = world.clone();
        Client { world, user, number, connections: 0, connection: None, last, content: false }.live()
    });
    let workers = (0..4).map(|_| world.clone().work());
    tokio::join!(world.clone().send(), world.clone().go_on(), join_all(workers), join_all(clients));
    let mut outcome = world.outcome().clone();
    let content = world.content.load(Ordering::Relaxed);
    if content < plan.users.into() {
        outcome.violations.push(format!("{content} of {} readers have seen everything", plan.users));
    }
    outcome
}
