//! The vendor behind the domain's port: tokens, profiles and cards of every app, through one HTTP client.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use domain::app::{AppKind, Brand, OpenApp};
use domain::authorize::{Approval, CardView, Vendor, VendorFault};
use domain::clock::Clock;
use domain::id::{ChatId, MessageId, OpenId};
use domain::seal::Sealer;
use domain::session::{CardStyle, Cause, Session, SessionStatus};
use domain::tenant_token::{Mint, Minted, OWN_TENANT, TenantTokenStore, TenantTokens};
use domain::token::{Grant, Profile, TokenPair};
use domain::user_tokens::{Listed, Renewal};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use url::Url;

use crate::callback::CardToken;
use crate::card::{Authorization, Bilingual, Card, CardError, Detail, Scope, State};
use crate::client::{ApiError, Client, ClientConfig, CodeExchange, OutgoingMessage, Receiver, UserTokens};
use crate::code::{Class, Token};

/// How long one step may take, retries and waiting included; well inside the time-outs of the functions that call it.
const PATIENCE: Duration = Duration::from_secs(8);

/// A refresh is worth more patience: its answer cannot be had twice.
const REFRESH_PATIENCE: Duration = Duration::from_secs(14);

/// The vendor's code for a ticket that is not the newest.
const TICKET_REFUSED: i64 = 10_012;

/// Recalled, deleted, its chat dissolved: nothing updates such a card.
const GONE: [i64; 3] = [230_011, 230_110, 232_009];

/// Where each app's Open Platform is.
#[derive(Debug, Clone)]
struct Hosts {
    base: Option<Url>,
    client: Client,
}

impl Hosts {
    fn client(&self, app: &OpenApp) -> Result<Client, VendorFault> {
        let open = match &self.base {
            Some(base) => base.clone(),
            None => app.app.brand.open_base().parse().map_err(|cause: url::ParseError| misconfigured(&cause))?,
        };
        Ok(self.client.at(open))
    }
}

#[async_trait]
impl Mint for Hosts {
    async fn tenant_token(
        &self,
        app: &OpenApp,
        tenant_key: &str,
        ticket: Option<&SecretString>,
    ) -> Result<Minted, VendorFault> {
        let (client, deadline) = (self.client(app)?, Instant::now() + PATIENCE);
        let (app_id, app_secret) = (app.app.app_id.as_str(), &app.secrets.app_secret);
        let minted = match (app.app.kind, ticket) {
            (AppKind::Custom, _) => client.tenant_access_token(app_id, app_secret, deadline).await,
            (AppKind::Store, Some(ticket)) => {
                match client.app_access_token(app_id, app_secret, ticket, deadline).await {
                    Ok(app_token) => client.tenant_access_token_of(&app_token, tenant_key, deadline).await,
                    Err(error) if error.code() == Some(TICKET_REFUSED) => {
                        client.resend_app_ticket(app_id, app_secret, deadline).await.map_err(fault)?;
                        return Err(VendorFault::Unavailable("a new app ticket is awaited".into()));
                    }
                    Err(error) => Err(error),
                }
            }
            (AppKind::Store, None) => {
                client.resend_app_ticket(app_id, app_secret, deadline).await.map_err(fault)?;
                return Err(VendorFault::Unavailable("the first app ticket is awaited".into()));
            }
        };
        let minted = minted.map_err(fault)?;
        Ok(Minted { token: minted.token, expires_in: seconds(minted.expires_in_secs) })
    }
}

/// Every app's vendor.
pub struct LarkVendor {
    hosts: Hosts,
    tenant_tokens: TenantTokens,
}

impl fmt::Debug for LarkVendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LarkVendor").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

