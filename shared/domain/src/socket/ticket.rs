//! Tickets: what a browser opens a socket with, since it can send no header and an address ends up in logs.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::Holder;
use crate::fault::PortFault;

/// How long a ticket is good.
pub const TICKET_LIFE: Duration = Duration::seconds(30);

/// A ticket, of which only the hash of its secret is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// SHA-256 of the secret.
    pub hash: String,
    #[serde(flatten)]
    pub holder: Holder,
    #[serde(with = "time::serde::timestamp")]
    pub expires_at: OffsetDateTime,
}

impl Ticket {
    #[must_use]
    pub fn issue(hash: String, holder: Holder, now: OffsetDateTime) -> Self {
        Self { hash, holder, expires_at: now + TICKET_LIFE }
    }
}

/// Where tickets are kept.
#[async_trait]
pub trait TicketStore: Send + Sync {
    async fn keep(&self, ticket: &Ticket) -> Result<(), PortFault>;

    /// Takes a ticket that is still good. Of several callers one gets it; afterwards there is none.
    async fn take(&self, hash: &str, now: OffsetDateTime) -> Result<Option<Ticket>, PortFault>;
}
