//! The places that a user's sockets have.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::access::{ACCESS_TOKEN_LIFE, Caller, LEEWAY};
use crate::fault::PortFault;
use crate::id::{ConnectionId, ConversationId, FamilyId, TenantId, UserId};

/// How many sockets a user has at once.
pub const SLOTS: usize = 5;

/// How long a place is held without a sign of life: almost three pings, or the two minutes after API Gateway hung up on an idle client.
pub const SILENCE: Duration = Duration::minutes(12);

/// How long a place is held at most: API Gateway ends every connection after two hours.
pub const LONGEST: Duration = Duration::minutes(125);

/// When a client should have come back by a new connection.
pub const DRAIN: Duration = Duration::minutes(115);

/// Whose socket it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub tenant_id: TenantId,
    pub user_id: UserId,
    /// The login that opened it; its end closes the socket.
    pub session_id: FamilyId,
}

impl Holder {
    #[must_use]
    pub fn of(caller: &Caller) -> Self {
        Self {
            tenant_id: caller.tenant_id.clone(),
            user_id: caller.user_id.clone(),
            session_id: caller.session_id.clone(),
        }
    }
}

/// Which place a connection holds, or held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub tenant_id: TenantId,
    pub user_id: UserId,
    /// Its number among the user's places.
    pub slot: usize,
    pub connection_id: ConnectionId,
}

/// A connection, as its own events find it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    #[serde(flatten)]
    pub place: Place,
    /// The login that opened it.
    pub session_id: FamilyId,
    #[serde(with = "time::serde::timestamp")]
    pub connected_at: OffsetDateTime,
}

/// A place that a connection holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    pub connection_id: ConnectionId,
    pub session_id: FamilyId,
    #[serde(with = "time::serde::timestamp")]
    pub expires_at: OffsetDateTime,
    /// Whether its client said hello and was brought up to date.
    #[serde(default)]
    pub live: bool,
    /// How far the client had come in conversations that may have gone on before the place was seen to be live.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub positions: BTreeMap<ConversationId, u64>,
}

/// All places of one user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots(pub [Option<Slot>; SLOTS]);

impl Slots {
    /// A place for a connection: its own if it has one, else one that nobody holds any more.
    #[must_use]
    pub fn place_for(&self, connection_id: &ConnectionId, now: OffsetDateTime) -> Option<usize> {
        let own = |slot: &Option<Slot>| slot.as_ref().is_some_and(|slot| slot.connection_id == *connection_id);
        let free = |slot: &Option<Slot>| slot.as_ref().is_none_or(|slot| slot.expires_at <= now);
        self.0.iter().position(own).or_else(|| self.0.iter().position(free))
    }

    /// The places that are held now, with their numbers.
    pub fn held(&self, now: OffsetDateTime) -> impl Iterator<Item = (usize, &Slot)> {
        let held = self.0.iter().enumerate().filter_map(|(number, slot)| Some((number, slot.as_ref()?)));
        held.filter(move |(_, slot)| slot.expires_at > now)
    }
}

/// Until when a connection that was heard of now holds its place.
#[must_use]
pub fn lives_until(connected_at: OffsetDateTime, now: OffsetDateTime) -> OffsetDateTime {
    (connected_at + LONGEST).min(now + SILENCE)
}

/// Until when a login that ended now is kept from opening sockets: its access tokens live on for so long.
#[must_use]
pub fn barred_until(now: OffsetDateTime) -> OffsetDateTime {
    now + ACCESS_TOKEN_LIFE + LEEWAY * 2
}

/// Where places are kept. What changes one says whether the connection still held it, and changes nothing otherwise.
#[async_trait]
pub trait SlotStore: Send + Sync {
    /// Gives the connection a place, unless all are held. Of any number of callers at once at most [`SLOTS`] get one. Called twice for
    /// one connection, it is the same place.
    async fn claim(
        &self,
        holder: &Holder,
        connection_id: &ConnectionId,
        now: OffsetDateTime,
    ) -> Result<Option<Connection>, PortFault>;

