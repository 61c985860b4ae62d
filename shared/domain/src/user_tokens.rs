//! User tokens for whoever calls the vendor in a person's name: valid, or the person is asked.
//!
//! One refresher per pair, by a lease on the stored record. The new pair is stored before anybody uses it. Nobody is logged out on
//! one process's word: before a pair is given up the record is read again.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration as Pause;

use async_trait::async_trait;
use secrecy::SecretString;
use time::{Duration, OffsetDateTime};

use crate::app::{AppDirectory, AppFault, AppStore, OpenApp};
use crate::authorize::{Vendor, VendorFault};
use crate::clock::Clock;
use crate::fault::{Denial, Fault, PortFault, Remedy, chain};
use crate::id::{AppId, Ids, OpenId, SessionId};
use crate::seal::{SealFault, Sealer};
use crate::session::{Asked, Cause, Session, SessionStore};
use crate::token::{Due, Grant, Lease, Notice, Profile, TokenPair, TokenStore, UserToken, differs};

/// How long one process may refresh before another one takes over. Longer than a refresh, its one repetition and the write take.
const LEASE: Duration = Duration::seconds(25);

/// How long a caller waits for somebody else's refresh.
const PATIENCE: Duration = Duration::seconds(20);

/// How many pairs one process remembers.
const REMEMBERED: usize = 10_000;

/// How long it does: what a process does not remember any more was refreshed, parked or forgotten by another one.
const REMEMBERED_FOR: Duration = Duration::minutes(1);

/// How often a pair that the vendor gave is tried to be stored: losing it would log the person out.
const WRITES: u32 = 6;

/// A person in the organisation's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub open_id: OpenId,
    pub profile: Profile,
    /// They resigned, or their account is frozen.
    pub left: bool,
}

/// What the vendor does for pairs that are stored.
#[async_trait]
pub trait Renewal: Send + Sync {
    /// Trades a refresh token for a new pair. Single use: once the vendor has answered, or the answer was lost, the old one is
    /// [`VendorFault::Spent`].
    async fn refresh(&self, app: &OpenApp, refresh_token: &SecretString) -> Result<Grant, VendorFault>;

    /// What the organisation's directory says of these people, as far as the app may see them; at most 50.
    async fn directory(
        &self,
        app: &OpenApp,
        tenant_key: Option<&str>,
        open_ids: &[&OpenId],
    ) -> Result<Vec<Listed>, VendorFault>;

    /// Proves that the vendor takes the app's credentials.
    async fn check(&self, app: &OpenApp) -> Result<(), VendorFault>;
}

/// What a sweep did about a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tended {
    /// Nothing was due, or somebody else is at it.
    Nothing,
    Refreshed,
    /// The vendor could not be asked; a later sweep tries again.
    PutOff,
    Warned(Notice),
    /// Only the person can help.
    Lapsed,
    Forgotten,
}

/// The use cases, over the ports they need.
pub struct UserTokens {
    pub apps: Arc<AppDirectory>,
    pub tokens: Arc<dyn TokenStore>,
    pub sessions: Arc<dyn SessionStore>,
    pub sealer: Arc<dyn Sealer>,
    pub vendor: Arc<dyn Vendor>,
    pub renewal: Arc<dyn Renewal>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    /// Access tokens that may be used until the time beside them.
    pub known: Known,
}

/// What this process remembers.
#[derive(Default)]
#[expect(missing_debug_implementations, reason = "it holds nothing but tokens")]
pub struct Known(Mutex<HashMap<(AppId, OpenId), (SecretString, OffsetDateTime)>>);

impl fmt::Debug for UserTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserTokens").finish_non_exhaustive()
    }
}

