//! Randomness: the one place where it enters.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::id::{Ids, SessionId};
use uuid::Uuid;

/// A random (version 4) UUID.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the edge where randomness enters")]
pub fn uuid() -> Uuid {
    Uuid::new_v4()
}

/// Random ids.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomIds;

impl Ids for RandomIds {
    #[expect(clippy::expect_used, reason = "a UUID in its usual form is what a session id is")]
    fn session_id(&self) -> SessionId {
        SessionId::parse(uuid().to_string()).expect("a UUID is a session id")
    }
}

/// A secret of 256 bits in 43 URL-safe characters: a `state`, a PKCE verifier.
pub fn secret() -> Result<String, Unspecified> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The SHA-256 of a secret in 43 URL-safe characters: what may be stored of it.
#[must_use]
pub fn hash(secret: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, secret.as_bytes()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_hash_is_the_s256_challenge_of_rfc_7636() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(super::hash(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
