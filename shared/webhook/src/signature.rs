//! The signature of Standard Webhooks: HMAC-SHA256 over id, time and body.

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign, verify};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::{ExposeSecret, SecretSlice};

/// What a secret begins with where people copy it.
pub const SECRET_PREFIX: &str = "whsec_";

/// How many bytes a secret has.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// What a connector signs with.
pub struct Secret(Key);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

/// Why a text is no secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a webhook's secret must be `{SECRET_PREFIX}` and 24 to 64 bytes in base64")]
pub struct SecretFault;

impl Secret {
    /// The bytes as they are sealed.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Key::new(HMAC_SHA256, bytes))
    }

    /// The bytes of a secret as people copy it.
    pub fn read(text: &str) -> Result<SecretSlice<u8>, SecretFault> {
        let bytes = text.strip_prefix(SECRET_PREFIX).and_then(|encoded| BASE64.decode(encoded).ok());
        bytes.filter(|bytes| BYTES.contains(&bytes.len())).map(Into::into).ok_or(SecretFault)
    }

    /// A secret as people copy it.
    #[must_use]
    pub fn write(bytes: &SecretSlice<u8>) -> String {
        format!("{SECRET_PREFIX}{}", BASE64.encode(bytes.expose_secret()))
    }

    /// The value of `webhook-signature`.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let tag = sign(&self.0, &signed(id, timestamp, body));
        format!("v1,{}", BASE64.encode(tag.as_ref()))
    }

    /// Whether one of the signatures in a `webhook-signature` is this secret's.
    #[must_use]
    pub fn verifies(&self, id: &str, timestamp: i64, body: &[u8], signatures: &str) -> bool {
        let signed = signed(id, timestamp, body);
        let tags = signatures.split(' ').filter_map(|one| BASE64.decode(one.strip_prefix("v1,")?).ok());
        tags.into_iter().any(|tag| verify(&self.0, &signed, &tag).is_ok())
    }
}

fn signed(id: &str, timestamp: i64, body: &[u8]) -> Vec<u8> {
    [format!("{id}.{timestamp}.").as_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification.
    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;

    #[test]
    fn the_example_of_the_specification_verifies() {
        let secret = Secret::of(Secret::read(SECRET).unwrap().expose_secret());
        let signature = secret.sign(ID, 1_649_367_553, BODY);
        assert!(secret.verifies(ID, 1_649_367_553, BODY, &format!("v1,AAAA {signature}")));
        assert!(!secret.verifies(ID, 1_649_367_554, BODY, &signature));
        assert!(!secret.verifies("msg_2", 1_649_367_553, BODY, &signature));
        assert!(!secret.verifies(ID, 1_649_367_553, b"{}", &signature));
        assert!(!secret.verifies(ID, 1_649_367_553, BODY, signature.trim_start_matches("v1,")));
        assert!(!Secret::of(b"another").verifies(ID, 1_649_367_553, BODY, &signature));
    }

    #[test]
    fn a_secret_reads_back_and_a_weak_one_is_none() {
        assert_eq!(Secret::write(&Secret::read(SECRET).unwrap()), SECRET);
        for bad in ["", "whsec_", "C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_c2hvcnQ=", "whsec_密钥"] {
            assert_eq!(Secret::read(bad).unwrap_err(), SecretFault, "{bad}");
        }
    }
}
