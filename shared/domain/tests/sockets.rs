//! Sockets and what is pushed to them, over ports in memory.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail the test")]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use domain::access::{AccessFault, Scope};
use domain::fault::{Denial, Fault as _, Remedy};
use domain::id::{ConnectionId, ConversationId, TenantId, UserId};
use domain::push::{Audience, Frame, OVERDUE, PushJob, PushQueue as _, Pusher, sweep};
use domain::socket::{
    Holder, LONGEST, Proof, REPLAYED, Reception, SILENCE, SLOTS, SlotStore as _, SocketFault, TICKET_LIFE, Ticket,
    TicketStore as _, barred_until,
};
use serde_json::{Value, json};
use testkit::delivery::{Plan, simulate};
use testkit::sample::{self, NOW};
use testkit::{MemoryPushQueue, MemoryRoom, MemorySockets, MemoryTable, MemoryTokens, contract_sockets};
use time::{Duration, OffsetDateTime};

struct World {
    room: Arc<MemoryRoom>,
    sockets: Arc<MemorySockets>,
    queue: Arc<MemoryPushQueue>,
    reception: Reception,
    pusher: Pusher,
}

fn world() -> World {
    let (room, sockets) = (Arc::new(MemoryRoom::default()), Arc::new(MemorySockets::default()));
    let queue = Arc::new(MemoryPushQueue::default());
    let verifier = Arc::new(MemoryTokens::default());
    World {
        reception: Reception::new(room.clone(), verifier, sockets.clone(), queue.clone()),
        pusher: Pusher::new(room.clone(), sockets.clone(), queue.clone()),
        room,
        sockets,
        queue,
    }
}

fn holder(user: &str) -> Holder {
    let tenant_id = TenantId::parse("t1").unwrap();
    Holder { tenant_id, user_id: UserId::parse(user).unwrap(), session_id: sample::family_id(1) }
}

fn id(name: &str) -> ConnectionId {
    ConnectionId::parse(name).unwrap()
}

impl World {
    /// Opens a socket with a ticket of its own.
    async fn open(&self, user: &str, name: &str, now: OffsetDateTime) -> Result<(), SocketFault> {
        self.room.keep(&Ticket::issue(name.to_owned(), holder(user), now)).await.unwrap();
        self.reception.open(&id(name), Proof::Ticket(name), now).await?;
        self.sockets.connect(&id(name));
        Ok(())
    }

    async fn hello(&self, name: &str, last_seq: Value, now: OffsetDateTime) {
        let hello = json!({ "type": "hello", "last_seq": last_seq }).to_string();
        self.reception.hear(&id(name), &hello, now).await.unwrap();
    }

    /// A socket that is open and live.
    async fn join(&self, user: &str, name: &str) {
        self.open(user, name, NOW).await.unwrap();
        self.hello(name, json!({}), NOW).await;
        assert_eq!(self.received(name), ["connection.established"]);
    }

    /// Does what is on the push queue, and what comes of it.
    async fn push(&self, now: OffsetDateTime) {
        loop {
            let jobs = self.queue.take();
            if jobs.is_empty() {
                return;
            }
            for job in jobs {
                self.pusher.carry_out(&job, now).await.unwrap();
            }
        }
    }

    async fn say(&self, conversation: &ConversationId, from: &str, text: &str) -> u64 {
        let seq = self.room.say(conversation, from, text, NOW);
        self.queue.ring(conversation, seq).await.unwrap();
        seq
    }

    /// What a client has received: messages by their number, everything else by its type.
    fn received(&self, name: &str) -> Vec<String> {
        let told = |frame: Value| match frame["type"].as_str().unwrap() {
            "message.created" => frame["data"]["seq"].to_string(),
            "message.status_updated" => {
                format!("{} {} by {}", frame["data"]["status"], frame["data"]["seq"], frame["data"]["user_ids"])
            }
            "unrenderable" => format!("unrenderable {}", frame["data"]["seq"]),
            "resync_required" => format!("resync to {}", frame["data"]["seq"]),
            other => other.to_owned(),
        };
        self.sockets.received(&id(name)).into_iter().map(told).collect()
    }
}