impl LarkVendor {
    /// `base` replaces the vendor's own hosts, for every app.
    pub fn new(
        base: Option<&str>,
        store: Arc<dyn TenantTokenStore>,
        sealer: Arc<dyn Sealer>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, url::ParseError> {
        let open = base.unwrap_or(Brand::Feishu.open_base()).parse()?;
        let base = base.map(str::parse).transpose()?;
        let hosts = Hosts { base, client: Client::new(ClientConfig::new(open)) };
        let tenant_tokens = TenantTokens::new(store, sealer, Arc::new(hosts.clone()), clock);
        Ok(Self { hosts, tenant_tokens })
    }

    /// The client for this app's platform.
    pub fn client(&self, app: &OpenApp) -> Result<Client, VendorFault> {
        self.hosts.client(app)
    }

    /// Makes a call with the tenant token; a token that the vendor rejects is replaced and the call made once more.
    pub async fn as_tenant<T, F>(
        &self,
        app: &OpenApp,
        tenant_key: Option<&str>,
        patience: Duration,
        call: impl Fn(SecretString, Instant) -> F,
    ) -> Result<T, AsTenantError>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        let deadline = Instant::now() + patience;
        let tenant_key = match app.app.kind {
            AppKind::Custom => OWN_TENANT,
            AppKind::Store => tenant_key.unwrap_or(OWN_TENANT),
        };
        let token = self.tenant_tokens.get(app, tenant_key, None).await.map_err(AsTenantError::NoToken)?;
        match call(token.clone(), deadline).await {
            Err(error) if error.class() == Class::TokenInvalid(Token::Tenant) => {
                let other = self.tenant_tokens.get(app, tenant_key, Some(&token)).await;
                let other = other.map_err(AsTenantError::NoToken)?;
                call(other, deadline).await.map_err(AsTenantError::Call)
            }
            result => result.map_err(AsTenantError::Call),
        }
    }
}

