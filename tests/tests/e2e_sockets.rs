//! Sockets through a running bundle: two people who chat, crowds at the door, and everything that gets lost between a commit and a reader.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what does not run ends the test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use domain::chat::{Draft, MessageStore as _, Payload, Priority};
use domain::id::{ChatMessageId, ConversationId, TenantId, UserId};
use domain::push::PushJob;
use futures_util::future::join_all;
use lambda_kit::{clock, random};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Client, Method};
use serde_json::json;
use skylark_tests::bundle::{Bundle, aws, binaries, sqs, until, workspace};
use skylark_tests::chat::{Person, Reader, Socket};
use table::{Table, TableMessages};

/// Commits a message as `chat-api` does, and rings nobody.
async fn commit(bundle: &Bundle, conversation: &str, from: &str, text: &str) {
    let client = aws_sdk_dynamodb::Client::new(&aws(bundle));
    let messages = TableMessages::new(Table::new(client, bundle.setting("/tables/ChatTable")));
    let draft = Draft {
        tenant_id: TenantId::parse("default").unwrap(),
        conversation_id: ConversationId::parse(conversation).unwrap(),
        message_id: ChatMessageId::from(random::uuid()),
        from: UserId::parse(from).unwrap(),
        payload: Payload::Text { text: text.to_owned() },
        channels: None,
        priority: Priority::Normal,
        digest: random::hash(text),
    };
    messages.commit(&draft, clock::now()).await.unwrap();
}

/// How far the conversation was pushed.
async fn pushed(bundle: &Bundle, conversation: &str) -> u64 {
    let client = aws_sdk_dynamodb::Client::new(&aws(bundle));
    let request = client.get_item().table_name(bundle.setting("/tables/ChatTable")).consistent_read(true);
    let request = request.key("pk", AttributeValue::S(format!("CONV#{conversation}")));
    let item = request.key("sk", AttributeValue::S("PUSH".to_owned())).send().await.unwrap().item.unwrap_or_default();
    item.get("pushed").map_or(0, |pushed| pushed.as_n().unwrap().parse().unwrap())
}

/// The template without the stream mapping that rings for messages.
fn without_relay(folder: &Path) -> PathBuf {
    let template = std::fs::read_to_string(workspace().join("template.yaml")).unwrap();
    let mapping = "Stream: !GetAtt ChatTable.StreamArn";
    assert!(template.contains(mapping));
    let path = folder.join("template.yaml");
    std::fs::write(&path, template.replace(mapping, &format!("{mapping}\n            Enabled: false"))).unwrap();
    path
}

#[tokio::test]
async fn two_people_chat_and_the_receipt_comes_back() {
    let bundle = Bundle::start();
    let (ann, bob, eve) =
        (Person::join(&bundle, "ann").await, Person::join(&bundle, "bob").await, Person::join(&bundle, "eve").await);
    let conversation = ann.converse(&["bob"]).await;
    let (mut a, mut b, mut e) =
        (ann.connect(&json!({})).await, bob.connect(&json!({})).await, eve.connect(&json!({})).await);
    let seq = ann.say(&conversation, "你好，周会改到三点 🙂").await;

    let created = b.until("message.created").await;
    assert!(created["timestamp"].is_string());
    let data = &created["data"];
    assert_eq!(
        (data["conversation_id"].as_str().unwrap(), data["seq"].as_u64().unwrap(), data["from"].as_str().unwrap()),
        (conversation.as_str(), seq, "ann")
    );
    assert_eq!(data["payload"], json!({ "type": "text", "text": "你好，周会改到三点 🙂" }));
    assert_eq!(a.until("message.created").await["data"]["seq"], seq, "her other devices see it, too");
    let delivered = a.until("message.status_updated").await;
    assert_eq!((&delivered["data"]["status"], &delivered["data"]["user_ids"]), (&json!("delivered"), &json!(["bob"])));
    bob.read(&conversation, seq).await;
    let read = a.until("conversation.read").await;
    assert_eq!((&read["data"]["user_id"], &read["data"]["read_seq"]), (&json!("bob"), &json!(seq)));
    let path = format!("/v1/conversations/{conversation}/messages");
    assert_eq!(ann.call(Method::GET, &path, None).await.1["messages"][0]["status"], "read");

    // A token opens a socket as well; it hears what was said before it came, and answers a ping.
    let (mut late, protocol) = Socket::open_with_token(bundle.setting("/websocket"), &bob.token).await.unwrap();
    assert_eq!(protocol.unwrap(), format!("bearer.{}", bob.token));
    late.hello(&json!({ &conversation: 0 })).await;
    assert_eq!(late.until("message.created").await["data"]["seq"], seq);
    late.send(&json!({ "type": "ping" })).await;
    let pong = late.until("pong").await;
    assert!(pong["data"]["server_time"].is_string() && pong["data"]["drain_at"].is_string(), "{pong}");
    late.send(&json!({ "type": "dance" })).await;
    assert_eq!(late.until("error").await["data"]["details"]["fields"]["type"], "must be `hello` or `ping`");

    // Eve heard nothing of it: the first thing that she is told is the answer to her ping.
    e.send(&json!({ "type": "ping" })).await;
    assert_eq!(e.next().await.unwrap()["type"], "pong");
}

