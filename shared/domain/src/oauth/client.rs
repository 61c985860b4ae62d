//! Clients: programs that call the API for a user.

use std::collections::BTreeSet;
use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use subtle::{Choice, ConstantTimeEq as _};
use time::OffsetDateTime;

use crate::access::Scope;
use crate::fault::{Fault, PortFault, Refusal, Remedy};
use crate::id::{ClientId, TenantId, UserId};

/// How many secrets of a client are good at once: the new one, and the one that it replaces.
const SECRETS: usize = 2;

/// The SHA-256 of a secret of 256 random bits, in 43 URL-safe characters. Such a secret needs no slow hash: nobody can guess it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretHash(pub String);

impl SecretHash {
    /// Compares without telling by the time it takes how much is equal.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.equal(other).into()
    }

    fn equal(&self, other: &Self) -> Choice {
        self.0.as_bytes().ct_eq(other.0.as_bytes())
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// One of a client's secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSecret {
    pub hash: SecretHash,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A client as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    pub client_id: ClientId,
    pub name: String,
    /// Whom it acts for.
    pub user_id: UserId,
    pub tenant_id: TenantId,
    /// All that its tokens may open.
    pub scopes: BTreeSet<Scope>,
    /// Newest first, one or two.
    pub secrets: Vec<ClientSecret>,
    /// Its own limit of calls a minute, instead of the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// A disabled client gets no tokens; those it has end within their 15 minutes.
    pub disabled: bool,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    pub created_by: String,
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
    pub updated_by: String,
    /// Grows by one with each change; an update names the version that it read.
    pub version: u64,
}

impl Client {
    /// Checks what people choose.
    pub fn check(&self) -> Result<(), ClientFault> {
        if self.name.trim().is_empty() || self.name.chars().count() > 100 {
            return Err(ClientFault::Name);
        }
        if self.scopes.is_empty() {
            return Err(ClientFault::Scopes);
        }
        if self.rate == Some(0) {
            return Err(ClientFault::Rate);
        }
        Ok(())
    }

    /// Whether this is the hash of one of its secrets. Every secret is looked at, whichever fits.
    #[must_use]
    pub fn accepts(&self, hash: &SecretHash) -> bool {
        self.secrets.iter().fold(Choice::from(0), |found, secret| found | secret.hash.equal(hash)).into()
    }

    /// Adds a secret; the one before it stays good, older ones do not.
    #[must_use]
    pub fn rotated(mut self, hash: SecretHash, now: OffsetDateTime) -> Self {
        self.secrets.insert(0, ClientSecret { hash, created_at: now });
        self.secrets.truncate(SECRETS);
        self
    }

    /// Ends a rotation: only the newest secret stays good.
    #[must_use]
    pub fn settled(mut self) -> Self {
        self.secrets.truncate(1);
        self
    }
}

/// Where clients are kept.
#[async_trait]
pub trait ClientStore: Send + Sync {
    async fn get(&self, client_id: &ClientId) -> Result<Option<Client>, PortFault>;

    /// Stores `client` if its version is exactly one above what is stored (0 when nothing is): called twice with the same client, the
    /// second call is a [`PortFault::Conflict`].
    async fn put(&self, client: &Client) -> Result<(), PortFault>;

    /// Every client, by id.
    async fn list(&self) -> Result<Vec<Client>, PortFault>;
}

/// Why a client is not stored.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ClientFault {
    #[error("`name` must have 1 to 100 characters")]
    Name,
    #[error("`scope` must name at least one scope")]
    Scopes,
    #[error("`rate` must be at least 1")]
    Rate,
}

impl Fault for ClientFault {
    fn remedy(&self) -> Remedy {
        Remedy::Reject(Refusal::Invalid)
    }

    fn code(&self) -> &'static str {
        "invalid_client_metadata"
    }
}
