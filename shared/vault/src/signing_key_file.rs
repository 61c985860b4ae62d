//! A signing service for one machine: RSA keys in files that only their owner reads.

use std::fmt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use domain::fault::PortFault;

use crate::access::SigningService;
use crate::key_file::{KeyFileError, read_file, write_once};

/// RSA keys held in memory; the first signs.
pub struct SigningKeyFiles {
    keys: Vec<KeyPair>,
}

impl fmt::Debug for SigningKeyFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKeyFiles([redacted])")
    }
}

impl SigningKeyFiles {
    /// Reads the keys.
    pub fn read(paths: &[PathBuf]) -> Result<Self, KeyFileError> {
        let read = |path: &PathBuf| {
            let key = read_file(path)?;
            KeyPair::from_pkcs8(&key).map_err(|_| KeyFileError::Malformed { path: path.clone() })
        };
        Ok(Self { keys: paths.iter().map(read).collect::<Result<_, _>>()? })
    }

    /// Makes a new RSA key of 2048 bits (PKCS #8 in base64), readable by its owner only, unless the file is there already.
    pub fn create_if_missing(path: &Path) -> Result<(), KeyFileError> {
        if path.exists() {
            return Ok(());
        }
        let fault =
            |cause: &'static str| KeyFileError::Io { path: path.to_owned(), cause: std::io::Error::other(cause) };
        let key = KeyPair::generate(KeySize::Rsa2048).map_err(|_| fault("no key can be made"))?;
        let key = key.as_der().map_err(|_| fault("the key cannot be written"))?;
        write_once(path, &BASE64.encode(key.as_ref()))
    }
}

fn broken(detail: &str) -> PortFault {
    PortFault::Broken { operation: "Sign", detail: detail.to_owned() }
}

#[async_trait]
impl SigningService for SigningKeyFiles {
    async fn public_keys(&self) -> Result<Vec<Vec<u8>>, PortFault> {
        Ok(self.keys.iter().map(|key| key.public_key().as_ref().to_vec()).collect())
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, PortFault> {
        let key = self.keys.first().ok_or_else(|| broken("there is no key"))?;
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
            .map_err(|_| broken("signing failed"))?;
        Ok(signature)
    }
}
