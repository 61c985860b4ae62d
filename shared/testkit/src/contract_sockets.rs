//! What every adapter of the ports around sockets must do. Each function expects an empty store.

use std::collections::BTreeMap;

use domain::id::{ConnectionId, ConversationId, TenantId, UserId};
use domain::push::{PushState, PushStore};
use domain::socket::{Holder, LONGEST, Place, SILENCE, SLOTS, Slot, SlotStore, TICKET_LIFE, Ticket, TicketStore};
use futures_util::future::join_all;
use time::Duration;

use crate::sample::{self, NOW};

fn holder(user: &str, n: u32) -> Holder {
    let tenant_id = TenantId::parse("t1").unwrap();
    Holder { tenant_id, user_id: UserId::parse(user).unwrap(), session_id: sample::family_id(n) }
}

fn connection_id(n: usize) -> ConnectionId {
    ConnectionId::parse(format!("Zx{n}=")).unwrap()
}

fn conversation_id(n: u32) -> ConversationId {
    ConversationId::parse(format!("00000000-0000-4000-9000-{n:012x}")).unwrap()
}

/// Tickets: each is taken once, in its time.
pub async fn tickets(store: &dyn TicketStore) {
    let ticket = |hash: &str| Ticket::issue(hash.to_owned(), holder("ann", 1), NOW);
    for hash in ["one", "two", "three"] {
        store.keep(&ticket(hash)).await.unwrap();
    }
    assert_eq!(store.take("four", NOW).await.unwrap(), None);
    let last_moment = NOW + TICKET_LIFE - Duration::seconds(1);
    let answers = join_all((0..20).map(|_| store.take("one", last_moment))).await;
    let taken: Vec<Ticket> = answers.into_iter().filter_map(|answer| answer.unwrap()).collect();
    assert_eq!(taken, [ticket("one")], "of twenty at once, one gets it, whole");
    assert_eq!(store.take("two", NOW + TICKET_LIFE).await.unwrap(), None, "too late");
    assert_eq!(store.take("two", NOW).await.unwrap(), None, "who comes too late has used it up");
    assert_eq!(store.take("three", NOW).await.unwrap(), Some(ticket("three")));
}

/// Places: five at most whoever races, and each comes back by being given back or by itself.
pub async fn slots(store: &dyn SlotStore) {
    let ann = holder("ann", 1);
    let ids: Vec<ConnectionId> = (0..50).map(connection_id).collect();
    let claims = join_all(ids.iter().map(|id| store.claim(&ann, id, NOW))).await;
    let mut claimed: Vec<_> = claims.into_iter().filter_map(|claim| claim.unwrap()).collect();
    claimed.sort_by_key(|connection| connection.place.slot);
    let numbers: Vec<usize> = claimed.iter().map(|connection| connection.place.slot).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4], "of fifty at once, five get a place each");
    let of = |user: &'static str| async move {
        let user = UserId::parse(user).unwrap();
        store.of(&TenantId::parse("t1").unwrap(), &[&user]).await.unwrap().remove(0)
    };
    assert_eq!(of("ann").await.held(NOW).count(), SLOTS);
    assert_eq!(of("bob").await.held(NOW).count(), 0);
    for connection in &claimed {
        let found = store.connection(&connection.place.connection_id).await.unwrap();
        assert_eq!(found.as_ref(), Some(connection));
        let again = store.claim(&ann, &connection.place.connection_id, NOW).await.unwrap();
        assert_eq!(again.as_ref(), Some(connection), "the same connection has the same place");
    }
    assert!(
        store.claim(&holder("bob", 2), &connection_id(60), NOW).await.unwrap().is_some(),
        "places are a user's own"
    );

    given_back(store, &ann, &claimed[2].place).await;
    by_itself(store, &ann).await;
}

