//! User tokens: what a person granted an app, sealed, and when it has to be looked after.

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::fault::PortFault;
use crate::id::{AppId, OpenId, SessionId};
use crate::seal::{SealContext, SealFault, Sealed, Sealer};
use crate::session::Session;

/// How long the vendor refreshes for after the person approved; then only the person can help (code 20037).
pub const AUTHORIZATION_LIFE: Duration = Duration::days(365);

/// How long a token that nothing can refresh is kept before it is forgotten.
pub const FORGET_AFTER: Duration = Duration::days(7);

/// A pair that somebody asked for less than this before it was issued is refreshed ahead of its expiry; an idle one only often
/// enough to stay alive. An idle person costs two vendor calls a week instead of thirteen a day.
pub const IN_USE: Duration = Duration::days(1);

/// An access token with less than this to live may die on its way to the vendor.
const TRANSIT: Duration = Duration::seconds(30);

/// The longest pause between two tries to refresh one pair.
const LONGEST_BACKOFF: Duration = Duration::hours(1);

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

/// What the vendor gives for a code or for a refresh token.
#[derive(Debug)]
pub struct Grant {
    pub pair: TokenPair,
    pub scopes: Vec<String>,
    pub expires_in: Duration,
    pub refresh_expires_in: Option<Duration>,
}

#[derive(Serialize, Deserialize)]
struct PairRecord {
    access_token: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
}

/// A warning that an authorization ends, or that it has ended. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    Month,
    Week,
    ThreeDays,
    Ended,
}

impl Notice {
    pub const ALL: [Self; 4] = [Self::Month, Self::Week, Self::ThreeDays, Self::Ended];

    /// Days left when it is due.
    #[must_use]
    pub fn days(self) -> u16 {
        match self {
            Self::Month => 30,
            Self::Week => 7,
            Self::ThreeDays => 3,
            Self::Ended => 0,
        }
    }
}

/// Why only the person can help, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lapse {
    /// A stable code: the vendor's number, or one of ours.
    pub code: String,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// A person's token as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserToken {
    pub app_id: AppId,
    pub open_id: OpenId,
    pub profile: Profile,
    pub scopes: Vec<String>,
    pub pair: Sealed,
    /// The authorization that brought it. With `version` it names one state of this record and no other.
    pub session_id: SessionId,
    /// Grows by one with each change.
    pub version: u64,
    #[serde(with = "time::serde::rfc3339")]
    pub issued_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub access_expires_at: OffsetDateTime,
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub refresh_expires_at: Option<OffsetDateTime>,
    /// When the person approved; the vendor refreshes for [`AUTHORIZATION_LIFE`] from here.
    #[serde(with = "time::serde::rfc3339")]
    pub authorized_at: OffsetDateTime,
    /// When somebody last needed a pair that had to be refreshed for it.
    #[serde(with = "time::serde::rfc3339")]
    pub used_at: OffsetDateTime,
    /// The last warning that was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noticed: Option<Notice>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lapsed: Option<Lapse>,
    /// How often in a row the vendor could not be asked, and when it may be asked again.
    #[serde(default)]
    pub failures: u32,
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<OffsetDateTime>,
}

/// What a sweep has to do about a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    Refresh,
    Notice(Notice),
    /// It expired and cannot be refreshed.
    Lapse,
    Forget,
}

impl UserToken {
    /// What a person's approval brings.
    #[must_use]
    pub fn granted(session: &Session, profile: Profile, grant: &Grant, pair: Sealed, now: OffsetDateTime) -> Self {
        Self {
            app_id: session.app_id.clone(),
            open_id: session.open_id.clone(),
            profile,
            scopes: grant.scopes.clone(),
            pair,
            session_id: session.session_id.clone(),
            version: 1,
            issued_at: now,
            access_expires_at: now + grant.expires_in,
            refresh_expires_at: grant.refresh_expires_in.map(|left| now + left),
            authorized_at: now,
            used_at: now,
            noticed: None,
            lapsed: None,
            failures: 0,
            retry_at: None,
        }
    }

