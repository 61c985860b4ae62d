//! Refresh tokens: their hashes, and successors sealed so that only the token that they replace opens them.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use domain::oauth::{RefreshSeal, RefreshToken, SecretHash};
use domain::seal::{SealFault, Sealed};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};

use crate::envelope::broken;

/// Separates these keys from any other use of the same token.
const PURPOSE: &[u8] = b"skylark refresh successor 1";

/// The cryptography of refresh tokens; it holds no key.
#[derive(Debug, Clone, Copy)]
pub struct RefreshKeys;

/// A key that only the token gives: 256 random bits are in it, so HKDF is all it needs.
fn key(token: &RefreshToken) -> Result<LessSafeKey, SealFault> {
    let secret = Salt::new(HKDF_SHA256, PURPOSE).extract(token.text.expose_secret().as_bytes());
    let info = [token.family_id.as_str().as_bytes()];
    let key = secret.expand(&info, &AES_256_GCM).map_err(|_| broken("deriving a key failed"))?;
    Ok(LessSafeKey::new(UnboundKey::from(key)))
}

impl RefreshSeal for RefreshKeys {
    fn hash(&self, secret: &str) -> SecretHash {
        SecretHash(BASE64URL.encode(digest(&SHA256, secret.as_bytes())))
    }

    fn seal(&self, token: &RefreshToken, successor: &RefreshToken) -> Result<Sealed, SealFault> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| broken("no randomness"))?;
        let mut text = Zeroizing::new(successor.text.expose_secret().as_bytes().to_vec());
        let aad = Aad::from(token.family_id.as_str());
        let tag = key(token)?
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, text.as_mut_slice())
            .map_err(|_| broken("sealing failed"))?;
        Ok(Sealed(BASE64URL.encode([nonce.as_slice(), text.as_slice(), tag.as_ref()].concat())))
    }

    fn open(&self, token: &RefreshToken, sealed: &Sealed) -> Result<SecretString, SealFault> {
        let bytes = BASE64URL.decode(&sealed.0).map_err(|_| SealFault::Damaged)?;
        let (nonce, text) = bytes.split_at_checked(NONCE_LEN).ok_or(SealFault::Damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealFault::Damaged)?;
        let mut text = Zeroizing::new(text.to_vec());
        let aad = Aad::from(token.family_id.as_str());
        let open = key(token)?.open_in_place(nonce, aad, &mut text).map_err(|_| SealFault::Damaged)?;
        let open = std::str::from_utf8(open).map_err(|_| SealFault::Damaged)?;
        Ok(open.into())
    }
}

#[cfg(test)]
mod tests {
    use domain::id::FamilyId;

    use super::*;

    fn token(family: &str, secret: &str) -> RefreshToken {
        let family = FamilyId::parse(family).unwrap();
        RefreshToken::compose(&family, &"a".repeat(43).into(), &secret.repeat(43).into())
    }

    const ONE: &str = "00000000-0000-4000-8000-000000000001";
    const TWO: &str = "00000000-0000-4000-8000-000000000002";

    #[test]
    fn a_successor_opens_with_the_token_that_it_replaces_and_with_no_other() {
        let (old, new) = (token(ONE, "o"), token(ONE, "n"));
        let sealed = RefreshKeys.seal(&old, &new).unwrap();
        assert!(!sealed.0.contains("nnn"));
        assert_eq!(RefreshKeys.open(&old, &sealed).unwrap().expose_secret(), new.text.expose_secret());
        for other in [&new, &token(TWO, "o"), &token(ONE, "p")] {
            assert!(matches!(RefreshKeys.open(other, &sealed), Err(SealFault::Damaged)));
        }
        assert_ne!(sealed, RefreshKeys.seal(&old, &new).unwrap());
    }

    #[test]
    fn a_changed_record_does_not_open() {
        let (old, new) = (token(ONE, "o"), token(ONE, "n"));
        let sealed = RefreshKeys.seal(&old, &new).unwrap();
        let bytes = BASE64URL.decode(&sealed.0).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(RefreshKeys.open(&old, &Sealed(BASE64URL.encode(changed))).is_err(), "byte {at}");
        }
        for bad in ["", "AAAA", "?"] {
            assert!(RefreshKeys.open(&old, &Sealed(bad.to_owned())).is_err(), "{bad:?}");
        }
    }
}
