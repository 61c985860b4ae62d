//! The authorization server: who gets a token, and whose are ended. Failures, repetitions and limits go to the audit log (target
//! `audit`), never with a secret.

use std::collections::BTreeSet;
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use time::{Duration, OffsetDateTime};

use super::{Client, ClientStore, FAMILY_LIFE, Family, FamilyStore, Presented, RefreshSeal, RefreshToken};
use crate::access::{AccessFault, AccessToken, AccessTokenVerifier, Caller, PublicKey, Scope, TokenSigner};
use crate::fault::{Denial, Fault, PortFault, Refusal, Remedy};
use crate::id::{ClientId, FamilyId, TenantId, UserId};
use crate::limit::{Limit, LimitFault, Limiter};
use crate::push::{PushJob, PushQueue};
use crate::seal::SealFault;
use crate::socket::Holder;

/// How often a client, and a user, may come here, and how often one address may fail here. A client with a rate of its own has that.
pub const AUTH_LIMIT: Limit = Limit::per_minute(5);

/// A refresh that loses a race reads what the winner left, which ends it; a few tries are plenty.
const TRIES: u32 = 3;

/// The request around a call.
#[derive(Debug, Clone, Copy)]
pub struct Visit<'a> {
    /// Base URL of the deployment.
    pub issuer: &'a str,
    /// The caller's address.
    pub source: &'a str,
    pub now: OffsetDateTime,
}

/// What a client proves itself with.
#[derive(Debug)]
pub struct Credentials {
    pub client_id: String,
    pub client_secret: SecretString,
}

/// Random values for one answer.
#[derive(Debug)]
pub struct Fresh {
    pub family_id: FamilyId,
    pub anchor: SecretString,
    pub secret: SecretString,
    pub token_id: String,
}

/// What a client is given.
#[derive(Debug)]
pub struct Tokens {
    pub access_token: SecretString,
    pub refresh_token: SecretString,
    pub scopes: BTreeSet<Scope>,
    /// How long the access token is good.
    pub expires_in: Duration,
}

/// What is told of a token that is active.
#[derive(Debug, PartialEq, Eq)]
pub struct Introspection {
    pub token_type: &'static str,
    pub client_id: ClientId,
    pub user_id: UserId,
    pub tenant_id: TenantId,
    pub scopes: BTreeSet<Scope>,
    pub session_id: FamilyId,
    pub expires_at: OffsetDateTime,
}

/// The server over its ports.
pub struct AuthorizationServer {
    pub clients: Arc<dyn ClientStore>,
    pub families: Arc<dyn FamilyStore>,
    pub limiter: Arc<dyn Limiter>,
    pub seal: Arc<dyn RefreshSeal>,
    pub signer: Arc<dyn TokenSigner>,
    /// Who closes the sockets of a login that ends.
    pub push: Arc<dyn PushQueue>,
    pub verifier: Arc<dyn AccessTokenVerifier>,
}

impl std::fmt::Debug for AuthorizationServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthorizationServer").finish_non_exhaustive()
    }
}

impl AuthorizationServer {
    /// Starts a family for the client. Asked again, it starts another.
    pub async fn client_credentials(
        &self,
        visit: Visit<'_>,
        credentials: &Credentials,
        scope: Option<&str>,
        fresh: Fresh,
    ) -> Result<Tokens, OauthFault> {
        let client = self.authenticate(visit, credentials).await?;
        let scopes = requested(scope, &client.scopes)?;
        let token = RefreshToken::compose(&fresh.family_id, &fresh.anchor, &fresh.secret);
        let family = Family {
            family_id: fresh.family_id,
            client_id: client.client_id.clone(),
            user_id: client.user_id.clone(),
            tenant_id: client.tenant_id.clone(),
            scopes: scopes.clone(),
            anchor: self.seal.hash(fresh.anchor.expose_secret()),
            current: self.seal.hash(token.text.expose_secret()),
            counter: 0,
            retired: Vec::new(),
            created_at: visit.now,
            expires_at: visit.now + FAMILY_LIFE,
            revoked_at: None,
        };
        let access_token = self.sign(visit, &client, &family, &scopes, fresh.token_id).await?;
        self.families.create(&family).await?;
        Ok(Tokens { access_token, refresh_token: token.text, scopes, expires_in: family.access_life(visit.now) })
    }