    /// What was claimed under this id.
    async fn connection(&self, connection_id: &ConnectionId) -> Result<Option<Connection>, PortFault>;

    /// Every user's places, in the order of `users`, as they are after everything that was written before the call.
    async fn of(&self, tenant_id: &TenantId, users: &[&UserId]) -> Result<Vec<Slots>, PortFault>;

    /// Writes the place anew.
    async fn renew(&self, place: &Place, slot: &Slot) -> Result<bool, PortFault>;

    /// Moves only the end of the place.
    async fn extend(&self, place: &Place, expires_at: OffsetDateTime) -> Result<bool, PortFault>;

    /// The client has come as far as everybody in this conversation: its position is forgotten.
    async fn arrived(&self, place: &Place, conversation_id: &ConversationId) -> Result<bool, PortFault>;

    /// Gives the place back and forgets the connection.
    async fn release(&self, place: &Place) -> Result<bool, PortFault>;

    /// Keeps a login from opening sockets for a while. It is seen by every [`SlotStore::is_barred`] that begins afterwards.
    async fn bar(&self, session_id: &FamilyId, until: OffsetDateTime) -> Result<(), PortFault>;

    async fn is_barred(&self, session_id: &FamilyId, now: OffsetDateTime) -> Result<bool, PortFault>;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-25 09:00 UTC);

    fn id(n: usize) -> ConnectionId {
        ConnectionId::parse(format!("c{n}=")).unwrap()
    }

    fn slot(n: usize, expires_at: OffsetDateTime) -> Slot {
        let session_id = FamilyId::parse("6f9619ff-8b86-4d01-b42d-00cf4fc964ff").unwrap();
        Slot { connection_id: id(n), session_id, expires_at, live: false, positions: BTreeMap::new() }
    }

    #[test]
    fn a_place_is_free_from_the_moment_it_ends() {
        let mut slots = Slots::default();
        assert_eq!(slots.place_for(&id(9), NOW), Some(0));
        for n in 0..SLOTS {
            slots.0[n] = Some(slot(n, NOW + Duration::seconds(10 - i64::try_from(n).unwrap())));
        }
        assert_eq!(slots.place_for(&id(9), NOW), None);
        assert_eq!(slots.place_for(&id(9), NOW + Duration::seconds(6)), Some(4));
        assert_eq!(slots.place_for(&id(3), NOW), Some(3), "a connection keeps its own");
        assert_eq!(slots.held(NOW + Duration::seconds(7)).map(|(n, _)| n).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_place_is_held_by_signs_of_life_and_never_longer_than_a_connection() {
        assert_eq!(lives_until(NOW, NOW), NOW + SILENCE);
        assert_eq!(lives_until(NOW, NOW + Duration::minutes(100)), NOW + Duration::minutes(112));
        assert_eq!(lives_until(NOW, NOW + Duration::minutes(119)), NOW + LONGEST);
    }

    proptest! {
        #[test]
        fn whoever_comes_and_goes_no_more_than_five_hold_a_place(steps in prop::collection::vec((0_usize..20, 0_i64..900), 1..200)) {
            let (mut slots, mut now) = (Slots::default(), NOW);
            for (n, seconds) in steps {
                now += Duration::seconds(seconds);
                let held: Vec<_> = slots.held(now).map(|(_, slot)| slot.connection_id.clone()).collect();
                let place = slots.place_for(&id(n), now);
                prop_assert_eq!(place.is_none(), held.len() == SLOTS && !held.contains(&id(n)));
                if let Some(place) = place {
                    slots.0[place] = Some(slot(n, now + SILENCE));
                }
                prop_assert!(slots.held(now).filter(|(_, slot)| slot.connection_id == id(n)).count() <= 1);
            }
        }
    }
}
