//! Authorization sessions: one request to one person, shown to them as one card that follows it.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::fault::{Fault, PortFault, Refusal, Remedy};
use crate::id::{AppId, MessageId, OpenId, SessionId};
use crate::seal::Sealed;
use crate::token::UserToken;

/// How long a person has to answer.
pub const SESSION_LIFE: Duration = Duration::minutes(10);

/// How long a card that we sent of our own accord waits: over a night, a weekend, a holiday. A card can be updated for 14 days.
pub const RENEWAL_LIFE: Duration = Duration::days(13);

/// How long a person is left alone between two cards that they did not cause, unless the app needs other scopes.
pub const ASK_AGAIN: Duration = Duration::hours(24);

/// How long an ended session is remembered, for its card and for questions.
pub const SESSION_REMEMBERED: Duration = Duration::days(28);

/// The vendor's limit on scopes in one authorization.
pub const MAX_SCOPES: usize = 50;

/// Without it the vendor gives no refresh token.
pub const OFFLINE_ACCESS: &str = "offline_access";

/// Granted with every authorization. An app that asks for it without having enabled it is refused (20027).
const UNASKED_SCOPE: &str = "auth:user.id:read";

/// Where a session stands. Everything but `Pending` is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionStatus {
    Pending,
    Completed,
    Rejected,
    Expired,
    Failed,
}

/// How much the card says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CardStyle {
    #[default]
    Detailed,
    Concise,
}

/// Why a person is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// A service asked for it.
    #[default]
    Requested,
    /// What the person granted ends in so many days.
    Expiring { days: u16 },
    /// It has ended: nothing can refresh it any more.
    Expired,
    /// A call needs scopes that the person has not granted.
    MoreScopes,
}

/// One request for authorization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub session_id: SessionId,
    pub app_id: AppId,
    pub open_id: OpenId,
    pub scopes: Vec<String>,
    /// Why the app asks, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub style: CardStyle,
    /// A card of the app's own, made in the vendor's card builder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_id: Option<String>,
    #[serde(default)]
    pub why: Cause,
    /// The organisation the person belongs to, where the app serves several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_key: Option<String>,
    pub status: SessionStatus,
    /// What went wrong, as a stable code, when `Failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// Grows by one with each change of status.
    pub version: u64,
    /// The message that carries the card, once it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<MessageId>,
    /// The version that the card shows; 0 before it was sent.
    #[serde(default)]
    pub shown_version: u64,
}

/// What an operator asks for.
#[derive(Debug, Clone)]
pub struct SessionRequest {
    pub app_id: AppId,
    pub open_id: OpenId,
    pub scopes: Vec<String>,
    pub reason: Option<String>,
    pub style: CardStyle,
    pub template_id: Option<String>,
    pub tenant_key: Option<String>,
}

/// Every rule that a request breaks, each with the field that breaks it.
#[must_use]
pub fn faults(scopes: &[String], reason: Option<&str>, template_id: Option<&str>) -> Vec<(&'static str, SessionFault)> {
    let mut faults = Vec::new();
    if let Some(bad) = scopes.iter().find(|s| s.is_empty() || !s.bytes().all(|b| b.is_ascii_graphic())) {
        faults.push(("scopes", SessionFault::BadScope(bad.clone())));
    }
    let count = with_offline_access(scopes.to_vec()).len();
    if count > MAX_SCOPES {
        faults.push(("scopes", SessionFault::TooManyScopes(count)));
    }
    if reason.is_some_and(|reason| reason.chars().count() > 500) {
        faults.push(("reason", SessionFault::ReasonTooLong));
    }
    if template_id.is_some_and(|id| !id.starts_with("AAq") && !id.starts_with("ctp_")) {
        faults.push(("template_id", SessionFault::BadTemplate));
    }
    faults
}

/// Each scope once, in order.
fn with_offline_access(mut scopes: Vec<String>) -> Vec<String> {
    scopes.push(OFFLINE_ACCESS.to_owned());
    scopes.sort();
    scopes.dedup();
    scopes
}

