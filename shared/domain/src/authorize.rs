//! Authorization: from a person's answer to a sealed token, and a card that follows its session.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use secrecy::SecretString;
use time::OffsetDateTime;
use url::Url;

use crate::app::{AppDirectory, AppFault, OpenApp};
use crate::fault::{Denial, Fault, PortFault, Refusal, Remedy, chain};
use crate::id::{AppId, ChatId, MessageId, OpenId, SessionId};
use crate::seal::{SealContext, SealFault, Sealer};
use crate::session::{Cause, Outcome, Session, SessionFault, SessionStatus, SessionStore};
use crate::token::{Grant, Profile, TokenStore, UserToken};
use crate::work::{Doorbell, WorkQueue};

/// A code that a person's approval gave, with what must be shown to exchange it.
#[derive(Debug)]
pub struct Approval {
    pub code: SecretString,
    /// The PKCE verifier and the redirect of the attempt; a code that came with a card click has neither.
    pub attempt: Option<(SecretString, String)>,
}

/// What a card shows.
#[derive(Debug, Clone, Copy)]
pub struct CardView<'a> {
    pub app_name: &'a str,
    pub session: &'a Session,
    /// Where the card's button leads.
    pub authorize_url: &'a str,
    /// Where the app says what becomes of people's data.
    pub privacy_url: Option<&'a Url>,
}

/// The vendor's side of an authorization.
#[async_trait]
pub trait Vendor: Send + Sync {
    /// Exchanges a code. Single use: the second exchange of a code is refused.
    async fn exchange(&self, app: &OpenApp, approval: &Approval) -> Result<Grant, VendorFault>;

    /// Whose token this is.
    async fn profile(&self, app: &OpenApp, access_token: &SecretString) -> Result<(OpenId, Profile), VendorFault>;

    /// Sends a card. The session's id is the idempotency key: called again within the hour, the same message.
    async fn send_card(&self, app: &OpenApp, card: CardView<'_>) -> Result<MessageId, VendorFault>;

    /// Makes a sent card show the session as it is. Called twice, the second call changes nothing. `click` is the update token of the
    /// click that caused it, for a message that the app may not change otherwise.
    async fn update_card(
        &self,
        app: &OpenApp,
        message_id: &MessageId,
        card: CardView<'_>,
        click: Option<&SecretString>,
    ) -> Result<(), VendorFault>;

    /// Tells the app's operators whom a card was sent to without anybody asking. Called again within the hour, the same message.
    async fn tell_operators(&self, app: &OpenApp, chat_id: &ChatId, session: &Session) -> Result<(), VendorFault>;
}

/// Why the vendor did not do it.
#[derive(Debug, thiserror::Error)]
pub enum VendorFault {
    /// Throttled, down or silent.
    #[error("the vendor did not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The code or refresh token is used, expired, revoked or unknown: only the person can help.
    #[error("the vendor wants the person to authorize again (code {code}): {message}")]
    Spent { code: i64, message: String },
    /// The vendor said no, and will say no again.
    #[error("the vendor refused with code {code}: {message}")]
    Refused { code: i64, message: String },
    /// Our side of the contract is broken: wrong credentials, a missing scope, a malformed request.
    #[error("the app is not set up for this (code {code}): {message}")]
    Misconfigured { code: i64, message: String },
}

impl Fault for VendorFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Unavailable(_) => Remedy::Retry,
            Self::Spent { .. } | Self::Refused { .. } | Self::Misconfigured { .. } => Remedy::Reject(Refusal::Conflict),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "vendor_unavailable",
            Self::Spent { .. } | Self::Refused { .. } => "vendor_refused",
            Self::Misconfigured { .. } => "app_misconfigured",
        }
    }
}

/// The use cases, over the ports they need.
pub struct Authorization {
    pub apps: Arc<AppDirectory>,
    pub sessions: Arc<dyn SessionStore>,
    pub tokens: Arc<dyn TokenStore>,
    pub sealer: Arc<dyn Sealer>,
    pub vendor: Arc<dyn Vendor>,
    pub work: Arc<dyn WorkQueue>,
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization").finish_non_exhaustive()
    }
}