    /// Exchanges a refresh token for its successor. A second time within [`super::GRACE`] gives the same successor; a later use, or one
    /// by another client, ends the family. Without credentials the token itself is the proof.
    pub async fn refresh(
        &self,
        visit: Visit<'_>,
        credentials: Option<&Credentials>,
        token: &str,
        scope: Option<&str>,
        fresh: Fresh,
    ) -> Result<Tokens, OauthFault> {
        let authenticated = match credentials {
            Some(credentials) => Some(self.authenticate(visit, credentials).await?),
            None => None,
        };
        let Some((token, mut family)) = self.family_of(token).await? else {
            return Err(self.failed(visit, None, OauthFault::InvalidGrant).await);
        };
        let client = match authenticated {
            Some(client) if client.client_id != family.client_id => return Err(self.reused(visit, &family).await?),
            Some(client) => client,
            None => {
                let client = self.clients.get(&family.client_id).await?.filter(|client| !client.disabled);
                let client = client.ok_or(OauthFault::InvalidGrant)?;
                self.admit(visit, &client).await?;
                client
            }
        };
        let hash = self.seal.hash(token.text.expose_secret());
        let anchor = self.seal.hash(token.anchor.expose_secret());
        let scopes = requested(scope, &family.scopes.intersection(&client.scopes).copied().collect())?;
        let successor = token.successor(&fresh.secret);
        // Signed before the exchange: if signing fails, the client still has a token that it can use.
        let mut signed = None;
        for _ in 0..TRIES {
            let refresh_token = match family.present(&anchor, &hash, visit.now) {
                Presented::Foreign | Presented::Ended => {
                    return Err(self.failed(visit, Some(&family.client_id), OauthFault::InvalidGrant).await);
                }
                Presented::Reused => return Err(self.reused(visit, &family).await?),
                presented => presented,
            };
            let access_token = match signed.take() {
                Some(access_token) => access_token,
                None => self.sign(visit, &client, &family, &scopes, fresh.token_id.clone()).await?,
            };
            if let Presented::Repeated(sealed) = refresh_token {
                let refresh_token = self.seal.open(&token, &sealed)?;
                return Ok(Tokens { access_token, refresh_token, scopes, expires_in: family.access_life(visit.now) });
            }
            let sealed = self.seal.seal(&token, &successor)?;
            let next = family.rotated(self.seal.hash(successor.text.expose_secret()), sealed, visit.now);
            match self.families.rotate(&next).await {
                Ok(()) => {
                    let expires_in = family.access_life(visit.now);
                    return Ok(Tokens { access_token, refresh_token: successor.text, scopes, expires_in });
                }
                Err(PortFault::Conflict { .. }) => signed = Some(access_token),
                Err(fault) => return Err(fault.into()),
            }
            family = self.families.get(&family.family_id).await?.ok_or(OauthFault::InvalidGrant)?;
        }
        Err(PortFault::Conflict { operation: "rotate family" }.into())
    }

    /// Ends the family of a token. Who has the token may end it; a client that says who it is ends only its own. Unknown tokens are
    /// ended already (RFC 7009, 2.2).
    pub async fn revoke(
        &self,
        visit: Visit<'_>,
        credentials: Option<&Credentials>,
        token: &str,
    ) -> Result<(), OauthFault> {
        let client = match credentials {
            Some(credentials) => Some(self.authenticate(visit, credentials).await?),
            None => None,
        };
        let found = match self.family_of(token).await? {
            Some((_, family)) => Some((login(&family), family.client_id)),
            None => self.caller(token, visit.now).await?.map(|caller| (Holder::of(&caller), caller.client_id)),
        };
        match found {
            Some((login, owner)) if client.as_ref().is_none_or(|client| client.client_id == owner) => {
                self.end(&login, visit.now).await?;
                tracing::info!(
                    target: "audit", audit = "token.revoked", client.id = %owner, token.family = %login.session_id,
                    source = visit.source, "Client `{owner}` ended its login"
                );
                Ok(())
            }
            // Somebody without credentials who tries tokens out.
            None if client.is_none() => match self.failed(visit, None, OauthFault::InvalidGrant).await {
                OauthFault::InvalidGrant => Ok(()),
                limited => Err(limited),
            },
            _ => Ok(()),
        }
    }