/// Why a call in an app's own name failed.
#[derive(Debug, thiserror::Error)]
pub enum AsTenantError {
    #[error("there is no tenant token")]
    NoToken(#[source] VendorFault),
    #[error(transparent)]
    Call(#[from] ApiError),
}

impl From<AsTenantError> for VendorFault {
    fn from(error: AsTenantError) -> Self {
        match error {
            AsTenantError::NoToken(fault) => fault,
            AsTenantError::Call(error) => fault(error),
        }
    }
}

#[async_trait]
impl Vendor for LarkVendor {
    async fn exchange(&self, app: &OpenApp, approval: &Approval) -> Result<Grant, VendorFault> {
        let exchange = CodeExchange {
            client_id: app.app.app_id.as_str(),
            client_secret: &app.secrets.app_secret,
            code: &approval.code,
            redirect_uri: approval.attempt.as_ref().map(|(_, redirect)| redirect.as_str()),
            code_verifier: approval.attempt.as_ref().map(|(verifier, _)| verifier),
        };
        let tokens = self.client(app)?.exchange_code(exchange, Instant::now() + PATIENCE).await;
        tokens.map(grant).map_err(fault)
    }

    async fn profile(&self, app: &OpenApp, access_token: &SecretString) -> Result<(OpenId, Profile), VendorFault> {
        let info = self.client(app)?.user_info(access_token, Instant::now() + PATIENCE).await.map_err(fault)?;
        let open_id = OpenId::parse(info.open_id).map_err(|cause| VendorFault::Unavailable(cause.into()))?;
        let profile = Profile {
            tenant_key: info.tenant_key.unwrap_or_default(),
            union_id: info.union_id,
            user_id: info.user_id,
            name: info.name,
            email: info.email,
            mobile: info.mobile,
        };
        Ok((open_id, profile))
    }

    async fn send_card(&self, app: &OpenApp, view: CardView<'_>) -> Result<MessageId, VendorFault> {
        let (client, session, message) = (&self.client(app)?, view.session, &first_message(view)?);
        let sent = self
            .as_tenant(app, session.tenant_key.as_deref(), PATIENCE, async |token, deadline| {
                let receiver = Receiver::OpenId(session.open_id.as_str());
                client.send_message(&token, receiver, message, session.session_id.as_str(), deadline).await
            })
            .await?;
        MessageId::parse(sent.message_id).map_err(|cause| VendorFault::Unavailable(cause.into()))
    }

    async fn update_card(
        &self,
        app: &OpenApp,
        message_id: &MessageId,
        view: CardView<'_>,
        click: Option<&SecretString>,
    ) -> Result<(), VendorFault> {
        let (client, card) = (&self.client(app)?, &card(view)?);
        let tenant_key = view.session.tenant_key.as_deref();
        let patched = self
            .as_tenant(app, tenant_key, PATIENCE, async |token, deadline| {
                client.patch_card(&token, message_id.as_str(), card, deadline).await
            })
            .await;
        let refused = match (patched.map_err(VendorFault::from), click) {
            (Err(VendorFault::Refused { code, .. }), Some(click)) if !GONE.contains(&code) => click,
            (patched, _) => return patched,
        };
        let update_token = &CardToken::new(refused.expose_secret().to_owned());
        let updated = self.as_tenant(app, tenant_key, PATIENCE, async |token, deadline| {
            client.delayed_card_update(&token, update_token, card, &[], deadline).await
        });
        Ok(updated.await?)
    }

    async fn tell_operators(&self, app: &OpenApp, chat_id: &ChatId, session: &Session) -> Result<(), VendorFault> {
        let (client, message) = (&self.client(app)?, &OutgoingMessage::text(&operators_text(app, session)));
        // Not the key of the card, which goes to the person.
        let key = &format!("{}-op", session.session_id);
        self.as_tenant(app, session.tenant_key.as_deref(), PATIENCE, async |token, deadline| {
            client.send_message(&token, Receiver::ChatId(chat_id.as_str()), message, key, deadline).await
        })
        .await?;
        Ok(())
    }
}

#[async_trait]
impl Renewal for LarkVendor {
    async fn refresh(&self, app: &OpenApp, refresh_token: &SecretString) -> Result<Grant, VendorFault> {
        let (app_id, app_secret) = (app.app.app_id.as_str(), &app.secrets.app_secret);
        let deadline = Instant::now() + REFRESH_PATIENCE;
        let tokens = self.client(app)?.refresh(app_id, app_secret, refresh_token, deadline).await;
        tokens.map(grant).map_err(fault)
    }

    async fn directory(
        &self,
        app: &OpenApp,
        tenant_key: Option<&str>,
        open_ids: &[&OpenId],
    ) -> Result<Vec<Listed>, VendorFault> {
        let client = &self.client(app)?;
        let open_ids: &Vec<&str> = &open_ids.iter().map(|id| id.as_str()).collect();
        let users = self
            .as_tenant(app, tenant_key, PATIENCE, async |token, deadline| {
                client.users(&token, open_ids, deadline).await
            })
            .await?;
        let listed = users.into_iter().filter_map(|user| {
            let open_id = OpenId::parse(user.open_id).ok()?;
            let profile = Profile {
                tenant_key: tenant_key.unwrap_or_default().to_owned(),
                union_id: user.union_id,
                user_id: user.user_id,
                name: user.name,
                email: user.email,
                mobile: user.mobile,
            };
            Some(Listed { open_id, profile, left: user.status.is_resigned || user.status.is_frozen })
        });
        Ok(listed.collect())
    }

    async fn check(&self, app: &OpenApp) -> Result<(), VendorFault> {
        match app.app.kind {
            AppKind::Custom => self.tenant_tokens.get(app, OWN_TENANT, None).await.map(drop),
            // It has no tenant of its own to ask for.
            AppKind::Store => Ok(()),
        }
    }
}

fn grant(tokens: UserTokens) -> Grant {
    Grant {
        pair: TokenPair { access_token: tokens.access_token, refresh_token: tokens.refresh_token },
        scopes: tokens.scopes,
        expires_in: seconds(tokens.expires_in_secs),
        refresh_expires_in: tokens.refresh_token_expires_in_secs.map(seconds),
    }
}

/// The card, or the app's own template with what it needs to ask the same.
fn first_message(view: CardView<'_>) -> Result<OutgoingMessage, VendorFault> {
    let session = view.session;
    let Some(template_id) = &session.template_id else { return Ok(OutgoingMessage::card(&card(view)?)) };
    let variables = json!({
        "app_name": view.app_name,
        "session_id": session.session_id,
        "authorize_url": view.authorize_url,
        "reason": session.reason.as_deref().unwrap_or_default(),
        "scopes": session.scopes.join(", "),
        "privacy_url": view.privacy_url.map(Url::as_str).unwrap_or_default(),
        "valid_minutes": (session.expires_at - session.created_at).whole_minutes().to_string(),
    });
    Ok(OutgoingMessage::template(template_id, &variables))
}

/// Why the person gets a card that nobody asked for.
fn occasion(app_name: &str, why: Cause) -> Option<Bilingual> {
    let (zh_cn, en_us) = match why {
        Cause::Requested => return None,
        Cause::Expiring { days } => (
            format!("您对 {app_name} 的授权将在 {days} 天后到期。现在续期，即可继续使用。"),
            format!("Your authorization of {app_name} ends in {days} days. Renew it now to keep using it."),
        ),
        Cause::Expired => (
            format!("您对 {app_name} 的授权已到期。重新授权后即可继续使用。"),
            format!("Your authorization of {app_name} has expired. Renew it to keep using it."),
        ),
        Cause::MoreScopes => (
            format!("{app_name} 需要您授予更多权限，才能完成您要的操作。"),
            format!("{app_name} needs more permissions to do what you asked for."),
        ),
    };
    Some(Bilingual { zh_cn: zh_cn.into(), en_us: en_us.into() })
}

fn operators_text(app: &OpenApp, session: &Session) -> String {
    let (name, open_id) = (&app.app.name, &session.open_id);
    match session.why {
        Cause::Expiring { days } => format!(
            "{name}: 用户 {open_id} 的授权将在 {days} 天后到期，已发送续期卡片。\n\
             {name}: the authorization of {open_id} ends in {days} days; a card was sent to renew it."
        ),
        _ => format!(
            "{name}: 用户 {open_id} 的授权已到期，已发送重新授权卡片。\n\
             {name}: the authorization of {open_id} has expired; a card was sent to renew it."
        ),
    }
}

/// The card that a session's state asks for.
fn card(view: CardView<'_>) -> Result<Card, VendorFault> {
    let session = view.session;
    let scopes: Vec<Scope> =
        session.scopes.iter().map(|name| Scope { name: name.clone(), description: None }).collect();
    let occasion = occasion(view.app_name, session.why);
    let authorization = Authorization {
        app_name: view.app_name,
        title: None,
        occasion: occasion.as_ref(),
        purpose: session.reason.as_deref(),
        scopes: &scopes,
        detail: match session.style {
            CardStyle::Detailed => Detail::Detailed,
            CardStyle::Concise => Detail::Concise,
        },
        privacy_url: view.privacy_url,
    };
    let authorize_url = Url::parse(view.authorize_url).map_err(|cause| misconfigured(&cause))?;
    let reason = failure(session);
    let state = match session.status {
        SessionStatus::Pending => State::Pending {
            session_id: session.session_id.as_str(),
            authorize_url: &authorize_url,
            valid_minutes: u32::try_from((session.expires_at - session.created_at).whole_minutes()).unwrap_or_default(),
        },
        SessionStatus::Completed => State::Completed { user_name: None },
        SessionStatus::Rejected => State::Rejected,
        SessionStatus::Expired => State::Expired,
        SessionStatus::Failed => State::Failed { reason: &reason },
    };
    authorization.card(&state).map_err(|cause: CardError| misconfigured(&cause))
}

/// What a failed session tells the person. The vendor's code helps whoever they ask.
fn failure(session: &Session) -> Bilingual {
    let code = session.failure.as_deref().unwrap_or("unknown");
    Bilingual {
        zh_cn: format!("授权链接已失效或已被使用,请重新获取卡片(代码 {code})").into(),
        en_us: format!("the approval was used or no longer valid; ask for a new card (code {code})").into(),
    }
}

fn seconds(secs: u64) -> time::Duration {
    time::Duration::seconds(i64::try_from(secs).unwrap_or(i64::MAX))
}

fn misconfigured(cause: &dyn std::error::Error) -> VendorFault {
    VendorFault::Misconfigured { code: 0, message: cause.to_string() }
}

fn fault(error: ApiError) -> VendorFault {
    let code = error.code().unwrap_or_default();
    match error.class() {
        Class::RateLimited | Class::Transient => VendorFault::Unavailable(Box::new(error)),
        Class::Reauthorize => VendorFault::Spent { code, message: error.to_string() },
        Class::Config | Class::Bug => VendorFault::Misconfigured { code, message: error.to_string() },
        _ => VendorFault::Refused { code, message: error.to_string() },
    }
}
