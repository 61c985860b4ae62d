//! Envelope encryption: secrets sealed with AES-256-GCM under data keys that KMS, or a key file, wraps.
//!
//! A record is `{"v":1,"kid":..,"edk":..,"nonce":..,"ct":..}`: the name of the master key, and in base64 the wrapped data key, a random 96-bit
//! nonce, and the ciphertext with its tag. The whole [`SealContext`](domain::seal::SealContext) and `kid` are authenticated with the
//! ciphertext; the part of the context that many records share (all but the person or attempt) is the encryption context of the data key, so
//! one data key serves a tenant for [`KEY_LIFE`] or [`KEY_USES`].
//!
//! A vault opens with several master keys and seals with the first: a key is rotated by putting another one before it, sealing anew what it
//! had sealed ([`Sealer::rewrap`](domain::seal::Sealer::rewrap)), and taking it off the list.
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

/// Why a setting makes no vault.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    #[error("the vault's key setting must name a key, or several with commas between them; one is empty")]
    Empty,
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
}

#[cfg(feature = "kms")]
impl Vault {
    /// The vault that a setting names: with commas between them, the key that seals and then the others that open. Each is `file:<path>` for
    /// a key file that is there, anything else a KMS key or alias.
    pub fn from_setting(setting: &str, client: impl FnOnce() -> aws_sdk_kms::Client) -> Result<Self, SettingError> {
        let client = std::cell::LazyCell::new(client);
        let mut keys = setting.split(',').map(|entry| -> Result<Box<dyn KeyService>, SettingError> {
            match (entry.trim(), entry.trim().strip_prefix(KEY_FILE_PREFIX)) {
                ("", _) => Err(SettingError::Empty),
                (_, Some(path)) => Ok(Box::new(KeyFile::read(std::path::Path::new(path))?)),
                (key_id, None) => Ok(Box::new(Kms::new((*client).clone(), key_id.to_owned()))),
            }
        });
        let current = keys.next().ok_or(SettingError::Empty)??;
        keys.try_fold(Self::new(current), |vault, earlier| Ok(vault.opening_too(earlier?)))
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

#[cfg(all(test, feature = "kms"))]
mod tests {
    use domain::id::AppId;
    use domain::seal::{SealContext, Sealer as _};

    use super::*;

    fn kms() -> aws_sdk_kms::Client {
        let config = aws_sdk_kms::Config::builder().behavior_version(aws_sdk_kms::config::BehaviorVersion::latest());
        aws_sdk_kms::Client::from_conf(config.build())
    }

    #[tokio::test]
    async fn a_setting_lists_the_key_that_seals_and_then_those_that_open() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            KeyFile::create_if_missing(&path).unwrap();
            format!("{KEY_FILE_PREFIX}{}", path.display())
        };
        let (old, new) = (file("old.key"), file("新.key"));
        let unasked = || -> aws_sdk_kms::Client { unreachable!("no KMS key is named") };
        let (app, secret) = (AppId::parse("cli_a").unwrap(), b"s".to_vec().into());
        let place = SealContext::App(&app);
        let before = Vault::from_setting(&old, unasked).unwrap().seal(place, &secret).await.unwrap();
        let rotated = Vault::from_setting(&format!("{new}, {old}"), unasked).unwrap();
        let anew = rotated.rewrap(place, &before).await.unwrap().unwrap();
        Vault::from_setting(&new, unasked).unwrap().open(place, &anew).await.unwrap();

        let mixed = format!("arn:aws:kms:eu-west-1:1:key/2a-b,{old},alias/skylark");
        Vault::from_setting(&mixed, kms).unwrap().open(place, &before).await.unwrap();
        for setting in ["", " ", ",", "alias/a,", ",alias/a"] {
            assert!(matches!(Vault::from_setting(setting, kms), Err(SettingError::Empty)), "{setting:?}");
        }
        let missing = Vault::from_setting("alias/a,file:/nowhere/vault.key", kms).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/vault.key"), "{missing}");
    }

    #[test]
    fn a_kms_key_goes_by_its_id() {
        for (setting, id) in [
            ("arn:aws:kms:eu-west-1:1:key/2a-b", "2a-b"),
            ("2a-b", "2a-b"),
            ("arn:aws-cn:kms:cn-north-1:1:key/mrk-7", "mrk-7"),
            ("alias/skylark", "alias/skylark"),
        ] {
            assert_eq!(Kms::new(kms(), setting.to_owned()).id(), id);
        }
    }
}
