//! The digests S3 knows: MD5 for ETags, and the checksums a client may declare for a body, a part or a whole object.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::CrcAlgorithm;
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::Sha256;

/// The checksum algorithms of S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    /// The header or trailer that carries a value of this algorithm.
    pub(crate) fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// CRCs of parts can be combined into the CRC of the whole; hashes cannot.
    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    /// What S3 takes when a multipart upload names an algorithm but no type.
    pub(crate) fn default_kind(self) -> Kind {
        if self == Self::Crc64Nvme { Kind::FullObject } else { Kind::Composite }
    }

    /// CRC64NVME exists only for whole objects, SHA-1 and SHA-256 of multipart uploads only as composites.
    pub(crate) fn allows(self, kind: Kind) -> bool {
        match kind {
            Kind::FullObject => self.crc().is_some(),
            Kind::Composite => self != Self::Crc64Nvme,
        }
    }
}

/// Whether a multipart object's checksum covers its bytes or the checksums of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Kind {
    FullObject,
    Composite,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FullObject => "FULL_OBJECT",
            Self::Composite => "COMPOSITE",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::FullObject, Self::Composite].into_iter().find(|kind| kind.name() == name)
    }
}

/// The one checksum that is stored with an object or a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checksum {
    pub(crate) algorithm: Algorithm,
    pub(crate) kind: Kind,
    /// Base64, followed by `-` and the number of parts when composite.
    pub(crate) value: String,
}

/// Computes MD5, the length and any set of checksums in one pass.
pub(crate) struct Hasher {
    size: u64,
    md5: Md5,
    sums: Vec<(Algorithm, Sum)>,
}

enum Sum {
    Crc(crc_fast::Digest),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Sum {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm.crc() {
            Some(crc) => Self::Crc(crc_fast::Digest::new(crc)),
            None if algorithm == Algorithm::Sha1 => Self::Sha1(Sha1::new()),
            None => Self::Sha256(Sha256::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc(digest) => digest.update(bytes),
            Self::Sha1(digest) => digest.update(bytes),
            Self::Sha256(digest) => digest.update(bytes),
        }
    }

    fn finish(self, algorithm: Algorithm) -> String {
        match self {
            Self::Crc(digest) => encode_crc(algorithm, digest.finalize()),
            Self::Sha1(digest) => BASE64.encode(digest.finalize()),
            Self::Sha256(digest) => BASE64.encode(digest.finalize()),
        }
    }
}

impl Hasher {
    pub(crate) fn new(algorithms: &[Algorithm]) -> Self {
        let mut sums: Vec<(Algorithm, Sum)> = Vec::with_capacity(algorithms.len());
        for algorithm in algorithms {
            if sums.iter().all(|(known, _)| known != algorithm) {
                sums.push((*algorithm, Sum::new(*algorithm)));
            }
        }
        Self { size: 0, md5: Md5::new(), sums }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.md5.update(bytes);
        for (_, sum) in &mut self.sums {
            sum.update(bytes);
        }
    }

    pub(crate) fn finish(self) -> Digests {
        Digests {
            size: self.size,
            md5: self.md5.finalize().into(),
            sums: self.sums.into_iter().map(|(algorithm, sum)| (algorithm, sum.finish(algorithm))).collect(),
        }
    }
}

/// What a [`Hasher`] saw.
#[derive(Debug, Clone)]
pub(crate) struct Digests {
    pub(crate) size: u64,
    pub(crate) md5: [u8; 16],
    sums: Vec<(Algorithm, String)>,
}

impl Digests {
    /// `None` if the algorithm was not asked for.
    pub(crate) fn value(&self, algorithm: Algorithm) -> Option<&str> {
        self.sums.iter().find(|(known, _)| *known == algorithm).map(|(_, value)| value.as_str())
    }

    pub(crate) fn checksum(&self, algorithm: Algorithm) -> Option<Checksum> {
        let value = self.value(algorithm)?.to_owned();
        Some(Checksum { algorithm, kind: Kind::FullObject, value })
    }

    pub(crate) fn etag(&self) -> String {
        hex::encode(self.md5)
    }

