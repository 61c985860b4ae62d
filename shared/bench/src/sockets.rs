//! From a commit to the sockets, through a local bundle: latency at twenty and at five hundred sockets, with the bell lost, and how many
//! messages a second one machine carries, beside what its emulated table takes by itself.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::Client;
use domain::chat::{Draft, MessageStore as _, Payload, Priority};
use domain::id::{ChatMessageId, ConversationId, TenantId, UserId};
use futures_util::future::join_all;
use lambda_kit::{clock, random};
use serde_json::{Value, json};
use skylark_tests::bundle::{self, Bundle};
use skylark_tests::chat::{Person, Socket};
use table::{Table, TableMessages};
use tokio::sync::mpsc;

/// Budgets of the design: commit to the last of twenty sockets, and the same with the bell lost.
const LAST_OF_TWENTY: Duration = Duration::from_millis(100);
const BELL_LOST: Duration = Duration::from_secs(2);

/// How many people are in a conversation.
const GROUP: usize = 20;
const LARGE_GROUP: usize = 100;
const SOCKETS_OF_EACH: usize = 5;

/// How many messages are timed, and at which distance: people who chat, not a flood.
const TIMED: usize = 100;
const LARGE_TIMED: usize = 30;
const BETWEEN: Duration = Duration::from_millis(150);

/// How many talk at once, each in a conversation of their own, and how often, for the rate.
const TALKERS: usize = 20;
const TALKS: usize = 50;

/// Times of one kind, sorted.
#[derive(Debug)]
struct Times(Vec<Duration>);

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self(times)
    }

    fn at(&self, percent: usize) -> Duration {
        let place = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(place).copied().unwrap_or_default()
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |percent| self.at(percent).as_secs_f64() * 1_000.0;
        write!(f, "p50 {:.0} ms, p95 {:.0} ms, p99 {:.0} ms of {}", ms(50), ms(95), ms(99), self.0.len())
    }
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Report {
    twenty: Times,
    five_hundred: Times,
    bell_lost: Times,
    through: f64,
    delivered: f64,
    table_alone: f64,
}

impl Report {
    pub(crate) fn holds(&self) -> bool {
        self.twenty.at(95) < LAST_OF_TWENTY && self.bell_lost.at(95) < BELL_LOST
    }
}

/// Runs it all, one after the other, in one bundle.
pub(crate) async fn measure() -> Report {
    let bundle = Bundle::start();
    let ann = Person::join(&bundle, "ann").await;
    let members = join(&bundle, "m", LARGE_GROUP - 1).await;
    let names: Vec<&str> = members.iter().map(|person| person.user.as_str()).collect();
    let small = ann.converse(names.get(..GROUP - 1).unwrap_or_default()).await;
    let large = ann.converse(&names).await;

    let few: Vec<&Person> = members.iter().take(GROUP - 1).chain([&ann]).collect();
    let mut crowd = Crowd::gather(&few, 1).await;
    let twenty = crowd.time(&ann, &small, TIMED).await;
    let bell_lost = crowd.time_without_bell(&bundle, &small, TIMED / 2).await;
    drop(crowd);
    let all: Vec<&Person> = members.iter().chain([&ann]).collect();
    let mut crowd = Crowd::gather(&all, SOCKETS_OF_EACH).await;
    let five_hundred = crowd.time(&ann, &large, LARGE_TIMED).await;
    drop(crowd);

    let (through, delivered) = rate(&members).await;
    let table_alone = rate_of_table(&bundle, &members).await;
    Report { twenty, five_hundred, bell_lost, through, delivered, table_alone }
}

async fn join(bundle: &Bundle, prefix: &str, count: usize) -> Vec<Person> {
    let mut people = Vec::new();
    for n in 0..count {
        people.push(Person::join(bundle, &format!("{prefix}{n}")).await);
    }
    people
}

