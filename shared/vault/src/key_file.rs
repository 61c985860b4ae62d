//! A key service for one machine: a 256-bit master key in a file that only its owner reads.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce};
use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use domain::fault::PortFault;
use domain::seal::SealFault;
use secrecy::zeroize::Zeroizing;

use crate::envelope::{DataKey, KeyService, canonical, cipher};

const KEY_BYTES: usize = 32;

/// So many bytes of its SHA-256 tell one master key from another.
const ID_BYTES: usize = 8;

/// A master key held in memory.
pub struct KeyFile {
    id: String,
    master: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyFile([redacted])")
    }
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("key file `{}` cannot be read or made", path.display())]
    Io {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("key file `{}` does not hold such a key in base64", path.display())]
    Malformed { path: PathBuf },
    /// A list of keys could not name it.
    #[error("the path of key file `{}` has a comma in it", path.display())]
    Comma { path: PathBuf },
}

impl KeyFile {
    #[must_use]
    pub fn from_bytes(master: [u8; KEY_BYTES]) -> Self {
        Self::of(Zeroizing::new(master.to_vec()))
    }

    fn of(master: Zeroizing<Vec<u8>>) -> Self {
        let sum = digest::digest(&digest::SHA256, &master);
        let id = sum.as_ref().iter().take(ID_BYTES).map(|byte| format!("{byte:02x}")).collect();
        Self { id, master }
    }

    /// Reads the key.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let master = read_file(path)?;
        if master.len() == KEY_BYTES {
            Ok(Self::of(master))
        } else {
            Err(KeyFileError::Malformed { path: path.to_owned() })
        }
    }

    /// Makes a new key, readable by its owner only, unless the file is there already.
    pub fn create_if_missing(path: &Path) -> Result<(), KeyFileError> {
        let fault = |cause| KeyFileError::Io { path: path.to_owned(), cause };
        if path.to_string_lossy().contains(',') {
            return Err(KeyFileError::Comma { path: path.to_owned() });
        }
        if path.exists() {
            return Ok(());
        }
        let mut master = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(master.as_mut_slice()).map_err(|_| fault(io::Error::other("no randomness")))?;
        write_once(path, &BASE64.encode(master.as_slice()))
    }
}

/// Reads what [`write_once`] wrote: base64.
pub(crate) fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let text = fs::read_to_string(path).map(Zeroizing::new);
    let text = text.map_err(|cause| KeyFileError::Io { path: path.to_owned(), cause })?;
    BASE64.decode(text.trim()).map(Zeroizing::new).map_err(|_| KeyFileError::Malformed { path: path.to_owned() })
}

/// Writes a key that only its owner reads, unless there is one: a crash leaves no half key, and of two makers the first one's key stays.
pub(crate) fn write_once(path: &Path, key: &str) -> Result<(), KeyFileError> {
    let fault = |cause| KeyFileError::Io { path: path.to_owned(), cause };
    let aside = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside).map_err(fault)?;
    file.write_all(key.as_bytes()).and_then(|()| file.sync_all()).map_err(fault)?;
    let linked = fs::hard_link(&aside, path);
    fs::remove_file(&aside).map_err(fault)?;
    match linked {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(fault(cause)),
        _ => Ok(()),
    }
}

#[async_trait]
impl KeyService for KeyFile {
    fn id(&self) -> &str {
        &self.id
    }

    async fn generate(&self, context: &BTreeMap<&str, &str>) -> Result<DataKey, PortFault> {
        let broken = |detail: &str| PortFault::Broken { operation: "GenerateDataKey", detail: detail.to_owned() };
        let mut plain = Zeroizing::new(vec![0; KEY_BYTES]);
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut plain).and_then(|()| rand::fill(&mut nonce)).map_err(|_| broken("no randomness"))?;
        let mut text = plain.to_vec();
        cipher(&self.master)
            .map_err(|_| broken("the master key has a wrong length"))?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(canonical(context)), &mut text)
            .map_err(|_| broken("sealing failed"))?;
        let wrapped = [nonce.as_slice(), &text].concat();
        Ok(DataKey { plain, wrapped })
    }

    async fn unwrap(&self, context: &BTreeMap<&str, &str>, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealFault> {
        let (nonce, text) = wrapped.split_at_checked(NONCE_LEN).ok_or(SealFault::Damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealFault::Damaged)?;
        let mut text = Zeroizing::new(text.to_vec());
        let aad = Aad::from(canonical(context));
        let length = cipher(&self.master)?.open_in_place(nonce, aad, &mut text).map_err(|_| SealFault::Damaged)?.len();
        text.truncate(length);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_stays_and_only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.key");
        KeyFile::create_if_missing(&path).unwrap();
        let first = fs::read(&path).unwrap();
        KeyFile::create_if_missing(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        KeyFile::read(&path).unwrap();
    }

    #[test]
    fn each_key_has_a_name_that_tells_nothing_of_it() {
        let (one, two) = (KeyFile::from_bytes([1; 32]), KeyFile::from_bytes([2; 32]));
        // The first bytes of `printf '\\1%.0s' {1..32} | sha256sum`.
        assert_eq!(one.id(), "72cd6e8422c407fb");
        assert_ne!(one.id(), two.id());
        assert_eq!(one.id(), KeyFile::from_bytes([1; 32]).id());
    }

    #[test]
    fn a_path_that_a_list_could_not_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let fault = KeyFile::create_if_missing(&folder.path().join("a,b.key")).unwrap_err();
        assert!(fault.to_string().contains("a,b.key") && fault.to_string().contains("comma"), "{fault}");
    }

    #[test]
    fn a_damaged_key_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.key");
        fs::write(&path, "c2hvcnQ=").unwrap();
        assert!(KeyFile::read(&path).unwrap_err().to_string().contains("vault.key"));
    }
}
