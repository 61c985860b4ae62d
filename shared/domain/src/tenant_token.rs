//! Tenant tokens: one fetch for any number of callers in any number of processes, refreshed before they go stale.
//!
//! The vendor hands out the same token while 30 minutes or more remain, and both while one takes over from the other, so a second
//! fetch does no harm. The lease saves calls; it is not needed for correctness.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration as Pause;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::app::{AppKind, OpenApp};
use crate::authorize::VendorFault;
use crate::clock::Clock;
use crate::fault::{Fault, PortFault, Remedy, chain};
use crate::id::AppId;
use crate::seal::{SealContext, SealFault, Sealed, Sealer};
use crate::token::{Lease, differs};

/// A token with less than this to live is replaced by whoever needs it first, while the others go on using it.
const REFRESH_BEFORE: Duration = Duration::minutes(20);

/// A token with less than this to live is not used any more.
const MARGIN: Duration = Duration::minutes(3);

/// How long one process may fetch before another one tries. Longer than a call to the vendor may take.
const LEASE: Duration = Duration::seconds(10);

/// Which tenant: a custom app has one, which needs no name.
pub const OWN_TENANT: &str = "-";

/// A tenant token as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantToken {
    pub app_id: AppId,
    pub tenant_key: String,
    pub sealed: Sealed,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// Grows by one with each fetch.
    pub version: u64,
}

/// What the vendor hands out.
#[derive(Debug)]
pub struct Minted {
    pub token: SecretString,
    pub expires_in: Duration,
}

/// Where tenant tokens and the tickets of store apps are kept.
#[async_trait]
pub trait TenantTokenStore: Send + Sync {
    async fn get(&self, app_id: &AppId, tenant_key: &str) -> Result<Option<TenantToken>, PortFault>;

    /// Makes the caller the only one who fetches the token after `version` (0: the first) until `until`.
    async fn lease(
        &self,
        place: (&AppId, &str),
        version: u64,
        now: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<Lease<Option<TenantToken>>, PortFault>;

    /// Keeps a token whose version is one above what is stored, and ends the lease; else a [`PortFault::Conflict`].
    async fn keep(&self, token: &TenantToken) -> Result<(), PortFault>;

    /// Ends the lease without a token, so that the next caller need not wait.
    async fn release(&self, app_id: &AppId, tenant_key: &str) -> Result<(), PortFault>;

    /// The newest ticket of a store app.
    async fn ticket(&self, app_id: &AppId) -> Result<Option<Sealed>, PortFault>;

    /// Keeps a ticket unless a newer one is kept already.
    async fn put_ticket(&self, app_id: &AppId, ticket: &Sealed, issued_at: OffsetDateTime) -> Result<(), PortFault>;
}

/// Fetches tenant tokens from the vendor.
#[async_trait]
pub trait Mint: Send + Sync {
    /// A store app needs its ticket; without one, or when the vendor does not take it, a new one is asked for and the answer is
    /// [`VendorFault::Unavailable`].
    async fn tenant_token(
        &self,
        app: &OpenApp,
        tenant_key: &str,
        ticket: Option<&SecretString>,
    ) -> Result<Minted, VendorFault>;
}

type Known = HashMap<(AppId, String), (SecretString, OffsetDateTime)>;

/// Tenant tokens for whoever needs one.
pub struct TenantTokens {
    store: Arc<dyn TenantTokenStore>,
    sealer: Arc<dyn Sealer>,
    mint: Arc<dyn Mint>,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
}

impl fmt::Debug for TenantTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantTokens").finish_non_exhaustive()
    }
}

impl TenantTokens {
    #[must_use]
    pub fn new(
        store: Arc<dyn TenantTokenStore>,
        sealer: Arc<dyn Sealer>,
        mint: Arc<dyn Mint>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { store, sealer, mint, clock, known: Mutex::default() }
    }

    /// A token that works. `rejected` is one that the vendor did not take: any other is as good as fetched anew.
    pub async fn get(
        &self,
        app: &OpenApp,
        tenant_key: &str,
        rejected: Option<&SecretString>,
    ) -> Result<SecretString, VendorFault> {
        let place = (&app.app.app_id, tenant_key);
        let mut usable = self.known(place, rejected);
        let mut pause = Pause::from_millis(10);
        let started = self.clock.now();
        loop {
            let now = self.clock.now();
            if let Some((token, expires_at)) = &usable
                && now + REFRESH_BEFORE < *expires_at
            {
                return Ok(token.clone());
            }
            let stored = self.store.get(place.0, tenant_key).await.map_err(unavailable)?;
            let version = stored.as_ref().map_or(0, |stored| stored.version);
            if let Some(found) = self.open(place, stored, rejected).await?
                && usable.as_ref().is_none_or(|(_, expires_at)| *expires_at < found.1)
            {
                self.remember(place, &found);
                usable = Some(found);
                continue;
            }
            match self.store.lease(place, version, now, now + LEASE).await.map_err(unavailable)? {
                Lease::Taken => return self.fetch(app, tenant_key, version).await,
                Lease::Held(_) | Lease::Gone => {}
            }
            if let Some((token, expires_at)) = &usable
                && now + MARGIN < *expires_at
            {
                return Ok(token.clone());
            }
            if now > started + LEASE {
                return Err(VendorFault::Unavailable("another process has been fetching the tenant token".into()));
            }
            self.clock.pause(pause).await;
            pause = (pause * 2).min(Pause::from_millis(200));
        }
    }