/// Sockets that are read at once; what comes is told with its time.
struct Crowd {
    heard: mpsc::UnboundedReceiver<(u64, Instant)>,
    readers: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.readers.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Crowd {
    async fn gather(people: &[&Person], sockets_of_each: usize) -> Self {
        let (tell, heard) = mpsc::unbounded_channel();
        let mut readers = Vec::new();
        for person in people {
            for _ in 0..sockets_of_each {
                let (mut socket, tell) = (person.connect(&json!({})).await, tell.clone());
                readers.push(tokio::spawn(async move { while listen(&mut socket, &tell).await {} }));
            }
        }
        Self { heard, readers }
    }

    /// From the answer that says that a message is accepted to the last socket that has it.
    async fn time(&mut self, sender: &Person, conversation: &str, count: usize) -> Times {
        let mut times = Vec::new();
        for n in 0..count {
            let seq = sender.say(conversation, &format!("第 {n} 条 🙂")).await;
            let committed = Instant::now();
            times.push(self.last(seq).await.saturating_duration_since(committed));
            tokio::time::sleep(BETWEEN).await;
        }
        Times::of(times)
    }

    /// The same for a message that nobody rings for: the stream has to.
    async fn time_without_bell(&mut self, bundle: &Bundle, conversation: &str, count: usize) -> Times {
        let messages = messages(bundle);
        let mut times = Vec::new();
        for n in 0..count {
            let seq = commit(&messages, conversation, "ann", &format!("{n}")).await;
            let committed = Instant::now();
            times.push(self.last(seq).await.saturating_duration_since(committed));
            tokio::time::sleep(BETWEEN).await;
        }
        Times::of(times)
    }

    /// When the last socket had the message.
    async fn last(&mut self, seq: u64) -> Instant {
        let mut have = 0;
        let mut last = Instant::now();
        while have < self.readers.len() {
            let Some((heard, at)) = self.heard.recv().await else { break };
            if heard == seq {
                have += 1;
                last = at;
            }
        }
        last
    }
}

async fn listen(socket: &mut Socket, tell: &mpsc::UnboundedSender<(u64, Instant)>) -> bool {
    let Some(frame) = socket.next().await else { return false };
    let at = Instant::now();
    match frame.pointer("/data/seq").and_then(Value::as_u64) {
        Some(seq) if frame.get("type").is_some_and(|kind| kind == "message.created") => tell.send((seq, at)).is_ok(),
        _ => true,
    }
}

/// Messages a second that are accepted, and that have arrived, when many talk at once.
async fn rate(people: &[Person]) -> (f64, f64) {
    let pairs: Vec<(&Person, &Person)> = people.iter().zip(people.iter().skip(TALKERS)).take(TALKERS).collect();
    let mut talks = Vec::new();
    for (talker, hearer) in pairs {
        let conversation = talker.converse(&[&hearer.user]).await;
        talks.push((talker, conversation, hearer.connect(&json!({})).await));
    }
    let began = Instant::now();
    let times = join_all(talks.into_iter().map(|(talker, conversation, mut socket)| async move {
        let talk = async {
            for n in 0..TALKS {
                talker.say(&conversation, &format!("第 {n} 条")).await;
            }
            Instant::now()
        };
        let hear = async {
            let mut last: BTreeMap<String, u64> = BTreeMap::new();
            while last.values().sum::<u64>() < TALKS as u64 {
                let created: Value = socket.until("message.created").await;
                let id = created.pointer("/data/conversation_id").and_then(Value::as_str).unwrap_or_default();
                let seq = created.pointer("/data/seq").and_then(Value::as_u64);
                let known = last.entry(id.to_owned()).or_default();
                *known = seq.unwrap_or_default().max(*known);
            }
            Instant::now()
        };
        tokio::join!(talk, hear)
    }))
    .await;
    let messages = (TALKERS * TALKS) as f64;
    let until = |last: Option<Instant>| messages / last.unwrap_or(began).duration_since(began).as_secs_f64();
    (until(times.iter().map(|(said, _)| *said).max()), until(times.iter().map(|(_, heard)| *heard).max()))
}

/// What the emulated table takes when the same is committed to it directly, with the same number at once.
async fn rate_of_table(bundle: &Bundle, people: &[Person]) -> f64 {
    let mut conversations = Vec::new();
    for (talker, hearer) in people.iter().rev().zip(people.iter().rev().skip(TALKERS)).take(TALKERS) {
        conversations.push((talker.user.clone(), talker.converse(&[&hearer.user]).await));
    }
    let began = Instant::now();
    let messages = messages(bundle);
    join_all(conversations.iter().map(|(talker, conversation)| {
        let messages = &messages;
        async move {
            for n in 0..TALKS {
                commit(messages, conversation, talker, &format!("第 {n} 条")).await;
            }
        }
    }))
    .await;
    (TALKERS * TALKS) as f64 / began.elapsed().as_secs_f64()
}

fn messages(bundle: &Bundle) -> TableMessages {
    TableMessages::new(Table::new(Client::new(&bundle::aws(bundle)), bundle.setting("/tables/ChatTable")))
}

/// Commits a message as `chat-api` does, and rings nobody.
#[expect(clippy::expect_used, reason = "what does not run ends the benchmark")]
async fn commit(messages: &TableMessages, conversation: &str, from: &str, text: &str) -> u64 {
    let draft = Draft {
        tenant_id: TenantId::parse("default").expect("a tenant"),
        conversation_id: ConversationId::parse(conversation).expect("a conversation"),
        message_id: ChatMessageId::from(random::uuid()),
        from: UserId::parse(from).expect("a user"),
        payload: Payload::Text { text: text.to_owned() },
        channels: None,
        priority: Priority::Normal,
        digest: random::hash(text),
    };
    match messages.commit(&draft, clock::now()).await.expect("the message is committed") {
        domain::chat::Committed::New(message) => message.seq,
        domain::chat::Committed::Before { seq } => seq,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = |held: bool| if held { "holds" } else { "DOES NOT HOLD" };
        writeln!(f, "a local bundle; its functions, its runner and its table are built with the profile `local`")?;
        writeln!(
            f,
            "accepted to the last of {GROUP} sockets: p95 below {} ms: {} ({})",
            LAST_OF_TWENTY.as_millis(),
            verdict(self.twenty.at(95) < LAST_OF_TWENTY),
            self.twenty
        )?;
        writeln!(
            f,
            "committed to the last of {GROUP} sockets, the bell lost: p95 below {} s: {} ({})",
            BELL_LOST.as_secs(),
            verdict(self.bell_lost.at(95) < BELL_LOST),
            self.bell_lost
        )?;
        writeln!(f, "accepted to the last of {} sockets: {}", LARGE_GROUP * SOCKETS_OF_EACH, self.five_hundred)?;
        write!(
            f,
            "{TALKERS} who talk at once: {:.0} messages/s accepted, {:.0} messages/s arrived; the emulated table alone takes {:.0} \
             such transactions/s, which is {:.0} % of the time of a message",
            self.through,
            self.delivered,
            self.table_alone,
            100.0 * self.through / self.table_alone
        )
    }
}