    /// What a token is worth now. Clients see the tokens of their own tenant only; nothing is told of any other.
    pub async fn introspect(
        &self,
        visit: Visit<'_>,
        credentials: &Credentials,
        token: &str,
    ) -> Result<Option<Introspection>, OauthFault> {
        let asking = self.authenticate(visit, credentials).await?;
        let found = match self.family_of(token).await? {
            Some((token, family)) => {
                let current = family.current.matches(&self.seal.hash(token.text.expose_secret()));
                current.then(|| ("refresh_token", family.expires_at, family.scopes.clone(), family))
            }
            None => match self.caller(token, visit.now).await? {
                Some(caller) => {
                    let family = self.families.get(&caller.session_id).await?;
                    family.map(|family| ("Bearer", caller.expires_at, caller.scopes, family))
                }
                None => None,
            },
        };
        let Some((token_type, expires_at, scopes, family)) = found else { return Ok(None) };
        if family.tenant_id != asking.tenant_id || !family.is_active(visit.now) {
            return Ok(None);
        }
        let owner = self.clients.get(&family.client_id).await?;
        let active = owner.is_some_and(|client| !client.disabled);
        let Family { family_id: session_id, client_id, user_id, tenant_id, .. } = family;
        let told = Introspection { token_type, client_id, user_id, tenant_id, scopes, session_id, expires_at };
        Ok(active.then_some(told))
    }

    /// The keys that access tokens can be verified with.
    pub async fn public_keys(&self) -> Result<Vec<PublicKey>, OauthFault> {
        Ok(self.signer.public_keys().await?)
    }

    /// The client behind credentials. An unknown client, a wrong secret and a disabled client are one failure and take the same steps.
    async fn authenticate(&self, visit: Visit<'_>, credentials: &Credentials) -> Result<Client, OauthFault> {
        let hash = self.seal.hash(credentials.client_secret.expose_secret());
        let client = match ClientId::parse(credentials.client_id.as_str()) {
            Ok(client_id) => self.clients.get(&client_id).await?,
            Err(_) => None,
        };
        match client {
            Some(client) if client.accepts(&hash) && !client.disabled => {
                self.admit(visit, &client).await?;
                Ok(client)
            }
            client => {
                let known = client.as_ref().map(|client| &client.client_id);
                Err(self.failed(visit, known, OauthFault::InvalidClient).await)
            }
        }
    }

    /// Counts a request of a known client.
    async fn admit(&self, visit: Visit<'_>, client: &Client) -> Result<(), OauthFault> {
        let limit = client.rate.map_or(AUTH_LIMIT, Limit::per_minute);
        for key in
            [format!("auth:client:{}", client.client_id), format!("auth:user:{}:{}", client.tenant_id, client.user_id)]
        {
            self.limiter.take(&key, limit, visit.now).await.inspect_err(|fault| {
                if let LimitFault::Exhausted { .. } = fault {
                    tracing::warn!(
                        target: "audit", audit = "auth.limited", client.id = %client.client_id, source = visit.source,
                        "Client `{}` comes too often", client.client_id
                    );
                }
            })?;
        }
        Ok(())
    }

    /// Counts a failure of an address that nobody vouches for, and says what to answer. It does not lock out clients that prove who
    /// they are: their secrets cannot be guessed, but their names and addresses can be borrowed.
    async fn failed(&self, visit: Visit<'_>, client: Option<&ClientId>, fault: OauthFault) -> OauthFault {
        // A name that is not known may be anything, a secret in the wrong field as well: it is not repeated.
        let who = client.map_or("unknown", ClientId::as_str);
        tracing::warn!(
            target: "audit", audit = "auth.failed", client.id = who, source = visit.source, error.code = fault.code(),
            "A request for tokens failed: {fault}"
        );
        match self.limiter.take(&format!("auth:source:{}", visit.source), AUTH_LIMIT, visit.now).await {
            Ok(()) => fault,
            Err(limited) => limited.into(),
        }
    }

    /// Ends a login. Its sockets go first: whoever dies in between has closed too much, and left nothing open.
    async fn end(&self, login: &Holder, now: OffsetDateTime) -> Result<(), OauthFault> {
        let once = format!("close.{}.{}", login.session_id, now.unix_timestamp());
        self.push.tell(&PushJob::Close(login.clone()), &once).await?;
        Ok(self.families.revoke(&login.session_id, now).await?)
    }

    /// Ends a family of which a copy is about.
    async fn reused(&self, visit: Visit<'_>, family: &Family) -> Result<OauthFault, OauthFault> {
        self.end(&login(family), visit.now).await?;
        tracing::warn!(
            target: "audit", audit = "token.reuse", client.id = %family.client_id, token.family = %family.family_id,
            source = visit.source, "A refresh token of client `{}` was used again; its login is ended", family.client_id
        );
        Ok(OauthFault::InvalidGrant)
    }

