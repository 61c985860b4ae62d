//! The vendor behind the domain's port: tokens, profiles and cards of every app, through one HTTP client.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use domain::app::{Brand, OpenApp};
use domain::authorize::{Approval, CardView, Grant, Vendor, VendorFault};
use domain::id::{AppId, MessageId, OpenId};
use domain::session::{CardStyle, Session, SessionStatus};
use domain::token::{Profile, TokenPair};
use secrecy::SecretString;
use url::Url;

use crate::card::{Authorization, Bilingual, Card, CardError, Detail, Scope, State};
use crate::client::{ApiError, Client, ClientConfig, CodeExchange, OutgoingMessage, Receiver};
use crate::code::{Class, Token};

/// How long one step may take, retries and waiting included; well inside the time-outs of the functions that call it.
const PATIENCE: Duration = Duration::from_secs(8);

/// A tenant token that lives shorter than this is fetched anew.
const MARGIN: Duration = Duration::from_secs(180);

/// Every app's vendor.
pub struct LarkVendor {
    base: Option<Url>,
    client: Client,
    /// The lock is held while a token is fetched, so that a burst of callers fetches once.
    tenant_tokens: tokio::sync::Mutex<HashMap<AppId, (SecretString, Instant)>>,
}

impl fmt::Debug for LarkVendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LarkVendor").field("base", &self.base).finish_non_exhaustive()
    }
}

impl LarkVendor {
    /// `base` replaces the vendor's own hosts, for every app.
    pub fn new(base: Option<&str>) -> Result<Self, url::ParseError> {
        let open = base.unwrap_or(Brand::Feishu.open_base()).parse()?;
        Ok(Self {
            base: base.map(str::parse).transpose()?,
            client: Client::new(ClientConfig::new(open)),
            tenant_tokens: tokio::sync::Mutex::default(),
        })
    }

    fn client(&self, app: &OpenApp) -> Result<Client, VendorFault> {
        let open = match &self.base {
            Some(base) => base.clone(),
            None => app.app.brand.open_base().parse().map_err(|cause: url::ParseError| misconfigured(&cause))?,
        };
        Ok(self.client.at(open))
    }

    async fn tenant_token(&self, app: &OpenApp, deadline: Instant) -> Result<SecretString, VendorFault> {
        let mut known = self.tenant_tokens.lock().await;
        if let Some((token, until)) = known.get(&app.app.app_id)
            && Instant::now() + MARGIN < *until
        {
            return Ok(token.clone());
        }
        let fetched = self
            .client(app)?
            .tenant_access_token(app.app.app_id.as_str(), &app.secrets.app_secret, deadline)
            .await
            .map_err(fault)?;
        let until = Instant::now() + Duration::from_secs(fetched.expires_in_secs);
        known.insert(app.app.app_id.clone(), (fetched.token.clone(), until));
        Ok(fetched.token)
    }

    /// Makes a call with the tenant token; a token that the vendor rejects is dropped and fetched once more.
    async fn as_tenant<T, F>(&self, app: &OpenApp, call: impl Fn(SecretString, Instant) -> F) -> Result<T, VendorFault>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        let deadline = Instant::now() + PATIENCE;
        let first = call(self.tenant_token(app, deadline).await?, deadline).await;
        match first {
            Err(error) if error.class() == Class::TokenInvalid(Token::Tenant) => {
                self.tenant_tokens.lock().await.remove(&app.app.app_id);
                call(self.tenant_token(app, deadline).await?, deadline).await.map_err(fault)
            }
            result => result.map_err(fault),
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
        let tokens = self.client(app)?.exchange_code(exchange, Instant::now() + PATIENCE).await.map_err(fault)?;
        Ok(Grant {
            pair: TokenPair { access_token: tokens.access_token, refresh_token: tokens.refresh_token },
            scopes: tokens.scopes,
            expires_in: seconds(tokens.expires_in_secs),
            refresh_expires_in: tokens.refresh_token_expires_in_secs.map(seconds),
        })
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
        let message = OutgoingMessage::card(&card(view)?);
        let (client, session) = (self.client(app)?, view.session);
        let (client, message) = (&client, &message);
        let sent = self
            .as_tenant(app, async |token, deadline| {
                let receiver = Receiver::OpenId(session.open_id.as_str());
                client.send_message(&token, receiver, message, session.session_id.as_str(), deadline).await
            })
            .await?;
        MessageId::parse(sent.message_id).map_err(|cause| VendorFault::Unavailable(cause.into()))
    }

    async fn update_card(&self, app: &OpenApp, message_id: &MessageId, view: CardView<'_>) -> Result<(), VendorFault> {
        let card = card(view)?;
        let client = self.client(app)?;
        let (client, card) = (&client, &card);
        self.as_tenant(app, async |token, deadline| {
            client.patch_card(&token, message_id.as_str(), card, deadline).await
        })
        .await
    }
}

/// The card that a session's state asks for.
fn card(view: CardView<'_>) -> Result<Card, VendorFault> {
    let session = view.session;
    let scopes: Vec<Scope> =
        session.scopes.iter().map(|name| Scope { name: name.clone(), description: None }).collect();
    let authorization = Authorization {
        app_name: view.app_name,
        title: None,
        purpose: session.reason.as_deref(),
        scopes: &scopes,
        detail: match session.style {
            CardStyle::Detailed => Detail::Detailed,
            CardStyle::Concise => Detail::Concise,
        },
        privacy_url: None,
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
        Class::Config | Class::Bug => VendorFault::Misconfigured { code, message: error.to_string() },
        _ => VendorFault::Refused { code, message: error.to_string() },
    }
}