impl Session {
    /// Opens a session. `offline_access` is added, because without it no token can be refreshed.
    pub fn open(session_id: SessionId, request: SessionRequest, now: OffsetDateTime) -> Result<Self, SessionFault> {
        let faults = faults(&request.scopes, request.reason.as_deref(), request.template_id.as_deref());
        if let Some((_, fault)) = faults.into_iter().next() {
            return Err(fault);
        }
        let scopes = with_offline_access(request.scopes);
        Ok(Self {
            session_id,
            app_id: request.app_id,
            open_id: request.open_id,
            scopes,
            reason: request.reason,
            style: request.style,
            template_id: request.template_id,
            why: Cause::Requested,
            tenant_key: request.tenant_key,
            status: SessionStatus::Pending,
            failure: None,
            created_at: now,
            expires_at: now + SESSION_LIFE,
            version: 1,
            message_id: None,
            shown_version: 0,
        })
    }

    /// Asks the person behind `token` to approve again, for what they had and `more`.
    #[must_use]
    pub fn renewal(session_id: SessionId, token: &UserToken, more: &[String], why: Cause, now: OffsetDateTime) -> Self {
        Self::unasked(session_id, (&token.app_id, &token.open_id), token.scopes.iter().chain(more), why, now)
            .of_tenant(&token.profile.tenant_key)
    }

    /// Asks a person of whom nothing is stored.
    #[must_use]
    pub fn first(
        session_id: SessionId,
        (app_id, open_id): (&AppId, &OpenId),
        scopes: &[String],
        tenant_key: Option<&str>,
        now: OffsetDateTime,
    ) -> Self {
        let session = Self::unasked(session_id, (app_id, open_id), scopes.iter(), Cause::MoreScopes, now);
        session.of_tenant(tenant_key.unwrap_or_default())
    }

    fn of_tenant(self, tenant_key: &str) -> Self {
        Self { tenant_key: Some(tenant_key.to_owned()).filter(|key| !key.is_empty()), ..self }
    }

    fn unasked<'a>(
        session_id: SessionId,
        (app_id, open_id): (&AppId, &OpenId),
        scopes: impl Iterator<Item = &'a String>,
        why: Cause,
        now: OffsetDateTime,
    ) -> Self {
        let not_asked = [OFFLINE_ACCESS, UNASKED_SCOPE];
        let mut scopes: Vec<String> = scopes.filter(|scope| !not_asked.contains(&scope.as_str())).cloned().collect();
        scopes.sort();
        scopes.dedup();
        // Grants add up at the vendor, so what does not fit into one request is not lost.
        scopes.truncate(MAX_SCOPES - 1);
        scopes.push(OFFLINE_ACCESS.to_owned());
        Self {
            session_id,
            app_id: app_id.clone(),
            open_id: open_id.clone(),
            scopes,
            reason: None,
            style: CardStyle::Concise,
            template_id: None,
            why,
            tenant_key: None,
            status: SessionStatus::Pending,
            failure: None,
            created_at: now,
            expires_at: now + RENEWAL_LIFE,
            version: 1,
            message_id: None,
            shown_version: 0,
        }
    }

    /// Whether the person may still answer.
    pub fn must_be_open(&self, now: OffsetDateTime) -> Result<(), SessionFault> {
        match self.status {
            SessionStatus::Pending if now < self.expires_at => Ok(()),
            SessionStatus::Pending | SessionStatus::Expired => Err(SessionFault::Expired),
            status => Err(SessionFault::Ended(status)),
        }
    }

    /// The session after `outcome`; an error if it has ended already. Ending in time is not checked here: an exchange that began
    /// in time may finish late.
    pub fn ended(&self, outcome: Outcome) -> Result<Self, SessionFault> {
        if self.status != SessionStatus::Pending {
            return Err(SessionFault::Ended(self.status));
        }
        let (status, failure) = match outcome {
            Outcome::Completed => (SessionStatus::Completed, None),
            Outcome::Rejected => (SessionStatus::Rejected, None),
            Outcome::Expired => (SessionStatus::Expired, None),
            Outcome::Failed(code) => (SessionStatus::Failed, Some(code)),
        };
        Ok(Self { status, failure, version: self.version + 1, ..self.clone() })
    }

    /// Whether the card must be sent or changed.
    #[must_use]
    pub fn card_is_behind(&self) -> bool {
        self.shown_version < self.version
    }
}

