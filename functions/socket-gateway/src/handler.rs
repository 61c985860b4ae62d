//! Event of a socket -> reception.

use domain::fault::{Fault, PortFault, Remedy};
use domain::id::{ConnectionId, IdError};
use domain::socket::{Proof, Reception, SocketFault};
use lambda_kit::random;
use lambda_kit::socket::{Event, Handshake};
use time::OffsetDateTime;

/// A client that can send no header and has no ticket sends its access token as the subprotocol `bearer.<token>`.
const BEARER: &str = "bearer.";

/// Receives one event. The answer is the subprotocol of a socket that was let in.
pub(crate) async fn receive(
    reception: &Reception,
    event: Event,
    now: OffsetDateTime,
) -> Result<Option<String>, GatewayFault> {
    match event {
        Event::Connect(handshake) => connect(reception, handshake, now).await,
        Event::Message { connection_id, text } => {
            reception.hear(&ConnectionId::parse(connection_id)?, &text, now).await?;
            Ok(None)
        }
        Event::Disconnect { connection_id } => {
            reception.leave(&ConnectionId::parse(connection_id)?).await?;
            Ok(None)
        }
    }
}

async fn connect(
    reception: &Reception,
    handshake: Handshake,
    now: OffsetDateTime,
) -> Result<Option<String>, GatewayFault> {
    let connection_id = ConnectionId::parse(handshake.connection_id)?;
    let ticket = handshake.query.get("ticket").map(|secret| random::hash(secret));
    let protocol = handshake.protocols.into_iter().find(|protocol| protocol.starts_with(BEARER));
    let token = protocol.as_deref().and_then(|protocol| protocol.strip_prefix(BEARER));
    let proof = match (&ticket, token) {
        (Some(hash), _) => Proof::Ticket(hash),
        (None, Some(token)) => Proof::Token(token),
        (None, None) => Proof::Nothing,
    };
    reception.open(&connection_id, proof, now).await?;
    Ok(protocol)
}

/// Why an event was not received.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GatewayFault {
    #[error(transparent)]
    Socket(#[from] SocketFault),
    #[error("API Gateway named no connection")]
    Id(#[from] IdError),
    #[error("a port failed")]
    Port(#[from] PortFault),
}

impl Fault for GatewayFault {
    fn remedy(&self) -> Remedy {
        match self {
            // At a handshake whatever may pass is as good as refused: the client tries again, with another ticket.
            Self::Socket(fault) => fault.remedy(),
            Self::Id(_) => Remedy::Bug,
            Self::Port(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Socket(fault) => fault.code(),
            Self::Id(_) => "internal_error",
            Self::Port(fault) => fault.code(),
        }
    }

    fn challenge(&self) -> Option<String> {
        match self {
            Self::Socket(fault) => fault.challenge(),
            Self::Id(_) | Self::Port(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use domain::fault::Denial;
    use domain::id::{TenantId, UserId};
    use domain::socket::{Holder, Ticket, TicketStore as _};
    use testkit::sample::{self, NOW};
    use testkit::{MemoryPushQueue, MemoryRoom, MemorySockets, MemoryTokens};

    use super::*;

    struct World {
        room: Arc<MemoryRoom>,
        sockets: Arc<MemorySockets>,
        reception: Reception,
    }

    fn world() -> World {
        let (room, sockets) = (Arc::new(MemoryRoom::default()), Arc::new(MemorySockets::default()));
        let verifier = Arc::new(MemoryTokens::default());
        let queue = Arc::new(MemoryPushQueue::default());
        World { reception: Reception::new(room.clone(), verifier, sockets.clone(), queue), room, sockets }
    }

    impl World {
        async fn connect(&self, query: &[(&str, &str)], protocols: &[&str]) -> Result<Option<String>, GatewayFault> {
            let pairs = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let handshake = Handshake {
                connection_id: "Zx1=".to_owned(),
                query: pairs.collect::<HashMap<_, _>>(),
                protocols: protocols.iter().map(|protocol| (*protocol).to_owned()).collect(),
            };
            receive(&self.reception, Event::Connect(handshake), NOW).await
        }

        async fn keep_ticket(&self, secret: &str) {
            let holder = Holder {
                tenant_id: TenantId::parse("t1").unwrap(),
                user_id: UserId::parse("ann").unwrap(),
                session_id: sample::family_id(1),
            };
            self.room.keep(&Ticket::issue(random::hash(secret), holder, NOW)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_ticket_opens_once_and_anything_else_is_turned_away() {
        let world = world();
        world.keep_ticket("s3cret").await;
        assert_eq!(world.connect(&[("ticket", "s3cret")], &[]).await.unwrap(), None);
        assert_eq!(world.room.held("ann", NOW), 1);
        for (query, protocols) in [
            (&[("ticket", "s3cret")][..], &[][..]),
            (&[("ticket", "")], &[]),
            (&[], &["bearer.forged"]),
            (&[], &["chat"]),
            (&[("token", "s3cret")], &[]),
        ] {
            let fault = world.connect(query, protocols).await.unwrap_err();
            assert_eq!(fault.remedy(), Remedy::Deny(Denial::Unauthenticated), "{query:?} {protocols:?}");
        }
    }

    #[tokio::test]
    async fn a_socket_is_heard_and_forgotten() {
        let world = world();
        world.keep_ticket("s3cret").await;
        world.connect(&[("ticket", "s3cret")], &[]).await.unwrap();
        let connection_id = "Zx1=".to_owned();
        world.sockets.connect(&ConnectionId::parse(connection_id.as_str()).unwrap());
        let ping = Event::Message { connection_id: connection_id.clone(), text: r#"{"type":"ping"}"#.to_owned() };
        receive(&world.reception, ping, NOW).await.unwrap();
        let frames = world.sockets.received(&ConnectionId::parse(connection_id.as_str()).unwrap());
        assert_eq!(frames.first().map(|frame| &frame["type"]), Some(&"pong".into()));
        receive(&world.reception, Event::Disconnect { connection_id }, NOW).await.unwrap();
        assert_eq!(world.room.held("ann", NOW), 0);
    }
}
