//! Families of refresh tokens: one record each, in which every token but the newest was exchanged for the next.

use std::collections::BTreeSet;

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::SecretHash;
use crate::access::{ACCESS_TOKEN_LIFE, Scope};
use crate::fault::PortFault;
use crate::id::{ClientId, FamilyId, TenantId, UserId};
use crate::seal::{SealFault, Sealed};

/// How long a family lives, however often it is refreshed.
pub const FAMILY_LIFE: Duration = Duration::days(30);

/// How long a token that was exchanged still gives the same successor: answers get lost, and clients ask again.
pub const GRACE: Duration = Duration::seconds(30);

/// How many exchanged tokens a record remembers at most.
const REMEMBERED: usize = 8;

/// The characters of 256 bits in base64url.
const SECRET_CHARS: usize = 43;

/// A refresh token: `<family>.<anchor>.<secret>`. The anchor is the family's own secret and the same in all its tokens: it tells a token
/// that was once genuine from a guess at a family's name, which any access token shows.
#[derive(Debug, Clone)]
pub struct RefreshToken {
    pub family_id: FamilyId,
    pub anchor: SecretString,
    /// All of it, as clients see it.
    pub text: SecretString,
}

impl RefreshToken {
    #[must_use]
    pub fn compose(family_id: &FamilyId, anchor: &SecretString, secret: &SecretString) -> Self {
        let text = format!("{family_id}.{}.{}", anchor.expose_secret(), secret.expose_secret());
        Self { family_id: family_id.clone(), anchor: anchor.clone(), text: text.into() }
    }

    /// Nothing if the text has another form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let secret = |part: &str| {
            part.len() == SECRET_CHARS && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let (family_id, rest) = text.split_once('.')?;
        let (anchor, last) = rest.split_once('.')?;
        if !secret(anchor) || !secret(last) {
            return None;
        }
        Some(Self { family_id: FamilyId::parse(family_id).ok()?, anchor: anchor.into(), text: text.into() })
    }

    /// The token that this one is exchanged for.
    #[must_use]
    pub fn successor(&self, secret: &SecretString) -> Self {
        Self::compose(&self.family_id, &self.anchor, secret)
    }
}

/// A token that was exchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    pub hash: SecretHash,
    /// What it was exchanged for, sealed under a key that only the token itself gives.
    pub successor: Sealed,
    #[serde(with = "time::serde::rfc3339")]
    pub rotated_at: OffsetDateTime,
}

/// A family as it is stored: hashes only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    pub family_id: FamilyId,
    pub client_id: ClientId,
    pub user_id: UserId,
    pub tenant_id: TenantId,
    pub scopes: BTreeSet<Scope>,
    pub anchor: SecretHash,
    /// The hash of the one token that can be exchanged.
    pub current: SecretHash,
    /// How often the family was refreshed.
    pub counter: u64,
    /// The tokens exchanged last, newest first.
    pub retired: Vec<Retired>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
}

/// What a presented token is to its family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presented {
    /// The newest: it can be exchanged.
    Current,
    /// Exchanged a moment ago, for this.
    Repeated(Sealed),
    /// Exchanged too long ago: somebody has a copy.
    Reused,
    /// Never one of this family's.
    Foreign,
    /// The family was revoked or is over.
    Ended,
}

impl Family {
    #[must_use]
    pub fn is_active(&self, now: OffsetDateTime) -> bool {
        self.revoked_at.is_none() && now < self.expires_at
    }

    /// How long an access token lives that is made now: it does not outlive its family.
    #[must_use]
    pub fn access_life(&self, now: OffsetDateTime) -> Duration {
        ACCESS_TOKEN_LIFE.min(self.expires_at - now)
    }

    /// What the token with these hashes is.
    #[must_use]
    pub fn present(&self, anchor: &SecretHash, token: &SecretHash, now: OffsetDateTime) -> Presented {
        if !self.anchor.matches(anchor) {
            return Presented::Foreign;
        }
        if !self.is_active(now) {
            return Presented::Ended;
        }
        if self.current.matches(token) {
            return Presented::Current;
        }
        let retired = self.retired.iter().find(|retired| retired.hash.matches(token));
        match retired.filter(|retired| now < retired.rotated_at + GRACE) {
            Some(retired) => Presented::Repeated(retired.successor.clone()),
            None => Presented::Reused,
        }
    }

    /// The family after its current token was exchanged for the one with this hash.
    #[must_use]
    pub fn rotated(&self, token: SecretHash, successor: Sealed, now: OffsetDateTime) -> Self {
        let mut next = self.clone();
        next.retired.retain(|retired| now < retired.rotated_at + GRACE);
        next.retired.insert(0, Retired { hash: self.current.clone(), successor, rotated_at: now });
        next.retired.truncate(REMEMBERED);
        Self { current: token, counter: self.counter + 1, ..next }
    }
}

/// Where families are kept.
#[async_trait]
pub trait FamilyStore: Send + Sync {
    async fn create(&self, family: &Family) -> Result<(), PortFault>;

    /// What is stored now, not a moment ago.
    async fn get(&self, family_id: &FamilyId) -> Result<Option<Family>, PortFault>;

    /// Stores a rotated family if what is stored is one rotation behind it and not revoked; else [`PortFault::Conflict`].
    async fn rotate(&self, family: &Family) -> Result<(), PortFault>;

    /// Ends the family, for good. A family that ended before, or is not there, stays as it is.
    async fn revoke(&self, family_id: &FamilyId, now: OffsetDateTime) -> Result<(), PortFault>;
}

/// The cryptography of refresh tokens.
pub trait RefreshSeal: Send + Sync {
    fn hash(&self, secret: &str) -> SecretHash;

    /// Seals `successor` so that it opens only with `token`.
    fn seal(&self, token: &RefreshToken, successor: &RefreshToken) -> Result<Sealed, SealFault>;

    fn open(&self, token: &RefreshToken, sealed: &Sealed) -> Result<SecretString, SealFault>;
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAMILY: &str = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";

    #[test]
    fn a_token_reads_as_it_was_written_and_nothing_else_does() {
        let (anchor, secret) = ("A".repeat(43), "b-_".repeat(14) + "b");
        let family_id = FamilyId::parse(FAMILY).unwrap();
        let token = RefreshToken::compose(&family_id, &anchor.as_str().into(), &secret.as_str().into());
        let text = token.text.expose_secret();
        let read = RefreshToken::parse(text).unwrap();
        assert_eq!((read.family_id, read.anchor.expose_secret()), (family_id, anchor.as_str()));
        let next = token.successor(&"c".repeat(43).into());
        assert!(next.text.expose_secret().starts_with(&format!("{FAMILY}.{anchor}.ccc")));
        for bad in [
            "",
            "..",
            &text[1..],
            &format!("{text}x"),
            &text[..text.len() - 1],
            &text.replace('.', "-"),
            &format!("{FAMILY}.{anchor}.{}", "é".repeat(22)),
        ] {
            assert!(RefreshToken::parse(bad).is_none(), "{bad:?}");
        }
        assert!(!format!("{token:?}").contains(&anchor));
    }
}
