//! Open WebSockets: who may open one, the five places that a user has, and how a client that comes back catches up.
//!
//! A place is held by a connection for a while and comes back by itself: that a connection has ended is often told, and never sure to be.
//! A socket is **live** once its client has said hello and was brought up to date; only then is anything pushed to it. What was committed
//! between the two is not lost: until each conversation was pushed once, the place holds how far its client had come.

mod client;
mod reception;
mod slot;
mod ticket;

pub use client::{ClientFault, ClientFrame, HELLO_CONVERSATIONS};
pub use reception::{PING_EVERY, Proof, REPLAYED, Reception, SocketFault};
pub use slot::{
    Connection, DRAIN, Holder, LONGEST, Place, SILENCE, SLOTS, Slot, SlotStore, Slots, barred_until, lives_until,
};
pub use ticket::{TICKET_LIFE, Ticket, TicketStore};

use async_trait::async_trait;

use crate::fault::PortFault;
use crate::id::ConnectionId;

/// The other ends of open sockets.
#[async_trait]
pub trait Sockets: Send + Sync {
    /// Sends one frame. Frames arrive in the order in which their posts returned; one that failed as [`PostFault::Busy`] may arrive.
    async fn post(&self, connection_id: &ConnectionId, frame: &str) -> Result<(), PostFault>;

    /// Closes a connection. One that has ended is closed already.
    async fn close(&self, connection_id: &ConnectionId) -> Result<(), PortFault>;
}

/// Why a frame was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PostFault {
    /// The connection has ended, or is not open yet.
    #[error("the connection is gone")]
    Gone,
    /// Too slow, throttled or unreachable, and again when it was tried once more.
    #[error("the connection did not take a frame")]
    Busy(#[source] Box<dyn std::error::Error + Send + Sync>),
}