impl UserTokens {
    #[must_use]
    pub fn new<T: AppStore + TokenStore + SessionStore + 'static, V: Vendor + Renewal + 'static>(
        store: Arc<T>,
        sealer: Arc<dyn Sealer>,
        vendor: Arc<V>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Self {
        Self {
            apps: Arc::new(AppDirectory::new(store.clone(), sealer.clone())),
            tokens: store.clone(),
            sessions: store,
            sealer,
            vendor: vendor.clone(),
            renewal: vendor,
            clock,
            ids,
            known: Known::default(),
        }
    }

    /// An access token that works. `rejected` is one that the vendor did not take (99991668, 99991677): it is refreshed, unless
    /// somebody has done so.
    ///
    /// Where only the person can help the answer is [`TokenFault::AuthorizationRequired`], and [`Self::ask`] sends them a card.
    pub async fn get(
        &self,
        app_id: &AppId,
        open_id: &OpenId,
        rejected: Option<&SecretString>,
    ) -> Result<SecretString, TokenFault> {
        let now = self.clock.now();
        let app = self.apps.enabled(app_id, now).await?;
        if let Some(token) = self.known.get(app_id, open_id, now).filter(|token| differs(token, rejected)) {
            return Ok(token);
        }
        let token = self.tokens.get(app_id, open_id).await?.ok_or(TokenFault::AuthorizationRequired)?;
        let pair = self.usable(&app, token, rejected, now).await?;
        Ok(pair.access_token)
    }

    /// Sends the person a card for `scopes`, and for what they granted before, unless they were asked for the same within a day. The
    /// answer is the session of the card that they have, and whether it is a new one.
    pub async fn ask(
        &self,
        app_id: &AppId,
        open_id: &OpenId,
        tenant_key: Option<&str>,
        scopes: &[String],
    ) -> Result<(SessionId, bool), TokenFault> {
        let (now, session_id) = (self.clock.now(), self.ids.session_id());
        let session = match self.tokens.get(app_id, open_id).await? {
            Some(token) if token.lapsed.is_some() => Session::renewal(session_id, &token, scopes, Cause::Expired, now),
            Some(token) => Session::renewal(session_id, &token, scopes, Cause::MoreScopes, now),
            None => Session::first(session_id, (app_id, open_id), scopes, tenant_key, now),
        };
        Ok(match self.sessions.ask(&session).await? {
            Asked::Now => (session.session_id, true),
            Asked::Before(session_id) => (session_id, false),
        })
    }

    /// Forgets what the person granted. Other processes may use the access token for another minute; the vendor takes it for its life.
    pub async fn forget(&self, app_id: &AppId, open_id: &OpenId) -> Result<(), TokenFault> {
        for _ in 0..WRITES {
            self.known.drop(app_id, open_id);
            let Some(token) = self.tokens.get(app_id, open_id).await? else { return Ok(()) };
            self.tokens.forget(&token).await?;
        }
        // Somebody changes it all the time.
        Err(TokenFault::Busy)
    }

    /// Does what is due about one token. Called twice, or by two sweeps at once, each thing is done once.
    pub async fn tend(&self, app_id: &AppId, open_id: &OpenId) -> Result<Tended, TokenFault> {
        let Some(token) = self.tokens.get(app_id, open_id).await? else { return Ok(Tended::Nothing) };
        let now = self.clock.now();
        let app = match self.apps.enabled(app_id, now).await {
            Ok(app) => app,
            // Nobody can use the token. The token of a deleted app goes; another's is looked at once an hour, out of the others' way.
            Err(AppFault::Unknown(_)) => {
                self.tokens.forget(&token).await?;
                return Ok(Tended::Forgotten);
            }
            Err(AppFault::Disabled(_) | AppFault::Secrets(SealFault::Damaged)) => {
                return self.put_off(&UserToken { failures: 6, ..token }, now).await;
            }
            Err(fault) => return Err(fault.into()),
        };
        match token.due(now) {
            None => Ok(Tended::Nothing),
            Some(Due::Forget) => {
                self.tokens.forget(&token).await?;
                Ok(Tended::Forgotten)
            }
            // Without a refresh token nobody promised more than two hours: nobody is bothered until a call needs the token.
            Some(Due::Lapse) => self.save(&token, &token.lapse("no_refresh_token", now), None, Tended::Lapsed).await,
            Some(Due::Notice(Notice::Ended)) => {
                let ask = Session::renewal(self.ids.session_id(), &token, &[], Cause::Expired, now);
                self.save(&token, &token.lapse("authorization_ended", now), Some(&ask), Tended::Lapsed).await
            }
            Some(Due::Notice(notice)) => {
                let why = Cause::Expiring { days: notice.days() };
                let ask = Session::renewal(self.ids.session_id(), &token, &[], why, now);
                self.save(&token, &token.noticed(notice), Some(&ask), Tended::Warned(notice)).await
            }
            Some(Due::Refresh) => self.refresh_ahead(&app, token, now).await,
        }
    }

    async fn refresh_ahead(&self, app: &OpenApp, token: UserToken, now: OffsetDateTime) -> Result<Tended, TokenFault> {
        match self.tokens.lease(&token, now, now + LEASE).await? {
            Lease::Held(_) | Lease::Gone => return Ok(Tended::Nothing),
            Lease::Taken => {}
        }
        match self.refresh(app, &token, token.used_at).await {
            Ok(_) => Ok(Tended::Refreshed),
            Err(TokenFault::AuthorizationRequired) => Ok(Tended::Lapsed),
            Err(TokenFault::Vendor(fault)) => {
                tracing::warn!(lark.app_id = %token.app_id, error = %chain(&fault), "A refresh is put off");
                Ok(Tended::PutOff)
            }
            Err(fault) => Err(fault),
        }
    }

    /// The pair of `token`, or the one that takes its place.
    async fn usable(
        &self,
        app: &OpenApp,
        mut token: UserToken,
        rejected: Option<&SecretString>,
        started: OffsetDateTime,
    ) -> Result<TokenPair, TokenFault> {
        let mut pause = Pause::from_millis(20);
        loop {
            if token.lapsed.is_some() {
                return Err(TokenFault::AuthorizationRequired);
            }
            let now = self.clock.now();
            let pair = self.open(&token, now).await?;
            let accepted = differs(&pair.access_token, rejected);
            if accepted && token.is_fresh(now) {
                self.known.put(&token, &pair.access_token, now);
                return Ok(pair);
            }
            let backing_off = token.retry_at.is_some_and(|retry_at| now < retry_at);
            if accepted && backing_off && token.is_alive(now) {
                return Ok(pair);
            }
            match self.tokens.lease(&token, now, now + LEASE).await? {
                Lease::Taken => {
                    return match self.refresh(app, &token, now).await {
                        Err(TokenFault::Vendor(fault)) if accepted && token.is_alive(self.clock.now()) => {
                            tracing::warn!(error = %chain(&fault), "The pair in hand is used while it lives");
                            Ok(pair)
                        }
                        result => result,
                    };
                }
                Lease::Gone => return Err(TokenFault::AuthorizationRequired),
                Lease::Held(stored) if (&stored.session_id, stored.version) != (&token.session_id, token.version) => {
                    token = stored;
                    continue;
                }
                // Somebody refreshes ahead of time; until they are done the pair in hand does.
                Lease::Held(_) if accepted && token.is_alive(now) => return Ok(pair),
                Lease::Held(_) if now - started > PATIENCE => return Err(TokenFault::Busy),
                Lease::Held(_) => {}
            }
            self.clock.pause(pause).await;
            pause = (pause * 2).min(Pause::from_millis(400));
            let stored = self.tokens.get(&token.app_id, &token.open_id).await?;
            token = stored.ok_or(TokenFault::AuthorizationRequired)?;
        }
    }

    /// Trades the pair for a new one and stores that. The caller holds the lease; every way out ends it.
    async fn refresh(
        &self,
        app: &OpenApp,
        token: &UserToken,
        used_at: OffsetDateTime,
    ) -> Result<TokenPair, TokenFault> {
        let now = self.clock.now();
        let pair = self.open(token, now).await?;
        let Some(refresh_token) = &pair.refresh_token else {
            return self.give_up(token, "no_refresh_token", None).await;
        };
        let grant = match self.renewal.refresh(app, refresh_token).await {
            Ok(grant) => grant,
            Err(VendorFault::Spent { code, .. }) => {
                let ask = Session::renewal(self.ids.session_id(), token, &[], Cause::Expired, now);
                return self.give_up(token, &code.to_string(), Some(ask)).await;
            }
            // The person left, or may not use the app any more: a card would not help.
            Err(VendorFault::Refused { code, .. }) => return self.give_up(token, &code.to_string(), None).await,
            Err(fault) => {
                self.put_off(token, self.clock.now()).await?;
                return Err(fault.into());
            }
        };
        let now = self.clock.now();
        let sealed = grant.pair.seal(token.place(), self.sealer.as_ref()).await.map_err(TokenFault::Seal)?;
        let after = UserToken { used_at, ..token.refreshed(&grant, sealed, now) };
        if !self.store_pair(token, &after).await? {
            let stored = self.stored(token).await?;
            // A lease that ran out let somebody else in. They gave the pair up, because this process had used it: this is the new one.
            let revived = UserToken { version: stored.version + 1, ..after.clone() };
            let given_up = stored.session_id == token.session_id && stored.lapsed.is_some();
            if !given_up || !self.store_pair(&stored, &revived).await? {
                // Or the person approved once more, and theirs is the newer pair.
                return self.open(&self.stored(token).await?, now).await;
            }
        }
        self.known.put(&after, &grant.pair.access_token, now);
        self.sync_profile(app, &after, &grant.pair.access_token).await;
        Ok(grant.pair)
    }

    /// Whether the pair was stored; not if the record had changed. A store that is down for a moment must not cost the pair.
    async fn store_pair(&self, before: &UserToken, after: &UserToken) -> Result<bool, TokenFault> {
        let mut pause = Pause::from_millis(50);
        for attempt in 1.. {
            match self.tokens.replace(before, after, None).await {
                Ok(()) => return Ok(true),
                Err(PortFault::Conflict { .. }) => {
                    // An earlier attempt may have been carried out although its answer was lost.
                    let stored = self.tokens.get(&after.app_id, &after.open_id).await?;
                    return Ok(stored.is_some_and(|stored| stored.pair == after.pair));
                }
                Err(fault) if attempt == WRITES => return Err(fault.into()),
                Err(fault) => tracing::warn!(error = %chain(&fault), "A new pair is stored again"),
            }
            self.clock.pause(pause).await;
            pause *= 3;
        }
        Ok(false)
    }

    /// Parks the pair, in one step with the card that asks for another, unless the record has changed since it was read.
    async fn give_up(&self, token: &UserToken, code: &str, ask: Option<Session>) -> Result<TokenPair, TokenFault> {
        let now = self.clock.now();
        match self.tokens.replace(token, &token.lapse(code, now), ask.as_ref()).await {
            Ok(()) => {
                self.known.drop(&token.app_id, &token.open_id);
                tracing::warn!(lark.app_id = %token.app_id, lark.code = code, "An authorization has lapsed");
                Err(TokenFault::AuthorizationRequired)
            }
            Err(PortFault::Conflict { .. }) => {
                let stored = self.stored(token).await?;
                if stored.lapsed.is_some() {
                    return Err(TokenFault::AuthorizationRequired);
                }
                self.open(&stored, now).await
            }
            Err(fault) => Err(fault.into()),
        }
    }

    async fn stored(&self, token: &UserToken) -> Result<UserToken, TokenFault> {
        let stored = self.tokens.get(&token.app_id, &token.open_id).await?;
        stored.ok_or(TokenFault::AuthorizationRequired)
    }

    async fn put_off(&self, token: &UserToken, now: OffsetDateTime) -> Result<Tended, TokenFault> {
        self.save(token, &token.put_off(now), None, Tended::PutOff).await
    }

    /// Stores a change unless the record has changed: then whoever changed it has seen to it.
    async fn save(
        &self,
        before: &UserToken,
        after: &UserToken,
        ask: Option<&Session>,
        done: Tended,
    ) -> Result<Tended, TokenFault> {
        match self.tokens.replace(before, after, ask).await {
            Ok(()) => Ok(done),
            Err(PortFault::Conflict { .. }) => Ok(Tended::Nothing),
            Err(fault) => Err(fault.into()),
        }
    }

    /// A profile that cannot be had now is had at the next refresh.
    async fn sync_profile(&self, app: &OpenApp, token: &UserToken, access_token: &SecretString) {
        match self.vendor.profile(app, access_token).await {
            Ok((_, profile)) => {
                if let Some(after) = token.with_profile(profile)
                    && let Err(fault) = self.tokens.replace(token, &after, None).await
                {
                    tracing::warn!(error = %chain(&fault), "A profile was not stored");
                }
            }
            Err(fault) => tracing::info!(error = %chain(&fault), "A profile was not read"),
        }
    }

    /// A record that was swapped, cut or altered does not open. It is reported and parked, and the person authorizes again.
    async fn open(&self, token: &UserToken, now: OffsetDateTime) -> Result<TokenPair, TokenFault> {
        match TokenPair::open(token, self.sealer.as_ref()).await {
            Err(SealFault::Damaged) => {
                tracing::error!(lark.app_id = %token.app_id, lark.open_id = %token.open_id, "A stored token does not open");
                let ask = Session::renewal(self.ids.session_id(), token, &[], Cause::Expired, now);
                self.save(token, &token.lapse("damaged", now), Some(&ask), Tended::Lapsed).await?;
                Err(TokenFault::AuthorizationRequired)
            }
            opened => opened.map_err(TokenFault::Seal),
        }
    }
}

impl Known {
    fn get(&self, app_id: &AppId, open_id: &OpenId, now: OffsetDateTime) -> Option<SecretString> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (token, until) = known.get(&(app_id.clone(), open_id.clone()))?;
        (now < *until).then(|| token.clone())
    }

