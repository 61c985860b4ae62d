//! Sealing: secrets are stored only as ciphertext bound to the place where they belong.

use std::collections::BTreeMap;

use async_trait::async_trait;
use secrecy::{SecretSlice, zeroize::Zeroizing};
use serde::{Deserialize, Serialize};

use crate::fault::{Fault, PortFault, Refusal, Remedy};
use crate::id::{AppId, ChannelName, OpenId, TenantId};

/// Where a secret belongs. It is authenticated with the ciphertext, so a record moved elsewhere does not open.
#[derive(Debug, Clone, Copy)]
pub enum SealContext<'a> {
    /// The app secret, encrypt key and verification token of an app.
    App(&'a AppId),
    /// A person's token pair.
    UserToken {
        app_id: &'a AppId,
        tenant_key: &'a str,
        open_id: &'a OpenId,
    },
    /// A tenant token, which is fetched anew when it does not open; or a store app's ticket.
    TenantToken {
        app_id: &'a AppId,
        tenant_key: &'a str,
    },
    AppTicket(&'a AppId),
    /// The PKCE verifier of one authorization attempt, named by the hash of its state.
    Verifier {
        app_id: &'a AppId,
        state_hash: &'a str,
    },
    /// What a channel's connector signs with.
    Connector {
        tenant_id: &'a TenantId,
        channel: &'a ChannelName,
    },
}

impl<'a> SealContext<'a> {
    /// The canonical form, which is also the KMS encryption context.
    #[must_use]
    pub fn pairs(&self) -> BTreeMap<&'static str, &'a str> {
        match self {
            Self::App(app_id) => BTreeMap::from([("kind", "app"), ("app", app_id.as_str())]),
            Self::UserToken { app_id, tenant_key, open_id } => BTreeMap::from([
                ("kind", "user_token"),
                ("app", app_id.as_str()),
                ("tenant", *tenant_key),
                ("user", open_id.as_str()),
            ]),
            Self::TenantToken { app_id, tenant_key } => {
                BTreeMap::from([("kind", "tenant_token"), ("app", app_id.as_str()), ("tenant", *tenant_key)])
            }
            Self::AppTicket(app_id) => BTreeMap::from([("kind", "app_ticket"), ("app", app_id.as_str())]),
            Self::Verifier { app_id, state_hash } => {
                BTreeMap::from([("kind", "verifier"), ("app", app_id.as_str()), ("state", *state_hash)])
            }
            Self::Connector { tenant_id, channel } => {
                BTreeMap::from([("kind", "connector"), ("tenant", tenant_id.as_str()), ("channel", channel.as_str())])
            }
        }
    }
}

/// A sealed secret, opaque to everyone but the sealer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(pub String);

/// Seals and opens secrets. Sealing twice gives two different records that open to the same secret.
#[async_trait]
pub trait Sealer: Send + Sync {
    async fn seal(&self, context: SealContext<'_>, secret: &SecretSlice<u8>) -> Result<Sealed, SealFault>;

    async fn open(&self, context: SealContext<'_>, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealFault>;

    /// The same secret sealed under the key that seals now, if an earlier one sealed it; `None` if there is nothing to do. It does not
    /// look for damage: a record under the present key is not opened. The caller replaces a record only as it was read, or it would undo
    /// a change made meanwhile.
    async fn rewrap(&self, context: SealContext<'_>, sealed: &Sealed) -> Result<Option<Sealed>, SealFault>;
}

/// Why a secret was not sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealFault {
    /// Swapped, truncated, bit-flipped, or sealed for another place or under another key.
    #[error("the sealed record does not open here")]
    Damaged,
    #[error("the key service did not answer")]
    KeyService(#[source] PortFault),
}

impl Fault for SealFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Damaged => Remedy::Reject(Refusal::Conflict),
            Self::KeyService(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Damaged => "sealed_record_damaged",
            Self::KeyService(fault) => fault.code(),
        }
    }
}