    /// The token with the pair that took the place of its own.
    #[must_use]
    pub fn refreshed(&self, grant: &Grant, pair: Sealed, now: OffsetDateTime) -> Self {
        let scopes = if grant.scopes.is_empty() { self.scopes.clone() } else { grant.scopes.clone() };
        Self {
            scopes,
            pair,
            version: self.version + 1,
            issued_at: now,
            access_expires_at: now + grant.expires_in,
            refresh_expires_at: grant.refresh_expires_in.map(|left| now + left),
            failures: 0,
            retry_at: None,
            ..self.clone()
        }
    }

    /// The token after a try that did not reach the vendor: the next one waits 1, 2, 4 .. 60 minutes.
    #[must_use]
    pub fn put_off(&self, now: OffsetDateTime) -> Self {
        let wait = (Duration::minutes(1) * 2_i32.pow(self.failures.min(6))).min(LONGEST_BACKOFF);
        let failures = self.failures.saturating_add(1);
        Self { version: self.version + 1, failures, retry_at: Some(now + wait), ..self.clone() }
    }

    /// The token once only the person can help. The pair stays, parked, until the record is forgotten.
    #[must_use]
    pub fn lapse(&self, code: &str, now: OffsetDateTime) -> Self {
        let lapsed = Some(Lapse { code: code.to_owned(), at: now });
        Self { version: self.version + 1, lapsed, noticed: Some(Notice::Ended), ..self.clone() }
    }

    /// The token after a warning was given.
    #[must_use]
    pub fn noticed(&self, notice: Notice) -> Self {
        Self { version: self.version + 1, noticed: Some(notice), ..self.clone() }
    }

    /// The token with what the vendor now says of the person, or nothing if that is nothing new. What it does not say stays: two
    /// sources show different fields. The tenant stays too, as the pair is sealed for it.
    #[must_use]
    pub fn with_profile(&self, profile: Profile) -> Option<Self> {
        let before = self.profile.clone();
        let profile = Profile {
            tenant_key: before.tenant_key,
            union_id: profile.union_id.or(before.union_id),
            user_id: profile.user_id.or(before.user_id),
            name: profile.name.or(before.name),
            email: profile.email.or(before.email),
            mobile: profile.mobile.or(before.mobile),
        };
        (profile != self.profile).then(|| Self { version: self.version + 1, profile, ..self.clone() })
    }

    /// Whether the access token may be handed out without a thought: more than a tenth of its life is left.
    #[must_use]
    pub fn is_fresh(&self, now: OffsetDateTime) -> bool {
        self.lapsed.is_none() && now < self.stale_at()
    }

    /// Whether the access token still works, for as long as it takes to use it.
    #[must_use]
    pub fn is_alive(&self, now: OffsetDateTime) -> bool {
        self.lapsed.is_none() && now + TRANSIT < self.access_expires_at
    }

    /// When a tenth of the access token's life is left.
    #[must_use]
    pub fn stale_at(&self) -> OffsetDateTime {
        self.access_expires_at - (self.access_expires_at - self.issued_at) / 10
    }

    /// When the person has to approve again, whatever we do. Unknown for a pair that cannot be refreshed at all.
    #[must_use]
    pub fn ends_at(&self) -> Option<OffsetDateTime> {
        self.refresh_expires_at.map(|_| self.authorized_at + AUTHORIZATION_LIFE)
    }

    /// When a sweep has to look at this token next.
    #[must_use]
    pub fn due_at(&self) -> OffsetDateTime {
        self.agenda().into_iter().flatten().map(|(at, _)| at).min().unwrap_or(self.access_expires_at)
    }

    /// The most urgent thing to do, if anything is due. Of several warnings that were missed only the last is given.
    #[must_use]
    pub fn due(&self, now: OffsetDateTime) -> Option<Due> {
        let due = self.agenda().into_iter().flatten().filter(|(at, _)| *at <= now);
        let (_, due) = due.min_by_key(|(at, due)| (matches!(due, Due::Refresh), *at))?;
        Some(match (due, self.ends_at()) {
            (Due::Notice(_), Some(end)) => {
                let missed = Notice::ALL.into_iter().rfind(|n| end - Duration::days(n.days().into()) <= now);
                missed.map_or(due, Due::Notice)
            }
            _ => due,
        })
    }

