//! Envelope encryption: secrets sealed with AES-256-GCM under data keys that KMS, or a key file, wraps.
//!
//! A record is `{"v":1,"edk":..,"nonce":..,"ct":..}` with base64 values: the wrapped data key, a random 96-bit nonce, and the ciphertext
//! with its tag. The whole [`SealContext`] is authenticated with the ciphertext; the part of it that many records share (all but the
//! person or attempt) is the encryption context of the data key, so one data key serves a tenant for [`KEY_LIFE`] or [`KEY_USES`].
//!
//! Beside it, the keys of Skylark's own API: access tokens signed under RSA keys that KMS, or key files, hold, and refresh tokens.

mod access;
mod envelope;
mod key_file;
#[cfg(feature = "kms")]
mod kms;
mod refresh;
mod signing_key_file;
#[cfg(feature = "kms")]
mod signing_kms;

pub use access::{AccessTokens, SigningService};
pub use envelope::{DataKey, KEY_LIFE, KEY_USES, KeyService, Vault};
pub use key_file::{KeyFile, KeyFileError};
#[cfg(feature = "kms")]
pub use kms::Kms;
pub use refresh::RefreshKeys;
pub use signing_key_file::SigningKeyFiles;
#[cfg(feature = "kms")]
pub use signing_kms::KmsSigner;

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

#[cfg(feature = "kms")]
impl AccessTokens {
    /// Tokens under the keys that a setting names, separated by commas: the first signs, all verify. `file:<path>` is a key file that is
    /// there; KMS keys and key files do not mix.
    pub fn from_setting(
        setting: &str,
        issuer: Option<String>,
        client: impl FnOnce() -> aws_sdk_kms::Client,
    ) -> Result<Self, KeyFileError> {
        let names = || setting.split(',').map(str::trim).filter(|name| !name.is_empty());
        let files: Option<Vec<_>> = names().map(|name| name.strip_prefix(KEY_FILE_PREFIX).map(Into::into)).collect();
        let service: Box<dyn SigningService> = match files {
            Some(paths) => Box::new(SigningKeyFiles::read(&paths)?),
            None => Box::new(KmsSigner::new(client(), names().map(str::to_owned).collect())),
        };
        Ok(Self::new(service, issuer))
    }
}