#[tokio::test]
async fn memory_keeps_the_contracts() {
    contract_sockets::tickets(&MemoryRoom::default()).await;
    contract_sockets::slots(&MemoryRoom::default()).await;
    contract_sockets::push_states(&MemoryRoom::default()).await;
}

#[tokio::test]
async fn a_socket_opens_with_a_fresh_ticket_or_a_token_for_chat() {
    let world = world();
    let refused = async |proof: Proof<'_>, now| world.reception.open(&id("a"), proof, now).await.unwrap_err();
    world.room.keep(&Ticket::issue("late".to_owned(), holder("ann"), NOW)).await.unwrap();
    for fault in [
        refused(Proof::Nothing, NOW).await,
        refused(Proof::Ticket("unknown"), NOW).await,
        refused(Proof::Ticket("late"), NOW + TICKET_LIFE).await,
        refused(Proof::Token("forged"), NOW).await,
    ] {
        assert_eq!(fault.remedy(), Remedy::Deny(Denial::Unauthenticated), "{fault}");
    }
    world.open("ann", "a", NOW).await.unwrap();
    assert!(matches!(refused(Proof::Ticket("a"), NOW).await, SocketFault::Ticket), "a ticket is good once");
    assert_eq!(world.room.held("ann", NOW), 1);
}

