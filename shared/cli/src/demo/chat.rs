//! Two people who chat, each with a socket: one message to and fro, then very many from several senders at once.

use std::collections::BTreeSet;
use std::time::Instant;

use futures_util::future::try_join_all;
use lambda_kit::random;
use local::Settings;
use serde_json::{Value, json};

use crate::api::at;
use crate::demo::people::{Person, Socket};
use crate::demo::{Wrong, note, step};
use crate::fault::{CliFault, say};
use crate::stack::Stack;

/// How many messages are on their way at once.
const SENDERS: u64 = 8;

/// How many messages of a conversation are read at once.
const PAGE: u64 = 100;

pub(super) struct ChatStory {
    stack: Stack,
    pub(super) ann: Person,
    pub(super) bob: Person,
    pub(super) conversation: String,
}

impl ChatStory {
    pub(super) async fn begin(settings: &Settings) -> Result<Self, CliFault> {
        say("\nAnn and Bob chat");
        let stack = Stack::local(settings).await?;
        // People of this demo's own, so that their conversation is empty.
        let run = random::uuid().simple().to_string();
        let join = |name: &str| Person::join(settings, &stack, format!("{name}-{run}"));
        let people = async { tokio::try_join!(join("ann"), join("bob")) };
        let (ann, bob) = step("each gets a client of their own", people).await?;
        let conversation = step("they open a private conversation", ann.converse(&bob)).await?;
        Ok(Self { stack, ann, bob, conversation })
    }

    pub(super) async fn talk(&self, messages: u64) -> Result<(), CliFault> {
        let sockets = async { tokio::try_join!(self.ann.connect(), self.bob.connect()) };
        let (mut anns, mut bobs) = step("each opens a WebSocket with a ticket", sockets).await?;
        let seq = step("Ann's message arrives at Bob's socket", self.arrives(&mut bobs)).await?;
        step("Bob has read it, and Ann's socket is told", self.is_read(&mut anns, seq)).await?;

        let title = format!("{messages} messages from {SENDERS} senders at once, each socket shows all in order");
        let begun = Instant::now();
        let shown = step(&title, self.crowd((&mut anns, &mut bobs), (seq, messages))).await?;
        note(format!("{:.0} messages/s to two sockets", messages as f64 / begun.elapsed().as_secs_f64()));
        step("what is stored is the same, message by message", self.is_stored(seq, &shown)).await
    }

    /// Leaves nobody who could log in.
    pub(super) async fn end(self) -> Result<(), CliFault> {
        let leave = async { tokio::try_join!(self.ann.leave(&self.stack), self.bob.leave(&self.stack)) };
        step("their clients are disabled", leave).await.map(|_| ())
    }

    async fn arrives(&self, bobs: &mut Socket) -> Result<u64, Wrong> {
        let text = "你好，周会改到三点 🙂";
        let (seq, heard) = tokio::try_join!(self.ann.say(&self.conversation, text), bobs.until("message.created"))?;
        let same = at(&heard, "conversation_id") == &json!(self.conversation)
            && at(&heard, "seq") == &json!(seq)
            && at(&heard, "from") == &json!(self.ann.user)
            && text_of(&heard) == Some(text);
        if same { Ok(seq) } else { Err(format!("he hears {heard}").into()) }
    }

    async fn is_read(&self, anns: &mut Socket, seq: u64) -> Result<(), Wrong> {
        let path = format!("/v1/conversations/{}/read", self.conversation);
        let read = async { Ok(self.bob.post(&path, json!({ "seq": seq })).await?) };
        let (_, heard) = tokio::try_join!(read, anns.until("conversation.read"))?;
        let same = at(&heard, "user_id") == &json!(self.bob.user) && at(&heard, "read_seq") == &json!(seq);
        if same { Ok(()) } else { Err(format!("she hears {heard}").into()) }
    }

    /// Both say very much at once, while both sockets are read. What was shown, the same on each.
    async fn crowd(
        &self,
        (anns, bobs): (&mut Socket, &mut Socket),
        (last, messages): (u64, u64),
    ) -> Result<Vec<String>, Wrong> {
        let sending = try_join_all((0..SENDERS).map(|sender| async move {
            let person = if sender % 2 == 0 { &self.ann } else { &self.bob };
            for number in (sender..messages).step_by(SENDERS as usize) {
                person.say(&self.conversation, &format!("第 {number} 条 🙂")).await?;
            }
            Ok::<_, Wrong>(())
        }));
        let reading = (self.read(anns, last, messages), self.read(bobs, last, messages));
        let (_, at_ann, at_bob) = tokio::try_join!(sending, reading.0, reading.1)?;
        if at_ann != at_bob {
            return Err("the sockets show different messages".into());
        }
        let distinct: BTreeSet<&String> = at_ann.iter().collect();
        let said = (0..messages).map(|number| format!("第 {number} 条 🙂"));
        if distinct.len() as u64 == messages && said.into_iter().all(|text| distinct.contains(&text)) {
            Ok(at_ann)
        } else {
            Err(format!("of {messages} messages {} are shown", distinct.len()).into())
        }
    }

    /// What a client shows that passes over what it has, until it has so many more.
    async fn read(&self, socket: &mut Socket, mut last: u64, messages: u64) -> Result<Vec<String>, Wrong> {
        let mut shown = Vec::new();
        while (shown.len() as u64) < messages {
            let heard = socket.until("message.created").await?;
            let seq = at(&heard, "seq").as_u64().ok_or_else(|| format!("it has no number: {heard}"))?;
            if seq <= last {
                continue;
            }
            if seq != last + 1 {
                return Err(format!("after {last} came {seq}").into());
            }
            last = seq;
            shown.push(text_of(&heard).unwrap_or_default().to_owned());
        }
        Ok(shown)
    }

    async fn is_stored(&self, mut last: u64, shown: &[String]) -> Result<(), Wrong> {
        let mut stored = Vec::new();
        loop {
            let path = format!("/v1/conversations/{}/messages?limit={PAGE}&after_seq={last}", self.conversation);
            let (_, page) = self.bob.get(&path).await?;
            let messages = at(&page, "messages").as_array().cloned().unwrap_or_default();
            let Some(newest) = messages.last() else { break };
            last = at(newest, "seq").as_u64().ok_or_else(|| format!("it has no number: {newest}"))?;
            stored.extend(messages.iter().map(|message| text_of(message).unwrap_or_default().to_owned()));
        }
        if stored == shown { Ok(()) } else { Err(format!("{} are stored, and not the same", stored.len()).into()) }
    }
}

fn text_of(message: &Value) -> Option<&str> {
    message.pointer("/payload/text").and_then(Value::as_str)
}
