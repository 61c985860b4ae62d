//! Channels over ports in memory: in order, each message once, past what is refused, and back again after a receiver was down.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not run ends the test")]

use std::collections::BTreeSet;
use std::sync::Arc;

use domain::channel::{
    ChannelBell, ChannelMarks as _, Connector, ConnectorKind, ConnectorStore as _, Deliveries, DeliveryFault, Inbound,
    InboundFault, Incoming, Links as _, PROBE, TRIPS_AFTER,
};
use domain::chat::{
    Channel, Conversation, ConversationKind, ConversationStore as _, Draft, Message, MessageStatus, MessageStore as _,
    NewConversation, Payload, Priority, Progress,
};
use domain::clock::Clock as _;
use domain::id::{ChannelName, ChatMessageId, ConversationId, MessageId, TenantId, UserId};
use domain::push::{Audience, PushJob};
use domain::upload::file::{Keeping, StoredFile};
use domain::upload::{Status, Upload, UploadStore as _};
use serde_json::json;
use testkit::contract_channels::connector;
use testkit::{
    ManualClock, MemoryBells, MemoryChannels, MemoryChat, MemoryOutlet, MemoryPushQueue, MemoryUploads, Receiver,
    sample,
};
use time::Duration;

struct World {
    chat: Arc<MemoryChat>,
    files: Arc<MemoryUploads>,
    channels: Arc<MemoryChannels>,
    lark: Arc<MemoryOutlet>,
    webhook: Arc<MemoryOutlet>,
    bells: Arc<MemoryBells>,
    push: Arc<MemoryPushQueue>,
    clock: Arc<ManualClock>,
    deliveries: Deliveries,
    inbound: Inbound,
}