async fn given_back(store: &dyn SlotStore, ann: &Holder, place: &Place) {
    let stranger = Place { connection_id: connection_id(99), ..place.clone() };
    assert!(!store.release(&stranger).await.unwrap(), "who does not hold a place gives none back");
    assert!(store.claim(ann, &connection_id(70), NOW).await.unwrap().is_none());
    assert!(store.release(place).await.unwrap());
    assert!(!store.release(place).await.unwrap());
    assert_eq!(store.connection(&place.connection_id).await.unwrap(), None);
    let next = store.claim(ann, &connection_id(70), NOW).await.unwrap().unwrap();
    assert_eq!(next.place.slot, place.slot);
    assert!(!store.release(place).await.unwrap(), "the place is somebody else's by now");
    assert!(!store.extend(place, NOW + LONGEST).await.unwrap());

    let (a, b) = (conversation_id(1), conversation_id(2));
    let slot = Slot {
        connection_id: next.place.connection_id.clone(),
        session_id: sample::family_id(1),
        expires_at: NOW + SILENCE,
        live: true,
        positions: BTreeMap::from([(a.clone(), 7), (b.clone(), 0)]),
    };
    assert!(!store.renew(place, &slot).await.unwrap());
    assert!(store.renew(&next.place, &slot).await.unwrap());
    assert!(store.extend(&next.place, NOW + SILENCE * 2).await.unwrap());
    assert!(store.arrived(&next.place, &a).await.unwrap());
    assert!(store.arrived(&next.place, &a).await.unwrap(), "twice is once");
    assert!(!store.arrived(place, &b).await.unwrap());
    let expected = Slot { expires_at: NOW + SILENCE * 2, positions: BTreeMap::from([(b, 0)]), ..slot };
    let found = store.of(&ann.tenant_id, &[&ann.user_id]).await.unwrap().remove(0);
    assert_eq!(found.0[next.place.slot].as_ref(), Some(&expected));
}

/// Nobody says that a connection has ended.
async fn by_itself(store: &dyn SlotStore, ann: &Holder) {
    let later = NOW + SILENCE;
    let ids: Vec<ConnectionId> = (100..150).map(connection_id).collect();
    let claims = join_all(ids.iter().map(|id| store.claim(ann, id, later))).await;
    let claimed = claims.into_iter().filter_map(|claim| claim.unwrap()).count();
    assert_eq!(claimed, SLOTS - 1, "all but the one that gave a sign of life");

    let sid = sample::family_id(9);
    assert!(!store.is_barred(&sid, NOW).await.unwrap());
    store.bar(&sid, NOW + Duration::minutes(5)).await.unwrap();
    store.bar(&sid, NOW + Duration::minutes(6)).await.unwrap();
    assert!(store.is_barred(&sid, NOW + Duration::minutes(5)).await.unwrap());
    assert!(!store.is_barred(&sid, NOW + Duration::minutes(6)).await.unwrap());
}

/// Watermarks: moved by whoever saw the last version.
pub async fn push_states(store: &dyn PushStore) {
    let conversation = conversation_id(1);
    assert_eq!(store.state(&conversation).await.unwrap(), PushState::default());
    let state = |version, pushed| PushState {
        version,
        pushed,
        delivered: BTreeMap::from([(UserId::parse("ann.li").unwrap(), pushed)]),
    };
    let rivals: Vec<PushState> = (1..=10).map(|pushed| state(1, pushed)).collect();
    let answers = join_all(rivals.iter().map(|next| store.advance(&conversation, next))).await;
    let won: Vec<&PushState> =
        rivals.iter().zip(&answers).filter(|(_, won)| *won.as_ref().unwrap()).map(|(next, _)| next).collect();
    assert_eq!(won.len(), 1, "of ten at once, one moves it");
    assert_eq!(&store.state(&conversation).await.unwrap(), won[0]);
    assert!(store.advance(&conversation, &state(2, 20)).await.unwrap());
    assert!(!store.advance(&conversation, &state(2, 30)).await.unwrap(), "from a stale version");
    assert_eq!(store.state(&conversation).await.unwrap(), state(2, 20));
    assert_eq!(store.state(&conversation_id(2)).await.unwrap(), PushState::default());
}