    fn agenda(&self) -> [Option<(OffsetDateTime, Due)>; 2] {
        if let Some(lapse) = &self.lapsed {
            return [Some((lapse.at + FORGET_AFTER, Due::Forget)), None];
        }
        let Some((refresh_until, end)) = self.refresh_expires_at.zip(self.ends_at()) else {
            return [Some((self.access_expires_at, Due::Lapse)), None];
        };
        let half: Duration = (refresh_until - self.issued_at) / 2;
        let alive = self.issued_at + half;
        let refresh = if self.issued_at < self.used_at + IN_USE { alive.min(self.stale_at()) } else { alive };
        let refresh = self.retry_at.map_or(refresh, |retry| refresh.max(retry));
        let mut notices = Notice::ALL.into_iter().filter(|notice| self.noticed.is_none_or(|last| last < *notice));
        let notice = notices.next().map(|n| (end - Duration::days(n.days().into()), Due::Notice(n)));
        [Some((refresh, Due::Refresh)), notice]
    }
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
        let bytes = sealer.open(token.place(), &token.pair).await?;
        let record: PairRecord = serde_json::from_slice(&bytes).map_err(|_| SealFault::Damaged)?;
        Ok(Self { access_token: record.access_token.into(), refresh_token: record.refresh_token.map(Into::into) })
    }
}

impl UserToken {
    /// Where the pair belongs.
    #[must_use]
    pub fn place(&self) -> SealContext<'_> {
        SealContext::UserToken { app_id: &self.app_id, tenant_key: &self.profile.tenant_key, open_id: &self.open_id }
    }
}

/// Whether a token is another than the one that the vendor did not take.
pub(crate) fn differs(token: &SecretString, rejected: Option<&SecretString>) -> bool {
    rejected.is_none_or(|rejected| rejected.expose_secret() != token.expose_secret())
}

/// Whether a lease was had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease<T> {
    /// It is the caller's until the time that was named.
    Taken,
    /// Somebody else holds it, or the record is no longer the one that was read; this is how it is now.
    Held(T),
    /// There is no record any more.
    Gone,
}

/// Where user tokens are kept. They first come with [`crate::session::SessionStore::end`], with the session that brought them.
#[async_trait]
pub trait TokenStore: Send + Sync {
    async fn get(&self, app_id: &AppId, open_id: &OpenId) -> Result<Option<UserToken>, PortFault>;

    /// Makes the caller the only one who may refresh `token` until `until`. Of several callers one gets it, and only while the stored
    /// record is the very one that was read.
    async fn lease(
        &self,
        token: &UserToken,
        now: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<Lease<UserToken>, PortFault>;

    /// Puts `after` in the place of `before` and ends its lease; with it, in the same step, keeps the session that asks the person.
    /// If the stored record is not `before` any more, nothing is changed and the answer is [`PortFault::Conflict`].
    async fn replace(&self, before: &UserToken, after: &UserToken, ask: Option<&Session>) -> Result<(), PortFault>;

    /// Forgets `token`, unless it has changed. Called twice, the second call changes nothing.
    async fn forget(&self, token: &UserToken) -> Result<(), PortFault>;

    /// Tokens whose [`UserToken::due_at`] has come, the longest due first, at most `limit`.
    async fn due(&self, now: OffsetDateTime, limit: u32) -> Result<Vec<(AppId, OpenId)>, PortFault>;

    /// All tokens, a page at a time, in an order of the store's own. Without a cursor in the answer, that was the last page.
    async fn page(&self, cursor: Option<String>, limit: u32) -> Result<Page, PortFault>;
}

/// One page of tokens.
#[derive(Debug, Default)]
pub struct Page {
    pub tokens: Vec<UserToken>,
    pub cursor: Option<String>,
}