fn name(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

fn user(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

fn conversation_id() -> ConversationId {
    ConversationId::parse("00000000-0000-4000-9000-000000000001").unwrap()
}

/// Not the real one: the tests need it to be the same for the same text, and another for another.
fn hash(text: &str) -> String {
    let sum = text.bytes().fold(0_u128, |sum, byte| sum.wrapping_mul(1_099_511_628_211).wrapping_add(u128::from(byte)));
    format!("{:0>43}", format!("{sum:x}"))
}

/// Ann, Bob and 小明 talk; the conversation leads into a chat of Lark's, and to a webhook.
async fn world() -> World {
    let (chat, files) = (Arc::<MemoryChat>::default(), Arc::<MemoryUploads>::default());
    let channels = Arc::new(MemoryChannels::default());
    let [lark, webhook] = [(); 2].map(|()| Arc::new(MemoryOutlet::default()));
    let (bells, push, clock) =
        (Arc::<MemoryBells>::default(), Arc::<MemoryPushQueue>::default(), Arc::<ManualClock>::default());
    channels.put(&connector("lark")).await.unwrap();
    let url = "https://erp.example/hook".parse().unwrap();
    let connects = ConnectorKind::Webhook { url, secret: domain::seal::Sealed("sealed".to_owned()) };
    channels.put(&Connector { connects, ..connector("erp") }).await.unwrap();
    let new = NewConversation {
        kind: ConversationKind::Group,
        members: vec![user("ann"), user("bob"), user("ou_xiaoming")],
        metadata: serde_json::Map::new(),
        channels: [("lark", "oc_1"), ("erp", "room 7")]
            .map(|(channel, address)| Channel { name: name(channel), address: address.to_owned() })
            .into(),
    };
    let tenant_id = TenantId::parse("t1").unwrap();
    chat.create(&new.open(conversation_id(), tenant_id, user("ann"), clock.now())).await.unwrap();
    let deliveries = Deliveries {
        conversations: chat.clone(),
        messages: chat.clone(),
        files: files.clone(),
        connectors: channels.clone(),
        marks: channels.clone(),
        links: channels.clone(),
        lark: lark.clone(),
        webhook: webhook.clone(),
        refused: lark.clone(),
        bells: bells.clone(),
        push: push.clone(),
        clock: clock.clone(),
    };
    let inbound = Inbound {
        conversations: chat.clone(),
        messages: chat.clone(),
        connectors: channels.clone(),
        marks: channels.clone(),
        links: channels.clone(),
        push: push.clone(),
        hash,
    };
    World { chat, files, channels, lark, webhook, bells, push, clock, deliveries, inbound }
}

impl World {
    async fn say(&self, text: &str, channels: Option<&[&str]>) {
        self.put(Payload::Text { text: text.to_owned() }, channels).await;
    }

    async fn put(&self, payload: Payload, channels: Option<&[&str]>) {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let draft = Draft {
            tenant_id: TenantId::parse("t1").unwrap(),
            conversation_id: conversation_id(),
            message_id: ChatMessageId::parse(format!("00000000-0000-4000-a000-{n:012x}")).unwrap(),
            from: user("ann"),
            digest: format!("{payload:?}"),
            payload,
            channels: channels.map(|names| names.iter().map(|it| name(it)).collect()),
            priority: Priority::Normal,
        };
        self.chat.commit(&draft, self.clock.now()).await.unwrap();
    }

    async fn ring(&self, channel: &str) -> Result<(), DeliveryFault> {
        let bell = ChannelBell { conversation_id: conversation_id(), channel: name(channel), seq: 1 };
        self.deliveries.drain(&bell).await
    }

    async fn sent(&self, channel: &str) -> u64 {
        self.channels.mark(&conversation_id(), &name(channel)).await.unwrap().map_or(0, |mark| mark.sent)
    }

    async fn history(&self) -> Vec<Message> {
        self.chat.range(&conversation_id(), 0, 1_000).await.unwrap()
    }

    async fn hear(&self, id: &str, sender: Option<&str>, text: &str) -> Result<(), InboundFault> {
        let incoming = Incoming {
            app_id: sample::app_id("cli_a"),
            message_id: MessageId::parse(id).unwrap(),
            chat_id: "oc_1".to_owned(),
            sender: sender.map(sample::open_id),
            text: text.to_owned(),
        };
        self.inbound.receive(&incoming, self.clock.now()).await
    }
}

/// The statuses that were told: whom, of whom, which, up to where.
fn statuses(push: &MemoryPushQueue) -> Vec<(Audience, String, String, u64)> {
    let told = push.take().into_iter().filter_map(|job| match job {
        PushJob::Tell { to, frame, .. } => {
            let text = |name: &str| frame.data[name].as_str().unwrap_or_default().to_owned();
            Some((to, text("channel"), text("status"), frame.data["seq"].as_u64().unwrap_or_default()))
        }
        _ => None,
    });
    told.collect()
}

#[tokio::test]
async fn messages_leave_in_order_by_the_channels_they_name_and_only_once() {
    let world = world().await;
    for (text, channels) in
        [("一", None), ("二", Some(&["erp"][..])), ("三 🙂", Some(&["lark"][..])), ("四", Some(&[][..])), ("五", None)]
    {
        world.say(text, channels).await;
    }
    for _ in 0..3 {
        world.ring("lark").await.unwrap();
        world.ring("erp").await.unwrap();
    }
    assert_eq!((world.lark.taken(), world.webhook.taken()), (vec![1, 3, 5], vec![1, 2, 5]));
    assert_eq!((world.lark.tried(), world.webhook.tried()), (3, 3), "a bell for what is sent does nothing");
    assert_eq!((world.sent("lark").await, world.sent("erp").await), (5, 5));
    let ann = Audience::Users(BTreeSet::from([user("ann")]));
    let told = |channel: &str| (ann.clone(), channel.to_owned(), "delivered".to_owned(), 5);
    assert_eq!(statuses(&world.push), [told("lark"), told("erp")]);
}

#[tokio::test]
async fn a_crash_after_the_receiver_took_it_sends_it_again_under_the_same_name() {
    let world = world().await;
    world.say("一", None).await;
    world.lark.turn(Receiver::AnswersNobody);
    assert!(matches!(world.ring("lark").await, Err(DeliveryFault::Outlet(_))));
    world.lark.turn(Receiver::Takes);
    world.ring("lark").await.unwrap();
    assert_eq!((world.lark.tried(), world.lark.taken()), (2, vec![1]), "the receiver knows it by its id");
}

#[tokio::test]
async fn of_a_file_the_receiver_is_told_what_it_is() {
    let world = world().await;
    for (n, place) in [(1, conversation_id()), (2, sample::conversation_id(9))] {
        let upload = Upload { conversation_id: place.clone(), ..sample::upload(n) };
        world.files.open(&upload, None).await.unwrap();
        let merging = upload.moved(Status::Merging, sample::NOW);
        world.files.change(&merging).await.unwrap();
        let file = StoredFile { conversation_id: place, content_id: format!("{n}"), ..sample::file(n) };
        let done = merging.moved(Status::Completed, sample::NOW);
        world.files.complete(&done, &file, Keeping::First).await.unwrap();
    }
    for n in 1..=3 {
        world.put(Payload::File { file_id: sample::file_id(n) }, None).await;
    }
    world.ring("lark").await.unwrap();
    assert_eq!(world.lark.taken(), [1, 2, 3]);
    assert_eq!(world.lark.files(), ["周报 📄.pdf"], "neither another conversation's nor one that is gone");
}

#[tokio::test]
async fn what_a_receiver_refuses_is_kept_and_holds_up_nothing() {
    let world = world().await;
    world.say("一", None).await;
    world.lark.turn(Receiver::Refuses);
    world.ring("lark").await.unwrap();
    world.lark.turn(Receiver::Takes);
    world.say("二", None).await;
    world.ring("lark").await.unwrap();
    assert_eq!((world.lark.refused(), world.lark.taken()), (vec![1], vec![2]));
    let told: Vec<(String, u64)> = statuses(&world.push).into_iter().map(|(_, _, status, seq)| (status, seq)).collect();
    assert_eq!(told, [("failed".to_owned(), 1), ("delivered".to_owned(), 2)]);
    let said = world.chat.range(&conversation_id(), 0, 10).await.unwrap();
    let mut progress = Progress::default();
    progress
        .channels
        .insert(name("lark"), world.channels.mark(&conversation_id(), &name("lark")).await.unwrap().unwrap());
    assert_eq!([0, 1].map(|n| progress.status(&said[n])), [MessageStatus::Failed, MessageStatus::Delivered]);
    progress.delivered.insert(user("bob"), 1);
    assert_eq!(progress.status(&said[0]), MessageStatus::Delivered, "it has reached somebody by another way");
}

#[tokio::test]
async fn a_receiver_that_is_down_is_left_alone_and_gets_everything_in_order_when_it_is_back() {
    let world = world().await;
    for n in 1..=7 {
        world.say(&n.to_string(), None).await;
    }
    world.webhook.turn(Receiver::IsDown);
    for _ in 0..20 {
        assert!(world.ring("erp").await.is_err());
    }
    assert_eq!(world.webhook.tried(), TRIPS_AFTER, "then nobody tries any more");
    assert!(matches!(world.ring("erp").await, Err(DeliveryFault::Waiting { .. })));
    world.ring("lark").await.unwrap();
    assert_eq!(world.lark.taken(), [1, 2, 3, 4, 5, 6, 7], "the other channel does not wait for it");

    world.clock.advance(Duration::seconds(10));
    assert!(matches!(world.ring("erp").await, Err(DeliveryFault::Outlet(_))), "one tries");
    assert_eq!(world.webhook.tried(), TRIPS_AFTER + 1);
    assert!(matches!(world.ring("erp").await, Err(DeliveryFault::Waiting { .. })), "and is left alone for longer");
    world.webhook.turn(Receiver::Takes);
    world.clock.advance(PROBE);
    world.ring("erp").await.unwrap();
    assert_eq!(world.webhook.taken(), [1, 2, 3, 4, 5, 6, 7]);
    world.say("8", None).await;
    world.ring("erp").await.unwrap();
    assert_eq!(world.webhook.taken().last(), Some(&8));
}

#[tokio::test]
async fn of_many_workers_one_tries_a_receiver_again() {
    let world = world().await;
    world.say("一", None).await;
    world.webhook.turn(Receiver::IsDown);
    for _ in 0..TRIPS_AFTER {
        assert!(world.ring("erp").await.is_err());
    }
    let view = world.channels.view(&TenantId::parse("t1").unwrap(), &name("erp")).await.unwrap().unwrap();
    world.clock.advance(Duration::seconds(10));
    // Another worker read the same and was faster.
    world.channels.note(&view.connector, &view.breaker.probed(world.clock.now())).await.unwrap();
    assert!(matches!(world.ring("erp").await, Err(DeliveryFault::Waiting { .. })));
    assert_eq!(world.webhook.tried(), TRIPS_AFTER);
}

#[tokio::test]
async fn messages_wait_for_a_connector_that_is_not_there_yet() {
    let world = world().await;
    let erp = world.channels.view(&TenantId::parse("t1").unwrap(), &name("erp")).await.unwrap().unwrap().connector;
    world.channels.delete(&erp).await.unwrap();
    world.say("一", None).await;
    assert!(matches!(world.ring("erp").await, Err(DeliveryFault::NoConnector(_))));
    world.channels.put(&erp).await.unwrap();
    world.ring("erp").await.unwrap();
    assert_eq!(world.webhook.taken(), [1]);
    world.ring("fax").await.unwrap();
}

#[tokio::test]
async fn what_people_say_in_a_linked_chat_is_said_in_the_conversation_and_never_comes_back() {
    let world = world().await;
    world.hear("om_0", Some("ou_xiaoming"), "谁？").await.unwrap();
    assert!(world.history().await.is_empty(), "nothing is linked yet");
    // The bell that a new conversation rings.
    world.ring("lark").await.unwrap();
    for _ in 0..3 {
        world.hear("om_1", Some("ou_xiaoming"), "你好 🙂").await.unwrap();
    }
    world.hear("om_2", None, "I am an app").await.unwrap();
    let history = world.history().await;
    assert_eq!(history.len(), 1, "{history:?}");
    assert_eq!(
        (&history[0].from, &history[0].payload),
        (&user("ou_xiaoming"), &Payload::Text { text: "你好 🙂".to_owned() })
    );
    assert_eq!(history[0].channels, BTreeSet::from([name("erp")]), "not back to where it was said");
    assert!(world.push.take().iter().any(|job| matches!(job, PushJob::Drain { seq: 1, .. })));
    for channel in ["lark", "erp"] {
        world.ring(channel).await.unwrap();
    }
    assert_eq!((world.lark.taken().len(), world.webhook.taken()), (0, vec![1]));

    // What we said ourselves is told of as well; it is not said again.
    world.say("答", None).await;
    world.ring("lark").await.unwrap();
    let ours = format!("om_{}", world.history().await[1].message_id);
    world.hear(&ours, Some("ou_xiaoming"), "答").await.unwrap();
    assert_eq!(world.history().await.len(), 2);
}

#[tokio::test]
async fn who_is_no_member_is_heard_through_whoever_stands_for_such_people() {
    let world = world().await;
    world.ring("lark").await.unwrap();
    let fault = world.hear("om_1", Some("ou_eve"), "hi").await.unwrap_err();
    assert!(matches!(fault, InboundFault::Stranger { .. }), "{fault:?}");
    let lark = connector("lark");
    let connects =
        ConnectorKind::Lark { app_id: sample::app_id("cli_a"), tenant_key: None, speaker: Some(user("bob")) };
    world.channels.put(&Connector { connects, version: 2, ..lark }).await.unwrap();
    world.hear("om_1", Some("ou_eve"), "hi").await.unwrap();
    assert_eq!(world.history().await[0].from, user("bob"));
}

#[tokio::test]
async fn readers_outside_are_told_once_and_only_of_what_was_sent() {
    let world = world().await;
    for text in ["一", "二"] {
        world.say(text, None).await;
    }
    world.ring("lark").await.unwrap();
    statuses(&world.push);
    let ids: Vec<MessageId> = world
        .history()
        .await
        .iter()
        .map(|message| MessageId::parse(format!("om_{}", message.message_id)).unwrap())
        .chain([MessageId::parse("om_unknown").unwrap()])
        .collect();
    for _ in 0..2 {
        world.inbound.read(&sample::app_id("cli_a"), &ids, world.clock.now()).await.unwrap();
    }
    let told: Vec<(String, u64)> = statuses(&world.push).into_iter().map(|(_, _, status, seq)| (status, seq)).collect();
    assert_eq!(told, [("read".to_owned(), 1), ("read".to_owned(), 2)]);
    let mark = world.channels.mark(&conversation_id(), &name("lark")).await.unwrap().unwrap();
    assert_eq!((mark.sent, mark.read), (2, 2));
}

#[tokio::test]
async fn a_place_that_is_linked_stays_with_its_conversation() {
    let world = world().await;
    world.ring("lark").await.unwrap();
    let first = world.channels.linked(&sample::app_id("cli_a"), "oc_1").await.unwrap().unwrap();
    assert_eq!((first.conversation_id, first.channel), (conversation_id(), name("lark")));
    let other = ConversationId::parse("00000000-0000-4000-9000-000000000002").unwrap();
    let before: Conversation = serde_json::from_value(json!({
        "conversation_id": other, "tenant_id": "t1", "type": "private", "members": ["ann", "bob"], "metadata": "{}",
        "channels": [{ "name": "lark", "address": "oc_1" }], "created_by": "ann", "created_at": "2026-11-21T09:00:00Z",
        "seq": 0, "sent": {},
    }))
    .unwrap();
    world.chat.create(&before).await.unwrap();
    let bell = ChannelBell { conversation_id: other, channel: name("lark"), seq: 0 };
    world.deliveries.drain(&bell).await.unwrap();
    let still = world.channels.linked(&sample::app_id("cli_a"), "oc_1").await.unwrap().unwrap();
    assert_eq!(still.conversation_id, conversation_id());
    assert!(world.bells.rung().is_empty());
}