#[tokio::test]
async fn at_the_door() {
    let bundle = Bundle::start();
    let (ann, bob) = (Person::join(&bundle, "ann").await, Person::join(&bundle, "bob").await);
    let websocket = bundle.setting("/websocket");
    for ticket in ["", "never-issued"] {
        assert_eq!(Socket::open(websocket, ticket).await.unwrap_err(), 401, "{ticket}");
    }
    assert_eq!(Socket::open_with_token(websocket, "a.b.c").await.unwrap_err(), 401);
    let ticket = ann.ticket().await;
    let first = Socket::open(websocket, &ticket).await.unwrap();
    assert_eq!(Socket::open(websocket, &ticket).await.unwrap_err(), 401, "a ticket is good once");
    let late = ann.ticket().await;
    first.cut();
    until("a place that comes back with its $disconnect", || async {
        held(&bundle, "ann").await.is_empty().then_some(())
    })
    .await;

    let tickets = join_all((0..50).map(|_| ann.ticket())).await;
    let opened = join_all(tickets.iter().map(|ticket| Socket::open(websocket, ticket))).await;
    let (open, refused): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
    let mut open: Vec<Socket> = open.into_iter().map(Result::unwrap).collect();
    let refused: BTreeSet<u16> = refused.into_iter().map(Result::unwrap_err).collect();
    assert_eq!((open.len(), refused), (5, BTreeSet::from([429])), "of fifty at once");
    for socket in &mut open {
        socket.hello(&json!({})).await;
    }
    assert_eq!(held(&bundle, "ann").await.len(), 5);
    assert!(bob.open().await.is_ok(), "another user has places of their own");

    // The whole gateway dies, and nobody says that the connections have ended.
    drop(open);
    let bundle = Bundle::start_on(bundle.kill());
    let ann = Person::join(&bundle, "ann").await;
    assert_eq!(held(&bundle, "ann").await.len(), 5);
    assert_eq!(ann.open().await.unwrap_err(), 429);
    bundle.advance("11m");
    assert_eq!(ann.open().await.unwrap_err(), 429);
    bundle.advance("1m");
    assert!(ann.open().await.is_ok(), "twelve minutes without a sign of life");
    assert_eq!(Socket::open(bundle.setting("/websocket"), &late).await.unwrap_err(), 401, "a ticket is good for 30 s");
}

/// The connections that hold a place of the user's.
async fn held(bundle: &Bundle, user: &str) -> BTreeSet<String> {
    let client = aws_sdk_dynamodb::Client::new(&aws(bundle));
    let request = client.get_item().table_name(bundle.setting("/tables/ChatTable")).consistent_read(true);
    let request = request.key("pk", AttributeValue::S(format!("SOCKETS#default#{user}")));
    let item = request.key("sk", AttributeValue::S("SLOTS".to_owned())).send().await.unwrap().item.unwrap_or_default();
    let slots = item.iter().filter(|(name, _)| name.len() == 2 && name.starts_with('s') && *name != "sk");
    slots.map(|(_, slot)| slot.as_m().unwrap()["connection_id"].as_s().unwrap().clone()).collect()
}

