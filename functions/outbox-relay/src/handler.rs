//! Committed change -> doorbell, and outcome -> bus.

use domain::event::{EventBus, Fact};
use domain::fault::{Fault, PortFault, Refusal, Remedy};
use domain::id::ConversationId;
use domain::inbox::Entry;
use domain::push::PushQueue;
use domain::session::Session;
use domain::token::UserToken;
use domain::work::{Doorbell, WorkQueue};
use lambda_kit::stream::Change;
use serde::Deserialize;
use serde_dynamo::Item;

/// What the streams' filters let through.
#[derive(Deserialize)]
#[serde(tag = "entity", rename_all = "snake_case")]
enum Committed {
    Inbox(Entry),
    Session(Session),
    Token(Box<UserToken>),
    Message(Place),
}

/// Where a message is. Whether it can be read is for whoever pushes it: here it only has to be rung for.
#[derive(Deserialize)]
struct Place {
    conversation_id: ConversationId,
    seq: u64,
}

/// Relays one change. A new inbox entry and a new message ring; a session rings when its status changed, and its outcome is published, as
/// is what becomes of a token. What a worker changes (claims, what a card shows) announces nothing.
pub(crate) async fn relay(
    work: &dyn WorkQueue,
    push: &dyn PushQueue,
    bus: &dyn EventBus,
    change: Change,
) -> Result<(), RelayFault> {
    let Some(after) = change.after else { return Ok(()) };
    match (parse(after)?, change.before) {
        (Committed::Inbox(entry), None) => work.ring(&Doorbell::for_entry(&entry)).await?,
        (Committed::Message(place), None) => push.ring(&place.conversation_id, place.seq).await?,
        (Committed::Inbox(_) | Committed::Message(_), Some(_)) => {}
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
    use testkit::{MemoryBus, MemoryPushQueue, MemoryQueue, sample};

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
        relay(&queue, &MemoryPushQueue::default(), &bus, Change { before, after }).await.unwrap();
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
        let fault = relay(&queue, &push, &MemoryBus::default(), change).await.unwrap_err();
        assert_eq!(fault.remedy(), Remedy::Reject(Refusal::Invalid));
    }

    #[tokio::test]
    async fn a_new_message_rings_for_its_place_even_if_nobody_can_read_it() {
        let id = "00000000-0000-4000-9000-000000000001";
        let message = std::collections::BTreeMap::from([("conversation_id", id), ("payload", "?")]);
        let mut message = item("message", &message).into_inner();
        message.insert("seq".to_owned(), serde_dynamo::AttributeValue::N("7".to_owned()));
        let (queue, push, bus) = (MemoryQueue::default(), MemoryPushQueue::default(), MemoryBus::default());
        let new = Change { before: None, after: Some(Item::from(message.clone())) };
        relay(&queue, &push, &bus, new).await.unwrap();
        let changed = Change { before: Some(Item::from(message.clone())), after: Some(Item::from(message)) };
        relay(&queue, &push, &bus, changed).await.unwrap();
        let conversation_id = ConversationId::parse(id).unwrap();
        assert_eq!(push.take(), [domain::push::PushJob::Drain { conversation_id, seq: 7 }]);
    }

    fn stranger() -> std::collections::BTreeMap<&'static str, &'static str> {
        std::collections::BTreeMap::from([("app_id", "not an id!")])
    }
}