    /// The family of a refresh token that is, or was, genuine.
    async fn family_of(&self, token: &str) -> Result<Option<(RefreshToken, Family)>, OauthFault> {
        let Some(token) = RefreshToken::parse(token) else { return Ok(None) };
        let family = self.families.get(&token.family_id).await?;
        let anchor = self.seal.hash(token.anchor.expose_secret());
        Ok(family.filter(|family| family.anchor.matches(&anchor)).map(|family| (token, family)))
    }

    /// Whom an access token speaks for, if it is valid.
    async fn caller(&self, token: &str, now: OffsetDateTime) -> Result<Option<Caller>, OauthFault> {
        match self.verifier.verify(token, now).await {
            Ok(caller) => Ok(Some(caller)),
            Err(AccessFault::Keys(fault)) => Err(fault.into()),
            Err(_) => Ok(None),
        }
    }

    async fn sign(
        &self,
        visit: Visit<'_>,
        client: &Client,
        family: &Family,
        scopes: &BTreeSet<Scope>,
        token_id: String,
    ) -> Result<SecretString, OauthFault> {
        let caller = Caller {
            client_id: family.client_id.clone(),
            user_id: family.user_id.clone(),
            tenant_id: family.tenant_id.clone(),
            scopes: scopes.clone(),
            session_id: family.family_id.clone(),
            expires_at: visit.now + family.access_life(visit.now),
            rate: client.rate,
        };
        let token = AccessToken { issuer: visit.issuer.to_owned(), caller, issued_at: visit.now, token_id };
        Ok(self.signer.sign(&token).await?)
    }
}

/// The scopes that are asked for, all of them allowed; all that are allowed if none are asked for.
fn login(family: &Family) -> Holder {
    Holder {
        tenant_id: family.tenant_id.clone(),
        user_id: family.user_id.clone(),
        session_id: family.family_id.clone(),
    }
}

fn requested(scope: Option<&str>, allowed: &BTreeSet<Scope>) -> Result<BTreeSet<Scope>, OauthFault> {
    let names = scope.unwrap_or_default().split(' ').filter(|name| !name.is_empty());
    let asked = names.map(|name| Scope::parse(name).filter(|scope| allowed.contains(scope)));
    let asked: BTreeSet<Scope> = asked.collect::<Option<_>>().ok_or(OauthFault::InvalidScope)?;
    let scopes = if asked.is_empty() { allowed.clone() } else { asked };
    if scopes.is_empty() { Err(OauthFault::InvalidScope) } else { Ok(scopes) }
}

/// Why there is no token. The codes are those of RFC 6749 (5.2).
#[derive(Debug, thiserror::Error)]
pub enum OauthFault {
    #[error("{0}")]
    InvalidRequest(String),
    #[error("`grant_type` must be `client_credentials` or `refresh_token`")]
    UnsupportedGrantType,
    #[error("the client is unknown, disabled, or its secret is wrong")]
    InvalidClient,
    #[error("the refresh token is unknown, expired, used already or revoked")]
    InvalidGrant,
    #[error("`scope` names a scope that does not exist or that this client may not have")]
    InvalidScope,
    #[error(transparent)]
    Limit(#[from] LimitFault),
    #[error("a sealed successor does not open")]
    Seal(#[from] SealFault),
    #[error("a store or the signing key failed")]
    Port(#[from] PortFault),
}

impl Fault for OauthFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::InvalidRequest(_) | Self::UnsupportedGrantType | Self::InvalidGrant | Self::InvalidScope => {
                Remedy::Reject(Refusal::Invalid)
            }
            Self::InvalidClient => Remedy::Deny(Denial::Unauthenticated),
            Self::Limit(fault) => fault.remedy(),
            Self::Seal(SealFault::KeyService(fault)) | Self::Port(fault) => fault.remedy(),
            Self::Seal(SealFault::Damaged) => Remedy::Bug,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::InvalidRequest(_) => "invalid_request",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant => "invalid_grant",
            Self::InvalidScope => "invalid_scope",
            Self::Limit(LimitFault::Exhausted { .. }) => "rate_limited",
            Self::Limit(LimitFault::Store(_)) | Self::Seal(_) | Self::Port(_) => match self.remedy() {
                Remedy::Bug => "server_error",
                _ => "temporarily_unavailable",
            },
        }
    }

    fn challenge(&self) -> Option<String> {
        matches!(self, Self::InvalidClient).then(|| r#"Basic realm="skylark", charset="UTF-8""#.to_owned())
    }
}