#[tokio::test]
async fn a_client_catches_up_or_is_told_to_read_the_history() {
    let bundle = Bundle::start();
    let (ann, bob) = (Person::join(&bundle, "ann").await, Person::join(&bundle, "bob").await);
    let conversation = ann.converse(&["bob"]).await;
    let mut first = bob.connect(&json!({ &conversation: 0 })).await;
    for n in 1..=20 {
        ann.say(&conversation, &format!("第 {n} 条")).await;
    }
    for seq in 1..=7 {
        assert_eq!(first.until("message.created").await["data"]["seq"], seq);
    }
    first.cut();
    let mut second = bob.connect(&json!({ &conversation: 7 })).await;
    ann.say(&conversation, "live").await;
    let mut seen = BTreeSet::new();
    let mut last = 7;
    while last < 21 {
        let seq = second.until("message.created").await["data"]["seq"].as_u64().unwrap();
        assert!(seq <= last + 1, "no gap: {seq} after {last}");
        last = last.max(seq);
        seen.insert(seq);
    }
    assert_eq!(seen, (8..=21).collect());

    let said: Vec<String> = (0..490).map(|n| format!("{n}")).collect();
    for texts in said.chunks(49) {
        join_all(texts.iter().map(|text| ann.say(&conversation, text))).await;
    }
    second.cut();
    let mut third = bob.open().await.unwrap();
    third.send(&json!({ "type": "hello", "last_seq": { &conversation: 10 } })).await;
    assert_eq!(third.next().await.unwrap()["type"], "connection.established");
    let resync = third.next().await.unwrap();
    assert_eq!((&resync["type"], &resync["data"]["seq"]), (&json!("resync_required"), &json!(511)));
    let seq = ann.say(&conversation, "goes on").await;
    assert_eq!(third.until("message.created").await["data"]["seq"], seq);
}

#[tokio::test]
async fn a_bell_that_is_lost_is_rung_by_the_stream_and_a_killed_bundle_goes_on() {
    let bundle = Bundle::start();
    let (ann, bob) = (Person::join(&bundle, "ann").await, Person::join(&bundle, "bob").await);
    let conversation = ann.converse(&["bob"]).await;
    let mut b = bob.connect(&json!({})).await;
    commit(&bundle, &conversation, "ann", "nobody rang").await;
    assert_eq!(b.until("message.created").await["data"]["payload"]["text"], "nobody rang");

    // Killed between the commit and the ring: the bundle that comes after it finds the message in the stream.
    commit(&bundle, &conversation, "ann", "killed").await;
    let bundle = Bundle::start_on(bundle.kill());
    until("the watermark", || async { (pushed(&bundle, &conversation).await == 2).then_some(()) }).await;
    let bob = Person::join(&bundle, "bob").await;
    let mut b = bob.connect(&json!({ &conversation: 1 })).await;
    assert_eq!(b.until("message.created").await["data"]["payload"]["text"], "killed");
}

#[tokio::test]
async fn what_the_stream_does_not_ring_for_either_the_sweep_does() {
    let folder = tempfile::tempdir().unwrap();
    let template = without_relay(folder.path());
    let bundle = Bundle::start_template(tempfile::tempdir().unwrap(), &template, binaries());
    let (ann, bob) = (Person::join(&bundle, "ann").await, Person::join(&bundle, "bob").await);
    let conversation = ann.converse(&["bob"]).await;
    let mut b = bob.connect(&json!({})).await;
    commit(&bundle, &conversation, "ann", "nobody rang").await;
    bundle.trigger("outbox-sweep", "Unpushed");
    assert_eq!(pushed(&bundle, &conversation).await, 0, "it is not late yet");
    bundle.advance("31s");
    bundle.trigger("outbox-sweep", "Unpushed");
    assert_eq!(b.until("message.created").await["data"]["payload"]["text"], "nobody rang");
}

#[tokio::test]
async fn the_end_of_a_login_closes_its_sockets() {
    let bundle = Bundle::start();
    let (ann, bob) = (Person::join(&bundle, "ann").await, Person::join(&bundle, "bob").await);
    let (a, other, mut b) =
        (ann.connect(&json!({})).await, ann.connect(&json!({})).await, bob.connect(&json!({})).await);
    let url = format!("{}/auth/revoke", bundle.setting("/http"));
    let revoke = |token: String| {
        let request = Client::new().post(&url).form(&[("token", token)]);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    let unused = ann.ticket().await;
    assert_eq!(revoke(ann.refresh_token.clone()).await, 200);
    a.ended().await;
    other.ended().await;
    let websocket = bundle.setting("/websocket");
    assert_eq!(Socket::open(websocket, &unused).await.unwrap_err(), 401, "not even with a ticket from before");
    assert_eq!(Socket::open_with_token(websocket, &ann.token).await.unwrap_err(), 401);
    b.send(&json!({ "type": "ping" })).await;
    assert_eq!(b.until("pong").await["type"], "pong");

    // A refresh token that is used again long after it was exchanged is a stolen one.
    let refresh = |token: String| {
        let request = Client::new()
            .post(format!("{}/auth/refresh", bundle.setting("/http")))
            .json(&json!({ "refresh_token": token }));
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(refresh(bob.refresh_token.clone()).await, 200);
    bundle.advance("31s");
    assert_eq!(refresh(bob.refresh_token.clone()).await, 400);
    b.ended().await;
}

/// The function processes of the bundle whose binary has one of these names.
fn processes(bundle: &Bundle, names: &[&str]) -> Vec<i32> {
    let parent = bundle.settings["pid"].as_i64().unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, rest)) = stat.rsplit_once(") ") else { continue };
        let name = head.split_once('(').map_or("", |(_, name)| name);
        let of = rest.split(' ').nth(1).and_then(|of| of.parse::<i64>().ok());
        // The kernel keeps fifteen characters of a name.
        if of == Some(parent) && names.iter().any(|wanted| wanted[..wanted.len().min(15)] == *name) {
            found.push(pid);
        }
    }
    found
}