    fn put(&self, token: &UserToken, access_token: &SecretString, now: OffsetDateTime) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        let until = token.stale_at().min(now + REMEMBERED_FOR);
        known.insert((token.app_id.clone(), token.open_id.clone()), (access_token.clone(), until));
    }

    fn drop(&self, app_id: &AppId, open_id: &OpenId) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&(app_id.clone(), open_id.clone()));
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenFault {
    #[error("the app cannot be used")]
    App(#[from] AppFault),
    #[error("the person has to authorize the app")]
    AuthorizationRequired,
    #[error("another process has been refreshing the token")]
    Busy,
    #[error("the vendor could not be asked")]
    Vendor(#[from] VendorFault),
    #[error("the tokens could not be sealed or opened")]
    Seal(#[source] SealFault),
    #[error("a store failed")]
    Store(#[from] PortFault),
}

impl Fault for TokenFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::App(fault) => fault.remedy(),
            Self::AuthorizationRequired => Remedy::Deny(Denial::Unauthenticated),
            Self::Busy => Remedy::Retry,
            Self::Vendor(fault) => fault.remedy(),
            Self::Seal(fault) => fault.remedy(),
            Self::Store(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::App(fault) => fault.code(),
            Self::AuthorizationRequired => "authorization_required",
            Self::Busy => "unavailable",
            Self::Vendor(fault) => fault.code(),
            Self::Seal(fault) => fault.code(),
            Self::Store(fault) => fault.code(),
        }
    }
}
