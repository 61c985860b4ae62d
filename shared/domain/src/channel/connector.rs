//! Connectors: what a channel of a tenant is connected to.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use url::Url;

use super::Breaker;
use crate::fault::PortFault;
use crate::id::{AppId, ChannelName, TenantId, UserId};
use crate::seal::Sealed;

/// How a channel leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ConnectorKind {
    /// Into chats and to people of Lark, in an app's name. What people write there comes back.
    Lark {
        app_id: AppId,
        /// The organisation, where the app serves several.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tenant_key: Option<String>,
        /// The member that stands for people who are no members themselves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        speaker: Option<UserId>,
    },
    /// To an address of HTTP, signed with a secret.
    Webhook { url: Url, secret: Sealed },
}

impl ConnectorKind {
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Lark { .. } => "lark",
            Self::Webhook { .. } => "webhook",
        }
    }
}

/// A connector as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connector {
    pub tenant_id: TenantId,
    /// What conversations call the channel.
    pub name: ChannelName,
    pub connects: ConnectorKind,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    pub created_by: String,
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
    pub updated_by: String,
    /// Grows by one with each change; a change names the version that it read.
    pub version: u64,
}

impl Connector {
    /// What it must be like.
    pub fn check(&self) -> Result<(), ConnectorFault> {
        if self.name.as_str() == crate::chat::Message::ALL_CHANNELS {
            return Err(ConnectorFault::Reserved);
        }
        match &self.connects {
            ConnectorKind::Webhook { url, .. } if !matches!(url.scheme(), "http" | "https") || url.host().is_none() => {
                Err(ConnectorFault::NoAddress)
            }
            _ => Ok(()),
        }
    }
}

/// Why something is no connector.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConnectorFault {
    #[error("`{}` means every channel of a conversation and names none", crate::chat::Message::ALL_CHANNELS)]
    Reserved,
    #[error("`url` must be an `http` or `https` address")]
    NoAddress,
}

/// A connector, and how it has been doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorView {
    pub connector: Connector,
    pub breaker: Breaker,
}

/// Where connectors are kept.
#[async_trait]
pub trait ConnectorStore: Send + Sync {
    /// With what was written before the call.
    async fn view(&self, tenant_id: &TenantId, name: &ChannelName) -> Result<Option<ConnectorView>, PortFault>;

    /// All of a tenant's, by name; of all tenants if none is named.
    async fn list(&self, tenant_id: Option<&TenantId>) -> Result<Vec<Connector>, PortFault>;

    /// Keeps a new connector (version 1), or the successor of the one that is stored; else a [`PortFault::Conflict`].
    async fn put(&self, connector: &Connector) -> Result<(), PortFault>;

    /// Forgets the connector as it was read, and how it did; gone already is fine, changed since is a [`PortFault::Conflict`].
    async fn delete(&self, connector: &Connector) -> Result<(), PortFault>;

    /// Notes how it does, as the successor of what is stored; else a [`PortFault::Conflict`].
    async fn note(&self, connector: &Connector, breaker: &Breaker) -> Result<(), PortFault>;
}