/// How a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Completed,
    Rejected,
    Expired,
    /// With a stable code of what went wrong.
    Failed(String),
}

/// One trip to the authorize page. Kept under the hash of its `state`, so that reading the table forges nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub state_hash: String,
    pub session_id: SessionId,
    pub app_id: AppId,
    /// The PKCE verifier, sealed.
    pub verifier: Sealed,
    /// Must be repeated, byte for byte, at the exchange.
    pub redirect_uri: String,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

/// Whether a person was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Now,
    Before(SessionId),
}

/// Where sessions and attempts are kept.
#[async_trait]
pub trait SessionStore: Send + Sync {
    async fn get(&self, session_id: &SessionId) -> Result<Option<Session>, PortFault>;

    /// Keeps a new session; the same id again is a [`PortFault::Conflict`].
    async fn create(&self, session: &Session) -> Result<(), PortFault>;

    /// Stores an ended session, and the token that it brought, in one step: both or neither, and only while the stored session is
    /// the version before. A lost race is a [`PortFault::Conflict`].
    async fn end(&self, session: &Session, token: Option<&UserToken>) -> Result<(), PortFault>;

    /// Notes which version the card shows. Never goes back; called twice, the second call changes nothing.
    async fn card_shown(&self, session_id: &SessionId, message_id: &MessageId, version: u64) -> Result<(), PortFault>;

    /// Keeps an attempt.
    async fn put_attempt(&self, attempt: &Attempt) -> Result<(), PortFault>;

    /// Takes an attempt away: of several callers one gets it.
    async fn take_attempt(&self, state_hash: &str) -> Result<Option<Attempt>, PortFault>;

    /// Keeps a session that the person did not cause, unless one with the same scopes was kept less than [`ASK_AGAIN`] before:
    /// then that one is the answer. Of several callers one is [`Asked::Now`].
    async fn ask(&self, session: &Session) -> Result<Asked, PortFault>;

    /// Pending sessions that are past their time, oldest first, at most `limit`.
    async fn overdue(&self, now: OffsetDateTime, limit: u32) -> Result<Vec<SessionId>, PortFault>;
}

/// Why a session was refused or not changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SessionFault {
    #[error("`scopes` holds `{0}`, which is not a scope name")]
    BadScope(String),
    #[error("`scopes` has {0} entries; the limit is {MAX_SCOPES}")]
    TooManyScopes(usize),
    #[error("`reason` is longer than 500 characters")]
    ReasonTooLong,
    #[error("`template_id` must begin with `AAq` or `ctp_`")]
    BadTemplate,
    #[error("the session is unknown")]
    Unknown,
    #[error("the session has expired")]
    Expired,
    #[error("the session has ended: {0:?}")]
    Ended(SessionStatus),
}

impl Fault for SessionFault {
    fn remedy(&self) -> Remedy {
        Remedy::Reject(match self {
            Self::BadScope(_) | Self::TooManyScopes(_) | Self::ReasonTooLong | Self::BadTemplate => Refusal::Invalid,
            Self::Unknown => Refusal::Unknown,
            Self::Expired | Self::Ended(_) => Refusal::Gone,
        })
    }

    fn code(&self) -> &'static str {
        match self {
            Self::BadScope(_) | Self::TooManyScopes(_) | Self::ReasonTooLong | Self::BadTemplate => "invalid_request",
            Self::Unknown => "unknown_session",
            Self::Expired => "session_expired",
            Self::Ended(_) => "session_ended",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-11-21 09:00 UTC);

