//! Committed change -> doorbell, and outcome -> bus.

use std::collections::BTreeSet;

use domain::channel::{ChannelBell, ChannelQueue};
use domain::chat::Channel;
use domain::event::{EventBus, Fact};
use domain::fault::{Fault, PortFault, Refusal, Remedy};
use domain::id::{ChannelName, ConversationId};
use domain::inbox::Entry;
use domain::lake::Intake;
use domain::lake::intake::IntakeQueue;
use domain::lake::source::SourceName;
use domain::push::PushQueue;
use domain::session::Session;
use domain::token::UserToken;
use domain::work::{Doorbell, WorkQueue};
use lambda_kit::stream::Change;
use serde::Deserialize;
use serde_dynamo::Item;
use serde_json::{Map, Value};
use time::OffsetDateTime;

/// What an item has for the table's sake.
const OF_THE_TABLE: [&str; 6] = ["pk", "sk", "entity", "kind", "at", "ttl"];

/// What the streams' filters let through.
#[derive(Deserialize)]
#[serde(tag = "entity", rename_all = "snake_case")]
enum Committed {
    Inbox(Entry),
    Session(Session),
    Token(Box<UserToken>),
    Message(Place),
    Conversation(Opened),
}

/// Where a message is, and since when. Whether it can be read is for whoever pushes it, and for the lake: here it only has to be passed on.
#[derive(Deserialize)]
struct Place {
    conversation_id: ConversationId,
    seq: u64,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(default)]
    channels: BTreeSet<ChannelName>,
}

/// A conversation that was opened: what its channels lead to may speak first.
#[derive(Deserialize)]
struct Opened {
    conversation_id: ConversationId,
    #[serde(default)]
    channels: Vec<Channel>,
}

/// Relays one change. A new inbox entry and a new message ring, and the message goes to the lake; a session rings when its status changed, and its outcome is published, as
/// is what becomes of a token. What a worker changes (claims, what a card shows) announces nothing.
pub(crate) async fn relay(
    work: &dyn WorkQueue,
    push: &dyn PushQueue,
    channels: &dyn ChannelQueue,
    lake: &dyn IntakeQueue,
    bus: &dyn EventBus,
    change: Change,
) -> Result<(), RelayFault> {
    let Some(after) = change.after else { return Ok(()) };
    match (parse(after.clone())?, change.before) {
        (Committed::Inbox(entry), None) => work.ring(&Doorbell::for_entry(&entry)).await?,
        (Committed::Message(place), None) => {
            push.ring(&place.conversation_id, place.seq).await?;
            lake.send(intake(&place, after)?.to_message()?).await?;
            ring_for(channels, &place.conversation_id, place.channels, place.seq).await?;
        }
        (Committed::Conversation(opened), None) => {
            let names = opened.channels.into_iter().map(|channel| channel.name);
            ring_for(channels, &opened.conversation_id, names, 0).await?;
        }
        (Committed::Inbox(_) | Committed::Message(_) | Committed::Conversation(_), Some(_)) => {}
        (Committed::Session(session), before) => {
            let before = before.map(parse).transpose()?;
            if matches!(before, Some(Committed::Session(before)) if before.version == session.version) {
                return Ok(());
            }
            work.ring(&Doorbell::for_session(&session)).await?;
            if let Some(fact) = Fact::of_session(&session) {
                bus.publish(&[fact]).await?;
            }
        }
        (Committed::Token(token), Some(before)) => {
            if let Committed::Token(before) = parse(before)?
                && let Some(fact) = Fact::of_token(&before, &token)
            {
                bus.publish(&[fact]).await?;
            }
        }
        // The session that brought it is news enough.
        (Committed::Token(_), None) => {}
    }
    Ok(())
}

async fn ring_for(
    channels: &dyn ChannelQueue,
    conversation_id: &ConversationId,
    names: impl IntoIterator<Item = ChannelName>,
    seq: u64,
) -> Result<(), PortFault> {
    for channel in names {
        channels.ring(&ChannelBell { conversation_id: conversation_id.clone(), channel, seq }).await?;
    }
    Ok(())
}