    pub(crate) fn content_md5(&self) -> String {
        BASE64.encode(self.md5)
    }
}

fn encode_crc(algorithm: Algorithm, value: u64) -> String {
    let bytes = value.to_be_bytes();
    let width = if algorithm == Algorithm::Crc64Nvme { 8 } else { 4 };
    BASE64.encode(bytes.split_at(bytes.len() - width).1)
}

fn decode_crc(value: &str) -> Option<u64> {
    let bytes = BASE64.decode(value).ok()?;
    (bytes.len() <= 8).then(|| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

/// The checksum of an object from those of its parts, in order, with their lengths; without reading the bytes.
///
/// `None` if a part's value cannot be decoded or the algorithm does not allow the kind.
pub(crate) fn of_parts(algorithm: Algorithm, kind: Kind, parts: &[(&str, u64)]) -> Option<Checksum> {
    let value = match kind {
        Kind::FullObject => {
            let crc = algorithm.crc()?;
            let mut whole = crc_fast::Digest::new(crc).finalize();
            for (value, size) in parts {
                whole = crc_fast::checksum_combine(crc, whole, decode_crc(value)?, *size);
            }
            encode_crc(algorithm, whole)
        }
        Kind::Composite => {
            let mut hasher = Sum::new(algorithm);
            for (value, _) in parts {
                hasher.update(&BASE64.decode(value).ok()?);
            }
            format!("{}-{}", hasher.finish(algorithm), parts.len())
        }
    };
    Some(Checksum { algorithm, kind, value })
}

/// `md5-of-md5s-N`. `None` if a part's ETag is not an MD5.
pub(crate) fn etag_of_parts<'a>(etags: impl ExactSizeIterator<Item = &'a str>) -> Option<String> {
    let count = etags.len();
    let mut md5 = Md5::new();
    for etag in etags {
        md5.update(hex::decode(etag).ok()?);
    }
    Some(format!("{}-{count}", hex::encode(md5.finalize())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(algorithm: Algorithm, bytes: &[u8]) -> String {
        let mut hasher = Hasher::new(&[algorithm]);
        hasher.update(bytes);
        hasher.finish().value(algorithm).unwrap().to_owned()
    }

    #[test]
    fn known_values_match_the_published_check_words() {
        for (algorithm, expected) in [
            (Algorithm::Crc32, "y/Q5Jg=="),
            (Algorithm::Crc32c, "4waSgw=="),
            (Algorithm::Crc64Nvme, "rosUhgp5mIg="),
            (Algorithm::Sha1, "98O8HYCOBHMq32eZZczDTKeuNEE="),
            (Algorithm::Sha256, "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
        ] {
            assert_eq!(sum(algorithm, b"123456789"), expected, "{algorithm:?}");
        }
    }

    #[test]
    fn a_composite_is_the_hash_of_the_raw_part_digests() {
        let parts = [sum(Algorithm::Sha256, b"a"), sum(Algorithm::Sha256, b"b")];
        let whole = of_parts(Algorithm::Sha256, Kind::Composite, &[(&parts[0], 1), (&parts[1], 1)]).unwrap();
        let raw: Vec<u8> = parts.iter().flat_map(|part| BASE64.decode(part).unwrap()).collect();
        assert_eq!(whole.value, format!("{}-2", sum(Algorithm::Sha256, &raw)));
        assert!(of_parts(Algorithm::Sha256, Kind::FullObject, &[(&parts[0], 1)]).is_none());
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_combines_to_the_crc_of_the_whole(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2_000), 1..12),
        ) {
            for algorithm in [Algorithm::Crc64Nvme, Algorithm::Crc32, Algorithm::Crc32c] {
                let sums: Vec<(String, u64)> =
                    parts.iter().map(|part| (sum(algorithm, part), part.len() as u64)).collect();
                let borrowed: Vec<(&str, u64)> = sums.iter().map(|(value, size)| (value.as_str(), *size)).collect();
                let whole = of_parts(algorithm, Kind::FullObject, &borrowed).unwrap();
                prop_assert_eq!(whole.value, sum(algorithm, &parts.concat()));
            }
        }
    }
}