impl Authorization {
    /// The session, if it belongs to this app.
    pub async fn session(&self, app_id: &AppId, session_id: &SessionId) -> Result<Session, AuthorizeFault> {
        let session = self.sessions.get(session_id).await?;
        session.filter(|session| session.app_id == *app_id).ok_or(AuthorizeFault::Session(SessionFault::Unknown))
    }

    /// Exchanges an approval, seals the tokens and completes the session, in one durable step at the end. An approval that the vendor
    /// refuses for good fails the session; one that could not be exchanged now leaves it open.
    ///
    /// The same person may finish on a second device what they finished on a first: the last tokens stay.
    pub async fn complete(
        &self,
        session: &Session,
        approval: &Approval,
        now: OffsetDateTime,
    ) -> Result<Session, AuthorizeFault> {
        let again = session.status == SessionStatus::Completed && now < session.expires_at;
        if !again {
            session.must_be_open(now)?;
        }
        let app = self.apps.enabled(&session.app_id, now).await?;
        let grant = match self.vendor.exchange(&app, approval).await {
            Err(fault @ (VendorFault::Spent { code, .. } | VendorFault::Refused { code, .. })) => {
                self.end(session, Outcome::Failed(code.to_string()), None).await?;
                return Err(fault.into());
            }
            grant => grant?,
        };
        let (open_id, profile) = self.vendor.profile(&app, &grant.pair.access_token).await?;
        if open_id != session.open_id {
            // Somebody else followed the link. Their grant is not kept, and the session stays open for whom it was meant.
            return Err(AuthorizeFault::OtherPerson);
        }
        let place =
            SealContext::UserToken { app_id: &session.app_id, tenant_key: &profile.tenant_key, open_id: &open_id };
        let pair = grant.pair.seal(place, self.sealer.as_ref()).await.map_err(AuthorizeFault::Seal)?;
        let token = UserToken::granted(session, profile, &grant, pair, now);
        if again {
            self.supersede(token).await?;
            return Ok(session.clone());
        }
        self.end(session, Outcome::Completed, Some(&token)).await
    }

    /// Puts a pair in the place of whatever is stored.
    async fn supersede(&self, token: UserToken) -> Result<(), AuthorizeFault> {
        let stored = self.tokens.get(&token.app_id, &token.open_id).await?;
        let stored = stored.ok_or(PortFault::Conflict { operation: "supersede token" })?;
        // A version that no record of this session had: they count from 1.
        let version = u64::try_from(token.issued_at.unix_timestamp()).unwrap_or_default().max(stored.version + 1);
        Ok(self.tokens.replace(&stored, &UserToken { version, ..token }, None).await?)
    }

    /// Ends the session because the person said no.
    pub async fn reject(&self, session: &Session) -> Result<Session, AuthorizeFault> {
        self.end(session, Outcome::Rejected, None).await
    }

    /// Ends the session because its card cannot reach the person.
    pub async fn fail(&self, session: &Session, code: &str) -> Result<Session, AuthorizeFault> {
        self.end(session, Outcome::Failed(code.to_owned()), None).await
    }

    /// Ends the session because nobody answered in time.
    pub async fn expire(&self, session: &Session) -> Result<Session, AuthorizeFault> {
        self.end(session, Outcome::Expired, None).await
    }

    async fn end(
        &self,
        session: &Session,
        outcome: Outcome,
        token: Option<&UserToken>,
    ) -> Result<Session, AuthorizeFault> {
        let ended = session.ended(outcome)?;
        if let Err(fault) = self.sessions.end(&ended, token).await {
            if !matches!(fault, PortFault::Conflict { .. }) {
                return Err(fault.into());
            }
            // Somebody was faster: the same end is success, another one is theirs to keep.
            let stored = self.session(&session.app_id, &session.session_id).await?;
            return if stored.status == ended.status {
                Ok(stored)
            } else {
                Err(SessionFault::Ended(stored.status).into())
            };
        }
        // The table's stream rings too; this ring only makes it quick.
        if let Err(fault) = self.work.ring(&Doorbell::for_session(&ended)).await {
            tracing::warn!(session.id = %ended.session_id, error = %chain(&fault), "The bell was not rung; the stream will");
        }
        Ok(ended)
    }