#[tokio::test]
async fn the_sixth_socket_is_refused_and_places_come_back_without_a_word() {
    let world = world();
    for name in ["a", "b", "c", "d", "e"] {
        world.open("ann", name, NOW).await.unwrap();
    }
    let full = world.open("ann", "f", NOW).await.unwrap_err();
    assert!(matches!(full.remedy(), Remedy::Deny(Denial::Throttled { .. })));
    world.open("bob", "g", NOW).await.unwrap();
    world.reception.leave(&id("a")).await.unwrap();
    world.reception.leave(&id("a")).await.unwrap();
    world.open("ann", "f", NOW).await.unwrap();

    let later = NOW + SILENCE - Duration::SECOND;
    world.reception.hear(&id("b"), r#"{"type":"ping"}"#, later).await.unwrap();
    assert_eq!(world.received("b"), ["pong"]);
    assert_eq!(world.room.held("ann", later), SLOTS);
    assert_eq!(world.room.held("ann", NOW + SILENCE), 1, "only who gave a sign of life");
    let mut now = later;
    while now < NOW + LONGEST {
        world.reception.hear(&id("b"), r#"{"type":"ping"}"#, now).await.unwrap();
        now += Duration::minutes(4);
    }
    assert_eq!(world.room.held("ann", NOW + LONGEST), 0, "no connection is older than two hours");
}

#[tokio::test]
async fn a_message_reaches_every_socket_of_every_member_and_its_sender_hears_of_it() {
    let world = world();
    let conversation = world.room.converse(1, &["ann", "bob", "cy"]);
    for (user, name) in [("ann", "a1"), ("ann", "a2"), ("bob", "b"), ("eve", "e")] {
        world.join(user, name).await;
    }
    world.say(&conversation, "ann", "你好 🙂").await;
    world.push(NOW).await;
    for name in ["a1", "a2"] {
        assert_eq!(world.received(name), ["1", r#""delivered" 1 by ["bob"]"#]);
    }
    assert_eq!(world.received("b"), ["1"]);
    assert!(world.received("e").is_empty(), "who is no member sees nothing");
    assert_eq!(world.room.pushed(&conversation), (1, false));

    // Cy comes back: what was said is sent again, and Ann hears that it arrived.
    world.open("cy", "c", NOW).await.unwrap();
    world.hello("c", json!({ conversation.as_str(): 0 }), NOW).await;
    world.push(NOW).await;
    assert_eq!(world.received("c"), ["connection.established", "1"]);
    assert_eq!(world.received("a1"), [r#""delivered" 1 by ["cy"]"#]);
    assert!(world.received("b").is_empty());
}

#[tokio::test]
async fn bells_that_are_lost_doubled_or_late_do_no_harm() {
    let world = world();
    let conversation = world.room.converse(1, &["ann", "bob"]);
    world.join("bob", "b").await;
    for n in 1..=3 {
        world.room.say(&conversation, "ann", &format!("{n}"), NOW);
    }
    for seq in [3, 1, 3, 2] {
        world.pusher.carry_out(&PushJob::Drain { conversation_id: conversation.clone(), seq }, NOW).await.unwrap();
    }
    assert_eq!(world.received("b"), ["1", "2", "3"]);

    world.room.say(&conversation, "ann", "nobody rings", NOW);
    let bookmarks = MemoryTable::default();
    let ring = async |now| sweep(world.room.as_ref(), world.queue.as_ref(), &bookmarks, now).await.unwrap();
    assert_eq!(ring(NOW + OVERDUE - Duration::SECOND).await, 0);
    assert_eq!(ring(NOW + OVERDUE).await, 1);
    world.push(NOW).await;
    assert_eq!(world.received("b"), ["4"]);
    assert_eq!(ring(NOW + Duration::HOUR).await, 0, "what was pushed is not swept");
}

#[tokio::test]
async fn a_sweep_goes_on_where_the_last_one_ended() {
    let world = world();
    for n in 0..5_250 {
        let conversation = world.room.converse(n, &["ann", "bob"]);
        world.room.say(&conversation, "ann", "x", NOW);
    }
    let bookmarks = MemoryTable::default();
    let mut rung = Vec::new();
    for _ in 0..3 {
        rung.push(sweep(world.room.as_ref(), world.queue.as_ref(), &bookmarks, NOW + OVERDUE).await.unwrap());
    }
    assert_eq!(rung, [5_000, 250, 5_000]);
}

#[tokio::test]
async fn who_is_gone_or_slow_loses_a_place_and_nobody_else_waits() {
    let world = world();
    let conversation = world.room.converse(1, &["ann", "bob", "cy", "dee"]);
    for (user, name) in [("ann", "a"), ("bob", "b"), ("cy", "c"), ("dee", "d")] {
        world.join(user, name).await;
    }
    world.sockets.break_off(&id("b"));
    world.sockets.slow_down(&id("c"));
    world.say(&conversation, "ann", "1").await;
    world.say(&conversation, "ann", "2").await;
    world.push(NOW).await;
    assert_eq!(world.received("d"), ["1", "2"]);
    assert_eq!(world.received("a"), ["1", "2", r#""delivered" 2 by ["dee"]"#]);
    assert_eq!([world.room.held("bob", NOW), world.room.held("cy", NOW), world.room.held("dee", NOW)], [0, 0, 1]);
    assert_eq!(world.sockets.closed(), [id("c")], "it is told to come back");
    assert_eq!(world.room.pushed(&conversation), (2, false));
}

#[tokio::test]
async fn a_place_that_was_given_to_another_connection_is_not_taken_from_it() {
    let world = world();
    world.join("bob", "old").await;
    let place = world.room.connection(&id("old")).await.unwrap().unwrap().place;
    world.reception.leave(&id("old")).await.unwrap();
    world.join("bob", "new").await;
    assert!(!world.room.release(&place).await.unwrap());
    assert_eq!(world.room.held("bob", NOW), 1);
}

#[tokio::test]
async fn what_cannot_be_shown_holds_its_place_and_blocks_nobody() {
    let world = world();
    let conversation = world.room.converse(1, &["ann", "bob"]);
    world.join("bob", "b").await;
    world.say(&conversation, "ann", "1").await;
    world.room.garble(&conversation, NOW);
    world.say(&conversation, "ann", &"很长".repeat(40_000)).await;
    world.say(&conversation, "ann", "4").await;
    world.push(NOW).await;
    assert_eq!(world.received("b"), ["1", "unrenderable 2", "unrenderable 3", "4"]);
}

#[tokio::test]
async fn a_client_catches_up_in_order_and_then_lives() {
    let world = world();
    let (one, two) = (world.room.converse(1, &["ann", "bob"]), world.room.converse(2, &["ann", "bob"]));
    let foreign = world.room.converse(3, &["ann", "cy"]);
    for n in 1..=REPLAYED + 20 {
        world.say(&one, "ann", &format!("{n}")).await;
    }
    world.say(&two, "ann", "far behind").await;
    world.push(NOW).await;
    world.open("bob", "b", NOW).await.unwrap();
    world.say(&one, "ann", "before hello").await;
    world.push(NOW).await;
    assert!(world.received("b").is_empty(), "nothing before the client says hello");

    let hello = json!({ one.as_str(): 21, foreign.as_str(): 5, "00000000-0000-4000-9000-0000000000ff": 0 });
    world.hello("b", hello, NOW).await;
    let expected: Vec<String> = (22..=REPLAYED + 21).map(|seq| seq.to_string()).collect();
    let frames = world.sockets.received(&id("b"));
    assert_eq!(frames[0]["type"], "connection.established");
    assert_eq!(frames[0]["data"]["last_seq"], json!({ one.as_str(): REPLAYED + 21 }));
    assert_eq!(frames[0]["data"]["unknown"], json!([&foreign, "00000000-0000-4000-9000-0000000000ff"]));
    let replayed: Vec<String> = frames[1..].iter().map(|frame| frame["data"]["seq"].to_string()).collect();
    assert_eq!(replayed, expected);

    world.say(&one, "ann", "live").await;
    world.push(NOW).await;
    assert_eq!(world.received("b"), [(REPLAYED + 22).to_string()]);

    world.open("bob", "late", NOW).await.unwrap();
    world.hello("late", json!({ one.as_str(): 21, two.as_str(): 1 }), NOW).await;
    assert_eq!(world.received("late"), ["connection.established".to_owned(), format!("resync to {}", REPLAYED + 22)]);
    world.say(&one, "ann", "live again").await;
    world.push(NOW).await;
    assert_eq!(world.received("late"), [(REPLAYED + 23).to_string()]);
}

#[tokio::test]
async fn a_hello_that_asks_for_too_much_at_once_gets_what_fits() {
    let world = world();
    let mut positions = serde_json::Map::new();
    for n in 0..6 {
        let conversation = world.room.converse(n, &["ann", "bob"]);
        for _ in 0..REPLAYED {
            world.room.say(&conversation, "ann", "x", NOW);
        }
        positions.insert(conversation.to_string(), json!(0));
    }
    world.open("bob", "b", NOW).await.unwrap();
    world.hello("b", positions.into(), NOW).await;
    let frames = world.received("b");
    assert_eq!(frames.iter().filter(|frame| frame.starts_with("resync")).count(), 2);
    assert_eq!(frames.len(), 1 + 2 + 4 * usize::try_from(REPLAYED).unwrap());
}

#[tokio::test]
async fn a_socket_that_breaks_during_its_replay_is_forgotten() {
    let world = world();
    let conversation = world.room.converse(1, &["ann", "bob"]);
    for _ in 0..10 {
        world.room.say(&conversation, "ann", "x", NOW);
    }
    world.open("bob", "b", NOW).await.unwrap();
    world.sockets.break_after(&id("b"), 4);
    world.hello("b", json!({ conversation.as_str(): 0 }), NOW).await;
    assert_eq!(world.room.held("bob", NOW), 0);
}

#[tokio::test]
async fn what_is_no_frame_is_answered_and_closes_nothing() {
    let world = world();
    world.join("ann", "a").await;
    for bad in ["", "{", r#"{"type":"subscribe"}"#, r#"{"type":"hello","last_seq":{"x":1}}"#] {
        world.reception.hear(&id("a"), bad, NOW).await.unwrap();
        assert_eq!(world.received("a"), ["error"], "{bad}");
    }
    world.reception.hear(&id("stranger"), r#"{"type":"ping"}"#, NOW).await.unwrap();
    assert_eq!(world.sockets.closed(), [id("stranger")], "who has no place is closed");
}

#[tokio::test]
async fn a_client_whose_hello_fails_is_told_so() {
    let world = world();
    world.open("ann", "a", NOW).await.unwrap();
    world.room.down.store(true, Ordering::SeqCst);
    assert!(world.reception.hear(&id("a"), r#"{"type":"hello"}"#, NOW).await.is_err());
    assert_eq!(world.received("a"), ["error"]);
}

#[tokio::test]
async fn the_end_of_a_login_closes_its_sockets_and_opens_no_more() {
    let world = world();
    for name in ["a", "b"] {
        world.join("ann", name).await;
    }
    let other = Holder { session_id: sample::family_id(2), ..holder("ann") };
    world.room.keep(&Ticket::issue("c".to_owned(), other, NOW)).await.unwrap();
    world.reception.open(&id("c"), Proof::Ticket("c"), NOW).await.unwrap();
    let close = PushJob::Close(holder("ann"));
    for _ in 0..2 {
        world.pusher.carry_out(&close, NOW).await.unwrap();
    }
    let mut closed = world.sockets.closed();
    closed.sort();
    assert_eq!(closed, [id("a"), id("b")]);
    assert_eq!(world.room.held("ann", NOW), 1, "another login's socket stays");
    let fault = world.open("ann", "d", NOW + Duration::MINUTE).await.unwrap_err();
    assert_eq!(fault.remedy(), Remedy::Deny(Denial::Unauthenticated), "its access token lives on, and opens nothing");
    assert_eq!(world.room.held("ann", NOW), 1);
    world.open("ann", "d", barred_until(NOW)).await.unwrap();
}

#[tokio::test]
async fn a_frame_is_told_to_those_it_is_for() {
    let world = world();
    let conversation = world.room.converse(1, &["ann", "bob"]);
    for (user, name) in [("ann", "a"), ("bob", "b"), ("eve", "e")] {
        world.join(user, name).await;
    }
    let ann = UserId::parse("ann").unwrap();
    let frame = Frame::conversation_read(&conversation, &ann, 3, NOW);
    let job = PushJob::Tell { conversation_id: conversation.clone(), to: Audience::But(ann), frame };
    world.queue.tell(&job, "once").await.unwrap();
    world.push(NOW).await;
    let heard = ["a", "b", "e"].map(|name| world.received(name));
    assert_eq!(heard, [vec![], vec!["conversation.read".to_owned()], vec![]]);
}

#[tokio::test]
async fn a_scope_is_asked_for() {
    let fault = SocketFault::Access(AccessFault::MissingScope(Scope::Chat));
    assert_eq!(fault.remedy(), Remedy::Deny(Denial::Forbidden));
    assert!(fault.challenge().is_some());
}

/// The budget's mixture, in several runs: bells lost, doubled and reordered, workers and receptions killed, connections broken.
#[tokio::test]
async fn every_reader_sees_every_message_once_and_in_order() {
    for seed in 0..8 {
        let outcome = simulate(Plan::of(seed, 2_000)).await;
        assert!(outcome.violations.is_empty(), "seed {seed}: {:?}", outcome.violations);
        assert_eq!((outcome.committed, outcome.shown), (2_000, 10_000), "seed {seed}");
        assert!(outcome.kills > 0 && outcome.connections > 5 && outcome.delivered > outcome.shown, "{outcome:?}");
    }
}

/// Half of all jobs die, half of all bells are lost, and no connection lasts.
#[tokio::test]
async fn nothing_is_lost_in_a_storm() {
    for seed in 0..20 {
        let plan = Plan {
            conversations: 3,
            doubled: 50,
            reordered: 50,
            killed: 50,
            lost: 50,
            broken: 600,
            ..Plan::of(seed, 500)
        };
        let outcome = simulate(plan).await;
        assert!(outcome.violations.is_empty(), "seed {seed}: {:?}", outcome.violations);
        assert_eq!(outcome.shown, 2_500);
    }
}