/// How many messages are sent, unless `SKYLARK_MESSAGES` says otherwise.
const MESSAGES: usize = 2_000;
const SENDERS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_senders_among_killed_functions_and_bells_that_double_and_overtake() {
    let messages = lambda_kit::env::process("SKYLARK_MESSAGES").map_or(MESSAGES, |count| count.parse().unwrap());
    let bundle = Bundle::start();
    let names: Vec<String> = (0..SENDERS).map(|n| format!("s{n}")).collect();
    let mut senders = Vec::new();
    for name in &names {
        senders.push(Person::join(&bundle, name).await);
    }
    let others: Vec<&str> = names[1..].iter().map(String::as_str).collect();
    let conversation = senders[0].converse(&others).await;
    let readers: Vec<_> = senders[..3]
        .iter()
        .map(|person| tokio::spawn(Reader::new(person.clone(), &conversation).read(messages)))
        .collect();

    let stop = Arc::new(AtomicBool::new(false));
    let chaos = async {
        let queue = sqs(&bundle);
        let mut round = 0_u64;
        while !stop.load(Ordering::SeqCst) {
            round += 1;
            // Bells for what was, and what is yet to come.
            let all = messages as u64;
            for seq in [round % all + 1, round * 37 % all + 1, all - round % all] {
                let bell =
                    PushJob::Drain { conversation_id: ConversationId::parse(conversation.as_str()).unwrap(), seq };
                let request = queue.send_message().queue_url(bundle.setting("/queues/PushQueue"));
                let request =
                    request.message_group_id(&conversation).message_deduplication_id(random::uuid().to_string());
                let _ = request.message_body(serde_json::to_string(&bell).unwrap()).send().await;
            }
            if round.is_multiple_of(8) {
                let victims = processes(&bundle, &["message-push", "chat-api", "outbox-relay", "socket-gateway"]);
                if let Some(victim) = victims.get(round as usize / 8 % victims.len().max(1)) {
                    let _ = kill(Pid::from_raw(*victim), Signal::SIGKILL);
                }
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        round
    };
    let sending = async {
        join_all(senders.iter().enumerate().map(|(n, sender)| {
            let conversation = &conversation;
            async move {
                for m in 0..messages / SENDERS {
                    sender.say(conversation, &format!("{n}·{m} 🙂")).await;
                }
            }
        }))
        .await;
        let readers = join_all(readers).await;
        stop.store(true, Ordering::SeqCst);
        readers
    };
    let (rounds, readers) = tokio::join!(chaos, sending);
    let readers: Vec<Reader> = readers.into_iter().map(Result::unwrap).collect();

    let mut stored = Vec::new();
    while stored.len() < messages {
        let path = format!("/v1/conversations/{conversation}/messages?limit=100&after_seq={}", stored.len());
        let (status, page) = senders[0].call(Method::GET, &path, None).await;
        assert_eq!(status, 200, "{page}");
        let texts =
            page["messages"].as_array().unwrap().iter().map(|it| it["payload"]["text"].as_str().unwrap().to_owned());
        stored.extend(texts);
    }
    let distinct: BTreeSet<&String> = stored.iter().collect();
    assert_eq!((stored.len(), distinct.len()), (messages, messages), "each was stored once");
    for reader in &readers {
        assert!(reader.shown == stored, "{} saw all in the order in which they are stored", reader.person.user);
    }
    let connections: u32 = readers.iter().map(|reader| reader.connections).sum();
    let resyncs: u32 = readers.iter().map(|reader| reader.resyncs).sum();
    println!("{rounds} rounds of chaos, {connections} connections of 3 readers, who read the history {resyncs} times");
}