    /// Sends the session's card, or makes it show where the session stands. Called for a card that is up to date, it does nothing.
    /// `click` is the update token of the click that changed the session, if one did.
    pub async fn follow(
        &self,
        session_id: &SessionId,
        public_url: &str,
        click: Option<&SecretString>,
        now: OffsetDateTime,
    ) -> Result<(), AuthorizeFault> {
        // Whoever heard the bell first may have found that the message cannot be changed; the click still can.
        let behind = |session: &Session| click.is_some() || session.card_is_behind();
        let Some(session) = self.sessions.get(session_id).await?.filter(behind) else {
            return Ok(());
        };
        let app = self.apps.enabled(&session.app_id, now).await?;
        let authorize_url = authorize_url(public_url, &session);
        let card = CardView {
            app_name: &app.app.name,
            session: &session,
            authorize_url: &authorize_url,
            privacy_url: app.app.privacy_url.as_ref(),
        };
        let message_id = match &session.message_id {
            // A session that ended before its card went out needs none.
            None if session.status != SessionStatus::Pending => return Ok(()),
            None => {
                let message_id = self.vendor.send_card(&app, card).await?;
                if let (Cause::Expiring { .. } | Cause::Expired, Some(chat_id)) = (session.why, &app.app.operator_chat)
                {
                    self.warn_operators(&app, chat_id, &session).await?;
                }
                message_id
            }
            Some(message_id) => {
                match self.vendor.update_card(&app, message_id, card, click).await {
                    // Recalled, too old, or the chat is gone: nobody can see it, so there is nothing left to do.
                    Ok(()) | Err(VendorFault::Refused { .. }) => message_id.clone(),
                    Err(fault) => return Err(fault.into()),
                }
            }
        };
        self.sessions.card_shown(session_id, &message_id, session.version).await?;
        Ok(())
    }
}

impl Authorization {
    async fn warn_operators(&self, app: &OpenApp, chat_id: &ChatId, session: &Session) -> Result<(), VendorFault> {
        match self.vendor.tell_operators(app, chat_id, session).await {
            Err(fault) if fault.remedy() != Remedy::Retry => {
                let app_id = &app.app.app_id;
                tracing::warn!(lark.app_id = %app_id, error = %chain(&fault), "The operators' chat cannot be told");
                Ok(())
            }
            told => told,
        }
    }
}

/// Where the card's button leads.
#[must_use]
pub fn authorize_url(public_url: &str, session: &Session) -> String {
    format!("{public_url}/lark/{}/oauth/start?session_id={}", session.app_id, session.session_id)
}

/// Why an authorization did not go through.
#[derive(Debug, thiserror::Error)]
pub enum AuthorizeFault {
    #[error("the app cannot be used")]
    App(#[from] AppFault),
    #[error(transparent)]
    Session(#[from] SessionFault),
    #[error("the request was meant for somebody else")]
    OtherPerson,
    #[error("the vendor's part failed")]
    Vendor(#[from] VendorFault),
    #[error("the tokens could not be sealed")]
    Seal(#[source] SealFault),
    #[error("a store failed")]
    Store(#[from] PortFault),
}

impl Fault for AuthorizeFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::App(fault) => fault.remedy(),
            Self::Session(fault) => fault.remedy(),
            Self::OtherPerson => Remedy::Deny(Denial::Forbidden),
            Self::Vendor(fault) => fault.remedy(),
            Self::Seal(fault) => fault.remedy(),
            Self::Store(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::App(fault) => fault.code(),
            Self::Session(fault) => fault.code(),
            Self::OtherPerson => "other_person",
            Self::Vendor(fault) => fault.code(),
            Self::Seal(fault) => fault.code(),
            Self::Store(fault) => fault.code(),
        }
    }
}
