//! Who calls Skylark's own API, and what they may do there.

use std::collections::BTreeSet;
use std::fmt;

use async_trait::async_trait;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::fault::{Denial, Fault, PortFault, Remedy};
use crate::id::{ClientId, FamilyId, TenantId, UserId};
use crate::limit::Limit;

/// How long an access token lives.
pub const ACCESS_TOKEN_LIFE: Duration = Duration::seconds(900);

/// How far two clocks may differ before a token counts as expired, or as not issued yet.
pub const LEEWAY: Duration = Duration::seconds(30);

/// How often one user may change something, unless their client was given a rate of its own.
const CHANGES: Limit = Limit::per_minute(60);

/// Whom access tokens are for (`aud`).
pub const AUDIENCE: &str = "skylark";

/// A part of the API that a token opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    #[serde(rename = "lark")]
    Lark,
    #[serde(rename = "chat")]
    Chat,
    #[serde(rename = "files")]
    Files,
    #[serde(rename = "lake:read")]
    LakeRead,
    #[serde(rename = "lake:write")]
    LakeWrite,
}

impl Scope {
    pub const ALL: [Self; 5] = [Self::Lark, Self::Chat, Self::Files, Self::LakeRead, Self::LakeWrite];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lark => "lark",
            Self::Chat => "chat",
            Self::Files => "files",
            Self::LakeRead => "lake:read",
            Self::LakeWrite => "lake:write",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }

    /// The `scope` of a request or a token: names with spaces between them.
    #[must_use]
    pub fn join(scopes: &BTreeSet<Self>) -> String {
        scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whom a valid access token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub client_id: ClientId,
    pub user_id: UserId,
    pub tenant_id: TenantId,
    pub scopes: BTreeSet<Scope>,
    /// The login that the token came from; it may be revoked before the token expires.
    pub session_id: FamilyId,
    pub expires_at: OffsetDateTime,
    /// The client's own limit of state-changing calls a minute, if it was given one.
    pub rate: Option<u32>,
}

impl Caller {
    /// Turns the caller away unless the token opens `scope`.
    pub fn requires(&self, scope: Scope) -> Result<(), AccessFault> {
        if self.scopes.contains(&scope) { Ok(()) } else { Err(AccessFault::MissingScope(scope)) }
    }

    /// How often the caller may change something.
    #[must_use]
    pub fn changes(&self) -> Limit {
        self.rate.map_or(CHANGES, Limit::per_minute)
    }
}

/// Tells whom an access token speaks for. The same token at the same time gives the same answer.
#[async_trait]
pub trait AccessTokenVerifier: Send + Sync {
    async fn verify(&self, token: &str, now: OffsetDateTime) -> Result<Caller, AccessFault>;
}

/// What an access token is made of, beside [`AUDIENCE`].
#[derive(Debug, Clone)]
pub struct AccessToken {
    /// Base URL of the deployment, as its metadata says it (`iss`).
    pub issuer: String,
    pub caller: Caller,
    pub issued_at: OffsetDateTime,
    /// Unique (`jti`).
    pub token_id: String,
}

/// A public key as JWKS (RFC 7517) tells it: modulus and exponent in base64url.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    pub key_id: String,
    pub modulus: String,
    pub exponent: String,
}

/// Makes access tokens.
#[async_trait]
pub trait TokenSigner: Send + Sync {
    async fn sign(&self, token: &AccessToken) -> Result<SecretString, PortFault>;

    /// Every key that a token may be signed with now: tokens outlive the key that is used first.
    async fn public_keys(&self) -> Result<Vec<PublicKey>, PortFault>;
}

/// Why a caller is turned away.
#[derive(Debug, thiserror::Error)]
pub enum AccessFault {
    #[error("no access token was sent; send `Authorization: Bearer <access token>`")]
    Missing,
    /// Malformed, tampered with, signed by another key, or meant for somebody else: which one is not told.
    #[error("the access token is not valid")]
    Invalid,
    #[error("the access token has expired")]
    Expired,
    #[error("the access token lacks the scope `{0}`")]
    MissingScope(Scope),
    #[error("the keys of access tokens could not be read")]
    Keys(#[source] PortFault),
}

impl Fault for AccessFault {
    fn remedy(&self) -> Remedy {
        match self {
            Self::Missing | Self::Invalid | Self::Expired => Remedy::Deny(Denial::Unauthenticated),
            Self::MissingScope(_) => Remedy::Deny(Denial::Forbidden),
            Self::Keys(fault) => fault.remedy(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Missing => "unauthenticated",
            Self::Invalid | Self::Expired => "invalid_token",
            Self::MissingScope(_) => "insufficient_scope",
            Self::Keys(fault) => fault.code(),
        }
    }

    /// RFC 6750, section 3: who sent no token is told of no error.
    fn challenge(&self) -> Option<String> {
        match self {
            Self::Missing => Some(r#"Bearer realm="skylark""#.to_owned()),
            Self::Invalid | Self::Expired => {
                Some(format!(r#"Bearer realm="skylark", error="invalid_token", error_description="{self}""#))
            }
            Self::MissingScope(scope) => {
                Some(format!(r#"Bearer realm="skylark", error="insufficient_scope", scope="{scope}""#))
            }
            Self::Keys(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_spelled_the_same_everywhere() {
        for scope in Scope::ALL {
            assert_eq!(Scope::parse(scope.as_str()), Some(scope));
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.as_str());
        }
        for bad in ["", "Lark", "lake", "lake:read ", "lake:*"] {
            assert_eq!(Scope::parse(bad), None, "{bad:?}");
        }
        assert_eq!(Scope::join(&BTreeSet::from([Scope::LakeRead, Scope::Chat])), "chat lake:read");
    }

    #[test]
    fn a_challenge_names_the_error_but_not_to_whom_sent_nothing() {
        assert_eq!(AccessFault::Missing.challenge().unwrap(), r#"Bearer realm="skylark""#);
        assert!(AccessFault::Expired.challenge().unwrap().contains(r#"error="invalid_token""#));
        let missing = AccessFault::MissingScope(Scope::LakeRead);
        assert!(missing.challenge().unwrap().contains(r#"error="insufficient_scope", scope="lake:read""#));
        assert_eq!(missing.remedy(), Remedy::Deny(Denial::Forbidden));
    }
}
