//! The checksums that prove a file: CRC64NVME, which S3 computes and combines from parts, and SHA-256, which only reading the whole proves.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::{CrcAlgorithm, checksum, checksum_combine};
use serde::{Deserialize, Serialize};

/// A CRC64NVME. Written as S3 writes it: eight bytes, the highest first, in Base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Crc64(u64);

/// A text that is no checksum of its kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a checksum of this kind")]
pub struct NotAChecksum;

impl Crc64 {
    pub fn parse(text: &str) -> Result<Self, NotAChecksum> {
        let bytes = BASE64.decode(text).map_err(|_| NotAChecksum)?;
        Ok(Self(u64::from_be_bytes(bytes.try_into().map_err(|_| NotAChecksum)?)))
    }

    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(checksum(CrcAlgorithm::Crc64Nvme, bytes))
    }

    /// Of nothing: what combining begins with.
    #[must_use]
    pub fn empty() -> Self {
        Self::of(&[])
    }

    /// Of these bytes followed by `length` others whose checksum is `next`; nothing is read again.
    #[must_use]
    pub fn followed_by(self, next: Self, length: u64) -> Self {
        Self(checksum_combine(CrcAlgorithm::Crc64Nvme, self.0, next.0, length))
    }
}

impl fmt::Display for Crc64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0.to_be_bytes()))
    }
}

impl TryFrom<String> for Crc64 {
    type Error = NotAChecksum;
    fn try_from(text: String) -> Result<Self, NotAChecksum> {
        Self::parse(&text)
    }
}

impl From<Crc64> for String {
    fn from(crc: Crc64) -> Self {
        crc.to_string()
    }
}

/// A SHA-256. Read in hexadecimal or Base64, written in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256([u8; 32]);

impl Sha256 {
    pub fn parse(text: &str) -> Result<Self, NotAChecksum> {
        let bytes = if text.len() == 64 { hex::decode(text).ok() } else { BASE64.decode(text).ok() };
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(NotAChecksum)
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl TryFrom<String> for Sha256 {
    type Error = NotAChecksum;
    fn try_from(text: String) -> Result<Self, NotAChecksum> {
        Self::parse(&text)
    }
}

impl From<Sha256> for String {
    fn from(sha: Sha256) -> Self {
        sha.to_string()
    }
}

/// Computes a SHA-256 piece by piece.
#[derive(Debug, Default)]
pub struct Sha256Sum(sha2::Sha256);

impl Sha256Sum {
    pub fn add(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.0, bytes);
    }

    #[must_use]
    pub fn finish(self) -> Sha256 {
        Sha256(sha2::Digest::finalize(self.0).into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_values_read_and_are_written_as_s3_writes_them() {
        let crc = Crc64::of(b"123456789");
        assert_eq!(crc.to_string(), "rosUhgp5mIg=");
        assert_eq!(Crc64::parse("rosUhgp5mIg="), Ok(crc));
        for bad in ["", "rosUhgp5mIg", "AAAA", "rosUhgp5mIgA", "你好", "rosUhgp5mIg=\n"] {
            assert_eq!(Crc64::parse(bad), Err(NotAChecksum), "{bad:?}");
        }
    }

    #[test]
    fn a_sha256_reads_in_both_spellings() {
        let hex = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";
        let mut sum = Sha256Sum::default();
        sum.add(b"12345");
        sum.add(b"6789");
        let sha = sum.finish();
        assert_eq!(sha.to_string(), hex);
        assert_eq!(Sha256::parse(hex), Ok(sha));
        assert_eq!(Sha256::parse(&hex.to_uppercase()), Ok(sha));
        assert_eq!(Sha256::parse("FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="), Ok(sha));
        assert_eq!(Sha256::parse(&hex[1..]), Err(NotAChecksum));
    }

    proptest! {
        #[test]
        fn the_parts_of_any_split_combine_to_the_whole(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..500), 0..10),
        ) {
            let whole = parts.iter().fold(Crc64::empty(), |sum, part| sum.followed_by(Crc64::of(part), part.len() as u64));
            prop_assert_eq!(whole, Crc64::of(&parts.concat()));
        }
    }
}