    fn request(scopes: &[&str]) -> SessionRequest {
        SessionRequest {
            app_id: AppId::parse("cli_a").unwrap(),
            open_id: OpenId::parse("ou_1").unwrap(),
            scopes: scopes.iter().map(|s| (*s).to_owned()).collect(),
            reason: None,
            style: CardStyle::Detailed,
            template_id: None,
            tenant_key: None,
        }
    }

    fn session() -> Session {
        let id = SessionId::parse("6f9619ff-8b86-4d01-b42d-00cf4fc964ff").unwrap();
        Session::open(id, request(&["task:task:read"]), NOW).unwrap()
    }

    #[test]
    fn always_asks_for_a_refresh_token_and_for_each_scope_once() {
        let id = SessionId::parse("6f9619ff-8b86-4d01-b42d-00cf4fc964ff").unwrap();
        let session = Session::open(id, request(&["b", "a", "b"]), NOW).unwrap();
        assert_eq!(session.scopes, ["a", "b", "offline_access"]);
    }

    #[test]
    fn refuses_what_the_vendor_would_refuse_later() {
        let id = SessionId::parse("6f9619ff-8b86-4d01-b42d-00cf4fc964ff").unwrap();
        let many: Vec<String> = (0..50).map(|n| format!("s{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(Session::open(id.clone(), request(&many), NOW), Err(SessionFault::TooManyScopes(51)));
        assert_eq!(Session::open(id, request(&["a b"]), NOW), Err(SessionFault::BadScope("a b".into())));
    }

    #[test]
    fn every_broken_rule_is_told_with_its_field() {
        let (long, scopes) = ("因".repeat(501), ["".to_owned()]);
        let faults = faults(&scopes, Some(&long), Some("x"));
        assert_eq!(faults.iter().map(|(field, _)| *field).collect::<Vec<_>>(), ["scopes", "reason", "template_id"]);
        assert_eq!(super::faults(&[], Some(&"因".repeat(500)), Some("AAq1")), []);
    }

    #[test]
    fn a_renewal_asks_for_what_was_granted_but_not_for_what_comes_unasked() {
        let id = SessionId::parse("6f9619ff-8b86-4d01-b42d-00cf4fc964ff").unwrap();
        let person = (&AppId::parse("cli_a").unwrap(), &OpenId::parse("ou_1").unwrap());
        let granted = ["auth:user.id:read", "b", "offline_access", "a", "b"].map(str::to_owned);
        assert_eq!(Session::first(id.clone(), person, &granted, None, NOW).scopes, ["a", "b", "offline_access"]);
        let many: Vec<String> = (0..80).map(|n| format!("s{n}")).collect();
        let scopes = Session::first(id, person, &many, None, NOW).scopes;
        assert_eq!((scopes.len(), scopes.last().unwrap().as_str()), (MAX_SCOPES, "offline_access"));
    }

    #[test]
    fn ends_once() {
        let done = session().ended(Outcome::Completed).unwrap();
        assert_eq!((done.status, done.version), (SessionStatus::Completed, 2));
        assert_eq!(done.ended(Outcome::Rejected), Err(SessionFault::Ended(SessionStatus::Completed)));
    }

    #[test]
    fn is_closed_at_the_very_instant_it_expires() {
        assert_eq!(session().must_be_open(NOW + SESSION_LIFE - Duration::milliseconds(1)), Ok(()));
        assert_eq!(session().must_be_open(NOW + SESSION_LIFE), Err(SessionFault::Expired));
    }

    #[test]
    fn the_card_is_behind_until_it_shows_the_present_version() {
        let sent = Session { shown_version: 1, ..session() };
        assert!(session().card_is_behind() && !sent.card_is_behind());
        assert!(sent.ended(Outcome::Expired).unwrap().card_is_behind());
    }
}
