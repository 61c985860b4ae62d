//! User tokens: what a person granted an app, sealed.

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::fault::PortFault;
use crate::id::{AppId, OpenId};
use crate::seal::{SealContext, SealFault, Sealed, Sealer};

/// A person's profile at one app, as far as the granted scopes show it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    pub tenant_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub union_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mobile: Option<String>,
}

/// The pair itself. Never stored or logged as it is.
#[derive(Debug, Clone)]
pub struct TokenPair {
    pub access_token: SecretString,
    /// Absent when `offline_access` was not granted.
    pub refresh_token: Option<SecretString>,
}

#[derive(Serialize, Deserialize)]
struct PairRecord {
    access_token: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
}

/// A person's token as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserToken {
    pub app_id: AppId,
    pub open_id: OpenId,
    pub profile: Profile,
    pub scopes: Vec<String>,
    pub pair: Sealed,
    #[serde(with = "time::serde::rfc3339")]
    pub access_expires_at: OffsetDateTime,
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub refresh_expires_at: Option<OffsetDateTime>,
    /// When the person approved; the vendor refreshes for 365 days from here.
    #[serde(with = "time::serde::rfc3339")]
    pub authorized_at: OffsetDateTime,
}

impl TokenPair {
    pub async fn seal(&self, place: SealContext<'_>, sealer: &dyn Sealer) -> Result<Sealed, SealFault> {
        let record = PairRecord {
            access_token: self.access_token.expose_secret().to_owned(),
            refresh_token: self.refresh_token.as_ref().map(|t| t.expose_secret().to_owned()),
        };
        let bytes = serde_json::to_vec(&record).map_err(|_| SealFault::Damaged)?;
        sealer.seal(place, &SecretSlice::from(bytes)).await
    }

    pub async fn open(token: &UserToken, sealer: &dyn Sealer) -> Result<Self, SealFault> {
        let place = SealContext::UserToken {
            app_id: &token.app_id,
            tenant_key: &token.profile.tenant_key,
            open_id: &token.open_id,
        };
        let bytes = sealer.open(place, &token.pair).await?;
        let record: PairRecord = serde_json::from_slice(&bytes).map_err(|_| SealFault::Damaged)?;
        Ok(Self { access_token: record.access_token.into(), refresh_token: record.refresh_token.map(Into::into) })
    }
}

/// Where user tokens are kept. They are written by [`crate::session::SessionStore::end`], with the session that brought them.
#[async_trait]
pub trait TokenStore: Send + Sync {
    async fn get(&self, app_id: &AppId, open_id: &OpenId) -> Result<Option<UserToken>, PortFault>;
}