/// A message as the lake takes it: the same however often it is sent.
fn intake(place: &Place, item: Item) -> Result<Intake, RelayFault> {
    let mut message: Map<String, Value> = serde_dynamo::from_item(item).map_err(RelayFault::Malformed)?;
    message.retain(|name, _| !OF_THE_TABLE.contains(&name.as_str()));
    Ok(Intake {
        source: SourceName::chat(),
        request_id: format!("{}.{}", place.conversation_id, place.seq),
        received_at: place.created_at,
        content_type: Some("application/json".to_owned()),
        content_encoding: None,
        body: Value::Object(message).to_string().into_bytes(),
    })
}

fn parse(item: Item) -> Result<Committed, RelayFault> {
    serde_dynamo::from_item(item).map_err(RelayFault::Malformed)
}

/// Why a change was not relayed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayFault {
    #[error("the item is not what the table holds")]
    Malformed(#[source] serde_dynamo::Error),
    #[error("a port failed")]
    Port(#[from] PortFault),
}

impl Fault for RelayFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Malformed(_) => Remedy::Reject(Refusal::Invalid),
            Self::Port(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed_item",
            Self::Port(fault) => fault.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::session::Outcome;
    use serde::Serialize;
    use testkit::{MemoryBells, MemoryBus, MemoryIntakes, MemoryPushQueue, MemoryQueue, sample};

    use super::*;

    fn item(entity: &str, value: &impl Serialize) -> Item {
        let mut item: std::collections::HashMap<String, serde_dynamo::AttributeValue> =
            serde_dynamo::to_item(value).unwrap();
        item.insert("entity".to_owned(), serde_dynamo::AttributeValue::S(entity.to_owned()));
        item.insert("pk".to_owned(), serde_dynamo::AttributeValue::S("x".to_owned()));
        Item::from(item)
    }

    async fn check(before: Option<Item>, after: Option<Item>, rings: usize, published: &[&str]) {
        let (queue, bus) = (MemoryQueue::default(), MemoryBus::default());
        relay(
            &queue,
            &MemoryPushQueue::default(),
            &MemoryBells::default(),
            &MemoryIntakes::default(),
            &bus,
            Change { before, after },
        )
        .await
        .unwrap();
        let types: Vec<String> = bus.published().into_iter().map(|fact| fact.detail_type).collect();
        assert_eq!((queue.rung().len(), types), (rings, published.iter().map(|t| (*t).to_owned()).collect()));
    }

    #[tokio::test]
    async fn a_new_entry_rings_and_a_claimed_one_does_not() {
        let entry = item("inbox", &sample::entry("cli_a", "ev1"));
        check(None, Some(entry.clone()), 1, &[]).await;
        check(Some(entry.clone()), Some(entry.clone()), 0, &[]).await;
        check(Some(entry), None, 0, &[]).await;
    }

    #[tokio::test]
    async fn a_session_rings_at_each_change_of_status_and_its_outcome_is_published_once() {
        let pending = sample::session(1);
        let shown = Session { shown_version: 1, ..pending.clone() };
        let done = shown.ended(Outcome::Completed).unwrap();
        let done_and_shown = Session { shown_version: 2, ..done.clone() };
        let item = |session: &Session| Some(item("session", session));
        check(None, item(&pending), 1, &[]).await;
        check(item(&pending), item(&shown), 0, &[]).await;
        check(item(&shown), item(&done), 1, &["AuthorizationCompleted"]).await;
        check(item(&done), item(&done_and_shown), 0, &[]).await;
    }

    #[tokio::test]
    async fn what_becomes_of_a_token_is_published_without_the_token() {
        let item = |token: &UserToken| Some(item("token", token));
        let token = sample::token("sealed-pair");
        let later = token.issued_at + time::Duration::HOUR;
        let refreshed = UserToken { issued_at: later, version: 2, ..token.clone() };
        let warned = refreshed.noticed(domain::token::Notice::Week);
        let lapsed = warned.lapse("20037", later);
        check(None, item(&token), 0, &[]).await;
        check(item(&token), item(&token.put_off(later)), 0, &[]).await;
        check(item(&token), item(&refreshed), 0, &["TokenRefreshed"]).await;
        check(item(&refreshed), item(&warned), 0, &["TokenExpiring"]).await;
        check(item(&warned), item(&lapsed), 0, &["TokenExpired"]).await;
        check(item(&lapsed), item(&UserToken { session_id: sample::session_id(9), ..token.clone() }), 0, &[]).await;
        check(item(&lapsed), None, 0, &[]).await;
        let fact = Fact::of_token(&warned, &lapsed).unwrap().detail.to_string();
        assert!(!fact.contains("sealed-pair") && fact.contains("20037"), "{fact}");
    }

    #[tokio::test]
    async fn an_item_of_another_shape_is_rejected_not_retried() {
        let strange = item("inbox", &stranger());
        let change = Change { before: None, after: Some(strange) };
        let (queue, push) = (MemoryQueue::default(), MemoryPushQueue::default());
        let fault =
            relay(&queue, &push, &MemoryBells::default(), &MemoryIntakes::default(), &MemoryBus::default(), change)
                .await
                .unwrap_err();
        assert_eq!(fault.remedy(), Remedy::Reject(Refusal::Invalid));
    }

    #[tokio::test]
    async fn a_new_message_rings_for_its_place_and_goes_to_the_lake_even_if_nobody_can_read_it() {
        let id = "00000000-0000-4000-9000-000000000001";
        let fields =
            [("conversation_id", id), ("payload", "? 🎉"), ("created_at", "2026-11-21T09:00:00.5Z"), ("sk", "MSG#7")];
        let mut message = item("message", &std::collections::BTreeMap::from(fields)).into_inner();
        message.insert("seq".to_owned(), serde_dynamo::AttributeValue::N("7".to_owned()));
        let (queue, push, lake, bus) =
            (MemoryQueue::default(), MemoryPushQueue::default(), MemoryIntakes::default(), MemoryBus::default());
        for _ in 0..2 {
            let new = Change { before: None, after: Some(Item::from(message.clone())) };
            relay(&queue, &push, &MemoryBells::default(), &lake, &bus, new).await.unwrap();
        }
        let changed = Change { before: Some(Item::from(message.clone())), after: Some(Item::from(message)) };
        relay(&queue, &push, &MemoryBells::default(), &lake, &bus, changed).await.unwrap();
        let conversation_id = ConversationId::parse(id).unwrap();
        let bell = domain::push::PushJob::Drain { conversation_id, seq: 7 };
        assert!(push.take().iter().all(|job| *job == bell));

        let sent: Vec<Intake> = lake.sent().iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        assert!(sent.len() == 2 && sent[0] == sent[1], "sent again it is the same event");
        assert_eq!(
            (sent[0].source.as_str(), sent[0].request_id.as_str()),
            ("chat", "00000000-0000-4000-9000-000000000001.7")
        );
        let body: Value = serde_json::from_slice(&sent[0].body).unwrap();
        let expected = serde_json::json!({"conversation_id": id, "created_at": "2026-11-21T09:00:00.5Z", "payload": "? 🎉", "seq": 7});
        assert_eq!(body, expected);
    }

    #[tokio::test]
    async fn a_message_and_a_conversation_ring_for_the_channels_that_they_leave_by() {
        let id = ConversationId::parse("00000000-0000-4000-9000-000000000001").unwrap();
        let at = "2026-11-25T09:00:00Z";
        let message =
            serde_json::json!({ "conversation_id": id, "seq": 7, "channels": ["erp", "lark"], "created_at": at });
        let channel = |name: &str| serde_json::json!({ "name": name, "address": "oc_1" });
        let opened = serde_json::json!({ "conversation_id": id, "channels": [channel("lark")] });
        let (queue, push, channels) = (MemoryQueue::default(), MemoryPushQueue::default(), MemoryBells::default());
        let (lake, bus) = (MemoryIntakes::default(), MemoryBus::default());
        for (entity, value) in [("message", message), ("conversation", opened)] {
            let item = item(entity, &value);
            let (new, changed) = (Change { before: None, after: Some(item.clone()) }, Some(item.clone()));
            relay(&queue, &push, &channels, &lake, &bus, new).await.unwrap();
            let changed = Change { before: changed, after: Some(item) };
            relay(&queue, &push, &channels, &lake, &bus, changed).await.unwrap();
        }
        let rung: Vec<(String, u64)> =
            channels.rung().into_iter().map(|(bell, _)| (bell.channel.to_string(), bell.seq)).collect();
        assert_eq!(rung, [("erp".to_owned(), 7), ("lark".to_owned(), 7), ("lark".to_owned(), 0)]);
    }

    fn stranger() -> std::collections::BTreeMap<&'static str, &'static str> {
        std::collections::BTreeMap::from([("app_id", "not an id!")])
    }
}
