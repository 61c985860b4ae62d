//! Envelope encryption: secrets sealed with AES-256-GCM under data keys that KMS, or a key file, wraps.
//!
//! A record is `{"v":1,"edk":..,"nonce":..,"ct":..}` with base64 values: the wrapped data key, a random 96-bit nonce, and the ciphertext
//! with its tag. The whole [`SealContext`] is authenticated with the ciphertext; the part of it that many records share (all but the
//! person or attempt) is the encryption context of the data key, so one data key serves a tenant for [`KEY_LIFE`] or [`KEY_USES`].

mod envelope;
mod key_file;
#[cfg(feature = "kms")]
mod kms;

pub use envelope::{DataKey, KEY_LIFE, KEY_USES, KeyService, Vault};
pub use key_file::{KeyFile, KeyFileError};
#[cfg(feature = "kms")]
pub use kms::Kms;

/// The prefix of a key setting that names a key file instead of a KMS key.
pub const KEY_FILE_PREFIX: &str = "file:";

#[cfg(feature = "kms")]
impl Vault {
    /// The vault that a setting names: `file:<path>` for a key file that is there, anything else for a KMS key or alias.
    pub fn from_setting(setting: &str, client: impl FnOnce() -> aws_sdk_kms::Client) -> Result<Self, KeyFileError> {
        let service: Box<dyn KeyService> = match setting.strip_prefix(KEY_FILE_PREFIX) {
            Some(path) => Box::new(KeyFile::read(std::path::Path::new(path))?),
            None => Box::new(Kms::new(client(), setting.to_owned())),
        };
        Ok(Self::new(service))
    }
}