    async fn fetch(&self, app: &OpenApp, tenant_key: &str, version: u64) -> Result<SecretString, VendorFault> {
        let place = (&app.app.app_id, tenant_key);
        let minted = match self.mint(app, tenant_key).await {
            Ok(minted) => minted,
            Err(fault) => {
                if let Err(fault) = self.store.release(place.0, tenant_key).await {
                    tracing::warn!(error = %chain(&fault), "A lease was not released; it ends by itself");
                }
                return Err(fault);
            }
        };
        let found = (minted.token, self.clock.now() + minted.expires_in);
        self.remember(place, &found);
        if let Err(reason) = self.keep(place, &found, version + 1).await {
            // The token works all the same, and the vendor gives the same one to whoever asks next.
            tracing::warn!(lark.app_id = %place.0, error = %reason, "A tenant token was not stored");
        }
        Ok(found.0)
    }

    async fn mint(&self, app: &OpenApp, tenant_key: &str) -> Result<Minted, VendorFault> {
        let app_id = &app.app.app_id;
        let ticket = match app.app.kind {
            AppKind::Custom => None,
            AppKind::Store => match self.store.ticket(app_id).await.map_err(unavailable)? {
                None => None,
                Some(sealed) => match self.sealer.open(SealContext::AppTicket(app_id), &sealed).await {
                    Ok(bytes) => Some(SecretString::from(String::from_utf8_lossy(&bytes).into_owned())),
                    Err(SealFault::Damaged) => None,
                    Err(fault) => return Err(VendorFault::Unavailable(Box::new(fault))),
                },
            },
        };
        self.mint.tenant_token(app, tenant_key, ticket.as_ref()).await
    }

    async fn keep(
        &self,
        (app_id, tenant_key): (&AppId, &str),
        (token, expires_at): &(SecretString, OffsetDateTime),
        version: u64,
    ) -> Result<(), String> {
        let secret = SecretSlice::from(token.expose_secret().as_bytes().to_vec());
        let context = SealContext::TenantToken { app_id, tenant_key };
        let sealed = self.sealer.seal(context, &secret).await.map_err(|fault| chain(&fault))?;
        let (app_id, tenant_key) = (app_id.clone(), tenant_key.to_owned());
        let token = TenantToken { app_id, tenant_key, sealed, expires_at: *expires_at, version };
        self.store.keep(&token).await.map_err(|fault| chain(&fault))
    }

    /// A stored token that does not open is as good as none: it is replaced.
    async fn open(
        &self,
        (app_id, tenant_key): (&AppId, &str),
        stored: Option<TenantToken>,
        rejected: Option<&SecretString>,
    ) -> Result<Option<(SecretString, OffsetDateTime)>, VendorFault> {
        let Some(stored) = stored else { return Ok(None) };
        let bytes = match self.sealer.open(SealContext::TenantToken { app_id, tenant_key }, &stored.sealed).await {
            Ok(bytes) => bytes,
            Err(SealFault::Damaged) => {
                tracing::error!(lark.app_id = %app_id, "A stored tenant token does not open; it is fetched anew");
                return Ok(None);
            }
            Err(fault) => return Err(VendorFault::Unavailable(Box::new(fault))),
        };
        let token = SecretString::from(String::from_utf8_lossy(&bytes).into_owned());
        Ok(differs(&token, rejected).then_some((token, stored.expires_at)))
    }

    fn known(
        &self,
        (app_id, tenant_key): (&AppId, &str),
        rejected: Option<&SecretString>,
    ) -> Option<(SecretString, OffsetDateTime)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(app_id.clone(), tenant_key.to_owned())).filter(|(token, _)| differs(token, rejected)).cloned()
    }

    fn remember(&self, (app_id, tenant_key): (&AppId, &str), found: &(SecretString, OffsetDateTime)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((app_id.clone(), tenant_key.to_owned()), found.clone());
    }
}

/// Keeps the ticket that the vendor pushed to a store app. Called again, or late, the newest one stays.
pub async fn keep_ticket(
    store: &dyn TenantTokenStore,
    sealer: &dyn Sealer,
    app_id: &AppId,
    ticket: &SecretString,
    issued_at: OffsetDateTime,
) -> Result<(), TicketFault> {
    let secret = SecretSlice::from(ticket.expose_secret().as_bytes().to_vec());
    let sealed = sealer.seal(SealContext::AppTicket(app_id), &secret).await.map_err(TicketFault::Seal)?;
    Ok(store.put_ticket(app_id, &sealed, issued_at).await?)
}

fn unavailable(fault: PortFault) -> VendorFault {
    VendorFault::Unavailable(Box::new(fault))
}

/// Why a ticket was not kept.
#[derive(Debug, thiserror::Error)]
pub enum TicketFault {
    #[error("the ticket could not be sealed")]
    Seal(#[source] SealFault),
    #[error("a store failed")]
    Store(#[from] PortFault),
}

impl Fault for TicketFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Seal(fault) => fault.remedy(),
            Self::Store(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Seal(fault) => fault.code(),
            Self::Store(fault) => fault.code(),
        }
    }
}
