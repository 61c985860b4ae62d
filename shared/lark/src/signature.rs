//! Signatures and encryption of pushed bodies, both directions: what a receiver verifies and opens, and what a stand-in for the vendor makes.

use aes::Aes256;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt as _, BlockModeEncrypt as _, KeyIvInit as _};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

const BLOCK_BYTES: usize = 16;

/// The `X-Lark-Signature` of events and of `card.action.trigger`. `raw_body` is the body as sent, before any decryption.
#[must_use]
pub fn sha256_hex(timestamp: &str, nonce: &str, encrypt_key: &str, raw_body: &[u8]) -> String {
    hex::encode(digest::<Sha256>(timestamp, nonce, encrypt_key, raw_body))
}

/// The `X-Lark-Signature` of the old card callback, made with the verification token.
#[must_use]
pub fn sha1_hex(timestamp: &str, nonce: &str, verification_token: &str, raw_body: &[u8]) -> String {
    hex::encode(digest::<Sha1>(timestamp, nonce, verification_token, raw_body))
}

/// Whether `signature` is the SHA-256 signature of these bytes; takes the same time wherever they differ.
#[must_use]
pub fn verify_sha256(signature: &str, timestamp: &str, nonce: &str, encrypt_key: &str, raw_body: &[u8]) -> bool {
    let mut expected = [0; 64];
    hex::encode_to_slice(digest::<Sha256>(timestamp, nonce, encrypt_key, raw_body), &mut expected).is_ok()
        && same(signature, &expected)
}

/// Whether `signature` is the SHA-1 signature of these bytes; takes the same time wherever they differ.
#[must_use]
pub fn verify_sha1(signature: &str, timestamp: &str, nonce: &str, verification_token: &str, raw_body: &[u8]) -> bool {
    let mut expected = [0; 40];
    hex::encode_to_slice(digest::<Sha1>(timestamp, nonce, verification_token, raw_body), &mut expected).is_ok()
        && same(signature, &expected)
}

fn digest<D: Digest>(timestamp: &str, nonce: &str, secret: &str, raw_body: &[u8]) -> impl AsRef<[u8]> {
    D::new()
        .chain_update(timestamp.as_bytes())
        .chain_update(nonce.as_bytes())
        .chain_update(secret.as_bytes())
        .chain_update(raw_body)
        .finalize()
}

/// Compares two secrets in constant time; only their lengths can be learnt.
pub(crate) fn same(given: &str, expected: &[u8]) -> bool {
    given.as_bytes().ct_eq(expected).into()
}

/// Why a body could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecryptError {
    #[error("ciphertext is not standard base64")]
    Base64,
    #[error("ciphertext is not an IV and at least one whole block")]
    Length,
    /// The key is another one, or the bytes were changed.
    #[error("padding is wrong")]
    Padding,
}

/// Opens the value of `encrypt`: base64 of IV and AES-256-CBC ciphertext under the SHA-256 of the Encrypt Key.
///
/// CBC proves nothing about who wrote the bytes: a changed IV changes the first block unnoticed. Only a signature does.
///
/// # Errors
/// Says which step failed. A wrong key is found by its padding in all but 1 of 256 cases, else it yields noise.
pub fn decrypt(encrypt_key: &str, ciphertext: &str) -> Result<Vec<u8>, DecryptError> {
    let mut bytes = STANDARD.decode(ciphertext).map_err(|_| DecryptError::Base64)?;
    if bytes.len() < 2 * BLOCK_BYTES || bytes.len() % BLOCK_BYTES != 0 {
        return Err(DecryptError::Length);
    }
    let (iv, blocks) = bytes.split_first_chunk_mut::<BLOCK_BYTES>().ok_or(DecryptError::Length)?;
    let key = Sha256::digest(encrypt_key.as_bytes());
    let plaintext_bytes = cbc::Decryptor::<Aes256>::new(&key, &(*iv).into())
        .decrypt_padded::<Pkcs7>(blocks)
        .map_err(|_| DecryptError::Padding)?
        .len();
    bytes.copy_within(BLOCK_BYTES..BLOCK_BYTES + plaintext_bytes, 0);
    bytes.truncate(plaintext_bytes);
    Ok(bytes)
}

/// Makes the value of `encrypt`, as the vendor does. The IV must be random for each body.
#[must_use]
pub fn encrypt(encrypt_key: &str, iv: [u8; BLOCK_BYTES], plaintext: &[u8]) -> String {
    let key = Sha256::digest(encrypt_key.as_bytes());
    let mut bytes = iv.to_vec();
    bytes.extend(cbc::Encryptor::<Aes256>::new(&key, &iv.into()).encrypt_padded_vec::<Pkcs7>(plaintext));
    STANDARD.encode(bytes)
}
